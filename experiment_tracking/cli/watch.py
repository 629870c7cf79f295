"""``experiments tail`` and ``experiments watch``: rows and runs as they come."""

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    RUN_HELP,
    Names,
    add_project,
    check_project,
    find_run,
    new_command,
    registry_of,
    say_problems,
    status_style,
    status_text,
)
from experiment_tracking.cli.history import clock
from experiment_tracking.cli.screen import GAP, Cell, Column, Screen, column_of, fit, json_out, say

if TYPE_CHECKING:
    from rich.text import Text

    from experiment_tracking.folder.history import Row
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.registry import ExperimentRegistry
    from experiment_tracking.registry.runset import RunSet

_NO_RUNS = "there are no runs here yet."
_OWN = ("step", "time", "attempt")
_NUMBER_WIDTH = 11
_METRICS = 4
_RATED_ROWS = 100
_LINES_BESIDE_TABLE = 3
_TAIL_EXAMPLES = """
experiments tail latest
experiments tail digits/lr-0.1 -n 50 --metrics train/loss,val/loss
experiments tail latest --follow --json | jq -c '[.step, ."val/loss"]'
"""
_WATCH_EXAMPLES = """
experiments watch
experiments watch digits --interval 5 --metrics val/loss,val/acc
experiments watch --once --json
"""


def add(commands: Any) -> None:
    """Add both commands."""
    parser = new_command(
        commands, "tail", tail, "print the last rows of a run, and those to come", _TAIL_EXAMPLES
    )
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("-n", type=_count, default=20, metavar="N", help="how many rows (20)")
    parser.add_argument(
        "--metrics", action=Names, metavar="A,B", help="rows and columns of these alone"
    )
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on until the run ends, or Ctrl-C"
    )
    parser = new_command(
        commands, "watch", watch, "show runs as they go, the running ones first", _WATCH_EXAMPLES
    )
    add_project(parser)
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="S", help="seconds between two looks (2)"
    )
    parser.add_argument(
        "-n", "--limit", type=_count, default=20, metavar="N", help="most runs shown (20)"
    )
    parser.add_argument(
        "--metrics", action=Names, metavar="A,B", help="these instead of the commonest"
    )
    parser.add_argument("--once", action="store_true", help="look once")


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 0 on")
    return int(word)


def _seconds(word: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(word)) < 1e6:
            return seconds
    raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds above 0")


# ---------------------------------------------------------------------- tail


def tail(args: argparse.Namespace) -> int:
    """Print rows; one JSON object a line with ``--json``."""
    from experiment_tracking.registry.live import follow, last_rows

    record = find_run(args, args.run)
    metrics = _wanted(args.metrics, record)
    show = _json_lines(metrics) if args.json else _Rows(metrics).show
    with contextlib.suppress(KeyboardInterrupt):
        if not args.follow:
            show(last_rows(record.folder, args.n, metrics))
            return DONE
        for rows in follow(record, args.n, metrics):
            show(rows)
            sys.stdout.flush()
        say(f"{record.key} {record.status}.")
    return DONE


def _wanted(names: Sequence[str] | None, record: "RunRecord") -> list[str] | None:
    """Return stored names; of a run without rows nobody can tell yet whether they are right."""
    from experiment_tracking.folder.values import stored_name
    from experiment_tracking.registry.columns import find_metric

    if names is None:
        return None
    known = record.metric_names
    return [stored_name(find_metric(name, known) if known else name) for name in names]


def _json_lines(metrics: Sequence[str] | None) -> "Callable[[Sequence[Row]], None]":
    def show(rows: "Sequence[Row]") -> None:
        for row in rows:
            print(json.dumps(_narrowed(row, metrics)))

    return show


def _narrowed(row: "Row", metrics: Sequence[str] | None) -> "Row":
    return row if metrics is None else {k: v for k, v in row.items() if k in (*_OWN, *metrics)}


class _Rows:
    """Rows below each other in columns; a header wherever the columns change.

    Parameters
    ----------
    metrics
        Stored names of the columns; by default those that are met.
    """

    def __init__(self, metrics: Sequence[str] | None) -> None:
        self._screen = Screen()
        self._takes_all = metrics is None
        self._widths = {name: _least_width(name) for name in ("step", "time", *(metrics or ()))}
        self._shown: list[str] = []
        self._left_out: set[str] = set()

    def show(self, rows: "Sequence[Row]") -> None:
        """Print rows."""
        before = dict(self._widths) if self._shown else {}
        for row in rows:
            for name in row if self._takes_all else row.keys() & {*self._widths, "attempt"}:
                width = max(_least_width(name), text.width_of(_written(row, name)))
                self._widths[name] = max(width, self._widths.get(name, 0))
        if self._widths != before:
            self._fit()
            self._line([Cell(self._pad(name, _header(name)), "bold") for name in self._shown])
        for row in rows:
            self._line([Cell(self._pad(name, _written(row, name))) for name in self._shown])

    def _fit(self) -> None:
        """Choose the columns that have room, as they come; say once which have none."""
        room, self._shown = self._screen.width, []
        for name, width in self._widths.items():
            if width <= room:
                self._shown.append(name)
                room -= width + len(GAP)
        left_out = self._widths.keys() - {*self._shown, *self._left_out}
        if left_out:
            self._left_out |= left_out
            say(f"no room for {', '.join(map(_header, sorted(left_out)))}. --metrics chooses.")

    def _pad(self, name: str, value: str) -> str:
        return text.pad(value, self._widths[name], right=True)

    def _line(self, cells: Sequence[Cell]) -> None:
        self._screen.line(*(part for cell in cells for part in (cell, Cell(GAP))))


