import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiment_tracking.backends import mlflow as functions
from experiment_tracking.backends import mlflow_config, mlflow_service
from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.errors import BackendError, BackendUnavailableError, MissingPackageError

# Not imported to find out: its telemetry would start before it is switched off.
pytestmark = pytest.mark.skipif(
    not is_installed("mlflow"), reason="pip install 'experiment_tracking[mlflow]'"
)

REPOSITORY = Path(__file__).parents[2]
RUN_CFG = {
    "lr": 0.1,
    "model": {"type": "mlp", "width (max)": 64},
    "data": {"dataset_name": "mnist"},
}


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(mlflow_service, "_said", set())


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/m.db"


@pytest.fixture
def cfg(mlflow, database):
    section = SimpleNamespace(
        enabled=True, tracking_uri=database, experiment_name="seeds", run_name=None,
        log_artifacts=True,
    )  # fmt: skip
    return SimpleNamespace(mlflow=section, env="dev", seed=7)


def client_of(cfg):
    return functions.get_mlflow_client(cfg)


def calls(cfg):
    """Every function, as a program calls it."""
    with functions.start_run_with_config(cfg, RUN_CFG) as run:
        functions.log_config(cfg, RUN_CFG)
        functions.log_common_tags(cfg, RUN_CFG)
        functions.log_metrics({"loss": 0.5}, step=1)
        functions.log_artifacts_from_paths(["there is none"])
        assert run is None
    assert functions.set_experiment_from_config(cfg) is None
    assert functions.get_mlflow_client(cfg) is None
    assert functions.register_best_model(None, "runs:/none/model", "m") is None


@pytest.mark.parametrize(
    "cfg",
    [
        {}, None, {"mlflow": None}, {"mlflow": {}}, {"mlflow": {"enabled": False}},
        {"mlflow": {"enabled": "false"}}, {"mlflow": {"enabled": "0"}},
        SimpleNamespace(mlflow=SimpleNamespace(enabled=False)), argparse.Namespace(lr=1),
    ],
)  # fmt: skip
def test_disabled_functions_do_nothing_and_one_notice_says_so(cfg, capsys):
    calls(cfg)
    calls(cfg)
    notices = capsys.readouterr().err.splitlines()
    assert len([line for line in notices if "in the config" in line or "has no" in line]) == 1
    assert len(notices) == len(set(notices))


def test_a_program_with_mlflow_disabled_never_imports_it():
    code = (
        "import sys; from experiment_tracking.backends.mlflow import *\n"
        "cfg = {'mlflow': {'enabled': False}}\n"
        "with start_run_with_config(cfg, {}): log_config(cfg, {}); log_metrics({'loss': 0.5})\n"
        "print(get_mlflow_client(cfg), 'mlflow' in sys.modules)"
    )
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"]}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == "None False\n"


def test_enabled_but_not_installed_is_an_error_with_the_install_line(cfg, monkeypatch):
    monkeypatch.setattr(mlflow_config, "is_installed", lambda package: False)
    assert not functions.is_mlflow_available()
    for call in (
        functions.get_mlflow_client,
        functions.set_experiment_from_config,
        lambda cfg: functions.start_run_with_config(cfg, {}),
        lambda cfg: functions.log_config(cfg, {}),
        lambda cfg: functions.log_common_tags(cfg, {}),
    ):
        with pytest.raises(MissingPackageError, match=r"experiment_tracking\[mlflow\]"):
            call(cfg)


def test_mlflow_is_available_where_it_is_installed():
    assert functions.is_mlflow_available()


