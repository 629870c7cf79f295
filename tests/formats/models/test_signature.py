from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats.models.interface import Form, ModelFormat
from experiment_tracking.formats.models.signature import (
    check_signature,
    describe,
    measure,
    plain_example,
)
from experiment_tracking.formats.trees import flatten_tree, rebuild_tree


def short(values, name="x"):
    return [(each["name"], each["dtype"], each["shape"]) for each in describe(values, name)]


def test_the_first_axis_is_the_batch():
    assert short(np.zeros((8, 3, 2), np.int8)) == [("x", "int8", [-1, 3, 2])]
    assert short(np.zeros(8)) == [("x", "float64", [-1])]


def test_single_values_have_no_axis():
    assert short(2.0) == [("x", "float64", [])]
    assert short(True) == [("x", "bool", [])]
    assert short(np.float32(1)) == [("x", "float32", [])]


def test_lists_of_numbers_are_arrays():
    assert short([1.0, 2.0]) == [("x", "float64", [-1])]
    assert short([[1, 2, 3], [4, 5, 6]]) == [("x", "int64", [-1, 3])]
    assert short([[1, 2], [3]]) == [("x0", "int64", [-1]), ("x1", "int64", [-1])]


def test_several_arguments_are_numbered_and_one_is_not():
    both = (np.zeros((4, 2)), np.zeros(4, np.int32))
    assert short(both) == [("x0", "float64", [-1, 2]), ("x1", "int32", [-1])]
    assert short((np.zeros(4),)) == [("x", "float64", [-1])]
    assert short([np.zeros(4), None]) == [("x0", "float64", [-1])]


def test_names_are_kept_through_what_is_nested():
    nested = {"ids": np.zeros((2, 7), np.int64), "extra": {"mask": np.ones(2), "two": (1, 2.0)}}
    assert short(nested) == [
        ("ids", "int64", [-1, 7]), ("extra/mask", "float64", [-1]), ("extra/two", "float64", [-1])
    ]  # fmt: skip
    assert short(({"a": np.zeros(2)}, np.zeros(2))) == [
        ("x0/a", "float64", [-1]), ("x1", "float64", [-1])
    ]  # fmt: skip


def test_a_namedtuple_has_the_names_of_its_fields():
    from collections import namedtuple

    pair = namedtuple("Pair", "mean std")(np.zeros(2), np.ones((2, 3)))
    assert short(pair) == [("mean", "float64", [-1]), ("std", "float64", [-1, 3])]


def test_a_table_has_its_columns():
    table = pd.DataFrame({"age": [40.0, 50.0], "sex": ["f", "m"], 3: [1, 2]})
    table["group"] = pd.Categorical(["a", "b"])
    assert short(table) == [
        ("age", "float64", [-1]), ("sex", "str", [-1]), ("3", "int64", [-1]),
        ("group", "category", [-1]),
    ]  # fmt: skip
    assert short(table["age"]) == [("age", "float64", [-1])]


def test_a_sparse_matrix_is_described_without_being_filled_in():
    sparse = pytest.importorskip("scipy.sparse", reason="pip install scipy")
    wide = sparse.csr_matrix((10**6, 10**6), dtype=np.float32)
    assert short(wide) == [("x", "float32", [-1, 10**6])]


def test_a_tensor_that_is_being_trained_is_described():
    torch = pytest.importorskip("torch", reason="pip install torch")
    tensor = torch.zeros(4, 2, requires_grad=True)
    assert short((tensor * 2, tensor.bfloat16())) == [
        ("x0", "float32", [-1, 2]), ("x1", "bfloat16", [-1, 2])
    ]  # fmt: skip


def test_an_example_that_is_a_table_can_be_kept_as_arrays():
    table = pd.DataFrame({"age": [40, 50], "sex": ["f", "männlich"]})
    table["group"] = pd.Categorical(["a", "b"])
    table["since"] = pd.to_datetime(["2026-01-01", "2026-01-02"])
    flat = flatten_tree(plain_example(({"table": table}, table["age"], 3.0)))
    parts = {name: _part(leaf) for name, leaf in flat.tensors.items()}
    kept, age, number = rebuild_tree(parts, flat.known(), flat.tree)
    assert list(kept["table"]) == ["age", "sex", "group", "since"]
    again = pd.DataFrame(kept["table"]).astype({"group": "category"})
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    np.testing.assert_array_equal(age["age"], [40, 50])
    assert number == 3.0


