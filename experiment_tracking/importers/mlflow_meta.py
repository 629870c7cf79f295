"""Read MLflow's ``meta.yaml``: names and single values, as PyYAML writes them.

Strict: of YAML it knows what MLflow makes of it, and refuses the rest.
"""

import re

from experiment_tracking.errors import DamagedError

Meta = dict[str, "str | Meta | None"]

_ENTRY = re.compile(r"([\w.$/ -]+|'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"):(?: +(.*)|$)")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "_": "\xa0", "N": "\x85", "e": "\x1b",
            "a": "\a", "b": "\b", "v": "\v", "f": "\f", "L": "\u2028", "P": "\u2029"}  # fmt: skip


def parse_meta(text: str) -> Meta:
    """Return names and texts; a mapping below a name is one level deeper.

    Raises
    ------
    DamagedError
        For what is no such YAML, with the line.
    """
    meta: Meta = {}
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        entry = _ENTRY.fullmatch(lines[at])
        if entry is None:
            if not lines[at].strip():
                at += 1
                continue
            raise DamagedError(f"line {at + 1} is no 'name: value': {lines[at]!r:.100}")
        end = at + 1
        # What belongs to the value is indented, or empty between such lines.
        while end < len(lines) and lines[end][:1] in ("", " ", "-"):
            end += 1
        meta[str(_scalar(entry[1]))] = _value(entry[2] or "", lines[at + 1 : end])
        at = end
    return meta


def _value(first: str, more: list[str]) -> "str | Meta | None":
    if first in ("{}", "[]"):
        return {}
    if first == "" and more and more[0].startswith("  "):
        return parse_meta("\n".join(line[2:] for line in more))
    if first == "":
        return None if not more else {}  # a list: nothing that we need is one
    if first[0] in "|>&*!{[":
        raise DamagedError(f"{first!r:.60} is YAML of a kind that MLflow does not write here")
    return _scalar(_folded(first, more))


def _folded(first: str, more: list[str]) -> str:
    """Join the lines of one value: a line's end is a space, an empty line a new line."""
    text, empty = first, 0
    for line in (line.strip(" ") for line in more):
        if not line:
            empty += 1
        elif text.endswith("\\") and first[0] == '"':  # an escaped line's end is nothing
            text, empty = text[:-1] + line, 0
        else:
            text, empty = text + ("\n" * empty or " ") + line, 0
    return text


def _scalar(text: str) -> str | None:
    if text[:1] == "'":
        return text[1:-1].replace("''", "'")
    if text[:1] == '"':
        return _ESCAPE.sub(_unescaped, text[1:-1])
    return None if text in ("null", "~", "") else text


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPED.get(code, code)
