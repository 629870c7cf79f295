import json
import math
import os
import time

import numpy as np
import pytest

from experiment_tracking import ExperimentConfig
from experiment_tracking.errors import (
    DamagedError,
    FormatError,
    InvalidValueError,
    MetricNotFoundError,
    NotFoundError,
)
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.registry.record import RunRecord


def files_below(path):
    return {p: p.stat().st_mtime_ns for p in path.rglob("*")}


def test_a_record_tells_who_the_run_is_and_how_it_ended(track):
    run = track("a", params={"lr": 0.1, "model": {"depth": 2}}, tags={"sweep": "x"})
    record = RunRecord(run.path)
    assert (record.name, record.project, record.key) == ("a", "digits", "digits/a")
    assert (record.id, record.path, record.folder.path) == (run.id, run.path, str(run.path))
    assert (record.status, record.status_note) == ("finished", "")
    assert record.created_at <= record.ended_at  # to the millisecond
    assert record.duration_s >= 0
    assert record.params == {"lr": 0.1, "model": {"depth": 2}}
    assert record.tags == {"sweep": "x"}
    assert (record.notes, record.parent, record.error) == ("", None, None)
    assert [attempt["status"] for attempt in record.attempts] == ["finished"]


def test_group_parent_and_notes_are_read_back(tracker):
    tracker = tracker(experiment_name="depth", notes="a note", config={"lr": 1})
    with tracker.start_run("outer") as outer, tracker.start_run("inner", parent=outer) as inner:
        pass
    record = RunRecord(inner.path)
    assert (record.group, record.parent, record.notes) == ("depth", outer.id, "a note")


def test_reading_a_run_writes_nothing_into_it(track, killed):
    run = track("a", params={"lr": 0.1}, rows=[{"loss": 1.0}])
    for path in (run.path, killed):
        before = files_below(path)
        record = RunRecord(path)
        assert (record.params, record.metrics, record.artifacts) is not None
        assert (record.environment, record.status, len(record.history())) is not None
        assert files_below(path) == before


def test_the_params_of_a_config_come_back_as_one(track):
    config = ExperimentConfig("jax", "pinn", "MLP", 1e-3, batch_size=32, num_epochs=10)
    assert RunRecord(track("a", params=config).path).config == config
    view = RunRecord(track("b", params={"lr": 0.1, "model": {"depth": 2}}).path).config
    assert (view.lr, view.model.depth) == (0.1, 2)


def test_metrics_are_plain_numbers_by_their_shown_names(track):
    rows = [{"loss": 3.0, "time": 7, "acc": math.nan}, {"loss": math.inf, "time": 8, "acc": 0.5}]
    metrics = RunRecord(track("a", rows=rows).path).metrics
    assert list(metrics) == ["loss", "time", "acc"]
    assert metrics["loss"]["last"] == math.inf
    assert (metrics["loss"]["best"], metrics["loss"]["best_step"]) == (3.0, 0)
    assert (metrics["time"]["last"], metrics["time"]["mean"]) == (8, 7.5)
    assert (metrics["acc"]["max"], metrics["acc"]["first_nonfinite_step"]) == (0.5, 0)


def test_a_killed_run_reads_as_crashed_and_as_completely_as_a_finished_one(killed):
    record = RunRecord(killed)
    assert (record.status, record.ended_at, record.duration_s) == ("crashed", None, None)
    assert record.params == {"lr": 0.1}
    rows = HistoryReader(record.folder.history()).rows()
    digest = Digest(lambda: rows)
    digest.update(rows)
    assert record.stored_metrics == digest.to_dict()
    assert record.metrics["loss"]["last"] == 1 / 200
    assert record.metrics["step_size"]["nonfinite"] == 200


@pytest.mark.parametrize("digested", [0, None, "partly"])
def test_what_the_writer_had_not_summed_up_is_read_from_the_rows(track, edit, digested):
    run = track("a", rows=[{"loss": value, "acc": value / 9} for value in (3.0, 1.0, 2.0)])
    whole = RunRecord(run.path).metrics
    summary = json.loads((run.path / "summary.json").read_text())
    if digested == "partly":
        rows = HistoryReader(str(run.path / "metrics_history.json"))
        first = b"".join((run.path / "metrics_history.json").read_bytes().partition(b"},\n")[:1])
        digest = Digest(rows.rows)
        digest.update(rows.rows()[:1])
        history = {"digested_bytes": len(first) + 1}
        edit(run, status="running", metrics=digest.to_dict(), history=history)
    else:
        history = {} if digested is None else {"digested_bytes": 0, "rows": 0}
        edit(run, status="running", metrics={}, history=history)
    assert RunRecord(run.path).metrics == whole
    edit(run, status="finished", history=summary["history"] | {"digested_bytes": 0}, metrics={})
    assert RunRecord(run.path).metrics == whole


