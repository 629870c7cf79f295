"""What a registered model is after its events: the fold over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.models.events import Event
from experiment_tracking.models.stages import ARCHIVED, NONE, STAGES


class VersionState:
    """One version after the events so far."""

    def __init__(self, event: Event) -> None:
        self.number = event.version or 0
        self.created_at, self.by = event.at, event.by
        self.updated_at = event.at
        self.run = str(event.known.get("run") or "")
        self.run_id = str(event.known.get("run_id") or "")
        self.sha256: str | None = event.known.get("sha256")
        """Of ``version.json``, which has those of all other files."""
        self.stage = NONE
        self.description = str(event.known.get("description") or "")
        self.tags: dict[str, str] = dict(event.known.get("tags") or {})
        self.approvals: dict[str, list[str]] = {}
        """By stage, who has approved it, each once."""
        self.deleted: Event | None = None
        self.purged = False


class ModelState:
    """A model after all its events.

    Parameters
    ----------
    events
        All of them, oldest first. Kinds that are not known here change nothing.
    path_of
        Gives the file of an event, for messages.

    Raises
    ------
    DamagedError
        If an event is about something that is not there.
    """

    def __init__(self, events: Iterable[Event], path_of: Callable[[Event], str]) -> None:
        self.last: Event | None = None
        """The last event; None where there is none."""
        self.created_at = self.updated_at = ""
        self.description = ""
        self.tags: dict[str, str] = {}
        self.versions: dict[int, VersionState] = {}
        """By number, those deleted too."""
        self.aliases: dict[str, int] = {}
        self.deleted: Event | None = None
        self._held: dict[str, list[int]] = {}
        self._path_of = path_of
        for event in events:
            self._fold(event)

    # ------------------------------------------------------------------ asking

    def is_deleted(self, number: int) -> bool:
        """Tell whether a version is, by itself or with the model."""
        return bool(self.deleted or self.versions[number].deleted)

    @property
    def purged(self) -> bool:
        """Whether no version is left, not even in the trash."""
        return all(version.purged for version in self.versions.values())

    @property
    def living(self) -> list[VersionState]:
        """Versions that are not deleted, the newest first."""
        numbers = sorted(self.versions, reverse=True)
        return [self.versions[number] for number in numbers if not self.is_deleted(number)]

    @property
    def trashed(self) -> list[VersionState]:
        """Versions that are deleted and can be restored, the newest first."""
        numbers = sorted(self.versions, reverse=True)
        gone = [self.versions[number] for number in numbers if self.is_deleted(number)]
        return [version for version in gone if not version.purged]

    def in_stage(self, stage: str) -> list[VersionState]:
        """Return the versions in a stage; first the one that was moved there last."""
        held = self._held.get(stage, [])
        last = {number: place for place, number in enumerate(held)}
        there = [version for version in self.living if version.stage == stage]
        return sorted(there, key=lambda version: last.get(version.number, -1), reverse=True)

    def before(self, stage: str) -> list[VersionState]:
        """Return those that had a stage before the present one, the last first; deleted ones too.

        There are none where no version is in that stage now.
        """
        there = self.in_stage(stage)
        if not there:
            return []
        held = self._before(stage, there[0].number)
        numbers = dict.fromkeys(n for n in reversed(held) if n != there[0].number)
        return [self.versions[number] for number in numbers]

    def _before(self, stage: str, number: int) -> list[int]:
        held = self._held.get(stage, [])
        return held[: len(held) - 1 - held[::-1].index(number)] if number in held else held

    # ------------------------------------------------------------------ folding

    def _fold(self, event: Event) -> None:
        self.last = event
        self.updated_at = event.at
        fold = _FOLDS.get(event.kind)
        if fold is not None:
            fold(self, event)

    def _registered(self, event: Event) -> None:
        if event.version is None or event.version in self.versions:
            raise self._wrong(event, "version", "a new version")
        for key in ("run", "run_id", "description", "sha256"):
            self._text(event, key)
        self._tags(event, default={})
        if not self.versions or self.deleted:  # nothing is said of a model that begins anew
            self.created_at, self.deleted = event.at, None
            self.description, self.tags = "", {}
        self.versions[event.version] = VersionState(event)
        for alias in self._texts(event, "aliases"):
            self.aliases[alias] = event.version

    def _transitioned(self, event: Event) -> None:
        version, stage = self._version(event), self._stage(event)
        archived = event.known.get("archived", [])
        if not isinstance(archived, list):
            raise self._wrong(event, "archived", "a list of versions")
        for number in archived:
            self._move(self._at(event, "archived", number), ARCHIVED, event)
        self._move(version, stage, event)

    def _rolled_back(self, event: Event) -> None:
        version, stage = self._version(event), self._stage(event)
        left = self._number(event, "from")
        held = self._before(stage, left.number)
        while held and held[-1] != version.number:
            held = held[:-1]
        self._held[stage] = held[:-1]
        self._move(left, ARCHIVED, event)
        self._move(version, stage, event)

    def _move(self, version: VersionState, stage: str, event: Event) -> None:
        version.stage, version.updated_at = stage, event.at
        self._held.setdefault(stage, []).append(version.number)

    def _approved(self, event: Event) -> None:
        approvals = self._version(event).approvals.setdefault(self._stage(event), [])
        if event.by not in approvals:
            approvals.append(event.by)

    def _alias_set(self, event: Event) -> None:
        self.aliases[self._text(event, "alias")] = self._version(event).number

    def _alias_deleted(self, event: Event) -> None:
        self.aliases.pop(self._text(event, "alias"), None)

    def _described(self, event: Event) -> None:
        self._subject(event).description = self._text(event, "description")

    def _tagged(self, event: Event) -> None:
        self._subject(event).tags.update(self._tags(event))

    def _untagged(self, event: Event) -> None:
        tags = self._subject(event).tags
        for name in self._texts(event, "tags"):
            tags.pop(name, None)

    def _deleted(self, event: Event) -> None:
        self._subject(event).deleted = event

    def _restored(self, event: Event) -> None:
        self._subject(event).deleted = None

    def _purged(self, event: Event) -> None:
        gone = self.versions.values() if event.version is None else [self._version(event)]
        for version in gone:
            version.purged, version.deleted = True, version.deleted or event

    # ------------------------------------------------------------------ what an event says

    def _version(self, event: Event) -> VersionState:
        version = self._at(event, "version", event.version)
        version.updated_at = event.at
        return version

    def _subject(self, event: Event) -> ModelState | VersionState:
        return self if event.version is None else self._version(event)

    def _number(self, event: Event, key: str) -> VersionState:
        return self._at(event, key, event.known.get(key))

    def _at(self, event: Event, key: str, number: Any) -> VersionState:
        if type(number) is not int or number not in self.versions:
            raise self._wrong(event, key, "a version registered before", number)
        return self.versions[number]

    def _stage(self, event: Event) -> str:
        stage = event.known.get("stage")
        if stage not in STAGES:
            raise self._wrong(event, "stage", "one of " + ", ".join(STAGES))
        return str(stage)

    def _text(self, event: Event, key: str) -> str:
        value = event.known.get(key, "")
        if not isinstance(value, str):
            raise self._wrong(event, key, "text")
        return value

    def _texts(self, event: Event, key: str) -> list[str]:
        value = event.known.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self._wrong(event, key, "a list of texts")
        return value

    def _tags(self, event: Event, default: Any = None) -> dict[str, str]:
        value = event.known.get("tags", default)
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise self._wrong(event, "tags", "an object of texts")
        return value

    def _wrong(self, event: Event, key: str, expected: str, found: Any = None) -> DamagedError:
        found = event.known.get(key, event.version) if found is None else found
        return DamagedError(
            f"{self._path_of(event)} ({event.kind}) has {found!r:.60} as {key!r}, expected "
            f"{expected}. Restore the folder of events from a copy of the model."
        )


_FOLDS: dict[str, Callable[[ModelState, Event], None]] = {
    "registered": ModelState._registered,
    "transitioned": ModelState._transitioned,
    "rolled back": ModelState._rolled_back,
    "approved": ModelState._approved,
    "alias set": ModelState._alias_set,
    "alias deleted": ModelState._alias_deleted,
    "described": ModelState._described,
    "tagged": ModelState._tagged,
    "untagged": ModelState._untagged,
    "deleted": ModelState._deleted,
    "restored": ModelState._restored,
    "purged": ModelState._purged,
}
