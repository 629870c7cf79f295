"""The training process's side of mirrors: start the child that makes them, watch it, wait for it.

One child serves all runs of this process. It reads the runs' folders and is told, by lines of
JSON on its stdin, only which runs there are and when they end; see ``backends/child.py``. What
comes back stands in the runs' folders, in ``backends/<name>.json``.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.documents import read_document, utc_now
from experiment_tracking.folder.layout import (
    HANDOVER_VARIABLE,
    RUN_VARIABLE,
    SCRATCH_VARIABLE,
    RunFolder,
)
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    import subprocess

    from experiment_tracking.backends.catalog import Target
    from experiment_tracking.backends.progress import Progress

_EMPTY_BYTES = len(b"[\n]\n")
_LOOK_S = 0.02
_PAUSES_S = (0.5, 60.0)
_LIVED_WELL_S = 60.0
_DEATHS_TOO_MANY = 3
_TRIES_AT_THE_END = 3
_GRACE_S = 0.5
_LINGER_S = 300.0
"""For how long the child goes on when this process was killed."""
_NOT_FOR_THE_CHILD = (
    # The child follows runs, it is no process of theirs; and a warning in MLflow is no error.
    RUN_VARIABLE, HANDOVER_VARIABLE, SCRATCH_VARIABLE, "RANK", "LOCAL_RANK", "WORLD_SIZE",
    "PYTHONWARNINGS",
)  # fmt: skip

_DAMAGE = "damage"
"""What is wrong with the document itself, in place of what it says."""

_Order = dict[str, Any]


class RunMirrors:
    """The mirrors of one run, as its writer sees them.

    Parameters
    ----------
    folder
        The run.
    targets
        Where it is mirrored. Their options go to the child's stdin, and nowhere else.
    attempt
        Number of the run's present attempt, from 1.
    redact
        Takes credentials off texts before they are kept.
    """

    def __init__(
        self,
        folder: RunFolder,
        targets: Sequence["Target"],
        attempt: int,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._folder = folder
        self._targets = targets
        self._attempt = attempt
        self._redact = redact
        self._ended_at: str | None = None
        self._failed_at: dict[str, set[str]] = {}
        """When each was tried in vain since the end."""
        self._seen: dict[str, object] = {}
        self._failing: dict[str, object] = {}
        """When those that do not go on have said so."""
        self._refused: set[str] = set()

    def start(self) -> None:
        """Have the child mirror the run; called by the run's thread behind the first rows."""
        from experiment_tracking.backends.progress import begin

        with contextlib.suppress(OSError):  # The child will try it, too.
            for target in self._targets:
                begin(self._folder, target, self._redact)
        targets = [list(target) for target in self._targets]
        child().tell(self._folder.path, {"run": self._folder.path, "targets": targets})

    def look(self) -> None:
        """See to it that the child lives, and tell what has changed; every second or so."""
        child().look()
        for target in self._targets:
            self._look_at(target.name)

    def move_to(self, folder: RunFolder) -> None:
        """Have the run mirrored from another place."""
        child().forget(self._folder.path)
        self._folder = folder
        self._seen.clear()
        # Anew, for it holds claims and open files in the old place. It goes on where it stopped.
        child().kill()
        self.start()

    def stop(self) -> None:
        """Have the child leave the run alone; what is owed stays owed."""
        child().forget(self._folder.path)

    def end(self, status: str, error: Mapping[str, str] | None, ended_at: str) -> None:
        """Tell the child that all is written, and the status that the run will have."""
        self._ended_at = utc_now()
        path = self._folder.path
        child().tell(path, {"end": path, "status": status, "error": error, "ended_at": ended_at})

    def wait(self, deadline: float) -> dict[str, dict[str, Any]]:
        """Wait until every mirror is complete, has failed three times, or the time is over.

        Parameters
        ----------
        deadline
            On :func:`time.monotonic`'s clock.

        Returns
        -------
        dict
            By name, what the summary keeps: ``finished``, ``owed_bytes``, and if there are any
            ``owed_files`` and ``error``.
        """
        self._seen.clear()
        self._failed_at.clear()
        names = [target.name for target in self._targets]
        while names := [name for name in names if not self._is_settled(name)]:
            if time.monotonic() > deadline or child().is_hopeless:
                break
            time.sleep(_LOOK_S)
            child().look()
        accounts = {target.name: self._account(target.name) for target in self._targets}
        if all(account["finished"] for account in accounts.values()):
            child().forget(self._folder.path)
        return accounts

    def _is_settled(self, name: str) -> bool:
        document = self._changed_document(name)
        if document is None:
            return False
        if _DAMAGE in document:
            return True  # Nothing goes on before somebody has mended it.
        if document.get("attempt") != self._attempt:
            return False
        failures = self._failed_at.setdefault(name, set())
        if str(document.get("failed_at") or "") > str(self._ended_at):
            failures.add(str(document["failed_at"]))
        return bool(document.get("complete")) or len(failures) >= _TRIES_AT_THE_END

    def _account(self, name: str) -> dict[str, Any]:
        progress = self._progress(name)
        account: dict[str, Any] = {
            "finished": progress.complete,
            "owed_bytes": progress.owed_bytes,
        }
        if progress.owed_files:
            account["owed_files"] = progress.owed_files
        if progress.error:
            account["error"] = progress.error
        if not progress.complete:
            self._tell_owed(name, progress)
        elif name in self._failing:
            self._tell_recovered(name)
        return account

    def _progress(self, name: str) -> "Progress":
        from experiment_tracking.backends.progress import Progress, read_progress

        try:
            return read_progress(self._folder, name)
        except (OSError, DamagedError) as error:
            return Progress(False, self._history_bytes(), 0, str(error), True, None)

    def _history_bytes(self) -> int:
        with contextlib.suppress(OSError):
            return max(0, os.path.getsize(self._folder.history()) - _EMPTY_BYTES)
        return 0

    def _tell_owed(self, name: str, progress: "Progress") -> None:
        import shlex

        command = f"experiments push {shlex.quote(self._folder.path)}"
        if not os.path.lexists(self._folder.backend(name)):  # The disk did not take it.
            command += f" --to {name}"
        notice(
            f"run {self._folder.name!r}: {name} has not got everything in time "
            f"({self._why_owed(name, progress)}). Still owed: {_owed(progress)}. To pay: {command}"
        )

    def _why_owed(self, name: str, progress: "Progress") -> str:
        if progress.error and progress.failing:
            return progress.error
        if child().is_hopeless:
            return "the process that mirrors runs does not stay alive"
        state = self._document(name)
        # What an earlier attempt has given bears that one's number.
        has_given = state.get("rows") and state.get("attempt") == self._attempt
        return "it is still copying" if has_given else "it is still starting"

    def _document(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(OSError, DamagedError):
            return read_document(self._folder.backend(name))
        return {}

    # ------------------------------------------------------------------ what the child has noted

    def _look_at(self, name: str) -> None:
        document = self._changed_document(name)
        if document is None:
            return
        error = document.get("error") or document.get(_DAMAGE)
        noted_at = document.get("updated_at")
        if error and name not in self._failing:
            notice(
                f"run {self._folder.name!r}: {name} does not take it now ({error}). Training goes "
                "on, and it is tried again."
            )
        if error:
            self._failing[name] = noted_at
        elif name in self._failing and self._failing[name] != noted_at:  # not just begun anew
            self._tell_recovered(name)
        self._look_at_refused(name, document.get("refused") or [])

    def _tell_recovered(self, name: str) -> None:
        del self._failing[name]
        notice(f"run {self._folder.name!r}: {name} works again.")

    def _look_at_refused(self, name: str, refused: list[Mapping[str, Any]]) -> None:
        if refused and name not in self._refused:
            self._refused.add(name)
            first = refused[0]
            notice(
                f"run {self._folder.name!r}: {name} refuses {first.get('what')} "
                f"({first.get('reason')}); it is left out. backends/{name}.json lists all that is."
            )

    def _changed_document(self, name: str) -> dict[str, Any] | None:
        """Read what the child has noted of a mirror; None where nothing is new."""
        path = self._folder.backend(name)
        try:
            found = os.stat(path)
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._seen.get(name) == mark:
                return None
            document = read_document(path)
        except OSError:
            return None  # Not there yet; the child tells nothing so far.
        except DamagedError:
            document = {_DAMAGE: self._progress(name).error}  # and what to do
        self._seen[name] = mark
        return document


def _owed(progress: "Progress") -> str:
    """Name what is missing in a service; where all is there but the end, that."""
    files = progress.owed_files
    owed = [
        f"{progress.owed_bytes:,} bytes of rows" if progress.owed_bytes else "",
        f"{files} file{'' if files == 1 else 's'}" if files else "",
    ]
    return " and ".join(filter(None, owed)) or "its end"


class _Child:
    """The process that makes the mirrors: started when first needed, and again when it dies."""

    def __init__(self) -> None:
        # Re-entrant, for a signal handler that ends the run may interrupt any of this.
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: dict[str, list[_Order]] = {}
        """By run, what a child that is started anew must be told."""
        self._unsent = b""
        self._deaths = 0
        self._started_at = 0.0
        self._start_at = 0.0

    @property
    def is_hopeless(self) -> bool:
        """Whether it is gone once more, after several deaths in a row."""
        return self._process is None and self._deaths >= _DEATHS_TOO_MANY

    def tell(self, path: str, order: _Order) -> None:
        """Give an order about the run in ``path``, to later children too."""
        with self._lock:
            # An ending that was interrupted is told again, and the later one holds.
            known = [] if "run" in order else self._orders.get(path, [])[:1]
            self._orders[path] = [*known, order]
            if self._process is None:
                self.look()  # A new one is told all there is.
            else:
                self._send([order])

    def forget(self, path: str) -> None:
        """Have the run in ``path`` left alone."""
        with self._lock:
            if self._orders.pop(path, None) is not None:
                self._send([{"stop": path}])

    def look(self) -> None:
        """Start it where it should be and is not, and send what it could not take before."""
        with self._lock:
            process = self._process
            if process is None:
                if self._orders and time.monotonic() >= self._start_at:
                    self._start()
            elif process.poll() is not None:
                self._bury(process)
            else:
                self._send([])
                if time.monotonic() - self._started_at > _LIVED_WELL_S:
                    self._deaths = 0

    def _start(self) -> None:
        self._started_at = time.monotonic()
        try:
            self._process = _start_process()
        except (OSError, RuntimeError) as error:  # the latter while the interpreter goes down
            self._count_death(f"cannot be started ({error})")
            return
        _watch_forks()
        self._unsent = b""
        self._send([order for orders in self._orders.values() for order in orders])

    def _bury(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = None
        self._count_death(f"has ended ({_reason(process)})")
        _close_pipes(process)

    def _count_death(self, what: str) -> None:
        self._deaths += 1
        pause_s = min(_PAUSES_S[0] * 2 ** (self._deaths - 1), _PAUSES_S[1])
        self._start_at = time.monotonic() + pause_s
        if self._deaths == 1:
            notice(
                f"the process that mirrors runs {what}. It is started again; training goes on, and "
                "what is owed to a mirror at the end can be paid with: experiments push RUN"
            )

    def _send(self, orders: Sequence[_Order]) -> None:
        """Write without waiting: a child that hangs must not hold up the run."""
        process = self._process
        if process is None or process.stdin is None:
            return
        self._unsent += b"".join(orjson.dumps(order) + b"\n" for order in orders)
        # What it does not take stays for the next look; after its death the next is told all.
        with contextlib.suppress(OSError):
            while self._unsent:
                self._unsent = self._unsent[_write(process.stdin.fileno(), self._unsent) :]

    def end(self) -> None:
        """End it, by force where it does not follow; none is left when this returns."""
        with self._lock:
            self._send([{"stop": path} for path in self._orders])
            process = self._process
            self._orders, self._deaths = {}, 0
        if process is not None:
            _end_process(process)
            self._process = None  # Only now: Ctrl-C in the wait must not leave one behind.

    def kill(self) -> None:
        """End it at once; the next look or order starts another."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            _close_pipes(process)
            _kill(process)

    def let_go_in_fork(self) -> None:
        """Forget it in a forked process: it belongs to the one that forked."""
        process, self._process = self._process, None
        if process is not None:
            # As long as one fork keeps it open, the child is not told that its parent is gone.
            _close_pipes(process)
            process.returncode = 0  # or its Popen complains of a child that is not ours


_the_child = _Child()
_forks_watched = False


def child() -> _Child:
    """Return the child of this process, which may not be running yet."""
    return _the_child


def _watch_forks() -> None:
    global _forks_watched
    if not _forks_watched and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_fork)
    _forks_watched = True


def _in_fork() -> None:
    global _the_child
    _the_child.let_go_in_fork()
    _the_child = _Child()  # whose lock nobody holds


def _start_process() -> "subprocess.Popen[bytes]":
    """Start a child of low priority in a session of its own, so that Ctrl-C does not reach it."""
    import subprocess

    # For the end: an import behind Ctrl-C that makes named tuples, which takes eval, has Python
    # forget to end as killed by SIGINT, and a shell's loop goes on.
    import psutil  # noqa: F401

    if not sys.executable or getattr(sys, "frozen", False):
        raise FileNotFoundError("there is no Python interpreter to start")
    # Not "-m" with the working folder on the path: a stray logging.py there would be imported.
    words = [sys.executable, "-P", "-m", "experiment_tracking", "push"]
    words += ["--serve", str(os.getpid()), "--linger", str(_LINGER_S)]
    process = subprocess.Popen(
        words,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # until it serves
        env=_environment(),
        start_new_session=True,
    )
    for pipe in (process.stdin, process.stderr):
        if pipe is not None and os.name != "nt":
            os.set_blocking(pipe.fileno(), False)
    return process


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_THE_CHILD}
    return {**kept, "PYTHONPATH": os.pathsep.join(_import_path())}


def _import_path() -> list[str]:
    """List where this process imports from, but for what every process of its Python does."""
    import site
    import sysconfig

    own = {os.path.abspath(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")}
    own |= {os.path.join(path, "lib-dynload") for path in own}
    if hasattr(site, "getsitepackages"):  # which an older virtualenv's site lacks
        own |= {os.path.abspath(p) for p in (*site.getsitepackages(), site.getusersitepackages())}
    return [path for path in map(os.path.abspath, sys.path) if path not in own]


def _reason(process: "subprocess.Popen[bytes]") -> str:
    """Tell why a process ended: the last line that it said, of a traceback the error."""
    said = process.stderr.read() if process.stderr is not None else None
    lines = (said or b"").decode("utf-8", "replace").strip().splitlines()
    code = process.returncode
    return lines[-1][:300] if lines else f"signal {-code}" if code < 0 else f"exit code {code}"


def _write(fd: int, data: bytes) -> int:
    """Write to a pipe; where SIGPIPE has its default action, a dead reader is not our end."""
    import signal

    if not hasattr(signal, "pthread_sigmask"):
        return os.write(fd, data)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        return os.write(fd, data)
    except BrokenPipeError:
        if signal.SIGPIPE not in before and signal.SIGPIPE in signal.sigpending():
            signal.sigwait({signal.SIGPIPE})
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _end_process(process: "subprocess.Popen[bytes]") -> None:
    import subprocess

    try:
        _close_pipes(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    finally:  # Ctrl-C in the wait as well
        _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End it at once, with what the services' own packages have started."""
    from experiment_tracking.backends import processes

    if process.poll() is None:
        # Looked up before: nothing says later whose they were. Some have sessions of their own.
        started = processes.below(process.pid)
        process.kill()
        processes.kill(started)
        process.wait()
