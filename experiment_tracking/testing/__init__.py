"""What ships for the tests of others: a suite that every backend must pass."""

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from experiment_tracking.testing.backends import BackendTests as BackendTests
    from experiment_tracking.testing.backends import Copy as Copy

__all__ = ["BackendTests", "Copy"]


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.backends"), name)
