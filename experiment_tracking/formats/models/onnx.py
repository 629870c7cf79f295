"""ONNX models: one file of Protobuf, which holds all of its tensors; onnxruntime computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any

from experiment_tracking.errors import DamagedError, InvalidTypeError, InvalidValueError
from experiment_tracking.formats.models.interface import Streamed
from experiment_tracking.formats.models.saved import Save
from experiment_tracking.formats.models.whole import WholeFormat, is_a, needed


class OnnxFormat(WholeFormat):
    """``onnx.ModelProto``, as ``torch.onnx.export`` or skl2onnx make it."""

    framework = "onnx"
    packages = ("onnx", "onnxruntime")

    def takes(self, model: object) -> bool:
        """Take models that are in memory."""
        return is_a(model, "onnx", "ModelProto")

    def pack(self, model: Any) -> tuple[Streamed, dict[str, Any]]:
        """Give the model's bytes."""
        if outside := _outside(model):
            raise InvalidValueError(
                f"The tensor {outside!r:.80} of this ONNX model is in another file. Read it in "
                "with onnx.load(path), which brings all of them along, and log that."
            )
        try:
            data = model.SerializeToString(deterministic=True)
        except ValueError as error:
            raise InvalidValueError(
                f"This ONNX model cannot be one file, which holds at most 2 GB ({error}). Log the "
                "model that it was exported from."
            ) from error
        count = sum(prod(tensor.dims) for tensor in model.graph.initializer)
        return Streamed(".onnx", "onnx", lambda: [data]), {"parameter_count": count}

    def open(self, save: Save, trusted: Iterable[str]) -> Any:
        """Parse the file."""
        onnx = needed("onnx", self.framework)
        try:
            model = onnx.load_model_from_string(save.read("weights").tobytes())
        # The class of its errors is Protobuf's, whichever of three implementations that is.
        except Exception as error:
            raise _damaged(save, str(error)) from error
        if not model.HasField("graph"):
            raise _damaged(save, "it has no graph")
        if outside := _outside(model):
            raise _damaged(save, f"its tensor {outside!r:.80} is said to be in another file")
        return model

    def program(self, model: Any) -> Callable[..., Any]:
        """Return a session of onnxruntime on the CPU, in which the graph is compiled.

        It takes arrays by place or by the names of the graph's inputs, in just their dtypes, and
        gives an array, or the list of them where the graph has several outputs.
        """
        return _program(model)

    def run(self, model: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Compile the graph and compute it once."""
        return _program(model)(*args, **named)


def _program(model: Any) -> Callable[..., Any]:
    onnxruntime = needed("onnxruntime", "onnx")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]

    def program(*args: Any, **named: Any) -> Any:
        import numpy as np

        given = dict(zip(names, args, strict=False)) | named
        if len(given) != len(args) + len(named) or set(given) != set(names):
            raise InvalidTypeError(
                f"This model takes {', '.join(names)}; found {len(args)} arguments and the names "
                f"{', '.join(named) or '-'}."
            )
        arrays = {name: np.asarray(value) for name, value in given.items()}
        outputs = session.run(None, arrays)
        return outputs[0] if len(outputs) == 1 else outputs

    return program


def _outside(model: Any) -> str | None:
    """Name a tensor whose data is in another file, which could be any file of the machine."""
    tensors = _tensors(model)
    return next((tensor.name for tensor in tensors if tensor.data_location == 1), None)


def _tensors(message: Any) -> Iterator[Any]:
    """Give all tensors, those of nodes, inner graphs and functions too."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield part
            else:
                yield from _tensors(part)


def _damaged(save: Save, reason: str) -> DamagedError:
    return DamagedError(
        f"{save.subject} is no whole ONNX model ({reason}). Restore it from where it was saved."
    )
