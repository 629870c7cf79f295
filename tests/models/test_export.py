"""What is exported computes what the model does, in programs that know nothing of it."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiment_tracking.errors import DamagedError, InvalidValueError, NotFoundError
from experiment_tracking.models import to_onnx
from experiment_tracking.models.export import export

REPOSITORY = Path(__file__).parents[2]
X = np.random.default_rng(7).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture
def saved(registry, make):
    """Register a model, with an example of its input unless told otherwise."""

    def saved(model, **options):
        with make("p").start_run() as run:
            run.log_model(model, **options)
        return registry.register(run)

    return saved


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="pip install torch")


@pytest.fixture(scope="module")
def runtime():
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"pip install {package}")
    return pytest.importorskip("onnxruntime", reason="pip install onnxruntime")


@pytest.fixture(scope="module")
def net(torch):
    """A model with what is easily lost: running statistics, dropout, two inputs, two outputs."""
    torch.manual_seed(3)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv1d(1, 2, 3, padding=1)
            self.norm = torch.nn.BatchNorm1d(2)
            self.dropout = torch.nn.Dropout(0.5)
            self.out = torch.nn.Linear(8, 3)

        def forward(self, x, scale):
            hidden = torch.relu(self.norm(self.convolution(x[:, None])))
            hidden = self.dropout(hidden).flatten(1)
            return {"logits": self.out(hidden) * scale, "norm": hidden.norm(dim=1)}

    model = Net()
    model(torch.from_numpy(X), torch.ones(6, 1))  # moves the running statistics
    return model


def computed(runtime, path, *arrays):
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, dict(zip(names, arrays, strict=True)))
    return dict(zip([each.name for each in session.get_outputs()], found, strict=True))


def test_the_program_is_given_as_it_was_registered(saved, net, torch, tmp_path):
    version = saved(net, input_example=(X, np.ones((6, 1), np.float32)))
    path = export(version, "program", tmp_path / "net.pt2")
    known = version.model.document["files"]["program"]
    assert path == tmp_path / "net.pt2"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == known["sha256"]
    with path.open("rb") as file:
        program = torch.export.load(file).module()
    scale = torch.full((2, 1), 0.5)
    expected = version.load_program()(X[:2], scale.numpy())
    assert np.allclose(
        program(torch.from_numpy(X[:2]), scale)["logits"].detach(), expected["logits"]
    )


def test_torch_goes_to_onnx_with_its_names_and_any_number_of_rows(
    saved, net, torch, runtime, tmp_path
):
    version = saved(net, input_example=(X[:1], np.ones((1, 1), np.float32)))
    path = export(version, "onnx", tmp_path / "net.onnx")
    scale = np.full((5, 1), 2, np.float32)
    found = computed(runtime, path, X[:5], scale)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(X[:5]), torch.from_numpy(scale))
    assert found.keys() == {"logits", "norm"}
    for name, values in expected.items():
        assert np.allclose(found[name], values, atol=1e-5)
    assert [file.name for file in tmp_path.glob("*net*")] == ["net.onnx"]
    inputs = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()
    assert [each.shape for each in inputs] == [["batch", 4], ["batch", 1]]


def test_onnx_is_written_without_what_torchs_loader_would_run(
    saved, net, runtime, tmp_path, torch, monkeypatch
):
    """``torch.export.load`` evaluates what stands in a file; a version may be a stranger's."""
    version = saved(net, input_example=(X, np.ones((6, 1), np.float32)))

    def loaded(*args, **options):
        raise AssertionError("torch.export.load was called")

    monkeypatch.setattr(torch.export, "load", loaded)
    monkeypatch.setattr(torch, "load", loaded)
    assert export(version, "onnx", tmp_path / "net.onnx").exists()


