"""A version in other worlds: MLflow, Weights & Biases, a folder for the Hugging Face hub."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidValueError

if TYPE_CHECKING:
    from experiment_tracking.models.version import ModelVersion

_HOMES = {
    "mlflow": ("mlflow", "push_to_mlflow"),
    "wandb": ("wandb", "push_to_wandb"),
    "hf-folder": ("hf_folder", "push_to_hf_folder"),
}

TARGETS = tuple(_HOMES)
"""Where a version can go."""


def push(version: ModelVersion, to: str, **options: Any) -> str:
    """Copy a version to another world; return where it is now.

    All its files are verified before. What was pushed before is brought up to date there: aliases,
    stage, description; a version is never doubled.

    Parameters
    ----------
    version
        The version.
    to
        ``mlflow``: a version of a registered model there. ``wandb``: an artifact of the type
        ``model``. ``hf-folder``: a folder in the form of the Hugging Face hub, to be uploaded.
    options
        Of that world: see
        :func:`~experiment_tracking.models.push.mlflow.push_to_mlflow`,
        :func:`~experiment_tracking.models.push.wandb.push_to_wandb`,
        :func:`~experiment_tracking.models.push.hf_folder.push_to_hf_folder`.

    Raises
    ------
    InvalidValueError
        For another world, or an option that it does not have.
    DamagedError
        If the version is not as it was registered.
    BackendUnavailableError, BackendError
        If the service does not answer, or refuses.
    MissingPackageError
        If a package is not installed.
    """
    from inspect import signature

    if to not in _HOMES:
        raise InvalidValueError(
            f"{version.key} cannot be pushed to {to!r:.60}. Allowed are {', '.join(TARGETS)}."
        )
    module, name = _HOMES[to]
    target = getattr(import_module(f"{__name__}.{module}"), name)
    known = [option for option in signature(target).parameters if option != "version"]
    if strange := [option for option in options if option not in known]:
        raise InvalidValueError(
            f"{', '.join(strange)} is no option of {to}, which has {', '.join(known)}."
        )
    version.verify()
    place: str = target(version, **options)
    return place
