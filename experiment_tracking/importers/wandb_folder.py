"""Import the runs that W&B kept on this machine: ``wandb/offline-run-…/run-<id>.wandb``."""

import os
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from experiment_tracking.backends.wandb_log import Run, WandbLog, find_logs
from experiment_tracking.errors import FormatError
from experiment_tracking.importers.found import (
    FoundRun,
    Options,
    Unreadable,
    git_facts,
    reading,
    reason_of,
    to_iso,
)
from experiment_tracking.importers.source_files import is_folder, is_regular, only_regular
from experiment_tracking.importers.wandb_contents import WandbContents, files_beside

KIND = "wandb"

_LOG = re.compile(r"run-.+\.wandb")
_RUN_FOLDER = re.compile(r"(offline-)?run-\d+_\d+-.+")
_REQUIREMENT = re.compile(r"([\w.-]+)==(\S+)")
_KILLED = (130, 143, 255)
"""Exit codes of Ctrl-C and of being told to end, as a shell and W&B count them."""
_CRASHED = (None, 137)
"""Without a word: the log has no end, or one that was written by another process."""


def recognizes(path: str) -> bool:
    """Tell a log, the folder of a run, and the ``wandb`` above it."""
    if not os.path.isdir(path):
        return _is_log(path)
    try:
        names = os.listdir(path)
    except OSError:  # not for us to read
        return False
    return any(_is_log(p) or _is_run_folder(p) for p in (os.path.join(path, n) for n in names))


def _is_log(path: str) -> bool:
    return _LOG.fullmatch(os.path.basename(path)) is not None and is_regular(path)


def _is_run_folder(path: str) -> bool:
    return (
        _RUN_FOLDER.fullmatch(os.path.basename(path)) is not None
        and is_folder(path)
        and any(map(_LOG.fullmatch, os.listdir(path)))
    )


def runs(path: str, options: Options) -> Iterator[FoundRun | Unreadable]:
    """Iterate over the runs of a folder, or give that of one log.

    Logs of one id are one run, written by several processes. Takes about 0.1 ms for a row.
    """
    logs: dict[str, tuple[Run, list[str]]] = {}
    for log in find_logs(path) if os.path.isdir(path) else [os.path.abspath(path)]:
        try:
            run = _first_record(log)
        except Exception as error:
            yield Unreadable(log, reason_of(error))
        else:
            logs.setdefault(_identity(run), (run, []))[1].append(log)
    for run, paths in logs.values():
        yield reading(paths[0], partial(_found, run, paths))


def _first_record(path: str) -> Run:
    if not is_regular(path):
        raise FormatError(f"{path} is no regular file.")
    for record in WandbLog(path).records():
        if isinstance(record, Run):
            return record
    raise FormatError(f"{path} does not say of which run it is: it was cut off right at the start.")


def _identity(run: Run) -> str:
    return f"{run.entity}/{run.project}/{run.id}"


def _found(first: Run, paths: list[str]) -> FoundRun:
    contents = WandbContents(first, paths)
    run, status = contents.run, _status(contents.exit_code)
    return FoundRun(
        kind=KIND,
        source=os.path.dirname(paths[0]),
        source_id=_identity(run),
        name=run.name or run.id,
        project=run.project or "wandb",
        rows=contents.rows(),
        params={name: contents.config[name] for name in contents.config if name != "_wandb"},
        tags=_tags(run),
        notes=run.notes,
        group=run.group or None,
        goals=contents.goals,
        created_at=to_iso(contents.started_at_s),
        ended_at=None if status == "running" else to_iso(contents.ended_at_s),
        status=status,
        error=f"exit code {contents.exit_code}" if status == "failed" else "",
        host=run.host or contents.environment.host,
        files=contents.files.found,
        environment=_environment(contents, paths[-1]),
        system_rows=contents.samples,
        console=contents.console(),
        not_carried=[f"{what}: {count}" for what, count in contents.left_out.items() if count],
    )


def _status(exit_code: int | None) -> str:
    if exit_code in _CRASHED:
        return "running"
    if exit_code == 0:
        return "finished"
    return "killed" if exit_code in _KILLED else "failed"


def _tags(run: Run) -> dict[str, str]:
    others = {"job_type": run.job_type, "sweep_id": run.sweep_id, "entity": run.entity}
    return dict.fromkeys(run.tags, "") | {name: text for name, text in others.items() if text}


def _environment(contents: WandbContents, path: str) -> dict[str, Any]:
    seen, run = contents.environment, contents.run
    implementation, _, version = seen.python.rpartition(" ")
    facts: dict[str, Any] = {
        "python_version": version,
        "python_implementation": implementation,
        "executable": seen.executable,
        "platform": seen.os,
        "hostname": seen.host,
        "user": seen.username,
        "argv": [seen.program, *seen.args] if seen.program else None,
        "packages": _packages(path),
    }
    if seen.gpu_type:
        devices = [{"name": seen.gpu_type}] * (seen.gpu_count or 1)
        facts["gpus"] = {"driver": None, "cuda_version": None, "devices": devices, "note": None}
    if commit := seen.git_commit or run.git_commit:
        facts["git"] = git_facts(commit, remote=seen.git_remote or run.git_remote or None)
    return {name: fact for name, fact in facts.items() if fact}


def _packages(path: str) -> dict[str, str]:
    """Read the list of installed packages, by normalised name."""
    try:
        listed = os.path.join(files_beside(path), "requirements.txt")
        with open(listed, encoding="utf-8", opener=only_regular) as file:
            found = map(_REQUIREMENT.match, file.read().splitlines())
    except (OSError, UnicodeDecodeError):
        return {}
    return {re.sub(r"[-_.]+", "-", m[1]).lower(): m[2] for m in found if m}
