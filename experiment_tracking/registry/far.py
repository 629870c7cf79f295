"""Roots in an object store, read through a partial copy on this machine.

The copy lies in the cache folder and may be deleted at any time. It has the small documents that
a scan needs of every run; histories, artifacts and models come when they are first asked for
(:func:`ensure`). Nothing is ever written to the store from here.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from threading import RLock
from typing import Any, BinaryIO, NamedTuple

import orjson

from experiment_tracking.errors import (
    DamagedError,
    ExperimentTrackingError,
    InvalidValueError,
    MissingPackageError,
    RootNotFoundError,
    in_words,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import MAX_BYTES, read_document
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import FINAL
from experiment_tracking.registry.index.index import cache_folder
from experiment_tracking.registry.record import FAR_MARK
from experiment_tracking.registry.summary import CLOSING_BYTES, Unreadable

Progress = Callable[[int, int], None]
"""Called with how many files have come and how many there are to come."""

OVERLAP_BYTES = 4096
"""So much of a file that grew is compared before what is new goes behind it."""

_DOCUMENTS = ("summary.json", "params.json", "environment.json", "artifacts.json", "inputs.json")
_APPENDED = ("system_metrics.json", "console.log")
_HEARTBEAT = "heartbeat.json"
_HISTORY = "metrics_history.json"
_NOTE = ".far.json"
_LARGEST_TAIL_BYTES = 256 * 2**20
_BATCH = 1000
_SCRATCH = ".experiments-tmp-"
_ABANDONED_AFTER_S = 2 * 86400.0
_EMPTY_BYTES = 4  # of a history without rows
_STAMPS = ("ETag", "etag", "md5Hash", "checksum")
_TIMES = ("LastModified", "last_modified", "updated", "modified", "mtime", "created", "ino")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}


class Stat(NamedTuple):
    """What tells one content of a far file from another."""

    size: int
    stamp: str
    """The store's hash of it, else its times."""


class FarStore:
    """The files of the runs below a URL, by names relative to it.

    Parameters
    ----------
    url
        Any that fsspec opens; credentials and endpoints come from where its package looks for
        them (environment, files in the home folder).

    Raises
    ------
    MissingPackageError
        If fsspec, or the package for this kind of URL, is not installed.
    InvalidValueError
        If no package is known for this kind of URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.refused: list[Unreadable] = []
        """Names met in listings that no file of ours may bear."""
        self.fs, self._base = _open(self.url)

    def path(self, name: str) -> str:
        """Return the name that the store itself has for a file."""
        return f"{self._base}/{name}"

    def files(self, below: str = "") -> dict[str, Stat]:
        """List what is below the URL, or below one folder of it; asks the store, not a cache.

        Raises
        ------
        OSError
            If the store does not answer or refuses.
        """
        top = self.path(below).rstrip("/")
        with telling(self.url):
            self.fs.invalidate_cache()
            found: Mapping[str, Any] = self.fs.find(top, detail=True)
        files = {}
        for path, facts in found.items():
            name = path[len(self._base) + 1 :]
            if facts.get("type") == "directory" or name.endswith("/"):
                continue  # Some tools keep an empty object for a folder.
            if why := _why_refused(name):
                self.refused.append(Unreadable(f"{self.url}/{name!r:.300}", why))
            elif is_run_file(name):
                files[name] = Stat(int(facts.get("size") or 0), _stamp(facts))
        return files

    def exists(self) -> bool:
        """Tell whether there is anything at the URL."""
        with telling(self.url):
            return bool(self.fs.exists(self._base))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a file, or the bytes from ``start`` to before ``end``."""
        with telling(f"{self.url}/{name}"):
            data: bytes = self.fs.cat_file(self.path(name), start=start, end=end)
            return data

    def get(self, names: Sequence[str], paths: Sequence[str]) -> dict[str, OSError]:
        """Copy files to paths of this machine, many at a time; return what could not be."""
        # Two lists: a single path would be taken for a pattern where it has a bracket.
        try:
            with telling(self.url):
                self.fs.get([self.path(name) for name in names], list(paths))
            return {}
        except OSError as error:
            if len(names) == 1:
                return {names[0]: error}
        # One that is gone by now must not keep the others.
        failed: dict[str, OSError] = {}
        for name, path in zip(names, paths, strict=True):
            failed |= self.get([name], [path])
        return failed


