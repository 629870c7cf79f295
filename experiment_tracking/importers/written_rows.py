"""The rows of a source as a history holds them, and the history that is written of them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import orjson

from experiment_tracking.errors import ExperimentTrackingError
from experiment_tracking.folder import values
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.history import START, Row
from experiment_tracking.folder.throughput import Throughput
from experiment_tracking.importers.found import FoundRow, FoundRun, to_iso

_PIECE_ROWS = 1000


class FittingRows:
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

    @property
    def metrics(self) -> int:
        """Number of metrics so far."""
        return sum(1 for stored in self._names.values() if stored)

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
            lines.append(
                "times of rows that have none in the source: they bear that of the row before"
            )
        if self._unstepped:
            lines.append("steps that are no whole numbers: such rows were counted on")
        self._found.not_carried += [x for x in lines if x not in self._found.not_carried]


def _seconds(moment: str | None) -> float:
    return (datetime.fromisoformat(moment) if moment else datetime.now(UTC)).timestamp()


class WrittenHistory:
    """Write rows to a new history, and what they come to."""

    def __init__(
        self, path: str, rows: Iterable[Row], goals: Mapping[str, str] | None = None
    ) -> None:
        # Rows of one attempt are never read again.
        self.digest = Digest(lambda: (), goals=goals)
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
