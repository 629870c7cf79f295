"""Which registry, model and version the words of a command mean."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.command import DONE, FAILED, given_root
from experiment_tracking.cli.screen import say
from experiment_tracking.cli.trash import near_root

if TYPE_CHECKING:
    from experiment_tracking.models.registry import ModelRegistry

REF_HELP = "name/version, name/stage, name@alias, or a name: its latest version"
STAGE_HELP = "none, staging, production or archived"

_DIVIDED = re.compile(r"(?:models:/)?([^/@:#]+)[:#](v?[0-9]+|[A-Za-z]+)")
"""How other programs name a version."""


def add_reference(parser: argparse.ArgumentParser, what: str = REF_HELP, **options: Any) -> None:
    """Add the word that says which version."""
    parser.add_argument("reference", metavar="REF", type=to_reference, help=what, **options)


def to_reference(word: str) -> str:
    """Take what names a version or a model, for argparse; ``name:3`` is answered by ``name/3``.

    >>> to_reference("digits:v2")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: 'digits:v2' names no version. Near: digits/2.
    """
    if found := _DIVIDED.fullmatch(word):
        name, which = found.groups()
        which = re.sub(r"v(?=[0-9])", "", which)
        raise argparse.ArgumentTypeError(f"{word!r} names no version. Near: {name}/{which}.")
    return word


def add_reason(parser: argparse.ArgumentParser) -> None:
    """Add the option that says why, for those who read the audit trail."""
    parser.add_argument("--reason", default="", metavar="TEXT", help="why; kept in the log")


def registry_of(args: argparse.Namespace) -> "ModelRegistry":
    """Open the registry of the chosen root, which must be there: a mistyped one is not empty."""
    from experiment_tracking.models.registry import ModelRegistry

    return ModelRegistry(near_root(given_root(args)))


def why_empty(registry: "ModelRegistry") -> str:
    """Say what to do where there is no model yet."""
    return (
        f"no model is registered in {registry.root} yet. Register one: experiments models "
        "register RUN --name MODEL"
    )


def say_problems(registry: "ModelRegistry") -> int:
    """Name the models that could not be read when they were listed; return the exit code."""
    for problem in registry.problems:
        say(problem.reason)
    return FAILED if registry.problems else DONE


def find_target(registry: "ModelRegistry", reference: str) -> tuple[str, int | None]:
    """Return name and version; of a name alone no version, for it means the model as a whole."""
    if names_model(reference):
        return reference.removeprefix("models:/"), None
    version = registry.get(reference)
    return version.name, version.version


def names_model(reference: str) -> bool:
    """Tell whether a word is the name of a model alone."""
    name = reference.removeprefix("models:/")
    return "/" not in name and "@" not in name
