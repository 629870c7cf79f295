import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.reduce import lttb, min_max

VALUES = st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf, -np.inf])
CURVES = st.lists(VALUES, max_size=60).map(np.array)


def areas(x, y, left, right):
    """Twice the areas of the triangles that points span with two others."""
    return np.abs((x - left[0]) * (right[1] - left[1]) - (right[0] - left[0]) * (y - left[1]))


def plain_lttb(x, y, points):
    """Section 4.2 of Steinarsson's thesis, bucket by bucket."""
    edges = np.linspace(1, len(x) - 1, points - 1).astype(int)
    buckets = [slice(0, 1), *map(slice, edges[:-1], edges[1:]), slice(len(x) - 1, len(x))]
    kept = [(x[0], y[0])]
    for bucket, following in itertools.pairwise(buckets[1:]):
        mean = x[following].mean(), y[following].mean()
        best = areas(x[bucket], y[bucket], kept[-1], mean).argmax()
        kept.append((x[bucket][best], y[bucket][best]))
    return np.array([*kept, (x[-1], y[-1])]).T


@settings(deadline=None)
@given(y=CURVES, points=st.integers(4, 40))
def test_min_max_keeps_ends_and_extremes_in_no_more_points_than_asked_for(y, points):
    x = np.arange(len(y))
    some_x, some_y = min_max(x, y, points)
    np.testing.assert_array_equal(some_y, y[some_x])
    assert (np.diff(some_x) > 0).all()
    assert len(some_x) <= points or len(y) <= points
    if len(y):
        assert (some_x[0], some_x[-1]) == (0, len(y) - 1)
    finite = y[~np.isnan(y)]
    if len(finite):
        assert np.nanmin(some_y) == finite.min()
        assert np.nanmax(some_y) == finite.max()


def test_min_max_keeps_the_lowest_and_highest_of_each_stretch():
    y = np.array([0, 1, 5, 2, 3, -4, 9, 8, 7, 6])
    x = np.arange(10) * 10
    some_x, some_y = min_max(x, y, 6)  # 8 inner points in stretches of 4
    assert some_y.tolist() == [0, 1, 5, -4, 9, 6]
    assert some_x.tolist() == [0, 10, 20, 50, 60, 90]


def test_a_spike_in_a_million_points_stays():
    y = np.zeros(1_000_000)
    y[123_456] = 1
    assert 123_456 in min_max(np.arange(len(y)), y, 100)[0]


def test_a_stretch_of_nothing_but_nan_stays_a_gap():
    y = np.concatenate([np.zeros(50), np.full(50, np.nan), np.ones(50)])
    some_x, some_y = min_max(np.arange(150), y, 20)
    assert np.isnan(some_y[(some_x > 60) & (some_x < 90)]).any()
    assert not np.isnan(some_y[(some_x < 40) | (some_x > 110)]).any()


@settings(deadline=None)
@given(y=st.lists(st.floats(-100, 100), min_size=8, max_size=60).map(np.array))
def test_lttb_keeps_the_points_of_the_paper(y):
    x = np.cumsum(np.arange(len(y)) % 3 + 1)  # not even
    np.testing.assert_array_equal(np.array(lttb(x, y, 7)), plain_lttb(x, y, 7))


@given(y=CURVES, points=st.integers(3, 40))
def test_lttb_leaves_out_what_is_not_finite_where_it_reduces(y, points):
    x = np.arange(len(y))
    some_y = lttb(x, y, points)[1]
    if len(y) > points:
        finite = y[np.isfinite(y)]
        assert np.isfinite(some_y).all()
        assert len(some_y) == min(points, len(finite))
        assert some_y[:1].tolist() == finite[:1].tolist()
        assert some_y[-1:].tolist() == finite[-1:].tolist()
    else:
        np.testing.assert_array_equal(some_y, y)


def test_lttb_keeps_the_corner_of_a_curve():
    y = np.concatenate([np.zeros(50), np.arange(50)])
    assert 49 <= lttb(np.arange(100), y, 5)[0][2] <= 51


@pytest.mark.parametrize(("reduce", "least"), [(min_max, 4), (lttb, 3)])
def test_too_few_points_are_refused(reduce, least):
    x = np.arange(10)
    with pytest.raises(InvalidValueError, match=f"{least} or more, found {least - 1}"):
        reduce(x, x, least - 1)
    assert len(reduce(x, x, least)[0]) <= least
