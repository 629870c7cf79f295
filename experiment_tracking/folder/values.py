"""Python, numpy, torch and jax values to what JSON can hold, and back.

No array package is imported: a scalar of theirs is known by its shape and its ``item()``.
"""

import enum
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from experiment_tracking.errors import InvalidNameError, InvalidTypeError, InvalidValueError

Number = int | float

RESERVED = ("step", "time", "attempt", "rank")
"""Keys of a row that are not metrics."""

_ESCAPE = "metric:"
_SHOWN = {_ESCAPE + name: name for name in RESERVED}
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_INT64 = range(-(2**63), 2**63)
_MAX_DEPTH = 50
_MAX_REPR = 1000
# Python may refuse to write, and to read back, integers of more than 640 digits.
_MAX_INT_BITS = 2000
# Milliseconds since 1970 pass this in 1973, seconds only in the year 5138.
_LATEST_TIMESTAMP = 1e11


def to_stored(value: Number) -> Number | str:
    """Write a number as JSON can: NaN and the infinities become text."""
    if value - value == 0:  # false for NaN and infinities alone, and cheaper than isfinite
        return value
    return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")


def from_stored(value: Any) -> Number | None:
    """Give back the number that ``to_stored`` wrote; None for what is not a number."""
    if type(value) is float or type(value) is int:
        return value
    return _NON_FINITE.get(value) if type(value) is str else None


def stored_name(name: str) -> str:
    """Name under which a metric stands in a row: reserved words get a prefix."""
    return _ESCAPE + name if name in RESERVED else name


def shown_name(name: str) -> str:
    """Name of a metric as its user gave it."""
    return _SHOWN.get(name, name)


def check_metric_name(name: object) -> str:
    """Return ``name`` if a metric may bear it: any text but the empty one."""
    if not isinstance(name, str):
        raise InvalidNameError(
            f"A metric's name must be text, found {_described(name)}. Write for example 'loss'."
        )
    if not name.strip():
        raise InvalidNameError(f"A metric needs a name, found {name!r}. Write for example 'loss'.")
    _check_utf8(name, "A metric's name")
    return name


def to_number(value: Any, name: str) -> Number:
    """Turn one metric's value into an int or a float.

    Takes Python numbers, and numpy, torch and jax scalars of shape ``()`` or ``(1,)`` (a value
    on a device is waited for). Booleans count as 0 and 1; integers beyond 64 bits become floats.

    Raises
    ------
    InvalidTypeError
        For text, None, complex numbers, and arrays of any other shape.
    """
    kind = type(value)
    if kind is float:
        return float(value)
    if isinstance(value, int) and int(value) in _INT64:
        return int(value)
    if isinstance(value, (str, bytes, bytearray, memoryview)) or value is None:
        raise InvalidTypeError(
            f"Metric {name!r} is {value!r:.60}; a metric is one number. "
            "Keep text with log_param, log_text or set_tags."
        )
    if isinstance(value, (list, tuple, dict, set)):
        raise InvalidTypeError(
            f"Metric {name!r} is a {kind.__name__} of {len(value)}; a metric is one number. Log "
            f"one name per element, such as '{name}/0', or log_histogram(values, {name!r})."
        )
    shape = _shape(value)
    if shape not in _SCALAR_SHAPES:
        raise InvalidTypeError(
            f"Metric {name!r} is an array of shape {shape}; a metric is one number. "
            f"Log {name}.mean(), one name per element, or log_histogram(values, {name!r})."
        )
    try:
        return to_number(_item(value), name) if hasattr(value, "item") else float(value)
    except InvalidTypeError:
        raise
    except Exception as error:
        raise InvalidTypeError(
            f"Metric {name!r} is of type {kind.__name__}, which does not turn into a number "
            f"({error}). Pass a number or a one-element array."
        ) from error


_SCALAR_SHAPES = ((), (1,))


def _shape(value: Any) -> tuple[Any, ...]:
    try:
        return tuple(value.shape)
    except Exception:  # No array: without a shape, or with one of another meaning.
        return ()


