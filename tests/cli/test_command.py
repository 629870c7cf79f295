"""Options and words that all commands read alike."""

import json
import os
import shutil

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.cli import main


def names(experiments, *words):
    code, out, _ = experiments("ls", *words, "--json")
    assert code == 0
    return sorted(run["name"] for run in json.loads(out))


# ---------------------------------------------------------------------- repeated options


def test_filters_given_one_by_one_must_all_hold(experiments):
    assert names(experiments, "--where", "lr < 0.05", "--where", "status = 'failed'") == [
        "lr-0.001"
    ]
    # Each is whole by itself: "or" in one does not undo the other.
    either = ("--where", "lr = 0.1 or lr = 0.01", "--where", "val/acc < 0")
    assert names(experiments, *either) == ["lr-0.01"]


def test_a_mistake_in_one_of_several_filters_is_shown_in_it_alone(experiments):
    code, _, err = experiments("ls", "--where", "lr < 1", "--where", "val/loss <")
    assert code == 2
    assert "val/loss <\n" in err
    assert "lr < 1" not in err


def test_status_takes_several_by_comma_and_by_repetition(experiments):
    both = ["lr-0.001", "lr-0.01", "lr-0.1"]
    assert names(experiments, "digits", "--status", "failed,finished") == both
    assert names(experiments, "digits", "--status", "failed", "--status", "finished") == both


@pytest.mark.parametrize(
    "words", [["--columns", "name,lr"], ["--columns", "name", "--columns", "lr"]]
)
def test_columns_are_added_up(experiments, words):
    rows = json.loads(experiments("ls", "digits", *words, "--json")[1])
    assert [list(row) for row in rows] == [["name", "lr"]] * 3


def test_metrics_and_groups_are_added_up(experiments):
    twice = ("--metrics", "val/loss", "--metrics", "val/acc")
    groups = json.loads(experiments("aggregate", "--by", "epochs", *twice, "--json")[1])
    assert list(groups[0]["metrics"]) == ["val/loss", "val/acc"]
    found = json.loads(experiments("compare", "lr-0.1", "lr-0.01", *twice, "--json")[1])
    assert list(found["metrics"]) == ["val/loss", "val/acc"]
    by = ("--by", "model.optimizer", "--by", "epochs")
    groups = json.loads(experiments("aggregate", "digits", *by, "--json")[1])
    assert [list(group["group"].values()) for group in groups] == [["adam", 3], ["sgd", 3]]
    over = ("--over", "lr", "--over", "model.optimizer")
    (group,) = json.loads(experiments("aggregate", "digits", *over, "--json")[1])
    assert len(group["runs"]) == 3


# ---------------------------------------------------------------------- roots


@pytest.fixture
def other(tmp_path):
    """A second root, with one run."""
    path = tmp_path / "other"
    tracker = ExperimentTracker("more", root=path, auto_log=False, use_tensorboard=False)
    with tracker.start_run("far-away"):
        pass
    return path


def test_several_roots_are_read_as_one(experiments, other):
    assert names(experiments, "--root", other) == [
        "far-away",
        "lr-0.001",
        "lr-0.01",
        "lr-0.1",
        "波-β",
    ]
    assert experiments("show", "far-away", "--root", other)[0] == 0
    assert json.loads(experiments("du", "--root", other, "--json")[1])["runs"][-1]["run"]


def test_roots_before_and_behind_the_command_count_alike(root, other, capsys):
    assert main(["ls", "--root", str(root), "--root", str(other), "--json"]) == 0
    behind = capsys.readouterr().out
    assert main(["--root", str(root), "ls", "--root", str(other), "--json"]) == 0
    assert capsys.readouterr().out == behind


@pytest.mark.parametrize(
    "words",
    [
        ["tag", "lr-0.1", "-t", "a"], ["rm", "lr-0.1"], ["gc", "--status", "failed"],
        ["rename", "lr-0.1", "b"], ["start", "p"], ["restore"], ["run", "true"],
    ],
)  # fmt: skip
def test_what_changes_runs_takes_one_root(experiments, root, other, words):
    code, out, err = experiments("--root", other, *words)
    assert (code, out) == (2, "")
    assert f"{words[0]} takes one --root, found {root}, {other}." in err
    assert (root / "digits" / "lr-0.1").is_dir()


# ---------------------------------------------------------------------- mistakes


def test_an_unknown_option_is_answered_by_the_commands_own_usage_and_the_near_one(experiments):
    code, out, err = experiments("ls", "--colums", "name")
    assert (code, out) == (2, "")
    assert err.startswith("usage: experiments ls ")
    assert "there is no option --colums. Near: --columns" in err
    assert err.endswith("experiments ls --help lists all.\n")


@pytest.mark.parametrize(
    ("word", "near"),
    [("lss", " Near: ls"), ("list", " Near: ls"), ("delete", " Near: rm"), ("xyzzy", "")],
)
def test_an_unknown_command_is_answered_by_near_ones_alone(capsys, word, near):
    assert main([word]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"There is no command '{word}'.{near}" in err
    assert err.endswith(" experiments --help lists them.\n")
    assert err.count("\n") == 1


def test_a_word_too_many_is_named(experiments):
    code, _, err = experiments("show", "lr-0.1", "lr-0.01")
    assert code == 2
    assert err.startswith("usage: experiments show ")
    assert "'lr-0.01': one word too many" in err


def test_runs_may_stand_on_both_sides_of_an_option(experiments):
    code, out, _ = experiments("compare", "lr-0.1", "--metrics", "val/loss", "lr-0.01", "--json")
    assert code == 0
    assert json.loads(out)["experiments"] == ["lr-0.1", "lr-0.01"]


# ---------------------------------------------------------------------- projects, formats


@pytest.mark.parametrize("words", [["waves"], ["--project", "waves"], ["waves", "--project=waves"]])
def test_a_project_is_a_word_or_an_option(experiments, words):
    assert names(experiments, *words) == ["波-β"]


@pytest.mark.parametrize(
    "command",
    [
        ["ls"], ["aggregate", "--by", "lr"], ["export", "-o", "-", "--format", "csv"], ["du"],
        ["find-equal"], ["watch", "--once"], ["gc", "--status", "failed", "--dry-run"],
        ["importance", "val/loss"],
    ],
)  # fmt: skip
def test_every_command_with_a_project_takes_both_spellings_and_refuses_two(experiments, command):
    word = experiments(*command, "digits")
    assert word[:2] == experiments(*command, "--project", "digits")[:2]
    code, out, err = experiments(*command, "digits", "--project", "waves")
    assert (code, out) == (2, "")
    assert "one project is taken, found" in err


def test_markdown_is_called_md_too(experiments):
    for verb in (["aggregate", "digits", "--by", "lr"], ["export", "digits", "-o", "-"]):
        code, out, _ = experiments(*verb, "--format", "markdown")
        assert (code, out) == experiments(*verb, "--format", "md")[:2]
        assert out.startswith("| ")


def test_the_number_of_runs_has_a_short_option(experiments):
    assert len(json.loads(experiments("ls", "-n", "2", "--json")[1])) == 2


def test_a_root_that_is_removed_meanwhile_ends_with_3(experiments, other):
    shutil.rmtree(other)
    assert experiments("ls", "--root", os.fspath(other))[0] == 3
