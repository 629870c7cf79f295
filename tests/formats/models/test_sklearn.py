import io
import zipfile

import numpy as np
import pytest

from experiment_tracking.errors import (
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    MissingPackageError,
)

pytest.importorskip("sklearn", reason="pip install scikit-learn")
pytest.importorskip("skops", reason="pip install 'experiment_tracking[models]'")

from sklearn import compose, ensemble, linear_model, neighbors, preprocessing
from sklearn.datasets import load_diabetes, load_digits
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

TREE = "sklearn.tree._tree.Tree"


def of_digits(count=300):
    images, digits = load_digits(return_X_y=True)
    return images[:count], digits[:count]


def of_diabetes():
    return load_diabetes(return_X_y=True)


def of_people():
    """Columns of numbers and of text, with a gap."""
    patients, progression = load_diabetes(return_X_y=True, as_frame=True)
    patients = patients[["age", "bmi"]].iloc[:120].copy()
    patients.loc[3, "age"] = np.nan
    patients["sex"] = np.where(patients["bmi"] > 0, "f", "m")
    return patients, progression[:120]


def of_words():
    return ["the loss falls", "the loss rises", "a curve rises"] * 5, [0, 1, 1] * 5


def double(values):
    return values * 2


@pytest.mark.parametrize(
    ("make_model", "data"),
    [
        (lambda: linear_model.LogisticRegression(max_iter=50, tol=1), of_digits),
        (lambda: make_pipeline(preprocessing.StandardScaler(), SVC()), of_digits),
        (lambda: ensemble.RandomForestClassifier(5), of_digits),
        (lambda: ensemble.ExtraTreesRegressor(5), of_diabetes),
        (lambda: ensemble.GradientBoostingClassifier(n_estimators=2, max_depth=2), of_digits),
        (lambda: ensemble.HistGradientBoostingRegressor(max_iter=3), of_diabetes),
        (
            lambda: ensemble.HistGradientBoostingRegressor(
                max_iter=3, categorical_features=["sex"]
            ),
            of_people,
        ),
        (lambda: ensemble.AdaBoostClassifier(n_estimators=2), of_digits),
        (lambda: ensemble.BaggingRegressor(n_estimators=2, max_features=0.5), of_diabetes),
        (lambda: ensemble.IsolationForest(n_estimators=3), of_diabetes),
        (lambda: neighbors.KNeighborsRegressor(), of_diabetes),
        (lambda: neighbors.KNeighborsRegressor(algorithm="ball_tree"), of_diabetes),
        (
            lambda: GaussianProcessRegressor(
                kernels.RBF() * 2.0 + kernels.WhiteKernel(), optimizer=None
            ),
            lambda: tuple(each[:40] for each in of_diabetes()),
        ),
        (
            lambda: GridSearchCV(
                make_pipeline(
                    make_union(preprocessing.MinMaxScaler(), preprocessing.StandardScaler()),
                    linear_model.Ridge(),
                ),
                {"ridge__alpha": [1.0, 2.0]},
                scoring=["r2", "neg_mean_squared_error"],
                refit="r2",
                cv=ShuffleSplit(2),
            ),
            of_diabetes,
        ),
        (
            lambda: make_pipeline(
                compose.ColumnTransformer(
                    [
                        ("numbers", SimpleImputer(), ["age", "bmi"]),
                        ("words", preprocessing.OneHotEncoder(), ["sex"]),
                    ]
                ),
                linear_model.Ridge(),
            ),
            of_people,
        ),
        (lambda: make_pipeline(CountVectorizer(), MultinomialNB()), of_words),
        (
            lambda: make_pipeline(
                preprocessing.FunctionTransformer(np.expm1), linear_model.LinearRegression()
            ),
            of_diabetes,
        ),
    ],
)
def test_an_estimator_comes_back_and_predicts_the_same_bits(saved, make_model, data):
    inputs, targets = data()
    model = make_model().fit(inputs, targets)
    loaded = saved(model).load()
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(loaded.predict(inputs), model.predict(inputs))
    if hasattr(model, "predict_proba"):
        np.testing.assert_array_equal(loaded.predict_proba(inputs), model.predict_proba(inputs))


def test_what_stands_beside_it_says_how_it_was_made(saved):
    inputs, digits = of_digits()
    model = ensemble.RandomForestClassifier(3).fit(inputs, digits)
    document = saved(model, input_example=inputs[:8], metadata={"by": "Ann"}).document
    assert document["framework"] == "sklearn"
    assert document["class"] == "sklearn.ensemble._forest.RandomForestClassifier"
    assert document["versions"].keys() == {"python", "sklearn", "skops"}
    assert document["types"] == [TREE]
    assert document["files"]["weights"]["format"] == "skops"
    assert document["signature"] == {
        "inputs": [{"name": "input", "dtype": "float64", "shape": [-1, 64]}],
        "outputs": [{"name": "output", "dtype": "int64", "shape": [-1]}],
    }
    assert document["inference_time_ms"] > 0
    assert document["inference_device"] == "cpu"


