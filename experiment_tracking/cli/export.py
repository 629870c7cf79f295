"""``experiments export``: runs as a file for other programs, or as a data set."""

import argparse
import sys
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
from experiment_tracking.cli.screen import json_out, say
from experiment_tracking.errors import InvalidValueError

if TYPE_CHECKING:
    from experiment_tracking.registry.runset import RunSet

_EXAMPLES = """
experiments export digits -o runs.csv
experiments export -o report.html --where 'val/loss < 0.1'
experiments export -o - --format markdown --columns name,lr,val/loss:min
experiments export --parquet dataset
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands, "export", export, "write runs as csv, json, parquet, markdown or html", _EXAMPLES
    )
    add_project(parser)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("-o", "--output", metavar="FILE", help="one file; - for standard output")
    place.add_argument(
        "--parquet",
        metavar="DIR",
        help="a data set of runs and rows, partitioned by project (docs/SCALE.md)",
    )
    parser.add_argument(
        "--format",
        type=format_name,
        metavar="F",
        help="csv, json, markdown (md), html or parquet; default: by FILE's end",
    )
    parser.add_argument("--columns", action=Names, metavar="A,B", help="as for experiments ls")
    parser.add_argument("--sort", metavar="COL", help="by a column; --sort=-COL from the highest")
    parser.add_argument("--no-rows", action="store_true", help="with --parquet: runs alone")
    add_filters(parser)


def export(args: argparse.Namespace) -> int:
    """Write the runs that meet the filters."""
    _check(args)
    registry = registry_of(args)
    runs = chosen_runs(args, registry)
    if args.sort:
        runs = runs.order_by(args.sort)
    if not runs:
        say(why_empty(args, registry))
    written = _write_data_set(args, runs) if args.parquet else _write_file(args, runs)
    if args.json and args.output != "-":
        json_out(written)
    say_problems(runs)
    return DONE


def _check(args: argparse.Namespace) -> None:
    if args.output == "-" and args.format is None:
        raise InvalidValueError("Standard output has no ending. Say --format csv, or another.")
    if args.parquet and (args.format or args.columns or args.sort):
        raise InvalidValueError("--parquet writes all columns; leave --format and the like away.")


def _write_file(args: argparse.Namespace, runs: "RunSet") -> dict[str, Any]:
    from experiment_tracking.registry.export import encode_runs, export_runs

    if args.output != "-":
        export_runs(runs, args.output, args.format, args.columns)
        say(f"{len(runs)} runs in {args.output}.")
        return {"path": args.output, "runs": len(runs)}
    data = encode_runs(runs, args.format, args.columns)
    if args.format == "parquet":
        sys.stdout.buffer.write(data)
    else:
        sys.stdout.write(data.decode())
    return {}


def _write_data_set(args: argparse.Namespace, runs: "RunSet") -> dict[str, Any]:
    from experiment_tracking.registry.export import export_parquet
    from experiment_tracking.registry.progress import Progress

    with Progress(f"to {args.parquet}") as progress:
        done = export_parquet(runs, args.parquet, not args.no_rows, progress)
    size = text.size(done.size_bytes)
    say(f"{done.runs} runs and {done.rows} numbers in {args.parquet}, {size}.")
    return {"path": args.parquet, **done._asdict()}
