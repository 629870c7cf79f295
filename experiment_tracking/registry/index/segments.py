"""Runs as columns: blocks that never change, built row by row, and their form as bytes."""

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate, chain
from typing import Any, NamedTuple

import orjson

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.layout import FORMAT
from experiment_tracking.folder.values import from_stored, shown_name

RUN_COLUMNS = ("id", "status", "status_note", "created_at", "ended_at", "duration_s", "notes",
               "group", "parent", "exit_code", "rerun_of", "imported_from", "commit")  # fmt: skip
"""What a segment keeps of every run; name and project are those of its folder."""

NUMBERS = ("last", "last_step", "min", "min_step", "max", "max_step", "mean", "count", "best",
           "best_step", "first_nonfinite_step")  # fmt: skip
"""What a segment keeps of every metric, as doubles, and its goal."""

NEVER = -(2**63)
"""Stands in ``#created`` for a time that is none; numpy's not-a-time."""

FACTS = ("#key", "#stamp", "#more", *RUN_COLUMNS)
"""What :meth:`Builder.add` is told of each run, besides its names."""

_EVERY_ROW = frozenset((*FACTS, "#created", "#shape"))

VERSION = f"1.{FORMAT}.{sys.byteorder}"
"""Another one's segments are of no use: of the layout here, of what is read, of the machine."""

_MAGIC = b"experiment_tracking segment\n"
_HEAD = struct.Struct("<28sQI")
_HEAD_BYTES = _HEAD.size
_DOUBLE = 8
_CHUNK = 1000
_MOST_GROUPS = 200
_FEW = 16
_TEXT = frozenset((str,))
_EXACT = frozenset((str, int, bool, type(None)))  # 0.0 equals -0.0 without being the same


class Column(NamedTuple):
    """Values, and the rows they are of: None where each row has one, in order."""

    values: Any
    rows: Any


class Segment:
    """Many runs as columns; never changed.

    Columns are called as in a :class:`RunTable`, but a metric's always with its number
    (``metrics.loss:last``), so that names with colons are not mistaken. ``#key``, ``#stamp``,
    ``#more``, ``#shape`` and ``#created`` are there for every row: which run (below the root),
    what its files looked like, its names, and when it began (µs since 1970).

    Parameters
    ----------
    length
        Number of runs.
    shapes
        Columns of params, metrics (without a number) and tags that a run has, in its order; a
        row's ``#shape`` is the number of its shape.
    columns
        Values by name; what :func:`decode` has found is unpacked when first asked for.
    data
        The bytes that the segment was decoded from.
    """

    def __init__(
        self,
        length: int,
        shapes: Sequence[Sequence[str]],
        columns: "Mapping[str, Column | _Packed]",
        data: bytes | None = None,
    ) -> None:
        self.length = length
        self.shapes = shapes
        self.data = data
        self._columns = dict(columns)

    def __len__(self) -> int:
        return self.length

    def names(self) -> Iterator[str]:
        """Iterate over the columns."""
        return iter(self._columns)

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def known(self) -> list[str]:
        """Return all names of the shapes."""
        if isinstance(self.shapes, _Shapes):
            return self.shapes.names
        return list(dict.fromkeys(chain.from_iterable(self.shapes)))

    def column(self, name: str) -> Column:
        """Return a column as it is kept."""
        found = self._columns[name]
        if isinstance(found, _Packed):
            found = self._columns[name] = found.unpack(self.length)
        return found

    def values(self, name: str) -> Sequence[Any]:
        """Return one value per row, None where it has none."""
        if name not in self._columns:
            return [None] * self.length
        values, rows = self.column(name)
        if rows is None:
            return values  # type: ignore[no-any-return]
        whole = [None] * self.length
        for row, value in zip(rows, values, strict=True):
            whole[row] = value
        return whole


# ---------------------------------------------------------------------- building


