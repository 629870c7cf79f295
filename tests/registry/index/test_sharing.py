import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiment_tracking.registry.index import sharing
from experiment_tracking.registry.index.sharing import Helper, processors, share_out


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setattr(sharing, "processors", lambda: 3)


def test_the_first_share_is_larger_by_what_is_done_until_a_process_starts(three):
    assert share_out(range(100), 10) == [range(40), range(40, 70), range(70, 100)]
    assert share_out(range(40), 10) == [range(25), range(25, 40)]


def test_no_run_is_lost_between_shares(three):
    for count in range(300):
        shares = share_out(range(count), 7)
        assert [place for share in shares for place in share] == list(range(count))


def test_a_few_runs_are_not_shared(three):
    assert share_out(range(39), 10) == [range(39)]
    assert share_out([], 10) == [[]]


@pytest.mark.parametrize("executable", ["/usr/bin/blender", "", None])
def test_an_application_that_holds_a_python_has_no_help(three, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    assert share_out(range(100), 10) == [range(100)]


def test_one_processor_has_no_help(monkeypatch):
    monkeypatch.setattr(sharing, "processors", lambda: 1)
    assert share_out(range(100_000), 10) == [range(100_000)]
    monkeypatch.undo()
    assert processors() >= 1


def test_a_helper_does_what_it_is_told(tmp_path):
    with Helper("looks", f"{tmp_path}/", "", "", "a\udcff") as helper:
        assert helper.answer() == b"0"


def test_a_helper_is_not_left_behind():
    with pytest.raises(KeyboardInterrupt), Helper("looks", "", "", "", *["x"] * 50_000) as helper:
        pid = helper._process.pid
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_helper_that_cannot_start_or_fails_has_no_answer(monkeypatch, tmp_path):
    with Helper("looks") as helper:  # which wants arguments
        assert helper.answer() == b""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python-none"))
    with Helper("looks", "", "", "") as helper:
        assert helper.answer() == b""


def test_a_path_that_is_no_text_among_those_of_modules_does_no_harm(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [Path("/none"), *sys.path, "/é\udcff"])
    with Helper("looks", f"{tmp_path}/", "", "", "a") as helper:
        assert helper.answer() == b"0"


def test_a_fork_that_holds_the_pipe_open_does_not_hold_up_the_helper(monkeypatch, tmp_path):
    forks = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            # As another thread might between the opening of the pipe and its closing.
            holding = self.stdin.fileno()
            forks.append(real(["sleep", "60"], pass_fds=[holding]))

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", Popen)
    try:
        with Helper("looks", f"{tmp_path}/", "", "", "a") as helper:
            assert helper.answer() == b"0"
            assert forks[0].poll() is None
    finally:
        forks[0].kill()
        forks[0].wait()


def test_a_helper_is_not_left_behind_when_its_start_is_interrupted(monkeypatch, tmp_path, until):
    deaf = tmp_path / "python-deaf"
    deaf.write_text("#!/bin/sh\nexec sleep 60\n")
    deaf.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(deaf))
    helper = Helper("looks", *["x" * 1000] * 5000)  # more than the pipe takes

    def interrupt():
        until(lambda: helper._process is not None)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), helper:
        pass
    thread.join()
    assert helper._process.returncode == -signal.SIGKILL
