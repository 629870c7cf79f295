import math
import tracemalloc

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_tracking.folder.digest import (
    Digest,
    MetricSummary,
    goal_of,
    merge_attempts,
    merged_rows,
)
from experiment_tracking.folder.values import RESERVED, from_stored, to_stored

# The loss, an accuracy (one is minimised, the other maximised), and one without a goal.
METRICS = ("loss", "val/acc", "speed")

_values = st.one_of(
    st.floats(),
    st.sampled_from([0.0, -0.0, 1, 1.0, 2, math.nan, math.inf, -math.inf, 1e308, -1e308]),
    st.integers(-(2**63), 2**63 - 1),
)
_metrics = st.dictionaries(st.sampled_from(METRICS), _values, max_size=3)
_attempts = st.lists(st.lists(st.tuples(st.integers(0, 12), _metrics), max_size=8), max_size=4)


def _rows(attempts):
    return [
        {"step": step, "time": 0.0}
        | ({"attempt": number} if number > 1 else {})
        | {name: to_stored(value) for name, value in metrics.items()}
        for number, attempt in enumerate(attempts, 1)
        for step, metrics in attempt
    ]


def row(step, attempt=1, **metrics):
    return {"step": step, "time": 0.0} | ({"attempt": attempt} if attempt > 1 else {}) | metrics