class Builder:
    """Gathers runs, one after another, into a segment.

    Runs with the same names lie row behind row, so that a column is a slice: several times
    faster than going through the names of each. Every thousand runs the rows are cut into
    columns, for objects strewn over memory are slow to come back to.
    """

    def __init__(self) -> None:
        self.length = 0
        self._waiting = 0
        self._facts: list[Any] = []
        self._row_shapes = array("q")
        self._shapes: dict[tuple[str, ...], int] = {}
        self._group = _Group([], 0, (), {}, ())
        self._groups: dict[tuple[Any, ...], _Group] = {}
        self._parts: dict[tuple[str, ...], _Group] = {}
        self._columns: dict[str, _Growing] = {}

    def add(
        self,
        facts: Sequence[Any],
        params: Mapping[str, Any],
        metrics: Mapping[str, Mapping[str, Any]],
        tags: Mapping[str, Any],
    ) -> None:
        """Add a run; on an error nothing of it is kept.

        Parameters
        ----------
        facts
            Values of ``#key``, ``#stamp``, ``#more`` and of :data:`RUN_COLUMNS`.
        params, tags
            Flat.
        metrics
            Summaries as stored, by stored names.

        Raises
        ------
        TypeError, AttributeError, IndexError
            If a metric's number is none, or a goal is no text.
        """
        names: list[Any] = [*params, None, *metrics, None, *tags]
        numbers: list[Any] = []
        for kept in metrics.values():
            names += kept
            numbers += kept.values()
        names += map(len, metrics.values())
        group = self._group
        if names != group.names:  # mostly they are those of the run before
            found = self._group_of(names, params, metrics, tags)
            if found is None:
                self._add_in_parts(facts, params, metrics, tags)
                return
            group = self._group = found
        group.keep(self.length, group.pack(numbers), (*params.values(), *tags.values()))
        self._row(facts, group.shape)

    def _row(self, facts: Sequence[Any], shape: int) -> None:
        self._facts += facts
        self._row_shapes.append(shape)
        self.length += 1
        self._waiting += 1
        if self._waiting == _CHUNK:
            self._cut()

    def _group_of(
        self,
        names: list[Any],
        params: Iterable[str],
        metrics: Mapping[str, Iterable[str]],
        tags: Iterable[str],
    ) -> "_Group | None":
        """Return the group of runs with these names; None for one too many."""
        signature = tuple(names)
        if signature not in self._groups:
            if len(self._groups) == _MOST_GROUPS:
                return None
            shape = self._shape(params, metrics, tags)
            self._groups[signature] = _Group(names, shape, params, metrics, tags)
        return self._groups[signature]

    def _shape(self, params: Iterable[str], metrics: Iterable[str], tags: Iterable[str]) -> int:
        names = [f"params.{name}" for name in params]
        names += [f"metrics.{shown_name(name)}" for name in metrics]
        names += [f"tags.{name}" for name in tags]
        return self._shapes.setdefault(tuple(names), len(self._shapes))

    def _add_in_parts(
        self,
        facts: Sequence[Any],
        params: Mapping[str, Any],
        metrics: Mapping[str, Mapping[str, Any]],
        tags: Mapping[str, Any],
    ) -> None:
        """Add a run like which there is hardly another, each of its columns by itself."""
        parts: list[tuple[_Group, list[Any], tuple[Any, ...]]] = []
        for name, kept in metrics.items():
            parts.append((self._part("metrics", name, kept), list(kept.values()), ()))
        for kind, values in (("params", params), ("tags", tags)):
            parts += [(self._part(kind, name, ()), [], (v,)) for name, v in values.items()]
        packed = [part.pack(numbers) for part, numbers, _ in parts]  # before anything is kept
        for (part, _, cells), ready in zip(parts, packed, strict=True):
            part.keep(self.length, ready, cells)
        self._row(facts, self._shape(params, metrics, tags))

    def _part(self, kind: str, name: str, keys: Iterable[str]) -> "_Group":
        signature = (kind, name, *keys)
        if signature not in self._parts:
            of = {kind: {name: keys}}
            self._parts[signature] = _Group(
                [], 0, of.get("params", ()), of.get("metrics", {}), of.get("tags", ())
            )
        return self._parts[signature]

    def _cut(self) -> None:
        """Cut what waits into columns."""
        rows = array("i", range(self.length - self._waiting, self.length))
        for name, values in _slices(self._facts, FACTS):
            self._extend(name, rows, values)
        begun = self._facts[FACTS.index("created_at") :: len(FACTS)]
        self._extend("#created", rows, array("q", map(to_microseconds, begun)))
        self._extend("#shape", rows, self._row_shapes)
        for group in (*self._groups.values(), *self._parts.values()):
            if group.rows:
                for name, values in group.columns():
                    self._extend(name, group.rows, values)
                group.clear(keep_room=group is self._group)
        self._facts.clear()
        self._row_shapes = array("q")
        self._waiting = 0

    def _extend(self, name: str, rows: "array[int]", values: Any) -> None:
        if rows:  # of an empty segment there are none
            self._columns.setdefault(name, _Growing()).extend(rows, values)

    def segment(self) -> Segment:
        """Return what was gathered."""
        self._cut()
        columns = {name: column.finish(self.length) for name, column in self._columns.items()}
        return Segment(self.length, list(self._shapes), columns)


