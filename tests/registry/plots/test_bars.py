import itertools
import math

import pytest

from experiment_tracking.errors import MetricNotFoundError
from experiment_tracking.registry.plots import plot_bars, plot_comparison
from experiment_tracking.registry.registry import ExperimentRegistry


def bars(axes):
    return axes.containers[0].patches


def lengths(axes):
    return [bar.get_width() for bar in bars(axes)]


def names(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def written(axes):
    return [text.get_text() for text in axes.texts]


def test_each_run_is_a_bar_of_its_last_value_in_the_order_of_the_runs(runs_of):
    runs = runs_of([3.0, 1.0, 2.0], [5.0, -4.0])
    (axes,) = plot_bars(runs, "loss").axes
    assert (lengths(axes), names(axes)) == ([2, -4], ["run-00", "run-01"])
    assert (written(axes), axes.get_xlabel()) == (["2", "-4"], "loss (last)")
    assert [bar.get_x() for bar in bars(axes)] == [0, 0]
    assert axes.yaxis_inverted()
    assert lengths(plot_bars(runs, "loss", on="best").axes[0]) == [1, -4]


def test_values_lie_beside_the_bars_and_inside_the_picture(runs_of):
    figure = plot_bars(runs_of([3.0], [-123.456], [2.0]), "loss")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for text, bar in zip(axes.texts, bars(axes), strict=True):
        place, extent = text.get_window_extent(), bar.get_window_extent()
        assert place.x0 >= extent.x1 or place.x1 <= extent.x0
        assert axes.get_window_extent().x0 <= place.x0
        assert place.x1 <= axes.get_window_extent().x1


def test_bars_side_by_side_differ_without_colour(seeds, grey):
    axes = plot_bars(seeds, "loss").axes[0]
    hatches = [bar.get_hatch() for bar in bars(axes)]
    assert all(a != b for a, b in itertools.pairwise(hatches))
    light = [grey(bar.get_facecolor()[:3]) for bar in bars(axes)]
    assert all(abs(a - b) > 0.16 for a, b in itertools.pairwise(light))


def test_what_is_not_finite_is_named_in_the_place_of_a_bar(registry, track):
    track("a", rows=[{"loss": 1.0}])
    track("b", rows=[{"loss": math.nan}])
    track("c", rows=[{"loss": math.inf}])
    track("d", rows=[{"other": 1.0}])
    axes = plot_bars(registry.list_experiments(), "loss").axes[0]
    assert lengths(axes) == [1, 0, 0, 0]
    assert written(axes) == ["1", "no number", "inf", "no number"]


def test_runs_that_differ_in_their_seed_are_one_bar_with_the_interval_of_the_mean(seeds):
    axes = plot_bars(seeds, "acc:last", by="*-seed").axes[0]
    assert names(axes) == ["lr=0.001", "lr=0.01", "lr=0.1"]
    assert lengths(axes) == [4, 4, 4]
    axes = plot_bars(seeds, "loss", by="*-seed").axes[0]
    assert lengths(axes) == pytest.approx([0.01 + 0.7, 0.1 + 0.7, 1 + 0.7])
    interval = axes.containers[1].lines[2][0].get_segments()[0]
    assert interval[:, 0].tolist() == pytest.approx([0.71 - 12.7062 / 2, 0.71 + 12.7062 / 2], 1e-4)


def test_an_interval_is_seen_on_a_bar_of_its_own_colour(seeds, grey):
    figure = plot_bars(seeds, "loss", by=["lr", "seed"])
    axes = figure.axes[0]
    dark = [grey(bar.get_facecolor()[:3]) for bar in bars(axes)].index(0)
    assert dark == 3  # the fourth colour is black, as the interval is
    axes = plot_bars(seeds, "loss", by="*-seed").axes[0]
    _, caps, bodies = axes.containers[1].lines
    for each in (*caps, *bodies):
        outline = each.get_path_effects()[0]._gc
        assert (outline["foreground"], outline["linewidth"] > 2) == ("white", True)


def test_bars_of_means_say_what_they_are_made_of(seeds, edit, root):
    edit(seeds[1], rerun_of=seeds[0].id)
    axes = plot_bars(ExperimentRegistry(root).list_experiments(), "loss", by="*-seed").axes[0]
    assert names(axes) == ["lr=0.001, n=1", "lr=0.01, n=2", "lr=0.1, n=2"]
    assert "1 rerun is left out" in axes.get_title(loc="right")


def test_very_many_bars_have_some_of_their_names_and_stay_on_a_page(runs_of):
    figure = plot_bars(runs_of(*([float(i)] for i in range(52))), "loss")
    axes = figure.axes[0]
    assert lengths(axes) == list(range(52))
    assert names(axes) == [f"run-{i:02d}" for i in range(0, 52, 2)]
    assert figure.get_figheight() <= 14


def test_a_comparison_has_a_panel_per_metric(registry, seeds):
    comparison = registry.compare_experiments([record.path for record in seeds], ["loss", "acc"])
    figure = plot_comparison(comparison)
    loss, acc = figure.axes
    assert (loss.get_xlabel(), acc.get_xlabel()) == ("loss", "acc")
    assert lengths(loss) == comparison["metrics"]["loss"]
    assert names(loss) == comparison["experiments"]
    assert names(acc) == [""] * 6
    (axes,) = plot_comparison(comparison, "acc").axes
    assert lengths(axes) == [4] * 6
    with pytest.raises(MetricNotFoundError, match="acc"):
        plot_comparison(comparison, "acx")
