import json
import os
import shutil

import numpy as np
import pytest

from experiment_tracking.errors import (
    DamagedError,
    ExperimentTrackingError,
    FormatError,
    NotFoundError,
)
from experiment_tracking.formats.models.saved import SavedModel
from experiment_tracking.models.registry import ModelRegistry


@pytest.fixture
def version(registered):
    return registered(0.5, 0.9)[0]


def refused(registry, match):
    """Tell that the version is refused wherever it would be used."""
    uses = (
        lambda: registry.load("digits/1"),
        lambda: registry.get("digits/1").verify(),
        lambda: registry.transition("digits", 1, "Staging"),
        lambda: registry.transition("digits", 1, "Production"),
    )
    for use in uses:
        with pytest.raises(DamagedError, match=match):
            use()
    assert registry.get("digits/1").stage == "None"


def test_a_version_says_what_it_is(version, root):
    assert (version.key, version.uri, version.framework) == (
        "digits/1",
        "models:/digits/1",
        "arrays",
    )
    assert version.path == root / "_models" / "digits" / "versions" / "1"
    assert (version.params, version.metrics) == ({"lr": 0.1}, {"val/accuracy": 0.5})
    assert isinstance(version.model, SavedModel)
    assert repr(version) == "<ModelVersion digits/1 None>"


def test_it_goes_into_json_whole(registry, version):
    registry.set_alias("digits", "champion", 1)
    said = json.loads(json.dumps(registry.get("digits/1").to_dict()))
    assert (said["aliases"], said["metrics"], said["uri"]) == (
        ["champion"], {"val/accuracy": 0.5}, "models:/digits/1",
    )  # fmt: skip


def test_what_was_looked_up_stays_and_equals_what_is_looked_up_again(registry, version):
    registry.transition("digits", 1, "Staging")
    assert version.stage == "None"
    assert registry.get("digits/1").stage == "Staging"
    assert registry.get("digits/1") == version
    assert registry.get("digits/2") != version
    assert len({version, registry.get("digits/1")}) == 1
    assert version != "digits/1"


def test_its_one_save_loads_like_that_of_a_run(version):
    assert [save["save"] for save in version.model.saves] == [1]
    np.testing.assert_array_equal(version.load()["w"], np.full(3, 0.5))
    np.testing.assert_array_equal(version.model.load(verify=False)["w"], np.full(3, 0.5))
    with pytest.raises(ExperimentTrackingError, match="input_example"):
        version.load_program()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: bytes([*data[:-1], data[-1] ^ 1]),
        lambda data: data[:-1],
        lambda data: b"\x80\x04cos\nsystem\n",
    ],
    ids=["changed", "cut short", "a pickle"],
)
def test_a_payload_that_was_changed_is_refused(registry, version, damaged, spoil):
    path = version.path / "weights-000001.safetensors"
    data = path.read_bytes()
    path.unlink()  # a file of its own: the run keeps what it has
    path.write_bytes(spoil(data))
    refused(registry, r"weights-000001\.safetensors")


def test_payloads_of_two_versions_that_were_exchanged_are_refused(registry, version, damaged):
    one, two = (registry.get(f"digits/{n}").path / "weights-000001.safetensors" for n in (1, 2))
    os.rename(one, one.with_name("x"))
    os.rename(two, one)
    os.rename(one.with_name("x"), two)
    refused(registry, "SHA-256")


def test_folders_of_two_versions_that_were_exchanged_are_refused(registry, version, damaged):
    one, two = (registry.get(f"digits/{n}").path for n in (1, 2))
    os.rename(one, one.with_name("x"))
    os.rename(two, one)
    os.rename(one.with_name("x"), two)
    refused(registry, r"version\.json is not as it was registered")


def test_documents_and_payload_that_fit_each_other_but_not_the_event_are_refused(
    registry, version, edit
):
    other = registry.get("digits/2").path
    for name in ("weights-000001.safetensors", "model.json"):
        (version.path / name).unlink()
        shutil.copy(other / name, version.path)
    refused(registry, r"(model\.json|weights-000001\.safetensors)")
    edit(
        version.path / "version.json",
        files=json.loads((other / "version.json").read_text())["files"],
    )
    refused(registry, r"version\.json is not as it was registered")


