import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.reproduce.verify import MOST_DIFFERENCES, Verification, verify


@pytest.fixture
def track(make):
    """Write a run: its params, rows of metrics, files by name; then facts into its summary."""

    def track(name, rows=(), params=None, files=None, model=None, status="FINISHED", **more):
        run = make("lab").start_run(name, params)
        for step, row in enumerate(rows):
            run.log_metrics(row, step=step)
        for file, text in (files or {}).items():
            run.log_text(text, file)
        if model is not None:
            run.log_model(model)
        run.end_run(status)
        for file, value in more.pop("documents", {}).items():
            (run.path / f"{file}.json").write_text(json.dumps(value))
        if "console" in more:
            (run.path / "console.log").write_text(more.pop("console"))
        summary = json.loads((run.path / "summary.json").read_text())
        (run.path / "summary.json").write_text(json.dumps(summary | more))
        return RunRecord(run.path)

    return track


def told(verification):
    """Differences without their notes."""
    return [one[:4] for one in verification.differences]


def test_a_run_that_came_out_the_same_holds_and_says_how_much_was_compared(track):
    facts = {
        "rows": [{"loss": 1.0, "acc": math.nan}, {"loss": 0.5, "acc": math.inf}],
        "params": {"lr": 0.1, "model": {"depth": 2}, "top": math.nan},
        "files": {"report.csv": "x,y\n1,2\n"},
        "model": {"w": np.arange(3.0)},
        "exit_code": 0,
    }
    found = verify(track("a", **facts), track("b", **facts))
    assert found.holds
    assert (found.differences, found.set_aside) == ([], [])
    assert found.checked == {"params": 3, "values": 4, "ending": 2, "inputs": 0, "files": 3}
    assert found.to_text().split("\n") == [
        "lab/b repeats lab/a",
        "compared: 3 params, 4 values, 2 ending, 3 files; tolerance 0",
    ]


def test_params_that_differ_or_are_missing_are_named(track):
    a = track("a", [{"x": 1}], {"lr": 0.1, "gone": None, "seed": 3})
    b = track("b", [{"x": 1}], {"lr": 0.2, "new": 1, "seed": 3})
    assert told(verify(a, b)) == [
        ("params", "lr", 0.1, 0.2),
        ("params", "gone", None, None),
        ("params", "new", None, 1),
    ]


def test_a_param_that_names_a_folder_of_the_run_is_the_same_in_another_tree(track):
    rows = [{"x": 1}]
    a = track("a", rows, {"out": "/lab/out", "all": ["/lab/x"]},
              documents={"environment": {"project": "/lab"}})  # fmt: skip
    b = track("b", rows, {"out": "/tmp/t/out", "all": ["/tmp/t/x"]},
              documents={"environment": {"project": "/tmp/t"}})  # fmt: skip
    assert verify(a, b).holds


def test_each_metric_that_differs_is_named_with_its_first_row_and_how_many_and_how_far(track):
    a = track("a", [{"loss": 1.0, "acc": 0.5}, {"loss": 0.5}, {"loss": 0.25}])
    b = track("b", [{"loss": 1.0, "acc": 0.5}, {"loss": 0.75}, {"loss": 0.26}])
    found = verify(a, b)
    assert not found.holds
    assert found.differences == [
        (
            "metrics",
            "loss at step 1",
            0.5,
            0.75,
            "2 of 3 rows differ; --tolerance 2.5e-01 would pass",
        )
    ]
    assert "  metrics: loss at step 1: 0.5, now 0.75 (2 of 3 rows" in found.to_text()
    assert verify(a, b, tolerance=0.25).holds


def test_rows_that_are_missing_too_many_or_at_other_steps_differ(track):
    a = track("a", [{"loss": 1.0}, {"loss": 0.5}, {"acc": 1}])
    b = track("b", [{"loss": 1.0}, {"acc": 1}, {"loss": 0.5, "new": 2}])
    assert told(verify(a, b, tolerance=0.1)) == [
        ("metrics", "loss at step 1", 0.5, "0.5 at step 2"),
        ("metrics", "acc at step 2", 1, "1 at step 1"),
        ("metrics", "new", "0 rows", "1 row"),
    ]


