import pytest

from experiment_tracking.importers.found import FoundRun
from experiment_tracking.importers.imported import Importer
from experiment_tracking.registry.record import RunRecord


@pytest.fixture
def found():
    """Make a run as an importer finds it."""

    def found(**known):
        known = {"rows": [(0, 1.7e9, {"loss": 1.0})], **known}
        return FoundRun("csv", "/data/a.csv", known.pop("id", "a"), "run", "p", **known)

    return found


@pytest.fixture
def take(root, found):
    """Import one run; gives it as read back."""

    def take(one=None, **known):
        return RunRecord(Importer(root).take(one or found(**known)).path)

    return take


@pytest.fixture
def not_carried():
    """What the summary of a record says to be left behind."""
    return lambda record: record.summary["imported_from"]["not_carried"]