@pytest.mark.parametrize("name", ["version.json", "model.json", "weights-000001.safetensors"])
def test_a_link_in_the_place_of_a_file_is_refused(registry, version, damaged, tmp_path, name):
    os.rename(version.path / name, tmp_path / name)
    os.symlink(tmp_path / name, version.path / name)
    refused(registry, "is a link")


def test_a_link_in_the_place_of_its_folder_is_refused(registry, version, damaged, tmp_path):
    os.rename(version.path, tmp_path / "1")
    os.symlink(tmp_path / "1", version.path)
    refused(registry, "is a link")


@pytest.mark.parametrize("name", ["version.json", "model.json", "weights-000001.safetensors"])
def test_a_file_that_is_gone_is_told(registry, version, damaged, name):
    (version.path / name).unlink()
    refused(registry, rf"{name}.* is gone")


@pytest.mark.parametrize("name", ["version.json", "model.json"])
def test_a_document_that_a_later_version_registered_says_to_upgrade(registered, edit, name):
    (version,) = registered(0.5)
    files = version.lineage["files"]
    if name == "model.json":
        files["model.json"]["sha256"] = edit(version.path / name, format=2)
    later = {"format": 2} if name == "version.json" else {"files": files}
    sha256 = edit(version.path / "version.json", **later)
    edit(version.path.parents[1] / "events" / "000001.json", sha256=sha256)
    with pytest.raises(FormatError, match=f"{name} has format 2.*Upgrade"):
        ModelRegistry(version.path.parents[3]).load("digits/1")


def test_a_damaged_version_hides_no_other(registry, version, damaged, weight):
    shutil.rmtree(version.path)
    assert weight("digits/2") == 0.9
    assert [each.version for each in registry.versions("digits")] == [2, 1]
    with pytest.raises(DamagedError, match="is gone"):
        registry.load("digits/1")


# Whoever makes up a registry can have all hashes fit.


def forge(edit, version, **changes):
    sha256 = edit(version.path / "version.json", **changes)
    edit(version.path.parents[1] / "events" / "000001.json", sha256=sha256)


@pytest.mark.parametrize(
    "change",
    [{"files": {"../x": {}}}, {"files": {"model.json": 3}}, {"files": []}, {"model": None},
     {"params": 3}, {"code": "x"}, {"run": []}, {"metrics": None}, {"format": "1"}],
)  # fmt: skip
def test_a_made_up_description_of_a_version_is_refused(registry, registered, edit, change):
    (version,) = registered(0.5)
    forge(edit, version, **change)
    made_up = ModelRegistry(registry.root).get("digits/1")
    for use in (made_up.verify, made_up.load, made_up.to_dict):
        with pytest.raises(DamagedError, match=rf"version\.json has .* as '{next(iter(change))}'"):
            use()


@pytest.mark.parametrize("name", ["../../../../secret", "/etc/passwd", "a/b", None])
def test_a_made_up_model_leads_to_no_other_file(registry, registered, edit, name):
    (version,) = registered(0.5)
    path = version.path / "model.json"
    files = json.loads(path.read_text())["files"]
    files["weights"]["file"] = name
    sha256 = edit(path, files=files)
    known = {"size_bytes": path.stat().st_size, "sha256": sha256}
    forge(edit, version, files=version.lineage["files"] | {"model.json": known})
    made_up = ModelRegistry(registry.root).get("digits/1")
    with pytest.raises(DamagedError, match="expected a file beside it"):
        made_up.load()


def test_the_optimizer_comes_back_with_the_model(registry, make):
    torch = pytest.importorskip("torch", reason="pip install torch")

    def start(lr):
        net = torch.nn.Linear(2, 1)
        return net, torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)

    net, optimizer = start(0.25)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with make("digits").start_run("r") as run:
        run.log_model(net, "digits", optimizer=optimizer)
    other, fresh = start(0.5)
    version = registry.register(run, "digits")
    version.load(into=other)
    assert version.load_optimizer(into=fresh) is fresh
    assert fresh.param_groups[0]["lr"] == 0.25
    momentum = fresh.state[other.weight]["momentum_buffer"]
    assert torch.equal(momentum, torch.ones(1, 2))


def test_a_version_saved_without_an_optimizer_has_none(version):
    with pytest.raises(NotFoundError, match="optimizer"):
        version.load_optimizer()
