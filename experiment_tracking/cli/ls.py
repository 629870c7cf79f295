"""``experiments ls``: the runs as a table."""

import argparse
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    add_filters,
    chosen_runs,
    elapsed_s,
    new_command,
    registry_of,
    run_to_json,
    say_problems,
    status_style,
    status_text,
)
from experiment_tracking.cli.screen import Cell, Column, Screen, column_of, json_out, say

if TYPE_CHECKING:
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.runset import RunSet

_METRICS = 4
_PARAMS = 6
_LONGEST_PARAM = 40
_HELD_OUT = re.compile(r"(?:^|[/_.\- ])(?:val|valid|validation|test|eval)(?:$|[/_.\- ])", re.I)
_SORTED_AS = {"run": "key", "age": "-created_at", "duration": "duration_s"}
_EXAMPLES = """
experiments ls
experiments ls digits --status finished --sort val/loss:min --limit 5
experiments ls --columns run,lr,val/acc,val/acc:max,tags.sweep
experiments ls --json | jq '.[].metrics."val/loss".min'
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(commands, "ls", ls, "list runs, the newest first", _EXAMPLES)
    parser.add_argument("project", nargs="?", metavar="PROJECT", help="runs of this project alone")
    add_filters(parser)
    parser.add_argument(
        "--sort", metavar="COL", help="by one of the columns below; --sort=-COL from the highest"
    )
    parser.add_argument("--reverse", action="store_true", help="turn the order round")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N runs")
    parser.add_argument(
        "--columns",
        metavar="A,B",
        help="run, project, name, id, status, age, created_at, ended_at, duration, tags, notes, "
        "group, parent, path; params as lr or params.lr; metrics as loss (its last value), "
        "loss:min or metrics.loss; tags.x",
    )


def ls(args: argparse.Namespace) -> int:
    """Print the runs that meet the filters."""
    registry = registry_of(args)
    found = chosen_runs(args, registry)
    runs = found.order_by(_order(args.sort, args.reverse)).limit(args.limit) if found else found
    names = [name.strip() for name in args.columns.split(",")] if args.columns else []
    if args.json:
        json_out(_as_json(runs, names))
    elif runs:
        Screen().table([_column(runs, name) for name in names] or _default_columns(runs))
    if not found:
        say(_why_empty(args, ", ".join(registry.roots)))
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


def _why_empty(args: argparse.Namespace, roots: str) -> str:
    where = f"{roots}, project {args.project}" if args.project else roots
    if args.status or args.tag:
        return f"no run in {where} meets these conditions."
    return (
        f"there are no runs in {where} yet. Make a first one: "
        'python -c "from experiment_tracking import ExperimentTracker as T; '
        "T('first').log_metrics({'loss': 0.5})\""
    )


# ---------------------------------------------------------------------- default columns

# Where there is no room the highest rank goes first: params and best values in turn stay
# longest, for they say what was tried and what came of it.
_RUN_RANKS = {"status": 1, "age": 2, "duration": 7}
_LAST_VALUE_RANK = 30


def _default_columns(runs: "RunSet") -> list[Column]:
    several = len({record.project for record in runs}) > 1
    columns = [_column(runs, "run" if several else "name", header="run")]
    columns += [_column(runs, name, rank) for name, rank in _RUN_RANKS.items()]
    columns += [_metric_column(runs, name, i) for i, name in enumerate(_key_metrics(runs))]
    columns += [
        column_of(name, values, text.param_or_nothing, rank=5 + 2 * i)
        for i, (name, values) in enumerate(_key_params(runs))
    ]
    return columns


def _key_metrics(runs: "RunSet") -> list[str]:
    """Choose the metrics that most runs share, those with a goal and on held-out data first.

    Gives the run's own best (``val/loss:min``) where there is a goal, else the last value.
    """
    metrics = runs.metrics()
    counts = Counter(name for each in metrics for name in each)
    goals = {name: summary.get("goal") for each in metrics for name, summary in each.items()}

    def importance(name: str) -> tuple[int, bool, bool]:
        return -counts[name], goals[name] is None, not _HELD_OUT.search(name)

    sides = {"minimize": ":min", "maximize": ":max"}
    chosen = sorted(counts, key=importance)[:_METRICS]
    return [name + sides.get(str(goals[name]), "") for name in chosen]


def _metric_column(runs: "RunSet", name: str, place: int) -> Column:
    """Make a column of best values with the best of all marked, or of last values."""
    pick = {"min": min, "max": max}.get(name.rpartition(":")[2])
    if pick is None:
        return _column(runs, name, _LAST_VALUE_RANK)
    column = _column(runs, name, 4 + 2 * place)
    values = [(v, i) for i, v in enumerate(_values(runs, name)) if v is not None and v == v]
    if len(values) > 1:
        best = pick(values)[1]
        column.cells[best] = Cell(column.cells[best].text, "bold green")
    return column


def _key_params(runs: "RunSet") -> list[tuple[str, list[Any]]]:
    """Choose the params that tell the runs apart; those that only some runs have come last."""
    params = runs.flat_params()
    names = dict.fromkeys(name for each in params for name in each)
    columns = [(name, [each.get(name) for each in params]) for name in names]
    telling = [(name, values) for name, values in columns if _tells_apart(values)]
    return sorted(telling, key=lambda column: _sameness(column[1]))[:_PARAMS]


def _tells_apart(values: Sequence[Any]) -> bool:
    texts = set(map(str, values))
    return len(texts) > 1 and max(map(len, texts)) <= _LONGEST_PARAM


def _sameness(values: Sequence[Any]) -> tuple[bool, int]:
    present = {str(value) for value in values if value is not None}
    return len(present) < 2, values.count(None)


# ---------------------------------------------------------------------- any column


def _column(runs: "RunSet", name: str, rank: int = 0, header: str | None = None) -> Column:
    values, write = _values(runs, name), _WRITERS.get(name, _write)
    styles = ["bold" if name in ("run", "name") else ""] * len(runs)
    if name == "status":
        values, styles = [status_text(r) for r in runs], [status_style(r) for r in runs]
    return column_of(header or name, values, write, rank=rank, styles=styles)


def _values(runs: "RunSet", name: str) -> list[Any]:
    from experiment_tracking.registry.frames import column_values

    if name in _OF_RECORD:
        return [_OF_RECORD[name](record) for record in runs]
    return column_values(runs, name)


def _write(value: Any) -> str:
    return text.number(value) if isinstance(value, float) else text.param_or_nothing(value)


_OF_RECORD: Mapping[str, Callable[["RunRecord"], Any]] = {
    "run": lambda record: record.key,
    "age": lambda record: record.created_at,
    "duration": elapsed_s,
    "tags": lambda record: record.tags,
    "path": lambda record: record.folder.path,
}
_WRITERS: Mapping[str, Callable[[Any], str]] = {
    "age": text.age,
    "duration": text.duration,
    "tags": text.tags,
}
