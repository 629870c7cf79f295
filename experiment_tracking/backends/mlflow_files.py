"""A run's files in MLflow: its artifacts, and the models among them as model versions."""

import os
from collections.abc import Callable, Iterator
from typing import Any

from experiment_tracking.backends.mlflow_names import Names
from experiment_tracking.backends.mlflow_service import Client, RefusedError
from experiment_tracking.errors import BackendError
from experiment_tracking.folder.layout import MODEL_DOCUMENT


class Files:
    """Upload files of a run to where they stand in its folder.

    Parameters
    ----------
    client, run
        The service, and the run as it has it.
    folder
        The run's folder, absolute; None where there is none.
    names
        Of the files.
    note
        Called with what people are to know.
    """

    def __init__(
        self,
        client: Client,
        run: Any,
        folder: str | None,
        names: Names,
        note: Callable[[str], object],
    ) -> None:
        self._client = client
        self._run_id: str = run.info.run_id
        self._artifact_uri: str = run.info.artifact_uri
        self._folder = folder
        self._names = names
        self._note = note

    def upload(self, path: str | os.PathLike[str], otherwise: str) -> str:
        """Upload a file, or all files of a folder; return where it stands in MLflow.

        What is not in the run's folder goes below ``otherwise``.
        """
        path = os.path.abspath(path)
        place = self._place(path, otherwise)
        if not os.path.isdir(path):
            return self._upload_file(path, place)
        self._upload_folder(path, place)
        return place

    def upload_model(self, path: str | os.PathLike[str], name: str) -> str:
        """Upload a model's folder in place of its earlier state; return where it stands.

        ``model.json`` is the last: whoever reads there finds what it names.
        """
        place = f"models/{name}"
        self._remove_others(place, self._upload_folder(os.path.abspath(path), place))
        return place

    def _upload_folder(self, path: str, place: str) -> set[str]:
        files = sorted(_files_below(path), key=lambda inner: (inner == MODEL_DOCUMENT, inner))
        return {
            self._upload_file(os.path.join(path, inner), f"{place}/{inner.replace(os.sep, '/')}")
            for inner in files
        }

    def upload_list(self) -> None:
        """Upload ``artifacts.json``: it has the descriptions, for which MLflow has no place."""
        path = os.path.join(self._folder or "", "artifacts.json")
        if self._folder and os.path.isfile(path):
            self._upload_file(path, "artifacts.json")

    def _place(self, path: str, otherwise: str) -> str:
        if self._folder and path.startswith(self._folder + os.sep):
            return os.path.relpath(path, self._folder).replace(os.sep, "/")
        return f"{otherwise}/{os.path.basename(path)}"

    def _upload_file(self, path: str, place: str) -> str:
        _check_readable(path)
        key = self._names.key(place)
        folder, _, name = key.rpartition("/")
        if name == os.path.basename(path):
            self._client.log_artifact(self._run_id, path, folder or None)
            return key
        import shutil
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as aside:  # MLflow's client names an artifact as its file
            copy = shutil.copyfile(path, os.path.join(aside, name))
            self._client.log_artifact(self._run_id, copy, folder or None)
        return key

    def _remove_others(self, place: str, keep: set[str]) -> None:
        """Delete what an earlier state of a model left: a hundred checkpoints are not one."""
        try:
            for file in self._client.list_artifacts(self._run_id, place):
                if not file.is_dir and file.path not in keep:
                    self._client.delete_artifact(self._artifact_uri, file.path)
        except RefusedError as error:
            self._note(f"files of earlier states are still in {place} ({error})")


def register(client: Client, name: str, run_id: str, place: str) -> None:
    """Make a version of a registered model from a run's folder, unless there is one.

    The version shows what is in the folder, later files too.
    """
    try:
        client.create_registered_model(name)
    except RefusedError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"runs:/{run_id}/{place}"
    quoted = name.replace("'", "''")
    versions = client.search_model_versions(f"name='{quoted}'")
    if source not in [version.tags.get("source") for version in versions]:
        client.create_model_version(
            name, source=source, run_id=run_id, tags={"source": source}, await_creation_for=0
        )


def _check_readable(path: str) -> None:
    """Tell a file that is gone from a service that is away: both are an OSError."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise BackendError(f"{path} cannot be read ({error.strerror}); it is left out.") from error


def _files_below(folder: str) -> Iterator[str]:
    """Yield the files in a folder, relative to it, but for those that are still being written."""
    for here, _, names in os.walk(folder):
        for name in names:
            if name[0] != ".":
                yield os.path.relpath(os.path.join(here, name), folder)
