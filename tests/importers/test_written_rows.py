import json
import math


def test_numbers_come_back_exactly_and_names_as_a_tracked_run_keeps_them(take):
    record = take(
        rows=[
            (0, 1.7e9, {"loss": math.nan, "time": 2.5, "flag": True, "big": 2**70}),
            (1, 1.7e9, {"loss": -math.inf, "word": "x", " ": 1.0}),
        ]
    )
    first, second = record.rows()
    assert first == {
        "step": 0, "time": 1.7e9, "loss": "NaN", "metric:time": 2.5, "flag": 1, "big": 2.0**70,
    }  # fmt: skip
    assert second == {"step": 1, "time": 1.7e9, "loss": "-Infinity"}
    assert record.summary["imported_from"]["not_carried"] == [
        "metric 'word': values that are no numbers",
        "metric ' ': values that are no numbers",
    ]


def test_rows_without_step_and_time_are_counted_on_and_that_is_said(take):
    record = take(
        rows=[(7, 1.7e9, {"a": 1}), (None, None, {"a": 2}), (1.5, -3.0, {"a": 3}), (1, 0, {})]
    )
    assert [(row["step"], row["time"]) for row in record.rows()] == [
        (7, 1.7e9), (8, 1.7e9), (9, 1.7e9),
    ]  # fmt: skip
    said = record.summary["imported_from"]["not_carried"]
    assert len(said) == 2
    assert "times" in said[0]
    assert "steps" in said[1]


def test_system_rows_go_to_a_history_of_their_own(take):
    record = take(system_rows=[(0, 1.7e9, {"cpu/percent": 3.5})])
    kept = json.loads((record.path / "system_metrics.json").read_text())
    assert kept == [{"step": 0, "time": 1.7e9, "cpu/percent": 3.5}]
    assert record.metric_names == ["loss"]
