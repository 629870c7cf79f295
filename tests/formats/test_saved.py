import hashlib
import json
import os

import numpy as np
import pytest

from experiment_tracking.errors import DamagedError
from experiment_tracking.formats.saved import load_tree
from experiment_tracking.formats.trees import encode_tree
from experiment_tracking.tracker import ExperimentTracker


@pytest.fixture
def save(tmp_path):
    """Lay a model out as a run does, with other keys of ``model.json`` where they are given."""

    def save(tree, **changes):
        blob, structure = encode_tree(tree)
        sha256 = hashlib.sha256(blob).hexdigest()
        document = {"weights": "w.safetensors", "sha256": sha256, "structure": structure}
        (tmp_path / "w.safetensors").write_bytes(blob)
        (tmp_path / "model.json").write_text(json.dumps(document | changes))
        return tmp_path

    return save


def test_a_model_that_a_run_saved_comes_back(tmp_path):
    tree = {"layers": [np.arange(6.0).reshape(2, 3), np.int8(3)], "name": "β", "lr": 0.1}
    tracker = ExperimentTracker("p", root=tmp_path, use_tensorboard=False, auto_log=False)
    with tracker.start_run("a") as run:
        path = run.log_model({"w": 1.0})
        assert run.log_model(tree) == path
    loaded = load_tree(path)
    np.testing.assert_array_equal(loaded["layers"][0], tree["layers"][0])
    assert (loaded["name"], loaded["lr"], loaded["layers"][1]) == ("β", 0.1, 3)
    assert load_tree(str(path))["name"] == "β"


def test_weights_that_were_changed_are_refused(save):
    folder = save({"w": np.zeros(3)})
    blob = bytearray((folder / "w.safetensors").read_bytes())
    blob[-1] ^= 1
    (folder / "w.safetensors").write_bytes(blob)
    with pytest.raises(DamagedError, match="SHA-256"):
        load_tree(folder)


def test_a_model_without_a_hash_is_refused(save):
    with pytest.raises(DamagedError, match="SHA-256"):
        load_tree(save({"w": np.zeros(3)}, sha256=None))


@pytest.mark.parametrize(
    "name", ["../w.safetensors", "/etc/passwd", "a/w", "a\\w", "..", ".", "", "w\0", None, 3, ["w"]]
)
def test_weights_outside_the_models_folder_are_refused(save, name):
    with pytest.raises(DamagedError, match="a file beside it"):
        load_tree(save({"w": np.zeros(3)}, weights=name))


def test_a_link_in_the_place_of_weights_is_refused(save, tmp_path):
    folder = save({"w": np.zeros(3)})
    os.rename(folder / "w.safetensors", folder / "elsewhere")
    os.symlink(folder / "elsewhere", folder / "w.safetensors")
    with pytest.raises(DamagedError, match="link"):
        load_tree(folder)


def test_a_damaged_structure_is_refused(save):
    with pytest.raises(DamagedError):
        load_tree(save({"w": np.zeros(3)}, structure={}))


def test_a_model_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tree(tmp_path)
