"""Rows of histories as pandas tables."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import MetricNotFoundError
from experiment_tracking.folder.history import Row
from experiment_tracking.folder.rows import Columns, columns_of
from experiment_tracking.folder.values import RESERVED, shown_name
from experiment_tracking.registry.curves import (
    AXES,
    Curve,
    Histories,
    axis_of,
    common_axis,
    find_metrics,
    on_axis,
    points_along,
    read_histories,
    read_run,
    xy,
)
from experiment_tracking.registry.reduce import min_max_rows

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.runset import RunSet

    Array = NDArray[Any]

Metrics = str | Iterable[str] | None

_LONG_COLUMNS = ("run", "step", "time", "metric", "value")
_LEAST_POINTS = 4
_WIDE_POINTS = 200


# ---------------------------------------------------------------------- one run


def record_frame(
    record: "RunRecord",
    metrics: Metrics = None,
    attempts: str = "merged",
    ranks: int | str = 0,
    axis: str | None = None,
    points: int | None = None,
) -> "pd.DataFrame":
    """Return the table that ``RunRecord.history`` describes.

    A file in good order takes about 1.3 times as long as ``orjson.loads`` of it.

    Parameters
    ----------
    axis
        First column, by which the rows are ordered: ``"step"``, ``"time"``, ``"relative"``
        (seconds since the run's first row) or a metric, whose rows alone are shown. By default
        rows are as logged.
    points
        About so many rows at most, 4 or more: of each metric the first and last value, and the
        lowest and highest of each of equal stretches. Rows are chosen; nothing is averaged.
    """
    asked = _as_list(metrics)
    if ranks == 0 and attempts in ("merged", "all"):
        rows: list[Row] = []
        read = partial(read_run, record, attempts=attempts)
    else:  # several processes' rows, or a word that rows() refuses
        rows = record.rows(attempts, ranks)
        read = partial(columns_of, rows)
    try:
        found = find_metrics(asked, axis or "step", lambda names: [read(names)])
    except MetricNotFoundError:
        if ranks == 0 and record.folder.ranks():
            _look_further(record, asked, attempts, axis)
        raise
    frame = _frame(found, rows, attempts, ranks, every_row=asked is None)
    if axis is not None:
        frame = _along(frame, _axis_column(found, _taken(found)))
    if points is not None:
        frame = frame[_kept(frame, found, points, is_mean=ranks == "mean")]
    return frame.reset_index(drop=True)


def _look_further(
    record: "RunRecord", metrics: list[str] | None, attempts: str, axis: str | None
) -> None:
    """Say so if further processes have the metrics; raise what is missing there too."""
    rows = record.rows(attempts, "all")
    find_metrics(metrics, axis or "step", lambda names: [columns_of(rows, names)])
    raise MetricNotFoundError(
        f"Only further processes of run {record.key} have logged {metrics!r}. "
        f"Write history({metrics!r}, ranks='all')."
    ) from None


def _frame(
    found: Histories, rows: Sequence[Row], attempts: str, ranks: int | str, every_row: bool
) -> "pd.DataFrame":
    """Return a frame whose index says which rows of the columns they are, but for means."""
    import pandas as pd

    columns = found.columns[0]
    table: dict[str, Any] = {"step": columns.steps, "time": columns.times}
    if attempts == "all":
        table["attempt"] = columns.attempts
    if ranks == "all":
        table["rank"] = [str(row["rank"]) for row in rows]
    table |= {name: columns.dense(stored) for stored, name in _metric_columns(found).items()}
    table.setdefault(_axis_column(found, _taken(found)), axis_of(columns, found.axis))
    frame = pd.DataFrame(table, copy=False)
    shown = ~columns.gone if every_row else columns.rows_with(found.wanted)
    frame = frame if shown.all() else frame[shown]
    return frame.groupby("step", as_index=False).mean() if ranks == "mean" else frame


def _metric_columns(found: Histories) -> dict[str, str]:
    taken = _taken(found)
    return {stored: _column(stored, name, taken) for stored, name in found.wanted.items()}


def _axis_column(found: Histories, taken: Collection[str]) -> str:
    if found.axis in AXES:
        return found.axis
    return _column(found.axis, found.wanted.get(found.axis, shown_name(found.axis)), taken)


def _taken(found: Histories) -> tuple[str, ...]:
    return (*RESERVED, found.axis) if found.axis in AXES else RESERVED


def _column(stored: str, name: str, taken: Collection[str]) -> str:
    """Name a metric's column, where some names have a meaning of their own."""
    if name not in taken:
        return name
    return stored if stored not in taken else f"metric:{name}"


def _along(frame: "pd.DataFrame", axis: str) -> "pd.DataFrame":
    ordered = frame[frame[axis].notna()].sort_values(axis, kind="stable")
    return ordered[[axis, *(name for name in frame if name != axis)]]


def _kept(frame: "pd.DataFrame", found: Histories, points: int, *, is_mean: bool) -> "Array":
    """Tell which rows show each metric's shape: shape ``(len(frame),)``."""
    import numpy as np

    share = max(min(points, _LEAST_POINTS), points // max(len(found.wanted), 1))
    kept = np.zeros(len(frame), dtype=bool)
    for stored, name in _metric_columns(found).items():
        values = frame[name].to_numpy()
        # A NaN that was logged is a point like any other: the curve has gone astray there.
        logged = ~np.isnan(values) if is_mean else found.columns[0].rows_with([stored])[frame.index]
        has = np.flatnonzero(logged)
        kept[has[min_max_rows(values[has], share)]] = True
    return kept


# ---------------------------------------------------------------------- many runs


def long_frame(
    runs: "RunSet", metrics: Metrics = None, axis: str | None = None, points: int | None = None
) -> "pd.DataFrame":
    """Return the table that ``ExperimentRegistry.history`` describes: a row per number.

    Parameters
    ----------
    axis
        Order of each run's rows: ``"step"``, ``"time"``, ``"relative"`` (seconds since the run's
        first row) or a metric, whose rows alone are shown; the last two become a column before
        ``metric``. By default rows are as logged.
    points
        At most so many numbers of each run and metric, 4 or more: the first and last, and the
        lowest and highest of each of equal stretches.
    """
    import numpy as np
    import pandas as pd

    found = read_histories(runs, _as_list(metrics), axis or "step")
    parts = [_long(each, found, axis, points) for each in (columns_of([]), *found.columns)]
    cells = _Long(*map(np.concatenate, zip(*parts, strict=True)))
    counts = [len(part.value) for part in parts[1:]]
    table: dict[str, Any] = {
        "run": pd.Series(_labels(runs)).repeat(counts).array,
        "step": cells.step,
        "time": cells.time,
        "metric": pd.Series(list(found.wanted.values())).take(cells.metric).array,
        "value": cells.value,
    }
    frame = pd.DataFrame(table, copy=False)
    if found.axis not in frame:
        frame.insert(3, _axis_column(found, _LONG_COLUMNS), cells.x)
    return frame


class _Long(NamedTuple):
    """Numbers of one run, a row per number."""

    step: "Array"
    time: "Array"
    x: "Array"
    metric: "Array"
    """Place of the metric among those wanted."""
    value: "Array"


def _long(columns: Columns, found: Histories, axis: str | None, points: int | None) -> _Long:
    import numpy as np

    x = np.arange(len(columns.steps)) if axis is None else axis_of(columns, found.axis)
    each = [points_along(columns, name, x, points) for name in found.wanted]
    rows = np.concatenate([np.empty(0, dtype=np.int64), *(rows for rows, _ in each)])
    values = np.concatenate([np.empty(0), *(values for _, values in each)])
    metric = np.repeat(np.arange(len(each)), [len(rows) for rows, _ in each])
    order = np.argsort(rows, kind="stable")
    order = order[np.argsort(x[rows[order]], kind="stable")]
    rows = rows[order]
    return _Long(columns.steps[rows], columns.times[rows], x[rows], metric[order], values[order])


def wide_frame(
    runs: "RunSet", metrics: Metrics = None, axis: str = "step", points: int | None = None
) -> "pd.DataFrame":
    """Return one metric or several of many runs side by side.

    Parameters
    ----------
    metrics
        One: a column per run, by its key. Several, or by default all: columns (run, metric).
    axis
        The index: ``"step"``, ``"time"`` (Unix seconds), ``"relative"`` (seconds since each run's
        first row) or a metric.
    points
        Length of the index, which then is even from the least to the greatest; values between
        two that were logged are interpolated linearly, and NaN outside a run's range. By default
        every step that was logged, with exactly what was logged at it (at a step that was logged
        twice, the last), and 200 points on any other axis.
    """
    import numpy as np
    import pandas as pd

    asked = _as_list(metrics)
    found = read_histories(runs, asked, axis)
    labels = [(run, name) for run in _labels(runs) for name in found.wanted.values()]
    curves = [
        Curve(record.key, *xy(columns, name, found.axis))
        for record, columns in zip(runs, found.columns, strict=True)
        for name in found.wanted
    ]
    if axis == "step" and points is None:
        index = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *(c.x for c in curves)]))
        table = _exactly(curves, index)
    else:
        index = common_axis(curves, _WIDE_POINTS if points is None else points)
        table = on_axis(curves, index)
    if asked is not None and len(asked) == 1:
        columns = pd.Index([key for key, _ in labels], name="run")
    else:
        columns = pd.MultiIndex.from_tuples(labels, names=["run", "metric"])
    return pd.DataFrame(table.T, index=pd.Index(index, name=axis), columns=columns)


def _labels(runs: "RunSet") -> list[str]:
    """Return the key of each run; its path where runs of several roots have the same."""
    counts = Counter(runs.keys)
    return [
        path if counts[key] > 1 else key
        for key, path in zip(runs.keys, runs.column("path"), strict=True)
    ]


def _exactly(curves: Sequence[Curve], index: "Array") -> "Array":
    import numpy as np

    table = np.full((len(curves), len(index)), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[np.searchsorted(index, curve.x)] = curve.y
    return table


def _as_list(metrics: Metrics) -> list[str] | None:
    return [metrics] if isinstance(metrics, str) else None if metrics is None else list(metrics)
