import json

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.cli import main


@pytest.fixture
def experiments(tmp_path, capsys):
    """Call the command line on six runs whose loss is ten times their learning rate."""
    tracker = ExperimentTracker(
        "sweep", root=tmp_path / "root", auto_log=False, use_tensorboard=False
    )
    for name, lr, depth in zip("abcdef", (1, 2, 3, 4, 5, 6), (2, 2, 2, 2, 3, 3), strict=True):
        with tracker.start_run(name, {"lr": lr, "depth": depth}) as run:
            run.log_metrics({"loss": 10.0 * lr})

    def call(*words):
        capsys.readouterr()
        return main(["--root", str(tmp_path / "root"), *words]), *capsys.readouterr()

    return call


def test_params_are_listed_by_how_much_they_matter(experiments):
    code, out, err = experiments("importance", "loss", "--method", "correlation")
    assert (code, err) == (0, "")
    head, first, second = (line.split() for line in out.splitlines())
    assert head == ["param", "importance", "correlation"]
    assert first == ["lr", "1", "1"]
    assert second[0] == "depth"


def test_the_estimate_is_given_as_json(experiments):
    code, out, _ = experiments("importance", "loss", "sweep", "--method", "correlation", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["metric"], found["method"], found["runs"]) == ("loss", "correlation", 6)
    assert found["params"][0] == {"param": "lr", "importance": 1.0, "correlation": 1.0}


def test_a_forest_tells_how_much_it_explains(experiments):
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    code, out, err = experiments("importance", "loss", "--method", "forest")
    assert code == 0
    assert out.splitlines()[1].split()[0] == "lr"
    assert "% of the variance of loss in 6 runs" in err


def test_too_few_runs_and_unknown_metrics_are_refused(experiments):
    assert experiments("importance", "loss", "--where", "lr < 3")[0] == 2
    code, _, err = experiments("importance", "los")
    assert code == 3
    assert "loss" in err
    assert experiments("importance", "loss", "--where", "lr > 100")[0] == 3


def test_neighbours_differ_in_one_param_and_the_nearest_comes_first(experiments):
    code, out, err = experiments("neighbours", "b", "--metric", "loss")
    assert (code, err) == (0, "")
    head, *rows = (line.split() for line in out.splitlines())
    assert head == ["run", "param", "ours", "theirs", "loss,", "theirs", "-", "ours"]
    assert sorted(rows[:2]) == [
        ["sweep/a", "lr", "2", "1", "-10"], ["sweep/c", "lr", "2", "3", "10"],
    ]  # fmt: skip
    assert rows[2:] == [["sweep/d", "lr", "2", "4", "20"]]


def test_neighbours_are_given_as_json(experiments):
    found = json.loads(experiments("neighbours", "e", "--metric", "loss", "--json")[1])
    (only,) = found
    assert only.items() >= {"run": "sweep/f", "param": "lr", "theirs": 6, "ours": 5}.items()
    assert only["change"] == 10.0
    assert only["path"].endswith("sweep/f")


def test_a_run_without_neighbours_is_told(experiments, tmp_path):
    tracker = ExperimentTracker("alone", root=tmp_path / "root", auto_log=False)
    with tracker.start_run("x", {"lr": 1}):
        pass
    assert experiments("neighbours", "x") == (
        0, "", "experiments: no run of alone differs from alone/x in one param alone.\n"
    )  # fmt: skip
