"""One version of a registered model, as it was when it was looked up."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import DamagedError, FormatError
from experiment_tracking.folder.values import from_stored, shown_name
from experiment_tracking.formats.models import saved
from experiment_tracking.formats.models.saved import Save, SavedModel
from experiment_tracking.models.documents import read_as_registered
from experiment_tracking.models.folder import ModelFolder
from experiment_tracking.models.publication import FORMAT, VERSION, check_file
from experiment_tracking.models.state import ModelState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class ModelVersion:
    """One version of a registered model: what it is, where it came from, in which stage it is.

    Made by :class:`~experiment_tracking.models.registry.ModelRegistry`. Stage, aliases,
    description and tags are those of the moment it was looked up; the rest never changes.
    Nothing of its folder is read before it is asked for.
    """

    def __init__(self, folder: ModelFolder, number: int, state: ModelState) -> None:
        known = state.versions[number]
        self._folder = folder
        self._sha256 = known.sha256
        self._event = f"the event of its registration in {folder.events}"
        self.name = folder.name
        """Name of the model."""
        self.version = number
        """1, 2, …"""
        self.stage = known.stage
        """None (as text), Staging, Production or Archived."""
        self.aliases = sorted(alias for alias, to in state.aliases.items() if to == number)
        """What else it is called, such as ``champion``."""
        self.description = known.description
        self.tags = dict(known.tags)
        self.created_at = known.created_at
        """When it was registered: ISO 8601, UTC."""
        self.updated_at = known.updated_at
        """When something was last said of it."""
        self.by = known.by
        """Who registered it."""
        self.run = known.run
        """Key of the run it came from, ``project/name``, as it was then."""
        self.run_id = known.run_id
        """Id of that run, stable under renaming."""
        self.approvals = {stage: list(by) for stage, by in known.approvals.items()}
        """By stage, who has approved it."""
        self.deleted = state.is_deleted(number)
        """Whether it is in the trash, by itself or with the model."""
        self.purged = known.purged
        """Whether its files were deleted for good."""

    def __repr__(self) -> str:
        words = [self.stage, *(f"@{alias}" for alias in self.aliases)]
        return f"<ModelVersion {self.key} {' '.join(words)}{' deleted' if self.deleted else ''}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelVersion):
            return NotImplemented
        return (self.path, self._sha256) == (other.path, other._sha256)

    def __hash__(self) -> int:
        return hash((self.path, self._sha256))

    @property
    def key(self) -> str:
        """``name/3``."""
        return f"{self.name}/{self.version}"

    @property
    def uri(self) -> str:
        """``models:/name/3``."""
        return f"models:/{self.key}"

    @property
    def path(self) -> Path:
        """Its folder, absolute: the files of one save, ``model.json`` and ``version.json``."""
        from pathlib import Path

        return Path(self._folder.version(self.version))

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """``version.json``: run, params, metrics, inputs, code, and the hashes of its files.

        Raises
        ------
        DamagedError
            If it is not as it was registered.
        """
        self._folder.check_no_link(str(self.path))
        path = os.path.join(self.path, VERSION)
        document = read_as_registered(path, self._sha256, self._event)
        _check(path, document)
        return document

    @property
    def params(self) -> dict[str, Any]:
        """Hyperparameters of its run, nested as given."""
        return dict(self.lineage["params"])

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics by name: their values when the model was saved, then the run's last ones."""
        stored = self.lineage["metrics"]
        return {shown_name(name): from_stored(value) for name, value in stored.items()}

    @property
    def framework(self) -> str:
        """What it was saved with, such as ``torch``."""
        return str(self.lineage["model"].get("framework") or "")

    @property
    def model(self) -> SavedModel:
        """The saved model, with all that it can load; what it reads must be what was registered."""
        return _RegisteredModel(str(self.path), lambda: self.lineage["files"])

    def load(self, into: Any = None, **how: Any) -> Any:
        """Return the model, its state, or ``into`` filled with it.

        See :meth:`SavedModel.load <experiment_tracking.formats.models.saved.SavedModel.load>`
        for the arguments and errors. Hashes are verified, with the very bytes that are then used.
        """
        return self.model.load(into, **how)

    def load_optimizer(self, into: Any = None, scheduler: Any = None) -> Any:
        """Return the optimizer's state, or ``into`` filled with it; fill ``scheduler`` too.

        Raises
        ------
        NotFoundError
            If the model was saved without it.
        """
        return self.model.load_optimizer(into, scheduler)

    def load_program(self) -> Callable[..., Any]:
        """Return the function that computes the model, without the code that defined it."""
        return self.model.load_program()

    def verify(self) -> None:
        """Read every file of the version and compare it with what was registered.

        Raises
        ------
        DamagedError
            At the first that differs, is missing or is a link.
        """
        for name, known in self.lineage["files"].items():
            check_file(os.path.join(self.path, name), known)

    def to_dict(self) -> dict[str, Any]:
        """Return what there is to say of it as plain values, for JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "stage": self.stage,
            "aliases": self.aliases,
            "description": self.description,
            "tags": self.tags,
            "created_at": self.created_at,
            "by": self.by,
            "run": self.run,
            "run_id": self.run_id,
            "path": str(self.path),
            "uri": self.uri,
            "framework": self.framework,
            "params": self.params,
            "metrics": self.lineage["metrics"],
            "deleted": self.deleted,
        }


class _RegisteredModel(SavedModel):
    """A saved model whose ``model.json`` must be the one that was registered."""

    def __init__(self, path: str, files: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(path)
        self._files = files

    @property
    def saves(self) -> list[dict[str, Any]]:
        """What is known of the one save that a version has."""
        return [self.document]

    def _save(self) -> Save:
        # What is used are the bytes that were hashed; what they say is checked as in a run.
        path = os.path.join(self._folder, saved.DOCUMENT)
        known = self._files().get(saved.DOCUMENT, {})
        document = read_as_registered(path, known.get("sha256"), VERSION)
        if super()._save().document != document:
            raise DamagedError(f"{path} was changed while it was read. {_RESTORE}")
        return Save(self._folder, document)


_RESTORE = "Restore the version from a copy."

_KINDS: dict[str, type] = {
    "run": dict, "params": dict, "metrics": dict, "run_metrics": dict, "inputs": list,
    "code": dict, "model": dict, "files": dict,
}  # fmt: skip


def _check(path: str, document: Mapping[str, Any]) -> None:
    """Refuse what is no ``version.json``: a registry may come from anybody, hashes and all."""
    found = document.get("format")
    if type(found) is int and found != FORMAT:
        raise FormatError(
            f"{path} has format {found}, this version reads {FORMAT}. Upgrade experiment_tracking."
        )
    kinds = {"format": int, **_KINDS}
    wrong = [key for key, kind in kinds.items() if type(document.get(key)) is not kind]
    if not wrong and not all(_is_file(*each) for each in document["files"].items()):
        wrong = ["files"]
    if wrong:
        found = document.get(wrong[0])
        raise DamagedError(f"{path} has {found!r:.60} as {wrong[0]!r}. {_RESTORE}")


def _is_file(name: str, known: Any) -> bool:
    return os.path.basename(name) == name and type(known) is dict
