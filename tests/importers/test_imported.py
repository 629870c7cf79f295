import json
import math
import os
import signal
import subprocess
import sys

import pytest

from experiment_tracking.errors import InvalidNameError
from experiment_tracking.importers.imported import (
    FoundFile,
    FoundRun,
    Importer,
    git_facts,
    to_iso,
)
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.registry import ExperimentRegistry

DIES = """
import os, signal, sys
from experiment_tracking.importers.imported import FoundRun, Importer

def rows():
    for step in range(5000):
        yield step, None, {"loss": 1.0}
    print("killed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

Importer(sys.argv[1]).take(FoundRun("csv", "/data", "a", "run", "p", rows()))
"""


def found(**known):
    known = {"rows": [(0, 1.7e9, {"loss": 1.0})], **known}
    return FoundRun("csv", "/data/a.csv", known.pop("id", "a"), "run", "p", **known)


@pytest.fixture
def take(root):
    """Import one run; gives it as read back."""

    def take(one=None, **known):
        return RunRecord(Importer(root).take(one or found(**known)).path)

    return take


def test_an_imported_run_reads_like_a_tracked_one(take, root):
    record = take(
        rows=[(5, 1.7e9, {"loss": 1.0}), (9, 1.7e9 + 60, {"loss": 0.5, "n": 3})],
        params={"lr": 0.1, "deep": {"a": [1]}},
        tags={"a": "b"},
        notes="why",
        group="g",
        created_at=to_iso(1.7e9 - 1),
        ended_at=to_iso(1.7e9 + 100),
        status="killed",
        host="node1",
        environment={"python_version": "3.9", "git": git_facts("abc", "main")},
        inputs=[{"name": "train", "kind": "dataset", "path": "/data"}],
    )
    assert record.key == "p/run"
    assert (record.status, record.duration_s) == ("killed", 101.0)
    assert record.created_at == "2023-11-14T22:13:19.000Z"
    assert record.params == {"lr": 0.1, "deep": {"a": [1]}}
    assert (record.tags, record.notes, record.group) == ({"a": "b"}, "why", "g")
    assert record.metrics["loss"]["best"] == 0.5
    assert list(record.history("loss")["step"]) == [5, 9]
    assert record.attempts[0]["host"] == "node1"
    assert record.environment["git"]["commit"] == "abc"
    assert record.inputs[0]["path"] == "/data"
    assert (record.path / "tensorboard").is_dir()
    assert [each.key for each in ExperimentRegistry(root).list_experiments()] == ["p/run"]


def test_numbers_come_back_exactly_and_names_as_a_tracked_run_keeps_them(take):
    record = take(
        rows=[
            (0, 1.7e9, {"loss": math.nan, "time": 2.5, "flag": True, "big": 2**70}),
            (1, 1.7e9, {"loss": -math.inf, "word": "x", " ": 1.0}),
        ]
    )
    first, second = record.rows()
    assert first == {
        "step": 0, "time": 1.7e9, "loss": "NaN", "metric:time": 2.5, "flag": 1, "big": 2.0**70,
    }  # fmt: skip
    assert second == {"step": 1, "time": 1.7e9, "loss": "-Infinity"}
    assert record.summary["imported_from"]["not_carried"] == [
        "metric 'word': values that are no numbers",
        "metric ' ': values that are no numbers",
    ]


def test_rows_without_step_and_time_are_counted_on_and_that_is_said(take):
    record = take(
        rows=[(7, 1.7e9, {"a": 1}), (None, None, {"a": 2}), (1.5, -3.0, {"a": 3}), (1, 0, {})]
    )
    assert [(row["step"], row["time"]) for row in record.rows()] == [
        (7, 1.7e9), (8, 1.7e9), (9, 1.7e9),
    ]  # fmt: skip
    said = record.summary["imported_from"]["not_carried"]
    assert len(said) == 2
    assert "times" in said[0]
    assert "steps" in said[1]


def test_a_run_whose_end_nobody_noted_reads_as_crashed(take):
    record = take(status="running")
    assert record.status == "crashed"
    assert record.ended_at is None
    assert record.metrics["loss"]["last"] == 1.0


