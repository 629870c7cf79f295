"""Which importer takes what: the places below a folder, and the kind of each."""

import os
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple
from urllib.parse import urlsplit

from experiment_tracking.errors import InvalidValueError, NotFoundError
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.importers import (
    csv_rows,
    lightning,
    mlflow_store,
    ray_tune,
    tensorboard_events,
    wandb_folder,
)
from experiment_tracking.importers.mlflow_run import local_path

# In the order in which they are asked. TensorBoard's event files lie in the folders of others as
# well, and say the same there; a CSV may be anything, so one is taken only where it is named.
_OWN_FOLDERS = (mlflow_store, wandb_folder, ray_tune, lightning)
IMPORTERS: dict[str, ModuleType] = {
    module.KIND: module for module in (*_OWN_FOLDERS, tensorboard_events, csv_rows)
}
"""Importers by the kind that they are for."""

_PASSED_OVER = ("mlruns", "mlartifacts", "node_modules", "site-packages", "__pycache__")


class Place(NamedTuple):
    """A file or folder that one importer takes."""

    path: str
    kind: str


def to_path(source: str) -> str:
    """Return the path that a SOURCE means: a path itself, ``sqlite:///…`` or ``file:…``.

    Raises
    ------
    InvalidValueError
        For the address of a server.
    NotFoundError
        If there is nothing.
    """
    scheme = urlsplit(source).scheme
    if scheme == "sqlite":
        path: str | None = source.removeprefix("sqlite:///")
    elif scheme == "file":
        path = local_path(source, ".") if source.startswith("file:/") else source[len("file:") :]
    elif "://" in source:
        raise InvalidValueError(
            f"{source} is the address of a server; import reads files. Give the folder or the "
            "sqlite file in which it keeps its runs."
        )
    else:
        path = source
    path = os.path.realpath(os.path.expanduser(path or ""))  # no link is followed below it
    if not os.path.exists(path):
        raise NotFoundError(f"There is nothing at {path}.")
    return path


def find_places(path: str, kind: str | None = None) -> list[Place]:
    """Find what can be imported at or below ``path``, of one kind or of all.

    A CSV counts if it is ``path`` itself or ``kind`` says so. Runs of this tracker are passed
    over.

    Raises
    ------
    NotFoundError
        If there is nothing of the kind.
    """
    if kind is not None:
        places = list(_walk(path, (IMPORTERS[kind],)))
    elif os.path.isdir(path):
        places = list(_walk(path, _OWN_FOLDERS, tensorboard_events))
    else:
        places = list(_walk(path, tuple(IMPORTERS.values())))
    if not places:
        raise NotFoundError(_nothing_at(path, kind))
    return places


def _walk(
    path: str, modules: tuple[ModuleType, ...], widest: ModuleType | None = None
) -> Iterator[Place]:
    """Yield the places from the top down; ``widest`` gets the folders that hold no other's."""
    for module in modules:
        if _recognizes(module, path):
            yield Place(path, module.KIND)
            return
    if not os.path.isdir(path):
        if widest is not None and _recognizes(widest, path):
            yield Place(path, widest.KIND)
        return
    below = [place for child in _children(path) for place in _walk(child, modules, widest)]
    # Whoever shows event files shows a folder of them as one tree of runs.
    all_theirs = widest is not None and {place.kind for place in below} == {widest.KIND}
    if widest is not None and all_theirs and _recognizes(widest, path):
        below = [Place(path, widest.KIND)]
    yield from below


def _recognizes(module: ModuleType, path: str) -> bool:
    try:
        return bool(module.recognizes(path))
    except OSError:
        return False  # Not for us to read.


def _children(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(e.path for e in entries if not _is_passed_over(e))
    except OSError:
        return []


def _is_passed_over(entry: "os.DirEntry[str]") -> bool:
    if entry.name.startswith(".") or entry.is_symlink():
        return True
    if not entry.is_dir():
        return False
    # Where it is no store itself, it holds the files of the runs of a database.
    if entry.name in ("mlruns", "mlartifacts") and mlflow_store.recognizes(entry.path):
        return False
    return entry.name in _PASSED_OVER or _is_ours(RunFolder(entry.path))


def _is_ours(folder: RunFolder) -> bool:
    return os.path.isfile(folder.history()) and os.path.isfile(folder.summary)


def _nothing_at(path: str, kind: str | None) -> str:
    if kind is not None:
        return f"There is nothing of the kind {kind} at {path}."
    beside = os.path.join(os.path.dirname(path), "mlflow.db")
    if os.path.isfile(beside):
        return (
            f"{path} holds the files of MLflow's runs, but not the runs: they are in the "
            f"database beside it. Write: experiments import {beside}"
        )
    return (
        f"There is nothing to import at {path}. Looked for: an MLflow store (mlruns/ or a sqlite "
        "file), offline W&B folders, Ray Tune results, Lightning's version_N folders, TensorBoard "
        "event files. A CSV has to be named, or asked for by --kind csv."
    )
