"""A mirror ends with all that the run's folder holds, once, whatever happened on the way."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from experiment_tracking.backends import mirror as module
from experiment_tracking.backends.catalog import Target
from experiment_tracking.backends.mirror import Mirror, Orders, read_progress
from experiment_tracking.capture.redaction import redact_text
from experiment_tracking.errors import BackendBusyError, DamagedError
from experiment_tracking.folder.check import check
from experiment_tracking.folder.history import HistoryReader, HistoryWriter
from experiment_tracking.folder.layout import RunFolder

REPOSITORY = str(Path(__file__).parents[2])

FOLLOWS = """
import os, signal, sys
from experiment_tracking.backends import mirror
from experiment_tracking.backends.catalog import Target
from experiment_tracking.folder import io
from experiment_tracking.folder.layout import RunFolder

run, backend, service, dies_in_call, dies_before, dies_in_replace = sys.argv[1:]
mirror._BATCH_ROWS, mirror._BATCH_ROWS_ONE_BY_ONE, mirror._LOOK_S = 10, 10, 0.01
options = {"folder": service, "dies_in_call": int(dies_in_call), "dies_before": dies_before == "1"}
replace, replaced = io.replace_file, 0

def count(path, data, **how):
    global replaced
    replaced += path.endswith(".json")
    dies = replaced == int(dies_in_replace)
    if dies and dies_before == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(path, data, **how)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)

io.replace_file = count
print("follows", flush=True)
mirror.Mirror(RunFolder(run), Target(backend, options, "copy")).run(follow=True)
"""

WRITES = """
import sys
from experiment_tracking import ExperimentTracker

tracker = ExperimentTracker("p", "r", root=sys.argv[1], use_tensorboard=False, auto_log=False)
for step in range(int(sys.argv[2])):
    tracker.log_metrics({"x": step, "w" * (step % 90 + 1): 1.5})
