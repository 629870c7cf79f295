"""The tree of files that a run was started from, put together in another folder.

The commit, then what was not committed, then the files the run kept: each step writes over the
one before, so the copies that were read while the run ran have the last word.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiment_tracking.capture.code import name_inside
from experiment_tracking.errors import DamagedError, InvalidValueError, ReproductionError
from experiment_tracking.folder import io
from experiment_tracking.registry.record import RunRecord

_OBJECT_FORMATS = {40: "sha1", 64: "sha256"}
_NO_PARTS = ("", ".", "..", ".git")
_NO_CHARACTERS = {"\0", "\\", ":"} if os.name == "nt" else {"\0"}
_MAX_KEPT_BYTES = 2**28
_MOST_NAMES = 10
_OUTSIDE_GIT = "not in a git repository"
"""As the capture notes it."""
_USED_ORIGINS = ("script", "module", "changed")
"""Origins of kept files that the run is known to have used, or git to have had."""
_OF_A_REPOSITORY = frozenset((
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX",
))  # fmt: skip


class Checkout(NamedTuple):
    """A tree in which a run can be run again.

    Attributes
    ----------
    folder
        Top of the tree, absolute.
    project
        Folder that it stands for: the project's top when the run was made.
    cwd
        Working folder to start the command in: inside the tree, unless the run worked outside
        its project.
    script
        The entry script in the tree; None where there was none or it is missing.
    linked
        Data that is linked from the project, by its name there. What a rerun writes to these
        names is written to the original.
    warnings
        What is not as it was, a sentence each.
    repository
        Where the commit was found; None where the run was made outside git.
    """

    folder: str
    project: str
    cwd: str
    script: str | None
    linked: list[str]
    warnings: list[str]
    repository: str | None = None


def checkout(record: RunRecord, into: str, link: Sequence[str] = ()) -> Checkout:
    """Put the code of a run together in ``into``, which must be empty or not exist yet.

    Nothing is written to the user's repository, and nothing is fetched from a network. The tree
    has a repository of its own that borrows the objects of the user's, so it is for now, not
    for keeping.

    Parameters
    ----------
    record
        A run that was captured: ``environment.json`` and ``code/``.
    into
        Folder for the tree.
    link
        Files and folders of the project to link besides the run's inputs, by their names in it.

    Raises
    ------
    ReproductionError
        If the commit is in no repository here, git is missing or refuses, the patch does not
        apply, or the run kept no code.
    InvalidValueError
        If ``into`` is not empty, or a name in ``link`` is not in the project.
    DamagedError
        If a kept file is not the one that was written, or would lie outside of the tree.
    """
    environment = record.environment
    project = _project(environment)
    tree = _empty_folder(into)
    warnings = list(_left_out(record))
    repository = _check_out(record, environment.get("git") or {}, tree)
    warnings += _copy_code(record, tree)
    linked = [_link_asked(name, project, tree) for name in link]
    for name, trouble in _link_inputs(record, project, tree):
        warnings += trouble
        linked += [name] if name and name not in linked else []
    script, missing = _script(environment, tree)
    cwd, moved = _working_folder(environment, project, tree)
    return Checkout(tree, project, cwd, script, linked, warnings + missing + moved, repository)


def _project(environment: Mapping[str, Any]) -> str:
    """Name the folder that the tree stands for."""
    git, script = environment.get("git") or {}, environment.get("entry_script") or {}
    top = environment.get("project") or git.get("top")
    if top:
        return str(top)
    if path := script.get("path"):  # A script without a project is kept under its bare name.
        return str(path).removesuffix("/" + str(script.get("relative_name")))
    return str(environment.get("cwd") or os.sep)


def _empty_folder(path: str) -> str:
    os.makedirs(path, exist_ok=True)
    if found := os.listdir(path):
        raise InvalidValueError(
            f"checkout needs an empty folder, found {counted(len(found), 'file')} in {path} "
            f"({found[0]!r} for one). Name a folder that does not exist yet."
        )
    return os.path.realpath(path)


# ---------------------------------------------------------------------- what git keeps


def _check_out(record: RunRecord, git: Mapping[str, Any], tree: str) -> str | None:
    """Check commit and patch out; return the repository that had them."""
    commit, repository = git.get("commit"), None
    patched = os.path.lexists(record.folder.patch)
    if commit is not None:
        repository = _repository_with(record, commit, "", tree)
        _borrow(repository, commit, tree)
        # A submodule inside another one comes after it.
        for name, inner in sorted((git.get("submodules") or {}).items()):
            _borrow(_repository_with(record, inner, name, tree), inner, place_below(tree, name))
    elif patched:  # Before the first commit everything is a change.
        _git(tree, "init", "--quiet", "--template=")
    if patched and (patch := io.read(record.folder.patch, _MAX_KEPT_BYTES)):
        _git(tree, "apply", "--binary", "--whitespace=nowarn", "-", data=patch)
    return repository


def _repository_with(record: RunRecord, commit: str, name: str, tree: str) -> str:
    """Find a repository that holds ``commit``; ``name`` is that of a submodule, or empty."""
    if len(str(commit)) not in _OBJECT_FORMATS or set(str(commit)) - set("0123456789abcdef"):
        raise DamagedError(f"Run {record.key}: environment.json has {commit!r:.80} as a commit.")
    git = record.environment.get("git") or {}
    tops = [top for top in (git.get("top"), os.getcwd()) if isinstance(top, str)]
    refusals = []
    for folder in dict.fromkeys(os.path.join(top, name) if name else top for top in tops):
        try:
            _git(folder, "cat-file", "-e", f"{commit}^{{commit}}")
            return folder
        except ReproductionError as error:
            refusals.append(f"\n  {error}")
    what = f"submodule {name!r} at commit {commit}" if name else f"commit {commit}"
    raise ReproductionError(
        f"Run {record.key} was made from {what}, which no repository here holds:"
        f"{''.join(refusals)}\n{_way_out(git)}"
    )


def _way_out(git: Mapping[str, Any]) -> str:
    remotes = git.get("remotes") or {}
    url = remotes.get("origin") or next(iter(remotes.values()), None)
    if url is None:
        return "Go into a clone that holds it and try again."
    # The user's own name and token were hidden, and git asks for them.
    return f"Get it with 'git clone {url.replace('***@', '')}', go into the clone and try again."


def _borrow(repository: str, commit: str, tree: str) -> None:
    """Check a commit out of the objects of another repository.

    As ``git clone --shared`` does, but for any commit that is there: also one that no branch
    leads to any more, and of a shallow clone, where git would copy and leave such commits out.
    """
    objects = _git_path(repository, "objects")
    os.makedirs(tree, exist_ok=True)
    _git(tree, "init", "--quiet", "--template=", f"--object-format={_OBJECT_FORMATS[len(commit)]}")
    own = os.path.join(tree, ".git")
    with open(os.path.join(own, "objects", "info", "alternates"), "wb") as file:
        file.write(os.fsencode(objects) + b"\n")
    shallow = _git_path(repository, "shallow")
    if os.path.isfile(shallow):  # Without it git takes the cut parents for damage.
        with open(os.path.join(own, "shallow"), "wb") as file:
            file.write(io.read(shallow, _MAX_KEPT_BYTES))
    # As a clone has it; git-lfs takes its files from there. And whoever captures the rerun asks
    # git for the submodules.
    _git(tree, "config", "remote.origin.url", repository)
    _git(tree, "config", "submodule.active", ".")
    _git(tree, "checkout", "--quiet", "--force", "--detach", commit)


def _git_path(repository: str, name: str) -> str:
    """Where ``name`` is among the files that all worktrees of a repository share."""
    path = _git(repository, "rev-parse", "--git-path", name)
    return os.path.realpath(os.path.join(repository, path))


def _git(folder: str, *arguments: str, data: bytes = b"") -> str:
    """Run git in ``folder`` and return what it printed."""
    # Plain processes: GitPython would start the very same ones, and it hands on the GIT_DIR of
    # a hook around us, which would turn all of this upon the wrong repository.
    command = ("git", "-c", f"core.hooksPath={os.devnull}", *arguments)
    environment = {k: v for k, v in os.environ.items() if k not in _OF_A_REPOSITORY}
    # A partial clone would fetch what it lacks; a commit that is not here is an answer, too.
    environment |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "file"}
    if not os.path.isdir(folder):
        raise ReproductionError(f"{folder} is not there.")
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, input=data, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise ReproductionError("git is not installed, or not on PATH. Install it.") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise ReproductionError(f"git {arguments[0]} failed in {folder}: {said[-2000:]}")
    return os.fsdecode(done.stdout).removesuffix("\n")


# ---------------------------------------------------------------------- what the run keeps


def _copy_code(record: RunRecord, tree: str) -> list[str]:
    """Write the kept files where the tree lacks them or has others; say which hold ``***``."""
    environment = record.environment
    files = (environment.get("code") or {}).get("files") or []
    # A program that is installed, or `sh -c`, has no code of the project's.
    needs_code = environment.get("entry_script") or not environment.get("command")
    if needs_code and not files and not os.listdir(tree):
        raise ReproductionError(
            f"Run {record.key} kept no code ({_reason(record)}). Only runs that were tracked with "
            "auto_log=True can be run again."
        )
    starred = []
    for entry in files:
        target = place_below(tree, entry.get("path"))
        data = _read_kept(record, entry)
        if _is_same_code(target, data):
            continue
        _write(target, data)
        is_used = entry.get("origin") in _USED_ORIGINS
        starred += [entry["path"]] if entry.get("redacted") and is_used else []
    return _sentence("holds|hold *** where the run hid what looked like a secret", starred)


def _read_kept(record: RunRecord, entry: Mapping[str, Any]) -> bytes:
    path = place_below(record.folder.code, entry.get("path"))
    data = io.read(path, _MAX_KEPT_BYTES)
    if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise DamagedError(
            f"Run {record.key}: code/{entry['path']} does not have the SHA-256 that "
            "environment.json gives. Restore both from the same copy of the run."
        )
    return data


def _is_same_code(path: str, kept: bytes) -> bool:
    """Tell whether the file in the tree is what was kept, or would be kept in that form.

    The committed file is better than its copy where only hidden secrets or a notebook's
    outputs make the difference.
    """
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        if file.read() == kept:
            return True
    from experiment_tracking.capture.code import read_code

    try:
        return bool(read_code(path)[0] == kept)
    except (OSError, DamagedError):  # Larger than what is kept, so another file.
        return False


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(path):
        os.unlink(path)
    with open(path, "wb") as file:  # In the place of a committed file it keeps its mode.
        file.write(data)


def place_below(top: str, name: object) -> str:
    """Return where ``name`` is below ``top``; a foreign run must not lead out of it."""
    parts = name.split("/") if isinstance(name, str) else []
    path = os.path.join(top, *parts)
    real_top, above = os.path.realpath(top), os.path.realpath(os.path.dirname(path))
    plain = not any(p.lower() in _NO_PARTS or _NO_CHARACTERS & set(p) for p in parts)
    inside = above == real_top or above.startswith(real_top + os.sep)
    if not parts or not plain or not inside:
        raise DamagedError(
            f"{name!r:.200} does not name a file below {top}. The run was changed by hand, or "
            "comes from somebody who means no good."
        )
    return path


def _left_out(record: RunRecord) -> Iterator[str]:
    environment = record.environment
    git = environment.get("git") or {}
    left_out = (environment.get("code") or {}).get("left_out") or []
    yield from _sentence(
        "was|were not kept by the run", [f"{e.get('path')} ({e.get('reason')})" for e in left_out]
    )
    if git.get("note") == _OUTSIDE_GIT:
        yield "The run was made outside git: only the files that it kept are run."
    elif git.get("note"):
        yield f"When the run was made, git said: {git['note']}"
    if git.get("dirty") and not os.path.lexists(record.folder.patch):
        yield "The tree had changes that were not committed, and the run has no git.patch."


def _reason(record: RunRecord) -> str:
    git = record.environment.get("git") or {}
    notes = [git.get("note"), *(record.environment.get("notes") or [])]
    return "; ".join(str(note) for note in notes if note) or "environment.json lists none"


def _sentence(what: str, names: Sequence[str]) -> list[str]:
    """Say one thing, ``is|are so``, of many files: the first by name, the others by number."""
    if not names:
        return []
    verb, _, rest = what.partition(" ")
    one, _, many = verb.partition("|")
    what = f"{one if len(names) == 1 else many} {rest}"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return [f"{counted(len(names), 'file')} {what}: {', '.join(names[:_MOST_NAMES])}{more}."]


def counted(number: int, what: str) -> str:
    """Write a number of things.

    >>> counted(1, "file"), counted(1200, "file")
    ('1 file', '1,200 files')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# ---------------------------------------------------------------------- data


