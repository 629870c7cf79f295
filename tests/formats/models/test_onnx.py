import sys

import numpy as np
import pytest

from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
)

pytest.importorskip("onnx", reason="pip install 'experiment_tracking[models]'")
pytest.importorskip("onnxruntime", reason="pip install 'experiment_tracking[models]'")

from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)


def of(nodes, inputs, outputs):
    """Make a model of float matrices, with ``w`` a tensor of its own."""
    matrices = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
         for name, width in each.items()]
        for each in (inputs, outputs)
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", *matrices, [numpy_helper.from_array(WEIGHTS, "w")])
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def product():
    return of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": 3}, {"y": 2})


def test_a_model_comes_back_and_computes(saved):
    model, rows = product(), np.ones((4, 3), np.float32)
    kept = saved(model, input_example=rows)
    assert kept.load() == model
    np.testing.assert_array_equal(kept.load_program()(rows), rows @ WEIGHTS)
    np.testing.assert_array_equal(kept.load_program()(x=rows[:2]), rows[:2] @ WEIGHTS)
    document = kept.document
    assert document["parameter_count"] == 6
    assert document["signature"]["outputs"] == [
        {"name": "output", "dtype": "float32", "shape": [-1, 2]}
    ]
    assert document["files"]["weights"]["file"].endswith(".onnx")


def test_several_inputs_go_by_place_or_name_and_several_outputs_come(saved):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Add", ["y", "b"], ["z"]),
    ]
    model = of(nodes, {"x": 3, "b": 2}, {"y": 2, "z": 2})
    x, b = np.ones((4, 3), np.float32), np.full((4, 2), 2, np.float32)
    program = saved(model, input_example={"x": x, "b": b}).load_program()
    for outputs in (program(x, b), program(x, b=b), program(b=b, x=x)):
        np.testing.assert_array_equal(outputs[0], x @ WEIGHTS)
        np.testing.assert_array_equal(outputs[1], x @ WEIGHTS + b)
    for args, named in (((x,), {}), ((x, b, b), {}), ((x, b), {"b": b}), ((), {"x": x, "c": b})):
        with pytest.raises(InvalidTypeError, match="takes x, b"):
            program(*args, **named)


def outside(model, location="../../secret"):
    """Say that a tensor's data is in another file."""
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return model


def test_a_model_whose_weights_are_in_another_file_is_refused(saved):
    with pytest.raises(InvalidValueError, match=r"'w'.*onnx\.load"):
        saved(outside(product()))


def test_a_tensor_inside_a_node_is_looked_at_too(saved):
    tensor = numpy_helper.from_array(WEIGHTS, "deep")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    node = helper.make_node("Constant", [], ["w2"], value=tensor)
    model = of([node, helper.make_node("MatMul", ["x", "w2"], ["y"])], {"x": 3}, {"y": 2})
    with pytest.raises(InvalidValueError, match="deep"):
        saved(model)


def test_a_file_that_points_out_of_itself_is_refused(saved, forge):
    elsewhere = outside(product(), "/etc/hostname").SerializeToString()
    kept = forge(saved(product()), elsewhere)
    for load in (kept.load, kept.load_program):
        with pytest.raises(DamagedError, match="in another file"):
            load()


def test_other_bytes_in_its_place_are_damage(saved, forge):
    import pickle

    kept = saved(product())
    whole = product().SerializeToString()
    for data in (b"", b"junk", whole[:60], pickle.dumps([1])):
        with pytest.raises(DamagedError, match="no whole ONNX model"):
            forge(kept, data).load()


def test_without_onnxruntime_the_error_says_what_to_install(saved, monkeypatch):
    kept = saved(product())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'experiment_tracking\[models\]'"):
        kept.load_program()
    assert kept.load() == product()
