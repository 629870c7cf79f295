"""What differs in the code of two runs, as it ran: kept files, uncommitted changes, commits.

A run folder may come from somebody else. Of what it says, only the files in its own ``code/``
are opened, and the repository it names is asked for two commits in a way that runs no program
and reaches no network, whatever the repository's settings want.
"""

import difflib
import hashlib
import os
import re
import stat
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from experiment_tracking.capture.code import why_forbidden
from experiment_tracking.capture.notebook import without_outputs
from experiment_tracking.capture.redaction import redact_source, redact_text
from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.registry.record import RunRecord

_MAX_FILES = 5_000
_MAX_READ_BYTES = 20_000_000
_MAX_DIFF_BYTES = 1_000_000  # difflib needs seconds for more
_MAX_DIFF_LINES = 5_000
_MAX_COMMITS = 30
_GIT_LIMIT_BYTES = 2_000_000
_GIT_TIMEOUT_S = 20.0

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PATCH = "git.patch"
_NO_NEWLINE = "\n\\ No newline at end of file"
_PLACE = r"(\d{1,9}(?:,\d{1,9})?)"
_HUNK = re.compile(rf"@@ -{_PLACE} \+{_PLACE} @@(.*)", re.DOTALL)
_BLOBS = re.compile(r"^index ([0-9a-f]+)\.\.([0-9a-f]+)", re.MULTILINE)
_FILE_IN_TREE = re.compile(r"100\d{3} blob ([0-9a-f]+)")
_LONE = ("in a alone", "in b alone")

_DATA_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
_MOST_LINES_OF_DATA = 50

# Settings of a foreign repository name programs. Plumbing (diff-tree, rev-list) reads fewer of
# them than diff and log do, and a user's diff.noprefix or colours do not reach it either.
_GIT = (
    "git", "--no-pager", "--no-optional-locks", "-c", "core.fsmonitor=false",
    "-c", f"core.hooksPath={os.devnull}", "-c", "core.quotePath=false",
)  # fmt: skip
_DIFF = (
    "diff-tree", "-r", "-p", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames",
    "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip


class FileDiff(NamedTuple):
    """What differs in one file.

    Attributes
    ----------
    path
        Relative to the project's top, with ``/``.
    origin
        ``"kept"``: the files as they ran. ``"commit"``: as they were committed, and ran.
        ``"uncommitted"``: a change that one run had on top of the commit; where no repository
        has the file itself, how the changes of both differ.
    added, removed
        Number of lines.
    text
        Unified diff from a to b; empty where lines cannot be compared.
    note
        Why there is no text, or which run alone has the file.
    """

    path: str
    origin: str
    added: int = 0
    removed: int = 0
    text: str = ""
    note: str | None = None

    @property
    def lines_changed(self) -> str:
        """``+3 -1``, or the note where no line could be counted."""
        return f"+{self.added} -{self.removed}" if self.text else self.note or ""

    @property
    def is_long_data(self) -> bool:
        """Whether these are many lines of data, of which a reader wants the number alone."""
        is_data = self.path.lower().endswith(_DATA_SUFFIXES)
        return is_data and self.added + self.removed > _MOST_LINES_OF_DATA


class CodeDiff(NamedTuple):
    """What differs in the code of two runs; false where nothing does.

    Attributes
    ----------
    commits
        Object names of the commits of a and b where they differ, else None.
    log
        A line per commit that one run has and the other has not: ``+ 1a2b3c4 title`` came with
        b, ``- 5d6e7f8 title`` was in a alone; at most 30.
    files
        Changed files first, then those that one run alone has kept.
    notes
        What could not be found out.
    """

    commits: tuple[str, str] | None = None
    log: tuple[str, ...] = ()
    files: tuple[FileDiff, ...] = ()
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.commits or self.files)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self._asdict(), "files": [file._asdict() for file in self.files]}


def code_diff(a: RunRecord, b: RunRecord) -> CodeDiff:
    """Compare the code of two runs.

    Reads ``code/`` of both. Where their commits differ and a repository on this machine holds
    both, git is asked for what lies between (up to 2 MB, 20 s); nothing is fetched.
    """
    notes: list[str] = []
    tops = _tops(a, b)
    sides = _Side(a, tops, notes), _Side(b, tops, notes)
    commits = _commits(a, b)
    between = _between(commits, tops, notes) if commits else _Between()
    files = _file_diffs(*sides, dict(between.patches))
    shown = sorted(files, key=lambda file: (file.note in _LONE, file.path))
    return CodeDiff(commits, between.log, tuple(shown), tuple(notes))


