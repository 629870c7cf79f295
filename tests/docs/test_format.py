"""docs/FORMAT.md says what the code does: every table and every example in it, both ways."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from experiment_tracking import ExperimentTracker, ModelRegistry, handover
from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.errors import InvalidNameError
from experiment_tracking.folder import layout
from experiment_tracking.folder.digest import GOALS
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import status_of
from experiment_tracking.folder.values import from_stored
from experiment_tracking.formats.models.catalog import _FORMATS
from experiment_tracking.models.state import _FOLDS
from experiment_tracking.registry.edit import Edit
from experiment_tracking.registry.record import RunRecord

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "FORMAT.md").read_text(encoding="utf-8")

CRASHES = """
import os, signal
from experiment_tracking import ExperimentTracker

tracker = ExperimentTracker("p", "crashed", tags={"sweep": "a"}, use_tensorboard=False)
tracker.log_params({"lr": 0.1, "deep": {"sizes": [1, 2]}, "limit": float("inf")})
tracker.define_metric("score_a", "minimize")
tracker.define_metric("val/loss", None)
for step in range(20):
    tracker.log_metrics({"loss": 1 / (step + 1), "time": step, "score_a": step}, step=step)
tracker.log_metrics({"loss": float("-inf"), "all_nan": float("nan")}, step=20)
os.kill(os.getpid(), signal.SIGKILL)
"""

LOSES_ROWS = """
import resource
from experiment_tracking import ExperimentTracker

tracker = ExperimentTracker("p", "lost", use_tensorboard=False, auto_log=False)
tracker.log_metrics({"loss": 1.0})
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
for step in range(1000):
    tracker.log_metrics({"loss": 1.0})
tracker.log_text("x" * 20_000, "big")
tracker.finish()
"""


CAPTURES = """
import time
import numpy as np
import pandas as pd
from experiment_tracking import ExperimentTracker

tracker = ExperimentTracker("p", "captured", use_tensorboard=False, system_metrics_interval_s=1)
tracker.seed_everything(3)
tracker.log_input("train.py", "script")
tracker.log_input(".", "folder")
tracker.log_input("https://me:secret@example.org/data.csv", "page")
tracker.log_input({"x": np.zeros((2, 3)), "y": np.zeros(2)}, "arrays")
tracker.log_input(np.zeros((2, 3)), "array")
tracker.log_input(pd.DataFrame({"a": [1.5]}), "table")
for step in range(3):
    tracker.log_metrics({"loss": step}, step=step)
    time.sleep(0.01)
while not (tracker.root / "p" / "captured" / "system_metrics.json").exists():
    time.sleep(0.05)
print("captured")
"""


MIRRORED = """
import os, sys
sys.path.insert(0, "site")
from experiment_tracking import ExperimentTracker
from experiment_tracking.backends import mirror
from experiment_tracking.backends.catalog import Target
from experiment_tracking.folder.layout import RunFolder

mirror._PAUSES_S = (0, 0)
with ExperimentTracker("p", "mirrored", use_tensorboard=False, tags=["demo"]) as tracker:
    tracker.log_params({"lr": 0.1})
    tracker.log_metrics({"loss": 1.0})
    tracker.log_metrics({"poison": 1.0})
    tracker.log_text("hello", "note")

def copy(name, **options):
    target = Target("service", {"folder": name, **options}, name)
    mirror.Mirror(RunFolder("experiments/p/mirrored"), target).run(follow=False)

for name in ("all", "away", "killed"):
    os.mkdir(name)
open("away/away", "w").close()
copy("all")
copy("away")
os.mkdir("experiments/p/mirrored/backends/all")
open("experiments/p/mirrored/backends/all/its.own", "w").close()
copy("killed", dies_in_call=5)
"""

MODELS = """
from importlib.util import find_spec
import numpy as np
from experiment_tracking import ExperimentTracker

