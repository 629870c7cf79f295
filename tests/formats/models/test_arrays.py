import collections
import os
import subprocess
import sys

import numpy as np
import pytest

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats.models.arrays import fill
from experiment_tracking.registry.record import RunRecord

State = collections.namedtuple("State", "count mu")


def same_bits(found, given):
    return (found.dtype, found.shape) == (given.dtype, given.shape) and (
        np.asarray(found).tobytes() == np.asarray(given).tobytes()
    )


def test_a_tree_that_a_run_kept_comes_back(make):
    tree = {"layers": [{"w": np.arange(6.0).reshape(2, 3)}], "name": "β", "lr": 0.1, "n": (1, None)}
    with make("p").start_run("a") as run:
        run.log_model(tree, "net", optimizer=State(3, [np.ones(2)]))
    record = RunRecord(run.path)
    back = record.load_model("net")
    assert same_bits(back["layers"][0].pop("w"), tree["layers"][0]["w"])
    assert back == {"layers": [{}], "name": "β", "lr": 0.1, "n": (1, None)}
    kept = record.saved_model("net")
    assert kept.document["framework"] == "arrays"
    assert kept.document["parameter_count"] == 6
    assert kept.load_optimizer()["mu"][0].tolist() == [1, 1]
    assert kept.load_optimizer(into=State(0, [np.zeros(2)])).count == 3


def test_one_array_is_a_model_too(saved):
    assert saved(np.arange(3)).load().tolist() == [0, 1, 2]


def test_what_only_a_module_can_do_is_refused(saved):
    with pytest.raises(InvalidTypeError, match=r"cannot be called on an example.*Pass the module"):
        saved({"w": np.ones(1)}, input_example=np.ones(1))


def test_a_template_gets_the_leaves_and_stays_as_it_is(saved):
    tree = {"a": State(3, [np.ones(2), (np.zeros(1),)]), "none": None, "name": "x"}
    into = {"a": State(0, [np.zeros(2), (np.ones(1),)]), "none": None, "name": ""}
    back = saved(tree).load(into=into)
    assert isinstance(back["a"], State)
    assert isinstance(back["a"].mu[1], tuple)
    assert (back["a"].count, back["name"]) == (3, "x")
    assert back["a"].mu[0].tolist() == [1, 1]
    assert into["a"].mu[0].tolist() == [0, 0]


def test_kinds_of_dicts_in_a_template_stay():
    into = collections.OrderedDict(b=1, a=collections.defaultdict(list, {"x": 2}))
    back = fill(into, {"a": {"x": 5}, "b": 4}, "M")
    assert back == {"b": 4, "a": {"x": 5}}
    assert list(back) == ["b", "a"]
    assert back["a"]["new"] == []


def test_all_that_differs_stands_in_one_error():
    tree = {"w": np.ones((2, 3)), "b": np.ones(2), "old": np.ones(1), "l": [1, 2], "t": np.ones(1)}
    into = {"w": np.ones((3, 2)), "b": np.ones(2, "f4"), "new": np.ones(1), "l": [1], "t": {}}
    with pytest.raises(InvalidValueError) as caught:
        fill(into, tree, "Model 'm'")
    text = str(caught.value)
    assert text.startswith("Model 'm' does not fit into=: ")
    for difference in (
        "'w': saved is float64 (2, 3), into= has float64 (3, 2)",
        "'b': saved is float64 (2,), into= has float32 (2,)",
        "'old': saved is float64 (1,), into= has nothing",
        "'new': saved is nothing, into= has float64 (1,)",
        "'l/1': saved is a plain value, into= has nothing",
        "'t': saved is float64 (1,), into= has a container",
    ):
        assert difference in text


def test_of_very_many_differences_the_first_are_named():
    with pytest.raises(InvalidValueError, match=r"'7': saved is nothing.*; 92 more\."):
        fill({n: np.ones(1) for n in range(100)}, {}, "M")


def test_a_count_may_be_a_number_or_an_array():
    assert fill({"step": 0}, {"step": np.array(3)}, "M")["step"] == 3
    assert fill({"step": np.array(0)}, {"step": 3}, "M")["step"] == 3
    with pytest.raises(InvalidValueError, match=r"a plain value, into= has int64 \(1,\)"):
        fill({"step": np.array([0])}, {"step": 3}, "M")


def test_arrays_of_several_libraries_in_one_tree_come_back_as_their_own(saved):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    jax = pytest.importorskip("jax", reason="pip install jax")
    key = jax.random.split(jax.random.key(1, impl="rbg"), 3)
    tree = {
        "t": torch.arange(3, dtype=torch.bfloat16), "n": np.arange(3.0), "key": key,
        "j": [jax.numpy.ones(2, jax.numpy.bfloat16), jax.numpy.ones(2, jax.numpy.float8_e5m2)],
    }  # fmt: skip
    kept = saved(tree)
    back = kept.load()
    assert torch.equal(back["t"], tree["t"])
    assert same_bits(back["n"], tree["n"])
    assert all(map(same_bits, back["j"], tree["j"]))
    assert jax.random.key_impl(back["key"]) == "rbg"
    assert (jax.random.key_data(back["key"]) == jax.random.key_data(key)).all()
    filled = kept.load(into=jax.tree.map(lambda leaf: leaf, tree))
    assert torch.equal(filled["t"], tree["t"])
    plain = kept.load(as_numpy=True)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(plain))


