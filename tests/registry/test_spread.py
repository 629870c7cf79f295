import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.registry.spread import Spread, t_quantile

# Abramowitz and Stegun, Handbook of Mathematical Functions, table 26.10.
TABLE = [
    (0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.975, 4, 2.776),
    (0.975, 9, 2.262), (0.975, 30, 2.042), (0.975, 120, 1.980),
    (0.95, 1, 6.314), (0.95, 5, 2.015), (0.995, 2, 9.925), (0.995, 10, 3.169),
]  # fmt: skip


@pytest.mark.parametrize(("p", "freedom", "value"), TABLE)
def test_quantiles_of_students_t_are_those_of_the_tables(p, freedom, value):
    assert t_quantile(p, freedom) == pytest.approx(value, abs=6e-4)


def test_quantiles_agree_with_another_implementation():
    stats = pytest.importorskip("scipy.stats", reason="pip install scikit-learn")
    for freedom in (1, 2, 3, 4, 7, 50, 999, 1000, 1001, 100_000):
        expected = stats.t.ppf(0.975, freedom)
        assert t_quantile(0.975, freedom) == pytest.approx(expected, rel=1e-10)


def test_five_seeds_give_the_numbers_of_a_textbook():
    spread = Spread.of([2, 4, 4, 4, 6])
    assert (spread.n, spread.mean, spread.median, spread.min, spread.max) == (5, 4, 4, 2, 6)
    assert spread.std == pytest.approx(math.sqrt(2))
    assert spread.sem == pytest.approx(math.sqrt(2 / 5))
    assert spread.high - 4 == pytest.approx(4 - spread.low)
    assert spread.high == pytest.approx(4 + 2.7764451 * math.sqrt(2 / 5))


def test_one_value_has_no_spread():
    spread = Spread.of([0.5])
    assert (spread.n, spread.mean, spread.median) == (1, 0.5, 0.5)
    assert all(map(math.isnan, (spread.std, spread.sem, spread.low, spread.high)))


def test_what_is_not_finite_is_counted_and_left_out():
    spread = Spread.of([1.0, math.nan, math.inf, 3.0, None])
    assert (spread.n, spread.nonfinite, spread.mean, spread.max) == (2, 2, 2.0, 3.0)


def test_no_value_at_all_gives_nan():
    spread = Spread.of([None, math.nan])
    assert (spread.n, spread.nonfinite) == (0, 1)
    assert all(map(math.isnan, spread[2:]))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e308, 5e-324])
def test_equal_values_have_no_deviation_at_all(value):
    spread = Spread.of([value] * 3)
    assert (spread.mean, spread.std, spread.low, spread.high) == (value, 0, value, value)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_very_small_and_very_large_values_neither_vanish_nor_overflow(size):
    spread = Spread.of([1 * size, 2 * size, 3 * size])
    assert spread.mean == pytest.approx(2 * size, rel=1e-12)
    assert spread.std == pytest.approx(size, rel=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_mean_and_deviation_agree_with_exact_arithmetic(values):
    spread = Spread.of(values)
    assert spread.mean == pytest.approx(statistics.mean(values), abs=1e-9)
    assert spread.std == pytest.approx(statistics.stdev(values), abs=1e-8)
