"""Torch modules: weights as safetensors, and what ``torch.export`` makes of them."""

from __future__ import annotations

import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any

from experiment_tracking.errors import (
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
)
from experiment_tracking.formats.arrays import is_tensor
from experiment_tracking.formats.models.arrays import tree_file
from experiment_tracking.formats.models.interface import (
    Form,
    ModelFormat,
    Streamed,
    Wishes,
    Written,
    as_call,
    class_name,
)
from experiment_tracking.formats.models.saved import Save
from experiment_tracking.formats.trees import flatten_tree
from experiment_tracking.notices import notice

_TOLERATED = 0.01
"""How far a program's numbers may be from the model's: less than bfloat16's rounding adds up to."""
_NAMED = 3
"""How many keys an error names of each kind."""


class TorchFormat(ModelFormat):
    """``torch.nn.Module``, also inside of DistributedDataParallel and ``torch.compile``."""

    framework = "torch"
    packages = ("torch",)

    def takes(self, model: object) -> bool:
        """Take modules; state dicts are trees of arrays."""
        torch = sys.modules.get("torch")
        return torch is not None and isinstance(model, torch.nn.Module)

    def encode(self, model: Any, wishes: Wishes) -> Form:
        """Give the ``state_dict``, the optimizer's and the scheduler's, and with an example a
        program; the model and the state of random numbers stay as they are.

        A model that ``torch.export`` cannot turn into a program is kept without: a notice says
        why.
        """  # noqa: D205
        module = unwrapped(model)
        files: dict[str, Streamed | Written] = {"weights": _weights_file(module)}
        if wishes.optimizer is not None or wishes.scheduler is not None:
            files["optimizer"] = _optimizer_file(wishes.optimizer, wishes.scheduler)
        if wishes.input_example is not None:
            files |= self._program(module, wishes.input_example)
        count = sum(parameter.numel() for parameter in module.parameters())
        return Form(files, {"class": class_name(module), "parameter_count": count})

    def load(self, save: Save, into: Any, *, as_numpy: bool, trusted: Iterable[str]) -> Any:
        """Return the ``state_dict``, or the module ``into`` with just these weights.

        Raises
        ------
        InvalidValueError
            If names or shapes differ; ``into`` is then as it was.
        """
        if into is not None and not self.takes(into):
            raise InvalidTypeError(
                f"{save.subject}: into= is a {type(into).__name__}. Pass a torch.nn.Module, or "
                "nothing for its state_dict."
            )
        state = save.read_tree("weights", as_numpy=as_numpy and into is None)
        save.warn_of_other_versions()
        if into is None:
            return state
        module = unwrapped(into)
        _check_fit(state, module, save.subject)
        layouts = save.known("weights").get("layouts", {})
        module.load_state_dict(_with_layouts(state, module, layouts))
        return into

    def load_optimizer(self, save: Save, into: Any, scheduler: Any) -> Any:
        """Fill ``into`` and ``scheduler``; return ``into``.

        With neither, the tree ``{"optimizer": state, "scheduler": state}`` comes, None for what
        was not saved.
        """
        states = save.read_tree("optimizer")
        if into is None and scheduler is None:
            return states
        for role, taker in (("optimizer", into), ("scheduler", scheduler)):
            if taker is not None:
                _fill(taker, states[role], f"{save.subject}: the {role}")
        return into

    def load_program(self, save: Save) -> Callable[..., Any]:
        """Return the program: numpy arrays or tensors in, numpy arrays out.

        It takes what ``forward`` takes, by place or by name, in trees like the example's: dtypes
        that can be cast, shapes but for the first axis where ``batch`` is ``dynamic``, and values
        that are no tensors as they were. It gives ``forward``'s tree with dictionaries for
        mappings and dataclasses, tuples for namedtuples, and float32 for bfloat16 and float8. It
        computes in eval mode, on the kind of device that the model was on, or on the CPU.
        """
        from experiment_tracking.formats.models.torch_program import Program

        if "program" not in save.roles:
            return super().load_program(save)
        data = save.read("program")
        try:
            import torch  # noqa: F401
        except ImportError as error:
            install = "'experiment_tracking[torch]'"
            raise MissingPackageError("A torch program", "torch", install) from error
        save.warn_of_other_versions()
        return Program(data, save.subject)

    def run(self, model: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Compute the model in eval mode without gradients; numpy's arrays become tensors.

        Raises
        ------
        InvalidValueError
            If the model raises.
        """
        module = unwrapped(model)
        args, named = _as_inputs((args, dict(named)), module)
        try:
            with _evaluating(module):
                return module(*args, **named)
        except Exception as error:  # the model's code may raise anything
            raise InvalidValueError(
                f"{class_name(module)} cannot be computed on the example ({type(error).__name__}: "
                f"{_first_line(error)}). Pass what it is called with: a tensor or array, a tuple "
                "of arguments, or a mapping of named ones."
            ) from error

    def device(self, model: Any) -> str:
        """Name the device of the first parameter."""
        return str(_device(unwrapped(model)))

    def _program(self, module: Any, example: Any) -> dict[str, Written]:
        from experiment_tracking.formats.models import torch_export

        args, named = _as_inputs(as_call(example), module)
        try:
            with _evaluating(module):
                program, batch = torch_export.exported(module, args, named)
                difference = torch_export.difference(module, program, args, named)
        except Exception as error:  # torch raises of any class, and so may the model's own code
            self.run(module, args, named)  # which raises where the example is at fault
            notice(
                f"{class_name(module)} is saved without a program, weights only: torch.export "
                f"failed ({type(error).__name__}: {_first_line(error)})."
            )
            return {}
        if difference > _TOLERATED:
            notice(
                f"{class_name(module)}: on the example, its program gives other numbers than the "
                f"model (by {difference:.0%} of the largest). Compare load_program() with it."
            )
        known = {"batch": batch}
        return {
            "program": Written(
                ".pt2", "torch.export", lambda path: torch_export.save(program, path), known
            )
        }


def unwrapped(model: Any) -> Any:
    """Return the module inside of ``torch.compile``'s and the data parallel wrappers."""
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._orig_mod
        else:
            return model


# ---------------------------------------------------------------------- weights


def _weights_file(module: Any) -> Streamed:
    state = module.state_dict()
    try:
        file = tree_file(flatten_tree(state))
    except InvalidTypeError as error:
        what = str(error).partition(". ")[0]
        raise InvalidTypeError(
            f"The state of this {class_name(module)}: {what}. Have get_extra_state() give numbers, "
            "text and tensors, or keep the model with cloudpickle, which runs code when it is "
            "loaded: allow_unsafe=True."
        ) from error
    if unsaved := list(_unsaved(module, state)):
        _notice_once(
            f"{class_name(module)} holds tensors that are not saved, being neither parameters nor "
            f"buffers: {_few(unsaved)}. If they belong to the model: register_buffer()."
        )
    return file._replace(known={**file.known, "layouts": _layouts(state)})


def _unsaved(module: Any, state: Mapping[str, Any]) -> Iterator[str]:
    """Name the tensors that are plain attributes, but for what is computed of saved ones."""
    for place, part in module.named_modules():
        prefix = f"{place}." if place else ""
        for name, value in vars(part).items():
            # Weight and spectral norm, and pruning, compute `weight` from `weight_g` and the like.
            made_of = (f"{prefix}{name}_{end}" for end in ("g", "orig"))
            if is_tensor(value) and not any(each in state for each in made_of):
                yield prefix + name


@cache
def _notice_once(message: str) -> None:
    notice(message)


_FIRST_LAYOUT = 1
"""The version of a module's layout of tensors unless its class counts on: BatchNorm is at 2."""


def _layouts(state: Any) -> dict[str, int]:
    told = getattr(state, "_metadata", {})
    known = {name: metadata.get("version") for name, metadata in told.items()}
    return {n: v for n, v in known.items() if type(v) is int and v != _FIRST_LAYOUT}


def _with_layouts(state: Mapping[str, Any], module: Any, layouts: Mapping[str, int]) -> Any:
    """Return a state that says of each module how it was laid out: some convert older ones."""
    told: Any = OrderedDict(state)
    names = (name for name, _ in module.named_modules(remove_duplicate=False))
    told._metadata = {name: {"version": layouts.get(name, _FIRST_LAYOUT)} for name in names}
    return told


def _check_fit(state: Mapping[str, Any], module: Any, subject: str) -> None:
    """Compare names, shapes and dtypes before anything is written into the module."""
    from torch.nn.parameter import is_lazy

    there = module.state_dict()
    tensors = {name: value for name, value in there.items() if is_tensor(value)}
    common = [n for n, t in tensors.items() if is_tensor(state.get(n)) and not is_lazy(t)]
    differences = {
        "missing": [name for name in there if name not in state],
        "unexpected": [name for name in state if name not in there],
        "of another shape": [
            f"{n} {tuple(state[n].shape)}, into= has {tuple(tensors[n].shape)}"
            for n in common
            if state[n].shape != tensors[n].shape
        ],
        "on the device meta, which holds no numbers (call .to_empty(device=...) first)": [
            name for name in common if tensors[name].is_meta
        ],
    }
    if any(differences.values()):
        found = "; ".join(f"{_few(names)} {how}" for how, names in differences.items() if names)
        raise InvalidValueError(
            f"{subject} does not fit the {type(module).__name__} in into=: {found}. Build it as it "
            "was when it was saved, or load the state alone: load()."
        )
    converted = {n: f"{state[n].dtype} to {tensors[n].dtype}" for n in common}
    converted = {n: how for n, how in converted.items() if state[n].dtype != tensors[n].dtype}
    if converted:
        name, how = next(iter(converted.items()))
        notice(f"{subject}: {len(converted)} of its tensors are converted, {name} from {how}.")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


# ---------------------------------------------------------------------- optimizer, scheduler


def _optimizer_file(optimizer: Any, scheduler: Any) -> Streamed:
    if optimizer is None:
        raise InvalidValueError(
            "log_model: a scheduler belongs to an optimizer. Pass that as well: optimizer=."
        )
    states = {"optimizer": _state(optimizer), "scheduler": _state(scheduler)}
    try:
        return tree_file(flatten_tree(states))
    except InvalidTypeError as error:
        raise InvalidTypeError(
            f"The state of the optimizer or the scheduler: {error} Have its state_dict() give "
            "numbers, text and tensors, or leave it out."
        ) from error


def _state(holder: Any) -> Any:
    if holder is None or isinstance(holder, Mapping):
        return holder
    if not hasattr(holder, "state_dict") or _is_module(holder):
        raise InvalidTypeError(
            f"optimizer= or scheduler= is a {type(holder).__name__}. Pass one of torch's, or "
            "leave it out."
        )
    return _without_functions(holder.state_dict())


def _without_functions(value: Any) -> Any:
    """Leave functions out, as torch does with the lambdas of LambdaLR: code has its own."""
    if isinstance(value, Mapping):
        kept = {k: v for k, v in value.items() if is_tensor(v) or not callable(v)}
        return {key: _without_functions(item) for key, item in kept.items()}
    return [_without_functions(item) for item in value] if isinstance(value, list) else value


def _is_module(value: Any) -> bool:
    import torch

    return isinstance(value, torch.nn.Module)


_ELEMENTWISE = frozenset(
    "exp_avg exp_avg_sq max_exp_avg_sq exp_inf momentum_buffer square_avg grad_avg acc_delta sum "
    "ax prev step_size".split()
)
"""What torch's optimizers keep for every element of a parameter, by its name."""


def _misfit(optimizer: Any, state: Mapping[str, Any]) -> str | None:
    """Say what torch would find out in the next step only: another kind, or other shapes."""
    groups, saved = optimizer.param_groups, state.get("param_groups", [])
    for group, kept in zip(groups, saved, strict=False):
        # A version of torch may know one more setting, and then takes its default.
        if missing := sorted({*kept} - {*group}):
            return f"it has no {', '.join(map(str, missing))}: saved was another kind of optimizer"
        for parameter, number in zip(group["params"], kept.get("params", []), strict=False):
            for name, value in state.get("state", {}).get(number, {}).items():
                if name in _ELEMENTWISE and getattr(value, "shape", None) not in (
                    None, parameter.shape,
                ):  # fmt: skip
                    shapes = f"{tuple(value.shape)}, found {tuple(parameter.shape)}"
                    return f"{name} of parameter {number} is {shapes}"
    return None


def _fill(holder: Any, state: Any, subject: str) -> None:
    if state is None:
        raise InvalidValueError(f"{subject} was not saved with it. Load without it.")
    if not hasattr(holder, "load_state_dict") or _is_module(holder):
        raise InvalidTypeError(
            f"{subject}'s state goes into one of torch's, found a {type(holder).__name__}."
        )
    if hasattr(holder, "param_groups") and (problem := _misfit(holder, state)):
        raise InvalidValueError(
            f"{subject}'s state does not fit the {type(holder).__name__} given ({problem}). Build "
            "it as it was when it was saved."
        )
    for name, value in state.items():
        # MultiStepLR counts its milestones; a tree has plain mappings.
        if isinstance(getattr(holder, str(name), None), Counter):
            state[name] = Counter(value)
    try:
        holder.load_state_dict(state)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InvalidValueError(
            f"{subject}'s state does not fit the {type(holder).__name__} given "
            f"({_first_line(error)}). Build it as it was when it was saved."
        ) from error


# ---------------------------------------------------------------------- computing


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Have a module as it is used after training; then it and the process are as before."""
    import torch

    modes = [(each, each.training) for each in module.modules()]
    device = _device(module)
    cards = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(cards), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module.eval()
            yield
    finally:
        for each, training in modes:
            each.training = training


def _as_inputs(value: Any, module: Any) -> Any:
    """Return an example with tensors on the module's device for its arrays."""
    import numpy as np
    import torch

    if isinstance(value, Mapping):
        return {key: _as_inputs(item, module) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_as_inputs(item, module) for item in value)
    if isinstance(value, torch.Tensor):
        # A copy, as of arrays: the model may compute in place.
        return value.detach().to(_device(module), copy=True)
    if not hasattr(value, "__array__"):
        return value
    tensor = torch.tensor(np.asarray(value), device=_device(module))
    # numpy's floats are of 64 bits unless told otherwise, models hardly ever.
    return tensor.to(_float_dtype(module)) if tensor.is_floating_point() else tensor


def _device(module: Any) -> Any:
    import torch

    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def _float_dtype(module: Any) -> Any:
    import torch

    floats = (p.dtype for p in module.parameters() if p.is_floating_point() and p.itemsize > 1)
    return next(floats, torch.get_default_dtype())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:200]
