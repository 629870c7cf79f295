import math

import numpy as np
import pytest

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.plots import heatmap, plot_heatmap


def cells(figure):
    (image,) = figure.axes[0].images
    return np.ma.filled(image.get_array(), math.nan)


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.fixture
def runs(runs_of):
    """Two runs with lr 0.1 and depth 2, none with lr 0.2 and depth 10."""
    params = [(0.1, 2), (0.1, 2), (0.2, 2), (0.1, 10), (0.1, None)]
    losses = [[1.0], [3.0], [0.5], [4.0], [9.0]]
    return runs_of(*losses, params=[{"lr": lr, "depth": depth} for lr, depth in params])


def test_each_cell_is_the_mean_of_its_runs(runs):
    figure = plot_heatmap(runs, "lr", "depth", "loss")
    axes, bar = figure.axes
    np.testing.assert_array_equal(cells(figure), [[2.0, 0.5], [4.0, math.nan]])
    assert (ticks(axes.xaxis), ticks(axes.yaxis)) == (["0.1", "0.2"], ["2", "10"])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lr", "depth")
    assert bar.get_ylabel() == "loss (min)"
    assert axes.get_title(loc="right") == "1 of 5 runs have no depth"


def test_values_are_written_in_the_cells_to_be_read_on_their_colour(runs, grey):
    figure = plot_heatmap(runs, "lr", "depth", "loss")
    (image,) = figure.axes[0].images
    texts = figure.axes[0].texts
    assert {(*text.get_position(), text.get_text()) for text in texts} == {
        (0, 0, "2"),
        (1, 0, "0.5"),
        (0, 1, "4"),
    }
    for text in texts:
        behind = image.to_rgba(np.array([[float(text.get_text())]]))[0, 0, :3]
        assert abs(grey(text.get_color()) - grey(behind)) > 0.4


def test_the_better_a_cell_the_darker(runs, grey):
    (image,) = plot_heatmap(runs, "lr", "depth", "loss").axes[0].images
    light = [grey(image.to_rgba(np.array([[v]]))[0, 0, :3]) for v in (0.5, 2.0, 4.0)]
    assert light == sorted(light)
    assert light[0] < 0.2


def test_cells_without_a_run_are_hatched(runs):
    axes = plot_heatmap(runs, "lr", "depth", "loss").axes[0]
    assert axes.patch.get_hatch()
    (image,) = axes.images
    assert image.to_rgba(np.ma.masked_invalid([[math.nan]]))[0, 0, 3] == 0


def test_values_over_decades_have_logarithmic_colours(runs_of):
    runs = runs_of([0.01], [1.0], [100.0], params=[{"a": i, "b": 1} for i in range(3)])

    def middle(**options):
        (image,) = plot_heatmap(runs, "a", "b", "loss", **options).axes[0].images
        return float(image.norm(1.0))

    assert middle() == pytest.approx(0.5)
    assert middle(log=False) == pytest.approx(0.0099, abs=1e-3)


def test_logarithmic_colours_leave_out_what_is_not_above_zero(runs_of):
    runs = runs_of([-1.0], [1.0], params=[{"a": i, "b": "x"} for i in range(2)])
    figure = plot_heatmap(runs, "a", "b", "loss", log=True)
    figure.draw_without_rendering()
    below, above = figure.axes[0].texts
    assert (below.get_text(), below.get_color()) == ("-1", "black")
    assert above.get_text() == "1"


def test_numbers_that_are_shown_alike_keep_cells_of_their_own(runs_of):
    params = [{"a": 0.1, "b": 1}, {"a": 0.1 + 1e-12, "b": 1}, {"a": 1, "b": True}]
    figure = plot_heatmap(runs_of([1.0], [2.0], [3.0], params=params), "a", "b", "loss")
    assert cells(figure).shape == (2, 3)


def test_large_tables_have_no_numbers_in_their_cells_and_some_of_their_ticks(runs_of):
    runs = runs_of(*([float(i)] for i in range(32)), params=[{"a": i, "b": 1} for i in range(32)])
    figure = plot_heatmap(runs, "a", "b", "loss")
    assert cells(figure).shape == (1, 32)
    assert list(figure.axes[0].texts) == []
    assert ticks(figure.axes[0].xaxis) == [str(i) for i in range(0, 32, 2)]


def test_a_random_search_has_too_many_cells(runs_of, monkeypatch):
    monkeypatch.setattr(heatmap, "_MAX_CELLS", 8)
    params = [{"a": i / 7, "b": i / 9} for i in range(3)]
    runs = runs_of([1.0], [2.0], [3.0], params=params)
    with pytest.raises(InvalidValueError, match=r"a has 3 values and b 3: .* Take plot_scatter"):
        plot_heatmap(runs, "a", "b", "loss")
    assert cells(plot_heatmap(runs[:2], "a", "b", "loss")).shape == (2, 2)