def test_secrets_are_kept_as_stars(take, tmp_path):
    token = "ghp_" + "a1B2" * 9
    record = take(
        params={"api_key": "f3a9c17be2"},
        tags={"remote": f"https://me:{token}@example.org/x"},
        notes=token,
        environment={"git": git_facts("a", remote=f"https://me:{token}@example.org/x")},
        console=[f"login {token}\n", "done\n"],
        error=f"ValueError: {token}",
        status="failed",
    )
    written = b"".join(
        file.read_bytes() for file in record.path.rglob("*") if file.is_file()
    ).decode(errors="replace")
    assert token not in written
    assert "f3a9c17be2" not in written
    assert record.error["type"] == "ValueError"
    assert (record.path / "console.log").read_text() == "login ***\ndone\n"


def test_files_are_copied_with_size_and_hash_into_the_folders_of_their_kinds(take, tmp_path):
    model = tmp_path / "model"
    (model / ".hidden").mkdir(parents=True)
    (model / "__init__.py").write_text("x")
    (model / ".hidden" / "a.txt").write_text("y")
    (tmp_path / "pic.png").write_bytes(b"png")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "b.png").write_bytes(b"png")
    files = [
        FoundFile(str(model), "net", "model", description="best"),
        FoundFile(str(tmp_path / "pic.png"), "curve/loss-000003.png", step=3),
        FoundFile(str(tmp_path / "plots"), "plots"),
        FoundFile(str(tmp_path / "pic.png"), "_odd?.png", "artifact"),
        FoundFile(str(tmp_path / "pic.png"), "_odd?.png", "artifact"),
        FoundFile(str(tmp_path / "gone.txt"), "gone.txt"),
    ]
    record = take(files=files)
    places = {entry["path"]: (entry["kind"], entry["name"]) for entry in record.artifacts}
    assert places == {
        "models/net/__init__.py": ("model", "net"),
        "models/net/.hidden/a.txt": ("model", "net"),
        "figures/curve/loss-000003.png": ("image", "curve/loss"),
        "artifacts/plots/b.png": ("image", "plots/b.png"),
        "artifacts/odd-.png": ("artifact", "_odd?.png"),
        "artifacts/odd--2.png": ("artifact", "_odd?.png"),
    }
    assert record.artifacts[0]["description"] == "best"
    (said,) = record.summary["imported_from"]["not_carried"]
    assert said.startswith("file 'gone.txt'")


def test_system_rows_go_to_a_history_of_their_own(take):
    record = take(system_rows=[(0, 1.7e9, {"cpu/percent": 3.5})])
    kept = json.loads((record.path / "system_metrics.json").read_text())
    assert kept == [{"step": 0, "time": 1.7e9, "cpu/percent": 3.5}]
    assert record.metric_names == ["loss"]


def test_twice_is_harmless_and_again_makes_a_copy(root):
    first = Importer(root).take(found())
    second = Importer(root).take(found())
    assert (first.outcome, second.outcome, second.path) == ("imported", "known", first.path)
    copy = Importer(root, again=True).take(found())
    assert (copy.outcome, copy.key) == ("imported", "p/run-2")
    ids = {RunRecord(each.path).id for each in (first, copy)}
    assert len(ids) == 2


def test_a_child_finds_its_parent_whichever_comes_first(root):
    importer = Importer(root)
    child = RunRecord(importer.take(found(id="child", parent="above")).path)
    parent = RunRecord(importer.take(found(id="above")).path)
    assert child.parent == parent.id
    elsewhere = Importer(root, project="other")
    copy = RunRecord(elsewhere.take(found(id="above")).path)
    assert (copy.project, copy.name) == ("other", "run")
    assert copy.id != parent.id


def test_names_that_no_folder_may_have_are_changed_and_that_is_said(root):
    one = FoundRun("csv", "/d", "a", "a/b:c", "/Users/me")
    imported = Importer(root).take(one)
    assert imported.key == "Users-me/a-b-c"
    assert len(imported.not_carried) == 2
    with pytest.raises(InvalidNameError):
        Importer(root, project="a/b")


def test_nothing_is_written_when_only_looking(root):
    looked = Importer(root, write=False).take(found())
    assert (looked.outcome, looked.rows) == ("found", 1)
    assert not root.exists()


def test_an_import_that_fails_leaves_nothing(root):
    def rows():
        yield 0, 1.7e9, {"loss": 1.0}
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        Importer(root).take(found(rows=rows()))
    assert list((root / "p").iterdir()) == []


def test_an_import_that_is_killed_is_no_run_and_can_be_had_again(root):
    root.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", DIES, str(root)]
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b"killed\n"
    assert list(ExperimentRegistry(root).list_experiments()) == []
    assert Importer(root).take(found()).key == "p/run"
