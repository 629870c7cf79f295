"""How many bytes runs take, and what for."""

import os
from collections.abc import Callable, Iterable, Iterator
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


class Usage(NamedTuple):
    """What one run takes on disk."""

    path: str
    """Folder of the run."""
    size_bytes: int
    """Lengths of all files together (not blocks), a file with several names once."""
    files: int
    kinds: dict[str, int]
    """Bytes of each of :data:`KINDS` that it has, the largest first."""

    @property
    def key(self) -> str:
        """``project/name``."""
        folder = RunFolder(self.path)
        return f"{folder.project}/{folder.name}"


def usage(runs: Iterable[Run], problems: list[Unreadable] | None = None) -> list[Usage]:
    """Measure runs on disk.

    Parameters
    ----------
    runs
        Records or paths; damaged runs too.
    problems
        Takes the folders that cannot be listed.

    Returns
    -------
    list of Usage
        One per run. Links are not followed. A file that several runs share by hard links counts
        for the first. Costs a stat per file.
    """
    seen: set[tuple[int, int]] = set()
    kept: list[Unreadable] = [] if problems is None else problems
    paths = [to_folder(run).path for run in runs]
    measured = []
    with Progress("measuring") as progress:
        for path in paths:
            measured.append(_measure(path, seen, kept))
            progress(len(measured), len(paths))
    return measured


def _measure(path: str, seen: set[tuple[int, int]], problems: list[Unreadable]) -> Usage:
    kinds: dict[str, int] = {}
    files = 0
    for inside, found in _files(path, problems):
        if found.st_nlink > 1:
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
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
        return top if top in _FOLDERS else "other"
    if top.startswith("metrics_history"):
        return "history"
    return "console" if top.startswith("console.log") else "other"
