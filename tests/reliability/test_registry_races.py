"""Many at one registered model, killed anywhere, the power gone: one history, whole versions."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.errors import InvalidValueError
from experiment_tracking.folder import io
from experiment_tracking.folder.check import check
from experiment_tracking.models.registry import ModelRegistry

RACERS = 32
MODELS = "_models"


@pytest.fixture
def run(tmp_path):
    tracker = ExperimentTracker("p", root=tmp_path / "root", use_tensorboard=False, auto_log=False)
    with tracker.start_run("r") as run:
        run.log_metrics({"loss": 0.5})
        run.log_model({"w": np.arange(1000.0)}, "digits")
    return run


def look(root):
    """Return the numbers of the versions that a fresh reader sees, all of which are whole."""
    registry = ModelRegistry(root)
    models = registry.list()
    assert registry.problems == []
    if not models:
        return []
    history = registry.history("digits")
    assert [event.number for event in history] == list(range(1, len(history) + 1))
    for version in models[0].versions:
        version.verify()
        assert version.load()["w"].sum() == np.arange(1000.0).sum()
    return [version.version for version in models[0].versions]


def in_processes(count, work):
    """Call ``work(number)`` in so many forked processes at once; return their exit codes."""
    ready, go = os.pipe(), os.pipe()
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(go[1])
                os.write(ready[1], b"x")
                os.read(go[0], 1)  # until the parent closes its end
                work(number)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    for _ in pids:
        os.read(ready[0], 1)
    os.close(go[1])
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


# ---------------------------------------------------------------------- races


def test_of_32_racing_transitions_there_is_one_history_and_one_holder(alone, run, tmp_path):
    root = tmp_path / "root"
    registry = ModelRegistry(root)
    for _ in range(RACERS):
        registry.register(run, "digits")
    ended = alone(transition_at_once, str(root))
    assert ended.result == [0] * RACERS, ended.stderr
    look(root)
    moves = ModelRegistry(root).history("digits")[RACERS:]
    assert sorted(event.version for event in moves) == list(range(1, RACERS + 1))
    holder = None
    for event in moves:  # each archived the one before it, so none was lost
        assert event.known.get("archived", []) == ([] if holder is None else [holder])
        assert event.known["from"] == "None"
        holder = event.version
    holders = ModelRegistry(root).versions("digits", "Production")
    assert [version.version for version in holders] == [holder]
    archived = ModelRegistry(root).versions("digits", "Archived")
    assert len(archived) == RACERS - 1
    assert check(root) == []


def transition_at_once(root):
    def move(number):
        moved = ModelRegistry(root).transition("digits", number + 1, "Production", f"u{number}")
        # What a racer is told is what was so right behind its own event.
        assert (moved.version, moved.stage) == (number + 1, "Production")
        assert [e.by for e in ModelRegistry(root).history("digits")].count(f"u{number}") == 1

    return in_processes(RACERS, move)


def test_racing_registrations_get_versions_of_their_own(alone, run, tmp_path):
    ended = alone(register_at_once, str(tmp_path / "root"), str(run.path))
    assert ended.result == [0] * RACERS, ended.stderr
    assert look(tmp_path / "root") == list(range(2 * RACERS, 0, -1))
    folders = os.listdir(tmp_path / "root" / MODELS / "digits" / "versions")
    assert len(folders) == 2 * RACERS
    assert check(tmp_path / "root") == []


def register_at_once(root, run):
    def register(number):
        registry = ModelRegistry(root)
        for turn in "ab":
            version = registry.register(run, "digits", description=f"{number}{turn}")
            assert version.description == f"{number}{turn}"

    return in_processes(RACERS, register)


def test_racers_of_all_kinds_leave_one_state_that_everybody_reads(alone, run, tmp_path):
    root = tmp_path / "root"
    registry = ModelRegistry(root)
    for _ in range(4):
        registry.register(run, "digits")
    registry.set_policy("digits", "Staging", approvers=[f"u{number}" for number in range(12)])
    ended = alone(do_all_at_once, str(root), str(run.path))
    assert ended.result == [0] * 12, ended.stderr
    numbers = look(root)
    (model,) = ModelRegistry(root).list()
    holders = [version for version in model.versions if version.stage == "Production"]
    assert len(holders) == 1
    assert set(model.aliases.values()) <= set(numbers)
    assert model.tags == {f"t{number}": str(turn) for number in range(12) for turn in [2]}
    assert check(root) == []


def do_all_at_once(root, run):
    def work(number):
        registry = ModelRegistry(root)
        for turn in range(3):
            registry.transition("digits", 1 + (number + turn) % 4, "Production")
            registry.set_alias("digits", "champion", 1 + number % 4)
            registry.set_tags("digits", {f"t{number}": turn})
            registry.approve("digits", 1, "Staging", by=f"u{number}")
            if number % 4 == 0:
                registry.register(run, "digits")
            if number % 4 == 1:
                with contextlib.suppress(InvalidValueError):  # where none was before
                    registry.rollback("digits")

    return in_processes(12, work)


# ---------------------------------------------------------------------- killed anywhere

_CALLS = [
    (io, "fsync"), (io, "mkdir"), (io, "create"), (io, "create_with"), (io, "replace"),
    (io, "write_all"), (os, "link"), (os, "rename"), (os, "unlink"), (os, "makedirs"),
]  # fmt: skip


class Disk:
    """Kills this process at one of the calls by which a version is written.

    With ``power`` False the power goes with it: what was not flushed is lost, the contents of
    files and the names in folders.
    """

    def __init__(self, model, kept, last, *, power, flushes=True):
        self.model, self.last, self.power, self.flushes = Path(model), last, power, flushes
        self.calls = 0
        self.files = {os.stat(path).st_ino for path in Path(kept).rglob("*")}
        self.names = {}
        for place, below, names in os.walk(self.model.parent):
            self.names[os.stat(place).st_ino] = {*below, *names}
            self.files |= {os.stat(os.path.join(place, name)).st_ino for name in names}

    def __enter__(self):
        for module, name in _CALLS:
            setattr(module, name, self.counted(name, getattr(module, name)))

    def __exit__(self, *error):
        if error[1] is not None:
            sys.excepthook(*error)
        self.die_if(True)

    def counted(self, name, real):
        def call(*args, **options):
            self.calls += 1
            if self.calls == self.last and name == "write_all":
                os.write(args[0], args[1][: len(args[1]) // 2])
            self.die_if(self.calls == self.last)
            result = real(*args, **options)
            if name == "fsync" and self.flushes:
                self.flushed(args[0])
            return result

        return call

    def flushed(self, fd):
        number = os.fstat(fd).st_ino
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            self.names[number] = set(os.listdir(fd))
        else:
            self.files.add(number)

    def die_if(self, time_has_come):
        if time_has_come:
            if not self.power:
                self.lose()
            os.kill(os.getpid(), signal.SIGKILL)

    def lose(self):
        for place, below, names in os.walk(self.model.parent, topdown=False):
            known = self.names.get(os.stat(place).st_ino, set())
            for name in names:
                path = os.path.join(place, name)
                if os.stat(path).st_ino not in self.files:
                    os.truncate(path, 0)
            for name in {*below, *names} - known:
                path = os.path.join(place, name)
                shutil.rmtree(path) if name in below else os.remove(path)


def register_killed(root, run, power, flushes):
    """Register again and again, killed one call later each time, until it is through.

    Returns what a reader saw after each death, and what it stumbled on.
    """
    os.makedirs(os.path.join(root, MODELS))
    model = os.path.join(root, MODELS, "digits")
    seen, through = [], False
    while not through:
        back, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            with Disk(model, run, len(seen) + 1, power=power, flushes=flushes):
                ModelRegistry(root).register(run, "digits")
                os.write(told, b"through")
        os.close(told)
        through = os.read(back, 7) == b"through"
        os.close(back)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        try:
            seen.append(look(root))
        except Exception as error:
            return seen, repr(error)
    return seen, ""


LINUX = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")


@LINUX
@pytest.mark.parametrize("power", [True, False], ids=["kill -9", "power cut"])
def test_killed_at_each_step_a_version_is_not_there_or_whole(alone, run, tmp_path, power):
    root = tmp_path / "root"
    ended = alone(register_killed, str(root), str(run.path), power, True)
    assert ended.result is not None, ended.stderr
    seen, problem = ended.result
    assert problem == ""
    assert len(seen) > 25
    assert seen[0] == []
    assert all(set(before) <= set(after) for before, after in itertools.pairwise(seen))
    # The last one was through when it died, so it is there.
    assert len(seen[-1]) == len(seen[-2]) + 1
    version = ModelRegistry(root).register(run, "digits")
    assert look(root) == [version.version, *seen[-1]]


@LINUX
def test_without_flushing_a_power_cut_would_lose_what_was_acknowledged(alone, run, tmp_path):
    ended = alone(register_killed, str(tmp_path / "root"), str(run.path), False, False)
    assert ended.result is not None, ended.stderr
    seen, problem = ended.result
    assert problem or seen[-1] == []


_REGISTER = """
import sys
from experiment_tracking.models.registry import ModelRegistry
registry = ModelRegistry(sys.argv[1])
while True:
    print(registry.register(sys.argv[2], "digits").version, flush=True)
