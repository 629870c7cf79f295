"""What ``torch.export`` made of a model, computed without torch's loader.

A ``.pt2`` is a zip of raw weights and of a graph of operators in JSON. ``torch.export.load`` trusts
it: up to torch 2.13 at least, it unpickles weights, constants and sample inputs that are marked so
(``export/pt2_archive/_package.py``), evaluates the shapes' expressions as Python
(``sympy.sympify``), executes guards and code generated with the file's names in it, takes any
attribute of ``torch`` for an operator, and imports what a key's enumeration names
(``_export/serde/serialize.py``, ``utils/_pytree.py``). Here nothing is unpickled, evaluated or
imported: the graph is walked, and whatever is not an operator of ATen on tensors, or one of
Python's on their sizes, is refused.

The JSON is that of ``torch/_export/serde/schema.py``, major version 8.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson

from experiment_tracking.errors import DamagedError, InvalidTypeError, InvalidValueError

SCHEMA = 8
_LOCAL_HEADER_BYTES = 30

_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32",
    8: "float64", 9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16",
    28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
_MEMORY_FORMATS = {
    1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format",
}  # fmt: skip
_STRIDED = 7

_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_REACHING_OUT = {"save", "from_file", "set_", "set", "set_grad_enabled", "manual_seed"}
"""Operators of ATen that touch files, foreign memory or the state of the process."""
_ON_SIZES = {
    "_operator": "add sub mul truediv floordiv mod pow neg pos eq ne lt le gt ge and_ or_ lshift "
    "rshift",
    "torch": "sym_int sym_float sym_max sym_min sym_not sym_ite _sym_sqrt",
    "math": "trunc",
}
_SEQUENCES = {
    "builtins.tuple": tuple,
    "builtins.list": list,
    "collections.namedtuple": tuple,
}
_MAPPINGS = ("builtins.dict", "collections.OrderedDict")


class Program:
    """A program that was saved, as a function on numpy arrays or tensors.

    Parameters
    ----------
    data
        The whole ``.pt2``; copied once, the weights are views of the copy.
    subject
        What an error is about.

    Raises
    ------
    DamagedError
        If it is no such file.
    InvalidValueError
        If it holds pickles or operators beside those that compute on tensors.
    """

    def __init__(self, data: memoryview, subject: str) -> None:
        self._subject = subject
        with self._damage_named():
            members = _members(data)
            document = orjson.loads(members["models/model.json"])
            if (schema := document["schema_version"]["major"]) != SCHEMA:
                raise InvalidValueError(f"it is in schema {schema}, this version reads {SCHEMA}")
            self._ranges = {s: _range(known) for s, known in document["range_constraints"].items()}
            self._read(document["graph_module"], _weights(members))

    def __repr__(self) -> str:
        return f"Program({', '.join(self._names)})"

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Compute the model: arguments as the example had them, by place or by name.

        Returns
        -------
        numpy arrays in the tree that the model gives; what numpy has no dtype for as float32.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            If the arguments are not such as the example's.
        """
        import torch

        call = self._in_order(args, named)
        leaves = _flat(self._in, call)
        values = [
            slot.take(next(leaves)) if isinstance(slot, _Input) else slot for slot in self._slots
        ]
        self._check_sizes(values)
        with torch.no_grad():
            results = self._graph(*values)
        return _unflat(self._out, map(_as_numpy, results))

    def _check_sizes(self, values: list[Any]) -> None:
        """Refuse what the graph would compute, but not as the model: it took the other branch."""
        sizes: dict[str, int] = {}
        inputs = ((s, v) for s, v in zip(self._slots, values, strict=True) if isinstance(s, _Input))
        for slot, value in inputs:
            for axis, symbol in slot.free.items():
                found = value.shape[axis]
                same = sizes.setdefault(symbol, found)
                allowed = self._ranges.get(symbol, range(sys.maxsize))
                if found != same or found not in allowed:
                    wanted = f"{allowed.start} to {allowed.stop - 1}"
                    raise InvalidValueError(
                        f"Argument {slot.name!r}: found size {found} in axis {axis}, the program "
                        f"takes {wanted if found == same else f'{same}, as elsewhere'}."
                    )

    def _read(self, module: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
        graph, signature = module["graph"], module["signature"]
        call = next(each for each in module["module_call_graph"] if each["fqn"] == "")["signature"]
        self._in, self._out = read_tree(call["in_spec"]), read_tree(call["out_spec"])
        self._names = [str(name) for name in call.get("forward_arg_names") or ()]
        self._graph = _Graph(graph)
        self._slots = [
            _slot(spec, name, graph["tensor_values"], weights)
            for spec, name in zip(signature["input_specs"], self._graph.inputs, strict=True)
        ]
        for output in signature["output_specs"]:
            if set(output) != {"user_output"}:
                raise InvalidValueError(f"it changes its weights ({next(iter(output))})")

    def _in_order(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Return the arguments by place and by name as the example had them."""
        places, names = self._in.children
        count = len(places.children)
        if len(self._names) == count + len(names.children) and len(args) <= len(self._names):
            by_name = dict(zip(self._names, args, strict=False))
            if not by_name.keys() & named.keys():
                by_name.update(named)
                args = tuple(by_name.pop(name) for name in self._names[:count] if name in by_name)
                named = by_name
        if len(args) != count or set(named) != set(names.keys):
            wanted = ", ".join(self._names) or f"{count} by place and {', '.join(names.keys)}"
            raise InvalidTypeError(
                f"{self._subject}: its program takes ({wanted}); found {len(args)} by place and "
                f"{', '.join(named) or 'none'} by name."
            )
        return args, named

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except InvalidValueError as error:
            raise InvalidValueError(
                f"{self._subject}: its program is not loaded, {error}. Load the weights into the "
                "model's code instead: load(into=...)."
            ) from error
        except _DAMAGE as error:
            raise DamagedError(
                f"{self._subject}: its program is not a .pt2 that this version reads "
                f"({type(error).__name__}: {str(error)[:200]}). Restore it from the same save, or "
                "load the weights into the model's code: load(into=...)."
            ) from error


_DAMAGE = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, StopIteration,
    OverflowError, EOFError, zipfile.BadZipFile,
)  # fmt: skip


def _members(data: memoryview) -> dict[str, memoryview]:
    """Find the files of an archive; torch stores them as they are, so none can swell."""
    held = io.BytesIO(data)
    with zipfile.ZipFile(held) as archive:
        entries = archive.infolist()
    view, members = held.getbuffer(), {}
    for entry in entries:
        name = entry.filename.partition("/")[2]
        if name in members or entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{entry.filename!r:.80} stands there twice, or is compressed")
        header = view[entry.header_offset :][:_LOCAL_HEADER_BYTES]
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
        start = entry.header_offset + _LOCAL_HEADER_BYTES + lengths
        members[name] = view[start : start + entry.file_size]
    return members


def _weights(members: Mapping[str, memoryview]) -> dict[str, Any]:
    """Return weights and constants by name; those that share memory share it again."""
    weights = {}
    for place in ("weights", "constants"):
        config = orjson.loads(members[f"data/{place}/model_{place}_config.json"])["config"]
        stored: dict[str, Any] = {}
        for name, payload in config.items():
            file, meta = payload["path_name"], payload["tensor_meta"]
            if payload["use_pickle"] or meta is None:
                raise InvalidValueError(
                    f"{name!r:.80} is a pickle in it, which can run any code when it is opened"
                )
            if file not in stored:
                stored[file] = _raw(members[f"data/{place}/{file}"])
            weights[name] = _tensor(stored[file], meta)
    return weights


def _raw(data: memoryview) -> Any:
    import torch

    if not data:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(data, dtype=torch.uint8)


def _tensor(raw: Any, meta: Mapping[str, Any]) -> Any:
    import torch

    sizes, strides = ([number["as_int"] for number in meta[key]] for key in ("sizes", "strides"))
    flat = raw.view(_dtype(meta["dtype"]))
    # torch checks that this stays inside of the memory.
    tensor = torch.as_strided(flat, sizes, strides, meta["storage_offset"]["as_int"])
    return tensor.to(_device(meta["device"]))


def _dtype(number: int) -> Any:
    import torch

    return getattr(torch, _DTYPES[number])


def _device(device: Mapping[str, Any]) -> Any:
    """Return the device of that kind that is here; without one the CPU computes the program."""
    import torch

    there = device["type"] == "cuda" and torch.cuda.is_available()
    return torch.device("cuda" if there else "cpu")


# ---------------------------------------------------------------------- a graph


class _Name(str):
    """What stands for a value that is computed."""

    __slots__ = ()


class _Step(NamedTuple):
    """One operator, what it is called with, and the names of what it gives."""

    compute: Callable[..., Any]
    args: list[Any]
    named: dict[str, Any]
    outputs: Any
    done_with: list[_Name]
    """What no later step needs: held on, all layers' values would stay to the end."""


class _Graph:
    """Operators in their order; the body of a branch is one too."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self.inputs = [_argument(each) for each in graph["inputs"]]
        self._outputs = [_argument(each) for each in graph["outputs"]]
        self._single = graph.get("is_single_tensor_return") is True
        steps: list[_Step] = []
        needed: set[str] = set(_names(self._outputs))
        for node in reversed(graph["nodes"]):
            step = _step(node, needed)
            needed.update(_names([step.args, step.named]))
            steps.append(step)
        self._steps = steps[::-1]

    def __call__(self, *values: Any) -> Any:
        known: dict[str, Any] = {}
        _bind(self.inputs, values, known)
        for step in self._steps:
            args, named = _filled(step.args, known), _filled(step.named, known)
            _bind(step.outputs, step.compute(*args, **named), known)
            del args, named
            for name in step.done_with:
                known.pop(name, None)
        results = tuple(_filled(self._outputs, known))
        return results[0] if self._single else results


def _step(node: Mapping[str, Any], needed: set[str]) -> _Step:
    target = node["target"]
    compute = find_operator(target)
    arguments = [(each["name"], each["kind"], _argument(each["arg"])) for each in node["inputs"]]
    args = [value for _, kind, value in arguments if kind != _BY_NAME]
    named = {name: value for name, kind, value in arguments if kind == _BY_NAME}
    outputs = [_argument(each) for each in node["outputs"]]
    in_tuple = target.startswith(_HIGHER) and node.get("is_hop_single_tensor_return") is False
    if len(outputs) == 1 and not in_tuple:
        outputs = outputs[0]
    seen = {*_names([args, named]), *_names(outputs)}
    return _Step(compute, args, named, outputs, [name for name in seen if name not in needed])


_BY_NAME = 2
_HIGHER = "torch.ops.higher_order."


def find_operator(target: str) -> Callable[..., Any]:
    """Return the operator of that name; InvalidValueError for what is none, or reaches out."""
    import torch

    if target in _WITH_BODY:
        return _WITH_BODY[target]
    module, _, name = target.rpartition(".")
    if name in _ON_SIZES.get(module, "").split():
        size_operator: Callable[..., Any] = getattr(sys.modules[module], name)
        return size_operator
    if (match := _ATEN.fullmatch(target)) and match[1] not in _REACHING_OUT:
        found: Any = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
        if isinstance(found, torch._ops.OpOverload):
            return found
    raise InvalidValueError(f"{target!r:.120} is not an operator that computes on tensors alone")


def _chosen(condition: Any, then: _Graph, otherwise: _Graph, operands: list[Any]) -> Any:
    return (then if condition else otherwise)(*operands)


def _with_autocast(
    device: str, dtype: Any, enabled: bool, cached: bool | None, body: _Graph, *values: Any
) -> Any:
    import torch

    with torch.autocast(device, dtype, enabled, cached):
        return body(*values)


_WITH_BODY: dict[str, Callable[..., Any]] = {
    f"{_HIGHER}cond": _chosen,
    f"{_HIGHER}wrap_with_autocast": _with_autocast,
    f"{_HIGHER}wrap_with_set_grad_enabled": lambda _, body, *values: body(*values),
}


def _argument(argument: Mapping[str, Any]) -> Any:
    """Return an argument with a :class:`_Name` for what is computed."""
    import torch

    ((kind, value),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_int" | "as_bool" | "as_string" | "as_ints" | "as_bools" | "as_strings":
            return value
        case "as_float":  # text where JSON has none: Infinity, NaN
            return float(value)
        case "as_floats":
            return [float(number) for number in value]
        case "as_complex":
            return complex(float(value["real"]), float(value["imag"]))
        case "as_tensor":
            return _Name(value["name"])
        case "as_tensors":
            return [_Name(each["name"]) for each in value]
        case "as_nested_tensors":
            return [[_Name(each["name"]) for each in row] for row in value]
        case "as_name":
            return _Name(value)
        case "as_sym_int" | "as_sym_float" | "as_sym_bool" | "as_optional_tensor":
            return _argument(value)
        case "as_sym_ints" | "as_sym_floats" | "as_sym_bools" | "as_optional_tensors":
            return [_argument(each) for each in value]
        case "as_string_to_argument":
            return {name: _argument(each) for name, each in value.items()}
        case "as_scalar_type":
            return _dtype(value)
        case "as_memory_format":
            return getattr(torch, _MEMORY_FORMATS[value])
        case "as_layout" if value == _STRIDED:
            return torch.strided
        case "as_device":
            return _device(value)
        case "as_graph":
            return _Graph(value["graph"])
    raise InvalidValueError(f"it has an argument of the kind {kind!r:.60}")


def _names(value: Any) -> Iterator[_Name]:
    if isinstance(value, _Name):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _names(each)


def _filled(value: Any, known: Mapping[str, Any]) -> Any:
    """Return arguments with what was computed in the place of its names."""
    if isinstance(value, _Name):
        return known[value]
    if isinstance(value, list):
        return [_filled(each, known) for each in value]
    if isinstance(value, dict):
        return {key: _filled(each, known) for key, each in value.items()}
    return value


def _bind(names: Any, values: Any, known: dict[str, Any]) -> None:
    if isinstance(names, _Name):
        known[names] = values
    elif isinstance(names, list) and names:
        for name, value in zip(names, values, strict=True):
            _bind(name, value, known)


# ---------------------------------------------------------------------- in and out


class _Input(NamedTuple):
    """What the caller gives: a tensor of that dtype and shape, or a value that is built in."""

    name: str
    dtype: Any = None
    device: Any = None
    shape: tuple[int | None, ...] = ()
    free: Mapping[int, str] = {}
    """The symbol of each axis that has None in the shape."""
    constant: Any = None

    def take(self, value: Any) -> Any:
        """Return a caller's value as the program takes it."""
        import torch

        if self.dtype is None:
            return self._constant(value)
        # A copy of what is not torch's: the program may compute in place.
        tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value)
        if not torch.can_cast(tensor.dtype, self.dtype):
            raise InvalidTypeError(
                f"Argument {self.name!r}: found {tensor.dtype}, the program takes {self.dtype}. "
                "Convert it."
            )
        wanted, found = self.shape, tuple(tensor.shape)
        if len(wanted) != len(found) or any(w not in (None, f) for w, f in zip(wanted, found)):  # noqa: B905
            text = ", ".join("any" if size is None else str(size) for size in wanted)
            raise InvalidValueError(
                f"Argument {self.name!r}: found shape {found}, the program takes ({text})."
            )
        return tensor.to(self.device, self.dtype)

    def _constant(self, value: Any) -> Any:
        if value != self.constant or type(value) is not type(self.constant):
            raise InvalidValueError(
                f"Argument {self.name!r}: found {value!r:.60}, the program was made for "
                f"{self.constant!r:.60} alone."
            )
        return value


def _slot(
    spec: Mapping[str, Any], name: Any, shapes: Mapping[str, Any], weights: Mapping[str, Any]
) -> Any:
    """Return what goes in at one place: a weight, or an :class:`_Input` for the caller's."""
    ((kind, known),) = spec.items()
    if kind in ("parameter", "buffer", "tensor_constant"):
        return weights[known[f"{kind}_name"]]
    if kind == "constant_input":
        return _Input(str(known["name"]), constant=_argument(known["value"]))
    if kind != "user_input":
        raise InvalidValueError(f"it has an input of the kind {kind!r:.60}")
    if "as_tensor" not in known["arg"]:
        return _Input("", constant=_argument(known["arg"]))
    meta = shapes[name]
    sizes = meta["sizes"]
    return _Input(
        name=str(name),
        dtype=_dtype(meta["dtype"]),
        device=_device(meta["device"]),
        shape=tuple(size.get("as_int") for size in sizes),
        free={a: _symbol(size["as_expr"]) for a, size in enumerate(sizes) if "as_expr" in size},
    )


def _symbol(expression: Mapping[str, Any]) -> str:
    """Return the name in ``Symbol('s77', positive=True)``; any other text as it is."""
    text = str(expression["expr_str"])
    return match[1] if (match := re.match(r"Symbol\('(\w+)'", text)) else text


def _range(constraint: Mapping[str, Any]) -> range:
    low, high = constraint["min_val"], constraint["max_val"]
    # torch says 2 where it only did not look at 0 and 1.
    start = 0 if low is None or low <= 2 else low
    return range(start, sys.maxsize if high is None else high + 1)


class _Node(NamedTuple):
    """A place in a tree of arguments or results: a leaf has no kind."""

    kind: str | None
    keys: list[Any]
    children: list[_Node]


def read_tree(text: str) -> _Node:
    """Return the tree that torch wrote as JSON in JSON."""
    version, root = orjson.loads(text)
    if version != 1:
        raise ValueError(f"a tree of version {version!r:.20}")
    return _node(root)


def _node(node: Mapping[str, Any]) -> _Node:
    kind, children = node["type"], [_node(child) for child in node["children_spec"]]
    if kind is None or kind in _SEQUENCES:
        return _Node(kind, [], children)
    if kind not in _MAPPINGS:
        raise InvalidValueError(f"it takes or gives a {kind!r:.80}, which needs its class")
    keys = orjson.loads(node["context"])
    if len(keys) != len(children) or not all(isinstance(key, str | int) for key in keys):
        raise ValueError(f"a mapping with {len(children)} values and other keys")
    return _Node(kind, keys, children)


def _flat(node: _Node, value: Any) -> Iterator[Any]:
    if node.kind is None:
        yield value
        return
    if node.kind in _MAPPINGS:
        fits = isinstance(value, Mapping) and set(value) == set(node.keys)
        children: Iterable[Any] = [value[key] for key in node.keys] if fits else ()
    else:
        fits = isinstance(value, list | tuple) and len(value) == len(node.children)
        children = value
    if not fits:
        wanted = f"a mapping of {node.keys}" if node.keys else f"{len(node.children)} in a sequence"
        raise InvalidTypeError(
            f"An argument of the program: found a {type(value).__name__}, the example had {wanted}."
        )
    for child, each in zip(node.children, children, strict=True):
        yield from _flat(child, each)


def _unflat(node: _Node, leaves: Iterator[Any]) -> Any:
    if node.kind is None:
        return next(leaves)
    children = [_unflat(child, leaves) for child in node.children]
    if node.kind in _MAPPINGS:
        return dict(zip(node.keys, children, strict=True))
    return _SEQUENCES[node.kind](children)


def _as_numpy(value: Any) -> Any:
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    of_torch = str(value.dtype).startswith(("torch.bfloat16", "torch.float8_"))
    return (value.float() if of_torch else value).numpy(force=True)
