import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiment_tracking.errors import InvalidTypeError
from experiment_tracking.formats.models.saved import SavedModel
from experiment_tracking.formats.models.whole import is_a, plain_array, the_table

REPOSITORY = Path(__file__).parents[3]

LOAD = """
import sys
import numpy as np
from pathlib import Path
from experiment_tracking.formats.models.saved import SavedModel

root = Path(sys.argv[1])
inputs = np.load(root / "inputs.npy")
for name in sys.argv[2:]:
    program = SavedModel(root / "p/a/models" / name).load_program()
    np.save(root / f"{name}-computed.npy", program(inputs))
"""


def test_another_process_computes_the_same_bits_without_the_training_script(make, tmp_path):
    for package in ("sklearn", "xgboost", "lightgbm"):
        pytest.importorskip(package, reason=f"pip install {package}")
    for package in ("skops", "onnx", "onnxruntime"):
        pytest.importorskip(package, reason="pip install 'experiment_tracking[models]'")
    import lightgbm
    import xgboost
    from onnx import TensorProto, helper, numpy_helper
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, digits = load_digits(n_class=3, return_X_y=True)
    images = images.astype(np.float32)
    np.save(tmp_path / "inputs.npy", images)
    models = {
        "forest": RandomForestClassifier(5),
        "pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
        "xgboost": xgboost.XGBClassifier(n_estimators=3, n_jobs=1),
        "lightgbm": lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1),
    }
    expected = {name: model.fit(images, digits).predict(images) for name, model in models.items()}
    weights = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    models["onnx"] = helper.make_model(graph, opset_imports=opset, ir_version=8)

    with make("p", root=tmp_path).start_run("a") as run:
        for name, model in models.items():
            folder = run.log_model(model, name, input_example=images[:4])
    expected["onnx"] = SavedModel(folder).load_program()(images)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", LOAD, str(tmp_path), *models]
    subprocess.run(command, env=environment, check=True)
    for name, predicted in expected.items():
        computed = np.load(tmp_path / f"{name}-computed.npy")
        np.testing.assert_array_equal(computed, predicted, err_msg=name)


def test_a_class_of_a_module_that_is_not_loaded_fits_nothing():
    assert is_a(1.5, "builtins", "int", "float")
    assert not is_a(1.5, "not.loaded", "float")
    assert not is_a(1.5, "builtins", "len", "NotThere")


def test_a_table_is_one_argument_or_columns():
    rows = np.zeros((3, 2))
    assert the_table((rows,), {}) is rows
    assert list(the_table((), {"a": rows[:, 0], "b": rows[:, 1]})) == ["a", "b"]
    for args, named in (((), {}), ((rows, rows), {}), ((rows,), {"a": rows})):
        with pytest.raises(InvalidTypeError, match="one matrix, or columns by name"):
            the_table(args, named)


def test_results_are_dense_arrays():
    sparse = pytest.importorskip("scipy.sparse", reason="pip install scipy")
    assert type(plain_array(sparse.eye(2, format="csr"))) is np.ndarray
    assert plain_array([1, 2]).tolist() == [1, 2]
