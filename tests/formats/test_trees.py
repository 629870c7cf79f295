import collections
import contextlib
import json
import math
import os
import socket
import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from safetensors.numpy import load, save

from experiment_tracking.errors import DamagedError, InvalidTypeError, InvalidValueError
from experiment_tracking.formats import tensor_files
from experiment_tracking.formats.trees import flatten_tree, rebuild_tree

DTYPES = st.one_of(
    nps.boolean_dtypes(),
    nps.integer_dtypes(endianness="="),
    nps.unsigned_integer_dtypes(endianness="="),
    nps.floating_dtypes(endianness="="),
    nps.complex_number_dtypes(endianness="=", sizes=(64, 128)),
    nps.datetime64_dtypes(endianness="="),
    nps.unicode_string_dtypes(endianness="="),
    nps.byte_string_dtypes(endianness="="),
)
ARRAYS = nps.arrays(DTYPES, nps.array_shapes(min_dims=0, min_side=0, max_side=4))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text()
)
KEYS = st.one_of(st.text(), st.integers(), st.tuples(st.text(), st.integers()))
TREES = st.recursive(
    st.one_of(ARRAYS, SCALARS),
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner)
    ),
    max_leaves=12,
)


def encoded(tree):
    """Return the bytes of the file, and what is kept beside it, as a document gives that back."""
    flat = flatten_tree(tree)
    blob = b"".join(tensor_files.stream({n: leaf.tensor() for n, leaf in flat.tensors.items()}))
    structure = {"tensors": flat.known(), "tree": flat.tree}
    stored = json.loads(orjson.dumps(structure))
    assert stored == structure
    return blob, stored


def decoded(blob, structure, **options):
    parts = tensor_files.parse(memoryview(bytearray(blob)), "Model")
    return rebuild_tree(parts, structure["tensors"], structure["tree"], **options)


def round_trip(tree, **options):
    return decoded(*encoded(tree), **options)


def assert_same(found, given):
    """Equal in kind, order and every bit."""
    if isinstance(given, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape) == (given.dtype, given.shape)
        assert found.tobytes() == given.tobytes()
    elif isinstance(given, dict):
        assert list(found) == list(given)
        assert_same(list(found.values()), list(given.values()))
    elif isinstance(given, list | tuple):
        assert type(found) is type(given)
        assert len(found) == len(given)
        for one, other in zip(found, given, strict=True):
            assert_same(one, other)
    else:
        assert type(found) is type(given)
        assert repr(found) == repr(given)


@given(TREES)
def test_any_tree_comes_back_bit_for_bit(tree):
    assert_same(round_trip(tree), tree)


@given(TREES)
def test_the_same_tree_gives_the_same_bytes(tree):
    assert encoded(tree) == encoded(tree)


@given(
    st.dictionaries(
        st.text(),
        nps.arrays(
            st.one_of(
                nps.boolean_dtypes(),
                nps.integer_dtypes(endianness="="),
                nps.unsigned_integer_dtypes(endianness="="),
                nps.floating_dtypes(endianness="=", sizes=(16, 32, 64)),
            ),
            nps.array_shapes(min_dims=0, min_side=0, max_side=3),
        ),
    )
)
def test_the_file_of_plain_arrays_is_the_one_that_safetensors_writes(arrays):
    arrays.pop("__metadata__", None)
    arrays.pop("", None)  # an array without a path is called "array"
    assert encoded(arrays)[0] == save(arrays)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(10)[::-2],
        np.asfortranarray(np.eye(3, 4, dtype=np.complex64)),
        np.broadcast_to(np.float32(7), (3, 2)),
        np.array(["x", "yy"])[::-1],
    ],
)
def test_arrays_that_are_not_contiguous_keep_their_order(array):
    assert_same(round_trip(array), np.ascontiguousarray(array))


def test_foreign_byte_order_comes_back_native():
    assert_same(round_trip(np.array([1.5, -2], ">f4")), np.array([1.5, -2], "f4"))


