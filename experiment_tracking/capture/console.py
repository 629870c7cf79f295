r"""What a process prints, kept as a readable file while it still reaches the terminal.

The bytes are read by another process, never by a thread of the one that prints: C code that
prints while it holds the GIL would otherwise wait for a reader that waits for the GIL. For
``experiments run`` the reader is the parent (:func:`run_and_capture`); inside a script it is a
small child (:class:`ConsoleCapture`), which needs the standard library only.

Descriptors that mean the same thing (``2>&1``, or one terminal) share one pipe, which keeps
the order of their text; between two pipes the order is that of reading. A pseudo-terminal
stands in for a terminal, so progress bars and colours are what they are without us.

When the terminal's side goes away (``python train.py | head``, a closed window, a full disk
under ``> out.txt``), our end of the pipe is closed as well: the next write fails in the script
as it would have without us, only later by what a pipe holds, and always as a broken pipe (an
I/O error where a pseudo-terminal stands in).
"""

import codecs
import contextlib
import os
import re
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from experiment_tracking.capture.redaction import redact_text
from experiment_tracking.folder import io
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    import subprocess

MAX_BYTES = 10_000_000
"""Size of console.log above which its middle is left out."""

_ROWS = 32  # Nested progress bars go up by as many lines as there are bars.
_LONGEST_LINE = 65_536
_WIDEST = 500  # A move to the right stops here, as it does at a terminal's margin.
_FLUSH_INTERVAL_S = 0.2
_RETRY_INTERVAL_S = 1.0
_BUFFER_BYTES = 1_000_000
_READ_BYTES = 65_536
_DRAIN_STEPS = 1_000  # Some MB: more than pipes hold, and an end where children never pause.
_GRACE_S = 1.0
_START_TIMEOUT_S = 30.0

# Forms of ECMA-48 (5th edition), sections 5.4 and 5.6. What began at the end of the text and
# may go on is "cut"; the bounds keep a stray start of a title from swallowing what follows.
_PIECES = re.compile(
    r"(?P<text>[^\x00-\x08\x0a-\x1f\x7f-\x9f]+)"
    r"|(?P<move>[\n\r\x08])"
    r"|\x1b\[(?P<parameters>[0-?]{0,64})[ -/]{0,4}(?P<control>[@-~])"
    r"|(?P<removed>\x1b(?:[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)|[ -/]{0,4}[0-OQ-WYZ\\`-~]))"
    r"|(?P<cut>\x1b(?:\[[0-?]{0,64}[ -/]{0,4}|[\]PX^_][^\x07\x1b]{0,4096}\x1b?|[ -/]{0,4})\Z)"
    r"|[\x00-\x1f\x7f-\x9f]"
)


