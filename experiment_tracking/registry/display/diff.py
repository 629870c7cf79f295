"""How the differences between two runs look in a notebook."""

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from experiment_tracking.registry.display.html import MAX_CELL, MAX_ROWS, Cell, more, table, text
from experiment_tracking.registry.wording import plural, visible

if TYPE_CHECKING:
    # Comparing code loads difflib and what starts a process.
    from experiment_tracking.registry.code_diff import CodeDiff, FileDiff
    from experiment_tracking.registry.diff import Change, Changes, RunDiff

_MAX_LINES = 300
_MAX_OPEN_LINES = 40

_LINE_STYLES = {
    "+": "background: rgba(46, 160, 67, 0.25)",
    "-": "background: rgba(248, 81, 73, 0.25)",
    "@": "opacity: 0.6",
}
_HEADING = "margin: 1em 0 0.2em"
_CODE = "line-height: 1.3; margin: 0.3em 0 0.8em; overflow-x: auto; color: inherit"


def diff_html(diff: "RunDiff") -> str:
    """Return what two runs differ in: a table per section, the lines of code in colour."""
    from experiment_tracking.registry.diff import equal_sections, unknown_lines

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
    head = [Cell(title, "number" if numbers else "text") for title in titles]
    rows = [_change_cells(name, changes[name], metrics) for name in list(changes)[:MAX_ROWS]]
    return table(head, rows) + more(len(changes) - MAX_ROWS)


def _are_numbers(change: "Change") -> bool:
    return all(side is None or type(side) in (int, float) for side in change)


def _change_cells(name: str, change: "Change", is_metric: bool) -> list[Cell]:
    from experiment_tracking.registry.diff import cut_apart, difference_text

    cells = [Cell(text(name))]
    for value, shown in zip(change, cut_apart(change, MAX_CELL), strict=True):
        cells.append(Cell(escape(shown), "number" if type(value) in (int, float) else "text"))
    return [*cells, Cell(difference_text(change), "number")] if is_metric else cells


def _code_html(code: "CodeDiff") -> str:
    parts = []
    if code.commits:
        parts.append(f"<p>commit {code.commits[0][:12]} → {code.commits[1][:12]}</p>")
    if code.log:
        parts.append(_pre_html(escape(visible(line)) + "\n" for line in code.log))
    parts += [_file_html(file) for file in code.files[:MAX_ROWS]]
    parts.append(more(len(code.files) - MAX_ROWS, "file"))
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
