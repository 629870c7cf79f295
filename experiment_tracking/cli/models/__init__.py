"""``experiments models``: registered models, their versions, stages and gates."""

import argparse
from typing import Any

from experiment_tracking.cli.command import USAGE, Commands, new_command
from experiment_tracking.cli.models import change, elsewhere, gates, look, trash
from experiment_tracking.cli.models.reference import names_model
from experiment_tracking.cli.screen import say

_EXAMPLES = """
experiments models
experiments models digits
experiments models register best:val/acc --name digits
experiments models promote digits/3 --reason "better on the test set"
experiments models show digits/Production
experiments models rollback digits
"""
_EPILOG = """\
REF is MODEL/VERSION, MODEL/STAGE, MODEL@ALIAS or MODEL (its latest version); models:/ may stand
before it. STAGE is none, staging, production or archived.

"""


def add(commands: Any) -> None:
    """Add the command and its verbs."""
    summary = "registered models: versions, stages, gates, roll back"
    parser = new_command(commands, "models", look.ls, summary, _EXAMPLES, one_root=True)
    parser.epilog = f"{_EPILOG}{parser.epilog}"
    parser.set_defaults(roots=[], **look.LS_DEFAULTS)
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", action=_Verbs)
    for group in (look, change, gates, trash, elsewhere):
        group.add(verbs)
    # argparse asks these whether a word is one before it calls the action.
    verbs.choices = _OrName(verbs.choices)


class _OrName(dict[str, argparse.ArgumentParser]):
    """Verbs; any other word may be the name of a model."""

    def __contains__(self, word: object) -> bool:
        return True


class _Verbs(Commands):
    """Verbs, of which ``ls`` may be left out before a model, ``show`` before a version."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Parse a verb's words, or the name of a model to list."""
        word, *others = values
        known = list(self.choices)
        if word not in known and others and others[0][:1] != "-":
            from experiment_tracking.registry.columns import near

            say(f"There is no verb {word!r}. {near(word, known)} {parser.prog} --help lists all.")
            parser.exit(USAGE)
        if word not in known:
            values = ["ls" if names_model(word) else "show", *values]
        super().__call__(parser, namespace, values, option_string)
