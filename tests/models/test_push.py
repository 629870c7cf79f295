"""A version in other worlds, as those worlds' own programs read it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.backends.wandb_log import WandbLog, find_logs
from experiment_tracking.errors import (
    BackendError,
    BackendUnavailableError,
    DamagedError,
    InvalidValueError,
)
from experiment_tracking.formats.models.saved import SavedModel
from experiment_tracking.models.push import push

wandb_installed = pytest.mark.skipif(
    not is_installed("wandb"), reason="pip install 'experiment_tracking[wandb]'"
)

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6368000000820081"
    "77cd72b60000000049454e44ae426082"
)


class Picture:
    def savefig(self, target, **options):
        target.write(PNG)


@pytest.fixture
def version(registry, make):
    with make("digits").start_run("first", {"lr": 0.1, "net": {"depth": 3}}) as run:
        run.log_metrics({"val/acc@1": 0.9, "loss": float("inf")}, step=2)
        run.log_figure(Picture(), "curves/loss", step=2)
        run.log_model(
            {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "net", {"note": "by hand"},
            input_example=None,
        )  # fmt: skip
    return registry.register(
        run, "net", name="my.digits", aliases=["champion", "v9"], description="What it is.",
        tags={"team": "vision"}, by="ann",
    )  # fmt: skip


def files_of(version):
    return {name: (version.path / name).read_bytes() for name in version.lineage["files"]}


def damage(version):
    (weights,) = version.path.glob("weights-*")
    weights.unlink()
    weights.write_bytes(b"x")


def test_another_world_or_option_is_refused_with_those_there_are(version, tmp_path):
    with pytest.raises(InvalidValueError, match="Allowed are mlflow, wandb, hf-folder"):
        push(version, "s3")
    with pytest.raises(InvalidValueError, match="tracking_uri is no option of hf-folder, which"):
        push(version, "hf-folder", path=tmp_path / "hf", tracking_uri="x")


@pytest.mark.parametrize("to", ["mlflow", "wandb", "hf-folder"])
def test_a_version_that_was_changed_goes_nowhere(to, version, damaged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    damage(version)
    options = {"path": tmp_path / "hf"} if to == "hf-folder" else {}
    with pytest.raises(DamagedError):
        push(version, to, **options)
    assert {path.name for path in tmp_path.iterdir()} <= {"root", "damaged"}


# MLflow -------------------------------------------------------------------------------------------


@pytest.fixture
def look(mlflow, mlflow_server):
    """MLflow's own client."""
    return mlflow.MlflowClient(mlflow_server.uri)


