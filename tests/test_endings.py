"""Every way a process can end, as real scripts, and what the run on disk says then."""

import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

import experiment_tracking
from experiment_tracking import ExperimentTracker, endings
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.liveness import status_of

PACKAGE_PARENT = os.path.dirname(os.path.dirname(experiment_tracking.__file__))

START = """
import os, signal, sys, threading, time
from experiment_tracking import ExperimentTracker
tracker = ExperimentTracker("p", use_tensorboard=False, auto_log=False)
"""


class Ended:
    """How a script ended, and its run with it."""

    def __init__(self, code, out, err, folder):
        self.code, self.out, self.err = code, out, err
        self.summary = json.loads((folder / "summary.json").read_text())
        self.status = status_of(self.summary, str(folder / "heartbeat.json"))[0]
        self.rows = json.loads((folder / "metrics_history.json").read_text())
        self.error = self.summary.get("error")


@pytest.fixture
def started(root, tmp_path):
    def started(script):
        path = tmp_path / "script.py"
        path.write_text(START + textwrap.dedent(script))
        paths = [PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")]
        env = {
            "EXPERIMENT_TRACKING_ROOT": str(root),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, str(path)], env=os.environ | env, **pipes)

    return started


@pytest.fixture
def ending(started, root):
    """Run a script, send it a signal once it prints ``ready``, and tell how it ended."""

    def ending(script, *signals):
        process = started(script)
        for number in signals:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return Ended(process.returncode, out, err, root / "p/r")

    return ending


# ---------------------------------------------------------------------- said by the caller


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("FINISHED", "finished"), ("Completed", "finished"), ("success", "finished"),
        ("FAILED", "failed"), ("Error", "failed"), ("KILLED", "killed"), ("killed", "killed"),
    ],
)  # fmt: skip
def test_the_word_given_to_end_run_is_the_status(root, capsys, word, status):
    run = ExperimentTracker("p", root=root, use_tensorboard=False, auto_log=False).start_run("r")
    run.end_run(word)
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["status"], summary["attempts"][-1]["status"]) == (status, status)
    assert "not known" not in capsys.readouterr().err


def test_an_unknown_word_is_finished_with_one_warning(root, capsys):
    tracker = ExperimentTracker("p", root=root, use_tensorboard=False, auto_log=False)
    runs = [tracker.start_run(name) for name in "ab"]
    tracker.finish("splendid")
    assert [run.status for run in runs] == ["finished", "finished"]
    assert capsys.readouterr().err.count("'splendid' is not known") == 1


# ---------------------------------------------------------------------- with blocks


@pytest.mark.parametrize(
    ("leave", "code", "status"),
    [
        ("pass", 0, "finished"),
        ("1 / 0", 1, "failed"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "killed"),
        ("sys.exit()", 0, "finished"),
        ("sys.exit(0)", 0, "finished"),
        ("sys.exit(3)", 3, "failed"),
        ("sys.exit('why')", 1, "failed"),
        ("run.end_run('failed')", 0, "failed"),
    ],
)
def test_leaving_a_with_block(ending, leave, code, status):
    ended = ending(
        f"""
        with tracker.start_run("r") as run:
            run.log_metrics({{"x": 1}})
            {leave}
        """
    )
    assert (ended.code, ended.status, len(ended.rows)) == (code, status, 1)


def test_an_exception_is_kept_with_its_type_and_message(ending):
    ended = ending(
        """
        with tracker.start_run("r"):
            raise ValueError("loss is NaN")
        """
    )
    assert ended.error == {"type": "ValueError", "message": "loss is NaN"}
    assert "ValueError: loss is NaN" in ended.err


# ---------------------------------------------------------------------- nothing said


@pytest.mark.parametrize(
    ("last", "code", "status"),
    [
        ("", 0, "finished"),
        ("sys.exit(0)", 0, "finished"),
        ("1 / 0", 1, "failed"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "killed"),
        ("run.end_run()", 0, "finished"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "killed"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "crashed"),
        ("os._exit(5)", 5, "crashed"),
    ],
)
def test_the_end_of_a_script_without_finish(ending, last, code, status):
    ended = ending(
        f"""
        run = tracker.start_run("r")
        run.log_metrics({{"x": 1}})
        {last}
        """
    )
    assert (ended.code, ended.status, len(ended.rows)) == (code, status, 1)


