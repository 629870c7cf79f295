"""Questions in SQL about runs, answered by DuckDB in memory."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidTypeError, InvalidValueError, MissingPackageError
from experiment_tracking.registry.export import history_table, runs_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from experiment_tracking.registry.runset import RunSet

_HISTORY = re.compile(r"\bhistory\b", re.IGNORECASE)
# A query may come from somebody else: no files, no network, no variables of this program. Once
# locked, none of this can be undone by a query.
_SETTINGS = (
    "SET enable_external_access = false",
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET lock_configuration = true",
)


def sql(runs: "RunSet", query: str) -> "pd.DataFrame":
    """Ask about runs in SQL.

    Parameters
    ----------
    runs
        The runs that the question is about.
    query
        One statement of DuckDB's SQL, with two tables. ``runs``: a row per run, columns as in
        ``RunSet.to_frame`` and the further run columns; names with dots stand in double quotes
        (``"params.lr"``, ``"metrics.val/loss"``), and those that differ in case alone have a number
        behind them (``"params.LR#17"``), as SQL takes one for the other. ``history``: a row per
        number logged, ``run`` (``project/name``), ``id``, ``metric``, ``step``, ``time`` (Unix
        seconds), ``value``; read only if the query has that word, and then of all the runs, into
        memory.

    Returns
    -------
    pandas.DataFrame
        What the statement gives.

    Raises
    ------
    InvalidValueError
        If DuckDB refuses the query; files and the network cannot be reached from it.
    MissingPackageError
        Without duckdb or pyarrow.

    Examples
    --------
    >>> sql(runs, 'select name from runs where "params.lr" < 0.1')  # doctest: +SKIP
    """
    frame: pd.DataFrame = sql_table(runs, query).to_pandas()
    return frame


def sql_table(runs: "RunSet", query: str) -> "pa.Table":
    """Ask as :func:`sql` does; the answer, an Arrow table, tells NaN from what is missing."""
    if not isinstance(query, str):
        raise InvalidTypeError(f"A query is text, found {query!r:.60}.")
    duckdb = _duckdb()
    with duckdb.connect(":memory:") as connection:
        for setting in _SETTINGS:
            connection.execute(setting)
        connection.register("runs", _told_apart(runs_table(runs)))
        if _HISTORY.search(query):
            connection.register("history", history_table(runs))
        try:
            answer = connection.sql(query)
            table: pa.Table = None if answer is None else answer.to_arrow_table()
        except duckdb.Error as error:
            raise InvalidValueError(_why_refused(error)) from error
    if table is None:
        raise InvalidValueError("The query gives no table. Write a SELECT; nothing can be changed.")
    return _plain_numbers(table)


def _told_apart(table: "pa.Table") -> "pa.Table":
    """Put numbers behind names that differ in case alone: SQL takes one for the other."""
    counts = Counter(name.lower() for name in table.column_names)
    names = [
        f"{name}#{place}" if counts[name.lower()] > 1 else name
        for place, name in enumerate(table.column_names)
    ]
    return table.rename_columns(names)


def _plain_numbers(table: "pa.Table") -> "pa.Table":
    """Turn decimals, as which DuckDB gives a sum of integers, into integers and floats."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            kind = pa.int64() if field.type.scale == 0 else pa.float64()
            try:
                column = table.column(place).cast(kind)
            except pa.ArrowInvalid:  # beyond 64 bits
                continue
            table = table.set_column(place, field.name, column)
    return table


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise MissingPackageError(
            "Asking in SQL", "duckdb", "'experiment_tracking[sql]'"
        ) from error
    return duckdb


def _why_refused(error: Exception) -> str:
    text = f"DuckDB refuses the query. {error}"
    if 'Referenced table "' in text:
        text += '\nNames with a dot stand in double quotes: "params.lr", "metrics.val/loss".'
    return text
