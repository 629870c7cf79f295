r"""The append-only history: a JSON array of rows between any two writes.

::

    [
    {"step":0,"time":1763640000.123,"train/loss":2.31},
    {"step":1,"time":1763640000.456,"train/loss":2.02}
    ]

An append overwrites the closing ``\n]\n`` with ``,\n{row}\n]\n`` in one ``pwrite``. An offset
in a history is the position just behind the last byte of a row, or 1 before the first.
"""

import errno
import json
import os
import time

# threading.RLock itself, without the 2.5 ms that importing threading takes.
from _thread import RLock
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from experiment_tracking.errors import RunEndedError
from experiment_tracking.folder import io
from experiment_tracking.folder.values import RESERVED, Number, from_stored

Row = dict[str, Any]

START = 1
"""Offset before the first row."""

_EMPTY = b"[\n]\n"
_CLOSING = b"\n]\n"
_CLOSING_BYTES = len(_CLOSING)
BETWEEN_ROWS = b"[], \t\r\n\0"  # NULs: blocks that a power cut left unwritten
_BLOCK_BYTES = 64 * 1024
_MAX_HELD_BYTES = 8 * 2**20
_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 60.0


class HistoryWriter:
    """Append rows to one file; the only writer of that file.

    When :meth:`append` returns, the row is in the kernel's hands: the process may die in any
    way and the row is there. When the disk refuses, rows wait in at most 8 MB of memory and
    are written, in order, once it takes them again.

    Parameters
    ----------
    fd, end, last_step
        Descriptor of the file, offset behind its last whole row, and that row's step.
    marks
        Keys that every row gets (``attempt``, ``rank``).
    on_trouble
        Called with the error at each change from writing to holding, and with None at each
        change back. What it raises comes out of :meth:`append`; the row is then not kept.
    """

    def __init__(
        self,
        fd: int,
        end: int = START,
        last_step: int = -1,
        marks: Mapping[str, int | str] | None = None,
        on_trouble: Callable[[OSError | None], None] | None = None,
    ) -> None:
        self.fd = fd
        self.end = end
        """Offset behind the last row that was appended whole; readers in this process stop here."""
        self.last_step = last_step
        self.closed = False
        self.dropped = 0
        self.held: list[bytes] = []
        self._held_bytes = 0
        self._draining = False
        self._retry_at = 0.0
        self._retry_after_s = _FIRST_RETRY_S
        self._marks = dict(marks or {})
        self._on_trouble = on_trouble or (lambda error: None)
        # The bytes on their way, from before a write until its very last statement. A write that
        # was left by an error or an exception out of a signal handler, and could not clean up
        # behind itself, leaves them here: the next one, at the same offset, cuts the file.
        self._unfinished: bytes | None = None
        # Rows that signal handlers appended during the write that they interrupted.
        self._meanwhile: bytes | None = None
        # Re-entrant: a signal handler may log while this thread is inside an append.
        self.lock = RLock()

    @classmethod
    def create(cls, path: str, **options: Any) -> "HistoryWriter":
        """Create ``path``, which must not exist, as an empty history."""
        return cls(io.create_with(path, _EMPTY), **options)

    @classmethod
    def reopen(cls, path: str, **options: Any) -> "HistoryWriter":
        """Go on with ``path`` in a fresh file that holds its whole rows, and replace it.

        That drops a torn tail, and leaves a writer that was not dead after all with a file
        that no name leads to.
        """
        try:
            end, last_step = _replace_by_copy(path)
        except (_OutOfOrderError, FileNotFoundError, NotADirectoryError):
            rows, last_step = HistoryReader(path).whole_rows()
            data = b"[\n" + b",\n".join(rows) + _CLOSING if rows else _EMPTY
            io.replace_file(path, data, durable=True)
            end = len(data) - _CLOSING_BYTES
        return cls(io.open_for_writing(path), end, last_step, **options)

    @classmethod
    def extend(cls, path: str, **options: Any) -> "HistoryWriter":
        """Go on with ``path`` in the same file, behind its last row.

        For writers that take turns, such as the commands of a shell. A file that does not end
        in a whole row goes the way of :meth:`reopen`.
        """
        fd = io.open_for_writing(path)
        found = _end_of(fd)
        if found is None:
            io.close(fd)
            return cls.reopen(path, **options)
        return cls(fd, *found, **options)

    def append(
        self,
        values: Mapping[str, Number | str],
        step: int | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Append one row.

        Parameters
        ----------
        values
            Metrics under the names and in the form they have on disk: finite numbers, or the
            words for NaN and the infinities (see :func:`~.values.to_stored`). Not checked again.
        step
            Defaults to the last step + 1.
        timestamp
            Unix seconds, by default now.

        Raises
        ------
        RunEndedError
            After :meth:`close`.
        TypeError
            For values that JSON cannot hold; nothing is written then.
        """
        with self.lock:
            if step is None:
                step = self.last_step + 1
            now = time.time() if timestamp is None else timestamp
            body = orjson.dumps({"step": step, "time": now, **self._marks, **values})
            if self.held or self.closed:
                self._hold(body)
            else:
                try:
                    self._write(body)
                except OSError as error:
                    if error.errno is None:
                        raise  # not the disk's: a signal handler's own, such as its time-out
                    self._start_holding(body, error)
            self.last_step = step

    def _write(self, body: bytes, drained: int = 0) -> None:
        """Put ``body`` behind the last row; it holds that many of the rows held until now."""
        end, cut = self.end, self._unfinished is not None
        interrupted, self._meanwhile = self._meanwhile, b""
        try:
            while True:
                # Built by operators: CPython runs signal handlers behind calls, and one that
                # appends here would go unseen. One that appends later takes the mark from us; it
                # wrote at this very offset, so its rows are written again, and ours behind them.
                before = (b",\n" if end > START else b"\n") + self._meanwhile
                self._unfinished = data = before + body + _CLOSING
                if io.pwrite is io.seek_and_write:
                    # A handler may append when that begins, and raise before its rows are written
                    # again. Called here, the write lands at our offset or behind the handler's.
                    io.seek(self.fd, end, os.SEEK_SET)
                    written = io.write(self.fd, data)
                else:
                    written = io.pwrite(self.fd, data, end)
                if written != len(data):
                    raise OSError(errno.EIO, f"wrote {written} of {len(data)} bytes")
                if cut and self._unfinished is data:
                    io.truncate(self.fd, end + written)
                if self._unfinished is data:
                    break
                if self.closed:
                    raise OSError(errno.EBADF, "the file was closed by a signal handler")
                cut = True
            self.end = end + written - _CLOSING_BYTES
            self._unfinished = None
            if drained:
                del self.held[:drained]
            if interrupted is not None:
                self._meanwhile += body + b",\n"
        except BaseException:
            self._close_array()
            raise
        finally:
            self._meanwhile = None if interrupted is None else interrupted + self._meanwhile

    def _close_array(self) -> None:
        """Put the closing bracket back behind the last whole row, if the disk lets us."""
        try:
            if io.pwrite is io.seek_and_write:
                io.seek(self.fd, self.end, os.SEEK_SET)
                io.write(self.fd, _CLOSING)
            else:
                io.pwrite(self.fd, _CLOSING, self.end)
            io.truncate(self.fd, self.end + _CLOSING_BYTES)
        except OSError:
            return  # The mark stands: the next write cuts.
        self._unfinished = None

    def _start_holding(self, body: bytes, error: OSError) -> None:
        if self.closed:
            raise RunEndedError(_ENDED) from error
        if not self.held:
            self._on_trouble(error)
            self._held_bytes = 0
            self._retry_at = time.monotonic() + self._retry_after_s
        self._keep(body)

    def _hold(self, body: bytes) -> None:
        if self.closed:
            raise RunEndedError(_ENDED)
        self._keep(body)
        if time.monotonic() >= self._retry_at:
            self.write_held()

    def _keep(self, body: bytes) -> None:
        self.held.append(body)
        self._held_bytes += len(body)
        while self._held_bytes > _MAX_HELD_BYTES and not self._draining:
            self._held_bytes -= len(self.held.pop(0))
            self.dropped += 1

    def write_held(self) -> bool:
        """Try to write the rows that the disk refused; tell whether none is left."""
        with self.lock:
            if not self.held:
                return True
            if self._draining:
                return False  # A signal handler's call; the one that it interrupted goes on.
            self._draining = True
            try:
                while self.held:
                    rows = self.held[:]
                    self._write(b",\n".join(rows), drained=len(rows))
            except OSError as error:
                if error.errno is None:
                    raise
                self._retry_after_s = min(2 * self._retry_after_s, _LAST_RETRY_S)
                self._retry_at = time.monotonic() + self._retry_after_s
                return False
            finally:
                self._draining = False
            self._retry_after_s = _FIRST_RETRY_S
            self._on_trouble(None)
            return True

    def read(self, offset: int, length: int) -> bytes:
        """Read back what was written, for the followers of this process."""
        if io.pread is io.seek_and_read:
            with self.lock:  # seek and read share the position with the writer
                return bytes(io.pread(self.fd, length, offset))
        return bytes(io.pread(self.fd, length, offset))

    def sync(self) -> None:
        """Flush the rows to the disk."""
        io.fsync(self.fd)

    def has_its_name(self, path: str) -> bool:
        """Tell whether ``path`` still leads to this file: not deleted, moved or taken over."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(path))
        except OSError:
            return False

    def present_path(self) -> str | None:
        """Tell where the file is after its folder was moved (Linux); None if it is nowhere."""
        try:
            path = os.readlink(f"/proc/self/fd/{self.fd}")
        except OSError:
            return None
        return path if self.has_its_name(path) else None

    def move_to(self, path: str) -> None:
        """Go on in a new file at ``path`` with everything written so far."""
        with self.lock:
            fd = io.create_with(path, io.read_range(self.fd, 0, self.end) + _CLOSING)
            # The descriptor's number stays: an append that a signal interrupted holds it.
            os.dup2(fd, self.fd, inheritable=False)
            io.close(fd)

    def seal(self) -> None:
        """Write what is held and leave a valid array; later appends raise. Reading goes on."""
        with self.lock:
            if self.closed:
                return
            self.write_held()
            if self._unfinished is not None:
                self._close_array()
            self._unfinished = None
            self.closed = True
            self.dropped += len(self.held)
            self.held.clear()

    def close(self) -> None:
        """Seal and close the file."""
        with self.lock:
            self.seal()
            fd, self.fd = self.fd, -1
            if fd >= 0:
                io.close(fd)

    def abandon_in_child(self) -> None:
        """Let go of the parent's file in a forked child, without taking the parent's lock."""
        self.lock = RLock()
        self.closed = True
        self.held = []
        fd, self.fd = self.fd, -1
        if fd >= 0:
            io.close(fd)


def _end_of(fd: int) -> tuple[int, int] | None:
    """Return the end and the step of the last row; None where the file does not end in one."""
    size = os.fstat(fd).st_size
    start = max(0, size - _BLOCK_BYTES)
    tail = io.pread(fd, _BLOCK_BYTES, start)
    if start == 0 and tail == _EMPTY:
        return START, -1
    if not tail.endswith(_CLOSING):
        return None
    row = _load(tail[: -len(_CLOSING)].rpartition(b"\n")[2])
    return None if row is None else (size - len(_CLOSING), row["step"])


class _OutOfOrderError(Exception):
    """A history, but for its end, is not one valid row a line."""


def _replace_by_copy(path: str) -> tuple[int, int]:
    """Replace a history by a copy of its whole rows' bytes; return their end and last step."""
    source = io.open_for_reading(path)
    try:
        with io.replacing(path, durable=True) as fd:
            return _copy_rows(source, fd)
    finally:
        io.close(source)


def _copy_rows(source: int, fd: int) -> tuple[int, int]:
    io.write_all(fd, b"[")
    end, last_step = START, -1
    for lines in _blocks(source):
        rows = _rows_in_order(lines)
        if rows:
            lines = (b",\n" if end > START else b"\n") + lines
            io.write_all(fd, lines)
            end, last_step = end + len(lines), rows[-1]["step"]
    io.write_all(fd, _CLOSING)
    return end, last_step


def _blocks(source: int) -> Iterator[bytes]:
    """Yield the lines of a history in pieces, without what stands between and behind them."""
    if io.pread(source, 2, 0) != b"[\n":
        raise _OutOfOrderError
    offset, rest = 2, b""
    while block := io.pread(source, _BLOCK_BYTES, offset):
        offset += len(block)
        lines, comma, last = (rest + block).rpartition(b",\n")
        if comma:
            yield lines
        rest = last
    yield b",\n".join(rest[start:end] for row, start, end in _scan(rest) if row is not None)


def _rows_in_order(lines: bytes) -> list[Row]:
    try:
        rows: list[Row] = orjson.loads(b"[" + lines + b"]")
    except ValueError:
        raise _OutOfOrderError from None
    if lines.count(b"\n") != max(len(rows) - 1, 0) or not all(map(_is_row, rows)):
        raise _OutOfOrderError
    return rows


_ENDED = "The run has ended; nothing more can be logged to it. Start a new run or resume it."


class Rows(NamedTuple):
    """What a look at a history found."""

    rows: list[Row]
    offset: int
    """Where the next look begins: behind the last whole row."""
    damaged: int
    """Lines that are no rows but have rows behind them."""
    torn: bool
    """Whether something that is not yet, or never was, a row stands behind the last one."""


class HistoryReader:
    """Read a history that may be growing, torn or damaged; never raise on its contents.

    Rows come back as on disk: non-finite values are text (see
    :func:`~experiment_tracking.folder.values.from_stored`).

    Parameters
    ----------
    path
        The file. A missing one has no rows.
    """

    limit_bytes = 8 * 2**30

    def __init__(self, path: str) -> None:
        self.path = path

    def since(self, offset: int = 0) -> Rows:
        """Return the whole rows behind ``offset``.

        Raises
        ------
        OSError
            If the file is there but cannot be read now; that says nothing about its contents.
        DamagedError
            If it is a link, a pipe or a device.
        """
        rows, length, damaged, torn = parse(self.data(offset))
        return Rows(rows, offset + length if rows else offset, damaged, torn)

    def rows(self, until: int | None = None) -> list[Row]:
        """Return all whole rows, or those up to the offset ``until``, the end of one of them."""
        return parse(self.data()[:until])[0]

    def whole_rows(self) -> tuple[list[bytes], int]:
        """Return the bytes of each whole row, and the last row's step (-1 without rows)."""
        data = self.data()
        rows = parse(data)[0]
        lines = [data[start:end] for row, start, end in _scan(data) if row is not None]
        if len(lines) < len(rows):  # Laid out anew by an editor or jq: not a row a line.
            lines = [orjson.dumps(row) for row in rows]
        return lines, rows[-1]["step"] if rows else -1

    def data(self, offset: int = 0) -> bytes:
        """Return the bytes behind ``offset``; raises what :meth:`since` does."""
        try:
            return io.read(self.path, self.limit_bytes, offset)
        except (FileNotFoundError, NotADirectoryError):
            return b""


def parse(data: bytes) -> tuple[list[Row], int, int, bool]:
    """Take the rows out of a piece of history that begins where a row begins or ended.

    Returns
    -------
    rows, length, damaged, torn
        ``length`` counts the bytes up to the end of the last row. An array in good order is
        parsed in one call; anything else line by line.
    """
    body = data.strip(BETWEEN_ROWS)
    if not body:
        return [], 0, 0, False
    try:
        rows = orjson.loads(b"[" + body + b"]")
    except ValueError:
        return _parse_lines(data)
    if not all(map(_is_row, rows)):
        return _parse_lines(data)
    return rows, data.rindex(body[-1:]) + 1, 0, False


def _parse_lines(data: bytes) -> tuple[list[Row], int, int, bool]:
    rows: list[Row] = []
    length = damaged = suspects = 0
    for row, _, end in _scan(data):
        if row is None:
            suspects += 1
        else:
            rows.append(row)
            length = end
            damaged += suspects
            suspects = 0
    return rows, length, damaged, suspects > 0


def _scan(data: bytes) -> Iterator[tuple[Row | None, int, int]]:
    """Yield each row with its place in ``data``, and None in the place of what is no row."""
    position = 0
    while position < len(data):
        newline = data.find(b"\n", position)
        line_end = len(data) if newline < 0 else newline
        line = data[position:line_end].lstrip(BETWEEN_ROWS)
        start = line_end - len(line)
        line = line.rstrip(BETWEEN_ROWS)
        row = _load(line) if line else None
        if row is not None:
            yield row, start, start + len(line)
        elif line:
            yield from _scan_line(line, start)
        position = line_end + 1


def _scan_line(line: bytes, start: int) -> Iterator[tuple[Row | None, int, int]]:
    """Yield the whole rows of a line that is more, or less, than one row.

    A reader can meet the closing bracket half overwritten (``{row},]{next``), and the comma or
    the newline between two rows can be damaged.
    """
    text = line.decode("latin-1")  # a character a byte
    seen = position = 0
    # Quotes inside a name are escaped, so this stands only where an object begins.
    while (position := text.find('{"', position)) >= 0:
        end = _object_end(text, position)
        row = _load(line[position:end])
        if row is None:
            position = max(end, position + 1)
            continue
        if line[seen:position].strip(BETWEEN_ROWS):
            yield None, start + seen, start + position
        yield row, start + position, start + end
        seen = position = end
    if line[seen:].strip(BETWEEN_ROWS):
        yield None, start + seen, start + len(line)


def _object_end(text: str, start: int) -> int:
    try:
        return _DECODER.raw_decode(text, start)[1]
    except ValueError:
        return start
    except RecursionError:  # No row of ours, and trying inside it would take for ever.
        return len(text)


_DECODER = json.JSONDecoder()


def _load(line: bytes) -> Row | None:
    try:
        row = orjson.loads(line)
    except ValueError:
        return None
    return row if _is_row(row) else None


def _is_row(row: object) -> bool:
    return (
        type(row) is dict and type(row.get("step")) is int and type(row.get("time")) in (float, int)
    )


def metric_values(row: Row) -> dict[str, Number]:
    """Return the metrics of one stored row as numbers, under their stored names."""
    values = {}
    for name, stored in row.items():
        if name in RESERVED:
            continue
        number = from_stored(stored)
        if number is not None:
            values[name] = number
    return values
