"""A save of a run's model becomes a version: first its folder, flushed, then the event."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.models.events import Wish
from experiment_tracking.models.lineage import lineage
from experiment_tracking.models.publication import publish
from experiment_tracking.models.resolving import gone
from experiment_tracking.models.state import ModelState
from experiment_tracking.models.store import ModelStore
from experiment_tracking.models.version import ModelVersion
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.registry import ExperimentRegistry


def find_record(root: str, run: Any) -> RunRecord:
    """Return the record of a run, read just now.

    Parameters
    ----------
    run
        A run, a record, or anything that ``ExperimentRegistry.get`` takes.
    """
    if isinstance(run, (str, os.PathLike)):
        run = ExperimentRegistry(root).get(run)
    path = getattr(run, "path", None)
    if path is None:
        raise InvalidTypeError(
            f"A model is registered from a run, a record, a path or a key, found {run!r:.60} of "
            f"type {type(run).__name__}."
        )
    return RunRecord(path)


def register(
    store: ModelStore,
    record: RunRecord,
    artifact_path: str,
    name: str,
    step: int | None,
    by: str,
    said: Mapping[str, Any],
) -> ModelVersion:
    """Make one save of a run's model the next version; see ``ModelRegistry.register``."""
    folder = store.folder(name)
    source = record.saved_model(artifact_path, step)
    state = store.state(name)
    _check_open(state, name)
    folder.make()

    def describe(document: Mapping[str, Any]) -> dict[str, Any]:
        registered = {"registered_by": by, "artifact_path": artifact_path}
        return {**registered, **lineage(record, document, store.root)}

    number, sha256 = publish(folder, source, describe, max(state.versions, default=0))
    known = {"run": record.key, "run_id": record.id, "sha256": sha256, **said}

    def decide(state: ModelState) -> Wish:
        _check_open(state, name)
        _check_free(state, name, number)
        return Wish("registered", by, number, known)

    try:
        state = store.change(name, decide, look=store.state)
    except InvalidValueError:  # from decide, so there is no event that names the folder
        folder.drop([number])
        raise
    return store.version(name, state, number)


def _check_open(state: ModelState, name: str) -> None:
    if state.deleted is not None and not state.purged:
        raise InvalidValueError(f"{gone(state.deleted, name)} Or take another name.")


def _check_free(state: ModelState, name: str, number: int) -> None:
    # Within an instant somebody registered a version under that number and deleted it for good.
    if number in state.versions:
        raise InvalidValueError(f"{name}/{number} is taken meanwhile. Register it again.")
