"""A model into a run: whole at each instant, one generation kept, and nothing left lying about."""

import contextlib
import errno
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from experiment_tracking import ExperimentTracker, publishing
from experiment_tracking.errors import (
    DamagedError,
    InvalidValueError,
    RunEndedError,
    WriteError,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.check import check
from experiment_tracking.formats.models.arrays import ArraysFormat
from experiment_tracking.formats.models.interface import Form, Streamed, Written
from experiment_tracking.formats.models.saved import SavedModel


def tree(number):
    return {"n": number, "w": np.full(100, number)}


def document(folder):
    return json.loads((folder / "model.json").read_text())


def save_numbers(folder):
    """Return which saves ``model.json`` names, the newest first."""
    newest = document(folder)
    return [save["save"] for save in (newest, *newest["earlier"])]


def files(folder):
    """Return what is in a model's folder, hidden files too."""
    return sorted(os.listdir(folder))


def whole(folder):
    """Return the number of the newest save; all that is kept verifies."""
    for save in SavedModel(folder).saves:
        loaded = SavedModel(folder, step=save["step"]).load()
        assert loaded["w"].tolist() == [loaded["n"]] * 100
    return SavedModel(folder).load()["n"]


@pytest.fixture
def run(make):
    with make("p").start_run("r") as run:
        yield run


# ---------------------------------------------------------------------- what is kept beside


def test_the_metrics_of_that_moment_are_kept_as_they_are_stored(run):
    run.log_metrics({"loss": 3.0, "val/acc": 0.5, "time": 2.0}, step=0)
    run.log_metrics({"loss": float("nan")}, step=1)
    kept = document(run.log_model(tree(0)))
    assert kept["metrics"] == {"loss": "NaN", "val/acc": 0.5, "metric:time": 2.0}
    assert kept["step"] == 1


def test_rows_that_the_runs_thread_has_not_come_to_count_as_well(run):
    """It gets to each row within a tenth of a second; a model is saved right behind its row."""
    for step in range(500):
        run.log_metrics({"loss": step}, step=step)
        if step % 50 == 0:
            assert publishing.last_values(run._writer) == {"loss": step}


def test_of_very_many_rows_the_last_are_looked_at(run, monkeypatch):
    monkeypatch.setattr(publishing, "_BEHIND_BYTES", 1000)
    with run._writer.follower.lock:  # as if it were far behind
        for step in range(500):
            run.log_metrics({"loss": step, "old" if step == 0 else "x": 1}, step=step)
        assert publishing.last_values(run._writer) == {"loss": 499, "x": 1}


def test_a_history_that_cannot_be_read_back_costs_no_model(make, tmp_path):
    run = make("p", root=tmp_path / "damaged").start_run("r")
    with run._writer.follower.lock:
        run.log_metrics({"loss": 1.0})
        os.truncate(run.path / "metrics_history.json", 3)
        folder = run.log_model(tree(1))
    assert whole(folder) == 1
    assert document(folder)["metrics"] == {}


def test_a_save_says_what_it_is(run):
    run.log_metrics({"loss": 1.0}, step=4)
    folder = run.log_model(
        tree(7), metadata={"epoch": 1}, aliases="best", signature={"inputs": [{"name": "x"}]}
    )
    kept = document(folder)
    weights = kept["files"]["weights"]
    assert weights["file"] == "weights-000001.safetensors"
    assert weights["tensors"]["w"] == {"shape": [100], "dtype": "int64", "library": "numpy"}
    assert weights["size_bytes"] == kept["size_bytes"] == (folder / weights["file"]).stat().st_size
    assert (kept["format"], kept["name"], kept["framework"], kept["save"]) == (
        1, "model", "arrays", 1,
    )  # fmt: skip
    assert (kept["metadata"], kept["aliases"], kept["earlier"]) == ({"epoch": 1}, ["best"], [])
    assert kept["signature"] == {"inputs": [{"name": "x"}], "outputs": []}
    assert kept["versions"]["numpy"] == np.__version__
    assert kept["parameter_count"] == 100


# ---------------------------------------------------------------------- how many stay


def test_the_last_saves_stay(run):
    for number in range(6):
        folder = run.log_model(tree(number), step=number, keep=3)
    assert save_numbers(folder) == [6, 5, 4]
    assert files(folder) == ["model.json", *(f"weights-{n:06d}.safetensors" for n in (4, 5, 6))]
    assert whole(folder) == 5


def losses_kept(run, losses, keep_best, **options):
    for step, loss in enumerate(losses):
        run.log_metrics({keep_best[0]: loss}, step=step)
        folder = run.log_model(tree(step), keep_best=keep_best, **options)
    whole(folder)
    return [save["metrics"][keep_best[0]] for save in SavedModel(folder).saves]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("losses", "count", "kept"),
    [
        ([3, 1, 4, 2, 5], 2, [5, 2, 1]),  # the last, the one before and best, the best
        ([5, 4, 3, 2, 1], 2, [1, 2]),
        ([1, 2, 3, 4, 5], 1, [5, 4, 1]),
        ([1, NAN, NAN, NAN], 1, ["NaN", "NaN", 1]),
        ([NAN, NAN, 2, NAN, NAN], 1, ["NaN", "NaN", 2]),
        ([INF, 3, -INF, 4, 5], 1, [5, 4, "-Infinity"]),
        ([2, 2, 2, 2], 2, [2, 2]),
    ],
)
def test_those_of_the_best_values_stay_beside_the_last_two(run, losses, count, kept):
    assert losses_kept(run, losses, ("val/loss", count)) == kept


