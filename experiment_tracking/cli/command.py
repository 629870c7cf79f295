"""What the commands share: options, the registry they look into, a record as JSON."""

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.screen import INDENT, Cell, Screen, say
from experiment_tracking.cli.text import clean, names, seconds_since

if TYPE_CHECKING:
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.registry import ExperimentRegistry
    from experiment_tracking.registry.runset import RunSet
    from experiment_tracking.settings import Identity

DONE, FAILED, USAGE, NOT_FOUND, NOT_MET = 0, 1, 2, 3, 4
"""Exit codes; the last is for a condition that is not met."""

RUN_HELP = "a path, name, project/name, start of an id, latest, latest~1 or best:METRIC"

_ALSO_CALLED = {"list": "ls", "delete": "rm", "remove": "rm", "move": "mv", "undo": "restore"}
"""What other programs call a command, by which difflib would not find ours."""


class Parser(argparse.ArgumentParser):
    """A parser that answers a command it does not know by those near it."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, Commands) and value not in action.choices:
            close = _close(_ALSO_CALLED.get(value, value), action.choices)
            say(f"There is no command {value!r}.{close} {self.prog} --help lists them.")
            self.exit(USAGE)
        super()._check_value(action, value)


# argparse has no public name for it, and no other way to what a command did not understand.
class Commands(argparse._SubParsersAction):  # type: ignore[type-arg]
    """Commands that answer for what they do not understand; roots before a name stay."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Parse a command's words."""
        name, *words = values
        command = self.choices[name]
        found, unknown = command.parse_known_args(words)
        options = [word.partition("=")[0] for word in unknown if word[:1] == "-" and word != "--"]
        if unknown and not options:
            # argparse does not look for more runs behind the options that stand behind runs.
            found, unknown = command.parse_known_intermixed_args(words)
        if unknown:
            _refuse(command, unknown, options)
        roots = namespace.roots + getattr(found, "roots", [])
        vars(namespace).update({**vars(found), self.dest: name, "roots": roots})


def _refuse(command: argparse.ArgumentParser, words: list[str], options: list[str]) -> None:
    if options:
        close = _close(options[0], command._option_string_actions)
        command.error(f"there is no option {options[0]}.{close} {command.prog} --help lists all.")
    found = ", ".join(map(repr, words))
    command.error(f"{found}: one word too many. {command.prog} --help says what it takes.")


def _close(word: str, known: Iterable[str]) -> str:
    import difflib  # only a mistake needs it

    close = difflib.get_close_matches(word, list(known), n=3)
    return f" Near: {', '.join(close)}." if close else ""


class Names(argparse.Action):
    """Names divided by commas; those of a repeated option are added."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add names."""
        known = getattr(namespace, self.dest, None) or []
        setattr(namespace, self.dest, [*known, *names(values)])


class _Project(argparse.Action):
    """One project, however often and wherever it is said."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        known = getattr(namespace, self.dest, None)
        if known not in (None, values):
            parser.error(f"one project is taken, found {known!r} and {values!r}.")
        setattr(namespace, self.dest, values)


def shared_options() -> argparse.ArgumentParser:
    """Return the options that may stand before and after the command's name."""
    # No defaults: those of the command's parser would undo what stood before its name.
    options = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = options.add_argument_group("for every command")
    group.add_argument(
        "--root",
        dest="roots",
        action="append",
        metavar="PATH",
        help="the folder of projects; to read several, it may be repeated",
    )
    group.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    return options


