"""The processes that a service's own package starts, such as W&B's, ended with who needs them."""

import contextlib
import os
from collections.abc import Iterable
from typing import Any


def below(pid: int) -> list[Any]:
    """List the processes that ``pid`` has started, and those that these have; psutil's objects."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def kill(processes: Iterable[Any]) -> None:
    """End processes by force; those that have ended are passed over."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def kill_below_this() -> None:
    """End what this process has started."""
    kill(below(os.getpid()))
