import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiment_tracking.folder import io, liveness
from experiment_tracking.folder.liveness import (
    Heartbeat,
    Writer,
    is_alive_here,
    process_start,
    read_heartbeat,
    silence_s,
    status_of,
)

RUNNING = {"status": "running"}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "heartbeat.json")


@pytest.fixture
def child():
    """A process of its own that waits for the end of its input."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.stdin.close()
    process.wait()


def forge(path, age_s=0.0, **fields):
    """Write a heartbeat of this process with some fields changed."""
    values = Writer.this_process()._asdict() | {"time": time.time() - age_s} | fields
    Path(path).write_text(json.dumps(values))


def elsewhere(path, age_s):
    forge(path, age_s, host="elsewhere", boot_id="another")


# ---------------------------------------------------------------- heartbeats


def test_this_process_is_alive(path):
    Heartbeat(path).beat()
    assert is_alive_here(path) is True
    assert status_of(RUNNING, path) == ("running", "")
    writer, at = read_heartbeat(path)
    assert writer == Writer.this_process()
    assert writer.pid == os.getpid()
    assert abs(time.time() - at) < 60


def test_a_heartbeat_is_one_line_of_fixed_length_overwritten_in_place(path):
    heartbeat = Heartbeat(path)
    heartbeat.beat()
    number = os.stat(path).st_ino
    for now in (0, 1.5, 1763640000.123456, None):
        heartbeat.beat(now)
        data = Path(path).read_bytes()
        assert (len(data), data.count(b"\n"), data[-1:]) == (512, 1, b"\n")
        assert json.loads(data)["time"] == pytest.approx(
            time.time() if now is None else now, abs=60
        )
    assert os.stat(path).st_ino == number
    assert os.listdir(os.path.dirname(path)) == ["heartbeat.json"]


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 500, "\udcff raw", 'quo"te\n'])
def test_whatever_the_scheduler_says_the_heartbeat_can_be_read(path, monkeypatch, text):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", text)
    monkeypatch.setenv("SLURM_JOB_ID", text)
    monkeypatch.setenv("SLURM_RESTART_COUNT", text)
    Heartbeat(path).beat()
    assert os.path.getsize(path) == 512
    assert read_heartbeat(path)[0] == Writer.this_process()
    assert is_alive_here(path) is True


def test_the_disk_s_refusal_comes_out_and_the_next_beat_heals_it(path, monkeypatch):
    heartbeat = Heartbeat(path)
    with monkeypatch.context() as patch:
        patch.setattr(io, "pwrite", lambda fd, data, offset: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            heartbeat.beat()
    assert read_heartbeat(path) is None
    heartbeat.beat()
    assert is_alive_here(path) is True


def test_links_and_pipes_are_not_written_through(path, tmp_path):
    os.symlink(tmp_path / "target", path)
    with pytest.raises(OSError, match="heartbeat"):
        Heartbeat(path).beat()
    assert not (tmp_path / "target").exists()
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(OSError, match="heartbeat"):
        Heartbeat(path).beat()
    assert read_heartbeat(path) is None


_FIELDS = Writer.this_process()._asdict() | {"time": 1.0}


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 512, b"{}", b"[]", b"null", b"\xff", b"[" * 60_000, b"x" * 100_000]
    + [json.dumps({k: v for k, v in _FIELDS.items() if k != key}).encode() for key in _FIELDS]
    + [
        json.dumps(_FIELDS | wrong).encode()
        for wrong in (
            {"pid": "x"}, {"pid": [1]}, {"pid": None}, {"time": "nan"}, {"time": None},
            {"pid_start": {}}, {"pid_namespace": "../.."},
        )
    ],
)  # fmt: skip
def test_a_torn_or_foreign_heartbeat_says_nobody_is_alive(path, content):
    Path(path).write_bytes(content)
    assert read_heartbeat(path) is None
    assert is_alive_here(path) is None
    assert status_of(RUNNING, path) == ("crashed", "")


def test_cut_at_any_byte_a_heartbeat_is_read_whole_or_not_at_all(path):
    Heartbeat(path).beat()
    data = Path(path).read_bytes()
    whole = read_heartbeat(path)
    for cut in range(len(data)):
        Path(path).write_bytes(data[:cut])
        assert read_heartbeat(path) in (None, whole)


def test_a_missing_heartbeat_means_crashed(path):
    assert read_heartbeat(path) is None
    assert silence_s(path) == float("inf")
    assert status_of(RUNNING, path) == ("crashed", "")


# ---------------------------------------------------------------- processes


def test_a_killed_process_is_dead_before_and_after_it_is_waited_for(path, child):
    forge(path, pid=child.pid, pid_start=process_start(child.pid))
    assert is_alive_here(path) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(child.pid) is None, "a zombie counts as alive"
    assert status_of(RUNNING, path) == ("crashed", "")
    child.wait()
    assert is_alive_here(path) is False
    assert status_of(RUNNING, path) == ("crashed", "")


def test_a_stopped_process_is_alive_however_long_it_is_silent(path, child):
    forge(path, 3 * 3600, pid=child.pid, pid_start=process_start(child.pid))
    os.kill(child.pid, signal.SIGSTOP)
    assert status_of(RUNNING, path) == ("running", "")
    os.kill(child.pid, signal.SIGCONT)


def test_another_process_of_the_same_number_is_not_the_writer(path):
    forge(path, pid_start=process_start(os.getpid()) - 1)
    assert is_alive_here(path) is False
    assert status_of(RUNNING, path) == ("crashed", "")


def test_a_writer_whose_start_is_unknown_goes_by_its_number(path, child):
    forge(path, pid=child.pid, pid_start=0)
    assert is_alive_here(path) is True
    child.kill()
    child.wait()
    assert is_alive_here(path) is False


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**31, 2**62, 10**30])
def test_a_number_that_no_process_bears_is_dead(path, pid):
    forge(path, pid=pid, pid_start=7)
    assert is_alive_here(path) is False


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal 0")
def test_a_process_hidden_from_us_is_judged_by_its_age(path, monkeypatch):
    def not_ours(pid, number):
        raise PermissionError

    forge(path, pid=1, pid_start=1)
    monkeypatch.setattr(liveness, "process_start", lambda pid: None)
    monkeypatch.setattr(os, "kill", not_ours)
    assert is_alive_here(path) is None
    assert status_of(RUNNING, path) == ("running", "")


def test_without_a_proc_file_system_psutil_tells_the_start(path, child, monkeypatch):
    import psutil

    real = open

    def no_proc(path, *args, **options):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return real(path, *args, **options)

    started = int(psutil.Process(child.pid).create_time() * 1000)
    monkeypatch.setattr("builtins.open", no_proc)
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    monkeypatch.setattr(psutil, "Process", _process_of(child.pid, started))
    assert process_start(child.pid) == started
    assert process_start(2**22 + 1) is None


def _process_of(known, started):
    """Stand for psutil.Process, which itself needs /proc on Linux."""
    import psutil

    class Process:
        def __init__(self, pid):
            if pid != known:
                raise psutil.NoSuchProcess(pid)

        def status(self):
            return psutil.STATUS_SLEEPING

        def create_time(self):
            return started / 1000

    return Process


# ---------------------------------------------------------------- other machines


def test_after_a_reboot_the_writer_is_dead(path):
    forge(path, boot_id="an earlier one")
    assert is_alive_here(path) is False
    assert status_of(RUNNING, path) == ("crashed", "")


@pytest.mark.parametrize(
    "fields",
    [{"pid_namespace": 1}, {"host": "elsewhere"}, {"host": "elsewhere", "boot_id": "another"}],
)
def test_processes_of_another_host_or_namespace_are_judged_by_age(path, fields):
    forge(path, pid=2**22 + 1, **fields)
    assert is_alive_here(path) is None
    assert status_of(RUNNING, path) == ("running", "")


@pytest.mark.parametrize(
    ("minutes", "status"),
    [
        (-60, ("running", "")), (0, ("running", "")), (4.9, ("running", "")),
        (5.1, ("running", "silent for 5 min")), (29.9, ("running", "silent for 30 min")),
        (30.1, ("crashed", "")), (60 * 24 * 365, ("crashed", "")),
    ],
)  # fmt: skip
def test_elsewhere_five_minutes_are_silence_and_thirty_are_death(path, minutes, status):
    elsewhere(path, 60 * minutes)
    assert status_of(RUNNING, path) == status


def test_silence_is_counted_from_the_last_beat_and_never_negative(path):
    forge(path, time=1000.0)
    assert silence_s(path, now=1060.0) == 60
    assert silence_s(path, now=900.0) == 0


@pytest.mark.parametrize("said", ["finished", "failed", "killed"])
def test_what_the_writer_said_at_its_end_stands(path, said):
    assert status_of({"status": said}, path) == (said, "")
    Heartbeat(path).beat()
    assert status_of({"status": said}, path) == (said, "")


@pytest.mark.parametrize("said", [None, "", "RUNNING", [1], {}, 7])
def test_a_status_of_any_content_is_read_as_running_or_crashed(path, said):
    assert status_of({"status": said}, path) == ("crashed", "")
    Heartbeat(path).beat()
    assert status_of({"status": said}, path) == ("running", "")
    assert status_of({}, path) == ("running", "")


# ---------------------------------------------------------------- restarts by a scheduler


def writer(job="", count=0, elastic=""):
    here = Writer.this_process()
    return here._replace(
        slurm_job_id=job, slurm_restart_count=count, torchelastic_run_id=elastic
    )  # fmt: skip


@pytest.mark.parametrize(
    ("here", "there", "restarts"),
    [
        (writer("7", 1), writer("7", 0), True),
        (writer("7", 1), writer("7", 1), False),
        (writer("7", 0), writer("7", 1), False),
        (writer("7", 1), writer("8", 0), False),
        (writer(), writer(), False),
        (writer(elastic="a"), writer(elastic="a"), True),
        (writer(elastic="a"), writer(elastic="b"), False),
        (writer("7", 1, "a"), writer("8", 0, "a"), True),
        (writer("7", 1, "a"), writer("7", 1, "a"), True),
        (writer(elastic="none"), writer(elastic="none"), False),
    ],
)
def test_a_restart_is_known_by_the_scheduler_s_words(here, there, restarts):
    assert here.restarts(there) is restarts


def test_the_scheduler_s_words_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abc")
    here = Writer.this_process()
    assert (here.slurm_job_id, here.slurm_restart_count, here.torchelastic_run_id) == (
        "77",
        2,
        "abc",
    )
