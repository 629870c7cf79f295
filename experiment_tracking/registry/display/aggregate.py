"""How groups of runs look in a notebook."""

from typing import TYPE_CHECKING

from experiment_tracking.registry.display.html import (
    MAX_ROWS,
    Cell,
    block,
    cell,
    kind_of,
    line,
    more,
    number,
    table,
    text,
)

if TYPE_CHECKING:
    from experiment_tracking.registry.aggregate import Aggregate


def aggregate_html(aggregate: "Aggregate") -> str:
    """Return a row per group, the best mean of each metric marked, and what is to be known."""
    columns = aggregate.to_text_columns()
    labels = len(columns) - len(aggregate.measures)
    head = [Cell(text(name), kind_of(values)) for name, values in list(columns.items())[:labels]]
    cells = [list(map(cell, values)) for values in list(columns.values())[:labels]]
    places = aggregate.best_places()
    for metric, (name, values) in zip(
        aggregate.measures, list(columns.items())[labels:], strict=True
    ):
        best = places.get(metric, ())
        head.append(Cell(text(name), "number"))
        cells.append([number(value, is_best=i in best) for i, value in enumerate(values)])
    rows = list(zip(*cells, strict=True))
    return block(
        table(head, rows[:MAX_ROWS]),
        more(len(rows) - MAX_ROWS, "group"),
        *(line(text(note, 1000)) for note in aggregate.notes),
    )
