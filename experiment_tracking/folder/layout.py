"""Where everything is: roots, projects, run folders and the names they may bear."""

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from experiment_tracking.errors import (
    FormatError,
    InvalidNameError,
    InvalidTypeError,
    InvalidValueError,
    RootNotFoundError,
)
from experiment_tracking.folder import io

FORMAT = 1
"""Version of the format on disk that this package writes; it reads every earlier one."""

ROOT_VARIABLE = "EXPERIMENT_TRACKING_ROOT"
RUN_VARIABLE = "EXPERIMENT_TRACKING_RUN"
HANDOVER_VARIABLE = "EXPERIMENT_TRACKING_HANDOVER"
SCRATCH_VARIABLE = "EXPERIMENT_TRACKING_SCRATCH_ROOT"
"""Where a rerun's further runs go, which nobody asked to have again."""
README_MARK = "<!-- experiment_tracking root -->"

MODELS = "_models"
"""The folder of a root that holds its registered models."""
MODEL_DOCUMENT = "model.json"
"""What says of a saved model which files are its own; in a run and in the registry."""

SUMMARY_KINDS: dict[str, tuple[type, str]] = {
    "metrics": (dict, "an object"), "tags": (dict, "an object"), "history": (dict, "an object"),
    "goals": (dict, "an object"), "attempts": (list, "a list"), "created_at": (str, "text"),
    "status": (str, "text"),
}  # fmt: skip
"""What those parts of a summary that readers rely on must be, if they are there."""

_MAX_NAME_BYTES = 120
_BASE32 = "abcdefghijkmnpqrstuvwxyz23456789"
_FORBIDDEN = set('<>:"/\\|?*')
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³"
}


class RunFolder:
    """The one class that knows the name of every file of a run.

    Parameters
    ----------
    path
        Folder of the run; made absolute. It need not exist.
    """

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)

    def __repr__(self) -> str:
        return f"RunFolder({self.path!r})"

    @property
    def name(self) -> str:
        """Name of the run."""
        return os.path.basename(self.path)

    @property
    def project(self) -> str:
        """Name of the project the run is in."""
        return os.path.basename(os.path.dirname(self.path))

    @property
    def root(self) -> str:
        """Folder of projects."""
        return os.path.dirname(os.path.dirname(self.path))

    def file(self, *parts: str) -> str:
        """Absolute path of a file inside the run."""
        return os.path.join(self.path, *parts)

    @property
    def summary(self) -> str:
        """Identity, status, times, tags, notes and what the history comes to."""
        return self.path + "/summary.json"

    @property
    def params(self) -> str:
        """Hyperparameters, nested as given."""
        return self.path + "/params.json"

    @property
    def artifact_list(self) -> str:
        """Every logged file with its size and hash."""
        return self.path + "/artifacts.json"

    @property
    def environment(self) -> str:
        """Interpreter, packages, git, command line, hardware."""
        return self.path + "/environment.json"

    @property
    def inputs(self) -> str:
        """What the run was trained on: paths, sizes and hashes."""
        return self.path + "/inputs.json"

    @property
    def system_metrics(self) -> str:
        """Samples of CPU, memory, disk, network and GPU; same form as the history."""
        return self.path + "/system_metrics.json"

    @property
    def console(self) -> str:
        """Stdout and stderr, where they were captured."""
        return self.path + "/console.log"

    @property
    def handover(self) -> str:
        """There while a launcher waits for its script to take the run over."""
        return self.path + "/handover.json"

    @property
    def heartbeat(self) -> str:
        """One line that says who writes the run and when it last did."""
        return self.path + "/heartbeat.json"

    def history(self, rank: str | None = None) -> str:
        """Rows of the run's writer, or of the further process ``rank``."""
        middle = f".{rank}" if rank else ""
        return f"{self.path}/metrics_history{middle}.json"

    def ranks(self) -> list[str]:
        """Labels of the further processes that have written rows, sorted."""
        start, end = "metrics_history.", ".json"
        names = (n for n in os.listdir(self.path) if n.startswith(start) and n.endswith(end))
        return sorted(name[len(start) : -len(end)] for name in names if name != start + "json")

    @property
    def backends(self) -> str:
        """Folder of how far each copy elsewhere has come."""
        return self.path + "/backends"

    def backend(self, name: str) -> str:
        """How far the copy ``name`` has come, and who is at it."""
        return f"{self.path}/backends/{name}.json"

    @property
    def amendments(self) -> str:
        """Folder of later corrections, one small file each."""
        return self.path + "/amendments"

    @property
    def artifacts(self) -> str:
        """Folder of the files that were logged."""
        return self.path + "/artifacts"

    @property
    def figures(self) -> str:
        """Folder of figures and images."""
        return self.path + "/figures"

    @property
    def models(self) -> str:
        """Folder of saved weights."""
        return self.path + "/models"

    @property
    def code(self) -> str:
        """Folder of the entry script and local modules."""
        return self.path + "/code"

    @property
    def patch(self) -> str:
        """What was not committed, as git applies it."""
        return self.path + "/code/git.patch"

    @property
    def tensorboard(self) -> str:
        """Folder of TensorBoard's event files, derived from the history."""
        return self.path + "/tensorboard"

    def exists(self) -> bool:
        """Tell whether there is a run: a summary, or rows whose summary is gone.

        A history without rows alone is what a process left that died while opening the run.
        """
        if os.path.lexists(self.summary):
            return True
        try:
            return os.path.getsize(self.history()) > len(b"[\n]\n")
        except OSError:
            return False


