"""What goes into a model and what comes out, and how long that takes once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats.models.interface import ModelFormat, as_call

_NAMES = ("inputs", "outputs")


def measure(format_: ModelFormat, model: Any, example: Any) -> dict[str, Any]:
    """Compute a model twice on an example, and describe what went in and came out.

    Returns
    -------
    dict
        ``signature``: ``inputs`` and ``outputs``, each a list of ``name``, ``dtype`` and ``shape``,
        in which the first axis, the batch, is -1; ``inference_time_ms`` of the second time, when
        all is warm; ``inference_device``.
    """
    args, named = as_call(example)
    format_.run(model, args, named)
    started = time.perf_counter()
    outputs = format_.run(model, args, named)
    # On the CPU as numbers: what a device has only been told to do has not been done.
    described = describe(outputs, "output")
    elapsed_ms = (time.perf_counter() - started) * 1000
    return {
        "signature": {"inputs": describe(example, "input"), "outputs": described},
        "inference_time_ms": round(elapsed_ms, 3),
        "inference_device": format_.device(model),
    }


def describe(values: Any, name: str) -> list[dict[str, Any]]:
    """Describe each array of a tree of arguments or results.

    >>> import numpy as np
    >>> describe({"x": np.zeros((8, 3), np.float32)}, "input")
    [{'name': 'x', 'dtype': 'float32', 'shape': [-1, 3]}]
    """
    from experiment_tracking.formats.trees import as_numpy

    if isinstance(values, Mapping):
        return [entry for key, value in values.items() for entry in describe(value, str(key))]
    if isinstance(values, list | tuple) and not _is_numbers(values):
        return [e for i, value in enumerate(values) for e in describe(value, f"{name}{i or ''}")]
    if values is None:
        return []
    detached = values.detach() if hasattr(values, "detach") else values
    array, dtype = as_numpy(detached)
    return [{"name": name, "dtype": dtype, "shape": [-1, *array.shape[1:]] if array.ndim else []}]


def _is_numbers(values: Any) -> bool:
    return all(isinstance(value, bool | int | float) for value in values)


def check_signature(signature: Any) -> dict[str, Any] | None:
    """Return a signature of the user's in plain form.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If it is no mapping with ``inputs`` and ``outputs``, each a list of mappings.
    """
    if signature is None:
        return None
    if hasattr(signature, "to_dict"):
        signature = signature.to_dict()
    if not isinstance(signature, Mapping):
        raise InvalidTypeError(
            f"signature= is a {type(signature).__name__}. Pass a mapping with inputs and outputs, "
            'such as {"inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 64]}], …}.'
        )
    if strange := set(signature) - set(_NAMES):
        raise InvalidValueError(
            f"signature= has {', '.join(sorted(map(str, strange)))}; allowed are inputs, outputs."
        )
    return {name: signature.get(name, []) for name in _NAMES}
