"""Pictures, tables, histograms and artifacts of a W&B run, as files."""

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from experiment_tracking.backends.wandb_log import Artifact, ArtifactFile
from experiment_tracking.folder.documents import encode
from experiment_tracking.folder.values import to_plain
from experiment_tracking.importers.extracted import ExtractedFiles, name_with_step
from experiment_tracking.importers.found import FoundFile
from experiment_tracking.importers.histograms import to_histogram
from experiment_tracking.importers.source_files import is_regular, only_regular, stays_below
from experiment_tracking.logs import to_params

_READ_ELSEWHERE = (
    "output.log", "requirements.txt", "config.yaml", "wandb-summary.json", "wandb-metadata.json",
)  # fmt: skip
_OUR_FIGURES = "figures/"  # under which this package's runs have theirs in W&B
_OF_THE_LOG = ("run_table", "wandb-history", "job")
"""Types of artifacts that W&B makes of what the log holds as well."""


class WandbFiles:
    """Find the files that a run's logs name.

    Media lie below ``files/`` beside a log. The files of an artifact lie where W&B copied them
    when it was logged; they count only where their MD5 is the one that was noted, so that a
    stranger's log cannot fetch other files of this machine.
    """

    def __init__(self) -> None:
        self.found = ExtractedFiles()
        self.left_out: Counter[str] = Counter()
        """What is not carried, and how much of it."""
        self._taken: set[str] = set()
        self._versions: Counter[str] = Counter()

    def take_media(self, value: Any, name: str, step: int, folder: str) -> bool:
        """Take in a value of the history if it is a medium, or a list of them; tell whether.

        ``folder`` is the ``files/`` of the log.
        """
        if isinstance(value, list) and any(map(_kind, value)):
            for number, item in enumerate(value):
                self.take_media(item, f"{name}/{number}", step, folder)
            return True
        kind = _kind(value)
        if kind is None:
            return False
        if kind == "histogram":
            self._keep_histogram(value, name, step)
        elif kind == "table-file":
            self._take_table(value, name, step, folder)
        elif kind == "images/separated":
            for number, path in enumerate(value.get("filenames", [])):
                self._take_file(path, f"{name}/{number}", step, folder, "image")
        elif "path" in value:
            self._take_file(value["path"], name, step, folder, kind.removesuffix("-file"))
        elif not any(self.take_media(part, name, step, folder) for part in value.values()):
            self.left_out[f"values of the kind {kind!r:.60}"] += 1
        return True

    def _take_file(self, inside: Any, name: str, step: int, folder: str, kind: str) -> None:
        path = _below(folder, inside)
        if path is None:
            self.left_out["media whose files are not there"] += 1
            return
        self._taken.add(path)
        if name.startswith(_OUR_FIGURES):
            name, kind = name.removeprefix(_OUR_FIGURES), "figure" if kind == "html" else kind
        named = name_with_step(name, step, os.path.splitext(path)[1])
        self.found.append(FoundFile(path, named, kind, step))

    def _take_table(self, value: Mapping[str, Any], name: str, step: int, folder: str) -> None:
        path = _below(folder, value.get("path"))
        rows = None if path is None else _table(path)
        if path is None or rows is None:
            self._take_file(value.get("path"), name, step, folder, "artifact")
            return
        self._taken.add(path)
        self.keep_json(rows, name_with_step(name, step, ".json"), "table", step)

    def _keep_histogram(self, value: Mapping[str, Any], name: str, step: int) -> None:
        try:
            counts, edges, packed = value["values"], value.get("bins"), value.get("packedBins")
            if packed:
                edges = [packed["min"] + packed["size"] * place for place in range(len(counts) + 1)]
            content = encode(to_histogram(counts, edges or []))
        except (ValueError, TypeError, LookupError):
            self.left_out["damaged histograms"] += 1
            return
        self.found.keep(content, name_with_step(name, step, ".json"), "histogram", step)
        self.left_out["mean and std of histograms: here those of the bins' middles"] += 1

    def keep_json(self, value: Any, name: str, kind: str, step: int | None = None) -> None:
        """Keep a value of the log as a file."""
        try:
            # A table's columns are data: "token" is a word there. All else is as good as a param.
            is_data = kind == "table" and step is not None
            plain = to_plain(value) if is_data else to_params({"": value})[""]
            content = encode(plain)
        except ValueError as error:
            self.left_out[f"{name}: {error}"] += 1
        else:
            self.found.keep(content, name, kind, step)

    def take_artifact(self, artifact: Artifact) -> None:
        """Take in the files of an artifact whose bytes are on this machine."""
        if artifact.type in _OF_THE_LOG:
            return
        version = self._versions[artifact.name]
        self._versions[artifact.name] += 1
        name = f"{artifact.name}-v{version}" if version else artifact.name
        kind, description = artifact.type or "artifact", artifact.description or None
        for file in artifact.files:
            if _is_there(file):
                place = f"{name}/{file.path}"
                self.found.append(FoundFile(file.local_path, place, kind, None, description))
            else:
                where = "are references" if file.reference else "are not on this machine"
                self.left_out[f"files of artifact {artifact.name!r:.100} that {where}"] += 1
        if artifact.manifest_path:
            self.left_out["artifacts whose list of files is elsewhere"] += 1
        if artifact.metadata:
            self.keep_json(artifact.metadata, f"{name}.metadata.json", "dict")

    def take_others(self, folder: str) -> None:
        """Take in what else lies in ``files/``: what was saved, code, a patch."""
        for place, folders, names in os.walk(folder):
            folders.sort()
            for path in sorted(os.path.join(place, name) for name in names):
                name = os.path.relpath(path, folder).replace(os.sep, "/")
                if path not in self._taken and name not in _READ_ELSEWHERE:
                    self.found.append(FoundFile(path, name))


def is_medium(value: Any) -> bool:
    """Tell whether a value of the history stands for a file, or is W&B's form of some object."""
    return _kind(value) is not None


def _kind(value: Any) -> str | None:
    kind = value.get("_type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _below(folder: str, inside: Any) -> str | None:
    """Return the path of a file that a log names, if it is there and below the folder."""
    path = os.path.normpath(os.path.join(folder, inside)) if isinstance(inside, str) else ""
    return path if stays_below(path, folder) and is_regular(path) else None


def _table(path: str) -> list[dict[str, Any]] | None:
    """Read W&B's form of a table; None where it is none, or two columns have one name."""
    try:
        with open(path, encoding="utf-8", opener=only_regular) as file:
            table = json.load(file)
        columns = [str(column) for column in table["columns"]]
        rows = [dict(zip(columns, row, strict=True)) for row in table["data"]]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return rows if len(set(columns)) == len(columns) else None


def _is_there(file: ArtifactFile) -> bool:
    try:
        with open(file.local_path, "rb", opener=only_regular) as content:
            md5 = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False))
    except (OSError, ValueError):
        return False
    return base64.b64encode(md5.digest()).decode() == file.digest
