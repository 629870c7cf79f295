"""Curves of several runs as one SVG picture: axes, grid, a colour and a dash for each."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.registry.display.html import text
from experiment_tracking.registry.display.sparkline import path_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 10, 34
_TICKS = 5

# Read on white and on black, and told apart without colour by their dashes.
_COLOURS = ("#3b82f6", "#e08a00", "#10a37f", "#e5484d", "#8b5cf6", "#0ea5c4", "#db4fa0", "#7a9a01")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_OTHERS = "#8a8f98"
_LARGEST = 1e300

COLOURED = len(_COLOURS)
"""So many lines have a colour of their own; further ones are grey, behind them."""


class ChartLine(NamedTuple):
    """A line of a chart."""

    label: str
    x: "Array"
    """Shape ``(n,)``, finite."""
    y: "Array"
    """Shape ``(n,)``; what is not finite is a gap."""


class _Axis(NamedTuple):
    """Numbers along one side: where they are, and which are written."""

    low: float
    high: float
    is_log: bool
    ticks: list[float]

    def places(self, values: "Array", start: float, end: float) -> "Array":
        import numpy as np

        values = _drawable(values)
        values = np.log10(values) if self.is_log else values
        return start + (values - self.low) / (self.high - self.low) * (end - start)


def line_chart(lines: Sequence[ChartLine], x_label: str) -> str:
    """Return lines over a common axis, the first ones in colour and in front.

    The upright axis is logarithmic where all values are above 0 and two decades apart. Nothing
    without a finite value.
    """
    import numpy as np

    values = _drawable(np.concatenate([line.y for line in lines] or [np.empty(0)]))
    values = values[~np.isnan(values)]
    if not len(values):
        return ""
    x = _axis(np.concatenate([line.x for line in lines]), is_log=False)
    y = _axis(values, is_log=bool(values.min() > 0 and values.max() >= 100 * values.min()))
    drawn = [_line(line, place, x, y) for place, line in enumerate(lines)]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'style="width: 100%; max-width: {_WIDTH}px; font: 11px sans-serif">'
        f"{_grid(x, y)}{''.join(reversed(drawn))}"
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}" text-anchor="middle" '
        f'fill="currentColor" opacity="0.7">{text(x_label)}</text>{_LOG_LABEL if y.is_log else ""}'
        "</svg>"
    )


_LOG_LABEL = (
    f'<text x="{_WIDTH - _RIGHT}" y="{_TOP + 8}" text-anchor="end" fill="currentColor" '
    'opacity="0.7">log scale</text>'
)


def swatch(place: int) -> str:
    """Return a piece of the line at a place, for a legend."""
    return (
        f'<svg width="26" height="10" style="vertical-align: middle"><path d="M1 5L25 5" '
        f"{_looks(place)}/></svg>"
    )


def _looks(place: int) -> str:
    if place >= COLOURED:
        return f'fill="none" stroke="{_OTHERS}" stroke-width="1" stroke-opacity="0.45"'
    dash = _DASHES[place % len(_DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'fill="none" stroke="{_COLOURS[place]}" stroke-width="1.8"{dashes}'


def _line(line: ChartLine, place: int, x: _Axis, y: _Axis) -> str:
    across = x.places(line.x, _LEFT, _WIDTH - _RIGHT)
    up = y.places(line.y, _HEIGHT - _BOTTOM, _TOP)
    path, last = path_of(across.tolist(), up.tolist())
    if not path:
        return ""
    dot = f'<circle cx="{last[0]}" cy="{last[1]}" r="2.4" fill="{_COLOURS[place % COLOURED]}"/>'
    return (
        f'<g><title>{text(line.label)}</title><path d="{path}" {_looks(place)} '
        f'stroke-linejoin="round"/>{dot if place < COLOURED else ""}</g>'
    )


def _drawable(values: "Array") -> "Array":
    """Return NaN for what is not finite, and nothing whose differences are no floats."""
    import numpy as np

    return np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), np.nan)


def _axis(values: "Array", *, is_log: bool) -> _Axis:
    low, high = float(values.min()), float(values.max())
    if is_log:
        low, high = math.log10(low), math.log10(high)
        powers = range(math.ceil(low), math.floor(high) + 1)
        gap = max(1, math.ceil(len(powers) / _TICKS))
        return _Axis(low, high, True, [10.0**power for power in powers[::gap]])
    if high - low <= max(abs(high) * 1e-12, 1 / _LARGEST):  # all equal, to what can be drawn
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    return _Axis(low, high, False, _round_numbers(low, high))


def _round_numbers(low: float, high: float) -> list[float]:
    """Return about five multiples of 1, 2 or 5 times a power of ten between two numbers."""
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * size for size in (1, 2, 5, 10) if power * size >= raw * 0.999)
    first = math.ceil(low / step)
    return [count * step for count in range(first, math.floor(high / step * (1 + 1e-12)) + 1)]


def _grid(x: _Axis, y: _Axis) -> str:
    import numpy as np

    bottom = _HEIGHT - _BOTTOM
    parts = []
    for tick, at in zip(x.ticks, x.places(np.array(x.ticks), _LEFT, _WIDTH - _RIGHT), strict=True):
        parts.append(_rule(at, _TOP, at, bottom) + _label(tick, at, bottom + 14, "middle"))
    for tick, at in zip(y.ticks, y.places(np.array(y.ticks), bottom, _TOP), strict=True):
        parts.append(_rule(_LEFT, at, _WIDTH - _RIGHT, at) + _label(tick, _LEFT - 6, at + 4, "end"))
    return "".join(parts)


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#888" stroke-opacity="0.25"/>'


def _label(value: float, x: float, y: float, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor" '
        f'opacity="0.75">{value:.4g}</text>'
    )
