import subprocess
import sys

import numpy as np
import pytest

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.record import RunRecord

jax = pytest.importorskip("jax", reason="pip install jax")
eqx = pytest.importorskip("equinox", reason="pip install equinox")
optax = pytest.importorskip("optax", reason="pip install optax")
jnp = jax.numpy


class Net(eqx.Module):
    layers: list
    scale: jax.Array
    steps: jax.Array
    dropout: eqx.nn.Dropout
    rate: float = 0.5

    def __init__(self, key):
        one, two = jax.random.split(key)
        first, second = eqx.nn.Linear(64, 16, key=one), eqx.nn.Linear(16, 10, key=two)
        self.layers = [first, eqx.nn.Lambda(jax.nn.relu), second]
        self.scale = jnp.ones((), jnp.bfloat16)
        self.steps = jnp.array(7)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, *, key=None):
        for layer in self.layers:
            x = layer(x)
        return self.dropout(x * self.scale, key=key)


tx = optax.sgd(0.1, momentum=0.9)


@eqx.filter_jit
def train(model, state, inputs, targets):
    def loss(model):
        return ((jax.vmap(eqx.nn.inference_mode(model))(inputs) - targets) ** 2).mean()

    updates, state = tx.update(eqx.filter_grad(loss)(model), state)
    return eqx.apply_updates(model, updates), state


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).random((64, 64), "f4")


def started(model):
    return tx.init(eqx.filter(model, eqx.is_inexact_array))


@pytest.fixture(scope="module")
def trained(inputs):
    model = Net(jax.random.key(0))
    state = started(model)
    for target in range(3):
        model, state = train(model, state, inputs, np.float32(target))
    return model, state


def same(found, given):
    return bool(eqx.tree_equal(found, given))


def test_a_module_and_its_optimizer_come_back_bit_for_bit(make, trained):
    model, state = trained
    with make("p").start_run("a") as run:
        run.log_model(model, optimizer=state)
    record = RunRecord(run.path)
    fresh = Net(jax.random.key(1))
    for into in (fresh, eqx.filter_eval_shape(Net, jax.random.key(1))):
        assert same(record.load_model(into=into), model)
    assert not same(fresh, model)
    kept = record.saved_model()
    assert same(kept.load_optimizer(into=started(fresh)), state)
    assert kept.document["framework"] == "equinox"
    assert kept.document["parameter_count"] == 65 * 16 + 17 * 10 + 1


def test_without_a_module_the_arrays_come_as_nested_dicts(saved, trained):
    state = saved(trained[0]).load()
    assert set(state) == {"layers", "scale", "steps", "dropout"}
    assert state["layers"][1] == {}
    assert (state["layers"][2]["bias"] == trained[0].layers[2].bias).all()


def test_what_is_no_array_comes_from_the_template(saved, trained):
    into = eqx.tree_at(lambda net: net.dropout.p, Net(jax.random.key(1)), 0.2)
    back = saved(trained[0]).load(into=into)
    assert (back.dropout.p, back.rate, back.steps) == (0.2, 0.5, 7)
    assert back.layers[1].fn is jax.nn.relu


def test_a_module_that_differs_is_refused_by_all_that_differs(saved, trained):
    into = eqx.tree_at(lambda net: net.layers[0], Net(jax.random.key(0)), eqx.nn.Identity())
    into = eqx.tree_at(lambda net: net.scale, into, jnp.ones(2))
    with pytest.raises(InvalidValueError) as caught:
        saved(trained[0]).load(into=into)
    assert "'layers/0/weight': saved is float32 (16, 64), into= has nothing" in str(caught.value)
    assert "'scale': saved is bfloat16 (), into= has float32 (2,)" in str(caught.value)


WITHOUT_EQUINOX = """
import sys
import numpy as np
from experiment_tracking import ExperimentRegistry
root, key, out = sys.argv[1:]
program = ExperimentRegistry(root).get(key).saved_model("net").load_program()
np.save(out + ".npy", program(np.load(out + ".in.npy")))
assert not {"equinox", "optax", "flax"} & set(sys.modules)
"""


def test_the_program_computes_the_same_in_a_process_without_equinox(
    make, trained, inputs, tmp_path
):
    pytest.importorskip("flatbuffers", reason="pip install flatbuffers")
    model = trained[0]
    with make("p").start_run("a") as run:
        run.log_model(model, "net", input_example=inputs[:16])
    images = inputs[:37]
    np.save(tmp_path / "out.in.npy", images)
    arguments = [run.path.parents[1], "p/a", tmp_path / "out"]
    subprocess.run([sys.executable, "-c", WITHOUT_EQUINOX, *arguments], check=True)
    expected = jax.jit(jax.vmap(eqx.nn.inference_mode(model)))(images)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-6, atol=1e-6)
    assert not model.dropout.inference


def test_a_module_that_takes_batches_is_called_with_the_batch(saved):
    pytest.importorskip("flatbuffers", reason="pip install flatbuffers")

    class OfBatches(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            batch, _ = x.shape
            return x @ self.w / batch

    kept = saved(OfBatches(jnp.ones(3)), input_example=np.ones((4, 3), "f4"))
    assert kept.load_program()(np.ones((6, 3), "f4")).tolist() == [0.5] * 6
    assert kept.document["signature"]["outputs"][0]["shape"] == [-1]
