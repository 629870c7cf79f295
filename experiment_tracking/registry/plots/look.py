"""What the pictures share: figures, colours that survive a black-and-white printer, labels."""

import io
import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import InvalidValueError, MissingPackageError
from experiment_tracking.registry.labels import apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

    from experiment_tracking.registry.runset import RunSet

MAX_LEGEND = 12
"""More lines than this are told apart by a colour bar instead of a legend."""

MAX_GROUPS = 28
"""The same of groups, each of which one wants to know: as many as there are styles."""

LABEL_CHARACTERS = 36
_NOTE_CHARACTERS = 72
INK = "0.35"
"""Grey of what is said beside the data."""

# Okabe and Ito, "Color Universal Design" (2008), without its yellow, which a white page swallows,
# in the order in which the grey values of neighbours differ most: by 0.17 at least, the last and
# the first being neighbours too. Seven colours and markers, four line styles: 28 pairs.
_COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#000000", "#56B4E9", "#009E73", "#CC79A7")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo")


class Style(NamedTuple):
    """How one thing among several is drawn."""

    colour: str
    line: str
    marker: str
    hatch: str


def style(place: int) -> Style:
    """Return the style of the thing at ``place``; neighbours differ in all of it."""
    pick = place % len(_COLOURS)
    return Style(_COLOURS[pick], _LINES[place % len(_LINES)], _MARKERS[pick], _HATCHES[pick])


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of so many inches, which no ``pyplot`` knows or keeps alive.

    Raises
    ------
    MissingPackageError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        install = "'experiment_tracking[plots]'"
        raise MissingPackageError("Plotting", "matplotlib", install) from error
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    # A notebook shows figures of pyplot by itself, others only if they say how. Where pyplot has
    # been imported, IPython knows the class and does not ask: the picture never comes twice.
    figure._repr_png_ = partial(_to_png, figure)  # type: ignore[attr-defined]
    return figure


def _to_png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


def new_axes(ax: "Axes | None", width: float, height: float) -> "Axes":
    """Return ``ax``, or the axes of a new figure of so many inches."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def figure_of(axes: "Axes") -> "Figure":
    """Return the whole figure that axes are part of."""
    figure: Figure = axes.figure.figure  # a subfigure's figure is the whole one, a figure's itself
    return figure


def dress(axes: "Axes", axis: Any = "both") -> None:
    """Take away what shows nothing, and draw faint lines behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=axis, color="0.9", linewidth=0.8)


def remark(axes: "Axes", notes: Iterable[str]) -> None:
    """Say in the upper right corner, above the data, what the picture does not show."""
    if text := "\n".join(wrapped(notes)):
        axes.set_title(text, loc="right", fontsize="small", color=INK)


def wrapped(notes: Iterable[str]) -> list[str]:
    """Return notes as lines that have room above axes."""
    return [line for note in notes for line in textwrap.wrap(note, _NOTE_CHARACTERS)]


@cache
def dark_is_better(goal: str | None) -> "Colormap":
    """Return colours from light to dark towards the better end; to the higher without a goal.

    Viridis without its light end, which a white page swallows: lightness changes one way only.
    """
    import matplotlib as mpl
    import numpy as np
    from matplotlib.colors import ListedColormap

    colours = mpl.colormaps["viridis"](np.arange(236))
    return ListedColormap(colours if goal == "minimize" else colours[::-1], name="better")


def norm_of(values: Sequence[float], is_log: bool) -> "Normalize":
    """Return the scale of a colour bar over those of the values that it can show."""
    from matplotlib.colors import LogNorm, Normalize

    shown = [v for v in values if math.isfinite(v) and (v > 0 or not is_log)] or [1.0]
    low, high = min(shown), max(shown)
    if is_log:
        return LogNorm(low, high) if high > low else LogNorm(low / 2, high * 2)
    return Normalize(low, high) if high > low else Normalize(low - 0.5, high + 0.5)


def spans_decades(values: Iterable[float]) -> bool:
    """Tell whether numbers are all above 0 and two decades apart, so that a log axis shows more."""
    shown = [value for value in values if math.isfinite(value)]
    return bool(shown) and min(shown) > 0 and max(shown) >= 100 * min(shown)


def number(value: float) -> str:
    """Write a number with four significant digits, whole ones below a million as they are.

    >>> number(0.123456), number(65536.0), number(1e-5)
    ('0.1235', '65536', '1e-05')
    """
    is_short = abs(value) < 1e6 and value == int(value)
    return f"{value:.0f}" if is_short else f"{value:.4g}"


def cut(text: object, characters: int = LABEL_CHARACTERS) -> str:
    """Return text as a label of one line, cut in the middle, for names differ at their ends.

    >>> cut("a-very-long-name-of-a-run-seed-3", 16)
    'a-very-…n-seed-3'
    """
    label = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text)
    )
    if len(label) <= characters:
        return label
    half = characters // 2
    return f"{label[: characters - half - 1]}…{label[-half:]}"


def plain(text: object, characters: int | None = LABEL_CHARACTERS) -> str:
    """Return text as a label for matplotlib, in which ``$`` starts no formula; None for all of it.

    A label that begins with ``_`` would not be shown in a legend.
    """
    label = cut(text, characters or sys.maxsize).replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def run_labels(runs: "RunSet") -> list[str]:
    """Return what to call each run: its name where that is enough, else ``project/name``.

    Long ones are cut, but not where they differ.
    """
    names, keys = runs.names, runs.keys
    return apart(names if len(set(names)) == len(set(keys)) else keys, LABEL_CHARACTERS)


def best_of(values: Sequence[float], goal: str | None) -> int | None:
    """Return the position of the best value, None without a goal."""
    pick = {"minimize": min, "maximize": max}.get(goal or "")
    return values.index(pick(values)) if pick and values else None


def star(axes: "Axes", label: str) -> None:
    """Say in the upper left corner which run is the best."""
    axes.set_title(f"★ {plain(label, 30)}", loc="left", fontsize="small")


def without(has: Sequence[bool], label: str) -> str:
    """Say how many runs lack something, nothing if none does."""
    count = len(has) - sum(has)
    return f"{count:,} of {len(has):,} runs have no {plain(label)}" if count else ""


def check_engine(engine: str | None) -> None:
    """Insist on an engine that there is."""
    if engine not in (None, "matplotlib", "plotly"):
        raise InvalidValueError(f"engine must be 'matplotlib' or 'plotly', found {engine!r}.")
