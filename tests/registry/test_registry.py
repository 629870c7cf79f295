import math
import os
import shutil

import pandas as pd
import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    MetricNotFoundError,
    RootNotFoundError,
    RunNotFoundError,
)
from experiment_tracking.registry.registry import ExperimentRegistry


def test_projects_are_the_folders_that_hold_runs(track, registry, root):
    track("a", "waves")
    track("b", "digits")
    (root / "notes").mkdir()
    (root / "_trash" / "old").mkdir(parents=True)
    assert registry.list_projects() == ["digits", "waves"]


def test_runs_are_listed_in_the_order_they_began(track, registry):
    for name, project in (("b", "waves"), ("a", "digits"), ("c", "waves")):
        track(name, project)
    assert registry.list_experiments().names == ["b", "a", "c"]
    assert registry.list_experiments("waves").names == ["b", "c"]
    assert registry.list_experiments(project="none").names == []
    assert registry.list_experiments(order_by="-name", limit=2).names == ["c", "b"]


def test_runs_are_chosen_by_status_tags_and_a_function(track, registry):
    track("a", status="FAILED", tags={"sweep": "x", "n": 3}, params={"lr": 1})
    track("b", tags=["good"], params={"lr": 2})
    track("c", status=None, params={"lr": 3})

    def names(**conditions):
        return registry.list_experiments(**conditions).names

    assert names(status="FAILED") == ["a"]
    assert names(status=["failed", "running"]) == ["a", "c"]
    assert names(tags="good") == ["b"]
    assert names(tags=["sweep", "n"]) == ["a"]
    assert names(tags={"n": 3}) == names(tags={"n": "3"}) == ["a"]
    assert names(tags={"n": 4}) == names(tags=["sweep", "good"]) == []
    assert names(where=lambda run: run.params["lr"] > 1, status="finished") == ["b"]


def test_conditions_that_are_none_say_what_is_allowed(registry):
    with pytest.raises(InvalidValueError):
        registry.list_experiments(where="metrics.loss <")
    with pytest.raises(InvalidTypeError, match="function of a record"):
        registry.list_experiments(where=3)
    with pytest.raises(
        InvalidValueError, match=r"done.*finished, failed, killed, running, crashed"
    ):
        registry.list_experiments(status="done")
    with pytest.raises(InvalidValueError, match="limit"):
        registry.list_experiments(limit=-1)


def test_one_damaged_run_is_reported_and_hides_no_other(track, registry, damage, edit):
    runs = [track(name, rows=[{"loss": 1.0}]) for name in "abcde"]
    damage(runs[0], "{")
    edit(runs[1], format=9)
    edit(runs[2], tags=["x"])
    os.unlink(runs[3].path / "summary.json")
    for found in (registry.list_experiments().names, registry.to_frame()["name"].tolist()):
        assert found == ["e"]
        reasons = {os.path.basename(p.path): p.reason for p in registry.problems}
        assert set(reasons) == set("abcd")
        assert "not JSON" in reasons["a"]
        assert "format 9" in reasons["b"]
        assert "tags" in reasons["c"]
        assert "no summary" in reasons["d"]


def test_damaged_params_leave_their_cells_empty_and_are_reported(track, registry, damage):
    run = track("a", params={"lr": 1}, rows=[{"loss": 1.0}])
    track("b", params={"lr": 2}, rows=[{"loss": 2.0}])
    damage(run, "[", "params.json")
    for frame in (registry.to_frame(), registry.list_experiments().to_frame()):
        assert frame["metrics.loss"].tolist() == [1.0, 2.0]
        assert frame["params.lr"].isna().tolist() == [True, False]
        assert [p.path for p in registry.problems] == [str(run.path)]
    with pytest.raises(DamagedError, match=r"params\.json"):
        registry.get("a").params  # noqa: B018


def test_a_run_that_is_just_being_opened_is_no_problem(registry, root, tmp_path):
    (tmp_path / "damaged").touch()
    (root / "digits" / "a").mkdir(parents=True)
    (root / "digits" / "a" / "metrics_history.json").write_text("[\n]\n")
    assert len(registry.list_experiments()) == 0
    assert registry.problems == []


