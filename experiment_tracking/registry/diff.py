"""What differs between two runs: what they were given, what they ran, what came out."""

import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import DamagedError
from experiment_tracking.registry.code_diff import CodeDiff, FileDiff, code_diff, has_code
from experiment_tracking.registry.record import RunRecord, flat, note
from experiment_tracking.registry.summary import Unreadable
from experiment_tracking.registry.wording import command_text, is_notebook, plural, visible

if TYPE_CHECKING:
    from experiment_tracking.registry.registry import ExperimentRegistry

Facts = Mapping[str, Any]

SECTIONS = (
    "params", "metrics", "tags", "inputs", "packages", "environment", "hardware", "code",
)  # fmt: skip

_INPUT_FACTS = ("kind", "sha256", "size_bytes", "files", "shape", "dtype", "columns")
_ENVIRONMENT = (
    "python_version", "python_implementation", "executable", "platform", "hostname", "user",
    "cwd", "notebook", "variables", "launcher",
)  # fmt: skip
_HARDWARE = ("cpu_model", "cpu_count", "cpus_allowed", "memory_bytes", "memory_limit_bytes")

_MOST_LINES = 4
_LONGEST_VALUE = 40
_BEFORE_THE_CHANGE = 8
_USED = {"script": 0, "module": 1, "notebook": 1}
"""Origins of files that take part in a run, by how soon a change of theirs is told."""
_CONFIGURATION = (".yaml", ".yml", ".toml", ".json", ".cfg", ".ini", ".conf", ".gin")
_PYTHON = re.compile(r"python[0-9.]*(\.exe)?")
_TOLD = ("python_version", "hostname", "cpu_model", "gpus")


class Change(NamedTuple):
    """What two runs have under one name; None where a run has nothing."""

    a: Any
    b: Any

    @property
    def difference(self) -> float | None:
        """``b - a``, None where one of them is no finite number."""
        a, b = _finite(self.a), _finite(self.b)
        return None if a is None or b is None else b - a

    @property
    def relative(self) -> float | None:
        """The difference as a share of a's size: 0.5 is half as much again."""
        difference = self.difference
        return difference / abs(self.a) if difference is not None and self.a else None


Changes = dict[str, Change]


