import json
import math

import numpy as np
import pandas as pd
import pytest

from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.table import RunTable, flat, to_floats


def both_ways(paths):
    """Columns as gathered the quick way where it is taken, and the careful way."""
    quick, careful = RunTable([]), RunTable([])
    taken = [quick.add_path(str(path)) for path in paths]
    for path, was_taken in zip(paths, taken, strict=True):
        careful.add(RunRecord(path))
        if not was_taken:
            quick.add(RunRecord(path))
    return taken, quick.to_frame(), careful.to_frame()


def test_a_finished_run_of_ours_is_taken_the_quick_way_with_the_same_result(track):
    rows = [{"loss": 1.0, "β": 2}, {"loss": -0.0, "time": 3, "acc": 0.25}]
    paths = [
        track("a", params={"lr": 0.1, "n": 3, "s": "x", "none": None}, rows=rows, tags=["t"]).path,
        track("b", status="FAILED").path,
        track("c", params={"lr": 1, "list": [1, 2]}, rows=rows[:1], tags={"u": "v"}).path,
        track("d", params={"lr": 2, "list": []}, rows=rows[:1], tags={"u": "w"}).path,
    ]
    taken, quick, careful = both_ways(paths)
    assert all(taken)
    pd.testing.assert_frame_equal(quick, careful)
    assert quick["params.list"].tolist() == [None, None, [1, 2], []]
    assert quick["metrics.time"].tolist()[0] == 3.0


def test_whatever_is_unusual_is_left_to_the_careful_way(track, damage, edit, killed):
    runs = {
        "nested": track("nested", params={"model": {"depth": 2}}),
        "brace": track("brace", params={"text": "{}"}),
        "nan": track("nan", rows=[{"loss": math.nan}, {"acc": math.inf}]),
        "open": track("open", rows=[{"loss": 1.0}], status=None),
        "long": track("long", params={f"p{i}": "x" * 900 for i in range(100)}),
        "undigested": track("undigested", rows=[{"loss": 1.0}]),
        "old": track("old", rows=[{"loss": 1.0}]),
    }
    summary = json.loads((runs["undigested"].path / "summary.json").read_text())
    edit(runs["undigested"], metrics={}, history=summary["history"] | {"digested_bytes": 0})
    damage(runs["old"], '{"status": "finished"}')
    paths = [killed, *(run.path for run in runs.values())]
    taken, quick, careful = both_ways(paths)
    assert not any(taken)
    pd.testing.assert_frame_equal(quick, careful)
    values = dict(zip(quick["name"], quick["metrics.loss"], strict=True))
    assert values["killed"] == 1 / 200
    assert values["open"] == values["undigested"] == values["old"] == 1.0
    assert math.isnan(values["nan"])
    assert quick["metrics.acc"].max() == math.inf


@pytest.mark.parametrize(
    "wrong",
    [
        {"tags": ["a"]}, {"tags": None}, {"metrics": "none"}, {"metrics": {"loss": 3}},
        {"metrics": {"loss": {"last": "a"}}}, {"metrics": {"loss": {}}}, {"history": 3},
        {"history": {"digested_bytes": "9", "bytes": 3}}, {"format": 2}, {"format": None},
        {"status": "running"}, {"status": ["finished"]}, {"created_at": 17},
    ],
)  # fmt: skip
def test_a_summary_of_wrong_kinds_is_never_taken_the_quick_way(track, edit, wrong):
    run = track("a", params={"lr": 1}, rows=[{"loss": 1.0}])
    edit(run, **wrong)
    table = RunTable([])
    assert not table.add_path(str(run.path))
    assert len(table.to_frame()) == 0


def test_a_metric_with_a_brace_in_it_is_read_whole(track, damage):
    run = track("a", rows=[{"loss": 1.0}])
    text = (run.path / "summary.json").read_text()
    damage(run, text.replace('"last_step": 0', '"last_step": 0,\n      "unit": "}"'))
    taken, quick, _ = both_ways([run.path])
    assert taken == [False]
    assert quick["metrics.loss"].tolist() == [1.0]


def test_a_missing_folder_or_a_link_in_a_files_place_is_not_taken(track, tmp_path):
    (tmp_path / "damaged").touch()
    run = track("a", params={"lr": 1})
    assert not RunTable([]).add_path(str(tmp_path / "none"))
    (run.path / "params.json").rename(tmp_path / "params.json")
    (run.path / "params.json").symlink_to(tmp_path / "params.json")
    assert not RunTable([]).add_path(str(run.path))


def test_a_flat_name_that_equals_a_nested_one_leaves_the_columns_in_step(track, registry):
    track("a", params={"m.d": 1, "m": {"d": 2}})
    track("b", params={"m": {"d": 3}})
    assert registry.to_frame()["params.m.d"].tolist() == [2, 3]


def test_nested_params_are_joined_by_dots():
    nested = {"lr": 1, "model": {"depth": 2, "head": {"n": 3}, "empty": {}}, "list": [{"a": 1}]}
    assert flat(nested) == {
        "lr": 1, "model.depth": 2, "model.head.n": 3, "model.empty": {}, "list": [{"a": 1}],
    }  # fmt: skip
    assert flat({}) == {}


def test_stored_numbers_become_floats():
    stored = [1, 2.5, None, "NaN", "Infinity", "-Infinity", True]
    expected = [1, 2.5, np.nan, np.nan, np.inf, -np.inf, 1]
    np.testing.assert_array_equal(to_floats(stored), expected)
    np.testing.assert_array_equal(to_floats([1, "words", [2]]), [1, np.nan, np.nan])