def test_double_precision_of_jax_needs_it_switched_on_or_numpy(saved):
    jax = pytest.importorskip("jax", reason="pip install jax")
    with jax.enable_x64(True):
        kept = saved({"w": jax.numpy.array([0.1])})
        assert kept.load()["w"].dtype == "float64"
    with pytest.raises(InvalidValueError, match=r"float64 arrays.*jax_enable_x64.*as_numpy=True"):
        kept.load()
    assert same_bits(kept.load(as_numpy=True)["w"], np.array([0.1]))


def test_training_goes_on_from_a_loaded_state_of_optax_as_if_never_stopped(saved):
    jax = pytest.importorskip("jax", reason="pip install jax")
    optax = pytest.importorskip("optax", reason="pip install optax")
    params = {"layers": [{"w": jax.numpy.ones((3, 2))}], "b": jax.numpy.zeros(2)}
    tx = optax.chain(
        optax.clip(1.0),
        optax.inject_hyperparams(optax.adamw)(optax.linear_schedule(0.1, 0.0, 9)),
    )

    def step(params, state):
        updates, state = tx.update(jax.tree.map(jax.numpy.sin, params), state, params)
        return optax.apply_updates(params, updates), state

    given = step(params, tx.init(params))
    kept = saved(given[0], optimizer=given[1])
    shapes = jax.eval_shape(tx.init, params)
    for template in (tx.init(params), shapes):
        back = kept.load(into=params), kept.load_optimizer(into=template)
        assert jax.tree.structure(back) == jax.tree.structure(given)
        assert all(map(same_bits, jax.tree.leaves(back), jax.tree.leaves(given)))
    ours, theirs = step(*back), step(*given)
    assert all(map(same_bits, jax.tree.leaves(ours), jax.tree.leaves(theirs)))


def test_variables_of_linen_come_back_into_frozen_dicts(saved):
    pytest.importorskip("jax", reason="pip install jax")
    flax = pytest.importorskip("flax", reason="pip install flax")
    params = flax.core.freeze({"dense": {"kernel": np.ones((2, 2), np.float32)}})
    kept = saved(params)
    assert kept.load()["dense"]["kernel"].tolist() == [[1, 1], [1, 1]]
    back = kept.load(into=params)
    assert isinstance(back, flax.core.FrozenDict)
    assert same_bits(back["dense"]["kernel"], params["dense"]["kernel"])


def test_a_state_dict_that_was_given_as_the_model_fills_a_module(saved):
    torch = pytest.importorskip("torch", reason="pip install torch")
    given, into = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    kept = saved(given.state_dict())
    assert kept.document["framework"] == "arrays"
    assert kept.load(into=into) is into
    assert torch.equal(into.weight, given.weight)
    with pytest.raises(InvalidValueError, match="weight"):
        kept.load(into=torch.nn.Linear(4, 2))


def test_a_pure_dict_that_was_given_as_the_model_fills_a_module(saved):
    pytest.importorskip("flax", reason="pip install flax")
    from flax import nnx

    given, into = (nnx.Linear(3, 2, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    kept = saved(nnx.to_pure_dict(nnx.state(given)))
    assert kept.load(into=into) is into
    assert same_bits(into.kernel[...], given.kernel[...])


@pytest.mark.parametrize(("into", "found"), [(dict, "the class dict"), (3, "a int")])
def test_what_cannot_hold_a_tree_is_no_template(into, found):
    with pytest.raises(InvalidTypeError, match=f"into= is {found}"):
        fill(into, {"w": np.ones(2)}, "M")


ON_TWO_DEVICES = """
import sys
import jax, numpy as np
from experiment_tracking.formats.models.arrays import fill
mesh = jax.make_mesh((2,), ("x",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
there = jax.device_put(np.zeros(4, np.float32), sharding)
for into in (there, jax.ShapeDtypeStruct((4,), np.float32, sharding=sharding)):
    found = fill({"w": into}, {"w": jax.numpy.arange(4.0)}, "M")["w"]
    print(found.sharding == sharding, found.tolist())
"""


def test_a_template_that_is_spread_over_devices_gets_its_arrays_so():
    pytest.importorskip("jax", reason="pip install jax")
    flags = "--xla_force_host_platform_device_count=2"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-c", ON_TWO_DEVICES]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.stdout.splitlines() == ["True [0.0, 1.0, 2.0, 3.0]"] * 2, found.stderr
