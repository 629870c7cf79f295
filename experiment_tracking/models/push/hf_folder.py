"""The Hugging Face hub: a version as a folder in its form, ready to be uploaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import encode, read_document
from experiment_tracking.formats.models import saved
from experiment_tracking.models.card import (
    Figure,
    figures_of,
    front_matter,
    loading_lines,
    mapping,
    model_card,
)
from experiment_tracking.models.export import copy_file

if TYPE_CHECKING:
    from experiment_tracking.models.version import ModelVersion

_CONFIG = "config.json"
_CARD = "README.md"
_FIGURES = "figures/"
_MARK = "experiment_tracking"
"""What in ``config.json`` tells a folder of ours, and its files."""

_SAFETENSORS = {"torch": "torch", "flax.nnx": "flax", "equinox": "flax", "jax": "flax"}
"""Module of the package safetensors that gives a framework's own arrays."""


def push_to_hf_folder(version: ModelVersion, path: str | os.PathLike[str]) -> str:
    """Write a version as a folder in the form of the Hugging Face hub; return where it is.

    ``model.safetensors`` (or the framework's own kind of file), ``config.json``, the model card as
    ``README.md``, figures, and the other files of the version; ``hf upload NAME FOLDER`` sends
    it. ``model.json`` is there too, so ``SavedModel(folder).load()`` reads it with hashes verified.

    Parameters
    ----------
    path
        A folder that is not there or has no files in it; or one written by this function before,
        of which its own files are replaced and all others left (it may be a clone of the hub's
        repository).

    Raises
    ------
    InvalidValueError
        If something else is there.
    DamagedError
        If a file is not as it was registered.
    OSError
        If the disk refuses.
    """
    from shutil import copyfile

    folder = os.path.abspath(os.path.expanduser(path))
    before = _written_before(folder)
    document = version.model.document
    names, figures = _names(document), figures_of(version)
    pictures = {figure: _place(figure) for figure in figures}
    files = sorted({*names.values(), *pictures.values(), saved.DOCUMENT, _CARD})
    _check_free(folder, files, before)
    config = _config(version, document)
    # First, with all that may be there: killed from here on, the folder is known for ours.
    _write(folder, _CONFIG, encode(_marked(config, version, {*files, *before})))
    for name, target in names.items():
        copy_file(version, name, _target(folder, target))
    for figure, target in pictures.items():
        with io.made_elsewhere(_target(folder, target), "") as hidden:
            copyfile(figure.path, hidden)
    _write(folder, saved.DOCUMENT, encode(_renamed(document, names)))
    _write(folder, _CARD, _card(version, document, folder, pictures).encode())
    for left in before - {*files}:
        os.unlink(os.path.join(folder, left))
    _write(folder, _CONFIG, encode(_marked(config, version, files)))
    return folder


# ---------------------------------------------------------------------- what stands there


def _written_before(folder: str) -> set[str]:
    """Return the files that an earlier push has written, as far as they are there.

    Raises
    ------
    InvalidValueError
        If the folder holds files and is none of ours.
    """
    if not os.path.isdir(folder):
        if os.path.lexists(folder):
            raise InvalidValueError(f"{folder} is no folder. Name one that is not there yet.")
        return set()
    config = os.path.join(folder, _CONFIG)
    mark = read_document(config).get(_MARK) if os.path.lexists(config) else None
    if isinstance(mark, dict):
        listed = mark.get("files")
        return {p for p in listed if _is_ours(folder, p)} if isinstance(listed, list) else set()
    if visible := sorted(name for name in os.listdir(folder) if name[0] != "."):
        raise InvalidValueError(
            f"{folder} holds {visible[0]!r:.60} and was not written by this command. Name a folder "
            "that is empty or not there yet: nothing is overwritten."
        )
    return set()


def _is_ours(folder: str, listed: object) -> bool:
    """Tell whether a path from ``config.json`` is a file in the folder: it may be a stranger's."""
    if not isinstance(listed, str) or "\0" in listed:
        return False
    path = os.path.join(os.path.realpath(folder), *listed.split("/"))
    return os.path.realpath(path) == path and os.path.isfile(path)


def _check_free(folder: str, files: Iterable[str], before: set[str]) -> None:
    for name in files:
        if name not in before and os.path.lexists(os.path.join(folder, name)):
            raise InvalidValueError(
                f"{os.path.join(folder, name)} is there and was not written by this command. Move "
                "it away: nothing is overwritten."
            )


# ---------------------------------------------------------------------- what is written


def _names(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the version's payload files, and what they are called in the folder."""
    files = {role: str(known["file"]) for role, known in document["files"].items()}
    roles = {name: "model" if role == "weights" else role for role, name in files.items()}
    return {name: role + os.path.splitext(name)[1] for name, role in roles.items()}


def _place(figure: Figure) -> str:
    return _FIGURES + figure.place.removeprefix(_FIGURES)


def _target(folder: str, name: str) -> str:
    """Return the path of a file of the folder, above which folders are made."""
    path = os.path.join(folder, *name.split("/"))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def _write(folder: str, name: str, data: bytes) -> None:
    io.replace_file(_target(folder, name), data, durable=True)


def _renamed(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    files = document["files"].items()
    return {**document, "files": {r: {**known, "file": names[known["file"]]} for r, known in files}}


def _config(version: ModelVersion, document: Mapping[str, Any]) -> dict[str, Any]:
    name = str(document.get("class") or "").rpartition(".")[2]
    known = {
        "architectures": [name] if name else None,
        "framework": version.framework,
        "versions": document.get("versions"),
        "parameter_count": document.get("parameter_count"),
        "signature": document.get("signature"),
        "params": version.params,
    }
    return {key: value for key, value in known.items() if value}


def _marked(config: dict[str, Any], version: ModelVersion, files: Iterable[str]) -> dict[str, Any]:
    known = {"version": version.key, "run": version.run, "run_id": version.run_id}
    return {**config, _MARK: {**known, "files": sorted(files)}}


def _card(
    version: ModelVersion, document: Mapping[str, Any], folder: str, pictures: Mapping[Figure, str]
) -> str:
    shown = [f._replace(path=os.path.join(folder, place)) for f, place in pictures.items()]
    loading = _loading(version.framework, document)
    return front_matter(version) + model_card(version, folder, figures=shown, loading=loading)


def _loading(framework: str, document: Mapping[str, Any]) -> str:
    """Return lines that load the model where the folder is the present one."""
    lines = []
    if mapping(document["files"].get("weights")).get("format") == "safetensors":
        module = _SAFETENSORS.get(framework, "numpy")
        lines = [f"from safetensors.{module} import load_file\n\n"]
        lines += ['state = load_file("model.safetensors")\n\n', "# Or with hashes verified:\n"]
    load = 'SavedModel(".").load('
    lines += ["from experiment_tracking.formats.models.saved import SavedModel\n\n"]
    return "".join([*lines, *loading_lines(document, load)])
