"""Long curves to few points that look the same when drawn."""

import itertools
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def min_max(x: "Array", y: "Array", points: int) -> "tuple[Array, Array]":
    """Keep the first and last point, and the lowest and highest of each of equal stretches.

    No spike is lost, so a band of noise keeps its height; NaN never counts as lowest or highest,
    and a stretch of nothing but NaN keeps one, so that gaps stay gaps. About 10 ns a point.

    Parameters
    ----------
    x, y
        Curve of shape ``(n,)`` each, in the order in which it is drawn.
    points
        At most so many are kept, at least 4; a curve that is no longer comes back as it is.

    Raises
    ------
    InvalidValueError
        For fewer than 4 points.
    """
    rows = min_max_rows(y, points)
    return x[rows], y[rows]


def lttb(x: "Array", y: "Array", points: int) -> "tuple[Array, Array]":
    """Keep the points that span the largest triangles, one of each of equal stretches.

    Largest-Triangle-Three-Buckets: Steinarsson, *Downsampling time series for visual
    representation*, University of Iceland 2013, section 4.2. Smoother to look at than
    :func:`min_max`, but a narrow spike may be lost. About 20 µs a point kept.

    Parameters
    ----------
    x, y
        Curve of shape ``(n,)`` each, ``x`` ascending. Points that are not finite are left out.
    points
        At most so many are kept, at least 3; a curve that is no longer comes back as it is.

    Raises
    ------
    InvalidValueError
        For fewer than 3 points.
    """
    import numpy as np

    check_points(points, 3)
    if len(y) <= points:
        return x, y
    finite = np.isfinite(x.astype(float)) & np.isfinite(y)
    x, y = x[finite], y[finite]
    rows = _lttb_rows(x.astype(float), y, points)
    return x[rows], y[rows]


def min_max_rows(y: "Array", points: int) -> "Array":
    """Return which points :func:`min_max` keeps, ascending."""
    import numpy as np

    check_points(points, 4)
    count = len(y)
    if count <= points:
        return np.arange(count)
    inner = y[1:-1].astype(float)
    width = -(-len(inner) // ((points - 2) // 2))
    starts = np.arange(0, len(inner), width) + 1
    lows = _padded(inner, width, np.inf).argmin(axis=1) + starts
    highs = _padded(inner, width, -np.inf).argmax(axis=1) + starts
    return np.unique(np.concatenate([[0], lows, highs, [count - 1]]))


def _padded(values: "Array", width: int, filler: float) -> "Array":
    """Cut values into rows of ``width``, the filler in the place of NaN and behind the last."""
    import numpy as np

    rows = np.full((-(-len(values) // width), width), filler)
    rows.flat[: len(values)] = np.where(np.isnan(values), filler, values)
    return rows


def _lttb_rows(x: "Array", y: "Array", points: int) -> "Array":
    import numpy as np

    if len(y) <= points:
        return np.arange(len(y))
    # One bucket of the first point, one of the last, and equal ones between them.
    edges = np.linspace(1, len(y) - 1, points - 1).astype(int)
    sizes = np.diff(edges)
    mean_x = np.append(np.add.reduceat(x[1:-1], edges[:-1] - 1) / sizes, x[-1])
    mean_y = np.append(np.add.reduceat(y[1:-1], edges[:-1] - 1) / sizes, y[-1])
    rows = np.zeros(points, dtype=int)
    rows[-1] = len(y) - 1
    for bucket, (start, end) in enumerate(itertools.pairwise(edges)):
        left, next_x, next_y = rows[bucket], mean_x[bucket + 1], mean_y[bucket + 1]
        # Twice the area of the triangle, but for its sign.
        areas = (x[left] - next_x) * (y[start:end] - y[left]) - (x[left] - x[start:end]) * (
            next_y - y[left]
        )
        rows[bucket + 1] = start + np.abs(areas).argmax()
    return rows


def check_points(points: int, least: int) -> None:
    """Refuse to draw a curve by too few points."""
    if points < least:
        raise InvalidValueError(f"points must be {least} or more, found {points!r}.")
