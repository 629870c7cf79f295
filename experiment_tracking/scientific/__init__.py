"""What an experiment is (its configuration) and what physics measures (its metrics).

Imported on demand only: no other room needs it to log or to read a run.
"""

from experiment_tracking.scientific.config import (
    ConfigView,
    ExperimentConfig,
    Framework,
    PhysicsDomain,
    config_from_params,
)
from experiment_tracking.scientific.metrics import (
    L2OMetrics,
    NeuralDFTMetrics,
    NeuralOperatorMetrics,
    PhysicsMetrics,
    PINNMetrics,
)

__all__ = [
    "ConfigView",
    "ExperimentConfig",
    "Framework",
    "L2OMetrics",
    "NeuralDFTMetrics",
    "NeuralOperatorMetrics",
    "PINNMetrics",
    "PhysicsDomain",
    "PhysicsMetrics",
    "config_from_params",
]
