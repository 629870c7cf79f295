"""A CSV with a header: a row of numbers a line, of one run or of many."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.importers.imported import (
    FoundRow,
    FoundRun,
    Options,
    Unreadable,
    to_iso,
)

KIND = "csv"

_SUFFIXES = (".csv", ".tsv", ".csv.gz")
_STEPS = ("step", "global_step", "iteration", "iter", "training_iteration", "epoch")
_TIMES = ("time", "timestamp", "wall_time", "datetime", "date")
_EMPTY = ("", "-", "null", "none", "n/a", "na")
_EARLIEST_S = 1e8
"""Numbers below are seconds since a run's start, not since 1970."""
_LATEST_S = 1e11


def recognizes(path: str) -> bool:
    """Tell whether ``path`` is a file that its name says to be a CSV."""
    return path.lower().endswith(_SUFFIXES) and os.path.isfile(path)


def runs(path: str, options: Options) -> Iterator[FoundRun | Unreadable]:
    """Yield the one run of a file, or one for each value of ``options.run_column``.

    With a run column the whole file is held in memory.
    """
    path = os.path.abspath(path)
    folder, name = os.path.split(path)
    name = name.partition(".")[0] or name
    if options.run_column is None:
        found = FoundRun(KIND, path, path, name, os.path.basename(folder) or "csv")
        yield table_run(found, path, options)
        return
    header, lines = read_lines(path)
    column = _place(header, options.run_column, "--run-column")
    groups: dict[str, list[list[str]]] = {}
    for line in lines:
        groups.setdefault(line[column], []).append(line)
    for value, group in groups.items():
        found = FoundRun(KIND, path, f"{path}#{value}", value or "run", name)
        table = Table(header, options, leave_out={column})
        found.rows = table.rows(group, found.not_carried)
        found.created_at = _begin(table, group[0], path)
        yield found


def table_run(found: FoundRun, path: str, options: Options) -> FoundRun:
    """Give a run the rows of a table in a file.

    Raises
    ------
    OSError
        If the file cannot be read.
    InvalidValueError
        If it has no header, or not the columns that the options name.
    """
    header, lines = read_lines(path)
    table, first = Table(header, options), next(lines, None)
    found.created_at = _begin(table, first, path)
    found.rows = table.rows([] if first is None else chain([first], lines), found.not_carried)
    return found


def _begin(table: "Table", first: Sequence[str] | None, path: str) -> str | None:
    # Without times in it, it is as old as the file.
    seconds = None if first is None else table.time(first)
    return to_iso(os.stat(path).st_mtime if seconds is None else seconds)


def read_lines(path: str) -> tuple[list[str], Iterator[list[str]]]:
    """Return a file's header, and an iterator over the lines below it, filled up to its width."""
    lines = _lines(path)
    header = [name.strip() for name in next(lines, [])]
    if not any(header):
        raise InvalidValueError(f"{path} has no header. Put the columns' names in its first line.")
    return header, (line + [""] * (len(header) - len(line)) for line in lines if any(line))


def _lines(path: str) -> Iterator[list[str]]:
    import gzip

    opened = gzip.open if path.lower().endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        file.seek(0)
        # Of separators the one that is there most; a decimal comma asks for a semicolon.
        separator = max(",;\t|", key=first.count)
        try:
            yield from csv.reader((line.replace("\0", "") for line in file), delimiter=separator)
        except csv.Error as error:
            raise OSError(f"{path}: {error}") from error


def _place(header: Sequence[str], name: str, option: str) -> int:
    if name not in header:
        raise InvalidValueError(
            f"{option}: there is no column {name!r}. The columns are {', '.join(header)}."
        )
    return header.index(name)


class Table:
    """Which column is what.

    Parameters
    ----------
    header
        Names of the columns.
    options
        May name the columns of steps and times; else they are known by their names.
    leave_out
        Places of columns that are no metrics.
    """

    def __init__(
        self, header: Sequence[str], options: Options, leave_out: Iterable[int] = ()
    ) -> None:
        self._step = _find(header, options.step, _STEPS, "--step")
        self._time = _find(header, options.time, _TIMES, "--time")
        self._insists_on_time = options.time is not None
        left = {*leave_out, self._step}
        self._metrics = [
            (name, place) for place, name in enumerate(header) if name and place not in left
        ]

    def time(self, line: Sequence[str]) -> float | None:
        """Return the Unix seconds of a line, if it has them."""
        return None if self._time is None else to_seconds(line[self._time])

    def rows(self, lines: Iterable[list[str]], not_carried: list[str]) -> Iterator[FoundRow]:
        """Turn lines into rows; note the columns in which there is text."""
        texts: dict[str, None] = {}
        metrics: list[tuple[str, int]] | None = None
        for line in lines:
            if metrics is None:
                metrics = self._without_time(line)
            values: dict[str, Any] = {}
            for name, place in metrics:
                text = line[place]
                try:
                    values[name] = float(text)
                except ValueError:
                    if text.strip().lower() not in _EMPTY:
                        texts[name] = None
            yield self._to_step(line), self.time(line), values
        not_carried += [f"column {name!r}: it holds text" for name in texts]

    def _without_time(self, line: Sequence[str]) -> list[tuple[str, int]]:
        # A column of seconds since the start keeps its place among the metrics.
        if self.time(line) is None and not self._insists_on_time:
            self._time = None
        return [(name, place) for name, place in self._metrics if place != self._time]

    def _to_step(self, line: Sequence[str]) -> Any:
        text = "" if self._step is None else line[self._step].strip()
        try:
            return int(text)
        except ValueError:
            return _float(text) if text else None


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _find(
    header: Sequence[str], named: str | None, known: Sequence[str], option: str
) -> int | None:
    if named is not None:
        return _place(header, named, option)
    plain = [name.lower().strip("_ ").replace(" ", "_") for name in header]
    return next((plain.index(name) for name in known if name in plain), None)


def to_seconds(text: str) -> float | None:
    """Read a time: Unix seconds, milli-, micro- or nanoseconds, or ISO 8601 (UTC by default).

    >>> to_seconds("1700000000000"), to_seconds("2023-11-14 22:13:20"), to_seconds("12.5")
    (1700000000.0, 1700000000.0, None)
    """
    number = _float(text)
    if number is None:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not _EARLIEST_S <= number < float("inf"):
        return None
    while number > _LATEST_S:
        number /= 1000
    return number
