r"""What a process prints to a terminal, as a file that a person can read.

The stream of bytes is what a terminal would get; :mod:`~experiment_tracking.capture.relay`
brings it here.
"""

import codecs
import contextlib
import os
import re
import time

from experiment_tracking.capture.redaction import HIDDEN, redact_text
from experiment_tracking.folder import io
from experiment_tracking.notices import notice

MAX_BYTES = 10_000_000
"""Size of console.log above which its middle is left out."""

FLUSH_INTERVAL_S = 0.2
"""How long a text may wait before it is in the file, while more of it comes."""

_ROWS = 32  # Nested progress bars go up by as many lines as there are bars.
_LONGEST_LINE = 65_536
_WIDEST = 500  # A move to the right stops here, as it does at a terminal's margin.
_RETRY_INTERVAL_S = 1.0
_BUFFER_BYTES = 1_000_000
_SLICE_BYTES = 65_536

# Lines that held no secret are remembered with all digits alike.
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"0" * 9)
_LONGEST_FORM = 500
_MOST_FORMS = 8_000

# A private key takes many lines (RFC 7468, and RFC 1421 for the headers).
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----\s*\Z")
_KEY_HEADER = re.compile(r"\s*(?:[A-Z][A-Za-z-]+: .*)?")
_KEY_BODY = re.compile(r"\s*[A-Za-z0-9+/=]+\s*")

# Forms of ECMA-48 (5th edition), sections 5.4 and 5.6. What began at the end of the text and
# may go on is "cut"; the bounds keep a stray start of a title from swallowing what follows.
_PIECES = re.compile(
    r"(?P<text>[^\x00-\x08\x0b-\x1f\x7f-\x9f]+)"
    r"|(?P<move>[\r\x08])"
    r"|\x1b\[(?P<parameters>[0-?]{0,64})[ -/]{0,4}(?P<control>[@-~])"
    r"|(?P<removed>\x1b(?:[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|[ -/]{0,4}[0-OQ-WYZ\\`-~]))"
    r"|(?P<cut>\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|[\]PX^_][^\x07\x1b]{0,4096}\x1b?|[ -/]{0,4})\Z)"
    r"|[\x00-\x1f\x7f-\x9f]"
)


