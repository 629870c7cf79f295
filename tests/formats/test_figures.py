import io
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats.figures import encode_figure


@pytest.fixture
def figure():
    figure, axes = plt.subplots(figsize=(4, 3))
    axes.plot([0, 1, 2], [3, 1, 2], linewidth=5)
    yield figure
    plt.close(figure)


def opened(encoded):
    assert encoded.suffix == ".png"
    return Image.open(io.BytesIO(encoded.data))


def test_a_matplotlib_figure_becomes_a_png_with_something_on_it(figure):
    image = opened(encode_figure(figure))
    assert 500 <= image.width <= 700
    assert 350 <= image.height <= 500
    assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_the_figure_stays_open_and_as_it_was(figure):
    before = figure.dpi, figure.get_size_inches().tolist(), figure.canvas
    encode_figure(figure)
    assert (figure.dpi, figure.get_size_inches().tolist(), figure.canvas) == before
    assert figure.number in plt.get_fignums()


def test_a_second_encoding_gives_the_same_bytes(figure):
    assert encode_figure(figure) == encode_figure(figure)


@pytest.mark.parametrize("part", ["axes", "pyplot"])
def test_axes_and_pyplot_stand_for_their_figure(figure, part):
    given = {"axes": figure.axes[0], "pyplot": plt}[part]
    assert encode_figure(given) == encode_figure(figure)


def test_axes_of_a_nested_subfigure_stand_for_the_whole_figure():
    figure = plt.figure()
    axes = figure.subfigures(1, 2)[0].subfigures(2, 1)[1].subplots()
    assert encode_figure(axes) == encode_figure(figure)
    plt.close(figure)


def test_pyplot_without_a_figure_is_refused_and_opens_none():
    plt.close("all")
    with pytest.raises(InvalidValueError, match="no open figure"):
        encode_figure(plt)
    assert plt.get_fignums() == []


def test_anything_with_savefig_will_do():
    class Sketch:
        def savefig(self, file, **options):
            file.write(repr(options).encode())

    assert encode_figure(Sketch()) == (b"{'format': 'png'}", ".png")


def test_a_plotly_figure_becomes_a_page_that_opens_offline():
    graph_objects = pytest.importorskip("plotly.graph_objects", reason="pip install plotly")
    figure = graph_objects.Figure(graph_objects.Scatter(x=["uno", "due"], y=[0.125, 7.5]))
    encoded = encode_figure(figure)
    page = encoded.data.decode()
    assert encoded.suffix == ".html"
    assert '"uno","due"' in page
    assert "0.125,7.5" in page
    assert 'src="https://cdn' not in page
    assert len(page) > 1_000_000


@pytest.mark.parametrize("value", ["plot.png", None, np.zeros((2, 2)), pd.DataFrame({"a": [1]})])
def test_what_is_no_figure_is_refused_with_what_to_pass(value):
    with pytest.raises(
        InvalidTypeError, match=r"is not a figure\. Pass a matplotlib figure or axes"
    ):
        encode_figure(value)


def test_the_rooms_modules_import_no_third_party_package():
    code = (
        "import sys; from experiment_tracking.formats import figures, images, tables, histograms, "
        "trees; print(*sorted({'numpy', 'pandas', 'PIL', 'matplotlib', 'plotly', 'torch', 'jax', "
        "'safetensors', 'ml_dtypes'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
