"""Whether a rerun came out as the original did, and what differs."""

import fnmatch
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from experiment_tracking.errors import ExperimentTrackingError, InvalidValueError
from experiment_tracking.folder import io
from experiment_tracking.folder.digest import merged_rows
from experiment_tracking.folder.history import HistoryReader, metric_values
from experiment_tracking.folder.values import shown_name
from experiment_tracking.formats.inputs import same_input
from experiment_tracking.registry.record import RunRecord, flat
from experiment_tracking.reproduce.checkout import counted, place_below
from experiment_tracking.reproduce.console import Line, read_console, without_places
from experiment_tracking.reproduce.equality import (
    close,
    distance,
    is_clock,
    same_archive,
    same_arrays,
    same_model,
    same_numbers,
    same_text,
)

MOST_DIFFERENCES = 20
"""Kept of each section; of the others there is the number."""

RESULTS = ("values", "files", "lines")
"""What a run brings forth. A rerun of which none was compared has proved nothing."""

_MAX_BYTES = 2**30
_MOST_PACKAGES = 5
_ARCHIVES = (".keras", ".npz", ".pt2", ".skops", ".zip")
_TEXTS = (".csv", ".tsv", ".json", ".txt", ".md", ".log", ".yaml", ".yml")


class Difference(NamedTuple):
    """One thing that did not come out as it had.

    Attributes
    ----------
    section
        ``params``, ``metrics``, ``ending``, ``inputs``, ``files`` or ``console``.
    name
        Which one, as in ``loss at step 3``.
    expected, found
        In the original and in the rerun; None where there is none.
    note
        How far it reaches, or empty.
    """

    section: str
    name: str
    expected: Any
    found: Any
    note: str = ""


