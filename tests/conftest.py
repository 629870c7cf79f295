"""What every test starts from: no settings of the machine's, no run left open by a neighbour."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiment_tracking import ExperimentTracker, endings
from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.backends.mlflow_service import import_mlflow
from experiment_tracking.folder.check import check
from experiment_tracking.registry.record import RunRecord

REPOSITORY = str(Path(__file__).parents[1])

FULL_LANE = "EXPERIMENT_TRACKING_FULL_LANE"

_SETTINGS = (
    "EXPERIMENT_TRACKING_ROOT", "EXPERIMENT_TRACKING_RUN", "RANK", "WORLD_SIZE", "LOCAL_RANK",
    "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "EXPERIMENT_TRACKING_SEED",
    "EXPERIMENT_TRACKING_HANDOVER", "EXPERIMENT_TRACKING_SCRATCH_ROOT",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _clean_process(monkeypatch, tmp_path_factory):
    for name in _SETTINGS:
        monkeypatch.delenv(name, raising=False)
    # What a test reads is kept with the test, not with what its user has read before.
    monkeypatch.setenv("EXPERIMENT_TRACKING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    yield
    for writer in endings.open_writers():
        writer.close("finished")


@pytest.fixture
def plain_git(monkeypatch, tmp_path):
    """Git without the settings of whoever runs the tests, nor the repository of a hook."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ann@example.org")


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


class Terminal:
    """A folder to work in, with the command line at hand."""

    def __init__(self, folder, root):
        self.folder, self.root = folder, root

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def environment(self, **variables):
        """Return the variables of a process; those that are None are not set."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("EXPERIMENT_TRACKING_")}
        kept["EXPERIMENT_TRACKING_ROOT"] = str(self.root)
        kept["PYTHONPATH"] = REPOSITORY
        kept["PATH"] = os.path.dirname(sys.executable) + os.pathsep + kept.get("PATH", "")
        return {k: v for k, v in (kept | variables).items() if v is not None}

    def start(self, *words, **options):
        variables = options.pop("variables", {})
        options = {
            "cwd": self.folder, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
            "text": True, **options,
        }  # fmt: skip
        return subprocess.Popen(words, env=self.environment(**variables), **options)

    def run(self, *words, **options):
        """Run a command; return its exit code, stdout and stderr."""
        process = self.start(*words, **options)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def experiments(self, *words, **options):
        return self.run(sys.executable, "-m", "experiment_tracking", *words, **options)

    def shell(self, script, **options):
        """Run lines of sh in which ``experiments`` is ours."""
        ours = f'experiments() {{ "{sys.executable}" -m experiment_tracking "$@"; }}\n'
        return self.run("sh", "-c", ours + script, **options)

    def records(self, project):
        records = map(RunRecord, (self.root / project).iterdir())
        return sorted(records, key=lambda record: record.created_at)

    def record(self, project):
        """Return the only run of a project."""
        (record,) = self.records(project)
        return record


@pytest.fixture
def terminal(tmp_path, root):
    folder = tmp_path / "work"
    folder.mkdir()
    return Terminal(folder, root)


class Service:
    """A service that is a folder, and what stands in it; see ``tofile.py``."""

    def __init__(self, folder, import_path):
        self.folder, self.import_path = folder, import_path

    def backend(self, token=None):
        from tofile import ToFile

        return ToFile(str(self.folder), token)

    def mood(self, word=""):
        """Have it answer (nothing), or do as a word of ``ToFile.note`` says."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "mood.new").write_text(word)
        (self.folder / "mood.new").replace(self.folder / "mood")

    def calls(self, run_id, *wanted):
        """Return the calls that it had for a run, all or those of that name."""
        path = self.folder / f"{run_id}.log"
        lines = path.read_text().splitlines() if path.exists() else []
        calls = map(json.loads, lines)
        return [call for call in calls if not wanted or call["call"] in wanted]

    def steps(self, run_id):
        return [call["step"] for call in self.calls(run_id, "row")]

    def pids(self):
        """Return which processes have called."""
        ids = [path.stem for path in self.folder.glob("*.log")]
        return {call["pid"] for run_id in ids for call in self.calls(run_id)}


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A package that offers the backend ``tofile``, installed where children find it as well."""
    package = tmp_path / "installed"
    facts = package / "tofile-1.0.dist-info"
    facts.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("tofile.py"), package)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tofile\nVersion: 1.0\n")
    offered = "[experiment_tracking.backends]\ntofile = tofile:ToFile\n"
    (facts / "entry_points.txt").write_text(offered)
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("TOFILE_FOLDER", str(tmp_path / "service"))
    yield Service(tmp_path / "service", os.pathsep.join((str(package), REPOSITORY)))
    for writer in endings.open_writers():
        writer.close("finished", hurry=True)
    if mirroring := sys.modules.get("experiment_tracking.mirroring"):
        mirroring.child().end()
    sys.modules.pop("tofile", None)  # a capture would find it among the modules


# ---------------------------------------------------------------------- real services


def _neighbour(name):
    """Import a module of the folder ``backends``, which is no package."""
    full_name = f"backends_{name}"
    if full_name not in sys.modules:
        path = Path(__file__).with_name("backends") / f"{name}.py"
        spec = importlib.util.spec_from_file_location(full_name, path)
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


# ---------------------------------------------------------------------- waiting, and the lane


@pytest.fixture
def until():
    """Wait for a condition; it has to come about."""

    def until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "waited a minute for it"
            time.sleep(0.01)

    return until


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
