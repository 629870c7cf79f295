"""``experiments find-equal``: runs that did the same."""

import argparse
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    Names,
    add_project,
    check_project,
    new_command,
    registry_of,
    say_problems,
)
from experiment_tracking.cli.screen import INDENT, Cell, Screen, json_out, say
from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.columns import near

if TYPE_CHECKING:
    from experiment_tracking.registry.runset import RunSet

_WAYS = {"params": "params", "code": "files kept of the code", "inputs": "hashes of the inputs"}
_EXAMPLES = """
experiments find-equal digits
experiments find-equal digits --params --except seed
experiments find-equal --params --code --inputs --json | jq -r '.[][].path'
"""


def add(commands: Any) -> None:
    """Add the command."""
    summary = "find runs that had the same params, code or inputs"
    parser = new_command(commands, "find-equal", find_equal, summary, _EXAMPLES)
    add_project(parser, "default: all projects")
    for word, what in _WAYS.items():
        default = ", the default" if word == "params" else ""
        parser.add_argument(
            f"--{word}",
            dest="by",
            action="append_const",
            const=word,
            help=f"with the same {what}{default}",
        )
    parser.add_argument(
        "--except",
        dest="exclude",
        action=Names,
        default=[],
        metavar="PARAM",
        help="a param that may differ; may be repeated",
    )


def find_equal(args: argparse.Namespace) -> int:
    """Print groups of equal runs."""
    from experiment_tracking.registry.aggregate import below
    from experiment_tracking.registry.equal import equal_runs

    registry = registry_of(args)
    check_project(registry, args.project)
    runs = registry.list_experiments(args.project)
    names = runs.param_names()
    if unknown := [name for name in args.exclude if not below(name, names)]:
        raise InvalidValueError(f"No run has the param {unknown[0]!r}. {near(unknown[0], names)}")
    by = args.by or ["params"]
    groups = equal_runs(runs, by, args.exclude)
    say_problems(runs)
    if args.json:
        json_out([[_facts(run) for run in group] for group in groups])
    elif groups:
        _print(groups)
    else:
        say(f"no two of the {len(runs)} runs have the same {' and '.join(by)}.")
    return DONE


def _facts(run: Any) -> dict[str, Any]:
    known = ("name", "project", "id", "status", "created_at")
    facts = {name: getattr(run, name) for name in known}
    return {"run": run.key, **facts, "path": run.folder.path}


def _print(groups: "list[RunSet]") -> None:
    screen = Screen()
    for number, group in enumerate(groups):
        if number:
            screen.line()
        for run in group:
            created = text.local_time(run.created_at)
            facts = f"{INDENT}{run.status}{INDENT}{created}"
            screen.line(Cell(text.clean(run.key), "bold"), Cell(facts, "dim"))