def test_in_mlflow_it_is_a_version_with_its_files_and_lineage(
    version, mlflow, mlflow_server, look, tmp_path
):
    place = push(version, "mlflow", tracking_uri=mlflow_server.uri)
    assert place == f"{mlflow_server.uri}/#/models/my-digits/versions/1"
    found = look.get_model_version("my-digits", "1")
    assert found.description == "What it is."
    told = {
        "experiment_tracking.version": "my.digits/1", "experiment_tracking.run": "digits/first",
        "experiment_tracking.run_id": version.run_id, "stage": "None", "team": "vision",
        "framework": "arrays", "metric.val/acc_1": "0.9", "metric.loss": "inf", "param.lr": "0.1",
        "param.net.depth": "3", "experiment_tracking.aliases": "champion, v9",
    }  # fmt: skip
    assert told.items() <= found.tags.items()
    assert look.get_model_version_by_alias("my-digits", "champion").version == "1"
    run = look.get_run(found.run_id)
    assert run.info.run_name == "first"
    assert run.info.status == "FINISHED"
    assert run.data.tags["experiment_tracking.run_id"] == version.run_id
    mlflow.set_tracking_uri(mlflow_server.uri)
    there = mlflow.artifacts.download_artifacts("models:/my-digits/1", dst_path=tmp_path / "into")
    arrived = {path.name: path.read_bytes() for path in Path(there).iterdir()}
    assert arrived.pop("version.json") == (version.path / "version.json").read_bytes()
    assert arrived == files_of(version)
    assert SavedModel(there).load()["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_where_no_mlflow_is_named_it_is_told_which_it_is(
    version, mlflow, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    place = push(version, "mlflow")
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert place == f"models:/my-digits/1 in {address}"
    assert f"goes to {address}: no other MLflow was named." in capsys.readouterr().err


def test_what_mlflow_does_not_take_for_an_alias_is_told(version, mlflow_server, look, capsys):
    push(version, "mlflow", tracking_uri=mlflow_server.uri, name="told")
    assert "the alias 'v9' is a tag alone in MLflow" in capsys.readouterr().err
    assert look.get_registered_model("told").aliases == {"champion": "1"}


def test_pushed_again_a_version_is_brought_up_to_date_and_not_doubled(
    version, registry, mlflow_server, look
):
    first = push(version, "mlflow", tracking_uri=mlflow_server.uri, name="twice")
    registry.transition("my.digits", 1, "Production")
    registry.set_alias("my.digits", "best", 1)
    registry.describe("my.digits", "Better said.", 1)
    again = push(registry.get("my.digits"), "mlflow", tracking_uri=mlflow_server.uri, name="twice")
    assert again == first
    [found] = look.search_model_versions("name='twice'")
    assert (found.tags["stage"], found.description) == ("Production", "Better said.")
    assert look.get_registered_model("twice").aliases == {"champion": "1", "best": "1"}


def test_versions_of_one_run_share_its_copy_and_are_told_apart(
    version, registry, root, mlflow_server, look
):
    second = registry.register("digits/first", "net", name="my.digits")
    for each in (version, second):
        push(each, "mlflow", tracking_uri=mlflow_server.uri, name="both")
    found = look.search_model_versions("name='both'")
    assert sorted(each.version for each in found) == ["1", "2"]
    assert len({each.run_id for each in found}) == 1
    assert len({each.source for each in found}) == 2


def test_a_service_that_is_away_is_told_by_its_address(version, mlflow):
    with pytest.raises(BackendUnavailableError, match=r"MLflow at http://127\.0\.0\.1:9 does not"):
        push(version, "mlflow", tracking_uri="http://127.0.0.1:9")


# Weights & Biases ---------------------------------------------------------------------------------


@wandb_installed
def test_offline_it_is_an_artifact_with_its_files(version, registry, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "offline"))
    registry.transition("my.digits", 1, "Staging")
    place = push(registry.get("my.digits"), "wandb", mode="offline")
    assert Path(place).parent == tmp_path / "offline" / "wandb"
    [path] = find_logs(place)
    log = WandbLog(path).read()
    assert (log.run.project, log.run.name) == ("digits", "my.digits version 1")
    [artifact] = log.artifacts
    assert (artifact.name, artifact.type) == ("my.digits", "model")
    assert artifact.description == "What it is."
    assert {*artifact.aliases} == {"latest", "version-1", "staging", "champion", "v9"}
    assert artifact.metadata["run"] == "digits/first"
    assert artifact.metadata["metrics"]["loss"] == "Infinity"
    arrived = {file.path: Path(file.local_path).read_bytes() for file in artifact.files}
    assert arrived.pop("version.json") == (version.path / "version.json").read_bytes()
    assert arrived == files_of(version)
    assert (log.exit_code, log.problems) == (0, [])


@wandb_installed
def test_online_it_arrives_before_the_call_returns(version, wandb_server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "online"))
    for name, value in wandb_server.variables().items():
        monkeypatch.setenv(name, value)
    place = push(version, "wandb", project="models")
    assert "my.digits" in place
    sent = {name.rpartition("/")[2]: data for name, data in wandb_server.uploads.items()}
    assert files_of(version).items() <= sent.items()
    [artifact] = wandb_server.artifacts
    assert artifact["artifactTypeName"] == "model"
    assert {each["alias"] for each in artifact["aliases"]} == {
        "latest", "version-1", "champion", "v9",
    }  # fmt: skip
    assert not (tmp_path / "online").exists()


