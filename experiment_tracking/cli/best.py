"""``experiments best``: the run with the best value of a metric."""

import argparse
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    add_filters,
    add_project,
    chosen_runs,
    new_command,
    print_title,
    registry_of,
    run_to_json,
    say_problems,
    why_empty,
)
from experiment_tracking.cli.screen import Cell, Screen, json_out
from experiment_tracking.errors import InvalidValueError, NotFoundError

if TYPE_CHECKING:
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.runset import RunSet

_TIES = 5
_EXAMPLES = """
experiments best val/loss
experiments best reward --max --project cartpole --status finished
experiments best val/acc --on last --json | jq -r .path
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands, "best", best, "find the run with the best value of a metric", _EXAMPLES
    )
    parser.add_argument("metric", metavar="METRIC", help="its name, or the last part of it")
    mode = parser.add_mutually_exclusive_group()
    for word, side in (("min", "lowest"), ("max", "highest")):
        mode.add_argument(
            f"--{word}",
            dest="mode",
            action="store_const",
            const=word,
            help=f"the {side} value; by default what is better for this metric",
        )
    add_project(parser, positional=False)
    parser.add_argument(
        "--on",
        choices=("best", "last"),
        default="best",
        help="compare each run's own best value (default) or its last",
    )
    add_filters(parser)


def best(args: argparse.Namespace) -> int:
    """Print the best run."""
    from experiment_tracking.registry.columns import find_metric

    registry = registry_of(args)
    runs = chosen_runs(args, registry)
    say_problems(runs)
    if not runs:
        raise NotFoundError(why_empty(args, registry))
    metric = find_metric(args.metric, runs.metric_names())
    mode = args.mode or _better(runs, metric)
    record = runs.best(metric, mode, args.on)
    number = mode if args.on == "best" else "last"
    value, step = record.number(metric, number), record.number(metric, f"{number}_step")
    model = (record.model_at(step) or {}).get("name")
    ties = _ties(runs, record, metric, number)
    if args.json:
        found = {"metric": metric, "mode": mode, "on": args.on, "value": value, "step": step}
        json_out({**found, "model": model, "ties": ties, **run_to_json(record)})
        return DONE
    told = f"{text.number(value)} at step {step}{_told_last(record.number(metric, 'last'))}"
    _print(record, {f"{metric}:{number}": told, "the same": _told_ties(ties), "model": model})
    return DONE


def _ties(runs: "RunSet", record: "RunRecord", metric: str, number: str) -> list[str]:
    """Return the other runs that have the very value."""
    value = record.number(metric, number)
    rows = zip(runs.keys, runs.table.paths, runs.numbers(metric, number), strict=True)
    return [key for key, path, other in rows if other == value and path != record.folder.path]


def _told_ties(ties: list[str]) -> str:
    more = f" and {len(ties) - _TIES} more" if len(ties) > _TIES else ""
    return f"{', '.join(map(text.clean, ties[:_TIES]))}{more}; the oldest is shown" if ties else ""


def _told_last(last: float | None) -> str:
    """Say that a run went wrong after its best value."""
    return "" if last is None or math.isfinite(last) else f" (last {text.number(last)})"


def _better(runs: "RunSet", metric: str) -> str:
    """Side on which the metric is better, by the goal that the runs which tell one agree on."""
    goals = runs.goals(metric)
    if len(goals) != 1:
        found = "several goals" if goals else "no goal"
        raise InvalidValueError(f"Metric {metric!r} has {found}. Say --min or --max.")
    return "min" if goals == {"minimize"} else "max"


def _print(record: "RunRecord", facts: Mapping[str, str | None]) -> None:
    from experiment_tracking.registry.runset import RunSet

    (flat,) = RunSet([record]).flat_params()
    params = [f"{name}={text.param(value)}" for name, value in flat.items()]
    known = {**facts, "params": ", ".join(params), "path": record.folder.path}
    screen = Screen()
    print_title(record, screen)
    screen.pairs([(text.clean(name), Cell(value)) for name, value in known.items() if value])