def has_code(record: RunRecord) -> bool:
    """Tell whether anything is known of a run's code."""
    return bool(commit_of(record) or next(_walk(record.folder), None))


def commit_of(record: RunRecord) -> str | None:
    """Return the object name of a run's commit, None where there is none to rely on."""
    commit = _git_facts(record).get("commit")
    # It becomes a word of a command line: anything else might be an option.
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None


def _git_facts(record: RunRecord) -> Mapping[str, Any]:
    try:
        facts = record.environment.get("git")
    except (DamagedError, OSError):  # The comparison of the environments has told it.
        return {}
    return facts if isinstance(facts, dict) else {}


def _left_out(record: RunRecord) -> set[str]:
    """Name the files of which a run has kept nothing, although they may have been changed."""
    try:
        code = record.environment.get("code")
    except (DamagedError, OSError):  # The comparison of the environments has told it.
        return set()
    listed = code.get("left_out") if isinstance(code, dict) else None
    entries = listed if isinstance(listed, list) else []
    return {str(entry.get("path")) for entry in entries if isinstance(entry, dict)}


def _commits(a: RunRecord, b: RunRecord) -> tuple[str, str] | None:
    first, second = commit_of(a), commit_of(b)
    return (first, second) if first and second and first != second else None


# ---------------------------------------------------------------------- as it ran


class _Side:
    """What one of the runs ran: its kept files, else its changes, else its commit."""

    def __init__(self, record: RunRecord, tops: list[str], notes: list[str]) -> None:
        self._folder = record.folder
        self._commit = commit_of(record)
        self._tops = tops
        submodules = _git_facts(record).get("submodules")
        found = submodules if isinstance(submodules, dict) else {}
        self._submodules = tuple(f"{path}/" for path in found)
        self._left_out = _left_out(record)
        self._committed: dict[str, str | None] = {}
        self.kept = _kept_names(record.folder, notes)
        self.patch = _patch_of(record.folder, self.kept, notes)
        self.kept.discard(_PATCH)

    def look_up(self, paths: Iterable[str]) -> None:
        """Ask a repository which blobs the commit has under those paths."""
        inside = [path for path in paths if self._is_as_committed(path)]
        if not self._commit or not inside:
            return
        output = self._ask("ls-tree", "-r", "-z", "--full-tree", self._commit, "--", *inside)
        if output is None:
            return
        self._committed = dict.fromkeys(inside, "")
        for entry in filter(None, output.decode("utf-8", "backslashreplace").split("\0")):
            about, _, path = entry.partition("\t")
            # A link runs as the file it leads to, and that is not known.
            blob = _FILE_IN_TREE.fullmatch(about)
            self._committed[path] = blob[1] if blob else None

    def _is_as_committed(self, path: str) -> bool:
        # A submodule's files are in no tree of the repository around it.
        elsewhere = path.startswith(self._submodules) or "\0" in path
        return not elsewhere and path not in self._left_out

    def blob(self, path: str) -> str | None:
        """Return git's name of the file that ran, empty for no file, None where not known."""
        if path in self.kept:
            data = _read_kept(self._folder, path) or b""
            algorithm = "sha256" if len(self._commit or "") == 64 else "sha1"
            return hashlib.new(algorithm, b"blob %d\0" % len(data) + data).hexdigest()
        if blobs := _BLOBS.search(self.patch.get(path, "").partition("\n@@")[0]):
            return blobs[2].strip("0") and blobs[2]
        return self._committed.get(path)

    def content(self, path: str) -> bytes | None:
        """Return the file that ran, secrets hidden, None for no file.

        Raises
        ------
        LookupError
            If it is not kept, and no repository here has what the change was made to.
        """
        if path in self.kept:
            return _read_kept(self._folder, path)
        section = self.patch.get(path)
        if section is None:
            return _as_kept(path, self._read_blob(self._committed.get(path)))
        blobs = _BLOBS.search(section.partition("\n@@")[0])
        base = self._read_blob(blobs[1] if blobs else self._committed.get(path))
        if blobs and not blobs[2].strip("0"):
            return None
        return _as_kept(path, _patched(base or b"", section))

    def _read_blob(self, name: str | None) -> bytes | None:
        """Read a file from a repository; there is none where its name is empty or all zeros."""
        if name is None:
            raise LookupError
        if not name.strip("0"):
            return None
        data = self._ask("cat-file", "blob", name)
        if data is None or len(data) == _GIT_LIMIT_BYTES:
            raise LookupError
        return data

    def _ask(self, *words: str) -> bytes | None:
        answers = (_ask_git(top, *words) for top in self._tops)
        return next((answer for answer in answers if answer is not None), None)


