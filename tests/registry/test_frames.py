import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.registry.frames import (
    long_frame,
    record_frame,
    wide_frame,
)
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.runset import RunSet

NAN = math.nan


@pytest.fixture
def log(tracker):
    """Write a finished run whose rows have the steps and times that are given."""

    def log(name, *rows):
        with tracker().start_run(name) as run:
            for step, time, metrics in rows:
                run.log_metrics(metrics, step=step, timestamp=time)
        return RunRecord(run.path)

    return log


@pytest.fixture
def resumed(track, tracker):
    """A run whose second attempt went back to step 1."""
    run = track(
        "a", rows=[{"loss": 1.0, "acc": 0.0}, {"loss": 2.0}, {"loss": 3.0}], status="FAILED"
    )
    with tracker(resume=run.id).start_run() as again:
        again.log_metrics({"loss": 9.0}, step=1)
    return RunRecord(run.path)


def cells(frame):
    """Rows of a table, None for NaN."""
    return [
        [None if value != value else value for value in row]
        for row in frame.itertuples(index=False, name=None)
    ]


def runs_of(*records):
    return RunSet(list(records))


# ---------------------------------------------------------------------- one run


def plain_frame(rows, attempts):
    """The table as rows of dicts give it, metric by metric."""
    names = dict.fromkeys(name for row in rows for name in row)
    reserved = ("step", "time", "attempt", "rank")
    table = {key: [row[key] for row in rows] for key in ("step", "time")}
    if attempts == "all":
        table["attempt"] = [row.get("attempt", 1) for row in rows]
    words = {"NaN": NAN, "Infinity": math.inf, "-Infinity": -math.inf, None: NAN}
    for name in names:
        if name not in reserved:
            values = [row.get(name) for row in rows]
            table[name.removeprefix("metric:") if name[7:] not in reserved else name] = [
                float(words.get(value, value)) for value in values
            ]
    return pd.DataFrame(table)


