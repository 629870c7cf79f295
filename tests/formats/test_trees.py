import collections
import contextlib
import json
import math
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
from safetensors.numpy import load

from experiment_tracking.errors import (
    DamagedError,
    FormatError,
    InvalidTypeError,
    InvalidValueError,
)
from experiment_tracking.formats.trees import decode_tree, describe_tree, encode_tree

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


def round_trip(tree):
    blob, structure = encode_tree(tree)
    stored = json.loads(orjson.dumps(structure))
    assert stored == structure
    return decode_tree(blob, stored)


def assert_same(found, given):
    """Equal in kind, order and every bit."""
    if isinstance(given, np.ndarray):
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
    assert encode_tree(tree) == encode_tree(tree)


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
    blob, _ = encode_tree({"layers": [{"w": np.ones(2)}], "b": np.zeros(1)})
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
    blob, structure = encode_tree({"in": shared, "out": [shared]})
    back = decode_tree(blob, structure)
    assert back["in"] is back["out"][0]
    assert describe_tree(structure)["parameter_count"] == 12


def test_leaves_made_on_the_fly_are_never_taken_for_one_another():
    class Lazy(collections.UserDict):
        def __getitem__(self, key):
            return np.full(100, key)

    back = round_trip(Lazy(dict.fromkeys(range(50))))
    assert all((array == key).all() for key, array in back.items())


def test_a_namedtuple_comes_back_as_a_dict_and_the_structure_knows_its_name():
    State = collections.namedtuple("State", "count mu")
    _, structure = encode_tree(State(3, (1, 2)))
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
    assert_same(round_trip({"w": array, "s": array[0, 0], "e": array[:0]})["w"], array)
    assert describe_tree(encode_tree(array)[1])["tensors"]["array"]["dtype"] == name