def test_rows_that_a_later_attempt_superseded_do_not_count(make, track):
    tracker = make("lab")
    run = tracker.start_run("a")
    for step in range(3):
        run.log_metrics({"loss": float(step)}, step=step)
    run.end_run("FAILED")
    with make("lab", resume="must").start_run("a") as run:
        for step in (1, 2):
            run.log_metrics({"loss": 10.0 * step}, step=step)
    b = track("b", [{"loss": 0.0}, {"loss": 10.0}, {"loss": 20.0}])
    assert verify(RunRecord(run.path), b).holds


def test_clocks_are_set_aside_by_name_and_what_is_ignored_too(track):
    a = track("a", [{"loss": 1.0, "time/fps": 10, "val/x": 1}], {"out": "a"}, {"log.txt": "a"})
    b = track("b", [{"loss": 1.0, "time/fps": 12, "val/x": 2}], {"out": "b"}, {"log.txt": "b"})
    found = verify(a, b, ignore=["val/*", "params.out", "files.*"])
    assert found.holds
    assert found.set_aside == [
        "params: out (ignored by 'params.out')",
        "metrics: val/x (ignored by 'val/*')",
        "metrics: time/fps (a clock, by its name)",
        "files: artifacts/log.txt (ignored by 'files.*')",
    ]


def test_rows_of_further_ranks_are_compared_and_those_of_single_processes_told(track):
    a, b = track("a", [{"loss": 1.0}]), track("b", [{"loss": 1.0}])
    for run, value in ((a, 1), (b, 2)):
        row = f'[\n{{"step":0,"time":1.5,"loss":{value}}}\n]\n'
        (run.path / "metrics_history.1.json").write_text(row)
    (a.path / "metrics_history.p77.json").write_text("[\n]\n")
    found = verify(a, b)
    assert told(found) == [("metrics", "loss (rank 1) at step 0", 1, 2)]
    assert found.set_aside == ["metrics: those of process p77 of lab/a"]


def test_another_ending_differs(track):
    a = track("a", [{"x": 1}], exit_code=0)
    b = track("b", [{"x": 1}], exit_code=3, status="FAILED")
    assert told(verify(a, b)) == [
        ("ending", "status", "finished", "failed"),
        ("ending", "exit_code", 0, 3),
    ]


def test_an_exit_code_that_only_one_of_them_knows_is_not_compared(track):
    assert verify(track("a", [{"x": 1}]), track("b", [{"x": 1}], exit_code=0)).holds


def test_inputs_are_compared_by_content_and_told_where_nothing_tells_it(track):
    def described(sha256, **more):
        train = {"name": "train", "kind": "file", "path": "/d", "size_bytes": 3, "sha256": sha256}
        web = {"name": "web", "kind": "uri", "path": "s3://b"}
        return {"inputs": {"inputs": [train, web, *more.values()]}}

    extra = {"name": "val", "kind": "array", "shape": [2, 3], "sha256": None}
    a = track("a", [{"x": 1}], documents=described("a" * 64, extra=extra))
    b = track("b", [{"x": 1}], documents=described("b" * 64))
    found = verify(a, b)
    assert told(found)[0] == ("inputs", "train", "sha256 aaaaaaaaaaaa", "sha256 bbbbbbbbbbbb")
    assert told(found)[-1] == ("inputs", "val", "array of shape [2, 3]", None)


def test_files_that_differ_are_missing_or_new_are_named(track):
    a = track("a", files={"same.txt": "1", "other.txt": "1", "gone.txt": "1"})
    b = track("b", files={"same.txt": "1", "other.txt": "2", "new.txt": "1"})
    found = verify(a, b)
    assert [one.name for one in found.differences] == [
        "artifacts/other.txt", "artifacts/gone.txt", "artifacts/new.txt",
    ]  # fmt: skip
    assert found.checked["files"] == 4


