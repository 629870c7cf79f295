"""How a run that another program kept becomes a run folder, as complete as a tracked one."""

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiment_tracking import logs
from experiment_tracking.backends import events
from experiment_tracking.capture.redaction import redact_text
from experiment_tracking.errors import DamagedError, ExperimentTrackingError, InvalidNameError
from experiment_tracking.folder import io, layout, values
from experiment_tracking.folder.documents import (
    encode,
    read_document,
    seconds_between,
    utc_now,
)
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import FINAL, Heartbeat, is_alive_here, read_heartbeat
from experiment_tracking.importers.copied_files import copy_files, count_files
from experiment_tracking.importers.found import FoundRun
from experiment_tracking.importers.written_rows import FittingRows, WrittenHistory

_HIDDEN = ".import."
_ABANDONED_AFTER_S = 24 * 3600
"""Of an import on a machine whose processes cannot be seen from here."""


class Imported(NamedTuple):
    """What became of a run."""

    key: str
    """``project/name``."""
    outcome: str
    """``imported``, ``known`` (imported before), ``found`` (nothing was to be written)."""
    path: str
    rows: int
    metrics: int
    files: int
    not_carried: list[str]
    """As it stands in the summary, without secrets."""


class Importer:
    """Write runs into a root; one that a project has from the same source is left alone.

    Parameters
    ----------
    root
        Folder of projects.
    project, name
        In place of those of the source; a name that is taken gets ``-2``, ``-3``, …
    again
        Write runs that were imported before once more, as copies.
    tensorboard
        Write TensorBoard's files as well, 10 µs a row.
    write
        False: only read the source, and say what would become of it.
    """

    def __init__(
        self,
        root: str,
        *,
        project: str | None = None,
        name: str | None = None,
        again: bool = False,
        tensorboard: bool = True,
        write: bool = True,
    ) -> None:
        self.root = root
        self._project = None if project is None else layout.check_name(project, "The project name")
        self._name = None if name is None else layout.check_name(name, "The run name")
        self._again = again
        self._tensorboard = tensorboard
        self._write = write
        # Ids come from the source, so that a child knows its parent's before either is written.
        # A copy needs others.
        self._salt = os.urandom(8).hex() if again else project or ""
        self._known: dict[str, dict[tuple[str, str], RunFolder]] = {}

    def take(self, found: FoundRun) -> Imported:
        """Write one run: all of it, or nothing that a reader sees.

        Raises
        ------
        OSError, ValueError, LookupError
            If the source or the root fails. Nothing is left behind.
        """
        project = self._project or _fitting(found.project, "project", found)
        name = self._name or _fitting(found.name, "run", found)
        known = self._known_in(project).get(_key(found))
        if known is not None and not self._again:
            return Imported(f"{project}/{known.name}", "known", known.path, 0, 0, 0, [])
        if not self._write:
            return self._looked_at(found, project, name)
        return self._written(found, project, name)

    def _looked_at(self, found: FoundRun, project: str, name: str) -> Imported:
        rows = FittingRows(found, found.rows)
        number, files = sum(1 for _ in rows), count_files(found.files)
        path, not_carried = os.path.join(self.root, project, name), _texts(found.not_carried)
        return Imported(
            f"{project}/{name}", "found", path, number, rows.metrics, files, not_carried
        )

    def _known_in(self, project: str) -> dict[tuple[str, str], RunFolder]:
        if project not in self._known:
            if self._write:
                _sweep(os.path.join(self.root, project))
            folders = layout.iter_runs(self.root, project)
            self._known[project] = {key: f for f in folders if (key := _origin(f)) is not None}
        return self._known[project]

    def _written(self, found: FoundRun, project: str, name: str) -> Imported:
        above = os.path.join(self.root, project)
        os.makedirs(above, exist_ok=True)
        # Readers pass over names that begin with a dot: what is killed here is no run.
        hidden = RunFolder(f"{above}/{_HIDDEN}{os.getpid()}.{os.urandom(4).hex()}.tmp")
        os.mkdir(hidden.path)
        try:
            Heartbeat(hidden.heartbeat).beat()  # for whoever finds it here later
            summary, files = self._fill(hidden, found)
            folder = layout.allocate(self.root, project, name)
            summary |= {"name": folder.name, "project": project}
            io.replace_file(hidden.summary, encode(summary))
            os.unlink(hidden.heartbeat)
            _move(hidden.path, folder.path)
        except BaseException:
            shutil.rmtree(hidden.path, ignore_errors=True)
            raise
        self._known_in(project)[_key(found)] = folder
        if self._tensorboard:
            events.write_again(folder)  # derived from the folder, which is whole
        return Imported(
            f"{project}/{folder.name}",
            "imported",
            folder.path,
            summary["history"]["rows"],
            len(summary["metrics"]),
            files,
            summary["imported_from"]["not_carried"],
        )

    def _fill(self, folder: RunFolder, found: FoundRun) -> tuple[dict[str, Any], int]:
        """Write everything but the summary, which is returned, with the number of files."""
        history = WrittenHistory(folder.history(), FittingRows(found, found.rows), _goals(found))
        _write_system_rows(folder, found)
        _write_console(folder, found)
        artifacts = copy_files(folder, found)
        documents = {
            folder.params: _plain("params", found.params, found),
            folder.artifact_list: {"artifacts": artifacts},
            folder.environment: _plain("environment", found.environment, found),
            folder.inputs: {"inputs": [_to_input(entry, found) for entry in found.inputs]},
        }
        for path, value in documents.items():
            io.replace_file(path, encode(value))
        return self._summary(found, history), len(artifacts)

    def _id(self, found: FoundRun, source_id: str) -> str:
        text = f"{found.kind}\0{source_id}\0{self._salt}"
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]

    def _summary(self, found: FoundRun, history: WrittenHistory) -> dict[str, Any]:
        created_at = found.created_at or history.first_at or utc_now()
        final = found.status in FINAL
        ended_at = (found.ended_at or history.last_at or created_at) if final else None
        duration_s = None if ended_at is None else _span_s(created_at, ended_at)
        attempt = {"started_at": created_at, "status": found.status, "host": found.host, "pid": 0}
        if final:
            attempt |= {"ended_at": ended_at, "duration_s": duration_s}
        summary: dict[str, Any] = {
            "format": layout.FORMAT,
            "id": self._id(found, found.source_id),
            "name": "",
            "project": "",
            "status": found.status if final else "running",
            "created_at": created_at,
            "ended_at": ended_at,
            "duration_s": duration_s,
            "tags": _tags(found),
            "notes": logs.to_text(found.notes, "notes"),
            "group": None if found.group is None else logs.to_text(found.group, "group"),
            "parent": None if found.parent is None else self._id(found, found.parent),
            "attempts": [attempt],
            "goals": _goals(found),
            "metrics": history.digest.to_dict(),
            "history": history.facts(final=final),
        }
        if throughput := history.throughput.to_dict():
            summary["throughput"] = throughput
        if found.error:
            summary["error"] = _to_error(found.error)
        summary["imported_from"] = {
            "kind": found.kind,
            "source": logs.to_text(found.source, "source"),
            "id": _key(found)[1],
            "imported_at": utc_now(),
            "not_carried": _texts(found.not_carried),
        }
        return summary


