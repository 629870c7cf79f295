"""How a run that another program kept becomes a run folder, as complete as a tracked one.

An importer is a module of this package with three names:

``KIND``
    One word that people type, such as ``"mlflow"``.
``recognizes(path: str) -> bool``
    Whether this file or folder, with everything below it, is one place of its kind. Cheap: it is
    asked of every folder that is walked through.
``runs(path: str, options: Options) -> Iterator[FoundRun | Unreadable]``
    The runs in such a place. One that cannot be read is an :class:`Unreadable` and stops no other.

It hands over what it found as it is; names, numbers and secrets are seen to here. What cannot be
kept is said in ``FoundRun.not_carried``, in words that are the same for each run it happens to,
so that they can be counted.
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import orjson

from experiment_tracking import logs
from experiment_tracking.backends import events
from experiment_tracking.capture.redaction import redact_text
from experiment_tracking.errors import DamagedError, ExperimentTrackingError, InvalidNameError
from experiment_tracking.folder import io, layout, values
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.documents import (
    encode,
    read_document,
    seconds_between,
    utc_now,
)
from experiment_tracking.folder.history import START, Row
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import FINAL
from experiment_tracking.folder.throughput import Throughput

FoundRow = tuple[int | None, float | None, Mapping[str, Any]]
"""Step (None: the last one + 1), Unix seconds (None: those of the row before), names to numbers."""

_PIECE_ROWS = 1000
_IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
_PLACES = {"model": "models", "figure": "figures", "image": "figures"}


class Options(NamedTuple):
    """What the person who imports may say about the source; each importer takes what it knows."""

    step: str | None = None
    """Column of steps."""
    time: str | None = None
    """Column of times."""
    run_column: str | None = None
    """Column whose values tell runs apart."""
    deleted: bool = False
    """Whether runs count that were deleted in the source."""


class Unreadable(NamedTuple):
    """A run of the source that cannot be read."""

    place: str
    reason: str


class FoundFile(NamedTuple):
    """A file of the source, or a folder with all files below it."""

    path: str
    """Where it lies now."""
    name: str
    """As it was logged; ``/`` makes folders. With a step, the name ends in ``-000003.png``."""
    kind: str | None = None
    """``image``, ``figure``, ``model``, ``table``, …; None: by its suffix, file by file."""
    step: int | None = None
    description: str | None = None


@dataclass
class FoundRun:
    """One run as a source holds it."""

    kind: str
    """Of the importer."""
    source: str
    """Where it lies, for people to read."""
    source_id: str
    """The same whenever the source is looked at: by it a second import knows the run again."""
    name: str
    project: str
    rows: Iterable[FoundRow] = ()
    """In order. Read once, while the run is written."""
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    group: str | None = None
    parent: str | None = None
    """``source_id`` of the run that this one is nested in."""
    created_at: str | None = None
    """ISO 8601, UTC; None: the time of the first row."""
    ended_at: str | None = None
    status: str = "finished"
    """``finished``, ``failed``, ``killed``; ``running`` where no end was noted (reads as crashed).
    """
    error: str = ""
    """Why it failed."""
    host: str = ""
    files: list[FoundFile] = field(default_factory=list)
    environment: Mapping[str, Any] = field(default_factory=dict)
    """With the keys of ``environment.json``; see :func:`git_facts`."""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    """Entries of ``inputs.json``, without ``logged_at``."""
    system_rows: Iterable[FoundRow] = ()
    console: Iterable[str] = ()
    """Pieces of what was printed, cut between lines."""
    not_carried: list[str] = field(default_factory=list)
    """What the source holds and the run folder does not; may grow while the rows are read."""


class Imported(NamedTuple):
    """What became of a run."""

    key: str
    """``project/name``."""
    outcome: str
    """``imported``, ``known`` (imported before), ``found`` (nothing was to be written)."""
    path: str
    rows: int
    files: int
    not_carried: list[str]


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
            return Imported(f"{project}/{known.name}", "known", known.path, 0, 0, [])
        if not self._write:
            rows, files = sum(1 for _ in _Rows(found, found.rows)), _count(found.files)
            path = os.path.join(self.root, project, name)
            return Imported(f"{project}/{name}", "found", path, rows, files, found.not_carried)
        return self._written(found, project, name)

    def _known_in(self, project: str) -> dict[tuple[str, str], RunFolder]:
        if project not in self._known:
            folders = layout.iter_runs(self.root, project)
            self._known[project] = {key: f for f in folders if (key := _origin(f)) is not None}
        return self._known[project]

    def _written(self, found: FoundRun, project: str, name: str) -> Imported:
        above = os.path.join(self.root, project)
        os.makedirs(above, exist_ok=True)
        # Readers pass over names that begin with a dot: what is killed here is no run.
        hidden = RunFolder(f"{above}/.import.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        os.mkdir(hidden.path)
        try:
            summary, files = self._fill(hidden, found)
            folder = layout.allocate(self.root, project, name)
            summary |= {"name": folder.name, "project": project}
            io.replace_file(hidden.summary, encode(summary))
            _move(hidden.path, folder.path)
        except BaseException:
            shutil.rmtree(hidden.path, ignore_errors=True)
            raise
        self._known_in(project)[_key(found)] = folder
        if self._tensorboard:
            events.write_again(folder)  # derived from the folder, which is whole
        rows = summary["history"]["rows"]
        return Imported(
            f"{project}/{folder.name}", "imported", folder.path, rows, files, found.not_carried
        )

    def _fill(self, folder: RunFolder, found: FoundRun) -> tuple[dict[str, Any], int]:
        """Write everything but the summary, which is returned, with the number of files."""
        history = _History(folder.history(), _Rows(found, found.rows))
        _write_system_rows(folder, found)
        _write_console(folder, found)
        artifacts = _copy_files(folder, found)
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

    def _summary(self, found: FoundRun, history: "_History") -> dict[str, Any]:
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
            "goals": {},
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
            "not_carried": [logs.to_text(text, "not_carried") for text in found.not_carried],
        }
        return summary


def git_facts(
    commit: str | None, branch: str | None = None, remote: str | None = None
) -> dict[str, Any]:
    """Return the ``git`` of ``environment.json`` with what other trackers know of it."""
    unknown = dict.fromkeys(("upstream", "top", "shallow", "dirty", "changed", "untracked"))
    return {
        "commit": commit, "branch": branch, **unknown, "submodules": None, "redacted": [],
        "remotes": {"origin": remote} if remote else None, "note": "as the imported run had it",
    }  # fmt: skip


def to_iso(seconds: float | None) -> str | None:
    """Write Unix seconds as documents hold times; None for what is no time."""
    try:
        moment = datetime.fromtimestamp(values.check_timestamp(seconds), UTC)
    except (ExperimentTrackingError, ValueError, OverflowError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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


def _fitting(name: str, what: str, found: FoundRun) -> str:
    """Return a name that a folder may have, and say so where it is another."""
    try:
        return layout.check_name(name, what)
    except InvalidNameError:
        fitting = layout.suggest_name(name)
        found.not_carried.append(f"the {what}'s name {name!r:.200}: it is {fitting!r} here")
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


# ---------------------------------------------------------------------- rows


class _Rows:
    """The rows of a source as a history holds them, one by one."""

    def __init__(self, found: FoundRun, rows: Iterable[FoundRow]) -> None:
        self._found = found
        self._rows = rows
        self._names: dict[str, str | None] = {}
        self._refused: Counter[str] = Counter()
        self._untimed = self._unstepped = 0
        self._time = _seconds(found.created_at)
        self._step = -1

    def __iter__(self) -> Iterator[Row]:
        names = self._names
        for step, time, metrics in self._rows:
            row: Row = {"step": 0, "time": 0.0}
            for name, value in metrics.items():
                stored = names[name] if name in names else self._learn(name)
                # The quick way is that of nearly all values.
                if type(value) is float and value - value == 0 and stored:
                    row[stored] = value
                else:
                    self._add(row, name, stored, value)
            if len(row) > 2:
                row["step"], row["time"] = self._to_step(step), self._to_time(time)
                yield row
        self._say_what_is_missing()

    def _learn(self, name: str) -> str | None:
        try:
            stored = values.stored_name(values.check_metric_name(name))
        except ExperimentTrackingError:
            stored = None
        self._names[name] = stored
        return stored

    def _add(self, row: Row, name: str, stored: str | None, value: Any) -> None:
        try:
            number = values.to_stored(values.to_number(value, name))
        except ExperimentTrackingError:
            number = ""
        if stored and number != "":
            row[stored] = number
        else:
            self._refused[f"{name!s:.200}"] += 1

    def _to_step(self, step: Any) -> int:
        try:
            self._step = self._step + 1 if step is None else values.to_step(step)
        except ExperimentTrackingError:
            self._unstepped += 1
            self._step += 1
        return self._step

    def _to_time(self, time: Any) -> float:
        try:
            self._time = values.check_timestamp(time)
        except ExperimentTrackingError:
            self._untimed += 1
        return self._time

    def _say_what_is_missing(self) -> None:
        lines = [f"metric {name!r}: values that are no numbers" for name in self._refused]
        if self._untimed:
            lines.append("times of rows: where the source has none they bear that before them")
        if self._unstepped:
            lines.append("steps that are no whole numbers: such rows were counted on")
        self._found.not_carried += [x for x in lines if x not in self._found.not_carried]


def _seconds(moment: str | None) -> float:
    return (datetime.fromisoformat(moment) if moment else datetime.now(UTC)).timestamp()


class _History:
    """Write rows to a new history, and what they come to."""

    def __init__(self, path: str, rows: Iterable[Row]) -> None:
        self.digest = Digest(lambda: ())  # rows of one attempt are never read again
        self.throughput = Throughput()
        self.first_at: str | None = None
        self.last_at: str | None = None
        self._rows = 0
        self._end = START
        self._sha256 = hashlib.sha256(b"[")
        remaining = iter(rows)
        with open(path, "xb") as file:
            file.write(b"[")
            while piece := list(islice(remaining, _PIECE_ROWS)):
                file.write(self._take(piece))
            file.write(b"\n]\n")
            self._sha256.update(b"\n]\n")

    def _take(self, rows: list[Row]) -> bytes:
        self.digest.update(rows)
        self.throughput.add(rows)
        self.first_at = self.first_at or to_iso(rows[0]["time"])
        self.last_at = to_iso(rows[-1]["time"])
        data = b",\n" if self._end > START else b"\n"
        data += b",\n".join(map(orjson.dumps, rows))
        self._sha256.update(data)
        self._end += len(data)
        self._rows += len(rows)
        return data

    def facts(self, *, final: bool) -> dict[str, Any]:
        """Return the ``history`` of ``summary.json``."""
        facts: dict[str, Any] = {"digested_bytes": self._end, "rows": self._rows}
        if final:
            facts |= {"bytes": self._end + len(b"\n]\n"), "sha256": self._sha256.hexdigest()}
        return facts


def _write_system_rows(folder: RunFolder, found: FoundRun) -> None:
    rows = iter(_Rows(found, found.system_rows))
    first = next(rows, None)
    if first is not None:
        _History(folder.system_metrics, (row for part in ([first], rows) for row in part))


def _write_console(folder: RunFolder, found: FoundRun) -> None:
    pieces = iter(found.console)
    first = next(pieces, None)
    if first is None:
        return
    with open(folder.console, "xb") as file:
        for part in ([first], pieces):
            file.writelines(redact_text(piece).encode() for piece in part)


# ---------------------------------------------------------------------- files


def _copy_files(folder: RunFolder, found: FoundRun) -> list[dict[str, Any]]:
    taken: set[str] = set()
    entries = []
    for file in found.files:
        for path, name, kind in _each(file, found.not_carried.append):
            # A folder stays together; its pictures are known as such all the same.
            above = "artifacts" if os.path.isdir(file.path) and file.kind is None else kind
            place = _free(f"{_PLACES.get(above, 'artifacts')}/{_kept_name(name)}", taken)
            entry = {
                "path": place,
                "kind": logs.to_text(kind, "kind"),
                "name": logs.to_text(_logged_name(file, name), "name"),
                "step": file.step,
                "description": file.description and logs.to_text(file.description, "description"),
            }
            try:
                entries.append(entry | _copy(path, folder.file(*place.split("/"))))
            except OSError as error:
                found.not_carried.append(f"file {name!r:.300}: {error.strerror or error}")
    return entries


def _logged_name(file: FoundFile, name: str) -> str:
    if file.kind is not None:
        name = file.name
    # One name for all steps, as tracked runs have it.
    stem = name.removesuffix(os.path.splitext(name)[1])
    behind = "" if file.step is None else f"-{file.step:06d}"
    return stem.removesuffix(behind) if behind and stem.endswith(behind) else name


def _count(files: Iterable[FoundFile]) -> int:
    return sum(1 for file in files for _ in _each(file, lambda problem: None))


def _each(file: FoundFile, on_problem: Callable[[str], None]) -> Iterator[tuple[str, str, str]]:
    """Yield path, name and kind of the files that stand for one of the source."""
    if not os.path.isdir(file.path):
        yield file.path, file.name, file.kind or kind_of(file.name)
        return
    for place, folders, names in os.walk(file.path):
        folders.sort()
        for link in (f for f in folders if os.path.islink(os.path.join(place, f))):
            on_problem(f"what is behind the link {link!r:.200}: a run holds regular files")
        for name in sorted(names):
            path = os.path.join(place, name)
            inside = os.path.relpath(path, file.path).replace(os.sep, "/")
            yield path, f"{file.name}/{inside}", file.kind or kind_of(name)


def kind_of(name: str) -> str:
    """Tell an artifact's kind by the suffix of its name."""
    return "image" if name.lower().endswith(_IMAGES) else "artifact"


