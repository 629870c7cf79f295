import dataclasses
import sys

import numpy as np
import pytest

from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
)
from experiment_tracking.folder.hashing import sha256
from experiment_tracking.registry.record import RunRecord

jax = pytest.importorskip("jax", reason="pip install jax")
jnp = jax.numpy


def same(found, given):
    """Tell whether two pytrees are equal in structure and every bit."""
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(given), strict=True)
    return jax.tree.structure(found) == jax.tree.structure(given) and all(
        np.asarray(a).dtype == np.asarray(b).dtype
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in leaves
    )


# ---------------------------------------------------------------------- states of linen


@pytest.fixture(scope="module")
def state():
    """A small linen model after two steps."""
    linen = pytest.importorskip("flax.linen", reason="pip install flax")
    optax = pytest.importorskip("optax", reason="pip install optax")
    from flax.training.train_state import TrainState

    model = linen.Dense(3)
    params = model.init(jax.random.key(0), np.ones((1, 4)))["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(0.1))
    return trained(trained(state))


@jax.jit
def trained(state):
    x = jnp.arange(8.0).reshape(2, 4)
    loss = lambda params: (state.apply_fn({"params": params}, x) ** 2).mean()  # noqa: E731
    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def test_a_train_state_comes_back_and_training_goes_on(make, state):
    with make("p").start_run("a") as run:
        run.log_model(state)
    record = RunRecord(run.path)
    fresh = jax.tree.map(jnp.zeros_like, state)
    for into in (fresh, jax.eval_shape(lambda: fresh)):
        back = record.load_model(into=into)
        assert same(back, state)
    assert same(trained(back), trained(state))
    document = record.saved_model().document
    assert document["framework"] == "jax"
    assert document["class"] == "flax.training.train_state.TrainState"
    assert document["versions"]["jax"] == jax.__version__


def test_without_a_template_a_class_comes_as_nested_dicts(saved, state):
    back = saved(state).load()
    assert set(back) == {"step", "params", "opt_state"}
    assert same(back["params"], state.params)
    assert same(back["opt_state"][0]["mu"], state.opt_state[0].mu)


def test_a_template_of_another_shape_is_refused(saved, state):
    into = state.replace(params={"kernel": jnp.ones((4, 2)), "bias": state.params["bias"]})
    expected = r"'params/kernel': saved is float32 \(4, 3\), into= has float32 \(4, 2\)"
    with pytest.raises(InvalidValueError, match=expected):
        saved(state).load(into=into)


def test_a_linen_module_is_refused_with_what_to_pass(saved):
    linen = pytest.importorskip("flax.linen", reason="pip install flax")
    with pytest.raises(InvalidTypeError, match=r"Dense of flax\.linen has no weights.*variables"):
        saved(linen.Dense(3))


def test_wishes_that_a_state_cannot_meet_are_refused(saved, state):
    with pytest.raises(InvalidTypeError, match="cannot be called on an example"):
        saved(state, input_example=np.ones((2, 4)))
    with pytest.raises(InvalidTypeError, match="A schedule of optax"):
        saved(state, scheduler=object())


def test_functions_in_a_class_are_left_out_and_the_templates_stay(saved):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Net:
        w: object
        act: object
        scale: float

    kept = saved(Net(jnp.ones(2), jnp.tanh, 0.5))
    assert set(kept.load()) == {"w", "scale"}
    back = kept.load(into=Net(jnp.zeros(2), jnp.sin, 0.1))
    assert (back.w.tolist(), back.act, back.scale) == ([1, 1], jnp.sin, 0.5)


def test_a_run_with_another_version_of_jax_is_told(saved, forge, state, capfd):
    forge(saved(state), versions={"jax": "0.1.2"}).load()
    assert f"was saved with jax 0.1.2, this is {jax.__version__}" in capfd.readouterr().err


# ---------------------------------------------------------------------- programs


@pytest.fixture
def net():
    """A module of equinox around a function of its weight and the arguments."""
    equinox = pytest.importorskip("equinox", reason="pip install equinox")
    pytest.importorskip("flatbuffers", reason="pip install flatbuffers")

    class Net(equinox.Module):
        w: jax.Array
        function: object

        def __call__(self, *args, **named):
            return self.function(self.w, *args, **named)

    return lambda function, w=(0, 1, 2): Net(jnp.asarray(w, "f4"), function)


def test_a_program_takes_what_the_example_was_like_and_gives_numpy(saved, net):
    model = net(lambda w, x, scales: {"out": (x["a"] @ w * scales[0], scales[1])})
    example = {"x": {"a": np.ones((2, 3), "f4")}, "scales": [np.ones(2, "f4"), np.ones(2, "f4")]}
    program = saved(model, input_example=example).load_program()
    a = np.arange(15, dtype="f4").reshape(5, 3)
    found = program(x={"a": a}, scales=[np.full(5, 2, "f4"), np.zeros(5, "f4")])
    assert isinstance(found["out"][0], np.ndarray)
    assert found["out"][0].tolist() == (a @ np.arange(3) * 2).tolist()


def test_weights_are_arguments_of_the_program_and_not_in_it(saved, net):
    model = net(lambda w, x: x + w.sum(), w=np.ones(1_000_000))
    files = saved(model, input_example=np.ones(2, "f4")).document["files"]
    assert files["weights"]["size_bytes"] > 4_000_000
    assert files["program"]["size_bytes"] < 40_000


def test_a_model_that_needs_the_size_of_a_batch_is_exported_for_that_one(saved, net):
    model = net(lambda w, x: jnp.stack([row @ w for row in x]) + len(x))
    program = saved(model, input_example=np.ones((2, 3), "f4")).load_program()
    assert program(np.ones((2, 3), "f4")).tolist() == [5, 5]
    with pytest.raises(ValueError, match=r"\(2, 3\)|2,3"):
        program(np.ones((4, 3), "f4"))


def test_a_model_that_cannot_be_exported_is_saved_without_a_program(saved, net, capfd):
    model = net(lambda w, x: x @ w if float(x.sum()) > 0 else x @ w * 2)
    kept = saved(model, input_example=np.ones((2, 3), "f4"))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "program" in line]
    assert "weights only: jax.export failed (ConcretizationTypeError: " in line
    assert kept.load()["w"].tolist() == [0, 1, 2]
    assert kept.document["signature"]["outputs"][0]["shape"] == [-1]
    with pytest.raises(InvalidValueError, match="it has no program, only weights"):
        kept.load_program()


