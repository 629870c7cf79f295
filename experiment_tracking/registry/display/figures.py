"""The figures of a run as parts of a page, or as paths where they are too large for one."""

import base64
import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.registry.display.html import LINE, MUTED, more, text
from experiment_tracking.registry.record import RunRecord

_TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif",
    ".webp": "image/webp", ".svg": "image/svg+xml",
}  # fmt: skip
"""What is shown as a picture. In an <img> the scripts of an SVG do not run."""

_MAX_FIGURES = 12
_MAX_BYTES = 500_000


class Budget:
    """What pictures may still add to a page.

    Parameters
    ----------
    size_bytes
        So much of files; in a page they take a third more.
    """

    def __init__(self, size_bytes: int = 3_000_000) -> None:
        self.left = size_bytes

    def takes(self, size_bytes: int) -> bool:
        """Tell whether a picture has room, and give it that."""
        if size_bytes > min(self.left, _MAX_BYTES):
            return False
        self.left -= size_bytes
        return True


class Figure(NamedTuple):
    """A figure as it is kept."""

    name: str
    path: str
    """Inside the run's folder."""
    step: Any


def figures_html(record: RunRecord, budget: Budget) -> str:
    """Return the newest figure of each name, small ones as pictures, at most twelve."""
    figures = _newest(record)
    shown = "".join(_figure_html(record, figure, budget) for figure in figures[:_MAX_FIGURES])
    if not shown:
        return ""
    return f'<div style="display: flex; flex-wrap: wrap; gap: 0.8em">{shown}</div>' + more(
        len(figures) - _MAX_FIGURES, "figure"
    )


def _newest(record: RunRecord) -> list[Figure]:
    """Return the figures that were logged last under their names."""
    found: dict[str, Figure] = {}
    for entry in record.artifacts:
        if isinstance(entry, Mapping) and entry.get("kind") in ("figure", "image"):
            path, name = entry.get("path"), str(entry.get("name"))
            if isinstance(path, str):
                found[name] = Figure(name, path, entry.get("step"))
    return list(found.values())


def _figure_html(record: RunRecord, figure: Figure, budget: Budget) -> str:
    at = f", step {text(figure.step)}" if figure.step is not None else ""
    caption = f'<div style="font-size: 0.85em; {MUTED}">{text(figure.name)}{at}</div>'
    try:
        data = _picture(record, figure, budget)
    except (OSError, DamagedError) as error:
        return f"<div>{text(error)}{caption}</div>"
    if data is None:
        return f"<div>{link(record, figure.path)}{caption}</div>"
    # Figures are mostly drawn for white paper, some of them on nothing.
    return (
        f'<div><img src="{data}" alt="{text(figure.name)}" loading="lazy" style="max-width: 260px; '
        f'max-height: 200px; background: white; border: {LINE}">{caption}</div>'
    )


def _picture(record: RunRecord, figure: Figure, budget: Budget) -> str | None:
    """Return a picture as a ``data:`` URL; None for what is no picture or too large."""
    kind = _TYPES.get(os.path.splitext(figure.path)[1].lower())
    path = inside(record, figure.path)
    if kind is None or not budget.takes(os.lstat(path).st_size):
        return None
    return f"data:{kind};base64,{base64.b64encode(io.read(path, _MAX_BYTES)).decode()}"


def inside(record: RunRecord, path: str) -> str:
    """Return where a path from a run's documents leads.

    Raises
    ------
    DamagedError
        If that is not in the run: the documents may be somebody else's.
    """
    top = os.path.realpath(record.folder.path)
    try:
        found = os.path.realpath(os.path.join(top, path))
    except ValueError as error:  # NUL
        raise DamagedError(f"Run {record.name!r}: {path!r} is no path.") from error
    if not found.startswith(top + os.sep):
        raise DamagedError(f"Run {record.name!r}: {path!r} leads out of the run's folder.")
    return found


def link(record: RunRecord, path: str) -> str:
    """Return the path of a run's file, as a link where the notebook can open it.

    Jupyter and VS Code open links relative to the notebook, which mostly is where its kernel
    runs; a page may not open ``file:`` links.
    """
    shown = text(path)
    try:
        relative = os.path.relpath(inside(record, path))
    except (ValueError, DamagedError, OSError):  # On another drive; out of the run; no folder here.
        return shown
    if relative.startswith(os.pardir):
        return shown
    target = quote_from_bytes(os.fsencode(relative.replace(os.sep, "/")))
    return f'<a href="./{target}">{shown}</a>'
