"""The writer behind a run: everything that stays when the user drops the ``Run`` object.

It owns the run's folder: its documents, its history, the threads that follow it. The writers of
further processes, which take the same calls, are in ``joining.py``.
"""

import atexit
import contextlib
import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import TYPE_CHECKING, Any

from experiment_tracking import endings
from experiment_tracking.backends.following import BackendFollower, Duty, Follower, Tail
from experiment_tracking.capturing import RunCapture, RunConsole, SystemSamples
from experiment_tracking.endings import Ending
from experiment_tracking.errors import RunBusyError, WriteError
from experiment_tracking.files import RunFiles
from experiment_tracking.folder import io, layout
from experiment_tracking.folder.amendments import Corrections
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.documents import Document, read_document, utc_now
from experiment_tracking.folder.hashing import Sha256
from experiment_tracking.folder.history import START, HistoryWriter, Row
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import Heartbeat, Writer, read_heartbeat, status_of
from experiment_tracking.folder.throughput import Throughput
from experiment_tracking.folder.values import Number, from_stored, shown_name
from experiment_tracking.notices import notice
from experiment_tracking.settings import Identity, Settings

if TYPE_CHECKING:
    from experiment_tracking.backends.events import EventFiles
    from experiment_tracking.mirroring import RunMirrors

_WAITS = {
    "rows": "up to 8 MB of rows wait in memory until it works again.",
    "files": "the summary counts the files that are lost.",
    "TensorBoard's files": "they are written anew when it works again.",
}
_DURABLE_EVERY_S = 1.0
_SUMMARY_EVERY_S = 5.0
_HEARTBEAT_EVERY_S = 10.0
_NETWORK_EVERY_S = 30.0
_CODE_EVERY_S = 60.0
_FIRST_SAMPLE_S = 1.0
_MIRRORS_EVERY_S = 1.0
_WAKING_S = 0.5
_EXIT_BOUND_S = 10.0
_HURRIED_BOUND_S = 0.5


