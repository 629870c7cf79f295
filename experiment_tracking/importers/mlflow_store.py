"""MLflow stores, both kinds: ``mlruns/`` and sqlite. MLflow itself is not needed.

What is read: the file store of MLflow 1 to 3 (https://mlflow.org/docs, "Tracking": file store
layout) and the tables of its sqlite store.
"""

import os
from collections.abc import Iterator
from functools import partial

from experiment_tracking.importers import mlflow_database, mlflow_files
from experiment_tracking.importers.found import FoundRun, Options, Unreadable, reading
from experiment_tracking.importers.mlflow_run import KIND, to_found

__all__ = ["KIND", "recognizes", "runs"]


def recognizes(path: str) -> bool:
    """Tell whether ``path`` is a store, a folder of one of its experiments, or of a run."""
    if os.path.isdir(path):
        return mlflow_files.is_store(path)
    return mlflow_database.is_store(path)


def runs(path: str, options: Options) -> Iterator[FoundRun | Unreadable]:
    """Yield the runs of a store; those that were deleted in MLflow only if asked for."""
    store = mlflow_files if os.path.isdir(path) else mlflow_database
    for run in store.stored_runs(path, deleted=options.deleted):
        if isinstance(run, Unreadable):
            yield run
        else:
            yield reading(f"{run.source}: run {run.id}", partial(to_found, run))
