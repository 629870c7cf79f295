import json

import pytest

from experiment_tracking import ExperimentTracker


@pytest.fixture
def twins(root):
    """Two more runs of ``digits`` that have the params of ``lr-0.1``, but for a seed in one."""
    tracker = ExperimentTracker("digits", root=root, auto_log=False, use_tensorboard=False)
    params = {"lr": 0.1, "model": {"depth": 2, "optimizer": "adam"}, "epochs": 3}
    tracker.start_run("twin", params).end_run()
    tracker.start_run("seeded", {**params, "seed": 1}).end_run("FAILED")


def test_runs_with_equal_params_stand_together(experiments, twins):
    code, out, err = experiments("find-equal", "digits")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["digits/lr-0.1", "finished"], ["digits/twin", "finished"],
    ]  # fmt: skip


def test_params_that_may_differ_can_be_named(experiments, twins):
    words = ("--except", "seed", "--except", "lr", "--json")
    groups = json.loads(experiments("find-equal", "--params", *words)[1])
    assert [[run["name"] for run in group] for group in groups] == [
        ["lr-0.1", "lr-0.001", "twin", "seeded"]
    ]
    assert groups[0][-1].items() >= {"run": "digits/seeded", "status": "failed"}.items()


def test_groups_are_parted_by_an_empty_line(experiments, twins, root):
    tracker = ExperimentTracker("waves", root=root, auto_log=False, use_tensorboard=False)
    tracker.start_run("again").end_run()
    out = experiments("find-equal")[1]
    assert [[line.split()[0] for line in part.splitlines()] for part in out.split("\n\n")] == [
        ["digits/lr-0.1", "digits/twin"], ["waves/波-β", "waves/again"],
    ]  # fmt: skip


def test_where_all_differ_that_is_said(experiments):
    code, out, err = experiments("find-equal", "digits", "--params", "--code")
    assert (code, out) == (0, "")
    assert err == "experiments: no two of the 3 runs have the same params and code.\n"
    assert experiments("find-equal", "digits", "--json")[1] == "[]\n"


def test_a_param_or_project_that_is_not_there_is_said(experiments):
    code, _, err = experiments("find-equal", "--except", "epoch")
    assert code == 2
    assert "No run has the param 'epoch'" in err
    assert "epochs" in err
    assert experiments("find-equal", "digit")[0] == 3


def test_a_damaged_run_is_named_and_hides_no_other(experiments, twins, root):
    (root / "digits" / "seeded" / "params.json").write_text("{")
    code, out, err = experiments("find-equal", "digits")
    assert (code, len(out.splitlines())) == (0, 2)
    assert "seeded/params.json is not JSON" in err
