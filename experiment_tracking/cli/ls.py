"""``experiments ls``: the runs as a table."""

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    Names,
    add_filters,
    add_project,
    chosen_runs,
    elapsed_s,
    new_command,
    registry_of,
    run_to_json,
    say_problems,
    status_style,
    status_text,
    why_empty,
)
from experiment_tracking.cli.screen import Cell, Column, Screen, column_of, json_out, say

if TYPE_CHECKING:
    from experiment_tracking.registry.runset import RunSet

_METRICS = 4
_PARAMS = 6
_LONGEST_PARAM = 40
_LEFT_OUT = 8
_HELD_OUT = re.compile(r"(?:^|[/_.\- ])(?:val|valid|validation|test|eval)(?:$|[/_.\- ])", re.I)
_SORTED_AS = {"run": "key", "age": "-created_at", "duration": "duration_s"}
_EXAMPLES = """
experiments ls
experiments ls digits --status finished --sort val/loss:min --limit 5
experiments ls --where 'val/loss < 0.1 and optimizer = "adam"'
experiments ls --columns run,lr,val/acc,val/acc:max,tags.sweep
experiments ls --json | jq '.[].metrics."val/loss".min'
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(commands, "ls", ls, "list runs, the newest first", _EXAMPLES)
    add_project(parser)
    add_filters(parser)
    parser.add_argument(
        "--sort", metavar="COL", help="by one of the columns below; --sort=-COL from the highest"
    )
    parser.add_argument("--reverse", action="store_true", help="turn the order round")
    parser.add_argument("-n", "--limit", type=int, metavar="N", help="the first N runs")
    parser.add_argument(
        "--columns",
        action=Names,
        metavar="A,B",
        help="run, project, name, id, status, age, created_at, ended_at, duration, tags, notes, "
        "group, parent, commit, rerun_of, imported_from, path; params as lr or params.lr; "
        "metrics as loss (its last value), loss:min or metrics.loss; tags.x",
    )


def ls(args: argparse.Namespace) -> int:
    """Print the runs that meet the filters."""
    registry = registry_of(args)
    found = chosen_runs(args, registry)
    runs = found.order_by(_order(args.sort, args.reverse)).limit(args.limit) if found else found
    names = args.columns or []
    if args.json:
        json_out(_as_json(runs, names))
    elif runs:
        _print(runs, names, args.sort)
    if not found:
        say(why_empty(args, registry))
    say_problems(found)
    return DONE


def _order(sort: str | None, reverse: bool) -> str:
    column = sort or "age"
    name = column.removeprefix("-")
    name = _SORTED_AS.get(name, name)
    descending = column.startswith("-") ^ name.startswith("-") ^ reverse
    return "-" * descending + name.removeprefix("-")


def _as_json(runs: "RunSet", names: Sequence[str]) -> list[dict[str, Any]]:
    if not names:
        unread: dict[str, Any] = {}
        return [run for run in runs.each(run_to_json, unread) if run]
    columns = {name: _values(runs, name) for name in names}
    return [{name: columns[name][i] for name in names} for i in range(len(runs))]


def _print(runs: "RunSet", names: Sequence[str], sort: str | None) -> None:
    if names:
        Screen().table([_column(runs, name) for name in names])
        return
    metrics, more_metrics = _key_metrics(runs)
    params, more_params = _key_params(runs)
    Screen().table(_default_columns(runs, metrics, params, sort))
    if left_out := [*more_metrics, *more_params]:
        few = ", ".join(left_out[:_LEFT_OUT])
        more = f" and {len(left_out) - _LEFT_OUT} more" if len(left_out) > _LEFT_OUT else ""
        say(f"not shown: {few}{more}. --columns shows them, as in --columns run,{left_out[0]}.")


# ---------------------------------------------------------------------- default columns

# Where there is no room the highest rank goes first: params and best values in turn stay
# longest, for they say what was tried and what came of it.
_RUN_RANKS = {"status": 1, "age": 2, "duration": 7}
_LAST_VALUE_RANK = 30


def _default_columns(
    runs: "RunSet", metrics: Sequence[str], params: Mapping[str, Sequence[Any]], sort: str | None
) -> list[Column]:
    several = len({record.project for record in runs}) > 1
    columns = [_column(runs, "run" if several else "name", header="run")]
    columns += [_column(runs, name, rank) for name, rank in _RUN_RANKS.items()]
    taken = {*params, *(column.header for column in columns)}
    for i, name in enumerate(metrics):
        header = f"metrics.{name}" if name in taken else name
        columns.append(_metric_column(runs, name, i)._replace(header=text.clean(header)))
    columns += [
        column_of(name, values, text.param_or_nothing, rank=5 + 2 * i)
        for i, (name, values) in enumerate(params.items())
    ]
    sorted_by = (sort or "age").removeprefix("-")
    shown = {"name", *(column.header for column in columns)}
    shown |= {f"params.{name}" for name in params} | {f"metrics.{name}" for name in metrics}
    if sorted_by not in shown:
        columns.insert(1, _column(runs, sorted_by, 1))
    return columns


def _key_metrics(runs: "RunSet") -> tuple[list[str], list[str]]:
    """Choose the metrics that most runs share, those with a goal and on held-out data first.

    Gives the run's own best (``val/loss:min``) where there is a goal, else the last value; and
    which metrics are left out.
    """
    names = runs.metric_names()
    counts = {name: len(runs) - runs.numbers(name, "count").count(None) for name in names}
    goals = {name: max(runs.goals(name), default=None) for name in names}

    def importance(name: str) -> tuple[int, bool, bool]:
        return -counts[name], goals[name] is None, not _HELD_OUT.search(name)

    sides = {"minimize": ":min", "maximize": ":max"}
    ranked = sorted(names, key=importance)
    chosen = [name + sides.get(str(goals[name]), "") for name in ranked[:_METRICS]]
    return chosen, ranked[_METRICS:]


def _metric_column(runs: "RunSet", name: str, place: int) -> Column:
    """Make a column of best values with the best of all marked, or of last values."""
    metric, _, side = name.rpartition(":")
    pick = {"min": min, "max": max}.get(side)
    # A param or a column of runs may bear the same name.
    values = _values(runs, f"metrics.{name}")
    if pick is None:
        return column_of(name, values, _write, rank=_LAST_VALUE_RANK)
    column = column_of(name, values, _write, rank=4 + 2 * place)
    for i, last in enumerate(runs.numbers(metric, "last")):
        if last is not None and not math.isfinite(last):
            column.cells[i] = Cell(f"{column.cells[i].text} (last {text.number(last)})", "red")
    numbers = [(v, i) for i, v in enumerate(values) if v is not None and v == v]
    if len(numbers) > 1:
        best = pick(numbers)[1]
        column.cells[best] = Cell(column.cells[best].text, "bold green")
    return column


def _key_params(runs: "RunSet") -> tuple[dict[str, list[Any]], list[str]]:
    """Choose the params that tell the runs apart; those that only some runs have come last.

    Gives their values, and which others that tell runs apart are left out.
    """
    columns = {name: runs.column(f"params.{name}") for name in runs.param_names()}
    telling = [name for name in columns if len(set(map(str, columns[name]))) > 1]
    short = [name for name in telling if _longest(columns[name]) <= _LONGEST_PARAM]
    shown = sorted(short, key=lambda name: _sameness(columns[name]))[:_PARAMS]
    return {name: columns[name] for name in shown}, [n for n in telling if n not in shown]


def _longest(values: Sequence[Any]) -> int:
    return max(len(str(value)) for value in values)


def _sameness(values: Sequence[Any]) -> tuple[bool, int]:
    present = {str(value) for value in values if value is not None}
    return len(present) < 2, values.count(None)


# ---------------------------------------------------------------------- any column


def _column(runs: "RunSet", name: str, rank: int = 0, header: str | None = None) -> Column:
    values, write = _values(runs, name), _WRITERS.get(name, _write)
    if name.startswith("tags."):
        write = text.tag
    styles = ["bold" if name in ("run", "name") else ""] * len(runs)
    if name == "status":
        styles = [status_style(status) for status in values]
        values = list(map(status_text, values, runs.column("status_note")))
    return column_of(header or name, values, write, rank=rank, styles=styles)


def _values(runs: "RunSet", name: str) -> list[Any]:
    if name == "tags":
        return _tags(runs)
    if name == "duration":
        return _durations(runs)
    return runs.column({"age": "created_at"}.get(name, name))


def _tags(runs: "RunSet") -> list[dict[str, str]]:
    tags: list[dict[str, str]] = [{} for _ in runs.names]
    for name in runs.tag_names():
        for kept, value in zip(tags, runs.column(f"tags.{name}"), strict=True):
            kept.update({name: value} if value is not None else {})
    return tags


def _durations(runs: "RunSet") -> list[float | None]:
    """Seconds that each run took; of those that go on, the seconds until now."""
    values: list[float | None] = runs.column("duration_s")
    for row, status in enumerate(runs.column("status")):
        if status == "running":
            values[row] = runs.take([row]).each(elapsed_s, None)[0]
    return values


def _write(value: Any) -> str:
    return text.number(value) if isinstance(value, float) else text.param_or_nothing(value)


_WRITERS: Mapping[str, Callable[[Any], str]] = {
    "age": text.age,
    "created_at": text.local_time,
    "ended_at": text.local_time,
    "duration": text.duration,
    "tags": text.tags,
}
