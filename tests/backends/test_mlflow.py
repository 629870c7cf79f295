import base64
import contextlib
import errno
import http.server
import json
import math
import os
import socket
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest

from experiment_tracking.backends import mlflow_service
from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.backends.interface import check_backend
from experiment_tracking.backends.kept_files import newest_save
from experiment_tracking.backends.mlflow import MLflowBackend
from experiment_tracking.backends.mlflow_names import allowed_name
from experiment_tracking.errors import BackendError, BackendUnavailableError, MissingPackageError
from experiment_tracking.testing import BackendTests
from experiment_tracking.testing import Copy as Given

# Not imported to find out: its telemetry would start before it is switched off.
pytestmark = pytest.mark.skipif(
    not is_installed("mlflow"), reason="pip install 'experiment_tracking[mlflow]'"
)

REPOSITORY = Path(__file__).parents[2]
NOW = 1763640000.0
LARGEST = sys.float_info.max


class Copy:
    """A run's folder and its copy in MLflow, each call as whoever follows the run makes it."""

    def __init__(self, uri, run, state=None, **options):
        self.folder = Path(run.path)
        self.backend = check_backend(MLflowBackend(uri, **options))
        self.uri = self.backend.backend.options["tracking_uri"]
        self.state = {} if state is None else state

    def document(self, name):
        return json.loads((self.folder / f"{name}.json").read_text())

    def start(self, **changed):
        summary = self.document("summary")
        known = {
            "project": summary["project"], "run_id": summary["id"], "path": self.folder,
            "tags": summary["tags"], "group": summary["group"], "notes": summary["notes"],
            "parent": summary["parent"], "created_at": summary["created_at"], "attempt": 1,
            "rows": 0, "state": self.state,
        }  # fmt: skip
        return self.backend.start_run(summary["name"], {}, **(known | changed))

    def send_params(self):
        self.backend.log_params(self.document("params"))

    def rows(self):
        return self.document("metrics_history")

    def send_rows(self, start=0, stop=None):
        self.backend.log_batch(self.rows()[start:stop])

    def files(self):
        listed = self.folder / "artifacts.json"
        return json.loads(listed.read_text())["artifacts"] if listed.exists() else []

    def send_files(self):
        for entry in self.files():
            path = self.folder / entry["path"]
            if entry["kind"] in ("figure", "image"):
                self.backend.log_figure(path, entry["name"], entry["step"])
            elif path.name == "model.json":
                self.send_model(entry["name"])
            elif entry["kind"] != "model":
                self.backend.log_artifact(path, entry["name"])

    def send_model(self, name):
        above = self.folder / "backends" / ".mlflow-model"
        with newest_save(str(self.folder / "models" / name), str(above)) as (path, document):
            self.backend.log_model(None, path, name=name, metadata=document["metadata"])
            return {file.name: file.read_bytes() for file in path.iterdir()}

    def end(self, status=None, **known):
        summary = self.document("summary")
        known = {"summary": summary["metrics"], "ended_at": summary["ended_at"]} | known
        self.backend.end_run(status or summary["status"], **known)
        self.backend.close()

    def send_all(self):
        self.start()
        self.send_params()
        self.send_rows()
        self.send_files()
        self.end()
        return self

    @property
    def remote_id(self):
        return self.state["run_id"]


class Look:
    """What MLflow's own client says of a copy."""

    def __init__(self, mlflow, copy):
        self.client = mlflow.MlflowClient(copy.uri)
        self.run = self.client.get_run(copy.remote_id)
        self.id, self.tags, self.params = copy.remote_id, self.run.data.tags, self.run.data.params

    def points(self, metric):
        history = self.client.get_metric_history(self.id, metric)
        return [(point.step, point.timestamp, point.value) for point in history]

    def files(self, below=None):
        for file in self.client.list_artifacts(self.id, below):
            yield from self.files(file.path) if file.is_dir else [file.path]

    def content(self, path, folder):
        return Path(self.client.download_artifacts(self.id, path, str(folder))).read_bytes()

    @property
    def notes(self):
        return self.tags.get("experiment_tracking.notes", "")


@pytest.fixture
def look(mlflow):
    return lambda copy: Look(mlflow, copy)


