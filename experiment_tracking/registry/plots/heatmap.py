"""A sweep over two params as a table of coloured cells."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.plots import look
from experiment_tracking.registry.plots.values import (
    MetricValues,
    Scale,
    cells,
    metric_values,
    param_values,
    put_on,
)

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    from experiment_tracking.registry.runset import RunSet

_MAX_CELLS = 1_000_000
"""More than this are smaller than any dot, nearly all empty, and take all of the memory."""
_MAX_WRITTEN = 15
"""Cells have their values written in them up to so many rows and columns."""


def plot_heatmap(
    runs: "RunSet",
    x_param: str,
    y_param: str,
    metric: str,
    on: str = "best",
    log: bool | None = None,
    ax: "Axes | None" = None,
) -> "Figure":
    """Plot a metric over two params as coloured cells, each the mean of its runs.

    The darker, the better. Cells without a run are hatched.

    Parameters
    ----------
    runs
        The runs; those without one of the params or a finite value are left out, and the upper
        right corner says how many.
    x_param, y_param
        Params, or any other columns of the runs; each of their values has a row or column.
    metric
        Its name, or as ``"val/loss:mean"`` another number of it.
    on
        Each run's ``"best"`` value (the default), ``"last"``, ``"min"``, ``"max"`` or ``"mean"``.
    log
        Logarithmic colours; by default where the values span two decades.
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
        If none has a param, or the metric has no goal and so no best; if there were more than a
        million cells, as of a random search.
    MissingPackageError
        Without matplotlib.
    """
    found = metric_values(runs, metric, on)
    x, y = (_cells(runs, param) for param in (x_param, y_param))
    _check_size(x, y)
    known = {x.label: x.places, y.label: y.places, found.label: found.values}
    has = {label: list(map(math.isfinite, values)) for label, values in known.items()}
    places = zip(x.places, y.places, found.values, strict=True)
    means = _means(x, y, [place for place in places if all(map(math.isfinite, place))])
    axes = look.new_axes(ax, *_size(*means.shape))
    is_log = look.spans_decades(means.ravel().tolist()) if log is None else log
    _draw(axes, means, found, is_log)
    put_on(axes, "x", x)
    put_on(axes, "y", y)
    look.remark(axes, [look.without(each, label) for label, each in has.items()])
    return look.figure_of(axes)


def _cells(runs: "RunSet", param: str) -> Scale:
    return cells(param.removeprefix("params."), param_values(runs, param))


def _check_size(x: Scale, y: Scale) -> None:
    columns, rows = len(x.words or ()), len(y.words or ())
    if columns * rows > _MAX_CELLS:
        raise InvalidValueError(
            f"{x.label} has {columns:,} values and {y.label} {rows:,}: too many cells, allowed are "
            f"{_MAX_CELLS:,}. Take plot_scatter, or params of fewer values."
        )


def _means(
    x: Scale, y: Scale, places: Sequence[tuple[float, float, float]]
) -> "NDArray[np.float64]":
    """Return the mean of each cell, rows by ``y``; NaN for those without a run."""
    import numpy as np

    sums = np.zeros((len(y.words or ()), len(x.words or ())))
    counts = np.zeros_like(sums)
    for column, row, value in places:
        sums[int(row), int(column)] += value
        counts[int(row), int(column)] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _size(rows: int, columns: int) -> tuple[float, float]:
    return min(14.0, 2.6 + max(2.0, 0.7 * columns)), min(12.0, 1.0 + max(1.8, 0.5 * rows))


def _draw(axes: "Axes", means: "NDArray[np.float64]", found: MetricValues, is_log: bool) -> None:
    axes.patch.set(facecolor="white", edgecolor="0.8", hatch="////")
    shown = axes.imshow(
        means,
        cmap=look.dark_is_better(found.goal),
        norm=look.norm_of(means.ravel().tolist(), is_log),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
    )
    look.figure_of(axes).colorbar(shown, ax=axes, label=look.plain(found.label))
    axes.tick_params(length=0)
    if max(means.shape) <= _MAX_WRITTEN:
        _write_values(axes, shown, means)


def _write_values(axes: "Axes", shown: "AxesImage", means: "NDArray[np.float64]") -> None:
    import numpy as np

    colours = shown.to_rgba(means)
    for (row, column), value in np.ndenumerate(means):
        if math.isfinite(value):
            red, green, blue, opacity = colours[row, column]
            # As bright as the eye takes it: ITU-R BT.601. A cell without a colour is white.
            is_dark = opacity and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            ink = "white" if is_dark else "black"
            axes.text(column, row, look.number(value), color=ink, ha="center", va="center")