def _open(url: str) -> tuple[Any, str]:
    scheme = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingPackageError(
            f"Reading {scheme}://", "fsspec", "'experiment_tracking[remote]'"
        ) from error
    try:
        with telling(url):
            fs, base = url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(scheme, scheme)
        install = "'experiment_tracking[remote]'" if package == "s3fs" else package
        raise MissingPackageError(f"Reading {scheme}://", package, install) from error
    except ValueError as error:
        raise InvalidValueError(
            f"{url} cannot be opened: {error}. Write it as in s3://bucket/folder."
        ) from error
    return fs, base.rstrip("/")


@contextlib.contextmanager
def telling(what: str) -> Iterator[None]:
    """Turn what the packages below raise into an OSError that says which store it was."""
    try:
        yield
    except (ExperimentTrackingError, ImportError, ValueError):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is nothing at {what}: {error}.") from error
    except Exception as error:
        raise ConnectionError(
            f"{what} cannot be reached: {in_words(error)}. Check the address and the credentials."
        ) from error


def _stamp(facts: Mapping[str, Any]) -> str:
    for key in _STAMPS:
        if facts.get(key):
            return str(facts[key])
    return " ".join(str(facts[key]) for key in _TIMES if facts.get(key))


def is_run_file(name: str) -> bool:
    """Tell whether ``project/run/…`` is a file of a run, and whole."""
    project, _, rest = name.partition("/")
    run, _, inner = rest.partition("/")
    file = inner.rpartition("/")[2]
    unfinished = file[:1] == "." and file.endswith(".tmp")
    return bool(inner and project[0] not in "._" and run[0] not in "._") and not (
        unfinished or inner == _NOTE
    )


def _why_refused(name: str) -> str | None:
    """Say why a name of the store may be no path of ours: whoever writes there chooses names."""
    parts = name.split("/")
    if {"", ".", ".."} & set(parts):
        return "the name leads out of its folder"
    if "\\" in name or "\0" in name or (os.name == "nt" and set('<>:"|?*') & set(name)):
        return "the name holds a character that no file name may"
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        return "the name is not UTF-8"
    return "the name is too long" if longest > 255 or len(name) > 1000 else None


# ---------------------------------------------------------------------- the local copy


