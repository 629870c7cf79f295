import csv
import io
import math
import re
import shutil
from html import unescape

import pytest

from experiment_tracking.errors import InvalidTypeError, InvalidValueError, MetricNotFoundError
from experiment_tracking.registry.aggregate import aggregate
from experiment_tracking.registry.importance import importance
from experiment_tracking.registry.registry import ExperimentRegistry
from experiment_tracking.registry.spread import Spread

NAN, INF = math.nan, math.inf


@pytest.fixture
def runs(track, registry):
    """Track runs of a metric and params; gives all runs of the root."""

    def runs(*each, goals=None):
        for number, (params, *values) in enumerate(each):
            rows = [v if isinstance(v, dict) else {"val/loss": v} for v in values]
            track(f"run-{number}", params=params, rows=rows, goals=goals)
        return registry.list_experiments()

    return runs


@pytest.fixture
def page_text():
    """Return what a reader sees of HTML."""
    return lambda html: unescape(re.sub("<[^>]*>", "", html))


def names(result):
    return [group.runs.names for group in result]


@pytest.fixture
def seeds(runs):
    """Two learning rates with three seeds each."""
    losses = {0.1: (1.0, 2.0, 3.0), 0.01: (0.5, 0.25, 0.75)}
    return runs(
        *(
            ({"lr": lr, "model": {"depth": 2}, "seed": seed}, 9.0, loss)
            for lr, each in losses.items()
            for seed, loss in enumerate(each)
        )
    )


def test_runs_that_differ_only_in_their_seed_are_one_group(seeds):
    found = aggregate(seeds)
    assert names(found) == [["run-0", "run-1", "run-2"], ["run-3", "run-4", "run-5"]]
    assert [group.params for group in found] == [
        {"lr": 0.1, "model.depth": 2},
        {"lr": 0.01, "model.depth": 2},
    ]
    assert found[0].stats["val/loss"] == Spread.of([1, 2, 3])
    assert found[1].stats["val/loss"].mean == 0.5


def test_the_frame_has_a_row_per_group_and_only_the_params_that_differ(seeds):
    frame = aggregate(seeds, metrics="val/loss").to_frame()
    assert list(frame.columns) == [
        "params.lr", "runs", "val/loss:mean", "val/loss:std", "val/loss:sem", "val/loss:low",
        "val/loss:high", "val/loss:median", "val/loss:min", "val/loss:max", "val/loss:n",
        "val/loss:nonfinite",
    ]  # fmt: skip
    assert frame["params.lr"].tolist() == [0.1, 0.01]
    assert frame["runs"].tolist() == [3, 3]
    assert frame["val/loss:std"].tolist() == [1.0, 0.25]


@pytest.mark.parametrize("by", ["*-seed", "-seed", ["*", "-seed"], ("-seed",), "*-params.seed"])
def test_what_is_left_out_can_be_said_in_several_ways(seeds, by):
    assert len(aggregate(seeds, by)) == 2


def test_several_params_and_nested_ones_can_be_left_out(runs):
    each = [
        {"lr": 0.1, "seed": 0, "data": {"fold": 0, "size": 5}},
        {"lr": 0.1, "seed": 1, "data": {"fold": 1, "size": 5}},
        {"lr": 0.1, "seed": 1, "data": {"fold": 1, "size": 6}},
    ]
    found = runs(*((params, 1.0) for params in each))
    assert len(aggregate(found)) == 3
    assert len(aggregate(found, "*-seed-data.fold")) == 2
    assert len(aggregate(found, "*-seed-data")) == 1
    assert len(aggregate(found, ["*", "-data", "-seed"])) == 1


def test_a_name_with_a_dash_is_one_name_where_it_is_known(runs):
    found = runs(({"data-seed": 1, "lr": 1}, 1.0), ({"data-seed": 2, "lr": 1}, 1.0))
    assert len(aggregate(found, "*-data-seed")) == 1
    assert len(aggregate(found, ["*", "-data-seed"])) == 1


