"""Many runs as columns, which is what filters, orders and tables work on."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.values import from_stored
from experiment_tracking.registry.index.segments import NEVER, NUMBERS, Builder, Segment, kind_of
from experiment_tracking.registry.index.segments import RUN_COLUMNS as KEPT_COLUMNS
from experiment_tracking.registry.record import RunRecord, flat, note
from experiment_tracking.registry.summary import Unreadable

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

RUN_COLUMNS = ("name", "project", "status", "created_at", "duration_s", "id")
"""Columns of every table of runs, before params, metrics and tags."""

_TIMES = ("created_at", "ended_at")
_LAST = 2**63


class RunTable:
    """Many runs as columns, in memory; never changed. Needs neither pandas nor numpy.

    Columns are called ``status`` (any of :attr:`RUN_COLUMNS`), ``params.model.depth`` (nested
    ones joined by dots), ``tags.x``, ``metrics.val/loss`` (a metric's last value) and
    ``metrics.val/loss:min``: ``last``, ``last_step``, ``min``, ``min_step``, ``max``,
    ``max_step``, ``mean``, ``count``, ``best``, ``best_step``, ``first_nonfinite_step`` as
    floats, and ``goal``.

    Parameters
    ----------
    paths
        Folder of each run.
    segments
        What is known of the runs.
    rows
        Which row of the segments, counted on from one to the next, each run is.
    problems
        Runs that could not be read, or not wholly. Tables made from this one share the list.
    """

    RUN_COLUMNS = ("name", "project", *KEPT_COLUMNS)
    """Columns that every run has."""

    def __init__(
        self,
        paths: Sequence[str],
        segments: Sequence[Segment],
        rows: Sequence[int],
        problems: list[Unreadable],
    ) -> None:
        self.paths = list(paths)
        """Absolute folder of each run."""
        self.problems = problems
        """Runs that could not be read, or not wholly."""
        self._segments = segments or [Segment(0, [], {})]
        self._rows = rows
        self._names: dict[str, None] | None = None
        # Columns of all segments, kept for the tables that are taken from this one too.
        self._whole: dict[str, Sequence[Any]] = {}

    @classmethod
    def of(
        cls, records: Iterable[RunRecord], problems: list[Unreadable] | None = None
    ) -> "RunTable":
        """Return a table of records; what of one cannot be read stays empty and is a problem."""
        problems = [] if problems is None else problems
        builder = Builder()
        paths = []
        for record in records:
            paths.append(record.folder.path)
            add_record(builder, record, record.folder.path, problems)
        return cls(paths, [builder.segment()], range(len(paths)), problems)

    def __len__(self) -> int:
        return len(self.paths)

    def __add__(self, other: "RunTable") -> "RunTable":
        if self._segments is other._segments:  # two parts of one table
            rows = [*self._rows, *other._rows]
            return RunTable(self.paths + other.paths, self._segments, rows, self.problems)
        start = sum(map(len, self._segments))
        return RunTable(
            self.paths + other.paths,
            [*self._segments, *other._segments],
            [*self._rows, *(start + row for row in other._rows)],
            self.problems + other.problems,
        )

    def take(self, rows: Sequence[int]) -> "RunTable":
        """Return the runs at these places, in this order."""
        paths, own = self.paths, self._rows
        taken = RunTable(
            [paths[row] for row in rows], self._segments, [own[row] for row in rows], self.problems
        )
        taken._whole = self._whole
        return taken

    def names(self) -> list[str]:
        """Return the columns there are: of the run, then params, metrics and tags as first met."""
        return list(self._known())

    def _known(self) -> dict[str, None]:
        if self._names is None:
            most = len(set().union(*(segment.known() for segment in self._segments)))
            met: dict[str, None] = {}
            for shape in self._shapes():
                met.update(dict.fromkeys(shape))
                if len(met) == most:
                    break
            self._names = dict.fromkeys((*self.RUN_COLUMNS, *sorted(met, key=_kind)))
        return self._names

    def _shapes(self) -> Iterator[Sequence[str]]:
        """Iterate over the names that runs have, in the order in which they are met."""
        if "#shapes" not in self._whole:
            starts = accumulate((len(segment.shapes) for segment in self._segments), initial=0)
            self._whole["#shapes"] = [
                start + number
                for segment, start in zip(self._segments, starts, strict=False)
                for number in segment.values("#shape")
            ]
        numbers = self._whole["#shapes"]
        every = [(s.shapes, number) for s in self._segments for number in range(len(s.shapes))]
        for number in dict.fromkeys([numbers[row] for row in self._rows]):
            shapes, own = every[number]
            yield shapes[own]

    def column(self, name: str) -> list[Any]:
        """Return one value per run, None where it has none.

        Raises
        ------
        KeyError
            If no run has the column.
        """
        if name == "name":
            return [path.rpartition("/")[2] for path in self.paths]
        if name == "project":
            return [path.rsplit("/", 2)[1] for path in self.paths]
        values = self._values(self._key(name))
        return [values[row] for row in self._rows]

    def _key(self, name: str) -> str:
        """Return the name under which segments keep a column."""
        known = self._known()
        if name in known:
            return f"{name}:last" if name.startswith("metrics.") else name
        metric, _, number = name.rpartition(":")
        if metric.startswith("metrics.") and metric in known and number in (*NUMBERS, "goal"):
            return name
        raise KeyError(name)

    def _values(self, key: str) -> Sequence[Any]:
        """Return a column of all segments."""
        if key not in self._whole:
            each = [segment.values(key) for segment in self._segments]
            self._whole[key] = each[0] if len(each) == 1 else list(chain.from_iterable(each))
        return self._whole[key]

    def oldest_first(self) -> "RunTable":
        """Return the runs by the time they began, those without one last; equal ones as now."""
        begun = self._values("#created")
        times = [_LAST if begun[row] == NEVER else begun[row] for row in self._rows]
        return self.take(sorted(range(len(times)), key=times.__getitem__))

    # ------------------------------------------------------------------ for pandas

    def to_frame(self) -> "pd.DataFrame":
        """Return the table that ``RunSet.to_frame`` describes."""
        names = [*RUN_COLUMNS, *self.names()[len(self.RUN_COLUMNS) :]]
        index = _as_index(self._rows)
        return _as_frame({name: self._array(name, index) for name in names})

    def _array(self, name: str, index: Any) -> Any:
        """Return a column as pandas takes it without looking at each value."""
        if name in ("name", "project"):
            return self.column(name)
        if name == "created_at":
            import pandas as pd

            begun = self._joined("#created", "q")[index]
            return pd.Series(begun.view("datetime64[us]")).dt.tz_localize("UTC")
        key = self._key(name)
        columns = [segment.column(key) for segment in self._segments if key in segment]
        kinds = {kind_of(column.values) for column in columns}
        has_gaps = len(columns) < len(self._segments) or any(c.rows is not None for c in columns)
        if kinds == {"q"} and not has_gaps and not _is_number(name):
            return self._joined(key, "q")[index]
        if kinds == {"d"}:
            return self._joined(key, "d")[index]
        values = self.column(name)
        return to_floats(values) if _is_number(name) else values

    def _joined(self, key: str, kind: str) -> "NDArray[Any]":
        """Return numbers of all segments as one array; NaN in the gaps of doubles."""
        import numpy as np

        parts = []
        for segment in self._segments:
            part = np.full(len(segment), np.nan) if kind == "d" else np.zeros(len(segment), "i8")
            if key in segment:
                values, rows = segment.column(key)
                part[slice(None) if rows is None else _as_index(rows)] = values
            parts.append(part)
        return np.concatenate(parts)


def _kind(name: str) -> int:
    return ("params", "metrics", "tags").index(name.partition(".")[0])


def _as_index(rows: Sequence[int]) -> Any:
    import numpy as np

    return np.asarray(rows, dtype=np.intp)


def _is_number(name: str) -> bool:
    return name.startswith("metrics.") or name == "duration_s"


# ---------------------------------------------------------------------- records


def add_record(
    builder: Builder,
    record: RunRecord,
    key: str,
    problems: list[Unreadable],
    stamp: int = 0,
    more: int = 0,
) -> None:
    """Add a run to a builder; what of it cannot be read stays empty and is a problem.

    Parameters
    ----------
    key, stamp, more
        As :class:`Segment` has them. The stamp of a run that may change by itself, because it
        is being written or was not wholly read, becomes 0.
    """
    known = len(problems)
    status = record.status  # before the rows: those of a run that has ended are all there
    problems += record.problems
    params = _readable(lambda: _flat_params(record), record, problems)
    metrics = _readable(lambda: _numbers(record.stored_metrics), record, problems)
    if status == "running" or len(problems) > known:
        stamp = 0
    facts = [getattr(record, name) for name in KEPT_COLUMNS]
    builder.add((key, stamp, more, *facts), params, metrics, record.tags)


def _flat_params(record: RunRecord) -> Mapping[str, Any]:
    try:
        return flat(record.params)
    except RecursionError as error:
        raise DamagedError(f"{record.folder.params} is nested too deep to be read.") from error


def _readable(
    read: Callable[[], Mapping[str, Any]], record: RunRecord, problems: list[Unreadable]
) -> Mapping[str, Any]:
    try:
        return read()
    except (DamagedError, OSError) as error:
        note(problems, record, error)
        return {}


def _numbers(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return metrics' summaries without what is no number."""
    return {name: dict(_numbers_of(kept)) for name, kept in stored.items()}


def _numbers_of(kept: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in NUMBERS:
        number = from_stored(kept.get(name))
        if number is not None:
            yield name, _to_double(number)
    if type(kept.get("goal")) is str:
        yield "goal", kept["goal"]


def _to_double(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of hundreds of digits, which only others write
        return math.inf if number > 0 else -math.inf


# ---------------------------------------------------------------------- plain columns


def to_frame(columns: dict[str, Any]) -> "pd.DataFrame":
    """Turn columns of runs into a table: times in UTC, durations and metrics as floats."""
    for name, values in columns.items():
        if _is_number(name):
            columns[name] = to_floats(values)
        elif name in _TIMES:
            columns[name] = _to_times(values)
    return _as_frame(columns)


def _as_frame(columns: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.DataFrame(columns, copy=False)
    except UnicodeEncodeError:
        # The name of a folder that is not UTF-8 has no place in pandas' own kind of text.
        return pd.DataFrame({name: _as_series(values) for name, values in columns.items()})


def _as_series(values: Any) -> "pd.Series[Any]":
    import pandas as pd

    try:
        return pd.Series(values)
    except UnicodeEncodeError:
        return pd.Series(values, dtype=object)


def to_floats(values: Sequence[Any]) -> "NDArray[Any]":
    """Turn stored numbers into floats: NaN for None, the words for NaN and infinity as such."""
    import numpy as np

    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([from_stored(value) for value in values], dtype=np.float64)


def _to_times(values: Sequence[Any]) -> "pd.Series[Any]":
    import pandas as pd

    series = pd.Series(list(values), dtype=object)
    times = pd.to_datetime(series, utc=True, format="ISO8601", errors="coerce")
    return times.dt.as_unit("us")  # whatever the texts' precision is