def test_without_ml_dtypes_its_arrays_are_refused_by_its_name(tmp_path):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    blob, structure = encode_tree(torch.zeros(2, dtype=torch.bfloat16))
    (tmp_path / "blob").write_bytes(blob)
    (tmp_path / "structure").write_bytes(orjson.dumps(structure))
    code = """
import json, pathlib, sys
sys.modules["ml_dtypes"] = None
from experiment_tracking.errors import MissingPackageError
from experiment_tracking.formats.trees import decode_tree
here = pathlib.Path(sys.argv[1])
try:
    decode_tree((here / "blob").read_bytes(), json.loads((here / "structure").read_bytes()))
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
    blob, structure = encode_tree(model.state_dict())
    back = decode_tree(blob, structure)
    assert back["head.weight"] is back["embed.weight"]
    assert len(load(blob)) == 1
    model.load_state_dict({name: torch.from_numpy(array) for name, array in back.items()})


def test_a_torch_optimizers_state_comes_back():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    given = optimizer.state_dict()
    back = round_trip(given)
    assert back["param_groups"] == given["param_groups"]
    assert np.array_equal(back["state"][0]["exp_avg"], given["state"][0]["exp_avg"].numpy())


def torch_dtypes(torch):
    short = [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
    return [*short, torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64]


def test_torch_tensors_of_every_dtype_come_back_bit_for_bit():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    pytest.importorskip("ml_dtypes", reason="pip install ml_dtypes")
    for dtype in torch_dtypes(torch):
        for tensor in (torch.tensor([[0.0, 1.5, -2.0]]).to(dtype).T, torch.zeros((), dtype=dtype)):
            back = round_trip({"w": tensor})["w"]
            assert back.shape == tuple(tensor.shape)
            assert f"torch.{back.dtype.name}" == str(dtype)
            contiguous = tensor.contiguous().reshape(-1).view(torch.uint8)
            assert back.tobytes() == contiguous.numpy().tobytes()


def test_torch_views_that_share_memory_but_not_values_are_kept_apart():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    tensor = torch.tensor([[1 + 2j, 3j], [4, 5]])
    tree = {"x": tensor, "t": tensor.T, "conj": tensor.conj(), "row": tensor[0], "g": tensor.imag}
    tree |= {"empty": tensor[:0], "none": torch.zeros(0, 2)}
    back = round_trip(tree)
    for name, tensor in tree.items():
        assert np.array_equal(back[name], tensor.resolve_conj().numpy()), name


def test_torch_tensors_without_plain_memory_are_refused():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    for tensor in (torch.eye(2).to_sparse(), torch.zeros(2, device="meta")):
        with pytest.raises(InvalidTypeError, match="Model at 'w': a Tensor cannot be read"):
            encode_tree({"w": tensor})


def test_jax_trees_come_back_bit_for_bit():
    jax = pytest.importorskip("jax", reason="pip install jax")
    jnp = jax.numpy
    tree = {
        "w": jax.random.normal(jax.random.PRNGKey(0), (3, 4)),
        "half": jnp.arange(5, dtype=jnp.bfloat16),
        "small": [jnp.ones(3, jnp.float8_e4m3fn), jnp.array(2, jnp.int4)],
        "z": jnp.array(1 + 2j),
    }
    back = round_trip(tree)
    assert list(back) == list(tree)
    assert_same(jax.tree.leaves(back), [np.asarray(leaf) for leaf in jax.tree.leaves(tree)])


def test_a_typed_jax_key_is_refused_with_jaxs_own_advice():
    jax = pytest.importorskip("jax", reason="pip install jax")
    with pytest.raises(InvalidTypeError, match="key_data"):
        encode_tree({"key": jax.random.key(0)})


def test_an_estimator_is_refused_with_what_to_pass():
    with pytest.raises(InvalidTypeError, match=r"'a/0': a SimpleNamespace .*model\.state_dict\(\)"):
        encode_tree({"a": [SimpleNamespace()]})


def test_a_torch_module_is_refused_with_what_to_pass():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    with pytest.raises(InvalidTypeError, match=r"^Model: a Linear .*model\.state_dict\(\)"):
        encode_tree(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    "array",
    [np.array([object()]), np.array([[1], [2, 3]], object), np.zeros(2, [("x", "f4")])],
)
def test_arrays_of_objects_and_records_are_refused(array):
    with pytest.raises(InvalidTypeError, match="Model at 'w': an array of dtype"):
        encode_tree({"w": array})


@pytest.mark.parametrize("tree", [{b"x": 1}, {frozenset(): 1}, {(1, b"x"): 1}])
def test_keys_of_another_kind_are_refused(tree):
    with pytest.raises(InvalidTypeError, match="a key of type"):
        encode_tree(tree)


def test_a_tree_that_contains_itself_is_refused():
    tree = {"a": []}
    tree["a"].append(tree)
    with pytest.raises(InvalidValueError, match="'a/0': a container that contains itself"):
        encode_tree(tree)


def nested(depth):
    tree = 1
    for _ in range(depth):
        tree = {"x": tree}
    return tree


def test_fifty_levels_are_kept_and_fifty_one_refused():
    assert round_trip(nested(50)) == nested(50)
    with pytest.raises(InvalidValueError, match="deeper than 50 levels"):
        encode_tree(nested(51))


def test_text_that_is_no_unicode_is_refused():
    with pytest.raises(InvalidValueError, match="not valid Unicode"):
        encode_tree({"a": "\ud800"})


def test_a_description_counts_without_reading():
    _, structure = encode_tree({"w": np.zeros((3, 4), np.float32), "n": [np.array(1), 5]})
    assert describe_tree(structure) == {
        "tensors": {
            "w": {"shape": [3, 4], "dtype": "float32"},
            "n/0": {"shape": [], "dtype": "int64"},
        },
        "parameter_count": 13,
        "size_bytes": 56,
    }


def test_a_later_format_is_refused():
    with pytest.raises(FormatError, match="has format 2, this version reads 1"):
        decode_tree(b"", {"format": 2, "tree": None})


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
    blob, _ = encode_tree({"w": np.zeros(3)})
    for structure in (node, {"format": 1, "tree": node}):
        for read in (describe_tree, lambda found: decode_tree(blob, found)):
            with contextlib.suppress(DamagedError):
                read(structure)


def test_a_blob_cut_at_any_byte_raises_only_our_own_error():
    blob, structure = encode_tree({"w": np.arange(3), "b": [math.nan]})
    for end in range(len(blob)):
        with pytest.raises(DamagedError, match="Restore both files"):
            decode_tree(blob[:end], structure)


@pytest.mark.parametrize(
    "change",
    [{"array": "x"}, {"dtype": "no"}, {"dtype": "object"}, {"dtype": "finfo"}, {"shape": [4]}],
)
def test_a_structure_that_does_not_fit_its_blob_is_damaged(change):
    blob, structure = encode_tree(np.zeros(3))
    structure["tree"] |= change
    with pytest.raises(DamagedError, match="Model: "):
        decode_tree(blob, structure)


def test_nan_payloads_survive_in_arrays():
    odd = struct.pack("<I", 0x7FC01234)
    assert round_trip(np.frombuffer(odd, "f4")).tobytes() == odd
