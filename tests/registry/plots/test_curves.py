import itertools
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError
from experiment_tracking.registry.plots import plot_curves
from experiment_tracking.registry.plots.lines import MAX_POINTS, smoothed
from experiment_tracking.registry.registry import ExperimentRegistry
from experiment_tracking.tracker import ExperimentTracker

NAN, INF = math.nan, math.inf


def remark(axes):
    return axes.get_title(loc="right")


def legend_words(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_each_run_is_a_line_of_its_steps_and_values(runs_of, lines):
    figure = plot_curves(runs_of([3.0, 2.0, 1.0], [5.0, 4.0]), "loss")
    (axes,) = figure.axes
    drawn = lines(axes)
    assert drawn["run-00"].get_xdata().tolist() == [0, 1, 2]
    assert drawn["run-00"].get_ydata().tolist() == [3, 2, 1]
    assert drawn["run-01"].get_ydata().tolist() == [5, 4]
    assert (axes.get_xlabel(), axes.get_ylabel(), remark(axes)) == ("step", "loss", "")
    assert legend_words(figure) == ["run-00", "run-01"]


def test_the_legend_shows_each_line_as_it_is_drawn(seeds, lines):
    figure = plot_curves(seeds, "loss")
    drawn = lines(figure.axes[0])
    (legend,) = figure.legends
    for handle in legend.get_lines():
        line = drawn[handle.get_label()]
        assert handle.get_color() == line.get_color()
        assert handle.get_linestyle() == line.get_linestyle()
        assert handle.get_marker() == line.get_marker()


def test_lines_side_by_side_differ_without_colour(seeds, lines, grey):
    drawn = list(lines(plot_curves(seeds, "loss").axes[0]).values())
    assert len(drawn) == 6
    for a, b in itertools.pairwise(drawn):
        assert abs(grey(a.get_color()) - grey(b.get_color())) > 0.16
        assert a.get_linestyle() != b.get_linestyle()
        assert a.get_marker() != b.get_marker()
        assert set(a.get_markevery()) != set(b.get_markevery()) or len(a.get_xdata()) < 8


def test_the_legend_lies_beside_the_data(seeds):
    figure = plot_curves(seeds, "loss")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().x0 >= figure.axes[0].get_window_extent().x1
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_one_run_is_named_above_and_has_no_legend(runs_of):
    figure = plot_curves(runs_of([1.0, 2.0]), "loss")
    assert figure.legends == []
    assert figure.axes[0].get_title(loc="left") == "run-00"


def test_more_than_twelve_runs_have_a_colour_bar_with_some_names(runs_of, lines, grey):
    figure = plot_curves(runs_of(*([i, i + 1] for i in range(13))), "loss")
    axes, bar = figure.axes
    assert figure.legends == []
    assert bar.get_ylabel() == "13 runs, in their order"
    shown = [label.get_text() for label in bar.get_yticklabels()]
    assert shown == [f"run-{i:02d}" for i in range(0, 13, 2)]
    light = [grey(line.get_color()[:3]) for line in lines(axes).values()]
    assert light == sorted(light, reverse=True)


def test_nan_is_a_gap_and_a_point_alone_has_a_marker(runs_of, lines):
    runs = runs_of([1.0, NAN, 3.0, NAN, 5.0, 6.0], *([1.0] for _ in range(12)))
    line = lines(plot_curves(runs, "loss").axes[0])["run-00"]
    np.testing.assert_array_equal(line.get_ydata(), [1, NAN, 3, NAN, 5, 6])
    assert line.get_markevery() == [0, 2]


def test_a_single_point_is_seen(runs_of, lines):
    line = lines(plot_curves(runs_of([1.5]), "loss").axes[0])["run-00"]
    assert (line.get_ydata().tolist(), line.get_markevery()) == ([1.5], [0])
    assert line.get_marker() not in ("", "None")


def test_infinite_values_are_left_out_and_said(runs_of, lines):
    axes = plot_curves(runs_of([1.0, INF, 3.0, -INF, 2.0]), "loss").axes[0]
    np.testing.assert_array_equal(lines(axes)["run-00"].get_ydata(), [1, NAN, 3, NAN, 2])
    assert remark(axes) == "2 infinite values left out"


def test_runs_with_nothing_to_draw_are_counted(registry, track):
    track("has", rows=[{"loss": 1.0}])
    track("nan", rows=[{"loss": NAN}])
    track("lacks", rows=[{"other": 1.0}])
    figure = plot_curves(registry.list_experiments(), "loss")
    assert remark(figure.axes[0]) == "2 of 3 runs have no loss to show"
    assert figure.axes[0].get_title(loc="left") == "has"


def test_logarithmic_axes_leave_out_what_they_cannot_show(runs_of, lines):
    axes = plot_curves(runs_of([1.0, 0.0, 3.0, -1.0]), "loss", logx=True, logy=True).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    line = lines(axes)["run-00"]
    assert line.get_xdata().tolist() == [1, 2, 3]
    np.testing.assert_array_equal(line.get_ydata(), [NAN, 3, NAN])
    assert "2 values not above 0 left out" in remark(axes)
    assert "1 points beside the x axis left out" in remark(axes)


def tensorboard_smoothing(values, weight):
    """TensorBoard's own loop (``classicSmoothing``), line by line."""
    last, count, found = 0.0, 0, []
    for value in values:
        if not math.isfinite(value):
            found.append(value)
            continue
        last = last * weight + (1 - weight) * value
        count += 1
        found.append(last / (1 - weight**count))
    return found


def test_smoothing_is_tensorboards():
    values = [5.0, 3.0, NAN, 4.0, 1.0, 2.5, 0.1]
    for weight in (0.0, 0.6, 0.99):
        found = smoothed(np.array(values), weight)
        np.testing.assert_allclose(found, tensorboard_smoothing(values, weight))
    assert smoothed(np.full(5, 0.1), 0.9).tolist() == [0.1] * 5


def test_the_raw_curve_stands_faintly_behind_the_smoothed_one(runs_of):
    values = [5.0, 3.0, 4.0, 1.0]
    behind, line = plot_curves(runs_of(values), "loss", smooth=0.6).axes[0].get_lines()
    assert behind.get_ydata().tolist() == values
    assert behind.get_alpha() < 0.5
    assert behind.get_color() == line.get_color()
    np.testing.assert_allclose(line.get_ydata(), tensorboard_smoothing(values, 0.6))


def test_runs_that_differ_in_their_seed_are_one_mean_curve_with_a_band(seeds, lines):
    figure = plot_curves(seeds, "loss", by="*-seed")
    axes = figure.axes[0]
    assert legend_words(figure) == ["lr=0.001", "lr=0.01", "lr=0.1"]
    assert remark(axes) == "mean, 95 % interval of 2 runs"
    mean = [10 * 0.001 + 0.5 + 1 / (step + 1) for step in range(5)]
    np.testing.assert_allclose(lines(axes)["lr=0.001"].get_ydata(), mean)
    # Two values that are 1 apart: half the interval is t(0.975, 1) / 2.
    corners = axes.collections[0].get_paths()[0].vertices
    at_start = corners[corners[:, 0] == 0][:, 1]
    assert at_start.max() - mean[0] == pytest.approx(12.7062 / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("band", "low", "high", "said"),
    [
        ("std", 0.7 - 0.5**0.5, 0.7 + 0.5**0.5, "mean ± standard deviation of 2 runs"),
        ("sem", 0.2, 1.2, "mean ± standard error of 2 runs"),
        ("range", 0.2, 1.2, "mean, lowest to highest of 2 runs"),
    ],
)
def test_the_band_is_what_is_asked_for_and_is_said(seeds, band, low, high, said):
    axes = plot_curves(seeds, "loss", by="*-seed", band=band).axes[0]
    corners = axes.collections[2].get_paths()[0].vertices
    at_end = corners[corners[:, 0] == 4][:, 1]
    assert (at_end.min(), at_end.max()) == pytest.approx((1 + low, 1 + high))
    assert remark(axes) == said


def test_there_need_be_no_band(seeds):
    axes = plot_curves(seeds, "loss", by="*-seed", band=None).axes[0]
    assert len(axes.collections) == 0
    assert remark(axes) == "mean of 2 runs"


def test_groups_of_one_run_have_no_band_and_say_so(seeds):
    axes = plot_curves(seeds, "loss", by="*").axes[0]
    assert remark(axes) == "nowhere more than one run of a group, so no band"


def test_groups_of_unlike_size_say_theirs(seeds):
    figure = plot_curves(seeds[1:], "loss", by="*-seed")
    assert legend_words(figure) == ["lr=0.001, n=1", "lr=0.01, n=2", "lr=0.1, n=2"]
    assert remark(figure.axes[0]) == "mean, 95 % interval of 1 to 2 runs"


def test_enormous_intervals_do_not_press_the_curves_flat(seeds):
    axes = plot_curves(seeds, "loss", by="*-seed").axes[0]
    low, high = axes.get_ylim()
    # The runs lie between 0.21 and 3; the intervals reach 6.35 to both sides.
    assert -1.5 < low < 0.21
    assert 3 < high < 4.5


def test_limits_hold_a_band_that_is_narrow(seeds):
    axes = plot_curves(seeds, "loss", by="*-seed", band="std").axes[0]
    corners = np.concatenate([each.get_paths()[0].vertices for each in axes.collections])
    low, high = axes.get_ylim()
    assert low < corners[:, 1].min()
    assert corners[:, 1].max() < high


def test_on_a_logarithmic_axis_a_band_ends_at_half_the_lowest_run(seeds):
    axes = plot_curves(seeds, "loss", by="*-seed", logy=True).axes[0]
    corners = axes.collections[0].get_paths()[0].vertices
    at_end = corners[corners[:, 0] == 4][:, 1]
    assert at_end.min() == pytest.approx((0.01 + 0.2) / 2)
    assert remark(axes).splitlines()[1] == "bands cut at half the lowest run"
    low, high = axes.get_ylim()
    assert 0.05 < low < 0.21
    assert 3 < high < 10


def test_what_else_was_drawn_on_axes_stays_in_sight(seeds):
    axes = Figure().add_subplot()
    axes.plot([0, 1], [-100, 100])
    plot_curves(seeds, "loss", by="*-seed", ax=axes)
    low, high = axes.get_ylim()
    assert (low < -90, high > 90) == (True, True)


def test_a_rerun_left_out_of_a_mean_is_told(seeds, edit, root):
    edit(seeds[1], rerun_of=seeds[0].id)
    figure = plot_curves(ExperimentRegistry(root).list_experiments(), "loss", by="*-seed")
    said = remark(figure.axes[0]).replace("\n", " ")
    assert "1 rerun is left out: the run that it repeats is here." in said
    assert legend_words(figure) == ["lr=0.001, n=1", "lr=0.01, n=2", "lr=0.1, n=2"]


def groups_of(runs_of, count, name="lr"):
    params = [{name: f"{i:02d}", "seed": seed} for i in range(count) for seed in (0, 1)]
    losses = [[1.0 + i, 2.0 + i] for i in range(count * 2)]
    return plot_curves(runs_of(*losses, params=params), "loss", by="*-seed")


def test_twenty_six_groups_are_all_named_and_no_two_look_alike(runs_of, lines):
    figure = groups_of(runs_of, 26)
    assert legend_words(figure) == [f"lr={i:02d}" for i in range(26)]
    drawn = lines(figure.axes[0]).values()
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in drawn}
    assert len(looks) == 26
    assert share_of_axes(figure) > 0.4


