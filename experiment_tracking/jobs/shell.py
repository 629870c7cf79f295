"""A run that the lines of a shell script write: started, logged to and finished by commands.

No process of ours lives between them. The run belongs to the shell, whose life stands in the
heartbeat: a script that dies reads as crashed.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from experiment_tracking.errors import RunEndedError, RunNotFoundError
from experiment_tracking.folder import values
from experiment_tracking.folder.history import HistoryWriter
from experiment_tracking.folder.layout import RUN_VARIABLE, SCRATCH_VARIABLE, RunFolder
from experiment_tracking.folder.liveness import FINAL, Heartbeat, Writer, read_heartbeat
from experiment_tracking.handover import Subject
from experiment_tracking.jobs.command import take_apart
from experiment_tracking.jobs.editing import RunEditor
from experiment_tracking.logs import to_params, to_tags
from experiment_tracking.run import adopt_run, open_run
from experiment_tracking.settings import Identity, Settings
from experiment_tracking.writing import RunWriter


def start(
    root: str, project: str, name: str | None, identity: Identity, shell_pid: int | None = None
) -> RunFolder:
    """Open a run, or take the one that a launcher offers, and leave it to the calling shell.

    Parameters
    ----------
    shell_pid
        The process whose life is the run's; by default the shell above this process.
    """
    pid = shell_pid or calling_shell()
    owner = Writer.process(pid)
    settings = Settings(use_tensorboard=False, subject=_subject(pid))
    run = adopt_run(identity, settings) or open_run(
        os.environ.get(SCRATCH_VARIABLE) or root, project, name, identity, settings
    )
    writer = run._writer
    assert isinstance(writer, RunWriter)
    writer.leave()
    Heartbeat(writer.folder.heartbeat, owner).beat()
    attempt = {"host": owner.host, "pid": owner.pid}
    RunEditor(writer.folder).summary.update(lambda s: s["attempts"][-1].update(attempt))
    return writer.folder


def _subject(pid: int) -> Subject | None:
    """Return what the run is about: the shell script, whose command line the shell's is."""
    words = tuple(os.fsdecode(_command_line(pid)).split("\0")[:-1])
    cwd = os.getcwd()
    return Subject(words, cwd, take_apart(words, cwd).entry_script()) if words else None


def calling_shell() -> int:
    """Return the pid of the shell behind ``$(experiments start …)``.

    That runs in a copy of the shell, gone as soon as the command is: the copy has the very
    command line of the shell itself, its parent.
    """
    pid = os.getppid()
    while (above := _parent(pid)) > 1 and _command_line(above) == _command_line(pid) != b"":
        pid = above
    return pid


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def current_run(path: str | None = None) -> RunFolder:
    """Return the run that the shell's variable names, or the one at ``path``.

    Raises
    ------
    RunNotFoundError
        If there is none.
    RunEndedError
        If it has ended.
    """
    path = path or os.environ.get(RUN_VARIABLE)
    if not path:
        raise RunNotFoundError(
            f"There is no run: {RUN_VARIABLE} is not set. Write "
            'eval "$(experiments start PROJECT)" first, or name the run by --run.'
        )
    folder = RunFolder(path)
    if not folder.exists():
        raise RunNotFoundError(f"There is no run at {folder.path}.")
    status = RunEditor(folder).summary.value.get("status")
    if status in FINAL:
        raise RunEndedError(f"Run {folder.name!r} has ended ({status}). Start a new one.")
    return folder


def log(
    folder: RunFolder,
    metrics: Mapping[str, Any],
    step: int | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Append one row, and set params and tags."""
    with _turn(folder):
        if metrics:
            _append(folder, metrics, step)
        editor = RunEditor(folder)
        if params:
            plain = to_params(dict(params))
            editor.params.update(lambda kept: kept.update(plain))
        if tags:
            words = to_tags(dict(tags))
            editor.summary.update(lambda summary: summary["tags"].update(words))
        _beat(folder)


def _append(folder: RunFolder, metrics: Mapping[str, Any], step: int | None) -> None:
    row, own_step = values.to_row(metrics)
    history = HistoryWriter.extend(folder.history())
    try:
        history.append(row, own_step if step is None else step)
    finally:
        history.close()


def finish(folder: RunFolder, status: str, exit_code: int | None = None) -> None:
    """Write the final status."""
    with _turn(folder):
        RunEditor(folder).end(status, exit_code)


def _beat(folder: RunFolder) -> None:
    seen = read_heartbeat(folder.heartbeat)
    Heartbeat(folder.heartbeat, seen[0] if seen else None).beat()


@contextlib.contextmanager
def _turn(folder: RunFolder) -> Iterator[None]:
    """Let one command of a shell at a time write the run.

    The heartbeat's file is what is locked: it is never replaced. On a file system without
    locks, commands that a script runs at the same time may lose each other's rows.
    """
    fd = os.open(folder.heartbeat, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
