"""TensorBoard event files, one record per row of the history.

Protobufs and checksums are tensorboardX's. A record is framed as TFRecord says: length,
masked CRC of the length, data, masked CRC of the data (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain, count
from struct import pack, unpack, unpack_from
from threading import RLock
from types import ModuleType
from typing import Any, NamedTuple

from experiment_tracking.backends.interface import BackendInterface, readable_row
from experiment_tracking.errors import BackendError, DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import MAX_BYTES, read_document
from experiment_tracking.folder.history import Row, metric_values
from experiment_tracking.folder.values import RESERVED, shown_name, stored_name

_FILE_NUMBERS = count()
_TEMPLATES_KEPT = 64
_PREFIX, _HIDDEN = "events.out.tfevents.", ".unfinished."
"""TensorBoard reads the files that have ``tfevents`` in their names, and no others."""
_HISTOGRAM = {"counts", "edges", "count", "min", "max", "mean", "std"}
_EMPTY_KEPT_S = 600.0
_LOWEST_STEP, _BEYOND_ALL_STEPS = -(2**63), 2**62


class TensorBoardBackend(BackendInterface):
    """Write a run's rows, params, figures and texts as TensorBoard event files.

    Nothing is imported or created before the first record; then one new event file is
    opened. Every call that writes has handed its records to the kernel when it returns (no
    fsync: the files are derived and can be written again). A write that fails raises OSError
    and leaves none of that call's records behind.

    Values are float32 in TensorBoard's format; those beyond its range become infinite.
    TensorBoard believes the params and the ending that it reads first, so after a resume those
    stay on show until ``experiments push --to tensorboard`` writes all anew.

    Parameters
    ----------
    log_dir
        Folder for the event files; default ``tensorboard/`` in the run's folder. With a
        ``project``, as from a tracker, each run gets ``<log_dir>/<project>/<run>`` in it (with
        ``-2`` behind it where another run is), because one folder is one run in TensorBoard.
        Without, the files come right into ``log_dir``.
    budget
        How many rows `log_live` may write; default 1,000 a second after a burst of 5,000.

    Examples
    --------
    >>> import os
    >>> from experiment_tracking import ExperimentTracker
    >>> tracker = ExperimentTracker(
    ...     "digits", root="runs", backend=TensorBoardBackend("curves"), auto_log=False
    ... )
    >>> for lr in (0.1, 0.01):
    ...     with tracker.start_run(f"lr-{lr}", config={"lr": lr}) as run:
    ...         run.log_metric("loss", lr / 2, step=0)
    >>> sorted(os.listdir("curves/digits"))
    ['lr-0.01', 'lr-0.1']
    """

    def __init__(
        self, log_dir: str | os.PathLike[str] | None = None, *, budget: RowBudget | None = None
    ) -> None:
        self.log_dir = log_dir
        self._budget = budget or RowBudget()
        self._reset(None)

    def __copy__(self) -> TensorBoardBackend:
        # For a further run at the same time: not with this one's files.
        return TensorBoardBackend(self.log_dir)

    def _reset(self, folder: str | os.PathLike[str] | None, run_id: str = "") -> None:
        self._folder = folder
        self._run_id = run_id
        self._arrived = 0
        """How many of the rows to come are in earlier files of the run already."""
        self._attempt = _Attempt()
        self._replaces = False
        """Whether a file holds all of the run, and nothing in it goes back over steps."""
        self._file: _EventFile | None = None
        self._params: dict[str, Any] = {}
        self._params_written = False
        self._held: list[Row] = []
        self._templates: dict[tuple[str, ...], _Template] = {}
        self._last_time: float | None = None

    def start_run(
        self,
        run_name: str,
        config: Mapping[str, Any] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        project: str = "",
        run_id: str = "",
        rows: int = 0,
    ) -> int | None:
        """Begin a run, whose folder is ``path``; ``config`` counts among its params.

        With a ``run_id``, event files of that run are gone on with: the rows in them are counted
        (about 3 µs each) and, where they come again, left out.
        """
        if self.log_dir is None and path is None:
            raise BackendError(
                f"TensorBoardBackend has no folder for run {run_name!r}. "
                "Pass the run's folder as path=, or log_dir= when making the backend."
            )
        self.flush()
        self.close()
        folder = self._folder_of(run_name, project, run_id, path or "")
        self._reset(folder, run_id)
        self.log_params(config or {})
        if not run_id:
            return None
        there = sum(map(_count_rows, _event_files(folder, run_id)))
        self._arrived = max(0, there - rows)
        return min(there, rows)

    def _folder_of(
        self, run_name: str, project: str, run_id: str, path: str | os.PathLike[str]
    ) -> str | os.PathLike[str]:
        if self.log_dir is None:
            return os.path.join(path, "tensorboard")
        if not project:
            return self.log_dir
        folder = first = os.path.join(self.log_dir, project, run_name)
        for number in count(2):
            if _event_files(folder) == _event_files(folder, run_id):
                break
            folder = f"{first}-{number}"
        return folder

    def log_metrics(
        self, metrics: Mapping[str, float], step: int, timestamp: float | None = None
    ) -> None:
        """Write one row now; ``timestamp`` in Unix seconds, default the present."""
        row = {"step": step, "time": time.time() if timestamp is None else timestamp}
        self.log_batch([row | {stored_name(name): metrics[name] for name in metrics}])

    def log_batch(self, rows: Sequence[Row]) -> None:
        """Write rows as the history holds them, one record each, in one write.

        Costs about 2 µs for a row of 4 metrics.
        """
        new = rows[self._arrived :]
        if new:
            self._append(self._row_events(new), new[0]["time"])
            self._last_time = new[-1]["time"]
        self._arrived -= len(rows) - len(new)

    def log_live(self, rows: Sequence[Row]) -> None:
        """Write rows within the budget; hold the excess, thinned, for a later call.

        Held rows are written once the budget allows, by `flush` or at the end. So call
        `flush` when no further rows are at hand.
        """
        held = [*self._held, *rows]
        if self._budget.take(len(held)):
            self.log_batch(held)
            self._held = []
        else:
            self._held = thin(held)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Add params for the HParams tab, nested ones under dotted names.

        They are written before the first record, or at the end of a run without any:
        TensorBoard believes the first it reads of a run, so later ones do not show.
        """
        self._params |= flatten_params(params)

    def log_figure(
        self,
        path: str | os.PathLike[str],
        name: str,
        step: int | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Show a PNG file under Images; other kinds of file are left out."""
        with open(path, "rb") as file:
            content = file.read()
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = unpack(">II", content[16:24])
            image = {"encoded_image_string": content, "width": width, "height": height}
            self._log_value(step, timestamp, tag=name, image=image)

    log_image = log_figure

    def log_histogram(
        self,
        histogram: Mapping[str, Any],
        name: str,
        step: int | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Show ``{"counts", "edges", "count", "min", "max", "mean", "std"}``, unless empty.

        ``edges`` has one more element than ``counts``; ``std`` is the population's.

        Raises
        ------
        DamagedError
            If one of these is missing.
        """
        missing = _HISTOGRAM - histogram.keys()
        if missing:
            raise DamagedError(f"Histogram {name!r} has no {', '.join(sorted(missing))}.")
        number, mean = histogram["count"], histogram["mean"]
        if not number:
            return
        histo = {
            "min": histogram["min"],
            "max": histogram["max"],
            "num": number,
            "sum": mean * number,
            "sum_squares": (histogram["std"] * histogram["std"] + mean * mean) * number,
            "bucket_limit": histogram["edges"][1:],
            "bucket": histogram["counts"],
        }
        self._log_value(step, timestamp, tag=name, histo=histo)

    def log_text(
        self, text: str, name: str, step: int | None = None, timestamp: float | None = None
    ) -> None:
        """Show a text, rendered as Markdown."""
        tensor = {"dtype": "DT_STRING", "string_val": [text.encode()], "tensor_shape": {}}
        metadata = {"plugin_data": {"plugin_name": "text"}}
        self._log_value(step, timestamp, tag=name, metadata=metadata, tensor=tensor)

    def log_artifact(
        self,
        path: str | os.PathLike[str],
        name: str,
        artifact_type: str | None = None,
        step: int | None = None,
        timestamp: float | None = None,
    ) -> None:
        """Show a kept text, histogram, figure or image; other files are left out."""
        if artifact_type in ("figure", "image"):
            self.log_figure(path, name, step, timestamp)
        # People may give their own files these types: a folder, an array.
        with contextlib.suppress(DamagedError):
            if artifact_type == "text":
                text = io.read(os.fspath(path), MAX_BYTES).decode("utf-8", "replace")
                self.log_text(text, name, step, timestamp)
            elif artifact_type == "histogram":
                self.log_histogram(read_document(os.fspath(path)), name, step, timestamp)

    def log_model(self, model: Any, path: str | os.PathLike[str]) -> None:
        """Do nothing: TensorBoard has no place for models."""

    def flush(self) -> None:
        """Write the rows that `log_live` holds."""
        self.log_batch(self._held)
        self._held = []

    def end_run(self, status: str) -> None:
        """Write what is held and, for a run with params, its status; then close the file."""
        self.flush()
        if self._params:
            ended = self._last_time or time.time()
            self._append([_session_end(status, ended)], ended)
        self.close()

    def close(self) -> None:
        """Close the event file without a status; the run can go on in a further file."""
        if self._file:
            self._file.close()
            self._file = None
            self._attempt = _Attempt()

    def move_to(self, log_dir: str | os.PathLike[str]) -> None:
        """Go on in ``log_dir``, where the folder of the open event file was moved."""
        self._folder = log_dir

    def restart(self) -> None:
        """Empty the event files in the run's folder and begin anew, with the same params.

        Figures, texts and histograms are gone and must be logged again. A TensorBoard that is
        watching takes the new rows in place of the old ones, from the first step on.
        """
        self._begin_anew()
        if self._folder is not None:
            remove_events(self._folder)

    @contextlib.contextmanager
    def replacing(self) -> Iterator[None]:
        """Write everything anew, with the old event files in place until that is done."""
        self._begin_anew()
        folder = self._known_folder()
        old = _event_files(folder, prefixes=(_PREFIX, _HIDDEN))
        written = self._file = _EventFile(folder, prefix=_HIDDEN)
        try:
            yield
            self.close()
            if written.size:
                io.replace(written.path, os.path.join(folder, _PREFIX + written.name))
        finally:
            self.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(written.path)
        _take_away(old)

    def _begin_anew(self) -> None:
        self.close()
        self._held = []
        self._params_written = False
        self._replaces = True

    def _log_value(self, step: int | None, timestamp: float | None, **value: Any) -> None:
        wall_time = time.time() if timestamp is None else timestamp
        event = _event(wall_time, step or 0, value)
        self._append(
            [*self._marks(self._attempt.number, [value["tag"]], wall_time), event], wall_time
        )

    def _append(self, events: Iterable[bytes], wall_time: float) -> None:
        """Write serialized events, behind what has to stand before them."""
        framed = map(_framer(), chain(self._preamble(wall_time), events))
        records = b"".join(framed)
        try:
            self._opened().append(records)
        except OSError:
            self._attempt = _Attempt()  # its marks went with the records
            raise
        self._params_written = bool(self._params)

    def _opened(self) -> _EventFile:
        if self._file is None:
            self._file = _EventFile(self._known_folder(), self._run_id)
        return self._file

    def _known_folder(self) -> str | os.PathLike[str]:
        if self._folder is None:
            raise BackendError("TensorBoardBackend: call start_run before logging.")
        return self._folder

    def _preamble(self, wall_time: float) -> Iterator[bytes]:
        if self._file is None or self._file.size == 0:
            yield _version(wall_time)
            if self._replaces:
                yield _from_the_start(wall_time)
        if self._params and not self._params_written:
            yield _session_start(self._params, wall_time)

    def _row_events(self, rows: Sequence[Row]) -> Iterator[bytes]:
        for row in rows:
            yield from self._marks(row.get("attempt", 1), row, row["time"])
            yield self._row_event(row)

    def _marks(self, attempt: int, tags: Iterable[str], wall_time: float) -> Iterable[bytes]:
        return () if self._replaces else self._attempt.marks(attempt, tags, wall_time)

    def _row_event(self, row: Row) -> bytes:
        template = self._templates.get(tuple(row)) or self._new_template(row)
        try:
            return template.fill(row)
        except TypeError:  # a text: NaN, an infinity, or nothing of ours
            return self._row_event(readable_row(row))

    def _new_template(self, row: Row) -> _Template:
        if len(self._templates) >= _TEMPLATES_KEPT:
            self._templates.clear()
        template = self._templates[tuple(row)] = _Template(row)
        return template


class _Attempt:
    """Which tags the present attempt has; its first of a tag supersedes those before it."""

    def __init__(self) -> None:
        self.number = 1
        self._tags: set[str] = set()

    def marks(self, number: int, tags: Iterable[str], wall_time: float) -> Iterator[bytes]:
        """Yield the events that have to stand before one with these tags."""
        if number != self.number:
            self.number, self._tags = number, set()
            yield _version(wall_time, 1)
        if number > 1 and not self._tags.issuperset(tags):
            self._tags.update(tags)
            yield _going_back(wall_time)


class _Template:
    """An event for rows with one set of keys, filled in place: far quicker than a new one."""

    def __init__(self, row: Row) -> None:
        self._event = _tensorboardx().Event()
        values = self._event.summary.value
        names = [key for key in row if key not in RESERVED]
        self._values = [(name, values.add(tag=shown_name(name))) for name in names]

    def fill(self, row: Row) -> bytes:
        event = self._event
        event.wall_time = row["time"]
        event.step = row["step"]
        for name, value in self._values:
            value.simple_value = row[name]
        return _serialized(event)


class _EventFile:
    """A new event file; a write that fails leaves it as long as it was."""

    def __init__(
        self, folder: str | os.PathLike[str], run_id: str = "", prefix: str = _PREFIX
    ) -> None:
        os.makedirs(folder, exist_ok=True)
        number = next(_FILE_NUMBERS)
        # Padded: TensorBoard goes from file to file in the order of their names.
        self.name = f"{int(time.time())}.{_host()}.{os.getpid()}.{number:06d}"
        if run_id:
            self.name += f".{run_id}"
        self.path = os.path.join(folder, prefix + self.name)
        self._file = open(self.path, "xb", buffering=0)  # noqa: SIM115
        self.size = 0

    def append(self, records: bytes) -> None:
        rest = memoryview(records)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self.size)
            self._file.seek(self.size)
            raise
        self.size += len(records)

    def close(self) -> None:
        self._file.close()


