"""``experiments rerun``: a run again, from what it recorded."""

import argparse
import math
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.command import (
    DONE,
    NOT_MET,
    RUN_HELP,
    find_run,
    new_command,
)
from experiment_tracking.cli.run import output_aside
from experiment_tracking.cli.screen import json_out, say

if TYPE_CHECKING:
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.reproduce.rerun import Options

_EXAMPLES = """
experiments rerun latest --verify
experiments rerun digits/baseline --verify --tolerance 1e-6
experiments rerun best:val/loss --env same
experiments rerun latest --dry-run
"""
_INTERRUPTED = 130


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(commands, "rerun", rerun, "run a run again", _EXAMPLES)
    parser.description = fill(
        "Run a run again: the commit, the uncommitted changes and the untracked code in a clean "
        "folder, the same arguments and seed, as a new run. With --verify, compare the two; exit "
        "code 4 when they differ.",
        80,
    )
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--verify", action="store_true", help="compare the new run with the old")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=0.0,
        metavar="T",
        help="numbers may differ by T, or by T of their size (default: 0, bit for bit)",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="GLOB",
        help="what is not compared, as in 'val/*' or 'files.*'; may be repeated. Clocks never are",
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
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and whether it can"
    )


def _tolerance(text: str) -> float:
    # Checked here, and not when the run has been run again for hours.
    try:
        tolerance = float(text)
    except ValueError:
        tolerance = math.nan
    if not 0 <= tolerance < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0 up, found {text!r}")
    return tolerance


def rerun(args: argparse.Namespace) -> int:
    """Run again and, if asked for, verify."""
    from experiment_tracking.reproduce import rerun as again

    record = find_run(args, args.run)
    secrets = _secrets(args.secret)
    options = again.Options(args.env, args.link, secrets, args.keep_tree, say)
    if args.dry_run:
        return _say_plan(args, record, options)
    _check_comparable(args, record)
    with output_aside(args.json):
        outcome = again.rerun(record, options)
    # What Ctrl-C has cut short proves nothing.
    if args.verify and outcome.exit_code != _INTERRUPTED:
        return _verify(args, record, outcome.path)
    if args.json:
        json_out(outcome._asdict())
    _say_ending(record, outcome.path)
    return outcome.exit_code


def _say_ending(record: "RunRecord", path: str) -> None:
    from experiment_tracking.cli.text import duration
    from experiment_tracking.registry.record import RunRecord

    new = RunRecord(path)
    took = duration(new.duration_s)
    say(f"{new.key} {new.status}, {took}; experiments diff {record.key} {new.key}")


def _secrets(words: Sequence[str]) -> dict[str, str]:
    from experiment_tracking.errors import InvalidValueError

    pairs = [word.partition("=") for word in words]
    if not all(name and value for name, _, value in pairs):
        # Without the word: half of it may be the secret.
        raise InvalidValueError("--secret takes NAME=VALUE, as in --secret api-key=abc.")
    return {name.lstrip("-"): value for name, _, value in pairs}


def _say_plan(args: argparse.Namespace, record: "RunRecord", options: "Options") -> int:
    from experiment_tracking.capture.redaction import redact_arguments
    from experiment_tracking.reproduce import rerun as again

    planned = again.plan(record, options.secrets)
    if not args.json:
        print(*again.describe(record, planned), sep="\n", flush=True)
    rehearsal = again.rehearse(record, options)
    if args.json:
        tree = rehearsal.tree
        found = {"linked": tree.linked, "code_warnings": tree.warnings}
        command = redact_arguments(planned.command)
        json_out({**planned._asdict(), "command": command, "packages": rehearsal.packages, **found})
    else:
        print(*again.describe_rehearsal(record, rehearsal), sep="\n")
    return DONE


def _check_comparable(args: argparse.Namespace, record: "RunRecord") -> None:
    from experiment_tracking.errors import InvalidValueError

    if args.verify and record.status == "running":
        raise InvalidValueError(
            f"Run {record.key} is still running, so there is nothing to compare with yet. Verify "
            "it when it has ended."
        )


def _verify(args: argparse.Namespace, record: "RunRecord", path: str) -> int:
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.reproduce.verify import verify

    verification = verify(record, RunRecord(path), args.tolerance, args.ignore)
    if args.json:
        json_out({"path": path, **verification.to_dict()})
    else:
        print(verification.to_text())
    return DONE if verification.holds else NOT_MET
