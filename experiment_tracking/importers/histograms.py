"""Counts in bins, as other trackers keep them, to the form of a run folder's histograms."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any


def to_histogram(
    counts: Sequence[float],
    edges: Sequence[float],
    mean: float | None = None,
    variance: float | None = None,
) -> dict[str, Any]:
    """Return what :func:`~experiment_tracking.formats.histograms.encode_histogram` would.

    Parameters
    ----------
    counts, edges
        One more edge than counts; the outermost are the smallest and the largest value.
    mean, variance
        Of the values; where the source has none, those of the bins' middles.

    Raises
    ------
    ValueError
        If the edges do not fit the counts.
    """
    if len(edges) != len(counts) + 1 and (counts or edges):
        raise ValueError(f"{len(counts)} counts with {len(edges)} edges")
    number = sum(counts)
    statistics: dict[str, Any] = dict.fromkeys(("min", "max", "mean", "std"))
    if number:
        middles = [(left + right) / 2 for left, right in pairwise(edges)]
        if mean is None:
            mean = _weighted_mean(middles, counts)
        if variance is None:
            variance = _weighted_mean([(middle - mean) ** 2 for middle in middles], counts)
        std = math.sqrt(max(variance, 0.0))
        statistics = {"min": edges[0], "max": edges[-1], "mean": mean, "std": std}
    whole = [int(count) if count == int(count) else count for count in counts]
    return {
        "counts": whole, "edges": list(edges), "count": round(number), **statistics, "nonfinite": 0
    }  # fmt: skip


def _weighted_mean(numbers: Sequence[float], weights: Sequence[float]) -> float:
    products = (number * weight for number, weight in zip(numbers, weights, strict=True))
    return sum(products) / sum(weights)
