"""``experiments du`` and ``experiments gc``: where the space goes, and what may be cleared away."""

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    FAILED,
    Names,
    add_filters,
    add_project,
    check_project,
    chosen_runs,
    given_root,
    new_command,
    registry_of,
    say_problems,
)
from experiment_tracking.cli.moving import key_of
from experiment_tracking.cli.screen import Cell, Screen, column_of, json_out, say
from experiment_tracking.cli.trash import add_older_than, count, near_root, to_json
from experiment_tracking.errors import InvalidValueError

if TYPE_CHECKING:
    from experiment_tracking.registry.registry import ExperimentRegistry
    from experiment_tracking.registry.summary import Unreadable
    from experiment_tracking.upkeep.gc import Plan, Verdict
    from experiment_tracking.upkeep.usage import Usage

_DU_EXAMPLES = """
experiments du
experiments du digits --sort tensorboard
experiments du --json | jq .size_bytes
"""
_GC_EXAMPLES = """
experiments gc --older-than 30d --dry-run
experiments gc --older-than 30d --keep-best val/loss:5 --status failed --status finished
experiments gc digits --older-than 2w --keep-tag paper --where 'lr > 1'
"""


def add(commands: Any) -> None:
    """Add both commands."""
    parser = new_command(commands, "du", du, "show how much space runs take", _DU_EXAMPLES)
    add_project(parser)
    parser.add_argument(
        "--sort",
        default="size",
        metavar="KIND",
        help="size (default), files, run, or a kind: history, tensorboard, artifacts, models, "
        "figures, code, console, other",
    )
    _add_gc(commands)


def _add_gc(commands: Any) -> None:
    parser = new_command(
        commands, "gc", gc, "move old runs that nobody needs to the trash", _GC_EXAMPLES,
        one_root=True,
    )  # fmt: skip
    add_project(parser)
    add_filters(parser, status=False)
    add_older_than(parser, "runs that ended longer ago than that")
    parser.add_argument(
        "--keep-best",
        metavar="METRIC[:N]",
        help="the best N runs of each project stay (1); METRIC:max or METRIC:min:N without a goal",
    )
    parser.add_argument(
        "--keep-tag",
        action="append",
        default=[],
        metavar="T",
        help="runs with the tag T, or with KEY=VALUE, stay",
    )
    parser.add_argument(
        "--status",
        action=Names,
        metavar="S,T",
        help="only these may go; failed, killed and crashed unless it is given; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would go")


# ---------------------------------------------------------------------- du


def du(args: argparse.Namespace) -> int:
    """Print the size of each run, the largest first, and of all."""
    from experiment_tracking.folder import layout
    from experiment_tracking.upkeep.usage import usage

    for root in args.roots or [None]:
        near_root(root)
    registry = registry_of(args)
    check_project(registry, args.project)
    problems: list[Unreadable] = []
    folders: list[Any] = [f for r in registry.roots for f in layout.iter_runs(r, args.project)]
    if not args.project:
        folders += [path for root in registry.roots for path in layout.iter_models(root)]
    rows = _sorted(usage(folders, problems), args.sort)
    trash = None if args.project else _trash_bytes(registry)
    if args.json:
        json_out(_as_json(rows, trash))
    else:
        _print(rows, trash)
    for problem in problems:
        say(problem.reason)
    return FAILED if problems else DONE


def _sorted(rows: "Sequence[Usage]", column: str) -> "list[Usage]":
    from experiment_tracking.upkeep.usage import KINDS

    name = column.removeprefix("-")
    if name == "run":
        return sorted(rows, key=lambda row: row.key, reverse=name != column)
    if name not in ("size", "files", *KINDS):
        known = ", ".join(("size", "files", "run", *KINDS))
        raise InvalidValueError(f"There is no column {name!r} to sort by. Allowed: {known}.")
    numbers = {"size": lambda row: row.size_bytes, "files": lambda row: row.files}
    number = numbers.get(name, lambda row: row.kinds.get(name, 0))
    return sorted(rows, key=number, reverse=name == column)


def _trash_bytes(registry: "ExperimentRegistry") -> int:
    from experiment_tracking.upkeep.trash import trashed
    from experiment_tracking.upkeep.usage import usage

    found = [each.path for root in registry.roots for each in trashed(root)]
    return sum(row.freed_bytes for row in usage(found))


