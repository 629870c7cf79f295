r"""How what a process prints comes to its terminal and, on the way, to the console's log.

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

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.capture.console import FLUSH_INTERVAL_S, MAX_BYTES, ConsoleLog
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    import subprocess

_READ_BYTES = 65_536
_DRAIN_STEPS = 1_000  # Some MB: more than pipes hold, and an end where children never pause.
_GRACE_S = 1.0
_START_TIMEOUT_S = 30.0
_PASSED_ON = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH")


class _Channel:
    """One way from a process to its terminal: what is read from ``source`` goes to ``target``."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.pending = memoryview(b"")
        self._modes = _terminal_modes(source) if os.isatty(source) else None

    def close(self) -> None:
        """Let go of the source, once: whoever writes to it now meets a broken pipe."""
        if self.source >= 0:
            os.close(self.source)
            self.source = -1

    def read(self) -> bytes:
        """Read what is there; nothing means that nobody can write any more."""
        try:
            data = os.read(self.source, _READ_BYTES)
        except OSError:  # EIO, with which Linux says so for a pseudo-terminal
            data = b""
        self.follow_window_size()
        self.follow_modes()
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
        if self._modes:
            import termios

            with contextlib.suppress(termios.error):  # The terminal has been closed.
                size = termios.tcgetwinsize(self.target)
                if size != termios.tcgetwinsize(self.source):
                    termios.tcsetwinsize(self.source, size)

    def follow_modes(self) -> None:
        """Change in the terminal what the process has changed in the pseudo-terminal.

        A program that draws on the whole screen has keys given to it as they are typed, without
        echo: it asks that of its stdout, and reads them from the terminal itself.
        """
        if self._modes:
            import termios

            with contextlib.suppress(termios.error):
                before, self._modes = self._modes, _terminal_modes(self.source)
                if self._modes != before:
                    _change_modes(self.target, before, self._modes)


def _terminal_modes(fd: int) -> list[Any]:
    import termios

    return termios.tcgetattr(fd)


def _change_modes(terminal: int, before: list[Any], after: list[Any]) -> None:
    """Change in ``terminal`` what differs between ``before`` and ``after``."""
    import signal
    import termios

    modes = termios.tcgetattr(terminal)
    for part in (0, 1, 3):  # bits of input, output and local modes
        changed = before[part] ^ after[part]
        if part == 1:
            changed &= ~termios.OPOST  # It is ours that this is off in the pseudo-terminal.
        modes[part] = modes[part] & ~changed | after[part] & changed
    for number, (old, new) in enumerate(zip(before[6], after[6], strict=True)):
        if old != new:
            modes[6][number] = new
    # We may be in the background where the command has taken the terminal over (a shell).
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        termios.tcsetattr(terminal, termios.TCSANOW, modes)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


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
        if not readable and not writable:
            for channel in self.channels:
                channel.follow_modes()
            self._log(ConsoleLog.flush)
        return readable + writable

    def run_until_idle(self) -> None:
        """Pass on what is in the pipes now, waiting for the terminal but not for more."""
        for _ in range(_DRAIN_STEPS):
            shows = any(channel.pending for channel in self.channels)
            if not self.step(None if shows else 0.0):
                break

    def _take(self, channel: _Channel) -> None:
        data = channel.read()
        if data:
            self._log(ConsoleLog.feed, data, channel.source)
        else:
            self._end(channel)

    def _log(self, action: Callable[..., None], *args: object) -> None:
        if self._console is None:
            return
        try:
            action(self._console, *args)
        except Exception as error:  # A fault of ours must not close the script's stdout.
            notice(f"console.log ends here ({error!r}); the terminal goes on.")
            self._console = None

    def _end(self, channel: _Channel) -> None:
        self.channels.remove(channel)  # First: a signal may come in between.
        channel.close()


def _open_channels(
    targets: Mapping[int, int], closing: contextlib.ExitStack, sinks: contextlib.ExitStack
) -> dict[int, tuple[_Channel, int]]:
    """Make the channel, and its end to write to, of each descriptor with its target.

    ``closing`` will close the channels, ``sinks`` the ends to write to.
    """
    found: dict[tuple[int, int], tuple[_Channel, int]] = {}
    for target in targets.values():
        identity = _identity(target)
        if identity not in found:
            source, sink = _open_terminal(target) if os.isatty(target) else _pipe()
            found[identity] = _Channel(source, target), sink
            closing.callback(found[identity][0].close)
            sinks.callback(os.close, sink)
            found[identity][0].follow_window_size()
    return {descriptor: found[_identity(target)] for descriptor, target in targets.items()}


def _open_terminal(target: int) -> tuple[int, int]:
    """Open a pseudo-terminal in the state of the terminal ``target``."""
    import termios

    source, sink = map(_move_up, os.openpty())
    with contextlib.suppress(termios.error):  # The terminal has been closed.
        attributes = termios.tcgetattr(target)
        attributes[1] &= ~termios.OPOST  # It is the terminal that ends a line with CR LF.
        termios.tcsetattr(sink, termios.TCSANOW, attributes)
    return source, sink


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
    """Duplicate ``fd`` above 0, 1 and 2."""
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _move_up(fd: int) -> int:
    """Give ``fd``, or where it is 0, 1 or 2, which is closed and must stay so, another."""
    if fd > 2:
        return fd
    try:
        return _copy_up(fd)
    finally:
        os.close(fd)


