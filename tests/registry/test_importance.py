import math
import random
import sys

import pandas as pd
import pytest

from experiment_tracking.errors import (
    DamagedError,
    InvalidValueError,
    MetricNotFoundError,
    MissingPackageError,
)
from experiment_tracking.registry.importance import importance, neighbours
from experiment_tracking.registry.runset import RunSet

METHODS = ["forest", "correlation"]


@pytest.fixture(autouse=True)
def _scikit_learn(request):
    if "forest" in request.node.name:
        pytest.importorskip("sklearn", reason="pip install scikit-learn")


@pytest.fixture
def runs(track, registry):
    """Track runs of params and values of ``loss``."""

    def runs(*each, **options):
        for number, (params, *values) in enumerate(each):
            rows = [{"loss": value} for value in values]
            track(f"run-{number}", params=params, rows=rows, **options)
        return registry.list_experiments()

    return runs


@pytest.fixture
def sweep(runs):
    """Twenty runs whose loss follows the learning rate, a little the optimizer, not the rest."""
    draw = random.Random(7)
    each = []
    for number in range(20):
        params = {
            "lr": 10 ** draw.uniform(-4, 0),
            "model": {"optimizer": draw.choice(["adam", "sgd"])},
            "width": draw.choice([32, 64, 128]),
            "name": f"name {number}",
            "epochs": 3,
        }
        slower = 0.5 if params["model"]["optimizer"] == "sgd" else 0.0
        each.append((params, math.log10(params["lr"]) + slower))
    return runs(*each)


# ---------------------------------------------------------------------- importance


@pytest.mark.parametrize("method", METHODS)
def test_the_param_that_decides_comes_first(sweep, method):
    found = importance(sweep, "loss", method=method)
    assert (found[0].param, found.method, found.runs) == ("lr", method, 20)
    assert found[0].importance > 0.7
    assert found[0].correlation > 0.8
    assert [p.importance for p in found] == sorted((p.importance for p in found), reverse=True)


@pytest.mark.parametrize("method", METHODS)
def test_params_that_never_vary_are_left_out(sweep, method):
    found = importance(sweep, "loss", method=method)
    assert {p.param for p in found} == {"lr", "model.optimizer", "width", "name"}


@pytest.mark.parametrize("method", METHODS)
def test_a_value_of_its_own_for_every_run_explains_nothing(sweep, method):
    (name,) = (p for p in importance(sweep, "loss", method=method) if p.param == "name")
    assert name.importance < 0.1
    assert math.isnan(name.correlation)


def test_the_forest_finds_what_a_correlation_cannot(runs):
    each = [
        ({"lr": 10.0**-exponent, "x": exponent % 2}, (exponent - 3.5) ** 2) for exponent in range(8)
    ]
    found = runs(*each)
    forest = importance(found, "loss", method="forest")
    assert forest[0].param == "lr"
    assert abs(forest[0].correlation) < 0.1
    assert sum(p.importance for p in forest) == pytest.approx(1)


def test_the_forest_gives_the_same_numbers_each_time_and_says_how_well_it_predicts(sweep):
    first, second = (importance(sweep, "loss", method="forest") for _ in range(2))
    assert first.to_columns()["importance"] == second.to_columns()["importance"]
    assert 0.5 < first.score <= 1


def test_the_forest_is_the_default_where_scikit_learn_is(sweep):
    assert importance(sweep, "loss").method == "forest"


def test_without_scikit_learn_it_is_the_correlation_and_a_forest_names_what_to_install(
    sweep, monkeypatch
):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert importance(sweep, "loss").method == "correlation"
    with pytest.raises(MissingPackageError, match="scikit-learn"):
        importance(sweep, "loss", method="forest")


def test_spearmans_correlation_is_that_of_the_ranks(runs):
    pairs = [(1, 2), (10, 1), (1e3, 4), (1e6, 3), (1e9, 1e30)]
    # 1 - 6 * sum(d²) / (n * (n² - 1)) for the ranks 1 2 3 4 5 and 2 1 4 3 5.
    found = runs(*(({"x": x}, y) for x, y in pairs))
    (param,) = importance(found, "loss", method="correlation")
    assert param.correlation == pytest.approx(0.8)
    assert param.importance == pytest.approx(0.8)


