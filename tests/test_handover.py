"""A launcher gives its run to one process of the script that it starts."""

import pytest

from experiment_tracking import handover
from experiment_tracking.folder.layout import RunFolder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "p" / "r").mkdir(parents=True)
    return RunFolder(tmp_path / "p" / "r")


def offer(monkeypatch, folder, *terms):
    for name, value in handover.offer(folder, *terms).items():
        monkeypatch.setenv(name, value)


def test_without_an_offer_there_is_nothing_to_claim():
    assert handover.claim(1) is None


def test_an_offer_is_claimed_once(monkeypatch, folder):
    offer(monkeypatch, folder, 1, {"lr": 0.1})
    claimed = handover.claim(1)
    assert (claimed.folder.path, claimed.params) == (folder.path, {"lr": 0.1})
    assert handover.claim(1) is None


def test_only_the_run_of_that_number_is_given(monkeypatch, folder):
    offer(monkeypatch, folder, 3)
    assert [handover.claim(number) for number in (1, 2)] == [None, None]
    assert handover.claim(3).folder.path == folder.path


def test_withdrawing_tells_whether_it_was_still_there(monkeypatch, folder):
    offer(monkeypatch, folder)
    assert handover.withdraw(folder)
    assert not handover.withdraw(folder)
    assert handover.claim(1) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"run_number": "1"}'])
def test_a_damaged_offer_is_none(monkeypatch, folder, text):
    offer(monkeypatch, folder)
    with open(folder.handover, "w") as file:
        file.write(text)
    assert handover.claim(1) is None
