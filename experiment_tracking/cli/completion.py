"""``experiments completion``: the shell completes commands, options, runs and metrics."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from experiment_tracking.cli.command import DONE, new_command
from experiment_tracking.errors import ExperimentTrackingError

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
        if completer := _COMPLETERS.get(str(action.metavar)):
            action.completer = completer  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


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


def _runs(args: argparse.Namespace) -> list[str]:
    from experiment_tracking.folder import layout

    folders = list(layout.iter_runs(layout.existing_root(args.root)))
    names = [folder.name for folder in folders]
    return ["latest", *names, *(f"{folder.project}/{folder.name}" for folder in folders)]


def _projects(args: argparse.Namespace) -> list[str]:
    from experiment_tracking.folder import layout

    return list(layout.iter_projects(layout.existing_root(args.root)))


def _metrics(args: argparse.Namespace) -> list[str]:
    from experiment_tracking.cli.command import registry_of

    return registry_of(args).list_experiments().metric_names()


_COMPLETERS = {
    **dict.fromkeys(("RUN", "A", "B"), _unless_none(_runs)),
    **dict.fromkeys(("PROJECT", "P"), _unless_none(_projects)),
    "METRIC": _unless_none(_metrics),
}
