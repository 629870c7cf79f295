"""Keras 3's models in its own file, a zip of JSON and arrays, opened in its safe mode."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from experiment_tracking.errors import DamagedError, InvalidTypeError, InvalidValueError
from experiment_tracking.formats.models.interface import Form, Wishes, Written
from experiment_tracking.formats.models.saved import Save
from experiment_tracking.formats.models.whole import WholeFormat, is_a, needed, plain_array

_OLDEST = (3, 12)
"""Until then, safe mode could be talked out of itself by the file: CVE-2025-1550, -8747, -9906,
-12058."""


class KerasFormat(WholeFormat):
    """Keras models with any backend, which stays the one that the process has.

    A compiled model keeps its optimizer's state in the same file. Layers of your own come back
    where their class is registered (``keras.saving.register_keras_serializable``) and imported.
    """

    framework = "keras"
    packages = ("keras",)

    def takes(self, model: object) -> bool:
        """Take models."""
        return is_a(model, "keras", "Model")

    def encode(self, model: Any, wishes: Wishes) -> Form:
        """Give Keras' file; the optimizer is the one the model was compiled with."""
        if wishes.optimizer not in (None, getattr(model, "optimizer", None)):
            raise InvalidTypeError(
                "A Keras model is kept with the optimizer that it was compiled with. Leave "
                "optimizer= out."
            )
        return super().encode(model, wishes._replace(optimizer=None))

    def pack(self, model: Any) -> tuple[Written, dict[str, Any]]:
        """Give Keras' file; code of lambdas, which only pickle could keep, is refused."""
        if "__lambda__" in _class_names(model.get_config()):
            raise InvalidValueError(
                f"This {type(model).__name__} holds a Python lambda, which would be kept as code. "
                "Make it a layer of its own (keras.saving.register_keras_serializable)."
            )
        return Written(".keras", "keras", model.save), {"parameter_count": model.count_params()}

    def open(self, save: Save, trusted: Iterable[str]) -> Any:
        """Load the file in safe mode, from a private copy of its checked bytes."""
        keras = self._keras(save)
        with _copied(save) as path:
            return keras.saving.load_model(path, safe_mode=True)

    def fill(self, save: Save, into: Any) -> Any:
        """Have a model of the same layers take the file's weights; no class is looked up."""
        self._keras(save)
        with _copied(save) as path:
            into.load_weights(path)
        return into

    def load_optimizer(self, save: Save, into: Any, scheduler: Any) -> Any:
        """Return the optimizer of the loaded model."""
        if into is not None or scheduler is not None:
            return super().load_optimizer(save, into, scheduler)
        return self.open(save, ()).optimizer

    def run(self, model: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Predict what is given as one batch: arrays by place, or by the names of the inputs.

        An array comes out, or a list or mapping of them where the model gives several.
        """
        import numpy as np

        inputs: Any = dict(named) if named else [np.asarray(each) for each in args]
        outputs = model.predict_on_batch(inputs if named or len(args) > 1 else inputs[0])
        if isinstance(outputs, dict):
            return {name: plain_array(each) for name, each in outputs.items()}
        several = isinstance(outputs, list | tuple)
        return list(map(plain_array, outputs)) if several else plain_array(outputs)

    def device(self, model: Any) -> str:
        """Name the device of the first weight."""
        for weight in model.weights:
            found = getattr(weight.value, "device", "cpu")
            return str(getattr(found, "platform", found))
        return "cpu"

    def _keras(self, save: Save) -> Any:
        keras = needed("keras", self.framework)
        if tuple(map(int, keras.__version__.split(".")[:2])) < _OLDEST:
            raise InvalidValueError(
                f"{save.subject}: Keras {keras.__version__} runs code that a file brings along. "
                "Upgrade it: pip install 'keras>=3.12'."
            )
        return keras


def _class_names(config: Any) -> Iterator[Any]:
    if isinstance(config, Mapping):
        yield config.get("class_name")
    if isinstance(config, Mapping | list | tuple):
        for part in config.values() if isinstance(config, Mapping) else config:
            yield from _class_names(part)


@contextmanager
def _copied(save: Save) -> Iterator[str]:
    """Give Keras, which reads from nothing but a path, one that nobody else can write to."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        with open(path, "wb") as file:
            file.write(save.read("weights"))
        try:
            yield path
        # Layers, optimizers and the zip's reader each raise as they like.
        except Exception as error:
            raise (DamagedError if _is_no_zip(path) else InvalidValueError)(
                f"{save.subject}: Keras does not load it in safe mode ({_reason(error)}). Import "
                "the module of its layers first; restore the file if it was changed."
            ) from error


def _is_no_zip(path: str) -> bool:
    from zipfile import is_zipfile

    return not is_zipfile(path)


def _reason(error: Exception) -> str:
    # Before this, Keras prints the whole configuration.
    return str(error).rpartition("Exception encountered: ")[2][:300]
