"""Values as people read them. Nothing here lets a control character through to a terminal."""

import itertools
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

NOTHING = "-"
"""What stands for a missing value, so that columns stay columns for awk and cut."""

_SPANS = ((86400.0, "d", 3600.0, "h"), (3600.0, "h", 60.0, "m"), (60.0, "m", 1.0, "s"))


def names(words: str) -> list[str]:
    """Read names divided by commas.

    >>> names("loss, val/acc")
    ['loss', 'val/acc']
    """
    return [name.strip() for name in words.split(",")]


def clean(value: object) -> str:
    r"""Return ``value`` as one line of printable text, everything else as its escape.

    >>> clean("red\x1b[31m, second\nline")
    'red\\x1b[31m, second\\nline'
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width_of(text: str) -> int:
    """Cells that ``text`` takes in a terminal: two for wide characters, none for accents."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Shorten ``text`` to at most ``width`` cells, with an ellipsis where something is gone."""
    if width_of(text) <= width:
        return text
    taken = itertools.accumulate(map(_cells, text))
    kept = sum(1 for _ in itertools.takewhile(lambda cells: cells < width, taken))
    return text[:kept] + "…"


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Fill ``text`` up with spaces to ``width`` cells, before it if ``right``."""
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def number(value: float | None) -> str:
    """Write a number with five significant digits, whole ones as they are.

    >>> number(0.0312345678), number(123456.789), number(7), number(float("nan")), number(None)
    ('0.031235', '123457', '7', 'nan', '-')
    """
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if 1e5 <= abs(value) < 1e9 else f"{value:.5g}"


def param(value: Any) -> str:
    """Write a param on one line, text without quotes."""
    return clean(value) or "''"


def param_or_nothing(value: Any) -> str:
    """Write a param, a dash where there is none."""
    return NOTHING if value is None else param(value)


def tag(value: str | None) -> str:
    """Write a tag's value: yes where it has none but is there, a dash where it is not.

    >>> tag("a"), tag(""), tag(None)
    ('a', 'yes', '-')
    """
    return NOTHING if value is None else clean(value) or "yes"


def duration(seconds: float | None) -> str:
    """Write a time span in one word.

    >>> duration(0.25), duration(12.34), duration(200), duration(3720), duration(90000)
    ('0.25s', '12.3s', '3m20s', '1h02m', '1d01h')
    """
    if seconds is None:
        return NOTHING
    for size, unit, small, small_unit in _SPANS:
        if seconds >= size:
            big, rest = divmod(seconds, size)
            return f"{big:.0f}{unit}{int(rest / small):02d}{small_unit}"
    return f"{seconds:.3g}s"


def seconds_since(moment: str | None) -> float | None:
    """Seconds from ``moment`` (ISO 8601) until now, None if it is none."""
    try:
        then = datetime.fromisoformat(moment or "")
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (datetime.now(UTC) - then).total_seconds())


def age(moment: str | None) -> str:
    """Write how long ago ``moment`` was, in its largest unit."""
    seconds = seconds_since(moment)
    if seconds is None:
        return NOTHING
    for size, unit, *_ in _SPANS:
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def local_time(moment: str | None) -> str:
    """Write ``moment`` in this machine's time zone, to the second."""
    try:
        return datetime.fromisoformat(moment or "").astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return NOTHING


def size(size_bytes: float | None) -> str:
    """Write a number of bytes.

    >>> size(5), size(20480), size(3_000_000)
    ('5B', '20.0kB', '2.9MB')
    """
    if size_bytes is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes}{unit}" if unit == "B" else f"{size_bytes:.1f}{unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f}TB"


def tags(mapping: Mapping[str, str]) -> str:
    """Write tags as ``word, key=value``."""
    return ", ".join(clean(f"{k}={v}" if v else k) for k, v in mapping.items()) or NOTHING
