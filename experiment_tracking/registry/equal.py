"""Equal runs: those that had the same params, code or inputs, and one that need not run again."""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.capture.code import EntryScript, find_project_root, read_code
from experiment_tracking.errors import DamagedError, InvalidValueError
from experiment_tracking.folder import io
from experiment_tracking.registry.aggregate import below, equal_rows, param_columns
from experiment_tracking.registry.record import RunRecord, flat, note
from experiment_tracking.registry.runset import RunSet

if TYPE_CHECKING:
    from experiment_tracking.registry.registry import ExperimentRegistry
    from experiment_tracking.registry.table import RunTable

_MAX_CODE_BYTES = 20_000_000
_SIMPLE = (str, bool, int, float)
_CUT_SHORT = "the run ended before all of its code was kept"


def equal_runs(
    runs: RunSet, by: Iterable[str] = ("params",), exclude: Iterable[str] = ()
) -> list[RunSet]:
    """Group the runs that are equal in all of ``by``; only groups of two or more.

    Parameters
    ----------
    runs
        Where to look. Their order is kept.
    by
        ``"params"``, ``"code"`` (the files kept in ``code/``), ``"inputs"`` (by name and sha256).
        A run of which that is not known, or cannot be read, is in no group.
    exclude
        Params that may differ, nested ones joined by dots; a name also stands for all below it.

    Raises
    ------
    InvalidValueError
        For another word in ``by``.
    """
    names, by = runs.param_names(), list(by)
    left_out = frozenset(name for word in exclude for name in below(word, names))
    keys = {
        "params": lambda run: params_key(run.params, left_out),
        "code": _code,
        "inputs": _inputs,
    }
    reads = [_reader(keys, word) for word in by]
    runs = _alike(runs, left_out) if "params" in by else runs
    known: list[list[str | None]] = [runs.each(read, None) for read in reads]
    rows: dict[tuple[str | None, ...], list[int]] = {}
    for row, key in enumerate(zip(*known, strict=True)):
        if None not in key:
            rows.setdefault(key, []).append(row)
    return [runs.take(group) for group in rows.values() if len(group) > 1]


def _alike(runs: RunSet, left_out: Collection[str]) -> RunSet:
    """Return the runs of which another may have the same params; nothing is read for it.

    Columns do not tell all: 1.0 from 1, or None from nothing.
    """
    columns = {n: column for n, column in param_columns(runs).items() if n not in left_out}
    groups = equal_rows(len(runs), columns).values()
    return runs.take(sorted(row for rows in groups if len(rows) > 1 for row in rows))


def _reader(
    keys: Mapping[str, Callable[[RunRecord], str | None]], word: str
) -> Callable[[RunRecord], str | None]:
    if word not in keys:
        raise InvalidValueError(
            f"Runs are equal by {', '.join(map(repr, keys))}; found {word!r:.60}."
        )
    return keys[word]


def params_key(params: Mapping[str, Any], exclude: Iterable[str] = ()) -> str:
    """Write params so that equal ones give equal text; 1, 1.0 and true are three things."""
    left_out = frozenset(exclude)
    kept = {name: value for name, value in flat(params).items() if name not in left_out}
    return json.dumps(kept, sort_keys=True)


def _code(run: RunRecord) -> str | None:
    files = _kept_code(run)
    if files is None:
        return None
    return json.dumps(sorted([str(each.get("path")), str(each.get("sha256"))] for each in files))


def _inputs(run: RunRecord) -> str | None:
    hashes = sorted([str(each.get("name")), each.get("sha256")] for each in run.inputs)
    return None if any(sha256 is None for _, sha256 in hashes) else json.dumps(hashes)


# ---------------------------------------------------------------------- is it there already