def test_more_is_better_where_the_metric_says_so(run):
    assert losses_kept(run, [0.9, 0.1, 0.2, 0.3], ("val/accuracy", 1)) == [0.3, 0.2, 0.9]
    run.define_metric("thing", goal="maximize")
    assert losses_kept(run, [9, 1, 2, 3], ("thing", 1)) == [3, 2, 9]


def test_equal_ones_of_several_saves_are_the_newest(run):
    losses_kept(run, [1, 1, 1, 2, 2], ("loss", 1))
    assert [save["step"] for save in SavedModel(run.path / "models/model").saves] == [4, 3, 2]


def test_fewer_or_more_may_be_kept_from_now_on(run):
    for number in range(5):
        folder = run.log_model(tree(number), step=number, keep=5)
    assert save_numbers(folder) == [5, 4, 3, 2, 1]
    run.log_model(tree(5), keep=2)
    assert save_numbers(folder) == [6, 5]
    run.log_model(tree(6), keep=9)
    assert save_numbers(folder) == [7, 6, 5]
    assert whole(folder) == 6


def test_a_resumed_run_goes_on_where_it_was(make, root):
    with make("p").start_run("r") as run:
        losses_kept(run, [1, 5, 4], ("loss", 1), keep=1)
    again = make("p", resume="must").start_run("r")
    again.log_metrics({"loss": 3.0}, step=3)
    folder = again.log_model(tree(3), keep_best=("loss", 1))
    assert [save["metrics"]["loss"] for save in SavedModel(folder).saves] == [3, 4, 1]
    assert save_numbers(folder) == [4, 3, 1]
    again.end_run()


def test_more_saves_than_a_reader_takes_are_not_kept(run, monkeypatch):
    one = len((run.log_model(tree(0)) / "model.json").read_bytes())
    monkeypatch.setattr(publishing, "MAX_BYTES", 3 * one)
    for number in range(1, 6):
        folder = run.log_model(tree(number), keep=9)
    assert len(save_numbers(folder)) in (2, 3)
    assert whole(folder) == 5
    monkeypatch.setattr(publishing, "MAX_BYTES", 10)
    with pytest.raises(InvalidValueError, match=r"model.json would have .* Stack arrays"):
        run.log_model(tree(6))
    assert whole(folder) == 5
    assert not any("000007" in name for name in files(folder))


# ---------------------------------------------------------------------- the order of things