class RunDiff(Mapping[str, Any]):
    """What differs between two runs, section by section.

    Each section is an attribute: a mapping of names to :class:`Change`, empty where nothing
    differs, and for :attr:`code` a :class:`~experiment_tracking.registry.code_diff.CodeDiff`.
    As a mapping it holds the sections that differ, so it is false for equal runs; asked for
    another section it gives that one, empty, as a Counter gives 0.

    Parameters
    ----------
    a, b
        The runs. Params, summary, environment and inputs of both are read here, the code when
        it is first asked for. Of a file that cannot be read nothing is known; it is told in
        :attr:`problems`.

    Attributes
    ----------
    params, tags
        By name, nested params by names joined by dots.
    metrics
        Last values by name, and ``"val/loss:best"`` where the best says more than the last.
    inputs
        By name, of either run those facts that differ: ``sha256``, ``size_bytes``, ``shape`` …
    packages
        Versions by name, with the source where it is not an index of packages.
    environment
        Interpreter, platform, host, user, command, working directory, branch, seeds, launcher
        and variables. Where a project lies is no difference: paths in it are relative.
    hardware
        Processor, memory (bytes) and GPUs.
    problems
        Files that could not be read, with the reason.

    Examples
    --------
    >>> registry.diff("latest~1", "latest").params  # doctest: +SKIP
    {'lr': Change(a=0.1, b=0.01)}
    """

    def __init__(self, a: RunRecord, b: RunRecord) -> None:
        self.a = a
        self.b = b
        self.problems: list[Unreadable] = []
        # Of a run that has not recorded a fact nothing is known, which is no difference.
        self._unknown: dict[str, list[str]] = {}
        self.params = _changes(*self._both("params", lambda run: flat(run.params)))
        self.metrics = self._metrics()
        self.tags = _changes(a.tags, b.tags)
        self.inputs = _differing_facts(_changes(*self._both("inputs", _inputs)))
        self.packages = _changes(*self._both("packages", _packages))
        self.environment = self._environment()
        self.hardware = _known_changes(*self._both("hardware", _hardware))

    def __getitem__(self, section: str) -> Any:
        if section not in SECTIONS:
            raise KeyError(section)
        return getattr(self, section)

    def __iter__(self) -> Iterator[str]:
        return (section for section in SECTIONS if self[section])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, section: object) -> bool:
        return section in list(self)

    def __repr__(self) -> str:
        return f"<RunDiff {self.a.key} {self.b.key}: {', '.join(self) or 'no difference'}>"

    def _repr_html_(self) -> str:
        from experiment_tracking.registry.display import diff_html

        return diff_html(self)

    @cached_property
    def code(self) -> CodeDiff:
        """Commits, kept files and uncommitted changes; reads both ``code/`` and asks git."""
        return CodeDiff() if "code" in self.unknown else code_diff(self.a, self.b)

    @property
    def names(self) -> tuple[str, str]:
        """Name of each run; ``project/name``, or the path, where the shorter ones are equal."""
        a, b = self.a, self.b
        if a.name != b.name:
            return a.name, b.name
        return (a.key, b.key) if a.key != b.key else (a.folder.path, b.folder.path)

    @property
    def is_empty(self) -> bool:
        """Whether nothing that is known differs."""
        return not self

    @property
    def unknown(self) -> dict[str, list[str]]:
        """Sections that a run has not recorded, or not readably, with the runs' keys."""
        code = [run.key for run in (self.a, self.b) if not has_code(run)]
        return self._unknown | ({"code": code} if code else {})

    def to_dict(self, sections: Iterable[str] = SECTIONS) -> dict[str, Any]:
        """Return plain values for JSON: both runs, all or some sections, what is not known."""
        return {
            "a": self.a.key,
            "b": self.b.key,
            "paths": [self.a.folder.path, self.b.folder.path],
            **{section: self._plain(section) for section in sections},
            "unknown": self.unknown,
            "problems": [problem._asdict() for problem in self.problems],
        }

    def _plain(self, section: str) -> dict[str, Any]:
        if section == "code":
            return self.code.to_dict()
        changes: Changes = self[section]
        if section != "metrics":
            return {name: change._asdict() for name, change in changes.items()}
        return {
            name: {**each._asdict(), "difference": each.difference, "relative": each.relative}
            for name, each in changes.items()
        }

    # ------------------------------------------------------------------ reading

    def _metrics(self) -> Changes:
        a, b = self._both("metrics", lambda run: run.metrics)
        last = _changes(_numbers(a, "last"), _numbers(b, "last"))
        best = _changes(_numbers(a, "best"), _numbers(b, "best"))
        further = {name: each for name, each in best.items() if each != last.get(name)}
        return last | {f"{name}:best": each for name, each in further.items()}

    def _environment(self) -> Changes:
        facts = _facts(self.a), _facts(self.b)
        # Outside of a project, the folder a run is started in is moved for its rerun.
        moved = any(run.summary.get("rerun_of") for run in (self.a, self.b))
        projects = _Projects(each.get("project") or (moved and each.get("cwd")) for each in facts)
        changes = _known_changes(
            *self._both("environment", lambda run: _environment(run, projects))
        )
        # A rerun starts the cells in another way; whose cells they are stands under `notebook`.
        if all(map(is_notebook, facts)):
            changes.pop("command", None)
        return changes

    def _both(self, section: str, read: Callable[[RunRecord], Facts | None]) -> tuple[Facts, Facts]:
        """Read something of both runs; nothing of either where it is not known of one."""
        a, b = (self._read(run, section, read) for run in (self.a, self.b))
        return ({}, {}) if a is None or b is None else (a, b)

    def _read(
        self, run: RunRecord, section: str, read: Callable[[RunRecord], Facts | None]
    ) -> Facts | None:
        try:
            facts = read(run)
        except (DamagedError, OSError) as error:
            note(self.problems, run, error)
            facts = None
        if facts is None:
            self._unknown.setdefault(section, []).append(run.key)
        return facts


def last_run_of_same_script(registry: "ExperimentRegistry", record: RunRecord) -> RunRecord | None:
    """Return the run to compare a run with, None without one.

    Of a rerun that is the run it repeats. Else it is the newest earlier run of the project that
    ran the same script and is no rerun; if there is one that finished, the newest of those.

    The same are scripts of one name inside their project, notebooks of one path, else commands
    whose first two words are equal. Reads the project's summaries, and environments from the
    newest run back.
    """
    runs = registry.list_experiments(record.project)
    if repeated := record.summary.get("rerun_of"):
        return next((run for run in runs if run.id == repeated), None)
    script = _script(record)
    if script is None or record.created_at is None:
        return None
    earlier = [run for run in runs if (run.created_at or "~") < record.created_at]
    alike = (
        run
        for run in reversed(earlier)
        if not run.summary.get("rerun_of") and _script(run) == script
    )
    newest = next(alike, None)
    finished = (run for run in chain([newest], alike) if run and _ended_well(run))
    return next(finished, newest)


