"""Copies of a run elsewhere: the contract, TensorBoard, and the threads that follow a history."""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from experiment_tracking.backends.interface import BackendInterface as BackendInterface
    from experiment_tracking.backends.tensorboard import TensorBoardBackend as TensorBoardBackend

MLFLOW_AVAILABLE = WANDB_AVAILABLE = False
"""Whether runs can be mirrored there; not in this version."""

_HOMES = {"BackendInterface": "interface", "TensorBoardBackend": "tensorboard"}
_LATER = ("MLflowBackend", "WandbBackend")

__all__ = ["MLFLOW_AVAILABLE", "WANDB_AVAILABLE", *_HOMES]


def __getattr__(name: str) -> "Any":
    if name in _LATER:
        from experiment_tracking.errors import BackendError

        raise BackendError(
            f"{name} is not in this version. The run's folder keeps everything, and a later "
            "version can push it."
        )
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
