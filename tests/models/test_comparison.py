import math

import numpy as np
import pytest

from experiment_tracking.errors import NotFoundError


def test_versions_stand_side_by_side_a_column_each(registry, train):
    registry.register(train("a", [0.5], params={"lr": 0.1, "net": {"depth": 2}}), name="digits")
    registry.register(train("b", [0.9], params={"lr": 0.1, "seed": 3}), name="digits", aliases="x")
    registry.transition("digits", 2, "Production")
    table = registry.compare("digits/1", "digits@x")
    assert list(table.columns) == ["digits/1", "digits/2"]
    shown = table.loc[
        [
            "stage",
            "aliases",
            "run",
            "framework",
            "parameter_count",
            "params.lr",
            "metrics.val/accuracy",
        ]
    ]
    assert shown["digits/1"].tolist() == ["None", "", "digits/a", "arrays", 3, 0.1, 0.5]
    assert shown["digits/2"].tolist() == ["Production", "x", "digits/b", "arrays", 3, 0.1, 0.9]
    assert table.loc["params.net.depth"].tolist() == [2, None]
    assert table.loc["params.seed"].tolist() == [None, 3]
    kinds = [row.partition(".")[0] for row in table.index if "." in row]
    assert kinds == ["params", "params", "params", "metrics"]


def test_versions_of_several_models_and_of_other_metrics_compare_too(registry, make):
    for name in ("a", "b"):
        with make("p").start_run(name) as run:
            run.log_model({"w": np.ones(3)}, name)
            run.log_metrics({name: math.inf})
        registry.register(run, name)
    table = registry.compare("a", "b")
    assert table.loc["metrics.a"].tolist() == [math.inf, None]
    assert table.loc["metrics.b"].tolist() == [None, math.inf]
    with pytest.raises(NotFoundError):
        registry.compare("a", "c")
