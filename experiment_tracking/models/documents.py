"""Documents of the registry, which are told by their hash."""

from __future__ import annotations

from typing import Any

from experiment_tracking.errors import DamagedError, InvalidValueError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import MAX_BYTES, encode, parse_document
from experiment_tracking.folder.hashing import sha256


def encode_readable(value: Any, what: str) -> bytes:
    """Write a document that a reader will take.

    Raises
    ------
    InvalidValueError
        If it would be too large for that.
    """
    data = encode(value)
    if len(data) > MAX_BYTES:
        raise InvalidValueError(
            f"{what} has {len(data):,} bytes, allowed are {MAX_BYTES:,}. Keep what is large in a "
            "file of the run."
        )
    return data


def read_hashed(path: str) -> tuple[dict[str, Any], str]:
    """Read a document and the SHA-256 of its bytes; raises as ``read_document``."""
    data = io.read(path, MAX_BYTES)
    return parse_document(path, data), sha256(data)


def read_as_registered(path: str, registered: str | None, by: str) -> dict[str, Any]:
    """Read a document that must have the SHA-256 that it was registered with.

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
