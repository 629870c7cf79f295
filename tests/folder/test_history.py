import errno
import functools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.errors import DamagedError, RunEndedError
from experiment_tracking.folder import io
from experiment_tracking.folder.history import (
    START,
    HistoryReader,
    HistoryWriter,
    metric_values,
    parse,
)
from experiment_tracking.folder.values import to_stored

NAMES = [
    "train/loss", "β", "a b", 'say "x"', "back\\slash", "line\nbreak", "}{", "],[", ":null",
    '{"step":7,"time":7}', "日本", "\x00",
]  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "metrics_history.json")


def rows_in(path):
    """What a plain reader finds, which must be what ours finds."""
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    assert HistoryReader(path).since() == (rows, HistoryReader(path).since().offset, 0, False)
    return rows


def numbers_in(path):
    return [row["x"] for row in rows_in(path)]


def numbers(writer, *values, width=0):
    """Append a row for each number, filled up to be ``width`` characters longer."""
    for value in values:
        writer.append({"x": value} | ({"f" * width: 0} if width else {}), value, 0.0)


def write(path, rows):
    writer = HistoryWriter.create(path)
    for row in rows:
        writer.append(row)
    writer.close()
    return Path(path).read_bytes()


class Calls:
    """A function in the place of ``io.pwrite`` that does ``tricks`` first, one a call."""

    def __init__(self, monkeypatch, name, *tricks):
        self.real = getattr(io, name)
        self.tricks = list(tricks)
        monkeypatch.setattr(io, name, self)

    def __call__(self, *args):
        trick = self.tricks.pop(0) if self.tricks else None
        return trick(self.real, *args) if trick else self.real(*args)


def before(action):
    def trick(real, *args):
        action()
        return real(*args)

    return trick


def behind(action):
    def trick(real, *args):
        result = real(*args)
        action()
        return result

    return trick


