"""Read a history that another process writes, piece by piece, and find a place in it again."""

import contextlib
import hashlib
from collections import deque
from typing import NamedTuple

from experiment_tracking.folder import io
from experiment_tracking.folder.history import START, Row, parse

_PIECE_BYTES = 256 * 1024
_WINDOW_BYTES = 16 * 2**20
_BEFORE_BYTES = 4 * 1024
_LOOKS = 3
_OPENING = b"[\n"
_BETWEEN = b",\n"
_CLOSING = b"\n]\n"


class Place(NamedTuple):
    """How far a history has been read."""

    offset: int = START
    """Behind the last row that was read."""
    rows: int = 0
    """How many that are."""
    last_row: str | None = None
    """Mark of that row's bytes. None: its bytes cannot be told apart, so the rows are counted."""


class PlacedRow(NamedTuple):
    """A row, and where it ends."""

    row: Row
    end: int
    """Offset behind it; where it shares its line with others, or has several, that of a row
    near by."""
    mark: str | None
    """First 16 hexadecimal digits of its bytes' SHA-256; None where it has no line to itself."""


class _LostPlaceError(Exception):
    """The history does not hold, at our offset, the row that was read there."""


class HistoryCursor:
    """Give the rows of a growing history once each, in order, in bounded memory.

    A reader can meet a row half written, or pages of the file from before and behind a write. So
    a row counts once it stands on its line whole, and a line that is none counts as damaged only
    after it was met three times with a row behind it. What has been read is looked at again with
    every read: where the file was replaced meanwhile (resumed, mended, laid out anew), the place
    is found by counting rows from the start.

    Parameters
    ----------
    path
        The file. A missing one has no rows.
    place
        Where to go on.
    """

    def __init__(self, path: str, place: Place = Place()) -> None:  # noqa: B008 (immutable)
        self.path = path
        self._rows = place.rows
        self._offset = 0
        self._tail = b""
        """The last row that was read, in front of the offset; empty where it has no own line."""
        self._waiting: deque[PlacedRow] = deque()
        self._is_placed = not place.rows
        self._place: Place | None = place if place.rows else None
        self._doubted = (0, b"")
        self._looks = 0

    def next(self, max_rows: int, *, settled: bool = False) -> list[PlacedRow]:
        """Return the next rows, usually within 256 KB; none where there are none just now.

        Parameters
        ----------
        max_rows
            At most so many.
        settled
            Whether nobody writes any more: what is damaged now stays so, and an empty answer
            means the end.

        Raises
        ------
        OSError
            If the file is there but cannot be read now.
        DamagedError
            If it is a link, a pipe or a device.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not self._waiting:
                self._refill(settled)
        rows = [self._waiting.popleft() for _ in range(min(max_rows, len(self._waiting)))]
        self._rows += len(rows)
        return rows

    def _refill(self, settled: bool) -> None:
        try:
            if self._is_placed or self._find_place(settled):
                self._fill(settled)
        except _LostPlaceError:
            # Once: a file that is replaced without end gives its rows at a later call.
            self._is_placed = False
            with contextlib.suppress(_LostPlaceError):
                if self._find_place(settled):
                    self._fill(settled)

    # ------------------------------------------------------------------ the place

    def _find_place(self, settled: bool) -> bool:
        """Go to where ``_rows`` rows have been read; tell whether that was found."""
        place, self._place = self._place, None
        if place is None or not self._go_to(place):
            self._go_to_row(self._rows)
        return self._is_placed or settled

    def _go_to(self, place: Place) -> bool:
        line = self._line_before(place.offset) if place.last_row else b""
        self._is_placed = bool(line) and mark(line) == place.last_row
        if self._is_placed:
            self._offset, self._tail = place.offset, line
        return self._is_placed

    def _line_before(self, offset: int) -> bytes:
        length = 0
        line, newline = b"", b""
        fd = io.open_for_reading(self.path)
        try:
            while not newline and length < offset:
                length = min(max(2 * length, _BEFORE_BYTES), offset)
                before = io.read_range(fd, offset - length, length)
                _, newline, line = before.rpartition(b"\n")
        finally:
            io.close(fd)
        return line

    def _go_to_row(self, rows: int) -> None:
        """Pass over so many rows from the start, those of damaged regions too.

        They have been read before, so that no line among them is just being written.
        """
        self._offset, self._tail = 0, b""
        self._waiting.clear()
        while rows:
            if not self._waiting:
                self._fill(settled=True)
            if not self._waiting:
                break
            for _ in range(min(rows, len(self._waiting))):
                self._waiting.popleft()
                rows -= 1
        self._is_placed = not rows

    # ------------------------------------------------------------------ reading

    def _fill(self, settled: bool) -> None:
        data, at_end = self._read(_PIECE_BYTES)
        rows = _rows_in_order(data, self._offset)
        nothing = _CLOSING if self._offset else b"[" + _CLOSING
        if rows or (at_end and nothing.startswith(data)):
            self._take(rows, data)
        elif settled:
            self._take_damaged(_WINDOW_BYTES)
        else:
            self._doubt(data)

    def _read(self, length: int) -> tuple[bytes, bool]:
        """Return at least a whole line behind the offset, and whether the file ends there."""
        fd = io.open_for_reading(self.path)
        try:
            start = self._offset - len(self._tail)
            if io.read_range(fd, start, len(self._tail)) != self._tail:
                raise _LostPlaceError
            while True:
                data = io.read_range(fd, self._offset, length)
                if len(data) < length or data.find(b"\n", len(_BETWEEN)) >= 0:
                    return data, len(data) < length
                length *= 2
        finally:
            io.close(fd)

    def _take(self, rows: list[PlacedRow], data: bytes) -> None:
        if not rows:
            return
        self._waiting.extend(rows)
        length = rows[-1].end - self._offset
        has_a_line = rows[-1].mark is not None
        self._tail = data[data.rfind(b"\n", 0, length) + 1 : length] if has_a_line else b""
        self._offset = rows[-1].end
        self._looks = 0

    def _take_damaged(self, length: int) -> None:
        """Take what rows there are among damaged lines, or in a file laid out in another way."""
        data, at_end = self._read(length)
        # Of a large one a line may be cut; the rest of it comes with the next piece.
        whole = data if at_end else data[: data.rfind(b"\n")]
        rows = _rows_anyhow(whole, self._offset)
        if rows or at_end:
            self._take(rows, whole)
        else:
            self._take_damaged(2 * length)

    def _doubt(self, data: bytes) -> None:
        """Believe a damaged line that was met as it is now before, if a row stands behind it."""
        line_end = data.find(b"\n", len(_BETWEEN)) + 1
        doubted = (self._offset, data[:line_end])
        self._looks = self._looks + 1 if doubted == self._doubted else 1
        self._doubted = doubted
        if self._looks >= _LOOKS and line_end:
            behind = _end_of_next_row(data, line_end)
            rows = _rows_anyhow(data[:behind], self._offset)
            self._take(rows, data)


def mark(line: bytes) -> str:
    """Return what tells a row's bytes from those of other rows."""
    return hashlib.sha256(line).hexdigest()[:16]


