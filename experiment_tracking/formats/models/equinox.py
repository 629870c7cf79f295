"""Modules of equinox."""

from __future__ import annotations

import sys
from typing import Any

from experiment_tracking.formats.models.arrays import fill
from experiment_tracking.formats.models.jax import Computation, JaxFormat


class EquinoxFormat(JaxFormat):
    """Modules of equinox: their arrays; all else is in the code that makes the module."""

    framework = "equinox"
    packages = ("jax", "equinox")

    def takes(self, model: object) -> bool:
        """Take a module."""
        return isinstance(model, sys.modules["equinox"].Module)

    def tree(self, model: Any) -> Any:
        """Return the module with its arrays only."""
        import equinox

        return equinox.filter(model, equinox.is_array)

    def filled(self, into: Any, tree: Any, subject: str) -> Any:
        """Return a module like ``into`` with the arrays of ``tree``.

        ``into`` may be what ``equinox.filter_eval_shape`` gives.
        """
        import equinox

        arrays, static = equinox.partition(into, _is_array_or_its_shape)
        return equinox.combine(fill(arrays, tree, subject), static)

    def parameter_count(self, model: Any) -> int:
        """Count the elements of all arrays of floats or complex numbers."""
        import equinox
        import jax

        parameters = equinox.filter(model, equinox.is_inexact_array)
        return sum(leaf.size for leaf in jax.tree.leaves(parameters))

    def computation(self, model: Any) -> Computation:
        """Return the module as a pure function, in inference mode and without a random key.

        A module of equinox takes one sample: it is mapped over the batch, the first axis of all
        arguments. One that cannot be is called with the batch itself.
        """
        import equinox
        import jax

        arrays, static = equinox.partition(equinox.nn.inference_mode(model), equinox.is_array)
        leaves, structure = jax.tree.flatten(static)  # a module with a list has no hash
        return Computation(_compute, (structure, *leaves), arrays)


def _is_array_or_its_shape(leaf: Any) -> bool:
    import equinox
    import jax

    return isinstance(leaf, jax.ShapeDtypeStruct) or bool(equinox.is_array(leaf))


def _compute(static: Any, arrays: Any, args: Any, named: Any) -> Any:
    import equinox
    import jax

    structure, *leaves = static
    model = equinox.combine(arrays, structure.unflatten(leaves))
    mapped = jax.vmap(model)
    try:
        jax.eval_shape(mapped, *args, **named)
    except Exception:  # whatever a module raises that is made for batches
        return model(*args, **named)
    return mapped(*args, **named)
