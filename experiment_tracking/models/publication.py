"""A version into the registry: whole and flushed under a hidden name, then renamed.

Nobody sees a version before the event that names it, which comes after this. Killed anywhere
before, there is a hidden folder, which a later registration sweeps away, or one without an event,
whose number is not used again.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.hashing import Sha256, sha256
from experiment_tracking.formats.models import saved
from experiment_tracking.formats.models.saved import SavedModel
from experiment_tracking.models.documents import encode_readable
from experiment_tracking.models.folder import ModelFolder

VERSION = "version.json"
FORMAT = 1

_PIECE_BYTES = 1 << 22
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


class Published(NamedTuple):
    """A version that is in its place."""

    number: int
    sha256: str
    """Of its ``version.json``."""


class _SavedAgainError(Exception):
    """The run has saved the model again meanwhile, and a file of the older save is gone."""


def publish(
    folder: ModelFolder,
    source: SavedModel,
    describe: Callable[[Mapping[str, Any]], dict[str, Any]],
    registered: int,
) -> Published:
    """Put one save of a model into the registry, under the next free number.

    Parameters
    ----------
    source
        Where it is saved.
    describe
        Gives what ``version.json`` says of the save whose ``model.json`` this is.
    registered
        The highest number that an event has named.

    Raises
    ------
    DamagedError
        If a file is not as it was saved, is a link, or is named with a path.
    OSError
        If the disk refuses.
    """
    hidden = folder.make_hidden()
    try:
        document, files = _take_save(source, hidden)
        path = os.path.join(hidden, saved.DOCUMENT)
        data = encode_readable(document, path)
        io.close(io.create_with(path, data, durable=True))
        files[saved.DOCUMENT] = {"size_bytes": len(data), "sha256": sha256(data)}
        said = {"format": FORMAT, "name": folder.name, **describe(document), "files": files}
        return _rename(folder, hidden, said, registered)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def _take_save(source: SavedModel, hidden: str) -> tuple[dict[str, Any], dict[str, Any]]:
    while True:
        document = source.document
        try:
            return document, _take_files(source, document, hidden)
        except _SavedAgainError as gone:
            # However often: each time, two saves have been made while one was linked.
            if source.document == document:
                raise DamagedError(
                    f"{gone} It is named by model.json; restore both from the same save."
                ) from None
            for name in os.listdir(hidden):
                os.unlink(os.path.join(hidden, name))


def _take_files(
    source: SavedModel, document: Mapping[str, Any], hidden: str
) -> dict[str, dict[str, Any]]:
    files = document.get("files")
    if not isinstance(files, dict) or not files:
        raise DamagedError(f"{source.path} has no files by its model.json. Save the model again.")
    taken: dict[str, dict[str, Any]] = {}
    # All are taken before the first is read: the run may go on saving.
    for known in files.values():
        name = _checked_name(source, known)
        _link_or_copy(os.path.join(source.path, name), os.path.join(hidden, name))
        taken[name] = {key: known.get(key) for key in ("size_bytes", "sha256")}
    for name, known in taken.items():
        # What is published is looked at, not what it came from.
        check_file(os.path.join(hidden, name), known, str(source.path / name))
        io.fsync_file(os.path.join(hidden, name))
    return taken


def _checked_name(source: SavedModel, known: Any) -> str:
    name = known.get("file") if isinstance(known, dict) else None
    # A bare name: a foreign model.json must lead nowhere else, nor take the place of our own.
    bare = isinstance(name, str) and name[:1] not in ("", ".") and not set("/\\\0:") & set(name)
    if not bare or name in (saved.DOCUMENT, VERSION):
        raise DamagedError(
            f"{source.path / saved.DOCUMENT} names {name!r:.80}, expected a file beside it."
        )
    return str(name)


def _link_or_copy(source: str, target: str) -> None:
    try:
        io.link_or_copy(source, target)
    except FileNotFoundError:
        raise _SavedAgainError(f"{source} is gone.") from None


def check_file(path: str, known: Mapping[str, Any], shown: str | None = None) -> None:
    """Read a file and compare its size and hash with what is known of it.

    Parameters
    ----------
    shown
        What messages call it, by default ``path``.

    Raises
    ------
    DamagedError
        If it differs, is missing, or is no regular file.
    """
    shown = shown or path
    try:
        fd = io.open_for_reading(path)
    except FileNotFoundError:
        raise DamagedError(f"{shown} is gone. {_RESTORE}") from None
    try:
        size = os.fstat(fd).st_size
        if size != known.get("size_bytes"):
            raise DamagedError(
                f"{shown} has {size:,} bytes, {known.get('size_bytes')!r:.40} were saved. "
                f"{_RESTORE}"
            )
        digest = Sha256()
        while piece := os.read(fd, _PIECE_BYTES):
            digest.update(piece)
    finally:
        io.close(fd)
    if digest.hexdigest() != known.get("sha256"):
        raise DamagedError(f"{shown} does not have the SHA-256 that it was saved with. {_RESTORE}")


_RESTORE = "Restore all of its files from the same save."


def _rename(folder: ModelFolder, hidden: str, said: dict[str, Any], registered: int) -> Published:
    while True:
        number = max(folder.highest(), registered) + 1
        data = encode_readable({**said, "version": number}, "What is known of the run")
        io.replace_file(os.path.join(hidden, VERSION), data, durable=True)
        try:
            os.rename(hidden, folder.version(number))
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            continue  # somebody else's meanwhile
        io.fsync_folder(folder.versions)
        return Published(number, sha256(data))