def new_command(
    commands: Any,
    name: str,
    function: Callable[[argparse.Namespace], int],
    summary: str,
    examples: str,
    *,
    one_root: bool = False,
) -> argparse.ArgumentParser:
    """Add a command to the command line and return its parser, still without arguments.

    Parameters
    ----------
    one_root
        Whether it refuses several roots, as what makes or changes runs does.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + "".join(f"  {line}\n" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared_options()],
    )
    parser.set_defaults(function=function, one_root=one_root)
    return parser


def add_project(
    parser: argparse.ArgumentParser,
    what: str = "runs of this project alone",
    *,
    positional: bool = True,
) -> None:
    """Add ``--project``, and the same as a word without it."""
    parser.set_defaults(project=None)
    if positional:
        # Where the word is missing, argparse would put a default over what the option says.
        parser.add_argument(
            "project",
            nargs="?",
            action=_Project,
            default=argparse.SUPPRESS,
            metavar="PROJECT",
            help=what,
        )
    parser.add_argument(
        "--project", action=_Project, metavar="P", help="the same" if positional else what
    )


def add_filters(parser: argparse.ArgumentParser, *, status: bool = True, tag: bool = True) -> None:
    """Add the options that choose runs by filter, status and tag."""
    parser.set_defaults(with_status=None, with_tag=[])
    parser.add_argument(
        "--where",
        action="append",
        metavar="FILTER",
        help="runs that meet it: 'val/loss < 0.1 and optimizer = \"adam\"' (docs/FILTERS.md); "
        "may be repeated, all must hold",
    )
    if status:
        parser.add_argument(
            "--status",
            dest="with_status",
            action=Names,
            metavar="S,T",
            help="running, finished, failed, killed or crashed; may be repeated",
        )
    if tag:
        parser.add_argument(
            "--tag",
            dest="with_tag",
            action="append",
            metavar="T",
            help="runs with the tag T, or with KEY=VALUE; may be repeated, all must hold",
        )


def format_name(word: str) -> str:
    """Read the name of a text format, for argparse."""
    return "markdown" if word == "md" else word


def add_identity(parser: argparse.ArgumentParser, *, project: bool = True) -> None:
    """Add the options that say what a new run is."""
    if project:
        add_project(parser, "default: the script's name", positional=False)
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

    return layout.find_root(given_root(args))


def given_root(args: argparse.Namespace) -> str | None:
    """Return the one root that is given, None where none is."""
    root: str | None = args.roots[0] if args.roots else None
    return root


def check_root(args: argparse.Namespace) -> None:
    """Insist on one root where runs are made or changed."""
    from experiment_tracking.errors import InvalidValueError

    if args.one_root and len(set(args.roots)) > 1:
        raise InvalidValueError(
            f"{args.command} takes one --root, found {', '.join(args.roots)}. Only what reads "
            "takes several."
        )


def registry_of(args: argparse.Namespace) -> "ExperimentRegistry":
    """Open the registry of the chosen roots."""
    from experiment_tracking.registry.registry import ExperimentRegistry

    return ExperimentRegistry(args.roots or None)


def chosen_runs(args: argparse.Namespace, registry: "ExperimentRegistry") -> "RunSet":
    """Return the runs that meet project, filter, status and tags."""
    check_project(registry, args.project)
    runs = registry.list_experiments(args.project, _where(args.where), args.with_status)
    for tag in args.with_tag:
        key, equals, value = tag.partition("=")
        runs = runs.filter(tags={key: value} if equals else key)
    return runs


def _where(filters: Sequence[str] | None) -> str | None:
    """Join filters by and; each must be one by itself."""
    if not filters or len(filters) == 1:
        return filters[0] if filters else None
    from experiment_tracking.registry.filters.filter import parse

    return " and ".join(f"({parse(each)})" for each in filters)


def has_conditions(args: argparse.Namespace) -> bool:
    """Tell whether an option chooses runs."""
    return bool(args.project or args.where or args.with_status or args.with_tag)


def check_any_chosen(args: argparse.Namespace) -> None:
    """Refuse to take all runs there are for those that are meant."""
    from experiment_tracking.errors import InvalidValueError

    if not args.runs and not has_conditions(args):
        raise InvalidValueError(
            "No run is named. Name some, or choose them: --where 'val/loss > 1', --project P."
        )


def named_or_chosen(args: argparse.Namespace) -> "RunSet":
    """Return the runs that are named, or else those that meet the conditions."""
    from experiment_tracking.errors import InvalidValueError, NotFoundError
    from experiment_tracking.registry.runset import RunSet

    if args.runs and has_conditions(args):
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
    if args.where:
        return f"no run in {where} meets these conditions: {_counts(args, registry)}."
    if args.with_status or args.with_tag:
        return f"no run in {where} meets these conditions."
    return (
        f"there are no runs in {where} yet. Make a first one: "
        'python -c "from experiment_tracking import ExperimentTracker as T; '
        "T('first').log_metrics({'loss': 0.5})\""
    )


def _counts(args: argparse.Namespace, registry: "ExperimentRegistry") -> str:
    """Say how many runs meet each comparison of the filter."""
    from experiment_tracking.registry.filters.filter import parse

    runs = registry.list_experiments(args.project)
    asked = parse(_where(args.where) or "")
    return ", ".join(asked.explain(runs.column, len(runs))) or "there are no runs yet"


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
    if not args.roots and os.path.isdir(folder.path) and folder.exists():
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
