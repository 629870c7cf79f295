"""Documents of the registry: flushed when they are created, and read together with their hash."""

from __future__ import annotations

import json
from typing import Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import MAX_BYTES
from experiment_tracking.folder.hashing import sha256


def create_flushed(path: str, data: bytes) -> None:
    """Create ``path``, which must not exist, holding ``data`` on the disk."""
    fd = io.create_with(path, data)
    try:
        io.fsync(fd)
    finally:
        io.close(fd)


def read_hashed(path: str) -> tuple[dict[str, Any], str]:
    """Read a JSON object and the SHA-256 of its bytes.

    Raises
    ------
    DamagedError
        If it is no JSON object, a link, or no regular file.
    OSError
        If it is missing or cannot be read now.
    """
    data = io.read(path, MAX_BYTES)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        seen = "empty" if not data else "all NUL bytes" if not data.strip(b"\0") else str(error)
        raise DamagedError(f"{path} is not JSON: {seen}.") from error
    if type(value) is not dict:
        raise DamagedError(f"{path} holds {type(value).__name__}, expected a JSON object.")
    return value, sha256(data)


def read_as_registered(path: str, registered: str | None, by: str) -> dict[str, Any]:
    """Read a JSON object that must have the SHA-256 that it was registered with.

    Parameters
    ----------
    registered
        That hash; None where there is none.
    by
        What says so, for the message.

    Raises
    ------
    DamagedError
        If it differs, or is missing.
    """
    try:
        document, found = read_hashed(path)
    except FileNotFoundError:
        raise DamagedError(f"{path} is gone. Restore it from a copy of the version.") from None
    if found != registered:
        raise DamagedError(
            f"{path} is not as it was registered: its SHA-256 is {found[:12]}…, {by} says "
            f"{str(registered)[:12]}…. Restore it from a copy of the version."
        )
    return document