def _rows_in_order(data: bytes, offset: int) -> list[PlacedRow]:
    """Take the rows that follow each other as a writer leaves them, up to the first other line."""
    rows: list[PlacedRow] = []
    position = 0
    separator = _BETWEEN if offset else _OPENING
    while data.startswith(separator, position):
        start = position + len(separator)
        newline = data.find(b"\n", start)
        line = data[start : len(data) if newline < 0 else newline].removesuffix(b",")
        placed = _placed(line, offset + start)
        if placed is None:
            break
        rows.append(placed)
        position, separator = start + len(line), _BETWEEN
    return rows


def _placed(line: bytes, start: int) -> PlacedRow | None:
    """Take a line that is one row and nothing else."""
    if not (line.startswith(b"{") and line.endswith(b"}")):
        return None
    rows, _, damaged, torn = parse(line)
    if len(rows) != 1 or damaged or torn:
        return None
    return PlacedRow(rows[0], start + len(line), mark(line))


def _rows_anyhow(data: bytes, offset: int) -> list[PlacedRow]:
    """Take the rows as :func:`parse` finds them, each with its place if it has a line."""
    rows, length, _, _ = parse(data)
    placed: list[PlacedRow] = []
    start = 0
    for line in data.split(b"\n"):
        placed += _rows_of_line(line, offset + start)
        start += len(line) + 1
    if len(placed) == len(rows):
        return placed
    # Laid out anew by an editor or jq: not a row a line.
    before = [PlacedRow(row, offset, None) for row in rows[:-1]]
    return [*before, PlacedRow(rows[-1], offset + length, None)]


def _rows_of_line(line: bytes, start: int) -> list[PlacedRow]:
    alone = _placed(line.removesuffix(b","), start)
    if alone is not None:
        return [alone]
    rows, length, _, _ = parse(line)
    return [PlacedRow(row, start + length, None) for row in rows]


def _end_of_next_row(data: bytes, position: int) -> int:
    """Return the end of the first whole line from ``position`` on that is a row; 0 if none."""
    while (line_end := data.find(b"\n", position)) >= 0:
        line = data[position:line_end].removesuffix(b",")
        if _placed(line, 0) is not None:
            return position + len(line)
        position = line_end + 1
    return 0