def test_sys_exit_with_an_error_code_outside_a_with_block(ending):
    ended = ending("run = tracker.start_run('r'); sys.exit(3)")
    assert ended.code == 3
    # sys.exit does not pass through sys.excepthook: nothing tells it from a normal end.
    assert ended.status == "finished"


def test_the_users_own_excepthook_still_runs(ending):
    ended = ending(
        """
        sys.excepthook = lambda kind, error, trace: print("mine:", error)
        run = tracker.start_run("r")
        raise ValueError("broken")
        """
    )
    assert (ended.status, ended.out, ended.err.count("Traceback")) == (
        "failed",
        "mine: broken\n",
        0,
    )


def test_an_excepthook_put_over_ours_does_not_hide_the_failure(ending):
    ended = ending(
        """
        run = tracker.start_run("r")
        sys.excepthook = lambda kind, error, trace: print("mine:", error)
        raise ValueError("broken")
        """
    )
    assert (ended.code, ended.status, ended.error["message"]) == (1, "failed", "broken")


def test_a_finished_run_stays_finished_whatever_comes_later(ending):
    ended = ending("tracker.start_run('r').end_run(); 1 / 0")
    assert (ended.code, ended.status, ended.error) == (1, "finished", None)


# ---------------------------------------------------------------------- signals

LOOP = """
        with {block}:
            tracker.log_metrics({{"x": 1}})
            print("ready", flush=True)
            while True:
                time.sleep(0.01)
"""


@pytest.mark.parametrize("block", ["tracker.start_run('r')", "tracker, tracker.start_run('r')"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)]
)
def test_a_signal_in_a_with_block_reads_killed(ending, block, number, code):
    ended = ending(textwrap.dedent(LOOP.format(block=block)), number)
    assert (ended.code, ended.status, len(ended.rows)) == (code, "killed", 1)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)]
)
def test_a_signal_outside_any_block_reads_killed(ending, number, code):
    ended = ending(
        """
        run = tracker.start_run("r")
        run.log_metrics({"x": 1})
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
        """,
        number,
    )
    assert (ended.code, ended.status, len(ended.rows)) == (code, "killed", 1)


def test_the_error_of_a_killed_run_names_the_signal(ending):
    ended = ending("r = tracker.start_run('r'); os.kill(os.getpid(), signal.SIGTERM)")
    assert ended.error == {"type": "Signal", "message": "SIGTERM"}


def test_the_users_sigterm_handler_is_left_alone(ending):
    ended = ending(
        """
        def stop(number, frame):
            print("mine")
            tracker.log_metrics({"x": 2})
            tracker.finish("failed")
            sys.exit(9)

        signal.signal(signal.SIGTERM, stop)
        run = tracker.start_run("r")
        assert signal.getsignal(signal.SIGTERM) is stop
        run.log_metrics({"x": 1})
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
        """,
        signal.SIGTERM,
    )
    assert (ended.code, ended.status, ended.out) == (9, "failed", "mine\n")
    assert [row["x"] for row in ended.rows] == [1, 2]


