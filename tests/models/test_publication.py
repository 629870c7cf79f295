import errno
import json
import os

import numpy as np
import pytest

from experiment_tracking.errors import DamagedError, InvalidValueError
from experiment_tracking.models import documents, publication


def payload(folder):
    (path,) = folder.glob("weights-*.safetensors")
    return path


def saved(run):
    return run.path / "models" / "model"


@pytest.fixture
def run(train):
    return train(accuracies=[0.9])


def nothing_is_left(root):
    versions = root / "_models" / "digits" / "versions"
    return not versions.exists() or list(versions.iterdir()) == []


def test_a_version_is_a_saved_model_that_shares_its_files_with_the_run(registry, run):
    version = registry.register(run, name="digits")
    names = {path.name for path in version.path.iterdir()}
    assert names == {"model.json", "version.json", payload(saved(run)).name}
    assert os.path.samefile(payload(version.path), payload(saved(run)))
    assert "earlier" not in json.loads((version.path / "model.json").read_text())
    assert version.lineage["files"].keys() == names - {"version.json"}


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP])
def test_where_files_cannot_be_linked_they_are_copied(registry, run, monkeypatch, code, weight):
    def link(source, target):
        raise OSError(code, os.strerror(code), source)

    monkeypatch.setattr(os, "link", link)
    version = registry.register(run, name="digits")
    assert not os.path.samefile(payload(version.path), payload(saved(run)))
    version.verify()
    assert weight("digits/1") == 0.9


def test_a_version_does_not_change_when_the_run_saves_on_or_is_damaged(
    registry, make, weight, damaged
):
    with make("digits").start_run("r") as run:
        for value in (1.0, 2.0, 3.0):
            run.log_model({"w": np.full(3, value)}, "digits")
            registry.register(run, "digits")
        run.log_model({"w": np.full(3, 4.0)}, "digits")
    (run.path / "models" / "digits" / "model.json").write_text("{}")
    assert [weight(f"digits/{number}") for number in (1, 2, 3)] == [1.0, 2.0, 3.0]


def test_a_model_that_is_saved_again_meanwhile_is_taken_as_it_is_then(
    registry, make, monkeypatch, weight
):
    tracker = make("digits")
    run = tracker.start_run("r")
    run.log_model({"w": np.full(3, 1.0)}, "digits")
    real, turns = publication._link_or_copy, []

    def late(source, target):
        if not turns:  # two saves later the file that was named is gone
            for value in (2.0, 3.0):
                turns.append(run.log_model({"w": np.full(3, value)}, "digits"))
        real(source, target)

    monkeypatch.setattr(publication, "_link_or_copy", late)
    version = registry.register(run, "digits")
    run.end_run()
    assert weight(version.key) == 3.0
    assert len(list(version.path.iterdir())) == 3


def test_a_file_that_is_gone_without_another_save_is_told(registry, run, root, damaged):
    os.unlink(payload(saved(run)))
    with pytest.raises(DamagedError, match=r"is gone.*restore both from the same save"):
        registry.register(run, name="digits")
    assert nothing_is_left(root)
    assert registry.list() == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: bytes([*data[:-1], data[-1] ^ 1]), "SHA-256"),
        (lambda data: data[:-1], "bytes"),
        (lambda data: data + b"\0", "bytes"),
        (lambda data: b"", "bytes"),
    ],
    ids=["changed", "cut short", "longer", "empty"],
)
def test_a_payload_that_is_not_as_it_was_saved_is_refused(
    registry, run, root, damaged, spoil, reason
):
    path = payload(saved(run))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DamagedError, match=rf"weights-000001\.safetensors.*{reason}"):
        registry.register(run, name="digits")
    assert nothing_is_left(root)


def test_a_link_in_the_place_of_a_payload_is_refused(registry, run, root, damaged, tmp_path):
    path = payload(saved(run))
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(DamagedError, match="is a link"):
        registry.register(run, name="digits")
    assert nothing_is_left(root)


def test_a_pipe_in_the_place_of_a_payload_is_refused_at_once(registry, run, root, damaged):
    path = payload(saved(run))
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(DamagedError, match="not a regular file"):
        registry.register(run, name="digits")
    assert nothing_is_left(root)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "x\0", "C:x", None, 3, ["x"],
     ".hidden", "model.json", "version.json"],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(registry, run, root, edit, name):
    path = saved(run) / "model.json"
    files = json.loads(path.read_text())["files"]
    files["weights"]["file"] = name
    edit(path, files=files)
    with pytest.raises(DamagedError, match="expected a file beside it"):
        registry.register(run, name="digits")
    assert nothing_is_left(root)


@pytest.mark.parametrize("files", [None, {}, [], {"weights": "x"}])
def test_a_model_without_files_is_no_version(registry, run, root, edit, files):
    edit(saved(run) / "model.json", files=files)
    with pytest.raises(DamagedError):
        registry.register(run, name="digits")
    assert nothing_is_left(root)


@pytest.mark.parametrize("call", ["fsync", "create_with", "fsync_file", "replace_file", "rename"])
def test_a_disk_that_refuses_leaves_no_version_and_nothing_behind(
    registry, run, root, monkeypatch, call
):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os if call == "rename" else publication.io, call, full)
    with pytest.raises(OSError, match="full"):
        registry.register(run, name="digits")
    assert nothing_is_left(root)
    monkeypatch.undo()
    assert registry.list() == []
    assert registry.register(run, name="digits").version == 1


def test_a_number_that_somebody_took_meanwhile_is_passed_over(registry, run, monkeypatch):
    real = os.rename

    def late(source, target):
        if os.path.basename(target) == "1":
            os.mkdir(target)
            open(os.path.join(target, "theirs"), "x").close()
        real(source, target)

    monkeypatch.setattr(os, "rename", late)
    version = registry.register(run, name="digits")
    assert version.version == 2
    assert version.lineage["version"] == 2


def test_the_folder_that_a_killed_registration_left_is_no_version_and_keeps_its_number(
    registry, run, root
):
    registry.register(run, name="digits")
    orphan = root / "_models" / "digits" / "versions" / "2"
    orphan.mkdir()
    assert [version.version for version in registry.versions("digits")] == [1]
    assert registry.register(run, name="digits").version == 3


def test_all_files_are_taken_before_the_first_is_read(registry, make, monkeypatch, weight):
    tracker = make("digits")
    run = tracker.start_run("r")
    run.log_model({"w": np.full(3, 1.0)}, "digits", optimizer={"m": np.ones(2)})
    real, turns = publication.check_file, []

    def late(path, known, shown=None):
        if not turns:  # two saves later both files that were named are gone
            for value in (2.0, 3.0):
                model = {"w": np.full(3, value)}
                turns.append(run.log_model(model, "digits", optimizer={"m": np.ones(2)}))
        real(path, known, shown)

    monkeypatch.setattr(publication, "check_file", late)
    version = registry.register(run, "digits")
    run.end_run()
    assert weight(version.key) == 1.0
    assert len(list(version.path.iterdir())) == 4


def test_a_version_that_nobody_could_read_is_not_made(registry, run, root, monkeypatch):
    monkeypatch.setattr(documents, "MAX_BYTES", 500)
    with pytest.raises(InvalidValueError, match="bytes, allowed are 500"):
        registry.register(run, name="digits")
    assert nothing_is_left(root)
