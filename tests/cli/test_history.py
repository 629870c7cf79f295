"""``experiments history``: the rows of runs."""

import csv
import io
import json
import math
import shutil

import pytest

from experiment_tracking.cli import main


@pytest.fixture
def two(make, root, monkeypatch):
    monkeypatch.setenv("EXPERIMENT_TRACKING_ROOT", str(root))
    for name, factor in (("a", 1.0), ("b", 2.0)):
        with make("digits").start_run(name) as run:
            run.log_metrics({"val/loss": factor}, step=0)
            run.log_metrics({"val/loss": math.nan, "acc": 0.5}, step=1)
            run.log_metrics({"acc": 0.75}, step=2)


def lines(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.usefixtures("two")
def test_the_rows_of_a_run_are_a_table_in_which_nan_is_not_nothing(capsys):
    assert main(["history", "a"]) == 0
    head, *rows = lines(capsys)
    assert head == ["step", "time", "val/loss", "acc"]
    assert [(row[0], *row[3:]) for row in rows] == [
        ("0", "1", "-"), ("1", "nan", "0.5"), ("2", "-", "0.75"),
    ]  # fmt: skip


@pytest.mark.usefixtures("two")
def test_rows_without_the_metrics_asked_for_are_left_out(capsys):
    assert main(["history", "a", "--metrics", "loss", "--csv"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert [(row[0], row[2]) for row in rows] == [("step", "val/loss"), ("0", "1.0"), ("1", "nan")]


@pytest.mark.usefixtures("two")
def test_rows_are_json_with_what_each_has(capsys):
    assert main(["history", "a", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [set(row) - {"time"} for row in rows] == [
        {"step", "val/loss"}, {"step", "val/loss", "acc"}, {"step", "acc"},
    ]  # fmt: skip
    assert rows[1]["val/loss"] == "NaN"


@pytest.mark.usefixtures("two")
def test_several_runs_are_one_long_table_or_stand_side_by_side(capsys):
    assert main(["history", "a", "b", "--metrics", "acc"]) == 0
    head, *rows = lines(capsys)
    assert head == ["run", "step", "time", "metric", "value"]
    assert [row[0] for row in rows] == ["digits/a", "digits/a", "digits/b", "digits/b"]
    assert main(["history", "a", "b", "--metrics", "acc", "--wide"]) == 0
    assert lines(capsys) == [
        ["step", "a", "b"], ["1", "0.5", "0.5"], ["2", "0.75", "0.75"],
    ]  # fmt: skip


@pytest.mark.usefixtures("two")
def test_a_metric_that_is_not_there_says_which_there_are(capsys):
    assert main(["history", "a", "--metrics", "los"]) == 3
    assert "Near: val/loss" in capsys.readouterr().err


@pytest.mark.usefixtures("two")
def test_nan_is_not_nothing_in_the_rows_of_several_runs_either(capsys):
    assert main(["history", "a", "b", "--metrics", "val/loss", "--csv"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert [(row[0], row[4]) for row in rows[1:]] == [
        ("digits/a", "1.0"), ("digits/a", "nan"), ("digits/b", "2.0"), ("digits/b", "nan"),
    ]  # fmt: skip
    assert main(["history", "a", "b", "--metrics", "val/loss", "--json"]) == 0
    assert [row["value"] for row in json.loads(capsys.readouterr().out)] == [1.0, "NaN", 2.0, "NaN"]


@pytest.mark.usefixtures("two")
def test_runs_of_one_name_in_two_roots_each_have_their_column(capsys, root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    paths = [str(path / "digits" / "a") for path in (root, tmp_path / "copy")]
    assert main(["history", *paths, "--metrics", "acc", "--wide"]) == 0
    assert lines(capsys)[0] == ["step", *paths]
    assert main(["history", *paths, "--metrics", "acc"]) == 0
    assert {row[0] for row in lines(capsys)[1:]} == set(paths)


@pytest.mark.usefixtures("two")
def test_a_time_that_no_calendar_has_is_a_number(capsys, root):
    path = root / "digits" / "a" / "metrics_history.json"
    kept = path.read_text()
    path.write_text(kept.replace("\n]", ',\n{"step":3,"time":1e300,"acc":1.0}\n]'))
    for verb in ("history", "tail"):
        assert main([verb, "a"]) == 0
        assert lines(capsys)[-1][:2] == ["3", "1e+300"]
    path.write_text(kept)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("points", ["0", "-3"])
def test_too_few_points_are_refused(capsys, points):
    assert main(["history", "a", "b", "--wide", "--points", points]) == 2
    assert f"found {points}" in capsys.readouterr().err


@pytest.mark.usefixtures("two")
def test_runs_of_several_projects_keep_theirs_in_the_headers(make, capsys):
    with make("other").start_run("c") as run:
        run.log_metrics({"acc": 1.0})
    capsys.readouterr()
    assert main(["history", "a", "c", "--metrics", "acc", "--wide"]) == 0
    assert lines(capsys)[0] == ["step", "digits/a", "other/c"]
