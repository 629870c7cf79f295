"""A model into a run: files first, ``model.json`` last, then what it no longer names goes.

``model.json`` is the publication. Readers go by what it names, and every file it names is whole
and on the disk before; so a model that is saved a hundred times in a loop is whole at each instant,
and killed anywhere it is the old one or the new one.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    in_words,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import MAX_BYTES, encode, utc_now
from experiment_tracking.folder.liveness import process_start
from experiment_tracking.folder.values import RESERVED, from_stored, to_step, to_stored
from experiment_tracking.formats.models import saved
from experiment_tracking.formats.models.interface import Form, ModelFormat, Streamed, Wishes
from experiment_tracking.formats.models.signature import check_signature
from experiment_tracking.logs import to_params, to_text
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    from experiment_tracking.folder.history import Row
    from experiment_tracking.writing import RunWriter

_BEHIND_BYTES = 16 * 2**20

_PAYLOAD = re.compile(r"[a-z]+-([0-9]{6,})\.")


class Request(NamedTuple):
    """What ``log_model`` was asked to keep beside the model."""

    metadata: dict[str, Any]
    step: int | None
    aliases: tuple[str, ...]
    signature: dict[str, Any] | None
    keep: int
    keep_best: tuple[str, int] | None
    wishes: Wishes
    registered_as: str | None = None


def publish(writer: RunWriter, model: Any, name: str, request: Request) -> dict[str, Any] | None:
    """Save a model under ``models/<name>/`` of a run; return what ``model.json`` says of it.

    None where the disk refused, which the run has counted and told, or where another process has
    taken the run over. What was there before is there still then, and nothing beside it.
    """
    from experiment_tracking.formats.models.arrays import tree_file
    from experiment_tracking.formats.models.catalog import format_of
    from experiment_tracking.formats.models.signature import plain_example
    from experiment_tracking.formats.trees import flatten_tree

    format_ = format_of(model, allow_unsafe=request.wishes.allow_unsafe)
    document: dict[str, Any] = {
        "format": saved.FORMAT,
        "name": name,
        "framework": "",
        "saved_at": utc_now(),
        "step": request.step,
        "metrics": last_values(writer),
        "metadata": request.metadata,
        "aliases": list(request.aliases),
    }
    if request.registered_as is not None:
        document["registered_model_name"] = request.registered_as
    if goals := {name: goal for name, goal in writer.digest.goals.items() if goal}:
        document["goals"] = goals
    _check_keep_best(writer, request, document["metrics"])
    format_, form = _encode(format_, model, request.wishes)
    document |= {"framework": format_.framework, **form.known}
    document["versions"] = _versions(format_.packages)
    document |= _measured(format_, model, request)
    if request.wishes.input_example is not None:
        form.files["example"] = tree_file(flatten_tree(plain_example(request.wishes.input_example)))
    with writer.files.saving:
        return _Saving(writer, document, request).publish(form)


def _encode(format_: ModelFormat, model: Any, wishes: Wishes) -> tuple[ModelFormat, Form]:
    """Turn a model into files; what its own format refuses, by pickle where that is allowed."""
    try:
        return format_, format_.encode(model, wishes)
    except (InvalidTypeError, InvalidValueError) as error:
        if not wishes.allow_unsafe or format_.framework == "cloudpickle":
            raise
        from experiment_tracking.formats.models.catalog import format_named

        pickled = format_named("cloudpickle", "log_model")
        form = pickled.encode(model, wishes)
        notice(f"the model is kept by cloudpickle, for {format_.framework} refused it: {error}")
        return pickled, form


def last_values(writer: RunWriter) -> dict[str, Any]:
    """Return each metric's last value as it is stored, of this very moment."""
    lasts = {name: kept.last for name, kept in list(writer.digest.metrics.items())}
    values = {name: to_stored(last) for name, last in lasts.items() if last is not None}
    for row in _rows_ahead(writer):
        values |= row
    return {name: value for name, value in values.items() if name not in RESERVED}


def _rows_ahead(writer: RunWriter) -> list[Row]:
    # Where they cannot be read back just now, the run's thread says so. The model is saved all the
    # same, with what that has summed up so far.
    try:
        return writer.tail.rows_ahead(_BEHIND_BYTES)
    except JSONDecodeError:
        return []
    except OSError as error:
        _check_of_the_disk(error)
        return []


def _check_of_the_disk(error: OSError) -> None:
    """Raise what is not the disk's but a signal handler's own, such as its time-out."""
    if error.errno is None:
        raise error


