"""A model as it lies in a run, read back."""

import hashlib
import os
from typing import Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import read_document

_MAX_WEIGHTS_BYTES = 2**40


def load_tree(folder: str | os.PathLike[str]) -> Any:
    """Read a model saved by ``log_model`` as the tree it was, arrays as numpy.

    Parameters
    ----------
    folder
        Folder with ``model.json``, which names the file of weights beside it.

    Raises
    ------
    DamagedError
        If the weights do not have the SHA-256 that ``model.json`` gives, or either file is not
        what it should be. The bytes that were hashed are the bytes that are used.
    OSError
        If a file is missing or cannot be read now.
    """
    try:
        document, blob = _read(folder)
    except FileNotFoundError:
        # Saved again meanwhile: model.json names other weights now, and the old ones are gone.
        document, blob = _read(folder)
    if hashlib.sha256(blob).hexdigest() != document.get("sha256"):
        raise DamagedError(
            f"Model in {folder}: {document['weights']} does not have the SHA-256 that model.json "
            "gives. Restore both files from the same save."
        )
    from experiment_tracking.formats.trees import decode_tree

    return decode_tree(blob, document.get("structure", {}))


def _read(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    document = read_document(os.path.join(folder, "model.json"))
    name = document.get("weights")
    # A bare name: a foreign model.json must not lead out of its folder.
    if not isinstance(name, str) or name in ("", ".", "..") or set("/\\\0") & set(name):
        raise DamagedError(
            f"Model in {folder}: model.json names {name!r} as weights, expected a file beside it."
        )
    return document, io.read(os.path.join(folder, name), _MAX_WEIGHTS_BYTES)
