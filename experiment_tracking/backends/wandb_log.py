"""Read W&B's own log of a run, ``run-<id>.wandb``, without W&B.

Public names: :class:`WandbLog` (``records()``, ``rows()``, ``steps()``, ``read()``, ``problems``,
``torn``, ``whole_bytes``), :class:`Contents`, and the records :class:`Run`, :class:`Config`,
:class:`Row`, :class:`Summary`, :class:`MetricDefinition`, :class:`Artifact` with
:class:`ArtifactFile`, :class:`Files`, :class:`Output`, :class:`SystemSample`, :class:`Alert`,
:class:`Environment`, :class:`Exit`; :func:`find_logs` lists the logs below a folder.

The file is a LevelDB log [1]_ of blocks of 32 KiB behind 7 bytes of its own. Each piece has a head
of CRC-32 over type and data, length, and type; its records are Protocol Buffers messages [2]_ by
the numbers of ``wandb/proto/wandb_internal.proto``, checked against wandb 0.31.0. Records and
fields that are not known are passed over, so a file of another version reads too.

.. [1] https://github.com/google/leveldb/blob/main/doc/log_format.md
.. [2] https://protobuf.dev/programming-guides/encoding/
"""

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from experiment_tracking.errors import FormatError

_FILE_HEAD = struct.Struct("<4sHB")
_MARK = (b":W&B", 0xBEE1)
_VERSION = 0
_PIECE_HEAD = struct.Struct("<IHB")
_BLOCK_BYTES = 32 * 1024
_LOST, _FULL, _FIRST, _MIDDLE, _LAST = range(5)

_MISREAD = (ValueError, TypeError, AttributeError, IndexError, struct.error)
"""What bytes raise that are no such message: a number where a text should be, and the like."""


class Run(NamedTuple):
    """Who the run is; the last such record of a log counts."""

    id: str
    entity: str
    project: str
    name: str
    group: str
    job_type: str
    notes: str
    tags: tuple[str, ...]
    host: str
    sweep_id: str
    started_at: float | None
    """Unix seconds."""
    config: "Config"
    """What was given to ``wandb.init``."""
    git_commit: str
    git_remote: str


class Config(NamedTuple):
    """Params that were set: the path of keys of each, and its value."""

    update: tuple[tuple[tuple[str, ...], Any], ...]
    remove: tuple[tuple[str, ...], ...]


class Summary(NamedTuple):
    """Summary values that were set, likewise."""

    update: tuple[tuple[tuple[str, ...], Any], ...]
    remove: tuple[tuple[str, ...], ...]


class Row(NamedTuple):
    """One row of the history: W&B's internal step, and the values, nested as they were logged.

    Among them are W&B's own ``_step``, ``_timestamp`` (Unix seconds) and ``_runtime`` (s).
    Media are mappings with ``_type`` and the ``path`` below ``files/``.
    """

    step: int
    values: dict[str, Any]


class MetricDefinition(NamedTuple):
    """What ``define_metric`` said of a metric, or of all whose names fit ``glob``."""

    name: str
    glob: str
    step_metric: str
    summary: tuple[str, ...]
    """Of ``min``, ``max``, ``mean``, ``best``, ``last``, ``none``, ``copy``, ``first``."""
    goal: str
    """``minimize``, ``maximize`` or empty."""
    hidden: bool


class ArtifactFile(NamedTuple):
    """One file of an artifact; ``local_path`` is where its bytes lay when it was logged."""

    path: str
    size_bytes: int
    digest: str
    local_path: str
    reference: str


class Artifact(NamedTuple):
    """An artifact, with the list of its files; of a very long list W&B keeps only the place."""

    name: str
    type: str
    description: str
    metadata: Any
    aliases: tuple[str, ...]
    digest: str
    files: tuple[ArtifactFile, ...]
    manifest_path: str


class Files(NamedTuple):
    """Files that were saved, relative to ``files/``."""

    paths: tuple[str, ...]


class Output(NamedTuple):
    """Text that the run printed to ``stdout`` or ``stderr``."""

    stream: str
    text: str
    time: float | None