@pytest.fixture
def run(make):
    return make("pinn", "exp7").start_run("exp7")


class Figure:
    def savefig(self, file, format):  # noqa: A002
        file.write(b"\x89PNG\r\n\x1a\n" + bytes(20))


def logged(rows, metric):
    """Points of a metric as MLflow has to show them."""
    clamp = {"Infinity": LARGEST, "-Infinity": -LARGEST, "NaN": math.nan}
    return [
        (row["step"], round(row["time"] * 1000), clamp.get(row[metric], row[metric]))
        for row in rows
        if metric in row
    ]


def same(points, others):
    """Compare points, NaN being equal to itself."""
    return list(map(repr, sorted(points))) == [
        repr((step, at, float(value))) for step, at, value in sorted(others)
    ]


def milliseconds(moment):
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


# ------------------------------------------------------------------------- a run and its copy


def test_a_run_with_a_nested_child_is_in_mlflow_point_for_point(make, mlflow_server, look):
    with make("pinn", "sweep", tags={"task": "burgers"}, notes="first try") as tracker:
        parent = tracker.start_run("parent")
        child = tracker.start_run("child", parent=parent.id)
        for step in range(2000):
            row = {"train/loss": 1 / (step + 1), "acc@1": step % 7, "time": step / 3}
            if step % 50 == 0:
                row |= {"odd (%)": [math.nan, math.inf, -math.inf][step // 50 % 3]}
            child.log_metrics(row, step=step - 100, timestamp=NOW + step * 0.25)
    mirrored = [Copy(mlflow_server.uri, one).send_all() for one in (parent, child)]
    rows = mirrored[1].rows()
    seen = look(mirrored[1])
    names = {"train/loss": "train/loss", "acc_1": "acc@1", "time": "metric:time"}
    for there, here in (names | {"odd ___": "odd (%)"}).items():
        assert same(seen.points(there), logged(rows, here)), there
    assert len(seen.points("acc_1")) == 2000
    assert seen.run.data.metrics.keys() == {"train/loss", "acc_1", "time", "odd ___"}
    assert "metric 'acc@1' is 'acc_1' here" in seen.notes
    assert seen.notes.count("infinite") == 1
    assert seen.tags["mlflow.parentRunId"] == mirrored[0].remote_id
    summary = mirrored[1].document("summary")
    assert seen.run.info.status == "FINISHED"
    assert seen.run.info.start_time == milliseconds(summary["created_at"])
    assert seen.run.info.end_time == milliseconds(summary["ended_at"])
    assert seen.run.info.run_name == "child"
    assert seen.client.get_experiment(seen.run.info.experiment_id).name == "pinn"
    assert (seen.tags["task"], seen.tags["mlflow.note.content"]) == ("burgers", "first try")
    assert seen.tags["experiment_tracking.group"] == "sweep"
    assert mirrored[1].state["url"].startswith(f"{mlflow_server.uri}/#/experiments/")
    assert mirrored[1].state["url"].endswith("?workflowType=machine_learning")


def test_a_child_that_comes_before_its_parent_is_nested_all_the_same(make, mlflow_server, look):
    with make("nesting") as tracker:
        parent = tracker.start_run("parent")
        child = tracker.start_run("child", parent=parent.id)
    first = Copy(mlflow_server.uri, child).send_all()
    assert "is not in this experiment yet" in look(first).notes
    second = Copy(mlflow_server.uri, parent).send_all()
    assert look(first).tags["mlflow.parentRunId"] == second.remote_id


def test_rows_that_are_sent_again_change_nothing(run, mlflow_server, look):
    for step in range(1500):
        run.log_metrics({"loss": math.nan if step % 100 == 0 else step}, step=step % 400)
    run.end_run()
    copy = Copy(mlflow_server.uri, run).send_all()
    before = look(copy).points("loss")
    copy.start()
    copy.send_rows(0, 700)
    copy.send_rows(300)
    assert same(look(copy).points("loss"), before)
    assert len(before) == 1500


def test_metrics_of_one_row_are_logged_as_a_batch_is(run, mlflow_server, look):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    copy.backend.log_metrics({"loss": 0.5, "time": 2.0}, 3, timestamp=NOW)
    assert look(copy).points("loss") == [(3, 1763640000000, 0.5)]
    assert look(copy).points("time") == [(3, 1763640000000, 2.0)]


def test_params_are_flat_and_whole(run, mlflow_server, look, tmp_path):
    long = "x" * 7000
    given = {"model": {"depth": 3, "act": None}, "empty": "", "text": long, "lr (Adam)": 0.1}
    run.log_params(given | {f"p{number}": number for number in range(250)})
    run.end_run()
    copy = Copy(mlflow_server.uri, run).send_all()
    seen = look(copy)
    assert len(seen.params) == 255
    assert {"model.depth": "3", "model.act": "None", "empty": "", "lr _Adam_": "0.1", "p249": "249"
            }.items() <= seen.params.items()  # fmt: skip
    assert len(seen.params["text"]) == 6000
    assert "the whole is the artifact params/text.txt" in seen.params["text"]
    assert seen.content("params/text.txt", tmp_path).decode() == long
    assert "param 'text' has 7000 characters" in seen.notes
    assert "param 'lr (Adam)' is 'lr _Adam_' here" in seen.notes


def test_a_changed_param_is_a_tag_since_mlflow_keeps_the_first_value(run, mlflow_server, look):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    copy.backend.log_params({"lr": 0.1, "opt": {"name": "adam"}})
    copy.backend.log_params({"lr": 0.2, "opt": {"name": "adam"}, "seed": 1})
    copy.start()
    copy.backend.log_params({"lr": 0.2, "opt": {"name": "adam"}, "seed": 1})
    seen = look(copy)
    assert seen.params == {"lr": "0.1", "opt.name": "adam", "seed": "1"}
    assert seen.tags["param.lr"] == "0.2"
    assert copy.state["notes"] == ["param 'lr' changed, its present value is the tag 'param.lr'"]
    copy.backend.log_params({"lr": 0.1})
    assert look(copy).tags["param.lr"] == "0.1"


def test_tags_and_notes_are_set_changed_and_taken_away(run, mlflow_server, look):
    copy = Copy(mlflow_server.uri, run)
    copy.start(tags={"a": "1", "word": "", "b@d": "x"}, notes="")
    assert "mlflow.note.content" not in look(copy).tags
    copy.backend.set_tags({"a": "2", "long": "y" * 9000}, removed=["b@d", "never"], notes="so far")
    tags = look(copy).tags
    assert (tags["a"], tags["word"], tags["mlflow.note.content"]) == ("2", "", "so far")
    assert "b_d" not in tags
    assert len(tags["long"]) == 8000
    assert copy.state["notes"][-1] == "tag 'long' has 9000 characters and is cut"
    copy.backend.set_tags({}, notes="")
    assert look(copy).tags["mlflow.note.content"] == ""


def test_mlflow_shows_who_ran_which_code(run, mlflow_server, look):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    git = {"commit": "c0ffee", "branch": "main", "dirty": True, "remotes": {"origin": "git://x/y"}}
    facts = {
        "user": "ann", "hostname": "node7", "python_version": "3.11.7", "git": git,
        "entry_script": {"path": "/home/ann/train.py", "module": None}, "notebook": None,
    }  # fmt: skip
    copy.backend.log_environment(facts)
    source = {key.removeprefix("mlflow.source."): v for key, v in look(copy).tags.items()}
    assert {
        "name": "/home/ann/train.py", "type": "LOCAL", "git.commit": "c0ffee", "mlflow.user": "ann",
        "git.branch": "main", "git.dirty": "true", "git.repoURL": "git://x/y",
        "experiment_tracking.hostname": "node7", "experiment_tracking.python_version": "3.11.7",
    }.items() <= source.items()  # fmt: skip
    copy.backend.log_environment(facts | {"notebook": "/home/ann/a.ipynb", "git": None})
    tags = look(copy).tags
    assert (tags["mlflow.source.type"], tags["mlflow.source.name"]) == (
        "NOTEBOOK", "/home/ann/a.ipynb",
    )  # fmt: skip


def test_what_a_run_really_captures_is_taken(make, mlflow_server, look):
    with make("captured", auto_log=True) as tracker:
        run = tracker.start_run()
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    copy.backend.log_environment(copy.document("environment"))
    assert look(copy).tags["experiment_tracking.python_version"] == sys.version.split()[0]


def test_files_stand_where_they_stand_in_the_run(run, mlflow_server, look, tmp_path):
    (tmp_path / "results" / "deep").mkdir(parents=True)
    for name in ("a b.txt", "ü.txt", "deep/50% #1.txt", "deep/(x) [y]&+~.txt"):
        (tmp_path / "results" / name).write_text(name)
    run.log_artifact(tmp_path / "results", description="all of them")
    run.log_figure(Figure(), "loss curve", step=3)
    run.log_text("hello", "greeting")
    run.end_run()
    copy = Copy(mlflow_server.uri, run).send_all()
    seen = look(copy)
    listed = {entry["path"] for entry in copy.files()}
    expected = {path.replace("50% #1", "50_ _1") for path in listed}
    assert set(seen.files()) == expected | {"artifacts.json"}
    for number, path in enumerate(listed):
        (tmp_path / str(number)).mkdir()
        there = seen.content(path.replace("50% #1", "50_ _1"), tmp_path / str(number))
        assert there == (copy.folder / path).read_bytes(), path
    assert b"all of them" in seen.content("artifacts.json", tmp_path)
    assert "file 'artifacts/results/deep/50% #1.txt' is" in seen.notes


def test_a_folder_is_uploaded_whole_at_once(run, mlflow_server, look, tmp_path):
    (tmp_path / "results" / "deep").mkdir(parents=True)
    (tmp_path / "results" / "a.txt").write_text("a")
    (tmp_path / "results" / "deep" / "b.txt").write_text("b")
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    copy.backend.log_artifact(run.log_artifact(tmp_path / "results"), "results")
    assert sorted(look(copy).files()) == ["artifacts/results/a.txt", "artifacts/results/deep/b.txt"]


def test_a_file_that_is_gone_is_refused_and_not_an_outage(run, mlflow_server):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    with pytest.raises(BackendError, match=r"gone\.txt cannot be read \(No such file"):
        copy.backend.log_artifact(copy.folder / "artifacts" / "gone.txt", "gone.txt")


def test_a_model_saved_often_is_one_version_with_its_last_files(
    run, mlflow_server, mlflow, look, tmp_path
):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    for epoch in range(3):
        run.log_model({"w": [float(epoch)]}, "best v1.0", {"epoch": epoch})
        last = copy.send_model("best v1.0")
    run.end_run()
    copy.end()
    copy.start()
    copy.end()
    versions = look(copy).client.search_model_versions("name='pinn-best-v1-0'")
    assert [(version.version, version.run_id) for version in versions] == [("1", copy.remote_id)]
    mlflow.set_tracking_uri(copy.uri)
    into = tmp_path / "into"
    into.mkdir()
    there = mlflow.artifacts.download_artifacts("models:/pinn-best-v1-0/1", dst_path=into)
    assert last.keys() == {"model.json", "weights-000003.safetensors"}
    assert {file.name: file.read_bytes() for file in Path(there).iterdir()} == last


def test_the_next_run_makes_the_next_version(make, mlflow_server, look):
    for _ in range(2):
        with make("versions") as tracker:
            run = tracker.start_run()
            run.log_model({"w": [1.0]})
        copy = Copy(mlflow_server.uri, run).send_all()
    versions = look(copy).client.search_model_versions("name='versions-model'")
    assert {version.version for version in versions} == {"1", "2"}


def test_a_model_that_cannot_be_registered_does_not_keep_the_run_open(run, mlflow_server, look):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    run.log_model({"w": [1.0]}, metadata={"registered_model_name": "a/b"})
    copy.send_model("model")
    run.end_run()
    copy.end()
    assert look(copy).run.info.status == "FINISHED"
    assert "model 'model' is not registered" in look(copy).notes


@pytest.mark.parametrize(
    ("status", "shown"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("killed", "KILLED"), ("crashed", "FAILED")],
)
def test_the_end_is_set_in_mlflows_words_and_in_ours(status, shown, run, mlflow_server, look):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    ended_at = "2026-11-20T12:00:00.250Z"
    error = {"type": "ValueError", "message": "lr"} if status == "failed" else None
    copy.end(status, ended_at=ended_at, error=error)
    seen = look(copy)
    assert (seen.run.info.status, seen.run.info.end_time) == (shown, milliseconds(ended_at))
    assert seen.tags["experiment_tracking.status"] == status
    assert seen.tags.get("experiment_tracking.error") == ("ValueError: lr" if error else None)


def test_notes_are_bounded(run, mlflow_server, look):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    copy.backend.log_batch([{"step": 0, "time": NOW} | {f"m@{n}": 1.0 for n in range(300)}])
    copy.end("finished")
    notes = look(copy).notes.splitlines()
    assert notes[0] == "metric 'm@0' is 'm_0' here"
    assert notes[-1] == "and more of these"
    assert len(notes) < 50


# ------------------------------------------------------------------------------- going on


def test_a_run_whose_state_was_lost_is_found_again(run, mlflow_server, look):
    run.log_metrics({"acc@1": 1.0, "acc#1": 2.0}, step=0)
    run.end_run()
    first = Copy(mlflow_server.uri, run).send_all()
    second = Copy(mlflow_server.uri, run)
    assert second.start(rows=1) == 0
    assert look(second).run.info.status == "RUNNING"
    second.send_rows()
    second.end()
    assert second.remote_id == first.remote_id
    assert len(look(second).run.data.metrics) == 2
    assert look(second).run.info.status == "FINISHED"


def test_a_run_goes_on_by_its_kept_state(run, mlflow_server, look):
    copy = Copy(mlflow_server.uri, run)
    assert copy.start() is None
    copy.backend.log_batch([{"step": 0, "time": NOW, "acc@1": 1.0, "acc_5": 2.0}])
    again = Copy(mlflow_server.uri, run, state=json.loads(json.dumps(copy.state)))
    assert again.start(rows=1, attempt=2) is None
    again.backend.log_batch([{"step": 1, "time": NOW, "acc@1": 3.0, "acc@5": 4.0}])
    seen = look(again)
    assert again.remote_id == copy.remote_id
    assert len(seen.points("acc_1")) == 2
    assert len(seen.points("acc_5")) == 1, "a name of its own is not given to another"
    assert len(seen.run.data.metrics) == 3


def test_rows_for_another_place_are_sent_from_the_start(run, mlflow_server, tmp_path):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    other = Copy(mlflow_server.uri, run, state=dict(copy.state), experiment_name="elsewhere")
    assert other.start(rows=5) == 0
    assert other.remote_id != copy.remote_id


def test_a_copy_that_was_deleted_in_mlflow_is_not_written_to(run, mlflow_server, look):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    look(copy).client.delete_run(copy.remote_id)
    with pytest.raises(BackendError, match="mlflow runs restore --run-id"):
        copy.start(rows=1)


def test_a_deleted_experiment_is_told(run, mlflow_server, look):
    copy = Copy(mlflow_server.uri, run, experiment_name="thrown away")
    copy.start()
    look(copy).client.delete_experiment(copy.state["experiment_id"])
    with pytest.raises(BackendError, match="'thrown away' was deleted in MLflow"):
        Copy(mlflow_server.uri, run, experiment_name="thrown away").start()


def test_runs_that_start_at_once_share_one_new_experiment(make, mlflow_server):
    tracker = make("at once")
    copies = [Copy(mlflow_server.uri, tracker.start_run()) for _ in range(4)]
    threads = [threading.Thread(target=copy.start) for copy in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({copy.state["experiment_id"] for copy in copies}) == 1
    assert len({copy.remote_id for copy in copies}) == 4


def test_a_server_killed_in_the_middle_and_restarted_has_the_same_in_the_end(
    run, mlflow_server, look
):
    for step in range(1500):
        run.log_metrics({"loss": step / 7}, step=step)
    run.end_run()
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    copy.send_rows(0, 500)
    mlflow_server.kill()
    calls = (
        lambda: copy.send_rows(500, 1000),
        lambda: copy.backend.log_params({"lr": 0.1}),
        lambda: copy.backend.set_tags({"a": "b"}),
        lambda: copy.backend.log_artifact(copy.folder / "summary.json", "summary.json"),
        lambda: copy.end(),
        lambda: copy.start(),
        copy.backend.check_connection,
    )
    for call in calls:
        with pytest.raises(BackendUnavailableError, match="does not answer"):
            call()
    mlflow_server.start()
    copy.start(rows=500)
    copy.backend.log_params({"lr": 0.1})
    copy.send_rows(500)
    copy.end()
    seen = look(copy)
    assert same(seen.points("loss"), logged(copy.rows(), "loss"))
    assert (seen.params, seen.run.info.status) == ({"lr": "0.1"}, "FINISHED")


# --------------------------------------------------------------------------- databases


@pytest.mark.parametrize("form", ["./mlruns", "file:./mlruns", "sqlite:///mlruns/mlflow.db", None])
def test_a_folder_becomes_a_database_with_the_files_beside_it(
    form, make, mlflow, look, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow_service, "_said", set())
    with make("local") as tracker:
        run = tracker.start_run("exp")
        run.log_metrics({"loss": math.nan, "acc": 0.5}, step=1)
        run.log_text("hello", "greeting")
        run.log_model({"w": [1.0]})
    capsys.readouterr()
    copy = Copy(form, run)
    folder = tmp_path if form is None else tmp_path / "mlruns"
    assert copy.uri == f"sqlite:///{folder}/mlflow.db"
    assert ("MLflow has closed its file store" in capsys.readouterr().err) == (
        form in ("./mlruns", "file:./mlruns")
    )
    monkeypatch.chdir("/")
    copy.send_all()
    seen = look(copy)
    assert same(seen.points("acc"), logged(copy.rows(), "acc"))
    assert seen.run.info.artifact_uri.startswith(f"file://{folder}/mlartifacts/")
    assert seen.content("artifacts/greeting.txt", tmp_path) == b"hello"
    (version,) = seen.client.search_model_versions("name='local-model'")
    assert version.run_id == copy.remote_id
    assert "url" not in copy.state


def test_the_address_may_come_from_mlflows_variable(mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org:5000/")
    assert MLflowBackend().options["tracking_uri"] == "http://mlflow.example.org:5000"
    assert MLflowBackend("databricks://team").options["tracking_uri"] == "databricks://team"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    with pytest.raises(BackendError, match="MLFLOW_TRACKING_URI is 'localhost:5000'"):
        MLflowBackend()
    assert MLflowBackend("databricks").options["tracking_uri"] == "databricks"


def test_the_default_is_the_database_that_mlflow_itself_opens_there(mlflow, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = MLflowBackend().options["tracking_uri"].removeprefix("sqlite:///")
    from mlflow.store.tracking import DEFAULT_TRACKING_URI

    assert os.path.relpath(place) == DEFAULT_TRACKING_URI.removeprefix("sqlite:///")


def test_a_notice_about_a_folder_comes_once(tmp_path, monkeypatch, capsys, mlflow):
    monkeypatch.setattr(mlflow_service, "_said", set())
    for _ in range(2):
        MLflowBackend(tmp_path / "mlruns")
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("localhost:5000", r"Write an address such as .* Did you mean 'http://localhost:5000'\?"),
        ("ftp://ann:pw@host/x", r"tracking_uri is 'ftp://host/x'\. Write an address"),
        ("postgresql://host/db", "Write an address such as"),
        ("http://", "names no server"),
        ("http://host:port", "names no server"),
        ("https://ho st", "names no server"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///folder/", "names no file"),
        ("file://elsewhere/mlruns", "a folder of another machine"),
        (5000, "tracking_uri is 5000"),
    ],
)
def test_an_address_of_another_form_is_refused(address, message, mlflow):
    with pytest.raises(BackendError, match=message):
        MLflowBackend(address)


def test_a_file_is_no_folder(tmp_path, mlflow):
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(BackendError, match=r"is a file\. Write a database as 'sqlite:///"):
        MLflowBackend(tmp_path / "mlflow.db")


@pytest.mark.parametrize("name", ["", " ", "x" * 501, 7])
def test_an_experiment_without_a_usable_name_is_refused(name):
    with pytest.raises(BackendError, match=r"experiment_name is .*Write 1 to 500 characters"):
        MLflowBackend("http://localhost", name)


@pytest.mark.parametrize("missing", ["mlflow", "sqlalchemy", "alembic"])
def test_a_missing_package_is_named_with_its_install_line(missing, monkeypatch, tmp_path):
    there = mlflow_service.is_installed
    monkeypatch.setattr(
        mlflow_service, "is_installed", lambda package: package != missing and there(package)
    )
    line = rf"needs the package {missing}.*pip install 'experiment_tracking\[mlflow\]'"
    with pytest.raises(MissingPackageError, match=line):
        MLflowBackend(f"sqlite:///{tmp_path}/m.db")


def test_joining_imports_neither_mlflow_nor_what_it_needs(tmp_path):
    code = (
        "import sys; from experiment_tracking.backends.mlflow import MLflowBackend\n"
        "MLflowBackend('http://localhost:5000'); MLflowBackend('sqlite:///m.db')\n"
        "MLflowBackend('sqlite:///m.db').check_connection()\n"
        "print(*{'mlflow', 'sqlalchemy', 'requests', 'logging'} & set(sys.modules))"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == []


# ------------------------------------------------------------------------------ outages


class Stub(http.server.BaseHTTPRequestHandler):
    """A service that answers everything in one way."""

    def answer(self):
        self.server.seen.append(self.headers.get("Authorization"))
        if self.server.code is None:
            self.server.released.wait()
            return
        self.send_response(self.server.code)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *args):
        pass


@pytest.fixture
def stub():
    """Make a service that answers with a code and a body, or never, with None."""
    with contextlib.ExitStack() as stack:

        def start(code, body=b"{}"):
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
            server.code, server.body = code, body
            server.seen, server.released = [], threading.Event()
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            for undo in (server.server_close, thread.join, server.shutdown, server.released.set):
                stack.callback(undo)
            return server

        yield start


def address(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "x"}'), (503, b"busy"), (502, b""),
        (429, b'{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "x"}'), (408, b""),
        (200, b"<html>Log in to this network</html>"), (200, b'{"half": '),
    ],
)  # fmt: skip
def test_a_service_in_trouble_is_away(code, body, stub, run, mlflow):
    with pytest.raises(BackendUnavailableError, match="does not answer"):
        Copy(address(stub(code, body)), run).start()


def test_a_service_that_hangs_is_away(stub, run, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(mlflow_service, "_ANSWER_WITHIN_S", 0.3)
    copy = Copy(address(stub(None)), run)
    for call in (copy.start, copy.backend.check_connection):
        with pytest.raises(BackendUnavailableError, match="does not answer"):
            call()


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_service_that_denies_access_has_refused(code, stub, run, mlflow):
    copy = Copy(address(stub(code, b"who are you")), run)
    with pytest.raises(BackendError, match=r"refused .*who are you"):
        copy.start()
    with pytest.raises(BackendError, match=f"answers {code} .*MLFLOW_TRACKING_USERNAME"):
        copy.backend.check_connection()


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_check_meets_a_service_in_trouble(code, stub, mlflow):
    with pytest.raises(BackendUnavailableError, match="does not answer"):
        check_backend(MLflowBackend(address(stub(code)))).check_connection()


def test_nobody_at_the_address_is_away(run, mlflow):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        copy = Copy(f"http://ann:secret@127.0.0.1:{taken.getsockname()[1]}", run)
        place = copy.uri.replace("ann:secret@", "")
        for call in (copy.start, copy.backend.check_connection):
            with pytest.raises(BackendUnavailableError) as caught:
                call()
            # And not the five lines in which four libraries say the same.
            told = f"MLflow at {place} does not answer: {os.strerror(errno.ECONNREFUSED)}"
            assert str(caught.value) == told
    assert "secret" not in json.dumps(copy.state)


def test_a_database_in_a_folder_that_cannot_be_made_is_away(run, mlflow, tmp_path):
    (tmp_path / "file").touch()
    copy = Copy(f"sqlite:///{tmp_path}/file/below/m.db", run)
    for call in (copy.start, copy.backend.check_connection):
        with pytest.raises(BackendUnavailableError, match="does not answer"):
            call()


def test_a_check_lets_a_service_in_that_answers(mlflow_server):
    assert check_backend(MLflowBackend(mlflow_server.uri)).check_connection() is None


def basic(login):
    return "Basic " + base64.b64encode(login.encode()).decode()


@pytest.mark.parametrize(
    ("login", "variables", "sent"),
    [
        ("ann:s%20t@", {}, basic("ann:s t")),
        ("", {"USERNAME": "ann", "PASSWORD": "pw"}, basic("ann:pw")),
        ("", {"TOKEN": "t0k"}, "Bearer t0k"),
        ("", {}, None),
    ],
)  # fmt: skip
def test_a_check_logs_in_as_mlflow_would(login, variables, sent, stub, mlflow, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    server = stub(200)
    uri = f"http://{login}127.0.0.1:{server.server_port}"
    check_backend(MLflowBackend(uri)).check_connection()
    mlflow.MlflowClient(uri).search_experiments()
    assert server.seen == [sent, sent]


def test_a_slow_service_is_sent_less_at_once(run, mlflow_server, monkeypatch):
    copy = Copy(mlflow_server.uri, run)
    copy.start()
    rows = [{"step": step, "time": NOW, "loss": 1.0} for step in range(1000)]
    sizes = []
    client = copy.backend.backend._client
    send = type(client).__getattr__(client, "log_batch")

    def slow(remote_id, metrics):
        sizes.append(len(metrics))
        if len(metrics) > 300:
            raise BackendUnavailableError("too slow")
        return send(remote_id, metrics=metrics)

    monkeypatch.setattr(client, "log_batch", slow, raising=False)
    for _ in range(2):
        with pytest.raises(BackendUnavailableError):
            copy.backend.log_batch(rows)
    copy.backend.log_batch(rows)
    assert sizes == [1000, 500, 250, 250, 250, 250]


# ------------------------------------------------------------- what every backend must do


class TestEveryBackendsContract(BackendTests):
    many_rows = 1_200

    @pytest.fixture(autouse=True)
    def _server(self, mlflow_server, mlflow):
        self.uri, self.client = mlflow_server.uri, mlflow.MlflowClient(mlflow_server.uri)

    def make_backend(self, folder):
        return MLflowBackend(self.uri, folder.name)

    def make_unreachable(self, folder):
        return MLflowBackend("http://127.0.0.1:9", folder.name)

    def stored_name(self, name):
        return allowed_name(name)

    def stored_value(self, value):
        return math.copysign(LARGEST, value) if math.isinf(value) else value

    def stored_status(self, status):
        return {"finished": "FINISHED", "killed": "KILLED"}.get(status, "FAILED")

    def read(self, backend, folder):
        remote_id = self.run.state["run_id"]
        run = self.client.get_run(remote_id)
        rows = [
            (point.step, name, point.value, point.timestamp / 1000)
            for name in run.data.metrics
            for point in self.client.get_metric_history(remote_id, name)
        ]
        files = self.files(remote_id, folder / "downloaded")
        models = {}
        for path, content in files["models"].items():
            model, _, name = path.rpartition("/")
            models.setdefault(model, {})[name] = content
        return Given(
            params=dict(run.data.params),
            rows=rows,
            figures={
                path.removesuffix(".png"): files["figures"][path] for path in files["figures"]
            },
            artifacts=files["artifacts"],
            models=models,
            tags={
                name: text
                for name, text in run.data.tags.items()
                if not name.startswith(("mlflow.", "experiment_tracking."))
            },
            status=run.info.status,
        )

    def files(self, remote_id, into):
        """Content of all files by the folder at the top and the path below it."""
        into.mkdir(exist_ok=True)
        found = {top: {} for top in ("artifacts", "figures", "models", "params")}
        if self.client.list_artifacts(remote_id):
            top = Path(self.client.download_artifacts(remote_id, "", str(into)))
            for path in filter(Path.is_file, top.rglob("*")):
                kind, _, name = path.relative_to(top).as_posix().partition("/")
                found[kind][name] = path.read_bytes()
        return found
