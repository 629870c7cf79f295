"""MLflow's sqlite store, ``mlflow.db``, read without MLflow and without a change to the file."""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from experiment_tracking.importers.found import Unreadable, reason_of
from experiment_tracking.importers.mlflow_run import (
    Point,
    StoredModel,
    StoredRun,
    describe_version,
    local_path,
    own_artifacts,
)
from experiment_tracking.importers.source_files import only_regular

_MAGIC = b"SQLite format 3\0"
_NEAR = ("", "mlruns", "mlartifacts")
"""Folders beside the file in which MLflow and its server keep artifacts."""


def is_store(path: str) -> bool:
    """Tell whether a file is a sqlite store of MLflow's."""
    try:
        with open(path, "rb", opener=only_regular) as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return False
    except OSError:
        return False
    try:
        return {"experiments", "runs", "metrics", "params", "tags"} <= _Database(path).tables
    except OSError:  # locked, or damaged; whoever reads it says so
        return "mlflow" in os.path.basename(path)


def stored_runs(path: str, *, deleted: bool) -> Iterator[StoredRun | Unreadable]:
    """Yield the runs, experiment by experiment, the oldest first.

    Raises
    ------
    OSError
        If the database cannot be read at all.
    """
    database = _Database(path)
    versions, models = database.model_versions(), database.logged_models()
    for row in database.ask(_RUNS):
        gone = "deleted" in (row["lifecycle_stage"], row["experiment_stage"])
        if gone and not deleted:
            continue
        try:
            run = database.run(row)
            run.versions = versions.get(run.id, {})
            run.models = models.get(run.id, [])
            yield run
        except Exception as error:
            yield Unreadable(f"{path}: run {row['run_uuid']}", reason_of(error))


_RUNS = """
SELECT runs.run_uuid, runs.name, runs.experiment_id, runs.status, runs.start_time, runs.end_time,
    runs.user_id, runs.artifact_uri, runs.source_name, runs.source_version, runs.lifecycle_stage,
    experiments.name AS experiment, experiments.lifecycle_stage AS experiment_stage
FROM runs LEFT JOIN experiments ON experiments.experiment_id = runs.experiment_id
ORDER BY runs.experiment_id, runs.start_time
"""
_ADVICE = {
    "locked": "; try again when the program that writes it is done",
    "no such column": "; this is an old store. Run: mlflow db upgrade sqlite:///{path}",
    "malformed": "; what is whole in it: sqlite3 {path} .recover | sqlite3 whole.db",
}
"""What to do, by a word in sqlite's message."""
_POINTS = """
SELECT timestamp, step, key, value, {is_nan} AS is_nan FROM metrics
WHERE run_uuid = ? AND key {like} 'system/%' ORDER BY timestamp, step, rowid
"""
_DATASETS = """
SELECT datasets.name, datasets.digest, datasets.dataset_source AS source FROM inputs
JOIN datasets ON datasets.dataset_uuid = inputs.source_id
WHERE inputs.source_type = 'DATASET' AND inputs.destination_id = ?
"""


