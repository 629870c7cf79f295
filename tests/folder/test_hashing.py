"""Hashes as data comes: quick to load, and beside other work."""

import hashlib
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.folder import hashing
from experiment_tracking.folder.hashing import HashedBeside, Sha256, sha256


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
        "import sys\nfrom experiment_tracking.folder.hashing import sha256\nprint(sha256(b'abc'))\n"
        "print('_hashlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hashlib.sha256(b"abc").hexdigest(), "False"]


# ---------------------------------------------------------------------- in a thread of its own


def hashing_threads():
    return [thread for thread in threading.enumerate() if thread.name == "hashing"]


def beside(pieces):
    digest = HashedBeside()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


@given(st.lists(st.binary(max_size=1000), max_size=20))
def test_a_hash_taken_beside_is_that_of_the_whole(pieces):
    assert beside(pieces) == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_the_thread_has_ended_when_the_hash_is_known():
    digest = HashedBeside()
    digest.update(b"abc")
    assert digest.hexdigest() == hashlib.sha256(b"abc").hexdigest()
    assert hashing_threads() == []
    assert digest.hexdigest() == hashlib.sha256(b"abc").hexdigest()


def test_the_thread_ends_where_nobody_wants_the_hash_any_more():
    digest = HashedBeside()
    for _ in range(10):
        digest.update(b"abc")
    digest.close()
    digest.close()
    assert hashing_threads() == []


def test_few_pieces_wait_at_any_time(monkeypatch):
    """A piece may be a copy of what lies on a device, made when its turn has come."""
    held, most = [], 0

    class Slow:
        def update(self, piece):
            held.remove(piece)

        def hexdigest(self):
            return "hashed"

    monkeypatch.setattr(hashlib, "sha256", Slow)
    digest = HashedBeside()
    for number in range(200):
        held.append(number)
        digest.update(number)
        most = max(most, len(held))
    assert digest.hexdigest() == "hashed"
    assert held == []
    assert most <= hashing._WAITING_PIECES + 2


def test_where_no_thread_can_be_started_the_caller_hashes(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert beside([b"a", b"bc"]) == hashlib.sha256(b"abc").hexdigest()
