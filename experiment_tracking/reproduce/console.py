"""A console taken apart, so that two of them can be compared."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiment_tracking.reproduce.equality import NUMBER, is_clock, take_apart

_OWN_NOTICE = "experiment_tracking: "
_PROGRESS = re.compile(r"\d%\s*\||\d(?:it|B) \[|[▏▎▍▌▋▊▉█]")
_MAX_SHOWN = 200

_CLOCK_TIME = r"\d{1,2}:\d\d(?::\d\d)?(?:[.,]\d+)?"
_DAYS = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_MONTHS = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_START = r"(?<![\w.])"
_OF_THE_MOMENT = re.compile(
    "|".join((
        r"\b[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+",  # glog: date, time, thread
        r"\b\d{4}-\d\d-\d\d(?:[T_ ]\d\d[:.-]?\d\d(?:[:.-]?\d\d(?:[.,]\d+)?)?)?"
        r"(?:Z|[+-]\d\d:?\d\d)?",
        r"\b20\d{6}[-_T]\d{4,6}\b",
        rf"\b{_DAYS},? (?:\d+ )?{_MONTHS} +\d+(?: {_CLOCK_TIME})?(?: [A-Z]{{3,4}})?(?: \d{{4}})?",
        r"\b\d\d/\d\d/\d{4}\b",
        rf"(?<![\d:]){_CLOCK_TIME}\b(?: ?[AP]M\b)?",
        rf"{_START}(?:\d++h ?)?\d++m ?\d++(?:\.\d++)?s\b",
        rf"{_START}{NUMBER} ?\w{{0,20}}/ ?(?:s|sec|second|min|minute|h|hour)\b",
        rf"{_START}{NUMBER} ?(?:ns|[uµμ]s|ms|s)/\w+",
        rf"{_START}{NUMBER} ?(?:ns|[uµμ]s|ms|s|secs?|seconds?|mins|minutes?|hrs|hours?)\b",
        # Behind a space these are words of their own: `max 0.9 min 0.1`.
        rf"{_START}{NUMBER}(?:min|h)\b",
        r"\b(?:pid|PID|[Pp]rocess)[ =:#]*\d+",
        r"\b0x[0-9a-fA-F]{4,16}\b",
        r"(?<![\w.~/:)>])~?(?:/[\w.@+%=~-]+){2,}/?",  # an absolute path, or one below home
    ))
)  # fmt: skip
_NAMED_NUMBER = re.compile(rf"(?<!\w)([A-Za-z][\w./-]{{0,60}})(\s*[=:]\s*|\s+)({NUMBER})")


class Line(NamedTuple):
    """A line of a console.

    Attributes
    ----------
    kind
        Its text with ``#`` for each number and ``<…>`` for what is of the moment.
    numbers
        The numbers as they stand.
    line_number, text
        Where it is, from 1, and what it says.
    """

    kind: str
    numbers: tuple[str, ...]
    line_number: int
    text: str


def read_console(text: str, places: Sequence[tuple[str, str]] = ()) -> tuple[list[Line], list[str]]:
    """Take a console apart, and say what was set aside.

    Progress bars, the tracker's own notices and blank lines are left out; times, dates,
    durations, rates, process numbers, addresses and absolute paths become ``<…>``.

    Parameters
    ----------
    text
        As in ``console.log``.
    places
        Folders of the run and what to put for them, so that names in them are still compared.
    """
    lines, bars, touched = [], 0, 0
    for line_number, raw in enumerate(text.split("\n"), start=1):
        if is_progress(raw):
            bars += 1
        elif raw.strip() and not raw.startswith(_OWN_NOTICE):
            here = without_places(raw.rstrip(), places)
            lasting = normalise(here)
            touched += lasting != here
            lines.append(Line(*take_apart(lasting), line_number, raw[:_MAX_SHOWN]))
    aside = [f"{bars:,} lines of progress bars"] if bars else []
    if touched:
        aside.append(f"times, paths, process numbers or addresses in {touched:,} lines")
    return lines, aside


def is_progress(line: str) -> bool:
    """Tell whether a line is what a progress bar left: tqdm's, rich's or pip's.

    Keras writes its metrics into its bar; that line is none.
    """
    return bool(_PROGRESS.search(line)) or ("━" in line and "%" in line)


def normalise(line: str) -> str:
    """Put ``<…>`` in the place of what is of the moment and the machine.

    >>> normalise("12:03:59 epoch 3 loss 0.25 (1.5s) saved to /tmp/x8fj/model.pt, time=3.1")
    '<…> epoch 3 loss 0.25 (<…>) saved to <…>, time=<…>'
    """
    return _NAMED_NUMBER.sub(_without_clock, _OF_THE_MOMENT.sub("<…>", line))


def _without_clock(match: re.Match[str]) -> str:
    name, sign, number = match.groups()
    return name + sign + ("<…>" if is_clock(name) else number)


def without_places(value: Any, places: Sequence[tuple[str, str]]) -> Any:
    """Return text, or a list of it, with a word for each folder that is named there."""
    if isinstance(value, str):
        for path, word in places:
            value = value.replace(path, word)
    elif isinstance(value, list):
        value = [without_places(one, places) for one in value]
    return value