def half_then(action):
    def trick(real, fd, data, offset):
        real(fd, data[: len(data) // 2], offset)
        action()

    return trick


def short(real, fd, data, offset):
    return real(fd, data[: len(data) // 2], offset)


def interrupt():
    raise KeyboardInterrupt


def no_space():
    raise OSError(errno.ENOSPC, "No space left on device")


# ---------------------------------------------------------------- format


def test_a_history_is_an_array_of_one_row_a_line(path):
    writer = HistoryWriter.create(path)
    assert Path(path).read_text() == "[\n]\n"
    writer.append({"train/loss": 2.31, "val/acc": 0.11}, 0, 1763640000.123)
    writer.append({"train/loss": 2.02}, 1, 1763640000.456)
    assert Path(path).read_text() == (
        "[\n"
        '{"step":0,"time":1763640000.123,"train/loss":2.31,"val/acc":0.11},\n'
        '{"step":1,"time":1763640000.456,"train/loss":2.02}\n'
        "]\n"
    )
    assert writer.end == os.path.getsize(path) - 3


def test_marks_stand_in_every_row_behind_step_and_time(path):
    writer = HistoryWriter.create(path, marks={"attempt": 2, "rank": "3"})
    writer.append({"x": 1}, 5, 6.0)
    assert Path(path).read_text() == '[\n{"step":5,"time":6.0,"attempt":2,"rank":"3","x":1}\n]\n'


def test_json_and_pandas_read_the_file_after_every_append(path):
    writer = HistoryWriter.create(path)
    for count in range(1, 50):
        writer.append({"loss": 1 / count, "β": count})
        assert len(rows_in(path)) == count
        frame = pd.read_json(path)
        assert list(frame["loss"]) == pytest.approx([1 / n for n in range(1, count + 1)])
        assert list(frame["step"]) == list(range(count))


@pytest.mark.parametrize("width", [1, 4, 1000])
def test_rows_of_any_width_come_back(path, width):
    row = {f"metric {n}": n / 7 for n in range(width)}
    write(path, [row, row])
    for step, found in enumerate(rows_in(path)):
        assert metric_values(found) == row
        assert found["step"] == step


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_may_bear_any_name(path, name):
    write(path, [{name: 1.5}, {name: 2.5}])
    assert [metric_values(row) for row in rows_in(path)] == [{name: 1.5}, {name: 2.5}]


def test_nan_and_the_infinities_come_back_exact(path):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1 + 0.2, "e": 5e-324}
    write(path, [{name: to_stored(value) for name, value in values.items()}])
    assert '"a":"NaN","b":"Infinity","c":"-Infinity"' in Path(path).read_text()
    found = metric_values(rows_in(path)[0])
    assert math.isnan(found.pop("a"))
    assert found == {name: value for name, value in values.items() if name != "a"}


def test_repeated_and_backward_steps_are_kept_in_the_order_of_their_calls(path):
    writer = HistoryWriter.create(path)
    steps = [5, 5, 3, -1, 2**63 - 1, -(2**63), 4]
    for step in steps:
        writer.append({"x": 1}, step)
    assert [row["step"] for row in rows_in(path)] == steps


def test_without_a_step_it_is_the_last_step_and_one(path):
    writer = HistoryWriter.create(path)
    for step in (None, None, 10, None, 3, None):
        writer.append({"x": 1}, step)
    assert [row["step"] for row in rows_in(path)] == [0, 1, 10, 11, 3, 4]


def test_without_a_timestamp_it_is_now(path):
    writer = HistoryWriter.create(path)
    earliest = time.time()
    writer.append({"x": 1})
    assert earliest <= rows_in(path)[0]["time"] <= time.time()


def test_a_value_that_json_cannot_hold_raises_and_writes_nothing(path):
    writer = HistoryWriter.create(path)
    numbers(writer, 1)
    for value in (object(), {1, 2}, 2**64, "\ud800"):
        with pytest.raises(TypeError):
            writer.append({"x": value})
    numbers(writer, 2)
    assert numbers_in(path) == [1, 2]


def test_a_history_is_never_made_over_another_file(path):
    write(path, [{"x": 1}])
    with pytest.raises(FileExistsError):
        HistoryWriter.create(path)
    assert len(rows_in(path)) == 1


def test_a_history_that_cannot_be_begun_leaves_no_file(path, monkeypatch):
    Calls(monkeypatch, "write_all", before(no_space))
    with pytest.raises(OSError, match="No space"):
        HistoryWriter.create(path)
    assert not os.path.exists(path)


# ---------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The bytes of a history, its rows, and where each begins and ends."""
    path = str(tmp_path_factory.mktemp("sample") / "metrics_history.json")
    data = write(path, [{name: 1.5, "loss": -2e-7} for name in NAMES] + [{"x": "NaN"}])
    rows, places, position = json.loads(data), [], 0
    for row in rows:
        line = orjson.dumps(row)
        begin = data.index(line, position)
        position = begin + len(line)
        places.append((begin, position))
    return data, rows, places


def look(path, data):
    Path(path).write_bytes(data)
    return HistoryReader(path).since()


def test_cut_at_any_byte_all_whole_rows_come_back_and_nothing_else(sample, path):
    data, rows, places = sample
    for cut in range(len(data) + 1):
        whole = [row for row, (_, end) in zip(rows, places, strict=True) if end <= cut]
        found = look(path, data[:cut])
        assert found.rows == whole
        assert found.damaged == 0
        assert found.offset == (places[len(whole) - 1][1] if whole else 0)
        inside = any(begin < cut < end for begin, end in places)
        assert found.torn == inside


@pytest.mark.parametrize("nuls", [1, 3, 5000])
def test_with_nul_bytes_for_an_end_all_whole_rows_come_back(sample, path, nuls):
    data, rows, places = sample
    for cut in range(len(data) + 1):
        whole = [row for row, (_, end) in zip(rows, places, strict=True) if end <= cut]
        assert look(path, data[:cut] + nuls * b"\0").rows == whole


def test_a_block_of_nul_bytes_costs_only_the_rows_in_it(sample, path):
    data, rows, places = sample
    for start in range(0, len(data), 7):
        stop = start + 64
        outside = [row for row, (b, e) in zip(rows, places, strict=True) if e <= start or b >= stop]
        found = look(path, data[:start] + 64 * b"\0" + data[stop:]).rows
        assert [row for row in found if row in rows] == outside


@pytest.mark.parametrize("wrong", [b"\0", b"\n", b"}", b"{", b'"', b",", b"\\", b"\xff", b"7"])
def test_a_garbled_byte_costs_only_the_row_it_stands_in(sample, path, wrong):
    data, rows, places = sample
    for place in range(len(data)):
        whole = [row for row, (b, e) in zip(rows, places, strict=True) if not b <= place < e]
        found = look(path, data[:place] + wrong + data[place + 1 :]).rows
        # Without checksums, what remains of the damaged row may still read as a row.
        assert len(found) - len(whole) in (0, 1)
        assert [row for row in found if row in whole] == whole


def test_damaged_lines_are_counted_and_a_torn_end_is_told(path):
    good = b'{"step":1,"time":1.0,"x":1}'
    assert look(path, b"[\n" + good + b",\nrubbish,\n" + good + b"\n]\n")[2:] == (1, False)
    assert look(path, b"[\n" + good + b",\nrubbish\n]\n")[2:] == (0, True)
    assert look(path, b"[\n" + good + b',\n{"st')[2:] == (0, True)


def test_whatever_has_landed_of_a_write_no_returned_row_is_lost(path):
    rows = [{"step": n, "time": 0.0, "x": n} for n in range(3)]
    for count in range(3):
        separator = b",\n" if count else b"\n"
        old = b"[\n" + b",\n".join(map(orjson.dumps, rows[:count]))
        old, closing = (old, b"\n]\n") if count else (b"[", b"\n]\n")
        new = separator + orjson.dumps(rows[count]) + b"\n]\n"
        for landed in range(16):
            for further in (0, 10, len(new)):
                state = bytearray((closing + bytes(len(new)))[: max(len(closing), further)])
                if landed & 8 and len(state) < 4:
                    state.append(0)
                for bit in range(4):
                    if landed & 1 << bit:
                        state[bit] = new[bit]
                state[4:further] = new[4:further]
                found = look(path, old + bytes(state)).rows
                assert found[:count] == rows[:count]
                assert found[count:] in ([], [rows[count]])


_ROW = b'{"step":1,"time":1.0,"x":2}'


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (b"", 0), (b"\0" * 4096, 0), (b"[]", 0), (b"[", 0), (b"]", 0), (b"null", 0), (b"7", 0),
        (b'"text"', 0), (b"{}", 0), (b"[[]]", 0), (b"[1,2]", 0), (b"[" * 100_000, 0),
        (b'{"a":' * 100_000, 0), (b"[NaN, Infinity]", 0), (b"[1e400]", 0),
        (b"\xff\xfe" + _ROW.decode().encode("utf-16-le"), 0), (b"caf\xe9", 0),
        (b"\xef\xbb\xbf[\n" + _ROW + b"\n]\n", 1),
        (b"[\r\n" + _ROW + b",\r\n" + _ROW + b"\r\n]\r\n", 2),
        (_ROW + b"\n" + _ROW + b"\n", 2),
        (b"[" + b",".join([_ROW] * 3000) + b"]", 3000),
        (b"[" + b",".join([_ROW] * 3000) + b",{", 3000),
        (b"[\n" + _ROW + b"\n]\n[\n" + _ROW + b"\n]\n", 2),
        (b'[\n{"step":1,"time":1.0,"x":NaN}\n]\n', 0),
        (b'[{"step":1.5,"time":1.0},\n{"step":true,"time":1.0},\n{"step":"7","time":1.0}\n]\n', 0),
        (b'[{"step":1},\n{"time":1.0},\n{"step":1,"time":"now"},\n{"step":1,"time":null}\n]\n', 0),
        (b'[\n{"step":' + b"9" * 5000 + b',"time":1.0}\n]\n', 0),
        (b'[\n{"step":1,"time":1.0,"x":[1],"y":{},"z":null,"step":2}\n]\n', 1),
        (b'[\n{"step":1,"time":1.0,"' + b"k" * 1_000_000 + b'":1}\n]\n', 1),
        (b'[\n{"step":-1,"time":-1.0},\n{"step":9223372036854775807,"time":1e12}\n]\n', 2),
    ],
)  # fmt: skip
def test_no_content_makes_the_reader_raise(path, content, count):
    found = look(path, content)
    assert len(found.rows) == count
    assert all(isinstance(metric_values(row), dict) for row in found.rows)
    HistoryWriter.reopen(path).close()
    assert len(rows_in(path)) == count


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_in_the_place_of_others_make_the_reader_raise(sample, content, place):
    data, rows, _ = sample
    found, length, _, _ = parse(data[:place] + content + data[place + len(content) :])
    assert 0 <= length <= len(data) + len(content)
    assert [row for row in rows if row in found] == [row for row in found if row in rows]


def test_a_missing_history_has_no_rows(tmp_path):
    assert HistoryReader(str(tmp_path / "none.json")).since(17) == ([], 17, 0, False)
    assert HistoryReader(str(tmp_path / "none.json")).whole_rows() == ([], -1)


def test_links_and_pipes_in_the_place_of_a_history_are_refused(path, tmp_path):
    os.symlink("/dev/zero", path)
    with pytest.raises(DamagedError, match="link"):
        HistoryReader(path).rows()
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    with pytest.raises(DamagedError, match="regular"):
        HistoryReader(pipe).rows()


def test_a_history_beyond_the_limit_is_refused_unread(path, monkeypatch):
    with open(path, "wb") as file:
        file.truncate(50 * 2**30)
    with pytest.raises(DamagedError, match="allowed"):
        HistoryReader(path).rows()


# ---------------------------------------------------------------- reading on


@given(cuts=st.lists(st.integers(0, 900), max_size=12), closed=st.booleans())
def test_read_on_from_any_cut_each_row_comes_once(sample, tmp_path_factory, cuts, closed):
    data, rows, _ = sample
    path = str(tmp_path_factory.getbasetemp() / "growing.json")
    found, offset = [], 0
    for cut in [*sorted(cuts), len(data)]:
        Path(path).write_bytes(data[:cut] + (b"\n]\n" if closed else b""))
        new, offset, _, _ = HistoryReader(path).since(offset)
        found += new
    assert found == rows


def test_reading_on_while_rows_are_appended_meets_each_once(path):
    writer, reader = HistoryWriter.create(path), HistoryReader(path)
    offset, found = 0, []
    for value in range(100):
        numbers(writer, value, width=value % 7)
        if value % 3 == 0:
            rows, offset, damaged, torn = reader.since(offset)
            assert (damaged, torn, offset) == (0, False, writer.end)
            found += rows
    assert found + reader.since(offset).rows == rows_in(path)


# ---------------------------------------------------------------- interrupted


@pytest.mark.parametrize("width", [0, 500])
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize(
    "trick",
    [before(interrupt), behind(interrupt), half_then(interrupt)],
    ids=["before", "behind", "half"],
)
@pytest.mark.parametrize("cleans", [True, False])
def test_after_an_interrupt_shorter_rows_follow_whole(
    path, monkeypatch, trick, count, width, cleans
):
    writer = HistoryWriter.create(path)
    numbers(writer, *range(count))
    with monkeypatch.context() as patch:
        # A second interrupt may meet the cleaning up behind the first.
        Calls(patch, "pwrite", trick, *([] if cleans else [before(interrupt)]))
        with pytest.raises(KeyboardInterrupt):
            numbers(writer, 99, width=width)
    if cleans:
        assert numbers_in(path) == list(range(count))
    numbers(writer, 10)
    assert numbers_in(path) == [*range(count), 10]
    numbers(writer, 11)
    writer.close()
    assert numbers_in(path) == [*range(count), 10, 11]


def test_an_interrupt_inside_the_cut_costs_no_row(path, monkeypatch):
    writer = HistoryWriter.create(path)
    numbers(writer, 1)
    for trick in (before(interrupt), behind(interrupt)):
        with monkeypatch.context() as patch:
            Calls(patch, "pwrite", behind(interrupt), before(interrupt))
            with pytest.raises(KeyboardInterrupt):
                numbers(writer, 98, width=300)
            Calls(patch, "truncate", trick)
            with pytest.raises(KeyboardInterrupt):
                numbers(writer, 99, width=100)
    numbers(writer, 2)
    assert numbers_in(path) == [1, 2]


def test_an_interrupted_row_is_gone_when_the_run_ends(path, monkeypatch):
    writer = HistoryWriter.create(path)
    numbers(writer, 1)
    with monkeypatch.context() as patch:
        Calls(patch, "pwrite", half_then(interrupt), before(interrupt))
        with pytest.raises(KeyboardInterrupt):
            numbers(writer, 99, width=300)
    writer.close()
    assert numbers_in(path) == [1]


@pytest.mark.parametrize("trick", [short, before(no_space), behind(no_space), half_then(no_space)])
def test_a_row_that_met_an_error_is_written_once_with_the_next(path, monkeypatch, trick):
    writer = HistoryWriter.create(path)
    numbers(writer, 1)
    with monkeypatch.context() as patch:
        Calls(patch, "pwrite", trick)
        numbers(writer, 2, width=300)
    assert numbers_in(path) == [1]
    assert writer.write_held()
    numbers(writer, 3)
    assert numbers_in(path) == [1, 2, 3]


# ---------------------------------------------------------------- signal handlers that log


@pytest.mark.parametrize("width", [0, 400], ids=["short", "long"])
@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("when", [before, behind])
@pytest.mark.parametrize("count", [0, 2])
def test_rows_appended_inside_a_write_are_there_once(path, monkeypatch, when, inner, width, count):
    writer = HistoryWriter.create(path)
    numbers(writer, *range(count))
    handler = functools.partial(numbers, writer, *range(10, 10 + inner), width=width)
    with monkeypatch.context() as patch:
        Calls(patch, "pwrite", when(handler))
        numbers(writer, 5, width=200)
    assert numbers_in(path) == [*range(count), *range(10, 10 + inner), 5]
    numbers(writer, 6)
    assert numbers_in(path) == [*range(count), *range(10, 10 + inner), 5, 6]
    assert writer.end == os.path.getsize(path) - 3


@pytest.mark.parametrize("when", [before, behind])
def test_rows_appended_inside_a_cut_are_there_once(path, monkeypatch, when):
    writer = HistoryWriter.create(path)
    numbers(writer, 1)
    with monkeypatch.context() as patch:
        Calls(patch, "pwrite", behind(interrupt), before(interrupt))
        with pytest.raises(KeyboardInterrupt):
            numbers(writer, 99, width=900)
        Calls(patch, "truncate", when(lambda: numbers(writer, 2, 3, width=50)))
        numbers(writer, 4)
    assert numbers_in(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("when", [before, behind])
def test_handlers_inside_handlers_lose_no_row(path, monkeypatch, when):
    writer = HistoryWriter.create(path)
    with monkeypatch.context() as patch:
        Calls(
            patch,
            "pwrite",
            when(lambda: numbers(writer, 2, width=30)),
            when(lambda: numbers(writer, 1, width=90)),
        )
        numbers(writer, 3)
    assert numbers_in(path) == [1, 2, 3]


def test_a_handler_that_logs_and_raises_keeps_its_row(path, monkeypatch):
    writer = HistoryWriter.create(path)

    def log_and_exit():
        numbers(writer, 1)
        sys.exit(143)

    with monkeypatch.context() as patch:
        Calls(patch, "pwrite", behind(log_and_exit))
        with pytest.raises(SystemExit):
            numbers(writer, 99, width=300)
    numbers(writer, 2)
    assert numbers_in(path) == [1, 2]


@pytest.mark.parametrize("finish", ["seal", "close"])
@pytest.mark.parametrize("when", [before, behind])
def test_a_row_that_a_handler_cut_off_by_finishing_raises(path, monkeypatch, when, finish):
    writer = HistoryWriter.create(path)
    numbers(writer, 1)

    def log_and_finish():
        numbers(writer, 2, width=300)
        getattr(writer, finish)()

    with monkeypatch.context() as patch:
        Calls(patch, "pwrite", when(log_and_finish))
        with pytest.raises(RunEndedError):
            numbers(writer, 3)
    if (when, finish) != (before, "seal"):  # the write that was late hit a sealed file
        assert numbers_in(path) == [1, 2]


def test_a_handler_that_meets_a_full_disk_does_not_cost_the_interrupted_row(path, monkeypatch):
    writer = HistoryWriter.create(path)
    numbers(writer, 1)
    with monkeypatch.context() as patch:
        Calls(patch, "pwrite", behind(lambda: numbers(writer, 2)), before(no_space))
        numbers(writer, 3, width=100)
    assert numbers_in(path) == [1, 3]
    assert writer.write_held()
    assert numbers_in(path) == [1, 3, 2]


@pytest.mark.parametrize("when", [before, behind])
def test_a_handler_that_logs_while_held_rows_are_written_loses_and_doubles_none(
    path, monkeypatch, when
):
    writer = HistoryWriter.create(path)
    with monkeypatch.context() as patch:
        Calls(patch, "pwrite", before(no_space))
        numbers(writer, 1)
        writer._retry_at = math.inf
        numbers(writer, 2, 3)
        Calls(patch, "pwrite", when(lambda: numbers(writer, 4)))
        assert writer.write_held()
    numbers(writer, 5)
    assert numbers_in(path) == [1, 2, 3, 4, 5]


def test_an_interrupt_while_held_rows_are_written_loses_and_doubles_none(path, monkeypatch):
    writer = HistoryWriter.create(path)
    for trick in (before(interrupt), behind(interrupt), half_then(interrupt)):
        with monkeypatch.context() as patch:
            Calls(patch, "pwrite", before(no_space))
            numbers(writer, 1)
            Calls(patch, "pwrite", trick)
            with pytest.raises(KeyboardInterrupt):
                writer.write_held()
        assert writer.write_held()
    assert numbers_in(path) == [1, 1, 1]


class HandlerError(Exception):
    """Raised by a signal handler."""


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
def test_real_signal_handlers_that_log_lose_and_double_no_row(path, raises):
    writer = HistoryWriter.create(path)
    started, deep, main = 0, 0, 0
    returned = []

    def log(number, frame):
        nonlocal started, deep
        started += 1
        deep += 1
        own = -started
        writer.append({"x": own, "h" * (started % 50): 0})
        returned.append(own)
        deep -= 1
        # Only into an append of the loop below, which catches it.
        inside = os.path.basename(frame.f_code.co_filename) in ("history.py", "io.py")
        if raises and deep == 0 and inside and started % 3 == 0:
            raise HandlerError

    earlier = signal.signal(signal.SIGALRM, log)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        while started < 1000:
            main += 1
            try:
                writer.append({"x": main, "m" * (main % 60): 0})
                returned.append(main)
            except HandlerError:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    numbers(writer, main + 1)
    found = numbers_in(path)
    assert len(found) == len(set(found))
    assert set(returned) <= set(found) <= {*range(-started, 0), *range(1, main + 2)}
    assert [x for x in found if x > 0] == sorted(x for x in found if x > 0)


# ---------------------------------------------------------------- threads, forks, processes


def test_sixteen_threads_lose_and_mix_nothing(path):
    writer = HistoryWriter.create(path)

    def log(thread):
        for count in range(1000):
            writer.append({"thread": thread, "count": count})

    threads = [threading.Thread(target=log, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = rows_in(path)
    for number in range(16):
        assert [row["count"] for row in rows if row["thread"] == number] == list(range(1000))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_lets_go_although_another_thread_holds_the_lock(path):
    writer = HistoryWriter.create(path)
    held, done = threading.Event(), threading.Event()

    def hold():
        with writer.lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        writer.abandon_in_child()
        try:
            writer.append({"x": 1})
        except RunEndedError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    done.set()
    thread.join()
    numbers(writer, 2)
    assert numbers_in(path) == [2]


_LOOP = """
import sys, threading, time
from experiment_tracking.folder.history import HistoryWriter

writer = HistoryWriter.create(sys.argv[1])
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
row = {f"metric {number}": number / 7 for number in range(4)}
while not ended.is_set():
    writer.append(row)
    time.sleep(0.01)
writer.close()
"""


def test_json_and_pandas_read_a_running_loop_at_the_first_or_second_try(path):
    loop = subprocess.Popen([sys.executable, "-c", _LOOP, path], stdin=subprocess.PIPE)
    readers = [lambda: len(json.loads(Path(path).read_bytes())), lambda: len(pd.read_json(path))]
    try:
        while not (os.path.exists(path) and os.path.getsize(path)):
            time.sleep(0.01)
        seen = 0
        for number in range(2000):
            read = readers[number % 2]
            try:
                count = read()
            except ValueError:
                count = read()
            assert count >= seen
            seen = count
    finally:
        loop.stdin.close()
        assert loop.wait(30) == 0
    assert readers[0]() == readers[1]() >= seen > 0


# ---------------------------------------------------------------- a disk that refuses


def test_rows_that_the_disk_refused_wait_and_are_written_in_order(path, monkeypatch):
    troubles = []
    writer = HistoryWriter.create(path, on_trouble=troubles.append)
    numbers(writer, 0)
    with monkeypatch.context() as patch:
        patch.setattr(io, "pwrite", lambda *args: no_space())
        numbers(writer, *range(1, 50))
        assert not writer.write_held()
        assert len(troubles) == 1
    assert numbers_in(path) == [0]
    assert writer.write_held()
    numbers(writer, 50)
    assert numbers_in(path) == list(range(51))
    assert [type(trouble) for trouble in troubles] == [OSError, type(None)]
    assert writer.dropped == 0


def test_a_later_append_tries_again_once_it_is_time(path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    writer = HistoryWriter.create(path)
    with monkeypatch.context() as patch:
        patch.setattr(io, "pwrite", lambda *args: no_space())
        numbers(writer, 0, 1)
    numbers(writer, 2)
    assert numbers_in(path) == []
    now += 0.06
    numbers(writer, 3)
    assert numbers_in(path) == [0, 1, 2, 3]


def test_beyond_eight_megabytes_the_oldest_rows_are_dropped_and_counted(path, monkeypatch):
    writer = HistoryWriter.create(path)
    with monkeypatch.context() as patch:
        patch.setattr(io, "pwrite", lambda *args: no_space())
        numbers(writer, *range(100), width=100_000)
    assert 80 <= len(writer.held) <= 84
    assert sum(map(len, writer.held)) <= 8 * 2**20
    assert writer.dropped == 100 - len(writer.held)
    assert writer.write_held()
    assert numbers_in(path) == list(range(writer.dropped, 100))
    assert writer.dropped > 0


def test_rows_still_held_at_the_end_are_counted_as_dropped(path, monkeypatch):
    writer = HistoryWriter.create(path)
    numbers(writer, 0)
    with monkeypatch.context() as patch:
        patch.setattr(io, "pwrite", lambda *args: no_space())
        numbers(writer, 1, 2, 3)
        writer.close()
    assert writer.dropped == 3
    assert numbers_in(path) == [0]


def test_what_the_trouble_callback_raises_comes_out_and_the_row_is_not_kept(path, monkeypatch):
    def on_trouble(error):
        if error:
            raise ZeroDivisionError from error

    writer = HistoryWriter.create(path, on_trouble=on_trouble)
    with monkeypatch.context() as patch:
        patch.setattr(io, "pwrite", lambda *args: no_space())
        for value in range(2):
            with pytest.raises(ZeroDivisionError):
                numbers(writer, value)
    numbers(writer, 2)
    assert numbers_in(path) == [2]


_FULL = """
import resource, signal, sys
from experiment_tracking.folder.history import HistoryWriter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
troubles = []
writer = HistoryWriter.create(sys.argv[1], on_trouble=troubles.append)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
for value in range(500):
    writer.append({"x": value})
assert writer.held and not writer.write_held()
end = writer.end
assert 3900 < end <= 4096, end
import json; assert len(json.load(open(sys.argv[1]))) + len(writer.held) == 500
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for value in range(500, 600):
    writer.append({"x": value})
writer.close()
assert [type(trouble) for trouble in troubles] == [OSError, type(None)], troubles
assert writer.dropped == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_limit_on_the_size_of_files_costs_no_row_once_it_is_lifted(path):
    subprocess.run([sys.executable, "-c", _FULL, path], check=True)
    assert numbers_in(path) == list(range(600))


# ---------------------------------------------------------------- endings, moves, resuming


def test_after_the_end_appending_raises_and_reading_goes_on(path):
    writer = HistoryWriter.create(path)
    numbers(writer, 1)
    writer.seal()
    writer.seal()
    with pytest.raises(RunEndedError, match="has ended"):
        numbers(writer, 2)
    assert writer.read(START, writer.end - START) == b'\n{"step":1,"time":0.0,"x":1}'
    writer.close()
    writer.close()
    with pytest.raises(RunEndedError):
        numbers(writer, 3)
    assert numbers_in(path) == [1]


def test_a_deleted_history_goes_on_in_a_new_file_with_all_rows(path):
    writer = HistoryWriter.create(path)
    numbers(writer, 1, 2)
    assert writer.has_its_name(path)
    os.unlink(path)
    assert not writer.has_its_name(path)
    numbers(writer, 3)
    writer.move_to(path)
    assert writer.has_its_name(path)
    numbers(writer, 4)
    assert numbers_in(path) == [1, 2, 3, 4]


def test_a_move_that_fails_leaves_nothing_and_can_be_repeated(path, monkeypatch):
    writer = HistoryWriter.create(path)
    numbers(writer, 1)
    os.unlink(path)
    with monkeypatch.context() as patch:
        Calls(patch, "write_all", half_written)
        with pytest.raises(OSError, match="No space"):
            writer.move_to(path)
    assert not os.path.exists(path)
    writer.move_to(path)
    assert numbers_in(path) == [1]


def half_written(real, fd, data):
    real(fd, data[: len(data) // 2])
    no_space()


def test_a_move_never_replaces_the_file_of_another_writer(path):
    writer = HistoryWriter.create(path)
    numbers(writer, 1)
    os.unlink(path)
    numbers(HistoryWriter.create(path), 2)
    with pytest.raises(FileExistsError):
        writer.move_to(path)
    assert numbers_in(path) == [2]


def test_reopening_drops_a_torn_end_and_keeps_the_bytes_of_whole_rows(path):
    first, second = b'{"step": 3, "time": 1.50, "x": 1e0}', b'{"step":7,"time":2.0,"x":2}'
    Path(path).write_bytes(b"[\n" + first + b",\n" + second + b',\n{"step":8,"ti')
    writer = HistoryWriter.reopen(path, marks={"attempt": 2})
    assert Path(path).read_bytes() == b"[\n" + first + b",\n" + second + b"\n]\n"
    writer.append({"x": 3})
    assert [row["step"] for row in rows_in(path)] == [3, 7, 8]
    assert rows_in(path)[-1]["attempt"] == 2


@pytest.mark.parametrize("layout", [{"indent": 2}, {"separators": (", ", ": ")}])
def test_reopening_a_history_that_an_editor_laid_out_anew_keeps_its_rows(path, layout):
    write(path, [{"β": 0.1}, {"x": 2}, {"x": "NaN"}])
    rows = rows_in(path)
    Path(path).write_text(json.dumps(rows, **layout))
    writer = HistoryWriter.reopen(path)
    assert rows_in(path) == rows
    writer.append({"x": 3})
    assert [row["step"] for row in rows_in(path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("content", [None, b"", b"[", b"[\n]\n", b"\0\0\0"])
def test_reopening_a_history_without_rows_starts_an_empty_one(path, content):
    if content is not None:
        Path(path).write_bytes(content)
    writer = HistoryWriter.reopen(path)
    assert numbers_in(path) == []
    writer.append({"x": 1})
    assert rows_in(path)[0]["step"] == 0


def test_reopening_leaves_the_earlier_writer_with_a_file_that_has_no_name(path):
    earlier = HistoryWriter.create(path)
    numbers(earlier, 1)
    later = HistoryWriter.reopen(path)
    numbers(earlier, 2)
    numbers(later, 3)
    assert numbers_in(path) == [1, 3]
    assert not earlier.has_its_name(path)
    assert later.has_its_name(path)


def test_a_writer_of_a_moved_folder_knows_where_its_file_is(tmp_path):
    (tmp_path / "a").mkdir()
    writer = HistoryWriter.create(str(tmp_path / "a" / "h.json"))
    os.rename(tmp_path / "a", tmp_path / "b")
    if os.path.isdir("/proc/self/fd"):
        assert writer.present_path() == os.path.realpath(tmp_path / "b" / "h.json")
        os.unlink(tmp_path / "b" / "h.json")
    assert writer.present_path() is None