class FarRoot:
    """A far root and its partial copy on this machine.

    Parameters
    ----------
    url
        As for :class:`FarStore`.
    """

    def __init__(self, url: str) -> None:
        from hashlib import sha256

        self.url = url.rstrip("/")
        digest = sha256(self.url.encode("utf-8", "backslashreplace")).hexdigest()[:24]
        self.path = os.path.join(folder_for("far"), f"{digest}.far")
        """The copy, a root like any other; there after the first :meth:`pull`."""
        self.problems: list[Unreadable] = []
        """What the last :meth:`pull` could not bring, with the reason."""
        self._lock = RLock()

    def __repr__(self) -> str:
        return f"<FarRoot {self.url}>"

    @cached_property
    def _store(self) -> FarStore:
        return FarStore(self.url)

    def pull(self, progress: Progress | None = None) -> str:
        """Bring the copy up to date and return its path.

        One recursive listing (for S3 a request per 1,000 files); then the documents that are new
        or changed, many at a time. What is gone there is removed here.

        Raises
        ------
        RootNotFoundError
            If nothing is at the URL; an earlier copy stays as it is.
        OSError
            If the store does not answer or refuses; likewise.
        """
        with self._lock:
            listed = self._listed()
            self._begin()
            self._remove_gone(listed)
            copies = [_Copy.of(self.path, run, files) for run, files in listed.items()]
            self._bring([(c, n) for c in copies for n in c.files if _is_document(n)], progress)
            for copy in copies:
                copy.look_at_status()
            # Who writes them matters for runs that have not ended alone.
            live = [(c, _HEARTBEAT) for c in copies if not c.final and _HEARTBEAT in c.files]
            self._bring(live, None)
            for copy in copies:
                copy.save()
        return self.path

    def fetch(self, *names: str) -> None:
        """Bring runs, or files or folders of them, by names relative to the root.

        What is here already and what is not in the store is left out. Of a run that has not ended
        the store is asked again; a history that has grown is continued and not brought anew.

        Raises
        ------
        OSError
            If a file cannot be brought.
        """
        with self._lock:
            copies: dict[str, _Copy] = {}
            wanted = []
            for name in names:
                project, run, *inner = name.replace(os.sep, "/").split("/")
                key = f"{project}/{run}"
                copy = copies.get(key) or self._looked_at(key)
                copies[key] = copy
                wanted += [(copy, each) for each in copy.under("/".join(inner))]
            failed = self._bring(wanted, None)
            for copy in copies.values():
                copy.save()
            for error in failed.values():
                raise error

    def _looked_at(self, key: str) -> "_Copy":
        copy = _Copy.of(self.path, key)
        if not copy.final:
            listed = self._store.files(key)
            copy.files = {name[len(key) + 1 :]: stat for name, stat in listed.items()}
        return copy

    def _listed(self) -> dict[str, dict[str, Stat]]:
        """Return run to file to what the store says of it."""
        self._store.refused.clear()
        runs: dict[str, dict[str, Stat]] = {}
        try:
            files = self._store.files()
            if not files and not self._store.exists():
                raise FileNotFoundError("no object has this prefix")
        except FileNotFoundError as error:
            raise RootNotFoundError(
                f"There is no folder of experiments at {self.url} ({error}). Check the address, "
                f"or fill it: experiments sync ./experiments {self.url}"
            ) from error
        for name, stat in files.items():
            project, run, inner = name.split("/", 2)
            runs.setdefault(f"{project}/{run}", {})[inner] = stat
        self.problems = [*self._store.refused]
        for run, found in runs.items():
            rows = found.get(_HISTORY)
            if rows and rows.size > _EMPTY_BYTES and "summary.json" not in found:
                why = "has rows but no summary.json"
                self.problems.append(Unreadable(f"{self.url}/{run}", why))
        return runs

    def _begin(self) -> None:
        # What is in the store need not be everybody's on this machine.
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        sweep(self.path)
        marker = os.path.join(self.path, _NOTE)
        if not os.path.exists(marker):
            io.replace_file(marker, orjson.dumps({"url": self.url}))

    def _remove_gone(self, listed: Mapping[str, Any]) -> None:
        from shutil import rmtree

        for project in _folders(self.path):
            for run in _folders(os.path.join(self.path, project)):
                if f"{project}/{run}" not in listed:
                    rmtree(os.path.join(self.path, project, run), ignore_errors=True)

    def _bring(
        self, wanted: Iterable[tuple["_Copy", str]], progress: Progress | None
    ) -> dict[str, OSError]:
        """Fetch those files that differ; return, and keep as problems, what failed."""
        missing = [(copy, name) for copy, name in wanted if not copy.has(name)]
        failed: dict[str, OSError] = {}
        for start in range(0, len(missing), _BATCH):
            failed |= self._bring_batch(missing[start : start + _BATCH])
            if progress:
                progress(min(start + _BATCH, len(missing)), len(missing))
        for path, error in failed.items():
            self.problems.append(Unreadable(path, str(error)))
        return failed

    def _bring_batch(self, batch: Sequence[tuple["_Copy", str]]) -> dict[str, OSError]:
        failed: dict[str, OSError] = {}
        left = []
        for copy, name in batch:
            size = copy.files[name].size
            if _is_document(name) and size > MAX_BYTES:
                why = f"{name} has {size:,} bytes, more than the {MAX_BYTES:,} allowed."
                failed[copy.folder] = OSError(why)
                continue
            try:
                if not (grows(name) and self._continue(copy, name)):
                    left.append((copy, name))
            except (OSError, DamagedError) as error:
                failed[copy.folder] = OSError(str(error))
        if left:
            with scratch(self.path) as folder:
                failed |= self._get(left, folder)
        return failed

    def _get(self, batch: Sequence[tuple["_Copy", str]], folder: str) -> dict[str, OSError]:
        names = [f"{copy.key}/{name}" for copy, name in batch]
        paths = [os.path.join(folder, str(i)) for i in range(len(batch))]
        not_brought = self._store.get(names, paths)
        failed: dict[str, OSError] = {}
        for (copy, name), far, path in zip(batch, names, paths, strict=True):
            try:
                if far in not_brought:
                    raise not_brought[far]
                copy.take(name, path)
            except OSError as error:
                failed[copy.folder] = error
        return failed

    def _continue(self, copy: "_Copy", name: str) -> bool:
        """Write what an append-only file has grown by behind what is here; tell whether it fits."""
        old, new = copy.size_here(name), copy.files[name].size
        start = max(0, old - CLOSING_BYTES - OVERLAP_BYTES)
        if not CLOSING_BYTES < old < new or new - start > _LARGEST_TAIL_BYTES:
            return False
        path = copy.path(name)
        tail = self._store.read(f"{copy.key}/{name}", start, new)
        # The closing bracket was overwritten by the row behind it.
        if not tail.startswith(read_part(path, start, old - CLOSING_BYTES)):
            return False
        with scratch(self.path) as folder:
            # A file of its own: two processes that wrote into one would tear it.
            grown = os.path.join(folder, "grown")
            with open(io.open_for_reading(path), "rb") as here:
                copy_beginning(here, grown, start)
            with open(grown, "ab") as file:
                file.write(tail)
            copy.take(name, grown)
        return True


