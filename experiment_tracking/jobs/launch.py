"""Run a command as a run: what it is, what it prints, how it ends, which files it leaves."""

import glob
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiment_tracking import handover
from experiment_tracking.capture.console import ConsoleLog
from experiment_tracking.capture.environment import Interpreter, ask_interpreter
from experiment_tracking.capture.redaction import redact_arguments
from experiment_tracking.capture.relay import run_and_capture
from experiment_tracking.errors import ExperimentTrackingError, InvalidValueError, NotFoundError
from experiment_tracking.folder import layout
from experiment_tracking.folder.layout import RUN_VARIABLE, RunFolder
from experiment_tracking.handover import Subject
from experiment_tracking.jobs.command import Command, params_of, take_apart
from experiment_tracking.jobs.editing import RunEditor
from experiment_tracking.jobs.named_files import log_named_files, written_since
from experiment_tracking.logs import check_file_name, to_params
from experiment_tracking.notices import notice
from experiment_tracking.run import Run, open_run
from experiment_tracking.settings import Identity, Settings
from experiment_tracking.writing import RunWriter

_PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".gif", ".webp", ".pdf")
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
"""Exit codes of a command that did not start, as shells have them."""


class Job(NamedTuple):
    """A command to run, and as which run.

    Attributes
    ----------
    command
        The words of the command line.
    project, name
        By default the project is called as the script and the run by the time.
    params
        Params to keep beside those of the command line; a script that logs by itself keeps
        these and its own.
    collect
        Patterns of files, relative to the working directory, that are kept if they were
        written while the command ran; ``**`` stands for folders.
    cwd
        Where the command runs.
    variables, unset
        Environment variables to set for it, and those to leave out.
    run_number
        Which of the runs that the script opens is this one.
    recorded
        The command line to record in place of ``command``, word by word: a rerun's has the paths
        of a folder that will be gone.
    keep_inputs
        Whether files and folders that the command line names become inputs of the run.
    """

    command: Sequence[str]
    root: str
    project: str | None = None
    name: str | None = None
    params: Mapping[str, Any] = {}
    tags: Mapping[str, str] = {}
    notes: str = ""
    group: str | None = None
    facts: Mapping[str, Any] = {}
    collect: Sequence[str] = ()
    cwd: str | None = None
    variables: Mapping[str, str] = {}
    unset: Sequence[str] = ()
    run_number: int = 1
    system_interval_s: float | None = 10.0
    recorded: Sequence[str] = ()
    keep_inputs: bool = True


class Outcome(NamedTuple):
    """How a job ended."""

    path: str
    """Folder of the run."""
    exit_code: int
    """As a shell has it: 128 + the signal's number."""


def launch(job: Job) -> Outcome:
    """Run a command as a run; return when it has ended.

    Its stdout and stderr go to this process's and to ``console.log``. A script that opens a run
    by itself goes on with this one; for any other its params are read off the command line.
    Files and folders that are named there become inputs, unless the command writes to them.

    The command gets the signals that we get. Where SIGKILL ends us the command lives on, but
    what it prints has no reader any more: a script that prints dies of a broken pipe. The run
    then reads as crashed, unless the script had taken it over and ends it.

    Raises
    ------
    InvalidValueError, NotFoundError
        If there is no command, or no such program. No run is opened then.
    WriteError
        If the run cannot be written.
    """
    if not job.command:
        raise InvalidValueError("There is no command. Write experiments run -- python train.py")
    cwd = os.path.abspath(job.cwd or os.getcwd())
    command = take_apart(job.command, cwd)
    check_program(command.words[0], cwd, job.variables.get("PATH"))
    run = _open(job, command, cwd)
    named = log_named_files(run, command, job.recorded, cwd) if job.keep_inputs else {}
    writer = run._writer
    assert isinstance(writer, RunWriter)
    # Everything is written before the script starts, for it may take the run over.
    writer.follower.settle()
    started = time.time()
    exit_code = _execute(job, writer, cwd)
    folder = _let_go(writer)
    _finish(job, folder, exit_code, cwd, started, named)
    return Outcome(folder.path, exit_code)


