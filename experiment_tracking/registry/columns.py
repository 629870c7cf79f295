"""What a metric column's name means: which metric, and which number of its summary."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from experiment_tracking.errors import MetricNotFoundError
from experiment_tracking.notices import notice

_NUMBERS = {
    "final": "last", "last": "last", "best": "best", "min": "min", "max": "max", "mean": "mean",
    "count": "count", "last_step": "last_step", "best_step": "best_step",
    "min_step": "min_step", "max_step": "max_step",
}  # fmt: skip
_PREFIXES = ("final", "last", "best", "min", "max", "mean")


class Column(NamedTuple):
    """One number of one metric's summary."""

    metric: str
    number: str
    """Key in the metric's summary: ``last``, ``best``, ``min``, ``max``, ``mean``, …"""


def find_column(column: str, names: Collection[str]) -> Column:
    """Tell which number of which metric a column shows.

    A metric that bears the very name wins (its last value); then ``name:min`` and prefixes
    (``final_loss``, ``best_accuracy``); then exactly one metric by its last part, with a notice.

    Parameters
    ----------
    column
        The name asked for.
    names
        All metrics there are.

    Raises
    ------
    MetricNotFoundError
        If none or several answer to it; near or matching names are shown.
    """
    readings = list(_readings(column))
    for metric, number in readings:
        if metric in names:
            return Column(metric, number)
    for metric, number in readings:
        if found := _by_last_part(metric, names):
            return Column(found, number)
    raise MetricNotFoundError(f"No run here has the metric {column!r}. {near(column, names)}")


def find_metric(name: str, names: Collection[str]) -> str:
    """Return the metric called ``name``, or the only one whose last part it is, with a notice.

    Raises
    ------
    MetricNotFoundError
        If none or several answer to it.
    """
    if name in names:
        return name
    if found := _by_last_part(name, names):
        return found
    raise MetricNotFoundError(f"No run here has the metric {name!r}. {near(name, names)}")


def near(name: str, names: Collection[str]) -> str:
    """Say in one sentence which names are near ``name``, or which there are."""
    import difflib  # only a mistake needs it

    close = difflib.get_close_matches(name, list(names), n=5, cutoff=0.5)
    if close:
        return f"Near: {', '.join(close)}."
    if names:
        known = sorted(names)
        return f"There are: {', '.join(known[:10])}{' …' if len(known) > 10 else ''}."
    return "There are none yet."


def _readings(column: str) -> Iterator[tuple[str, str]]:
    yield column, "last"
    name, colon, word = column.rpartition(":")
    if colon and word in _NUMBERS:
        yield name, _NUMBERS[word]
    for prefix in _PREFIXES:
        if column.startswith(prefix + "_"):
            yield column[len(prefix) + 1 :], _NUMBERS[prefix]


def _by_last_part(name: str, names: Collection[str]) -> str | None:
    found = sorted(known for known in names if known.rpartition("/")[2] == name)
    if len(found) > 1:
        raise MetricNotFoundError(
            f"Several metrics end in {name!r}: {', '.join(found)}. Write one of them whole."
        )
    if not found:
        return None
    notice(f"no metric is called {name!r}; {found[0]!r} is taken.")
    return found[0]
