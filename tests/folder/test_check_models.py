"""Models of runs and registered ones: all damage is found once, and nothing is executed."""

import json
import os
import shutil

import numpy as np
import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.folder.check import check
from experiment_tracking.folder.liveness import DEAD_AFTER_S
from experiment_tracking.formats.models import saved
from experiment_tracking.models.registry import ModelRegistry

WEIGHTS = "weights-000002.safetensors"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "experiments"


@pytest.fixture
def run(root):
    """A finished run with two saves of one model."""
    tracker = ExperimentTracker("p", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("r") as run:
        for step in range(2):
            run.log_metrics({"val/loss": 1.0}, step=step)
            run.log_model({"w": np.full(9, step, np.float32)}, "net", keep=2)
    return run.path


@pytest.fixture
def net(run):
    """Folder of the model."""
    return run / "models" / "net"


@pytest.fixture
def registered(root, run):
    """Folder of a registered model with two versions, of which the first is in production."""
    registry = ModelRegistry(root)
    for _ in range(2):
        registry.register(run, "net", "digits")
    registry.transition("digits", 1, "Production")
    assert check(root) == []
    return root / "_models" / "digits"


def found(root):
    """Kinds and files of the problems, relative to the run's model or the registered one."""
    problems = check(root)
    for problem in problems:
        assert problem.message
        assert problem.path not in problem.message
    # The last of those that stand in the path is taken: /p/r/models/net or /_models/digits.
    return [(p.kind, p.path.partition("/net/")[2] or p.path.partition("/digits/")[2])
            for p in problems]  # fmt: skip


def change(file, **keys):
    document = json.loads(file.read_text()) | keys
    # A registered version shares no document, but a file of it could be a link: a new one.
    file.unlink()
    file.write_text(json.dumps(document))


def relist(run, name):
    """Make what artifacts.json says of a file of the model true again."""
    from hashlib import sha256

    listed = json.loads((run / "artifacts.json").read_text())
    for entry in listed["artifacts"]:
        if entry["path"].endswith(name):
            data = (run / entry["path"]).read_bytes()
            entry |= {"size_bytes": len(data), "sha256": sha256(data).hexdigest()}
    (run / "artifacts.json").write_text(json.dumps(listed))


def grow_old(path):
    os.utime(path, (path.lstat().st_mtime - DEAD_AFTER_S - 60,) * 2)


# ---------------------------------------------------------------------- models of a run


def test_a_model_with_earlier_saves_is_sound(root, net):
    assert len(json.loads((net / "model.json").read_text())["earlier"]) == 1
    assert check(root) == []


def test_a_file_of_any_save_that_is_gone_or_changed_is_found_once(root, net):
    (net / "weights-000001.safetensors").unlink()
    (net / WEIGHTS).write_bytes(b"other")
    assert found(root) == [("missing", "weights-000001.safetensors"), ("changed", WEIGHTS)]


def test_files_are_compared_with_model_json_where_the_list_of_artifacts_is_gone(root, run, net):
    (run / "artifacts.json").unlink()
    (net / WEIGHTS).write_bytes((net / WEIGHTS).read_bytes()[::-1])
    (net / "weights-000001.safetensors").unlink()
    assert [each for each in found(root) if each[0] != "leftover"] == [
        ("changed", WEIGHTS), ("missing", "weights-000001.safetensors"),
    ]  # fmt: skip


@pytest.mark.parametrize("link", [True, False])
def test_a_file_of_another_kind_in_the_place_of_weights_is_damage(link, root, net, tmp_path):
    os.replace(net / WEIGHTS, tmp_path / "elsewhere")
    if link:
        (net / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(net / WEIGHTS)
    assert found(root) == [("damaged", WEIGHTS)]


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"files": 3}, "damaged"),
        ({"files": {}}, "damaged"),
        ({"files": {"weights": 3}}, "damaged"),
        ({"earlier": "none"}, "damaged"),
        ({"earlier": [3]}, "damaged"),
        ({"format": saved.FORMAT + 1}, "format"),
        ({"format": None}, "format"),
        *[({"files": {"weights": {"file": name}}}, "damaged")
          for name in ("../r", "/etc/passwd", "", "..", "a\\b", "a\0b", "c:x", None)],
    ],
)  # fmt: skip
def test_a_model_json_that_says_nothing_of_use_is_damaged(keys, kind, root, run, net):
    change(net / "model.json", **keys)
    relist(run, "model.json")
    assert found(root) == [(kind, "model.json")]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_a_garbled_model_json_is_told_once(text, root, net):
    (net / "model.json").write_text(text)
    assert found(root) == [("changed", "model.json")]


def test_a_model_json_of_another_save_is_found(root, run, net):
    document = json.loads((net / "model.json").read_text())
    document["files"]["weights"]["sha256"] = "0" * 64
    change(net / "model.json", **document)
    relist(run, "model.json")
    assert found(root) == [("changed", WEIGHTS)]
    assert "artifacts.json and model.json differ" in check(root)[0].message


def test_what_a_save_left_that_was_killed_before_its_model_json_is_told(root, run, net):
    listed = json.loads((run / "artifacts.json").read_text())
    shutil.copy(net / WEIGHTS, net / "weights-000003.safetensors")
    entry = next(e for e in listed["artifacts"] if e["path"].endswith(WEIGHTS))
    listed["artifacts"].append({**entry, "path": "models/net/weights-000003.safetensors"})
    (run / "artifacts.json").write_text(json.dumps(listed))
    # Its second file was not even listed yet: nothing but that differs.
    shutil.copy(net / WEIGHTS, net / "optimizer-000003.safetensors")
    assert found(root) == [
        ("leftover", "optimizer-000003.safetensors"),
        ("leftover", "weights-000003.safetensors"),
    ]
    (message,) = {problem.message for problem in check(root)}
    assert "no model.json names it" in message
    assert "safe to delete" in message


