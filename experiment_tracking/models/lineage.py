"""Where a version came from: what it needs to stand on its own when its run is gone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from experiment_tracking.registry.index.segments import RUN_COLUMNS
from experiment_tracking.registry.record import RunRecord

_OF_SAVE = (
    "framework", "class", "parameter_count", "size_bytes", "step", "saved_at", "inference_time_ms",
    "inference_device",
)  # fmt: skip


def lineage(record: RunRecord, document: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Return what is kept of a run and of one save of a model.

    Parameters
    ----------
    record
        The run, read just now.
    document
        ``model.json`` of the save.
    root
        Folder of projects, to which paths are relative where they are below it.

    Returns
    -------
    dict
        ``run``, ``params``, ``metrics`` (last values as stored: those of the moment of the save
        before the run's), ``run_metrics`` (summaries), ``inputs``, ``code``, ``model``.
    """
    stored = record.stored_metrics
    last = {name: kept["last"] for name, kept in stored.items() if "last" in kept}
    facts = {name: getattr(record, name) for name in RUN_COLUMNS}
    place = {"key": record.key, "name": record.name, "project": record.project}
    path = _below(record.folder.path, root)
    return {
        "run": {**place, "path": path, **_known(facts), "tags": record.tags},
        "params": record.params,
        "metrics": last | dict(document.get("metrics") or {}),
        "run_metrics": stored,
        "inputs": record.inputs,
        "code": {"commit": record.commit, "path": _below(record.folder.code, root)},
        "model": {key: document[key] for key in _OF_SAVE if document.get(key) is not None},
    }


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _below(path: str, root: str) -> str | None:
    """Return a path relative to the root, whole where it is elsewhere; None if nothing is there."""
    if not os.path.exists(path):
        return None
    if not path.startswith(os.path.join(root, "")):
        return path
    return os.path.relpath(path, root).replace(os.sep, "/")
