"""Curves ready to be drawn: cleaned, smoothed, averaged over seeds, thinned out."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError
from experiment_tracking.registry.columns import find_metric
from experiment_tracking.registry.labels import group_labels
from experiment_tracking.registry.plots.look import run_labels, without
from experiment_tracking.registry.wording import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from experiment_tracking.registry.aggregate import Aggregate, Group, MeanCurve
    from experiment_tracking.registry.runset import RunSet

    Floats = NDArray[np.float64]

MAX_POINTS = 2000
"""Points of one curve that are drawn: as many as a wide page has dots."""

_SPANS = ((2 * 86400, 86400, "d"), (3 * 3600, 3600, "h"), (600, 60, "min"), (0, 1, "s"))


_BANDS: "dict[str | None, tuple[str, Callable[[MeanCurve], tuple[Floats, Floats] | None]]]" = {
    "interval": ("mean, 95 % interval", lambda curve: (curve.low, curve.high)),
    "std": (
        "mean ± standard deviation",
        lambda curve: (curve.mean - curve.std, curve.mean + curve.std),
    ),
    "sem": (
        "mean ± standard error",
        lambda curve: (curve.mean - curve.sem, curve.mean + curve.sem),
    ),
    "range": ("mean, lowest to highest", lambda curve: (curve.min, curve.max)),
    None: ("mean", lambda curve: None),
}
"""What may lie around a mean curve: what it is called, and its edges."""

_BEYOND = 0.25
"""How far the axis follows bands out of the range of the runs, as a share of that."""


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
    limits: tuple[float, float] | None = None
    """Lowest and highest ``y`` to be shown; None for all that is drawn."""


class Wish(NamedTuple):
    """How curves are to be drawn; see ``plot_curves``."""

    x: str = "step"
    by: Any = None
    smooth: float = 0.0
    band: str | None = "interval"
    logx: bool = False
    logy: bool = False

    def check(self) -> None:
        """Refuse what makes no sense."""
        if not 0 <= self.smooth < 1:
            raise InvalidValueError(f"smooth must be from 0 to below 1, found {self.smooth!r}.")
        if self.band not in _BANDS:
            allowed = ", ".join(map(repr, _BANDS))
            raise InvalidValueError(f"band must be one of {allowed}, found {self.band!r}.")
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
    wish = wish._replace(x=x)
    if wish.by is None:
        return [_run_panel(runs, metric, wish) for metric in found]

    from experiment_tracking.registry.aggregate import aggregate

    groups = aggregate(runs, wish.by, metrics=())
    return _labelled([_group_panel(groups, metric, wish) for metric in found], groups)


def _run_panel(runs: "RunSet", metric: str, wish: Wish) -> Panel:
    panel = _panel(metric, _run_lines(runs, metric, wish), wish)
    has_curve = {line.place for line in panel.lines}
    lacking = without([i in has_curve for i in range(len(runs))], f"{metric} to show")
    return panel._replace(notes=[*panel.notes, lacking])


def _group_panel(groups: "Aggregate", metric: str, wish: Wish) -> Panel:
    place = {id(group): i for i, group in enumerate(groups)}
    curves = groups.curves(metric, wish.x)
    bands = [_band(curve, wish) for curve in curves]
    lines = [
        Line("", place[id(curve.group)], curve.axis, curve.mean, band=band)
        for curve, band in zip(curves, bands, strict=True)
    ]
    panel = _panel(metric, lines, wish)
    notes = [_what(curves, wish.band), *panel.notes, *groups.notes]
    if any(_is_cut(curve, wish) for curve in curves):
        notes.insert(1, "bands cut at half the lowest run")
    return panel._replace(notes=notes, limits=_limits(curves, bands, wish.logy))


def _panel(metric: str, lines: list[Line], wish: Wish) -> Panel:
    cleaned, left_out = _without(lines, wish)
    notes = [f"{count:,} {what} left out" for what, count in left_out.items() if count]
    cleaned, x_label = _with_units(cleaned, wish.x)
    return Panel(
        metric, [_thinned(_smoothed(line, wish.smooth)) for line in cleaned], notes, x_label
    )


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


# ---------------------------------------------------------------------- groups of runs


def _labelled(found: list[Panel], groups: "Aggregate") -> list[Panel]:
    """Name the lines by what tells apart those groups alone that are drawn."""
    places = sorted({line.place for panel in found for line in panel.lines})
    labels = dict(zip(places, labels_of([groups[i] for i in places]), strict=True))

    def named(line: Line) -> Line:
        return line._replace(label=labels[line.place])

    return [panel._replace(lines=list(map(named, panel.lines))) for panel in found]


def labels_of(groups: "Sequence[Group]") -> list[str]:
    """Return what groups of runs differ in, and how many runs each has where that differs too."""
    counts = [len(group.rows) for group in groups]
    labels = group_labels([group.values for group in groups])
    if len(set(counts)) > 1:
        pairs = zip(labels, counts, strict=True)
        labels = [", ".join(filter(None, (label, f"n={n}"))) for label, n in pairs]
    return [label or plural(n, "run") for label, n in zip(labels, counts, strict=True)]


def _what(curves: "Sequence[MeanCurve]", band: str | None) -> str:
    """Say what is drawn: a mean of so many runs, and what lies around it."""
    counts = {int(curve.n.max()) for curve in curves}
    few, many = min(counts), max(counts)
    if many == 1:
        return "nowhere more than one run of a group, so no band"
    n = plural(many, "run") if few == many else f"{few} to {many:,} runs"
    return f"{_BANDS[band][0]} of {n}"


def _band(curve: "MeanCurve", wish: Wish) -> "tuple[Floats, Floats] | None":
    import numpy as np

    edges = _BANDS[wish.band][1](curve)
    if edges is None or not wish.logy:
        return edges
    return np.maximum(edges[0], _floor(curve)), edges[1]


def _floor(curve: "MeanCurve") -> "Floats":
    """Return where a band ends on a logarithmic axis, on which 0 lies infinitely far down."""
    import numpy as np

    lowest = np.where(curve.min > 0, curve.min, curve.mean)
    return np.where(lowest > 0, lowest / 2, np.nan)


def _is_cut(curve: "MeanCurve", wish: Wish) -> bool:
    edges = _BANDS[wish.band][1](curve)
    return bool(wish.logy and edges and (edges[0] < _floor(curve)).any())


def _limits(
    curves: "Sequence[MeanCurve]",
    bands: "Sequence[tuple[Floats, Floats] | None]",
    logy: bool,
) -> tuple[float, float] | None:
    """Return limits that show all runs, and of the bands what does not press the runs flat.

    Of two or three runs an interval may be ten times as wide as they lie apart.
    """
    runs = _on_scale([edge for each in curves for edge in (each.min, each.max, each.mean)], logy)
    around = _on_scale([edge for band in bands if band for edge in band], logy)
    if not len(runs) or runs.min() == runs.max():
        return None
    beyond = _BEYOND * (runs.max() - runs.min())
    low = max(runs.min() - beyond, around.min(initial=runs.min()))
    high = min(runs.max() + beyond, around.max(initial=runs.max()))
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    return (10.0**low, 10.0**high) if logy else (low, high)


def _on_scale(arrays: "list[Floats]", logy: bool) -> "Floats":
    """Return the numbers that an axis can show, as far apart as they are on it."""
    import numpy as np

    values: Floats = np.concatenate([np.empty(0), *arrays])
    values = values[np.isfinite(values) & ((values > 0) | (not logy))]
    return np.log10(values, dtype=float) if logy else values


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
