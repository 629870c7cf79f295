"""A run is a folder: a filesystem-native experiment tracker.

Names are loaded when first used, so that importing the package costs next to nothing.
"""

from importlib import import_module

# Type checkers take the name for true; importing typing would cost more than all the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from experiment_tracking.errors import ExperimentTrackingError as ExperimentTrackingError
    from experiment_tracking.models.registry import ModelRegistry as ModelRegistry
    from experiment_tracking.registry.compare import Comparison as Comparison
    from experiment_tracking.registry.diff import RunDiff as RunDiff
    from experiment_tracking.registry.record import RunRecord as RunRecord
    from experiment_tracking.registry.registry import ExperimentRegistry as ExperimentRegistry
    from experiment_tracking.registry.runset import RunSet as RunSet
    from experiment_tracking.run import Run as Run
    from experiment_tracking.scientific import ExperimentConfig as ExperimentConfig
    from experiment_tracking.scientific import Framework as Framework
    from experiment_tracking.scientific import L2OMetrics as L2OMetrics
    from experiment_tracking.scientific import NeuralDFTMetrics as NeuralDFTMetrics
    from experiment_tracking.scientific import NeuralOperatorMetrics as NeuralOperatorMetrics
    from experiment_tracking.scientific import PhysicsDomain as PhysicsDomain
    from experiment_tracking.scientific import PINNMetrics as PINNMetrics
    from experiment_tracking.tracker import ExperimentTracker as ExperimentTracker

__version__ = "0.1.0"

_HOMES = {
    "ExperimentTracker": "tracker",
    "Run": "run",
    "ExperimentRegistry": "registry.registry",
    "ModelRegistry": "models.registry",
    "RunSet": "registry.runset",
    "RunRecord": "registry.record",
    "Comparison": "registry.compare",
    "RunDiff": "registry.diff",
    "ExperimentTrackingError": "errors",
} | dict.fromkeys(
    (
        "ExperimentConfig", "Framework", "PhysicsDomain",
        "PINNMetrics", "NeuralOperatorMetrics", "L2OMetrics", "NeuralDFTMetrics",
    ),
    "scientific",
)  # fmt: skip

__all__ = list(_HOMES)


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
