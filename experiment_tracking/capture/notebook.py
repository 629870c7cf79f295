"""Notebooks: the cells as they were executed, and notebook files without their outputs.

The executed cells are the truth: the file may be unsaved, and its cells in another order.
"""

import os
import sys
from functools import lru_cache
from typing import Any

from experiment_tracking.capture.redaction import (
    HIDDEN,
    is_secret_name,
    redact_arguments,
    redact_source,
    to_utf8,
)

# Cell magics whose body is Python; those of others may hold secrets without quotes.
_PYTHON_MAGICS = frozenset(
    "%%time %%timeit %%capture %%prun %%python %%python3 %%pypy %%debug".split()
)
_CELL = "<a cell to be kept>"
_KEPT_OF_NOTEBOOK = ("kernelspec", "language_info", "jupytext")


def executed_cells() -> list[str]:
    """Give the cells executed in this IPython session, magics as typed; elsewhere none.

    The one that is being executed is the last. ``%reset`` forgets the cells before it. May be
    called from any thread: only memory is read, not IPython's database.
    """
    history = getattr(_shell(), "history_manager", None)
    # The first is empty, so that the others stand at the numbers that `In[n]` shows.
    return list(getattr(history, "input_hist_raw", ()))[1:]


def notebook_path() -> str | None:
    """Find the file of the notebook that this kernel runs, as its front end named it.

    Jupyter Server and VS Code tell it; None under others and outside notebooks.
    """
    shell = _shell()
    if shell is None:  # A script that a notebook started inherits the variable.
        return None
    named = (shell.user_ns.get("__vsc_ipynb_file__"), os.environ.get("JPY_SESSION_NAME"))
    for path in named:
        if isinstance(path, str) and path.endswith(".ipynb"):
            return to_utf8(os.path.abspath(path))
    return None


def to_script(cells: list[str]) -> str:
    """Join cells to a script with a line ``# %% [n]`` before each, secrets hidden.

    ``ipython notebook.ipy`` runs it. A cell that cannot stand in a script (``%%bash``, a
    syntax error) is in it as text, to be run as a cell of its own.
    """
    return "\n".join(f"# %% [{n}]\n{_as_script(cell)}\n" for n, cell in enumerate(cells, 1))


def redact_cell(source: str, suffix: str = ".py") -> str:
    """Copy a code cell with ``***`` for its secrets, also those in magics and shell commands.

    Parameters
    ----------
    source
        Text of the cell as typed.
    suffix
        What files of the kernel's language end in.
    """
    magic = source.split(maxsplit=1)[0] if source.lstrip().startswith("%%") else ""
    if magic and magic not in _PYTHON_MAGICS:
        suffix = ".sh"
    lines = redact_source(source, suffix).splitlines(keepends=True)
    return "".join(_redact_command(line) if _is_command(line) else line for line in lines)


def without_outputs(data: bytes) -> tuple[bytes, bool]:
    """Copy a notebook file with its cells' sources only, secrets hidden.

    Outputs, execution counts and times, attachments, widgets and what front ends and
    papermill add (users, parameters) go; tags, the kernel's name and the language stay.

    Returns
    -------
    bytes
        A valid notebook.
    bool
        Whether a source had something to hide.

    Raises
    ------
    ValueError
        If it is no notebook of format 4.
    """
    import json

    try:
        notebook = json.loads(data)
        metadata, cells = notebook["metadata"], notebook["cells"]
        suffix = metadata.get("language_info", {}).get("file_extension", ".py")
        stripped = [_strip_cell(cell, suffix) for cell in cells]
        kept = {key: metadata[key] for key in _KEPT_OF_NOTEBOOK if key in metadata}
        numbers = {key: notebook[key] for key in ("nbformat", "nbformat_minor")}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no notebook of format 4 ({type(error).__name__}: {error})") from error
    hidden = any(_source(a) != _source(b) for a, b in zip(stripped, cells, strict=True))
    text = json.dumps(
        {"cells": stripped, "metadata": kept, **numbers}, indent=1, ensure_ascii=False
    )
    # A lone half of a character becomes \udcff, which JSON reads as that half again.
    return to_utf8(text + "\n").encode(), hidden


def _shell() -> Any:
    ipython = sys.modules.get("IPython")  # Who has not imported it does not run in it.
    get = getattr(ipython, "get_ipython", None)
    return get() if get is not None else None


@lru_cache(maxsize=1000)  # 0.7 ms a cell, and all are asked for again whenever one has come.
def _as_script(cell: str) -> str:
    cell = redact_cell(cell)
    if _stands_in_script(cell):
        return cell
    lines = "\n".join(f"    {line!r}" for line in cell.splitlines(keepends=True))
    # What failed then may fail again, but a magic that ran must run.
    check = ".raise_error()" if cell.lstrip().startswith("%%") else ""
    return f"get_ipython().run_cell(\n{lines}\n){check}"


def _stands_in_script(cell: str) -> bool:
    import ast
    import warnings

    if cell[:1].isspace() or cell.startswith("%%") or "from __future__" in cell:
        return False
    transformer = sys.modules.get("IPython.core.inputtransformer2")
    if transformer is None:
        return True
    # The shell has told them when it ran the cell. `catch_warnings` is no choice: it would swap the
    # filters of all threads, and may put back another's when it ends. This one stays, for us alone.
    if not any(getattr(module, "pattern", "") == _CELL for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_CELL)
    try:
        # A transformer of our own: the shell's is in use by another thread.
        ast.parse(transformer.TransformerManager().transform_cell(cell), _CELL)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _is_command(line: str) -> bool:
    return line.lstrip().startswith(("%", "!"))


def _redact_command(line: str) -> str:
    words = redact_arguments(line.rstrip("\r\n").split(" "))
    end = line[len(line.rstrip("\r\n")) :]
    for i in range(1, len(words)):
        named = words[0] in ("%env", "%set_env") and i == 2 and is_secret_name(words[1])
        # wandb login KEY
        logged_in = "login" in words[:i] and len(words[i]) >= 32 and words[i].isalnum()
        if named or logged_in:
            words[i] = HIDDEN
    return " ".join(words) + end


def _strip_cell(cell: dict[str, Any], suffix: str) -> dict[str, Any]:
    is_code = cell["cell_type"] == "code"
    source = _source(cell)
    source = redact_cell(source, suffix) if is_code else redact_source(source, ".md")
    tags = cell.get("metadata", {}).get("tags")
    return {
        "cell_type": cell["cell_type"],
        **({"execution_count": None} if is_code else {}),
        **({"id": cell["id"]} if "id" in cell else {}),
        "metadata": {"tags": tags} if tags else {},
        **({"outputs": []} if is_code else {}),
        "source": source.splitlines(keepends=True),
    }


def _source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])
