"""Signals inside any call: Ctrl-C and go on, and handlers that log, tag and finish."""

import json
import mmap
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.errors import RunEndedError
from experiment_tracking.folder.check import check
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.registry.record import RunRecord

TIMES = int(os.environ.get("RELIABILITY_INTERRUPTS", "300"))
TERMINATIONS = int(os.environ.get("RELIABILITY_TERMINATIONS", "100"))


class Pest:
    """A process that sends this one a signal at a random instant after each :meth:`soon`.

    It waits busily: waking up and sleeping take 50 µs, which is more than a call of ours.
    """

    def __init__(self, number, within_s):
        self._asked = mmap.mmap(-1, 1)
        parent = os.getpid()
        if os.fork():
            return
        try:
            while self._asked[0] != 2 and os.getppid() == parent:
                if self._asked[0] == 1:
                    end = time.perf_counter() + random.uniform(0, within_s)
                    while time.perf_counter() < end:
                        pass
                    self._asked[0] = 0
                    os.kill(parent, number)
        finally:
            os._exit(0)

    def soon(self):
        self._asked[0] = 1

    def stop(self):
        self._asked[0] = 2
        os.wait()


def _interrupted_in(error):
    """Names of the functions that an exception came through, the loop's own left out."""
    names = []
    traceback = error.__traceback__.tb_next
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    return names


# ---------------------------------------------------------------- Ctrl-C in log_metrics


def test_three_hundred_interrupts_inside_log_metrics_lose_and_double_no_row(alone, tmp_path):
    ended = alone(interrupt_rows, str(tmp_path), TIMES, limit_s=280)
    assert ended.returncode == 0, ended.stderr
    assert ended.result["inside"] == TIMES
    _expect_each_returned_row_once(tmp_path / "p" / "r", ended.result)
    assert check(tmp_path) == []
    print({key: value for key, value in ended.result.items() if key not in ("returned", "torn")})


def interrupt_rows(root, times):
    pest = Pest(signal.SIGINT, 3e-4)
    run = ExperimentTracker("p", root=root, auto_log=False).start_run("r")
    chance = random.Random(0)
    returned, interrupted, places = [], [], Counter()
    number = 0
    while sum(places.values()) < times:
        row = {f"metric {index}": index / 3 for index in range(chance.choice((1, 10, 100, 1000)))}
        try:
            pest.soon()
            while True:
                row["number"] = number
                run.log_metrics(row, step=number)
                returned.append(number)
                number += 1
        except KeyboardInterrupt as error:
            names = _interrupted_in(error)
            if "log_metrics" in names:
                places[names[-1]] += 1
        if not returned or returned[-1] != number:
            interrupted.append(number)
        for _ in range(3):
            number += 1
            run.log_metrics({"number": number}, step=number)
            returned.append(number)
        number += 1
    pest.stop()
    run.end_run()
    inside = sum(places.values())
    return {"returned": returned, "torn": interrupted, "inside": inside, "places": places}


def _expect_each_returned_row_once(path, found):
    rows = json.loads((path / "metrics_history.json").read_text())
    assert rows == HistoryReader(str(path / "metrics_history.json")).rows()
    steps = [row["step"] for row in rows]
    returned, torn = set(found["returned"]), set(found["torn"])
    assert not returned & torn
    assert len(steps) == len(set(steps))
    assert returned <= set(steps) <= returned | torn
    assert steps == sorted(steps)
    for row in rows:
        assert row["number"] == row["step"]
        others = {name: value for name, value in row.items() if name.startswith("metric")}
        assert others == {f"metric {index}": index / 3 for index in range(len(others))}
    record = RunRecord(path)
    assert record.status == "finished"
    assert record.metrics["number"]["count"] == len(rows)


# ---------------------------------------------------------------- Ctrl-C in other calls


