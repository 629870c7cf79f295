"""``experiments start``, ``log`` and ``finish``: a run that a shell script writes."""

import argparse
from typing import Any

from experiment_tracking.cli.command import (
    DONE,
    add_identity,
    add_project,
    identity_of,
    key_values,
    new_command,
    root_of,
)
from experiment_tracking.cli.screen import json_out

_START = """
eval "$(experiments start digits --name baseline --param lr=0.1)"
experiments log loss=0.31 acc=0.9 --step 1
experiments finish
"""
_LOG = """
experiments log loss=0.31 acc=0.9
experiments log loss=0.31 --step 5
experiments log --param lr=0.1 --tag gpu=a100
"""
_FINISH = """
experiments finish
experiments finish --exit-code $?
experiments finish --status killed
"""


def add(commands: Any) -> None:
    """Add the three commands."""
    summary = "open a run for a shell script"
    parser = new_command(commands, "start", start, summary, _START, one_root=True)
    add_project(parser, "default: default")
    add_identity(parser, project=False)
    parser.add_argument(
        "--pid", type=int, metavar="N", help="the process whose life is the run's ($$)"
    )
    parser = new_command(commands, "log", log, "log numbers to a shell script's run", _LOG)
    parser.add_argument("metrics", nargs="*", metavar="NAME=NUMBER", help="metrics of one row")
    parser.add_argument("--step", type=int, metavar="N", help="default: the last step + 1")
    parser.add_argument(
        "--param", action="append", default=[], metavar="K=V", help="may be repeated"
    )
    parser.add_argument("--tag", action="append", default=[], metavar="T", help="T or KEY=VALUE")
    _add_run(parser)
    parser = new_command(commands, "finish", finish, "end a shell script's run", _FINISH)
    parser.add_argument(
        "--status", metavar="S", help="finished, failed or killed; default: by the exit code"
    )
    parser.add_argument("--exit-code", type=int, metavar="N", help="what the script ended with")
    _add_run(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="PATH", help="default: $EXPERIMENT_TRACKING_RUN")


def start(args: argparse.Namespace) -> int:
    """Open a run and print what the shell is to evaluate."""
    import shlex

    from experiment_tracking.folder.layout import RUN_VARIABLE
    from experiment_tracking.jobs import shell

    project = args.project or "default"
    folder = shell.start(root_of(args), project, args.name, identity_of(args), args.pid)
    if args.json:
        json_out({"path": folder.path})
    else:
        print(f"export {RUN_VARIABLE}={shlex.quote(folder.path)}")
    return DONE


def log(args: argparse.Namespace) -> int:
    """Append a row; set params and tags."""
    from experiment_tracking.errors import InvalidValueError
    from experiment_tracking.jobs import shell

    metrics, params = key_values(args.metrics), key_values(args.param)
    if not (metrics or params or args.tag):
        raise InvalidValueError("There is nothing to log. Write experiments log loss=0.3 --step 1")
    tags = {key: value for key, _, value in (tag.partition("=") for tag in args.tag)}
    shell.log(shell.current_run(args.run), metrics, args.step, params, tags)
    return DONE


def finish(args: argparse.Namespace) -> int:
    """End the run."""
    from experiment_tracking.jobs import shell
    from experiment_tracking.logs import to_status

    by_code = "failed" if args.exit_code else "finished"
    status = by_code if args.status is None else to_status(args.status)
    shell.finish(shell.current_run(args.run), status, args.exit_code)
    return DONE
