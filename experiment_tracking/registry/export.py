"""Runs as files for other programs: one table, or a data set that engines read."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from experiment_tracking.errors import DamagedError, InvalidValueError, MissingPackageError
from experiment_tracking.folder import io
from experiment_tracking.folder.values import RESERVED, from_stored, shown_name
from experiment_tracking.registry.far import Progress
from experiment_tracking.registry.record import RunRecord, note
from experiment_tracking.registry.table import RUN_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

    from experiment_tracking.registry.runset import RunSet

FORMATS = ("csv", "json", "markdown", "html", "parquet")

_SUFFIXES = {"md": "markdown", "htm": "html", "pq": "parquet"}
_RUNS_PER_FILE = 50_000
_ROWS_PER_FILE = 20_000_000
_ROWS_AT_ONCE = 500_000
_INT64 = range(-(2**63), 2**63)
_TIMES = ("created_at", "ended_at")
_NUMBERS = {"duration_s": "float64", "exit_code": "int64"}
_PART = re.compile(r"part-(\d{5})\.parquet")


def format_of(path: str) -> str:
    """Return the format that a file's name asks for.

    Raises
    ------
    InvalidValueError
        If it has no suffix of a known one.
    """
    suffix = os.path.splitext(path)[1][1:].lower()
    kind = _SUFFIXES.get(suffix, suffix)
    if kind not in FORMATS:
        raise InvalidValueError(
            f"{path!r} does not tell the format. End it in .csv, .json, .md, .html or .parquet, "
            f"or say format= one of {', '.join(FORMATS)}."
        )
    return kind


def export_runs(
    runs: "RunSet",
    path: str | os.PathLike[str],
    format: str | None = None,  # noqa: A002 (pandas' word for it)
    columns: Sequence[str] | None = None,
) -> None:
    """Write runs as one file, a row per run; an earlier file is replaced whole, a pipe filled.

    Parameters
    ----------
    runs
        The runs, in the order of the rows.
    path
        The file.
    format
        ``csv``, ``json``, ``markdown``, ``html`` (a report with curves) or ``parquet``; by default
        what the path ends in.
    columns
        As ``RunSet.column`` takes them. By default those of ``RunSet.to_frame`` and further run
        columns that any run has.

    Raises
    ------
    InvalidValueError
        For an unknown format or column.
    MissingPackageError
        For parquet without pyarrow.
    OSError
        If the file cannot be written.
    """
    path = os.fspath(path)
    data = encode_runs(runs, format or format_of(path), columns)
    if os.path.exists(path) and not os.path.isfile(path):  # /dev/stdout, >(gzip)
        with open(path, "wb") as pipe:
            pipe.write(data)
        return
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    io.replace_file(path, data)


def encode_runs(
    runs: "RunSet",
    format: str,  # noqa: A002
    columns: Sequence[str] | None = None,
) -> bytes:
    """Return what :func:`export_runs` writes."""
    if format not in FORMATS:
        raise InvalidValueError(f"Found format {format!r}, allowed are {', '.join(FORMATS)}.")
    if format == "html":
        from experiment_tracking.registry.report import report

        return report(runs).encode("utf-8", "backslashreplace")
    if format == "parquet":
        return _parquet_bytes(runs_table(runs, columns))
    table = _columns(runs, columns)
    if format == "json":
        from experiment_tracking.formats.tables import encode_table

        return encode_table(table, "json").data
    from experiment_tracking.registry import text_tables

    write = text_tables.to_csv if format == "csv" else text_tables.to_markdown
    return write(text_tables.spelled_tags(table)).encode("utf-8", "backslashreplace")


def _columns(runs: "RunSet", columns: Sequence[str] | None) -> dict[str, list[Any]]:
    if columns is not None:
        return {name: runs.column(name) for name in columns}
    table = {name: runs.table.column(name) for name in _names(runs)}
    return {
        name: values
        for name, values in table.items()
        if name in RUN_COLUMNS or any(_is_known(name, value) for value in values)
    }


def _is_known(name: str, value: Any) -> bool:
    # The text "" is what a run has no notes, group or the like by; of a tag or param it is a value.
    return value is not None and (value != "" or name.startswith(("params.", "tags.")))


def _names(runs: "RunSet") -> list[str]:
    """All columns, those first that a frame has first."""
    return list(dict.fromkeys((*RUN_COLUMNS, *runs.table.names())))


# ---------------------------------------------------------------------- typed columns


def runs_table(runs: "RunSet", columns: Sequence[str] | None = None) -> "pa.Table":
    """Return runs as an Arrow table; see :func:`export_parquet` for the types.

    Raises
    ------
    MissingPackageError
        Without pyarrow.
    """
    pa = _pyarrow()
    if columns is None:
        values = {name: runs.table.column(name) for name in _names(runs)}
    else:
        values = {name: runs.column(name) for name in columns}
    kinds = {name: _kind_of(name, column) for name, column in values.items()}
    arrays = [_array(kinds[name], values[name]) for name in kinds]
    return pa.table(arrays, schema=_schema(kinds))


def _kind_of(name: str, values: Sequence[Any]) -> str:
    """Choose one type for a column: what its values have in common, else JSON as text."""
    if name in _TIMES:
        return "time"
    if name in _NUMBERS:
        return _NUMBERS[name]
    if name.startswith("metrics."):
        return "string" if name.endswith(":goal") else "float64"
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str}:
        return "string"
    if kinds == {bool}:
        return "bool"
    if any(type(value) is int and value not in _INT64 for value in values):
        return "json"  # a double would round it
    if kinds == {int}:
        return "int64"
    is_numeric = kinds <= {int, float, str} and all(
        value is None or from_stored(value) is not None for value in values
    )
    return "float64" if is_numeric else "json"


def _array(kind: str, values: Sequence[Any]) -> "pa.Array":
    pa = _pyarrow()
    if kind == "float64":
        # From an array of floats, in which NaN is a number and not a gap.
        import numpy as np

        missing = np.array([value is None for value in values], dtype=bool)
        return pa.array(_floats(values), mask=missing, from_pandas=False)
    if kind == "time":
        return pa.array([_to_time(value) for value in values], _type(kind))
    if kind == "json":
        values = [None if value is None else _to_json(value) for value in values]
    try:
        return pa.array(values, _type(kind))
    except UnicodeEncodeError:  # half a surrogate pair, from a folder's name that is not UTF-8
        return pa.array([v if v is None else _plain(v) for v in values], _type(kind))


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _floats(values: Sequence[Any]) -> Any:
    import numpy as np

    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):  # the words for NaN and infinity among them
        return np.array([from_stored(value) for value in values], dtype=np.float64)


def _type(kind: str) -> Any:
    pa = _pyarrow()
    types = {"time": pa.timestamp("us", "UTC"), "json": pa.string(), "string": pa.string(),
             "bool": pa.bool_(), "int64": pa.int64(), "float64": pa.float64()}  # fmt: skip
    return types[kind]


def _schema(kinds: Mapping[str, str]) -> "pa.Schema":
    pa = _pyarrow()
    marks = {"json": {"encoding": "json"}}
    return pa.schema(
        [pa.field(name, _type(kind), metadata=marks.get(kind)) for name, kind in kinds.items()]
    )


def _to_time(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None


def _to_json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer beyond 64 bits
        import json

        return json.dumps(value, ensure_ascii=False)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingPackageError(
            "Writing Parquet and asking in SQL", "pyarrow", "'experiment_tracking[sql]'"
        ) from error
    return pyarrow


def _parquet_bytes(table: "pa.Table") -> bytes:
    from io import BytesIO

    import pyarrow.parquet as pq

    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


# ---------------------------------------------------------------------- the data set


class Exported(NamedTuple):
    """What was written."""

    runs: int
    rows: int
    """Of histories."""
    files: int
    size_bytes: int


def export_parquet(
    runs: "RunSet",
    folder: str | os.PathLike[str],
    histories: bool = True,
    progress: Progress | None = None,
) -> Exported:
    """Write runs as a data set partitioned by project, for DuckDB, Spark, Ray, Polars, pandas.

    ``runs/project=…/part-….parquet`` has a row per run, ``histories/project=…/part-….parquet`` a
    row per number logged: ``run`` (``project/name``), ``id``, ``metric``, ``step``, ``time`` (Unix
    seconds), ``value``. Each file appears whole; the projects at hand replace what an earlier
    export wrote of them, other projects stay. Histories are read run by run, so memory holds the
    longest one and half a million numbers.

    Parameters
    ----------
    runs
        The runs.
    folder
        Top of the data set; made where there is none.
    histories
        Whether to write the rows too.
    progress
        Called with the number of runs whose rows are written, and of all.

    Notes
    -----
    Every file under ``runs/`` has the same columns: metrics are doubles, times UTC to the
    microsecond, tags text; a param is what its values are in all runs (bool, 64-bit integer,
    double, text), else JSON text, with the field's metadata ``encoding: json``. A history that
    cannot be read is left out and goes to ``runs.problems``.

    Raises
    ------
    MissingPackageError
        Without pyarrow.
    OSError
        If a file cannot be written; those written before stay.
    """
    _pyarrow()
    top = os.path.abspath(folder)
    table = runs.table
    names = [name for name in _names(runs) if name != "project"]
    kinds = {name: _kind_of(name, table.column(name)) for name in names}
    places: dict[str, list[int]] = {}
    for place, project in enumerate(table.column("project")):
        places.setdefault(project, []).append(place)
    done = Exported(len(runs), 0, 0, 0)
    seen = 0
    for project, rows in places.items():
        chosen = runs.take(rows)
        done = _added(done, _write_runs(chosen, kinds, _partition(top, "runs", project)))
        if histories:

            def told(number: int, before: int = seen) -> None:
                if progress:
                    progress(before + number, len(runs))

            done = _added(done, _write_rows(chosen, _partition(top, "histories", project), told))
        seen += len(rows)
    return done


def _added(done: Exported, more: Exported) -> Exported:
    return Exported(done.runs, *(a + b for a, b in zip(done[1:], more[1:], strict=True)))


def _partition(top: str, kind: str, project: str) -> str:
    from urllib.parse import quote

    # As Hive and Spark write it; whoever reads partitions turns it back.
    return os.path.join(top, kind, f"project={quote(project, safe=' ')}")


def _write_runs(runs: "RunSet", kinds: Mapping[str, str], folder: str) -> Exported:
    pa = _pyarrow()
    with _Parts(folder, _schema(kinds)) as parts:
        for start in range(0, len(runs), _RUNS_PER_FILE):
            table = runs.table.take(range(start, min(start + _RUNS_PER_FILE, len(runs))))
            there = set(table.names())
            columns = {n: table.column(n) if n in there else [None] * len(table) for n in kinds}
            arrays = [_array(kinds[name], columns[name]) for name in kinds]
            parts.write(pa.table(arrays, schema=parts.schema))
            parts.close_file()
    return Exported(0, 0, parts.files, parts.size_bytes)


def _write_rows(runs: "RunSet", folder: str, told: Callable[[int], None]) -> Exported:
    pa = _pyarrow()
    rows = 0
    waiting: list[Any] = []
    with _Parts(folder, _history_schema()) as parts:
        for number, table in enumerate(history_tables(runs), 1):
            waiting.append(table)
            rows += len(table)
            if sum(map(len, waiting)) >= _ROWS_AT_ONCE or number == len(runs):
                parts.write(pa.concat_tables(waiting))
                waiting.clear()
            if parts.rows >= _ROWS_PER_FILE:
                parts.close_file()
            told(number)
    return Exported(0, rows, parts.files, parts.size_bytes)


class _Parts:
    """Files ``part-00000.parquet``, …, each of which takes its place when it is whole."""

    def __init__(self, folder: str, schema: "pa.Schema") -> None:
        self.schema = schema
        self.files = self.size_bytes = self.rows = 0
        self._folder = folder
        self._writer: Any = None
        self._temporary = os.path.join(folder, f".part.{os.getpid()}.{os.urandom(4).hex()}.tmp")

    def __enter__(self) -> "_Parts":
        os.makedirs(self._folder, exist_ok=True)
        return self

    def write(self, table: "pa.Table") -> None:
        import pyarrow.parquet as pq

        if self._writer is None:
            self._writer = pq.ParquetWriter(self._temporary, self.schema, compression="zstd")
        self._writer.write_table(table)
        self.rows += len(table)

    def close_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer, self.rows = None, 0
        self.size_bytes += os.path.getsize(self._temporary)
        io.replace(self._temporary, os.path.join(self._folder, f"part-{self.files:05d}.parquet"))
        self.files += 1

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None:
            if self._writer is not None:
                self._writer.close()
                os.unlink(self._temporary)
            return
        self.close_file()
        # An earlier export may have had more.
        for name in os.listdir(self._folder):
            part = _PART.fullmatch(name)
            if part and int(part[1]) >= self.files:
                os.unlink(os.path.join(self._folder, name))


# ---------------------------------------------------------------------- rows


def history_table(runs: "RunSet") -> "pa.Table":
    """Return the rows of runs as one Arrow table, as in the data set, with all in memory."""
    pa = _pyarrow()
    return pa.concat_tables([_history_schema().empty_table(), *history_tables(runs)])


def history_tables(runs: "RunSet") -> Iterator["pa.Table"]:
    """Yield the rows of one run after another; a history that cannot be read has none."""
    for record in runs:
        try:
            table = _rows_of(record)
        except (DamagedError, OSError) as error:
            note(runs.problems, record, error)
            table = _history_schema().empty_table()
        yield table


def _rows_of(record: RunRecord) -> "pa.Table":
    pa = _pyarrow()
    import numpy as np

    rows = record.rows()
    names = [n for n in dict.fromkeys(n for row in rows for n in row) if n not in RESERVED]
    if not names:
        return _history_schema().empty_table()
    having = [[row for row in rows if name in row] for name in names]
    each = [(name, row) for name, some in zip(names, having, strict=True) for row in some]
    metric = np.repeat(np.arange(len(names), dtype=np.int32), [len(some) for some in having])
    metrics = pa.array([_plain(shown_name(name)) for name in names])
    columns = [
        pa.repeat(_plain(record.key), len(each)),
        pa.repeat(record.id, len(each)),
        metrics.take(pa.array(metric)),
        pa.array([row["step"] for _, row in each], pa.int64()),
        pa.array(_floats([row["time"] for _, row in each])),
        pa.array(_floats([row[name] for name, row in each])),
    ]
    return pa.table(columns, schema=_history_schema())


def _history_schema() -> "pa.Schema":
    pa = _pyarrow()
    texts = [pa.field(name, pa.string()) for name in ("run", "id", "metric")]
    floats = [pa.field(name, pa.float64()) for name in ("time", "value")]
    return pa.schema([*texts, pa.field("step", pa.int64()), *floats])