def test_numpy_scalars_come_back_as_arrays_without_axes():
    assert_same(round_trip([np.float64(0.1), np.int8(3)]), [np.array(0.1), np.array(3, np.int8)])


def test_arrays_stand_in_the_blob_under_their_paths():
    blob, _ = encoded({"layers": [{"w": np.ones(2)}], "b": np.zeros(1)})
    assert set(load(blob)) == {"layers/0/w", "b"}


@pytest.mark.parametrize(
    "tree",
    [
        {"a/b": np.zeros(1), "a": {"b": np.ones(1)}},
        {1: np.zeros(1), "1": np.ones(1)},
        {"a~2": np.zeros(1), "a/": {"": np.ones(1)}, "a": np.ones(2)},
        {"__metadata__": np.zeros(1)},
        {"": np.zeros(1)},
        np.zeros(1),
    ],
)
def test_paths_that_look_alike_or_are_reserved_lose_nothing(tree):
    assert_same(round_trip(tree), tree)


def test_what_stands_in_several_places_is_stored_once():
    shared = np.ones((3, 4), np.float32)
    blob, structure = encoded({"in": shared, "out": [shared]})
    back = decoded(blob, structure)
    assert back["in"] is back["out"][0]
    assert list(structure["tensors"]) == ["in"]


def test_leaves_made_on_the_fly_are_never_taken_for_one_another():
    class Lazy(collections.UserDict):
        def __getitem__(self, key):
            return np.full(100, key)

    back = round_trip(Lazy(dict.fromkeys(range(50))))
    assert all((array == key).all() for key, array in back.items())


def test_a_namedtuple_comes_back_as_a_dict_and_the_structure_knows_its_name():
    State = collections.namedtuple("State", "count mu")
    _, structure = encoded(State(3, (1, 2)))
    assert round_trip(State(3, (1, 2))) == {"count": 3, "mu": (1, 2)}
    assert structure["tree"]["namedtuple"] == "State"


def test_a_random_generators_state_survives():
    generator = np.random.default_rng(7)
    twin = np.random.default_rng()
    twin.bit_generator.state = round_trip(generator.bit_generator.state)
    assert generator.random(5).tolist() == twin.random(5).tolist()


def test_decoded_arrays_can_be_trained_on():
    array = round_trip(np.zeros(3))
    array += 1
    assert array.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"])
def test_dtypes_of_ml_dtypes_come_back_bit_for_bit(name):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="pip install ml_dtypes")
    dtype = np.dtype(getattr(ml_dtypes, name))
    array = np.arange(-4, 4).astype(dtype).reshape(2, 4).T
    tree = {"w": array, "s": array[:1, 0].reshape(()), "e": array[:0]}
    assert_same(round_trip(tree), tree)
    assert encoded(array)[1]["tensors"]["array"]["dtype"] == name


