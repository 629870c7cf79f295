"""Curves of metrics, run by run or averaged over seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.plots import look
from experiment_tracking.registry.plots.lines import Line, Panel, Wish, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    from experiment_tracking.registry.plots.lines import Floats
    from experiment_tracking.registry.runset import RunSet

_PANEL_WIDTH, _PANEL_HEIGHT = 5.6, 3.8
_LEGEND_WIDTH = 1.6
_MARKS = 8


def plot_curves(
    runs: "RunSet",
    metrics: str | Iterable[str],
    x: str = "step",
    by: Any = None,
    smooth: float = 0.0,
    band: str = "interval",
    logx: bool = False,
    logy: bool = False,
    ax: "Axes | None" = None,
    engine: str | None = None,
) -> Any:
    """Plot metrics over steps, time or another metric.

    Up to twelve curves have a legend, each with its own colour, line and marker; more are
    coloured in the order of the runs. NaN is a gap; what has no place on the axes, as an infinite
    value, is left out, and the upper right corner says how much. A curve of more than 2,000
    points is drawn by the lowest and highest of each stretch.

    Parameters
    ----------
    runs
        The runs.
    metrics
        One metric, or several for a panel each.
    x
        ``"step"``, ``"time"``, ``"relative"`` (since the run's first row), or another metric.
    by
        ``"*-seed"``: one mean curve of the runs that are equal but for the param ``seed``, as
        ``RunSet.aggregate`` groups them.
    smooth
        Weight of TensorBoard's smoothing, 0 (none, the default) to below 1; the curve itself
        stands faintly behind.
    band
        Around a mean curve: ``"interval"`` (95 % of the mean) or ``"range"`` (lowest to highest).
    logx, logy
        Logarithmic axes.
    ax
        Axes to draw one metric on, instead of a new figure.
    engine
        ``"matplotlib"`` (the default), or ``"plotly"`` for a figure that answers to the mouse.

    Returns
    -------
    matplotlib.figure.Figure or plotly.graph_objects.Figure
        The figure.

    Raises
    ------
    MetricNotFoundError
        If none of the runs has a metric that is asked for.
    MissingPackageError
        Without matplotlib (or plotly).
    """
    look.check_engine(engine)
    found = panels(runs, metrics, Wish(x, by, smooth, band, logx, logy))
    if engine == "plotly":
        from experiment_tracking.registry.plots.interactive import curves_figure

        return curves_figure(found, logx, logy)
    if ax is not None and len(found) > 1:
        raise InvalidValueError(f"ax takes one metric, found {len(found)}.")
    places = _places(found)
    all_axes = _new_axes(len(found), len(places)) if ax is None else [ax]
    for axes, panel in zip(all_axes, found, strict=True):
        _draw(axes, panel, places, logx, logy)
    _explain(all_axes, places, "runs" if by is None else "groups", is_ours=ax is None)
    return look.figure_of(all_axes[0])


def _places(found: Sequence[Panel]) -> dict[int, str]:
    """Return what is drawn in any panel: its place, in order, and its label."""
    return dict(sorted({line.place: line.label for panel in found for line in panel.lines}.items()))


def _new_axes(panels: int, lines: int) -> "list[Axes]":
    columns = 1 if panels == 1 else 2
    rows = math.ceil(panels / columns)
    beside = _LEGEND_WIDTH if lines > 1 else 0
    figure = look.new_figure(columns * _PANEL_WIDTH + beside, rows * _PANEL_HEIGHT)
    return [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]


def _draw(axes: "Axes", panel: Panel, places: Mapping[int, str], logx: bool, logy: bool) -> None:
    look.dress(axes)
    order = {place: i for i, place in enumerate(places)}
    for line in panel.lines:
        _draw_line(axes, line, order[line.place], len(places))
    axes.set_xlabel(look.plain(panel.x_label))
    axes.set_ylabel(look.plain(panel.metric))
    _set_scales(axes, panel.x_label, logx, logy)
    look.remark(axes, panel.notes)


def _set_scales(axes: "Axes", x_label: str, logx: bool, logy: bool) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator

    if x_label.startswith("time (UTC"):
        dates = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(dates)
        form = ConciseDateFormatter(dates)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(form)
    elif x_label == "step" and not logx:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    if logx:
        axes.set_xscale("log")
    if logy:
        axes.set_yscale("log")


def _colours(count: int) -> "Colormap | None":
    """Return the colours of many lines, in their order; a few have styles of their own."""
    return None if count <= look.MAX_LEGEND else look.dark_is_better("maximize")


def _draw_line(axes: "Axes", line: Line, i: int, count: int) -> None:
    looks = _looks(i, count)
    if line.raw is not None:
        axes.plot(*line.raw, color=looks["color"], alpha=0.25, linewidth=0.8)
    if line.band is not None:
        axes.fill_between(line.x, *line.band, color=looks["color"], alpha=0.18, linewidth=0)
    marked = _marked(line.y, i if count <= look.MAX_LEGEND else None)
    axes.plot(line.x, line.y, markevery=marked, label=look.plain(line.label), **looks)


def _looks(i: int, count: int) -> dict[str, Any]:
    """Return how the line at ``i`` of so many is drawn."""
    if colours := _colours(count):
        return {"color": colours(i / (count - 1)), "linewidth": 0.8, "marker": ".", "markersize": 4}
    style = look.style(i)
    line = {"color": style.colour, "linestyle": style.line, "marker": style.marker}
    return {**line, "linewidth": 1.6, "markersize": 5}


def _marked(y: "Floats", i: int | None) -> list[int]:
    """Choose the points with a marker: single ones, which no line shows, and some of each line.

    Lines have theirs at different places, so that where they meet no marker hides another.
    """
    import numpy as np

    has = np.isfinite(y)
    alone = has & ~np.append(False, has[:-1]) & ~np.append(has[1:], False)
    marked = set(np.flatnonzero(alone).tolist())
    if i is not None:
        gap = max(1, math.ceil(len(y) / _MARKS))
        marked |= set(range(i * gap // 3 % gap, len(y), gap))
    return sorted(marked)


def _explain(
    all_axes: "Sequence[Axes]", places: Mapping[int, str], what: str, *, is_ours: bool
) -> None:
    """Say which line is which run."""
    if len(places) == 1:
        (label,) = places.values()
        all_axes[0].set_title(look.plain(label), loc="left", fontsize="medium")
    elif len(places) > look.MAX_LEGEND:
        _colour_bar(all_axes, list(places.values()), what)
    elif places:
        _legend(all_axes, list(places.values()), is_ours)


def _legend(all_axes: "Sequence[Axes]", labels: Sequence[str], is_ours: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=look.plain(label), **_looks(i, len(labels)))
        for i, label in enumerate(labels)
    ]
    if is_ours:
        figure = look.figure_of(all_axes[0])
        figure.legend(handles=handles, loc="outside right upper", frameon=False, handlelength=3)
    else:
        beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1)}
        all_axes[0].legend(handles=handles, frameon=False, handlelength=3, **beside)


def _colour_bar(all_axes: "Sequence[Axes]", labels: Sequence[str], what: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    shown = ScalarMappable(Normalize(0, len(labels) - 1), _colours(len(labels)))
    bar = look.figure_of(all_axes[0]).colorbar(shown, ax=list(all_axes), pad=0.02, aspect=30)
    ticks = [round(i * (len(labels) - 1) / 6) for i in range(7)]
    bar.set_ticks(ticks, labels=[look.plain(labels[i], 24) for i in ticks])
    bar.ax.invert_yaxis()
    bar.set_label(f"{len(labels)} {what}, in their order")
