"""Run a run again: its code in a clean tree, its command, its seed, as a new run."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiment_tracking.capture.redaction import HIDDEN, is_secret_name
from experiment_tracking.capture.seeds import SEED_VARIABLE
from experiment_tracking.errors import InvalidValueError, ReproductionError
from experiment_tracking.folder.layout import SCRATCH_VARIABLE
from experiment_tracking.jobs.command import is_python
from experiment_tracking.jobs.launch import Job, Outcome, launch
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.reproduce.checkout import Checkout, checkout
from experiment_tracking.reproduce.install import install

_SAME_VARIABLES = (
    "PYTHONHASHSEED", "PYTHONOPTIMIZE", "OMP_", "MKL_", "OPENBLAS_", "CUBLAS_", "XLA_", "JAX_",
    "TF_", "TORCH_", "PYTORCH_", "LANG", "LC_ALL", "TZ",
)  # fmt: skip
"""Variables that change numbers: a rerun gets them as they were, or not at all. The others name
places and devices of the machine, which are the present ones."""


class Options(NamedTuple):
    """How to run again.

    Attributes
    ----------
    environment
        ``current``: the Python that executes us. ``same``: a fresh environment with the packages
        that were recorded.
    link
        Files and folders of the project that the code needs and git does not keep.
    secrets
        Values for what was hidden in the command line, by option name.
    keep_tree
        Leave the tree in place afterwards.
    say
        Told about each stage, a sentence each.
    """

    environment: str = "current"
    link: Sequence[str] = ()
    secrets: Mapping[str, str] = {}
    keep_tree: bool = False
    say: Callable[[str], None] = lambda message: None


class Plan(NamedTuple):
    """What a rerun will do."""

    command: list[str]
    """As it was recorded, hidden values filled in."""
    wanted: list[str]
    """What has to be given first, a sentence each."""
    variables: dict[str, str]
    unset: list[str]
    """Variables that are set now and were not then."""
    warnings: list[str]


def plan(record: RunRecord, secrets: Mapping[str, str] | None = None) -> Plan:
    """Find out what it takes to run a run again; nothing is written.

    Raises
    ------
    ReproductionError
        If the run has no recorded command.
    """
    environment = record.environment
    words = _recorded_command(record)
    command, wanted = _fill_in(words, secrets or {})
    recorded = environment.get("variables") or {}
    variables = {name: value for name, value in recorded.items() if _counts(name)}
    seeds = environment.get("seeds") or {}
    if "seed" in seeds:
        variables[SEED_VARIABLE] = str(seeds["seed"])
    unset = sorted(name for name in os.environ if _counts(name) and name not in variables)
    missing = [n for n in environment.get("hidden_variables") or [] if n not in os.environ]
    warnings = [f"the run had the variable {name} set, which is not set now" for name in missing]
    return Plan(command, wanted, variables, unset, warnings)


def rerun(record: RunRecord, options: Options) -> Outcome:
    """Run a run again as a new run, whose summary says ``rerun_of``.

    Raises
    ------
    ReproductionError, InvalidValueError
        If it cannot be started, with what to do about it. No run is opened then.
    """
    planned = plan(record, options.secrets)
    if planned.wanted:
        raise InvalidValueError(
            f"Run {record.key} was started with something that is kept as {HIDDEN}. "
            + " ".join(planned.wanted)
        )
    for warning in planned.warnings:
        options.say(warning)
    place = tempfile.mkdtemp(prefix=f"rerun-{record.name}-")
    try:
        return _rerun_in(place, record, planned, options)
    finally:
        if options.keep_tree:
            options.say(f"the tree is in {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)


def _rerun_in(place: str, record: RunRecord, planned: Plan, options: Options) -> Outcome:
    tree = checkout(record, os.path.join(place, "tree"), options.link)
    for warning in tree.warnings:
        options.say(warning)
    for name in tree.linked:
        options.say(f"{name} is linked from {tree.project}")
    python = sys.executable
    if options.environment == "same":
        python = install(record, os.path.join(place, "environment"), options.say, tree.folder)
    command = _command_in(planned.command, record, tree, python)
    options.say(f"running {shlex.join(command)}")
    return launch(_job(record, command, planned, tree, place))


def _job(record: RunRecord, command: list[str], planned: Plan, tree: Checkout, place: str) -> Job:
    launched = record.summary.get("launched") or {}
    return Job(
        command,
        record.folder.root,
        project=record.project,
        name=f"{record.name.removesuffix('-rerun')}-rerun",
        params=launched.get("params") or {},
        tags=record.tags,
        group=record.group,
        facts={"rerun_of": record.id},
        collect=launched.get("collect") or (),
        cwd=tree.cwd,
        # What else the script opens is not asked for, and goes with the tree.
        variables={
            **planned.variables,
            **_search_path(record, tree),
            SCRATCH_VARIABLE: os.path.join(place, "further-runs"),
        },
        unset=planned.unset,
        run_number=record.environment.get("run_number") or 1,
    )


def _recorded_command(record: RunRecord) -> list[str]:
    launched = record.summary.get("launched") or {}
    words = launched.get("command") or record.environment.get("command")
    if not words:
        raise ReproductionError(
            f"Run {record.key} has no recorded command: it was made with auto_log=False, or died "
            "before it was captured. Start its script by hand."
        )
    if _is_notebook(record, words):
        return [sys.executable, "-m", "IPython", "--no-banner", "notebook.ipy"]
    return [str(word) for word in words]


def _is_notebook(record: RunRecord, words: Sequence[str]) -> bool:
    files = (record.environment.get("code") or {}).get("files") or []
    has_cells = any(file.get("origin") == "notebook" for file in files)
    return has_cells and record.environment.get("entry_script") is None and len(words) > 0


def _fill_in(words: Sequence[str], secrets: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Put the values of hidden arguments back, as far as they are given."""
    filled, wanted = [], []
    before = ""
    for word in words:
        if HIDDEN not in word:
            filled.append(word)
        elif (found := _secret(word, before, secrets)) is not None:
            filled.append(word.replace(HIDDEN, found))
        else:
            filled.append(word)
            wanted.append(_wish(word, before))
        before = word
    return filled, wanted