def _file_diffs(a: _Side, b: _Side, between: Mapping[str, str]) -> Iterator[FileDiff]:
    """Yield what differs, one entry per path."""
    paths = a.kept | b.kept | a.patch.keys() | b.patch.keys() | between.keys()
    told_once = {
        path
        for path in paths - (a.kept | b.kept)
        if (path in a.patch) + (path in b.patch) + (path in between) == 1
    }
    mixed = sorted(paths - told_once - (a.kept & b.kept))
    for side in (a, b) if mixed else ():
        side.look_up(mixed)
    for path in sorted(paths):
        try:
            told = _told(path, a, b, between) if path in told_once else _ran(path, a, b, between)
        except (DamagedError, OSError) as error:
            told = FileDiff(path, "kept", note=str(error))
        if told:
            yield told


def _told(path: str, a: _Side, b: _Side, between: Mapping[str, str]) -> FileDiff:
    """Show a change as git has told it."""
    old, new, committed = a.patch.get(path), b.patch.get(path), between.get(path)
    if old and new:
        return _changed_change(path, old, new)
    if committed and (old or new):
        return FileDiff(path, "kept", note="differs, by what the lines of git.patch do not tell")
    if committed:
        return _section_diff(path, committed)
    return _undone(path, old) if old else _section_diff(path, new or "", "uncommitted in b")


def _ran(path: str, a: _Side, b: _Side, between: Mapping[str, str]) -> FileDiff | None:
    """Compare what ran, wherever each run has it from; None for equal files."""
    both_kept = path in a.kept and path in b.kept
    if not both_kept and a.blob(path) == b.blob(path) is not None:
        return None
    try:
        before, after = a.content(path), b.content(path)
    except LookupError:
        if a.patch.get(path) == b.patch.get(path) and path not in between:
            return _lone(path, a, b)
        return _told(path, a, b, between)
    return None if before == after else _kept_diff(path, before, after)


def _lone(path: str, a: _Side, b: _Side) -> FileDiff | None:
    """Show a file that one run has kept and of which nothing is known of the other."""
    if path not in a.kept | b.kept:
        return None
    before, after = (side.content(path) if path in side.kept else None for side in (a, b))
    return _kept_diff(path, before, after)


def _as_kept(path: str, data: bytes | None) -> bytes | None:
    """Hide in a file what is hidden in those that a run keeps."""
    if data is None or b"\0" in data:
        return data
    if why_forbidden(path):
        raise LookupError
    suffix = os.path.splitext(path)[1]
    if suffix == ".ipynb":
        try:
            return without_outputs(data)[0]
        except ValueError:  # No notebook, whatever its name.
            suffix = ".json"
    return redact_source(data.decode("utf-8", "backslashreplace"), suffix).encode()


def _patched(base: bytes, section: str) -> bytes:
    """Apply a section of a patch to the file it was made from; LookupError where it does not."""
    lines, before, at = [], _lines(base), 0
    for line in _hunk_lines(section):
        if hunk := _HUNK.fullmatch(line):
            first, _, count = hunk[1].partition(",")
            # One that takes no line away stands behind the line that it names.
            start = int(first) - (count != "0")
            if not at <= start <= len(before):
                raise LookupError
            lines += before[at:start]
            at = start
        elif line[:1] == "+":
            lines.append(line[1:])
        elif line[:1] in (" ", "-") and before[at : at + 1] == [line[1:]]:
            lines += before[at : at + 1] if line[:1] == " " else []
            at += 1
        else:
            raise LookupError
    text = "\n".join([*lines, *before[at:], ""])
    return text.removesuffix(_NO_NEWLINE + "\n").encode()


def _hunk_lines(section: str) -> list[str]:
    """Return a section's lines from its first hunk on, as :func:`_lines` writes them."""
    _, start, hunks = section.partition("\n@@ ")
    if not start and "\nGIT binary patch" in section:
        raise LookupError
    lines: list[str] = []
    for line in (start[1:] + hunks).split("\n") if start else ():
        if line.startswith("\\") and lines:
            lines[-1] += "\n" + line
        else:
            lines.append(line)
    return lines


# ---------------------------------------------------------------------- files in code/


