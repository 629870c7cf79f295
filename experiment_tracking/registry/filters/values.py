"""The values of a filter: numbers, times and durations as people write them, and how they compare.

A param that came from MLflow is text whatever it was, so text that reads as a number or as a truth
value compares with those too. Comparing never raises: what cannot be compared does not hold.
"""

import operator
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, NamedTuple

Test = Callable[[Any], bool]

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WHOLE = re.compile(r"[+-]?[0-9]+(?:_[0-9]+)*")
_NUMBER = re.compile(
    rf"{_WHOLE.pattern}(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?|[+-]?\.[0-9]+(?:e[+-]?[0-9]+)?"
    r"|[+-]?inf(?:inity)?|nan",
    re.IGNORECASE,
)
_LONGEST_WHOLE = 4000  # Python refuses to read longer ones as int
_UNITS_S = {"ms": 0.001, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = r"([0-9]+(?:\.[0-9]+)?)(ms|min|[smhdw])"
_DURATION = re.compile(f"(?:{_PART})+", re.IGNORECASE)
_PARTS = re.compile(_PART, re.IGNORECASE)
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?",
    re.IGNORECASE,
)
_DAYS_AGO = {"today": timedelta(0), "yesterday": timedelta(1)}
_STORED_LENGTH = len("2026-11-20T15:30:40.200Z")


def to_number(text: str) -> int | float | None:
    """Read ``1e-3``, ``-2``, ``.5``, ``1_000``, ``inf`` or ``nan``; None for anything else."""
    if _NUMBER.fullmatch(text) is None:
        return None
    if len(text) < _LONGEST_WHOLE and _WHOLE.fullmatch(text):
        return int(text)
    return float(text)


def to_duration_s(text: str) -> float | None:
    """Read ``90s``, ``10min``, ``2h30m``, ``1.5d`` or a bare number of seconds.

    Units are ``ms s m min h d w``.

    Returns
    -------
    float or None
        Seconds; None for any other text.
    """
    if _DURATION.fullmatch(text) is None:
        return to_number(text)
    return sum(float(number) * _UNITS_S[unit.lower()] for number, unit in _PARTS.findall(text))


class Moment(NamedTuple):
    """A time as it was written, meaning all of the day, minute or second that it names."""

    written: str

    def span(self) -> tuple[str, str]:
        """Return its first instant and the first one after it, as documents hold times (UTC).

        Raises
        ------
        ValueError, OverflowError, OSError
            If there is no such time.
        """
        if self.written.startswith("-"):
            return _span(datetime.now(UTC) - _age(self.written), timedelta(milliseconds=1))
        word = self.written.lower()
        if word in _DAYS_AGO:
            return _day(date.today() - _DAYS_AGO[word])
        return _written_span(self.written.upper())


def to_moment(text: str) -> Moment | None:
    """Read a day, a time, ``today``, ``yesterday`` or an age (``-7d``: seven days ago).

    A time without a zone is local.
    """
    moment = Moment(text)
    try:
        moment.span()
    except (ValueError, OverflowError, OSError):  # OSError: before what the system's clock knows
        return None
    return moment


def _age(text: str) -> timedelta:
    seconds = to_duration_s(text[1:]) if _DURATION.fullmatch(text[1:]) else None
    if seconds is None:
        raise ValueError(f"{text!r} is no age")
    return timedelta(seconds=seconds)


def _written_span(text: str) -> tuple[str, str]:
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time")
    day, clock, seconds, fraction, _ = found.groups()
    if clock is None:
        return _day(date.fromisoformat(day))
    length = timedelta(milliseconds=1) if fraction else timedelta(seconds=1 if seconds else 60)
    return _span(datetime.fromisoformat(text), length)


def _day(day: date) -> tuple[str, str]:
    # From midnight to midnight: a day on which clocks change has no 24 hours.
    midnights = (datetime.combine(d, time()) for d in (day, day + timedelta(days=1)))
    first, after = map(_stored, midnights)
    return first, after


