"""A CSV with a header: a row of numbers a line, of one run or of many."""

import codecs
import csv
import gzip
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from itertools import chain
from typing import Any

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.importers.found import (
    FoundRow,
    FoundRun,
    Options,
    Unreadable,
    to_iso,
)
from experiment_tracking.importers.source_files import is_regular, only_regular

KIND = "csv"

_SUFFIXES = (".csv", ".tsv", ".csv.gz")
_STEPS = ("step", "global_step", "iteration", "iter", "training_iteration", "epoch")
_TIMES = ("time", "timestamp", "wall_time", "datetime", "date")
_EMPTY = ("", "-", "null", "none", "n/a", "na", "<na>", "nat")
_EARLIEST_S = 1e8
"""Numbers below are seconds since a run's start, not since 1970."""
_LATEST_S = 1e11
_DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d+(?:[eE][-+]?\d+)?)")
_DOTTED_DATE = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})\b(.*)")
_SNIFFED_BYTES = 1 << 16


def recognizes(path: str) -> bool:
    """Tell whether ``path`` is a file that its name says to be a CSV."""
    return path.lower().endswith(_SUFFIXES) and is_regular(path)


def runs(path: str, options: Options) -> Iterator[FoundRun | Unreadable]:
    """Yield the one run of a file, or one for each value of ``options.run_column``.

    With a run column the whole file is held in memory.
    """
    path = os.path.abspath(path)
    folder, name = os.path.split(path)
    name = name.partition(".")[0] or name
    if options.run_column is None:
        found = FoundRun(KIND, path, path, name, os.path.basename(folder) or "csv")
        table_run(found, path, options)
        found.rows = _with_numbers(found.rows, path)
        yield found
        return
    header, lines = read_lines(path)
    column = _place(header, options.run_column, "--run-column")
    groups: dict[str, list[list[str]]] = {}
    for line in lines:
        groups.setdefault(line[column], []).append(line)
    for value, group in groups.items():
        found = FoundRun(KIND, path, f"{path}#{value}", value or "run", name)
        table = Table(header, options, leave_out={column})
        found.rows = table.rows(group, found)
        found.created_at = _begin(table, group[0], path)
        yield found


def _with_numbers(rows: Iterable[FoundRow], path: str) -> Iterator[FoundRow]:
    """Yield the rows; if there is not one number, the table is of another kind."""
    empty = True
    for row in rows:
        empty = empty and not row[2]
        yield row
    if empty:
        raise InvalidValueError(
            f"{path} has no number below its header. The first line names the columns; numbers "
            "are written 1234.5, or 1234,5 where something else than commas parts the columns."
        )


def table_run(found: FoundRun, path: str, options: Options) -> None:
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
    found.rows = table.rows([] if first is None else chain([first], lines), found)


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
    with open(path, "rb", opener=only_regular) as raw:
        plain: Any = gzip.GzipFile(fileobj=raw) if path.lower().endswith(".gz") else raw
        encoding = _encoding(plain.read(_SNIFFED_BYTES))
        plain.seek(0)
        text = TextIOWrapper(plain, encoding, errors="replace", newline="")
        first = text.readline()
        text.seek(0)
        # Of separators the one that is there most; a decimal comma asks for a semicolon.
        separator = max(",;\t|", key=first.count)
        try:
            for line in csv.reader((line.replace("\0", "") for line in text), delimiter=separator):
                yield line if separator == "," else [*map(_with_point, line)]
        except csv.Error as error:
            raise OSError(f"{path}: {error}") from error


def _encoding(start: bytes) -> str:
    """Tell how a text is encoded: as spreadsheets do, where it is no UTF-8."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"


def _with_point(text: str) -> str:
    match = _DECIMAL_COMMA.fullmatch(text.strip()) if "," in text else None
    return f"{match[1]}.{match[2]}" if match else text


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
        self._params = [(name, _place(header, name, "--params")) for name in options.params]
        left = {*leave_out, self._step, *(place for _, place in self._params)}
        self._metrics = [
            (name, place) for place, name in enumerate(header) if name and place not in left
        ]

    def time(self, line: Sequence[str]) -> float | None:
        """Return the Unix seconds of a line, if it has them."""
        return None if self._time is None else to_seconds(line[self._time])

    def rows(self, lines: Iterable[list[str]], found: FoundRun) -> Iterator[FoundRow]:
        """Turn lines into rows; what is no number is sorted out behind the last."""
        metrics: list[tuple[str, int]] | None = None
        numbers: set[str] = set()
        texts: dict[str, list[str]] = {}
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
                        _note(texts, name, text)
            for name, place in self._params:
                _note(texts, name, line[place])
            numbers.update(values)
            yield self._to_step(line), self.time(line), values
        self._sort(texts, numbers, found)

    def _sort(self, texts: dict[str, list[str]], numbers: set[str], found: FoundRun) -> None:
        """Make params of what is the same in all lines, and say what is left out."""
        wanted = dict(self._params)
        for name, (first, *others) in texts.items():
            # Lightning and Ray have files of their own for params.
            if not others and name not in numbers and (name in wanted or found.kind == KIND):
                found.params = {**found.params, name: _plain(first)}
            elif name in wanted:
                found.not_carried.append(f"column {name!r}: a param has one value, this has more")
            else:
                found.not_carried.append(f"column {name!r}: {first!r:.60} is no number")

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


def _note(texts: dict[str, list[str]], name: str, text: str) -> None:
    # Two are enough to see that a column is not the same in all lines.
    seen, text = texts.setdefault(name, []), text.strip()
    if len(seen) < 2 and text not in seen:
        seen.append(text)


def _plain(text: str) -> Any:
    number = _float(text)
    return int(text) if text.isascii() and text.isdigit() else text if number is None else number


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


def _year_first(match: re.Match[str]) -> str:
    # Between dots the day is first, wherever that is written.
    return f"{match[3]}-{match[2]:>02}-{match[1]:>02}{match[4]}"


def to_seconds(text: str) -> float | None:
    """Read a time: Unix seconds, milli-, micro- or nanoseconds, or ISO 8601 (UTC by default).

    >>> to_seconds("1700000000000"), to_seconds("2023-11-14 22:13:20"), to_seconds("12.5")
    (1700000000.0, 1700000000.0, None)
    >>> to_seconds("14.11.2023 22:13")
    1699999980.0
    """
    number = _float(text)
    if number is None:
        try:
            moment = datetime.fromisoformat(_DOTTED_DATE.sub(_year_first, text.strip()))
        except ValueError:
            return None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not _EARLIEST_S <= number < float("inf"):
        return None
    while number > _LATEST_S:
        number /= 1000
    return number
