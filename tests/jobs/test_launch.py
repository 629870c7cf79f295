"""``experiments run``: a command as a run."""

import json
import os
import signal
import subprocess
import sys

import pytest

TRACKING = """
import argparse
from experiment_tracking import ExperimentTracker
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
args = parser.parse_args()
tracker = ExperimentTracker("digits", "baseline", tags={"own": "1"}, use_tensorboard=False)
tracker.log_params({"learning_rate": args.lr})
for step in range(5):
    tracker.log_metrics({"loss": args.lr / (step + 1)}, step=step)
print("trained")
"""


TRAIN = ("python", "train.py", "--lr", "1")


def test_a_script_that_knows_nothing_of_us_is_tracked(terminal):
    terminal.write("helper.py", "FACTOR = 2\n")
    terminal.write("train.py", "import helper, sys\nprint('loss', 0.5 * helper.FACTOR)\n")
    code, out, err = terminal.experiments("run", "--", "python", "train.py", "--lr", "0.1", "--amp")
    assert (code, out) == (0, "loss 1.0\n"), err
    record = terminal.record("train")
    assert (record.status, record.summary["exit_code"]) == ("finished", 0)
    assert record.params == {"lr": 0.1, "amp": True}
    assert (record.path / "console.log").read_text() == "loss 1.0\n"
    assert (record.path / "code" / "train.py").exists()
    assert (record.path / "code" / "helper.py").exists()
    assert record.environment["command"] == ["python", "train.py", "--lr", "0.1", "--amp"]
    assert record.environment["entry_script"]["relative_name"] == "train.py"
    assert "orjson" in record.environment["packages"]


@pytest.mark.parametrize("number", [1, 3, 77])
def test_the_exit_code_is_passed_on_and_kept(terminal, number):
    code, _, err = terminal.experiments("run", "--project", "p", "--", "sh", "-c", f"exit {number}")
    record = terminal.record("p")
    assert (code, record.summary["exit_code"], record.status) == (number, number, "failed"), err
    assert record.error == {"type": "ExitCode", "message": f"the command ended with {number}"}


def test_a_command_that_is_killed_reads_as_killed(terminal):
    code, _, _ = terminal.experiments("run", "--project", "p", "--", "sh", "-c", "kill -9 $$")
    assert (code, terminal.record("p").status) == (137, "killed")


def test_a_script_that_uses_the_tracker_writes_into_that_run(terminal):
    terminal.write("train.py", TRACKING)
    words = ("run", "--project", "p", "--name", "a", "--tag", "by=me", "--param", "note=x", "--")
    code, out, err = terminal.experiments(*words, sys.executable, "train.py", "--lr", "0.5")
    assert (code, out) == (0, "trained\n"), err
    record = terminal.record("p")
    assert (record.name, record.status, len(record.attempts)) == ("a", "finished", 1)
    assert record.params == {"note": "x", "learning_rate": 0.5}
    assert record.tags == {"by": "me", "own": "1"}
    assert list(record.history("loss")["loss"]) == [0.5 / (step + 1) for step in range(5)]
    assert record.summary["exit_code"] == 0
    assert "trained" in (record.path / "console.log").read_text()
    assert not (terminal.root / "digits").exists()
    assert "resumed by another" not in err


def test_a_script_that_finishes_its_run_and_fails_later_has_failed(terminal):
    terminal.write("train.py", TRACKING + "tracker.finish()\nraise SystemExit(3)\n")
    code, _, err = terminal.experiments("run", "--project", "p", "--", *TRAIN)
    record = terminal.record("p")
    assert (code, record.status, record.summary["exit_code"]) == (3, "failed", 3), err


def test_a_tracking_script_that_dies_is_ended_by_its_launcher(terminal):
    terminal.write("train.py", TRACKING + "import os\nos.kill(os.getpid(), 9)\n")
    code, _, _ = terminal.experiments("run", "--project", "p", "--", *TRAIN)
    record = terminal.record("p")
    assert (code, record.status, record.error["message"]) == (137, "killed", "SIGKILL")
    assert record.metrics["loss"]["count"] == 5


def test_only_the_first_run_that_a_script_opens_is_the_launched_one(terminal):
    terminal.write("train.py", TRACKING + "tracker.finish()\ntracker.start_run('b').end_run()\n")
    code, _, err = terminal.experiments("run", "--project", "p", "--", *TRAIN)
    assert code == 0, err
    assert terminal.record("p").metrics["loss"]["count"] == 5
    assert terminal.record("digits").name == "b"


def test_files_that_match_and_were_written_meanwhile_are_kept(terminal):
    terminal.write("old.csv", "a\n1\n")
    os.utime(terminal.folder / "old.csv", (1, 1))
    script = "mkdir -p plots && printf x > plots/loss.png && printf 'a\\n2\\n' > new.csv"
    words = ("run", "--project", "p", "--collect", "*.csv", "--collect", "plots/*.png", "--")
    code, _, err = terminal.experiments(*words, "sh", "-c", script)
    record = terminal.record("p")
    assert code == 0, err
    kept = {entry["path"]: entry["size_bytes"] for entry in record.artifacts}
    assert kept == {"artifacts/new.csv": 4, "figures/plots/loss.png": 1}
    assert (record.path / "figures" / "plots" / "loss.png").read_text() == "x"


def test_a_program_that_is_not_there_opens_no_run(terminal):
    code, _, err = terminal.experiments("run", "--", "no-such-program", "x")
    assert code == 3
    assert "no-such-program" in err
    assert not terminal.root.exists()


def test_no_command_is_wrong_usage(terminal):
    code, _, err = terminal.experiments("run")
    assert code == 2
    assert "experiments run -- python train.py" in err


def test_a_run_reads_as_running_while_its_command_runs(terminal):
    terminal.write("wait.py", "import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    words = (sys.executable, "-m", "experiment_tracking", "run", "--", sys.executable, "wait.py")
    process = terminal.start(*words, stdin=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "ready\n"
        assert terminal.record("wait").status == "running"
    finally:
        process.communicate("", timeout=60)
    assert terminal.record("wait").status == "finished"


def test_terminating_the_launcher_terminates_the_command(terminal):
    terminal.write("wait.py", "import time\nprint('ready', flush=True)\ntime.sleep(100)\n")
    words = (sys.executable, "-m", "experiment_tracking", "run", "--", sys.executable, "wait.py")
    process = terminal.start(*words)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    record = terminal.record("wait")
    assert (process.returncode, record.status) == (143, "killed")


def test_the_launcher_prints_json_when_asked(terminal):
    code, out, _ = terminal.experiments("--json", "run", "--project", "p", "--", "true")
    assert code == 0
    assert json.loads(out) == {"path": str(terminal.record("p").path), "exit_code": 0}
