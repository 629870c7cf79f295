"""The table of many runs, gathered run by run: columns grow, nothing else is kept."""

import math
import os
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.layout import FORMAT, RunFolder
from experiment_tracking.folder.liveness import FINAL
from experiment_tracking.folder.values import from_stored, shown_name
from experiment_tracking.registry.record import CLOSING_BYTES, RunRecord, Unreadable, flat, note

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

RUN_COLUMNS = ("name", "project", "status", "created_at", "duration_s", "id")
"""Columns of every table of runs, before params, metrics and tags."""

_HERE = RunFolder(".")
_SUMMARY = _HERE.summary.removeprefix(_HERE.path)
_PARAMS = _HERE.params.removeprefix(_HERE.path)
_SMALL_BYTES = 2**16
_FLAGS = os.O_RDONLY
for _flag in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"):
    _FLAGS |= getattr(os, _flag, 0)
# What stands behind a metric's last value, as our own writer lays it out. Cutting it away before
# parsing takes a third less time than parsing it. Were it ever to hold a brace, what is left would
# be no JSON, and the run would be read the careful way.
_REST_OF_METRIC = re.compile(rb',\n      "last_step"[^}]*')
_UNUSUAL = (OSError, ValueError, TypeError, KeyError, AttributeError)


class _Group:
    """Runs with the same names: their cells row behind row, so that a column is a slice.

    That is several times faster than going through the names of each run. Metrics are kept as
    bare doubles: objects strewn over memory are slow to come back to.
    """

    def __init__(self, names: Sequence[str | None]) -> None:
        self.names = names
        self.places: list[int] = []
        self.cells: list[Any] = []
        self.numbers = array("d")

    def columns(self) -> Iterator[tuple[str, Any]]:
        """Yield names as they stand in the table, and values."""
        first = self.names.index(None)
        second = self.names.index(None, first + 1)
        params = [f"params.{name}" for name in self.names[:first]]
        metrics = [f"metrics.{shown_name(name or '')}" for name in self.names[first + 1 : second]]
        tags = [f"tags.{name}" for name in self.names[second + 1 :]]
        yield from _slices(self.cells, [*RUN_COLUMNS, *params, *tags])
        yield from _slices(self.numbers, metrics)


def _slices(cells: Any, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for position, name in enumerate(names):
        yield name, cells[position :: len(names)]


class RunTable:
    """Columns of a table of runs.

    Parameters
    ----------
    problems
        List that takes what could not be read.
    """

    def __init__(self, problems: list[Unreadable]) -> None:
        self._problems = problems
        self._length = 0
        self._groups: dict[tuple[str | None, ...], _Group] = {}
        self._group = _Group([])

    def add_path(self, path: str) -> bool:
        """Add the run in ``path`` if it has ended and nothing about it is unusual; tell whether.

        Three system calls a file, and no look at what the table does not show: of ten thousand
        runs every microsecond counts. Whatever stands out is left to :meth:`add`.
        """
        try:
            data = _read_small(path + _PARAMS)
            if data.rfind(b"{"):  # nested
                return False
            params = orjson.loads(data)
            summary = orjson.loads(_REST_OF_METRIC.sub(b"", _read_small(path + _SUMMARY)))
            history = summary["history"]
            if (
                summary["format"] != FORMAT
                or summary["status"] not in FINAL
                or type(summary["created_at"]) is not str
                or history["digested_bytes"] + CLOSING_BYTES < history["bytes"]
            ):
                return False
            metrics = summary["metrics"]
            last = [kept["last"] for kept in metrics.values()]
            _, project, name = path.rsplit("/", 2)
            run = (name, project, summary["status"], summary["created_at"],
                   summary["duration_s"], summary["id"])  # fmt: skip
            self._add(run, params, metrics, last, summary["tags"])
        except _UNUSUAL:
            return False
        return True

    def add(self, record: RunRecord) -> None:
        """Add a run; what of it cannot be read stays empty and is noted as a problem."""
        run = [getattr(record, name) for name in RUN_COLUMNS]
        params = self._readable(_flat_params, record)
        metrics = self._readable(_stored_metrics, record)
        last = [_to_float(kept.get("last")) for kept in metrics.values()]
        self._add(run, params, metrics, last, record.tags)

    def _readable(
        self, read: Callable[[RunRecord], Mapping[str, Any]], record: RunRecord
    ) -> Mapping[str, Any]:
        try:
            return read(record)
        except (DamagedError, OSError) as error:
            note(self._problems, record, error)
            return {}

    def _add(
        self,
        run: Sequence[Any],
        params: Mapping[str, Any],
        metrics: Mapping[str, Any],
        last: list[float],
        tags: Mapping[str, Any],
    ) -> None:
        names = [*params, None, *metrics, None, *tags]
        cells = (*run, *params.values(), *tags.values())
        group = self._group
        if names != group.names:  # mostly they are those of the run before
            group = self._groups.get(tuple(names)) or _Group(names)
        group.numbers.fromlist(last)  # first: it takes all or, with an error, nothing
        if not group.places:
            self._groups[tuple(names)] = group
        self._group = group
        group.cells += cells
        group.places.append(self._length)
        self._length += 1

    def to_frame(self) -> "pd.DataFrame":
        """Return the table that ``RunSet.to_frame`` describes."""
        return to_frame(self._columns())

    def _columns(self) -> dict[str, Any]:
        """Columns in the order run, params, metrics, tags; None in the gaps."""
        columns: dict[str, Any] = {name: [] for name in RUN_COLUMNS}
        for group in self._groups.values():
            for name, values in group.columns():
                if len(values) == self._length:
                    columns[name] = values
                    continue
                column = columns.get(name) or [None] * self._length
                for place, value in zip(group.places, values, strict=True):
                    column[place] = value
                columns[name] = column
        return {name: columns[name] for name in sorted(columns, key=_kind)}


def _kind(column: str) -> int:
    return ("params", "metrics", "tags").index(column.split(".")[0]) if "." in column else -1


def to_frame(columns: dict[str, Any]) -> "pd.DataFrame":
    """Turn columns of runs into a table: times in UTC, durations and metrics as floats."""
    import pandas as pd

    for name, values in columns.items():
        if name.startswith("metrics.") or name == "duration_s":
            columns[name] = to_floats(values)
        elif name in ("created_at", "ended_at"):
            columns[name] = _to_times(values)
    return pd.DataFrame(columns, copy=False)


def to_floats(values: Sequence[Any]) -> "NDArray[Any]":
    """Turn stored numbers into floats: NaN for None, the words for NaN and infinity as such."""
    import numpy as np

    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([from_stored(value) for value in values], dtype=np.float64)


def _read_small(path: str) -> bytes:
    # A longer file is cut here and then is no JSON. A pipe in its place gives nothing at once.
    fd = os.open(path, _FLAGS)
    try:
        return os.read(fd, _SMALL_BYTES)
    finally:
        os.close(fd)


def _to_float(stored: Any) -> float:
    number = from_stored(stored)
    return math.nan if number is None else number


def _flat_params(record: RunRecord) -> Mapping[str, Any]:
    return flat(record.params)


def _stored_metrics(record: RunRecord) -> Mapping[str, Any]:
    return record.stored_metrics


def _to_times(values: Sequence[Any]) -> "pd.Series[Any]":
    import pandas as pd

    series = pd.Series(list(values), dtype=object)
    return pd.to_datetime(series, utc=True, format="ISO8601", errors="coerce")