def check_program(program: str, cwd: str, path: str | None = None) -> None:
    """Insist that there is such a program, seen from the folder ``cwd``, or in ``path``.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    import shutil

    # A program that is named with a folder is looked up from where the command runs.
    place = os.path.join(cwd, program) if os.path.dirname(program) else program
    if shutil.which(place, path=path) is None:
        raise NotFoundError(
            f"There is no program {program!r} to run. Write the command behind --, as in: "
            "experiments run -- python train.py"
        )


def _open(job: Job, command: Command, cwd: str) -> Run:
    words = tuple(job.recorded or command.words)
    settings = Settings(
        use_tensorboard=False,
        system_interval_s=job.system_interval_s,
        subject=Subject(words, cwd, command.entry_script(), _interpreter(command)),
    )
    identity = Identity(
        params={**to_params(params_of(command.arguments, cwd)), **job.params},
        tags=dict(job.tags),
        notes=job.notes,
        group=job.group,
        facts={**job.facts, "launched": _launched(job)},
    )
    project = job.project or layout.suggest_name(command.name)
    return open_run(job.root, project, job.name, identity, settings)


def _launched(job: Job) -> dict[str, Any]:
    """Keep what it takes to launch the same again."""
    return {
        "command": redact_arguments(job.recorded or job.command),
        "params": to_params(dict(job.params)),
        "collect": list(job.collect),
    }


def _interpreter(command: Command) -> Interpreter | None:
    program = command.interpreter()
    if program is None:
        return None
    try:
        return ask_interpreter(program)
    except (OSError, ValueError) as error:
        notice(f"{program} does not say which packages it has ({error}).")
        return None


def _execute(job: Job, writer: RunWriter, cwd: str) -> int:
    writer.expects_successor = True
    offered = handover.offer(writer.folder, job.run_number, to_params(dict(job.params)))
    # The script is no further process of the run: it either has it, or knows nothing of it.
    dropped = {RUN_VARIABLE, *job.unset}
    inherited = {name: value for name, value in os.environ.items() if name not in dropped}
    console = ConsoleLog(writer.folder.console)
    try:
        return run_and_capture(
            list(job.command), console, env={**inherited, **offered, **job.variables}, cwd=cwd
        )
    except OSError as error:
        notice(f"the command did not start: {error}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
    finally:
        console.close()


def _let_go(writer: RunWriter) -> RunFolder:
    taken = not handover.withdraw(writer.folder)
    if taken:
        writer.has_successor()
    writer.leave()
    return writer.folder


def _finish(
    job: Job,
    folder: RunFolder,
    exit_code: int,
    cwd: str,
    started: float,
    named: Mapping[str, Mapping[str, Any]],
) -> None:
    editor = RunEditor(folder)
    if job.recorded and editor.environment.value.get("command"):
        # A script that took the run over has written what it was started with.
        words = redact_arguments(job.recorded)
        editor.environment.update(lambda kept: kept.update(command=words))
    if written := written_since(named):
        editor.inputs.update(lambda kept: _leave_out(kept, written))
    for path in _left_files(job.collect, cwd, started, folder.root):
        _keep(editor, path, cwd)
    status, error = _ending(exit_code)
    editor.end(status, exit_code, error)


def _ending(exit_code: int) -> tuple[str, dict[str, str] | None]:
    if exit_code == 0:
        return "finished", None
    if exit_code - 128 in set(signal.Signals):  # 255 is what `exit -1` comes to.
        return "killed", {"type": "Signal", "message": signal.Signals(exit_code - 128).name}
    return "failed", {"type": "ExitCode", "message": f"the command ended with {exit_code}"}


def _leave_out(document: dict[str, Any], names: Sequence[str]) -> None:
    document["inputs"] = [one for one in document["inputs"] if one["name"] not in names]


def _left_files(patterns: Sequence[str], cwd: str, started: float, root: str) -> list[str]:
    """Find the files that match and were written since; the runs themselves do not count."""
    found = set()
    for pattern in patterns:
        for name in glob.glob(os.path.expanduser(pattern), root_dir=cwd, recursive=True):
            path = os.path.join(cwd, name)
            inside_root = os.path.realpath(path).startswith(os.path.realpath(root) + os.sep)
            # File systems keep times by a grain of up to two seconds.
            if os.path.isfile(path) and not inside_root and os.stat(path).st_mtime > started - 2:
                found.add(path)
    return sorted(found)


def _keep(editor: RunEditor, path: str, cwd: str) -> None:
    name = os.path.relpath(path, cwd)
    if name.startswith(os.pardir):
        name = os.path.basename(path)
    name = name.replace(os.sep, "/")
    place = "figures" if name.lower().endswith(_PICTURES) else "artifacts"
    kind = "figure" if place == "figures" else "artifact"
    try:
        entry = {"path": f"{place}/{check_file_name(name)}", "kind": kind, "name": name}
        editor.files.copy({**entry, "step": None}, path)
    except (ExperimentTrackingError, OSError) as error:
        notice(f"{path} is not kept: {error}")
