"""Models under kill -9, power cuts and readers that never rest: always one that verifies."""

import contextlib
import itertools
import mmap
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.errors import DamagedError, NotFoundError
from experiment_tracking.folder import io
from experiment_tracking.folder.check import check
from experiment_tracking.formats.models.saved import SavedModel
from experiment_tracking.registry.record import RunRecord

SAVES = int(os.environ.get("RELIABILITY_SAVES", "200"))


def _tree(number):
    return {"n": number, "w": np.full(2000, number)}


def _check_whole(loaded):
    """The number is from ``model.json``, the arrays are from the file that it names."""
    assert loaded["w"].tolist() == [loaded["n"]] * 2000


# ---------------------------------------------------------------- kill -9


def test_two_hundred_saves_under_kills_and_a_constant_reader_are_always_whole(alone, tmp_path):
    ended = alone(kill_saves, str(tmp_path / "root"), SAVES, random.randrange(10**6), limit_s=280)
    assert ended.returncode == 0, ended.stderr
    found = ended.result
    assert found["reader"] == 0, ended.stderr
    assert found["saves"] >= SAVES
    assert found["kills"] >= SAVES / 20
    assert found["loads"] >= found["kills"]
    folder = tmp_path / "root/p/r/models/model"
    record = RunRecord(tmp_path / "root/p/r")
    assert record.load_model()["n"] == found["last"]
    named = {f["file"] for save in SavedModel(folder).saves for f in save["files"].values()}
    assert set(os.listdir(folder)) == {"model.json", *named}
    left = check(tmp_path / "root")  # of documents of the run that were on their way
    assert all(each.kind == "leftover" and "/models/" not in each.path for each in left), left
    print(found)


def kill_saves(root, saves, seed):
    """Kill a process that saves one model over and over; another reads it all the time."""
    chance = random.Random(seed)
    _open(root).end_run()
    returned, stop = mmap.mmap(-1, 8), mmap.mmap(-1, 8)
    reader = _fork(lambda: _read_all_the_time(f"{root}/p/r/models/model", stop))
    number, kills = 0, 0
    while number < saves:
        saver = _fork(lambda start=number: _save_all_the_time(root, start, returned))
        _wait_for(saver, returned, number + chance.randint(1, 10))
        time.sleep(chance.uniform(0, 0.02))  # anywhere in the next save, or the one behind it
        os.kill(saver, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(saver, 0)[1]) == signal.SIGKILL
        number, kills = int.from_bytes(returned[:], "little"), kills + 1
    stop[:4] = b"stop"
    code = os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1])
    with _open(root) as run:
        run.log_model(_tree(number + 1), optimizer=[np.zeros(10)])
    loads = int.from_bytes(stop[4:], "little")
    return {"reader": code, "saves": number, "kills": kills, "loads": loads, "last": number + 1}


def _open(root):
    return ExperimentTracker(
        "p", root=root, auto_log=False, use_tensorboard=False, resume="allow"
    ).start_run("r")


def _fork(action):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    return pid


def _save_all_the_time(root, number, returned):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    run = _open(root)
    while True:
        number += 1
        run.log_model(_tree(number), optimizer=[np.full(10, number)], step=number)
        returned[:] = number.to_bytes(8, "little")


def _wait_for(pid, returned, number):
    while int.from_bytes(returned[:], "little") < number:
        assert not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), "it ended"
        time.sleep(0.001)


def _read_all_the_time(folder, stop):
    model, newest, loads = SavedModel(folder), 0, 0
    while stop[:4] != b"stop":
        try:
            loaded = model.load()
        except NotFoundError:
            assert not newest, "there was a model, and now there is none"
            continue
        _check_whole(loaded)
        assert loaded["n"] >= newest, "an older save came back"
        newest, loads = loaded["n"], loads + 1
        if loads % 10 == 0:
            model.verify()
            assert len(set(model.load_optimizer()[0].tolist())) == 1
    stop[4:] = loads.to_bytes(4, "little")


# ---------------------------------------------------------------- power cuts


