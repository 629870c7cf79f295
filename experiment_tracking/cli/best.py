"""``experiments best``: the run with the best value of a metric."""

import argparse
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    add_filters,
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
    parser.add_argument("--project", metavar="P", help="runs of this project alone")
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
    if args.json:
        found = {"metric": metric, "mode": mode, "on": args.on, "value": value, "step": step}
        json_out({**found, "model": model, **run_to_json(record)})
        return DONE
    _print(record, f"{metric}:{number}", f"{text.number(value)} at step {step}", model)
    return DONE


def _better(runs: "RunSet", metric: str) -> str:
    """Side on which the metric is better, by the goal that the runs which tell one agree on."""
    goals = runs.goals(metric)
    if len(goals) != 1:
        found = "several goals" if goals else "no goal"
        raise InvalidValueError(f"Metric {metric!r} has {found}. Say --min or --max.")
    return "min" if goals == {"minimize"} else "max"


def _print(record: "RunRecord", column: str, value: str, model: str | None) -> None:
    from experiment_tracking.registry.runset import RunSet

    (flat,) = RunSet([record]).flat_params()
    params = [f"{name}={text.param(value)}" for name, value in flat.items()]
    known = {column: value, "model": model, "params": ", ".join(params)}
    known["path"] = record.folder.path
    screen = Screen()
    print_title(record, screen)
    screen.pairs([(text.clean(name), Cell(value)) for name, value in known.items() if value])
