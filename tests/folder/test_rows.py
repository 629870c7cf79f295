import itertools
import json
import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import rows
from experiment_tracking.folder.digest import merged_rows
from experiment_tracking.folder.history import HistoryReader, HistoryWriter
from experiment_tracking.folder.rows import columns_of, read_columns
from experiment_tracking.folder.values import RESERVED, from_stored


def as_rows(columns):
    """Columns back to rows: what stands in each."""
    marks = (columns.steps, columns.times, columns.attempts)
    table = [
        dict(zip(("step", "time", "attempt"), mark, strict=True))
        for mark in zip(*marks, strict=True)
    ]
    for name, (places, values) in columns.metrics.items():
        for place, value in zip(places, values, strict=True):
            table[place][name] = value
    return [row for row, gone in zip(table, columns.gone, strict=True) if not gone]


def as_read(stored):
    """Rows as the reader gives them, with numbers for what is stored."""
    table = []
    for row in stored:
        attempt = row.get("attempt", 1)
        marks = {"step": row["step"], "time": float(row["time"])}
        marks["attempt"] = attempt if type(attempt) is int else 1
        table.append(marks | {n: number(v) for n, v in row.items() if n not in RESERVED})
    return table


def number(stored):
    value = stored if type(stored) is bool else from_stored(stored)
    return math.nan if value is None else float(value)


def equal(some, others):
    # As text, because NaN is not equal to itself; sets of names, because rows may differ in order.
    return [sorted(map(repr, row.items())) for row in map(plain, some)] == [
        sorted(map(repr, row.items())) for row in map(plain, others)
    ]


def plain(row):
    return {
        name: int(value) if name in ("step", "attempt") else float(value)
        for name, value in row.items()
    }


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "metrics_history.json")


def write(path, stored, end="\n]\n"):
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(map(json.dumps, stored)) + end)


def row(step, attempt=1, **metrics):
    mark = {"attempt": attempt} if attempt != 1 else {}
    return {"step": step, "time": 100.5 + step, **mark, **metrics}


# ---------------------------------------------------------------------- usual files


def test_what_a_writer_appended_comes_back_as_columns(path):
    writer = HistoryWriter.create(path)
    for step in range(1000):
        writer.append({"loss": 1 / (step + 1), "acc": "NaN"}, step, 100.5 + step)
    writer.close()
    columns = read_columns(path)
    assert columns.steps.dtype == np.int64
    assert columns.steps.tolist() == list(range(1000))
    assert columns.times.tolist() == [100.5 + step for step in range(1000)]
    assert list(columns.metrics) == ["loss", "acc"]
    assert columns.dense("loss").tolist() == [1 / (step + 1) for step in range(1000)]
    assert np.isnan(columns.dense("acc")).all()


def test_a_file_of_many_pieces_reads_as_one(path, monkeypatch):
    monkeypatch.setattr(rows, "_PIECE_BYTES", 50)
    stored = [row(step, loss=step / 7, **({"acc": step} if step % 3 else {})) for step in range(99)]
    write(path, stored)
    columns = read_columns(path)
    assert equal(as_rows(columns), as_read(stored))
    assert columns.metrics["acc"].rows.tolist() == [step for step in range(99) if step % 3]


def test_a_missing_and_an_empty_history_have_no_rows(path):
    assert len(read_columns(path).steps) == 0
    write(path, [])
    assert read_columns(path).merged().metrics == {}


def test_only_the_metrics_asked_for_are_read(path):
    write(path, [row(0, a=1, b=2), row(1, b=3), row(2, a=4)])
    columns = read_columns(path, ["a", "c"])
    assert list(columns.metrics) == ["a"]
    assert columns.metrics["a"].rows.tolist() == [0, 2]
    assert columns.steps.tolist() == [0, 1, 2]
    assert columns.rows_with(["a", "c"]).tolist() == [True, False, True]
    np.testing.assert_array_equal(columns.dense("a"), [1, np.nan, 4])


