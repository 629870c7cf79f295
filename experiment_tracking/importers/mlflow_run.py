"""What the things of an MLflow run are in ours, whichever store they lie in."""

import ast
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from experiment_tracking.importers.found import (
    FoundFile,
    FoundRow,
    FoundRun,
    git_facts,
    to_iso,
)
from experiment_tracking.importers.source_files import is_folder

KIND = "mlflow"

Point = tuple[int, Any, str, float]
"""Milliseconds, step, metric, value."""

SYSTEM_PREFIX = "system/"

_STATUSES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}
_ELSEWHERE = frozenset(
    f"mlflow.{name}"
    for name in (
        "runName", "note.content", "parentRunId", "user", "gitRepoURL", "loggedImages",
        "source.name", "source.type", "source.git.commit", "source.git.branch",
        "source.git.repoURL", "log-model.history", "loggedArtifacts",
    )
)  # fmt: skip
"""Tags that have a place of their own in a run folder, or only tell of files that are kept."""
_IMAGE = re.compile(r"(?P<key>.+)[+%]step[+%](?P<step>\d+)[+%]timestamp[+%].+?(?P<suffix>\.\w+)")
_ID = re.compile(r"[\w-]+")
_INT = re.compile(r"-?(0|[1-9]\d{0,30})")
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=e))(e[-+]?\d{1,3})?", re.IGNORECASE)
_WORDS = {
    "True": True, "False": False, "None": None, "true": True, "false": False, "null": None,
    "nan": float("nan"), "inf": float("inf"), "-inf": float("-inf"),
}  # fmt: skip
_LARGEST = 1.7976931348623157e308
_CUT_AT = 6000
_FIRST_MS = 1e11


@dataclass
class StoredModel:
    """A model that MLflow 3 keeps beside its runs."""

    name: str
    uri: str
    folder: str | None
    """Where it lies on this machine."""


@dataclass
class StoredRun:
    """One run as a store has it."""

    source: str
    id: str
    name: str
    experiment: str
    status: str
    """MLflow's word."""
    start_ms: int | None
    end_ms: int | None
    user: str
    artifact_uri: str
    artifacts: str | None
    """Where they lie on this machine."""
    points: Callable[[bool], Iterable[Point]]
    """By time and step; the argument asks for the system's metrics, or for all others."""
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    experiment_tags: Mapping[str, str] = field(default_factory=dict)
    models: list[StoredModel] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of registered models: which of them, with stage and aliases."""
    datasets: list[Mapping[str, Any]] = field(default_factory=list)
    not_carried: list[str] = field(default_factory=list)


def to_found(run: StoredRun) -> FoundRun:
    """Turn a run of MLflow's into the form in which it is written."""
    tags = {name: text for name, text in run.tags.items() if name not in _ELSEWHERE}
    tags |= {f"experiment.{name}": text for name, text in run.experiment_tags.items()}
    found = FoundRun(
        KIND,
        run.source,
        run.id,
        run.tags.get("mlflow.runName") or run.name or run.id,
        run.experiment,
        params={name: to_value(text) for name, text in run.params.items()},
        tags=tags | {f"registered_model.{name}": text for name, text in run.versions.items()},
        notes=run.tags.get("mlflow.note.content", ""),
        parent=run.tags.get("mlflow.parentRunId") or None,
        created_at=to_iso(_seconds(run.start_ms)),
        ended_at=to_iso(_seconds(run.end_ms)),
        status=_STATUSES.get(run.status, "running"),
        environment=_environment(run),
        inputs=[_to_input(dataset) for dataset in run.datasets],
        not_carried=run.not_carried,
    )
    found.rows = _rows(run, found.not_carried)
    found.system_rows = to_rows(_without_prefix(run.points(True)))
    found.files = [*_artifacts(run, found), *_models(run, found)]
    if any(len(text) == _CUT_AT for text in run.params.values()):
        found.not_carried.append("the rest of params that MLflow cut at 6,000 characters")
    return found


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def to_value(text: str) -> Any:
    """Read a param, which MLflow keeps as the text of a Python value.

    >>> to_value("0.1"), to_value("None"), to_value("{'a': [1]}"), to_value("0012")
    (0.1, None, {'a': [1]}, '0012')
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text[:1] + text[-1:] in ("[]", "()", "{}"):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return text  # it only looks like one
    return text


def _environment(run: StoredRun) -> dict[str, Any]:
    tags = run.tags
    environment: dict[str, Any] = {}
    if user := tags.get("mlflow.user") or run.user:
        environment["user"] = user
    if script := tags.get("mlflow.source.name"):
        environment["entry_script"] = {
            "path": script, "module": None, "relative_name": os.path.basename(script) or script,
            "note": "MLflow keeps no code",
        }  # fmt: skip
    if commit := tags.get("mlflow.source.git.commit"):
        remote = tags.get("mlflow.source.git.repoURL") or tags.get("mlflow.gitRepoURL")
        environment["git"] = git_facts(commit, tags.get("mlflow.source.git.branch"), remote)
    return environment


def _to_input(dataset: Mapping[str, Any]) -> dict[str, Any]:
    source = str(dataset.get("source"))
    try:
        described = json.loads(source)
        places = [described[key] for key in ("uri", "url", "path") if key in described]
    except (ValueError, TypeError):
        places = []
    return {
        "name": str(dataset.get("name")),
        "kind": "dataset",
        "path": str(places[0]) if places else source,
        "fingerprint": str(dataset.get("digest")),
    }


def describe_version(number: str, stage: Any, words: list[str]) -> str:
    """Say of a registered model's version what is known of it."""
    stages = [] if stage in (None, "None") else [f"stage {stage}"]
    return ", ".join([f"version {number}", *stages, *words])


