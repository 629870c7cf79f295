"""Which code ran: the script that was started, and the project it belongs to."""

import os
import sys
from typing import Any, NamedTuple

from experiment_tracking.capture.redaction import to_utf8
from experiment_tracking.folder import io

MAX_SCRIPT_BYTES = 1_000_000

_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_INSTALLED = frozenset(("site-packages", "dist-packages"))


class EntryScript(NamedTuple):
    """The script that was started.

    Attributes
    ----------
    path
        Absolute, as it was named; may be a link.
    module
        The module in ``python -m module``; None for a script named by its path.
    relative_name
        Its name inside ``code/``: as in its project, with ``/``; alone, the bare name.
    note
        Why its text is left out; None where it may be kept.
    """

    path: str
    module: str | None
    relative_name: str
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the facts as plain values for JSON."""
        return {**self._asdict(), "path": to_utf8(self.path)}


def entry_script() -> EntryScript | None:
    """Find the script that was started, or None where no file of the user's was.

    There is none for ``python -c``, standard input, notebooks, pytest and installed commands.
    A script that must not be kept (over 1 MB, a name like ``.env``, unreadable) has a note.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if not isinstance(file, str):
        return None
    try:
        path = os.path.abspath(file)
        if not os.path.isfile(path) or _is_installed(path):
            return None
        return EntryScript(path, _module_of(main), _name_in_project(path), _why_left_out(path))
    except (OSError, ValueError):  # The working directory is gone, or a NUL stands in the name.
        return None


def read_entry_script(script: EntryScript) -> bytes:
    """Read the script's text as it is now, through a link if it is one.

    Raises
    ------
    OSError
        If it cannot be read any more.
    DamagedError
        If it has become something else than a regular file of at most 1 MB.
    """
    return io.read(os.path.realpath(script.path), MAX_SCRIPT_BYTES)


def find_project_root(folder: str) -> str | None:
    """Find the top of the project around ``folder``.

    The nearest folder above with ``.git`` (in worktrees and submodules that is a file), else
    the nearest with a ``pyproject.toml``, ``setup.py`` or ``setup.cfg``, else None.
    """
    project = None
    folder, above = os.path.abspath(folder), ""
    while folder != above:
        if os.path.lexists(os.path.join(folder, ".git")):
            return folder
        if project is None and any(
            os.path.isfile(os.path.join(folder, name)) for name in _PROJECT_FILES
        ):
            project = folder
        folder, above = os.path.dirname(folder), folder
    return project


def name_inside(path: str, folder: str) -> str | None:
    """Name ``path`` relative to ``folder``, with ``/``; ``.`` for itself, None outside."""
    if path == folder:
        return "."
    prefix = folder.rstrip(os.sep) + os.sep
    if not path.startswith(prefix):
        return None
    return to_utf8(path[len(prefix) :].replace(os.sep, "/"))


def _is_installed(path: str) -> bool:
    return _is_installed_at(path) or _is_installed_at(os.path.realpath(path))


def _is_installed_at(path: str) -> bool:
    folder = os.path.dirname(path)
    library = os.path.dirname(os.__file__)
    return (
        not _INSTALLED.isdisjoint(path.split(os.sep))
        or folder in _folders_of_commands()
        or path.startswith(library + os.sep)
    )


def _folders_of_commands() -> set[str]:
    prefixes = (sys.prefix, sys.base_prefix, os.path.expanduser("~/.local"))
    return {os.path.dirname(sys.executable), *(os.path.join(p, "bin") for p in prefixes)}


def _module_of(main: object) -> str | None:
    name = getattr(getattr(main, "__spec__", None), "name", None)
    # A folder or archive started by its path is called plain `__main__`.
    return name.removesuffix(".__main__") if name and name != "__main__" else None


def _name_in_project(path: str) -> str:
    folder, name = os.path.split(path)
    root = find_project_root(folder)
    return (root and name_inside(path, root)) or to_utf8(name)


def _why_left_out(path: str) -> str | None:
    size = os.stat(path).st_size
    if size > MAX_SCRIPT_BYTES:
        return f"left out: {size:,} bytes, more than the {MAX_SCRIPT_BYTES:,} allowed"
    if any(os.path.basename(p).startswith(".env") for p in (path, os.path.realpath(path))):
        return "left out: files of that name hold credentials"
    if not os.access(path, os.R_OK):
        return "left out: no permission to read it"
    return None