def summary_lines(diff: RunDiff) -> list[str]:
    """Say in a few short lines what run b was given or ran that run a was not.

    Metrics and tags are left out, and of the machine all but Python, host, processor and GPUs.
    Of a run b that has not finished nothing is said of params and inputs that it lacks: it may
    not have come to them.
    """
    # A param that is None in one run and missing in the other has nothing to show.
    params = {name: each for name, each in _reached(diff, diff.params) if each != (None, None)}
    lines = _first(
        [f"{visible(name)} {_arrow(change)}" for name, change in params.items()], "params"
    )
    lines += _code_lines(diff)
    lines += [
        f"input {visible(name)} {_what_changed(change)}"
        for name, change in _reached(diff, diff.inputs)
    ]
    versions = [f"{visible(name)} {_arrow(change)}" for name, change in diff.packages.items()]
    lines += _first(versions, "packages")
    facts = diff.environment | diff.hardware
    return lines + [f"{visible(name)} {_arrow(facts[name])}" for name in _TOLD if name in facts]


def equal_sections(diff: RunDiff, sections: Iterable[str] = SECTIONS) -> list[str]:
    """Return those of the sections of which enough is known to say that nothing differs."""
    unknown = diff.unknown
    return [section for section in sections if section not in unknown and not diff[section]]


def unknown_lines(diff: RunDiff, sections: Collection[str] = SECTIONS) -> list[str]:
    """Say of what nothing is known, and what could not be read, a line each."""
    runs: dict[str, list[str]] = {}
    for section, keys in diff.unknown.items():
        if section in sections:
            runs.setdefault(" and ".join(keys), []).append(section)
    lines = [f"not recorded by {keys}: {', '.join(names)}." for keys, names in runs.items()]
    notes = diff.code.notes if "code" in sections else ()
    return [*lines, *notes, *(problem.reason for problem in diff.problems)]


def file_title(file: FileDiff) -> str:
    """Write one line about a file: its path, how many lines, which run's it is."""
    words = [visible(file.path), file.lines_changed]
    aside = [file.origin] if file.origin == "commit" else []
    if file.note and file.text:
        aside.append(file.note)
    return " ".join(words) + (f" ({', '.join(aside)})" if aside else "")


def difference_text(change: Change) -> str:
    """Write by how much b is more than a: ``-0.08 (-25%)``; nothing where that is no number."""
    if change.difference is None:
        return ""
    share = "" if change.relative is None else f" ({change.relative:+.1%})"
    return f"{change.difference:+.5g}{share}"


def shown(value: Any) -> str:
    """Write a value on one line, numbers short; nothing where there is none."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short_fact(name, fact)}" for name, fact in value.items())
    return visible(f"{value:.6g}" if type(value) is float else str(value)) or "''"


def shown_apart(change: Change) -> tuple[str, str]:
    """Write both values as :func:`shown` does, with as many digits as it takes to differ."""
    a, b = shown(change.a), shown(change.b)
    if a != b or a == "":
        return a, b
    if type(change.a) is not float or type(change.b) is not float:
        return visible(repr(change.a)), visible(repr(change.b))
    for digits in range(7, 18):  # 17 tell any two floats apart
        a, b = f"{change.a:.{digits}g}", f"{change.b:.{digits}g}"
        if a != b:
            break
    return a, b


def cut_apart(change: Change, length: int) -> tuple[str, str]:
    """Cut both values to a length, from where they part if their beginnings are the same."""
    a, b = shown_apart(change)
    if _cut(a, length) == _cut(b, length):
        common = max(0, common_length(a, b) - _BEFORE_THE_CHANGE)
        a, b = f"…{a[common:]}", f"…{b[common:]}"
    return _cut(a, length), _cut(b, length)


def common_length(a: str, b: str) -> int:
    """Return how many characters two texts have in common before they part."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def visible_line(line: str) -> str:
    """Copy a line of a unified diff, with its tabs as blanks and else as :func:`visible` does."""
    # Tabs of the file itself begin behind the sign.
    return visible(line[:1] + line[1:].expandtabs(4))


