"""What to call runs, and groups of runs, where there is little room: by what tells them apart."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from experiment_tracking.registry.columns import identity

_ROOM = 60
"""Characters of a group's label, unless more are needed to tell groups apart."""
_VALUE_ROOM = 24
_LONGEST = 72
_BEFORE = 4
"""Characters that are kept before texts part, where there is room for no more."""


def group_labels(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a label for each group, as ``lr=0.1, depth=2``, of that alone in which they differ.

    What tells most groups apart stands first, what one of them merely lacks only where nothing
    else tells it apart. Names are their last part where no other has it.

    Parameters
    ----------
    groups
        The columns of each and their values: ``params.model.depth``, ``tags.sweep``, ``project``.

    >>> group_labels([{"params.net.depth": 2, "params.lr": 1}, {"params.net.depth": 3}])
    ['depth=2', 'depth=3']
    """
    names = list(dict.fromkeys(name for group in groups for name in group))
    columns = {name: [group.get(name) for group in groups] for name in names}
    shown = {name: _parts(_short(name, names), columns[name]) for name in _differing(columns)}
    chosen = _chosen(shown, columns)
    rows = zip(*(shown[name] for name in chosen), strict=True) if chosen else [()] * len(groups)
    labels = [", ".join(filter(None, row)) for row in rows]
    nothing = f"no {_short(chosen[0], names)}" if chosen else ""
    return [label or nothing for label in labels]


def _differing(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the columns that are not the same in all groups, those of most values first."""
    kinds = {name: set(map(identity, values)) for name, values in columns.items()}
    names = [name for name, each in kinds.items() if len(each) > 1]
    return sorted(names, key=lambda name: -len(kinds[name] - {None}))


def _chosen(shown: Mapping[str, Sequence[str]], columns: Mapping[str, Sequence[Any]]) -> list[str]:
    chosen: list[str] = []
    apart = 1
    for name in shown:
        rows = list(zip(*(shown[each] for each in (*chosen, name)), strict=True))
        told = len(set(rows))
        is_lacked = len(set(map(identity, columns[name])) - {None}) == 1
        if told > apart or (not is_lacked and max(map(_width, rows)) <= _ROOM):
            chosen.append(name)
            apart = told
    return chosen


def _width(row: Sequence[str]) -> int:
    return sum(len(part) + 2 for part in row)


def _short(name: str, names: Sequence[str]) -> str:
    """Return the last part of a name, or more of it where others end so, or that is a number."""
    bare = name.removeprefix("params.")
    last = bare.rpartition(".")[2]
    alike = Counter(each.rpartition(".")[2] for each in names)
    return bare if alike[last] > 1 or last.isdigit() else last


def _parts(name: str, values: Sequence[Any]) -> list[str]:
    """Write ``name=value``; the name alone for a tag without a value, nothing for None."""
    words = iter(apart(_words([value for value in values if value is not None]), _VALUE_ROOM))
    return ["" if v is None else f"{name}={next(words)}".removesuffix("=") for v in values]


def _words(values: Sequence[Any]) -> list[str]:
    """Write values, floats with as few digits as tell them apart, but four."""
    for digits in range(4, 18):
        words = [f"{v:.{digits}g}" if isinstance(v, float) else str(v) for v in values]
        if len(set(words)) == len(set(map(identity, values))):
            break
    return words


def apart(texts: Sequence[str], room: int) -> list[str]:
    """Cut texts that are longer than ``room``, but never where they differ.

    >>> apart(["a-very-long-name-lr-1-of-many", "a-very-long-name-lr-2-of-many"], 16)
    ['…long-name-lr-1…', '…long-name-lr-2…']
    """
    if max(map(len, texts), default=0) <= room:
        return list(texts)
    several = set(texts)
    start = _common_length(several)
    end = _common_length({text[start:][::-1] for text in several})
    if len(several) > 1:
        longest = max(len(text) - start - end for text in several)
        start = max(0, start - max(_BEFORE, room - longest - 2))
        texts = [_between(text, start, end if end > 1 else 0) for text in texts]
    cut = [_cut(text, max(room, _LONGEST)) for text in texts]
    return cut if len(set(cut)) == len(several) else list(texts)


def _common_length(texts: set[str]) -> int:
    """Return how many characters all texts have in common before they part."""
    a, b = min(texts), max(texts)  # what lies between these in order begins as both do
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _between(text: str, start: int, end: int) -> str:
    # One character is no longer than what stands for it.
    head = "" if start < 2 else "…"
    return head + text[start if head else 0 : len(text) - end] + ("…" if end else "")


def _cut(text: str, most: int) -> str:
    half = most // 2
    return text if len(text) <= most else f"{text[: most - half - 1]}…{text[-half:]}"