def test_words_stand_for_what_is_not_finite_and_other_things_are_no_numbers(path):
    stored = ["NaN", "Infinity", "-Infinity", None, "1.5", [1], 3, True]
    write(path, [row(step, x=value) for step, value in enumerate(stored)])
    expected = [np.nan, np.inf, -np.inf, np.nan, np.nan, np.nan, 3, 1]
    np.testing.assert_array_equal(read_columns(path).dense("x"), expected)


@pytest.mark.parametrize("step", [2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_large_steps_are_exact(path, step):
    write(path, [row(0, x=1), row(step, x=2), row(step, attempt=2, x=3)])
    columns = read_columns(path)
    assert columns.steps.tolist() == [0, step, step]
    assert columns.merged().metrics["x"].values.tolist() == [1, 3]


def test_an_attempt_beyond_64_bits_counts_as_the_number_that_it_is(path):
    write(path, [row(0, x=1), row(0, attempt=2**63, x=2)])
    assert read_columns(path).merged().metrics["x"].values.tolist() == [2]


# ---------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    "damaged",
    [
        b'[\n{"step":0,"time":1,"x":1},\n{"step":1,"ti\n]\n',  # torn
        b'[\n{"step":0,"time":1,"x":1},\n{"st',
        b'[\n{"step":0,"time":1,"x":1},\n\0\0\0\0\0\0',
        b'[\n{"step":0,"time":1,"x":1}\n]\n\0\0\0\0',
        b'[\n{"step":0,"time":1,"x":1},\n,\n{"step":1,"time":1,"x":2}\n]\n',
        b'[\n{"step":0,"time":1,"x":1}{"step":1,"time":1,"x":2}\n]\n',
        b'[\n{"step":0,"time":1,"x":1}\n{"step":1,"time":1,"x":2}\n]\n',
        b'[\n{"step":0,"time":1,"x":1},\nrubbish,\n{"step":1,"time":1,"x":2}\n]\n',
        b'[\n{"step":0,"time":1,"x":1},\n[],\n{"step":"1","time":1,"x":2}\n]\n',
        b'[\n{"step":true,"time":1,"x":1},\n{"step":1,"time":false},\n{"step":1.0,"time":1}\n]\n',
        b'[\n"step",\n1,\nnull,\n{"step":0,"time":1,"x":1,"x":2},\n{"time":1},\n{"step":1}\n]\n',
        b'[\n  {\n    "step": 0,\n    "time": 1,\n    "x": 1\n  }\n]\n',  # by an editor
        b'[\n{"step":0,"time":1,"x":1,"\xff":2},\n{"step":1,"time":1}\n]\n',
        b'{"step":0,"time":1,"x":1}',
        b"rubbish",
    ],
)  # fmt: skip
def test_a_damaged_history_reads_as_line_by_line(path, damaged, monkeypatch):
    with open(path, "wb") as file:
        file.write(damaged)
    expected = as_read(HistoryReader(path).rows())
    for size in (1, 2**16):
        monkeypatch.setattr(rows, "_PIECE_BYTES", size)
        assert equal(as_rows(read_columns(path)), expected)


NAMES = st.sampled_from(["loss", "val/loss", "β", "metric:time", "rank"])
STORED = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "x", None, True, [], {"step": 1}]),
)
STEPS = st.one_of(st.integers(-5, 20), st.sampled_from([2**62, 2**63, "3", 1.0, True, None]))
ROWS = st.lists(
    st.builds(
        lambda marks, metrics: metrics | marks,
        st.fixed_dictionaries(
            {"step": STEPS, "time": st.one_of(st.floats(0, 1e11), st.integers(0, 10))},
            optional={"attempt": st.sampled_from([1, 2, 3, 3, "2", 0])},
        ),
        st.dictionaries(NAMES, STORED, max_size=3),
    ),
    max_size=12,
)
# What is put in the place of some bytes: parts of rows and of what stands between them.
PIECES = st.sampled_from(
    [b"", b"\n", b",\n", b"\0" * 5, b"{", b"}", b"]", b"[", b"\n]\n", b'"', b",", b"1", b"\xff",
     b'{"step":1,"time":1}', b'{"step":0,"time":1,"loss":2},\n', b"[]", b"null", b" ", b'\\"']
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    stored=ROWS, cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), PIECES), max_size=3)
)
def test_whatever_is_in_the_file_columns_hold_what_the_rows_hold(tmp_path_factory, stored, cuts):
    data = b"[\n" + b",\n".join(json.dumps(each).encode() for each in stored) + b"\n]\n"
    for place, length, piece in cuts:
        start = int(place * len(data))
        data = data[:start] + piece + data[start + length :]
    path = str(tmp_path_factory.getbasetemp() / "mutated.json")
    with open(path, "wb") as file:
        file.write(data)
    found = HistoryReader(path).rows()
    usual, rows._PIECE_BYTES = rows._PIECE_BYTES, 40
    try:
        columns = read_columns(path)
    finally:
        rows._PIECE_BYTES = usual
    assert equal(as_rows(columns), as_read(found))
    assert equal(as_rows(columns.merged()), as_read(merged_rows(found)))
    assert equal(as_rows(columns_of(found)), as_read(found))
    names = [name for row in found for name in row if name not in RESERVED]
    assert list(columns.metrics) == list(dict.fromkeys(names))
    for name in columns.metrics:
        np.testing.assert_array_equal(
            read_columns(path, [name]).merged().dense(name), columns.merged().dense(name)
        )


