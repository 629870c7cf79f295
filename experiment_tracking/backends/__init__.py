"""Copies of a run elsewhere: the contract, TensorBoard, and the threads that follow a history."""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from experiment_tracking.backends.interface import BackendInterface as BackendInterface
    from experiment_tracking.backends.tensorboard import TensorBoardBackend as TensorBoardBackend

_HOMES = {"BackendInterface": "interface", "TensorBoardBackend": "tensorboard"}

__all__ = list(_HOMES)


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
