"""Tensors in a safetensors file: streamed out without a copy, read back with every bound checked.

The format is that of https://github.com/huggingface/safetensors: eight bytes with the length of the
header, little-endian; the header, a JSON object of name to dtype, shape and offsets, padded with
spaces; the tensors' bytes, one behind another without gaps. The package safetensors writes only
what is in memory as a whole, and reads from a path or into copies; both would cost the memory of
the model once more, and a path may name another file than the one whose hash was checked.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import orjson

from experiment_tracking.errors import DamagedError, InvalidValueError

SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
"""Bytes of an element, by the format's names of dtypes, in the order in which the reference
implementation lays tensors out from the end: the widest come first, so all are aligned."""

_ORDER = {dtype: -place for place, dtype in enumerate(SIZES)}
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 16 * 2**20
"""A longer header is refused unread; the reference takes six times as much. One of this length
has some 150,000 tensors, of which ``model.json`` says as much again and more."""
_MAX_PART_BYTES = 2**20
"""Of a header: one name, or what is said of it, or all of ``__metadata__``."""

_METADATA_NAME = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}
_SPACES = b" \t\n\r"
_SPACE = b"[" + _SPACES + b"]*+"
_TEXT = rb'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"'
_TEXTS = _SPACE + _TEXT + _SPACE + b":" + _SPACE + _TEXT + _SPACE
_OPENING = re.compile(_SPACE + rb"\{" + _SPACE + rb"(\}?)" + _SPACE)
_NAME = re.compile(b"(" + _TEXT + b")" + _SPACE + b":" + _SPACE)
_NEXT = _SPACE + b"(,|})" + _SPACE
_ENTRY = re.compile(rb"(\{[^{}]*+\})" + _NEXT)
_METADATA = re.compile(
    rb"(\{(?:" + _TEXTS + b"(?:," + _TEXTS + rb")*+)?+" + _SPACE + rb"\})" + _NEXT
)


class Tensor(NamedTuple):
    """A tensor on its way into a file."""

    dtype: str
    """One of :data:`SIZES`."""
    shape: tuple[int, ...]
    data: Callable[[], memoryview]
    """Gives its bytes in C order, little-endian, when their turn has come."""

    @property
    def size_bytes(self) -> int:
        """Bytes it takes in the file."""
        return math.prod(self.shape) * SIZES[self.dtype]


class Part(NamedTuple):
    """A tensor as it stands in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview
    """A part of the buffer that was read."""


