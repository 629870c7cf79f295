import numpy as np
import pytest

from experiment_tracking.errors import DamagedError, InvalidValueError

pytest.importorskip("lightgbm", reason="pip install lightgbm")
pytest.importorskip("skops", reason="pip install 'experiment_tracking[models]'")

import lightgbm
from sklearn.datasets import load_diabetes, load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def regressor(**settings):
    inputs, targets = load_diabetes(return_X_y=True)
    return lightgbm.LGBMRegressor(n_estimators=3, n_jobs=1, verbose=-1, **settings), inputs, targets


def test_a_booster_comes_back_as_its_text(saved):
    model, inputs, targets = regressor()
    booster = model.fit(inputs, targets).booster_
    kept = saved(booster, input_example=inputs[:4])
    loaded = kept.load()
    assert loaded.model_to_string() == booster.model_to_string()
    np.testing.assert_array_equal(loaded.predict(inputs), booster.predict(inputs))
    np.testing.assert_array_equal(kept.load_program()(inputs), booster.predict(inputs))
    known = kept.document["files"]["weights"]
    assert (known["file"], known["format"]) == ("weights-000001.txt", "lightgbm")


def test_a_booster_that_stopped_early_predicts_with_its_best_iteration(saved):
    model, inputs, targets = regressor()
    booster = model.fit(inputs, targets).booster_
    booster.best_iteration = 2
    loaded = saved(booster).load()
    np.testing.assert_array_equal(loaded.predict(inputs), booster.predict(inputs))
    assert not np.array_equal(loaded.predict(inputs), booster.predict(inputs, num_iteration=3))


def test_a_classifier_comes_back_with_labels_of_text(saved):
    images, digits = load_digits(n_class=3, return_X_y=True)
    labels = np.array(["none", "one", "two"])[digits]
    model = lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1).fit(images, labels)
    kept = saved(model, input_example=images[:4])
    loaded = kept.load()
    assert loaded.get_params() == model.get_params()
    np.testing.assert_array_equal(loaded.classes_, ["none", "one", "two"])
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))
    np.testing.assert_array_equal(loaded.predict_proba(images), model.predict_proba(images))
    np.testing.assert_array_equal(kept.load_program()(images), model.predict(images))


def test_a_regressor_and_a_ranker_come_back(saved):
    model, inputs, targets = regressor()
    ranker = lightgbm.LGBMRanker(n_estimators=3, n_jobs=1, verbose=-1)
    for each in (
        model.fit(inputs, targets),
        ranker.fit(inputs, targets > 150, group=[34] * 13),
    ):
        np.testing.assert_array_equal(saved(each).load().predict(inputs), each.predict(inputs))


def test_one_in_a_pipeline_comes_back(saved):
    model, inputs, targets = regressor()
    pipeline = make_pipeline(StandardScaler().set_output(transform="pandas"), model)
    pipeline.fit(inputs, targets)
    kept = saved(pipeline)
    assert kept.document["framework"] == "sklearn"
    np.testing.assert_array_equal(kept.load().predict(inputs), pipeline.predict(inputs))


def squared(targets, predicted):
    return predicted - targets, np.ones_like(targets)


def test_a_loss_of_ones_own_is_refused_until_it_is_trusted(saved):
    model, inputs, targets = regressor(objective=squared)
    model.fit(inputs, targets)
    kept = saved(model)
    name = f"{squared.__module__}.squared"
    with pytest.raises(InvalidValueError, match=name):
        kept.load()
    np.testing.assert_array_equal(kept.load(trusted=[name]).predict(inputs), model.predict(inputs))


def test_other_bytes_in_the_place_of_its_text_are_damage(saved, forge, capfd):
    import pickle

    model, inputs, targets = regressor()
    kept = saved(model.fit(inputs, targets).booster_)
    whole = (kept.path / "weights-000001.txt").read_bytes()
    for data in (b"junk", whole[:200], b"\xff\xfe", pickle.dumps([1])):
        with pytest.raises(DamagedError, match="LightGBM cannot read"):
            forge(kept, data).load()
