"""Copies of a run elsewhere: the contract, our backends, and the processes and threads they are in.

``MLFLOW_AVAILABLE`` and ``WANDB_AVAILABLE`` tell whether their packages are installed; looking
imports neither.
"""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from experiment_tracking.backends.interface import BackendInterface as BackendInterface
    from experiment_tracking.backends.mlflow import MLflowBackend as MLflowBackend
    from experiment_tracking.backends.tensorboard import TensorBoardBackend as TensorBoardBackend
    from experiment_tracking.backends.wandb import WandbBackend as WandbBackend

    MLFLOW_AVAILABLE: bool
    WANDB_AVAILABLE: bool

_HOMES = {
    "BackendInterface": "interface",
    "MLflowBackend": "mlflow",
    "TensorBoardBackend": "tensorboard",
    "WandbBackend": "wandb",
}
_PACKAGES = {"MLFLOW_AVAILABLE": "mlflow", "WANDB_AVAILABLE": "wandb"}

__all__ = [*_PACKAGES, *_HOMES]


def __getattr__(name: str) -> "Any":
    if name in _PACKAGES:
        from experiment_tracking.backends.catalog import is_installed

        return is_installed(_PACKAGES[name])
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
