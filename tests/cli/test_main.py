import json
import os
import re
import subprocess
import sys

import pytest

import experiment_tracking
from experiment_tracking.cli import main

COMMANDS = (
    "ls", "show", "compare", "diff", "best", "run", "rerun", "start", "log", "finish",
    "push", "import", "tensorboard", "check",
)  # fmt: skip
READING = (
    ["ls"],
    ["show", "latest"],
    ["compare", "lr-0.1", "lr-0.01"],
    ["diff", "lr-0.1", "lr-0.01"],
    ["best", "val/loss"],
    ["check"],
)


def test_help_lists_every_command_and_the_exit_codes(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"    {name}" in shown for name in COMMANDS)
    assert "4 a condition is not met" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_has_an_example(name, capsys):
    assert main([name, "--help"]) == 0
    assert re.search(rf"examples:\n.*experiments {name}", capsys.readouterr().out)


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"experiments {experiment_tracking.__version__}\n"


@pytest.mark.parametrize("words", [[], ["show"], ["ls", "--limit", "x"], ["best"]])
def test_wrong_usage_ends_with_2_and_says_nothing_on_stdout(words, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: experiments" in err


def test_a_value_that_is_not_allowed_ends_with_2(experiments):
    assert experiments("ls", "--status", "sleeping")[0] == 2
    assert experiments("ls", "--limit", "-1")[0] == 2
    assert experiments("best", "pinn/pde_residual", "--project", "digits")[0] == 3


@pytest.mark.parametrize("words", READING)
def test_options_for_all_may_stand_before_and_behind_the_command(words, root, capsys):
    assert main(["--root", str(root), "--json", *words]) == 0
    before = capsys.readouterr().out
    assert main([*words, "--json", "--root", str(root)]) == 0
    assert capsys.readouterr().out == before


@pytest.mark.parametrize("words", READING)
def test_every_command_prints_json_alone_on_stdout(words, experiments):
    code, out, _ = experiments(*words, "--json")
    assert code == 0
    json.loads(out)


@pytest.mark.parametrize("words", [*READING, ["tensorboard"]])
def test_a_missing_root_ends_with_3_and_says_where_was_looked(words, tmp_path, capsys):
    assert main([*words, "--root", str(tmp_path / "nowhere")]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("experiments: ")
    assert str(tmp_path / "nowhere") in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["show", "lr-0.2"], ["compare", "lr-0.1", "lr-0.2"], ["tensorboard", "lr-0.2"]]
)
def test_an_unknown_run_ends_with_3_and_names_near_ones(words, experiments):
    code, out, err = experiments(*words)
    assert (code, out) == (3, "")
    assert "lr-0.1" in err
    assert "Traceback" not in err


def test_a_run_is_a_path_name_key_id_or_place_in_time(experiments, root):
    record = json.loads(experiments("show", "digits/lr-0.1", "--json")[1])
    for key in (root / "digits" / "lr-0.1", "lr-0.1", record["id"], record["id"][:6], "latest~3"):
        assert json.loads(experiments("show", key, "--json")[1])["id"] == record["id"]
    assert json.loads(experiments("show", "best:val/loss", "--json")[1])["id"] == record["id"]


def test_a_path_needs_no_root(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["show", str(root / "digits" / "lr-0.1")]) == 0
    assert main(["compare", *map(str, (root / "digits").iterdir())]) == 0


def test_nothing_heavy_is_imported_where_nobody_looks(root):
    script = (
        "import sys; from experiment_tracking.cli import main\n"
        f"root = {str(root)!r}\n"
        f"for words in {READING!r}: assert main([*words, '--root', root]) == 0\n"
        "heavy = {'pandas', 'numpy', 'rich', 'tensorboard', 'tensorboardX', 'psutil'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_met_in_silence(command, root):
    process = subprocess.Popen(
        [*command, "ls", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_a_terminal_that_knows_ascii_alone_gets_escapes(command):
    done = subprocess.run(
        [*command, "ls", "waves"], capture_output=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0
    assert rb"\u6ce2-\u03b2" in done.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", ["ls", "ls --json", "show lr-0.1", "compare lr-0.1 latest", "--help"]
)
def test_head_takes_its_line_and_nobody_complains(command, words, unbuffered):
    # Unbuffered, every line is a write of its own, and all behind the first one fail.
    line = ["bash", "-c", '"$@" | head -1', "bash", *command, *words.split()]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert done.stdout.count("\n") == 1
    assert "roken" not in done.stderr


@pytest.mark.parametrize("words", ["ls", "show lr-0.1", "compare lr-0.1 latest"])
def test_a_reader_that_has_gone_already_is_met_in_silence_by_each_command(command, words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*command, *words.split()], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.returncode == 141
    assert "roken" not in done.stderr