def test_several_roots_are_read_as_one(track, root, tmp_path):
    track("a")
    other = tmp_path / "other"
    with ExperimentTracker("digits", "b", root=other, use_tensorboard=False, auto_log=False) as t:
        t.log_metrics({"loss": 1})
    for registry in (ExperimentRegistry(root, other), ExperimentRegistry([root, str(other)])):
        assert registry.list_experiments().names == ["a", "b"]
        assert registry.list_projects() == ["digits"]
        assert registry.get("digits/b").path == other / "digits" / "b"


def test_a_missing_root_says_where_was_looked(tmp_path, monkeypatch):
    with pytest.raises(RootNotFoundError, match=str(tmp_path / "none")):
        ExperimentRegistry(tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RootNotFoundError, match="experiments"):
        ExperimentRegistry()


def test_the_default_root_is_the_one_that_a_tracker_would_write_to(track, root, monkeypatch):
    track("a")
    monkeypatch.chdir(root.parent)
    assert ExperimentRegistry().roots == [str(root)]


# ---------------------------------------------------------------------- get


def test_a_run_is_found_by_path_name_project_and_id(track, registry, monkeypatch):
    run = track("a")
    track("b", "waves")
    found = registry.get("a")
    keys = ["digits/a", run.id, run.id[:4], str(run.path), run.path, f"{run.path}/", run, found]
    assert {registry.get(key).id for key in keys} == {run.id}
    monkeypatch.chdir(run.path.parent)
    assert ExperimentRegistry(run.path.parents[1]).get("./a").id == run.id


def test_a_run_outside_the_roots_is_found_by_its_path(track, registry, tmp_path):
    track("a").path.rename(tmp_path / "moved")
    assert registry.get(tmp_path / "moved").name == "moved"


def test_latest_counts_back_from_the_run_that_began_last(track, registry):
    track("b")
    track("a", "waves")
    assert [registry.get(key).name for key in ("latest", "latest~0", "latest~1")] == ["a", "a", "b"]
    with pytest.raises(RunNotFoundError, match=r"latest~2.*2 runs"):
        registry.get("latest~2")


def test_best_and_a_metric_is_a_key_as_well(track, registry):
    track("a", rows=[{"val/loss": 1.0}, {"val/loss": 5.0}])
    track("b", rows=[{"val/loss": 2.0}])
    assert registry.get("best:val/loss").name == "a"


def test_an_unknown_run_shows_near_names(track, registry):
    track("baseline")
    with pytest.raises(RunNotFoundError, match="Near: baseline"):
        registry.get("baselin")
    with pytest.raises(RunNotFoundError, match="Near: digits/baseline"):
        registry.get("digit/baseline")
    for key in ("", "/", "..", "digits/..", "digits/", "../experiments/digits", "abc"):
        with pytest.raises(RunNotFoundError):
            registry.get(key)


def test_a_name_that_several_projects_have_shows_them_all(track, registry):
    paths = [track("a", project).path for project in ("digits", "waves")]
    with pytest.raises(RunNotFoundError, match="Several") as caught:
        registry.get("a")
    assert all(str(path) in str(caught.value) for path in paths)
    assert registry.get("waves/a").project == "waves"


def test_a_prefix_that_several_ids_have_shows_them_all(track, registry, edit):
    runs = [track(name) for name in "ab"]
    for run, end in zip(runs, "12", strict=True):
        edit(run, id="feedfeedfeedfee" + end)
    with pytest.raises(RunNotFoundError, match="Several"):
        registry.get("feed")
    assert registry.get("feedfeedfeedfee2").name == "b"


@pytest.mark.parametrize("key", [None, 3, ["a"]])
def test_a_key_of_another_kind_is_refused(registry, key):
    with pytest.raises(InvalidTypeError, match="named by text"):
        registry.get(key)


# ---------------------------------------------------------------------- best


