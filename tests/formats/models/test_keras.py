"""Keras keeps the backend that it is first imported with, so it runs in processes of its own."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from experiment_tracking.backends.catalog import is_installed

if not is_installed("keras") or not is_installed("jax"):
    pytest.skip("pip install keras jax", allow_module_level=True)

from experiment_tracking.formats.models.saved import SavedModel

REPOSITORY = Path(__file__).parents[3]

TRAIN = """
import json, sys
import keras, numpy as np
from experiment_tracking.tracker import ExperimentTracker
from experiment_tracking.registry.record import RunRecord

root, results = sys.argv[1], {}
keras.utils.set_random_seed(0)
run = ExperimentTracker("p", root=root, use_tensorboard=False, auto_log=False).start_run("a")
x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)

def network():
    layers = [keras.Input((8,)), keras.layers.Dense(4, activation="relu"),
              keras.layers.Dropout(0.5), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    made = keras.Sequential(layers)
    made.compile("adam", "mse")
    return made

def refused(attempt):
    try:
        attempt()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def saved(name):
    return RunRecord(run.path).saved_model(name)

model = network()
# One step, by hand: this backend has no gradients.
model.optimizer.apply([v * 0 + 1 for v in model.trainable_variables], model.trainable_variables)
run.log_model(model, "net", optimizer=model.optimizer, input_example=x[:2])
expected = model.predict_on_batch(x)
np.save(root + "/x.npy", x)
np.save(root + "/expected.npy", expected)
loaded = saved("net").load()
results["equal"] = bool((loaded.predict_on_batch(x) == expected).all())
state = [np.asarray(v) for v in model.optimizer.variables]
restored = [np.asarray(v) for v in saved("net").load_optimizer().variables]
results["optimizer"] = len(state) > 2 and all(map(np.array_equal, state, restored))
mine = network()
filled = saved("net").load(into=mine)
results["into"] = filled is mine and bool((mine.predict_on_batch(x) == expected).all())
results["foreign optimizer"] = refused(lambda: run.log_model(model, "o", optimizer={"lr": 1}))

two = [keras.Input((8,), name="left"), keras.Input((8,), name="right")]
sums = keras.layers.Dense(1)(keras.layers.Add()(two))
pair = keras.Model(two, {"sum": sums})
run.log_model(pair, "pair", input_example={"left": x, "right": x})
got = saved("pair").load_program()(left=x, right=x)
results["pair"] = bool((got["sum"] == np.asarray(pair.predict_on_batch([x, x])["sum"])).all())

inner = keras.Sequential([keras.Input((8,)), keras.layers.Lambda(lambda x: x * 2)])
deep = keras.Sequential([keras.Input((8,)), inner])
results["lambda"] = refused(lambda: run.log_model(deep, "deep"))
deep.save(root + "/lambda.keras")

@keras.saving.register_keras_serializable("ours")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return x * 2

own = keras.Sequential([keras.Input((8,)), Doubled()])
run.log_model(own, "own")
results["own"] = bool((saved("own").load().predict_on_batch(x) == x * 2).all())
run.end_run()
print(json.dumps(results))
"""

SERVE = """
import json, sys
import numpy as np
from pathlib import Path
from experiment_tracking.formats.models.saved import SavedModel

root, results = Path(sys.argv[1]), {}
models = root / "p/a/models"
program = SavedModel(models / "net").load_program()
import keras
from experiment_tracking.formats.models.keras import KerasFormat
results["backend"] = keras.backend.backend()
results["device"] = KerasFormat().device(SavedModel(models / "net").load())
found, expected = program(np.load(root / "x.npy")), np.load(root / "expected.npy")
results["equal"] = type(found) is np.ndarray and np.allclose(found, expected, rtol=1e-5)
for name in ("own", *sys.argv[2:]):
    try:
        SavedModel(models / name).load()
    except Exception as error:
        results[name] = f"{type(error).__name__}: {error}"
keras.__version__ = "3.11.3"
try:
    SavedModel(models / "net").load()
except Exception as error:
    results["old"] = f"{type(error).__name__}: {error}"
print(json.dumps(results))
"""


def process(script, backend, *words):
    # What numpy 2.4 deprecates, Keras 3.15 does at every array: its warnings are not ours.
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        env=os.environ | {
            "KERAS_BACKEND": backend, "KERAS_HOME": str(words[0]), "PYTHONPATH": str(REPOSITORY)
        },
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train models in one process; return the root and what it found out."""
    root = tmp_path_factory.mktemp("keras")
    return root, process(TRAIN, "numpy", root)  # the quickest to start


@pytest.fixture(scope="module")
def served(trained):
    """Load in another process that has none of the code; beside them files of an enemy's."""
    root, _ = trained
    whole = (root / "p/a/models/net/weights-000001.keras").read_bytes()
    forged = {
        "lambda": (root / "lambda.keras").read_bytes(),
        "system": _with_config(whole, _runs_a_command(root / "canary")),
        "junk": b"junk",
        "cut": whole[:300],
    }
    for name, data in forged.items():
        _lay(root / "p/a/models", name, data)
    return process(SERVE, "jax", root, *forged)


def _lay(models, name, data):
    from hashlib import sha256

    document = SavedModel(models / "net").document
    weights = document["files"]["weights"]
    weights |= {"size_bytes": len(data), "sha256": sha256(data).hexdigest()}
    (models / name).mkdir()
    (models / name / weights["file"]).write_bytes(data)
    (models / name / "model.json").write_text(json.dumps(document))


def _runs_a_command(canary):
    """Name a function of the standard library where a layer's should be."""

    def change(config):
        function = {"module": "os", "class_name": "function", "config": "system"}
        config["config"]["layers"][1] = {
            "module": "keras.layers", "class_name": "Lambda", "registered_name": None,
            "config": {"name": "l", "function": function | {"registered_name": "function"},
                       "arguments": {"command": f"touch {canary}"}},
        }  # fmt: skip

    return change


def _with_config(data, change):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            if name == "config.json":
                config = json.loads(part)
                change(config)
                part = json.dumps(config).encode()
            new.writestr(name, part)
    return out.getvalue()


def test_a_model_comes_back_with_its_optimizer(trained):
    _, results = trained
    assert results["equal"]
    assert results["optimizer"]


def test_its_weights_are_read_into_a_model_of_the_same_layers(trained):
    assert trained[1]["into"]


def test_another_optimizer_than_its_own_is_refused(trained):
    assert "optimizer that it was compiled with" in trained[1]["foreign optimizer"]


def test_inputs_and_outputs_with_names_keep_them(trained):
    root, results = trained
    assert results["pair"]
    document = SavedModel(root / "p/a/models/pair").document
    assert document["signature"] == {
        "inputs": [{"name": n, "dtype": "float32", "shape": [-1, 8]} for n in ("left", "right")],
        "outputs": [{"name": "sum", "dtype": "float32", "shape": [-1, 1]}],
    }


def test_what_stands_beside_it_says_how_it_was_made(trained):
    document = SavedModel(trained[0] / "p/a/models/net").document
    assert document["framework"] == "keras"
    assert document["parameter_count"] == 8 * 4 + 4 + 4 * 4 + 4 * 2 + 2
    assert document["versions"].keys() == {"python", "keras"}
    assert document["inference_device"] == "cpu"
    assert document["inference_time_ms"] > 0


def test_a_lambda_is_refused_however_deep_it_is(trained):
    assert "InvalidValueError" in trained[1]["lambda"]
    assert "register_keras_serializable" in trained[1]["lambda"]
    assert not (trained[0] / "p/a/models/deep").exists()


def test_a_registered_layer_comes_back_where_its_class_is(trained, served):
    assert trained[1]["own"]
    assert "InvalidValueError" in served["own"]
    assert "Import the module of its layers" in served["own"]


def test_another_process_computes_the_same_with_the_backend_it_has(served):
    assert served["backend"] == "jax"
    assert served["device"] == "cpu"
    assert served["equal"]


def test_code_and_commands_in_a_file_are_refused(trained, served):
    assert "InvalidValueError" in served["lambda"]
    assert "InvalidValueError" in served["system"]
    assert not (trained[0] / "canary").exists()


def test_other_bytes_in_its_place_are_damage(served):
    assert served["junk"].startswith("DamagedError")
    assert served["cut"].startswith("DamagedError")


def test_a_keras_that_files_can_talk_out_of_its_safe_mode_is_refused(served):
    assert "pip install 'keras>=3.12'" in served["old"]