class _Screen:
    """The last lines of a terminal, which can still be rewritten; older ones are settled."""

    def __init__(self, settle: Callable[[str], None]) -> None:
        self._settle = settle
        self._rows = [""]
        self._row = self._column = 0

    def write(self, text: str) -> str:
        """Show ``text``; return the control sequence that its end has cut, to be continued."""
        for piece in _PIECES.finditer(text):
            match piece.lastgroup:
                case "text":
                    self._put(piece[0])
                case "move":
                    self._move(piece[0])
                case "control":
                    self._control(piece["parameters"], piece["control"])
                case "cut":
                    return piece[0]
        return ""

    def visible(self) -> list[str]:
        """Give the lines that are not settled, the one with the cursor at least."""
        end = len(self._rows)
        while end - 1 > self._row and not self._rows[end - 1]:
            end -= 1
        return self._rows[:end]

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
        if character == "\n":
            self._new_line()
        elif character == "\r":
            self._column = 0
        else:
            self._column = max(0, self._column - 1)

    def _new_line(self) -> None:
        self._column = 0
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append("")
        if len(self._rows) > _ROWS:
            self._settle(self._rows.pop(0))
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
        self._screen = _Screen(self._settle)
        self._sources: dict[int, _Source] = {}
        self._settled: deque[bytes] = deque()  # not written yet
        self._settled_bytes = 0
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
        for start in range(0, len(data), _READ_BYTES):
            stream.show(data[start : start + _READ_BYTES], self._screen)
            self._changed = True
            waited_s = time.monotonic() - self._flushed_at
            if waited_s >= _FLUSH_INTERVAL_S or self._settled_bytes > self._buffer_bytes:
                self.flush()

    def flush(self) -> None:
        """Write what has come. Without news, or soon after the disk refused, do nothing."""
        self._flushed_at = time.monotonic()
        if self._changed and (self._retry_at is None or self._flushed_at >= self._retry_at):
            self._try_to_write()
        while self._settled_bytes > self._buffer_bytes:
            self._lost_bytes += len(self._settled[0])
            self._settled_bytes -= len(self._settled.popleft())

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

    def _settle(self, line: str) -> None:
        data = _readable(line) + b"\n"
        self._settled.append(data)
        self._settled_bytes += len(data)

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
        settled = lost + b"".join(self._settled)
        text = settled + b"\n".join(map(_readable, self._screen.visible()))
        # Never shorter than before: `tail -f` would take it for a new file and show it all again.
        _write_at(fd, text.ljust(self._length - self._offset), self._offset)
        self._end = self._offset + len(text)
        self._length = max(self._length, self._end)
        self._offset += len(settled)
        self._settled.clear()
        self._settled_bytes = self._lost_bytes = 0
        if self._offset > self._max_bytes:
            self._leave_out_the_middle(fd)

    def _open(self) -> int:
        try:
            self._fd = io.open_for_writing(self._path)
        except FileNotFoundError:
            self._fd = io.create(self._path)
        self._offset = self._end = self._length = os.fstat(self._fd).st_size
        if self._length and io.pread(self._fd, 1, self._length - 1) != b"\n":
            self._settled.appendleft(b"\n")
            self._settled_bytes += 1
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


def _readable(line: str) -> bytes:
    return redact_text(line.rstrip(" ")).encode()


def _left_out_line(count: int) -> bytes:
    return f"[… {count:,} bytes left out …]\n".encode()


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = io.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


