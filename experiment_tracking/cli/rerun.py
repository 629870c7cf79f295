"""``experiments rerun``: a run again, from what it recorded."""

import argparse
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.command import (
    DONE,
    NOT_MET,
    RUN_HELP,
    find_run,
    new_command,
)
from experiment_tracking.cli.screen import json_out, say

if TYPE_CHECKING:
    from experiment_tracking.registry.record import RunRecord

_EXAMPLES = """
experiments rerun latest --verify
experiments rerun digits/baseline --verify --tolerance 1e-6
experiments rerun best:val/loss --env same
experiments rerun latest --dry-run
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(commands, "rerun", rerun, "run a run again", _EXAMPLES)
    parser.description = (
        "Run a run again: the commit, the uncommitted changes and the untracked code in a clean "
        "folder, the same arguments and seed, as a new run. With --verify, compare the two; exit "
        "code 4 when they differ."
    )
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--verify", action="store_true", help="compare the new run with the old")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="T",
        help="numbers may differ by T, or by T of their size (default: 0, bit for bit)",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="GLOB",
        help="metrics that are not compared; may be repeated. Clocks never are",
    )
    parser.add_argument(
        "--env",
        choices=("current", "same"),
        default="current",
        help="current: this Python (default). same: a fresh one with the recorded packages",
    )
    parser.add_argument(
        "--link",
        action="append",
        default=[],
        metavar="PATH",
        help="a file or folder of the project that git does not keep, such as data",
    )
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="the value of an argument that is kept as ***",
    )
    parser.add_argument("--keep-tree", action="store_true", help="leave the folder it ran in")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")


def rerun(args: argparse.Namespace) -> int:
    """Run again and, if asked for, verify."""
    from experiment_tracking.reproduce import rerun as again

    record = find_run(args, args.run)
    secrets = dict(word.partition("=")[::2] for word in args.secret)
    if args.dry_run:
        planned = again.plan(record, secrets)
        if args.json:
            json_out(planned._asdict())
        else:
            print("\n".join(again.describe(record, planned)))
        return DONE
    options = again.Options(args.env, args.link, secrets, args.keep_tree, say)
    outcome = again.rerun(record, options)
    if args.verify:
        return _verify(args, record, outcome.path)
    if args.json:
        json_out(outcome._asdict())
    return outcome.exit_code


def _verify(args: argparse.Namespace, record: "RunRecord", path: str) -> int:
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.reproduce.verify import verify

    verification = verify(record, RunRecord(path), args.tolerance, args.ignore)
    if args.json:
        json_out({"path": path, **verification.to_dict()})
    else:
        print(verification.to_text())
    return DONE if verification.holds else NOT_MET