def test_tables_and_weights_hold_within_the_tolerance_and_not_without(track):
    weights = np.linspace(0, 1, 5)
    a = track("a", files={"t.csv": "x\n0.5\n"}, model={"w": weights, "n": np.array([3])})
    b = track("b", files={"t.csv": "x\n0.5001\n"}, model={"w": weights + 1e-4, "n": np.array([3])})
    assert verify(a, b, tolerance=1e-3).holds
    assert [one.name for one in verify(a, b).differences] == [
        "artifacts/t.csv", "models/model/weights-000001.safetensors",
    ]  # fmt: skip


def test_a_list_of_files_that_leads_out_of_the_run_reads_nothing_there(track, tmp_path):
    (tmp_path / "root" / "lab").mkdir(parents=True)
    listed = {"path": "../../x.csv", "sha256": "1", "size_bytes": 1, "kind": "table"}
    a = track("a", [{"x": 1}])
    b = track("b", [{"x": 1}])
    for run, sha256 in ((a, "1"), (b, "2")):
        run.__dict__["artifacts"] = [listed | {"sha256": sha256}]
    (tmp_path / "root" / "x.csv").write_text("1")
    assert told(verify(a, b, tolerance=1.0)) == [("files", "../../x.csv", "sha256 1", "sha256 2")]
    (tmp_path / "root" / "x.csv").unlink()


# ---------------------------------------------------------------------- console


def test_the_console_of_a_run_without_metrics_is_compared_without_the_moment(track):
    console = "{} epoch 1 loss 0.5\n 50%|██ | 1/2 [00:0{}<00:01]\nsaved to {}/out.csv\n"
    a = track("a", console=console.format("12:00:01", 1, "/tmp/x"))
    b = track("b", console=console.format("13:44:09", 7, "/tmp/y"))
    found = verify(a, b)
    assert found.holds
    assert found.checked["lines"] == 2
    assert found.set_aside[0] == "console of lab/a: 1 lines of progress bars"


def test_numbers_in_the_console_hold_within_the_tolerance_alone(track):
    a = track("a", console="loss 0.1234\n")
    b = track("b", console="loss 0.1235\n")
    assert told(verify(a, b)) == [("console", "line 1", "loss 0.1234", "loss 0.1235")]
    assert verify(a, b, tolerance=1e-3).holds


def test_one_more_line_does_not_make_the_lines_behind_it_differ(track):
    a = track("a", console="loss 3\nloss 2\n")
    b = track("b", console="warning!\nloss 3\nloss 2\n")
    assert told(verify(a, b)) == [("console", "line 1", None, "warning!")]


def test_lines_that_are_missing_are_counted(track):
    a = track("a", console="loss 3\nloss 2\nbye\nbye\n")
    b = track("b", console="loss 3\n")
    assert [(*one[2:4], one.note) for one in verify(a, b).differences] == [
        (2, 1, ""),
        ("bye", None, "2 such lines"),
    ]


def test_the_order_of_lines_of_different_kinds_is_set_aside_and_told(track):
    a = track("a", console="warning!\nloss 3\nloss 2\n")
    b = track("b", console="loss 3\nloss 2\nwarning!\n")
    found = verify(a, b)
    assert found.holds
    assert found.set_aside == ["console: the order of lines of different kinds"]
    c = track("c", console="warning!\nloss 2\nloss 3\n")
    assert not verify(a, c).holds


def test_a_console_that_the_rerun_lacks_differs(track):
    assert told(verify(track("a", console="x\ny\n"), track("b"))) == [
        ("console", "console.log", "2 lines", None)
    ]


def test_the_console_of_a_run_with_metrics_is_not_compared(track):
    a, b = track("a", [{"x": 1}], console="one"), track("b", [{"x": 1}], console="two")
    found = verify(a, b)
    assert found.holds
    assert "lines" not in found.checked


def test_an_ignored_console_is_set_aside(track):
    found = verify(track("a", console="x"), track("b", console="y"), ignore=["console.log"])
    assert found.differences == []
    assert not found.holds


# ---------------------------------------------------------------------- the verdict