def remove_events(log_dir: str | os.PathLike[str]) -> None:
    """Take away the event files in a folder, if it is there, so that they are written anew.

    Each is emptied, and deleted another time: TensorBoard's reader in Python stays for ever at
    a file that vanished while it read it, and goes on from an empty one to the next.
    """
    _take_away(_event_files(log_dir, prefixes=(_PREFIX, _HIDDEN)))


def _take_away(paths: Iterable[str]) -> None:
    for path in paths:
        found = os.stat(path)
        if found.st_size:
            os.truncate(path, 0)
        elif time.time() - found.st_mtime > _EMPTY_KEPT_S:
            os.unlink(path)


def _event_files(
    folder: str | os.PathLike[str], run_id: str = "", prefixes: tuple[str, ...] = (_PREFIX,)
) -> list[str]:
    """List the event files in a folder, those alone that bear a run's id if one is given."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    ours = (name for name in names if name.startswith(prefixes))
    return [os.path.join(folder, name) for name in ours if name.endswith(run_id)]


def _count_rows(path: str) -> int:
    return sum(map(_is_row, map(_tensorboardx().Event.FromString, _records(path))))


def _is_row(event: Any) -> bool:
    values = event.summary.value
    return bool(values) and values[0].HasField("simple_value")


def _records(path: str) -> Iterator[bytes]:
    """Read an event file up to its end, or up to what a killed process left half written."""
    masked_crc = _tensorboardx().masked_crc32c
    with open(path, "rb") as file:
        while len(head := file.read(12)) == 12 and masked_crc(head[:8]) == unpack("<8xI", head)[0]:
            data = file.read(unpack_from("<Q", head)[0])
            if file.read(4) != pack("<I", masked_crc(data)):
                return
            yield data


def flatten_params(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return params as HParams can show them: dotted names, and numbers, booleans or text.

    >>> flatten_params({"model": {"depth": 3, "widths": [8, 8]}, "seed": None})
    {'model.depth': 3, 'model.widths': '[8, 8]', 'seed': 'None'}
    """
    flat: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten_params(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if _is_plain(value) else str(value)
    return flat


def _is_plain(value: object) -> bool:
    # TensorBoard answers its whole HParams tab with an error where one number is not finite.
    is_number = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return is_number or isinstance(value, str)


def thin(rows: Sequence[Row]) -> list[Row]:
    """Keep each metric's newest, smallest and largest value only, rows in their order.

    Rows that keep nothing are left out. Thinning again, or thinning a part first, changes
    nothing, so rows may be thinned as they come. NaN is never smallest or largest.
    """
    points: dict[str, list[tuple[float, int]]] = {}
    for index, row in enumerate(rows):
        for name, value in metric_values(row).items():
            points.setdefault(name, []).append((value, index))
    kept: dict[int, set[str]] = {}
    for name in points:
        for index in _extremes(points[name]):
            kept.setdefault(index, {*RESERVED}).add(name)
    return [_only(rows[index], kept[index]) for index in sorted(kept)]


def _extremes(points: list[tuple[float, int]]) -> set[int]:
    """Return the places of the newest, the smallest and the largest value."""
    _, newest = points[-1]
    ordered = [point for point in points if point[0] == point[0]]
    return {newest, min(ordered)[1], max(ordered)[1]} if ordered else {newest}


def _only(row: Row, names: set[str]) -> Row:
    return {key: row[key] for key in row if key in names}


class RowBudget:
    """Allow ``rows_per_s`` rows a second in the long run, ``burst`` of them at once.

    ``clock`` returns seconds that never go back.
    """

    def __init__(
        self,
        rows_per_s: float = 1_000,
        burst: float = 5_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows_per_s = rows_per_s
        self._burst = burst
        self._clock = clock
        self._left = burst
        self._asked_at_s = clock()

    def take(self, rows: int) -> bool:
        """Spend ``rows`` if that many are left; more than ``burst`` count as ``burst``."""
        now_s = self._clock()
        earned = (now_s - self._asked_at_s) * self._rows_per_s
        self._left, self._asked_at_s = min(self._burst, self._left + earned), now_s
        cost = min(rows, self._burst)
        if cost > self._left:
            return False
        self._left -= cost
        return True


def _version(wall_time: float, number: int = 2) -> bytes:
    version = f"brain.Event:{number}"
    return _serialized(_tensorboardx().Event(wall_time=wall_time, file_version=version))


# TensorBoard has two readers. That in Rust drops, tag by tag, the points from the step on to which
# a tag goes back. That in Python (Windows, --load_fast=false) keeps all, unless it is told:
# plugin_event_accumulator.py, _MaybePurgeOrphanedData. The two events below tell it. More of them
# than needed do no harm: nothing stands behind the step of a run that goes forward.


def _from_the_start(wall_time: float) -> bytes:
    """Serialize the event that has all data of earlier files dropped (file version 2)."""
    session = {"status": 1}  # START
    return _serialized(
        _tensorboardx().Event(wall_time=wall_time, step=_LOWEST_STEP, session_log=session)
    )


def _going_back(wall_time: float) -> bytes:
    """Serialize the event behind which the tags of the next one go back (file version 1).

    Version 1 knows no restarts: an event of a lower step than the one before it drops what its
    own tags have from its step on. So this one has the highest step, and no tags.
    """
    return _serialized(
        _tensorboardx().Event(wall_time=wall_time, step=_BEYOND_ALL_STEPS, summary={})
    )


def _event(wall_time: float, step: int, value: Mapping[str, Any]) -> bytes:
    """Serialize an event with one summary value."""
    event = _tensorboardx().Event(wall_time=wall_time, step=step, summary={"value": [value]})
    return _serialized(event)


def _session_start(params: Mapping[str, Any], wall_time: float) -> bytes:
    # No summary "_hparams_/experiment": TensorBoard would take the columns of all runs from
    # any one of them. Without it, it unites the params and the metrics of all runs.
    content = _tensorboardx().HParamsPluginData()
    start = content.session_start_info
    start.start_time_secs = wall_time
    for name, value in params.items():
        setattr(start.hparams[name], _value_field(value), value)
    return _hparams_event("_hparams_/session_start_info", wall_time, content)


def _session_end(status: str, wall_time: float) -> bytes:
    words = {"finished": "STATUS_SUCCESS", "running": "STATUS_RUNNING"}
    end = {"status": words.get(status.lower(), "STATUS_FAILURE"), "end_time_secs": wall_time}
    content = _tensorboardx().HParamsPluginData(session_end_info=end)
    return _hparams_event("_hparams_/session_end_info", wall_time, content)


def _hparams_event(tag: str, wall_time: float, content: Any) -> bytes:
    plugin_data = {"plugin_name": "hparams", "content": _serialized(content)}
    return _event(wall_time, 0, {"tag": tag, "metadata": {"plugin_data": plugin_data}})


def _value_field(value: object) -> str:
    if isinstance(value, bool):
        return "bool_value"
    return "string_value" if isinstance(value, str) else "number_value"


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


@cache
def _framer() -> Callable[[bytes], bytes]:
    """Return the function that makes a TFRecord of an event."""
    masked_crc = _tensorboardx().masked_crc32c

    @lru_cache  # the events of one set of keys have few lengths
    def head(length: int) -> bytes:
        packed = pack("<Q", length)
        return packed + pack("<I", masked_crc(packed))

    def frame(event: bytes) -> bytes:
        return head(len(event)) + event + pack("<I", masked_crc(event))

    return frame


@cache
def _host() -> str:
    from socket import gethostname

    return gethostname()


class _UnstartedPackage(ModuleType):
    """A package whose ``__init__`` has not run, and runs when something in it is asked for."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec.name)
        self.__spec__ = spec
        self.__path__ = spec.submodule_search_locations
        self.__file__ = spec.origin
        self.__lock = RLock()
        self.__started = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        with self.__lock:
            if not self.__started:
                self.__started = True
                self.__spec__.loader.exec_module(self)  # type: ignore[union-attr]
        if name not in vars(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return vars(self)[name]


class _Parts(NamedTuple):
    Event: Any
    HParamsPluginData: Any
    masked_crc32c: Callable[[bytes], int]


@cache
def _tensorboardx() -> _Parts:
    """Import what we use of tensorboardX and crc32c, without all of them.

    tensorboardX's ``__init__`` imports torch wherever that is installed: 1 to 5 s and 200 MB, in
    place of 0.05 s and 11 MB. crc32c's reads its own metadata: 17 ms and 3 MB.
    """
    _leave_unstarted("tensorboardX")
    _leave_unstarted("crc32c")
    from crc32c._crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    def masked_crc32c(data: bytes) -> int:
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    return _Parts(Event, HParamsPluginData, masked_crc32c)


def _leave_unstarted(package: str) -> None:
    from importlib.util import find_spec

    if package not in sys.modules and (spec := find_spec(package)):
        sys.modules.setdefault(package, _UnstartedPackage(spec))
