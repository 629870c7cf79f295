"""How one run looks in a notebook and in a report."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.amendments import RUN
from experiment_tracking.folder.rows import Columns
from experiment_tracking.registry.display.figures import Budget, figures_html, link
from experiment_tracking.registry.display.html import (
    MAX_ROWS,
    QUOTED,
    RED,
    Cell,
    badge,
    block,
    cell,
    code,
    folded,
    line,
    more,
    number,
    side_by_side,
    status_badge,
    table,
    table_html,
    text,
)
from experiment_tracking.registry.display.sparkline import read_curves, sparkline
from experiment_tracking.registry.record import RunRecord, flat
from experiment_tracking.registry.wording import (
    command_text,
    git_text,
    local_time,
    number_text,
    plural,
    size_text,
    span_text,
)

_MAX_HISTORY_BYTES = 64 * 2**20
_MAX_NOTES = 2_000
_MAX_FILES = 20


def record_html(record: RunRecord) -> str:
    """Return a run: how it went, its notes, params, metrics with curves, figures and files."""
    title = (
        f'<div style="font-size: 1.15em"><span style="opacity: 0.65">{text(record.project)}/'
        f"</span><b>{text(record.name)}</b> {status_badge(record.status, record.status_note)}</div>"
    )
    return block(title, record_body(record, Budget()))


def record_body(record: RunRecord, budget: Budget) -> str:
    """Return all of a run but its name and status; pictures as far as the budget reaches."""
    return "".join((
        _readable(_facts, record),
        _readable(_words, record),
        _readable(_error, record),
        side_by_side(_readable(_params, record), _readable(_metrics, record)),
        _readable(lambda run: figures_html(run, budget), record),
        _readable(_inputs, record),
        _readable(_files, record),
        _readable(_corrections, record),
    ))  # fmt: skip


def _readable(part: Callable[[RunRecord], str], record: RunRecord) -> str:
    """Return a part of a run's page; of a damaged file, what is wrong with it."""
    try:
        return part(record)
    except (DamagedError, OSError) as error:
        return line(f"⚠ {text(error, 500)}")


# ---------------------------------------------------------------------- how it went


def _facts(record: RunRecord) -> str:
    summary = record.summary
    throughput = summary.get("throughput")
    speed = throughput.get("steps_per_s") if isinstance(throughput, Mapping) else None
    facts = (
        local_time(record.created_at),
        f"took {span_text(record.duration_s)}" if record.duration_s is not None else "",
        f"{number_text(speed)} steps/s" if speed else "",
        f"exit code {summary['exit_code']}" if summary.get("exit_code") else "",
        plural(len(record.attempts), "attempt") if len(record.attempts) > 1 else "",
        f"group {record.group}" if record.group else "",
        f"rerun of {summary['rerun_of']}" if summary.get("rerun_of") else "",
        f"imported from {record.imported_from}" if record.imported_from else "",
        f"id {record.id}" if record.id else "",
    )
    return line(text(" · ".join(filter(None, facts)), 500)) + _readable(_origin, record)


def _origin(record: RunRecord) -> str:
    """Return what was run, from which commit, and where it is kept."""
    environment = record.environment
    command, git = command_text(environment), git_text(environment.get("git"))
    host = environment.get("hostname")
    parts = [
        code(command[:300]) if command else "",
        text(f"commit {git}" if environment["git"].get("commit") else git) if git else "",
        text(f"on {host}") if host else "",
    ]
    return line(" · ".join(filter(None, parts))) + line(f"in {code(record.folder.path)}")


def _words(record: RunRecord) -> str:
    """Return tags and notes."""
    tags = [badge(f"{name}={value}" if value else name) for name, value in record.tags.items()]
    shown = f'<div style="margin: 0.4em 0">{" ".join(tags[:MAX_ROWS])}</div>' if tags else ""
    return shown + _notes(record.notes)


