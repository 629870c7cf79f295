"""Filters as text: ``metrics.val/loss < 0.1 and params.optimizer = "adam"``.

docs/FILTERS.md describes the language. It is MLflow's and a little more; nothing is ever evaluated
as code.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiment_tracking.errors import InvalidTypeError, InvalidValueError, MetricNotFoundError
from experiment_tracking.registry.filters.grammar import (
    All,
    Comparison,
    Not,
    Tree,
    mistake,
    to_tree,
    written_name,
)
from experiment_tracking.registry.filters.values import Test, like, one_of, ordered

Column = Callable[[str], Sequence[Any]]


def parse(text: str, column: Column | None = None) -> "Filter":
    """Read a filter.

    Parameters
    ----------
    column
        As :meth:`Filter.keep` takes it; asked where what stands behind a name is no value for
        it, so that a name that no run has is told first.

    Raises
    ------
    InvalidValueError
        If it is none: the message shows the text, with a caret under the mistake, what was found
        and what is allowed there.
    InvalidTypeError
        If it is not text.

    Examples
    --------
    >>> print(parse("metrics.val/loss<.1 AND not (status='FAILED')"))
    metrics.val/loss < 0.1 and not status = failed
    """
    if not isinstance(text, str):
        raise InvalidTypeError(f"A filter is text, found {type(text).__name__}.")
    return Filter(text, to_tree(text, column))


class Filter:
    """A condition on runs, made by :func:`parse`.

    ``str()`` gives its normal form, which reads as the same filter.
    """

    def __init__(self, text: str, tree: Tree) -> None:
        self._text = text
        self._tree = tree
        self._places: dict[str, int] = {}
        for comparison in _comparisons(tree):
            self._places.setdefault(comparison.name, comparison.at)

    def __str__(self) -> str:
        return _written(self._tree)

    def __repr__(self) -> str:
        return f"<Filter {self}>"

    @property
    def names(self) -> list[str]:
        """Columns it asks for, each once, in the order met: ``best(x)`` as ``metrics.x:best``."""
        return list(self._places)

    def keep(self, column: Column, count: int) -> list[bool]:
        """Tell of each run whether it meets the condition.

        Parameters
        ----------
        column
            Gives one value per run by a column's name, None where a run has none.
        count
            Number of runs. Where there are none, no column is asked for.

        Raises
        ------
        InvalidValueError
            If ``column`` knows no such name; the message points at it.

        Notes
        -----
        Times such as ``today`` or ``-7d`` are those of this call. 10,000 runs take about a
        millisecond a comparison; ``and`` looks at what its left side kept, ``or`` at what it left.
        """
        if not count:
            return []
        columns = {name: self._values(column, name) for name in self._places}
        kept = [False] * count
        for row in _rows(self._tree, columns, range(count)):
            kept[row] = True
        return kept

    def explain(self, column: Column, count: int) -> list[str]:
        """Say of each comparison how many runs meet it by itself: ``lr = 3: 0 of 18 runs``.

        Parameters
        ----------
        column, count
            As :meth:`keep` takes them.
        """
        lines: dict[str, None] = {}
        for comparison in _comparisons(self._tree) if count else ():
            columns = {comparison.name: self._values(column, comparison.name)}
            met = len(_rows(comparison, columns, range(count)))
            lines[f"{_written(comparison)}: {met} of {count} runs"] = None
        return list(lines)

    def _values(self, column: Column, name: str) -> Sequence[Any]:
        try:
            return column(name)
        except (InvalidValueError, MetricNotFoundError) as error:
            raise mistake(self._text, self._places[name], str(error)) from error


def _comparisons(tree: Tree) -> Iterator[Comparison]:
    if isinstance(tree, Comparison):
        yield tree
    else:
        for part in (tree.part,) if isinstance(tree, Not) else tree.parts:
            yield from _comparisons(part)


def _rows(tree: Tree, columns: Mapping[str, Sequence[Any]], rows: Sequence[int]) -> Sequence[int]:
    """Return those of the rows that meet the condition, in their order."""
    if isinstance(tree, Comparison):
        holds, values = _test(tree), columns[tree.name]
        return [row for row in rows if holds(values[row])]
    if isinstance(tree, All):
        for part in tree.parts:
            rows = _rows(part, columns, rows)
        return rows
    if isinstance(tree, Not):
        dropped = set(_rows(tree.part, columns, rows))
        return [row for row in rows if row not in dropped]
    kept: set[int] = set()
    for part in tree.parts:
        kept.update(_rows(part, columns, [row for row in rows if row not in kept]))
    return [row for row in rows if row in kept]


def _test(comparison: Comparison) -> Test:
    """Return the test that a run's value has to pass; without a value only ``is null`` holds."""
    operator, values = comparison.operator, [literal.value for literal in comparison.values]
    if operator == "is null":
        return lambda value: value is None
    if operator == "is not null":
        return lambda value: value is not None
    if operator in ("=", "in"):
        return one_of(values)
    if operator in ("!=", "not in"):
        return _other(one_of(values))
    if operator.endswith("like"):
        test = like(values[0], operator.endswith("ilike"))
        return _other(test) if operator.startswith("not ") else test
    return ordered(operator, values[0])


def _other(test: Test) -> Test:
    return lambda value: value is not None and not test(value)


def _written(tree: Tree) -> str:
    if isinstance(tree, Comparison):
        return _written_comparison(tree)
    if isinstance(tree, Not):
        return f"not {_in_brackets(tree.part)}"
    if isinstance(tree, All):
        return " and ".join(
            _written(part) if isinstance(part, Comparison | Not) else _in_brackets(part)
            for part in tree.parts
        )
    return " or ".join(_written(part) for part in tree.parts)


def _in_brackets(tree: Tree) -> str:
    return _written(tree) if isinstance(tree, Comparison | Not) else f"({_written(tree)})"


def _written_comparison(comparison: Comparison) -> str:
    start = f"{written_name(comparison.name)} {comparison.operator}"
    values = ", ".join(literal.written for literal in comparison.values)
    if comparison.operator.endswith("in"):
        return f"{start} ({values})"
    return f"{start} {values}".rstrip()