def test_more_groups_than_there_are_styles_have_a_colour_bar(runs_of):
    figure = groups_of(runs_of, 29)
    assert figure.legends == []
    assert figure.axes[1].get_ylabel() == "29 groups, in their order"


def share_of_axes(figure):
    """Return how much of the picture the axes take; the legend must be inside it."""
    figure.draw_without_rendering()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert figure.bbox.x0 <= extent.x0
    assert extent.x1 <= figure.bbox.x1
    assert not extent.overlaps(figure.axes[0].get_tightbbox())
    box = figure.axes[0].get_window_extent()
    return box.width * box.height / (figure.bbox.width * figure.bbox.height)


@pytest.mark.parametrize("count", [2, 6, 12])
def test_a_legend_of_long_names_lies_below_and_leaves_the_data_its_room(runs_of, count):
    names = [f"resnet-{i:02d}-with-a-long-configuration-that-differs-at-both-ends-{i:02d}"
             for i in range(count)]  # fmt: skip
    figure = plot_curves(runs_of(*([i, 2.0] for i in range(count)), names=names), "loss")
    assert share_of_axes(figure) > 0.45
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 <= figure.axes[0].get_window_extent().y0


def test_long_names_are_not_cut_where_they_differ(runs_of):
    middle = "-and-a-very-long-configuration-of-a-network"
    names = [f"the-same-beginning-of-all-{i}{middle}" for i in (1, 2)]
    figure = plot_curves(runs_of([1.0, 2.0], [2.0, 3.0], names=names), "loss")
    first, second = legend_words(figure)
    assert (first.replace("1", "2"), "1" in first) == (second, True)
    assert len(first) < 40


