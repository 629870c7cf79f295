"""The disk refuses, the folder goes, somebody takes the run: training goes on."""

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.errors import WriteError
from experiment_tracking.folder import history
from experiment_tracking.folder.check import check
from experiment_tracking.folder.liveness import read_heartbeat
from experiment_tracking.registry.record import RunRecord

NOBODY = 65534


def _open(root, **options):
    return ExperimentTracker("p", root=root, auto_log=False, **options).start_run("r")


def _log(run, steps):
    for step in steps:
        run.log_metrics({"x": step, "text": step / 7}, step=step)


def _steps(run):
    return [row["step"] for row in RunRecord(run.path).rows()]


def _try_again(run):
    """What the run's thread does every second, without the waiting."""
    run._writer.history._retry_at = 0.0
    run._writer._keep_durable()


# ---------------------------------------------------------------- disk full


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    point = tmp_path / "disk"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(point)]
    try:
        mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system takes root; the test with a limit runs instead")
    yield point
    subprocess.run(["umount", "--lazy", str(point)], check=True)


@contextlib.contextmanager
def _full(disk):
    """Fill the disk to its last byte for a while."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


def test_rows_logged_on_a_full_disk_arrive_in_order_when_there_is_space(small_disk, capfd):
    run = _open(small_disk)
    _log(run, range(100))
    with _full(small_disk):
        _log(run, range(100, 2000))
        assert run._writer.history.held
        assert _steps(run) == list(range(len(_steps(run))))
    _log(run, range(2000, 2100))
    _try_again(run)
    assert not run._writer.history.held
    _log(run, range(2100, 2200))
    run.end_run()
    assert _steps(run) == list(range(2200))
    record = RunRecord(run.path)
    assert record.metrics["x"]["count"] == 2200
    assert "lost" not in record.summary
    said = capfd.readouterr().err
    assert said.count("cannot write") == 1
    assert said.count(": writing to ") == 1
    assert check(small_disk) == []


def test_rows_are_written_by_the_next_call_once_the_disk_takes_them(small_disk):
    run = _open(small_disk, use_tensorboard=False)
    _log(run, range(10))
    with _full(small_disk):
        _log(run, range(10, 1000))
        assert run._writer.history.held
    run._writer.history._retry_at = 0.0
    _log(run, [1000])
    assert _steps(run) == list(range(1001))
    run.end_run()
    assert check(small_disk) == []


def test_params_and_tags_set_on_a_full_disk_are_written_when_there_is_space(small_disk, capfd):
    run = _open(small_disk)
    run.log_params({"a": "1" * 5000})
    run.set_tags({"a": "1" * 5000})
    run._writer._keep_durable()
    with _full(small_disk):
        run.log_params({"b": "2" * 9000})
        run.set_tags({"b": "2" * 9000})
        _try_again(run)
        record = RunRecord(run.path)
        assert record.params == {"a": "1" * 5000}
        assert ": writing to " not in capfd.readouterr().err
    _try_again(run)
    record = RunRecord(run.path)
    assert record.params == {"a": "1" * 5000, "b": "2" * 9000}
    assert record.tags == {"a": "1" * 5000, "b": "2" * 9000}
    assert capfd.readouterr().err.count(": writing to ") == 1
    run.end_run()
    assert check(small_disk) == []


def test_a_file_that_the_disk_refuses_is_counted_and_half_of_it_is_not_kept(small_disk, capfd):
    run = _open(small_disk)
    with _full(small_disk):
        run.log_text("x" * 100_000, "note")
        run.log_table([{"a": 1}] * 10_000, "table")
        _log(run, range(1000))
    _try_again(run)
    run.log_text("small", "later")
    run.end_run()
    record = RunRecord(run.path)
    assert record.summary["lost"] == {"files": 2}
    assert [entry["path"] for entry in record.artifacts] == ["artifacts/later.txt"]
    assert os.listdir(run.path / "artifacts") == ["later.txt"]
    assert _steps(run) == list(range(1000))
    assert check(small_disk) == []


def test_rows_that_never_fit_are_counted_in_the_summary(small_disk, monkeypatch, capfd):
    monkeypatch.setattr(history, "_MAX_HELD_BYTES", 2000)
    run = _open(small_disk, use_tensorboard=False)
    _log(run, range(10))
    with _full(small_disk):
        _log(run, range(10, 1000))
    _log(run, [1000])
    run.end_run()
    record = RunRecord(run.path)
    steps = _steps(run)
    assert record.summary["lost"] == {"rows": 1001 - len(steps)}
    assert 10 < len(steps) < 1001
    assert steps == sorted(set(steps))
    assert steps[-1] == 1000
    assert "rows could not be written and are lost" in capfd.readouterr().err
    assert check(small_disk) == []


def test_a_run_that_ends_on_a_full_disk_raises_nothing_and_can_be_resumed(small_disk, capfd):
    run = _open(small_disk, use_tensorboard=False)
    _log(run, range(10))
    with _full(small_disk):
        _log(run, range(10, 1000))
        run.end_run()
    kept = _steps(run)
    assert kept == list(range(len(kept)))
    assert "could not be written" in capfd.readouterr().err
    tracker = ExperimentTracker(
        "p", root=small_disk, auto_log=False, resume=str(run.path), use_tensorboard=False
    )
    again = tracker.start_run()
    _log(again, [5000])
    again.end_run()
    assert _steps(run) == [*kept, 5000]
    assert RunRecord(run.path).status == "finished"
    assert {problem.kind for problem in check(small_disk)} <= {"leftover"}


def test_a_full_disk_raises_where_that_was_asked_for(small_disk):
    run = _open(small_disk, use_tensorboard=False, on_error="raise")
    _log(run, range(10))
    with _full(small_disk):
        with pytest.raises(WriteError, match="cannot write rows"):
            _log(run, range(10, 1000))
        with pytest.raises(WriteError, match="cannot write documents"):
            run.log_params({"a": "1" * 9000})
        with pytest.raises(WriteError, match="cannot write"):
            run.log_text("x" * 100_000, "note")
    after = _steps(run)
    _log(run, [5000])
    run.end_run()
    assert _steps(run) == [*after, 5000]
    assert check(small_disk) == []


def test_rows_beyond_the_limit_of_a_file_arrive_once_it_is_lifted(alone, tmp_path):
    ended = alone(reach_the_limit, str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert ended.result == [True, list(range(3000))]
    assert sum("cannot write" in line for line in ended.notices) == 1
    assert sum(": writing to " in line for line in ended.notices) == 1
    assert check(tmp_path) == []


def reach_the_limit(root):
    run = _open(root, use_tensorboard=False)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, most))
    _log(run, range(2000))
    held = bool(run._writer.history.held)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    _try_again(run)
    _log(run, range(2000, 3000))
    run.end_run()
    return [held, _steps(run)]


# ---------------------------------------------------------------- read-only, deleted, truncated


def test_a_read_only_folder_stops_nothing_and_is_caught_up_with_later(alone):
    # Outside tmp_path, where somebody who is not root cannot come.
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o777)
        ended = alone(work_read_only, str(root))
        assert ended.returncode == 0, ended.stderr
        assert ended.result == {"tags while read-only": {}, "steps": list(range(200))}
        record = RunRecord(root / "p" / "r")
        assert record.tags == {"a": "b"}
        assert record.summary["lost"] == {"files": 1}
        assert sum("cannot write" in line for line in ended.notices) <= 2, ended.notices
        assert sum(": writing to " in line for line in ended.notices) == 1
        assert check(root) == []
    finally:
        shutil.rmtree(root)


def work_read_only(root):
    run = _open(root, use_tensorboard=False)
    run.log_text("text", "first")
    _log(run, range(50))
    if os.geteuid() == 0:
        _become_nobody(run.path)
    run.path.chmod(0o555)
    (run.path / "artifacts").chmod(0o555)
    _log(run, range(50, 100))
    run.set_tags({"a": "b"})
    run.log_text("text", "note")
    run._writer._beat()
    _try_again(run)
    seen = RunRecord(run.path).tags
    run.path.chmod(0o755)
    (run.path / "artifacts").chmod(0o755)
    _try_again(run)
    _log(run, range(100, 200))
    run.end_run()
    with contextlib.suppress(PermissionError):  # where it was nobody from the start
        os.seteuid(0)
    return {"tags while read-only": seen, "steps": _steps(run)}


def _become_nobody(folder):
    """Nothing is read-only to root."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)