# ---------------------------------------------------------------------- what is compared


def _changes(a: Facts, b: Facts) -> Changes:
    return {
        name: Change(a.get(name), b.get(name))
        for name in {**a, **b}
        if name not in a or name not in b or not _same(a[name], b[name])
    }


def _known_changes(a: Facts, b: Facts) -> Changes:
    """Compare the facts that both runs have recorded, groups of them name by name."""
    return _changes(_flat(a, b), _flat(b, a))


def _flat(facts: Facts, others: Facts) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in facts.items():
        if name in others and isinstance(value, dict):
            plain |= {f"{name}.{inner}": each for inner, each in value.items()}
        elif name in others:
            plain[name] = value
    return plain


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or (a != a and b != b)


def _finite(value: Any) -> float | None:
    if type(value) not in (int, float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float holds
        return None


def _numbers(metrics: Facts, number: str) -> Facts:
    return {name: kept[number] for name, kept in metrics.items() if number in kept}


def _inputs(record: RunRecord) -> Facts:
    return {
        str(each.get("name")): {fact: each[fact] for fact in _INPUT_FACTS if _has(each, fact)}
        for each in record.inputs
    }


def _has(facts: Facts, name: str) -> bool:
    return facts.get(name) is not None


def _differing_facts(changes: Changes) -> Changes:
    """Leave out of the facts about an input what both runs have alike."""
    return {
        name: each if None in each else Change(*_apart(each.a, each.b))
        for name, each in changes.items()
    }


def _apart(a: Facts, b: Facts) -> list[dict[str, Any]]:
    changes = _changes(a, b)
    return [{name: changes[name][side] for name in changes} for side in (0, 1)]


def _mapping(facts: Facts, name: str) -> dict[str, Any]:
    """Return a part of a document that ought to be an object; it may be anything, or missing."""
    value = facts.get(name)
    return value if isinstance(value, dict) else {}


def _packages(record: RunRecord) -> Facts | None:
    facts = record.environment
    sources = _mapping(facts, "package_sources")
    versions = {
        name: _version(version, sources.get(name))
        for name, version in _mapping(facts, "packages").items()
    }
    conda = _mapping(_mapping(facts, "conda"), "packages")
    return versions | {f"{name} (conda)": version for name, version in conda.items()} or None


def _version(version: Any, source: Any) -> str:
    """Write a version with its source: of two checkouts of one version only that differs."""
    shown = "?" if version is None else str(version)
    if not isinstance(source, dict):
        return shown
    commit = _mapping(source, "vcs_info").get("commit_id")
    return f"{shown} ({source.get('url')}{f'@{commit}' if commit else ''})"


class _Projects:
    """Where the projects of both runs lie, to write what lies in them by relative paths."""

    def __init__(self, tops: Iterable[Any]) -> None:
        absolute = (top for top in tops if isinstance(top, str) and os.path.isabs(top))
        names = {top.rstrip("/\\") for top in absolute} - {""}
        anywhere = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        pattern = rf"(?<![\w./\\-])(?:{anywhere})(?:[/\\]|(?![\w.-]))"
        self._inside = re.compile(pattern) if names else None

    def relative(self, value: Any) -> Any:
        """Copy a text, or the texts in a mapping, with relative paths."""
        if isinstance(value, dict):
            return {name: self.relative(each) for name, each in value.items()}
        if self._inside is None or not isinstance(value, str):
            return value
        return self._inside.sub(lambda top: "" if top[0][-1] in "/\\" else ".", value)


def _environment(record: RunRecord, projects: _Projects) -> Facts | None:
    facts = record.environment
    known = {
        **{name: facts.get(name) for name in _ENVIRONMENT},
        "command": _command(facts),
        "script": _mapping(facts, "entry_script").get("relative_name"),
        "branch": _mapping(facts, "git").get("branch"),
        "conda": _mapping(facts, "conda").get("environment"),
        # Only seeds that the tracker has set are there: none is known to be none.
        "seeds": _mapping(facts, "seeds") if facts else None,
    }
    return {n: projects.relative(value) for n, value in known.items() if value is not None} or None


def _command(facts: Facts) -> str | None:
    words = facts.get("command")
    if is_notebook(facts) or not isinstance(words, list) or not words:
        return command_text(facts) or None
    # Which interpreter it was is told by its version and its packages, not by its folder.
    program = os.path.basename(str(words[0]))
    first = "python" if _PYTHON.fullmatch(program) else str(words[0])
    return shlex.join([first, *map(str, words[1:])])


def _hardware(record: RunRecord) -> Facts | None:
    facts = record.environment
    gpus = _mapping(facts, "gpus")
    known = {
        **{name: facts.get(name) for name in _HARDWARE},
        "gpus": _gpu_names(gpus.get("devices")) if "gpus" in facts else None,
        "gpu_driver": gpus.get("driver"),
        "cuda_version": gpus.get("cuda_version"),
    }
    return {name: value for name, value in known.items() if value is not None} or None


def _gpu_names(devices: Any) -> str:
    listed = devices if isinstance(devices, list) else []
    names = Counter(_gpu_name(each) for each in listed if isinstance(each, dict))
    return ", ".join(f"{count} x {name}" for name, count in names.items()) or "none"


def _gpu_name(device: Facts) -> str:
    size = device.get("memory_bytes")
    return f"{device.get('name')}{f' {size / 2**30:.0f} GiB' if type(size) is int else ''}"


def _ended_well(record: RunRecord) -> bool:
    return record.status == "finished" and not record.summary.get("exit_code")


def _facts(record: RunRecord) -> Facts:
    try:
        return record.environment
    except (DamagedError, OSError):  # The section tells it.
        return {}


def _script(record: RunRecord) -> tuple[Any, ...] | None:
    """Return what tells a run's script from others, None where nothing is known of it."""
    facts = _facts(record)  # A run of which that is lost is no run to compare with.
    script = _mapping(facts, "entry_script")
    if name := script.get("relative_name") or script.get("path"):
        return ("script", str(name))
    if notebook := facts.get("notebook"):
        return ("notebook", str(notebook))
    command = facts.get("command")
    return ("command", *map(str, command[:2])) if isinstance(command, list) and command else None


# ---------------------------------------------------------------------- how it is told


def _short_fact(name: str, fact: Any) -> str:
    return str(fact)[:12] if name == "sha256" else visible(str(fact))


def _arrow(change: Change) -> str:
    texts = zip(change, cut_apart(change, _LONGEST_VALUE), strict=True)
    return " → ".join("none" if side is None else text for side, text in texts)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _first(lines: list[str], what: str) -> list[str]:
    more = len(lines) - _MOST_LINES
    # One line more costs no more than to say that there is one.
    return lines if more <= 1 else [*lines[:_MOST_LINES], f"{more} more {what}"]


def _reached(diff: RunDiff, changes: Changes) -> list[tuple[str, Change]]:
    finished = _ended_well(diff.b)
    return [(name, each) for name, each in changes.items() if finished or each.b is not None]


def _code_lines(diff: RunDiff) -> list[str]:
    code, lines = diff.code, []
    if code.commits:
        lines.append(f"commit {code.commits[0][:7]} → {code.commits[1][:7]}")
    if code.files:
        lines.append(f"code: {', '.join(_file_words(code.files, _ranks(diff)))}")
    return lines


def _ranks(diff: RunDiff) -> dict[str, int]:
    """Rank by path the files that were the script or imported, as far as the runs tell."""
    ranks = {}
    for facts in (_facts(diff.a), _facts(diff.b)):
        files = _mapping(facts, "code").get("files")
        for file in files if isinstance(files, list) else ():
            if isinstance(file, dict) and file.get("origin") in _USED:
                ranks[str(file.get("path"))] = _USED[file["origin"]]
        ranks[str(_mapping(facts, "entry_script").get("relative_name"))] = 0
    return ranks


def _file_words(files: Collection[FileDiff], ranks: Mapping[str, int]) -> list[str]:
    """Name the script, what it imports and configuration; of other files their number."""
    told = [file for file in files if file.path in ranks or _is_configuration(file)] or [*files]
    told.sort(key=lambda file: ranks.get(file.path, 2))
    told = told[:_MOST_LINES]
    words = [f"{visible(file.path)} {file.lines_changed}" for file in told]
    others = len(files) - len(told)
    return [*words, plural(others, "other file")] if others else words


def _is_configuration(file: FileDiff) -> bool:
    return file.path.lower().endswith(_CONFIGURATION) and not file.is_long_data


def _what_changed(change: Change) -> str:
    if change.a is None or change.b is None:
        return "is new" if change.a is None else "is gone"
    return f"changed: {', '.join(change.b)}"
