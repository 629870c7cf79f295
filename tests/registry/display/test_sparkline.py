import math
import re

import numpy as np
import pytest

from experiment_tracking.registry.display.sparkline import read_curves, sparkline


def drawn(svg):
    """Return the lines of a path as lists of points."""
    path = re.search(' d="([^"]*)"', svg)[1]
    return [
        [tuple(map(float, point.split())) for point in line.split("L")]
        for line in path.split("M")[1:]
    ]


@pytest.fixture
def curve(page, track, registry):
    """Log values as a metric and draw it."""

    def curve(values, points=120):
        track("a", rows=[{"loss": value} for value in values])
        svg = sparkline(read_curves(registry.get("a"), ["loss"], 10**9), "loss", points)
        page(svg)
        return svg

    return curve


def test_a_metric_is_drawn_from_left_to_right_its_highest_on_top(curve):
    (line,) = drawn(curve([0.0, 1.0, 0.5]))
    assert line == [(3, 21), (56, 3), (109, 12)]


def test_what_is_not_finite_is_a_gap(curve):
    lines = drawn(curve([0.0, 1.0, math.nan, 1.0, math.inf, 0.0]))
    assert [len(line) for line in lines] == [2, 1, 1]


def test_equal_values_are_a_line_in_the_middle(curve):
    assert {y for _, y in drawn(curve([7.0, 7.0, 7.0]))[0]} == {12}


def test_the_largest_and_smallest_floats_are_drawn_as_well(curve):
    (line,) = drawn(curve([-1.7e308, 1.7e308, 0.0]))
    assert [y for _, y in line] == [21, 3, 12]


def test_a_spike_in_a_long_curve_is_not_lost(curve):
    values = np.zeros(3000)
    values[1234] = 1.0
    svg = curve(values.tolist(), 60)
    (line,) = drawn(svg)
    assert len(line) <= 60
    assert min(y for _, y in line) == 3
    assert "0 to 1, steps 0 to 2999" in svg


@pytest.mark.parametrize("values", [[1.0], [math.nan, math.nan], [math.inf, 1.0]])
def test_less_than_two_points_are_no_curve(curve, values):
    assert curve(values) == ""


def test_a_metric_called_step_is_drawn(track, registry):
    track("a", rows=[{"time": 1.0}, {"time": 2.0}])
    assert sparkline(read_curves(registry.get("a"), ["time"], 10**9), "time")


def test_a_history_that_is_too_long_is_not_read(track, registry):
    track("a", rows=[{"loss": 1.0}])
    assert read_curves(registry.get("a"), ["loss"], 10) is None


def test_a_run_without_a_history_has_no_curve(track, registry, damage):
    run = track("a", rows=[{"loss": 1.0}])
    damage(run, "")
    (run.path / "metrics_history.json").unlink()
    from experiment_tracking.registry.record import RunRecord

    assert sparkline(read_curves(RunRecord.unread(str(run.path)), ["loss"], 100), "loss") == ""
