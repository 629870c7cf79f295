"""``experiments mv`` and ``experiments rename``: another project or name for runs."""

import argparse
import os
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.command import DONE, RUN_HELP, find_run, new_command, registry_of
from experiment_tracking.cli.screen import json_out
from experiment_tracking.cli.text import clean
from experiment_tracking.errors import RunNotFoundError

if TYPE_CHECKING:
    from experiment_tracking.folder.layout import RunFolder

_MV_EXAMPLES = """
experiments mv digits/lr-0.1 archive
experiments mv latest latest~1 archive
"""
_RENAME_EXAMPLES = """
experiments rename digits/lr-0.1 baseline
experiments rename latest "wide net"
"""


def add(commands: Any) -> None:
    """Add both commands."""
    parser = new_command(
        commands, "mv", mv, "move runs to another project", _MV_EXAMPLES, one_root=True
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=RUN_HELP)
    parser.add_argument("project", metavar="PROJECT", help="made where there is none")
    add_force(parser)
    parser = new_command(
        commands, "rename", rename, "give a run another name", _RENAME_EXAMPLES, one_root=True
    )
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("name", metavar="NEW", help="its new name; a taken one is refused")
    add_force(parser)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the option that moves runs which read running."""
    parser.add_argument("--force", action="store_true", help="also a run that reads running")


def mv(args: argparse.Namespace) -> int:
    """Move runs; all are found before the first one moves."""
    from experiment_tracking.registry.moves import move

    folders = [find_folder(args, key) for key in args.runs]
    _tell(args, [(folder, move(folder, args.project, args.force)) for folder in folders])
    return DONE


def rename(args: argparse.Namespace) -> int:
    """Rename a run."""
    folder = find_folder(args, args.run)
    _tell(args, [(folder, _renamed(folder, args.name, args.force))])
    return DONE


def _renamed(folder: "RunFolder", name: str, force: bool) -> str:
    from experiment_tracking.errors import DamagedError
    from experiment_tracking.registry.edit import Edit
    from experiment_tracking.registry.moves import rename
    from experiment_tracking.registry.record import RunRecord

    try:
        edit = Edit(RunRecord(folder.path), force)
    except (DamagedError, OSError):  # nothing is kept in a run that cannot be read
        return rename(folder, name, force)
    edit.rename(name)
    return edit.run.folder.path


def find_folder(args: argparse.Namespace, key: str) -> "RunFolder":
    """Return a run's folder; one too damaged to be read is found by path and project/name."""
    from experiment_tracking.folder.layout import RunFolder

    path = RunFolder(os.path.expanduser(key))
    below = [RunFolder(os.path.join(root, key)) for root in _roots(args) if key.count("/") == 1]
    there = {os.path.realpath(f.path): f for f in (path, *below) if f.exists()}
    if len(there) > 1:  # What is moved or removed must not be the one that was not meant.
        paths = ", ".join(folder.path for folder in there.values())
        raise RunNotFoundError(f"Several runs answer to {key!r}: {paths}. Give the whole path.")
    return next(iter(there.values()), None) or find_run(args, key).folder


def _roots(args: argparse.Namespace) -> list[str]:
    from experiment_tracking.errors import RootNotFoundError

    try:
        return registry_of(args).roots
    except RootNotFoundError:  # A path needs none.
        return []


def _tell(args: argparse.Namespace, moved: "list[tuple[RunFolder, str]]") -> None:
    from experiment_tracking.folder.layout import RunFolder

    pairs = [(key_of(old), key_of(RunFolder(new)), new) for old, new in moved]
    if args.json:
        json_out([{"from": old, "run": new, "path": path} for old, new, path in pairs])
        return
    for old, new, _ in pairs:
        print(f"{clean(old)} is now {clean(new)}")


def key_of(folder: "RunFolder") -> str:
    """Return ``project/name``."""
    return f"{folder.project}/{folder.name}"