def test_equal_values_share_their_rank(runs):
    values, losses = [1, 1, 2, 3, 3, 3, 4], [3, 1, 2, 2, 5, 5, 4]
    found = runs(*(({"x": x}, y) for x, y in zip(values, losses, strict=True)))
    (param,) = importance(found, "loss", method="correlation")
    expected = pd.DataFrame({"x": values, "y": losses}).corr("spearman").loc["x", "y"]
    assert param.correlation == pytest.approx(expected)


def test_a_falling_metric_has_a_negative_correlation_and_a_positive_importance(runs):
    found = runs(*(({"x": x, "on": x > 2}, -x) for x in range(5)))
    by_param = {p.param: p for p in importance(found, "loss", method="correlation")}
    assert by_param["x"][1:] == (pytest.approx(1), pytest.approx(-1))
    assert by_param["on"].correlation < -0.8


def test_text_that_separates_good_from_bad_is_important_without_being_a_number(runs):
    found = runs(*(({"opt": "a" if x < 4 else "b"}, x) for x in range(8)))
    (param,) = importance(found, "loss", method="correlation")
    assert param.importance > 0.8
    assert math.isnan(param.correlation)


@pytest.mark.parametrize("method", METHODS)
def test_params_that_some_runs_lack_and_huge_values_are_no_obstacle(runs, method):
    each = [
        {"a": 10**30, "b": None}, {"a": 1e-300, "b": "x"}, {"b": [1]}, {"a": -1e300}, {"a": 0},
    ]  # fmt: skip
    found = runs(*((params, i) for i, params in enumerate(each)))
    assert {p.param for p in importance(found, "loss", method=method)} == {"a", "b"}