def test_a_run_by_config_is_in_mlflow_as_the_config_says(cfg, mlflow, tmp_path):
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "deep" / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    with functions.start_run_with_config(cfg, RUN_CFG, run_name="first") as run:
        assert isinstance(run, mlflow.ActiveRun)
        functions.log_config(cfg, RUN_CFG)
        functions.log_metrics({"loss": 0.5, "acc@1": 0.25}, step=3)
        functions.log_artifacts_from_paths([tmp_path / "out", str(tmp_path / "b.txt")], "results")
        functions.log_artifacts_from_paths(tmp_path / "b.txt")
    client = client_of(cfg)
    seen = client.get_run(run.info.run_id)
    assert (seen.info.run_name, seen.info.status) == ("first", "FINISHED")
    assert client.get_experiment(seen.info.experiment_id).name == "seeds"
    assert seen.data.params == {
        "lr": "0.1", "model.type": "mlp", "model.width _max_": "64", "data.dataset_name": "mnist",
    }  # fmt: skip
    assert seen.data.metrics == {"loss": 0.5, "acc_1": 0.25}
    assert client.get_metric_history(seen.info.run_id, "loss")[0].step == 3
    assert {
        "env": "dev", "seed": "7", "model_type": "mlp", "dataset_name": "mnist",
        "python_version": sys.version.split()[0],
    }.items() <= seen.data.tags.items()  # fmt: skip
    assert "framework" not in seen.data.tags
    files = {place: [f.path for f in client.list_artifacts(seen.info.run_id, place)]
             for place in ("", "results", "results/out/deep")}  # fmt: skip
    assert files == {
        "": ["b.txt", "config", "results"],
        "results": ["results/b.txt", "results/out"],
        "results/out/deep": ["results/out/deep/a.txt"],
    }
    config = client.download_artifacts(seen.info.run_id, "config/config.json", str(tmp_path))
    assert json.loads(Path(config).read_text()) == {
        "config": {"env": "dev", "seed": 7}, "run": RUN_CFG,
    }  # fmt: skip


def test_a_config_may_be_of_any_form(cfg, mlflow):
    @dataclasses.dataclass
    class Optimizer:
        name: str = "adam"

    class Section:
        def __init__(self, **values):
            vars(self).update(values)

    forms = [
        {"opt": {"name": "adam"}, "path": Path("x")},
        SimpleNamespace(opt=SimpleNamespace(name="adam"), path="x"),
        argparse.Namespace(opt=Optimizer(), path=Path("x")),
        Section(opt=Section(name="adam"), path="x"),
    ]
    for form in forms:
        with functions.start_run_with_config(cfg, form) as run:
            functions.log_config(cfg, form)
        params = client_of(cfg).get_run(run.info.run_id).data.params
        assert params == {"opt.name": "adam", "path": "x"}


def test_a_run_that_names_itself_needs_no_other_name(cfg):
    for run_cfg, section_name, expected in (
        ({"name": "mine"}, None, "mine"),
        (SimpleNamespace(run_name="own"), None, "own"),
        ({"name": "mine"}, "of the section", "of the section"),
    ):
        cfg.mlflow.run_name = section_name
        with functions.start_run_with_config(cfg, run_cfg) as run:
            pass
        assert client_of(cfg).get_run(run.info.run_id).info.run_name == expected


