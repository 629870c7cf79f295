"""Forked, spawned and launched processes of one run: no deadlock, no row in the wrong file."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from experiment_tracking import ExperimentTracker
from experiment_tracking.folder.check import check
from experiment_tracking.registry.record import RunRecord

FORKS = int(os.environ.get("RELIABILITY_FORKS", "200"))


def _open(root):
    return ExperimentTracker("p", root=root, auto_log=False).start_run("r")


def _record(tmp_path):
    return RunRecord(tmp_path / "p" / "r")


def _exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ---------------------------------------------------------------- fork


def test_two_hundred_forks_while_a_thread_logs_never_deadlock(alone, tmp_path):
    ended = alone(fork_while_logging, str(tmp_path), FORKS)
    assert ended.returncode == 0, ended.stderr
    assert ended.result["codes"] == [0] * FORKS, ended.stderr
    record = _record(tmp_path)
    rows = record.rows()
    assert [row["main"] for row in rows] == list(range(ended.result["rows"]))
    assert len(record.folder.ranks()) == FORKS
    children = [row for row in record.rows(ranks="all") if row["rank"] != "0"]
    assert sorted(row["child"] for row in children) == list(range(FORKS))
    assert record.status == "finished"
    assert check(tmp_path) == []


def fork_while_logging(root, forks):
    run = _open(root)
    done = threading.Event()
    logged = []

    def log():
        while not done.is_set():
            run.log_metrics({"main": len(logged)})
            logged.append(1)
            if len(logged) % 100 == 0:
                run.set_tags({"rows": str(len(logged))})

    logger = threading.Thread(target=log)
    logger.start()
    codes = []
    for number in range(forks):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            run.log_metrics({"child": number})
            os._exit(0)
        codes.append(_exit_code(pid))
    done.set()
    logger.join()
    run.end_run()
    return {"codes": codes, "rows": len(logged)}


def test_four_children_and_the_parent_keep_ten_thousand_rows_each(alone, tmp_path):
    ended = alone(five_writers, str(tmp_path))
    assert ended.result == [0] * 4, ended.stderr
    record = _record(tmp_path)
    assert [row["x"] for row in record.rows()] == list(range(10_000))
    rows = record.rows(ranks="all")
    assert len(rows) == 50_000
    per_rank = Counter((row["rank"], row["writer"]) for row in rows)
    assert sorted(per_rank.values()) == [10_000] * 5
    assert {writer for _, writer in per_rank} == set(range(5))
    assert len(record.history(metrics="x", ranks="all")) == 50_000
    assert record.metrics["x"]["count"] == 10_000
    assert check(tmp_path) == []


def five_writers(root):
    run = _open(root)
    run.log_metrics({"x": 0, "writer": 0}, step=0)
    children = []
    for number in range(1, 5):
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            for step in range(10_000):
                run.log_metrics({"x": step, "writer": number}, step=step)
            os._exit(0)
        children.append(pid)
    for step in range(1, 10_000):
        run.log_metrics({"x": step, "writer": 0}, step=step)
    codes = [_exit_code(pid) for pid in children]
    run.end_run()
    return codes


def test_a_forked_child_that_exits_leaves_the_parents_run_open(alone, tmp_path):
    ended = alone(exit_in_child, str(tmp_path))
    assert ended.result == [[3, "running"], [0, "running"], [-signal.SIGTERM, "running"]]
    assert _record(tmp_path).status == "finished"
    assert len(_record(tmp_path).rows()) == 4
    assert len(_record(tmp_path).rows(ranks="all")) == 7
    assert check(tmp_path) == []


def exit_in_child(root):
    run = _open(root)
    run.log_metrics({"x": 0})
    found = []
    for way_out in (lambda: sys.exit(3), run.end_run, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            run.log_metrics({"x": 1})
            way_out()
            sys.exit()
        code = _exit_code(pid)
        run.log_metrics({"x": 2})
        found.append([code, RunRecord(run.path).status])
    run.end_run()
    return found


# ---------------------------------------------------------------- multiprocessing

_inherited = None


def _log_inherited(number):
    _inherited.log_metrics({"task": number}, step=number)
    return os.getpid()


def _log_given(task):
    run, number = task
    run.log_metrics({"task": number}, step=number)
    return os.getpid()


def _expect_tasks(tmp_path, workers):
    record = _record(tmp_path)
    assert record.status == "finished"
    assert [row["parent"] for row in record.rows()] == [1, 2]
    rows = [row for row in record.rows(ranks="all") if "task" in row]
    assert sorted(row["task"] for row in rows) == list(range(60))
    assert set(record.folder.ranks()) == {f"p{pid}" for pid in workers}
    assert check(tmp_path) == []


def test_the_workers_of_a_forking_pool_log_through_the_run_they_inherit(alone, tmp_path):
    ended = alone(pool_of_heirs, str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    _expect_tasks(tmp_path, set(ended.result))


def pool_of_heirs(root):
    global _inherited
    _inherited = _open(root)
    _inherited.log_metrics({"parent": 1})
    with multiprocessing.get_context("fork").Pool(3) as pool:
        workers = pool.map(_log_inherited, range(60), chunksize=1)
    _inherited.log_metrics({"parent": 2})
    _inherited.end_run()
    return workers


def test_a_spawned_pool_that_gets_the_run_with_each_task_writes_one_file_a_worker(alone, tmp_path):
    ended = alone(pool_of_strangers, str(tmp_path), "spawn")
    assert ended.returncode == 0, ended.stderr
    _expect_tasks(tmp_path, set(ended.result))


def test_a_forked_pool_that_gets_the_run_with_each_task_writes_one_file_a_worker(alone, tmp_path):
    ended = alone(pool_of_strangers, str(tmp_path), "fork")
    assert ended.returncode == 0, ended.stderr
    _expect_tasks(tmp_path, set(ended.result))


def pool_of_strangers(root, method):
    run = _open(root)
    run.log_metrics({"parent": 1})
    with multiprocessing.get_context(method).Pool(2) as pool:
        workers = pool.map(_log_given, [(run, number) for number in range(60)], chunksize=1)
    run.log_metrics({"parent": 2})
    run.end_run()
    return workers


def test_a_spawned_process_logs_through_the_run_it_is_given(alone, tmp_path):
    ended = alone(spawn_one, str(tmp_path))
    assert ended.result == 0, ended.stderr
    record = _record(tmp_path)
    assert [row["x"] for row in record.rows()] == [0, 6]
    rows = [row for row in record.rows(ranks="all") if row["rank"] != "0"]
    assert [row["x"] for row in rows] == [1, 2, 3, 4, 5]
    assert record.status == "finished"
    assert check(tmp_path) == []


def spawn_one(root):
    run = _open(root)
    run.log_metrics({"x": 0})
    child = multiprocessing.get_context("spawn").Process(target=_log_five, args=(run,))
    child.start()
    child.join()
    run.log_metrics({"x": 6})
    run.end_run()
    return child.exitcode


def _log_five(run):
    for number in range(1, 6):
        run.log_metrics({"x": number})


def test_a_pool_that_is_terminated_keeps_its_rows_and_the_parents_run(alone, tmp_path):
    ended = alone(terminate_pool, str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert ended.result["codes"] == [-signal.SIGTERM] * 3
    record = _record(tmp_path)
    assert record.status == "finished"
    assert [row["parent"] for row in record.rows()] == [1, 2]
    for rank in record.folder.ranks():
        rows = [row["busy"] for row in record.rows(ranks="all") if row["rank"] == rank]
        assert rows == list(range(len(rows)))
    assert {problem.kind for problem in check(tmp_path)} <= {"torn"}


def terminate_pool(root):
    global _inherited
    _inherited = _open(root)
    _inherited.log_metrics({"parent": 1})
    pool = multiprocessing.get_context("fork").Pool(3)
    pool.map_async(_log_for_ever, range(3), chunksize=1)
    while len(RunRecord(_inherited.path).folder.ranks()) < 3:
        time.sleep(0.01)
    workers = list(pool._pool)
    pool.terminate()
    pool.join()
    _inherited.log_metrics({"parent": 2})
    _inherited.end_run()
    return {"codes": [worker.exitcode for worker in workers]}


def _log_for_ever(_):
    number = 0
    while True:
        _inherited.log_metrics({"busy": number})
        number += 1


# ---------------------------------------------------------------- launchers

_SCRIPT = """
import os, sys
from experiment_tracking import ExperimentTracker

