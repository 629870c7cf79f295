"""The configuration of an experiment: before it runs, in its params, and read back."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum, StrEnum
from operator import index
from typing import Any, NoReturn, Self, TypeVar

from experiment_tracking.errors import (
    ExperimentTrackingError,
    InvalidTypeError,
    InvalidValueError,
)

MAX_DEPTH = 50  # nesting of params, as everywhere in a run; a cyclic container ends here too


class _Choice(StrEnum):
    """A string enum that is also found by its name or value in any case."""

    @classmethod
    def _missing_(cls, value: object) -> "_Choice | None":
        word = value.casefold() if isinstance(value, str) else None
        return next((m for m in cls if word in (m.value, m.name.casefold())), None)


class Framework(_Choice):
    """Name the library that a model is written in.

    Members are strings, and are found by value or name in any case.

    >>> Framework.JAX == "jax", Framework("PyTorch") is Framework.PYTORCH
    (True, True)
    """

    JAX = "jax"
    PYTORCH = "pytorch"
    TENSORFLOW = "tensorflow"


class PhysicsDomain(_Choice):
    """Name the field of scientific machine learning that an experiment belongs to.

    Members are strings, and are found by value or name in any case.

    >>> PhysicsDomain("pinn") is PhysicsDomain("PINNs") is PhysicsDomain.PINNS
    True
    """

    NEURAL_OPERATORS = "neural-operators"
    PINNS = "pinn"
    L2O = "l2o"
    NEURAL_DFT = "neural-dft"
    QUANTUM_COMPUTING = "quantum-computing"


@dataclass
class ExperimentConfig:
    """Describe one scientific experiment; checked when it is made.

    Strings become enum members, and numbers of numpy, torch and jax plain ones.

    Parameters
    ----------
    framework
        A `Framework`, or its value or name in any case.
    domain
        A `PhysicsDomain`, or its value or name in any case.
    model_type
        Architecture, e.g. ``"FNO"``.
    learning_rate
        Step size of the optimizer, positive and finite.
    batch_size
        Samples per optimizer step, at least 1.
    num_epochs
        Passes over the training data, at least 1.
    optimizer, loss_function
        Names, ``"adam"`` and ``"mse"`` unless given.
    regularization
        A mapping, a single strength, a name, or None for no regularization.
    data_config
        A mapping that describes the data, or None.
    hardware
        A mapping, or a name such as ``"A100"``, or None.
    seed
        Any integer, 42 unless given.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        With the field, what was found and what is allowed.

    Examples
    --------
    >>> config = ExperimentConfig("jax", "pinn", "MLP", 1e-3, batch_size=32, num_epochs=100)
    >>> config.framework
    <Framework.JAX: 'jax'>
    >>> ExperimentConfig.from_dict(config.to_dict()) == config
    True
    """

    framework: Framework
    domain: PhysicsDomain
    model_type: str
    learning_rate: float
    batch_size: int
    num_epochs: int
    optimizer: str = "adam"
    loss_function: str = "mse"
    regularization: Mapping[str, Any] | float | str | None = None
    data_config: Mapping[str, Any] | None = None
    hardware: Mapping[str, Any] | str | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        self.framework = _choice("framework", self.framework, Framework)
        self.domain = _choice("domain", self.domain, PhysicsDomain)
        for name in ("model_type", "optimizer", "loss_function"):
            _check_text(name, getattr(self, name))
        self.learning_rate = _positive_number("learning_rate", self.learning_rate)
        self.batch_size = _count("batch_size", self.batch_size)
        self.num_epochs = _count("num_epochs", self.num_epochs)
        self.seed = _integer("seed", self.seed)
        self.regularization = _of_kind(
            "regularization", self.regularization, (Mapping, float, int, str)
        )
        self.data_config = _of_kind("data_config", self.data_config, (Mapping,))
        self.hardware = _of_kind("hardware", self.hardware, (Mapping, str))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: enums as their values, tuples as lists, paths as text.

        Raises
        ------
        InvalidTypeError
            A value inside one of the mappings has no plain JSON form; the message has its place.
        InvalidValueError
            The mappings are nested deeper than 50, or contain themselves.
        """
        return {f.name: _plain(f.name, getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Return the config that `mapping` describes; keys that are not fields are ignored.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            `mapping` is not a mapping, lacks a required field, or holds a value not allowed.
        """
        if not isinstance(mapping, Mapping):
            _refuse_kind("the argument of from_dict", mapping, "a mapping of field names to values")
        if missing := [name for name in _required(cls) if name not in mapping]:
            raise InvalidValueError(
                f"ExperimentConfig: {', '.join(missing)} missing, found only "
                f"{', '.join(map(str, mapping)) or 'an empty mapping'}. "
                f"Give all of {', '.join(_required(cls))}."
            )
        return cls(**{f.name: mapping[f.name] for f in fields(cls) if f.name in mapping})


class ConfigView(Mapping[str, Any]):
    """Show params read-only, by key and by attribute.

    Mappings inside, also those in lists, are views too. A key that bears the name of a method
    of `Mapping`, such as ``items``, is reached as ``view["items"]``. Equal to any mapping with
    the same content; later changes of the mapping's own keys do not show.

    Examples
    --------
    >>> view = ConfigView({"lr": 0.1, "model": {"depth": 4}})
    >>> view.lr, view["lr"], view.model.depth
    (0.1, 0.1, 4)
    >>> view
    {'lr': 0.1, 'model': {'depth': 4}}
    >>> view.model.dept
    Traceback (most recent call last):
    AttributeError: the config has no 'dept'. Near: depth.
    """

    __slots__ = ("_params",)

    _params: dict[str, Any]

    def __init__(self, params: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_params", dict(params))

    def __getitem__(self, name: str) -> Any:
        return _view(self._params[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)

    def __getattr__(self, name: str) -> Any:
        if name in self._params:
            return self[name]
        raise AttributeError(_no_such_name(name, self._params), name=name, obj=self)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"a config that was read is read-only, {name!r} was not set. "
            "Change a copy: config.to_dict()."
        )

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._params]

    def __repr__(self) -> str:
        return repr(self._params)

    def __reduce__(self) -> tuple[type["ConfigView"], tuple[dict[str, Any]]]:
        return ConfigView, (self._params,)

    def to_dict(self) -> dict[str, Any]:
        """Return a copy in plain dicts, lists and scalars, as `ExperimentConfig.to_dict` does."""
        return {name: _plain(name, value) for name, value in self._params.items()}


def config_from_params(params: Mapping[str, Any]) -> ExperimentConfig | ConfigView:
    """Return an `ExperimentConfig` where `params` hold a whole and valid one, else a view of them.

    Params beyond the fields of the config do not show in it; the params themselves keep them.

    >>> config_from_params({"lr": 0.1}).lr
    0.1
    """
    try:
        return ExperimentConfig.from_dict(params)
    except ExperimentTrackingError:
        return ConfigView(params)


def _required(cls: type[ExperimentConfig]) -> list[str]:
    return [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]


def _refuse_kind(what: str, value: object, allowed: str) -> NoReturn:
    raise InvalidTypeError(
        f"ExperimentConfig: {what} is {value!r:.80} (a {type(value).__name__}). Give {allowed}."
    )


ChoiceT = TypeVar("ChoiceT", bound=_Choice)


def _choice(name: str, value: object, choices: type[ChoiceT]) -> ChoiceT:
    allowed = "one of " + ", ".join(repr(choice.value) for choice in choices)
    if not isinstance(value, str):
        _refuse_kind(name, value, allowed)
    try:
        return choices(value)
    except ValueError:
        raise InvalidValueError(f"ExperimentConfig: {name} is {value!r}. Give {allowed}.") from None


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        _refuse_kind(name, value, "a name as text")
    if not value.strip():
        raise InvalidValueError(f"ExperimentConfig: {name} is {value!r}. Give a name, not blank.")


def _positive_number(name: str, value: Any) -> float:
    allowed = "a positive finite number such as 0.001"
    # float() would take "1e-3", which YAML leaves as text; taking it here would hide it elsewhere.
    if isinstance(value, (bool, str, bytes)):
        _refuse_kind(name, value, allowed)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError, RuntimeError):  # the last is torch's, for several elements
        _refuse_kind(name, value, allowed)
    if not 0 < number < math.inf:
        raise InvalidValueError(f"ExperimentConfig: {name} is {value!r}. Give {allowed}.")
    return number


def _integer(name: str, value: Any, allowed: str = "an integer") -> int:
    if isinstance(value, bool):
        _refuse_kind(name, value, allowed)
    try:
        return index(value)
    except TypeError:
        _refuse_kind(name, value, allowed)


def _count(name: str, value: Any) -> int:
    count = _integer(name, value, "an integer of at least 1")
    if count < 1:
        raise InvalidValueError(
            f"ExperimentConfig: {name} is {count}. Give an integer of at least 1."
        )
    return count


def _of_kind(name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    value = _python_scalar(value)
    words = {Mapping: "a mapping", float: "a number", str: "text"}
    if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
        _refuse_kind(name, value, ", ".join(words[k] for k in kinds if k in words) + " or None")
    return value


def _python_scalar(value: Any) -> Any:
    """Return the Python number in a scalar of numpy, torch or jax, anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def _plain(place: str, value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise InvalidValueError(
            f"{place}: nested deeper than {MAX_DEPTH}, or containing itself. Flatten it."
        )
    if isinstance(value, Mapping):
        return {str(k): _plain(f"{place}.{k}", v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{place}[{i}]", v, depth + 1) for i, v in enumerate(value)]
    return _plain_scalar(place, value)


def _plain_scalar(place: str, value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    value = _python_scalar(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise InvalidTypeError(
        f"{place}: a {type(value).__name__} has no plain JSON form. "
        "Give numbers, text, None, lists or mappings of these."
    )


def _view(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ConfigView(value)
    if isinstance(value, (list, tuple)):
        return [_view(item) for item in value]
    return value


def _no_such_name(name: str, names: Mapping[str, Any]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, map(str, names))
    hint = f"Near: {', '.join(near)}." if near else f"It has: {', '.join(names) or 'nothing'}."
    return f"the config has no {name!r}. {hint}"
