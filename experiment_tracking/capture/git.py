"""The state of the repository a run was started from, by plain git processes.

Asking git itself is right in worktrees, submodules and detached heads, which reading its files
is not. GitPython would start the same processes, and its import alone takes 200 ms: four times
as long as a short script runs. One ``status``, started with the run, answers nearly everything
in 2 ms (0.25 s with 50,000 files); what little is left is asked when the answers are wanted.
"""

import os
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.capture.code import find_project_root
from experiment_tracking.capture.redaction import redact_text, to_utf8
from experiment_tracking.folder import io

if TYPE_CHECKING:
    import subprocess

# What the user's settings may leave out (status.showUntrackedFiles, submodule.*.ignore) is asked
# for in words; how far the branch is from its upstream is not wanted, and may take git long.
_STATUS = (
    "status", "--porcelain=v2", "--branch", "-z", "--no-ahead-behind", "--untracked-files=normal",
    "--ignore-submodules=none",
)  # fmt: skip
_COMMIT = ("rev-parse", "--verify", "HEAD")
_BRANCH = ("symbolic-ref", "--quiet", "--short", "HEAD")
_PLACE = ("rev-parse", "--show-toplevel", "--is-shallow-repository")
_REMOTES = ("config", "-z", "--get-regexp", r"^remote\..*\.url$")
_NOTHING_FOUND = 1
"""How ``git config`` ends where no remote is set, ``symbolic-ref`` with a detached head."""

_SETTINGS = (
    # Git refuses the repositories of other users (root in a container, a shared disk), for their
    # settings could start programs. Here the user already runs the code that lies in it.
    "-c", "safe.directory=*",
    # It would start a program that stays, or ask one that may not answer.
    "-c", "core.fsmonitor=false",
)  # fmt: skip

_NOT_FOR_GIT = (
    # A hook sets these for its own repository, which need not be the one around the folder asked
    # about. Settings (GIT_CONFIG_COUNT and the like) stay: containers say safe.directory there.
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_DIR", "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
    # These overrule what is said on the command line.
    "GIT_DIFF_OPTS", "GIT_GLOB_PATHSPECS", "GIT_ICASE_PATHSPECS", "GIT_LITERAL_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
)  # fmt: skip
_FOR_GIT = {
    "LC_ALL": "C",
    "GIT_TERMINAL_PROMPT": "0",
    # Then git does not refresh the index: a `git commit` beside us never fails.
    "GIT_OPTIONAL_LOCKS": "0",
    # A partial clone would fetch what it lacks; we stay off the network.
    "GIT_NO_LAZY_FETCH": "1",
}
_MAX_CONFIG_BYTES = 64_000
# Other files, quotes, escapes and comments: git-config(1), "Syntax".
_NOT_PLAIN = ("include", "\\", '= "', '="', "#", ";", "worktreeConfig")
_LONGEST_NOTE = 500
_TIME_FOR_STATUS = 0.7
"""Of the time there is, so that commit and branch can be asked for where that is too slow."""


