"""Runs as one page that stands alone: no file beside it, nothing from the network, no script."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from experiment_tracking.folder.rows import Columns, columns_of
from experiment_tracking.folder.values import stored_name
from experiment_tracking.registry.curves import points_along
from experiment_tracking.registry.display.figures import Budget
from experiment_tracking.registry.display.html import (
    CLASSES,
    code,
    folded,
    line,
    more,
    status_badge,
    text,
)
from experiment_tracking.registry.display.line_chart import COLOURED, ChartLine, line_chart, swatch
from experiment_tracking.registry.display.record import record_body
from experiment_tracking.registry.display.runs import (
    Ranked,
    differing_params,
    key_metrics,
    linked,
    problems_html,
    ranked,
    runs_table,
    statuses_html,
)
from experiment_tracking.registry.display.sparkline import read_curves
from experiment_tracking.registry.wording import number_text, plural

if TYPE_CHECKING:
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.runset import RunSet

_MAX_ROWS = 500
_MAX_CHARTS = 6
_MAX_LINES = 40
_MAX_EQUAL = 3
_POINTS = 300
_MAX_HISTORY_BYTES = 16 * 2**20
_MAX_SECTIONS_CHARACTERS = 4_000_000
_PICTURES_BYTES = 2_000_000

# Browsers that are told so run no script and load nothing, whatever a run may have smuggled in.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1.2em;
  background: Canvas; color: CanvasText; }
h1 { font-size: 1.7em; margin: 0 0 0.2em; }
h2 { font-size: 1.2em; margin: 1.8em 0 0.4em; }
h3 { font-size: 1em; margin: 0; }
a { color: LinkText; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1.2em; }
.legend { display: flex; flex-wrap: wrap; gap: 0.1em 1.4em; margin: 0.5em 0; }
.run { border-top: 1px solid rgba(128, 128, 128, 0.3); padding: 0.3em 0; }
"""


def report(runs: "RunSet", title: str | None = None) -> str:
    """Return a page of some runs: table, curves, the best one, and a section per run.

    It needs no other file, reads in any browser, light or dark, and prints. Of very many runs the
    first have a row and a section, the best have curves, and it says what was left out: 500 runs
    come to a few MB.

    Parameters
    ----------
    runs
        The runs, in the order in which they are to stand.
    title
        Heading of the page; by default the projects' names.

    Returns
    -------
    str
        HTML. Runs of which a file cannot be read are told, and go to ``runs.problems``.
    """
    name = title if title is not None else _title(runs)
    classes = "".join(f".{each} {{ {style} }}\n" for each, style in CLASSES.items())
    # The parts first: what cannot be read is found while they are made.
    parts = _parts(runs) if len(runs) else []
    body = "".join((
        f"<h1>{text(name)}</h1>", _about(runs), problems_html(runs.problems), *parts
    ))  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{text(name)}</title><style>{_STYLE}{classes}</style></head><body>{body}</body></html>\n"
    )


def _parts(runs: "RunSet") -> list[str]:
    sections = list(_sections(runs))
    links = {
        path: _anchor(place) for place, path in enumerate(runs.column("path")[: len(sections)])
    }
    return [
        _best(runs, links),
        _table(runs, links),
        _charts(runs),
        "<h2>Run by run</h2>",
        *sections,
        more(len(runs) - len(sections), "run"),
    ]


def _title(runs: "RunSet") -> str:
    projects = list(dict.fromkeys(runs.column("project")))
    shown = ", ".join(projects[:3]) + (", …" if len(projects) > 3 else "")
    return f"Runs of {shown}" if projects else "No runs"


def _about(runs: "RunSet") -> str:
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    roots = dict.fromkeys(path.rsplit("/", 2)[0] for path in runs.column("path"))
    where = " ".join(code(root) for root in list(roots)[:5])
    return f"<div><b>{plural(len(runs), 'run')}</b> {statuses_html(runs)}</div>" + line(
        f"made {text(made)}" + (f" from {where}" if where else "")
    )


# ---------------------------------------------------------------------- all runs


def _best(runs: "RunSet", links: Mapping[str, str]) -> str:
    """Return the best run by each metric with a goal."""
    ranks = [ranked(runs, metric) for metric in key_metrics(runs)[:_MAX_CHARTS]]
    rows = [_best_line(runs, rank, links) for rank in ranks if rank.best]
    return f"<h2>Best</h2>{''.join(rows)}" if rows else ""


def _best_line(runs: "RunSet", rank: Ranked, links: Mapping[str, str]) -> str:
    value = number_text(rank.values[rank.best[0]])
    named = [_best_run(runs, place, links) for place in rank.best[:_MAX_EQUAL]]
    if (rest := len(rank.best) - _MAX_EQUAL) > 0:
        named.append(f"{rest} more equal")
    return f"<div>{text(rank.name)} <b>{value}</b> ({rank.number}): {'; '.join(named)}</div>"