def _delete(folder):
    # The run's thread may write into it meanwhile.
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def test_a_run_whose_folder_is_deleted_is_written_again(tmp_path, capfd):
    run = _open(tmp_path)
    run.log_params({"lr": 0.1})
    _log(run, range(100))
    run.log_text("gone", "note")
    _delete(run.path)
    _log(run, range(100, 150))
    run.set_tags({"a": "b"})
    run._writer._beat()
    assert _steps(run) == list(range(150))
    _log(run, range(150, 200))
    run.log_text("kept", "later")
    run.end_run()
    record = RunRecord(run.path)
    assert _steps(run) == list(range(200))
    assert (record.params, record.tags, record.status) == ({"lr": 0.1}, {"a": "b"}, "finished")
    assert record.summary["lost"] == {"files": 1}
    assert os.listdir(run.path / "tensorboard")
    assert "its folder was deleted" in capfd.readouterr().err
    assert check(tmp_path) == []


def test_a_folder_deleted_right_before_the_end_is_written_again_too(tmp_path, capfd):
    run = _open(tmp_path)
    _log(run, range(100))
    _delete(tmp_path / "p")
    run.end_run()
    assert os.listdir(run.path / "tensorboard")
    assert "incomplete" not in capfd.readouterr().err
    assert _steps(run) == list(range(100))
    assert RunRecord(run.path).status == "finished"
    assert check(tmp_path) == []


