"""What a column's name means: a fact of the run, a param, a tag, or a number of a metric."""

import json
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    from experiment_tracking.registry.table import RunTable

RUN_COLUMNS = (
    "name", "project", "status", "created_at", "duration_s", "age_s", "id", "status_note",
    "ended_at", "notes", "group", "parent", "commit", "exit_code", "rerun_of", "imported_from",
    "key", "path",
)  # fmt: skip
"""What is known of every run besides its params, metrics and tags."""

OTHER_WORDS = {
    "run": "key", "run_name": "name", "git.commit": "commit", "created": "created_at",
    "started_at": "created_at", "start_time": "created_at", "date": "created_at",
    "end_time": "ended_at", "duration": "duration_s", "age": "age_s",
}  # fmt: skip
"""What else run columns are called; a param or metric of the very name comes first."""

_EMPTY_IS_NONE = ("id", "status_note", "notes", "group")
_MOST_NAMES = 12

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
    if name in RUN_COLUMNS:
        return _run_values(table, name)
    kind, _, rest = name.partition(".")
    if rest and kind == "metrics":
        return _metric_values(table, rest)
    if rest and kind == "params":
        return _param_values(table, rest)
    return _column(table, name) if rest and kind == "tags" else _bare_values(table, name)


def _run_values(table: "RunTable", name: str) -> list[Any]:
    if name == "key":
        pairs = zip(table.column("project"), table.column("name"), strict=True)
        return [f"{project}/{run}" for project, run in pairs]
    if name == "path":
        return list(table.paths)
    if name == "age_s":
        now = datetime.now(UTC)
        return [_age_s(created_at, now) for created_at in table.column("created_at")]
    found = _column(table, name)
    return [value or None for value in found] if name in _EMPTY_IS_NONE else found


def _age_s(created_at: str | None, now: datetime) -> float | None:
    """Return seconds since then; none below 0, for clocks of machines differ."""
    try:
        return max(0.0, (now - datetime.fromisoformat(created_at or "")).total_seconds())
    except (TypeError, ValueError):  # of a damaged run: no time, or one without a zone
        return None


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
    if name in OTHER_WORDS and name not in metrics:
        return _run_values(table, OTHER_WORDS[name])
    kind, _, rest = name.partition(".")
    if kind == "config" and rest in params:
        return _column(table, f"params.{rest}")
    if not params and not metrics:
        return [None] * len(table)
    return numbers(table, *_metric_called(name, params, metrics, names_of(table, "tags")))


def _metric_called(
    name: str, params: Collection[str], metrics: Collection[str], tags: Collection[str]
) -> Column:
    try:
        found = _reading(name, metrics)
    except MetricNotFoundError as error:  # several bear it as their last part
        raise InvalidValueError(str(error)) from error
    if found is None and name in ("tag", "tags"):
        there = f"There are: {', '.join(sorted(tags)[:_MOST_NAMES])}." if tags else ""
        raise InvalidValueError(
            f"No column is called {name!r}, for each tag is one. Write tags.x is not null, or "
            f'tags.x = "value". {there}'.rstrip()
        )
    if found is None:
        raise InvalidValueError(
            f"No column is called {name!r}. "
            f"{near(_without_number(name), params, metrics, RUN_COLUMNS)}"
        )
    return found


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
    if found := _reading(column, names):
        return found
    close = near(_without_number(column), names)
    raise MetricNotFoundError(f"No run here has the metric {column!r}. {close}")


def _reading(column: str, names: Collection[str]) -> Column | None:
    readings = list(_readings(column))
    for metric, number in readings:
        if metric in names:
            return Column(metric, number)
    for metric, number in readings:
        if found := _by_last_part(metric, names):
            return Column(found, number)
    return None


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


def near(name: str, *kinds: Collection[str]) -> str:
    """Say in one sentence which names are near ``name``, or which there are.

    Parameters
    ----------
    name
        What was asked for.
    *kinds
        Names there are, those of a kind that is told first before others.
    """
    known = [sorted(names) for names in kinds]
    if close := [*_alike_in_part(name, known), *_alike(name, known)]:
        return f"Near: {', '.join(list(dict.fromkeys(close))[:5])}."
    share = _MOST_NAMES // len(known)
    if shown := [each for names in known for each in names[:share]]:
        return f"There are: {', '.join(shown)}{' …' if len(shown) < sum(map(len, known)) else ''}."
    return "There are none yet."


def _alike_in_part(name: str, known: list[list[str]]) -> list[str]:
    """Return the names whose last part is ``name``, then those in whose last part it is."""
    word = name.lower()
    parts = [(each, re.split("[./]", each)[-1].lower()) for names in known for each in names]
    inside = [each for each, part in parts if len(word) > 1 and word in part]
    return [each for each, part in parts if part == word] + inside


def _alike(name: str, known: list[list[str]]) -> list[str]:
    import difflib  # only a mistake needs it

    return [each for names in known for each in difflib.get_close_matches(name, names, n=5)]


def _readings(column: str) -> Iterator[tuple[str, str]]:
    yield column, "last"
    name, colon, word = column.rpartition(":")
    if colon and word in _NUMBERS:
        yield name, _NUMBERS[word]
    for prefix in _PREFIXES:
        if column.startswith(prefix + "_"):
            yield column[len(prefix) + 1 :], _NUMBERS[prefix]


def _without_number(column: str) -> str:
    name, colon, word = column.rpartition(":")
    return name if colon and word in _NUMBERS else column


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
