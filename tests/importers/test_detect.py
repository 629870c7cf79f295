import json
import sqlite3

import pytest

from experiment_tracking.backends.tensorboard import TensorBoardBackend
from experiment_tracking.cli.importing import KINDS
from experiment_tracking.errors import InvalidValueError, NotFoundError
from experiment_tracking.importers.detect import IMPORTERS, find_places, to_path


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_events(folder):
    writer = TensorBoardBackend(str(folder))
    writer.start_run("x")
    writer.log_batch([{"step": 0, "time": 1.7e9, "loss": 0.5}])
    writer.end_run("finished")
    writer.close()


def write_mlruns(folder):
    write(folder / "0" / "meta.yaml", "artifact_location: x\nexperiment_id: 0\nname: Default\n")


@pytest.fixture
def found(tmp_path):
    """What is found below a folder: kind and place, relative to it."""

    def found(kind=None):
        places = find_places(str(tmp_path), kind)
        return [(kind, path.removeprefix(str(tmp_path))[1:]) for path, kind in places]

    return found


def test_every_kind_can_be_asked_for_on_the_command_line():
    assert set(IMPORTERS) == set(KINDS)


def test_each_place_is_found_once_and_taken_by_its_own_importer(tmp_path, found):
    write_mlruns(tmp_path / "mlruns")
    version = tmp_path / "logs" / "lightning_logs" / "version_0"
    write(version / "metrics.csv", "step,loss\n0,1\n")
    trial = tmp_path / "ray" / "search" / "trial_1"
    write(trial / "params.json", "{}")
    write(trial / "result.json", json.dumps({"loss": 1}))
    for folder in (version, trial, tmp_path / "tb" / "one", tmp_path / "tb" / "two"):
        write_events(folder)
    write(tmp_path / "data.csv", "a\n1\n")
    assert found() == [
        ("lightning", "logs/lightning_logs/version_0"),
        ("mlflow", "mlruns"),
        ("ray", "ray/search"),
        ("tensorboard", "tb"),
    ]
    assert found("csv")[0] == ("csv", "data.csv")
    assert found("mlflow") == [("mlflow", "mlruns")]


def test_event_files_beside_other_runs_are_found_too(tmp_path, found):
    write(tmp_path / "logs" / "version_0" / "metrics.csv", "step,loss\n0,1\n")
    write_events(tmp_path / "logs" / "plain")
    assert found() == [("tensorboard", "logs/plain"), ("lightning", "logs/version_0")]


def test_runs_of_this_tracker_are_passed_over(tmp_path, make, found):
    with make("p", "tracked", root=tmp_path / "experiments", use_tensorboard=True) as tracker:
        tracker.log_metrics({"loss": 1.0})
    with pytest.raises(NotFoundError, match="nothing to import"):
        found()


def test_the_files_of_a_databases_runs_are_no_runs(tmp_path, found):
    write_events(tmp_path / "mlruns" / "1" / "abc" / "artifacts" / "logs")
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        for table in ("experiments", "runs", "metrics", "params", "tags"):
            connection.execute(f"CREATE TABLE {table} (experiment_id)")
    connection.close()
    assert found() == [("mlflow", "mlflow.db")]


def test_mlruns_without_runs_names_the_database_beside_it(tmp_path):
    write(tmp_path / "mlruns" / "1" / "abc" / "artifacts" / "a.txt")
    write(tmp_path / "mlflow.db")
    with pytest.raises(NotFoundError, match=r"experiments import .*mlflow\.db"):
        find_places(str(tmp_path / "mlruns"))


def test_a_source_may_be_written_as_mlflow_writes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a b.db")
    path = str(tmp_path / "a b.db")
    assert to_path("a b.db") == to_path(f"sqlite:///{path}") == to_path("sqlite:///a b.db") == path
    assert to_path(f"file://{tmp_path!s}/a%20b.db") == to_path("file:a b.db") == path


def test_what_is_no_file_is_refused_with_what_to_do():
    with pytest.raises(InvalidValueError, match="address of a server"):
        to_path("http://127.0.0.1:5000")
    with pytest.raises(NotFoundError, match="nothing at"):
        to_path("nowhere/at/all")
