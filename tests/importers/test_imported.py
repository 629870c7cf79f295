import os
import signal
import subprocess
import sys
import time

import pytest

from experiment_tracking.errors import InvalidNameError
from experiment_tracking.folder.liveness import Heartbeat, Writer
from experiment_tracking.importers.found import FoundRun, git_facts, to_iso
from experiment_tracking.importers.imported import Importer
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.registry import ExperimentRegistry

DIES = """
import os, signal, sys
from experiment_tracking.importers.found import FoundRun
from experiment_tracking.importers.imported import Importer

def rows():
    for step in range(5000):
        yield step, None, {"loss": 1.0}
    print("killed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

Importer(sys.argv[1]).take(FoundRun("csv", "/data", "a", "run", "p", rows()))
"""


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


def test_twice_is_harmless_and_again_makes_a_copy(root, found):
    first = Importer(root).take(found())
    second = Importer(root).take(found())
    assert (first.outcome, second.outcome, second.path) == ("imported", "known", first.path)
    copy = Importer(root, again=True).take(found())
    assert (copy.outcome, copy.key) == ("imported", "p/run-2")
    ids = {RunRecord(each.path).id for each in (first, copy)}
    assert len(ids) == 2


def test_a_child_finds_its_parent_whichever_comes_first(root, found):
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


def test_nothing_is_written_when_only_looking(root, found):
    looked = Importer(root, write=False).take(found())
    assert (looked.outcome, looked.rows) == ("found", 1)
    assert not root.exists()


def test_an_import_that_fails_leaves_nothing(root, found):
    def rows():
        yield 0, 1.7e9, {"loss": 1.0}
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        Importer(root).take(found(rows=rows()))
    assert list((root / "p").iterdir()) == []


def test_an_import_that_is_killed_is_no_run_and_can_be_had_again(root, found):
    root.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", DIES, str(root)]
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b"killed\n"
    assert list(ExperimentRegistry(root).list_experiments()) == []
    assert Importer(root).take(found()).key == "p/run"


def test_what_a_killed_import_left_is_taken_away_by_the_next(root, found):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    root.mkdir()
    words = [sys.executable, "-c", DIES, str(root)]
    subprocess.run(words, capture_output=True, env=environment, check=False)
    (left,) = (root / "p").iterdir()
    assert left.name.startswith(".import.")
    living = root / "p" / ".import.1.a.tmp"
    living.mkdir()
    Heartbeat(str(living / "heartbeat.json")).beat()
    elsewhere = {name: root / "p" / f".import.2.{name}.tmp" for name in ("new", "old")}
    for name, folder in elsewhere.items():
        folder.mkdir()
        other = Writer.this_process()._replace(host="another")
        beat = Heartbeat(str(folder / "heartbeat.json"), other)
        beat.beat(time.time() - (2 * 86400 if name == "old" else 3600))
    Importer(root).take(found())
    assert {path.name for path in (root / "p").iterdir()} == {
        "run", living.name, elsewhere["new"].name,
    }  # fmt: skip


def test_a_heartbeat_is_no_part_of_an_imported_run(take):
    assert not (take().path / "heartbeat.json").exists()


def test_goals_of_the_source_say_which_value_is_the_best(take):
    rows = [(step, 1.7e9, {"speed": float(step)}) for step in range(3)]
    record = take(rows=rows, goals={"speed": "minimize"})
    assert record.summary["goals"] == {"speed": "minimize"}
    assert record.metrics["speed"]["best"] == 0.0


def test_what_is_said_to_be_left_out_holds_no_secret(root, found):
    token = "ghp_" + "a1B2" * 9
    imported = Importer(root).take(found(not_carried=[f"file '{token}': it is not there"]))
    assert token not in str(imported)
    assert imported.not_carried == RunRecord(imported.path).summary["imported_from"]["not_carried"]
    assert token not in str(Importer(root, write=False, project="q").take(found(id="b")))
