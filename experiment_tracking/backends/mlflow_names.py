"""How names, params and values stand in MLflow, which refuses some and cuts others.

Its limits are those of ``mlflow.utils.validation`` (3.17).
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from experiment_tracking.folder.history import Row, metric_values
from experiment_tracking.folder.values import shown_name

MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 8000
MAX_EXPERIMENT_CHARS = 500

_MAX_NAME_CHARS = 250
_MAX_REQUEST_BYTES = 900_000  # of 1,000,000: what stands around the items is counted roughly
_ITEM_BYTES = 150
_MARK_CHARS = 7
_INT64 = range(-(2**63), 2**63)

# MLflow on Windows refuses the colon as well.
_REFUSED = re.compile(r"[^/\w.\- ]" if os.name == "nt" else r"[^/\w.\- :]")
# MLflow's client puts a file's path into an address as it is, where these mean something else.
_REFUSED_IN_PATHS = re.compile(r"[#?%\\]")

_Item = TypeVar("_Item")


def allowed_name(name: str) -> str:
    """Return the nearest name that MLflow takes for a metric, a param or a tag.

    >>> allowed_name("acc@1"), allowed_name("/train//loss"), allowed_name("val/loss")
    ('acc_1', '_/train/_/loss', 'val/loss')
    """
    parts = [part if part.strip(".") else "_" for part in _REFUSED.sub("_", name).split("/")]
    # MLflow takes names for paths, and does not look whether ".." is all of a part.
    first = f"_{parts[0][1:]}" if parts[0].startswith("..") else parts[0]
    key = "/".join([first, *parts[1:]])
    return key if len(key) <= _MAX_NAME_CHARS else _marked(key, name)


def allowed_path(path: str) -> str:
    """Return the nearest path that an artifact can have on any server.

    >>> allowed_path("artifacts/50% #2.txt")
    'artifacts/50_ _2.txt'
    """
    return _REFUSED_IN_PATHS.sub("_", path)


def allowed_model_name(name: str) -> str:
    """Return the nearest name that every MLflow takes for a registered model.

    >>> allowed_model_name("pinn v1.2-best/model")
    'pinn-v1-2-best-model'
    """
    return re.sub(r"[^\w-]", "-", name)


def _marked(key: str, name: str) -> str:
    """Tell ``key`` from others that came out alike, by the hash of what it was made from."""
    from hashlib import sha256

    mark = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[: _MARK_CHARS - 1]
    return f"{key[: _MAX_NAME_CHARS - _MARK_CHARS]}-{mark}"


class Names:
    """Names of one kind, each with the one it has in MLflow; no two have the same there.

    Parameters
    ----------
    changed
        Names that MLflow refused, with those they got. New ones are added to it, so whoever
        keeps it keeps the names through a restart.
    on_change
        Called with a name and the one it got, once for each that MLflow refused.
    allowed
        Makes a name one that MLflow takes.
    """

    def __init__(
        self,
        changed: dict[str, str],
        on_change: Callable[[str, str], object],
        allowed: Callable[[str], str] = allowed_name,
    ) -> None:
        self._changed = changed
        self._on_change = on_change
        self._allowed = allowed
        self._keys = dict(changed)
        self._owners = {key: name for name, key in changed.items()}

    def know(self, keys: Iterable[str]) -> None:
        """Take note of names that are in MLflow already."""
        for key in keys:
            self._owners.setdefault(key, key)

    def key(self, name: str) -> str:
        """Return the name that ``name`` has in MLflow."""
        return self._keys.get(name) or self._new_key(name)

    def _new_key(self, name: str) -> str:
        key = self._allowed(name)
        if self._owners.get(key, name) != name:
            key = _marked(key, name)
        self._keys[name], self._owners[key] = key, name
        if key != name:
            self._changed[name] = key
            self._on_change(name, key)
        return key


def flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield params under dotted names.

    >>> dict(flatten({"model": {"depth": 3, "widths": [8, 8]}, "tags": {}}))
    {'model.depth': 3, 'model.widths': [8, 8], 'tags': {}}
    """
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class Point(NamedTuple):
    """One value of a metric, its fields in the order of MLflow's ``Metric``."""

    key: str
    value: float
    timestamp: int
    """Milliseconds; MLflow refuses those before 1970."""
    step: int


def to_points(row: Row, key: Callable[[str], str]) -> list[Point]:
    """Return the points of a row, under the names that ``key`` gives."""
    at = max(0, round(row["time"] * 1000))
    step = min(max(int(row["step"]), _INT64[0]), _INT64[-1])
    values = metric_values(row).items()
    return [Point(key(shown_name(name)), float(value), at, step) for name, value in values]


def pieces(
    items: Iterable[_Item], texts: Callable[[_Item], Iterable[str]], most: int
) -> Iterator[list[_Item]]:
    """Divide items into requests of at most ``most``, none larger than MLflow takes.

    ``texts`` returns the texts of an item; what else it has is short.
    """
    piece: list[_Item] = []
    size = 0
    for item in items:
        # As JSON: a letter of another alphabet has six bytes there, or twelve.
        cost = _ITEM_BYTES + sum(len(json.dumps(text)) for text in texts(item))
        if piece and (len(piece) >= most or size + cost > _MAX_REQUEST_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += cost
    if piece:
        yield piece
