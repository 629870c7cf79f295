"""Runs to keep in order, made and damaged as for the registry's own tests."""

import os
import uuid

import numpy as np
import pytest

from experiment_tracking.models.registry import ModelRegistry
from tests.registry.conftest import (  # noqa: F401
    damage,
    edit,
    killed,
    registry,
    root,
    track,
    tracker,
)


@pytest.fixture
def target(tmp_path):
    """A root to copy to."""
    return tmp_path / "target"


@pytest.fixture
def models(root, tracker):  # noqa: F811
    """The registry of a root with a model of two versions, the first of them in production."""
    versions = ModelRegistry(root)
    with tracker().start_run("one") as run:
        run.log_metrics({"val/accuracy": 0.9})
        for number in (1.0, 2.0):
            run.log_model({"w": np.full(999, number)}, registered_model_name="net")
    versions.set_policy("net", "Production", "val/accuracy > 0.5")
    versions.transition("net", 1, "Production", by="ann")
    return versions


@pytest.fixture(scope="module")
def bucket():
    """A bucket of an S3 service on loopback, and the settings that lead there."""
    s3fs = pytest.importorskip("s3fs", reason="pip install 'experiment_tracking[remote]'")
    moto = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "ENDPOINT_URL": f"http://{host}:{port}", "DEFAULT_REGION": "us-east-1",
        "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s",
        "CONFIG_FILE": os.devnull, "SHARED_CREDENTIALS_FILE": os.devnull,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in settings.items():
            patch.setenv(f"AWS_{name}", value)
        s3fs.S3FileSystem.clear_instance_cache()
        name = f"b{uuid.uuid4().hex}"  # services of one process share their buckets
        s3fs.S3FileSystem().mkdir(name)
        yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def url(request):
    """An empty far root."""
    pytest.importorskip("fsspec", reason="pip install 'experiment_tracking[remote]'")
    above = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    return f"{above}/{uuid.uuid4().hex}/team"
