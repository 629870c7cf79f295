"""A version as one file that other programs run: its own program, or ONNX."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from experiment_tracking.errors import InvalidValueError, NotFoundError
from experiment_tracking.folder import io
from experiment_tracking.models.publication import check_file

if TYPE_CHECKING:
    from experiment_tracking.models.version import ModelVersion

FORMS = ("program", "onnx")
"""What a version can be exported to."""

_WITH_PROGRAM = ("torch", "jax", "flax.nnx", "equinox")
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
    NotFoundError
        If there is no folder to write the file in.
    DamagedError
        If a file is not as it was registered.
    MissingPackageError
        If a package is not installed.
    OSError
        If the disk refuses.
    """
    target = os.path.abspath(os.path.expanduser(path))
    check_folder_of(target)
    if to not in FORMS:
        raise InvalidValueError(
            f"{version.key} cannot be exported to {to!r:.60}. Allowed are {', '.join(FORMS)}."
        )
    framework = version.framework
    if to == "program":
        copy_file(version, _program(version), target)
    elif framework == "onnx":
        copy_file(version, str(version.model.document["files"]["weights"]["file"]), target)
    elif framework in _WAYS:
        raise InvalidValueError(
            f"{version.key} is of {framework}, which is not exported to ONNX here. "
            f"{_WAYS[framework]}."
        )
    else:
        _write_onnx(version, target, trusted)
    return Path(target)


def check_folder_of(path: str) -> None:
    """Insist on a folder to write a file in.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise NotFoundError(f"There is no folder {folder} to write {name!r} in. Make it first.")


def _write_onnx(version: ModelVersion, target: str, trusted: Iterable[str]) -> None:
    from experiment_tracking.models import to_onnx

    if version.framework == "torch":
        _program(version)
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


def _program(version: ModelVersion) -> str:
    files, framework = version.model.document["files"], version.framework
    if "program" in files:
        return str(files["program"]["file"])
    way = _WAYS.get(framework, "The way is 'onnx'")
    if framework in _WITH_PROGRAM:
        way = "Log the model with input_example=, and register that"
    raise InvalidValueError(
        f"{version.key} of {framework} has no program, it was saved with {', '.join(files)}. {way}."
    )
