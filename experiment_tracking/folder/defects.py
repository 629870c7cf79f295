"""What a check finds, and how one file is looked at."""

import hashlib
from typing import Any, NamedTuple

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import read_document


class Problem(NamedTuple):
    """One defect."""

    path: str
    """The file."""
    kind: str
    """``unreadable``, ``damaged``, ``torn``, ``missing``, ``changed``, ``digest``, ``format``
    or ``leftover``."""
    message: str
    """What was found and what it costs."""
    fixed: str | None = None
    """What a repair did about it."""


def problem_of(path: str, error: Exception) -> Problem:
    """Say of a file what an error says of it, without its path, which the problem has."""
    if isinstance(error, OSError):
        return Problem(path, "unreadable", f"cannot be read now: {error.strerror or error}")
    return Problem(path, "damaged", str(error).removeprefix(f"{path} "))


def read_or_tell(path: str, lost: str) -> tuple[dict[str, Any], list[Problem]]:
    """Read a document; where it cannot be read, an empty one and why, with what is lost by it."""
    try:
        return read_document(path), []
    except FileNotFoundError:
        return {}, [Problem(path, "missing", f"missing, and with it {lost}")]
    except (OSError, DamagedError) as error:
        return {}, [problem_of(path, error)]


def hash_file(path: str) -> tuple[int, str]:
    """Return a regular file's length in bytes and its SHA-256.

    Raises
    ------
    DamagedError
        If it is a link, or no regular file.
    OSError
        If it is missing or cannot be read now.
    """
    digest, offset = hashlib.sha256(), 0
    fd = io.open_for_reading(path)
    try:
        while chunk := io.pread(fd, 1 << 20, offset):
            digest.update(chunk)
            offset += len(chunk)
    finally:
        io.close(fd)
    return offset, digest.hexdigest()