@wandb_installed
def test_wandb_that_is_switched_off_takes_nothing(version):
    with pytest.raises(BackendError, match="W&B is disabled"):
        push(version, "wandb", mode="disabled")


# Hugging Face -------------------------------------------------------------------------------------


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def test_the_folder_for_the_hub_has_weights_config_card_and_figures(version, tmp_path):
    folder = push(version, "hf-folder", path=tmp_path / "hf")
    assert folder == str(tmp_path / "hf")
    files = content(folder)
    assert files.keys() == {
        "README.md", "config.json", "model.json", "model.safetensors",
        "figures/curves/loss-000002.png",
    }  # fmt: skip
    config = json.loads(files["config.json"])
    assert config["params"] == {"lr": 0.1, "net": {"depth": 3}}
    assert config["experiment_tracking"]["version"] == "my.digits/1"
    card = files["README.md"].decode()
    assert card.startswith('---\nlibrary_name: "numpy"\n')
    assert "![curves/loss, step 2](figures/curves/loss-000002.png)" in card
    assert SavedModel(folder).load()["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_its_weights_are_read_by_plain_safetensors(version, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    folder = push(version, "hf-folder", path=tmp_path / "hf")
    state = safetensors.load_file(os.path.join(folder, "model.safetensors"))
    assert state["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_written_again_only_its_own_files_are_replaced(registry, train, tmp_path):
    first, second = (registry.register(train(f"run{n}", [n]), name="digits") for n in (1, 2))
    folder = tmp_path / "clone"
    (folder / ".git").mkdir(parents=True)
    push(first, "hf-folder", path=folder)
    (folder / "LICENSE").write_text("mine")
    push(second, "hf-folder", path=folder)
    assert SavedModel(folder).load()["w"].tolist() == [2, 2, 2]
    assert (folder / "LICENSE").read_text() == "mine"
    assert (folder / ".git").is_dir()


def test_what_the_next_version_does_not_have_goes(version, registry, train, tmp_path):
    push(version, "hf-folder", path=tmp_path / "hf")
    push(registry.register(train(), name="plain"), "hf-folder", path=tmp_path / "hf")
    assert content(tmp_path / "hf").keys() == {
        "README.md", "config.json", "model.json", "model.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "model.safetensors"])
def test_a_folder_of_somebody_elses_is_left_as_it_is(name, version, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text('{"model_type": "bert"}')
    with pytest.raises(InvalidValueError, match="nothing is overwritten"):
        push(version, "hf-folder", path=tmp_path / "mine")
    assert content(tmp_path / "mine") == {name: b'{"model_type": "bert"}'}


def test_a_file_in_the_place_of_one_that_is_to_come_is_not_overwritten(
    version, train, registry, tmp_path
):
    push(registry.register(train(), name="plain"), "hf-folder", path=tmp_path / "hf")
    picture = tmp_path / "hf" / "figures" / "curves" / "loss-000002.png"
    picture.parent.mkdir(parents=True)
    picture.write_text("mine")
    before = content(tmp_path / "hf")
    with pytest.raises(InvalidValueError, match="was not written by this command"):
        push(version, "hf-folder", path=tmp_path / "hf")
    assert content(tmp_path / "hf") == before


@pytest.mark.parametrize("listed", ["../secret", "link/secret", "/etc/hostname", "a\0b", 7])
def test_a_config_that_names_files_elsewhere_deletes_none_of_them(listed, version, tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "link").symlink_to(tmp_path)
    mark = {"experiment_tracking": {"files": [listed]}}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(mark))
    push(version, "hf-folder", path=tmp_path / "hf")
    assert (tmp_path / "secret").read_text() == "x"


def test_a_push_that_was_killed_is_gone_on_with(version, tmp_path):
    push(version, "hf-folder", path=tmp_path / "hf")
    for name in ("README.md", "model.json", "model.safetensors"):
        (tmp_path / "hf" / name).unlink()
    push(version, "hf-folder", path=tmp_path / "hf")
    assert SavedModel(tmp_path / "hf").load()["w"].shape == (2, 3)