def check_format(folder: RunFolder, summary: Mapping[str, Any]) -> None:
    """Refuse a summary that a later version wrote; one without a format is of format 0.

    Raises
    ------
    FormatError
        With the format found and those that this version reads.
    """
    found = summary.get("format", 0)
    if type(found) is not int or not 0 <= found <= FORMAT:
        raise FormatError(
            f"Run {folder.name!r}: summary.json has format {found!r}, this version reads 1 to "
            f"{FORMAT}. Upgrade experiment_tracking."
        )


def check_name(name: object, what: str) -> str:
    r"""Return ``name`` if it may be a folder on every platform, as it is.

    1 to 120 bytes of UTF-8 in normal form C, printable, without ``< > : " / \ | ? *``, not
    starting with ``.``, ``-`` or ``_``, not ending in a dot or space, no Windows device name.

    Raises
    ------
    InvalidNameError
        With the reason and a name that would do. Names are never changed silently.
    """
    if not isinstance(name, str):
        raise InvalidNameError(
            f"{what} must be text, found {name!r:.60} of type {type(name).__name__}. "
            f"Write {suggest_name(str(name))!r}."
        )
    reason = _why_refused(name)
    if reason:
        raise InvalidNameError(f"{what} {name!r:.80} {reason}. Write {suggest_name(name)!r}.")
    return name


def _why_refused(name: str) -> str | None:
    if not name:
        return "is empty"
    if any("\ud800" <= char <= "\udfff" for char in name):
        return "holds half a surrogate pair"
    if len(name.encode()) > _MAX_NAME_BYTES:
        return f"has {len(name.encode())} bytes of UTF-8, allowed are {_MAX_NAME_BYTES}"
    if not name.isprintable():
        return "holds a character that cannot be printed"
    if _FORBIDDEN & set(name):
        return "holds one of the characters " + " ".join(sorted(_FORBIDDEN))
    if _normal_form(name) != name:
        return "is not in Unicode normal form C"
    if name[0] in ".-_":
        return f"starts with {name[0]!r}"
    if name[-1] in ". ":
        return f"ends with {name[-1]!r}"
    if name.split(".")[0].lower().rstrip() in _DEVICES:
        return "is the name of a device on Windows"
    return None


def _normal_form(text: str) -> str:
    if text.isascii():
        return text
    import unicodedata  # a large table that most names do not need

    return unicodedata.normalize("NFC", text)


def suggest_name(name: str) -> str:
    """Give a name near ``name`` that ``check_name`` takes."""
    text = _normal_form(name.encode("utf-8", "ignore").decode())
    text = "".join(c if c.isprintable() and c not in _FORBIDDEN else "-" for c in text)
    while "--" in text:
        text = text.replace("--", "-")
    text = text.strip(" .-_")
    if text.split(".")[0].lower().rstrip() in _DEVICES:
        text = f"run-{text}"
    text = text.encode()[:_MAX_NAME_BYTES].decode(errors="ignore").rstrip(" .-_")
    return text or "run"


