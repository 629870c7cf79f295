import json
import pickle
import sys

import numpy as np
import pytest

from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
)

pytest.importorskip("cloudpickle", reason="pip install 'experiment_tracking[models]'")


class Thermostat:
    """Something that no format takes."""

    def __init__(self, wanted):
        self.wanted = wanted

    def predict(self, degrees):
        return [degree < self.wanted for degree in degrees]


class Harm:
    """Unpickling it makes a folder."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.canary),)


def test_what_no_format_takes_names_the_way_out(saved):
    with pytest.raises(InvalidTypeError, match=r"Thermostat safely.*allow_unsafe=True"):
        saved(Thermostat(20))


def test_it_comes_back_only_where_that_is_allowed_in_the_very_call(saved):
    kept = saved(Thermostat(20), allow_unsafe=True, input_example=[19.0, 21.0])
    assert kept.document["framework"] == "cloudpickle"
    for refused in (kept.load, kept.load_program, kept.load_optimizer):
        with pytest.raises(InvalidValueError, match="allow_unsafe=True"):
            refused()
    assert kept.load(allow_unsafe=True).wanted == 20
    kept.verify()  # reads the bytes and opens nothing


def test_a_function_of_main_comes_back_with_its_code(saved):
    threshold = 3
    kept = saved(lambda value: value > threshold, allow_unsafe=True)
    assert kept.load(allow_unsafe=True)(4)


def test_what_cannot_be_pickled_is_refused(saved):
    with pytest.raises(InvalidTypeError, match="cloudpickle cannot keep this generator"):
        saved((i for i in range(3)), allow_unsafe=True)


def test_allowing_it_does_not_take_models_from_their_own_formats(saved):
    kept = saved({"w": [1.0, 2.0]}, allow_unsafe=True)
    assert kept.document["framework"] == "arrays"
    assert kept.load() == {"w": [1.0, 2.0]}


def test_without_cloudpickle_the_error_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'experiment_tracking\[models\]'"):
        saved(Thermostat(20), allow_unsafe=True)


ROLES = ("weights", "optimizer", "program", "example")

# Each format's package, and what it needs to get as far as the file.
FRAMEWORKS = {
    "arrays": (), "torch": ("torch",), "jax": ("jax",), "flax.nnx": ("flax", "jax"),
    "equinox": ("equinox", "jax"), "sklearn": ("skops",), "xgboost": ("xgboost",),
    "lightgbm": ("lightgbm", "skops"), "onnx": ("onnx",),
}  # fmt: skip
"""All but Keras, which the tests import in processes of its own."""


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("into", [None, {"w": 1.0}])
def test_no_other_framework_in_the_document_opens_a_pickle(saved, forge, tmp_path, framework, into):
    for package in FRAMEWORKS[framework]:
        pytest.importorskip(package, reason=f"pip install {package}")
    canary = tmp_path / "canary"
    kept = saved(Thermostat(20), allow_unsafe=True)
    files = dict.fromkeys(ROLES, kept.document["files"]["weights"])
    kept = forge(kept, pickle.dumps(Harm(canary)), framework=framework, files=files)
    for attempt in (
        lambda: kept.load(into),
        lambda: kept.load(into, allow_unsafe=True),
        lambda: kept.load(into, verify=False),
        kept.load_program,
        kept.load_optimizer,
        kept.load_example,
    ):
        with pytest.raises((DamagedError, InvalidTypeError, InvalidValueError, LookupError)):
            attempt()
    assert not canary.exists()
    # The same bytes do harm where they are opened: the test would see it.
    pickle.loads((kept.path / "weights-000001.pkl").read_bytes())
    assert canary.exists()


@pytest.mark.parametrize("framework", ["pickle", "CLOUDPICKLE", None, 3, ["cloudpickle"], {}])
def test_a_framework_that_is_none_is_damage(saved, forge, framework):
    kept = forge(saved(Thermostat(20), allow_unsafe=True), framework=framework)
    with pytest.raises(DamagedError, match="framework is"):
        kept.load()
    assert json.loads((kept.path / "model.json").read_text())["framework"] == framework


def test_what_its_own_format_refuses_is_kept_by_pickle_where_that_is_allowed(saved, capsys):
    pytest.importorskip("skops", reason="pip install 'experiment_tracking[models]'")
    from sklearn.preprocessing import FunctionTransformer

    model = FunctionTransformer(lambda x: x + 1)
    with pytest.raises(InvalidValueError, match="allow_unsafe=True"):
        saved(model)
    kept = saved(model, allow_unsafe=True)
    assert kept.document["framework"] == "cloudpickle"
    assert "sklearn refused it" in capsys.readouterr().err
    assert kept.load(allow_unsafe=True).transform(np.zeros(1)) == [1]
    with pytest.raises(InvalidValueError, match="allow_unsafe=True"):
        kept.load()
