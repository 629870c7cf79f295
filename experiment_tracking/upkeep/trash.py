"""The trash of a root: runs moved out of sight, that can be had back until they are purged.

``_trash/<project>/<run>/`` holds the run's folder under its own name, and ``where.json``, which
says where it was. Everything else in there is somebody else's and stays untouched.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from experiment_tracking.errors import (
    DamagedError,
    ExperimentTrackingError,
    InvalidNameError,
    RunNotFoundError,
)
from experiment_tracking.folder import io, layout
from experiment_tracking.folder.amendments import user_name
from experiment_tracking.folder.documents import read_document, utc_now
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.registry.columns import near
from experiment_tracking.registry.moves import (
    TRASH,
    Run,
    carry,
    check_ended,
    check_movable,
    put,
    to_folder,
)
from experiment_tracking.registry.progress import Progress
from experiment_tracking.registry.summary import Unreadable
from experiment_tracking.upkeep.usage import usage

WHERE = "where.json"

_DELETING = ".deleting-"
_ABANDONED_AFTER_S = 3600.0

Root = str | os.PathLike[str]


class Trashed(NamedTuple):
    """A run in the trash."""

    key: str
    """What it is restored by: ``project/name``, with a number behind it if that was taken."""
    project: str
    """Project it was in."""
    name: str
    """Its name."""
    at: str
    """When it was removed: ISO 8601, UTC."""
    by: str
    """User who did it."""
    path: str
    """Folder of the run as it lies there."""


class Purged(NamedTuple):
    """What was deleted for good."""

    keys: list[str]
    size_bytes: int
    """What that freed: weights that a registered version has too are still on the disk."""
    problems: list[Unreadable]
    """Runs that were not deleted, or not wholly, with the reason."""


def remove(run: Run, force: bool = False) -> Trashed:
    """Move a run to the trash of its root, ``_trash/``.

    One rename: killed at any instant, the run is whole in one place or the other.

    Parameters
    ----------
    run
        A record or the path of a run; a damaged one too.
    force
        Also a run that reads running; see :func:`~experiment_tracking.registry.moves.rename`.

    Raises
    ------
    RunBusyError
        If the run reads running.
    RunNotFoundError, InvalidValueError, WriteError
        If there is no run, it is a link or in the trash already, or the trash is on another file
        system (where the project is a link).
    """
    folder = to_folder(run)
    check_movable(folder, force)
    for word in (folder.project, folder.name):
        if not _is_plain(word):
            raise InvalidNameError(
                f"{folder.path} could not be had back from the trash under the name {word!r}. "
                "Rename it first."
            )
    # Names that a foreign program gave may be none that we would make.
    project, name = layout.suggest_name(folder.project), layout.suggest_name(folder.name)
    trash = _trash_of(folder.root)
    _check_no_link(os.path.join(trash, project))
    entry = layout.allocate(trash, project, name)
    said = {"project": folder.project, "name": folder.name, "at": utc_now(), "by": user_name()}
    try:
        # All in ASCII: a name that is not UTF-8 can be written so, and no other way.
        io.replace_file(entry.file(WHERE), f"{json.dumps(said, indent=2)}\n".encode())
        # No mkdir first: killed behind that, an empty folder would look like the run.
        carry(folder.path, entry.file(folder.name))
    except BaseException:
        with contextlib.suppress(OSError):
            _drop(entry.path)
        raise
    return _read(entry)


def trashed(root: Root, problems: list[Unreadable] | None = None) -> list[Trashed]:
    """List the runs in the trash of a root, the last one removed first.

    Parameters
    ----------
    root
        Folder of projects.
    problems
        Takes the folders in the trash that do not say where they belong, which nothing here
        touches.
    """
    found = []
    for entry in _entries(_trash_of(root)):
        if _is_bare(entry.path):  # A run on its way in or out.
            continue
        try:
            found.append(_read(entry))
        except (DamagedError, OSError) as error:
            if problems is not None:
                problems.append(Unreadable(entry.path, f"{error} It is left alone."))
    return sorted(found, key=lambda each: each.at, reverse=True)


def find_trashed(root: Root, key: str) -> Trashed:
    """Return the run in the trash that ``key`` means: its key, or its name where that is unique.

    Raises
    ------
    RunNotFoundError
        If there is none, or several.
    """
    (found,) = find_all_trashed(root, [key])
    return found


def find_all_trashed(root: Root, keys: Iterable[str]) -> list[Trashed]:
    """Return the runs that several keys mean, each once; see :func:`find_trashed`."""
    there = trashed(root)
    return list(dict.fromkeys(_meant(root, there, key) for key in keys))


def _meant(root: Root, there: Sequence[Trashed], key: str) -> Trashed:
    matches = [each for each in there if each.key == key]
    matches = matches or [
        each for each in there if key in (each.name, f"{each.project}/{each.name}")
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        keys = ", ".join(each.key for each in matches)
        raise RunNotFoundError(f"Several runs in the trash answer to {key!r}: {keys}.")
    raise RunNotFoundError(
        f"There is no run {key!r} in {_trash_of(root)}. {near(key, [each.key for each in there])}"
    )


def restore(root: Root, key: str | Trashed, name: str | None = None) -> str:
    """Move a run from the trash back to its project and return the path of its folder.

    Parameters
    ----------
    root
        Folder of projects.
    key
        As :func:`find_trashed` takes it, or what it returns.
    name
        Another name to come back under.

    Raises
    ------
    RunNotFoundError
        If there is no such run in the trash, or several.
    InvalidNameError
        If its project has a run of that name by now.
    """
    found = find_trashed(root, key) if isinstance(key, str) else key
    name = found.name if name is None else layout.check_name(name, "The run name")
    above = os.path.join(os.path.abspath(root), found.project)
    os.makedirs(above, exist_ok=True)
    try:
        put(found.path, os.path.join(above, name))
    except FileExistsError:
        raise InvalidNameError(
            f"Run {found.key!r} cannot come back as {found.project}/{name}: there is a folder of "
            f"that name. Restore it under another one: name=, --name."
        ) from None
    with contextlib.suppress(OSError):  # The run is back; the next purge takes what is left.
        _drop(os.path.dirname(found.path))
    return os.path.join(above, name)


def to_purge(
    root: Root, older_than_days: float | None = None, keys: Iterable[str] | None = None
) -> list[Trashed]:
    """Choose runs in the trash: those named, all by default, and of these the old ones.

    Parameters
    ----------
    root
        Folder of projects.
    older_than_days
        Removed longer ago than that.
    keys
        As :func:`find_trashed` takes them.
    """
    chosen = trashed(root) if keys is None else find_all_trashed(root, keys)
    if older_than_days is not None:
        limit = datetime.now(UTC) - timedelta(days=older_than_days)
        chosen = [each for each in chosen if datetime.fromisoformat(each.at) < limit]
    return chosen


def purge(
    root: Root, older_than_days: float | None = None, keys: Iterable[str] | None = None
) -> Purged:
    """Delete runs in the trash for good; see :func:`to_purge` for which.

    Links are deleted, never followed, and nothing outside ``_trash/`` is touched. A run that is
    still written is left there. Of a purge that was killed half-way the next one deletes the rest.
    """
    return delete(root, to_purge(root, older_than_days, keys))


def delete(root: Root, chosen: Sequence[Trashed]) -> Purged:
    """Delete these runs of the trash for good; see :func:`purge`."""
    _sweep(_trash_of(root))
    sizes: dict[str, int] = {}
    problems: list[Unreadable] = []
    with Progress("deleting") as progress:
        for done, each in enumerate(chosen, 1):
            try:
                sizes[each.key] = _delete(each)
            except (OSError, ExperimentTrackingError) as error:
                problems.append(Unreadable(each.path, str(error)))
            progress(done, len(chosen))
    return Purged(list(sizes), sum(sizes.values()), problems)


def _delete(found: Trashed) -> int:
    check_ended(RunFolder(found.path))
    entry = os.path.dirname(found.path)
    # First out of the list: half a run must not look like one that can be restored.
    hidden = _hidden(os.path.dirname(os.path.dirname(entry)))
    os.rename(entry, hidden)
    (measured,) = usage([os.path.join(hidden, found.name)])
    shutil.rmtree(hidden)
    return measured.freed_bytes


def _sweep(trash: str) -> None:
    """Delete what a killed purge, removal or restoring has left; never a run."""
    with contextlib.suppress(FileNotFoundError), os.scandir(trash) as listed:
        half_deleted = [entry.path for entry in listed if entry.name.startswith(_DELETING)]
        for path in half_deleted:
            # Another purge may be at it, and whatever stays is tried again the next time.
            shutil.rmtree(path, ignore_errors=True)
    for entry in _entries(trash):
        with contextlib.suppress(FileNotFoundError):
            age_s = time.time() - os.lstat(entry.path).st_mtime
            if age_s > _ABANDONED_AFTER_S:
                _drop(entry.path)


def _is_bare(entry: str) -> bool:
    """Tell whether an entry holds no run, nor anything else that is not ours."""
    try:
        with os.scandir(entry) as listed:
            # A run may be called like a file of ours; it is a folder.
            return all(
                (each.name == WHERE or each.name.startswith(f".{WHERE}."))
                and each.is_file(follow_symlinks=False)
                for each in listed
            )
    except OSError:
        return False


def _drop(entry: str) -> None:
    """Delete an entry that holds nothing but our own words."""
    if _is_bare(entry):
        for name in os.listdir(entry):
            os.unlink(os.path.join(entry, name))
        os.rmdir(entry)


# ---------------------------------------------------------------------- what is there


def _trash_of(root: Root) -> str:
    path = os.path.join(os.path.abspath(root), TRASH)
    _check_no_link(path)
    return path


def _check_no_link(path: str) -> None:
    if os.path.islink(path):
        raise DamagedError(f"{path} is a link, and what lies elsewhere is no trash. Delete it.")


def _entries(trash: str) -> Iterator[RunFolder]:
    for project in _folders(trash):
        yield from map(RunFolder, _folders(project))


def _folders(path: str) -> list[str]:
    """List folders that are no links and not hidden."""
    try:
        with os.scandir(path) as listed:
            return sorted(
                entry.path
                for entry in listed
                if entry.name[0] not in "._" and entry.is_dir(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []


def _read(entry: RunFolder) -> Trashed:
    path = entry.file(WHERE)
    said = read_document(path)
    for word in ("project", "name", "at", "by"):
        if not isinstance(said.get(word), str):
            raise DamagedError(f"{path} does not say {word!r}.")
    for word in ("project", "name"):
        if not _is_plain(said[word]):
            raise DamagedError(f"{path} names {said[word]!r:.60}, which is no project or run.")
    if _moment(said["at"]) is None:
        raise DamagedError(f"{path} has {said['at']!r:.60} as 'at', expected a time.")
    run = entry.file(said["name"])
    if os.path.islink(run) or not os.path.isdir(run):
        raise DamagedError(f"{run} is not there, or no folder.")
    key = f"{entry.project}/{entry.name}"
    return Trashed(key, said["project"], said["name"], said["at"], said["by"], run)


def _is_plain(name: str) -> bool:
    """Tell whether a name leads nowhere else: the document may come from anybody."""
    return name[:1] not in ("", ".", "_") and name != WHERE and not {"/", "\\", "\0"} & set(name)


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _hidden(folder: str) -> str:
    return os.path.join(folder, f"{_DELETING}{os.getpid()}-{os.urandom(4).hex()}")
