import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats.histograms import encode_histogram


def test_counts_and_statistics_are_numpys():
    values = np.random.default_rng(0).normal(3, 2, (50, 40))
    found = encode_histogram(values, bins=10)
    counts, edges = np.histogram(values, 10)
    assert found["counts"] == counts.tolist()
    assert found["edges"] == pytest.approx(edges.tolist())
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std())
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert (found["count"], found["nonfinite"]) == (2000, 0)


@given(st.lists(st.floats(), min_size=1), st.integers(1, 70))
def test_any_floats_give_finite_json_that_counts_each_once(values, bins):
    found = encode_histogram(values, bins)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert sum(found["counts"]) == found["count"] == sum(map(math.isfinite, values))
    assert found["count"] + found["nonfinite"] == len(values)
    assert found["edges"] == sorted(found["edges"])
    if found["count"]:
        assert len(found["edges"]) == len(found["counts"]) + 1 == bins + 1
        hair = 1e-15 * max(abs(found["min"]), abs(found["max"]))
        assert found["edges"][0] - hair <= found["min"] <= found["max"] <= found["edges"][-1] + hair


def test_nearly_equal_values_still_have_a_histogram():
    assert sum(encode_histogram([0.1 + 0.2, 0.3])["counts"]) == 2


def test_only_nonfinite_values_leave_the_statistics_open():
    found = encode_histogram([math.nan, math.inf])
    assert (found["count"], found["nonfinite"]) == (0, 2)
    assert (found["counts"], found["edges"], found["mean"]) == ([], [], None)


@pytest.mark.parametrize("values", [[True, False, True], [1, 0, 1], np.float16([1, 0, 1])])
def test_bools_integers_and_short_floats_count_as_numbers(values):
    assert encode_histogram(values, bins=2)["counts"] == [1, 2]


def test_torch_tensors_are_read():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    tensor = torch.tensor([0.0, 1.0, 1.0], dtype=torch.bfloat16, requires_grad=True)
    assert encode_histogram(tensor, bins=2)["counts"] == [1, 2]


def test_jax_arrays_are_read():
    jnp = pytest.importorskip("jax", reason="pip install jax").numpy
    array = jnp.array([0.0, 1.0, 1.0], dtype=jnp.bfloat16)
    assert encode_histogram(array, bins=2)["counts"] == [1, 2]


def test_no_values_are_refused():
    with pytest.raises(InvalidValueError, match="found no values"):
        encode_histogram([])


def test_less_than_one_bin_is_refused():
    with pytest.raises(InvalidValueError, match="found bins=0"):
        encode_histogram([1.0], bins=0)


@pytest.mark.parametrize("values", [["a"], None, [1j], [[1, 2], [3]]])
def test_what_holds_no_numbers_is_refused(values):
    with pytest.raises(InvalidTypeError, match="Histogram: "):
        encode_histogram(values)
