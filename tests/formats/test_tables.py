import csv
import datetime
import enum
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats.tables import encode_table

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def as_csv(table):
    encoded = encode_table(table)
    assert encoded.suffix == ".csv"
    return list(csv.reader(io.StringIO(encoded.data.decode(), newline="")))


def as_json(table):
    encoded = encode_table(table, kind="json")
    assert encoded.suffix == ".json"
    return json.loads(encoded.data)


@given(st.lists(st.tuples(TEXT, st.floats(), st.integers()), min_size=1))
def test_csv_gives_text_and_numbers_back_exactly(rows):
    table = [{"text": text, "float": real, "int": whole} for text, real, whole in rows]
    header, *found = as_csv(table)
    assert header == ["text", "float", "int"]
    assert [(text, repr(float(real)), int(whole)) for text, real, whole in found] == [
        (text, repr(real), whole) for text, real, whole in rows
    ]


@given(st.lists(st.floats(), min_size=1))
def test_pandas_reads_the_same_frame_back_from_csv(numbers):
    frame = pd.DataFrame({"x": numbers, "n": range(len(numbers))})
    data = encode_table(frame).data
    back = pd.read_csv(io.BytesIO(data), converters={"x": float})
    pd.testing.assert_frame_equal(back, frame, check_exact=True, check_dtype=False)


def test_csv_follows_rfc_4180_in_line_ends_and_quotes():
    table = {"a,b": ['say "hi"', "two\r\nlines"], "β": [1.5, None]}
    assert encode_table(table).data.decode() == (
        '"a,b",β\r\n"say ""hi""",1.5\r\n"two\r\nlines",\r\n'
    )


def test_rows_may_miss_keys_and_columns_stand_in_the_order_first_seen():
    table = [{"b": 1}, {"a": 2, "b": 3}]
    assert as_csv(table) == [["b", "a"], ["1", ""], ["3", "2"]]
    assert as_json(table) == [{"b": 1, "a": None}, {"b": 3, "a": 2}]


@pytest.mark.parametrize(
    "table",
    [
        [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}],
        {"x": [1, 2], "y": ("a", "b")},
        {"x": np.array([1, 2]), "y": pd.Series(["a", "b"])},
        pd.DataFrame({"x": [1, 2], "y": ["a", "b"]}),
    ],
)
def test_rows_columns_and_frames_give_one_table(table):
    assert as_json(table) == [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}]
    assert as_csv(table) == [["x", "y"], ["1", "a"], ["2", "b"]]


def test_json_spells_out_what_it_has_no_number_for():
    assert as_json({"x": [math.nan, math.inf, -math.inf]}) == [
        {"x": "NaN"},
        {"x": "Infinity"},
        {"x": "-Infinity"},
    ]


def test_cells_become_plain_values():
    class Colour(enum.IntEnum):
        RED = 3

    cells = [np.float32(0.5), np.int64(7), np.bool_(True), Colour.RED, datetime.date(2026, 11, 20)]
    expected = [0.5, 7, True, 3, "2026-11-20"]
    assert [row["x"] for row in as_json({"x": cells})] == expected
    assert [row[0] for row in as_csv({"x": cells})[1:]] == ["0.5", "7", "True", "3", "2026-11-20"]


def test_lists_and_mappings_in_a_cell_are_json():
    table = [{"box": [1, math.nan], "meta": {"k": (1, 2)}}]
    assert as_json(table) == [{"box": [1, "NaN"], "meta": {"k": [1, 2]}}]
    assert as_csv(table)[1] == ['[1, "NaN"]', '{"k": [1, 2]}']


def test_a_frames_missing_cells_are_empty_but_nan_among_floats_is_a_value():
    frame = pd.DataFrame({
        "float": [1.0, math.nan],
        "text": ["a", None],
        "when": pd.to_datetime(["2026-11-20", None]),
        "whole": pd.array([1, None], dtype="Int64"),
    })  # fmt: skip
    assert as_json(frame)[1] == {"float": "NaN", "text": None, "when": None, "whole": None}
    assert as_csv(frame)[1:] == [["1.0", "a", "2026-11-20T00:00:00", "1"], ["nan", "", "", ""]]


@pytest.mark.parametrize(
    ("frame", "header"),
    [
        (pd.DataFrame({"x": [1, 2]}), ["x"]),
        (pd.DataFrame({"x": [1, 2]}, index=["a", "b"]), ["index", "x"]),
        (pd.DataFrame({"x": [1, 2]}, index=pd.RangeIndex(5, 7)), ["index", "x"]),
        (pd.DataFrame({"x": [1, 2], "y": [3, 4]}).set_index("x"), ["x", "y"]),
        (pd.DataFrame({"x": [1], "y": [2], "z": [3]}).set_index(["x", "y"]), ["x", "y", "z"]),
    ],
)
def test_an_index_that_says_something_becomes_a_column(frame, header):
    assert as_csv(frame)[0] == header


def test_text_that_utf_8_cannot_hold_is_escaped():
    assert as_csv({"x": ["a\udc80"]})[1] == ["a\\udc80"]


def test_a_table_without_rows_keeps_its_columns():
    assert as_csv({"x": [], "y": []}) == [["x", "y"]]
    assert as_json([]) == []


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InvalidValueError, match=r"\{'x': 1, 'y': 2\}"):
        encode_table({"x": [1], "y": [1, 2]})


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ({1: [1], "1": [2]}, "1"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "x"),
        (pd.DataFrame({"x": [1]}, index=pd.Index(["a"], name="x")), "x"),
    ],
)
def test_two_columns_of_one_name_are_refused(table, name):
    with pytest.raises(InvalidValueError, match=f"{name!r}.*Rename one"):
        encode_table(table)


@pytest.mark.parametrize("table", [None, 3, "a,b", [1, 2], [[1, 2]], pd.Series([1])])
def test_what_is_no_table_is_refused_with_what_to_pass(table):
    with pytest.raises(InvalidTypeError, match="Pass a pandas DataFrame, a list of mappings"):
        encode_table(table)


def test_a_mapping_of_single_values_is_refused_with_the_way_to_write_a_row():
    with pytest.raises(InvalidTypeError, match=r"column 'x' is a int.*pass \[row\]"):
        encode_table({"x": 1})


def test_an_array_in_a_cell_is_refused():
    with pytest.raises(InvalidTypeError, match=r"array of shape \(2,\)"):
        encode_table([{"x": np.zeros(2)}])


def test_another_kind_is_refused():
    with pytest.raises(InvalidValueError, match="found kind 'xlsx'"):
        encode_table([], kind="xlsx")


def test_tensors_of_one_value_are_cells():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    assert as_json([{"x": torch.tensor(0.5)}]) == [{"x": 0.5}]
