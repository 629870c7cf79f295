"""Import TensorBoard event files: scalars, hparams, images, texts, histograms and audio.

What is a run follows TensorBoard: each folder that holds event files, called by its path below the
folder that was given. Two calls of its writers make folders that are no runs of their own, and
those are put back: ``add_hparams`` one named by the time, ``add_scalars`` one for each curve.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.importers.found import FoundRun, Options, Unreadable, reading, to_iso
from experiment_tracking.importers.tensorboard_log import TensorBoardLog
from experiment_tracking.importers.tfrecords import EventFile

KIND = "tensorboard"

_BY_TIME = re.compile(r"\d{9,10}\.\d+")
_NUMBERS = re.compile(r"(\d+)")


def recognizes(path: str) -> bool:
    """Tell event files, and folders with some in them or in a folder right below."""
    if not os.path.isdir(path):
        return _is_event_file(path)
    try:
        with os.scandir(path) as entries:
            return any(
                _holds_event_files(entry.path) if entry.is_dir() else _is_event_file(entry.name)
                for entry in entries
            )
    except OSError:  # not for us to read
        return False


def runs(path: str, options: Options) -> Iterator[FoundRun | Unreadable]:
    """Iterate over the runs below a folder, or give the one of a file.

    Of each run in turn, the points are held in memory, 28 bytes each, and what is no scalar in a
    temporary folder.
    """
    tree = _Tree(path)
    for place in tree.places():
        yield reading(tree.path(place), partial(tree.run, place))


class _Tree:
    """The folders with event files below a source, and which of them belong together.

    A place is a folder with event files, by its path below the source, with ``/``.
    """

    def __init__(self, source: str) -> None:
        source = os.path.realpath(source)
        self._top = source if os.path.isdir(source) else os.path.dirname(source)
        self._files: dict[str, list[str]] = {}
        self._below: dict[str | None, list[str]] = {}
        self._other_files: Counter[str | None] = Counter()
        self._claimed: set[str] = set()
        self._read: dict[str, TensorBoardLog] = {}
        if source == self._top:
            self._walk()
        else:
            self._files[""] = [source]

    def _walk(self) -> None:
        for folder, below, names in os.walk(self._top):
            # A run folder's event files are derived from it.
            below[:] = [name for name in below if not RunFolder(f"{folder}/{name}").exists()]
            below.sort(key=_natural)
            place = os.path.relpath(folder, self._top).replace(os.sep, "/").removeprefix(".")
            owner = self._nearest(place)
            events = sorted(filter(_is_event_file, names), key=_natural)
            if events:
                self._files[place] = [os.path.join(folder, name) for name in events]
                self._below.setdefault(owner, []).append(place)
                owner = place
            self._other_files[owner] += len(names) - len(events)

    def _nearest(self, place: str) -> str | None:
        """Return the nearest place above a folder."""
        while place:
            place = place.rpartition("/")[0]
            if place in self._files:
                return place
        return None

    def places(self) -> Iterator[str]:
        """Iterate over the places that are runs; what belongs to a run is claimed with it."""
        for place in self._files:
            if place not in self._claimed:
                yield place

    def path(self, place: str) -> str:
        """Return the folder of a place."""
        return os.path.join(self._top, *place.split("/")) if place else self._top

    def run(self, place: str) -> FoundRun:
        """Read a place and those that belong to it."""
        log = self._log(place)
        below = self._below.get(place, [])
        sessions = [part for part in below if _BY_TIME.fullmatch(part.rpartition("/")[2])]
        for part in below:
            if sessions == [part]:  # several are the trials of a search, each with its own params
                log.add(self._log(part), None)
                self._claimed.add(part)
            elif curve := self._curve(place, part):
                log.add(self._log(part), curve)
                self._claimed.add(part)
        return self._found(place, log)

    def _log(self, place: str) -> TensorBoardLog:
        return self._read.pop(place, None) or TensorBoardLog(self._files[place])

    def _curve(self, place: str, part: str) -> str | None:
        """Name the curve that add_scalars gave a folder of its own, if that is what it is."""
        folder = part[len(place) :].lstrip("/")
        first = next(_tags(self._files[part]), "")
        start = first.replace("/", "_") + "_"
        if not first or not folder.startswith(start):
            return None
        log = self._read[part] = TensorBoardLog(self._files[part])
        is_one = [*log.points.tags] == [first] and not (log.params or log.files)
        return f"{first}/{folder[len(start) :]}" if is_one else None

    def _found(self, place: str, log: TensorBoardLog) -> FoundRun:
        log.left_out["files beside the event files"] += self._other_files[place]
        above, top = os.path.split(self._top)
        project, name = (top, place.replace("/", "-")) if place else (os.path.basename(above), top)
        return FoundRun(
            kind=KIND,
            source=self.path(place),
            source_id=self.path(place),
            name=name,
            project=project,
            rows=log.points,
            params=log.params,
            notes=log.notes,
            group=log.group or None,
            created_at=to_iso(log.started_at_s),
            ended_at=to_iso(log.ended_at_s),
            status=log.status,
            files=log.files,
            not_carried=[f"{what}: {count}" for what, count in log.left_out.items() if count],
        )


def _tags(paths: list[str]) -> Iterator[str]:
    for path in paths:
        for event in EventFile(path):
            yield from (value.tag for value in event.summary.value)


def _is_event_file(path: str) -> bool:
    return "tfevents" in os.path.basename(path)


def _holds_event_files(folder: str) -> bool:
    try:
        return any(map(_is_event_file, os.listdir(folder)))
    except OSError:
        return False


def _natural(name: str) -> list[Any]:
    """Order numbers by their value: a process's tenth file comes behind its ninth."""
    parts = _NUMBERS.split(name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]