def test_its_program_takes_a_matrix(saved):
    inputs, targets = of_diabetes()
    model = linear_model.Ridge().fit(inputs, targets)
    program = saved(model, input_example=inputs[:3]).load_program()
    np.testing.assert_array_equal(program(inputs), model.predict(inputs))
    with pytest.raises(InvalidTypeError, match="2 arguments"):
        program(inputs, inputs)


def test_its_program_takes_columns_by_name(saved):
    people, targets = of_people()
    words = compose.make_column_transformer((preprocessing.OneHotEncoder(), ["sex"]))
    model = make_pipeline(words, linear_model.Ridge()).fit(people, targets)
    kept = saved(model, input_example=people[:5])
    assert [each["name"] for each in kept.document["signature"]["inputs"]] == list(people)
    program, example = kept.load_program(), kept.load_example()
    np.testing.assert_array_equal(program(**example), model.predict(people[:5]))
    np.testing.assert_array_equal(program(people), model.predict(people))


def test_the_program_of_what_only_transforms_gives_dense_arrays(saved):
    people, _ = of_people()
    model = preprocessing.OneHotEncoder().fit(people[["sex"]])
    program = saved(model).load_program()
    expected = model.transform(people[["sex"]]).toarray()
    np.testing.assert_array_equal(program(sex=people["sex"]), expected)


def test_a_function_of_ones_own_is_refused_until_it_is_trusted(saved):
    inputs, targets = of_diabetes()
    doubled = preprocessing.FunctionTransformer(double)
    model = make_pipeline(doubled, linear_model.Ridge()).fit(inputs, targets)
    kept = saved(model)
    name = f"{double.__module__}.double"
    assert kept.document["types"] == [name]
    with pytest.raises(InvalidValueError, match=rf"trusted=\['{name}'\]"):
        kept.load()
    loaded = kept.load(trusted=[name])
    np.testing.assert_array_equal(loaded.predict(inputs), model.predict(inputs))


def test_a_lambda_is_refused_when_it_is_saved(saved):
    inputs, targets = of_diabetes()
    same = preprocessing.FunctionTransformer(lambda values: values)
    model = make_pipeline(same, linear_model.Ridge()).fit(inputs, targets)
    with pytest.raises(InvalidValueError, match="def at the top of a module"):
        saved(model)


def test_what_skops_cannot_keep_is_refused_with_its_reason(saved):
    from sklearn.cluster import Birch

    with pytest.raises(InvalidTypeError, match="skops cannot keep this Birch"):
        saved(Birch(threshold=0.05).fit(of_diabetes()[0]))


def test_into_and_optimizers_are_for_other_models(saved):
    kept = saved(linear_model.Ridge())
    with pytest.raises(InvalidTypeError, match="Leave into= out"):
        kept.load(into=linear_model.Ridge())
    with pytest.raises(InvalidTypeError, match="Leave optimizer="):
        saved(linear_model.Ridge(), optimizer={"lr": 1})


def test_without_skops_the_error_says_what_to_install(saved, monkeypatch):
    import sys

    kept = saved(linear_model.Ridge())
    monkeypatch.setitem(sys.modules, "skops.io", None)
    for attempt in (kept.load, lambda: saved(linear_model.Ridge())):
        with pytest.raises(
            MissingPackageError, match=r"pip install 'experiment_tracking\[models\]'"
        ):
            attempt()


# ---------------------------------------------------------------------- files made by an enemy


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("subprocess", "Popen"),
        ("sklearn.datasets._base", "load_files"),
        ("sklearn.utils._testing", "check_call"),
        ("sklearn.externals", "anything"),
        ("numpy", "load"),
        ("pandas.io.pickle", "read_pickle"),
    ],
)
def test_a_harmful_function_in_a_file_is_refused_by_name(saved, forge, tmp_path, module, name):
    import skops.io

    model = preprocessing.FunctionTransformer(double)
    data = _with_schema(
        skops.io.dumps(model),
        lambda text: text.replace(f'"{double.__module__}"', f'"{module}"').replace(
            '"double"', f'"{name}"'
        ),
    )
    with pytest.raises(InvalidValueError, match=f"{module}.{name}"):
        forge(saved(linear_model.Ridge()), data, types=[]).load()


