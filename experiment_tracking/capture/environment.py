"""What a run was started with: interpreter, packages, machine, command line, launcher.

Cheap on purpose, for it competes with the first steps of training: no package is imported for
it where there is no GPU, on Linux no process is started, and packages are read off the names of
folders.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from experiment_tracking.capture.code import find_project_root, name_inside
from experiment_tracking.capture.redaction import (
    is_secret_name,
    redact_arguments,
    redact_text,
    to_utf8,
)
from experiment_tracking.errors import InvalidValueError
from experiment_tracking.folder import io
from experiment_tracking.folder.liveness import process_start

LAUNCHER_VARIABLES = (
    "SLURM_*", "TORCHELASTIC_*", "OMPI_COMM_WORLD_*", "PMI_*",
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK",
    "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""Variables by which a scheduler or launcher tells a process its place; ``*`` ends a prefix."""

KEPT_VARIABLES = (
    "CUDA_*", "CUBLAS_*", "CUDNN_*", "NCCL_*", "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*",
    "NUMEXPR_*", "NUMBA_*", "TORCH_*", "PYTORCH_*", "XLA_*", "JAX_*", "TRITON_*",
    # TensorFlow's one by one: TF_VAR_* and TF_CLI_* are Terraform's.
    "TF_CPP_*", "TF_CUDNN_*", "TF_DETERMINISTIC_*", "TF_ENABLE_*", "TF_FORCE_*", "TF_GPU_*",
    "TF_NUM_*", "TF_USE_*", "TF_XLA_*",
    "NVIDIA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES", "VECLIB_MAXIMUM_THREADS", "TOKENIZERS_PARALLELISM",
    "PYTHONHASHSEED", "PYTHONPATH", "PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONNOUSERSITE",
    "PYTHONSAFEPATH", "PYTHONUTF8", "LD_LIBRARY_PATH", "LD_PRELOAD", "CONDA_DEFAULT_ENV",
    "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ", "HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE",
    "TRANSFORMERS_OFFLINE", "WANDB_MODE",
)  # fmt: skip
"""The other variables whose values are kept: what changes numbers, speed or what is imported."""

# Its value, a credential, has no secret's name and need not have a token's form.
_NEVER_KEPT = frozenset(("SLURM_JWT",))
_GPU_DEVICES = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")
_MAX_SCANNED = 4096
_MAX_DIRECT_URL_BYTES = 64 * 1024
# Version 1 of control groups says "no limit" with the largest multiple of a page.
_NO_LIMIT = 2**62
_ASK_TIMEOUT_S = 5.0
# The empty entry is the working directory, which stands there for `-c` only.
_ASK = """\
import json, sys
path = sys.path[1:] if sys.path[:1] == [""] else sys.path
version = sys.version.partition(" ")[0]
print()
print(json.dumps([sys.executable, version, sys.implementation.name, path, sys.prefix]))
"""


class Interpreter(NamedTuple):
    """A Python interpreter, as the facts about packages need it.

    Attributes
    ----------
    executable
        Its absolute path; empty where it is not known (embedded).
    version, implementation
        As ``3.11.7`` and ``cpython``.
    search_path
        Its ``sys.path``; of an asked one without the folder of the script.
    prefix
        Top of its installation or virtual environment.
    """

    executable: str
    version: str
    implementation: str
    search_path: tuple[str, ...]
    prefix: str


