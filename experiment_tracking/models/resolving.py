"""Which version of a model a reference means; where there is none, what there is."""

from __future__ import annotations

from experiment_tracking.errors import NotFoundError
from experiment_tracking.models.events import Event
from experiment_tracking.models.references import Reference
from experiment_tracking.models.state import ModelState, VersionState
from experiment_tracking.registry.columns import near


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
    key, words = (
        (name, repr(name)) if number is None else (f"{name}/{number}", f"{name!r}, {number}")
    )
    return (
        f"{key} is deleted, by {deleted.by} at {deleted.at}. Restore it: registry.restore({words})."
    )
