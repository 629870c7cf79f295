"""Copy registered models from one root to another: what the target lacks, where both agree.

Events are never changed, so two sides agree as far as their events are the same bytes. A target
whose events are the first of the source's gets the others; anything else is a conflict, which
people must settle, and the target is left as it is.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import layout
from experiment_tracking.folder.check_models import registered_versions
from experiment_tracking.registry.far import Stat, sweep
from experiment_tracking.registry.wording import plural
from experiment_tracking.upkeep.sides import Far, Folder, Root, side_of


class Copied(NamedTuple):
    """What became of one registered model; the fields are those of ``Synced``."""

    run: str
    outcome: str
    files: int = 0
    size_bytes: int = 0
    reason: str = ""


def sync_models(source: Root, target: Root, *, dry_run: bool = False) -> Iterator[Copied]:
    """Copy what the target lacks of each registered model.

    A version's folder is there, whole, before the event that makes it visible; so killed anywhere
    the target is as it was, or further. A policy is copied where the target has none.

    Yields
    ------
    Copied
        One per model: ``copied``, ``updated``, ``unchanged``; ``refused`` where the events of the
        two sides differ or the target has more, or holds another folder of a version;
        ``failed`` with the reason.

    Notes
    -----
    In a folder an event is created exclusively, so that one which is added there meanwhile is
    never overwritten. An object store has no such thing: let one process at a time copy to it.
    """
    ours, theirs = (side_of(f"{os.fspath(root)}/{layout.MODELS}") for root in (source, target))
    if isinstance(theirs, Folder) and not dry_run:
        sweep(theirs.name)
    for name in sorted(ours.folders()):
        try:
            yield _Model(ours, theirs, name).copied(dry_run)
        except _ConflictError as conflict:
            yield Copied(_key(name), "refused", reason=str(conflict))
        except (OSError, DamagedError) as error:
            yield Copied(_key(name), "failed", reason=str(error))


class _ConflictError(Exception):
    """Why the target is left alone."""


def _key(name: str) -> str:
    return f"{layout.MODELS}/{name}"


class _Model:
    """One model, on both sides."""

    def __init__(self, source: Folder | Far, target: Folder | Far, name: str) -> None:
        self._source, self._target, self._name = source, target, name
        self._versions = f"{name}/versions"

    def copied(self, dry_run: bool) -> Copied:
        """Bring the target up to date."""
        events, there = self._events(self._source), self._events(self._target)
        self._check_agreement(events, there)
        new = {_event(n): data for n, data in enumerate(events, 1) if n > len(there)}
        new = {f"{self._name}/events/{name}": data for name, data in new.items()} | self._policy()
        if not new:
            return Copied(_key(self._name), "unchanged")
        here = self._source.run(self._versions)
        missing = self._missing(events, here)
        if not dry_run:
            for version, files in missing.items():
                self._target.take_folder(self._source, self._versions, str(version), files)
            self._create(new)
        files = [file for each in missing.values() for file in each]
        size = sum(here[file].size for file in files) + sum(map(len, new.values()))
        outcome = "updated" if there else "copied"
        return Copied(_key(self._name), outcome, len(files) + len(new), size)

    def _create(self, new: Mapping[str, bytes]) -> None:
        for name, data in new.items():
            try:
                self._target.create(name, data)
            except FileExistsError:
                raise _ConflictError(
                    f"{name} has just been added in {self._target.name} by somebody else, and "
                    "stays as it is. Sync again."
                ) from None

    def _events(self, side: Folder | Far) -> list[bytes]:
        key = f"{self._name}/events"
        names = sorted(name for name in side.run(key) if name.endswith(".json"))
        if names != [_event(number) for number in range(1, len(names) + 1)]:
            raise DamagedError(f"{side.name}/{key} has a gap between its events.")
        return [side.document(key, name)[0] for name in names]

    def _policy(self) -> dict[str, bytes]:
        """Return the policy, where the target has none; its own stays as it is."""
        name = f"{self._name}/policy.json"
        data = self._source.read_if_there(name)
        return {} if data is None or self._target.read_if_there(name) else {name: data}

    def _check_agreement(self, ours: list[bytes], theirs: list[bytes]) -> None:
        for number, (one, other) in enumerate(zip(ours, theirs, strict=False), 1):
            if one != other:
                raise _ConflictError(
                    f"from event {number} on the model went on here and in {self._target.name} "
                    "too, each by itself. Register under another name what only one side has."
                )
        if more := len(theirs[len(ours) :]):
            raise _ConflictError(
                f"it has gone on in {self._target.name}, by {plural(more, 'event')}. Sync it the "
                "other way round."
            )

    def _missing(self, events: list[bytes], here: Mapping[str, Stat]) -> dict[int, list[str]]:
        """Return the files of each version that the target has not."""
        there = self._target.run(self._versions)
        missing = {}
        for version in registered_versions(map(self._read, events)):
            files, found = _files(here, version), _files(there, version)
            if f"{version}/version.json" not in files:
                raise DamagedError(f"version {version} is gone from {self._source.name}.")
            if not found:
                missing[version] = [*files]
            elif found != files or self._differs(f"{version}/version.json"):
                # Killed syncs leave equal ones, other registrations not.
                raise _ConflictError(
                    f"{self._target.name} has another folder {self._versions}/{version}, which "
                    "no event there names. If nobody is registering, delete it and sync again."
                )
        return missing

    def _read(self, event: bytes) -> dict[str, Any]:
        try:
            return dict(orjson.loads(event))
        except (ValueError, TypeError) as error:
            raise DamagedError(f"an event of {self._source.name} is damaged: {error}.") from error

    def _differs(self, name: str) -> bool:
        ours, theirs = (s.document(self._versions, name)[0] for s in (self._source, self._target))
        return ours != theirs


def _event(number: int) -> str:
    return f"{number:06d}.json"


def _files(stats: Mapping[str, Stat], version: int) -> dict[str, int]:
    """Return the files of a version with their sizes; folders in it are nobody's."""
    inside = f"{version}/"
    return {n: s.size for n, s in stats.items() if n.startswith(inside) and n.count("/") == 1}
