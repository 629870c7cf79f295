"""How a registry, runs and comparisons look in a notebook; a single run is in record.py.

Tables are made from columns, never by reading every run: ten thousand runs show at once.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.folder.liveness import STATUSES
from experiment_tracking.registry.aggregate import best_places
from experiment_tracking.registry.display.html import (
    MAX_ROWS,
    RED,
    Cell,
    badge,
    block,
    cell,
    code,
    folded,
    heading,
    kind_of,
    line,
    more,
    number,
    status_badge,
    table,
    table_html,
    text,
)
from experiment_tracking.registry.display.sparkline import history_bytes, read_curves, sparkline
from experiment_tracking.registry.runset import RunSet
from experiment_tracking.registry.wording import local_time, plural, span_text

if TYPE_CHECKING:
    from experiment_tracking.registry.compare import Comparison
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.registry import ExperimentRegistry
    from experiment_tracking.registry.summary import Unreadable

_MAX_PARAMS = 8
_MAX_METRICS = 6
_MAX_NAME = 60
_MAX_WORD = 28
_NEWEST = 5
_MAX_PROBLEMS = 20
_MAX_CURVES_BYTES = 16 * 2**20

_HELD_OUT = {"val", "valid", "validation", "eval", "test", "dev"}
"""First parts of names of metrics that tell how good a run is, rather than how it trained."""


# ---------------------------------------------------------------------- a registry


def registry_html(registry: "ExperimentRegistry") -> str:
    """Return where the runs are, the projects, the newest runs, and how to go on."""
    runs = registry.list_experiments(order_by="-created_at")
    newest = runs[:_NEWEST]
    where = "".join(line(f"in {code(root)}") for root in registry.roots)
    return block(
        f"<div><b>{plural(len(runs), 'run')}</b> {statuses_html(runs)}</div>",
        where,
        _projects(runs),
        (heading("newest, ★ the best of these") + runs_table(newest, newest)) if len(runs) else "",
        problems_html(runs.problems),
        _how_to_go_on(runs),
    )


def _projects(runs: RunSet) -> str:
    """Return a row per project: its runs by status, and when the last one began."""
    if not len(runs):
        return ""
    groups = runs.group_by("project")
    each = {name: Counter(group.column("status")) for name, group in groups.items()}
    present = [status for status in STATUSES if any(status in counts for counts in each.values())]
    head = [Cell("project"), Cell("runs", "number")]
    head += [Cell(status, "number") for status in present] + [Cell("last begun")]
    rows = []
    for name, group in list(groups.items())[:MAX_ROWS]:
        counts = [cell(each[name].get(status)) for status in present]
        last = max(filter(None, group.column("created_at")), default=None)
        rows.append([cell(name), cell(len(group)), *counts, _moment(last)])
    return table(head, rows) + more(len(groups) - MAX_ROWS, "project")


def _how_to_go_on(runs: RunSet) -> str:
    if not len(runs):
        return line(f"No runs yet: {code('ExperimentTracker(project).start_run()')} makes one.")
    metric = next(iter(key_metrics(runs)), None)
    words = ["registry.list_experiments()", "registry.get('latest')", "registry.to_frame()"]
    if metric is not None and len(runs.goals(metric)) == 1:
        words.insert(1, f"registry.best({metric!r})")
    return line("Go on: " + " ".join(map(code, words)))


# ---------------------------------------------------------------------- runs


class Ranked(NamedTuple):
    """One number of a metric in several runs, and where it is best."""

    name: str
    number: str
    """``min`` or ``max`` by the metric's goal, ``last`` where there is none."""
    values: list[float | None]
    last: list[float | None]
    best: list[int]
    """Places of the best of them, of equal ones all; none without a goal, or if all are equal."""


def runs_html(runs: RunSet) -> str:
    """Return a table of runs: how they ended, what they differ in, how good they are."""
    shown = runs[:MAX_ROWS]
    return block(
        f"<div><b>{plural(len(runs), 'run')}</b> {statuses_html(runs)}</div>",
        runs_table(runs, shown) if len(runs) else "",
        more(len(runs) - MAX_ROWS, "run", "runs[50:], runs.to_frame()"),
        problems_html(runs.problems),
    )