def test_a_run_within_a_run_is_nested(cfg):
    with (
        functions.start_run_with_config(cfg, {}) as outer,
        functions.start_run_with_config(cfg, {}) as inner,
    ):
        functions.log_metrics({"loss": 1.0})
    client = client_of(cfg)
    assert client.get_run(inner.info.run_id).data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert client.get_run(inner.info.run_id).data.metrics == {"loss": 1.0}
    assert client.get_run(outer.info.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (SystemExit(0), "FINISHED"), (SystemExit(), "FINISHED"), (SystemExit(3), "FAILED"),
        (SystemExit("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (ValueError(), "FAILED"),
    ],
)  # fmt: skip
def test_leaving_a_run_sets_the_right_status_and_hides_nothing(end, status, cfg, mlflow):
    with pytest.raises(type(end)), functions.start_run_with_config(cfg, {}) as run:
        raise end
    assert client_of(cfg).get_run(run.info.run_id).info.status == status
    assert mlflow.active_run() is None


def test_a_run_that_was_ended_inside_keeps_that_status(cfg, mlflow):
    with functions.start_run_with_config(cfg, {}) as run:
        mlflow.end_run("KILLED")
    assert client_of(cfg).get_run(run.info.run_id).info.status == "KILLED"


def test_without_log_artifacts_none_are_sent(cfg, tmp_path):
    cfg.mlflow.log_artifacts = False
    (tmp_path / "a.txt").touch()
    with functions.start_run_with_config(cfg, {"lr": 0.1}) as run:
        functions.log_config(cfg, {"lr": 0.1})
        functions.log_artifacts_from_paths([tmp_path / "a.txt"])
    client = client_of(cfg)
    assert client.list_artifacts(run.info.run_id) == []
    assert client.get_run(run.info.run_id).data.params == {"lr": "0.1"}


def test_a_path_that_does_not_exist_is_left_out_with_a_notice(cfg, tmp_path, capsys):
    (tmp_path / "a.txt").touch()
    with functions.start_run_with_config(cfg, {}) as run:
        functions.log_artifacts_from_paths([tmp_path / "gone.txt", tmp_path / "a.txt"])
    assert "gone.txt does not exist" in capsys.readouterr().err
    assert [file.path for file in client_of(cfg).list_artifacts(run.info.run_id)] == ["a.txt"]


def test_a_long_value_is_cut_in_the_params_and_whole_in_the_file(cfg, tmp_path):
    run_cfg = {"text": "x" * 7000}
    with functions.start_run_with_config(cfg, run_cfg) as run:
        functions.log_config(cfg, run_cfg)
    client = client_of(cfg)
    assert len(client.get_run(run.info.run_id).data.params["text"]) == 6000
    config = client.download_artifacts(run.info.run_id, "config/config.json", str(tmp_path))
    assert json.loads(Path(config).read_text())["run"] == run_cfg


def test_the_files_of_a_database_are_beside_it(cfg, database):
    experiment = functions.set_experiment_from_config(cfg)
    folder = Path(database.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert experiment.artifact_location == folder.as_uri()


def test_a_service_that_is_away_is_told_soon(cfg):
    cfg.mlflow.tracking_uri = "http://127.0.0.1:9"
    with pytest.raises(BackendUnavailableError, match=r"does not answer: .* set mlflow\.enabled"):
        functions.start_run_with_config(cfg, {})


def test_an_address_of_another_form_is_refused(cfg):
    cfg.mlflow.tracking_uri = "localhost:5000"
    with pytest.raises(BackendError, match=r"Did you mean 'http://localhost:5000'\?"):
        functions.get_mlflow_client(cfg)


def test_a_plain_folder_of_artifacts_is_registered_as_the_best_model(cfg, mlflow, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"w")
    for number in ("1", "2"):
        with functions.start_run_with_config(cfg, {}) as run:
            functions.log_artifacts_from_paths([tmp_path / "model"])
        uri = f"runs:/{run.info.run_id}/model"
        version = functions.register_best_model(run.info.run_id, uri, "plain v1.2")
        assert (str(version.version), version.run_id) == (number, run.info.run_id)
    into = tmp_path / "into"
    into.mkdir()
    there = mlflow.artifacts.download_artifacts("models:/plain v1.2@best", dst_path=into)
    assert (Path(there) / "weights.bin").read_bytes() == b"w"
    best = client_of(cfg).get_model_version_by_alias("plain v1.2", "best")
    assert str(best.version) == "2"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning:mlflow")  # its own
def test_a_model_that_mlflow_saved_is_registered_as_the_best_model(cfg, mlflow, mlflow_server):
    class Half(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input):
            return [value / 2 for value in model_input]

    cfg.mlflow.tracking_uri = mlflow_server.uri
    with functions.start_run_with_config(cfg, {}) as run:
        mlflow.pyfunc.log_model(name="model", python_model=Half(), pip_requirements=[])
    version = functions.register_best_model(
        run.info.run_id, f"runs:/{run.info.run_id}/model", "half"
    )
    assert str(version.version) == "1"
    assert mlflow.pyfunc.load_model("models:/half@best").predict([4.0]) == [2.0]
