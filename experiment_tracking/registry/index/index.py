"""What earlier scans have read, kept outside the roots. It may be deleted at any time.

A folder per root holds *segments* (see :mod:`~experiment_tracking.registry.index.segments`), files
that never change. A row of any of them is good as long as the run's files look as they did
when it was read; in which segment it lies does not matter. So readers need no lock and no
order: whoever reads something new adds a segment, whoever finds too many puts them together,
and a segment that has vanished or is damaged is nothing but rows to be read again.
"""

import contextlib
import os
import stat
import sys
import time
from collections.abc import Container, Iterable, Sequence

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.registry.index.segments import VERSION, Segment, decode, encode, merge

VARIABLE = "EXPERIMENT_TRACKING_CACHE"
"""Folder of the cache; ``off``, ``0`` or nothing: none is kept."""

_ENDING = ".segment"
_MOST = 8
_MOST_BYTES = 2**32
"""A larger file is none of ours: a million runs make one gigabyte."""
_UNUSED_S = 90 * 24 * 3600
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder() -> str | None:
    """Return where caches of this user belong; None where there is no place or none is wanted.

    ``$EXPERIMENT_TRACKING_CACHE``, else ``$XDG_CACHE_HOME``, ``~/Library/Caches`` on macOS,
    ``%LOCALAPPDATA%`` on Windows, ``~/.cache``.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        return None if given.lower() in ("", "0", "off") else os.path.abspath(given)
    if sys.platform == "darwin":
        folder = os.path.expanduser("~/Library/Caches")
    elif sys.platform == "win32":
        folder = os.environ.get("LOCALAPPDATA", "")
    else:
        folder = os.environ.get("XDG_CACHE_HOME", "")
        folder = folder if os.path.isabs(folder) else os.path.expanduser("~/.cache")
    # Without a home the tilde stays, and a relative folder would be one in the work at hand.
    return folder if os.path.isabs(folder) else None


class Index:
    """The segments of one root. Whatever the disk refuses, a scan goes on without them.

    Parameters
    ----------
    root
        Folder of projects.
    folder
        Where the segments lie.
    """

    def __init__(self, root: str, folder: str) -> None:
        self.root = root
        self.folder = folder
        self._files: dict[Segment, str] = {}

    @classmethod
    def of(cls, root: str) -> "Index | None":
        """Return the index of a root; None where none can be kept, or another could write it."""
        from hashlib import blake2b

        cache = cache_folder()
        if cache is None:
            return None
        of_root = f"{VERSION} {os.path.realpath(root)}".encode("utf-8", "surrogateescape")
        name = blake2b(of_root, digest_size=16).hexdigest()
        folder = os.path.join(cache, "experiment_tracking", "index", name)
        is_new = not os.path.isdir(folder)
        with contextlib.suppress(OSError):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            if is_new:
                _delete_unused(os.path.dirname(folder))
            if _is_ours(folder):
                return cls(root, folder)
        return None

    def load(self) -> list[Segment]:
        """Read the segments there are; those that are none are deleted."""
        with contextlib.suppress(OSError):  # the folder is gone
            for name in sorted(os.listdir(self.folder)):
                self._load(os.path.join(self.folder, name))
        return list(self._files)

    def _load(self, path: str) -> None:
        if not path.endswith(_ENDING):
            _delete_leftover(path)
            return
        # Read, not mapped: on a network file system a mapped file that somebody else deletes
        # kills the process. Half a millisecond a megabyte.
        with contextlib.suppress(OSError):  # another reader has put it together with others
            try:
                self._files[decode(io.read(path, _MOST_BYTES))] = path
            except DamagedError:
                os.unlink(path)

    def add(self, fresh: Iterable[Segment], scanned: Container[str], found: Container[int]) -> None:
        """Keep what was read, and put segments together where there are too many.

        Parameters
        ----------
        fresh
            Segments of the runs that were read; those whose ``#stamp`` is 0 are not kept.
        scanned
            Keys of all runs that were looked for.
        found
            Rows of the segments of :meth:`load`, counted on from one to the next, that are still
            good.
        """
        good: dict[Segment, Sequence[int]] = {}
        for segment in fresh:
            good[segment] = [row for row, stamp in enumerate(segment.values("#stamp")) if stamp]
        new = [segment for segment, rows in good.items() if rows]
        if not new:
            return
        stamps = {stamp for segment in new for stamp in segment.values("#stamp") if stamp}
        replaced = []
        start = 0
        for known in self._files:
            keys = enumerate(known.values("#key"))
            good[known] = [i for i, key in keys if start + i in found or key not in scanned]
            start += len(known)
            if not stamps.isdisjoint(known.values("#stamp")):
                replaced.append(known)
        # A full disk, a folder without leave to write: whoever reads next reads it again.
        with contextlib.suppress(OSError, RecursionError):
            self._keep(new, good, replaced)

    def _keep(
        self,
        new: Sequence[Segment],
        good: dict[Segment, Sequence[int]],
        replaced: Iterable[Segment],
    ) -> None:
        every = sum(map(len, good))
        alive = sum(map(len, good.values()))
        # What was read again although its files look as they did must not be found beside it.
        together = {each: good[each] for each in replaced}
        if alive < every / 2:
            together = good
        elif len(good) > _MOST:
            # The small ones alone, so that a large one is not written again for every few runs.
            small = {each: rows for each, rows in good.items() if len(each) <= every / _MOST}
            together = {**small, **together} if len(small) > 1 else good
        for segment in new:
            if segment not in together:
                self._write(segment)
        if together:
            self._replace(together)

    def _replace(self, good: dict[Segment, Sequence[int]]) -> None:
        """Write rows of several segments as one, then delete those they come from."""
        parts = [(each, self._there(each, rows)) for each, rows in good.items()]
        if any(rows for _, rows in parts):
            self._write(merge(parts))
        for segment in good:
            if segment in self._files:
                with contextlib.suppress(OSError):  # another reader was quicker
                    os.unlink(self._files[segment])

    def _there(self, segment: Segment, rows: Sequence[int]) -> list[int]:
        """Return the rows whose runs have not been deleted, or renamed."""
        keys = segment.values("#key")
        return [row for row in rows if os.path.lexists(os.path.join(self.root, keys[row]))]

    def _write(self, segment: Segment) -> None:
        path = os.path.join(self.folder, os.urandom(8).hex() + _ENDING)
        # Not flushed: after a power cut its checksums tell, and the runs are read again.
        with io.replacing(path) as fd:
            for block in encode(segment):
                io.write_all(fd, block)


def _is_ours(folder: str) -> bool:
    """Tell whether nobody else can have put something there."""
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        return False
    if not hasattr(os, "getuid"):
        return True  # on Windows the folder is in the user's own
    return found.st_uid == os.getuid() and not found.st_mode & _OTHERS_MAY_WRITE


def _delete_unused(folder: str) -> None:
    """Delete the indexes of roots in which nothing new was read for three months."""
    for of_root in [os.path.join(folder, name) for name in os.listdir(folder)]:
        with contextlib.suppress(OSError):  # another reader was quicker
            if os.lstat(of_root).st_mtime < time.time() - _UNUSED_S and _is_ours(of_root):
                for name in os.listdir(of_root):
                    if name.endswith((_ENDING, ".tmp")):
                        os.unlink(os.path.join(of_root, name))
                os.rmdir(of_root)


def _delete_leftover(path: str) -> None:
    """Delete what a process left that died while writing: nobody writes for an hour."""
    with contextlib.suppress(OSError):
        if os.lstat(path).st_mtime < time.time() - 3600:
            os.unlink(path)
