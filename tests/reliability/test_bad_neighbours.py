"""One damaged run never hides another: a hundred good ones beside each kind of bad one."""

import errno
import json
import os
import shutil
import socket
import threading

import numpy as np
import pytest

from experiment_tracking import ExperimentRegistry, ExperimentTracker

GOOD = 100

SUMMARY = {
    "format": 1, "id": "b" * 16, "name": "bad", "project": "digits", "status": "finished",
    "created_at": "2026-11-20T15:30:40.200Z", "ended_at": "2026-11-20T15:30:41.200Z",
    "duration_s": 1.0, "tags": {}, "notes": "", "group": None, "parent": None, "attempts": [],
    "goals": {}, "metrics": {}, "history": {"digested_bytes": 4, "bytes": 4, "rows": 0},
}  # fmt: skip
METRIC = {"last": 1.0, "last_step": 0, "min": 1.0, "max": 1.0, "mean": 1.0, "count": 1}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A root of good runs; what a test puts beside them it takes away again."""
    root = tmp_path_factory.mktemp("neighbours") / "root"
    tracker = ExperimentTracker("digits", root=root, use_tensorboard=False, auto_log=False)
    for number in range(GOOD):
        with tracker.start_run(f"run-{number:03d}", config={"lr": number}) as run:
            run.log_metrics({"loss": number / 7}, step=0)
    return root


@pytest.fixture
def bad(good):
    """The folder of the bad run, for a test to fill."""
    folder = good / "digits" / "bad"
    folder.mkdir()
    (folder / "metrics_history.json").write_bytes(b"[\n]\n")
    (folder / "params.json").write_bytes(b"{}")
    yield folder
    shutil.rmtree(folder)


def dump(value):
    return json.dumps(value).encode()


def summary(**changes):
    return dump(SUMMARY | changes)


def read(root):
    """Read the good runs in all ways; return them, and the bad run's problem if it has one."""
    registry = ExperimentRegistry(root)
    runs = registry.list_experiments()
    problems = [each for each in registry.problems if "run-" not in each.path]
    assert registry.problems == problems
    good = runs.filter(lambda run: run.name.startswith("run-"))
    assert good.names == [f"run-{number:03d}" for number in range(GOOD)]
    assert good.column("lr") == list(range(GOOD))
    assert good.column("loss") == [number / 7 for number in range(GOOD)]
    frame = registry.to_frame(["name", "loss"])
    frame = frame[frame["name"].str.startswith("run-")]
    assert np.array_equal(frame["loss"], [number / 7 for number in range(GOOD)])
    assert registry.best("loss", mode="min", name=good.names).name == "run-000"
    assert registry.compare_experiments(good[:3])["metrics"]["loss"] == [0, 1 / 7, 2 / 7]
    return runs, problems


def check_named(root, reason=""):
    """The bad run is named with its reason, and nothing of it is in the table."""
    for _ in range(2):  # the second look has the index
        runs, problems = read(root)
        assert len(runs) == GOOD
        assert [os.path.basename(problem.path) for problem in problems] == ["bad"]
        assert reason in problems[0].reason
        assert len(problems[0].reason) < 1000


def check_read(root):
    """The bad run is odd and no more: it is there."""
    for _ in range(2):
        runs, problems = read(root)
        assert (len(runs), problems) == (GOOD + 1, [])
    return runs.filter(lambda run: not run.name.startswith("run-"))[0]


# ---------------------------------------------------------------------- files (B25 to B34)


def fifo(path):
    os.mkfifo(path)


def endless(path):
    os.symlink("/dev/zero", path)


def to_itself(path):
    os.symlink(path, path)


def to_nothing(path):
    os.symlink(path + ".none", path)


def folder(path):
    os.mkdir(path)


def huge(path):
    with open(path, "wb") as file:
        file.truncate(50 * 2**30)


def bound_socket(path):
    here = os.getcwd()
    os.chdir(os.path.dirname(path))  # the path of a socket may have 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.basename(path))
    finally:
        os.chdir(here)


