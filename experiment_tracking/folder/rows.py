"""A history as columns: what a table or a curve needs, without a dict per row in memory.

The file is parsed in pieces of whole lines, which stay in the processor's cache: quicker than
parsing it in one call, and memory is that of the file and of the columns.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, repeat
from operator import contains
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from experiment_tracking.folder.history import BETWEEN_ROWS, HistoryReader, Row, parse
from experiment_tracking.folder.values import RESERVED, from_stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_PIECE_BYTES = 2**16
_NUMBERS = {int, float}


class Points(NamedTuple):
    """The values of one metric, in file order."""

    rows: "Array"
    """Which rows they stand in: shape ``(m,)``, ascending."""
    values: "Array"
    """Shape ``(m,)``, floats; NaN for what is no number."""


class Columns(NamedTuple):
    """Rows of a history by columns; ``n`` rows in file order."""

    steps: "Array"
    """Shape ``(n,)``, int64; Python integers if a foreign writer's does not fit."""
    times: "Array"
    """Shape ``(n,)``, floats, Unix seconds."""
    attempts: "Array"
    """Shape ``(n,)``, 1 where a row says nothing."""
    metrics: dict[str, Points]
    """By stored name, in the order in which they are first met."""
    gone: "Array"
    """Shape ``(n,)``: whether later attempts have left nothing of a row; see :meth:`merged`."""

    def merged(self) -> "Columns":
        """Leave out the values that later attempts supersede; rows left empty are ``gone``.

        As :func:`~experiment_tracking.folder.digest.merged_rows` does.
        """
        if not len(self.steps) or (self.attempts == self.attempts[0]).all():
            return self
        metrics = {name: self._unsuperseded(points) for name, points in self.metrics.items()}
        merged = self._replace(metrics=metrics)
        return merged._replace(gone=self.rows_with(metrics) & ~merged.rows_with(metrics))

    def _unsuperseded(self, points: Points) -> Points:
        import numpy as np

        attempts, steps = self.attempts[points.rows], self.steps[points.rows]
        numbers, firsts = np.unique(attempts, return_index=True)
        # For each attempt but the last: the lowest step at which a later one first logs it.
        limits = np.minimum.accumulate(steps[firsts][:0:-1])[::-1]
        attempt = np.searchsorted(numbers, attempts)
        stays = attempt == len(limits)
        stays[~stays] = steps[~stays] < limits[attempt[~stays]]
        return Points(points.rows[stays], points.values[stays])

    def rows_with(self, names: Iterable[str]) -> "Array":
        """Tell of each row whether it has one of these metrics: shape ``(n,)``."""
        import numpy as np

        found = np.zeros(len(self.steps), dtype=bool)
        for name in names:
            if name in self.metrics:
                found[self.metrics[name].rows] = True
        return found

    def dense(self, name: str) -> "Array":
        """Return a metric's value in each row, NaN where it has none: shape ``(n,)``."""
        import numpy as np

        points = self.metrics.get(name)
        if points and len(points.rows) == len(self.steps):
            return points.values
        values = np.full(len(self.steps), np.nan)
        if points:
            values[points.rows] = points.values
        return values


def read_columns(path: str, names: Sequence[str] | None = None) -> Columns:
    """Read the rows that :meth:`HistoryReader.rows` finds in a history, as columns.

    Reads the file once; about 1.2 times as long as ``orjson.loads`` of it.

    Parameters
    ----------
    path
        The file. A missing one has no rows.
    names
        Metrics wanted, by their stored names; those that are not there are left out. All by
        default. Every row counts, those without them too.

    Raises
    ------
    OSError, DamagedError
        As :meth:`HistoryReader.since` does; never for its contents.
    """
    data = HistoryReader(path).data()
    try:
        return _gathered(_pieces(data), names)
    except (ValueError, TypeError, LookupError):
        # No JSON, or something in it is no row: line by line then.
        return columns_of(parse(data)[0], names)


def columns_of(rows: Sequence[Row], names: Sequence[str] | None = None) -> Columns:
    """Turn rows into columns; see :func:`read_columns`."""
    return _gathered([rows] if rows else [], names)


def _pieces(data: bytes) -> Iterator[list[Row]]:
    """Cut a history in good order into pieces of some hundred rows.

    A newline never stands inside a JSON string, so each comma before one separates two values.
    Were one of these inside of a row, the pieces would be no JSON.
    """
    start, end = _bounds(data)
    view = memoryview(data)
    while start < end:
        cut = data.find(b",\n", start + _PIECE_BYTES, end)
        cut = end if cut < 0 else cut
        yield orjson.loads(b"".join((b"[", view[start:cut], b"]")))
        start = cut + 2