def digest_of(rows, batches=1, goals=None):
    seen = []
    digest = Digest(lambda: seen, goals=goals)
    size = max(1, -(-len(rows) // batches))
    for start in range(0, len(rows), size):
        seen = rows[: start + size]
        digest.update(rows[start : start + size])
    return digest.to_dict()


def naive(rows, name, goal):
    """What the summary of a metric means, in the plainest words."""
    mine = [(r.get("attempt", 1), r["step"], from_stored(r[name])) for r in rows if name in r]
    firsts = {}
    for attempt, step, _ in mine:
        firsts.setdefault(attempt, step)
    points = [
        (step, value)
        for attempt, step, value in mine
        if not any(later > attempt and step >= first for later, first in firsts.items())
    ]
    numbers = [(step, value) for step, value in points if not math.isnan(value)]
    finite = [value for _, value in points if math.isfinite(value)]
    odd = [step for step, value in points if not math.isfinite(value)]
    total = 0.0
    for value in finite:
        total += value
    low = min(numbers, key=lambda point: point[1], default=(None, None))
    high = max(numbers, key=lambda point: point[1], default=(None, None))
    best = {"minimize": low, "maximize": high, None: (None, None)}[goal]
    found = {
        "last": points[-1][1], "last_step": points[-1][0], "count": len(points),
        "min": low[1], "min_step": low[0], "max": high[1], "max_step": high[0],
        "mean": total / len(finite) if finite else None,
        "first_nonfinite_step": odd[0] if odd else None,
        "best": best[1], "best_step": best[0],
    }  # fmt: skip
    return {
        key: to_stored(value) if isinstance(value, float) else value
        for key, value in found.items()
        if value is not None
    }


_INTERNAL = {"total", "nonfinite", "attempt", "top_step", "goal"}


def public(summary):
    return {key: value for key, value in summary.items() if key not in _INTERNAL}


@settings(max_examples=300)
@given(attempts=_attempts, data=st.data())
def test_however_rows_are_cut_and_saved_the_digest_is_that_of_the_merged_rows(attempts, data):
    rows = _rows(attempts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    restores = data.draw(st.lists(st.booleans(), min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    seen = []  # a list of its own: the digest asks for all rows so far
    digest = Digest(lambda: seen)
    for start, stop, restore in zip([0, *cuts], [*cuts, len(rows)], restores, strict=True):
        seen[:] = rows[:stop]
        digest.update(rows[start:stop])
        if restore:
            saved = orjson.loads(orjson.dumps(digest.to_dict()))
            digest = Digest(lambda: seen, saved)
        expected = {
            name: naive(seen, name, goal_of(name))
            for name in METRICS
            if any(name in row for row in seen)
        }
        assert {name: public(kept) for name, kept in digest.to_dict().items()} == expected
    plain = [{key: row[key] for key in row if key != "attempt"} for row in merged_rows(rows)]
    whole = digest_of(plain)
    assert {name: public(kept) for name, kept in whole.items()} == expected


@given(attempts=_attempts)
def test_merged_rows_hold_the_points_of_the_merged_metrics(attempts):
    rows = _rows(attempts)
    merged = merged_rows(rows)
    for name, points in merge_attempts(rows).items():
        assert points == [(row["step"], row[name]) for row in merged if name in row]
    if len(attempts) < 2:
        assert merged == rows


def test_each_metric_is_superseded_from_where_the_later_attempt_first_logs_it():
    rows = [row(step, loss=step, acc=step) for step in range(6)]
    rows += [row(3, 2, loss=30), row(4, 2, loss=40, acc=400)]
    assert merge_attempts(rows) == {
        "loss": [(0, 0), (1, 1), (2, 2), (3, 30), (4, 40)],
        "acc": [(0, 0), (1, 1), (2, 2), (3, 3), (4, 400)],
    }
    assert merged_rows(rows)[3] == row(3, acc=3)
    assert digest_of(rows)["loss"]["count"] == digest_of(rows, len(rows))["loss"]["count"] == 5


def test_steps_that_go_back_within_an_attempt_supersede_nothing():
    rows = [row(5, loss=1), row(3, loss=2), row(5, loss=3), row(6, 2, loss=4), row(1, 2, loss=5)]
    assert merge_attempts(rows)["loss"] == [(5, 1), (3, 2), (5, 3), (6, 4), (1, 5)]
    assert digest_of(rows, 5)["loss"]["last"] == 5


def test_rows_that_a_later_attempt_empties_are_dropped():
    rows = [row(0, loss=1), row(1, loss=2), row(0, 2, loss=3)]
    assert merged_rows(rows) == [row(0, 2, loss=3)]


def test_a_third_attempt_supersedes_both():
    rows = [row(s, loss=1) for s in range(4)]
    rows += [row(s, 2, loss=2) for s in range(2, 8)] + [row(1, 3, loss=3)]
    assert merge_attempts(rows)["loss"] == [(0, 1), (1, 3)]


def test_only_metrics_asked_for_are_merged():
    assert merge_attempts([row(0, a=1, b=2)], ["b", "c"]) == {"b": [(0, 2)]}


def test_the_file_is_read_again_only_when_an_attempt_goes_back():
    reread = []

    def read():
        reread.append(True)
        return rows

    rows = [row(0, loss=1), row(5, loss=2)]
    digest = Digest(read)
    digest.update(rows)
    rows += [row(6, 2, loss=3)]
    digest.update(rows[2:])
    assert (reread, digest.went_back) == ([], 0)
    rows += [row(6, 3, loss=4), row(7, 3, loss=5)]
    digest.update(rows[3:])
    assert (reread, digest.went_back) == ([True, True], 1)


def test_going_back_over_a_long_history_holds_a_few_of_its_rows_at_a_time():
    def rows():
        yield from (row(step, loss=step) for step in range(20_000))
        yield row(10_000, 2, loss=-1.0)

    digest = Digest(rows)
    digest.update([row(step, loss=step) for step in range(20_000)])
    tracemalloc.start()
    digest.update([row(10_000, 2, loss=-1.0)])
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 500_000
    assert digest.to_dict()["loss"]["count"] == 10_001


def test_what_is_no_number_is_left_out_however_it_is_cut():
    rows = [row(n, x=value) for n, value in enumerate([1, True, None, "text", [1], {}, "NaN", 2])]
    for batches in (1, 3, len(rows)):
        found = digest_of(rows, batches)["x"]
        assert (found["count"], found["max"], found["mean"]) == (3, 2, 1.5)
        assert found["first_nonfinite_step"] == 6


def test_a_metric_without_any_number_is_named_with_a_count_of_zero():
    assert public(digest_of([row(0, x=None)])["x"]) == {"count": 0}


def test_rows_with_as_many_keys_but_others_are_told_apart():
    rows = [
        {"step": 0, "time": 0.0, "rank": "1", "a": 1},
        {"step": 1, "time": 0.0, "a": 2, "b": 3},
        {"step": 2, "time": 0.0, "b": 4, "c": 5},
    ]
    assert {name: kept["count"] for name, kept in digest_of(rows).items()} == {
        "a": 2,
        "b": 2,
        "c": 1,
    }


def test_reserved_names_are_no_metrics():
    assert digest_of([dict.fromkeys(RESERVED, 1)]) == {}


def test_nan_never_wins_and_the_first_of_equals_does():
    rows = [row(n, loss=value) for n, value in enumerate(["NaN", 2, 1, 1.0, "Infinity", 2.0])]
    found = digest_of(rows)["loss"]
    assert (found["best"], found["best_step"], found["goal"]) == (1, 2, "minimize")
    assert (found["max"], found["max_step"], found["mean"]) == ("Infinity", 4, 1.5)
    assert found["first_nonfinite_step"] == 0


def test_a_defined_goal_goes_before_the_table_of_names():
    rows = [row(0, loss=1.0), row(1, loss=2.0)]
    assert digest_of(rows, goals={"loss": "maximize"})["loss"]["best"] == 2.0
    assert "best" not in digest_of(rows, goals={"loss": None})["loss"]


def test_saved_summaries_of_any_content_are_gone_on_from():
    damaged = {"a": {"count": "x", "total": None, "min": [1]}, "b": 7, "c": {}}
    digest = Digest(list, damaged)
    digest.update([row(0, a=1.5, b=2.5, c=3.5)])
    assert {name: kept["last"] for name, kept in digest.to_dict().items()} == {
        "a": 1.5, "b": 2.5, "c": 3.5,
    }  # fmt: skip


def test_a_summary_without_values_keeps_nothing_but_its_count():
    assert MetricSummary().to_dict("minimize") == {"total": 0.0, "count": 0, "goal": "minimize"}


_LESS = "loss error err mse mae rmse mape nll perplexity ppl wer cer fid residual violation time_ms"
_MORE = "acc accuracy auc f1 precision recall r2 iou dice map bleu rouge psnr ssim reward score"


@pytest.mark.parametrize(
    ("name", "goal"),
    [(word, "minimize") for word in _LESS.split()]
    + [(word, "maximize") for word in _MORE.split()]
    + [
        ("val/loss", "minimize"), ("train/total_loss", "minimize"), ("Val-Loss", "minimize"),
        ("top1_acc", "maximize"), ("top-5.Accuracy", "maximize"), ("BLEU", "maximize"),
        ("inference time ms", "minimize"), ("step_time_ms", "minimize"), ("macro f1", "maximize"),
        ("learning_rate", None), ("lr", None), ("epoch", None), ("loss/scale", None),
        ("loss_scale", None), ("heatmap", None), ("glossary", None), ("time", None), ("ms", None),
        ("", None), ("/", None),
    ],
)  # fmt: skip
def test_the_goal_follows_from_the_last_part_of_the_name(name, goal):
    assert goal_of(name) == goal
