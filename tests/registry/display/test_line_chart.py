import math
import re

import numpy as np
import pytest

from experiment_tracking.registry.display.line_chart import COLOURED, ChartLine, line_chart, swatch


def line(y, label="a", x=None):
    y = np.array(y, dtype=float)
    return ChartLine(label, np.arange(len(y), dtype=float) if x is None else np.array(x), y)


def labels(svg):
    return re.findall(r'opacity="0.75">([^<]*)<', svg)


def curves(svg):
    """Return the points of each curve, the one in front last."""
    found = re.findall('</title><path d="([^"]*)"', svg)
    return [[tuple(map(float, p.split())) for p in re.split("[ML]", d)[1:]] for d in found]


def test_round_numbers_stand_at_both_axes():
    assert labels(line_chart([line([0.0, 0.7, 1.0])], "step")) == [
        "0", "0.5", "1", "1.5", "2", "0", "0.2", "0.4", "0.6", "0.8", "1",
    ]  # fmt: skip


def test_a_curve_fills_its_axes():
    (points,) = curves(line_chart([line([0.0, 1.0])], "step"))
    assert points == [(62, 266), (548, 10)]


def test_positive_values_two_decades_apart_have_a_logarithmic_axis():
    svg = line_chart([line([100.0, 10.0, 1.0])], "step")
    assert labels(svg)[-3:] == ["1", "10", "100"]
    assert "log scale" in svg
    assert "log scale" not in line_chart([line([3.0, 2.0, 1.0])], "step")
    assert [y for _, y in curves(svg)[0]] == [10, 138, 266]


def test_what_is_not_finite_is_a_gap():
    svg = line_chart([line([1.0, 2.0, math.nan, 2.0, math.inf, 1.0])], "step")
    assert re.search('</title><path d="([^"]*)"', svg)[1].count("M") == 3


def test_the_first_lines_are_in_front_and_in_colour_the_rest_grey():
    svg = line_chart([line([i, i + 1.0], f"run {i}") for i in range(COLOURED + 2)], "step")
    order = [int(name) for name in re.findall("<title>run (.*?)</title>", svg)]
    assert order == list(range(COLOURED + 1, -1, -1))
    assert svg.count("#8a8f98") == 2
    assert len(set(re.findall('stroke="(#\\w{6})"', svg))) == COLOURED + 1
    assert swatch(COLOURED).count("#8a8f98") == 1


@pytest.mark.parametrize("y", [[], [math.nan], [math.inf, math.nan]])
def test_nothing_finite_is_no_chart(y):
    assert line_chart([line(y)], "step") == ""


@pytest.mark.parametrize(
    "y", [[5.0], [0.0, 0.0], [1e300, -1e300], [-1.7e308, 1.7e308], [5e-324, 0]]
)
def test_extreme_values_are_drawn_within_the_picture(page, y):
    svg = line_chart([line(y)], "step")
    page(svg)
    for x, height in curves(svg)[0]:
        assert 0 <= x <= 560
        assert 0 <= height <= 300
    assert len(labels(svg)) < 20


def test_a_curve_without_points_keeps_its_place():
    svg = line_chart([line([]), line([1.0, 2.0], "second")], "step")
    assert "#e08a00" in svg
    assert "second" in svg


def test_labels_are_escaped(page, hostile):
    page(line_chart([line([1.0, 2.0], hostile)], hostile))
