"""MLflow: a version of ours as a version of a registered model there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from experiment_tracking.backends.mlflow_names import (
    MAX_TAG_CHARS,
    Names,
    allowed_model_name,
    flatten,
)
from experiment_tracking.backends.mlflow_service import (
    Client,
    RefusedError,
    check_answers,
    check_installed,
    find_experiment,
    public,
    to_address,
)
from experiment_tracking.formats.models import saved
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    from experiment_tracking.models.version import ModelVersion

_VERSION = "experiment_tracking.version"
_SHA256 = "experiment_tracking.sha256"
_RUN_ID = "experiment_tracking.run_id"
_DONE = ("finished", "failed", "killed", "crashed")
_STATUS = {"finished": "FINISHED", "killed": "KILLED"}


def push_to_mlflow(
    version: ModelVersion,
    tracking_uri: str | os.PathLike[str] | None = None,
    name: str | None = None,
    experiment_name: str | None = None,
) -> str:
    """Make a version of a registered model in MLflow; return its address there.

    It belongs to the copy of the run in MLflow, which is made where there is none, and its files
    are artifacts of that. Stage, metrics, params and where it came from are its tags. A version
    that is there already, of the same content, is brought up to date. MLflow keeps the files as
    they are: its flavors do not load them, ``SavedModel`` does from the folder that
    ``mlflow.artifacts.download_artifacts(artifact_uri="models:/name/1")`` gives.

    Parameters
    ----------
    tracking_uri
        As :class:`~experiment_tracking.backends.mlflow.MLflowBackend` takes it.
    name
        Of the registered model, by default the version's as MLflow takes it.
    experiment_name
        In which the run is, by default the run's project.

    Raises
    ------
    BackendUnavailableError
        If MLflow does not answer.
    BackendError
        If it refuses.
    MissingPackageError
        If it is not installed.
    """
    address = to_address(tracking_uri)
    if not tracking_uri and not address.startswith("http"):
        notice(f"{version.key} goes to {public(address)}: no other MLflow was named.")
    check_installed(address)
    check_answers(address)
    client = Client(address)
    name = name or allowed_model_name(version.name)
    tags = _tags(version)
    found = _found(client, name, tags)
    if found is None:
        found = _created(client, address, version, name, experiment_name, tags)
    _bring_up_to_date(client, found, version, tags)
    if address.startswith("http"):
        return f"{public(address)}/#/models/{name}/versions/{found.version}"
    return f"models:/{name}/{found.version} in {public(address)}"


def _found(client: Client, name: str, tags: Mapping[str, str]) -> Any:
    """Return the version in MLflow that holds this very one, None where there is none."""
    for found in client.search_model_versions(f"name='{name.replace(chr(39), chr(39) * 2)}'"):
        if all(found.tags.get(tag) == tags[tag] for tag in (_VERSION, _SHA256)):
            return found
    return None


def _created(
    client: Client,
    address: str,
    version: ModelVersion,
    name: str,
    experiment_name: str | None,
    tags: Mapping[str, str],
) -> Any:
    run_id = _run(client, address, version, experiment_name)
    place = f"registered/{allowed_model_name(version.name)}/{version.version}"
    for file in _files(version):
        client.log_artifact(run_id, file, place)
    try:
        client.create_registered_model(name)
    except RefusedError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Last: a version is there when its files are. Not waited for, there is nothing to be copied.
    return client.create_model_version(
        name, source=f"runs:/{run_id}/{place}", run_id=run_id, tags=dict(tags),
        description=version.description or None, await_creation_for=0,
    )  # fmt: skip


def _files(version: ModelVersion) -> list[str]:
    """Return the version's files; ``model.json``, which names the others, is the last."""
    names = sorted(version.lineage["files"], key=lambda name: (name == saved.DOCUMENT, name))
    return [str(version.path / name) for name in ["version.json", *names]]


def _run(client: Client, address: str, version: ModelVersion, experiment_name: str | None) -> str:
    """Return the id of the run's copy in MLflow: what a backend has made, or one made now."""
    known = version.lineage["run"]
    experiment = find_experiment(client, address, experiment_name or known["project"])
    query = f"tags.`{_RUN_ID}` = '{version.run_id}'"
    found = client.search_runs([experiment], query, max_results=1) if version.run_id else []
    made = found[0] if found else _made_run(client, experiment, version)
    run_id: str = made.info.run_id
    return run_id


def _made_run(client: Client, experiment: str, version: ModelVersion) -> Any:
    # A backend that copies the run later goes on with this one, by its tag.
    known = version.lineage["run"]
    made = client.create_run(
        experiment, start_time=_milliseconds(known.get("created_at")), run_name=known["name"],
        tags={_RUN_ID: version.run_id, "mlflow.source.type": "LOCAL"},
    )  # fmt: skip
    if known.get("status") in _DONE:
        status = _STATUS.get(known["status"], "FAILED")
        client.set_terminated(made.info.run_id, status, _milliseconds(known.get("ended_at")))
    return made


def _milliseconds(moment: str | None) -> int | None:
    return None if moment is None else round(datetime.fromisoformat(moment).timestamp() * 1000)


def _bring_up_to_date(
    client: Client, found: Any, version: ModelVersion, tags: Mapping[str, str]
) -> None:
    for tag, text in tags.items():
        if found.tags.get(tag) != text:
            client.set_model_version_tag(found.name, found.version, tag, text)
    if version.description and found.description != version.description:
        client.update_model_version(found.name, found.version, version.description)
    for alias in version.aliases:
        try:
            client.set_registered_model_alias(found.name, alias, found.version)
        except RefusedError as error:
            notice(f"{version.key}: the alias {alias!r} is a tag alone in MLflow ({error}).")


def _tags(version: ModelVersion) -> dict[str, str]:
    """Return what MLflow is told of a version, each under a name that it takes."""
    lineage = version.lineage
    model, code = lineage["model"], lineage["code"]
    known = {
        **version.tags,
        _VERSION: version.key,
        _SHA256: lineage["files"][saved.DOCUMENT]["sha256"],
        "experiment_tracking.run": version.run,
        _RUN_ID: version.run_id,
        "experiment_tracking.commit": code.get("commit"),
        "experiment_tracking.registered": f"{version.created_at} by {version.by}",
        "experiment_tracking.aliases": ", ".join(version.aliases),
        "framework": version.framework,
        "stage": version.stage,
        **{key: model.get(key) for key in ("class", "step", "parameter_count")},
        **{f"metric.{name}": value for name, value in version.metrics.items()},
        **{f"param.{name}": value for name, value in flatten(version.params)},
    }
    names = Names({}, lambda name, key: None)
    told = {names.key(name): str(value) for name, value in known.items() if value is not None}
    return {key: _cut(text) for key, text in told.items() if text}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TAG_CHARS else text[: MAX_TAG_CHARS - 1] + "…"
