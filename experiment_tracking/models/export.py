"""A version as one file that other programs run: its own program, or ONNX."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.folder import io
from experiment_tracking.models.publication import check_file

if TYPE_CHECKING:
    from experiment_tracking.models.version import ModelVersion

FORMS = ("program", "onnx")
"""What a version can be exported to."""

_WAYS = {
    **dict.fromkeys(
        ("jax", "flax.nnx", "equinox"),
        "The way is 'program': its program is jax.export's, StableHLO in a file",
    ),
    "xgboost": "Convert what load() gives with onnxmltools.convert_xgboost",
    "lightgbm": "Convert what load() gives with onnxmltools.convert_lightgbm",
    "keras": "Keras itself writes it: load().export(path, format='onnx')",
    "arrays": "It has arrays alone, and no program that computes with them",
    "cloudpickle": "It is a pickle, of which nobody knows what it computes",
}


def export(
    version: ModelVersion, to: str, path: str | os.PathLike[str], trusted: Iterable[str] = ()
) -> Path:
    """Write a version as one file, an earlier one is replaced; return where it is.

    Parameters
    ----------
    version
        The version.
    to
        ``program``: what ``torch.export`` or ``jax.export`` made of it when it was saved.
        ``onnx``: of torch's program, of a scikit-learn model that takes one matrix of numbers, or
        of a model that was ONNX. What it computes is compared with the model by onnxruntime
        before the file is there.
    path
        The file.
    trusted
        Types of a scikit-learn model, as
        :meth:`~experiment_tracking.formats.models.saved.SavedModel.load` takes them.

    Raises
    ------
    InvalidValueError
        If there is no such way; it says which there is. If the ONNX file computes something else.
    DamagedError
        If a file is not as it was registered.
    MissingPackageError
        If a package is not installed.
    OSError
        If the disk refuses.
    """
    target = os.path.abspath(os.path.expanduser(path))
    if to not in FORMS:
        raise InvalidValueError(
            f"{version.key} cannot be exported to {to!r:.60}. Allowed are {', '.join(FORMS)}."
        )
    framework = version.framework
    if to == "program":
        copy_file(version, _file(version, "program"), target)
    elif framework == "onnx":
        copy_file(version, _file(version, "weights"), target)
    elif framework in _WAYS:
        raise InvalidValueError(
            f"{version.key} is of {framework}, which is not exported to ONNX here. "
            f"{_WAYS[framework]}."
        )
    else:
        _write_onnx(version, target, trusted)
    return Path(target)


def _write_onnx(version: ModelVersion, target: str, trusted: Iterable[str]) -> None:
    from experiment_tracking.models import to_onnx

    if version.framework == "torch":
        _file(version, "program")
    with io.made_elsewhere(target, ".onnx") as hidden:
        if version.framework == "torch":
            to_onnx.from_torch(version, hidden)
        else:
            to_onnx.from_sklearn(version, hidden, trusted)


def copy_file(version: ModelVersion, name: str, target: str) -> None:
    """Copy one file of a version; the copy has the size and hash that were registered."""
    from shutil import copyfile

    source = str(version.path / name)
    with io.made_elsewhere(target, "") as hidden:
        copyfile(source, hidden)
        check_file(hidden, version.lineage["files"][name], source)


def _file(version: ModelVersion, role: str) -> str:
    files = version.model.document["files"]
    if role not in files:
        raise InvalidValueError(
            f"{version.key} has no {role}, it was saved with {', '.join(files)}. Log the model "
            "with input_example=, and register that."
        )
    return str(files[role]["file"])