@pytest.fixture
def traced(monkeypatch):
    """The calls that change a model's folder, or flush what is in it, in their order."""
    calls = []

    def trace(module, name, told):
        real = getattr(module, name)

        def traced(*args):
            answer = real(*args)
            if said := told(*args):
                calls.append(said)
            return answer

        monkeypatch.setattr(module, name, traced)

    def shown(path):
        path = str(path)
        if "/models/" not in path or path.endswith("models/model"):
            return None
        name = os.path.basename(path)
        return "model.json" if "model.json" in name else name.strip(".").partition(".")[0]

    def of_fd(fd):
        path = os.readlink(f"/proc/self/fd/{fd}")
        return "folder" if os.path.isdir(path) else shown(path)

    trace(os, "write", lambda fd, data: (s := of_fd(fd)) and f"write {s}")
    trace(io, "fsync", lambda fd: (s := of_fd(fd)) and f"fsync {s}")
    trace(io, "replace", lambda source, target: (s := shown(target)) and f"rename {s}")
    trace(os, "unlink", lambda path: (s := shown(path)) and f"delete {s}")
    return calls


def in_order(calls):
    return [call for call, _ in itertools.groupby(calls)]


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files are Linux's /proc")
def test_what_a_power_cut_leaves_is_whole_at_each_step(make, traced):
    """Payload flushed, then named; ``model.json`` flushed with its name, then deletions."""
    run = make("p").start_run("r")
    for number in range(2):
        run.log_model(tree(number), optimizer=[np.zeros(3)])
    with run._writer.follower.lock:  # which flushes artifacts.json
        traced.clear()
        run.log_model(tree(2), optimizer=[np.zeros(3)])
        calls = in_order(traced)
    deleted = {"delete weights-000001", "delete optimizer-000001"}
    assert calls[:12] == [
        "write weights-000003", "fsync weights-000003", "rename weights-000003", "fsync folder",
        "write optimizer-000003", "fsync optimizer-000003", "rename optimizer-000003",
        "fsync folder", "write model.json", "fsync model.json", "rename model.json",
        "fsync folder",
    ]  # fmt: skip
    assert set(calls[12:]) == deleted
    run.end_run()


# ---------------------------------------------------------------------- the disk refuses


CALLS = [(os, "write"), (io, "create"), (io, "fsync"), (io, "replace"), (os, "listdir")]


@pytest.fixture
def failing(monkeypatch):
    """Make one call in a model's folder fail, the ``n``-th, and say whether it came to that."""

    @contextlib.contextmanager
    def failing(module, name, number, folder, error=errno.ENOSPC):
        real, counted = getattr(module, name), itertools.count(1)
        said = []

        def fail(first, *args):
            path = first if isinstance(first, str) else os.readlink(f"/proc/self/fd/{first}")
            if str(folder) in path and next(counted) == number:
                said.append(path)
                raise OSError(error, os.strerror(error))
            return real(first, *args)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            yield said

    return failing


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files are Linux's /proc")
@pytest.mark.parametrize(("module", "name"), CALLS, ids=[name for _, name in CALLS])
def test_a_disk_that_refuses_at_any_step_leaves_the_earlier_model(
    run, failing, module, name, capsys
):
    """One call after another fails, until a save comes through that none does."""
    folder = run.log_model(tree(0), step=0, optimizer=[np.zeros(3)])
    lost, published = 0, 0
    for number in itertools.count(1):
        with failing(module, name, number, folder) as said:
            run.log_model(tree(number), step=number, optimizer=[np.zeros(3)])
        now = whole(folder)
        assert now in (published, number)
        lost += now != number
        published = now
        expected = {"model.json", *_named(folder)}
        assert set(files(folder)) <= expected or now == number
        if not said:
            break
    assert lost >= 1
    run.log_model(tree(99), step=99)
    assert set(files(folder)) == {"model.json", *_named(folder)}
    run.end_run()
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary.get("lost", {}).get("files", 0) == lost
    assert "cannot write files" in capsys.readouterr().err


