import math

import numpy as np
import pytest

from experiment_tracking.errors import MetricNotFoundError
from experiment_tracking.registry.curves import Curve, common_axis, curves, on_axis
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.runset import RunSet


@pytest.fixture
def log(tracker):
    """Write a finished run whose rows have the steps and times that are given."""

    def log(name, *rows):
        with tracker().start_run(name) as run:
            for step, time, metrics in rows:
                run.log_metrics(metrics, step=step, timestamp=time)
        return RunRecord(run.path)

    return log


def test_a_curve_has_the_steps_and_values_of_each_run_that_has_the_metric(track):
    a = track("a", rows=[{"val/loss": 3.0}, {"acc": 0.1}, {"val/loss": math.nan}])
    b = track("b", rows=[{"acc": 0.1}])
    c = track("c", rows=[{"val/loss": 7}])
    runs = RunSet([RunRecord(run.path) for run in (a, b, c)])
    first, second = curves(runs, "val/loss")
    assert (first.run, second.run) == ("digits/a", "digits/c")
    assert first.x.tolist() == [0, 2]
    np.testing.assert_array_equal(first.y, [3, np.nan])
    assert (second.x.tolist(), second.y.tolist()) == ([0], [7])


def test_the_last_part_of_a_metric_s_name_is_enough(track, capsys):
    runs = RunSet([RunRecord(track("a", rows=[{"val/loss": 1.0}]).path)])
    assert curves(runs, "loss")[0].y.tolist() == [1]
    assert "val/loss" in capsys.readouterr().err


def test_a_curve_is_sorted_by_its_axis(log):
    nan = math.nan
    record = log(
        "a",
        (3, 100.0, {"epoch": 0, "lr": 1}),
        (1, 107.5, {"lr": 2}),
        (2, 101.0, {"epoch": 0.5, "lr": nan}),
        (2, 102.0, {"epoch": nan, "lr": 4}),
    )
    runs = RunSet([record])

    def curve(x):
        (found,) = curves(runs, "lr", x)
        return found.x.tolist(), [None if y != y else y for y in found.y.tolist()]

    assert curve("step") == ([1, 2, 2, 3], [2, None, 4, 1])
    assert curve("time") == ([100, 101, 102, 107.5], [1, None, 4, 2])
    assert curve("relative") == ([0, 1, 2, 7.5], [1, None, 4, 2])
    assert curve("epoch") == ([0, 0.5], [1, None])


def test_what_a_later_attempt_superseded_is_no_part_of_a_curve(track, tracker):
    run = track("a", rows=[{"loss": 1.0}, {"loss": 2.0}, {"loss": 3.0}], status="FAILED")
    with tracker(resume=run.id).start_run() as again:
        again.log_metrics({"loss": 9.0}, step=1)
    (curve,) = curves(RunSet([RunRecord(run.path)]), "loss")
    assert (curve.x.tolist(), curve.y.tolist()) == ([0, 1], [1, 9])


def test_a_metric_or_axis_that_no_run_has_is_named_with_near_ones(track):
    runs = RunSet([RunRecord(track("a", rows=[{"val/loss": 1.0}, {"lr": 2.0}]).path)])
    with pytest.raises(MetricNotFoundError, match="Near: val/loss"):
        curves(runs, "val/los")
    with pytest.raises(MetricNotFoundError, match=r"No run here has the metric 'epoch'"):
        curves(runs, "val/loss", "epoch")
    with pytest.raises(MetricNotFoundError, match="both 'val/loss' and 'lr'"):
        curves(runs, "val/loss", "lr")


def test_a_history_that_cannot_be_read_is_a_problem_and_hides_no_other(track, tmp_path):
    good, bad = track("good", rows=[{"loss": 1.0}]), track("bad", rows=[{"loss": 1.0}])
    (tmp_path / "damaged").touch()
    (bad.path / "metrics_history.json").unlink()
    (bad.path / "metrics_history.json").mkdir()
    runs = RunSet([RunRecord(bad.path), RunRecord(good.path)])
    assert [curve.run for curve in curves(runs, "loss")] == ["digits/good"]
    (problem,) = runs.problems
    assert problem.path == str(bad.path)


# ---------------------------------------------------------------------- axes

A = Curve("a", np.array([0, 10, 20]), np.array([0.0, 1.0, 3.0]))
B = Curve("b", np.array([5, 15]), np.array([1.0, np.nan]))
NOTHING = Curve("c", np.empty(0), np.empty(0))


def test_curves_are_interpolated_within_their_range_alone():
    table = on_axis([A, B, NOTHING], np.array([-1, 0, 5, 10, 15, 20, 21]))
    nan = np.nan
    np.testing.assert_array_equal(table, [
        [nan, 0, 0.5, 1, 2, 3, nan], [nan, nan, 1, nan, nan, nan, nan], [nan] * 7,
    ])  # fmt: skip


def test_a_common_axis_has_every_x_where_these_are_few():
    assert common_axis([A, B, NOTHING]).tolist() == [0, 5, 10, 15, 20]
    assert common_axis([A, B], 5).tolist() == [0, 5, 10, 15, 20]
    assert common_axis([NOTHING]).tolist() == []


def test_a_common_axis_is_even_where_there_are_many():
    assert common_axis([A, B], 3).tolist() == [0, 10, 20]
    assert common_axis([A, B], 4).tolist() == pytest.approx([0, 20 / 3, 40 / 3, 20])
