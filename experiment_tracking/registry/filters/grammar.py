"""The grammar of filters: text becomes a tree, or an error that points at the mistake.

Recursive descent over the text itself, for what a word is depends on where it stands: ``"x"`` is a
name in front of an operator and text behind it.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError
from experiment_tracking.folder.liveness import STATUSES
from experiment_tracking.registry.columns import OTHER_WORDS, RUN_COLUMNS
from experiment_tracking.registry.filters.values import to_duration_s, to_moment, to_number

MAX_CHARACTERS = 2**18
"""A longer text is refused unread; a list of 10,000 ids fits."""

MAX_DEPTH = 100
"""Brackets in brackets; each level takes four of the 1,000 calls that Python nests."""


class Literal(NamedTuple):
    """A value of the filter."""

    value: Any
    """None, bool, int, float (durations in seconds), text or ``Moment``."""
    written: str
    """As the normal form shows it."""


class Comparison(NamedTuple):
    """A column against values."""

    name: str
    operator: str
    values: tuple[Literal, ...]
    at: int
    """Where in the text the name stands."""


class Not(NamedTuple):
    """The contrary."""

    part: "Tree"


class All(NamedTuple):
    """All of the parts hold."""

    parts: "tuple[Tree, ...]"


class Either(NamedTuple):
    """At least one of the parts holds."""

    parts: "tuple[Tree, ...]"


Tree = Comparison | Not | All | Either

# A name or a bare value runs until one of these signs, && or ||.
_WORD = r'(?:(?!&&|\|\|)[^\s()=!<>,"\'`])'
_PLAIN = re.compile(rf"{_WORD}+")
_BARE = re.compile(rf"\s*({_WORD}+)")
_PIECE = re.compile(rf'{_WORD}++|"[^"]*+(?:""[^"]*+)*+"|`[^`]*+(?:``[^`]*+)*+`')
_NAME = re.compile(rf"\s*((?:{_PIECE.pattern})++)")
_TEXT = re.compile(r"""\s*("[^"]*+(?:""[^"]*+)*+"|'[^']*+(?:''[^']*+)*+')""")
_UNQUOTED = re.compile(rf"\s*((?:(?![\[\]]){_WORD})+)")
_SIGN = re.compile(r"\s*(==|=|!=|<>|<=|>=|<|>)")
_OPEN, _CLOSE, _COMMA, _OPEN_LIST, _CLOSE_LIST = (
    re.compile(rf"\s*({sign})") for sign in (r"\(", r"\)", ",", r"\[", r"\]")
)
_AND, _OR = re.compile(r"\s*(&&)"), re.compile(r"\s*(\|\|)")
_REST = re.compile(r"\s*")

_KEYWORDS = frozenset(("and", "or", "not", "in", "like", "ilike", "is", "null"))
_FUNCTIONS = {"avg": "mean", "best": "best", "last": "last", "max": "max", "mean": "mean",
              "min": "min"}  # fmt: skip
_SIGNS = {"==": "=", "<>": "!="}
_KINDS = {
    "param": "params", "params": "params", "parameter": "params", "parameters": "params",
    "metric": "metrics", "metrics": "metrics", "tag": "tags", "tags": "tags",
}  # fmt: skip

_A_NAME = "the name of a column, such as params.lr, metrics.val/loss or status"
_AN_OPERATOR = "an operator: = != < <= > >= in, not in, between, like, ilike, is null, is not null"
_A_VALUE = "a value: a number, text in quotes, true, false or null"
_IN_QUOTES = '. A list that a param holds stands in quotes: "[64, 64]"'
_SHOWN = 50  # characters on either side of a mistake


def to_tree(text: str, column: Callable[[str], Any] | None = None) -> Tree:
    """Read a filter.

    Parameters
    ----------
    column
        Asked for the column of a value that is none, so that a wrong name is told first.

    Raises
    ------
    InvalidValueError
        If it is none; see :func:`mistake`.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidValueError(
            f"The filter has {len(text):,} characters, allowed are {MAX_CHARACTERS:,}. "
            "Use a function of a record instead."
        )
    if not text.strip():
        raise InvalidValueError("The filter is empty. Write for example: metrics.val/loss < 0.1")
    return _Parser(text, column).whole()


def mistake(text: str, at: int, what: str) -> InvalidValueError:
    """Return the error for a mistake: what is wrong, the line it is in, a caret under it."""
    *above, before = text[:at].split("\n")
    behind = text[at:].partition("\n")[0]
    shown = f"{'…' * (len(before) > _SHOWN)}{before[-_SHOWN:]}"
    line = f"{shown}{behind[:_SHOWN]}{'…' * (len(behind) > _SHOWN)}"
    place = f"column {len(before) + 1}" + (f" of line {len(above) + 1}" if above else "")
    return InvalidValueError(
        f"The filter has a mistake at {place}. {_printable(what)}\n"
        f"  {_printable(line)}\n  {' ' * len(shown)}^"
    )


def _printable(text: str) -> str:
    # One character for one, so that the caret stands right; none may steer a terminal.
    return "".join(c if c.isprintable() else " " for c in text)


def written_name(name: str) -> str:
    """Return a name as it stands in a filter, in backticks where it needs them."""
    plain = _PLAIN.fullmatch(name) and name.lower() not in _KEYWORDS and to_number(name) is None
    return name if plain else f"`{name.replace('`', '``')}`"


def written_text(text: str) -> str:
    """Return a text value as it stands in a filter, in double quotes."""
    return '"' + text.replace('"', '""') + '"'


class _Parser:
    """One text, read from left to right."""

    def __init__(self, text: str, column: Callable[[str], Any] | None) -> None:
        self._text = text.rstrip()  # so that the end is behind the last word
        self._column = column
        self._at = 0
        self._start = 0  # of what was taken last
        self._depth = 0

    def whole(self) -> Tree:
        tree = self._either()
        if self._next() != len(self._text):
            raise self._expected("and, or, or the end")
        return tree

    # ------------------------------------------------------------------ conditions

    def _either(self) -> Tree:
        parts = [self._all()]
        while self._keyword("or") or self._take(_OR):
            parts.append(self._all())
        return _joined(Either, parts)

    def _all(self) -> Tree:
        parts = [self._negated()]
        while self._keyword("and") or self._take(_AND):
            parts.append(self._negated())
        return _joined(All, parts)

    def _negated(self) -> Tree:
        turned = False
        while self._keyword("not"):
            turned = not turned
        part = self._operand()
        if not turned:
            return part
        return part.part if isinstance(part, Not) else Not(part)

    def _operand(self) -> Tree:
        if not self._take(_OPEN):
            return self._comparison()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._mistake(self._start, f"At most {MAX_DEPTH} brackets may be open at once.")
        tree = self._either()
        if not self._take(_CLOSE):
            raise self._expected("and, or, )")
        self._depth -= 1
        return tree

    def _comparison(self) -> Tree:
        name, at = self._name()
        if sign := self._take(_SIGN):
            return self._compared(name, _SIGNS.get(sign, sign), at)
        if self._keyword("is"):
            return self._being(name, at)
        if self._keyword("between"):
            return self._between(name, at)
        negation = "not " if self._keyword("not") else ""
        if self._keyword("in"):
            return Comparison(name, f"{negation}in", self._values(name, at), at)
        if word := self._keyword("like", "ilike"):
            return Comparison(name, negation + word, (self._pattern(),), at)
        raise self._no_operator(name, negation)

    def _being(self, name: str, at: int) -> Comparison:
        negation = "not " if self._keyword("not") else ""
        if self._keyword("nan"):
            return Comparison(name, "!=" if negation else "=", (Literal(math.nan, "nan"),), at)
        if not self._keyword("null", "none"):
            raise self._expected("null or nan" if negation else "null, not null, nan or not nan")
        return Comparison(name, f"is {negation}null", (), at)

    def _between(self, name: str, at: int) -> All:
        first = self._compared(name, ">=", at)
        if not (self._keyword("and") or self._take(_AND)):
            raise self._expected("and, as in: between 1 and 2")
        return All((first, self._compared(name, "<=", at)))

    def _no_operator(self, name: str, negation: str) -> InvalidValueError:
        if negation:
            return self._expected("in, like or ilike")
        hint = f". Write {written_name(name)} is not null" if name.startswith("tags.") else ""
        return self._expected(_AN_OPERATOR + hint)

    def _compared(self, name: str, sign: str, at: int) -> Comparison:
        value = self._value(name, at)
        if value.value is None and sign in ("=", "!="):
            return Comparison(name, "is null" if sign == "=" else "is not null", (), at)
        if sign not in ("=", "!=") and (value.value is None or isinstance(value.value, bool)):
            what = f"{value.written} is neither above nor below anything"
            raise self._mistake(self._start, f"{what}. Use = or != with it.")
        return Comparison(name, sign, (value,), at)

    # ------------------------------------------------------------------ names

    def _name(self) -> tuple[str, int]:
        name, at = self._written_name(), self._start
        if not self._take(_OPEN):
            return _column(name), at
        number = _FUNCTIONS.get(name.lower())
        if number is None:
            what = f"No function is called {name:.40}"
            raise self._mistake(at, f"{what}. There are: {', '.join(_FUNCTIONS)}.")
        metric, at = self._written_name(), self._start
        if not self._take(_CLOSE):
            raise self._expected(")")
        kind, _, rest = metric.partition(".")
        metric = rest if rest and _KINDS.get(kind) == "metrics" else metric
        return f"metrics.{metric}:{number}", at

    def _written_name(self) -> str:
        word = self._peek(_NAME)
        if word.lower() in _KEYWORDS or to_number(word) is not None:
            raise self._expected(
                f"{_A_NAME}. Values go behind the operator, odd names in backticks"
            )
        name = "".join(_unquoted(piece, '"`') for piece in _PIECE.findall(word))
        if not name:
            raise self._expected(_A_NAME)
        self._take(_NAME)
        return name

    # ------------------------------------------------------------------ values

    def _values(self, name: str, at: int) -> tuple[Literal, ...]:
        close, sign = (_CLOSE_LIST, "]") if self._take(_OPEN_LIST) else (_CLOSE, ")")
        if sign == ")" and not self._take(_OPEN):
            raise self._expected("a list in brackets, such as (1, 2)")
        values = [self._listed(name, at)]
        while self._take(_COMMA) and not self._follows(close):
            values.append(self._listed(name, at))
        if not self._take(close):
            raise self._expected(f", or {sign}")
        return tuple(values)

    def _listed(self, name: str, at: int) -> Literal:
        value = self._value(name, at)
        if value.value is None:
            hint = f"{written_name(name)} is null or {written_name(name)} in (…)"
            raise self._mistake(self._start, f"A list has no null. Write: {hint}.")
        return value

    def _pattern(self) -> Literal:
        if not self._follows(_TEXT):
            raise self._expected('text in quotes, such as "resnet%"')
        text = _unquoted(self._take(_TEXT) or "", "\"'")
        return Literal(text, written_text(text))

    def _value(self, name: str, at: int) -> Literal:
        quoted = self._follows(_TEXT)
        word = self._take(_TEXT if quoted else _UNQUOTED)
        if word is None:
            raise self._expected(_A_VALUE + _IN_QUOTES * self._follows(_OPEN_LIST))
        text = _unquoted(word, "\"'")
        if not quoted and text.lower() in ("null", "none"):
            return Literal(None, "null")
        value = self._read(name, text, quoted)
        if isinstance(value, Literal):
            return value
        start = self._start
        self._check_column(name, at)
        raise self._mistake(start, f"Found {text[:40]!r}, expected {value}.")

    def _read(self, name: str, text: str, quoted: bool) -> Literal | str:
        """Return a value, or what is expected in its place."""
        if reader := _READERS.get(OTHER_WORDS.get(name, name)):
            return _special(text, *reader)
        return Literal(text, written_text(text)) if quoted else _bare_value(text)

    def _check_column(self, name: str, at: int) -> None:
        try:
            if self._column is not None:
                self._column(name)
        except (InvalidValueError, MetricNotFoundError) as error:
            raise self._mistake(at, str(error)) from error

    # ------------------------------------------------------------------ the text

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._start, self._at = found.start(1), found.end()
        return found[1]

    def _follows(self, pattern: re.Pattern[str]) -> bool:
        return pattern.match(self._text, self._at) is not None

    def _peek(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        return found[1] if found else ""

    def _keyword(self, *words: str) -> str | None:
        word = self._peek(_BARE).lower()
        return self._take(_BARE) and word if word in words else None

    def _next(self) -> int:
        found = _REST.match(self._text, self._at)
        return found.end() if found else self._at

    def _expected(self, what: str) -> InvalidValueError:
        at = self._next()
        return self._mistake(at, f"Found {self._found(at)}, expected {what}.")

    def _found(self, at: int) -> str:
        if at == len(self._text):
            return "the end"
        if word := self._peek(_BARE):
            return repr(word[:40])
        sign = self._text[at]
        if sign in "\"'`" and not (self._follows(_TEXT) or self._follows(_NAME)):
            return f"the quote {sign}, which is not closed"
        return f"text in {sign}" if sign in "\"'`" else sign

    def _mistake(self, at: int, what: str) -> InvalidValueError:
        return mistake(self._text, at, what)


def _joined(kind: type[All] | type[Either], parts: list[Tree]) -> Tree:
    """Join conditions; those that brackets had joined by the same word are taken in."""
    if len(parts) == 1:
        return parts[0]
    flat: list[Tree] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, kind) else [part])
    return kind(tuple(flat))


def _unquoted(word: str, quotes: str) -> str:
    """Take quotes away; a doubled one inside stands for itself, as in SQL."""
    quote = word[:1]
    return word[1:-1].replace(quote * 2, quote) if quote and quote in quotes else word


def _special(text: str, read: Callable[[str], Any], expected: str) -> Literal | str:
    value = read(text)
    if value is None:
        return expected
    written = value if isinstance(value, str) else text
    return Literal(value, written if _PLAIN.fullmatch(written) else written_text(written))


def _bare_value(word: str) -> Literal | str:
    if word.lower() in ("true", "false"):
        return Literal(word.lower() == "true", word.lower())
    number = to_number(word)
    if number is None:
        return f"{_A_VALUE}. Text stands in quotes: {written_text(word[:40])}"
    return Literal(number, repr(number))


def _column(name: str) -> str:
    """Return the column that a name means, MLflow's words for it included."""
    kind, dot, rest = name.partition(".")
    if dot and rest and kind in _KINDS:
        return f"{_KINDS[kind]}.{rest}"
    if dot and kind in ("attribute", "attributes", "attr", "run"):
        column = "id" if rest == "run_id" else OTHER_WORDS.get(rest, rest)
        return column if column in RUN_COLUMNS else name
    return name


def _to_status(text: str) -> str | None:
    return text.lower() if text.lower() in STATUSES else None


_A_TIME = (
    'a time: 2026-11-20, "2026-11-20 10:00", 2026-11-20T10:00:00Z, today, yesterday or an age '
    "such as -7d"
)
_A_DURATION = "a duration: 90, 90s, 10min, 2h30m or 1d"
_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "status": (_to_status, f"a status: {', '.join(STATUSES)}"),
    "created_at": (to_moment, _A_TIME),
    "ended_at": (to_moment, _A_TIME),
    "duration_s": (to_duration_s, _A_DURATION),
    "age_s": (to_duration_s, _A_DURATION),
}
