"""``experiments sql``: ask about runs in SQL."""

import argparse
import sys
from typing import Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    add_filters,
    add_project,
    chosen_runs,
    new_command,
    registry_of,
    say_problems,
)
from experiment_tracking.cli.screen import Screen, column_of, json_out

_EXAMPLES = """
experiments sql 'select project, count(*) as n from runs group by project'
experiments sql 'select name, "params.lr" from runs order by "metrics.val/loss" limit 5'
experiments sql 'select metric, max(value) from history group by metric' --project digits --json
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(commands, "sql", sql, "ask about runs in SQL (DuckDB)", _EXAMPLES)
    parser.add_argument(
        "query", metavar="QUERY", help="about the tables runs and history; - reads it from stdin"
    )
    add_project(parser, positional=False)
    add_filters(parser)


def sql(args: argparse.Namespace) -> int:
    """Print what the query gives."""
    from experiment_tracking.registry.sql import sql_table

    query = sys.stdin.read() if args.query == "-" else args.query
    runs = chosen_runs(args, registry_of(args))
    table = sql_table(runs, query)
    names = table.column_names
    columns = [[_plain(value) for value in column.to_pylist()] for column in table.columns]
    if args.json:
        rows = zip(*columns, strict=True)
        json_out([dict(zip(names, row, strict=True)) for row in rows])
    elif names:
        pairs = zip(names, columns, strict=True)
        Screen().table([column_of(name, values, _write) for name, values in pairs])
    say_problems(runs)
    return DONE


def _plain(value: Any) -> Any:
    """Turn times, decimals and the like into text, for JSON too."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if isinstance(value, (str, int, float, type(None))) else str(value)


def _write(value: Any) -> str:
    return text.number(value) if isinstance(value, float) else text.param_or_nothing(value)
