import math

import pytest

from experiment_tracking.registry.display import comparison_html
from experiment_tracking.registry.registry import ExperimentRegistry


def test_runs_show_how_they_ended_how_good_they_are_and_what_they_differ_in(track, registry, page):
    for name, lr, loss in (("a", 0.1, 1 / 3), ("b", 0.01, 0.25)):
        track(name, rows=[{"loss": 2.0}, {"loss": loss}], params={"lr": lr, "depth": 2})
    track("c", rows=[{"loss": math.nan}], params={"lr": 0.1, "depth": 2}, status="FAILED")
    found = page(registry.list_experiments()._repr_html_())
    head, *rows = found.rows(7)
    assert head == ["run", "status", "loss min", "", "lr", "begun", "took"]
    assert [row[:3] for row in rows] == [
        ["a", "finished", "0.33333"], ["b", "finished", "★ 0.25"], ["c", "failed", "(last nan)"],
    ]  # fmt: skip
    assert [row[4] for row in rows] == ["0.1", "0.01", "0.1"]
    assert "3 runs 2 finished 1 failed" in found.text
    assert found.elements.count("svg") == 2


def test_runs_of_several_projects_are_shown_with_these(track, registry, page):
    track("a")
    track("a", "waves")
    cells = page(registry.list_experiments()._repr_html_()).cells
    assert {"digits/a", "waves/a"} <= set(cells)


def test_metrics_of_held_out_data_come_first_and_those_without_a_goal_last(track, registry, page):
    track("a", rows=[{"step_size": 1.0, "train/loss": 1.0, "val_acc": 1.0, "test/loss": 1.0}])
    head = page(registry.list_experiments()._repr_html_()).cells[:6]
    assert head[2:] == ["val_acc max", "test/loss min", "train/loss min", "step_size last"]


def test_infinity_never_is_the_best(track, registry, page):
    track("a", rows=[{"acc": math.inf}])
    track("b", rows=[{"acc": 0.5}])
    cells = page(registry.list_experiments()._repr_html_()).cells
    assert "inf" in cells
    assert "★ 0.5" in cells


def test_of_many_runs_fifty_are_shown_and_the_best_is_sought_among_all(track, registry, page):
    for i in range(53):
        track(f"run-{i:02d}", rows=[{"loss": 1.0 - i / 100}])
    found = page(registry.list_experiments()._repr_html_())
    assert "… 3 more runs" in found.text
    assert "run-49" in found.cells
    assert "run-50" not in found.cells
    assert "★" not in found.text


def test_many_params_and_metrics_are_counted(track, registry, page):
    for name, value in (("a", 1), ("b", 2)):
        track(name, params=dict.fromkeys(map(str, range(10)), value),
              rows=[{f"m{i}": 1.0 for i in range(7)}])  # fmt: skip
    found = page(registry.list_experiments()._repr_html_())
    assert "2 more params and 1 more metric not in this table" in found.text


def test_no_runs_are_shown_as_none(registry, page):
    assert page(registry.list_experiments()._repr_html_()).text.strip() == "0 runs"


def test_a_run_that_cannot_be_read_is_told_with_the_reason(track, registry, damage, page):
    track("a")
    damage(track("bad"), "{")
    found = page(registry.list_experiments()._repr_html_())
    assert "⚠ 1 problem" in found.text
    assert any(cell.endswith("digits/bad") for cell in found.cells)
    assert any("is not JSON" in cell for cell in found.cells)


def test_a_run_whose_history_is_damaged_has_no_curve_and_the_others_do(
    track, registry, root, tmp_path, page
):
    for name in "ab":
        track(name, rows=[{"loss": 1.0}, {"loss": 2.0}])
    (tmp_path / "damaged").touch()
    runs = registry.list_experiments()
    history = root / "digits" / "a" / "metrics_history.json"
    history.unlink()
    history.mkdir()
    found = page(runs._repr_html_())
    assert found.elements.count("svg") == 1
    assert "⚠ 1 problem" in found.text