def _option_of(word: str, before: str) -> str:
    shown = word.partition("=")[0] if "=" in word else before
    return shown.lstrip("-+~") if is_secret_name(shown) else word


def _variable(option: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in option).upper()


def _secret(word: str, before: str, secrets: Mapping[str, str]) -> str | None:
    option = _option_of(word, before)
    return secrets.get(option) or os.environ.get(_variable(option))


def _wish(word: str, before: str) -> str:
    option = _option_of(word, before)
    return (
        f"Give the value of {option} by --secret {option}=VALUE, or set the environment variable "
        f"{_variable(option)}."
    )


def _command_in(words: Sequence[str], record: RunRecord, tree: Checkout, python: str) -> list[str]:
    """Write the command as it is to be in the tree: its paths, and the Python of our choice."""
    first = python if is_python(words[0]) else words[0]
    script = (record.environment.get("entry_script") or {}).get("path")
    recorded_in = os.path.join(tree.project, str(record.environment.get("cwd") or ""))
    moved = [first]
    for word in words[1:]:
        is_script = tree.script and os.path.join(recorded_in, word) == script
        moved.append(tree.script if is_script and tree.script else _in_tree(word, tree))
    return moved


def _in_tree(path: str, tree: Checkout) -> str:
    """Lead an absolute path of the project to the same file in the tree, if that is there."""
    if not os.path.isabs(path) or not path.startswith(tree.project.rstrip("/") + "/"):
        return path
    moved = os.path.join(tree.folder, os.path.relpath(path, tree.project))
    return moved if os.path.exists(moved) else path


def _search_path(record: RunRecord, tree: Checkout) -> dict[str, str]:
    """Have packages of the project, installed from its folder, imported from the tree."""
    recorded = record.environment.get("variables") or {}
    folders = [_in_tree(path, tree) for path in recorded.get("PYTHONPATH", "").split(os.pathsep)]
    for source in (record.environment.get("package_sources") or {}).values():
        path = str(source.get("url", "")).removeprefix("file://")
        if (source.get("dir_info") or {}).get("editable") and _in_tree(path, tree) != path:
            folders += [os.path.join(_in_tree(path, tree), "src"), _in_tree(path, tree)]
    present = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = dict.fromkeys(folder for folder in (*folders, *present) if folder)
    return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}


def _counts(name: str) -> bool:
    return any(name.startswith(known) if known[-1] == "_" else name == known
               for known in _SAME_VARIABLES)  # fmt: skip


def describe(record: RunRecord, planned: Plan) -> list[str]:
    """Say what a rerun would do, a line each."""
    environment: Mapping[str, Any] = record.environment
    git = environment.get("git") or {}
    code = environment.get("code") or {}
    lines = [f"run       {record.key}"]
    if git.get("commit"):
        patch = ", then its uncommitted changes" if os.path.exists(record.folder.patch) else ""
        lines.append(f"code      commit {git['commit'][:12]} of {git.get('top')}{patch}")
    lines.append(f"files     {len(code.get('files') or [])} kept with the run")
    lines += [f"left out  {out['path']}: {out['reason']}" for out in code.get("left_out") or []]
    lines.append(f"command   {shlex.join(planned.command)}")
    lines.append(f"in        {environment.get('cwd')}")
    lines += [f"variable  {name}={value}" for name, value in planned.variables.items()]
    lines += [f"unset     {name}" for name in planned.unset]
    lines += [f"wanted    {wish}" for wish in planned.wanted]
    return lines + [f"note      {warning}" for warning in planned.warnings]