def test_several_metrics_have_a_panel_each_and_a_run_looks_the_same_in_all(registry, track, lines):
    track("a", rows=[{"loss": 1.0}, {"loss": 0.5}])
    track("b", rows=[{"loss": 2.0, "acc": 0.1}, {"loss": 1.5, "acc": 0.2}])
    figure = plot_curves(registry.list_experiments(), ["loss", "acc"])
    loss, acc = figure.axes
    assert (loss.get_ylabel(), acc.get_ylabel()) == ("loss", "acc")
    assert lines(loss)["b"].get_color() == lines(acc)["b"].get_color()
    assert lines(loss)["b"].get_color() != lines(loss)["a"].get_color()
    assert legend_words(figure) == ["a", "b"]
    with pytest.raises(InvalidValueError, match="one metric"):
        plot_curves(registry.list_experiments(), ["loss", "acc"], ax=loss)


def test_the_x_axis_can_be_time_time_since_the_start_or_a_metric(registry, tracker, lines):
    run = tracker().start_run("timed")
    for step in range(3):
        time = 1.7e9 + 3600 * step
        run.log_metrics({"loss": 3.0 - step, "acc": step / 2}, step=step, timestamp=time)
    run.end_run()
    runs = registry.list_experiments()

    def drawn(x):
        axes = plot_curves(runs, "loss", x=x).axes[0]
        return axes.get_xlabel(), lines(axes)["timed"].get_xdata().tolist()

    assert drawn("relative") == ("time since the first row (min)", [0, 60, 120])
    assert drawn("acc") == ("acc", [0, 0.5, 1])
    label, moments = drawn("time")
    start = datetime.fromtimestamp(1.7e9, UTC).replace(tzinfo=None)
    assert (label, moments[0]) == ("time (UTC)", start)
    with pytest.raises(InvalidValueError, match="relative"):
        plot_curves(runs, "loss", x="time", logx=True)


