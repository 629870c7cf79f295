"""Copy runs from one root to another, near or far: only what differs, and nothing is deleted."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from experiment_tracking.errors import (
    DamagedError,
    InvalidValueError,
    NotFoundError,
    RootNotFoundError,
    RunNotFoundError,
)
from experiment_tracking.folder import io, layout
from experiment_tracking.folder.documents import MAX_BYTES
from experiment_tracking.folder.liveness import FINAL
from experiment_tracking.registry.columns import near
from experiment_tracking.registry.far import (
    OVERLAP_BYTES,
    FarStore,
    Progress,
    Stat,
    copy_beginning,
    folder_for,
    grows,
    is_run_file,
    read_part,
    scratch,
    sweep,
    telling,
)
from experiment_tracking.registry.summary import CLOSING_BYTES, Unreadable

Root = str | os.PathLike[str]

_SUMMARY = "summary.json"
_HISTORY = "metrics_history.json"
_BLOCK_BYTES = 4 * 2**20
_WORKERS = 8
_SAVE_EVERY_S = 10.0


class Synced(NamedTuple):
    """What became of one run."""

    run: str
    """``project/name``."""
    outcome: str
    """``copied``, ``updated``, ``unchanged``, ``refused`` or ``failed``."""
    files: int = 0
    size_bytes: int = 0
    """Bytes that were moved, or would be."""
    reason: str = ""
    """Why it was refused, or failed."""


def sync(
    source: Root,
    target: Root,
    runs: Sequence[str] = (),
    project: str | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Synced]:
    """Copy runs that the target does not have, or has older, from one root to another.

    A run is copied as it stands, its summary last, so that whoever reads the target sees whole
    runs; what is being written is completed the next time. In a folder, histories that grew are
    written on at their end. Nothing is deleted; a run of another id, or one that has gone on in
    the target, is left alone and named. May be interrupted and repeated at will.

    Parameters
    ----------
    source, target
        Folders of projects, or URLs as for ``FarStore``; at most one of the two is far. A target
        folder is made where there is none.
    runs
        ``name`` or ``project/name`` of those to copy; all by default.
    project
        Runs of this project alone.
    dry_run
        Only find out what there is to do.
    progress
        Called with the number of runs done and to do.

    Returns
    -------
    list of Synced
        One per run of the source, in the order of their names; then one per name in a far root
        that no file may bear.

    Raises
    ------
    RootNotFoundError, RunNotFoundError, NotFoundError
        If the source, a run or the project is not there.
    InvalidValueError
        If both are far, or one lies inside the other.
    OSError
        If a root cannot be listed. What fails for one run alone is told in its outcome.

    Notes
    -----
    Between folders files are equal if their sizes and times are, which copying keeps. A far
    root keeps no times, so that what was copied is noted in the cache folder: without it,
    everything is copied again.
    """
    _check_roots(source, target)
    side = _side(source)
    side.check_exists()
    work = _Sync(side, _side(target), dry_run)
    wanted = _chosen(side.keys(), runs, project, os.fspath(source))
    done: list[Synced] = []
    saved_at = time.monotonic()
    try:
        for outcome in _in_order(work.one, wanted, _WORKERS if work.is_far else 1):
            done.append(outcome)
            if progress:
                progress(len(done), len(wanted))
            if time.monotonic() - saved_at > _SAVE_EVERY_S:
                work.save()
                saved_at = time.monotonic()
    finally:
        work.save()
    return done + [Synced(each.path, "refused", reason=each.reason) for each in side.refused]


def _check_roots(source: Root, target: Root) -> None:
    if layout.is_url(source) and layout.is_url(target):
        raise InvalidValueError(
            f"{source} and {target} are both far. Sync to a folder first, and from there."
        )
    roots = [os.fspath(root).removeprefix("file://") for root in (source, target)]
    if any(map(layout.is_url, roots)):
        return
    a, b = (os.path.join(os.path.realpath(os.path.expanduser(root)), "") for root in roots)
    if a.startswith(b) or b.startswith(a):
        raise InvalidValueError(f"{target} cannot be a copy of {source}: one lies in the other.")


def _chosen(known: Sequence[str], runs: Sequence[str], project: str | None, root: str) -> list[str]:
    projects = {key.partition("/")[0] for key in known}
    if project is not None and project not in projects:
        raise NotFoundError(f"There is no project {project!r} in {root}. {near(project, projects)}")
    inside = [key for key in known if project in (None, key.partition("/")[0])]
    for run in runs:
        if not any(_is_named(key, run) for key in inside):
            raise RunNotFoundError(f"There is no run {run!r} in {root}. {near(run, inside)}")
    return sorted(key for key in inside if not runs or any(_is_named(key, r) for r in runs))


def _is_named(key: str, run: str) -> bool:
    return run in (key, key.partition("/")[2])


def _in_order(work: Callable[[str], Synced], keys: Sequence[str], workers: int) -> Iterator[Synced]:
    if workers == 1:
        yield from map(work, keys)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, key) for key in keys]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------- one run


class _Sync:
    """The two sides, and what is known to be equal."""

    def __init__(self, source: "_Folder | _Far", target: "_Folder | _Far", dry_run: bool) -> None:
        self._source, self._target, self._dry_run = source, target, dry_run
        self.is_far = isinstance(source, _Far) or isinstance(target, _Far)
        self._notes = _Notes(source.name, target.name) if self.is_far else None
        if isinstance(target, _Folder) and not dry_run:
            sweep(target.name)

    def one(self, key: str) -> Synced:
        """Bring one run of the target up to date."""
        try:
            if not self._changed(key, self._source.files(key), self._target.files(key)):
                return Synced(key, "unchanged")
            return self._copied(key)
        except (OSError, DamagedError) as error:
            return Synced(key, "failed", reason=str(error))

    def _changed(self, key: str, here: Mapping[str, Stat], there: Mapping[str, Stat]) -> list[str]:
        return [n for n in here if not self._is_equal(f"{key}/{n}", here[n], there.get(n))]

    def _is_equal(self, name: str, here: Stat, there: Stat | None) -> bool:
        if there is None or here.size != there.size:
            return False
        if self._notes is not None:
            return self._notes.has(name, here, there)
        return _same_time(int(here.stamp), int(there.stamp))

    def _copied(self, key: str) -> Synced:
        # Read first and written last: what it says of the history must be there by then. And
        # both are listed again, as the look at all runs may be long ago; the target first, which
        # another sync may be bringing further right now.
        summary, stat = self._source.document(key, _SUMMARY)
        there = self._target.run(key)
        here = {**self._source.run(key), _SUMMARY: stat}
        changed = self._changed(key, here, there)
        if why := self._why_refused(key, summary, here, there):
            return Synced(key, "refused", reason=why)
        outcome = "updated" if _SUMMARY in there else "copied"
        if self._dry_run:
            return Synced(key, outcome, len(changed), sum(here[name].size for name in changed))
        size = 0
        others = [name for name in changed if name != _SUMMARY]
        for names in (
            [name for name in others if not name.startswith("metrics_history")],
            [name for name in others if name.startswith("metrics_history")],
        ):
            size += self._target.take(self._source, key, names, here) if names else 0
        self._target.write(key, _SUMMARY, summary, self._source.mtime_ns(stat))
        self._note(key, [*others, _SUMMARY], here)
        return Synced(key, outcome, len(others) + 1, size + len(summary))

    def _note(self, key: str, names: Sequence[str], here: Mapping[str, Stat]) -> None:
        if self._notes is None:
            return
        there = self._target.run(key)
        for name in names:
            if name in there:
                self._notes.add(f"{key}/{name}", here[name], there[name])

    def _why_refused(
        self, key: str, data: bytes, here: Mapping[str, Stat], there: Mapping[str, Stat]
    ) -> str | None:
        if _SUMMARY not in there:
            return None
        ours = _summary(key, data)
        theirs = _summary(key, self._target.document(key, _SUMMARY)[0])
        if ours.get("id") != theirs.get("id"):
            return (
                f"{self._target.name} has another run of that name (id {theirs.get('id')}, here "
                f"{ours.get('id')}). Rename one: experiments rename"
            )
        if any(a != b for a, b in zip(_starts(ours), _starts(theirs), strict=False)):
            return (
                f"it was resumed here and in {self._target.name} too, each by itself. Rename one: "
                "experiments rename"
            )
        if _extent(theirs, there) > _extent(ours, here):
            return f"it has gone on in {self._target.name}. Sync it the other way round."
        for name in self._changed(key, here, there):
            if name.startswith("amendments/") and name in there and self._differ(key, name):
                return f"it was edited in both: {name} differs. Rename one of the two files."
        return None

    def _differ(self, key: str, name: str) -> bool:
        return self._source.document(key, name)[0] != self._target.document(key, name)[0]

    def save(self) -> None:
        if self._notes is not None and not self._dry_run:
            self._notes.save()


def _summary(key: str, data: bytes) -> dict[str, Any]:
    try:
        summary = orjson.loads(data)
    except ValueError as error:
        raise DamagedError(f"summary.json of {key} is not JSON: {error}.") from error
    if not isinstance(summary, dict):
        raise DamagedError(f"summary.json of {key} is no JSON object.")
    return summary


def _starts(summary: Mapping[str, Any]) -> list[Any]:
    """Return when each attempt of a run began."""
    attempts = summary.get("attempts")
    each = attempts if isinstance(attempts, list) else []
    return [attempt.get("started_at") if isinstance(attempt, dict) else None for attempt in each]


def _extent(summary: Mapping[str, Any], files: Mapping[str, Stat]) -> tuple[int, int, bool]:
    """Return how far a run has come: its attempts, its history's length, whether it has ended."""
    rows = files.get(_HISTORY)
    return len(_starts(summary)), rows.size if rows else 0, summary.get("status") in FINAL


