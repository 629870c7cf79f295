"""The files that a run keeps: hashed as they are written, and listed."""

import hashlib
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.files import Sha256, sha256


@given(st.lists(st.binary(max_size=1000), max_size=5), st.binary(max_size=10))
def test_a_hash_taken_piece_by_piece_is_that_of_the_whole(pieces, behind):
    digest = Sha256()
    for piece in pieces:
        digest.update(piece)
    whole = b"".join(pieces)
    assert digest.hexdigest(behind) == hashlib.sha256(whole + behind).hexdigest()
    assert digest.hexdigest() == hashlib.sha256(whole).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 300_000])
def test_little_and_much_data_are_hashed_alike(size):
    data = bytes(range(256)) * (size // 256 + 1)
    assert sha256(data[:size]) == hashlib.sha256(data[:size]).hexdigest()


def test_little_data_is_hashed_without_loading_openssl():
    code = (
        "import sys\nfrom experiment_tracking.files import sha256\nprint(sha256(b'abc'))\n"
        "print('_hashlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hashlib.sha256(b"abc").hexdigest(), "False"]


def test_a_file_is_listed_with_its_size_and_hash(make):
    run = make("p").start_run("r")
    assert run._writer.files.save({"path": "artifacts/a/b.bin", "kind": "artifact"}, b"abc")
    (entry,) = run._writer.artifacts.value["artifacts"]
    assert (entry["size_bytes"], entry["sha256"]) == (3, hashlib.sha256(b"abc").hexdigest())
    assert (run.path / "artifacts" / "a" / "b.bin").read_bytes() == b"abc"
    run.end_run()


def test_a_file_that_is_put_is_not_listed(make):
    run = make("p").start_run("r")
    assert run._writer.files.put("code/a.py", b"x = 1\n")
    assert run._writer.artifacts.value["artifacts"] == []
    assert os.listdir(run.path / "code") == ["a.py"]
    run.end_run()