def existing_run(
    registry: "ExperimentRegistry", project: str, params: Mapping[str, Any], script: EntryScript
) -> RunRecord | None:
    """Return the newest finished run that this one would only repeat, None without one.

    It has the same params, all that were logged in its course among them; it ran this script; all
    files in its ``code/`` are in the project as they were; and so are its inputs that are files
    or folders. Arrays, data sets and URLs among the inputs are not looked at: they are not known
    before training.

    Parameters
    ----------
    registry
        Where to look.
    project
        The project of both.
    params
        As they are kept.
    script
        The script of this process.

    Notes
    -----
    Reads the code and hashes the inputs of this project again where a run has the same params.
    """
    runs = registry.list_experiments(project, status="finished")
    key = params_key(params)
    top = os.path.dirname(os.path.realpath(script.path))
    top = os.path.realpath(find_project_root(top) or top)
    for row in reversed(_candidates(runs.table, flat(params))):
        run = runs[row]
        try:
            if params_key(run.params) == key and _would_repeat(run, script, top):
                return run
        except (DamagedError, OSError) as error:
            note(runs.problems, run, error)
    return None


def _candidates(table: "RunTable", params: Mapping[str, Any]) -> Sequence[int]:
    """Rows whose simple params are these, by the columns alone; nothing is read for it."""
    rows = list(range(len(table)))
    for name, value in params.items():
        if rows and type(value) in _SIMPLE:
            try:
                column = table.column(f"params.{name}")
            except KeyError:  # No run has it.
                return []
            rows = [row for row in rows if column[row] == value]
    return rows


def _would_repeat(run: RunRecord, script: EntryScript, top: str) -> bool:
    known = run.environment.get("entry_script")
    same_script = isinstance(known, dict) and known.get("relative_name") == script.relative_name
    ended_well = not run.summary.get("exit_code")
    return same_script and ended_well and is_code_here(run, top) and are_inputs_here(run)


def is_code_here(run: RunRecord, top: str) -> bool:
    """Tell whether every file in a run's ``code/`` is in the project at ``top`` as it was.

    False too where nothing is known: without capture, for a notebook's cells, and where the run
    ended before all of its code was kept.
    """
    files = _kept_code(run)
    return bool(files) and all(_is_file_here(each, top) for each in files or ())


def _kept_code(run: RunRecord) -> list[dict[str, Any]] | None:
    """Return the files of a run's code as listed, None where they are not known."""
    code, notes = run.environment.get("code"), run.environment.get("notes")
    files = code.get("files") if isinstance(code, dict) else None
    is_whole = not (isinstance(notes, list) and _CUT_SHORT in notes)
    if not files or type(files) is not list or not is_whole:
        return None
    return files if all(type(each) is dict for each in files) else None


def _is_file_here(file: Mapping[str, Any], top: str) -> bool:
    parts = str(file.get("path")).split("/")
    if ".." in parts or file.get("origin") == "notebook":
        return False
    path = os.path.join(top, *parts)
    try:
        # What has no secrets in it was kept as it is.
        is_as_kept = file.get("redacted") is False and not path.endswith(".ipynb")
        data = (
            io.read(os.path.realpath(path), _MAX_CODE_BYTES) if is_as_kept else read_code(path)[0]
        )
    except (DamagedError, OSError, ValueError):
        return False
    return hashlib.sha256(data).hexdigest() == file.get("sha256")


def are_inputs_here(run: RunRecord) -> bool:
    """Tell whether a run's input files and folders are where they were, with the same content.

    One that was recorded without a hash is known by its size and time.
    """
    return all(map(_is_input_here, run.inputs))


def _is_input_here(known: Mapping[str, Any]) -> bool:
    from experiment_tracking.formats.inputs import describe_input

    if isinstance(parts := known.get("parts"), dict):
        return all(map(_is_input_here, parts.values()))
    if known.get("kind") not in ("file", "folder"):
        return True
    sha256 = known.get("sha256")
    facts = ("kind", "size_bytes", "files", *(() if sha256 else ("modified_at",)))
    try:
        now = describe_input(str(known.get("path")), hash=False)
        if any(now.get(fact) != known.get(fact) for fact in facts):
            return False
        return not sha256 or describe_input(now["path"])["sha256"] == sha256
    except InvalidValueError:  # Nothing is there, or it cannot be read.
        return False
