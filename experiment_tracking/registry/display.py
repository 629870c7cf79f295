"""How runs look in a notebook: plain tables, everything in them escaped."""

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.registry.compare import beside
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.runset import RunSet

if TYPE_CHECKING:
    # Comparing code loads difflib and what starts a process.
    from experiment_tracking.registry.code_diff import CodeDiff, FileDiff
    from experiment_tracking.registry.diff import Change, Changes, RunDiff

_MAX_ROWS = 50
_MAX_CELL = 200
_MAX_LINES = 300
_MAX_OPEN_LINES = 40

_NOTEBOOK_WORDS = ("ipykernel_launcher", "ipykernel", "colab_kernel_launcher.py", "notebook.ipy")
"""Modules and scripts that start a notebook's kernel, and the name its cells are kept by."""

# Half transparent: over a dark page as over a white one the text stays readable. In the element,
# since notebooks drop style sheets.
_LINE_STYLES = {
    "+": "background: rgba(46, 160, 67, 0.25)",
    "-": "background: rgba(248, 81, 73, 0.25)",
    "@": "opacity: 0.6",
}


# Colours are the page's, light or dark, and nothing is left to its style sheet.
_TABLE = "border-collapse: collapse; margin: 0.3em 0"
_TEXT = "padding: 0.2em 0.8em; text-align: left; vertical-align: top; overflow-wrap: anywhere"
_NUMBER = "padding: 0.2em 0.8em; text-align: right; font-variant-numeric: tabular-nums"
_HEADING = "margin: 1em 0 0.2em"
_CODE = "line-height: 1.3; margin: 0.3em 0 0.8em; overflow-x: auto; color: inherit"


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
    return f"<p>{plural(len(runs), 'run')}</p>" + table_html(beside(columns, metrics))


def record_html(record: RunRecord) -> str:
    """Return a run: name and status, how it went, its params, its metrics, its inputs."""
    alone = RunSet([record])  # which passes over what cannot be read
    params, metrics = alone.flat_params()[0], alone.metrics()[0]
    numbers = ("last", "best", "min", "max", "count")
    return (
        f"<p><b>{escape(record.key)}</b> {escape(status_text(record))}</p>"
        + _readable_html(_facts_html, record)
        + table_html({"param": list(params), "value": list(params.values())})
        + table_html(
            {"metric": list(metrics)}
            | {number: [kept.get(number) for kept in metrics.values()] for number in numbers}
        )
        + _readable_html(_inputs_html, record)
    )


def _readable_html(part: Callable[[RunRecord], str], record: RunRecord) -> str:
    """Return a part of a run's page; of a damaged file, what is wrong with it."""
    try:
        return part(record)
    except (DamagedError, OSError) as error:
        return f"<p>{escape(str(error))}</p>"


def _facts_html(record: RunRecord) -> str:
    summary = record.summary
    throughput = summary.get("throughput")
    speed = throughput.get("steps_per_s") if isinstance(throughput, Mapping) else None
    facts = (
        f"exit code {summary['exit_code']}" if summary.get("exit_code") else "",
        f"{speed} steps/s" if speed else "",
        f"rerun of {summary['rerun_of']}" if summary.get("rerun_of") else "",
        git_text(record.environment.get("git")),
    )
    shown = " · ".join(filter(None, facts))
    return f"<p>{_cell(shown)}</p>" if shown else ""


def plural(number: int, word: str) -> str:
    """Write a number of things: ``1 file``, ``2 files``."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def git_text(git: Any) -> str:
    """Return where a run's code was: commit, branch, changes; else why that is not known."""
    if not isinstance(git, Mapping):
        return ""
    if not git.get("commit"):
        return str(git.get("note") or "")
    branch = f" on {git['branch']}" if git.get("branch") else ""
    return f"{str(git['commit'])[:12]}{branch}{', with changes' if git.get('dirty') else ''}"


def is_notebook(environment: Mapping[str, Any]) -> bool:
    """Tell whether a run was made in a notebook, or is a rerun of its cells."""
    command = environment.get("command")
    words = command if isinstance(command, list) else []
    return bool(environment.get("notebook")) or any(
        os.path.basename(str(word)) in _NOTEBOOK_WORDS for word in words
    )


def command_text(environment: Mapping[str, Any]) -> str:
    """Return a run's command line; of a notebook its name, for its kernel's tells nothing."""
    command = environment.get("command")
    if is_notebook(environment):
        return f"notebook {os.path.basename(str(environment.get('notebook') or ''))}".rstrip()
    return shlex.join(map(str, command)) if isinstance(command, list) else ""


def _inputs_html(record: RunRecord) -> str:
    inputs = record.inputs
    shown = ("kind", "path", "size_bytes", "shape", "sha256")
    columns = {"input": [entry.get("name") for entry in inputs]}
    columns |= {key: [entry.get(key) for entry in inputs] for key in shown}
    return table_html(columns) if inputs else ""


