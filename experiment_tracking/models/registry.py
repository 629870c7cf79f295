"""Registered models: versions with stages and aliases, without a server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import layout
from experiment_tracking.models.events import Event, Wish
from experiment_tracking.models.folder import may_write
from experiment_tracking.models.given import (
    said_of_version,
    to_person,
    to_reason,
    to_tags,
    to_text,
    to_version_or_model,
)
from experiment_tracking.models.references import (
    Reference,
    check_alias,
    number_of,
    parse_reference,
    subject_of,
    to_version,
)
from experiment_tracking.models.registered import RegisteredModel
from experiment_tracking.models.stages import GUARDED, PRODUCTION, to_guarded, to_stage
from experiment_tracking.models.state import ModelState
from experiment_tracking.models.store import Decide, ModelStore
from experiment_tracking.models.trash import deletion, purge, restoration
from experiment_tracking.models.version import ModelVersion
from experiment_tracking.registry.summary import Unreadable

if TYPE_CHECKING:
    import pandas as pd

# The class has a method of that name.
Models = list[RegisteredModel]
Versions = list[ModelVersion]
Events = list[Event]
Problems = list[Unreadable]
Names = list[str]


class ModelRegistry:
    """The registered models of a root, in its folder ``_models``.

    What is done to a model is an event, a small file that is never changed; everything else
    follows from them. An event is on the disk when a method returns, and is added only behind the
    state that was looked at: of two who move a model at once, one does, and the other's wish is
    checked again. Any number of people, processes and threads may use one registry.

    Parameters
    ----------
    root
        Folder of projects. By default ``$EXPERIMENT_TRACKING_ROOT``, else the nearest
        ``experiments`` in this folder or one above. It need not exist yet: a run makes it, or the
        first registration. Until then everything else raises RootNotFoundError.

    Examples
    --------
    >>> registry = ModelRegistry("./experiments")  # doctest: +SKIP
    >>> registry.register(run, "best", name="digits")  # doctest: +SKIP
    <ModelVersion digits/1 None>
    >>> registry.transition("digits", 1, "Production", reason="first")  # doctest: +SKIP
    <ModelVersion digits/1 Production>
    >>> net = registry.load("digits/Production", into=Net())  # doctest: +SKIP
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = layout.find_root(root)
        """Folder of projects, absolute."""
        self.problems: Problems = []
        """Models that could not be read when they were last listed, with the reason."""
        self._store = ModelStore(self.root)

    def __repr__(self) -> str:
        return f"<ModelRegistry of {self.root}>"

    # ------------------------------------------------------------------ versions

    def register(
        self,
        run: Any,
        artifact_path: str = "model",
        name: str | None = None,
        *,
        step: int | None = None,
        best: str | None = None,
        aliases: Iterable[str] | str = (),
        description: str = "",
        tags: Mapping[str, Any] | Iterable[str] | str | None = None,
        by: str | None = None,
    ) -> ModelVersion:
        """Make one save of a run's model the next version of a registered model.

        Its files are linked where the file system can, copied otherwise, and compared with the
        hashes they were saved with. With them goes what is known of the run, so that the version
        stands on its own when the run is deleted.

        Parameters
        ----------
        run
            A run, a tracker with an open one, a record, or anything that
            ``ExperimentRegistry.get`` takes: a path, ``"digits/baseline"``, ``"latest"``,
            ``"best:val/loss"``.
        artifact_path
            As it was given to ``log_model``.
        name
            The model's; by default as ``artifact_path``. It is made where there is none.
        step
            Which of the saves that are kept, by default the newest.
        best
            A metric, in the place of ``step``: the save at which it was best.
        aliases
            Names that are to mean this version from now on, such as ``champion``.
        description, tags
            Of the version.
        by
            Who does it, by default the user.

        Raises
        ------
        NotFoundError
            If there is no such run, model or save, or the run is moved away meanwhile.
        DamagedError
            If a file is not as it was saved, or is a link.
        InvalidNameError, InvalidValueError
            If the name or an alias may not be one, or the model is deleted.
        OSError
            If the disk refuses. There is no new version then.
        """
        from experiment_tracking.models.registration import find_record, register

        name = artifact_path if name is None else name
        self._store.folder(name)  # raises before anything is read
        said = said_of_version(description, tags, aliases)
        record = find_record(self.root, run)
        source = record.saved_model(artifact_path, step, best)
        return register(self._store, record, source, artifact_path, name, to_person(by), said)

    def get(self, reference: str) -> ModelVersion:
        """Return one version.

        Parameters
        ----------
        reference
            ``"name/3"``; ``"name/Production"``, the one moved there last; ``"name@champion"``;
            ``"name"`` or ``"name/latest"``, the one registered last. ``models:/`` may stand
            before each.

        Raises
        ------
        NotFoundError
            If there is none, or it is deleted; the message shows what there is.
        InvalidValueError
            If it is no reference.
        DamagedError, OSError
            If the model's events cannot be read.
        """
        if isinstance(reference, ModelVersion):
            reference = reference.key
        wanted = parse_reference(reference)
        state = self._store.existing(wanted.name)
        return self._store.version(wanted.name, state, number_of(state, wanted))

    def list(self, deleted: bool = False) -> Models:
        """List the models, by name; those that cannot be read go to :attr:`problems`.

        Parameters
        ----------
        deleted
            Those in the trash instead.

        Raises
        ------
        RootNotFoundError
            If the root does not exist; it says where was looked.
        """
        found, self.problems = [], []
        for name in self._store.names():
            try:
                state = self._store.state(name)
            except (DamagedError, OSError) as error:
                self.problems.append(Unreadable(self._store.folder(name).path, str(error)))
                continue
            is_there = state.versions and state.deleted is None
            in_trash = state.trashed and state.deleted is not None
            if in_trash if deleted else is_there:
                found.append(RegisteredModel(self._store.folder(name), state))
        return found

    def versions(self, name: str, stage: str | None = None, deleted: bool = False) -> Versions:
        """Return the versions of a model, the newest first.

        Parameters
        ----------
        stage
            Those in this stage alone; first the one that was moved there last.
        deleted
            Those in the trash instead, which can be restored.

        Raises
        ------
        NotFoundError
            If there is no such model.
        """
        state = self._store.ever(name) if deleted else self._store.existing(name)
        stage = None if stage is None else to_stage(stage)
        if deleted:
            there = [each for each in state.trashed if stage in (None, each.stage)]
        else:
            there = state.living if stage is None else state.in_stage(stage)
        return [self._store.version(name, state, each.number) for each in there]

    def load(self, reference: str, into: Any = None, **how: Any) -> Any:
        """Return the model that a reference names, its state, or ``into`` filled with it.

        ``registry.load("digits/Production", into=Net())``. See :meth:`get` for references and
        :meth:`SavedModel.load <experiment_tracking.formats.models.saved.SavedModel.load>` for the
        other arguments and errors. Hashes are verified, with the very bytes that are then used.
        """
        return self.get(reference).load(into, **how)

    def compare(self, *references: str) -> pd.DataFrame:
        """Return versions side by side: a column each, a row per fact, param and metric."""
        from experiment_tracking.models.comparison import compare

        return compare([self.get(reference) for reference in references])

    # ------------------------------------------------------------------ stages

    def transition(
        self,
        name: str,
        version: int | str,
        stage: str,
        by: str | None = None,
        reason: str = "",
        archive_existing: bool = True,
    ) -> ModelVersion:
        """Move a version to a stage.

        Parameters
        ----------
        stage
            None, Staging, Production or Archived, in any case. To Staging and Production its
            files are verified first, and the gate of the model's policy must be passed.
        by, reason
            Who, by default the user, and why; for the audit trail.
        archive_existing
            Whether the other versions that are in that stage go to Archived. It is one event
            with the move. There is none where nothing would change: the version is what
            ``name/stage`` means already, and nothing is to be archived.

        Raises
        ------
        ApprovalError
            If the gate is not passed: which condition, what was found, what to do.
        DamagedError
            If a file of the version is not as it was registered.
        NotFoundError, InvalidValueError
            If there is no such version or stage.
        """
        number, stage, by = to_version(version), to_stage(stage), to_person(by)
        verify = cache(ModelVersion.verify)  # not again where somebody else was quicker

        def decide(state: ModelState) -> Wish | None:
            one = self._store.version(name, state, number_of(state, Reference(name, number)))
            known: dict[str, Any] = {"stage": stage, "from": one.stage, **to_reason(reason)}
            there = [each.number for each in state.in_stage(stage)] if stage in GUARDED else []
            others = [each for each in there if each != number] if archive_existing else []
            if one.stage == stage and not others and there[:1] in ([], [number]):
                return None
            if others:
                known |= {"archived": others}
            if stage in GUARDED:
                known |= self._passed(one, stage)
                verify(one)
            return Wish("transitioned", by, number, known)

        return self._change(name, number, decide)

    def approve(
        self, name: str, version: int | str, stage: str, by: str | None = None, reason: str = ""
    ) -> ModelVersion:
        """Approve that a version may come to a stage whose gate asks for it; a person counts once.

        It holds for that version as long as it exists. Names are taken at their word: a gate keeps
        honest people from mistakes, nobody from writing files.

        Raises
        ------
        InvalidValueError
            If no approval is asked for at that stage, or this person is none of its approvers.
        NotFoundError
            If there is no such version.
        """
        from experiment_tracking.models.gates import check_approver, read_policy

        number, stage, by = to_version(version), to_guarded(stage), to_person(by)
        path = self._store.folder(name).policy

        def decide(state: ModelState) -> Wish | None:
            number_of(state, Reference(name, number))
            check_approver(read_policy(path).get(stage), name, stage, by)
            if by in state.versions[number].approvals.get(stage, []):
                return None
            return Wish("approved", by, number, {"stage": stage, **to_reason(reason)})

        return self._change(name, number, decide)

    def rollback(
        self, name: str, stage: str = PRODUCTION, by: str | None = None, reason: str = ""
    ) -> ModelVersion:
        """Give a stage back to the version that had it before the present one.

        That one is verified, and the present one goes to Archived. Twice goes back two; deleted
        versions are passed over, gates are not asked again, and aliases stay where they are.

        Raises
        ------
        InvalidValueError
            If nothing is in that stage, nothing was there before, or all of that is deleted; for
            other stages than Staging and Production.
        DamagedError
            If a file of the version before is not as it was registered; it says how to pass over
            that version.
        """
        from experiment_tracking.models.rollback import verify_before, version_before

        stage, by = to_guarded(stage), to_person(by)
        verify = cache(ModelVersion.verify)

        def decide(state: ModelState) -> Wish:
            number = version_before(state, name, stage).number
            verify_before(self._store.version(name, state, number), state, stage, verify)
            present = state.in_stage(stage)[0].number
            known = {"stage": stage, "from": present, **to_reason(reason)}
            return Wish("rolled back", by, number, known)

        state = self._store.change(name, decide)
        return self._store.version(name, state, state.in_stage(stage)[0].number)

    # ------------------------------------------------------------------ names and words

    def set_alias(
        self, name: str, alias: str, version: int | str, by: str | None = None
    ) -> ModelVersion:
        """Have an alias mean a version from now on, as ``name@alias``."""
        number, alias, by = to_version(version), check_alias(alias), to_person(by)

        def decide(state: ModelState) -> Wish | None:
            number_of(state, Reference(name, number))
            if state.aliases.get(alias) == number:
                return None
            return Wish("alias set", by, number, {"alias": alias})

        return self._change(name, number, decide)

    def delete_alias(self, name: str, alias: str, by: str | None = None) -> None:
        """Have an alias mean nothing any more.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        by = to_person(by)

        def decide(state: ModelState) -> Wish:
            number = number_of(state, Reference(name, alias=alias))
            return Wish("alias deleted", by, None, {"alias": alias, "from": number})

        self._store.change(name, decide)

    def describe(
        self, name: str, text: str, version: int | str | None = None, by: str | None = None
    ) -> None:
        """Replace the description of a model, or of one version."""
        number, by = to_version_or_model(version), to_person(by)
        known = {"description": to_text(text, "A description")}

        def decide(state: ModelState) -> Wish | None:
            if subject_of(state, name, number).description == text:
                return None
            return Wish("described", by, number, known)

        self._store.change(name, decide)

    def set_tags(
        self,
        name: str,
        tags: Mapping[str, Any] | Iterable[str] | str,
        version: int | str | None = None,
        by: str | None = None,
    ) -> None:
        """Set tags of a model, or of one version: a mapping to text, or words. Others stay."""
        number, by, wanted = to_version_or_model(version), to_person(by), to_tags(tags)

        def decide(state: ModelState) -> Wish | None:
            has = subject_of(state, name, number).tags
            changed = {tag: text for tag, text in wanted.items() if has.get(tag) != text}
            return Wish("tagged", by, number, {"tags": changed}) if changed else None

        self._store.change(name, decide)

    def remove_tags(
        self,
        name: str,
        tags: Iterable[str] | str,
        version: int | str | None = None,
        by: str | None = None,
    ) -> None:
        """Remove tags of a model, or of one version; those not there are passed over."""
        number, by, given = to_version_or_model(version), to_person(by), to_tags(tags)

        def decide(state: ModelState) -> Wish | None:
            has = subject_of(state, name, number).tags
            there = [tag for tag in given if tag in has]
            return Wish("untagged", by, number, {"tags": there}) if there else None

        self._store.change(name, decide)

    # ------------------------------------------------------------------ the trash

    def delete(
        self, name: str, version: int | str | None = None, by: str | None = None, reason: str = ""
    ) -> None:
        """Move a version, or a whole model, to the trash: :meth:`restore` brings it back.

        Raises
        ------
        InvalidValueError
            If a version is in Production or has an alias: it is in use.
        NotFoundError
            If there is no such version.
        """
        number, by, known = to_version_or_model(version), to_person(by), to_reason(reason)
        self._store.change(name, lambda state: deletion(state, name, number, by, known))

    def restore(self, name: str, version: int | str | None = None, by: str | None = None) -> None:
        """Bring a version, or a whole model, back from the trash; nothing if it is not there.

        Raises
        ------
        NotFoundError
            If there is none, or it was deleted for good.
        """
        number, by = to_version_or_model(version), to_person(by)
        self._store.change(
            name, lambda state: restoration(state, name, number, by), self._store.ever
        )

    def purge(self, name: str, version: int | str | None = None, by: str | None = None) -> None:
        """Delete what is in the trash for good: a version, or all of a model.

        What was done stays in the audit trail, and numbers are not used again.

        Parameters
        ----------
        version
            By default all of the model's that are in the trash.

        Raises
        ------
        InvalidValueError
            If the version is not in the trash.
        OSError
            If its folder cannot be deleted; the next purge goes on.
        """
        number, by = to_version_or_model(version), to_person(by)
        while True:
            state = self._store.change(
                name, lambda state: purge(state, name, number, by), self._store.ever
            )
            if number is not None or purge(state, name, number, by) is None:
                break
        gone = [each.number for each in state.versions.values() if each.purged]
        self._store.folder(name).drop(gone)

    # ------------------------------------------------------------------ audit and policy

    def history(self, name: str) -> Events:
        """Return everything that was done to a model, oldest first; of a deleted one too.

        A change of what was done before shows; a change of the newest event does not, until
        another follows. ``history(name)[-1].file_sha256``, kept elsewhere, tells that too.

        Raises
        ------
        NotFoundError
            If there never was one.
        """
        self._store.ever(name)
        return self._store.events(name)

    def policy(self, name: str) -> dict[str, Any]:
        """Return the gates of a model by stage, as they stand in ``policy.json``.

        Raises
        ------
        NotFoundError
            If there never was such a model.
        DamagedError
            If something in it is no gate.
        """
        from experiment_tracking.models.gates import read_policy

        self._store.ever(name)
        gates = read_policy(self._store.folder(name).policy)
        return {stage: gate.to_dict() for stage, gate in gates.items()}

    def set_policy(
        self,
        name: str,
        stage: str,
        require: Iterable[str] | str = (),
        approvers: Iterable[str] | str = (),
        approvals: int = 1,
        by: str | None = None,
    ) -> None:
        """Say what a version of a model needs to come to a stage; nothing takes the gate away.

        First the event is added, then ``policy.json`` is replaced. Where the file was edited by
        hand since the last time, that is waited for 2 s.

        Parameters
        ----------
        stage
            Staging or Production.
        require
            A condition in the filter language, such as ``"val/accuracy >= 0.9"``, on the
            version's metrics and params, or a list of them; each has to hold. What it asks for
            must be known of some version.
        approvers
            Whose approvals count: a name, or a list of names.
        approvals
            How many of them have to approve.

        Raises
        ------
        InvalidValueError, InvalidTypeError
            If a condition is none, no version has a metric or param that it asks for (near names
            are shown), or there are fewer approvers than approvals.
        """
        from experiment_tracking.models import gates

        stage, by = to_guarded(stage), to_person(by)
        gate = gates.make_gate(
            require, approvers, approvals if approvers or approvals != 1 else None
        )
        path = self._store.folder(name).policy
        wish = Wish(gates.SET, by, None, {"stage": stage, **gate.to_dict()})

        def decide(state: ModelState) -> Wish:
            gates.read_policy(path)  # A damaged one is told before anything is done.
            known = [self._store.version(name, state, each.number) for each in state.living]
            gates.check_known(gate, name, known)
            gates.wait_for_last(path, lambda: self._store.events(name))
            return wish

        self._store.change(name, decide)
        with may_write(self.root):
            gates.set_gate(path, stage, gate)

    # ------------------------------------------------------------------ under MLflow's names

    def transition_model_version_stage(
        self,
        name: str,
        version: int | str,
        stage: str,
        archive_existing_versions: bool = False,
    ) -> ModelVersion:
        """Do :meth:`transition` under the name and defaults of MLflow's client."""
        return self.transition(name, version, stage, archive_existing=archive_existing_versions)

    def update_registered_model(self, name: str, description: str) -> RegisteredModel:
        """Do :meth:`describe` under the name of MLflow's client."""
        self.describe(name, description)
        return RegisteredModel(self._store.folder(name), self._store.existing(name))

    # ------------------------------------------------------------------ for all of them

    def _change(self, name: str, number: int, decide: Decide) -> ModelVersion:
        """Add the event that ``decide`` wants; return the version as it is then."""
        return self._store.version(name, self._store.change(name, decide), number)

    def _passed(self, version: ModelVersion, stage: str) -> dict[str, Any]:
        """Return by what a version passes the gate of a stage."""
        from experiment_tracking.models.gates import check_passes, read_policy

        gate = read_policy(self._store.folder(version.name).policy).get(stage)
        return {} if gate is None else check_passes(gate, version, stage)
