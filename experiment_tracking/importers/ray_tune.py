"""Ray Tune's results: a folder per experiment, in it a folder per trial.

Layout: ``ray.tune`` (``result.json`` has one JSON object a line), seen with Ray 2.60.
"""

import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from experiment_tracking.importers.csv_rows import table_run
from experiment_tracking.importers.found import (
    FoundFile,
    FoundRow,
    FoundRun,
    Options,
    Unreadable,
    reading,
    to_iso,
)
from experiment_tracking.importers.source_files import is_regular, only_regular

KIND = "ray"

_PARAMS, _RESULTS, _TABLE, _ERROR = "params.json", "result.json", "progress.csv", "error.txt"
_DERIVED = (_PARAMS, _RESULTS, _TABLE)
_NO_METRICS = frozenset(
    ("config", "trial_id", "experiment_id", "experiment_tag", "pid", "hostname", "node_ip", "date",
     "timestamp", "training_iteration", "done", "iterations_since_restore", "time_since_restore",
     "checkpoint_dir_name", "should_checkpoint", "warmup_time")
)  # fmt: skip
_STATUSES = {"TERMINATED": "finished", "ERROR": "failed"}
_TAIL_BYTES = 1 << 20


def recognizes(path: str) -> bool:
    """Tell whether ``path`` is an experiment, or one trial."""
    return os.path.isdir(path) and (_is_trial(path) or bool(_trials(path)))


def runs(path: str, options: Options) -> Iterator[FoundRun | Unreadable]:
    """Yield the trials of an experiment, in the order of their folders' names."""
    path = os.path.abspath(path)
    trials = [path] if _is_trial(path) else _trials(path)
    statuses = _said_statuses(os.path.dirname(trials[0]))
    for trial in trials:
        yield reading(trial, partial(_run, trial, statuses, options))


def _is_trial(path: str) -> bool:
    has = [is_regular(os.path.join(path, name)) for name in _DERIVED]
    return has[0] and any(has[1:])


def _trials(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(e.path for e in entries if e.is_dir() and _is_trial(e.path))
    except OSError:
        return []


def _said_statuses(experiment: str) -> dict[str, str]:
    """Read what the experiment's newest state says of its trials, by their ids."""
    names = [n for n in os.listdir(experiment) if n.startswith("experiment_state-")]
    if not names:
        return {}
    try:
        state = _read(os.path.join(experiment, max(names)))
        entries = state.get("trial_data") or state.get("checkpoints") or []
        trials = [json.loads(e[0] if isinstance(e, list) else e) for e in entries]
        return {str(trial["trial_id"]): str(trial["status"]) for trial in trials}
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return {}  # The trials' own files tell nearly as much.


def _read(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8", errors="replace", opener=only_regular) as file:
        value = json.load(file)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, expected an object.")
    return value


def _run(trial: str, statuses: Mapping[str, str], options: Options) -> FoundRun:
    experiment = os.path.basename(os.path.dirname(trial))
    results = os.path.join(trial, _RESULTS)
    first, last = _ends(results)
    trial_id = str(last.get("trial_id") or os.path.basename(trial))
    error = _text(os.path.join(trial, _ERROR))
    done = "finished" if last.get("done") is True else "running"
    found = FoundRun(
        KIND,
        trial,
        f"{experiment}/{trial_id}",
        trial_id,
        experiment,
        group=experiment,
        created_at=to_iso(_start(first) or os.stat(os.path.join(trial, _PARAMS)).st_mtime),
        ended_at=to_iso(last.get("timestamp")),
        status="failed" if error else _STATUSES.get(statuses.get(trial_id, ""), done),
        error=error,
        host=str(last.get("hostname") or ""),
    )
    _take_params(found, os.path.join(trial, _PARAMS), last)
    if tag := last.get("experiment_tag"):
        found.tags = {"experiment_tag": str(tag)}
    if is_regular(results):
        found.rows = _rows(results, found.not_carried)
    else:
        started = found.created_at
        table_run(found, os.path.join(trial, _TABLE), options)
        found.created_at = started
    for name in sorted(os.listdir(trial)):
        # The event files have the same numbers once more.
        if name not in _DERIVED and "tfevents" not in name:
            found.files.append(FoundFile(os.path.join(trial, name), name))
    return found


def _take_params(found: FoundRun, path: str, last: Mapping[str, Any]) -> None:
    try:
        found.params = _read(path)
    except (OSError, ValueError, RecursionError):
        config = last.get("config")
        found.params = config if isinstance(config, dict) else {}
        found.not_carried.append(f"{_PARAMS}: it cannot be read; params are those of the results")


def _start(first: Mapping[str, Any]) -> float | None:
    """Time at which a trial began: that of its first result, less what it took."""
    try:
        return float(first["timestamp"]) - float(first.get("time_total_s") or 0)
    except (KeyError, TypeError, ValueError):
        return None


def _ends(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the first and the last result; empty where there is none."""
    try:
        with open(path, "rb", opener=only_regular) as file:
            first = file.readline()
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}, {}
    parsed = (result for line in reversed(lines) if (result := _parse(line)))
    return _parse(first) or {}, next(parsed, {})


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        result = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) else None


def _rows(path: str, not_carried: list[str]) -> Iterator[FoundRow]:
    texts: dict[str, None] = {}
    damaged = False
    with open(path, "rb", opener=only_regular) as file:
        for line in file:
            result = _parse(line)
            if result is None:
                damaged = damaged or bool(line.strip())
                continue
            metrics = {}
            for name, value in _flat(result):
                if isinstance(value, (int, float)):
                    metrics[name] = value
                elif value is not None:
                    texts[name] = None
            yield result.get("training_iteration"), result.get("timestamp"), metrics
    not_carried += [f"result {name!r}: it is no number" for name in texts]
    if damaged:
        not_carried.append("damaged lines of result.json")


def _flat(result: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is nested under names joined by ``/``, without Ray's own bookkeeping."""
    for name, value in result.items():
        if not above and name in _NO_METRICS:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace", opener=only_regular) as file:
            return file.read()
    except FileNotFoundError:
        return ""
