"""Look a root or a run over: what is damaged, where, and what is lost by it.

Looking changes nothing. A repair writes the mended file anew and keeps the old one beside it.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from experiment_tracking.errors import DamagedError, FormatError
from experiment_tracking.folder import amendments, io, layout
from experiment_tracking.folder.check_models import check_registered, check_saved
from experiment_tracking.folder.defects import Problem as Problem
from experiment_tracking.folder.defects import hash_file, problem_of, read_or_tell
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.history import HistoryReader, HistoryWriter, Row, parse
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import DEAD_AFTER_S, FINAL, status_of

_KEPT = ("artifacts", "figures", "models")
_MIRROR_KINDS: dict[str, tuple[type, str]] = {
    "state": (dict, "an object"), "attempt": (int, "an integer"), "offset": (int, "an integer"),
    "rows": (int, "an integer"), "left_out": (int, "an integer"), "tags": (dict, "an object"),
    "files": (dict, "an object"), "refused": (list, "a list"), "complete": (bool, "a boolean"),
}  # fmt: skip
"""What those parts of a mirror's document must be that a process goes by which goes on with it."""


def check(root: str | os.PathLike[str], *, fix: bool = False) -> list[Problem]:
    """Check a run, or every run of a root or project; of a root its registered models too.

    Of a run that is being written only the documents are checked: the rest is on its way.

    Parameters
    ----------
    root
        Folder of projects, of runs, or of one run.
    fix
        Mend what can be mended: a torn or damaged history is written anew from its whole rows,
        and the old file is kept as ``metrics_history.json.damaged-1`` beside it. A run that is
        being written is left alone, and a rank's history for 30 minutes behind its last row.

    Returns
    -------
    list of Problem
        Empty when all is well. Costs a read of every history, document and artifact.

    Raises
    ------
    RootNotFoundError
        If there is no such folder.
    """
    path = layout.existing_root(root)
    of_runs = [problem for folder in _runs_in(path) for problem in _check_run(folder, fix)]
    return [*of_runs, *check_registered(path)]


def _runs_in(path: str) -> list[RunFolder]:
    if RunFolder(path).exists() or not _can_be_listed(path):
        return [RunFolder(path)]
    below = _folders(path)
    if any(folder.exists() for folder in below):
        return below
    return [run for project in below for run in _folders(project.path)]


def _folders(path: str) -> list[RunFolder]:
    """Return the folders below, or the one that nobody may look into, so that it is named."""
    if not _can_be_listed(path):
        return [RunFolder(path)]
    return [RunFolder(os.path.join(path, name)) for name in layout.iter_projects(path)]


def _can_be_listed(path: str) -> bool:
    return os.access(path, os.R_OK | os.X_OK)


def _check_run(folder: RunFolder, fix: bool) -> Iterator[Problem]:
    if not _can_be_listed(folder.path):
        yield Problem(folder.path, "unreadable", "the folder may not be read by this user")
    elif _was_opened(folder):
        yield from _check_opened(folder, fix)
    elif not _is_live(folder, {}):
        message = "neither summary nor rows: a run that died while it was opened, or no run"
        yield Problem(folder.path, "leftover", message)


def _was_opened(folder: RunFolder) -> bool:
    if os.path.lexists(folder.summary):
        return True
    history = folder.history()
    return os.path.lexists(history) and os.lstat(history).st_size > len("[\n]\n")


def _is_live(folder: RunFolder, summary: Mapping[str, Any]) -> bool:
    return status_of(summary, folder.heartbeat)[0] == "running"


def _check_opened(folder: RunFolder, fix: bool) -> Iterator[Problem]:
    summary, problems = read_or_tell(folder.summary, "status, tags and notes")
    problems += _check_kinds(folder, summary)
    yield from problems
    if any(problem.kind == "format" for problem in problems):
        return
    readable = {} if problems else summary
    live = _is_live(folder, readable)
    if os.path.lexists(folder.summary):
        yield from read_or_tell(folder.params, "the params")[1]
    if os.path.lexists(folder.environment):
        yield from read_or_tell(folder.environment, "what it ran on")[1]
    yield from _check_mirrors(folder)
    if not live:
        yield from _check_histories(folder, readable, fix)
        yield from _check_amendments(folder)
        yield from _check_files(folder)


