"""Tables and pieces of a page: everything escaped, every style in its element.

Notebooks drop style sheets, and their pages are light or dark. So colours of text are the page's
own, and fills are half transparent: they show on both.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from experiment_tracking.registry.wording import number_text, visible

MAX_ROWS = 50
MAX_CELL = 200
_MAX_TITLE = 2_000
_ONE_LINE = 40

MUTED = "opacity: 0.65"
RED = "#e5534b"
LINE = "1px solid rgba(128, 128, 128, 0.3)"
QUOTED = "3px solid rgba(128, 128, 128, 0.4)"
_BEST = "background: rgba(46, 160, 67, 0.2); font-weight: bold"

# Jupyter centres tables and gives all columns one width, marimo lets them fill the page.
_TABLE = (
    "border-collapse: collapse; table-layout: auto; width: auto; margin: 0.4em 0; "
    "font-size: 0.93em; border: none"
)
_CELL = f"padding: 0.25em 0.8em; vertical-align: middle; border: none; border-bottom: {LINE}"
# With no least width, one wide cell would squeeze the others to a letter a line.
_TEXT = f"{_CELL}; text-align: left; overflow-wrap: anywhere; min-width: 14em; max-width: 28em"
_NUMBER = f"{_CELL}; white-space: nowrap; text-align: right; font-variant-numeric: tabular-nums"
_FIXED = f"{_CELL}; text-align: left; white-space: nowrap"

CLASSES = {"t": _TEXT, "n": _NUMBER, "f": _FIXED, "b": f"{_NUMBER}; {_BEST}"}
"""Styles that stand in every cell, by the class that may bear them on a page of its own."""

_BADGES = {
    "finished": "46, 160, 67", "running": "56, 139, 253", "failed": "248, 81, 73",
    "crashed": "248, 81, 73", "killed": "210, 153, 34",
}  # fmt: skip


class Cell(NamedTuple):
    """One cell of a table."""

    html: str
    """What is in it, escaped."""
    kind: str = "fixed"
    """``text`` may break anywhere, ``fixed`` nowhere, ``number`` stands at the right."""
    is_best: bool = False
    title: str = ""
    """What is said when it is pointed at."""


def text(value: Any, most: int = MAX_CELL) -> str:
    r"""Escape a value as one line of at most so many characters.

    >>> text("<b>\n")
    '&lt;b&gt;\\n'
    """
    line = number_text(value)
    return escape(visible(line if len(line) <= most else line[: most - 1] + "…"))


def cell(value: Any, most: int = MAX_CELL) -> Cell:
    """Return a cell of a value: numbers at the right, text cut at so many characters."""
    if type(value) in (int, float):
        return Cell(text(value), "number")
    length = len(number_text(value))
    title = str(value)[:_MAX_TITLE] if length > most else ""
    return Cell(
        text(value, most), "text" if min(length, most) > _ONE_LINE else "fixed", False, title
    )


def number(value: Any, *, is_best: bool = False, title: str = "") -> Cell:
    """Return a cell of a number, the best of its column marked."""
    shown = text(value)
    return Cell(f"★ {shown}" if is_best else shown, "number", is_best, title)


def table(head: Sequence[Cell], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table; cells of the head are named as the cells below them are placed."""
    titles = "".join(_element("th", each) for each in head)
    body = "".join(f"<tr>{''.join(_element('td', each) for each in row)}</tr>" for row in rows)
    return (
        f'<div style="overflow-x: auto"><table style="{_TABLE}"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _element(name: str, each: Cell) -> str:
    style = {"number": _NUMBER, "text": _TEXT}.get(each.kind, _FIXED)
    style += f"; {_BEST}" if each.is_best else ""
    title = f' title="{escape(visible(each.title))}"' if each.title else ""
    return f'<{name} style="{style}"{title}>{each.html}</{name}>'


def table_html(columns: Mapping[str, Sequence[Any]]) -> str:
    """Return a table of columns of equal length, its first 50 rows."""
    rows = list(zip(*columns.values(), strict=True))
    shown = [[cell(value) for value in row] for row in rows[:MAX_ROWS]]
    head = [Cell(text(name), kind_of(values)) for name, values in columns.items()]
    return table(head, shown) + more(len(rows) - MAX_ROWS)


def kind_of(values: Iterable[Any]) -> str:
    """Return how the head of a column is placed: as numbers if it has nothing else."""
    present = [value for value in values if value is not None]
    return "number" if present and all(type(v) in (int, float) for v in present) else "fixed"


def more(count: int, word: str = "", how: str = "") -> str:
    """Say that so many are not shown, and how to see them; nothing if there are none."""
    if count <= 0:
        return ""
    words = f" {word}{'' if count == 1 else 's'}" if word else ""
    return line(f"… {count:,} more{words}" + (f": {code(how)}" if how else ""))


def line(content: str) -> str:
    """Return a quiet line of escaped content; nothing for nothing."""
    return f'<div style="margin: 0.3em 0; {MUTED}">{content}</div>' if content else ""


def heading(content: str) -> str:
    """Return escaped content as the heading of what follows."""
    return f'<div style="margin: 0.9em 0 0.2em; font-weight: bold">{content}</div>'


def code(words: str) -> str:
    """Return text as it is typed."""
    return (
        '<code style="background: rgba(128, 128, 128, 0.15); color: inherit; '
        f'padding: 0.1em 0.35em; border-radius: 4px">{escape(visible(words))}</code>'
    )


def badge(words: str, status: str = "") -> str:
    """Return words on a half transparent ground, in the colour of a status if it is one."""
    colour = _BADGES.get(status, "128, 128, 128")
    return (
        f'<span style="display: inline-block; background: rgba({colour}, 0.25); '
        "border-radius: 1em; padding: 0 0.65em; white-space: nowrap; max-width: 30em; "
        f'overflow: hidden; text-overflow: ellipsis; vertical-align: bottom">{text(words)}</span>'
    )


def status_badge(status: Any, note: str = "") -> str:
    """Return a status in its colour, with its note."""
    return badge(f"{status} ({note})" if note else str(status), str(status))


def folded(title: str, content: str, *, is_open: bool = False) -> str:
    """Return content behind a title (escaped) that opens it; nothing for nothing."""
    if not content:
        return ""
    return (
        f'<details{" open" if is_open else ""} style="margin: 0.4em 0">'
        f'<summary style="cursor: pointer">{title}</summary>{content}</details>'
    )


def side_by_side(*parts: str) -> str:
    """Return parts beside each other, below each other where there is no room."""
    inner = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div style="display: flex; flex-wrap: wrap; gap: 0 2.5em">{inner}</div>'


def block(*parts: str) -> str:
    """Return parts as one piece of a page, in its own font."""
    return f'<div style="line-height: 1.45; text-align: left">{"".join(parts)}</div>'
