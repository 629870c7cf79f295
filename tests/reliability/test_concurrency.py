"""Threads and processes at once: nothing lost, nothing doubled, nothing shared."""

import os
import signal
import threading
from collections import Counter

from experiment_tracking import ExperimentTracker
from experiment_tracking.folder.check import check
from experiment_tracking.registry.record import RunRecord

ROWS = 500
THREADS = 16
PROCESSES = 32


def _in_threads(action):
    together = threading.Barrier(THREADS)
    errors = []

    def work(number):
        together.wait()
        try:
            action(number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_sixteen_threads_of_one_run_lose_and_double_no_row(tmp_path):
    run = ExperimentTracker("p", root=tmp_path, auto_log=False).start_run("r")

    def log(number):
        for step in range(number * ROWS, (number + 1) * ROWS):
            run.log_metrics({"thread": number, f"own {number}": step / 7}, step=step)
            if step % 100 == 0:
                run.log_params({f"p{step}": number})
                run.set_tags({f"t{step}": str(number)})
                run.log_text(f"text of {step}", f"n{step}")

    _in_threads(log)
    run.end_run()
    record = RunRecord(run.path)
    assert sorted(row["step"] for row in record.rows()) == list(range(THREADS * ROWS))
    assert all(row[f"own {row['thread']}"] == row["step"] / 7 for row in record.rows())
    steps = range(0, THREADS * ROWS, 100)
    assert record.params == {f"p{step}": step // ROWS for step in steps}
    assert record.tags == {f"t{step}": str(step // ROWS) for step in steps}
    assert {entry["path"] for entry in record.artifacts} == {f"artifacts/n{s}.txt" for s in steps}
    assert check(tmp_path) == []


def test_sixteen_threads_log_each_to_its_own_run_through_one_tracker(tmp_path):
    tracker = ExperimentTracker("p", root=tmp_path, auto_log=False)

    def train(number):
        with tracker.start_run(f"r{number}"):
            for _ in range(ROWS):
                tracker.log_metrics({"thread": number})
            tracker.set_tags({"thread": str(number)})

    _in_threads(train)
    for number in range(THREADS):
        record = RunRecord(tmp_path / "p" / f"r{number}")
        assert record.status == "finished"
        assert record.tags == {"thread": str(number)}
        assert [(row["step"], row["thread"]) for row in record.rows()] == [
            (step, number) for step in range(ROWS)
        ]
    assert check(tmp_path) == []


def test_sixteen_threads_of_a_process_that_joined_share_one_file(alone, tmp_path):
    run = ExperimentTracker("p", root=tmp_path, auto_log=False).start_run("r")
    ended = alone(join_in_threads, str(run.path))
    assert ended.returncode == 0, ended.stderr
    run.end_run()
    record = RunRecord(run.path)
    assert record.folder.ranks() == [f"p{ended.result}"]
    rows = record.rows(ranks="all")
    assert sorted(row["step"] for row in rows) == list(range(THREADS * 50))
    assert check(tmp_path) == []


def join_in_threads(path):
    run = ExperimentTracker("p", root=os.path.dirname(os.path.dirname(path))).join(path)

    def log(number):
        for step in range(number * 50, (number + 1) * 50):
            run.log_metrics({"thread": number}, step=step)

    _in_threads(log)
    run.end_run()
    return os.getpid()


def test_thirty_two_processes_that_open_one_name_at_once_get_a_folder_each(alone, tmp_path):
    ended = alone(open_at_once, str(tmp_path / "root"))
    assert ended.result == [0] * PROCESSES, ended.stderr
    records = [RunRecord(path) for path in (tmp_path / "root" / "p").iterdir()]
    names = ["same"] + [f"same-{number}" for number in range(2, PROCESSES + 1)]
    assert sorted(record.name for record in records) == sorted(names)
    assert len({record.id for record in records}) == PROCESSES
    writers = Counter()
    for record in records:
        (writer,) = {row["process"] for row in record.rows()}
        assert [row["step"] for row in record.rows()] == list(range(50))
        assert record.params == {"process": writer}
        writers[writer] += 1
    assert writers == Counter(range(PROCESSES))
    assert check(tmp_path / "root") == []


def open_at_once(root):
    gate, opener = os.pipe()
    children = []
    for number in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            os.close(opener)
            os.read(gate, 1)  # until the parent opens it for all at once
            with ExperimentTracker("p", root=root, auto_log=False).start_run("same") as run:
                run.log_params({"process": number})
                for _ in range(50):
                    run.log_metrics({"process": number})
            os._exit(0)
        children.append(pid)
    os.close(opener)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
