"""``experiments compare``: what runs differ in, side by side."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    RUN_HELP,
    Names,
    add_filters,
    add_project,
    named_or_chosen,
    new_command,
)
from experiment_tracking.cli.screen import GAP, INDENT, Cell, Column, Screen, json_out, say

if TYPE_CHECKING:
    from experiment_tracking.registry.columns import Column as MetricColumn
    from experiment_tracking.registry.compare import Comparison
    from experiment_tracking.registry.runset import RunSet

Rows = Mapping[str, Sequence[Cell]]

_MARK = "*"
_EXAMPLES = """
experiments compare digits/lr-0.1 digits/lr-0.01
experiments compare latest latest~1 best:val/loss
experiments compare --project digits --where 'val/acc > 0.9'
experiments compare experiments/digits/* --metrics val/loss:min,val/acc:max
"""


def add(commands: Any) -> None:
    """Add the command."""
    summary = "put runs side by side: differing params, and metrics"
    parser = new_command(commands, "compare", compare, summary, _EXAMPLES)
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"{RUN_HELP}; or conditions as below"
    )
    add_project(parser, positional=False)
    add_filters(parser)
    parser.add_argument(
        "--metrics",
        action=Names,
        metavar="A,B",
        help="as loss (its last value), loss:min, best_accuracy; by default all, their last values",
    )


def compare(args: argparse.Namespace) -> int:
    """Print runs side by side."""
    runs = named_or_chosen(args)
    found = Found.of(runs, args.metrics)
    if args.json:
        names = found.names
        best = {metric: names[place] for metric, place in found.best_places().items()}
        json_out({**found.comparison, "metrics": found.metrics, "best": best})
    else:
        _print(found)
    return DONE


class Found(NamedTuple):
    """A comparison, and which metric each of its columns shows."""

    comparison: "Comparison"
    columns: dict[str, "MetricColumn"]
    """By the name asked for."""

    @classmethod
    def of(cls, runs: "RunSet", wanted: Sequence[str] | None) -> "Found":
        """Compare runs; a name that stands for another is resolved, and noticed, once."""
        from experiment_tracking.registry.columns import Column as MetricColumn
        from experiment_tracking.registry.columns import find_column
        from experiment_tracking.registry.compare import Comparison

        names = runs.metric_names()
        if wanted is None or not names:
            columns = {name: MetricColumn(name, "last") for name in wanted or names}
        else:
            columns = {name: find_column(name, names) for name in wanted}
        return cls(Comparison(runs, list(map(_whole, columns.values()))), columns)

    @property
    def names(self) -> list[str]:
        """Name of each run."""
        names: list[str] = self.comparison["experiments"]
        return names

    @property
    def metrics(self) -> dict[str, list[float]]:
        """Values in the order of the runs, by the name asked for."""
        values = self.comparison["metrics"]
        return {asked: values[_whole(column)] for asked, column in self.columns.items()}

    def best_places(self) -> dict[str, int]:
        """Position of the best run by metric, where one is better than another."""
        places = {}
        for asked, values in self.metrics.items():
            ranked = {value for value in values if value == value}
            pick = self._pick(asked) if len(ranked) > 1 else None
            if pick:
                places[asked] = values.index(pick(ranked))
        return places

    def _pick(self, asked: str) -> Callable[[set[float]], float] | None:
        metric, number = self.columns[asked]
        each = [found for found in self.comparison.runs.metrics() if metric in found]
        goals = {found[metric].get("goal") for found in each}
        if len(goals) > 1 or number.endswith(("step", "count")):
            return None
        return {"minimize": min, "maximize": max}.get(str(goals.pop()))

    def lacks(self, asked: str) -> list[bool]:
        """Tell for each run whether it has no such metric at all."""
        metric = self.columns[asked].metric
        return [metric not in found for found in self.comparison.runs.metrics()]


def _whole(column: "MetricColumn") -> str:
    return column.metric if column.number == "last" else f"{column.metric}:{column.number}"


def _print(found: Found) -> None:
    screen = Screen()
    best = found.best_places()
    params = found.comparison["params"]
    all_last = all(column.number == "last" for column in found.columns.values())
    title = "metrics, last values" if all_last else "metrics"
    sections = {"params": _param_rows(params), title: _metric_rows(found, best)}
    labels = _labels(sections)
    columns = [_run_column(name, i, sections) for i, name in enumerate(found.names)]
    for i, block in enumerate(_blocks(columns, screen.width - labels.width)):
        if i:
            screen.line()
        screen.table([labels, *block])
    if len(columns) > 1 and not params:
        say("the params of these runs are all equal.")
    if best:
        say(f"{_MARK} marks the best of the values shown.")


def _param_rows(params: Mapping[str, Sequence[Any]]) -> Rows:
    return {
        name: [Cell(text.param_or_nothing(value)) for value in values]
        for name, values in params.items()
    }


def _metric_rows(found: Found, best: Mapping[str, int]) -> Rows:
    rows = {}
    for asked, values in found.metrics.items():
        known = zip(values, found.lacks(asked), strict=True)
        cells = [Cell(text.number(None if lacks else value)) for value, lacks in known]
        if asked in best:
            cells[best[asked]] = Cell(_MARK + cells[best[asked]].text, "bold green")
        rows[asked] = cells
    return rows


def _labels(sections: Mapping[str, Rows]) -> Column:
    cells = []
    for title, rows in sections.items():
        cells.append(Cell(title, "bold cyan"))
        cells += [Cell(INDENT + text.clean(name), "dim") for name in rows]
    return Column("", cells)


def _run_column(name: str, place: int, sections: Mapping[str, Rows]) -> Column:
    cells = []
    for rows in sections.values():
        cells.append(Cell(""))
        cells += [values[place] for values in rows.values()]
    return Column(text.clean(name), cells, right=True)


def _blocks(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Cut the runs into groups that each have room in ``width`` cells."""
    blocks: list[list[Column]] = []
    room = 0
    for column in columns:
        room -= len(GAP) + column.width
        if room < 0 or not blocks:
            blocks.append([])
            room = width - len(GAP) - column.width
        blocks[-1].append(column)
    return blocks
