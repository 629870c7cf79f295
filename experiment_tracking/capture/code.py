"""Which code ran: the script, the project's own modules, and what may be kept of them."""

import os
import stat
import sys
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

from experiment_tracking.capture.redaction import is_secret_name, redact_source, to_utf8
from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io

MAX_SCRIPT_BYTES = 1_000_000

# A uv.lock with torch in it has 1 to 3 MB: hashes of every wheel.
MAX_LOCK_BYTES = 10_000_000
# Notebooks are read in full, but only their cells' sources are kept.
MAX_NOTEBOOK_BYTES = 20_000_000

_PROGRAMS = frozenset(
    ".py .pyi .pyw .pyx .pxd .pxi .ipy .ipynb .c .cc .cpp .cxx .cu .cuh .h .hh .hpp .hxx .cl .f "
    ".for .f90 .f95 .f03 .f08 .jl .r .rmd .qmd .m .mm .metal .glsl .wgsl .ptx .mojo .stan .sh "
    ".bash .zsh .fish .csh .ps1 .bat .cmd .slurm .sbatch .pbs .lsf .lua .rs .go .java .kt .scala "
    ".js .mjs .jsx .ts .tsx .pl .rb .swift .cs .hs .ml .nim .zig .sql .awk .tcl .proto .thrift "
    ".fbs .cmake .mk .nf .smk .cwl .wdl .gin .jsonnet .libsonnet .nix .hcl .j2 .jinja".split()
)
_CONFIGURATION = frozenset(
    ".yaml .yml .toml .json .json5 .jsonc .cfg .conf .config .ini .properties .env .txt .md .rst "
    ".xml .urdf .in .lock .nml .args".split()
)
_CODE_NAMES = frozenset(
    "makefile gnumakefile dockerfile containerfile snakefile justfile pipfile license readme "
    ".python-version .tool-versions .gitignore .gitattributes .gitmodules .dockerignore "
    ".editorconfig .condarc .dvcignore".split()
)
# Files that tools keep credentials in, in any case of letters.
_FORBIDDEN_FOLDERS = frozenset((
    ".ssh", ".aws", ".gnupg", ".git", ".kube", ".docker", ".azure", ".gcloud",
))  # fmt: skip
_FORBIDDEN_NAMES = frozenset((
    ".netrc", "_netrc", ".npmrc", ".yarnrc", ".yarnrc.yml", ".pypirc", ".git-credentials",
    "kubeconfig", ".htpasswd", ".pgpass", ".my.cnf", ".s3cfg", ".boto", ".dockercfg",
    ".databrickscfg", ".vault-token", ".terraformrc", ".passwd-s3fs", "kaggle.json",
    "pip.conf", "pip.ini", "secret", "secrets", "cookies.txt",
))  # fmt: skip
_FORBIDDEN_STARTS = (
    ".env", "id_rsa", "id_ed25519", "id_ecdsa", "id_dsa", "credential", ".credential", "secret.",
    "secrets.", ".secret", "service_account", "service-account", "serviceaccount",
    "client_secret",
)  # fmt: skip
_FORBIDDEN_ENDS = (
    ".env", ".pem", ".key", ".p8", ".p12", ".pfx", ".jks", ".keystore", ".kdb", ".kdbx", ".ppk",
    ".ovpn", ".secret", ".secrets", ".credentials", ".token", ".tfvars", ".tfstate", ".gpg",
)  # fmt: skip

_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_LOCK_FILES = frozenset((
    *_PROJECT_FILES, "uv.lock", "pylock.toml", "poetry.lock", "pdm.lock", "Pipfile",
    "Pipfile.lock", "pixi.toml", "pixi.lock", "conda-lock.yml", ".python-version",
))  # fmt: skip
_ENDINGS_OF_LOCK_FILES = {
    "requirements": (".txt", ".in"),
    "constraints": (".txt",),
    "environment": (".yml", ".yaml"),
    "pylock.": (".toml",),
}
_SETTINGS = (".yaml", ".yml", ".toml", ".json", ".ini", ".cfg")
_CONFIGURATION_FOLDERS = ("conf", "config", "configs")
_MAX_SETTINGS = 50
_MAX_SETTINGS_BYTES = 100_000
_INSTALLED = frozenset(("site-packages", "dist-packages"))
_INSTALLED_HERE = tuple(
    os.path.join(os.path.dirname(file), "") for file in (os.__file__, os.path.dirname(__file__))
)
"""The standard library and this package."""
# Built, or inside an archive: there is no text to keep.
_NOT_SOURCE = (".so", ".pyd", ".dll", ".dylib", ".pyc")
_MARKS_OF_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")


