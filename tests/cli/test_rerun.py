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
def test_a_dry_run_finds_what_the_rerun_would_meet(terminal, rerun, base):
    code, out, err = rerun("rerun", "digits/base", "--dry-run")
    assert f"packages  those of {sys.executable}\n" in out, err
    assert "note      The run was made outside git" in out
    assert rerun("rerun", "digits/base", "--dry-run", "--link", "nosuch")[0] == 2
    (base.path / "code" / "train.py").unlink()
    code, _, err = rerun("rerun", "digits/base", "--dry-run")
    assert (code, "train.py" in err) == (1, True)


def test_a_dry_run_tells_of_data_and_programs_that_are_gone(terminal, rerun, places):
    data = terminal.write("data.csv", "1\n")
    terminal.write("go.py", "")
    program = terminal.write("tool/interpreter", "#!/bin/sh\n")
    program.chmod(0o755)
    terminal.experiments("run", "--project", "p", "--name", "a", "--", program, "go.py", data)
    data.unlink()
    code, out, err = rerun("rerun", "p/a", "--dry-run")
    assert f"note      Input '{data}' is not at {data} any more.\n" in out, err
    assert code == 0
    program.unlink()
    code, _, err = rerun("rerun", "p/a", "--dry-run")
    assert (code, "There is no program" in err) == (3, True)
    assert list(places.iterdir()) == []


@pytest.mark.usefixtures("base")
def test_at_the_end_the_new_run_is_named_with_what_to_do_next(rerun):
    code, _, err = rerun("rerun", "digits/base")
    assert code == 0, err
    last = err.rstrip().split("\n")[-1]
    assert last.startswith("experiments: digits/base-rerun finished, ")
    assert last.endswith("s; experiments diff digits/base digits/base-rerun")


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("command", ["run", "rerun"])
def test_the_description_in_the_help_fits_into_a_terminal(terminal, command):
    _, out, _ = terminal.experiments(command, "--help", variables={"COLUMNS": "80"})
    assert max(map(len, out.splitlines())) <= 80


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("base")
def test_a_signal_while_the_tree_is_made_takes_it_away(terminal, places, base, number):
    git = terminal.write("bin/git", "#!/bin/sh\nexec sleep 100\n")
    git.chmod(0o755)
    environment = json.loads((base.path / "environment.json").read_text())
    environment["git"] = {"commit": "0" * 40, "top": str(terminal.folder)}
    (base.path / "environment.json").write_text(json.dumps(environment))
    variables = {"TMPDIR": str(places), "PATH": f"{git.parent}:{os.environ['PATH']}"}
    words = (sys.executable, "-m", "experiment_tracking", "rerun", "digits/base")
    process = terminal.start(*words, variables=variables)
    while not list(places.glob("experiments-rerun-*/tree")):
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, out + err
    assert list(places.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_rerun_ends_its_command_and_takes_its_tree_away(
    terminal, waiting, places, number
):
    interrupt(waiting)
    words = (sys.executable, "-m", "experiment_tracking", "rerun", "wait/a")
    process = terminal.start(*words, variables={"TMPDIR": str(places)})
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, out + err
    assert list(places.iterdir()) == []


def test_ctrl_c_ends_the_rerun_and_takes_its_tree_away(terminal, waiting, places):
    interrupt(waiting)
    words = (sys.executable, "-m", "experiment_tracking", "rerun", "wait/a", "--verify")
    process = terminal.start(*words, start_new_session=True, variables={"TMPDIR": str(places)})
    assert process.stdout.readline() == "ready\n"
    out, err = interrupt(process)
    assert process.returncode == 130, out + err
    assert list(places.iterdir()) == []
    assert [record.status for record in terminal.records("wait")] == ["killed", "killed"]
