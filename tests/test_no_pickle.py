"""No pickle is opened, no text is run as code: by a lint of every module, and by files that try."""

import ast
import json
import os
import pickle
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from experiment_tracking.errors import ExperimentTrackingError
from experiment_tracking.folder.check import check
from experiment_tracking.registry.registry import ExperimentRegistry

PACKAGE = Path(__file__).parents[1] / "experiment_tracking"

MODULES = {"pickle", "_pickle", "cPickle", "pickle5", "dill", "joblib", "cloudpickle", "shelve",
           "marshal", "jsonpickle"}  # fmt: skip
RUN_TEXT = {"eval", "exec", "compile", "__import__"}
METHODS = {"read_pickle", "to_pickle", "unsafe_load", "unsafe_load_all", "full_load",
           "full_load_all", "enable_unsafe_deserialization"}  # fmt: skip
ONLY_WITH = {
    # What is called, by the last parts of its name: what must be said in the call.
    ("yaml", "load"): None,
    ("yaml", "load_all"): None,
    ("torch", "load"): ("weights_only", True),
    ("torch", "jit", "load"): None,
    ("torch", "export", "load"): None,
    ("saving", "load_model"): ("safe_mode", True),
    ("models", "load_model"): ("safe_mode", True),
}
IMPORTS = {"import_module", "__import__", "find_spec", "needed"}

ALLOWED = {
    ("formats/models/pickled.py", "cloudpickle"): "the one module that opens a pickle, when asked",
    ("importers/lightning.py", "yaml.load"): "with a Loader derived from SafeLoader, tags removed",
}
"""What may be named where, and why."""


def findings(source):
    """Name everything in a module that could open a pickle or run a text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from _modules(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from _modules([node.module])
            yield from (alias.name for alias in node.names if alias.name in METHODS)
        elif isinstance(node, ast.Attribute) and node.attr in METHODS:
            yield node.attr
        elif isinstance(node, ast.keyword):
            yield from _keyword(node)
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _modules(names):
    yield from (name for name in names if name.split(".")[0] in MODULES)


def _keyword(node):
    harmless = isinstance(node.value, ast.Constant) and node.value.value is False
    if node.arg == "allow_pickle" and not harmless:
        yield "allow_pickle"


def _call(node):
    name = tuple(ast.unparse(node.func).split("."))
    if len(name) == 1 and name[0] in RUN_TEXT:
        yield name[0]
    if name[-1] in IMPORTS:
        texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
        yield from _modules(text for text in texts if isinstance(text, str))
    for called, needs in ONLY_WITH.items():
        if name[-len(called) :] == called and not _says(node, needs):
            yield ".".join(called)


def _says(node, needs):
    if needs is None:
        return False
    said = {each.arg: getattr(each.value, "value", None) for each in node.keywords}
    return said.get(needs[0]) is needs[1]


def all_findings():
    for file in sorted(PACKAGE.rglob("*.py")):
        for found in findings(file.read_text(encoding="utf-8")):
            yield file.relative_to(PACKAGE).as_posix(), found


def test_nothing_opens_a_pickle_or_runs_a_text_but_what_is_listed():
    assert set(all_findings()) == ALLOWED.keys()


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import pickle as p",
        "import os, dill.session",
        "def f():\n    from joblib import load",
        "from cloudpickle import loads",
        "import shelve",
        "import_module('pickle')",
        "importlib.import_module('joblib')",
        "__import__('marshal')",
        "needed('cloudpickle', 'x')",
        "eval('1')",
        "exec(text)",
        "compile(text, 'x', 'exec')",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "from yaml import full_load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "self.torch.load(path)",
        "torch.jit.load(path)",
        "np.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=wanted)",
        "pd.read_pickle(path)",
        "from pandas import read_pickle",
        "frame.to_pickle(path)",
        "keras.saving.load_model(path)",
        "keras.saving.load_model(path, safe_mode=False)",
        "keras.config.enable_unsafe_deserialization()",
    ],
)
def test_the_lint_finds(line):
    assert list(findings(line))


@pytest.mark.parametrize(
    "line",
    [
        "yaml.safe_load(text)",
        "json.load(file)",
        "re.compile('a')",
        "model.eval()",
        "ast.literal_eval(text)",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "record.load_model('best')",
        "keras.saving.load_model(path, safe_mode=True)",
        "'a pickle is not opened'",
        "from .pickled import PickledFormat",
    ],
)
def test_the_lint_lets_through(line):
    assert list(findings(line)) == []


# ------------------------------------------------------------------------------- the canary


class Harm:
    """Unpickling it makes a folder."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"  # full of harm when the test is over, and not checked


