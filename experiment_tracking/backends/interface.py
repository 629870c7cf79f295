"""What a backend must offer, and how its methods are fitted to what we know.

A backend copies a run elsewhere. It writes three methods and as many of the others as it
likes; beyond their plain arguments it receives by keyword whatever its signatures name.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import BackendError
from experiment_tracking.folder.history import Row, metric_values
from experiment_tracking.folder.values import RESERVED, shown_name

if TYPE_CHECKING:
    from inspect import Signature
    from pathlib import Path


class BackendInterface(ABC):
    """Base of backends; only the three abstract methods must be written.

    Every call comes from a thread of the backend's own, one at a time. A run that is opened while
    another is open with the same object gets a shallow copy of it. A method may name more
    parameters than here and is then given them by keyword:

    - ``start_run``: ``project``, ``run_id``, ``path`` (the run's folder), ``tags``, ``group``,
      ``notes``, ``parent`` (a run's id or None), ``created_at`` (ISO 8601, UTC), ``attempt``
      (from 1), ``rows`` (how many it was given before) and ``state``: a mapping that is the
      backend's own. What it puts there, its remote ids, is kept in ``backends/<name>.json`` and
      given back at each later start; ``state["url"]`` is shown to people. ``start_run`` may
      return how many rows have truly arrived, where that can be fewer than ``rows``: the rest is
      sent again.
    - ``log_metrics``: ``timestamp`` (Unix seconds), ``attempt``.
    - ``log_model``: ``name``, ``metadata``, ``step``. ``log_artifact``: ``artifact_type``,
      ``description``, ``step``. ``log_figure``: ``timestamp``.
    - ``set_tags``: ``removed`` (names of tags that are gone), ``notes``.
    - ``end_run``: ``summary`` (what each metric came to, by name), ``ended_at``, ``error`` (None,
      or a mapping with ``type`` and ``message``).

    A method ``log_batch(rows)``, where there is one, is called in place of ``log_metrics``: rows
    are mappings with ``step``, ``time``, ``attempt`` (from the second on) and the metrics; a
    metric called ``time`` or ``attempt`` is ``metric:time`` in them. Further methods that may be
    there: ``log_environment(environment)`` with what stands in ``environment.json``, and
    ``check_connection()``, which raises what keeps the service from answering.

    A service that is away is told by a :class:`~experiment_tracking.errors.BackendUnavailableError`
    or any other OSError: such a call is made again, later and for ever. Anything else that a
    method raises is the fault of what it was given, which is then left out and noted.

    Examples
    --------
    >>> class Printer(BackendInterface):
    ...     def start_run(self, run_name, config):
    ...         print("start", run_name)
    ...
    ...     def log_metrics(self, metrics, step, timestamp):
    ...         print(step, metrics, timestamp)
    ...
    ...     def log_model(self, model, path):
    ...         print("model", path)
    >>> check_backend(Printer()).log_metrics({"loss": 0.5}, 3, timestamp=12.0)
    3 {'loss': 0.5} 12.0
    """

    name: str = ""
    """How it is called as ``backend=`` and ``--to``: ours, or an entry point's name."""

    options: Mapping[str, Any] | None = None
    """Arguments that make it anew. With these and a name it follows in the run's child process;
    a backend without them is an object of this process, where it gets a thread."""

    place: str = ""
    """Where it copies to, as decided when it was made, without credentials. When a mirror is gone
    on with in another place, everything is given again."""

    @abstractmethod
    def start_run(self, run_name: str, config: Mapping[str, Any]) -> int | None:
        """Begin the copy of a run, or go on with it; ``config`` is empty where none was given."""

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Copy the metrics of one row."""

    @abstractmethod
    def log_model(self, model: Any, path: Path) -> None:
        """Copy a model; ``model`` is a handle on the files at ``path``, never the live object.

        ``path`` is a folder with the files of one save alone, and is there for this call.
        """

    def log_params(self, params: Mapping[str, Any]) -> None:  # noqa: B027
        """Copy params, nested as given."""

    def log_artifact(self, path: Path, name: str) -> None:  # noqa: B027
        """Copy the file or folder at ``path``."""

    def log_figure(self, path: Path, name: str, step: int | None) -> None:  # noqa: B027
        """Copy the figure saved at ``path``, a PNG or HTML file."""

    def set_tags(self, tags: Mapping[str, str]) -> None:  # noqa: B027
        """Set the given tags and leave the others."""

    def end_run(self, status: str) -> None:  # noqa: B027
        """End the copy; ``status`` is ``finished``, ``failed``, ``killed`` or ``crashed``."""

    def close(self) -> None:  # noqa: B027
        """Let go of connections and threads; the last call, with or without an end."""


class _Call(NamedTuple):
    """How a method is called: by position, and by keyword where its signature names it."""

    plain: tuple[str, ...]
    known: tuple[str, ...] = ()
    required: bool = False


_CALLS = {
    "start_run": _Call(
        ("run_name", "config"),
        (
            "project",
            "run_id",
            "path",
            "tags",
            "group",
            "notes",
            "parent",
            "created_at",
            "attempt",
            "rows",
            "state",
        ),
        required=True,
    ),
    "log_metrics": _Call(("metrics", "step"), ("timestamp", "attempt"), required=True),
    "log_model": _Call(("model", "path"), ("name", "metadata", "step"), required=True),
    "log_params": _Call(("params",)),
    "log_artifact": _Call(("path", "name"), ("artifact_type", "description", "step")),
    "log_figure": _Call(("path", "name", "step"), ("timestamp",)),
    "set_tags": _Call(("tags",), ("removed", "notes")),
    "end_run": _Call(("status",), ("summary", "ended_at", "error")),
    "log_batch": _Call(("rows",)),
    "log_environment": _Call(("environment",)),
    "check_connection": _Call(()),
    "close": _Call(()),
}


class BoundBackend:
    """A checked backend: every method can be called with all that is known.

    Keywords that the backend's own method does not name are dropped on the way, and a
    method that it lacks does nothing. Made by `check_backend`.
    """

    start_run: Callable[..., object]
    log_metrics: Callable[..., object]
    log_model: Callable[..., object]
    log_params: Callable[..., object]
    log_artifact: Callable[..., object]
    log_figure: Callable[..., object]
    set_tags: Callable[..., object]
    end_run: Callable[..., object]
    log_environment: Callable[..., object]
    check_connection: Callable[..., object]
    close: Callable[..., object]

    def __init__(self, backend: object, methods: Mapping[str, Callable[..., object]]) -> None:
        self.backend = backend
        self.name: str = getattr(backend, "name", "") or type(backend).__name__
        self.place: str = getattr(backend, "place", "")
        self.in_use = False
        """Whether a run is open with it."""
        self.takes_batches = "log_batch" in methods
        self._log_batch = methods.get("log_batch", _do_nothing)
        for name in _CALLS.keys() - {"log_batch"}:
            setattr(self, name, methods.get(name, _do_nothing))

    def for_one_run(self) -> BoundBackend:
        """Return this, or a copy while another run is open with it."""
        if self.in_use:
            return check_backend(copy.copy(self.backend)).for_one_run()
        self.in_use = True
        return self

    def __repr__(self) -> str:
        return f"BoundBackend({self.backend!r})"

    def call(self, method: str, *plain: object, **known: object) -> object:
        """Call one method by its name."""
        return getattr(self, method)(*plain, **known)

    def log_batch(self, rows: Sequence[Row]) -> None:
        """Log rows of the history: all at once, or row by row where that is all there is.

        Row by row, those before one that raises have been logged.
        """
        if self.takes_batches:
            self._log_batch([readable_row(row) for row in rows])
        else:
            for row in rows:
                self._log_row(row)

    def _log_row(self, row: Row) -> None:
        metrics = {shown_name(name): value for name, value in metric_values(row).items()}
        known = {"timestamp": row["time"], "attempt": row.get("attempt", 1)}
        self.log_metrics(metrics, row["step"], **known)


def readable_row(row: Row) -> Row:
    """Return a stored row with numbers in place of the texts for non-finite ones.

    >>> readable_row({"step": 1, "time": 12.0, "loss": "NaN", "edited": "by hand"})
    {'step': 1, 'time': 12.0, 'loss': nan}
    """
    return {key: row[key] for key in RESERVED if key in row} | metric_values(row)


def check_backend(backend: object) -> BoundBackend:
    """Check that every method of a backend can be called, and fit it to what we know.

    Parameters
    ----------
    backend
        An instance of `BackendInterface`, or any object with fitting methods. Those other
        than ``start_run``, ``log_metrics`` and ``log_model`` may be missing.

    Raises
    ------
    BackendError
        For a class in place of an instance, and for methods that are missing, are not
        callable, are coroutines or have another signature; all of them are named.
    """
    if isinstance(backend, type):
        name = backend.__name__
        raise BackendError(f"Backend {name} is a class. Pass an instance of it: {name}(...).")
    problems = [problem for name in _CALLS if (problem := _problem(backend, name))]
    if problems:
        raise BackendError(f"Backend {type(backend).__name__}: " + " ".join(problems))
    methods = {name: getattr(backend, name, None) for name in _CALLS}
    return BoundBackend(backend, {name: _fit(name, m) for name, m in methods.items() if m})


def _problem(backend: object, name: str) -> str:
    """Say what is wrong with one method, and what to write instead; empty when all is well."""
    method = getattr(backend, name, None)
    if method is None:
        return f"{name} is missing. {_advice(name)}" if _CALLS[name].required else ""
    if not callable(method):
        return f"{name} is {method!r}, not a method. {_advice(name)}"
    return _misfit(name, method)


def _misfit(name: str, method: Callable[..., object]) -> str:
    from inspect import iscoroutinefunction

    if iscoroutinefunction(method):
        return f"{name} is a coroutine, which nobody would await. {_advice(name)}"
    signature = _signature(method)
    reason = _refusal(name, signature) if signature else ""
    called = f"{name}({', '.join(_CALLS[name].plain)})"
    found = f"{name}{signature}"
    return f"{found} cannot be called as {called}: {reason}. {_advice(name)}" if reason else ""


def _refusal(name: str, signature: Signature) -> str:
    """Try the call that will be made on the signature; say why it does not fit."""
    plain = _CALLS[name].plain
    try:
        bound = signature.bind(*plain, **dict.fromkeys(_wanted(name, signature)))
    except TypeError as error:
        return str(error)
    swapped = [key for key in plain if bound.arguments.get(key, key) != key]
    return f"{' and '.join(swapped)} would be given something else" if swapped else ""


def _wanted(name: str, signature: Signature) -> list[str]:
    """List what else we know that the signature names, all of it for ``**keywords``."""
    known = _CALLS[name].known
    parameters = signature.parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return [*known]
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return [key for key in known if key in named]


def _fit(name: str, method: Callable[..., object]) -> Callable[..., object]:
    """Wrap a method so that it may be called with everything that is known."""
    signature = _signature(method)
    wanted = _wanted(name, signature) if signature else []

    def call(*plain: object, **known: object) -> object:
        return method(*plain, **{key: known[key] for key in known if key in wanted})

    return call if _CALLS[name].known else method


def _signature(method: Callable[..., object]) -> Signature | None:
    from inspect import signature

    try:
        return signature(method)
    except ValueError:  # some methods written in C have none: they get the plain arguments
        return None


def _advice(name: str) -> str:
    plain, known, _ = _CALLS[name]
    also = f" (and, if wanted, {', '.join(known)})" if known else ""
    return f"Write it as: def {name}(self, {', '.join(plain)}){also}."


def _do_nothing(*_plain: object, **_known: object) -> None:
    pass
