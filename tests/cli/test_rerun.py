"""``experiments rerun`` on the command line: what is said, and with which exit code."""

import json
import os
import signal
import sys

import pytest

from experiment_tracking.folder.check import check

SCRIPT = """
from experiment_tracking import ExperimentTracker
tracker = ExperimentTracker("digits", "base", use_tensorboard=False)
tracker.log_metrics({"loss": 0.5})
print("trained")
"""


@pytest.fixture
def root(tmp_path):
    yield tmp_path / "root"
    assert check(tmp_path / "root") == []


@pytest.fixture
def places(tmp_path):
    """The folder that temporary ones are made in."""
    folder = tmp_path / "places"
    folder.mkdir()
    return folder


@pytest.fixture
def rerun(terminal, places):
    def rerun(*words, **options):
        variables = {"TMPDIR": str(places)}
        return terminal.experiments(*words, variables=variables, **options)

    return rerun


@pytest.fixture
def base(terminal):
    terminal.write("train.py", SCRIPT)
    code, _, err = terminal.run(sys.executable, "train.py", "--lr", "0.1")
    assert code == 0, err
    return terminal.record("digits")


@pytest.mark.usefixtures("base")
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(terminal, rerun, places):
    code, out, err = rerun("rerun", "digits/base", "--dry-run")
    assert code == 0, err
    assert "run       digits/base\n" in out
    assert "train.py --lr 0.1\n" in out
    assert list(places.iterdir()) == []
    assert len(terminal.records("digits")) == 1


@pytest.mark.usefixtures("base")
def test_a_dry_run_as_json_has_the_command(rerun):
    code, out, err = rerun("--json", "rerun", "digits/base", "--dry-run")
    assert code == 0, err
    planned = json.loads(out)
    assert planned["command"][1:] == ["train.py", "--lr", "0.1"]
    assert (planned["wanted"], planned["warnings"]) == ([], [])


def test_json_alone_goes_to_stdout(terminal, rerun, base):
    code, out, err = rerun("--json", "rerun", "digits/base", "--verify")
    assert code == 0, err
    found = json.loads(out)
    assert found["holds"] is True
    assert found["path"] == str(base.path) + "-rerun"
    assert "trained" in err
    code, out, err = rerun("--json", "rerun", "digits/base")
    assert code == 0, err
    assert json.loads(out)["exit_code"] == 0


@pytest.mark.usefixtures("base")
def test_the_tree_is_kept_when_asked_for(rerun, places):
    code, _, err = rerun("rerun", "digits/base", "--keep-tree")
    assert code == 0, err
    (place,) = places.glob("experiments-rerun-*")
    assert f"the tree is in {place}" in err
    assert (place / "tree" / "train.py").read_text() == SCRIPT


@pytest.mark.usefixtures("base")
def test_without_verify_the_exit_code_is_the_scripts(terminal, rerun):
    terminal.write("fail.py", "raise SystemExit(7)\n")
    terminal.experiments("run", "--name", "a", "--", sys.executable, "fail.py")
    assert rerun("rerun", "fail/a")[0] == 7
    assert rerun("rerun", "fail/a", "--verify")[0] == 4  # nothing was there to compare


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--tolerance", "-1"), "must be a number from 0 up, found '-1'"),
        (("--tolerance", "nan"), "must be a number from 0 up, found 'nan'"),
        (("--tolerance", "small"), "must be a number from 0 up, found 'small'"),
        (("--secret", "abc"), "--secret takes NAME=VALUE"),
        (("--secret", "api-key="), "--secret takes NAME=VALUE"),
        (("--env", "old"), "'current', 'same'"),
    ],
)
@pytest.mark.usefixtures("base")
def test_wrong_options_are_told_before_anything_is_run(terminal, rerun, options, expected):
    code, _, err = rerun("rerun", "digits/base", "--verify", *options)
    assert code == 2
    assert expected in err
    assert len(terminal.records("digits")) == 1


@pytest.fixture
def waiting(terminal):
    """A script that waits to be interrupted."""
    terminal.write("wait.py", "import time\nprint('ready', flush=True)\ntime.sleep(100)\n")
    words = ("run", "--name", "a", "--", sys.executable, "wait.py")
    process = terminal.start(
        sys.executable, "-m", "experiment_tracking", *words, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def interrupt(process):
    # As Ctrl-C does: everybody in the terminal gets it.
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=60)


def test_a_running_run_is_not_verified(terminal, rerun, waiting):
    code, _, err = rerun("rerun", "wait/a", "--verify")
    assert (code, "still running" in err) == (2, True)
    code, out, _ = rerun("rerun", "wait/a", "--dry-run")
    assert (code, "still running" in out) == (0, True)
    assert len(terminal.records("wait")) == 1
    interrupt(waiting)


def test_ctrl_c_ends_the_rerun_and_takes_its_tree_away(terminal, waiting, places):
    interrupt(waiting)
    words = (sys.executable, "-m", "experiment_tracking", "rerun", "wait/a", "--verify")
    process = terminal.start(*words, start_new_session=True, variables={"TMPDIR": str(places)})
    assert process.stdout.readline() == "ready\n"
    out, err = interrupt(process)
    assert process.returncode == 130, out + err
    assert list(places.iterdir()) == []
    assert [record.status for record in terminal.records("wait")] == ["killed", "killed"]
