"""``experiments check``: look for damage, and mend it on request."""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.command import DONE, FAILED, RUN_HELP, new_command, registry_of
from experiment_tracking.cli.screen import Cell, Screen, json_out, say
from experiment_tracking.cli.text import clean

if TYPE_CHECKING:
    from experiment_tracking.folder.check import Problem

_EXAMPLES = """
experiments check
experiments check experiments/digits
experiments check digits/lr-0.1 --fix
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands, "check", check, "look for damaged or missing files in runs", _EXAMPLES
    )
    parser.add_argument(
        "places",
        nargs="*",
        metavar="RUN",
        help=f"{RUN_HELP}; or the path of a root or project; by default the whole root",
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="mend what can be mended; the old file is kept beside the new one",
    )


def check(args: argparse.Namespace) -> int:
    """Print every defect; fail if one remains."""
    from experiment_tracking.folder.check import check as find_problems

    places = [_place(args, key) for key in args.places] or registry_of(args).roots
    problems = [found for place in places for found in find_problems(place, fix=args.fix)]
    remaining = [found for found in problems if not found.fixed]
    if args.json:
        json_out([found._asdict() for found in problems])
    else:
        _print(problems)
    if not problems:
        say(f"no defects in {', '.join(places)}.")
    elif remaining:
        say(f"{len(remaining)} of {len(problems)} defects remain.")
    return FAILED if remaining else DONE


def _place(args: argparse.Namespace, key: str) -> str:
    """Path of what is to be checked; a run too damaged to be read has to be found as well."""
    path = os.path.abspath(os.path.expanduser(key))
    if os.path.isdir(path):
        return path
    registry = registry_of(args)
    below = [os.path.join(root, *key.split("/")) for root in registry.roots]
    return next(filter(os.path.isdir, below), None) or registry.get(key).folder.path


def _print(problems: "Sequence[Problem]") -> None:
    screen = Screen()
    for found in problems:
        screen.line(Cell(clean(found.path), "bold"))
        pairs = [(f"  {found.kind}", Cell(found.message, "" if found.fixed else "red"))]
        if found.fixed:
            pairs.append(("  fixed", Cell(found.fixed, "green")))
        screen.pairs(pairs)
