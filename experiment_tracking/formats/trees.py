"""Weights without their framework: a tree of arrays to safetensors and JSON, and back.

The arrays go to one safetensors blob under the paths at which they stand in the tree. The
structure beside it is plain JSON, so nothing that is read can run code. A node of it is

- ``null``, a bool, a string or an integer of 64 bits: itself;
- ``{"int": "0x…"}``, ``{"float": "0x1.8p+0"}``, ``{"complex": [re, im]}``: exact, in hexadecimal;
- ``{"list": [node, …]}``, ``{"tuple": [node, …]}``, ``{"dict": [[key, node], …]}``, the last with
  ``"namedtuple": name`` beside it where it was one;
- ``{"array": tensor, "dtype": …, "shape": […], "size_bytes": …}``.

Dtypes that not every safetensors reader knows (complex, times, text; bfloat16 and the smaller
floats of ml_dtypes) are stored as unsigned integers of the same bytes; ``dtype`` says which.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import (
    DamagedError,
    FormatError,
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
)
from experiment_tracking.formats.arrays import is_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
MAX_DEPTH = 50
_PLAIN_FLOATS = ("float16", "float32", "float64")
_DAMAGE = (KeyError, AttributeError, TypeError, ValueError, OverflowError, RecursionError)
_AS_BYTES = "fcmMSU"  # numpy's kinds: longer floats, complex, times, text


def encode_tree(tree: Any) -> tuple[bytes, dict[str, Any]]:
    """Turn a tree of arrays into a safetensors blob and a structure for JSON.

    Parameters
    ----------
    tree
        Mappings, lists, tuples and namedtuples, nested up to 50 deep, of arrays (numpy, torch, jax,
        anything with ``__array__``), None, bools, integers, floats, complex numbers and strings. A
        torch ``state_dict()`` is one. Keys are strings, numbers, None or tuples of these.

    Returns
    -------
    blob : bytes
        The arrays, in native byte order; making it takes twice their memory for a moment. The same
        tree gives the same bytes. An array that stands in several places, such as tied weights, is
        stored once.
    structure : dict
        The rest of the tree.

    Raises
    ------
    InvalidTypeError
        A leaf or key of another kind, an array of Python objects.
    InvalidValueError
        A tree that contains itself or is too deep; text that is not valid Unicode.
    """
    from safetensors.numpy import save

    walk = _Walk()
    root = walk.node(tree, ())
    return save(walk.tensors), {"format": FORMAT, "tree": root}


def decode_tree(blob: bytes, structure: Mapping[str, Any]) -> Any:
    """Rebuild the tree that ``encode_tree`` took apart.

    Arrays come back as numpy arrays, bit for bit, a namedtuple as a dictionary, and an array that
    stood in several places as one array.

    Raises
    ------
    DamagedError
        The blob or the structure is damaged, or they do not belong together.
    FormatError
        A later version wrote the structure.
    MissingPackageError
        The tree has bfloat16 or other dtypes of ml_dtypes, which is not installed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with _damage_named(SafetensorError):
        root = _root(structure)
        stored = load(blob)
        arrays = {leaf["array"]: _restored(stored[leaf["array"]], leaf) for leaf in _leaves(root)}
        return _value(root, arrays)


def describe_tree(structure: Mapping[str, Any]) -> dict[str, Any]:
    """List the arrays of a structure without reading them.

    Returns
    -------
    dict
        ``tensors`` (name to ``shape`` and ``dtype``), ``parameter_count`` (their elements in all)
        and ``size_bytes``; an array that stands in several places counts once.

    Raises
    ------
    DamagedError
        The structure is damaged, or (FormatError) of a later version.
    """
    from math import prod

    with _damage_named():
        leaves = {leaf["array"]: leaf for leaf in _leaves(_root(structure))}
        return {
            "tensors": {
                name: {"shape": leaf["shape"], "dtype": leaf["dtype"]}
                for name, leaf in leaves.items()
            },
            "parameter_count": sum(prod(leaf["shape"]) for leaf in leaves.values()),
            "size_bytes": sum(leaf["size_bytes"] for leaf in leaves.values()),
        }


