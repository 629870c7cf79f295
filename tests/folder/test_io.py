import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io


def leftovers(folder):
    return [name for name in os.listdir(folder) if name.endswith(".tmp")]


def test_reading_gives_what_stands_behind_the_offset(tmp_path):
    path = str(tmp_path / "f")
    Path(path).write_bytes(b"0123456789")
    assert io.read(path, 100) == b"0123456789"
    assert io.read(path, 3, offset=7) == b"789"
    assert io.read(path, 3, offset=70) == b""


def test_more_than_the_limit_is_refused_unread(tmp_path):
    path = str(tmp_path / "f")
    with open(path, "wb") as file:
        file.truncate(50 * 2**30)
    with pytest.raises(DamagedError, match="53,687,091,200 bytes"):
        io.read(path, 2**20)


def test_short_reads_are_continued(tmp_path, monkeypatch):
    path = str(tmp_path / "f")
    Path(path).write_bytes(bytes(range(256)))
    real = io.pread
    monkeypatch.setattr(io, "pread", lambda fd, length, offset: real(fd, min(length, 7), offset))
    assert io.read(path, 1000) == bytes(range(256))


def test_short_writes_are_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    io.replace_file(str(tmp_path / "f"), bytes(range(256)))
    assert (tmp_path / "f").read_bytes() == bytes(range(256))


def _fifo(path):
    os.mkfifo(path)


def _link_to_a_file(path):
    Path(path + ".target").write_text("{}")
    os.symlink(path + ".target", path)


def _link_to_endless_bytes(path):
    os.symlink("/dev/zero", path)


def _link_to_itself(path):
    os.symlink(path, path)


def _dangling_link(path):
    os.symlink(path + ".none", path)


def _folder(path):
    os.mkdir(path)


@pytest.mark.parametrize(
    "make",
    [_fifo, _link_to_a_file, _link_to_endless_bytes, _link_to_itself, _dangling_link, _folder],
)
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, make):
    path = str(tmp_path / "f")
    make(path)
    with pytest.raises(DamagedError):
        io.read(path, 100)


def test_a_socket_is_refused_without_waiting(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        with pytest.raises(DamagedError, match="not a regular file"):
            io.read(path, 100)


@pytest.mark.parametrize("suffix", ["", ".keras"])
def test_a_hidden_file_says_which_process_writes_it(tmp_path, suffix):
    path = str(tmp_path / "weights-000001.bin")
    with io.made_elsewhere(path, suffix) as hidden:
        Path(hidden).touch()
        (name,) = os.listdir(tmp_path)
        assert (io.writer_of(name), name.endswith(suffix)) == (os.getpid(), True)
    assert [io.writer_of(name) for name in os.listdir(tmp_path)] == [None]


@pytest.mark.parametrize("name", [".a.tmp", ".a.12.tmp", "a.12.0011aabb.tmp", ".12.0011aabb", ""])
def test_a_file_that_we_do_not_write_so_is_nobodys(name):
    assert io.writer_of(name) is None


def test_folders_are_made_with_those_above_and_flushed(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(io, "fsync_folder", flushed.append)
    for _ in range(2):
        io.make_folders(str(tmp_path / "a/b/c"))
    assert flushed == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/b")]
    (tmp_path / "file").touch()
    for name in ("file", "file/inner"):
        with pytest.raises(FileExistsError, match="file"):
            io.make_folders(str(tmp_path / name))


def test_a_missing_file_says_nothing_about_contents(tmp_path):
    with pytest.raises(FileNotFoundError):
        io.read(str(tmp_path / "none"), 100)


def test_a_file_that_may_not_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
    path = str(tmp_path / "f")
    Path(path).write_text("{}")

    def too_many(*args, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", too_many)
    with pytest.raises(OSError, match="Too many open files"):
        io.read(path, 100)


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole(tmp_path, durable):
    path = tmp_path / "f"
    io.replace_file(str(path), b"one", durable=durable)
    io.replace_file(str(path), b"two", durable=durable)
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_new_files_have_the_mode_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        io.replace_file(str(tmp_path / "replaced"), b"")
        io.close(io.create(str(tmp_path / "created")))
        io.close(io.open_or_create(str(tmp_path / "opened")))
    finally:
        os.umask(before)
    for name in os.listdir(tmp_path):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("name", ["x" * 255, "β" * 127, "🦉" * 63])
def test_a_file_with_the_longest_name_can_be_replaced(tmp_path, name):
    io.replace_file(str(tmp_path / name), b"whole")
    assert (tmp_path / name).read_bytes() == b"whole"


@pytest.mark.parametrize("call", ["write_all", "fsync", "replace"])
def test_a_failing_replace_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, call):
    path = tmp_path / "f"
    path.write_text("old")

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(io, call, fail)
    with pytest.raises(OSError, match="No space"):
        io.replace_file(str(path), b"new", durable=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_an_interrupted_replace_leaves_nothing_beside_the_file(tmp_path, monkeypatch):
    real = os.write

    def interrupted(fd, data):
        real(fd, data[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        io.replace_file(str(tmp_path / "f"), b"new")
    assert os.listdir(tmp_path) == []


def test_a_replaced_link_is_not_followed(tmp_path):
    (tmp_path / "target").write_text("mine")
    os.symlink(tmp_path / "target", tmp_path / "f")
    io.replace_file(str(tmp_path / "f"), b"new")
    assert (tmp_path / "target").read_text() == "mine"
    assert (tmp_path / "f").read_bytes() == b"new"


def test_a_file_that_is_there_is_never_created_again(tmp_path):
    path = str(tmp_path / "f")
    io.close(io.create_with(path, b"data"))
    for create in (io.create, lambda path: io.create_with(path, b"other")):
        with pytest.raises(FileExistsError):
            create(path)
    assert Path(path).read_bytes() == b"data"


def test_existing_files_are_flushed_and_missing_ones_are_not_invented(tmp_path):
    (tmp_path / "f").write_text("x")
    io.fsync_file(str(tmp_path / "f"))
    io.fsync_folder(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        io.fsync_file(str(tmp_path / "none"))


def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path, monkeypatch):
    def cannot(fd):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(io, "fsync", cannot)
    io.fsync_folder(str(tmp_path))


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path, monkeypatch):
    def mounts(*lines):
        (tmp_path / "mountinfo").write_text("".join(f"{line}\n" for line in lines))

    real = open
    monkeypatch.setattr(
        "builtins.open",
        lambda path, *args, **options: real(
            tmp_path / "mountinfo" if path == "/proc/self/mountinfo" else path, *args, **options
        ),
    )
    mounts(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
        "2 1 0:50 / /home rw shared:1 - nfs4 server:/home rw",
        "3 2 8:2 / /home/me/local\\040disk rw - xfs /dev/sdb1 rw",
        "4 2 0:60 / /home/me/sshfs rw - fuse.sshfs host: rw",
    )
    assert not io.on_network("/data/run")
    assert io.on_network("/home")
    assert io.on_network("/home/me/run")
    assert not io.on_network("/home/me/local disk/run")
    assert io.on_network("/home/me/sshfs/run")
    assert not io.on_network("/homework/run")


def test_a_system_without_a_list_of_mounts_counts_as_local(tmp_path, monkeypatch):
    def missing(*args, **options):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    assert not io.on_network(str(tmp_path))
