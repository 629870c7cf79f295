"""What a working tree holds that its commit does not: a patch, and the untracked code.

Read behind the first rows, by git processes whose output is bounded.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import IO, TYPE_CHECKING, NamedTuple

from experiment_tracking.capture.code import (
    MAX_SCRIPT_BYTES,
    LeftOut,
    why_forbidden,
    why_left_out,
)
from experiment_tracking.capture.git import GitProbe, NoAnswerError, first_line, reap, start_git
from experiment_tracking.capture.redaction import redact_source, to_utf8
from experiment_tracking.capture.untracked import OUTPUT_FOLDERS, UntrackedNames, output_folder
from experiment_tracking.folder import io
from experiment_tracking.folder.layout import README_MARK

if TYPE_CHECKING:
    import threading

MAX_SECTION_BYTES = 1_000_000
"""Longest diff of one file that is kept."""
MAX_PATCH_BYTES = 10_000_000
"""Longest patch that is kept."""
MAX_UNTRACKED = 500
"""Most untracked files that are kept."""
MAX_UNTRACKED_BYTES = 5_000_000
"""Most bytes of untracked files that are kept; one counts as 1 MB at most."""
MAX_LEFT_OUT = 100
"""Most entries that tell what was left out."""

# Git needs seconds and the file's size in memory to find the one changed line of a larger one.
_MAX_FILE_BYTES = 20_000_000
_MAX_READ_BYTES = 20_000_000
# Git compares each file with each pathspec, and a command line has its bounds, too.
_MAX_PATHSPECS = 500
_MAX_FOLDERS = 100
_STATUS_FIELDS = {b"1": 8, b"2": 9, b"u": 10}
"""Fields before the path in a record of ``git status --porcelain=v2``, by its kind."""
_ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")

# What `git apply` reads, whatever diff.* and color.* are set to. Submodules have sections of
# their own: a `-Subproject commit` line cannot be applied without touching the index.
# Their status does look at them, whatever submodule.*.ignore says.
_DIFF = (
    "-c", "core.quotePath=true", "-c", "core.safecrlf=false", "diff", "--binary",
    "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames",
    "--ignore-submodules=all", "--unified=3", "--inter-hunk-context=0",
    "--ws-error-highlight=none",
)  # fmt: skip
_EMPTY_TREE = ("hash-object", "-t", "tree", "--stdin")
_UNTRACKED = ("ls-files", "--others", "--exclude-standard", "-z")


class GitChanges(NamedTuple):
    """What was not committed; paths are relative to the top, with ``/``.

    Attributes
    ----------
    patch
        For ``git apply --binary`` at the top of the commit's tree (of an empty tree before the
        first commit) with submodules checked out; without secrets.
    changed
        Tracked files that the patch leaves out because it would show a secret where nothing
        may be replaced, or a notebook's outputs: to be kept whole, and redacted.
    untracked
        Files that belong to the code but not to the commit.
    left_out
        Other changed files, and other untracked code, each with the reason; many of one folder
        together, and folders of data and of outputs. Never more than :data:`MAX_LEFT_OUT`.
    notes
        What failed or was cut short, a sentence each.
    redacted
        Files of whose added lines the patch shows some as ``***``.
    """

    patch: bytes = b""
    changed: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()


def read_changes(
    probe: GitProbe, exclude: Sequence[str] = (), timeout_s: float = 5.0
) -> GitChanges:
    """Read what differs from the commit that ``probe`` found.

    Costs a process or two where something differs (0.1 s with 50,000 files), none in a clean
    tree. Nothing is raised; what fails is noted. Which untracked files are code is told by
    :class:`~experiment_tracking.capture.untracked.UntrackedNames`; of those at most
    :data:`MAX_UNTRACKED` are kept. What git is told not to look at stays unseen: files marked
    ``skip-worktree`` or ``assume-unchanged``, and ignored ones.

    Parameters
    ----------
    probe
        Its ``finish`` may have been called or not.
    exclude
        Absolute folders whose files never belong to the code. Folders of runs and of installed
        packages are known by what is in them, and need not be named.
    timeout_s
        For everything together; git is then killed, and what was not read is left out.
    """
    changes = _Changes(exclude, time.monotonic() + timeout_s)
    try:
        changes.read(probe, "")
    except Exception as error:  # Capture never stops training, whatever the reason.
        changes.notes.append(to_utf8(f"changes: {type(error).__name__}: {error}"))
    return changes.result()


class _Status(NamedTuple):
    changed: list[str]
    submodules: list[str]
    untracked: list[str]


class _Changes:
    """The changes of a repository and its submodules, as they come together."""

    def __init__(self, exclude: Sequence[str], deadline: float) -> None:
        self._exclude = [os.path.realpath(folder) for folder in exclude]
        self._deadline = deadline
        self._tops: set[str] = set()
        self._foreign: dict[str, str | None] = {}
        self._sections: list[bytes] = []
        self._patch_bytes = 0
        self._changed: list[str] = []
        self._untracked: list[str] = []
        self._untracked_bytes = self._looked_at = 0
        self._left_out: list[LeftOut] = []
        self._redacted: list[str] = []
        self.notes: list[str] = []

    def result(self) -> GitChanges:
        left_out = _by_folder(self._left_out)
        if len(left_out) > MAX_LEFT_OUT:
            self.notes.append(f"{len(left_out) - MAX_LEFT_OUT:,} more places were left out")
        return GitChanges(
            b"".join(self._sections),
            tuple(self._changed),
            tuple(self._untracked),
            tuple(left_out[:MAX_LEFT_OUT]),
            tuple(self.notes),
            tuple(self._redacted),
        )

    def read(self, probe: GitProbe, prefix: str) -> None:
        """Read one repository; ``prefix`` is its path below the outermost top."""
        facts = probe.finish(max(0.0, self._deadline - time.monotonic()))
        top = probe.top
        # Why there is none is in the facts; those of a submodule nobody else will see.
        if top is None or top in self._tops:
            reason = "not a repository of its own" if top else facts.note
            self.notes += [to_utf8(f"submodule {prefix}: {reason}")] if prefix else []
            return
        self._tops.add(top)
        found = _parse(probe.status)
        for read in (
            partial(self._read_patch, top, prefix, found.changed, facts.commit),
            partial(self._read_untracked, top, prefix, found.untracked),
        ):
            try:
                read()
            except NoAnswerError as error:
                self.notes.append(to_utf8(f"{prefix}: {error}" if prefix else str(error)))
        for path in found.submodules:
            self.read(GitProbe.start(os.path.join(top, path)), f"{prefix}{path}/")

    def _read_patch(self, top: str, prefix: str, paths: list[str], commit: str | None) -> None:
        found = ((path, self._kept_out(top, prefix, path)) for path in paths)
        excluded = {path: spec for path, spec in found if spec}
        if len(excluded) == len(paths):
            return
        if commit is None:
            commit = self._ask(top, _EMPTY_TREE, 1_000)[0].decode("ascii").strip()
        prefixes = (f"--src-prefix=a/{prefix}", f"--dst-prefix=b/{prefix}")
        # Sections of files beyond the bound on pathspecs are read, and dropped.
        some = list(dict.fromkeys(excluded.values()))[:_MAX_PATHSPECS]
        specs = (f":(exclude,top,literal){path}" for path in some)
        diff, whole = self._ask(top, (*_DIFF, *prefixes, commit, "--", *specs), _MAX_READ_BYTES)
        # Two sections in a row where a file became a link: both are taken, or none.
        groups = [(path, b"".join(group)) for path, group in groupby(_sections(diff), _path_of)]
        if not whole:
            del groups[-1:]
        seen = set(excluded)
        for path, section in groups:
            path = path.removeprefix(prefix)
            if path not in excluded and time.monotonic() < self._deadline:
                seen.add(path)
                self._take(top, prefix, path, _without_headings(section))
        if not whole or time.monotonic() >= self._deadline:
            for path in sorted(set(paths) - seen):
                self._leave_out(prefix + path, "git's diff was too long, or took too long")

    def _kept_out(self, top: str, prefix: str, path: str) -> str | None:
        """Give what keeps git from looking at a changed file; list the file, if it is code."""
        full = os.path.join(top, path)
        if foreign := self._foreign_above(os.path.dirname(full)):
            return foreign[len(os.path.join(top, "")) :]
        reason = why_forbidden(path) or _why_not_diffed(full)
        if reason:
            self._leave_out(prefix + path, reason)
        return path if reason else None

    def _take(self, top: str, prefix: str, path: str, section: bytes) -> None:
        name = prefix + path
        if len(section) > MAX_SECTION_BYTES:
            size = f"its diff has {len(section):,} bytes"
            return self._leave_out(name, f"{size}, more than the {MAX_SECTION_BYTES:,} allowed")
        if self._patch_bytes + len(section) > MAX_PATCH_BYTES:
            return self._leave_out(name, f"the patch would pass {MAX_PATCH_BYTES:,} bytes")
        if b"\nGIT binary patch\n" in section and self._packs_secret(top, path, section):
            return self._leave_out(name, "binary, and the diff would hold what must stay hidden")
        shown = _hide_secrets(section, os.path.splitext(path)[1].lower())
        if shown is None:
            return self._keep_whole(os.path.join(top, path), name)
        if shown != section:
            self._redacted.append(name)
        self._sections.append(shown)
        self._patch_bytes += len(shown)
        return None

    def _packs_secret(self, top: str, path: str, section: bytes) -> bool:
        """Look into both versions of a binary file: git compresses them in its diff."""
        old = section.partition(b"\nindex ")[2].partition(b"..")[0].decode("ascii")
        if old.strip("0"):
            blob, whole = self._ask(top, ("cat-file", "blob", old), _MAX_FILE_BYTES)
            if not whole or _holds_secret(blob):
                return True
        full = os.path.join(top, path)
        return os.path.isfile(full) and _holds_secret(io.read(full, _MAX_FILE_BYTES))

    def _keep_whole(self, path: str, name: str) -> None:
        if not os.path.lexists(path):
            self._leave_out(name, "deleted, and the diff would show what must stay hidden")
        elif reason := why_left_out(path):
            self._leave_out(name, reason)
        else:
            self._changed.append(name)

    def _read_untracked(self, top: str, prefix: str, names: list[str]) -> None:
        found = UntrackedNames(partial(self._is_foreign, top))
        folders = []
        for name in names:
            if not name.endswith("/"):  # Git names a folder instead where it tracks none in it.
                found.add(name, beside_tracked=True)
            elif output := output_folder(name):
                found.add_output(output)
            elif not self._is_foreign(top, name[:-1]):
                folders.append(name)
        if folders:
            self._look_into(top, prefix, folders, found)
        if found.is_cut:
            self.notes.append("there are too many untracked files to look at all of them")
        chosen, left_out = found.choose()
        for path, reason in left_out:
            self._leave_out(prefix + path, reason)
        for name in chosen:
            self._take_untracked(os.path.join(top, name), prefix + name)

    def _look_into(self, top: str, prefix: str, folders: list[str], found: UntrackedNames) -> None:
        # As patterns, unlike pathspecs, they keep git from walking through a million runs.
        start = os.path.join(top, "")
        inside = [folder[len(start) :] for folder in self._exclude if folder.startswith(start)]
        patterns = [f"--exclude=/{_literal(folder)}/" for folder in inside]
        patterns += [f"--exclude={folder}/" for folder in OUTPUT_FOLDERS]
        specs = [f":(top,literal){folder}" for folder in folders]
        # Without any, git lists all there is, also what has already come.
        specs = specs if len(specs) <= _MAX_FOLDERS else []
        begun = b""

        def take(piece: bytes) -> bool:
            nonlocal begun
            *names, begun = (begun + piece).split(b"\0")
            for name in map(os.fsdecode, names):
                if name.endswith("/"):  # All that git says of a repository inside another.
                    self._leave_out(prefix + name, "a repository of its own")
                else:
                    found.add(name, beside_tracked=False)
            return True

        if not self._stream(top, (*_UNTRACKED, *patterns, "--", *specs), take):
            self.notes.append("the list of untracked files was not read to its end")

    def _take_untracked(self, path: str, name: str) -> None:
        self._looked_at += 1  # Also at those not kept: on a disk far away each costs milliseconds.
        if self._looked_at > MAX_UNTRACKED:
            return self._leave_out(name, f"more than {MAX_UNTRACKED:,} untracked files")
        if reason := why_left_out(path):
            return self._leave_out(name, reason)
        size_bytes = self._untracked_bytes + min(os.stat(path).st_size, MAX_SCRIPT_BYTES)
        if size_bytes > MAX_UNTRACKED_BYTES:
            reason = f"more than {MAX_UNTRACKED_BYTES:,} bytes of untracked files"
            return self._leave_out(name, reason)
        self._untracked.append(name)
        self._untracked_bytes = size_bytes
        return None

    def _is_foreign(self, top: str, folder: str) -> bool:
        return self._foreign_above(os.path.join(top, folder) if folder else top) is not None

    def _foreign_above(self, folder: str) -> str | None:
        """Give the topmost folder of runs or of packages that one below the top is, or lies in."""
        if folder in self._tops:
            return None
        if folder not in self._foreign:
            above = self._foreign_above(os.path.dirname(folder))
            is_foreign = (
                folder in self._exclude or _is_environment(folder) or _is_marked_root(folder)
            )
            self._foreign[folder] = above or (folder if is_foreign else None)
        return self._foreign[folder]

    def _leave_out(self, name: str, reason: str) -> None:
        self._left_out.append(LeftOut(to_utf8(name), reason))

    def _ask(self, folder: str, arguments: tuple[str, ...], limit: int) -> tuple[bytes, bool]:
        """Read at most about ``limit`` bytes; tell whether that was all, too."""
        output = bytearray()

        def take(piece: bytes) -> bool:
            output.extend(piece)
            return len(output) <= limit

        whole = self._stream(folder, arguments, take)
        return bytes(output), whole

    def _stream(
        self, folder: str, arguments: tuple[str, ...], take: Callable[[bytes], bool]
    ) -> bool:
        whole, warning = _read_within(folder, arguments, take, self._deadline)
        if warning:
            self.notes.append(warning)
        return whole


def _parse(status: bytes) -> _Status:
    """Read ``status --porcelain=v2 --branch -z`` (git-status(1), "Porcelain Format Version 2")."""
    found = _Status([], [], [])
    records = iter(status.split(b"\0"))
    for record in records:
        kind = record[:1]
        if kind == b"?":
            found.untracked.append(os.fsdecode(record[2:]))
        elif kind in _STATUS_FIELDS:
            fields = record.split(b" ", _STATUS_FIELDS[kind])
            paths = [os.fsdecode(fields[-1])]
            if kind == b"2":  # A rename's old name is a record of its own.
                paths.append(os.fsdecode(next(records)))
            if not fields[2].startswith(b"S"):
                found.changed.extend(paths)
            elif fields[2][2:] != b"..":  # It has changes or untracked files itself.
                found.submodules.append(paths[0])
    return found


def _why_not_diffed(path: str) -> str | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None  # Deleted, which is a change like any other.
    if found.st_size > _MAX_FILE_BYTES:
        return f"{found.st_size:,} bytes, more than the {_MAX_FILE_BYTES:,} that are compared"
    # Git gives up altogether where it cannot read one file.
    if stat.S_ISREG(found.st_mode) and not os.access(path, os.R_OK):
        return "no permission to read it"
    return None


def _sections(diff: bytes) -> Iterator[bytes]:
    # Only a header begins so: every line of text has a sign before it.
    start = diff.find(b"diff --git ")
    while start >= 0:
        end = diff.find(b"\ndiff --git ", start)
        yield diff[start : end + 1] if end >= 0 else diff[start:]
        start = end + 1 if end >= 0 else -1


def _path_of(section: bytes) -> str:
    """Read the path off ``diff --git a/PATH b/PATH``: without renames both halves are alike."""
    names = section.partition(b"\n")[0].removeprefix(b"diff --git ")
    name = names[: len(names) // 2]
    if name.startswith(b'"'):
        import ast

        # Quoted as in C, all beyond ASCII in octal: a literal of Python's as well.
        name = ast.literal_eval("b" + name.decode("ascii"))
    return os.fsdecode(name.removeprefix(b"a/"))


def _without_headings(section: bytes) -> bytes:
    """Cut the line of code that git shows behind ``@@``: of a secret it may show one half."""
    import re

    return re.sub(rb"(?m)^(@@ -[\d,]+ \+[\d,]+ @@).*", rb"\1", section)


def _hide_secrets(section: bytes, suffix: str) -> bytes | None:
    """Put ``***`` into added lines; None where another line would need it.

    Those the patch is found by, so nothing in them may be replaced.
    """
    if suffix == ".ipynb":
        return None  # Its outputs may show anything.
    header, sign, body = section.partition(b"\n@@ ")
    if not sign:
        return section  # Binary, empty, or another mode only.
    # Latin-1 gives every byte back, whatever the file is written in.
    encoding = "utf-8" if _is_utf8(body) else "latin-1"
    lines = body.decode(encoding).split("\n")
    shown = redact_source("\n".join(line[1:] for line in lines), suffix).split("\n")
    if len(shown) != len(lines):
        return None
    for number, (line, text) in enumerate(zip(lines, shown, strict=True)):
        if line[1:] != text:
            if not line.startswith("+"):
                return None
            lines[number] = "+" + text
    return header + sign + "\n".join(lines).encode(encoding)


def _holds_secret(data: bytes) -> bool:
    # Without NULs UTF-16 reads as text. In pieces, since a pattern lets no other thread run.
    text = data.replace(b"\0", b"").decode("latin-1")
    pieces = (text[start : start + 64_000] for start in range(0, len(text), 60_000))
    return any(redact_source(piece, ".txt") != piece for piece in pieces)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _literal(folder: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\*?[" else letter for letter in folder)


def _is_environment(folder: str) -> bool:
    return any(os.path.lexists(os.path.join(folder, mark)) for mark in _ENVIRONMENT_MARKS)


def _is_marked_root(folder: str) -> bool:
    try:
        with open(os.path.join(folder, "README.md"), "rb") as file:
            return file.read(len(README_MARK)) == README_MARK.encode()
    except OSError:
        return False  # Most folders have none.


def _read_within(
    folder: str, arguments: tuple[str, ...], take: Callable[[bytes], bool], deadline: float
) -> tuple[bool, str]:
    """Hand over what git prints, until ``take`` has enough; tell whether that was all of it."""
    import tempfile
    import threading

    enough = threading.Event()
    # Into a file, for git would stand still before a second pipe that is full.
    with tempfile.TemporaryFile() as complaints:
        process = start_git(folder, arguments, complaints)
        # A thread, because reading a pipe knows no timeout on every platform.
        assert process.stdout is not None
        work = (process.stdout, take, enough)
        reader = threading.Thread(target=_hand_over, args=work, daemon=True)
        try:
            reader.start()
            reader.join(max(0.0, deadline - time.monotonic()))
        except RuntimeError:  # At exit Python 3.12 starts no thread any more.
            _hand_over(*work)
        late = reader.is_alive()
        whole = not late and not enough.is_set()
        if not whole:
            enough.set()
            process.kill()
            reader.join(1.0)
        reap(process)
        complaints.seek(0)
        complaint = first_line(complaints.read(10_000))
    if late:
        return False, "git did not answer in time when it was asked what has changed"
    if whole and process.returncode:
        raise NoAnswerError(f"git ended with {process.returncode}: {complaint}")
    return whole, complaint


def _hand_over(pipe: IO[bytes], take: Callable[[bytes], bool], enough: "threading.Event") -> None:
    with pipe:
        while not enough.is_set() and (piece := os.read(pipe.fileno(), 1 << 16)):
            if not take(piece):
                enough.set()


def _by_folder(left_out: list[LeftOut]) -> list[LeftOut]:
    """Make one entry of the files of one folder and reason, where there are too many."""
    if len(left_out) <= MAX_LEFT_OUT:
        return left_out
    groups: dict[tuple[str, str], list[LeftOut]] = {}
    for entry in left_out:
        folder = os.path.dirname(entry.path.rstrip("/"))
        groups.setdefault((folder, entry.reason), []).append(entry)
    return [
        group[0] if len(group) == 1 else LeftOut(f"{folder}/", f"{len(group):,} files: {reason}")
        for (folder, reason), group in groups.items()
    ]