@pytest.mark.parametrize("rows", [[], [{"fps": 3}]])
def test_a_comparison_of_nothing_that_a_run_brings_forth_does_not_hold(track, rows):
    found = verify(track("a", rows, {"lr": 0.1}), track("b", rows, {"lr": 0.1}))
    assert found.differences == []
    assert not found.holds
    assert "nothing that the run brings forth was compared" in found.to_text()


def test_many_differences_of_a_section_are_counted_and_leave_room_for_the_others(track):
    a = track("a", [{"x": 1}], {f"p{i:02}": 0 for i in range(30)})
    b = track("b", [{"x": 2}], {f"p{i:02}": 1 for i in range(30)})
    found = verify(a, b)
    assert len(found.differences) == MOST_DIFFERENCES + 1
    assert found.differences[-1].section == "metrics"
    assert found.more == {"params": 10}
    assert "  params: and 10 more" in found.to_text()


def test_the_result_is_plain_json(track):
    a, b = track("a", [{"x": math.nan}]), track("b", [{"x": math.inf}])
    found = verify(a, b)
    kept = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert kept["holds"] is False
    assert kept["differences"][0]["expected"] == "nan"


@pytest.mark.parametrize("tolerance", [-1e-9, math.nan, math.inf])
def test_a_tolerance_must_be_a_number_from_zero_up(track, tolerance):
    run = track("a")
    with pytest.raises(InvalidValueError, match="tolerance must be a number from 0 up"):
        verify(run, run, tolerance)


@given(st.dictionaries(st.sampled_from(["params", "values", "files", "lines"]), st.integers(0, 9)))
def test_what_was_compared_decides_together_with_what_differs(checked):
    results = sum(checked.get(part, 0) for part in ("values", "files", "lines"))
    assert Verification("lab/a", "lab/b", checked=checked).holds == (results > 0)


# ---------------------------------------------------------------------- causes


def test_a_missing_seed_and_other_packages_are_told_as_causes(track):
    a, b = track("a", [{"loss": 1.0}]), track("b", [{"loss": 2.0}])
    a.environment["packages"] = {"numpy": "1.26", "torch": "2.7", "gone": "1"}
    b.environment["packages"] = {"numpy": "2.0", "torch": "2.7"}
    found = verify(a, b)
    assert found.causes == [
        f"{a.key} set no seed: run.seed_everything(0)",
        "packages differ: numpy 1.26, now 2.0; --env same takes the old ones",
    ]
    assert found.to_text().split("\n")[1] == f"  likely cause: {found.causes[0]}"


def test_a_run_with_a_seed_or_without_a_difference_has_no_causes(track):
    a = track("a", [{"loss": 1.0}], params={"random_seed": 3})
    b = track("b", [{"loss": 2.0}], params={"random_seed": 3})
    assert verify(a, b).causes == []
    c, d = track("c", [{"loss": 1.0}]), track("d", [{"loss": 1.0}])
    assert verify(c, d).causes == []


@pytest.mark.parametrize(("one", "other"), [(0.5, 0.50049), (1000.0, 1001.23456), (3.0, 3.00001)])
def test_the_tolerance_that_is_named_would_pass(track, one, other):
    a, b = track("a", [{"loss": one}]), track("b", [{"loss": other}])
    (difference,) = verify(a, b).differences
    tolerance = float(difference.note.split("--tolerance ")[1].split()[0])
    assert verify(a, b, tolerance=tolerance).holds


def test_the_console_of_a_command_that_failed_is_not_compared(track):
    a = track("a", console="sum 3\n", exit_code=0)
    b = track("b", console="Traceback\n", exit_code=1, status="FAILED")
    found = verify(a, b)
    assert [one.name for one in found.differences] == ["status", "exit_code"]
    assert found.set_aside == ["the command failed; console not compared"]


def test_a_param_that_differs_comes_with_the_way_to_set_it_aside(track):
    a = track("a", [{"loss": 1.0}], params={"at": 1})
    b = track("b", [{"loss": 1.0}], params={"at": 2})
    (difference,) = verify(a, b).differences
    assert difference.note == "set it aside with --ignore params.at"
    assert verify(a, b, ignore=["params.at"]).holds
