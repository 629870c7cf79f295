"""Correcting runs that have ended: who, when and the old value are kept; readers see the new."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiment_tracking.errors import (
    InvalidNameError,
    InvalidTypeError,
    InvalidValueError,
    RunBusyError,
    WriteError,
)
from experiment_tracking.folder import amendments
from experiment_tracking.folder.check import check
from experiment_tracking.registry.edit import Edit
from experiment_tracking.registry.record import RunRecord

REPOSITORY = str(Path(__file__).parents[2])
ROWS = [{"loss": 1.0, "acc": 0.1}, {"loss": 0.5, "acc": 0.2}]


@pytest.fixture
def run(track):
    params = {"lr": 0.1, "model": {"depth": 2}}
    return track("r", rows=ROWS, params=params, tags={"sweep": "a", "draft": ""})


@pytest.fixture
def edited(run, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ann")
    return Edit(RunRecord(run.path))


def seen(run):
    """The run as somebody reads it who comes anew."""
    return RunRecord(run.path)


def changes(edit):
    keys = ("kind", "name", "old", "new", "step")
    return [tuple(each.get(key) for key in keys if key in each) for each in edit.history]


# ---------------------------------------------------------------------- what is changed


def test_tags_are_set_and_removed_and_the_old_ones_kept(edited, run):
    kept = edited.set_tags({"sweep": "b", "best": True, "draft": ""})
    assert [(each["name"], each["new"]) for each in kept] == [("sweep", "b"), ("best", "true")]
    edited.set_tags("paper")
    edited.remove_tags("draft", "never")
    assert seen(run).tags == edited.run.tags == {"sweep": "b", "best": "true", "paper": ""}
    assert changes(edited) == [
        ("tag", "sweep", "a", "b"), ("tag", "best", "true"), ("tag", "paper", ""),
        ("tag", "draft", ""),
    ]  # fmt: skip
    assert "new" not in edited.history[-1]


def test_notes_are_replaced(edited, run):
    edited.set_notes("first")
    edited.set_notes("second\nline")
    assert seen(run).notes == "second\nline"
    assert changes(edited)[-1] == ("notes", "notes", "first", "second\nline")


def test_a_param_is_corrected_where_it_stands(edited, run):
    edited.set_param("lr", 0.2)
    edited.set_param("model.depth", Path("three"))
    edited.set_param("seed", 2**70)
    edited.set_param("limit", float("inf"))
    assert seen(run).params == {
        "lr": 0.2, "model": {"depth": "three"}, "seed": 2**70, "limit": "Infinity",
    }  # fmt: skip
    assert changes(edited)[:3] == [
        ("param", "lr", 0.1, 0.2), ("param", "model.depth", 2, "three"), ("param", "seed", 2**70),
    ]  # fmt: skip
    assert json.loads((run.path / "params.json").read_text())["lr"] == 0.1


def test_a_late_metric_is_as_if_it_had_been_logged_last(edited, run, track):
    edited.log_metric("test/acc", 0.93)
    edited.log_metric("loss", float("nan"))
    edited.log_metric("time", 3, step=1)
    same = track("same", rows=[*ROWS, {"test/acc": 0.93}, {"loss": float("nan")}], status=None)
    same.log_metrics({"time": 3}, step=1)
    same.end_run()
    record, expected = seen(run), seen(same)
    assert repr(record.metrics) == repr(expected.metrics)  # NaN equals nothing
    history, wanted = record.history(), expected.history()
    assert history.drop(columns="time").equals(wanted.drop(columns="time"))
    assert record.metric_names == ["loss", "acc", "test/acc", "time"]
    assert record.value("test/acc") == 0.93
    assert [each["name"] for each in edited.history][-1] == "metric:time"


def test_a_late_value_corrects_the_one_at_its_step(edited, run):
    edited.log_metric("loss", 0.7, step=1)
    assert changes(edited) == [("metric", "loss", 0.5, 0.7, 1)]
    record = seen(run)
    assert [(row["step"], row["loss"]) for row in record.rows() if "loss" in row] == [
        (0, 1.0), (1, 0.7),
    ]  # fmt: skip
    loss = record.metrics["loss"]
    assert (loss["last"], loss["min"], loss["count"], loss["mean"]) == (0.7, 0.7, 2, 0.85)
    assert record.metrics["acc"] == {**record.summary["metrics"]["acc"]}
    assert [row["loss"] for row in record.rows("all") if "loss" in row] == [1.0, 0.5, 0.7]
    edited.log_metric("loss", 0.6, step=1)
    assert seen(run).metrics["loss"]["last"] == 0.6
    assert changes(edited)[-1] == ("metric", "loss", 0.7, 0.6, 1)


def test_a_metric_of_a_run_that_logged_none_begins_at_step_0(track):
    edit = Edit(seen(track("empty")))
    edit.log_metric("a", 1)
    edit.log_metric("a", 2)
    assert [(row["step"], row["a"]) for row in edit.run.rows()] == [(0, 1), (1, 2)]


def test_what_is_so_already_is_not_kept_again(edited):
    assert edited.set_tags({"sweep": "a"}) == edited.remove_tags("never") == []
    assert edited.set_param("lr", 0.1) == edited.set_notes("") == []
    assert edited.log_metric("loss", 0.5, step=1) == []
    assert edited.history == []
    assert len(edited.set_param("model.depth", 2.0)) == 1  # 2.0 is not 2


def test_who_and_when_are_kept(edited):
    (kept,) = edited.set_notes("x")
    assert kept["by"] == "ann"
    assert kept["at"] > edited.run.created_at
    assert [kept] == edited.history


def test_a_user_called_run_is_not_taken_for_the_run_itself(edited, run, monkeypatch):
    monkeypatch.setenv("LOGNAME", "run")
    edited.set_notes("mine")
    assert edited.history[0]["by"] == "user run"
    assert seen(run).notes == "mine"


def test_a_user_without_a_name_is_a_number(run):
    code = (
        "import os, sys\nfrom experiment_tracking.registry.edit import Edit\n"
        "from experiment_tracking.registry.record import RunRecord\n"
        "edit = Edit(RunRecord(sys.argv[1]))\n"
        "for name in ('LOGNAME', 'USER', 'LNAME', 'USERNAME'):\n    os.environ.pop(name, None)\n"
        "os.getuid = lambda: 123456\n"  # as in a container started with --user
        "print(edit.set_notes('x')[0]['by'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run.path], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": REPOSITORY},
    )  # fmt: skip
    assert done.stdout == "user 123456\n"


def test_credentials_are_hidden_as_in_the_run(edited, run):
    edited.set_param("api_key", "hunter2hunter2")
    edited.set_param("model.auth", {"password": "hunter2hunter2"})
    edited.set_tags({"url": "https://me:hunter2hunter2@example.org"})
    edited.set_notes("see https://me:hunter2hunter2@example.org")
    for file in run.path.rglob("*"):
        assert not file.is_file() or b"hunter2" not in file.read_bytes()
    assert seen(run).params["api_key"] == "***"


def test_the_documents_of_the_run_are_left_as_they_are(edited, run):
    names = ("summary.json", "params.json", "metrics_history.json")
    before = [(run.path / name).read_bytes() for name in names]
    edited.set_tags("a")
    edited.set_param("lr", 3)
    edited.log_metric("loss", 3, step=1)
    assert [(run.path / name).read_bytes() for name in names] == before
    assert check(run.path) == []


def test_a_cache_of_what_was_read_sees_every_change_by_the_summary(edited, run):
    for change in (
        lambda: edited.set_tags("a"),
        lambda: edited.remove_tags("a"),
        lambda: edited.set_notes("a"),
        lambda: edited.set_param("lr", 3),
        lambda: edited.log_metric("a", 3),
    ):
        os.utime(run.path / "summary.json", (1e9, 1e9))
        change()
        assert os.stat(run.path / "summary.json").st_mtime > 1e9


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["", " ", None, 3, "\ud800"])
def test_a_name_that_a_run_refuses_is_refused(name, edited):
    with pytest.raises(InvalidNameError):
        edited.set_param(name, 1)
    with pytest.raises(InvalidNameError):
        edited.log_metric(name, 1)
    assert edited.history == []


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda e: e.set_tags(3), InvalidTypeError),
        (lambda e: e.set_notes(3), InvalidTypeError),
        (lambda e: e.log_metric("a", "fast"), InvalidTypeError),
        (lambda e: e.log_metric("a", 1, step=0.5), InvalidTypeError),
        (lambda e: e.log_metric("a", 1, step=2**64), InvalidValueError),
        (lambda e: e.log_metric("step", 1), InvalidValueError),
    ],
)
def test_a_value_that_a_run_refuses_is_refused(call, error, edited):
    with pytest.raises(error):
        call(edited)
    assert edited.history == []


def test_a_live_run_is_left_to_its_own_process(track, root):
    run = track("live", rows=ROWS, status=None)
    with pytest.raises(RunBusyError, match=r"digits/live is running.*force=True"):
        Edit(seen(run))
    edit = Edit(seen(run), force=True)
    edit.set_tags("forced")
    run.set_tags("own")
    assert seen(run).tags == {"own": "", "forced": ""}
    run.end_run()
    assert seen(run).tags == {"own": "", "forced": ""}


def test_a_run_that_is_resumed_meanwhile_is_left_alone_from_then_on(edited, run, tracker):
    edited.set_tags("before")
    resumed = tracker(resume="must").start_run("r")
    with pytest.raises(RunBusyError):
        edited.set_tags("after")
    resumed.end_run()
    edited.set_tags("after")
    assert {"before", "after"} <= seen(run).tags.keys()


def test_a_resumed_runs_own_new_value_of_a_param_counts(edited, run, tracker):
    edited.set_param("lr", 0.7)
    edited.set_param("seed", 1)
    resumed = tracker(resume="must").start_run("r")
    resumed.log_params({"lr": 0.9})
    resumed.log_metrics({"loss": 0.4})
    resumed.end_run()
    assert seen(run).params == {"lr": 0.9, "model": {"depth": 2}, "seed": 1}


def test_a_resumed_runs_own_tags_and_notes_count(edited, run, tracker):
    edited.set_tags({"sweep": "b", "paper": ""})
    edited.set_notes("mine")
    resumed = tracker(resume="must").start_run("r")
    resumed.set_tags({"sweep": "c"})
    resumed.notes = "its own"
    resumed.end_run()
    assert seen(run).tags == {"sweep": "c", "draft": "", "paper": ""}
    assert seen(run).notes == "its own"
    edited.set_tags({"sweep": "d"})
    edited.set_notes("mine again")
    assert (seen(run).tags["sweep"], seen(run).notes) == ("d", "mine again")
    assert changes(edited)[-2:] == [
        ("tag", "sweep", "c", "d"),
        ("notes", "notes", "its own", "mine again"),
    ]


def test_a_late_value_gives_way_to_what_a_resumed_run_logs_at_its_step(edited, run, tracker):
    edited.log_metric("test/acc", 0.9)
    resumed = tracker(resume="must").start_run("r")
    resumed.log_metrics({"test/acc": 0.95})  # at the same step, behind the last of its own
    resumed.log_metrics({"test/acc": 0.96})
    resumed.end_run()
    points = [(row["step"], row["test/acc"]) for row in seen(run).rows() if "test/acc" in row]
    assert points == [(2, 0.95), (3, 0.96)]
    found = seen(run).metrics["test/acc"]
    assert (found["last"], found["best"], found["count"]) == (0.96, 0.96, 2)
    history = seen(run).history("test/acc")
    assert list(history["test/acc"]) == [0.95, 0.96]


def test_a_killed_run_may_be_corrected(killed):
    edit = Edit(RunRecord(killed))
    edit.log_metric("loss", 7.0, step=3)
    record = RunRecord(killed)
    assert record.status == "crashed"
    assert (record.metrics["loss"]["count"], record.metrics["loss"]["last"]) == (200, 7.0)
    assert record.metrics["step_size"]["count"] == 200


def test_a_folder_that_cannot_be_written_is_said_with_what_to_do(edited, run):
    (run.path / "amendments").write_text("in the way")
    with pytest.raises(WriteError, match=r"Run digits/r: the change cannot be kept.*Ask for"):
        edited.set_tags("a")
    (run.path / "amendments").unlink()


# ---------------------------------------------------------------------- damage, and many at once


def test_a_damaged_amendment_is_passed_over_and_named(edited, run, damage):
    edited.set_tags({"sweep": "b"})
    edited.set_tags({"sweep": "c"})
    damage(run, '{"at": "2026', "amendments/000002.json")
    record = seen(run)
    assert (record.tags["sweep"], record.params["lr"], record.status) == ("b", 0.1, "finished")
    ((path, reason),) = record.problems
    assert (path, "000002.json" in reason) == (str(run.path), True)
    assert [problem.path for problem in check(run.path)] == [
        str(run.path / "amendments" / "000002.json")
    ]
    edited.set_tags({"sweep": "d"})
    assert seen(run).tags["sweep"] == "d"


def test_a_run_without_amendments_has_no_problems(run):
    assert seen(run).amendments == seen(run).problems == []


_EDITOR = """
import sys
from experiment_tracking.registry.edit import Edit
from experiment_tracking.registry.record import RunRecord
edit = Edit(RunRecord(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
me = sys.argv[2]
edit.set_tags({me: "", "last": me})
edit.log_metric(f"late/{me}", 1.0)
edit.set_param(f"by.{me}", me)
"""


def test_of_sixteen_editors_at_once_none_loses_anything(edited, run):
    environment = {**os.environ, "PYTHONPATH": REPOSITORY}
    editors = [
        subprocess.Popen(
            [sys.executable, "-c", _EDITOR, run.path, f"p{i}"], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for i in range(16)
    ]  # fmt: skip
    for editor in editors:
        assert editor.stdout.readline() == "ready\n"
    for editor in editors:
        editor.stdin.write("\n")
        editor.stdin.flush()
    for editor in editors:
        editor.communicate()
        assert editor.returncode == 0
    names = {f"p{i}" for i in range(16)}
    record = seen(run)
    assert record.tags.keys() == {"sweep", "draft", "last"} | names
    assert record.metrics.keys() == {"loss", "acc"} | {f"late/{name}" for name in names}
    assert record.params.keys() == {"lr", "model"} | {f"by.{name}" for name in names}
    assert len(edited.history) == len(os.listdir(run.path / "amendments")) == 16 * 4
    assert record.tags["last"] == [e["new"] for e in edited.history if e["name"] == "last"][-1]


def test_the_records_history_is_that_of_the_folder(edited, run):
    edited.set_notes("x")
    assert edited.history == amendments.read(RunRecord(run.path).folder)[0]


def test_params_are_removed_and_those_not_there_passed_over(edited, run):
    before = seen(run).params
    edited.set_param("typo", 1)
    kept = edited.remove_params("typo", "nothing")
    assert [(e["kind"], e["name"], e["old"]) for e in kept] == [("param", "typo", 1)]
    assert "new" not in kept[0]
    assert seen(run).params == before
    assert edited.remove_params("typo") == []
    edited.set_param("typo", 2)
    assert seen(run).params["typo"] == 2


def test_a_nested_param_is_removed_alone_or_with_all_beside_it(edited, run):
    edited.set_param("net", {"depth": 2, "width": 8})
    edited.remove_params("net.depth")
    assert seen(run).params["net"] == {"width": 8}
    edited.remove_params("net")
    assert "net" not in seen(run).params


def test_a_run_gets_another_name_and_who_gave_it_stays_on_record(track, registry):
    track("first", rows=[{"loss": 1.0}])
    edit = registry.edit("first")
    (kept,) = edit.rename("second")
    assert (kept["kind"], kept["old"], kept["new"]) == ("name", "first", "second")
    assert edit.run.name == "second"
    assert registry.list_experiments().names == ["second"]
    assert registry.get("second").amendments == [kept]
    assert check(registry.roots[0]) == []
    with pytest.raises(InvalidNameError):
        edit.rename("a/b")
    assert registry.list_experiments().names == ["second"]
