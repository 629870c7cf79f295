"""The few ways in which this package touches a file of a run.

Everything on this floor reads and writes through here, so a platform that lacks a call is
dealt with once, and a test can make any call fail.
"""

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from experiment_tracking.errors import DamagedError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
# A FIFO in a file's place would otherwise block the reader for ever.
_NO_BLOCK = getattr(os, "O_NONBLOCK", 0)

NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 cifs smb3 smbfs lustre gpfs beegfs ceph glusterfs afs panfs pvfs2 orangefs "
    "fuse.sshfs fuse.glusterfs fuse.ceph fuse.s3fs fuse.gcsfuse fuse.juicefs 9p virtiofs".split()
)


def seek_and_write(fd: int, data: "Buffer", offset: int, /) -> int:
    """Write at ``offset``; not atomic with the seek, so callers hold their lock."""
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, data)


def seek_and_read(fd: int, length: int, offset: int, /) -> bytes:
    """Read at ``offset``; not atomic with the seek, so callers hold their lock."""
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, length)


pwrite = getattr(os, "pwrite", seek_and_write)
pread = getattr(os, "pread", seek_and_read)
seek = os.lseek
write = os.write
close = os.close
truncate = os.ftruncate
fsync = os.fsync
mkdir = os.mkdir


def create(path: str) -> int:
    """Create ``path``, which must not exist, for reading and writing; return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY | _NO_FOLLOW, 0o666)


def create_with(path: str, data: bytes, *, durable: bool = False) -> int:
    """Create ``path`` holding ``data``, flushed if ``durable``; if that fails, leave nothing."""
    fd = create(path)
    try:
        write_all(fd, data)
        if durable:
            fsync(fd)
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return fd


def create_whole(path: str, data: bytes, *, durable: bool = False) -> None:
    """Create ``path``, which must not exist, with all of ``data`` or not at all.

    With ``durable`` the data is on the disk before anybody sees it, the name when this returns.
    """
    temporary = _hidden_beside(path)
    close(create_with(temporary, data, durable=durable))
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        close(create_with(path, data, durable=durable))
    finally:
        os.unlink(temporary)
    if durable:
        fsync_folder(os.path.dirname(path))


def open_or_create(path: str) -> int:
    """Open ``path`` for writing as it is; create it where there is none."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | _BINARY | _NO_FOLLOW | _NO_BLOCK, 0o666)


def open_for_writing(path: str) -> int:
    """Open the existing regular file ``path`` for reading and writing."""
    return os.open(path, os.O_RDWR | _BINARY | _NO_FOLLOW)


def open_for_reading(path: str) -> int:
    """Open ``path``, refusing links, pipes and devices (:class:`DamagedError`)."""
    try:
        fd = os.open(path, os.O_RDONLY | _BINARY | _NO_FOLLOW | _NO_BLOCK)
    except OSError as error:
        if os.path.islink(path):
            raise DamagedError(f"{path} is a link; a run holds regular files.") from error
        if error.errno == errno.ENXIO:  # a socket, or a device that nothing is behind
            raise DamagedError(f"{path} is not a regular file.") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DamagedError(f"{path} is not a regular file.")
    return fd


def read(path: str, limit_bytes: int, offset: int = 0) -> bytes:
    """Read ``path`` from ``offset`` to its present end.

    Raises
    ------
    DamagedError
        If it is no regular file or there is more than ``limit_bytes`` to read.
    OSError
        If it cannot be read now, which says nothing about its contents.
    """
    fd = open_for_reading(path)
    try:
        size = os.fstat(fd).st_size - offset
        if size > limit_bytes:
            raise DamagedError(f"{path} has {size:,} bytes, more than the {limit_bytes:,} allowed.")
        return read_range(fd, offset, size) if size > 0 else b""
    finally:
        os.close(fd)


def read_range(fd: int, offset: int, length: int) -> bytes:
    """Read ``length`` bytes at ``offset``, fewer only at the end of the file."""
    data = pread(fd, length, offset)
    if len(data) == length or not data:
        return data
    parts = [data]
    while length := length - len(data):
        offset += len(data)
        data = pread(fd, length, offset)
        if not data:
            break
        parts.append(data)
    return b"".join(parts)


