"""A save of a run's model becomes a version: first its folder, flushed, then the event."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from experiment_tracking.errors import InvalidTypeError, InvalidValueError, RunNotFoundError
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.formats.models.saved import SavedModel
from experiment_tracking.models.events import Wish
from experiment_tracking.models.lineage import lineage, with_save
from experiment_tracking.models.publication import publish
from experiment_tracking.models.references import gone
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
        A run, a tracker with an open one, a record, or anything that ``ExperimentRegistry.get``
        takes.
    """
    # The tracker is a floor above; its run is the one that it logs to.
    if not hasattr(run, "path") and (run := getattr(run, "run", run)) is None:
        raise InvalidTypeError("The tracker has no open run. Pass the run, its path or its key.")
    path = getattr(run, "path", run)
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidTypeError(
            f"A model is registered from a run, a tracker with an open one, a record, a path or a "
            f"key, found {run!r:.60} of type {type(run).__name__}."
        )
    # A path needs no root: that of the registry may be made by this very registration.
    is_run = path is not run or (os.path.isabs(path) and RunFolder(path).exists())
    return RunRecord(path if is_run else ExperimentRegistry(root).get(path).path)


def register(
    store: ModelStore,
    record: RunRecord,
    source: SavedModel,
    artifact_path: str,
    name: str,
    by: str,
    said: Mapping[str, Any],
) -> ModelVersion:
    """Make one save of a run's model the next version; see ``ModelRegistry.register``."""
    folder = store.folder(name)
    state = store.state(name)
    _check_open(state, name)
    of_run = lineage(record, store.root)
    folder.make()

    taken: dict[str, Any] = {"artifact_path": artifact_path}

    def describe(document: Mapping[str, Any]) -> dict[str, Any]:
        _check_run(record)
        taken["step"] = document.get("step")
        registered = {"registered_by": by, "artifact_path": artifact_path}
        return {**registered, **with_save(of_run, document)}

    number, sha256 = publish(folder, source, describe, max(state.versions, default=0))
    known = {"run": record.key, "run_id": record.id, **taken, "sha256": sha256, **said}

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


def _check_run(record: RunRecord) -> None:
    # Its documents are optional: those of a run that is being deleted read as if it had none.
    if not record.folder.exists():
        raise RunNotFoundError(
            f"Run {record.key} is not in {record.path} any more: it was moved or deleted while it "
            "was registered. Register it from where it is now."
        )


def _check_open(state: ModelState, name: str) -> None:
    if state.deleted is not None and not state.purged:
        raise InvalidValueError(f"{gone(state.deleted, name)} Or take another name.")


def _check_free(state: ModelState, name: str, number: int) -> None:
    # Within an instant somebody registered a version under that number and deleted it for good.
    if number in state.versions:
        raise InvalidValueError(f"{name}/{number} is taken meanwhile. Register it again.")