def _best_run(runs: "RunSet", place: int, links: Mapping[str, str]) -> str:
    name = linked(text(runs.keys[place]), links.get(runs.column("path")[place]))
    params = {name: runs.column(f"params.{name}")[place] for name in differing_params(runs)}
    words = [f"{name}={value}" for name, value in params.items() if value is not None]
    return f"{name} {_muted(words[:8])}".strip()


def _muted(words: list[str]) -> str:
    return f'<span style="opacity: 0.65">{text(", ".join(words))}</span>' if words else ""


def _table(runs: "RunSet", links: Mapping[str, str]) -> str:
    rows = _lean(runs_table(runs, runs[:_MAX_ROWS], links))
    return "<h2>Runs</h2>" + rows + more(len(runs) - _MAX_ROWS, "run")


def _anchor(place: int) -> str:
    return f"run-{place + 1}"


# ---------------------------------------------------------------------- curves


def _charts(runs: "RunSet") -> str:
    """Return a picture per metric, of the best runs by the first of them."""
    metrics = key_metrics(runs)[:_MAX_CHARTS]
    if not metrics:
        return ""
    chosen = runs.take(_by_rank(ranked(runs, metrics[0]))[:_MAX_LINES])
    histories = chosen.each(lambda run: read_curves(run, metrics, _MAX_HISTORY_BYTES), None)
    labels = chosen.names if len(set(runs.column("project"))) == 1 else chosen.keys
    drawn = [_chart(metric, labels, histories) for metric in metrics]
    if not any(drawn):
        return _too_long(histories)
    said = f"The best {len(chosen)} of {len(runs)} by {metrics[0]}." * (len(chosen) < len(runs))
    return (
        f'<h2>Curves</h2>{line(text(said))}<div class="charts">{"".join(drawn)}</div>'
        f"{_legend(labels)}{_too_long(histories)}"
    )


def _by_rank(rank: Ranked) -> list[int]:
    """Return the places of the runs, the best first; in their order without a goal."""
    sign = -1 if rank.number == "max" else 1

    def key(row: int) -> tuple[bool, float]:
        value = rank.values[row]
        return (False, sign * value) if value is not None and value == value else (True, 0.0)

    rows = range(len(rank.values))
    return sorted(rows, key=key) if rank.best else list(rows)


def _chart(metric: str, labels: list[str], histories: list[Columns | None]) -> str:
    lines = [
        ChartLine(label, *_points(columns, metric))
        for label, columns in zip(labels, histories, strict=True)
    ]
    drawn = line_chart(lines, "step")
    return f"<div><h3>{text(metric)}</h3>{drawn}</div>" if drawn else ""


def _points(columns: Columns | None, metric: str) -> tuple[Any, Any]:
    columns = columns or columns_of([])
    rows, values = points_along(columns, stored_name(metric), columns.steps, _POINTS)
    return columns.steps[rows].astype(float), values


def _legend(labels: list[str]) -> str:
    shown = [f"<span>{swatch(i)} {text(label)}</span>" for i, label in enumerate(labels[:COLOURED])]
    if len(labels) > COLOURED:
        shown.append(f"<span>{swatch(COLOURED)} {len(labels) - COLOURED} others</span>")
    return f'<div class="legend">{"".join(shown)}</div>'


def _too_long(histories: list[Columns | None]) -> str:
    count = sum(columns is None for columns in histories)
    return line(f"{plural(count, 'run')} not drawn: history too long, or not to be read.") * (
        count > 0
    )


# ---------------------------------------------------------------------- run by run


def _sections(runs: "RunSet") -> Iterator[str]:
    """Yield a section per run until the page is long enough."""
    budget, left = Budget(_PICTURES_BYTES), _MAX_SECTIONS_CHARACTERS
    for place, key in enumerate(runs.keys[:_MAX_ROWS]):
        (section,) = runs[place : place + 1].each(partial(_section, budget=budget), "")
        section = _lean(section) or line(f"{text(key)} could not be read.")
        left -= len(section)
        if left < 0:
            return
        yield f'<div class="run" id="{_anchor(place)}">{section}</div>'


def _section(record: "RunRecord", budget: Budget) -> str:
    title = f"<b>{text(record.key)}</b> {status_badge(record.status, record.status_note)}"
    return folded(title, record_body(record, budget))


def _lean(html: str) -> str:
    """Give cells classes for their styles, which this page may have: a third of the size."""
    for each, style in CLASSES.items():
        html = html.replace(f'style="{style}"', f'class="{each}"')
    return html