def test_named_params_alone_make_groups_and_are_shown_even_if_equal(seeds):
    found = aggregate(seeds, ["model", "lr"])
    assert list(found.to_columns())[:3] == ["params.model.depth", "params.lr", "runs"]
    assert len(found) == 2
    assert len(aggregate(seeds, "model.depth")) == 1
    assert len(aggregate(seeds, [])) == 1
    assert len(aggregate(seeds, "*")) == 6


def test_runs_can_be_grouped_by_tags_and_run_columns(track, registry):
    for number, sweep in enumerate("aab"):
        project = "first" if number else "second"
        track(f"r{number}", project, rows=[{"loss": number}], tags={"sweep": sweep})
    runs = registry.list_experiments()
    by_tag = aggregate(runs, "tags.sweep")
    assert {g.values["tags.sweep"]: g.stats["loss"].mean for g in by_tag} == {"a": 0.5, "b": 2}
    assert {group.values["project"] for group in aggregate(runs, ["project"])} == {
        "first",
        "second",
    }


def test_1_and_1_0_are_equal_but_true_and_text_are_not(runs):
    found = runs(*(({"x": value}, 0.0) for value in (1, 1.0, True, "1", None)))
    assert names(aggregate(found, "x")) == [["run-0", "run-1"], ["run-2"], ["run-3"], ["run-4"]]


def test_a_missing_param_is_a_value_of_its_own_and_so_is_none(runs):
    found = runs(({"x": 1, "y": None}, 0.0), ({"x": 1}, 0.0), ({"x": 1, "y": 2}, 0.0))
    result = aggregate(found, "*")
    assert names(result) == [["run-0", "run-1"], ["run-2"]]
    assert [group.params for group in result] == [{"x": 1}, {"x": 1, "y": 2}]
    assert result.to_columns()["params.y"] == [None, 2]


def test_grouping_listed_runs_opens_none_of_their_files(seeds):
    for path in seeds.table.paths:
        shutil.rmtree(path)
    assert [len(group.rows) for group in aggregate(seeds)] == [3, 3]
    assert {param.param for param in importance(seeds, "loss", method="correlation")} == {
        "lr", "seed",
    }  # fmt: skip
    assert seeds.problems == []


def test_lists_are_compared_as_json(runs):
    values = ([1, 2.0], [1, 2], [2, 1], [{"a": 1, "b": 2}], [{"b": 2, "a": 1}], [True, 2])
    found = runs(*(({"x": value}, 0.0) for value in values))
    assert [len(group.rows) for group in aggregate(found, "x")] == [2, 1, 2, 1]


def test_an_unknown_param_to_leave_out_names_near_ones(runs):
    found = runs(({"lr": 1, "sed": 2}, 1.0))
    with pytest.raises(InvalidValueError, match=r"No run here has the param 'seed'.*Near: sed"):
        aggregate(found, "*-seed")
    with pytest.raises(InvalidValueError, match="lrr"):
        aggregate(found, ["lrr"])
    with pytest.raises(InvalidTypeError, match="by must be"):
        aggregate(found, [1])


def test_no_runs_make_no_groups(registry):
    found = aggregate(registry.list_experiments(), metrics="loss")
    assert (len(found), list(found), found.to_frame().shape[0]) == (0, [], 0)
    assert found.to_markdown().count("\n") == 2


def test_values_that_are_not_finite_are_told_from_missing_ones(runs):
    found = runs(
        ({"seed": 0}, 1.0), ({"seed": 1}, NAN), ({"seed": 2}, INF), ({"seed": 3}, {"other": 1}),
        ({"seed": 4}, 3.0),
    )  # fmt: skip
    stats = aggregate(found, metrics="val/loss")[0].stats["val/loss"]
    assert (stats.n, stats.nonfinite, stats.mean) == (2, 2, 2.0)
    (cell,) = aggregate(found, metrics="val/loss").to_text_columns()["val/loss ± std"]
    assert cell == "2.0 ± 1.4 (2 of 5)"