with ExperimentTracker("p", "models", use_tensorboard=False) as tracker:
    tracker.log_metrics({"loss": 1.0})
    column = [{"name": "x", "dtype": "float32", "shape": [-1, 3]}]
    for epoch in range(2):
        tracker.log_model(
            {"w": np.ones(2), "odd": [2**70, 1j]}, "net/best", {"epoch": epoch},
            aliases=["champion"], signature={"inputs": column, "outputs": column},
        )
    x, y = np.random.default_rng(0).random((20, 3), np.float32), np.arange(20) % 2
    if find_spec("torch"):
        import torch

        net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        adam = torch.optim.Adam(net.parameters())
        tracker.log_model(net, "net", optimizer=adam, input_example=x)
    if find_spec("skops"):
        from sklearn.ensemble import RandomForestClassifier

        tracker.log_model(RandomForestClassifier(3).fit(x, y), "forest")
    if find_spec("xgboost"):
        import xgboost

        tracker.log_model(xgboost.XGBClassifier(n_estimators=2).fit(x, y), "boosted")
"""

OF_PACKAGE = {
    "torch": {"inference_time_ms", "inference_device", "files.*.batch", "files.*.layouts",
              "files.*.layouts.*"},
    "skops": {"types", "types[]"},
    "xgboost": {"estimator", "settings", "settings.*"},
}  # fmt: skip
"""Lines of the table of ``model.json`` that only models of a package have."""


class Field(NamedTuple):
    types: list[str]
    required: bool


def section(title):
    """Text between a heading and the next one."""
    after = re.split(rf"^#+ {re.escape(title)}$", PAGE, maxsplit=1, flags=re.M)[1]
    return re.split(r"^#+ ", after, maxsplit=1, flags=re.M)[0]


def block(title, language, number=0):
    return re.findall(rf"```{language}\n(.*?)```", section(title), re.S)[number]


def cells(title):
    """Cells of the tables in a section, without heads."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def fields(title):
    rows = [row for row in cells(title) if len(row) == 6 and row[0].startswith("`")]
    return {row[0].strip("`"): Field(row[1].split(" or "), row[3] == "yes") for row in rows}


TITLES = [
    "metrics_history.json", "summary.json", "params.json", "artifacts.json", "environment.json",
    "inputs.json", "system_metrics.json", "handover.json", "heartbeat.json", "amendments/",
    "models/*/model.json", "backends/*.json", "events/", "version.json", "policy.json",
]  # fmt: skip


def is_of_type(value, word):
    kinds = {
        "text": str, "int": int, "number": (int, float), "bool": bool, "object": dict,
        "list": list, "any": object, "null": type(None),
    }  # fmt: skip
    if word == "time":
        return isinstance(value, str) and datetime.fromisoformat(value).utcoffset() is not None
    if word == "value":
        return value in ("NaN", "Infinity", "-Infinity") or is_of_type(value, "number")
    return isinstance(value, kinds[word]) and (word in ("bool", "any") or type(value) is not bool)


def with_implied(table):
    """The table with the objects whose keys alone it names: ``metrics.*``, ``attempts[]``."""
    implied = {}
    for path in table:
        parts = path.split(".")
        for count in range(1, len(parts)):
            implied.setdefault(".".join(parts[:count]), Field(["object"], False))
    return implied | table


def compare(table, value, path="", seen=None):
    """Yield where ``value`` and the table differ; gather the keys of the table that were met."""
    seen = set() if seen is None else seen
    field = table.get(path, Field(["object"], True))
    seen.add(path)
    if not any(is_of_type(value, word) for word in field.types):
        yield f"{path}: {value!r:.80} is not {' or '.join(field.types)}"
    if "any" in field.types:
        return
    if isinstance(value, list):
        for item in value:
            yield from compare(table, item, path + "[]", seen)
    elif isinstance(value, dict):
        yield from compare_keys(table, value, path + "." if path else "", seen)


