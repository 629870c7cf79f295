"""When two numbers, and the files that hold them, count as equal; and which measure time."""

import itertools
import math
import re
from typing import Any

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


def same_arrays(a: bytes, b: bytes, tolerance: float) -> bool:
    """Compare the arrays in two safetensors blobs: IEEE floats within the tolerance.

    All others must be equal bit by bit: integers are counts, or the bytes of a dtype such as
    bfloat16. Blobs that cannot be read are not the same.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        one, other = load(a), load(b)
    except (SafetensorError, KeyError, TypeError, ValueError):  # or a dtype that numpy has not
        return False
    return one.keys() == other.keys() and all(
        _close_arrays(one[name], other[name], tolerance) for name in one
    )


def _close_arrays(a: Any, b: Any, tolerance: float) -> bool:
    import numpy as np

    if a.dtype != b.dtype or a.shape != b.shape or a.dtype.kind != "f":
        return a.dtype == b.dtype and bool(np.array_equal(a, b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    larger = np.maximum(1, np.maximum(np.abs(a), np.abs(b)))
    with np.errstate(invalid="ignore"):  # infinities; those are no neighbours of anything
        near = np.abs(a / larger - b / larger) <= tolerance
    return bool(np.all(near | (a == b) | (np.isnan(a) & np.isnan(b))))