def diff_html(diff: "RunDiff") -> str:
    """Return what two runs differ in: a table per section, the lines of code in colour."""
    from experiment_tracking.registry.diff import equal_sections, unknown_lines, visible

    parts = [f"<p><b>{' → '.join(_headings(diff))}</b></p>"]
    for section in diff:
        parts.append(f'<p style="{_HEADING}"><b>{section}</b></p>')
        code = section == "code"
        parts.append(_code_html(diff.code) if code else _changes_html(diff, diff[section]))
    if equal := equal_sections(diff):
        parts.append(f"<p>No difference in {', '.join(equal)}.</p>")
    parts += [f"<p>{escape(visible(line))}</p>" for line in unknown_lines(diff)]
    return "".join(parts)


def _headings(diff: "RunDiff") -> list[str]:
    """Return what each run is called: its name, with the rest of its path to be pointed at."""
    from experiment_tracking.registry.diff import visible

    keys = diff.a.key, diff.b.key
    names = (diff.a.name, diff.b.name) if diff.a.name != diff.b.name else keys
    if names[0] == names[1]:
        names = f"{names[0]} (a)", f"{names[1]} (b)"
    paths = diff.a.folder.path, diff.b.folder.path
    return [
        f'<span title="{escape(visible(path))}">{escape(visible(name))}</span>'
        for name, path in zip(names, paths, strict=True)
    ]


def _changes_html(diff: "RunDiff", changes: "Changes") -> str:
    metrics = changes is diff.metrics
    titles = ["", *_headings(diff), *["b - a"] * metrics]
    numbers = all(_are_numbers(change) for change in changes.values())
    head = "".join(_cell_html(title, "th", number=numbers) for title in titles)
    rows = [_change_html(name, changes[name], metrics) for name in list(changes)[:_MAX_ROWS]]
    more = f"<p>… {len(changes) - _MAX_ROWS} more</p>" if len(changes) > _MAX_ROWS else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<table style="{_TABLE}">{body}</table>{more}'


def _are_numbers(change: "Change") -> bool:
    return all(side is None or type(side) in (int, float) for side in change)


def _change_html(name: str, change: "Change", is_metric: bool) -> str:
    from experiment_tracking.registry.diff import cut_apart, difference_text, visible

    cells = [_cell_html(_cell(visible(name)))]
    for value, text in zip(change, cut_apart(change, _MAX_CELL), strict=True):
        cells.append(_cell_html(escape(text), number=type(value) in (int, float)))
    if is_metric:
        cells.append(_cell_html(difference_text(change), number=True))
    return f"<tr>{''.join(cells)}</tr>"


def _cell_html(content: str, element: str = "td", *, number: bool = False) -> str:
    return f'<{element} style="{_NUMBER if number else _TEXT}">{content}</{element}>'


def _code_html(code: "CodeDiff") -> str:
    from experiment_tracking.registry.diff import visible

    parts = []
    if code.commits:
        parts.append(f"<p>commit {code.commits[0][:12]} → {code.commits[1][:12]}</p>")
    if code.log:
        parts.append(_pre_html(escape(visible(line)) + "\n" for line in code.log))
    parts += [_file_html(file) for file in code.files[:_MAX_ROWS]]
    if len(code.files) > _MAX_ROWS:
        parts.append(f"<p>… {plural(len(code.files) - _MAX_ROWS, 'more file')}</p>")
    return "".join(parts)


def _file_html(file: "FileDiff") -> str:
    from experiment_tracking.registry.diff import file_title, visible_line

    title = escape(file_title(file))
    if not file.text or file.is_long_data:
        return f"<p>{title}</p>"
    lines = file.text.split("\n")[2:]  # the names of the file are in the title
    shown = [_line_html(visible_line(line)) for line in lines[:_MAX_LINES]]
    if len(lines) > _MAX_LINES:
        shown.append(_line_html(f"… {plural(len(lines) - _MAX_LINES, 'more line')}"))
    is_open = " open" if len(lines) <= _MAX_OPEN_LINES else ""
    return f"<details{is_open}><summary>{title}</summary>{_pre_html(shown)}</details>"


def _pre_html(shown: Iterable[str]) -> str:
    return f'<pre style="{_CODE}">{"".join(shown)}</pre>'


def _line_html(line: str) -> str:
    style = _LINE_STYLES.get(line[:1], "")
    return f'<span style="display: block; {style}">{escape(line) or " "}</span>'


def status_text(record: RunRecord) -> str:
    """Return the status with its note: ``running (silent for 7 min)``."""
    return record.status + (f" ({record.status_note})" if record.status_note else "")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if type(value) is float else str(value)
    return escape(text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…")
