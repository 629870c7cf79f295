"""A figure, image, table, histogram or model to safe bytes, and back.

Nothing here touches a file: a run writes the bytes, so that every file is written one way.
"""

from typing import NamedTuple


class Encoded(NamedTuple):
    """Bytes ready to be a file."""

    data: bytes
    suffix: str
    """File name ending with its dot, ``".png"``."""
