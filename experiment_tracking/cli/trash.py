"""``experiments rm``, ``restore`` and ``purge``: into the trash, out of it, gone for good."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    FAILED,
    RUN_HELP,
    add_filters,
    add_project,
    check_any_chosen,
    given_root,
    has_conditions,
    named_or_chosen,
    new_command,
    root_of,
)
from experiment_tracking.cli.moving import add_force, find_folder
from experiment_tracking.cli.screen import Screen, column_of, json_out, say
from experiment_tracking.errors import ExperimentTrackingError, InvalidValueError

if TYPE_CHECKING:
    from experiment_tracking.registry.summary import Unreadable
    from experiment_tracking.upkeep.trash import Trashed

_TRASHED_HELP = "project/name as it was, its name, or what `experiments restore` lists"
_RM_EXAMPLES = """
experiments rm digits/lr-0.1
experiments rm latest latest~1
experiments rm --project digits --where 'val/loss > 10'
"""
_RESTORE_EXAMPLES = """
experiments restore
experiments restore digits/lr-0.1
experiments restore digits/lr-0.1 --name lr-0.1-again
experiments restore --all
"""
_PURGE_EXAMPLES = """
experiments purge --older-than 30d --dry-run
experiments purge digits/lr-0.1 --yes
experiments purge --all
"""


def add(commands: Any) -> None:
    """Add the three commands."""
    parser = new_command(commands, "rm", rm, "move runs to the trash", _RM_EXAMPLES, one_root=True)
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"{RUN_HELP}; or conditions as below"
    )
    add_project(parser, positional=False)
    add_filters(parser)
    add_force(parser)
    parser = new_command(
        commands, "restore", restore, "bring runs back from the trash, or list it",
        _RESTORE_EXAMPLES, one_root=True,
    )  # fmt: skip
    parser.add_argument("runs", nargs="*", metavar="RUN", help=_TRASHED_HELP)
    parser.add_argument("--name", metavar="N", help="another name to bring one back under")
    parser.add_argument("--all", action="store_true", help="everything in the trash")
    parser = new_command(
        commands, "purge", purge, "delete runs in the trash for good", _PURGE_EXAMPLES,
        one_root=True,
    )  # fmt: skip
    parser.add_argument("runs", nargs="*", metavar="RUN", help=_TRASHED_HELP)
    add_older_than(parser, "removed longer ago than that")
    parser.add_argument("--all", action="store_true", help="everything in the trash")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be deleted")


def add_older_than(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option that takes a time span."""
    parser.add_argument("--older-than", type=days, metavar="AGE", help=f"{what}: 30d, 12h, 2w, 90m")


def days(word: str) -> float:
    """Read a time span as days, for argparse.

    >>> days("36h"), days("2w"), days("1.5d")
    (1.5, 14.0, 1.5)
    """
    from experiment_tracking.registry.filters.values import to_duration_s, to_number

    # A bare number would be taken as seconds, and hardly ever be meant so.
    seconds = None if to_number(word) is not None else to_duration_s(word)
    if seconds is None:
        raise argparse.ArgumentTypeError(
            f"{word!r} is no time span; write numbers with m, h, d or w, as in 30d or 1d12h"
        )
    return seconds / 86400


# ---------------------------------------------------------------------- rm


def rm(args: argparse.Namespace) -> int:
    """Move runs to the trash; all are found before the first one goes."""
    from experiment_tracking.upkeep.trash import remove

    check_any_chosen(args)
    if has_conditions(args):
        found = [run.folder for run in named_or_chosen(args)]
    else:
        found = [find_folder(args, key) for key in args.runs]  # also one too damaged to be read
    folders = {folder.path: folder for folder in found}
    moved, problems = _each(list(folders.values()), lambda folder: remove(folder, args.force))
    if args.json:
        json_out([to_json(each) for each in moved])
    else:
        for each in moved:
            run = text.clean(f"{each.project}/{each.name}")
            print(f"{run} is in the trash. Back again: {_restore_line(args, each)}")
    return _outcome(problems)


def to_json(each: "Trashed") -> dict[str, Any]:
    """Return what is known of a run in the trash as plain values."""
    run = f"{each.project}/{each.name}"
    return {"key": each.key, "run": run, "at": each.at, "by": each.by, "path": each.path}


def _restore_line(args: argparse.Namespace, each: "Trashed") -> str:
    # A run that was named by its path may be of another root.
    root = each.path.rsplit(os.sep, 4)[0]
    given = given_root(args) if root == root_of(args) else root
    words = ["--root", given] if given else []
    return text.clean(shlex.join(["experiments", *words, "restore", each.key]))


def _each(
    items: Sequence[Any], act: Callable[[Any], Any]
) -> tuple[list[Any], list[ExperimentTrackingError | OSError]]:
    """Do something with each; what one fails with does not keep the others."""
    done: list[Any] = []
    problems: list[ExperimentTrackingError | OSError] = []
    for item in items:
        try:
            done.append(act(item))
        except (ExperimentTrackingError, OSError) as error:
            problems.append(error)
    return done, problems


