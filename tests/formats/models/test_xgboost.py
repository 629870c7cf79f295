import numpy as np
import pytest

from experiment_tracking.errors import DamagedError, InvalidValueError

pytest.importorskip("xgboost", reason="pip install xgboost")

import xgboost
from sklearn.datasets import load_diabetes, load_digits


def of_digits():
    images, digits = load_digits(n_class=3, return_X_y=True)
    return images[:200], digits[:200]


def trained(**settings):
    inputs, targets = load_diabetes(return_X_y=True)
    names = [f"f{place}" for place in range(10)]
    rows = xgboost.DMatrix(inputs, targets, feature_names=names)
    return xgboost.train({"max_depth": 2, "nthread": 1} | settings, rows, 3), rows, inputs


def test_a_booster_comes_back_bit_for_bit(saved):
    booster, rows, _ = trained()
    booster.set_attr(best_iteration="1")
    kept = saved(booster)
    loaded = kept.load()
    assert bytes(loaded.save_raw("ubj")) == bytes(booster.save_raw("ubj"))
    assert loaded.attributes() == {"best_iteration": "1"}
    np.testing.assert_array_equal(loaded.predict(rows), booster.predict(rows))
    known = kept.document["files"]["weights"]
    assert (known["file"], known["format"]) == ("weights-000001.ubj", "ubj")


def test_a_boosters_program_takes_a_matrix(saved):
    booster, rows, inputs = trained()
    kept = saved(booster, input_example=inputs[:4])
    np.testing.assert_array_equal(kept.load_program()(inputs), booster.predict(rows))
    assert kept.document["signature"]["outputs"] == [
        {"name": "output", "dtype": "float32", "shape": [-1]}
    ]
    assert kept.document["inference_device"] == "cpu"


@pytest.mark.parametrize("name", ["XGBClassifier", "XGBRFClassifier"])
def test_a_classifier_comes_back_with_its_classes_and_settings(saved, name):
    images, digits = of_digits()
    model = getattr(xgboost, name)(n_estimators=3, n_jobs=1, max_depth=2).fit(images, digits)
    loaded = saved(model).load()
    assert type(loaded) is type(model)
    assert loaded.get_params()["max_depth"] == 2
    np.testing.assert_array_equal(loaded.classes_, model.classes_)
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))
    np.testing.assert_array_equal(loaded.predict_proba(images), model.predict_proba(images))


def test_settings_that_are_arrays_and_columns_of_categories_are_kept(saved):
    inputs, targets = load_diabetes(return_X_y=True, as_frame=True)
    inputs = inputs[["age"]].assign(sex=np.where(inputs["sex"] > 0, "f", "m"))
    inputs["sex"] = inputs["sex"].astype("category")
    model = xgboost.XGBRegressor(
        n_estimators=3, n_jobs=1, objective="reg:quantileerror", enable_categorical=True,
        quantile_alpha=np.array([0.1, 0.9]),
    ).fit(inputs, targets)  # fmt: skip
    loaded = saved(model).load()
    np.testing.assert_array_equal(loaded.predict(inputs), model.predict(inputs))
    assert loaded.get_params()["quantile_alpha"] == [0.1, 0.9]


@pytest.mark.parametrize("name", ["XGBRegressor", "XGBRFRegressor"])
def test_a_regressor_knows_again_what_counts_as_missing(saved, name):
    images, digits = of_digits()
    model = getattr(xgboost, name)(n_estimators=3, n_jobs=1, missing=np.int64(0)).fit(
        images, digits
    )
    kept = saved(model, input_example=images[:4])
    np.testing.assert_array_equal(kept.load().predict(images), model.predict(images))
    np.testing.assert_array_equal(kept.load_program()(images), model.predict(images))


def test_a_ranker_comes_back(saved):
    inputs, targets = load_diabetes(return_X_y=True)
    groups = np.repeat(np.arange(13), 34)
    model = xgboost.XGBRanker(n_estimators=3, n_jobs=1).fit(inputs, targets > 150, qid=groups)
    np.testing.assert_array_equal(saved(model).load().predict(inputs), model.predict(inputs))


def test_a_class_of_ones_own_comes_back_as_what_it_derives_from(saved):
    class Mine(xgboost.XGBRegressor):
        pass

    model = Mine(n_estimators=2, n_jobs=1).fit(*load_diabetes(return_X_y=True))
    kept = saved(model)
    assert kept.document["class"].endswith("Mine")
    assert type(kept.load()) is xgboost.XGBRegressor


def test_it_is_read_into_what_is_given(saved):
    images, digits = of_digits()
    model = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(images, digits)
    mine = xgboost.XGBClassifier(n_jobs=1, max_depth=5)
    assert saved(model).load(into=mine) is mine
    np.testing.assert_array_equal(mine.predict(images), model.predict(images))


def test_what_was_not_fitted_is_refused(saved):
    with pytest.raises(InvalidValueError, match="not been fitted"):
        saved(xgboost.XGBRegressor())


def test_another_class_in_the_document_is_refused(saved, forge):
    kept = saved(trained()[0])
    for name in ("Booster", "os.system", ["XGBRegressor"], "DMatrix"):
        forged = forge(kept, estimator=name, settings={})
        with pytest.raises(DamagedError, match="known are XGBRFClassifier"):
            forged.load()


def test_settings_that_it_does_not_know_are_left_out(saved, forge):
    inputs, targets = load_diabetes(return_X_y=True)
    kept = saved(xgboost.XGBRegressor(n_estimators=2, n_jobs=1).fit(inputs, targets))
    kept = forge(kept, settings={"n_estimators": 2, "load_model": 1, "__class__": 2})
    assert kept.load().get_params()["n_estimators"] == 2


def test_other_bytes_in_its_place_are_damage(saved, forge):
    import pickle

    booster, _, _ = trained()
    whole = bytes(booster.save_raw("ubj"))
    kept = saved(booster)
    for data in (b"", b"{", b"{L", whole[:-50], whole[:100], pickle.dumps([1]), b'{"a": 1}'):
        with pytest.raises(DamagedError, match="XGBoost cannot read"):
            forge(kept, data).load()
