"""Anything at all, by cloudpickle: the one module that opens pickles, which can run any code.

``log_model`` comes here only with ``allow_unsafe=True``, and so does ``load_model``, by what
``model.json`` says of the framework; no other format falls back to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from experiment_tracking.errors import InvalidTypeError
from experiment_tracking.formats.models.interface import Streamed
from experiment_tracking.formats.models.saved import Save
from experiment_tracking.formats.models.whole import WholeFormat, needed


class PickledFormat(WholeFormat):
    """Objects of any kind."""

    framework = "cloudpickle"
    packages = ("cloudpickle",)

    def takes(self, model: object) -> bool:
        """Take everything."""
        return True

    def pack(self, model: Any) -> tuple[Streamed, dict[str, Any]]:
        """Give the pickle."""
        cloudpickle = needed("cloudpickle", self.framework)
        try:
            data = cloudpickle.dumps(model)
        # Whatever a __reduce__ raises.
        except Exception as error:
            raise InvalidTypeError(
                f"cloudpickle cannot keep this {type(model).__name__} "
                f"({type(error).__name__}: {error})."
            ) from error
        return Streamed(".pkl", "pickle", lambda: [data]), {}

    def open(self, save: Save, trusted: Iterable[str]) -> Any:
        """Open the pickle, which runs what it says; that it may has been asked before."""
        cloudpickle = needed("cloudpickle", self.framework)
        return cloudpickle.loads(save.read("weights"))

    def run(self, model: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Predict with what can, call everything else."""
        compute = getattr(model, "predict", model)
        return compute(*args, **named) if callable(compute) else super().run(model, args, named)
