"""Lightning's ``version_N`` folders: ``metrics.csv`` or event files, ``hparams.yaml``, checkpoints.

Layout: ``lightning.pytorch.loggers`` (CSVLogger, TensorBoardLogger), seen with Lightning 2.
"""

import os
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from experiment_tracking.importers import tensorboard_events
from experiment_tracking.importers.csv_rows import table_run
from experiment_tracking.importers.found import (
    FoundFile,
    FoundRun,
    Options,
    Unreadable,
    reason_of,
    to_iso,
)
from experiment_tracking.importers.source_files import is_regular, only_regular

KIND = "lightning"

_VERSION = re.compile(r"version_\d+")
_MOST_PARAMS = 100_000
_METRICS, _HPARAMS = "metrics.csv", "hparams.yaml"


def recognizes(path: str) -> bool:
    """Tell whether ``path`` is the folder of one version."""
    if not os.path.isdir(path):
        return False
    numbered = _VERSION.fullmatch(os.path.basename(os.path.abspath(path))) is not None
    has_hparams = is_regular(os.path.join(path, _HPARAMS))
    if is_regular(os.path.join(path, _METRICS)):
        return numbered or has_hparams
    # TensorBoard's logger leaves the params here, too, and event files in place of the table.
    return has_hparams and tensorboard_events.recognizes(path)


def runs(path: str, options: Options) -> Iterator[FoundRun | Unreadable]:
    """Yield the run of one version."""
    path = os.path.abspath(path)
    table = os.path.join(path, _METRICS)
    if is_regular(table):
        found = FoundRun(KIND, path, path, "", "")
        found.ended_at = to_iso(os.stat(table).st_mtime)
        table_run(found, table, options)
        found.created_at = _oldest(path)
        yield _completed(found, path)
        return
    for part in tensorboard_events.runs(path, options):
        if isinstance(part, FoundRun):
            part.kind = KIND
            _completed(part, path)
        yield part


def _completed(found: FoundRun, path: str) -> FoundRun:
    above, version = os.path.split(path)
    folder, logger = os.path.split(above)
    # "lightning_logs" is what the logger's folder is called unless somebody names it.
    found.project = os.path.basename(folder) if logger == "lightning_logs" else logger
    found.project = found.project or logger
    found.name = version
    found.params = {**_hparams(path, found), **found.params}
    for name in sorted(os.listdir(path)):
        if name not in (_METRICS, _HPARAMS) and "tfevents" not in name:
            found.files.append(FoundFile(os.path.join(path, name), name))
    return found


def _oldest(path: str) -> str | None:
    with os.scandir(path) as entries:
        return to_iso(min(entry.stat().st_mtime for entry in entries))


def _hparams(path: str, found: FoundRun) -> dict[str, Any]:
    file = os.path.join(path, _HPARAMS)
    if not os.path.lexists(file):
        return {}
    try:
        yaml = import_module("yaml")
    except ModuleNotFoundError:
        found.not_carried.append("hparams.yaml: reading it needs PyYAML. Run: pip install pyyaml")
        return {}
    try:
        with open(file, encoding="utf-8", opener=only_regular) as text:
            params = yaml.load(text, _tagless(yaml))  # a SafeLoader
        _check_size(params)
    except Exception as error:  # RecursionError and what else YAML can be made to raise
        found.not_carried.append(f"hparams.yaml: it cannot be read ({reason_of(error)})")
        return {}
    return params if isinstance(params, dict) else {"hparams": params} if params else {}


def _check_size(params: Any) -> None:
    """Refuse few lines of YAML that name each other until they are millions of values."""
    left, number = [params], 0
    while left:
        value = left.pop()
        number += 1
        if number > _MOST_PARAMS:
            raise ValueError(f"it holds more than {_MOST_PARAMS:,} values")
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            left.extend(value)


def _tagless(yaml: Any) -> Any:
    """Make a loader that takes objects of Python's for the plain values inside; it makes none."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    def plain(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return node.value or suffix.rpartition(":")[2]

    Loader.add_multi_constructor("", plain)
    return Loader