class _Group:
    """Runs with the same names, whose cells wait row behind row."""

    def __init__(
        self,
        names: list[Any],
        shape: int,
        params: Iterable[str],
        metrics: Mapping[str, Iterable[str]],
        tags: Iterable[str],
    ) -> None:
        self.names = names
        self.shape = shape
        self.rows = array("i")
        self._cell_names = [f"params.{name}" for name in params] + [f"tags.{name}" for name in tags]
        self._cells: list[Any] = []
        every = [f"metrics.{shown_name(name)}:{key}" for name in metrics for key in metrics[name]]
        numbers = [name for name in every if not name.endswith(":goal")]
        self._wanted = [
            (at, name) for at, name in enumerate(numbers) if name.rpartition(":")[2] in NUMBERS
        ]
        self._width = len(numbers)
        self._pack_into = struct.Struct(f"{self._width}d").pack_into
        self._numbers = array("d")  # with room for rows to come
        self._goals: list[str] = []
        # From the last to the first, so that taking one out moves none of the others.
        self._goals_at = [at for at, name in enumerate(every) if name.endswith(":goal")][::-1]
        self._goal_names = [every[at] for at in self._goals_at]

    def pack(self, numbers: list[Any]) -> list[str]:
        """Put a run's numbers where its row will be; return its goals."""
        goals = [numbers.pop(at) for at in self._goals_at]
        if not _TEXT.issuperset(map(type, goals)):
            raise TypeError("a goal is no text")
        at = len(self.rows) * self._width
        if at == len(self._numbers):
            self._numbers.frombytes(bytes(max(at, _FEW * self._width) * _DOUBLE))
        try:  # struct takes half the time that an array takes to check them
            self._pack_into(self._numbers, at * _DOUBLE, *numbers)
        except struct.error:
            self._pack_into(self._numbers, at * _DOUBLE, *map(_number, numbers))
        return goals

    def keep(self, row: int, goals: Sequence[str], cells: Sequence[Any]) -> None:
        """Add a run whose numbers are packed."""
        self._goals += goals
        self._cells += cells
        self.rows.append(row)

    def columns(self) -> Iterator[tuple[str, Any]]:
        """Yield names as they stand in the segment, and values."""
        yield from _slices(self._cells, self._cell_names)
        yield from _slices(self._goals, self._goal_names)
        end = len(self.rows) * self._width
        for at, name in self._wanted:
            yield name, self._numbers[at : end : self._width]

    def clear(self, keep_room: bool) -> None:
        """Begin anew. Room costs memory, but fresh memory costs time."""
        self.rows = array("i")
        self._cells, self._goals = [], []
        if not keep_room:
            self._numbers = array("d")


def _number(stored: Any) -> float:
    number = from_stored(stored)
    if number is None:
        raise TypeError(f"a metric has {stored!r:.60} for a number")
    return number


class _Growing:
    """A column to which values are added piece by piece."""

    def __init__(self) -> None:
        self._values: Any = None
        self._rows: array[int] | None = None  # as long as each row so far has a value, in order

    def extend(self, rows: "array[int]", values: Any) -> None:
        """Add values and their rows, of which there is at least one, ascending."""
        values = _typed(values) if type(values) is list else values
        count = 0 if self._values is None else len(self._values)
        if self._rows is not None or rows[0] != count or rows[-1] != count + len(rows) - 1:
            self._rows = array("i", range(count)) if self._rows is None else self._rows
            self._rows += rows
        if self._values is None:
            self._values = values
        elif kind_of(values) == kind_of(self._values):
            self._values += values
        else:
            self._values = [*self._values, *values]

    def finish(self, length: int) -> Column:
        """Return the column of a segment of ``length`` runs."""
        if self._rows is None and len(self._values) < length:
            self._rows = array("i", range(len(self._values)))
        return Column(self._values, self._rows)