def compare_keys(table, value, inner, seen):
    required = {p for p in table if p.startswith(inner) and table[p].required}
    for missing in required - {inner + key for key in value}:
        if "." not in missing[len(inner) :]:
            yield f"{missing} is required and not there"
    for key, item in value.items():
        place = inner + key if inner + key in table else inner + "*"
        if place in table:
            yield from compare(table, item, place, seen)
        else:
            yield f"{inner}{key} is not in the table"


TABLES = {title: with_implied(fields(title)) for title in TITLES}


class Failing:
    def start_run(self, run_name, config):
        pass

    def log_metrics(self, metrics, step):
        raise ValueError("the server is away")

    def log_model(self, model, path):
        pass


def script(folder, text, *, fails=False):
    file = folder / "train.py"
    file.write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "train.py"]
    done = subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return folder / "experiments"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    root = script(tmp_path_factory.mktemp("example"), block("A run", "python"))
    return root / "digits" / "baseline"


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    return script(tmp_path_factory.mktemp("crashed"), CRASHES, fails=True) / "p" / "crashed"


@pytest.fixture(scope="module")
def runs(example, crashed, captured, offered, mirrored, kept, tmp_path_factory):
    """Folders of real runs with everything that a run can have."""
    resumed = tmp_path_factory.mktemp("resumed") / "experiments"
    shutil.copytree(crashed.parents[1], resumed)
    resume_and_fail(resumed)
    join(resumed / "p" / "crashed")
    correct(resumed / "p" / "crashed")
    lost = script(tmp_path_factory.mktemp("lost"), LOSES_ROWS)
    others = [captured, offered, mirrored, kept]
    return [example, crashed, resumed / "p" / "crashed", lost / "p" / "lost", *others]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run with models of the frameworks that are installed."""
    return script(tmp_path_factory.mktemp("kept"), MODELS) / "p" / "models"


@pytest.fixture(scope="module")
def registered(example, tmp_path_factory):
    """Folder of a registered model to which everything has been done."""
    root = tmp_path_factory.mktemp("registered") / "experiments"
    shutil.copytree(example.parents[1], root)
    registry = ModelRegistry(root)
    run, name = root / "digits" / "baseline", "digits-net"
    log_all_of_it(run)
    for word in ("good", "better"):
        registry.register(run, "model", name, aliases=word, description=word, tags=[word])
    registry.set_policy(name, "Production", "val/acc >= 0.5", approvers=["ann", "bob"])
    for number in (2, 3):
        registry.approve(name, number, "Production", by="ann", reason="looked at it")
        registry.transition(name, number, "Production", by="bob", reason="better")
    registry.rollback(name)
    registry.set_alias(name, "champion", 2)
    registry.delete_alias(name, "champion")
    registry.describe(name, "Digits, 8 by 8.")
    registry.set_tags(name, {"task": "digits"})
    registry.remove_tags(name, "task")
    for do in (registry.delete, registry.restore, registry.delete, registry.purge):
        do(name, 1)
    return root / "_models" / name


def log_all_of_it(run):
    tracker = ExperimentTracker("digits", "baseline", root=run.parents[1], resume="must")
    with tracker:
        tracker.log_input(np.zeros(3), "zeros")
        tracker.log_model({"w": np.ones(3)}, metadata={"again": True})


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """A run with three mirrors: of a service with all, of one that is away, a killed process's."""
    folder = tmp_path_factory.mktemp("mirrored")
    metadata = folder / "site" / "services-1.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(REPOSITORY / "tests" / "backends" / "file_services.py", folder / "site")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: services\nVersion: 1\n")
    entry_point = "[experiment_tracking.backends]\nservice = file_services:Service\n"
    (metadata / "entry_points.txt").write_text(entry_point)
    return script(folder, MIRRORED, fails=True) / "p" / "mirrored"


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """A run launched from a repository with changes, secrets and a remote."""
    folder = tmp_path_factory.mktemp("captured")
    (folder / "train.py").write_text(CAPTURES, encoding="utf-8")
    (folder / "settings.py").write_text("LR = 1\n", encoding="utf-8")
    (folder / ".env").write_text("TOKEN=x\n", encoding="utf-8")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (
        ["init", "--quiet"], ["add", "train.py", "settings.py"], ["commit", "--quiet", "-m", "a"],
        ["remote", "add", "origin", "https://me:secret@example.org/repository.git"],
    ):  # fmt: skip
        subprocess.run([*git, *words], cwd=folder, check=True)
    (folder / "settings.py").write_text("LR = 1\nAPI_KEY = 'hunter2'\n", encoding="utf-8")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EXPERIMENT_TRACKING_")}
    seen = {"PYTHONPATH": str(REPOSITORY), "HF_TOKEN": "hf_x", "SLURM_JOB_ID": "7"}
    words = ["run", "--project", "p", "--name", "captured", "--collect", "*.csv"]
    command = [sys.executable, "train.py", "--param", "lr=1"]
    subprocess.run(
        [sys.executable, "-m", "experiment_tracking", *words, "--param", "a=1", "--", *command],
        cwd=folder, env={**kept, **seen}, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "experiments" / "p" / "captured"


@pytest.fixture(scope="module")
def offered(captured, tmp_path_factory):
    """The same while its launcher waits, as a rerun."""
    run = tmp_path_factory.mktemp("offered") / "experiments" / "p" / "captured"
    shutil.copytree(captured, run)
    handover.offer(RunFolder(run), 2, {"lr": 0.1})
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"rerun_of": summary["id"]}))
    return run


