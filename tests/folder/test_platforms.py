"""The ground floor where the operating system lacks what Linux has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import experiment_tracking

_HERE = Path(__file__).parent
_MISSING = ("pwrite", "pread", "register_at_fork", "O_NOFOLLOW")

_START = f"""
import os, sys
for name in {_MISSING!r}:
    if hasattr(os, name):
        delattr(os, name)
"""

_SMOKE = """
import json, pathlib, threading
from experiment_tracking.folder import io, layout
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.documents import Document, read_document
from experiment_tracking.folder.history import START, HistoryReader, HistoryWriter
from experiment_tracking.folder.liveness import Heartbeat, status_of

assert io.pwrite.__module__ == io.__name__
run = layout.allocate(sys.argv[1], "p", "exp")
assert layout.allocate(sys.argv[1], "p", "exp").name == "exp-2"
summary = Document(run.summary, {"status": "running"})
summary.save(durable=True)
Heartbeat(run.heartbeat).beat()
assert status_of(read_document(run.summary), run.heartbeat) == ("running", "")

writer = HistoryWriter.create(run.history())
pieces = []
def follow():
    offset = START
    while offset < writer.end or not ended.is_set():
        pieces.append(writer.read(offset, writer.end - offset))
        offset += len(pieces[-1])
ended = threading.Event()
follower = threading.Thread(target=follow)
follower.start()
for number in range(2000):
    writer.append({"loss": 1 / (number + 1)})
ended.set()
follower.join()
writer.close()
data = pathlib.Path(run.history()).read_bytes()
assert len(json.loads(data)) == 2000
assert b"[" + b"".join(pieces) + b"\\n]\\n" == data

writer = HistoryWriter.reopen(run.history(), marks={"attempt": 2})
writer.append({"loss": 0.0})
writer.close()
reader = HistoryReader(run.history())
digest = Digest(reader.rows)
digest.update(reader.rows())
assert digest.to_dict()["loss"]["count"] == 2001
"""

# A write that is a seek and a write lets a signal handler in between.
_HANDLER = """
import json
from experiment_tracking.folder import io
from experiment_tracking.folder.history import HistoryWriter

writer = HistoryWriter.create(sys.argv[1] + "/history.json")
writer.append({"x": 0})
real = io.seek
def interrupted(fd, offset, whence):
    io.seek = real
    position = real(fd, offset, whence)
    writer.append({"x": 1, "long" * 50: 0})
    return position
io.seek = interrupted
writer.append({"x": 2})
writer.append({"x": 3})
writer.close()
rows = json.load(open(sys.argv[1] + "/history.json"))
assert [row["x"] for row in rows] == [0, 1, 2, 3], rows
"""


def _without(code, *args, first=""):
    environment = os.environ | {"PYTHONPATH": str(Path(experiment_tracking.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", first + _START + code, *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", [_SMOKE, _HANDLER], ids=["a whole run", "a signal handler"])
def test_the_ground_floor_works_without_pwrite_pread_fork_hooks_and_nofollow(tmp_path, code):
    ended = _without(code, tmp_path)
    assert ended.returncode == 0, ended.stderr


_TESTS = """
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", sys.argv[2], "-c",
    sys.argv[2] + "/setup.cfg", "--basetemp", sys.argv[1] + "/base", "-k", sys.argv[3],
    *sys.argv[4:]]))
"""


def test_the_tests_of_the_ground_floor_pass_without_them_too(tmp_path):
    # Links are followed there, and what takes long needs no second look.
    chosen = "not link and not loop and not garbled and not width_1000 and not cut_at and not nul"
    files = [_HERE / f"test_{name}.py" for name in ("history", "documents", "liveness")]
    # The standard library takes some of them for granted where there is fork.
    first = "import pytest, random"
    ended = _without(_TESTS, tmp_path, _HERE.parents[1], chosen, *files, first=first)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr
