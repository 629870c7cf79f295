"""``experiments aggregate``: runs that differ only in their seed as one."""

import argparse
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    Names,
    add_filters,
    add_project,
    chosen_runs,
    format_name,
    new_command,
    registry_of,
    say_problems,
    why_empty,
)
from experiment_tracking.cli.screen import Cell, Column, Screen, column_of, json_out, say
from experiment_tracking.errors import NotFoundError

if TYPE_CHECKING:
    from experiment_tracking.registry.aggregate import Aggregate, By, Group

Columns = dict[str, list[Any]]

_MARK = "*"
_EXAMPLES = """
experiments aggregate digits --metrics val/loss,val/acc --on best
experiments aggregate --over seed,data.fold --spread ci95 --format latex > table.tex
experiments aggregate --by lr,model.depth --metrics val/loss
experiments aggregate digits --metrics val/loss --curves --format csv > curves.csv
"""


def add(commands: Any) -> None:
    """Add the command."""
    summary = "average runs that differ only in their seed"
    parser = new_command(commands, "aggregate", aggregate, summary, _EXAMPLES)
    add_project(parser)
    by = parser.add_mutually_exclusive_group()
    by.add_argument(
        "--over",
        action=Names,
        metavar="A,B",
        help="params in which the runs of a group may differ; by default seed",
    )
    by.add_argument(
        "--by",
        action=Names,
        metavar="A,B",
        help="params, tags.x or run columns that make the groups; --by=-seed is --over seed",
    )
    parser.add_argument(
        "--metrics",
        action=Names,
        metavar="A,B",
        help="as loss, loss:min, best_accuracy; by default all",
    )
    parser.add_argument(
        "--on",
        choices=("last", "best", "min", "max", "mean"),
        default="last",
        help="which value of a run counts; best is by the metric's goal; default: last",
    )
    parser.add_argument(
        "--spread",
        choices=("std", "sem", "ci95"),
        default="std",
        help="what stands behind ±: standard deviation (default), standard error, or half of the "
        "mean's 95%% confidence interval",
    )
    _add_curves(parser)
    parser.add_argument(
        "--format",
        type=format_name,
        choices=("table", "markdown", "latex", "csv"),
        default="table",
        help="markdown is md too; csv has all statistics, with all digits",
    )
    add_filters(parser)


def _add_curves(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--curves", action="store_true", help="mean curves instead: a row per group and point"
    )
    parser.add_argument(
        "--x",
        default="step",
        metavar="X",
        help="axis of the curves: step (default), time, relative or a metric",
    )
    parser.add_argument(
        "--points", type=int, default=200, metavar="N", help="most points of a curve; default: 200"
    )


def aggregate(args: argparse.Namespace) -> int:
    """Print groups of runs and what their metrics come to."""
    from experiment_tracking.registry.aggregate import aggregate

    registry = registry_of(args)
    runs = chosen_runs(args, registry)
    if not runs:
        say_problems(runs)
        raise NotFoundError(why_empty(args, registry))
    found = aggregate(runs, _by(args), args.metrics, args.on)
    say_problems(runs)
    for note in found.notes:
        say(text.clean(note))
    if args.json:
        json_out(_curves_as_json(found, args) if args.curves else list(map(_as_json, found)))
    else:
        _print(found, args)
        _say_if_alone(found)
    return DONE


def _by(args: argparse.Namespace) -> "By | None":
    if args.over:
        return ["*", *(f"-{name}" for name in args.over)]
    words = args.by or [None]
    return words if len(words) > 1 else words[0]


def _say_if_alone(found: "Aggregate") -> None:
    if len(found) > 1 and all(len(group.rows) == 1 for group in found):
        say(
            "each group has one run alone. Name all params in which the runs of a group may "
            "differ: --over seed,fold, or those that make the groups: --by lr."
        )


# ---------------------------------------------------------------------- as JSON


def _as_json(group: "Group") -> dict[str, Any]:
    return {
        "group": group.values,
        "runs": group.runs.keys,
        "metrics": {asked: spread._asdict() for asked, spread in group.stats.items()},
    }


def _curves_as_json(found: "Aggregate", args: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        {"metric": metric, "group": curve.group.values, args.x: curve.axis.tolist()}
        | {
            name: getattr(curve, name).tolist()
            for name in ("n", "mean", "std", "sem", "low", "high")
        }
        for metric in _curve_metrics(found)
        for curve in found.curves(metric, args.x, args.points)
    ]


def _curve_metrics(found: "Aggregate") -> list[str]:
    """Names of the metrics, each once: a curve has no last or best value."""
    return list(dict.fromkeys(measure.metric for measure in found.measures.values()))


# ---------------------------------------------------------------------- as text


def _print(found: "Aggregate", args: argparse.Namespace) -> None:
    from experiment_tracking.registry import text_tables

    if args.format == "csv":
        columns = _curve_columns(found, args) if args.curves else found.to_columns()
        print(text_tables.to_csv(_cleaned(columns)), end="")
    elif args.curves:
        columns = _curve_columns(found, args)
        write = {"markdown": text_tables.to_markdown, "latex": text_tables.to_latex}.get(
            args.format
        )
        if write:
            print(write(columns), end="")
        else:
            Screen().table([_column(name, values) for name, values in columns.items()])
    elif args.format == "table":
        _print_table(found, args.spread)
    else:
        write_found = found.to_markdown if args.format == "markdown" else found.to_latex
        print(write_found(args.spread), end="")


def _curve_columns(found: "Aggregate", args: argparse.Namespace) -> Columns:
    columns: Columns = {}
    for metric in _curve_metrics(found):
        points = found.curve_columns(metric, args.x, args.points)
        points = {"metric": [metric] * len(points[args.x]), **points}
        for name, values in points.items():
            columns.setdefault(name, []).extend(values)
    return columns


def _cleaned(columns: Columns) -> Columns:
    """Copy columns without what a terminal would obey."""
    return {
        text.clean(name): [text.clean(v) if isinstance(v, str) else v for v in values]
        for name, values in columns.items()
    }


def _column(name: str, values: list[Any]) -> Column:
    return column_of(name, values, text.tag if name.startswith("tags.") else _written)


def _written(value: Any) -> str:
    return text.number(value) if isinstance(value, float) else text.param_or_nothing(value)


def _print_table(found: "Aggregate", spread: str) -> None:
    columns = found.to_text_columns(spread)
    labels = len(columns) - len(found.measures)
    shown = [_column(name, values) for name, values in list(columns.items())[:labels]]
    best = found.best_places()
    for metric, (name, values) in zip(found.measures, list(columns.items())[labels:], strict=True):
        cells = [Cell(value) for value in values]
        if metric in best:
            for place in best[metric]:
                cells[place] = Cell(_MARK + cells[place].text, "bold green")
        shown.append(Column(text.clean(name), cells, right=True, rank=1))
    Screen().table(shown)
    if best:
        say(f"{_MARK} marks the best mean.")
