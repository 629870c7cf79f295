"""Who is at a mirror: one process at a time, without locks, on network file systems too.

A claim is a numbered file, ``backends/<name>.claim-000001``, that was created exclusively, and the
highest number holds. It has the form of a heartbeat and is overwritten in place for as long as
its process lives. Whoever takes over from a dead one, or from one that has let go, creates the
next number: of several that try, one succeeds.
"""

import contextlib
import os
import threading
import time

import orjson

from experiment_tracking.errors import BackendBusyError, DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import (
    SILENT_AFTER_S,
    Heartbeat,
    Writer,
    is_alive_here,
    read_heartbeat,
    silence_s,
)

_BEAT_S = 20.0
_RELEASED = b"{}\n"


class Claim:
    """A mirror that is ours; made by :meth:`take`.

    A thread of its own beats every 20 s, so that a call to a service that hangs does not read as
    a dead process from other machines. From the same machine the pid tells.
    """

    def __init__(self, folder: RunFolder, name: str, number: int) -> None:
        self.number = number
        self.writer = Writer.this_process()
        self._folder = folder
        self._name = name
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._heartbeat = Heartbeat(_path(folder, name, number), self.writer)

    @classmethod
    def take(cls, folder: RunFolder, name: str) -> "Claim":
        """Claim the mirror ``name`` of a run.

        Raises
        ------
        BackendBusyError
            While a live process has it: by its pid on this machine, elsewhere if it has beaten
            within 5 minutes.
        OSError
            If the folder is gone or takes no file. It is not made anew.
        """
        with contextlib.suppress(FileExistsError):
            io.mkdir(folder.backends)
        highest = max(_numbers(folder, name), default=0)
        if highest and _is_held(_path(folder, name, highest)):
            raise _busy(folder, name, highest)
        self = cls(folder, name, highest + 1)
        try:
            io.create_whole(self._heartbeat.path, self._line())
        except FileExistsError:
            raise _busy(folder, name, self.number) from None
        # Our list may have been old, and the number one that was tidied away since.
        if not self.holds():
            self.release()
            raise _busy(folder, name, max(_numbers(folder, name), default=0))
        self._tidy()
        threading.Thread(target=self._keep, name=f"claim {name}", daemon=True).start()
        return self

    def _line(self) -> bytes:
        return orjson.dumps({**self.writer._asdict(), "time": time.time()})

    def holds(self) -> bool:
        """Tell whether nobody has taken it over, as after our machine slept for long.

        Where the folder was deleted and made again, our number may be another's, or nobody's.
        """
        with self._lock:
            seen = read_heartbeat(self._heartbeat.path)
        if seen is None or seen[0] != self.writer:
            return False
        return self.number == max(_numbers(self._folder, self._name), default=0)

    def release(self) -> None:
        """Let go: the next process need not wait for our death."""
        self._released.set()
        # The lock: a beat that is under way must not come behind this.
        with self._lock, contextlib.suppress(OSError):  # gone with its folder, or dead later
            seen = read_heartbeat(self._heartbeat.path)
            if seen is not None and seen[0] == self.writer:
                io.replace_file(self._heartbeat.path, _RELEASED)

    def _keep(self) -> None:
        while not self._released.wait(_BEAT_S):
            with self._lock, contextlib.suppress(OSError):  # the disk may take the next one
                if not self._released.is_set():
                    self._heartbeat.beat()

    def _tidy(self) -> None:
        # The one before ours stays: somebody who listed before us is about to try our number.
        for number in _numbers(self._folder, self._name):
            if number < self.number - 1:
                with contextlib.suppress(OSError):
                    os.unlink(_path(self._folder, self._name, number))


def _path(folder: RunFolder, name: str, number: int) -> str:
    return f"{folder.backends}/{name}.claim-{number:06d}"


def _numbers(folder: RunFolder, name: str) -> list[int]:
    start = f"{name}.claim-"
    ends = (n[len(start) :] for n in os.listdir(folder.backends) if n.startswith(start))
    return [int(end) for end in ends if end.isascii() and end.isdigit()]


def _is_held(path: str) -> bool:
    alive = is_alive_here(path)
    if alive is not None:
        return alive
    if read_heartbeat(path) is not None:
        return silence_s(path) <= SILENT_AFTER_S
    # Released, or just being written, or damaged: then its age decides.
    try:
        age_s = time.time() - os.stat(path).st_mtime
        return io.read(path, 64 * 1024) != _RELEASED and age_s <= SILENT_AFTER_S
    except (FileNotFoundError, DamagedError):
        return False


def _busy(folder: RunFolder, name: str, number: int) -> BackendBusyError:
    seen = read_heartbeat(_path(folder, name, number))
    who = f"process {seen[0].pid} on {seen[0].host}" if seen else "another process"
    return BackendBusyError(
        f"Run {folder.name!r}: {who} is copying it to {name}. Wait for it or end it, then try "
        "again; twice is harmless."
    )
