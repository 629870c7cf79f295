"""Metrics of many runs as curves, and curves on a common axis."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import MetricNotFoundError
from experiment_tracking.folder.amendments import fold_rows
from experiment_tracking.folder.rows import Columns, columns_of, read_columns
from experiment_tracking.folder.values import shown_name, stored_name
from experiment_tracking.registry.columns import find_metric
from experiment_tracking.registry.record import RunRecord, bring, brought
from experiment_tracking.registry.reduce import check_points, min_max_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from experiment_tracking.registry.runset import RunSet

    Array = NDArray[Any]

AXES = ("step", "time", "relative")
"""Axes that every row has; any other is a metric."""


class Curve(NamedTuple):
    """A metric of one run over an axis."""

    run: str
    """Key of the run: ``project/name``."""
    x: "Array"
    """Shape ``(n,)``, ascending, never NaN; whole numbers for steps."""
    y: "Array"
    """Shape ``(n,)``, floats; NaN and infinities where they were logged."""


def curves(runs: "RunSet", metric: str, x: str = "step") -> list[Curve]:
    """Read a metric of each run as a curve, without what later attempts superseded.

    Parameters
    ----------
    metric
        Its name, or the last part of it.
    x
        ``"step"``, ``"time"`` (Unix seconds), ``"relative"`` (seconds since the run's first row)
        or another metric: its value in the same row.

    Returns
    -------
    list of Curve
        In the order of the runs; runs without a point have none. A run whose history cannot be
        read goes to ``runs.problems``.

    Raises
    ------
    MetricNotFoundError
        If no run has the metric, or none has it beside ``x``.
    """
    found = read_histories(runs, [metric], x)
    (name,) = found.wanted
    every = [
        Curve(record.key, *xy(columns, name, found.axis))
        for record, columns in zip(runs, found.columns, strict=True)
    ]
    with_points = [curve for curve in every if len(curve.x)]
    if not with_points:
        raise MetricNotFoundError(f"No row here has both {metric!r} and {x!r}. Take another axis.")
    return with_points


def on_axis(curves: Sequence[Curve], axis: "Array") -> "Array":
    """Interpolate curves linearly.

    Returns
    -------
    array of shape ``(len(curves), len(axis))``
        NaN outside a curve's range, and beside its NaNs.
    """
    import numpy as np

    table = np.full((len(curves), len(axis)), np.nan)
    for row, curve in zip(table, curves, strict=True):
        if len(curve.x):
            row[:] = np.interp(axis, curve.x.astype(float), curve.y, left=np.nan, right=np.nan)
    return table


def common_axis(curves: Iterable[Curve], points: int = 200) -> "Array":
    """Return an axis for several curves: all their x if no more than ``points``, else even ones.

    Raises
    ------
    InvalidValueError
        For fewer than 2 points.
    """
    import numpy as np

    check_points(points, 2)
    every = [curve.x for curve in curves if len(curve.x)]
    if not every:
        return np.empty(0)
    axis = np.unique(np.concatenate(every))
    return axis if len(axis) <= points else np.linspace(float(axis[0]), float(axis[-1]), points)


# ---------------------------------------------------------------------- reading


class Histories(NamedTuple):
    """What was read of the histories of some runs."""

    columns: list[Columns]
    """One of each run."""
    wanted: dict[str, str]
    """Metrics to show: the name stored to the name asked for."""
    axis: str
    """``"step"``, ``"time"``, ``"relative"``, or the stored name of a metric."""


def read_histories(runs: "RunSet", metrics: Sequence[str] | None, axis: str) -> Histories:
    """Read metrics of each run, all by default; an unreadable run has no rows, and is noted."""
    nothing = columns_of([])
    with contextlib.suppress(OSError):  # what does not come is asked for again, run by run
        bring(record.folder.history() for record in runs)
    return find_metrics(
        metrics, axis, lambda names: runs.each(lambda record: read_run(record, names), nothing)
    )


def find_metrics(
    metrics: Sequence[str] | None,
    axis: str,
    read: Callable[[Sequence[str] | None], list[Columns]],
) -> Histories:
    """Read what bears the very names; only if something does not, everything.

    Raises
    ------
    MetricNotFoundError
        If nothing read has a metric that was asked for.
    """
    asked = None if metrics is None else [*metrics, *([] if axis in AXES else [axis])]
    columns = read(None if asked is None else [stored_name(name) for name in asked])
    if asked and not all(any(stored_name(name) in c.metrics for c in columns) for name in asked):
        columns = read(None)
    names = {shown_name(name): name for c in columns for name in c.metrics}
    if metrics is None:
        wanted = {stored: shown for shown, stored in names.items()}
    else:
        wanted = {names[find_metric(name, names)]: name for name in metrics}
    return Histories(columns, wanted, axis if axis in AXES else names[find_metric(axis, names)])


def read_run(
    record: RunRecord, names: Sequence[str] | None = None, attempts: str = "merged"
) -> Columns:
    """Read a run's own rows as columns; late metrics of its amendments are among them.

    Raises
    ------
    OSError, DamagedError
        If a file cannot be read now.
    """
    if fold_rows([], record.amendments):
        return columns_of(record.rows(attempts), names)
    columns = read_columns(brought(record.folder.history()), names)
    return columns if attempts == "all" else columns.merged()


def axis_of(columns: Columns, axis: str) -> "Array":
    """Return where each row stands on an axis: shape ``(n,)``, NaN where it does not."""
    if axis == "step":
        return columns.steps
    if axis == "time":
        return columns.times
    return columns.times - columns.times[:1] if axis == "relative" else columns.dense(axis)


def points_along(
    columns: Columns, name: str, x: "Array", points: int | None = None
) -> "tuple[Array, Array]":
    """Return rows and values of a metric, ordered by the rows' ``x``; without NaN in ``x``.

    Of equal ``x`` the rows stay in their order. No more than ``points`` are kept, by
    :func:`~experiment_tracking.registry.reduce.min_max`.
    """
    import numpy as np

    if name not in columns.metrics:
        return np.empty(0, dtype=np.int64), np.empty(0)
    rows, values = columns.metrics[name]
    place = x[rows]
    order = np.argsort(place, kind="stable")
    order = order[place[order] == place[order]]  # NaN is not equal to itself
    if points is not None:
        order = order[min_max_rows(values[order], points)]
    return rows[order], values[order]


def xy(columns: Columns, name: str, axis: str) -> "tuple[Array, Array]":
    """Return a metric of a run as a curve over an axis."""
    x = axis_of(columns, axis)
    rows, values = points_along(columns, name, x)
    return x[rows], values
