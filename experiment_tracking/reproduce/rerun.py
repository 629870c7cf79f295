"""Run a run again: its code in a clean tree, its command, its seed, as a new run."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from experiment_tracking.capture.redaction import HIDDEN, redact_arguments
from experiment_tracking.capture.seeds import SEED_VARIABLE
from experiment_tracking.errors import InvalidValueError, ReproductionError, RunNotFoundError
from experiment_tracking.folder.layout import SCRATCH_VARIABLE, suggest_name
from experiment_tracking.jobs.command import is_python, reads_its_script
from experiment_tracking.jobs.launch import Job, Outcome, check_program, launch
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.registry import ExperimentRegistry
from experiment_tracking.reproduce.checkout import Checkout, checkout, counted
from experiment_tracking.reproduce.install import describe_environment, install
from experiment_tracking.reproduce.missing import missing_data

_SAME_VARIABLES = (
    "PYTHONHASHSEED", "PYTHONOPTIMIZE", "PYTHONUTF8", "PYTHONSAFEPATH", "LANG", "LC_ALL", "TZ",
    "TOKENIZERS_PARALLELISM", "NVIDIA_TF32_OVERRIDE", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
_SAME_PREFIXES = (
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "NUMBA_", "CUBLAS_", "CUDNN_",
    "XLA_", "JAX_", "TF_", "TORCH_", "PYTORCH_", "TRITON_",
)  # fmt: skip
"""Variables that change numbers: a rerun gets them as they were, or not at all. The others name
places and devices of the machine, which are the present ones."""

_PLACES = ("_HOME", "_DIR", "_PATH", "_FILE")
_NOTEBOOK = "notebook.ipy"
_IPYTHON_OPTIONS = (
    "--no-banner", "--quick", "--simple-prompt", "--TerminalInteractiveShell.term_title=False",
    # `%matplotlib inline` tells on stdout that there is no window to serve.
    "--InteractiveShellApp.exec_lines=get_ipython().enable_gui = lambda gui=None: None",
)  # fmt: skip
_RERUN = "-rerun"
_ROOM_FOR_SUFFIX = 110


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


class Rehearsal(NamedTuple):
    """What a rerun comes to as far as it can be told without running the command."""

    tree: Checkout
    """As it was put together; it is gone by now."""
    packages: str
    """Which Python runs the command, and with which packages."""


# ---------------------------------------------------------------------- what it takes


def plan(record: RunRecord, secrets: Mapping[str, str] | None = None) -> Plan:
    """Find out what it takes to run a run again; nothing is written.

    Raises
    ------
    ReproductionError
        If the run has no recorded command, or its script came from standard input.
    """
    first = first_of(record)
    environment = first.environment
    command, wanted = _fill_in(_recorded_command(first), secrets or {})
    variables, unset = _variables(environment)
    return Plan(command, wanted, variables, unset, list(_warnings(record, first)))


def first_of(record: RunRecord) -> RunRecord:
    """Return the run that a chain of reruns began with, as far as its runs are still there.

    A rerun ran in a tree that is gone; its code is that of the first.
    """
    registry = ExperimentRegistry(record.folder.root)
    seen = {record.id}
    while (above := record.summary.get("rerun_of")) and above not in seen:
        seen.add(above)
        try:
            record = registry.get(above)
        except RunNotFoundError:
            break
    return record


def _recorded_command(record: RunRecord) -> list[str]:
    launched = record.summary.get("launched") or {}
    words = launched.get("command") or record.environment.get("command")
    if not words and (imported := record.summary.get("imported_from")):
        raise ReproductionError(
            f"Run {record.key} was imported ({imported.get('kind')}), and its source tells no "
            "command that can be run again. Start its script by hand."
        )
    if not words:
        raise ReproductionError(
            f"Run {record.key} has no recorded command: it was made with auto_log=False, or died "
            "before it was captured. Start its script by hand."
        )
    if _is_notebook(record):
        return [sys.executable, "-m", "IPython", *_IPYTHON_OPTIONS, _NOTEBOOK]
    if reads_its_script(words):
        raise ReproductionError(
            f"Run {record.key}: the script came from standard input and was not kept; it cannot "
            "be run again. Put it into a file and run that."
        )
    return [str(word) for word in words]


def _is_notebook(record: RunRecord) -> bool:
    files = (record.environment.get("code") or {}).get("files") or []
    has_cells = any(file.get("origin") == "notebook" for file in files)
    return has_cells and record.environment.get("entry_script") is None


def _variables(environment: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return the variables to set, and the names of those to leave out."""
    recorded = environment.get("variables")
    variables = {name: value for name, value in (recorded or {}).items() if _counts(name)}
    # Where nothing was recorded, nothing is known to have been unset.
    present = [] if recorded is None else os.environ
    unset = sorted(name for name in present if _counts(name) and name not in variables)
    variables = {name: value for name, value in variables.items() if HIDDEN not in value}
    seeds = environment.get("seeds") or {}
    return variables | ({SEED_VARIABLE: str(seeds["seed"])} if "seed" in seeds else {}), unset


