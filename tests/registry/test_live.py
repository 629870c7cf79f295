import json
import signal
import subprocess
import sys

import pytest

from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.registry.live import follow, last_rows
from experiment_tracking.registry.record import RunRecord


def steps(rows):
    return [row["step"] for row in rows]


@pytest.mark.parametrize("count", [0, 1, 7, 900, 4999, 5000, 6000])
def test_the_last_rows_are_those_that_reading_all_gives(track, count):
    run = track("long", rows=[{"loss": i / 7, "acc": 1.0} for i in range(5000)])
    rows = RunRecord(run.path).rows()
    assert last_rows(RunFolder(run.path), count) == rows[max(0, 5000 - count) :]


def test_rows_without_the_metrics_do_not_count(track):
    rows = [{"train": 1.0} if i % 1000 else {"val": float(i)} for i in range(5000)]
    folder = RunFolder(track("mixed", rows=rows).path)
    assert steps(last_rows(folder, 2, ["val"])) == [3000, 4000]
    assert steps(last_rows(folder, 3, ["val", "train"])) == [4997, 4998, 4999]
    assert last_rows(folder, 3, ["other"]) == []


def test_a_torn_tail_and_a_missing_history_are_no_rows(track, tmp_path):
    run = track("torn", rows=[{"loss": 1.0}, {"loss": 2.0}])
    (tmp_path / "damaged").touch()
    path = run.path / "metrics_history.json"
    path.write_bytes(path.read_bytes()[:-3] + b',\n{"step":2,"ti')
    assert steps(last_rows(RunFolder(run.path), 5)) == [0, 1]
    path.unlink()
    assert last_rows(RunFolder(run.path), 5) == []


def test_an_ended_run_is_given_once_and_that_is_the_end(track):
    run = track("done", rows=[{"loss": float(i)} for i in range(50)])
    (rows,) = follow(RunRecord(run.path), 20)
    assert steps(rows) == list(range(30, 50))
    (rows,) = follow(RunRecord(run.path), 1000)
    assert steps(rows) == list(range(50))
    assert list(follow(RunRecord(run.path), 0)) == []


def test_a_history_that_was_laid_out_anew_gives_its_last_rows(track, tmp_path):
    run = track("edited", rows=[{"loss": float(i)} for i in range(50)])
    (tmp_path / "damaged").touch()
    path = run.path / "metrics_history.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    assert steps(last_rows(RunFolder(run.path), 3)) == [47, 48, 49]
    (rows,) = follow(RunRecord(run.path), 3)
    assert steps(rows) == [47, 48, 49]


_WRITER = """
import os, signal, sys
from experiment_tracking.tracker import ExperimentTracker
run = ExperimentTracker(
    "digits", root=sys.argv[1], use_tensorboard=False, auto_log=False
).start_run("live")
for step in range(100):
    run.log_metrics({"loss": 1 / (step + 1)}, step=step)
print("written", flush=True)
for line in sys.stdin:
    run.log_metrics({"loss": 0.0, "extra": float(line)})
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
run.end_run()
"""


@pytest.fixture
def writer(root):
    """Start a process with a run of 100 rows that logs one more per line it is given."""
    started = []

    def start(ending):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, root, ending],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "written\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize("ending", ["finished", "killed"])
def test_rows_come_once_each_as_another_process_writes_them(writer, root, ending):
    process = writer(ending)
    record = RunRecord(root / "digits" / "live")
    pieces = follow(record, 10, interval_s=0.01)
    assert steps(next(pieces)) == list(range(90, 100))
    seen = []
    for number in range(3):
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        while len(seen) <= number:
            seen += next(pieces)
    process.stdin.write("3\n")
    process.stdin.close()
    process.wait(60)
    seen += [row for rows in pieces for row in rows]
    assert steps(seen) == [100, 101, 102, 103]
    assert [row["extra"] for row in seen] == [0.0, 1.0, 2.0, 3.0]
    assert record.status == ("crashed" if ending == "killed" else "finished")
    assert process.returncode == (-signal.SIGKILL if ending == "killed" else 0)


_NEVER_STOPS = """
import sys
from experiment_tracking.tracker import ExperimentTracker
run = ExperimentTracker(
    "digits", root=sys.argv[1], use_tensorboard=False, auto_log=False
).start_run("quick")
run.log_metrics({"loss": 0.0})
print("written", flush=True)
while True:
    run.log_metrics({"loss": 0.0})
"""


def test_a_writer_quicker_than_its_reader_does_not_keep_the_rows_back(root):
    with subprocess.Popen(
        [sys.executable, "-c", _NEVER_STOPS, root],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        process.stdout.readline()
        pieces = follow(RunRecord(root / "digits" / "quick"), 10)
        seen = [row["step"] for _ in range(5) for row in next(pieces)]
        process.kill()
    assert seen == list(range(seen[0], seen[0] + len(seen)))


def test_only_rows_with_the_metrics_are_followed(writer, root):
    process = writer("finished")
    process.stdin.write("5\n")
    process.stdin.close()
    process.wait(60)
    rows = [r for rows in follow(RunRecord(root / "digits" / "live"), 5, ["extra"]) for r in rows]
    assert [row["extra"] for row in rows] == [5.0]