def find_root(root: str | os.PathLike[str] | None = None) -> str:
    """Find the folder of projects; it need not exist yet.

    ``root`` if given, else ``$EXPERIMENT_TRACKING_ROOT``, else the nearest ``experiments``
    in this folder or one above, up to the repository's top or home, that holds a run or our
    README, else ``./experiments``. Made absolute here, once: a later ``chdir`` moves nothing.
    """
    if root is not None and not isinstance(root, (str, os.PathLike)):
        raise InvalidTypeError(f"root must be a path, found {root!r:.60}. Write './experiments'.")
    given = os.fspath(root) if root is not None else os.environ.get(ROOT_VARIABLE)
    if given and is_url(given):
        raise InvalidValueError(
            f"A run is written into a folder of this machine, found {given!r}. Write it locally, "
            f"then copy it: experiments sync ./experiments {given}. ExperimentRegistry reads there."
        )
    if given:
        return os.path.abspath(os.path.expanduser(given))
    here = folder = os.getcwd()
    home = os.path.realpath(os.path.expanduser("~"))
    while True:
        candidate = os.path.join(folder, "experiments")
        if is_root(candidate):
            return candidate
        above = os.path.dirname(folder)
        if above == folder or folder == home or os.path.lexists(os.path.join(folder, ".git")):
            return os.path.join(here, "experiments")
        folder = above


def is_url(root: str | os.PathLike[str]) -> bool:
    """Tell whether a root is in an object store (``s3://bucket/team``), and no folder."""
    return "://" in os.fspath(root)


def is_root(path: str) -> bool:
    """Tell whether ``path`` holds a run, or the README that marks a root."""
    try:
        with open(os.path.join(path, "README.md"), encoding="utf-8", errors="replace") as file:
            if README_MARK in file.read(1000):
                return True
    except OSError:
        pass  # No README; a run marks a root just as well.
    return next(iter_runs(path), None) is not None


def existing_root(root: str | os.PathLike[str] | None = None) -> str:
    """Find the root as :func:`find_root` does, and insist that it exists.

    Raises
    ------
    RootNotFoundError
        With where was looked.
    """
    path = find_root(root)
    if not os.path.isdir(path):
        raise RootNotFoundError(
            f"There is no folder of experiments at {path}. Track a run first, pass the folder's "
            f"path, or set {ROOT_VARIABLE}."
        )
    return path


def iter_projects(root: str) -> Iterator[str]:
    """Yield the names of the projects in ``root``; nothing if it cannot be listed."""
    yield from _folders(root)


def iter_runs(root: str, project: str | None = None) -> Iterator[RunFolder]:
    """Yield the run folders of one project or of all, in the order of their names."""
    for name in [project] if project is not None else iter_projects(root):
        above = os.path.join(root, name)
        for run in _folders(above):
            folder = RunFolder(os.path.join(above, run))
            if folder.exists():
                yield folder


def iter_models(root: str) -> Iterator[str]:
    """Yield the folders of the registered models in ``root``, in the order of their names."""
    above = os.path.join(root, MODELS)
    yield from (os.path.join(above, name) for name in _folders(above))


def _folders(path: str) -> list[str]:
    """List the sub-folders that are not ours to skip (``_trash``, ``.tmp``)."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.name[0] not in "._" and _is_folder(e))
    except OSError:
        return []


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link that leads back to itself hides nothing but itself.
        return False


def allocate(root: str, project: str, name: str | None = None) -> RunFolder:
    """Make a new run folder and return it; no two callers ever get the same.

    A taken name gets ``-2``, ``-3``, …: the search starts behind the highest suffix of one
    listing, and an exclusive ``mkdir`` decides, which holds on network file systems too. Without
    a name it is the UTC time and four random characters, ``20261120-121400-k3f9``.
    """
    above = os.path.join(root, check_name(project, "The project name"))
    os.makedirs(above, exist_ok=True)
    if name is None:
        return _first_free(above, _unnamed())
    check_name(name, "The run name")
    return _first_free(above, _numbered(above, name))


def _first_free(above: str, names: Iterator[str]) -> RunFolder:
    for name in names:
        path = os.path.join(above, name)
        try:
            io.mkdir(path)
        except FileExistsError:
            continue
        return RunFolder(path)
    raise AssertionError("the names never end")


def _unnamed() -> Iterator[str]:
    while True:
        start = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        # The system's randomness: a forked child shares the state of random's own generator.
        yield f"{start}-{''.join(_BASE32[byte % 32] for byte in os.urandom(4))}"


def _numbered(above: str, name: str) -> Iterator[str]:
    yield name
    taken = (entry[len(name) + 1 :] for entry in os.listdir(above) if entry.startswith(name + "-"))
    number = max((int(rest) for rest in taken if rest.isascii() and rest.isdigit()), default=1)
    while True:
        number += 1
        yield f"{name}-{number}"
