import subprocess
import sys

import numpy as np
import pytest

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.registry.record import RunRecord

jax = pytest.importorskip("jax", reason="pip install jax")
nnx = pytest.importorskip("flax.nnx", reason="pip install flax")
optax = pytest.importorskip("optax", reason="pip install optax")
datasets = pytest.importorskip("sklearn.datasets", reason="pip install scikit-learn")


class Net(nnx.Module):
    """Dropout, batch statistics, lists and dicts of modules, and a layer used twice."""

    def __init__(self, rngs, width=32):
        self.first = nnx.Linear(64, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.again = self.blocks[0]
        self.heads = nnx.Dict(digit=nnx.Linear(width, 10, rngs=rngs))

    def __call__(self, x):
        x = self.dropout(jax.nn.relu(self.norm(self.first(x))))
        for block in (*self.blocks, self.again):
            x = jax.nn.relu(block(x))
        return self.heads["digit"](x)


@nnx.jit
def train(model, optimizer, images, digits):
    def loss(model):
        logits = model(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, digits).mean()

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value


@pytest.fixture(scope="module")
def digits():
    found = datasets.load_digits()
    return (found.data / 16).astype("f4"), found.target


def made(seed=0):
    model = Net(nnx.Rngs(seed))
    return model, nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)


@pytest.fixture(scope="module")
def trained(digits):
    model, optimizer = made()
    for start in range(0, 320, 64):
        train(model, optimizer, digits[0][start : start + 64], digits[1][start : start + 64])
    return model, optimizer


def bits(module):
    """Return the whole state of a module: where each array stands, and its bytes."""

    def bytes_of(leaf):
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return str(leaf.dtype), np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

    leaves, structure = jax.tree.flatten(nnx.state(module))
    return structure, [bytes_of(leaf) for leaf in leaves]


@pytest.fixture
def logged(make, trained):
    """Log the trained module and its optimizer; return the record of the run."""
    with make("digits").start_run("a") as run:
        run.log_model(trained[0], optimizer=trained[1])
    return RunRecord(run.path)


def test_a_module_and_its_optimizer_come_back_bit_for_bit_in_place(logged, trained):
    model, optimizer = made(seed=1)
    assert logged.load_model(into=model) is model
    assert logged.saved_model().load_optimizer(into=optimizer) is optimizer
    assert bits(model) == bits(trained[0])
    assert bits(optimizer) == bits(trained[1])


def test_training_goes_on_with_the_next_dropout_mask_as_if_never_stopped(logged, trained, digits):
    model, optimizer = made(seed=1)
    logged.load_model(into=model)
    logged.saved_model().load_optimizer(into=optimizer)
    theirs = nnx.clone(trained[0]), nnx.clone(trained[1])
    ones = np.ones((4, 32), "f4")
    assert (model.dropout(ones) == theirs[0].dropout(ones)).all()
    batch = digits[0][:64], digits[1][:64]
    assert train(model, optimizer, *batch) == train(*theirs, *batch)
    assert bits(model) == bits(theirs[0])


def test_a_module_that_was_only_described_gets_its_arrays(logged, trained, digits):
    abstract = nnx.eval_shape(lambda: Net(nnx.Rngs(5)))
    model = logged.load_model(into=abstract)
    assert bits(model) == bits(trained[0])
    model.eval()
    expected = nnx.merge(*nnx.split(trained[0]))
    expected.eval()
    assert (model(digits[0][:8]) == expected(digits[0][:8])).all()


def test_a_layer_that_is_used_twice_is_kept_once_and_shared_again(logged):
    tensors = logged.saved_model().document["files"]["weights"]["tensors"]
    assert not [name for name in tensors if name.startswith("blocks/0")]
    assert "again/kernel" in tensors
    model = logged.load_model(into=Net(nnx.Rngs(1)))
    assert model.again is model.blocks[0]


def test_without_a_module_the_state_comes_as_nested_dicts(logged, trained):
    state = logged.load_model()
    assert set(state) == {"first", "norm", "dropout", "blocks", "again", "heads"}
    assert (state["blocks"][1]["bias"] == trained[0].blocks[1].bias[...]).all()
    assert state["dropout"]["rngs"]["key"].dtype == trained[0].dropout.rngs.key[...].dtype
    plain = logged.load_model(as_numpy=True)
    assert isinstance(plain["norm"]["mean"], np.ndarray)


