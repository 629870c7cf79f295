"""``experiments tag``, ``note`` and ``set``: correct runs that have ended."""

import argparse
import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    RUN_HELP,
    Names,
    add_filters,
    add_project,
    check_any_chosen,
    find_run,
    key_values,
    named_or_chosen,
    new_command,
)
from experiment_tracking.cli.screen import Cell, Screen, json_out, say
from experiment_tracking.errors import InvalidValueError

if TYPE_CHECKING:
    from experiment_tracking.folder.amendments import Amendment
    from experiment_tracking.registry.edit import Edit
    from experiment_tracking.registry.record import RunRecord

_TAG_EXAMPLES = """
experiments tag latest -t paper -t "table=2"
experiments tag digits/lr-0.1 digits/lr-0.01 -t sweep=a -r draft
experiments tag --project digits --where 'val/loss < 0.1' -t paper
"""
_NOTE_EXAMPLES = """
experiments note latest
experiments note latest "diverged after a driver update"
experiments note digits/lr-0.1 "repeated as lr-0.1-2" --append
"""
_SET_EXAMPLES = """
experiments set digits/lr-0.1 lr=0.1 model.depth=3
experiments set digits/lr-0.1 --remove lrr
experiments set best:val/acc --metric test/acc=0.93
experiments set latest --metric val/loss=0.1 --step 10
"""


def add(commands: Any) -> None:
    """Add the commands."""
    summary = "set and remove tags of runs that have ended"
    tags = new_command(commands, "tag", tag, summary, _TAG_EXAMPLES, one_root=True)
    tags.add_argument("runs", nargs="*", metavar="RUN", help=f"{RUN_HELP}; or conditions as below")
    _add_repeated(tags, "-t", "--tag", "T", "set T, or KEY=VALUE")
    _add_repeated(tags, "-r", "--remove", "T", "remove the tag T")
    add_project(tags, positional=False)
    add_filters(tags, tag=False)

    summary = "write the notes of a run, or print them"
    notes = new_command(commands, "note", note, summary, _NOTE_EXAMPLES, one_root=True)
    notes.add_argument("run", metavar="RUN", help=RUN_HELP)
    notes.add_argument("text", nargs="?", metavar="TEXT", help="what they are to say")
    notes.add_argument("--append", action="store_true", help="behind what they say now")

    summary = "correct params of a run, or log a metric late"
    values = new_command(commands, "set", set_values, summary, _SET_EXAMPLES, one_root=True)
    values.add_argument("run", metavar="RUN", help=RUN_HELP)
    values.add_argument(
        "params", nargs="*", metavar="NAME=VALUE", help="of a nested param MODEL.DEPTH=3"
    )
    values.add_argument(
        "-r",
        "--remove",
        action=Names,
        default=[],
        metavar="PARAM",
        help="remove the param; may be repeated",
    )
    _add_repeated(values, "-m", "--metric", "NAME=NUMBER", "a row behind all others")
    values.add_argument(
        "--step", type=int, metavar="N", help="of the metrics; by default the last step + 1"
    )
    for parser in (tags, notes, values):
        parser.add_argument("--force", action="store_true", help="also a run that reads running")


def _add_repeated(
    parser: argparse.ArgumentParser, short: str, name: str, metavar: str, what: str
) -> None:
    parser.add_argument(
        short, name, action="append", default=[], metavar=metavar, help=f"{what}; may be repeated"
    )


def tag(args: argparse.Namespace) -> int:
    """Set and remove tags."""
    if not args.tag and not args.remove:
        raise InvalidValueError("No tag is given. Write -t NAME, -t KEY=VALUE or -r NAME.")
    tags = {name: value for name, _, value in (word.partition("=") for word in args.tag)}
    if "" in tags:
        raise InvalidValueError("A tag needs a name. Write -t NAME or -t KEY=VALUE.")
    check_any_chosen(args)
    runs = named_or_chosen(args)
    return _edit(args, runs, lambda e: e.set_tags(tags) + e.remove_tags(*args.remove))


