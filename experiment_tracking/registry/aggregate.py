"""Runs that differ only in their seed as one: groups of runs, and what their metrics come to."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import InvalidTypeError, InvalidValueError, MetricNotFoundError
from experiment_tracking.registry import text_tables
from experiment_tracking.registry.columns import find_column, find_metric, identity, near
from experiment_tracking.registry.labels import group_labels
from experiment_tracking.registry.samples import notes_on, without_reruns
from experiment_tracking.registry.spread import Spread, t_quantile

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from experiment_tracking.registry.curves import Curve
    from experiment_tracking.registry.runset import RunSet

    Array = NDArray[Any]

By = str | Iterable[str]

NUMBERS = ("last", "best", "min", "max", "mean")
"""Which number of a run's metric counts."""

SPREADS = {
    "std": lambda spread: spread.std,
    "sem": lambda spread: spread.sem,
    "ci95": lambda spread: (spread.high - spread.low) / 2,
}
"""What may stand behind ±."""


class Measure(NamedTuple):
    """What is compared: one number of one metric."""

    metric: str
    number: str


@dataclass(frozen=True, repr=False)
class Group:
    """Runs that are equal in all columns they were grouped by."""

    listed: "RunSet"
    """All runs that were grouped."""
    rows: Sequence[int]
    """Which of them are in this group."""

    values: dict[str, Any]
    """What they have in common, by column: ``params.lr``, ``tags.sweep``, ``group``; without the
    params that they all lack."""
    stats: dict[str, Spread]
    """Statistics over the runs, by metric as asked for."""

    def __repr__(self) -> str:
        return f"<Group of {len(self.rows)} runs: {self.values}>"

    @cached_property
    def runs(self) -> "RunSet":
        """The runs of the group."""
        # Only when asked for: thousands of groups are made without it.
        return self.listed.take(self.rows)

    @property
    def params(self) -> dict[str, Any]:
        """The params they have in common, nested ones under names joined by dots."""
        start = "params."
        return {n.removeprefix(start): v for n, v in self.values.items() if n.startswith(start)}


@dataclass(frozen=True)
class MeanCurve:
    """A metric over an axis, averaged over the runs of a group; arrays of shape ``(points,)``."""

    group: Group
    axis: "Array"
    n: "Array"
    """How many runs have a finite value at each point; the rest is NaN where there are none."""
    mean: "Array"
    std: "Array"
    sem: "Array"
    low: "Array"
    """Lower end of the mean's 95 % confidence interval at each point, by Student's t."""
    high: "Array"
    min: "Array"
    """Lowest value of any run at each point."""
    max: "Array"


