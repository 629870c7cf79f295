"""A table to CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats import Encoded


class _Table(NamedTuple):
    names: list[str]
    columns: list[list[Any]]

    def rows(self) -> Iterable[tuple[Any, ...]]:
        return zip(*self.columns, strict=True)


def encode_table(table: Any, kind: str = "csv") -> Encoded:
    """Encode a table as CSV or as a JSON list of rows.

    Parameters
    ----------
    table
        A pandas DataFrame (its index becomes a column unless it is just 0, 1, 2, …), a sequence of
        mappings (columns in the order first seen), or a mapping of names to columns.
    kind
        ``"csv"``: RFC 4180 in UTF-8, a missing cell empty, floats with the digits that give them
        back exactly. ``"json"``: a list of objects, a missing cell null, non-finite floats the
        strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``. In both, times are ISO 8601, lists
        and mappings in a cell are JSON, and objects of other kinds their ``str``.

    Raises
    ------
    InvalidTypeError
        ``table`` is none of these, or a cell holds an array.
    InvalidValueError
        Columns of different lengths, two columns of one name, or another ``kind``.
    """
    if kind not in _WRITERS:
        raise InvalidValueError(f"Table: found kind {kind!r}, allowed are 'csv' and 'json'.")
    found = _read(table)
    _check(found)
    plain = found._replace(columns=[[_plain(cell) for cell in column] for column in found.columns])
    # Half of a surrogate pair, as in undecodable file names, is the one text UTF-8 cannot hold.
    return Encoded(_WRITERS[kind](plain).encode("utf-8", "backslashreplace"), f".{kind}")


def _csv(table: _Table) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(table.names)
    writer.writerows([_csv_cell(cell) for cell in row] for row in table.rows())
    return file.getvalue()


def _csv_cell(cell: Any) -> Any:
    return _dump(cell) if isinstance(cell, list | dict) else cell


def _json(table: _Table) -> str:
    rows = [dict(zip(table.names, row, strict=True)) for row in table.rows()]
    return _dump(rows, indent=2) + "\n"


def _dump(value: Any, indent: int | None = None) -> str:
    return json.dumps(_spelled(value), indent=indent, ensure_ascii=False, allow_nan=False)


_WRITERS = {"csv": _csv, "json": _json}


def _read(table: Any) -> _Table:
    if hasattr(table, "to_csv") and hasattr(table, "to_dict") and hasattr(table, "columns"):
        return _from_frame(table)
    if isinstance(table, Mapping):
        return _from_columns(table)
    if isinstance(table, Iterable) and not isinstance(table, str | bytes):
        return _from_rows(list(table))
    raise _not_a_table(table)


def _not_a_table(value: object) -> InvalidTypeError:
    return InvalidTypeError(
        f"Table: found a {type(value).__name__}. Pass a pandas DataFrame, a list of mappings "
        f"(one a row), or a mapping of names to columns."
    )


def _from_frame(frame: Any) -> _Table:
    if not _is_plain_range(frame.index):
        names = [name for name in frame.index.names if name in frame.columns]
        if names:
            raise InvalidValueError(
                f"Table: {names[0]!r} names both the index and a column. Rename one of them."
            )
        frame = frame.reset_index()
    series = [frame.iloc[:, position] for position in range(frame.shape[1])]
    return _Table([str(name) for name in frame.columns], [_cells(one) for one in series])


def _is_plain_range(index: Any) -> bool:
    return (
        type(index).__name__ == "RangeIndex"
        and (index.start, index.step, index.name) == (0, 1, None)
    )  # fmt: skip


def _cells(series: Any) -> list[Any]:
    """In a column of numpy floats NaN is a value, in any other it marks a missing cell."""
    cells: list[Any] = series.tolist()
    if type(series.dtype).__module__.startswith("numpy") and series.dtype.kind == "f":
        return cells
    missing = series.isna().tolist()
    return [None if gone else cell for cell, gone in zip(cells, missing, strict=True)]


def _from_columns(table: Mapping[Any, Any]) -> _Table:
    return _Table([str(name) for name in table], [_column(name, table[name]) for name in table])


def _column(name: object, cells: Any) -> list[Any]:
    if isinstance(cells, str | bytes | Mapping) or not isinstance(cells, Iterable):
        raise InvalidTypeError(
            f"Table: column {str(name)!r} is a {type(cells).__name__}. Pass a list or an array; "
            f"for a single row, pass [row]."
        )
    return list(cells.tolist() if hasattr(cells, "tolist") else cells)


def _from_rows(rows: list[Any]) -> _Table:
    for row in rows:
        if not isinstance(row, Mapping):
            raise _not_a_table(row)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return _Table([str(key) for key in keys], [[row.get(key) for row in rows] for key in keys])


def _check(table: _Table) -> None:
    lengths = {name: len(column) for name, column in zip(table.names, table.columns, strict=True)}
    if len(lengths) < len(table.names):
        twice = next(name for name in table.names if table.names.count(name) > 1)
        raise InvalidValueError(f"Table: two columns are named {twice!r}. Rename one of them.")
    if len(set(lengths.values())) > 1:
        raise InvalidValueError(f"Table: columns of different lengths, {lengths}. Make them equal.")


def _plain(cell: Any) -> Any:
    if cell is None or isinstance(cell, bool | int | float | str):
        return _base(cell)
    if hasattr(cell, "isoformat"):
        return cell.isoformat()
    if hasattr(cell, "item") and hasattr(cell, "dtype"):
        return _plain(_number(cell))
    if isinstance(cell, Mapping):
        return {str(key): _plain(value) for key, value in cell.items()}
    if isinstance(cell, list | tuple):
        return [_plain(value) for value in cell]
    return str(cell)


def _base(cell: Any) -> Any:
    """Strip subclasses such as numpy.float64 and IntEnum down to the type that a file knows."""
    for kind in (bool, int, float):
        if isinstance(cell, kind):
            return kind(cell)
    return cell if cell is None else str.__str__(cell)


def _number(cell: Any) -> Any:
    try:
        return cell.item()
    except (ValueError, RuntimeError, TypeError) as error:
        raise InvalidTypeError(
            f"Table: found a cell with an array of shape {tuple(cell.shape)}. A cell holds one "
            f"value; pass array.tolist(), or keep the arrays with log_model."
        ) from error


def _spelled(value: Any) -> Any:
    """Spell out the floats that JSON does not know, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _spelled(one) for key, one in value.items()}
    return [_spelled(one) for one in value] if isinstance(value, list) else value
