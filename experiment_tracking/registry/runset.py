"""Several runs: a sequence that filters, orders, ranks and turns into a table."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    MetricNotFoundError,
)
from experiment_tracking.folder.liveness import STATUSES
from experiment_tracking.folder.values import to_tags
from experiment_tracking.registry.columns import find_metric
from experiment_tracking.registry.record import RunRecord, Unreadable, flat, note

if TYPE_CHECKING:
    import pandas as pd

Tags = Mapping[str, Any] | Iterable[str] | str
Where = Callable[[RunRecord], bool]
T = TypeVar("T")

_MODES = {"min": "min", "minimize": "min", "max": "max", "maximize": "max"}


class RunSet(Sequence[RunRecord]):
    """Runs in an order; never changed, every method gives a new one.

    Parameters
    ----------
    records
        The runs.
    problems
        List that takes what turns out to be unreadable later.
    """

    def __init__(
        self, records: Iterable[RunRecord], problems: list[Unreadable] | None = None
    ) -> None:
        self._records = list(records)
        self.problems = [] if problems is None else problems
        """Runs of which a file could not be read; in tables those values are missing."""

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RunRecord]:
        return iter(self._records)

    @overload
    def __getitem__(self, index: int) -> RunRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "RunSet": ...
    def __getitem__(self, index: int | slice) -> "RunRecord | RunSet":
        if isinstance(index, slice):
            return self._with(self._records[index])
        return self._records[index]

    def __add__(self, other: Iterable[RunRecord]) -> "RunSet":
        return self._with([*self._records, *other])

    def __repr__(self) -> str:
        names = ", ".join(self.names[:5]) + (", …" if len(self) > 5 else "")
        return f"<RunSet of {len(self)} runs: {names}>" if self else "<RunSet of no runs>"

    def _repr_html_(self) -> str:
        from experiment_tracking.registry.display import runs_html

        return runs_html(self)

    @property
    def names(self) -> list[str]:
        """Names of the runs, in order; equal ones may occur in several projects."""
        return [record.name for record in self._records]

    def to_frame(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """Return a table with a row per run.

        Parameters
        ----------
        columns
            Some of the columns below alone; also params and metrics by their bare names, and
            metrics as in :meth:`RunRecord.value`.

        Returns
        -------
        pandas.DataFrame
            ``name``, ``project``, ``status``, ``created_at`` (UTC), ``duration_s``, ``id``, then
            ``params.lr`` (nested ones joined by dots), ``metrics.val/loss`` (last values, floats)
            and ``tags.x``. What a run does not have is NaN or None.
        """
        from experiment_tracking.registry.frames import column_values
        from experiment_tracking.registry.table import RunTable, to_frame

        if columns is not None:
            return to_frame({name: column_values(self, name) for name in columns})
        table = RunTable(self.problems)
        for record in self._records:
            table.add(record)
        return table.to_frame()

    def filter(
        self,
        where: Where | None = None,
        status: str | Iterable[str] | None = None,
        tags: Tags | None = None,
    ) -> "RunSet":
        """Keep the runs that meet all conditions; see ``ExperimentRegistry.list_experiments``."""
        conditions = to_conditions(where, status, tags)
        return self._with(r for r in self._records if all(holds(r) for holds in conditions))

    def order_by(self, column: str) -> "RunSet":
        """Sort by a run column, metric (its last value) or param; ``-`` for the highest first.

        Numbers come before text, runs without a value last; equal ones stay in their order.

        Raises
        ------
        InvalidValueError
            If no run has such a column.
        """
        from experiment_tracking.registry.frames import column_values

        name = column.removeprefix("-")
        pairs = list(zip(column_values(self, name), self._records, strict=True))
        has = [pair for pair in pairs if _is_value(pair[0])]
        has.sort(key=lambda pair: _sortable(pair[0]), reverse=name != column)
        lacks = [pair for pair in pairs if not _is_value(pair[0])]
        return self._with(record for _, record in (*has, *lacks))

    def limit(self, count: int | None) -> "RunSet":
        """Keep the first ``count`` runs, all of them with None."""
        if count is not None and not hasattr(count, "__index__"):
            raise InvalidTypeError(f"limit must be a whole number or None, found {count!r:.60}.")
        if count is not None and count < 0:
            raise InvalidValueError(f"limit must be 0 or more, found {count}.")
        return self._with(self._records[:count])

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
        ranked = [
            (value, record)
            for value, record in zip(values, self._records, strict=True)
            if value is not None and value == value
        ]
        if not ranked:
            raise MetricNotFoundError(f"The metric {name!r} has no value but NaN in these runs.")
        # min and max keep the first of equals: the older run, as runs are listed.
        pick = min if side == "min" else max
        return pick(ranked, key=lambda pair: pair[0])[1]

    def _side(self, metric: str) -> str:
        goals = self.goals(metric)
        if len(goals) != 1:
            raise InvalidValueError(
                f"Metric {metric!r} has {'several goals' if goals else 'no goal'}. "
                "Say mode='min' or mode='max'."
            )
        return _side(goals.pop())

    def goals(self, metric: str) -> set[str]:
        """Return the goals of a metric in these runs: none, one, or both if they disagree."""
        return {goal for goal in self.each(lambda record: record.goal(metric), None) if goal}

    def metric_names(self) -> list[str]:
        """Names of all metrics that any of the runs has, in the order they are met."""
        each: list[list[str]] = self.each(lambda record: record.metric_names, [])
        return list(dict.fromkeys(name for names in each for name in names))

    def metrics(self) -> list[dict[str, dict[str, Any]]]:
        """Return the metrics' summaries of each run; see :attr:`RunRecord.metrics`."""
        return self.each(lambda record: record.metrics, {})

    def numbers(self, metric: str, number: str) -> list[float | None]:
        """Return one entry of a metric's summary per run, None where there is none."""
        return self.each(lambda record: record.number(metric, number), None)

    def flat_params(self) -> list[Mapping[str, Any]]:
        """Return the params of each run, nested ones under names joined by dots."""
        return self.each(lambda record: flat(record.params), {})

    def each(self, read: Callable[[RunRecord], T], missing: T) -> list[T]:
        """Read something of every run, ``missing`` of those whose files are unreadable.

        Those go to :attr:`problems`: one damaged run never hides another.
        """
        found = []
        for record in self._records:
            try:
                found.append(read(record))
            except (DamagedError, OSError) as error:
                note(self.problems, record, error)
                found.append(missing)
        return found

    def _with(self, records: Iterable[RunRecord]) -> "RunSet":
        return RunSet(records, self.problems)