def stream(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Give a file of tensors piece by piece; each tensor is a view of its own memory.

    The same tensors give the same bytes, in whatever order they come: those that the package
    safetensors would write.

    Raises
    ------
    InvalidValueError
        If there are so many that no reader would take the header; if a tensor has changed its
        size meanwhile.
    """
    order = sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name))
    yield _header({name: tensors[name] for name in order})
    for name in order:
        if tensors[name].size_bytes:
            yield _data(name, tensors[name])


def size_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return how much the tensors take, the header left out."""
    return sum(tensor.size_bytes for tensor in tensors.values())


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.size_bytes
        entries[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = orjson.dumps(entries)
    text += b" " * (-len(text) % _LENGTH_BYTES)
    if len(text) > _MAX_HEADER_BYTES:
        raise InvalidValueError(
            f"{len(tensors):,} tensors take {len(text):,} bytes to name, a file takes "
            f"{_MAX_HEADER_BYTES:,}. Stack those of one shape to one."
        )
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _data(name: str, tensor: Tensor) -> memoryview:
    data = tensor.data()
    if data.nbytes != tensor.size_bytes:  # the offsets of all behind it would be wrong
        raise InvalidValueError(
            f"Tensor {name!r:.80} had {tensor.size_bytes:,} bytes when saving began, now "
            f"{data.nbytes:,}. Let nothing resize a model while it is saved."
        )
    return data


def parse(data: memoryview, subject: str) -> dict[str, Part]:
    """Find the tensors in the bytes of a file; nothing is copied.

    What the reference implementation refuses is refused; besides, it takes the last of equal
    names, unknown keys and dtypes that are not in :data:`SIZES`.

    Parameters
    ----------
    data
        All of the file.
    subject
        What an error is about.

    Raises
    ------
    DamagedError
        If it is no safetensors file: a header that is cut off, too long, not JSON or names a
        tensor twice; a dtype, shape or offset that cannot be; gaps, overlaps, too few or too many
        bytes.

    Notes
    -----
    The header is read tensor by tensor, at about 5 µs each, and no further than to what is wrong
    with it: a JSON parser would first turn all of it into objects of twenty times its size.
    """
    try:
        header, body = _parted(data)
        return _parts(_described(header), body)
    except ValueError as error:
        raise DamagedError(
            f"{subject} is not a whole safetensors file ({error}). Restore it from where it was "
            "saved."
        ) from error


def _parted(data: memoryview) -> tuple[memoryview, memoryview]:
    if len(data) < _LENGTH_BYTES:
        raise ValueError(f"{len(data)} bytes")
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if length > _MAX_HEADER_BYTES or length > len(data) - _LENGTH_BYTES:
        raise ValueError(f"a header of {length:,} bytes in a file of {len(data):,}")
    start = _LENGTH_BYTES + length
    return data[_LENGTH_BYTES:start], data[start:]


class _Described(NamedTuple):
    """A tensor as the header has it."""

    start: int
    end: int
    name: str
    dtype: str
    shape: tuple[int, ...]


def _described(header: memoryview) -> list[_Described]:
    found, names = [], set()
    for name, text in _members(header):
        if name in names:
            raise ValueError(f"{name!r:.80} stands in its header twice")
        names.add(name)
        value = orjson.loads(text)
        if name != _METADATA_NAME:
            found.append(_checked(name, text, value))
    return found


def _members(header: memoryview) -> Iterator[tuple[str, bytes]]:
    """Iterate over names of the header and values, these as they are written."""
    opening = _match(_OPENING, header, 0)
    place, last = opening.end(), opening[1]
    while last != b"}":
        text = _match(_NAME, header, place)
        name: str = orjson.loads(text[1])
        value = _match(_METADATA if name == _METADATA_NAME else _ENTRY, header, text.end())
        yield name, value[1]
        place, last = value.end(), value[2]
    if bytes(header[place:]).strip(_SPACES):
        raise ValueError(f"its header goes on behind its end at byte {place:,}")


def _match(pattern: re.Pattern[bytes], header: memoryview, place: int) -> re.Match[bytes]:
    found = pattern.match(header, place, place + _MAX_PART_BYTES)
    if found is None:
        raise ValueError(f"its header is not as it must be at byte {place:,}")
    return found


def _checked(name: str, text: bytes, value: dict[str, Any]) -> _Described:
    # As many colons as keys: none stands there twice, of which JSON parsers take the last.
    if value.keys() != _KEYS or text.count(b":") != len(_KEYS):
        raise ValueError(f"tensor {name!r:.80} is not described by {', '.join(sorted(_KEYS))}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(dtype) is not str or dtype not in SIZES:
        raise ValueError(f"tensor {name!r:.80} has the dtype {dtype!r:.40}")
    if type(shape) is not list or type(offsets) is not list or len(offsets) != 2:
        raise ValueError(f"tensor {name!r:.80} has no shape and two offsets")
    if b"-" in text or any(type(number) is not int for number in (*shape, *offsets)):
        raise ValueError(f"tensor {name!r:.80} has sizes that are no whole numbers")
    start, end = offsets
    return _Described(start, end, name, dtype, tuple(shape))


def _parts(described: list[_Described], body: memoryview) -> dict[str, Part]:
    parts, reached = {}, 0
    for start, end, name, dtype, shape in sorted(described):
        if start != reached or not start <= end <= len(body):
            raise ValueError(f"tensor {name!r:.80} stands at {start:,} to {end:,}")
        if end - start != _elements(name, shape) * SIZES[dtype]:
            raise ValueError(
                f"tensor {name!r:.80} has {end - start:,} bytes for {list(shape)!r:.80}"
            )
        parts[name] = Part(dtype, shape, body[start:end])
        reached = end
    if reached != len(body):
        raise ValueError(f"{len(body) - reached:,} bytes belong to no tensor")
    return parts


def _elements(name: str, shape: tuple[int, ...]) -> int:
    # A zero behind it would hide a product that other readers cannot count to.
    if any(product >= 2**64 for product in accumulate(shape, operator.mul)):
        raise ValueError(f"tensor {name!r:.80} has {list(shape)!r:.80} elements")
    return math.prod(shape)