def resume_and_fail(root):
    tracker = ExperimentTracker("p", "crashed", root=root, resume="must", backend=Failing())
    with pytest.raises(KeyError), tracker:
        run = tracker.start_run("crashed", parent="0123456789abcdef")
        run.log_metrics({"loss": 3.0}, step=10)
        run.log_metrics({"loss": float("nan")}, step=11)
        run.log_param("lr", 0.2)
        run.log_dict({"a": 1}, "settings", step=4)
        run.log_artifact(Path(__file__), "source", "this test")
        run.log_model({"w": [1.5, 2**70, 1j, ("a", None)]}, "net/best", {"epoch": 3}, step=4)
        raise KeyError("boom")


def join(path):
    joined = ExperimentTracker("p", root=path.parents[1], rank=1).join(path)
    joined.log_metrics({"loss": 0.5}, step=1)
    joined.end_run()


def correct(path):
    edit = Edit(RunRecord(path))
    edit.set_tags("new")
    edit.remove_tags("sweep")
    edit.set_param("deep.sizes", [3])
    edit.log_metric("late", float("nan"))


def documents(run):
    """Each JSON file of a run with the title of its table."""
    for file in sorted(run.rglob("*.json")):
        name = file.relative_to(run).as_posix()
        if name.startswith("amendments/"):
            yield "amendments/", file
        elif file.name == "model.json":
            yield "models/*/model.json", file
        elif name.startswith("backends/"):
            yield "backends/*.json", file
        elif "/" not in name and not name.startswith(("metrics_history", "system_metrics")):
            yield name, file


def documents_of_model(registered):
    """Each file of a registered model but the weights, with the title of its table."""
    titles = {"model.json": "models/*/model.json", "version.json": "version.json"}
    for file in sorted(registered.rglob("*.json")):
        yield "events/" if file.parent.name == "events" else titles.get(file.name, file.name), file


def objects(run):
    of_model = run.parent.name == "_models"
    for title, file in documents_of_model(run) if of_model else documents(run):
        yield title, json.loads(file.read_text(encoding="utf-8"))
    if of_model:
        return
    for file in run.glob("metrics_history*.json"):
        for row in HistoryReader(str(file)).rows():
            yield "metrics_history.json", row
    for file in run.glob("backends/*.claim-*"):
        if (claim := json.loads(file.read_text())) != {}:  # that is let go of
            yield "heartbeat.json", claim
    for row in HistoryReader(str(run / "system_metrics.json")).rows():
        yield "system_metrics.json", row


