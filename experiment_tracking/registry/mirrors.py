"""How far the copies of a run elsewhere have come."""

import os
from collections.abc import Mapping
from typing import Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.documents import read_document
from experiment_tracking.folder.liveness import FINAL
from experiment_tracking.registry.summary import CLOSING_BYTES, RunSummary


def read_mirrors(run: RunSummary) -> dict[str, dict[str, Any]]:
    """Return what ``RunRecord.mirrors`` describes. Reads ``backends/*.json``."""
    try:
        files = sorted(n for n in os.listdir(run.folder.backends) if n.endswith(".json"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    names = [file.removesuffix(".json") for file in files]
    return {name: _mirror(run, name) for name in names}


def _mirror(run: RunSummary, name: str) -> dict[str, Any]:
    try:
        kept = read_document(run.folder.backend(name))
    except DamagedError as error:
        kept = {"error": f"{error} Delete it and the copy is begun anew: experiments push."}
    state, offset = kept.get("state"), kept.get("offset")
    size = _size_of(run.folder.history())
    owed = size - CLOSING_BYTES - offset if type(offset) is int else size
    url = state.get("url") if type(state) is dict else None
    known = {"url": url, "owed_bytes": max(0, owed), "complete": _is_whole(run.summary, kept)}
    return {**kept, **known}


def _is_whole(summary: Mapping[str, Any], mirror: Mapping[str, Any]) -> bool:
    """Tell whether a mirror has the run's end, and not that of an earlier attempt."""
    attempts, said = summary.get("attempts"), summary.get("status")
    number = max(len(attempts), 1) if type(attempts) is list else 1
    is_of_this_end = said not in FINAL or said == mirror.get("status")
    return bool(mirror.get("complete") and mirror.get("attempt") == number and is_of_this_end)


def _size_of(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0