def _item(array: Any) -> Any:
    item = array.item()
    # A longdouble's item is a longdouble again.
    return float(array) if hasattr(item, "item") else item


def _described(value: Any) -> str:
    try:
        return f"{value!r:.60} of type {type(value).__name__}"
    except Exception:
        return f"an object of type {type(value).__name__}"


def to_step(step: Any, what: str = "step") -> int:
    """Turn a step into an int: anything with ``__index__``, or a whole float, within 64 bits."""
    try:
        is_array = hasattr(step, "item") and _shape(step) in _SCALAR_SHAPES
        plain = _item(step) if is_array else step
        is_whole = isinstance(plain, float) and plain.is_integer()
        whole = int(plain) if is_whole else int(operator.index(plain))
    except Exception:
        raise InvalidTypeError(
            f"{what} must be a whole number, found {_described(step)}."
        ) from None
    if whole not in _INT64:
        raise InvalidValueError(f"{what} must fit in 64 bits, found {whole}.")
    return whole


def check_timestamp(timestamp: Any) -> float:
    """Return ``timestamp`` as Unix seconds; refuse what can only be milliseconds."""
    seconds = float(to_number(timestamp, "timestamp"))
    if not 0 <= seconds <= _LATEST_TIMESTAMP:
        raise InvalidValueError(
            f"timestamp must be Unix seconds between 0 and 1e11, found {timestamp!r}. "
            "Divide milliseconds by 1000."
        )
    return seconds


def to_row(metrics: Mapping[str, Any]) -> tuple[dict[str, Number | str], int | None]:
    """Check and convert a mapping of metrics; also return the step if it carries one."""
    if not isinstance(metrics, Mapping):
        raise InvalidTypeError(
            f"log_metrics takes a mapping of names to numbers, found {type(metrics).__name__}. "
            "Write log_metrics({'loss': value}, step=step)."
        )
    step = to_step(metrics["step"]) if "step" in metrics else None
    row = {
        stored_name(check_metric_name(name)): to_stored(to_number(value, name))
        for name, value in metrics.items()
        if name != "step"
    }
    if not row:
        raise InvalidValueError("log_metrics was given no metric. Write {'loss': value}.")
    return row, step


def to_plain(value: Any, name: str = "params", on_cut: Callable[[str], None] | None = None) -> Any:
    """Turn a parameter's value into what JSON holds, nested as given.

    Numbers, text, None, lists and mappings stay; paths, enums, dates, dataclasses, named tuples,
    sets, scalars of array packages, dtypes, devices and callables take a plain form; an array
    becomes its shape and dtype; anything else its ``repr``, cut at 1,000 characters
    (``on_cut(name)`` is called then).

    Raises
    ------
    InvalidValueError
        For containers that hold themselves, or nested deeper than 50.
    InvalidNameError
        For keys that are not valid text.
    """
    return _Plain(on_cut).convert(value, name)