def test_without_ml_dtypes_its_arrays_are_refused_by_its_name(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="pip install ml_dtypes")
    blob, structure = encoded(np.zeros(2, ml_dtypes.bfloat16))
    (tmp_path / "blob").write_bytes(blob)
    (tmp_path / "structure").write_bytes(orjson.dumps(structure))
    code = """
import json, pathlib, sys
sys.modules["ml_dtypes"] = None
from experiment_tracking.errors import MissingPackageError
from experiment_tracking.formats import tensor_files
from experiment_tracking.formats.trees import rebuild_tree
here = pathlib.Path(sys.argv[1])
known = json.loads((here / "structure").read_bytes())
parts = tensor_files.parse(memoryview((here / "blob").read_bytes()), "Model")
try:
    rebuild_tree(parts, known["tensors"], known["tree"])
except MissingPackageError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, tmp_path]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "bfloat16 arrays needs the package ml_dtypes" in found.stdout
    assert found.stderr == ""


def test_a_torch_state_dict_with_tied_weights_comes_back():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    model = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)}
    )
    model["head"].weight = model["embed"].weight
    blob, structure = encoded(model.state_dict())
    back = decoded(blob, structure)
    assert back["head.weight"] is back["embed.weight"]
    assert len(load(blob)) == 1
    assert torch.equal(back["embed.weight"], model["embed"].weight)
    model.load_state_dict(back)


def test_a_torch_optimizers_state_comes_back():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    given = optimizer.state_dict()
    back = round_trip(given)
    assert back["param_groups"] == given["param_groups"]
    assert torch.equal(back["state"][0]["exp_avg"], given["state"][0]["exp_avg"])


def torch_dtypes(torch):
    short = [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
    return [*short, torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64]


def bits_of(torch, tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_torch_tensors_of_every_dtype_come_back_bit_for_bit():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    pytest.importorskip("ml_dtypes", reason="pip install ml_dtypes")
    for dtype in torch_dtypes(torch):
        for tensor in (torch.tensor([[0.0, 1.5, -2.0]]).to(dtype).T, torch.zeros((), dtype=dtype)):
            back = round_trip({"w": tensor})["w"]
            assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
            assert bits_of(torch, back) == bits_of(torch, tensor)
            array = round_trip({"w": tensor}, as_numpy=True)["w"]
            assert (array.shape, f"torch.{array.dtype.name}") == (tuple(tensor.shape), str(dtype))
            assert array.tobytes() == bits_of(torch, tensor)


def test_torch_views_that_share_memory_but_not_values_are_kept_apart():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    tensor = torch.tensor([[1 + 2j, 3j], [4, 5]])
    tree = {"x": tensor, "t": tensor.T, "conj": tensor.conj(), "row": tensor[0], "g": tensor.imag}
    tree |= {"empty": tensor[:0], "none": torch.zeros(0, 2)}
    back = round_trip(tree)
    for name, tensor in tree.items():
        assert back[name].shape == tensor.shape, name
        assert torch.equal(back[name], tensor.resolve_conj()), name


def test_torch_tensors_without_plain_memory_are_refused():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    for tensor in (torch.eye(2).to_sparse(), torch.zeros(2, device="meta")):
        with pytest.raises(InvalidTypeError, match="Model at 'w': a Tensor cannot be read"):
            encoded({"w": tensor})


def assert_same_jax(jax, found, given):
    """Equal in structure, dtype and every bit; random keys by the numbers that they hold."""

    def bits(leaf):
        is_key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = jax.random.key_data(leaf) if is_key else leaf
        return str(leaf.dtype), leaf.shape, np.asarray(array).tobytes()

    assert jax.tree.structure(found) == jax.tree.structure(given)
    found_leaves, leaves = jax.tree.leaves(found), jax.tree.leaves(given)
    assert all(isinstance(leaf, jax.Array) for leaf in found_leaves)
    assert [bits(leaf) for leaf in found_leaves] == [bits(leaf) for leaf in leaves]


def test_jax_trees_come_back_bit_for_bit():
    jax = pytest.importorskip("jax", reason="pip install jax")
    jnp = jax.numpy
    tree = {
        "w": jax.random.normal(jax.random.PRNGKey(0), (3, 4)),
        "half": jnp.arange(5, dtype=jnp.bfloat16),
        "small": [jnp.ones(3, jnp.float8_e4m3fn), jnp.array(2, jnp.int4), jnp.zeros((0, 2))],
        "z": jnp.array(1 + 2j),
    }
    assert_same_jax(jax, round_trip(tree), tree)
    back = round_trip(tree, as_numpy=True)
    assert list(back) == list(tree)
    assert_same(jax.tree.leaves(back), [np.asarray(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_jax_random_keys_come_back_with_their_kind(kind):
    jax = pytest.importorskip("jax", reason="pip install jax")
    key = jax.random.key(7, impl=kind)
    many = jax.random.split(key, (2, 3))
    tree = {"one": key, "many": many, "none": many[:0], "old": jax.random.PRNGKey(3)}
    back = round_trip(tree)
    assert_same_jax(jax, back, tree)
    assert jax.random.bits(back["one"]) == jax.random.bits(key)
    numbers = round_trip(tree, as_numpy=True)["many"]
    assert_same(numbers, np.asarray(jax.random.key_data(many)))


def test_arrays_of_several_libraries_come_back_as_their_own():
    jax = pytest.importorskip("jax", reason="pip install jax")
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    tree = {"n": np.ones(2), "t": torch.ones(2), "j": jax.numpy.ones(2)}
    back = round_trip(tree)
    assert [type(leaf) for leaf in back.values()] == [type(leaf) for leaf in tree.values()]
    plain = round_trip(tree, as_numpy=True)
    assert [type(leaf) for leaf in plain.values()] == [np.ndarray] * 3


def test_double_precision_in_jax_is_not_cut_silently():
    jax = pytest.importorskip("jax", reason="pip install jax")
    with jax.enable_x64(True):
        blob, structure = encoded({"w": jax.numpy.array([0.1]), "n": jax.numpy.array(2**40)})
        assert decoded(blob, structure)["n"] == 2**40
    with pytest.raises(InvalidValueError, match=r"float64 .*jax_enable_x64.*as_numpy=True"):
        decoded(blob, structure)
    assert_same(decoded(blob, structure, as_numpy=True)["w"], np.array([0.1]))


def test_classes_registered_with_jax_come_back_as_dicts_of_what_they_have():
    jax = pytest.importorskip("jax", reason="pip install jax")

    @jax.tree_util.register_pytree_with_keys_class
    class Layer:
        def __init__(self, w, b):
            self.w, self.b = w, b

        def tree_flatten_with_keys(self):
            name = jax.tree_util.GetAttrKey
            return [(name("w"), self.w), (name("b"), self.b)], None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    @jax.tree_util.register_pytree_node_class
    class Pair(list):
        def tree_flatten(self):
            return tuple(self), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(children)

    @jax.tree_util.register_pytree_node_class
    class Unnamed:
        def tree_flatten(self):
            return (np.ones(1), [2]), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls()

    tree = {"a": Layer(np.zeros(2), None), "b": (Unnamed(), Pair([3]))}
    _, structure = encoded(tree)
    assert list(structure["tensors"]) == ["a/w", "b/0/0"]
    expected = {"a": {"w": np.zeros(2)}, "b": ({0: np.ones(1), 1: [2]}, [3])}
    assert_same(round_trip(tree), expected)


def test_what_a_traced_function_has_in_hand_is_refused():
    jax = pytest.importorskip("jax", reason="pip install jax")

    @jax.jit
    def inside(x):
        with pytest.raises(InvalidTypeError, match=r"Model at 'w': .* cannot be read as an array"):
            flatten_tree({"w": x})
        return x

    inside(1.0)


ON_TWO_HOSTS = """
import sys
import jax, numpy as np
from experiment_tracking.errors import InvalidValueError
from experiment_tracking.formats.trees import flatten_tree
address, rank = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(address, 2, rank)
mesh = jax.make_mesh((2,), ("x",))
def spread(*axes):
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    return jax.make_array_from_callback((2,), sharding, lambda index: np.arange(2.0)[index])
try:
    flatten_tree({"w": spread("x")})
