"""Models as ONNX: written by torch and skl2onnx, then computed by onnxruntime and compared.

torch's graph goes there by way of our own reader of it, which computes with operators on tensors
alone: ``torch.export.load`` would run what a stranger's file says.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import (
    ExperimentTrackingError,
    InvalidValueError,
    MissingPackageError,
    NotFoundError,
)
from experiment_tracking.formats.models.interface import as_call

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from experiment_tracking.models.version import ModelVersion

_ROWS = 64
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
_RELATIVE_HALF = 1e-2
_HALF_BYTES = 2


# ---------------------------------------------------------------------- torch


def from_torch(version: ModelVersion, path: str) -> None:
    """Write the program of a torch model; a first axis is as free as it was saved.

    Raises
    ------
    InvalidValueError
        If torch or onnxruntime cannot, or if the file computes something else.
    """
    torch = _needed("torch", "onnx", "onnxscript")
    program: Any = version.load_program()
    with _refused(version, "torch traces it"):
        traced = _Traced(torch, program, *as_call(version.model.load_example()))
    with _refused(version, "torch.onnx writes it"):
        traced.write(path, _output_names(version))
    _compare(version, path, [traced.trial(traced.example), traced.trial(traced.twice())])


class _Traced:
    """A saved program as a module that torch's own exporter can trace.

    Parameters
    ----------
    torch
        The package.
    program
        As :meth:`load_program` gives it.
    args, named
        What it was saved with as an example.
    """

    def __init__(
        self, torch: Any, program: Any, args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> None:
        from experiment_tracking.formats.models.torch_program import _flat, _Input

        self._torch = torch
        leaves = _flat(program._in, program._in_order(args, named))
        values = [
            slot.take(next(leaves)) if isinstance(slot, _Input) else slot for slot in program._slots
        ]
        # What goes in and is no tensor was built into the program.
        places: dict[int, Any] = {
            place: slot
            for place, slot in enumerate(program._slots)
            if isinstance(slot, _Input) and slot.dtype is not None
        }
        self._inputs = list(places.values())
        self.module = _module(torch, program._graph, values, list(places))
        # torch takes an axis of 1 for a constant.
        given = [(slot, values[place]) for place, slot in places.items()]
        self.example = [self._repeated(s, t) if 1 in t.shape[:1] else t for s, t in given]

    def _repeated(self, slot: Any, tensor: Any) -> Any:
        is_free = bool(slot.shape) and slot.shape[0] is None
        return self._torch.cat([tensor, tensor]) if is_free else tensor

    def twice(self) -> list[Any]:
        """Return the example with twice as many rows, where their number is free."""
        return [self._repeated(*each) for each in zip(self._inputs, self.example, strict=True)]

    def write(self, path: str, output_names: Sequence[str] | None) -> None:
        """Have torch write it."""
        free = self._torch.export.Dim.AUTO
        axes = [
            {axis: free for axis, size in enumerate(slot.shape) if size is None}
            for slot in self._inputs
        ]
        logger = logging.getLogger("torch.onnx")
        before, logger.level = logger.level, logging.ERROR
        try:
            made = self._torch.onnx.export(
                self.module, tuple(self.example), dynamo=True, verbose=False,
                dynamic_shapes={"tensors": tuple(axes)}, output_names=output_names,
                input_names=[slot.name for slot in self._inputs],
            )  # fmt: skip
            # One file: weights that stood beside it would be lost on the way.
            model = made.model_proto
        finally:
            logger.level = before
        _name_rows(model.graph)
        with open(path, "wb") as file:
            file.write(model.SerializeToString())

    def trial(self, tensors: list[Any]) -> _Trial:
        """Return what goes in by name, and what comes out."""
        with self._torch.no_grad():
            results = self.module(*(tensor.clone() for tensor in tensors))
        results = results if isinstance(results, tuple) else (results,)
        names = [slot.name for slot in self._inputs]
        arrays = [tensor.numpy(force=True) for tensor in tensors]
        outputs = [r.numpy(force=True) for r in results if isinstance(r, self._torch.Tensor)]
        return dict(zip(names, arrays, strict=True)), outputs


def _name_rows(graph: Any) -> None:
    """Call what is free ``batch``, for people to read: torch numbers it, as in ``s95``."""
    free = [
        dim.dim_param
        for value in graph.input
        for dim in value.type.tensor_type.shape.dim
        if dim.dim_param
    ]
    names = {
        symbol: f"batch_{place}" if place else "batch"
        for place, symbol in enumerate(dict.fromkeys(free))
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:  # it may be a formula: 2*s95
                dim.dim_param = _SYMBOL.sub(lambda m: names.get(m[0], m[0]), dim.dim_param)


def _module(torch: Any, graph: Any, values: Sequence[Any], places: Sequence[int]) -> Any:
    """Make a module of a graph: tensors in at some places, all other values stay as they are."""

    class Computed(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for place, value in enumerate(values):
                if isinstance(value, torch.Tensor) and place not in places:
                    self.register_buffer(f"weight_{place}", value)

        def forward(self, *tensors: Any) -> Any:
            """Walk the graph with these in the places of the inputs."""
            now = list(values)
            for name, weight in self.named_buffers(remove_duplicate=False):
                now[int(name.removeprefix("weight_"))] = weight
            for place, tensor in zip(places, tensors, strict=True):
                now[place] = tensor
            return graph(*now)

    return Computed().eval()


def _output_names(version: ModelVersion) -> list[str] | None:
    """Return the outputs' names of the signature, where each has one of its own."""
    signature = version.model.document.get("signature") or {}
    names = [str(entry.get("name")) for entry in signature.get("outputs") or []]
    return names if names and len(set(names)) == len(names) else None


