"""Curves of metrics, run by run or averaged over seeds."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.labels import apart
from experiment_tracking.registry.plots import look
from experiment_tracking.registry.plots.lines import Line, Panel, Wish, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    from experiment_tracking.registry.plots.lines import Floats
    from experiment_tracking.registry.runset import RunSet

_PANEL_WIDTH, _PANEL_HEIGHT = 5.6, 3.8
_LEGEND_WIDTH = 1.6
_BESIDE = 24
"""Characters of labels that have room beside the data."""
_LEAST_WIDTH_ABOVE = 7.5
"""Width of a picture above its legend, in inches; so are these:"""
_LEGEND_ROW, _HANDLE_WIDTH, _CHARACTER_WIDTH = 0.19, 0.65, 0.068
_MARKS = 8


def plot_curves(
    runs: "RunSet",
    metrics: str | Iterable[str],
    x: str = "step",
    by: Any = None,
    smooth: float = 0.0,
    band: str | None = "interval",
    logx: bool = False,
    logy: bool = False,
    ax: "Axes | None" = None,
    engine: str | None = None,
) -> Any:
    """Plot metrics over steps, time or another metric.

    Up to twelve curves (28 of groups) have a legend, each with its own colour, line and marker;
    more are coloured in the order of the runs. NaN is a gap; what has no place on the axes, as an
    infinite value, is left out, and the upper right corner says how much. A curve of more than
    2,000 points is drawn by the lowest and highest of each stretch.

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
        ``RunSet.aggregate`` groups them. The axis shows all runs, and of the bands what does not
        press the curves flat.
    smooth
        Weight of TensorBoard's smoothing, 0 (none, the default) to below 1; the curve itself
        stands faintly behind.
    band
        Around a mean curve: ``"interval"`` (95 % of the mean, by Student's t), ``"std"`` or
        ``"sem"`` (standard deviation or error to both sides), ``"range"`` (lowest to highest of
        the runs), or None. The upper right corner says which. On a logarithmic axis no band
        reaches below half the lowest run.
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
    key = _key(found, is_of_groups=by is not None)
    all_axes = _new_axes(len(found), key) if ax is None else [ax]
    for axes, panel in zip(all_axes, found, strict=True):
        _draw(axes, panel, key, logx, logy)
    _explain(all_axes, key, is_ours=ax is None)
    return look.figure_of(all_axes[0])


class Key(NamedTuple):
    """What tells the lines apart."""

    order: dict[int, int]
    """From a line's place to its number, which says how it looks."""
    labels: list[str]
    is_of_groups: bool

    @property
    def is_bar(self) -> bool:
        """Whether there are too many for a legend."""
        return len(self.labels) > (look.MAX_GROUPS if self.is_of_groups else look.MAX_LEGEND)

    @property
    def is_below(self) -> bool:
        """Whether the legend would take too much of the width beside the data."""
        many = len(self.labels) > look.MAX_LEGEND
        return not self.is_bar and (many or max(map(len, self.labels), default=0) > _BESIDE)

    def columns(self, width: float) -> int:
        """Return how many entries have room beside each other in so many inches."""
        longest = max(map(len, self.labels), default=0)
        return max(1, int(width / (_HANDLE_WIDTH + longest * _CHARACTER_WIDTH)))


def _key(found: Sequence[Panel], *, is_of_groups: bool) -> Key:
    labels = dict(sorted({line.place: line.label for each in found for line in each.lines}.items()))
    order = {place: i for i, place in enumerate(labels)}
    return Key(order, list(labels.values()), is_of_groups)


def _new_axes(panels: int, key: Key) -> "list[Axes]":
    columns = 1 if panels == 1 else 2
    rows = math.ceil(panels / columns)
    width, height = columns * _PANEL_WIDTH, rows * _PANEL_HEIGHT
    if key.is_below:
        width = max(width, _LEAST_WIDTH_ABOVE)
        height += math.ceil(len(key.labels) / key.columns(width)) * _LEGEND_ROW
    elif len(key.labels) > 1:
        width += _LEGEND_WIDTH
    figure = look.new_figure(width, height)
    return [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]


def _draw(axes: "Axes", panel: Panel, key: Key, logx: bool, logy: bool) -> None:
    is_shared = axes.has_data()
    look.dress(axes)
    for line in panel.lines:
        _draw_line(axes, line, key.order[line.place], key)
    axes.set_xlabel(look.plain(panel.x_label))
    axes.set_ylabel(look.plain(panel.metric))
    _set_scales(axes, panel.x_label, logx, logy)
    if panel.limits and not is_shared:  # what a caller has drawn before stays in sight
        axes.set_ylim(panel.limits)
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


def _colours() -> "Colormap":
    """Return the colours of many lines, in their order; a few have styles of their own."""
    return look.dark_is_better("maximize")


def _draw_line(axes: "Axes", line: Line, i: int, key: Key) -> None:
    looks = _looks(i, key)
    if line.raw is not None:
        axes.plot(*line.raw, color=looks["color"], alpha=0.25, linewidth=0.8)
    if line.band is not None:
        axes.fill_between(line.x, *line.band, color=looks["color"], alpha=0.18, linewidth=0)
    marked = _marked(line.y, None if key.is_bar else i)
    axes.plot(line.x, line.y, markevery=marked, label=look.plain(line.label, None), **looks)


def _looks(i: int, key: Key) -> dict[str, Any]:
    """Return how the line at ``i`` of so many is drawn."""
    if key.is_bar:
        colour = _colours()(i / (len(key.labels) - 1))
        return {"color": colour, "linewidth": 0.8, "marker": ".", "markersize": 4}
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


def _explain(all_axes: "Sequence[Axes]", key: Key, *, is_ours: bool) -> None:
    """Say which line is which run."""
    if key.is_bar:
        _colour_bar(all_axes, key)
    elif len(key.labels) > 1:
        _legend(all_axes, key, is_ours)
    elif key.labels and not key.is_of_groups:
        title = look.plain(key.labels[0], None)
        all_axes[0].set_title(title, loc="left", fontsize="medium")


def _legend(all_axes: "Sequence[Axes]", key: Key, is_ours: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], label=look.plain(label, None), **_looks(i, key))
        for i, label in enumerate(key.labels)
    ]
    figure = look.figure_of(all_axes[0])
    looks: dict[str, Any] = {"handles": handles, "frameon": False, "handlelength": 3}
    if key.is_below:
        columns = key.columns(float(figure.get_figwidth()))
        looks |= {"ncols": columns, "fontsize": "small", "columnspacing": 1.2}
    if is_ours:
        looks["loc"] = "outside lower center" if key.is_below else "outside right upper"
        figure.legend(**looks)
    else:
        corner = (0, -0.16) if key.is_below else (1.02, 1)
        all_axes[0].legend(loc="upper left", bbox_to_anchor=corner, **looks)


def _colour_bar(all_axes: "Sequence[Axes]", key: Key) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    last = len(key.labels) - 1
    shown = ScalarMappable(Normalize(0, last), _colours())
    bar = look.figure_of(all_axes[0]).colorbar(shown, ax=list(all_axes), pad=0.02, aspect=30)
    ticks = [round(i * last / 6) for i in range(7)]
    words = apart([key.labels[i] for i in ticks], _BESIDE)
    bar.set_ticks(ticks, labels=[look.plain(word) for word in words])
    bar.ax.invert_yaxis()
    bar.set_label(f"{last + 1} {'groups' if key.is_of_groups else 'runs'}, in their order")
