"""The threads that read a history as it grows, beside the loop that writes it.

:class:`Follower` is the run's own thread: bounded work of ours (digest, heartbeat, TensorBoard),
in slices short enough that a training loop does not notice. :class:`BackendFollower` gives a
custom backend a thread of its own, so that its waiting holds up nobody.
"""

import functools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from experiment_tracking.backends.interface import BoundBackend
from experiment_tracking.errors import in_words
from experiment_tracking.folder.history import START, HistoryWriter, Row
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.notices import notice

_SLICE_S = 1e-4
_SHARE = 0.05
_SHARE_BEHIND = 0.25
_BEHIND_S = 10.0
_IDLE_S = 0.1
_BREATH_S = 0.005
_LONGEST_REST_S = 1.0  # the duties wait as well
_SLICE_BYTES = range(1024, 64 * 1024)
_CATCH_UP_BYTES = 512 * 1024
_REREAD_BYTES = 2 * 1024
_REREAD_SHARE = 0.8


class OutOfTimeError(Exception):
    """A run is ending, and what takes all its rows again would pass the bound."""


class Tail:
    """Read the rows that this process appends, never beyond the end its writer announced.

    Parameters
    ----------
    writer
        Writer of the history.
    on_bytes
        Called with the bytes read, in order and without gaps, from the start of the file.
    """

    def __init__(
        self, writer: HistoryWriter, on_bytes: Callable[[bytes], Any] | None = None
    ) -> None:
        self.writer = writer
        self.offset = START
        self.deadline = math.inf
        """Until when rows may be read again, on :func:`time.monotonic`'s clock."""
        self._on_bytes = on_bytes

    @property
    def behind_bytes(self) -> int:
        """Bytes that were appended and not read yet."""
        return self.writer.end - self.offset

    def next(self, max_bytes: int, until: int | None = None) -> list[Row]:
        """Return the next rows, about ``max_bytes`` of them and at least one if there is one.

        None that stands behind the offset ``until``, which is the end of a row.
        """
        end = self.writer.end if until is None else until
        if end <= self.offset:
            return []
        data = self._read(self.offset, max_bytes, end)
        rows = _parse(data)
        if self._on_bytes is not None:
            self._on_bytes(data)
        self.offset += len(data)
        return rows

    def _read(self, start: int, max_bytes: int, end: int) -> bytes:
        length = min(end - start, max_bytes)
        data = self.writer.read(start, length)
        if start + length == end:
            return data
        # Rows are separated by ",\n", which stands nowhere inside one.
        cut = data.rfind(b",\n")
        return data[:cut] if cut > 0 else self._read(start, 2 * max_bytes, end)

    def rows_ahead(self, max_bytes: int) -> list[Row]:
        """Return the last rows that have not been read yet, without moving on.

        At most about ``max_bytes`` of them. For any thread.
        """
        reached, end = self.offset, self.writer.end
        start = max(reached, end - max_bytes)
        data = self.writer.read(start, end - start)
        return _parse(data if start == reached else data[data.find(b",\n") :])

    def rows_so_far(self) -> Iterator[Row]:
        """Iterate over all rows that have been read, again, a few in memory at a time.

        Raises
        ------
        OutOfTimeError
            Past :attr:`deadline`.
        """
        start, end = START, self.offset
        self.breathe()
        while start < end:
            data = self._read(start, _REREAD_BYTES, end)
            start += len(data)
            rows = _parse(data)
            self.breathe()
            yield from rows
            self.breathe()

    def breathe(self) -> None:
        """Let other threads have the interpreter, in the middle of work on all rows.

        Raises
        ------
        OutOfTimeError
            Past :attr:`deadline`.
        """
        if time.monotonic() > self.deadline:
            raise OutOfTimeError("the time for going through all rows again is over")
        time.sleep(0)


def _parse(data: bytes) -> list[Row]:
    rows: list[Row] = orjson.loads(b"[" + data.lstrip(b",\n") + b"]")
    return rows


class Duty:
    """Something to be done every so often."""

    def __init__(self, interval_s: float, action: Callable[[], Any]) -> None:
        self.interval_s = interval_s
        self.action = action
        self.due_at = time.monotonic() + interval_s


