"""How a launcher (``experiments run``) gives the run it has opened to the script it starts.

The launcher leaves ``handover.json`` in the run and the run's path in an environment variable.
The first process that opens a run takes the file away, and by that the run.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import encode, read_document
from experiment_tracking.folder.layout import HANDOVER_VARIABLE, RunFolder

if TYPE_CHECKING:
    from experiment_tracking.capture.code import EntryScript
    from experiment_tracking.capture.environment import Interpreter


class Subject(NamedTuple):
    """The command that a run is about, where another process executes it."""

    command: tuple[str, ...]
    cwd: str
    script: "EntryScript | None" = None
    interpreter: "Interpreter | None" = None


class Handover(NamedTuple):
    """A run that was opened for this process."""

    folder: RunFolder
    params: dict[str, Any]
    """What the person who launched it wants kept; the script's own come on top."""


def offer(
    folder: RunFolder, run_number: int = 1, params: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Let another process take the run over; return the variables that tell it so.

    Parameters
    ----------
    folder
        The run.
    run_number
        Which of the runs that the process opens is to be this one, from 1.
    params
        Those to keep where the script logs its own; the others were read off its command line.
    """
    terms = {"run_number": run_number, "params": dict(params or {})}
    io.replace_file(folder.handover, encode(terms))
    return {HANDOVER_VARIABLE: folder.path}


def withdraw(folder: RunFolder) -> bool:
    """Take the offer back; tell whether nobody had taken it."""
    try:
        os.unlink(folder.handover)
    except FileNotFoundError:
        return False
    return True


def claim(run_number: int) -> Handover | None:
    """Take the run that is offered to this process, if one is, as its ``run_number``-th."""
    path = os.environ.get(HANDOVER_VARIABLE)
    if not path:
        return None
    folder = RunFolder(path)
    try:
        terms = read_document(folder.handover)
        if terms.get("run_number") != run_number:
            return None
        # Of several processes that come at once, ranks or workers, one succeeds.
        os.unlink(folder.handover)
    except (OSError, DamagedError):
        return None  # Taken already, or on a disk that is not mounted here.
    return Handover(folder, dict(terms.get("params") or {}))