# ---------------------------------------------------------------------- documents


def _check_kinds(folder: RunFolder, summary: Mapping[str, Any]) -> list[Problem]:
    try:
        layout.check_format(folder, summary)
    except FormatError as error:
        return [Problem(folder.summary, "format", str(error))]
    return _wrong_kinds(folder.summary, summary, layout.SUMMARY_KINDS)


def _wrong_kinds(
    path: str, document: Mapping[str, Any], kinds: Mapping[str, tuple[type, str]]
) -> list[Problem]:
    return [
        Problem(path, "damaged", f"{key} is {type(document[key]).__name__}, expected {expected}")
        for key, (kind, expected) in kinds.items()
        if document.get(key) is not None and type(document[key]) is not kind
    ]


def _check_mirrors(folder: RunFolder) -> Iterator[Problem]:
    """Check how far copies elsewhere have come; what backends keep beside that is their own."""
    if os.path.isdir(folder.backends):
        for name in sorted(os.listdir(folder.backends)):
            if name.endswith(".json"):
                path = os.path.join(folder.backends, name)
                document, problems = read_or_tell(path, "how far that copy has come")
                yield from problems or _wrong_kinds(path, document, _MIRROR_KINDS)


def _check_amendments(folder: RunFolder) -> Iterator[Problem]:
    try:
        paths = amendments.numbers(folder).values()
    except OSError as error:
        yield problem_of(folder.amendments, error)
        return
    for path in paths:
        document, problems = read_or_tell(path, "a correction")
        yield from problems or _check_amendment(path, document)


def _check_amendment(path: str, document: dict[str, Any]) -> Iterator[Problem]:
    try:
        amendments.checked(path, document)
    except DamagedError as error:
        yield problem_of(path, error)


# ---------------------------------------------------------------------- histories


def _check_histories(folder: RunFolder, summary: dict[str, Any], fix: bool) -> Iterator[Problem]:
    yield from _check_history(folder.history(), fix, folder.summary, summary)
    for rank in folder.ranks():
        path = folder.history(rank)
        # Nothing on disk says whether a rank's process lives, and it may outlive the run's.
        yield from _check_history(path, fix and _is_old(path))


def _is_old(path: str) -> bool:
    return time.time() - os.lstat(path).st_mtime > DEAD_AFTER_S


def _check_history(
    path: str, fix: bool, summary_path: str = "", summary: Mapping[str, Any] | None = None
) -> Iterator[Problem]:
    try:
        data = io.read(path, HistoryReader.limit_bytes)
    except FileNotFoundError:
        yield Problem(path, "missing", "there is no history; all rows are lost")
        return
    except (OSError, DamagedError) as error:
        yield problem_of(path, error)
        return
    rows, _, damaged, torn = parse(data)
    problem = _defect(path, data, len(rows), damaged, torn)
    if problem:
        yield _mended(problem, data) if fix else problem
    elif summary and summary.get("status") in FINAL:
        yield from _compare(path, data, rows, summary_path, summary)


def _defect(path: str, data: bytes, rows: int, damaged: int, torn: bool) -> Problem | None:
    if damaged:
        return Problem(path, "damaged", f"{damaged} damaged lines among {rows} whole rows")
    if torn or not data.rstrip().endswith(b"]"):
        return Problem(path, "torn", f"the end is torn behind {rows} whole rows")
    try:
        orjson.loads(data)
    except ValueError:  # NULs or commas too many between rows that are all whole.
        return Problem(path, "damaged", f"{rows} whole rows, but no JSON array")
    return None


def _mended(problem: Problem, data: bytes) -> Problem:
    """Write the whole rows anew; the old bytes are on the disk beside them before."""
    path, number = problem.path, 1
    while os.path.lexists(kept := f"{path}.damaged-{number}"):
        number += 1
    try:
        # A copy, not a link: there are file systems without.
        io.close(io.create_with(kept, data))
        io.fsync_file(kept)
        HistoryWriter.reopen(path).close()
    except OSError as error:
        return problem._replace(message=f"{problem.message}; could not be mended: {error}")
    done = f"written anew from its whole rows; the old file is {os.path.basename(kept)}"
    return problem._replace(fixed=done)