def test_a_history_cut_by_somebody_else_stops_nothing(tmp_path, capfd):
    run = _open(tmp_path)
    _log(run, range(100))
    os.truncate(run.path / "metrics_history.json", 0)
    _log(run, range(100, 200))
    run.end_run()
    assert _steps(run) == list(range(100, 200))
    assert {problem.kind for problem in check(tmp_path)} <= {"damaged", "changed"}


def test_a_child_that_cannot_make_its_file_of_rows_goes_on_and_says_what_it_lost(alone, tmp_path):
    ended = alone(log_without_a_folder, str(tmp_path))
    assert ended.result == 0, ended.stderr
    assert sum("cannot make its file of rows" in line for line in ended.notices) == 1
    assert sum("lost 3 rows" in line for line in ended.notices) == 1
    record = RunRecord(tmp_path / "p" / "r")
    assert [row["child"] for row in record.rows(ranks="all") if "child" in row] == [3, 4]
    assert check(tmp_path) == []


def log_without_a_folder(root):
    run = _open(root)
    _log(run, range(10))
    pid = os.fork()
    if pid == 0:
        away = run.path.rename(run.path.with_name("away"))
        for number in range(3):
            run.log_metrics({"child": number})
        away.rename(run.path)
        for number in range(3, 5):
            run.log_metrics({"child": number})
        run.end_run()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    run.end_run()
    return code


# ---------------------------------------------------------------- taken over


def test_a_run_taken_over_by_another_process_notices_and_leaves_it_alone(alone, tmp_path):
    ended = alone(lose_the_run, str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert ended.result["owner"] == ended.result["beats"]
    assert sum("was resumed by another process" in line for line in ended.notices) == 1
    record = RunRecord(tmp_path / "p" / "r")
    assert [(row["step"], row.get("attempt")) for row in record.rows("all")] == [
        *((step, None) for step in range(10)),
        *((step, 2) for step in range(100, 110)),
    ]
    assert record.tags == {"by": "the second"}
    assert [entry["name"] for entry in record.artifacts] == ["second"]
    assert record.status == "finished"
    assert check(tmp_path) == []


def lose_the_run(root):
    first = _open(root)
    _log(first, range(10))
    told, tell = os.pipe()
    end, finish = os.pipe()
    pid = os.fork()
    if pid == 0:
        tracker = ExperimentTracker("p", "r", root=root, auto_log=False, resume="force")
        second = tracker.start_run("r")
        second.set_tags({"by": "the second"})
        _log(second, range(100, 110))
        second.log_text("text", "second")
        os.write(tell, b"x")
        os.read(end, 1)
        second.end_run()
        os._exit(0)
    os.close(tell)
    os.read(told, 1)
    _log(first, range(10, 20))
    first._writer._beat()
    first.log_text("text", "first")
    first.set_tags({"by": "the first"})
    first.end_run("FAILED")
    beat = read_heartbeat(str(first.path / "heartbeat.json"))
    status = RunRecord(first.path).status
    os.write(finish, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    assert status == "running"
    return {"owner": pid, "beats": beat[0].pid}