class _Screen:
    """The last lines of a terminal, which can still be rewritten; older ones are settled."""

    def __init__(self) -> None:
        self._settled: list[str] = []
        self._rows = [""]
        self._row = self._column = 0

    def write(self, text: str) -> str:
        """Show ``text``; return the control sequence that its end has cut, to be continued."""
        for piece in _PIECES.finditer(text):
            match piece.lastgroup:
                case "text":
                    self._put_lines(piece[0])
                case "move":
                    self._move(piece[0])
                case "control":
                    self._control(piece["parameters"], piece["control"])
                case "cut":
                    return piece[0]
        return ""

    def take_settled(self) -> str:
        """Give the lines that have settled since the last time, each with its end."""
        settled, self._settled = self._settled, []
        return "\n".join([*settled, ""])

    def visible(self) -> list[str]:
        """Give the lines that are not settled, the one with the cursor at least."""
        end = len(self._rows)
        while end - 1 > self._row and not self._rows[end - 1]:
            end -= 1
        return self._rows[:end]

    def _put_lines(self, text: str) -> None:
        line, end, rest = text.partition("\n")
        self._put(line)
        if end:
            self._new_line()
        on_new_row = self._row == len(self._rows) - 1 and not self._rows[-1]
        if on_new_row and len(rest) <= _LONGEST_LINE and rest.count("\n") >= _ROWS:
            # Most of it would be put on the screen only to go up and out of it.
            older, *rows = rest.rsplit("\n", _ROWS)
            self._settled += [*self._rows[:-1], older]
            self._rows, self._row, self._column = rows, _ROWS - 1, len(rows[-1])
            return
        for number, line in enumerate(rest.split("\n")):
            if number:
                self._new_line()
            self._put(line)

    def _put(self, text: str) -> None:
        while text:
            if self._column >= _LONGEST_LINE:
                self._new_line()
            start = self._column
            self._column = min(start + len(text), _LONGEST_LINE)
            part, text = text[: self._column - start], text[self._column - start :]
            line = self._rows[self._row].ljust(start)
            self._rows[self._row] = line[:start] + part + line[self._column :]

    def _move(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        else:
            self._column = max(0, self._column - 1)

    def _new_line(self) -> None:
        self._column = 0
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append("")
        if len(self._rows) > _ROWS:
            self._settled.append(self._rows.pop(0))
            self._row -= 1

    def _control(self, parameters: str, final: str) -> None:
        first = parameters.partition(";")[0]
        if first and not first.isdigit():
            return  # Private to a terminal: hide the cursor, paste mode …
        count = int(first or 0)
        steps = max(count, 1)
        if final in "AF":
            self._row = max(0, self._row - steps)
        elif final in "BE":
            self._row = min(self._row + steps, len(self._rows) - 1)
        elif final == "C":
            self._column = max(self._column, min(self._column + steps, _WIDEST))
        elif final == "D":
            self._column = max(0, self._column - steps)
        elif final == "G":
            self._column = min(steps, _WIDEST) - 1
        elif final == "K":
            self._erase(count)
        elif final == "J" and count == 0:  # A cleared screen (2) is no reason to lose the log.
            self._erase(0)
            del self._rows[self._row + 1 :]
        if final in "EF":
            self._column = 0

    def _erase(self, part: int) -> None:
        line = self._rows[self._row]
        kept = (line[: self._column], " " * self._column + line[self._column :], "")
        self._rows[self._row] = kept[min(part, 2)]


class _Source:
    """One stream's undecoded rest: a read may end within a character or a sequence."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._cut = ""

    def show(self, data: bytes, screen: _Screen, *, final: bool = False) -> None:
        self._cut = screen.write(self._cut + self._decoder.decode(data, final))


class _Redaction:
    """Lines without their credentials and the blanks at their ends."""

    def __init__(self) -> None:
        self._clean: set[bytes] = set()
        self._in_key = False

    def of(self, text: str) -> bytes:
        """Redact the next lines of the stream."""
        if " \n" in text or text.endswith(" "):
            text = "\n".join(line.rstrip(" ") for line in text.split("\n"))
        data = text.encode()
        # Most lines of a training loop differ from an earlier one in digits only. Where that one
        # held no secret they hold none: what makes a token is its letters, and that digits are
        # among them. Looking closer costs up to a hundred times as much.
        forms = data.translate(_DIGITS_ALIKE).split(b"\n")
        if not self._in_key and self._clean.issuperset(forms):
            return data
        lines = text.split("\n")
        return b"\n".join(map(self._redact, lines, forms))

    def of_unsettled(self, text: str) -> bytes:
        """Redact the lines that follow for now, and forget about them."""
        in_key = self._in_key
        redacted = self.of(text)
        self._in_key = in_key
        return redacted

    def _redact(self, line: str, form: bytes) -> bytes:
        if self._in_key:
            if _KEY_BODY.fullmatch(line):
                return HIDDEN.encode()
            self._in_key = bool(_KEY_HEADER.fullmatch(line))
        elif form in self._clean:
            return line.encode()
        redacted = redact_text(line)
        if _KEY_BEGINS.search(line):
            self._in_key = True
        elif redacted == line and len(form) <= _LONGEST_FORM:
            if len(self._clean) >= _MOST_FORMS:
                self._clean.clear()
            self._clean.add(form)
        return redacted.encode()


class ConsoleLog:
    r"""A raw terminal stream as a readable text file.

    Carriage returns, backspaces, moves of the cursor and erased lines are carried out, on the
    last 32 lines: a progress bar leaves its last state. Colours, titles and other control
    characters go, bytes that are no UTF-8 are spelled out (``\xff``), blanks at the end of a
    line are dropped, lines break at 64 Ki characters, and each line loses its credentials.

    Nothing is raised for the disk: what it refuses is said once on stderr and tried again
    every second; what does not fit into memory until then is counted in the file.

    Parameters
    ----------
    path
        The file. What it holds is kept, and the new text begins on a line of its own. It is
        opened at the first write.
    max_bytes
        Above this size the middle goes: the first 20 % and the newest 40 % stay, around a line
        ``[… 4,194,304 bytes left out …]``. The file is replaced by a shorter one for that; in
        between it only grows, so that ``tail -f`` shows no line twice. Whatever rewrites
        a line leaves blanks behind the text until the next line or the end.
    """

    def __init__(self, path: "str | os.PathLike[str]", max_bytes: int = MAX_BYTES) -> None:
        self._path = os.fspath(path)
        self._max_bytes = max_bytes
        self._screen = _Screen()
        self._sources: dict[int, _Source] = {}
        self._redaction = _Redaction()
        self._settled = bytearray()  # not written yet
        self._lost_bytes = 0
        self._changed = False
        self._flushed_at = 0.0
        self._retry_at: float | None = None  # while the disk refuses
        self._fd: int | None = None
        self._offset = 0  # in the file: the end of the settled lines,
        self._end = 0  # of the text,
        self._length = 0  # and of the blanks behind it
        self._head = self._tail = 0  # where the line about the middle begins and ends
        self._left_out = 0

    @property
    def changed(self) -> bool:
        """Tell whether there is text that the file does not have yet."""
        return self._changed

    def feed(self, data: bytes, source: int = 1) -> None:
        """Add what was read.

        Parameters
        ----------
        data
            Any part of the stream, cut anywhere.
        source
            Which stream it is from, where several share the terminal.
        """
        stream = self._sources.setdefault(source, _Source())
        for start in range(0, len(data), _SLICE_BYTES):
            stream.show(data[start : start + _SLICE_BYTES], self._screen)
            self._changed = True
            self._settled += self._redaction.of(self._screen.take_settled())
            waited_s = time.monotonic() - self._flushed_at
            if waited_s >= FLUSH_INTERVAL_S or len(self._settled) > self._buffer_bytes:
                self.flush()

    def flush(self) -> None:
        """Write what has come. Without news, or soon after the disk refused, do nothing."""
        self._flushed_at = time.monotonic()
        if self._changed and (self._retry_at is None or self._flushed_at >= self._retry_at):
            self._try_to_write()
        excess = len(self._settled) - self._buffer_bytes
        if excess > 0:
            lost = self._settled.index(b"\n", excess - 1) + 1
            self._lost_bytes += lost
            del self._settled[:lost]

    def close(self) -> None:
        """Write the rest and cut the file at the end of the text."""
        for source in self._sources.values():
            source.show(b"", self._screen, final=True)
            self._changed = True
        if self._changed:
            self._try_to_write()
        if self._fd is None:
            return
        if self._retry_at is None:  # Otherwise what a full disk took of the rest stays there.
            with contextlib.suppress(OSError):  # Blanks at the end do no harm.
                io.truncate(self._fd, self._end)
        try:
            io.close(self._fd)
        except OSError as error:  # Network file systems report a full disk here.
            notice(f"{self._path} may lack its end ({error}).")
        self._fd = None

    @property
    def _buffer_bytes(self) -> int:
        return min(_BUFFER_BYTES, self._max_bytes // 10)

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            if self._retry_at is None:
                notice(f"{self._path} cannot be written ({error}); the terminal goes on.")
            self._retry_at = time.monotonic() + _RETRY_INTERVAL_S
        else:
            if self._retry_at is not None:
                notice(f"{self._path} is written again.")
            self._retry_at = None
            self._changed = False

    def _write(self) -> None:
        fd = self._open() if self._fd is None else self._fd
        if self._offset > self._max_bytes:  # That failed after the last write.
            fd = self._leave_out_the_middle(fd)
        lost = _left_out_line(self._lost_bytes) if self._lost_bytes else b""
        settled = lost + self._settled
        text = settled + self._redaction.of_unsettled("\n".join(self._screen.visible()))
        try:
            # Never shorter than before: `tail -f` would take it for a new file and show all again.
            _write_at(fd, text.ljust(self._length - self._offset), self._offset)
        finally:  # A full disk may have taken a part.
            self._length = os.fstat(fd).st_size
        self._end = self._offset + len(text)
        self._offset += len(settled)
        self._settled.clear()
        self._lost_bytes = 0
        if self._offset > self._max_bytes:
            self._leave_out_the_middle(fd)

    def _open(self) -> int:
        try:
            self._fd = io.open_for_writing(self._path)
        except FileNotFoundError:
            self._fd = io.create(self._path)
        self._offset = self._end = self._length = os.fstat(self._fd).st_size
        if self._length and io.pread(self._fd, 1, self._length - 1) != b"\n":
            self._settled[:0] = b"\n"
        return self._fd

    def _leave_out_the_middle(self, fd: int) -> int:
        if not self._tail:
            self._head = io.read_range(fd, 0, self._max_bytes // 5).rfind(b"\n") + 1
            self._tail = self._head
        start = max(self._tail, self._offset - self._max_bytes * 2 // 5)
        newest = io.read_range(fd, start, self._length - start)
        settled = self._offset - start
        cut = newest.find(b"\n", 0, settled) + 1 or settled
        left_out = self._left_out + start + cut - self._tail
        kept = io.read_range(fd, 0, self._head) + _left_out_line(left_out)
        io.replace_file(self._path, kept + newest[cut:])
        self._fd = io.open_for_writing(self._path)
        self._tail, self._left_out = len(kept), left_out
        moved = len(kept) - start - cut
        self._offset += moved
        self._end += moved
        self._length += moved
        io.close(fd)
        return self._fd


def _left_out_line(count: int) -> bytes:
    return f"[… {count:,} bytes left out …]\n".encode()


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = io.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
