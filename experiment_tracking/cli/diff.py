"""``experiments diff``: what is different between two runs, their code too."""

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import DONE, RUN_HELP, Names, find_run, new_command
from experiment_tracking.cli.screen import GAP, INDENT, Cell, Column, Screen, json_out, say

if TYPE_CHECKING:
    from experiment_tracking.registry.code_diff import CodeDiff, FileDiff
    from experiment_tracking.registry.diff import Change, Changes, RunDiff

_EXAMPLES = """
experiments diff latest~1 latest
experiments diff digits/lr-0.1 digits/lr-0.01 --stat
experiments diff best:val/loss latest --only params,code
experiments diff latest~1 latest --json | jq .packages
"""
_MOST_LINES = 200
_NARROWEST = 12
_BEFORE_THE_CHANGE = 8
_LINE_STYLES = {"+": "green", "-": "red", "@": "cyan"}


def add(commands: Any) -> None:
    """Add the command."""
    summary = "tell what differs between two runs: params, metrics, code, packages, machine"
    parser = new_command(commands, "diff", diff, summary, _EXAMPLES)
    parser.add_argument("a", metavar="A", help=RUN_HELP)
    parser.add_argument("b", metavar="B", help="the other one; differences go from A to B")
    parser.add_argument("--stat", action="store_true", help="of files only how many lines differ")
    parser.add_argument(
        "--only",
        action=Names,
        metavar="S,T",
        help="of params, metrics, tags, inputs, packages, environment, hardware, code",
    )


def diff(args: argparse.Namespace) -> int:
    """Print what differs between two runs."""
    from experiment_tracking.registry.diff import SECTIONS, RunDiff

    wanted = _wanted(args.only) if args.only else SECTIONS
    found = RunDiff(find_run(args, args.a), find_run(args, args.b))
    if args.json:
        json_out(found.to_dict(wanted))
    else:
        _print(found, wanted, stat=args.stat)
    return DONE


def _wanted(only: Sequence[str]) -> list[str]:
    from experiment_tracking.errors import InvalidValueError
    from experiment_tracking.registry.diff import SECTIONS

    words = list(dict.fromkeys(only))
    if unknown := [word for word in words if word not in SECTIONS]:
        raise InvalidValueError(
            f"--only takes {', '.join(SECTIONS)}, found {', '.join(map(repr, unknown))}."
        )
    return words


def _print(found: "RunDiff", wanted: Sequence[str], *, stat: bool) -> None:
    from experiment_tracking.registry.diff import equal_sections, unknown_lines

    screen = Screen()
    a, b = map(text.clean, found.names)
    screen.line(Cell(a, "bold"), Cell(" → "), Cell(b, "bold"))
    for section in wanted:
        if found[section] and section == "code":
            _print_code(found.code, screen, stat=stat)
        elif found[section]:
            _print_changes(found, section, screen)
    if equal := equal_sections(found, wanted):
        say(f"no difference in {', '.join(equal)}.")
    for line in unknown_lines(found, wanted):
        say(line)


# ---------------------------------------------------------------------- names and values


def _print_changes(found: "RunDiff", section: str, screen: Screen) -> None:
    from experiment_tracking.registry.diff import difference_text

    changes: Changes = found[section]
    screen.heading("metrics, last values" if section == "metrics" else section)
    columns = [Column("", [Cell(text.clean(name), "dim") for name in changes])]
    last = []
    if section == "metrics":
        cells = [Cell(difference_text(change)) for change in changes.values()]
        last.append(Column("b - a", cells, right=True))
    room = screen.width - sum(column.width + len(GAP) for column in [*columns, *last])
    width = max(_NARROWEST, (room - len(INDENT) - len(GAP)) // 2)
    write = text.tag if section == "tags" else _value
    pairs = [_pair(change, width, write) for change in changes.values()]
    for side, name in enumerate(found.names):
        cells = [Cell(pair[side]) for pair in pairs]
        columns.append(Column(text.cut(text.clean(name), width), cells, section == "metrics"))
    screen.table([*columns, *last], INDENT)


def _pair(change: "Change", width: int, write: Callable[[Any], str]) -> tuple[str, str]:
    """Write two values in at most ``width`` cells each, long ones from where they part."""
    from experiment_tracking.registry.diff import common_length, shown_apart

    first, second = write(change.a), write(change.b)
    if first == second:
        first, second = shown_apart(change)
    if max(text.width_of(first), text.width_of(second)) > width:
        common = common_length(first, second) - _BEFORE_THE_CHANGE
        if common > 1:
            first, second = "…" + first[common:], "…" + second[common:]
    return text.cut(first, width), text.cut(second, width)


def _value(value: Any) -> str:
    from experiment_tracking.registry.diff import shown

    if value is None:
        return text.NOTHING
    return text.number(value) if type(value) is float else shown(value)


# ---------------------------------------------------------------------- code


def _print_code(code: "CodeDiff", screen: Screen, *, stat: bool) -> None:
    screen.heading("code")
    if code.commits:
        screen.line(Cell(f"{INDENT}commit {code.commits[0][:12]} → {code.commits[1][:12]}"))
    for line in code.log:
        screen.line(Cell(INDENT * 2 + text.clean(line), _LINE_STYLES.get(line[:1], "")))
    _print_files(code.files, screen)
    if not stat:
        _print_lines(code.files, screen)


def _print_files(files: "Sequence[FileDiff]", screen: Screen) -> None:
    from experiment_tracking.registry.diff import file_title

    for file in files:
        screen.line(Cell(INDENT + file_title(file)))


def _print_lines(files: "Sequence[FileDiff]", screen: Screen) -> None:
    from experiment_tracking.registry.diff import visible_line
    from experiment_tracking.registry.wording import plural

    told = [file for file in files if file.text and not file.is_long_data]
    lines = [line for file in told for line in ["", *file.text.split("\n")]]
    shown = lines[:_MOST_LINES] if screen.is_terminal else lines
    for line in shown:
        style = "bold" if line.startswith(("--- ", "+++ ")) else _LINE_STYLES.get(line[:1], "")
        screen.line(Cell(visible_line(line), style))
    if more := len(lines) - len(shown):
        lines_more, verb = plural(more, "more line"), "differs" if more == 1 else "differ"
        say(f"{lines_more} of code {verb}; a pipe has them all (| less), and --json.")
    if data := sum(file.is_long_data for file in files):
        say(f"the lines of {plural(data, 'data file')} are in --json alone.")
