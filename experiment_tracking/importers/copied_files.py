"""The files of a source as artifacts of a run folder."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from experiment_tracking import logs
from experiment_tracking.errors import InvalidNameError
from experiment_tracking.folder import layout
from experiment_tracking.folder.documents import utc_now
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.importers.found import FoundFile, FoundRun, reason_of, to_iso
from experiment_tracking.importers.source_files import NO_LINKS, only_regular, stays_below

_IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
_PLACES = {"model": "models", "figure": "figures", "image": "figures"}


def copy_files(folder: RunFolder, found: FoundRun) -> list[dict[str, Any]]:
    """Copy all files of a run; return the entries of ``artifacts.json``."""
    taken: set[str] = set()
    entries = []
    for file in found.files:
        for path, name, kind in _each(file, found.not_carried.append):
            # A folder stays together; its pictures are known as such all the same.
            above = "artifacts" if os.path.isdir(file.path) and file.kind is None else kind
            place = _free(f"{_PLACES.get(above, 'artifacts')}/{_kept_name(name)}", taken)
            entry = {
                "path": place,
                "kind": logs.to_text(kind, "kind"),
                "name": logs.to_text(_logged_name(file, name), "name"),
                "step": file.step,
                "description": file.description and logs.to_text(file.description, "description"),
            }
            try:
                entries.append(entry | _copy(path, folder.file(*place.split("/"))))
            except OSError as error:
                found.not_carried.append(
                    f"file {name!r:.300}: {error.strerror or reason_of(error)}"
                )
    return entries


def _logged_name(file: FoundFile, name: str) -> str:
    if file.kind is not None:
        name = file.name
    # One name for all steps, as tracked runs have it.
    stem = name.removesuffix(os.path.splitext(name)[1])
    behind = "" if file.step is None else f"-{file.step:06d}"
    return stem.removesuffix(behind) if behind and stem.endswith(behind) else name


def count_files(files: Iterable[FoundFile]) -> int:
    """Count what would be copied."""
    return sum(1 for file in files for _ in _each(file, lambda problem: None))


def _each(file: FoundFile, on_problem: Callable[[str], None]) -> Iterator[tuple[str, str, str]]:
    """Yield path, name and kind of the files that stand for one of the source."""
    # A link beside it is as good as a file; Lightning's last.ckpt is one.
    above = os.path.dirname(file.path)
    if os.path.islink(file.path) and not stays_below(file.path, above):
        on_problem(f"file {file.name!r:.300}: {NO_LINKS}")
        return
    if not os.path.isdir(file.path):
        yield file.path, file.name, file.kind or kind_of(file.name)
        return
    for place, folders, names in os.walk(file.path):
        folders.sort()
        for link in (f for f in folders if os.path.islink(os.path.join(place, f))):
            on_problem(f"folder {link!r:.300}: {NO_LINKS}")
        for name in sorted(names):
            path = os.path.join(place, name)
            inside = os.path.relpath(path, file.path).replace(os.sep, "/")
            if os.path.islink(path) and not stays_below(path, above):
                on_problem(f"file {f'{file.name}/{inside}'!r:.300}: {NO_LINKS}")
            else:
                yield path, f"{file.name}/{inside}", file.kind or kind_of(name)


def kind_of(name: str) -> str:
    """Tell an artifact's kind by the suffix of its name."""
    return "image" if name.lower().endswith(_IMAGES) else "artifact"


def _kept_name(name: str) -> str:
    """Return a name with ``/`` as folders and files may bear it inside a run."""
    first, *inner = [part for part in name.split("/") if part not in ("", ".", "..")] or ["file"]
    return "/".join([_kept_part(first, first), *(_kept_part(p, p.lstrip("._-")) for p in inner)])


def _kept_part(part: str, tested: str) -> str:
    # Below the first folder a name may begin as it likes: __init__.py, .gitignore.
    try:
        layout.check_name(tested, "name")
    except InvalidNameError:
        return layout.suggest_name(part)
    return part


def _free(place: str, taken: set[str]) -> str:
    stem, suffix = os.path.splitext(place)
    number = 1
    while place in taken:
        number += 1
        place = f"{stem}-{number}{suffix}"
    taken.add(place)
    return place


def _copy(source: str, target: str) -> dict[str, Any]:
    """Copy a file; return what ``artifacts.json`` says of its content."""
    if not os.path.lexists(source):
        raise FileNotFoundError("it is not there")
    source = os.path.realpath(source)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with open(source, "rb", opener=only_regular) as file, open(target, "xb") as copy:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            copy.write(chunk)
            size += len(chunk)
    logged_at = to_iso(os.stat(source).st_mtime) or utc_now()
    return {"size_bytes": size, "sha256": digest.hexdigest(), "logged_at": logged_at}
