"""What the format of a framework's models must do: ModelFormat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from experiment_tracking.errors import InvalidTypeError, InvalidValueError, NotFoundError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

    from experiment_tracking.formats.models.saved import Save


class Streamed(NamedTuple):
    """A file that is written piece by piece, without a copy in memory."""

    suffix: str
    """Of the file's name, with its dot."""
    format: str
    """What kind of file it is, ``safetensors`` for one."""
    pieces: Callable[[], Iterable[Buffer]]
    """Gives its bytes in order: contiguous buffers of any size, even tens of thousands of small
    ones. Each is asked for when its turn has come, and let go before the next."""
    known: Mapping[str, Any] = {}
    """What ``model.json`` says of it beside name, size and hash."""


class Written(NamedTuple):
    """A file that a package insists on writing itself, to a path."""

    suffix: str
    format: str
    write: Callable[[str], object]
    known: Mapping[str, Any] = {}


class Wishes(NamedTuple):
    """What the caller of ``log_model`` wants beside the model itself."""

    optimizer: Any = None
    scheduler: Any = None
    input_example: Any = None
    allow_unsafe: bool = False


class Form(NamedTuple):
    """A model as it goes into files."""

    files: dict[str, Streamed | Written]
    """By role: ``weights`` at least; ``optimizer``; ``program``, which runs without the class."""
    known: dict[str, Any]
    """What ``model.json`` says of the model: ``class``, ``parameter_count``."""


class ModelFormat(ABC):
    """Models of one framework.

    An instance has no state. Nothing is imported before a method needs it: a model of a
    framework exists only where that framework is loaded.
    """

    framework: ClassVar[str]
    """Its name in ``model.json``."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages whose versions are kept with a model, and compared when it is loaded."""

    @abstractmethod
    def takes(self, model: object) -> bool:
        """Tell whether ``model`` is of this framework; quick, and imports nothing."""

    @abstractmethod
    def encode(self, model: Any, wishes: Wishes) -> Form:
        """Turn a model into files; the model stays as it is.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If it cannot be kept, or a wish cannot be met.
        """

    @abstractmethod
    def load(self, save: Save, into: Any, *, as_numpy: bool, trusted: Iterable[str]) -> Any:
        """Return the model or its state; fill ``into`` and return it where that is given.

        Parameters
        ----------
        save
            Its :meth:`~experiment_tracking.formats.models.saved.Save.read` gives checked bytes.
        into
            A module or template to fill, None for the state alone.
        as_numpy
            Arrays as numpy's, whatever they were.
        trusted
            Names of types and functions that may be loaded beside those known to be harmless.
        """

    def load_optimizer(self, save: Save, into: Any, scheduler: Any) -> Any:
        """Return the optimizer's state; fill ``into`` and ``scheduler`` where they are given.

        Raises
        ------
        NotFoundError
            If the model was saved without it.
        """
        raise NotFoundError(
            f"{save.subject}: models of {self.framework} are kept without an optimizer."
        )

    def load_program(self, save: Save) -> Callable[..., Any]:
        """Return the function that computes the model, without the code that defined it.

        It takes numpy arrays as the example had them, and gives numpy arrays.
        """
        raise InvalidValueError(
            f"{save.subject}: it has no program, only weights. Log it with input_example=, or load "
            "the weights into the model's code: load(into=...)."
        )

    def run(self, model: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Compute the model once, as it is used after training; return what comes out.

        Raises
        ------
        InvalidTypeError
            If a model of this framework is not something to call.
        """
        raise InvalidTypeError(
            f"A {type(model).__name__} cannot be called on an example. Log it without "
            "input_example=."
        )

    def program(self, model: Any) -> Callable[..., Any]:
        """Return the function that computes a model, with all that is done once done."""
        return lambda *args, **named: self.run(model, args, named)

    def device(self, model: Any) -> str:
        """Name the device that computes the model, ``cpu`` for one."""
        return "cpu"


def class_name(value: object) -> str:
    """Return the full name of a value's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def as_call(example: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return an input example as the arguments of a call: a tuple's items, or a mapping's by name.

    >>> as_call((1, 2)), as_call({"x": 1}), as_call([3])
    (((1, 2), {}), ((), {'x': 1}), (([3],), {}))
    """
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping):
        return (), example
    return (example,), {}
