"""The same pictures by Plotly: they answer to the mouse, and are kept as HTML."""

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import MissingPackageError
from experiment_tracking.registry.plots import look
from experiment_tracking.registry.plots.lines import Line, Panel
from experiment_tracking.registry.plots.parallel import Parallel, ticked
from experiment_tracking.registry.plots.scatter import Points
from experiment_tracking.registry.plots.values import Scale

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}


def _new_figure(rows: int = 1) -> "Figure":
    try:
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise MissingPackageError("engine='plotly'", "plotly", "plotly") from error
    figure = make_subplots(rows, 1, shared_xaxes=True, vertical_spacing=0.06)
    figure.update_layout(template="plotly_white", hovermode="closest")
    return figure


def curves_figure(panels: Sequence[Panel], logx: bool, logy: bool) -> "Figure":
    """Return the curves of ``plot_curves``, panels below each other; a legend entry hides a run."""
    figure = _new_figure(len(panels))
    seen: dict[int, int] = {}
    for row, panel in enumerate(panels, 1):
        for line in panel.lines:
            is_new = line.place not in seen
            order = seen.setdefault(line.place, len(seen))
            for trace in _traces(line, order, is_new):
                figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title_text=_text(panel.metric), row=row, col=1)
        if panel.limits:
            ends = [math.log10(end) if logy else end for end in panel.limits]
            figure.update_yaxes(range=ends, row=row, col=1)
        _remark(figure, panel.notes, row)
    figure.update_xaxes(title_text=_text(panels[-1].x_label), row=len(panels), col=1)
    if logx:
        figure.update_xaxes(type="log")
    if logy:
        figure.update_yaxes(type="log")
    figure.update_layout(height=max(450, 320 * len(panels)))
    return figure


def _traces(line: Line, order: int, is_new: bool) -> list[Any]:
    from plotly.graph_objects import Scatter

    style = look.style(order)
    shared = {"name": escape(look.cut(line.label, 200)), "legendgroup": str(line.place)}
    behind = {**shared, "showlegend": False, "hoverinfo": "skip", "mode": "lines"}
    traces = []
    if line.band is not None:
        edge = {"width": 0, "color": style.colour}
        low, high = line.band
        fill = _see_through(style.colour, 0.18)
        traces.append(Scatter(x=line.x, y=low, line=edge, **behind))
        traces.append(
            Scatter(x=line.x, y=high, line=edge, fill="tonexty", fillcolor=fill, **behind)
        )
    if line.raw is not None:
        x, y = line.raw
        faint = {"width": 1, "color": _see_through(style.colour, 0.3)}
        traces.append(Scatter(x=x, y=y, line=faint, **behind))
    traces.append(
        Scatter(
            x=line.x,
            y=line.y,
            mode="lines+markers" if len(line.x) <= 20 else "lines",
            line={"color": style.colour, "dash": _DASHES[style.line]},
            showlegend=is_new,
            **shared,
        )
    )
    return traces


def scatter_figure(points: Points, logy: bool) -> "Figure":
    """Return the points of ``plot_scatter``; each says its run."""
    from plotly.graph_objects import Scatter

    figure = _new_figure()
    names = [_text(label) for label in points.labels]
    is_best = [i == points.best for i in range(len(points.x))]
    marks = {
        "symbol": ["star" if best else "circle" for best in is_best],
        "size": [16 if best else 8 for best in is_best],
        "color": [look.style(best).colour for best in is_best],
        "opacity": 0.8,
    }
    figure.add_trace(Scatter(x=points.x, y=points.y, mode="markers", marker=marks, text=names))
    figure.update_xaxes(title_text=_text(points.scale.label), **_axis(points.scale))
    figure.update_yaxes(title_text=_text(points.metric), type="log" if logy else "linear")
    _remark(figure, points.notes, 1)
    return figure


def _axis(scale: Scale) -> dict[str, Any]:
    if scale.words is not None:
        words = [_text(word) for word in scale.words]
        return {"tickmode": "array", "tickvals": list(range(len(words))), "ticktext": words}
    return {"type": "log"} if scale.is_log else {}


def parallel_figure(found: Parallel) -> "Figure":
    """Return the axes of ``plot_parallel``, which can be moved and narrowed."""
    from plotly.graph_objects import Parcoords

    figure = _new_figure()
    columns = [ticked(scale) for scale in found.scales]
    lowest = min(0.0, *(height for column in columns for height in column.heights))
    dimensions = [
        {
            "label": _text(scale.label),
            "values": column.heights,
            "range": [lowest, 1],
            "tickvals": [height for height, _ in column.ticks],
            "ticktext": [_text(word) for _, word in column.ticks],
        }
        for column, scale in zip(columns, found.scales, strict=True)
    ]
    # The metric's heights: its values, or their logarithms where its axis has these.
    colours = {"color": columns[-1].heights, "colorscale": "Viridis"}
    lines = {**colours, "reversescale": found.goal != "minimize"}
    figure.add_trace(Parcoords(dimensions=dimensions, line=lines))
    figure.update_layout(margin={"t": 100})
    if said := _said(found.notes):
        figure.update_layout(title={"text": said, "font": {"size": 12}})
    return figure


def _remark(figure: "Figure", notes: Sequence[str], row: int) -> None:
    if said := _said(notes):
        place = {"x": 1, "y": 1, "xref": "x domain", "yref": "y domain", "yanchor": "bottom"}
        figure.add_annotation(text=said, showarrow=False, row=row, col=1, **place)


def _said(notes: Sequence[str]) -> str:
    return "<br>".join(map(escape, look.wrapped(notes)))


def _text(label: str) -> str:
    """Return text of which nothing is taken for markup."""
    return escape(look.cut(label))


def _see_through(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"
