"""Another name or project for a run. It knows neither: its folder's place says both.

Nothing inside the folder changes, so other runs, caches and copies elsewhere, which go by the
run's id, find it as before. ``summary.json`` goes on saying what it was called when it was made.
"""

import contextlib
import errno
import os

from experiment_tracking.errors import (
    DamagedError,
    InvalidNameError,
    InvalidValueError,
    RunBusyError,
    RunNotFoundError,
    WriteError,
)
from experiment_tracking.folder import io, layout
from experiment_tracking.folder.documents import read_document
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import status_of
from experiment_tracking.registry.far import url_of
from experiment_tracking.registry.record import RunRecord

TRASH = "_trash"
"""The folder of a root that holds its removed runs."""

Run = RunRecord | RunFolder | str | os.PathLike[str]
"""A run, or the path of its folder; one too damaged to be read has only that."""


def rename(run: Run, new_name: str, force: bool = False) -> str:
    """Give a run another name and return the new path of its folder.

    Parameters
    ----------
    run
        A record or the path of a run; a damaged one too.
    new_name
        What :func:`~experiment_tracking.folder.layout.check_name` takes, and no run of the
        project has.
    force
        Also a run that reads running. On Linux its process notices within a heartbeat (10 s)
        and goes on at the new place; elsewhere it makes the folder anew at the old one.

    Raises
    ------
    InvalidNameError
        If the name may not be one, or is taken.
    RunBusyError
        If the run reads running. Looked at once, before: a run that is resumed in that instant
        is treated as by ``force``.
    RunNotFoundError, InvalidValueError, WriteError
        If there is no run, it is a link or in the trash, or the rename would be a copy.
    """
    folder = to_folder(run)
    layout.check_name(new_name, "The run name")
    return _move(folder, os.path.join(os.path.dirname(folder.path), new_name), force)


def move(run: Run, project: str, force: bool = False) -> str:
    """Move a run to another project of its root and return the new path of its folder.

    The project is made where there is none; one that has a run of that name keeps it, and the
    move is refused. See :func:`rename` for the arguments and errors.
    """
    folder = to_folder(run)
    layout.check_name(project, "The project name")
    return _move(folder, os.path.join(folder.root, project, folder.name), force)


def _move(folder: RunFolder, target: str, force: bool) -> str:
    check_movable(folder, force)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        put(folder.path, target)
    except FileExistsError:
        new = RunFolder(target)
        raise InvalidNameError(
            f"Run {folder.project}/{folder.name} cannot become {new.project}/{new.name}: there is "
            f"a folder of that name. Choose another name, or rename that one first."
        ) from None
    return target


def to_folder(run: Run) -> RunFolder:
    """Return the folder of a run."""
    if isinstance(run, RunFolder):
        return run
    return run.folder if isinstance(run, RunRecord) else RunFolder(run)


def check_movable(folder: RunFolder, force: bool = False) -> None:
    """Refuse what is no run's folder, or one that somebody is writing.

    Raises
    ------
    RunNotFoundError, InvalidValueError, RunBusyError
        As :func:`rename` says.
    """
    if not folder.exists():
        raise RunNotFoundError(f"There is no run at {folder.path}.")
    if os.path.islink(folder.path):
        target = os.readlink(folder.path)
        raise InvalidValueError(f"{folder.path} is a link to {target}. Move that, or the link.")
    if TRASH in folder.path.split(os.sep)[-4:-1]:
        raise InvalidValueError(f"{folder.path} is in the trash. Restore it: experiments restore.")
    if url := url_of(folder.path):
        raise InvalidValueError(
            f"Run {folder.project}/{folder.name} lies in {url}, and far roots are only read. Do it "
            "where that store can be written, or sync it to a folder of this machine first."
        )
    if not force:
        check_ended(folder)


def check_ended(folder: RunFolder) -> None:
    """Refuse a run that reads running; of a damaged one the heartbeat tells."""
    try:
        summary = read_document(folder.summary)
    except (DamagedError, FileNotFoundError):
        summary = {}
    status, note = status_of(summary, folder.heartbeat)
    if status == "running":
        raise RunBusyError(
            f"Run {folder.project}/{folder.name} is being written ({note or status}). Wait until "
            "it has ended, or force it: force=True, --force."
        )


def put(source: str, target: str) -> None:
    """Rename the folder ``source`` to ``target``, never onto anything that is there.

    POSIX renames a folder onto an empty one without a word, and one that a starting run has just
    made is empty. So the name is taken by an exclusive ``mkdir`` first, as every run takes its
    own, and the rename puts the run in the place of that empty folder. A process killed between
    the two leaves the run where it was, and an empty folder.

    Raises
    ------
    FileExistsError
        If the name is taken.
    WriteError
        If the two places are on different file systems.
    """
    if os.name != "nt":  # There a rename refuses every name that is taken.
        io.mkdir(target)
    try:
        carry(source, target)
    except BaseException:
        with contextlib.suppress(OSError):  # Refuses a folder that is not empty: the run's.
            os.rmdir(target)
        raise


def carry(source: str, target: str) -> None:
    """Rename a folder to a place that nobody else can take.

    Raises
    ------
    WriteError
        If the two places are on different file systems.
    """
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise WriteError(
            f"{source} and {target} are on different file systems, and a copy may be cut short. "
            "Copy it with cp -a, look at it with experiments check, delete the old one."
        ) from error
