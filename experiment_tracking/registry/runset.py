"""Several runs: a sequence that filters, orders, ranks and turns into a table."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    MetricNotFoundError,
    in_words,
)
from experiment_tracking.folder.liveness import STATUSES
from experiment_tracking.folder.values import to_plain, to_stored, to_tags
from experiment_tracking.registry import columns
from experiment_tracking.registry.columns import find_metric, identity
from experiment_tracking.registry.record import RunRecord, flat, note
from experiment_tracking.registry.summary import Unreadable
from experiment_tracking.registry.table import RunTable

if TYPE_CHECKING:
    import pandas as pd

    from experiment_tracking.registry.aggregate import Aggregate, By
    from experiment_tracking.registry.importance import Importance
    from experiment_tracking.registry.plots import Plots

Tags = Mapping[str, Any] | Iterable[str] | str
Where = str | Callable[[RunRecord], bool]
T = TypeVar("T")

_KEYWORDS = (
    "Besides columns, list_experiments takes project, where, status, tags, order_by, limit and "
    "refresh."
)
_MODES = {"min": "min", "minimize": "min", "max": "max", "maximize": "max"}


class RunSet(Sequence[RunRecord]):
    """Runs in an order; never changed, every method gives a new one.

    Filters, orders and tables work on columns that were read together, so they take
    milliseconds for ten thousand runs. A run's own files are read when it is taken out.

    Parameters
    ----------
    runs
        Records, or a table of runs.
    problems
        List that takes what turns out to be unreadable later.
    """

    def __init__(
        self, runs: "RunTable | Iterable[RunRecord]", problems: list[Unreadable] | None = None
    ) -> None:
        self._records: list[RunRecord | None]
        if isinstance(runs, RunTable):
            self._table: RunTable | None = runs
            self._records = [None] * len(runs)
            problems = runs.problems if problems is None else problems
        else:
            self._table = None
            self._records = list(runs)
        self.problems = [] if problems is None else problems
        """Runs of which a file could not be read; in tables those values are missing."""

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RunRecord]:
        return map(self._record, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> RunRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "RunSet": ...
    def __getitem__(self, index: int | slice) -> "RunRecord | RunSet":
        rows = range(len(self))[index]
        return self._record(rows) if isinstance(rows, int) else self.take(rows)

    def __add__(self, other: Iterable[RunRecord]) -> "RunSet":
        others = other if isinstance(other, RunSet) else RunSet(other)
        problems = self.problems
        if others.problems and others.problems is not problems:
            problems = list(dict.fromkeys([*problems, *others.problems]))
        if self._table is None or others._table is None:
            return RunSet([*self, *others], problems)
        runs = RunSet(self._table + others._table, problems)
        runs._records = self._records + others._records
        return runs

    def __repr__(self) -> str:
        names = ", ".join(self[:5].names) + (", …" if len(self) > 5 else "")
        return f"<RunSet of {len(self)} runs: {names}>" if self else "<RunSet of no runs>"

    def _repr_html_(self) -> str:
        from experiment_tracking.registry.display import runs_html

        return runs_html(self)

    # ------------------------------------------------------------------ choosing

    def filter(
        self,
        where: Where | None = None,
        status: str | Iterable[str] | None = None,
        tags: Tags | None = None,
        **equal: Any,
    ) -> "RunSet":
        """Keep the runs that meet all conditions; see ``ExperimentRegistry.list_experiments``.

        Parameters
        ----------
        where, status, tags
            As there.
        **equal
            Columns and the value that each must have, or a list of values of which it must have
            one: ``lr=0.1``, ``optimizer=["adam", "sgd"]``, ``**{"params.model.depth": 3}``.
            Given as to ``log_params``: numpy's numbers, enums and paths are known by what they
            are kept as. True is not 1, and NaN is NaN.
        """
        runs = self
        if status is not None:
            words = _statuses(status)
            runs = runs._having("status", words.__contains__)
        if tags is not None:
            runs = runs._tagged(_wanted_tags(tags))
        for name, value in equal.items():
            runs = runs._equal(name, value)
        return runs if where is None else runs._where(where)

    def _equal(self, name: str, value: Any) -> "RunSet":
        if isinstance(value, Mapping) and value:  # params are flat, so no run has it
            raise InvalidValueError(
                f"{name}={value!r:.60} is a mapping, which no column holds. Write params as "
                f"**{{'params.lr': 0.1}} or lr=0.1. {_KEYWORDS}"
            )
        try:
            return self._having(name, _is_one_of(value))
        except (InvalidValueError, MetricNotFoundError) as error:
            raise type(error)(f"{error} {_KEYWORDS}") from error

    def _having(self, name: str, is_met: Callable[[Any], bool]) -> "RunSet":
        values = self.column(name) if self else []
        return self.take([row for row, value in enumerate(values) if is_met(value)])

    def _tagged(self, wanted: Mapping[str, str | None]) -> "RunSet":
        runs = self
        for tag, value in wanted.items():
            runs = runs._having(f"tags.{tag}", _is_there if value is None else _is_one_of(value))
        return runs

    def _where(self, where: Where) -> "RunSet":
        if isinstance(where, str):
            from experiment_tracking.registry.filters.filter import parse

            kept = parse(where, self.column).keep(self.column, len(self))
        elif callable(where):
            kept = self.each(_naming_the_run(where), False)
        else:
            raise InvalidTypeError(
                f"where must be a filter such as 'metrics.loss < 0.1' or a function of a record, "
                f"found {where!r:.60}."
            )
        return self.take([row for row, is_kept in enumerate(kept) if is_kept])

    def order_by(self, *names: str) -> "RunSet":
        """Sort by columns, the first counts most; ``-`` before one for the highest first.

        Numbers come before text, also with ``-``, runs without a value last; equal ones stay in
        their order.

        Raises
        ------
        InvalidValueError
            If no run has such a column.
        """
        if not names:
            return self
        rows = list(range(len(self)))
        for name in reversed(names if self else ()):
            values = self.column(name.removeprefix("-"))
            has = [row for row in rows if _is_value(values[row])]
            has.sort(key=lambda row: _sortable(values[row]), reverse=name.startswith("-"))
            has.sort(key=lambda row: _sortable(values[row])[0])
            rows = has + [row for row in rows if not _is_value(values[row])]
        return self.take(rows)

    def limit(self, count: int | None) -> "RunSet":
        """Keep the first ``count`` runs, all of them with None."""
        if count is not None and not hasattr(count, "__index__"):
            raise InvalidTypeError(f"limit must be a whole number or None, found {count!r:.60}.")
        if count is not None and count < 0:
            raise InvalidValueError(f"limit must be 0 or more, found {count}.")
        return self if count is None else self[:count]

    def group_by(self, *names: str) -> "dict[Any, RunSet]":
        """Divide the runs by the values of columns.

        Returns
        -------
        dict
            From each value (a tuple of values for several columns) to the runs that have it,
            numbers before text and runs without a value last. Lists and dicts are keyed by
            their JSON. Without a column all runs are one group, of ``()``.
        """
        columns = [[_hashable(value) for value in self.column(name)] for name in names]
        keys: list[Any] = [()] * len(self)
        if names:
            keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        rows: dict[Any, list[int]] = {}
        for row, key in enumerate(keys):
            rows.setdefault(key, []).append(row)
        return {key: self.take(rows[key]) for key in sorted(rows, key=_key_order)}

    def take(self, rows: Sequence[int]) -> "RunSet":
        """Return the runs at these places, in this order."""
        if self._table is None:
            return RunSet([self._record(row) for row in rows], self.problems)
        runs = RunSet(self._table.take(rows), self.problems)
        runs._records = [self._records[row] for row in rows]
        return runs

    # ------------------------------------------------------------------ values

    @property
    def names(self) -> list[str]:
        """Names of the runs, in order; equal ones may occur in several projects."""
        return self.column("name")

    @property
    def keys(self) -> list[str]:
        """``project/name`` of the runs, in order."""
        return self.column("key")

    @property
    def table(self) -> RunTable:
        """What is known of the runs, as columns."""
        if self._table is None:
            self._table = RunTable.of(
                [self._record(row) for row in range(len(self))], self.problems
            )
        return self._table

    def column(self, name: str) -> list[Any]:
        """Return one value per run, None where it has none.

        Parameters
        ----------
        name
            A run column (``name``, ``project``, ``status``, ``created_at``, ``duration_s``, …);
            ``params.lr``, ``metrics.val/loss`` (its last value), ``metrics.val/loss:min``,
            ``tags.x``; or a param or metric by its bare name where only one of the two bears it.

        Raises
        ------
        InvalidValueError
            If no run has such a column, or both a param and a metric bear the name.
        """
        return columns.values(self.table, name)

    def param_names(self) -> list[str]:
        """Names of all params that any of the runs has, nested ones joined by dots."""
        return columns.names_of(self.table, "params")

    def metric_names(self) -> list[str]:
        """Names of all metrics that any of the runs has, in the order they are met."""
        return columns.names_of(self.table, "metrics")

    def tag_names(self) -> list[str]:
        """Names of all tags that any of the runs has."""
        return columns.names_of(self.table, "tags")

    def goals(self, metric: str) -> set[str]:
        """Return the goals of a metric in these runs: none, one, or both if they disagree."""
        return {goal for goal in columns.numbers(self.table, metric, "goal") if goal}

    def numbers(self, metric: str, number: str) -> list[float | None]:
        """Return one entry of a metric's summary per run, None where there is none.

        Raises
        ------
        InvalidValueError
            For the best of a metric without a goal.
        """
        return columns.numbers(self.table, metric, number)

    def flat_params(self) -> list[Mapping[str, Any]]:
        """Return the params of each run, nested ones under names joined by dots."""
        return self.each(lambda record: flat(record.params), {})

    def metrics(self) -> list[dict[str, dict[str, Any]]]:
        """Return the metrics' summaries of each run; see :attr:`RunRecord.metrics`."""
        return self.each(lambda record: record.metrics, {})

    def each(self, read: Callable[[RunRecord], T], missing: T) -> list[T]:
        """Read something of every run, ``missing`` of those whose files are unreadable.

        Those go to :attr:`problems`: one damaged run never hides another.
        """
        found = []
        for record in self:
            try:
                found.append(read(record))
            except (DamagedError, OSError) as error:
                note(self.problems, record, error)
                found.append(missing)
        return found

    # ------------------------------------------------------------------ what they come to

    def to_frame(self, columns: str | Sequence[str] | None = None) -> "pd.DataFrame":
        """Return a table with a row per run.

        Parameters
        ----------
        columns
            Some of the columns below alone, and any other that :meth:`column` takes; one or
            several.

        Returns
        -------
        pandas.DataFrame
            ``name``, ``project``, ``status``, ``created_at`` (UTC), ``duration_s``, ``id``, then
            ``params.lr`` (nested ones joined by dots), ``metrics.val/loss`` (last values, floats)
            and ``tags.x``. What a run does not have is NaN or None.
        """
        from experiment_tracking.registry.table import to_frame

        if columns is None:
            return self.table.to_frame()
        names = [columns] if isinstance(columns, str) else columns
        return to_frame({name: self.column(name) for name in names})

    def best(self, metric: str, mode: str | None = None, on: str = "best") -> RunRecord:
        """Return the run with the best value; see ``ExperimentRegistry.best``."""
        if on not in ("best", "last"):
            raise InvalidValueError(f"on must be 'best' or 'last', found {on!r}.")
        if not self:
            raise MetricNotFoundError(
                f"No run meets the conditions, so there is no best {metric!r}."
            )
        name = find_metric(metric, self.metric_names())
        side = self._side(name) if mode is None else _side(mode)
        values = self.numbers(name, side if on == "best" else "last")
        ranked = [(value, row) for row, value in enumerate(values) if _is_value(value)]
        if not ranked:
            raise MetricNotFoundError(f"The metric {name!r} has no value but NaN in these runs.")
        # min and max keep the first of equals: the older run, as runs are listed.
        pick = min if side == "min" else max
        return self[pick(ranked, key=lambda pair: pair[0] or 0.0)[1]]

    def _side(self, metric: str) -> str:
        goals = self.goals(metric)
        if len(goals) != 1:
            raise InvalidValueError(
                f"Metric {metric!r} has {'several goals' if goals else 'no goal'}. "
                "Say mode='min' or mode='max'."
            )
        return _side(goals.pop())

    def history(
        self,
        metrics: str | Iterable[str] | None = None,
        wide: bool = False,
        axis: str | None = None,
        points: int | None = None,
    ) -> "pd.DataFrame":
        """Read the rows of all runs as one table; see ``ExperimentRegistry.history``."""
        from experiment_tracking.registry.frames import long_frame, wide_frame

        if wide:
            return wide_frame(self, metrics, axis or "step", points)
        return long_frame(self, metrics, axis, points)

    def aggregate(
        self, by: "By | None" = None, metrics: str | Iterable[str] | None = None, on: str = "last"
    ) -> "Aggregate":
        """Average over runs that differ in their seed alone; see ``registry.aggregate``."""
        from experiment_tracking.registry.aggregate import aggregate

        return aggregate(self, by, metrics, on)

    def importance(self, metric: str, on: str = "last", method: str | None = None) -> "Importance":
        """Estimate how much each param matters; see ``registry.importance``."""
        from experiment_tracking.registry.importance import importance

        return importance(self, metric, on, method)

    @property
    def plot(self) -> "Plots":
        """Pictures of these runs: ``runs.plot.curves("val/loss")``. Needs matplotlib."""
        from experiment_tracking.registry.plots import Plots

        return Plots(self)

    # ------------------------------------------------------------------ inside

    def _record(self, row: int) -> RunRecord:
        record = self._records[row]
        if record is None:
            record = self._records[row] = RunRecord.unread(self.table.paths[row])
        return record