class Aggregate(Sequence[Group]):
    """Groups of runs in the order their first runs are listed, with statistics of each.

    Made by ``registry.aggregate()`` and ``runs.aggregate()``.

    Parameters
    ----------
    runs
        All that count. Those whose params cannot be read are in no group but in
        ``runs.problems``.
    groups
        The groups.
    shown
        The columns by which they are told apart.
    measures
        What is measured, by metric as asked for.
    notes
        Sentences on what the means are made of: reruns that were left out, runs that have not
        finished, groups that hold one seed twice.
    """

    def __init__(
        self,
        runs: "RunSet",
        groups: Sequence[Group],
        shown: Sequence[str],
        measures: Mapping[str, Measure],
        notes: Sequence[str] = (),
    ) -> None:
        self.runs = runs
        self.groups = list(groups)
        self.measures = dict(measures)
        self.notes = list(notes)
        self._shown = list(shown)

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __getitem__(self, index: Any) -> Any:
        return self.groups[index]

    def __repr__(self) -> str:
        return f"<Aggregate of {len(self.runs)} runs in {len(self)} groups>"

    def __str__(self) -> str:
        table = text_tables.to_markdown(self._columns(_starred))
        return "\n".join([table, *self.notes]).rstrip("\n")

    def _repr_html_(self) -> str:
        from experiment_tracking.registry.display import aggregate_html

        return aggregate_html(self)

    def labels(self) -> list[str]:
        """Return what tells each group apart, as short as can be: ``lr=0.1, depth=2``."""
        return group_labels([group.values for group in self.groups])

    # ------------------------------------------------------------------ as tables

    def to_columns(self) -> dict[str, list[Any]]:
        """Return one list per column, an entry per group.

        The columns in which groups differ (``params.lr``), ``runs`` (how many a group has), then
        for each metric ``val/loss:mean``, ``:std``, ``:sem``, ``:low``, ``:high`` (the mean's
        95 % confidence interval), ``:median``, ``:min``, ``:max``, ``:n`` and ``:nonfinite``.
        """
        columns = self._labels()
        first = ("mean", "std", "sem", "low", "high", "median", "min", "max", "n", "nonfinite")
        for metric in self.measures:
            for name in first:
                values = [getattr(group.stats[metric], name) for group in self.groups]
                columns[f"{metric}:{name}"] = values
        return columns

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per group and the columns of :meth:`to_columns`."""
        import pandas as pd

        return pd.DataFrame(self.to_columns())

    def to_csv(self) -> str:
        """Return the columns of :meth:`to_columns` as comma-separated values, numbers whole."""
        return text_tables.to_csv(self.to_columns())

    def to_text_columns(self, spread: str = "std") -> dict[str, list[Any]]:
        """Return columns to be read by people: params by bare names, metrics as ``0.12 ± 0.03``.

        Parameters
        ----------
        spread
            What stands behind ±: ``"std"``, ``"sem"`` or ``"ci95"`` (half of the mean's 95 %
            confidence interval). A metric that no run of a group has logged is ``-``.
        """
        return self._columns(_unmarked, spread)

    def to_markdown(self, spread: str = "std") -> str:
        """Return :meth:`to_text_columns` as a table in Markdown."""
        return text_tables.to_markdown(self.to_text_columns(spread))

    def to_latex(self, spread: str = "std") -> str:
        """Return :meth:`to_text_columns` as a LaTeX ``tabular`` (package booktabs).

        The best mean of a metric with a goal is bold.
        """
        return text_tables.to_latex(self._columns(text_tables.latex_plus_minus, spread))

    def best_places(self) -> dict[str, list[int]]:
        """Return the positions of the groups with the best mean, by metric: all equal ones.

        A metric without a goal, or whose means are all equal, has none.
        """
        found = {}
        for asked, (metric, number) in self.measures.items():
            goals = self.runs.goals(metric)
            if len(goals) == 1 and number in NUMBERS:
                stats = [group.stats[asked] for group in self.groups]
                means = [each.mean if each.n or each.nonfinite else None for each in stats]
                found[asked] = best_places(means, "min" if goals == {"minimize"} else "max")
        return {asked: places for asked, places in found.items() if places}

    def _columns(self, write: Callable[..., str], spread: str = "std") -> dict[str, list[Any]]:
        """Return the columns of a table for people; ``write`` is told what is the best."""
        columns = text_tables.spelled_tags(self._short_labels())
        best = self.best_places()
        for metric in self.measures:
            numbers = [_shown_numbers(group, metric, spread) for group in self.groups]
            columns[f"{metric} ± {spread}"] = [
                write(*each, is_bold=place in best.get(metric, ())) if each else "-"
                for place, each in enumerate(numbers)
            ]
        return columns

    def _labels(self) -> dict[str, list[Any]]:
        columns = {name: [group.values.get(name) for group in self.groups] for name in self._shown}
        return {**columns, "runs": [len(group.rows) for group in self.groups]}

    def _short_labels(self) -> dict[str, list[Any]]:
        columns = self._labels()
        short = [name.removeprefix("params.") for name in columns]
        names = [s if short.count(s) == 1 else n for s, n in zip(short, columns, strict=True)]
        return dict(zip(names, columns.values(), strict=True))

    # ------------------------------------------------------------------ curves

    def curves(self, metric: str, x: str = "step", points: int = 200) -> list[MeanCurve]:
        """Return a metric's mean curve of each group, all on one axis. Reads the histories.

        The runs' curves are interpolated linearly, and each counts only where it has values on
        both sides; groups without the metric have no curve.

        Parameters
        ----------
        metric
            Its name, or the last part of it.
        x
            ``"step"``, ``"time"``, ``"relative"`` or another metric.
        points
            The most that the axis has, 2 or more.

        Raises
        ------
        MetricNotFoundError
            If no run has the metric, or none has it beside ``x``.
        """
        from experiment_tracking.registry.curves import common_axis, on_axis

        each = self._curves(metric, x)
        axis = common_axis([curve for curves in each for curve in curves], points)
        return [
            _mean_curve(group, axis, on_axis(curves, axis))
            for group, curves in zip(self.groups, each, strict=True)
            if curves
        ]

    def curve_columns(
        self, metric: str, x: str = "step", points: int = 200
    ) -> dict[str, list[Any]]:
        """Return the mean curves as one long table: a row per group and point.

        The columns in which groups differ, ``x`` by its name, ``n``, ``mean``, ``std``, ``sem``,
        ``low`` and ``high``.
        """
        curves = self.curves(metric, x, points)
        columns: dict[str, list[Any]] = {
            name: [curve.group.values.get(name) for curve in curves for _ in curve.axis]
            for name in self._shown
        }
        fields = {x: "axis", **{name: name for name in ("n", "mean", "std", "sem", "low", "high")}}
        for name, field in fields.items():
            columns[name] = [value for curve in curves for value in getattr(curve, field).tolist()]
        return columns

    def _curves(self, metric: str, x: str) -> list[list["Curve"]]:
        from experiment_tracking.registry.curves import Curve, read_histories, xy

        # All at once: in a group that lacks the metric, a name alike would be taken for it.
        found = read_histories(self.runs, [find_metric(metric, self.runs.metric_names())], x)
        (name,) = found.wanted
        points = [xy(columns, name, found.axis) for columns in found.columns]
        every = [Curve(key, *one) for key, one in zip(self.runs.keys, points, strict=True)]
        if every and not any(len(curve.x) for curve in every):
            raise MetricNotFoundError(f"No row here has both {metric!r} and {x!r}.")
        return [[every[row] for row in group.rows if len(every[row].x)] for group in self.groups]


def best_places(values: Sequence[float | None], side: str) -> list[int]:
    """Return the places of all that are the lowest (``"min"``) or highest of the finite values.

    There are none where all values are equal; None is no value.
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len({value for value in values if value is not None}) < 2 or not finite:
        return []
    best = min(finite) if side == "min" else max(finite)
    return [place for place, value in enumerate(values) if value == best]


