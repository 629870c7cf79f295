"""One run as read. Reading changes nothing on disk."""

import os
from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import (
    DamagedError,
    InvalidValueError,
    MetricNotFoundError,
    NotFoundError,
)
from experiment_tracking.folder import layout
from experiment_tracking.folder.digest import Digest, merged_rows
from experiment_tracking.folder.documents import read_document
from experiment_tracking.folder.history import HistoryReader, Row
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import FINAL, status_of
from experiment_tracking.folder.values import from_stored, shown_name, stored_name
from experiment_tracking.registry.columns import find_column, near

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from experiment_tracking.scientific import ConfigView, ExperimentConfig

CLOSING_BYTES = 3
"""Length of the closing bracket behind the last row of a history."""

_DICT = frozenset((dict,))


class Unreadable(NamedTuple):
    """A run that could not be read, or not wholly."""

    path: str
    reason: str


class RunRecord:
    """One run as read: identity and summary at once, everything else when first asked for.

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

    def refresh(self) -> "RunRecord":
        """Read the run again where it is asked for from now on; return itself."""
        folder = self.folder
        summary = read_summary(folder)
        self.__dict__.clear()
        self.folder, self.summary = folder, summary
        return self

    def __repr__(self) -> str:
        return f"<RunRecord {self.key} {self.status}>"

    def _repr_html_(self) -> str:
        from experiment_tracking.registry.display import record_html

        return record_html(self)

    # ------------------------------------------------------------------ who it is

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
        latest = _read_optional(self.folder.summary)
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
        """Tags as text to text."""
        return dict(self.summary.get("tags") or {})

    @property
    def notes(self) -> str:
        """Free text about the run."""
        return str(self.summary.get("notes") or "")

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

    # ------------------------------------------------------------------ what it holds

    @cached_property
    def params(self) -> dict[str, Any]:
        """Hyperparameters, nested as given. Reads ``params.json``."""
        return _read_optional(self.folder.params)

    @property
    def config(self) -> "ExperimentConfig | ConfigView":
        """The params as an :class:`~experiment_tracking.ExperimentConfig` where they hold one,
        else as a mapping with attribute access.
        """  # noqa: D205
        from experiment_tracking.scientific import config_from_params

        return config_from_params(self.params)

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics by name to their summaries.

        ``last``, ``min``, ``max``, ``mean``, ``count``, ``best`` and the steps they were met
        at. Numbers are plain, NaN and infinities among them. Rows that the writer had not yet
        summed up, as in a crashed run, are read from the history here.
        """
        stored = self.stored_metrics
        return {
            shown_name(name): {key: _plain(value) for key, value in kept.items()}
            for name, kept in stored.items()
        }

    @cached_property
    def stored_metrics(self) -> dict[str, dict[str, Any]]:
        """The metrics' summaries as ``summary.json`` would hold them after the last row."""
        kept = self.summary.get("metrics") or {}
        offset = digested_bytes(self.summary)
        if offset is None:
            return kept
        reader = HistoryReader(self.folder.history())
        seen = reader.since(offset)
        if not seen.rows:
            return kept
        # Only what was seen: a live run has more rows by the time they are read again.
        reread = partial(reader.rows, seen.offset)
        digest = Digest(reread, kept if offset else None, self.summary.get("goals"))
        digest.update(seen.rows)
        return digest.to_dict()

    @property
    def metric_names(self) -> list[str]:
        """Names of its metrics, in the order they were first logged."""
        return [shown_name(name) for name in self.stored_metrics]

    @cached_property
    def artifacts(self) -> list[dict[str, Any]]:
        """Every logged file: path, kind, size, sha256, step. Reads ``artifacts.json``."""
        return list(_read_optional(self.folder.artifact_list).get("artifacts") or [])

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Interpreter, packages, git, command line. Reads ``environment.json``."""
        return _read_optional(self.folder.environment)

    @cached_property
    def inputs(self) -> list[dict[str, Any]]:
        """What it was trained on: name, path, size, sha256, shape. Reads ``inputs.json``."""
        listed = _read_optional(self.folder.inputs).get("inputs")
        return [each for each in listed if isinstance(each, dict)] if type(listed) is list else []

    @cached_property
    def mirrors(self) -> dict[str, dict[str, Any]]:
        """Copies elsewhere, by name: backend, url, complete, owed_bytes, error and more.

        Reads ``backends/*.json``, which the copying process writes. ``complete`` is True where
        the service has all of an ended run, ``error`` is what keeps it from that now, or what is
        wrong with that file.
        """
        try:
            names = sorted(n for n in os.listdir(self.folder.backends) if n.endswith(".json"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return {n.removesuffix(".json"): self._mirror(n.removesuffix(".json")) for n in names}

    def _mirror(self, name: str) -> dict[str, Any]:
        try:
            kept = read_document(self.folder.backend(name))
        except DamagedError as error:
            kept = {"error": f"{error} Delete it and the copy is begun anew: experiments push."}
        state, offset = kept.get("state"), kept.get("offset")
        size = _size_of(self.folder.history())
        owed = size - CLOSING_BYTES - offset if type(offset) is int else size
        url = state.get("url") if type(state) is dict else None
        known = {"url": url, "owed_bytes": max(0, owed), "complete": self._is_whole_in(kept)}
        return {**kept, **known}

    def _is_whole_in(self, mirror: Mapping[str, Any]) -> bool:
        """Tell whether a mirror has the run's end, and not that of an earlier attempt."""
        attempts, said = self.summary.get("attempts"), self.summary.get("status")
        number = max(len(attempts), 1) if type(attempts) is list else 1
        is_of_this_end = said not in FINAL or said == mirror.get("status")
        return bool(mirror.get("complete") and mirror.get("attempt") == number and is_of_this_end)

    def value(self, column: str) -> float | None:
        """Return one number of a metric, None where the run has the metric but not that number.

        Parameters
        ----------
        column
            A metric (its last value), ``final_``, ``best_``, ``min_``, ``max_`` or ``mean_`` and
            a metric, or ``"val/loss:min"``.

        Raises
        ------
        MetricNotFoundError
            If the run has no such metric.
        InvalidValueError
            For the best of a metric without a goal.
        """
        metric, number = find_column(column, self.metric_names)
        return self.number(metric, number)

    def number(self, metric: str, number: str) -> float | None:
        """Return one entry of a metric's summary, None where there is none.

        Raises
        ------
        InvalidValueError
            For the best of a metric without a goal.
        """
        kept = self.stored_metrics.get(stored_name(metric), {})
        if number.startswith("best") and kept and "goal" not in kept:
            raise InvalidValueError(
                f"Metric {metric!r} of {self.key} has no goal, so it has no best value. Use "
                f"'{metric}:min' or '{metric}:max', or define_metric({metric!r}, goal=...)."
            )
        return from_stored(kept.get(number))

    def goal(self, metric: str) -> str | None:
        """Return ``"minimize"``, ``"maximize"``, or None for a metric without goal."""
        goal = self.stored_metrics.get(stored_name(metric), {}).get("goal")
        return goal if isinstance(goal, str) else None

    def history(
        self,
        metrics: str | Iterable[str] | None = None,
        attempts: str = "merged",
        ranks: int | str = 0,
    ) -> "pd.DataFrame":
        """Read the rows as a table: ``step``, ``time`` (Unix seconds), a column per metric.

        A metric that is itself called ``time``, ``attempt`` or ``rank`` has the column
        ``metric:time`` here.

        Parameters
        ----------
        metrics
            Columns wanted, all by default; rows with none of them are left out.
        attempts
            ``"merged"``: without what a later attempt superseded. ``"all"``: every row, with a
            column ``attempt``.
        ranks
            0: the run's own rows. ``"all"``: those of further processes too, by time, with a
            column ``rank`` (text; the run's own is ``"0"``). ``"mean"``: one row per step, the
            mean over the processes.

        Raises
        ------
        MetricNotFoundError
            If no row has a metric that was asked for.
        """
        from experiment_tracking.registry.frames import history_frame

        if metrics is not None and not isinstance(metrics, str):
            metrics = list(metrics)
        try:
            return history_frame(self.rows(attempts, ranks), metrics, attempts, ranks)
        except MetricNotFoundError:
            if ranks == 0 and self.folder.ranks():
                self._look_further(metrics, attempts)
            raise

    def _look_further(self, metrics: str | list[str] | None, attempts: str) -> None:
        """Say so if further processes have the metrics; raise what is missing there too."""
        from experiment_tracking.registry.frames import history_frame

        history_frame(self.rows(attempts, "all"), metrics, attempts, "all")
        raise MetricNotFoundError(
            f"Only further processes of run {self.key} have logged {metrics!r}. "
            f"Write history({metrics!r}, ranks='all')."
        ) from None

    def rows(self, attempts: str = "merged", ranks: int | str = 0) -> list[Row]:
        """Read the rows as they are on disk; see :meth:`history` for the arguments."""
        _check_choice("attempts", attempts, ("merged", "all"))
        _check_choice("ranks", ranks, (0, "all", "mean"))
        rows = self._rows_of(None, attempts)
        if ranks == 0:
            return rows
        rows = [{"rank": "0", **row} for row in rows]
        for rank in self.folder.ranks():
            rows += [{"rank": rank, **row} for row in self._rows_of(rank, attempts)]
        return sorted(rows, key=lambda row: row["time"])

    def _rows_of(self, rank: str | None, attempts: str) -> list[Row]:
        rows = HistoryReader(self.folder.history(rank)).rows()
        return rows if attempts == "all" else merged_rows(rows)

    def load_model(self, name: str = "model") -> Any:
        """Read weights kept by ``log_model`` back as the tree they were, arrays as numpy.

        Raises
        ------
        NotFoundError
            If the run has no model of that name.
        DamagedError
            If the files do not match the hash that was written with them.
        """
        from experiment_tracking.formats.saved import load_tree

        models = sorted({str(e.get("name")) for e in self.artifacts if e.get("kind") == "model"})
        if name not in models:
            raise NotFoundError(f"Run {self.key} has no model {name!r}. {near(name, models)}")
        return load_tree(os.path.join(self.folder.models, *name.split("/")))


def flat(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return nested params under names joined by dots.

    >>> flat({"lr": 0.1, "model": {"depth": 2}})
    {'lr': 0.1, 'model.depth': 2}
    """
    columns: dict[str, Any] = {}
    for name, value in params.items():
        if type(value) is dict and value:
            columns |= {f"{name}.{inner}": one for inner, one in flat(value).items()}
        else:
            columns[name] = value
    return columns


def note(problems: list[Unreadable], record: RunRecord, error: Exception) -> None:
    """Keep that a file of a run could not be read, once."""
    problem = Unreadable(record.folder.path, str(error))
    if problem not in problems:
        problems.append(problem)


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


def _read_optional(path: str) -> dict[str, Any]:
    try:
        return read_document(path)
    except FileNotFoundError:
        return {}


def _size_of(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _plain(value: Any) -> Any:
    number = from_stored(value)
    return value if number is None else number


def _check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        words = ", ".join(map(repr, allowed))
        raise InvalidValueError(f"{name} must be one of {words}, found {value!r}.")
