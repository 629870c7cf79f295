"""What the pages show is so: the Python runs, the links lead somewhere, the commands exist."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiment_tracking import ExperimentRegistry
from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.cli import _parser

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/*.md"),
        *REPOSITORY.glob("examples/*.md"),
        *REPOSITORY.glob("benchmarks/*.md"),
        *REPOSITORY.glob("experiments/README.md"),
    ]
)
EXECUTED = [p for p in PAGES if p.parent.name != "benchmarks" and p.name != "CHANGELOG.md"]
NOT_RUN = "<!-- not run -->"
NEEDS = re.compile(r"<!-- needs (\w+) -->")
"""Above a block that is run where that package is installed."""


def name(page):
    return page.relative_to(REPOSITORY).as_posix()


def fences(text):
    """Yield each fenced block: language, first line's number, lines, whether it is not run."""
    language, first, taken, above = None, 0, [], ""
    for number, line in enumerate(text.splitlines()):
        mark = re.match(r"\s*```(\w*)\s*$", line)
        if language is None and mark:
            language, first, taken, skipped = mark[1], number + 1, [], is_skipped(above)
        elif language is not None and mark:
            yield language, first, taken, skipped
            language = None
        elif language is not None:
            taken.append(line)
        above = line.strip() or above


def is_skipped(above):
    needed = NEEDS.fullmatch(above)
    return above == NOT_RUN or bool(needed and not is_installed(needed[1]))


def script_of(text):
    """The page with everything blank that is not its Python: line numbers stay the page's."""
    lines = [""] * len(text.splitlines())
    for language, first, taken, skipped in fences(text):
        if language == "python" and not skipped:
            lines[first : first + len(taken)] = taken
    return "\n".join(lines) + "\n"


def prose(text):
    """The page without fenced blocks and without code in the line."""
    inside = re.compile(r"^\s*```.*?^\s*```\s*$", re.S | re.M)
    return re.sub(r"`[^`\n]*`", "", inside.sub("", text))


def commands_in(text):
    """Yield the words behind ``experiments`` of every command in a shell block."""
    for language, _, lines, _ in fences(text):
        for line in lines if language in ("console", "bash", "sh", "shell") else []:
            line = line.removeprefix("$ ").strip()
            words = re.match(r"(?:experiments|python -m experiment_tracking)(?:\s+(.*))?$", line)
            if words:
                yield list(itertools.takewhile(is_word, tokens(words[1] or "")))


def tokens(line):
    """Words and operators of a shell's line, as far as its comment."""
    lexer = shlex.shlex(line.replace("$?", "0"), posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split = True
    return lexer


def is_word(token):
    return not set(token) <= set("|&;>")


def parses(words):
    try:
        _parser().parse_args(words)
    except SystemExit as ending:  # --help ends with 0
        return not ending.code
    return True


def anchors(text):
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", EXECUTED, ids=name)
def test_the_python_of_a_page_runs(page, tmp_path):
    script = script_of(page.read_text(encoding="utf-8"))
    if not script.strip():
        return
    (tmp_path / "page.py").write_text(script, encoding="utf-8")
    environment = os.environ | {
        "EXPERIMENT_TRACKING_ROOT": str(tmp_path / "experiments"),
        "PYTHONPATH": str(REPOSITORY),
        "MPLBACKEND": "Agg",
    }
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, f"{name(page)}:\n{done.stderr}"


def test_the_shell_scripts_of_the_page_on_reproducing_write_a_run(tmp_path):
    page = REPOSITORY / "docs" / "REPRODUCING.md"
    scripts = ["\n".join(lines) for language, _, lines, _ in fences(page.read_text("utf-8"))
               if language == "sh"]  # fmt: skip
    ours = f'experiments() {{ "{sys.executable}" -m experiment_tracking "$@"; }}\n'
    environment = os.environ | {
        "EXPERIMENT_TRACKING_ROOT": str(tmp_path / "experiments"),
        "PYTHONPATH": str(REPOSITORY),
    }
    command = ["sh", "-e", "-c", ours + "\n".join(scripts)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=200)
    record = ExperimentRegistry(tmp_path / "experiments").get("digits/sweep")
    assert (record.status, record.params, record.value("loss")) == ("finished", {"lr": 0.1}, 0.31)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_of_a_page_lead_somewhere(page):
    dead = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8"))):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_commands_of_a_page_exist(page):
    unknown = [w for w in commands_in(page.read_text(encoding="utf-8")) if not parses(w)]
    assert unknown == []


SAMPLE = f"""
# A page: with *things*

[gone](nowhere.md) `[code](skipped.md)`

```python
x = 1
```

{NOT_RUN}
```python
raise ValueError
```

<!-- needs no_such_package -->
```python
raise ValueError
```

<!-- needs pytest -->
```python
y = 2
```

```console
$ experiments ls --limit 3 | head   # a comment
Not a command.
$ python -m experiment_tracking show latest > file
```

```python
assert (x, y) == (1, 2), "the blocks of a page go together"
```
"""


def test_blocks_are_taken_in_order_without_those_marked():
    script = script_of(SAMPLE)
    assert script.splitlines()[6] == "x = 1"
    assert "ValueError" not in script
    exec(compile(script, "page", "exec"), {})


def test_links_and_commands_are_found():
    assert "nowhere.md" in prose(SAMPLE)
    assert "skipped.md" not in prose(SAMPLE)
    assert list(commands_in(SAMPLE)) == [["ls", "--limit", "3"], ["show", "latest"]]
    assert anchors(SAMPLE) == {"a-page-with-things"}
