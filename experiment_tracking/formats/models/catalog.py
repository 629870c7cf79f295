"""Which format takes a model, and which one a saved model is of."""

import sys
from importlib import import_module
from typing import Any

from experiment_tracking.errors import DamagedError, InvalidTypeError
from experiment_tracking.formats.models.interface import ModelFormat

# Asked in this order. Keras models may be torch modules too, the boosters' wrappers are
# scikit-learn estimators, and flax's and equinox's modules are pytrees. A model of a package exists
# only where the package is loaded, so no other format's module is.
_FORMATS = {
    "keras": ("keras", "keras:KerasFormat"),
    "torch": ("torch", "torch:TorchFormat"),
    "flax.nnx": ("flax.nnx", "nnx:NnxFormat"),
    "equinox": ("equinox", "equinox:EquinoxFormat"),
    "xgboost": ("xgboost", "xgboost:XgboostFormat"),
    "lightgbm": ("lightgbm", "lightgbm:LightgbmFormat"),
    "sklearn": ("sklearn", "sklearn:SklearnFormat"),
    "onnx": ("onnx", "onnx:OnnxFormat"),
    "arrays": (None, "arrays:ArraysFormat"),
    "jax": ("jax", "jax:JaxFormat"),
    "cloudpickle": (None, "pickled:PickledFormat"),
}
"""Of each framework: the package without which there is no such model; the class of its format."""


def format_of(model: object, *, allow_unsafe: bool = False) -> ModelFormat:
    """Return the format that takes a model.

    Raises
    ------
    InvalidTypeError
        If none does, and pickle is not allowed.
    """
    for framework, (package, _) in _FORMATS.items():
        if framework == "cloudpickle" and not allow_unsafe:
            continue
        if package is not None and package not in sys.modules:
            continue
        found = _load(framework)
        if found.takes(model):
            return found
    raise InvalidTypeError(
        f"log_model does not know how to keep a {type(model).__module__}."
        f"{type(model).__qualname__} safely. Known are models of torch, flax, equinox, "
        "scikit-learn, XGBoost, LightGBM, Keras and ONNX, and trees of arrays: pass its arrays as "
        "a mapping. Or keep it with cloudpickle, which runs code when it is loaded: "
        "allow_unsafe=True."
    )


def format_named(framework: object, subject: str) -> ModelFormat:
    """Return the format that a saved model is of.

    Raises
    ------
    DamagedError
        If there is none of that name.
    """
    if not isinstance(framework, str) or framework not in _FORMATS:
        shown = repr(framework) if isinstance(framework, str) else type(framework).__name__
        raise DamagedError(
            f"{subject}: its framework is {shown:.60}, known are {', '.join(_FORMATS)}. "
            "Upgrade experiment_tracking, or restore model.json."
        )
    return _load(framework)


def _load(framework: str) -> ModelFormat:
    module, _, name = _FORMATS[framework][1].partition(":")
    found: Any = import_module(f"experiment_tracking.formats.models.{module}")
    made: ModelFormat = getattr(found, name)()
    return made
