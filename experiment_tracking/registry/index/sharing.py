"""Work on thousands of runs shared with other processes, where that is quicker.

Threads would not help: most of the time is Python's, and system calls of a microsecond each.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_MOST = 7
_PIPE_BYTES = 2**20
_CODE = """
import sys
sys.path[:] = {path!a}
from experiment_tracking.registry.index.{module} import serve
job = sys.stdin.buffer.read({size})
serve(*job.decode("utf-8", "surrogateescape").split("\\0"))
"""


def share_out(places: Sequence[int], start: int) -> list[Sequence[int]]:
    """Divide runs between this process, whose share comes first, and others that help it.

    Parameters
    ----------
    places
        The runs.
    start
        How many runs are done in the time in which a process starts; fewer than twice as many
        are worth none.
    """
    count = min(processors() - 1, _MOST, len(places) // (2 * start) - 1)
    if count < 1 or "python" not in os.path.basename(sys.executable or "").lower():
        return [places]  # of an application that holds a Python, nothing else could be started
    share = (len(places) - start) // (count + 1)
    own = len(places) - count * share
    return [places[:own], *(places[at : at + share] for at in range(own, len(places), share))]


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Helper:
    """A process that does a share; a context manager that leaves none behind.

    Whatever hinders the process, it only means that there is no answer.

    Parameters
    ----------
    module
        Module of this package whose ``serve`` does the work and answers on stdout. It should
        import little.
    *words
        Arguments of ``serve``, without NUL.
    """

    def __init__(self, module: str, *words: str) -> None:
        self._job = "\0".join(words).encode("utf-8", "surrogateescape")
        # Of what is no text, a Path for one, Python takes no notice either. The size, since the
        # end of the pipe may not come: a fork of this process elsewhere may hold it open.
        path = [each for each in sys.path if type(each) is str]
        self._code = _CODE.format(path=path, module=module, size=len(self._job))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Helper":
        try:
            with contextlib.suppress(OSError):
                self._start()
        except BaseException:  # Ctrl-C in here, after which nobody calls __exit__
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        import subprocess

        self._process = subprocess.Popen(
            # Without site, which takes a third of the start: the path is ours as it is.
            [sys.executable, "-S", "-c", self._code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            # Room for what we tell it, and for much of what it answers, without waiting.
            pipesize=_PIPE_BYTES, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(self._job)
        self._process.stdin.close()

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()  # which has ended, unless something has come over us
            with contextlib.suppress(BrokenPipeError), self._process:
                pass  # what it was not told of its job is lost

    def answer(self) -> bytes:
        """Wait for all that it has to say; nothing if it could not start."""
        if self._process is None or self._process.stdout is None:
            return b""
        return self._process.stdout.read()
