"""kill -9 at random instants: what had returned is there, and every folder opens."""

import contextlib
import hashlib
import math
import mmap
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from experiment_tracking import ExperimentTracker, writing
from experiment_tracking.folder.check import check
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.folder.layout import RunFolder, iter_runs
from experiment_tracking.registry.record import RunRecord

KILLS = int(os.environ.get("RELIABILITY_KILLS", "300"))


def test_three_hundred_kills_lose_nothing_that_had_returned(alone, tmp_path):
    ended = alone(kill_many, str(tmp_path / "root"), KILLS, random.randrange(10**6), limit_s=KILLS)
    assert ended.returncode == 0, ended.stderr
    found = ended.result
    assert found["failures"] == []
    assert found["runs"] >= 0.8 * KILLS
    assert found["calls"] > 10 * KILLS
    print(found)


def kill_many(root, count, seed):
    """Fork, kill and look, ``count`` times; forking a template is quicker than starting Python."""
    source = Path(root).parent / "source.bin"
    source.write_bytes(os.urandom(20_000))
    writing._SUMMARY_EVERY_S = writing._DURABLE_EVERY_S = 0.01
    _warm_up(root + "-warm")
    totals = Counter()
    failures = []
    for number in range(count):
        returned = mmap.mmap(-1, 8)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                _log_until_killed(root, str(source), seed + number, returned)
            os._exit(1)  # Only a kill ends it.
        if number % 5:  # the others may die while they open their run
            _wait_for_a_call(pid, returned)
        time.sleep(random.Random(seed + number).uniform(0, 0.06))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        done = int.from_bytes(returned[:], "little")
        try:
            assert os.WTERMSIG(status) == signal.SIGKILL, "the loop failed by itself"
            totals.update(_look(root, str(source), seed + number, done))
            if number % 10 == 0:
                totals.update(_resume(f"{root}/kill/run{seed + number}"))
        except Exception as problem:
            failures.append(f"seed {seed + number}, {done} calls: {problem!r}")
    return {"failures": failures, **totals}


def _wait_for_a_call(pid, returned):
    while not any(returned[:]) and not os.waitid(
        os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ):
        time.sleep(0.001)


def _warm_up(root):
    """Import in the template what every child would otherwise import again."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    import experiment_tracking.backends.tensorboard
    import experiment_tracking.capture.code
    import experiment_tracking.capture.environment
    import experiment_tracking.capture.git

    experiment_tracking.backends.tensorboard._tensorboardx()


def _log_until_killed(root, source, seed, returned):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    chance = random.Random(seed)
    tracker = ExperimentTracker(
        "kill", root=root, use_tensorboard=chance.random() < 0.3, auto_log=chance.random() < 0.2
    )
    run = tracker.start_run(f"run{seed}")
    done = 0
    while True:
        _call(run, source, seed, done)
        done += 1
        returned[:] = done.to_bytes(8, "little")


def _call(run, source, seed, number):
    match number % 40:
        case 5:
            run.log_params({f"p{number}": {"number": number}})
        case 11:
            run.log_param("same", number)
        case 17:
            run.set_tags({f"t{number}": str(number)})
        case 23:
            run.log_artifact(source, name=f"copies/copy{number}.bin")
        case 31:
            run.log_text(_text(number), f"text{number}")
        case _:
            run.log_metrics(_values(seed, number), step=number)


def _text(number):
    return f"text of {number}\n" * 50


def _values(seed, number):
    width = (1, 4, 1000)[seed % 3]
    values = {f"m{index}": number + index / 7 for index in range(width)}
    return values | {"m0": math.nan} if number % 13 == 0 else values


def _look(root, source, seed, done):
    folder = RunFolder(f"{root}/kill/run{seed}")
    if not os.path.exists(folder.summary):  # written last of what opening writes
        assert done == 0
        return {"killed while opening": 1}
    assert [found.path for found in iter_runs(root, "kill") if found.name == f"run{seed}"]
    record = RunRecord(folder.path)
    assert record.status == "crashed"
    rows = HistoryReader(folder.history()).rows()
    _expect_rows(rows, seed, done)
    _expect_documents(record, source, done)
    digest = Digest(list, goals=record.summary["goals"])
    digest.update(rows)
    assert record.stored_metrics == digest.to_dict()
    kinds = {problem.kind for problem in check(folder.path)}
    assert kinds <= {"torn", "leftover"}, check(folder.path)
    return {
        "runs": 1, "calls": done, "rows": len(rows), "torn": "torn" in kinds,
        "leftover": "leftover" in kinds, "digested": record.summary["history"]["rows"] > 0,
    }  # fmt: skip


def _resume(path):
    """Go on with a killed run in a further process, which mends what the kill left."""
    if not os.path.exists(path + "/summary.json"):
        return {}
    before = HistoryReader(path + "/metrics_history.json").rows()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        root = os.path.dirname(os.path.dirname(path))
        run = ExperimentTracker("kill", root=root, resume=path, use_tensorboard=False).start_run()
        run.log_metrics({"again": 1})
        run.end_run()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    record = RunRecord(path)
    after = HistoryReader(path + "/metrics_history.json").rows()
    assert record.status == "finished"
    assert after[:-1] == before
    assert after[-1]["attempt"] == 2
    assert {problem.kind for problem in check(path)} <= {"leftover"}, check(path)
    return {"resumed": 1}


def _expect_rows(rows, seed, done):
    """All rows whose call had returned, in order, and at most the one that was on its way."""
    logged = [n for n in range(done + 1) if n % 40 not in (5, 11, 17, 23, 31)]
    steps = [row["step"] for row in rows]
    assert steps in (logged, [n for n in logged if n < done])
    for row in rows:
        values = {name: value for name, value in row.items() if name not in ("step", "time")}
        expected = _values(seed, row["step"])
        if expected["m0"] != expected["m0"]:
            expected["m0"] = "NaN"
        assert values == expected


def _expect_documents(record, source, done):
    listed = {entry["path"]: entry for entry in record.artifacts}
    copied = Path(source).read_bytes()
    for number in range(done):
        match number % 40:
            case 5:
                assert record.params[f"p{number}"] == {"number": number}
            case 11:
                assert record.params["same"] >= number
            case 17:
                assert record.tags[f"t{number}"] == str(number)
            case 23:
                _expect_file(record, listed[f"artifacts/copies/copy{number}.bin"], copied)
            case 31:
                _expect_file(record, listed[f"artifacts/text{number}.txt"], _text(number).encode())


def _expect_file(record, entry, data):
    assert (record.path / entry["path"]).read_bytes() == data
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
