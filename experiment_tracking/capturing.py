"""What a run records about how it is made: environment, git, code, console, machine.

Begun by the run's thread behind the first rows, looked at again every minute and at the end.
Nothing here stops training: what fails is noted in ``environment.json``.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from experiment_tracking import endings
from experiment_tracking.files import RunFiles
from experiment_tracking.folder.documents import Document
from experiment_tracking.folder.hashing import sha256
from experiment_tracking.folder.history import HistoryWriter
from experiment_tracking.folder.layout import HANDOVER_VARIABLE, RunFolder
from experiment_tracking.notices import notice
from experiment_tracking.settings import Settings

if TYPE_CHECKING:
    from experiment_tracking.capture.code import EntryScript
    from experiment_tracking.capture.git import GitProbe
    from experiment_tracking.capture.git_changes import GitChanges
    from experiment_tracking.capture.relay import ConsoleCapture
    from experiment_tracking.capture.system import SystemSampler

MAX_CODE_FILES = 2000
MAX_CODE_BYTES = 20_000_000
_PIECE_S = 0.02

_Found = tuple[str, str, Sequence[str]]
"""Where files come from, the folder that their names are relative to, and their paths."""


class Owner(Protocol):
    """The writer of the run that is captured."""

    folder: RunFolder
    files: RunFiles
    summary: Document
    environment: Document
    settings: Settings

    def change(self, document: Document, edit: Callable[[dict[str, Any]], object]) -> None:
        """Change a document; the file is replaced before this returns."""

    def later(self, action: Callable[[], Any]) -> None:
        """Do something soon, in the run's thread."""

    def has_successor(self) -> bool:
        """Tell whether another process writes the run now; follow a folder that was moved."""