def _key(found: FoundRun) -> tuple[str, str]:
    return found.kind, str(values.to_plain(found.source_id))


def _origin(folder: RunFolder) -> tuple[str, str] | None:
    try:
        origin = read_document(folder.summary).get("imported_from")
    except (OSError, DamagedError):
        return None
    if not isinstance(origin, dict):
        return None
    return str(origin.get("kind")), str(origin.get("id"))


def _sweep(project: str) -> None:
    """Take away what imports left that were killed."""
    try:
        names = [name for name in os.listdir(project) if name.startswith(_HIDDEN)]
    except OSError:
        return  # There is no such project yet.
    for folder in (RunFolder(os.path.join(project, name)) for name in names):
        if _is_abandoned(folder):
            shutil.rmtree(folder.path, ignore_errors=True)


def _is_abandoned(folder: RunFolder) -> bool:
    alive = is_alive_here(folder.heartbeat)
    if alive is not None:
        return not alive
    # It beats once, at the start; without a beat the import died, or was begun, at that moment.
    seen = read_heartbeat(folder.heartbeat)
    try:
        begun_at_s = seen[1] if seen else os.stat(folder.path).st_mtime
    except OSError:
        return False  # It is a run by now.
    return time.time() - begun_at_s > _ABANDONED_AFTER_S


def _fitting(name: str, what: str, found: FoundRun) -> str:
    """Return a name that a folder may have, and say so where it is another."""
    try:
        return layout.check_name(name, what)
    except InvalidNameError:
        fitting = layout.suggest_name(name)
        found.not_carried.append(f"{what} name {name!r:.200}: it is {fitting!r} here")
        return fitting


def _move(source: str, target: str) -> None:
    """Put a folder in the place of an empty one."""
    if os.name == "nt":  # which does not rename over folders
        os.rmdir(target)
    os.rename(source, target)


def _span_s(created_at: str, ended_at: str) -> float:
    return round(max(0.0, seconds_between(created_at, ended_at)), 3)


def _plain(what: str, value: Any, found: FoundRun) -> dict[str, Any]:
    try:
        return logs.to_params(value)
    except ExperimentTrackingError as error:
        found.not_carried.append(f"{what}: {error}")
        return {}


def _goals(found: FoundRun) -> dict[str, str]:
    return {values.stored_name(name): goal for name, goal in found.goals.items()}


def _texts(not_carried: list[str]) -> list[str]:
    return [logs.to_text(text, "not_carried") for text in not_carried]


def _tags(found: FoundRun) -> dict[str, str]:
    try:
        return logs.to_tags(found.tags)
    except ExperimentTrackingError as error:
        found.not_carried.append(f"tags: {error}")
        return {}


def _to_error(text: str) -> dict[str, str]:
    """Take the last line of a traceback apart; a text of another kind is the message."""
    last = logs.to_text(text, "error").strip().rpartition("\n")[2]
    kind, colon, message = last.partition(":")
    named = bool(colon) and kind.replace(".", "_").isidentifier()
    return {
        "type": kind.rpartition(".")[2] if named else "Error",
        "message": (message.strip() if named else last)[:1000],
    }


def _to_input(entry: Mapping[str, Any], found: FoundRun) -> dict[str, Any]:
    return _plain("inputs", entry, found) | {"logged_at": found.created_at or utc_now()}


def _write_system_rows(folder: RunFolder, found: FoundRun) -> None:
    rows = iter(FittingRows(found, found.system_rows))
    first = next(rows, None)
    if first is not None:
        WrittenHistory(folder.system_metrics, (row for part in ([first], rows) for row in part))


def _write_console(folder: RunFolder, found: FoundRun) -> None:
    pieces = iter(found.console)
    first = next(pieces, None)
    if first is None:
        return
    with open(folder.console, "xb") as file:
        for part in ([first], pieces):
            file.writelines(redact_text(piece).encode() for piece in part)
