"""How a version is named: ``name/3``, ``name/Production``, ``name@champion``, ``name``."""

from __future__ import annotations

import operator
import re
from typing import Any, NamedTuple

from experiment_tracking.errors import InvalidNameError, InvalidTypeError, InvalidValueError
from experiment_tracking.folder.layout import check_name
from experiment_tracking.models.stages import STAGES, find_stage

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
    near = difflib.get_close_matches(which.lower(), words, n=1)
    hint = f"Near: {name}/{words[near[0]]}." if near else f"If it is an alias: {name}@{which}."
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