def _link_asked(name: str, project: str, tree: str) -> str:
    inside = name_inside(os.path.normpath(os.path.join(project, name)), project)
    if inside in (None, ".") or not os.path.exists(os.path.join(project, str(inside))):
        raise InvalidValueError(
            f"Cannot link {name!r}: there is no such file or folder inside the project {project}. "
            "Name it as it is called there."
        )
    _link(str(inside), project, tree)
    return str(inside)


def _link_inputs(
    record: RunRecord, project: str, tree: str
) -> Iterator[tuple[str | None, list[str]]]:
    """Link the inputs that were in the project, and name each with what is to be said of it."""
    for entry in record.inputs:
        path = entry.get("path")
        if entry.get("kind") not in ("file", "folder") or not isinstance(path, str):
            continue
        path = os.path.normpath(path)
        name = name_inside(path, project)
        name = name or name_inside(os.path.realpath(path), os.path.realpath(project))
        if name in (None, "."):  # What is outside is found where it was.
            yield None, _not_as_it_was(entry, path)
            continue
        is_linked = os.path.exists(path) and _link(str(name), project, tree)
        # What is committed is used as it is in the tree, whatever became of it since.
        used = os.path.join(tree, str(name))
        yield name if is_linked else None, _not_as_it_was(entry, os.path.realpath(used), path)


