"""A root of real runs, and a terminal to look at them in."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.cli import main

_OPTIMIZERS = {"lr-0.1": "adam", "lr-0.01": "sgd", "lr-0.001": "adam"}


@pytest.fixture
def root(tmp_path):
    """Four runs: three of ``digits``, of which the last failed, and one of ``waves``."""
    path = tmp_path / "experiments"
    tracker = ExperimentTracker("digits", root=path, auto_log=False, notes="two\nlines")
    for i, (name, optimizer) in enumerate(_OPTIMIZERS.items()):
        lr = float(name.removeprefix("lr-"))
        params = {"lr": lr, "model": {"depth": 2, "optimizer": optimizer}, "epochs": 3}
        run = tracker.start_run(name, params, tags={"sweep": "a", "first": ""} if i == 0 else None)
        for step in range(3):
            run.log_metrics({"val/loss": 1 / (step + 1) + i, "val/acc": step / 4 - i}, step=step)
        if i == 1:
            run.log_metrics({"val/loss": float("nan")}, step=3)
        run.log_text("hello", "note")
        run.end_run("FAILED" if i == 2 else "FINISHED")
    waves = ExperimentTracker("waves", root=path, auto_log=False, use_tensorboard=False)
    with waves.start_run("波-β") as run:
        run.log_metrics({"pinn/pde_residual": 1e-7}, step=0)
    return path


@pytest.fixture
def experiments(root, capsys):
    """Call the command line on the root; gives exit code, stdout and stderr."""

    def call(*words):
        capsys.readouterr()
        code = main(["--root", str(root), *map(str, words)])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def command(root):
    """Words that start the command line in a process of its own."""
    return [sys.executable, "-m", "experiment_tracking", "--root", str(root)]


@pytest.fixture
def in_terminal(command):
    """Run the command line in a pseudo-terminal; gives exit code and what is shown."""

    def run(*words, columns=100, **environment):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {"TERM": "xterm-256color", **environment}
        without = {key: v for key, v in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
        process = subprocess.Popen(
            [*command, *words],
            stdin=theirs, stdout=theirs, stderr=theirs, env={**without, **environment},
        )  # fmt: skip
        os.close(theirs)
        shown = _read_all(ours)
        os.close(ours)
        return process.wait(30), shown.decode().replace("\r\n", "\n")

    return run


def _read_all(fd):
    shown = b""
    while True:
        try:
            part = os.read(fd, 65536)
        except OSError:  # Linux says EIO when the other side has closed.
            return shown
        if not part:
            return shown
        shown += part