def _slices(cells: Any, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for position, name in enumerate(names):
        yield name, cells[position :: len(names)]


def _typed(values: list[Any]) -> Any:
    """Return numbers of one kind as an array, anything else as it is."""
    kinds = set(map(type, values))
    if kinds == {float}:
        return array("d", struct.pack(f"{len(values)}d", *values))
    if kinds == {int}:
        try:
            return array("q", values)
        except OverflowError:
            return values
    return values


def kind_of(values: Any) -> str:
    """Return ``d`` for doubles, ``q`` for integers, ``list`` for anything else."""
    if type(values) is list:
        return "list"
    return values.typecode if type(values) is array else values.format


def to_microseconds(time: Any) -> int:
    """Return when a time of a document was, in µs since 1970; :data:`NEVER` for what is none."""
    try:
        moment = datetime.fromisoformat(time)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1e6)
    except (TypeError, ValueError, OverflowError):
        return NEVER


# ---------------------------------------------------------------------- merging


def merge(parts: Sequence[tuple[Segment, Sequence[int]]]) -> Segment:
    """Return rows of several segments as one segment, in the order given; each row once."""
    shapes: dict[tuple[str, ...], int] = {}
    columns: dict[str, _Growing] = {}
    length = 0
    for segment, rows in parts:
        numbers = [shapes.setdefault(tuple(shape), len(shapes)) for shape in segment.shapes]
        for name in segment.names():
            values, places = _chosen(segment.column(name), rows, length)
            if name == "#shape":
                values = array("q", map(numbers.__getitem__, values))
            if places:
                columns.setdefault(name, _Growing()).extend(places, values)
        length += len(rows)
    finished = {name: column.finish(length) for name, column in columns.items()}
    return Segment(length, list(shapes), finished)


def _chosen(column: Column, rows: Sequence[int], start: int) -> tuple[Any, "array[int]"]:
    """Return the values in ``rows``, and where they stand when those rows begin at ``start``."""
    at: Sequence[int] = rows
    places = array("i", range(start, start + len(rows)))
    if column.rows is not None:
        known = dict(zip(column.rows, range(len(column.rows)), strict=True))
        places = array(
            "i", [place for place, row in zip(places, rows, strict=True) if row in known]
        )
        at = [known[row] for row in rows if row in known]
    values = [column.values[each] for each in at]
    kind = kind_of(column.values)
    return (values if kind == "list" else array(kind, values)), places


# ---------------------------------------------------------------------- as bytes


class _Packed(NamedTuple):
    """A column as it lies in a segment's bytes."""

    kind: str
    data: memoryview
    rows: memoryview | None

    def check(self, length: int) -> None:
        """Raise ValueError if its size is not that of its rows, or these are not there."""
        count = length
        if self.rows is not None:
            rows = self.rows.cast("i")
            count = len(rows)
            if not count or not 0 <= rows[0] <= rows[-1] < length:
                raise ValueError("a column has rows that are not there")
        if self.kind in ("d", "q"):
            if len(self.data) not in (_DOUBLE, _DOUBLE * count):
                raise ValueError(f"a column has {len(self.data)} bytes for {count} values")
        elif self.kind != "list":
            raise ValueError(f"a column is of kind {self.kind!r}")

    def unpack(self, length: int) -> Column:
        rows = None if self.rows is None else self.rows.cast("i")
        count = length if rows is None else len(rows)
        if self.kind == "list":
            values = _from_json(bytes(self.data))
            return Column(values * count if len(values) < count else values, rows)
        data = self.data
        if len(data) == _DOUBLE < _DOUBLE * count:
            data = memoryview(bytes(data) * count)
        return Column(data.cast(self.kind), rows)  # type: ignore[call-overload]


class _Shapes(Sequence[Sequence[str]]):
    """Names that runs have, as they lie in a segment's bytes."""

    def __init__(self, names: list[str], flat: Sequence[int], ends: Sequence[int]) -> None:
        self.names = names
        self._flat = flat
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: Any) -> Any:
        start = self._ends[number - 1] if number else 0
        return [self.names[name] for name in self._flat[start : self._ends[number]]]


