"""What the logs of one W&B run hold, put together."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from experiment_tracking.backends.wandb_log import (
    Contents,
    Environment,
    Exit,
    MetricDefinition,
    Output,
    Row,
    Run,
    SystemSample,
    WandbLog,
)
from experiment_tracking.folder.values import from_stored
from experiment_tracking.importers.found import FoundRow
from experiment_tracking.importers.wandb_files import WandbFiles, is_medium

_OWN_KEYS = ("_wandb", "_step", "_timestamp", "_runtime")
_STATISTICS = ("min", "max", "mean", "best", "last", "first", "copy")
_GOALS = {"min": "minimize", "max": "maximize"}
_OUR_STATISTICS = ("best", "best_step", "min", "max")


class WandbContents:
    """Read all that the logs of one run hold; only the rows are read when they are asked for.

    Parameters
    ----------
    run
        Its first record.
    paths
        The ``run-*.wandb`` files, the oldest first: one for each process that wrote the run.

    Raises
    ------
    OSError, FormatError
        If nothing of a file can be read.

    Notes
    -----
    W&B counts its step in each process from 0, so where the run defined an axis of its own for all
    metrics (``define_metric("*", step_metric=...)``), as this package and Lightning do, that is
    the step.
    """

    def __init__(self, run: Run, paths: list[str]) -> None:
        self.run = run
        """Its last record."""
        self.environment = Environment("", "", (), "", "", "", "", "", "", "", "", 0)
        self.started_at_s: float | None = None
        self.ended_at_s: float | None = None
        self.exit_code: int | None = None
        """Of the last process; None where it was cut off."""
        self.config: dict[str, Any] = {}
        self.goals: dict[str, str] = {}
        self.files = WandbFiles()
        self.left_out = self.files.left_out
        """What is not carried, and how much of it."""
        self.samples: list[FoundRow] = []
        self._outputs: list[Output] = []
        self._paths = paths
        self._summary: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._other_values: list[dict[str, Any]] = []
        self._axis: str | None = None
        self._first_at_s: float | None = None
        self._step = self._runtime_s = 0
        for path in paths:
            log = WandbLog(path)
            contents = log.read()
            self._take_contents(contents)
            self._take_records(log, files_beside(path))
            self._take_times(contents)
        self._summary_row = self._sort_summary(files_beside(paths[-1]))
        if self._other_values:
            self.files.keep_json(self._other_values, "values that are no numbers.json", "table")
        for path in paths:
            self.files.take_others(files_beside(path))

    def rows(self) -> Iterator[FoundRow]:
        """Iterate over the rows; the last one has the numbers that only the summary has."""
        self._step, time = 0, None
        for path in self._paths:
            for row in WandbLog(path).rows():
                flat = _flat(row.values)
                numbers = {
                    name: n for name in sorted(flat) if (n := _number(flat[name])) is not None
                }
                step = self._step_of(row, numbers)
                numbers.pop(self._axis or "", None)
                time = row.values.get("_timestamp", time)
                yield step, time, numbers
        if self._summary_row:
            yield self._step, time, self._summary_row

    def console(self) -> Iterator[str]:
        """Iterate over what was printed, in whole lines of either stream."""
        rest = {"stdout": "", "stderr": ""}
        for output in self._outputs:
            text = rest[output.stream] + output.text
            lines, end, rest[output.stream] = text.rpartition("\n")
            if end:
                yield lines + end
        yield from filter(None, rest.values())

    def _take_contents(self, contents: Contents) -> None:
        self.run = contents.run or self.run
        self.config |= contents.config
        self._summary |= contents.summary
        self.exit_code = contents.exit_code
        for definition in contents.metrics:
            if definition.glob == "*" and not definition.step_metric.startswith("_"):
                self._axis = definition.step_metric or self._axis
            elif definition.step_metric:
                self.left_out["axes of single metrics"] += 1
            self._take_goal(definition)
        for artifact in contents.artifacts:
            self.files.take_artifact(artifact)
        self.left_out["alerts"] += len(contents.alerts)
        self.left_out["damaged places in the log"] += len(contents.problems)
        self.left_out["torn ends of the log"] += contents.torn

    def _take_goal(self, definition: MetricDefinition) -> None:
        # Newer versions of W&B have no word for it but which value of a metric they keep.
        kept = [_GOALS[word] for word in definition.summary if word in _GOALS]
        goal = definition.goal or (kept[0] if len(kept) == 1 else "")
        if goal and definition.name:
            self.goals[definition.name] = goal
        elif goal:
            self.left_out["goals of metrics by pattern"] += 1

    def _take_times(self, contents: Contents) -> None:
        started_at_s = self.run.started_at or 0.0
        last_at_s = _number(contents.summary.get("_timestamp"))
        # Rows may be older than W&B's run: copied from elsewhere, they bear their own times.
        self.ended_at_s = started_at_s + self._runtime_s
        if last_at_s is not None and not started_at_s <= last_at_s <= self.ended_at_s:
            self.ended_at_s = last_at_s
        times = (self.started_at_s, started_at_s or None, self._first_at_s)
        self.started_at_s = min((time for time in times if time is not None), default=None)

    def _take_records(self, log: WandbLog, folder: str) -> None:
        """Take in what is in none of the log's contents."""
        for record in log.records():
            match record:
                case Row():
                    self._take_row(record, folder)
                case Output():
                    self._outputs.append(record)
                case SystemSample():
                    self.samples.append((None, record.time, record.values))
                case Exit():
                    self._runtime_s = record.runtime_s
                case Environment():
                    # It comes in parts: the program first, the machine when that was looked at.
                    fields = record._asdict().items()
                    self.environment = self.environment._replace(**{k: v for k, v in fields if v})

    def _take_row(self, row: Row, folder: str) -> None:
        flat = _flat(row.values)
        step = self._step_of(row, flat)
        self._last |= flat
        if self._first_at_s is None:
            self._first_at_s = _number(row.values.get("_timestamp"))
        other = {name: value for name, value in flat.items() if _number(value) is None}
        kept = {n: v for n, v in other.items() if not self.files.take_media(v, n, step, folder)}
        if kept:
            self._other_values.append({"step": step, "time": row.values.get("_timestamp"), **kept})

    def _step_of(self, row: Row, values: Mapping[str, Any]) -> int:
        """Return the step on the run's own axis; a row without one was logged at the last."""
        if self._axis is None:
            self._step = row.step
        else:
            number = _number(values.get(self._axis))
            if number is not None and float(number).is_integer():
                self._step = int(number)
        return self._step

    def _sort_summary(self, folder: str) -> dict[str, float]:
        """Part what only the summary says: numbers, which are returned, media, and the rest."""
        numbers: dict[str, float] = {}
        rest: dict[str, Any] = {}
        for name, value in _flat(self._summary).items():
            number = _number(value)
            if self._is_known(name, value):
                continue
            if number is not None and name not in self._last:
                numbers[name] = number
            elif not self.files.take_media(value, name, self._step, folder):
                rest[name] = value
        if rest:
            self.files.keep_json(rest, "summary.json", "dict")
        return numbers

    def _is_known(self, name: str, value: Any) -> bool:
        """Tell whether a value of the summary is the history's last, or made of the history."""
        metric, _, statistic = name.rpartition(".")
        ours, _, of_metric = name.partition("/")
        last = self._last.get(name, _NOTHING)
        is_last = last == value or (last != last and value != value)
        is_derived = (statistic in _STATISTICS and metric in self._last) or (
            # As this package's runs have it in W&B.
            self._axis == "step" and ours in _OUR_STATISTICS and of_metric in self._last
        )
        return is_last or is_derived or (is_medium(value) and last is not _NOTHING)


_NOTHING = object()


def files_beside(path: str) -> str:
    """Return the folder of files that belongs to a log."""
    return os.path.join(os.path.dirname(path), "files")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under the names that W&B shows them by, ``train.loss``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and not is_medium(value):
            flat |= _flat(value, f"{prefix}{key}.")
        elif prefix or key not in _OWN_KEYS:
            flat[f"{prefix}{key}"] = value
    return {name: flat[name] for name in flat if not name.startswith("_wandb.")}


def _number(value: Any) -> float | None:
    return value if isinstance(value, bool) else from_stored(value)
