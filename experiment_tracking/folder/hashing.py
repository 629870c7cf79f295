"""SHA-256 of what is written and read: quick to load, and beside the disk's own work."""

import contextlib
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_LITTLE_BYTES = 64 * 1024
_BUILTIN = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
_WAITING_PIECES = 4


def sha256(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hexadecimal."""
    return Sha256(data).hexdigest()


class Sha256:
    """A SHA-256 as the data comes, which loads OpenSSL only where there is much of it.

    Loading it takes 3 ms, a third of the time in which Python starts. The interpreter's own
    code is there at once, and a fifth as quick.
    """

    def __init__(self, data: bytes = b"") -> None:
        self._waiting = bytearray()
        self._hash: Any = None
        self.update(data)

    def update(self, data: bytes) -> None:
        """Add data behind what there is."""
        if self._hash is None:
            self._waiting += data
            if len(self._waiting) <= _LITTLE_BYTES:
                return
            import hashlib

            self._hash, data = hashlib.sha256(), bytes(self._waiting)
            self._waiting = bytearray()
        self._hash.update(data)

    def hexdigest(self, behind: bytes = b"") -> str:
        """Return the hash of everything added, with ``behind`` behind it, in hexadecimal."""
        whole = _quick_sha256(self._waiting) if self._hash is None else self._hash.copy()
        whole.update(behind)
        return str(whole.hexdigest())


def _quick_sha256(data: bytearray) -> Any:
    if "hashlib" not in sys.modules:
        with contextlib.suppress(ImportError, AttributeError):  # left out of some builds
            return import_module(_BUILTIN).sha256(data)
    import hashlib

    return hashlib.sha256(data)


class HashedBeside:
    """A SHA-256 taken in a thread of its own, while the caller reads or writes the next piece.

    Pieces are not copied: they must stay as they are until :meth:`hexdigest` has returned.
    """

    def __init__(self) -> None:
        import hashlib
        import queue
        import threading

        self._hash = hashlib.sha256()
        # Bounded: pieces may be copies of what lies on a device, made one at a time.
        self._pieces: queue.Queue[Any] = queue.Queue(_WAITING_PIECES)
        thread = threading.Thread(target=self._work, name="hashing", daemon=True)
        self._thread: threading.Thread | None = thread
        try:
            thread.start()
        except RuntimeError:  # at the interpreter's end no thread can be started
            self._thread = None

    def update(self, piece: "Buffer") -> None:
        """Add a piece behind what there is."""
        if self._thread is None:
            self._hash.update(piece)
        else:
            self._pieces.put(piece)

    def hexdigest(self) -> str:
        """Return the hash of everything added, in hexadecimal; nothing can be added behind it."""
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Let the thread end, once it is through with what it has."""
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._hash.update(piece)