def test_every_key_on_disk_is_in_the_tables_with_its_type(runs, registered):
    problems = [
        f"{run.name} {title}: {problem}"
        for run in [*runs, registered]
        for title, value in objects(run)
        for problem in compare(TABLES[title], value)
    ]
    assert problems == []


def test_every_line_of_the_tables_is_met_on_disk(runs, registered):
    seen = {title: set() for title in TABLES}
    for run in [*runs, registered]:
        for title, value in objects(run):
            list(compare(TABLES[title], value, seen=seen[title]))
    unseen = {title: TABLES[title].keys() - seen[title] for title in TABLES}
    # What takes a machine with GPUs or conda, a repository with submodules, a damaged disk …
    unseen["environment.json"] -= {
        key for key in unseen["environment.json"] if key.startswith(("gpus.", "conda."))
    } | {"notes[]", "git.submodules.*"}
    # … or files and data sets that tests/formats/test_inputs.py has.
    unseen["inputs.json"] -= {
        f"inputs[].{key}" for key in ("skipped", "note", "class", "length", "fingerprint")
    }
    unseen["system_metrics.json"] -= {"attempt"}
    for package, keys in OF_PACKAGE.items():
        unseen["models/*/model.json"] -= set() if is_installed(package) else keys
    assert {title: keys for title, keys in unseen.items() if keys} == {}


def test_a_claim_is_empty_once_it_is_let_go_of_and_the_killed_ones_stays(mirrored):
    claims = {
        file.name: json.loads(file.read_text()) for file in mirrored.glob("backends/*.claim-*")
    }
    assert claims["all.claim-000001"] == claims["away.claim-000001"] == {}
    state = json.loads((mirrored / "backends" / "killed.json").read_text())
    assert claims["killed.claim-000001"].items() - state["claim"].items() == {
        ("time", claims["killed.claim-000001"]["time"])
    }


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"at": "2026-11-20T15:30:40.200Z"}, "by is required and not there"),
        ({"at": "yesterday"}, None),
        ({"surprise": 1}, "surprise is not in the table"),
        ({"name": 3}, "name: 3 is not text"),
    ],
)
def test_the_comparison_itself_finds_what_differs(value, complaint):
    found = compare(TABLES["amendments/"], value)
    if complaint is None:
        with pytest.raises(ValueError, match="isoformat"):
            list(found)
    else:
        assert complaint in list(found)


def test_the_tree_shown_is_the_real_one(example):
    def lines(folder, before=""):
        names = sorted(folder.iterdir())
        for path in names:
            last = path == names[-1]
            name = re.sub(r"(tfevents)\..*", r"\1.…", path.name) + "/" * path.is_dir()
            yield before + ("└── " if last else "├── ") + name
            if path.is_dir():
                yield from lines(path, before + ("    " if last else "│   "))

    root = example.parents[1]
    assert ["experiments/", *lines(root)] == block("A run", "tree").splitlines()


def test_the_files_named_in_the_page_are_those_that_exist(runs):
    paths = {path for row in cells("A run") for path in re.findall(r"`([^`]+)`", row[0])}
    patterns = [re.sub(r"<\w+>", "*", path) + "**/*" * path.endswith("/") for path in paths]
    for run in runs:
        named = {path for pattern in patterns for path in run.glob(pattern)}
        assert {file for file in run.rglob("*") if file.is_file()} <= named


VARYING = {
    "id", "created_at", "ended_at", "duration_s", "started_at", "host", "pid", "sha256", "at",
    "logged_at", "time", "throughput", "saved_at", "versions", "run_id",
}  # fmt: skip