def _not_as_it_was(entry: Mapping[str, Any], used: str, path: str = "") -> list[str]:
    """Tell if the data that will be used is missing or changed; ``path`` is where it was."""
    if not os.path.exists(used):
        return [f"Input {entry.get('name')!r} is not at {path or used} any more."]
    return _has_changed(entry, used)


def _has_changed(entry: Mapping[str, Any], path: str) -> list[str]:
    # By the size alone: the new run records the hash, and the verification compares it.
    size = entry.get("size_bytes")
    if entry["kind"] != "file" or size in (None, os.path.getsize(path)):
        return []
    return [
        f"Input {entry.get('name')!r} has changed: {path} has {os.path.getsize(path):,} bytes, "
        f"it had {size:,}."
    ]


def _link(name: str, project: str, tree: str) -> bool:
    """Link a file or folder of the project into the tree, unless it is there; tell whether."""
    source, target = project, tree
    *above, last = name.split("/")
    for part in above:
        source, target = os.path.join(source, part), os.path.join(target, part)
        if os.path.islink(target):
            return _link_one(source, target)
        os.makedirs(target, exist_ok=True)
    return _link_one(os.path.join(source, last), os.path.join(target, last))


def _link_one(source: str, target: str) -> bool:
    if os.path.islink(target) and not os.path.exists(target):
        os.unlink(target)  # A link relative to the old place leads nowhere from here.
    if not os.path.lexists(target):
        os.symlink(source, target)
        return True
    if os.path.islink(target) or not os.path.isdir(source) or not os.path.isdir(target):
        return False
    # A folder of data of which a part, a README say, is committed.
    linked = [
        _link_one(os.path.join(source, name), os.path.join(target, name))
        for name in os.listdir(source)
    ]
    return any(linked)


# ---------------------------------------------------------------------- where to start


def _script(environment: Mapping[str, Any], tree: str) -> tuple[str | None, list[str]]:
    script = environment.get("entry_script") or {}
    if not script.get("relative_name"):
        return None, []
    path = place_below(tree, script["relative_name"])
    if os.path.isfile(path):
        return path, []
    why = f" ({script['note']})" if script.get("note") else ""
    return None, [f"The script {script['relative_name']} is neither committed nor kept{why}."]


def _working_folder(
    environment: Mapping[str, Any], project: str, tree: str
) -> tuple[str, list[str]]:
    cwd = os.path.normpath(os.path.join(project, str(environment.get("cwd") or ".")))
    name = name_inside(cwd, project)
    if name == ".":
        return tree, []
    if name is not None:
        folder = place_below(tree, name)
        os.makedirs(folder, exist_ok=True)
        return folder, []
    if os.path.isdir(cwd):
        return cwd, [f"The run worked in {cwd}, outside its project; what it writes goes there."]
    return tree, [f"The working folder {cwd} is not there any more; {tree} takes its place."]