def _walk(folder: RunFolder) -> Iterator[str]:
    """Yield the names of the files in ``code/``; links are not followed."""
    if os.path.islink(folder.code):
        return
    for path, folders, names in os.walk(folder.code):
        folders.sort()
        inside = os.path.relpath(path, folder.code).replace(os.sep, "/")
        for name in sorted(names):
            yield name if inside == "." else f"{inside}/{name}"


def _kept_names(folder: RunFolder, notes: list[str]) -> set[str]:
    names: set[str] = set()
    for name in _walk(folder):
        if len(names) == _MAX_FILES:
            notes.append(f"{folder.code} has more than {_MAX_FILES:,} files; the rest is left out.")
            break
        names.add(name)
    return names


def _kept_diff(name: str, before: bytes | None, after: bytes | None) -> FileDiff:
    lone = _LONE[0] if after is None else _LONE[1] if before is None else None
    reason = _why_not_lines(before, after)
    if reason:
        return FileDiff(name, "kept", note=f"{lone}, {reason}" if lone else f"differs, {reason}")
    return _file_diff(name, "kept", _lines(before), _lines(after), lone)


def _read_kept(folder: RunFolder, name: str) -> bytes | None:
    """Read a file of ``code/`` whose name a walk has given; None if this run has none."""
    try:
        return io.read(os.path.join(folder.code, *name.split("/")), _MAX_READ_BYTES)
    except FileNotFoundError:
        return None


def _why_not_lines(*contents: bytes | None) -> str | None:
    for data in contents:
        if data and b"\0" in data:
            return "binary"
        if data and (len(data) > _MAX_DIFF_BYTES or data.count(b"\n") > _MAX_DIFF_LINES):
            return "too long to be compared by lines"
    return None


def _lines(data: bytes | None) -> list[str]:
    # Not splitlines, which sees line ends in form feeds and in U+2028.
    *lines, last = (data or b"").decode("utf-8", "backslashreplace").split("\n")
    return [*lines, last + _NO_NEWLINE] if last else lines


def _file_diff(
    name: str, origin: str, before: list[str], after: list[str], note: str | None = None
) -> FileDiff:
    diff = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}", lineterm="")
    lines = list(diff)
    return FileDiff(name, origin, *_counts(lines[2:]), "\n".join(lines), note)


def _counts(hunks: list[str]) -> tuple[int, int]:
    signs = [line[:1] for line in hunks]
    return signs.count("+"), signs.count("-")


# ---------------------------------------------------------------------- git.patch


def _patch_of(folder: RunFolder, names: set[str], notes: list[str]) -> dict[str, str]:
    """Read the uncommitted changes of a run, by the path that each is of."""
    if _PATCH not in names:
        return {}
    try:
        data = _read_kept(folder, _PATCH) or b""
    except (DamagedError, OSError) as error:
        notes.append(str(error))
        return {}
    return dict(_sections(data.decode("utf-8", "backslashreplace")))


def _sections(patch: str) -> list[tuple[str, str]]:
    """Cut a patch of git's into one text per file, by path."""
    # Lines of content begin with a sign or a blank, so that this begins nothing else.
    _, *parts = re.split(r"^(?=diff --git )", patch, flags=re.MULTILINE)
    return [(_path_of(part), part.rstrip("\n")) for part in parts]


