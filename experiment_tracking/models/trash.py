"""What may be deleted, brought back, and deleted for good."""

from __future__ import annotations

from collections.abc import Mapping

from experiment_tracking.errors import InvalidValueError, NotFoundError
from experiment_tracking.models.events import Wish
from experiment_tracking.models.references import gone, key_of, subject_of, to_do
from experiment_tracking.models.stages import PRODUCTION
from experiment_tracking.models.state import ModelState


def deletion(
    state: ModelState, name: str, number: int | None, by: str, known: Mapping[str, str]
) -> Wish:
    """Return the event that moves a version, or the model, to the trash.

    Raises
    ------
    InvalidValueError
        If a version is in Production or has an alias.
    NotFoundError
        If there is no such version.
    """
    subject_of(state, name, number)
    for version in state.living:
        if number in (None, version.number):
            _check_unused(state, name, version.number)
    return Wish("deleted", by, number, known)


def _check_unused(state: ModelState, name: str, number: int) -> None:
    key = key_of(name, number)
    if state.versions[number].stage == PRODUCTION:
        how = to_do(["stage", key, "archived"], f"transition({name!r}, {number}, 'Archived')")
        raise InvalidValueError(f"{key} is in Production. Move it first: {how}.")
    for alias, to in state.aliases.items():
        if to == number:
            how = to_do(["alias", name, alias, "--delete"], f"delete_alias({name!r}, {alias!r})")
            raise InvalidValueError(f"{key} has the alias {alias!r}. Take that away first: {how}.")


def restoration(state: ModelState, name: str, number: int | None, by: str) -> Wish | None:
    """Return the event that brings a version, or the model, back; None where it is not deleted.

    Raises
    ------
    NotFoundError
        If there never was one, or it was deleted for good.
    """
    if number is None:
        is_there, deleted = not state.purged, state.deleted
    else:
        if state.deleted is not None:
            raise NotFoundError(gone(state.deleted, name))
        version = state.versions.get(number)
        is_there = version is not None and not version.purged
        deleted = version.deleted if version else None
    if not is_there:
        raise NotFoundError(
            f"{key_of(name, number)} is not in the trash: it was never there, or was deleted for "
            "good. Register it again from its run."
        )
    return None if deleted is None else Wish("restored", by, number)


def purge(state: ModelState, name: str, number: int | None, by: str) -> Wish | None:
    """Return the next event by which what is in the trash goes for good; None where all did.

    Raises
    ------
    InvalidValueError
        If that version is not in the trash.
    """
    there = [version.number for version in state.trashed]
    if state.deleted is not None and number is None:
        return None if state.purged else Wish("purged", by)
    if number is None:
        return Wish("purged", by, there[-1]) if there else None
    if number in there:
        return Wish("purged", by, number)
    if number in state.versions and state.versions[number].purged:
        return None
    how = to_do(["rm", key_of(name, number)], f"delete({name!r}, {number})")
    raise InvalidValueError(f"{name}/{number} is not in the trash. Delete it first: {how}.")