@pytest.mark.parametrize("call", ["log_params", "set_tags", "log_artifact", "log_text"])
def test_interrupts_inside_other_calls_leave_whole_documents(alone, tmp_path, call):
    ended = alone(interrupt_calls, str(tmp_path), call, TIMES // 3, limit_s=280)
    assert ended.returncode == 0, ended.stderr
    assert ended.result["inside"] == TIMES // 3
    record = RunRecord(tmp_path / "p" / "r")
    kept = {
        "log_params": lambda: record.params,
        "set_tags": lambda: record.tags,
        "log_artifact": lambda: {Path(e["path"]).name for e in record.artifacts},
        "log_text": lambda: {Path(e["path"]).stem for e in record.artifacts},
    }[call]()
    assert {f"n{number}" for number in ended.result["returned"]} <= set(kept)
    assert len(record.rows()) == ended.result["rows"]
    assert {problem.kind for problem in check(tmp_path)} <= {"leftover"}
    assert ended.notices == []


def interrupt_calls(root, call, times):
    pest = Pest(signal.SIGINT, 2e-3)
    source = Path(root) / "source.txt"
    source.write_text("contents\n" * 1000)
    run = ExperimentTracker("p", root=root, auto_log=False).start_run("r")
    calls = {
        "log_params": lambda n: run.log_params({f"n{n}": n}),
        "set_tags": lambda n: run.set_tags({f"n{n}": "x"}),
        "log_artifact": lambda n: run.log_artifact(source, name=f"n{n}"),
        "log_text": lambda n: run.log_text("text", f"n{n}"),
    }
    returned, inside, rows, number = [], 0, 0, 0
    kept = []  # as a notebook keeps them: no lock may live in what they hold
    while inside < times:
        try:
            pest.soon()
            while True:
                number += 1
                calls[call](number)
                returned.append(number)
        except KeyboardInterrupt as error:
            inside += call in _interrupted_in(error)
            kept.append(error)
        number += 1
        calls[call](number)
        returned.append(number)
        run.log_metrics({"x": 1})
        rows += 1
    pest.stop()
    for document in run._writer._documents():
        other = threading.Thread(target=document.snapshot, daemon=True)
        other.start()
        other.join(10)
        assert not other.is_alive()
    run.end_run()
    return {"returned": returned, "rows": rows, "inside": inside}


def test_an_interrupted_end_run_can_be_repeated(alone, tmp_path):
    ended = alone(interrupt_endings, str(tmp_path), TIMES // 3, limit_s=280)
    assert ended.returncode == 0, ended.stderr
    assert ended.result["inside"] > TIMES // 30
    assert ended.notices == []
    assert {problem.kind for problem in check(tmp_path)} <= {"leftover"}
    for path in (tmp_path / "p").iterdir():
        record = RunRecord(path)
        assert record.status == "finished"
        assert record.metrics["x"]["count"] == 300
        assert record.metrics["x"]["mean"] == 149.5


def interrupt_endings(root, times):
    pest = Pest(signal.SIGINT, 0.005)
    tracker = ExperimentTracker("p", root=root, auto_log=False)
    inside = 0
    for number in range(times):
        run = tracker.start_run(f"r{number}")
        for step in range(300):
            run.log_metrics({"x": step}, step=step)
        try:
            pest.soon()
            run.end_run()
            time.sleep(0.1)
        except KeyboardInterrupt as error:
            inside += "end_run" in _interrupted_in(error)
        if run.status == "running":
            run.end_run()
    pest.stop()
    return {"inside": inside}


# ---------------------------------------------------------------- handlers that log


def test_a_handler_that_logs_inside_log_metrics_costs_no_row(alone, tmp_path):
    ended = alone(log_in_handler, str(tmp_path), 10 * TIMES, limit_s=280)
    assert ended.returncode == 0, ended.stderr
    rows = HistoryReader(str(tmp_path / "p" / "r" / "metrics_history.json")).rows()
    assert Counter("main" in row for row in rows) == Counter(
        {True: ended.result["main"], False: ended.result["handler"]}
    )
    assert len({row.get("main", -row.get("handler", 0)) for row in rows}) == len(rows)
    assert check(tmp_path) == []


def log_in_handler(root, times):
    run = ExperimentTracker("p", root=root, auto_log=False, use_tensorboard=False).start_run("r")
    handled = 0

    def log(number, frame):
        nonlocal handled
        handled += 1
        run.log_metrics({"handler": handled} | {f"h{n}": n for n in range(handled % 30)})

    signal.signal(signal.SIGUSR1, log)
    pest = Pest(signal.SIGUSR1, 1e-4)
    main = 0
    while handled < times:
        before = handled
        pest.soon()
        while handled == before:
            main += 1
            run.log_metrics({"main": main} | {f"m{n}": n for n in range(main % 30)})
    pest.stop()
    run.end_run()
    return {"main": main, "handler": handled}


@pytest.mark.parametrize("way_out", ["return", "SystemExit", "_exit"])
def test_a_sigterm_handler_that_logs_and_finishes_never_deadlocks(alone, tmp_path, way_out):
    times = TERMINATIONS // 3 + 1
    ended = alone(terminate_many, str(tmp_path), way_out, times, limit_s=280)
    assert ended.returncode == 0, ended.stderr
    assert ended.result["failures"] == []
    assert ended.notices == []
    assert {problem.kind for problem in check(tmp_path)} <= {"leftover"}, check(tmp_path)


def terminate_many(root, way_out, times):
    failures = []
    for number in range(times):
        returned = mmap.mmap(-1, 8)
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            _train_until_terminated(root, f"r{number}", way_out, returned)
            os._exit(99)
        while not any(returned[:]):
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.03))
        os.kill(pid, signal.SIGTERM)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        done = int.from_bytes(returned[:], "little")
        record = RunRecord(f"{root}/p/r{number}")
        steps = [row["step"] for row in record.rows() if "loss" in row]
        found = (
            code,
            record.status,
            record.tags.get("by"),
            steps[:done] == list(range(1, done + 1)),
        )
        if found != (7, "failed", "handler", True) or record.rows()[-1].get("stopped") != 1:
            failures.append([number, done, *found, record.rows()[-1]])
    return {"failures": failures}