def _same_time(here: int, there: int) -> bool:
    # A file system that keeps whole seconds rounds by up to two (FAT), others to microseconds.
    grain = 2 * 10**9 if there % 10**9 == 0 else 1000
    return abs(here - there) < grain


# ---------------------------------------------------------------------- the two kinds of root


class _Folder:
    """A root on this machine."""

    refused: Sequence[Unreadable] = ()

    def __init__(self, root: str) -> None:
        self.name = root

    def check_exists(self) -> None:
        layout.existing_root(self.name)

    def path(self, key: str, name: str) -> str:
        return os.path.join(self.name, *key.split("/"), *name.split("/"))

    def keys(self) -> list[str]:
        return [f"{run.project}/{run.name}" for run in layout.iter_runs(self.name)]

    def files(self, key: str) -> dict[str, Stat]:
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
        path = self.path(key, name)
        # Looked at first: what changes in between is seen as changed the next time.
        stat = _stat(os.stat(path, follow_symlinks=False))
        return io.read(path, MAX_BYTES), stat

    def part(self, key: str, name: str, start: int, end: int) -> bytes:
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
        self, source: "_Folder | _Far", key: str, names: Sequence[str], stats: Mapping[str, Stat]
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
        """Return where a file goes, its folder made; never through a link out of the project."""
        project, run = key.split("/")
        above = os.path.realpath(os.path.join(self.name, project))
        path = os.path.join(above, run, *name.split("/"))
        folder = os.path.dirname(path)
        if os.path.realpath(folder) != folder:
            raise DamagedError(f"{folder} is or lies in a link; nothing is written through one.")
        os.makedirs(folder, exist_ok=True)
        return path

    def _extended(self, source: "_Folder | _Far", key: str, name: str, stat: Stat) -> int:
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
        path = self._place(key, name)
        io.replace_file(path, data)
        if mtime_ns is not None:
            os.utime(path, ns=(mtime_ns, mtime_ns))

    def mtime_ns(self, stat: Stat) -> int | None:
        return int(stat.stamp)


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


