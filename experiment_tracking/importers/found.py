"""What an importer hands over: the runs of another tracker, as that one kept them.

An importer is a module of this package with three names:

``KIND``
    One word that people type, such as ``"mlflow"``.
``recognizes(path: str) -> bool``
    Whether this file or folder, with everything below it, is one place of its kind. Cheap: it is
    asked of every folder that is walked through.
``runs(path: str, options: Options) -> Iterator[FoundRun | Unreadable]``
    The runs in such a place. One that cannot be read is an :class:`Unreadable` and stops no other.

It reads through :mod:`.source_files`, and hands over what it found as it is; names, numbers and
secrets are seen to in :mod:`.imported`. What cannot be kept is said in ``FoundRun.not_carried``, in
words that are the same for each run it happens to, so that they can be counted.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from experiment_tracking.errors import ExperimentTrackingError
from experiment_tracking.folder import values

FoundRow = tuple[int | None, float | None, Mapping[str, Any]]
"""Step (None: the last one + 1), Unix seconds (None: those of the row before), names to numbers."""


class Options(NamedTuple):
    """What the person who imports may say about the source; each importer takes what it knows."""

    step: str | None = None
    """Column of steps."""
    time: str | None = None
    """Column of times."""
    run_column: str | None = None
    """Column whose values tell runs apart."""
    params: tuple[str, ...] = ()
    """Columns of params."""
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
    goals: Mapping[str, str] = field(default_factory=dict)
    """Metrics to ``minimize`` or ``maximize``, where the source says so."""
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


def reading(place: str, read: Callable[[], FoundRun]) -> "FoundRun | Unreadable":
    """Read a run; whatever a damaged or hostile file makes of that ends this run alone."""
    try:
        return read()
    except Exception as error:
        return Unreadable(place, reason_of(error))


def reason_of(error: Exception) -> str:
    """Say in a line what an error says, with its kind where the message alone tells little."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    is_ours = isinstance(error, (ExperimentTrackingError, OSError))
    return text if is_ours else f"{type(error).__name__}: {text}"


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
