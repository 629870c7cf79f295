"""Which version gets a stage back, and what is to be done where none can."""

from __future__ import annotations

from collections.abc import Callable

from experiment_tracking.errors import DamagedError, InvalidValueError
from experiment_tracking.models.references import key_of, to_do
from experiment_tracking.models.state import ModelState, VersionState
from experiment_tracking.models.version import ModelVersion


def version_before(state: ModelState, name: str, stage: str) -> VersionState:
    """Return the version that had a stage before the present one, of those not deleted.

    Raises
    ------
    InvalidValueError
        If there is none: why, and what to do.
    """
    found = _living_before(state, stage)
    if not found:
        raise InvalidValueError(
            f"{name} cannot be rolled back in {stage}: {_why_none(state, name, stage)}"
        )
    return found[0]


def _living_before(state: ModelState, stage: str) -> list[VersionState]:
    return [each for each in state.before(stage) if not state.is_deleted(each.number)]


def _why_none(state: ModelState, name: str, stage: str) -> str:
    gone = state.before(stage)
    for version in gone:
        if not version.purged:
            key, number = key_of(name, version.number), version.number
            how = to_do(["restore", key], f"restore({name!r}, {number})")
            return f"{_deleted(gone, name)}. Restore one: {how}; then roll back."
    if gone:
        what = _deleted(gone, name)
    elif state.in_stage(stage):
        what = "no version was there before"
    else:
        what = "no version is there now"
    return f"{what}. Move one there: {_how_to_move(name, stage)}."


def _deleted(gone: list[VersionState], name: str) -> str:
    keys = (f"{key_of(name, v.number)}{' (for good)' if v.purged else ''}" for v in gone)
    return f"what was there before is deleted: {', '.join(keys)}"


def _how_to_move(name: str, stage: str) -> str:
    words = ["stage", f"{name}/VERSION", stage]
    return to_do(words, f"transition({name!r}, VERSION, {stage!r})")


def verify_before(
    version: ModelVersion, state: ModelState, stage: str, verify: Callable[[ModelVersion], None]
) -> None:
    """Verify the version that is to get the stage back.

    One that is damaged is not passed over unasked: the one before it may be much older.

    Raises
    ------
    DamagedError
        With what is damaged, and how to go on.
    """
    try:
        verify(version)
    except DamagedError as error:
        name, number = version.name, version.version
        if older := _living_before(state, stage)[1:]:
            how = to_do(["rm", version.key], f"delete({name!r}, {number})")
            way = f"Or pass over it to {key_of(name, older[0].number)}: {how}; then roll back"
        else:
            way = f"Or move another one there: {_how_to_move(name, stage)}"
        raise DamagedError(
            f"{name} cannot be rolled back in {stage}: {version.key}, which was there before, is "
            f"damaged. {error} {way}."
        ) from error
