import argparse
import json
import os
import shlex

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.cli import main
from experiment_tracking.cli.trash import days
from experiment_tracking.folder.check import check
from experiment_tracking.upkeep.trash import trashed


def test_a_removed_run_comes_back_by_the_line_that_is_printed(experiments, root):
    code, out, err = experiments("rm", "digits/lr-0.1")
    assert (code, err) == (0, "")
    sentence, _, line = out.strip().partition(" Back again: ")
    assert sentence == "digits/lr-0.1 is in the trash."
    program, *words = shlex.split(line)
    assert program == "experiments"
    assert experiments(*words) == (0, "digits/lr-0.1 is back\n", "")
    assert (root / "digits" / "lr-0.1").is_dir()
    assert check(root) == []


def test_all_runs_are_found_before_the_first_one_goes(experiments, root):
    assert experiments("rm", "lr-0.1", "lr-0.5")[0] == 3
    assert trashed(root) == []
    code, out, _ = experiments("rm", "latest", "latest~1", "latest", "--json")
    assert code == 0
    gone = json.loads(out)
    assert [each["run"] for each in gone] == ["waves/波-β", "digits/lr-0.001"]
    assert [each["path"] for each in gone] == [each.path for each in trashed(root)[::-1]]


def test_a_running_run_stays_and_the_others_go(experiments, root):
    run = ExperimentTracker("live", root=root, auto_log=False, use_tensorboard=False).start_run("r")
    code, out, err = experiments("rm", "live/r", "lr-0.1")
    assert code == 1
    assert "is being written" in err
    assert out.startswith("digits/lr-0.1 is in the trash.")
    assert experiments("rm", "live/r", "--force")[0] == 0
    run.end_run()


def test_restore_alone_lists_the_trash(experiments, root):
    assert experiments("restore") == (0, "", "experiments: the trash is empty.\n")
    experiments("rm", "lr-0.1")
    experiments("rm", "lr-0.01")
    header, *rows = [line.split() for line in experiments("restore")[1].splitlines()]
    assert header == ["run", "removed", "by", "size"]
    assert [row[0] for row in rows] == ["digits/lr-0.01", "digits/lr-0.1"]
    listed = json.loads(experiments("restore", "--json")[1])
    assert [each["key"] for each in listed] == ["digits/lr-0.01", "digits/lr-0.1"]
    assert all(each["size_bytes"] > 1000 for each in listed)
    (root / "_trash" / "by-hand" / "run").mkdir(parents=True)
    (root / "_trash" / "by-hand" / "run" / "file").touch()
    code, _, err = experiments("restore")
    assert code == 1
    assert "It is left alone." in err


def test_a_run_comes_back_under_another_name_where_its_own_is_taken(experiments, root):
    experiments("rm", "lr-0.1")
    experiments("rename", "lr-0.01", "lr-0.1")
    code, _, err = experiments("restore", "lr-0.1")
    assert code == 1
    assert "--name" in err
    code, out, _ = experiments("restore", "lr-0.1", "--name", "old one")
    assert (code, out) == (0, "digits/old one is back\n")
    assert experiments("restore", "a", "b", "--name", "c")[0] == 2
    assert experiments("restore", "nothing")[0] == 3


# ---------------------------------------------------------------------- purge


def test_a_purge_is_refused_where_nobody_can_be_asked(experiments, root, monkeypatch):
    experiments("rm", "lr-0.1")
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        code, out, err = experiments("purge", "--all")
    assert (code, out) == (2, "")
    assert "This deletes 1 run, " in err
    assert "--yes" in err
    assert len(trashed(root)) == 1


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 1), ("\n", 1, 1)])
def test_a_purge_asks_in_a_terminal(command, root, terminal_with, experiments, answer, code, left):
    experiments("rm", "lr-0.1")
    found, shown = terminal_with(answer, "purge", "--all")
    assert found == code
    assert "Delete 1 run, " in shown
    assert len(trashed(root)) == left