if sys.argv[3] == "dies":
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def services(tmp_path, monkeypatch):
    """Offer the services of file_services.py as a package's entry points do; here and below."""
    site = tmp_path / "site"
    metadata = site / "file_services-1.0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("file_services.py"), site)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: file_services\nVersion: 1.0\n")
    classes = {"service": "Service", "batch-service": "BatchService",
               "counting-service": "CountingService"}  # fmt: skip
    lines = [f"{name} = file_services:{one}" for name, one in classes.items()]
    (metadata / "entry_points.txt").write_text(
        "\n".join(["[experiment_tracking.backends]", *lines, ""])
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{REPOSITORY}")
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    monkeypatch.setattr(module, "_PAUSES_S", (0.01, 0.05))
    yield
    sys.modules.pop("file_services", None)


class Copy:
    """What a service has been given, and mirrors that give it."""

    def __init__(self, folder, backend):
        self.folder, self.backend = folder, backend
        folder.mkdir()

    def mirror(self, run, orders=None, **options):
        target = Target(self.backend, {"folder": str(self.folder)} | options, "copy")
        return Mirror(RunFolder(run), target, redact=redact_text, orders=orders)

    def push(self, run, **options):
        return self.mirror(run, **options).run(follow=False)

    def read(self, name):
        file = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def calls(self, *methods):
        calls = self.read("calls")
        return [call for call in calls if call[0] in methods] if methods else calls

    @property
    def steps(self):
        return [row["step"] for row in self.read("rows")]


@pytest.fixture
def copy_to(tmp_path, services):
    return lambda backend="batch-service": Copy(tmp_path / "copy", backend)


@pytest.fixture
def copied(copy_to):
    return copy_to()


@pytest.fixture
def follow():
    """Follow runs in threads, and stop them."""
    started = []

    def follow(copy, run, **options):
        orders = Orders()
        mirror = copy.mirror(run, orders=orders, **options)
        thread = threading.Thread(target=mirror.run, args=[True])
        thread.start()
        started.append((orders, thread))
        return mirror, thread

    yield follow
    for orders, thread in started:
        orders.stop()
        thread.join()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def state_of(run, name="copy"):
    return json.loads((Path(run) / "backends" / f"{name}.json").read_text())


def finished_run(make, rows=3, **options):
    with make("p", **options) as tracker, tracker.start_run("r", {"lr": 0.1}) as run:
        for step in range(rows):
            run.log_metrics({"loss": 1 / (step + 1), "time": step}, step=step)
    return run.path


# ---------------------------------------------------------------------- what is given


@pytest.mark.parametrize("backend", ["service", "batch-service", "counting-service"])
def test_a_finished_run_is_copied_whole(backend, copy_to, make, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("1")
    (tmp_path / "data" / "b.csv").write_text("2")
    tracker = make("p", tags={"sweep": "a"}, notes="first", group="g")
    with tracker, tracker.start_run("r", {"lr": 0.1}) as run:
        run.log_metrics({"loss": float("nan"), "time": 7}, step=3, timestamp=12.5)
        run.log_text("hello", "note")
        run.log_artifact(tmp_path / "data", "dataset", "two files")
        run.log_image(np.zeros((2, 2)), "digit", step=4)
        run.log_model({"w": [1.5]}, "net/best", {"epoch": 2}, step=5)
        run.seed_everything(3)
    copy = copy_to(backend)
    progress = copy.push(run.path)
    assert progress == (True, 0, 0, None, False, f"https://host/{run.id}", 0)
    start, *others = copy.calls()
    known = {"project": "p", "path": str(run.path), "tags": {"sweep": "a"}, "group": "g",
             "notes": "first", "parent": None, "attempt": 1, "rows": 0, "state": {}}  # fmt: skip
    assert start == ["start", "r", {"lr": 0.1}, known]
    artifacts, alone = str(run.path / "artifacts"), str(run.path / "backends/.copy-model/best")
    assert others[:-1] == [
        ["params", {"lr": 0.1}],
        ["tags", {"sweep": "a"}, [], "first"],
        ["environment", ["seeds"]],
        ["artifact", f"{artifacts}/note.txt", "note", "text", None, None, "hello"],
        ["artifact", f"{artifacts}/data", "data", "dataset", "two files", None, ["a.csv", "b.csv"]],
        ["figure", str(run.path / "figures/digit-000004.png"), "digit", 4, True],
        ["model", alone, alone, "net/best", {"epoch": 2}, 5, True],
    ]
    method, status, metrics, has_end, error = others[-1]
    assert (method, status, has_end, error) == ("end", "finished", True, None)
    assert (metrics["time"]["last"], metrics["loss"]["last_step"]) == (7, 3)
    assert np.isnan(metrics["loss"]["last"])
    [row] = copy.read("rows")
    assert np.isnan(row.pop("loss"))
    assert row.pop("metric:time", row.pop("time", None)) in (7, 12.5)
    assert row["step"] == 3
    assert copy.read("closed") == [len(copy.calls()) + 1]


def test_twice_is_harmless_and_does_not_even_ask_the_service(copied, make):
    run = finished_run(make)
    copied.push(run)
    calls = copied.calls()
    (copied.folder / "away").touch()
    assert copied.push(run).complete
    assert copied.mirror(run).run(follow=True).complete
    assert copied.calls() == calls
    assert copied.steps == [0, 1, 2]


def test_what_came_since_is_given_by_the_next_push(copied, make):
    run = finished_run(make)
    copied.push(run)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"tags": {"good": ""}, "notes": "n"}))
    copied.push(run)
    assert copied.calls("start")[1][3]["state"]["url"].startswith("https://host/")
    assert copied.calls("tags") == [["tags", {"good": ""}, [], "n"]]
    assert len(copied.calls("end")) == 2
    assert copied.steps == [0, 1, 2]


