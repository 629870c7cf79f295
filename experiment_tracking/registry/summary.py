"""Who a run is, how it went and what was corrected: what ``summary.json`` and amendments say."""

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import amendments as corrections
from experiment_tracking.folder import layout
from experiment_tracking.folder.amendments import Amendment
from experiment_tracking.folder.documents import read_document
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import FINAL, status_of

if TYPE_CHECKING:
    from pathlib import Path

CLOSING_BYTES = 3
"""Length of the closing bracket behind the last row of a history."""

_DICT = frozenset((dict,))


class Unreadable(NamedTuple):
    """A run that could not be read, or not wholly."""

    path: str
    reason: str


class RunSummary:
    """Who a run is and how it went.

    What has been read stays as it was; :meth:`refresh` looks again.

    Parameters
    ----------
    path
        Folder of the run.

    Raises
    ------
    DamagedError
        If ``summary.json`` is not a summary; ``FormatError`` if a later version wrote it.
    OSError
        If it is missing or cannot be read now.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = RunFolder(path)
        self.summary = read_summary(self.folder)

    @classmethod
    def unread(cls, path: str) -> Self:
        """Return a record that reads its summary, and may raise, when that is first asked for."""
        record = cls.__new__(cls)
        record.folder = RunFolder(path)
        return record

    @cached_property
    def summary(self) -> dict[str, Any]:
        """``summary.json`` as it is on disk."""
        return read_summary(self.folder)

    def refresh(self) -> Self:
        """Read the run again where it is asked for from now on; return itself."""
        folder = self.folder
        summary = read_summary(folder)
        self.__dict__.clear()
        self.folder, self.summary = folder, summary
        return self

    @property
    def path(self) -> "Path":
        """Folder of the run, absolute."""
        from pathlib import Path

        return Path(self.folder.path)

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits, stable under renaming; empty where none was written."""
        return str(self.summary.get("id") or "")

    @property
    def name(self) -> str:
        """Name of the run, which is its folder's."""
        return self.folder.name

    @property
    def project(self) -> str:
        """Name of the project, which is the name of the folder above."""
        return self.folder.project

    @property
    def key(self) -> str:
        """``project/name``."""
        return f"{self.project}/{self.name}"

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``failed``, ``killed``, or ``crashed`` as a reader sees it."""
        return self._liveness[0]

    @property
    def status_note(self) -> str:
        """How long the writer has been silent (``"silent for 7 min"``), else empty."""
        return self._liveness[1]

    @cached_property
    def _liveness(self) -> tuple[str, str]:
        seen = status_of(self.summary, self.folder.heartbeat)
        if seen[0] != "crashed":
            return seen
        # It may have ended between the look at its summary and the one at its process.
        latest = read_optional(self.folder.summary)
        return (latest["status"], "") if latest.get("status") in FINAL else seen

    @property
    def created_at(self) -> str | None:
        """When it began: ISO 8601, UTC."""
        return self.summary.get("created_at")

    @property
    def ended_at(self) -> str | None:
        """When it ended; None for a running or crashed run."""
        return self.summary.get("ended_at")

    @property
    def duration_s(self) -> float | None:
        """Seconds that all attempts took together; None for a running or crashed run."""
        return self.summary.get("duration_s")

    @property
    def tags(self) -> dict[str, str]:
        """Tags as text to text, as corrected. Looks for ``amendments/`` when first asked for."""
        return corrections.fold_tags(self.summary.get("tags") or {}, self.amendments)

    @property
    def notes(self) -> str:
        """Free text about the run, as corrected."""
        return corrections.fold_notes(str(self.summary.get("notes") or ""), self.amendments)

    @property
    def group(self) -> str | None:
        """Group the run belongs to."""
        return self.summary.get("group")

    @property
    def parent(self) -> str | None:
        """Id of the run that this one is nested in."""
        return self.summary.get("parent")

    @property
    def error(self) -> dict[str, str] | None:
        """What a failed run failed with, where it was seen."""
        return self.summary.get("error")

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Each start of the run: when, by whom, how it ended."""
        return list(self.summary.get("attempts") or [])

    @property
    def exit_code(self) -> int | None:
        """What the process ended with, where a launcher saw it."""
        return self.summary.get("exit_code")

    @property
    def commit(self) -> str | None:
        """Git's commit of the code."""
        return self.summary.get("commit")

    @property
    def rerun_of(self) -> str | None:
        """Id of the run that this one repeats."""
        return self.summary.get("rerun_of")

    @property
    def imported_from(self) -> str | None:
        """What kind of store it was imported from, such as ``mlflow``; None for our own runs."""
        origin = self.summary.get("imported_from")
        return str(origin.get("kind")) if isinstance(origin, Mapping) else None

    @cached_property
    def _amendments(self) -> tuple[list[Amendment], list[DamagedError | OSError]]:
        return corrections.read(self.folder)

    @property
    def amendments(self) -> list[Amendment]:
        """Corrections, oldest first: ``at``, ``by``, ``kind``, ``name``, ``old``, ``new``.

        Of a metric also ``step`` and ``time``. ``old`` or ``new`` is absent where there was or is
        nothing. Those by ``"run"`` are of params that the run itself logged again, and marks of
        kind ``"resumed"``: what stands before one is in the run's documents. All others are
        folded into what this record shows. Reads ``amendments/*.json``.
        """
        return self._amendments[0]

    @property
    def problems(self) -> list[Unreadable]:
        """Corrections that were passed over because they cannot be read, and why."""
        return [Unreadable(self.folder.path, str(error)) for error in self._amendments[1]]


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """Read ``summary.json`` and check that it is one this version understands.

    Raises
    ------
    DamagedError, FormatError, OSError
        As :class:`RunRecord` does.
    """
    summary = read_document(folder.summary)
    layout.check_format(folder, summary)
    _check_kinds(folder, summary)
    return summary


def _check_kinds(folder: RunFolder, summary: Mapping[str, Any]) -> None:
    for key, (kind, expected) in layout.SUMMARY_KINDS.items():
        value = summary.get(key)
        if value is not None and type(value) is not kind:
            raise DamagedError(
                f"Run {folder.name!r}: summary.json has {value!r:.60} as {key!r}, expected "
                f"{expected}."
            )
    if not _DICT.issuperset(map(type, (summary.get("metrics") or {}).values())):
        raise DamagedError(f"Run {folder.name!r}: a metric in summary.json is not an object.")


def digested_bytes(summary: Mapping[str, Any]) -> int | None:
    """Return how far into the history the summary reaches; None if to the end for sure."""
    history = summary.get("history") or {}
    digested, size = history.get("digested_bytes"), history.get("bytes")
    if type(digested) is not int or digested < 0:
        return 0
    whole = type(size) is int and digested + CLOSING_BYTES >= size
    return None if whole and summary.get("status") in FINAL else digested


def read_optional(path: str) -> dict[str, Any]:
    """Read a document that a run may do without; empty where it is missing."""
    try:
        return read_document(path)
    except FileNotFoundError:
        return {}
