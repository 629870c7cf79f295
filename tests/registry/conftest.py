import json
import signal
import subprocess
import sys

import pytest

from experiment_tracking.folder.check import check
from experiment_tracking.registry.registry import ExperimentRegistry
from experiment_tracking.tracker import ExperimentTracker


@pytest.fixture
def root(tmp_path):
    """A root whose runs are checked when the test is over, unless the test damaged them."""
    path = tmp_path / "experiments"
    path.mkdir()
    yield path
    if not (tmp_path / "damaged").exists():
        assert check(path) == []


@pytest.fixture
def registry(root):
    return ExperimentRegistry(root)


@pytest.fixture
def tracker(root):
    """Make a real tracker that captures nothing of its surroundings."""

    def tracker(project="digits", **options):
        return ExperimentTracker(
            project, root=root, use_tensorboard=False, auto_log=False, **options
        )

    return tracker


@pytest.fixture
def track(tracker):
    """Write a whole run; rows are logged with steps 0, 1, …; a status of None leaves it open."""

    def track(name, project="digits", *, rows=(), goals=None, status="FINISHED", **options):
        run = tracker(project).start_run(name, options.get("params"), options.get("tags"))
        for metric, goal in (goals or {}).items():
            run.define_metric(metric, goal)
        for step, row in enumerate(rows):
            run.log_metrics(row, step=step)
        if status is not None:
            run.end_run(status)
        return run

    return track


@pytest.fixture
def damage(tmp_path):
    """Put text in the place of a run's file."""

    def damage(run, text, file="summary.json"):
        (tmp_path / "damaged").touch()
        (run.path / file).write_text(text)

    return damage


@pytest.fixture
def edit(tmp_path):
    """Change keys of a run's summary, as a foreign writer might."""

    def edit(run, **changes):
        (tmp_path / "damaged").touch()
        path = run.path / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


_KILLED = """
import os, signal, sys
from experiment_tracking.tracker import ExperimentTracker
run = ExperimentTracker(
    "digits", root=sys.argv[1], use_tensorboard=False, auto_log=False
).start_run("killed", {"lr": 0.1})
for step in range(200):
    run.log_metrics({"loss": 1 / (step + 1), "step_size": float("nan")}, step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(root):
    """A run whose process was killed after 200 rows, long before its summary was renewed."""
    done = subprocess.run([sys.executable, "-c", _KILLED, root], stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGKILL
    return root / "digits" / "killed"
