"""The files that a run keeps, put together as backends get them: a model, a figure, a folder.

``artifacts.json`` lists file by file; a backend is given a folder or a model once, as a whole.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.layout import RunFolder

_Entry = Mapping[str, Any]


class KeptFile(NamedTuple):
    """A file or folder of a run, as one call of a backend gives it."""

    path: str
    """Relative to the run, with ``/``."""
    entries: tuple[_Entry, ...]
    """What ``artifacts.json`` says of its files, in the order logged."""
    mark: str
    """What tells it from what is logged under the same name later: ``<sha256>@<time>``."""

    @property
    def method(self) -> str:
        """Which method of a backend takes it."""
        top = self.path.partition("/")[0]
        return {"models": "log_model", "figures": "log_figure"}.get(top, "log_artifact")

    @property
    def last(self) -> _Entry:
        """The entry that was logged last; of a model the one that publishes it."""
        return self.entries[-1]

    @property
    def is_one_file(self) -> bool:
        """Whether it is whole with its one entry; a folder's come one after another."""
        return self.last["path"] == self.path or self.method == "log_model"

    def check(self, folder: RunFolder) -> Path:
        """Return where it is, if it is there as it was logged.

        Raises
        ------
        DamagedError
            If a file is missing, has another size, may not be read, or is a link out of the run.
        OSError
            If the disk does not answer.
        """
        for entry in self.entries:
            _check_file(folder, entry)
        path = folder.file(*self.path.split("/"))
        _check_no_links(path)
        return Path(path)


def kept_files(listed: object) -> tuple[list[KeptFile], list[str]]:
    """Put the entries of ``artifacts.json`` together; also name those that lead out of the run.

    A model is there once its ``model.json`` is: that is written behind the weights.
    """
    groups: dict[str, list[_Entry]] = {}
    foreign = []
    for entry in listed if isinstance(listed, list) else []:
        place = _place(entry)
        if place is None:
            foreign.append(f"{entry!r:.100}")
        else:
            groups.setdefault(place, []).append(entry)
    ordered = {place: _ordered(place, group) for place, group in groups.items()}
    found = [KeptFile(p, tuple(group), _mark(group)) for p, group in ordered.items() if group]
    return found, foreign


def _place(entry: object) -> str | None:
    """Name the file or folder that an entry belongs to; None for one that is not to be had."""
    if not isinstance(entry, dict):
        return None
    path, name = entry.get("path"), entry.get("name")
    if not isinstance(path, str) or not isinstance(name, str) or not _leads_inside(path):
        return None
    top = path.partition("/")[0]
    whole = f"{top}/{name}"
    is_part = top in ("models", "artifacts") and path.startswith(f"{whole}/")
    return whole if is_part else path


def _leads_inside(path: str) -> bool:
    foreign = "\0" if os.name != "nt" else "\0\\:"
    return not {"", ".", ".."} & {*path.split("/")} and not {*foreign} & {*path}


def _ordered(place: str, entries: list[_Entry]) -> list[_Entry]:
    if not place.startswith("models/"):
        return entries
    published = [entry for entry in entries if entry["path"] == f"{place}/model.json"]
    others = [entry for entry in entries if entry not in published]
    return [*others, *published] if published else []


def _mark(entries: list[_Entry]) -> str:
    digest = entries[0].get("sha256")
    if len(entries) > 1:
        lines = "".join(f"{entry.get('sha256')}  {entry['path']}\n" for entry in entries)
        digest = hashlib.sha256(lines.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{digest}@{entries[-1].get('logged_at')}"


def _parts(entry: _Entry) -> list[str]:
    parts: list[str] = entry["path"].split("/")
    return parts


def _check_file(folder: RunFolder, entry: _Entry) -> None:
    path = folder.file(*_parts(entry))
    if os.path.realpath(path) != os.path.join(os.path.realpath(folder.path), *_parts(entry)):
        raise DamagedError(f"{entry['path']} is behind a link; a run holds regular files")
    try:
        fd = io.open_for_reading(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"{entry['path']} is gone") from None
    except PermissionError:
        raise DamagedError(f"{entry['path']} may not be read") from None
    try:
        size = os.fstat(fd).st_size
    finally:
        io.close(fd)
    if size != entry.get("size_bytes"):
        raise DamagedError(
            f"{entry['path']} has {size:,} bytes that are not the {entry.get('size_bytes')} logged"
        )


def _check_no_links(path: str) -> None:
    """Refuse a folder with links: a backend that walks it would copy what is not the run's."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        return
    for above, folders, files in os.walk(path):
        for name in [*folders, *files]:
            if os.path.islink(os.path.join(above, name)):
                raise DamagedError(f"{name} in it is a link; a run holds regular files")
