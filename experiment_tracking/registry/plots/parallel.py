"""Parallel coordinates: an axis per param, a line per run."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.aggregate import varies
from experiment_tracking.registry.plots import look
from experiment_tracking.registry.plots.values import Scale, metric_values, param_scale
from experiment_tracking.registry.plots.values import scale as scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiment_tracking.registry.runset import RunSet

MAX_AXES = 10
_MAX_TICKS = 15
_FEW_VALUES = 6
_NONE = -0.12
"""Height of those runs that lack a param, under the axis."""


class Parallel(NamedTuple):
    """What parallel coordinates show."""

    scales: list[Scale]
    """Of the params, and of the metric as the last."""
    labels: list[str]
    values: list[float]
    """The metric."""
    goal: str | None
    notes: list[str]


def plot_parallel(
    runs: "RunSet",
    metric: str,
    params: Sequence[str] | None = None,
    on: str = "best",
    ax: "Axes | None" = None,
    engine: str | None = None,
) -> Any:
    """Plot params and a metric as parallel axes, each run a line across them.

    The better a run, the darker its line, and the later it is drawn. Axes of numbers that span
    two decades are logarithmic; words stand in order; a run that lacks a param passes under its
    axis.

    Parameters
    ----------
    runs
        The runs; those without a finite value of the metric are left out, and the upper right
        corner says how many.
    metric
        Its name, or as ``"val/loss:mean"`` another number of it.
    params
        The axes; by default the params in which the runs differ, the first ten.
    on
        Each run's ``"best"`` value (the default), ``"last"``, ``"min"``, ``"max"`` or ``"mean"``.
    ax
        Axes to draw on, instead of a new figure.
    engine
        ``"matplotlib"`` (the default), or ``"plotly"``, whose axes can be moved and narrowed.

    Returns
    -------
    matplotlib.figure.Figure or plotly.graph_objects.Figure
        The figure.

    Raises
    ------
    MetricNotFoundError
        If none of the runs has the metric.
    InvalidValueError
        If none has a param that is named, or the metric has no goal and so no best.
    MissingPackageError
        Without matplotlib (or plotly).
    """
    look.check_engine(engine)
    found = _gather(runs, params, metric, on)
    if engine == "plotly":
        from experiment_tracking.registry.plots.interactive import parallel_figure

        return parallel_figure(found)
    axes = look.new_axes(ax, max(6.0, 1.6 * len(found.scales) + 1.2), 4.4)
    *before, last = map(ticked, found.scales)
    columns = [*(_fanned(column, found.values) for column in before), last]
    _draw_axes(axes, columns, found.scales)
    _draw_lines(axes, columns, found)
    if (best := look.best_of(found.values, found.goal)) is not None:
        look.star(axes, found.labels[best])
    look.remark(axes, found.notes)
    return look.figure_of(axes)


def _gather(runs: "RunSet", params: Sequence[str] | None, metric: str, on: str) -> Parallel:
    found = metric_values(runs, metric, on)
    has = [math.isfinite(value) for value in found.values]
    kept = [i for i in range(len(runs)) if has[i]]
    values = [found.values[i] for i in kept]
    labels = look.run_labels(runs)
    notes = [look.without(has, found.label)]
    names = [params] if isinstance(params, str) else params
    if names is None:
        names = differing_params(runs)
        if len(names) > MAX_AXES:
            notes.append(f"{len(names) - MAX_AXES} further params not shown")
        names = names[:MAX_AXES]
    scales = [_taken(param_scale(runs, name), kept) for name in names]
    scales.append(scale_of(found.label, values))
    return Parallel(scales, [labels[i] for i in kept], values, found.goal, notes)


def differing_params(runs: "RunSet") -> list[str]:
    """Return the params that are not the same in all runs."""
    names = [name for name in runs.param_names() if varies(runs.column(f"params.{name}"))]
    if not names:
        raise InvalidValueError(
            f"These {len(runs)} runs differ in no param, so there is nothing to compare. "
            "Name some: params=[...]."
        )
    return names


def _taken(scale: Scale, kept: Sequence[int]) -> Scale:
    return scale._replace(places=[scale.places[i] for i in kept])


# ---------------------------------------------------------------------- drawing


class Ticked(NamedTuple):
    """One axis, from 0 at its lower end to 1 at its upper."""

    heights: list[float]
    """Of each run."""
    ticks: list[tuple[float, str]]


def ticked(scale: Scale) -> Ticked:
    """Lay a scale out between 0 and 1, runs that have no value under it."""
    known = sorted({place for place in scale.places if math.isfinite(place)})
    if scale.words is not None:
        known = [float(i) for i in range(len(scale.words))]
    ticks = _ticks(scale, known)
    transform = math.log10 if scale.is_log else float
    low, high = (transform(known[0]), transform(known[-1])) if known else (0.0, 0.0)

    def height(place: float) -> float:
        if not math.isfinite(place):
            return _NONE
        return (transform(place) - low) / (high - low) if high > low else 0.5

    heights = [height(place) for place in scale.places]
    below = [(_NONE, "none")] if _NONE in heights else []
    return Ticked(heights, below + [(height(place), word) for place, word in ticks])


def _fanned(column: Ticked, values: Sequence[float]) -> Ticked:
    """Move runs of equal height a little apart, by their metric: a bundle shows what is in it."""
    bundles: dict[float, list[int]] = {}
    for i in sorted(range(len(values)), key=values.__getitem__):
        bundles.setdefault(column.heights[i], []).append(i)
    width = min(0.04, 0.4 / len(bundles))
    heights = list(column.heights)
    for equal in bundles.values():
        for rank, i in enumerate(equal):
            heights[i] += width * (rank / (len(equal) - 1) - 0.5) if len(equal) > 1 else 0
    return Ticked(heights, column.ticks)


def _ticks(scale: Scale, known: Sequence[float]) -> list[tuple[float, str]]:
    if scale.words is not None:
        every = math.ceil(len(scale.words) / _MAX_TICKS)
        return [(float(i), look.plain(word, 18)) for i, word in enumerate(scale.words)][::every]
    if len(known) <= _FEW_VALUES:
        return [(place, look.number(place)) for place in known]
    low, high = known[0], known[-1]
    if scale.is_log:
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        return [(10.0**p, look.number(10.0**p)) for p in powers[:: len(powers) // _FEW_VALUES + 1]]
    rough = (high - low) / _FEW_VALUES
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(digit for digit in (1, 2, 5, 10) if digit * power >= rough)
    places = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(place, look.number(place)) for place in places]


def _draw_axes(axes: "Axes", columns: Sequence[Ticked], scales: Sequence[Scale]) -> None:
    last = len(scales) - 1
    for i, (column, scale) in enumerate(zip(columns, scales, strict=True)):
        axes.plot([i, i], [0, 1], color="black", linewidth=1)
        axes.text(i, 1.05, look.plain(scale.label, 20), ha="center", va="bottom")
        for height, word in column.ticks if i < last else ():
            axes.plot([i - 0.02, i], [height, height], color="black", linewidth=0.8)
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8}
            axes.text(i - 0.04, height, word, ha="right", va="center", fontsize="small", bbox=box)
    lowest = min(height for column in columns for height in (0.0, *column.heights))
    axes.set(xlim=(-0.4, last + 0.45), ylim=(lowest - 0.03, 1.12))
    axes.set_axis_off()


def _draw_lines(axes: "Axes", columns: Sequence[Ticked], found: Parallel) -> None:
    import numpy as np
    from matplotlib.collections import LineCollection

    # Best last, for it is to lie on top.
    order = np.argsort(found.values, kind="stable")[:: -1 if found.goal == "minimize" else 1]
    paths = [[(i, column.heights[run]) for i, column in enumerate(columns)] for run in order]
    values = np.array(found.values)[order]
    few = len(paths) <= look.MAX_LEGEND
    lines = LineCollection(
        paths,
        array=values,
        cmap=look.dark_is_better(found.goal),
        norm=look.norm_of(found.values, found.scales[-1].is_log),
        linewidths=1.8 if few else 0.9,
        linestyles=[look.style(int(run)).line for run in order] if few else "-",
        alpha=0.9 if few else 0.7,
    )
    axes.add_collection(lines)
    _draw_colour_bar(axes, lines, found)


def _draw_colour_bar(axes: "Axes", lines: Any, found: Parallel) -> None:
    """Draw the colours along the metric's axis, whose ticks they share."""
    from matplotlib.cm import ScalarMappable

    last = len(found.scales) - 1
    beside = axes.inset_axes((last, 0, 0.08, 1), transform=axes.transData)
    shown = ScalarMappable(lines.norm, lines.cmap)  # the lines let others shine through
    bar = look.figure_of(axes).colorbar(shown, cax=beside)
    bar.outline.set_visible(False)
