"""Which backends there are by name: ours, and those that packages offer by entry point."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import orjson

from experiment_tracking.backends.interface import BackendInterface, BoundBackend, check_backend
from experiment_tracking.errors import BackendError, InvalidTypeError, in_words
from experiment_tracking.notices import notice

_advised: set[str] = set()

ENTRY_POINTS = "experiment_tracking.backends"
"""Group under which a package names the class, or a function that makes an instance."""

_FILES = "files"
"""The run's own folder, which a tracker may be told to write and always does."""

_OURS = {
    "mlflow": ("mlflow", "MLflowBackend"),
    "wandb": ("wandb", "WandbBackend"),
    "tensorboard": ("tensorboard", "TensorBoardBackend"),
}


class Target(NamedTuple):
    """A backend that another process can make: its name, and the arguments of its class."""

    backend: str
    """``mlflow``, ``wandb``, ``tensorboard`` or the name of an entry point."""
    options: Mapping[str, Any]
    name: str
    """Of its file in ``backends/``: as the backend, or ``mlflow-2`` for a second one."""


class Joined(NamedTuple):
    """What a tracker's arguments ask for besides files."""

    targets: tuple[Target, ...]
    """Followed in the child process."""
    bound: tuple[BoundBackend, ...]
    """Objects of this process, which get a thread each."""
    event_files: bool
    """Whether TensorBoard's files in the run's folder were named among the backends."""


def join(
    backend: Any = None,
    *,
    use_wandb: bool = False,
    use_mlflow: bool = False,
    tracking_uri: str | os.PathLike[str] | None = None,
) -> Joined:
    """Check packages, options and signatures of what a tracker is to copy its runs to.

    Nothing is connected to, and no service's own package imported. A backend that is switched
    off, as W&B by ``WANDB_MODE=disabled``, is left out.

    Parameters
    ----------
    backend
        A name, an instance or a list of these; ``"files"`` and None ask for nothing.
    use_wandb, use_mlflow
        Add these, unless they are among ``backend``.
    tracking_uri
        Address of MLflow's service; asks for MLflow by itself.

    Raises
    ------
    BackendError
        For an unknown name, options that cannot be, or methods that cannot be called.
    InvalidTypeError
        For a flag that is neither True nor False.
    MissingPackageError
        If a package is not installed; with the line that installs it.
    """
    _check_flag("use_mlflow", use_mlflow, "tracking_uri=... says where MLflow is.")
    _check_flag("use_wandb", use_wandb, "backend=WandbBackend(project=...) says where it goes.")
    given = list(backend) if isinstance(backend, list | tuple) else [backend]
    wanted = [one for one in given if one is not None]
    for one in wanted:
        _check_may_be_backend(one)
    # No ==, which an object may answer with anything.
    wanted = [one for one in wanted if not (isinstance(one, str) and one == _FILES)]
    event_files = any(map(_is_event_files, wanted))
    wanted = [one for one in wanted if not _is_event_files(one)]
    if use_wandb and not _asks_for("wandb", wanted):
        wanted.append("wandb")
    if (use_mlflow or tracking_uri) and not _asks_for("mlflow", wanted):
        wanted.append("mlflow")
    if tracking_uri:
        wanted = [_at_address(one, tracking_uri) for one in wanted]
    targets, bound = to_targets(wanted)
    return Joined(tuple(targets), tuple(bound), event_files)


def _check_flag(name: str, value: Any, advice: str) -> None:
    """Insist on a flag: an address in its place, taken as true, would copy to somewhere else."""
    if value not in (True, False, None):
        # Not the value: an address may have a password in it.
        raise InvalidTypeError(
            f"{name} takes True or False, found one of type {type(value).__name__}. {advice}"
        )


def _check_may_be_backend(one: Any) -> None:
    """Insist on a known name, or on an object with at least one of the methods."""
    if isinstance(one, str):
        if one not in (*_OURS, _FILES) and one not in _entry_points():
            raise BackendError(_unknown(one, [*names(), _FILES], " and instances"))
    elif not any(hasattr(one, name) for name in ("start_run", "log_metrics", "log_model")):
        raise BackendError(
            f"{one!r:.60} of type {type(one).__name__} is not a backend. Allowed are "
            f"{_listed([*names(), _FILES])}, instances of BackendInterface, and lists of these."
        )


def _is_event_files(backend: Any) -> bool:
    """Tell whether this is what ``use_tensorboard=True`` writes, which is not written twice."""
    if isinstance(backend, str):
        return backend == "tensorboard"
    return type(backend).__name__ == "TensorBoardBackend" and backend.log_dir is None


def _asks_for(name: str, wanted: list[Any]) -> bool:
    return any(name in (one, getattr(one, "name", None)) for one in wanted)


def _at_address(backend: Any, tracking_uri: str | os.PathLike[str]) -> Any:
    if backend == "mlflow":
        return make("mlflow", {"tracking_uri": tracking_uri})
    if getattr(backend, "name", None) == "mlflow":
        raise BackendError(
            "tracking_uri was given beside an MLflowBackend. Write it as "
            "MLflowBackend(tracking_uri=...)."
        )
    return backend


def check_connections(joined: Joined) -> None:
    """Have every backend ask its service whether it answers; in this process.

    Raises
    ------
    BackendError
        If one does not, with its reason.
    """
    for target in joined.targets:
        backend = check_backend(make(target.backend, target.options))
        _check_connection(backend)
        backend.close()
    for backend in joined.bound:
        _check_connection(backend)