except InvalidValueError as error:
    print(error)
print(flatten_tree(spread()).tensors["array"].array)
"""


def test_an_array_that_is_partly_on_another_host_is_refused_with_what_to_do(tmp_path):
    pytest.importorskip("jax", reason="pip install jax")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    started = contextlib.ExitStack()
    with started:
        hosts = [
            started.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", ON_TWO_HOSTS, address, str(rank)],
                    env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                )
            )
            for rank in range(2)
        ]  # fmt: skip
        for host in hosts:
            found, errors = host.communicate(timeout=120)
            assert host.returncode == 0, errors
            assert "Model at 'w': a part of this array is on devices of other processes" in found
            assert "process_allgather" in found
            assert found.splitlines()[-1] == "[0. 1.]"


def test_an_estimator_is_refused_with_what_to_pass():
    with pytest.raises(InvalidTypeError, match=r"'a/0': a SimpleNamespace .*model\.state_dict\(\)"):
        encoded({"a": [SimpleNamespace()]})


def test_a_torch_module_is_refused_with_what_to_pass():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    with pytest.raises(InvalidTypeError, match=r"^Model: a Linear .*model\.state_dict\(\)"):
        encoded(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    "array",
    [np.array([object()]), np.array([[1], [2, 3]], object), np.zeros(2, [("x", "f4")])],
)
def test_arrays_of_objects_and_records_are_refused(array):
    with pytest.raises(InvalidTypeError, match="Model at 'w': an array of dtype"):
        encoded({"w": array})


@pytest.mark.parametrize("tree", [{b"x": 1}, {frozenset(): 1}, {(1, b"x"): 1}])
def test_keys_of_another_kind_are_refused(tree):
    with pytest.raises(InvalidTypeError, match="a key of type"):
        encoded(tree)


def test_a_tree_that_contains_itself_is_refused():
    tree = {"a": []}
    tree["a"].append(tree)
    with pytest.raises(InvalidValueError, match="'a/0': a container that contains itself"):
        encoded(tree)


def nested(depth):
    tree = 1
    for _ in range(depth):
        tree = {"x": tree}
    return tree


def test_fifty_levels_are_kept_and_fifty_one_refused():
    assert round_trip(nested(50)) == nested(50)
    with pytest.raises(InvalidValueError, match="deeper than 50 levels"):
        encoded(nested(51))


def test_text_that_is_no_unicode_is_refused():
    with pytest.raises(InvalidValueError, match="not valid Unicode"):
        encoded({"a": "\ud800"})


def test_what_is_kept_beside_says_what_each_array_was():
    structure = encoded({"w": np.zeros((3, 4), np.float32), "n": [np.array(1), 5]})[1]
    assert structure == {
        "tensors": {
            "w": {"shape": [3, 4], "dtype": "float32", "library": "numpy"},
            "n/0": {"shape": [], "dtype": "int64", "library": "numpy"},
        },
        "tree": {"dict": [["w", {"array": "w"}], ["n", {"list": [{"array": "n/0"}, 5]}]]},
    }


JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["array", "dtype", "shape", "dict", "list", "tuple", "float", "int"]),
            inner,
        ),
    ),
)


@given(JSON)
def test_a_structure_of_nonsense_raises_only_our_own_error(node):
    blob, structure = encoded({"w": np.zeros(3)})
    known = structure["tensors"]
    for nonsense in ({"tensors": known, "tree": node}, {**structure, "tensors": {"w": node}}):
        with contextlib.suppress(DamagedError):
            decoded(blob, nonsense)


def test_a_blob_cut_at_any_byte_raises_only_our_own_error():
    blob, structure = encoded({"w": np.arange(3), "b": [math.nan]})
    for end in range(len(blob)):
        with pytest.raises(DamagedError, match="Restore"):
            decoded(blob[:end], structure)


@pytest.mark.parametrize(
    "change",
    [{"dtype": "no"}, {"dtype": "object"}, {"dtype": "finfo"}, {"shape": [4]}, {"shape": [-1, 2]}],
)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_structure_that_does_not_fit_its_blob_is_damaged(change, library):
    if library == "torch":
        pytest.importorskip("torch", reason="pip install torch==2.13.0")
    blob, structure = encoded(np.zeros(3))
    structure["tensors"]["array"] |= {"library": library, **change}
    with pytest.raises(DamagedError, match="Model: "):
        decoded(blob, structure)


def test_a_structure_with_a_tensor_that_is_not_there_is_damaged():
    blob, structure = encoded(np.zeros(3))
    with pytest.raises(DamagedError, match="Model: "):
        decoded(blob, {**structure, "tree": {"array": "x"}})


def test_nan_payloads_survive_in_arrays():
    odd = struct.pack("<I", 0x7FC01234)
    assert round_trip(np.frombuffer(odd, "f4")).tobytes() == odd
