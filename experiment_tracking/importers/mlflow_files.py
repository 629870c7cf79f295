"""MLflow's file store, ``mlruns/``: a folder per experiment, in it a folder per run."""

import os
from collections.abc import Iterator
from heapq import merge
from operator import itemgetter
from typing import Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.importers.found import Unreadable, reason_of
from experiment_tracking.importers.mlflow_meta import Meta, parse_meta
from experiment_tracking.importers.mlflow_run import (
    SYSTEM_PREFIX,
    Point,
    StoredModel,
    StoredRun,
    describe_version,
    local_path,
    own_artifacts,
)
from experiment_tracking.importers.source_files import is_folder, is_regular, only_regular

_STATUSES = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}
_META = "meta.yaml"


def is_store(folder: str) -> bool:
    """Tell whether a folder is a store, one experiment of it, or one run."""
    return _holds(folder, "experiment_id:") or any(
        _holds(path, "artifact_location:") for path in _folders(folder)
    )


def _holds(folder: str, key: str) -> bool:
    try:
        path = os.path.join(folder, _META)
        with open(path, encoding="utf-8", errors="replace", opener=only_regular) as file:
            return any(line.startswith(key) for line in file.read(8192).splitlines())
    except OSError:
        return False


def stored_runs(place: str, *, deleted: bool) -> Iterator[StoredRun | Unreadable]:
    """Yield the runs of a store, of an experiment or the one run in ``place``."""
    if _holds(place, "run_id:") or _holds(place, "run_uuid:"):
        yield from _Experiment(os.path.dirname(place), deleted=True).runs([place])
    elif _holds(place, "experiment_id:"):
        yield from _Experiment(place, deleted=deleted).runs()
    else:
        trash = _folders(os.path.join(place, ".trash")) if deleted else []
        for folder in [*_folders(place), *trash]:
            if os.path.basename(folder) != "models":
                yield from _Experiment(folder, deleted=deleted).runs()


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                e.path for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != "."
            )
    except OSError:
        return []


def _read(folder: str) -> Meta:
    path = os.path.join(folder, _META)
    try:
        with open(path, encoding="utf-8", opener=only_regular) as file:
            return parse_meta(file.read())
    except (DamagedError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path}: {error}") from error


class _Experiment:
    """One folder of runs."""

    def __init__(self, folder: str, *, deleted: bool) -> None:
        self._folder = folder
        self._deleted = deleted
        self._problem: list[str] = []
        try:
            self._meta = _read(folder)
        except (OSError, DamagedError):
            # Its runs are whole all the same.
            self._meta = {}
            self._problem = ["the experiment's name: its meta.yaml cannot be read"]
        self._name = str(self._meta.get("name") or os.path.basename(folder))
        self._models = self._logged_models()
        self._versions = _model_versions(os.path.dirname(folder))

    def runs(self, folders: list[str] | None = None) -> Iterator[StoredRun | Unreadable]:
        """Yield its runs, the oldest first."""
        if self._meta.get("lifecycle_stage") == "deleted" and not self._deleted:
            return
        found: list[tuple[str, Meta]] = []
        for folder in folders or _folders(self._folder):
            if not _is_run(folder):
                continue
            try:
                found.append((folder, _read(folder)))
            except Exception as error:
                yield Unreadable(folder, reason_of(error))
        for folder, meta in sorted(found, key=lambda each: _int(each[1].get("start_time")) or 0):
            if meta.get("lifecycle_stage") == "deleted" and not self._deleted:
                continue
            try:
                yield self._run(folder, meta)
            except Exception as error:
                yield Unreadable(folder, reason_of(error))

    def _run(self, folder: str, meta: Meta) -> StoredRun:
        run_id = str(meta.get("run_id") or meta.get("run_uuid") or os.path.basename(folder))
        status = str(meta.get("status"))
        uri = str(meta.get("artifact_uri") or "")
        not_carried = [*self._problem]
        if os.path.isdir(os.path.join(self._folder, "traces")):
            not_carried.append("traces of its experiment")
        return StoredRun(
            folder,
            run_id,
            str(meta.get("run_name") or ""),
            self._name,
            _STATUSES.get(status, status),
            _int(meta.get("start_time")),
            _int(meta.get("end_time")),
            str(meta.get("user_id") or ""),
            uri,
            _artifacts(folder, run_id, uri),
            lambda system: _points(os.path.join(folder, "metrics"), system, not_carried),
            _texts(os.path.join(folder, "params"), not_carried),
            _texts(os.path.join(folder, "tags"), not_carried),
            _texts(os.path.join(self._folder, "tags"), not_carried),
            self._models.get(run_id, []),
            self._versions.get(run_id, {}),
            self._datasets(folder),
            not_carried,
        )

    def _logged_models(self) -> dict[str, list[StoredModel]]:
        """Read MLflow 3's ``models/m-…``, by the run that each is of."""
        models: dict[str, list[StoredModel]] = {}
        for folder in _folders(os.path.join(self._folder, "models")):
            meta = _read_or_nothing(folder)
            files = os.path.join(folder, "artifacts")
            model = StoredModel(
                str(meta.get("name") or os.path.basename(folder)),
                folder,
                files if is_folder(files) else None,
            )
            models.setdefault(str(meta.get("source_run_id")), []).append(model)
        return models

    def _datasets(self, folder: str) -> list[Any]:
        uses = map(_read_or_nothing, _folders(os.path.join(folder, "inputs")))
        names = [str(use["source_id"]) for use in uses if use.get("source_type") == "DATASET"]
        return [
            meta
            for name in names
            if (meta := _read_or_nothing(os.path.join(self._folder, "datasets", name)))
        ]