def _named(folder):
    return {file["file"] for save in SavedModel(folder).saves for file in save["files"].values()}


def test_a_folder_that_cannot_be_looked_through_leaves_the_earlier_model(run, failing):
    folder = run.log_model(tree(0))
    with failing(os, "listdir", 1, folder, errno.EIO) as said:
        run.log_model(tree(1))
    assert said
    assert (whole(folder), run._writer.summary.value["lost"]) == (0, {"files": 1})


def test_a_document_that_cannot_be_read_now_is_not_taken_for_none(run, monkeypatch):
    """Too many open files: what it names, and would keep, is not known."""
    for number in range(3):
        folder = run.log_model(tree(number), step=number, keep=3)
    before = files(folder)
    real = io.open_for_reading

    def too_many(path):
        if path.endswith("model.json"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open_for_reading", too_many)
        run.log_model(tree(3), keep=3)
    assert set(files(folder)) >= set(before)
    assert whole(folder) == 2
    run.log_model(tree(4), step=4, keep=3)
    assert save_numbers(folder)[1:] == [3, 2]
    assert set(files(folder)) == {"model.json", *_named(folder)}


def test_a_full_disk_raises_where_that_was_asked_for(make, failing):
    run = make("p", on_error="raise").start_run("r")
    folder = run.log_model(tree(0))
    with failing(os, "write", 1, folder), pytest.raises(WriteError, match="cannot write files"):
        run.log_model(tree(1))
    assert whole(folder) == 0
    assert files(folder) == ["model.json", "weights-000001.safetensors"]
    run.end_run()


# ---------------------------------------------------------------------- what stops in the middle


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, TimeoutError, MemoryError])
@pytest.mark.parametrize("at", ["piece", "fsync", "replace"])
def test_what_a_signal_handler_raises_comes_out_and_leaves_the_earlier_model(
    run, monkeypatch, error, at
):
    folder = run.log_model(tree(0))
    before = files(folder)

    def stop(*args):
        raise error

    with monkeypatch.context() as patch:
        if at == "piece":
            patch.setattr("experiment_tracking.formats.tensor_files._data", stop)
        else:
            patch.setattr(io, at, stop)
        with pytest.raises(error):
            run.log_model(tree(1))
    assert (files(folder), whole(folder)) == (before, 0)
    run.log_model(tree(2))
    assert whole(folder) == 2
    assert not run._writer.files.saves_at_work


