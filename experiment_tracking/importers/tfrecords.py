"""Read TensorBoard event files without TensorBoard.

A record is framed as TFRecord says: length, masked CRC of the length, data, masked CRC of the data
(tensorflow/core/lib/io/record_writer.h). Protobufs and checksums are tensorboardX's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any, BinaryIO

from experiment_tracking.backends.tensorboard import _tensorboardx
from experiment_tracking.importers.source_files import only_regular

_HEAD = Struct("<QI")
_CRC = Struct("<I")
_WINDOW_BYTES = 1 << 20

Checksum = Callable[[bytes], int]


class EventFile:
    """One event file; iterating yields its ``Event`` protobufs, one in memory at a time.

    A damaged record is passed over: reading goes on at the next place where a record's head has
    the right checksum. The file may still be growing, and each pass reads it anew.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.damaged = 0
        """Damaged places that the last pass met, with whole records behind them."""
        self.torn = False
        """Whether the file ended in something else than a whole record, as after a kill."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the events; about 2 µs for each.

        Raises
        ------
        OSError
            If the file cannot be read.
        """
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        to_event = _tensorboardx().Event.FromString
        for data in self._records():
            try:
                event = to_event(data)
            except DecodeError:
                self.damaged += 1
            else:
                yield event

    def _records(self) -> Iterator[bytes]:
        self.damaged, self.torn = 0, False
        checksum = _tensorboardx().masked_crc32c
        with open(self.path, "rb", buffering=_WINDOW_BYTES, opener=only_regular) as file:
            size, position = os.fstat(file.fileno()).st_size, 0
            while head := file.read(_HEAD.size):
                data = _data_behind(head, file, size - position, checksum)
                if data is None:
                    # Torn, unless a whole record shows up behind it.
                    self.torn = True
                    position = _next_head(file, position + 1, checksum)
                    continue
                self.damaged, self.torn = self.damaged + self.torn, False
                position += _HEAD.size + len(data) + _CRC.size
                yield data


def _data_behind(head: bytes, file: BinaryIO, left: int, checksum: Checksum) -> bytes | None:
    """Read the data of a record whose head was just read; None if they are not whole."""
    if not _is_head(head, checksum):
        return None
    length = _HEAD.unpack(head)[0]
    if length > left:  # the rest is still to come, or was never written
        return None
    data, tail = file.read(length), file.read(_CRC.size)
    return data if tail == _CRC.pack(checksum(data)) else None


def _is_head(head: bytes, checksum: Checksum) -> bool:
    return len(head) == _HEAD.size and _HEAD.unpack(head)[1] == checksum(head[:8])


def _next_head(file: BinaryIO, start: int, checksum: Checksum) -> int:
    """Move to the first head at or behind ``start``, or to the end; return where that is."""
    while True:
        file.seek(start)
        window = file.read(_WINDOW_BYTES)
        for place in _candidates(window):
            if _is_head(window[place : place + _HEAD.size], checksum):
                file.seek(start + place)
                return start + place
        if len(window) < _WINDOW_BYTES:
            return file.seek(0, os.SEEK_END)
        start += len(window) - _HEAD.size + 1


def _candidates(window: bytes) -> Iterator[int]:
    """Places where a length below 4 GiB may stand: its upper four bytes are zero."""
    found = window.find(bytes(4), 4)
    while found >= 0:
        yield found - 4
        found = window.find(bytes(4), found + 1)
