"""Small curves drawn as SVG in the page itself, in colours that show on light and dark ground."""

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from experiment_tracking.folder.rows import Columns
from experiment_tracking.folder.values import stored_name
from experiment_tracking.registry.curves import points_along, read_run
from experiment_tracking.registry.display.html import text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from experiment_tracking.registry.record import RunRecord

    Array = NDArray[Any]

COLOUR = "#4a90e2"

_WIDTH, _HEIGHT, _MARGIN = 112, 24, 3
_POINTS = 120


def read_curves(record: "RunRecord", metrics: Iterable[str], most_bytes: int) -> Columns | None:
    """Read a run's history for drawing; None where it is longer than ``most_bytes``.

    Raises
    ------
    OSError, DamagedError
        If a file cannot be read now.
    """
    if history_bytes(record) > most_bytes:
        return None
    return read_run(record, [stored_name(metric) for metric in metrics])


def history_bytes(record: "RunRecord") -> int:
    """Return how long a run's history is; 0 where there is none."""
    try:
        return os.stat(record.folder.history()).st_size
    except FileNotFoundError:
        return 0


def sparkline(columns: Columns, metric: str, points: int = _POINTS) -> str:
    """Draw a metric over steps, with a dot at its last point; nothing without two points.

    Drawn by the lowest and highest of each stretch, so that no spike is lost. What is not finite
    is a gap.
    """
    import numpy as np

    name = stored_name(metric)
    rows, values = points_along(columns, name, columns.steps, points)
    if np.isfinite(values).sum() < 2:
        return ""
    x, y = columns.steps[rows].astype(float), values
    path, last = _path(x, y)
    low, high = np.nanmin(_finite(y)), np.nanmax(_finite(y))
    said = text(f"{metric}: {low:.5g} to {high:.5g}, steps {x[0]:.0f} to {x[-1]:.0f}")
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'style="vertical-align: middle; overflow: visible"><title>{said}</title>'
        f'<path d="{path}" fill="none" stroke="{COLOUR}" stroke-width="1.4" '
        f'stroke-linejoin="round"/><circle cx="{last[0]}" cy="{last[1]}" r="2" fill="{COLOUR}"/>'
        "</svg>"
    )


def _path(x: "Array", y: "Array") -> tuple[str, tuple[str, str]]:
    across = _scaled(x, _MARGIN, _WIDTH - _MARGIN)
    up = _scaled(_finite(y), _HEIGHT - _MARGIN, _MARGIN)
    return path_of(across.tolist(), up.tolist())


def path_of(x: list[float], y: list[float]) -> tuple[str, tuple[str, str]]:
    """Return an SVG path with a gap for each NaN, and where its last point is."""
    words, last = [], ("0", "0")
    sign = "M"
    for across, up in zip(x, y, strict=True):
        if math.isnan(up):
            sign = "M"
            continue
        last = f"{across:.1f}", f"{up:.1f}"
        words.append(f"{sign}{last[0]} {last[1]}")
        sign = "L"
    return "".join(words), last


def _finite(y: "Array") -> "Array":
    import numpy as np

    return np.where(np.isfinite(y), y, np.nan)


def _scaled(values: "Array", start: float, end: float) -> "Array":
    """Map the lowest to ``start`` and the highest to ``end``; equal ones to the middle."""
    import numpy as np

    low, high = np.nanmin(values), np.nanmax(values)
    # Halved first: the difference of two large floats may be no float.
    width = high / 2 - low / 2
    share = (values / 2 - low / 2) / width if width > 0 else np.where(np.isnan(values), values, 0.5)
    return start + share * (end - start)
