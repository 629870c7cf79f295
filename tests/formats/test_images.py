import io
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as nps
from PIL import Image

from experiment_tracking.errors import InvalidTypeError, InvalidValueError, MissingPackageError
from experiment_tracking.formats.images import encode_image


def opened(image):
    encoded = encode_image(image)
    assert encoded.suffix == ".png"
    return Image.open(io.BytesIO(encoded.data))


def pixels(image):
    return np.asarray(opened(image))


@given(nps.arrays(np.uint8, (5, 7, 3)))
def test_bytes_come_back_as_they_were(array):
    assert np.array_equal(pixels(array), array)


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [
        ((5, 7), (7, 5), "L"),
        ((5, 7, 1), (7, 5), "L"),
        ((5, 7, 3), (7, 5), "RGB"),
        ((5, 7, 4), (7, 5), "RGBA"),
        ((1, 5, 7), (7, 5), "L"),
        ((3, 5, 7), (7, 5), "RGB"),
        ((4, 5, 7), (7, 5), "RGBA"),
        ((3, 5, 4), (5, 3), "RGBA"),
    ],
)
def test_channels_may_stand_last_or_first(shape, size, mode):
    image = opened(np.zeros(shape, np.uint8))
    assert (image.size, image.mode) == (size, mode)


def test_channels_first_keeps_every_pixel_in_its_place():
    array = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(3, 5, 7)
    assert np.array_equal(pixels(array), array.transpose(1, 2, 0))


def test_bools_are_black_and_white():
    assert pixels(np.array([[True, False]])).tolist() == [[255, 0]]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_one_of_256_levels_survives_as_a_float(dtype):
    levels = np.arange(256).reshape(16, 16)
    assert np.array_equal(pixels((levels / 255).astype(dtype)), levels)


def test_floats_a_hair_outside_are_taken_as_rounding():
    assert pixels(np.array([[-1e-7, 1 + 1e-7]])).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[-0.5, 2.0]]), "from -0.5 to 2, allowed are 0 to 1. Scale"),
        (np.array([[0.0, np.inf]]), "from 0 to inf"),
        (np.array([[0.0, np.nan]]), "found NaN"),
        (np.array([[0, 256]]), "from 0 to 256, allowed are 0 to 255"),
        (np.array([[-1, 0]], np.int8), "from -1 to 0"),
        (np.zeros((2, 3, 8, 8)), r"shape \(2, 3, 8, 8\).*one by one"),
        (np.zeros((8, 8, 2)), r"shape \(8, 8, 2\)"),
        (np.zeros(8), r"shape \(8,\)"),
        (np.zeros((0, 3)), "empty"),
    ],
)
def test_an_array_that_is_no_image_is_refused_with_what_was_found(array, message):
    with pytest.raises(InvalidValueError, match=message):
        encode_image(array)


@pytest.mark.parametrize("value", [None, "cat.png", np.zeros((2, 2), complex), object()])
def test_what_holds_no_numbers_is_refused(value):
    with pytest.raises(InvalidTypeError, match="Image: "):
        encode_image(value)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "F"])
def test_pil_images_keep_their_size(mode):
    assert opened(Image.new(mode, (7, 5))).size == (7, 5)


def test_a_pil_mode_that_png_lacks_becomes_rgb():
    image = Image.new("CMYK", (7, 5), (0, 255, 255, 0))
    assert opened(image).getpixel((0, 0)) == (255, 0, 0)


def test_torch_images_are_read():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    tensor = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    assert pixels(tensor).tolist() == [[0, 255]]


def test_jax_images_are_read():
    jnp = pytest.importorskip("jax", reason="pip install jax").numpy
    assert pixels(jnp.array([[0.0, 1.0]], dtype=jnp.bfloat16)).tolist() == [[0, 255]]


def test_without_pillow_the_install_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'experiment_tracking\[plots\]'"):
        encode_image(np.zeros((2, 2)))