class _Far:
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
        return [key for key, files in self._runs.items() if _is_run(files)]

    def files(self, key: str) -> dict[str, Stat]:
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
        if not self._store.exists():
            raise RootNotFoundError(f"There is no folder of experiments at {self.name}.")

    def document(self, key: str, name: str) -> tuple[bytes, Stat]:
        stat = self.run(key).get(name)
        if stat is None:
            raise FileNotFoundError(f"{self.name}/{key} has no {name}.")
        if stat.size > MAX_BYTES:
            raise DamagedError(f"{key}/{name} has {stat.size:,} bytes, allowed are {MAX_BYTES:,}.")
        return self._store.read(f"{key}/{name}"), stat

    def part(self, key: str, name: str, start: int, end: int) -> bytes:
        return self._store.read(f"{key}/{name}", start, end)

    def bring(self, key: str, names: Sequence[str], paths: Sequence[str]) -> None:
        for error in self._store.get([f"{key}/{name}" for name in names], paths).values():
            raise error

    def take(
        self, source: "_Folder | _Far", key: str, names: Sequence[str], stats: Mapping[str, Stat]
    ) -> int:
        from tempfile import TemporaryDirectory

        assert isinstance(source, _Folder)
        growing = [name for name in names if grows(name)]
        with TemporaryDirectory() as folder:
            still = {name: os.path.join(folder, str(i)) for i, name in enumerate(growing)}
            source.bring(key, growing, list(still.values()))
            paths = [still.get(name) or source.path(key, name) for name in names]
            with telling(self.name):
                self._store.fs.put(paths, [self._store.path(f"{key}/{name}") for name in names])
        return sum(stats[name].size for name in names)

    def mtime_ns(self, stat: Stat) -> int | None:
        return None  # An object's is the time at which it was put there.

    def write(self, key: str, name: str, data: bytes, mtime_ns: int | None) -> None:
        with telling(self.name):
            self._store.fs.pipe_file(self._store.path(f"{key}/{name}"), data)


def _is_run(files: Mapping[str, Stat]) -> bool:
    rows = files.get(_HISTORY)
    return _SUMMARY in files or (rows is not None and rows.size > CLOSING_BYTES + 1)


def _side(root: Root) -> _Folder | _Far:
    if layout.is_url(root):
        return _Far(os.fspath(root))
    return _Folder(os.path.abspath(os.path.expanduser(root)))


class _Notes:
    """What was copied between two roots, as both sides told of it then; in the cache folder."""

    def __init__(self, source: str, target: str) -> None:
        from hashlib import sha256

        digest = sha256(f"{source}\n{target}".encode("utf-8", "backslashreplace")).hexdigest()
        self._path = os.path.join(folder_for("sync"), f"{digest[:24]}.json")
        self._is_new = False
        try:
            # No limit as for documents: a line for each file of a million runs.
            self._known: dict[str, Any] = dict(orjson.loads(io.read(self._path, 2**40)))
        except (OSError, DamagedError, ValueError, TypeError):
            self._known = {}

    def has(self, name: str, here: Stat, there: Stat) -> bool:
        return self._known.get(name) == [*here, *there]

    def add(self, name: str, here: Stat, there: Stat) -> None:
        self._known[name] = [*here, *there]
        self._is_new = True

    def save(self) -> None:
        if not self._is_new:
            return
        self._is_new = False
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        io.replace_file(self._path, orjson.dumps(dict(self._known)))