def note(args: argparse.Namespace) -> int:
    """Write notes, or print what they say."""
    run = find_run(args, args.run)
    if args.text is None:
        if args.append:
            raise InvalidValueError("--append needs the text to append.")
        return _print_notes(args, run)

    def write(edit: "Edit") -> "list[Amendment]":
        known = edit.run.notes if args.append else ""
        return edit.set_notes(f"{known}\n{args.text}" if known else args.text)

    return _edit(args, [run], write)


def _print_notes(args: argparse.Namespace, run: "RunRecord") -> int:
    if args.json:
        json_out({"run": run.key, "notes": run.notes})
    elif run.notes:
        for line in run.notes.splitlines():
            print(text.clean(line))
    else:
        say(f"{run.key} has no notes.")
    return DONE


def set_values(args: argparse.Namespace) -> int:
    """Correct params, log late metrics."""
    if not (args.params or args.metric or args.remove):
        raise InvalidValueError("Nothing is given to set. Write lr=0.1, or --metric val/loss=0.1.")
    if args.step is not None and not args.metric:
        raise InvalidValueError("--step is the step of a --metric; none is given.")
    params, metrics = key_values(args.params), dict(map(_metric, args.metric))
    run = find_run(args, args.run)
    _check_removable(run, args.remove)
    known = _param_names(run)

    def write(edit: "Edit") -> "list[Amendment]":
        corrected = (edit.set_param(name, value) for name, value in params.items())
        late = (edit.log_metric(name, value, args.step) for name, value in metrics.items())
        changes = [each for changes in (*corrected, *late) for each in changes]
        return changes + edit.remove_params(*args.remove)

    code = _edit(args, [run], write)
    for name in params:
        if name not in known:
            _say_new(run, name, known)
    return code


def _param_names(run: "RunRecord") -> list[str]:
    """Names of the params, and of those that hold others."""
    from experiment_tracking.registry.record import flat

    def above(name: str) -> Iterable[str]:
        return (name[:place] for place, char in enumerate(name) if char == ".")

    leaves = list(flat(run.params))
    return list(dict.fromkeys([*leaves, *(each for name in leaves for each in above(name))]))


def _check_removable(run: "RunRecord", names: Iterable[str]) -> None:
    from experiment_tracking.registry.columns import near

    known = _param_names(run)
    for name in names:
        if name not in known:
            raise InvalidValueError(f"Run {run.key} has no param {name!r}. {near(name, known)}")


def _say_new(run: "RunRecord", name: str, known: list[str]) -> None:
    from experiment_tracking.registry.columns import near

    say(f"{name} is a new param of {run.key}. {near(name, known) if known else ''}".rstrip())


def _metric(word: str) -> tuple[str, float]:
    name, _, value = word.partition("=")
    with contextlib.suppress(ValueError):
        if name.strip():
            return name, float(value)
    raise InvalidValueError(f"{word!r} is no NAME=NUMBER. Write val/loss=0.1.")


def _edit(
    args: argparse.Namespace,
    runs: "Iterable[RunRecord]",
    change: Callable[["Edit"], "list[Amendment]"],
) -> int:
    from experiment_tracking.registry.edit import Edit

    # All are found, and free to be changed, before the first one is.
    edits = [Edit(run, args.force) for run in runs]
    done = [(edit.run.key, change(edit)) for edit in edits]
    if args.json:
        json_out([{"run": key, **each} for key, changes in done for each in changes])
        return DONE
    screen = Screen()
    for key, changes in done:
        for each in changes:
            screen.line(Cell(text.clean(key), "bold"), Cell(f": {in_words(each)}"))
        if not changes:
            say(f"{key}: it is so already; nothing was changed.")
    return DONE


def in_words(amendment: "Amendment") -> str:
    """Write what was changed: the kind, the name, old value → new value."""
    from experiment_tracking.folder.values import shown_name

    kind, name = amendment["kind"], amendment["name"]
    what = kind if kind == name else f"{kind} {text.clean(shown_name(name))}"
    step = f" at step {amendment['step']}" if kind == "metric" else ""
    write = text.tag if kind == "tag" else text.param_or_nothing
    sides = ("old", "new")
    old, new = (write(amendment[s]) if s in amendment else text.NOTHING for s in sides)
    return f"{what}{step}: {old} → {new}"
