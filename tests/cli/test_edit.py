import json

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.folder.check import check
from experiment_tracking.registry.record import RunRecord


@pytest.fixture(autouse=True)
def _ann(monkeypatch, root):
    monkeypatch.setenv("LOGNAME", "ann")
    yield
    assert check(root) == []


def record(root, name):
    return RunRecord(root / "digits" / name)


def test_tags_of_several_runs_are_set_and_removed(experiments, root):
    words = ("tag", "lr-0.1", "lr-0.01", "-t", "sweep=b", "-t", "best", "-r", "first")
    code, out, err = experiments(*words)
    assert (code, err) == (0, "")
    assert out == (
        "digits/lr-0.1: tag sweep: a → b\n"
        "digits/lr-0.1: tag best: - → yes\n"
        "digits/lr-0.1: tag first: yes → -\n"
        "digits/lr-0.01: tag sweep: - → b\n"
        "digits/lr-0.01: tag best: - → yes\n"
    )
    assert record(root, "lr-0.1").tags == record(root, "lr-0.01").tags
    assert record(root, "lr-0.1").tags == {"sweep": "b", "best": ""}


def test_what_is_so_already_is_said_and_not_kept(experiments, root):
    assert experiments("tag", "lr-0.1", "-t", "sweep=a") == (
        0, "", "experiments: digits/lr-0.1: it is so already; nothing was changed.\n"
    )  # fmt: skip
    assert not (root / "digits" / "lr-0.1" / "amendments").exists()


def test_notes_are_replaced_or_added_to(experiments, root):
    assert experiments("note", "lr-0.1", "--append", "third")[0] == 0
    assert record(root, "lr-0.1").notes == "two\nlines\nthird"
    code, out, _ = experiments("note", "lr-0.1", "new")
    assert (code, out) == (0, "digits/lr-0.1: notes: two\\nlines\\nthird → new\n")
    assert record(root, "lr-0.1").notes == "new"
    experiments("note", "lr-0.1", "")
    experiments("note", "lr-0.1", "one", "--append")
    assert record(root, "lr-0.1").notes == "one"


def test_params_are_corrected_and_metrics_logged_late(experiments, root):
    code, out, err = experiments(
        "set", "lr-0.1", "lr=0.5", "model.depth=true", "-m", "test/acc=0.93", "-m", "val/acc=nan"
    )
    assert (code, err) == (0, "")
    assert out == (
        "digits/lr-0.1: param lr: 0.1 → 0.5\n"
        "digits/lr-0.1: param model.depth: 2 → True\n"
        "digits/lr-0.1: metric test/acc at step 3: - → 0.93\n"
        "digits/lr-0.1: metric val/acc at step 4: - → NaN\n"
    )
    experiments("set", "lr-0.1", "--metric", "val/loss=0.1", "--step", "2")
    run = record(root, "lr-0.1")
    assert (run.params["lr"], run.params["model"]["depth"]) == (0.5, True)
    assert run.metrics["val/loss"]["last"] == run.metrics["val/loss"]["min"] == 0.1
    assert run.value("test/acc") == 0.93


