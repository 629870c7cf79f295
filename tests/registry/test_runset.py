import enum
import math
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiment_tracking.errors import InvalidTypeError, InvalidValueError, MetricNotFoundError
from experiment_tracking.registry.registry import ExperimentRegistry
from experiment_tracking.registry.runset import RunSet, once_each


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


def test_a_wrong_name_is_told_once_with_the_users_own_names_first(track, registry):
    track("a", params={"model": {"hidden": 8}, "lr": 1}, rows=[{"val/loss": 1.0}])
    runs = registry.list_experiments()
    with pytest.raises(InvalidValueError) as caught:
        runs.column("hidden")
    assert str(caught.value) == "No column is called 'hidden'. Near: model.hidden."
    with pytest.raises(InvalidValueError, match=r"There are: lr, model\.hidden, val/loss, age_s, "):
        runs.column("zzz")
    with pytest.raises(InvalidValueError, match=r"No column is called 'los:min'\. Near: val/loss"):
        runs.column("los:min")


def test_a_wrong_name_is_told_of_runs_that_have_no_metric_yet(track, registry):
    track("a", params={"lr": 1})
    with pytest.raises(InvalidValueError, match="No column is called 'lrr'"):
        registry.list_experiments(where="lrr = 1")


def test_a_last_part_that_several_metrics_bear_names_them(track, registry):
    track("a", rows=[{"val/loss": 1.0, "train/loss": 1.0}])
    with pytest.raises(InvalidValueError) as caught:
        registry.list_experiments().column("best_loss")
    assert str(caught.value) == (
        "Several metrics end in 'loss': train/loss, val/loss. Write one of them whole."
    )


def test_a_wrong_name_is_told_before_a_value_without_quotes(runs):
    with pytest.raises(InvalidValueError, match="No column is called 'begun'"):
        runs.filter("begun > today")
    with pytest.raises(InvalidValueError, match="Text stands in quotes"):
        runs.filter("opt = sgd")


@pytest.mark.parametrize(
    "where",
    ["created >= yesterday", "started_at > -1d", "start_time >= yesterday", "date > -1d",
     "age < 1d", "age >= 0", "run = 'digits/a' or run != 'digits/a'", "run_name like '_'",
     "duration < 1d", "config.lr > 0 or config.lr is null"],
)  # fmt: skip
def test_run_columns_have_other_names(runs, where):
    assert runs.filter(where).names == ["a", "b", "c", "d"]
    assert runs.filter(f"not ({where})").names == []


def test_a_param_of_the_very_name_comes_before_another_name_of_a_run_column(track, registry):
    track("a", params={"date": "2026-11-05", "run": 3, "config": {"lr": 1}, "lr": 2})
    runs = registry.list_experiments()
    assert [runs.column(name) for name in ("date", "run", "config.lr")] == [
        ["2026-11-05"],
        [3],
        [1],
    ]
    assert runs.filter("date > 2026-11-04 and date < 2026-11-06 and run = 3").names == ["a"]


def test_a_run_of_a_clock_that_is_ahead_has_no_negative_age(track, registry, edit):
    ahead = datetime.now(UTC) + timedelta(days=1)
    begun = [ahead.isoformat(), None, "yesterday", "2026-11-20T10:00:00"]
    for name, created_at in zip("abcd", begun, strict=True):
        edit(track(name), created_at=created_at)
    runs = registry.list_experiments().order_by("name")
    assert runs.column("age") == [0.0, None, None, None]
    assert runs.filter("age = 0s").names == ["a"]


def test_an_empty_text_is_no_value(track, registry, edit):
    edit(track("a"), group="")
    edit(track("b"), notes="keep", group="wide")
    runs = registry.list_experiments()
    assert runs.filter("notes is null").names == ["a"]
    assert runs.filter("notes is not null").names == ["b"]
    assert runs.filter("status_note is not null").names == []
    assert runs.column("group") == [None, "wide"]


def test_tags_are_columns_each(runs):
    for name in ("tag", "tags"):
        with pytest.raises(InvalidValueError, match=r"Write tags\.x is not null.* There are: x\."):
            runs.filter(f"{name} = 'x'")


def test_a_function_that_fails_names_the_run(runs):
    with pytest.raises(InvalidValueError) as caught:
        runs.filter(lambda run: run.params["lr"] > 0)
    assert str(caught.value) == "where=<lambda> failed on run waves/d: KeyError: 'lr'"
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_keyword_that_is_none_tells_which_there_are(runs, registry):
    there = "takes project, where, status, tags, order_by, limit and refresh"
    with pytest.raises(InvalidValueError, match=f"called 'sort'.*{there}"):
        registry.list_experiments(sort="lr")
    with pytest.raises(InvalidValueError, match=f"params={{'lr': 0.3}} is a mapping.*{there}"):
        runs.filter(params={"lr": 0.3})


def test_a_run_of_several_roots_counts_once(track, registry, root, tmp_path):
    track("a", params={"lr": 1})
    shutil.copytree(root, tmp_path / "backup")
    track("b", params={"lr": 2})
    shutil.copytree(root / "digits" / "a", root / "digits" / "again")  # in one root: to be seen
    runs = ExperimentRegistry(root).list_experiments()
    copies = ExperimentRegistry(tmp_path / "backup").list_experiments()
    left, count = once_each(runs + copies)
    assert (left.keys, count) == (["digits/a", "digits/again", "digits/b"], 1)
    assert {path.rsplit("/", 2)[0] for path in left.table.paths} == {str(root)}
    left, count = once_each(copies + runs)
    assert (left.keys, count) == (["digits/a", "digits/b"], 2)
    assert once_each(runs) == (runs, 0)


def test_runs_without_an_id_all_count(track, root, tmp_path, edit):
    edit(track("a"), id="")
    shutil.copytree(root, tmp_path / "backup")
    runs = [ExperimentRegistry(path).list_experiments() for path in (root, tmp_path / "backup")]
    assert len(once_each(runs[0] + runs[1])[0]) == 2
