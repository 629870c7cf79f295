"""The table of many runs, gathered run by run: columns grow, nothing else is kept."""

import math
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.layout import FORMAT, RunFolder
from experiment_tracking.folder.values import from_stored, shown_name
from experiment_tracking.registry.record import Problem, RunRecord, digested_bytes

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
_UNUSUAL = (OSError, ValueError, TypeError, KeyError, AttributeError)


class RunTable:
    """Columns of a table of runs.

    Parameters
    ----------
    problems
        List that takes what could not be read.
    """

    def __init__(self, problems: list[Problem]) -> None:
        self._problems = problems
        self._length = 0
        self._runs = _Columns(list)
        self._params = _Columns(list)
        self._metrics = _Columns(_no_floats)
        self._tags = _Columns(list)

    def add_path(self, path: str) -> bool:
        """Add the run in ``path`` if it has ended and nothing about it is unusual; tell whether.

        Three system calls a file, and no look at what the table does not show: of ten thousand
        runs every microsecond counts. Whatever stands out is left to :meth:`add`, which is
        careful.
        """
        try:
            data = _read_small(path + _PARAMS)
            if data.rfind(b"{"):  # nested
                return False
            params = orjson.loads(data)
            summary = orjson.loads(_read_small(path + _SUMMARY))
            if summary["format"] != FORMAT or digested_bytes(summary) is not None:
                return False
            _, project, name = path.rsplit("/", 2)
            run = (name, project, summary["status"], summary["created_at"],
                   summary["duration_s"], summary["id"])  # fmt: skip
            metrics = summary["metrics"]
            last = array("d", [kept["last"] for kept in metrics.values()])
            settings = params.values()
            tags = summary["tags"]
            words = tags.values()
        except _UNUSUAL:
            return False
        self._runs.add(self._length, RUN_COLUMNS, run)
        self._params.add(self._length, tuple(params), settings)
        self._metrics.add(self._length, tuple(metrics), last)
        if tags:
            self._tags.add(self._length, tuple(tags), words)
        self._length += 1
        return True

    def add(self, record: RunRecord) -> None:
        """Add a run; what of it cannot be read stays empty and is noted as a problem."""
        self._fill(self._runs, _identity, record)
        self._fill(self._params, _flat_params, record)
        self._fill(self._metrics, _last_values, record)
        self._fill(self._tags, _tags, record)
        self._length += 1

    def _fill(
        self,
        columns: "_Columns",
        read: Callable[[RunRecord], Mapping[str, Any]],
        record: RunRecord,
    ) -> None:
        try:
            row = read(record)
        except (DamagedError, OSError) as error:
            note(self._problems, record, error)
        else:
            columns.add(self._length, tuple(row), row.values())

    def to_frame(self) -> "pd.DataFrame":
        """Return the table that ``RunSet.to_frame`` describes."""
        import pandas as pd

        count = self._length
        table: dict[str, Any] = dict.fromkeys(RUN_COLUMNS, ()) | self._runs.take(count)
        table["created_at"] = _to_times(table["created_at"])
        table["duration_s"] = to_floats(table["duration_s"])
        for name, values in self._params.take(count).items():
            table[f"params.{name}"] = values
        for name, values in self._metrics.take(count).items():
            table[f"metrics.{shown_name(name)}"] = to_floats(values)
        for name, values in self._tags.take(count).items():
            table[f"tags.{name}"] = values
        return pd.DataFrame(table, copy=False)


class _Columns:
    """One list per name out of one mapping per run, None in the gaps.

    Runs that have the same names share one flat list of values, row behind row, so that a column
    is a slice; that is several times faster than going through the names of each run.
    """

    def __init__(self, new: Callable[[], Any]) -> None:
        self._new = new
        self._groups: dict[tuple[str, ...], tuple[list[int], Any]] = {}

    def add(self, place: int, names: tuple[str, ...], values: Iterable[Any]) -> None:
        group = self._groups.get(names)
        if group is None:
            group = self._groups[names] = ([], self._new())
        group[0].append(place)
        group[1].extend(values)

    def take(self, count: int) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for names, (places, values) in self._groups.items():
            for position, name in enumerate(names):
                column = values[position :: len(names)]
                if len(places) < count:
                    column = _scatter(column, places, columns.get(name) or [None] * count)
                columns[name] = column
        return columns


def flat(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return nested params under names joined by dots.

    >>> flat({"lr": 0.1, "model": {"depth": 2}})
    {'lr': 0.1, 'model.depth': 2}
    """
    columns: dict[str, Any] = {}
    for name, value in params.items():
        if type(value) is dict and value:
            columns |= {f"{name}.{inner}": one for inner, one in flat(value).items()}
        else:
            columns[name] = value
    return columns


def note(problems: list[Problem], record: RunRecord, error: Exception) -> None:
    """Keep that a file of a run could not be read, once."""
    problem = Problem(record.folder.path, str(error))
    if problem not in problems:
        problems.append(problem)


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


def _scatter(values: Iterable[Any], places: Iterable[int], target: list[Any]) -> list[Any]:
    for place, value in zip(places, values, strict=True):
        target[place] = value
    return target


def _no_floats() -> "array[float]":
    return array("d")


def _identity(record: RunRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in RUN_COLUMNS}


def _flat_params(record: RunRecord) -> Mapping[str, Any]:
    return flat(record.params)


def _last_values(record: RunRecord) -> dict[str, float]:
    numbers = {n: from_stored(kept.get("last")) for n, kept in record.stored_metrics.items()}
    return {name: math.nan if number is None else number for name, number in numbers.items()}


def _tags(record: RunRecord) -> Mapping[str, Any]:
    return record.tags


def _to_times(values: Sequence[Any]) -> "pd.Series[Any]":
    import pandas as pd

    series = pd.Series(list(values), dtype=object)
    return pd.to_datetime(series, utc=True, format="ISO8601", errors="coerce")