def unreadable(path):
    with open(path, "wb") as file:
        file.write(summary())
    os.chmod(path, 0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


FILES = [fifo, endless, to_itself, to_nothing, folder, huge, bound_socket, unreadable]


@pytest.mark.parametrize("make", FILES)
def test_a_summary_that_is_no_plain_file_is_named(good, bad, make):
    try:
        make(str(bad / "summary.json"))
    except OSError as error:
        if error.errno not in (errno.EFBIG, errno.EPERM):
            raise
        pytest.skip(f"this file system does not have such a file: {error}")
    check_named(good)


@pytest.mark.parametrize("make", FILES)
def test_params_that_are_no_plain_file_are_named_and_the_run_is_there_without_them(good, bad, make):
    (bad / "summary.json").write_bytes(summary())
    os.unlink(bad / "params.json")
    make(str(bad / "params.json"))
    runs, problems = read(good)
    assert len(runs) == GOOD + 1
    assert [os.path.basename(problem.path) for problem in problems] == ["bad"]
    assert "params.json" in problems[0].reason


def test_a_summary_with_a_further_name_elsewhere_is_read(good, bad, tmp_path):
    (tmp_path / "summary.json").write_bytes(summary())
    os.link(tmp_path / "summary.json", bad / "summary.json")
    check_read(good)


def test_a_run_that_is_swapped_again_and_again_while_it_is_read_is_one_or_the_other(good, bad):
    over = threading.Event()

    def swap():
        while not over.is_set():
            for notes in ("one", "two"):
                (bad / "new").write_bytes(summary(notes=notes))
                os.replace(bad / "new", bad / "summary.json")

    (bad / "summary.json").write_bytes(summary(notes="one"))
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(5):
            runs, problems = read(good)
            assert (len(runs), problems) == (GOOD + 1, [])
            assert runs.filter(name="bad").column("notes")[0] in ("one", "two")
    finally:
        over.set()
        thread.join()


def test_many_and_deep_artifacts_cost_a_scan_nothing(good, bad):
    (bad / "summary.json").write_bytes(summary())
    os.makedirs(bad / "artifacts" / "/".join(["d"] * 200))
    for number in range(2000):
        (bad / "artifacts" / f"{number}.txt").touch()
    check_read(good)


# ---------------------------------------------------------------------- names (B20 to B22)

NAMES = [b"run_\xff", "run_\ud800".encode("utf-8", "surrogatepass"), "\u202egnp.exe".encode(),
         b"a\nb<img src=x onerror=alert(1)>", "e\u0301".encode(), b"RUN-001"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_bear_any_name(good, bad, name):
    target = os.path.join(os.fsencode(good), b"digits", name)
    shutil.copytree(os.fsencode(bad), target)
    try:
        with open(os.path.join(target, b"summary.json"), "wb") as file:
            file.write(summary())
        runs = ExperimentRegistry(good).list_experiments()
        assert len(runs) == GOOD + 1
        (odd,) = (run for run in runs if os.fsencode(run.name) == name)
        assert "<img" not in odd._repr_html_() + runs[-60:]._repr_html_()
        assert repr(runs)
        assert str(runs.to_frame())
    finally:
        shutil.rmtree(target)


# ---------------------------------------------------------------------- contents (B37 to B58)

NOT_A_SUMMARY = {
    "empty": b"",
    "NULs": b"\0" * 4096,
    "text": b"hello",
    "Latin-1": summary(notes="x").replace(b'"x"', b'"caf\xe9"'),
    "deep": b"[" * 100_000,
    "two documents": summary() + summary(),
    "trailing NULs": summary() + b"\0" * 512,
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "status a list": summary(status=[1]),
    "metrics a text": summary(metrics="x"),
    "a metric a number": summary(metrics={"loss": 1}),
    "tags a list": summary(tags=["a"]),
    "attempts a number": summary(attempts=3),
    "created_at a number": summary(created_at=7),
    "history a list": summary(history=[]),
    "a later format": summary(format=99),
    "format a text": summary(format="1"),
    "a number of 5,000 digits": summary().replace(b"1.0", b"1" * 5000, 1),
}


@pytest.mark.parametrize("content", NOT_A_SUMMARY.values(), ids=NOT_A_SUMMARY)
def test_what_is_no_summary_is_named(good, bad, content):
    (bad / "summary.json").write_bytes(content)
    check_named(good)


def test_a_summary_cut_at_any_byte_is_named(good, bad):
    whole = summary(metrics={"loss": METRIC})
    for length in range(0, len(whole), 61):
        (bad / "summary.json").write_bytes(whole[:length])
        runs, problems = read(good)
        assert (len(runs), len(problems)) == (GOOD, 1), length


ODD = {
    "a word for NaN": summary(duration_s=float("nan")),
    "UTF-16": summary().decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + summary(),
    "a status twice": summary().replace(b'"status"', b'"status": "running", "status"', 1),
    "an unknown status": summary(status="paused"),
    "special keys": summary(tags={"__proto__": "1", "constructor": "2"}),
    "a hundred thousand keys": summary(tags={f"k{i}": "" for i in range(100_000)}),
    "a key of a megabyte": summary(tags={"k" * 2**20: ""}),
    "a time long ago": summary(created_at="1970-01-01T00:00:00.000Z"),
    "a time far ahead": summary(created_at="9999-12-31T23:59:59.999Z"),
    "no time": summary(created_at="yesterday"),
    "wrong numbers": summary(metrics={"loss": {"last": "high", "count": [], "min": None}}),
    "1e400": summary(metrics={"loss": METRIC}).replace(b'"last": 1.0', b'"last": 1e400'),
    "steps of all kinds": summary(metrics={"loss": METRIC | {"last_step": "7", "min_step": -1}}),
    "escapes": summary(notes="\x1b]0;title\x07\x1b[31m", tags={"\x1b[2J": "\r"}),
    "formulas": summary(notes="=HYPERLINK(1)", tags={"=1+1": "=1+1"}),
    "scripts": summary(notes="</script><script>alert(1)</script><svg onload=alert(1)>"),
    "wrong types": summary(notes=[1], group={"a": 1}, parent=3, duration_s="long", id=7),
    "no history": summary(history=None),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_an_odd_summary_is_named_or_read_and_shown_harmlessly(good, bad, content):
    (bad / "summary.json").write_bytes(content)
    first, problems = read(good)
    second, again = read(good)
    assert (len(first), problems) == (len(second), again)
    assert len(first) + len(problems) == GOOD + 1
    for run in first.filter(name="bad"):
        shown = run._repr_html_() + first[-60:]._repr_html_()
        assert "<script" not in shown
        assert "<svg onload" not in shown
        assert "\x1b" not in shown
    if len(first.tag_names()) < 1000:  # pandas takes seconds for a hundred thousand columns
        assert len(first.to_frame()) == len(first)


PARAMS = {
    "empty": b"",
    "NULs": b"\0" * 4096,
    "a list": b"[1]",
    "deep": b'{"a":' * 100_000,
    "deep and whole": b'{"a":' * 400 + b"1" + b"}" * 400,
    "long numbers": b'{"n": [' + b",".join([b"9" * 4300] * 1000) + b"]}",
    "a number of 5,000 digits": b'{"n": ' + b"1" * 5000 + b"}",
    "NaN": b'{"n": NaN}',
    "a hundred thousand": dump({f"k{i}": i for i in range(100_000)}),
    "UTF-16": dump({"lr": 1}).decode().encode("utf-16"),
    "a formula": dump({"lr": "=HYPERLINK(1)", "a\nb": "</script><script>"}),
}


@pytest.mark.parametrize("content", PARAMS.values(), ids=PARAMS)
def test_odd_params_cost_at_most_the_params_of_their_run(good, bad, content):
    (bad / "summary.json").write_bytes(summary())
    (bad / "params.json").write_bytes(content)
    runs, problems = read(good)
    assert len(runs) == GOOD + 1
    assert len(problems) <= 1
    if not problems:
        assert "<script" not in runs.filter(name="bad")[0]._repr_html_()


HISTORY = {
    "NULs": b"[\n" + b"\0" * 4096,
    "no rows": b"nothing",
    "one long line": b'[\n{"step":0,"time":1,"a":"' + b"x" * 50_000_000 + b'"}\n]\n',
    "a torn row": b'[\n{"step":0,"time":1.0,"loss":0.5},\n{"step":1,"ti',
    "odd steps": b'[\n{"step":-1,"time":1,"loss":1},\n{"step":9223372036854775808,"time":1,"loss":2'
    b'},\n{"step":1.5,"time":1,"loss":3},\n{"step":true,"time":1,"loss":4},\n{"step":"7","time":1'
    b',"loss":5}\n]\n',
    "odd times": b'[\n{"step":0,"time":-1e300,"loss":1},\n{"step":1,"time":"now","loss":2}\n]\n',
    "many": b"[\n" + b",\n".join([b'{"step":0,"time":1.0,"loss":0.5}'] * 200_000) + b"\n]\n",
}


@pytest.mark.parametrize("content", HISTORY.values(), ids=HISTORY)
def test_an_odd_history_of_a_crashed_run_costs_at_most_its_rows(good, bad, content):
    (bad / "summary.json").write_bytes(summary(status="running", history={"digested_bytes": 0}))
    (bad / "metrics_history.json").write_bytes(content)
    for _ in range(2):
        runs, problems = read(good)
        assert (len(runs), problems) == (GOOD + 1, [])
        assert runs.filter(name="bad").column("status") == ["crashed"]
    frame = ExperimentRegistry(good).history(runs=["bad", "run-001"])
    assert frame["run"].value_counts()["digits/run-001"] == 1


def test_a_finished_run_whose_heart_still_beats_is_finished(good, bad):
    (bad / "summary.json").write_bytes(summary())
    heartbeat = good / "digits" / "run-000" / "heartbeat.json"
    shutil.copy(heartbeat, bad / "heartbeat.json")
    assert check_read(good).status == "finished"
