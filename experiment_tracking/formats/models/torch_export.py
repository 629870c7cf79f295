"""What ``torch.export`` makes of a model, kept as ``.pt2``.

The program is one that :class:`~experiment_tracking.formats.models.torch_program.Program` reads
again, in just the way in which the model computes; what would not be is refused here, at once.
"""

from __future__ import annotations

import io
import logging
import operator
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass
from typing import Any

from experiment_tracking.errors import InvalidTypeError
from experiment_tracking.formats.models.torch_program import SCHEMA, find_operator, read_tree


def exported(model: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, str]:
    """Return ``torch.export``'s program of a model in eval mode, and how its batch is.

    ``dynamic``: the first axis of a tensor that goes in may have any length; ``static``: only the
    example's.

    Raises
    ------
    InvalidTypeError
        If the program has something that would be refused when it is loaded.
    Exception
        What torch raises, of any class.
    """
    _check_torch(model)
    with _outputs_plain(model), _torch_silent():
        try:
            program = _exported(model, *_of_two((args, dict(named))), dynamic=True)
            batch = "dynamic"
        except Exception:  # Of any class; without a free axis it may succeed, or raise again.
            program = None
        if program is None or not _is_dynamic(program):
            program, batch = _exported(model, args, dict(named), dynamic=False), "static"
    _check(program)
    # torch would pickle them into the file.
    program._example_inputs = None
    return program, batch


def difference(model: Any, program: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> float:
    """Return how far a program is from its model, as a part of the largest number that it gives.

    There are models that torch computes in another way than it exports them: in eval mode
    ``nn.TransformerEncoder`` gives zeros for rows that are masked, its program numbers.
    """
    import torch
    from torch.utils._pytree import tree_leaves, tree_map_only

    results = []
    for compute in (model, program.module()):
        args_, named_ = tree_map_only(torch.Tensor, torch.clone, (args, dict(named)))
        torch.manual_seed(0)
        results.append(tree_leaves(_plain(compute(*args_, **named_))))
    pairs = (p for p in zip(*results, strict=True) if isinstance(p[0], torch.Tensor))
    return max((_apart(*pair) for pair in pairs), default=0.0)


def _apart(expected: Any, found: Any) -> float:
    if expected.shape != found.shape:
        return float("inf")
    if not expected.numel():
        return 0.0
    expected, found = (t if t.is_complex() else t.float().nan_to_num() for t in (expected, found))
    return float((expected - found).abs().max() / expected.abs().max().clamp(1e-30))


def save(program: Any, path: str) -> None:
    """Write a program as ``.pt2``: the same program gives the same bytes."""
    import torch

    # A file and not the path, whose name torch would write into the archive.
    with open(path, "wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at each weight that is a part of a larger memory
        torch.export.save(program, file)


def _check_torch(model: Any) -> None:
    """Refuse models and versions of torch that do not give a program as it is read here."""
    import torch
    from torch._export.serde import schema

    if isinstance(model, torch.jit.ScriptModule):
        raise InvalidTypeError("it is TorchScript; log the module that it was made of")
    # An int before torch 2.3. Before PayloadConfig torch pickled all weights.
    version = schema.SCHEMA_VERSION
    major = version[0] if isinstance(version, tuple) else version
    if major != SCHEMA or not hasattr(schema, "PayloadConfig"):
        raise InvalidTypeError(
            f"torch {torch.__version__} writes schema {version}, this version of "
            f"experiment_tracking reads {SCHEMA}, with raw weights"
        )


def _exported(model: Any, args: Any, named: dict[str, Any], *, dynamic: bool) -> Any:
    import torch

    shapes = None
    if dynamic:
        axes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
        for tensor in _tensors_in((args, named)):
            axes[tensor] = {0: torch.export.Dim.AUTO}
        shapes = axes.dynamic_shapes(model, args, named)
    return torch.export.export(model, args, named, dynamic_shapes=shapes, strict=False)


@contextmanager
def _outputs_plain(model: Any) -> Iterator[None]:
    """Have a model give built-in containers: torch writes no others, and they need their class."""
    hook = model.register_forward_hook(lambda _model, _args, outputs: _plain(outputs))
    try:
        yield
    finally:
        hook.remove()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    return value


@contextmanager
def _torch_silent() -> Iterator[None]:
    """Keep torch from logging and printing pages about what our one line says."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with redirect_stderr(_OfOtherThreads(sys.stderr)):
            yield
    finally:
        logger.setLevel(before)


class _OfOtherThreads(io.TextIOBase):
    """A stream that passes on what other threads write, and drops what this one does."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._here = stream, threading.get_ident()

    def write(self, text: str) -> int:
        if threading.get_ident() != self._here and self._stream is not None:
            self._stream.write(text)
        return len(text)


def _tensors_in(tree: Any) -> list[Any]:
    """Return the tensors of a tree that have a first axis, each once."""
    import torch

    leaves = torch.utils._pytree.tree_leaves(tree)
    tensors = (leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim)
    return list({id(tensor): tensor for tensor in tensors}.values())


def _of_two(call: Any) -> Any:
    """Return a call's arguments with two of all where it is one: torch takes a 1 for constant."""
    import torch

    tensors = _tensors_in(call)
    if any(len(tensor) != 1 for tensor in tensors):
        return call
    doubled = {id(tensor): torch.cat([tensor, tensor]) for tensor in tensors}
    return torch.utils._pytree.tree_map(lambda leaf: doubled.get(id(leaf), leaf), call)


_SIZE_GUARD = re.compile(r"L[^ *+%/-]+ (?:(?:[<=>]=|[<>]) \d+|== L[^ *+%/-]+)")
"""What a program's ranges, and sizes that have one name, say as well: others are only in code."""


def _is_dynamic(program: Any) -> bool:
    """Tell whether a first axis is free, and all that it may be is in names and ranges."""
    import torch

    # Before it kept them, torch did not tell what else it took for granted.
    guards = getattr(program, "_guards_code", [""])
    simple = {guard for guard in guards if _SIZE_GUARD.fullmatch(guard)}
    if not all(guard in simple or simple.intersection(guard.split(" or ")) for guard in guards):
        return False
    nodes = (node for node in program.graph.nodes if node.op == "placeholder")
    inputs = (node.meta.get("val") for node in nodes)
    tensors = (value for value in inputs if isinstance(value, torch.Tensor) and value.ndim)
    axes: Iterator[Any] = (tensor.shape[0] for tensor in tensors)
    # An axis that the model holds to a number stays a SymInt, of that number.
    return any(isinstance(a, torch.SymInt) and a.node.maybe_as_int() is None for a in axes)


def _check(program: Any) -> None:
    """Refuse at once what would not be loaded again.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        With what it is.
    """
    import torch

    graphs = (module for module in program.graph_module.modules() if hasattr(module, "graph"))
    calls = (node for graph in graphs for node in graph.graph.nodes if node.op == "call_function")
    for node in calls:
        if node.target is not operator.getitem:
            find_operator(_written(node.target))
    for name, value in (program.state_dict | program.constants).items():
        if not isinstance(value, torch.Tensor) or type(value.data) is not torch.Tensor:
            raise InvalidTypeError(f"{name} is a {type(value).__name__}, which torch would pickle")
    for spec in (program.call_spec.in_spec, program.call_spec.out_spec):
        read_tree(torch.utils._pytree.treespec_dumps(spec))


def _written(target: Any) -> str:
    """Return an operator's name as the file has it."""
    module = str(target.__module__).replace("torch._ops", "torch.ops")
    return f"{module}.{target.__name__}"
