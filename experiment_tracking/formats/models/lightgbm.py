"""LightGBM's boosters as its text, its estimators of scikit-learn's kind by skops around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.formats.models.interface import Streamed
from experiment_tracking.formats.models.saved import Save
from experiment_tracking.formats.models.sklearn import opened, packed
from experiment_tracking.formats.models.whole import (
    WholeFormat,
    is_a,
    needed,
    plain_array,
    the_table,
)


class LightgbmFormat(WholeFormat):
    """``lightgbm.Booster``, ``LGBMClassifier`` and the like.

    A booster that stopped early is kept up to its best iteration, which is what it predicts with.
    An estimator comes back as it was, labels and settings included, which the text alone has not.
    """

    framework = "lightgbm"
    packages = ("lightgbm", "sklearn", "skops")

    def takes(self, model: object) -> bool:
        """Take boosters and LightGBM's own estimators."""
        return is_a(model, "lightgbm", "Booster", "LGBMModel")

    def pack(self, model: Any) -> tuple[Streamed, dict[str, Any]]:
        """Give the booster's text, or an estimator as skops' file."""
        if not is_a(model, "lightgbm", "Booster"):
            return packed(model, self.framework)
        text = model.model_to_string().encode()
        return Streamed(".txt", "lightgbm", lambda: [text]), {}

    def open(self, save: Save, trusted: Iterable[str]) -> Any:
        """Make the booster from its text, or build the estimator."""
        lightgbm = needed("lightgbm", self.framework)
        if save.known("weights").get("format") != "lightgbm":
            return opened(save, trusted)
        try:
            text = save.read("weights").tobytes().decode()
            return lightgbm.Booster(model_str=text)
        except (ValueError, lightgbm.basic.LightGBMError) as error:
            raise DamagedError(
                f"{save.subject}: LightGBM cannot read its file ({error}). Restore it from where "
                "it was saved."
            ) from error

    def run(self, model: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Predict: of a matrix, a table of pandas' or columns by name, an array."""
        return plain_array(model.predict(the_table(args, named)))
