"""What a command line tells about the script, its interpreter and its params."""

import os
import sys

import pytest

from experiment_tracking.jobs.command import params_of, reads_its_script, take_apart


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.py").write_text("")
    (tmp_path / "job.sh").write_text("")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "fit.py").write_text("")
    (tmp_path / "pkg" / "__main__.py").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "script", "arguments"),
    [
        ("python train.py --lr 0.1", "train.py", ("--lr", "0.1")),
        ("python3.12 -u -X dev train.py a", "train.py", ("a",)),
        ("python -W error train.py", "train.py", ()),
        ("./train.py 3", "train.py", ("3",)),
        ("bash job.sh 3", "job.sh", ("3",)),
        ("torchrun --nproc-per-node 2 train.py --lr 1", "train.py", ("--lr", "1")),
        ("python -m pkg.fit --lr 1", "pkg/fit.py", ("--lr", "1")),
        ("python -m pkg", "pkg/__main__.py", ()),
        ("python -c pass --lr 1", None, ("--lr", "1")),
        ("simulate 42", None, ("42",)),
        ("python missing.py 1", None, ("missing.py", "1")),
        ("python", None, ()),
    ],
)
def test_the_script_of_a_command_is_found_and_what_it_gets_to_see(folder, line, script, arguments):
    command = take_apart(line.split(), str(folder))
    expected = None if script is None else os.path.join(folder, *script.split("/"))
    assert (command.script, command.arguments) == (expected, arguments)


def test_a_module_is_named_as_it_was_started(folder):
    command = take_apart(["python", "-m", "pkg.fit"], str(folder))
    assert (command.module, command.name) == ("pkg.fit", "fit")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("python train.py", "train"),
        ("./simulate.sh 3", "simulate"),
        ("python -m json.tool", "tool"),
        ("python nosuch.py --lr 1", "nosuch"),
        ("python -u nosuch.py", "nosuch"),
        ("python -c pass nosuch.py", "python"),
    ],
)
def test_a_command_is_called_by_its_script_module_or_program(folder, line, name):
    assert take_apart(line.split(), str(folder)).name == name


def test_the_interpreter_is_the_one_of_the_command_line(folder):
    assert take_apart([sys.executable, "train.py"], str(folder)).interpreter() == sys.executable
    assert take_apart(["sh", "job.sh"], str(folder)).interpreter() is None


@pytest.mark.parametrize(
    ("line", "params"),
    [
        ("", {}),
        ("--lr 0.1", {"lr": 0.1}),
        ("--lr=1e-3 --epochs=3", {"lr": 0.001, "epochs": 3}),
        ("--batch-size 32", {"batch_size": 32}),
        ("--shift -1.5 --by -3", {"shift": -1.5, "by": -3}),
        ("--amp --no-cache", {"amp": True, "no_cache": True}),
        ("--amp false --init None", {"amp": False, "init": None}),
        ("--layers 64 32", {"layers": [64, 32]}),
        ("--classes cat dog", {"classes": ["cat", "dog"]}),
        (
            "--lr 0.1 --verbose --seed 3 data/train.csv",
            {"lr": 0.1, "verbose": True, "seed": 3, "arguments": ["data/train.csv"]},
        ),
        ("--seed 3 train", {"seed": 3, "arguments": ["train"]}),
        ("--seed 3 train 4", {"seed": 3, "arguments": ["train", 4]}),
        ("--config a.yaml b.yaml", {"config": "a.yaml", "arguments": ["b.yaml"]}),
        ("--config-name base depth=4", {"config_name": "base", "depth": 4}),
        ("--amp true cat", {"amp": True, "arguments": ["cat"]}),
        ("--tag a --tag b --tag c", {"tag": ["a", "b", "c"]}),
        ("model.depth=4 +seed=1 ~cache=x", {"model.depth": 4, "seed": 1, "cache": "x"}),
        ("fit data.csv --lr 1", {"lr": 1, "arguments": ["fit", "data.csv"]}),
        ("-v -n 3", {"v": True, "n": 3}),
        ("--path a=b", {"path": "a=b"}),
        ("--name=", {"name": ""}),
        ("--from 2024_01_02 1_", {"from": ["2024_01_02", "1_"]}),
        ("--- =x -- -", {"arguments": ["---", "=x", "--", "-"]}),
        ("--lr inf --eps nan1", {"lr": float("inf"), "eps": "nan1"}),
        ("--api-key sk-12345678901234567890 --lr 1", {"api_key": "***", "lr": 1}),
    ],
)
def test_params_are_read_off_a_command_line(line, params):
    assert params_of(line.split()) == params


def test_a_word_that_is_a_folder_there_is_no_further_value(folder):
    words = ["--classes", "cat", "pkg"]
    assert params_of(words, str(folder)) == {"classes": "cat", "arguments": ["pkg"]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python", True),
        ("python -", True),
        ("python3 -u - --lr 1", True),
        ("sh", True),
        ("bash -s 1 2", True),
        ("python train.py -", False),
        ("python -c -", False),
        ("python -m json.tool -", False),
        ("sh -c date", False),
        ("bash -ec date", False),
        ("bash job.sh", False),
        ("simulate -", False),
    ],
)
def test_a_script_that_comes_from_standard_input_is_known(line, expected):
    assert reads_its_script(line.split()) == expected