_Path = tuple[str, ...]


class _Walk:
    """One way down a tree: returns the structure, collects the tensors."""

    def __init__(self) -> None:
        # The name is taken because safetensors writes such a tensor and then cannot read the file.
        self._taken = {"__metadata__"}
        self.tensors: dict[str, NDArray[Any]] = {}
        self._around: list[int] = []
        # Keeps each leaf alive: the address of a freed one could be given to the next.
        self._stored: dict[Hashable, tuple[Any, dict[str, Any]]] = {}

    def node(self, value: Any, path: _Path) -> Any:
        if hasattr(value, "__array__") or is_tensor(value):
            return self._array(value, path)
        if value is None or isinstance(value, bool | int | float | complex | str):
            return _scalar(value, path)
        if isinstance(value, Mapping | list | tuple):
            return self._container(value, path)
        raise InvalidTypeError(
            f"{_place(path)}: a {type(value).__name__} is not an array. Models of other frameworks "
            f"are not kept by this version; pass a mapping of arrays such as model.state_dict()."
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
        import numpy as np

        array, dtype = as_numpy(value)
        raw = _storable(array, path)
        stored = np.ascontiguousarray(raw).reshape(raw.shape)  # it would make () to (1,)
        name = self._free_name("/".join(path) or "array")
        self.tensors[name] = stored
        return {
            "array": name,
            "dtype": dtype,
            "shape": list(array.shape),
            "size_bytes": stored.nbytes,
        }

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
    except InvalidTypeError:
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


def _storable(array: NDArray[Any], path: _Path) -> NDArray[Any]:
    import numpy as np

    dtype = array.dtype
    if dtype.type.__module__ == "ml_dtypes":
        return array.view(f"u{dtype.itemsize}")
    if dtype.kind in "biu" or dtype.name in _PLAIN_FLOATS:
        return array
    if dtype.kind in _AS_BYTES:
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    raise InvalidTypeError(
        f"{_place(path)}: an array of dtype {dtype}. Allowed are arrays of numbers, bools, times "
        f"and text; convert it, for example with array.astype(float)."
    )


def _root(structure: Mapping[str, Any]) -> Any:
    found = structure["format"]
    if found != FORMAT:
        raise FormatError(
            f"Model structure has format {found!r}, this version reads {FORMAT}. "
            f"Upgrade experiment_tracking."
        )
    return structure["tree"]


@contextmanager
def _damage_named(*also: type[Exception]) -> Iterator[None]:
    try:
        yield
    except DamagedError:
        raise
    except _DAMAGE + also as error:
        raise DamagedError(
            f"Model: its tensors and structure cannot be read ({type(error).__name__}: {error}). "
            f"Restore both files from the same save."
        ) from error


def _leaves(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict) and "array" in node:
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _leaves(child)


def _restored(stored: NDArray[Any], leaf: dict[str, Any]) -> NDArray[Any]:
    array: NDArray[Any] = stored.reshape(-1).view(_dtype(leaf["dtype"])).reshape(leaf["shape"])
    return array


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


def _value(node: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    match node:
        case None | bool() | int() | str():
            return node
        case {"array": name}:
            return arrays[name]
        case {"dict": items}:
            return {_value(key, arrays): _value(item, arrays) for key, item in items}
        case {"list": items}:
            return [_value(item, arrays) for item in items]
        case {"tuple": items}:
            return tuple(_value(item, arrays) for item in items)
        case {"float": text}:
            return float.fromhex(text)
        case {"complex": [real, imag]}:
            return complex(float.fromhex(real), float.fromhex(imag))
        case {"int": text}:
            return int(text, 16)
    raise DamagedError(f"Model: unknown node {str(node)[:100]!r} in its structure.")