class _Copy:
    """One run's copy, with a note in its folder of what the store had and what was taken."""

    def __init__(self, root: str, key: str, note: Mapping[str, Any]) -> None:
        self.key = key
        self.folder = os.path.join(root, *key.split("/"))
        self.files = {name: Stat(*stat) for name, stat in (note.get("files") or {}).items()}
        self.final: bool = note.get("final") is True
        self._taken: dict[str, list[Any]] = dict(note.get("taken") or {})
        self._kept = dict(note)

    @classmethod
    def of(cls, root: str, key: str, files: dict[str, Stat] | None = None) -> "_Copy":
        """Read the note; with ``files``, they are what the store has now."""
        try:
            note = read_document(os.path.join(root, *key.split("/"), _NOTE))
        except (OSError, DamagedError):
            note = {}  # Then everything is brought anew.
        copy = cls(root, key, note)
        if files is not None:
            copy._now(files)
        return copy

    def _now(self, files: dict[str, Stat]) -> None:
        self.files = files
        for name in self._taken.keys() - files.keys():
            del self._taken[name]
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(name))

    def path(self, name: str) -> str:
        return os.path.join(self.folder, *name.split("/"))

    def under(self, name: str) -> list[str]:
        """Return the file of that name, or those in the folder of that name; all for none."""
        if name == _HISTORY:  # with those of further processes, which are found beside it
            return [file for file in self.files if file.startswith("metrics_history")]
        if name in self.files:
            return [name]
        return [file for file in self.files if not name or file.startswith(f"{name}/")]

    def has(self, name: str) -> bool:
        taken = self._taken.get(name)
        return taken is not None and taken == [*self.files[name], *_here(self.path(name))]

    def size_here(self, name: str) -> int:
        """Size of an earlier content that is here whole, 0 if there is none."""
        taken = self._taken.get(name)
        return taken[0] if taken and taken[2:] == _here(self.path(name)) else 0

    def take(self, name: str, path: str) -> None:
        """Put what was brought in its place."""
        target = self.path(name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        here = _here(path)
        io.replace(path, target)
        self._taken[name] = [*self.files[name], *here]
        if name == "summary.json":
            self.final = False

    def look_at_status(self) -> None:
        if self.final or "summary.json" not in self._taken:
            return
        try:
            summary = read_document(RunFolder(self.folder).summary)
        except (OSError, DamagedError):
            return  # Whoever reads the run tells what is wrong with it.
        self.final = summary.get("status") in FINAL

    def save(self) -> None:
        files = {name: list(stat) for name, stat in self.files.items()}
        note = {"final": self.final, "files": files, "taken": self._taken}
        if note != self._kept:
            os.makedirs(self.folder, exist_ok=True)
            io.replace_file(os.path.join(self.folder, _NOTE), orjson.dumps(note))
            self._kept = note


def ensure(*paths: str) -> None:
    """Bring files or folders of far runs that are about to be read; nothing for local ones.

    Parameters
    ----------
    *paths
        Inside run folders, as ``RunFolder`` gives them. Several at once come at once.

    Raises
    ------
    OSError
        If a store does not answer, or refuses.
    """
    wanted: dict[str, list[str]] = {}
    for path in paths:
        root, mark, name = path.partition(FAR_MARK)
        if mark:
            wanted.setdefault(root + mark[:-1], []).append(name)
    for root, names in wanted.items():
        if far := _root_at(root):
            far.fetch(*names)


def url_of(path: str) -> str | None:
    """Return the URL of the far root in whose copy ``path`` lies; None for what is really here."""
    root, mark, _ = path.partition(FAR_MARK)
    far = _root_at(root + mark[:-1]) if mark else None
    return far.url if far else None


_roots: dict[str, FarRoot] = {}


def _root_at(path: str) -> FarRoot | None:
    """Return the far root whose copy is at ``path``."""
    if path not in _roots:
        try:
            far = FarRoot(str(read_document(os.path.join(path, _NOTE)).get("url")))
        except (OSError, DamagedError):
            return None
        # A stranger's folder must not send us anywhere: the copy of a URL has its one place.
        if far.path != path:
            return None
        _roots[path] = far
    return _roots[path]


def _is_document(name: str) -> bool:
    return name in _DOCUMENTS or (name.startswith("amendments/") and name.count("/") == 1)


def grows(name: str) -> bool:
    """Tell whether a file of a run is only ever written on at its end."""
    return name.startswith(("metrics_history", "tensorboard/")) or name in _APPENDED


def _here(path: str) -> list[int]:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def read_part(path: str, start: int, end: int) -> bytes:
    """Read the bytes of a file from ``start`` to before ``end``."""
    fd = io.open_for_reading(path)
    try:
        return io.read_range(fd, start, end - start)
    finally:
        io.close(fd)


def copy_beginning(file: BinaryIO, target: str, length: int) -> None:
    """Copy the first ``length`` bytes of a file into a new one."""
    with open(target, "xb") as copied:
        while length and (data := file.read(min(length, 2**20))):
            copied.write(data)
            length -= len(data)


@contextlib.contextmanager
def scratch(root: str) -> Iterator[str]:
    """Give a hidden folder on the same file system, for files that are not whole yet."""
    from shutil import rmtree
    from tempfile import mkdtemp

    folder = mkdtemp(prefix=_SCRATCH, dir=root)
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def sweep(root: str) -> None:
    """Delete what killed processes have left of :func:`scratch`."""
    from shutil import rmtree

    oldest = time.time() - _ABANDONED_AFTER_S
    with contextlib.suppress(FileNotFoundError), os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(_SCRATCH) and entry.stat().st_mtime < oldest:
                rmtree(entry.path, ignore_errors=True)


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return [e.name for e in entries if e.name[0] != "." and e.is_dir(follow_symlinks=False)]


def folder_for(kind: str) -> str:
    """Return our folder in the user's cache, private to the process where that is off."""
    above = cache_folder() or _temporary_cache(os.getpid())
    return os.path.join(above, "experiment_tracking", kind)


@cache
def _temporary_cache(pid: int) -> str:
    import atexit
    from shutil import rmtree
    from tempfile import mkdtemp

    folder = mkdtemp(prefix="experiment_tracking-")
    # A forked child leaves what its parent still reads.
    atexit.register(lambda: rmtree(folder, ignore_errors=True) if os.getpid() == pid else None)
    return folder
