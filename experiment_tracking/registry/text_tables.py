"""Tables as text: Markdown, LaTeX and CSV, with everything in them escaped."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from experiment_tracking.registry.filters.values import to_number

Columns = Mapping[str, Sequence[Any]]
"""Columns of equal length by their headings; None is an empty cell."""

# What begins a formula in Excel, LibreOffice and Google Sheets: OWASP, "CSV Injection".
_FORMULA = tuple("=+-@\t\n＝＋－＠")

# An underscore inside a word means nothing in Markdown, and train_loss stays readable.
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "±": r"$\pm$",
    # Behind the end of a row these would be taken for its spacing and its starred form.
    "[": "{[}", "*": "{*}",
}  # fmt: skip


def spelled_tags(columns: Columns) -> dict[str, list[Any]]:
    """Return columns with ``yes`` for each tag without a value: its cell would say nothing.

    >>> spelled_tags({"name": ["", "b"], "tags.good": ["", None]})
    {'name': ['', 'b'], 'tags.good': ['yes', None]}
    """
    return {
        name: ["yes" if value == "" and name.startswith("tags.") else value for value in values]
        for name, values in columns.items()
    }


class Latex(str):
    """Text that is LaTeX already; ``to_latex`` takes it as it is."""

    __slots__ = ()


def to_markdown(columns: Columns) -> str:
    r"""Return a table in GitHub's Markdown, columns of numbers at the right.

    >>> print(to_markdown({"name": ["a|b", "c"], "loss": [0.25, None]}))
    | name | loss |
    | ---- | ---: |
    | a\|b | 0.25 |
    | c    |      |
    <BLANKLINE>
    """
    if not columns:
        return ""
    cells = _written(columns, _markdown_cell)
    widths = [max(3, *map(len, column)) for column in cells]
    right = [_is_numeric(values) for values in columns.values()]
    rules = [
        "-" * (width - 1) + (":" if numeric else "-")
        for width, numeric in zip(widths, right, strict=True)
    ]
    head, *body = zip(*cells, strict=True)
    rows = [_padded(row, widths, right) for row in (head, *body)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], rules, *rows[1:]))


def to_latex(columns: Columns) -> str:
    r"""Return a ``tabular`` with the rules of the package booktabs.

    Text other than ASCII stays as it is; pdfLaTeX knows common letters, XeLaTeX and LuaLaTeX
    what their font has.

    >>> print(to_latex({"run_name": ["a & b"], "loss": [-0.25]}))
    \begin{tabular}{lr}
    \toprule
    run\_name & loss \\
    \midrule
    a \& b & $-0.25$ \\
    \bottomrule
    \end{tabular}
    <BLANKLINE>
    """
    if not columns:
        return ""
    head, *body = zip(*_written(columns, _latex_cell), strict=True)
    places = "".join("r" if _is_numeric(values) else "l" for values in columns.values())
    lines = [rf"\begin{{tabular}}{{{places}}}", r"\toprule", _latex_row(head), r"\midrule"]
    lines += [*map(_latex_row, body), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def to_csv(columns: Columns) -> str:
    r"""Return comma-separated values: numbers whole, lists and mappings as JSON.

    Text that a spreadsheet would take for a formula gets a leading apostrophe, numbers do not
    (OWASP, "CSV Injection").

    >>> to_csv({"name": ["=1+1", "a,b"], "loss": [-0.1, None]})
    'name,loss\n\'=1+1,-0.1\n"a,b",\n'
    """
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(zip(*_written(columns, _csv_cell), strict=True))
    return file.getvalue()


def plus_minus(mean: float, spread: float, counted: str = "") -> str:
    """Write a mean and its spread, this to two significant digits, that to the same place.

    Without a finite spread the mean alone, to five digits. ``counted`` follows in brackets.

    >>> plus_minus(0.12345, 0.00412), plus_minus(1234567.0, 1234.0), plus_minus(0.5, math.nan)
    ('0.1235 ± 0.0041', '(1.2346 ± 0.0012)e+06', '0.5')
    """
    main, other, power = _rounded(mean, spread)
    text = f"{main} ± {other}" if other else main
    text = f"({text})e{power:+03d}" if other and power else text
    return f"{text} ({counted})" if counted else text


def latex_plus_minus(
    mean: float, spread: float, counted: str = "", *, is_bold: bool = False
) -> Latex:
    r"""Write what :func:`plus_minus` writes as LaTeX, the mean bold if asked.

    >>> latex_plus_minus(0.12345, 0.00412, is_bold=True)
    '$\\mathbf{0.1235} \\pm 0.0041$'
    """
    main, other, power = _rounded(mean, spread)
    main = _latex_digits(main)
    text = rf"\mathbf{{{main}}}" if is_bold else main
    text = rf"{text} \pm {other}" if other else text
    text = rf"({text}) \times 10^{{{power}}}" if other and power else text
    return Latex(f"${text}$" + (f" ({_latex_text(counted)})" if counted else ""))


# ---------------------------------------------------------------------- digits


def _rounded(mean: float, spread: float) -> tuple[str, str, int]:
    """Return mean and spread as digits, and the power of ten to multiply both with."""
    if not (math.isfinite(mean) and math.isfinite(spread)):
        return f"{mean:.5g}", "", 0
    if spread == 0:
        return f"{mean:.5g}", "0", 0
    size = max(_exponent(mean), _exponent(spread))
    power = 0 if -4 <= size < 6 else size
    # As decimals: 10.0 ** 320 is no float.
    mean, spread = (float(Decimal(value).scaleb(-power)) for value in (mean, spread))
    # A float has no more than about 15 digits, however small its spread is.
    places = min(1 - _exponent(spread), 14 - _exponent(mean))
    if places < 0:
        mean, spread, places = round(mean, places), round(spread, places), 0
    return f"{mean:.{places}f}", f"{spread:.{places}f}", power


def _exponent(value: float) -> int:
    """Power of ten of the first digit, once rounded to two."""
    return int(f"{value:.1e}".partition("e")[2])


def _latex_digits(text: str) -> str:
    """Write what ``str`` makes of a number for LaTeX's mathematics."""
    if text.lstrip("-") in ("nan", "inf"):
        return text.replace("inf", r"\infty").replace("nan", r"\mathrm{nan}")
    digits, e, power = text.partition("e")
    return rf"{digits} \times 10^{{{int(power)}}}" if e else digits


