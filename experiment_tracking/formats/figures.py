"""A figure to a file: PNG for what can be drawn, HTML for what can be turned."""

from __future__ import annotations

import io
import sys
from typing import Any

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats import Encoded


def encode_figure(figure: Any) -> Encoded:
    """Encode a figure as PNG, or as HTML where it is interactive.

    Parameters
    ----------
    figure
        A matplotlib figure, its axes, or ``matplotlib.pyplot`` (the current figure); anything
        with ``savefig(file, format="png")``; or a Plotly figure.

    Returns
    -------
    Encoded
        From matplotlib a PNG of 150 dots per inch, cut to its content; the figure stays open and
        as it was. From Plotly a page with the library inside (about 5 MB), which opens offline.

    Raises
    ------
    InvalidTypeError
        ``figure`` is none of these.
    InvalidValueError
        ``figure`` is ``pyplot`` while no figure is open.
    """
    drawing = _whole_figure(figure)
    if hasattr(drawing, "savefig"):
        return Encoded(_png(drawing), ".png")
    if hasattr(drawing, "to_html"):
        return Encoded(_html(drawing), ".html")
    raise _not_a_figure(figure)


def _whole_figure(figure: Any) -> Any:
    if hasattr(figure, "get_fignums"):
        return _current_figure(figure)
    # Axes, subfigures (which may be nested) and seaborn grids know the figure they are part of.
    while not _is_matplotlib(figure) and hasattr(figure, "figure"):
        figure = figure.figure
    return figure


def _current_figure(pyplot: Any) -> Any:
    if not pyplot.get_fignums():  # gcf() would open an empty one
        raise InvalidValueError(
            "pyplot has no open figure. Log before plt.show() and plt.close(), or pass the figure."
        )
    return pyplot.gcf()


def _is_matplotlib(figure: Any) -> bool:
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(figure, module.Figure)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    options = {"dpi": 150, "bbox_inches": "tight"} if _is_matplotlib(figure) else {}
    figure.savefig(file, format="png", **options)
    return file.getvalue()


def _html(figure: Any) -> bytes:
    try:
        return str(figure.to_html(include_plotlyjs=True)).encode()
    except TypeError as error:  # a table's to_html, say, which knows no Plotly
        raise _not_a_figure(figure) from error


def _not_a_figure(value: object) -> InvalidTypeError:
    return InvalidTypeError(
        f"A {type(value).__name__} is not a figure. Pass a matplotlib figure or axes, "
        f'anything with savefig(file, format="png"), or a Plotly figure.'
    )
