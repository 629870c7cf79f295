"""What a tracker tells each of its runs when it opens."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from experiment_tracking.backends.catalog import Target
    from experiment_tracking.backends.interface import BoundBackend
    from experiment_tracking.handover import Subject


class Settings(NamedTuple):
    """What a tracker's arguments mean for each of its runs."""

    use_tensorboard: bool = True
    backends: tuple["BoundBackend", ...] = ()
    """Objects of this process; each gets a thread."""
    auto_log: bool = True
    on_error: str = "warn"
    system_interval_s: float | None = 10.0
    capture_console: bool = False
    on_end: Callable[[str], None] | None = None
    """Called with the run's path once it has ended."""
    subject: "Subject | None" = None
    """None: this very process."""
    mirrors: tuple["Target", ...] = ()
    """Backends that follow in the child process."""
    exit_timeout_s: float = 10.0
    """For how long the end of a run waits for backends and mirrors, all together."""


class Identity(NamedTuple):
    """What a run is told about itself when it opens."""

    params: dict[str, Any]
    tags: dict[str, str]
    notes: str = ""
    group: str | None = None
    parent: str | None = None
    facts: Mapping[str, Any] = {}
    """Further keys of the summary, such as ``rerun_of``."""