def test_a_removed_tag_is_named(copied, make, follow):
    run = make("p", tags={"a": "1", "b": "2"}).start_run("r")
    follow(copied, run.path)
    wait_for(lambda: copied.calls("tags"))
    run.remove_tags("a")
    run.set_tags({"b": "3"})
    run.end_run()
    wait_for(lambda: copied.calls("end"))
    removed = [call[2] for call in copied.calls("tags")]
    assert removed[0] == []
    assert ["a"] in removed
    assert copied.calls("tags")[-1][1] == {"b": "3"}


def test_the_handle_on_a_model_is_what_the_caller_makes_it(copied, make):
    with make("p") as tracker, tracker.start_run("r") as run:
        run.log_model({"w": [1.5]}, "net")
    mirror = copied.mirror(run.path)
    mirror._model_handle = lambda path: f"handle on {path.name}"
    mirror.run(follow=False)
    assert copied.calls("model")[0][1] == "handle on net"


def test_a_model_is_given_whole_and_alone_while_it_is_saved_over_and_over(copied, make, follow):
    run = make("p").start_run("r")
    follow(copied, run.path)
    saves = 0
    while len(copied.calls("model")) < 8:
        run.log_model({"w": [float(saves)] * 1_000}, "net", step=saves)
        saves += 1
    run.end_run()
    wait_for(lambda: copied.calls("end"))
    given = copied.calls("model")
    steps = [call[5] for call in given]
    assert all(call[6] for call in given)
    assert steps == sorted(steps)
    assert steps[-1] == saves - 1
    assert state_of(run.path)["refused"] == []
    assert [name for name in os.listdir(run.path / "backends") if name[0] == "."] == []


def test_what_a_killed_mirror_left_of_a_model_is_not_given_and_goes(copied, make):
    with make("p") as tracker, tracker.start_run("r") as run:
        run.log_model({"w": [1.5]}, "net")
    left = run.path / "backends/.copy-model/net/weights-000099.safetensors"
    left.parent.mkdir(parents=True)
    left.write_text("of another save")
    copied.push(run.path)
    assert [call[6] for call in copied.calls("model")] == [True]
    assert not left.exists()


def test_rows_of_other_processes_and_of_the_system_are_not_copied(copied, make):
    with make("p") as tracker, tracker.start_run("r") as run:
        run.log_metrics({"loss": 1.0}, step=0)
        HistoryWriter.create(f"{run.path}/metrics_history.1.json").append({"loss": 2.0}, step=5)
        HistoryWriter.create(f"{run.path}/system_metrics.json").append({"cpu/percent": 1}, step=6)
    copied.push(run.path)
    assert copied.steps == [0]


# ---------------------------------------------------------------------- following


def test_a_running_run_is_followed_to_its_end(copied, make, follow):
    run = make("p").start_run("r")
    mirror, thread = follow(copied, run.path)
    for step in range(5):
        run.log_metrics({"loss": 1.0}, step=step)
        wait_for(lambda step=step: step in copied.steps)
    run.log_text("late", "note")
    wait_for(lambda: copied.calls("artifact"))
    run.log_text("later", "note")
    wait_for(lambda: len(copied.calls("artifact")) == 2)
    assert not read_progress(RunFolder(run.path), "copy").complete
    run.end_run("FAILED")
    thread.join()
    assert copied.calls("end")[0][1] == "failed"
    assert mirror.progress.complete
    assert state_of(run.path)["claim"] is None


def test_a_push_of_a_running_run_leaves_it_open_and_a_later_one_goes_on(copied, make):
    run = make("p").start_run("r")
    run.log_metrics({"loss": 1.0}, step=0)
    assert not copied.push(run.path).complete
    run.log_metrics({"loss": 1.0}, step=1)
    run.end_run()
    assert copied.push(run.path).complete
    assert copied.steps == [0, 1]
    assert [call[3]["rows"] for call in copied.calls("start")] == [0, 1]
    assert len(copied.calls("end")) == 1


