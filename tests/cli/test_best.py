import json

from experiment_tracking import ExperimentTracker


def test_the_best_run_is_shown_with_value_step_and_params(experiments, root):
    code, out, err = experiments("best", "val/loss")
    assert (code, err) == (0, "")
    assert out == (
        "digits/lr-0.1  finished\n"
        "val/loss:min  0.33333 at step 2\n"
        "params        lr=0.1, model.depth=2, model.optimizer=adam, epochs=3\n"
        f"path          {root / 'digits' / 'lr-0.1'}\n"
    )


def test_the_last_part_of_a_name_will_do_with_one_notice(experiments):
    code, out, err = experiments("best", "acc")
    assert code == 0
    assert "val/acc:max  0.5 at step 2" in out
    assert err.count("\n") == 1


def test_side_filters_and_last_values_can_be_chosen(experiments):
    def found(*words):
        return json.loads(experiments("best", *words, "--json")[1])

    assert found("val/loss")["mode"] == "min"
    assert found("val/loss", "--max")["name"] == "lr-0.001"
    assert found("val/loss", "--status", "failed")["name"] == "lr-0.001"
    assert found("val/loss", "--tag", "sweep=a", "--max")["name"] == "lr-0.1"
    last = found("val/acc", "--on", "last", "--min", "--project", "digits")
    assert (last["name"], last["value"], last["step"]) == ("lr-0.001", -1.5, 2)


def test_nan_never_wins(experiments):
    code, out, _ = experiments("best", "val/loss", "--max", "--on", "last", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "lr-0.001"


def test_a_metric_that_is_nowhere_ends_with_3(experiments):
    code, out, err = experiments("best", "val/lss")
    assert (code, out) == (3, "")
    assert "val/loss" in err


def test_a_metric_without_a_goal_asks_for_the_side(experiments, root):
    from experiment_tracking import ExperimentTracker

    with ExperimentTracker("bare", root=root).start_run("run") as run:
        run.log_metric("width", 3)
    code, _, err = experiments("best", "width")
    assert code == 2
    assert "goal" in err
    assert "--min or --max" in err
    assert "mode=" not in err
    assert experiments("best", "width", "--max")[0] == 0


def test_no_run_that_meets_the_conditions_is_told_from_no_such_metric(experiments):
    code, out, err = experiments("best", "val/loss", "--status", "killed")
    assert (code, out) == (3, "")
    assert "meets these conditions" in err
    assert "metric" not in err


def test_a_run_that_ended_in_nan_is_said_to(experiments):
    out = experiments("best", "val/loss", "--where", "lr = 0.01")[1]
    assert "val/loss:min  1.3333 at step 2 (last nan)\n" in out


def test_runs_with_the_same_value_are_named(experiments, root):
    tracker = ExperimentTracker("digits", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("equal") as run:
        run.log_metrics({"val/loss": 1 / 3}, step=7)
    out = experiments("best", "val/loss", "--min")[1]
    assert out.startswith("digits/lr-0.1 ")
    assert "the same      digits/equal; the oldest is shown\n" in out
    assert json.loads(experiments("best", "val/loss", "--min", "--json")[1])["ties"] == [
        "digits/equal"
    ]
    assert json.loads(experiments("best", "val/acc", "--max", "--json")[1])["ties"] == []
