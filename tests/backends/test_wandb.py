"""W&B gets every row once, online or offline, whatever happens on the way; read back as it lies."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from experiment_tracking.backends import wandb_service
from experiment_tracking.backends.catalog import Target, is_installed
from experiment_tracking.backends.interface import check_backend, readable_row
from experiment_tracking.backends.mirror import Mirror, Orders, read_progress
from experiment_tracking.backends.wandb import WandbBackend
from experiment_tracking.backends.wandb_log import WandbLog, find_logs
from experiment_tracking.errors import BackendError, BackendUnavailableError, MissingPackageError
from experiment_tracking.folder.check import check
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.testing import BackendTests, Copy

pytestmark = pytest.mark.skipif(
    not is_installed("wandb"), reason="pip install 'experiment_tracking[wandb]'"
)

REPOSITORY = str(Path(__file__).parents[2])
OWN = ("_step", "_timestamp", "_runtime")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6368000000820081"
    "77cd72b60000000049454e44ae426082"
)

_started = []
"""Backends of a test, which are closed behind it; so one that fails leaves nothing to others."""

FOLLOWS = """
import os, signal, sys
from experiment_tracking.backends import mirror, wandb
from experiment_tracking.backends.catalog import Target
from experiment_tracking.folder.layout import RunFolder

run, mode, dies_in_batch, dies_behind = sys.argv[1:]
mirror._BATCH_ROWS = 100
log_batch, batches = wandb.WandbBackend.log_batch, 0

