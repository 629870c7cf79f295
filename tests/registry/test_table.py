import json
import math

import numpy as np
import pandas as pd
import pytest

from experiment_tracking.registry.index.scan import read_runs
from experiment_tracking.registry.record import RunRecord, flat
from experiment_tracking.registry.table import RUN_COLUMNS, RunTable, to_floats, to_frame


@pytest.fixture
def mixed(track):
    """Folders of runs that have little in common."""
    rows = [{"loss": 1.0, "β": 2}, {"loss": -0.0, "time": 3, "acc": 0.25}]
    return [
        str(track(name, rows=logged, **options).path)
        for name, logged, options in (
            ("a", rows, {"params": {"lr": 0.1, "n": 3, "s": "x", "none": None}, "tags": ["t"]}),
            ("b", [], {"status": "FAILED"}),
            ("c", rows[:1], {"params": {"lr": 1, "list": [1, 2]}, "tags": {"u": "v"}}),
            ("d", rows[:1], {"params": {"lr": 2, "list": [], "m": {"d": {"e": 1}}}}),
            ("e", [{"loss": math.nan}, {"acc": math.inf}], {"project": "other"}),
        )
    ]


def of(paths):
    return RunTable.of([RunRecord(path) for path in paths])


def test_columns_are_those_of_the_runs_in_the_order_in_which_they_are_met(mixed):
    table = of(mixed)
    assert table.names() == [
        *RunTable.RUN_COLUMNS, "params.lr", "params.n", "params.s", "params.none", "params.list",
        "params.m.d.e", "metrics.loss", "metrics.β", "metrics.time", "metrics.acc", "tags.t",
        "tags.u",
    ]  # fmt: skip


def test_a_column_has_one_value_per_run_and_none_in_the_gaps(mixed):
    table = of(mixed)
    assert table.column("name") == ["a", "b", "c", "d", "e"]
    assert table.column("project") == ["digits"] * 4 + ["other"]
    assert table.column("status") == ["finished", "failed", "finished", "finished", "finished"]
    assert table.column("params.lr") == [0.1, None, 1, 2, None]
    assert table.column("params.m.d.e") == [None, None, None, 1, None]
    assert table.column("tags.u") == [None, None, "v", None, None]
    assert table.column("notes") == [""] * 5
    assert table.column("group") == [None] * 5


def test_a_metrics_column_is_its_last_value_or_the_number_asked_for(mixed):
    table = of(mixed)
    assert repr(table.column("metrics.loss")) == "[-0.0, None, 1.0, 1.0, nan]"
    assert table.column("metrics.loss:min") == [0.0, None, 1.0, 1.0, None]
    assert table.column("metrics.loss:max_step") == [0.0, None, 0.0, 0.0, None]
    assert table.column("metrics.loss:count") == [2.0, None, 1.0, 1.0, 1.0]
    assert table.column("metrics.loss:best") == [0.0, None, 1.0, 1.0, None]
    assert table.column("metrics.loss:goal") == [
        "minimize",
        None,
        "minimize",
        "minimize",
        "minimize",
    ]
    assert table.column("metrics.acc:first_nonfinite_step") == [None, None, None, None, 1.0]
    assert table.column("metrics.β:best") == [None] * 5


@pytest.mark.parametrize(
    "name", ["params.x", "metrics.x", "metrics.loss:mode", "metrics.x:min", "tags.x", "x", "key"]
)
def test_a_column_that_no_run_has_is_a_key_error(mixed, name):
    with pytest.raises(KeyError):
        of(mixed).column(name)
    with pytest.raises(KeyError):
        of([]).column(name)


def test_a_metric_whose_name_ends_like_a_number_of_another_is_itself(track):
    run = track("a", rows=[{"loss": 1.0, "loss:min": 5.0}])
    table = of([run.path])
    assert table.column("metrics.loss:min") == [5.0]
    assert table.column("metrics.loss:min:last") == [5.0]
    assert table.column("metrics.loss:max") == [1.0]


def test_some_of_the_runs_have_their_own_names_only(mixed):
    table = of(mixed).take([4, 2])
    assert table.paths == [mixed[4], mixed[2]]
    assert table.column("name") == ["e", "c"]
    assert table.column("params.lr") == [None, 1]
    assert table.names()[len(RunTable.RUN_COLUMNS) :] == [
        "params.lr", "params.list", "metrics.loss", "metrics.acc", "metrics.β", "tags.u"
    ]  # fmt: skip
    with pytest.raises(KeyError):
        table.column("tags.t")
    assert table.take([1]).column("name") == ["c"]
    assert len(table.take([])) == 0


