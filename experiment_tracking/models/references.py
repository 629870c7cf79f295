"""How a version is named: ``name/3``, ``name/Production``, ``name@champion``; and which that is."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiment_tracking.errors import (
    InvalidNameError,
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
)
from experiment_tracking.folder.layout import check_name
from experiment_tracking.models.events import Event
from experiment_tracking.models.stages import STAGES, find_stage
from experiment_tracking.models.state import ModelState, VersionState
from experiment_tracking.registry.columns import near

LATEST = "latest"

_SCHEME = "models:/"
_WORD = re.compile(r"[A-Za-z0-9._-]{1,120}")
_FORMS = "Write 'name/3', 'name/Production', 'name@champion', 'name/latest' or 'name'."


class Reference(NamedTuple):
    """A version as it is named; at most one of the last three is given, none for the newest."""

    name: str
    version: int | None = None
    stage: str | None = None
    alias: str | None = None


def parse_reference(reference: Any) -> Reference:
    """Read what names a version, with or without ``models:/`` in front.

    Raises
    ------
    InvalidValueError
        If it is no such text.
    InvalidTypeError
        If it is no text.

    Examples
    --------
    >>> parse_reference("models:/digits/3").version
    3
    >>> parse_reference("digits@champion").alias
    'champion'
    """
    if not isinstance(reference, str):
        raise InvalidTypeError(
            f"A model version is named by text, found {reference!r:.60} of type "
            f"{type(reference).__name__}. {_FORMS}"
        )
    text = reference.removeprefix(_SCHEME).lstrip("/")
    name, at, alias = text.partition("@")
    if at:
        if not name or not alias or "/" in text:
            raise InvalidValueError(f"{reference!r:.80} names no model version. {_FORMS}")
        return Reference(name, alias=alias)
    name, slash, which = text.partition("/")
    if not name or (slash and not which) or "/" in which:
        raise InvalidValueError(f"{reference!r:.80} names no model version. {_FORMS}")
    return _by_word(name, which, reference)


def _by_word(name: str, which: str, reference: str) -> Reference:
    if which.isascii() and which.isdigit():
        return Reference(name, version=to_version(which))
    if which.lower() in ("", LATEST):
        return Reference(name)
    if stage := find_stage(which):
        return Reference(name, stage=stage)
    import difflib  # only a mistake needs it

    words = {word.lower(): word for word in (*STAGES, LATEST)}
    close = difflib.get_close_matches(which.lower(), words, n=1)
    hint = f"Near: {name}/{words[close[0]]}." if close else f"If it is an alias: {name}@{which}."
    raise InvalidValueError(
        f"{reference!r:.80}: {which!r:.40} is no version, and no stage ({', '.join(STAGES)}). "
        f"{hint}"
    )


def to_version(version: Any) -> int:
    """Return the number of a version, given as number or as text.

    Raises
    ------
    InvalidValueError
        If it is none.
    """
    if isinstance(version, str) and re.fullmatch(r"[0-9]{1,9}", version):
        return int(version)
    try:
        number = -1 if isinstance(version, (bool, str)) else operator.index(version)
    except TypeError:
        number = -1
    if number < 1:
        raise InvalidValueError(f"A version is a number such as 3, found {version!r:.60}.")
    return number


def check_model_name(name: Any) -> str:
    """Return a name if a model may bear it: as a run's, and without ``@``.

    Raises
    ------
    InvalidNameError
        With the reason and a name that would do.
    """
    check_name(name, "The model name")
    if "@" in name:
        raise InvalidNameError(
            f"The model name {name!r:.80} holds an @, behind which an alias stands. "
            f"Write {name.replace('@', '-')!r:.80}."
        )
    return str(name)


def is_model_name(name: str) -> bool:
    """Tell whether a model may be called so."""
    try:
        check_model_name(name)
    except InvalidNameError:
        return False
    return True


def check_alias(alias: Any) -> str:
    """Return an alias if it may be one: letters, digits, ``.``, ``_``, ``-``; no number or stage.

    Raises
    ------
    InvalidNameError
        With the reason.
    """
    _check_word(alias, "An alias", "champion")
    if alias.isdigit() or find_stage(alias) or alias.lower() == LATEST:
        raise InvalidNameError(
            f"An alias may not be {alias!r}, which is a version, a stage or 'latest'. Write for "
            "example 'champion'."
        )
    return str(alias)


def check_tag(name: Any) -> str:
    """Return the name of a tag if it may be one: letters, digits, ``.``, ``_``, ``-``.

    Raises
    ------
    InvalidNameError
        With the reason.
    """
    return _check_word(name, "The name of a tag", "dataset")


def _check_word(word: Any, what: str, example: str) -> str:
    if not isinstance(word, str) or not _WORD.fullmatch(word):
        raise InvalidNameError(
            f"{what} is 1 to 120 of the characters A-Z a-z 0-9 . _ -, found {word!r:.60}. Write "
            f"for example {example!r}."
        )
    return word


# ---------------------------------------------------------------------- which one it is


def number_of(state: ModelState, wanted: Reference) -> int:
    """Return the number of the version that is meant, which is not deleted.

    Raises
    ------
    NotFoundError
        If there is none; the message shows what there is.
    """
    name, number, stage, alias = wanted
    if alias is not None:
        if alias not in state.aliases:
            raise NotFoundError(f"{name} has no alias {alias!r:.60}. {near(alias, state.aliases)}")
        return state.aliases[alias]
    if number is not None:
        _check_there(state, name, number)
        return number
    there = state.living if stage is None else state.in_stage(stage)
    if not there:
        where = f"in {stage}" if stage else "that is not deleted"
        known = ", ".join(f"{each.number} in {each.stage}" for each in state.living)
        raise NotFoundError(f"{name} has no version {where}. It has {known or 'none'}.")
    return there[0].number


def _check_there(state: ModelState, name: str, number: int) -> None:
    if number not in state.versions:
        known = ", ".join(str(each.number) for each in reversed(state.living))
        raise NotFoundError(f"{name} has no version {number}. It has {known or 'none'}.")
    version = state.versions[number]
    if version.purged:
        raise NotFoundError(f"{name}/{number} was deleted for good.")
    if version.deleted is not None:
        raise NotFoundError(gone(version.deleted, name, number))


def subject_of(state: ModelState, name: str, number: int | None) -> ModelState | VersionState:
    """Return what is meant: the model without a number, else one version that is not deleted.

    Raises
    ------
    NotFoundError
        As :func:`number_of` does.
    """
    return state if number is None else state.versions[number_of(state, Reference(name, number))]


def gone(deleted: Event, name: str, number: int | None = None) -> str:
    """Say of what is deleted by whom, when, and how it comes back."""
    key, words = key_of(name, number), repr(name) if number is None else f"{name!r}, {number}"
    how = to_do(["restore", key], f"restore({words})")
    return f"{key} is deleted, by {deleted.by} at {deleted.at}. Restore it: {how}."


def key_of(name: str, number: int | None) -> str:
    """Return how a version is named, or the model where there is no number."""
    return name if number is None else f"{name}/{number}"


def to_do(words: Sequence[str], call: str) -> str:
    """Say what to do next, at the command line and in Python.

    >>> to_do(["restore", "digits/3"], "restore('digits', 3)")
    "experiments models restore digits/3, or registry.restore('digits', 3)"
    """
    import shlex  # only a mistake needs it

    return f"experiments models {shlex.join(words)}, or registry.{call}"