class LeftOut(NamedTuple):
    """A file of the code that is not kept, and why."""

    path: str
    reason: str


def is_code(name: str) -> bool:
    """Tell by a file's name whether it is source or configuration, to be kept with a run.

    Names such as ``.env`` count, so that they can be listed as left out: ask
    :func:`why_left_out` before a file is read.
    """
    name = os.path.basename(name).lower()
    suffix = os.path.splitext(name)[1]
    return (
        suffix in _PROGRAMS
        or suffix in _CONFIGURATION
        or name in _CODE_NAMES
        or name.startswith((".env", "dockerfile.", "makefile."))
    )


def is_program(name: str) -> bool:
    """Tell by a file's name whether it is source, not configuration or text."""
    return os.path.splitext(name)[1].lower() in _PROGRAMS


def why_forbidden(path: str) -> str | None:
    """Say why a file of that name is never kept, or None; the file itself is not looked at."""
    *folders, name = path.lower().replace(os.sep, "/").split("/")
    if not _FORBIDDEN_FOLDERS.isdisjoint(folders):
        return "files in such a folder are not code, and may hold credentials"
    if _names_credentials(name):
        return "files of that name hold credentials"
    return None


def why_left_out(path: str) -> str | None:
    """Say why the file may not be kept with a run, or None where it may.

    Forbidden are names that tell of credentials (a link's target's counts too), links that
    lead out of the project, all but regular files, more than 1 MB (a lock file may have 10, a
    notebook 20, outputs included), and what cannot be read.
    """
    try:
        real = os.path.realpath(path)
        reason = why_forbidden(path) or why_forbidden(real)
        return reason or _why_not_readable(real) or _why_foreign(path, real)
    except (OSError, ValueError) as error:  # ValueError: a NUL stands in the name.
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"


class EntryScript(NamedTuple):
    """The script that was started.

    Attributes
    ----------
    path
        Absolute, as it was named; may be a link inside its project. Of a link that leads into
        another folder of code it is the target, beside which Python looks for modules.
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

    There is none for ``python -c``, standard input, archives, notebooks, pytest and installed
    commands. Under ``python -m cProfile train.py`` and its like it is ``train.py``.
    A script that cannot be kept (over 1 MB, a name like ``.env``, unreadable, deleted since it
    was started) has a note.
    """
    main = sys.modules.get("__main__")
    # Python deletes `__file__` when the script has come to its end; exit hooks still ask.
    loader = getattr(main, "__loader__", None)
    file = getattr(main, "__file__", None) or getattr(loader, "path", None)
    if not isinstance(file, str) or hasattr(loader, "archive"):
        return None
    try:
        path, module = os.path.abspath(file), _module_of(main)
        if _is_installed(path) and sys.argv[0].endswith(".py"):
            path, module = os.path.abspath(sys.argv[0]), None
        if _is_installed(path):
            return None
        path = _where_it_belongs(path)
        note = why_left_out(path)
        if not os.path.lexists(path) and path.endswith((".py", ".pyw")):
            note = "deleted since it was started"
        elif not os.path.isfile(path):
            return None
        return EntryScript(path, module, _name_in_project(path), note)
    except (OSError, ValueError, IndexError):
        # The working directory is gone, a NUL stands in the name, or argv was emptied.
        return None


