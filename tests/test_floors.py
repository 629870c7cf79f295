"""Imports go down only, the front door is light, and heavy packages wait until they are needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "experiment_tracking"

USERS = ("sweeps", "pipelines", "integrations", "importers")
DIRECTLY_BELOW = {
    "errors": (),
    "notices": (),
    "folder": ("errors", "notices"),
    **dict.fromkeys(("capture", "backends", "formats", "scientific"), ("folder",)),
    "settings": (),
    "handover": ("folder",),
    "files": ("folder",),
    "logs": ("folder", "formats", "capture"),
    "endings": ("folder", "capture"),
    "capturing": ("settings", "endings", "files", "capture"),
    "mirroring": ("settings", "backends"),
    "writing": ("capturing", "mirroring", "formats", "scientific"),
    "joining": ("writing",),
    "publishing": ("writing", "logs"),
    "models": ("registry", "backends"),
    "run": ("joining", "logs", "handover", "publishing", "models"),
    "testing": ("backends",),
    "registry": ("folder", "formats", "scientific", "capture"),
    "upkeep": ("registry",),
    "tracker": ("run", "registry"),
    **dict.fromkeys((*USERS, "jobs"), ("tracker",)),
    "reproduce": ("jobs",),
    **dict.fromkeys(("serving", "dashboard"), USERS),
    # The package itself only for its version: whoever takes a name from it takes it from above.
    "cli": (*USERS, "reproduce", "upkeep", "__init__"),
    "__main__": ("cli",),
    "__init__": (),
}
"""Each room, and those whose floor is the next one down. CONTRIBUTING.md shows the house."""

CORE = {PACKAGE, "orjson"}


def below(room):
    """All rooms that ``room`` may import from."""
    seen = set(DIRECTLY_BELOW[room])
    return seen.union(*map(below, seen))


def is_for_typing(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def nodes(tree, *, inside_functions):
    """Walk a module without what only a type checker reads."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if is_for_typing(child):
            children = child.orelse
        elif function and not inside_functions:
            children = []
        else:
            children = [child]
        for node in children:
            yield from nodes(node, inside_functions=inside_functions)


def imported(source, module, *, inside_functions=True):
    """Full names that a module imports, with the last part of ``from a import b`` in doubt."""
    for node in nodes(ast.parse(source), inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def room_of(name):
    """Room of a full name; a name that is no room's was taken from the package itself."""
    parts = name.split(".")
    known = len(parts) > 1 and parts[1] in DIRECTLY_BELOW
    return parts[1] if known else "__init__"


def upward(source, module):
    """Name the imports of a module that do not go down."""
    room = room_of(module)
    for name in imported(source, module):
        if name.split(".")[0] == PACKAGE and room_of(name) not in {room, *below(room)}:
            yield f"{module} imports {name}"


def modules():
    for file in sorted((REPOSITORY / PACKAGE).rglob("*.py")):
        name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
        yield name, file.read_text(encoding="utf-8")


def test_every_module_has_a_floor():
    assert {name.split(".")[1] for name, _ in modules()} <= DIRECTLY_BELOW.keys()


def test_imports_go_down_only():
    assert [wrong for name, source in modules() for wrong in upward(source, name)] == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("folder.history", "from experiment_tracking.run import Run"),
        ("folder.history", "import experiment_tracking.tracker"),
        ("folder.history", "from experiment_tracking import registry"),
        ("folder.history", "from experiment_tracking import ExperimentTracker"),
        ("folder.history", "from ..backends import interface"),
        ("folder.history", "def f():\n    from experiment_tracking.capture import git"),
        ("folder.history", "class A:\n    async def f(self):\n        from .. import cli"),
        (
            "folder.history",
            "if x:\n    try:\n        import experiment_tracking.cli\n    finally: 0",
        ),
        ("folder.history", "if TYPE_CHECKING:\n    0\nelse:\n    import experiment_tracking.run"),
        ("capture.git", "from experiment_tracking.formats import trees"),
        ("registry.record", "from experiment_tracking.run import Run"),
        ("registry.record", "from experiment_tracking.backends import interface"),
        ("writing", "from experiment_tracking.run import Run"),
        ("models.registry", "from experiment_tracking.run import Run"),
        ("models.registry", "from experiment_tracking.cli import main"),
        ("errors", "from experiment_tracking.notices import notice"),
    ],
)
def test_an_upward_import_is_found(module, line):
    assert len(list(upward(line, f"{PACKAGE}.{module}"))) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("tracker", "from experiment_tracking import run as runs"),
        ("tracker", "def f():\n    from experiment_tracking.registry.registry import A"),
        ("folder.history", "from . import io"),
        ("folder.history", "from .values import RESERVED\nfrom experiment_tracking import errors"),
        ("folder.history", "if TYPE_CHECKING:\n    from experiment_tracking.run import Run"),
        ("cli.ls", "from experiment_tracking import __version__"),
        ("run", "import json, os.path\nfrom pathlib import Path"),
    ],
)
def test_a_downward_import_is_let_through(module, line):
    assert list(upward(line, f"{PACKAGE}.{module}")) == []


def test_packages_that_are_not_core_are_imported_inside_functions_only():
    allowed = {*sys.stdlib_module_names, *CORE}
    early = {
        f"{module} imports {name}"
        for module, source in modules()
        for name in imported(source, module, inside_functions=False)
        if name.split(".")[0] not in allowed
    }
    assert early == set()


HEAVY = {
    "numpy", "pandas", "psutil", "tensorboardX", "tensorboard", "crc32c", "safetensors",
    "rich", "matplotlib", "plotly", "PIL", "torch", "jax", "google.protobuf", "ml_dtypes",
    "subprocess", "asyncio", "socket", "ssl", "http", "http.client", "urllib.request", "email",
    "multiprocessing", "concurrent.futures", "sqlite3", "unittest", "argparse", "csv", "zipfile",
    "importlib.metadata", "xml", "ctypes", "pdb", "doctest", "logging", "tempfile", "shutil",
}  # fmt: skip
"""What importing the two front doors must not bring along. (orjson itself imports dataclasses,
inspect, json, platform and uuid.)"""

HEAVIER_THAN_NOTHING = HEAVY | {
    "orjson", "json", "dataclasses", "datetime", "hashlib", "threading", "pathlib", "random",
    "signal", "re", "enum", "typing_extensions", "contextlib", "decimal",
    "experiment_tracking.errors", "experiment_tracking.folder", "experiment_tracking.run",
}  # fmt: skip
"""What ``import experiment_tracking`` alone must not bring along."""


def loaded_by(statement):
    """Modules that a statement adds to those of a bare interpreter."""
    code = f"import sys\nbefore = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - before)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_front_doors_bring_nothing_heavy_along():
    line = f"from {PACKAGE} import ExperimentTracker, ExperimentRegistry"
    assert loaded_by(line) & HEAVY == set()


def test_importing_the_package_brings_next_to_nothing_along():
    loaded = loaded_by(f"import {PACKAGE}")
    assert loaded & HEAVIER_THAN_NOTHING == set()
    assert PACKAGE in loaded


def test_a_starting_run_waits_for_nothing_that_only_mirrors_need(tmp_path):
    loaded = loaded_by(
        f"from {PACKAGE} import ExperimentTracker\n"
        f"ExperimentTracker('p', root={str(tmp_path)!r}, auto_log=False).log_metric('loss', 1.0)"
    )
    assert "experiment_tracking.backends.events" in loaded
    late = ("_hashlib", "subprocess", f"{PACKAGE}.folder.cursor", f"{PACKAGE}.mirroring")
    assert [name for name in late if name in loaded] == []