@pytest.mark.parametrize("method", METHODS)
def test_a_metric_that_never_varies_has_no_important_param(runs, method):
    found = runs(*(({"x": x, "y": str(x // 2)}, 1.0) for x in range(6)))
    assert {p.importance for p in importance(found, "loss", method=method)} == {0.0}


@pytest.mark.parametrize("method", METHODS)
def test_runs_that_differ_in_no_param_give_an_empty_result(runs, method):
    found = importance(runs(*(({"x": 1}, y) for y in range(5))), "loss", method=method)
    assert (list(found), found.to_frame().shape) == ([], (0, 3))


def test_too_few_runs_with_a_finite_value_are_refused(runs):
    found = runs(
        ({"x": 1}, 1.0), ({"x": 2}, 2.0), ({"x": 3}, 3.0), ({"x": 4}, math.nan), ({"x": 5},)
    )
    with pytest.raises(InvalidValueError, match=r"at least 4 runs.*found 3"):
        importance(found, "loss")
    with pytest.raises(InvalidValueError, match="method must be one of forest, correlation"):
        importance(found, "loss", method="shap")
    with pytest.raises(InvalidValueError, match="on must be"):
        importance(found, "loss", on="final")


def test_the_value_that_counts_can_be_chosen(runs):
    found = runs(*(({"x": x}, x, -x) for x in range(5)))

    def correlation(*words):
        return importance(found, *words, method="correlation")[0].correlation

    assert correlation("loss") == pytest.approx(-1)
    assert correlation("loss", "max") == pytest.approx(1)
    assert correlation("loss:max") == pytest.approx(1)


def test_an_importance_is_a_table_in_pandas_and_in_a_notebook(sweep):
    found = importance(sweep, "loss", method="correlation")
    assert list(found.to_frame().columns) == ["param", "importance", "correlation"]
    assert "by correlation" in found._repr_html_()
    assert found._repr_html_().index("model.optimizer") > found._repr_html_().index("lr")
    assert "lr=" in repr(found)


# ---------------------------------------------------------------------- neighbours


def test_neighbours_differ_in_exactly_one_param(runs):
    found = runs(
        ({"lr": 0.1, "m": {"depth": 2, "opt": "adam"}}, 1.0),
        ({"lr": 0.2, "m": {"depth": 2, "opt": "adam"}}, 1.5),
        ({"lr": 0.1, "m": {"depth": 2, "opt": "sgd"}}, 0.5),
        ({"lr": 0.2, "m": {"depth": 3, "opt": "adam"}}, 9.0),
        ({"lr": 0.1, "m": {"depth": 2.0, "opt": "adam"}}, 9.0),
    )
    each = neighbours(found, found[0], "loss")
    assert [(n.record.name, n.param, n.theirs, n.ours, n.change) for n in each] == [
        ("run-1", "lr", 0.2, 0.1, 0.5),
        ("run-2", "m.opt", "sgd", "adam", -0.5),
    ]


def test_the_nearest_value_of_a_param_comes_first(runs):
    values = [1e-3, 1.0, 1e-1, 1e-2, 1e-4, "auto", None]
    found = runs(*(({"lr": lr}, 0.0) for lr in values), ({}, 0.0))
    each = neighbours(found, found[0])
    assert [n.theirs for n in each] == [1e-2, 1e-4, 1e-1, 1.0, "auto", None, None]
    assert {n.change for n in each} == {None}


def test_seeds_are_no_difference_unless_asked_for(runs):
    found = runs(
        ({"lr": 1, "seed": 0, "data": {"fold": 0}}, 1.0),
        ({"lr": 1, "seed": 1, "data": {"fold": 0}}, 1.0),
        ({"lr": 2, "seed": 1, "data": {"fold": 0}}, 1.0),
        ({"lr": 2, "seed": 1, "data": {"fold": 1}}, 1.0),
    )

    def near(**options):
        return [(n.record.name, n.param) for n in neighbours(found, found[0], **options)]

    assert near() == [("run-2", "lr")]
    assert near(ignore=()) == [("run-1", "seed")]
    assert near(ignore=("seed", "data")) == [("run-2", "lr"), ("run-3", "lr")]


def test_a_run_that_lacks_the_metric_has_no_change(runs):
    found = runs(({"lr": 1}, 1.0), ({"lr": 2},), ({"lr": 3}, 4.0))
    assert [n.change for n in neighbours(found, found[0], "loss")] == [None, 3.0]
    assert [n.change for n in neighbours(found, found[1], "loss")] == [None, None]
    with pytest.raises(MetricNotFoundError, match="lss"):
        neighbours(found, found[0], "lss")


def test_a_run_need_not_be_among_those_searched(runs):
    found = runs(({"lr": 1}, 1.0), ({"lr": 2}, 2.0))
    assert [n.record.name for n in neighbours(RunSet([found[1]]), found[0], "loss")] == ["run-1"]


def test_damaged_params_are_nobodys_neighbour(track, registry, damage):
    first = track("first", params={"lr": 1}, rows=[{"loss": 1}])
    bad = track("bad", params={"lr": 2}, rows=[{"loss": 1}])
    track("good", params={"lr": 3}, rows=[{"loss": 1}])
    damage(bad, "{", "params.json")
    found = registry.list_experiments()
    assert [n.record.name for n in neighbours(found, registry.get(first))] == ["good"]
    with pytest.raises(DamagedError):
        neighbours(found, registry.get(bad))


def test_a_param_that_few_runs_have_is_judged_by_who_has_it(runs):
    draw = random.Random(3)
    each = [({"lr": i, **({"rare": i} if i < 2 else {})}, draw.random()) for i in range(12)]
    each += [({"lr": 12 + i, "dropout": 0.5}, 5 + draw.random()) for i in range(6)]
    found = {param.param: param for param in importance(runs(*each), "loss", method="correlation")}
    assert math.isnan(found["rare"].correlation)  # of two runs it is always 1 or -1
    assert found["rare"].importance < 0.5
    assert found["dropout"].importance > 0.8  # all that have it are worse


def test_neighbours_are_a_table_in_pandas_and_in_a_notebook(runs):
    found = runs(({"lr": 1, "seed": 0}, 1.0), ({"lr": 2, "seed": 5}, 3.0))
    near = neighbours(found, found[0], "loss")
    assert near.to_frame().to_dict("list") == {
        "run": ["digits/run-1"], "param": ["lr"], "theirs": [2], "ours": [1], "change": [2.0],
    }  # fmt: skip
    assert "digits/run-1" in near._repr_html_()
    assert "differ in one param; may differ in seed too" in near._repr_html_()
    assert "may differ" not in neighbours(found, found[0], ignore=())._repr_html_()