def dying(self, rows):
    global batches
    batches += 1
    dies = batches == int(dies_in_batch)
    log_batch(self, rows[: len(rows) // 2] if dies and dies_behind == "0" else rows)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)

wandb.WandbBackend.log_batch = dying
mirror.Mirror(RunFolder(run), Target("wandb", {"mode": mode}, "wandb")).run(follow=False)
"""


LOSES_ITS_CORE = """
import contextlib, os, signal, sys, time
import psutil
from experiment_tracking.backends.wandb import WandbBackend

run, mode, goes_on = sys.argv[1:]
rows = [{"step": step, "time": 1e9, "loss": step} for step in range(100)]
state = {}

def start(backend):
    return backend.start_run("r", {}, project="p", run_id="abc", path=run, state=state)

backend = WandbBackend(mode=mode)
start(backend)
backend.log_batch(rows[:50])
((pid, _),) = state["process"]["processes"]
os.kill(pid, signal.SIGKILL)
while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
    time.sleep(0.01)
with contextlib.suppress(OSError):  # W&B may not have noticed.
    backend.log_batch(rows[50:])
if goes_on == "anew behind close":
    backend.close()
if goes_on != "itself":
    backend = WandbBackend(mode=mode)
backend.log_batch(rows[start(backend):])
backend.end_run("finished")
"""


ENDS_BEFORE_ITS_CORE = """
import os, signal, sys
from experiment_tracking.backends.wandb import WandbBackend

runs = {}
for name in ("one", "other"):
    runs[name] = WandbBackend(mode="offline")
    path, state = os.path.join(sys.argv[1], name), {}
    runs[name].start_run(name, {}, project="p", run_id=name, path=path, state=state)
runs["one"].log_batch([{"step": step, "time": 1e9, "loss": step} for step in range(1000)])
runs["one"].end_run("finished")
((pid, _),) = state["process"]["processes"]
os.kill(pid, signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """A home and a working folder in which, as among the processes, nothing may be left."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(work)
    yield
    for backend in _started:
        backend.close()
    _started.clear()
    assert [*home.rglob("*"), *work.rglob("*")] == []
    assert [p for p in psutil.Process().children() if p.name().startswith("wandb")] == []


@pytest.fixture
def online(wandb_server, monkeypatch):
    """The stand-in for the service, where W&B is sent."""
    for name, value in wandb_server.variables().items():
        monkeypatch.setenv(name, value)
    return wandb_server


def mirror(run, follow=False, orders=None, **options):
    """Copy a run as the library does; tell how far that came."""
    target = Target("wandb", options, "wandb")
    return Mirror(RunFolder(run.path), target, orders=orders).run(follow=follow)


def logs(run):
    return [WandbLog(path) for path in find_logs(os.path.join(run.path, "backends"))]


def rows_written(run):
    return [row.values for log in logs(run) for row in log.rows()]


def rows_kept(run):
    """The rows of the run's history as W&B should have them."""
    rows = [readable_row(row) for row in HistoryReader(RunFolder(run.path).history()).rows()]
    renamed = [{"_timestamp" if key == "time" else key: row[key] for key in row} for row in rows]
    return [{f"metric:{k}" if k == "_step" else k: row[k] for k in row} for row in renamed]


def metrics_only(rows):
    """Rows as they were logged: without figures, and without what W&B adds."""
    rows = [row for row in rows if not any(key.startswith("figures/") for key in row)]
    return [{k: row[k] for k in row if k not in ("_step", "_runtime", "figures")} for row in rows]


def same(given, found):
    """Equal row for row; NaN equals itself, and 1.0 is written as 1."""

    def plain(rows):
        return [{k: repr(float(v)) for k, v in row.items()} for row in rows]

    return plain(given) == plain(found)


def picture_of(run):
    (path,) = Path(run.path, "figures").rglob("*.png")
    return path.read_bytes()


def sync(run, server):
    """Send the offline folders with W&B's own command; return what the service has then."""
    folders = sorted(Path(run.path, "backends", "wandb").glob("offline-run-*"))
    command = [str(Path(sys.executable).with_name("wandb")), "sync", *map(str, folders)]
    environment = {**os.environ, **server.variables(), "WANDB_CACHE_DIR": str(folders[0] / "tmp")}
    subprocess.run(
        command, env=environment, cwd=folders[0], check=True, capture_output=True, timeout=60
    )
    return server.runs[run.id]


# Joining ------------------------------------------------------------------------------------------


def test_without_a_login_it_writes_offline_and_says_so_once_where_it_does(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(wandb_service, "_told", set())
    assert [WandbBackend().mode, WandbBackend().mode] == ["offline", "offline"]
    assert capsys.readouterr().err == ""
    for name in ("a", "b"):
        started(tmp_path, name=name, mode=None)
    told = capsys.readouterr().err
    assert told.count("written offline") == 1
    assert "wandb login, then experiments push RUN" in told
    assert WandbBackend().advice in told


def test_who_asks_for_offline_is_told_nothing(monkeypatch):
    assert WandbBackend(mode="offline").advice == ""
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert WandbBackend().advice == ""


def test_a_key_in_the_environment_is_a_login(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert WandbBackend().mode == "online"


def test_a_key_in_netrc_is_a_login_for_its_host_alone(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password abc\n")
    (tmp_path / "netrc").chmod(0o600)
    assert WandbBackend().mode == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert (WandbBackend().mode, wandb_service.key()) == ("online", "abc")


def test_the_address_may_stand_in_wandbs_settings(monkeypatch, tmp_path):
    assert wandb_service.address() == "https://api.wandb.ai"
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.org/\n")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    assert wandb_service.address() == "https://wandb.example.org"


@pytest.mark.parametrize(
    ("word", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")]
)
def test_the_mode_may_stand_in_the_environment(monkeypatch, word, mode):
    monkeypatch.setenv("WANDB_MODE", word)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert WandbBackend().mode == mode


def test_a_mode_that_is_given_counts_above_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert WandbBackend(mode="offline").mode == "offline"


def test_an_empty_mode_is_none(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert WandbBackend().mode == "online"


def test_an_unknown_mode_is_refused_and_told_where_it_stands(monkeypatch):
    with pytest.raises(BackendError, match=r"the mode is 'of'\. Allowed are 'online', 'offline'"):
        WandbBackend(mode="of")
    monkeypatch.setenv("WANDB_MODE", "on")
    with pytest.raises(BackendError, match=r"\$WANDB_MODE is 'on'"):
        WandbBackend()


@pytest.mark.parametrize("name", ["lab/mnist", "a:b", "x" * 129, "a\nb", " a", 3])
def test_a_name_that_wandb_cannot_have_is_refused_at_joining(name):
    with pytest.raises(BackendError, match=r"the project is .* entity are given apart"):
        WandbBackend(project=name, mode="offline")
    with pytest.raises(BackendError, match="the entity is "):
        WandbBackend(entity=name, mode="offline")


def test_a_name_from_the_environment_is_checked_and_goes_along(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mnist")
    assert WandbBackend(mode="offline").options == {"project": "mnist", "mode": "offline"}
    assert WandbBackend("cifar", mode="offline").options["project"] == "cifar"
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    with pytest.raises(BackendError, match=r"\$WANDB_PROJECT is 'a/b'"):
        WandbBackend(mode="offline")


def test_where_a_copy_is_made_is_told_without_credentials(monkeypatch):
    assert WandbBackend().place == "offline"
    assert WandbBackend("mnist", "lab").place == "offline, entity lab, project mnist"
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "https://ann:secret@wandb.example.org/")
    assert WandbBackend("mnist").place == "online at https://wandb.example.org, project mnist"
    assert repr(WandbBackend()) == "WandbBackend(online at https://wandb.example.org)"


def test_online_without_a_login_is_refused_with_what_to_do():
    with pytest.raises(BackendError, match="wandb login"):
        WandbBackend(mode="online")


def test_a_missing_package_is_told_although_a_folder_has_its_name(monkeypatch, tmp_path):
    (tmp_path / "other" / "wandb").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "other")])
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "wandb")
    with pytest.raises(MissingPackageError, match=r"pip install 'experiment_tracking\[wandb\]'"):
        WandbBackend()


def test_joining_neither_imports_wandb_nor_asks_anyone(monkeypatch):
    code = (
        "import sys; from experiment_tracking.backends.wandb import WandbBackend; "
        "WandbBackend('p', mode='online'); sys.exit('wandb' in sys.modules)"
    )
    known = {"PYTHONPATH": REPOSITORY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    known["WANDB_API_KEY"] = "k" * 40
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **known}, check=True)


def test_the_connection_is_there_when_the_service_takes_the_key(online):
    WandbBackend(mode="online").check_connection()


def test_a_key_that_is_refused_is_the_callers_mistake(online, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    with pytest.raises(BackendError, match="refuses the key"):
        WandbBackend(mode="online").check_connection()


def test_a_service_that_does_not_answer_is_away(online):
    online.pause()
    with pytest.raises(BackendUnavailableError, match="does not answer"):
        WandbBackend(mode="online").check_connection()


def test_what_keeps_it_away_is_told_in_the_systems_words(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with pytest.raises(BackendUnavailableError) as told:
        WandbBackend().check_connection()
    assert str(told.value) == "W&B at http://127.0.0.1:9 does not answer: Connection refused"


def test_offline_there_is_nobody_to_ask():
    WandbBackend(mode="offline").check_connection()


# The contract -------------------------------------------------------------------------------------


class TestEveryBackendsContract(BackendTests):
    many_rows = 1_200

    @pytest.fixture(autouse=True)
    def _nobody_there(self, monkeypatch):
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)

    def make_backend(self, folder):
        return WandbBackend(mode="offline")

    def make_unreachable(self, folder):
        return WandbBackend(mode="online")

    def stored_name(self, name):
        return f"metric:{name}" if name in ("step", "time", "attempt", "rank") else name

    def stored_status(self, status):
        return {"finished": 0, "failed": 1, "killed": 255, "crashed": 137}[status]

    def read(self, backend, folder):
        written = logs(self.run)
        contents = [log.read() for log in written]
        kept = {entry["artifact"]: key for key, entry in self.artifacts_kept().items()}
        files = {kind: {} for kind in ("artifact", "model")}
        for artifact in [artifact for one in contents for artifact in one.artifacts]:
            name = kept[artifact.name].partition(":")[2]
            found = {file.path: Path(file.local_path).read_bytes() for file in artifact.files}
            files[artifact.type][name] = found
        last = contents[-1]
        last.config.pop("_wandb")
        return Copy(
            params=last.config,
            rows=[point for log in written for row in log.rows() for point in self.points(row)],
            figures=dict(self.figures(written)),
            artifacts={
                name if len(found) == 1 else f"{name}/{inner}": content
                for name, found in files["artifact"].items()
                for inner, content in found.items()
            },
            models=files["model"],
            tags={tag.partition("=")[0]: tag.partition("=")[2] for tag in last.run.tags},
            status=last.exit_code,
        )

    def artifacts_kept(self):
        return self.run.state.get("artifacts", {})

    def points(self, row):
        for name, value in row.values.items():
            if name not in (*OWN, "step", "attempt") and not name.startswith("figures/"):
                yield row.values["step"], name, value, row.values["_timestamp"]

    def figures(self, written):
        for log in written:
            for row in log.rows():
                for name, value in row.values.items():
                    if name.startswith("figures/"):
                        path = Path(log.path).parent / "files" / value["path"]
                        yield name.removeprefix("figures/"), path.read_bytes()


# Offline ------------------------------------------------------------------------------------------


@pytest.fixture
def full_run(make):
    """A run with all that a run can have."""
    tracker = make("digits", config={"net": {"depth": 3, "act": "relu"}, "lr": 0.1, "x.y": None})
    with tracker.start_run(
        "first try", tags={"sweep": "a", "fast": "", "long": "x" * 99}, parent="abcdef0123456789"
    ) as run:
        run.define_metric("loss", goal="min")
        picked = random.Random(7)
        for number in range(2_000):
            loss = {7: math.nan, 8: math.inf, 9: -math.inf}.get(number, 1 / (number + 1))
            step = picked.randrange(500) if number % 10 == 0 else number // 2
            run.log_metrics({"loss": loss, "val/acc@5 (β)": number, "_step": 3}, step=step)
            if number == 1_000:
                run.log_image([[0.0, 1.0], [1.0, 0.0]], "val/worst", step=3)
                run.log_text("hello", "notes")
        run.log_dict({"a": 1}, "reports/all")
        run.log_model({"w": [1.0, 2.0]}, "net", metadata={"acc": 0.5})
        run.set_tags({"sweep": "b"})
    return run


def test_a_run_is_written_whole_offline(full_run):
    assert mirror(full_run, mode="offline").complete
    (log,) = logs(full_run)
    rows = [row.values for row in log.rows()]
    assert same(rows_kept(full_run), metrics_only(rows))
    assert [row.step for row in log.rows()] == list(range(len(rows)))
    found = log.read()
    assert (found.run.id, found.run.project, found.run.name) == (
        full_run.id, "digits", "first try",
    )  # fmt: skip
    assert found.run.group == "abcdef0123456789"
    assert found.run.tags == ("sweep=b", "fast", "long=" + "x" * 58 + "…")
    config = {key: value for key, value in found.config.items() if key != "_wandb"}
    assert config == {"net": {"depth": 3, "act": "relu"}, "lr": 0.1, "x.y": None}
    assert [metric.step_metric for metric in found.metrics if metric.glob == "*"] == ["step"]
    assert found.summary["best/loss"] == -math.inf
    assert found.summary["max/val/acc@5 (β)"] == 1_999
    assert (found.exit_code, found.torn, found.problems) == (0, False, [])
    kinds = {
        artifact.name.removeprefix(f"run-{full_run.id}-"): artifact for artifact in found.artifacts
    }
    assert kinds.keys() == {"notes", "reports-all", "net"}
    assert (kinds["net"].type, kinds["net"].metadata["acc"]) == ("model", 0.5)
    (figure,) = [row for row in rows if "figures/val/worst" in row]
    assert figure["step"] == 3
    picture = Path(log.path).parent / "files" / figure["figures/val/worst"]["path"]
    assert picture.read_bytes() == picture_of(full_run)
    assert check(Path(full_run.path).parents[1]) == []


def test_wandbs_own_sync_sends_every_row_once(full_run, wandb_server):
    mirror(full_run, mode="offline")
    served = sync(full_run, wandb_server)
    assert same(rows_kept(full_run), metrics_only(served.rows))
    assert (served.exit_code, served.complete) == (0, True)
    assert served.facts["displayName"] == "first try"
    sent = {name.rpartition("/")[2]: data for name, data in wandb_server.uploads.items()}
    assert sent["notes.txt"] == b"hello"
    assert "model.json" in sent


def test_a_second_push_changes_nothing(make):
    with make("p").start_run() as run:
        run.log_metric("loss", 1.0, step=0)
    mirror(run, mode="offline")
    before = {log.path: Path(log.path).read_bytes() for log in logs(run)}
    assert mirror(run, mode="offline").complete
    assert {log.path: Path(log.path).read_bytes() for log in logs(run)} == before


def test_where_git_stood_is_where_wandb_shows_it(tmp_path):
    backend = started(tmp_path)
    backend.log_environment({"git": {"commit": "c0ffee", "remotes": {"origin": "git@x:y"}}})
    backend.end_run("finished")
    (log,) = logs(backend.run)
    assert (log.read().run.git_commit, log.read().run.git_remote) == ("c0ffee", "git@x:y")


def started(folder, rows=(), state=None, name="exp7", **options):
    """A backend with an open run, called as the library does."""
    path = folder / "root" / "p" / name
    path.mkdir(parents=True, exist_ok=True)
    backend = check_backend(WandbBackend(**{"mode": "offline"} | options))
    _started.append(backend)
    backend.state = {} if state is None else state
    backend.run = type("Run", (), {"path": path, "id": f"{name:0<16}"})
    known = {"project": "p", "run_id": backend.run.id, "path": path, "state": backend.state}
    backend.arrived = backend.start_run(name, {}, **known, rows=0, attempt=1)
    if rows:
        backend.log_batch(rows)
    return backend


def row(step, **metrics):
    return {"step": step, "time": 1763640000.0 + step, **metrics}


def test_figures_that_come_late_take_the_place_of_no_row(tmp_path):
    backend = started(tmp_path, [row(n, loss=n) for n in range(5)])
    picture, page = tmp_path / "a.png", tmp_path / "b.html"
    picture.write_bytes(PNG)
    page.write_text("<p>hi</p>")
    backend.log_figure(picture, "a", 1, timestamp=1.0)
    backend.log_figure(page, "b", None, timestamp=2.0)
    backend.close()
    again = started(tmp_path, state=json.loads(json.dumps(backend.state)))
    assert again.arrived == 5
    again.log_batch([row(5, loss=5)])
    again.log_figure(tmp_path / "gone.png", "c", 9, timestamp=3.0)
    again.end_run("finished")
    rows = rows_written(again.run)
    assert [r["_step"] for r in rows] == list(range(9))
    assert [r["step"] for r in rows] == [0, 1, 2, 3, 4, 1, 4, 5, 9]
    assert metrics_only(rows) == [
        {"step": n, "loss": n, "_timestamp": 1763640000.0 + n} for n in range(6)
    ]


def save_model(folder, number, **known):
    """Save a model as a run does: the new payload, then the document, then the old ones go."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = f"weights-{number:06d}.safetensors"
    (folder / weights).write_text(str(number))
    document = {"format": 1, "name": "net", "step": number, "metadata": {}, "aliases": []} | known
    document["files"] = {"weights": {"file": weights, "size_bytes": len(str(number))}}
    earlier = json.loads((folder / "model.json").read_text()) if number else None
    (folder / "new").write_text(json.dumps(document | {"earlier": [earlier] if earlier else []}))
    os.replace(folder / "new", folder / "model.json")
    for old in folder.glob("weights-*"):
        if int(old.stem[-6:]) < number - 1:
            old.unlink()


def models_written(run):
    """Metadata, aliases and the files' contents of each version of a model in the logs."""
    artifacts = [a for log in logs(run) for a in log.read().artifacts]
    return [
        (a.metadata, a.aliases, {f.path: Path(f.local_path).read_text() for f in a.files})
        for a in artifacts
        if a.type == "model"
    ]


def test_of_a_model_that_is_saved_over_and_over_few_versions_are_kept_and_the_last(tmp_path):
    backend = started(tmp_path)
    model = tmp_path / "root" / "p" / "exp7" / "models" / "net"
    for number in range(20):
        save_model(model, number)
        backend.log_model(None, tmp_path / "given for the call alone", name="net")
    backend.end_run("finished")
    first, last = models_written(backend.run)
    assert (first[0]["step"], last[0]["step"]) == (0, 19)
    assert first[2].keys() == {"model.json", "weights-000000.safetensors"}
    assert last[2].keys() == {"model.json", "weights-000019.safetensors"}
    assert last[2]["weights-000019.safetensors"] == "19"
    assert json.loads(last[2]["model.json"])["files"].keys() == {"weights"}
    assert "earlier" not in json.loads(last[2]["model.json"])


def test_a_model_takes_its_aliases_along_as_wandb_can_have_them(tmp_path):
    backend = started(tmp_path)
    model = tmp_path / "root" / "p" / "exp7" / "models" / "net"
    save_model(model, 0, aliases=["champion", "team/best:1"], metadata={"acc": 0.5})
    backend.log_model(None, model, name="net")
    backend.end_run("finished")
    [(metadata, aliases, _)] = models_written(backend.run)
    assert {*aliases} == {"latest", "champion", "team-best-1"}
    assert metadata["acc"] == 0.5


def test_a_model_that_is_gone_or_damaged_does_not_keep_the_run_open(tmp_path):
    backend = started(tmp_path)
    model = tmp_path / "root" / "p" / "exp7" / "models" / "net"
    for number in range(2):
        save_model(model, number)
        backend.log_model(None, model, name="net")
    (model / "weights-000001.safetensors").unlink()
    backend.end_run("finished")
    assert len(models_written(backend.run)) == 1
    assert "is gone" in backend.state["artifacts"]["model:net"]["error"]


def test_two_names_of_ours_are_never_one_of_wandbs(tmp_path):
    backend = started(tmp_path)
    file = tmp_path / "x.txt"
    for name in ("a/b", "a-b", "a b", "a/b"):
        file.write_text(name)
        backend.log_artifact(file, name, artifact_type="text", description=None, step=None)
    backend.end_run("finished")
    artifacts = [a for log in logs(backend.run) for a in log.read().artifacts]
    assert len({a.name for a in artifacts}) == 3
    assert artifacts[0].name == artifacts[3].name == "run-exp7000000000000-a-b"


def test_runs_of_one_process_share_wandbs_own_which_ends_with_the_last(tmp_path):
    both = [None, None]

    def follow(number):
        rows = [row(n, loss=number) for n in range(300)]
        backend = both[number] = started(tmp_path, rows, name=f"run{number}")
        barrier.wait(30)
        backend.end_run("finished")

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, backend in enumerate(both):
        assert [r["loss"] for r in rows_written(backend.run)] == [number] * 300


def test_disabled_it_is_never_called_complete(make):
    with make("p").start_run() as run:
        run.log_metric("loss", 1.0, step=0)
    assert WandbBackend(mode="disabled").place == "disabled"
    progress = mirror(run, mode="disabled")
    assert not progress.complete
    assert "W&B is disabled" in progress.error
    assert logs(run) == []


def test_wandb_that_the_training_process_uses_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/gone/socket")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    backend = started(tmp_path, [row(0, loss=1)])
    (process,) = [p for p in psutil.Process().children() if p.name().startswith("wandb-core")]
    # Nobody who tidies up /tmp/wandb-* takes its socket away.
    assert Path(process.environ()["TMPDIR"]).name.startswith("experiment_tracking-")
    backend.end_run("finished")
    assert len(rows_written(backend.run)) == 1
    assert os.environ["WANDB_SERVICE"] == "3-1-unix-/gone/socket"
    assert os.environ["TMPDIR"] == str(tmp_path)


def test_people_are_shown_the_folder_that_is_to_be_sent(tmp_path):
    backend = started(tmp_path, [row(0, loss=1)])
    backend.end_run("finished")
    (log,) = logs(backend.run)
    assert backend.state["url"] == os.path.realpath(os.path.dirname(log.path))
    assert Path(log.path).parents[1] == Path(backend.run.path, "backends", "wandb")


def test_a_second_copy_of_a_run_is_refused_for_wandb_would_mix_them(make):
    with make("p").start_run() as run:
        run.log_metric("loss", 1.0, step=0)
    assert mirror(run, mode="offline").complete
    target = Target("wandb", {"mode": "offline", "project": "other"}, "wandb-2")
    progress = Mirror(RunFolder(run.path), target).run(follow=False)
    assert not progress.complete
    assert "W&B has a copy of this run already (offline)" in progress.error
    assert len(rows_written(run)) == 1


def test_wandbs_folder_is_where_wandb_dir_says(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    backend = started(tmp_path, [row(0, loss=1)])
    backend.end_run("finished")
    assert len(find_logs(tmp_path / "elsewhere")) == 1


def test_folders_that_were_sent_and_cleaned_up_are_not_written_anew(tmp_path):
    backend = started(tmp_path, [row(n, loss=n) for n in range(5)])
    backend.end_run("finished")
    (log,) = logs(backend.run)
    for file in sorted(Path(log.path).parent.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    again = started(tmp_path, [row(5, loss=5)], state=backend.state)
    again.close()
    assert again.arrived == 5
    assert [r["_step"] for r in rows_written(again.run)] == [5]


def test_a_damaged_folder_is_written_anew(tmp_path):
    rows = [row(n, loss=n) for n in range(2_000)]
    backend = started(tmp_path, rows)
    backend.end_run("finished")
    (log,) = logs(backend.run)
    data = bytearray(Path(log.path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(log.path).write_bytes(data)
    again = started(tmp_path, state=backend.state)
    assert again.arrived == 0
    again.log_batch(rows)
    again.end_run("finished")
    assert [r["_step"] for r in rows_written(again.run)] == list(range(2_000))


def test_a_row_that_broke_off_a_batch_is_not_preceded_twice(tmp_path):
    backend = started(tmp_path)
    broken = row(3, **{"\ud800": 1.0})
    batch = [row(0, a=0), row(1, a=1), row(2, a=2), broken, row(4, a=4)]
    for given in (batch, batch[:2], batch[2:3]):
        if len(given) == 5:
            with pytest.raises(BackendError):
                backend.log_batch(given)
        else:
            backend.log_batch(given)
    backend.log_batch(batch[4:])
    backend.end_run("finished")
    assert [r["a"] for r in rows_written(backend.run)] == [0, 1, 2, 4]


# Killed -------------------------------------------------------------------------------------------


@pytest.fixture
def long_run(make):
    with make("p", config={"lr": 0.1}).start_run("r") as run:
        for step in range(1_000):
            run.log_metrics({"loss": 1 / (step + 1), "acc": step}, step=step)
            if step == 500:
                run.log_text("hello", "notes")
    return run


def follow_and_die(run, mode, batch, behind):
    words = [sys.executable, "-c", FOLLOWS, run.path, mode, str(batch), str(behind)]
    # Without pipes: W&B's own process outlives the killed one, and would hold them open.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # They leave what they keep in the folder for temporary files.
    known = {"PYTHONPATH": REPOSITORY, "TMPDIR": str(Path(run.path).parents[2])}
    done = subprocess.run(words, env={**os.environ, **known}, timeout=60, **quiet)
    assert done.returncode == -signal.SIGKILL


def test_killed_twice_offline_the_folders_have_every_row_once(long_run, wandb_server):
    follow_and_die(long_run, "offline", 4, 0)
    follow_and_die(long_run, "offline", 3, 1)
    assert mirror(long_run, mode="offline").complete
    assert len(logs(long_run)) > 1
    assert same(rows_kept(long_run), metrics_only(rows_written(long_run)))
    served = sync(long_run, wandb_server)
    assert same(rows_kept(long_run), metrics_only(served.rows))
    assert served.exit_code == 0
    assert b"hello" in wandb_server.uploads.values()


def test_killed_twice_online_the_service_has_every_row_once(long_run, online):
    follow_and_die(long_run, "online", 4, 0)
    follow_and_die(long_run, "online", 3, 1)
    assert mirror(long_run, mode="online").complete
    served = online.runs[long_run.id]
    assert same(rows_kept(long_run), metrics_only(served.rows))
    assert [r["_step"] for r in served.rows] == list(range(1_000))
    assert served.exit_code == 0
    assert b"hello" in online.uploads.values()


# Online -------------------------------------------------------------------------------------------


def test_a_run_is_whole_online_and_leaves_nothing_here(full_run, online):
    progress = mirror(full_run, mode="online")
    served = online.runs[full_run.id]
    assert progress.complete
    assert progress.url == f"{online.url}/ann/digits/runs/{full_run.id}"
    assert same(rows_kept(full_run), metrics_only(served.rows))
    assert served.config["net"] == {"depth": 3, "act": "relu"}
    assert served.summary["best_step/loss"] == 4
    assert (served.exit_code, served.complete) == (0, True)
    assert served.facts["tags"] == ["sweep=b", "fast", "long=" + "x" * 58 + "…"]
    (picture,) = [name for name in served.files if name.endswith(".png")]
    assert served.files[picture] == picture_of(full_run)
    kinds = sorted(artifact["artifactTypeName"] for artifact in online.artifacts)
    assert kinds == ["dict", "model", "text"]
    assert not Path(full_run.path, "backends", "wandb").exists()


def test_a_further_attempt_goes_on_online(make, online):
    with make("p").start_run("r") as run:
        run.log_metric("loss", 1.0, step=0)
    mirror(run, mode="online")
    with make("p", resume="must").start_run("r") as again:
        again.log_metric("loss", 2.0, step=0)
    mirror(again, mode="online")
    rows = online.runs[run.id].rows
    assert [(r["_step"], r["loss"], r.get("attempt")) for r in rows] == [
        (0, 1.0, None),
        (1, 2.0, 2),
    ]


def test_after_a_login_the_same_mirror_sends_all_of_it(full_run, wandb_server, monkeypatch):
    offline = mirror(full_run)
    assert offline.complete
    assert os.path.basename(offline.url).startswith("offline-run-")
    for name, value in wandb_server.variables().items():
        monkeypatch.setenv(name, value)
    progress = mirror(full_run)
    served = wandb_server.runs[full_run.id]
    assert progress.complete
    assert progress.url == f"{wandb_server.url}/ann/digits/runs/{full_run.id}"
    assert same(rows_kept(full_run), metrics_only(served.rows))
    assert sum(any(key.startswith("figures/") for key in row) for row in served.rows) == 1
    kinds = sorted(artifact["artifactTypeName"] for artifact in wandb_server.artifacts)
    assert kinds == ["dict", "model", "text"]
    assert not Path(full_run.path, "backends", "wandb").exists()


def offline_run(folder):
    """A run that is whole offline, with a figure between its rows, and an artifact."""
    picture, file = folder / "a.png", folder / "notes.txt"
    picture.write_bytes(PNG)
    file.write_text("hello")
    backend = started(folder, [row(n, loss=n) for n in range(5)])
    give_files(backend, folder)
    backend.log_batch([row(n, loss=n) for n in range(5, 10)])
    backend.end_run("finished")
    assert [row["_step"] for row in rows_written(backend.run)] == list(range(11))
    return backend


def give_files(backend, folder):
    backend.log_figure(folder / "a.png", "a", 4, timestamp=1.0)
    backend.log_artifact(folder / "notes.txt", "notes", artifact_type="text")


def test_what_was_written_offline_is_sent_once_there_is_a_login(tmp_path, online):
    backend = offline_run(tmp_path)
    moved = started(tmp_path, state=backend.state, mode="online")
    assert moved.arrived == 0
    moved.log_batch([row(n, loss=n) for n in range(7)])
    moved.close()
    assert len(logs(moved.run)) == 1  # Not all of it is there.
    moved = started(tmp_path, state=json.loads(json.dumps(moved.state)), mode="online")
    assert moved.arrived == 7
    moved.log_batch([row(n, loss=n) for n in range(7, 10)])
    give_files(moved, tmp_path)
    moved.end_run("finished")
    rows = online.runs[moved.run.id].rows
    assert [row["_step"] for row in rows] == list(range(11))
    assert [row.get("loss") for row in rows] == [0, 1, 2, 3, 4, None, 5, 6, 7, 8, 9]
    assert b"hello" in online.uploads.values()
    assert moved.state["url"] == f"{online.url}/ann/p/runs/{moved.run.id}"
    assert not (moved.run.path / "backends" / "wandb").exists()


def test_what_people_have_sent_themselves_is_not_sent_again(tmp_path, online):
    backend = offline_run(tmp_path)
    before = sync(backend.run, online).rows
    moved = started(tmp_path, state=backend.state, mode="online")
    assert moved.arrived == 10
    give_files(moved, tmp_path)
    moved.log_batch([row(10, loss=10)])
    moved.end_run("finished")
    rows = online.runs[moved.run.id].rows
    assert rows[:11] == before
    assert [row["loss"] for row in rows[11:]] == [10]


def test_offline_in_another_project_it_is_written_anew(tmp_path):
    backend = offline_run(tmp_path)
    moved = started(tmp_path, state=backend.state, project="other")
    assert moved.arrived == 0
    moved.log_batch([row(n, loss=n) for n in range(10)])
    moved.end_run("finished")
    (log,) = logs(moved.run)
    assert log.read().run.project == "other"
    assert [row["_step"] for row in rows_written(moved.run)] == list(range(11))


def test_a_service_that_goes_and_comes_back_has_everything(tmp_path, online):
    backend = started(tmp_path, [row(n, loss=n) for n in range(50)], mode="online")
    online.pause()
    with pytest.raises(BackendUnavailableError):
        backend.end_run("finished")
    online.go_on()
    backend.log_batch([row(n, loss=n) for n in range(50, 60)])
    backend.end_run("finished")
    assert [r["loss"] for r in online.runs[backend.run.id].rows] == list(range(60))


def test_what_has_ended_offline_is_written_whatever_becomes_of_wandbs_own_process(tmp_path):
    words = [sys.executable, "-c", ENDS_BEFORE_ITS_CORE, str(tmp_path / "root" / "p")]
    known = {"PYTHONPATH": REPOSITORY, "TMPDIR": str(tmp_path)}
    subprocess.run(words, env={**os.environ, **known}, timeout=60, check=True)
    (log,) = [WandbLog(path) for path in find_logs(tmp_path / "root" / "p" / "one")]
    assert [row.values["loss"] for row in log.rows()] == list(range(1_000))
    assert log.read().exit_code == 0


@pytest.mark.parametrize("goes_on", ["itself", "anew", "anew behind close"])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_when_wandbs_own_process_is_killed_a_new_start_goes_on(tmp_path, online, mode, goes_on):
    run = str(tmp_path / "root" / "p" / "r")
    words = [sys.executable, "-c", LOSES_ITS_CORE, run, mode, goes_on]
    known = {"PYTHONPATH": REPOSITORY, "TMPDIR": str(tmp_path)}
    done = subprocess.run(words, env={**os.environ, **known}, timeout=60, capture_output=True)
    written = [WandbLog(path) for path in find_logs(tmp_path / "root")]
    found = [row.values["loss"] for log in written for row in log.rows()]
    if mode == "online":
        found = [row["loss"] for row in online.runs["abc"].rows]
    assert found == list(range(100)), done.stderr.decode()
    assert [*tmp_path.glob("experiment_tracking-*")] == [*tmp_path.glob("wandb-*")] == []


def test_closed_before_its_end_a_run_is_left_to_go_on(tmp_path, online):
    backend = started(tmp_path, [row(0, loss=1)], mode="online")
    backend.close()
    assert online.runs[backend.run.id].exit_code == 1
    again = started(tmp_path, state=backend.state, mode="online")
    assert again.arrived == 1
    again.end_run("killed")
    assert online.runs[backend.run.id].exit_code == 255


def test_a_run_is_followed_while_it_is_written(make, online):
    orders = Orders()
    with make("p").start_run("r") as run:
        run.log_metric("loss", 1.0, step=0)
        options = {"follow": True, "orders": orders, "mode": "online"}
        follower = threading.Thread(target=mirror, args=(run,), kwargs=options)
        follower.start()
        run.log_metric("loss", 2.0, step=1)
    follower.join(60)
    assert read_progress(RunFolder(run.path), "wandb").complete
    assert [r["loss"] for r in online.runs[run.id].rows] == [1.0, 2.0]


def test_the_environment_of_the_process_is_as_before_when_the_last_run_is_closed(tmp_path):
    before = dict(os.environ)
    backend = started(tmp_path, [row(0, loss=1)], mode="offline")
    assert os.environ["WANDB_CONSOLE"] == "off"
    backend.end_run("finished")
    backend.close()
    assert dict(os.environ) == before
