"""Curves ready to be drawn: cleaned, smoothed, averaged over seeds, thinned out."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError
from experiment_tracking.registry.columns import find_metric
from experiment_tracking.registry.plots.look import run_labels, without

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from experiment_tracking.registry.aggregate import Aggregate, MeanCurve
    from experiment_tracking.registry.runset import RunSet

    Floats = NDArray[np.float64]

MAX_POINTS = 2000
"""Points of one curve that are drawn: as many as a wide page has dots."""

_SPANS = ((2 * 86400, 86400, "d"), (3 * 3600, 3600, "h"), (600, 60, "min"), (0, 1, "s"))


class Line(NamedTuple):
    """One curve of one run, or the mean curve of a group of runs."""

    label: str
    place: int
    """Position of the run, or group, among all; what is drawn in one style has one place."""
    x: "Floats"
    y: "Floats"
    """NaN where there is a gap."""
    raw: "tuple[Floats, Floats] | None" = None
    """The curve before smoothing."""
    band: "tuple[Floats, Floats] | None" = None
    """Lower and upper edge around the mean, at each ``x``."""


class Panel(NamedTuple):
    """All curves of one metric, and what is not among them."""

    metric: str
    lines: list[Line]
    notes: list[str]
    x_label: str


class Wish(NamedTuple):
    """How curves are to be drawn; see ``plot_curves``."""

    x: str = "step"
    by: Any = None
    smooth: float = 0.0
    band: str = "interval"
    logx: bool = False
    logy: bool = False

    def check(self) -> None:
        """Refuse what makes no sense."""
        if not 0 <= self.smooth < 1:
            raise InvalidValueError(f"smooth must be from 0 to below 1, found {self.smooth!r}.")
        if self.band not in ("interval", "range"):
            raise InvalidValueError(f"band must be 'interval' or 'range', found {self.band!r}.")
        if self.logx and self.x == "time":
            raise InvalidValueError("Dates have no logarithmic axis. Write x='relative'.")


def panels(runs: "RunSet", metrics: str | Iterable[str], wish: Wish) -> list[Panel]:
    """Read the curves of some metrics."""
    wish.check()
    asked = [metrics] if isinstance(metrics, str) else list(metrics)
    names = runs.metric_names()
    if not (runs and asked):
        raise MetricNotFoundError(f"There is nothing to plot: {len(runs)} runs, {asked!r}.")
    found = [find_metric(name, names) for name in asked]
    x = wish.x
    if x not in ("step", "time", "relative"):
        x = find_metric(x, names)
    return [_panel(runs, metric, wish._replace(x=x)) for metric in found]


def _panel(runs: "RunSet", metric: str, wish: Wish) -> Panel:
    lines = _run_lines(runs, metric, wish) if wish.by is None else _group_lines(runs, metric, wish)
    cleaned, left_out = _without(lines, wish)
    notes = [f"{count:,} {what} left out" for what, count in left_out.items() if count]
    if wish.by is None:
        has_curve = {line.place for line in cleaned}
        notes.append(without([i in has_curve for i in range(len(runs))], f"{metric} to show"))
    cleaned, x_label = _with_units(cleaned, wish.x)
    drawn = [_thinned(_smoothed(line, wish.smooth)) for line in cleaned]
    return Panel(metric, drawn, notes, x_label)


def _run_lines(runs: "RunSet", metric: str, wish: Wish) -> list[Line]:
    from experiment_tracking.registry.curves import curves

    labels = run_labels(runs)
    # In the order of the runs, of which two roots may have several of one key.
    places = enumerate(runs.keys)
    lines = []
    for curve in curves(runs, metric, wish.x):
        i = next(i for i, key in places if key == curve.run)
        lines.append(Line(labels[i], i, curve.x, curve.y))
    return lines


def _group_lines(runs: "RunSet", metric: str, wish: Wish) -> list[Line]:
    from experiment_tracking.registry.aggregate import aggregate

    groups = aggregate(runs, wish.by, metrics=())
    labels = group_labels(groups)
    place = {id(group): i for i, group in enumerate(groups)}
    lines = []
    for curve in groups.curves(metric, wish.x):
        i = place[id(curve.group)]
        band = (curve.low, curve.high) if wish.band == "interval" else _range(curve, metric, wish.x)
        lines.append(Line(labels[i], i, curve.axis, curve.mean, band=band))
    return lines


def group_labels(groups: "Aggregate") -> list[str]:
    """Return what groups of runs differ in, and how many runs each has."""
    columns = groups.to_text_columns()
    counts = columns["runs"]
    columns = dict(itertools.takewhile(lambda column: column[0] != "runs", columns.items()))
    rows = zip(*columns.values(), strict=True) if columns else [()] * len(counts)
    return [
        ", ".join(
            [*(f"{name}={value}" for name, value in zip(columns, row, strict=True)), f"n={n}"]
        )
        for row, n in zip(rows, counts, strict=True)
    ]


def _range(curve: "MeanCurve", metric: str, x: str) -> "tuple[Floats, Floats]":
    import numpy as np

    from experiment_tracking.registry.curves import curves, on_axis

    table = on_axis(curves(curve.group.runs, metric, x), curve.axis)
    table[np.isinf(table)] = np.nan
    return np.fmin.reduce(table), np.fmax.reduce(table)


# ---------------------------------------------------------------------- what cannot be drawn


def _without(lines: Sequence[Line], wish: Wish) -> tuple[list[Line], Mapping[str, int]]:
    """Put gaps in the place of what has no place on the axes, and count it."""
    import numpy as np

    left_out = {"infinite values": 0, "values not above 0": 0, "points beside the x axis": 0}
    kept = []
    for line in lines:
        x, y = np.asarray(line.x, float), np.array(line.y, float)
        infinite = np.isinf(y)
        below = (y <= 0) & ~infinite & wish.logy
        y[infinite | below] = np.nan
        on_axis = np.isfinite(x) & ((x > 0) | (not wish.logx))
        for what, found in zip(left_out, (infinite, below, ~on_axis), strict=True):
            left_out[what] += int(found.sum())
        band = line.band and (line.band[0][on_axis], line.band[1][on_axis])
        if np.isfinite(y[on_axis]).any():
            kept.append(line._replace(x=x[on_axis], y=y[on_axis], band=band))
    return kept, left_out


def _with_units(lines: list[Line], x: str) -> tuple[list[Line], str]:
    """Give x its unit: dates, or the largest unit of time in which there is a whole one."""
    if x == "time":
        moments = [line._replace(x=(line.x * 1e6).astype("datetime64[us]")) for line in lines]
        return moments, "time (UTC)"
    if x != "relative":
        return lines, x
    longest = max((line.x[-1] for line in lines if len(line.x)), default=0.0)
    size, unit = next((size, unit) for start, size, unit in _SPANS if longest >= start)
    return [line._replace(x=line.x / size) for line in lines], f"time since the first row ({unit})"


# ---------------------------------------------------------------------- smoothing and thinning


def smoothed(y: "Floats", weight: float) -> "Floats":
    """Return the exponential moving average of a curve, as TensorBoard computes it.

    Parameters
    ----------
    y
        Values in order; those that are not finite are gaps and stay so.
    weight
        Share of the values before, from 0 (no smoothing) to below 1.

    Returns
    -------
    numpy.ndarray
        ``s[n] / (1 - weight**n)`` with ``s[n] = weight * s[n - 1] + (1 - weight) * y[n]`` and
        ``s[0] = 0``, so that the beginning is not drawn to zero; a constant curve as it is.
        Source: ``classicSmoothing`` in TensorBoard's line chart.
    """
    import numpy as np

    result = np.array(y, float)
    finite = np.isfinite(result)
    values = result[finite]
    if not len(values) or (values == values[0]).all():
        return result
    sums = itertools.accumulate(
        values.tolist(), lambda last, value: weight * last + (1 - weight) * value, initial=0.0
    )
    n = np.arange(1, len(values) + 1)
    result[finite] = np.fromiter(sums, float, len(values) + 1)[1:] / (1 - weight**n)
    return result


def _smoothed(line: Line, weight: float) -> Line:
    if not weight:
        return line
    low_high = line.band and (smoothed(line.band[0], weight), smoothed(line.band[1], weight))
    return line._replace(y=smoothed(line.y, weight), raw=(line.x, line.y), band=low_high)


def _thinned(line: Line) -> Line:
    from experiment_tracking.registry.reduce import min_max

    if line.band:  # a mean over a common axis of few points
        return line
    x, y = min_max(line.x, line.y, MAX_POINTS)
    return line._replace(x=x, y=y, raw=line.raw and min_max(*line.raw, MAX_POINTS))