tracker = ExperimentTracker("p", "r", root=sys.argv[1], auto_log=False)
tracker.log_params({"lr": 0.1})
for step in range(20):
    tracker.log_metrics({"rank of": int(os.environ["RANK"])}, step=step)
tracker.log_text("only once", "note")
tracker.set_tags({"rank": os.environ["RANK"]})
tracker.finish()
"""


def test_four_ranks_of_a_launcher_make_one_run_which_is_rank_zeros(tmp_path):
    package = Path(sys.modules["experiment_tracking"].__file__).parents[1]
    ranks = []
    for rank in range(4):
        env = os.environ | {
            "RANK": str(rank), "WORLD_SIZE": "4", "LOCAL_RANK": str(rank),
            "TORCHELASTIC_RUN_ID": "none", "PYTHONPATH": str(package),
        }  # fmt: skip
        command = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
        ranks.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    notices = [process.communicate(timeout=60)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * 4, notices
    (folder,) = (tmp_path / "p").iterdir()
    record = RunRecord(folder)
    assert record.name == "r"
    assert record.status == "finished"
    assert record.tags == {"rank": "0"}
    assert [row["rank of"] for row in record.rows(ranks="all")] == [0] * 20
    assert all(text.count("writes nothing") == 1 for text in notices[1:])
    assert json.loads((folder / "params.json").read_text()) == {"lr": 0.1}
    assert check(tmp_path) == []