def once_each(runs: RunSet) -> tuple[RunSet, int]:
    """Leave out runs whose id an earlier run of another root has, as a backup's runs do.

    In one root equal ids stay: there a folder was copied on purpose, or by a mistake to be seen.

    Returns
    -------
    tuple
        The runs that are left, in their order, and the number of those left out.
    """
    roots = [path.rsplit("/", 2)[0] for path in runs.table.paths]
    if len(set(roots)) < 2:
        return runs, 0
    first: dict[str, str] = {}
    rows = [
        row
        for row, (root, id_) in enumerate(zip(roots, runs.table.column("id"), strict=True))
        if not id_ or first.setdefault(id_, root) == root
    ]
    return runs.take(rows), len(runs) - len(rows)


def _naming_the_run(where: Callable[[RunRecord], bool]) -> Callable[[RunRecord], bool]:
    def holds(run: RunRecord) -> bool:
        try:
            return where(run)
        except (DamagedError, OSError):  # of the run: to its problems
            raise
        except Exception as error:
            name = getattr(where, "__name__", type(where).__name__)
            raise InvalidValueError(
                f"where={name} failed on run {run.key}: {in_words(error)}"
            ) from error

    return holds


def _is_there(value: Any) -> bool:
    return value is not None


def _is_value(value: Any) -> bool:
    return value is not None and value == value