@pytest.fixture
def terminal_with(command):
    """Run the command line in a pseudo-terminal where something is typed."""
    import pty
    import subprocess

    def run(typed, *words):
        ours, theirs = pty.openpty()
        os.write(ours, typed.encode())
        with subprocess.Popen(
            [*command, *words],
            stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            shown, _ = process.communicate(timeout=60)
        os.close(theirs)
        os.close(ours)
        return process.returncode, shown

    return run


def test_only_what_is_named_or_old_is_deleted(experiments, root):
    experiments("rm", "lr-0.1", "lr-0.01", "lr-0.001")
    code, out, _ = experiments("purge", "lr-0.1", "--yes", "--json")
    assert code == 0
    assert json.loads(out)["deleted"] == ["digits/lr-0.1"]
    assert json.loads(out)["size_bytes"] > 1000
    assert experiments("purge", "--older-than", "1h", "--yes")[1].startswith("0 runs deleted")
    assert experiments("purge")[0] == 2
    code, out, _ = experiments("purge", "--all", "--yes")
    assert (code, out[:14]) == (0, "2 runs deleted")
    assert trashed(root) == []


def test_time_spans_have_a_unit():
    assert (days("30d"), days("12h"), days("2w"), days("1d12h")) == (30, 0.5, 14, 1.5)
    for word in ("30", "d", "", "-3d", "nan", "3 days"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no time span"):
            days(word)


def test_a_run_of_another_root_comes_back_by_the_line_that_is_printed(
    experiments, tmp_path, capsys
):
    with ExperimentTracker("p", root=tmp_path / "other", auto_log=False) as tracker:
        path = tracker.start_run("r").path
    line = experiments("rm", path)[1].strip().partition(" Back again: ")[2]
    assert main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out == "p/r is back\n"
    assert path.is_dir()


def test_a_run_here_and_one_of_the_same_name_in_the_root_are_not_taken_for_each_other(
    experiments, root, tmp_path, monkeypatch
):
    with ExperimentTracker("digits", root=tmp_path / "other", auto_log=False) as tracker:
        path = tracker.start_run("lr-0.1").path
    monkeypatch.chdir(tmp_path / "other")
    for verb in (["rm", "digits/lr-0.1"], ["mv", "digits/lr-0.1", "p"]):
        code, _, err = experiments(*verb)
        assert code == 3
        assert "Several runs answer to 'digits/lr-0.1'" in err
    assert path.is_dir()
    monkeypatch.chdir(root)
    assert experiments("rm", "digits/lr-0.1")[0] == 0
    assert path.is_dir()


def test_a_far_root_has_no_trash_and_its_runs_stay(root, capsys, monkeypatch, tmp_path):
    pytest.importorskip("fsspec", reason="pip install 'experiment_tracking[remote]'")
    url = f"file://{root}"
    for words in (["rm", "lr-0.1"], ["mv", "lr-0.1", "p"], ["rename", "lr-0.1", "b"], ["restore"],
                  ["purge", "--all", "--yes"], ["gc", "--status", "failed"], ["du"]):  # fmt: skip
        assert main(["--root", url, *words]) in (1, 2)
        assert "far roots are only read" in capsys.readouterr().err
    assert (root / "digits" / "lr-0.1").is_dir()


def test_runs_that_meet_conditions_are_moved_and_named(experiments, root):
    code, out, _ = experiments("rm", "--where", "lr < 0.05", "--project", "digits")
    assert code == 0
    assert sorted(line.split()[0] for line in out.splitlines()) == [
        "digits/lr-0.001", "digits/lr-0.01",
    ]  # fmt: skip
    assert sorted(each.name for each in trashed(root)) == ["lr-0.001", "lr-0.01"]


def test_nothing_is_removed_without_a_name_or_a_condition(experiments, root):
    code, out, err = experiments("rm")
    assert (code, out) == (2, "")
    assert "No run is named" in err
    assert experiments("rm", "lr-0.1", "--status", "failed")[0] == 2
    assert experiments("rm", "--where", "lr > 100")[0] == 3
    assert trashed(root) == []


def test_a_rehearsed_purge_lists_and_deletes_nothing(experiments, root):
    experiments("rm", "lr-0.1", "lr-0.01")
    code, out, err = experiments("purge", "--all", "--dry-run")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()[1:]} == {"digits/lr-0.1", "digits/lr-0.01"}
    assert err.startswith("experiments: 2 runs (")
    assert "would be deleted" in err
    found = json.loads(experiments("purge", "digits/lr-0.1", "--dry-run", "--json")[1])
    assert [run["run"] for run in found["runs"]] == ["digits/lr-0.1"]
    assert found["size_bytes"] == found["runs"][0]["size_bytes"] > 1000
    assert len(trashed(root)) == 2


def test_everything_in_the_trash_comes_back_at_once(experiments, root):
    experiments("rm", "lr-0.1", "lr-0.01")
    assert experiments("restore", "--all", "--name", "x")[0] == 2
    assert experiments("restore", "lr-0.1", "--all")[0] == 2
    code, out, _ = experiments("restore", "--all")
    assert code == 0
    assert sorted(out.splitlines()) == ["digits/lr-0.01 is back", "digits/lr-0.1 is back"]
    assert trashed(root) == []
    assert check(root) == []
