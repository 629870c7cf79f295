import io
import json
import math
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from experiment_tracking.reproduce.equality import (
    close,
    distance,
    is_clock,
    same_archive,
    same_arrays,
    same_model,
    same_text,
    take_apart,
)

numbers = st.floats() | st.integers(-(2**63), 2**63)


@pytest.mark.parametrize("name", """
    time duration elapsed seconds throughput fps val/time_s step_time_ms train_runtime wall-time
    train_samples_per_second steps_per_sec tokens_per_s ms_per_step time_per_epoch time/time_elapsed
    epoch_duration_min batch_ms lab/latency time/epoch time_epoch time/val/forward
""".split())  # fmt: skip
def test_names_of_clocks_are_known(name):
    assert is_clock(name)


@pytest.mark.parametrize("name", """
    loss val/loss acc lr time_step timesteps time/iterations loss_min loss_s per_class_acc per
    bits_per_dim errors_per_word perplexity s min per_s operator/resolution time/total_timesteps
""".split())  # fmt: skip
def test_other_names_are_no_clocks(name):
    assert not is_clock(name)


@given(numbers)
def test_every_number_equals_itself(number):
    assert close(number, number, 0.0)


@given(numbers, numbers, st.floats(0, 1))
def test_closeness_has_no_direction(a, b, tolerance):
    assert close(a, b, tolerance) == close(b, a, tolerance)


@given(numbers, numbers)
def test_a_tolerance_as_large_as_the_distance_suffices_and_a_smaller_one_does_not(a, b):
    away = distance(a, b)
    if 0 < away < math.inf:
        assert close(a, b, away)
        assert not close(a, b, math.nextafter(away, 0))


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "expected"),
    [
        (0.1, 0.1 + 1e-12, 0.0, False),
        (0.1, 0.1 + 1e-12, 1e-9, True),
        (1000.0, 1001.0, 1e-3, True),
        (1000.0, 1002.0, 1e-3, False),
        (0.0, 1e-4, 1e-3, True),
        (math.nan, math.nan, 0.0, True),
        (math.inf, math.inf, 0.0, True),
        (math.inf, -math.inf, 1.0, False),
        (math.nan, 1.0, 1.0, False),
        (1e308, -1e308, 1.0, False),
        (2**62, 2**62 + 1, 0.0, False),
    ],
)
def test_numbers_are_compared_relative_to_the_larger_or_to_one(a, b, tolerance, expected):
    assert close(a, b, tolerance) is expected


@given(st.text(st.sampled_from("a#.+-eE0123456789 ")))
def test_a_text_is_its_kind_with_the_numbers_put_back(text):
    kind, numbers = take_apart(text.replace("#", ""))
    pieces = kind.split("#")
    found = pieces[0] + "".join(n + p for n, p in zip(numbers, pieces[1:], strict=True))
    assert found == text.replace("#", "")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (b"x,y\n1,0.5\n", b"x,y\n1,0.5000001\n", True),
        (b"x,y\n1,0.5\n", b"x,y\n1,0.6\n", False),
        (b"x,y\n1,0.5\n", b"x,z\n1,0.5\n", False),
        (b"x\n1\n", b"x\n1\n1\n", False),
        (b'{"loss": 1e-3,\n"sha256": "ab1"}', b'{"loss": 0.001,\n"sha256": "cd2"}', True),
        (b"layer1 0.5", b"layer1 nan", False),
    ],
)
def test_tables_and_json_are_compared_by_their_numbers(a, b, expected):
    assert same_text(a, b, 1e-3) is expected


def arrays(**named):
    return save({name: np.asarray(array) for name, array in named.items()})


def test_weights_are_compared_by_their_numbers():
    weights = np.array([1.0, np.nan, np.inf, 1000.0], np.float32)
    near = weights + np.array([5e-4, 0, 0, 0.5], np.float32)
    assert same_arrays(arrays(w=weights), arrays(w=near), 1e-3)
    assert not same_arrays(arrays(w=weights), arrays(w=near), 1e-5)
    assert not same_arrays(arrays(w=weights), arrays(w=-weights), 1e-3)


@pytest.mark.parametrize(
    "other",
    [
        arrays(w=np.zeros(2, np.float64)),
        arrays(w=np.zeros(3, np.float32)),
        arrays(v=np.zeros(2, np.float32)),
        b"broken",
    ],
)
def test_weights_of_other_names_shapes_and_dtypes_are_not_the_same(other):
    assert not same_arrays(arrays(w=np.zeros(2, np.float32)), other, 1.0)


def test_whole_numbers_in_weights_have_no_tolerance():
    assert not same_arrays(arrays(n=np.array([100])), arrays(n=np.array([101])), 0.5)


def test_floats_that_numpy_does_not_know_are_compared_bit_by_bit():
    one = b'{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}  '
    files = [len(one).to_bytes(8, "little") + one + data for data in (b"\x80\x3f", b"\x81\x3f")]
    assert same_arrays(files[0], files[0], 0.5)
    assert not same_arrays(*files, 0.5)


def test_descriptions_of_a_model_are_compared_without_their_moment():
    model = {"class": "Net", "saved_at": "2026", "files": {"weights": {"sha256": "1", "file": "w"}}}
    later = model | {"saved_at": "2027", "files": {"weights": {"sha256": "2", "file": "w"}}}
    one, other, third = (json.dumps(m).encode() for m in (model, later, later | {"class": "Old"}))
    assert same_model(one, other, 0.0)
    assert not same_model(one, third, 0.0)
    assert not same_model(one, b"broken", 0.0)


def zipped(text, moment):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("config.json", moment), text)
    return file.getvalue()


def test_archives_are_compared_by_their_members_and_not_by_when_they_were_made():
    one = zipped("a", (2026, 1, 1, 0, 0, 0))
    assert same_archive(one, zipped("a", (2027, 1, 1, 0, 0, 0)))
    assert not same_archive(one, zipped("b", (2026, 1, 1, 0, 0, 0)))
    assert not same_archive(one, b"broken")
