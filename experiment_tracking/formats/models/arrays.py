"""Trees of arrays of any library, such as a torch ``state_dict()`` or JAX's params."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from experiment_tracking.errors import InvalidTypeError
from experiment_tracking.formats import tensor_files
from experiment_tracking.formats.arrays import is_tensor
from experiment_tracking.formats.models.interface import Form, ModelFormat, Streamed, Wishes
from experiment_tracking.formats.models.saved import Save
from experiment_tracking.formats.trees import Flat, flatten_tree


class ArraysFormat(ModelFormat):
    """Mappings, lists and tuples of arrays, or one array."""

    framework = "arrays"
    packages = ("numpy", "torch", "jax")

    def takes(self, model: object) -> bool:
        """Take built-in containers and mappings, and arrays of any library."""
        is_array = hasattr(model, "__array__") or is_tensor(model)
        return is_array or isinstance(model, Mapping | list | tuple)

    def encode(self, model: Any, wishes: Wishes) -> Form:
        """Give the tree, and with ``optimizer`` that one's state, as safetensors."""
        if wishes.input_example is not None or wishes.scheduler is not None:
            raise InvalidTypeError(
                "A tree of arrays cannot be called on an example and has no scheduler. Pass the "
                "module, or leave input_example= and scheduler= out."
            )
        flat = flatten_tree(model)
        files = {"weights": tree_file(flat)}
        if wishes.optimizer is not None:
            files["optimizer"] = tree_file(flatten_tree(wishes.optimizer))
        return Form(dict(files), {"class": None, "parameter_count": parameter_count(flat)})

    def load(self, save: Save, into: Any, *, as_numpy: bool, trusted: Iterable[str]) -> Any:
        """Return the tree; a template has its leaves replaced."""
        tree = save.read_tree("weights", as_numpy=as_numpy)
        return tree if into is None else fill(into, tree, save.subject)

    def load_optimizer(self, save: Save, into: Any, scheduler: Any) -> Any:
        """Return the optimizer's state as the tree it was."""
        tree = save.read_tree("optimizer")
        return tree if into is None else fill(into, tree, save.subject)


def tree_file(flat: Flat) -> Streamed:
    """Return a tree that was taken apart as a file to be streamed."""
    tensors = {name: leaf.tensor() for name, leaf in flat.tensors.items()}
    known = {"tensors": flat.known(), "tree": flat.tree}
    return Streamed(".safetensors", "safetensors", lambda: tensor_files.stream(tensors), known)


def parameter_count(flat: Flat) -> int:
    """Return how many elements all arrays of a tree have."""
    from math import prod

    return sum(prod(leaf.shape) for leaf in flat.tensors.values())


def fill(into: Any, tree: Any, subject: str) -> Any:
    """Return the template ``into`` with the leaves of ``tree``."""
    raise NotImplementedError  # placeholder: the JAX room writes it
