"""Columns of runs by their names, and rows as pandas tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError
from experiment_tracking.folder.history import Row
from experiment_tracking.folder.values import RESERVED, shown_name
from experiment_tracking.registry.columns import find_column, find_metric, near
from experiment_tracking.registry.table import RUN_COLUMNS, to_floats

if TYPE_CHECKING:
    import pandas as pd

    from experiment_tracking.registry.runset import RunSet

_MORE_RUN_COLUMNS = ("key", "ended_at", "group", "parent", "notes")


# ---------------------------------------------------------------------- runs


def column_values(runs: "RunSet", column: str) -> list[Any]:
    """Return one value per run, None where it has none.

    Parameters
    ----------
    column
        A run column; ``params.lr``, ``metrics.val/loss``, ``tags.x``; or a param or metric by
        its bare name where only one of the two bears it.

    Raises
    ------
    InvalidValueError
        If no run has such a column, or both a param and a metric bear the name.
    """
    if column in RUN_COLUMNS or column in _MORE_RUN_COLUMNS:
        return [getattr(record, column) for record in runs]
    kind, _, name = column.partition(".")
    if kind == "tags":
        return [record.tags.get(name) for record in runs]
    if kind == "metrics":
        return _metric_values(runs, name)
    if kind == "params":
        return _param_values(runs, name)
    return _bare_values(runs, column)


def _bare_values(runs: "RunSet", name: str) -> list[Any]:
    is_param = any(name in params for params in runs.flat_params())
    if is_param and name in runs.metric_names():
        raise InvalidValueError(
            f"{name!r} is both a param and a metric. Write params.{name} or metrics.{name}."
        )
    if is_param:
        return _param_values(runs, name)
    try:
        return _metric_values(runs, name)
    except MetricNotFoundError as error:
        known = {*RUN_COLUMNS, *_MORE_RUN_COLUMNS, *_names(runs.flat_params())}
        raise InvalidValueError(
            f"No column is called {name!r}. {near(name, known)} As a metric: {error}"
        ) from error


def _param_values(runs: "RunSet", name: str) -> list[Any]:
    each = runs.flat_params()
    known = _names(each)
    if known and name not in known:
        raise InvalidValueError(f"No run here has the param {name!r}. {near(name, known)}")
    return [params.get(name) for params in each]


def _metric_values(runs: "RunSet", column: str) -> list[Any]:
    names = runs.metric_names()
    return runs.numbers(*find_column(column, names)) if names else [None] * len(runs)


def _names(each: Iterable[Mapping[str, Any]]) -> dict[str, None]:
    return {name: None for one in each for name in one}


# ---------------------------------------------------------------------- rows


def history_frame(
    rows: Sequence[Row], metrics: str | Iterable[str] | None, attempts: str, ranks: int | str
) -> "pd.DataFrame":
    """Return the table that ``RunRecord.history`` describes."""
    import pandas as pd

    wanted = _wanted(metrics, _metric_names([rows]))
    rows = rows if metrics is None else [r for r in rows if not wanted.keys().isdisjoint(r)]
    table: dict[str, Any] = {key: [row[key] for row in rows] for key in ("step", "time")}
    if attempts == "all":
        table["attempt"] = [row.get("attempt", 1) for row in rows]
    if ranks == "all":
        table["rank"] = [str(row["rank"]) for row in rows]
    for stored, shown in wanted.items():
        # A metric called "time" keeps its stored name here: the column has a meaning of its own.
        name = stored if shown in RESERVED else shown
        table[name] = to_floats([row.get(stored) for row in rows])
    frame = pd.DataFrame(table)
    return frame if ranks != "mean" else frame.groupby("step", as_index=False).mean()


def long_frame(runs: "RunSet", metrics: str | Iterable[str] | None) -> "pd.DataFrame":
    """Return the table that ``ExperimentRegistry.history`` describes."""
    import pandas as pd

    histories: list[list[Row]] = runs.each(lambda record: record.rows(), [])
    wanted = _wanted(metrics, _metric_names(histories))
    cells = [
        (record.key, row["step"], row["time"], shown, row[stored])
        for record, rows in zip(runs, histories, strict=True)
        for row in rows
        for stored, shown in wanted.items()
        if stored in row
    ]
    names = ("run", "step", "time", "metric", "value")
    table = {name: [cell[i] for cell in cells] for i, name in enumerate(names)}
    return pd.DataFrame(table | {"value": to_floats(table["value"])})


def _metric_names(histories: Iterable[Sequence[Row]]) -> dict[str, str]:
    """Metrics in the rows: the name shown to the name stored."""
    stored = dict.fromkeys(name for rows in histories for row in rows for name in row)
    return {shown_name(name): name for name in stored if name not in RESERVED}


def _wanted(metrics: str | Iterable[str] | None, names: Mapping[str, str]) -> dict[str, str]:
    """Metrics to show: the name stored to the name asked for."""
    if metrics is None:
        return {stored: shown for shown, stored in names.items()}
    asked = [metrics] if isinstance(metrics, str) else metrics
    return {names[find_metric(name, names)]: name for name in asked}