# ---------------------------------------------------------------------- rows


def _rows(run: StoredRun, not_carried: list[str]) -> Iterator[FoundRow]:
    clamped = False
    for row in to_rows(run.points(False)):
        clamped = clamped or any(abs(value) == _LARGEST for value in row[2].values())
        yield row
    if clamped:
        not_carried.append(
            "infinities: MLflow stored them as ±1.797e308, and that is what they are here"
        )


def to_rows(points: Iterable[Point]) -> Iterator[FoundRow]:
    """Put the points of one call together again: those of the same time and step."""
    for (milliseconds, step), group in groupby(points, itemgetter(0, 1)):
        # The first MLflow counted in seconds.
        seconds = milliseconds / 1000 if milliseconds > _FIRST_MS else float(milliseconds)
        row: dict[str, float] = {}
        for _, _, name, value in group:
            if name in row:
                yield step, seconds, row
                row = {}
            row[name] = value
        yield step, seconds, row


def _without_prefix(points: Iterable[Point]) -> Iterator[Point]:
    for milliseconds, step, name, value in points:
        yield milliseconds, step, name.removeprefix(SYSTEM_PREFIX), value


# ---------------------------------------------------------------------- files


def local_path(uri: str, beside: str) -> str | None:
    """Return where a URI leads on this machine, relative to the folder ``beside``.

    None for what lies elsewhere (``s3://…``, ``mlflow-artifacts:/…``).
    """
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return url2pathname(parts.path)
    if parts.scheme and not (os.name == "nt" and len(parts.scheme) == 1):
        return None
    return os.path.normpath(os.path.join(beside, uri))


def own_artifacts(path: str | None, run_id: str) -> str | None:
    """Return a folder of artifacts if it is there, and of this run.

    A store may come from a stranger, and name any folder of ours.
    """
    if path is None or not is_folder(path) or not _ID.fullmatch(run_id):
        return None
    return path if os.path.realpath(path).endswith(os.path.join(run_id, "artifacts")) else None


def _artifacts(run: StoredRun, found: FoundRun) -> Iterator[FoundFile]:
    if run.artifacts is None:
        if _may_be_missing(run.artifact_uri):
            found.tags = {**found.tags, "mlflow.artifact_uri": run.artifact_uri}
            found.not_carried.append(_elsewhere("artifacts", run.artifact_uri))
        return
    for name in sorted(os.listdir(run.artifacts)):
        path = os.path.join(run.artifacts, name)
        if name == "images" and os.path.isdir(path):
            yield from _images(path)
        else:
            kind = "model" if os.path.isfile(os.path.join(path, "MLmodel")) else None
            yield FoundFile(path, name, kind)


def _may_be_missing(uri: str) -> bool:
    """Tell whether there may be artifacts that are not to be seen from here."""
    path = local_path(uri, "/")
    if path is None or not uri:
        return bool(uri)
    # A folder of artifacts is made with the first of them. Where that of the store is there
    # (<store>/mlruns/<experiment>/<run>/artifacts), none was logged.
    for _ in range(4):
        path = os.path.dirname(path)
    return not os.path.isdir(path)


def _elsewhere(what: str, uri: str) -> str:
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return f"{what}: they are not where MLflow says on this machine, see mlflow.artifact_uri"
    return f"{what}: they lie at {parts.scheme}://{parts.hostname or ''}, not on this machine"


def _images(folder: str) -> Iterator[FoundFile]:
    """Yield what ``mlflow.log_image`` kept, by its key and step."""
    for name in sorted(os.listdir(folder)):
        path, match = os.path.join(folder, name), _IMAGE.fullmatch(name)
        if match is None:
            yield FoundFile(path, f"images/{name}")
        elif not name.endswith("compressed.webp"):  # MLflow's own smaller copy
            key, step = match["key"].replace("#", "/"), int(match["step"])
            yield FoundFile(path, f"{key}-{step:06d}{match['suffix']}", "image", step)


def _models(run: StoredRun, found: FoundRun) -> Iterator[FoundFile]:
    taken: set[str] = set()
    for model in run.models:
        if model.folder is None:
            found.not_carried.append(_elsewhere("models", model.uri))
            continue
        name, number = model.name, 1
        while name in taken:
            number += 1
            name = f"{model.name}-{number}"
        taken.add(name)
        yield FoundFile(model.folder, name, "model", description=os.path.basename(model.uri))
