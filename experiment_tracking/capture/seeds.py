"""One seed for the random number generators that a process has loaded."""

import os
import sys
from collections.abc import Callable
from operator import index
from typing import Any, NamedTuple

from experiment_tracking.errors import InvalidTypeError, InvalidValueError

SEED_VARIABLE = "EXPERIMENT_TRACKING_SEED"
"""Seed for a process that names none itself; a rerun sets it."""

MAX_SEED = 2**32 - 1
"""numpy's bound; the others take more."""


class Seeds(NamedTuple):
    """What was seeded, and with which number.

    Attributes
    ----------
    seed
        From 0 to 2**32 - 1.
    seeded
        Names of the libraries, in the order of seeding. ``jax`` stands there when it is loaded,
        though it has no state to seed: its key is the caller's, ``jax.random.key(seed)``.
    """

    seed: int
    seeded: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give the seeds as plain values for JSON."""
        return {"seed": self.seed, "seeded": list(self.seeded)}


def seed_everything(seed: int | None = None) -> Seeds:
    """Seed ``random``, and numpy, torch and tensorflow where they are loaded.

    Call it behind the imports: a library that is not loaded yet is passed over, for loading
    torch takes seconds and a script may not use it. Seeded are numpy's global state (a
    ``default_rng`` takes the returned seed), torch on all devices, and tensorflow's global
    generator. Hashes of text are Python's own: only ``PYTHONHASHSEED``, set before the start,
    makes them the same again.

    Parameters
    ----------
    seed
        From 0 to 2**32 - 1; by default ``$EXPERIMENT_TRACKING_SEED`` where it is set, else drawn
        from the system's randomness.

    Raises
    ------
    InvalidTypeError
        If the seed is no integer.
    InvalidValueError
        If it, or the variable, is outside the range or no number.
    """
    import random

    number = _seed_of_process() if seed is None else _checked(seed)
    random.seed(number)
    seeded = [name for name in _SEEDERS if name in sys.modules]
    for name in seeded:
        _SEEDERS[name](sys.modules[name], number)
    return Seeds(number, ("random", *seeded))


def _seed_of_process() -> int:
    text = os.environ.get(SEED_VARIABLE)
    if not text:
        return int.from_bytes(os.urandom(4), "big")
    if not (text.isascii() and text.isdigit()):
        raise InvalidValueError(
            f"${SEED_VARIABLE} is {text!r}; it must be an integer from 0 to {MAX_SEED}. "
            "Change or unset it."
        )
    return _checked(int(text))


def _checked(seed: Any) -> int:
    try:
        # numpy's integers pass as well, and so would True, which nobody means as a seed.
        number = None if isinstance(seed, bool) else index(seed)
    except TypeError:
        number = None
    if number is None:
        raise InvalidTypeError(
            f"Cannot seed with {seed!r} of type {type(seed).__name__}. "
            f"Give an integer from 0 to {MAX_SEED}."
        )
    if not 0 <= number <= MAX_SEED:
        raise InvalidValueError(
            f"Cannot seed with {number}: a seed is an integer from 0 to {MAX_SEED}, as numpy takes."
        )
    return number


# The modules are there already, so their functions are taken from them without an import.
_SEEDERS: dict[str, Callable[[Any, int], object]] = {
    "numpy": lambda numpy, seed: numpy.random.seed(seed),
    "torch": lambda torch, seed: torch.manual_seed(seed),
    "jax": lambda jax, seed: None,
    "tensorflow": lambda tensorflow, seed: tensorflow.random.set_seed(seed),
}
