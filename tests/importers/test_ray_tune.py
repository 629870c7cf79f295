import json
import shutil

import pytest

from experiment_tracking.importers import ray_tune
from experiment_tracking.importers.found import FoundRun, Options
from experiment_tracking.importers.imported import Importer
from experiment_tracking.registry.record import RunRecord

ERROR = """\
Failure # 1 (occurred at 2026-11-21_16-28-46)
  File "train.py", line 7, in objective
ValueError: boom
"""


def result(trial, number, lr):
    """A line of result.json, as Ray 2.60 wrote it."""
    return {
        "loss": lr / number, "nested": {"a": number, "b": {"c": float("nan")}}, "word": "x",
        "timestamp": 1_795_278_520 + 10 * number, "checkpoint_dir_name": None, "done": False,
        "training_iteration": number, "trial_id": trial, "date": "2026-11-21_16-28-45",
        "time_this_iter_s": 10.0, "time_total_s": 10.0 * number, "pid": 4047, "hostname": "node1",
        "node_ip": "192.0.2.2", "config": {"lr": lr}, "time_since_restore": 10.0 * number,
        "iterations_since_restore": number,
    }  # fmt: skip


def add_trial(experiment, number, lr, results):
    trial = f"9b5e6_0000{number}"
    folder = experiment / f"objective_{trial}_{number}_lr={lr}_2026-11-21_16-28-38"
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps({"lr": lr, "net": {"depth": 2}}))
    lines = [json.dumps(result(trial, i + 1, lr)) for i in range(results)]
    (folder / "result.json").write_text("\n".join([*lines, ""]))
    (folder / "params.pkl").write_bytes(b"pickle")
    return folder


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "ray_results" / "search"
    add_trial(folder, 0, 0.1, 3)
    failed = add_trial(folder, 1, 0.2, 2)
    (failed / "error.txt").write_text(ERROR)
    add_trial(folder, 2, 0.3, 1)
    states = {"9b5e6_00000": "TERMINATED", "9b5e6_00001": "ERROR", "9b5e6_00002": "RUNNING"}
    data = [[json.dumps({"trial_id": t, "status": s}), "{}"] for t, s in states.items()]
    (folder / "experiment_state-2026-11-21_16-28-38.json").write_text(
        json.dumps({"trial_data": data})
    )
    return folder


@pytest.fixture
def bring(root):
    def bring(path):
        found = ray_tune.runs(str(path), Options())
        importer = Importer(root)
        return [RunRecord(importer.take(run).path) for run in found]

    return bring


def test_each_trial_is_a_run_of_the_experiments_group(experiment, bring):
    assert ray_tune.recognizes(str(experiment))
    done, failed, stopped = bring(experiment)
    assert done.key == "search/9b5e6_00000"
    assert done.group == "search"
    assert [done.status, failed.status, stopped.status] == ["finished", "failed", "crashed"]
    assert done.params == {"lr": 0.1, "net": {"depth": 2}}
    assert failed.error == {"type": "ValueError", "message": "boom"}
    assert (done.created_at, done.duration_s) == ("2026-11-21T16:28:40.000Z", 30.0)
    assert done.attempts[0]["host"] == "node1"


def test_results_are_rows_with_nested_names_and_without_bookkeeping(experiment, bring):
    record = bring(experiment)[0]
    assert record.rows()[1] == {
        "step": 2, "time": 1_795_278_540.0, "loss": 0.05, "nested/a": 2, "nested/b/c": "NaN",
        "time_this_iter_s": 10.0, "time_total_s": 20.0,
    }  # fmt: skip
    assert record.summary["imported_from"]["not_carried"] == ["result 'word': it is no number"]
    assert [entry["path"] for entry in record.artifacts] == ["artifacts/params.pkl"]


def test_one_trial_can_be_imported_by_itself(experiment, bring):
    trial = next(experiment.glob("*00002*"))
    assert ray_tune.recognizes(str(trial))
    (record,) = bring(trial)
    assert record.name == "9b5e6_00002"


def test_a_trial_that_died_before_its_first_result_is_a_run_without_rows(experiment, bring):
    add_trial(experiment, 3, 0.4, 0)
    record = bring(experiment)[3]
    assert (record.rows(), record.params["lr"], record.status) == ([], 0.4, "crashed")


def test_without_result_json_the_table_is_read(experiment, bring):
    trial = next(experiment.glob("*00000*"))
    (trial / "result.json").unlink()
    (trial / "progress.csv").write_text("loss,timestamp,training_iteration\n0.5,1795278530,1\n")
    rows = bring(experiment)[0].rows()
    assert rows == [{"step": 1, "time": 1_795_278_530.0, "loss": 0.5}]


def test_one_damaged_trial_stops_no_other(experiment):
    first, second, _ = sorted(experiment.glob("objective*"))
    (first / "params.json").write_text("{")
    with (second / "result.json").open("a") as file:
        file.write('{"loss": 0.')
    (experiment / "experiment_state-2026-11-21_16-28-38.json").write_text("torn")
    damaged, torn, _ = ray_tune.runs(str(experiment), Options())
    assert isinstance(damaged, FoundRun)
    assert damaged.params == {"lr": 0.1}  # as the results repeat it
    assert isinstance(torn, FoundRun)
    assert len(list(torn.rows)) == 2
    assert "damaged lines of result.json" in torn.not_carried


def test_other_folders_are_not_recognized(experiment):
    assert not ray_tune.recognizes(str(experiment.parent))
    for trial in experiment.glob("objective*"):
        shutil.rmtree(trial)
    assert not ray_tune.recognizes(str(experiment))


def test_json_that_is_too_deep_costs_a_line_or_its_own_trial(experiment):
    first, second, _ = sorted(path for path in experiment.iterdir() if path.is_dir())
    deep = "[" * 100_000
    (first / "params.json").write_text(deep)
    with (second / "result.json").open("a") as file:
        file.write(deep)
    found = list(ray_tune.runs(str(experiment), Options()))
    assert [type(run) for run in found] == [FoundRun] * 3
    assert "params.json" in found[0].not_carried[0]
    assert len(list(found[1].rows)) == 2
    assert found[1].not_carried[-1] == "damaged lines of result.json"