"""


def test_a_process_that_registers_on_and_on_is_killed_and_nothing_acknowledged_is_lost(
    run, tmp_path
):
    root = tmp_path / "root"
    acknowledged = []
    for turn in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _REGISTER, root, run.path], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3 + turn):
            acknowledged.append(int(process.stdout.readline()))
        process.kill()
        rest, _ = process.communicate()
        acknowledged += [int(word) for word in rest.split() if word]
        seen = look(root)
        assert set(acknowledged) <= set(seen)
        assert len(set(acknowledged)) == len(acknowledged)
    assert len(seen) <= len(acknowledged) + 4


def test_of_many_who_purge_at_once_none_fails_and_nothing_is_left(alone, run, tmp_path):
    root = tmp_path / "root"
    registry = ModelRegistry(root)
    for _ in range(8):
        registry.register(run, "digits")
    registry.delete("digits")
    ended = alone(purge_at_once, str(root))
    assert ended.result == [0] * 8, ended.stderr
    assert os.listdir(root / MODELS / "digits" / "versions") == []
    kinds = [event.kind for event in ModelRegistry(root).history("digits")]
    assert kinds.count("purged") == 1
    assert check(root) == []


def purge_at_once(root):
    return in_processes(8, lambda number: ModelRegistry(root).purge("digits"))


def test_gates_that_are_set_at_once_are_all_there(alone, run, tmp_path):
    root = tmp_path / "root"
    ModelRegistry(root).register(run, "digits")
    ended = alone(set_gates_at_once, str(root))
    assert ended.result is not None, ended.stderr
    for policy, last in ended.result:
        assert policy == last
        assert policy.keys() == {"Staging", "Production"}


def set_gates_at_once(root):
    def set_gate(number):
        stage = ("Staging", "Production")[number % 2]
        ModelRegistry(root).set_policy("digits", stage, f"loss < {number}")

    found, registry = [], ModelRegistry(root)
    for _ in range(5):
        assert in_processes(4, set_gate) == [0] * 4
        known = [e.known for e in registry.history("digits") if e.kind == "policy set"]
        last = {each["stage"]: {"require": each["require"]} for each in known}
        found.append((registry.policy("digits"), last))
    return found


_SAVE = """
import sys
import numpy as np
from experiment_tracking import ExperimentTracker
tracker = ExperimentTracker("p", root=sys.argv[1], use_tensorboard=False, auto_log=False)
run = tracker.start_run("live")
while True:
    run.log_model({"w": np.arange(1000.0)}, "digits", optimizer={"m": np.ones(2)})
    print(run.path, flush=True)
"""


def test_a_model_that_another_process_saves_on_and_on_is_registered_whole(run, tmp_path):
    root = tmp_path / "root"
    process = subprocess.Popen(
        [sys.executable, "-c", _SAVE, root], stdout=subprocess.PIPE, text=True
    )
    try:
        path = process.stdout.readline().strip()
        registry = ModelRegistry(root)
        for _ in range(10):
            registry.register(path, "digits")
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert look(root) == list(range(10, 0, -1))
