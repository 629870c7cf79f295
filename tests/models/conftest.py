import hashlib
import json

import numpy as np
import pytest

from experiment_tracking import endings
from experiment_tracking.folder.check import check
from experiment_tracking.models.registry import ModelRegistry


@pytest.fixture
def root(tmp_path):
    """A root that is checked when the test is over, unless the test damaged it."""
    path = tmp_path / "root"
    yield path
    for writer in endings.open_writers():
        writer.close("finished")
    if path.exists() and not (tmp_path / "damaged").exists():
        assert check(path) == []


@pytest.fixture
def damaged(tmp_path):
    """For tests that leave something behind that is not in order."""
    (tmp_path / "damaged").touch()


@pytest.fixture
def registry(root):
    return ModelRegistry(root)


@pytest.fixture
def train(make):
    """Make a run that has ended, with a model whose one weight is the last value of its metric."""

    def train(name="run", accuracies=(0.5, 0.9), project="digits", params=None, **options):
        tracker = make(project)
        with tracker.start_run(name, {"lr": 0.1} if params is None else params) as run:
            for step, accuracy in enumerate(accuracies):
                run.log_metrics({"val/accuracy": accuracy}, step=step)
                run.log_model({"w": np.full(3, accuracy)}, keep=5, **options)
        return run

    return train


@pytest.fixture
def registered(registry, train):
    """Register models of these accuracies as versions 1, 2, … of ``digits``."""

    def registered(*accuracies):
        return [
            registry.register(train(f"run{n}", [accuracy]), name="digits")
            for n, accuracy in enumerate(accuracies, 1)
        ]

    return registered


@pytest.fixture
def weight(registry):
    """Read the one number by which models here are told from each other."""

    def weight(reference):
        return float(registry.load(reference)["w"][0])

    return weight


@pytest.fixture
def edit(damaged):
    """Change keys of a JSON file, as somebody with an editor might; return its new SHA-256."""

    def edit(path, **changes):
        data = json.dumps(json.loads(path.read_text()) | changes).encode()
        path.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    return edit
