"""``experiments completion``: the shell completes commands, options, runs and metrics."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.cli import main
from experiment_tracking.models.registry import ModelRegistry


def completions(root, line):
    """What a shell is told to offer at the end of a line."""
    environment = os.environ | {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "EXPERIMENT_TRACKING_ROOT": str(root),
        "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9",
    }  # fmt: skip
    script = (
        "import os, sys\nos.dup2(1, 8)\nsys.argv[0] = 'experiments'\n"
        "from experiment_tracking.cli import main\nmain()"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return found.stdout.split("\n")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("experiments comp", ["compare", "completion"]),
        ("experiments show lr-0.0", ["lr-0.001", "lr-0.01"]),
        ("experiments compare latest digits/lr-0.1", ["digits/lr-0.1"]),
        ("experiments ls di", ["digits"]),
        ("experiments best pinn", ["pinn/pde_residual"]),
        ("experiments ls --whe", ["--where"]),
        ("experiments ls --status cra", ["crashed"]),
        ("experiments ls --status failed,fin", ["failed,finished"]),
        ("experiments ls --sort model.d", ["model.depth"]),
        ("experiments ls --columns name,val/a", ["name,val/acc"]),
        ("experiments ls --where opt", [""]),
        ("experiments ls --where model.o", ["model.optimizer"]),
        ("experiments aggregate --by tags.f", ["tags.first"]),
        ("experiments ls --tag sw", ["sweep"]),
        ("experiments tag lr-0.1 -t fir", ["first"]),
        ("experiments set lr-0.1 model.o", ["model.optimizer="]),
        ("experiments set lr-0.1 -r epo", ["epochs"]),
        ("experiments plot val/loss --param l", ["lr"]),
    ],
)
def test_words_options_and_what_they_take_are_offered(root, line, offered):
    assert completions(root, line) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("experiments models prom", ["promote"]),
        ("experiments models log ", ["net"]),
        ("experiments models show net", ["net", "net/2", "net/1", "net/Production", "net@best"]),
        ("experiments models stage net/1 prod", ["production"]),
        ("experiments models register digits/trained ", ["best", "last"]),
        ("experiments models register digits/trained best --name ", ["net"]),
    ],
)
def test_models_versions_and_stages_are_offered(root, line, offered):
    tracker = ExperimentTracker("digits", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("trained") as run:
        for name in ("best", "last"):
            run.log_model([np.zeros(2)], name)
    registry = ModelRegistry(root)
    registry.register(run.path, "best", name="net")
    registry.register(run.path, "last", name="net", aliases=["best"])
    registry.transition("net", 1, "Production")
    assert completions(root, line) == offered


def test_without_a_root_nothing_is_offered_and_nothing_is_said(tmp_path):
    assert completions(tmp_path / "none", "experiments show b") == [""]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_for_a_shell_is_one_that_it_understands(capsys, tmp_path, shell):
    assert main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert "experiments" in code
    if path := shutil.which(shell):
        (tmp_path / "code").write_text(code)
        subprocess.run([path, "-n", tmp_path / "code"], check=True)
