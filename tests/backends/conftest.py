"""The services that copies are sent to, as they are on a real machine."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.backends.mlflow_service import import_mlflow


def _neighbour(name):
    """Import a module of this folder, which is no package."""
    full_name = f"backends_{name}"
    if full_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            full_name, Path(__file__).with_name(f"{name}.py")
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[full_name] = module
        spec.loader.exec_module(module)
    return sys.modules[full_name]


@pytest.fixture(scope="session")
def _launched_mlflow_server(tmp_path_factory):
    if not is_installed("flask"):  # which mlflow-skinny does not bring
        pytest.skip("pip install mlflow")
    server = _neighbour("mlflow_server").MLflowServer(tmp_path_factory.mktemp("mlflow-server"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def mlflow_server(_launched_mlflow_server):
    """A real MLflow server that answers: ``uri``, ``kill()``, ``start()``; one for all tests."""
    _launched_mlflow_server.start()
    return _launched_mlflow_server


@pytest.fixture
def wandb_server():
    """A stand-in for W&B's service on loopback."""
    with _neighbour("wandb_server").WandbServer() as server:
        yield server


@pytest.fixture
def mlflow():
    """MLflow itself, to look with; its settings are as before when the test is over."""
    if not is_installed("mlflow"):
        pytest.skip("pip install 'experiment_tracking[mlflow]'")
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MLFLOW_")}
    module = import_mlflow()
    yield module
    while module.active_run() is not None:
        module.end_run("FAILED")
    module.set_tracking_uri(None)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(before)