def _bounds(data: bytes) -> tuple[int, int]:
    # As strip() would, without a copy of a file that may be large.
    start, end = 0, len(data)
    while start < end and data[start] in BETWEEN_ROWS:
        start += 1
    while start < end and data[end - 1] in BETWEEN_ROWS:
        end -= 1
    return start, end


def _gathered(pieces: Iterable[Sequence[Row]], names: Sequence[str] | None) -> Columns:
    gathering = _Gathering(names)
    for rows in pieces:
        gathering.add(rows)
    return gathering.to_columns()


class _Cells(NamedTuple):
    """What some rows have under one key."""

    values: list[Any]
    places: "Array"


def _cells(rows: Sequence[Row], key: str) -> _Cells:
    import numpy as np

    try:
        return _Cells([row[key] for row in rows], np.arange(len(rows), dtype=np.int64))
    except KeyError:
        # Without a loop in Python: most rows have no "attempt".
        has = list(compress(range(len(rows)), map(contains, rows, repeat(key))))
        return _Cells([rows[place][key] for place in has], np.array(has, dtype=np.int64))


def _all_cells(rows: Sequence[Row]) -> dict[str, _Cells]:
    cells = {key: _cells(rows, key) for key in rows[0]}
    # Mostly all rows have the same keys, which is quicker to see than to go through them all.
    alike = all(len(found.places) == len(rows) for found in cells.values())
    if alike and set(map(len, rows)) == {len(cells)}:
        return cells
    every = dict.fromkeys(chain.from_iterable(rows))
    return {key: cells.get(key) or _cells(rows, key) for key in every}


class _Gathering:
    """Columns that grow piece by piece."""

    def __init__(self, names: Sequence[str] | None) -> None:
        self.keys = None if names is None else ("step", "time", "attempt", *names)
        self.count = 0
        self.steps: list[Array] = []
        self.times = array("d")
        self.attempts: list[Points] = []
        self.metrics: dict[str, tuple[array[int], array[float]]] = {}

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows; raises ValueError, TypeError or LookupError if one of them is none."""
        if self.keys is None:
            cells = _all_cells(rows)
        else:
            cells = {key: _cells(rows, key) for key in self.keys}
        steps, times = cells["step"].values, cells["time"].values
        if not (len(steps) == len(times) == len(rows) and _fit(steps, times)):
            raise ValueError("There is something that is no row.")
        self.steps.append(_whole_numbers(steps))
        self.times.fromlist(times)
        if "attempt" in cells:
            attempts = [number if type(number) is int else 1 for number in cells["attempt"].values]
            places = cells["attempt"].places + self.count
            self.attempts.append(Points(places, _whole_numbers(attempts)))
        for name, found in cells.items():
            if name not in RESERVED and found.values:
                self._add_metric(name, found)
        self.count += len(rows)

    def _add_metric(self, name: str, cells: _Cells) -> None:
        rows, values = self.metrics.setdefault(name, (array("q"), array("d")))
        try:
            values.fromlist(cells.values)  # takes all or, with an error, nothing
        except TypeError:
            values.fromlist([_number(value) for value in cells.values])
        rows.frombytes((cells.places + self.count).tobytes())

    def to_columns(self) -> Columns:
        """Return what has been added so far; the memory is shared."""
        import numpy as np

        steps = np.concatenate(self.steps) if self.steps else np.empty(0, dtype=np.int64)
        kinds = {numbers.dtype for _, numbers in self.attempts}
        attempts = np.ones(self.count, dtype=np.result_type(np.int64, *kinds))
        for places, numbers in self.attempts:
            attempts[places] = numbers
        metrics = {
            name: Points(np.frombuffer(rows, np.int64), np.frombuffer(values))
            for name, (rows, values) in self.metrics.items()
        }
        gone = np.zeros(self.count, dtype=bool)
        return Columns(steps, np.frombuffer(self.times), attempts, metrics, gone)


def _fit(steps: list[Any], times: list[Any]) -> bool:
    return {int} == set(map(type, steps)) and _NUMBERS.issuperset(map(type, times))


def _whole_numbers(values: list[int]) -> "Array":
    import numpy as np

    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        return np.array(values, dtype=object)


def _number(stored: Any) -> float:
    # As an array takes what is usual: truth counts as 1 or 0.
    number = stored if type(stored) is bool else from_stored(stored)
    return math.nan if number is None else float(number)
