"""``experiments sync``: copy runs from one root to another, near or far."""

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import DONE, FAILED, add_project, new_command
from experiment_tracking.cli.screen import Screen, column_of, json_out, say

if TYPE_CHECKING:
    from experiment_tracking.upkeep.sync import Synced

_OUTCOMES = ("copied", "updated", "unchanged", "refused", "failed")
_EXAMPLES = """
experiments sync ./experiments /shared/team
experiments sync ./experiments s3://bucket/team --project digits
experiments sync s3://bucket/team ./experiments digits/lr-0.1 --dry-run
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands, "sync", sync, "copy runs to another root, only what differs", _EXAMPLES
    )
    root = "a folder of projects, or a URL such as s3://bucket/team"
    parser.add_argument("source", metavar="SRC", help=root)
    parser.add_argument("target", metavar="DST", help=f"{root}; made where there is none")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="name or project/name; default: all")
    add_project(parser, positional=False)
    parser.add_argument("--dry-run", action="store_true", help="tell what would be copied")


def sync(args: argparse.Namespace) -> int:
    """Copy what differs and tell what became of each run that was not equal."""
    from experiment_tracking.registry.progress import Progress
    from experiment_tracking.upkeep.sync import sync as sync_runs

    with Progress(f"to {args.target}") as progress:
        done = sync_runs(
            args.source, args.target, args.runs, args.project,
            dry_run=args.dry_run, progress=progress,
        )  # fmt: skip
    if args.json:
        json_out(_as_json(args, done))
    else:
        _print(args, done)
    return FAILED if any(each.reason for each in done) else DONE


def _as_json(args: argparse.Namespace, done: "list[Synced]") -> dict[str, Any]:
    return {
        "source": args.source,
        "target": args.target,
        "dry_run": args.dry_run,
        "counts": _counts(done),
        "size_bytes": sum(each.size_bytes for each in done),
        "runs": [each._asdict() for each in done],
    }


def _counts(done: "list[Synced]") -> dict[str, int]:
    counts = Counter(each.outcome for each in done)
    return {outcome: counts[outcome] for outcome in _OUTCOMES if counts[outcome]}


def _print(args: argparse.Namespace, done: "list[Synced]") -> None:
    moved = [each for each in done if each.files]
    if moved:
        columns = [
            column_of("run", [each.run for each in moved], text.clean),
            column_of("", [each.outcome for each in moved], str),
            column_of("files", [each.files for each in moved], str),
            column_of("size", [each.size_bytes for each in moved], text.size),
        ]
        Screen().table(columns)
    for each in done:
        if each.reason:
            say(f"{each.run} {each.outcome}: {each.reason}")
    counts = ", ".join(f"{number} {word}" for word, number in _counts(done).items())
    would = "would be: " if args.dry_run else ""
    size = text.size(sum(each.size_bytes for each in done))
    say(f"{would}{counts}, {size}." if done else f"there are no runs in {args.source}.")
