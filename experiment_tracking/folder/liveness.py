"""Who writes a run, and whether they still do. Readers compute it and write nothing."""

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io

SILENT_AFTER_S = 5 * 60
DEAD_AFTER_S = 30 * 60

FINAL = ("finished", "failed", "killed")
STATUSES = (*FINAL, "running", "crashed")

_LENGTH = 512


class Writer(NamedTuple):
    """The process that wrote a heartbeat."""

    host: str
    boot_id: str
    pid: int
    pid_start: int
    pid_namespace: int
    slurm_job_id: str
    slurm_restart_count: int
    torchelastic_run_id: str

    @classmethod
    def this_process(cls) -> "Writer":
        """Describe this process."""
        return cls(
            host=_cut(_hostname()),
            boot_id=_boot_id(),
            pid=os.getpid(),
            pid_start=process_start(os.getpid()) or 0,
            pid_namespace=_pid_namespace(),
            slurm_job_id=_cut(os.environ.get("SLURM_JOB_ID", "")),
            slurm_restart_count=_to_int(os.environ.get("SLURM_RESTART_COUNT")),
            torchelastic_run_id=_cut(os.environ.get("TORCHELASTIC_RUN_ID", "")),
        )

    @classmethod
    def process(cls, pid: int) -> "Writer":
        """Describe another process of this machine."""
        return cls.this_process()._replace(pid=pid, pid_start=process_start(pid) or 0)

    def shares_processes_with(self, other: "Writer") -> bool:
        """Tell whether both see the same processes under the same numbers."""
        return (self.host, self.boot_id, self.pid_namespace) == (
            other.host, other.boot_id, other.pid_namespace,
        )  # fmt: skip

    def restarts(self, other: "Writer") -> bool:
        """Tell whether this is a scheduler's restart of the job that ``other`` belonged to."""
        same_job = self.slurm_job_id and self.slurm_job_id == other.slurm_job_id
        if same_job and self.slurm_restart_count > other.slurm_restart_count:
            return True
        # torchrun calls every run "none" that was given no id.
        elastic = self.torchelastic_run_id
        return elastic not in ("", "none") and elastic == other.torchelastic_run_id


class Heartbeat:
    """The line that says a run's writer lives: fixed length, overwritten in place, not flushed.

    Parameters
    ----------
    path
        ``heartbeat.json`` of the run; created by the first beat.
    writer
        Whose life it tells of; by default this process.
    """

    def __init__(self, path: str, writer: Writer | None = None) -> None:
        self.path = path
        self._writer = (writer or Writer.this_process())._asdict()

    def beat(self, now: float | None = None) -> None:
        """Overwrite the line. Opened each time, so that network file systems push it out."""
        line = orjson.dumps({**self._writer, "time": time.time() if now is None else now})
        fd = io.open_or_create(self.path)
        try:
            io.pwrite(fd, line.ljust(_LENGTH - 1) + b"\n", 0)
        finally:
            io.close(fd)


def read_heartbeat(path: str) -> tuple[Writer, float] | None:
    """Return who wrote the heartbeat and when (Unix seconds); None where there is none."""
    try:
        value = orjson.loads(io.read(path, 64 * 1024))
        kinds = Writer.__annotations__
        fields = {name: kind(value[name]) for name, kind in kinds.items()}
        return Writer(**fields), 0.0 + value["time"]  # text raises
    except (OSError, ValueError, TypeError, KeyError, DamagedError):
        return None  # Missing, torn or foreign: nobody can be said to be alive.


def status_of(summary: Mapping[str, Any], heartbeat_path: str) -> tuple[str, str]:
    """Return a run's status, and in words how long its writer has been silent, if it has.

    What the writer said, unless it said ``running`` and is dead: then ``crashed``. The pid
    decides only where host, boot and pid namespace are the reader's own; elsewhere age does:
    to 5 minutes running, to 30 running and silent, then crashed.
    """
    said = summary.get("status")
    if said in FINAL:
        return str(said), ""
    alive = is_alive_here(heartbeat_path)
    age = silence_s(heartbeat_path)
    if alive is False:
        return "crashed", ""
    if alive or age <= SILENT_AFTER_S:
        return "running", ""
    if age <= DEAD_AFTER_S:
        return "running", f"silent for {age / 60:.0f} min"
    return "crashed", ""


def is_alive_here(heartbeat_path: str) -> bool | None:
    """Tell whether the writer is a living process of this machine; None if not for us to see."""
    seen = read_heartbeat(heartbeat_path)
    if seen is None:
        return None
    writer, here = seen[0], Writer.this_process()
    if writer.host == here.host and writer.boot_id != here.boot_id:
        return False
    if not writer.shares_processes_with(here):
        return None
    start = process_start(writer.pid)
    if start is None:
        return None if _is_hidden(writer.pid) else False
    return writer.pid_start in (0, start)


def _is_hidden(pid: int) -> bool:
    """Tell whether a process is there of which ``/proc`` shows us nothing (``hidepid``)."""
    if os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def silence_s(heartbeat_path: str, now: float | None = None) -> float:
    """Seconds since the last beat by this machine's clock; infinite without a heartbeat."""
    seen = read_heartbeat(heartbeat_path)
    if seen is None:
        return float("inf")
    return max(0.0, (time.time() if now is None else now) - seen[1])


def process_start(pid: int) -> int | None:
    """Return a number that tells a living process from an earlier one of the same pid.

    Clock ticks since boot (``/proc/<pid>/stat``, field 22), elsewhere milliseconds by psutil;
    None for a process that is gone or a zombie.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Field 2 is the program's name in parentheses and may hold anything.
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
        return _process_start_elsewhere(pid)
    except (OSError, IndexError, ValueError):
        return None


def _process_start_elsewhere(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return int(process.create_time() * 1000)
    except psutil.Error:
        return None


def _hostname() -> str:
    if hasattr(os, "uname"):
        return os.uname().nodename
    return os.environ.get("COMPUTERNAME", "")


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _cut(text: str) -> str:
    """Make ``text`` valid and short enough for the heartbeat's fixed length."""
    return text.encode("utf-8", "backslashreplace")[:64].decode("utf-8", "ignore")


def _to_int(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
