import csv
import io
import json

import pytest

from experiment_tracking import ExperimentTracker


@pytest.fixture
def root(tmp_path):
    """Two learning rates with three seeds each, and one run of another project."""
    path = tmp_path / "experiments"
    options = {"root": path, "auto_log": False, "use_tensorboard": False}
    tracker = ExperimentTracker("digits", **options)
    for lr, losses in {0.1: (1.0, 2.0, 3.0), 0.01: (0.5, 0.25, 0.75)}.items():
        for seed, loss in enumerate(losses):
            with tracker.start_run(f"lr{lr}-{seed}", {"lr": lr, "seed": seed}) as run:
                run.log_metrics({"val/loss": loss + 1, "val/acc": 0.5}, step=0)
                run.log_metrics({"val/loss": loss, "val/acc": 0.25}, step=1)
    with ExperimentTracker("alone", **options).start_run("one", {"lr": 5, "seed": 0}) as run:
        run.log_metric("val/loss", 9.0)
    return path


def test_seeds_are_averaged_and_the_best_mean_is_marked(experiments):
    code, out, err = experiments("aggregate", "digits")
    assert code == 0
    assert out.splitlines() == [
        "  lr  runs  val/loss ± std  val/acc ± std",
        " 0.1     3       2.0 ± 1.0       0.25 ± 0",
        "0.01     3    *0.50 ± 0.25       0.25 ± 0",
    ]
    assert "* marks the best mean" in err


def test_metrics_values_and_spread_can_be_chosen(experiments):
    words = ("aggregate", "digits", "--metrics", "val/acc", "--on", "best", "--spread", "sem")
    code, out, err = experiments(*words)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split("  ")[-1] == "val/acc ± sem"
    assert out.splitlines()[1].endswith("0.5 ± 0")


@pytest.mark.parametrize(
    "words", [["--by", "lr"], ["--by=-seed"], ["--by", "*-seed"], ["--over", "seed"]]
)
def test_groups_can_be_named_in_several_ways(experiments, words):
    code, out, _ = experiments("aggregate", "digits", *words, "--json")
    found = json.loads(out)
    assert code == 0
    assert [group["group"]["params.lr"] for group in found] == [0.1, 0.01]
    assert found[0]["runs"] == [f"digits/lr0.1-{seed}" for seed in range(3)]
    assert found[0]["metrics"]["val/loss"]["mean"] == 2
    assert found[0]["metrics"]["val/loss"]["std"] == 1


def test_a_filter_chooses_the_runs(experiments):
    words = ("aggregate", "--where", "params.lr < 0.05", "--json")
    assert [group["group"] for group in json.loads(experiments(*words)[1])] == [{"params.lr": 0.01}]


def test_several_params_can_be_averaged_over(experiments):
    code, out, _ = experiments("aggregate", "digits", "--over", "seed,lr", "--json")
    assert (code, [len(group["runs"]) for group in json.loads(out)]) == (0, [6])


def test_groups_of_one_run_say_what_to_do(experiments):
    code, _, err = experiments("aggregate", "digits", "--by", "lr,seed")
    assert code == 0
    assert "--over" in err


def test_tables_for_documents_have_nothing_else_on_stdout(experiments):
    words = ("aggregate", "digits", "--metrics", "val/loss", "--format")
    assert experiments(*words, "md")[1].splitlines()[2] == "|  0.1 |    3 | 2.0 ± 1.0      |"
    latex = experiments(*words, "latex")[1]
    assert latex.startswith("\\begin{tabular}")
    assert "$\\mathbf{0.50} \\pm 0.25$" in latex
    rows = list(csv.DictReader(io.StringIO(experiments(*words, "csv")[1])))
    assert [row["val/loss:mean"] for row in rows] == ["2.0", "0.5"]


@pytest.mark.parametrize("form", ["table", "md", "latex", "csv"])
def test_curves_have_a_row_per_group_and_point(experiments, form):
    words = ("aggregate", "digits", "--metrics", "val/loss", "--curves", "--format", form)
    code, out, err = experiments(*words)
    assert (code, err) == (0, "")
    assert len([line for line in out.splitlines() if "val/loss" in line]) == 4


