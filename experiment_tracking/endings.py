"""How a process ends, and what that makes of the runs it left open.

Installed when the first run opens: an exit hook, a link in the chain of ``sys.excepthook``, a
SIGTERM handler where nobody else has one, a fork hook, and a cell hook in IPython. None of them
takes a lock that the code it interrupts may hold.
"""

import atexit
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Protocol

from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.notices import notice

Ending = tuple[str, dict[str, str] | None]
"""Status, and the error behind it."""


class Open(Protocol):
    """A writer that must be closed before the process is gone."""

    folder: RunFolder
    noted_ending: Ending | None
    thread: threading.Thread
    """The thread that opened it."""

    def close(
        self, status: str, error: dict[str, str] | None = None, *, hurry: bool = False
    ) -> None:
        """Finish the run with this status."""


class ForkAware(Protocol):
    """A run that a forked child inherits."""

    def continue_in_child(self) -> None:
        """Let go of the parent's files; called in the child."""


class _Process:
    """What is known of how this process is going to end."""

    def __init__(self) -> None:
        self.pid = 0
        self.open: dict[int, Open] = {}
        self.runs: weakref.WeakSet[Any] = weakref.WeakSet()
        self.ending: Ending | None = None
        self.cell_hook_installed = False
        self.opened = 0
        self.signal_masks: dict[int, set[int]] = {}


_process = _Process()


def opened(writer: Open, run: ForkAware) -> None:
    """Remember an open run and see to it that its end is noticed."""
    if _process.pid != os.getpid():
        _install()
    _process.open[id(writer)] = writer
    _process.opened += 1
    _process.runs.add(run)
    _watch_terminations()
    _watch_cells()


def ended(writer: Open) -> None:
    """Forget a run that has been closed."""
    _process.open.pop(id(writer), None)
    if not _process.open:
        _give_sigterm_back()


def runs_opened() -> int:
    """Return how many runs this process has opened so far."""
    return _process.opened


def open_writers() -> list[Open]:
    """Return the open runs of this process, the newest first."""
    if _process.pid != os.getpid():
        return []
    return list(reversed(_process.open.values()))


def open_runs() -> list[Any]:
    """Return what the user holds of the open runs of this process."""
    return [run for run in list(_process.runs) if not run._writer.ended]


def ending_of(error: BaseException | None) -> Ending:
    """Tell the status of a run whose ``with`` block was left by ``error``."""
    if error is None or (isinstance(error, SystemExit) and error.code in (0, None)):
        return "finished", None
    if isinstance(error, KeyboardInterrupt) or (
        isinstance(error, SystemExit) and _process.ending and _process.ending[0] == "killed"
    ):
        return "killed", _process.ending[1] if _process.ending else _described(error)
    return "failed", _described(error)


def _described(error: BaseException) -> dict[str, str]:
    from experiment_tracking.capture.redaction import redact_text

    message = redact_text(str(error)[:2000])[:1000]
    return {"type": type(error).__name__, "message": message}


def _install() -> None:
    first = _process.pid == 0
    _process.pid = os.getpid()
    if not first:
        return
    atexit.register(_close_all)
    _chain_excepthook()
    _chain_thread_excepthook()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_before_fork, after_in_parent=_let_sigterm_in, after_in_child=_in_child
        )


def before_executors_stop(hook: Callable[[], None]) -> None:
    """Call ``hook`` at exit while thread pools still take work.

    ``atexit`` comes too late for that: by then ``concurrent.futures`` refuses new work.
    """
    # Hooks run last in, first out, so the pool's own has to be in before ours.
    import concurrent.futures.thread  # noqa: F401

    register: Callable[..., Any] = getattr(threading, "_register_atexit", atexit.register)
    register(hook)


def other_threads_at_work() -> bool:
    """Tell whether a thread that the interpreter will wait for is still running."""
    import concurrent.futures.thread as pools

    idle_workers = set(pools._threads_queues)
    known = {threading.main_thread(), threading.current_thread(), *idle_workers}
    return any(not t.daemon and t not in known for t in threading.enumerate())


def present_ending(writer: Open) -> Ending:
    """Tell how a run that nobody ended stands now: as its process does, or its last cell."""
    return _process.ending or writer.noted_ending or _shown_ending() or ("finished", None)


def _shown_ending() -> Ending | None:
    """Tell what the interpreter printed, where a hook put over ours did not pass it on."""
    error = None if interactive() else getattr(sys, "last_value", None)
    return ending_of(error) if error is not None else None


def _close_all() -> None:
    for writer in open_writers():
        try:
            writer.close(*present_ending(writer))
        except (KeyboardInterrupt, SystemExit):
            # Told to end once more. What readers can compute is left; the status is not.
            writer.close(*present_ending(writer), hurry=True)
        except Exception as problem:  # One run's trouble must not keep the others open.
            notice(f"run {writer.folder.name!r} could not be ended ({problem}).")


def _chain_excepthook() -> None:
    previous = sys.excepthook

    def note_and_pass_on(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        _process.ending = ending_of(error)
        previous(kind, error, traceback)

    sys.excepthook = note_and_pass_on


def _chain_thread_excepthook() -> None:
    previous = threading.excepthook

    def note_and_pass_on(args: threading.ExceptHookArgs) -> None:
        for writer in open_writers():
            if writer.thread is args.thread:
                writer.noted_ending = ending_of(args.exc_value)
        previous(args)

    threading.excepthook = note_and_pass_on


def _watch_terminations() -> None:
    if threading.current_thread() is not threading.main_thread() or _in_a_pool():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)


def _in_a_pool() -> bool:
    """Tell whether multiprocessing started this process.

    It ends its workers by SIGTERM and waits for them; one that has a handler misses a signal
    that comes right before it waits for a task, and then both wait for ever.
    """
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    # Takes no lock and writes nothing: whatever was interrupted may hold any of ours.
    _process.ending = ("killed", {"type": "Signal", "message": "SIGTERM"})
    raise SystemExit(143)


def _give_sigterm_back() -> None:
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _before_fork() -> None:
    # A child forgets the signals that it gets before it has settled; with the default action
    # they kill, with a handler like ours they would be lost, and Pool.terminate waits for ever.
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        _process.signal_masks[threading.get_ident()] = set(mask)


def _let_sigterm_in() -> None:
    mask = _process.signal_masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    _process.open.clear()
    _process.ending = None
    for run in list(_process.runs):
        run.continue_in_child()
    _give_sigterm_back()
    _let_sigterm_in()


def interactive() -> bool:
    """Tell whether a person types at this process: a notebook, IPython or a prompt."""
    return _ipython() is not None or hasattr(sys, "ps1")


def _ipython() -> Any:
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def _watch_cells() -> None:
    shell = _ipython()
    if shell is None or _process.cell_hook_installed:
        return
    _process.cell_hook_installed = True
    shell.events.register("post_run_cell", _after_cell)


def _after_cell(result: Any) -> None:
    """Note a failing cell; one that succeeds afterwards takes the note back."""
    error = result.error_in_exec or result.error_before_exec
    for writer in open_writers():
        writer.noted_ending = ending_of(error) if error is not None else None
