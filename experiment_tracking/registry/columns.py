"""What a column's name means: a fact of the run, a param, a tag, or a number of a metric."""

import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    from experiment_tracking.registry.table import RunTable

RUN_COLUMNS = (
    "name", "project", "status", "created_at", "duration_s", "id", "status_note", "ended_at",
    "notes", "group", "parent", "commit", "exit_code", "rerun_of", "imported_from",
)  # fmt: skip
"""What is known of every run besides its params, metrics and tags."""

_NUMBERS = {
    "final": "last", "last": "last", "best": "best", "min": "min", "max": "max", "mean": "mean",
    "count": "count", "last_step": "last_step", "best_step": "best_step",
    "min_step": "min_step", "max_step": "max_step",
}  # fmt: skip
_PREFIXES = ("final", "last", "best", "min", "max", "mean")


class Column(NamedTuple):
    """One number of one metric's summary."""

    metric: str
    number: str
    """Key in the metric's summary: ``last``, ``best``, ``min``, ``max``, ``mean``, …"""


def values(table: "RunTable", name: str) -> list[Any]:
    """Return one value per run of the column that a person calls ``name``, None where missing.

    Parameters
    ----------
    table
        The runs.
    name
        As ``RunSet.column`` takes it.

    Raises
    ------
    InvalidValueError
        If no run has such a column, or both a param and a metric bear the name.
    MetricNotFoundError
        If ``metrics.`` stands before a name that no metric has.
    """
    if name in ("key", "run"):
        pairs = zip(table.column("project"), table.column("name"), strict=True)
        return [f"{project}/{run}" for project, run in pairs]
    if name == "path":
        return list(table.paths)
    kind, _, rest = name.partition(".")
    if kind == "metrics":
        return _metric_values(table, rest)
    if name in RUN_COLUMNS or kind == "tags":
        return _column(table, name)
    if kind == "params":
        return _param_values(table, rest)
    return _bare_values(table, name)


def names_of(table: "RunTable", kind: str) -> list[str]:
    """Return the names of all ``params``, ``metrics`` or ``tags``, without what says so."""
    start = f"{kind}."
    return [name.removeprefix(start) for name in table.names() if name.startswith(start)]


def numbers(table: "RunTable", metric: str, number: str) -> list[Any]:
    """Return one entry of a metric's summary per run, None where there is none.

    Raises
    ------
    InvalidValueError
        For the best of a metric without a goal.
    """
    if number.startswith("best"):
        _check_goals(table, metric)
    return _column(table, f"metrics.{metric}:{number}")


def _check_goals(table: "RunTable", metric: str) -> None:
    goals, counts = numbers(table, metric, "goal"), numbers(table, metric, "count")
    for run, goal, count in zip(values(table, "key"), goals, counts, strict=True):
        if count is not None and goal is None:
            raise InvalidValueError(
                f"Metric {metric!r} of {run} has no goal, so it has no best value. Use "
                f"'{metric}:min' or '{metric}:max', or define_metric({metric!r}, goal=...)."
            )


def _column(table: "RunTable", name: str) -> list[Any]:
    try:
        return list(table.column(name))
    except KeyError:
        return [None] * len(table)


def _bare_values(table: "RunTable", name: str) -> list[Any]:
    params, metrics = names_of(table, "params"), names_of(table, "metrics")
    if name in params and name in metrics:
        raise InvalidValueError(
            f"{name!r} is both a param and a metric. Write params.{name} or metrics.{name}."
        )
    if name in params:
        return _column(table, f"params.{name}")
    try:
        return _metric_values(table, name)
    except MetricNotFoundError as error:
        raise InvalidValueError(
            f"No column is called {name!r}. {near(name, {*RUN_COLUMNS, *params})} "
            f"As a metric: {error}"
        ) from error


def _param_values(table: "RunTable", name: str) -> list[Any]:
    known = names_of(table, "params")
    if known and name not in known:
        raise InvalidValueError(f"No run here has the param {name!r}. {near(name, known)}")
    return _column(table, f"params.{name}")


def _metric_values(table: "RunTable", name: str) -> list[Any]:
    known = names_of(table, "metrics")
    return numbers(table, *find_column(name, known)) if known else [None] * len(table)


def identity(value: Any) -> Any:
    """Return what is equal for equal params: 1 and 1.0 are, 1 and True or "1" are not."""
    if isinstance(value, (list, dict)):
        return ("json", json.dumps(_whole_as_int(value), sort_keys=True))
    if isinstance(value, bool) or value != value:
        return ("word", str(value))
    return value


def _whole_as_int(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _whole_as_int(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole_as_int(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def find_column(column: str, names: Collection[str]) -> Column:
    """Tell which number of which metric a column shows.

    A metric that bears the very name wins (its last value); then ``name:min`` and prefixes
    (``final_loss``, ``best_accuracy``); then exactly one metric by its last part, with a notice.

    Parameters
    ----------
    column
        The name asked for.
    names
        All metrics there are.

    Raises
    ------
    MetricNotFoundError
        If none or several answer to it; near or matching names are shown.
    """
    readings = list(_readings(column))
    for metric, number in readings:
        if metric in names:
            return Column(metric, number)
    for metric, number in readings:
        if found := _by_last_part(metric, names):
            return Column(found, number)
    raise MetricNotFoundError(f"No run here has the metric {column!r}. {near(column, names)}")


def find_metric(name: str, names: Collection[str]) -> str:
    """Return the metric called ``name``, or the only one whose last part it is, with a notice.

    Raises
    ------
    MetricNotFoundError
        If none or several answer to it.
    """
    if name in names:
        return name
    if found := _by_last_part(name, names):
        return found
    raise MetricNotFoundError(f"No run here has the metric {name!r}. {near(name, names)}")


def near(name: str, names: Collection[str]) -> str:
    """Say in one sentence which names are near ``name``, or which there are."""
    import difflib  # only a mistake needs it

    close = difflib.get_close_matches(name, list(names), n=5, cutoff=0.5)
    if close:
        return f"Near: {', '.join(close)}."
    if names:
        known = sorted(names)
        return f"There are: {', '.join(known[:10])}{' …' if len(known) > 10 else ''}."
    return "There are none yet."


def _readings(column: str) -> Iterator[tuple[str, str]]:
    yield column, "last"
    name, colon, word = column.rpartition(":")
    if colon and word in _NUMBERS:
        yield name, _NUMBERS[word]
    for prefix in _PREFIXES:
        if column.startswith(prefix + "_"):
            yield column[len(prefix) + 1 :], _NUMBERS[prefix]


def _by_last_part(name: str, names: Collection[str]) -> str | None:
    found = sorted(known for known in names if known.rpartition("/")[2] == name)
    if len(found) > 1:
        raise MetricNotFoundError(
            f"Several metrics end in {name!r}: {', '.join(found)}. Write one of them whole."
        )
    if not found:
        return None
    notice(f"no metric is called {name!r}; {found[0]!r} is taken.")
    return found[0]