class Follower:
    """The run's own thread.

    Works in slices of at most 0.1 ms and lets go of the interpreter between them (a caller who
    comes back from a write otherwise waits out a switch interval of 5 ms). It takes 5 % of the
    time, 25 % while more than 10 s behind.

    Parameters
    ----------
    name
        Name of the thread.
    tail
        Where rows come from.
    takers
        Each is called with every batch of rows, in order. One that raises is left out from then
        on, with a notice; the others go on.
    duties
        Done when due, rows or no rows.
    first
        Done once, before anything else: capture.
    on_abandoned
        Called by this thread once :attr:`abandoned` has been set, holding no lock.
    """

    def __init__(
        self,
        name: str,
        tail: Tail,
        takers: Sequence[Callable[[list[Row]], Any]],
        duties: Sequence[Duty],
        first: Callable[[], Any],
        on_abandoned: Callable[[], Any],
    ) -> None:
        self.name = name
        self.tail = tail
        self.takers = list(takers)
        self.duties = list(duties)
        self.calls: deque[Callable[[], Any]] = deque()
        """Things to be done once, in order, by this thread."""
        self.stopped = False
        self.abandoned = False
        self.interrupted = False
        """Whether a batch may be half taken: :meth:`catch_up` was left by an exception, or a
        taker gave up at the bound."""
        # Held while working, so that whoever ends the run does the rest itself without waiting
        # for a sleeping thread. Re-entrant for signal handlers.
        self.lock = threading.RLock()
        self._first: Callable[[], Any] | None = first
        self._on_abandoned = on_abandoned
        self._slice_bytes = _SLICE_BYTES[-1] // 8
        self._gave_up = False
        self._unreadable = False
        self._pieces_s: list[float] = []
        """Seconds for which each piece of the last slice held the interpreter."""
        self._level_at = time.monotonic()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name=self.name, daemon=True).start()

    def _run(self) -> None:
        # The first rows are usually logged now; reading git and packages can wait this long.
        time.sleep(0.005)
        with self.lock:
            self._begin()
        while not self.stopped:
            time.sleep(self._work())
            if self.abandoned:
                self._on_abandoned()

    def settle(self) -> None:
        """Do now, in the caller's thread, what the run's thread would do first."""
        with self.lock:
            self._begin()
            while self.calls:
                self._attempt(self.calls.popleft())

    def _begin(self) -> None:
        first, self._first = self._first, None
        if first is not None:
            self._attempt(first)

    def _work(self) -> float:
        """Do one slice; return for how long to rest."""
        with self.lock:
            if self.stopped:
                return 0.0
            self._take(self._slice_bytes)
            pieces_s = self._pieces_s
            self._do_calls_and_duties()
        self._fit_slice(max(pieces_s))
        if self.tail.behind_bytes <= 0:
            self._level_at = time.monotonic()
            return _BREATH_S if self.calls else _IDLE_S
        behind = time.monotonic() - self._level_at > _BEHIND_S
        share = _SHARE_BEHIND if behind else _SHARE
        return min(sum(pieces_s) * (1 / share - 1), _LONGEST_REST_S)

    def _fit_slice(self, longest_s: float) -> None:
        if longest_s > _SLICE_S:
            self._slice_bytes = max(self._slice_bytes // 2, _SLICE_BYTES[0])
        elif longest_s < _SLICE_S / 2:
            self._slice_bytes = min(self._slice_bytes * 2, _SLICE_BYTES[-1])

    def _take(self, max_bytes: int) -> bool:
        self._pieces_s = []
        rows = self._timed(self._next_rows, max_bytes)
        if not rows:
            return False
        for taker in list(self.takers):
            time.sleep(0)
            try:
                self._timed(taker, rows)
            except OutOfTimeError:
                self._gave_up = self.stopped = True
                return False
            except Exception as error:
                self.takers.remove(taker)
                _report(f"{self.name}: following the history stopped", error)
        return True

    def _timed(self, action: Callable[..., Any], *args: Any) -> Any:
        # Piece by piece: the sleep(0) between them takes longer than a piece and delays nobody.
        started = time.perf_counter()
        try:
            return action(*args)
        finally:
            self._pieces_s.append(time.perf_counter() - started)

    def _next_rows(self, max_bytes: int) -> list[Row]:
        try:
            rows = self.tail.next(max_bytes)
        except (OSError, ValueError) as error:
            if not self._unreadable:
                _report(f"{self.name}: its rows cannot be read back; trying on", error)
            self._unreadable = True
            return []
        self._unreadable = False
        return rows

    def _do_calls_and_duties(self) -> None:
        # Those that stand there now: one that has more to do comes again in a later slice.
        for _ in range(len(self.calls)):
            self._attempt(self.calls.popleft())
        for duty in self.duties:
            if time.monotonic() >= duty.due_at:
                duty.due_at = time.monotonic() + duty.interval_s
                self._attempt(duty.action)

    def _attempt(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            _report(f"{self.name}: a background task failed", error)

    def catch_up(self, timeout_s: float) -> bool:
        """Do what is still to do, in the caller's thread, and stop.

        Returns False if that took longer than ``timeout_s``: after very many rows, or when the
        thread hangs in a file system that does not answer. What has to go through all rows again,
        the thread's work of this moment too, gets the larger part of that time and is given up.
        """
        deadline = time.monotonic() + timeout_s
        self.tail.deadline = deadline - (1 - _REREAD_SHARE) * timeout_s
        if not self.lock.acquire(timeout=timeout_s):
            self.stopped = True
            return False
        try:
            self.interrupted = True  # until its end: Ctrl-C may come in the middle of a batch
            self.stopped = True
            self._begin()
            while not self._gave_up and time.monotonic() < deadline and self._take(_CATCH_UP_BYTES):
                pass
            while time.monotonic() < deadline and self.calls:
                self._attempt(self.calls.popleft())
            self.interrupted = self._gave_up
            return not self.tail.behind_bytes and not self.calls and not self._gave_up
        finally:
            self.lock.release()


class BackendFollower:
    """A custom backend's thread: rows in file order, other calls where they stood among them.

    Parameters
    ----------
    backend
        The backend, its signatures checked.
    writer
        Writer of the history.
    redact
        Takes credentials off what the backend says of its errors.
    """

    def __init__(
        self, backend: BoundBackend, writer: HistoryWriter, redact: Callable[[str], str] = str
    ) -> None:
        self.backend = backend.for_one_run()
        self._redact = redact
        self.tail = Tail(writer)
        self.error: str | None = None
        self.finished = False
        self._calls: deque[tuple[int, Callable[[], Any]]] = deque()
        self._run_path = ""
        self._ending = False
        self._given_up = False
        self._wake = threading.Semaphore(0)
        # What is waited for, and not the thread: Ctrl-C in a join makes a thread look ended.
        self._done = threading.Event()

    def start(self, *args: Any, **known: Any) -> None:
        """Start the thread, which calls ``start_run`` with these before it gives any row."""
        self._run_path = known.get("path", "")
        self._calls.appendleft((START, functools.partial(self.backend.start_run, *args, **known)))
        name = f"backend {self.backend.name}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, method: str, *args: Any, **known: Any) -> None:
        """Have one method called behind the rows logged so far; none behind the end."""
        if self._ending:  # An end that Ctrl-C interrupted is begun anew.
            return
        give = self._give_model if method == "log_model" else getattr(self.backend, method)
        action = functools.partial(give, *args, **known)
        self._calls.append((self.tail.writer.end, action))

    def _give_model(self, model: Any, path: Any, **known: Any) -> None:
        """Give the newest save alone: the run saves over and over, and keeps earlier ones."""
        # It loads OpenSSL, for which a run that starts does not wait.
        from experiment_tracking.backends.kept_files import known_of_model, newest_save

        above = os.path.join(RunFolder(self._run_path).backends, f".{id(self):x}-model")
        with newest_save(str(path), above) as (alone, document):
            known |= known_of_model(document)
            self.backend.log_model(type(model)(alone), alone, **known)

    def end(self, status: str, **known: Any) -> None:
        """Have ``end_run`` called behind everything else, once; does not wait."""
        self.call("end_run", status, **known)
        self._ending = True
        self._wake.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the backend has everything; tell whether it does. It gets no more then."""
        deadline = time.monotonic() + timeout_s
        # In pieces, for a signal that comes on the threshold of a wait does not end it.
        while not self._done.wait(max(0.0, min(_IDLE_S, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                break
        self._given_up = not self.finished
        return self.finished

    def _run(self) -> None:
        self._follow()
        self._attempt(self.backend.close)
        self.backend.in_use = False
        self._done.set()

    def _follow(self) -> None:
        while not self._given_up:
            ending = self._ending  # asked before the step: what comes with the end is still done
            try:
                worked = self._step()
            except OSError as error:
                # The run has ended and closed its file: this backend was past its bound.
                self.error = self.error or self._told(error)
                return
            if ending and not worked:
                self.finished = True
                return
            if not worked:
                self._wake.acquire(timeout=_IDLE_S)

    def _step(self) -> bool:
        due = self._calls[0][0] if self._calls else None
        if due is not None and self.tail.offset >= due:
            self._attempt(self._calls.popleft()[1])
            return True
        rows = self.tail.next(16 * 1024, due)
        # Row by row, so that one which raises does not take the rest of its batch with it.
        for batch in [rows] if self.backend.takes_batches else [[row] for row in rows]:
            self._attempt(self.backend.log_batch, batch)
        return bool(rows)

    def _attempt(self, action: Callable[..., Any], *args: Any) -> None:
        try:
            action(*args)
        except Exception as error:
            if self.error is None:
                notice(
                    f"backend {self.backend.name!r} failed ({self._told(error)}). What it was "
                    "given then is missing there; the run's folder has it. Training goes on, and "
                    "so does the backend; its later errors are not shown."
                )
            self.error = self._told(error)

    def _told(self, error: Exception) -> str:
        return self._redact(in_words(error))


def _report(what: str, error: Exception) -> None:
    notice(f"{what} ({type(error).__name__}: {error}).")