class _Plain:
    def __init__(self, on_cut: Callable[[str], None] | None) -> None:
        self.on_cut = on_cut
        self.above: list[int] = []

    def convert(self, value: Any, name: str) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return _clean_text(value)
        if kind is float:
            return to_stored(value)
        if kind is int:
            return value if value.bit_length() <= _MAX_INT_BITS else self._text(value, name)
        if kind is dict or kind is list:
            return self._inside(value, value, name)
        try:
            # The foreign questions alone: what a signal handler raises while we convert the
            # answers must come out.
            plainer = _look_into(value)
        except Exception:  # It answers with errors; its repr may still do.
            plainer = _UNKNOWN
        if type(plainer) is dict or type(plainer) is list:
            return self._inside(value, plainer, name)
        return self._text(value, name) if plainer is _UNKNOWN else self.convert(plainer, name)

    def _inside(self, value: Any, content: Any, name: str) -> Any:
        if id(value) in self.above:
            raise InvalidValueError(f"{name} holds itself; only finite containers can be kept.")
        if len(self.above) >= _MAX_DEPTH:
            raise InvalidValueError(f"{name} is nested deeper than {_MAX_DEPTH}; flatten it.")
        self.above.append(id(value))
        try:
            convert = self._mapping if type(content) is dict else self._sequence
            return convert(content, name)
        finally:
            self.above.pop()

    def _mapping(self, value: Mapping[Any, Any], name: str) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, item in value.items():
            if isinstance(key, str):
                _check_utf8(key, f"A name in {name}")
            text = str(self.convert(key, name))
            if text in plain:
                raise InvalidNameError(
                    f"{name} has two names that read {text!r}, one of them {key!r}. Rename one."
                )
            plain[text] = self.convert(item, f"{name}.{text}")
        return plain

    def _sequence(self, value: Sequence[Any], name: str) -> list[Any]:
        return [self.convert(item, f"{name}[{index}]") for index, item in enumerate(value)]

    def _text(self, value: Any, name: str) -> str:
        # dtypes and devices of array packages have no common mark but say well what they are
        # through str; for everything else repr is the fuller form.
        kind = type(value).__name__.lower()
        describe = str if "dtype" in kind or kind.endswith("device") else repr
        try:
            text = describe(value)
        except Exception as error:
            text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
        if len(text) > _MAX_REPR:
            if self.on_cut is not None:
                self.on_cut(name)
            text = text[: _MAX_REPR - 1] + "…"
        return _clean_text(text)


_UNKNOWN = object()


def _look_into(value: Any) -> Any:
    """Ask a foreign object what it comes to: a dict, a list, something plainer, or unknown."""
    if isinstance(value, type):
        return _qualified_name(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value.items())
    if hasattr(value, "_asdict"):
        return dict(value._asdict())
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if hasattr(value, "__dataclass_fields__"):
        return _fields(value)
    for base, plain in _BASES.items():
        if isinstance(value, base):  # of a subclass, numpy's float64 among them
            return plain(value)
    if hasattr(value, "__fspath__"):
        return value.__fspath__()
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _look_into_array(value)
    return _qualified_name(value) if hasattr(value, "__qualname__") else _UNKNOWN


def _look_into_array(array: Any) -> Any:
    shape = [int(size) for size in array.shape]
    if tuple(shape) in _SCALAR_SHAPES:
        return _item(array)
    return {"shape": shape, "dtype": str(array.dtype)}


_BASES: dict[type, Callable[[Any], Any]] = {
    int: int.__int__, float: float.__float__, str: str.__str__,
}  # fmt: skip


def _fields(instance: Any) -> dict[str, Any]:
    import dataclasses  # there already: an instance of one has been made

    names = (field.name for field in dataclasses.fields(instance))
    return {name: getattr(instance, name) for name in names if hasattr(instance, name)}


def _qualified_name(value: Any) -> str:
    module = getattr(value, "__module__", None)
    return f"{module}.{value.__qualname__}" if module else str(value.__qualname__)


def to_tags(tags: Mapping[str, Any] | Iterable[str] | str | None) -> dict[str, str]:
    """Turn words or a mapping into the mapping of text to text that tags are kept as."""
    if tags is None:
        return {}
    if isinstance(tags, str):
        tags = [tags]
    if not isinstance(tags, Mapping):
        tags = _from_words(tags)
    plain = to_plain(tags, "tags")
    return {key: _tag_text(value) for key, value in plain.items()}


def _from_words(words: Any) -> dict[str, str]:
    try:
        return dict.fromkeys(words, "")
    except TypeError:
        raise InvalidTypeError(
            f"Tags must be a mapping, a word or several words, found {words!r:.60}. "
            "Write set_tags({'model': 'resnet'}) or set_tags(['baseline'])."
        ) from None


def _tag_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _clean_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _check_utf8(text: str, what: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidNameError(
            f"{what} must be valid text, found {text!r}; it holds half a surrogate pair. "
            f"Write {_clean_text(text)!r}."
        ) from None