def _unmarked(mean: float, spread: float, counted: str, *, is_bold: bool) -> str:
    return text_tables.plus_minus(mean, spread, counted)


def _starred(mean: float, spread: float, counted: str, *, is_bold: bool) -> str:
    return "★ " * is_bold + text_tables.plus_minus(mean, spread, counted)


def _shown_numbers(group: Group, metric: str, spread: str) -> tuple[float, float, str] | None:
    """Return mean and spread, and how many runs count where some do not; None without a value."""
    if spread not in SPREADS:
        raise InvalidValueError(f"spread must be one of {', '.join(SPREADS)}, found {spread!r}.")
    stats = group.stats[metric]
    if not stats.n and not stats.nonfinite:
        return None
    counted = "" if stats.n == len(group.rows) else f"{stats.n} of {len(group.rows)}"
    return stats.mean, SPREADS[spread](stats), counted


def _mean_curve(group: Group, axis: "Array", table: "Array") -> MeanCurve:
    import numpy as np

    is_finite = np.isfinite(table)
    n = is_finite.sum(axis=0)
    with np.errstate(all="ignore"):
        mean = np.where(is_finite, table, 0).sum(axis=0) / n
        squares = np.where(is_finite, table - mean, 0) ** 2
        std = np.where(n > 1, np.sqrt(squares.sum(axis=0) / (n - 1)), np.nan)
        sem = std / np.sqrt(n)
    wide = {int(count): t_quantile(0.975, int(count) - 1) for count in set(n.tolist()) if count > 1}
    half = sem * np.array([wide.get(count, math.nan) for count in n.tolist()])
    finite = np.where(is_finite, table, np.nan)
    ends = np.fmin.reduce(finite), np.fmax.reduce(finite)
    return MeanCurve(group, axis, n, mean, std, sem, mean - half, mean + half, *ends)


