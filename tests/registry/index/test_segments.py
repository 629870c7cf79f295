import json
import math
import random
import zlib
from array import array

import pytest

from experiment_tracking.errors import DamagedError
from experiment_tracking.registry.index import segments
from experiment_tracking.registry.index.segments import (
    FACTS,
    NEVER,
    Builder,
    Segment,
    decode,
    encode,
    kind_of,
    merge,
    to_microseconds,
)

NAN = math.nan


def add(builder, key, params=None, metrics=None, tags=None, **facts):
    facts = {"#key": key, "#stamp": 7, "#more": 0, "created_at": None} | facts
    builder.add([facts.get(name) for name in FACTS], params or {}, metrics or {}, tags or {})


def built(*runs):
    builder = Builder()
    for number, run in enumerate(runs):
        add(builder, f"p/{number}", **run)
    return builder.segment()


def columns(segment):
    return {name: repr(list(segment.values(name))) for name in segment.names()}


def stored(segment):
    return b"".join(encode(segment))


MIXED = [
    {
        "params": {"lr": 0.1, "n": 3},
        "metrics": {"loss": {"last": 1.0, "min": 0.5, "goal": "minimize"}},
    },
    {"params": {"lr": 1, "word": "x"}, "tags": {"sweep": "a"}},
    {"params": {"lr": 0.3, "n": 4, "list": [1, NAN]}, "metrics": {"loss": {"last": "NaN"}}},
    {
        "params": {"lr": None, "n": 2**70},
        "metrics": {"acc": {"last": 2, "total": 9}},
        "notes": "é\ud800",
    },
]


def test_each_row_has_its_own_values_and_none_in_the_gaps():
    segment = built(*MIXED)
    assert segment.values("params.lr") == [0.1, 1, 0.3, None]
    assert segment.values("params.n") == [3, None, 4, 2**70]
    assert segment.values("tags.sweep") == [None, "a", None, None]
    assert repr(segment.values("metrics.loss:last")) == "[1.0, None, nan, None]"
    assert segment.values("metrics.loss:goal") == ["minimize", None, None, None]
    assert segment.values("metrics.loss:max") == [None] * 4
    assert "metrics.acc:total" not in segment  # which no table shows
    assert list(segment.values("#key")) == ["p/0", "p/1", "p/2", "p/3"]


def test_a_row_knows_which_names_its_run_has():
    segment = built(*MIXED)
    shapes = [segment.shapes[number] for number in segment.values("#shape")]
    assert shapes[1] == ("params.lr", "params.word", "tags.sweep")
    assert shapes[2] == ("params.lr", "params.n", "params.list", "metrics.loss")


def test_numbers_of_one_kind_are_kept_as_such():
    segment = built(
        {"params": {"a": 1, "b": 1.5, "c": 1}}, {"params": {"a": 2, "b": NAN, "c": 1.5}}
    )
    kinds = [kind_of(segment.column(f"params.{name}").values) for name in "abc"]
    assert kinds == ["q", "d", "list"]
    assert repr(segment.values("params.c")) == "[1, 1.5]"


def test_runs_whose_names_come_in_turn_are_not_mixed_up():
    runs = [
        {"params": {f"p{i % 3}": i}, "metrics": {f"m{i % 2}": {"last": i, "min": -i}}}
        for i in range(2500)
    ]
    segment = built(*runs)
    for i in (0, 1, 2, 1001, 2499):
        assert segment.values(f"params.p{i % 3}")[i] == i
        assert segment.values(f"params.p{(i + 1) % 3}")[i] is None
        assert segment.values(f"metrics.m{i % 2}:min")[i] == -i


def test_keys_that_are_divided_differently_between_metrics_are_not_mixed_up():
    segment = built(
        {"metrics": {"a": {"last": 1, "min": 2}, "b": {"max": 3}}},
        {"metrics": {"a": {"last": 4}, "b": {"min": 5, "max": 6}}},
    )
    assert segment.values("metrics.a:min") == [2.0, None]
    assert segment.values("metrics.b:min") == [None, 5.0]
    assert list(segment.values("metrics.b:max")) == [3.0, 6.0]


