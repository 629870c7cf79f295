import itertools
import json
import shutil
from hashlib import sha256

import pytest

from experiment_tracking.formats.models.saved import SavedModel
from experiment_tracking.registry.record import RunRecord


@pytest.fixture
def saved(make):
    """Log a model to a real run; return the handle on what was saved."""
    with make("p").start_run("a") as run:

        def saved(model, **options):
            run.log_model(model, **options)
            return RunRecord(run.path).saved_model()

        yield saved


@pytest.fixture
def forge(tmp_path):
    """Copy a saved model and put another file in the place of its weights, as an enemy would.

    ``model.json`` gives the new file's size and hash, and other keys where they are given.
    """
    numbers = itertools.count()

    def forge(kept, data=None, **changes):
        folder = shutil.copytree(kept.path, tmp_path / f"forged-{next(numbers)}")
        document = kept.document | changes
        weights = document["files"]["weights"]
        if data is not None:
            (folder / weights["file"]).write_bytes(data)
            weights |= {"size_bytes": len(data), "sha256": sha256(data).hexdigest()}
        (folder / "model.json").write_text(json.dumps(document))
        return SavedModel(folder)

    return forge
