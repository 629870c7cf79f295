"""A model into a run: files first, ``model.json`` last, then what it no longer names goes.

``model.json`` is the publication. Readers go by what it names, and every file it names is whole
and on the disk before; so a model that is saved a hundred times in a loop is whole at each instant,
and killed anywhere it is the old one or the new one.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    in_words,
)
from experiment_tracking.folder.documents import encode, utc_now
from experiment_tracking.folder.values import RESERVED, from_stored, to_step
from experiment_tracking.formats.models import saved
from experiment_tracking.formats.models.interface import Form, Streamed, Wishes
from experiment_tracking.formats.models.signature import check_signature
from experiment_tracking.logs import to_params, to_text
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    from experiment_tracking.writing import RunWriter

_BEHIND_BYTES = 16 * 2**20

_publishing = threading.RLock()
"""Held while a model is published: of two threads that save one, the later must see what the
earlier has named. Taken with no other lock held; re-entrant for signal handlers."""

_numbers: dict[str, int] = {}
"""The last number given to a save in each folder, so that two threads never take the same."""


class Request(NamedTuple):
    """What ``log_model`` was asked to keep beside the model."""

    metadata: dict[str, Any]
    step: int | None
    aliases: tuple[str, ...]
    signature: dict[str, Any] | None
    keep: int
    keep_best: tuple[str, int] | None
    wishes: Wishes


def publish(writer: RunWriter, model: Any, name: str, request: Request) -> dict[str, Any] | None:
    """Save a model under ``models/<name>/`` of a run; return what ``model.json`` says of it.

    None where the disk refused: the run has counted and told that, and what was there before is
    there still.
    """
    from experiment_tracking.formats.models.arrays import tree_file
    from experiment_tracking.formats.models.catalog import format_of
    from experiment_tracking.formats.trees import flatten_tree

    format_ = format_of(model, allow_unsafe=request.wishes.allow_unsafe)
    document: dict[str, Any] = {
        "format": saved.FORMAT,
        "name": name,
        "framework": format_.framework,
        "saved_at": utc_now(),
        "step": request.step,
        "metrics": last_values(writer),
        "metadata": request.metadata,
        "aliases": list(request.aliases),
    }
    _check_keep_best(writer, request, document["metrics"])
    form = format_.encode(model, request.wishes)
    document |= form.known
    document["versions"] = _versions(format_.packages)
    document |= _measured(format_, model, request)
    if request.wishes.input_example is not None:
        form.files["example"] = tree_file(flatten_tree(request.wishes.input_example))
    place = f"models/{name}"
    number = _next_number(writer.folder.file(*place.split("/")))
    files = _write(writer, form, place, number, {"name": name, "step": request.step})
    if files is None:
        return None
    document |= {"save": number, "files": files}
    document["size_bytes"] = sum(known["size_bytes"] for known in files.values())
    return document if _replace_document(writer, place, document, request) else None


def last_values(writer: RunWriter) -> dict[str, Any]:
    """Return each metric's last value as it is stored, of this very moment."""
    start, end = writer.tail.offset, writer.history.end
    values = {name: kept.last for name, kept in list(writer.digest.metrics.items())}
    # What the run's thread has not come to yet, unless that is very much.
    if start < end <= start + _BEHIND_BYTES:
        for row in writer.tail.rows_between(start, end):
            values |= row
    return {name: value for name, value in values.items() if name not in RESERVED}


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


def _next_number(folder: str) -> int:
    with _publishing:
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            names = []
        taken = (name.partition(".")[0].rpartition("-")[2] for name in names)
        found = max((int(n) for n in taken if n.isascii() and n.isdigit()), default=0)
        _numbers[folder] = max(found, _numbers.get(folder, 0)) + 1
        return _numbers[folder]


def _write(
    writer: RunWriter, form: Form, place: str, number: int, entry: dict[str, Any]
) -> dict[str, Any] | None:
    files: dict[str, Any] = {}
    for role, file in form.files.items():
        name = f"{role}-{number:06d}{file.suffix}"
        listed = {"path": f"{place}/{name}", "kind": "model", **entry}
        if isinstance(file, Streamed):
            known = writer.files.stream(listed, file.pieces())
        else:
            known = writer.files.written_by(listed, file.suffix, file.write)
        if known is None:
            return None
        files[role] = {"file": name, "format": file.format, **known, **file.known}
    return files


def _replace_document(
    writer: RunWriter, place: str, document: dict[str, Any], request: Request
) -> bool:
    path = f"{place}/{saved.DOCUMENT}"
    with _publishing:
        earlier = _earlier(writer.folder.file(*place.split("/")))
        kept = _kept(document, earlier, request, writer)
        listed = {"path": path, "kind": "model", "name": document["name"], "step": request.step}
        data = encode(document | {"earlier": kept})
        if not writer.files.save(listed, data, durable=True):
            return False
        named = {file["file"] for save in [document, *kept] for file in save["files"].values()}
        writer.files.remove(place, keep={*named, saved.DOCUMENT})
    return True


def _earlier(folder: str) -> list[dict[str, Any]]:
    try:
        return [save for save in saved.saves_in(folder) if isinstance(save.get("files"), dict)]
    except FileNotFoundError:
        return []
    except DamagedError as error:
        notice(f"{in_words(error)} It is replaced by the model saved now.")
        return []


def _kept(
    document: Mapping[str, Any],
    earlier: list[dict[str, Any]],
    request: Request,
    writer: RunWriter,
) -> list[dict[str, Any]]:
    """Choose which earlier saves stay: always the last one, which readers may still be at."""
    stay = earlier[: max(request.keep, 2) - 1]
    if request.keep_best is not None:
        metric, count = request.keep_best
        ranked = sorted([document, *earlier], key=lambda save: _rank(save, metric, writer))
        best = [id(save) for save in ranked[:count]]
        stay = [save for save in earlier if save in stay or id(save) in best]
    return stay


def _rank(save: Mapping[str, Any], metric: str, writer: RunWriter) -> float:
    value = from_stored(save.get("metrics", {}).get(metric))
    if value is None or math.isnan(value):
        return math.inf
    return -value if writer.digest.goal(metric) == "maximize" else value


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
    )


def _to_keep(keep: Any) -> int:
    if type(keep) is not int or keep < 1:
        raise InvalidValueError(f"keep= is {keep!r:.40}. Pass how many saves stay: 1 or more.")
    return keep


def _to_keep_best(keep_best: Any) -> tuple[str, int] | None:
    match keep_best:
        case None:
            return None
        case (str() as metric, int() as count) if count >= 1:
            return metric, count
    raise InvalidTypeError(
        f"keep_best= is {keep_best!r:.60}. Pass a metric and how many: ('val/loss', 3)."
    )