def test_files_of_models_without_a_model_json_are_their_owners(root, run):
    tracker = ExperimentTracker("p", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("foreign") as other:
        (other.path / "models" / "mlflow").mkdir(parents=True)
        entry = {"path": "models/mlflow/MLmodel", "kind": "model", "name": "mlflow", "step": None}
        assert other._writer.files.save(entry, b"flavors: {}\n")
    assert check(root) == []


def test_a_pickle_is_hashed_and_never_opened(root, run, tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle", reason="pip install cloudpickle")

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    tracker = ExperimentTracker("p", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("bomb") as bomb:
        bomb.log_model({"w": np.zeros(3)}, "net")
    place = bomb.path / "models" / "net" / "weights-000001.safetensors"
    place.write_bytes(cloudpickle.dumps(Bomb()))
    assert [p.kind for p in check(root)] == ["changed"]
    assert not (tmp_path / "exploded").exists()


# ---------------------------------------------------------------------- registered models


def test_a_registered_model_outlives_its_run_and_stays_sound(root, run, registered):
    shutil.rmtree(run)
    assert check(root) == []


def test_a_gap_between_events_is_one_problem(root, registered):
    (registered / "events" / "000002.json").unlink()
    grow_old(registered / "versions" / "2")
    # Without it nobody knows whether version 2 is a leftover, so it is not called one.
    assert found(root) == [("missing", "events/000002.json")]


def test_an_event_that_was_changed_shows_in_the_next_one(root, registered):
    change(registered / "events" / "000002.json", by="mallory")
    assert found(root) == [("changed", "events/000003.json")]


def test_a_garbled_event_is_one_problem(root, registered):
    (registered / "events" / "000003.json").write_text("{")
    assert found(root) == [("damaged", "events/000003.json")]


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda v: shutil.rmtree(v), ("missing", "versions/1")),
        (lambda v: (v / WEIGHTS).unlink(), ("missing", f"versions/1/{WEIGHTS}")),
        (lambda v: change(v / "model.json", name="x"), ("changed", "versions/1/model.json")),
        (lambda v: change(v / "version.json", params={}), ("changed", "versions/1/version.json")),
        (lambda v: (v / "version.json").unlink(), ("missing", "versions/1/version.json")),
        (lambda v: (v / "mine").write_text(""), ("leftover", "versions/1/mine")),
    ],
)
def test_damage_to_a_version_is_found_once(spoil, expected, root, registered):
    spoil(registered / "versions" / "1")
    assert found(root) == [expected]


def test_weights_that_a_version_shares_with_its_run_are_told_in_both(root, run, net, registered):
    version = registered / "versions" / "1" / WEIGHTS
    if not os.path.samefile(net / WEIGHTS, version):
        pytest.skip("a file system without hard links")
    with version.open("r+b") as file:
        file.write(b"x" * 20)
    # Both versions are of the same save.
    assert sorted({(p.kind, os.path.basename(p.path)) for p in check(root)}) == [
        ("changed", WEIGHTS)
    ]
    assert len(check(root)) == 3


def test_a_version_that_is_a_link_is_damage(root, registered, tmp_path):
    os.replace(registered / "versions" / "1", tmp_path / "elsewhere")
    (registered / "versions" / "1").symlink_to(tmp_path / "elsewhere")
    assert found(root) == [("damaged", "versions/1")]


@pytest.mark.parametrize("name", ["3", ".tmp-4711-0a1b"])
def test_a_folder_without_event_is_left_over_once_nobody_can_be_at_it(name, root, registered):
    shutil.copytree(registered / "versions" / "1", registered / "versions" / name)
    (registered / "versions" / name).touch()
    assert found(root) == []
    grow_old(registered / "versions" / name)
    assert found(root) == [("leftover", f"versions/{name}")]


@pytest.mark.parametrize(
    "name", ["events/.000004.json.4711.0a1b.tmp", ".policy.json.4711.0a1b.tmp"]
)
def test_a_write_that_never_ended_is_left_over_once_nobody_can_be_at_it(name, root, registered):
    (registered / name).write_text("{")
    assert found(root) == []
    grow_old(registered / name)
    assert found(root) == [("leftover", name)]


def test_deleted_versions_are_checked_and_purged_ones_may_be_gone(root, registered):
    registry = ModelRegistry(root)
    registry.delete("digits", 2)
    (registered / "versions" / "2" / WEIGHTS).unlink()
    assert found(root) == [("missing", f"versions/2/{WEIGHTS}")]
    registry.purge("digits", 2)
    assert not (registered / "versions" / "2").exists()
    assert found(root) == []


def test_a_policy_that_cannot_be_read_is_found(root, registered):
    (registered / "policy.json").write_text("Production: val/accuracy > 0.9")
    assert found(root) == [("damaged", "policy.json")]


def test_one_damaged_model_does_not_hide_another(root, run, registered):
    ModelRegistry(root).register(run, "net", "other")
    (registered / "events" / "000001.json").write_text("")
    (root / "_models" / "other" / "versions" / "1" / WEIGHTS).unlink()
    places = [p.path.partition("/_models/")[2] for p in check(root)]
    assert "digits/events/000001.json" in places
    assert f"other/versions/1/{WEIGHTS}" in places


def test_looking_changes_nothing(root, registered):
    def state():
        return {path: path.lstat().st_mtime_ns for path in root.rglob("*")}

    (registered / "versions" / "1" / WEIGHTS).unlink()
    before = state()
    assert check(root, fix=True)
    assert state() == before