def write_all(fd: int, data: "Buffer") -> None:
    """Write all of ``data`` at the file's position; short writes are continued."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def begin_flush(fd: int, start: int, end: int) -> None:
    """Have the system begin to flush what was written between two offsets; does not wait.

    A hint, so that the disk works while the next bytes are made and a later :func:`fsync` has
    little left: 400 MB are on the disk in 0.42 s, without it in 0.53 s.
    """
    if hasattr(os, "posix_fadvise"):
        # On Linux this begins to write dirty pages, and drops clean ones, of which there are none.
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)


def replace_file(path: str, data: bytes, *, durable: bool = False) -> None:
    """Put ``data`` in the place of ``path`` so that a reader sees the old or the new whole.

    Without ``durable`` this survives the death of the process but perhaps not of the machine;
    with it, file and folder are flushed to the disk (about 10 ms).
    """
    with replacing(path, durable=durable) as fd:
        write_all(fd, data)


@contextlib.contextmanager
def replacing(path: str, *, durable: bool = False) -> Iterator[int]:
    """Give a hidden file to write that takes the place of ``path`` once it is whole."""
    temporary = _hidden_beside(path)
    fd = create(temporary)
    try:
        try:
            yield fd
            if durable:
                fsync(fd)
        finally:
            # Network file systems report a full disk here and not before.
            os.close(fd)
        replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        fsync_folder(os.path.dirname(path))


@contextlib.contextmanager
def made_elsewhere(path: str, suffix: str) -> Iterator[str]:
    """Give a hidden path for somebody else to write; flushed, its file takes the place of ``path``.

    The hidden name ends with ``suffix``, by which some packages know what to write.
    """
    temporary = _hidden_beside(path) + suffix
    try:
        yield temporary
        fsync_file(temporary)
        replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_folder(os.path.dirname(path))


def _hidden_beside(path: str) -> str:
    # In the same folder (a rename does not cross file systems), hidden from readers, and not
    # tempfile's 0600, which would shut a research group out of its own runs.
    folder, name = os.path.split(path)
    unique = f"{os.getpid()}.{os.urandom(4).hex()}"
    # A part of a long name: the whole and what is added could pass the 255 bytes of a name.
    return os.path.join(folder, f".{name[:50]}.{unique}.tmp")


def link_or_copy(source: str, target: str) -> None:
    """Have a regular file under a second name too, where it stays when the first is replaced.

    Raises
    ------
    DamagedError
        If it is a link, or no regular file.
    OSError
        If it is not there, or the second name is taken.
    """
    fd = open_for_reading(source)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, one without hard links, or somebody else's file
        _copy(fd, target)
    finally:
        close(fd)


def _copy(fd: int, target: str) -> None:
    copied = create(target)
    try:
        while piece := os.read(fd, 1 << 22):
            write_all(copied, piece)
    finally:
        close(copied)


_HIDDEN = re.compile(r"\..*\.(\d+)\.[0-9a-f]{8}\.tmp")


def writer_of(name: str) -> int | None:
    """Return the pid of the process that wrote a hidden file; None for any other name.

    >>> writer_of(".model.json.4711.00c0ffee.tmp"), writer_of(".git"), writer_of("model.json")
    (4711, None, None)
    """
    found = _HIDDEN.match(name)
    return int(found[1]) if found else None


def make_folders(path: str) -> None:
    """Make a folder and those above it where they are missing, each flushed to the disk.

    Raises
    ------
    OSError
        FileExistsError for one, where something else stands there.
    """
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    make_folders(above)
    with contextlib.suppress(FileExistsError):
        mkdir(path)
    if not os.path.isdir(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    fsync_folder(above)


def replace(source: str, target: str) -> None:
    """Rename over ``target``; on Windows wait up to 2.5 s for whoever has it open."""
    deadline = time.monotonic() + 2.5
    pause = 0.01
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if os.name != "nt" or time.monotonic() > deadline:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 1.0)


def fsync_file(path: str) -> None:
    """Flush the file that ``path`` names now to the disk."""
    fd = os.open(path, os.O_RDONLY | _BINARY | _NO_FOLLOW)
    try:
        fsync(fd)
    finally:
        os.close(fd)


def fsync_folder(path: str) -> None:
    """Flush the names in ``path`` to the disk, where folders can be flushed at all."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        # Some network and FUSE file systems answer EINVAL: they have nothing to flush.
        with contextlib.suppress(OSError):
            fsync(fd)
    finally:
        os.close(fd)


def on_network(path: str) -> bool:
    """Tell whether ``path`` lies on a network file system (Linux; elsewhere False)."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    best, kind = "", ""
    path = os.path.realpath(path)
    for line in lines:
        fields = line.split(" ")
        point = fields[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[fields.index("-") + 1]
    return kind in NETWORK_FILE_SYSTEMS
