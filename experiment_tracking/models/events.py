"""What was done to a registered model: one small file each, numbered and never changed.

The next number is taken by creating its file exclusively, so of two that come at once one wins and
the other looks again. Each names the SHA-256 of the one before, so to change one of them shows at
the one behind it. A change of the newest does not, nor one after which all behind it are written
anew: to tell that too, keep :attr:`Event.file_sha256` of the newest in another place.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import utc_now
from experiment_tracking.models.documents import encode_readable, read_hashed

_NAME = re.compile(r"([0-9]{6,})\.json")
_PATIENCE_S = 2.0
_PAUSE_S = 0.02
_OWN = ("id", "at", "by", "kind", "version", "previous")


class Event(NamedTuple):
    """One thing that was done to a registered model."""

    number: int
    """1, 2, … without a gap."""
    at: str
    """When: ISO 8601, UTC."""
    by: str
    """Who."""
    kind: str
    """What, as ``registered``, ``transitioned``, ``rolled back``."""
    version: int | None
    """Which version; None where it was the model."""
    known: dict[str, Any]
    """The rest: ``stage``, ``from``, ``reason`` and the like, by kind."""
    file_sha256: str = ""
    """Of its file. As long as it is the same, so is all that was done before."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as one plain mapping."""
        own = {"number": self.number, "at": self.at, "by": self.by, "kind": self.kind}
        return own | ({} if self.version is None else {"version": self.version}) | self.known


class Wish(NamedTuple):
    """An event that is to be: all but its number and time."""

    kind: str
    by: str
    version: int | None = None
    known: Mapping[str, Any] = {}


class _Seen(NamedTuple):
    """Events that have been read, and by what to tell that they are still those."""

    mark: tuple[int, ...]
    events: list[Event]


class EventLog:
    """The events of one model. Those read once are kept, so that only new ones are read again.

    Parameters
    ----------
    path
        Folder of the events; it need not exist.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen = _Seen((), [])
        self._taken = 0

    def read(self) -> list[Event]:
        """Return all events, oldest first; one ``listdir`` and one read for each new one.

        Raises
        ------
        DamagedError
            If one is missing, is no event, or is not as it was when the next one was added.
        OSError
            If the folder, or one of them, cannot be read now.
        """
        top, seen = self._highest(), self._seen
        events = list(seen.events) if seen.mark == self._mark(len(seen.events)) else []
        for number in range(len(events) + 1, top + 1):
            previous = events[-1].file_sha256 if events else None
            events.append(self._read_one(number, previous, newest=number == top))
        self._seen = _Seen(self._mark(len(events)), events)
        return list(events)

    def add(self, last: Event | None, wish: Wish) -> bool:
        """Create the event right behind ``last``, None for the first; tell whether it could be.

        When this returns True it is on the disk. False: somebody else was quicker.

        Raises
        ------
        InvalidValueError
            If it says more than a reader would take.
        OSError
            If the disk refuses.
        """
        number = last.number + 1 if last else 1
        event = {
            "id": os.urandom(8).hex(),
            "at": utc_now(),
            "by": wish.by,
            "kind": wish.kind,
            **({} if wish.version is None else {"version": wish.version}),
            **wish.known,
            "previous": last.file_sha256 if last else None,
        }
        path, data = self._path(number), encode_readable(event, "What is said of the model")
        try:
            io.create_whole(path, data, durable=True)
        except FileExistsError:
            self._taken = number
            return self._is_ours(path, event)
        return True

    def path_of(self, event: Event) -> str:
        """Return the file of an event."""
        return self._path(event.number)

    # ------------------------------------------------------------------ reading

    def _path(self, number: int) -> str:
        return os.path.join(self.path, f"{number:06d}.json")

    def _highest(self) -> int:
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return 0
        top = max((int(m[1]) for m in map(_NAME.fullmatch, names) if m), default=0)
        # A listing may leave out what is created meanwhile, and a client of a network file
        # system may have an old one: what was found taken is there.
        return max(top, self._taken)

    def _mark(self, count: int) -> tuple[int, ...]:
        """Return what differs when the folder, or the last of so many events, is another one.

        Who goes on behind an event that has been replaced breaks the chain for everybody.
        """
        try:
            folder = os.stat(self.path)
            last = os.lstat(self._path(count)) if count else folder
        except FileNotFoundError:
            return ()
        own = (last.st_ino, last.st_size, last.st_mtime_ns) if count else ()
        return (folder.st_dev, folder.st_ino, *own)

    def _read_one(self, number: int, previous: str | None, *, newest: bool) -> Event:
        document, sha256 = self._document(number, newest=newest)
        path = self._path(number)
        if document.get("previous") != previous:
            before = f"event {number - 1}" if previous else "no event"
            raise DamagedError(
                f"{path} was added behind {before} of another content: one of the two was changed "
                f"since. {_RESTORE}"
            )
        return _to_event(path, number, document)._replace(file_sha256=sha256)

    def _document(self, number: int, *, newest: bool) -> tuple[dict[str, Any], str]:
        # Without hard links the newest may be one that is being written at this moment.
        patience = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return read_hashed(self._path(number))
            except (DamagedError, FileNotFoundError) as error:
                if newest and time.monotonic() < patience:
                    time.sleep(_PAUSE_S)
                    continue
                self._taken = 0  # Whoever took it may have given up.
                raise DamagedError(self._told(error, number, newest=newest)) from None

    def _told(self, error: Exception, number: int, *, newest: bool) -> str:
        if isinstance(error, FileNotFoundError):
            return f"{self._path(number)} is missing. {_RESTORE}"
        if newest:
            return (
                f"{error} Whoever added it may have died meanwhile: if no process is at it, move "
                "that file away, and what it said was not done."
            )
        return f"{error} {_RESTORE}"

    def _is_ours(self, path: str, event: Mapping[str, Any]) -> bool:
        # A network file system may have done it, lost the answer, and been asked again.
        try:
            return bool(read_hashed(path)[0].get("id") == event["id"])
        except (DamagedError, OSError):
            return False


_RESTORE = "Restore the folder of events from a copy of the model: its state cannot be told."


def _to_event(path: str, number: int, document: dict[str, Any]) -> Event:
    at, by, kind, version = (document.get(key) for key in ("at", "by", "kind", "version"))
    texts = all(isinstance(each, str) for each in (at, by, kind))
    if not texts or not (version is None or type(version) is int):
        raise DamagedError(
            f"{path} is no event: at {at!r:.40}, by {by!r:.40}, kind {kind!r:.40}, version "
            f"{version!r:.40}. {_RESTORE}"
        )
    known = {key: value for key, value in document.items() if key not in _OWN}
    return Event(number, str(at), str(by), str(kind), version, known)