def test_each_run_counts_with_its_own_best_value(track, registry):
    track("a", rows=[{"val/loss": 1.0}, {"val/loss": 9.0}])
    track("b", rows=[{"val/loss": 2.0}, {"val/loss": 3.0}])
    assert registry.best("val/loss").name == "a"
    assert registry.best("val/loss", on="last").name == "b"
    assert registry.best("val/loss", mode="max").name == "a"
    assert registry.best("val/loss", "max", "last").name == "a"


def test_a_metric_that_is_better_when_higher_is_maximised(track, registry, capsys):
    track("a", rows=[{"val/acc": 0.5}])
    track("b", rows=[{"val/acc": 0.7}, {"val/acc": 0.1}])
    assert registry.best("acc").name == "b"
    assert "val/acc" in capsys.readouterr().err


def test_nan_never_wins_and_infinities_count(track, registry):
    track("a", rows=[{"loss": math.nan}])
    track("b", rows=[{"loss": math.nan}, {"loss": 3.0}, {"loss": math.nan}])
    track("c", rows=[{"loss": math.inf}])
    assert registry.best("loss").name == "b"
    assert registry.best("loss", on="last").name == "c"
    assert registry.best("loss", mode="max").name == "c"


def test_a_metric_that_was_never_but_nan_has_no_best_run(track, registry):
    track("a", rows=[{"loss": math.nan}])
    with pytest.raises(MetricNotFoundError, match="no value but NaN"):
        registry.best("loss")


def test_of_equal_runs_the_older_is_the_best(track, registry):
    for name in "cab":
        track(name, rows=[{"loss": 1.0}])
    assert registry.best("loss").name == registry.best("loss", mode="max").name == "c"


def test_runs_of_every_status_count_unless_it_is_given(track, registry):
    track("a", rows=[{"loss": 1.0}], status="FAILED")
    track("b", rows=[{"loss": 2.0}], tags=["t"])
    track("c", "waves", rows=[{"loss": 3.0}])
    assert registry.best("loss").name == "a"
    assert registry.best("loss", status="finished").name == "b"
    assert registry.best("loss", project="waves").name == "c"
    assert registry.best("loss", tags="t").name == "b"
    assert registry.best("loss", where=lambda run: run.name == "c").name == "c"


def test_best_needs_a_direction_and_takes_a_defined_one(track, registry):
    track("a", rows=[{"momentum": 1.0}])
    track("b", rows=[{"momentum": 2.0}])
    with pytest.raises(InvalidValueError, match=r"no goal.*mode='min'"):
        registry.best("momentum")
    with pytest.raises(InvalidValueError, match="found 'up'"):
        registry.best("momentum", mode="up")
    with pytest.raises(InvalidValueError, match="'best' or 'last'"):
        registry.best("momentum", mode="min", on="first")
    track("c", rows=[{"momentum": 0.0}], goals={"momentum": "maximize"})
    assert registry.best("momentum").name == "b"
    track("d", rows=[{"momentum": 0.0}], goals={"momentum": "minimize"})
    with pytest.raises(InvalidValueError, match="several goals"):
        registry.best("momentum")


def test_no_run_with_the_metric_shows_near_names(track, registry):
    track("a", rows=[{"val/loss": 1.0}])
    with pytest.raises(MetricNotFoundError, match="Near: val/loss"):
        registry.best("val/los")
    with pytest.raises(MetricNotFoundError):
        registry.best("val/loss", project="none")


# ---------------------------------------------------------------------- tables


def test_history_of_many_runs_is_one_long_table(track, registry):
    track("a", rows=[{"loss": 1.0, "acc": 0.1}, {"loss": math.inf}])
    track("b", "waves", rows=[{"loss": math.nan}])
    frame = registry.history()
    assert list(frame) == ["run", "step", "time", "metric", "value"]
    assert frame["run"].tolist() == ["digits/a"] * 3 + ["waves/b"]
    assert frame["metric"].tolist() == ["loss", "acc", "loss", "loss"]
    assert frame["step"].tolist() == [0, 0, 1, 0]
    assert frame["value"].tolist()[:3] == [1.0, 0.1, math.inf]
    assert math.isnan(frame["value"][3])
    assert registry.history("acc")["value"].tolist() == [0.1]
    assert registry.history(["loss"], runs="a")["value"].tolist() == [1.0, math.inf]
    assert len(registry.history(runs=registry.list_experiments("waves"))) == 1
    with pytest.raises(MetricNotFoundError):
        registry.history("los")


