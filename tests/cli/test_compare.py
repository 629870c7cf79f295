import json
import re

from experiment_tracking import ExperimentTracker

SGR = re.compile(r"\x1b\[[0-9;]*m")


def rows(out):
    return {line.split()[0]: line.split()[1:] for line in out.splitlines()}


def test_differing_params_and_metrics_stand_side_by_side(experiments):
    code, out, err = experiments("compare", "lr-0.1", "lr-0.001")
    assert code == 0
    shown = rows(out)
    assert shown["lr"] == ["0.1", "0.001"]
    assert "epochs" not in shown
    assert shown["val/loss"] == ["*0.33333", "2.3333"]
    assert shown["val/acc"] == ["*0.5", "-1.5"]
    assert "* marks the best" in err


def test_nan_is_a_value_and_a_missing_metric_is_none(experiments):
    shown = rows(experiments("compare", "lr-0.1", "lr-0.01", "latest")[1])
    assert shown["val/loss"] == ["0.33333", "nan", "-"]
    assert shown["pinn/pde_residual"] == ["-", "-", "1e-07"]


def test_metrics_keep_the_names_asked_for(experiments):
    words = ["compare", "lr-0.1", "lr-0.01", "--metrics", "final_val/acc,val/loss:max,acc"]
    code, out, err = experiments(*words, "--json")
    assert code == 0
    assert json.loads(out)["metrics"] == {
        "final_val/acc": [0.5, -0.5], "val/loss:max": [1.0, 2.0], "acc": [0.5, -0.5],
    }  # fmt: skip
    assert err.count("'val/acc' is taken") == 1


def test_json_names_runs_paths_params_and_the_best(experiments, root):
    found = json.loads(experiments("compare", "lr-0.1", "lr-0.01", "--json")[1])
    assert found["experiments"] == ["lr-0.1", "lr-0.01"]
    assert found["paths"][0] == str(root / "digits" / "lr-0.1")
    assert found["params"]["model.optimizer"] == ["adam", "sgd"]
    assert found["metrics"]["val/loss"] == [1 / 3, "NaN"]
    assert found["best"] == {"val/acc": "lr-0.1"}


def test_an_unknown_metric_ends_with_3(experiments):
    code, out, err = experiments("compare", "lr-0.1", "lr-0.01", "--metrics", "val/lost")
    assert (code, out) == (3, "")
    assert "val/loss" in err


def test_equal_params_are_said_to_be_equal(experiments, root):
    for name in ("one", "two"):
        with ExperimentTracker("same", root=root).start_run(name, {"lr": 1}):
            pass
    code, _, err = experiments("compare", "one", "two")
    assert code == 0
    assert "all equal" in err


def test_a_single_run_may_be_compared(experiments):
    code, out, err = experiments("compare", "lr-0.1")
    assert (code, err) == (0, "")
    assert rows(out)["val/loss"] == ["0.33333"]


def test_runs_without_any_metric_compare_by_their_params(experiments, root):
    for lr in (1, 2):
        with ExperimentTracker("bare", root=root).start_run(f"run-{lr}", {"lr": lr}):
            pass
    code, out, _ = experiments("compare", "run-1", "run-2", "--metrics", "loss")
    assert code == 0
    assert rows(out)["lr"] == ["1", "2"]
    assert rows(out)["loss"] == ["-", "-"]


def test_a_narrow_terminal_shows_the_runs_in_blocks_that_fit(in_terminal):
    code, shown = in_terminal("compare", "lr-0.1", "lr-0.01", "lr-0.001", columns=40)
    lines = SGR.sub("", shown).splitlines()
    assert code == 0
    assert all(len(line) <= 40 for line in lines if not line.startswith("experiments:"))
    assert sum(line.count("val/loss") for line in lines) == 2
    for name in ("lr-0.1", "lr-0.01", "lr-0.001"):
        assert any(name in line.split() for line in lines)


def test_what_the_numbers_are_is_said(experiments, root):
    last = experiments("compare", "lr-0.1", "lr-0.001")
    assert "metrics, last values\n" in last[1]
    assert "best of the values shown" in last[2]
    chosen = experiments("compare", "lr-0.1", "lr-0.001", "--metrics", "val/loss:max")[1]
    assert "last values" not in chosen
