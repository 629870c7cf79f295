import json


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
