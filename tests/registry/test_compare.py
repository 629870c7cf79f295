import math

import pytest

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError, RunNotFoundError


@pytest.fixture
def three(track):
    track(
        "a",
        params={"lr": 0.1, "seed": 1, "model": {"depth": 2}},
        rows=[{"loss": 3.0}, {"loss": 1.0}],
    )
    track("b", params={"lr": 0.2, "seed": 1}, rows=[{"loss": 2.0, "val/acc": 0.5}])
    track("c", params={"lr": 0.1, "seed": 1}, rows=[{"val/acc": math.inf}])
    return ["a", "b", "c"]


def test_a_comparison_is_lists_in_the_order_of_the_runs(three, registry):
    comparison = registry.compare_experiments(["c", "a", "b"])
    assert comparison["experiments"] == ["c", "a", "b"]
    assert list(comparison["metrics"]) == ["val/acc", "loss"]
    assert comparison["metrics"]["loss"][1:] == [1.0, 2.0]
    assert math.isnan(comparison["metrics"]["loss"][0])
    assert [comparison["metrics"]["val/acc"][i] for i in (0, 2)] == [math.inf, 0.5]
    assert comparison["params"] == {"lr": [0.1, 0.1, 0.2], "model.depth": [None, 2, None]}
    assert comparison["paths"] == [str(registry.get(name).path) for name in "cab"]
    assert set(comparison) == {"experiments", "metrics", "params", "paths"}


def test_columns_keep_the_names_they_are_asked_by(three, registry, capsys):
    asked = ["final_loss", "min_loss", "loss:max", "best_loss", "mean_loss", "acc"]
    comparison = registry.compare_experiments(["a", "b"], metrics=asked)
    assert list(comparison["metrics"]) == asked
    assert [comparison["metrics"][name][0] for name in asked[:5]] == [1.0, 1.0, 3.0, 1.0, 2.0]
    assert comparison["metrics"]["acc"][1] == 0.5
    assert "val/acc" in capsys.readouterr().err
    assert comparison.to_frame().columns.tolist() == [
        "run",
        "params.lr",
        "params.model.depth",
        *asked,
    ]


def test_one_column_may_be_given_as_text_and_none_as_an_empty_list(three, registry):
    assert list(registry.compare_experiments("a", "loss")["metrics"]) == ["loss"]
    assert registry.compare_experiments(three, [])["metrics"] == {}


def test_a_metric_that_no_run_has_shows_near_names(three, registry):
    with pytest.raises(MetricNotFoundError, match="Near: loss"):
        registry.compare_experiments(three, ["los"])


def test_the_best_of_a_metric_without_goal_is_refused(track, registry):
    track("a", rows=[{"momentum": 1.0}])
    with pytest.raises(InvalidValueError, match="no goal"):
        registry.compare_experiments(["a"], ["best_momentum"])


def test_runs_that_have_only_begun_compare_as_nan(track, registry):
    track("a")
    values = registry.compare_experiments(["a"], ["loss"])["metrics"]["loss"]
    assert len(values) == 1
    assert math.isnan(values[0])


def test_equal_names_are_told_apart_by_their_projects(track, registry):
    for project in ("digits", "waves"):
        track("a", project)
    track("b")
    comparison = registry.compare_experiments(registry.list_experiments())
    assert comparison["experiments"] == ["digits/a", "waves/a", "b"]


def test_equal_names_in_several_roots_are_told_apart_by_their_paths(track, registry, tmp_path):
    run = track("a")
    (tmp_path / "other" / "digits").mkdir(parents=True)
    run.path.rename(tmp_path / "other" / "digits" / "a")
    again = track("a")
    paths = [str(tmp_path / "other" / "digits" / "a"), str(again.path)]
    assert registry.compare_experiments(paths)["experiments"] == paths


def test_a_run_given_twice_counts_once(three, registry):
    comparison = registry.compare_experiments(["a", registry.get("a"), registry.get("a").path])
    assert comparison["experiments"] == ["a"]
    assert comparison["params"] == {}


def test_an_unknown_run_is_refused(three, registry):
    with pytest.raises(RunNotFoundError):
        registry.compare_experiments(["a", "zzz"])


def test_a_param_that_one_run_lacks_differs_even_where_the_other_says_none(track, registry):
    track("a", params={"decay": None, "same": math.nan})
    track("b", params={"same": math.nan})
    assert registry.compare_experiments(["a", "b"])["params"] == {"decay": [None, None]}


def test_the_table_has_a_row_for_each_run(three, registry):
    frame = registry.compare_experiments(three).to_frame()
    assert frame.columns.tolist() == ["run", "params.lr", "params.model.depth", "loss", "val/acc"]
    assert frame["run"].tolist() == three
    assert frame["loss"].isna().tolist() == [False, False, True]


def test_a_tracker_compares_the_runs_of_its_project(three, track, tracker):
    track("d", "waves")
    assert tracker("digits").compare_runs(metrics=["loss"])["run"].tolist() == three
    assert tracker("digits").get_best_run("loss").name == "a"


def test_nothing_compares_to_nothing(registry):
    comparison = registry.compare_experiments([])
    assert comparison["experiments"] == []
    assert len(comparison.to_frame()) == 0
    assert repr(comparison) == "<Comparison of no runs>"


def test_a_metric_called_as_a_column_leaves_it_be(track, registry):
    for lr in (1, 2):
        track(f"run-{lr}", params={"lr": lr}, rows=[{"run": 7.0, "params.lr": 8.0}])
    columns = registry.compare_experiments(["run-1", "run-2"]).to_columns()
    assert columns == {
        "run": ["run-1", "run-2"], "params.lr": [1, 2],
        "metrics.run": [7.0, 7.0], "metrics.params.lr": [8.0, 8.0],
    }  # fmt: skip


def test_a_printed_comparison_is_its_table(three, registry):
    text = str(registry.compare_experiments(["a", "b"], ["loss"]))
    assert text.splitlines() == [
        "| run | params.lr | params.model.depth | loss |",
        "| --- | --------: | -----------------: | ---: |",
        "| a   |       0.1 |                  2 |    1 |",
        "| b   |       0.2 |                    |    2 |",
    ]
