"""``experiments completion``: the shell completes commands, options, runs and metrics."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.command import DONE, new_command
from experiment_tracking.errors import ExperimentTrackingError

if TYPE_CHECKING:
    from experiment_tracking.models.registered import RegisteredModel
    from experiment_tracking.registry.runset import RunSet

ASKED = "_ARGCOMPLETE"
"""Environment variable by which the shell asks for completions instead of a command."""

_EXAMPLES = """
eval "$(experiments completion bash)"     in ~/.bashrc
eval "$(experiments completion zsh)"      in ~/.zshrc
experiments completion fish | source      in ~/.config/fish/config.fish
"""

Completer = Callable[..., list[str]]


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands, "completion", completion, "print what makes the shell complete", _EXAMPLES
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that you use")


def completion(args: argparse.Namespace) -> int:
    """Print the shell's code."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["experiments"], shell=args.shell))
    return DONE


def answer(parser: argparse.ArgumentParser) -> None:
    """Give the shell what may stand at the cursor, and end the process."""
    import argcomplete

    for action in _actions(parser):
        if completer := _COMPLETERS.get(_completed(action)):
            action.completer = completer  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def _completed(action: argparse.Action) -> str:
    """Return by what an action's completer is known: its option, else what it takes."""
    known = [option for option in action.option_strings if option in _COMPLETERS]
    return known[0] if known else str(action.metavar)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action


# ---------------------------------------------------------------------- what there is


def _unless_none(complete: Callable[[argparse.Namespace], list[str]]) -> Completer:
    """Complete nothing where there is no root yet: a shell has no place for a message."""

    def completer(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        with contextlib.suppress(ExperimentTrackingError, OSError):
            return complete(parsed_args)
        return []

    return completer


def _roots(args: argparse.Namespace) -> list[str]:
    from experiment_tracking.folder import layout

    return [layout.existing_root(root) for root in args.roots or [None]]


def _runs(args: argparse.Namespace) -> list[str]:
    from experiment_tracking.folder import layout

    folders = [folder for root in _roots(args) for folder in layout.iter_runs(root)]
    names = [folder.name for folder in folders]
    return ["latest", *names, *(f"{folder.project}/{folder.name}" for folder in folders)]


def _projects(args: argparse.Namespace) -> list[str]:
    from experiment_tracking.folder import layout

    return [project for root in _roots(args) for project in layout.iter_projects(root)]


def _known(args: argparse.Namespace) -> "RunSet":
    """Return what the index says of the runs, of the project alone that is named already."""
    from experiment_tracking.cli.command import registry_of

    return registry_of(args).list_experiments(getattr(args, "project", None))


def _metrics(args: argparse.Namespace) -> list[str]:
    return _known(args).metric_names()


def _tags(args: argparse.Namespace) -> list[str]:
    return _known(args).tag_names()


def _columns(args: argparse.Namespace) -> list[str]:
    from experiment_tracking.registry.columns import RUN_COLUMNS

    runs = _known(args)
    tags = [f"tags.{name}" for name in runs.tag_names()]
    return [*RUN_COLUMNS, *runs.param_names(), *runs.metric_names(), *tags]


def _params(args: argparse.Namespace) -> list[str]:
    """Names of the params of the run that is named already, or of all."""
    from experiment_tracking.cli.command import find_run
    from experiment_tracking.registry.record import flat

    if getattr(args, "run", None) is None:
        return _known(args).param_names()
    return list(flat(find_run(args, args.run).params))


def _artifacts(args: argparse.Namespace) -> list[str]:
    """Names of the models in the run that is named already."""
    from experiment_tracking.cli.command import find_run

    entries = find_run(args, args.run).artifacts
    return sorted({str(entry.get("name")) for entry in entries if entry.get("kind") == "model"})


def _models(args: argparse.Namespace) -> "list[RegisteredModel]":
    from experiment_tracking.models.registry import ModelRegistry

    return [model for root in args.roots or [None] for model in ModelRegistry(root).list()]


def _references(args: argparse.Namespace) -> list[str]:
    """Names of registered models, of their versions, and what else these are called."""
    found = []
    for model in _models(args):
        stages = {version.stage for version in model.versions} - {"None"}
        found += [model.name, *(version.key for version in model.versions)]
        found += [f"{model.name}/{stage}" for stage in sorted(stages)]
        found += [f"{model.name}@{alias}" for alias in model.aliases]
    return found


def _stages(_: argparse.Namespace) -> list[str]:
    from experiment_tracking.models.stages import STAGES

    return [stage.lower() for stage in STAGES]


def _last_of(complete: Callable[[argparse.Namespace], list[str]]) -> Completer:
    """Complete the last of names divided by commas."""
    inner = _unless_none(complete)

    def completer(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:
        before, comma, _last = prefix.rpartition(",")
        return [before + comma + name for name in inner(parsed_args)]

    return completer


def _statuses(_: argparse.Namespace) -> list[str]:
    from experiment_tracking.folder.liveness import STATUSES

    return list(STATUSES)


_COMPLETERS = {
    **dict.fromkeys(("RUN", "A", "B"), _unless_none(_runs)),
    **dict.fromkeys(("PROJECT", "P"), _unless_none(_projects)),
    "MODEL": _unless_none(lambda args: [model.name for model in _models(args)]),
    "REF": _unless_none(_references),
    "STAGE": _unless_none(_stages),
    "ARTIFACT": _unless_none(_artifacts),
    "METRIC": _unless_none(_metrics),
    "PARAM": _last_of(_params),
    "NAME=VALUE": _unless_none(lambda args: [f"{name}=" for name in _params(args)]),
    "--metrics": _last_of(_metrics),
    "--status": _last_of(_statuses),
    **dict.fromkeys(("--columns", "--by", "--over"), _last_of(_columns)),
    **dict.fromkeys(("COL", "FILTER"), _unless_none(_columns)),
    **dict.fromkeys(("--tag", "--keep-tag"), _unless_none(_tags)),
}