class ConsoleCapture:
    """The capture of this process's own stdout and stderr (descriptors 1 and 2).

    Children that inherit the descriptors are captured too, and those that outlive this process
    still reach terminal and log: the reading process ends when nobody can write any more. After
    ``kill -9`` of this process everything that it had written is in both.

    The reading process ignores Ctrl-C, SIGTERM and the like and is not a child of this process,
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
        through the descriptors. What a script changes in the mode of its terminal (curses) is
        carried over with the next output.
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

            def close(stack: contextlib.ExitStack, fd: int) -> int:
                stack.callback(os.close, fd)
                return fd

            for fd in _open_outputs():
                self._saved[fd] = close(on_failure, _copy_up(fd))
            if not self._saved:
                raise OSError("There is no console to capture: stdout and stderr are closed.")
            channels = _open_channels(self._saved, passed_on, passed_on)
            control, self._control = _pipe()
            close(passed_on, control)
            close(on_failure, self._control)
            self._answer, answer = _pipe()
            close(passed_on, answer)
            close(on_failure, self._answer)
            self._sinks = {_identity(sink) for _, sink in channels.values()}
            ways = {(channel.source, channel.target) for channel, _ in channels.values()}
            _start_reading(path, max_bytes, [(control, answer), *ways], self._saved.get(2))
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


# Schedulers send to all processes of a job what is meant for the script.
_IGNORED = ("SIGINT", "SIGQUIT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")

_READER = "import sys; sys.path.append(sys.argv[1]); import {0}; {0}._read_for(*sys.argv[2:])"


def _start_reading(
    path: str, max_bytes: int, pairs: list[tuple[int, int]], stderr: int | None
) -> None:
    """Start the reading process; return when it is there."""
    import subprocess

    if not sys.executable:  # Python within another program
        raise OSError("There is no interpreter to read the console with: sys.executable is empty.")
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

    for name in _IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # select() refuses descriptors above 1023, which a script with many open files hands over.
    (control, answer), *ways = [
        tuple(_copy_up(int(fd)) for fd in pair.split(":")) for pair in pairs
    ]
    for fd in ",".join(pairs).replace(":", ",").split(","):
        os.close(int(fd))
    channels = [_Channel(source, target) for source, target in ways]
    if os.fork():
        os._exit(0)
    console = ConsoleLog(path, int(max_bytes))
    relay = _Relay(channels, console)
    awaited = [control]
    while relay.channels:
        ready = relay.step(FLUSH_INTERVAL_S if console.changed else None, *awaited)
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

    stdin is ours, and so is the process group: Ctrl-C, Ctrl-Z and the like reach the command
    from the terminal, and we wait for it. SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and changes of the
    window are passed on. Where stdout is no terminal, a Python command is told not to hold back
    its output. Call it from the main thread.

    Parameters
    ----------
    command
        Program, looked up in the ``PATH`` of ``env``, and arguments.
    console
        Where the text goes; it is the caller's to close.
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
    with contextlib.ExitStack() as closing:
        sinks = closing.enter_context(contextlib.ExitStack())
        channels = _open_channels({fd: fd for fd in _open_outputs()}, closing, sinks)
        relay = _Relay(list({channel: None for channel, _ in channels.values()}), console)
        outputs = {fd: sink for fd, (_, sink) in channels.items()}
        if not all(map(os.isatty, outputs.values())):
            env = {"PYTHONUNBUFFERED": "1", **env}
        started = closing.enter_context(_passing_on_signals(relay.channels))
        process = _start(command, env, cwd, outputs)
        sinks.close()
        started(process)
        return _relay_until_end(relay, process)


def _start(
    command: Sequence[str], env: Mapping[str, str], cwd: str | None, outputs: Mapping[int, int]
) -> "subprocess.Popen[bytes]":
    import subprocess

    try:
        return subprocess.Popen(
            command, env=env, cwd=cwd, stdout=outputs.get(1), stderr=outputs.get(2)
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Cannot run {command[0]!r}: {error.filename!r} was not found. "
            "Give a path, or the name of a program in PATH."
        ) from error


def _relay_until_end(relay: _Relay, process: "subprocess.Popen[bytes]") -> int:
    deadline = float("inf")
    while relay.channels and time.monotonic() < deadline:
        relay.step(FLUSH_INTERVAL_S)
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

    handlers: dict[int, Any] = {getattr(signal, name): pass_on for name in _PASSED_ON}
    # The terminal sends these to the command as well. Not SIG_IGN, which it would inherit.
    handlers |= dict.fromkeys((signal.SIGINT, signal.SIGQUIT), lambda number, frame: None)
    # What is ignored (nohup) stays ignored, by the command too.
    before = {n: signal.getsignal(n) for n in handlers if signal.getsignal(n) != signal.SIG_IGN}
    # Where the end of a child is ignored, its exit code is lost.
    before[signal.SIGCHLD], handlers[signal.SIGCHLD] = (
        signal.getsignal(signal.SIGCHLD),
        signal.SIG_DFL,
    )
    for number in before:
        signal.signal(number, handlers[number])
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
