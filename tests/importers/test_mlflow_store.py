import math
import os
import shutil
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiment_tracking.importers import mlflow_store
from experiment_tracking.importers.found import FoundRun, Options, Unreadable
from experiment_tracking.importers.imported import Importer
from experiment_tracking.importers.mlflow_run import to_value
from experiment_tracking.registry.record import RunRecord

MAKES_STORES = Path(__file__).with_name("mlflow_stores.py")
POINTS = 10_000
STORES = ("files/mlruns", "database/mlflow.db")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder in which MLflow has made a store of each kind."""
    if find_spec("mlflow") is None:
        pytest.skip("pip install 'experiment_tracking[mlflow]'")
    folder = tmp_path_factory.mktemp("stores")
    subprocess.run([sys.executable, MAKES_STORES, folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def stores(made, tmp_path):
    """A copy of them, as somebody got it from another machine."""
    return Path(shutil.copytree(made, tmp_path / "stores"))


@pytest.fixture
def bring(root):
    """Import all of a place; gives records by name."""

    def bring(path, **options):
        importer = Importer(root)
        runs = list(mlflow_store.runs(str(path), Options(**options)))
        found = [run for run in runs if isinstance(run, FoundRun)]
        return {record.name: record for record in map(RunRecord, paths(importer, found))}

    return bring


def paths(importer, found):
    return [importer.take(run).path for run in found]


@pytest.mark.parametrize("store", STORES)
def test_runs_come_with_everything_that_mlflow_has_of_them(store, stores, bring):
    assert mlflow_store.recognizes(str(stores / store))
    records = bring(stores / store)
    assert list(records) == ["parent", "child", "never ended"]
    assert {record.project for record in records.values()} == {"digits"}
    parent, child = records["parent"], records["child"]
    assert (parent.status, child.status, records["never ended"].status) == (
        "finished", "failed", "crashed",
    )  # fmt: skip
    assert (parent.created_at, parent.duration_s) == ("2023-11-14T22:13:20.000Z", 60.0)
    assert parent.params == {"lr": 0.1, "opt": {"name": "adam"}, "none": None, "id": "0012"}
    assert parent.tags == {
        "sweep": "x", "experiment.team": "vision",
        "registered_model.net": "version 1, alias champion",
    }  # fmt: skip
    assert parent.notes == "two\nlines"
    assert child.parent == parent.id
    assert parent.environment["user"] == "ann"
    assert parent.environment["git"]["commit"] == "a" * 40
    assert parent.environment["entry_script"]["relative_name"] == "train.py"
    (dataset,) = parent.inputs
    assert (dataset["name"], dataset["path"], dataset["fingerprint"]) == (
        "train", "/data/x.csv", "abc",
    )  # fmt: skip


@pytest.mark.parametrize("store", STORES)
def test_every_point_is_there_with_its_step_and_time(store, stores, bring):
    parent = bring(stores / store)["parent"]
    rows = parent.rows()
    assert len(rows) == POINTS // 2 + 2
    assert rows[:-2] == [
        {
            "step": step,
            "time": 1_700_000_000 + step / 1000,
            "loss": 1 / (step + 1),
            "val/acc": 1 / (step + 2),
        }
        for step in range(POINTS // 2)
    ]
    assert rows[-2]["loss"] == "NaN"
    assert (parent.path / "system_metrics.json").read_text().count("cpu_percent") == 1


def test_infinities_are_as_the_store_has_them(stores, bring):
    assert bring(stores / "files/mlruns")["parent"].rows()[-1]["loss"] == "Infinity"
    clamped = bring(stores / "database/mlflow.db")
    (record,) = [each for each in clamped.values() if each.name.startswith("parent")]
    assert record.rows()[-1]["loss"] == sys.float_info.max
    assert "infinities" in "".join(record.summary["imported_from"]["not_carried"])


@pytest.mark.parametrize("store", STORES)
def test_artifacts_and_models_are_found_in_a_store_that_was_moved(store, made, stores, bring):
    made.rename(made.with_name("away"))
    try:
        parent = bring(stores / store)["parent"]
    finally:
        made.with_name("away").rename(made)
    kept = {entry["path"]: entry["kind"] for entry in parent.artifacts}
    assert kept == {
        "artifacts/notes.txt": "artifact",
        "artifacts/data/raw/notes.txt": "artifact",
        "models/net/MLmodel": "model",
        "models/net/weights.bin": "model",
    }
    assert (parent.path / "artifacts" / "data" / "raw" / "notes.txt").read_text() == "hello"
    assert "artifacts" not in "".join(parent.summary["imported_from"]["not_carried"])


@pytest.mark.parametrize("store", STORES)
def test_deleted_runs_come_only_if_asked_for(store, stores, bring):
    assert "deleted" in bring(stores / store, deleted=True)


@pytest.mark.parametrize("store", STORES)
def test_reading_changes_nothing_in_the_store(store, stores, bring):
    def state():
        files = [file for file in sorted(stores.rglob("*")) if file.is_file()]
        return {file: file.read_bytes() for file in files}

    before = state()
    bring(stores / store)
    assert state() == before


def test_an_experiment_and_a_run_can_be_imported_by_themselves(stores, bring):
    (experiment,) = [p.parent for p in (stores / "files/mlruns").glob("[1-9]*/meta.yaml")]
    (child,) = [
        meta.parent for meta in experiment.glob("*/meta.yaml") if "child" in meta.read_text()
    ]
    assert mlflow_store.recognizes(str(experiment))
    assert mlflow_store.recognizes(str(child))
    assert list(bring(child)) == ["child"]
    assert list(bring(experiment)) == ["parent", "child", "never ended"]


def test_one_damaged_run_stops_no_other(stores):
    metas = list((stores / "files/mlruns").glob("[1-9]*/*/meta.yaml"))
    (child,) = [meta for meta in metas if "child" in meta.read_text()]
    child.write_bytes(b"\0" * 100)
    (loss,) = (stores / "files/mlruns").glob("[1-9]*/*/metrics/val/acc")
    loss.write_text("torn 1\n" + loss.read_text() + "17000")
    runs = list(mlflow_store.runs(str(stores / "files/mlruns"), Options()))
    (damaged,) = [run for run in runs if isinstance(run, Unreadable)]
    assert damaged.place == str(child.parent)
    parent = next(run for run in runs if isinstance(run, FoundRun) and run.name == "parent")
    assert len(list(parent.rows)) == POINTS // 2 + 2
    assert "metric 'val/acc': damaged lines" in parent.not_carried


def test_runs_of_an_experiment_without_its_meta_are_kept(stores, bring):
    (meta,) = (stores / "files/mlruns").glob("[1-9]*/meta.yaml")
    meta.unlink()
    records = bring(stores / "files/mlruns")
    assert {record.project for record in records.values()} == {meta.parent.name}


def test_a_database_that_may_not_be_written_is_read(stores, bring):
    database = stores / "database/mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    for folder, mode in ((database, 0o400), (database.parent, 0o500)):
        folder.chmod(mode)
    try:
        assert "parent" in bring(database)
    finally:
        database.parent.chmod(0o700)


def test_artifacts_elsewhere_are_said_to_be_missing(stores, bring):
    database = stores / "database/mlflow.db"
    shutil.rmtree(stores / "database/mlruns")
    with sqlite3.connect(database) as connection:
        connection.execute(
            "UPDATE runs SET artifact_uri = 's3://bucket/1/' || run_uuid || '/artifacts'"
        )
        connection.execute("UPDATE logged_models SET artifact_location = 's3://bucket/m'")
    connection.close()
    parent = bring(database)["parent"]
    assert parent.artifacts == []
    assert parent.tags["mlflow.artifact_uri"].startswith("s3://bucket/1/")
    said = parent.summary["imported_from"]["not_carried"]
    assert "artifacts: they lie at s3://bucket, not on this machine" in said
    assert "models: they lie at s3://bucket, not on this machine" in said


def test_a_store_cannot_name_a_folder_that_is_not_its_runs(stores, bring, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    (private / "key").write_text("secret")
    with sqlite3.connect(stores / "database/mlflow.db") as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (str(private),))
    connection.close()
    for record in bring(stores / "database/mlflow.db").values():
        assert "key" not in "".join(entry["path"] for entry in record.artifacts)


def test_a_file_that_is_no_store_is_not_recognized(tmp_path):
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE runs (a)")
    connection.close()
    (tmp_path / "short").write_bytes(b"SQLite format 3\0")
    assert not mlflow_store.recognizes(str(other))
    assert not mlflow_store.recognizes(str(tmp_path / "short"))
    assert not mlflow_store.recognizes(str(tmp_path))
    assert not mlflow_store.recognizes(str(tmp_path / "nothing"))


def test_nothing_outside_a_store_is_read(stores, bring, tmp_path, not_carried):
    private = tmp_path / "private"
    private.mkdir()
    (private / "key").write_text("SECRET 1 1")
    (loss,) = (stores / "files/mlruns").glob("[1-9]*/*/metrics/val")
    run = loss.parents[1]
    for place in ("params", "tags", "metrics", "artifacts"):
        (run / place / "link").symlink_to(private / "key")
        (run / place / "folder").symlink_to(private)
    record = bring(stores / "files/mlruns")["parent"]
    texts = [file.read_bytes() for file in record.path.rglob("*") if file.is_file()]
    assert b"SECRET" not in b"".join(texts)
    assert sum("link" in text for text in not_carried(record)) == 8
    assert len(record.rows()) == POINTS // 2 + 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_a_store_is_not_waited_for(stores, bring):
    (loss,) = (stores / "files/mlruns").glob("[1-9]*/*/metrics/val")
    for place in ("params", "metrics", "."):
        os.mkfifo(loss.parents[1] / place / "pipe")
    assert set(bring(stores / "files/mlruns")) == {"parent", "child", "never ended"}


def test_values_that_mlflow_wrote_twice_count_once_as_in_its_database(stores, bring):
    (accuracy,) = (stores / "files/mlruns").glob("[1-9]*/*/metrics/val/acc")
    loss = accuracy.parents[1] / "loss"
    lines = loss.read_text().splitlines()
    loss.write_text("\n".join([*lines, lines[0], lines[-2], ""]))
    record = bring(stores / "files/mlruns")["parent"]
    assert len(record.history("loss")["step"]) == POINTS // 2 + 2


def test_a_database_that_cannot_be_read_now_says_what_to_do(stores, tmp_path):
    database = stores / "database/mlflow.db"
    old = tmp_path / "mlflow_old.db"
    shutil.copy(database, old)
    with sqlite3.connect(old) as connection:
        connection.execute("ALTER TABLE runs RENAME COLUMN source_name TO other")
    connection.close()
    with pytest.raises(OSError, match=r"mlflow db upgrade sqlite:///.*mlflow_old\.db"):
        list(mlflow_store.runs(str(old), Options()))
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    assert mlflow_store.recognizes(str(database))
    with pytest.raises(OSError, match=r"malformed; .*\.recover"):
        list(mlflow_store.runs(str(database), Options()))


OLD_RUN = """\
artifact_uri: s3://bucket/0/abc/artifacts
end_time: 1550000002000
experiment_id: '0'
lifecycle_stage: active
name: ''
run_uuid: abc
start_time: 1550000001000
status: 3
user_id: ann
"""


def test_stores_of_the_first_mlflow_are_read(tmp_path, bring):
    run = tmp_path / "mlruns" / "0" / "abc"
    (run / "metrics").mkdir(parents=True)
    (run.parent / "meta.yaml").write_text("artifact_location: x\nexperiment_id: 0\nname: Default\n")
    (run / "meta.yaml").write_text(OLD_RUN)
    (run / "metrics" / "loss").write_text("1550000001 0.5\n1550000002 0.25 1.5\n")
    record = bring(tmp_path / "mlruns")["abc"]
    assert [(row["step"], row["time"], row["loss"]) for row in record.rows()] == [
        (0, 1550000001.0, 0.5), (1, 1550000002.0, 0.25),
    ]  # fmt: skip
    assert record.project == "Default"
    assert "bucket" in "".join(record.summary["imported_from"]["not_carried"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-05", 1e-05), ("-3", -3), ("007", "007"), ("True", True), ("[1, 'a']", [1, "a"]),
        ("(1,)", (1,)), ("{broken", "{broken"), ("[a]", "[a]"), ("1" * 400, "1" * 400), ("", ""),
        ("1e99999", "1e99999"), ("(" * 500 + ")", "(" * 500 + ")"), ("inf", math.inf),
    ],
)  # fmt: skip
def test_params_are_read_as_the_python_values_whose_text_they_are(text, value):
    assert to_value(text) == value


def test_images_of_log_image_are_known_by_key_and_step(tmp_path, bring):
    folder = tmp_path / "mlruns" / "0" / "abc"
    images = folder / "artifacts" / "images"
    images.mkdir(parents=True)
    (folder / "meta.yaml").write_text(OLD_RUN)
    (folder.parent / "meta.yaml").write_text("artifact_location: x\nexperiment_id: 0\nname: d\n")
    for sign in "+%":
        name = sign.join(["eval#digit", "step", "3", "timestamp", "1700000000000", "b11b5fad"])
        (images / f"{name}.png").write_bytes(b"png")
        (images / f"{name}{sign}compressed.webp").write_bytes(b"webp")
    kept = [
        (entry["path"], entry["name"], entry["step"])
        for entry in bring(tmp_path / "mlruns")["abc"].artifacts
    ]
    assert kept == [
        ("figures/eval/digit-000003.png", "eval/digit", 3),
        ("figures/eval/digit-000003-2.png", "eval/digit", 3),
    ]


def test_without_mlflow_a_store_is_read_all_the_same(stores):
    code = (
        "import sys\nsys.modules['mlflow'] = sys.modules['yaml'] = None\n"
        "from experiment_tracking.importers import mlflow_store\n"
        "from experiment_tracking.importers.found import Options\n"
        "for run in mlflow_store.runs(sys.argv[1], Options()): print(run.name, len(list(run.rows)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", code, str(stores / "files/mlruns")]
    shown = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    assert shown.stdout == f"parent {POINTS // 2 + 2}\nchild 1\nnever ended 0\n"