class RunCapture:
    """Find out how a run is made, and keep it in ``environment.json`` and ``code/``.

    Parameters
    ----------
    owner
        The run's writer.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        owner.environment.value.clear()  # What an earlier attempt ran on is not what we run on.
        self._facts: dict[str, Any] = {"run_number": endings.runs_opened() + 1}
        self._notes: list[str] = []
        self._cwd = _working_folder(owner)
        self._root = self._cwd
        self._probe: GitProbe | None = None
        self._cells: list[str] = []
        self._code = _CodeFolder(owner)
        self._steps: Iterator[None] = iter(())
        self._begun = False
        self.complete = False
        """Whether everything there was at the start has been kept."""
        self.is_late = False
        """Whether the run ended before this began: what is found now is all there is."""

    def begin(self) -> None:
        """Start git, then gather piece by piece; called by the run's thread behind the first rows.

        Each piece takes some 20 ms, so that rows, heartbeat and an ending run do not wait for
        the last of many files.
        """
        self._begun = True
        self._steps = self._gather_all()
        self._go_on()

    def _go_on(self) -> None:
        until = time.monotonic() + _PIECE_S
        for _ in self._steps:
            if time.monotonic() > until:
                self._owner.later(self._go_on)
                return
        self.complete = True

    def _gather_all(self) -> Iterator[None]:
        from experiment_tracking.capture.code import find_project_root
        from experiment_tracking.capture.git import GitProbe

        script = self._attempt("entry script", self._script)
        folder = os.path.dirname(os.path.realpath(script.path)) if script else self._cwd
        self._root = os.path.realpath(find_project_root(folder) or folder)
        # Git works beside us, and is waited for when everything else is done.
        self._probe = probe = GitProbe.start(folder if os.path.isdir(folder) else self._cwd)
        self._attempt("environment", self._gather, folder)
        self._facts["entry_script"] = script.to_dict() if script else None
        if not self.is_late:
            self._attempt("environment", self._write)
        yield
        self._attempt("code", self._keep_script, script)
        yield from self._keep_each("code", self._modules, script)
        yield
        git = probe.finish()
        self._facts["git"] = {**git.to_dict(), "redacted": []}
        if git.commit:  # in the summary too: tables of many runs read nothing else
            self._owner.change(self._owner.summary, lambda kept: kept.update(commit=git.commit))
        if not self._is_clean():
            self._attempt("environment", self._write)
            yield
            yield from self._keep_changes()
        yield from self._keep_each("lock files", self._lock_files, folder)
        if probe.top is None:
            yield from self._keep_each("configuration", self._configuration, folder)
        self._attempt("code", self._code.drop_others)
        self._attempt("environment", self._write)

    def _keep_each(self, what: str, find: Callable[..., _Found], *args: Any) -> Iterator[None]:
        """Keep the files that ``find`` tells of, one a step."""
        origin, root, paths = self._attempt(what, find, *args) or ("", "", ())
        for path in paths:
            self._attempt(what, self._code.keep_below, root, path, origin)
            yield

    def _script(self) -> "EntryScript | None":
        from experiment_tracking.capture.code import entry_script

        subject = self._owner.settings.subject
        return entry_script() if subject is None else subject.script

    def _gather(self, folder: str) -> None:
        from experiment_tracking.capture.environment import capture_environment

        subject = self._owner.settings.subject
        if subject is None:
            facts = capture_environment(folder)
        else:
            facts = capture_environment(
                folder, command=subject.command, interpreter=subject.interpreter
            )
        self._facts |= facts.to_dict()
        self._notes += self._facts.pop("notes")
        if facts.process_started_at is not None:
            self._code.started_at = datetime.fromisoformat(facts.process_started_at).timestamp()

    def _keep_script(self, script: "EntryScript | None") -> None:
        if script is not None and script.note:
            self._code.leave_out(script.relative_name, script.note)
        elif script is not None:
            self._code.keep(script.relative_name, script.path, "script")

    def _modules(self, script: "EntryScript | None") -> _Found:
        from experiment_tracking.capture.code import (
            foreign_modules,
            imported_files,
            local_modules,
        )

        if self._owner.settings.subject is None:
            found = local_modules(self._root, self._code.sources)
            for path in foreign_modules(self._root):
                self._code.leave_out(path, "outside of the project")
        else:
            found = imported_files(script.path, self._root) if script else []
        return "module", self._root, found

    def _keep_changes(self) -> Iterator[None]:
        changes = self._attempt("changes", self._read_changes)
        if changes is None or self._probe is None:
            return
        top = self._probe.top or self._root
        for names, origin in ((changes.changed, "changed"), (changes.untracked, "untracked")):
            for name in names:
                path = os.path.join(top, name)
                self._attempt("changes", self._code.keep_below, top, path, origin)
                yield

    def _read_changes(self) -> "GitChanges":
        from experiment_tracking.capture.git_changes import read_changes
        from experiment_tracking.capture.redaction import to_utf8

        assert self._probe is not None
        changes = read_changes(self._probe, exclude=(self._owner.folder.root,))
        self._notes += changes.notes
        self._facts["git"]["redacted"] = [to_utf8(name) for name in changes.redacted]
        for path, reason in changes.left_out:
            self._code.leave_out(path, reason)
        if changes.patch:
            self._code.put_patch(changes.patch)
        return changes

    def _is_clean(self) -> bool:
        """Tell whether nothing but the folder of runs itself differs from the commit."""
        from experiment_tracking.capture.code import name_inside

        git, probe = self._facts["git"], self._probe
        assert probe is not None
        if git["commit"] is None or git["dirty"]:
            return False
        runs = name_inside(os.path.realpath(self._owner.folder.root), probe.top or "")
        only_runs = git["untracked"] == 1 and probe.status.endswith(f"? {runs}/\0".encode())
        return git["untracked"] == 0 or only_runs

    def _lock_files(self, folder: str) -> _Found:
        from experiment_tracking.capture.code import lock_files

        return "lock_file", self._root, lock_files(self._root, folder)

    def _configuration(self, folder: str) -> _Found:
        from experiment_tracking.capture.code import configuration_beside

        return "configuration", self._root, configuration_beside(os.path.realpath(folder))

    def look_again(self) -> None:
        """Keep what has come since: modules imported, notebook cells executed."""
        if self._owner.has_successor():  # which has written down how it runs
            return
        known = self._extent()
        if self._owner.settings.subject is None and self._begun and not self.is_late:
            for _ in self._keep_each("code", self._modules, None):
                pass
        self._attempt("notebook", self._keep_cells)
        if self._extent() != known:
            self._attempt("environment", self._write)

    def run_ends(self) -> None:
        """Take note that the run ends; whoever has not begun by now is late."""
        self.is_late = not self._begun

    def cut_short(self) -> None:
        """Note that the run has ended before everything was gathered."""
        self._notes.append("the run ended before all of its code was kept")
        self._attempt("environment", self._write)

    def _extent(self) -> tuple[int, ...]:
        return len(self._code.sources), len(self._cells), len(self._notes)

    def _keep_cells(self) -> None:
        if not endings.interactive():
            return
        from experiment_tracking.capture import notebook

        cells = notebook.executed_cells()
        if len(cells) > len(self._cells):
            self._cells = cells
            self._facts["notebook"] = notebook.notebook_path()
            redacted = any(notebook.redact_cell(cell) != cell for cell in cells)
            script = notebook.to_script(cells).encode()
            self._code.put("notebook.ipy", script, "notebook", redacted=redacted)

    def _write(self) -> None:
        facts = {"notebook": None, **self._facts, "code": self._code.to_dict()}
        facts["notes"] = [*self._notes, *self._code.doubts()]
        self._owner.change(self._owner.environment, lambda environment: environment.update(facts))

    def _attempt(self, what: str, action: Callable[..., Any], *args: Any) -> Any:
        try:
            return action(*args)
        except Exception as error:  # Capture never stops training, whatever the reason.
            from experiment_tracking.capture.redaction import redact_text

            self._notes.append(redact_text(f"{what}: {type(error).__name__}: {error}"))
            return None


class _CodeFolder:
    """The files in ``code/``, bounded, and what was left out of it."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.files: dict[str, dict[str, Any]] = {}
        self.sources: set[str] = set()
        """Paths that have been looked at."""
        self._left_out: dict[str, str] = {}
        self._size_bytes = 0
        self._has_patch = False
        self.started_at = inf
        """When Python began to read the code, in Unix seconds."""
        self._edited: list[str] = []

    def keep_below(self, root: str, path: str, origin: str) -> None:
        """Keep a file under its name in ``root``; one outside of it is passed over."""
        from experiment_tracking.capture.code import name_inside

        name = name_inside(path, root)
        if name is not None and path not in self.sources:
            self.keep(name, path, origin)

    def keep(self, name: str, path: str, origin: str) -> None:
        """Keep one file under ``code/<name>``, redacted, or note why it is not."""
        from experiment_tracking.capture.code import read_code, why_left_out

        self.sources.add(path)
        if name in self.files:
            return
        reason = why_left_out(path) or self._why_no_room(name)
        if reason is None:
            try:
                data, redacted = read_code(path)
            except Exception as error:  # One file's trouble must not keep the others out.
                reason = f"cannot be read ({type(error).__name__}: {error})"
            else:
                reason = self._why_no_room(name, len(data))
        if reason is not None:
            self.leave_out(name, reason)
            return
        self.put(name, data, origin, redacted=redacted)
        # By a second, for the clocks of files and processes do not tick alike.
        if origin in ("script", "module") and os.stat(path).st_mtime > self.started_at + 1:
            self._edited.append(name)

    def doubts(self) -> list[str]:
        """Say which files may not be what ran, for they were changed after the start."""
        if not self._edited:
            return []
        names = ", ".join(self._edited[:10]) + (", …" if len(self._edited) > 10 else "")
        return [f"changed since the process started, and kept as it is now: {names}"]

    def _why_no_room(self, name: str, size_bytes: int = 0) -> str | None:
        if name == "git.patch":
            return "its name is that of the patch"
        if len(self.files) >= MAX_CODE_FILES:
            return f"more than {MAX_CODE_FILES:,} files"
        if self._size_bytes + size_bytes > MAX_CODE_BYTES:
            return f"more than {MAX_CODE_BYTES:,} bytes of code"
        return None

    def put(self, name: str, data: bytes, origin: str, *, redacted: bool) -> None:
        """Write and list one file."""
        if self._owner.files.put(f"code/{name}", data):
            self._size_bytes += len(data)
            self.files[name] = {
                "path": name, "origin": origin, "size_bytes": len(data), "sha256": sha256(data),
                "redacted": redacted,
            }  # fmt: skip

    def put_patch(self, patch: bytes) -> None:
        """Write what was not committed."""
        self._has_patch = self._owner.files.put("code/git.patch", patch)

    def drop_others(self) -> None:
        """Delete what an earlier attempt kept, above all its patch, which does not apply here."""
        if self._owner.files.detached:
            return
        top = self._owner.folder.code
        for above, _, names in os.walk(top):
            for name in names:
                path = os.path.join(above, name)
                place = os.path.relpath(path, top).replace(os.sep, "/")
                if place not in self.files and not (place == "git.patch" and self._has_patch):
                    os.unlink(path)

    def leave_out(self, name: str, reason: str) -> None:
        """Note that a file is not kept, and why."""
        self._left_out[name] = reason

    def to_dict(self) -> dict[str, Any]:
        """Give the lists as plain values for JSON."""
        left_out = [{"path": name, "reason": why} for name, why in self._left_out.items()]
        return {"files": list(self.files.values()), "left_out": left_out}


