import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc

import pytest

import experiment_tracking
from experiment_tracking import endings
from experiment_tracking.backends.following import OutOfTimeError
from experiment_tracking.errors import InvalidValueError, RunBusyError, RunNotFoundError
from experiment_tracking.folder import amendments
from experiment_tracking.folder import history as history_module
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.history import HistoryReader, HistoryWriter
from experiment_tracking.folder.liveness import Writer
from experiment_tracking.registry.edit import Edit
from experiment_tracking.registry.record import RunRecord

PACKAGE_PARENT = os.path.dirname(os.path.dirname(experiment_tracking.__file__))


@pytest.fixture
def crashed(root):
    """Log rows in a process that dies without an ending; return the run's folder."""

    def crashed(steps=3, name="r", then="", **env):
        code = (
            "import os\nfrom experiment_tracking import ExperimentTracker\n"
            f"tracker = ExperimentTracker('p', root={str(root)!r}, use_tensorboard=False, "
            "auto_log=False, config={'lr': 1}, tags='first', notes='n')\n"
            f"run = tracker.start_run({name!r})\n"
            f"for step in range({steps}):\n"
            "    run.log_metrics({'loss': 10.0 - step}, step=step)\n"
            f"{then}\nos._exit(1)\n"
        )
        paths = os.pathsep.join(filter(None, [PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")]))
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths} | env,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return root / "p" / name

    return crashed


def history(folder):
    return HistoryReader(str(folder / "metrics_history.json")).rows()


def steps(folder):
    return [(row.get("attempt", 1), row["step"]) for row in history(folder)]


def document(folder, name="summary"):
    return json.loads((folder / f"{name}.json").read_text())


# ---------------------------------------------------------------------- which run


def test_never_starts_a_new_run(make, crashed, root):
    crashed()
    make("p").start_run("r").end_run()
    make("p", resume="never").start_run("r").end_run()
    assert sorted(p.name for p in (root / "p").iterdir()) == ["r", "r-2", "r-3"]


def test_allow_goes_on_with_the_newest_run_of_that_name(make, root):
    for _ in range(11):
        make("p").start_run("r").end_run()
    run = make("p", resume="allow").start_run("r")
    assert (run.name, len(document(run.path)["attempts"])) == ("r-11", 2)


def test_allow_takes_no_run_of_a_longer_name(make):
    for name in ("r-long", "r-2x", "rr", "r-"):
        make("p").start_run(name).end_run()
    assert make("p", resume="allow").start_run("r").name == "r"


def test_allow_starts_a_new_run_where_there_is_none(make):
    run = make("p", "exp", resume="allow").start_run("fresh")
    assert (run.name, len(document(run.path)["attempts"])) == ("fresh", 1)


def test_must_insists_on_a_run(make, crashed):
    with pytest.raises(RunNotFoundError, match="there is no run 'r'"):
        make("p", resume="must").start_run("r")
    crashed()
    assert make("p", resume="must").start_run("r").name == "r"


def test_a_name_is_needed_but_for_an_id_or_path(make, crashed):
    folder = crashed()
    with pytest.raises(InvalidValueError, match="needs the name"):
        make("p", resume="must").start_run()
    for key in (document(folder)["id"], str(folder), folder):
        run = make("elsewhere", resume=key).start_run()
        run.end_run()
        assert (run.name, run.project) == ("r", "p")
    assert len(document(folder)["attempts"]) == 4


def test_the_default_run_can_be_resumed(make):
    make("p", "exp").log_metrics({"x": 1})
    for writer in endings.open_writers():
        writer.close("killed")
    tracker = make("p", "exp", resume="must")
    tracker.log_metrics({"x": 2})
    tracker.finish()
    assert document(tracker.root / "p/exp")["status"] == "finished"


# ---------------------------------------------------------------------- what it goes on with


def test_a_further_attempt_keeps_everything_and_marks_its_rows(make, crashed):
    folder = crashed(steps=3, then="run.log_text('x', 'note')")
    before = document(folder)
    run = make("p", resume="must", config={"lr": 2}, tags="second").start_run("r")
    run.log_metrics({"loss": 1.0})
    run.end_run()
    after = document(folder)
    assert steps(folder) == [(1, 0), (1, 1), (1, 2), (2, 3)]
    assert [after[k] for k in ("id", "created_at", "notes")] == [
        before[k] for k in ("id", "created_at", "notes")
    ]
    assert after["tags"] == {"first": "", "second": ""}
    assert [a["status"] for a in after["attempts"]] == ["crashed", "finished"]
    assert [a["pid"] for a in after["attempts"]][1] == os.getpid()
    assert document(folder, "params") == {"lr": 2}
    (amendment,) = (folder / "amendments").iterdir()
    assert json.loads(amendment.read_text())["old"] == 1
    assert [e["name"] for e in document(folder, "artifacts")["artifacts"]] == ["note"]


def test_the_error_of_the_earlier_attempt_goes_with_a_good_one(make):
    with pytest.raises(ZeroDivisionError), make("p").start_run("r") as run:
        1 / 0  # noqa: B018
    assert "error" in document(run.path)
    make("p", resume="must").start_run("r").end_run()
    after = document(run.path)
    assert (after["status"], "error" in after) == ("finished", False)
    assert [a["status"] for a in after["attempts"]] == ["failed", "finished"]


def test_without_a_step_rows_go_on_over_the_whole_run(make, crashed):
    folder = crashed(steps=3)
    for _ in range(3):
        run = make("p", resume="must").start_run("r")
        run.log_metrics({"loss": 1.0})
        run.end_run()
    assert steps(folder) == [(1, 0), (1, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


@pytest.mark.parametrize(
    "tail",
    [b',\n{"step":3,"time":1.0,"lo', b",\n" + b"\0" * 5000, b"", b"\n", b',\n{"step":3,"time"'],
)
def test_a_torn_tail_is_dropped(make, crashed, tail):
    folder = crashed(steps=3)
    path = folder / "metrics_history.json"
    path.write_bytes(path.read_bytes()[:-3] + tail)
    run = make("p", resume="must").start_run("r")
    assert json.loads(path.read_text())[-1]["step"] == 2
    run.log_metrics({"loss": 1.0})
    run.end_run()
    assert steps(folder) == [(1, 0), (1, 1), (1, 2), (2, 3)]


def test_a_missing_history_is_begun_anew(make, crashed):
    folder = crashed()
    (folder / "metrics_history.json").unlink()
    run = make("p", resume="must").start_run("r")
    run.log_metrics({"loss": 1.0})
    run.end_run()
    assert steps(folder) == [(2, 0)]


def test_rows_that_were_lost_before_stay_counted(make, crashed):
    folder = crashed()
    summary = document(folder)
    (folder / "summary.json").write_text(json.dumps(summary | {"lost": {"rows": 5, "files": 1}}))
    run = make("p", resume="must").start_run("r")
    run._writer.history.dropped = 2
    run.end_run()
    assert document(folder)["lost"] == {"rows": 7, "files": 1}


def test_a_long_history_is_copied_in_pieces(tmp_path):
    path = tmp_path / "h.json"
    rows = b",\n".join(b'{"step":%d,"time":1.5,"loss":0.25}' % step for step in range(100_000))
    path.write_bytes(b"[\n" + rows + b',\n{"step":100000,"ti')
    tracemalloc.start()
    writer = HistoryWriter.reopen(str(path))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (writer.last_step, writer.end) == (99_999, len(rows) + 2)
    assert path.read_bytes() == b"[\n" + rows + b"\n]\n"
    assert peak_bytes < len(rows)
    assert os.listdir(tmp_path) == ["h.json"]
    writer.close()


@pytest.mark.parametrize("block_bytes", [16, 100, 10**6])
def test_whatever_stands_in_a_history_its_whole_rows_go_on(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(history_module, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "h.json"
    row = b'{"step":%d,"time":1.5,"x,":"},{"}'
    rows = [row % step for step in range(5)]
    good = b"[\n" + b",\n".join(rows) + b"\n]\n"
    torn = [good[:length] for length in range(len(good))]
    torn += [good[:-3] + tail for tail in (b",]\n", b",\n]\n", b",\n" + b"\0" * 300, b',\n{"st]\n')]
    torn += [good.replace(rows[2], rows[2][:9]), good.replace(b",\n", b"\n"), good + b"junk"]
    torn += [good.replace(b",\n", b","), good.replace(b"\n", b"\r\n"), b"[\n7,\n8\n]\n"]
    for content in torn:
        path.write_bytes(content)
        expected = HistoryReader(str(path)).rows()
        HistoryWriter.reopen(str(path)).close()
        assert json.loads(path.read_text()) == expected
        assert path.read_bytes().count(b"\n") == len(expected) + 2


# ---------------------------------------------------------------------- the digest


def test_the_digest_of_an_attempt_that_went_back_counts_each_step_once(make, crashed):
    folder = crashed(steps=5)
    run = make("p", resume="must").start_run("r")
    for step in (2, 3):
        run.log_metrics({"loss": float(step), "new": 1}, step=step)
    run.end_run()
    found = document(folder)["metrics"]
    assert found["loss"]["count"] == 4
    assert (found["loss"]["last"], found["loss"]["last_step"], found["loss"]["max"]) == (
        3.0,
        3,
        10.0,
    )
    assert (found["loss"]["min"], found["new"]["count"]) == (2.0, 2)


def test_rows_behind_those_digested_so_far_are_not_counted_twice(make, crashed):
    """The whole of a long second attempt is on disk before its first row is digested."""
    folder = crashed(steps=5)
    tracker = make("p", resume="must")
    run = tracker.start_run("r")
    with run._writer.follower.lock:
        for step in range(2, 30_000):
            run.log_metrics({"loss": float(step)}, step=step)
    run.end_run()
    rows = history(folder)
    digest = Digest(lambda: rows)
    digest.update(rows)
    assert document(folder)["metrics"] == digest.to_dict()
    assert document(folder)["metrics"]["loss"]["count"] == 30_000
    assert document(folder)["history"]["rows"] == 5 + 29_998


def test_the_hash_of_a_resumed_history_is_that_of_the_file(make, crashed):
    folder = crashed()
    run = make("p", resume="must").start_run("r")
    run.log_metrics({"loss": 1.0})
    run.end_run()
    data = (folder / "metrics_history.json").read_bytes()
    said = document(folder)["history"]
    assert (said["bytes"], said["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_durations_of_the_attempts_add_up(make):
    for _ in range(2):
        run = make("p", resume="allow").start_run("r")
        run.end_run()
    summary = document(run.path)
    total = sum(attempt["duration_s"] for attempt in summary["attempts"])
    assert summary["duration_s"] == pytest.approx(total, abs=0.002)


# ---------------------------------------------------------------------- TensorBoard


def scalars(folder):
    """Tags and their points, in the order of the event files; images and texts by tag."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    points = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                number = value.simple_value if kind == "simple_value" else kind
                points.setdefault(value.tag, []).append((event.step, number))
    return points


class Picture:
    def savefig(self, target, **options):
        from struct import pack

        target.write(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + pack(">II", 1, 1))


@pytest.mark.parametrize("shown_before", [True, False])
def test_an_attempt_that_goes_back_leaves_no_zig_zag_in_tensorboard(make, shown_before):
    pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")
    run = make("p", use_tensorboard=True).start_run("r", config={"lr": 0.1})
    for step in range(6):
        run.log_metrics({"loss": 10.0 + step, "acc": 0.5}, step=step)
    run.log_figure(Picture(), "before", step=2)
    run.log_text("hello", "note")
    run.log_histogram([1.0, 2.0], "hist", step=3)
    run.end_run("failed")
    run = make("p", use_tensorboard=True, resume="must").start_run("r")
    while shown_before and (run._writer.follower.calls or run._writer.tail.behind_bytes):
        time.sleep(0.001)
    with run._writer.follower.lock:  # everything is on disk before the first row is followed
        for step in range(3, 9_000):
            run.log_metrics({"loss": 20.0 + step}, step=step)
        run.log_figure(Picture(), "after", step=4)
    run.end_run()
    found = scalars(run.path)
    # Above 1,000 rows a second TensorBoard gets a selection, but none twice and none taken back.
    steps = [step for step, _ in found["loss"]]
    assert steps == sorted(set(steps))
    assert (steps[:3], steps[-1]) == ([0, 1, 2], 8_999)
    assert all(value == step + (10.0 if step < 3 else 20.0) for step, value in found["loss"])
    assert found["acc"] == [(step, 0.5) for step in range(6)]
    assert set(found["before"]) == {(2, "image")}
    assert set(found["after"]) == {(4, "image")}
    assert set(found["note"]) == {(0, "tensor")}
    assert set(found["hist"]) == {(3, "histo")}


@pytest.mark.parametrize("deleted", [False, True])
def test_tensorboard_files_that_are_gone_are_written_anew(make, crashed, capfd, deleted):
    pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")
    folder = crashed(steps=5)
    assert not (folder / "tensorboard").exists()
    run = make("p", use_tensorboard=True, resume="must").start_run("r")
    while deleted and not (folder / "tensorboard").exists():
        time.sleep(0.001)
    with run._writer.follower.lock:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        run.log_metrics({"loss": 0.5}, step=2)
    run.end_run()
    assert scalars(folder)["loss"] == [(0, 10.0), (1, 9.0), (2, 0.5)]
    assert "cannot" not in capfd.readouterr().err


def test_writing_tensorboard_files_anew_is_given_up_at_the_bound_of_the_end(make, capfd):
    pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")
    run = make("p", use_tensorboard=True).start_run("r")
    run.log_metrics({"loss": 1.0})
    writer = run._writer
    while not (run.path / "tensorboard").exists() or writer.tail.behind_bytes:
        time.sleep(0.001)
    with writer.follower.lock:  # by then the slice that took the row is over
        writer.tensorboard.flush()
        writer.tensorboard.start_over(writer.digest)
    writer.tail.deadline = 0.0
    with pytest.raises(OutOfTimeError):
        writer.tensorboard.end("finished")
    assert scalars(run.path)["loss"] == [(0, 1.0)]
    run.end_run()
    assert scalars(run.path)["loss"] == [(0, 1.0)]


def test_an_attempt_that_goes_on_keeps_rows_pictures_and_params_in_tensorboard(make):
    pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")
    run = make("p", use_tensorboard=True).start_run("r", config={"lr": 0.1})
    run.log_metrics({"loss": 1.0})
    run.log_figure(Picture(), "curve", step=0)
    run.end_run()
    run = make("p", use_tensorboard=True, resume="must").start_run("r")
    run.log_metrics({"loss": 2.0})
    run.end_run()
    found = scalars(run.path)
    assert found["loss"] == [(0, 1.0), (1, 2.0)]
    assert found["curve"] == [(0, "image")]
    assert len(found["_hparams_/session_start_info"]) == 1


# ---------------------------------------------------------------------- a live writer


@pytest.fixture
def living(root):
    """A process that writes the run ``r`` and waits."""
    code = (
        "import sys\nfrom experiment_tracking import ExperimentTracker\n"
        f"t = ExperimentTracker('p', root={str(root)!r}, use_tensorboard=False, auto_log=False)\n"
        "t.start_run('r').log_metrics({'x': 1})\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n    exec(line)\n    print('done', flush=True)\n"
    )
    paths = os.pathsep.join(filter(None, [PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    yield process
    process.communicate()


def tell(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_a_live_writer_on_this_machine_is_refused_with_its_pid(make, living):
    for word in ("allow", "must"):
        with pytest.raises(RunBusyError, match=rf"process {living.pid} on .*resume='force'"):
            make("p", resume=word).start_run("r")


def test_the_run_that_this_process_has_open_is_refused_too(make):
    make("p").start_run("r")
    with pytest.raises(RunBusyError, match=f"process {os.getpid()}"):
        make("p", resume="must").start_run("r")


def test_force_takes_the_run_and_the_ousted_writer_spoils_nothing(make, living, root):
    run = make("p", resume="force").start_run("r")
    run.log_metrics({"x": 2})
    tell(living, "t.log_metrics({'x': 99}); t.finish('failed')")
    run.log_metrics({"x": 3})
    assert document(run.path)["status"] == "running"
    run.end_run()
    assert [row["x"] for row in history(run.path)] == [1, 2, 3]
    assert document(run.path)["status"] == "finished"
    assert "was resumed by another process" in living.communicate()[1]


def beat_elsewhere(folder, age_s, **changes):
    """Let the heartbeat be that of a process on another machine."""
    writer = Writer.this_process()._replace(host="elsewhere", boot_id="other", pid=7, **changes)
    line = json.dumps(writer._asdict() | {"time": time.time() - age_s})
    (folder / "heartbeat.json").write_text(line.ljust(511) + "\n")


def test_a_young_heartbeat_from_another_machine_is_refused_and_an_old_one_is_not(make, crashed):
    folder = crashed()
    beat_elsewhere(folder, age_s=200)
    with pytest.raises(RunBusyError, match="process 7 on elsewhere"):
        make("p", resume="must").start_run("r")
    assert len(document(folder)["attempts"]) == 1
    beat_elsewhere(folder, age_s=2000)
    make("p", resume="must").start_run("r").end_run()
    assert document(folder)["attempts"][0]["status"] == "crashed"


def test_the_restart_of_the_same_slurm_job_is_let_in(make, crashed, monkeypatch):
    folder = crashed()
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    beat_elsewhere(folder, 10, slurm_job_id="43", slurm_restart_count=0)
    with pytest.raises(RunBusyError):
        make("p", resume="must").start_run("r")
    beat_elsewhere(folder, 10, slurm_job_id="42", slurm_restart_count=1)
    with pytest.raises(RunBusyError):
        make("p", resume="must").start_run("r")
    beat_elsewhere(folder, 10, slurm_job_id="42", slurm_restart_count=0)
    assert make("p", resume="must").start_run("r").name == "r"


def test_a_worker_of_the_same_torchelastic_run_is_let_in(make, crashed, monkeypatch):
    folder = crashed()
    beat_elsewhere(folder, 10, torchelastic_run_id="abc")
    with pytest.raises(RunBusyError):
        make("p", resume="must").start_run("r")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abc")
    assert make("p", resume="must").start_run("r").name == "r"


def test_a_refused_resume_changes_nothing(make, living, root):
    folder = root / "p/r"
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "heartbeat.json"}
    with pytest.raises(RunBusyError):
        make("p", resume="must", config={"new": 1}).start_run("r")
    after = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "heartbeat.json"}
    assert {n: after[n] for n in before if n != "summary.json"} == {
        n: before[n] for n in before if n != "summary.json"
    }
    assert "new" not in json.loads(after["params.json"])


def test_a_name_that_only_looks_numbered_is_not_resumed(make, root):
    make("p").start_run("seed-7").end_run()
    run = make("p", resume="allow").start_run("seed")
    assert run.name == "seed"


# ---------------------------------------------------------------------- a run that was corrected


@pytest.fixture
def corrected(crashed, monkeypatch):
    """A run of ten steps that somebody has corrected in every way."""
    monkeypatch.setenv("LOGNAME", "ann")
    folder = crashed(10, then="run.log_metrics({'test': 0.5}, step=9)")
    edit = Edit(RunRecord(folder))
    edit.set_tags({"first": "corrected", "paper": ""})
    edit.set_notes("by ann")
    edit.set_param("lr", 7)
    edit.set_param("seed", 8)
    edit.log_metric("loss", 3.5, step=4)
    edit.log_metric("test", 0.75)
    return folder


def read(folder):
    """What a reader finds, but for the times and numbers of attempts."""
    record = RunRecord(folder)
    rows = [{k: v for k, v in row.items() if k not in ("time", "attempt")} for row in record.rows()]
    metrics = {
        name: {key: value for key, value in kept.items() if key != "attempt"}
        for name, kept in record.metrics.items()
    }
    return record.tags, record.notes, record.params, rows, metrics


def kinds(folder):
    return [each["kind"] for each in RunRecord(folder).amendments]


def test_corrections_are_in_the_documents_of_the_resumed_run_and_stay_listed(make, corrected):
    before = read(corrected)
    listed = RunRecord(corrected).amendments
    make("p", resume="must").start_run("r").end_run()
    assert read(corrected) == before
    assert RunRecord(corrected).amendments[:-1] == listed
    assert kinds(corrected)[-1] == "resumed"
    summary = document(corrected)
    assert (summary["tags"], summary["notes"]) == ({"first": "corrected", "paper": ""}, "by ann")
    assert document(corrected, "params") == {"lr": 7, "seed": 8}
    assert summary["metrics"]["loss"]["last"] == 3.5
    assert history(corrected)[-2]["loss"] == 3.5


def test_what_the_resumed_run_sets_counts_before_older_corrections(make, corrected):
    run = make("p", resume="must", tags={"paper": "mine"}, config={"lr": 9}).start_run("r")
    assert (run.tags["paper"], run.tags["first"]) == ("mine", "corrected")
    run.set_tags({"first": "again"})
    run.notes = "by the run"
    run.end_run()
    record = RunRecord(corrected)
    assert record.tags == {"first": "again", "paper": "mine"}
    assert (record.notes, record.params) == ("by the run", {"lr": 9, "seed": 8})
    assert record.amendments[-1].items() >= {"by": "run", "old": 7, "new": 9}.items()


def test_what_the_resumed_run_logs_counts_as_if_the_late_rows_had_been_logged(make, corrected):
    run = make("p", resume="must").start_run("r")
    for step in range(3, 12):
        run.log_metrics({"loss": 100.0 + step, "test": step / 100}, step=step)
    run.end_run()
    loss = [10.0, 9.0, 8.0, *(100.0 + step for step in range(3, 12))]
    found = RunRecord(corrected).metrics["loss"]
    assert (found["last"], found["last_step"], found["count"]) == (111.0, 11, 12)
    assert (found["best"], found["best_step"], found["max"]) == (8.0, 2, 111.0)
    assert found["mean"] == pytest.approx(sum(loss) / 12)
    assert [row["loss"] for row in RunRecord(corrected).rows() if "loss" in row] == loss
    assert RunRecord(corrected).metrics["test"]["last"] == 0.11


def test_an_attempt_above_a_late_step_leaves_the_late_value_alone(make, corrected):
    run = make("p", resume="must").start_run("r")
    run.log_metrics({"loss": 0.5}, step=10)
    run.end_run()
    loss = [10.0, 9.0, 8.0, 7.0, 5.0, 4.0, 3.0, 2.0, 1.0, 3.5, 0.5]
    assert [row["loss"] for row in RunRecord(corrected).rows() if "loss" in row] == loss
    found = RunRecord(corrected).metrics["loss"]
    assert (found["last"], found["count"], found["mean"]) == (0.5, 11, sum(loss) / 11)
    assert document(corrected)["metrics"]["loss"] == found


def test_without_a_step_rows_go_on_behind_the_last_that_the_run_logged(make, corrected):
    Edit(RunRecord(corrected)).log_metric("loss", 3.0, step=3)
    for step in (10, 11):
        make("p", resume="must").start_run("r").end_run()
        run = make("p", resume="must").start_run("r")
        run.log_metrics({"other": 1})
        run.end_run()
        assert history(corrected)[-1]["step"] == step


def test_a_resumed_run_is_corrected_and_resumed_once_more(make, corrected):
    run = make("p", resume="must").start_run("r")
    run.log_metrics({"loss": 0.5}, step=10)
    run.end_run()
    edit = Edit(RunRecord(corrected))
    edit.set_tags({"paper": "table 2"})
    edit.log_metric("loss", 0.25, step=10)
    before = read(corrected)
    run = make("p", resume="must").start_run("r")
    assert read(corrected) == before
    run.set_tags({"first": "third"})
    run.log_metrics({"loss": 0.125}, step=11)
    run.end_run()
    record = RunRecord(corrected)
    assert record.tags == {"first": "third", "paper": "table 2"}
    loss = [row["loss"] for row in record.rows() if "loss" in row]
    assert loss == [10.0, 9.0, 8.0, 7.0, 5.0, 4.0, 3.0, 2.0, 1.0, 3.5, 0.25, 0.125]
    assert (record.metrics["loss"]["last"], record.metrics["loss"]["count"]) == (0.125, 12)
    assert kinds(corrected).count("resumed") == 2


def test_a_run_that_nobody_has_corrected_gets_no_mark(make, crashed):
    folder = crashed()
    run = make("p", resume="must").start_run("r")
    assert not (folder / "amendments").exists()
    run.log_params({"lr": 2})
    run.end_run()
    make("p", resume="must").start_run("r").end_run()
    assert kinds(folder) == ["param"]


def test_corrections_that_are_taken_in_are_not_marked_again(make, corrected):
    for _ in range(2):
        make("p", resume="must").start_run("r").end_run()
    assert kinds(corrected).count("resumed") == 1


RESUME_AND_DIE = """
import os, signal, sys
from experiment_tracking import ExperimentTracker
from experiment_tracking.folder import amendments
from experiment_tracking.folder.history import HistoryWriter

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

owner, name = sys.argv[2].split(".")
setattr({"amendments": amendments, "HistoryWriter": HistoryWriter, "Document":
         amendments.Document}[owner], name, die)
tracker = ExperimentTracker("p", root=sys.argv[1], use_tensorboard=False, auto_log=False,
                            resume="must")
tracker.start_run("r")
"""


@pytest.mark.parametrize(
    ("step", "marks"),
    [
        ("Document.save", 0),
        ("amendments.take_in_rows", 0),
        ("amendments.add", 0),
        ("HistoryWriter.reopen", 1),
    ],
)
def test_killed_while_it_takes_corrections_in_a_run_reads_the_same(
    make, corrected, root, step, marks
):
    before = read(corrected)
    done = subprocess.run(
        [sys.executable, "-c", RESUME_AND_DIE, root, step],
        env=os.environ | {"PYTHONPATH": PACKAGE_PARENT},
    )
    assert done.returncode == -signal.SIGKILL
    assert (read(corrected), kinds(corrected).count("resumed")) == (before, marks)
    run = make("p", resume="must").start_run("r")
    assert (read(corrected), kinds(corrected).count("resumed")) == (before, 1)
    run.log_metrics({"loss": 0.5}, step=9)
    run.end_run()
    loss = [row["loss"] for row in RunRecord(corrected).rows() if "loss" in row]
    assert loss == [10.0, 9.0, 8.0, 7.0, 5.0, 4.0, 3.0, 2.0, 3.5, 0.5]


def test_a_correction_that_comes_while_the_run_is_being_resumed_is_kept(
    make, corrected, monkeypatch
):
    edit = Edit(RunRecord(corrected), force=True)
    take_in = amendments.take_in_rows

    def and_somebody_edits(path, late):
        take_in(path, late)
        edit.set_tags({"meanwhile": "yes"})

    monkeypatch.setattr(amendments, "take_in_rows", and_somebody_edits)
    run = make("p", resume="must").start_run("r")
    run.set_tags({"first": "again"})
    assert RunRecord(corrected).tags == {"first": "again", "paper": "", "meanwhile": "yes"}
    run.end_run()
    make("p", resume="must").start_run("r").end_run()
    assert document(corrected)["tags"] == {"first": "again", "paper": "", "meanwhile": "yes"}


def test_a_correction_that_cannot_be_read_goes_on_being_folded_with_those_behind_it(
    make, corrected, monkeypatch
):
    """Such as one of another user who lets nobody read it; a reader may be somebody else."""
    real = amendments.read_document

    def refuse(path):
        if path.endswith("000002.json"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    before = read(corrected)
    with monkeypatch.context() as patch:
        patch.setattr(amendments, "read_document", refuse)
        make("p", resume="must").start_run("r").end_run()
    assert RunRecord(corrected).amendments[1]["new"] == 1
    assert document(corrected)["tags"] == {"first": "corrected"}
    assert read(corrected) == before


def test_where_the_mark_cannot_be_written_the_run_goes_on_and_says_so(
    make, corrected, monkeypatch, capfd
):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    before = read(corrected)
    with monkeypatch.context() as patch:
        patch.setattr(amendments, "add", refuse)
        run = make("p", resume="must").start_run("r")
    assert "amendments cannot be written" in capfd.readouterr().err
    run.end_run()
    assert read(corrected) == before
    make("p", resume="must").start_run("r").end_run()
    assert (read(corrected), kinds(corrected)[-1]) == (before, "resumed")


def test_a_damaged_correction_does_not_keep_the_others_out(make, corrected):
    (corrected / "amendments" / "000001.json").write_text("{")
    before = read(corrected)
    make("p", resume="must").start_run("r").end_run()
    assert read(corrected) == before
    assert document(corrected)["tags"] == {"first": "", "paper": ""}
    (corrected / "amendments" / "000001.json").unlink()
