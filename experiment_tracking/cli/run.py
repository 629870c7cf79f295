"""``experiments run``: a command as a run."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from textwrap import fill
from typing import Any

from experiment_tracking.cli.command import add_identity, identity_of, new_command, root_of
from experiment_tracking.cli.screen import json_out

_EXAMPLES = """
experiments run -- python train.py --lr 0.1
experiments run --project digits --name baseline --tag demo -- python train.py
experiments run --collect 'plots/*.png' --collect out.csv -- ./simulate.sh 42
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands, "run", run, "run a command and track it as a run", _EXAMPLES,
        one_root=True,
    )  # fmt: skip
    parser.description = fill(
        "Run a command and track it: its params off the command line, what it prints, its exit "
        "code (which is passed on) and the files it leaves. A script that uses the tracker "
        "writes into this very run.",
        80,
    )
    add_identity(parser)
    parser.add_argument(
        "--collect",
        action="append",
        default=[],
        metavar="GLOB",
        help="keep the files that match and were written meanwhile; may be repeated",
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what to run")


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from experiment_tracking.jobs.launch import Job, launch

    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    identity = identity_of(args)
    job = Job(
        words,
        root_of(args),
        project=args.project,
        name=args.name,
        params=identity.params,
        tags=identity.tags,
        notes=identity.notes,
        group=identity.group,
        collect=args.collect,
    )
    with output_aside(args.json):
        outcome = launch(job)
    if args.json:
        json_out({"path": outcome.path, "exit_code": outcome.exit_code})
    return outcome.exit_code


@contextlib.contextmanager
def output_aside(aside: bool) -> Iterator[None]:
    """Have what a command prints go to stderr, if asked for: stdout is for our JSON alone."""
    if not aside:
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