class SystemSamples:
    """Sample the machine into ``system_metrics.json``, from the run's thread.

    Parameters
    ----------
    owner
        The run's writer.
    attempt
        Number of the attempt, kept in rows from the second on.
    """

    def __init__(self, owner: Owner, attempt: int) -> None:
        self._owner = owner
        self._marks = {"attempt": attempt} if attempt > 1 else {}
        self._sampler: SystemSampler | None = None
        self._history: HistoryWriter | None = None
        self._failed = False
        self._noted = 0
        self._taken_at = 0.0

    def take(self) -> None:
        """Append one sample. Trouble is told once, then sampling is over."""
        # Asked each time: a moved folder is to be followed, and one that is gone made anew.
        if self._failed or self._owner.has_successor():
            return
        try:
            self._take()
        except Exception as error:  # Training does not depend on it.
            self._failed = True
            notice(
                f"run {self._owner.folder.name!r}: system metrics stopped "
                f"({type(error).__name__}: {error})."
            )

    def _take(self) -> None:
        from experiment_tracking.capture.system import SystemSampler

        path = self._owner.folder.system_metrics
        self._sampler = self._sampler or SystemSampler(self._owner.folder.path)
        if self._history is None or not self._history.has_its_name(path):
            self._history = self._open(path)
        self._history.append(self._sampler.sample())
        self._taken_at = time.monotonic()
        for note in self._sampler.notes[self._noted :]:
            self._noted += 1
            self._owner.change(self._owner.environment, partial(_add_note, note))

    def _open(self, path: str) -> HistoryWriter:
        if self._history is not None:
            self._history.close()
        if os.path.lexists(path):
            return HistoryWriter.reopen(path, marks=self._marks)
        return HistoryWriter.create(path, marks=self._marks)

    def close(self) -> None:
        """Take a last sample, where the one before is not of this very second; close the file."""
        if self._sampler is not None and time.monotonic() - self._taken_at > 1:
            self.take()
        self._failed = True
        if self._history is not None:
            self._history.close()
        if self._sampler is not None:
            self._sampler.close()

    def abandon_in_child(self) -> None:
        """Let go of the file in a forked child."""
        self._failed = True
        if self._history is not None:
            self._history.abandon_in_child()