def _counts(name: str) -> bool:
    is_known = name in _SAME_VARIABLES or name.startswith(_SAME_PREFIXES)
    return is_known and not name.endswith(_PLACES)


def _warnings(record: RunRecord, first: RunRecord) -> Iterator[str]:
    if record.status == "running":
        yield f"Run {record.key} is still running; what it imports later may be missing."
    if first.id != record.id:
        yield f"Run {record.key} is a rerun of {first.key}, whose code is run again."
    processes = (first.environment.get("launcher") or {}).get("WORLD_SIZE", "1")
    if processes != "1" and not first.summary.get("launched"):
        yield (
            f"The run was one of {processes} processes, and this is one alone. What is started "
            "by experiments run -- torchrun … is run again with all of them."
        )
    python = ".".join(str(first.environment.get("python_version") or "").split(".")[:2])
    present = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python and python != present:
        yield f"The run had Python {python}, this is {present}. --env same takes the recorded one."
    hidden = first.environment.get("hidden_variables") or []
    if missing := [name for name in hidden if name not in os.environ]:
        yield f"The run had variables with secrets that are not set now: {', '.join(missing)}."


# ---------------------------------------------------------------------- hidden values


def _fill_in(words: Sequence[str], secrets: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Put the values of hidden arguments back, as far as they are given; ask for the others."""
    filled, wanted = [], []
    for place, word in enumerate(words):
        name = _name_of_hidden(words, place) if HIDDEN in word else ""
        value = secrets.get(name) or os.environ.get(_variable(name))
        filled.append(word.replace(HIDDEN, value) if name and value else word)
        if name and not value:
            wanted.append(
                f"Give the value of {name} by --secret {name}=VALUE, or set the environment "
                f"variable {_variable(name)}."
            )
    return filled, wanted


def _name_of_hidden(words: Sequence[str], place: int) -> str:
    """Name a hidden value by its option, or by its place where it has none."""
    name, equals, _ = words[place].partition("=")
    before = words[place - 1] if place else ""
    if not (equals and HIDDEN not in name):
        name = before if before.startswith("-") else f"argument-{place}"
    return name.lstrip("-+~")


def _variable(option: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in option).upper()


# ---------------------------------------------------------------------- running it


def rerun(record: RunRecord, options: Options) -> Outcome:
    """Run a run again as a new run, whose summary says ``rerun_of``.

    Raises
    ------
    ReproductionError, InvalidValueError
        If it cannot be started, with what to do about it. No run is opened then.
    """
    planned = plan(record, options.secrets)
    _check_wanted(record, planned)
    for warning in planned.warnings:
        options.say(warning)
    with _temporary_folder(options.keep_tree) as place, _no_input():
        try:
            return _rerun_in(place, record, planned, options)
        finally:
            if options.keep_tree:
                options.say(f"the tree is in {place}")


def rehearse(record: RunRecord, options: Options) -> Rehearsal:
    """Do what a rerun does but for installing packages and running the command.

    Raises
    ------
    ReproductionError, InvalidValueError, NotFoundError
        If it cannot be run again, as :func:`rerun`.
    """
    planned, first = plan(record, options.secrets), first_of(record)
    _check_wanted(record, planned)
    with _temporary_folder() as place:
        tree = checkout(first, os.path.join(place, "tree"), options.link)
        if options.environment == "same":
            return Rehearsal(tree, describe_environment(first, tree.folder))
        command = _command_in(planned.command, first, tree, sys.executable)
        check_program(command[0], tree.cwd)
        return Rehearsal(tree, f"those of {sys.executable}")


def _check_wanted(record: RunRecord, planned: Plan) -> None:
    if planned.wanted:
        raise InvalidValueError(
            f"Run {record.key} was started with something that is kept as {HIDDEN}. "
            + " ".join(planned.wanted)
        )


@contextlib.contextmanager
def _temporary_folder(keep: bool = False) -> Iterator[str]:
    """Make a folder that is taken away at the end, also when SIGTERM or a hangup brings that."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What is ignored (nohup) stays ignored.
    heeded = [n for n in signals if is_main and signal.getsignal(n) != signal.SIG_IGN]
    before = [(number, signal.signal(number, end)) for number in heeded]
    place = tempfile.mkdtemp(prefix="experiments-rerun-")
    try:
        yield place
    finally:
        for number in heeded:  # A second one must not cut the cleaning short.
            signal.signal(number, signal.SIG_IGN)
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
        for number, handler in before:
            signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def _no_input() -> Iterator[None]:
    """Give what is started nothing to read, but for a person at a terminal."""
    try:
        is_terminal, stdin = os.isatty(0), os.dup(0)
    except OSError:  # It is closed, and stays so.
        yield
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    if not is_terminal:
        os.dup2(nothing, 0)
    try:
        yield
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(nothing)


def _rerun_in(place: str, record: RunRecord, planned: Plan, options: Options) -> Outcome:
    first = first_of(record)
    tree = checkout(first, os.path.join(place, "tree"), options.link)
    for warning in tree.warnings:
        options.say(warning)
    for name in tree.linked:
        options.say(f"{name} is linked from {tree.project}")
    variables = {**planned.variables, SCRATCH_VARIABLE: os.path.join(place, "further-runs")}
    python = sys.executable
    if options.environment == "same":
        python = install(first, os.path.join(place, "environment"), options.say, tree.folder)
        # What the command starts by name, torchrun say, is that of the new environment too.
        path = os.environ.get("PATH", os.defpath)
        variables["PATH"] = os.path.dirname(python) + os.pathsep + path
    variables |= _search_path(first, tree)
    command = _command_in(planned.command, first, tree, python)
    options.say(f"running {shlex.join(redact_arguments(command))}")
    job = _job(record, first, planned, command, options.environment)
    outcome = launch(job._replace(cwd=tree.cwd, variables=variables))
    if outcome.exit_code and first.status == "finished":
        for name in missing_data(outcome.path, tree):
            way_out = f"--link {shlex.quote(name)}"
            options.say(f"{name} is in {tree.project} but not in the rerun's folder: {way_out}")
    return outcome


def _job(
    record: RunRecord, first: RunRecord, planned: Plan, command: Sequence[str], environment: str
) -> Job:
    launched = first.summary.get("launched") or {}
    return Job(
        command,
        record.folder.root,
        project=record.project,
        name=_name_for(record),
        params=launched.get("params") or {},
        tags=record.tags,
        group=record.group,
        facts={"rerun_of": record.id},
        collect=launched.get("collect") or (),
        unset=planned.unset,
        run_number=first.environment.get("run_number") or 1,
        recorded=_recorded_words(planned.command, environment),
        keep_inputs=bool(launched),
    )


def _recorded_words(words: Sequence[str], environment: str) -> list[str]:
    """Return the words of the original, with the Python that runs them now where it is another."""
    program, *arguments = words
    found = shutil.which(program) or ""
    same = os.path.exists(found) and os.path.samefile(found, sys.executable)
    if is_python(program) and environment == "current" and not same:
        program = sys.executable
    return [program, *arguments]


def _name_for(record: RunRecord) -> str:
    name = record.name
    if record.summary.get("rerun_of"):
        name = re.sub(rf"{_RERUN}(-\d+)?$", "", name)
    return suggest_name(name.encode()[:_ROOM_FOR_SUFFIX].decode(errors="ignore")) + _RERUN


def _command_in(words: Sequence[str], record: RunRecord, tree: Checkout, python: str) -> list[str]:
    """Write the command as it is to be in the tree: its paths, and the Python of our choice."""
    if _is_notebook(record):
        _check_ipython(python)
        return [python, *words[1:-1], os.path.join(tree.folder, _NOTEBOOK)]
    first = python if is_python(words[0]) else _in_tree(words[0], tree)
    command = [first, *(_argument_in(word, record, tree) for word in words[1:])]
    program = os.path.join(tree.cwd, first)
    if os.path.dirname(first) and program.startswith(tree.folder + os.sep):
        _allow_to_execute(program)
    return command


def _argument_in(word: str, record: RunRecord, tree: Checkout) -> str:
    """Lead a word of the command line that is a path, or ends in one, into the tree."""
    cwd = os.path.join(tree.project, str(record.environment.get("cwd") or ""))
    script = (record.environment.get("entry_script") or {}).get("path")
    if tree.script and os.path.realpath(os.path.join(cwd, word)) == script:
        # Also where the project was called by another name, a link to it.
        same = os.path.realpath(os.path.join(tree.cwd, word)) == os.path.realpath(tree.script)
        return word if same else tree.script
    option, equals, path = word.rpartition("=")
    return option + equals + _in_tree(path, tree)


def _in_tree(path: str, tree: Checkout) -> str:
    """Lead an absolute path of the project to the same file in the tree, if that is there."""
    if not os.path.isabs(path) or not path.startswith(tree.project.rstrip("/") + "/"):
        return path
    moved = os.path.join(tree.folder, os.path.relpath(path, tree.project))
    return moved if os.path.exists(moved) else path


def _allow_to_execute(program: str) -> None:
    """Let a kept file be the program; outside git its mode is not kept."""
    if os.path.isfile(program):
        os.chmod(program, os.stat(program).st_mode | 0o100)


def _check_ipython(python: str) -> None:
    command = [python, "-c", "import IPython"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise ReproductionError(
            f"The run was made in a notebook, whose cells IPython runs, and {python} has none. "
            "Run: pip install ipython."
        )


def _search_path(record: RunRecord, tree: Checkout) -> dict[str, str]:
    """Have packages of the project, installed from its folder, imported from the tree."""
    recorded = (record.environment.get("variables") or {}).get("PYTHONPATH", "")
    present = os.environ.get("PYTHONPATH", "")
    folders = recorded.split(os.pathsep)
    for source in (record.environment.get("package_sources") or {}).values():
        path = unquote(urlsplit(str(source.get("url", ""))).path)
        is_editable = (source.get("dir_info") or {}).get("editable")
        if is_editable and (moved := _in_tree(path, tree)) != path:
            folders += [os.path.join(moved, "src"), moved]
    folders += present.split(os.pathsep)
    paths = dict.fromkeys(_in_tree(folder, tree) for folder in folders if folder)
    return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}


# ---------------------------------------------------------------------- saying it


def describe(record: RunRecord, planned: Plan) -> list[str]:
    """Say what a rerun would do, a line each, without the secrets that were given."""
    first = first_of(record)
    environment: Mapping[str, Any] = first.environment
    git, code = environment.get("git") or {}, environment.get("code") or {}
    lines = [f"run       {record.key}"]
    if git.get("commit"):
        patch = ", then its uncommitted changes" if os.path.exists(first.folder.patch) else ""
        lines.append(f"code      commit {git['commit'][:12]} of {git.get('top')}{patch}")
    lines.append(f"files     {counted(len(code.get('files') or []), 'file')} kept with the run")
    lines += [
        f"input     {one.get('name')} {one.get('path') or ''}".rstrip() for one in first.inputs
    ]
    lines.append(f"command   {shlex.join(redact_arguments(planned.command))}")
    lines.append(f"in        {environment.get('cwd')}")
    lines += [f"variable  {name}={value}" for name, value in planned.variables.items()]
    lines += [f"unset     {name}" for name in planned.unset]
    lines += [f"wanted    {wish}" for wish in planned.wanted]
    return lines + [f"note      {warning}" for warning in planned.warnings]


def describe_rehearsal(record: RunRecord, rehearsal: Rehearsal) -> list[str]:
    """Say what a rehearsal has found out, a line each."""
    tree, lines = rehearsal.tree, [f"packages  {rehearsal.packages}"]
    top = (first_of(record).environment.get("git") or {}).get("top")
    if tree.repository not in (None, top):
        lines.append(f"found     the commit is not in {top} any more, but in {tree.repository}")
    lines += [f"linked    {name} from {tree.project}" for name in tree.linked]
    return lines + [f"note      {warning}" for warning in tree.warnings]