def _is_run(folder: str) -> bool:
    if os.path.basename(folder) in ("models", "datasets", "tags", "traces"):
        return False
    return any(os.path.lexists(os.path.join(folder, n)) for n in (_META, "metrics", "params"))


def _read_or_nothing(folder: str) -> Meta:
    try:
        return _read(folder)
    except (OSError, DamagedError):
        return {}


def _int(text: Any) -> int | None:
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def _artifacts(folder: str, run_id: str, uri: str) -> str | None:
    # Beside the run first: a copied tree still names the folder that it was copied from.
    beside = os.path.join(folder, "artifacts")
    there = is_folder(beside)
    if there and os.listdir(beside):
        return beside
    experiment = os.path.dirname(folder)
    named = own_artifacts(local_path(uri, os.path.dirname(os.path.dirname(experiment))), run_id)
    # MLflow makes the folder beside with every run, also where it keeps artifacts elsewhere.
    kept_here = uri.split("/")[-3:-2] in ([], [os.path.basename(experiment)])
    return named or (beside if there and kept_here else None)


def _model_versions(root: str) -> dict[str, dict[str, str]]:
    """Read the versions of registered models, by the run that they are of."""
    versions: dict[str, dict[str, str]] = {}
    for folder in _folders(os.path.join(root, "models")):
        aliases = _read_or_nothing(folder).get("aliases")
        for version in map(_read_or_nothing, _folders(folder)):
            number = str(version.get("version"))
            named = aliases.items() if isinstance(aliases, dict) else ()
            words = [f"alias {alias}" for alias, of in named if of == number]
            text = describe_version(number, version.get("current_stage"), words)
            of_run = versions.setdefault(str(version.get("run_id")), {})
            name = os.path.basename(folder)
            of_run[name] = f"{of_run[name]}; {text}" if name in of_run else text
    return versions


# ---------------------------------------------------------------------- values


def _files(folder: str, not_carried: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and path of the files below; names with ``/`` lie in folders."""
    for place, folders, names in os.walk(folder) if is_folder(folder) else ():
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in sorted([*names, *links]):
            path = os.path.join(place, name)
            inside = os.path.relpath(path, folder).replace(os.sep, "/")
            if is_regular(path):
                yield inside, path
            else:
                what = os.path.basename(folder)
                not_carried.append(f"what is no regular file but a link or pipe: {what}/{inside}")


def _texts(folder: str, not_carried: list[str]) -> dict[str, str]:
    texts = {}
    for name, path in _files(folder, not_carried):
        with open(
            path, encoding="utf-8", errors="replace", newline="", opener=only_regular
        ) as file:
            texts[name] = file.read()
    return texts


def _points(folder: str, system: bool, not_carried: list[str]) -> Iterator[Point]:
    # Each file is asked for twice; what is none is noted once.
    found = _files(folder, [] if system else not_carried)
    files = [each for each in found if each[0].startswith(SYSTEM_PREFIX) == system]
    # Within a metric the order of equal times and steps is that of the file.
    series = [sorted(_series(*file, not_carried), key=itemgetter(0, 1)) for file in files]
    return merge(*map(_once, series), key=itemgetter(0, 1))


def _once(series: list[Point]) -> Iterator[Point]:
    """Leave out what stands there twice, as in MLflow's database.

    Logging a model appends the newest values of its run again, at their old times.
    """
    last = None
    for point in series:
        this = point[0], point[1], repr(point[3])  # NaN differs from itself
        if this != last:
            yield point
        last = this


def _series(name: str, path: str, not_carried: list[str]) -> Iterator[Point]:
    damaged = False
    with open(path, encoding="utf-8", errors="replace", opener=only_regular) as file:
        for line in file:
            try:
                milliseconds, value, *more = line.split()
                yield int(milliseconds), _to_step(*more[:1]), name, float(value)
            except ValueError:
                damaged = damaged or bool(line.strip())
    if damaged:
        not_carried.append(f"metric {name!r}: damaged lines")


def _to_step(text: str = "0") -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
