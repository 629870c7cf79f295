"""Rows to metric summaries, as they come; and which rows a later attempt supersedes.

For each metric by itself, a later attempt supersedes that metric's earlier rows from the step
on at which the attempt first logs it.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

from experiment_tracking.folder.history import Row
from experiment_tracking.folder.values import RESERVED, Number, from_stored, to_stored

_MINIMISE = (
    "loss error err mse mae rmse mape nll perplexity ppl wer cer fid residual violation time_ms"
).split()
_MAXIMISE = (
    "acc accuracy auc f1 precision recall r2 iou dice map bleu rouge psnr ssim reward score"
).split()
GOALS = dict.fromkeys(_MINIMISE, "minimize") | dict.fromkeys(_MAXIMISE, "maximize")
"""Last part of a metric's name to its goal."""

_NUMBERS = {int, float}
_SLICE_KEYS = 200

Point = tuple[int, Number]
"""Step and value."""


def goal_of(name: str) -> str | None:
    """Tell whether less or more is better, by the last part of a metric's name.

    >>> goal_of("val/loss"), goal_of("top1_acc"), goal_of("learning_rate")
    ('minimize', 'maximize', None)
    """
    last = name.rsplit("/", 1)[-1].lower()
    for separator in "-. ":
        last = last.replace(separator, "_")
    if last in GOALS or last.endswith("_time_ms"):
        return GOALS.get(last, "minimize")
    return GOALS.get(last.rsplit("_", 1)[-1])