class SystemSample(NamedTuple):
    """One sample of the machine's load."""

    time: float | None
    values: dict[str, Any]


class Alert(NamedTuple):
    """A message that the run sent."""

    title: str
    text: str
    level: str


class Environment(NamedTuple):
    """Where the run ran."""

    os: str
    python: str
    args: tuple[str, ...]
    program: str
    code_path: str
    host: str
    username: str
    executable: str
    git_commit: str
    git_remote: str
    gpu_type: str
    gpu_count: int


class Exit(NamedTuple):
    """The run ended by itself. A log without this record is of a run that was cut off."""

    code: int
    runtime_s: int


Record = (
    Run | Config | Summary | Row | MetricDefinition | Artifact | Files | Output | SystemSample
    | Alert | Environment | Exit
)  # fmt: skip


class Contents(NamedTuple):
    """All of a log but its rows, put together."""

    run: Run | None
    config: dict[str, Any]
    """Nested, as it stood at the end; W&B's own part is the key ``_wandb``."""
    summary: dict[str, Any]
    rows: int
    metrics: list[MetricDefinition]
    artifacts: list[Artifact]
    files: list[str]
    alerts: list[Alert]
    environment: Environment | None
    exit_code: int | None
    """None where the run was cut off, or is running."""
    torn: bool
    problems: list[str]


