"""Mirrors of a training process: one child makes them, and its troubles are never training's."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from experiment_tracking import ExperimentTracker, mirroring
from experiment_tracking.errors import BackendError
from experiment_tracking.folder.liveness import process_start
from experiment_tracking.registry.record import RunRecord

TOKEN = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"

START = """
import multiprocessing, os, sys, time
from experiment_tracking import ExperimentTracker
from tofile import ToFile
tracker = ExperimentTracker(
    "p", use_tensorboard=False, auto_log=False, backend=ToFile({folder!r}), **{options!r}
)
run = tracker.start_run("r", config={{"lr": 0.1}})
print(run.id, flush=True)
"""


def summary(run):
    return json.loads((run.path / "summary.json").read_text())


def state(run):
    """What is noted of the mirror; nothing before it is begun."""
    path = run.path / "backends/tofile.json"
    return json.loads(path.read_text()) if path.exists() else {}


def is_alive(pid):
    return process_start(pid) is not None


@pytest.fixture
def start(make, service):
    def start(name="r", **options):
        options = {"backend": service.backend()} | options
        return make("p", **options).start_run(name)

    return start


@pytest.fixture
def script(service, root, tmp_path):
    """Start a training script; its first line of output is the run's id."""

    def script(text, **options):
        path = tmp_path / "train.py"
        start = START.format(folder=str(service.folder), options=options)
        path.write_text(start + textwrap.dedent(text))
        env = {"EXPERIMENT_TRACKING_ROOT": str(root), "PYTHONPATH": service.import_path}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, str(path)], env=os.environ | env, **pipes)
        return process, process.stdout.readline().strip()

    return script


# ---------------------------------------------------------------------- everything in order


