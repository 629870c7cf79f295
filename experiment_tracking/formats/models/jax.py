"""Models that are JAX pytrees of classes of their own, and what all models on JAX share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from itertools import product
from typing import Any, ClassVar, NamedTuple

from experiment_tracking.errors import DamagedError, InvalidTypeError, MissingPackageError
from experiment_tracking.formats import tensor_files
from experiment_tracking.formats.models.arrays import fill, parameter_count, tree_file
from experiment_tracking.formats.models.interface import (
    Form,
    ModelFormat,
    Streamed,
    Wishes,
    as_call,
    class_name,
)
from experiment_tracking.formats.models.saved import Save
from experiment_tracking.formats.trees import (
    Flat,
    assemble,
    flatten_tree,
    pytree_level,
    rebuild_tree,
)
from experiment_tracking.notices import notice

_PLATFORMS = ("cpu", "cuda", "tpu")
"""What a program is made for, where all it does can be done on each."""

_CALLBACKS = (b"xla_python", b"xla_ffi_python")
"""How the calls back into Python are named, of which jax.export itself writes none."""


class Computation(NamedTuple):
    """A model as a pure function, as it is used after training."""

    function: Callable[..., Any]
    """Of ``static``, ``arrays``, a tuple of arguments and a dictionary of named ones."""
    static: Any
    """What of the model is no array; can be hashed."""
    arrays: Any
    """The pytree of its arrays."""


class JaxFormat(ModelFormat):
    """Classes that are registered with JAX, such as flax's ``TrainState``; no built-in containers.

    Their arrays and plain values are kept by the names under which they stand. What else they
    hold, such as functions, is the code's, and comes from the template at loading.
    """

    framework = "jax"
    packages: ClassVar[tuple[str, ...]] = ("jax",)

    def takes(self, model: object) -> bool:
        """Take a node of a pytree, and a linen module, to say what to pass in its place."""
        return model is not None and (_is_linen(model) or pytree_level(model) is not None)

    def encode(self, model: Any, wishes: Wishes) -> Form:
        """Give the arrays as safetensors, and with an example the program as jax.export has it."""
        _check(model, wishes)
        flat = flatten_tree(self.tree(model))
        files = {"weights": tree_file(flat)}
        if wishes.optimizer is not None:
            files["optimizer"] = tree_file(flatten_tree(self.optimizer_tree(wishes.optimizer)))
        if wishes.input_example is not None:
            files |= _program(self.computation(model), flat, wishes.input_example)
        known = {"class": class_name(model), "parameter_count": self.parameter_count(model)}
        return Form(dict(files), known)

    def load(self, save: Save, into: Any, *, as_numpy: bool, trusted: Iterable[str]) -> Any:
        """Return the state as nested dictionaries, or ``into`` with it."""
        tree = save.read_tree("weights", as_numpy=as_numpy and into is None)
        save.warn_of_other_versions()
        return tree if into is None else self.filled(into, tree, save.subject)

    def load_optimizer(self, save: Save, into: Any, scheduler: Any) -> Any:
        """Return the optimizer's state as nested dictionaries, or ``into`` with it."""
        tree = save.read_tree("optimizer")
        return tree if into is None else self.filled(into, tree, save.subject)

    def load_program(self, save: Save) -> Callable[..., Any]:
        """Return the exported function, bound to the saved weights.

        Neither flax or equinox nor the model's code is imported. ``jax.export.deserialize`` reads
        flatbuffers and StableHLO and unpickles nothing (jax/_src/export/serialization.py), and a
        program that calls back into Python is refused.
        """
        if "program" not in save.roles:
            return super().load_program(save)
        exported, weights = _deserialized(save), _weights(save)
        save.warn_of_other_versions()
        import jax
        import numpy as np

        call = jax.jit(exported.call)

        def program(*args: Any, **named: Any) -> Any:
            return jax.tree.map(np.asarray, call(weights, args, named))

        return program

    def run(self, model: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Compute the model once, compiled where that is possible."""
        import jax

        function, static, arrays = self.computation(model)
        try:
            return jax.jit(function, static_argnums=0)(static, arrays, args, dict(named))
        except (TypeError, ValueError):
            # It looks at values, which are not there yet, or holds what cannot be hashed. An error
            # that is no matter of compiling comes again.
            return function(static, arrays, args, named)

    def device(self, model: Any) -> str:
        """Name the device of its arrays, the first of several."""
        import jax

        leaves = jax.tree.leaves(self.tree(model))
        of_all = (leaf.devices() for leaf in leaves if isinstance(leaf, jax.Array))
        first = min(next(of_all, ()), key=lambda device: device.id, default=None)
        return "cpu" if first is None or first.platform == "cpu" else f"{first.platform}:{first.id}"

    def tree(self, model: Any) -> Any:
        """Return what is kept of a model."""
        return _without_code(model)

    def optimizer_tree(self, optimizer: Any) -> Any:
        """Return what is kept of an optimizer's state.

        Raises
        ------
        InvalidTypeError
            For a transformation of optax, which is code and has no state in it.
        """
        if callable(getattr(optimizer, "init", None)) and hasattr(optimizer, "update"):
            raise InvalidTypeError(
                f"optimizer= is a {type(optimizer).__name__} of optax, which holds no state. Pass "
                "the state, what its init() and update() give, or an nnx.Optimizer."
            )
        return _without_code(optimizer)

    def filled(self, into: Any, tree: Any, subject: str) -> Any:
        """Return ``into`` with the arrays of ``tree``."""
        return fill(into, tree, subject)

    def parameter_count(self, model: Any) -> int:
        """Count the elements of what is trained, or where that is not known of all arrays."""
        return parameter_count(flatten_tree(self.tree(model)))

    def computation(self, model: Any) -> Computation:
        """Return the model as a pure function.

        Raises
        ------
        InvalidTypeError
            If it is not known how it computes.
        """
        raise InvalidTypeError(
            f"A {type(model).__name__} cannot be called on an example: it is a state without the "
            "function that uses it. Leave input_example= out."
        )


def _is_linen(model: object) -> bool:
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(model, linen.Module)


def _check(model: Any, wishes: Wishes) -> None:
    if _is_linen(model):
        raise InvalidTypeError(
            f"A {type(model).__name__} of flax.linen has no weights of its own. Log its "
            "variables, as model.init(...) gives them, or the TrainState."
        )
    if wishes.scheduler is not None:
        raise InvalidTypeError(
            "scheduler= is for torch. A schedule of optax is a part of the optimizer's state."
        )


def _without_code(pytree: Any) -> Any:
    import jax

    return jax.tree.map(lambda leaf: leaf if _is_kept(leaf) else None, pytree)


def _is_kept(leaf: Any) -> bool:
    return hasattr(leaf, "__array__") or isinstance(leaf, bool | int | float | complex | str)


def _program(computation: Computation, flat: Flat, example: Any) -> dict[str, Streamed]:
    """Return the model as jax.export writes it; where that is impossible nothing, with a notice.

    Its first argument are the weights by their names in the file of weights, so they are there
    once. Not knowing the size of a batch, and for all platforms, where the model allows it.
    """
    export = _import_export()
    import jax

    def function(weights: Any, args: Any, named: Any) -> Any:
        arrays = fill(computation.arrays, assemble(flat.tree, weights), "The model")
        return computation.function(computation.static, arrays, args, named)

    weights = {n: _abstract(leaf.shape, leaf.array) for n, leaf in flat.tensors.items()}
    for platforms, batch in product((_PLATFORMS, None), (export.symbolic_shape("b")[0], None)):
        args, named = as_call(_abstract_example(example, batch))
        make = export.export(jax.jit(function), platforms=platforms)
        try:
            pieces = [make(weights, args, dict(named)).serialize()]
        except Exception as error:  # whatever the model's own code raises when it is traced
            failed = error
        else:
            return {"program": Streamed(".jax", "jax.export", pieces.copy)}
    reason = next(iter(str(failed).splitlines()), "")
    notice(
        "The model is saved without a program, weights only: jax.export failed "
        f"({type(failed).__name__}: {reason})."
    )
    return {}


def _import_export() -> Any:
    try:
        import_module("flatbuffers")  # jax.export needs it late, and does not bring it
        from jax import export
    except ImportError as error:
        feature = "A program of a JAX model, which input_example= asks for,"
        install = "'experiment_tracking[models]'"
        raise MissingPackageError(feature, error.name or "flatbuffers", install) from error
    return export


def _abstract(shape: tuple[Any, ...], array: Any) -> Any:
    import jax

    abstract: Any = jax.ShapeDtypeStruct
    return abstract(shape, array.dtype)


def _abstract_example(example: Any, batch: Any) -> Any:
    """Replace the arrays by their kind, and their first axis, where it is the batch, by ``batch``.

    The batch is the first axis of the first array, and of those that are as long.
    """
    import jax
    import numpy as np

    arrays = jax.tree.map(
        lambda leaf: leaf if hasattr(leaf, "dtype") else np.asarray(leaf), example
    )
    sizes = [leaf.shape[0] for leaf in jax.tree.leaves(arrays) if leaf.shape]

    def abstract(array: Any) -> Any:
        is_batch = batch is not None and array.shape and array.shape[0] == sizes[0]
        return _abstract((batch, *array.shape[1:]) if is_batch else array.shape, array)

    return jax.tree.map(abstract, arrays)


def _deserialized(save: Save) -> Any:
    data = save.read("program")
    try:
        exported = _import_export().deserialize(bytearray(data))
    except MissingPackageError:
        raise
    except Exception as error:  # flatbuffers checks nothing: struct.error, IndexError and others
        raise DamagedError(
            f"{save.subject}: its program cannot be read by this version of JAX "
            f"({type(error).__name__}: {error}). Load the weights into the model's code: "
            "load(into=...)."
        ) from error
    if any(name in exported.mlir_module_serialized for name in _CALLBACKS):
        raise DamagedError(
            f"{save.subject}: its program calls back into Python, which none that log_model writes "
            "does. It is not run."
        )
    return exported


def _weights(save: Save) -> Any:
    known = save.known("weights")
    parts = tensor_files.parse(save.read("weights"), f"{save.subject}: {known.get('file')}")
    by_name = {"dict": [[name, {"array": name}] for name in known["tensors"]]}
    return rebuild_tree(parts, known["tensors"], by_name)