# ---------------------------------------------------------------------- making groups


def aggregate(
    runs: "RunSet",
    by: By | None = None,
    metrics: str | Iterable[str] | None = None,
    on: str = "last",
) -> Aggregate:
    """Group runs and average their metrics.

    A rerun is no further sample of what it repeats: where its original is among the runs, it is
    left out. Runs that have not finished count; ``Aggregate.notes`` tells of both.

    Parameters
    ----------
    by
        What the runs of a group have in common. By default ``"*-seed"``: all params but
        ``seed``, where any run has one. ``"*-seed-fold"``: but these two. A list of names:
        ``["lr", "model.depth", "tags.sweep"]`` these alone, ``["*", "-seed", "-data.seed"]`` all
        but two; names with dashes can only stand in a list. A name also stands for all params
        nested below it. A missing param, or None, is a value of its own.
    metrics
        Columns as in :meth:`RunRecord.value`; by default all, with ``on="best"`` all that have
        a goal.
    on
        Which value of a run counts where a metric's bare name is given: ``"last"``, ``"best"``
        (by the metric's goal), ``"min"``, ``"max"`` or ``"mean"``.

    Raises
    ------
    InvalidValueError
        If no run has what is to be grouped by, or the params to be left out; near names are
        shown. For the best of a metric without a goal.
    MetricNotFoundError
        If no run has a metric that was asked for.
    """
    check_number(on)
    given = with_params(runs)
    runs = without_reruns(given)
    columns, listed, excluded = _columns(runs, _default(runs) if by is None else by)
    names = runs.metric_names()
    measures = _measures(runs, metrics, on, names) if len(runs) else {}
    numbers = {asked: runs.numbers(*measure) for asked, measure in measures.items()}
    groups = [
        _group(runs, rows, columns, numbers) for rows in equal_rows(len(runs), columns).values()
    ]
    shown = [name for name in columns if name in listed or varies(columns[name])]
    notes = notes_on(runs, groups, excluded, len(given) - len(runs))
    return Aggregate(runs, groups, shown, measures, notes)


def _default(runs: "RunSet") -> str:
    return "*-seed" if below("seed", runs.param_names()) else "*"


def with_params(runs: "RunSet") -> "RunSet":
    """Return the runs whose params could be read; the others are in ``problems``."""
    columns = param_columns(runs).values()
    damaged = {problem.path for problem in runs.problems}
    lost = {
        row
        for row, path in enumerate(runs.table.paths if damaged else ())
        if path in damaged and all(column[row] is None for column in columns)
    }
    return runs.take([row for row in range(len(runs)) if row not in lost]) if lost else runs


def param_columns(runs: "RunSet") -> dict[str, list[Any]]:
    """Return all params of the runs, nested ones under names joined by dots, None where missing.

    Nothing is read for it.
    """
    return {name: runs.table.column(f"params.{name}") for name in runs.param_names()}


def _columns(runs: "RunSet", by: By) -> tuple[dict[str, list[Any]], set[str], dict[str, list[Any]]]:
    """Return the columns to group by, which were named one by one, and the params left out."""
    params = param_columns(runs)
    known = list(params)
    taken, dropped = _words(by, known)
    if not len(runs):
        return {}, set(), {}
    left_out = {name for word in dropped for name in _excluded(word, known)}
    columns: dict[str, list[Any]] = {}
    listed = set()
    for word in taken:
        names = known if word == "*" else below(word.removeprefix("params."), known)
        found = {f"params.{name}": params[name] for name in names if name not in left_out}
        found = found if names or word == "*" else {word: runs.column(word)}
        columns |= found
        listed |= set() if word == "*" else set(found)
    return columns, listed, {name: params[name] for name in known if name in left_out}


