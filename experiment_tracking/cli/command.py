"""What the commands share: options, the registry they look into, a record as JSON."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.screen import INDENT, Cell, Screen, say
from experiment_tracking.cli.text import clean, seconds_since

if TYPE_CHECKING:
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.registry import ExperimentRegistry
    from experiment_tracking.registry.runset import RunSet
    from experiment_tracking.settings import Identity

DONE, FAILED, USAGE, NOT_FOUND, NOT_MET = 0, 1, 2, 3, 4
"""Exit codes; the last is for a condition that is not met."""

RUN_HELP = "a path, name, project/name, start of an id, latest, latest~1 or best:METRIC"


def shared_options() -> argparse.ArgumentParser:
    """Return the options that may stand before and after the command's name."""
    # No defaults: those of the command's parser would undo what stood before its name.
    options = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = options.add_argument_group("for every command")
    group.add_argument("--root", metavar="PATH", help="the folder of projects")
    group.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    return options


def new_command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], int],
    summary: str,
    examples: str,
) -> argparse.ArgumentParser:
    """Add a command to the command line and return its parser, still without arguments."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "".join(f"  {line}\n" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared_options()],
    )
    parser.set_defaults(function=function)
    return parser


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose runs by filter, status and tag."""
    parser.add_argument(
        "--where",
        metavar="FILTER",
        help="runs that meet it: 'val/loss < 0.1 and optimizer = \"adam\"' (docs/FILTERS.md)",
    )
    parser.add_argument(
        "--status",
        action="append",
        metavar="S",
        help="running, finished, failed, killed or crashed; may be repeated",
    )
    parser.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="T",
        help="runs with the tag T, or with KEY=VALUE; may be repeated, all must hold",
    )


def add_identity(parser: argparse.ArgumentParser, *, project: bool = True) -> None:
    """Add the options that say what a new run is."""
    if project:
        parser.add_argument("--project", metavar="P", help="default: the script's name")
    parser.add_argument("--name", metavar="N", help="name of the run; default: the time")
    parser.add_argument(
        "--param", action="append", default=[], metavar="K=V", help="may be repeated"
    )
    parser.add_argument(
        "--tag", action="append", default=[], metavar="T", help="T or KEY=VALUE; may be repeated"
    )
    parser.add_argument("--notes", default="", metavar="TEXT", help="free text about the run")
    parser.add_argument("--group", metavar="G", help="group of runs that it belongs to")


def identity_of(args: argparse.Namespace) -> "Identity":
    """Return what :func:`add_identity`'s options say."""
    from experiment_tracking.folder import layout
    from experiment_tracking.logs import to_params, to_tags, to_text
    from experiment_tracking.settings import Identity

    for name, what in ((args.project, "The project name"), (args.name, "The run name")):
        if name is not None:
            layout.check_name(name, what)
    tags = {key: value for key, _, value in (tag.partition("=") for tag in args.tag)}
    group = None if args.group is None else to_text(args.group, "group")
    return Identity(
        to_params(key_values(args.param)), to_tags(tags), to_text(args.notes, "notes"), group
    )


def key_values(words: Sequence[str]) -> dict[str, Any]:
    """Read ``name=value`` words; numbers, true, false and none are taken as such."""
    from experiment_tracking.errors import InvalidValueError
    from experiment_tracking.jobs.command import to_value

    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InvalidValueError(f"{word!r} is no NAME=VALUE. Write it as in lr=0.1.")
        pairs[name] = to_value(value)
    return pairs


def root_of(args: argparse.Namespace) -> str:
    """Return the root that new runs go to."""
    from experiment_tracking.folder import layout

    return layout.find_root(args.root)


def registry_of(args: argparse.Namespace) -> "ExperimentRegistry":
    """Open the registry of the chosen root."""
    from experiment_tracking.registry.registry import ExperimentRegistry

    return ExperimentRegistry(args.root)


def chosen_runs(args: argparse.Namespace, registry: "ExperimentRegistry") -> "RunSet":
    """Return the runs that meet project, filter, status and tags."""
    check_project(registry, args.project)
    runs = registry.list_experiments(args.project, args.where, args.status)
    for tag in args.tag:
        key, equals, value = tag.partition("=")
        runs = runs.filter(tags={key: value} if equals else key)
    return runs


