"""An image to PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidValueError, MissingPackageError
from experiment_tracking.formats import Encoded
from experiment_tracking.formats.arrays import as_numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHANNELS = (1, 3, 4)
_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
_TOLERANCE = 1e-6  # what float32 arithmetic leaves above 1 or below 0


def encode_image(image: Any) -> Encoded:
    """Encode an image as PNG.

    Parameters
    ----------
    image
        A PIL image, or an array (numpy, torch, jax) of shape (H, W), (H, W, C) or (C, H, W) with
        C of 1, 3 or 4. Where both the first and the last axis could be channels, the last is.
        Bools become black and white; integers are 0 to 255; floats are 0 to 1.

    Raises
    ------
    InvalidTypeError
        ``image`` is neither, or an array of something else than numbers.
    InvalidValueError
        The shape is another one, or values lie outside the range.
    MissingPackageError
        Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        install = "'experiment_tracking[plots]'"
        raise MissingPackageError("Encoding an image", "Pillow", install) from error
    if not isinstance(image, Image.Image) or image.mode == "F":
        image = Image.fromarray(_pixels(as_numbers(image, "Image")))
    elif image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, format="PNG")
    return Encoded(file.getvalue(), ".png")


def _pixels(array: NDArray[Any]) -> NDArray[Any]:
    if array.size == 0:
        raise InvalidValueError(f"Image: found the empty shape {array.shape}.")
    return _as_bytes(_channels_last(array))


def _channels_last(array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 2:
        return array
    if array.ndim != 3 or not {array.shape[0], array.shape[-1]} & set(_CHANNELS):
        raise InvalidValueError(
            f"Image: found shape {array.shape}. Allowed are (H, W), (H, W, C) and (C, H, W) with "
            f"C of 1, 3 or 4. Log the images of a batch one by one."
        )
    if array.shape[-1] not in _CHANNELS:
        array = array.transpose(1, 2, 0)
    return array[..., 0] if array.shape[-1] == 1 else array


def _as_bytes(array: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    if array.dtype.kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f":
        _check_range(array, 1.0, _TOLERANCE)
        # float64 first: float16 has too few digits for 255 steps near 1.
        array = np.rint(array.astype(np.float64).clip(0, 1) * 255)
    else:
        _check_range(array, 255)
    return array.astype(np.uint8)


def _check_range(array: NDArray[Any], highest: float, tolerance: float = 0) -> None:
    low, high = array.min().item(), array.max().item()
    if low != low:
        raise InvalidValueError("Image: found NaN. Replace it first, with numpy.nan_to_num say.")
    if low < -tolerance or high > highest + tolerance:
        raise InvalidValueError(
            f"Image: found {array.dtype} values from {low:g} to {high:g}, allowed are 0 to "
            f"{highest:g}. Scale the values first: (x - x.min()) / (x.max() - x.min())."
        )