def test_an_interrupt_right_behind_the_publication_keeps_it(run, monkeypatch):
    folder = run.log_model(tree(0))
    real = io.replace

    def replace(source, target):
        real(source, target)
        if target.endswith("model.json"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(io, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            run.log_model(tree(1))
    assert whole(folder) == 1
    run.log_model(tree(2))
    assert save_numbers(folder) == [3, 2]


class _InTheMiddle(ArraysFormat):
    """A format of two files that does something while it writes one of them."""

    between = staticmethod(lambda: None)
    at_once = False

    def encode(self, model, wishes):
        form = super().encode(model, wishes)
        first = form.files["weights"]

        def pieces():
            self.between()
            yield b"second"

        made = {"weights": first, "program": Streamed(".bin", "bin", pieces)}
        return Form(dict(reversed(made.items())) if self.at_once else made, form.known)


@pytest.fixture
def in_the_middle(monkeypatch):
    """Have something done in the middle of the next save that is not part of another."""

    def in_the_middle(action, *, at_once=False):
        actions = [action]
        format_ = _InTheMiddle()
        format_.at_once = at_once
        format_.between = lambda: actions and actions.pop()()
        monkeypatch.setattr(
            "experiment_tracking.formats.models.catalog.format_of", lambda *args, **known: format_
        )

    return in_the_middle


@pytest.mark.parametrize("at_once", [False, True])
def test_a_signal_handler_may_save_the_model_that_is_being_saved(run, in_the_middle, at_once):
    previous = signal.signal(signal.SIGUSR1, lambda *args: run.log_model(tree(20), step=20))
    try:
        folder = run.log_model(tree(0), step=0)
        in_the_middle(lambda: os.kill(os.getpid(), signal.SIGUSR1), at_once=at_once)
        run.log_model(tree(10), step=10)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert whole(folder) == 10
    assert [save["step"] for save in SavedModel(folder).saves] == [10, 20]
    run.log_model(tree(30), step=30)
    assert [save["step"] for save in SavedModel(folder).saves] == [30, 10]
    assert set(files(folder)) == {"model.json", *_named(folder)}


def test_a_run_that_ends_in_the_middle_of_a_save_has_the_model(make, root, in_the_middle):
    run = make("p").start_run("r")
    in_the_middle(run.end_run)
    folder = run.log_model(tree(1))
    assert whole(folder) == 1
    with pytest.raises(RunEndedError):
        run.log_model(tree(2))
    assert check(root) == []


def test_a_file_that_a_package_cannot_write_leaves_the_earlier_model(run, monkeypatch):
    folder = run.log_model(tree(0))
    before = files(folder)

    def fail(path):
        with open(path, "wb") as file:
            file.write(b"half")
        raise RuntimeError("the package's own")

    def encode(self, model, wishes):
        return Form({"weights": Written(".bin", "bin", fail)}, {})

    monkeypatch.setattr(ArraysFormat, "encode", encode)
    with pytest.raises(RuntimeError, match="the package's own"):
        run.log_model(tree(1))
    assert (files(folder), whole(folder)) == (before, 0)


# ---------------------------------------------------------------------- several at once


def test_threads_that_save_one_model_and_others_get_in_nobodys_way(run):
    folder = run.path / "models/shared"
    failures = []

    def save(thread):
        try:
            for number in range(8):
                run.log_model(tree(10 * thread + number), "shared", step=10 * thread + number)
                run.log_model(tree(number), f"own/{thread}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert whole(folder) % 10 == 7
    assert [whole(run.path / f"models/own/{number}") for number in range(4)] == [7] * 4
    assert save_numbers(folder) == [32, 31]
    assert set(files(folder)) == {"model.json", *_named(folder)}


def test_a_child_that_is_forked_while_a_model_is_saved_does_not_hang(make, in_the_middle):
    """It keeps no model in the run that it inherits, says so once, and saves in one of its own."""
    run = make("p").start_run("r")
    answers = []

    def fork():
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            with contextlib.suppress(BaseException):
                run.log_model(tree(5))
                own = make("p").start_run("own")
                os._exit(whole(own.log_model(tree(42))))
            os._exit(1)
        answers.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    in_the_middle(lambda: _in_another_thread(fork))
    folder = run.log_model(tree(1))
    run.end_run()
    assert answers == [42]
    assert whole(folder) == 1


def _in_another_thread(action):
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


@pytest.mark.parametrize("kind", ["joined", "secondary rank", "forked"])
def test_processes_that_do_not_own_the_run_keep_no_model_and_encode_none(
    make, monkeypatch, kind, capfd
):
    run = make("p").start_run("r")

    def refuse(*args, **known):
        raise AssertionError("it was encoded")

    monkeypatch.setattr("experiment_tracking.formats.models.catalog.format_of", refuse)
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            other = run
            if kind == "joined":
                other = make("p").join(str(run.path))
            if kind == "secondary rank":
                other = make("p", rank=3).start_run("r")
            for _ in range(3):
                other.log_model(tree(1))
            code = 7
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert not (run.path / "models").exists()
    told = capfd.readouterr().err
    assert told.count("adds rows only") == (0 if kind == "secondary rank" else 1)
    run.end_run()


# ---------------------------------------------------------------------- what others have left


def _dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _hidden(folder, pid, name="weights-000009.safetensors"):
    path = folder / f".{name}.{pid}.0011aabb.tmp"
    path.write_bytes(b"half")
    return path


def test_what_killed_saves_have_left_is_cleaned_up_by_the_next(run):
    folder = run.log_model(tree(0))
    left = [
        _hidden(folder, _dead_pid()), _hidden(folder, os.getpid(), "model.json"),
        _hidden(folder, _dead_pid(), "program-000002.keras").rename(
            folder / f".program-000002.{_dead_pid()}.0011aabb.tmp.keras"
        ),
        folder / "weights-000007.safetensors", folder / "optimizer-000007.safetensors",
    ]  # fmt: skip
    for path in left:
        path.write_bytes(b"half")
    run.log_model(tree(1))
    assert set(files(folder)) == {"model.json", *_named(folder)}
    assert save_numbers(folder) == [8, 1]


def test_what_is_not_ours_stays(run):
    folder = run.log_model(tree(0))
    alive = _hidden(folder, os.getppid())
    mine = [folder / name for name in ("README.md", ".notes", "weights.txt", "curve-3.png")]
    for path in mine:
        path.write_text("mine")
    (folder / "weights-000055.d").mkdir()
    inner = run.log_model(tree(3), "model/inner")
    for number in range(1, 4):
        run.log_model(tree(number))
    assert whole(inner) == 3
    assert all(path.exists() for path in [alive, *mine, folder / "weights-000055.d"])
    for path in [alive, *mine]:
        path.unlink()


def test_a_damaged_document_is_told_and_replaced(run, capsys):
    folder = run.log_model(tree(0))
    (folder / "model.json").write_text('{"format": 1, "files": 3}')
    with pytest.raises(DamagedError):
        SavedModel(folder).load()
    run.log_model(tree(1))
    assert "It is replaced by the model saved now." in capsys.readouterr().err
    assert whole(folder) == 1
    assert files(folder) == ["model.json", "weights-000002.safetensors"]


# ---------------------------------------------------------------------- the folder itself


@pytest.mark.skipif(sys.platform != "linux", reason="a moved folder is found by Linux's /proc")
def test_a_run_whose_folder_was_moved_saves_where_it_is_now(make, root, capsys):
    run = make("p").start_run("r")
    run.log_model(tree(0))
    moved = run.path.rename(root / "p" / "moved")
    folder = run.log_model(tree(1), step=1)
    run.end_run()
    assert folder == moved / "models/model"
    assert whole(folder) == 1
    assert save_numbers(folder) == [2, 1]
    assert not (root / "p" / "r").exists()
    assert capsys.readouterr().err.count("was moved to") == 1


def test_a_run_whose_folder_was_deleted_saves_into_a_new_one(make):
    run = make("p").start_run("r")
    folder = run.log_model(tree(0))
    shutil.rmtree(run.path)
    run.log_model(tree(1), step=1)
    assert whole(folder) == 1
    assert len(SavedModel(folder).saves) == 1
    run.end_run()


def test_a_folder_deleted_in_the_middle_of_a_save_costs_that_save(run, in_the_middle):
    folder = run.log_model(tree(0))
    in_the_middle(lambda: shutil.rmtree(run.path))
    run.log_model(tree(1))
    run.log_model(tree(2), step=2)
    assert whole(folder) == 2


def test_a_run_that_was_taken_over_leaves_the_models_of_the_new_owner(make, root, until):
    first = make("p").start_run("r")
    folder = first.log_model(tree(0))
    told, tell = os.pipe()
    end, finish = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            second = ExperimentTracker(
                "p", root=root, use_tensorboard=False, auto_log=False, resume="force"
            ).start_run("r")
            for number in range(10, 13):
                second.log_model(tree(number), step=number)
            os.write(tell, b"x")
            os.read(end, 1)
            second.end_run()
            os._exit(0)
        os._exit(1)
    os.close(tell)
    assert os.read(told, 1) == b"x"
    before = files(folder)
    first.log_model(tree(1))
    assert (files(folder), whole(folder)) == (before, 12)
    os.write(finish, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    first.end_run()
    for descriptor in (told, end, finish):
        os.close(descriptor)