def named_or_chosen(args: argparse.Namespace) -> "RunSet":
    """Return the runs that are named, or else those that meet the conditions."""
    from experiment_tracking.errors import InvalidValueError, NotFoundError
    from experiment_tracking.registry.runset import RunSet

    conditions = args.project or args.where or args.status or args.tag
    if args.runs and conditions:
        raise InvalidValueError("Name runs, or choose them by --project and conditions, not both.")
    if args.runs:
        return RunSet([find_run(args, key) for key in args.runs])
    registry = registry_of(args)
    runs = chosen_runs(args, registry)
    if not runs:
        raise NotFoundError(why_empty(args, registry))
    return runs


def why_empty(args: argparse.Namespace, registry: "ExperimentRegistry") -> str:
    """Say why :func:`chosen_runs` found nothing."""
    roots = ", ".join(registry.roots)
    where = f"{roots}, project {args.project}" if args.project else roots
    if args.where or args.status or args.tag:
        return f"no run in {where} meets these conditions."
    return (
        f"there are no runs in {where} yet. Make a first one: "
        'python -c "from experiment_tracking import ExperimentTracker as T; '
        "T('first').log_metrics({'loss': 0.5})\""
    )


def say_problems(runs: "RunSet") -> None:
    """Name the runs that could not be read, or not wholly."""
    for problem in runs.problems:
        told = problem.path in problem.reason
        say(problem.reason if told else f"{problem.path}: {problem.reason}")


def check_project(registry: "ExperimentRegistry", project: str | None) -> None:
    """Insist that the project exists, where one is named."""
    from experiment_tracking.errors import NotFoundError
    from experiment_tracking.registry.columns import near

    if project is None or any(os.path.isdir(os.path.join(r, project)) for r in registry.roots):
        return
    roots = ", ".join(registry.roots)
    raise NotFoundError(
        f"There is no project {project!r} in {roots}. {near(project, registry.list_projects())}"
    )


def find_run(args: argparse.Namespace, key: str) -> "RunRecord":
    """Find one run; a path needs no root."""
    from experiment_tracking.errors import RunNotFoundError
    from experiment_tracking.folder.layout import RunFolder
    from experiment_tracking.registry.record import RunRecord

    folder = RunFolder(os.path.expanduser(key))
    if args.root is None and os.path.isdir(folder.path) and folder.exists():
        return RunRecord(folder.path)
    registry = registry_of(args)
    try:
        return registry.get(key)
    except RunNotFoundError as error:
        project = key.rstrip("/")
        if project not in registry.list_projects():
            raise
        raise RunNotFoundError(
            f"{error} {project!r} is a project; experiments ls {project} lists its runs."
        ) from None


def run_to_json(record: "RunRecord") -> dict[str, Any]:
    """Return what is known of a run as plain values."""
    plain = "name project id status created_at ended_at duration_s tags notes group parent".split()
    known: Mapping[str, Any] = {name: getattr(record, name) for name in plain}
    return {
        "run": record.key,
        **known,
        "status_note": record.status_note,
        "path": record.folder.path,
        "params": record.params,
        "metrics": record.metrics,
    }


_STATUS_STYLES = {
    "running": "cyan", "finished": "green", "failed": "red", "crashed": "red", "killed": "yellow",
}  # fmt: skip


def status_text(status: str, note: str | None) -> str:
    """Write a run's status, and for how long it has been silent."""
    return f"{status} ({note})" if note else status


def status_style(status: str) -> str:
    """Return the colour of a status."""
    return _STATUS_STYLES.get(status, "")


def elapsed_s(record: "RunRecord") -> float | None:
    """Return how long a run took, or has been running."""
    if record.status != "running":
        return record.duration_s
    started = record.attempts[-1].get("started_at") if record.attempts else record.created_at
    return seconds_since(started)


def print_title(record: "RunRecord", screen: Screen) -> None:
    """Print a run's name and status on one line."""
    status = INDENT + status_text(record.status, record.status_note)
    screen.line(Cell(clean(record.key), "bold"), Cell(status, status_style(record.status)))
