"""A param against a metric, one point per run."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.registry.plots import look
from experiment_tracking.registry.plots.values import Scale, metric_values, param_scale, put_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiment_tracking.registry.runset import RunSet

_SPREAD = 0.18
"""How far the points of one word lie around its place, at most."""


class Points(NamedTuple):
    """What a scatter plot shows."""

    scale: Scale
    metric: str
    labels: list[str]
    x: list[float]
    y: list[float]
    best: int | None
    """Position of the best run among the points."""
    notes: list[str]


def plot_scatter(
    runs: "RunSet",
    param: str,
    metric: str,
    on: str = "best",
    logx: bool | None = None,
    logy: bool = False,
    ax: "Axes | None" = None,
    engine: str | None = None,
) -> Any:
    """Plot a param against a metric: one point per run, a star for the best.

    Parameters
    ----------
    runs
        The runs; those without the param or a finite value are left out, and the upper right
        corner says how many.
    param
        A param, or any other column of the runs. Words stand side by side, their points a little
        apart from each other and a line at their median.
    metric
        Its name, or as ``"val/loss:mean"`` another number of it.
    on
        Each run's ``"best"`` value (the default), ``"last"``, ``"min"``, ``"max"`` or ``"mean"``.
    logx
        A logarithmic axis for the param; by default where it spans two decades.
    logy
        One for the metric.
    ax
        Axes to draw on, instead of a new figure.
    engine
        ``"matplotlib"`` (the default), or ``"plotly"``, which names the run under the mouse.

    Returns
    -------
    matplotlib.figure.Figure or plotly.graph_objects.Figure
        The figure.

    Raises
    ------
    MetricNotFoundError
        If none of the runs has the metric.
    InvalidValueError
        If none has the param, or the metric has no goal and so no best.
    MissingPackageError
        Without matplotlib (or plotly).
    """
    look.check_engine(engine)
    points = _points(runs, param, metric, on, logx, logy)
    if engine == "plotly":
        from experiment_tracking.registry.plots.interactive import scatter_figure

        return scatter_figure(points, logy)
    axes = look.new_axes(ax, 6.0, 4.2)
    look.dress(axes)
    _draw(axes, points)
    if logy:
        axes.set_yscale("log")
    return look.figure_of(axes)


def _points(
    runs: "RunSet", param: str, metric: str, on: str, logx: bool | None, logy: bool
) -> Points:
    found = metric_values(runs, metric, on)
    scale = param_scale(runs, param, logx)
    has_x = [math.isfinite(x) and (x > 0 or not scale.is_log) for x in scale.places]
    has_y = [math.isfinite(y) and (y > 0 or not logy) for y in found.values]
    kept = [i for i in range(len(runs)) if has_x[i] and has_y[i]]
    labels = look.run_labels(runs)
    x, y = [scale.places[i] for i in kept], [found.values[i] for i in kept]
    notes = [look.without(has_x, scale.label), look.without(has_y, found.label)]
    return Points(
        scale,
        found.label,
        [labels[i] for i in kept],
        _spread(x) if scale.words is not None else x,
        y,
        look.best_of(y, found.goal),
        notes,
    )


def _spread(places: Sequence[float]) -> list[float]:
    """Move points of one word apart, each time to the same places.

    Multiples of the golden ratio, cut to their fractions, keep apart however many there are.
    """
    seen: dict[float, int] = {}
    moved = []
    for place in places:
        seen[place] = count = seen.get(place, -1) + 1
        moved.append(place + _SPREAD * (2 * ((count * 0.618034 + 0.5) % 1) - 1))
    return moved


def _draw(axes: "Axes", points: Points) -> None:
    few = len(points.x) <= 50
    axes.scatter(
        points.x,
        points.y,
        s=36 if few else 16,
        color=look.style(0).colour,
        alpha=0.85 if few else 0.5,
        edgecolors="white",
        linewidths=0.5,
    )
    if points.scale.words is not None:
        _draw_medians(axes, points)
    if points.best is not None:
        _draw_best(axes, points, points.best)
    put_on(axes, "x", points.scale)
    axes.set_ylabel(look.plain(points.metric))
    look.remark(axes, points.notes)


def _draw_medians(axes: "Axes", points: Points) -> None:
    from statistics import median

    found: dict[int, list[float]] = {}
    for x, y in zip(points.x, points.y, strict=True):
        found.setdefault(round(x), []).append(y)
    medians = {place: median(values) for place, values in found.items() if len(values) > 1}
    ends = [place - 0.3 for place in medians], [place + 0.3 for place in medians]
    axes.hlines(list(medians.values()), *ends, color="black", linewidth=1.6)


def _draw_best(axes: "Axes", points: Points, best: int) -> None:
    axes.scatter(
        points.x[best],
        points.y[best],
        s=170,
        marker="*",
        color=look.style(1).colour,
        edgecolors="black",
        linewidths=0.8,
    )
    look.star(axes, points.labels[best])
