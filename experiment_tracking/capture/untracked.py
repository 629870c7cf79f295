"""Which untracked files are code, and which are data: told by their names and numbers."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from experiment_tracking.capture.code import LeftOut, is_code, is_program

MAX_PROGRAMS = 20_000
"""Most names of programs that are remembered."""
MAX_OTHERS = 100_000
"""Most names of configuration and texts that are remembered."""
MANY = 50
"""More untracked files that are no programs than this, in one folder without any, are data."""
MANY_BELOW = 200
"""The same for a folder together with the smaller ones in it."""

# What tools write anew with every run or build. Kept, it would grow with the number of runs.
OUTPUT_FOLDERS = (
    ".aim", ".cache", ".eggs", ".guild", ".hypothesis", ".ipynb_checkpoints", ".mypy_cache",
    ".neptune", ".nox", ".pytest_cache", ".ruff_cache", ".snakemake", ".tox", ".venv",
    "__pycache__", "build", "catboost_info", "checkpoints", "dist", "htmlcov", "lightning_logs",
    "mlartifacts", "mlruns", "multirun", "node_modules", "outputs", "ray_results", "runs",
    "tb_logs", "tensorboard", "wandb",
)  # fmt: skip
_DATA_FOLDERS = frozenset((
    "annotation", "annotations", "corpora", "corpus", "data", "dataset", "datasets", "documents",
    "images", "label", "labels", "logs", "predictions", "raw", "results", "samples",
    "transcripts",
))  # fmt: skip
_TEXTS = (".txt", ".json", ".xml", ".md", ".rst")


class UntrackedNames:
    """Names of untracked files, sorted into code and data when all have come.

    Code is, first to last:

    1. programs, but for those in a folder of :data:`OUTPUT_FOLDERS` none of whose files git
       tracks beside them;
    2. configuration and texts (``conf/new.yaml``), but not

       - in folders of :data:`OUTPUT_FOLDERS`,
       - ``.txt .json .xml .md .rst`` in a folder that is called ``data``, ``labels`` or the like,
       - in a folder that holds more than :data:`MANY` of them, or :data:`MANY_BELOW` together
         with the folders below.

       A program in a folder, untracked as well, tells that the last two do not hold for it.

    Everything else (images, weights, tables) is passed over, and uses up no bound.

    Parameters
    ----------
    is_foreign
        Tells of a folder (``a/b``, or an empty text for the top) that nothing in it is looked at.
    """

    def __init__(self, is_foreign: Callable[[str], bool]) -> None:
        self._is_foreign = is_foreign
        self._folders: dict[str, tuple[bool, str | None]] = {}
        # Without values, for the order and because git may name a file twice.
        self._programs: dict[str, None] = {}
        self._others: dict[str, None] = {}
        self._outputs: dict[str, None] = {}
        self.is_cut = False
        """Whether there were more names than are remembered."""

    def add(self, name: str, *, beside_tracked: bool) -> None:
        """Take the name of a file, relative to the top, with ``/``."""
        if not is_code(name):
            return
        folder, program = os.path.dirname(name), is_program(name)
        if folder not in self._folders:  # Asked once, for there may be 50,000 files in one.
            self._folders[folder] = self._is_foreign(folder), output_folder(name)
        is_foreign, output = self._folders[folder]
        if is_foreign:
            return
        if output and not (program and beside_tracked):
            self.add_output(output)
            return
        names, most = (self._programs, MAX_PROGRAMS) if program else (self._others, MAX_OTHERS)
        if len(names) < most:
            names[name] = None
        else:
            self.is_cut = True

    def add_output(self, folder: str) -> None:
        """Take a folder that tools write into, to be told once."""
        self._outputs[folder] = None

    def choose(self) -> tuple[list[str], list[LeftOut]]:
        """Give the code, what matters most first, and what was left out, folder by folder.

        Programs stand before configuration, and what lies near the top before what lies deep,
        so that no bound ever prefers data to code.
        """
        programs = list(self._programs)
        barriers = {os.path.dirname(name) for name in programs}
        others, data = _part_data(list(self._others), barriers)
        left_out = [
            LeftOut(folder, "a folder that tools write into") for folder in list(self._outputs)
        ]
        left_out += [
            LeftOut(f"{folder}/", f"files that look like data: {count:,}")
            for folder, count in data.items()
        ]
        return sorted(programs, key=_depth) + sorted(others, key=_depth), left_out


def output_folder(name: str) -> str | None:
    """Give the topmost folder in a path that tools write into, as in ``a/wandb/``, or None."""
    parts = name.split("/")[:-1]
    for depth, part in enumerate(parts, 1):
        if part in OUTPUT_FOLDERS:
            return "/".join(parts[:depth]) + "/"
    return None


def _depth(name: str) -> tuple[int, str]:
    return name.count("/"), name


def _part_data(names: list[str], barriers: set[str]) -> tuple[list[str], Mapping[str, int]]:
    """Part names that are no programs into code, and the number of data by folder."""
    data: Counter[str] = Counter()
    texts = [name for name in names if name.lower().endswith(_TEXTS)]
    code = _take(texts, _nearest(texts, barriers, _is_called_data), data)
    known = set(texts)
    code += [name for name in names if name not in known]
    many = _folders_of_many(code, barriers)
    return _take(code, _nearest(code, barriers, many.__contains__), data), data


def _take(names: Iterable[str], folders: Mapping[str, str | None], data: Counter[str]) -> list[str]:
    """Count the names whose folder lies in one of data; return the others."""
    others = []
    for name in names:
        if folder := folders[os.path.dirname(name)]:
            data[folder] += 1
        else:
            others.append(name)
    return others


def _nearest(
    names: Iterable[str], barriers: set[str], wanted: Callable[[str], bool]
) -> dict[str, str | None]:
    """Find, for each folder of the names, the first wanted one from it upward.

    The search ends at folders that hold programs, and below the top.
    """
    found: dict[str, str | None] = {}
    for start in {os.path.dirname(name) for name in names}:
        folder = start
        while folder and folder not in barriers and not wanted(folder):
            folder = os.path.dirname(folder)
        found[start] = None if folder in barriers else folder or None
    return found


def _is_called_data(folder: str) -> bool:
    return os.path.basename(folder).lower() in _DATA_FOLDERS


def _folders_of_many(names: list[str], barriers: set[str]) -> set[str]:
    """Find the folders that hold too many of the names for configuration."""
    here = Counter(map(os.path.dirname, names))
    folders: set[str] = set()
    for folder in here:
        while folder and folder not in folders:
            folders.add(folder)
            folder = os.path.dirname(folder)
    many, below = set(), Counter(here)
    for folder in sorted(folders - barriers, key=lambda folder: -folder.count("/")):
        if here[folder] > MANY or below[folder] > MANY_BELOW:
            many.add(folder)
        else:  # A small one counts for the folder above it.
            below[os.path.dirname(folder)] += below[folder]
    return many
