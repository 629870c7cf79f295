"""The process that makes the mirrors of all runs of a training process, told by its stdin.

Each line is one order, as JSON: ``{"run": path, "targets": [[backend, options, name], ...]}``,
``{"end": path, "status": ..., "error": ..., "ended_at": ...}`` or ``{"stop": path}``. It outlives
the training process by what is still to be copied, and a bound.
"""

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from experiment_tracking.backends.catalog import Target
from experiment_tracking.backends.mirror import Mirror, Orders
from experiment_tracking.errors import BackendBusyError
from experiment_tracking.folder.layout import RunFolder

_LOOK_S = 1.0
_NICENESS = 10
_LEFT_TO_CLOSE_S = 5.0

NewMirror = Callable[[RunFolder, Target, Orders], Mirror]


def serve(
    lines: Iterable[bytes], parent: int, new_mirror: NewMirror, linger_s: float = 300.0
) -> None:
    """Make the mirrors that the orders tell of; return when there is nothing left to do.

    Parameters
    ----------
    lines
        The orders, as they come.
    parent
        Pid of the process that gives them. When it is gone, or the lines end, what is there is
        copied to its end.
    new_mirror
        Makes a mirror of a run.
    linger_s
        For how long that may take, in seconds.
    """
    _keep_out_of_the_way()
    server = _Server(new_mirror)
    for line in _while_parent_lives(lines, parent):
        with contextlib.suppress(orjson.JSONDecodeError):  # the line it died in
            server.obey(orjson.loads(line))
    server.finish(time.monotonic() + linger_s)


def _keep_out_of_the_way() -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.nice(_NICENESS)
    # A scheduler sends its signal to all processes of a job; ours has its bound, and the ending
    # of the training process to copy. No SIG_IGN: what services start would inherit that.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)


def _while_parent_lives(lines: Iterable[bytes], parent: int) -> Iterable[bytes]:
    """Yield the lines until they end, or the parent does.

    A forked worker of the parent may hold the other end of the pipe open long after it.
    """
    arrived: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_put_all, args=(lines, arrived), daemon=True).start()
    while True:
        try:
            line = arrived.get(timeout=_LOOK_S)
        except queue.Empty:
            # On Windows the number stays the same, but there are no forks: the lines end.
            if os.getppid() != parent:
                return
            continue
        if line is None:
            return
        yield line


def _put_all(lines: Iterable[bytes], arrived: "queue.SimpleQueue[bytes | None]") -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in lines:
            arrived.put(line)
    arrived.put(None)


class _Server:
    """Every mirror that is being made, by the run's path."""

    def __init__(self, new_mirror: NewMirror) -> None:
        self._new_mirror = new_mirror
        self._jobs: dict[str, list[_Job]] = {}

    def obey(self, order: Mapping[str, Any]) -> None:
        """Do what one line says."""
        if "run" in order:
            self._start(order["run"], [Target(*target) for target in order["targets"]])
        elif "end" in order:
            for job in self._jobs.get(order["end"], []):
                job.orders.end(order["status"], order["error"], order["ended_at"])
        elif "stop" in order:
            for job in self._jobs.get(order["stop"], []):
                job.orders.stop()

    def _start(self, path: str, targets: list[Target]) -> None:
        earlier = self._jobs.get(path, [])
        for job in earlier:
            job.orders.stop()
        self._jobs[path] = [_Job(path, t, self._new_mirror, earlier) for t in targets]

    def finish(self, deadline: float) -> None:
        """Have every mirror come to its end by ``deadline``, and wait for that."""
        jobs = [job for jobs in self._jobs.values() for job in jobs]
        for job in jobs:
            job.orders.deadline = deadline
        for job in jobs:
            at = time.monotonic() if job.orders.over else deadline
            job.thread.join(max(0.0, at + _LEFT_TO_CLOSE_S - time.monotonic()))


class _Job:
    """One mirror, made in a thread of its own."""

    def __init__(
        self, path: str, target: Target, new_mirror: NewMirror, earlier: list["_Job"]
    ) -> None:
        self.orders = Orders()
        self._folder = RunFolder(path)
        self._target = target
        self._new_mirror = new_mirror
        self._earlier = earlier
        self.thread = threading.Thread(target=self._run, name=f"mirror {target.name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for job in self._earlier:  # of the same run, which it has let go of then
            job.thread.join()
        seen = 0
        while not self.orders.over:
            try:
                self._new_mirror(self._folder, self._target, self.orders).run(follow=True)
            except BackendBusyError:
                # Another process is at it; should it let go or die, we go on.
                seen = self.orders.wait(_LOOK_S, seen)
            else:
                return