def test_a_resumed_run_reopens_its_mirror(copied, make):
    run = finished_run(make)
    copied.push(run)
    resumed = make("p", resume="must").start_run("r")
    resumed.log_metrics({"loss": 0.5}, step=3)
    copied.push(run)
    assert not read_progress(RunFolder(run), "copy").complete
    resumed.end_run()
    copied.push(run)
    assert [call[3]["attempt"] for call in copied.calls("start")] == [1, 2, 2]
    assert copied.steps == [0, 1, 2, 3]
    assert copied.read("rows")[-1]["attempt"] == 2
    assert len(copied.calls("end")) == 2
    assert copied.calls("params") == [["params", {"lr": 0.1}]]


def test_a_run_whose_writer_is_dead_ends_as_crashed(copied, root):
    writer = subprocess.run([sys.executable, "-c", WRITES, root, "50", "dies"])
    assert writer.returncode == -signal.SIGKILL
    run = root / "p" / "r"
    assert copied.mirror(run).run(follow=True).complete
    assert copied.steps == list(range(50))
    end = copied.calls("end")[0]
    assert (end[1], end[2]["x"]["count"]) == ("crashed", 50)
    calls = copied.calls()
    copied.push(run)
    assert copied.calls() == calls


def test_a_writer_that_ends_between_two_looks_has_not_crashed(copied, make, monkeypatch):
    run = make("p").start_run("r")
    run.log_metrics({"loss": 1.0}, step=0)
    looks = iter(range(2))

    def status_of(summary, heartbeat):
        if next(looks, None) == 0:  # the summary was read, the heartbeat will be
            run.end_run()
            return "crashed", ""
        return summary["status"], ""

    monkeypatch.setattr(module, "status_of", status_of)
    copied.push(run.path)
    assert [call[1] for call in copied.calls("end")] == ["finished"]


def test_a_run_that_is_about_to_end_gets_the_status_it_will_have(copied, make, follow):
    run = make("p").start_run("r")
    run.log_metrics({"loss": 1.0}, step=0)
    mirror, thread = follow(copied, run.path)
    mirror.orders.end("failed", {"type": "KeyError", "message": "x"})
    thread.join()
    [end] = copied.calls("end")
    assert (end[1], end[4]) == ("failed", {"type": "KeyError", "message": "x"})
    assert end[2]["loss"]["last"] == 1.0
    # Should its writer die before it has written that, it stays as given.
    (run.path / "heartbeat.json").write_text("{}")
    assert copied.push(run.path).complete
    assert len(copied.calls("end")) == 1
    run.end_run("FINISHED")
    copied.push(run.path)
    assert [call[1] for call in copied.calls("end")] == ["failed", "finished"]


def test_it_stops_when_told_to_and_at_its_deadline(copied, make, follow):
    run = make("p").start_run("r")
    run.log_metrics({"loss": 1.0}, step=0)
    for way in ("stop", "deadline"):
        mirror, thread = follow(copied, run.path)
        wait_for(lambda: state_of(run.path)["claim"] if copied.steps else None)
        if way == "stop":
            mirror.orders.stop()
        else:
            mirror.orders.deadline = time.monotonic() + 0.05
        thread.join()
        assert not mirror.progress.complete
        assert state_of(run.path)["claim"] is None
    run.end_run()


# ---------------------------------------------------------------------- killed


