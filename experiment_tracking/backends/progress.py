"""How far a mirror has come: ``backends/<name>.json``, begun and read.

Whoever holds the claim replaces it (``mirror.py``); everybody else reads.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiment_tracking.backends.catalog import Target
from experiment_tracking.backends.kept_files import kept_files
from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import encode, read_document, utc_now
from experiment_tracking.folder.history import START
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import FINAL

_CLOSING_BYTES = len(b"\n]\n")
_ADVICE = (
    "Delete it and the copy is begun anew: MLflow and W&B know what they have, another backend may "
    "get rows a second time."
)


class Progress(NamedTuple):
    """How far a mirror has come."""

    complete: bool
    """Whether the service has all of an ended run, its end too."""
    owed_bytes: int
    """Bytes of history that it has not been given."""
    owed_files: int
    """Files, folders and models that it has not been given."""
    error: str | None
    """What is wrong, or the last thing that was refused; credentials taken off."""
    failing: bool
    """Whether that keeps the mirror from going on: it is tried again and again."""
    url: str | None
    """Where people see the copy."""
    refused: int = 0
    """How many things the service refused, which were left out."""

    def failed_by(self, error: str | None) -> "Progress":
        """Return the same with what is wrong besides, if anything."""
        return self if error is None else self._replace(error=error, failing=True)


def read_progress(folder: RunFolder, name: str) -> Progress:
    """Tell from the folder alone how far the mirror ``name`` has come; takes nothing, asks nobody.

    Raises
    ------
    DamagedError
        If ``backends/<name>.json`` is not what it should be.
    """
    return progress_of(folder, read_state(folder.backend(name)))


def progress_of(folder: RunFolder, state: Mapping[str, Any]) -> Progress:
    """Tell what a state comes to, held against what the folder has now."""
    complete = state["complete"] and _is_of_this_end(folder, state)
    owed_bytes, owed_files = (0, 0) if complete else _owed(folder, state)
    refused = state["refused"]
    error = state["error"] or (
        f"{refused[-1]['what']}: {refused[-1]['reason']}" if refused else None
    )
    return Progress(
        complete=complete,
        owed_bytes=owed_bytes,
        owed_files=owed_files,
        error=error,
        failing=state["error"] is not None,
        url=state["state"].get("url"),
        refused=len(refused) + state["refused_more"],
    )


def _is_of_this_end(folder: RunFolder, state: Mapping[str, Any]) -> bool:
    """Tell whether the end that was given is the run's, not that of an earlier attempt."""
    try:
        summary = read_document(folder.summary)
    except (OSError, DamagedError):
        return True  # Nothing says otherwise.
    attempts, said = summary.get("attempts"), summary.get("status")
    number = max(len(attempts), 1) if isinstance(attempts, list) else 1
    return bool(state["attempt"] == number and (said not in FINAL or said == state["status"]))


def _owed(folder: RunFolder, state: Mapping[str, Any]) -> tuple[int, int]:
    try:
        end = os.path.getsize(folder.history()) - _CLOSING_BYTES
    except OSError:
        end = 0
    try:
        listed = read_document(folder.artifact_list).get("artifacts")
    except (OSError, DamagedError):
        listed = []
    given = state["files"]
    owed = [kept for kept in kept_files(listed)[0] if given.get(kept.path) != kept.mark]
    return max(0, end - state["offset"]), len(owed)


def fresh_state() -> dict[str, Any]:
    """Return the state of a mirror that has come nowhere."""
    return {
        "backend": "", "options": {}, "place": "", "state": {}, "claim": None, "attempt": 1,
        "offset": START, "rows": 0, "left_out": 0, "last_row": None,
        "params": None, "tags": {}, "notes": "", "environment": None, "files": {},
        "refused": [], "refused_more": 0, "status": None, "complete": False,
        "error": None, "error_since": None, "failed_at": None, "updated_at": utc_now(),
    }  # fmt: skip


def read_state(path: str) -> dict[str, Any]:
    """Read how far a mirror has come; a new one has come nowhere.

    Raises
    ------
    DamagedError
        If the file is not what it should be, with what to do.
    """
    fresh = fresh_state()
    kept: dict[str, Any] = {}
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            kept = read_document(path)
    except DamagedError as error:
        raise DamagedError(f"{error} {_ADVICE}") from error
    for key, value in fresh.items():
        if value is not None and type(kept.get(key, value)) is not type(value):
            found, expected = type(kept[key]).__name__, type(value).__name__
            raise DamagedError(f"{path}: {key} is {found}, expected {expected}. {_ADVICE}")
    return fresh | kept


def begun_state(target: Target, redact: Callable[[str], str]) -> dict[str, Any]:
    """Return what a state says of where its mirror is; credentials taken off."""
    return {"backend": target.backend, "options": _public("", target.options, redact)}


def begin(
    folder: RunFolder,
    target: Target,
    redact: Callable[[str], str],
    state: Mapping[str, Any] | None = None,
) -> None:
    """Note that a mirror is to be made, unless there is a note of it; it is not claimed by that.

    So ``experiments push RUN`` knows where to, whatever becomes of the process that mirrors.
    ``state`` is what the backend itself has kept of an earlier copy.

    Raises
    ------
    OSError
        If the folder is gone or takes no file.
    """
    with contextlib.suppress(FileExistsError):
        io.mkdir(folder.backends)
    path = folder.backend(target.name)
    if not os.path.lexists(path):
        begun = fresh_state() | begun_state(target, redact) | {"state": dict(state or {})}
        with contextlib.suppress(FileExistsError):
            io.create_whole(path, encode(begun))


def _public(key: str, value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {inner: _public(inner, one, redact) for inner, one in value.items()}
    if isinstance(value, list | tuple):
        return [_public(key, one, redact) for one in value]
    if not isinstance(value, str):
        return value
    # As on a command line, where names such as token give a value away.
    return redact(f"--{key}={value}").removeprefix(f"--{key}=")
