import json
import re

import pytest

from experiment_tracking import ExperimentTracker

SGR = re.compile(r"\x1b\[[0-9;]*m")


def test_a_person_sees_identity_params_metrics_and_artifacts(experiments, root):
    code, out, err = experiments("show", "lr-0.1")
    assert (code, err) == (0, "")
    assert out.startswith("digits/lr-0.1  finished\n")
    for line in (
        "tags      sweep=a, first",
        "notes     two\n          lines",
        f"path      {root / 'digits' / 'lr-0.1'}",
        "params\n  lr      0.1\n  model\n    depth      2\n    optimizer  adam\n  epochs  3",
        "artifacts/note.txt  text    5B",
    ):
        assert line in out
    header, row, _ = out.split("metrics\n")[1].splitlines()[:3]
    assert header.split() == "last step best step min step max step mean count".split()
    assert row.split() == ("val/loss 0.33333 2 0.33333 2 0.33333 2 1 0 0.61111 3".split())


def test_json_adds_artifacts_attempts_and_environment(experiments):
    run = json.loads(experiments("show", "lr-0.01", "--json")[1])
    assert run["metrics"]["val/loss"]["last"] == "NaN"
    assert run["artifacts"][0]["path"] == "artifacts/note.txt"
    assert len(run["attempts"]) == 1
    assert run["environment"] == {}
    assert run["notes"] == "two\nlines"


def test_git_and_command_line_come_from_the_environment(experiments, root):
    with ExperimentTracker("real", root=root).start_run("captured") as run:
        run.log_metric("loss", 1.0)
    (run.path / "environment.json").write_text(
        json.dumps(
            {
                "git": {"commit": "0123456789abcdef", "branch": "main", "dirty": True},
                "command": ["python", "train.py", "two words"],
            }
        )
    )
    out = experiments("show", "captured")[1]
    assert "git       0123456789ab on main, with changes\n" in out
    assert "command   python train.py 'two words'\n" in out


def test_a_failure_is_shown_with_what_was_raised(experiments, root):
    def explode():
        with ExperimentTracker("real", root=root).start_run("broken"):
            raise ValueError("loss is NaN")

    with pytest.raises(ValueError):
        explode()
    out = experiments("show", "broken")[1]
    assert "real/broken  failed" in out
    assert "error     ValueError: loss is NaN" in out


@pytest.mark.parametrize("file", ["params.json", "artifacts.json", "environment.json"])
def test_one_damaged_file_does_not_hide_the_rest(experiments, root, file):
    (root / "digits" / "lr-0.1" / file).write_text("{")
    code, out, err = experiments("show", "lr-0.1")
    assert code == 1
    assert file in err
    assert "val/loss" in out


def test_a_run_whose_summary_is_damaged_fails_in_one_line(experiments, root):
    (root / "digits" / "lr-0.1" / "summary.json").write_text("{")
    code, out, err = experiments("show", "lr-0.1")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1


def test_nothing_a_run_holds_reaches_the_terminal_as_a_control(experiments, in_terminal, root):
    evil = "\x1b]0;title\x07\x9b31m\u202e"
    tracker = ExperimentTracker("evil", root=root, notes=f"{evil}\n{evil}")
    with tracker.start_run("run", {evil: {evil: evil}, "x": [evil]}, tags={evil: evil}) as run:
        run.log_metric(evil, 1.0)
        run.log_artifact(__file__, description=evil)
    for words in (["show", "evil/run"], ["show", "evil/run", "--json"], ["ls", "evil"],
                  ["compare", "evil/run", "lr-0.1"], ["best", evil, "--min"]):  # fmt: skip
        _, shown = in_terminal(*words, columns=200)
        assert SGR.sub("", shown).replace("\n", "").isprintable()
        assert "x1b]0" in shown or "u001b]0" in shown


def test_a_long_value_goes_on_below_itself(in_terminal, root):
    with ExperimentTracker("long", root=root).start_run("run", {"prompt": "word " * 40}):
        pass
    lines = SGR.sub("", in_terminal("show", "long/run", columns=60)[1]).splitlines()
    assert sum(line.count("word") for line in lines) == 40
    assert max(map(len, lines)) <= 60


def test_since_when_a_metric_is_not_finite_is_shown_where_one_is(experiments):
    header, loss, accuracy = (
        experiments("show", "lr-0.01")[1].split("metrics\n")[1].splitlines()[:3]
    )
    assert "not finite" in header
    assert "since 3 (1x)" in loss
    assert "since" not in accuracy
    assert "not finite" not in experiments("show", "lr-0.1")[1]


def test_further_processes_are_counted(experiments, root):
    assert "(history(" not in experiments("show", "lr-0.1")[1]
    for rank in (1, 2):
        (root / "digits" / "lr-0.1" / f"metrics_history.{rank}.json").write_text("[\n\n]\n")
    out = experiments("show", "lr-0.1")[1]
    assert 'processes  2 further (history(ranks="all") in Python)' in out


@pytest.mark.parametrize("key", ["digits", "digits/"])
def test_a_project_is_not_a_run_and_it_says_how_to_list_it(experiments, key):
    code, out, err = experiments("show", key)
    assert (code, out) == (3, "")
    assert "'digits' is a project" in err
    assert "experiments ls digits" in err
