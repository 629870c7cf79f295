"""What several values come to: their mean, how they scatter, and how sure the mean is."""

import math
from collections.abc import Iterable
from functools import lru_cache
from statistics import NormalDist, median
from typing import NamedTuple

_LONGEST_SERIES = 1000


class Spread(NamedTuple):
    """Statistics of the values of several runs; NaN where there are too few for one."""

    n: int
    """How many finite values there are; all other numbers are of these alone."""
    nonfinite: int
    """How many further values are NaN or infinite."""
    mean: float
    std: float
    """Standard deviation of the sample, ``n - 1`` in its denominator."""
    sem: float
    """Standard error of the mean: ``std / sqrt(n)``."""
    low: float
    """Lower end of the mean's 95 % confidence interval, by Student's t."""
    high: float
    """Upper end of that interval."""
    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread":
        """Return the statistics of some values; None does not count as a value.

        >>> spread = Spread.of([1, 2, 3, math.nan, None])
        >>> spread.n, spread.nonfinite, spread.mean, spread.std, round(spread.high, 3)
        (3, 1, 2.0, 1.0, 4.484)
        """
        present = [value for value in values if value is not None]
        finite = [float(value) for value in present if math.isfinite(value)]
        n, nonfinite = len(finite), len(present) - len(finite)
        if not n:
            return cls(0, nonfinite, *[math.nan] * 8)
        mean = _mean(finite)
        std = _std(finite, mean)
        sem = std / math.sqrt(n)
        half = t_quantile(0.975, n - 1) * sem if n > 1 else math.nan
        ends = (mean - half, mean + half)
        return cls(n, nonfinite, mean, std, sem, *ends, median(finite), min(finite), max(finite))


def _mean(values: list[float]) -> float:
    # From the first value on: the mean of equal values is exactly that value, and 1e308 is none
    # too many.
    first, n = values[0], len(values)
    return first + math.fsum(value / n - first / n for value in values)


def _std(values: list[float], mean: float) -> float:
    if len(values) < 2:
        return math.nan
    # hypot scales: squares of 1e-200 or 1e200 are not floats.
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


@lru_cache(maxsize=1024)
def t_quantile(p: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution, to ten digits or more.

    Parameters
    ----------
    p
        Probability, above 0.5 and below 1.
    freedom
        Degrees of freedom, 1 or more: of a mean, values less one.

    Notes
    -----
    Bisection of the distribution's finite series for whole degrees of freedom; beyond 1,000 of
    these Cornish and Fisher's expansion (Abramowitz and Stegun, Handbook of Mathematical
    Functions, 26.7.3, 26.7.4 and 26.7.5).

    >>> round(t_quantile(0.975, 1), 3), round(t_quantile(0.975, 10), 3)
    (12.706, 2.228)
    """
    if freedom > _LONGEST_SERIES:
        return _expansion(p, freedom)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _within(middle, freedom) < 2 * p - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _within(theta: float, freedom: int) -> float:
    """Probability of being nearer to 0 than ``sqrt(freedom) * tan(theta)``."""
    sine, cosine = math.sin(theta), math.cos(theta)
    is_odd = freedom % 2
    term = cosine if is_odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + is_odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2 / math.pi * (theta + sine * total) if is_odd else sine * total


def _expansion(p: float, v: int) -> float:
    z = NormalDist().inv_cdf(p)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
