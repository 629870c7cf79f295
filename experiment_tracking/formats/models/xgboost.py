"""XGBoost's boosters, and its estimators of scikit-learn's kind, as UBJSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from experiment_tracking.errors import DamagedError, InvalidValueError
from experiment_tracking.formats.models.interface import Written, class_name
from experiment_tracking.formats.models.saved import Save
from experiment_tracking.formats.models.whole import (
    WholeFormat,
    is_a,
    needed,
    plain_array,
    the_table,
)

_ESTIMATORS = ("XGBRFClassifier", "XGBRFRegressor", "XGBClassifier", "XGBRegressor", "XGBRanker")
"""What may be made by name; what derives from another one comes first."""


class XgboostFormat(WholeFormat):
    """``xgboost.Booster``, ``XGBClassifier`` and the like.

    An estimator comes back with its settings where they are plain values; a callback or a loss of
    your own is not kept. A class derived from one of these comes back as that one.
    """

    framework = "xgboost"
    packages = ("xgboost",)

    def takes(self, model: object) -> bool:
        """Take boosters and XGBoost's own estimators."""
        return is_a(model, "xgboost", "Booster", *_ESTIMATORS)

    def pack(self, model: Any) -> tuple[Written, dict[str, Any]]:
        """Give XGBoost's file, and an estimator's name and settings."""
        known: dict[str, Any] = {"estimator": _estimator(model)}
        if known["estimator"]:
            _check_fitted(model)
            known["settings"] = _settings(model)
        return Written(".ubj", "ubj", model.save_model), known

    def open(self, save: Save, trusted: Iterable[str]) -> Any:
        """Make the booster, or an estimator of the closed list around it."""
        xgboost = needed("xgboost", self.framework)
        name = save.document.get("estimator")
        if name is None:
            return self.fill(save, xgboost.Booster())
        settings = save.document.get("settings")
        if name not in _ESTIMATORS or not isinstance(settings, dict):
            raise DamagedError(
                f"{save.subject}: model.json calls it a {name!r:.60}, known are "
                f"{', '.join(_ESTIMATORS)}. Restore model.json."
            )
        made = getattr(xgboost, name)()
        there = made.get_params()
        # What is no attribute goes to the booster; a method must not be replaced.
        settings = {k: v for k, v in settings.items() if k in there or not hasattr(made, k)}
        made.set_params(**settings)
        return self.fill(save, made)

    def fill(self, save: Save, into: Any) -> Any:
        """Have a booster or estimator read the file's bytes."""
        data = save.read("weights")
        try:
            # XGBoost ends the process over a file without a byte.
            if bytes(data[:1]) != b"{":
                raise ValueError("it does not begin with an object")
            into.load_model(bytearray(data))
        except ValueError as error:
            raise DamagedError(
                f"{save.subject}: XGBoost cannot read its file ({error}). Restore it from where "
                "it was saved."
            ) from error
        return into

    def run(self, model: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Predict: of a matrix, a DMatrix, a table of pandas' or columns by name, an array."""
        table = the_table(args, named)
        if is_a(model, "xgboost", "Booster") and not is_a(table, "xgboost", "DMatrix"):
            return plain_array(model.inplace_predict(table))
        return plain_array(model.predict(table))

    def device(self, model: Any) -> str:
        """Name the device that XGBoost is set to."""
        import json

        booster = model if is_a(model, "xgboost", "Booster") else model.get_booster()
        config = json.loads(booster.save_config())
        return str(config["learner"]["generic_param"]["device"])


def _estimator(model: Any) -> str | None:
    return next((name for name in _ESTIMATORS if is_a(model, "xgboost", name)), None)


def _check_fitted(model: Any) -> None:
    if not model.__sklearn_is_fitted__():
        raise InvalidValueError(
            f"This {class_name(model)} has not been fitted: there is nothing to keep. Call fit."
        )


def _settings(model: Any) -> dict[str, Any]:
    """Return the settings that JSON holds; NaN is left out, the default of ``missing``."""
    given = model.get_params().items()
    plain = {name: v.tolist() if hasattr(v, "tolist") else v for name, v in given}
    return {name: value for name, value in plain.items() if value is not None and _is_json(value)}


def _is_json(value: Any) -> bool:
    import math

    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(value[key]) for key in value)
    is_number = isinstance(value, float) and math.isfinite(value)
    return is_number or value is None or isinstance(value, bool | int | str)
