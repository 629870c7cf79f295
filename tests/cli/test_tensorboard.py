import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from experiment_tracking.cli import main


@pytest.fixture
def serve(command, tmp_path):
    """Start the command in a process of its own; gives it and what it printed."""
    pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")
    started = []
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def start(*words):
        with (tmp_path / "stderr").open("w") as errors:
            process = subprocess.Popen(
                [*command, "tensorboard", "--port", "0", "--json", *words],
                stdout=subprocess.PIPE, stderr=errors, env={**os.environ, "TMPDIR": str(temporary)},
            )  # fmt: skip
        started.append(process)
        lines = b""
        while not lines.rstrip().endswith(b"\n}"):
            line = process.stdout.readline()
            assert line, (tmp_path / "stderr").read_text()
            lines += line
        return process, json.loads(lines), temporary

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def runs_of(url, expected):
    """Ask TensorBoard which runs it has, until it has read as many as expected."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}data/runs") as answer:
            found = json.load(answer)
            if len(found) >= expected or time.monotonic() > deadline:
                return set(found)
        time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tensorboard_shows_the_chosen_runs_until_it_is_ended(serve, number):
    process, printed, temporary = serve("lr-0.1", "latest~1")
    assert printed["runs"] == ["digits/lr-0.001", "digits/lr-0.1"]
    assert runs_of(printed["url"], 2) == {"digits/lr-0.1", "digits/lr-0.001"}
    assert list(temporary.glob("experiments-tensorboard-*"))

    process.send_signal(number)
    assert process.wait(30) == 0
    assert not list(temporary.glob("experiments-tensorboard-*"))


def test_all_runs_are_shown_when_none_is_named_and_those_to_come(serve, root):
    from experiment_tracking import ExperimentTracker

    _, printed, _ = serve()
    assert printed["runs"] == ["digits/lr-0.001", "digits/lr-0.01", "digits/lr-0.1"]
    with ExperimentTracker("digits", root=root).start_run("later") as run:
        run.log_metric("loss", 1.0)
    assert "digits/later" in runs_of(printed["url"], 4)


def test_a_run_without_tensorboards_files_ends_with_3(experiments):
    pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")
    code, out, err = experiments("tensorboard", "waves/波-β")
    assert (code, out) == (3, "")
    assert "use_tensorboard" in err


def test_without_the_package_the_install_line_is_shown(root, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    before = set(Path(tempfile.gettempdir()).glob("experiments-tensorboard-*"))
    assert main(["tensorboard", "--root", str(root)]) == 1
    assert "pip install 'experiment_tracking[tensorboard]'" in capsys.readouterr().err
    assert set(Path(tempfile.gettempdir()).glob("experiments-tensorboard-*")) <= before
