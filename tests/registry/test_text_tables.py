import csv
import io
import math

import pandas as pd
import pytest

from experiment_tracking.registry.text_tables import (
    Latex,
    latex_plus_minus,
    plus_minus,
    to_csv,
    to_latex,
    to_markdown,
)


def rows_of(markdown):
    return [line.removeprefix("| ").removesuffix(" |") for line in markdown.splitlines()]


def cells_of(latex):
    lines = latex.splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    return [line.removesuffix(r" \\").split(" & ") for line in body]


def test_a_pipe_a_newline_and_markup_cannot_break_a_markdown_table():
    hostile = ["a|b", "two\nlines", "<script>", "*bold* `code` _em_ [link]", "\x1b[31mred", "$x$"]
    lines = rows_of(to_markdown({"name": hostile}))
    assert len(lines) == 2 + len(hostile)
    assert [line.rstrip() for line in lines[2:]] == [
        r"a\|b",
        "two lines",
        "&lt;script&gt;",
        r"\*bold\* \`code\` \_em\_ \[link\]",
        r"\[31mred",
        r"\$x\$",
    ]


def test_a_name_with_underscores_stays_readable_in_markdown():
    assert rows_of(to_markdown({"train_loss_2": [1]}))[0] == "train_loss_2"


def test_numbers_stand_at_the_right_and_missing_ones_are_empty():
    text = to_markdown({"lr": [0.1, None, math.nan], "tag": ["a", True, {"k": 1}]})
    assert text == (
        "|  lr | tag      |\n"
        "| --: | -------- |\n"
        "| 0.1 | a        |\n"
        "|     | True     |\n"
        '| nan | {"k": 1} |\n'
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a\\b", r"a\textbackslash{}b"),
        ("x_1^2", r"x\_1\textasciicircum{}2"),
        ("100 % & $5 #1", r"100 \% \& \$5 \#1"),
        ("{~}", r"\{\textasciitilde{}\}"),
        ("a<b|c>d", r"a\textless{}b\textbar{}c\textgreater{}d"),
        ("two\nlines", "two lines"),
    ],
)
def test_every_special_character_of_latex_is_escaped(text, written):
    assert to_latex({"x": [text]}).splitlines()[4] == written + r" \\"


def test_a_list_behind_the_end_of_a_row_is_not_taken_for_its_spacing():
    assert [cells[0][0] for cells in cells_of(to_latex({"x": [[1, 2], "*a"]}))] == ["{", "{"]


def test_numbers_in_latex_are_mathematics():
    (row,) = cells_of(to_latex({"a": [-0.5], "b": [1e-7], "c": [math.nan], "d": [-math.inf]}))
    assert row == ["$-0.5$", r"$1 \times 10^{-7}$", r"$\mathrm{nan}$", r"$-\infty$"]


def test_what_is_latex_already_is_taken_as_it_is():
    text = to_latex({"loss": [Latex(r"$\mathbf{1}$")]})
    assert cells_of(text) == [[r"$\mathbf{1}$"]]
    assert text.startswith("\\begin{tabular}{r}\n\\toprule\n")


def test_a_spreadsheet_meets_no_formula_and_numbers_stay_numbers():
    hostile = ['=HYPERLINK("http://x")', "+1+1", "-1+1", "@SUM(A1)", "\t=1", "＝1", "fine=1"]
    table = {"=name": hostile, "loss": [-0.5, -1, 1e300, None, math.nan, -math.inf, 0.1 + 0.2]}
    head, *body = csv.reader(io.StringIO(to_csv(table)))
    assert head == ["'=name", "loss"]
    assert [row[0] for row in body] == [*("'" + text for text in hostile[:-1]), "fine=1"]
    numbers = [row[1] for row in body]
    assert numbers == ["-0.5", "-1", "1e+300", "", "nan", "-inf", "0.30000000000000004"]


def test_csv_keeps_commas_quotes_and_lines_of_text_in_their_cell():
    values = ['a,"b"', "two\nlines", "three\r\nmore\rlines", ["a", 1], {"k": None}]
    body = list(csv.reader(io.StringIO(to_csv({"x": values, "y": [1] * 5}))))[1:]
    assert [row[0] for row in body] == [
        'a,"b"',
        "two\nlines",
        "three\nmore\nlines",
        '["a", 1]',
        '{"k": null}',
    ]


def test_pandas_reads_back_what_was_written():
    table = {"name": ["a", "b"], "loss": [0.1, math.nan], "count": [1, 2]}
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(to_csv(table))), pd.DataFrame(table))


def test_a_table_without_columns_is_no_text():
    assert (to_markdown({}), to_latex({}), to_csv({})) == ("", "", "")


def test_a_table_without_rows_has_its_head():
    assert to_csv({"a": [], "b": []}) == "a,b\n"
    assert len(to_markdown({"a": []}).splitlines()) == 2
    assert r"\midrule" in to_latex({"a": []})


@pytest.mark.parametrize(
    ("mean", "spread", "text"),
    [
        (0.123456, 0.00412, "0.1235 ± 0.0041"),
        (0.5, 0.25, "0.50 ± 0.25"),
        (98.7654, 1.23, "98.8 ± 1.2"),
        (12345.6, 1234.5, "12300 ± 1200"),
        (0.5, 0.00996, "0.500 ± 0.010"),
        (-3.0, 12.0, "-3 ± 12"),
        (1.2347e-7, 3.1e-9, "(1.235 ± 0.031)e-07"),
        (4.5e9, 1e8, "(4.50 ± 0.10)e+09"),
        (0.0, 0.0, "0 ± 0"),
        (0.25, 0.0, "0.25 ± 0"),
        (0.25, math.nan, "0.25"),
        (math.nan, math.nan, "nan"),
        (math.inf, 1.0, "inf"),
        (5e-324, 5e-324, "(4.9 ± 4.9)e-324"),
        (1.7e308, 1.7e308, "(1.7 ± 1.7)e+308"),
    ],
)
def test_a_mean_ends_at_the_second_digit_of_its_spread(mean, spread, text):
    assert plus_minus(mean, spread) == text


def test_a_spread_below_the_digits_of_a_float_adds_none():
    assert len(plus_minus(0.1, 1e-25)) < 45


def test_how_many_runs_counted_stands_behind():
    assert plus_minus(0.5, 0.25, "2 of 3") == "0.50 ± 0.25 (2 of 3)"
    assert latex_plus_minus(0.5, 0.25, "2 of 3") == r"$0.50 \pm 0.25$ (2 of 3)"


def test_the_best_mean_is_bold_in_latex():
    assert latex_plus_minus(-1.5, 0.25, is_bold=True) == r"$\mathbf{-1.50} \pm 0.25$"
    assert latex_plus_minus(1e-7, 1e-8) == r"$(1.00 \pm 0.10) \times 10^{-7}$"
    assert latex_plus_minus(math.nan, math.nan) == r"$\mathrm{nan}$"


def test_text_that_is_a_negative_number_is_no_formula():
    assert to_csv({"lr": ["-0.1", "+1e-3", "-1+1"]}) == "lr\n-0.1\n+1e-3\n'-1+1\n"