# ---------------------------------------------------------------------- scikit-learn


def from_sklearn(version: ModelVersion, path: str, trusted: Iterable[str] = ()) -> None:
    """Write a scikit-learn model that takes one matrix of numbers.

    Raises
    ------
    InvalidValueError
        If skl2onnx or onnxruntime cannot, or if the file computes something else.
    """
    model: Any = version.load(trusted=trusted)
    skl2onnx = _needed("skl2onnx", "onnx")
    with _refused(version, "skl2onnx writes it"):
        rows = _rows(version, model)
        options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
        made = skl2onnx.to_onnx(model, rows[:1], options=options)
        data: bytes = made.SerializeToString()
        outputs = _computed(model, rows)
    with open(path, "wb") as file:
        file.write(data)
    _compare(version, path, [({made.graph.input[0].name: rows}, outputs)])


def _rows(version: ModelVersion, model: Any) -> NDArray[Any]:
    """Return the example that was saved, or numbers where there is none, as float32."""
    import numpy as np

    try:
        args, named = as_call(version.model.load_example())
        columns = list(named.values()) or list(args)
        table = np.stack(columns, axis=1) if named else np.asarray(columns[0])
    except NotFoundError:
        table = np.random.default_rng(0).normal(size=(_ROWS, model.n_features_in_))
    return table.astype(np.float32)


def _computed(model: Any, rows: NDArray[Any]) -> list[NDArray[Any]]:
    import numpy as np

    methods = ("predict", "predict_proba") if hasattr(model, "predict") else ("transform",)
    return [np.asarray(getattr(model, m)(rows)) for m in methods if hasattr(model, m)]


# ---------------------------------------------------------------------- comparing

_Trial = tuple[Mapping[str, "NDArray[Any]"], list["NDArray[Any]"]]
"""What a file is given by name, and what has to come out first."""


def _compare(version: ModelVersion, path: str, trials: Iterable[_Trial]) -> None:
    import numpy as np

    runtime = _needed("onnxruntime")
    with _refused(version, "onnxruntime computes it"):
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for inputs, outputs in trials:
            # An input that the model does not use is none in the file.
            given = {each.name: inputs[each.name] for each in session.get_inputs()}
            for found, expected in zip(session.run(None, given), outputs, strict=False):
                _check_same(version, np.asarray(found), expected)


def _check_same(version: ModelVersion, found: NDArray[Any], expected: NDArray[Any]) -> None:
    if found.shape != expected.shape and found.size == expected.size:
        found = found.reshape(expected.shape)  # skl2onnx gives a column for a vector
    if found.shape == expected.shape and _is_same(found, expected):
        return
    how = f"shape {found.shape} in place of {expected.shape}"
    if found.shape == expected.shape:
        how = f"{int((found != expected).sum()):,} of {expected.size:,} numbers differ"
    raise InvalidValueError(
        f"{version.key}: its ONNX file does not compute what the model does ({how}), so it is not "
        "given. Use the model itself, or its own program."
    )


def _is_same(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    import numpy as np

    if not np.issubdtype(expected.dtype, np.inexact):
        return bool((found == expected).all())
    is_half = expected.dtype.itemsize == _HALF_BYTES
    scale = float(np.abs(np.nan_to_num(expected, posinf=0, neginf=0)).max(initial=0))
    relative = _RELATIVE_HALF if is_half else _RELATIVE
    return np.allclose(found, expected, relative, _ABSOLUTE * scale, equal_nan=True)


@contextmanager
def _refused(version: ModelVersion, what: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # About the packages' own use of each other; -W error would make failures of them.
            warnings.simplefilter("ignore")
            yield
    except ExperimentTrackingError:
        raise
    except Exception as error:  # of any class: exporters have no common one
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise InvalidValueError(
            f"{version.key} cannot be exported to ONNX: where {what}, "
            f"{type(error).__name__}: {reason}"
        ) from error


def _needed(*packages: str) -> Any:
    """Import packages; return the first."""
    from importlib import import_module

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first, *_ = [import_module(package) for package in packages]
    except ImportError as error:
        missing, install = error.name or packages[0], "'experiment_tracking[models]'"
        raise MissingPackageError("Export to ONNX", missing, install) from error
    return first