def without_varying(value):
    if isinstance(value, dict):
        return {k: "…" if k in VARYING else without_varying(v) for k, v in value.items()}
    return [without_varying(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("title", "file"),
    [
        ("summary.json", "summary.json"),
        ("params.json", "params.json"),
        ("amendments/", "amendments/000001.json"),
        ("models/*/model.json", "models/model/model.json"),
    ],
)
def test_the_contents_shown_are_the_real_ones(title, file, example):
    shown, real = json.loads(block(title, "json")), json.loads((example / file).read_text())
    shown.get("history", {}).pop("digested_bytes", None)  # it follows the digits of the clock
    real.get("history", {}).pop("digested_bytes", None)
    shown.get("history", {}).pop("bytes", None)
    real.get("history", {}).pop("bytes", None)
    assert without_varying(real) == without_varying(shown)


def test_the_event_shown_is_the_real_one(example):
    [file] = (example.parents[1] / "_models" / "digits-net" / "events").iterdir()
    shown, real = json.loads(block("events/", "json")), json.loads(file.read_text())
    assert without_varying(real | {"by": "ann"}) == without_varying(shown)


def test_the_kinds_of_events_are_those_that_the_code_folds(registered):
    rows = [row for row in cells("events/") if len(row) == 2]
    shown = {kind for row in rows for kind in re.findall(r"`([^`]+)`", row[0])}
    assert shown == {"policy set", *_FOLDS}
    done = {json.loads(file.read_text())["kind"] for file in registered.glob("events/*.json")}
    assert done == shown


def test_the_frameworks_and_formats_of_models_are_those_of_the_catalog():
    rows = [row for row in cells("models/*/model.json") if len(row) == 3][1:]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])} == {*_FORMATS}


def test_the_files_of_a_registered_model_are_those_named(registered):
    paths = [re.findall(r"`([^`]+)`", row[0])[0] for row in cells("Registered models")[1:]]
    patterns = [re.sub(r"<\w+>", "*", path) + "**/*" * path.endswith("/") for path in paths]
    root = registered.parents[1]
    named = {path for pattern in patterns for path in root.glob(pattern)}
    assert {file for file in registered.rglob("*") if file.is_file()} <= named


def test_the_artifact_shown_is_a_real_one(example):
    real = json.loads((example / "artifacts.json").read_text())["artifacts"]
    [shown] = json.loads(block("artifacts.json", "json"))["artifacts"]
    same = [e for e in real if e["path"] == shown["path"]]
    # Its size depends on the version of the PNG encoder.
    assert [without_varying(e | {"size_bytes": 0}) for e in same] == [
        without_varying(shown | {"size_bytes": 0})
    ]


def test_the_history_shown_is_the_real_one(example):
    shown = re.sub(r'"time":[\d.]+', '"time":…', block("History", ""))
    real = (example / "metrics_history.json").read_text()
    assert re.sub(r'"time":[\d.]+', '"time":…', real) == shown


@pytest.fixture(scope="module")
def read_rows():
    text = block("metrics_history.json", "python").partition("\nfor row in")[0]
    names = {}
    exec(compile(text, "docs/FORMAT.md", "exec"), names)
    body = text.partition("def ")[2].strip().splitlines()
    assert len(body) == 10
    return names["read_rows"]


def numbers(rows):
    """NaN, which equals nothing, as a word; the stored words as numbers."""
    plain = [{k: v if (n := from_stored(v)) is None else n for k, v in r.items()} for r in rows]
    return [{k: "nan" if v != v else v for k, v in row.items()} for row in plain]


def test_the_reader_in_ten_lines_gives_the_rows(runs, read_rows):
    for run in runs:
        for file in run.glob("metrics_history*.json"):
            assert numbers(read_rows(file)) == numbers(HistoryReader(str(file)).rows())
    assert len(read_rows(runs[0] / "metrics_history.json")) == 4


def test_the_reader_in_ten_lines_takes_torn_and_damaged_files(example, read_rows, tmp_path):
    data = (example / "metrics_history.json").read_bytes()
    whole = numbers(HistoryReader(str(example / "metrics_history.json")).rows())
    file = tmp_path / "metrics_history.json"
    for length in range(len(data)):
        file.write_bytes(data[:length] + b"\0" * 5)
        found = numbers(read_rows(file))
        assert found == numbers(HistoryReader(str(file)).rows()) == whole[: len(found)]
    file.write_bytes(data.replace(b'"step":1', b'"st\0p":1'))
    assert numbers(read_rows(file)) == [whole[0], *whole[2:]]