class _Database:
    """Questions to one file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._folder = os.path.dirname(os.path.abspath(path))
        self._connection = self._open("mode=ro")
        try:
            self.tables = self._names("SELECT name FROM sqlite_master WHERE type = 'table'")
        except OSError as error:
            if "locked" in str(error):
                raise
            # A write-ahead log wants a file beside it, and perhaps nothing may be written here.
            # Without that log a database is whole only if nothing is in it.
            if os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal"):
                raise
            self._connection = self._open("mode=ro&immutable=1")
            self.tables = self._names("SELECT name FROM sqlite_master WHERE type = 'table'")
        self._has_nan = "is_nan" in self._names("SELECT name FROM pragma_table_info('metrics')")
        self._traced = self._experiments_with_traces()

    def _open(self, how: str) -> sqlite3.Connection:
        uri = f"file:{quote(os.path.abspath(self._path))}?{how}"
        try:
            connection = sqlite3.connect(uri, uri=True)
        except sqlite3.Error as error:
            raise self._unanswered(error) from error
        connection.row_factory = sqlite3.Row
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        return connection

    def ask(self, question: str, *values: Any) -> Iterator[sqlite3.Row]:
        """Yield the rows of an answer.

        Raises
        ------
        OSError
            If sqlite cannot give it.
        """
        try:
            yield from self._connection.execute(question, values)
        except (sqlite3.Error, UnicodeDecodeError) as error:  # a message may quote damaged names
            raise self._unanswered(error) from error

    def _unanswered(self, error: Exception) -> OSError:
        text = str(error)
        advice = next((_ADVICE[word] for word in _ADVICE if word in text), "")
        return OSError(f"{self._path}: {text}{advice.format(path=self._path)}")

    def _names(self, question: str) -> set[str]:
        return {row[0] for row in self.ask(question)}

    def _experiments_with_traces(self) -> set[Any]:
        if "trace_info" not in self.tables:
            return set()
        return self._names("SELECT DISTINCT experiment_id FROM trace_info")

    def run(self, row: sqlite3.Row) -> StoredRun:
        """Read one run but for its points."""
        run_id, uri = str(row["run_uuid"]), str(row["artifact_uri"] or "")
        artifacts = self._find(uri, run_id)
        near = (os.path.join(self._folder, p, str(row["experiment_id"])) for p in _NEAR[1:])
        if artifacts is None and any(map(os.path.isdir, near)):
            uri = ""  # The experiment's are here, so this run has none.
        tags = self._texts("tags", run_id)
        if row["source_name"]:
            tags.setdefault("mlflow.source.name", row["source_name"])
        if row["source_version"]:
            tags.setdefault("mlflow.source.git.commit", row["source_version"])
        not_carried = []
        if row["experiment_id"] in self._traced:
            not_carried.append("traces of its experiment")
        return StoredRun(
            self._path,
            run_id,
            str(row["name"] or ""),
            str(row["experiment"] or row["experiment_id"]),
            str(row["status"]),
            row["start_time"],
            row["end_time"],
            str(row["user_id"] or ""),
            uri,
            artifacts,
            lambda system: self._points(run_id, system),
            self._texts("params", run_id),
            tags,
            self._experiment_tags(row["experiment_id"]),
            datasets=self._datasets(run_id),
            not_carried=not_carried,
        )

    def _texts(self, table: str, run_id: str) -> dict[str, str]:
        question = f"SELECT key, value FROM {table} WHERE run_uuid = ?"
        return {row["key"]: str(row["value"] or "") for row in self.ask(question, run_id)}

    def _experiment_tags(self, experiment_id: Any) -> dict[str, str]:
        if "experiment_tags" not in self.tables:
            return {}
        question = "SELECT key, value FROM experiment_tags WHERE experiment_id = ?"
        return {row["key"]: str(row["value"] or "") for row in self.ask(question, experiment_id)}

    def _points(self, run_id: str, system: bool) -> Iterator[Point]:
        question = _POINTS.format(
            is_nan="is_nan" if self._has_nan else "0", like="LIKE" if system else "NOT LIKE"
        )
        for moment, step, name, value, is_nan in self.ask(question, run_id):
            number = float("nan") if is_nan else float(value)
            yield int(moment), step, name, number

    def _datasets(self, run_id: str) -> list[Mapping[str, Any]]:
        if not {"inputs", "datasets"} <= self.tables:
            return []
        return [dict(row) for row in self.ask(_DATASETS, run_id)]

    def _find(self, uri: str, owner: str, depth: int = 3) -> str | None:
        """Find a folder of artifacts: where the store says, or where it lies near the file.

        There it has the last ``depth`` parts of its address.
        """
        parts = [part for part in uri.replace("\\", "/").split("/") if part][-depth:]
        near = (os.path.join(self._folder, place, *parts) for place in _NEAR)
        places: Iterable[str | None] = (local_path(uri, self._folder), *near)
        return next((path for place in places if (path := own_artifacts(place, owner))), None)

    def logged_models(self) -> dict[str, list[StoredModel]]:
        """Read MLflow 3's models, by the run that each is of."""
        models: dict[str, list[StoredModel]] = {}
        if "logged_models" in self.tables:
            question = "SELECT * FROM logged_models WHERE lifecycle_stage IS NOT 'deleted'"
            for row in self.ask(question):
                uri = str(row["artifact_location"])
                # <experiment>/models/<id>/artifacts
                folder = self._find(uri, str(row["model_id"]), depth=4)
                model = StoredModel(str(row["name"]), uri.removesuffix("/artifacts"), folder)
                models.setdefault(str(row["source_run_id"]), []).append(model)
        return models

    def model_versions(self) -> dict[str, dict[str, str]]:
        """Read the versions of registered models, by the run that they are of."""
        if "model_versions" not in self.tables:
            return {}
        aliases: dict[tuple[str, str], list[str]] = {}
        if "registered_model_aliases" in self.tables:
            for name, number, alias in self.ask(
                "SELECT name, version, alias FROM registered_model_aliases ORDER BY alias"
            ):
                aliases.setdefault((name, str(number)), []).append(f"alias {alias}")
        versions: dict[str, dict[str, str]] = {}
        for row in self.ask("SELECT * FROM model_versions ORDER BY name, version"):
            name, number = row["name"], str(row["version"])
            words = aliases.get((name, number), [])
            text = describe_version(number, row["current_stage"], words)
            of_run = versions.setdefault(str(row["run_id"]), {})
            of_run[name] = f"{of_run[name]}; {text}" if name in of_run else text
        return versions