def test_the_document_says_what_it_is(logged):
    document = logged.saved_model().document
    assert document["framework"] == "flax.nnx"
    assert document["class"].endswith("test_nnx.Net")
    # Only what is trained: neither the running mean nor keys and counts.
    assert document["parameter_count"] == 65 * 32 + 2 * 32 + 2 * 33 * 32 + 33 * 10
    assert document["versions"]["jax"] == jax.__version__
    assert "flax" in document["versions"]


def test_a_module_that_differs_is_refused_by_all_that_differs_and_stays(logged):
    class Other(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(64, 16, rngs=rngs)
            self.new = nnx.Linear(1, 1, rngs=rngs)

    model = Other(nnx.Rngs(0))
    before = bits(model)
    with pytest.raises(InvalidValueError) as caught:
        logged.load_model(into=model)
    assert "'norm': saved is a container, into= has nothing" in str(caught.value)
    assert "'new/bias': saved is nothing, into= has float32 (1,)" in str(caught.value)
    assert "'first/kernel': saved is float32 (64, 32), into= has float32 (64, 16)" in str(
        caught.value
    )
    assert bits(model) == before


def test_variables_that_hold_containers_come_back(saved):
    class Odd(nnx.Module):
        def __init__(self, value):
            self.cache = nnx.Variable({"keys": value, "sizes": (value * 2, value[0])})

    kept = saved(Odd(jax.numpy.ones(2)))
    back = kept.load(into=Odd(jax.numpy.zeros(2)))
    assert back.cache["keys"].tolist() == [1, 1]
    assert back.cache["sizes"][0].tolist() == [2, 2]


def test_a_bare_state_of_optax_is_an_optimizer_too(saved, trained):
    model = nnx.merge(*nnx.split(trained[0]))
    tx = optax.sgd(0.1, momentum=0.9)
    params = nnx.state(model, nnx.Param)
    state = jax.tree.map(lambda leaf: leaf + 1, tx.init(params))
    kept = saved(model, optimizer=state)
    back = kept.load_optimizer(into=tx.init(params))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    pairs = zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True)
    assert all((one == other).all() for one, other in pairs)
    tx.update(params, back)


def test_a_state_of_nnx_is_a_tree_of_arrays(saved, trained):
    state = nnx.state(trained[0], nnx.Param)
    kept = saved(state)
    assert "first/kernel" in kept.document["files"]["weights"]["tensors"]
    back = kept.load(into=jax.tree.map(jax.numpy.zeros_like, state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert (back["first"]["kernel"][...] == state["first"]["kernel"][...]).all()


def test_a_scheduler_is_refused(saved, trained):
    with pytest.raises(InvalidTypeError, match="A schedule of optax"):
        saved(trained[0], scheduler=object())


def test_a_transformation_of_optax_is_no_state(saved, trained):
    optax = pytest.importorskip("optax", reason="pip install optax")
    with pytest.raises(InvalidTypeError, match="holds no state"):
        saved(trained[0], optimizer=optax.adam(1e-3))


WITHOUT_FLAX = """
import sys
import numpy as np
from experiment_tracking import ExperimentRegistry
root, key, out = sys.argv[1:]
program = ExperimentRegistry(root).get(key).saved_model().load_program()
images = np.load(out + ".in.npy")
found = program(images)
assert type(found) is np.ndarray
np.save(out + ".npy", found)
assert not {"flax", "optax", "sklearn"} & set(sys.modules)
"""


def test_the_program_computes_the_same_in_a_process_without_flax(make, trained, digits, tmp_path):
    pytest.importorskip("flatbuffers", reason="pip install flatbuffers")
    model, before = trained[0], bits(trained[0])
    tracker = make("digits")
    with tracker.start_run("a") as run:
        run.log_model(model, input_example=digits[0][:16])
    assert bits(model) == before
    assert not model.dropout.deterministic
    images = digits[0][:37]
    np.save(tmp_path / "out.in.npy", images)
    arguments = [run.path.parents[1], "digits/a", tmp_path / "out"]
    subprocess.run([sys.executable, "-c", WITHOUT_FLAX, *arguments], check=True)
    expected = nnx.merge(*nnx.split(model))
    expected.eval()
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found, jax.jit(expected)(images), rtol=1e-6, atol=1e-6)
    document = RunRecord(run.path).saved_model().document
    assert document["inference_device"] == "cpu"
    assert document["signature"] == {
        "inputs": [{"name": "input", "dtype": "float32", "shape": [-1, 64]}],
        "outputs": [{"name": "output", "dtype": "float32", "shape": [-1, 10]}],
    }
