import itertools
import math

import pytest

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.plots import plot_parallel
from experiment_tracking.registry.plots.parallel import differing_params

RUNS = [
    ({"lr": 0.001, "optimizer": "adam", "depth": 1, "same": 5}, 0.5),
    ({"lr": 0.01, "optimizer": "sgd", "depth": 2, "same": 5}, 0.1),
    ({"lr": 0.1, "optimizer": "adam", "depth": 3, "same": 5}, 0.9),
]


@pytest.fixture
def runs(runs_of):
    return runs_of(*([loss] for _, loss in RUNS), params=[params for params, _ in RUNS])


def paths(figure):
    """Return each run's heights on the axes, worst run first, as they are drawn."""
    (lines,) = figure.axes[0].collections
    return [segment[:, 1].tolist() for segment in lines.get_segments()]


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_each_run_is_a_line_across_the_params_in_which_runs_differ(runs):
    figure = plot_parallel(runs, "loss")
    assert [word for word in words(figure) if word in ("lr", "optimizer", "depth", "same")] == [
        "lr",
        "optimizer",
        "depth",
    ]
    # lr over two decades by its logarithm, two optimizers, depth, loss; the two runs with adam
    # lie a little apart.
    assert paths(figure) == [
        [1.0, pytest.approx(0.02), 1.0, 1.0],
        [0.0, pytest.approx(-0.02), 0.0, 0.5],
        [0.5, 1.0, 0.5, 0.0],
    ]


def test_the_better_a_run_the_darker_its_line(runs, grey):
    figure = plot_parallel(runs, "loss")
    (lines,) = figure.axes[0].collections
    figure.draw_without_rendering()
    assert lines.get_array().tolist() == [0.9, 0.5, 0.1]
    light = [grey(colour[:3]) for colour in lines.get_colors()]
    assert all(a - b > 0.1 for a, b in itertools.pairwise(light))
    assert figure.axes[0].get_title(loc="left") == "★ run-01"


def test_few_runs_differ_in_their_lines_too(runs):
    (lines,) = plot_parallel(runs, "loss").axes[0].collections
    assert len({str(dashes) for dashes in lines.get_linestyles()}) == 3


def test_a_run_without_a_param_passes_under_its_axis(runs_of):
    params = [{"a": 1, "m": 0.5}, {"a": 2, "m": 0.9}, {"a": 3}]
    figure = plot_parallel(runs_of([1.0], [2.0], [3.0], params=params), "loss")
    assert [path[1] for path in paths(figure)] == [pytest.approx(-0.12), 1, 0]
    assert "none" in words(figure)


def test_axes_are_labelled_with_their_values(runs):
    shown = words(plot_parallel(runs, "loss", ["lr", "optimizer"]))
    assert shown == ["lr", "0.001", "0.01", "0.1", "optimizer", "adam", "sgd", "loss (min)"]


def test_many_numbers_have_round_ticks(runs_of):
    runs = runs_of(*([float(i)] for i in range(9)), params=[{"n": 3 + 7 * i} for i in range(9)])
    assert words(plot_parallel(runs, "loss"))[1:-1] == ["10", "20", "30", "40", "50"]


def test_runs_without_a_value_are_left_out_and_counted(runs_of):
    runs = runs_of([1.0], [math.nan], [2.0])
    figure = plot_parallel(runs, "loss:last")
    assert len(paths(figure)) == 2
    assert figure.axes[0].get_title(loc="right") == "1 of 3 runs have no loss (last)"


def test_runs_that_differ_in_nothing_ask_for_params(runs_of):
    runs = runs_of([1.0], [2.0], params=[{"a": 1}] * 2)
    with pytest.raises(InvalidValueError, match="params="):
        plot_parallel(runs, "loss")
    assert [path[0] for path in paths(plot_parallel(runs, "loss", ["a"]))] == [
        pytest.approx(0.52),
        pytest.approx(0.48),
    ]


def test_true_differs_from_1_and_nan_not_from_nan(runs_of):
    params = [{"flag": True, "same": [1], "x": math.nan}, {"flag": 1, "same": [1.0], "x": math.nan}]
    assert differing_params(runs_of([1.0], [2.0], params=params)) == ["flag"]