@pytest.fixture
def whole_run(make):
    """A run with every kind of file that a reader may open."""
    example = {"x": np.ones(3)}
    with make("p").start_run("a", {"lr": 0.1}, {"kind": "bait"}) as run:
        for step in range(3):
            run.log_metrics({"loss": 1 / (step + 1)}, step=step)
        run.log_model({"w": np.arange(6.0)}, "net", optimizer=example)
        run.log_artifact(__file__, "script.py")
        run.log_dict({"a": 1}, "kept.json")
        run.log_text("hello", "kept.txt")
    return run


def read_in_every_way(root, key):
    """Do what people do with a run, and take every refusal."""
    registry = ExperimentRegistry(root)
    record = None

    def attempt(look):
        try:
            return look()
        except (ExperimentTrackingError, OSError):
            return None

    attempt(lambda: registry.list_experiments())
    attempt(lambda: registry.compare_experiments([key, "p/b"]))
    record = attempt(lambda: registry.get(key))
    if record is None:
        return
    for look in (
        lambda: record.environment, lambda: record.params, lambda: record.history(),
        lambda: record.artifacts, lambda: record.metrics, lambda: record.load_model("net"),
        lambda: record.load_model("net", {"w": np.zeros(6)}),
        lambda: record.load_model("net", verify=False),
        lambda: record.load_model("net", allow_unsafe=True),
        lambda: record.saved_model("net").load_optimizer(),
        lambda: record.saved_model("net").load_program(),
        lambda: record.saved_model("net").load_example(),
        lambda: record.saved_model("net").verify(),
        lambda: record.inputs, lambda: registry.diff(key, "p/b"), lambda: check(root),
    ):  # fmt: skip
        attempt(look)


def test_a_pickle_in_the_place_of_any_file_of_a_run_is_never_opened(
    whole_run, make, root, tmp_path, canary
):
    make("p").start_run("b").end_run()
    harm = pickle.dumps(Harm(canary))
    clean = shutil.copytree(whole_run.path, tmp_path / "clean")
    files = sorted(path.relative_to(clean) for path in clean.rglob("*") if path.is_file())
    names = {path.name for path in files}
    assert {"summary.json", "params.json", "artifacts.json", "metrics_history.json", "model.json",
            "heartbeat.json"} <= names  # fmt: skip
    assert any(name.startswith("weights-") for name in names)
    assert any(name.startswith("optimizer-") for name in names)
    for file in files:
        _put(clean, whole_run.path, file, harm)
        read_in_every_way(root, "p/a")
        assert not canary.exists(), file
    pickle.loads(harm)
    assert canary.is_dir()  # it would have been seen


def test_a_pickle_that_the_document_vouches_for_is_never_opened(whole_run, root, canary):
    harm = pickle.dumps(Harm(canary))
    folder = whole_run.path / "models" / "net"
    document = json.loads((folder / "model.json").read_text())
    known = {"size_bytes": len(harm), "sha256": sha256(harm).hexdigest()}
    for role in ("weights", "optimizer", "program", "example"):
        file = document["files"].setdefault(role, dict(document["files"]["weights"]))
        file |= known | {"file": f"{role}-000001.pkl", "format": "pickle"}
        (folder / file["file"]).write_bytes(harm)
    for framework in ("arrays", "pickle", "cloudpickle ", None):
        (folder / "model.json").write_text(json.dumps(document | {"framework": framework}))
        read_in_every_way(root, "p/a")
        assert not canary.exists(), framework


def test_the_command_line_opens_no_pickle(whole_run, terminal, root, canary):
    harm = pickle.dumps(Harm(canary))
    for file in ("params.json", "artifacts.json", "models/net/model.json"):
        (whole_run.path / file).write_bytes(harm)
    for words in (["ls"], ["show", "p/a"], ["check", str(root)]):
        _, out, err = terminal.experiments(*words)
        assert out or err
    assert not canary.exists()


def _put(clean, path, file, data):
    """Make a run whole again, but for one file."""
    shutil.rmtree(path)
    shutil.copytree(clean, path)
    (path / file).write_bytes(data)