def test_runs_of_which_hardly_two_are_alike_are_kept_as_well():
    count = 2 * segments._CHUNK + 5
    assert count > 5 * segments._MOST_GROUPS
    metrics = {"last": "NaN", "min": 1, "goal": "maximize"}
    runs = [
        {"params": {f"p{i}": i, "every": i}, "metrics": {f"m{i % 7}": metrics, f"{i}": {}},
         "tags": {f"t{i % 3}": "x"}}
        for i in range(count)
    ]  # fmt: skip
    segment = decode(stored(built(*runs)))
    assert list(segment.values("params.every")) == list(range(count))
    for i in (0, 150, 1700, count - 1):
        assert segment.values(f"params.p{i}")[i] == i
        assert math.isnan(segment.values(f"metrics.m{i % 7}:last")[i])
        assert segment.values(f"metrics.m{i % 7}:goal")[i] == "maximize"
        assert segment.values(f"tags.t{i % 3}")[i] == "x"
        assert segment.values(f"tags.t{(i + 1) % 3}")[i] is None
        names = [f"params.p{i}", "params.every", f"metrics.m{i % 7}", f"metrics.{i}",
                 f"tags.t{i % 3}"]  # fmt: skip
        assert segment.shapes[segment.values("#shape")[i]] == names


@pytest.mark.parametrize(
    "metrics",
    [{"a": {"last": None}}, {"a": {"last": "x"}}, {"a": {"goal": 3}}, {"a": [1]}, {"a": 1}],
)
@pytest.mark.parametrize("groups", [200, 1])
def test_a_run_whose_metrics_are_none_is_refused_and_leaves_no_trace(metrics, groups, monkeypatch):
    monkeypatch.setattr(segments, "_MOST_GROUPS", groups)
    builder = Builder()
    add(builder, "p/a", {"lr": 1}, {"a": {"last": 1.0}})
    with pytest.raises((TypeError, AttributeError)):
        add(builder, "p/b", {"lr": 2}, metrics)
    add(builder, "p/c", {"lr": 3}, {"a": {"last": 3.0}})
    segment = builder.segment()
    assert list(segment.values("#key")) == ["p/a", "p/c"]
    assert list(segment.values("params.lr")) == [1, 3]
    assert list(segment.values("metrics.a:last")) == [1.0, 3.0]


def test_bytes_give_back_the_same_columns():
    segment = built(*MIXED)
    again = decode(stored(segment))
    assert columns(again) == columns(segment)
    assert [tuple(shape) for shape in again.shapes] == segment.shapes
    assert again.known() == segment.known()
    assert stored(again) == stored(segment)


def test_an_empty_segment_is_one_too():
    assert len(decode(stored(built()))) == 0


def test_equal_values_and_equal_columns_take_no_room():
    one = {"params": {"lr": 0.5, "seed": 1}, "metrics": {"a": {"last": 1.0}}}
    many = [one] * 1000
    assert len(stored(built(*many))) < len(stored(built(one))) + 20_000
    twice = [{"params": {"a": x, "b": x}} for x in map(float, range(1000))]
    once = [{"params": {"a": x}} for x in map(float, range(1000))]
    assert len(stored(built(*twice))) < len(stored(built(*once))) + 500
    assert columns(decode(stored(built(*many)))) == columns(built(*many))


def test_minus_zero_and_true_are_not_taken_for_their_equals():
    segment = built({"params": {"a": 0.0, "b": 1}}, {"params": {"a": -0.0, "b": True}})
    again = decode(stored(segment))
    assert repr(list(again.values("params.a"))) == "[0.0, -0.0]"
    assert repr(list(again.values("params.b"))) == "[1, True]"


def test_rows_of_several_segments_make_one():
    first, second = built(*MIXED), decode(stored(built(*MIXED[::-1])))
    together = merge([(first, [1, 3]), (second, [0, 3])])
    assert list(together.values("params.lr")) == [1, None, None, 0.1]
    assert list(together.values("metrics.acc:last")) == [None, 2.0, 2.0, None]
    assert list(together.values("metrics.loss:min")) == [None, None, None, 0.5]
    shapes = [together.shapes[number] for number in together.values("#shape")]
    assert shapes == [built(run).shapes[0] for run in (MIXED[1], MIXED[3], MIXED[3], MIXED[0])]
    whole = merge([(first, range(4))])
    assert columns(whole) == columns(first)