def test_the_goal_table_is_the_codes():
    shown = {name: goal for goal, names in cells("Digest")[1:] for name in names.split()}
    assert shown == GOALS


def test_the_example_names_are_taken_and_refused():
    for name, verdict in cells("Roots and names")[1:]:
        if verdict == "yes":
            assert layout.check_name(name.strip("`"), "name") == name.strip("`")
        else:
            with pytest.raises(InvalidNameError):
                layout.check_name(name.strip("`"), "name")


@pytest.mark.parametrize(
    ("change", "age_s", "reads_as"),
    [
        ({}, 0, "running"),
        ({}, 1e6, "running"),
        ({"pid_start": 1}, 0, "crashed"),
        ({"boot_id": "another"}, 0, "crashed"),
        ({"host": "another"}, 5 * 60 - 5, "running"),
        ({"host": "another"}, 5 * 60 + 5, "running, silent"),
        ({"host": "another"}, 30 * 60 - 5, "running, silent"),
        ({"host": "another"}, 30 * 60 + 5, "crashed"),
        ({"pid_namespace": 1}, 30 * 60 + 5, "crashed"),
    ],
)
def test_status_is_computed_as_the_page_says(change, age_s, reads_as, tmp_path):
    run = ExperimentTracker("p", "r", root=tmp_path, auto_log=False).start_run("r")
    heartbeat = json.loads((run.path / "heartbeat.json").read_text())
    other = tmp_path / "heartbeat.json"
    other.write_text(json.dumps(heartbeat | change | {"time": heartbeat["time"] - age_s}))
    status, silent = status_of({"status": "running"}, str(other))
    assert status + (", silent" if silent else "") == reads_as
    run.end_run()


def test_the_heartbeat_is_one_line_of_512_bytes(example):
    data = (example / "heartbeat.json").read_bytes()
    assert len(data) == 512
    assert data.endswith(b" \n")


def test_the_digest_rules_hold_on_a_resumed_run(runs):
    summary = json.loads((runs[2] / "summary.json").read_text())
    loss = summary["metrics"]["loss"]
    assert (loss["last"], loss["last_step"], loss["first_nonfinite_step"]) == ("NaN", 11, 11)
    assert (loss["count"], loss["nonfinite"], loss["attempt"]) == (12, 1, 2)
    assert (loss["max"], loss["max_step"]) == (3.0, 10)
    total = 0.0
    for value in [*(1 / (step + 1) for step in range(10)), 3.0]:
        total += value
    assert loss["total"] == total
    assert loss["mean"] == total / 11
    assert summary["history"]["bytes"] == os.path.getsize(runs[2] / "metrics_history.json")
    assert summary["history"]["digested_bytes"] + 3 == summary["history"]["bytes"]


def test_a_metric_that_is_never_a_number_has_no_extremes(crashed, tmp_path):
    shutil.copytree(crashed.parents[1], tmp_path / "experiments")
    tracker = ExperimentTracker("p", "crashed", root=tmp_path / "experiments", resume="must")
    with tracker:
        path = tracker.start_run("crashed").path
    metrics = json.loads((path / "summary.json").read_text())["metrics"]
    assert metrics["all_nan"] == {
        "last": "NaN", "last_step": 20, "total": 0.0, "count": 1, "nonfinite": 1,
        "first_nonfinite_step": 20, "top_step": 20,
    }  # fmt: skip
    assert "best" not in metrics["metric:time"]
    assert metrics["score_a"]["goal"] == "minimize"
    assert not math.isnan(metrics["loss"]["total"])
    assert (metrics["loss"]["min"], metrics["loss"]["min_step"]) == ("-Infinity", 20)


def test_the_ranks_are_found_by_the_names_in_the_page(runs):
    assert RunFolder(runs[2]).ranks() == ["1"]
