"""Which runs are samples of their own, and what to know of those that count in a mean."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.registry.columns import identity
from experiment_tracking.registry.labels import group_labels
from experiment_tracking.registry.wording import plural

if TYPE_CHECKING:
    from experiment_tracking.registry.aggregate import Group
    from experiment_tracking.registry.runset import RunSet

_NAMED = 5


def without_reruns(runs: "RunSet") -> "RunSet":
    """Return the runs that repeat none of the others: a rerun tells nothing new of a mean."""
    known = set(runs.column("id")) - {None}
    originals = runs.column("rerun_of")
    kept = [row for row, original in enumerate(originals) if original not in known]
    return runs if len(kept) == len(runs) else runs.take(kept)


def notes_on(
    runs: "RunSet", groups: Sequence["Group"], excluded: Mapping[str, Sequence[Any]], reruns: int
) -> list[str]:
    """Say in sentences what a reader of means must know.

    Parameters
    ----------
    runs
        Those that count.
    groups
        Of these.
    excluded
        The params in which the runs of a group may differ, and their values by run.
    reruns
        How many were left out.
    """
    notes = [_reruns(reruns), _unfinished(runs), _repeated(groups, excluded)]
    return [note for note in notes if note]


def _reruns(count: int) -> str:
    if count == 1:
        return "1 rerun is left out: the run that it repeats is here."
    return f"{count:,} reruns are left out: the runs that they repeat are here." if count else ""


def _unfinished(runs: "RunSet") -> str:
    counts = Counter(runs.column("status"))
    del counts["finished"]
    if not counts:
        return ""
    each = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    have = "has" if counts.total() == 1 else "have"
    counting = "that counts" if counts.total() == 1 else "that count"
    return f"{plural(counts.total(), 'run')} {counting} {have} not finished: {each}."


def _repeated(groups: Sequence["Group"], excluded: Mapping[str, Sequence[Any]]) -> str:
    """Name the groups in which several runs have one seed: they may be one sample."""
    labels = group_labels([group.values for group in groups])
    found = []
    for group, label in zip(groups, labels, strict=True):
        if twice := _twice(group.rows, excluded):
            found.append(f"{label} ({'; '.join(twice)})" if label else "; ".join(twice))
    if not found:
        return ""
    hold = "holds" if len(found) == 1 else "hold"
    values = f"{'a value' if len(excluded) == 1 else 'values'} of {', '.join(excluded)}"
    rest = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    named = ", ".join(found[:_NAMED])
    return f"{plural(len(found), 'group')} {hold} {values} more than once: {named}{rest}."


def _twice(rows: Sequence[int], excluded: Mapping[str, Sequence[Any]]) -> list[str]:
    columns = excluded.values()
    counts: Counter[Any] = Counter()
    words = {}
    for row in rows:
        values = [column[row] for column in columns]
        # Whoever kept no seed has not kept the same one.
        if any(value is not None for value in values):
            key = tuple(map(identity, values))
            counts[key] += 1
            pairs = zip(excluded, values, strict=True)
            words[key] = ", ".join(f"{name} {value}" for name, value in pairs if value is not None)
    twice = [words[key] for key, count in counts.items() if count > 1]
    return twice if len(twice) <= _NAMED else [*twice[:_NAMED], "…"]