def _span(first: datetime, length: timedelta) -> tuple[str, str]:
    return _stored(first), _stored(first.astimezone(UTC) + length)


def _stored(moment: datetime) -> str:
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def one_of(values: Sequence[Any]) -> Test:
    """Return the test for ``=`` and ``in``; hashed, so that a long list costs no more than one.

    Numbers and truth values are also equal to text that reads as them; anything else that a param
    may be (a list) is compared by its text in Python. NaN is equal to NaN.
    """
    moments = [value.span() for value in values if isinstance(value, Moment)]
    if moments:
        return partial(_is_within, moments)
    texts = {value for value in values if isinstance(value, str)}
    typed = {_key(value) for value in values if not isinstance(value, str)}
    either = typed | {_reading(text) for text in texts}
    nan = "nan" in either

    def holds(value: Any) -> bool:
        kind = type(value)
        if kind is float or kind is int:
            return value in either or (nan and value != value)
        if kind is str:
            return value in texts or (bool(typed) and _reading(value) in typed)
        if kind is bool:
            return _key(value) in either
        return value is not None and str(value) in texts

    return holds


def ordered(sign: str, bound: Any) -> Test:
    """Return the test for ``< <= > >=``: numbers with numbers, text with text, times with times."""
    if isinstance(bound, Moment):
        first, after = bound.span()
        # Up to a day is before the next one, and after it is from the next one on.
        edge = after if sign in ("<=", ">") else first
        return partial(_is_placed, _ORDERS["<" if sign in ("<", "<=") else ">="], edge)
    return _text_ordered(sign, bound) if isinstance(bound, str) else _number_ordered(sign, bound)


def like(pattern: str, ignore_case: bool) -> Test:
    """Return the test for SQL's ``like``: ``%`` is any text, ``_`` any one character.

    Atomic groups take each piece at its first place and never look back, so that no pattern can
    take exponential time.
    """
    first, *others = (_piece(part) for part in pattern.split("%"))
    middle = "".join(f"(?>.*?{piece})" for piece in others[:-1])
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    matches = re.compile(first + middle + "".join(f".*{last}" for last in others[-1:]), flags)

    def holds(value: Any) -> bool:
        return value is not None and matches.fullmatch(str(value)) is not None

    return holds


def _piece(part: str) -> str:
    return ".".join(re.escape(text) for text in part.split("_"))


def _number_ordered(sign: str, bound: float) -> Test:
    compare = _ORDERS[sign]

    def holds(value: Any) -> bool:
        kind = type(value)
        if kind is float or kind is int:
            return compare(value, bound)
        number = to_number(value) if kind is str else None
        return number is not None and compare(number, bound)

    return holds


def _text_ordered(sign: str, bound: str) -> Test:
    compare, number = _ORDERS[sign], to_number(bound)

    def holds(value: Any) -> bool:
        kind = type(value)
        if kind is str:
            return compare(value, bound)
        return number is not None and kind in (int, float) and compare(value, number)

    return holds


def _is_within(spans: Sequence[tuple[str, str]], value: Any) -> bool:
    instant = _instant(value)
    return instant is not None and any(first <= instant < after for first, after in spans)


def _is_placed(compare: Callable[[Any, Any], bool], edge: str, value: Any) -> bool:
    instant = _instant(value)
    return instant is not None and compare(instant, edge)


def _instant(value: Any) -> str | None:
    """Return a time in the form in which times compare as text, as nearly all are stored."""
    if not isinstance(value, str):
        return None
    if len(value) == _STORED_LENGTH and value[-1] == "Z":
        return value
    try:
        moment = datetime.fromisoformat(value)
        return _stored(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):  # of a damaged run
        return None


def _key(value: Any) -> Any:
    """Return what stands for a number or a truth value in a set, where 1 and true must differ."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if value == value else "nan"


def _reading(text: str) -> Any:
    lower = text.lower()
    if lower in ("true", "false"):
        return lower
    number = to_number(text)
    return None if number is None else _key(number)