def test_last_and_best_values_and_others_can_be_chosen(runs):
    found = runs(
        ({"seed": 0}, 3.0, 1.0, 2.0), ({"seed": 1}, 5.0, 3.0, 4.0), goals={"val/loss": "minimize"}
    )
    means = {
        on: aggregate(found, on=on)[0].stats["val/loss"].mean
        for on in ("last", "best", "min", "max", "mean")
    }
    assert means == {"last": 3.0, "best": 2.0, "min": 2.0, "max": 4.0, "mean": 3.0}
    with pytest.raises(InvalidValueError, match="on must be one of last, best"):
        aggregate(found, on="final")


def test_a_column_that_names_its_number_keeps_it(runs):
    found = runs(({"seed": 0}, 3.0, 1.0), ({"seed": 1}, 5.0, 3.0), goals={"val/loss": "minimize"})
    result = aggregate(found, metrics=["val/loss", "val/loss:last", "max_val/loss"], on="best")
    means = {asked: spread.mean for asked, spread in result[0].stats.items()}
    assert means == {"val/loss": 2.0, "val/loss:last": 2.0, "max_val/loss": 4.0}


def test_the_best_of_a_metric_without_a_goal_asks_for_a_side(runs):
    found = runs(({"seed": 0}, {"width": 3.0, "loss": 1.0}), ({"seed": 1}, {"width": 3.0}))
    assert list(aggregate(found, on="best").measures) == ["loss"]
    with pytest.raises(InvalidValueError, match=r"'width' has no goal.*on='min'"):
        aggregate(found, metrics="width", on="best")


def test_a_metric_that_is_nowhere_names_near_ones(seeds):
    with pytest.raises(MetricNotFoundError, match="val/loss"):
        aggregate(seeds, metrics=["val/lss"])


def test_a_run_with_damaged_params_is_named_and_in_no_group(track, registry, damage):
    for seed in range(3):
        run = track(f"r{seed}", params={"lr": 1, "seed": seed}, rows=[{"loss": seed}])
    damage(run, "{", "params.json")
    found = aggregate(registry.list_experiments())
    assert names(found) == [["r0", "r1"]]
    assert [problem.path for problem in found.runs.problems] == [str(run.path)]


def test_markdown_shows_mean_and_spread_to_the_same_digit(seeds):
    found = aggregate(seeds, metrics="val/loss")
    assert found.to_markdown().splitlines() == [
        "|   lr | runs | val/loss ± std |",
        "| ---: | ---: | -------------- |",
        "|  0.1 |    3 | 2.0 ± 1.0      |",
        "| 0.01 |    3 | 0.50 ± 0.25    |",
    ]
    assert "2.00 ± 0.58" in found.to_markdown(spread="sem")
    assert "2.0 ± 2.5" in found.to_markdown(spread="ci95")
    with pytest.raises(InvalidValueError, match="spread must be one of std, sem, ci95"):
        found.to_markdown(spread="variance")


