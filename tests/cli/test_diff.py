import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiment_tracking import ExperimentTracker

SGR = re.compile(r"\x1b\[[0-9;]*m")


def rows(out):
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}


@pytest.fixture
def two(root):
    """Two runs with code, ``one`` and ``two``, that differ in a long option and in 400 lines."""
    paths = []
    for name, lr in (("one", 0.1), ("two", 0.01)):
        options = {"root": root, "use_tensorboard": False, "auto_log": False}
        with ExperimentTracker("coded", **options).start_run(name, {"lr": lr}) as run:
            run.log_metrics({"val/loss": lr}, step=0)
        command = ["python", "train.py", f"--data={'x' * 200}", f"--lr={lr}"]
        facts = {"command": command, "packages": {"torch": "2.12"}, "cpu_count": 8}
        (run.path / "environment.json").write_text(json.dumps(facts))
        (run.path / "code").mkdir(exist_ok=True)
        text = "".join(f"{name}_{i}\t= '\x1b[31m'\n" for i in range(200))
        (run.path / "code" / "train.py").write_text(text)
        paths.append(run.path)
    return paths


def test_sections_that_differ_stand_one_below_the_other(experiments):
    code, out, err = experiments("diff", "lr-0.1", "lr-0.001")
    assert code == 0
    assert out.splitlines()[0] == "lr-0.1 → lr-0.001"
    shown = rows(out)
    assert shown["lr"] == ["0.1", "0.001"]
    assert "epochs" not in shown
    assert shown["val/loss"] == ["0.33333", "2.3333", "+2", "(+600.0%)"]
    assert shown["sweep"] == ["a", "-"]
    assert "not recorded by digits/lr-0.1 and digits/lr-0.001: packages" in err


def test_runs_without_a_difference_are_said_to_have_none(experiments, two):
    code, out, err = experiments("diff", "one", "one", "--only", "params,code,hardware")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert "no difference in params, code, hardware." in err


def test_the_lines_of_code_are_whole_in_a_pipe(experiments, two):
    out = experiments("diff", "one", "two", "--only", "code")[1]
    assert "  train.py +200 -200" in out
    assert sum(line.startswith("-") for line in out.splitlines()) == 201
    assert "\x1b" not in out
    assert "+two_0   = '\\x1b[31m'" in out


def test_stat_counts_the_lines_alone(experiments, two):
    out = experiments("diff", "one", "two", "--stat")[1]
    assert out.splitlines()[-1] == "  train.py +200 -200"


def test_a_terminal_shows_the_first_lines_in_colour_and_says_how_to_see_all(in_terminal, two):
    code, shown = in_terminal("diff", "one", "two", columns=80)
    assert code == 0
    assert "\x1b[31m-one_0 " in shown
    lines = SGR.sub("", shown).splitlines()
    # A blank line, two of names and one of the place stand above the 400.
    assert sum(line.startswith(("+two", "-one")) for line in lines) == 196
    assert "experiments: 204 more lines of code differ" in shown
    assert all(len(line) <= 80 for line in lines if not line.startswith("experiments:"))


def test_a_long_value_is_cut_to_where_the_runs_part(in_terminal, two):
    shown = SGR.sub("", in_terminal("diff", "one", "two", "--only", "environment", columns=60)[1])
    command = next(line for line in shown.splitlines() if "command" in line)
    assert command.split()[1:] == ["…", "--lr=0.1", "…", "--lr=0.01"]


def test_json_has_every_section_or_those_asked_for(experiments, two):
    whole = json.loads(experiments("diff", "one", "two", "--json")[1])
    assert whole["params"] == {"lr": {"a": 0.1, "b": 0.01}}
    assert whole["tags"] == {}
    assert whole["code"]["files"][0]["path"] == "train.py"
    part = json.loads(experiments("diff", "one", "two", "--only", "params", "--json")[1])
    assert {"params", "code"} & part.keys() == {"params"}


def test_an_unknown_section_ends_with_2_and_names_those_there_are(experiments):
    code, out, err = experiments("diff", "lr-0.1", "lr-0.01", "--only", "params,colour")
    assert (code, out) == (2, "")
    assert "--only takes params, metrics" in err
    assert "'colour'" in err


def test_an_unknown_run_ends_with_3(experiments):
    assert experiments("diff", "lr-0.1", "lr-0.2")[0] == 3


def test_of_many_lines_of_data_the_number_is_shown_and_json_has_them(experiments, two):
    for path, value in zip(two, "12", strict=True):
        (path / "code" / "data.csv").write_text(f"{value}\n" * 60)
    _, out, err = experiments("diff", "one", "two", "--only", "code")
    assert "  data.csv +60 -60" in out
    assert "+++ b/data.csv" not in out
    assert "the lines of 1 data file are in --json alone." in err
    files = json.loads(experiments("diff", "one", "two", "--json")[1])["code"]["files"]
    assert "+++ b/data.csv" in files[0]["text"]


def test_numbers_have_as_many_digits_as_it_takes_to_differ(experiments, root):
    for name, started in (("x", 1795271437.2), ("y", 1795271437.4)):
        options = {"root": root, "use_tensorboard": False, "auto_log": False}
        ExperimentTracker("coded", **options).start_run(name, {"started": started}).end_run()
    out = experiments("diff", "x", "y", "--only", "params")[1]
    assert rows(out)["started"] == ["1795271437.2", "1795271437.4"]


_SCRIPT = """
from experiment_tracking import ExperimentTracker
tracker = ExperimentTracker("moved", root={!r}, use_tensorboard=False, print_changes=True)
with tracker.start_run("first") as run:
    run.log_metrics({{"width": float(open("conf.yaml").read())}}, step=0)
"""


def test_a_run_with_uncommitted_changes_and_its_rerun_do_not_differ(experiments, root, tmp_path):
    package = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": package}

    def call(*words):
        done = subprocess.run(words, cwd=tmp_path / "p", env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stderr.decode()

    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "train.py").write_text(_SCRIPT.format(str(root)))
    (tmp_path / "p" / "conf.yaml").write_text("1\n")
    call("git", "init", "-q")
    call("git", "add", ".")
    me = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    call("git", *me, "commit", "-qm", "Begin")
    (tmp_path / "p" / "conf.yaml").write_text("2\n")
    call(sys.executable, str(tmp_path / "p" / "train.py"))
    call("git", *me, "commit", "-qam", "Widen")
    command = ("-m", "experiment_tracking", "--root", str(root), "rerun", "moved/first")
    said = call(sys.executable, *command)
    assert "since moved/first, which it repeats: nothing has changed\n" in said
    out = experiments("diff", "moved/first", "moved/first-rerun")[1]
    assert out.splitlines() == ["first → first-rerun"]
    # A person's own run is compared with their last one, and not with the rerun since.
    assert "since moved/first: commit " in call(sys.executable, "train.py")
    out = experiments("diff", "moved/first", "moved/first-2", "--only", "code")[1]
    assert "Widen" in out
    assert "conf.yaml" not in out


def test_a_tag_without_a_value_is_there_or_not(experiments):
    out = experiments("diff", "lr-0.1", "lr-0.01", "--only", "tags")[1]
    assert ["first", "yes", "-"] in [line.split() for line in out.splitlines()]
