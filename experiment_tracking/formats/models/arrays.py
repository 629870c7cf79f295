"""Trees of arrays of any library, such as a torch ``state_dict()`` or JAX's params."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats import tensor_files
from experiment_tracking.formats.arrays import is_tensor
from experiment_tracking.formats.models.interface import Form, ModelFormat, Streamed, Wishes
from experiment_tracking.formats.models.saved import Save
from experiment_tracking.formats.trees import Flat, Level, flatten_tree, is_box, pytree_level


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
        """Return the tree; a template has its leaves replaced, a module is filled."""
        # Versions are not compared: arrays are what they are in any of them.
        if (owner := _module_format(into)) is not None:  # its state_dict was given as the model
            return owner.load(save, into, as_numpy=as_numpy, trusted=trusted)
        tree = save.read_tree("weights", as_numpy=as_numpy)
        return tree if into is None else fill(into, tree, save.subject)

    def load_optimizer(self, save: Save, into: Any, scheduler: Any) -> Any:
        """Return the optimizer's state as the tree it was."""
        tree = save.read_tree("optimizer")
        return tree if into is None else fill(into, tree, save.subject)


def _module_format(into: Any) -> ModelFormat | None:
    """Return the format of the module that is to take a tree; None where it is no module."""
    from experiment_tracking.formats.models.catalog import format_of

    if into is None or isinstance(into, Mapping | list | tuple):
        return None
    found = format_of(into, allow_unsafe=True)
    return found if found.framework in ("torch", "flax.nnx", "equinox") else None


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
    """Return the template ``into`` with the leaves of ``tree`` in the places of its own.

    Parameters
    ----------
    into
        Dictionaries, lists, tuples, namedtuples and classes registered with JAX, of arrays or what
        stands for them (``jax.ShapeDtypeStruct``). It stays as it is. An array that is spread over
        several devices gives its place to the one that takes it over.
    tree
        As a file has it: namedtuples and classes are dictionaries.
    subject
        What an error is about.

    Raises
    ------
    InvalidValueError
        If keys, shapes or dtypes differ; it names them.
    InvalidTypeError
        If ``into`` is a class, or nothing that could hold the tree.
    """
    _check_template(into, tree, subject)
    filling = _Filling()
    filled = filling.node(into, tree, ())
    if filling.differences:
        raise _misfit(filling.differences, subject)
    return filled


def _check_template(into: Any, tree: Any, subject: str) -> None:
    is_class = isinstance(into, type)
    if is_class or (_described(tree) == _CONTAINER and _level(into) is None):
        found = f"the class {into.__name__}" if is_class else f"a {type(into).__name__}"
        raise InvalidTypeError(
            f"{subject}: into= is {found}. Pass what was saved, made anew (a module, a tree of "
            "arrays), or nothing for the state alone."
        )


_NAMED_DIFFERENCES = 8


def _misfit(differences: list[str], subject: str) -> InvalidValueError:
    more = len(differences) - _NAMED_DIFFERENCES
    named = "; ".join(differences[:_NAMED_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")
    return InvalidValueError(
        f"{subject} does not fit into=: {named}. Give it as it was when the model was saved, or "
        "load without into=."
    )


_NOTHING, _CONTAINER = "nothing", "a container"
_PLAIN = (bool, int, float, complex, str)


class _Filling:
    """One way down a template, beside the tree that goes into it."""

    def __init__(self) -> None:
        self.differences: list[str] = []

    def node(self, into: Any, found: Any, path: tuple[str, ...]) -> Any:
        level = _level(into)
        if level is None:
            return self._leaf(into, found, path)
        if is_box(into):
            return level.rebuild([self.node(level.items[0][1], found, path)])
        return level.rebuild(self._children(level, found, path))

    def _children(self, level: Level, found: Any, path: tuple[str, ...]) -> list[Any]:
        held = dict(enumerate(found)) if isinstance(found, list | tuple) else found
        if not isinstance(held, Mapping):
            if found is not None:
                self._differ(path, _described(found), _CONTAINER)
            held = {}
        wanted = [key for key, _ in level.items]
        for key in [key for key in held if key not in wanted]:
            self._differ((*path, str(key)), _described(held[key]), _NOTHING)
        return [self.node(part, held.get(key), (*path, str(key))) for key, part in level.items]

    def _leaf(self, into: Any, found: Any, path: tuple[str, ...]) -> Any:
        there, wanted = _described(found), _described(into)
        if there == wanted == _NOTHING:
            return into
        if there != wanted and not _are_numbers(found, into):
            self._differ(path, there, wanted)
            return into
        return _placed_as(into, found)

    def _differ(self, path: tuple[str, ...], there: str, wanted: str) -> None:
        if there != wanted:
            place = repr("/".join(path)) if path else "all"
            self.differences.append(f"{place}: saved is {there}, into= has {wanted}")


def _level(into: Any) -> Level | None:
    """Take a node of a template apart; the built-in kinds also where there is no JAX."""
    if isinstance(into, tuple) and hasattr(into, "_asdict"):
        make: Any = type(into)
        return Level(list(into._asdict().items()), make._make)
    if isinstance(into, list | tuple):
        return Level(list(enumerate(into)), list if isinstance(into, list) else tuple)
    if isinstance(into, dict):
        return Level(list(into.items()), lambda values: _copied_dict(into, values))
    return None if into is None else pytree_level(into)


def _copied_dict(into: dict[Any, Any], values: Iterable[Any]) -> dict[Any, Any]:
    copied = into.copy()  # an OrderedDict or defaultdict stays one
    copied.update(zip(into, values, strict=True))
    return copied


def _described(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, _PLAIN):
        return "a plain value"
    # None, and what a template has that is no part of its state, such as a function.
    return _CONTAINER if isinstance(value, Mapping | list | tuple) else _NOTHING


def _are_numbers(found: Any, into: Any) -> bool:
    # A count of steps is an integer at first, and an array once it has been through jax.jit.
    one_is_plain = isinstance(found, _PLAIN) or isinstance(into, _PLAIN)
    return one_is_plain and getattr(found, "shape", ()) == getattr(into, "shape", ()) == ()


def _placed_as(into: Any, found: Any) -> Any:
    devices = getattr(getattr(into, "sharding", None), "device_set", ())
    if len(devices) < 2:
        return found
    import jax

    return jax.device_put(found, into.sharding)
