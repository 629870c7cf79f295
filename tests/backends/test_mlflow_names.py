import json

import pytest

from experiment_tracking.backends.mlflow_names import (
    Names,
    allowed_model_name,
    allowed_name,
    flatten,
    pieces,
    to_points,
)

ODD_NAMES = (
    "acc@1", "acc#1", "a//b", "/a", "a/../b", "a/./b", "..", "..a", ".", "", "a/", "x\n", "1\t2",
    "é(ü)", "n" * 300, "m/" * 200, "50%", "a=b", "\\", "a:b", "α/β", "."
)  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_name_becomes_one_that_mlflow_takes(name, mlflow):
    from mlflow.utils.validation import _validate_metric_name

    key = allowed_name(name)
    _validate_metric_name(key)
    assert len(key) <= 250


@pytest.mark.parametrize("name", ["val/loss", "a-b.c d_e", "ä/ö:ü", "a..b", ".a"])
def test_a_name_that_mlflow_takes_stays(name):
    assert allowed_name(name) == name


@pytest.mark.parametrize("name", ["p/q:r", "a.b", "it's", "x%y", 'a"b'])
def test_a_model_is_registered_under_a_name_that_every_mlflow_takes(name, mlflow):
    from mlflow.utils.validation import _validate_logged_model_name, _validate_model_name

    _validate_model_name(allowed_model_name(name))
    _validate_logged_model_name(allowed_model_name(name))


def test_names_that_come_out_alike_are_told_apart():
    noted = []
    names = Names({}, lambda name, key: noted.append(name))
    keys = [names.key(name) for name in ("acc@1", "acc#1", "acc_1", "acc@1", "loss")]
    assert keys[0] == keys[3] == "acc_1"
    assert len(set(keys)) == 4
    assert keys[4] == "loss"
    assert noted == ["acc@1", "acc#1", "acc_1"]


def test_long_names_that_begin_alike_are_told_apart():
    names = Names({}, lambda name, key: None)
    assert names.key("n" * 300) != names.key("n" * 301)


def test_names_are_kept_through_a_restart():
    kept = {}
    first = Names(kept, lambda name, key: None)
    first.key("acc@1")
    noted = []
    second = Names(json.loads(json.dumps(kept)), lambda name, key: noted.append(name))
    assert second.key("acc@1") == "acc_1"
    assert noted == []
    assert second.key("acc_1") != "acc_1"


def test_a_name_that_is_there_already_is_not_given_to_another():
    names = Names({}, lambda name, key: None)
    names.know(["acc_1"])
    assert names.key("acc_1") == "acc_1"
    assert names.key("acc@1") != "acc_1"


def test_params_are_flattened_but_for_empty_sections():
    params = {"model": {"depth": 3, "opt": {"lr": None}}, "empty": {}, "widths": [{"a": 1}]}
    assert list(flatten(params)) == [
        ("model.depth", 3), ("model.opt.lr", None), ("empty", {}), ("widths", [{"a": 1}]),
    ]  # fmt: skip


def test_a_row_becomes_points_with_whole_steps_and_milliseconds():
    row = {"step": 3, "time": 1763640000.1234, "loss": 0.5, "metric:time": 7, "attempt": 2}
    points = to_points(row, str.upper)
    assert [tuple(point) for point in points] == [
        ("LOSS", 0.5, 1763640000123, 3),
        ("TIME", 7.0, 1763640000123, 3),
    ]


def test_what_mlflow_has_no_place_for_is_brought_into_its_range():
    (point,) = to_points({"step": 2**70, "time": -5.0, "loss": 1.0}, str)
    assert (point.timestamp, point.step) == (0, 2**63 - 1)


def test_a_request_stays_below_a_megabyte_whatever_the_names_are():
    items = [("𝛼" * 250, str(number)) for number in range(1000)]
    made = list(pieces(items, tuple, 1000))
    assert [item for piece in made for item in piece] == items
    assert max(len(json.dumps(piece)) for piece in made) < 1_000_000
    assert len(made) > 1


def test_a_request_holds_no_more_items_than_allowed():
    assert [len(piece) for piece in pieces(range(250), lambda item: (), 100)] == [100, 100, 50]
    assert list(pieces([], lambda item: (), 100)) == []