class RunWriter:
    """Write one run folder; made by :meth:`create` or :meth:`resume`.

    Lock order, first to last: closing, follower, document, history. No path from a signal
    handler, a finalizer or an exit hook takes a plain lock; these four are re-entrant.
    """

    history: HistoryWriter

    def __init__(
        self, folder: RunFolder, documents: Mapping[str, dict[str, Any]], settings: Settings
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.ended = False
        self.noted_ending: Ending | None = None
        self.requested_name = folder.name
        self.thread = threading.current_thread()
        self.summary = Document(folder.summary, documents["summary"])
        self.params = Document(folder.params, documents["params"])
        self.artifacts = Document(folder.artifact_list, documents["artifacts"])
        self.environment = Document(folder.environment, documents["environment"])
        self.inputs = Document(folder.inputs, documents["inputs"])
        self.files = RunFiles(self)
        self.capture = RunCapture(self) if settings.auto_log else None
        self.console = RunConsole(self) if settings.capture_console else None
        self.samples: SystemSamples | None = None
        self.mirrors: RunMirrors | None = None
        self._closing = threading.RLock()
        self._in_closing = False
        self.expects_successor = False
        """Whether another process is meant to take the run over."""
        self._taken_over = False
        self._rows_at_takeover = 0
        self._troubles: set[str] = set()
        self._heartbeat = Heartbeat(folder.heartbeat)
        self._opened_at = time.monotonic()
        self._ended = "", 0.0
        """When the run ended, and after how many seconds."""
        self._sha256 = Sha256(b"[")
        self._lost_rows = documents["summary"].get("lost", {}).get("rows", 0)
        self._rows = 0
        self._saved_rows = 0

    # ------------------------------------------------------------------ opening

    @classmethod
    def create(cls, folder: RunFolder, identity: Identity, settings: Settings) -> "RunWriter":
        """Write the first documents of a newly made folder; the summary last, as the sign."""
        now = utc_now()
        summary: dict[str, Any] = {
            "format": layout.FORMAT,
            "id": os.urandom(8).hex(),
            "name": folder.name,
            "project": folder.project,
            "status": "running",
            "created_at": now,
            "ended_at": None,
            "duration_s": None,
            "tags": dict(identity.tags),
            "notes": identity.notes,
            "group": identity.group,
            "parent": identity.parent,
            "attempts": [_new_attempt(now)],
            "goals": {},
            "metrics": {},
            "history": {"digested_bytes": 0, "rows": 0},
            **identity.facts,
        }
        documents = {
            "summary": summary,
            "params": identity.params,
            "artifacts": {"artifacts": []},
            "environment": {},
            "inputs": {"inputs": []},
        }
        self = cls(folder, documents, settings)
        self._heartbeat.beat()
        self.params.save()
        self.history = HistoryWriter.create(folder.history(), on_trouble=self._history_trouble)
        self.summary.save()
        self._follow()
        return self

    @classmethod
    def resume(
        cls, folder: RunFolder, identity: Identity, settings: Settings, *, force: bool = False
    ) -> "RunWriter":
        """Open a further attempt of an existing run, which takes in how others corrected it.

        Raises
        ------
        RunBusyError
            If its writer lives: with its pid on this machine; elsewhere while its heartbeat is
            younger than 5 minutes, unless the scheduler says that this is its restart.
        """
        documents = read_documents(folder)
        _check_nobody_writes(folder, documents["summary"], force=force)
        corrections = Corrections(folder)
        corrections.fold_into(documents["summary"], documents["params"])
        self = cls(folder, documents, settings)
        self._begin_attempt(identity)
        self._heartbeat.beat()
        corrections.take_in(self.summary, self.params)
        number = len(self.summary.value["attempts"])
        self.history = HistoryWriter.reopen(
            folder.history(), marks={"attempt": number}, on_trouble=self._history_trouble
        )
        self.history.last_step = corrections.last_step(self.history.last_step)
        self.summary.save()
        self._follow()
        if self.tensorboard is not None:
            self.follower.calls.append(self.tensorboard.show_files)
        return self

    @classmethod
    def adopt(cls, folder: RunFolder, identity: Identity, settings: Settings) -> "RunWriter":
        """Go on with a run that was opened for this process, in the same attempt.

        What the opener was told (tags, notes, group, parent) counts before what is told here.
        """
        self = cls(folder, read_documents(folder), settings)
        summary, writer = self.summary.value, Writer.this_process()
        summary["tags"] = {**identity.tags, **summary.get("tags", {})}
        for key in ("notes", "group", "parent"):
            summary[key] = summary.get(key) or getattr(identity, key)
        summary["attempts"][-1] |= {"host": writer.host, "pid": writer.pid}
        # Those on disk were read off the command line; the script knows better.
        self.params.value = identity.params
        self._heartbeat.beat()
        self.params.save()
        self.history = HistoryWriter.reopen(folder.history(), on_trouble=self._history_trouble)
        self.summary.save()
        self._follow()
        return self

    def _begin_attempt(self, identity: Identity) -> None:
        now = utc_now()
        summary = self.summary.value
        summary |= {"status": "running", "ended_at": None, "duration_s": None}
        summary["tags"] = {**summary.get("tags", {}), **identity.tags}
        summary["notes"] = identity.notes or summary.get("notes", "")
        attempts = summary.setdefault("attempts", [])
        if attempts and attempts[-1].get("status") == "running":
            attempts[-1]["status"] = "crashed"
        attempts.append(_new_attempt(now))
        summary.pop("error", None)
        # The whole file is read again: the digest is derived, and so is TensorBoard.
        summary["metrics"] = {}
        summary["history"] = {"digested_bytes": 0, "rows": 0}

    def _follow(self) -> None:
        # The thread holds this writer, never the Run: dropping the Run can so be noticed.
        self.tail = Tail(self.history, lambda data: self._sha256.update(data))
        self.digest = Digest(self.tail.rows_so_far, goals=self.summary.value.get("goals"))
        self.throughput = Throughput()
        self.tensorboard = self._event_files() if self.settings.use_tensorboard else None
        network = io.on_network(self.folder.path)
        beat_s = _NETWORK_EVERY_S if network else _HEARTBEAT_EVERY_S
        takers: list[Callable[[list[Row]], None]] = [self._take_rows]
        duties = [
            Duty(_DURABLE_EVERY_S, self._keep_durable),
            Duty(beat_s, self._beat),
            Duty(_NETWORK_EVERY_S if network else _SUMMARY_EVERY_S, self._save_digest),
        ]
        if self.tensorboard is not None:
            takers.append(self.tensorboard.take)
            duties.append(Duty(_DURABLE_EVERY_S, self.tensorboard.flush))
        duties += self._capture_duties() + self._mirror_duties()
        first = self.capture.begin if self.capture else _nothing
        self.follower = Follower(
            f"run {self.folder.name}", self.tail, takers, duties, first, self._close_abandoned
        )
        self.backends = [
            BackendFollower(b, self.history, _redacted) for b in self.settings.backends
        ]
        for backend in self.backends:
            self._start_backend(backend)
        if self.backends:
            endings.before_executors_stop(self._close_before_executors_stop)
        if self.mirrors is not None:
            self.follower.calls.append(self.mirrors.start)
        self.follower.start()
        if self.console is not None:
            self.console.start()

    def _capture_duties(self) -> list[Duty]:
        if self.capture is None:
            return []
        duties = [Duty(_CODE_EVERY_S, self.capture.look_again)]
        interval_s = self.settings.system_interval_s
        if interval_s is not None:
            self.samples = SystemSamples(self, len(self.summary.value["attempts"]))
            sampling = Duty(interval_s, self.samples.take)
            # A short run has a sample, too; a very short one does not wait for psutil.
            sampling.due_at = time.monotonic() + _FIRST_SAMPLE_S
            duties.append(sampling)
        return duties

    def _mirror_duties(self) -> list[Duty]:
        if not self.settings.mirrors:
            return []
        from experiment_tracking.mirroring import RunMirrors

        attempt = len(self.summary.value["attempts"])
        self.mirrors = RunMirrors(self.folder, self.settings.mirrors, attempt, _redacted)
        return [Duty(_MIRRORS_EVERY_S, self.mirrors.look)]

    def _event_files(self) -> "EventFiles":
        from experiment_tracking.backends.events import EventFiles

        return EventFiles(
            self.folder,
            self.params,
            self.artifacts,
            self.tail,
            self.digest,
            self._tensorboard_trouble,
        )

    def _tensorboard_trouble(self, error: OSError | None) -> None:
        if error is None:
            self._recovered("TensorBoard's files")
        else:
            self._trouble_in_background("TensorBoard's files", error)

    def _start_backend(self, follower: BackendFollower) -> None:
        summary = self.summary.value
        follower.start(
            self.folder.name,
            dict(self.params.value),
            project=self.folder.project,
            run_id=summary["id"],
            path=self.folder.path,
            tags=dict(summary["tags"]),
            group=summary["group"],
            notes=summary["notes"],
            parent=summary["parent"],
            created_at=summary["created_at"],
            attempt=len(summary["attempts"]),
            rows=0,
            state={},
        )

    # ------------------------------------------------------------------ writing

    def append(
        self, values: Mapping[str, Number | str], step: int | None, timestamp: float | None
    ) -> None:
        """Append one row; see :meth:`HistoryWriter.append`."""
        self.history.append(values, step, timestamp)

    def change(self, document: Document, edit: Callable[[dict[str, Any]], object]) -> None:
        """Have ``edit`` change a document's content; the file is replaced before this returns.

        A disk that refuses is warned about once; the change waits in memory and the run's
        thread writes it later.
        """
        try:
            document.update(edit)
        except OSError as error:
            if error.errno is None:
                raise  # not the disk's: a signal handler's own, such as its time-out
            self._trouble("documents", error)

    def files_lost(self, error: OSError) -> None:
        """Count a file that could not be kept, and warn or raise."""
        self.change(self.summary, partial(_count_lost_files, 1))
        self._trouble("files", error)

    def files_kept(self) -> None:
        """Note that keeping files works."""
        self._recovered("files")

    def later(self, action: Callable[[], Any]) -> None:
        """Have the run's thread do something."""
        self.follower.calls.append(action)

    def to_backends(self, method: str, *args: Any, **known: Any) -> None:
        """Call a method of each custom backend, behind the rows logged so far."""
        for backend in self.backends:
            backend.call(method, *args, **known)

    def to_tensorboard(self, method: str, *args: Any) -> None:
        """Show what was kept as a file in TensorBoard, from the run's thread."""
        if self.tensorboard is not None:
            self.follower.calls.append(partial(self._show, method, *args))

    def _show(self, method: str, *args: Any) -> None:
        if self.tensorboard is not None:  # taken over meanwhile
            self.tensorboard.show(method, *args)

    @property
    def last_step(self) -> int:
        """Step of the last row, -1 before the first."""
        return self.history.last_step

    def set_goal(self, name: str, goal: str | None) -> None:
        """Define which direction of a metric is better."""
        self.digest.goals[name] = goal
        self.change(self.summary, lambda summary: summary["goals"].update({name: goal}))

    # ------------------------------------------------------------------ trouble

    def _history_trouble(self, error: OSError | None) -> None:
        if error is None:
            self._recovered("rows")
        else:
            self._trouble("rows", error)

    def _trouble(self, what: str, error: OSError) -> None:
        if self.settings.on_error == "raise":
            raise WriteError(
                f"Run {self.folder.name!r}: cannot write {what} to {self.folder.path} ({error}). "
                "Free space or repair the folder, then log again."
            ) from error
        # A file may fail by itself, for a reason of its own; that must not hide the disk's.
        first = self._troubles <= {"files"} and what not in self._troubles
        self._troubles.add(what)
        if first:
            notice(
                f"run {self.folder.name!r}: cannot write {what} to {self.folder.path} ({error}). "
                f"Training goes on; {_WAITS.get(what, 'it is tried again.')}"
            )

    def _recovered(self, what: str) -> None:
        if what in self._troubles:
            self._troubles.discard(what)
            if self._troubles <= {"files"}:
                notice(f"run {self.folder.name!r}: writing to {self.folder.path} works again.")

    # ------------------------------------------------------------------ the thread's work

    def _take_rows(self, rows: list[Row]) -> None:
        self.digest.update(rows)
        self._rows += len(rows)
        attempt = len(self.summary.value["attempts"])
        if attempt > 1:
            rows = [row for row in rows if row.get("attempt") == attempt]
        self.throughput.add(rows)

    def _documents(self) -> Sequence[Document]:
        return (self.params, self.artifacts, self.inputs, self.environment, self.summary)

    def _keep_durable(self) -> None:
        # Asked first: a signal handler that ends the run may wait for this thread, and have
        # interrupted a caller who holds the history's lock.
        if self.history.held:
            self.history.write_held()
        changed = [d for d in self._documents() if (d.on_disk or d.waiting) and not d.durable]
        try:
            for document in changed:
                document.make_durable()
            if changed:
                io.fsync_folder(self.folder.path)
        except OSError as error:
            self._trouble_in_background("documents", error)
        else:
            self._recovered("documents")

    def _trouble_in_background(self, what: str, error: OSError) -> None:
        # There is no caller to raise to: with on_error="raise" the next call of theirs does.
        with contextlib.suppress(WriteError):
            self._trouble(what, error)

    def _beat(self) -> None:
        self._stay_in_place()
        if self._taken_over:
            return
        try:
            self._heartbeat.beat()
        except OSError as error:
            self._trouble_in_background("the heartbeat", error)
        else:
            self._recovered("the heartbeat")

    def has_successor(self) -> bool:
        """Tell whether another process writes the run now."""
        self._stay_in_place()
        return self._taken_over

    def _stay_in_place(self) -> None:
        if not self._taken_over and not self.history.has_its_name(self.folder.history()):
            self._find_place_again()

    def _find_place_again(self) -> None:
        """Our file no longer bears its name: moved, taken over by another writer, or deleted."""
        moved_to = self.history.present_path()
        if moved_to and os.path.basename(moved_to) == os.path.basename(self.folder.history()):
            self._move_to(RunFolder(os.path.dirname(moved_to)))
            return
        if os.path.lexists(self.folder.history()):
            self._taken_over = self.files.detached = True
            self._rows_at_takeover = self._rows
            for document in self._documents():
                document.detach()
            self.follower.duties.clear()
            self.follower.takers[:] = [self._take_rows]
            self.tensorboard = None
            if self.mirrors is not None:
                self.mirrors.stop()
            if self.expects_successor:
                return
            notice(
                f"run {self.folder.name!r} was resumed by another process, which writes it now. "
                "What this process has logged since, and logs from here on, is not kept."
            )
            return
        try:
            os.makedirs(self.folder.path, exist_ok=True)
            self.history.move_to(self.folder.history())
            self._unlist_lost_files()
            for document in self._documents():
                if document.on_disk or document.waiting:
                    document.save()
        except OSError as error:
            self._trouble_in_background("rows", error)
            return
        notice(
            f"run {self.folder.name!r}: its folder was deleted while it runs. Rows, params and "
            f"tags were written again to {self.folder.path}; files logged before are gone."
        )

    def _unlist_lost_files(self) -> None:
        lost = self.files.unlist_lost()
        if lost:
            _count_lost_files(lost, self.summary.value)
        if self.tensorboard is not None:
            self.tensorboard.start_over(self.digest)

    def _move_to(self, folder: RunFolder) -> None:
        notice(
            f"run {self.folder.name!r}: its folder was moved to {folder.path}; it goes on there."
        )
        self.folder = folder
        self._heartbeat.path = folder.heartbeat
        for document in self._documents():
            if document.path is not None:
                document.path = folder.file(os.path.basename(document.path))
        if self.tensorboard is not None:
            self.tensorboard.move_to(folder)
        if self.mirrors is not None:
            self.mirrors.move_to(folder)
        export_to_children()

    def _save_digest(self) -> None:
        if self._rows == self._saved_rows:
            return
        self._saved_rows = self._rows
        try:
            self.change(self.summary, self._put_digest)
        except WriteError:
            self._saved_rows = -1

    def _put_digest(self, summary: dict[str, Any]) -> None:
        summary["metrics"] = self.digest.to_dict()
        summary["history"] = {"digested_bytes": self.tail.offset, "rows": self._rows}
        if throughput := self.throughput.to_dict():
            summary["throughput"] = throughput
        if self.history.dropped:
            summary.setdefault("lost", {})["rows"] = self._lost_rows + self.history.dropped

    # ------------------------------------------------------------------ closing

    def _close_abandoned(self) -> None:
        self.close(*endings.present_ending(self))

    def abandon(self) -> None:
        """Have the run's thread finish it: the user's last reference is gone.

        Called by the garbage collector at any place, so it takes no lock.
        """
        self.follower.abandoned = True

    def _close_before_executors_stop(self) -> None:
        if self in endings.open_writers() and not endings.other_threads_at_work():
            self.close(*endings.present_ending(self))

    def close(
        self, status: str, error: dict[str, str] | None = None, *, hurry: bool = False
    ) -> None:
        """Finish: rows, then documents, then followers, last of all the status. Idempotent.

        In a hurry what can be computed from the rows later is left after 0.5 s, not after 10.
        """
        with self._closing:
            if self.ended or self._in_closing:
                return
            self._in_closing = True
            try:
                self._close(status, error, hurry=hurry)
                self.ended = True  # before the file goes: an ending once more would need it
                self.history.close()
            finally:
                self._in_closing = False
        endings.ended(self)
        export_to_children()
        self._tell_end()

    def _tell_end(self) -> None:
        if self.settings.on_end is None:
            return
        try:
            self.settings.on_end(self.folder.path)
        except Exception as error:  # It has ended well; only this is missing.
            notice(f"run {self.folder.name!r}: what follows its end failed ({error}).")

    def _close(self, status: str, error: dict[str, str] | None, *, hurry: bool) -> None:
        self.history.seal()
        # Now: what backends still need is not the run's time.
        self._ended = utc_now(), round(time.monotonic() - self._opened_at, 3)
        bound_s = _HURRIED_BOUND_S if hurry else _EXIT_BOUND_S
        patience_s = min(self.settings.exit_timeout_s, bound_s if hurry else math.inf)
        started = time.monotonic()
        if self.follower.interrupted:
            self._start_over()
        if self.capture is not None:
            self.capture.run_ends()
        caught_up = self.follower.catch_up(bound_s)
        if self.follower.interrupted:  # a batch is half taken: readers compute all of it
            self._start_over()
        if not caught_up and self.tail.behind_bytes:
            notice(
                f"run {self.folder.name!r}: {self.tail.behind_bytes:,} bytes of rows were not "
                f"summed up within {bound_s:g} s; readers compute the rest from the rows, "
                "TensorBoard's files lack them."
            )
        self._complete_capture()
        # Now rather than at the next heartbeat: the ending must not go into another's summary.
        self._stay_in_place()
        self._tell_backends_the_end(status, error)
        if time.monotonic() < started + bound_s:
            self._finish_tensorboard(status)
        self._wait_for_backends(started + patience_s)
        self._make_all_durable()
        self._write_ending(status, error)

    def _complete_capture(self) -> None:
        if self.console is not None:
            self.console.stop()
        if self.samples is not None:
            self.samples.close()
        if self.capture is not None:
            self._end_capture(self.capture)

    def _end_capture(self, capture: RunCapture) -> None:
        # The thread may still be at it, in a file system that does not answer. Mostly it only
        # wakes up for a moment, to see that it is no longer needed.
        if not self.follower.lock.acquire(timeout=_WAKING_S):
            notice(f"run {self.folder.name!r}: what it was made with could not be kept in time.")
            return
        try:
            if not capture.complete:
                capture.cut_short()
                notice(f"run {self.folder.name!r}: not all of its code could be kept in time.")
            capture.look_again()
        finally:
            self.follower.lock.release()

    def leave(self) -> None:
        """Let go of the run without ending it: another process goes on with it."""
        with self._closing:
            self.follower.catch_up(_EXIT_BOUND_S)
            self._complete_capture()
            if self.mirrors is not None:
                self.mirrors.stop()
            self._make_all_durable()
            self.ended = True
            self.history.close()
        endings.ended(self)
        export_to_children()

    def _start_over(self) -> None:
        """Forget what was made of the rows: an earlier ending was interrupted in their middle."""
        self.tail.offset = START
        self.digest = Digest(self.tail.rows_so_far, goals=self.digest.goals)
        self.throughput = Throughput()
        self._sha256, self._rows = Sha256(b"["), 0
        if self.tensorboard is not None:
            self.tensorboard.start_over(self.digest)

    def _finish_tensorboard(self, status: str) -> None:
        if self.tensorboard is None:
            return
        try:
            self.tensorboard.end(status)
        except Exception as problem:
            notice(f"run {self.folder.name!r}: TensorBoard's files are incomplete ({problem}).")

    def _tell_backends_the_end(self, status: str, error: dict[str, str] | None) -> None:
        # Not before all is written that they are to have.
        if self.mirrors is not None and not self._taken_over:
            self.mirrors.end(status, error, self._ended[0])
        if not self.backends:
            return
        if environment := self.environment.snapshot():
            self.to_backends("log_environment", environment)
        known = {"summary": _readable(self.digest), "ended_at": self._ended[0], "error": error}
        for backend in self.backends:
            backend.end(status, **known)

    def _wait_for_backends(self, deadline: float) -> None:
        followers: dict[str, Any] = {}
        taken = {target.name for target in self.settings.mirrors}
        for backend in self.backends:
            done = backend.wait(max(0.0, deadline - time.monotonic()))
            owed = 0 if done else backend.tail.behind_bytes
            name = _free_name(backend.backend.name, taken | followers.keys())
            followers[name] = {"finished": done, "owed_bytes": owed}
            if backend.error:
                followers[name]["error"] = backend.error
            if not done:
                left = f"{owed:,} bytes of rows" if owed else "its end"
                notice(
                    f"run {self.folder.name!r}: backend {backend.backend.name!r} has not finished "
                    f"in time and has not got {left}."
                )
        if self.mirrors is not None and not self._taken_over:
            followers |= self.mirrors.wait(deadline)
        if followers:
            self.summary.value["followers"] = followers

    def _make_all_durable(self) -> None:
        # Not environment.json: the run's thread flushes it, and in a run of under a second what
        # was captured is worth less than the wait.
        try:
            self.history.sync()
            for document in (self.params, self.artifacts, self.inputs):
                if document.on_disk or document.waiting:
                    document.make_durable()
        except OSError as error:
            self._trouble_in_background("documents", error)

    def _write_ending(self, status: str, error: dict[str, str] | None) -> None:
        if self._taken_over:
            rows = self._rows - self._rows_at_takeover
            notice(
                f"run {self.folder.name!r}: {rows} rows logged since it was taken over are lost."
            )
        if self.history.dropped:
            notice(
                f"run {self.folder.name!r}: {self.history.dropped} rows could not be written and "
                "are lost; the summary counts them."
            )
        try:
            self.summary.update(partial(self._put_ending, status, error), durable=True)
        except OSError as problem:
            notice(
                f"run {self.folder.name!r}: its final status {status!r} could not be written "
                f"({problem}); it will read as crashed. Free space, then resume it."
            )
            with contextlib.suppress(OSError):  # while this process lives, it would read as running
                os.unlink(self.folder.heartbeat)

    def _put_ending(
        self, status: str, error: dict[str, str] | None, summary: dict[str, Any]
    ) -> None:
        now, duration_s = self._ended
        self._put_digest(summary)
        if not self.tail.behind_bytes:
            summary["history"] |= {
                "bytes": self.history.end + len(b"\n]\n"),
                "sha256": self._sha256.hexdigest(b"\n]\n"),
            }
        summary["attempts"][-1] |= {
            "ended_at": now, "status": status, "duration_s": duration_s,
        }  # fmt: skip
        known_s = [attempt.get("duration_s", 0.0) for attempt in summary["attempts"]]
        summary |= {"ended_at": now, "duration_s": round(sum(known_s), 3)}
        if error:
            summary["error"] = error
        summary["status"] = status

    def continue_in_child(self) -> None:
        """Let go of the files in a forked child; the parent goes on with them."""
        self.ended = True
        self.history.abandon_in_child()
        if self.samples is not None:
            self.samples.abandon_in_child()


def read_documents(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Read the documents of a run; all but the summary may be missing."""
    documents = {"summary": read_document(folder.summary)}
    layout.check_format(folder, documents["summary"])
    others: dict[str, tuple[str, dict[str, Any]]] = {
        "params": (folder.params, {}),
        "artifacts": (folder.artifact_list, {"artifacts": []}),
        "environment": (folder.environment, {}),
        "inputs": (folder.inputs, {"inputs": []}),
    }
    for key, (path, missing) in others.items():
        try:
            documents[key] = read_document(path)
        except FileNotFoundError:
            documents[key] = missing
    return documents


def _new_attempt(now: str) -> dict[str, Any]:
    writer = Writer.this_process()
    return {"started_at": now, "status": "running", "host": writer.host, "pid": writer.pid}


def _check_nobody_writes(folder: RunFolder, summary: Mapping[str, Any], *, force: bool) -> None:
    status, silent = status_of(summary, folder.heartbeat)
    seen = read_heartbeat(folder.heartbeat)
    if force or status != "running" or silent or seen is None:
        return
    writer, here = seen[0], Writer.this_process()
    if here.restarts(writer):
        return
    raise RunBusyError(
        f"Run {folder.name!r} is being written by process {writer.pid} on {writer.host}. Wait for "
        f"it or end it; to take the run over all the same, pass resume='force'."
    )


def export_to_children() -> None:
    """Tell child processes, by an environment variable, which run of ours is open."""
    owned = [w for w in endings.open_writers() if isinstance(w, RunWriter)]
    if owned:
        os.environ[layout.RUN_VARIABLE] = owned[0].folder.path
    else:
        os.environ.pop(layout.RUN_VARIABLE, None)


def _count_lost_files(number: int, summary: dict[str, Any]) -> None:
    lost = summary.setdefault("lost", {})
    lost["files"] = lost.get("files", 0) + number


def _redacted(text: str) -> str:
    from experiment_tracking.capture.redaction import redact_text

    return redact_text(text)


def _free_name(name: str, taken: Set[str]) -> str:
    """Return a name, or ``name-2`` and so on where several are called so."""
    names = (f"{name}-{number}" if number > 1 else name for number in itertools.count(1))
    return next(free for free in names if free not in taken)


def _readable(digest: Digest) -> dict[str, dict[str, Any]]:
    """Return what each metric came to, NaN and infinities as numbers."""
    return {
        shown_name(name): {
            key: value if (number := from_stored(value)) is None else number
            for key, value in kept.items()
        }
        for name, kept in digest.to_dict().items()
    }


def _nothing() -> None:
    return None


def _end_mirroring() -> None:
    """End the process that makes the mirrors, where there is one."""
    mirroring = sys.modules.get("experiment_tracking.mirroring")
    if mirroring is None:
        return
    try:
        mirroring.child().end()
    except (KeyboardInterrupt, SystemExit):
        mirroring.child().kill()


# Hooks run last in, first out: this one is in before the first run can have opened, so it comes
# when all runs have been closed.
atexit.register(_end_mirroring)