class _Channel:
    """One way from a process to its terminal: what is read from ``source`` goes to ``target``."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.pending = memoryview(b"")
        self._is_terminal = os.isatty(source)

    def read(self) -> bytes:
        """Read what is there; nothing means that nobody can write any more."""
        try:
            data = os.read(self.source, _READ_BYTES)
        except OSError:  # EIO, with which Linux says so for a pseudo-terminal
            return b""
        self.follow_window_size()
        self.pending = memoryview(data)
        return data

    def show(self) -> bool:
        """Pass on a part that a ready target takes without blocking; False if it has gone."""
        try:
            # Blocking here would hold up the other channel, and making the target non-blocking
            # would do so for everybody who shares it.
            written = os.write(self.target, self.pending[: select.PIPE_BUF])
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.pending = self.pending[written:]
        return True

    def follow_window_size(self) -> None:
        """Give the pseudo-terminal the size that the terminal has now."""
        if self._is_terminal:
            import termios

            with contextlib.suppress(termios.error):  # The terminal has been closed.
                size = termios.tcgetwinsize(self.target)
                if size != termios.tcgetwinsize(self.source):
                    termios.tcsetwinsize(self.source, size)


class _Relay:
    """Passes on what comes from all channels, to their targets and to the log."""

    def __init__(self, channels: list[_Channel], console: ConsoleLog) -> None:
        self.channels = channels
        self._console: ConsoleLog | None = console

    def step(self, timeout_s: float | None, *others: int) -> list[int]:
        """Wait until something can be done and do it.

        Returns
        -------
        list of int
            Descriptors that were ready, those of ``others`` among them; none after the timeout.
        """
        sources = {c.source: c for c in self.channels if not c.pending}
        targets = {c.target: c for c in self.channels if c.pending}
        readable, writable, _ = select.select([*sources, *others], targets, [], timeout_s)
        for fd in writable:
            if not targets[fd].show():
                self._end(targets[fd])
        for fd in readable:
            if fd in sources:
                self._take(sources[fd])
        if not readable and not writable and self._console:
            self._console.flush()
        return readable + writable

    def run_until_idle(self) -> None:
        """Pass on what is in the pipes now, waiting for the terminal but not for more."""
        for _ in range(_DRAIN_STEPS):
            shows = any(channel.pending for channel in self.channels)
            if not self.step(None if shows else 0.0):
                break

    def _take(self, channel: _Channel) -> None:
        data = channel.read()
        if not data:
            self._end(channel)
        elif self._console:
            try:
                self._console.feed(data, channel.source)
            except Exception as error:  # A fault of ours must not close the script's stdout.
                notice(f"console.log ends here ({error!r}); the terminal goes on.")
                self._console = None

    def _end(self, channel: _Channel) -> None:
        os.close(channel.source)
        self.channels.remove(channel)


def _open_channels(targets: Mapping[int, int]) -> dict[int, tuple[_Channel, int]]:
    """Make the channel, and its end to write to, of each descriptor with its target."""
    found: dict[tuple[int, int], tuple[_Channel, int]] = {}
    channels = {}
    for descriptor, target in targets.items():
        identity = _identity(target)
        if identity not in found:
            found[identity] = _open_channel(target)
        channels[descriptor] = found[identity]
    return channels


def _open_channel(target: int) -> tuple[_Channel, int]:
    if not os.isatty(target):
        source, sink = _pipe()
        return _Channel(source, target), sink
    import termios

    source, sink = map(_move_up, os.openpty())
    with contextlib.suppress(termios.error):  # The terminal has been closed.
        attributes = termios.tcgetattr(target)
        attributes[1] &= ~termios.OPOST  # It is the terminal that ends a line with CR LF.
        termios.tcsetattr(sink, termios.TCSANOW, attributes)
    channel = _Channel(source, target)
    channel.follow_window_size()
    return channel, sink


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _open_outputs() -> list[int]:
    """Give 1 and 2 as far as they are open; what is closed stays closed."""
    found = []
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            found.append(fd)
    return found


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    return _move_up(reading), _move_up(writing)


def _copy_up(fd: int) -> int:
    """Duplicate ``fd`` above 0, 1 and 2, which may be closed and must not be taken."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _move_up(fd: int) -> int:
    copy = _copy_up(fd)
    os.close(fd)
    return copy


