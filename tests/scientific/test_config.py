import copy
import json
import pickle
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.scientific import (
    ConfigView,
    ExperimentConfig,
    Framework,
    PhysicsDomain,
    config_from_params,
)

REQUIRED = {
    "framework": "jax",
    "domain": "neural-operators",
    "model_type": "FNO",
    "learning_rate": 1e-3,
    "batch_size": 32,
    "num_epochs": 100,
}

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
) | st.text()
mappings = st.recursive(
    st.dictionaries(st.text(), scalars),
    lambda inner: st.dictionaries(st.text(), inner | st.lists(inner | scalars)),
    max_leaves=10,
)
names = st.text(min_size=1).filter(str.strip)
configs = st.builds(
    ExperimentConfig,
    framework=st.sampled_from(Framework),
    domain=st.sampled_from(PhysicsDomain),
    model_type=names,
    learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    batch_size=st.integers(min_value=1),
    num_epochs=st.integers(min_value=1),
    optimizer=names,
    loss_function=names,
    regularization=st.none() | mappings | st.text() | st.floats(allow_nan=False),
    data_config=st.none() | mappings,
    hardware=st.none() | mappings | st.text(),
    seed=st.integers(),
)


def config(**changes):
    return ExperimentConfig(**{**REQUIRED, **changes})


def test_fields_stand_in_the_order_that_scripts_rely_on():
    given_ = ("jax", "pinn", "MLP", 0.1, 8, 5, "sgd", "mae", {"l2": 1}, {"n": 2}, {"gpu": 1}, 7)
    assert tuple(vars(ExperimentConfig(*given_)).values()) == given_


def test_defaults_are_adam_mse_nothing_and_seed_42():
    made = config()
    assert (made.optimizer, made.loss_function, made.seed) == ("adam", "mse", 42)
    assert made.regularization is made.data_config is made.hardware is None


@given(configs)
def test_a_config_comes_back_from_json_as_it_was(made):
    assert ExperimentConfig.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@given(configs)
def test_params_of_a_config_give_the_config_back_whatever_else_was_logged(made):
    assert config_from_params({**made.to_dict(), "warmup": 5}) == made


@pytest.mark.parametrize("choices", [Framework, PhysicsDomain])
def test_enum_members_are_found_by_value_and_by_name_in_any_case(choices):
    for member in choices:
        for word in (member.value, member.value.upper(), member.name, member.name.title()):
            assert choices(word) is member


