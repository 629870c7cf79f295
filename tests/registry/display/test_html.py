import math

from experiment_tracking.registry.display.html import badge, folded, more, table_html, text


def test_text_of_others_is_shown_and_never_obeyed(page, hostile):
    found = page(table_html({hostile: [hostile]}) + badge(hostile) + folded(text(hostile), "x"))
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in hostile)
    assert found.cells == [shown, shown]
    assert found.text.count(shown) == 4


def test_long_tables_and_cells_are_cut(page):
    found = page(table_html({"x": ["y" * 1000] * 60}))
    assert len(found.cells) == 51
    assert "… 10 more" in found.text
    assert found.cells[1] == "y" * 199 + "…"
    assert found.titles[0] == "y" * 1000


def test_nothing_is_an_empty_cell_and_numbers_are_short(page):
    cells = page(table_html({"x": [None, 1 / 3, True, math.nan, 10**20]})).cells
    assert cells == ["x", "", "0.33333", "True", "nan", "100000000000000000000"]


def test_numbers_stand_at_the_right_under_their_head():
    assert table_html({"n": [1, None]}).count("text-align: right") == 2
    assert table_html({"n": [1, "a"]}).count("text-align: right") == 1


def test_every_style_stands_in_its_element_and_text_has_the_pages_colour():
    html = table_html({"x": [1]})
    assert "<style" not in html
    assert "class=" not in html
    assert " color:" not in html


def test_what_is_left_out_is_counted_and_nothing_is_said_of_nothing(page):
    assert page(more(9950, "run", "runs[50:]")).text == "… 9,950 more runs: runs[50:]"
    assert page(more(1, "file")).text == "… 1 more file"
    assert more(0, "run") == ""
    assert folded("x", "") == ""