def test_goals_hold_for_rows_that_a_reader_digests(track):
    run = track("a", rows=[{"score_of_mine": 1.0}, {"score_of_mine": 5.0}], status=None,
                goals={"score_of_mine": "minimize"})  # fmt: skip
    record = RunRecord(run.path)
    assert (record.status, record.goal("score_of_mine")) == ("running", "minimize")
    assert record.value("best_score_of_mine") == 1.0
    run.end_run()


def test_a_record_stays_as_read_until_it_is_refreshed(track):
    run = track("a", rows=[{"loss": 1.0}], status=None)
    record = RunRecord(run.path)
    assert (record.status, record.metrics["loss"]["count"]) == ("running", 1)
    run.log_metrics({"loss": 0.5})
    run.log_params({"lr": 1})
    run.end_run("FAILED")
    assert (record.status, record.metrics["loss"]["count"]) == ("running", 1)
    assert record.refresh() is record
    assert (record.status, record.metrics["loss"]["count"]) == ("failed", 2)
    assert record.params == {"lr": 1}


def test_a_run_that_ends_while_it_is_looked_at_never_reads_as_crashed(track, edit):
    run = track("a", rows=[{"loss": 1.0}], status=None)
    record = RunRecord(run.path)
    run.end_run()
    os.unlink(run.path / "heartbeat.json")  # as if the process were gone
    edit(run)
    assert record.status == "finished"


def test_a_value_is_the_number_that_its_column_names(track):
    rows = [{"val/loss": 3.0, "val/acc": 0.1}, {"val/loss": 1.0, "val/acc": 0.4}, {"val/loss": 2.0}]
    record = RunRecord(track("a", rows=rows).path)
    assert record.value("val/loss") == record.value("final_val/loss") == 2.0
    assert record.value("best_val/loss") == record.value("val/loss:min") == 1.0
    assert (record.value("mean_val/loss"), record.value("val/loss:count")) == (2.0, 3)
    assert record.value("acc") == 0.4
    with pytest.raises(MetricNotFoundError, match="val/acc"):
        record.value("val/ac")


def test_the_best_of_a_metric_without_goal_says_what_to_do(track):
    record = RunRecord(track("a", rows=[{"momentum": 0.9}]).path)
    assert record.value("momentum:max") == 0.9
    with pytest.raises(InvalidValueError, match=r"'momentum:min'.*define_metric"):
        record.value("best_momentum")


def test_the_best_of_a_metric_that_was_only_nan_is_missing(track):
    record = RunRecord(track("a", rows=[{"loss": math.nan}]).path)
    assert record.value("best_loss") is None
    assert math.isnan(record.value("loss"))


