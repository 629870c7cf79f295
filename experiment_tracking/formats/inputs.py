r"""What a run was trained on: enough to know it again, without a copy of it.

Every recipe of a ``sha256`` here can be followed by hand:

- file: its bytes, as ``sha256sum FILE`` does;
- folder: the lines ``<sha256 of the file>  <path in the folder>\n`` of its files, sorted by the
  bytes of the path, as ``cd FOLDER && find -L . -type f -printf '%P\0' | LC_ALL=C sort -z |
  xargs -0 sha256sum | sha256sum`` does (but a path with a newline or backslash in it is not
  escaped here); group: the same of its parts, with their names for paths;
- array: the line ``<dtype> <sizes of the axes joined by x>\n`` such as ``float32 60000x784``, then
  the elements in C order, little-endian;
- frame: the line of the array recipe with ``frame`` for the dtype, a line ``<name> <dtype>`` for
  each column, then the 64-bit numbers of ``pandas.util.hash_pandas_object``. pandas may change
  them with a major version.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.folder.layout import SCRATCH_VARIABLE
from experiment_tracking.formats.arrays import is_tensor
from experiment_tracking.formats.trees import as_numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_COLUMNS = 1000
MAX_PARTS = 1000
MAX_DEPTH = 10
_CHUNK = 1 << 20
_BLOCK = 64 << 20
_TOLD_EVERY_S = 0.25
# With one letter it is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://)(?:[^/?#]*@)?([^?#]*)([?#].*)?", re.DOTALL)

OnProgress = Callable[[int, int], None]


def describe_input(
    value: Any,
    *,
    hash: bool = True,  # noqa: A002 (what it does, in one word)
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    r"""Describe a file, folder, array, frame or data set as plain JSON.

    Parameters
    ----------
    value
        - A path: ``{"kind": "file", "path", "size_bytes", "sha256", "modified_at"}`` or
          ``{"kind": "folder", "path", "size_bytes", "files", "sha256"}``. In a folder hidden files
          count, and links are followed, in it and out of it, as their content is what was read.
          ``skipped`` counts, where there are any, broken links, links to a folder around them,
          pipes, sockets and devices. ``note`` says what changed while it was read.
        - A URL: ``{"kind": "uri", "path"}``, without user and query. Nothing is fetched.
        - A numpy, torch or jax array, or anything else with ``__array__`` or ``__dlpack__``:
          ``{"kind": "array", "shape", "dtype", "size_bytes", "sha256"}``, the same for equal
          arrays of any framework. Arrays of objects, records and long doubles have no hash.
        - A pandas, polars or pyarrow frame: ``{"kind": "frame", "shape", "columns", "size_bytes",
          "sha256", "library"}``, ``columns`` being the dtypes by name, of the first 1,000. Those
          of polars and pyarrow have no hash; nor have columns that hold lists.
        - A torch Dataset or DataLoader, a Hugging Face Dataset: ``{"kind": "dataset", "class",
          "length"}`` with ``fingerprint`` if it has one. Its items are not read.
        - A mapping, list or tuple of at most 1,000 of these: ``{"kind": "group", "parts",
          "size_bytes", "sha256"}``.
    hash
        Whether to read the content; otherwise ``sha256`` is None.
    on_progress
        Called with the bytes hashed so far and those in all, at most four times a second, and
        at the end, for a file, folder or array.

    Raises
    ------
    InvalidValueError
        Nothing is at that path, or a part of it cannot be read.
    InvalidTypeError
        ``value`` is none of these.

    Notes
    -----
    Hashing takes 1 s for 1.5 GB from memory (for 0.5 GB where an array is not contiguous), and
    25 µs for each file; other threads go on meanwhile. A tensor on a device comes over in blocks
    of 64 MB. A file name that is not UTF-8 is hashed by its bytes, and shown with ``\xff`` for
    the byte.
    """
    return _describe(value, _Hashing(on_progress) if hash else None, depth=0)


def same_input(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
    """Tell whether two descriptions are of the same content; None where they do not tell.

    By ``sha256`` where both have one, else a difference in kind, size or shape says no, and the
    same fingerprint yes. Hashes made by two major versions of pandas are not compared.
    """
    if _major(one) == _major(other) and one.get("sha256") and other.get("sha256"):
        return bool(one["sha256"] == other["sha256"])
    if any(one.get(fact) != other.get(fact) for fact in _FACTS):
        return False
    parts, others = one.get("parts", {}), other.get("parts", {})
    if parts.keys() != others.keys() or False in (same_input(parts[x], others[x]) for x in parts):
        return False
    # Another fingerprint may be that of the same data, cached or loaded another way.
    return True if one.get("fingerprint", 0) == other.get("fingerprint") else None


_FACTS = ("kind", "size_bytes", "files", "shape", "dtype", "length")


def _major(description: Mapping[str, Any]) -> str:
    return str(description.get("library")).partition(".")[0]


class _Hashing:
    """Hash bytes, and tell now and then how far it has come."""

    def __init__(self, tell: OnProgress | None) -> None:
        self._tell = tell
        self._total = self._done = 0
        self._told_at = time.monotonic()

    def expect(self, size_bytes: int) -> None:
        self._total, self._done = size_bytes, 0

    def update(self, digest: Any, data: Any) -> None:
        digest.update(data)
        self._done += len(data)
        now = time.monotonic()
        if self._tell and (now - self._told_at >= _TOLD_EVERY_S or self._done == self._total):
            self._told_at = now
            self._tell(self._done, self._total)


def _sha256(data: bytes = b"") -> Any:
    import hashlib

    return hashlib.sha256(data)


def _describe(value: Any, hashing: _Hashing | None, depth: int) -> dict[str, Any]:
    if isinstance(value, str) and (url := _URL.fullmatch(value)):
        scheme, place, query = url.groups()
        return {"kind": "uri", "path": _text(f"{scheme}{place}{'?***' if query else ''}")}
    if isinstance(value, str | os.PathLike):
        return _describe_path(os.fspath(value), hashing)
    if frame := _describe_frame(value, hashing):
        return frame
    if dataset := _describe_dataset(value):
        return dataset
    if is_tensor(value) or any(hasattr(value, name) for name in ("__array__", "__dlpack__")):
        return _describe_array(value, hashing)
    if isinstance(value, Mapping | list | tuple):
        return _describe_group(value, hashing, depth)
    raise InvalidTypeError(
        f"Input: found a {type(value).__name__}. Pass a path, a URL, an array, a data frame, a "
        f"torch or Hugging Face data set, or a mapping or list of these; of numbers, make an array."
    )


def _describe_path(path: str | bytes, hashing: _Hashing | None) -> dict[str, Any]:
    path = os.fsencode(path)
    # In a rerun data is a link in a folder that will be gone; kept is where it leads.
    full_path = os.path.realpath if SCRATCH_VARIABLE in os.environ else os.path.abspath
    place = path and full_path(path)  # which would be this folder for an empty one
    try:
        found = os.stat(place)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidValueError(
            f"Input: looked for a file or folder at {_text(place)!r}: {reason}. Pass an existing "
            f"path, a URL such as s3://…, or the array or frame itself."
        ) from None
    if stat.S_ISREG(found.st_mode):
        return _describe_file(place, found, hashing)
    if stat.S_ISDIR(found.st_mode):
        return _describe_folder(place, hashing)
    raise InvalidValueError(
        f"Input: {_text(place)!r} is a pipe, socket or device, which can be read but once. Pass a "
        f"file or folder."
    )


def _describe_file(place: bytes, found: os.stat_result, hashing: _Hashing | None) -> dict[str, Any]:
    from datetime import UTC, datetime

    modified = datetime.fromtimestamp(found.st_mtime, UTC).isoformat(timespec="milliseconds")
    description = {
        "kind": "file",
        "path": _text(place),
        "size_bytes": found.st_size,
        "sha256": None,
        "modified_at": modified.replace("+00:00", "Z"),
    }
    if hashing:
        hashing.expect(found.st_size)
        with _readable(place):
            description["sha256"], changed = _hash_file(place, hashing)
        if changed:
            description["note"] = "It changed while it was read."
    return description


def _describe_folder(place: bytes, hashing: _Hashing | None) -> dict[str, Any]:
    with _readable(place):
        sizes, skipped = _files_in(place)
    description = {
        "kind": "folder",
        "path": _text(place),
        "size_bytes": sum(sizes.values()),
        "files": len(sizes),
        "sha256": None,
    }
    if skipped:
        description["skipped"] = skipped
    if hashing:
        hashing.expect(sum(sizes.values()))
        description["sha256"], changed = _hash_folder(place, sizes, hashing)
        if changed:
            names = ", ".join(map(_text, changed[:3])) + (", …" if len(changed) > 3 else "")
            description["note"] = f"{len(changed)} of the files changed while read: {names}"
    return description


def _files_in(folder: bytes) -> tuple[dict[bytes, int], int]:
    """Size of each regular file by its path with ``/``, and how many other things there are."""
    sizes: dict[bytes, int] = {}
    skipped = 0
    waiting = [(folder, b"", frozenset[tuple[int, int]]())]
    while waiting:
        path, inside, above = waiting.pop()
        here = os.stat(path)
        if (here.st_dev, here.st_ino) in above:  # a link to a folder around it
            skipped += 1
            continue
        above |= {(here.st_dev, here.st_ino)}
        with os.scandir(path) as entries:
            for entry in entries:
                mode, size = _mode_and_size(entry)
                if stat.S_ISDIR(mode):
                    waiting.append((entry.path, inside + entry.name + b"/", above))
                elif stat.S_ISREG(mode):
                    sizes[inside + entry.name] = size
                else:
                    skipped += 1
    return sizes, skipped


def _mode_and_size(entry: os.DirEntry[bytes]) -> tuple[int, int]:
    try:
        found = entry.stat()
    except OSError:
        if entry.is_symlink():
            return 0, 0  # It leads nowhere.
        raise
    return found.st_mode, found.st_size


def _hash_folder(
    folder: bytes, sizes: dict[bytes, int], hashing: _Hashing
) -> tuple[str, list[bytes]]:
    lines, changed = _sha256(), []
    for name in sorted(sizes):
        path = os.path.join(folder, name)
        with _readable(path):
            found, has_changed = _hash_file(path, hashing)
        lines.update(_line(found, name))
        if has_changed:
            changed.append(name)
    return lines.hexdigest(), changed


def _line(sha256: str, name: bytes) -> bytes:
    return sha256.encode() + b"  " + name + b"\n"


def _hash_file(path: bytes, hashing: _Hashing) -> tuple[str, bool]:
    digest = _sha256()
    with open(path, "rb", buffering=0) as file:
        before = os.fstat(file.fileno())
        while chunk := file.read(_CHUNK):
            hashing.update(digest, chunk)
        after = os.fstat(file.fileno())
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return digest.hexdigest(), not same


@contextmanager
def _readable(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = os.fsencode(error.filename or path)
        raise InvalidValueError(
            f"Input: {_text(name)!r} cannot be read ({error.strerror}). Make it readable, or pass "
            f"what can be read of it."
        ) from error


def _text(name: str | bytes) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _describe_array(value: Any, hashing: _Hashing | None) -> dict[str, Any]:
    try:
        array = _sliceable(value)
        dtype = _dtype_name(array)
        shape = [int(size) for size in array.shape]
        return {
            "kind": "array",
            "shape": shape,
            "dtype": dtype,
            "size_bytes": int(array.nbytes),
            "sha256": _hash_array(array, _header(dtype, shape), hashing) if hashing else None,
        }
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(
            f"Input: a {type(value).__name__} cannot be read as an array ({error}). Pass a dense "
            f"numpy, torch or jax array."
        ) from error


def _header(dtype: str, shape: list[int]) -> bytes:
    return f"{dtype} {'x'.join(map(str, shape))}\n".encode()


def _sliceable(value: Any) -> Any:
    import numpy as np

    if is_tensor(value):
        return value.detach()
    if not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    if isinstance(value, np.ndarray) or not all(
        hasattr(value, name) for name in ("shape", "dtype", "nbytes", "__getitem__")
    ):
        return np.asarray(value)  # of a matrix too, whose rows are matrices for ever
    return value  # jax's, and those in HDF5 and zarr, which need not fit into memory


def _dtype_name(array: Any) -> str:
    import numpy as np

    if is_tensor(array):
        return str(array.dtype).removeprefix("torch.")
    dtype = np.dtype(array.dtype).newbyteorder("=")
    return str(dtype) if dtype.kind in "SUV" and not _is_ml_dtype(dtype) else dtype.name


def _is_ml_dtype(dtype: Any) -> bool:
    return bool(dtype.type.__module__ == "ml_dtypes")


def _hash_array(array: Any, header: bytes, hashing: _Hashing) -> str | None:
    if not is_tensor(array) and not _has_plain_bytes(array.dtype):
        return None
    digest = _sha256(header)
    hashing.expect(int(array.nbytes))
    for block in _blocks(array):
        hashing.update(digest, _as_bytes(block))
    return str(digest.hexdigest())


def _has_plain_bytes(dtype: Any) -> bool:
    """Whether equal elements have equal bytes: objects are addresses, long doubles have gaps."""
    return (dtype.kind in "biufcmMSU" and dtype.char not in "gG") or _is_ml_dtype(dtype)


def _blocks(array: Any) -> Iterator[Any]:
    """Cut an array along its first axes, so that no more than a block is ever copied."""
    if array.nbytes <= _BLOCK or tuple(array.shape) in ((), (1,)):
        yield array
    elif array.shape[0] == 1:
        yield from _blocks(array[0])
    else:
        length = array.shape[0]
        rows = max(1, _BLOCK * length // array.nbytes)
        for start in range(0, length, rows):
            yield from _blocks(array[start : start + rows])


def _as_bytes(block: Any) -> NDArray[Any] | bytes:
    import numpy as np

    plain, _ = as_numpy(block.resolve_conj().resolve_neg() if is_tensor(block) else block)
    # numpy cannot view elements of no bytes, such as those of an empty array of text.
    return np.ascontiguousarray(plain).reshape(-1).view(np.uint8) if plain.nbytes else b""


def _describe_frame(value: Any, hashing: _Hashing | None) -> dict[str, Any] | None:
    if pandas := _library_of(value, "pandas", "DataFrame", "Series"):
        frame = value if value.ndim == 2 else value.to_frame()
        columns = [(str(name), str(dtype)) for name, dtype in frame.dtypes.items()]
        size_bytes = int(frame.memory_usage().sum())
        sha256 = _hash_pandas(pandas, frame, columns) if hashing else None
        return _frame(pandas, value.shape, columns, size_bytes, sha256)
    if polars := _library_of(value, "polars", "DataFrame", "Series"):
        frame = value if len(value.shape) == 2 else value.to_frame()
        columns = [(name, str(dtype)) for name, dtype in frame.schema.items()]
        return _frame(polars, value.shape, columns, int(value.estimated_size()), None)
    if pyarrow := _library_of(value, "pyarrow", "Table", "RecordBatch"):
        columns = [(field.name, str(field.type)) for field in value.schema]
        return _frame(pyarrow, value.shape, columns, value.nbytes, None)
    return None


def _library_of(value: Any, name: str, *kinds: str) -> Any:
    """Return the library whose frame ``value`` is; one that is not imported made none."""
    library = sys.modules.get(name)
    is_its = library and isinstance(value, tuple(getattr(library, kind) for kind in kinds))
    return library if is_its else None


def _frame(
    library: Any,
    shape: tuple[int, ...],
    columns: list[tuple[str, str]],
    size_bytes: int,
    sha256: str | None,
) -> dict[str, Any]:
    return {
        "kind": "frame",
        "shape": list(shape),
        "columns": {_text(name): dtype for name, dtype in columns[:MAX_COLUMNS]},
        "size_bytes": size_bytes,
        "sha256": sha256,
        "library": f"{library.__name__} {library.__version__}",
    }


def _hash_pandas(pandas: Any, frame: Any, columns: list[tuple[str, str]]) -> str | None:
    digest = _sha256(_header("frame", list(frame.shape)))
    for name, dtype in columns:
        digest.update(f"{name} {dtype}\n".encode("utf-8", "surrogatepass"))
    try:
        rows = pandas.util.hash_pandas_object(frame)
    except TypeError:  # lists, mappings or sets in the cells
        return None
    digest.update(rows.to_numpy())
    return str(digest.hexdigest())


def _describe_dataset(value: Any) -> dict[str, Any] | None:
    data = sys.modules.get("torch.utils.data")
    if data and isinstance(value, data.DataLoader):
        value = value.dataset
    fingerprint = getattr(value, "_fingerprint", None)
    if not isinstance(fingerprint, str) and not (data and isinstance(value, data.Dataset)):
        return None
    kind = type(value)
    try:
        length = len(value)
    except (TypeError, NotImplementedError):
        length = None  # a stream
    description = {
        "kind": "dataset",
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "length": length,
    }
    return description | ({"fingerprint": fingerprint} if isinstance(fingerprint, str) else {})


def _describe_group(value: Any, hashing: _Hashing | None, depth: int) -> dict[str, Any]:
    if len(value) > MAX_PARTS or depth > MAX_DEPTH:
        raise InvalidValueError(
            f"Input: found {len(value):,} parts at depth {depth}, allowed are {MAX_PARTS:,} and "
            f"{MAX_DEPTH}. Pass the folder they are in, or one array of them."
        )
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    parts = {_text(str(name)): _describe(part, hashing, depth + 1) for name, part in items}
    hashes = {os.fsencode(name): str(part.get("sha256") or "") for name, part in parts.items()}
    sha256 = None
    if hashing and all(hashes.values()):
        sha256 = _sha256(b"".join(_line(hashes[name], name) for name in sorted(hashes))).hexdigest()
    size_bytes = sum(part.get("size_bytes", 0) for part in parts.values())
    return {"kind": "group", "parts": parts, "size_bytes": size_bytes, "sha256": sha256}