class WandbLog:
    """One ``run-<id>.wandb`` file; every pass reads it anew, a block in memory at a time.

    Parameters
    ----------
    path
        The file. It may still be growing.

    Examples
    --------
    >>> log = WandbLog("wandb/offline-run-1/run-k3f9.wandb")  # doctest: +SKIP
    >>> [(row.step, row.values["loss"]) for row in log.rows()]  # doctest: +SKIP
    [(0, 0.5), (1, 0.25)]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.problems: list[str] = []
        """Damage that the last pass met, and what was lost by it."""
        self.torn = False
        """Whether the file ended within a record, as after a kill; nothing whole is lost."""
        self.whole_bytes = 0
        """Where the last whole record ended in that pass; what stands behind may be cut off."""

    def __repr__(self) -> str:
        return f"WandbLog({self.path!r})"

    def records(self) -> Iterator[Record]:
        """Iterate over the records of known kinds, in the order of the file.

        Raises
        ------
        FormatError
            If it is no W&B log, or one of another version of the framing.
        """
        for kind, message in self._messages():
            reader = _READERS.get(kind)
            if reader is not None:
                record = self._decoded(reader, message)
                if record is not None:
                    yield record

    def rows(self) -> Iterator[Row]:
        """Iterate over the rows of the history."""
        for kind, message in self._messages():
            if kind == _HISTORY and (row := self._decoded(_row, message)) is not None:
                yield row

    def steps(self) -> Iterator[int]:
        """Iterate over W&B's internal steps of the rows; a tenth of the cost of :meth:`rows`."""
        for kind, message in self._messages():
            if kind == _HISTORY and (step := self._decoded(_row_step, message)) is not None:
                yield step

    def read(self) -> Contents:
        """Put everything but the rows' values together."""
        kept = Contents(None, {}, {}, 0, [], [], [], [], None, None, False, [])
        for kind, message in self._messages():
            if kind == _HISTORY:
                kept = kept._replace(rows=kept.rows + 1)
            elif kind in _READERS and (record := self._decoded(_READERS[kind], message)):
                kept = _with(kept, record)
        return kept._replace(torn=self.torn, problems=self.problems)

    def _decoded(self, reader: Callable[[bytes], Any], message: bytes) -> Any:
        try:
            return reader(message)
        except _MISREAD as error:
            self.problems.append(f"a record cannot be read ({error})")
            return None

    def _messages(self) -> Iterator[tuple[int, bytes]]:
        """Yield the kind of each record and its bytes."""
        for data in self._framed():
            try:
                fields = _fields(data)
            except _MISREAD as error:
                self.problems.append(f"a record cannot be read ({error})")
                continue
            for number, value in fields:
                if number in _KINDS and isinstance(value, bytes):
                    yield number, value

    def _framed(self) -> Iterator[bytes]:
        """Yield the records' bytes, put together from their pieces."""
        self.problems, self.torn, self.whole_bytes = [], False, 0
        with open(self.path, "rb") as file:
            self._check_head(file.read(_FILE_HEAD.size))
            parts: list[bytes] | None = None
            for type_, data, end in self._pieces(file):
                if type_ in (_FULL, _FIRST):
                    self._check_whole(parts)
                    parts = []
                elif type_ == _LOST:
                    parts = None
                if parts is None:
                    continue  # a record of which a piece was damaged
                parts.append(data)
                if type_ in (_FULL, _LAST):
                    self.whole_bytes = end
                    yield b"".join(parts)
                    parts = None
            self.torn = self.torn or parts is not None

    def _check_head(self, head: bytes) -> None:
        found = _FILE_HEAD.unpack(head) if len(head) == _FILE_HEAD.size else None
        if not head:
            self.torn = True  # made a moment ago
        elif found is None or found[:2] != _MARK:
            raise FormatError(f"{self.path} is not a W&B log: it begins with {head!r}.")
        elif found[2] != _VERSION:
            raise FormatError(
                f"{self.path} is a W&B log of version {found[2]}, this version reads {_VERSION}. "
                "Upgrade experiment_tracking."
            )

    def _check_whole(self, parts: list[bytes] | None) -> None:
        if parts is not None:
            self.problems.append("a record ends before its last piece")

    def _pieces(self, file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
        """Yield type, data and end of each piece; ``_LOST`` is the rest of a damaged block."""
        start, position = 0, _FILE_HEAD.size
        file.seek(0)
        while block := file.read(_BLOCK_BYTES):
            while len(block) - position >= _PIECE_HEAD.size:
                crc, length, type_ = _PIECE_HEAD.unpack_from(block, position)
                end = position + _PIECE_HEAD.size + length
                data = block[position + _PIECE_HEAD.size : end]
                reason = _fault(block, end, crc, type_, data)
                if reason:
                    self._note(reason, start + position, block, position)
                    yield _LOST, b"", start + position
                    break
                yield type_, data, start + end
                position = end
            else:
                # Less than a head is padding at the end of a block, and torn at the end of a file.
                self.torn = self.torn or position < len(block) < _BLOCK_BYTES
            start, position = start + len(block), 0

    def _note(self, reason: str, offset: int, block: bytes, position: int) -> None:
        if (reason == _CUT and len(block) < _BLOCK_BYTES) or not any(block[position:]):
            self.torn = True  # the end of the file, or zeros that a power cut left
        else:
            self.problems.append(f"damaged at byte {offset}: {reason}; the rest of its block lost")


_CUT = "it ends before its length says"


def _fault(block: bytes, end: int, crc: int, type_: int, data: bytes) -> str:
    if end > len(block):
        return _CUT
    if zlib.crc32(data, zlib.crc32(bytes([type_]))) != crc:
        return "its checksum does not fit"
    return "" if _FULL <= type_ <= _LAST else f"it is of the unknown type {type_}"


def find_logs(folder: str | os.PathLike[str]) -> list[str]:
    """List the logs in a folder, or in W&B's folders of runs below it, oldest first.

    ``folder`` may be a run's (``offline-run-…``), the ``wandb`` above or the one above that.
    W&B names a run's folder by its time of start, which is what the order rests on.
    """
    found = []
    for here, folders, names in os.walk(folder):
        # Where a run's log is, the folders below hold its files.
        logs = [name for name in names if name.startswith("run-") and name.endswith(".wandb")]
        folders[:] = [] if logs else [name for name in folders if name != "files"]
        found += [os.path.join(here, name) for name in logs if not os.path.islink(here)]
    return sorted(found, key=lambda path: os.path.basename(os.path.dirname(path)).split("run-")[-1])


# Protocol Buffers on the wire ---------------------------------------------------------------------


def _fields(data: bytes) -> list[tuple[int, Any]]:
    """Split a message into numbers and values: integers, and bytes for everything longer."""
    found: list[tuple[int, Any]] = []
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == 0:
            value, position = _varint(data, position)
        else:
            length, position = (
                _varint(data, position) if wire == 2 else (_fixed_length(wire), position)
            )
            if position + length > end:
                raise ValueError("a field is longer than its message")
            value, position = data[position : position + length], position + length
        found.append((number, value))
    return found


def _fixed_length(wire: int) -> int:
    if wire not in (1, 5):
        raise ValueError(f"wire type {wire}")
    return 8 if wire == 1 else 4


def _varint(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    if byte < 0x80:  # most are
        return byte, position + 1
    value, shift = byte & 0x7F, 7
    while byte >= 0x80:
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, position + 1


class _Message:
    """Fields of a message by number; those that are missing have Protocol Buffers' defaults."""

    def __init__(self, data: bytes) -> None:
        self._values: dict[int, list[Any]] = {}
        for number, value in _fields(data):
            self._values.setdefault(number, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self._values

    def all(self, number: int) -> list[Any]:
        return self._values.get(number, [])

    def integer(self, number: int) -> int:
        value = int(self._values.get(number, [0])[-1])
        return value - (1 << 64) if value >> 63 else value

    def text(self, number: int) -> str:
        data: bytes = self._values.get(number, [b""])[-1]
        return data.decode("utf-8", "replace")

    def texts(self, number: int) -> tuple[str, ...]:
        return tuple(data.decode("utf-8", "replace") for data in self.all(number))

    def message(self, number: int) -> "_Message":
        return _Message(b"".join(self.all(number)))

    def time(self, number: int) -> float | None:
        if number not in self:
            return None
        stamp = self.message(number)
        return stamp.integer(1) + stamp.integer(2) / 1e9


# Records ------------------------------------------------------------------------------------------


def _run(data: bytes) -> Run:
    run = _Message(data)
    git = run.message(21)
    return Run(
        id=run.text(1),
        entity=run.text(2),
        project=run.text(3),
        name=run.text(8),
        group=run.text(6),
        job_type=run.text(7),
        notes=run.text(9),
        tags=run.texts(10),
        host=run.text(13),
        sweep_id=run.text(12),
        started_at=run.time(17),
        config=_config(b"".join(run.all(4))),
        git_commit=git.text(2),
        git_remote=git.text(1),
    )


def _config(data: bytes) -> Config:
    return Config(*_changes(data))


def _summary(data: bytes) -> Summary:
    return Summary(*_changes(data))


def _changes(data: bytes) -> tuple[Any, Any]:
    message = _Message(data)
    update = tuple(_item(item) for item in message.all(1))
    return update, tuple(_item(item)[0] for item in message.all(2))


def _item(data: bytes) -> tuple[tuple[str, ...], Any]:
    """Return the path of keys of an item, and its value.

    Written out, for this is most of the work of reading a long history.
    """
    key, nested, value = b"", [], None
    for number, field in _fields(data):
        if number == 2:
            nested.append(field.decode("utf-8", "replace"))
        elif number == 16:
            value = json.loads(field)
        elif number == 1:
            key = field
        elif number in _TYPED and value is None:
            value = _TYPED[number](field)
    return tuple(nested) or (key.decode("utf-8", "replace"),), value


# The other form of a value in the history, which W&B 0.31 writes on request.
_TYPED: Mapping[int, Callable[[Any], Any]] = {
    4: bool,
    5: lambda value: (value >> 1) ^ -(value & 1),
    6: lambda value: struct.unpack("<d", value)[0],
    7: lambda value: value.decode("utf-8", "replace"),
    8: json.loads,
}


def _row(data: bytes) -> Row:
    values: dict[str, Any] = {}
    step = 0
    for number, field in _fields(data):
        if number == 1:
            _put(values, *_item(field))
        elif number == 2:
            step = _Message(field).integer(1)
    return Row(step, values)


def _row_step(data: bytes) -> int:
    return _Message(data).message(2).integer(1)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        below = tree.get(key)
        if not isinstance(below, dict):
            below = tree[key] = {}
        tree = below
    tree[path[-1]] = value


def _drop(tree: dict[str, Any], path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        below = tree.get(key)
        if not isinstance(below, dict):
            return
        tree = below
    tree.pop(path[-1], None)


def _metric(data: bytes) -> MetricDefinition:
    metric = _Message(data)
    words = ("min", "max", "mean", "best", "last", "none", "copy", "first")
    chosen = metric.message(7)
    return MetricDefinition(
        name=metric.text(1),
        glob=metric.text(2),
        step_metric=metric.text(4),
        summary=tuple(word for number, word in enumerate(words, 1) if chosen.integer(number)),
        goal={1: "minimize", 2: "maximize"}.get(metric.integer(8), ""),
        hidden=bool(metric.message(6).integer(2)),
    )


def _artifact(data: bytes) -> Artifact:
    artifact = _Message(data)
    manifest = artifact.message(12)
    return Artifact(
        name=artifact.text(5),
        type=artifact.text(4),
        description=artifact.text(7),
        metadata=json.loads(artifact.text(8) or "null"),
        aliases=artifact.texts(11),
        digest=artifact.text(6),
        files=tuple(_artifact_file(entry) for entry in manifest.all(4)),
        manifest_path=manifest.text(5),
    )


def _artifact_file(data: bytes) -> ArtifactFile:
    entry = _Message(data)
    size = entry.integer(4)
    return ArtifactFile(entry.text(1), size, entry.text(2), entry.text(6), entry.text(3))


def _files(data: bytes) -> Files:
    return Files(tuple(_Message(item).text(1) for item in _Message(data).all(1)))


def _output(data: bytes) -> Output:
    output = _Message(data)
    stream = "stdout" if output.integer(1) else "stderr"
    return Output(stream, output.text(3), output.time(2))


def _system(data: bytes) -> SystemSample:
    sample = _Message(data)
    items = (_item(item) for item in sample.all(3))
    return SystemSample(sample.time(2), {path[-1]: value for path, value in items})


def _alert(data: bytes) -> Alert:
    alert = _Message(data)
    return Alert(alert.text(1), alert.text(2), alert.text(3))


def _environment(data: bytes) -> Environment:
    seen = _Message(data)
    git = seen.message(9)
    return Environment(
        os=seen.text(1),
        python=seen.text(2),
        args=seen.texts(5),
        program=seen.text(6),
        code_path=seen.text(7),
        host=seen.text(12),
        username=seen.text(13),
        executable=seen.text(14),
        git_commit=git.text(2),
        git_remote=git.text(1),
        gpu_type=seen.text(18),
        gpu_count=seen.integer(19),
    )


def _exit(data: bytes) -> Exit:
    ended = _Message(data)
    return Exit(ended.integer(1), ended.integer(2))


_HISTORY = 2

_READERS: Mapping[int, Callable[[bytes], Record]] = {
    _HISTORY: _row,
    3: _summary,
    5: _config,
    6: _files,
    7: _system,
    8: _artifact,
    10: _alert,
    12: _metric,
    13: _output,
    17: _run,
    18: _exit,
    26: _environment,
}
_KINDS = frozenset(_READERS)


def _with(kept: Contents, record: Record) -> Contents:
    """Take one record in."""
    match record:
        case Run():
            _change(kept.config, record.config)
            return kept._replace(run=record)
        case Config():
            _change(kept.config, record)
        case Summary():
            _change(kept.summary, record)
        case MetricDefinition():
            kept.metrics.append(record)
        case Artifact():
            kept.artifacts.append(record)
        case Files():
            kept.files.extend(record.paths)
        case Alert():
            kept.alerts.append(record)
        case Environment():
            return kept._replace(environment=record)
        case Exit():
            return kept._replace(exit_code=record.code)
    return kept


def _change(tree: dict[str, Any], changes: Config | Summary) -> None:
    for path, value in changes.update:
        _put(tree, path, value)
    for path in changes.remove:
        _drop(tree, path)