class Disk:
    """What a disk holds of a folder that is written to: what was flushed, and any of the rest.

    A file has the bytes that it had when it was flushed, none before; names that were not
    flushed, by renaming or deleting, may have come to the disk or not, each by itself.
    """

    def __init__(self, monkeypatch, folder):
        self.folder = str(folder)
        self.names, self.pending, self.flushed = {}, [], {}
        self.states = []
        for module, name, note in (
            (io, "fsync", self._fsync), (io, "fsync_folder", self._fsync_folder),
            (io, "replace", self._replace), (os, "unlink", self._unlink),
        ):  # fmt: skip
            self._hook(monkeypatch, module, name, note)

    def _hook(self, monkeypatch, module, name, note):
        real = getattr(module, name)

        def hooked(*args):
            path = args[0] if isinstance(args[0], str) else os.readlink(f"/proc/self/fd/{args[0]}")
            real(*args)
            if path.startswith(self.folder):
                note(os.path.basename(path), *args)
                self.states += self._possible()

        monkeypatch.setattr(module, name, hooked)

    def _fsync(self, name, fd):
        path = Path(self.folder, name)
        if path.is_file():
            self.flushed[name] = path.read_bytes()

    def _replace(self, name, source, target):
        data = self.flushed.get(name, b"")
        self.pending.append((os.path.basename(target), data))

    def _unlink(self, name, path):
        self.pending.append((name, None))

    def _fsync_folder(self, name, path):
        self.names = self._with(self.pending)
        self.pending = []

    def _with(self, changes):
        names = dict(self.names)
        for name, data in changes:
            names.pop(name, None)
            if data is not None:
                names[name] = data
        return names

    def _possible(self):
        for kept in itertools.product((False, True), repeat=len(self.pending)):
            yield self._with(itertools.compress(self.pending, kept))


def _damaged(states, place):
    """Return how many of the states show a model, and which of these do not verify."""
    shown, damaged = 0, []
    for state in states:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name, data in state.items():
            (place / name).write_bytes(data)
        if "model.json" in state:
            shown += 1
            try:
                for save in SavedModel(place).saves:
                    _check_whole(SavedModel(place, save["step"]).load())
                    SavedModel(place, save["step"]).verify()
            except DamagedError as error:
                damaged.append(f"{sorted(state)}: {error}")
    return shown, damaged


def _states(root, monkeypatch, saves):
    run = ExperimentTracker("p", root=root, auto_log=False, use_tensorboard=False).start_run("r")
    (run.path / "models" / "model").mkdir(parents=True)
    with monkeypatch.context() as patch:
        disk = Disk(patch, run.path / "models" / "model")
        for step in range(saves):
            run.log_model(_tree(step), optimizer=[np.zeros(3)], step=step, keep=1 + step % 3)
    run.end_run()
    return disk.states


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files are Linux's /proc")
def test_a_power_cut_at_any_step_leaves_a_model_that_verifies(tmp_path, monkeypatch):
    states = _states(tmp_path / "root", monkeypatch, 5)
    shown, damaged = _damaged(states, tmp_path / "state")
    assert damaged == []
    assert shown > 60
    assert len(states) > shown  # before the first save there is none


@pytest.mark.skipif(sys.platform != "linux", reason="names of open files are Linux's /proc")
@pytest.mark.parametrize("call", ["fsync", "fsync_folder"])
def test_without_the_flushes_a_power_cut_would_be_seen_to_leave_a_damaged_one(
    tmp_path, monkeypatch, call
):
    monkeypatch.setattr(Disk, f"_{call}", lambda *args: None)
    states = _states(tmp_path / "root", monkeypatch, 2)
    assert _damaged(states, tmp_path / "state")[1]


# ---------------------------------------------------------------- many readers, many threads


def test_four_readers_beside_two_savers_read_whole_models_only(alone, tmp_path):
    ended = alone(read_and_save, str(tmp_path / "root"))
    assert ended.result == [0] * 4, ended.stderr
    assert check(tmp_path / "root") == []


def read_and_save(root):
    run = _open(root)
    run.log_model(_tree(0))
    stop = mmap.mmap(-1, 8)
    folder = str(run.path / "models/model")
    readers = [_fork(lambda: _read_while(folder, stop)) for _ in range(4)]

    def save(start):
        for number in range(start, 60, 2):
            run.log_model(_tree(number), step=number)

    savers = [threading.Thread(target=save, args=(start,)) for start in (1, 2)]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    stop[:4] = b"stop"
    codes = [os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) for reader in readers]
    run.end_run()
    return codes


def _read_while(folder, stop):
    while stop[:4] != b"stop":
        _check_whole(SavedModel(folder).load())
        with contextlib.suppress(NotFoundError):
            _check_whole(SavedModel(folder, step=30).load())