def _outcome(problems: Sequence[Exception]) -> int:
    for problem in problems:
        say(str(problem))
    return FAILED if problems else DONE


# ---------------------------------------------------------------------- restore


def restore(args: argparse.Namespace) -> int:
    """Bring runs back; without words list what is in the trash."""
    from experiment_tracking.folder.layout import RunFolder
    from experiment_tracking.upkeep import trash

    if not args.runs and not args.all:
        return _list(args)
    if args.runs and args.all:
        raise InvalidValueError("Name runs of the trash, or say --all, not both.")
    if args.name is not None and (args.all or len(args.runs) > 1):
        raise InvalidValueError("--name is for one run. Restore them one by one.")
    root = near_root(given_root(args))
    unread: list[Unreadable] = []
    found = trash.trashed(root, unread) if args.all else trash.find_all_trashed(root, args.runs)
    paths, problems = _each(found, lambda each: trash.restore(root, each, args.name))
    if args.json:
        json_out([{"path": path} for path in paths])
    else:
        for folder in map(RunFolder, paths):
            print(text.clean(f"{folder.project}/{folder.name} is back"))
    return _outcome([*_errors(unread), *problems])


def near_root(given: str | None) -> str:
    """Return the root, which must be a folder of this machine."""
    from experiment_tracking.folder import layout
    from experiment_tracking.folder.layout import is_url

    if given and is_url(given):
        raise InvalidValueError(
            f"{given} is far, and far roots are only read. Do it where that store can be "
            "written, or sync it to a folder of this machine first: experiments sync"
        )
    return layout.existing_root(layout.find_root(given))


def _list(args: argparse.Namespace) -> int:
    from experiment_tracking.upkeep.trash import trashed
    from experiment_tracking.upkeep.usage import usage

    problems: list[Unreadable] = []
    found = trashed(near_root(given_root(args)), problems)
    sizes = [measured.size_bytes for measured in usage(each.path for each in found)]
    if args.json:
        pairs = zip(found, sizes, strict=True)
        json_out([{**to_json(each), "size_bytes": size} for each, size in pairs])
    elif found:
        _print_table(found, sizes)
    else:
        say("the trash is empty.")
    return _outcome(_errors(problems))


def _print_table(found: "Sequence[Trashed]", sizes: Sequence[int]) -> None:
    columns = [
        column_of("run", [each.key for each in found], text.clean),
        column_of("removed", [each.at for each in found], text.age),
        column_of("by", [each.by for each in found], text.clean, rank=2),
        column_of("size", sizes, text.size, rank=1),
    ]
    Screen().table(columns)


def _errors(problems: "Sequence[Unreadable]") -> list[ExperimentTrackingError]:
    return [ExperimentTrackingError(problem.reason) for problem in problems]


# ---------------------------------------------------------------------- purge


def purge(args: argparse.Namespace) -> int:
    """Delete chosen runs of the trash, after a question."""
    from experiment_tracking.upkeep import trash
    from experiment_tracking.upkeep.usage import usage

    if not args.runs and args.older_than is None and not args.all:
        raise InvalidValueError("Say which runs of the trash: RUN, --older-than 30d, or --all.")
    root = near_root(given_root(args))
    chosen = trash.to_purge(root, args.older_than, args.runs or None)
    sizes = [measured.size_bytes for measured in usage(each.path for each in chosen)]
    size = sum(sizes)
    if args.dry_run:
        return _rehearse(args, chosen, sizes)
    if chosen and not args.yes and not confirmed(f"{count(chosen)}, {text.size(size)}"):
        say("nothing was deleted.")
        return FAILED
    purged = trash.delete(root, chosen)
    if args.json:
        json_out({"deleted": purged.keys, "size_bytes": purged.size_bytes})
    else:
        print(f"{count(purged.keys)} deleted, {text.size(purged.size_bytes)} freed")
    return _outcome(_errors(purged.problems))


def _rehearse(args: argparse.Namespace, chosen: "Sequence[Trashed]", sizes: Sequence[int]) -> int:
    if args.json:
        known = [
            {**to_json(each), "size_bytes": size} for each, size in zip(chosen, sizes, strict=True)
        ]
        json_out({"dry_run": True, "runs": known, "size_bytes": sum(sizes)})
    else:
        if chosen:
            _print_table(chosen, sizes)
        say(f"{count(chosen)} ({text.size(sum(sizes))}) would be deleted, for good.")
    return DONE


def count(runs: Sequence[Any]) -> str:
    """Write how many runs there are.

    >>> count([1]), count([])
    ('1 run', '0 runs')
    """
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}"


def confirmed(what: str) -> bool:
    """Ask whether that may be deleted for good.

    Raises
    ------
    InvalidValueError
        If nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise InvalidValueError(f"This deletes {what}, for good. Nobody can be asked: say --yes.")
    print(f"Delete {what}, for good? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