def _path_of(section: str) -> str:
    for line in section.split("\n"):
        if line.startswith(("--- a/", "+++ b/", '--- "a/', '+++ "b/')):
            # A name with a blank in it is followed by a tab.
            return line[4:].rstrip("\t").strip('"')[2:]
        if line.startswith("@@"):
            break
    # Binary, empty or of another mode alone: `diff --git a/path b/path`, both of one length.
    both = section.partition("\n")[0].removeprefix("diff --git ")
    return both[: len(both) // 2].strip('"')[2:]


def _changed_change(path: str, old: str, new: str) -> FileDiff:
    # Without the file itself, how two changes differ is told by a change of the change alone.
    reason = _why_not_lines(old.encode(), new.encode())
    if reason:
        return FileDiff(path, "uncommitted", note=f"differs, {reason}")
    return _file_diff(path, "uncommitted", old.split("\n"), new.split("\n"))


def _section_diff(path: str, section: str, note: str | None = None) -> FileDiff:
    origin = "uncommitted" if note else "commit"
    lines = section.split("\n")
    start = next((i for i, line in enumerate(lines) if line.startswith("@@")), None)
    if start is None:
        return FileDiff(path, origin, note=note or "binary, empty, or its mode alone differs")
    text = "\n".join([f"--- a/{path}", f"+++ b/{path}", *lines[start:]])
    return FileDiff(path, origin, *_counts(lines[start:]), text, note)


def _undone(path: str, section: str) -> FileDiff:
    """Show a change that a alone had: from a to b it went away."""
    signs = {"+": "-", "-": "+"}
    head, *hunks = re.split(r"^(?=@@ )", section, flags=re.MULTILINE)
    turned = []
    for line in "".join(hunks).split("\n"):
        swapped = _HUNK.fullmatch(line)
        line = f"@@ -{swapped[2]} +{swapped[1]} @@{swapped[3]}" if swapped else line
        turned.append(signs.get(line[:1], line[:1]) + line[1:])
    return _section_diff(path, head + "\n".join(_removed_first(turned)), "uncommitted in a")


def _removed_first(lines: list[str]) -> Iterator[str]:
    for changed, block in groupby(lines, lambda line: line[:1] in ("+", "-")):
        each = list(block)
        yield from sorted(each, key=lambda line: line[:1] == "+") if changed else each


# ---------------------------------------------------------------------- commits


class _Between(NamedTuple):
    """What a repository holds between two commits."""

    log: tuple[str, ...] = ()
    patches: tuple[tuple[str, str], ...] = ()


def _tops(a: RunRecord, b: RunRecord) -> list[str]:
    """Folders of the repositories that the runs name, as far as git may be run there."""
    tops = dict.fromkeys(_git_facts(record).get("top") for record in (b, a))
    return [top for top in tops if isinstance(top, str) and _is_own_folder(top)]


def _is_own_folder(path: str) -> bool:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # gone, or no path at all
        return False
    own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return os.path.isabs(path) and stat.S_ISDIR(found.st_mode) and own


def _between(commits: tuple[str, str], tops: list[str], notes: list[str]) -> _Between:
    for top in tops:
        patch = _ask_git(top, *_DIFF, *commits, "--")
        if patch is None:
            continue
        if len(patch) == _GIT_LIMIT_BYTES:
            notes.append(f"The diff of the commits is cut at {_GIT_LIMIT_BYTES:,} bytes.")
        sections = _sections(patch.decode("utf-8", "backslashreplace"))
        return _Between(_log_between(top, commits), tuple(_without_secrets(sections, notes)))
    notes.append("No repository on this machine holds both commits; the kept files are compared.")
    return _Between()


def _without_secrets(
    sections: list[tuple[str, str]], notes: list[str]
) -> Iterator[tuple[str, str]]:
    """Hide in commits what is hidden in, or left out of, the files that a run keeps."""
    for path, text in sections:
        if reason := why_forbidden(path):
            notes.append(f"{path} is not shown: {reason}.")
        else:
            yield path, redact_source(text, os.path.splitext(path)[1])


def _log_between(top: str, commits: tuple[str, str]) -> tuple[str, ...]:
    words = ("rev-list", f"--max-count={_MAX_COMMITS}", "--left-right", "--format=%m %h %s")
    output = _ask_git(top, *words, f"{commits[0]}...{commits[1]}", "--") or b""
    lines = redact_text(output.decode("utf-8", "backslashreplace")).split("\n")
    signs = {"<": "-", ">": "+"}
    # Each of these lines stands below one with the whole object name.
    return tuple(signs[line[0]] + line[1:] for line in lines if line[:1] in signs)


def _ask_git(top: str, *words: str) -> bytes | None:
    """Run git in ``top``; None where it fails, at most 2 MB of what it says."""
    try:
        process = subprocess.Popen(
            (*_GIT, *words),
            cwd=top,
            env=_git_environment(top),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # There is no git here.
        return None
    deadline = threading.Timer(_GIT_TIMEOUT_S, process.kill)
    deadline.start()
    with process:
        assert process.stdout is not None
        output = process.stdout.read(_GIT_LIMIT_BYTES)
        cut = len(output) == _GIT_LIMIT_BYTES
        if cut:
            process.kill()
    deadline.cancel()
    return output if cut or process.returncode == 0 else None


def _git_environment(top: str) -> dict[str, str]:
    # Without variables such as GIT_DIR, which a hook of another repository has set.
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}
    return inherited | {
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        # A partial clone would fetch what it lacks, by a program that its settings name.
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_NO_LAZY_FETCH": "1",
        # Not the repository around a folder that is none itself.
        "GIT_CEILING_DIRECTORIES": os.path.dirname(top),
    }
