import enum
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiment_tracking.errors import InvalidTypeError, InvalidValueError, MetricNotFoundError
from experiment_tracking.registry.runset import RunSet


@pytest.fixture
def runs(track, registry):
    track("a", params={"lr": 0.3, "opt": "sgd"}, rows=[{"val/loss": 3.0}, {"val/loss": 2.0}])
    track("b", params={"lr": 0.1, "opt": 4}, rows=[{"val/loss": math.nan}], tags=["x"])
    track("c", params={"lr": 0.2}, rows=[{"val/loss": 1.0, "acc": 0.5}], status="FAILED")
    track("d", "waves")
    return registry.list_experiments()


def test_a_run_set_is_a_sequence(runs):
    assert (len(runs), runs[0].name, runs[-1].name) == (4, "a", "d")
    assert isinstance(runs[1:3], RunSet)
    assert runs[1:3].names == ["b", "c"]
    assert (runs[:1] + runs[2:3]).names == ["a", "c"]
    assert [record.name for record in runs] == runs.names
    assert runs[2] in runs
    assert repr(runs) == "<RunSet of 4 runs: a, b, c, d>"
    assert repr(runs[:0]) == "<RunSet of no runs>"
    with pytest.raises(IndexError):
        runs[4]


def test_limit_keeps_the_first(runs):
    assert runs.limit(2).names == ["a", "b"]
    assert runs.limit(None).names == runs.limit(99).names == runs.names


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("-created_at", "dcba"),
        ("name", "abcd"),
        ("status", "cabd"),
        ("params.lr", "bcad"),
        ("lr", "bcad"),
        ("-lr", "acbd"),
        ("metrics.val/loss", "cabd"),
        ("-metrics.val/loss", "acbd"),
        ("val/loss:max", "cabd"),
        ("best_val/loss", "cabd"),
        ("opt", "bacd"),
        ("tags.x", "bacd"),
    ],
)
def test_runs_are_ordered_by_any_column_and_those_without_a_value_come_last(runs, column, names):
    assert "".join(runs.order_by(column).names) == names


def test_a_column_that_no_run_has_shows_near_ones(runs):
    with pytest.raises(InvalidValueError, match=r"'val/los'.*Near: val/loss"):
        runs.order_by("val/los")
    with pytest.raises(InvalidValueError, match="Near: created_at"):
        runs.order_by("create_at")
    with pytest.raises(InvalidValueError, match="There are: lr, opt"):
        runs.order_by("params.z")


def test_a_name_that_is_both_param_and_metric_must_say_which(track, registry):
    track("a", params={"lr": 1}, rows=[{"lr": 0.5}])
    runs = registry.list_experiments()
    with pytest.raises(InvalidValueError, match=r"params\.lr or metrics\.lr"):
        runs.order_by("lr")
    assert runs.to_frame(["params.lr", "metrics.lr"]).values.tolist() == [[1, 0.5]]


def test_an_empty_set_can_be_asked_everything(registry):
    runs = registry.list_experiments()
    assert runs.order_by("anything").names == []
    frame = runs.to_frame()
    assert list(frame) == ["name", "project", "status", "created_at", "duration_s", "id"]
    assert len(frame) == 0


def test_the_table_has_run_columns_then_params_metrics_and_tags(runs):
    frame = runs.to_frame()
    assert list(frame) == [
        "name", "project", "status", "created_at", "duration_s", "id",
        "params.lr", "params.opt", "metrics.val/loss", "metrics.acc", "tags.x",
    ]  # fmt: skip
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert str(frame["created_at"].dt.tz) == "UTC"
    assert frame["created_at"].is_monotonic_increasing
    assert frame["duration_s"].dtype == frame["metrics.acc"].dtype == float
    assert frame["params.lr"].tolist()[:3] == [0.3, 0.1, 0.2]
    assert frame["metrics.val/loss"].isna().tolist() == [False, True, False, True]
    assert frame["status"].tolist() == ["finished", "finished", "failed", "finished"]


def test_chosen_columns_come_in_the_order_asked(runs):
    frame = runs.to_frame(["opt", "created_at", "val/loss:min", "group"])
    assert list(frame) == ["opt", "created_at", "val/loss:min", "group"]
    assert isinstance(frame["created_at"].dtype, pd.DatetimeTZDtype)
    assert frame["val/loss:min"].tolist()[0] == 2.0
    with pytest.raises(InvalidValueError):
        runs.to_frame(["colour"])


def test_a_file_that_becomes_unreadable_later_is_noted_once(track, registry, damage):
    run = track("a", params={"lr": 1})
    track("b", params={"lr": 2})
    runs = registry.list_experiments()
    damage(run, "{", "params.json")
    assert runs.flat_params() == [{}, {"lr": 2}]
    assert runs.order_by("lr").names == ["a", "b"]  # as they were when they were listed
    assert [problem.path for problem in runs.problems] == [str(run.path)]
    assert registry.problems == runs.problems


class Stage(enum.Enum):
    TEST = "test"


@pytest.mark.parametrize(
    "value",
    [1e-5, 0.1, 3, True, None, "text", "é", ["é", 1], {"a": [1, 2]}, Stage.TEST, Path("a/b"), (1,),
     np.float32(0.1), np.int64(3), math.nan],
)  # fmt: skip
def test_the_tags_that_were_set_find_the_run(track, registry, value):
    track("a", tags={"key": value})
    track("b", tags={"key": "other"})
    assert registry.list_experiments(tags={"key": value}).names == ["a"]