def _is_value(value: Any) -> bool:
    return value is not None and value == value


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, (int, float)) else (1, str(value))


def _side(mode: str) -> str:
    if mode not in _MODES:
        raise InvalidValueError(f"mode must be 'min' or 'max', found {mode!r}.")
    return _MODES[mode]


def to_conditions(
    where: Where | None, status: str | Iterable[str] | None, tags: Tags | None
) -> list[Where]:
    """Return what a run has to meet; see ``ExperimentRegistry.list_experiments``."""
    conditions: list[Where] = []
    if status is not None:
        words = _statuses(status)
        conditions.append(lambda record: record.status in words)
    if tags is not None:
        wanted = _wanted_tags(tags)
        conditions.append(lambda record: _has_tags(record, wanted))
    if where is not None:
        _check_where(where)
        conditions.append(where)
    return conditions


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


def _has_tags(record: RunRecord, wanted: Mapping[str, str | None]) -> bool:
    tags = record.tags
    return all(key in tags and value in (None, tags[key]) for key, value in wanted.items())


def _check_where(where: object) -> None:
    if isinstance(where, str):
        raise InvalidValueError(
            f"where={where!r}: filters as text are not in this version. Use status=, tags=, or a "
            "function of a record: where=lambda run: run.params['lr'] < 0.1."
        )
    if not callable(where):
        raise InvalidTypeError(f"where must be a function of a record, found {where!r:.60}.")