class ConsoleCapture:
    """The capture of this process's own stdout and stderr (descriptors 1 and 2).

    Children that inherit the descriptors are captured too, and those that outlive this process
    still reach terminal and log: the reading process ends when nobody can write any more. After
    ``kill -9`` of this process everything that it had written is in both.

    The reading process ignores Ctrl-C, SIGTERM and SIGHUP and is not a child of this process,
    so ``os.wait()`` does not meet it. Should it be killed, stdout is a broken pipe.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._saved: dict[int, int] = {}
        self._sinks: set[tuple[int, int]] = set()
        self._control = self._answer = -1

    @classmethod
    def start(cls, path: "str | os.PathLike[str]", max_bytes: int = MAX_BYTES) -> "ConsoleCapture":
        """Send what this process prints from now on through a reading process.

        Parameters
        ----------
        path, max_bytes
            As for :class:`ConsoleLog`.

        Raises
        ------
        OSError
            If nothing was changed: it is captured already, stdout and stderr are closed, the
            reading process did not start, or this is Windows.

        Notes
        -----
        Costs the start of a bare interpreter, about 40 ms. Where Python itself replaces the
        streams (Jupyter), what C code and subprocesses print is captured, as far as it comes
        through the descriptors. A program that draws on the whole screen (curses) changes
        the mode of the stand-in and not of the terminal: do not capture one.
        """
        global _current
        if os.name != "posix":
            raise OSError("Capturing the console needs POSIX descriptors; Windows has none.")
        if _current is not None and _current._pid == os.getpid():
            raise OSError("The console of this process is captured already; stop that first.")
        capture = cls()
        capture._begin(os.path.abspath(path), max_bytes)
        _current = capture
        return capture

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Put the descriptors back and wait until what was printed is in the log.

        A descriptor that has been pointed elsewhere in the meantime is left alone. In a forked
        child, or the second time, nothing is done.

        Returns
        -------
        bool
            False if the reading process did not confirm in time.
        """
        global _current
        if _current is not self or self._pid != os.getpid():
            return False
        _current = None
        _flush_buffers()
        self._put_back()
        try:
            with contextlib.suppress(BrokenPipeError):  # It has seen the end, and said so.
                os.write(self._control, b".")
            return _can_read(self._answer, timeout_s) and os.read(self._answer, 1) == b"."
        finally:
            for fd in (self._control, self._answer, *self._saved.values()):
                os.close(fd)

    def _begin(self, path: str, max_bytes: int) -> None:
        _flush_buffers()
        with contextlib.ExitStack() as passed_on, contextlib.ExitStack() as on_failure:

            def close(stack: contextlib.ExitStack, *fds: int) -> None:
                for fd in fds:
                    stack.callback(os.close, fd)

            self._saved = {fd: _copy_up(fd) for fd in _open_outputs()}
            close(on_failure, *self._saved.values())
            if not self._saved:
                raise OSError("There is no console to capture: stdout and stderr are closed.")
            channels = _open_channels(self._saved)
            ways = {channel.source: (channel, sink) for channel, sink in channels.values()}
            close(passed_on, *ways, *(sink for _, sink in ways.values()))
            control, self._control = _pipe()
            close(passed_on, control)
            close(on_failure, self._control)
            self._answer, answer = _pipe()
            close(passed_on, answer)
            close(on_failure, self._answer)
            self._sinks = {_identity(sink) for _, sink in ways.values()}
            pairs = [(channel.source, channel.target) for channel, _ in ways.values()]
            _start_reading(path, max_bytes, [(control, answer), *pairs], self._saved.get(2))
            on_failure.callback(self._put_back)
            for fd, (_, sink) in channels.items():
                os.dup2(sink, fd)
            on_failure.pop_all()

    def _put_back(self) -> None:
        for fd, saved in self._saved.items():
            with contextlib.suppress(OSError):  # It has been closed, and stays so.
                if _identity(fd) in self._sinks:
                    os.dup2(saved, fd)


_current: ConsoleCapture | None = None


