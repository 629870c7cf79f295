"""What goes into a model and what comes out, and how long that takes once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats.models.interface import ModelFormat, as_call

_NAMES = ("inputs", "outputs")
_TIMES = 5
_LONGEST_MS = 200.0


def measure(format_: ModelFormat, model: Any, example: Any) -> dict[str, Any]:
    """Compute a model a few times on an example, and describe what went in and came out.

    Returns
    -------
    dict
        ``signature``: ``inputs`` and ``outputs``, each a list of ``name``, ``dtype`` and ``shape``,
        in which the first axis, the batch, is -1; ``inference_time_ms``, the shortest of up to five
        when all is warm; ``inference_device``.
    """
    args, named = as_call(example)
    compute = format_.program(model)
    compute(*args, **named)
    times_ms: list[float] = []
    # The shortest of some: a machine that is busy for a moment must not be kept for good.
    while len(times_ms) < _TIMES and sum(times_ms) < _LONGEST_MS:
        started = time.perf_counter()
        outputs = compute(*args, **named)
        # On the CPU as numbers: what a device has only been told to do has not been done.
        described = describe(outputs, "output")
        times_ms.append((time.perf_counter() - started) * 1000)
    return {
        "signature": {"inputs": describe(example, "input"), "outputs": described},
        "inference_time_ms": round(min(times_ms), 3),
        "inference_device": format_.device(model),
    }


def describe(values: Any, name: str) -> list[dict[str, Any]]:
    """Describe each array of a tree of arguments or results, and each column of a table.

    What has a key is called by it; the items of lists and tuples, where there are several, by
    ``name`` and their number.

    >>> import numpy as np
    >>> describe({"x": np.zeros((8, 3), np.float32)}, "input")
    [{'name': 'x', 'dtype': 'float32', 'shape': [-1, 3]}]
    >>> [each["name"] for each in describe((np.zeros(2), {"mask": np.ones(2)}), "input")]
    ['input0', 'input1/mask']
    """
    described = []
    for path, value in _leaves(values, ()):
        dtype, shape = _dtype_and_shape(value)
        batched = [-1, *shape[1:]] if shape else []
        described.append({"name": _label(path, name), "dtype": dtype, "shape": batched})
    return described


def _label(path: tuple[Any, ...], name: str) -> str:
    if not path:
        return name
    first = f"{name}{path[0]}" if isinstance(path[0], int) else path[0]
    return "/".join(map(str, (first, *path[1:])))


def plain_example(example: Any) -> Any:
    """Return an example as a tree of arrays, in which a table is a mapping of its columns.

    Raises
    ------
    InvalidTypeError
        If a column, or an array of objects, holds neither numbers, times nor text.
    """
    if _is_table(example):
        return {name: _column(column, name) for name, column in _columns(example)}
    if isinstance(example, Mapping):
        return {name: plain_example(value) for name, value in example.items()}
    if isinstance(example, list | tuple) and not hasattr(example, "_fields"):
        return type(example)(map(plain_example, example))
    return _column(example, "") if str(getattr(example, "dtype", "")) == "object" else example


def _column(column: Any, name: str) -> Any:
    import numpy as np

    array = np.asarray(column)
    if array.dtype != object:
        return array
    if not all(isinstance(value, str) for value in array.flat):
        place = f"the column {name!r:.60}" if name else "an array"
        raise InvalidTypeError(
            f"input_example=: {place} holds {column.dtype} values that are not all text, or some "
            "are missing. Give an example of whole rows, or leave it out."
        )
    return array.astype(str)


def _leaves(values: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(values, tuple) and hasattr(values, "_asdict"):
        values = values._asdict()
    elif is_dataclass(values) and not isinstance(values, Mapping):
        values = {field.name: getattr(values, field.name) for field in fields(values)}
    if isinstance(values, Mapping):
        yield from _all_leaves(values.items(), path)
    elif _is_table(values):
        yield from (((*path, name), column) for name, column in _columns(values))
    elif isinstance(values, list | tuple) and not _is_matrix(values):
        if len(values) == 1:
            yield from _leaves(values[0], path)
        else:
            yield from _all_leaves(enumerate(values), path)
    elif values is not None:
        yield path, values


def _all_leaves(
    parts: Iterable[tuple[Any, Any]], path: tuple[Any, ...]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for key, value in parts:
        yield from _leaves(value, (*path, key))


def _columns(table: Any) -> Iterable[tuple[str, Any]]:
    columns = table.items() if table.ndim == 2 else [(table.name or 0, table)]
    return [(str(name), column) for name, column in columns]


def _is_table(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series)


def _is_matrix(values: Any) -> bool:
    """Tell whether nested lists are the numbers of one array."""
    if not isinstance(values, list | tuple):
        return isinstance(values, bool | int | float)
    lengths = {len(value) if isinstance(value, list | tuple) else -1 for value in values}
    return len(lengths) == 1 and all(map(_is_matrix, values))


def _dtype_and_shape(value: Any) -> tuple[str, tuple[int, ...]]:
    from experiment_tracking.formats.trees import as_numpy

    if _is_table(value) or hasattr(value, "toarray"):  # a column, a sparse matrix
        return str(value.dtype), value.shape
    array, dtype = as_numpy(value.detach() if hasattr(value, "detach") else value)
    return dtype, array.shape


def check_signature(signature: Any) -> dict[str, Any] | None:
    """Return a signature of the user's in plain form; one of MLflow's is taken, too.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If it is no mapping with ``inputs`` and ``outputs``, each a list of mappings.
    """
    if signature is None:
        return None
    given = signature.to_dict() if hasattr(signature, "to_dict") else signature
    if not isinstance(given, Mapping):
        raise InvalidTypeError(f"signature= is a {type(signature).__name__}. {_ALLOWED}")
    given = {name: _entries(value) for name, value in given.items() if value is not None}
    if strange := set(given) - set(_NAMES):
        raise InvalidValueError(
            f"signature= has {', '.join(sorted(map(str, strange)))}; allowed are inputs, outputs."
        )
    return {name: given.get(name, []) for name in _NAMES}


_ALLOWED = (
    "Pass a mapping with inputs and outputs, such as "
    '{"inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 64]}], …}.'
)


def _entries(value: Any) -> list[dict[str, Any]]:
    import orjson

    from experiment_tracking.folder.values import to_plain

    try:
        entries = orjson.loads(value) if isinstance(value, str) else list(value)
    except (ValueError, TypeError) as error:
        raise InvalidTypeError(f"signature= has {value!r:.60} in it. {_ALLOWED}") from error
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise InvalidTypeError(f"signature= has {value!r:.60} in it. {_ALLOWED}")
    return [to_plain(entry, "signature") for entry in entries]
