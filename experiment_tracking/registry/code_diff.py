"""What differs in the code of two runs: the kept files, the uncommitted changes, the commits.

A run folder may come from somebody else. Of what it says, only the files in its own ``code/``
are opened, and the repository it names is asked for two commits in a way that runs no program
and reaches no network, whatever the repository's settings want.
"""

import difflib
import os
import re
import stat
import subprocess
import threading
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from experiment_tracking.capture.code import why_forbidden
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
_HUNK = re.compile(r"@@ -(\S+) \+(\S+) @@(.*)", re.DOTALL)

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
        ``"kept"``: the files as they ran. ``"commit"``: as they were committed.
        ``"uncommitted"``: what each run had changed on top of its commit.
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
    kept = _kept_names(a.folder, notes), _kept_names(b.folder, notes)
    commits = _commits(a, b)
    between = _between(commits, _tops(a, b), notes) if commits else _Between()
    in_both = kept[0] & kept[1]
    changed = list(_kept_diffs(a, b, sorted(in_both)))
    changed += [_section_diff(path, text) for path, text in between.patches if path not in in_both]
    patches = _patch_of(a.folder, kept[0], notes), _patch_of(b.folder, kept[1], notes)
    changed += [file for file in _uncommitted(*patches) if file.path not in in_both]
    # What git has shown as changed is better shown by that than as a file that came or went.
    lone = sorted((kept[0] ^ kept[1]) - {file.path for file in changed})
    files = (*changed, *_kept_diffs(a, b, lone))
    return CodeDiff(commits, between.log, files, tuple(notes))


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


def _commits(a: RunRecord, b: RunRecord) -> tuple[str, str] | None:
    first, second = commit_of(a), commit_of(b)
    return (first, second) if first and second and first != second else None


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


def _kept_diffs(a: RunRecord, b: RunRecord, names: list[str]) -> Iterator[FileDiff]:
    for name in names:
        if name == _PATCH:
            continue
        try:
            before, after = _read_kept(a.folder, name), _read_kept(b.folder, name)
        except (DamagedError, OSError) as error:
            yield FileDiff(name, "kept", note=str(error))
            continue
        if before != after:
            yield _kept_diff(name, before, after)


def _kept_diff(name: str, before: bytes | None, after: bytes | None) -> FileDiff:
    lone = "in a alone" if after is None else "in b alone" if before is None else None
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


def _uncommitted(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[FileDiff]:
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        if old is None or new is None:
            yield _undone(path, old) if old else _section_diff(path, new or "", "uncommitted in b")
        else:
            # How two changes of one file differ can be told by a change of the change alone.
            reason = _why_not_lines(old.encode(), new.encode())
            yield (
                FileDiff(path, "uncommitted", note=f"differs, {reason}")
                if reason
                else _file_diff(path, "uncommitted", old.split("\n"), new.split("\n"))
            )


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