def _part(leaf):
    from experiment_tracking.formats.tensor_files import Part

    tensor = leaf.tensor()
    return Part(tensor.dtype, tensor.shape, tensor.data())


def test_what_is_no_table_stays_as_it_is():
    array = np.zeros(3)
    assert plain_example(array) is array
    assert plain_example([array, {"x": array}])[1]["x"] is array


@pytest.mark.parametrize("values", [["a", None], [1, "a"], [{}, {}]])
def test_a_column_with_gaps_or_objects_is_named(values):
    with pytest.raises(InvalidTypeError, match="the column 'odd'"):
        plain_example(pd.DataFrame({"odd": pd.Series(values, dtype=object)}))
    with pytest.raises(InvalidTypeError, match="an array holds object"):
        plain_example(np.array(values, dtype=object))


def test_an_array_of_texts_is_one_of_text():
    texts = plain_example({"text": np.array([["a", "bc"]], dtype=object)})["text"]
    assert texts.tolist() == [["a", "bc"]]
    assert texts.dtype == "U2"


@dataclass
class Scores:
    """What some models give."""

    logits: np.ndarray
    loss: None = None


class Odd(dict):
    """A mapping whose attributes are its keys, and that raises for others what it should not."""

    __getattr__ = dict.__getitem__


def test_dataclasses_and_mappings_of_ones_own_are_described_by_their_names():
    for outputs in (Scores(np.zeros(3)), Odd(logits=np.zeros(3), loss=None)):
        (entry,) = describe(outputs, "output")
        assert entry["name"] == "logits"


class Halving(ModelFormat):
    """Counts how often it computed."""

    framework = "halving"

    def __init__(self):
        self.calls = []

    def takes(self, model):
        return True

    def encode(self, model, wishes):
        return Form({}, {})

    def load(self, save, into, *, as_numpy, trusted):
        return None

    def run(self, model, args, named):
        self.calls.append((args, dict(named)))
        return {"half": args[0] / 2 if args else named["x"] / 2}

    def device(self, model):
        return "abacus"


def test_a_model_is_computed_once_to_warm_up_and_then_measured():
    counted = Halving()
    found = measure(counted, None, np.ones((2, 5)))
    assert 2 <= len(counted.calls) <= 6  # fewer on a machine that takes long
    assert found["signature"] == {
        "inputs": [{"name": "input", "dtype": "float64", "shape": [-1, 5]}],
        "outputs": [{"name": "half", "dtype": "float64", "shape": [-1, 5]}],
    }
    assert found["inference_device"] == "abacus"
    assert found["inference_time_ms"] >= 0


def test_a_mapping_goes_in_by_name_and_a_tuple_by_place():
    counted = Halving()
    measure(counted, None, {"x": np.ones(2)})
    assert {(len(args), *named) for args, named in counted.calls} == {(0, "x")}
    counted.calls.clear()
    measure(counted, None, (np.ones(2),))
    assert {(len(args), *named) for args, named in counted.calls} == {(1,)}


def test_a_signature_of_ones_own_becomes_plain():
    entry = {"name": "x", "dtype": np.dtype("float32"), "shape": (-1, np.int64(64))}
    checked = check_signature({"inputs": (entry,)})
    assert checked["outputs"] == []
    assert checked["inputs"][0]["shape"] == [-1, 64]
    assert "float32" in str(checked["inputs"][0]["dtype"])
    assert check_signature(None) is None


def test_one_of_mlflows_is_taken():
    class Signature:
        def to_dict(self):
            inputs = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]'
            return {"inputs": inputs, "outputs": None, "params": None}

    checked = check_signature(Signature())
    assert checked["inputs"][0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 4]}
    assert checked["outputs"] == []


@pytest.mark.parametrize("wrong", ["x", 3, {"inputs": 3}, {"inputs": "{"}, {"inputs": [1]}])
def test_what_is_no_signature_is_refused_with_one_that_would_do(wrong):
    with pytest.raises(InvalidTypeError, match="such as"):
        check_signature(wrong)


def test_a_key_that_is_none_is_refused():
    with pytest.raises(InvalidValueError, match="has labels"):
        check_signature({"inputs": [], "labels": []})
