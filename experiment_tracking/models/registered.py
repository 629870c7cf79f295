"""A registered model: its versions, and what is said of it as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiment_tracking.models.folder import ModelFolder
from experiment_tracking.models.state import ModelState
from experiment_tracking.models.version import ModelVersion

if TYPE_CHECKING:
    from pathlib import Path


class RegisteredModel:
    """A model by its name, as it was when it was looked up.

    Made by :class:`~experiment_tracking.models.registry.ModelRegistry`.
    """

    def __init__(self, folder: ModelFolder, state: ModelState) -> None:
        self._folder = folder
        self.name = folder.name
        self.description = state.description
        self.tags = dict(state.tags)
        self.aliases = dict(sorted(state.aliases.items()))
        """Aliases to the numbers of their versions."""
        self.versions = [ModelVersion(folder, each.number, state) for each in state.living]
        """Versions that are not deleted, the newest first."""
        self.created_at = state.created_at
        """When its first version was registered: ISO 8601, UTC."""
        self.updated_at = state.updated_at
        """When something was last said of it."""
        self.deleted = state.deleted is not None
        """Whether it is in the trash as a whole."""

    def __repr__(self) -> str:
        return f"<RegisteredModel {self.name} of {len(self.versions)} versions>"

    @property
    def path(self) -> Path:
        """Its folder, absolute."""
        from pathlib import Path

        return Path(self._folder.path)

    @property
    def latest(self) -> ModelVersion | None:
        """The version registered last; None where all are deleted."""
        return self.versions[0] if self.versions else None

    def to_dict(self) -> dict[str, Any]:
        """Return what there is to say of it as plain values, for JSON; versions by number."""
        return {
            "name": self.name,
            "description": self.description,
            "tags": self.tags,
            "aliases": self.aliases,
            "versions": {
                version.version: {"stage": version.stage, "run": version.run}
                for version in self.versions
            },
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            "deleted": self.deleted,
        }