def test_history_of_no_rows_is_an_empty_table(registry):
    assert list(registry.history()) == ["run", "step", "time", "metric", "value"]


def test_the_frame_of_a_registry_is_that_of_its_runs(track, registry, killed):
    track("a", params={"lr": 0.1, "model": {"depth": 2}}, rows=[{"loss": 1.0}], tags=["x"])
    track("b", params={"lr": 0.2}, rows=[{"loss": math.nan}, {"acc": 1.0}])
    track("c", status=None)
    everything = registry.list_experiments()
    pd.testing.assert_frame_equal(registry.to_frame(), everything.to_frame(), check_like=True)
    by_loss = everything.order_by("loss")
    pd.testing.assert_frame_equal(registry.to_frame(order_by="loss"), by_loss.to_frame())
    assert registry.to_frame(status="finished")["name"].tolist() == ["a", "b"]
    assert registry.to_frame(["name", "loss"], limit=1).columns.tolist() == ["name", "loss"]
    with pytest.raises(InvalidValueError, match="No column is called 'colour'"):
        registry.to_frame(colour="red")


def test_the_difference_of_two_runs_names_params_metrics_and_tags(track, registry):
    track("a", params={"lr": 1, "model": {"depth": 2}, "seed": 0}, tags={"x": "1"},
          rows=[{"loss": 1.0, "nan": math.nan}])  # fmt: skip
    track("b", params={"lr": 2, "model": {"depth": 3}, "seed": 0}, tags={"x": "1", "y": ""},
          rows=[{"acc": 1.0, "nan": math.nan}])  # fmt: skip
    assert registry.diff("a", "b") == {
        "params": {"lr": (1, 2), "model.depth": (2, 3)},
        "metrics": {"loss": (1.0, None), "acc": (None, 1.0)},
        "tags": {"y": (None, "")},
    }


@pytest.mark.parametrize("root", [5, [5], b"experiments"])
def test_what_cannot_be_a_root_is_refused(root):
    with pytest.raises(InvalidTypeError, match="path of a folder of projects"):
        ExperimentRegistry(root)


def test_what_names_no_run_is_refused_where_many_are_taken(registry):
    with pytest.raises(InvalidTypeError, match="named by"):
        registry.compare_experiments(5)


def test_one_run_may_stand_where_many_are_taken(track, registry):
    run = track("a")
    for one in ("a", run, run.path, registry.get("a"), ["a"], registry.list_experiments()):
        assert registry.compare_experiments(one)["experiments"] == ["a"]


def test_a_run_that_is_in_two_roots_counts_once_as_in_the_first(track, registry, tmp_path, capfd):
    track("a", rows=[{"loss": 1.0}])
    track("b", rows=[{"loss": 3.0}])
    backup = tmp_path / "backup"
    shutil.copytree(registry.roots[0], backup)
    (backup / "digits" / "b").rename(backup / "digits" / "c")
    both = ExperimentRegistry([registry.roots[0], backup])
    assert both.list_experiments().keys == ["digits/a", "digits/b"]
    assert "2 runs are in several roots" in capfd.readouterr().err
    assert both.to_frame()["metrics.loss"].tolist() == [1.0, 3.0]
    assert "several roots" not in capfd.readouterr().err
    assert ExperimentRegistry([backup, registry.roots[0]]).list_experiments().names == ["a", "c"]


def test_a_link_to_a_root_is_no_second_one(track, registry, tmp_path):
    track("a")
    (tmp_path / "link").symlink_to(registry.roots[0])
    (tmp_path / "other").mkdir()
    both = ExperimentRegistry([registry.roots[0], tmp_path / "other", tmp_path / "link"])
    assert both.roots == [*registry.roots, str(tmp_path / "other")]
    assert both.list_experiments().names == ["a"]