def test_a_long_curve_is_thinned_out_and_keeps_its_spike(registry, tracker, lines):
    run = tracker().start_run("long")
    for step in range(3 * MAX_POINTS):
        run.log_metrics({"loss": 100.0 if step == 4321 else math.sin(step)}, step=step)
    run.end_run()
    line = lines(plot_curves(registry.list_experiments(), "loss").axes[0])["long"]
    assert MAX_POINTS / 2 <= len(line.get_xdata()) <= MAX_POINTS
    spike = line.get_ydata().argmax()
    assert (line.get_xdata()[spike], line.get_ydata()[spike]) == (4321, 100)


def test_axes_of_the_callers_are_drawn_on(seeds):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_curves(seeds, "loss", ax=right) is figure
    assert (len(left.get_lines()), len(right.get_lines())) == (0, 6)
    assert len(right.get_legend().get_texts()) == 6
    figure.draw_without_rendering()
    assert right.get_legend().get_window_extent().x0 >= right.get_window_extent().x1


def test_a_damaged_run_hides_no_other(registry, track, damage, lines):
    track("good", rows=[{"loss": 1.0}])
    damage(track("bad", rows=[{"loss": 2.0}]), "no summary")
    runs = registry.list_experiments()
    assert list(lines(plot_curves(runs, "loss").axes[0])) == ["good"]


def test_what_makes_no_sense_is_refused(seeds):
    for wrong in ({"smooth": 1}, {"smooth": -0.1}, {"band": "variance"}, {"engine": "gnuplot"}):
        with pytest.raises(InvalidValueError, match=next(iter(wrong))):
            plot_curves(seeds, "loss", **wrong)
    with pytest.raises(MetricNotFoundError, match="loss"):
        plot_curves(seeds, "lss")
    with pytest.raises(MetricNotFoundError, match="0 runs"):
        plot_curves(seeds[:0], "loss")


def test_runs_of_one_key_in_two_roots_are_two_curves(tmp_path, lines):
    roots = [tmp_path / "here", tmp_path / "there"]
    for loss, root in enumerate(roots, 1):
        options = {"root": root, "use_tensorboard": False, "auto_log": False}
        for name in ("a", "b"):
            with ExperimentTracker("digits", **options).start_run(name) as run:
                run.log_metric("loss", loss)
    figure = plot_curves(ExperimentRegistry(roots).list_experiments(), "loss")
    drawn = figure.axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in drawn}) == 4
    assert len(figure.legends[0].get_texts()) == 4


def test_a_group_of_which_nothing_is_finite_hides_no_other(registry, track, lines):
    for lr, losses in ((1, [NAN, NAN]), (2, [1.0, 2.0]), (3, [INF, -1.0])):
        for seed in (0, 1):
            rows = [{"loss": loss} for loss in losses]
            track(f"lr{lr}-{seed}", rows=rows, params={"lr": lr, "seed": seed})
    runs = registry.list_experiments()
    assert list(lines(plot_curves(runs, "loss", by="*-seed").axes[0])) == ["lr=2", "lr=3"]
    (axes,) = plot_curves(runs, "loss", by="*-seed", logy=True).axes
    assert axes.get_lines()[0].get_ydata().tolist() == [1, 2]