def _least_width(name: str) -> int:
    return max(text.width_of(_header(name)), 0 if name in _OWN else _NUMBER_WIDTH)


def _header(name: str) -> str:
    from experiment_tracking.folder.values import shown_name

    shown = shown_name(name)
    # A metric that is itself called time keeps its prefix: the column time is another.
    return name if shown in _OWN else text.clean(shown)


def _written(row: "Row", name: str) -> str:
    if name == "time":
        return clock(row["time"], "%H:%M:%S")
    return _number(row.get(name))


def _number(value: Any) -> str:
    from experiment_tracking.folder.values import from_stored

    return text.number(from_stored(value))


# ---------------------------------------------------------------------- watch


def watch(args: argparse.Namespace) -> int:
    """Show runs again and again, in place in a terminal."""
    registry = registry_of(args)
    check_project(registry, args.project)
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdout.isatty() and not args.json and not args.once:
            _watch_in_place(args, registry)
        else:
            _watch_in_turn(args, registry)
    return DONE


def _watch_in_turn(args: argparse.Namespace, registry: "ExperimentRegistry") -> None:
    while True:
        runs, seen, more = _look(args, registry, args.limit)
        if args.json:
            json_out(seen) if args.once else print(json.dumps(seen))
        elif seen:
            Screen().table(_table(args, seen))
            if more:
                say(_not_shown(more))
        else:
            say(_NO_RUNS)
        sys.stdout.flush()
        if args.once:
            say_problems(runs)
            return
        time.sleep(args.interval)
        if not args.json:
            print()


def _watch_in_place(args: argparse.Namespace, registry: "ExperimentRegistry") -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            room = max(1, console.height - _LINES_BESIDE_TABLE)
            _, seen, more = _look(args, registry, min(args.limit, room))
            shown = _as_text(_table(args, seen), console.width) if seen else Text(_NO_RUNS)
            shown.append(f"\n{_not_shown(more)}" if more else "", "dim")
            live.update(shown, refresh=True)
            time.sleep(args.interval)


def _not_shown(more: int) -> str:
    return f"{more} more {'run is' if more == 1 else 'runs are'} not shown; --limit N shows N."


def _look(
    args: argparse.Namespace, registry: "ExperimentRegistry", limit: int
) -> "tuple[RunSet, list[dict[str, Any]], int]":
    """Return the runs shown, their state, and how many more there are.

    The running ones come first, of these the newest.
    """
    from experiment_tracking.folder.liveness import STATUSES

    newest = registry.list_experiments(args.project, order_by="-created_at")
    running = newest.filter(status="running").limit(limit)
    others = newest.filter(status=[status for status in STATUSES if status != "running"])
    runs = running + others.limit(limit - len(running))
    unread: dict[str, Any] = {}
    seen = [seen for seen in runs.each(_facts, unread) if seen]
    return runs, seen, len(newest) - len(runs)


def _facts(record: "RunRecord") -> dict[str, Any]:
    from experiment_tracking.folder.values import shown_name
    from experiment_tracking.registry.live import last_rows

    rows = last_rows(record.folder, _RATED_ROWS)
    is_running = record.status == "running"
    span_s = rows[-1]["time"] - rows[0]["time"] if rows else 0
    metrics = record.stored_metrics.items()
    return {
        "run": record.key,
        "status": record.status,
        "status_note": record.status_note,
        "created_at": record.created_at,
        "step": rows[-1]["step"] if rows else None,
        "rows_per_s": (len(rows) - 1) / span_s if is_running and span_s > 0 else None,
        "last_row_s": max(0.0, time.time() - rows[-1]["time"]) if rows and is_running else None,
        "metrics": {shown_name(name): kept.get("last") for name, kept in metrics},
    }


def _table(args: argparse.Namespace, seen: Sequence[Mapping[str, Any]]) -> list[Column]:
    def values(name: str) -> list[Any]:
        return [run[name] for run in seen]

    states = list(map(status_text, values("status"), values("status_note")))
    styles = [status_style(status) for status in values("status")]
    columns = [
        column_of("run", values("run"), text.clean, styles=["bold"] * len(seen)),
        column_of("status", states, text.clean, rank=1, styles=styles),
        column_of("age", values("created_at"), text.age, rank=4),
        column_of("step", values("step"), text.number, rank=3),
        column_of("rows/s", values("rows_per_s"), text.number, rank=5),
        column_of("last row", values("last_row_s"), text.duration, rank=6),
    ]
    for rank, name in enumerate(_metric_names(args, seen), 7):
        numbers = [run["metrics"].get(name) for run in seen]
        columns.append(column_of(name, numbers, _number, rank=rank))
    return columns


def _metric_names(args: argparse.Namespace, seen: Sequence[Mapping[str, Any]]) -> list[str]:
    """Take the metrics asked for, else those that most of the runs have."""
    counts = Counter(name for run in seen for name in run["metrics"])
    if args.metrics is None:
        return [name for name, _ in counts.most_common(_METRICS)]
    from experiment_tracking.registry.columns import find_metric

    return [find_metric(name, counts) if counts else name for name in args.metrics]


def _as_text(columns: Sequence[Column], width: int) -> "Text":
    """Write a table as rich shows it in place."""
    from rich.text import Text

    shown, _ = fit(columns, width)
    lines = [
        Text.assemble(*((cell.text + GAP, cell.style) for cell in cells))
        for cells in zip(*(column.lines() for column in shown), strict=True)
    ]
    return Text("\n", no_wrap=True, overflow="crop").join(lines)