def test_an_ignored_sigterm_stays_ignored(ending):
    ended = ending(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        run = tracker.start_run("r")
        os.kill(os.getpid(), signal.SIGTERM)
        """
    )
    assert (ended.code, ended.status) == (0, "finished")


def test_sigterm_is_given_back_when_the_last_run_has_ended(root):
    tracker = ExperimentTracker("p", root=root, use_tensorboard=False, auto_log=False)
    runs = [tracker.start_run(name) for name in "ab"]
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    runs[0].end_run()
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    runs[1].end_run()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_on_a_run_that_was_opened_in_another_thread_reads_crashed(ending):
    ended = ending(
        """
        threading.Thread(target=lambda: tracker.start_run("r").log_metrics({"x": 1})).start()
        while not tracker._open_runs:
            time.sleep(0.01)
        time.sleep(0.05)
        print("ready", flush=True)
        time.sleep(60)
        """,
        signal.SIGTERM,
    )
    assert (ended.code, ended.status, len(ended.rows)) == (-signal.SIGTERM, "crashed", 1)


# ---------------------------------------------------------------------- threads


@pytest.mark.parametrize(("leave", "status"), [("pass", "finished"), ("1 / 0", "failed")])
@pytest.mark.parametrize("block", [True, False])
def test_a_run_in_a_thread(ending, leave, status, block):
    ended = ending(
        f"""
        threading.excepthook = lambda args: print("mine:", args.exc_value)

        def work():
            run = tracker.start_run("r")
            if {block}:
                with run:
                    run.log_metrics({{"x": 1}})
                    {leave}
            run.log_metrics({{"x": 1}}) if not {block} else None
            {leave}

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """
    )
    assert (ended.code, ended.status, len(ended.rows)) == (0, status, 1)
    assert ended.out == ("mine: division by zero\n" if status == "failed" else "")


def test_a_thread_that_fails_says_nothing_of_the_runs_of_others(ending):
    ended = ending(
        """
        threading.excepthook = lambda args: None
        run = tracker.start_run("r")
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        """
    )
    assert (ended.code, ended.status) == (0, "finished")


def test_a_thread_may_log_after_the_main_thread_has_ended(ending):
    ended = ending(
        """
        run = tracker.start_run("r")

        def work():
            threading.main_thread().join()
            for step in range(20):
                run.log_metrics({"x": step})
                time.sleep(0.005)

        threading.Thread(target=work).start()
        """
    )
    assert (ended.code, ended.status, len(ended.rows)) == (0, "finished", 20)
    assert ended.err.count("\n") == 1


def test_a_run_that_nobody_holds_any_more_is_finished(root):
    tracker = ExperimentTracker("p", root=root, use_tensorboard=False, auto_log=False)
    run = tracker.start_run("r")
    run.log_metrics({"x": 1})
    path = run.path
    (writer,) = endings.open_writers()
    del run, tracker
    gc.collect()
    _wait_until(lambda: writer.ended)
    assert json.loads((path / "summary.json").read_text())["status"] == "finished"


def test_a_dropped_run_does_not_take_another_of_its_name_with_it(root):
    tracker = ExperimentTracker("p", root=root, use_tensorboard=False, auto_log=False)
    kept = tracker.start_run("r")
    other = ExperimentTracker("p", root=root, use_tensorboard=False, auto_log=False)
    other.start_run("r")
    dropped = endings.open_writers()[0]
    del other
    gc.collect()
    _wait_until(lambda: dropped.ended)
    kept.log_metrics({"x": 1})
    assert kept.status == "running"


def _wait_until(done):
    for _ in range(1000):
        if done():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came")


# ---------------------------------------------------------------------- custom backends

POOLED = """
from concurrent.futures import ThreadPoolExecutor
from experiment_tracking.backends import BackendInterface

class Pooled(BackendInterface):
    def start_run(self, run_name, config):
        self.pool = ThreadPoolExecutor(2)
        self.steps = []
    def log_metrics(self, metrics, step):
        self.steps.append(self.pool.submit(lambda: step))
    def log_model(self, model, path):
        pass
    def end_run(self, status):
        steps = [future.result() for future in self.steps]
        print(status, len(steps), steps == sorted(steps), flush=True)

tracker = ExperimentTracker("p", use_tensorboard=False, auto_log=False, backend=Pooled())
run = tracker.start_run("r")
for step in range(500):
    run.log_metrics({"x": step}, step=step)
"""


@pytest.mark.parametrize(
    ("last", "code", "status"),
    [
        ("", 0, "finished"),
        ("1 / 0", 1, "failed"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "killed"),
    ],
)
def test_a_backend_with_a_thread_pool_gets_everything_from_a_script_without_finish(
    ending, last, code, status
):
    ended = ending(POOLED + last)
    assert (ended.code, ended.status, len(ended.rows)) == (code, status, 500)
    assert ended.out == f"{status} 500 True\n"
    assert ended.summary["followers"] == {"Pooled": {"finished": True, "owed_bytes": 0}}
    assert "Traceback" not in ended.err or code == 1


@pytest.mark.parametrize("where", ["start_run", "log_metrics", "end_run"])
def test_a_hanging_backend_holds_the_exit_no_longer_than_its_bound(ending, where):
    ended = ending(
        f"""
        from experiment_tracking.backends import BackendInterface

        class Hanging(BackendInterface):
            def start_run(self, run_name, config):
                self.hang("start_run")
            def log_metrics(self, metrics, step):
                self.hang("log_metrics")
            def log_model(self, model, path):
                pass
            def end_run(self, status):
                self.hang("end_run")
            def hang(self, place):
                if place == {where!r}:
                    time.sleep(600)

        tracker = ExperimentTracker(
            "p", use_tensorboard=False, auto_log=False, backend=Hanging(), exit_timeout_s=0.2
        )
        run = tracker.start_run("r")
        run.log_metrics({{"x": 1}})
        """
    )
    assert (ended.code, ended.status, len(ended.rows)) == (0, "finished", 1)
    assert ended.summary["followers"]["Hanging"]["finished"] is False
    assert ended.err.count("'Hanging' has not finished") == 1
    assert "Traceback" not in ended.err


# ---------------------------------------------------------------------- children


def test_a_forked_child_that_exits_leaves_the_run_open(ending):
    ended = ending(
        """
        run = tracker.start_run("r")
        run.log_metrics({"x": 1})
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        os.waitpid(pid, 0)
        run.log_metrics({"x": 2})
        print(run.status)
        """
    )
    assert (ended.out, ended.status, len(ended.rows)) == ("running\n", "finished", 2)


def test_a_pool_of_forked_workers_can_be_terminated(ending):
    ended = ending(
        """
        import multiprocessing
        with tracker.start_run("r") as run:
            with multiprocessing.get_context("fork").Pool(2) as pool:
                print(pool.map(abs, [-1, -2]))
            run.log_metrics({"x": 1})
        """
    )
    assert (ended.code, ended.status, ended.out) == (0, "finished", "[1, 2]\n")


def test_ctrl_c_in_the_middle_of_the_last_rows_leaves_no_wrong_summary(root, monkeypatch):
    run = ExperimentTracker("p", root=root, auto_log=False).start_run("r")
    real = Digest.update

    def interrupted(self, rows):
        real(self, rows[: len(rows) // 2])
        raise KeyboardInterrupt

    with run._writer.follower.lock:  # so that the rows are left to the ending
        run.define_metric("x", "max")
        for step in range(20_000):
            run.log_metrics({"x": step})
        with monkeypatch.context() as patched:
            patched.setattr(Digest, "update", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run.end_run()
        run.end_run("killed")
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["status"], summary["history"]["rows"]) == ("killed", 20_000)
    assert (summary["metrics"]["x"]["count"], summary["metrics"]["x"]["best"]) == (20_000, 19_999)


def test_ctrl_c_while_finishing_can_be_repeated_and_the_status_is_written(ending):
    ended = ending(
        """
        from experiment_tracking.backends import BackendInterface

        class Slow(BackendInterface):
            ends = 0
            def start_run(self, run_name, config):
                pass
            def log_metrics(self, metrics, step):
                pass
            def log_model(self, model, path):
                pass
            def end_run(self, status):
                print("ready", flush=True)
                go_on.wait()
                Slow.ends += 1

        go_on = threading.Event()
        tracker = ExperimentTracker("p", use_tensorboard=False, auto_log=False, backend=Slow())
        run = tracker.start_run("r")
        run.log_metrics({"x": 1})
        try:
            tracker.finish()
        except KeyboardInterrupt:
            go_on.set()
            tracker.finish("killed")
        print(Slow.ends)
        """,
        signal.SIGINT,
    )
    assert (ended.code, ended.status, ended.out) == (0, "killed", "1\n")
