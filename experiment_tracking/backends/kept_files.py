"""The files that a run keeps, put together as backends get them: a model, a figure, a folder.

``artifacts.json`` lists file by file; a backend is given a folder or a model once, as a whole.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import encode, read_document
from experiment_tracking.folder.layout import MODEL_DOCUMENT, RunFolder

_Entry = Mapping[str, Any]


class KeptFile(NamedTuple):
    """A file or folder of a run, as one call of a backend gives it."""

    path: str
    """Relative to the run, with ``/``."""
    entries: tuple[_Entry, ...]
    """What ``artifacts.json`` says of its files, in the order logged; of a model the one that
    publishes it, which has the hashes of the others in it."""
    mark: str
    """What tells it from what is logged under the same name later: ``<sha256>@<time>``."""

    @property
    def method(self) -> str:
        """Which method of a backend takes it."""
        top = self.path.partition("/")[0]
        return {"models": "log_model", "figures": "log_figure"}.get(top, "log_artifact")

    @property
    def last(self) -> _Entry:
        """The entry that was logged last."""
        return self.entries[-1]

    @property
    def is_one_file(self) -> bool:
        """Whether it is whole with its one entry; a folder's come one after another."""
        return self.last["path"] == self.path or self.method == "log_model"

    def check(self, folder: RunFolder) -> Path:
        """Return where a file or folder is, if it is there as it was logged.

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

    def newest_save(
        self, folder: RunFolder, above: str
    ) -> contextlib.AbstractContextManager[tuple[Path, dict[str, Any]]]:
        """Have a model's newest save alone in a folder in ``above``; see `newest_save`.

        Not checked by what was listed: it may have been saved again since.
        """
        _check_no_link_above(folder, self.last)
        return newest_save(folder.file(*self.path.split("/")), above)


def kept_files(listed: object) -> tuple[list[KeptFile], list[str]]:
    """Put the entries of ``artifacts.json`` together; also name those that lead out of the run.

    A model is there once its ``model.json`` is, which is written behind the weights.
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
    return [entry for entry in entries if entry["path"] == f"{place}/{MODEL_DOCUMENT}"]


def _mark(entries: list[_Entry]) -> str:
    digest = entries[0].get("sha256")
    if len(entries) > 1:
        lines = "".join(f"{entry.get('sha256')}  {entry['path']}\n" for entry in entries)
        digest = hashlib.sha256(lines.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{digest}@{entries[-1].get('logged_at')}"


@contextlib.contextmanager
def newest_save(path: str, above: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Have the newest save of a model alone in a folder, for as long as it is in use.

    A model's folder holds earlier saves, too, and is written to while the run goes on. Here the
    files are linked (copied where there are no links), so they stay as they are meanwhile.

    Parameters
    ----------
    path
        Folder of the model.
    above
        Folder to make, in which one is made with the model's own name; both are deleted in the
        end. What a killed process left there is deleted first.

    Yields
    ------
    Path, dict
        The folder, and what ``model.json`` says of that save.

    Raises
    ------
    DamagedError
        If ``model.json`` is none, or a file that it names is missing, has another size, or is a
        link.
    OSError
        If the disk does not answer.
    """
    from shutil import rmtree

    into = Path(above, os.path.basename(path))
    try:
        yield into, stage_newest_save(path, str(into))
    finally:
        rmtree(above, ignore_errors=True)


def stage_newest_save(path: str, into: str) -> dict[str, Any]:
    """Link the files of a model's newest save into a folder; return what ``model.json`` says."""
    from shutil import rmtree

    before: dict[str, Any] | None = None
    while True:
        document = _published(path)
        rmtree(into, ignore_errors=True)
        os.makedirs(into)
        try:
            for known in document["files"].values():
                _stage(path, into, known)
        except FileNotFoundError as error:
            # Saved again meanwhile, unless model.json still says the same.
            if document == before:
                raise DamagedError(f"{error.filename} is gone, which model.json names") from None
            before = document
        else:
            io.replace_file(os.path.join(into, MODEL_DOCUMENT), encode(document))
            return document


def known_of_model(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what backends are told of a save beside its files: ``metadata`` and ``step``.

    The name under which the run registers it is ``metadata["registered_model_name"]``.
    """
    metadata = dict(document.get("metadata") or {})
    if registered := document.get("registered_model_name"):
        metadata.setdefault("registered_model_name", registered)
    return {"metadata": metadata, "step": document.get("step")}


def _published(path: str) -> dict[str, Any]:
    """Read what ``model.json`` says of the newest save; the files it names are beside it."""
    place = os.path.join(path, MODEL_DOCUMENT)
    try:
        document = read_document(place)
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"{place} is gone") from None
    document.pop("earlier", None)
    files = document.get("files")
    known = list(files.values()) if isinstance(files, dict) else [None]
    names = [one.get("file") if isinstance(one, dict) else None for one in known]
    for name in names:
        is_beside = isinstance(name, str) and "/" not in name and _leads_inside(name)
        if not is_beside or names.count(name) > 1:
            raise DamagedError(f"{place} names {name!r:.80}, expected a file beside it")
    return document


def _stage(path: str, into: str, known: _Entry) -> None:
    source = os.path.join(path, known["file"])
    _check_size(source, known)
    io.link_or_copy(source, os.path.join(into, known["file"]))


def _parts(entry: _Entry) -> list[str]:
    parts: list[str] = entry["path"].split("/")
    return parts


def _check_file(folder: RunFolder, entry: _Entry) -> None:
    _check_no_link_above(folder, entry)
    try:
        _check_size(folder.file(*_parts(entry)), entry)
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"{entry['path']} is gone") from None


def _check_no_link_above(folder: RunFolder, entry: _Entry) -> None:
    real = os.path.realpath(folder.file(*_parts(entry)))
    if real != os.path.join(os.path.realpath(folder.path), *_parts(entry)):
        raise DamagedError(f"{entry['path']} is behind a link; a run holds regular files")


def _check_size(path: str, known: _Entry) -> None:
    name = known.get("path") or known.get("file")
    try:
        fd = io.open_for_reading(path)
    except PermissionError:
        raise DamagedError(f"{name} may not be read") from None
    try:
        size = os.fstat(fd).st_size
    finally:
        io.close(fd)
    if size != known.get("size_bytes"):
        raise DamagedError(
            f"{name} has {size:,} bytes that are not the {known.get('size_bytes')} logged"
        )


def _check_no_links(path: str) -> None:
    """Refuse a folder with links: a backend that walks it would copy what is not the run's."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        return
    for above, folders, files in os.walk(path):
        for name in [*folders, *files]:
            if os.path.islink(os.path.join(above, name)):
                raise DamagedError(f"{name} in it is a link; a run holds regular files")