class GitFacts(NamedTuple):
    """What git said; all None but the note where it could not be asked.

    Attributes
    ----------
    commit
        Object name of HEAD; None before the first commit.
    branch
        None with a detached head.
    upstream
        As in ``origin/main``; None where the branch follows none.
    top
        Absolute path of the working tree's top; inside a submodule, the submodule's.
    remotes
        URL by name, without user and password.
    shallow
        The history was cut off when it was cloned.
    dirty
        Tracked files differ from the commit. Untracked files alone are not dirt.
    changed, untracked
        Number of files; a folder without any tracked file counts once.
    submodules
        Commit that is checked out, by path below the top; nested ones too. A submodule that is
        not checked out took no part in the run and is not named.
    note
        What went wrong, or git's warning. Where git could not compare the files, the facts about
        them (``upstream``, ``dirty``, ``changed``, ``untracked``) are None and the others hold.
    """

    commit: str | None = None
    branch: str | None = None
    upstream: str | None = None
    top: str | None = None
    remotes: dict[str, str] | None = None
    shallow: bool | None = None
    dirty: bool | None = None
    changed: int | None = None
    untracked: int | None = None
    submodules: dict[str, str] | None = None
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the facts as plain values for JSON."""
        return self._asdict()


class NoAnswerError(Exception):
    """Git was asked in vain; the text says why, without secrets."""


class GitProbe:
    """A git process under way: started when a run opens, read when the facts are wanted.

    Attributes
    ----------
    status
        What ``git status --porcelain=v2 --branch -z`` printed; empty before ``finish``.
    top
        As in the facts, but with bytes of no encoding as Python keeps them in paths.
    """

    __slots__ = ("_facts", "_folder", "_processes", "_remotes", "status", "top")

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._facts: GitFacts | None = None
        self._remotes: dict[str, str] | None = None
        self.status = b""
        self.top: str | None = None

    @classmethod
    def start(cls, folder: str | os.PathLike[str]) -> "GitProbe":
        """Start git in ``folder`` and return at once; a failure is told by :meth:`finish`."""
        probe = cls(folder)
        probe._remotes = _plain_remotes(os.fspath(folder))
        try:
            # At once, for they take 2 ms each, and a script may end in as many.
            for question in (_STATUS,) if probe._remotes is not None else (_STATUS, _REMOTES):
                probe._processes.append(start_git(folder, question))
        except NoAnswerError as error:
            probe._abandon()
            probe._facts = GitFacts(note=str(error))
        return probe

    def finish(self, timeout_s: float = 5.0) -> GitFacts:
        """Wait for git and return what it said; after ``timeout_s`` it is killed.

        Asked again it gives the same answer.
        """
        if self._facts is None:
            try:
                self._facts = self._read(time.monotonic() + timeout_s)
            finally:
                self._abandon()
        return self._facts

    def _abandon(self) -> None:
        while self._processes:
            abandon(self._processes.pop())

    def _read(self, deadline: float) -> GitFacts:
        notes: list[str] = []
        more: dict[str, Any] = {}
        try:
            facts = self._read_status(deadline, notes)
        except NoAnswerError:
            outside = "not a git repository (or any" in notes[0]
            return GitFacts(note="not in a git repository" if outside else notes[0])
        try:
            self.top, shallow = _place(self._folder, deadline)
            if self._remotes is None:
                self._remotes = _remotes(self._next(deadline, allowed=_NOTHING_FOUND))
            more = {"remotes": self._remotes, "shallow": shallow}
            # A repository inside another may be tracked without a word in .gitmodules.
            seen = any(b" S" in record[:9] for record in self.status.split(b"\0"))
            more["submodules"] = dict(_submodules(self.top, "", deadline, notes, seen=seen))
        except Exception as error:  # Capture never stops training, whatever the reason.
            notes.append(to_utf8(str(error)))
        note = "; ".join(notes)[:_LONGEST_NOTE] or None
        top = to_utf8(self.top) if self.top else None
        return facts._replace(top=top, note=note, **more)

    def _next(self, deadline: float, allowed: int = 0) -> bytes:
        return read_git(self._processes.pop(0), deadline, allowed)[0]

    def _read_status(self, deadline: float, notes: list[str]) -> GitFacts:
        now = time.monotonic()
        soon = now + _TIME_FOR_STATUS * (deadline - now)
        try:
            self.status, warning = read_git(self._processes.pop(0), soon)
            notes += [warning] if warning else []
            return _parse(self.status)
        except NoAnswerError as error:
            notes.append(str(error))
        try:
            # One submodule that is broken, as in a copied folder, and git tells nothing at all.
            self.status = _ask(self._folder, (*_STATUS, "--ignore-submodules=all"), soon)
            return _parse(self.status)
        except NoAnswerError:
            # A filter that hangs or is missing, a broken index, a disk that is far away.
            facts = _head(self._folder, deadline)
            notes.append("so it is not known whether files had changed")
            return facts


def start_git(
    folder: str | os.PathLike[str],
    arguments: tuple[str, ...],
    stderr: IO[bytes] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start git in ``folder``, of whatever repository that is, with nothing to read.

    Raises
    ------
    NoAnswerError
        If there is no git, or no such folder.
    """
    import subprocess

    # Plain Popen already starts by vfork here: 0.17 ms, whatever the size of this process and
    # within 0.03 ms of posix_spawn. That one would need close_fds=False, which hands to git
    # what C libraries keep open (sockets, devices), and a search for git on our side.
    try:
        return subprocess.Popen(
            ("git", *_SETTINGS, *arguments),
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr or subprocess.PIPE,
        )
    except Exception as error:  # Capture never stops training, whatever the reason.
        raise NoAnswerError(to_utf8(f"git could not be started: {error}")) from error


