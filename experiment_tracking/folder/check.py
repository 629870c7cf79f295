"""Look a root or a run over: what is damaged, where, and what is lost by it.

Looking changes nothing. A repair writes the mended file anew and keeps the old one beside it.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io, layout
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.documents import read_document
from experiment_tracking.folder.history import HistoryReader, HistoryWriter
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import FINAL, status_of


class Problem(NamedTuple):
    """One defect."""

    path: str
    """The file."""
    kind: str
    """``unreadable``, ``damaged``, ``torn``, ``missing``, ``changed``, ``digest``, ``format``
    or ``leftover``."""
    message: str
    """What was found and what it costs."""
    fixed: str | None = None
    """What a repair did about it."""


def check(root: str | os.PathLike[str], *, fix: bool = False) -> list[Problem]:
    """Check a run, or every run of a root or project.

    Parameters
    ----------
    root
        Folder of projects, of runs, or of one run.
    fix
        Mend what can be mended: a torn or damaged history is written anew from its whole rows,
        and the old file is kept as ``metrics_history.json.damaged-1`` beside it. A run that is
        being written is left alone.

    Returns
    -------
    list of Problem
        Empty when all is well. Costs one read of every history, document and artifact.
    """
    folders = list(_runs_in(os.path.abspath(root)))
    return [problem for folder in folders for problem in _check_run(folder, fix)]


def _runs_in(path: str) -> Iterator[RunFolder]:
    if RunFolder(path).exists():
        yield RunFolder(path)
        return
    direct = list(layout.iter_runs(os.path.dirname(path), os.path.basename(path)))
    yield from direct or _all_of_root(path)


def _all_of_root(root: str) -> Iterator[RunFolder]:
    for project in layout.iter_projects(root):
        above = os.path.join(root, project)
        for entry in sorted(os.scandir(above), key=lambda entry: entry.name):
            if entry.name[0] not in "._" and entry.is_dir(follow_symlinks=False):
                yield RunFolder(entry.path)


def _check_run(folder: RunFolder, fix: bool) -> Iterator[Problem]:
    if not folder.exists():
        message = "a run folder without a summary: its process died while opening it"
        yield Problem(folder.path, "leftover", message)
        return
    summary, problems = _read(folder.summary, required=True)
    yield from problems
    found = summary.get("format", 0) if summary else layout.FORMAT
    if not isinstance(found, int) or found > layout.FORMAT:
        message = f"format {found}, this version reads 1 to {layout.FORMAT}; upgrade the package"
        yield Problem(folder.summary, "format", message)
        return
    for path in (folder.params, folder.environment):
        yield from _read(path)[1]
    live = bool(summary) and status_of(summary, folder.heartbeat)[0] == "running"
    yield from _check_histories(folder, summary, live, fix)
    yield from _check_artifacts(folder)
    if not live:
        yield from _check_leftovers(folder)


def _read(path: str, *, required: bool = False) -> tuple[dict[str, Any], list[Problem]]:
    try:
        return read_document(path), []
    except FileNotFoundError:
        message = "missing; status, tags and notes of the run are lost"
        return {}, [Problem(path, "missing", message)] if required else []
    except DamagedError as error:
        return {}, [Problem(path, "damaged", f"{error} Its contents are lost.")]
    except OSError as error:
        return {}, [Problem(path, "unreadable", f"cannot be read now: {error}")]


def _check_histories(
    folder: RunFolder, summary: dict[str, Any], live: bool, fix: bool
) -> Iterator[Problem]:
    for rank in (None, *folder.ranks()):
        path = folder.history(rank)
        # Whether a rank's process lives is not recorded; its tail may be on its way.
        yield from _check_history(path, live, fix and not live)
    if summary.get("status") in FINAL:
        yield from _check_against_summary(folder, summary)


def _check_history(path: str, live: bool, fix: bool) -> Iterator[Problem]:
    try:
        seen = HistoryReader(path).since()
    except DamagedError as error:
        yield Problem(path, "damaged", str(error))
        return
    except OSError as error:
        yield Problem(path, "unreadable", f"cannot be read now: {error}")
        return
    if not os.path.lexists(path):
        yield Problem(path, "missing", "there is no history; all rows are lost")
        return
    kind = "damaged" if seen.damaged else "torn"
    closed = io.read(path, HistoryReader.limit_bytes)[-3:] == b"\n]\n"
    if live or (not seen.damaged and not seen.torn and closed):
        return
    message = (
        f"{seen.damaged} damaged lines among {len(seen.rows)} whole rows"
        if seen.damaged
        else f"the end is torn behind {len(seen.rows)} whole rows"
    )
    yield Problem(path, kind, message, _mend(path) if fix else None)


def _mend(path: str) -> str:
    """Write the whole rows anew; the old file stays beside, by a link made before it goes."""
    number = 1
    while os.path.lexists(kept := f"{path}.damaged-{number}"):
        number += 1
    os.link(path, kept)
    HistoryWriter.reopen(path).close()
    return f"written anew from its whole rows; the old file is {os.path.basename(kept)}"


def _check_against_summary(folder: RunFolder, summary: dict[str, Any]) -> Iterator[Problem]:
    said = summary.get("history")
    if not isinstance(said, dict) or "sha256" not in said:
        return
    path = folder.history()
    try:
        data = io.read(path, HistoryReader.limit_bytes)
    except (OSError, DamagedError):
        return  # Named by the check of the file itself.
    if hashlib.sha256(data).hexdigest() != said["sha256"]:
        message = f"{len(data)} bytes that differ from the {said.get('bytes')} the run ended with"
        yield Problem(path, "changed", message)
        return
    yield from _check_digest(folder, summary)


def _check_digest(folder: RunFolder, summary: dict[str, Any]) -> Iterator[Problem]:
    reader = HistoryReader(folder.history())
    digest = Digest(reader.rows, goals=summary.get("goals"))
    digest.update(reader.rows())
    computed, said = digest.to_dict(), summary.get("metrics", {})
    wrong = [name for name in computed.keys() | said.keys() if computed.get(name) != said.get(name)]
    if wrong:
        message = f"metrics {', '.join(sorted(wrong)[:5])} differ from what the rows come to"
        yield Problem(folder.summary, "digest", message)


def _check_artifacts(folder: RunFolder) -> Iterator[Problem]:
    listed, problems = _read(folder.artifact_list)
    yield from problems
    entries = listed.get("artifacts", [])
    for entry in entries if isinstance(entries, list) else []:
        yield from _check_artifact(folder, entry if isinstance(entry, dict) else {})


def _check_artifact(folder: RunFolder, entry: dict[str, Any]) -> Iterator[Problem]:
    name = str(entry.get("path", ""))
    if not name or name.startswith("/") or ".." in name.split("/"):
        yield Problem(folder.artifact_list, "damaged", f"names {name!r}, a path outside the run")
        return
    path = folder.file(*name.split("/"))
    try:
        size, digest = _hash_file(path)
    except FileNotFoundError:
        yield Problem(path, "missing", "listed in artifacts.json, but the file is gone")
    except DamagedError as error:
        yield Problem(path, "damaged", str(error))
    except OSError as error:
        yield Problem(path, "unreadable", f"cannot be read now: {error}")
    else:
        if digest != entry.get("sha256"):
            message = f"{size:,} bytes that differ from the {entry.get('size_bytes')} logged"
            yield Problem(path, "changed", message)


def _hash_file(path: str) -> tuple[int, str]:
    digest, offset = hashlib.sha256(), 0
    fd = io.open_for_reading(path)
    try:
        while chunk := io.pread(fd, 1 << 20, offset):
            digest.update(chunk)
            offset += len(chunk)
    finally:
        io.close(fd)
    return offset, digest.hexdigest()


def _check_leftovers(folder: RunFolder) -> Iterator[Problem]:
    for entry in os.scandir(folder.path):
        if entry.name.startswith(".") and entry.name.endswith(".tmp"):
            message = "a file whose writer died before it was renamed; safe to delete"
            yield Problem(entry.path, "leftover", message)