def _is_one_of(wanted: Any) -> Callable[[Any], bool]:
    if hasattr(wanted, "tolist"):  # an array, or one of its numbers
        wanted = wanted.tolist()
    several = isinstance(wanted, (list, tuple, set, frozenset, range))
    options = {_as_kept(to_plain(one)) for one in (wanted, *(wanted if several else ()))}
    return lambda value: _as_kept(value) in options


def _as_kept(value: Any) -> Any:
    # Params have their NaN and infinities as text, metrics as numbers.
    return identity(to_stored(value) if isinstance(value, float) else value)


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, (int, float)) else (1, str(value))


def _key_order(key: Any) -> Any:
    parts = key if isinstance(key, tuple) else (key,)
    return [_sortable(part) if _is_value(part) else (2, "") for part in parts]


def _hashable(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return value if value == value else math.nan  # one NaN is equal to itself as a key


def _side(mode: str) -> str:
    if mode not in _MODES:
        raise InvalidValueError(f"mode must be 'min' or 'max', found {mode!r}.")
    return _MODES[mode]


def _statuses(status: str | Iterable[str]) -> set[str]:
    words = [status] if isinstance(status, str) else status
    if not isinstance(words, Iterable):
        raise InvalidTypeError(f"status must be a word or several, found {status!r:.60}.")
    wanted = {str(word).lower() for word in words}
    if unknown := wanted - set(STATUSES):
        raise InvalidValueError(
            f"No run has status {', '.join(sorted(unknown))}. Allowed: {', '.join(STATUSES)}."
        )
    return wanted


def _wanted_tags(tags: Tags) -> Mapping[str, str | None]:
    """Tags in the form in which ``set_tags`` keeps them; words may have any value."""
    kept = to_tags(tags)
    return dict(kept) if isinstance(tags, Mapping) else dict.fromkeys(kept)
