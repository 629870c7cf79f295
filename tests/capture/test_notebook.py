"""Cells as a real kernel executed them, and the files that are made of them."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import experiment_tracking.errors
from experiment_tracking.capture.notebook import (
    executed_cells,
    notebook_path,
    redact_cell,
    to_script,
    without_outputs,
)

nbclient = pytest.importorskip("nbclient", reason="pip install 'experiment_tracking[test]'")
nbformat = pytest.importorskip("nbformat", reason="pip install 'experiment_tracking[test]'")

PACKAGE_PARENT = str(Path(experiment_tracking.errors.__file__).parent.parent)
SECRET = "ghp_" + "a1B2" * 9

CELLS = [
    "x = 1\nprint('out' + 'put')",
    "%time y = x + 1",
    "!echo shell > made.txt",
    "%%bash\necho 'cell magic' >> made.txt",
    "x = = 2",
    "1 / 0",
    "    z = 3",
    "from __future__ import annotations",
    "%%time\nw = 4",
    f"key = '{SECRET}'",
]
ASK = """
import json, threading
from experiment_tracking.capture.notebook import executed_cells, notebook_path, to_script
told = {}
def ask():
    told.update(cells=executed_cells(), path=notebook_path(), script=to_script(executed_cells()))
thread = threading.Thread(target=ask)
thread.start(); thread.join()
with open("told.json", "w") as file:
    json.dump(told, file)
""".strip()


def environment(folder):
    """Variables of a process that imports this package and leaves the home folder alone."""
    paths = [PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(paths), "IPYTHONDIR": str(folder / "ipython")}
    return os.environ | own | {"JPY_SESSION_NAME": str(folder / "lab.ipynb")}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The folder of a kernel that has executed the cells, and what it then saw."""
    folder = tmp_path_factory.mktemp("session")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in [*CELLS, ASK]])
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", allow_errors=True)
    client.execute(cwd=str(folder), env=environment(folder))
    return folder, json.loads((folder / "told.json").read_text()), notebook


def test_the_cells_of_a_session_are_given_as_typed_from_another_thread(session):
    _, told, _ = session
    assert told["cells"] == [*CELLS, ASK]


def test_the_notebook_is_found_by_what_jupyter_tells(session):
    folder, told, _ = session
    assert told["path"] == str(folder / "lab.ipynb")


def test_a_script_has_the_cells_by_number_and_neither_outputs_nor_secrets(session):
    _, told, _ = session
    script = told["script"]
    assert "# %% [1]\nx = 1\nprint('out' + 'put')\n\n# %% [2]\n%time y = x + 1\n" in script
    assert script.count("# %% [") == len(CELLS) + 1
    assert "output" not in script
    assert SECRET not in script
    assert "key = '***'" in script


def test_ipython_runs_the_script_although_cells_were_broken(session, tmp_path):
    _, told, _ = session
    cells = [c for c in told["cells"] if c not in (ASK, "1 / 0")]
    cells.append("open('end.txt', 'w').write(str((x, y, z, w)))")
    # Made in a kernel's manner, with IPython loaded.
    make = "import IPython, json, sys; from experiment_tracking.capture.notebook import to_script\n"
    make += "print(to_script(json.load(sys.stdin)))"
    script = python("-c", make, folder=tmp_path, stdin=json.dumps(cells))
    (tmp_path / "notebook.ipy").write_text(script)
    python("-m", "IPython", "notebook.ipy", folder=tmp_path)
    assert (tmp_path / "end.txt").read_text() == "(1, 2, 3, 4)"
    assert (tmp_path / "made.txt").read_text() == "shell\ncell magic\n"


def python(*arguments, folder, stdin=""):
    """Run Python in a folder and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(folder),
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_warnings_of_a_cell_are_not_told_again_and_others_still_are(tmp_path):
    make = """
import IPython, warnings
from experiment_tracking.capture.notebook import to_script
warnings.simplefilter("error")
for cell in (r"x = '\\d'", r"y = '\\s'"):
    with warnings.catch_warnings():  # as another thread may, which forgets our filter with its own
        print(to_script([cell]))
try:
    eval(r"'\\d'")
except SyntaxError:
    print("told")
