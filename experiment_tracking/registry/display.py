"""How runs look in a notebook: plain tables, everything in them escaped."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from experiment_tracking.registry.compare import beside
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.runset import RunSet

_MAX_ROWS = 50
_MAX_CELL = 200


def table_html(columns: Mapping[str, Sequence[Any]]) -> str:
    """Return an HTML table of columns of equal length, its first 50 rows."""
    rows = list(zip(*columns.values(), strict=True))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>"
        for row in rows[:_MAX_ROWS]
    )
    more = f"<p>… {len(rows) - _MAX_ROWS} more</p>" if len(rows) > _MAX_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def runs_html(runs: RunSet) -> str:
    """Return a table of runs: who they are, how they ended, their last metrics."""
    shown = runs.limit(_MAX_ROWS + 1)
    columns: dict[str, Sequence[Any]] = {
        "run": [record.key for record in shown],
        "status": [status_text(record) for record in shown],
        "created_at": [record.created_at for record in shown],
        "duration_s": [record.duration_s for record in shown],
    }
    metrics = {name: shown.numbers(name, "last") for name in shown.metric_names()}
    return f"<p>{len(runs)} runs</p>" + table_html(beside(columns, metrics))


def record_html(record: RunRecord) -> str:
    """Return a run: its name and status, its params, its metrics."""
    alone = RunSet([record])  # which passes over what cannot be read
    head = f"<p><b>{escape(record.key)}</b> {escape(status_text(record))}</p>"
    params, metrics = alone.flat_params()[0], alone.metrics()[0]
    numbers = ("last", "best", "min", "max", "count")
    return (
        head
        + table_html({"param": list(params), "value": list(params.values())})
        + table_html(
            {"metric": list(metrics)}
            | {number: [kept.get(number) for kept in metrics.values()] for number in numbers}
        )
    )


def status_text(record: RunRecord) -> str:
    """Return the status with its note: ``running (silent for 7 min)``."""
    return record.status + (f" ({record.status_note})" if record.status_note else "")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if type(value) is float else str(value)
    return escape(text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…")
