"""The examples as a newcomer runs them: processes of their own, started in an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from experiment_tracking import ExperimentRegistry, ModelRegistry
from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.folder.check import check
from experiment_tracking.folder.layout import ROOT_VARIABLE, is_root

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = REPOSITORY / "examples"
NOTEBOOK = EXAMPLES / "compare_runs.ipynb"
CONFIGS = ("small", "wide", "wide-slow", "deep")


def environment(root, first=""):
    ours = {name for name in os.environ if name.startswith("EXPERIMENT_TRACKING_")}
    paths = [str(first), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        ROOT_VARIABLE: str(root),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        # Several threads on so small a network wait for each other more than they work.
        "OMP_NUM_THREADS": "1",
    }


def run_example(script, folder, root, *arguments, path=""):
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments],
        cwd=folder,
        env=environment(root, path),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def run_notebook(folder):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer")
    root = folder / "experiments"
    return root, run_example("quickstart.py", folder, root)


def test_quickstart_leaves_four_finished_runs_with_all_their_epochs(quickstart):
    root, _ = quickstart
    runs = ExperimentRegistry(root).list_experiments("digits")
    assert sorted(runs.names) == sorted(CONFIGS)
    for run in runs:
        assert run.status == "finished"
        assert {"hidden", "learning_rate", "seed"} <= set(run.params)
        assert list(run.history()["step"]) == list(range(25))
        assert run.value("val/accuracy") > 0.85
    assert check(root) == []


def test_quickstart_prints_the_comparison_and_how_to_go_on(quickstart):
    root, printed = quickstart
    for word in (*CONFIGS, "params.learning_rate", "val/accuracy", "Best: ", "experiments ls"):
        assert word in printed
    assert "experiments tensorboard" in printed
    assert check(root) == []


def test_quickstart_keeps_a_confusion_matrix_with_something_on_it(quickstart):
    root, _ = quickstart
    for name in CONFIGS:
        with Image.open(root / "digits" / name / "figures" / "confusion.png") as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 10
    assert check(root) == []


def test_quickstarts_weights_come_back_as_the_arrays_they_were(quickstart):
    root, _ = quickstart
    weights = ExperimentRegistry(root).get("digits/deep").load_model()["weights"]
    assert [array.shape for array in weights] == [(64, 128), (128, 64), (64, 10)]
    assert check(root) == []


def test_a_run_of_the_quickstart_repeats_as_the_readme_says(quickstart, tmp_path):
    root = shutil.copytree(quickstart[0], tmp_path / "experiments")
    done = subprocess.run(
        [sys.executable, "-m", "experiment_tracking", "rerun", "digits/deep", "--verify"],
        cwd=tmp_path, env=environment(root), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "digits/deep-rerun repeats digits/deep" in done.stdout
    assert check(root) == []


def test_the_notebook_trains_a_sweep_and_compares_it_in_a_real_kernel(tmp_path, monkeypatch):
    root = tmp_path / "experiments"
    for name, value in environment(root).items():
        monkeypatch.setenv(name, value)
    outputs = run_notebook(tmp_path)
    runs = ExperimentRegistry(root).list_experiments("digits-sweep", status="finished")
    assert len(runs) == 12
    assert max(runs.column("val/accuracy:max")) > 0.95
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 3  # curves, scatter and heat map
    pages = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    for shown in (
        "12 finished",
        "★",
        "<svg",
        "data:image/png",
        "No difference in",
        "± std",
        "hidden",
    ):
        assert shown in pages
    assert not [output for output in outputs if output["output_type"] == "error"]
    said = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert "".join(said).count("experiment_tracking: run digits-sweep/") == 12
    assert "".join(said).count("\n") == 12
    assert check(root) == []


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count or cell.metadata for cell in code)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_the_pytorch_loop_trains_and_reads_its_best_weights_back(tmp_path):
    pytest.importorskip("torch", reason="pip install torch==2.13.0")
    root = tmp_path / "runs"
    printed = run_example(
        "pytorch_training.py", tmp_path, "unused", "--epochs", "2", "--root", str(root)
    )
    run = ExperimentRegistry(root).get("digits/pytorch-cnn")
    assert run.status == "finished"
    assert list(run.history()["step"]) == [0, 1]
    assert f"read back: val/loss {run.value('val/loss:min'):.4f}" in printed
    assert run.load_model()["0.weight"].shape == (16, 1, 3, 3)
    assert check(root) == []


def test_the_jax_loop_trains_and_keeps_its_tree_of_weights(tmp_path):
    pytest.importorskip("jax", reason="pip install jax")
    root = tmp_path / "runs"
    run_example("jax_training.py", tmp_path, "unused", "--epochs", "2", "--root", str(root))
    run = ExperimentRegistry(root).get("digits/jax-mlp")
    assert run.status == "finished"
    assert list(run.history()["step"]) == [0, 1]
    assert [layer["w"].shape for layer in run.load_model()] == [(64, 128), (128, 64), (64, 10)]
    assert check(root) == []


@pytest.mark.parametrize(
    ("framework", "packages"), [("torch", ["torch"]), ("nnx", ["flax", "optax", "flatbuffers"])]
)
def test_the_better_model_goes_to_production_through_the_gate(framework, packages, tmp_path):
    for package in packages:
        pytest.importorskip(package, reason=f"pip install {package}")
    root = tmp_path / "runs"
    printed = run_example(
        "model_registry.py", tmp_path, "unused", "--framework", framework, "--root", str(root)
    )
    registry = ModelRegistry(root)
    large = registry.get("models:/digits/Production")
    assert (large.version, large.run, registry.get("digits/1").stage) == (
        2,
        "digits/large",
        "Archived",
    )
    assert large.metrics["val/accuracy"] >= 0.95 > registry.get("digits/1").metrics["val/accuracy"]
    assert "refused: digits/1 may not go to Production: it needs val/accuracy >= 0.95" in printed
    assert "after the rollback: <ModelVersion digits/1 Production>" in printed
    assert (
        f"{large.uri} from digits/large: {large.metrics['val/accuracy']:.3f} are right" in printed
    )
    assert check(root) == []


def test_the_mirrored_run_is_whole_wherever_a_package_is_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "runs"
    run_example("mirrored_training.py", tmp_path, root)
    run = ExperimentRegistry(root).get("digits/mirrored")
    installed = {name for name in ("mlflow", "wandb") if is_installed(name)}
    assert {name for name, state in run.mirrors.items() if state["complete"]} == installed
    assert (tmp_path / "mlflow.db").exists() == ("mlflow" in installed)
    assert run.value("val/accuracy") > 0.85
    assert check(root) == []


def test_the_mirrored_run_needs_no_service(tmp_path):
    folder = tmp_path / "without"
    folder.mkdir()
    # An entry of None is how Python itself notes that a module is not to be had.
    (folder / "sitecustomize.py").write_text(
        "import sys; sys.modules.update(mlflow=None, wandb=None)"
    )
    root = tmp_path / "runs"
    run_example("mirrored_training.py", tmp_path, root, path=folder)
    run = ExperimentRegistry(root).get("digits/mirrored")
    assert (run.status, run.mirrors) == ("finished", {})
    assert check(root) == []


def test_the_repositorys_own_root_is_known_by_its_readme():
    assert is_root(str(REPOSITORY / "experiments"))


def test_the_examples_readme_names_every_example():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for example in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")]:
        assert f"({example.name})" in text