class RunConsole:
    """Stdout and stderr of this process into ``console.log``, for one run at a time."""

    _busy_pid = 0
    """The process whose console goes to a run; a forked child's does so no longer."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._pid = os.getpid()
        self._capture: ConsoleCapture | None = None

    def start(self) -> None:
        """Have descriptors 1 and 2 copied from now on; told where that cannot be."""
        from experiment_tracking.capture.relay import ConsoleCapture

        folder = self._owner.folder
        if os.environ.get(HANDOVER_VARIABLE) == folder.path:
            return  # The launcher, which opened this run, reads what we print.
        if RunConsole._busy_pid == self._pid:
            notice(f"run {folder.name!r}: the console goes to another open run.")
            return
        self._separate_attempts()
        try:
            self._capture = ConsoleCapture.start(folder.console)
            RunConsole._busy_pid = self._pid
        except OSError as error:
            notice(f"run {folder.name!r}: the console is not captured ({error}).")

    def _separate_attempts(self) -> None:
        from experiment_tracking.capture.console import ConsoleLog

        attempt = len(self._owner.summary.value["attempts"])
        if attempt > 1:
            log = ConsoleLog(self._owner.folder.console)
            log.feed(f"[attempt {attempt}]\n".encode())
            log.close()

    def stop(self) -> None:
        """Put the descriptors back once everything written so far is in the file."""
        capture, self._capture = self._capture, None
        if capture is None or self._pid != os.getpid():
            return
        RunConsole._busy_pid = 0
        if not capture.stop():
            notice(f"run {self._owner.folder.name!r}: the end of console.log may be missing.")


def _add_note(note: str, environment: dict[str, Any]) -> None:
    environment["notes"] = [*environment.get("notes", []), note]


def _working_folder(owner: Owner) -> str:
    if owner.settings.subject is not None:
        return owner.settings.subject.cwd
    try:
        return os.getcwd()
    except FileNotFoundError:  # deleted under the process
        return owner.folder.path
