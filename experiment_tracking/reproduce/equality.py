"""When two numbers, and the files that hold them, count as equal; and which measure time."""

import itertools
import math
import re
from typing import TYPE_CHECKING, Any

import orjson

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.documents import encode

if TYPE_CHECKING:
    from experiment_tracking.formats.tensor_files import Part

_CLOCKS = frozenset(
    "time times timestamp walltime runtime uptime duration elapsed latency eta seconds secs fps "
    "throughput".split()
)
_COUNTS = frozenset("step steps timestep timesteps iteration iterations count".split())
_SURE_UNITS = frozenset("ns us ms sec secs second seconds".split())
_UNITS = _SURE_UNITS | frozenset("s min minute minutes h hour hours".split())

# Possessive: nothing is given back, so a line of a million digits takes no longer than others.
NUMBER = r"[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?"
_NUMBER = re.compile(NUMBER)


def is_clock(name: str) -> bool:
    """Tell whether a metric measures time or speed, by the last part of its name, or ``time/``.

    >>> is_clock("time/epoch"), is_clock("step_time_ms"), is_clock("samples_per_second")
    (True, True, True)
    >>> is_clock("time/iterations"), is_clock("val/loss"), is_clock("loss_min")
    (False, False, False)
    """
    *above, last = name.lower().split("/")
    words = re.split(r"[-_. ]+", last)
    first_word = words[0] if len(words) == 2 else ""
    if "time" in (*above[:1], first_word) and words[-1] not in _COUNTS:
        return True
    if "per" in words[1:-1]:
        place = words.index("per", 1)
        return words[place + 1] in _UNITS or words[place - 1] in _CLOCKS | _UNITS
    if len(words) > 1 and words[-1] in _SURE_UNITS:
        return True
    while len(words) > 1 and words[-1] in _UNITS:
        words.pop()
    return words[-1] in _CLOCKS


def close(a: float, b: float, tolerance: float) -> bool:
    """Tell whether two numbers are equal within ``tolerance * max(1, |a|, |b|)``.

    NaN equals NaN, and an infinity itself.
    """
    if a == b or (a != a and b != b):
        return True
    return tolerance > 0 and distance(a, b) <= tolerance


def distance(a: float, b: float) -> float:
    """Return how far two numbers are apart, relative to the larger one or to 1."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    # Divided before they are subtracted: the difference of two large floats may pass all range.
    larger = max(1, abs(a), abs(b))
    return abs(a / larger - b / larger)


def take_apart(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a text with ``#`` for each number, and the numbers as they stand.

    >>> take_apart("epoch 3: loss 1e-3")
    ('epoch #: loss #', ('3', '1e-3'))
    """
    return _NUMBER.sub("#", text), tuple(_NUMBER.findall(text))


def same_numbers(a: tuple[str, ...], b: tuple[str, ...], tolerance: float) -> bool:
    """Compare numbers as they are written; without a tolerance digit by digit."""
    if a == b or not tolerance:
        return a == b
    return len(a) == len(b) and all(
        one == other or close(float(one), float(other), tolerance)
        for one, other in zip(a, b, strict=True)
    )


def same_text(a: bytes, b: bytes, tolerance: float) -> bool:
    """Compare two tables or JSON documents, line by line."""
    # The hash of another file tells nothing that the file itself does not.
    one, other = (
        [line for line in data.decode("utf-8", "replace").split("\n") if '"sha256"' not in line]
        for data in (a, b)
    )
    return len(one) == len(other) and all(map(_same_line, one, other, itertools.repeat(tolerance)))


def _same_line(a: str, b: str, tolerance: float) -> bool:
    if a == b:
        return True
    (kind, numbers), (other_kind, others) = take_apart(a), take_apart(b)
    return kind == other_kind and same_numbers(numbers, others, tolerance)


def same_model(a: bytes, b: bytes, tolerance: float) -> bool:
    """Compare two ``model.json`` without their moment: when, with what versions, how quick.

    Nor do sizes and hashes count: the files that they are of are compared by themselves.
    """
    try:
        one, other = (encode(_timeless(orjson.loads(data))) for data in (a, b))
    except ValueError:
        return False
    return one == other or same_text(one, other, tolerance)


_OF_THE_MOMENT = frozenset(
    "saved_at versions metrics inference_time_ms inference_device sha256 size_bytes".split()
)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in _OF_THE_MOMENT}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def same_archive(a: bytes, b: bytes) -> bool:
    """Compare the members of two zip files, by name, size and CRC-32: not when they were made."""
    import io
    import zipfile

    try:
        one, other = (
            {each.filename: (each.file_size, each.CRC) for each in zipfile.ZipFile(file).infolist()}
            for file in map(io.BytesIO, (a, b))
        )
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return False
    return one == other


def same_arrays(a: bytes, b: bytes, tolerance: float) -> bool:
    """Compare the arrays in two safetensors files: floats of 16 to 64 bits within the tolerance.

    All others must be equal bit by bit: integers are counts, or the bytes of a dtype such as
    bfloat16. Files that cannot be read are not the same.
    """
    from experiment_tracking.formats.tensor_files import parse

    try:
        one, other = (parse(memoryview(data), "Weights") for data in (a, b))
    except DamagedError:
        return False
    return one.keys() == other.keys() and all(
        _close_tensors(one[name], other[name], tolerance) for name in one
    )


def _close_tensors(a: "Part", b: "Part", tolerance: float) -> bool:
    import numpy as np

    if a[:2] != b[:2] or a.data == b.data:
        return a[:2] == b[:2]
    kind = {"F16": np.float16, "F32": np.float32, "F64": np.float64}.get(a.dtype, np.uint8)
    one, other = (np.frombuffer(each.data, kind) for each in (a, b))
    return _close_arrays(one, other, tolerance)


def _close_arrays(a: Any, b: Any, tolerance: float) -> bool:
    import numpy as np

    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    larger = np.maximum(1, np.maximum(np.abs(a), np.abs(b)))
    with np.errstate(invalid="ignore"):  # infinities; those are no neighbours of anything
        near = np.abs(a / larger - b / larger) <= tolerance
    return bool(np.all(near | (a == b) | (np.isnan(a) & np.isnan(b))))