def test_what_was_changed_is_given_as_json(experiments, root):
    code, out, _ = experiments("set", "lr-0.1", "lr=0.5", "-m", "val/loss=inf", "--json")
    param, metric = json.loads(out)
    assert code == 0
    known = {"run": "digits/lr-0.1", "by": "ann"}
    assert param == {
        **known, "at": param["at"], "kind": "param", "name": "lr", "old": 0.1, "new": 0.5,
    }  # fmt: skip
    assert metric.items() >= {**known, "name": "val/loss", "new": "Infinity", "step": 3}.items()
    assert json.loads(experiments("tag", "lr-0.1", "-t", "sweep=a", "--json")[1]) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tag", "lr-0.1"), "No tag is given. Write -t NAME"),
        (("set", "lr-0.1"), "Nothing is given to set"),
        (("set", "lr-0.1", "lr"), "'lr' is no NAME=VALUE"),
        (("set", "lr-0.1", "lr=1", "-m", "val/loss"), "'val/loss' is no NAME=NUMBER"),
        (("set", "lr-0.1", "lr=1", "-m", "=3"), "'=3' is no NAME=NUMBER"),
        (("set", "lr-0.1", "lr=1", "--step", "3"), "--step is the step of a --metric"),
    ],
)
def test_wrong_usage_is_said_and_changes_nothing(words, message, experiments, root):
    code, out, err = experiments(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert not (root / "digits" / "lr-0.1" / "amendments").exists()


def test_no_run_is_changed_where_one_is_not_there(experiments, root):
    code, _, err = experiments("tag", "lr-0.1", "lr-0.7", "-t", "a")
    assert code == 3
    assert "There is no run 'lr-0.7'" in err
    assert record(root, "lr-0.1").amendments == []


def test_a_run_that_is_running_is_changed_by_force_alone(experiments, root):
    live = ExperimentTracker("digits", root=root, auto_log=False).start_run("live")
    code, _, err = experiments("tag", "lr-0.1", "live", "-t", "a")
    assert code == 1
    assert "Run digits/live is running" in err
    assert "--force" in err
    assert record(root, "lr-0.1").amendments == []
    assert experiments("tag", "live", "-t", "a", "--force")[0] == 0
    live.end_run()
    assert record(root, "live").tags == {"a": ""}


def test_a_terminal_obeys_nothing_in_what_was_changed(experiments):
    _, out, _ = experiments("tag", "lr-0.1", "-t", "a\x1b[31m=b\x1b[0m")
    assert out == "digits/lr-0.1: tag a\\x1b[31m: - → b\\x1b[0m\n"


def test_a_tag_without_a_name_ends_with_2(experiments):
    code, out, err = experiments("tag", "lr-0.1", "-t", "=5")
    assert (code, out) == (2, "")
    assert "-t NAME or -t KEY=VALUE" in err


def test_a_param_that_was_not_there_is_named_with_those_near_it(experiments):
    code, _, err = experiments("set", "lr-0.1", "epoch=5")
    assert code == 0
    assert err.startswith("experiments: epoch is a new param of digits/lr-0.1. Near: epochs")
    assert experiments("set", "lr-0.1", "lr=7")[2] == ""


def test_a_param_is_removed(experiments, root):
    experiments("set", "lr-0.1", "lrr=5")
    code, out, _ = experiments("set", "lr-0.1", "-r", "lrr,model.depth", "lr=3")
    assert code == 0
    assert out == (
        "digits/lr-0.1: param lr: 0.1 → 3\n"
        "digits/lr-0.1: param lrr: 5 → -\n"
        "digits/lr-0.1: param model.depth: 2 → -\n"
    )
    assert record(root, "lr-0.1").params == {"lr": 3, "model": {"optimizer": "adam"}, "epochs": 3}
    (run,) = json.loads(experiments("ls", "--where", "lr = 3", "--json")[1])
    assert "lrr" not in run["params"]
    code, _, err = experiments("set", "lr-0.1", "--remove", "epoch")
    assert code == 2
    assert "Run digits/lr-0.1 has no param 'epoch'. Near: epochs" in err


def test_a_note_without_text_is_printed(experiments, root):
    assert experiments("note", "lr-0.1") == (0, "two\nlines\n", "")
    assert json.loads(experiments("note", "lr-0.1", "--json")[1]) == {
        "run": "digits/lr-0.1", "notes": "two\nlines"
    }  # fmt: skip
    assert record(root, "lr-0.1").amendments == []
    assert experiments("note", "lr-0.1", "--append")[0] == 2
    experiments("note", "lr-0.1", "")
    assert experiments("note", "lr-0.1") == (0, "", "experiments: digits/lr-0.1 has no notes.\n")


def test_runs_that_meet_conditions_are_tagged(experiments, root):
    assert experiments("tag", "--where", "lr < 0.05", "--project", "digits", "-t", "low")[0] == 0
    tagged = [n for n in ("lr-0.1", "lr-0.01", "lr-0.001") if "low" in record(root, n).tags]
    assert tagged == ["lr-0.01", "lr-0.001"]


def test_tags_are_set_nowhere_where_no_run_is_named(experiments, root):
    code, _, err = experiments("tag", "-t", "low")
    assert code == 2
    assert "No run is named" in err
    assert experiments("tag", "lr-0.1", "--status", "failed", "-t", "low")[0] == 2
    assert "low" not in record(root, "lr-0.1").tags