def _check_connection(backend: BoundBackend) -> None:
    try:
        backend.check_connection()
    except Exception as error:
        raise BackendError(
            f"Backend {backend.name!r} cannot be reached ({in_words(error)}). Start its service or "
            "correct its options. Without verify_backends=True a run begins all the same, and is "
            "copied when it can be."
        ) from error


def names() -> list[str]:
    """Return the names of all backends, those of entry points too."""
    return [*_OURS, *sorted(_entry_points().keys() - _OURS.keys())]


def make(backend: str, options: Mapping[str, Any]) -> BackendInterface:
    """Make a backend by its name.

    Raises
    ------
    BackendError
        For a name that nobody offers, and for options that its class refuses.
    MissingPackageError
        If it needs a package that is not installed.
    """
    factory = _factory(backend)
    try:
        made: BackendInterface = factory(**options)
    except TypeError as error:
        given = ", ".join(options) or "none"
        raise BackendError(
            f"Backend {backend!r} cannot be made from these options ({given}): {error}."
        ) from error
    return made


def _factory(backend: str) -> Any:
    if backend in _OURS:
        module, name = _OURS[backend]
        return getattr(import_module(f"experiment_tracking.backends.{module}"), name)
    found = _entry_points().get(backend)
    if found is None:
        raise BackendError(_unknown(backend, names()))
    return found.load()


def _unknown(name: str, known: Sequence[str], others: str = "") -> str:
    """Say what is wrong with a name, what was probably meant, and which there are."""
    if name == _FILES:
        return (
            "'files' is the run's own folder, which is always written: nothing is to be copied. "
            f"Backends are {_listed(known)}."
        )
    if "://" in name:  # which may have a password in it
        return (
            f"Backend '{name.partition('://')[0]}://...' is an address, not a name. That of MLflow "
            "goes to tracking_uri=..., on the command line to --tracking-uri."
        )
    return (
        f"Backend {name!r} is not known. {_meant(name, known)}Allowed are {_listed(known)}{others}."
    )


def _listed(known: Sequence[str]) -> str:
    return ", ".join(map(repr, known))


def _meant(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches  # only a mistake needs it

    several = [part.strip() for part in name.split(",")]
    if len(several) > 1:
        words = " ".join(f"--to {part}" for part in several)
        return f"Write several as a list, {several}, on the command line as {words}. "
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}? " if near else ""


def _entry_points() -> Mapping[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def to_targets(backends: list[Any]) -> tuple[list[Target], list[BoundBackend]]:
    """Divide backends, checked, into those for the child process and those for a thread here.

    Those that are switched off are left out.

    Parameters
    ----------
    backends
        Names and instances.
    """
    targets: list[Target] = []
    bound: list[BoundBackend] = []
    for one in backends:
        backend = make(one, {}) if isinstance(one, str) else one
        checked = check_backend(backend)
        if is_switched_off(backend):
            continue
        name, options = _made_of(one, backend)
        if options is None:
            bound.append(checked)
        else:
            _check_can_be_made(name, options)
            _check_is_alone(name, targets)
            _advise(backend)
            targets.append(Target(name, options, _free_name(name, targets)))
    return targets, bound


def is_switched_off(backend: Any) -> bool:
    """Tell whether a backend says of itself that it copies nothing."""
    mode = getattr(backend, "mode", None)
    return isinstance(mode, str) and mode == "disabled"


def _check_is_alone(name: str, targets: list[Target]) -> None:
    if name == "wandb" and any(target.backend == name for target in targets):
        raise BackendError(
            "Backend 'wandb' is given twice. W&B tells runs by their id, so that a run has one "
            "copy there. Leave one out."
        )


def _advise(backend: object) -> None:
    """Say once per process what a backend would have people know when they choose it."""
    advice = getattr(backend, "advice", "")
    if advice and advice not in _advised:
        _advised.add(advice)
        notice(advice)


def _check_can_be_made(name: str, options: Mapping[str, Any]) -> None:
    """Insist that the child will know what to make."""
    if name not in _OURS and name not in _entry_points():
        raise BackendError(
            f"Backend {name!r} has options, so it follows in another process, which does not know "
            f"its name. Offer it as an entry point of {ENTRY_POINTS!r}, or leave options out: it "
            "then gets a thread of this process."
        )
    try:
        orjson.dumps(options)
    except TypeError as error:
        raise BackendError(
            f"The options of backend {name!r} cannot be told to another process ({error}). Allowed "
            "are texts, numbers, None, lists and mappings."
        ) from error


def _made_of(given: Any, backend: Any) -> tuple[str, Mapping[str, Any] | None]:
    """Tell by which name and options the child can make a backend; no options: it cannot."""
    options = getattr(backend, "options", None)
    if isinstance(given, str):
        return given, options or {}
    return getattr(backend, "name", ""), options


def _free_name(backend: str, taken: list[Target]) -> str:
    number = 1 + sum(target.backend == backend for target in taken)
    return backend if number == 1 else f"{backend}-{number}"


def is_installed(package: str) -> bool:
    """Tell whether a package can be imported, without importing it."""
    from importlib.util import find_spec

    # An empty folder of that name, such as W&B's own in a working folder, is no package.
    spec = find_spec(package)
    return spec is not None and spec.origin is not None and os.path.isfile(spec.origin)
