import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

import pytest

from experiment_tracking import ExperimentTracker


@pytest.fixture
def live(root):
    """A run of this process that is still written."""
    tracker = ExperimentTracker("live", root=root, auto_log=False, use_tensorboard=False)
    run = tracker.start_run("r")
    yield run
    if run.status == "running":
        run.end_run()


@pytest.fixture
def started(command):
    """Start the command line with pipes; all are ended and closed after the test."""
    processes = []

    def start(*words):
        process = subprocess.Popen(
            [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def rows(out):
    return [line.split() for line in out.splitlines()]


# ---------------------------------------------------------------------- tail


def test_tail_shows_the_last_rows_in_columns(experiments):
    code, out, err = experiments("tail", "lr-0.01", "-n", 3)
    assert (code, err) == (0, "")
    header, *lines = rows(out)
    assert header == ["step", "time", "val/loss", "val/acc"]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert [line[2] for line in lines] == ["1.5", "1.3333", "nan"]
    assert [line[3] for line in lines] == ["-0.75", "-0.5", "-"]
    assert len({len(line) for line in out.splitlines()}) == 1


def test_tail_shows_chosen_metrics_alone(experiments):
    header, *lines = rows(experiments("tail", "lr-0.01", "--metrics", "acc")[1])
    assert header == ["step", "time", "val/acc"]
    assert [line[0] for line in lines] == ["0", "1", "2"]
    assert experiments("tail", "lr-0.01", "--metrics", "los")[0] == 3


def test_tail_prints_json_lines(experiments):
    out = experiments("tail", "lr-0.01", "-n", 2, "--json")[1]
    last, nan = map(json.loads, out.splitlines())
    assert (last["step"], last["val/acc"]) == (2, -0.5)
    assert nan["val/loss"] == "NaN"
    only = json.loads(experiments("tail", "lr-0.1", "-n", 1, "--json", "--metrics", "acc")[1])
    assert only.keys() == {"step", "time", "val/acc"}


def test_a_new_metric_brings_a_new_header(root, experiments, live):
    for step in range(3):
        live.log_metrics({"loss": 0.5}, step=step)
    live.log_metrics({"a_metric_with_a_long_name": 1.0, "attempt": 7, "\x1b[31mred": 1}, step=3)
    header, *lines = rows(experiments("tail", "live/r")[1])
    assert header[:4] == ["step", "time", "loss", "a_metric_with_a_long_name"]
    assert header[4:] == ["metric:attempt", "\\x1b[31mred"]
    assert lines[-1][2:] == ["-", "1", "7", "1"]


def test_tail_in_a_terminal_leaves_out_what_has_no_room(in_terminal, live, experiments):
    live.log_metrics({f"metric-{i}": float(i) for i in range(20)}, step=0)
    code, shown = in_terminal("tail", "live/r", columns=60)
    assert code == 0
    assert "metric-0" in shown.splitlines()[1]
    assert max(map(len, shown.splitlines()[1:])) <= 60 or "\x1b" in shown
    assert "no room for metric-" in shown


def test_tail_follows_a_run_to_its_end(started, live):
    live.log_metrics({"loss": 1.0}, step=0)
    process = started("tail", "live/r", "--follow", "--json")
    for step in range(1, 4):
        assert json.loads(process.stdout.readline())["step"] == step - 1
        live.log_metrics({"loss": 1.0 / step, "extra": 2.0}, step=step)
    live.end_run("FAILED")
    out, err = process.communicate(timeout=60)
    assert json.loads(out)["step"] == 3
    assert (process.returncode, err) == (0, "experiments: live/r failed.\n")


def test_tail_starts_before_the_first_row_and_writes_text(started, live):
    process = started("tail", "live/r", "-f", "--metrics", "loss")
    # Whatever comes first, the command or the rows: all of them are shown.
    live.log_metrics({"loss": 0.25, "other": 1.0}, step=7)
    assert process.stdout.readline().split() == ["step", "time", "loss"]
    assert process.stdout.readline().split()[::2] == ["7", "0.25"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("words", [["tail", "live/r", "-f", "--json"], ["watch", "--interval=0.1"]])
def test_a_reader_that_has_enough_ends_it_quietly(started, live, until, words):
    live.log_metrics({"loss": 1.0})
    process = started(*words)
    process.stdout.readline()
    process.stdout.close()

    def has_ended_after_a_row_more():
        live.log_metrics({"loss": 1.0})
        return process.poll() is not None

    until(has_ended_after_a_row_more)
    assert process.returncode == 141
    assert process.stderr.read() == ""


# ---------------------------------------------------------------------- watch


def test_watch_shows_running_runs_first_then_the_newest(experiments, live):
    for step in range(3):
        live.log_metrics({"val/loss": 0.5 - step / 10, "lr": float("nan")}, step=step)
    newer = ExperimentTracker("live", root=live.path.parents[1], auto_log=False).start_run("newer")
    newer.end_run("FAILED")
    code, out, err = experiments("watch", "--once")
    assert (code, err) == (0, "")
    header, first, second, *rest = rows(out)
    assert header[:6] == ["run", "status", "age", "step", "rows/s", "last"]
    assert "val/loss" in header
    assert first[:2] == ["live/r", "running"]
    assert first[3] == "2"
    assert second[:2] == ["live/newer", "failed"]
    assert rest[-1][0] == "digits/lr-0.1"


def test_watch_in_json_holds_plain_values(experiments, live):
    for step in range(3):
        live.log_metrics({"loss": float("inf")}, step=step)
    first, *rest = json.loads(experiments("watch", "--once", "--json")[1])
    assert (first["run"], first["status"], first["step"]) == ("live/r", "running", 2)
    assert first["metrics"] == {"loss": "Infinity"}
    assert first["rows_per_s"] > 0
    assert first["last_row_s"] >= 0
    assert rest[0]["rows_per_s"] is None
    assert len(json.loads(experiments("watch", "--once", "--json", "--limit", 2)[1])) == 2
    (only,) = json.loads(experiments("watch", "waves", "--once", "--json")[1])
    assert only["run"] == "waves/波-β"


def test_watch_goes_on_until_it_is_interrupted(started, live):
    live.log_metrics({"loss": 0.5})
    process = started("watch", "live", "--interval", "0.05", "--json")
    assert json.loads(process.stdout.readline())[0]["metrics"] == {"loss": 0.5}
    live.log_metrics({"loss": 0.25})
    while json.loads(process.stdout.readline())[0]["metrics"]["loss"] != 0.25:
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_watch_in_a_terminal_shows_the_table_in_place_and_ends_with_ctrl_c(command, live):
    live.log_metrics({"loss": 0.5})
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 8, 90, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*command, "watch", "--interval", "0.05"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**environment, "TERM": "xterm-256color"},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    shown = _read_until(ours, b"0.5 ")
    live.log_metrics({"loss": 0.125})
    shown += _read_until(ours, b"0.125")
    os.write(ours, b"\x03")  # as the key does
    shown += _read_until(ours, None)
    os.close(ours)
    assert process.wait(60) == 0
    assert b"Traceback" not in shown
    assert b"\x1b[1A" in shown  # up again, over the last table
    table = shown.replace(b"\r", b"").split(b"\x1b[1A")[0].split(b"\n")
    assert len(table) <= 8


def _read_until(fd, wanted):
    """Read until something is shown, or to the end."""
    shown = b""
    while wanted is None or wanted not in shown:
        try:
            part = os.read(fd, 65536)
        except OSError:  # Linux says EIO when the other side has closed.
            return shown
        if not part:
            return shown
        shown += part
    return shown


def test_a_root_without_runs_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [
            *f"{sys.executable} -m experiment_tracking watch --once --root".split(),
            tmp_path / "empty",
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "there are no runs here yet." in done.stderr


def test_a_damaged_run_hides_no_other(experiments, root):
    (root / "digits" / "lr-0.1" / "metrics_history.json").unlink()
    os.mkdir(root / "digits" / "lr-0.1" / "metrics_history.json")
    code, out, err = experiments("watch", "--once")
    assert code == 0
    assert {"digits/lr-0.01", "digits/lr-0.001", "waves/波-β"} <= {row[0] for row in rows(out)}
    assert "lr-0.1" in err


@pytest.mark.parametrize(
    "words",
    [
        ("watch", "--interval", "0"),
        ("watch", "--interval", "nan"),
        ("watch", "--limit", "-1"),
        ("tail", "lr-0.1", "-n", "-3"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(experiments, words):
    code, out, err = experiments(*words)
    assert (code, out) == (2, "")
    assert "is no " in err


def test_watch_says_how_many_runs_it_does_not_show(experiments):
    _, out, err = experiments("watch", "--once", "-n", "3")
    assert len(rows(out)) == 1 + 3
    assert err == "experiments: 1 more run is not shown; --limit N shows N.\n"
    assert experiments("watch", "--once")[2] == ""