def _compare(
    path: str, data: bytes, rows: list[Row], summary_path: str, summary: Mapping[str, Any]
) -> Iterator[Problem]:
    """Compare a history in good order with what the summary of the ended run says of it."""
    said = summary.get("history") or {}
    if "sha256" not in said:
        return
    if hashlib.sha256(data).hexdigest() != said["sha256"]:
        message = f"{len(data):,} bytes that are not the {said.get('bytes')} the run ended with"
        yield Problem(path, "changed", message)
        return
    digest = Digest(HistoryReader(path).rows, goals=summary.get("goals"))
    digest.update(rows)
    computed, kept = digest.to_dict(), summary.get("metrics") or {}
    wrong = [name for name in computed.keys() | kept.keys() if computed.get(name) != kept.get(name)]
    if wrong:
        message = f"metrics {', '.join(sorted(wrong)[:5])} differ from what the rows come to"
        yield Problem(summary_path, "digest", message)


# ---------------------------------------------------------------------- kept files


def _check_files(folder: RunFolder) -> Iterator[Problem]:
    listed, unread = _listed(folder)
    # Without a list that can be read nobody can say which files are not on it.
    known = None if unread else {str(entry.get("path")) for entry in listed}
    problems = [problem for entry in listed for problem in _check_file(folder, entry)]
    problems += unread
    told = {problem.path for problem in problems}
    problems += [each for each in check_saved(folder, listed) if each.path not in told]
    yield from problems
    # A model's own document says more of its files than the list.
    told = {problem.path for problem in problems}
    yield from (each for each in _check_leftovers(folder, known) if each.path not in told)


def _listed(folder: RunFolder) -> tuple[list[dict[str, Any]], list[Problem]]:
    if not os.path.lexists(folder.artifact_list):
        return [], []
    document, problems = read_or_tell(
        folder.artifact_list, "the names and hashes of the kept files"
    )
    entries = document.get("artifacts", [])
    if not isinstance(entries, list) or any(type(entry) is not dict for entry in entries):
        problems += [Problem(folder.artifact_list, "damaged", "artifacts is no list of objects")]
        return [], problems
    return entries, problems


def _check_file(folder: RunFolder, entry: dict[str, Any]) -> Iterator[Problem]:
    name = str(entry.get("path", ""))
    if not name or name.startswith("/") or ".." in name.split("/"):
        yield Problem(folder.artifact_list, "damaged", f"names {name!r}, a path outside the run")
        return
    path = folder.file(*name.split("/"))
    try:
        size, digest = hash_file(path)
    except (FileNotFoundError, NotADirectoryError):
        yield Problem(path, "missing", "listed in artifacts.json, but the file is gone")
    except (OSError, DamagedError) as error:
        yield problem_of(path, error)
    except ValueError:  # A NUL or half a surrogate pair: no name of a file.
        yield Problem(folder.artifact_list, "damaged", f"names {name!r}, which is no path")
    else:
        if digest != entry.get("sha256"):
            message = f"{size:,} bytes that are not the {entry.get('size_bytes')} logged"
            yield Problem(path, "changed", message)


def _check_leftovers(folder: RunFolder, known: set[str] | None) -> Iterator[Problem]:
    for place, folders, files in os.walk(folder.path):
        for path in sorted(os.path.join(place, name) for name in folders):
            if os.path.islink(path):
                yield Problem(path, "damaged", "is a link; a run holds regular files.")
        if place == folder.backends:
            folders.clear()  # W&B's own folders hold links
        for path in sorted(os.path.join(place, name) for name in files):
            inside = os.path.relpath(path, folder.path).replace(os.sep, "/")
            if message := _why_left_over(inside, known):
                yield Problem(path, "leftover", message)


def _why_left_over(inside: str, known: set[str] | None) -> str | None:
    if inside in (known or ()):
        return None
    name = inside.rpartition("/")[2]
    if name.startswith(".") and name.endswith(".tmp"):
        return "a file whose writer died before it was renamed; safe to delete"
    if known is not None and inside.split("/")[0] in _KEPT:
        return "not listed in artifacts.json: its writer died before that, or it is not the run's"
    return None
