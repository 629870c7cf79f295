"""Weights & Biases: a version as an artifact of the type ``model``."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiment_tracking.backends import wandb_service as service
from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.backends.wandb_service import Doing, core, translated
from experiment_tracking.errors import (
    BackendError,
    BackendUnavailableError,
    MissingPackageError,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import utc_now
from experiment_tracking.models.stages import NONE

if TYPE_CHECKING:
    from experiment_tracking.models.version import ModelVersion

_ASK_AGAIN_S = 30
_FINISH_S = 60.0


def push_to_wandb(
    version: ModelVersion,
    project: str | None = None,
    entity: str | None = None,
    mode: str | None = None,
) -> str:
    """Log a version as an artifact in Weights & Biases; return its name, or its offline folder.

    The artifact is called as the model, in a run of its own of the type ``push``. The number
    (``version-3``), the stage and the aliases are aliases of it; W&B counts its own ``v0``, ``v1``
    … and takes the same files for the same version. Offline the run is a folder below
    ``$WANDB_DIR`` or this one, which ``wandb sync`` sends.

    Parameters
    ----------
    project
        Default ``$WANDB_PROJECT``, else the project of the version's run.
    entity
        Default ``$WANDB_ENTITY``, else W&B's default for the login.
    mode
        ``online`` or ``offline``; default ``$WANDB_MODE``, else by whether there is a login.

    Raises
    ------
    BackendUnavailableError
        If W&B does not answer.
    BackendError
        If it refuses, or is disabled.
    MissingPackageError
        If it is not installed.
    """
    if not is_installed("wandb"):
        raise MissingPackageError("Backend 'wandb'", "wandb", "'experiment_tracking[wandb]'")
    known = version.lineage["run"]
    facts = {
        "project": service.decide_name("project", project) or service.plain_name(known["project"]),
        "entity": service.decide_name("entity", entity),
        "mode": service.decide_mode(mode),
        "name": f"{version.name} version {version.version}",
        "job_type": "push",
        "config": version.params,
    }
    if facts["mode"] == "disabled":
        raise BackendError("W&B is disabled (WANDB_MODE, or mode=): nothing is copied there.")
    if facts["mode"] == "offline":
        return _push(version, facts, os.environ.get("WANDB_DIR") or ".")
    service.ask_service()
    with TemporaryDirectory() as above:  # for what W&B writes beside what it sends
        return _push(version, facts, above)


def _push(version: ModelVersion, facts: dict[str, Any], above: str) -> str:
    above = os.path.abspath(os.path.expanduser(above))
    os.makedirs(above, exist_ok=True)
    wandb = core.enter()
    try:
        with translated("wandb.init"):
            settings = service.settings(wandb, {"program": "experiment_tracking"})
            run = wandb.init(**facts, dir=above, reinit="create_new", settings=settings)
        try:
            place = _log(version, wandb, run)
        except BaseException:
            _finish(run, 1)
            raise
        _finish(run, 0)
        if facts["mode"] == "offline":
            core.wait_until_written(place)
    finally:
        core.leave()
    return place


def _finish(run: Any, exit_code: int) -> None:
    # It waits for ever by itself, if the service has gone away meanwhile.
    with translated("run.finish"):
        if not Doing(lambda: run.finish(exit_code=exit_code)).wait(_FINISH_S):
            raise BackendUnavailableError("W&B is still sending; the service may be away")


def _log(version: ModelVersion, wandb: Any, run: Any) -> str:
    online = not run.offline
    folder: str = os.path.realpath(os.path.dirname(run.dir))
    with translated("run.log_artifact"):
        artifact = wandb.Artifact(
            service.plain_alias(version.name), type="model",
            description=version.description or None, metadata=_metadata(version),
        )  # fmt: skip
        for name, path in _files(version, None if online else folder):
            artifact.add_file(path, name=name, policy="immutable", skip_cache=True)
        logged = run.log_artifact(artifact, aliases=_aliases(version))
        if not online:
            return folder
        _wait(logged)
        place: str = logged.qualified_name
        return place


def _wait(logged: Any) -> None:
    """Wait until the service has all of it, for as long as it answers."""
    while True:
        try:
            logged.wait(timeout=_ASK_AGAIN_S)
        except Exception as error:
            if type(error).__name__ != "WaitTimeoutError":
                raise
            service.ask_service()
        else:
            return


def _files(version: ModelVersion, folder: str | None) -> list[tuple[str, str]]:
    """Return the version's files by name; offline linked beside the log, which tells where."""
    names = ["version.json", *version.lineage["files"]]
    if folder is None:
        return [(name, str(version.path / name)) for name in names]
    above = os.path.join(folder, "model")
    os.mkdir(above)
    for name in names:
        io.link_or_copy(str(version.path / name), os.path.join(above, name))
    return [(name, os.path.join(above, name)) for name in names]


def _aliases(version: ModelVersion) -> list[str]:
    stage = [] if version.stage == NONE else [version.stage.lower()]
    own = ["latest", f"version-{version.version}", *stage]
    return list(dict.fromkeys([*own, *map(service.plain_alias, version.aliases)]))


def _metadata(version: ModelVersion) -> dict[str, Any]:
    lineage = version.lineage
    return {
        "version": version.version,
        "stage": version.stage,
        "run": version.run,
        "run_id": version.run_id,
        "commit": lineage["code"].get("commit"),
        "registered_at": version.created_at,
        "pushed_at": utc_now(),
        "tags": version.tags,
        "model": lineage["model"],
        # As stored: NaN is text, which JSON can hold.
        "metrics": lineage["metrics"],
        "params": version.params,
        "sha256": {name: known["sha256"] for name, known in lineage["files"].items()},
    }