def test_latex_has_the_best_mean_in_bold_by_the_goal(seeds):
    assert aggregate(seeds, metrics="val/loss").to_latex() == (
        "\\begin{tabular}{rrr}\n"
        "\\toprule\n"
        "lr & runs & val/loss $\\pm$ std \\\\\n"
        "\\midrule\n"
        "$0.1$ & $3$ & $2.0 \\pm 1.0$ \\\\\n"
        "$0.01$ & $3$ & $\\mathbf{0.50} \\pm 0.25$ \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_the_best_group_is_by_the_goal_and_there_is_none_without_one(runs):
    rows = [{"acc": 0.5, "loss": 1.0, "width": 1.0}, {"acc": 0.7, "loss": 2.0, "width": 2.0}]
    found = runs(*(({"lr": i, "seed": 0}, row) for i, row in enumerate(rows)))
    assert aggregate(found).best_places() == {"acc": [1], "loss": [0]}
    assert aggregate(found, metrics="loss:count").best_places() == {}


def test_equal_best_groups_are_all_the_best_unless_all_are_equal(runs):
    rows = [{"acc": 0.5, "f1": 1.0}, {"acc": 0.7, "f1": 1.0}, {"acc": 0.7, "f1": 1.0}]
    found = runs(
        *(({"lr": i, "seed": 0}, row) for i, row in enumerate(rows)), goals={"f1": "maximize"}
    )
    assert aggregate(found).best_places() == {"acc": [1, 2]}


def test_csv_has_the_whole_numbers(seeds):
    first, *_ = csv.DictReader(io.StringIO(aggregate(seeds, metrics="val/loss").to_csv()))
    assert (first["params.lr"], first["runs"], first["val/loss:mean"]) == ("0.1", "3", "2.0")
    assert float(first["val/loss:high"]) == pytest.approx(4.484137712)


def test_a_metric_called_as_a_statistic_of_another_keeps_its_column(runs):
    found = runs(({"seed": 0}, {"reward": 1.0, "reward_std": 5.0, "n": 2.0, "runs": 3.0}))
    (row,) = aggregate(found).to_frame().to_dict("records")
    assert (row["reward:mean"], row["reward_std:mean"], row["n:mean"]) == (1.0, 5.0, 2.0)
    assert row["runs"] == 1


def test_a_param_called_as_another_column_keeps_its_long_name(runs):
    found = runs(({"runs": 1, "seed": 0}, 1.0), ({"runs": 2, "seed": 0}, 1.0))
    assert list(aggregate(found).to_text_columns())[:2] == ["params.runs", "runs"]


def test_a_notebook_shows_the_table_escaped(runs):
    found = runs(({"x": "<b>", "seed": 0}, 1.0), ({"x": "c", "seed": 0}, 2.0))
    page = aggregate(found)._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page.replace("<body>", "")


# ---------------------------------------------------------------------- what counts


def test_a_rerun_is_no_further_sample_and_is_left_out_where_its_original_is_here(runs, edit, root):
    found = runs(
        ({"lr": 1, "seed": 0}, 1.0), ({"lr": 1, "seed": 1}, 2.0), ({"lr": 1, "seed": 0}, 9.0)
    )
    original = found[0]
    again = found[2]
    edit(again, rerun_of=original.id)
    found = ExperimentRegistry(root).list_experiments()
    result = aggregate(found)
    assert names(result) == [["run-0", "run-1"]]
    assert result[0].stats["val/loss"].mean == 1.5
    assert result.notes == ["1 rerun is left out: the run that it repeats is here."]
    alone = aggregate(found[1:])
    assert names(alone) == [["run-1", "run-2"]]
    assert alone.notes == []


def test_runs_that_have_not_finished_count_and_are_told(track, registry):
    for seed, status in enumerate(("FINISHED", "FAILED", "KILLED", "FAILED")):
        track(f"r{seed}", params={"seed": seed}, rows=[{"loss": seed}], status=status)
    result = aggregate(registry.list_experiments())
    assert result[0].stats["loss"].n == 4
    assert result.notes == ["3 runs that count have not finished: 2 failed, 1 killed."]


def test_a_seed_that_a_group_holds_twice_is_told(runs):
    found = runs(
        ({"lr": 1, "seed": 0}, 1.0), ({"lr": 1, "seed": 0}, 1.0), ({"lr": 2, "seed": 0}, 1.0),
        ({"lr": 2, "seed": 1}, 1.0),
    )  # fmt: skip
    assert aggregate(found).notes == [
        "1 group holds a value of seed more than once: lr=1 (seed 0)."
    ]
    assert aggregate(found, ["lr"]).notes == []
    assert aggregate(found[:2]).notes == ["1 group holds a value of seed more than once: seed 0."]


def test_a_seed_may_stand_beside_each_fold(runs):
    found = runs(*(({"seed": seed, "fold": fold}, 1.0) for seed in (0, 1) for fold in (0, 1)))
    assert aggregate(found, "*-seed-fold").notes == []
    twice = found + found[:1]
    assert aggregate(twice, "*-seed-fold").notes == [
        "1 group holds values of seed, fold more than once: seed 0, fold 0."
    ]


def test_runs_without_a_seed_are_not_taken_for_runs_of_the_same(runs):
    found = runs(({"lr": 1}, 1.0), ({"lr": 1}, 1.0), ({"lr": 1, "seed": 0}, 1.0))
    assert aggregate(found).notes == []


def test_what_counts_stands_under_the_printed_table_and_in_a_notebook(runs, page_text):
    found = aggregate(runs(({"lr": "<b>", "seed": 0}, 1.0), ({"lr": "<b>", "seed": 0}, 1.0)))
    (note,) = found.notes
    assert str(found).splitlines()[-1] == note
    assert page_text(found._repr_html_()).endswith(note)


def test_a_printed_aggregate_is_its_table_with_the_best_marked(runs):
    found = runs(
        *(({"lr": lr, "seed": 0}, loss) for lr, loss in ((1, 2.0), (2, 1.0), (3, 1.0))),
        goals={"val/loss": "minimize"},
    )
    assert str(aggregate(found)).splitlines() == [
        "|  lr | runs | val/loss ± std |",
        "| --: | ---: | -------------- |",
        "|   1 |    1 | 2              |",
        "|   2 |    1 | ★ 1            |",
        "|   3 |    1 | ★ 1            |",
    ]
    assert aggregate(found).to_latex().count("mathbf") == 2
    assert aggregate(found)._repr_html_().count("★ 1") == 2
    assert "★" not in str(aggregate(found[1:]))


def test_what_was_never_logged_is_told_from_what_was_nan(runs):
    found = runs(({"lr": 1, "seed": 0}, {"other": 1.0}), ({"lr": 2, "seed": 0}, NAN))
    result = aggregate(found, metrics="val/loss")
    assert result.to_text_columns()["val/loss ± std"] == ["-", "nan (0 of 1)"]
    never, nan = result.to_latex().splitlines()[4:6]
    assert never == r"$1$ & $1$ & - \\"
    assert nan.endswith(r"(0 of 1) \\")


def test_a_group_by_a_tag_without_a_value_says_yes(track, registry):
    track("a", rows=[{"loss": 1.0}], tags=["good"])
    track("b", rows=[{"loss": 2.0}])
    result = aggregate(registry.list_experiments(), "tags.good")
    assert result.to_text_columns()["tags.good"] == ["yes", None]
    assert result.to_columns()["tags.good"] == ["", None]


# ---------------------------------------------------------------------- curves


def test_curves_are_averaged_over_the_runs_of_each_group(runs):
    found = runs(
        ({"lr": 1, "seed": 0}, 0.0, 1.0, 2.0), ({"lr": 1, "seed": 1}, 2.0, 3.0, 4.0),
        ({"lr": 2, "seed": 0}, 9.0, 9.0, 9.0),
    )  # fmt: skip
    first, second = aggregate(found).curves("val/loss")
    assert first.axis.tolist() == [0, 1, 2]
    assert first.mean.tolist() == [1, 2, 3]
    assert first.n.tolist() == [2, 2, 2]
    assert first.std == pytest.approx([math.sqrt(2)] * 3)
    assert first.sem == pytest.approx([1.0] * 3)
    assert first.high - first.mean == pytest.approx([12.7062047] * 3)
    assert first.mean - first.low == pytest.approx([12.7062047] * 3)
    assert second.group.params == {"lr": 2}
    assert second.mean.tolist() == [9, 9, 9]
    assert all(map(math.isnan, second.std))


def test_a_run_counts_only_where_its_curve_reaches(track, registry):
    other = {"other": 1.0}
    track("short", params={"seed": 0}, rows=[{"loss": 1.0}, {"loss": 1.0}])
    track("long", params={"seed": 1}, rows=[{"loss": 3.0}] * 5)
    track("odd", params={"seed": 2}, rows=[other, {"loss": 5.0}, other, {"loss": NAN}])
    (curve,) = aggregate(registry.list_experiments()).curves("loss")
    assert curve.axis.tolist() == [0, 1, 2, 3, 4]
    assert curve.n.tolist() == [2, 3, 1, 1, 1]
    assert curve.mean.tolist() == [2, 3, 3, 3, 3]
    assert math.isnan(curve.std[4])


def test_runs_logged_at_other_steps_meet_on_a_common_axis(tracker, registry):
    for seed, steps in enumerate([(0, 10, 20), (5, 15)]):
        with tracker().start_run(f"r{seed}", {"seed": seed}) as run:
            for step in steps:
                run.log_metric("loss", float(step), step=step)
    (curve,) = aggregate(registry.list_experiments()).curves("loss")
    assert curve.axis.tolist() == [0, 5, 10, 15, 20]
    assert curve.mean.tolist() == [0, 5, 10, 15, 20]
    assert curve.n.tolist() == [1, 2, 2, 2, 1]


def test_a_group_without_the_metric_has_no_curve_but_none_at_all_is_an_error(runs):
    found = runs(({"lr": 1, "seed": 0}, {"loss": 1.0}), ({"lr": 2, "seed": 0}, {"other": 1.0}))
    result = aggregate(found)
    assert [curve.group.params for curve in result.curves("loss")] == [{"lr": 1}]
    with pytest.raises(MetricNotFoundError, match="lss"):
        result.curves("lss")
    with pytest.raises(MetricNotFoundError):
        result.curves("loss", x="epoch")


def test_curves_as_columns_have_a_row_per_group_and_point(runs):
    found = runs(({"lr": 1, "seed": 0}, 0.0, 1.0), ({"lr": 2, "seed": 0}, 2.0, 3.0))
    columns = aggregate(found).curve_columns("val/loss")
    assert list(columns) == ["params.lr", "step", "n", "mean", "std", "sem", "low", "high"]
    assert columns["params.lr"] == [1, 1, 2, 2]
    assert columns["step"] == [0, 1, 0, 1]
    assert columns["mean"] == [0, 1, 2, 3]
    assert all(type(value) is float for value in columns["mean"])


def test_a_group_without_the_metric_has_no_curve_of_one_that_is_called_alike(runs):
    found = runs(({"lr": 1}, {"loss": 1.0}), ({"lr": 2}, {"val/loss": 5.0}), ({"lr": 3},))
    (curve,) = aggregate(found, "lr").curves("loss")
    assert (curve.group.params, curve.mean.tolist()) == ({"lr": 1}, [1.0])


def test_of_many_groups_that_hold_a_seed_twice_some_are_named(runs):
    found = runs(*(({"lr": lr, "seed": 0}, 1.0) for lr in range(7) for _ in range(2)))
    (note,) = aggregate(found).notes
    assert note.startswith("7 groups hold a value of seed more than once: lr=0 (seed 0), ")
    assert note.endswith("lr=4 (seed 0) and 2 more.")


def test_without_any_seed_runs_that_are_equal_in_all_params_are_a_group(track, registry):
    for name, lr, loss in (("a", 0.1, 1.0), ("b", 0.1, 3.0), ("c", 0.2, 5.0)):
        track(name, params={"lr": lr}, rows=[{"loss": loss}])
    found = registry.aggregate(metrics="loss")
    assert [(group.params["lr"], group.stats["loss"].mean) for group in found] == [
        (0.1, 2.0), (0.2, 5.0),
    ]  # fmt: skip
    with pytest.raises(InvalidValueError, match="seed"):
        registry.aggregate(by="*-seed", metrics="loss")
