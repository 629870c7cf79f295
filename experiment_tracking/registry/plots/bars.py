"""One value of a metric per run, or per group of runs, as bars."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import MetricNotFoundError
from experiment_tracking.registry.columns import near
from experiment_tracking.registry.labels import apart
from experiment_tracking.registry.plots import look
from experiment_tracking.registry.plots.lines import labels_of
from experiment_tracking.registry.plots.values import metric_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiment_tracking.registry.compare import Comparison
    from experiment_tracking.registry.runset import RunSet

_BAR_HEIGHT = 0.28
_MAX_NAMES = 50
"""More bars than this have only some of their names."""


class Bars(NamedTuple):
    """What bars show, the first at the top."""

    title: str
    labels: list[str]
    values: list[float]
    ends: list[tuple[float, float]] | None = None
    """Lower and upper end of the interval around each value."""
    notes: Sequence[str] = ()


def plot_bars(
    runs: "RunSet", metric: str, on: str = "last", by: Any = None, ax: "Axes | None" = None
) -> "Figure":
    """Plot one value of a metric per run as bars, in the order of the runs.

    Up to twelve bars have the colours of ``plot_curves``, and hatches. What is not finite has
    its name in the place of a bar.

    Parameters
    ----------
    runs
        The runs.
    metric
        Its name, or as ``"val/loss:mean"`` another number of it.
    on
        Each run's ``"last"`` value (the default), ``"best"``, ``"min"``, ``"max"`` or ``"mean"``.
    by
        ``"*-seed"``: one bar of the mean of the runs that are equal but for the param ``seed``,
        as ``RunSet.aggregate`` groups them, with the mean's 95 % interval.
    ax
        Axes to draw on, instead of a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    MetricNotFoundError
        If none of the runs has the metric.
    InvalidValueError
        For the best of a metric without a goal.
    MissingPackageError
        Without matplotlib.
    """
    found = _run_bars(runs, metric, on) if by is None else _group_bars(runs, metric, on, by)
    longest = max(map(len, found.labels), default=0)
    axes = look.new_axes(ax, max(6.4, 4.2 + longest * 0.08), _height(len(found.labels)))
    _draw(axes, found)
    return look.figure_of(axes)


def plot_comparison(comparison: "Comparison", metric: str | None = None) -> "Figure":
    """Plot the values of a comparison as bars, a panel per metric.

    Parameters
    ----------
    comparison
        Runs side by side.
    metric
        One of its metrics; by default all, the first six.

    Raises
    ------
    MetricNotFoundError
        If the comparison does not have it, or none at all.
    """
    if not comparison["metrics"] or metric not in (None, *comparison["metrics"]):
        known = list(comparison["metrics"])
        raise MetricNotFoundError(
            f"The comparison has no metric {metric or ''!r}. {near(metric or '', known)}"
        )
    metrics = list(comparison["metrics"])[:6] if metric is None else [metric]
    names = apart(comparison["experiments"], look.LABEL_CHARACTERS)
    figure = look.new_figure(2.2 + 3.4 * len(metrics), _height(len(names)))
    for i, name in enumerate(metrics):
        axes = figure.add_subplot(1, len(metrics), i + 1)
        _draw(axes, Bars(name, names, comparison["metrics"][name]))
        if i:
            axes.set_yticklabels([])
    return figure


def _run_bars(runs: "RunSet", metric: str, on: str) -> Bars:
    found = metric_values(runs, metric, on)
    return Bars(found.label, look.run_labels(runs), found.values)


def _group_bars(runs: "RunSet", metric: str, on: str, by: Any) -> Bars:
    from experiment_tracking.registry.aggregate import aggregate

    groups = aggregate(runs, by, [metric], on)
    measure = groups.measures[metric]
    stats = [group.stats[metric] for group in groups]
    return Bars(
        f"{measure.metric} ({measure.number}), mean and 95 % interval",
        labels_of(groups),
        [spread.mean for spread in stats],
        [(spread.low, spread.high) for spread in stats],
        groups.notes,
    )


def _height(count: int) -> float:
    return min(14.0, max(2.0, 0.9 + _BAR_HEIGHT * count))


# ---------------------------------------------------------------------- drawing


def _draw(axes: "Axes", bars: Bars) -> None:
    look.dress(axes, "x")
    few = len(bars.labels) <= look.MAX_LEGEND
    styles = [look.style(i if few else 0) for i in range(len(bars.labels))]
    lengths = [value if math.isfinite(value) else 0.0 for value in bars.values]
    drawn = axes.barh(
        range(len(lengths)),
        lengths,
        height=_thickness(len(lengths)),
        color=[style.colour for style in styles],
        edgecolor="white",
        linewidth=0.5 if len(lengths) <= _MAX_NAMES else 0,
    )
    for bar, style in zip(drawn, styles, strict=True):
        bar.set_hatch(style.hatch)
    _draw_intervals(axes, bars, lengths)
    if len(lengths) <= _MAX_NAMES:
        _write_values(axes, bars, lengths)
    _name(axes, bars.labels)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(look.plain(bars.title, 60))
    look.remark(axes, bars.notes)


def _thickness(count: int) -> float:
    """Return how much of its row a bar fills; the bars of many leave no white between them."""
    if count > _MAX_NAMES:
        return 1.0
    return 0.75 if count > 2 else 0.45


def _name(axes: "Axes", labels: Sequence[str]) -> None:
    step = math.ceil(len(labels) / _MAX_NAMES)
    shown = [look.plain(label, None) for label in labels[::step]]
    axes.set_yticks(range(0, len(labels), step), shown)
    axes.tick_params("y", length=0 if step == 1 else 3)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def _draw_intervals(axes: "Axes", bars: Bars, lengths: Sequence[float]) -> None:
    from matplotlib.patheffects import withStroke

    # A black line with a white edge is seen on bars of any colour, black ones too.
    edge: Any = [withStroke(linewidth=3.2, foreground="white")]
    line: dict[str, Any] = {"color": "black", "capsize": 3, "linewidth": 1.2}
    for i, (low, high) in enumerate(bars.ends or ()):
        if math.isfinite(low) and math.isfinite(high):
            out = [[lengths[i] - low], [high - lengths[i]]]
            axes.errorbar([lengths[i]], [i], xerr=out, path_effects=edge, **line)


def _write_values(axes: "Axes", bars: Bars, lengths: Sequence[float]) -> None:
    ends = bars.ends or [(value, value) for value in bars.values]
    for i, (value, (low, high)) in enumerate(zip(bars.values, ends, strict=True)):
        is_left = lengths[i] < 0
        end = min(lengths[i], low) if is_left else max(lengths[i], high)
        axes.annotate(
            look.number(value) if value == value else "no number",
            (end if math.isfinite(end) else lengths[i], i),
            (-4 if is_left else 4, 0),
            textcoords="offset points",
            ha="right" if is_left else "left",
            va="center",
            fontsize="small",
        )
    axes.margins(x=0.15)