VALUES = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53) | st.just(NAN)
HISTORY = st.lists(
    st.tuples(
        st.integers(-3, 10),
        st.booleans(),  # whether a further attempt begins here
        st.dictionaries(st.sampled_from(["loss", "acc", "β", "time"]), VALUES, min_size=1),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(history=HISTORY)
def test_a_history_is_the_table_that_its_rows_give(tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("project") / "run"
    folder.mkdir()
    (folder / "summary.json").write_text('{"status": "finished"}')
    attempt, rows = 1, []
    for step, further, metrics in history:
        attempt += further
        mark = {"attempt": attempt} if attempt > 1 else {}
        stored = {
            f"metric:{n}" if n == "time" else n: v if math.isfinite(v) else _word(v)
            for n, v in metrics.items()
        }
        rows.append({"step": step, "time": 0.5 + len(rows), **mark, **stored})
    text = "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"
    (folder / "metrics_history.json").write_text(text)
    record = RunRecord(folder)
    assert HistoryReader(record.folder.history()).rows() == rows
    for attempts in ("merged", "all"):
        found = record_frame(record, attempts=attempts)
        expected = plain_frame(record.rows(attempts), attempts)
        assert set(found) >= set(expected)
        pd.testing.assert_frame_equal(found[list(expected)], expected)


def _word(value):
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def test_columns_are_floats_and_steps_are_whole(track):
    frame = record_frame(RunRecord(track("a", rows=[{"n": 1}, {"n": 2, "x": 0.5}]).path))
    assert frame.dtypes.map(str).to_dict() == {
        "step": "int64", "time": "float64", "n": "float64", "x": "float64",
    }  # fmt: skip
    frame.loc[0, "n"] = 7  # it belongs to whoever asked for it
    assert frame["n"].tolist() == [7, 2]


def test_an_axis_is_the_first_column_and_orders_the_rows(log):
    record = log(
        "a",
        (2, 100.0, {"loss": 1.0, "epoch": 1.0}),
        (0, 103.0, {"loss": 2.0}),
        (1, 101.5, {"loss": 3.0, "epoch": 0.5}),
    )
    by_step = record_frame(record, "loss", axis="step")
    assert list(by_step) == ["step", "time", "loss"]
    assert cells(by_step) == [[0, 103.0, 2], [1, 101.5, 3], [2, 100.0, 1]]
    by_time = record_frame(record, "loss", axis="time")
    assert list(by_time) == ["time", "step", "loss"]
    assert by_time["step"].tolist() == [2, 1, 0]
    relative = record_frame(record, "loss", axis="relative")
    assert list(relative) == ["relative", "step", "time", "loss"]
    assert relative["relative"].tolist() == [0, 1.5, 3]
    by_metric = record_frame(record, "loss", axis="epoch")
    assert list(by_metric) == ["epoch", "step", "time", "loss"]
    assert cells(by_metric) == [[0.5, 1, 101.5, 3], [1, 2, 100.0, 1]]
    assert list(record_frame(record, axis="epoch")) == ["epoch", "step", "time", "loss"]


def test_a_metric_called_like_an_axis_keeps_a_column_of_its_own(log):
    record = log("a", (0, 100.0, {"relative": 5, "time": 7}), (1, 101.0, {"relative": 6}))
    frame = record_frame(record, axis="relative")
    assert frame["relative"].tolist() == [0, 1]
    assert frame["metric:relative"].tolist() == [5, 6]
    assert frame["metric:time"].dropna().tolist() == [7]
    assert record_frame(record)["relative"].tolist() == [5, 6]


def test_points_keep_real_rows_with_the_extremes_of_every_metric(track):
    rows = [{"a": math.sin(step / 20), "b": 0.0} for step in range(1000)]
    rows[500]["b"] = 9.0
    rows[600]["a"] = NAN
    record = RunRecord(track("a", rows=rows).path)
    whole, some = record_frame(record), record_frame(record, points=40)
    assert 8 < len(some) <= 40
    pd.testing.assert_frame_equal(some, whole.iloc[some["step"]].reset_index(drop=True))
    assert {0, 500, 999} <= set(some["step"])
    assert (some["a"].min(), some["a"].max()) == (whole["a"].min(), whole["a"].max())
    assert len(record_frame(record, points=4)) <= 8
    assert len(record_frame(record, points=5000)) == 1000
    with pytest.raises(InvalidValueError, match="points must be 4 or more"):
        record_frame(record, points=3)


def test_attempts_are_merged_by_metric_or_all_shown(resumed):
    merged = record_frame(resumed)
    assert cells(merged.drop(columns="time")) == [[0, 1, 0], [1, 9, None]]
    every = record_frame(resumed, attempts="all")
    assert every["attempt"].tolist() == [1, 1, 1, 2]
    assert record_frame(resumed, "acc")["step"].tolist() == [0]


def test_rows_of_further_processes_are_shown_when_asked(track):
    run = track("a", rows=[{"loss": 1.0}, {"loss": 3.0}])
    further = {"step": 1, "time": 5.0, "rank": "1", "loss": 5.0, "own": 1.0}
    (run.path / "metrics_history.1.json").write_text(f"[\n{json.dumps(further)}\n]\n")
    record = RunRecord(run.path)
    assert record_frame(record)["loss"].tolist() == [1, 3]
    mean = record_frame(record, ["loss"], ranks="mean", axis="step")
    assert cells(mean.drop(columns="time")) == [[0, 1], [1, 4]]
    assert record_frame(record, ranks="all")["rank"].tolist() == ["1", "0", "0"]
    with pytest.raises(MetricNotFoundError, match="Only further processes"):
        record_frame(record, "own")


def test_a_late_metric_is_among_the_rows(track, registry):
    run = track("a", rows=[{"loss": 1.0}, {"loss": 2.0}])
    registry.edit(run.path).log_metric("loss", 0.5, step=1)
    registry.edit(run.path).log_metric("acc", 0.9, step=5)
    record = RunRecord(run.path)
    frame = record_frame(record).drop(columns="time")
    assert cells(frame) == [[0, 1, None], [1, 0.5, None], [5, None, 0.9]]
    assert record_frame(record, attempts="all")["loss"].dropna().tolist() == [1, 2, 0.5]
    assert long_frame(runs_of(record), "acc")["value"].tolist() == [0.9]


@pytest.mark.parametrize("word", [{"ranks": 3}, {"attempts": "last"}])
def test_a_word_that_is_not_known_names_those_that_are(track, word):
    with pytest.raises(InvalidValueError, match="all"):
        record_frame(RunRecord(track("a", rows=[{"x": 1.0}]).path), **word)


# ---------------------------------------------------------------------- many runs


def test_the_long_table_has_a_row_per_number_in_the_order_logged(track, resumed):
    other = RunRecord(track("b", "other", rows=[{"acc": 0.5}, {"loss": NAN, "acc": 1}]).path)
    frame = long_frame(runs_of(resumed, other))
    assert list(frame) == ["run", "step", "time", "metric", "value"]
    assert cells(frame.drop(columns="time")) == [
        ["digits/a", 0, "loss", 1], ["digits/a", 0, "acc", 0], ["digits/a", 1, "loss", 9],
        ["other/b", 0, "acc", 0.5], ["other/b", 1, "loss", None], ["other/b", 1, "acc", 1],
    ]  # fmt: skip
    assert frame.dtypes.map(str)[["step", "time", "value"]].tolist() == [
        "int64", "float64", "float64",
    ]  # fmt: skip
    one = long_frame(runs_of(resumed, other), "acc")
    assert cells(one.drop(columns="time")) == [
        ["digits/a", 0, "acc", 0], ["other/b", 0, "acc", 0.5], ["other/b", 1, "acc", 1],
    ]  # fmt: skip


def test_a_long_table_of_nothing_has_its_columns(track):
    for runs in (runs_of(), runs_of(RunRecord(track("a").path))):
        assert list(long_frame(runs)) == ["run", "step", "time", "metric", "value"]
        assert len(long_frame(runs)) == 0
        with pytest.raises(MetricNotFoundError):
            long_frame(runs, "loss")


def test_a_metric_that_one_run_alone_has_is_found(track):
    a, b = track("a", rows=[{"x": 1.0}]), track("b", rows=[{"y": 2.0}])
    runs = runs_of(RunRecord(a.path), RunRecord(b.path))
    assert long_frame(runs, ["y", "x"])["metric"].tolist() == ["x", "y"]
    with pytest.raises(MetricNotFoundError, match="'z'"):
        long_frame(runs, ["x", "z"])


def test_a_long_table_follows_an_axis(log):
    a = log(
        "a", (1, 10.0, {"x": 1, "t": 5}), (0, 12.0, {"x": 2, "y": 3, "t": 4}), (2, 13.0, {"x": 0})
    )
    by_step = long_frame(runs_of(a), ["x", "y"], axis="step")
    assert cells(by_step[["step", "metric"]]) == [[0, "x"], [0, "y"], [1, "x"], [2, "x"]]
    relative = long_frame(runs_of(a), "x", axis="relative")
    assert list(relative) == ["run", "step", "time", "relative", "metric", "value"]
    assert relative["relative"].tolist() == [0, 2, 3]
    by_metric = long_frame(runs_of(a), "x", axis="t")
    assert cells(by_metric[["t", "value"]]) == [[4, 2], [5, 1]]


def test_a_long_table_has_at_most_so_many_points_of_each_curve(track):
    rows = [
        {"a": math.sin(step / 20), **({"b": step} if step % 9 == 0 else {})} for step in range(500)
    ]
    runs = runs_of(*(RunRecord(track(name, rows=rows).path) for name in "pq"))
    counts = (
        long_frame(runs, points=20).groupby(["run", "metric"])["value"].agg(["count", "min", "max"])
    )
    assert len(counts) == 4
    assert counts["count"].between(6, 20).all()
    assert counts.loc[("digits/p", "b"), ["min", "max"]].tolist() == [0, 495]


def test_a_damaged_run_hides_no_other(track, tmp_path):
    good, bad = (track(name, rows=[{"x": 1.0}]) for name in ("good", "bad"))
    (tmp_path / "damaged").touch()
    (bad.path / "metrics_history.json").unlink()
    (bad.path / "metrics_history.json").mkdir()
    runs = runs_of(RunRecord(bad.path), RunRecord(good.path))
    assert long_frame(runs, "x")["run"].tolist() == ["digits/good"]
    wide = wide_frame(runs, "x")
    assert cells(wide) == [[None, 1]]
    (problem,) = runs.problems
    assert problem.path == str(bad.path)


# ---------------------------------------------------------------------- side by side


def test_runs_stand_side_by_side_at_exactly_the_steps_logged(log):
    a = log("a", (0, 1.0, {"x": 1}), (2, 2.0, {"x": NAN}), (2, 3.0, {"x": 3}))
    b = log("b", (1, 1.0, {"x": 7}), (2, 2.0, {"x": 8}))
    frame = wide_frame(runs_of(a, b), "x")
    assert (frame.index.name, frame.columns.name) == ("step", "run")
    assert list(frame) == ["digits/a", "digits/b"]
    assert frame.index.tolist() == [0, 1, 2]
    assert cells(frame) == [[1, None], [None, 7], [3, 8]]


def test_several_metrics_stand_under_each_run(log):
    a = log("a", (0, 1.0, {"x": 1, "y": 2}))
    b = log("b", (1, 1.0, {"x": 7}))
    frame = wide_frame(runs_of(a, b))
    assert list(frame.columns.names) == ["run", "metric"]
    assert frame["digits/a", "y"].dropna().to_dict() == {0: 2}
    assert frame["digits/b", "y"].isna().all()
    assert frame["digits/b", "x"].dropna().to_dict() == {1: 7}


def test_on_other_axes_runs_are_interpolated_to_common_places(log):
    a = log("a", (0, 100.0, {"x": 0, "t": 0}), (1, 110.0, {"x": 10, "t": 2}))
    b = log("b", (0, 505.0, {"x": 1, "t": 1}), (1, 509.0, {"x": 5, "t": 3}))
    frame = wide_frame(runs_of(a, b), "x", axis="relative")
    assert frame.index.name == "relative"
    assert frame.index.tolist() == [0, 4, 10]
    assert cells(frame) == [[0, 1], [4, 5], [10, None]]
    by_metric = wide_frame(runs_of(a, b), "x", axis="t")
    assert cells(by_metric) == [[0, None], [5, 1], [10, 3], [None, 5]]


def test_points_make_the_index_even(track):
    rows = [{"x": float(step)} for step in range(101)]
    runs = runs_of(RunRecord(track("a", rows=rows).path))
    frame = wide_frame(runs, "x", points=5)
    assert frame.index.tolist() == [0, 25, 50, 75, 100]
    assert frame["digits/a"].tolist() == [0, 25, 50, 75, 100]


def test_nothing_stands_side_by_side_of_no_runs():
    assert wide_frame(runs_of()).shape == (0, 0)


# ---------------------------------------------------------------------- a run's best


def test_a_thinned_history_shows_where_a_metric_went_astray(track):
    rows = [{"loss": float(i % 7), "lr": 0.1} for i in range(100)]
    rows += [{"loss": float("nan"), "lr": 0.1} for _ in range(100)]
    frame = RunRecord(track("diverged", rows=rows).path).history("loss", points=8)
    assert frame["step"].iloc[-1] == 199
    assert frame["loss"].isna().iloc[-1]
    assert frame.index.tolist() == list(range(len(frame)))
