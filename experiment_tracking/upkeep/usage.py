"""How many bytes runs take, and what for."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.registry.moves import Run, to_folder
from experiment_tracking.registry.progress import Progress
from experiment_tracking.registry.summary import Unreadable

T = TypeVar("T")

_FOLDERS = ("tensorboard", "artifacts", "models", "figures", "code")
KINDS = ("history", *_FOLDERS, "console", "other")
"""What the bytes of a run are counted as; ``other`` are its documents and whatever else."""


_Inode = tuple[int, int]


class Usage(NamedTuple):
    """What one run takes on disk, or one registered model."""

    path: str
    """Folder of the run or model."""
    size_bytes: int
    """Lengths of all files together (not blocks), a file with several names once."""
    files: int
    kinds: dict[str, int]
    """Bytes of each of :data:`KINDS` that it has, the largest first."""
    shared_bytes: int = 0
    """Of these, in files that have a name elsewhere too: a registered version keeps the weights."""

    @property
    def freed_bytes(self) -> int:
        """What deleting it frees: its size without what is shared."""
        return self.size_bytes - self.shared_bytes

    @property
    def key(self) -> str:
        """``project/name``; of a registered model ``_models/name``."""
        folder = RunFolder(self.path)
        return f"{folder.project}/{folder.name}"


def usage(runs: Iterable[Run], problems: list[Unreadable] | None = None) -> list[Usage]:
    """Measure runs on disk.

    Parameters
    ----------
    runs
        Records or paths; damaged runs too, and registered models
        (:func:`~experiment_tracking.folder.layout.iter_models`).
    problems
        Takes the folders that cannot be listed.

    Returns
    -------
    list of Usage
        One per run. Links are not followed. A file that several of them share by hard links counts
        for the first; it is shared if not all of its names are among them. Costs a stat per file.
    """
    seen: dict[_Inode, _Linked] = {}
    kept: list[Unreadable] = [] if problems is None else problems
    paths = [to_folder(run).path for run in runs]
    measured = []
    with Progress("measuring") as progress:
        for path in paths:
            measured.append(_measure(path, seen, kept))
            progress(len(measured), len(paths))
    shared: Counter[str] = Counter()
    for linked in seen.values():
        if linked.found < linked.names:
            shared[linked.path] += linked.size_bytes
    return [each._replace(shared_bytes=shared[each.path]) for each in measured]


@dataclass
class _Linked:
    """A file with several names, of which some may be elsewhere."""

    path: str
    """Of the first run that has it."""
    size_bytes: int
    names: int
    found: int = 0


def _measure(path: str, seen: dict[_Inode, _Linked], problems: list[Unreadable]) -> Usage:
    kinds: dict[str, int] = {}
    files = 0
    for inside, found in _files(path, problems):
        if found.st_nlink > 1:
            inode = found.st_dev, found.st_ino
            is_new = inode not in seen
            linked = seen.setdefault(inode, _Linked(path, found.st_size, found.st_nlink))
            linked.found += 1
            if not is_new:
                continue
        kind = _kind(inside)
        kinds[kind] = kinds.get(kind, 0) + found.st_size
        files += 1
    largest_first = dict(sorted(kinds.items(), key=lambda pair: -pair[1]))
    return Usage(path, sum(kinds.values()), files, largest_first)


def _files(path: str, problems: list[Unreadable]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each file's name inside the run, and its stat; links are files."""
    folders = [path]
    while folders:
        folder = folders.pop()
        for entry in _asked(folder, partial(_entries, folder), problems) or ():
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif found := _asked(entry.path, partial(entry.stat, follow_symlinks=False), problems):
                yield entry.path[len(path) + 1 :], found


def _entries(folder: str) -> "list[os.DirEntry[str]]":
    with os.scandir(folder) as entries:
        return list(entries)


def _asked(path: str, ask: Callable[[], T], problems: list[Unreadable]) -> T | None:
    try:
        return ask()
    except FileNotFoundError:  # Deleted or moved meanwhile.
        return None
    except OSError as error:
        problems.append(Unreadable(path, str(error)))
        return None


def _kind(inside: str) -> str:
    top, below, _ = inside.partition("/")
    if below:
        if top == "versions":  # of a registered model
            return "models"
        return top if top in _FOLDERS else "other"
    if top.startswith("metrics_history"):
        return "history"
    return "console" if top.startswith("console.log") else "other"
