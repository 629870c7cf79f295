import math

import numpy as np
import pytest

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError
from experiment_tracking.registry.plots import plot_scatter


def points(axes):
    """Return the places of the runs; the star of the best is a collection of its own."""
    return axes.collections[0].get_offsets()


def star(axes):
    (place,) = axes.collections[-1].get_offsets()
    return place.tolist()


def test_each_run_is_a_point_of_its_param_and_its_best_value(runs_of):
    runs = runs_of([3.0, 1.0, 2.0], [5.0, 4.0], params=[{"width": 8}, {"width": 16}])
    figure = plot_scatter(runs, "width", "loss")
    (axes,) = figure.axes
    assert points(axes).tolist() == [[8, 1], [16, 4]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("width", "loss (min)")
    assert (star(axes), axes.get_title(loc="left")) == ([8, 1], "★ run-00")
    assert points(plot_scatter(runs, "width", "loss", on="last").axes[0]).tolist() == [
        [8, 2],
        [16, 4],
    ]


def test_another_number_of_the_metric_can_be_named(runs_of):
    runs = runs_of([3.0, 1.0], params=[{"width": 8}])
    axes = plot_scatter(runs, "params.width", "loss:mean").axes[0]
    assert points(axes).tolist() == [[8, 2]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("width", "loss (mean)")


def test_a_param_that_spans_decades_has_a_logarithmic_axis(seeds):
    assert plot_scatter(seeds, "lr", "loss").axes[0].get_xscale() == "log"
    assert plot_scatter(seeds, "lr", "loss", logx=False).axes[0].get_xscale() == "linear"
    assert plot_scatter(seeds, "seed", "loss").axes[0].get_xscale() == "linear"
    assert plot_scatter(seeds, "lr", "loss", logy=True).axes[0].get_yscale() == "log"


def test_words_stand_side_by_side_with_their_medians(runs_of):
    words = ["sgd", "adam", "adam", "adam", True]
    runs = runs_of([1.0], [2.0], [3.0], [7.0], [5.0], params=[{"o": word} for word in words])
    axes = plot_scatter(runs, "o", "loss").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["True", "adam", "sgd"]
    x, y = points(axes).T
    assert np.round(x).tolist() == [2, 1, 1, 1, 0]
    assert y.tolist() == [1, 2, 3, 7, 5]
    assert len(set(x)) == 5
    (median,) = axes.collections[1].get_segments()
    assert median.tolist() == pytest.approx(np.array([[0.7, 3], [1.3, 3]]))


def test_runs_without_a_place_are_left_out_and_counted(runs_of):
    losses = [[1.0], [math.nan], [math.inf], [4.0]]
    runs = runs_of(*losses, params=[{"a": 1}, {"a": 2}, {"a": 3}, {"b": 4}])
    axes = plot_scatter(runs, "a", "loss:last").axes[0]
    assert points(axes).tolist() == [[1, 1]]
    said = axes.get_title(loc="right")
    assert said == "1 of 4 runs have no a\n2 of 4 runs have no loss (last)"


def test_what_is_not_there_is_told_with_near_names(seeds):
    with pytest.raises(InvalidValueError, match="seed"):
        plot_scatter(seeds, "sede", "loss")
    with pytest.raises(MetricNotFoundError, match="loss"):
        plot_scatter(seeds, "seed", "lss")
    with pytest.raises(MetricNotFoundError, match="no runs"):
        plot_scatter(seeds[:0], "seed", "loss")


def test_a_metric_without_a_goal_has_no_best(registry, track):
    track("a", rows=[{"width": 3.0}], params={"x": 1})
    runs = registry.list_experiments()
    with pytest.raises(InvalidValueError, match="no goal"):
        plot_scatter(runs, "x", "width")
    axes = plot_scatter(runs, "x", "width:max").axes[0]
    assert points(axes).tolist() == [[1, 3]]
    assert axes.get_title(loc="left") == ""


def test_a_metric_that_is_nowhere_finite_is_said(runs_of):
    with pytest.raises(MetricNotFoundError, match="no finite value"):
        plot_scatter(runs_of([math.nan]), "i", "loss:last")