def _words(by: By, known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what to group by, and what to leave out of it."""
    if isinstance(by, str) and by.startswith(("*-", "-")):
        rest = by.removeprefix("*")[1:]
        return ["*"], [rest] if below(rest, known) else rest.split("-")
    words = [by] if isinstance(by, str) else by
    words = list(words) if isinstance(words, Iterable) else [words]
    if not all(isinstance(word, str) for word in words):
        raise InvalidTypeError(
            f"by must be text or a list of names, found {by!r:.60}. Write for example "
            "by='*-seed' or by=['lr', 'model.depth']."
        )
    dropped = [word[1:] for word in words if word.startswith("-")]
    taken = [word for word in words if not word.startswith("-")]
    return taken if taken or not dropped else ["*"], dropped


def below(name: str, known: Iterable[str]) -> list[str]:
    """Return the param of that name, or those nested below it."""
    return [each for each in known if each == name or each.startswith(f"{name}.")]


def _excluded(word: str, known: Sequence[str]) -> list[str]:
    name = word.removeprefix("params.")
    names = below(name, known)
    if not names:
        raise InvalidValueError(
            f"No run here has the param {name!r}, which groups are to leave out. "
            f"{near(name, known)} Write by='*' to group by all params."
        )
    return names


def equal_rows(count: int, columns: Mapping[str, Sequence[Any]]) -> dict[Any, list[int]]:
    """Return the rows that are equal in all columns, by what they are equal in."""
    rows: dict[Any, list[int]] = {}
    keys = zip(*(map(identity, column) for column in columns.values()), strict=True)
    for row, key in enumerate(keys if columns else [()] * count):
        rows.setdefault(key, []).append(row)
    return rows


def _group(
    runs: "RunSet",
    rows: Sequence[int],
    columns: Mapping[str, Sequence[Any]],
    numbers: Mapping[str, Sequence[float | None]],
) -> Group:
    first = {name: column[rows[0]] for name, column in columns.items()}
    values = {name: value for name, value in first.items() if value is not None}
    stats = {asked: Spread.of(found[row] for row in rows) for asked, found in numbers.items()}
    return Group(runs, rows, values, stats)


def varies(values: Iterable[Any]) -> bool:
    """Tell whether there are two different values."""
    return len(set(map(identity, values))) > 1


# ---------------------------------------------------------------------- what is measured


def check_number(on: str) -> None:
    """Insist that ``on`` names a number of a metric."""
    if on not in NUMBERS:
        raise InvalidValueError(f"on must be one of {', '.join(NUMBERS)}, found {on!r}.")


def measure_of(runs: "RunSet", asked: str, on: str, names: Sequence[str]) -> Measure:
    """Return which number of which metric is meant; a bare name leaves the number to ``on``.

    Raises
    ------
    MetricNotFoundError
        If no run has the metric.
    InvalidValueError
        For the best of a metric on whose goal the runs do not agree.
    """
    metric, number = find_column(asked, names)
    is_bare = asked == metric or metric.endswith(f"/{asked}")
    number = on if is_bare else number
    return Measure(metric, _side(runs, metric) if number == "best" else number)


def _side(runs: "RunSet", metric: str) -> str:
    goals = runs.goals(metric)
    if len(goals) != 1:
        raise InvalidValueError(
            f"Metric {metric!r} has {'several goals' if goals else 'no goal'}, so it has no best "
            "value. Say on='min' or on='max'."
        )
    return "min" if goals == {"minimize"} else "max"


def _measures(
    runs: "RunSet", metrics: str | Iterable[str] | None, on: str, names: Sequence[str]
) -> dict[str, Measure]:
    if metrics is None:
        metrics = [n for n in names if on != "best" or len(runs.goals(n)) == 1]
    asked = [metrics] if isinstance(metrics, str) else metrics
    return {name: measure_of(runs, name, on, names) for name in asked}
