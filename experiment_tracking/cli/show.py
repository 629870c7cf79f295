"""``experiments show``: everything about one run."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    FAILED,
    RUN_HELP,
    elapsed_s,
    find_run,
    new_command,
    print_title,
    run_to_json,
)
from experiment_tracking.cli.screen import INDENT, Cell, Screen, column_of, json_out, say

if TYPE_CHECKING:
    from experiment_tracking.registry.record import RunRecord

_EXAMPLES = """
experiments show latest
experiments show digits/lr-0.1
experiments show best:val/loss --json | jq .params
"""
_STYLES = {"error": "red"}
_NUMBERS = (
    ("last", 0), ("last_step", 3), ("best", 1), ("best_step", 3),
    ("min", 2), ("min_step", 4), ("max", 2), ("max_step", 4), ("mean", 5), ("count", 5),
)  # fmt: skip
"""Columns of the metrics' table, with how soon they make room for others."""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(commands, "show", show, "show everything about one run", _EXAMPLES)
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)


def show(args: argparse.Namespace) -> int:
    """Print one run."""
    record = find_run(args, args.run)
    if args.json:
        json_out(_as_json(record))
        return DONE
    return _print(record, Screen())


def _as_json(record: "RunRecord") -> dict[str, Any]:
    return {
        **run_to_json(record),
        "error": record.error,
        "attempts": record.attempts,
        "artifacts": record.artifacts,
        "environment": record.environment,
    }


def _print(record: "RunRecord", screen: Screen) -> int:
    """Print section by section; one whose file is damaged does not hide the others."""
    from experiment_tracking.errors import DamagedError

    code = DONE
    print_title(record, screen)
    for section in (_print_identity, _print_params, _print_metrics, _print_artifacts):
        try:
            section(record, screen)
        except BrokenPipeError:  # of stdout: nobody reads any more
            raise
        except (DamagedError, OSError) as error:
            say(str(error))
            code = FAILED
    return code


def _print_identity(record: "RunRecord", screen: Screen) -> None:
    screen.pairs(_identity(record))


def _identity(record: "RunRecord") -> list[tuple[str, Cell]]:
    known = (
        ("id", record.id),
        ("created", _moment(record.created_at)),
        ("ended", text.local_time(record.ended_at) if record.ended_at else ""),
        ("duration", text.duration(elapsed_s(record))),
        ("attempts", len(record.attempts) if len(record.attempts) > 1 else ""),
        ("processes", _processes(record)),
        ("error", _error(record.error)),
        ("group", record.group),
        ("parent", record.parent),
        ("tags", text.tags(record.tags) if record.tags else ""),
        ("git", _git(record.environment.get("git"))),
        ("command", _command(record.environment)),
        ("python", record.environment.get("python_version")),
        ("host", record.environment.get("hostname")),
        ("path", record.folder.path),
        ("notes", record.notes),
    )
    return [(name, Cell(str(value), _STYLES.get(name, ""))) for name, value in known if value]


def _moment(moment: str | None) -> str:
    return f"{text.local_time(moment)} ({text.age(moment)} ago)" if moment else ""


def _processes(record: "RunRecord") -> str:
    ranks = record.folder.ranks()
    return f'{len(ranks)} further (history(ranks="all") in Python)' if ranks else ""


def _error(error: Mapping[str, str] | None) -> str:
    return f"{error.get('type', '')}: {error.get('message', '')}" if error else ""


def _git(git: Any) -> str:
    if not isinstance(git, Mapping) or not git.get("commit"):
        return ""
    branch = f" on {git['branch']}" if git.get("branch") else ""
    return f"{str(git['commit'])[:12]}{branch}{', with changes' if git.get('dirty') else ''}"


def _command(environment: Mapping[str, Any]) -> str:
    words = environment.get("command")
    if not isinstance(words, list):
        return ""
    import shlex

    return shlex.join(map(str, words))


def _print_params(record: "RunRecord", screen: Screen) -> None:
    if record.params:
        screen.heading("params")
        _print_tree(record.params, screen, INDENT)


def _print_tree(params: Mapping[str, Any], screen: Screen, indent: str) -> None:
    """Print nested params as an indented tree, the values of one level below each other."""
    widths = [text.width_of(text.clean(k)) for k, v in params.items() if not _is_branch(v)]
    for name, value in params.items():
        if _is_branch(value):
            screen.line(Cell(indent + text.clean(name), "dim"))
            _print_tree(value, screen, indent + INDENT)
        else:
            label = text.pad(text.clean(name), max(widths))
            screen.pairs([(indent + label, Cell(str(value) or "''"))])


def _is_branch(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _print_metrics(record: "RunRecord", screen: Screen) -> None:
    metrics = record.metrics
    if not metrics:
        return
    screen.heading("metrics")
    names = list(metrics)
    columns = [column_of("", names, text.clean)]
    if any(summary.get("nonfinite") for summary in metrics.values()):
        columns.append(column_of("not finite", list(metrics.values()), _not_finite, rank=1))
    for number, rank in _NUMBERS:
        values = [metrics[name].get(number) for name in names]
        if any(value is not None for value in values):
            header = "step" if number.endswith("_step") else number
            styles = ["green" if number == "best" else ""] * len(values)
            columns.append(column_of(header, values, text.number, rank=rank, styles=styles))
    screen.table(columns, INDENT)


def _not_finite(summary: Mapping[str, Any]) -> str:
    if not summary.get("nonfinite"):
        return text.NOTHING
    return f"since {summary.get('first_nonfinite_step')} ({summary['nonfinite']}x)"


def _print_artifacts(record: "RunRecord", screen: Screen) -> None:
    artifacts = record.artifacts
    if not artifacts:
        return
    screen.heading("artifacts")

    def values(key: str) -> list[Any]:
        return [entry.get(key) for entry in artifacts]

    columns = [
        column_of("", values("path"), text.param_or_nothing),
        column_of("kind", values("kind"), text.param_or_nothing, rank=1),
        column_of("size", values("size_bytes"), text.size, rank=2),
    ]
    if any(step is not None for step in values("step")):
        columns.append(column_of("step", values("step"), text.param_or_nothing, rank=3))
    if any(texts := values("description")):
        columns.append(column_of("description", texts, text.param_or_nothing, rank=4))
    screen.table(columns, INDENT)
