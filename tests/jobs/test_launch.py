"""``experiments run``: a command as a run."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

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


def test_data_on_the_command_line_becomes_an_input_and_what_is_written_does_not(terminal):
    terminal.write("data/train.csv", "1\n")
    terminal.write("data/test.csv", "2\n")
    terminal.write("out/old.txt", "x")
    terminal.write("helper.py", "")
    terminal.write("go.py", "open('out/new.txt', 'w').write('y')\n")
    words = ("data/train.csv", "--test=data/test.csv", "--out", "out", "helper.py", ".", "none")
    code, _, err = terminal.experiments("run", "--", "python", "go.py", *words)
    assert code == 0, err
    inputs = {entry["name"]: entry for entry in terminal.record("go").inputs}
    assert list(inputs) == ["data/train.csv", "data/test.csv"]
    assert inputs["data/test.csv"]["path"] == str(terminal.folder / "data" / "test.csv")
    assert inputs["data/test.csv"]["sha256"] == hashlib.sha256(b"2\n").hexdigest()


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


@pytest.mark.parametrize("number", [200, 255])
def test_an_exit_code_that_is_no_signals_makes_a_failed_run(terminal, number):
    words = ("run", "--project", "p", "--", "sh", "-c", f"exit {number}")
    code, _, _ = terminal.experiments(*words)
    assert (code, terminal.record("p").status) == (number, "failed")


def test_a_program_that_cannot_start_leaves_a_failed_run_and_a_reason(terminal):
    terminal.write("go", "no program").chmod(0o755)
    code, _, err = terminal.experiments("run", "--project", "p", "--", "./go")
    record = terminal.record("p")
    assert (code, record.status) == (126, "failed")
    assert "'./go'" in err
    assert not (record.path / "handover.json").exists()


def test_patterns_reach_into_folders(terminal):
    script = "mkdir -p a/b && touch a/one.txt a/b/two.txt"
    words = ("run", "--project", "p", "--collect", "**/*.txt", "--", "sh", "-c", script)
    terminal.experiments(*words)
    kept = {entry["path"] for entry in terminal.record("p").artifacts}
    assert kept == {"artifacts/a/one.txt", "artifacts/a/b/two.txt"}


@pytest.mark.parametrize(
    ("script", "project"), [("_train.py", "train"), ("2024 run.py", "2024 run")]
)
def test_a_script_whose_name_no_project_may_have_gets_a_near_one(terminal, script, project):
    terminal.write(script, "")
    code, _, err = terminal.experiments("run", "--", sys.executable, script)
    assert code == 0, err
    assert terminal.record(project).status == "finished"


def test_a_root_relative_to_the_folder_is_the_same_for_the_script(terminal, root):
    terminal.write("train.py", TRACKING + "import os; os.chdir('/'); tracker.log_metrics({'a': 1})")
    words = ("--root", "../root", "run", "--project", "p", "--", *TRAIN)
    code, _, err = terminal.experiments(*words, variables={"EXPERIMENT_TRACKING_ROOT": None})
    assert code == 0, err
    assert terminal.record("p").metrics["a"]["last"] == 1
    assert os.listdir(root) == ["p"]


def test_a_script_that_only_imports_the_tracker_is_tracked_as_any_other(terminal):
    terminal.write("train.py", "import experiment_tracking\nprint('done')\n")
    code, _, err = terminal.experiments("run", "--project", "p", "--", *TRAIN)
    record = terminal.record("p")
    assert (code, record.status, record.params) == (0, "finished", {"lr": 1}), err


def test_a_script_that_resumes_gets_the_run_of_its_launcher(terminal):
    resuming = TRACKING.replace('tags={"own": "1"}', 'resume="allow"')
    terminal.write("train.py", resuming)
    for _ in range(2):
        code, _, err = terminal.experiments("run", "--project", "digits", "--name", "baseline",
                                            "--", *TRAIN)  # fmt: skip
        assert code == 0, err
    ended = [(r.name, r.status, r.metrics["loss"]["count"]) for r in terminal.records("digits")]
    assert ended == [("baseline", "finished", 5), ("baseline-2", "finished", 5)]


CHILD = """
from experiment_tracking import ExperimentTracker
ExperimentTracker("kids", "kid", use_tensorboard=False).log_metrics({"a": 1})
"""


def test_a_child_of_the_script_gets_a_run_of_its_own(terminal):
    terminal.write("kid.py", CHILD)
    start = "import subprocess, sys\nsubprocess.run([sys.executable, 'kid.py'], check=True)\n"
    terminal.write("train.py", TRACKING + start)
    code, _, err = terminal.experiments("run", "--project", "p", "--", *TRAIN)
    assert code == 0, err
    assert terminal.record("p").metrics["loss"]["count"] == 5
    assert terminal.record("kids").metrics["a"]["count"] == 1


def test_of_ranks_that_start_at_once_the_first_gets_the_run(terminal):
    terminal.write("kid.py", CHILD)
    terminal.write(
        "train.py",
        "import os, subprocess, sys\n"
        "ranks = [{'RANK': str(n), 'WORLD_SIZE': '3'} for n in (2, 1, 0)]\n"
        "start = lambda rank: subprocess.Popen([sys.executable, 'kid.py'], env=os.environ | rank)\n"
        "sys.exit(max(process.wait() for process in [start(rank) for rank in ranks]))\n",
    )
    code, _, err = terminal.experiments("run", "--project", "p", "--", *TRAIN)
    assert code == 0, err
    assert terminal.record("p").metrics["a"]["count"] == 1
    assert os.listdir(terminal.root) == ["p"]


def test_a_script_outlives_a_launcher_that_is_killed(terminal):
    go = terminal.folder / "go"
    rest = (
        "import os, time\n"
        f"while not os.path.exists({str(go)!r}):\n"
        "    time.sleep(0.01)\n"
        "tracker.log_metrics({'late': 1})\n"
        f"tracker.finish(); os.unlink({str(go)!r})\n"
    )
    terminal.write(
        "train.py", TRACKING.replace('print("trained")', "print('on', flush=True)") + rest
    )
    words = (sys.executable, "-m", "experiment_tracking", "run", "--project", "p", "--")
    process = terminal.start(*words, *TRAIN)
    assert process.stdout.readline() == "on\n"
    process.kill()
    process.communicate()
    go.touch()
    while go.exists():
        time.sleep(0.01)
    record = terminal.record("p")
    assert (record.status, record.metrics["late"]["last"]) == ("finished", 1)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_on_a_terminal_the_command_sees_one(terminal):
    terminal.write("train.py", "import sys\nprint(sys.stdout.isatty(), sys.stderr.isatty())\n")
    ours, theirs = os.openpty()
    words = (sys.executable, "-m", "experiment_tracking", "run", "--project", "p", "--", *TRAIN)
    process = terminal.start(*words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert process.wait(60) == 0
    os.close(ours)
    assert (terminal.record("p").path / "console.log").read_text() == "True True\n"
