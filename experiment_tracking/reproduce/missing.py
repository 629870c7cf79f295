"""Data that a failed rerun looked for in vain, though the original's folder has it."""

import os
import re

from experiment_tracking.capture.code import name_inside
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.reproduce.checkout import Checkout

_LAST_BYTES = 20_000
_MOST_NAMES = 3
# In quotes anything may be a path, elsewhere what has a folder or a suffix.
_NAMED = re.compile(r"""'([^'\n]+)'|"([^"\n]+)"|([^\s'"`,:;()=]*[/.][^\s'"`,:;()=]*)""")


def missing_data(path: str, tree: Checkout) -> list[str]:
    """Find what the end of a run's console names and the project has, but not the tree.

    Parameters
    ----------
    path
        Folder of the rerun.
    tree
        Where it ran; it must still be there.

    Returns
    -------
    list of str
        At most three names relative to the project's top.
    """
    console = RunFolder(path).console
    if not os.path.isfile(console):
        return []
    with open(console, "rb") as file:
        file.seek(max(0, os.path.getsize(console) - _LAST_BYTES))
        text = file.read().decode("utf-8", "replace")
    named = ("".join(groups).rstrip(".") for groups in _NAMED.findall(text))
    found = (_name_in_project(name, tree) for name in dict.fromkeys(named))
    return list(dict.fromkeys(name for name in found if name))[:_MOST_NAMES]


def _name_in_project(name: str, tree: Checkout) -> str | None:
    """Name a path of the tree in the project, if it is there and not here."""
    here = os.path.normpath(os.path.join(tree.cwd, name))
    inside = name_inside(here, tree.folder) or name_inside(here, tree.project)
    if inside in (None, ".") or os.path.lexists(os.path.join(tree.folder, str(inside))):
        return None
    return inside if os.path.exists(os.path.join(tree.project, str(inside))) else None
