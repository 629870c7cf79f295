"""The distribution of an array's values, as a plain dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.formats.arrays import as_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The edges must stay below 2**1024 when they are scaled back.
_WIDEST = 1 - 2.0**-53


def encode_histogram(values: Any, bins: int = 64) -> dict[str, Any]:
    """Count the values of any array, of any shape, in bins of equal width.

    Parameters
    ----------
    values
        A numpy, torch or jax array, or nested lists of numbers.
    bins
        Number of bins, at least 1.

    Returns
    -------
    dict
        ``counts`` (one a bin) and ``edges`` (one more; the last bin includes its upper edge);
        ``count``, ``min``, ``max``, ``mean`` and ``std`` (of the population) of the finite values;
        ``nonfinite``, how many were NaN or infinite and left out. Without any finite value the
        lists are empty and the statistics None. All computed in float64.

    Raises
    ------
    InvalidTypeError
        ``values`` are not real numbers.
    InvalidValueError
        ``values`` is empty, or ``bins`` below 1.
    """
    import numpy as np

    if bins < 1:
        raise InvalidValueError(f"Histogram: found bins={bins}, allowed is 1 and more.")
    numbers = as_numbers(values, "Histogram").astype(np.float64).ravel()
    if numbers.size == 0:
        raise InvalidValueError("Histogram: found no values. Log it only where there are some.")
    finite = numbers[np.isfinite(numbers)]
    nonfinite = numbers.size - finite.size
    return {**(_describe(finite, bins) if finite.size else _NOTHING), "nonfinite": nonfinite}


_NOTHING: dict[str, Any] = {
    "counts": [], "edges": [], "count": 0, "min": None, "max": None, "mean": None, "std": None
}  # fmt: skip


def _describe(values: NDArray[Any], bins: int) -> dict[str, Any]:
    import numpy as np

    # Into (-1, 1) by a power of two, which rounds nothing: neither squares nor spans overflow.
    exponent = int(np.frexp(np.abs(values).max())[1])
    scaled = np.ldexp(values, -exponent)
    counts, edges = np.histogram(scaled, bins, _limits(scaled, bins))
    return {
        "counts": counts.tolist(),
        "edges": np.ldexp(edges, exponent).tolist(),
        "count": int(values.size),
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(np.ldexp(scaled.mean(), exponent)),
        "std": float(np.ldexp(scaled.std(), exponent)),
    }


def _limits(values: NDArray[Any], bins: int) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if high - low > bins * 2.0**-50:
        return low, high
    # Equal or nearly equal values: too few floats lie between them to part them into bins.
    return max(low - 0.1, -_WIDEST), min(high + 0.1, _WIDEST)
