"""How fast a training loop went, from its rows."""

import pytest

from experiment_tracking.folder.throughput import Throughput


def rows(*steps_and_times):
    return [{"step": step, "time": at, "loss": 1.0} for step, at in steps_and_times]


def test_throughput_is_taken_from_the_first_row_to_the_last():
    throughput = Throughput()
    throughput.add(rows((10, 100.0), (20, 101.0)))
    throughput.add([])
    throughput.add(rows((30, 102.0), (40, 104.5)))
    assert throughput.to_dict() == {
        "training_s": 4.5,
        "rows": 4,
        "steps": 30,
        "rows_per_s": 0.6667,
        "steps_per_s": 6.667,
    }


def test_steps_that_go_back_count_up_to_the_highest():
    throughput = Throughput()
    throughput.add(rows((0, 0.0), (50, 5.0)))
    throughput.add(rows((10, 9.0), (20, 10.0)))
    assert throughput.to_dict()["steps"] == 50


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ([], {}),
        (rows((0, 1.0)), {"rows": 1}),
        (rows((0, 1.0), (1, 1.0)), {"rows": 2}),
        (rows((0, 2.0), (1, 1.0)), {"rows": 2}),
    ],
)
def test_without_time_between_two_rows_there_is_no_rate(batch, expected):
    throughput = Throughput()
    throughput.add(batch)
    assert throughput.to_dict() == expected
