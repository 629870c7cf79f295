"""Numbers out of any framework's array, importing none of the frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidTypeError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def is_tensor(value: object) -> bool:
    """Tell whether ``value`` is a torch tensor or behaves like one."""
    return hasattr(value, "detach") and hasattr(value, "cpu")


def as_numbers(value: Any, subject: str) -> NDArray[Any]:
    """Convert ``value`` to a numpy array of bools, integers or floats.

    A torch tensor is detached and brought to the CPU. bfloat16 and the float8 kinds widen to
    float32, which holds each of their values exactly. An error opens with ``subject``.

    Raises
    ------
    InvalidTypeError
        ``value`` is no array of numbers, or a complex one.
    """
    try:
        array = _read(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(
            f"{subject}: a {type(value).__name__} cannot be read as an array ({error}). "
            f"Pass a numpy, torch or jax array, or a list of numbers."
        ) from error
    if array.dtype.kind not in "biuf":
        raise InvalidTypeError(
            f"{subject}: found dtype {array.dtype}. Pass bools, integers or floats."
        )
    return array


def _read(value: Any) -> NDArray[Any]:
    import numpy as np

    array = _read_tensor(value) if is_tensor(value) else np.asarray(value)
    if array.dtype.type.__module__ == "ml_dtypes":
        return array.astype(np.float32)
    return array


def _read_tensor(tensor: Any) -> NDArray[Any]:
    import numpy as np

    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()
    return np.asarray(tensor.numpy(force=True))