def _train_until_terminated(root, name, way_out, returned):
    run = ExperimentTracker("p", root=root, auto_log=False).start_run(name)

    def stop(number, frame):
        run.log_metrics({"stopped": 1})
        run.set_tags({"by": "handler"})
        run.end_run("FAILED")
        if way_out == "SystemExit":
            sys.exit(7)
        if way_out == "_exit":
            os._exit(7)

    signal.signal(signal.SIGTERM, stop)
    done = 0
    try:
        while True:
            run.log_metrics({"loss": done + 1}, step=done + 1)
            done += 1
            returned[:] = done.to_bytes(8, "little")
            if done % 20 == 0:
                run.set_tags({"epoch": str(done)})
                run.log_text(str(done), f"note{done}")
    except (RunEndedError, SystemExit):
        os._exit(7)


# ---------------------------------------------------------------- told to end more than once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_while_the_run_is_being_ended_takes_no_status_away(alone, tmp_path, number):
    ended = alone(end_twice, str(tmp_path), int(number))
    assert ended.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT), ended.stderr
    record = RunRecord(tmp_path / "p" / "r")
    assert record.status == "killed"
    assert record.metrics["x"]["count"] == len(record.rows()) == 20_000
    assert {problem.kind for problem in check(tmp_path)} <= {"leftover"}


def end_twice(root, number):
    run = ExperimentTracker("p", root=root, auto_log=False).start_run("r")
    for step in range(20_000):
        run.log_metrics({"x": step}, step=step)
    run._writer.follower.lock.acquire()  # so that rows are left for the end
    run._writer.follower.takers.append(_Once(number))
    os.kill(os.getpid(), number)


class _Once:
    """A follower that gets the signal once more while it takes what is left."""

    def __init__(self, number):
        self._number = number

    def __call__(self, rows):
        number, self._number = self._number, 0
        os.kill(os.getpid(), number)
