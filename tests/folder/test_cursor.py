"""Whoever reads a history that another process writes gets every row once, and no other."""

import contextlib
import json
import os
import subprocess
import sys

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import cursor as module
from experiment_tracking.folder.cursor import HistoryCursor, Place
from experiment_tracking.folder.history import START, HistoryReader, HistoryWriter

WRITER = """
import sys
from experiment_tracking.folder.history import HistoryWriter

writer = HistoryWriter.create(sys.argv[1])
for step in range(int(sys.argv[2])):
    writer.append({"x": step, "f" * (step * 7 % 300): 0, "loss": "NaN" if step % 9 == 0 else 1.5})
writer.close()
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "metrics_history.json")


def write(path, numbers):
    writer = HistoryWriter.create(path)
    for number in numbers:
        writer.append({"x": number}, timestamp=1e9 + number)
    return writer


def numbers_of(placed):
    return [one.row["x"] for one in placed]


def drain(cursor, max_rows=1000, *, settled=True):
    found = []
    while rows := cursor.next(max_rows, settled=settled):
        found += rows
    return found


def place_of(placed, number):
    """The place behind the ``number``-th of some rows."""
    last = placed[number - 1]
    return Place(last.end, number, last.mark)


@contextlib.contextmanager
def pieces_of(size):
    before = module._PIECE_BYTES, module._BEFORE_BYTES
    module._PIECE_BYTES = module._BEFORE_BYTES = size
    try:
        yield
    finally:
        module._PIECE_BYTES, module._BEFORE_BYTES = before


# ---------------------------------------------------------------------- in order


def test_a_missing_and_an_empty_history_have_no_rows(path):
    assert HistoryCursor(path).next(10) == HistoryCursor(path).next(10, settled=True) == []
    write(path, [])
    assert HistoryCursor(path).next(10) == HistoryCursor(path).next(10, settled=True) == []


def test_rows_come_as_they_are_appended_and_at_most_so_many(path):
    writer = write(path, range(5))
    cursor = HistoryCursor(path)
    assert [numbers_of(cursor.next(3)) for _ in range(3)] == [[0, 1, 2], [3, 4], []]
    writer.append({"x": 5})
    assert numbers_of(cursor.next(3)) == [5]
    assert cursor.next(3) == []


def test_a_row_ends_where_the_writer_says(path):
    writer, ends = write(path, []), []
    for number in range(4):
        writer.append({"x": number})
        ends.append(writer.end)
    assert [placed.end for placed in drain(HistoryCursor(path))] == ends


def test_a_row_longer_than_a_piece_is_given_whole(path):
    writer = write(path, [0])
    writer.append({"x": 1, "f" * 5000: 0})
    writer.append({"x": 2})
    with pieces_of(64):
        assert numbers_of(drain(HistoryCursor(path), settled=False)) == [0, 1, 2]


def test_no_more_than_a_piece_is_held(path):
    write(path, range(20_000))
    with pieces_of(1024):
        cursor = HistoryCursor(path)
        assert len(cursor.next(10**9)) < 50


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/etc/passwd", path)])
def test_a_link_or_a_pipe_in_its_place_is_refused(make, path):
    make(path)
    with pytest.raises(DamagedError):
        HistoryCursor(path).next(1)


# ---------------------------------------------------------------------- any contents


def in_lines(rows):
    return b"[\n" + b",\n".join(map(orjson.dumps, rows)) + b"\n]\n" if rows else b"[\n]\n"


def half_indented(rows):
    indented = json.dumps(rows[1::2], indent=1).encode()[1:]
    return in_lines(rows[::2])[:-3] + b",\n" * (len(rows) > 1) + indented


LAYOUTS = {
    "ours": in_lines,
    "one line": orjson.dumps,
    "json.dump": lambda rows: json.dumps(rows).encode(),
    "indented": lambda rows: json.dumps(rows, indent=2).encode(),
    "half indented": half_indented,
}
ROWS = st.lists(
    st.fixed_dictionaries(
        {"step": st.integers(0, 9), "time": st.floats(0, 1e9)},
        optional={
            "a": st.sampled_from([1, "NaN", -0.5]), "}{\n,]": st.just(2), "w" * 90: st.just(0),
        },
    ),
    max_size=8,
)  # fmt: skip
PUT = st.sampled_from([b"", b"\0" * 9, b"}\n{", b'"'])
WOUNDS = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 40), PUT), max_size=3)


@settings(max_examples=150, deadline=None)
@example(rows=[{"step": 0, "time": 1.0}] * 3, layout="ours", wounds=[(1, 1, b"")], size=64)
@given(ROWS, st.sampled_from(sorted(LAYOUTS)), WOUNDS, st.sampled_from([16, 200, 4096]))
def test_what_is_settled_reads_as_the_reader_reads_it_from_any_row_on(
    tmp_path_factory, rows, layout, wounds, size
):
    data = LAYOUTS[layout](rows)
    if "indented" in layout:
        wounds = []  # The reader gives all of it up then; behind the wound we find more.
    for position, length, put in wounds:
        data = data[:position] + put + data[position + length :]
    file = tmp_path_factory.mktemp("wounds") / "h.json"
    file.write_bytes(data)
    whole = HistoryReader(str(file)).rows()
    with pieces_of(size):
        found = drain(HistoryCursor(str(file)), 3)
        assert [placed.row for placed in found] == whole
        for number in range(1, len(found) + 1):
            for place in (place_of(found, number), Place(START, number)):
                rest = drain(HistoryCursor(str(file), place))
                assert [placed.row for placed in rest] == whole[number:]


# ---------------------------------------------------------------------- found again


@pytest.mark.parametrize("rewrite", [json.dumps, lambda rows: json.dumps(rows, indent=2)])
def test_a_history_laid_out_anew_is_gone_on_with_at_the_same_row(rewrite, path):
    write(path, range(10)).close()
    cursor = HistoryCursor(path)
    found = cursor.next(4)
    place = place_of(found, 4)
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    with open(path, "w", encoding="utf-8") as file:
        file.write(rewrite(rows))
    assert numbers_of(drain(HistoryCursor(path, place))) == [4, 5, 6, 7, 8, 9]


def test_a_damaged_history_that_is_mended_under_the_reader_gives_the_rest_once(path):
    writer = write(path, range(6))
    writer.close()
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(data.replace(b'"x":1}', b'"x"\0\0}'))
    with pieces_of(48):
        cursor = HistoryCursor(path)
        first = cursor.next(1) + cursor.next(1, settled=True)
        assert numbers_of(first) == [0, 2]
        writer = HistoryWriter.reopen(path)
        writer.append({"x": 6})
        rest = numbers_of(drain(cursor))
    assert rest == [3, 4, 5, 6]


def test_a_resumed_history_without_its_torn_end_is_gone_on_with(path):
    write(path, range(3)).close()
    with open(path, "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b',\n{"step":3,"ti')
    cursor = HistoryCursor(path)
    assert numbers_of(drain(cursor, settled=False)) == [0, 1, 2]
    writer = HistoryWriter.reopen(path, marks={"attempt": 2})
    writer.append({"x": 30})
    assert numbers_of(drain(cursor, settled=False)) == [30]


def test_a_place_behind_the_end_waits_for_that_many_rows(path):
    writer = write(path, range(3))
    cursor = HistoryCursor(path, Place(START, 5))
    assert cursor.next(9) == []
    for number in range(3, 7):
        writer.append({"x": number})
    assert numbers_of(cursor.next(9)) == [5, 6]
    assert HistoryCursor(path, Place(START, 50)).next(9, settled=True) == []


# ---------------------------------------------------------------------- while it is written


@pytest.mark.parametrize("place", [Place(), Place(START, 100)])
def test_nothing_is_missed_or_invented_while_another_process_writes_at_full_speed(place, path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, path, "30000"], env=os.environ | {
        "PYTHONPATH": os.fspath(module.__file__).partition("/experiment_tracking/")[0],
    })  # fmt: skip
    cursor, found = HistoryCursor(path, place), []
    with pieces_of(4096):
        while process.poll() is None:
            found += cursor.next(50)
    assert process.returncode == 0
    found += drain(cursor)
    assert [placed.row for placed in found] == HistoryReader(path).rows()[place.rows :]


def test_a_row_half_written_is_waited_for(path):
    writer = write(path, range(2))
    cursor = HistoryCursor(path)
    whole = b',\n{"step":2,"time":1.0,"x":2}\n]\n'
    for length in range(len(whole) - 5):
        with open(path, "r+b") as file:
            file.seek(writer.end)
            file.write(whole[:length])
            file.truncate()
        assert numbers_of(drain(cursor, settled=False)) in ([0, 1], [])
    with open(path, "r+b") as file:
        file.seek(writer.end)
        file.write(whole)
    assert numbers_of(drain(cursor, settled=False)) == [2]


def with_a_gap(data):
    return data.replace(b'{"step":2', bytes(9))


def with_the_old_end(data):
    """From the end of then on, a page shows the closing bracket and what was not written yet."""
    start, behind = data.index(b',\n{"step":2'), data.index(b'{"step":4')
    return (data[:start] + b"\n]\n").ljust(behind, b"\0") + data[behind:]


@pytest.mark.parametrize("stale", [with_a_gap, with_the_old_end])
def test_an_older_page_in_front_of_newer_rows_costs_no_row(stale, path):
    write(path, range(6)).close()
    with open(path, "rb") as file:
        data = file.read()
    assert len(stale(data)) == len(data)
    cursor = HistoryCursor(path)
    with open(path, "wb") as file:
        file.write(stale(data))
    assert numbers_of(drain(cursor, settled=False)) == [0, 1]
    assert cursor.next(9) == []
    with open(path, "wb") as file:
        file.write(data)
    assert numbers_of(drain(cursor, settled=False)) == [2, 3, 4, 5]


def test_damage_that_stays_is_passed_over_at_the_third_look(path):
    writer = write(path, range(4))
    with open(path, "r+b") as file:
        data = file.read()
        file.seek(data.index(b'"x":1'))
        file.write(b"\0\0\0")
    cursor = HistoryCursor(path)
    assert [numbers_of(cursor.next(9)) for _ in range(4)] == [[0], [], [], [2]]
    assert numbers_of(cursor.next(9)) == [3]
    writer.append({"x": 4})
    assert numbers_of(cursor.next(9)) == [4]