def local_modules(root: str, known: Container[str] = ()) -> list[str]:
    """List the files of the project's own modules that this process has imported by now.

    Modules of the standard library, installed ones (also in an environment inside the
    project), extension modules, and this package are not among them. About a microsecond
    a module; only those that may be the project's are looked at on disk.

    Parameters
    ----------
    root
        Top of the project.
    known
        Paths that need not be listed again.

    Returns
    -------
    list of str
        Absolute paths in order of their names, their folders without links.
    """
    root = os.path.realpath(root)
    folders: dict[str, str | None] = {}
    found = set()
    for file in _module_files():
        folder, name = os.path.split(file)
        if folder not in folders:
            folders[folder] = _own_folder(folder, root)
        own = folders[folder]
        if own is not None:
            found.add(os.path.join(own, name))
    return sorted(path for path in found if path not in known and os.path.isfile(path))


def foreign_modules(root: str) -> list[str]:
    """List imported code that is neither the project's nor installed, and is thus not kept.

    Such as a folder beside the project that is on ``PYTHONPATH``, or another repository that
    is installed as editable. Costs as :func:`local_modules`.

    Parameters
    ----------
    root
        Top of the project.

    Returns
    -------
    list of str
        Absolute paths in order, as text for JSON: of modules, and of whole packages.
    """
    root = os.path.realpath(root)
    places: dict[str, str | None] = {}
    found = set()
    for file in _module_files():
        folder = os.path.dirname(file)
        if folder not in places:
            places[folder] = _foreign_place(folder, root)
        place = places[folder]
        if place is not None:
            found.add(to_utf8(place or _with_real_folder(file)))
    return sorted(found)


def imported_files(script: str, root: str) -> list[str]:
    """List the project's own files that a script imports, directly or through others.

    For a script that another process runs: the import statements are read, not executed.
    Modules are looked for beside the script, above the package it is in, in the project's
    top and in its ``src``. A file that Python cannot parse counts, but not what it imports.

    Parameters
    ----------
    script
        Path of the script; one that does not end in ``.py`` imports nothing.
    root
        Top of the project.

    Returns
    -------
    list of str
        Absolute paths in order of their names, their folders without links, without the
        script itself.
    """
    if not script.endswith(".py"):
        return []
    root, script = os.path.realpath(root), _with_real_folder(script)
    folder = os.path.dirname(script)
    places = [folder, _above_package(folder), root, os.path.join(root, "src")]
    found, unread = {script}, [script]
    while unread:
        for file in map(_with_real_folder, _imports(unread.pop(), places)):
            if file not in found and _own_folder(os.path.dirname(file), root):
                found.add(file)
                unread.append(file)
    return sorted(found - {script})


def read_code(path: str) -> tuple[bytes, bool]:
    """Read a file as it is kept: through a link, secrets hidden, notebooks without outputs.

    Returns
    -------
    bytes
        What to keep; the file's own bytes where nothing was hidden.
    bool
        Whether ``***`` stands where a secret stood.

    Raises
    ------
    OSError
        If it cannot be read any more.
    DamagedError
        If it has become something else than a regular file of at most 1 MB (a lock file: 10 MB; a
        notebook: 20 MB, 1 MB without outputs).
    """
    suffix = os.path.splitext(path)[1].lower()
    data = io.read(os.path.realpath(path), _allowed_bytes(path))
    if suffix != ".ipynb":
        return _redact(data, suffix)
    from experiment_tracking.capture.notebook import without_outputs

    try:
        data, hidden = without_outputs(data)
    except ValueError:  # No notebook, whatever its name: a text like others.
        data, hidden = _redact(data, ".json")
    if len(data) > MAX_SCRIPT_BYTES:
        raise DamagedError(f"{path} is over {MAX_SCRIPT_BYTES:,} bytes even without outputs.")
    return data, hidden


