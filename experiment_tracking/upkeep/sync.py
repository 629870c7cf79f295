"""Copy runs and registered models to another root: only what differs, and nothing is deleted."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from experiment_tracking.errors import (
    DamagedError,
    InvalidValueError,
    NotFoundError,
    RunNotFoundError,
)
from experiment_tracking.folder import io, layout
from experiment_tracking.folder.liveness import FINAL
from experiment_tracking.registry.columns import near
from experiment_tracking.registry.far import Progress, Stat, folder_for, sweep
from experiment_tracking.upkeep.sides import HISTORY, SUMMARY, Far, Folder, Root, side_of
from experiment_tracking.upkeep.sync_models import sync_models

_WORKERS = 8
_SAVE_EVERY_S = 10.0


class Synced(NamedTuple):
    """What became of one run, or of one registered model."""

    run: str
    """``project/name``; of a model ``_models/name``."""
    outcome: str
    """``copied``, ``updated``, ``unchanged``, ``refused`` or ``failed``."""
    files: int = 0
    size_bytes: int = 0
    """Bytes that were moved, or would be."""
    reason: str = ""
    """Why it was refused, or failed."""


def sync(
    source: Root,
    target: Root,
    runs: Sequence[str] = (),
    project: str | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Synced]:
    """Copy runs that the target does not have, or has older, from one root to another.

    A run is copied as it stands, its summary last, so that whoever reads the target sees whole
    runs; what is being written is completed the next time. In a folder, histories that grew are
    written on at their end. Nothing is deleted; a run of another id, or one that has gone on in
    the target, is left alone and named. May be interrupted and repeated at will. Of registered
    models the target gets the versions and events that it lacks; see
    :func:`~experiment_tracking.upkeep.sync_models.sync_models`.

    Parameters
    ----------
    source, target
        Folders of projects, or URLs as for ``FarStore``; at most one of the two is far. A target
        folder is made where there is none.
    runs
        ``name`` or ``project/name`` of those to copy, without models; everything by default.
    project
        Runs of this project alone, without models.
    dry_run
        Only find out what there is to do.
    progress
        Called with the number of runs done and to do.

    Returns
    -------
    list of Synced
        One per run of the source, in the order of their names; then one per name in a far root
        that no file may bear, and one per registered model.

    Raises
    ------
    RootNotFoundError, RunNotFoundError, NotFoundError
        If the source, a run or the project is not there.
    InvalidValueError
        If both are far, or one lies inside the other.
    OSError
        If a root cannot be listed. What fails for one run alone is told in its outcome.

    Notes
    -----
    Between folders files are equal if their sizes and times are, which copying keeps. A far
    root keeps no times, so that what was copied is noted in the cache folder: without it,
    everything is copied again.
    """
    _check_roots(source, target)
    side = side_of(source)
    side.check_exists()
    work = _Sync(side, side_of(target), dry_run)
    wanted = _chosen(side.keys(), runs, project, os.fspath(source))
    done: list[Synced] = []
    saved_at = time.monotonic()
    try:
        for outcome in _in_order(work.one, wanted, _WORKERS if work.is_far else 1):
            done.append(outcome)
            if progress:
                progress(len(done), len(wanted))
            if time.monotonic() - saved_at > _SAVE_EVERY_S:
                work.save()
                saved_at = time.monotonic()
    finally:
        work.save()
    done += [Synced(each.path, "refused", reason=each.reason) for each in side.refused]
    if not runs and project is None:
        done += [Synced(*each) for each in sync_models(source, target, dry_run=dry_run)]
    return done


def _check_roots(source: Root, target: Root) -> None:
    if layout.is_url(source) and layout.is_url(target):
        raise InvalidValueError(
            f"{source} and {target} are both far. Sync to a folder first, and from there."
        )
    roots = [os.fspath(root).removeprefix("file://") for root in (source, target)]
    if any(map(layout.is_url, roots)):
        return
    a, b = (os.path.join(os.path.realpath(os.path.expanduser(root)), "") for root in roots)
    if a.startswith(b) or b.startswith(a):
        raise InvalidValueError(f"{target} cannot be a copy of {source}: one lies in the other.")


def _chosen(known: Sequence[str], runs: Sequence[str], project: str | None, root: str) -> list[str]:
    projects = {key.partition("/")[0] for key in known}
    if project is not None and project not in projects:
        raise NotFoundError(f"There is no project {project!r} in {root}. {near(project, projects)}")
    inside = [key for key in known if project in (None, key.partition("/")[0])]
    for run in runs:
        if not any(_is_named(key, run) for key in inside):
            raise RunNotFoundError(f"There is no run {run!r} in {root}. {near(run, inside)}")
    return sorted(key for key in inside if not runs or any(_is_named(key, r) for r in runs))


def _is_named(key: str, run: str) -> bool:
    return run in (key, key.partition("/")[2])


def _in_order(work: Callable[[str], Synced], keys: Sequence[str], workers: int) -> Iterator[Synced]:
    if workers == 1:
        yield from map(work, keys)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, key) for key in keys]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


# ---------------------------------------------------------------------- one run


class _Sync:
    """The two sides, and what is known to be equal."""

    def __init__(self, source: "Folder | Far", target: "Folder | Far", dry_run: bool) -> None:
        self._source, self._target, self._dry_run = source, target, dry_run
        self.is_far = isinstance(source, Far) or isinstance(target, Far)
        self._notes = _Notes(source.name, target.name) if self.is_far else None
        if isinstance(target, Folder) and not dry_run:
            sweep(target.name)

    def one(self, key: str) -> Synced:
        """Bring one run of the target up to date."""
        try:
            if not self._changed(key, self._source.files(key), self._target.files(key)):
                return Synced(key, "unchanged")
            return self._copied(key)
        except (OSError, DamagedError) as error:
            return Synced(key, "failed", reason=str(error))

    def _changed(self, key: str, here: Mapping[str, Stat], there: Mapping[str, Stat]) -> list[str]:
        return [n for n in here if not self._is_equal(f"{key}/{n}", here[n], there.get(n))]

    def _is_equal(self, name: str, here: Stat, there: Stat | None) -> bool:
        if there is None or here.size != there.size:
            return False
        if self._notes is not None:
            return self._notes.has(name, here, there)
        return _same_time(int(here.stamp), int(there.stamp))

    def _copied(self, key: str) -> Synced:
        # Read first and written last: what it says of the history must be there by then. And
        # both are listed again, as the look at all runs may be long ago; the target first, which
        # another sync may be bringing further right now.
        summary, stat = self._source.document(key, SUMMARY)
        there = self._target.run(key)
        here = {**self._source.run(key), SUMMARY: stat}
        changed = self._changed(key, here, there)
        if why := self._why_refused(key, summary, here, there):
            return Synced(key, "refused", reason=why)
        outcome = "updated" if SUMMARY in there else "copied"
        if self._dry_run:
            return Synced(key, outcome, len(changed), sum(here[name].size for name in changed))
        size = 0
        others = [name for name in changed if name != SUMMARY]
        for names in (
            [name for name in others if not name.startswith("metrics_history")],
            [name for name in others if name.startswith("metrics_history")],
        ):
            size += self._target.take(self._source, key, names, here) if names else 0
        self._target.write(key, SUMMARY, summary, self._source.mtime_ns(stat))
        self._note(key, [*others, SUMMARY], here)
        return Synced(key, outcome, len(others) + 1, size + len(summary))

    def _note(self, key: str, names: Sequence[str], here: Mapping[str, Stat]) -> None:
        if self._notes is None:
            return
        there = self._target.run(key)
        for name in names:
            if name in there:
                self._notes.add(f"{key}/{name}", here[name], there[name])

    def _why_refused(
        self, key: str, data: bytes, here: Mapping[str, Stat], there: Mapping[str, Stat]
    ) -> str | None:
        if SUMMARY not in there:
            return None
        ours = _summary(key, data)
        theirs = _summary(key, self._target.document(key, SUMMARY)[0])
        if ours.get("id") != theirs.get("id"):
            return (
                f"{self._target.name} has another run of that name (id {theirs.get('id')}, here "
                f"{ours.get('id')}). Rename one: experiments rename"
            )
        if any(a != b for a, b in zip(_starts(ours), _starts(theirs), strict=False)):
            return (
                f"it was resumed here and in {self._target.name} too, each by itself. Rename one: "
                "experiments rename"
            )
        if _extent(theirs, there) > _extent(ours, here):
            return f"it has gone on in {self._target.name}. Sync it the other way round."
        for name in self._changed(key, here, there):
            if name.startswith("amendments/") and name in there and self._differ(key, name):
                return f"it was edited in both: {name} differs. Rename one of the two files."
        return None

    def _differ(self, key: str, name: str) -> bool:
        return self._source.document(key, name)[0] != self._target.document(key, name)[0]

    def save(self) -> None:
        if self._notes is not None and not self._dry_run:
            self._notes.save()


def _summary(key: str, data: bytes) -> dict[str, Any]:
    try:
        summary = orjson.loads(data)
    except ValueError as error:
        raise DamagedError(f"summary.json of {key} is not JSON: {error}.") from error
    if not isinstance(summary, dict):
        raise DamagedError(f"summary.json of {key} is no JSON object.")
    return summary


def _starts(summary: Mapping[str, Any]) -> list[Any]:
    """Return when each attempt of a run began."""
    attempts = summary.get("attempts")
    each = attempts if isinstance(attempts, list) else []
    return [attempt.get("started_at") if isinstance(attempt, dict) else None for attempt in each]


def _extent(summary: Mapping[str, Any], files: Mapping[str, Stat]) -> tuple[int, int, bool]:
    """Return how far a run has come: its attempts, its history's length, whether it has ended."""
    rows = files.get(HISTORY)
    return len(_starts(summary)), rows.size if rows else 0, summary.get("status") in FINAL


def _same_time(here: int, there: int) -> bool:
    # A file system that keeps whole seconds rounds by up to two (FAT), others to microseconds.
    grain = 2 * 10**9 if there % 10**9 == 0 else 1000
    return abs(here - there) < grain


class _Notes:
    """What was copied between two roots, as both sides told of it then; in the cache folder."""

    def __init__(self, source: str, target: str) -> None:
        from hashlib import sha256

        digest = sha256(f"{source}\n{target}".encode("utf-8", "backslashreplace")).hexdigest()
        self._path = os.path.join(folder_for("sync"), f"{digest[:24]}.json")
        self._is_new = False
        try:
            # No limit as for documents: a line for each file of a million runs.
            self._known: dict[str, Any] = dict(orjson.loads(io.read(self._path, 2**40)))
        except (OSError, DamagedError, ValueError, TypeError):
            self._known = {}

    def has(self, name: str, here: Stat, there: Stat) -> bool:
        return self._known.get(name) == [*here, *there]

    def add(self, name: str, here: Stat, there: Stat) -> None:
        self._known[name] = [*here, *there]
        self._is_new = True

    def save(self) -> None:
        if not self._is_new:
            return
        self._is_new = False
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        io.replace_file(self._path, orjson.dumps(dict(self._known)))
