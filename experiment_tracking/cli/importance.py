"""``experiments importance`` and ``neighbours``: which params matter, and what one of them did."""

import argparse
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    RUN_HELP,
    add_filters,
    add_project,
    chosen_runs,
    find_run,
    new_command,
    registry_of,
    say_problems,
    why_empty,
)
from experiment_tracking.cli.screen import Screen, column_of, json_out, say
from experiment_tracking.errors import NotFoundError

if TYPE_CHECKING:
    from experiment_tracking.registry.importance import Importance, Neighbour

_IMPORTANCE_EXAMPLES = """
experiments importance val/loss digits
experiments importance val/acc --on best --method correlation --where 'lr < 1'
experiments importance val/loss digits --json | jq '.params[0]'
"""
_NEIGHBOURS_EXAMPLES = """
experiments neighbours latest
experiments neighbours digits/lr-0.1 --metric val/loss:min
experiments neighbours best:val/loss --metric val/loss --on best --json
"""


def add(commands: Any) -> None:
    """Add both commands."""
    summary = "estimate how much each param matters for a metric"
    parser = new_command(commands, "importance", importance, summary, _IMPORTANCE_EXAMPLES)
    parser.add_argument("metric", metavar="METRIC", help="as loss, loss:min, best_accuracy")
    add_project(parser)
    _add_on(parser)
    parser.add_argument(
        "--method",
        choices=("forest", "correlation"),
        help="forest: of random trees, needs scikit-learn (default where it is there); "
        "correlation: of ranks",
    )
    add_filters(parser)
    summary = "list the runs that differ from one in a single param"
    parser = new_command(commands, "neighbours", neighbours, summary, _NEIGHBOURS_EXAMPLES)
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--metric", metavar="METRIC", help="what came of it: theirs less ours")
    _add_on(parser)


def _add_on(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on",
        choices=("last", "best", "min", "max", "mean"),
        default="last",
        help="which value of a run counts; default: last",
    )


def importance(args: argparse.Namespace) -> int:
    """Print the params by how much they matter."""
    registry = registry_of(args)
    runs = chosen_runs(args, registry)
    say_problems(runs)
    if not runs:
        raise NotFoundError(why_empty(args, registry))
    found = runs.importance(args.metric, args.on, args.method)
    if args.json:
        params = [param._asdict() for param in found]
        facts = {name: getattr(found, name) for name in ("metric", "method", "runs", "score")}
        json_out({**facts, "params": params})
    else:
        _print_importance(found)
    return DONE


def _print_importance(found: "Importance") -> None:
    if found:
        write = {"param": text.clean, "importance": text.number, "correlation": text.number}
        columns = found.to_columns()
        Screen().table([column_of(name, columns[name], write[name]) for name in columns])
    else:
        say(f"the params of these {found.runs} runs are all equal.")
    if found.method == "forest" and found:
        share = f"{max(0, found.score):.0%} of the variance of {found.metric}"
        say(f"the forest explains {share} in {found.runs} runs; where that is little, so is this.")


def neighbours(args: argparse.Namespace) -> int:
    """Print the runs that differ in one param, the nearest first."""
    from experiment_tracking.registry.registry import ExperimentRegistry

    record = find_run(args, args.run)
    # Where it lies: it may have been named by its path.
    registry = ExperimentRegistry(args.roots or record.folder.root)
    found = registry.neighbours(record, args.metric, args.on)
    if args.json:
        json_out([_as_json(each) for each in found])
    elif found:
        _print_neighbours(found, args.metric)
    else:
        say(f"no run of {record.project} differs from {record.key} in one param alone.")
    return DONE


def _as_json(found: "Neighbour") -> dict[str, Any]:
    known = {name: value for name, value in found._asdict().items() if name != "record"}
    return {"run": found.record.key, **known, "path": found.record.folder.path}


def _print_neighbours(found: "list[Neighbour]", metric: str | None) -> None:
    columns = [
        column_of("run", [each.record.key for each in found], text.clean),
        column_of("param", [each.param for each in found], text.clean),
        column_of("ours", [each.ours for each in found], _write),
        column_of("theirs", [each.theirs for each in found], _write),
    ]
    if metric:
        changes = [each.change for each in found]
        columns.append(column_of(f"{metric}, theirs - ours", changes, text.number))
    Screen().table(columns)


def _write(value: Any) -> str:
    return text.number(value) if isinstance(value, float) else text.param_or_nothing(value)