def _environment() -> dict[str, str]:
    environment = {**os.environ, **_FOR_GIT}
    for name in _NOT_FOR_GIT:
        environment.pop(name, None)
    return environment


def read_git(
    process: "subprocess.Popen[bytes]", deadline: float, allowed: int = 0
) -> tuple[bytes, str]:
    """Read what git prints until it ends, and its complaint; it must end with 0 or ``allowed``.

    Raises
    ------
    NoAnswerError
        If git failed, or had not ended by ``deadline`` (of ``time.monotonic``) and was killed.
    """
    import subprocess

    timeout_s = max(0.0, deadline - time.monotonic())
    try:
        output, complaint = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        abandon(process)
        raise NoAnswerError(f"git did not answer within {timeout_s:.3g} s") from error
    except Exception as error:  # Capture never stops training, whatever the reason.
        abandon(process)
        raise NoAnswerError(f"git could not be read: {error}") from error
    note = first_line(complaint)
    if process.returncode not in (0, allowed):
        raise NoAnswerError(f"git ended with {process.returncode}: {note}")
    return output, note


def abandon(process: "subprocess.Popen[bytes]") -> None:
    """Kill git and let go of it."""
    process.kill()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    reap(process)


def reap(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a git that has been killed, or has closed its output."""
    import subprocess

    try:
        process.wait(1.0)
    except subprocess.TimeoutExpired:
        # Stuck inside the kernel on a dead network disk: whoever waited for it would be, too.
        process.returncode = -9


def first_line(complaint: bytes) -> str:
    """Copy the first line of what git had to say, short and without secrets."""
    return redact_text(_text(complaint).strip().partition("\n")[0])[:_LONGEST_NOTE]


def _ask(folder: str | os.PathLike[str], arguments: tuple[str, ...], deadline: float) -> bytes:
    return read_git(start_git(folder, arguments), deadline)[0]


def _head(folder: str | os.PathLike[str], deadline: float) -> GitFacts:
    """Ask for commit and branch alone, for which git looks at no file of the working tree.

    Raises
    ------
    NoAnswerError
        If there is no commit.
    """
    commit = _text(_ask(folder, _COMMIT, deadline)).strip()
    branch = read_git(start_git(folder, _BRANCH), deadline, _NOTHING_FOUND)[0]
    return GitFacts(commit=commit, branch=_text(branch).strip() or None)


def _place(folder: str | os.PathLike[str], deadline: float) -> tuple[str, bool]:
    """Find the working tree's top, and whether the history is cut short."""
    top = find_project_root(os.fspath(folder)) or ""
    inside = os.path.join(top, ".git")
    if os.path.lexists(os.path.join(inside, "HEAD")):
        return os.path.realpath(top), os.path.lexists(os.path.join(inside, "shallow"))
    # In a worktree or a submodule `.git` is a file, and git knows better what it means.
    output = _ask(folder, _PLACE, deadline)
    asked, _, shallow = output[:-1].rpartition(b"\n")
    return os.path.normpath(os.fsdecode(asked)), shallow == b"true"


def _remotes(output: bytes) -> dict[str, str]:
    remotes: dict[str, str] = {}
    for record in output.split(b"\0")[:-1]:
        name, _, url = _text(record).partition("\n")
        # Of several URLs of one remote git fetches from the first.
        remotes.setdefault(name.removeprefix("remote.").removesuffix(".url"), _public(url))
    return remotes


def _plain_remotes(folder: str) -> dict[str, str] | None:
    """Read the remotes off a plain ``.git/config``; None where git itself must be asked.

    Nearly all are plain, and a process is a twentieth of what a short script takes.
    """
    path = os.path.join(find_project_root(folder) or folder, ".git", "config")
    try:
        text = io.read(path, _MAX_CONFIG_BYTES).decode()
    except (OSError, ValueError):  # In a worktree `.git` is a file. DamagedError is a ValueError.
        return None
    by_variable = any(name.startswith("GIT_CONFIG") for name in os.environ)
    if by_variable or any(sign in text for sign in _NOT_PLAIN):
        return None
    remotes: dict[str, str] = {}
    name = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            name = line[9:-2] if line.startswith('[remote "') and line.endswith('"]') else ""
        elif name and line.partition("=")[0].strip() == "url":
            remotes.setdefault(name, _public(line.partition("=")[2].strip()))
    return remotes


def _public(url: str) -> str:
    """Take user, password and query off a URL, so that what is left can still be cloned."""
    scheme, sign, rest = url.partition("://")
    if sign:
        place, slash, path = rest.partition("/")
        user, at, host = place.rpartition("@")
        # In ssh://git@host the user is needed and no secret; in https it may be a token.
        user = "" if scheme.lower().startswith("http") else user.partition(":")[0]
        url = scheme + sign + (user + at if user else "") + host + slash + path.partition("?")[0]
    return redact_text(url)


def _submodules(
    top: str, prefix: str, deadline: float, notes: list[str], *, seen: bool = False
) -> Iterator[tuple[str, str]]:
    """Find what is checked out, which need not be what the index asks for."""
    # No process where none are likely. `git submodule status` takes 35 ms for each.
    if not (seen or os.path.isfile(os.path.join(top, ".gitmodules"))):
        return
    for record in _ask(top, ("ls-files", "--stage", "-z"), deadline).split(b"\0"):
        path = os.fsdecode(record.partition(b"\t")[2])
        folder = os.path.join(top, path)
        if record.startswith(b"160000 ") and os.path.lexists(os.path.join(folder, ".git")):
            try:
                # Told where to look, for a broken one would be taken for the one around it.
                head = _ask(folder, ("--git-dir=.git", "rev-parse", "--verify", "HEAD"), deadline)
                yield to_utf8(prefix + path), _text(head).strip()
                yield from _submodules(folder, f"{prefix}{path}/", deadline, notes)
            except NoAnswerError as error:
                notes.append(f"submodule {to_utf8(prefix + path)}: {error}")


def _parse(output: bytes) -> GitFacts:
    """Read ``status --porcelain=v2 --branch -z`` (git-status(1), "Porcelain Format Version 2")."""
    head: dict[bytes, str] = {}
    changed = untracked = 0
    records = iter(output.split(b"\0"))
    for record in records:
        kind = record[:2]
        if kind == b"# ":
            name, _, value = record[2:].partition(b" ")
            head[name] = _text(value)
        elif kind == b"? ":
            # Only untracked files follow, and an empty record behind the last NUL. Counting
            # them in C holds the GIL for 2 ms with 50,000 files, a loop for 5.
            untracked = len(list(records))
        elif kind in (b"1 ", b"2 ", b"u "):
            changed += 1
            if kind == b"2 ":
                next(records, None)  # A rename's old name is a record of its own, unmarked.
    commit, branch = head.get(b"branch.oid"), head.get(b"branch.head")
    return GitFacts(
        commit=None if commit == "(initial)" else commit,
        branch=None if branch == "(detached)" else branch,
        upstream=head.get(b"branch.upstream"),
        dirty=changed > 0,
        changed=changed,
        untracked=untracked,
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
