import json
import math

from experiment_tracking.cli.screen import Cell, Column, column_of, fit, json_out


def columns(*widths_and_ranks):
    return [Column("x" * width, [], rank=rank) for width, rank in widths_and_ranks]


def test_columns_go_by_rank_until_the_rest_has_room():
    table = [Column("aaaa", []), Column("bbbb", [], rank=2), Column("cccc", [], rank=1)]
    shown, left_out = fit(table, 12)
    assert [column.header for column in shown] == ["aaaa", "cccc"]
    assert left_out == ["bbbb"]


def test_a_table_with_room_is_left_whole():
    table = columns((60, 0), (60, 1))
    assert fit(table, 122) == (table, [])


def test_the_last_column_is_cut_rather_than_wrapped():
    shown, _ = fit([Column("run", [Cell("x" * 50)])], 20)
    assert shown[0].cells[0].text == "x" * 19 + "…"


def test_numbers_stand_at_the_right():
    assert column_of("n", [1, 2.5, None], str).right
    assert not column_of("n", ["a", 1], str).right
    assert not column_of("n", [None], str).right


def test_json_has_non_finite_numbers_as_text(capsys):
    json_out({"a": math.nan, "b": [math.inf, -math.inf], "c": (1, None)})
    assert json.loads(capsys.readouterr().out) == {
        "a": "NaN", "b": ["Infinity", "-Infinity"], "c": [1, None],
    }  # fmt: skip


def test_json_keeps_control_characters_from_the_terminal_and_reads_back(capsys):
    value = {"a\x9b": "\x1b[31m\x7f\x85\u2028\u202e\U000e0001é日"}
    json_out(value)
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert json.loads(out) == value


def test_json_shows_half_a_surrogate_as_its_escape(capsys):
    json_out(["\udc80"])
    assert json.loads(capsys.readouterr().out) == ["\\udc80"]