def lock_files(root: str, folder: str | None = None) -> list[str]:
    """List the files of a project that say what it needs to be installed.

    Lock files, requirements, conda's environments, and the project's metadata, at its top and,
    for one of several projects in a repository, in every folder down to the script's.

    Parameters
    ----------
    root
        Top of the project.
    folder
        Of the script; by default the top. One outside of the project adds nothing.

    Returns
    -------
    list of str
        Absolute paths below ``root`` in order; none of folders that cannot be read.
    """
    inside = os.path.relpath(os.path.realpath(folder or root), os.path.realpath(root))
    parts = [] if inside.startswith((os.pardir, os.curdir)) else inside.split(os.sep)
    folders = [os.path.join(root, *parts[:depth]) for depth in range(len(parts) + 1)]
    return sorted(path for each in folders for path in _lock_files_in(each))


def configuration_beside(folder: str) -> list[str]:
    """List the configuration files in a script's folder, and in those it calls so.

    For scripts outside of git, where nothing else tells what belongs to the code. At most 50
    files of at most 100 kB; none of a home folder or a disk's top, which hold all kinds of things.
    """
    if folder in (os.path.expanduser("~"), os.path.dirname(folder)):
        return []
    places = [folder, *(os.path.join(folder, name) for name in _CONFIGURATION_FOLDERS)]
    found = [os.path.join(place, name) for place in places for name in sorted(_names_in(place))]
    named = [path for path in found if path.lower().endswith(_SETTINGS)]
    return [path for path in named if _is_small_file(path)][:_MAX_SETTINGS]


def _is_small_file(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) <= _MAX_SETTINGS_BYTES


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


def _lock_files_in(folder: str) -> list[str]:
    inner = os.path.join(folder, "requirements")
    found = [os.path.join(folder, name) for name in _names_in(folder) if _tells_requirements(name)]
    found += [os.path.join(inner, name) for name in _names_in(inner) if name.endswith(".txt")]
    return [path for path in found if os.path.isfile(path)]


def _is_installed(path: str) -> bool:
    return _is_installed_at(path) or _is_installed_at(os.path.realpath(path))


def _is_installed_at(path: str) -> bool:
    folder = os.path.dirname(path)
    return (
        not _INSTALLED.isdisjoint(path.split(os.sep))
        or folder in _folders_of_commands()
        or path.startswith(_INSTALLED_HERE)
    )


def _folders_of_commands() -> set[str]:
    prefixes = (sys.prefix, sys.base_prefix, os.path.expanduser("~/.local"))
    return {os.path.dirname(sys.executable), *(os.path.join(p, "bin") for p in prefixes)}


def _module_of(main: object) -> str | None:
    name = getattr(getattr(main, "__spec__", None), "name", None)
    # A folder or archive started by its path is called plain `__main__`.
    return name.removesuffix(".__main__") if name and name != "__main__" else None


def _where_it_belongs(path: str) -> str:
    """Follow a link into another project (``~/bin/tr.py``), for Python imports from there."""
    if not os.path.islink(path):
        return path
    real = os.path.realpath(path)
    here, there = (find_project_root(os.path.dirname(each)) for each in (path, real))
    same = here is not None and there is not None and os.path.realpath(here) == there
    return path if same else real


def _name_in_project(path: str) -> str:
    folder, name = os.path.split(path)
    root = find_project_root(folder)
    return (root and name_inside(path, root)) or to_utf8(name)


def _module_files() -> Iterator[str]:
    """Give the files of imported modules that may be the project's own, in no order."""
    # In one step: another thread may be importing.
    for module in sys.modules.copy().values():
        try:
            # Asking a lazy module for an attribute would import it.
            file = object.__getattribute__(module, "__dict__").get("__file__")
        except AttributeError:  # Anything may stand in for a module, also None.
            continue
        if (
            isinstance(file, str)
            and "site-packages" not in file
            and not file.startswith(_INSTALLED_HERE)
            and not file.endswith(_NOT_SOURCE)
            # torch.ops calls itself "_ops.py", which is in no folder at all.
            and os.path.isabs(file)
        ):
            yield file


def _own_folder(folder: str, root: str) -> str | None:
    """Resolve a folder of the project's own code; None for any other."""
    try:
        folder = above = os.path.realpath(folder)
    except ValueError:  # A NUL stands in the name.
        return None
    if name_inside(folder, root) is None or _is_installed_at(os.path.join(folder, "")):
        return None
    while above != root:
        if any(os.path.exists(os.path.join(above, name)) for name in _MARKS_OF_ENVIRONMENTS):
            return None
        above = os.path.dirname(above)
    return folder


