"""Models looked over: what ``model.json`` names is there as saved, what is registered is whole.

The formats and the model registry are floors above. Nothing of a model is opened here, let alone
executed: files are hashed, and documents read as JSON.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import layout
from experiment_tracking.folder.defects import Problem, hash_file, problem_of, read_or_tell
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import DEAD_AFTER_S

_FORMAT = 1
_PAYLOAD = re.compile(r"(weights|optimizer|program|example)-[0-9]{6,}(\.|$)")
_EVENT = re.compile(r"([0-9]{6,})\.json")

Said = tuple[Any, Any]
"""What a document says of a file: its size in bytes and its SHA-256."""


def check_saved(folder: RunFolder, listed: list[dict[str, Any]]) -> Iterator[Problem]:
    """Check the models of a run.

    Parameters
    ----------
    folder
        The run.
    listed
        The files in ``artifacts.json``, which have been compared with the disk.
    """
    known = {
        folder.file(*str(entry.get("path")).split("/")): _said(entry)
        for entry in listed
        if entry.get("kind") == "model"
    }
    for place, below, names in os.walk(folder.models):
        below.sort()
        document = os.path.join(place, layout.MODEL_DOCUMENT)
        files, problems = _named(document) if layout.MODEL_DOCUMENT in names else ({}, [])
        yield from problems
        for name in files:
            yield from _check_payload(os.path.join(place, name), _said(files[name]), known)
        if not problems:
            left = sorted(name for name in names if _PAYLOAD.match(name) and name not in files)
            yield from (_unnamed(os.path.join(place, name)) for name in left)


def _unnamed(path: str) -> Problem:
    message = "no model.json names it: its writer died before that; safe to delete"
    return Problem(path, "leftover", message)


def _said(entry: Mapping[str, Any]) -> Said:
    return entry.get("size_bytes"), entry.get("sha256")


def _named(path: str) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Return what a ``model.json`` says of each file that it names, by the file's name."""
    document, problems = read_or_tell(path, "which files the model has")
    if problems:
        return {}, problems
    if document.get("format") != _FORMAT:
        message = f"has format {document.get('format')!r:.40}, this version reads {_FORMAT}."
        return {}, [Problem(path, "format", f"{message} Upgrade experiment_tracking.")]
    named: dict[str, dict[str, Any]] = {}
    for known in _files_of(document):
        name = known.get("file") if isinstance(known, dict) else None
        if not isinstance(name, str) or not _is_bare(name):
            message = f"names {name!r:.80}, expected a file beside it"
            return {}, [Problem(path, "damaged", message)]
        named[name] = known
    return named, []


def _files_of(document: dict[str, Any]) -> Iterator[Any]:
    earlier = document.get("earlier", [])
    for save in [document, *(earlier if isinstance(earlier, list) else [earlier])]:
        files = save.get("files") if isinstance(save, dict) else None
        # What is no object is given as it is, and refused as the name of a file.
        yield from files.values() if files and isinstance(files, dict) else [files]


def _is_bare(name: str) -> bool:
    """Tell whether a name leads nowhere: the document may come from anybody."""
    return name not in ("", ".", "..") and not set("/\\\0:") & set(name)


def _check_payload(path: str, said: Said, known: Mapping[str, Said]) -> Iterator[Problem]:
    if path in known:
        if known[path] != said:
            message = "artifacts.json and model.json differ in its size or SHA-256"
            yield Problem(path, "changed", message)
        return
    try:
        found = hash_file(path)
    except (FileNotFoundError, NotADirectoryError):
        yield Problem(path, "missing", "a document beside it names it, but the file is gone")
    except (OSError, DamagedError, ValueError) as error:
        yield problem_of(path, error)
    else:
        if found != said:
            message = f"{found[0]:,} bytes that are not the {said[0]} saved"
            yield Problem(path, "changed", message)


# ---------------------------------------------------------------------- registered models


