"""One run as read. Reading changes nothing on disk."""

import os
from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NoReturn

from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
)
from experiment_tracking.folder import amendments as corrections
from experiment_tracking.folder.digest import Digest, merged_rows
from experiment_tracking.folder.history import HistoryReader, Row
from experiment_tracking.folder.values import from_stored, shown_name, stored_name
from experiment_tracking.registry.columns import find_column, near
from experiment_tracking.registry.mirrors import read_mirrors
from experiment_tracking.registry.summary import (
    RunSummary,
    Unreadable,
    digested_bytes,
    read_optional,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from experiment_tracking.formats.models.saved import SavedModel
    from experiment_tracking.scientific import ConfigView, ExperimentConfig

FAR_MARK = f".far{os.sep}"
"""In the path of every partial copy of a far root."""


class RunRecord(RunSummary):
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

    def __repr__(self) -> str:
        return f"<RunRecord {self.key} {self.status}>"

    def _repr_html_(self) -> str:
        from experiment_tracking.registry.display import record_html

        return record_html(self)

    def __enter__(self) -> NoReturn:
        raise InvalidTypeError(
            f"Run {self.key} is there already and is not run again, so there is nothing to log "
            "to. Write: run = tracker.start_run(config=…, skip_existing=True), then "
            "if run.status != 'finished': with run: …"
        )

    def __exit__(self, *error: object) -> None:
        """Never called: the run cannot be entered."""

    # ------------------------------------------------------------------ what it holds

    @cached_property
    def params(self) -> dict[str, Any]:
        """Hyperparameters, nested as given, as corrected. Reads ``params.json``."""
        return corrections.fold_params(read_optional(self.folder.params), self.amendments)

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
        """The metrics' summaries as ``summary.json`` would hold them after the last row.

        Late metrics count as if they had been logged last.
        """
        goals = self.summary.get("goals")
        digested = self._digested()
        return dict(corrections.fold_metrics(digested, self.amendments, self.rows, goals))

    def _digested(self) -> dict[str, dict[str, Any]]:
        kept: dict[str, dict[str, Any]] = self.summary.get("metrics") or {}
        offset = digested_bytes(self.summary)
        if offset is None:
            return kept
        reader = HistoryReader(brought(self.folder.history()))
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
        return list(read_optional(self.folder.artifact_list).get("artifacts") or [])

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Interpreter, packages, git, command line. Reads ``environment.json``."""
        return read_optional(self.folder.environment)

    @cached_property
    def inputs(self) -> list[dict[str, Any]]:
        """What it was trained on: name, path, size, sha256, shape. Reads ``inputs.json``."""
        listed = read_optional(self.folder.inputs).get("inputs")
        return [each for each in listed if isinstance(each, dict)] if type(listed) is list else []

    @cached_property
    def mirrors(self) -> dict[str, dict[str, Any]]:
        """Copies elsewhere, by name: backend, url, complete, owed_bytes, error and more.

        Reads ``backends/*.json``, which the copying process writes. ``complete`` is True where
        the service has all of an ended run, ``error`` is what keeps it from that now, or what is
        wrong with that file.
        """
        return read_mirrors(self)

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

    def model_at(self, step: float | None) -> dict[str, Any] | None:
        """Return the model that was saved at a step; None where none bears that step.

        ``run.model_at(run.number("val/loss", "best_step"))`` is the one of its best value.

        Returns
        -------
        dict or None
            An entry of it in ``artifacts.json``. ``run.load_model(entry["name"], step=step)`` reads
            that save; ``run.load_model(name, best="val/loss")`` finds the best by itself.
        """
        models = [entry for entry in self.artifacts if entry.get("kind") == "model"]
        there = [entry for entry in models if step is not None and entry.get("step") == step]
        return there[-1] if there else None

    def history(
        self,
        metrics: str | Iterable[str] | None = None,
        attempts: str = "merged",
        ranks: int | str = 0,
        axis: str | None = None,
        points: int | None = None,
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
        axis
            What the rows are ordered by, the first column: ``"step"``, ``"time"``, ``"relative"``
            (seconds since the first row) or a metric. By default they are as logged.
        points
            At most about so many rows, 4 or more: those that show each curve's shape.

        Raises
        ------
        MetricNotFoundError
            If no row has a metric that was asked for.
        """
        from experiment_tracking.registry.frames import record_frame

        return record_frame(self, metrics, attempts, ranks, axis, points)

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
        rows = HistoryReader(brought(self.folder.history(rank))).rows()
        merged = attempts == "merged"
        rows = merged_rows(rows) if merged else rows
        if rank is not None:
            return rows
        return corrections.fold_rows(rows, self.amendments, superseding=merged)

    def load_model(
        self,
        name: str = "model",
        into: Any = None,
        *,
        step: int | None = None,
        best: str | None = None,
        as_numpy: bool = False,
        allow_unsafe: bool = False,
        trusted: Iterable[str] = (),
        verify: bool = True,
    ) -> Any:
        """Read a model kept by ``log_model`` back: its state, or ``into`` filled with it.

        ``run.load_model("best", into=Net())`` returns that module with the weights of the run.
        See :meth:`SavedModel.load
        <experiment_tracking.formats.models.saved.SavedModel.load>` for the other arguments; its
        optimizer, program and example come by :meth:`saved_model`.

        Parameters
        ----------
        name
            As it was given to ``log_model``.
        step
            Which of the saves that are kept, by default the newest.
        best
            A metric, in the place of ``step``: the save at which it was best.

        Raises
        ------
        NotFoundError
            If the run has no model of that name, or no save of that step.
        DamagedError
            If a file is not as it was saved.
        InvalidValueError
            If it is a pickle and ``allow_unsafe`` is not given; if it does not fit ``into``.
        """
        return self.saved_model(name, step, best).load(
            into, as_numpy=as_numpy, allow_unsafe=allow_unsafe, trusted=trusted, verify=verify
        )

    def saved_model(
        self, name: str = "model", step: int | None = None, best: str | None = None
    ) -> "SavedModel":
        """Return the handle on a saved model; nothing of it is read yet.

        Raises
        ------
        NotFoundError
            If the run has no model of that name.
        DamagedError
            If its folder is a link, or stands behind one.
        """
        from experiment_tracking.formats.models.saved import SavedModel

        models = sorted({str(e.get("name")) for e in self.artifacts if e.get("kind") == "model"})
        if name not in models:
            raise NotFoundError(f"Run {self.key} has no model {name!r}. {near(name, models)}")
        inside = os.path.join("models", *name.split("/"))
        path = brought(os.path.join(self.folder.path, inside))
        # Neither a link nor a name in a foreign artifacts.json leads out of the run.
        if os.path.realpath(path) != os.path.join(os.path.realpath(self.folder.path), inside):
            raise DamagedError(f"{path} leads out of the run; a run holds no links.")
        return SavedModel(path, step, best)

    def fetch(self, name: str) -> "Path":
        """Return where a file or folder of the run is; of a run in an object store bring it first.

        Parameters
        ----------
        name
            Relative to the run's folder, such as the ``path`` of an artifact.

        Raises
        ------
        OSError
            If the store does not answer, or refuses.
        """
        return self.path / os.path.relpath(brought(self.folder.file(name)), self.folder.path)


def brought(path: str) -> str:
    """Return ``path``; where it is in the copy of a far root, bring it first."""
    bring([path])
    return path


def bring(paths: Iterable[str]) -> None:
    """Bring what is in the copy of a far root, all at once."""
    if there := [path for path in paths if FAR_MARK in path]:
        from experiment_tracking.registry import far

        far.ensure(*there)


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


def _plain(value: Any) -> Any:
    number = from_stored(value)
    return value if number is None else number


def _check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        words = ", ".join(map(repr, allowed))
        raise InvalidValueError(f"{name} must be one of {words}, found {value!r}.")
