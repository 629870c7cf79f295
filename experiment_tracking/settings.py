"""What a tracker tells each of its runs when it opens."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from experiment_tracking.backends.interface import BoundBackend


class Settings(NamedTuple):
    """What a tracker's arguments mean for each of its runs."""

    use_tensorboard: bool = True
    backends: tuple["BoundBackend", ...] = ()
    auto_log: bool = True
    on_error: str = "warn"


class Identity(NamedTuple):
    """What a run is told about itself when it opens."""

    params: dict[str, Any]
    tags: dict[str, str]
    notes: str = ""
    group: str | None = None
    parent: str | None = None