def _foreign_place(folder: str, root: str) -> str | None:
    """Give the package that a folder outside of the project belongs to; empty where to none."""
    own = _own_folder(folder, os.sep)
    if own is None or name_inside(own, root) is not None:
        return None
    above = _above_package(own)
    package = os.path.relpath(own, above).partition(os.sep)[0]
    return os.path.join(above, package) if above != own else ""


def _with_real_folder(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _above_package(folder: str) -> str:
    above = os.path.dirname(folder)
    while folder != above and os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, above = above, os.path.dirname(above)
    return folder


def _imports(path: str, places: list[str]) -> list[str]:
    """Find the files that the import statements of a file read, packages' included."""
    import ast
    import warnings

    try:
        with warnings.catch_warnings(action="ignore"):  # The script's process tells them.
            tree = ast.parse(io.read(os.path.realpath(path), MAX_SCRIPT_BYTES))
    except (OSError, DamagedError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found += _find(alias.name.split("."), places)
        elif isinstance(node, ast.ImportFrom):
            start, folders = node.module.split(".") if node.module else [], places
            if node.level:
                package = os.path.normpath(os.path.join(path, *[".."] * node.level))
                folders = [_above_package(package)]
                start = [*package[len(folders[0]) :].split(os.sep)[1:], *start]
            # Whether `b` in `from a import b` is a module shows when it is looked for.
            for alias in node.names:
                found += _find([*start, alias.name], folders)
    return found


def _find(parts: list[str], places: list[str]) -> list[str]:
    """Find the files of a module and the packages above it, in the first place that has any."""
    for folder in places:
        files = []
        for part in parts:
            folder = os.path.join(folder, part)
            files += [f for f in (f"{folder}/__init__.py", f"{folder}.py") if os.path.isfile(f)][:1]
        if files:
            return files
    return []


def _redact(data: bytes, suffix: str) -> tuple[bytes, bool]:
    try:
        encoding, text = "utf-8", data.decode()
    except UnicodeDecodeError:  # In Latin-1 every byte is a character and comes back as it was.
        encoding, text = "latin-1", data.decode("latin-1")
    redacted = redact_source(text, suffix)
    return (data, False) if redacted == text else (redacted.encode(encoding), True)


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # Most projects have no folder `requirements`.
        return []


def _tells_requirements(name: str) -> bool:
    return name in _LOCK_FILES or any(
        name.startswith(start) and name.endswith(ends)
        for start, ends in _ENDINGS_OF_LOCK_FILES.items()
    )


def _allowed_bytes(path: str) -> int:
    if path.lower().endswith(".ipynb"):
        return MAX_NOTEBOOK_BYTES
    return MAX_LOCK_BYTES if _tells_requirements(os.path.basename(path)) else MAX_SCRIPT_BYTES


def _names_credentials(name: str) -> bool:
    if name in _FORBIDDEN_NAMES or name.startswith(_FORBIDDEN_STARTS):
        return True
    if name.endswith(_FORBIDDEN_ENDS):
        return True
    stem, suffix = os.path.splitext(name)
    # `hf_token.txt` holds one; `secret_santa.py` is a program.
    return suffix in _CONFIGURATION and is_secret_name(stem)


def _why_not_readable(path: str) -> str | None:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    allowed = _allowed_bytes(path)
    if found.st_size > allowed:
        return f"{found.st_size:,} bytes, more than the {allowed:,} allowed"
    return None if os.access(path, os.R_OK) else "no permission to read it"


def _why_foreign(path: str, real: str) -> str | None:
    """Say that a link leads out of its project; alone, a file may be a link to anywhere."""
    if not os.path.islink(path):
        return None
    root = find_project_root(os.path.dirname(path))
    if root is None or name_inside(real, os.path.realpath(root)):
        return None
    return "a link that leads out of the project"