def check_registered(root: str) -> Iterator[Problem]:
    """Check the registered models of a root: their events, and the folder of each version."""
    above = os.path.join(root, layout.MODELS)
    if os.path.isdir(above) and not os.access(above, os.R_OK | os.X_OK):
        yield Problem(above, "unreadable", "the folder may not be read by this user")
    for folder in layout.iter_models(root):
        events, problems = _events(folder)
        yield from problems
        yield from _check_versions(folder, events, sure=not problems)
        yield from _abandoned(folder)
        yield from _abandoned(os.path.join(folder, "events"))
        policy = os.path.join(folder, "policy.json")
        if os.path.lexists(policy):
            yield from read_or_tell(policy, "the gates of its stages")[1]


def _events(folder: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Read the events of a model; each must follow the one before, by number and by hash."""
    place = os.path.join(folder, "events")
    numbered = {int(m[1]): name for name in _names(place) if (m := _EVENT.fullmatch(name))}
    events, problems = [], []
    expected, previous, follows = 1, None, True
    for number in sorted(numbered):
        path = os.path.join(place, numbered[number])
        if number != expected:
            gone = os.path.join(place, f"{expected:06d}.json")
            message = f"gone, though event {number} is there: nobody can tell the state any more"
            problems.append(Problem(gone, "missing", message))
        event, wrong = read_or_tell(path, "what was done then")
        problems += wrong
        if not wrong and follows and number == expected and event.get("previous") != previous:
            message = (
                "'previous' is not the SHA-256 of the event before: one of the two was changed"
            )
            problems.append(Problem(path, "changed", message))
        follows, previous = not wrong, None if wrong else hash_file(path)[1]
        expected = number + 1
        events.append(event)
    return events, problems


def _abandoned(place: str) -> Iterator[Problem]:
    for path in (os.path.join(place, name) for name in _names(place)):
        if os.path.basename(path).startswith(".") and path.endswith(".tmp") and _is_old(path):
            message = "a file whose writer died before it was renamed; safe to delete"
            yield Problem(path, "leftover", message)


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _check_versions(folder: str, events: list[dict[str, Any]], *, sure: bool) -> Iterator[Problem]:
    """Check the folder of each version; ``sure``: the events can all be read."""
    place = os.path.join(folder, "versions")
    kept = {str(version): event for version, event in registered_versions(events).items()}
    there = _names(place)
    for name in sorted(kept.keys() - set(there)):
        message = "registered and not purged, but its folder is gone"
        yield Problem(os.path.join(place, name), "missing", message)
    for name in there:
        path = os.path.join(place, name)
        if name in kept:
            yield from _check_version(path, kept[name])
        elif sure and _is_old(path):
            message = "no event names it: a registration or a purge that died; safe to delete"
            yield Problem(path, "leftover", message)


def registered_versions(events: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the event that registered each version which has not been purged since."""
    kept: dict[int, dict[str, Any]] = {}
    for event in events:
        version = event.get("version")
        if event.get("kind") == "registered" and type(version) is int:
            kept[version] = event
        elif event.get("kind") == "purged":
            kept = {n: each for n, each in kept.items() if version not in (None, n)}
    return kept


def _is_old(path: str) -> bool:
    # A younger one may be on its way in or out: the event comes behind the folder.
    try:
        return time.time() - os.lstat(path).st_mtime > DEAD_AFTER_S
    except FileNotFoundError:
        return False


def _check_version(path: str, event: dict[str, Any]) -> Iterator[Problem]:
    if os.path.islink(path):
        yield Problem(path, "damaged", "is a link; a version is a folder of regular files")
        return
    said_at = os.path.join(path, "version.json")
    version, problems = read_or_tell(said_at, "where the version came from")
    yield from problems
    if problems:
        return
    if hash_file(said_at)[1] != event.get("sha256"):
        yield Problem(said_at, "changed", "not the SHA-256 that the event has which registered it")
    files = version.get("files")
    if not isinstance(files, dict) or not all(map(_is_bare, files)):
        yield Problem(said_at, "damaged", "its files are no object by the names of files beside it")
        return
    for name, known in sorted(files.items()):
        said = _said(known) if isinstance(known, dict) else (None, None)
        yield from _check_payload(os.path.join(path, name), said, {})
    for name in sorted({*_names(path)} - {*files, "version.json"}):
        yield Problem(os.path.join(path, name), "leftover", "version.json does not name it")