def test_history_has_a_row_for_each_logged_row_and_a_column_for_each_metric(track):
    before = time.time()
    frame = RunRecord(
        track("a", rows=[{"loss": 1.0}, {"loss": math.nan, "β": 2}, {"time": -math.inf}]).path
    ).history()
    assert list(frame) == ["step", "time", "loss", "β", "metric:time"]
    assert frame["step"].tolist() == [0, 1, 2]
    assert frame["time"].between(before, time.time()).all()
    np.testing.assert_array_equal(frame["loss"], [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(frame["β"], [np.nan, 2.0, np.nan])
    np.testing.assert_array_equal(frame["metric:time"], [np.nan, np.nan, -np.inf])


def test_history_of_chosen_metrics_leaves_out_rows_without_them(track, capsys):
    record = RunRecord(track("a", rows=[{"val/loss": 1.0}, {"lr": 0.1}, {"val/loss": 3.0}]).path)
    assert record.history("val/loss").columns.tolist() == ["step", "time", "val/loss"]
    assert record.history(["loss"])["loss"].tolist() == [1.0, 3.0]
    assert "val/loss" in capsys.readouterr().err
    with pytest.raises(MetricNotFoundError, match="val/loss"):
        record.history(["val/los"])


def test_history_of_a_run_without_rows_is_empty(track):
    assert RunRecord(track("a").path).history().columns.tolist() == ["step", "time"]


def test_history_shows_what_a_later_attempt_superseded_only_when_asked(track, tracker):
    run = track("a", rows=[{"loss": 1.0}, {"loss": 2.0}, {"loss": 3.0}], status="FAILED")
    with tracker(resume=run.id).start_run() as again:
        again.log_metrics({"loss": 9.0}, step=1)
    record = RunRecord(run.path)
    merged = record.history()
    assert (merged["step"].tolist(), merged["loss"].tolist()) == ([0, 1], [1.0, 9.0])
    every = record.history(attempts="all")
    assert every["attempt"].tolist() == [1, 1, 1, 2]
    assert every["loss"].tolist() == [1.0, 2.0, 3.0, 9.0]
    assert record.metrics["loss"]["count"] == 2


@pytest.fixture
def joined(track, tmp_path):
    """A run of two processes, the second of which logged steps 0 and 2."""
    run = track("a", rows=[{"loss": 1.0}, {"loss": 2.0}])
    rows = [{"step": 0, "time": 1.0, "rank": "1", "loss": 3.0},
            {"step": 2, "time": time.time() + 60, "rank": "1", "loss": "NaN"}]  # fmt: skip
    lines = ",\n".join(map(json.dumps, rows))
    (run.path / "metrics_history.1.json").write_text(f"[\n{lines}\n]\n")
    return RunRecord(run.path)


def test_rows_of_further_processes_show_only_when_asked(joined):
    assert joined.history()["loss"].tolist() == [1.0, 2.0]
    every = joined.history(ranks="all")
    assert every["rank"].tolist() == ["1", "0", "0", "1"]
    np.testing.assert_array_equal(every["loss"], [3.0, 1.0, 2.0, np.nan])


def test_the_mean_over_processes_has_one_row_for_each_step(joined):
    mean = joined.history(ranks="mean")
    assert list(mean) == ["step", "time", "loss"]
    assert mean["step"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(mean["loss"], [2.0, 2.0, np.nan])


def test_a_metric_of_further_processes_alone_is_said_to_be_theirs(joined):
    path = joined.path / "metrics_history.1.json"
    path.write_text(path.read_text().replace("loss", "w"))
    for wanted in ("w", iter(["w"])):
        with pytest.raises(MetricNotFoundError, match=r"Only further processes.*ranks='all'"):
            joined.history(wanted)
    with pytest.raises(MetricNotFoundError, match="No run here"):
        joined.history("x")
    assert joined.history("w", ranks="all")["w"].dropna().tolist() == [3.0]


@pytest.mark.parametrize("argument", [{"ranks": 3}, {"attempts": "last"}])
def test_a_word_that_history_does_not_know_names_those_it_does(track, argument):
    record = RunRecord(track("a").path)
    with pytest.raises(InvalidValueError, match="all"):
        record.history(**argument)


def test_artifacts_and_models_are_listed_and_loaded(track):
    run = track("a", status=None)
    run.log_text("hello", "note")
    run.log_model({"w": np.arange(3.0)}, "nets/best")
    run.end_run()
    record = RunRecord(run.path)
    assert record.artifacts[0]["path"] == "artifacts/note.txt"
    np.testing.assert_array_equal(record.load_model("nets/best")["w"], np.arange(3.0))
    with pytest.raises(NotFoundError, match="nets/best"):
        record.load_model("nets/worst")
    with pytest.raises(NotFoundError, match="There are none yet"):
        RunRecord(track("b").path).load_model()


def test_an_earlier_save_of_a_model_is_loaded_by_its_step(track):
    run = track("a", status=None)
    for step in range(4):
        run.log_model({"w": np.full(3, step)}, step=step, keep=3)
    run.end_run()
    record = RunRecord(run.path)
    assert record.load_model()["w"].tolist() == [3, 3, 3]
    assert record.load_model(step=1)["w"].tolist() == [1, 1, 1]
    assert [save["step"] for save in record.saved_model().saves] == [3, 2, 1]
    with pytest.raises(NotFoundError, match=r"no save of step 0 is kept, only of 3, 2, 1\."):
        record.load_model(step=0)


def test_the_arguments_of_a_load_reach_the_model(track):
    run = track("a", status=None)
    folder = run.log_model({"w": np.zeros(3)})
    run.end_run()
    weights = folder / "weights-000001.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    record = RunRecord(run.path)
    with pytest.raises(DamagedError, match="SHA-256"):
        record.load_model()
    assert record.load_model(verify=False)["w"][0] == 0
    with pytest.raises(InvalidValueError, match="into="):
        record.load_model(into={"other": np.zeros(3)}, verify=False)
    weights.write_bytes(whole)


@pytest.mark.parametrize("place", ["models", "models/net", "models/net/inner"])
def test_a_model_behind_a_link_is_refused(track, tmp_path, place):
    run = track("a", status=None)
    run.log_model({"w": np.zeros(3)}, "net/inner")
    run.end_run()
    (run.path / place).rename(tmp_path / "outside")
    (run.path / place).symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedError, match="leads out of the run"):
        RunRecord(run.path).load_model("net/inner")
    (run.path / place).unlink()
    (tmp_path / "outside").rename(run.path / place)


@pytest.mark.parametrize("name", ["../../b/models/model", "../..", "..", "."])
def test_a_foreign_list_of_artifacts_leads_out_of_no_run(track, name):
    other = track("b", status=None)
    other.log_model({"w": np.zeros(3)})
    other.end_run()
    run = track("a")
    listed = {"artifacts": [{"path": "x", "kind": "model", "name": name}]}
    (run.path / "artifacts.json").write_text(json.dumps(listed))
    with pytest.raises(DamagedError, match="leads out of the run"):
        RunRecord(run.path).load_model(name)
    (run.path / "artifacts.json").unlink()


def test_a_missing_optional_document_reads_as_empty(track, tmp_path):
    run = track("a", params={"lr": 1})
    (tmp_path / "damaged").touch()
    for name in ("params.json", "artifacts.json"):
        (run.path / name).unlink(missing_ok=True)
    record = RunRecord(run.path)
    assert (record.params, record.artifacts, record.environment) == ({}, [], {})


def test_a_damaged_summary_is_refused(track, damage):
    run = track("a")
    damage(run, "{")
    with pytest.raises(DamagedError, match=r"summary\.json"):
        RunRecord(run.path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tags": ["a"]}, {"metrics": "none"}, {"metrics": {"loss": 3}}, {"history": 3},
        {"goals": []}, {"attempts": {}}, {"created_at": 17}, {"status": 1},
    ],
)  # fmt: skip
def test_a_summary_of_wrong_kinds_is_refused(track, edit, wrong):
    run = track("a")
    edit(run, **wrong)
    with pytest.raises(DamagedError, match="'a'"):
        RunRecord(run.path)


@pytest.mark.parametrize("format_", [2, 99, "1", -1, True])
def test_a_format_that_this_version_does_not_know_is_refused(track, edit, format_):
    run = track("a")
    edit(run, format=format_)
    with pytest.raises(FormatError, match=r"this version reads 1 to 1\. Upgrade"):
        RunRecord(run.path)


def test_a_summary_without_a_format_is_read_as_the_oldest(track, damage):
    run = track("a", rows=[{"loss": 1.0}])
    damage(run, '{"status": "finished"}')
    record = RunRecord(run.path)
    assert (record.status, record.id, record.tags) == ("finished", "", {})
    assert record.metrics["loss"]["last"] == 1.0


def test_a_run_that_is_not_there_is_no_record(root):
    with pytest.raises(FileNotFoundError):
        RunRecord(root / "digits" / "none")


def test_the_model_of_a_step_is_found(track):
    run = track("a", status=None)
    for step, loss in enumerate([3.0, 1.0, 2.0]):
        run.log_metrics({"val/loss": loss}, step=step)
        run.log_model({"w": np.full(3, step)}, f"at-{step}", step=step)
    run.log_model({"w": np.zeros(3)}, "stepless")
    run.end_run()
    record = RunRecord(run.path)
    entry = record.model_at(record.number("val/loss", "best_step"))
    assert (entry["kind"], entry["name"], entry["step"]) == ("model", "at-1", 1)
    assert record.load_model(entry["name"])["w"].tolist() == [1, 1, 1]
    assert record.model_at(7) is None
    assert record.model_at(None) is None
