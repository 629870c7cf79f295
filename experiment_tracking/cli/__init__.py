"""The command line: ``experiments``, or ``python -m experiment_tracking``."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

from experiment_tracking.cli import (
    aggregate,
    best,
    check,
    command,
    compare,
    completion,
    diff,
    edit,
    export,
    find_equal,
    history,
    importance,
    importing,
    ls,
    models,
    moving,
    plot,
    push,
    rerun,
    run,
    shell,
    show,
    sql,
    sync,
    tensorboard,
    trash,
    usage,
    watch,
)
from experiment_tracking.cli.screen import say
from experiment_tracking.errors import (
    ExperimentTrackingError,
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
)

_GROUPS = (
    ls, show, history, watch, compare, diff, best, aggregate, importance, plot, find_equal,
    sql,  # look
    run, rerun, shell,  # make
    edit, moving, trash, usage, models,  # keep in order
    export, sync, push, importing,  # to and from elsewhere
    tensorboard, check, completion,
)  # fmt: skip
_EPILOG = """\
RUN is a path, a name, project/name, the start of an id, latest, latest~1 or best:METRIC.
Data goes to stdout, notices go to stderr. Exit codes: 0 done, 1 failed or defects found,
2 wrong usage, 3 not found, 4 a condition is not met.

examples:
  experiments ls --sort val/loss:min --limit 10
  experiments compare latest latest~1
  experiments show best:val/loss
  experiments tensorboard
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv
        Words behind the program's name; by default those of this process.

    Returns
    -------
    int
        0 done, 1 failed or defects found, 2 wrong usage, 3 not found, 4 a condition is not met;
        130 and 141 where Ctrl-C or the reader of a pipe ended it, as a shell expects.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _outcome(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return 141
    return code


def _outcome(argv: Sequence[str] | None) -> int:
    try:
        return _run(argv)
    except SystemExit as ending:  # argparse: help, version, usage
        return ending.code if isinstance(ending.code, int) else command.DONE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except (ExperimentTrackingError, OSError) as error:
        return _fail(error)


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    if completion.ASKED in os.environ:
        completion.answer(parser)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return command.USAGE
    command.check_root(args)
    code: int = args.function(args)
    return code


def _parser() -> argparse.ArgumentParser:
    from experiment_tracking import __version__

    parser = command.Parser(
        prog="experiments",
        description="Look at runs, compare them, keep them in order.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[command.shared_options()],
    )
    parser.set_defaults(roots=[], json=False)
    parser.add_argument("--version", action="version", version=f"experiments {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", action=command.Commands
    )
    for group in _GROUPS:
        group.add(commands)
    return parser


def _fail(error: Exception) -> int:
    say(str(error))
    if isinstance(error, NotFoundError):
        return command.NOT_FOUND
    wrong_usage = isinstance(error, (InvalidValueError, InvalidTypeError))
    return command.USAGE if wrong_usage else command.FAILED


def _silence_stdout() -> None:
    """Keep the interpreter from complaining at exit about what nobody reads any more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
