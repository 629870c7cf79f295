"""The files that a run keeps, and the list of them in ``artifacts.json``."""

import contextlib
import os

# threading.RLock itself, without the 2.5 ms that importing threading takes.
from _thread import RLock
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from experiment_tracking.errors import InvalidNameError
from experiment_tracking.folder import amendments, io
from experiment_tracking.folder.documents import Document, utc_now
from experiment_tracking.folder.hashing import HashedBeside, Sha256, sha256
from experiment_tracking.folder.layout import RunFolder

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_PIECE_BYTES = 1 << 20
_FLUSHED_BYTES = 8 << 20


class Owner(Protocol):
    """Who writes the run: it changes documents and deals with a disk that refuses."""

    folder: RunFolder
    artifacts: Document

    def change(self, document: Document, edit: Callable[[dict[str, Any]], object]) -> None:
        """Change a document; the file is replaced before this returns."""

    def files_lost(self, error: OSError) -> None:
        """Count a file that could not be kept, and warn or raise."""

    def files_kept(self) -> None:
        """Note that keeping files works."""

    def later(self, action: Callable[[], Any]) -> None:
        """Do something soon, where nobody waits for it."""


class RunFiles:
    """Keep files in a run's folder: each is written whole, then listed, then flushed.

    Parameters
    ----------
    owner
        Who writes the run.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.detached = False
        """Whether the folder belongs to another process now; nothing is written then."""
        self.saving = RLock()
        """Held while a model is saved: of two threads that save one, the later must see what the
        earlier has named. Re-entrant for signal handlers. Of the run and not of the process, so
        that no forked child finds it taken: a child has no files of the run."""
        self.saves_at_work: set[tuple[str, int]] = set()
        """Places and numbers of the saves that are not over: one, or several where signal
        handlers saved in the middle of another."""

    def _path(self, name: str) -> str:
        return self._owner.folder.file(*name.split("/"))

    def keeps_models(self) -> bool:
        """Tell whether models are kept, before one is taken apart for nothing."""
        return not self.detached

    def save(self, entry: dict[str, Any], data: bytes, *, durable: bool = False) -> bool:
        """Write one file of the run and list it; tell whether it is there.

        ``entry`` has at least ``path``, relative to the run with ``/`` between its parts.
        """
        kept = self.put(entry["path"], data, durable=durable)
        if kept:
            known = {"size_bytes": len(data), "sha256": sha256(data)}
            self._list(entry | known, flushed=durable)
        return kept

    def put(self, name: str, data: bytes, *, durable: bool = False) -> bool:
        """Write one file of the run without listing it; tell whether it is there."""
        path = self._path(name)
        kept = False
        if self.detached:
            return kept
        with self._writing():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            io.replace_file(path, data, durable=durable)
            kept = True
        return kept  # noqa: RET504 (it stays False where the disk refused)

    def copy(self, entry: dict[str, Any], source: str) -> None:
        """Copy one file into the run, hashing on the way, and list it."""
        if self.detached:
            return
        path = self._path(entry["path"])
        with self._writing():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            size, digest = _copy_hashed(source, path)
            self._list(entry | {"size_bytes": size, "sha256": digest})

    def stream(self, entry: dict[str, Any], pieces: "Iterable[Buffer]") -> dict[str, Any] | None:
        """Write one file as its pieces come, flushed and hashed, and list it.

        Returns its ``size_bytes`` and ``sha256``, or None where the disk refused. Its hash is
        taken while it is written. Takes 6 MB of memory besides the largest piece.
        """
        return self._made(entry, lambda path: _stream(path, pieces))

    def written_by(
        self, entry: dict[str, Any], suffix: str, write: Callable[[str], object]
    ) -> dict[str, Any] | None:
        """Have ``write`` make one file at the path it is given, then as :meth:`stream`.

        For packages that write to nothing but a path, of which some look at its ``suffix``.
        """
        return self._made(entry, lambda path: _written_by(path, suffix, write))

    def _made(
        self, entry: dict[str, Any], make: Callable[[str], dict[str, Any]]
    ) -> dict[str, Any] | None:
        path = self._path(entry["path"])
        known: dict[str, Any] | None = None
        if self.detached:
            return known
        with self._writing():
            io.make_folders(os.path.dirname(path))
            known = make(path)
            self._list(entry | known, flushed=True)
        return known

    def remove(self, place: str, names: Iterable[str]) -> None:
        """Unlist and delete files in the folder ``place``."""
        if self.detached:
            return
        gone = {f"{place}/{name}" for name in names}
        listed = {entry["path"] for entry in self._owner.artifacts.value["artifacts"]}
        if gone & listed:
            self._owner.change(self._owner.artifacts, partial(_relist, gone, []))
        for path in gone:
            try:
                os.unlink(self._path(path))
            except OSError as error:
                # One that stays, open on Windows or on a disk that is read-only now, is lost to
                # nobody: whoever cleans next finds it again.
                if error.errno is None:
                    raise  # a signal handler's own

    def amend(self, kind: str, name: str, old: Any, new: Any) -> None:
        """Keep what a later value replaced, as a small file that nothing ever overwrites."""
        if self.detached:
            return
        folder = self._owner.folder
        amendment = {"by": amendments.RUN, "kind": kind, "name": name, "old": old, "new": new}
        with self._writing():
            os.makedirs(folder.amendments, exist_ok=True)
            amendments.add(folder, amendment)

    def unlist_lost(self) -> int:
        """Take from the list, in memory, what is not there any more; return how many."""
        listed = self._owner.artifacts.value["artifacts"]
        there = [entry for entry in listed if os.path.lexists(self._path(entry["path"]))]
        self._owner.artifacts.value["artifacts"] = there
        return len(listed) - len(there)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            raise InvalidNameError(
                f"Run {self._owner.folder.name!r}: one name would be a file and a folder at once "
                f"({error}). Choose another name."
            ) from error
        except OSError as error:
            if error.errno is None:
                raise
            self._owner.files_lost(error)
        else:
            self._owner.files_kept()

    def _list(self, entry: dict[str, Any], *, flushed: bool = False) -> None:
        entry["logged_at"] = utc_now()
        self._owner.change(self._owner.artifacts, partial(_relist, {entry["path"]}, [entry]))
        path = self._path(entry["path"])
        if not flushed:
            self._owner.later(lambda: _fsync_if_there(path))


def _relist(gone: set[str], new: list[dict[str, Any]], listed: dict[str, Any]) -> None:
    kept = [entry for entry in listed["artifacts"] if entry["path"] not in gone]
    listed["artifacts"] = [*kept, *new]


def _copy_hashed(source: str, target: str) -> tuple[int, str]:
    digest, size = Sha256(), 0
    with open(source, "rb") as file, io.replacing(target) as fd:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            io.write_all(fd, chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _stream(path: str, pieces: "Iterable[Buffer]") -> dict[str, Any]:
    digest, size, begun = HashedBeside(), 0, 0
    try:
        with io.replacing(path, durable=True) as fd:
            for piece in _copied(pieces):
                digest.update(piece)
                io.write_all(fd, piece)
                size += len(piece)
                if size - begun >= _FLUSHED_BYTES:
                    io.begin_flush(fd, begun, size)
                    begun = size
    finally:
        digest.close()
    return {"size_bytes": size, "sha256": digest.hexdigest()}


def _copied(pieces: "Iterable[Buffer]") -> Iterator[bytearray]:
    """Iterate over copies of about one size.

    Copies, for a model may be trained on in another thread while it is saved: what is hashed must
    be what is written. Of about one size, for a model may have tens of thousands of small arrays.
    """
    waiting = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, view.nbytes, _PIECE_BYTES):
            waiting += view.cast("B")[start : start + _PIECE_BYTES]
            if len(waiting) >= _PIECE_BYTES:
                yield waiting
                waiting = bytearray()
    yield waiting


def _written_by(path: str, suffix: str, write: Callable[[str], object]) -> dict[str, Any]:
    with io.made_elsewhere(path, suffix) as temporary:
        write(temporary)
        return _hash_file(temporary)


def _hash_file(path: str) -> dict[str, Any]:
    digest, size = HashedBeside(), 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_PIECE_BYTES):
                digest.update(chunk)
                size += len(chunk)
    finally:
        digest.close()
    return {"size_bytes": size, "sha256": digest.hexdigest()}


def _fsync_if_there(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # replaced by a later save
        io.fsync_file(path)