def test_a_changed_byte_anywhere_is_noticed():
    data = stored(built(*MIXED, *MIXED))
    used = range(len(data))
    for place in random.Random(0).sample(used, 300):
        harmed = bytearray(data)
        harmed[place] ^= 0x55
        try:
            again = decode(bytes(harmed))
        except DamagedError:
            continue
        # Only what fills up a block to eight bytes may change without a word.
        assert columns(again) == columns(decode(data)), place


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.98])
def test_a_part_of_a_segment_is_none(share):
    data = stored(built(*MIXED))
    with pytest.raises(DamagedError):
        decode(data[: int(share * len(data))])
    with pytest.raises(DamagedError):
        decode(data[: int(share * len(data))].ljust(len(data), b"\0"))


def test_garbage_and_another_versions_segments_are_refused(monkeypatch):
    with pytest.raises(DamagedError):
        decode(random.Random(1).randbytes(5000))
    data = stored(built(*MIXED))
    monkeypatch.setattr(segments, "VERSION", "next")
    with pytest.raises(DamagedError, match="version"):
        decode(data)


def forged(change):
    """Return a segment whose directory was changed and whose checksums are right all the same."""
    data = stored(built(*MIXED))
    _, size, _ = segments._HEAD.unpack_from(data)
    start = segments._HEAD_BYTES
    directory = change(json.loads(data[start : start + size]))
    if type(directory) is not bytes:
        directory = json.dumps(directory).encode()
    directory += b" " * (-(start + len(directory)) % 8)
    head = segments._HEAD.pack(segments._MAGIC, len(directory), zlib.crc32(directory))
    return head + directory + data[start + size :]


def of_column(name, place, value):
    def change(directory):
        (column,) = [each for each in directory["columns"] if each[0] == name]
        column[place] = value
        return directory

    return change


def without(*names):
    return lambda directory: (
        directory | {"columns": [each for each in directory["columns"] if each[0] not in names]}
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda directory: [directory],
        lambda directory: b" " + b"[" * 100_000,
        lambda directory: b"\xff\xfe",
        lambda directory: {},
        lambda directory: directory | {"length": 2**62},
        lambda directory: directory | {"length": -1},
        lambda directory: directory | {"length": "4"},
        lambda directory: directory | {"length": 5},
        lambda directory: directory | {"length": 1},
        lambda directory: directory | {"columns": [["a"]]},
        lambda directory: directory | {"shapes": None},
        without("#stamp"),
        without("#key"),
        without("exit_code"),  # as of an earlier state of this package
        of_column("#created", 1, "x"),
        of_column("#created", 1, ["d"]),
        of_column("#created", 2, [-8, 2**70, 0]),
        of_column("#created", 2, None),
        of_column("#stamp", 3, [0, 8, 0]),
    ],
)
def test_a_segment_of_wrong_parts_is_refused_though_its_checksums_are_right(change):
    assert decode(forged(lambda directory: directory)).length == len(MIXED)
    with pytest.raises(DamagedError):
        decode(forged(change))


@pytest.mark.parametrize("rows", [[-1, 0], [0, 4], [2**31 - 1], []])
def test_a_column_of_rows_that_are_not_there_is_refused(rows):
    segment = built(*MIXED)
    values = array("d", range(len(rows)))
    columns = {name: segment.column(name) for name in segment.names()}
    columns["x"] = segments.Column(values, array("i", rows))
    with pytest.raises(DamagedError):
        decode(stored(Segment(len(segment), segment.shapes, columns)))


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("1970-01-01T00:00:01.500Z", 1_500_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-02", 86_400_000_000),
        ("2026-11-21T19:15:32.442Z", 1_795_288_532_442_000),
        ("yesterday", NEVER), (None, NEVER), (17, NEVER),
    ],
)  # fmt: skip
def test_times_become_microseconds(time, expected):
    assert to_microseconds(time) == expected


def test_a_segment_of_columns_made_by_hand_can_be_read():
    column = segments.Column(array("d", [1.5]), array("i", [1]))
    assert Segment(2, [], {"x": column}).values("x") == [None, 1.5]