def follower(run, copy, dies_in_call=0, dies_before=False, dies_in_replace=0):
    words = [run, copy.backend, copy.folder, dies_in_call, int(dies_before), dies_in_replace]
    command = [sys.executable, "-c", FOLLOWS, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process.stdout:
        assert process.stdout.readline() == "follows\n"
    return process


def check_copied(run, copy, *, once):
    wanted = [row["step"] for row in HistoryReader(str(run / "metrics_history.json")).rows()]
    found = copy.steps
    assert set(found) == set(wanted)
    if once:
        assert found == wanted
    assert len(copy.calls("end")) >= 1
    assert state_of(run)["complete"]
    leftovers = [p for p in check(run) if p.kind == "leftover" and "/backends/." in p.path]
    assert check(run) == leftovers
    for problem in leftovers:  # of writes that were killed
        os.unlink(problem.path)


@pytest.mark.parametrize("backend", ["service", "batch-service", "counting-service"])
def test_killed_in_any_call_it_goes_on_where_it_was(backend, copy_to, root, make):
    run = finished_run(make, rows=30)
    copy = copy_to(backend)
    number, died = 0, True
    while died:
        number += 1
        # A process more that dies in its first, second … call, behind and before it is taken.
        died = follower(run, copy, number, number % 2).wait() == -signal.SIGKILL
    assert number > 3
    check_copied(run, copy, once=backend == "counting-service")
    assert len(copy.calls("start")) <= number


def test_killed_at_any_change_of_its_state_it_goes_on_where_it_was(copy_to, make):
    run = finished_run(make, rows=30)
    copy = copy_to("counting-service")
    number, died = 0, True
    while died:
        number += 1
        process = follower(run, copy, dies_before=number % 2, dies_in_replace=number)
        died = process.wait() == -signal.SIGKILL
    assert number > 2
    check_copied(run, copy, once=True)


@pytest.mark.parametrize("backend", ["batch-service", "counting-service"])
def test_killed_at_any_instant_while_the_run_is_written_it_has_all_rows(backend, copy_to, root):
    copy, run = copy_to(backend), root / "p" / "r"
    writer = subprocess.Popen([sys.executable, "-c", WRITES, root, "5000", "ends"])
    wait_for((run / "summary.json").exists)
    random.seed(7)
    for _ in range(8):
        process = follower(run, copy)
        time.sleep(random.random() * 0.1)  # an instant, not a condition
        process.kill()
        process.wait()
    assert writer.wait() == 0
    assert follower(run, copy).wait() == 0
    check_copied(run, copy, once=backend == "counting-service")


def test_of_two_followers_one_does_it_all(copied, make):
    run = finished_run(make, rows=2000)
    processes = [follower(run, copied) for _ in range(3)]
    ends = [process.wait() for process in processes]
    assert 0 in ends
    assert copied.steps == list(range(2000))
    assert len(copied.calls("start")) == 1
    check_copied(run, copied, once=True)


def test_who_was_taken_for_dead_stops(copied, make, follow):
    run = make("p").start_run("r")
    raised = []
    mirror = copied.mirror(run.path)

    def follow_on():
        try:
            mirror.run(follow=True)
        except BackendBusyError as error:
            raised.append(error)

    thread = threading.Thread(target=follow_on)
    thread.start()
    wait_for((run.path / "backends" / "copy.json").exists)
    other = {**json.loads((run.path / "heartbeat.json").read_text()), "host": "another"}
    (run.path / "backends" / "copy.claim-000002").write_text(json.dumps(other))
    before = state_of(run.path)
    run.log_metrics({"loss": 1.0}, step=0)
    thread.join()
    assert "taken over" in str(raised[0])
    assert state_of(run.path)["rows"] == before["rows"]
    with pytest.raises(BackendBusyError, match="on another"):
        copied.push(run.path)
    run.end_run()


# ---------------------------------------------------------------------- outages


@pytest.mark.parametrize("backend", ["service", "batch-service"])
def test_an_outage_costs_nothing_and_is_told_without_its_secrets(backend, copy_to, make, follow):
    copy = copy_to(backend)
    run = make("p").start_run("r")
    run.log_metrics({"loss": 1.0}, step=0)
    mirror, thread = follow(copy, run.path)
    wait_for(lambda: copy.steps == [0])
    (copy.folder / "away").touch()
    for step in range(1, 250):
        run.log_metrics({"loss": 1.0}, step=step)
    wait_for(lambda: mirror.progress.failing)
    assert "the service is away" in mirror.progress.error
    assert "hunter2" not in (run.path / "backends" / "copy.json").read_text()
    assert mirror.progress.owed_bytes > 0
    since = state_of(run.path)["error_since"]
    seen = state_of(run.path)["updated_at"]
    wait_for(lambda: state_of(run.path)["updated_at"] > seen)
    assert state_of(run.path)["error_since"] == since
    (copy.folder / "away").unlink()
    wait_for(lambda: len(copy.steps) == 250)
    wait_for(lambda: not mirror.progress.failing)
    assert mirror.progress.error is None
    run.end_run()
    thread.join()
    assert copy.steps == list(range(250))


def test_an_end_during_an_outage_is_tried_at_once(copied, make, follow, monkeypatch):
    monkeypatch.setattr(module, "_PAUSES_S", (3600, 3600))
    run = make("p").start_run("r")
    (copied.folder / "away").touch()
    mirror, thread = follow(copied, run.path)
    wait_for(lambda: mirror.progress.failing)
    (copied.folder / "away").unlink()
    mirror.orders.end("finished")
    thread.join()
    assert mirror.progress.complete
    run.end_run()


def test_a_push_during_an_outage_gives_up_and_a_later_one_pays(copied, make):
    run = finished_run(make)
    (copied.folder / "away").touch()
    progress = copied.push(run)
    assert (progress.complete, progress.failing) == (False, True)
    assert progress.owed_bytes == os.path.getsize(run / "metrics_history.json") - 4
    assert read_progress(RunFolder(run), "copy") == progress
    (copied.folder / "away").unlink()
    assert copied.push(run).complete
    assert copied.steps == [0, 1, 2]


def test_what_forbids_to_begin_is_asked_again(copied, make, follow):
    run = finished_run(make)
    (copied.folder / "forbidden").touch()
    mirror, thread = follow(copied, run)
    wait_for(lambda: mirror.progress.failing)
    assert mirror.progress.error == "no permission"
    (copied.folder / "forbidden").unlink()
    thread.join()
    assert mirror.progress.complete


def test_a_backend_that_nobody_offers_is_an_error_of_the_mirror(copied, make):
    run = finished_run(make)
    mirror = Mirror(RunFolder(run), Target("nowhere", {}, "copy"))
    progress = mirror.run(follow=False)
    assert progress.failing
    assert "'nowhere' is not known" in progress.error


def test_a_folder_that_is_gone_is_not_made_anew_and_gone_on_with_when_it_is_back(
    copied, make, follow, tmp_path
):
    run = finished_run(make)
    os.rename(run, tmp_path / "elsewhere")
    mirror, thread = follow(copied, run)
    wait_for(lambda: mirror.progress.failing)
    assert "there is no run in" in mirror.progress.error
    assert not run.exists()
    os.rename(tmp_path / "elsewhere", run)
    thread.join()
    assert mirror.progress.complete


def test_a_folder_that_goes_while_it_is_followed_is_not_made_anew(copied, make, follow, tmp_path):
    run = make("p").start_run("r")
    mirror, thread = follow(copied, run.path)
    wait_for(lambda: copied.calls("start"))
    path = run.path
    run.end_run()
    os.rename(path, tmp_path / "elsewhere")
    wait_for(lambda: mirror.progress.failing or mirror.progress.complete)
    mirror.orders.stop()
    thread.join()
    assert not path.exists()


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize("backend", ["service", "batch-service", "counting-service"])
def test_rows_that_are_refused_are_left_out_and_noted(backend, copy_to, make):
    with make("p") as tracker, tracker.start_run("r") as run:
        for step in range(200):
            run.log_metrics({"poison" if step in (0, 7, 8, 150) else "loss": 1.0}, step=step)
    copy = copy_to(backend)
    progress = copy.push(run.path)
    assert (progress.complete, progress.refused, progress.failing) == (True, 4, False)
    assert copy.steps == [step for step in range(200) if step not in (0, 7, 8, 150)]
    refused = state_of(run.path)["refused"]
    assert [one["what"] for one in refused] == [
        "row 1 (step 0)", "row 8 (step 7)", "row 9 (step 8)", "row 151 (step 150)",
    ]  # fmt: skip
    assert refused[0]["reason"] == "ValueError: poison, password=***"
    assert [call[0] for call in copy.read("refused")].count("row") in (0, 4 * 3)
    calls = copy.calls()
    copy.push(run.path)
    assert copy.calls() == calls


def test_what_has_not_arrived_is_sent_again_and_what_was_refused_is_not(copy_to, make):
    run = make("p").start_run("r")
    for step in range(20):
        run.log_metrics({"poison" if step in (3, 12) else "loss": 1.0}, step=step)
    copy = copy_to("counting-service")
    copy.push(run.path)
    rows = (copy.folder / "rows.jsonl").read_bytes().splitlines(keepends=True)
    (copy.folder / "rows.jsonl").write_bytes(b"".join(rows[:8]))
    run.end_run()
    copy.push(run.path)
    assert copy.steps == [step for step in range(20) if step not in (3, 12)]
    assert [one["row"] for one in state_of(run.path)["refused"]] == [4, 13]
    assert [call[3]["rows"] for call in copy.calls("start")] == [0, 18]


def test_in_another_place_everything_is_given_again(copied, make):
    with make("p") as tracker, tracker.start_run("r", {"lr": 0.1}, tags=["t"]) as run:
        run.log_text("kept", "remarks")
        for step in range(20):
            run.log_metrics({"poison" if step == 3 else "loss": 1.0}, step=step)
    copied.push(run.path)
    first = [call[0] for call in copied.calls()]
    assert copied.push(run.path).complete
    assert [call[0] for call in copied.calls()] == first
    (copied.folder / "place").write_text("the new server")
    assert copied.push(run.path).complete
    assert [call[0] for call in copied.calls()] == [*first, *first]
    assert copied.steps == [step for step in range(20) if step != 3] * 2
    state = state_of(run.path)
    assert state["place"] == "the new server"
    assert [one["row"] for one in state["refused"]] == [4]


def test_a_copy_that_is_gone_gets_its_files_again_too(copy_to, make):
    run = make("p").start_run("r")
    run.log_text("kept", "remarks")
    run.log_metrics({"loss": 1.0})
    copy = copy_to("counting-service")
    copy.push(run.path)
    (copy.folder / "rows.jsonl").unlink()
    (copy.folder / "calls.jsonl").unlink()
    run.end_run()
    assert copy.push(run.path).complete
    assert copy.steps == [0]
    assert [call[2] for call in copy.calls("artifact")] == ["remarks"]


def test_a_connection_that_broke_is_made_anew(copied, make, follow):
    run = make("p").start_run("r")
    run.log_metrics({"loss": 1.0}, step=0)
    mirror, thread = follow(copied, run.path)
    wait_for(lambda: copied.steps == [0])
    (copied.folder / "cut").touch()
    run.log_metrics({"loss": 1.0}, step=1)
    run.end_run()
    thread.join()
    assert mirror.progress.complete
    assert copied.steps == [0, 1]
    assert len(copied.calls("start")) == 2


def test_of_very_many_refusals_a_hundred_are_named_and_all_are_counted(copied, make):
    with make("p") as tracker, tracker.start_run("r") as run:
        for step in range(130):
            run.log_metrics({"poison": step}, step=step)
    assert copied.push(run.path).refused == 130
    assert len(state_of(run.path)["refused"]) == 100
    assert state_of(run.path)["left_out"] == 130


def test_a_file_that_is_refused_holds_up_nothing(copied, make):
    with make("p") as tracker, tracker.start_run("r", {"poison": 1}) as run:
        run.log_text("poison", "bad")
        run.log_text("good", "good")
        run.log_text("lost", "lost")
        run.log_text("cut", "cut")
        os.unlink(run.path / "artifacts" / "lost.txt")
        (run.path / "artifacts" / "cut.txt").write_text("c")
        run.set_tags({"poison": "1"})
    progress = copied.push(run.path)
    assert (progress.complete, progress.refused) == (True, 5)
    assert [call[2] for call in copied.calls("artifact")] == ["good"]
    reasons = {one["what"].split(" ")[0]: one["reason"] for one in state_of(run.path)["refused"]}
    assert reasons["artifacts/lost.txt"] == "artifacts/lost.txt is gone"
    assert "1 bytes that are not the 3 logged" in reasons["artifacts/cut.txt"]
    assert {"params", "tags", "artifacts/bad.txt"} < reasons.keys()
    tries = sorted(call[0] for call in copied.read("refused"))
    assert tries == ["artifact"] * 3 + ["params"] * 3 + ["tags"] * 3
    for name in ("lost", "cut"):
        (run.path / "artifacts" / f"{name}.txt").write_text(name)


def test_what_lies_outside_the_run_is_never_given(copied, make, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("1")
    (tmp_path / "secret.txt").write_text("mine")
    with make("p") as tracker, tracker.start_run("r") as run:
        run.log_text("mine", "linked")
        run.log_artifact(tmp_path / "data")
    shutil.copytree(run.path, tmp_path / "foreign")
    foreign = tmp_path / "foreign"
    (foreign / "artifacts" / "linked.txt").unlink()
    (foreign / "artifacts" / "linked.txt").symlink_to(tmp_path / "secret.txt")
    (foreign / "artifacts" / "data" / "b.csv").symlink_to(tmp_path / "secret.txt")
    listed = json.loads((foreign / "artifacts.json").read_text())
    entry = listed["artifacts"][0]
    paths = ["../secret.txt", str(tmp_path / "secret.txt"), "artifacts/../../secret.txt", "", 3]
    listed["artifacts"] += [entry | {"path": path} for path in paths]
    (foreign / "artifacts.json").write_text(json.dumps(listed))
    progress = copied.push(foreign)
    assert (progress.complete, progress.refused) == (True, 7)
    assert copied.calls("artifact") == []


@pytest.mark.parametrize("name", ["params.json", "artifacts.json", "environment.json"])
def test_a_damaged_document_is_noted_and_costs_only_itself(name, copied, make, tmp_path):
    shutil.copytree(finished_run(make), tmp_path / "damaged")
    (tmp_path / "damaged" / name).write_bytes(bytes(9))
    progress = copied.push(tmp_path / "damaged")
    assert (progress.complete, progress.refused) == (True, 1)
    assert state_of(tmp_path / "damaged")["refused"][0]["what"] == name
    assert copied.steps == [0, 1, 2]


def test_a_damaged_history_gives_the_rows_that_a_reader_finds(copied, make, tmp_path):
    shutil.copytree(finished_run(make, rows=50), tmp_path / "damaged")
    history = tmp_path / "damaged" / "metrics_history.json"
    history.write_bytes(history.read_bytes().replace(b'"step":7', b"\0\0\0\0\0\0\0\0")[:-40])
    assert copied.push(tmp_path / "damaged").complete
    assert copied.steps == [row["step"] for row in HistoryReader(str(history)).rows()]
    assert len(copied.steps) == 48


# ---------------------------------------------------------------------- the state document


def test_options_are_kept_without_their_secrets(copied, make):
    run = finished_run(make)
    copied.push(run, token="hunter2-hunter2-hunter2")
    assert state_of(run)["options"] == {"folder": str(copied.folder), "token": "***"}
    assert "hunter2" not in (run / "backends" / "copy.json").read_text()


def test_progress_can_be_read_before_there_is_a_mirror(make, copied):
    run = finished_run(make)
    progress = read_progress(RunFolder(run), "copy")
    owed = os.path.getsize(run / "metrics_history.json") - 4
    assert progress == (False, owed, 0, None, False, None, 0)


def test_a_damaged_state_is_never_begun_anew(copied, make, tmp_path):
    shutil.copytree(finished_run(make), tmp_path / "damaged")
    copied.push(tmp_path / "damaged")
    (tmp_path / "damaged" / "backends" / "copy.json").write_text('{"rows": "many"}')
    progress = copied.push(tmp_path / "damaged")
    assert progress.failing
    assert "rows is str, expected int" in progress.error
    assert len(copied.calls("start")) == 1
    with pytest.raises(DamagedError):
        read_progress(RunFolder(tmp_path / "damaged"), "copy")