class EnvironmentFacts(NamedTuple):
    """The environment of a process; what could not be found out is None and noted.

    Attributes
    ----------
    python_version, python_implementation, executable
        As ``3.11.7``, ``cpython`` and the interpreter's absolute path.
    platform
        System, release and machine.
    hostname, user, pid
        Who ran it where.
    process_started_at
        When this process began, which may be long before the run.
    project
        Absolute path of the project's top; None outside a project.
    cwd
        Working directory: relative to the project's top inside it, else absolute.
    command, argv
        The whole command line with the interpreter, and what the script saw of it; without
        secrets.
    cpu_count, cpus_allowed, cpu_model
        Logical CPUs of the machine and those this process may use; what the first one is called.
    memory_bytes, memory_limit_bytes
        Of the machine, and what the control group allows; None without a limit.
    gpus
        Driver, CUDA version and devices; None where there is no NVIDIA GPU.
    launcher, variables
        Those of ``LAUNCHER_VARIABLES`` and ``KEPT_VARIABLES`` that are set and not secret.
    hidden_variables
        Names, sorted, of the variables that hold a secret by their name or their value's form.
    packages
        Version by normalised name (PEP 503), the first on ``sys.path`` counts; None where no
        folder's name tells.
    package_sources
        ``direct_url.json`` (PEP 610) by name, of packages that came from elsewhere than an
        index: editable, version control, archive. URLs are without credentials.
    conda
        ``environment`` (its folder) and ``packages`` (``version build`` by name), or None.
    notes
        What failed, a sentence each.
    """

    python_version: str | None = None
    python_implementation: str | None = None
    executable: str | None = None
    platform: str | None = None
    hostname: str | None = None
    user: str | None = None
    pid: int | None = None
    process_started_at: str | None = None
    project: str | None = None
    cwd: str | None = None
    command: list[str] | None = None
    argv: list[str] | None = None
    cpu_count: int | None = None
    cpus_allowed: int | None = None
    cpu_model: str | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    gpus: dict[str, Any] | None = None
    launcher: dict[str, str] | None = None
    variables: dict[str, str] | None = None
    hidden_variables: list[str] | None = None
    packages: dict[str, str | None] | None = None
    package_sources: dict[str, dict[str, Any]] | None = None
    conda: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the facts as plain values for JSON."""
        return self._asdict()


class _Subject(NamedTuple):
    """Whom the facts are about; without a command, this process."""

    folder: str
    command: Sequence[str] | None
    interpreter: Interpreter
    variables: Mapping[str, str]
    distributions: dict[str, tuple[str | None, str]]
    notes: list[str]


def capture_environment(
    folder: str | os.PathLike[str],
    *,
    command: Sequence[str] | None = None,
    interpreter: Interpreter | None = None,
) -> EnvironmentFacts:
    """Gather the facts about this process, or about a command that it starts.

    Costs about 3 ms with 300 packages. A part that fails is None and noted.

    Parameters
    ----------
    folder
        Says which project the process works in.
    command
        Command line of another process, which shares this one's variables and working
        directory; its pid and start are then None.
    interpreter
        The Python that the command runs, see :func:`ask_interpreter`; by default this one.
    """
    interpreter = interpreter or this_interpreter()
    installed = _distributions(interpreter.search_path)
    subject = _Subject(os.fspath(folder), command, interpreter, _variables_set(), installed, [])
    facts: dict[str, Any] = {}
    for name, part in _PARTS.items():
        try:
            facts[name] = part(subject)
        except Exception as error:  # Capture never stops training, whatever the reason.
            subject.notes.append(redact_text(f"{name}: {type(error).__name__}: {error}"))
    return EnvironmentFacts(**facts, notes=tuple(subject.notes))


def this_interpreter() -> Interpreter:
    """Describe the interpreter of this process, with its ``sys.path`` as it is now."""
    return Interpreter(
        sys.executable or "",
        sys.version.partition(" ")[0],
        sys.implementation.name,
        tuple(entry for entry in sys.path if isinstance(entry, str)),
        sys.prefix,
    )


def ask_interpreter(executable: str, env: Mapping[str, str] | None = None) -> Interpreter:
    """Describe another interpreter; starts it once, which takes as long as ``python -c pass``.

    Parameters
    ----------
    executable
        Its path, or a name to look for on ``PATH``.
    env
        Its variables; by default those of this process.

    Raises
    ------
    OSError
        If it cannot be started; TimeoutError if it has not answered within 5 s.
    InvalidValueError
        If it is not a Python, or one that does not start.
    """
    import json
    import subprocess

    try:
        done = subprocess.run(
            # As a script would see it: neither -I nor -S, which leave paths out.
            [executable, "-c", _ASK],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(
            f"Interpreter {executable!r} did not answer within {_ASK_TIMEOUT_S:.0f} s."
        ) from None
    try:
        # A sitecustomize of theirs may have printed before us.
        path, version, implementation, search_path, prefix = json.loads(
            done.stdout.split(b"\n")[-2]
        )
        return Interpreter(path, version, implementation, tuple(search_path), prefix)
    except (ValueError, TypeError, IndexError):
        raise InvalidValueError(_no_python(executable, done.returncode, done.stderr)) from None


def memory_limit(control_groups: str, mount: str = "/sys/fs/cgroup") -> int | None:
    """Find the most memory that control groups allow, in bytes; None without a limit.

    Parameters
    ----------
    control_groups
        What ``/proc/self/cgroup`` says (cgroups(7)): ``0::/path`` in version 2, in version 1 a
        line for each controller.
    mount
        Where the groups are mounted.
    """
    limits: list[int] = []
    for line in control_groups.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            limits += _limits_along(mount, path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits_along(mount + "/memory", path, "memory.limit_in_bytes")
    return min(limits, default=None)


def _limits_along(top: str, path: str, name: str) -> Iterator[int]:
    """Read the limits of a group and of those above it, which hold for it too."""
    folder = top
    for part in ("", *path.split("/")):
        folder = os.path.join(folder, part)
        try:
            limit = _head(os.path.join(folder, name)).strip()
        except OSError:
            continue  # The top has none, and a container does not see the groups around it.
        if limit.isdigit() and int(limit) < _NO_LIMIT:
            yield int(limit)


def _head(path: str, length: int = 8192) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.read(length).decode("utf-8", "backslashreplace")


def _no_python(executable: str, code: int, complaint: bytes) -> str:
    lines = complaint.decode("utf-8", "backslashreplace").strip().splitlines() or ["nothing"]
    return (
        f"Interpreter {executable!r} did not describe itself: exit code {code}, its last words "
        f"were {redact_text(lines[-1][:200])!r}. Name a Python that starts."
    )


def _platform(subject: _Subject) -> str:
    if not hasattr(os, "uname"):
        import platform

        return platform.platform()
    # platform.platform() adds the C library, which it looks for in the interpreter's file.
    system = os.uname()
    return f"{system.sysname} {system.release} {system.machine}"


def _hostname(subject: _Subject) -> str:
    return to_utf8(os.uname().nodename if hasattr(os, "uname") else os.environ["COMPUTERNAME"])


def _user(subject: _Subject) -> str:
    for variable in ("LOGNAME", "USER", "USERNAME"):
        if name := os.environ.get(variable):
            return to_utf8(name)
    import pwd

    return to_utf8(pwd.getpwuid(os.getuid()).pw_name)


def _process_started_at(subject: _Subject) -> str | None:
    start = process_start(os.getpid()) if subject.command is None else None
    if start is None:
        return None
    if not os.path.isdir("/proc/self"):
        began = start / 1000
    else:
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - start / ticks_per_s
        began = time.time() - age_s
    moment = datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def _project(subject: _Subject) -> str | None:
    project = find_project_root(subject.folder)
    return to_utf8(project) if project else None


def _cwd(subject: _Subject) -> str:
    here, project = os.getcwd(), find_project_root(subject.folder)
    if subject.command is None:
        here = _started_in(here)
    # getcwd has followed all links; the project's path may not have.
    inside = name_inside(here, os.path.realpath(project)) if project else None
    return inside or to_utf8(here)


def _started_in(here: str) -> str:
    """Tell where the command was typed, although the script has changed folder since."""
    script = str(getattr(sys.modules.get("__main__"), "__file__", None) or "")
    for word in map(os.path.normpath, sys.orig_argv[1:]):
        if script.endswith(os.sep + word):
            found = os.path.realpath(script.removesuffix(word))
            return here if os.path.exists(os.path.join(here, word)) else found
    return here


def _command(subject: _Subject) -> list[str]:
    return redact_arguments(map(str, sys.orig_argv if subject.command is None else subject.command))


def _argv(subject: _Subject) -> list[str]:
    return redact_arguments(map(str, sys.argv if subject.command is None else subject.command[1:]))


def _cpus_allowed(subject: _Subject) -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _cpu_model(subject: _Subject) -> str | None:
    if os.path.exists("/proc/cpuinfo"):
        # The file has a section for each CPU, and none of ARM's gives a model.
        for line in _head("/proc/cpuinfo").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
        return None
    import platform

    return platform.processor() or None


def _memory_bytes(subject: _Subject) -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_limit_bytes(subject: _Subject) -> int | None:
    groups = "/proc/self/cgroup"
    return memory_limit(_head(groups)) if os.path.exists(groups) else None


def _gpus(subject: _Subject) -> dict[str, Any] | None:
    # Without a device nobody pays for loading the package that asks the driver.
    if not any(map(os.path.exists, _GPU_DEVICES)):
        return None
    from experiment_tracking.capture.system import describe_gpus

    return describe_gpus()


def _variables_set() -> dict[str, str]:
    # Other threads may set and remove variables meanwhile; a list of the names is safe.
    return {name: os.environ.get(name, "") for name in list(os.environ)}


def _launcher(subject: _Subject) -> dict[str, str]:
    return _kept(subject.variables, LAUNCHER_VARIABLES)


def _kept_variables(subject: _Subject) -> dict[str, str]:
    return _kept(subject.variables, KEPT_VARIABLES)


def _kept(variables: Mapping[str, str], allowed: Sequence[str]) -> dict[str, str]:
    prefixes = tuple(name[:-1] for name in allowed if name.endswith("*"))
    return {
        to_utf8(name): redact_text(value)
        for name, value in sorted(variables.items())
        if (name in allowed or name.startswith(prefixes))
        and not (is_secret_name(name) or name in _NEVER_KEPT)
    }


def _hidden_variables(subject: _Subject) -> list[str]:
    return sorted(
        to_utf8(name)
        for name, value in subject.variables.items()
        if value and (is_secret_name(name) or name in _NEVER_KEPT or _has_secret(value))
    )


def _has_secret(value: str) -> bool:
    # Only a name hangs on it, and never a value: megabytes are not worth the time.
    value = value[:_MAX_SCANNED]
    return redact_text(value) != to_utf8(value)


def _packages(subject: _Subject) -> dict[str, str | None]:
    return {name: version for name, (version, _) in sorted(subject.distributions.items())}


def _package_sources(subject: _Subject) -> dict[str, dict[str, Any]]:
    sources = {}
    for name, (_, folder) in sorted(subject.distributions.items()):
        path = f"{folder}/direct_url.json"
        try:
            # Most have none, and of hundreds this is the quickest way to find that out.
            if os.access(path, os.F_OK):
                sources[name] = _direct_url(path)
        except (OSError, ValueError) as error:
            subject.notes.append(redact_text(f"package_sources: {name}: {error}"))
    return sources


def _direct_url(path: str) -> dict[str, Any]:
    import orjson

    value = orjson.loads(io.read(os.path.realpath(path), _MAX_DIRECT_URL_BYTES))
    if not isinstance(value, dict):
        raise ValueError("holds no object")
    return {name: _redacted(part) for name, part in value.items()}


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {name: _redacted(part) for name, part in value.items()}
    return value


def _distributions(search_path: Sequence[str]) -> dict[str, tuple[str | None, str]]:
    """Find version and folder of every installed package, by name.

    From the names of ``*.dist-info`` and ``*.egg-info``: ``importlib.metadata`` opens every
    METADATA file, 160 ms where this takes half of one.
    """
    found: dict[str, tuple[str | None, str]] = {}
    for folder in search_path:
        for entry in _names_in(folder):
            if entry.endswith((".dist-info", ".egg-info")) and entry.isascii():
                name, version = _name_and_version(entry)
                # An editable install leaves `name.egg-info` in the source tree, which comes
                # first on the path and knows neither version nor source.
                if found.get(name, (None, ""))[0] is None:
                    found[name] = version, f"{folder or os.curdir}/{entry}"
    return found


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except OSError:
        return []  # An archive, or a folder that is not there.


def _name_and_version(folder_name: str) -> tuple[str, str | None]:
    stem, _, kind = folder_name.rpartition(".")
    if kind == "egg-info":  # `name-1.0-py3.11.egg-info`; in a source tree only `name.egg-info`
        stem = stem.partition("-py")[0]
    # The name's own dashes are written as underscores there (PEP 427, 491).
    name, _, version = stem.partition("-")
    return name.lower().replace("_", "-").replace(".", "-"), version or None


def _conda(subject: _Subject) -> dict[str, Any] | None:
    # Who calls an environment's Python by its path activates nothing, so that one goes first.
    for prefix in (subject.interpreter.prefix, subject.variables.get("CONDA_PREFIX")):
        if prefix and os.path.isdir(os.path.join(prefix, "conda-meta")):
            return {"environment": to_utf8(prefix), "packages": _conda_packages(prefix)}
    return None


def _conda_packages(prefix: str) -> dict[str, str]:
    names = sorted(os.listdir(os.path.join(prefix, "conda-meta")))
    # `name-version-build.json`, where only the name has dashes of its own.
    records = [to_utf8(name)[:-5].rsplit("-", 2) for name in names if name.endswith(".json")]
    return {record[0]: f"{record[1]} {record[2]}" for record in records if len(record) == 3}


_PARTS: dict[str, Callable[[_Subject], Any]] = {
    "python_version": lambda subject: subject.interpreter.version,
    "python_implementation": lambda subject: subject.interpreter.implementation,
    "executable": lambda subject: to_utf8(subject.interpreter.executable) or None,
    "platform": _platform,
    "hostname": _hostname,
    "user": _user,
    "pid": lambda subject: os.getpid() if subject.command is None else None,
    "process_started_at": _process_started_at,
    "project": _project,
    "cwd": _cwd,
    "command": _command,
    "argv": _argv,
    "cpu_count": lambda _: os.cpu_count(),
    "cpus_allowed": _cpus_allowed,
    "cpu_model": _cpu_model,
    "memory_bytes": _memory_bytes,
    "memory_limit_bytes": _memory_limit_bytes,
    "gpus": _gpus,
    "launcher": _launcher,
    "variables": _kept_variables,
    "hidden_variables": _hidden_variables,
    "packages": _packages,
    "package_sources": _package_sources,
    "conda": _conda,
}