def _kept_name(name: str) -> str:
    """Return a name with ``/`` as folders and files may bear it inside a run."""
    first, *inner = [part for part in name.split("/") if part not in ("", ".", "..")] or ["file"]
    return "/".join([_kept_part(first, first), *(_kept_part(p, p.lstrip("._-")) for p in inner)])


def _kept_part(part: str, tested: str) -> str:
    # Below the first folder a name may begin as it likes: __init__.py, .gitignore.
    try:
        layout.check_name(tested, "name")
    except InvalidNameError:
        return layout.suggest_name(part)
    return part


def _free(place: str, taken: set[str]) -> str:
    stem, suffix = os.path.splitext(place)
    number = 1
    while place in taken:
        number += 1
        place = f"{stem}-{number}{suffix}"
    taken.add(place)
    return place


def _copy(source: str, target: str) -> dict[str, Any]:
    """Copy a file; return what ``artifacts.json`` says of its content."""
    if not os.path.isfile(source):
        raise FileNotFoundError("it is not there" if not os.path.lexists(source) else "no file")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with open(source, "rb") as file, open(target, "xb") as copy:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            copy.write(chunk)
            size += len(chunk)
    logged_at = to_iso(os.stat(source).st_mtime) or utc_now()
    return {"size_bytes": size, "sha256": digest.hexdigest(), "logged_at": logged_at}
