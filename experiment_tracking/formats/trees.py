"""A tree of arrays to named tensors and plain JSON, and back.

The tensors go to a safetensors file under the paths at which they stand in the tree. The structure
beside it is plain JSON, so nothing that is read can run code. A node of it is

- ``null``, a bool, a string or an integer of 64 bits: itself;
- ``{"int": "0x…"}``, ``{"float": "0x1.8p+0"}``, ``{"complex": [re, im]}``: exact, in hexadecimal;
- ``{"list": [node, …]}``, ``{"tuple": [node, …]}``, ``{"dict": [[key, node], …]}``, the last with
  ``"namedtuple": name`` or ``"pytree": name`` beside it where it was one, or of a class that is
  registered with JAX;
- ``{"array": tensor}``.

What the array was is said of each tensor: ``shape``, ``dtype`` as numpy or torch name it, and
``library``. Dtypes that not every safetensors reader knows (complex, times, text; the smaller
floats of ml_dtypes) are stored as the bytes they are; JAX's random keys as the integers they hold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
)
from experiment_tracking.formats.arrays import is_tensor
from experiment_tracking.formats.tensor_files import Part, Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_DEPTH = 50
_DAMAGE = (KeyError, AttributeError, TypeError, ValueError, OverflowError, RecursionError)
_AS_BYTES = "fcmMSU"  # numpy's kinds: longer floats, complex, times, text
_STORED = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64",
}  # fmt: skip
"""What safetensors calls the dtypes that all of its readers know."""


class Flat(NamedTuple):
    """A tree taken apart."""

    tensors: dict[str, Leaf]
    """Its arrays by name; one that stands in several places, such as tied weights, once."""
    tree: Any
    """The rest: a node."""

    def known(self) -> dict[str, dict[str, Any]]:
        """Return what is to be kept of each tensor beside its bytes."""
        return {name: leaf.known() for name, leaf in self.tensors.items()}


class Leaf(NamedTuple):
    """An array of a tree."""

    array: Any
    """The array, on the CPU as numpy's; one on a device as it is, until its turn to be written."""
    dtype: str
    shape: tuple[int, ...]
    library: str
    """``numpy``, ``torch`` or ``jax``."""
    size_bytes: int

    def known(self) -> dict[str, Any]:
        """Return what is to be kept of it beside its bytes."""
        return {"shape": list(self.shape), "dtype": self.dtype, "library": self.library}

    def tensor(self) -> Tensor:
        """Return it as it goes into a file."""
        stored, shape = _STORED.get(self.dtype), self.shape
        if self.dtype.startswith("key<"):
            stored, shape = "U32", _key_data(self.array).shape
        elif stored is None and self.size_bytes > prod(shape):
            shape = (self.size_bytes,)
        return Tensor(stored or "U8", shape, self._data)

    def _data(self) -> memoryview:
        import numpy as np

        array = _key_data(self.array) if self.dtype.startswith("key<") else self.array
        if not isinstance(array, np.ndarray):
            array, _ = as_numpy(array)
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class Level(NamedTuple):
    """A node of a class that is registered with JAX, taken apart."""

    items: list[tuple[Any, Any]]
    """What it holds, by name or number."""
    rebuild: Callable[[Iterable[Any]], Any]
    """Gives the node with other values in their place."""


def pytree_level(value: Any) -> Level | None:
    """Take apart one node of a JAX pytree; None for a leaf, and where JAX is not loaded."""
    jax = sys.modules.get("jax")
    if jax is None or isinstance(value, Iterator):  # JAX warns of what it takes for a leaf there
        return None
    flatten = jax.tree_util.tree_flatten_with_path
    pairs, structure = flatten(value, is_leaf=lambda found: found is not value)
    if any(not path for path, _ in pairs):
        return None
    return Level([(_named(path[0]), child) for path, child in pairs], structure.unflatten)


_KEY_ATTRIBUTES = ("name", "key", "idx")  # of JAX's kinds of keys in a path


def _is_nothing(value: Any) -> bool:
    """Tell whether it is what classes have where there is no array: None, or the like of theirs."""
    level = None if isinstance(value, Mapping | list | tuple) else pytree_level(value)
    return level is not None and not level.items


def _named(key: Any) -> Any:
    found = (getattr(key, name) for name in _KEY_ATTRIBUTES if hasattr(key, name))
    return next(found, str(key))


