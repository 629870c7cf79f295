"""``experiments start``, ``log`` and ``finish``: a run that a shell script writes."""

import signal
import subprocess
import sys

import pytest

from experiment_tracking.folder.check import check


def test_the_lines_of_a_shell_script_write_a_run(terminal):
    code, _, err = terminal.shell(
        'eval "$(experiments start digits --name a --param lr=0.1 --tag demo)"\n'
        "for step in 1 2 3; do experiments log loss=0.$step --step $step; done\n"
        "experiments log --param batch=64 --tag gpu=a100\n"
        "experiments finish --exit-code 0\n"
    )
    assert code == 0, err
    record = terminal.record("digits")
    assert (record.name, record.status, record.summary["exit_code"]) == ("a", "finished", 0)
    assert record.params == {"lr": 0.1, "batch": 64}
    assert record.tags == {"demo": "", "gpu": "a100"}
    assert list(record.history("loss")["step"]) == [1, 2, 3]
    assert record.metrics["loss"]["last"] == 0.3
    assert check(terminal.root) == []


def test_steps_count_on_by_themselves(terminal):
    terminal.shell('eval "$(experiments start p)"; experiments log a=1; experiments log a=2')
    assert list(terminal.record("p").history("a")["step"]) == [0, 1]


def test_a_shell_that_dies_leaves_a_crashed_run_with_all_its_rows(terminal):
    process = terminal.start("sh", stdin=subprocess.PIPE)
    ours = f'experiments() {{ "{sys.executable}" -m experiment_tracking "$@"; }}\n'
    process.stdin.write(ours + 'eval "$(experiments start p)"\nexperiments log a=1\necho ready\n')
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"
    record = terminal.record("p")
    assert record.status == "running"
    assert record.attempts[0]["pid"] == process.pid
    process.send_signal(signal.SIGKILL)
    process.communicate()
    record = terminal.record("p")
    assert (record.status, record.metrics["a"]["last"]) == ("crashed", 1)


def test_commands_at_the_same_time_lose_no_row(terminal):
    code, _, err = terminal.shell(
        'eval "$(experiments start p)"\n'
        "for n in 1 2 3 4 5 6; do experiments log a=$n & done; wait\n"
        "experiments finish"
    )
    assert code == 0, err
    assert sorted(terminal.record("p").history("a")["a"]) == [1, 2, 3, 4, 5, 6]


def test_a_failing_exit_code_makes_a_failed_run(terminal):
    terminal.shell('eval "$(experiments start p)"; experiments finish --exit-code 3')
    assert terminal.record("p").status == "failed"


def test_without_a_run_the_error_says_how_to_start_one(terminal):
    code, _, err = terminal.shell("experiments log a=1")
    assert code == 3
    assert 'eval "$(experiments start PROJECT)"' in err


def test_after_its_end_nothing_can_be_logged(terminal):
    code, _, err = terminal.shell(
        'eval "$(experiments start p)"; experiments finish; experiments log a=1'
    )
    assert code == 1
    assert "has ended" in err


def test_a_metric_that_is_no_number_is_wrong_usage(terminal):
    code, _, err = terminal.shell('eval "$(experiments start p)"; experiments log a=high')
    assert code == 2, err
    assert "high" in err


JOB = """
eval "$(experiments start digits --name a --param lr=$1)"
experiments log loss=0.5
experiments finish --exit-code 0
"""


@pytest.fixture
def job(terminal):
    """A job script, and ``experiments`` on the PATH for it."""
    ours = terminal.write(
        "bin/experiments", f'#!/bin/sh\nexec "{sys.executable}" -m experiment_tracking "$@"\n'
    )
    ours.chmod(0o755)
    terminal.write("job.sh", JOB)
    return {"PATH": f"{ours.parent}:{terminal.environment()['PATH']}"}


def test_the_script_whose_lines_they_are_is_what_is_captured(terminal, job):
    code, _, err = terminal.run("sh", "job.sh", "0.1", variables=job)
    assert code == 0, err
    record = terminal.record("digits")
    assert record.environment["command"] == ["sh", "job.sh", "0.1"]
    assert (record.path / "code" / "job.sh").read_text() == JOB


def test_a_shell_script_that_is_launched_writes_into_that_run(terminal, job):
    words = ("run", "--project", "p", "--", "sh", "job.sh", "0.1")
    code, _, err = terminal.experiments(*words, variables=job)
    assert code == 0, err
    record = terminal.record("p")
    assert (record.status, record.params, record.metrics["loss"]["last"]) == (
        "finished", {"lr": 0.1}, 0.5,
    )  # fmt: skip
    assert not (terminal.root / "digits").exists()


def test_a_shell_script_is_run_again_and_verified(terminal, job):
    terminal.run("sh", "job.sh", "0.1", variables=job)
    terminal.write("job.sh", "exit 1")
    code, out, err = terminal.experiments("rerun", "digits/a", "--verify", variables=job)
    assert code == 0, out + err