def test_what_is_no_tag_limit_or_status_is_refused(runs):
    for wrong in ({"tags": 5}, {"status": 5}):
        with pytest.raises(InvalidTypeError, match="5"):
            runs.filter(**wrong)
    with pytest.raises(InvalidTypeError, match="limit"):
        runs.limit("x")
    assert runs.limit(np.int64(2)).names == ["a", "b"]


def test_no_run_to_choose_from_is_not_a_missing_metric(runs):
    with pytest.raises(MetricNotFoundError, match="No run meets the conditions"):
        runs.filter(status="killed").best("val/loss")


def test_runs_are_chosen_by_a_filter_and_by_values(track, registry):
    for name, lr, optimizer in (("a", 0.1, "adam"), ("b", 0.2, "adam"), ("c", 0.3, "sgd")):
        track(name, params={"lr": lr, "model": {"optimizer": optimizer}}, rows=[{"loss": lr}])
    runs = registry.list_experiments()
    assert runs.filter("loss < 0.25 and params.model.optimizer = 'adam'").names == ["a", "b"]
    assert runs.filter(lr=0.3).names == ["c"]
    assert runs.filter(lr=[0.1, 0.3], status="finished").names == ["a", "c"]
    assert runs.filter(**{"params.model.optimizer": "sgd"}).names == ["c"]
    assert registry.list_experiments(where="lr >= 0.2", order_by="-lr").names == ["c", "b"]
    assert registry.list_experiments(name="a").names == ["a"]
    with pytest.raises(InvalidValueError, match="colour"):
        registry.list_experiments(where="colour = 'red'")


def test_several_columns_give_an_order(track, registry):
    for name, lr, depth in (("a", 0.1, 2), ("b", 0.2, 1), ("c", 0.1, 1), ("d", None, 3)):
        track(name, params={"lr": lr, "depth": depth})
    runs = registry.list_experiments()
    assert runs.order_by("-lr", "depth").names == ["b", "c", "a", "d"]
    assert runs.order_by("lr", "-depth").names == ["a", "c", "b", "d"]


def test_runs_are_grouped_by_the_values_of_columns(track, registry):
    track("a", params={"lr": 10, "layers": [1, 2]})
    track("b", params={"lr": 9, "layers": [1, 2]})
    track("c", params={"lr": 10})
    runs = registry.list_experiments()
    assert {lr: group.names for lr, group in runs.group_by("lr").items()} == {
        9: ["b"], 10: ["a", "c"],
    }  # fmt: skip
    assert list(runs.group_by("lr")) == [9, 10]
    assert list(runs.group_by("layers", "lr")) == [("[1, 2]", 9), ("[1, 2]", 10), (None, 10)]


def test_a_run_that_is_gone_is_in_the_table_still_and_says_so_when_it_is_opened(track, registry):
    run = track("a", rows=[{"loss": 1.0}])
    runs = registry.list_experiments()
    shutil.rmtree(run.path)
    assert runs.column("loss") == [1.0]
    assert runs.to_frame()["name"].tolist() == ["a"]
    with pytest.raises(FileNotFoundError):
        _ = runs[0].status
    assert runs.flat_params() == [{}]
    assert runs.metrics() == [{}]
    assert [problem.path for problem in runs.problems] == [str(run.path)]


def test_a_value_is_found_however_it_is_typed_and_true_is_not_1(track, registry):
    values = {"a": 0.1, "b": True, "c": 1, "d": [64, 64], "e": math.inf, "f": Stage.TEST, "g": 2}
    for name, value in values.items():
        track(name, params={"x": value}, rows=[{"loss": math.nan if name == "g" else 1.0}])
    runs = registry.list_experiments()
    for wanted, names in (
        (np.float64(0.1), "a"), (True, "b"), (1.0, "c"), ([64, 64], "d"), ((64, 64), "d"),
        (math.inf, "e"), (Stage.TEST, "f"), (range(1, 3), "cg"), (np.array([1, 2]), "cg"),
        ([0.1, [64, 64]], "ad"), ({1, 2}, "cg"), ([np.float32(2)], "g"),
    ):  # fmt: skip
        assert "".join(runs.filter(x=wanted).names) == names
    assert runs.filter(loss=math.nan).names == ["g"]


def test_highest_first_keeps_numbers_before_text(runs):
    assert runs.order_by("-opt").names == ["b", "a", "c", "d"]


def test_nan_is_one_group_and_no_column_is_one_group_of_all(track, registry):
    for name in "ab":
        track(name, rows=[{"loss": math.nan, "acc": math.nan}])
    runs = registry.list_experiments()
    assert [group.names for group in runs.group_by("loss").values()] == [["a", "b"]]
    assert [group.names for group in runs.group_by("loss", "acc").values()] == [["a", "b"]]
    assert {key: group.names for key, group in runs.group_by().items()} == {(): ["a", "b"]}


def test_joined_runs_keep_the_columns_and_problems_of_both(track, registry, damage):
    track("a", params={"lr": 1})
    damage(track("b", params={"lr": 2}), "{")
    track("c", "waves", params={"lr": 3})
    damage(track("d", "waves", params={"lr": 4}), "{")
    one, other = registry.list_experiments("digits"), registry.list_experiments("waves")
    joined = one + other
    shutil.rmtree(one[0].folder.path)
    assert joined.column("lr") == [1, 3]  # as they were when they were listed
    assert {problem.path for problem in joined.problems} == {
        problem.path for runs in (one, other) for problem in runs.problems
    }
    assert (one[:1] + one[1:]).problems is one.problems


def test_one_column_needs_no_list(runs):
    assert list(runs.to_frame("lr")) == ["lr"]