"""
    told = python("-c", make, folder=tmp_path)
    assert told == "# %% [1]\nx = '\\d'\n\n# %% [1]\ny = '\\s'\n\ntold\n"


def test_outside_ipython_there_are_no_cells_and_no_notebook(tmp_path):
    ask = "from experiment_tracking.capture.notebook import executed_cells, notebook_path\n"
    ask += "import sys; print(executed_cells(), notebook_path(), 'IPython' in sys.modules)"
    # The variable is inherited by every program that a notebook starts.
    assert python("-c", ask, folder=tmp_path) == "[] None False\n"
    assert python("-c", "import IPython\n" + ask, folder=tmp_path) == "[] None True\n"


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"__vsc_ipynb_file__": "/lab/a.ipynb"}, "/lab/a.ipynb"),
        ({"__vsc_ipynb_file__": "/lab/Interactive-1.interactive"}, None),
        ({}, None),
    ],
)
def test_the_notebook_is_found_by_what_vs_code_tells(told, found, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    # VS Code itself cannot be had here: a shell in which it has set its variable.
    shell = types.SimpleNamespace(user_ns=told)
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert notebook_path() == found
    assert executed_cells() == []


def test_a_cell_with_a_magic_of_its_own_is_written_as_text_line_by_line():
    assert to_script(["%%bash\necho 'a'\n"]) == (
        "# %% [1]\nget_ipython().run_cell(\n    '%%bash\\n'\n    \"echo 'a'\\n\"\n).raise_error()\n"
    )


def test_a_cell_without_secrets_is_unchanged():
    cells = ["", "x = 1\n", "%matplotlib inline\r\n!ls -l  a\n\n", "%%bash\necho $HOME\n", "\n\n"]
    assert [redact_cell(cell) for cell in cells] == cells


@pytest.mark.parametrize(
    ("cell", "redacted"),
    [
        ("%env WANDB_API_KEY=abc123", "%env WANDB_API_KEY=***"),
        ("%env WANDB_API_KEY abc123", "%env WANDB_API_KEY ***"),
        ("x = 1\n!tool --token abc123 -v\ny = 2", "x = 1\n!tool --token *** -v\ny = 2"),
        ("!wandb login " + "0a1b" * 10, "!wandb login ***"),
        ("!docker login registry.example.com", "!docker login registry.example.com"),
        (f"%%bash\ncurl {SECRET}", "%%bash\ncurl ***"),
        ("%%time\nlogin(password='hunter2')", "%%time\nlogin(password='***')"),
    ],
)
def test_secrets_in_magics_and_shell_commands_are_hidden(cell, redacted):
    assert redact_cell(cell) == redacted


def stripped(notebook):
    data, hidden = without_outputs(json.dumps(notebook).encode())
    return nbformat.reads(data.decode(), as_version=4), hidden


def test_an_executed_notebook_keeps_its_sources_and_loses_its_outputs(session):
    _, _, executed = session
    assert "output" in json.dumps(executed.cells[0].outputs)  # It had some.
    kept, hidden = stripped(executed)
    nbformat.validate(kept)
    assert hidden
    assert [cell.source for cell in kept.cells[:-2]] == CELLS[:-1]
    assert kept.cells[-2].source == "key = '***'"
    assert [cell.id for cell in kept.cells] == [cell.id for cell in executed.cells]
    assert not any(cell.outputs or cell.execution_count for cell in kept.cells)
    assert kept.metadata.language_info == executed.metadata.language_info


def test_what_front_ends_add_to_a_notebook_is_not_kept():
    code = nbformat.v4.new_code_cell("x = 1\n", metadata={"tags": ["parameters"]})
    code.metadata |= {"executionInfo": {"user": "canary"}, "papermill": {"parameters": "canary"}}
    text = nbformat.v4.new_markdown_cell("# Title", attachments={"a.png": {"image/png": "canary"}})
    notebook = nbformat.v4.new_notebook(cells=[code, text], metadata={"widgets": {"a": "canary"}})
    kept, hidden = stripped(notebook)
    nbformat.validate(kept)
    assert not hidden
    assert "canary" not in json.dumps(kept)
    assert kept.cells[0].metadata.tags == ["parameters"]
    assert [cell.source for cell in kept.cells] == ["x = 1\n", "# Title"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "{}", '{"cells": 3, "metadata": {}}', "[" * 100_000, "\xff",
        '{"cells": [3], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        '{"metadata": {}, "worksheets": [], "nbformat": 3, "nbformat_minor": 0}',
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_refused(text):
    with pytest.raises(ValueError):
        without_outputs(text.encode("latin-1"))