def test_a_finished_run_is_whole_in_the_service_and_no_child_is_left(script, service, root):
    process, run_id = script(
        """
        for step in range(500):
            run.log_metrics({"x": step}, step=step)
        run.set_tags({"good": "yes"})
        run.log_text("hello", "note")
        """
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert service.steps(run_id) == list(range(500))
    (start,) = service.calls(run_id, "start")
    assert (start["name"], start["params"], start["attempt"]) == ("r", {"lr": 0.1}, 1)
    assert start["parent"] == process.pid
    calls = service.calls(run_id)
    assert calls[-1]["call"] == "end"
    assert calls[-1]["status"] == "finished"
    assert [call["name"] for call in calls if call["call"] == "artifact"] == ["note"]
    assert service.pids().isdisjoint({process.pid})
    assert not any(map(is_alive, service.pids()))
    record = RunRecord(root / "p/r")
    assert record.summary["followers"] == {"tofile": {"finished": True, "owed_bytes": 0}}
    assert record.mirrors["tofile"]["complete"]
    assert record.mirrors["tofile"]["url"].startswith("file://")
    assert "Traceback" not in err


def test_runs_one_after_another_and_at_once_share_a_child(start, service):
    for name in ("a", "b", "c"):
        run = start(name)
        run.log_metrics({"x": 1})
        run.end_run()
        assert summary(run)["followers"]["tofile"]["finished"]
    both = start("d"), start("e")
    for run in both:
        run.log_metrics({"x": 2})
    for run in both:
        run.end_run()
        assert service.calls(run.id)[-1]["call"] == "end"
    assert len(service.pids()) == 1


def test_a_resumed_run_goes_on_in_the_service(start, service):
    run = start()
    run.log_metrics({"x": 0}, step=0)
    run.end_run()
    again = start(resume="must")
    again.log_metrics({"x": 1}, step=1)
    again.end_run("failed")
    assert service.steps(run.id) == [0, 1]
    assert [call["attempt"] for call in service.calls(run.id, "start")] == [1, 2]
    ends = service.calls(run.id, "end")
    assert [call["status"] for call in ends] == ["finished", "failed"]


def test_what_an_earlier_attempt_sent_does_not_count_for_a_later_one(start, service):
    run = start()
    run.log_metrics({"x": 0}, step=0)
    run.end_run()
    before = (run.path / "metrics_history.json").stat().st_size
    service.mood("hanging")
    mirroring.child().kill()
    again = start(resume="must", exit_timeout_s=0)
    again.log_metrics({"x": 1}, step=1)
    again.end_run()
    owed = (run.path / "metrics_history.json").stat().st_size - before
    assert summary(run)["followers"] == {"tofile": {"finished": False, "owed_bytes": owed}}


def test_what_the_script_of_a_launched_run_mirrors_is_mirrored(terminal, service):
    start = START.format(folder=str(service.folder), options={})
    terminal.write("train.py", start + "run.log_metrics({'x': 7}, step=7)\n")
    variables = {"PYTHONPATH": service.import_path}
    code, out, err = terminal.experiments(
        "run", "--project", "p", "--", sys.executable, "train.py", variables=variables
    )
    assert code == 0, err
    assert service.steps(out.split()[0]) == [7]
    assert terminal.record("p").mirrors["tofile"]["complete"]


def test_a_run_without_mirrors_loads_nothing_of_theirs(root):
    code = (
        "import sys\nfrom experiment_tracking import ExperimentTracker\n"
        f"run = ExperimentTracker('p', root={str(root)!r}).start_run('r')\n"
        "run.log_metrics({'x': 1})\nrun.end_run()\n"
        "print([name for name in sys.modules if 'mirror' in name or 'catalog' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------------- deaths


def test_the_child_of_a_killed_process_finishes_what_was_logged_and_ends(
    script, service, root, until
):
    service.mood("hanging")
    process, run_id = script(
        """
        for step in range(300):
            run.log_metrics({"x": step}, step=step)
        print("logged", flush=True)
        time.sleep(600)
        """
    )
    assert process.stdout.readline() == "logged\n"
    until((root / "p/r/backends/tofile.json").exists)
    until(lambda: RunRecord(root / "p/r").mirrors["tofile"]["claim"])
    process.kill()
    process.communicate()
    service.mood()
    until(lambda: service.calls(run_id, "end"))
    assert service.steps(run_id) == list(range(300))
    assert service.calls(run_id, "end")[0]["status"] == "crashed"
    until(lambda: not any(map(is_alive, service.pids())))
    assert RunRecord(root / "p/r").mirrors["tofile"]["complete"]


def test_a_killed_child_is_replaced_and_nothing_is_lost_or_sent_twice(
    start, service, until, capsys
):
    run = start()
    for step in range(100):
        run.log_metrics({"x": step}, step=step)
    until(lambda: len(service.steps(run.id)) == 100)
    (first,) = service.pids()
    os.kill(first, signal.SIGKILL)
    for step in range(100, 200):
        run.log_metrics({"x": step}, step=step)
    until(lambda: len(service.steps(run.id)) == 200)
    run.end_run()
    assert service.steps(run.id) == list(range(200))
    assert len(service.pids()) == 2
    assert summary(run)["followers"]["tofile"]["finished"]
    assert capsys.readouterr().err.count("started again") == 1


def test_a_child_that_cannot_be_started_costs_the_run_nothing(start, service, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/there/is/no/python")
    run = start(exit_timeout_s=0.2)
    run.log_metrics({"x": 1})
    run.end_run()
    assert summary(run)["status"] == "finished"
    owed = (run.path / "metrics_history.json").stat().st_size - len("[\n]\n")
    assert summary(run)["followers"] == {"tofile": {"finished": False, "owed_bytes": owed}}
    assert "cannot be started" in capsys.readouterr().err


def test_the_child_imports_from_where_this_process_does(service, start, tmp_path, monkeypatch):
    """As where a cluster's modules put folders called site-packages on PYTHONPATH."""
    package = Path(service.import_path.split(os.pathsep)[0])
    package.rename(package.with_name("site-packages"))
    monkeypatch.syspath_prepend(package.with_name("site-packages"))
    run = start(exit_timeout_s=30)
    run.log_metrics({"x": 0}, step=0)
    run.end_run()
    assert service.steps(run.id) == [0]


def test_a_damaged_note_of_a_mirror_is_told_with_what_to_do_and_then_it_goes_on(
    start, service, until, capsys
):
    service.mood("away")
    run = start(exit_timeout_s=30)
    run.log_metrics({"x": 0}, step=0)
    until(lambda: state(run).get("error"))
    mirroring.child().kill()
    path = run.path / "backends/tofile.json"
    path.write_text("")
    service.mood()
    run._writer.mirrors.look()
    assert "tofile.json is not JSON: empty. Delete it and the copy is begun" in (
        capsys.readouterr().err
    )
    path.unlink()
    run.end_run()
    assert service.steps(run.id) == [0]
    assert summary(run)["followers"]["tofile"]["finished"]


def test_a_damaged_note_of_a_mirror_does_not_keep_a_run_from_ending(start, service, until):
    run = start(exit_timeout_s=0.2)
    run.log_metrics({"x": 1})
    until(lambda: service.steps(run.id) == [0])
    os.kill(*service.pids(), signal.SIGKILL)
    (run.path / "backends/tofile.json").write_text("{ torn")
    run.end_run()
    told = summary(run)["followers"]["tofile"]
    assert not told["finished"]
    assert "tofile.json is not JSON" in told["error"]
    mirroring.child().end()
    (run.path / "backends/tofile.json").unlink()


def test_forked_workers_leave_the_child_alone_and_do_not_keep_it(script, service, until):
    """They inherit the pipe to it: were it to wait for the end of that, it would not end."""
    process, run_id = script(
        """
        run.log_metrics({"x": 0}, step=0)
        while not os.path.exists(run.path / "backends/tofile.json"):
            time.sleep(0.01)
        fork = multiprocessing.get_context("fork")
        with fork.Pool(2) as pool:
            pool.map(abs, range(10))
        run.log_metrics({"x": 1}, step=1)
        worker = fork.Process(target=time.sleep, args=(600,))
        worker.start()
        print(worker.pid, flush=True)
        time.sleep(600)
        """
    )
    worker = int(process.stdout.readline())
    try:
        until(lambda: service.steps(run_id) == [0, 1])
        assert len(service.pids()) == 1
        process.kill()
        process.wait()
        until(lambda: not any(map(is_alive, service.pids())))
        assert is_alive(worker)
        assert service.calls(run_id)[-1]["status"] == "crashed"
    finally:
        os.kill(worker, signal.SIGKILL)
        process.communicate()


# ---------------------------------------------------------------------- a service in trouble


def test_a_hanging_service_holds_the_end_no_longer_than_its_bound_and_is_paid_later(
    start, service, until, capsys
):
    service.mood("hanging")
    run = start(exit_timeout_s=0.3)
    for step in range(100):
        run.log_metrics({"x": step}, step=step)
    run.end_run()
    told = summary(run)["followers"]["tofile"]
    assert summary(run)["status"] == "finished"
    assert not told["finished"]
    said = capsys.readouterr().err
    assert "in time (it is still starting). Still owed: " in said
    assert f"{told['owed_bytes']:,} bytes of rows. To pay: experiments push {run.path}" in said
    service.mood()  # As in a notebook, the process lives on, and so does its child.
    until(lambda: service.calls(run.id, "end"))
    assert service.steps(run.id) == list(range(100))


@pytest.mark.parametrize(("files", "owed"), [(0, "its end"), (1, "1 file"), (2, "2 files")])
def test_what_is_owed_is_named_with_the_reason(start, service, until, capsys, files, owed):
    run = start(exit_timeout_s=0)
    run.log_metrics({"x": 0}, step=0)
    until(lambda: state(run).get("rows") == 1)
    service.mood("hanging")
    for number in range(files):
        run.log_text("hello", f"note-{number}")
    run.end_run()
    assert f"it is still copying). Still owed: {owed}. To pay: " in capsys.readouterr().err


def test_the_end_does_not_wait_for_a_service_that_is_away(start, service, capsys):
    service.mood("away")
    run = start(exit_timeout_s=3000)
    run.log_metrics({"x": 1})
    run.end_run()
    told = summary(run)["followers"]["tofile"]
    assert not told["finished"]
    assert told["error"] == "ConnectionError: the service is away"
    assert "the service is away" in capsys.readouterr().err


def test_an_outage_is_told_once_and_so_is_its_end(start, service, until, capsys):
    run = start()
    run.log_metrics({"x": 0}, step=0)
    until(lambda: service.steps(run.id) == [0])
    service.mood("away")
    run.log_metrics({"x": 1}, step=1)
    shown = []

    def told(text):
        shown.append(capsys.readouterr().err)
        return text in "".join(shown)

    until(lambda: told("does not take it now"))
    service.mood()
    until(lambda: told("works again"))
    run.end_run()
    told("")
    assert "".join(shown).count("tofile") == 2
    assert service.steps(run.id) == [0, 1]


def test_what_a_service_refuses_is_told_and_the_rest_arrives(start, service, until, capsys):
    service.mood("picky")
    run = start(config={"lr": 0.1})
    run.log_metrics({"x": 0}, step=0)
    until(lambda: service.calls(run.id, "row") and state(run)["refused"])
    run._writer.mirrors.look()
    run.end_run()
    assert "tofile refuses params (ValueError: not these params)" in capsys.readouterr().err
    assert summary(run)["followers"]["tofile"]["finished"]
    assert service.calls(run.id)[-1]["call"] == "end"


@pytest.mark.parametrize("mood", ["hanging", "slow", "away"])
def test_a_script_that_ends_leaves_no_child_whatever_the_service_does(
    script, service, root, until, mood
):
    service.mood(mood)
    process, run_id = script(
        """
        for step in range(1000):
            run.log_metrics({"x": step}, step=step)
        from experiment_tracking import mirroring
        while mirroring.child()._process is None:
            time.sleep(0.01)
        print(mirroring.child()._process.pid)
        """,
        exit_timeout_s=0.2,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert not is_alive(int(out))
    assert "experiments push" in err
    assert not service.calls(run_id, "end")


def test_sigterm_ends_a_run_whose_service_hangs_and_no_child_is_left(script, service, root):
    service.mood("hanging")
    process, _ = script(
        """
        run.log_metrics({"x": 1})
        from experiment_tracking import mirroring
        while mirroring.child()._process is None:
            time.sleep(0.01)
        print(mirroring.child()._process.pid, flush=True)
        time.sleep(600)
        """,
        exit_timeout_s=0.2,
    )
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert RunRecord(root / "p/r").status == "killed"
    assert not is_alive(child)


# ---------------------------------------------------------------------- places and secrets


def test_a_run_whose_folder_is_moved_is_mirrored_from_there(start, service, root, until):
    run = start()
    run.log_metrics({"x": 0}, step=0)
    until(lambda: service.steps(run.id) == [0])
    (root / "elsewhere").mkdir()
    os.rename(root / "p/r", root / "elsewhere/r")
    assert not run._writer.has_successor()
    run.log_metrics({"x": 1}, step=1)
    run.end_run()
    assert run.path == root / "elsewhere/r"
    assert service.steps(run.id) == [0, 1]
    assert summary(run)["followers"]["tofile"]["finished"]


def test_a_run_that_another_process_took_over_is_mirrored_by_that_one(
    start, script, service, until
):
    run = start()
    run.log_metrics({"x": 0}, step=0)
    until(lambda: service.steps(run.id) == [0])
    process, run_id = script("run.log_metrics({'x': 1}, step=1)", resume="force")
    assert run._writer.has_successor()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, run_id) == (0, run.id), err
    run.end_run("failed")
    assert service.steps(run.id) == [0, 1]
    assert [call["status"] for call in service.calls(run.id, "end")] == ["finished"]
    assert summary(run)["status"] == "finished"


def test_credentials_in_options_reach_the_service_and_no_byte_of_the_run(start, service, until):
    run = start(backend=service.backend(TOKEN))
    run.log_metrics({"x": 0}, step=0)
    until(lambda: service.steps(run.id) == [0])
    (child,) = service.pids()
    seen = [Path(f"/proc/{child}/{name}").read_bytes() for name in ("cmdline", "environ")]
    run.end_run()
    kept = [path.read_bytes() for path in run.path.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in data for data in [*kept, *seen])
    assert state(run)["state"]["token"] == len(TOKEN)
    assert state(run)["options"] == {"folder": str(service.folder), "token": "***"}


# ---------------------------------------------------------------------- asking first


def test_verify_backends_refuses_a_service_that_is_away_before_anything_is_written(
    make, service, root
):
    service.mood("away")
    with pytest.raises(BackendError, match=r"'tofile' cannot be reached.*the service is away"):
        make("p", backend=service.backend(), verify_backends=True)
    assert not root.exists()
    make("p", backend=service.backend())  # which is tried behind the run


def test_verify_backends_lets_a_service_through_that_answers(make, service):
    tracker = make("p", backend=service.backend(), verify_backends=True)
    assert isinstance(tracker, ExperimentTracker)
