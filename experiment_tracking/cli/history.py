"""``experiments history``: the rows of runs."""

import argparse
from datetime import datetime
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    RUN_HELP,
    Names,
    add_filters,
    add_project,
    named_or_chosen,
    new_command,
    say_problems,
)
from experiment_tracking.cli.screen import Screen, column_of, json_out

if TYPE_CHECKING:
    import pandas as pd

    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.runset import RunSet

_EXAMPLES = """
experiments history latest
experiments history latest --metrics val/loss,val/acc --points 20
experiments history digits/a digits/b --metrics val/loss --wide
experiments history latest --csv > rows.csv
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands, "history", history, "print the rows of one run or several", _EXAMPLES
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"{RUN_HELP}; or conditions as below"
    )
    add_project(parser, positional=False)
    add_filters(parser)
    parser.add_argument(
        "--metrics", action=Names, metavar="A,B", help="these alone; by default all"
    )
    parser.add_argument(
        "--axis",
        metavar="AXIS",
        help="order by step, time, relative (seconds since the start) or a metric",
    )
    parser.add_argument(
        "--points", type=int, metavar="N", help="at most about N rows of each curve"
    )
    parser.add_argument(
        "--wide", action="store_true", help="a column per run instead of a row per number"
    )
    parser.add_argument("--csv", action="store_true", help="print CSV")


def history(args: argparse.Namespace) -> int:
    """Print the rows: of one run a column per metric, of several a row per number."""
    runs = named_or_chosen(args)
    metrics, common = args.metrics, ""
    one = len(runs) == 1 and not args.wide
    if one and args.points is None and args.axis is None:
        columns = _as_logged(runs[0], metrics)
    elif one:
        columns = _columns(runs[0].history(metrics, axis=args.axis, points=args.points))
    elif args.wide:
        columns = _columns(runs.history(metrics, True, args.axis, args.points).reset_index())
        common = _common_project(runs)
    else:
        # Every row has its value here, NaN too.
        frame = runs.history(metrics, False, args.axis, args.points)
        columns = {str(name): frame[name].tolist() for name in frame}
    _print(args, columns, common)
    say_problems(runs)
    return DONE


def _as_logged(record: "RunRecord", metrics: list[str] | None) -> dict[str, list[Any]]:
    """Return the rows as they were logged, in which NaN is not the same as nothing."""
    from experiment_tracking.folder.values import RESERVED, from_stored, shown_name
    from experiment_tracking.registry.columns import find_metric
    from experiment_tracking.registry.compare import beside

    rows = record.rows()
    known = {shown_name(name): name for row in rows for name in row if name not in RESERVED}
    wanted = list(known) if metrics is None else [find_metric(name, known) for name in metrics]
    stored = [known[name] for name in wanted]
    rows = [row for row in rows if metrics is None or not row.keys().isdisjoint(stored)]
    columns = {name: [row[name] for row in rows] for name in ("step", "time")}
    values = {name: [from_stored(row.get(known[name])) for row in rows] for name in wanted}
    return beside(columns, values)


def _columns(frame: "pd.DataFrame") -> dict[str, list[Any]]:
    names = [n if isinstance(n, str) else " ".join(filter(None, n)) for n in frame.columns]
    values = (frame.iloc[:, place].tolist() for place in range(len(names)))
    return {
        name: [None if value != value else value for value in column]
        for name, column in zip(names, values, strict=True)
    }


def _common_project(runs: "RunSet") -> str:
    """Return what the names of all runs begin with, and which a header need not repeat."""
    projects = set(runs.column("project"))
    return f"{projects.pop()}/" if len(projects) == 1 else ""


def _print(args: argparse.Namespace, columns: dict[str, list[Any]], common: str) -> None:
    if args.csv:
        from experiment_tracking.registry.text_tables import to_csv

        print(to_csv(columns), end="")
    elif args.json:
        rows = zip(*columns.values(), strict=True)
        json_out([_present(dict(zip(columns, row, strict=True))) for row in rows])
    else:
        writers = {"time": clock}
        shown = [
            column_of(name.removeprefix(common), values, writers.get(name, _write))
            for name, values in columns.items()
        ]
        Screen().table(shown)


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the metrics that a row does not have."""
    return {name: value for name, value in row.items() if value is not None}


def clock(seconds: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Write Unix seconds in this machine's time zone; as a number if no calendar has them."""
    try:
        return datetime.fromtimestamp(seconds).strftime(form)
    except (ValueError, OverflowError, OSError):
        return text.number(seconds)


def _write(value: Any) -> str:
    return text.number(value) if isinstance(value, float) else text.param_or_nothing(value)