def test_enum_members_are_the_strings_of_their_values():
    assert json.dumps(list(Framework)) == '["jax", "pytorch", "tensorflow"]'
    assert [f"{domain}" for domain in PhysicsDomain] == [
        "neural-operators",
        "pinn",
        "l2o",
        "neural-dft",
        "quantum-computing",
    ]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("framework", "caffe", "'jax', 'pytorch', 'tensorflow'"),
        ("domain", "chemistry", "'neural-dft'"),
        ("model_type", " ", "not blank"),
        ("learning_rate", 0, "positive finite number"),
        ("learning_rate", -1e-3, "positive finite number"),
        ("learning_rate", float("nan"), "positive finite number"),
        ("learning_rate", float("inf"), "positive finite number"),
        ("learning_rate", 10**400, "positive finite number"),
        ("batch_size", 0, "at least 1"),
        ("num_epochs", -5, "at least 1"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_field_found_and_allowed(field, value, allowed):
    with pytest.raises(InvalidValueError) as caught:
        config(**{field: value})
    assert all(word in str(caught.value) for word in (field, f"{value!r}"[:20], allowed))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("framework", 3, "'pytorch'"),
        ("domain", None, "'pinn'"),
        ("model_type", dict, "text"),
        ("optimizer", None, "text"),
        ("learning_rate", "1e-3", "such as 0.001"),
        ("learning_rate", True, "number"),
        ("learning_rate", [0.1], "number"),
        ("batch_size", 32.0, "integer"),
        ("batch_size", True, "integer"),
        ("num_epochs", "100", "integer"),
        ("seed", None, "integer"),
        ("seed", 1.5, "integer"),
        ("regularization", [1], "a mapping, a number, text or None"),
        ("regularization", True, "a mapping, a number, text or None"),
        ("data_config", "darcy", "a mapping or None"),
        ("hardware", 4, "a mapping, text or None"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_field_found_and_allowed(field, value, allowed):
    with pytest.raises(InvalidTypeError) as caught:
        config(**{field: value})
    assert all(word in str(caught.value) for word in (field, repr(value), allowed))


def test_a_huge_wrong_value_does_not_flood_the_message():
    with pytest.raises(InvalidTypeError) as caught:
        config(data_config=list(range(10_000)))
    assert len(str(caught.value)) < 200


def test_numpy_scalars_become_python_numbers():
    made = config(
        learning_rate=np.float32(0.5), batch_size=np.int64(8), regularization=np.float32(0.25)
    )
    assert [type(v) for v in (made.learning_rate, made.batch_size, made.regularization)] == [
        float,
        int,
        float,
    ]


def test_torch_scalars_become_python_numbers_and_vectors_are_refused():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    made = config(learning_rate=torch.tensor(0.5), batch_size=torch.tensor(8))
    assert (made.learning_rate, made.batch_size) == (0.5, 8)
    with pytest.raises(InvalidTypeError, match="learning_rate"):
        config(learning_rate=torch.ones(3))


def test_jax_scalars_become_python_numbers_and_vectors_are_refused():
    jnp = pytest.importorskip("jax.numpy", reason="pip install jax")
    made = config(learning_rate=jnp.float32(0.5), batch_size=jnp.int32(8))
    assert (made.learning_rate, made.batch_size) == (0.5, 8)
    with pytest.raises(InvalidTypeError, match="learning_rate"):
        config(learning_rate=jnp.ones(3))


def test_to_dict_turns_what_the_mappings_hold_into_plain_json_values():
    class Split(Enum):
        TRAIN = "train"

    held = {
        "path": Path("data/darcy"),
        "split": Split.TRAIN,
        "shape": (64, 64),
        "scale": np.float64(0.5),
        3: np.int32(4),
    }
    plain = config(data_config=held).to_dict()["data_config"]
    assert plain == {
        "path": "data/darcy",
        "split": "train",
        "shape": [64, 64],
        "scale": 0.5,
        "3": 4,
    }
    assert [type(value) for value in plain.values()] == [str, str, list, float, int]


def test_to_dict_names_the_place_of_a_value_without_a_plain_form():
    with pytest.raises(InvalidTypeError, match=r"data_config\.norm\[1\]: a ndarray has no plain"):
        config(data_config={"norm": [0, np.ones(3)]}).to_dict()


def test_to_dict_refuses_a_mapping_that_contains_itself():
    held: dict = {}
    held["again"] = held
    with pytest.raises(InvalidValueError, match=r"hardware\.again.*containing itself"):
        config(hardware=held).to_dict()


def test_from_dict_names_every_missing_field():
    with pytest.raises(InvalidValueError, match="domain, num_epochs missing"):
        ExperimentConfig.from_dict(
            {k: v for k, v in REQUIRED.items() if k not in ("domain", "num_epochs")}
        )


def test_from_dict_refuses_what_is_not_a_mapping():
    with pytest.raises(InvalidTypeError, match="from_dict"):
        ExperimentConfig.from_dict([("framework", "jax")])  # type: ignore[arg-type]


@pytest.mark.parametrize("params", [{}, {"lr": 0.1}, {**REQUIRED, "learning_rate": "fast"}])
def test_other_params_come_back_as_a_view(params):
    assert config_from_params(params) == params
    assert isinstance(config_from_params(params), ConfigView)


@given(mappings)
def test_a_view_equals_and_prints_as_the_mapping_it_shows(params):
    view = ConfigView(params)
    assert view == params
    assert params == view
    assert repr(view) == repr(params)
    assert view.to_dict() == params
    assert json.loads(json.dumps(view.to_dict())) == params


def test_a_view_reaches_nested_params_by_attribute_and_by_key():
    view = ConfigView({"model": {"depth": 4, "layers": [{"width": 64}]}, "items": 1})
    assert view.model.depth == view["model"]["depth"] == 4
    assert view.model.layers[0].width == 64
    assert view["items"] == 1


def test_a_view_names_near_params_when_one_is_missing():
    view = ConfigView({"learning_rate": 0.1, "depth": 2})
    with pytest.raises(AttributeError, match=r"no 'learning_rte'. Near: learning_rate\."):
        _ = view.learning_rte
    with pytest.raises(AttributeError, match="It has: learning_rate, depth"):
        _ = view.zzz
    with pytest.raises(KeyError):
        view["zzz"]
    assert getattr(view, "zzz", None) is view.get("zzz") is None


def test_a_view_refuses_to_be_changed():
    view = ConfigView({"lr": 0.1, "betas": [0.9, 0.99]})
    with pytest.raises(AttributeError, match="read-only"):
        view.lr = 0.2
    with pytest.raises(TypeError):
        view["lr"] = 0.2  # type: ignore[index]
    view.betas.append(1)
    assert view == {"lr": 0.1, "betas": [0.9, 0.99]}


def test_a_view_completes_its_params_in_a_notebook():
    assert {"lr", "to_dict"} <= set(dir(ConfigView({"lr": 0.1})))


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view))]
)
def test_a_view_can_be_copied_and_pickled(again):
    view = ConfigView({"model": {"depth": 4}})
    assert again(view) == view
    assert again(view).model.depth == 4