def test_curves_as_csv_have_mean_and_interval(experiments):
    words = ("aggregate", "digits", "--curves", "--points", "2", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(experiments(*words)[1])))
    assert [(row["metric"], row["params.lr"], row["mean"]) for row in rows][:4] == [
        ("val/loss", "0.1", "3.0"),
        ("val/loss", "0.1", "2.0"),
        ("val/loss", "0.01", "1.5"),
        ("val/loss", "0.01", "0.5"),
    ]
    assert {"step", "n", "std", "sem", "low", "high"} < rows[0].keys()


def test_curves_as_json_have_arrays(experiments):
    _, out, _ = experiments("aggregate", "digits", "--metrics", "val/loss", "--curves", "--json")
    first, second = json.loads(out)
    assert first["group"] == {"params.lr": 0.1}
    assert (first["step"], first["n"], first["mean"]) == ([0, 1], [3, 3], [3, 2])
    assert second["mean"] == [1.5, 0.5]


def test_a_param_or_metric_that_is_nowhere_is_told_by_the_exit_code(experiments):
    code, out, err = experiments("aggregate", "digits", "--over", "sed")
    assert (code, out) == (2, "")
    assert "Near: seed" in err
    code, out, err = experiments("aggregate", "digits", "--metrics", "val/lss")
    assert (code, out) == (3, "")
    assert "val/loss" in err


def test_no_run_that_meets_the_conditions_ends_with_3(experiments):
    code, out, err = experiments("aggregate", "digits", "--status", "failed")
    assert (code, out) == (3, "")
    assert "meets these conditions" in err


def test_a_damaged_run_is_named_and_the_others_are_averaged(experiments, root):
    (root / "digits" / "lr0.1-2" / "params.json").write_text("{")
    code, out, err = experiments("aggregate", "digits", "--json")
    assert code == 0
    assert [len(group["runs"]) for group in json.loads(out)] == [2, 3]
    assert "lr0.1-2" in err


def test_nothing_in_a_table_reaches_the_terminal_as_a_command(experiments, root):
    tracker = ExperimentTracker("hostile", root=root, auto_log=False, use_tensorboard=False)
    for seed, text in enumerate(("\x1b[31m", "=1+1")):
        with tracker.start_run(f"r{seed}", {"x\x1b": text, "seed": seed}) as run:
            run.log_metric("loss", 1.0)
    for form in ("table", "md", "latex", "csv"):
        code, out, _ = experiments("aggregate", "hostile", "--format", form)
        assert code == 0
        assert out.replace("\n", "").isprintable()


def test_too_few_points_for_a_curve_end_with_2(experiments):
    for points in ("-1", "0", "1"):
        words = ("aggregate", "digits", "--curves", "--points", points)
        code, out, err = experiments(*words)
        assert (code, out) == (2, "")
        assert f"found {points}" in err


def test_groups_by_a_tag_without_a_value_read_yes_and_a_dash(experiments):
    experiments("tag", "lr0.1-0", "lr0.1-1", "-t", "paper")
    out = experiments("aggregate", "digits", "--by", "tags.paper", "--metrics", "val/acc")[1]
    rows = [line.split() for line in out.splitlines()]
    assert sorted(row[:2] for row in rows) == [["-", "4"], ["tags.paper", "runs"], ["yes", "2"]]


def test_what_the_means_are_made_of_is_told_beside_the_data(experiments, root):
    options = {"root": root, "auto_log": False, "use_tensorboard": False}
    run = ExperimentTracker("digits", **options).start_run("again", {"lr": 0.1, "seed": 2})
    run.log_metrics({"val/loss": 3.0, "val/acc": 0.25})
    run.end_run("FAILED")
    code, out, err = experiments("aggregate", "digits", "--format", "csv")
    assert (code, len(out.splitlines())) == (0, 3)
    assert "1 run that counts has not finished: 1 failed." in err
    assert "1 group holds a value of seed more than once: lr=0.1 (seed 2)." in err


def test_all_equal_best_means_are_marked(experiments, root):
    options = {"root": root, "auto_log": False, "use_tensorboard": False}
    with ExperimentTracker("digits", **options).start_run("tied", {"lr": 5, "seed": 0}) as run:
        run.log_metrics({"val/loss": 0.5, "val/acc": 0.25})
    _, out, _ = experiments("aggregate", "digits", "--metrics", "val/loss")
    assert [line.count("*") for line in out.splitlines()] == [0, 0, 1, 1]
