import re
import subprocess
import sys
from dataclasses import MISSING, fields
from math import inf, isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.errors import InvalidTypeError
from experiment_tracking.scientific import (
    L2OMetrics,
    NeuralDFTMetrics,
    NeuralOperatorMetrics,
    PhysicsMetrics,
    PINNMetrics,
)

FIELDS = {
    PINNMetrics: (
        "pinn",
        "pde_residual bc_violation ic_violation total_loss data_loss? gradient_norm?",
    ),
    NeuralOperatorMetrics: (
        "operator",
        "operator_error pointwise_error conservation_error? stability_metric? relative_l2? "
        "spectral_error?",
    ),
    L2OMetrics: (
        "l2o",
        "meta_loss inner_loss outer_loss optimization_steps convergence_rate? final_accuracy?",
    ),
    NeuralDFTMetrics: (
        "dft",
        "total_energy_error density_error xc_energy_error scf_iterations convergence_achieved "
        "forces_mae?",
    ),
}
every_class = pytest.mark.parametrize("metrics_class", FIELDS)


def required(metrics_class):
    return [f.name for f in fields(metrics_class) if f.default is MISSING]


@every_class
def test_fields_prefix_and_order_are_the_ones_that_scripts_rely_on(metrics_class):
    prefix, expected = FIELDS[metrics_class]
    found = [f.name + ("" if f.default is MISSING else "?") for f in fields(metrics_class)]
    assert (metrics_class.prefix, found) == (prefix, expected.split())


@every_class
@given(data=st.data())
def test_exactly_what_was_measured_is_named_and_passed_on_unchanged(metrics_class, data):
    values = {
        f.name: data.draw(st.floats() if f.default is MISSING else st.none() | st.floats())
        for f in fields(metrics_class)
    }
    measured = {name: value for name, value in values.items() if value is not None}
    flat = metrics_class(**values).to_dict()
    assert list(flat) == [f"{metrics_class.prefix}/{name}" for name in measured]
    assert all(a is b for a, b in zip(flat.values(), measured.values(), strict=True))


@every_class
def test_a_prefix_stands_in_place_of_the_default_one(metrics_class):
    metrics = metrics_class(*range(len(required(metrics_class))))
    assert list(metrics.to_dict(prefix="val")) == [f"val/{n}" for n in required(metrics_class)]
    assert list(metrics.to_dict(prefix="")) == required(metrics_class)


@every_class
def test_a_required_field_given_as_none_is_refused_by_name(metrics_class):
    for name in required(metrics_class):
        values = {**dict.fromkeys(required(metrics_class), 0.0), name: None}
        with pytest.raises(InvalidTypeError, match=f"{metrics_class.__name__}: {name} is None"):
            metrics_class(**values)


@every_class
def test_every_field_documents_unit_formula_and_source_in_order(metrics_class):
    documented = re.findall(
        r"^    (\w+)\n        .*\n(?:        .*\n)*?        Unit: .+\n(?:        .*\n)*?"
        r"        Formula: .+\n(?:        .*\n)*?        Source: .+\n",
        metrics_class.__doc__,
        re.MULTILINE,
    )
    assert documented == [f.name for f in fields(metrics_class)]


def test_a_measured_zero_is_kept_and_an_unmeasured_value_is_not_invented():
    flat = PINNMetrics(0.0, 0.0, 0.0, 0.0, data_loss=0.0).to_dict()
    assert flat["pinn/data_loss"] == 0.0
    assert "pinn/gradient_norm" not in flat


def test_a_diverged_residual_is_a_measurement():
    flat = PINNMetrics(nan, inf, 0.0, -inf).to_dict()
    assert isnan(flat["pinn/pde_residual"])
    assert flat["pinn/bc_violation"] == inf


def test_a_field_measured_later_joins():
    metrics = PINNMetrics(1.0, 0.1, 0.1, 1.2)
    metrics.gradient_norm = 3.0
    assert metrics.to_dict()["pinn/gradient_norm"] == 3.0


def test_numpy_scalars_and_booleans_are_passed_on_as_they_are():
    error, converged = np.float32(0.5), np.bool_(False)
    flat = NeuralDFTMetrics(error, 0.1, 0.1, np.int64(9), converged).to_dict()
    assert flat["dft/total_energy_error"] is error
    assert flat["dft/convergence_achieved"] is converged


def test_torch_scalars_are_passed_on_without_being_read():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    loss = torch.tensor(0.5, requires_grad=True)
    assert L2OMetrics(loss, loss, loss, 10).to_dict()["l2o/meta_loss"] is loss


def test_jax_scalars_are_passed_on_without_being_read():
    jnp = pytest.importorskip("jax.numpy", reason="pip install jax")
    loss = jnp.float32(0.5)
    assert NeuralOperatorMetrics(loss, loss).to_dict()["operator/operator_error"] is loss


def test_what_is_not_a_field_is_refused():
    with pytest.raises(TypeError, match="pde_residuum"):
        PINNMetrics(pde_residuum=0.1)


def test_all_are_physics_metrics():
    assert all(issubclass(metrics_class, PhysicsMetrics) for metrics_class in FIELDS)


def test_importing_the_room_brings_in_no_third_party_package():
    code = (
        "import sys; before = set(sys.modules); import experiment_tracking.scientific; "
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(roots - sys.stdlib_module_names))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "['experiment_tracking']"
