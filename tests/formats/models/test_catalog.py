"""Which format takes a model: the framework that it is of, and nothing is imported to find out."""

import subprocess
import sys

import numpy as np
import pytest

from experiment_tracking.errors import DamagedError, InvalidTypeError
from experiment_tracking.formats.models import catalog
from experiment_tracking.formats.models.catalog import format_named, format_of
from experiment_tracking.formats.models.interface import ModelFormat

FRAMEWORKS = {
    "keras", "torch", "flax.nnx", "equinox", "xgboost", "lightgbm", "sklearn", "onnx", "arrays",
    "jax", "cloudpickle",
}  # fmt: skip


@pytest.mark.parametrize(
    "model",
    [{"w": np.zeros(2)}, [np.zeros(2)], (1.0, None), np.zeros(2), {}, {"a": {"b": [1, "x"]}}],
)
def test_containers_and_arrays_are_trees_of_arrays(model):
    assert format_of(model).framework == "arrays"
    assert format_of(model, allow_unsafe=True).framework == "arrays"


@pytest.mark.parametrize("model", [object(), None, 3, "weights.pt", lambda x: x, Exception()])
def test_anything_else_is_refused_and_pickled_only_where_that_is_allowed(model):
    with pytest.raises(InvalidTypeError, match="allow_unsafe=True") as caught:
        format_of(model)
    assert type(model).__qualname__ in str(caught.value)
    assert format_of(model, allow_unsafe=True).framework == "cloudpickle"


def test_every_framework_has_a_format_of_its_name():
    assert set(catalog._FORMATS) == FRAMEWORKS
    for framework in FRAMEWORKS:
        format_ = format_named(framework, "Model 'm'")
        assert isinstance(format_, ModelFormat)
        assert format_.framework == framework


@pytest.mark.parametrize(
    "name", ["", "tensorflow", "os", "..arrays", "arrays:ArraysFormat", None, 3, ["arrays"], {}]
)
def test_a_framework_that_nobody_knows_is_refused(name):
    with pytest.raises(
        DamagedError, match=r"Model 'm': its framework is .* known are keras, torch"
    ):
        format_named(name, "Model 'm'")


def test_a_model_that_says_it_is_of_a_framework_does_not_load_it():
    class Liar:
        __module__ = "torch.nn.modules"

    with pytest.raises(InvalidTypeError):
        format_of(Liar())


_ASK = """
import sys
import numpy
from experiment_tracking.errors import InvalidTypeError
from experiment_tracking.formats.models.catalog import format_named, format_of

before = set(sys.modules)
format_of({"w": numpy.zeros(2)})
try:
    format_of(object())
except InvalidTypeError:
    pass
for framework in sys.argv[1:]:
    format_named(framework, "Model")
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""


def test_asking_imports_no_framework():
    done = subprocess.run(
        [sys.executable, "-c", _ASK, *FRAMEWORKS], capture_output=True, text=True, check=True
    )
    frameworks = {name.partition(".")[0] for name in FRAMEWORKS - {"arrays"}} | {"skops", "optax"}
    assert "experiment_tracking" in done.stdout
    assert frameworks & set(done.stdout.split()) == set()
