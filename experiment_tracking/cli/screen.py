"""Where output goes: aligned lines for people, JSON for programs, notices beside both."""

import shutil
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.cli.text import clean, cut, pad, width_of
from experiment_tracking.folder.values import to_stored

if TYPE_CHECKING:
    from rich.console import Console

INDENT = "  "
GAP = "  "
_WIDEST_CELL = 40
_NARROWEST = 8


class Cell(NamedTuple):
    """A piece of a line. ``text`` must be clean already."""

    text: str
    style: str = ""
    """As rich has it: ``bold``, ``green``, ``dim`` …; only seen in a terminal."""


class Column(NamedTuple):
    """A column of a table."""

    header: str
    cells: list[Cell]
    right: bool = False
    """Aligned at the right, as numbers are."""
    rank: int = 0
    """Where there is no room, columns of the highest rank go first; 0 stays."""

    @property
    def width(self) -> int:
        """Cells that the widest entry takes."""
        return max(map(width_of, (self.header, *(cell.text for cell in self.cells))))

    def lines(self) -> list[Cell]:
        """Return header and cells, filled up to one width."""
        width = self.width
        lines = [Cell(self.header, "bold"), *self.cells]
        return [Cell(pad(cell.text, width, right=self.right), cell.style) for cell in lines]

    def cut(self, width: int) -> "Column":
        """Return the column with nothing in it wider than ``width``."""
        cells = [Cell(cut(cell.text, width), cell.style) for cell in self.cells]
        return Column(cut(self.header, width), cells, self.right, self.rank)


class Screen:
    """Standard output: fitted and coloured in a terminal, else plain and whole."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self.width = shutil.get_terminal_size().columns if self.is_terminal else sys.maxsize

    @cached_property
    def _console(self) -> "Console":
        from rich.console import Console

        return Console(highlight=False, width=self.width)

    def line(self, *cells: Cell) -> None:
        """Print one line, cut where the terminal ends."""
        if not self.is_terminal:
            print("".join(cell.text for cell in cells).rstrip())
            return
        from rich.text import Text

        text = Text.assemble(*((cell.text, cell.style) for cell in cells))
        text.rstrip()
        self._console.print(text, no_wrap=True, overflow="ellipsis", crop=True)

    def heading(self, text: str) -> None:
        """Print the title of a section, after an empty line."""
        self.line()
        self.line(Cell(text, "bold cyan"))

    def pairs(self, pairs: Sequence[tuple[str, Cell]]) -> None:
        """Print names and values below each other, a long value further below itself.

        Only here a value may be any text, of several lines too.
        """
        width = max(width_of(name) for name, _ in pairs)
        for name, value in pairs:
            label = pad(name, width) + GAP
            for line in self._wrapped(value.text, width_of(label)):
                self.line(Cell(label, "dim"), Cell(line, value.style))
                label = " " * width_of(label)

    def _wrapped(self, text: str, indent: int) -> list[str]:
        lines = [clean(line) for line in text.splitlines()]
        room = max(_NARROWEST, self.width - indent)
        if all(width_of(line) <= room for line in lines):
            return lines
        return [part for line in lines for part in _folded(line, room)]

    def table(self, columns: Sequence[Column], indent: str = "") -> None:
        """Print a table; say for which columns the terminal has no room."""
        shown, left_out = (
            fit(columns, self.width - len(indent)) if self.is_terminal else (columns, [])
        )
        for cells in zip(*(column.lines() for column in shown), strict=True):
            row = [Cell(indent)]
            for cell in cells:
                row += [cell, Cell(GAP)]
            self.line(*row)
        if left_out:
            names = ", ".join(dict.fromkeys(left_out))
            say(f"no room for {names}. A wider terminal has it, and --json.")


def _folded(line: str, width: int) -> list[str]:
    from textwrap import wrap

    # textwrap counts characters, of which wide ones take two cells.
    characters = width * len(line) // max(1, width_of(line))
    return wrap(line, max(1, characters), break_on_hyphens=False) or [""]


def fit(columns: Sequence[Column], width: int) -> tuple[list[Column], list[str]]:
    """Choose the columns that have room in ``width`` cells, and cut long entries.

    Returns the columns, and the headers of those left out.
    """
    left_out: list[str] = []
    kept = list(columns)
    if _total(kept) > width:
        kept = [column.cut(_WIDEST_CELL) if column.rank else column for column in columns]
    while _total(kept) > width and any(column.rank for column in kept):
        # Of equal ranks the one furthest right goes.
        place = max(range(len(kept)), key=lambda i: (kept[i].rank, i))
        left_out.insert(0, kept.pop(place).header)
    room = width - (_total(kept) - kept[0].width)
    return [kept[0].cut(max(_NARROWEST, room)), *kept[1:]], left_out


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)


def json_out(value: Any) -> None:
    """Print ``value`` as JSON; NaN and the infinities as text, as they are on disk."""
    import orjson

    text = orjson.dumps(_storable(value), option=orjson.OPT_INDENT_2).decode()
    # JSON itself allows DEL, the C1 controls and what turns text around; a terminal obeys them.
    for line in text.split("\n"):
        print(line if line.isprintable() else "".join(map(_json_char, line)))


def _json_char(char: str) -> str:
    if char.isprintable():
        return char
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_storable(str(name)): _storable(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(entry) for entry in value]
    if isinstance(value, float):
        return to_stored(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)  # most programs that read JSON would make a float of it
    if isinstance(value, str):
        # Half a surrogate pair, from a file name that is not UTF-8, has no place in JSON.
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def say(message: str) -> None:
    """Print a message to stderr, its further lines indented."""
    first, *others = map(clean, message.split("\n"))
    print(f"experiments: {first}", *others, sep="\n  ", file=sys.stderr)


def column_of(
    header: str,
    values: Sequence[Any],
    write: Callable[[Any], str],
    *,
    rank: int = 0,
    styles: Sequence[str] | None = None,
) -> Column:
    """Make a column; numbers alone stand at the right."""
    present = [value for value in values if value is not None]
    right = bool(present) and all(type(value) in (int, float) for value in present)
    cells = [
        Cell(write(value), style)
        for value, style in zip(values, styles or [""] * len(values), strict=True)
    ]
    return Column(clean(header), cells, right, rank)
