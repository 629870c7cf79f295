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


def lineage(record: RunRecord, root: str) -> dict[str, Any]:
    """Return what is kept of a run.

    Parameters
    ----------
    record
        The run, read just now.
    root
        Folder of projects, to which paths are relative where they are below it.

    Returns
    -------
    dict
        ``run``, ``params``, ``metrics`` (last values as stored), ``run_metrics`` (summaries),
        ``inputs``, ``code``.
    """
    stored = record.stored_metrics
    last = {name: kept["last"] for name, kept in stored.items() if "last" in kept}
    facts = {name: getattr(record, name) for name in RUN_COLUMNS}
    place = {"key": record.key, "name": record.name, "project": record.project}
    path = _below(record.folder.path, root)
    return {
        "run": {**place, "path": path, **_known(facts), "tags": record.tags},
        "params": record.params,
        "metrics": last,
        "run_metrics": stored,
        "inputs": record.inputs,
        "code": {"commit": record.commit, "path": _below(record.folder.code, root)},
    }


def with_save(of_run: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lineage with what ``model.json`` of one save says.

    That is ``model``; and the values that metrics had at its moment count before the run's last.
    """
    metrics = of_run["metrics"] | dict(document.get("metrics") or {})
    model = {key: document[key] for key in _OF_SAVE if document.get(key) is not None}
    return {**of_run, "metrics": metrics, "model": model}


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _below(path: str, root: str) -> str | None:
    """Return a path relative to the root, whole where it is elsewhere; None if nothing is there."""
    if not os.path.exists(path):
        return None
    # The one may be given through a link, the other not.
    real, above = os.path.realpath(path), os.path.realpath(root)
    if not real.startswith(os.path.join(above, "")):
        return path
    return os.path.relpath(real, above).replace(os.sep, "/")