def runs_table(runs: RunSet, shown: RunSet, links: Mapping[str, str] | None = None) -> str:
    """Return a table of the first of some runs, with the columns that tell all of them apart.

    Parameters
    ----------
    runs
        All of them: what differs and what is best is found among these.
    shown
        The first of them, a row each.
    links
        From a run's path to what its name leads to on this page.
    """
    params, metrics = differing_params(runs), key_metrics(runs)
    ranks = [ranked(runs, name) for name in metrics[:_MAX_METRICS]]
    numbers = [_metric_column(rank, len(shown)) for rank in ranks]
    if curves := _curves(shown, metrics[0]) if metrics else []:
        numbers.insert(1, (Cell(""), curves))
    columns = [
        (Cell("run"), _names(shown, links or {})),
        (Cell("status"), _status_cells(shown)),
        *numbers,
        *(param_column(name, shown.column(f"params.{name}")) for name in params[:_MAX_PARAMS]),
        (Cell("begun"), [_moment(at) for at in shown.column("created_at")]),
        (Cell("took", "number"), [_span(seconds) for seconds in shown.column("duration_s")]),
    ]
    rows = zip(*(cells for _, cells in columns), strict=True)
    return table([head for head, _ in columns], list(rows)) + _left_out(params, metrics)


def _left_out(params: Sequence[str], metrics: Sequence[str]) -> str:
    """Say how many columns did not find room."""
    rest = {"param": len(params) - _MAX_PARAMS, "metric": len(metrics) - _MAX_METRICS}
    said = [plural(count, f"more {word}") for word, count in rest.items() if count > 0]
    return line(f"{' and '.join(said)} not in this table") if said else ""


def _names(shown: RunSet, links: Mapping[str, str]) -> list[Cell]:
    """Return the names of runs, with their projects where these are several."""
    is_one = len(set(shown.column("project"))) == 1
    names = shown.names if is_one else shown.keys
    paths = shown.column("path")
    return [
        Cell(linked(text(name, _MAX_NAME), links.get(path)), title=path)
        for name, path in zip(names, paths, strict=True)
    ]


def linked(content: str, target: str | None) -> str:
    """Return a run's name (escaped), leading to its part of the page where there is one."""
    return f'<a href="#{target}">{content}</a>' if target else f"<b>{content}</b>"


def _status_cells(shown: RunSet) -> list[Cell]:
    pairs = zip(shown.column("status"), shown.column("status_note"), strict=True)
    return [Cell(status_badge(status, note or "")) for status, note in pairs]


def _moment(at: Any) -> Cell:
    return Cell(text(local_time(at)), title=str(at or ""))


def _span(seconds: Any) -> Cell:
    return Cell(text(span_text(seconds)), "number")


def param_column(name: str, values: Sequence[Any]) -> tuple[Cell, list[Cell]]:
    """Return a column of a param: its name, and its values as they were given."""
    kind = kind_of(values)
    cells = [cell(str(v) if type(v) is float else v, _MAX_WORD) for v in values]
    head = Cell(text(name, _MAX_WORD), kind, title=f"params.{name}")
    return head, [each._replace(kind=kind) for each in cells]


def _metric_column(rank: Ranked, count: int) -> tuple[Cell, list[Cell]]:
    small = f'<span style="font-weight: normal; opacity: 0.65">{rank.number}</span>'
    head = Cell(f"{text(rank.name, _MAX_WORD)} {small}", "number", title=f"metrics.{rank.name}")
    cells = [number(value, is_best=row in rank.best) for row, value in enumerate(rank.values)]
    if rank.number != "last":
        each = zip(cells, rank.values, rank.last, strict=True)
        cells = [best if value == last else _ended(best, last) for best, value, last in each]
    return head, cells[:count]


def _ended(best: Cell, last: float | None) -> Cell:
    """Say beside a run's best value that it ended in none."""
    if last is None or math.isfinite(last):
        return best
    said = f'<span style="color: {RED}">(last {text(last)})</span>'
    return best._replace(html=f"{best.html} {said}".strip())


def _curves(shown: RunSet, metric: str) -> list[Cell]:
    """Draw a metric of each run, until that has cost what may be spent on it."""
    left = _MAX_CURVES_BYTES

    def draw(record: "RunRecord") -> str:
        nonlocal left
        columns = read_curves(record, [metric], left)
        left -= history_bytes(record) if columns else 0
        return sparkline(columns, metric) if columns else ""

    drawn = shown.each(draw, "")
    return [Cell(each) for each in drawn] if any(drawn) else []