def is_box(value: Any) -> bool:
    """Tell whether ``value`` is a ``Variable`` of flax.nnx: a node around that which counts."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Variable)


def _unboxed(value: Any) -> Any:
    level = pytree_level(value) if is_box(value) else None
    return level.items[0][1] if level else value


def flatten_tree(tree: Any) -> Flat:
    """Take a tree of arrays apart; no array on the CPU is copied.

    Parameters
    ----------
    tree
        Mappings, lists, tuples, namedtuples and classes registered with JAX, nested up to 50 deep,
        of arrays (numpy, torch, jax, anything with ``__array__``), None, bools, integers, floats,
        complex numbers and strings. A torch ``state_dict()`` is one. Keys are strings, numbers,
        None or tuples of these.

    Raises
    ------
    InvalidTypeError
        A leaf or key of another kind, an array of Python objects.
    InvalidValueError
        A tree that contains itself or is too deep; text that is not valid Unicode; a JAX array of
        which a part is on another host.
    """
    walk = _Walk()
    root = walk.node(tree, ())
    return Flat(walk.tensors, root)


def rebuild_tree(
    parts: Mapping[str, Part], known: Mapping[str, Any], tree: Any, *, as_numpy: bool = False
) -> Any:
    """Rebuild the tree that :func:`flatten_tree` took apart.

    Parameters
    ----------
    parts
        The tensors as a file has them.
    known
        What was kept of each tensor beside its bytes.
    tree
        The structure.
    as_numpy
        All arrays as numpy's; otherwise they come back as arrays of the library they were of.

    Returns
    -------
    The tree, bit for bit, but for namedtuples and classes, which come as dictionaries. An array
    that stood in several places is one array. Arrays of numpy and torch are views of the buffer
    behind ``parts``.

    Raises
    ------
    DamagedError
        If tensors and structure are damaged, or do not belong together.
    MissingPackageError
        If the library of an array is not installed, or ml_dtypes for the smaller floats.
    """
    with _damage_named():
        names = dict.fromkeys(_leaves(tree))
        arrays = {name: _restored(parts[name], known[name], as_numpy) for name in names}
        return assemble(tree, arrays)


_Path = tuple[str, ...]


class _Walk:
    """One way down a tree: returns the structure, collects the tensors."""

    def __init__(self) -> None:
        # The name is taken because safetensors writes such a tensor and then cannot read the file.
        self._taken = {"__metadata__"}
        self.tensors: dict[str, Leaf] = {}
        self._around: list[int] = []
        # Keeps each leaf alive: the address of a freed one could be given to the next.
        self._stored: dict[Hashable, tuple[Any, dict[str, Any]]] = {}

    def node(self, value: Any, path: _Path) -> Any:
        value = _unboxed(value)
        if hasattr(value, "__array__") or is_tensor(value):
            return self._array(value, path)
        if value is None or isinstance(value, bool | int | float | complex | str):
            return _scalar(value, path)
        if isinstance(value, Mapping | list | tuple) or pytree_level(value) is not None:
            return self._container(value, path)
        raise InvalidTypeError(
            f"{_place(path)}: a {type(value).__name__} is not an array. Allowed are arrays, plain "
            "values and containers of them; of a module give its arrays: model.state_dict()."
        )

    def _container(self, value: Any, path: _Path) -> dict[str, Any]:
        if id(value) in self._around:
            raise InvalidValueError(f"{_place(path)}: a container that contains itself.")
        if len(path) >= MAX_DEPTH:
            raise InvalidValueError(
                f"{_place(path[:3])}: nested deeper than {MAX_DEPTH} levels. Flatten the tree."
            )
        self._around.append(id(value))
        node = self._children(value, path)
        self._around.pop()
        return node

    def _children(self, value: Any, path: _Path) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {"dict": self._items(value, path)}
        if hasattr(value, "_asdict"):
            return {"namedtuple": type(value).__name__, "dict": self._items(value._asdict(), path)}
        if not isinstance(value, list | tuple):
            level = pytree_level(value)
            items = level.items if level else []
            held = {key: child for key, child in items if not _is_nothing(child)}
            return {"pytree": type(value).__name__, "dict": self._items(held, path)}
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [self.node(item, (*path, str(i))) for i, item in enumerate(value)]}

    def _items(self, mapping: Mapping[Any, Any], path: _Path) -> list[list[Any]]:
        return [
            [_key(key, path), self.node(item, (*path, _key_text(key)))]
            for key, item in mapping.items()
        ]

    def _array(self, value: Any, path: _Path) -> dict[str, Any]:
        with _readable(value, path):
            array, identity = _identified(value)
            if identity not in self._stored:
                self._stored[identity] = array, self._store(array, path)
        return self._stored[identity][1]

    def _store(self, value: Any, path: _Path) -> dict[str, Any]:
        name = self._free_name("/".join(path) or "array")
        self.tensors[name] = _leaf(value, path)
        return {"array": name}

    def _free_name(self, wanted: str) -> str:
        """``{"a/b": x, "a": {"b": y}}`` has two arrays at one path."""
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}~{count}"
        self._taken.add(name)
        return name


def _scalar(value: Any, path: _Path) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else {"int": hex(value)}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    return _text(value, path)


def _text(value: str, path: _Path) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"{_place(path)}: found {value!r}, which is not valid Unicode ({error.reason})."
        ) from error
    return str.__str__(value)


def _key(key: Any, path: _Path) -> Any:
    if isinstance(key, tuple):
        return {"tuple": [_key(part, path) for part in key]}
    if key is None or isinstance(key, bool | int | float | str):
        return _scalar(key, path)
    raise InvalidTypeError(
        f"{_place(path)}: a key of type {type(key).__name__}. Allowed are strings, numbers, None "
        f"and tuples of these."
    )


def _key_text(key: Any) -> str:
    return "/".join(map(_key_text, key)) if isinstance(key, tuple) else str(key)


def _place(path: _Path) -> str:
    return f"Model at {'/'.join(path)!r}" if path else "Model"


@contextmanager
def _readable(value: object, path: _Path) -> Iterator[None]:
    try:
        yield
    except (InvalidTypeError, InvalidValueError):
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(
            f"{_place(path)}: a {type(value).__name__} cannot be read as an array ({error}). "
            f"Convert it to a dense numpy array, or leave it out."
        ) from error


def _identified(value: Any) -> tuple[Any, Hashable]:
    """Name what makes two leaves the same array: for torch the memory, as tied weights share it."""
    if not is_tensor(value):
        return value, id(value)
    tensor = value.detach().resolve_conj().resolve_neg()
    address = tensor.data_ptr() or ("no memory of its own", id(tensor))
    return tensor, (address, *tensor.shape, *tensor.stride(), tensor.dtype, tensor.device)


def _leaf(value: Any, path: _Path) -> Leaf:
    library = _library(value)
    if library == "jax":
        _check_whole(value, path)
        if str(value.dtype).startswith("key<"):
            return _random_key(value)
    if library != "numpy" and _is_on_device(value):
        dtype = str(value.dtype).removeprefix("torch.")
        return Leaf(value, dtype, tuple(value.shape), library, int(value.nbytes))
    array, dtype = as_numpy(value)
    _check_storable(array, path)
    return Leaf(array, dtype, array.shape, library, array.nbytes)


def _library(value: Any) -> str:
    if is_tensor(value):
        return "torch"
    return "jax" if _is_jax(value) else "numpy"


def _is_jax(value: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.Array)


def _is_on_device(value: Any) -> bool:
    if is_tensor(value):
        # One without data, or not dense: the error comes now and not when it is written.
        ready = value.device.type != "meta" and str(value.layout) == "torch.strided"
        return ready and value.device.type != "cpu"
    return any(device.platform != "cpu" for device in value.devices())


def _check_whole(array: Any, path: _Path) -> None:
    if not (array.is_fully_addressable or array.is_fully_replicated):
        raise InvalidValueError(
            f"{_place(path)}: a part of this array is on devices of other processes. Bring it "
            "together in all of them first: "
            "jax.experimental.multihost_utils.process_allgather(tree, tiled=True)."
        )


def _random_key(key: Any) -> Leaf:
    dtype = f"key<{sys.modules['jax'].random.key_impl(key)}>"
    return Leaf(key, dtype, tuple(key.shape), "jax", int(_key_data(key).nbytes))


def _key_data(key: Any) -> Any:
    return sys.modules["jax"].random.key_data(key)


def as_numpy(value: Any) -> tuple[NDArray[Any], str]:
    """Return an array of any framework as numpy's, on the CPU, and the name of its dtype.

    What numpy has no dtype for (bfloat16, float8) comes as unsigned integers of its size.
    """
    import numpy as np

    if is_tensor(value):
        return _from_tensor(value.cpu())
    array = np.asarray(value)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array, array.dtype.str if array.dtype.kind in "SU" else array.dtype.name


def _from_tensor(tensor: Any) -> tuple[NDArray[Any], str]:
    name = str(tensor.dtype).removeprefix("torch.")
    if name == "bfloat16" or name.startswith("float8_"):
        torch = sys.modules["torch"]
        bits = tensor.view(torch.uint8 if tensor.element_size() == 1 else torch.int16)
        return bits.numpy().view(f"u{bits.element_size()}"), name
    return tensor.numpy(), name


def _check_storable(array: NDArray[Any], path: _Path) -> None:
    dtype = array.dtype
    if dtype.kind not in "biu" + _AS_BYTES and dtype.type.__module__ != "ml_dtypes":
        raise InvalidTypeError(
            f"{_place(path)}: an array of dtype {dtype}. Allowed are arrays of numbers, bools, "
            f"times and text; convert it, for example with array.astype(float)."
        )


@contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except (DamagedError, InvalidValueError):
        raise
    except _DAMAGE as error:
        raise DamagedError(
            f"Model: its tensors and structure cannot be read ({type(error).__name__}: {error}). "
            f"Restore all of its files from the same save."
        ) from error


def _leaves(node: Any) -> Iterator[str]:
    """Give the names of the tensors in a structure, in its order."""
    if isinstance(node, dict) and "array" in node:
        yield node["array"]
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _leaves(child)


def _restored(part: Part, known: Mapping[str, Any], plain: bool) -> Any:
    import numpy as np

    dtype, shape, library = known["dtype"], known["shape"], known.get("library", "numpy")
    if min(shape, default=0) < 0:  # numpy would take -1 for what is left
        raise ValueError(f"{shape} is no shape")
    data = np.frombuffer(part.data, np.uint8)
    if dtype.startswith("key<"):
        # Its last axis is the key's own: without it a shape with a zero would not tell its length.
        numbers = data.view(np.uint32).reshape(*shape, part.shape[-1])
        return numbers if plain else _as_random_key(numbers, dtype)
    if plain or library not in ("torch", "jax"):
        return data.view(_dtype(dtype)).reshape(shape)
    with _library_needed(library):
        return _RESTORE[library](data, dtype, shape)


@contextmanager
def _library_needed(library: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        feature = f"A model of {library} arrays (as_numpy=True gives numpy's)"
        install = f"'experiment_tracking[{library}]'"
        raise MissingPackageError(feature, library, install) from error


def _as_torch(data: NDArray[Any], dtype: str, shape: list[int]) -> Any:
    import torch

    kind = getattr(torch, dtype)
    if not isinstance(kind, torch.dtype):
        raise TypeError(f"{dtype} is no dtype of torch")
    if not data.size:  # no memory that another dtype could look at
        return torch.empty(0, dtype=kind).reshape(shape)
    # By numpy, which says ValueError where torch says RuntimeError, as of a device that fails.
    return torch.from_numpy(data.reshape(*shape, kind.itemsize)).view(kind).reshape(shape)


def _as_jax(data: NDArray[Any], dtype: str, shape: list[int]) -> Any:
    import jax

    # Not jnp.asarray, which copies always: this takes memory over that is aligned to 64 bytes.
    array = jax.device_put(data.view(_dtype(dtype)).reshape(shape))
    if array.dtype.name != dtype:
        raise InvalidValueError(
            f"A model has {dtype} arrays, which this process's JAX makes {array.dtype}. Call "
            'jax.config.update("jax_enable_x64", True) first, or load it with as_numpy=True.'
        )
    return array


_RESTORE = {"torch": _as_torch, "jax": _as_jax}


def _as_random_key(numbers: Any, dtype: str) -> Any:
    with _library_needed("jax"):
        import jax
        import jax.numpy as jnp

        numbers = jnp.asarray(numbers)
        return jax.random.wrap_key_data(numbers, impl=dtype[len("key<") : -1])


_SMALL_FLOATS_AND_INTS = ("bfloat16", "float8_", "float6_", "float4_", "int", "uint")
"""What the names of ml_dtypes begin with, those that numpy has itself left out."""


def _dtype(name: str) -> Any:
    import numpy as np

    try:
        return np.dtype(name)  # once ml_dtypes is imported, numpy knows its names as well
    except TypeError:
        if not name.startswith(_SMALL_FLOATS_AND_INTS):
            raise
        return np.dtype(getattr(_ml_dtypes(name), name))


def _ml_dtypes(name: str) -> Any:
    try:
        import ml_dtypes
    except ImportError as error:
        raise MissingPackageError(f"Reading {name} arrays", "ml_dtypes", "ml_dtypes") from error
    return ml_dtypes


def assemble(node: Any, arrays: Mapping[str, Any]) -> Any:
    """Return what a structure says, with ``arrays`` in the places of its tensors.

    Raises
    ------
    DamagedError
        If it is no structure of :func:`flatten_tree`'s.
    """
    match node:
        case None | bool() | int() | str():
            return node
        case {"array": name}:
            return arrays[name]
        case {"dict": items}:
            return {assemble(key, arrays): assemble(item, arrays) for key, item in items}
        case {"list": items}:
            return [assemble(item, arrays) for item in items]
        case {"tuple": items}:
            return tuple(assemble(item, arrays) for item in items)
        case {"float": text}:
            return float.fromhex(text)
        case {"complex": [real, imag]}:
            return complex(float.fromhex(real), float.fromhex(imag))
        case {"int": text}:
            return int(text, 16)
    raise DamagedError(f"Model: unknown node {str(node)[:100]!r} in its structure.")
