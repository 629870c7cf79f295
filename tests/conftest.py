"""What every test starts from: no settings of the machine's, no run left open by a neighbour."""

import os

import pytest

from experiment_tracking import ExperimentTracker, endings
from experiment_tracking.folder.check import check

FULL_LANE = "EXPERIMENT_TRACKING_FULL_LANE"

_SETTINGS = (
    "EXPERIMENT_TRACKING_ROOT", "EXPERIMENT_TRACKING_RUN", "RANK", "WORLD_SIZE", "LOCAL_RANK",
    "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "EXPERIMENT_TRACKING_SEED",
    "EXPERIMENT_TRACKING_HANDOVER", "EXPERIMENT_TRACKING_SCRATCH_ROOT",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _clean_process(monkeypatch):
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    yield
    for writer in endings.open_writers():
        writer.close("finished")


@pytest.fixture
def root(tmp_path):
    """A root in which everything is in order when the test is over."""
    yield tmp_path / "root"
    for writer in endings.open_writers():
        writer.close("finished")
    assert not (tmp_path / "root").exists() or check(tmp_path / "root") == []


@pytest.fixture
def make(root):
    """Make a tracker that writes only what the test is about."""

    def make(*args, **options):
        options = {"root": root, "use_tensorboard": False, "auto_log": False} | options
        return ExperimentTracker(*args, **options)

    return make


def pytest_sessionfinish(session, exitstatus):
    """In the full lane everything is installed, so a skip for a missing package is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get(FULL_LANE) or reporter is None:
        return
    missing = [
        str(r.longrepr)
        for r in reporter.stats.get("skipped", [])
        if "pip install" in str(r.longrepr)
    ]
    if missing:
        print(
            "\nSkipped for a missing package, which the full lane does not allow:",
            *missing,
            sep="\n",
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
