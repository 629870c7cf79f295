"""Which backends there are by name: ours, and those that packages offer by entry point."""

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from experiment_tracking.backends.interface import BackendInterface, BoundBackend, check_backend
from experiment_tracking.errors import BackendError

ENTRY_POINTS = "experiment_tracking.backends"
"""Group under which a package names the class, or a function that makes an instance."""

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
        raise BackendError(
            f"Backend {backend!r} is not known. Allowed are 'files', "
            f"{', '.join(map(repr, names()))} and instances of BackendInterface."
        )
    return found.load()


def _entry_points() -> Mapping[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def to_targets(backends: list[Any]) -> tuple[list[Target], list[BoundBackend]]:
    """Divide backends, checked, into those for the child process and those for a thread here.

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
        name, options = _made_of(one, backend)
        if options is None:
            bound.append(checked)
        else:
            targets.append(Target(name, options, _free_name(name, targets)))
    return targets, bound


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
