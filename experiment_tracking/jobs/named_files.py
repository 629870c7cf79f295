"""The files and folders that a command line names, as inputs of its run."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiment_tracking.capture.code import name_inside
from experiment_tracking.capture.redaction import redact_arguments
from experiment_tracking.errors import ExperimentTrackingError
from experiment_tracking.formats.inputs import describe_input
from experiment_tracking.jobs.command import SCRIPT_SUFFIXES, Command
from experiment_tracking.notices import notice
from experiment_tracking.run import Run

_MOST_BYTES = 10 * 2**30
"""Larger inputs are not hashed: that would hold the start up for more than some seconds."""


def log_named_files(
    run: Run, command: Command, recorded: Sequence[str], cwd: str
) -> dict[str, dict[str, Any]]:
    """Log the files and folders that a command line names as inputs, as they are called there.

    Not code, which the run keeps, and no folder around the working directory or the runs.

    Parameters
    ----------
    recorded
        The words by which they are called; those of the command itself if empty.
    cwd
        Where the command runs.

    Returns
    -------
    dict
        What was logged, by name; without hashes.
    """
    start = len(command.words) - len(command.arguments)
    names = redact_arguments(recorded or command.words)[start:]
    logged = {}
    for name, path in _paths(command.arguments, names, cwd):
        if name_inside(cwd, path) or name_inside(str(run.path), path):
            continue
        # In the folder of a rerun, which will be gone, data is a link to where it stays.
        path = os.path.realpath(path) if recorded else path
        try:
            found = describe_input(path, hash=False)
            if size_bytes := found["size_bytes"]:
                entry = describe_input(path, hash=size_bytes <= _MOST_BYTES)
                run._log_input({"name": name, **entry})
                logged[name] = found
        except ExperimentTrackingError as error:
            notice(f"{name} is not kept as an input: {error}")
    return logged


def _paths(arguments: Sequence[str], names: Sequence[str], cwd: str) -> Iterator[tuple[str, str]]:
    for name, word in zip(names, arguments, strict=False):
        given = word if os.path.exists(os.path.join(cwd, word)) else word.rpartition("=")[2]
        path = os.path.normpath(os.path.join(cwd, given))
        is_data = os.path.isfile(path) or os.path.isdir(path)
        if given and is_data and not path.endswith(SCRIPT_SUFFIXES):
            yield (name if given == word else name.rpartition("=")[2]), path


def written_since(named: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of what is not as it was: what a command writes to is no input of it."""
    return [name for name, then in named.items() if _now(then["path"]) != then]


def _now(path: str) -> dict[str, Any]:
    try:
        return describe_input(path, hash=False)
    except ExperimentTrackingError:  # It is gone.
        return {}
