"""Modules of flax.nnx."""

from __future__ import annotations

import sys
from typing import Any

from experiment_tracking.formats.models.arrays import fill
from experiment_tracking.formats.models.jax import Computation, JaxFormat


class NnxFormat(JaxFormat):
    """Modules of flax.nnx with all of their state: parameters, statistics, random keys and counts.

    A variable that several modules share is kept once, and shared again after loading.
    """

    framework = "flax.nnx"
    packages = ("jax", "flax")

    def takes(self, model: object) -> bool:
        """Take a module."""
        return isinstance(model, sys.modules["flax.nnx"].Module)

    def tree(self, model: Any) -> Any:
        """Return the module's state: variables under the names at which they stand."""
        from flax import nnx

        return nnx.state(model)

    def optimizer_tree(self, optimizer: Any) -> Any:
        """Return the state of an ``nnx.Optimizer``, or the state of optax that is given."""
        from flax import nnx

        has_state = isinstance(optimizer, nnx.Optimizer | nnx.Module)
        return nnx.state(optimizer) if has_state else super().optimizer_tree(optimizer)

    def filled(self, into: Any, tree: Any, subject: str) -> Any:
        """Update a module or optimizer in place and return it; another template is filled.

        One that ``nnx.eval_shape`` made gets its arrays so.
        """
        from flax import nnx

        if not isinstance(into, nnx.Optimizer | nnx.Module):
            return fill(into, tree, subject)
        nnx.update(into, fill(nnx.state(into), tree, subject))
        return into

    def parameter_count(self, model: Any) -> int:
        """Count the elements of all ``nnx.Param``."""
        import jax
        from flax import nnx

        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    def computation(self, model: Any) -> Computation:
        """Return the module as a pure function, dropout off and batch statistics as they are."""
        from flax import nnx

        evaluating = nnx.merge(*nnx.split(model))  # eval() changes a module: a copy of it
        evaluating.eval()
        return Computation(_compute, *nnx.split(evaluating))


def _compute(graphdef: Any, state: Any, args: Any, named: Any) -> Any:
    from flax import nnx

    return nnx.merge(graphdef, state)(*args, **named)
