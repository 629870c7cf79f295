"""The two kinds of root that can be brought in step: a folder here, and one in an object store."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from experiment_tracking.errors import DamagedError, RootNotFoundError
from experiment_tracking.folder import io, layout
from experiment_tracking.folder.documents import MAX_BYTES
from experiment_tracking.registry.far import (
    OVERLAP_BYTES,
    FarStore,
    Stat,
    copy_beginning,
    grows,
    is_run_file,
    read_part,
    scratch,
    telling,
)
from experiment_tracking.registry.summary import CLOSING_BYTES, Unreadable

SUMMARY = "summary.json"
HISTORY = "metrics_history.json"

_BLOCK_BYTES = 4 * 2**20

Root = str | os.PathLike[str]


class Folder:
    """A root on this machine."""

    refused: Sequence[Unreadable] = ()

    def __init__(self, root: str) -> None:
        self.name = root

    def check_exists(self) -> None:
        """Insist that the root is there (RootNotFoundError)."""
        layout.existing_root(self.name)

    def path(self, key: str, name: str) -> str:
        """Return where a file of a run is."""
        return os.path.join(self.name, *key.split("/"), *name.split("/"))

    def keys(self) -> list[str]:
        """List the runs: ``project/name``."""
        return [f"{run.project}/{run.name}" for run in layout.iter_runs(self.name)]

    def folders(self) -> set[str]:
        """List the folders right below the root."""
        return {*layout.iter_projects(self.name)}

    def files(self, key: str) -> dict[str, Stat]:
        """Return the files of a run as they were when all were listed, where that was done."""
        return self.run(key)

    def run(self, key: str) -> dict[str, Stat]:
        """Return the files of a run as they are now."""
        top = os.path.join(self.name, *key.split("/"))
        files: dict[str, Stat] = {}
        folders = [top] if os.path.lexists(top) else []
        while folders:
            folder = folders.pop()
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = os.path.relpath(entry.path, top).replace(os.sep, "/")
                    # What a link leads to is not the run's.
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False) and is_run_file(f"{key}/{name}"):
                        files[name] = _stat(entry.stat(follow_symlinks=False))
        return files

    def document(self, key: str, name: str) -> tuple[bytes, Stat]:
        """Read a small file whole."""
        path = self.path(key, name)
        # Looked at first: what changes in between is seen as changed the next time.
        stat = _stat(os.stat(path, follow_symlinks=False))
        return io.read(path, MAX_BYTES), stat

    def part(self, key: str, name: str, start: int, end: int) -> bytes:
        """Read the bytes of a file from ``start`` to before ``end``."""
        return read_part(self.path(key, name), start, end)

    def bring(self, key: str, names: Sequence[str], paths: Sequence[str]) -> None:
        """Copy files, with their times, to paths of this machine."""
        for name, path in zip(names, paths, strict=True):
            with open(io.open_for_reading(self.path(key, name)), "rb") as file:
                # Of the file that is open: another may take its name.
                stat = os.fstat(file.fileno())
                # Not to where it ends by then: the closing bracket that we have read by now would
                # stay in the middle of the rows that have taken its place.
                copy_beginning(file, path, stat.st_size)
            os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))

    def take(
        self, source: "Folder | Far", key: str, names: Sequence[str], stats: Mapping[str, Stat]
    ) -> int:
        """Copy files of a run from the other side; return how many bytes were moved."""
        left, size = [], 0
        for name in names:
            moved = self._extended(source, key, name, stats[name]) if grows(name) else 0
            size += moved or stats[name].size
            left += [] if moved else [name]
        if not left:
            return size
        os.makedirs(self.name, exist_ok=True)
        with scratch(self.name) as folder:
            paths = [os.path.join(folder, str(i)) for i in range(len(left))]
            source.bring(key, left, paths)
            for name, path in zip(left, paths, strict=True):
                io.replace(path, self._place(key, name))
        return size

    def _place(self, key: str, name: str) -> str:
        """Return where a file goes; the project itself may be a link."""
        project, run = key.split("/")
        above = os.path.realpath(os.path.join(self.name, project))
        return _made(os.path.join(above, run, *name.split("/")))

    def _extended(self, source: "Folder | Far", key: str, name: str, stat: Stat) -> int:
        """Write on at the end of a file; return the bytes moved, 0 if it does not fit."""
        path = self._place(key, name)
        old = os.path.getsize(path) if os.path.isfile(path) else 0
        # The closing bracket is overwritten by the row behind it.
        start, end = max(0, old - CLOSING_BYTES - OVERLAP_BYTES), old - CLOSING_BYTES
        if not 0 < end < old < stat.size:
            return 0
        if source.part(key, name, start, end) != read_part(path, start, end):
            return 0
        fd = io.open_for_writing(path)
        try:
            _write_behind(fd, end, stat.size, partial(source.part, key, name))
            # Another sync at the same time has written further, and may have torn it.
            whole = os.fstat(fd).st_size == stat.size
        finally:
            io.close(fd)
        if (mtime_ns := source.mtime_ns(stat)) is not None:
            os.utime(path, ns=(mtime_ns, mtime_ns))
        return stat.size - end if whole else 0

    def write(self, key: str, name: str, data: bytes, mtime_ns: int | None) -> None:
        """Put a small file in its place."""
        path = self._place(key, name)
        io.replace_file(path, data)
        if mtime_ns is not None:
            os.utime(path, ns=(mtime_ns, mtime_ns))

    def mtime_ns(self, stat: Stat) -> int | None:
        """Return when a file was changed; None where a root keeps no times."""
        return int(stat.stamp)

    def read_if_there(self, name: str) -> bytes | None:
        """Read a small file by its name below the root."""
        path = os.path.join(self.name, *name.split("/"))
        return io.read(path, MAX_BYTES) if os.path.lexists(path) else None

    def create(self, name: str, data: bytes) -> None:
        """Create a small file, whole and on the disk; FileExistsError where there is one."""
        path = self._below(name)
        io.create_whole(path, data)
        io.fsync_file(path)
        io.fsync_folder(os.path.dirname(path))

    def take_folder(
        self, source: "Folder | Far", key: str, name: str, files: Sequence[str]
    ) -> None:
        """Take a folder whole from the other side: nobody ever sees a part of it."""
        place = self._below(f"{key}/{name}")
        with scratch(self.name) as folder:
            # One of its own: the scratch folder is open to this user alone.
            whole = os.path.join(folder, name)
            os.mkdir(whole)
            paths = [os.path.join(whole, os.path.basename(file)) for file in files]
            source.bring(key, files, paths)
            for path in paths:
                io.fsync_file(path)
            io.fsync_folder(whole)
            os.rename(whole, place)
        io.fsync_folder(os.path.dirname(place))

    def _below(self, name: str) -> str:
        """Return the path of a name below the root, its folder made."""
        return _made(os.path.join(os.path.realpath(self.name), *name.split("/")))


def _made(path: str) -> str:
    """Return a path with its folder made; never through a link."""
    folder = os.path.dirname(path)
    if os.path.realpath(folder) != folder:
        raise DamagedError(f"{folder} is or lies in a link; nothing is written through one.")
    os.makedirs(folder, exist_ok=True)
    return path


def _write_behind(fd: int, end: int, size: int, read: Callable[[int, int], bytes]) -> None:
    io.seek(fd, end, os.SEEK_SET)
    while end < size:
        data = read(end, min(end + _BLOCK_BYTES, size))
        if not data:
            return
        io.write_all(fd, data)
        end += len(data)


def _stat(found: os.stat_result) -> Stat:
    return Stat(found.st_size, str(found.st_mtime_ns))


class Far:
    """A root in an object store."""

    def __init__(self, url: str) -> None:
        self._store = FarStore(url)
        self.name = self._store.url
        self._runs: dict[str, dict[str, Stat]] = {}
        for name, stat in self._list("").items():
            project, run, inner = name.split("/", 2)
            self._runs.setdefault(f"{project}/{run}", {})[inner] = stat
        self.refused = [*self._store.refused]

    def keys(self) -> list[str]:
        """List the runs: ``project/name``."""
        return [key for key, files in self._runs.items() if _is_run(files)]

    def files(self, key: str) -> dict[str, Stat]:
        """Return the files of a run as they were when all were listed, where that was done."""
        return self._runs.get(key, {})

    def run(self, key: str) -> dict[str, Stat]:
        """Return the files of a run as they are now."""
        return {name[len(key) + 1 :]: stat for name, stat in self._list(key).items()}

    def _list(self, below: str) -> dict[str, Stat]:
        try:
            return self._store.files(below)
        except FileNotFoundError:  # A bucket or folder that the first file makes.
            return {}

    def check_exists(self) -> None:
        """Insist that the root is there (RootNotFoundError)."""
        if not self._store.exists():
            raise RootNotFoundError(f"There is no folder of experiments at {self.name}.")

    def document(self, key: str, name: str) -> tuple[bytes, Stat]:
        """Read a small file whole."""
        stat = self.run(key).get(name)
        if stat is None:
            raise FileNotFoundError(f"{self.name}/{key} has no {name}.")
        if stat.size > MAX_BYTES:
            raise DamagedError(f"{key}/{name} has {stat.size:,} bytes, allowed are {MAX_BYTES:,}.")
        return self._store.read(f"{key}/{name}"), stat

    def part(self, key: str, name: str, start: int, end: int) -> bytes:
        """Read the bytes of a file from ``start`` to before ``end``."""
        return self._store.read(f"{key}/{name}", start, end)

    def bring(self, key: str, names: Sequence[str], paths: Sequence[str]) -> None:
        """Copy files to paths of this machine, here with their times."""
        for error in self._store.get([f"{key}/{name}" for name in names], paths).values():
            raise error

    def take(
        self, source: "Folder | Far", key: str, names: Sequence[str], stats: Mapping[str, Stat]
    ) -> int:
        """Copy files of a run from the other side; return how many bytes were moved."""
        from tempfile import TemporaryDirectory

        assert isinstance(source, Folder)
        growing = [name for name in names if grows(name)]
        with TemporaryDirectory() as folder:
            still = {name: os.path.join(folder, str(i)) for i, name in enumerate(growing)}
            source.bring(key, growing, list(still.values()))
            paths = [still.get(name) or source.path(key, name) for name in names]
            with telling(self.name):
                self._store.fs.put(paths, [self._store.path(f"{key}/{name}") for name in names])
        return sum(stats[name].size for name in names)

    def mtime_ns(self, stat: Stat) -> int | None:
        """Return when a file was changed; None where a root keeps no times."""
        return None  # An object's is the time at which it was put there.

    def write(self, key: str, name: str, data: bytes, mtime_ns: int | None) -> None:
        """Put a small file in its place."""
        with telling(self.name):
            self._store.fs.pipe_file(self._store.path(f"{key}/{name}"), data)

    def folders(self) -> set[str]:
        """List the folders right below the root."""
        return {key.partition("/")[0] for key in self._runs}

    def read_if_there(self, name: str) -> bytes | None:
        """Read a small file by its name below the root."""
        try:
            return self._store.read(name)
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> None:
        """Put a small file in its place, whether there is one or not: stores know no better."""
        with telling(self.name):
            self._store.fs.pipe_file(self._store.path(name), data)

    def take_folder(
        self, source: "Folder | Far", key: str, name: str, files: Sequence[str]
    ) -> None:
        """Copy the files of a folder from the other side."""
        self.take(source, key, files, source.run(key))


def _is_run(files: Mapping[str, Stat]) -> bool:
    rows = files.get(HISTORY)
    return SUMMARY in files or (rows is not None and rows.size > CLOSING_BYTES + 1)


def side_of(root: Root) -> Folder | Far:
    """Return the side that a path or a URL means."""
    if layout.is_url(root):
        return Far(os.fspath(root))
    return Folder(os.path.abspath(os.path.expanduser(root)))
