"""One living process at a time is at a mirror, and none waits for a dead one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiment_tracking.backends import claim as module
from experiment_tracking.backends.claim import Claim
from experiment_tracking.errors import BackendBusyError
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import Writer

REPOSITORY = str(Path(__file__).parents[2])

TAKES = """
import sys
from experiment_tracking.backends.claim import Claim
from experiment_tracking.errors import BackendBusyError
from experiment_tracking.folder.layout import RunFolder

print("ready", flush=True)
sys.stdin.readline()
try:
    print(Claim.take(RunFolder(sys.argv[1]), "wandb").number, flush=True)
except BackendBusyError as error:
    print(error, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "p" / "r").mkdir(parents=True)
    return RunFolder(tmp_path / "p" / "r")


@pytest.fixture
def racers(folder):
    """Start processes that claim at a word."""
    started = []

    def start(count):
        for _ in range(count):
            command = [sys.executable, "-c", TAKES, folder.path]
            started.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONPATH": REPOSITORY},
                )
            )
        assert [process.stdout.readline() for process in started[-count:]] == ["ready\n"] * count
        return started[-count:]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def say(process):
    process.stdin.write("\n")
    process.stdin.flush()


def claims(folder):
    return sorted(name for name in os.listdir(folder.backends) if ".claim-" in name)


def leave(folder, number=1, age_s=0.0, **change):
    """Leave the claim of another process."""
    os.makedirs(folder.backends, exist_ok=True)
    beat = Writer.this_process()._asdict() | change | {"time": time.time() - age_s}
    Path(folder.backends, f"wandb.claim-{number:06d}").write_text(json.dumps(beat))


def test_a_mirror_is_claimed_once_and_each_mirror_by_itself(folder):
    first = Claim.take(folder, "wandb")
    with pytest.raises(BackendBusyError, match=f"process {os.getpid()} on .* copying it to wandb"):
        Claim.take(folder, "wandb")
    other = Claim.take(folder, "wandb-2")
    assert (first.number, other.number) == (1, 1)
    assert first.holds()
    first.release()
    other.release()


def test_who_lets_go_is_followed_by_the_next_number(folder):
    for number in range(1, 5):
        claim = Claim.take(folder, "wandb")
        assert claim.number == number
        claim.release()
    # The one before the last stays, for whoever listed before it was taken.
    assert claims(folder) == ["wandb.claim-000003", "wandb.claim-000004"]


def test_of_many_processes_at_once_one_succeeds(folder, racers):
    leave(folder, pid_start=1)  # a dead one's
    processes = racers(8)
    for process in processes:
        say(process)
    answers = [process.stdout.readline().strip() for process in processes]
    assert answers.count("2") == 1
    assert sum("copying it to wandb" in answer for answer in answers) == 7


def test_a_killed_process_is_followed_at_once(folder, racers):
    [process] = racers(1)
    say(process)
    assert process.stdout.readline() == "1\n"
    with pytest.raises(BackendBusyError, match=f"process {process.pid} "):
        Claim.take(folder, "wandb")
    process.send_signal(signal.SIGKILL)
    process.wait()
    claim = Claim.take(folder, "wandb")
    assert claim.number == 2
    claim.release()


@pytest.mark.parametrize(
    ("change", "age_s", "is_held"),
    [
        ({"host": "another"}, 0, True),
        ({"host": "another"}, 290, True),
        ({"host": "another"}, 310, False),
        ({"pid_namespace": 1}, 290, True),
        ({"pid_namespace": 1}, 310, False),
        ({"boot_id": "another"}, 0, False),
        ({}, 1e6, True),
        ({"pid_start": 1}, 0, False),
    ],
)
def test_on_another_machine_five_minutes_of_silence_decide_here_the_pid(
    change, age_s, is_held, folder
):
    leave(folder, age_s=age_s, **change)
    if is_held:
        with pytest.raises(BackendBusyError):
            Claim.take(folder, "wandb")
    else:
        claim = Claim.take(folder, "wandb")
        assert claim.number == 2
        claim.release()


def test_a_claim_that_cannot_be_read_holds_while_it_is_young(folder):
    leave(folder)
    path = Path(folder.backends, "wandb.claim-000001")
    path.write_text('{"host": ')
    with pytest.raises(BackendBusyError, match="another process is copying"):
        Claim.take(folder, "wandb")
    os.utime(path, (1e9, 1e9))
    claim = Claim.take(folder, "wandb")
    assert claim.number == 2
    claim.release()


def test_it_is_kept_alive_beside_whatever_its_process_waits_for(folder, monkeypatch):
    monkeypatch.setattr(module, "_BEAT_S", 0.01)
    claim = Claim.take(folder, "wandb")
    path = Path(folder.backends, "wandb.claim-000001")
    first = json.loads(path.read_text())["time"]
    while json.loads(path.read_text())["time"] == first:
        time.sleep(0.005)
    claim.release()
    released = path.read_text()
    time.sleep(0.05)
    assert path.read_text() == released == "{}\n"


def test_who_was_taken_for_dead_does_not_hold_any_more(folder):
    claim = Claim.take(folder, "wandb")
    leave(folder, number=2, host="another")
    assert not claim.holds()
    claim.release()


def test_a_number_that_was_tidied_away_meanwhile_is_not_enough(folder, monkeypatch):
    leave(folder, number=7, host="another")
    listed = os.listdir
    stale = iter([["wandb.claim-000003"]])
    monkeypatch.setattr(os, "listdir", lambda path: next(stale, None) or listed(path))
    with pytest.raises(BackendBusyError, match="on another"):
        Claim.take(folder, "wandb")


def test_a_run_that_is_gone_is_not_made_anew(folder):
    claim = Claim.take(folder, "wandb")
    shutil.rmtree(folder.path)
    assert not claim.holds()
    claim.release()
    with pytest.raises(FileNotFoundError):
        Claim.take(folder, "wandb")
    assert not os.path.exists(folder.path)


def test_the_same_number_in_a_folder_that_was_made_anew_is_not_ours(folder):
    claim = Claim.take(folder, "wandb")
    shutil.rmtree(folder.path)
    leave(folder, host="another")
    assert not claim.holds()
    claim.release()
    assert json.loads(Path(folder.backends, "wandb.claim-000001").read_text())["host"] == "another"
