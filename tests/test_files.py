"""The files that a run keeps: hashed as they are written, and listed."""

import hashlib
import os
import threading

import numpy as np
import pytest

from experiment_tracking import files
from experiment_tracking.errors import InvalidNameError
from experiment_tracking.folder import io


def entry(path="artifacts/m/weights-000001.bin"):
    return {"path": path, "kind": "artifact"}


@pytest.fixture
def kept(make):
    with make("p").start_run("r") as run:
        yield run._writer.files


def listed(kept):
    return {each["path"]: each for each in kept._owner.artifacts.value["artifacts"]}


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


# ---------------------------------------------------------------------- streamed and written


MANY = [b"x" * 3] * 1000 + [bytes(range(256)) * 10_000, b"", b"end"]


@pytest.mark.parametrize(
    "pieces",
    [[], [b""], [b"abc"], MANY, [bytearray(b"abc"), memoryview(b"def")],
     [np.arange(300_000, dtype="float64"), np.zeros((2, 3), "uint8"), np.zeros((0, 4))]],
    ids=["none", "empty", "one", "many", "buffers", "arrays"],
)  # fmt: skip
def test_a_file_that_is_streamed_has_the_bytes_the_size_and_the_hash(kept, pieces):
    whole = b"".join(memoryview(piece).tobytes() for piece in pieces)
    known = kept.stream(entry(), iter(pieces))
    path = kept._path(entry()["path"])
    with open(path, "rb") as file:
        assert file.read() == whole
    assert known == {"size_bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    assert known.items() <= listed(kept)[entry()["path"]].items()


def test_pieces_are_asked_for_one_after_the_other_and_not_kept(kept):
    alive = []

    class Piece(bytearray):
        def __del__(self):
            alive.remove(1)

    def give():
        for _ in range(20):
            assert len(alive) <= 1
            alive.append(1)
            yield Piece(2 * files._PIECE_BYTES)

    assert kept.stream(entry(), give())["size_bytes"] == 40 * files._PIECE_BYTES


def test_what_is_changed_while_it_is_written_still_has_its_hash(kept):
    """Somebody trains on in another thread, on the very memory that is saved."""
    weights = np.zeros(1_000_000, "float64")
    done = threading.Event()

    def train():
        while not done.is_set():
            weights[:] += 1

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for _ in range(5):
            known = kept.stream(entry(), [weights])
            with open(kept._path(entry()["path"]), "rb") as file:
                assert hashlib.sha256(file.read()).hexdigest() == known["sha256"]
    finally:
        done.set()
        trainer.join()


def test_what_a_package_writes_itself_is_hashed_too(kept):
    def write(path):
        assert path.endswith(".keras")
        with open(path, "wb") as file:
            file.write(b"abc" * 1_000_000)

    known = kept.written_by(entry("artifacts/m/weights-000001.keras"), ".keras", write)
    assert known == {
        "size_bytes": 3_000_000, "sha256": hashlib.sha256(b"abc" * 1_000_000).hexdigest(),
    }  # fmt: skip
    assert os.listdir(kept._path("artifacts/m")) == ["weights-000001.keras"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
def test_a_file_whose_making_fails_leaves_nothing_and_no_thread(kept, error):
    def fail(path=None):
        raise error("no")
        yield

    with pytest.raises(error):
        kept.stream(entry(), fail())
    with pytest.raises(error):
        kept.written_by(entry(), ".bin", lambda path: next(fail(path)))
    assert os.listdir(kept._path("artifacts/m")) == []
    assert listed(kept) == {}
    assert "hashing" not in [thread.name for thread in threading.enumerate()]


def test_the_folders_of_a_file_are_flushed_to_the_disk_with_it(kept, monkeypatch):
    flushed = []
    monkeypatch.setattr(io, "fsync_folder", flushed.append)
    kept.stream(entry(), [b"abc"])
    folder = kept._owner.folder.path
    assert flushed == [folder, f"{folder}/artifacts", f"{folder}/artifacts/m"]


def test_a_file_in_the_place_of_a_folder_is_told_from_a_full_disk(kept):
    kept.put("artifacts", b"")
    with pytest.raises(InvalidNameError, match="a file and a folder at once"):
        kept.stream(entry(), [b"abc"])
    os.unlink(kept._path("artifacts"))


def test_what_is_removed_is_neither_listed_nor_there(kept):
    for number in range(3):
        kept.stream(entry(f"artifacts/m/{number}"), [b"abc"])
    kept.put("artifacts/m/unlisted", b"")
    kept.remove("artifacts/m", ["0", "2", "unlisted", "never there"])
    assert os.listdir(kept._path("artifacts/m")) == ["1"]
    assert list(listed(kept)) == ["artifacts/m/1"]


def test_a_file_that_cannot_be_deleted_is_no_loss(kept, monkeypatch):
    kept.stream(entry(), [b"abc"])

    def refuse(path):
        raise PermissionError(13, "It is open")

    with monkeypatch.context() as busy:
        busy.setattr(os, "unlink", refuse)
        kept.remove("artifacts/m", ["weights-000001.bin"])
    assert listed(kept) == {}
    assert "lost" not in kept._owner.summary.value
    kept.remove("artifacts/m", ["weights-000001.bin"])
    assert os.listdir(kept._path("artifacts/m")) == []


def test_nothing_is_written_to_a_folder_that_is_another_processs_now(kept):
    kept.stream(entry(), [b"abc"])
    kept.detached = True
    assert kept.stream(entry(), [b"def"]) is None
    assert kept.written_by(entry(), ".bin", lambda path: 1 / 0) is None
    kept.remove("artifacts/m", ["weights-000001.bin"])
    with open(kept._path(entry()["path"]), "rb") as file:
        assert file.read() == b"abc"
    kept.detached = False
