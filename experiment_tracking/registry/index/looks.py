"""What the files of runs look like, which tells whether they have changed since they were read.

A process that helps imports this module and nothing else of the package.
"""

import os
import sys
from collections.abc import Callable, Sequence
from operator import attrgetter

Facts = tuple[int, int, int, int, int]

START_RUNS = 2500
"""As many runs are looked at in the time in which a process starts."""

_STEP = 1000

facts_of: Callable[[os.stat_result], Facts] = attrgetter(
    "st_mtime_ns", "st_ctime_ns", "st_ino", "st_size", "st_nlink"
)
"""What of a file changes when it does. mtime alone can be put back, ctime cannot; the inode
tells a file from one that was renamed onto its name."""


def stamp_of(path: str, summary: Facts, params: Facts | tuple[()]) -> int:
    """Return a number for the state of the documents of the run in folder ``path``.

    Raises
    ------
    OSError
        If the folder cannot be looked at.
    """
    if summary[4] == 1:
        return hash((summary, params))
    # A copy by hard links has the same documents, yet amendments and rows of its own.
    return hash((summary, params, os.stat(path).st_ino))


def stamps(
    paths: Sequence[str],
    summary: str,
    params: str,
    progress: Callable[[int], None] | None = None,
) -> list[int]:
    """Return a number for the state of each run's documents; 0 where one cannot be looked at.

    Parameters
    ----------
    paths
        Folders of the runs.
    summary, params
        What comes behind them in the documents' paths.
    progress
        Called now and then with how many are done.
    """
    found = []
    look = os.lstat
    for place, path in enumerate(paths):
        if progress is not None and not place % _STEP:
            progress(place)
        try:
            pair = facts_of(look(path + summary)), facts_of(look(path + params))
            found.append(stamp_of(path, *pair))
        except OSError:
            found.append(0)
    return found


def to_stamps(data: bytes, count: int) -> list[int] | None:
    """Understand what :func:`serve` has printed for ``count`` runs; None if it is anything else."""
    try:
        found = list(map(int, data.split()))
    except ValueError:
        return None
    return found if len(found) == count else None


def serve(base: str, summary: str, params: str, *keys: str) -> None:
    """Print the stamps of runs, as a process of its own."""
    sys.stdout.write(" ".join(map(str, stamps([base + k for k in keys], summary, params))))