# ---------------------------------------------------------------------- cells


def _written(columns: Columns, write: Callable[[Any], str]) -> list[list[str]]:
    return [[write(name), *map(write, values)] for name, values in columns.items()]


def _is_numeric(values: Sequence[Any]) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(_is_number(v) or isinstance(v, Latex) for v in present)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _plain(value: Any) -> str:
    """Write a value on one line, without what a terminal or a page would obey."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    text = _json(value) if isinstance(value, (list, dict)) else str(value)
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _markdown_cell(value: Any) -> str:
    text = _plain(value)
    if _is_number(value):
        return text
    text = _MARKDOWN.sub(lambda found: "\\" + found[0], text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _padded(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    return [
        cell.rjust(width) if numeric else cell.ljust(width)
        for cell, width, numeric in zip(row, widths, right, strict=True)
    ]


def _latex_cell(value: Any) -> str:
    if isinstance(value, Latex):
        return str(value)
    if _is_number(value):
        return f"${_latex_digits(_plain(value))}$"
    return _latex_text(_plain(value))


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if _is_number(value):
        return str(value)
    text = _json(value) if isinstance(value, (list, dict)) else str(value)
    # A lone carriage return ends a row for readers, but the csv module writes it unquoted.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Params from other trackers are text, "-0.1" too, which is no formula.
    return "'" + text if text.startswith(_FORMULA) and to_number(text) is None else text
