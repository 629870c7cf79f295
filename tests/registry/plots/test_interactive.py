import math
import sys

import pytest

from experiment_tracking.errors import MissingPackageError
from experiment_tracking.registry.plots import plot_curves, plot_parallel, plot_scatter

pytest.importorskip("plotly", reason="pip install plotly")


def test_curves_have_a_legend_entry_for_each_run_in_all_panels(registry, track):
    track("a", rows=[{"loss": 3.0, "acc": 0.1}, {"loss": math.nan, "acc": 0.2}])
    track("a & b", rows=[{"loss": 2.0}])
    figure = plot_curves(registry.list_experiments(), ["loss", "acc"], engine="plotly")
    assert [trace.showlegend for trace in figure.data] == [True, True, False]
    assert [trace.name for trace in figure.data] == ["a", "a &amp; b", "a"]
    assert [trace.legendgroup for trace in figure.data] == ["0", "1", "0"]
    assert list(figure.data[0].x) == [0, 1]
    assert figure.data[0].y[0] == 3
    assert math.isnan(figure.data[0].y[1])
    assert figure.data[0].line.dash != figure.data[1].line.dash
    assert figure.layout.yaxis.title.text == "loss"


def test_mean_curves_have_their_band_and_smoothed_ones_the_raw_curve(seeds):
    figure = plot_curves(seeds, "loss", by="*-seed", smooth=0.5, logy=True, engine="plotly")
    low, high, raw, mean = figure.data[:4]
    assert high.fill == "tonexty"
    assert low.y[0] < mean.y[0] < high.y[0]
    assert mean.name == "lr=0.001"
    (note,) = figure.layout.annotations
    assert note.text == "mean, 95 % interval of 2 runs<br>bands cut at half the lowest run"
    assert 0.05 < 10 ** figure.layout.yaxis.range[0] < 0.21
    assert (raw.showlegend, raw.hoverinfo) == (False, "skip")
    assert figure.layout.yaxis.type == "log"


def test_points_say_their_run_and_what_is_left_out_is_said(runs_of):
    runs = runs_of([1.0], [2.0], [math.nan], params=[{"o": "adam"}, {"o": "sgd"}, {"o": "sgd"}])
    figure = plot_scatter(runs, "o", "loss:last", engine="plotly")
    (points,) = figure.data
    assert list(points.y) == [1, 2]
    assert list(points.text) == ["run-00", "run-01"]
    assert list(points.marker.symbol) == ["star", "circle"]
    assert list(figure.layout.xaxis.ticktext) == ["adam", "sgd"]
    (note,) = figure.layout.annotations
    assert note.text == "1 of 3 runs have no loss (last)"


def test_parallel_axes_have_the_heights_and_ticks_of_the_drawn_ones(runs_of):
    params = [{"lr": 0.001, "m": 0.5}, {"lr": 0.1}, {"lr": 0.01, "m": 0.9}]
    figure = plot_parallel(runs_of([1.0], [2.0], [3.0], params=params), "loss", engine="plotly")
    (lines,) = figure.data
    lr, momentum, loss = lines.dimensions
    assert list(lr.values) == pytest.approx([0, 1, 0.5])
    assert list(lr.ticktext) == ["0.001", "0.01", "0.1"]
    assert list(momentum.values) == [0, -0.12, 1]
    assert list(momentum.ticktext) == ["none", "0.5", "0.9"]
    assert list(lines.line.color) == list(loss.values) == [0, 0.5, 1]


def test_without_plotly_the_error_has_the_install_line(monkeypatch, runs_of):
    runs = runs_of([1.0])
    monkeypatch.setitem(sys.modules, "plotly.subplots", None)
    with pytest.raises(MissingPackageError, match="pip install plotly"):
        plot_curves(runs, "loss", engine="plotly")
