"""The rows of a run as they are written, and the last ones of a long history."""

import os
import time
from collections.abc import Collection, Iterator

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.cursor import HistoryCursor, Place, mark
from experiment_tracking.folder.history import START, Row, parse
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.registry.record import RunRecord, bring, brought
from experiment_tracking.registry.summary import CLOSING_BYTES, read_summary

_WINDOW_BYTES = 64 * 1024
_AT_ONCE = 10_000


def last_rows(
    folder: RunFolder,
    count: int,
    metrics: Collection[str] | None = None,
    until: int | None = None,
) -> list[Row]:
    """Return the last rows of a run as they are on disk, the oldest first.

    Reads the history from its end, so the cost does not grow with its length.

    Parameters
    ----------
    folder
        The run's.
    count
        At most so many.
    metrics
        Stored names; rows with none of them do not count. All rows by default.
    until
        The end of a row behind which nothing is looked at; the file's end by default.

    Raises
    ------
    DamagedError, OSError
        If the history is no regular file or cannot be read now. A missing one has no rows.
    """
    try:
        fd = io.open_for_reading(brought(folder.history()))
    except FileNotFoundError:
        return []
    try:
        end = os.fstat(fd).st_size if until is None else until
        length = _WINDOW_BYTES
        while True:
            rows = having(_rows_before(fd, end, length), metrics)
            if len(rows) >= count or length >= end:
                return rows[max(0, len(rows) - count) :]
            length *= 4
    finally:
        io.close(fd)


def _rows_before(fd: int, end: int, length: int) -> list[Row]:
    start = max(0, end - length)
    data = io.read_range(fd, start, end - start)
    # What stands before the first end of a line may be half a row.
    return parse(data.partition(b"\n")[2] if start else data)[0]


def having(rows: list[Row], metrics: Collection[str] | None) -> list[Row]:
    """Return the rows that have one of the metrics."""
    if metrics is None:
        return rows
    return [row for row in rows if not row.keys().isdisjoint(metrics)]


def follow(
    record: RunRecord,
    count: int = 20,
    metrics: Collection[str] | None = None,
    interval_s: float = 0.25,
) -> Iterator[list[Row]]:
    """Yield the last rows of a run, then those that are written, as they are on disk.

    Ends once the run has ended (or crashed) and every row was given; the record then tells how.

    Parameters
    ----------
    record
        The run. It is read again with every look.
    count
        How many rows to begin with.
    metrics
        As :func:`last_rows` takes them.
    interval_s
        Time between two looks.

    Yields
    ------
    list of dict
        One or more rows, in file order.
    """
    place = _digested(record.folder)
    cursor = HistoryCursor(brought(record.folder.history()), place)
    is_running = _is_running(record)
    bring([record.folder.history()])
    rows = last_rows(record.folder, count, metrics, place.offset) if place.rows else []
    for piece in _up_to_now(cursor, record.folder, settled=not is_running):
        rows = [*rows, *having(piece, metrics)]
        rows = rows[max(0, len(rows) - count) :]
    while True:
        if rows:
            yield rows
        # Looked at before the rows: what it wrote at last is then among them.
        is_running = _is_running(record)
        bring([record.folder.history()])
        placed = cursor.next(_AT_ONCE, settled=not is_running)
        rows = having([each.row for each in placed], metrics)
        if not placed and not is_running:
            return
        if not placed:
            time.sleep(interval_s)


def _is_running(record: RunRecord) -> bool:
    bring([record.folder.summary, record.folder.heartbeat])
    return record.refresh().status == "running"


def _up_to_now(cursor: HistoryCursor, folder: RunFolder, *, settled: bool) -> Iterator[list[Row]]:
    """Yield the rows that are there; a writer may add more for as long as it is read."""
    try:
        size_bytes = os.path.getsize(folder.history())
    except FileNotFoundError:
        return
    while placed := cursor.next(_AT_ONCE, settled=settled):
        yield [each.row for each in placed]
        if placed[-1].end + CLOSING_BYTES >= size_bytes:
            return


def _digested(folder: RunFolder) -> Place:
    """Return the place up to which the summary counts the rows: near the end of a long history."""
    said = read_summary(folder).get("history") or {}
    offset, rows = said.get("digested_bytes"), said.get("rows")
    if type(offset) is not int or type(rows) is not int or offset <= START or rows < 1:
        return Place()
    try:
        line = _line_before(folder.history(), offset)
    except (DamagedError, OSError):  # The cursor says it, if it is still so.
        return Place()
    is_row = line.startswith(b"{") and line.endswith(b"}")
    return Place(offset, rows, mark(line)) if is_row else Place()


def _line_before(path: str, offset: int) -> bytes:
    fd = io.open_for_reading(path)
    try:
        length = min(offset, _WINDOW_BYTES)
        return io.read_range(fd, offset - length, length).rpartition(b"\n")[2]
    finally:
        io.close(fd)
