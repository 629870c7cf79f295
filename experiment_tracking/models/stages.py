"""The stages a version may be in, and how they are written."""

from __future__ import annotations

from typing import Any

from experiment_tracking.errors import InvalidValueError

NONE, STAGING, PRODUCTION, ARCHIVED = STAGES = ("None", "Staging", "Production", "Archived")

GUARDED = (STAGING, PRODUCTION)
"""Stages that may have a gate, and before which a version's hashes are verified."""

_BY_WORD = {stage.lower(): stage for stage in STAGES}


def to_stage(stage: Any) -> str:
    """Return a stage in its own spelling, whatever its capitals; None is the stage ``"None"``.

    Raises
    ------
    InvalidValueError
        If it is none.
    """
    found = find_stage(str(stage))
    if found is None:
        raise InvalidValueError(f"{stage!r:.60} is no stage. Stages are {', '.join(STAGES)}.")
    return found


def to_guarded(stage: Any) -> str:
    """Return Staging or Production, whatever its capitals.

    Raises
    ------
    InvalidValueError
        If it is no stage, or one that anything may come to.
    """
    found = find_stage(str(stage))
    if found not in GUARDED:
        raise InvalidValueError(
            f"{stage!r:.60} has no gate: only {' or '.join(GUARDED)} may have one."
        )
    return found


def find_stage(word: str) -> str | None:
    """Return the stage that a word is, None if it is none.

    >>> find_stage("production"), find_stage("champion")
    ('Production', None)
    """
    return _BY_WORD.get(word.lower())