def _totals(rows: "Sequence[Usage]") -> "Counter[str]":
    return sum((Counter(row.kinds) for row in rows), Counter())


def _as_json(rows: "Sequence[Usage]", trash: int | None) -> dict[str, Any]:
    runs = [{"run": row.key, **row._asdict()} for row in rows]
    known = {"runs": runs, "size_bytes": sum(row.size_bytes for row in rows)}
    known |= {"files": sum(row.files for row in rows), "kinds": dict(_totals(rows))}
    return known if trash is None else {**known, "trash_bytes": trash}


def _print(rows: "Sequence[Usage]", trash: int | None) -> None:
    screen = Screen()
    if rows:
        totals = dict(_totals(rows).most_common())
        total = "total"
        columns = [
            column_of("run", [*(text.clean(row.key) for row in rows), total], str),
            column_of("size", [*(row.size_bytes for row in rows), sum(totals.values())], text.size),
            column_of("files", [*(row.files for row in rows), sum(r.files for r in rows)], str),
            column_of("mostly", [*(_mostly(row.kinds) for row in rows), _mostly(totals)], str),
        ]
        screen.table([columns[0], *(c._replace(rank=i) for i, c in enumerate(columns[1:], 1))])
    else:
        say("there are no runs here.")
    if trash:
        screen.line(Cell(f"{text.size(trash)} in the trash; experiments purge frees them.", "dim"))


def _mostly(kinds: dict[str, int]) -> str:
    """Name the two largest kinds."""
    return ", ".join(f"{kind} {text.size(size)}" for kind, size in list(kinds.items())[:2])


# ---------------------------------------------------------------------- gc


def gc(args: argparse.Namespace) -> int:
    """Move runs to the trash, or only show which."""
    from experiment_tracking.upkeep.gc import ENDED_BADLY
    from experiment_tracking.upkeep.gc import gc as plan_of

    if args.older_than is None and args.keep_best is None and args.status is None:
        raise InvalidValueError(
            "Say which runs may go: --older-than 30d, --keep-best val/loss:5 or --status failed."
        )
    near_root(given_root(args))
    runs = chosen_runs(args, registry_of(args))
    say_problems(runs)
    plan = plan_of(runs, args.older_than, args.keep_best, args.keep_tag, args.status or ENDED_BADLY)
    sizes = _sizes(plan)
    moved = [] if args.dry_run else plan.apply()
    if args.json:
        verdicts = [_verdict_to_json(verdict, sizes) for verdict in plan.verdicts]
        json_out({"runs": verdicts, "moved": [to_json(each) for each in moved]})
    else:
        _print_plan(plan, sizes, None if args.dry_run else len(moved))
    for problem in plan.problems:
        say(problem.reason)
    return FAILED if plan.problems else DONE


def _sizes(plan: "Plan") -> dict[str, int]:
    from experiment_tracking.upkeep.usage import usage

    return {row.path: row.size_bytes for row in usage(plan.going)}


def _verdict_to_json(verdict: "Verdict", sizes: dict[str, int]) -> dict[str, Any]:
    path = verdict.run.folder.path
    known = {"run": key_of(verdict.run.folder), "path": path, "goes": verdict.goes}
    return {**known, "reason": verdict.reason, "size_bytes": sizes.get(path)}


def _print_plan(plan: "Plan", sizes: dict[str, int], moved: int | None) -> None:
    going = [verdict for verdict in plan.verdicts if verdict.goes]
    if going:
        folders = [verdict.run.folder for verdict in going]
        columns = [
            column_of("run", [key_of(folder) for folder in folders], text.clean),
            column_of("why", [verdict.reason for verdict in going], text.clean, rank=2),
            column_of("size", [sizes[folder.path] for folder in folders], text.size, rank=1),
        ]
        Screen().table(columns)
    size = text.size(sum(sizes.values()))
    if moved is None:
        say(f"{len(going)} of {count(plan.verdicts)} ({size}) would go to the trash.")
    else:
        say(f"{moved} of {count(plan.verdicts)} went to the trash. experiments restore lists it.")