def _notes(notes: str) -> str:
    if not notes:
        return ""
    cut = notes if len(notes) <= _MAX_NOTES else notes[:_MAX_NOTES] + "…"
    lines = "<br>".join(text(each, _MAX_NOTES) for each in cut.splitlines())
    style = f"margin: 0.4em 0; border-left: {QUOTED}; padding-left: 0.8em"
    return f'<div style="{style}">{lines}</div>'


def _error(record: RunRecord) -> str:
    error = record.error
    if not isinstance(error, Mapping):
        return ""
    what = ": ".join(str(error[key]) for key in ("type", "message") if error.get(key))
    return f'<div style="color: {RED}">{text(what, 500)}</div>'


# ---------------------------------------------------------------------- what went in and came out


def _params(record: RunRecord) -> str:
    params = flat(record.params)
    if not params:
        return ""
    shown = list(params.items())[:MAX_ROWS]
    rows = [[cell(name), cell(str(value))] for name, value in shown]
    return table([Cell("param"), Cell("value")], rows) + more(len(params) - MAX_ROWS, "param")


def _metrics(record: RunRecord) -> str:
    metrics = record.metrics
    if not metrics:
        return ""
    names = list(metrics)[:MAX_ROWS]
    columns = read_curves(record, names, _MAX_HISTORY_BYTES)
    heads = ("last", "best", "min", "max", "count")
    head = [Cell("metric"), Cell(""), *(Cell(each, "number") for each in heads)]
    rows = [_metric_row(name, metrics[name], columns) for name in names]
    too_long = "" if columns else line("The history is too long to be drawn here.")
    return table(head, rows) + more(len(metrics) - MAX_ROWS, "metric") + too_long


def _metric_row(name: str, kept: Mapping[str, Any], columns: Columns | None) -> list[Cell]:
    numbers = [
        number(kept.get(key), title=f"at step {kept[step]}" if step in kept else "")
        for key, step in (
            ("last", "last_step"), ("best", "best_step"), ("min", "min_step"), ("max", "max_step")
        )
    ]  # fmt: skip
    numbers[1] = numbers[1]._replace(html=f"<b>{numbers[1].html}</b>")
    curve = sparkline(columns, name) if columns else ""
    return [cell(name), Cell(curve), *numbers, number(kept.get("count"))]


# ---------------------------------------------------------------------- what was kept


def _inputs(record: RunRecord) -> str:
    shown = ("kind", "path", "size_bytes", "shape", "sha256")
    columns = {"input": [entry.get("name") for entry in record.inputs]}
    columns |= {key: [entry.get(key) for entry in record.inputs] for key in shown}
    return folded(plural(len(record.inputs), "input"), table_html(columns)) if record.inputs else ""


def _files(record: RunRecord) -> str:
    """Return the files that were logged, and what was captured beside them."""
    files = [each for each in record.artifacts if isinstance(each, Mapping)]
    rows = [
        [
            cell(entry.get("kind")),
            Cell(link(record, str(entry.get("path")))),
            Cell(text(size_text(entry.get("size_bytes"))), "number"),
        ]
        for entry in files[:_MAX_FILES]
    ]
    console = os.path.basename(record.folder.console)
    if os.path.exists(record.folder.console):
        rows.append([cell("console"), Cell(link(record, console)), Cell("", "number")])
    if not rows:
        return ""
    shown = table([Cell("kind"), Cell("file"), Cell("size", "number")], rows)
    return folded(plural(len(rows), "file"), shown + more(len(files) - _MAX_FILES, "file"))


def _corrections(record: RunRecord) -> str:
    made = [each for each in record.amendments if each.get("by") != RUN]
    heads = ("at", "by", "kind", "name", "old", "new")
    columns: dict[str, Sequence[Any]] = {head: [each.get(head) for each in made] for head in heads}
    return folded(plural(len(made), "correction"), table_html(columns)) if made else ""