def test_without_flatbuffers_a_program_is_refused_by_its_name(saved, net, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(MissingPackageError, match=r"flatbuffers.*experiment_tracking\[models\]"):
        saved(net(lambda w, x: x @ w), input_example=np.ones((2, 3), "f4"))


@pytest.fixture
def forge_program(saved, forge, net):
    """Make a saved model whose program is other bytes, with a hash that fits."""

    def forge_program(data):
        kept = saved(net(lambda w, x: x @ w), input_example=np.ones((2, 3), "f4"))
        files = kept.document["files"]
        files["program"] |= {"size_bytes": len(data), "sha256": sha256(bytes(data))}
        forged = forge(kept, files=files)
        (forged.path / files["program"]["file"]).write_bytes(data)
        return forged

    return forge_program


def test_a_program_that_calls_back_into_python_is_refused(forge_program):
    from jax import export

    target = "xla_ffi_python_cpu_callback"
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((2,), jnp.float32))
    allowed = [export.DisabledSafetyCheck.custom_call(target)]
    crafted = export.export(jax.jit(lambda *args: call()), disabled_checks=allowed)
    forged = forge_program(crafted({}, (), {}).serialize())
    with pytest.raises(DamagedError, match="calls back into Python"):
        forged.load_program()


@pytest.mark.parametrize("data", [b"", b"\0" * 64, bytes(range(256)), b"\x80\x04N."])
def test_bytes_that_are_no_program_are_refused(forge_program, data):
    forged = forge_program(data)
    with pytest.raises(DamagedError, match="program cannot be read by this version of JAX"):
        forged.load_program()
