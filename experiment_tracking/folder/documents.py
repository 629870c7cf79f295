"""Small JSON documents that a reader sees whole: the old one or the new one."""

import contextlib
import json

# threading.RLock itself, without the 2.5 ms that importing threading takes.
from _thread import RLock
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io

MAX_BYTES = 64 * 2**20
"""A larger document is refused unread; the largest honest one seen had 2 MB."""

_LAYOUT = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def utc_now() -> str:
    """Return the present time as documents hold it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_between(earlier: str, later: str) -> float:
    """Return the seconds between two times of documents."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def encode(value: Any) -> bytes:
    """Write plain values as indented UTF-8 JSON with a last newline."""
    try:
        return orjson.dumps(value, option=_LAYOUT)
    except TypeError:
        # orjson stops at 64 bits; a seed may be longer. It would even read one, as a float, so a
        # space in front tells our reader not to use it. To everybody else that means nothing.
        return f" {json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode()


def read_document(path: str) -> dict[str, Any]:
    """Read one document.

    Raises
    ------
    DamagedError
        If the file is not one JSON object, or no regular file.
    OSError
        If it is missing or cannot be read now.
    """
    return parse_document(path, io.read(path, MAX_BYTES))


def parse_document(path: str, data: bytes) -> dict[str, Any]:
    """Return what the bytes of a document say; raises as :func:`read_document`."""
    value = _parse(path, data)
    if type(value) is not dict:
        raise DamagedError(f"{path} holds {type(value).__name__}, expected a JSON object.")
    return value


def _parse(path: str, data: bytes) -> Any:
    if not data.startswith(b" "):
        with contextlib.suppress(ValueError):
            return orjson.loads(data)
    try:
        # Takes what orjson does not, such as NaN written by other programs.
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        seen = "empty" if not data else "all NUL bytes" if not data.strip(b"\0") else str(error)
        raise DamagedError(f"{path} is not JSON: {seen}.") from error


class Document:
    """One JSON object in memory and on disk, with the lock that keeps the two in step.

    Every change goes through :meth:`update`, which has replaced the file when it returns. That
    survives ``kill -9``; the run's thread calls :meth:`make_durable` within a second for the
    power cut. Keys that this version does not know are kept.

    Parameters
    ----------
    path
        The file, ``None`` for a document that is kept in memory alone.
    value
        Its present content.
    """

    def __init__(self, path: str | None, value: dict[str, Any]) -> None:
        self.path = path
        self.value = value
        self.on_disk = False
        self.durable = False
        self._version = 0
        # Re-entrant: a signal handler that sets a tag may interrupt a change of ours.
        self._lock = RLock()

    def update(self, edit: Callable[[dict[str, Any]], object], *, durable: bool = False) -> None:
        """Have ``edit`` change the object; the file has been replaced when this returns.

        A callback and not a ``with`` block: a generator that Ctrl-C left at its edge would keep
        the lock for as long as somebody, a notebook for one, keeps the traceback.

        Raises
        ------
        OSError
            If the file could not be replaced. The change is kept in memory, :attr:`on_disk` is
            False, and the next :meth:`save` writes it.
        """
        with self._lock:
            self._version += 1
            self.on_disk = self.durable = False
            edit(self.value)
            self.save(durable=durable)

    def save(self, *, durable: bool = False) -> None:
        """Replace the file by what is in memory."""
        with self._lock:
            if self.path is None:
                self.on_disk = self.durable = True
                return
            version = -1
            # Again if a signal handler changed the object while we wrote the older state.
            while version != self._version:
                version = self._version
                io.replace_file(self.path, encode(self.value), durable=durable)
            self.on_disk = True
            self.durable = durable

    @property
    def waiting(self) -> bool:
        """Whether a change is still in memory alone."""
        return self._version > 0 and not self.on_disk

    def make_durable(self) -> None:
        """Flush the file to the disk if it has been replaced since the last flush."""
        with self._lock:
            path = self.path
            if self.durable or path is None:
                return
            if not self.on_disk:
                self.save()
            version = self._version
        # Without the lock: whoever changes the document must not wait for the disk.
        io.fsync_file(path)
        with self._lock:
            self.durable = version == self._version

    def detach(self) -> None:
        """Keep the object in memory alone from now on: the file belongs to somebody else."""
        with self._lock:
            self.path = None

    def snapshot(self) -> dict[str, Any]:
        """Return a copy, one level deep."""
        with self._lock:
            return dict(self.value)
