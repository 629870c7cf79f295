"""Registered models go from one root to another whole, and nothing that differs is overwritten."""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid

import pytest

from experiment_tracking.folder.check import check
from experiment_tracking.models.registry import ModelRegistry
from experiment_tracking.upkeep.sides import Folder
from experiment_tracking.upkeep.sync import sync


def files_in(root):
    place = root / "_models"
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}


def told(done):
    """What became of the registered models."""
    return {each.run: each.outcome for each in done if each.run.startswith("_models/")}


def test_a_copy_is_the_same_in_every_byte_and_stands_on_its_own(root, models, target):
    done = sync(root, target)
    assert told(done) == {"_models/net": "copied"}
    assert done[-1].files == len(files_in(root))
    assert done[-1].size_bytes == sum(map(len, files_in(root).values()))
    assert files_in(target) == files_in(root)
    shutil.rmtree(target / "digits")
    assert check(target) == []
    assert ModelRegistry(target).load("net/Production")["w"][0] == 1.0
    (again,) = [each for each in sync(root, target) if each.run == "_models/net"]
    assert (again.outcome, again.files) == ("unchanged", 0)


def test_only_what_the_target_lacks_is_copied(root, models, target):
    sync(root, target)
    weights = next((target / "_models" / "net" / "versions" / "1").glob("weights-*"))
    before = weights.stat()
    models.register("digits/one", name="net")
    models.transition("net", 3, "Staging")
    done = sync(root, target)
    assert told(done) == {"_models/net": "updated"}
    assert done[-1].files == 2 + 3  # events; weights and two documents
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    assert files_in(target) == files_in(root)
    assert check(target) == []


def test_models_go_to_a_far_root_and_come_back(root, models, target, url):
    assert told(sync(root, url)) == {"_models/net": "copied"}
    assert told(sync(root, url)) == {"_models/net": "unchanged"}
    models.transition("net", 2, "Staging")
    assert told(sync(root, url)) == {"_models/net": "updated"}
    assert told(sync(url, target)) == {"_models/net": "copied"}
    assert files_in(target) == files_in(root)
    assert check(target) == []


def test_models_that_went_on_in_both_are_named_and_left_alone(root, models, target):
    sync(root, target)
    models.transition("net", 2, "Staging")
    ModelRegistry(target).transition("net", 2, "Archived")
    before = files_in(target)
    done = sync(root, target)
    assert told(done) == {"_models/net": "refused"}
    assert "each by itself" in done[-1].reason
    assert files_in(target) == before
    assert check(target) == []


def test_a_model_that_has_gone_on_in_the_target_is_synced_the_other_way(root, models, target):
    sync(root, target)
    ModelRegistry(target).transition("net", 2, "Staging")
    done = sync(root, target)
    assert told(done) == {"_models/net": "refused"}
    assert "by 1 event. Sync it the other way round" in done[-1].reason
    assert told(sync(target, root)) == {"_models/net": "updated"}
    assert files_in(root) == files_in(target)


def test_an_event_that_is_added_meanwhile_stays(root, models, target, monkeypatch):
    sync(root, target)
    models.transition("net", 2, "Staging")
    create = Folder.create

    def create_late(side, name, data):
        monkeypatch.undo()
        ModelRegistry(target).describe("net", "mine")
        create(side, name, data)

    monkeypatch.setattr(Folder, "create", create_late)
    done = sync(root, target)
    assert told(done) == {"_models/net": "refused"}
    assert "just been added" in done[-1].reason
    assert ModelRegistry(target).list()[0].description == "mine"
    assert check(target) == []


def test_a_folder_that_a_registration_there_is_about_to_name_is_not_overwritten(
    root, models, target
):
    sync(root, target)
    models.register("digits/one", name="net")
    theirs = target / "_models" / "net" / "versions" / "3"
    shutil.copytree(target / "_models" / "net" / "versions" / "1", theirs)
    before = files_in(target)
    done = sync(root, target)
    assert told(done) == {"_models/net": "refused"}
    assert "another folder net/versions/3" in done[-1].reason
    assert files_in(target) == before


_KILLED = """
import os, signal, sys
from experiment_tracking.upkeep.sides import Folder
from experiment_tracking.upkeep.sync import sync

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[3] == "in a folder":
    os.rename = kill
else:
    Folder.create = kill
sync(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("where", ["in a folder", "before the events"])
def test_killed_anywhere_the_target_is_whole_and_the_next_sync_completes_it(
    where, root, models, target
):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, root, target, where], stderr=subprocess.DEVNULL
    )
    assert done.returncode == -signal.SIGKILL
    assert ModelRegistry(target).list() == []
    assert check(target) == []
    assert told(sync(root, target)) == {"_models/net": "copied"}
    assert files_in(target).items() >= files_in(root).items()
    assert ModelRegistry(target).get("net/Production").version == 1


def test_purged_versions_are_not_missed(root, models, target):
    models.delete("net", 2)
    models.purge("net", 2)
    assert told(sync(root, target)) == {"_models/net": "copied"}
    assert files_in(target) == files_in(root)
    assert check(target) == []


def test_a_gate_of_the_target_stays_and_a_missing_one_comes(root, models, target):
    sync(root, target)
    theirs = target / "_models" / "net" / "policy.json"
    theirs.write_text("{}\n")
    models.describe("net", "more")
    assert told(sync(root, target)) == {"_models/net": "updated"}
    assert theirs.read_text() == "{}\n"
    theirs.unlink()
    sync(root, target)
    assert json.loads(theirs.read_text()) == models.policy("net")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda net: (net / "events" / "000002.json").unlink(), "gap"),
        (lambda net: (net / "events" / "000004.json").write_text("{"), "damaged"),
        (lambda net: shutil.rmtree(net / "versions" / "2"), "version 2 is gone"),
    ],
)
def test_a_damaged_model_is_named_and_keeps_no_other_back(
    spoil, reason, root, models, target, tmp_path
):
    models.register("digits/one", name="other")
    spoil(root / "_models" / "net")
    (tmp_path / "damaged").touch()
    done = sync(root, target)
    assert told(done) == {"_models/net": "failed", "_models/other": "copied"}
    assert reason in next(each.reason for each in done if each.outcome == "failed")
    assert not (target / "_models" / "net").exists()


def test_nothing_is_written_through_a_link_in_the_target(root, models, target, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (target / "_models").mkdir(parents=True)
    (target / "_models" / "net").symlink_to(tmp_path / "elsewhere")
    assert told(sync(root, target)) == {"_models/net": "failed"}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_dry_run_tells_the_same_and_writes_nothing(root, models, target):
    dry = sync(root, target, dry_run=True)
    assert not target.exists()
    assert dry == sync(root, target)


def test_runs_that_are_chosen_bring_no_models_along(root, models, target):
    assert told(sync(root, target, ["one"])) == told(sync(root, target, project="digits")) == {}
    assert not os.path.lexists(target / "_models")


def test_a_name_of_a_store_that_leads_elsewhere_is_refused(root, models, target):
    fsspec = pytest.importorskip("fsspec", reason="pip install 'experiment_tracking[remote]'")
    place = f"memory://{uuid.uuid4().hex}"
    sync(root, place)
    fs, base = fsspec.core.url_to_fs(place)
    fs.pipe_file(f"{base}/_models/net/versions/1/../../../../evil", b"evil")
    done = sync(place, target)
    assert "refused" in {each.outcome for each in done}
    assert not list(target.parent.rglob("evil"))