class _Blocks:
    """Blocks one behind the other, equal ones once."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self._known: dict[tuple[int, int], tuple[int, bytes]] = {}

    def add(self, block: bytes) -> tuple[int, int, int]:
        """Return offset, size and checksum of the block."""
        size, crc = len(block), zlib.crc32(block)
        offset, known = self._known.get((size, crc), (0, None))
        if known != block:
            offset = self.size
            self._known[size, crc] = offset, block
            self.parts += (block, bytes(-size % _DOUBLE))
            self.size += size + -size % _DOUBLE
        return offset, size, crc


def encode(segment: Segment) -> list[bytes]:
    """Return a segment as blocks of bytes, to be written one behind the other.

    A head (mark, length and checksum of what follows), the directory as JSON, then doubles,
    64-bit integers and 32-bit row numbers in this machine's byte order, and lists as JSON. A
    block of one value stands for as many equal ones as there are rows.

    Raises
    ------
    RecursionError
        If a param is nested deeper than JSON can be written.
    """
    if segment.data is not None:
        return [segment.data]
    blocks = _Blocks()
    columns = []
    for name in segment.names():
        values, rows = segment.column(name)
        place = None if rows is None else blocks.add(bytes(rows))
        columns.append((name, kind_of(values), blocks.add(_pack(values)), place))
    names = segment.known()
    numbers = dict(zip(names, range(len(names)), strict=True))
    flat = array("i", [numbers[name] for shape in segment.shapes for name in shape])
    ends = array("i", accumulate(map(len, segment.shapes)))
    directory = _to_json({
        "version": VERSION, "length": segment.length, "columns": columns, "names": names,
        "shapes": [blocks.add(bytes(flat)), blocks.add(bytes(ends))], "size": blocks.size,
    })  # fmt: skip
    directory += b" " * (-(_HEAD_BYTES + len(directory)) % 8)
    head = _HEAD.pack(_MAGIC, len(directory), zlib.crc32(directory))
    return [head, directory, *blocks.parts]


def decode(data: bytes) -> Segment:
    """Return the segment whose bytes these are; what is asked for is unpacked then.

    Raises
    ------
    DamagedError
        If they are not those of a segment of this version, whole and unharmed.
    """
    try:
        mark, size, crc = _HEAD.unpack_from(data)
        start = _HEAD_BYTES + size
        view = memoryview(data)
        directory = view[_HEAD_BYTES:start]
        if mark != _MAGIC or len(directory) != size or zlib.crc32(directory) != crc:
            raise ValueError("not a segment, or a damaged one")
        return _unpacked(_from_json(bytes(directory)), view[start:], data)
    except (ValueError, TypeError, KeyError, RecursionError, struct.error) as error:
        raise DamagedError(f"A segment of the index cannot be read: {error}.") from error


def _unpacked(directory: dict[str, Any], blocks: memoryview, data: bytes) -> Segment:
    if directory["version"] != VERSION:
        raise ValueError(f"it is of version {directory['version']}, this one reads {VERSION}")
    if directory["size"] != len(blocks):
        raise ValueError(f"it has {len(blocks)} bytes of {directory['size']}")
    length = directory["length"]
    if type(length) is not int or not 0 <= length <= len(blocks):
        raise ValueError(f"it has {len(blocks)} bytes for {length} runs")
    known: dict[int, memoryview] = {}
    columns = {}
    for name, kind, values, rows in directory["columns"]:
        place = None if rows is None else _block(blocks, rows, known)
        columns[name] = _Packed(kind, _block(blocks, values, known), place)
        columns[name].check(length)
    if length and not _EVERY_ROW.issubset(n for n, column in columns.items() if not column.rows):
        raise ValueError("it lacks columns that every segment has")
    flat, ends = (_block(blocks, packed, known).cast("i") for packed in directory["shapes"])
    shapes = _Shapes(directory["names"], flat, ends)
    return Segment(length, shapes, columns, data)


def _block(blocks: memoryview, packed: Sequence[int], known: dict[int, memoryview]) -> memoryview:
    offset, size, crc = packed
    block = known.get(offset)
    if block is None or len(block) != size:
        block = known[offset] = blocks[offset : offset + size]
        if zlib.crc32(block) != crc:
            raise ValueError("a block of it is damaged")
    return block


def _pack(values: Any) -> bytes:
    if type(values) is list:
        kinds = set(map(type, values))
        is_one = len(kinds) == 1 and kinds <= _EXACT and values.count(values[0]) == len(values)
        return _to_json(values[:1] if is_one else values)
    raw = bytes(values)
    return raw[:_DOUBLE] if raw == raw[:_DOUBLE] * len(values) else raw


def _to_json(value: Any) -> bytes:
    # orjson makes NaN null, and stops at 64 bits and half surrogate pairs. What it does not give
    # back as it was is written the slow way and marked, as in the documents, by a space.
    try:
        data = orjson.dumps(value)
        if orjson.loads(data) == value:
            return data
    except (TypeError, ValueError):
        pass
    return b" " + json.dumps(value).encode()


def _from_json(data: bytes) -> Any:
    return json.loads(data) if data.startswith(b" ") else orjson.loads(data)