def _can_read(fd: int, timeout_s: float) -> bool:
    poll = select.poll()  # select() refuses descriptors above 1023.
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _flush_buffers() -> None:
    """Hand over what Python and C still hold back for stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        # Missing, closed, broken, or an object of the script's that raises anything.
        with contextlib.suppress(Exception):
            stream.flush()
    with contextlib.suppress(ImportError, OSError):  # An interpreter without ctypes.
        import ctypes

        libc = ctypes.CDLL(None)
        for name in ("stdout", "__stdoutp"):  # the second on macOS
            # Not fflush(NULL): it waits for a thread that reads from stdin.
            with contextlib.suppress(ValueError):
                libc.fflush(ctypes.c_void_p.in_dll(libc, name))


_READER = "import sys; sys.path.append(sys.argv[1]); import {0}; {0}._read_for(*sys.argv[2:])"


def _start_reading(
    path: str, max_bytes: int, pairs: list[tuple[int, int]], stderr: int | None
) -> None:
    """Start the reading process; return when it is there."""
    import subprocess

    top = os.path.abspath(__file__)
    for _ in __name__.split("."):
        top = os.path.dirname(top)
    arguments = [top, path, str(max_bytes), *(f"{a}:{b}" for a, b in pairs)]
    try:
        subprocess.run(
            # Without site-packages, which may take seconds on a network file system.
            [sys.executable, "-I", "-S", "-c", _READER.format(__name__), *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if stderr is None else stderr,
            pass_fds=[fd for pair in pairs for fd in pair],
            cwd="/",
            start_new_session=True,
            timeout=_START_TIMEOUT_S,
        )
    except subprocess.SubprocessError as error:
        raise OSError(f"The process that reads the console did not start: {error}") from error


def _read_for(path: str, max_bytes: str, *pairs: str) -> None:
    """Be the reading process."""
    import signal

    (control, answer), *ways = [tuple(map(int, pair.split(":"))) for pair in pairs]
    channels = [_Channel(source, target) for source, target in ways]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    console = ConsoleLog(path, int(max_bytes))
    relay = _Relay(channels, console)
    awaited = [control]
    while relay.channels:
        ready = relay.step(_FLUSH_INTERVAL_S if console.changed else None, *awaited)
        if control in ready:  # A byte, or nothing when the process has died: the same to us.
            awaited = []
            relay.run_until_idle()
            console.flush()
            if relay.channels:  # held by children that go on
                _confirm(answer)
    console.close()
    _confirm(answer)


def _confirm(answer: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # Nobody waits for it.
        os.write(answer, b".")


def run_and_capture(
    command: Sequence[str],
    console: ConsoleLog,
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
) -> int:
    """Run a command whose stdout and stderr go where ours go, and into ``console``.

    stdin is ours. Ctrl-C reaches the command from the terminal, and we wait for it; SIGTERM,
    SIGHUP and changes of the window are passed on. Where stdout is no terminal, a Python
    command is told not to hold back its output. Call it from the main thread.

    Parameters
    ----------
    command
        Program, looked up in the ``PATH`` of ``env``, and arguments.
    console
        Where the text goes; flushed, not closed.
    env, cwd
        Environment and working directory of the command.

    Returns
    -------
    int
        The exit code, 128 + n for a command that signal n ended. Processes that outlive the
        command and keep its stdout are read for one second more; what they write later is
        lost, and may end them as a broken pipe.

    Raises
    ------
    FileNotFoundError
        If there is no such program or working directory.
    OSError
        If it cannot be run.
    """
    import subprocess

    channels = _open_channels({fd: fd for fd in _open_outputs()})
    relay = _Relay(list(dict.fromkeys(channel for channel, _ in channels.values())), console)
    sinks = {fd: sink for fd, (_, sink) in channels.items()}
    if not all(map(os.isatty, sinks.values())):
        env = {"PYTHONUNBUFFERED": "1", **env}
    try:
        with _passing_on_signals(relay.channels) as started:
            try:
                process = subprocess.Popen(
                    command, env=env, cwd=cwd, stdout=sinks.get(1), stderr=sinks.get(2)
                )
            finally:
                for sink in set(sinks.values()):
                    os.close(sink)
            started(process)
            return _relay_until_end(relay, process)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Cannot run {command[0]!r}: {error.filename!r} was not found. "
            "Give a path, or the name of a program in PATH."
        ) from error
    finally:
        console.flush()
        for channel in relay.channels:
            os.close(channel.source)


def _relay_until_end(relay: _Relay, process: "subprocess.Popen[bytes]") -> int:
    deadline = float("inf")
    while relay.channels and time.monotonic() < deadline:
        relay.step(_FLUSH_INTERVAL_S)
        if deadline == float("inf") and process.poll() is not None:
            deadline = time.monotonic() + _GRACE_S
    relay.run_until_idle()
    code = process.wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _passing_on_signals(
    channels: list[_Channel],
) -> Iterator["Callable[[subprocess.Popen[bytes]], None]"]:
    """Pass signals on to the process that the caller hands over once it is started."""
    import signal

    processes: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        if number == signal.SIGWINCH:
            for channel in channels:
                channel.follow_window_size()
        for process in processes:
            process.send_signal(number)
        if not processes:
            early.append(number)

    def started(process: "subprocess.Popen[bytes]") -> None:
        processes.append(process)
        for number in early:
            process.send_signal(number)

    handlers = dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH), pass_on)
    # Not SIG_IGN, which the command would inherit.
    handlers[signal.SIGINT] = lambda number, frame: None
    # What is ignored (nohup) stays ignored, by the command too.
    before = {n: signal.getsignal(n) for n in handlers if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handlers[number])
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
