"""What a command line says: which script, which interpreter, which params."""

import itertools
import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiment_tracking.capture.code import EntryScript, find_project_root, name_inside
from experiment_tracking.capture.redaction import redact_arguments, to_utf8

_PYTHON = re.compile(r"(python|pypy)[\d.]*(\.exe)?")
_PYTHON_OPTIONS_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")
SCRIPT_SUFFIXES = (".py", ".sh", ".bash", ".ipy", ".jl", ".r", ".R", ".pl", ".lua")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf)", re.IGNORECASE)
_SHELL = re.compile(r"(ba|da|k|z)?sh")
_PATH = re.compile(r".*[/\\].*|.*\.[A-Za-z]\w*", re.DOTALL)
_WORDS = {"true": True, "false": False, "none": None, "null": None}


class Command(NamedTuple):
    """A command line, taken apart.

    Attributes
    ----------
    words
        As given.
    script
        The file that it executes, absolute; None where no word names one.
    module
        The module in ``python -m module``.
    arguments
        What the script itself gets to see.
    """

    words: tuple[str, ...]
    script: str | None
    module: str | None
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """A short name: of the script, the module, or the program."""
        module = (self.module or "").rpartition(".")[2]
        named = self.script or module or self._missing_script() or self.words[0]
        return os.path.splitext(os.path.basename(named))[0]

    def _missing_script(self) -> str | None:
        """Return what an interpreter was given for a script, though there is no such file."""
        named = self.arguments[0] if self.arguments else ""
        behind_options = is_python(self.words[0]) and "-c" not in self.words
        return named if behind_options and named.endswith(SCRIPT_SUFFIXES) else None

    def entry_script(self) -> EntryScript | None:
        """Return the script as a run keeps it."""
        if self.script is None:
            return None
        folder, name = os.path.split(self.script)
        root = find_project_root(folder)
        inside = (root and name_inside(self.script, root)) or to_utf8(name)
        return EntryScript(self.script, self.module, inside)

    def interpreter(self) -> str | None:
        """Return the Python that executes the script, absolute; None where that is not known.

        For ``torchrun`` and the like it is the one that stands beside the program.
        """
        program = shutil.which(self.words[0])
        if program is None:
            return None
        if is_python(program):
            return program
        beside = os.path.join(os.path.dirname(program), "python")
        is_python_script = (self.script or "").endswith(".py")
        return beside if is_python_script and os.access(beside, os.X_OK) else None


def is_python(program: str) -> bool:
    """Tell whether a program is a Python interpreter, by its name."""
    return program == sys.executable or bool(_PYTHON.fullmatch(os.path.basename(program)))


def reads_its_script(words: Sequence[str]) -> bool:
    """Tell whether a command line has an interpreter take its script from standard input."""
    if is_python(words[0]):
        start = _behind_options(words)
        return words[start - 1] not in ("-c", "-m") and words[start : start + 1] in ([], ["-"])
    options = list(itertools.takewhile(lambda word: word.startswith("-"), words[1:]))
    has_code = any("c" in option and not option.startswith("--") for option in options)
    is_bare = len(options) == len(words) - 1 or "-s" in options
    return bool(_SHELL.fullmatch(os.path.basename(words[0]))) and is_bare and not has_code


def take_apart(words: Sequence[str], cwd: str) -> Command:
    """Find script and arguments in a command line that is to run in the folder ``cwd``."""
    words = tuple(words)
    start = _behind_options(words) if is_python(words[0]) else 0
    before = words[start - 1] if start > 1 else ""
    if before == "-c":
        return Command(words, None, None, words[start + 1 :])
    if before == "-m" and start < len(words):
        return Command(words, _file_of(words[start], cwd), words[start], words[start + 1 :])
    for place in range(start, len(words)):
        path = os.path.abspath(os.path.join(cwd, words[place]))
        if words[place].endswith(SCRIPT_SUFFIXES) and os.path.isfile(path):
            return Command(words, path, None, words[place + 1 :])
    return Command(words, None, None, words[max(start, 1) :])


def _behind_options(words: Sequence[str]) -> int:
    """Return the place of the script; behind ``-m`` and ``-c``, that of the module or code."""
    place = 1
    while place < len(words) and words[place].startswith("-") and len(words[place]) > 1:
        if words[place] in ("-m", "-c"):
            return place + 1
        place += 2 if words[place] in _PYTHON_OPTIONS_WITH_VALUE else 1
    return place


def _file_of(module: str, cwd: str) -> str | None:
    stem = os.path.join(cwd, *module.split("."))
    for path in (stem + ".py", os.path.join(stem, "__main__.py")):
        if os.path.isfile(path):
            return path
    return None


def params_of(arguments: Sequence[str], cwd: str = ".") -> dict[str, Any]:
    """Read params off a command line, without credentials.

    ``--lr 0.1``, ``--lr=0.1``, ``lr=0.1`` and ``+lr=0.1`` are numbers, true, false, none or
    text; an option without a value is True; one with several, or given twice, a list. A command
    line does not say which options take values: the first word behind one counts as such, and
    further ones where all are numbers, or all plain words. All others, paths for one (also what
    is one in the folder ``cwd``), stand in the list ``arguments``.

    >>> params_of(["--lr", "1e-3", "--layers", "64", "32", "--amp"])
    {'lr': 0.001, 'layers': [64, 32], 'amp': True}
    >>> params_of(["train", "model.depth=4", "--seed", "3", "data/train.csv"])
    {'model.depth': 4, 'seed': 3, 'arguments': ['train', 'data/train.csv']}
    """
    given: dict[str, list[Any]] = {}
    positional: list[Any] = []
    option: str | None = None  # of which more values may follow, of this kind
    kind: str | None = None
    for word in redact_arguments(arguments):
        name, equals, value = word.partition("=")
        if _is_option(word):
            option, kind = (None if equals else _key(name)), None
            given.setdefault(_key(name), []).extend([to_value(value)] if equals else [])
        elif option is not None and kind in (None, _kind(word, cwd)):
            given[option].append(to_value(word))
            kind = _kind(word, cwd)
            option = option if kind in ("number", "word") else None
        elif equals and (key := name.lstrip("+~")):
            option = None
            given.setdefault(key, []).append(to_value(value))
        else:
            option = None
            positional.append(to_value(word))
    params = {name: _one_or_all(values) for name, values in given.items()}
    return {**params, "arguments": positional} if positional else params


def _is_option(word: str) -> bool:
    return word.startswith("-") and bool(word.strip("-")) and not _NUMBER.fullmatch(word)


def _kind(word: str, cwd: str) -> str:
    if _NUMBER.fullmatch(word):
        return "number"
    if "=" in word or word.lower() in _WORDS:
        return "other"
    is_path = _PATH.fullmatch(word) or os.path.exists(os.path.join(cwd, word))
    return "path" if is_path else "word"


def _key(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def _one_or_all(values: list[Any]) -> Any:
    return values if len(values) > 1 else values[0] if values else True


def to_value(text: str) -> Any:
    """Read one word of a command line: a number, true, false, none, or text."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if not _NUMBER.fullmatch(text):
        return text
    try:
        return int(text)
    except ValueError:
        return float(text)