def test_a_registry_shows_roots_projects_and_newest_runs(track, registry, root, page):
    track("a", rows=[{"loss": 1.0}])
    track("b", status="FAILED")
    track("c", "waves")
    found = page(registry._repr_html_())
    assert str(root) in found.text
    assert found.rows(5)[:3] == [
        ["project", "runs", "finished", "failed", "last begun"],
        ["digits", "2", "1", "1", found.cells[9]],
        ["waves", "1", "1", "", found.cells[14]],
    ]
    assert found.text.index("waves/c") < found.text.index("digits/a")
    assert "registry.best('loss')" in found.text


def test_an_empty_registry_says_how_to_begin(registry, page):
    assert "start_run()" in page(registry._repr_html_()).text


def test_a_registry_of_two_roots_shows_both(track, root, tmp_path, page):
    track("a")
    other = tmp_path / "other"
    other.mkdir()
    text = page(ExperimentRegistry([root, other])._repr_html_()).text
    assert str(root) in text
    assert str(other) in text


def test_all_equal_best_runs_are_marked_unless_all_runs_are_equal(track, registry, page):
    for name, acc in (("a", 0.9), ("b", 0.5), ("c", 0.9)):
        track(name, rows=[{"acc": acc, "f1_acc": 0.5}])
    found = page(registry.list_experiments()._repr_html_())
    assert found.cells.count("★ 0.9") == 2
    assert found.cells.count("0.5") == 4
    comparison = page(comparison_html(registry.compare_experiments(["a", "b", "c"], ["acc"])))
    assert comparison.cells.count("★ 0.9") == 2


def test_a_run_whose_last_value_is_not_finite_says_so_beside_its_best(track, registry, page):
    track("a", rows=[{"loss": 2.25}, {"loss": math.nan}])
    track("b", rows=[{"loss": 3.0}, {"loss": math.inf}, {"loss": 3.5}])
    track("c", rows=[{"loss": math.nan}])
    cells = page(registry.list_experiments()._repr_html_()).cells
    assert "★ 2.25 (last nan)" in cells
    assert "3" in cells
    assert "(last nan)" in cells


@pytest.fixture
def three(track, registry):
    for name, lr, acc in (("a", 0.1, 0.7), ("b", 0.2, 0.9), ("c", 0.3, 0.8)):
        track(name, params={"lr": lr, "seed": 0}, rows=[{"epoch": 5.0, "acc": acc}])
    return registry.list_experiments()


def test_a_comparison_shows_what_differs_first_and_marks_the_best(three, registry, page):
    found = page(comparison_html(registry.compare_experiments(three)))
    assert found.rows(4)[:4] == [
        ["run", "lr", "acc", "epoch"],
        ["a", "0.1", "0.7", "5"],
        ["b", "0.2", "★ 0.9", "5"],
        ["c", "0.3", "0.8", "5"],
    ]
    assert "1 param equal in all of them" in found.text


@pytest.mark.parametrize("asked", ["best_acc", "acc:max", "acc"])
def test_any_column_of_a_metric_with_a_goal_has_its_best_marked(three, registry, page, asked):
    assert "★ 0.9" in page(comparison_html(registry.compare_experiments(three, asked))).cells


def test_an_empty_comparison_says_so(registry, page):
    assert page(comparison_html(registry.compare_experiments([]))).text == "No runs to compare."


def test_nothing_that_was_logged_becomes_markup(track, hostile_run, registry, page):
    track("b", params={"x": 1})
    runs = registry.list_experiments()
    for html in (
        registry._repr_html_(),
        runs._repr_html_(),
        comparison_html(registry.compare_experiments(runs)),
    ):
        assert "<svg onload=x>" in page(html).text


@pytest.mark.parametrize("name", ["a'b &<b>", "x\u202ey"])
def test_a_folder_of_any_name_is_shown_as_it_is_called(track, registry, root, tmp_path, page, name):
    run = track("a", rows=[{"loss": 1.0}])
    (tmp_path / "damaged").touch()
    run.path.rename(root / "digits" / name)
    shown = name.replace("\u202e", "\\u202e")
    assert shown in page(registry.list_experiments()._repr_html_()).cells
    assert shown in page(registry.list_experiments()[0]._repr_html_()).text