def test_a_history_that_is_being_written_reads_as_a_beginning_of_it(path):
    writer = HistoryWriter.create(path)
    ended = threading.Event()

    def log():
        for step in range(20_000):
            writer.append({"x": step}, step, 1.0)
        ended.set()

    thread = threading.Thread(target=log)
    thread.start()
    counts = []
    while not ended.is_set():
        columns = read_columns(path)
        assert columns.steps.tolist() == list(range(len(columns.steps)))
        assert (columns.dense("x") == columns.steps).all()
        counts.append(len(columns.steps))
    thread.join()
    writer.close()
    assert counts == sorted(counts)
    assert len(read_columns(path).steps) == 20_000


def test_a_link_in_the_place_of_a_history_is_refused(path, tmp_path):
    (tmp_path / "other").write_text("[]")
    (tmp_path / "metrics_history.json").symlink_to(tmp_path / "other")
    with pytest.raises(DamagedError, match="is a link"):
        read_columns(path)


# ---------------------------------------------------------------------- attempts


def test_each_metric_by_itself_is_superseded_by_a_later_attempt(path):
    write(path, [
        *(row(step, a=step, b=step) for step in range(4)),
        *(row(step, attempt=2, a=10 + step) for step in (2, 3)),
        row(1, attempt=3, a=21),
    ])  # fmt: skip
    columns = read_columns(path)
    merged = columns.merged()
    assert merged.metrics["a"].values.tolist() == [0, 21]
    assert merged.metrics["b"].values.tolist() == [0, 1, 2, 3]
    assert merged.gone.tolist() == [False] * 4 + [True] * 2 + [False]
    assert columns.metrics["a"].values.tolist() == [0, 1, 2, 3, 12, 13, 21]


def test_one_attempt_alone_supersedes_nothing(path):
    write(path, [row(step, attempt=2, a=step) for step in (3, 1, 2, 2)])
    columns = read_columns(path)
    assert columns.merged() is columns


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_attempts_supersede_by_number_wherever_they_stand_in_the_file(path, order):
    stored = [row(step, attempt, x=attempt) for attempt in order for step in range(attempt, 6)]
    write(path, stored)
    expected = as_read(merged_rows(stored))
    assert equal(as_rows(read_columns(path).merged()), expected)