def _versions(packages: Iterable[str]) -> dict[str, str]:
    import platform
    import sys

    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in packages}
    return {"python": platform.python_version()} | {n: str(v) for n, v in loaded.items() if v}


def _measured(format_: Any, model: Any, request: Request) -> dict[str, Any]:
    from experiment_tracking.formats.models.signature import measure

    example = request.wishes.input_example
    known = {} if example is None else measure(format_, model, example)
    return known | ({"signature": request.signature} if request.signature else {})


class _Saving:
    """One save of a model on its way to the disk. Its maker holds ``files.saving``."""

    def __init__(self, writer: RunWriter, document: dict[str, Any], request: Request) -> None:
        self._writer = writer
        self._files = writer.files
        self._document = document
        self._request = request
        self._place = f"models/{document['name']}"
        self._listed = {"kind": "model", "name": document["name"], "step": request.step}

    def publish(self, form: Form) -> dict[str, Any] | None:
        """Write the files, replace ``model.json``, clean up."""
        if self._is_taken_over():  # which also finds a folder that was moved
            return None
        try:
            named = self._publish_or_take_back(form, self._free_number())
        except OSError as error:
            _check_of_the_disk(error)
            self._writer.files_lost(error)
            return None
        if named:
            self._clean(named)
        return self._document if named else None

    def _publish_or_take_back(self, form: Form, number: int) -> set[str]:
        at_work = self._place, number
        named: set[str] = set()
        try:
            self._files.saves_at_work.add(at_work)
            named = self._publish(form, number)
        finally:
            self._files.saves_at_work.discard(at_work)
            if not named:
                self._take_back(number)
        return named

    def _is_taken_over(self) -> bool:
        # Ended meanwhile, in another thread or a signal handler, it has let its history go, by
        # which that would be seen.
        return not self._writer.ended and self._writer.has_successor()

    def _free_number(self) -> int:
        at_work = [number for place, number in self._files.saves_at_work if place == self._place]
        return 1 + max([*at_work, *map(_number, self._names())], default=0)

    @property
    def _folder(self) -> str:
        return self._writer.folder.file(*self._place.split("/"))

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._folder)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _publish(self, form: Form, number: int) -> set[str]:
        """Return the names that ``model.json`` names now, none where it stayed as it was."""
        files = self._write(form, number)
        if files is None or self._is_taken_over():
            return set()
        size_bytes = sum(known["size_bytes"] for known in files.values())
        self._document |= {"save": number, "files": files, "size_bytes": size_bytes}
        kept = self._kept()
        listed = {"path": f"{self._place}/{saved.DOCUMENT}", **self._listed}
        if not self._files.save(listed, self._encoded(kept), durable=True):
            return set()
        return _named([self._document, *kept])

    def _write(self, form: Form, number: int) -> dict[str, Any] | None:
        files: dict[str, Any] = {}
        for role, file in form.files.items():
            name = f"{role}-{number:06d}{file.suffix}"
            listed = {"path": f"{self._place}/{name}", **self._listed}
            if isinstance(file, Streamed):
                known = self._files.stream(listed, file.pieces())
            else:
                known = self._files.written_by(listed, file.suffix, file.write)
            if known is None:
                return None
            files[role] = {"file": name, "format": file.format, **known, **file.known}
        return files

    def _kept(self) -> list[dict[str, Any]]:
        """Choose which earlier saves stay: always the last one, which readers may still be at."""
        earlier = _earlier(self._folder)
        stay = {save.get("save") for save in earlier[: max(self._request.keep, 2) - 1]}
        if self._request.keep_best is not None:
            metric, count = self._request.keep_best
            less_is_better = self._writer.digest.goal(metric) != "maximize"
            ranked = sorted(
                [self._document, *earlier], key=lambda save: _rank(save, metric, less_is_better)
            )
            stay |= {save.get("save") for save in ranked[:count]}
        return [save for save in earlier if save.get("save") in stay]

    def _encoded(self, kept: list[dict[str, Any]]) -> bytes:
        """Encode ``model.json``; of more saves than a reader takes the oldest are let go."""
        while len(data := encode(self._document | {"earlier": kept})) > MAX_BYTES:
            if not kept:
                raise InvalidValueError(
                    f"log_model: model.json would have {len(data):,} bytes, {MAX_BYTES:,} are "
                    "read. Stack arrays of one shape to one, or keep less in metadata=."
                )
            del kept[-1]
            notice(
                f"model {self._document['name']!r}: model.json takes {len(kept)} earlier saves and "
                "no more; older ones are let go."
            )
        return data

    def _take_back(self, number: int) -> None:
        """Delete what was written for a save that has not been published."""
        try:
            named = _named(saved.saves_in(self._folder))
        except (FileNotFoundError, DamagedError):
            named = set()
        except OSError as error:
            _check_of_the_disk(error)
            return  # Nobody can say now what it names. The next save cleans up.
        own = {name for name in self._names() if _number(name) == number}
        self._files.remove(self._place, own - named)

    def _clean(self, named: set[str]) -> None:
        """Delete what ``model.json`` does not name any more, and what killed saves have left."""
        # Not in the middle of another save, which a signal handler interrupted: that one has
        # files which nothing names yet. The next save cleans up.
        if self._files.saves_at_work:
            return
        try:
            names = self._names()
        except OSError as error:
            _check_of_the_disk(error)
            return
        payloads = {name for name in names if _number(name)}
        abandoned = {name for name in names if _is_abandoned(name)}
        self._files.remove(self._place, payloads - named | abandoned)


