import os
import sys

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