class MetricSummary:
    """What the values of one metric come to, one value after another.

    ``min``, ``max`` leave NaN out; ``mean`` leaves NaN and the infinities out; ``last`` is the
    last row that is not superseded, whatever it is.
    """

    __slots__ = (
        "attempt", "count", "first_nonfinite_step", "last", "last_step", "max", "max_step", "min",
        "min_step", "nonfinite", "top_step", "total",
    )  # fmt: skip

    def __init__(self) -> None:
        self.last: Number | None = None
        self.last_step: int | None = None
        self.min: Number | None = None
        self.min_step: int | None = None
        self.max: Number | None = None
        self.max_step: int | None = None
        self.total = 0.0
        self.count = 0
        self.nonfinite = 0
        self.first_nonfinite_step: int | None = None
        self.attempt = 1
        self.top_step: int | None = None
        """Highest step so far: a later attempt that starts above it supersedes nothing."""

    def add(self, steps: Sequence[int], values: Sequence[Any]) -> None:
        """Add values in file order; what is no number is left out."""
        # A plain left fold gives one sum however the values are cut into batches; sum()
        # compensates from Python 3.12 on and would not.
        numbers = set(map(type, values)) <= _NUMBERS
        total = reduce(operator.add, values, self.total) if numbers else math.nan
        if total - total != 0:
            self._add_one_by_one(steps, values)
            return
        self.total = total
        self._extremes(steps, values)
        self._end(len(values), max(steps), steps[-1], values[-1])

    def _extremes(self, steps: Sequence[int], values: Sequence[Number]) -> None:
        low, high = min(values), max(values)
        if self.min is None or low < self.min:
            self.min, self.min_step = low, steps[values.index(low)]
        if self.max is None or high > self.max:
            self.max, self.max_step = high, steps[values.index(high)]

    def _add_one_by_one(self, steps: Sequence[int], values: Sequence[Any]) -> None:
        for step, stored in zip(steps, values, strict=True):
            value = from_stored(stored)
            if value is None:
                continue
            if value == value:
                self._extremes([step], [value])
            if value - value == 0:
                self.total += value
            else:
                self.nonfinite += 1
                if self.first_nonfinite_step is None:
                    self.first_nonfinite_step = step
            self._end(1, step, step, value)

    def _end(self, count: int, top_step: int, last_step: int, last: Number) -> None:
        self.count += count
        self.last, self.last_step = last, last_step
        if self.top_step is None or top_step > self.top_step:
            self.top_step = top_step

    @property
    def mean(self) -> float | None:
        """Mean of the finite values."""
        finite = self.count - self.nonfinite
        return self.total / finite if finite else None

    def to_dict(self, goal: str | None) -> dict[str, Any]:
        """Return plain values for ``summary.json``; ``best`` only where there is a goal."""
        kept: dict[str, Any] = {
            "last": self.last, "last_step": self.last_step,
            "min": self.min, "min_step": self.min_step,
            "max": self.max, "max_step": self.max_step,
            "mean": self.mean, "total": self.total, "count": self.count,
            "nonfinite": self.nonfinite or None, "first_nonfinite_step": self.first_nonfinite_step,
            "attempt": self.attempt if self.attempt > 1 else None, "top_step": self.top_step,
        }  # fmt: skip
        if goal is not None:
            side = "min" if goal == "minimize" else "max"
            kept |= {"best": kept[side], "best_step": kept[f"{side}_step"], "goal": goal}
        return {
            key: to_stored(value) if type(value) is float else value
            for key, value in kept.items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> "MetricSummary":
        """Go on where :meth:`to_dict` stopped."""
        self = cls()
        for name in cls.__slots__:
            value = from_stored(kept.get(name))
            if value is not None:
                setattr(self, name, value)
        self.total = float(self.total)
        return self


class Digest:
    """Metric summaries of a history, kept up to date row by row.

    Parameters
    ----------
    reread
        Called without arguments, gives all rows digested so far, the latest included; twice
        in a row when a further attempt goes back over steps of an earlier one, else never.
        They may come one by one: no more than a few are held at a time.
    metrics
        Summaries as in ``summary.json`` to go on from.
    goals
        Goal by metric, before the table of names.
    """

    def __init__(
        self,
        reread: Callable[[], Iterable[Row]],
        metrics: Mapping[str, Mapping[str, Any]] | None = None,
        goals: Mapping[str, str | None] | None = None,
    ) -> None:
        self._reread = reread
        self.goals = dict(goals or {})
        self.went_back = 0
        """How often a further attempt has superseded rows."""
        self.metrics = {
            name: MetricSummary.from_dict(kept)
            for name, kept in (metrics or {}).items()
            if isinstance(kept, Mapping)
        }

    def update(self, rows: Sequence[Row]) -> None:
        """Add rows in file order: about 0.1 µs a value in rows that have the same metrics."""
        stale: set[str] = set()
        for attempt, group in itertools.groupby(rows, _attempt):
            for name, (steps, values) in _columns(list(group)).items():
                self._add(name, attempt, steps, values, stale)
        if stale:
            self._recompute(stale)

    def _add(
        self, name: str, attempt: int, steps: Sequence[int], values: Sequence[Any], stale: set[str]
    ) -> None:
        summary = self.metrics.get(name)
        if summary is None:
            summary = self.metrics[name] = MetricSummary()
            summary.attempt = attempt
        if attempt != summary.attempt:
            top = summary.top_step
            if attempt < summary.attempt or (top is not None and steps[0] <= top):
                stale.add(name)
            summary.attempt = max(attempt, summary.attempt)
        if name not in stale:
            summary.add(steps, values)

    def _recompute(self, names: set[str]) -> None:
        fresh = {name: MetricSummary() for name in names}
        for rows in slices(merge(self._reread)):
            for name, (steps, values) in _columns(rows).items():
                if name in fresh:
                    fresh[name].add(steps, values)
        for name, summary in fresh.items():
            summary.attempt = self.metrics[name].attempt
        self.metrics |= fresh
        self.went_back += 1

    def goal(self, name: str) -> str | None:
        """Goal of one metric: as defined, else by its name."""
        return self.goals[name] if name in self.goals else goal_of(name)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the ``metrics`` of ``summary.json``."""
        # list(): the run's thread adds metrics while others ask.
        return {name: kept.to_dict(self.goal(name)) for name, kept in list(self.metrics.items())}


def merge_attempts(
    rows: Sequence[Row], names: Iterable[str] | None = None
) -> dict[str, list[Point]]:
    """Return the steps and stored values of each metric that no later attempt supersedes.

    Costs memory for all points of the metrics asked for.
    """
    chosen = None if names is None else set(names)
    points: dict[str, list[Point]] = {}
    for row in merged_rows(rows):
        for name, value in row.items():
            if name not in RESERVED and (chosen is None or name in chosen):
                points.setdefault(name, []).append((row["step"], value))
    return points


def merged_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without what later attempts supersede; rows left empty are dropped."""
    return list(merge(lambda: rows))


def merge(reread: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """Iterate over the rows without what later attempts supersede.

    ``reread`` gives all rows and is called twice, at once and for the iteration. Costs memory
    for a number per metric and attempt.
    """
    return _unsuperseded(reread, _limits(reread()))


def slices(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Cut rows into pieces that take well under 0.1 ms to work on."""
    piece: list[Row] = []
    keys = 0
    for row in rows:
        piece.append(row)
        keys += len(row)
        if keys >= _SLICE_KEYS:
            yield piece
            piece, keys = [], 0
    if piece:
        yield piece


def _unsuperseded(
    reread: Callable[[], Iterable[Row]], limits: Mapping[int, Mapping[str, int]]
) -> Iterator[Row]:
    for row in reread():
        limit, step = limits.get(_attempt(row), {}), row["step"]
        gone = [name for name in row if name in limit and step >= limit[name]]
        if gone:
            row = {key: value for key, value in row.items() if key not in gone}
        if not gone or row.keys() - RESERVED:
            yield row


def _limits(rows: Iterable[Row]) -> dict[int, dict[str, int]]:
    """Step from which on each attempt's rows of a metric are superseded, where they are."""
    firsts: dict[int, dict[str, int]] = {}
    for row in rows:
        first = firsts.setdefault(_attempt(row), {})
        if not row.keys() <= first.keys():
            for name in row:
                first.setdefault(name, row["step"])
    limits: dict[int, dict[str, int]] = {}
    later: dict[str, int] = {}
    for attempt in sorted(firsts, reverse=True):
        limits[attempt] = dict(later)
        for name in firsts[attempt].keys() - RESERVED:
            later[name] = min(firsts[attempt][name], later.get(name, firsts[attempt][name]))
    return limits


def _attempt(row: Row) -> int:
    attempt = row.get("attempt", 1)
    return attempt if type(attempt) is int else 1


def _columns(rows: Sequence[Row]) -> dict[str, tuple[list[int], list[Any]]]:
    """Turn rows into steps and values by metric, quickly where all rows have the same keys."""
    names = [name for name in rows[0] if name not in RESERVED]
    if all(_width(row) == len(names) for row in rows):
        try:
            steps = [row["step"] for row in rows]
            return {name: (steps, [row[name] for row in rows]) for name in names}
        except KeyError:
            pass  # As many metrics, but others.
    columns: dict[str, tuple[list[int], list[Any]]] = {}
    for row in rows:
        step = row["step"]
        for name, value in row.items():
            if name not in RESERVED:
                steps, values = columns.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    return columns


def _width(row: Row) -> int:
    """Count the metrics of a row; step and time are in each."""
    return len(row) - 2 - ("attempt" in row) - ("rank" in row)