def _number(name: str) -> int:
    found = _PAYLOAD.match(name)
    return int(found[1]) if found else 0


def _is_abandoned(name: str) -> bool:
    # By pid alone, though it may be one of another machine: only one process writes a run, and
    # one that was taken over loses no more than what it could not publish anyway.
    pid = io.writer_of(name)
    return pid is not None and (pid == os.getpid() or process_start(pid) is None)


def _named(saves: Iterable[Mapping[str, Any]]) -> set[str]:
    return {file["file"] for save in saves for file in save["files"].values()}


def _earlier(folder: str) -> list[dict[str, Any]]:
    try:
        return saved.saves_in(folder)
    except FileNotFoundError:
        return []
    except DamagedError as error:
        notice(f"{in_words(error)} It is replaced by the model saved now.")
        return []


def _rank(save: Mapping[str, Any], metric: str, less_is_better: bool) -> float:
    value = from_stored((save.get("metrics") or {}).get(metric))
    if value is None or math.isnan(value):
        return math.inf
    return value if less_is_better else -value


def _check_keep_best(writer: RunWriter, request: Request, metrics: Mapping[str, Any]) -> None:
    if request.keep_best is None:
        return
    metric = request.keep_best[0]
    if metric not in metrics:
        there = ", ".join(sorted(metrics)[:10]) or "none"
        raise InvalidValueError(
            f"keep_best: metric {metric!r} has not been logged yet, logged are {there}. "
            "Log it before the model."
        )
    if writer.digest.goal(metric) is None:
        raise InvalidValueError(
            f"keep_best: whether less or more of {metric!r} is better is not known. Say it with "
            f"run.define_metric({metric!r}, goal='minimize')."
        )


def to_request(
    *,
    metadata: Mapping[str, Any] | None,
    save_optimizer_state: bool,
    optimizer: Any,
    scheduler: Any,
    input_example: Any,
    signature: Any,
    step: Any,
    aliases: Iterable[str],
    keep: Any,
    keep_best: Any,
    allow_unsafe: bool,
    registered_as: Any = None,
) -> Request:
    """Return what ``log_model`` was called with, checked and in plain form.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        With what is allowed.
    """
    if save_optimizer_state and optimizer is None:
        raise InvalidValueError(
            "log_model: save_optimizer_state=True needs the optimizer. Pass it: optimizer=."
        )
    if not (metadata is None or isinstance(metadata, Mapping)):
        raise InvalidTypeError(
            f"log_model: metadata= is a {type(metadata).__name__}. Pass a mapping of plain values: "
            "{'epoch': 3}."
        )
    if isinstance(aliases, str):
        aliases = (aliases,)
    wishes = Wishes(optimizer, scheduler, input_example, allow_unsafe)
    return Request(
        to_params(metadata),
        None if step is None else to_step(step),
        tuple(to_text(alias, "aliases") for alias in aliases),
        check_signature(signature),
        _to_keep(keep),
        _to_keep_best(keep_best),
        wishes,
        registered_as,
    )


def _to_keep(keep: Any) -> int:
    if type(keep) is not int or keep < 1:
        raise InvalidValueError(f"keep= is {keep!r:.40}. Pass how many saves stay: 1 or more.")
    return keep


def _to_keep_best(keep_best: Any) -> tuple[str, int] | None:
    match keep_best:
        case None:
            return None
        case (str() as metric, int() as count) if count >= 1 and type(count) is int:
            return metric, count
    raise InvalidTypeError(
        f"keep_best= is {keep_best!r:.60}. Pass a metric and how many: ('val/loss', 3)."
    )