def test_a_file_that_computes_something_else_is_not_given(
    saved, net, torch, runtime, tmp_path, monkeypatch
):
    version = saved(net, input_example=(X, np.ones((6, 1), np.float32)))
    written = to_onnx._Traced.write

    def wrong(self, path, names):
        with torch.no_grad():
            bias = next(b for b in self.module.buffers() if b.shape == (3,))
            bias += 0.01
            written(self, path, names)
            bias -= 0.01

    monkeypatch.setattr(to_onnx._Traced, "write", wrong)
    (tmp_path / "net.onnx").write_text("an earlier one")
    with pytest.raises(InvalidValueError, match="does not compute what the model does"):
        export(version, "onnx", tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_text() == "an earlier one"
    assert [file.name for file in tmp_path.iterdir() if "net" in file.name] == ["net.onnx"]


@pytest.mark.parametrize("kind", ["classifier", "regressor", "transformer"])
def test_scikit_learn_goes_to_onnx(kind, saved, runtime, tmp_path):
    pytest.importorskip("skl2onnx", reason="pip install skl2onnx")
    pytest.importorskip("skops", reason="pip install skops")
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = {"classifier": [LogisticRegression()], "regressor": [Ridge()], "transformer": []}[kind]
    words = np.array(["a", "b", "c"] * 2)
    targets = words if kind == "classifier" else X[:, 0] * 2
    model = make_pipeline(StandardScaler(), *steps).fit(X, targets)
    version = saved(model, input_example=X)
    path = export(version, "onnx", tmp_path / "model.onnx")
    found = list(computed(runtime, path, X).values())
    if kind == "classifier":
        assert found[0].tolist() == model.predict(X).tolist()
        assert np.allclose(found[1], model.predict_proba(X), atol=1e-5)
    else:
        expected = model.predict(X) if kind == "regressor" else model.transform(X)
        assert np.allclose(found[0].squeeze(), expected, atol=1e-5)


def test_scikit_learn_without_an_example_is_compared_all_the_same(saved, runtime, tmp_path):
    pytest.importorskip("skl2onnx", reason="pip install skl2onnx")
    pytest.importorskip("skops", reason="pip install skops")
    from sklearn.linear_model import Ridge

    model = Ridge().fit(X, X[:, 0])
    path = export(saved(model), "onnx", tmp_path / "model.onnx")
    assert np.allclose(
        computed(runtime, path, X)["variable"].squeeze(), model.predict(X), atol=1e-5
    )


def test_what_skl2onnx_does_not_know_is_told(saved, runtime, tmp_path):
    pytest.importorskip("skl2onnx", reason="pip install skl2onnx")
    pytest.importorskip("skops", reason="pip install skops")
    from sklearn.cluster import SpectralClustering

    model = SpectralClustering(2, affinity="precomputed").fit(np.eye(4) + 0.1)
    with pytest.raises(InvalidValueError, match="cannot be exported to ONNX: where skl2onnx"):
        export(saved(model), "onnx", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_model_that_is_onnx_is_given_as_it_was_registered(saved, runtime, tmp_path):
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "twice", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, ir_version=10)
    model.opset_import[0].version = 17
    path = export(saved(model), "onnx", tmp_path / "twice.onnx")
    assert computed(runtime, path, X[0])["y"].tolist() == (X[0] * 2).tolist()


def test_other_frameworks_are_told_which_way_there_is(saved, tmp_path):
    version = saved({"w": X})
    with pytest.raises(InvalidValueError, match="is of arrays, which is not exported to ONNX"):
        export(version, "onnx", tmp_path / "x.onnx")
    with pytest.raises(InvalidValueError, match="has no program, it was saved with weights"):
        export(version, "program", tmp_path / "x.pt2")
    with pytest.raises(InvalidValueError, match="Allowed are program, onnx"):
        export(version, "torchscript", tmp_path / "x.pt")
    with pytest.raises(NotFoundError, match=r"There is no folder .*nowhere to write 'x.onnx' in"):
        export(version, "onnx", tmp_path / "nowhere" / "x.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["root"]


def test_scikit_learn_has_no_program_and_is_told_to_go_to_onnx(saved, tmp_path):
    pytest.importorskip("skops", reason="pip install skops")
    linear_model = pytest.importorskip("sklearn.linear_model", reason="pip install scikit-learn")
    version = saved(linear_model.Ridge().fit(X, X[:, 0]), input_example=X)
    with pytest.raises(InvalidValueError, match=r"sklearn has no program.*The way is 'onnx'"):
        export(version, "program", tmp_path / "x.pt2")


def test_a_torch_model_without_a_program_is_told_how_to_have_one(saved, net, tmp_path):
    with pytest.raises(InvalidValueError, match="Log the model with input_example="):
        export(saved(net), "onnx", tmp_path / "net.onnx")


def test_a_program_that_was_changed_is_not_given(saved, net, damaged, tmp_path):
    version = saved(net, input_example=(X, np.ones((6, 1), np.float32)))
    (program,) = version.path.glob("program-*")
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    program.unlink()
    program.write_bytes(data)
    for to in ("program", "onnx"):
        with pytest.raises(DamagedError):
            export(version, to, tmp_path / "net.x")
    assert not (tmp_path / "net.x").exists()


def test_importing_it_imports_no_exporter():
    code = (
        "import sys, experiment_tracking.models.export; print({'onnx', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == "set()\n"
