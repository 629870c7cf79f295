"""What callers give, checked, in the form in which events keep it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.folder.amendments import user_name
from experiment_tracking.folder.values import to_tags as to_any_tags
from experiment_tracking.models.references import check_alias, check_tag, to_version


def to_person(by: Any) -> str:
    """Return who does something, by default the user at work."""
    by = user_name() if by is None else by
    if not isinstance(by, str) or not by.strip():
        raise InvalidTypeError(f"by= is {by!r:.60}. Pass a person's name.")
    return to_text(by, "by=")


def to_text(text: Any, what: str) -> str:
    """Return text as it is."""
    if not isinstance(text, str):
        raise InvalidTypeError(f"{what} must be text, found {text!r:.60}.")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidValueError(f"{what} holds half a surrogate pair: {text!a:.60}.")
    return text


def to_reason(reason: Any) -> dict[str, str]:
    """Return what an event says of its reason, nothing where there is none."""
    return {"reason": to_text(reason, "reason=")} if reason else {}


def to_tags(tags: Any) -> dict[str, str]:
    """Return tags, a mapping or words, as text to text."""
    return {check_tag(tag): text for tag, text in to_any_tags(tags).items()}


def to_version_or_model(version: Any) -> int | None:
    """Return the number of a version, None for the model as a whole."""
    return None if version is None else to_version(version)


def said_of_version(description: Any, tags: Any, aliases: Iterable[Any] | str) -> dict[str, Any]:
    """Return what is said of a version with its registration."""
    aliases = (aliases,) if isinstance(aliases, str) else aliases
    said = {
        "description": to_text(description, "A description"),
        "tags": to_tags(tags),
        "aliases": list(dict.fromkeys(check_alias(alias) for alias in aliases)),
    }
    return {key: value for key, value in said.items() if value}