@dataclass
class Verification:
    """What a comparison of a rerun with its original came to.

    Attributes
    ----------
    original, rerun
        The two runs as ``project/name``.
    tolerance
        Numbers are equal within this, relative to the larger one or to 1.
    differences
        At most ``MOST_DIFFERENCES`` per section.
    more
        Number of further differences by section.
    set_aside
        What was not compared, and why.
    causes
        What is likely to have made the difference, and what to do; empty where nothing differs.
    checked
        How much was compared: ``params``, ``values`` (of metrics), ``ending``, ``inputs``,
        ``files``, ``lines``.
    """

    original: str
    rerun: str
    tolerance: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    more: dict[str, int] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether nothing differs and a result of the run was compared at all."""
        return not self.differences and self.compared_results

    @property
    def compared_results(self) -> bool:
        """Whether a value, a file or a line that the run brought forth was compared."""
        return any(self.checked.get(part) for part in RESULTS)

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain values for JSON; non-finite numbers as text."""
        differences = [
            {k: _plain(value) for k, value in one._asdict().items()} for one in self.differences
        ]
        return {"holds": self.holds, **vars(self), "differences": differences}

    def to_text(self) -> str:
        """Give everything as lines for a terminal."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        verdict = "repeats" if self.holds else "does not repeat"
        yield f"{self.rerun} {verdict} {self.original}"
        yield from (f"  likely cause: {cause}" for cause in self.causes)
        for one in self.differences:
            note = f" ({one.note})" if one.note else ""
            values = f"{_shown(one.expected)}, now {_shown(one.found)}"
            yield f"  {one.section}: {one.name}: {values}{note}"
        for section, count in self.more.items():
            yield f"  {section}: and {count:,} more"
        if not self.compared_results and not self.differences:
            yield "  nothing that the run brings forth was compared: no metrics, files or console"
        counts = [
            counted(count, part[:-1]) if part.endswith("s") else f"{count:,} {part}"
            for part, count in self.checked.items()
            if count
        ]
        yield f"compared: {', '.join(counts) or 'nothing'}; tolerance {self.tolerance:g}"
        yield from (f"set aside: {what}" for what in self.set_aside)


def verify(
    original: RunRecord, rerun: RunRecord, tolerance: float = 0.0, ignore: Sequence[str] = ()
) -> Verification:
    """Compare a rerun with its original: params, every metric row, ending, inputs, files.

    Where the original logged no metrics, its console is compared line by line, without times,
    paths, process numbers, addresses and progress bars.

    Parameters
    ----------
    original, rerun
        Both must have ended.
    tolerance
        Values ``a`` and ``b`` are equal when ``|a - b| <= tolerance * max(1, |a|, |b|)``. NaN
        equals NaN. It holds for metrics, for numbers in the console, and for those in kept
        tables, JSON and weights of IEEE floats; params and hashes are compared as they are.
    ignore
        Patterns such as ``"val/*"``, ``"params.out_*"`` or ``"files.*"`` of names to set aside.

    Raises
    ------
    InvalidValueError
        For a tolerance that is negative or no number.

    Notes
    -----
    Metrics that measure time, by their names, are set aside and named.
    """
    if not 0 <= tolerance < math.inf:
        raise InvalidValueError(f"tolerance must be a number from 0 up, found {tolerance!r}.")
    comparison = _Comparison(original, rerun, tolerance, tuple(ignore))
    comparison.compare_params()
    comparison.compare_metrics()
    comparison.compare_ending()
    comparison.compare_inputs()
    comparison.compare_files()
    if not comparison.has_metrics:
        comparison.compare_consoles()
    comparison.find_causes()
    return comparison.result


class _Comparison:
    """Two runs and what was found so far."""

    def __init__(
        self, original: RunRecord, rerun: RunRecord, tolerance: float, ignore: tuple[str, ...]
    ) -> None:
        self.original, self.rerun = original, rerun
        self.tolerance, self.ignore = tolerance, ignore
        self.result = Verification(original.key, rerun.key, tolerance)
        self.has_metrics = False

    def _differ(self, section: str, name: str, expected: Any, found: Any, note: str = "") -> None:
        kept = sum(one.section == section for one in self.result.differences)
        if kept < MOST_DIFFERENCES:
            self.result.differences.append(Difference(section, name, expected, found, note))
        else:
            self.result.more[section] = self.result.more.get(section, 0) + 1

    def _names(self, section: str, *each: Iterable[str]) -> list[str]:
        """Return all names once, without those to ignore, which are set aside."""
        names = []
        for name in dict.fromkeys(itertools.chain(*each)):
            patterns = [p for p in self.ignore if _matches(p, section, name)]
            if patterns:
                self.result.set_aside.append(f"{section}: {name} (ignored by {patterns[0]!r})")
            else:
                names.append(name)
        return names

    def compare_params(self) -> None:
        a, b = ({**flat(run.params)} for run in (self.original, self.rerun))
        places = _places(self.original), _places(self.rerun)
        names = self._names("params", a, b)
        for name in names:
            one, other = a.get(name), b.get(name)
            same = _same_param(without_places(one, places[0]), without_places(other, places[1]))
            if not same or (name in a) != (name in b):
                note = f"set it aside with --ignore params.{name}"
                self._differ("params", name, one, other, note)
        self.result.checked["params"] = len(names)

    # ------------------------------------------------------------------ metrics

    def compare_metrics(self) -> None:
        a, b = self._series(self.original), self._series(self.rerun)
        self.result.checked["values"] = 0
        for name in self._names("metrics", a, b):
            if is_clock(name):
                self.result.set_aside.append(f"metrics: {name} (a clock, by its name)")
            else:
                self.has_metrics = True
                self._compare_metric(name, a.get(name, []), b.get(name, []))

    def _series(self, run: RunRecord) -> dict[str, list[tuple[int, float]]]:
        """Step and value of each metric in the order of the rows, of all ranks."""
        series: dict[str, list[tuple[int, float]]] = {}
        for rank in [None, *run.folder.ranks()]:
            if rank is not None and not rank.isdigit():
                self.result.set_aside.append(f"metrics: those of process {rank} of {run.key}")
                continue
            end = f" (rank {rank})" if rank else ""
            for row in merged_rows(HistoryReader(run.folder.history(rank)).rows()):
                for name, value in metric_values(row).items():
                    series.setdefault(shown_name(name) + end, []).append((row["step"], value))
        return series

    def _compare_metric(
        self, name: str, a: list[tuple[int, float]], b: list[tuple[int, float]]
    ) -> None:
        self.result.checked["values"] += min(len(a), len(b))
        if len(a) != len(b):
            self._differ("metrics", name, _rows(len(a)), _rows(len(b)))
        wrong = [
            (one, other)
            for one, other in zip(a, b, strict=False)
            if one[0] != other[0] or not close(one[1], other[1], self.tolerance)
        ]
        if wrong:
            (step, expected), (now, found) = wrong[0]
            shown = found if step == now else f"{found!r} at step {now}"
            note = f"{len(wrong):,} of {_rows(len(a))} differ" + _would_pass(wrong)
            self._differ("metrics", f"{name} at step {step}", expected, shown, note)

    # ------------------------------------------------------------------ ending, inputs, files

    def compare_ending(self) -> None:
        a, b = self.original, self.rerun
        pairs: dict[str, tuple[Any, Any]] = {"status": (a.status, b.status)}
        codes = a.summary.get("exit_code"), b.summary.get("exit_code")
        if None not in codes:  # Only a launcher learns it.
            pairs["exit_code"] = codes
        for name in (names := self._names("ending", pairs)):
            if pairs[name][0] != pairs[name][1]:
                self._differ("ending", name, *pairs[name])
        self.result.checked["ending"] = len(names)

    def compare_inputs(self) -> None:
        a, b = ({str(i.get("name")): i for i in run.inputs} for run in (self.original, self.rerun))
        self.result.checked["inputs"] = 0
        for name in self._names("inputs", a, b):
            same = same_input(a[name], b[name]) if name in a and name in b else False
            if same is None:
                self.result.set_aside.append(f"inputs: {name} (nothing tells its content)")
                continue
            self.result.checked["inputs"] += 1
            if not same:
                self._differ("inputs", name, _content(a.get(name)), _content(b.get(name)))

    def compare_files(self) -> None:
        a, b = (
            {str(e.get("path")): e.get("sha256") for e in run.artifacts}
            for run in (self.original, self.rerun)
        )
        names = self._names("files", a, b)
        for name in names:
            in_both = name in a and name in b
            if not in_both or (a[name] != b[name] and not self._same_file(name)):
                self._differ("files", name, _hash(a.get(name)), _hash(b.get(name)))
        self.result.checked["files"] = len(names)

    def _same_file(self, name: str) -> bool:
        """Tell whether two files of other bytes hold the same, numbers within the tolerance."""
        ending = os.path.splitext(name)[1]
        is_model = name.startswith("models/") and name.endswith("/model.json")
        numbers = self.tolerance and ending in (".safetensors", *_TEXTS)
        if not (is_model or ending in _ARCHIVES or numbers):
            return False
        try:
            a, b = (
                io.read(place_below(run.folder.path, name), _MAX_BYTES)
                for run in (self.original, self.rerun)
            )
        except (OSError, ExperimentTrackingError):  # Gone or damaged, which is not the same.
            return False
        if is_model:
            return same_model(a, b, self.tolerance)
        if ending in _ARCHIVES:
            return same_archive(a, b)
        same = same_arrays if ending == ".safetensors" else same_text
        return same(a, b, self.tolerance)

    # ------------------------------------------------------------------ console

    def compare_consoles(self) -> None:
        codes = [run.summary.get("exit_code") for run in (self.original, self.rerun)]
        if codes[0] != codes[1] and any(codes):
            which = "the command failed" if codes[1] else "the original had failed"
            self.result.set_aside.append(f"{which}; console not compared")
            return
        a, b = (self._console(run) for run in (self.original, self.rerun))
        self.result.checked["lines"] = len(a or ())
        if a is None or not self._names("console", ["console.log"]):
            self.result.checked["lines"] = 0
        elif b is None:
            self._differ("console", "console.log", f"{len(a):,} lines", None)
        else:
            self._compare_lines(a, b)

    def _console(self, run: RunRecord) -> list[Line] | None:
        try:
            text = io.read(run.folder.console, _MAX_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        lines, aside = read_console(text, _places(run))
        self.result.set_aside += [f"console of {run.key}: {what}" for what in aside]
        return lines

    def _compare_lines(self, a: list[Line], b: list[Line]) -> None:
        """Compare lines of one kind with one another, in their order.

        So one more line does not shift all that follow, and lines of stdout and stderr may come
        in another order.
        """
        one, other = _by_kind(a), _by_kind(b)
        for kind in dict.fromkeys([*one, *other]):
            self._compare_kind(one.get(kind, []), other.get(kind, []))
        kinds = [line.kind for line in a], [line.kind for line in b]
        if kinds[0] != kinds[1] and sorted(kinds[0]) == sorted(kinds[1]):
            self.result.set_aside.append("console: the order of lines of different kinds")

    def _compare_kind(self, a: list[Line], b: list[Line]) -> None:
        if not a or not b:
            lines = a or b
            note = f"{len(lines):,} such lines" if len(lines) > 1 else ""
            expected, found = (lines[0].text, None) if a else (None, lines[0].text)
            self._differ("console", f"line {lines[0].line_number}", expected, found, note)
            return
        if len(a) != len(b):
            self._differ("console", f"lines like {a[0].text!r}", len(a), len(b))
        wrong = [
            (line, now)
            for line, now in zip(a, b, strict=False)
            if not same_numbers(line.numbers, now.numbers, self.tolerance)
        ]
        if wrong:
            note = f"{len(wrong):,} of {len(a):,} such lines" if len(a) > 1 else ""
            line, now = wrong[0]
            self._differ("console", f"line {line.line_number}", line.text, now.text, note)

    # ------------------------------------------------------------------ causes

    def find_causes(self) -> None:
        """Name what is known to differ besides the results, where those differ."""
        differing = {one.section for one in self.result.differences}
        if not differing & {"metrics", "files", "console"}:
            return
        for one in self.result.differences:
            if one.section == "inputs":
                self.result.causes.append(f"input {one.name!r} changed")
        if not _knows_its_seed(self.original):
            seeding = f"{self.original.key} set no seed: run.seed_everything(0)"
            self.result.causes.append(seeding)
        self.result.causes += _other_packages(self.original, self.rerun)


# ---------------------------------------------------------------------- names and values


def _knows_its_seed(run: RunRecord) -> bool:
    """Tell whether a seed is recorded; a param that is called so will have been used."""
    return "seeds" in run.environment or any("seed" in name.lower() for name in flat(run.params))


def _other_packages(original: RunRecord, rerun: RunRecord) -> list[str]:
    a, b = ({**(run.environment.get("packages") or {})} for run in (original, rerun))
    a["python"], b["python"] = (r.environment.get("python_version") for r in (original, rerun))
    # A package that only one of them has is hardly what the run used.
    differing = [name for name in a if a[name] and b.get(name) and a[name] != b[name]]
    shown = ", ".join(f"{name} {a[name]}, now {b[name]}" for name in differing[:_MOST_PACKAGES])
    more = len(differing) - _MOST_PACKAGES
    end = f" and {more} more" if more > 0 else ""
    return [f"packages differ: {shown}{end}; --env same takes the old ones"] if shown else []


def _rows(number: int) -> str:
    return counted(number, "row")


def _would_pass(wrong: Sequence[tuple[tuple[int, float], tuple[int, float]]]) -> str:
    """Name a tolerance within which all of these are equal, if one is below 1."""
    worst = max(distance(one[1], other[1]) for one, other in wrong)
    if worst >= 1 or any(one[0] != other[0] for one, other in wrong):
        return ""
    rounded = f"{worst:.1e}"
    if float(rounded) < worst:  # It is to be rounded up.
        rounded = f"{worst * 1.05:.1e}"
    return f"; --tolerance {rounded} would pass"


def _by_kind(lines: Iterable[Line]) -> dict[str, list[Line]]:
    kinds: dict[str, list[Line]] = {}
    for line in lines:
        kinds.setdefault(line.kind, []).append(line)
    return kinds


def _matches(pattern: str, section: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(f"{section}.{name}", pattern)


def _places(run: RunRecord) -> list[tuple[str, str]]:
    """Folders that are others in a rerun, the longest first, with what to put for them."""
    project = run.environment.get("project")
    places = [(run.folder.path, "<run>"), (run.folder.root, "<root>"), (project, "<project>")]
    return sorted(
        [(path, word) for path, word in places if isinstance(path, str) and len(path) > 1],
        key=lambda place: -len(place[0]),
    )


def _same_param(a: Any, b: Any) -> bool:
    return bool(a == b) or (a != a and b != b)


def _hash(sha256: str | None) -> str | None:
    return f"sha256 {sha256[:12]}" if sha256 else None


def _content(description: Mapping[str, Any] | None) -> str | None:
    if description is None:
        return None
    shape = description.get("shape")
    what = f"{description.get('kind')} of shape {shape}" if shape else str(description.get("kind"))
    return _hash(description.get("sha256")) or what


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value!r:.200}" if isinstance(value, str) else str(value)
