import json

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.folder.check import check


def keys(experiments):
    return {run["run"] for run in json.loads(experiments("ls", "--json")[1])}


def test_runs_move_to_another_project(experiments, root):
    code, out, err = experiments("mv", "lr-0.1", "digits/lr-0.01", "archive")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "digits/lr-0.1 is now archive/lr-0.1",
        "digits/lr-0.01 is now archive/lr-0.01",
    ]
    assert keys(experiments) == {
        "archive/lr-0.1", "archive/lr-0.01", "digits/lr-0.001", "waves/波-β",
    }  # fmt: skip
    assert check(root) == []


def test_a_run_gets_another_name(experiments, root):
    code, out, _ = experiments("rename", "lr-0.1", "wide net")
    assert (code, out) == (0, "digits/lr-0.1 is now digits/wide net\n")
    code, out, _ = experiments("rename", root / "digits" / "wide net", "again", "--json")
    assert json.loads(out) == [
        {
            "from": "digits/wide net",
            "run": "digits/again",
            "path": str(root / "digits" / "again"),
        }
    ]
    assert check(root) == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("rename", "lr-0.1", "lr-0.01"), 1, "there is a folder of that name"),
        (("rename", "lr-0.1", "a/b"), 1, "Write 'a-b'"),
        (("rename", "lr-0.5", "x"), 3, "There is no run 'lr-0.5'"),
        (("mv", "lr-0.1", "lr-0.5", "archive"), 3, "There is no run 'lr-0.5'"),
        (("mv", "lr-0.1"), 2, "PROJECT"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_moves(experiments, words, code, message):
    before = keys(experiments)
    found, out, err = experiments(*words)
    assert (found, out) == (code, "")
    assert message in err
    assert keys(experiments) == before


def test_a_running_run_moves_only_when_forced(experiments, root):
    run = ExperimentTracker("live", root=root, auto_log=False, use_tensorboard=False).start_run("r")
    code, _, err = experiments("mv", "live/r", "archive")
    assert code == 1
    assert "is being written (running)" in err
    assert experiments("mv", "live/r", "archive", "--force")[0] == 0
    run.end_run()


def test_a_run_too_damaged_to_be_read_is_found_by_project_and_name(experiments, root):
    path = root / "digits" / "lr-0.1"
    (path / "summary.json").write_text("{no json")
    (path / "heartbeat.json").unlink()
    assert experiments("mv", "digits/lr-0.1", "broken")[0] == 0
    assert (root / "broken" / "lr-0.1" / "params.json").is_file()


def test_a_run_of_any_folder_is_moved_by_its_path(root, terminal, tmp_path):
    code, out, _ = terminal.run(
        *("python", "-m", "experiment_tracking"), "rename", str(root / "waves" / "波-β"), "plain",
        variables={"EXPERIMENT_TRACKING_ROOT": str(tmp_path / "nowhere")},
    )  # fmt: skip
    assert (code, out) == (0, "waves/波-β is now waves/plain\n")
