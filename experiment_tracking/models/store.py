"""The models of a root as folders: their states read, and changed by one event at a time."""

from __future__ import annotations

import os
from collections.abc import Callable

from experiment_tracking.errors import NotFoundError
from experiment_tracking.folder.layout import MODELS, existing_root
from experiment_tracking.models.events import Event, EventLog, Wish
from experiment_tracking.models.folder import ModelFolder, may_write
from experiment_tracking.models.references import check_model_name, gone, is_model_name, to_do
from experiment_tracking.models.state import ModelState
from experiment_tracking.models.version import ModelVersion
from experiment_tracking.registry.columns import near

Decide = Callable[[ModelState], Wish | None]
"""Says which event is to follow a state, None for none; raises where it may not."""

Look = Callable[[str], ModelState]
"""Gives the state of the model of a name; raises where it may not be changed."""


class ModelStore:
    """The folder ``_models`` of a root.

    Parameters
    ----------
    root
        Folder of projects, absolute; it need not exist.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.path = os.path.join(root, MODELS)
        self._logs: dict[str, EventLog] = {}

    def names(self) -> list[str]:
        """Return the folders that may be models, sorted; others are somebody else's.

        Raises
        ------
        RootNotFoundError
            If the root does not exist: a mistyped one is not empty.
        """
        try:
            with os.scandir(self.path) as listed:
                names = [each.name for each in listed if each.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            existing_root(self.root)
            return []
        return sorted(filter(is_model_name, names))

    def folder(self, name: str) -> ModelFolder:
        """Return where a model is, or would be.

        Raises
        ------
        InvalidNameError
            If no model may be called so.
        """
        return ModelFolder(self.root, check_model_name(name))

    def events(self, name: str) -> list[Event]:
        """Return everything that was done to a model, oldest first."""
        return self._log(name).read()

    def _log(self, name: str) -> EventLog:
        if name not in self._logs:
            self._logs[name] = EventLog(self.folder(name).events)
        return self._logs[name]

    # ------------------------------------------------------------------ states

    def state(self, name: str, number: int | None = None) -> ModelState:
        """Return the state of a model, without versions where there is none.

        Parameters
        ----------
        number
            The state right behind the event of this number, by default the present one.

        Raises
        ------
        DamagedError, OSError
            If its events cannot be read, or its folder is a link.
        """
        self.folder(name).check_no_link()
        log = self._log(name)
        return ModelState(log.read()[:number], log.path_of)

    def ever(self, name: str) -> ModelState:
        """Return the state of a model that is there, or was.

        Raises
        ------
        NotFoundError
            If there never was one; RootNotFoundError where the root does not exist.
        """
        state = self.state(name)
        if not state.versions:
            names = self.names()
            how = to_do(["register", "RUN", "--name", name], f"register(run, name={name!r})")
            raise NotFoundError(
                f"There is no registered model {name!r} in {self.path}. "
                f"{near(name, names)} Register one: {how}."
            )
        return state

    def existing(self, name: str) -> ModelState:
        """Return the state of a model that is not deleted.

        Raises
        ------
        NotFoundError
            If there is none; the message shows near names, or how a deleted one comes back.
        """
        state = self.ever(name)
        if state.deleted is not None:
            for_good = f"{name} was deleted for good. Its history is left."
            raise NotFoundError(for_good if state.purged else gone(state.deleted, name))
        return state

    def version(self, name: str, state: ModelState, number: int) -> ModelVersion:
        """Return one version, as it is in a state."""
        return ModelVersion(self.folder(name), number, state)

    # ------------------------------------------------------------------ changing

    def change(self, name: str, decide: Decide, look: Look | None = None) -> ModelState:
        """Add the event that ``decide`` wants behind the present state.

        Returns the state right behind it, whatever others have done since.

        Where somebody else was quicker, ``decide`` is asked again about the state after that.

        Parameters
        ----------
        look
            Gives the state to decide on; by default that of a model that is not deleted.

        Raises
        ------
        OSError
            If the disk refuses.
        """
        look = look or self.existing
        while True:
            state = look(name)
            wish = decide(state)
            if wish is None:
                return state
            with may_write(self.root):
                added = self._log(name).add(state.last, wish)
            if added:
                return self.state(name, state.last.number + 1 if state.last else 1)