def test_a_file_that_is_no_skops_file_is_damaged(saved, forge):
    import pickle

    empty_zip = io.BytesIO()
    zipfile.ZipFile(empty_zip, "w").close()
    for data in (b"", b"junk", pickle.dumps(double), empty_zip.getvalue()):
        with pytest.raises(DamagedError, match="not a whole skops file"):
            forge(saved(linear_model.Ridge()), data, types=[]).load()


def test_a_class_that_is_not_there_is_named(saved, forge):
    import skops.io

    data = _with_schema(
        skops.io.dumps(linear_model.Ridge()),
        lambda text: text.replace('"Ridge"', '"Rigde"'),
    )
    name = "sklearn.linear_model._ridge.Rigde"
    with pytest.raises(InvalidValueError, match=name):
        forge(saved(linear_model.Ridge()), data, types=[]).load()
    with pytest.raises(InvalidValueError, match="not here"):
        forge(saved(linear_model.Ridge()), data, types=[]).load(trusted=[name])


def test_trees_that_lead_out_of_themselves_are_refused(saved, forge):
    import skops.io

    inputs, digits = of_digits()
    model = DecisionTreeClassifier().fit(inputs, digits)
    kept, data = saved(model), skops.io.dumps(model)

    def change(node, field, value):
        def changed(nodes):
            nodes[node][field] = value

        return _with_nodes(data, changed)

    for change_of in (
        (0, "left_child", 10**9), (0, "right_child", -7), (0, "feature", 64), (0, "feature", -1),
        (1, "left_child", 0),  # a circle, in which a prediction would never end
    ):  # fmt: skip
        with pytest.raises(DamagedError, match="does not hold together"):
            forge(kept, change(*change_of), types=[]).load()
    assert kept.load().get_depth() == model.get_depth()
    # Who trusts the class by name is not asked again.
    assert forge(kept, change(0, "feature", 64)).load(trusted=[TREE]).get_depth() > 0


def test_a_tree_whose_owner_lets_narrower_rows_in_is_refused(saved, forge):
    import skops.io

    inputs, digits = of_digits()
    model = DecisionTreeClassifier().fit(inputs, digits)
    kept = saved(model)
    model.n_features_in_ = 1
    with pytest.raises(DamagedError, match="does not hold together"):
        forge(kept, skops.io.dumps(model)).load()
    del model.n_features_in_
    with pytest.raises(DamagedError, match="does not hold together"):
        forge(kept, skops.io.dumps(model)).load()


def test_something_else_in_the_place_of_a_method_is_refused(saved, forge):
    import skops.io

    model = DecisionTreeClassifier().fit(*of_digits())
    kept = saved(model)
    model._validate_X_predict = np.exp
    with pytest.raises(DamagedError, match=r"places of its methods \(_validate_X_predict\)"):
        forge(kept, skops.io.dumps(model)).load()


def test_a_boosted_tree_or_a_neighbour_tree_that_leads_out_is_refused(saved, forge):
    import skops.io

    inputs, targets = of_diabetes()
    boosted = ensemble.HistGradientBoostingRegressor(max_iter=1).fit(inputs, targets)

    def far(nodes):
        nodes["feature_idx"] = 10

    with pytest.raises(DamagedError, match="TreePredictor does not hold together"):
        forge(saved(boosted), _with_nodes(skops.io.dumps(boosted), far)).load()

    people, progression = of_people()
    model = ensemble.HistGradientBoostingRegressor(max_iter=1, categorical_features=["sex"])
    model.fit(people[["sex"]], progression)

    def no_table(nodes):
        nodes["bitset_idx"] = 1

    kept = saved(model)
    with pytest.raises(DamagedError, match="TreePredictor does not hold together"):
        forge(kept, _with_nodes(skops.io.dumps(model), no_table)).load()
    model._preprocessor.transformers_[1] = ("numerical", "drop", np.array([False]))
    with pytest.raises(DamagedError, match="TreePredictor does not hold together"):
        forge(kept, skops.io.dumps(model)).load()

    near = neighbors.KNeighborsRegressor(algorithm="kd_tree").fit(inputs, targets)

    def beyond(nodes):
        nodes["idx_end"] = 10**9

    with pytest.raises(DamagedError, match="KDTree does not hold together"):
        forge(saved(near), _with_nodes(skops.io.dumps(near), beyond)).load()


def _with_schema(data, change):
    return _rewritten(
        data,
        lambda name, part: change(part.decode()).encode() if name == "schema.json" else part,
    )


def _with_nodes(data, change):
    """Change the nodes of trees, the only arrays of records in such a file."""

    def changed(name, part):
        if not name.endswith(".npy"):
            return part
        array = np.load(io.BytesIO(part))
        if array.dtype.names is None:
            return part
        change(array)
        out = io.BytesIO()
        np.save(out, array)
        return out.getvalue()

    return _rewritten(data, changed)


def _rewritten(data, change):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()
