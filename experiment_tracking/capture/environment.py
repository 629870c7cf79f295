"""What a run was started with: interpreter, packages, machine, command line, launcher.

Cheap on purpose, for it competes with the first steps of training: no package is imported for
it, no process started, and packages are read off the names of folders.
"""

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from experiment_tracking.capture.code import find_project_root, name_inside
from experiment_tracking.capture.redaction import redact_arguments, to_utf8
from experiment_tracking.folder.liveness import process_start

LAUNCHER_VARIABLES = (
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_ARRAY_TASK_ID",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "TORCHELASTIC_RUN_ID",
)
"""The only environment variables that are kept; the rest may hold secrets."""


class EnvironmentFacts(NamedTuple):
    """The environment of this process; what could not be found out is None and noted.

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
    cwd
        Working directory: relative to the project's top inside it, else absolute.
    command, argv
        The whole command line with the interpreter, and what the script saw of it; without
        secrets.
    cpu_count, memory_bytes
        Of the machine, not of this process's share.
    launcher
        Those of ``LAUNCHER_VARIABLES`` that are set.
    packages
        Version by normalised name (PEP 503), the first on ``sys.path`` counts; None where the
        folder's name does not tell.
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
    cwd: str | None = None
    command: list[str] | None = None
    argv: list[str] | None = None
    cpu_count: int | None = None
    memory_bytes: int | None = None
    launcher: dict[str, str] | None = None
    packages: dict[str, str | None] | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the facts as plain values for JSON."""
        return self._asdict()


def capture_environment(folder: str | os.PathLike[str]) -> EnvironmentFacts:
    """Gather the facts about this process; ``folder`` says which project it works in.

    Costs about a millisecond with 100 packages. A part that fails is None and noted.
    """
    parts: dict[str, Callable[[], Any]] = {**_PARTS, "cwd": lambda: _cwd(os.fspath(folder))}
    facts: dict[str, Any] = {}
    notes = []
    for name, part in parts.items():
        try:
            facts[name] = part()
        except Exception as error:  # Capture never stops training, whatever the reason.
            notes.append(to_utf8(f"{name}: {type(error).__name__}: {error}"))
    return EnvironmentFacts(**facts, notes=tuple(notes))


def _platform() -> str:
    if not hasattr(os, "uname"):
        import platform

        return platform.platform()
    # platform.platform() adds the C library, which it looks for in the interpreter's file.
    system = os.uname()
    return f"{system.sysname} {system.release} {system.machine}"


def _hostname() -> str:
    return to_utf8(os.uname().nodename if hasattr(os, "uname") else os.environ["COMPUTERNAME"])


def _user() -> str:
    for variable in ("LOGNAME", "USER", "USERNAME"):
        if name := os.environ.get(variable):
            return to_utf8(name)
    import pwd

    return to_utf8(pwd.getpwuid(os.getuid()).pw_name)


def _process_started_at() -> str | None:
    start = process_start(os.getpid())
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


def _cwd(folder: str) -> str:
    here, project = os.getcwd(), find_project_root(folder)
    # getcwd has followed all links; the project's path may not have.
    inside = name_inside(here, os.path.realpath(project)) if project else None
    return inside or to_utf8(here)


def _launcher() -> dict[str, str]:
    environment = os.environ
    return {name: to_utf8(environment[name]) for name in LAUNCHER_VARIABLES if name in environment}


def _packages() -> dict[str, str | None]:
    """Read the names of ``*.dist-info`` and ``*.egg-info`` on ``sys.path``.

    ``importlib.metadata`` opens every METADATA file: 160 ms where this takes half of one.
    """
    packages: dict[str, str | None] = {}
    for folder in sys.path:
        for name in _names_in(folder):
            if name.endswith((".dist-info", ".egg-info")) and name.isascii():
                package, version = _name_and_version(name)
                packages.setdefault(package, version)
    return dict(sorted(packages.items()))


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except (OSError, TypeError):
        return []  # An archive, a folder that is not there, somebody's Path object.


def _name_and_version(folder_name: str) -> tuple[str, str | None]:
    stem, _, kind = folder_name.rpartition(".")
    if kind == "egg-info":  # `name-1.0-py3.11.egg-info`; in a source tree only `name.egg-info`
        stem = stem.partition("-py")[0]
    # The name's own dashes are written as underscores there (PEP 427, 491).
    name, _, version = stem.partition("-")
    return name.lower().replace("_", "-").replace(".", "-"), version or None


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_PARTS: dict[str, Callable[[], Any]] = {
    "python_version": lambda: sys.version.partition(" ")[0],
    "python_implementation": lambda: sys.implementation.name,
    "executable": lambda: to_utf8(sys.executable) or None,
    "platform": _platform,
    "hostname": _hostname,
    "user": _user,
    "pid": os.getpid,
    "process_started_at": _process_started_at,
    "command": lambda: redact_arguments(map(str, sys.orig_argv)),
    "argv": lambda: redact_arguments(map(str, sys.argv)),
    "cpu_count": os.cpu_count,
    "memory_bytes": _memory_bytes,
    "launcher": _launcher,
    "packages": _packages,
}