def test_tables_are_put_behind_each_other(mixed):
    whole = of(mixed)
    parts = of(mixed[:2]) + of(mixed[2:]).take([2, 0, 1])
    assert parts.paths == [*mixed[:2], mixed[4], mixed[2], mixed[3]]
    expected = whole.take([0, 1, 4, 2, 3])
    assert parts.names() == expected.names()
    for name in whole.names():
        assert repr(parts.column(name)) == repr(expected.column(name)), name
    pd.testing.assert_frame_equal(parts.to_frame(), expected.to_frame())


def test_runs_are_ordered_by_the_time_they_began(track, edit):
    times = ["2026-01-02", "2026-01-01T23:00:00+01:00", "never", None, "2026-01-01T22:00:00Z"]
    for number, time in enumerate(times):
        edit(track(f"run-{number}"), created_at=time)
    paths = [str(track(f"more-{number}").path) for number in range(2)]
    runs = [path.replace("more-0", f"run-{number}") for number in range(5) for path in paths[:1]]
    assert of(runs).oldest_first().column("name") == ["run-1", "run-4", "run-0", "run-2", "run-3"]


def test_a_frame_has_the_columns_of_a_table_with_times_and_floats(mixed):
    frame = of(mixed).to_frame()
    assert list(frame)[: len(RUN_COLUMNS)] == list(RUN_COLUMNS)
    assert str(frame["created_at"].dtype) == "datetime64[us, UTC]"
    expected = pd.to_datetime(of(mixed).column("created_at"), utc=True)
    assert list(frame["created_at"]) == list(expected)
    assert frame["duration_s"].dtype == frame["metrics.loss"].dtype == np.float64
    np.testing.assert_array_equal(frame["metrics.acc"], [0.25, np.nan, np.nan, np.nan, np.inf])
    assert frame["params.list"].tolist() == [None, None, [1, 2], [], None]
    assert frame["params.lr"].tolist()[:1] == [0.1]
    assert frame["params.lr"].dtype == np.float64


def test_a_frame_is_what_pandas_makes_of_the_columns(mixed):
    for table in (of(mixed), of(mixed[:1]), of(mixed[2:4]), of(mixed).take([3, 0])):
        frame = table.to_frame()
        plain = to_frame({name: table.column(name) for name in frame})
        pd.testing.assert_frame_equal(frame, plain)


def test_durations_of_whole_seconds_are_floats_too(track, edit):
    run = track("a")
    edit(run, duration_s=17)
    frame = RunTable.of([RunRecord(run.path)]).to_frame()
    assert frame["duration_s"].dtype == np.float64
    assert frame["duration_s"][0] == 17.0


def test_a_frame_may_be_changed(mixed):
    table = of(mixed)
    frame = table.to_frame()
    frame.loc[0, "metrics.loss"] = 7.0
    frame.loc[0, "name"] = "other"
    assert table.column("metrics.loss")[0] == 0.0
    assert frame["metrics.loss"][0] == 7.0


def test_no_runs_are_a_table_too():
    table = RunTable.of([])
    assert table.names() == list(RunTable.RUN_COLUMNS)
    assert table.column("status") == []
    assert list(table.to_frame()) == list(RUN_COLUMNS)
    assert len(table.oldest_first() + table) == 0


def test_a_run_whose_params_are_damaged_keeps_its_metrics_and_is_a_problem(track, damage):
    run = track("a", params={"lr": 1}, rows=[{"loss": 1.0}])
    damage(run, "{", "params.json")
    table = of([run.path])
    assert table.column("metrics.loss") == [1.0]
    assert "params.lr" not in table.names()
    assert [problem.path for problem in table.problems] == [str(run.path)]


def test_a_flat_name_that_equals_a_nested_one_leaves_the_columns_in_step(track, root):
    track("a", params={"m.d": 1, "m": {"d": 2}})
    track("b", params={"m": {"d": 3}})
    paths = [str(root / "digits" / name) for name in "ab"]
    for table in (of(paths), read_runs(paths)):
        assert table.column("params.m.d") == [2, 3]


def test_an_integer_that_no_double_can_hold_is_infinite(track, damage):
    run = track("a", rows=[{"loss": 1.0}])
    text = (run.path / "summary.json").read_text()
    damage(run, " " + text.replace('"last": 1.0', f'"last": {-(10**400)}'))
    assert json.loads((run.path / "summary.json").read_text())
    assert of([run.path]).column("metrics.loss") == [-math.inf]


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
