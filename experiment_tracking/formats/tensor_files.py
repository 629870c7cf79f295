"""Tensors in a safetensors file: streamed out without a copy, read back with every bound checked.

The format is that of https://github.com/huggingface/safetensors: eight bytes with the length of the
header, little-endian; the header, a JSON object of name to dtype, shape and offsets, padded with
spaces; the tensors' bytes, one behind another without gaps. The package safetensors writes only
what is in memory as a whole, and reads from a path or into copies; both would cost the memory of
the model once more, and a path may name another file than the one whose hash was checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from experiment_tracking.errors import DamagedError

SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
"""Bytes of an element, by the format's names of dtypes, in the order in which the reference
implementation lays tensors out from the end: the widest come first, so all are aligned."""

_ORDER = {dtype: -place for place, dtype in enumerate(SIZES)}
_MAX_HEADER_BYTES = 100_000_000  # the reference's own limit
_LENGTH_BYTES = 8


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
    """
    order = sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name))
    yield _header({name: tensors[name] for name in order})
    for name in order:
        if tensors[name].size_bytes:
            yield tensors[name].data()


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
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def parse(data: memoryview, subject: str) -> dict[str, Part]:
    """Find the tensors in the bytes of a file; nothing is copied.

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
    """
    try:
        header, body = _parted(data)
        entries = _parsed(header)
        return _parts(entries, body)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else error
        raise DamagedError(
            f"{subject} is not a whole safetensors file ({reason}). Restore it from where it was "
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


def _parsed(header: memoryview) -> dict[str, Any]:
    entries = orjson.loads(header)
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    # orjson takes the last of equal keys; what is left must account for every byte, so a name
    # that stands there twice leaves a gap, or an empty tensor that nobody misses.
    entries.pop("__metadata__", None)
    return entries


def _parts(entries: Mapping[str, Any], body: memoryview) -> dict[str, Part]:
    parts, reached = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        start, end = entry["data_offsets"]
        shape, dtype = entry["shape"], entry["dtype"]
        if any(type(number) is not int or number < 0 for number in (start, end, *shape)):
            raise ValueError(f"tensor {name!r:.80} has sizes that are no whole numbers")
        if start != reached or end > len(body):
            raise ValueError(f"tensor {name!r:.80} stands at {start:,} to {end:,}")
        if end - start != math.prod(shape) * SIZES[dtype]:
            raise ValueError(f"tensor {name!r:.80} has {end - start:,} bytes for shape {shape}")
        parts[name] = Part(dtype, tuple(shape), body[start:end])
        reached = end
    if reached != len(body):
        raise ValueError(f"{len(body) - reached:,} bytes belong to no tensor")
    return parts