def statuses_html(runs: RunSet) -> str:
    """Return how many runs have each status."""
    counts = Counter(runs.column("status"))
    present = [status for status in STATUSES if status in counts]
    return " ".join(badge(f"{counts[status]:,} {status}", status) for status in present)


def problems_html(problems: "Sequence[Unreadable]") -> str:
    """Return the runs that could not be read, each with its reason, behind how many they are."""
    if not problems:
        return ""
    columns = {
        "folder": [problem.path for problem in problems[:_MAX_PROBLEMS]],
        "what is wrong": [problem.reason for problem in problems[:_MAX_PROBLEMS]],
    }
    title = f"⚠ {plural(len(problems), 'problem')}: not everything could be read"
    return folded(title, table_html(columns) + more(len(problems) - _MAX_PROBLEMS))


# ---------------------------------------------------------------------- what tells runs apart


def differing_params(runs: RunSet) -> list[str]:
    """Return the params that are not the same in all runs, those first that most runs have."""
    columns = {name: runs.column(f"params.{name}") for name in runs.param_names()}
    names = [name for name, values in columns.items() if _varies(values)]
    return sorted(names, key=lambda name: columns[name].count(None))


def _varies(values: Sequence[Any]) -> bool:
    first = values[0] if values else None
    return any(value != first and (value == value or first == first) for value in values)


def key_metrics(runs: RunSet) -> list[str]:
    """Return the names of metrics, those first that tell how good a run is.

    Those with a goal come first, among them those of held-out data (``val/…``, ``test/…``), among
    these those that most runs have.
    """

    def rank(name: str) -> tuple[bool, bool, int]:
        missing = runs.numbers(name, "count").count(None)
        return len(runs.goals(name)) != 1, not _is_held_out(name), missing

    return sorted(runs.metric_names(), key=rank)


def _is_held_out(metric: str) -> bool:
    return not _HELD_OUT.isdisjoint(metric.lower().replace("_", "/").split("/"))


def ranked(runs: RunSet, metric: str) -> Ranked:
    """Return the numbers of a metric by which runs are compared, and which is the best."""
    goals, last = runs.goals(metric), runs.numbers(metric, "last")
    if len(goals) != 1:
        return Ranked(metric, "last", last, last, [])
    side = "min" if goals == {"minimize"} else "max"
    values = runs.numbers(metric, side)
    return Ranked(metric, side, values, last, best_places(values, side))


# ---------------------------------------------------------------------- a comparison


def comparison_html(comparison: "Comparison") -> str:
    """Return runs side by side: what differs first, the best value of each metric marked."""
    runs = comparison.runs
    if not len(runs):
        return block(line("No runs to compare."))
    metrics = comparison["metrics"]
    names = sorted(metrics, key=lambda name: not _varies(metrics[name]))
    columns = [
        (Cell("run"), [Cell(f"<b>{text(name)}</b>") for name in comparison["experiments"]]),
        *(param_column(name, values) for name, values in comparison["params"].items()),
        *(_compared_metrics(runs, name, metrics[name]) for name in names),
    ]
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    equal = len(runs.param_names()) - len(comparison["params"])
    return block(
        table([head for head, _ in columns], rows[:MAX_ROWS]),
        more(len(rows) - MAX_ROWS, "run"),
        line(f"{plural(equal, 'param')} equal in all of them" if equal and len(runs) > 1 else ""),
    )


def _compared_metrics(runs: RunSet, asked: str, values: Sequence[Any]) -> tuple[Cell, list[Cell]]:
    goals = {goal for metric in _meant(runs, asked) for goal in runs.goals(metric)}
    side = {"minimize": "min", "maximize": "max"}.get(goals.pop()) if len(goals) == 1 else None
    best = best_places(values, side) if side else []
    return (
        Cell(text(asked, _MAX_WORD), "number"),
        [number(value, is_best=row in best) for row, value in enumerate(values)],
    )


def _meant(runs: RunSet, asked: str) -> list[str]:
    """Return the metrics that a column of a comparison may show."""
    names = runs.metric_names()
    if asked in names:
        return [asked]
    bare = asked.rpartition(":")[0] or asked
    return [name for name in names if bare.endswith(name) or name.endswith(f"/{bare}")]
