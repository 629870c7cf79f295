import json
import os
import shutil
import sys
import time
import uuid
from pathlib import Path

import pytest

from experiment_tracking.errors import (
    InvalidValueError,
    MissingPackageError,
    RootNotFoundError,
)
from experiment_tracking.folder.layout import is_url
from experiment_tracking.folder.liveness import Writer
from experiment_tracking.registry import far
from experiment_tracking.registry.far import FarRoot, FarStore, ensure
from experiment_tracking.registry.live import follow, last_rows
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.registry import ExperimentRegistry

fsspec = pytest.importorskip("fsspec", reason="pip install 'experiment_tracking[remote]'")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPERIMENT_TRACKING_CACHE", str(tmp_path / "cache"))


class Store:
    """A real store of objects, and what was asked of it."""

    def __init__(self, url, monkeypatch):
        self.url = url
        self.fs, self.base = fsspec.core.url_to_fs(url)
        self.brought = []
        self.ranges = []
        get, read = FarStore.get, FarStore.read

        def seen_get(store, names, paths):
            self.brought += names
            return get(store, names, paths)

        def seen_read(store, name, start=None, end=None):
            self.ranges.append((name, start, end))
            return read(store, name, start, end)

        monkeypatch.setattr(FarStore, "get", seen_get)
        monkeypatch.setattr(FarStore, "read", seen_read)

    def put(self, root, name=""):
        """Make the store hold what the folder ``name`` of a root holds."""
        for folder, _, files in os.walk(root / name):
            for file in files:
                path = os.path.join(folder, file)
                self.write(os.path.relpath(path, root), Path(path).read_bytes())

    def write(self, name, data):
        self.fs.pipe_file(f"{self.base}/{name}", data)

    def remove(self, name):
        self.fs.rm(f"{self.base}/{name}", recursive=True)

    def asked(self):
        """Return what was brought since this was last asked, sorted."""
        brought, self.brought, self.ranges = sorted(self.brought), [], []
        return brought


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
def store(request, monkeypatch):
    above = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    return Store(f"{above}/{uuid.uuid4().hex}/team", monkeypatch)


@pytest.fixture
def memory(monkeypatch):
    return Store(f"memory://{uuid.uuid4().hex}/team", monkeypatch)


@pytest.fixture
def s3(monkeypatch, bucket):
    return Store(f"{bucket}/{uuid.uuid4().hex}/team", monkeypatch)


def test_an_address_is_told_from_a_folder():
    assert is_url("s3://bucket/team")
    assert is_url("memory://x")
    assert not is_url("./experiments")
    assert not is_url("C:\\experiments")


def test_a_far_root_lists_like_the_folder_it_was_made_from(store, root, track):
    track("one", rows=[{"loss": 0.5}], params={"lr": 0.1}, tags={"a": "b"})
    track("two [b]", "waves", rows=[{"loss": 0.25}, {"loss": float("nan")}])
    store.put(root)
    copy = FarRoot(store.url).pull()
    near = ExperimentRegistry(root).list_experiments()
    here = ExperimentRegistry(copy).list_experiments()
    assert here.problems == []
    assert [run.key for run in here] == [run.key for run in near] == ["digits/one", "waves/two [b]"]
    assert [run.summary for run in here] == [run.summary for run in near]
    assert [run.params for run in here] == [run.params for run in near]


def test_a_scan_brings_small_documents_alone_and_once(store, root, track):
    run = track("one", rows=[{"loss": 0.5}], params={"lr": 0.1})
    (run.path / "console.log").write_text("hello")
    store.put(root)
    far_root = FarRoot(store.url)
    progress = []
    far_root.pull(lambda *seen: progress.append(seen))
    documents = store.asked()
    assert "digits/one/summary.json" in documents
    assert "digits/one/params.json" in documents
    assert not any("history" in name or "console" in name for name in documents)
    # The writer of a run that has ended is of no interest.
    assert "digits/one/heartbeat.json" not in documents
    assert progress == [(len(documents), len(documents))]
    far_root.pull()
    FarRoot(store.url).pull()
    assert store.asked() == []


def test_only_what_changed_is_brought_again(store, root, track):
    for name in ("one", "two"):
        track(name, params={"lr": 0.1})
    store.put(root)
    copy = FarRoot(store.url).pull()
    store.asked()
    changed = (root / "digits/two/params.json").read_bytes().replace(b"0.1", b"0.2")
    store.write("digits/two/params.json", changed)
    store.write("digits/two/amendments/000001.json", b'{"kind": "tag"}')
    FarRoot(store.url).pull()
    assert store.asked() == ["digits/two/amendments/000001.json", "digits/two/params.json"]
    assert RunRecord(f"{copy}/digits/two").params == {"lr": 0.2}


def test_what_is_gone_there_is_gone_here(store, root, track):
    for name in ("one", "two"):
        track(name, params={"lr": 0.1})
    store.put(root)
    copy = FarRoot(store.url).pull()
    store.remove("digits/one")
    store.remove("digits/two/params.json")
    FarRoot(store.url).pull()
    assert os.listdir(f"{copy}/digits") == ["two"]
    assert not os.path.exists(f"{copy}/digits/two/params.json")


def test_a_history_comes_when_it_is_asked_for_and_stays(store, root, track):
    run = track("one", rows=[{"loss": 1 / (i + 1)} for i in range(50)])
    store.put(root)
    copy = FarRoot(store.url).pull()
    store.asked()
    record = RunRecord(f"{copy}/digits/one")
    ensure(record.folder.history())
    assert record.rows() == RunRecord(run.path).rows()
    ensure(record.folder.history())
    assert store.asked() == ["digits/one/metrics_history.json"]


def test_the_rows_of_further_processes_come_along(memory, root, track):
    run = track("one", rows=[{"loss": 0.5}])
    (run.path / "metrics_history.1.json").write_text('[\n{"step":0,"time":1.0,"loss":2.0}\n]\n')
    memory.put(root)
    (run.path / "metrics_history.1.json").unlink()
    record = RunRecord(FarRoot(memory.url).pull() + "/digits/one")
    assert record.history("loss", ranks="all")["loss"].tolist() == [2.0, 0.5]


def test_several_files_and_whole_folders_come_at_once(store, root, track, tracker):
    with tracker().start_run("one") as run:
        run.log_text("hello", "notes/a")
        run.log_text("there", "notes/b")
    track("two", rows=[{"loss": 1.0}])
    store.put(root)
    copy = FarRoot(store.url).pull()
    ensure(f"{copy}/digits/one/artifacts", RunRecord(f"{copy}/digits/two").folder.history())
    for folder, _, files in os.walk(run.path / "artifacts"):
        for file in files:
            path = os.path.join(folder, file)
            there = os.path.join(copy, os.path.relpath(path, root))
            assert Path(path).read_bytes() == Path(there).read_bytes()
    assert len(RunRecord(f"{copy}/digits/two").rows()) == 1


def test_a_history_that_grew_is_continued_by_the_bytes_that_are_new(store, root, tracker):
    run = tracker().start_run("live")
    for step in range(2000):
        run.log_metrics({"loss": float(step)}, step=step)
    store.put(root)
    far_root = FarRoot(store.url)
    record = RunRecord(far_root.pull() + "/digits/live")
    ensure(record.folder.history())
    assert len(record.rows()) == 2000
    before = os.path.getsize(record.folder.history())
    run.log_metrics({"loss": 0.0}, step=2000)
    store.put(root)
    store.asked()
    ensure(record.folder.history())
    assert record.rows() == RunRecord(run.path).rows()
    ((name, start, _),) = store.ranges
    assert name == "digits/live/metrics_history.json"
    assert before - 10_000 < start < before
    assert store.asked() == []
    run.end_run()


def test_a_history_that_was_written_anew_is_brought_whole(store, root, tracker):
    run = tracker().start_run("live")
    for step in range(10):
        run.log_metrics({"loss": 1.0}, step=step)
    store.put(root)
    record = RunRecord(FarRoot(store.url).pull() + "/digits/live")
    ensure(record.folder.history())
    other = (run.path / "metrics_history.json").read_bytes().replace(b"1.0", b"2.00")
    store.write("digits/live/metrics_history.json", other)
    store.asked()
    ensure(record.folder.history())
    assert Path(record.folder.history()).read_bytes() == other
    assert store.asked() == ["digits/live/metrics_history.json"]
    run.end_run()


def test_a_run_on_another_machine_is_judged_by_its_heartbeat(memory, root, tracker, until):
    run = tracker().start_run("live")
    run.log_metrics({"loss": 1.0})
    memory.put(root)
    beat = Writer.this_process()._replace(host="elsewhere")._asdict()
    for age, status in ((0, "running"), (3600, "crashed")):
        line = json.dumps({**beat, "time": time.time() - age}).encode()
        memory.write("digits/live/heartbeat.json", line)
        assert RunRecord(FarRoot(memory.url).pull() + "/digits/live").status == status
    run.end_run()
    memory.put(root)
    assert RunRecord(FarRoot(memory.url).pull() + "/digits/live").status == "finished"


def test_a_copy_that_was_damaged_or_emptied_here_heals(memory, root, track):
    track("one", params={"lr": 0.1})
    memory.put(root)
    copy = FarRoot(memory.url).pull()
    for break_it in (
        lambda: Path(f"{copy}/digits/one/summary.json").write_text(""),
        lambda: os.unlink(f"{copy}/digits/one/params.json"),
        lambda: Path(f"{copy}/digits/one/.far.json").write_text(""),
    ):
        break_it()
        record = RunRecord(FarRoot(memory.url).pull() + "/digits/one")
        assert (record.status, record.params) == ("finished", {"lr": 0.1})


@pytest.mark.parametrize(
    "name",
    [
        "digits/../../../../outside.json", "digits/one/../../../x", "digits//x/summary.json",
        "digits/one/a\\..\\b", f"digits/one/{'x' * 300}", "../x/y/z",
    ],
)  # fmt: skip
def test_names_that_lead_out_of_the_copy_are_refused_and_named(s3, root, track, tmp_path, name):
    track("one", params={"lr": 0.1})
    s3.put(root)
    s3.write(name, b"{}")
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    far_root = FarRoot(s3.url)
    copy = far_root.pull()
    far_root.fetch("digits/one")
    assert [problem.path[: len(s3.url)] for problem in far_root.problems] == [s3.url]
    assert "name" in far_root.problems[0].reason
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    inside = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert all(str(path).startswith(copy) for path in inside)
    assert RunRecord(f"{copy}/digits/one").params == {"lr": 0.1}


def test_a_far_store_cannot_write_our_own_notes(memory, root, track):
    track("one")
    memory.put(root)
    memory.write("digits/one/.far.json", b'{"final": true}')
    memory.write(".far.json", b'{"url": "file:///"}')
    copy = FarRoot(memory.url).pull()
    assert json.loads(Path(f"{copy}/.far.json").read_text()) == {"url": memory.url}
    assert "summary.json" in json.loads(Path(f"{copy}/digits/one/.far.json").read_text())["files"]


def test_a_document_of_absurd_size_is_named_and_left_there(memory, root, track, monkeypatch):
    track("one", params={"lr": 0.1})
    track("two")
    memory.put(root)
    monkeypatch.setattr(far, "MAX_BYTES", 5000)
    memory.write("digits/one/params.json", b" " * 6000)
    far_root = FarRoot(memory.url)
    copy = far_root.pull()
    ((path, reason),) = far_root.problems
    assert path == f"{copy}/digits/one"
    assert "params.json has 6,000 bytes" in reason
    assert [run.name for run in ExperimentRegistry(copy).list_experiments()] == ["one", "two"]


def test_a_name_that_is_a_file_and_a_folder_hides_no_other_run(s3, root, track):
    track("one", params={"lr": 0.1})
    track("two")
    s3.put(root)
    s3.write("digits/one/amendments", b"{}")
    s3.write("digits/one/amendments/000001.json", b"{}")
    far_root = FarRoot(s3.url)
    copy = far_root.pull()
    far_root.problems.clear()
    with pytest.raises(OSError):
        far_root.fetch("digits/one/amendments", "digits/one/amendments/000001.json")
    assert [run.name for run in ExperimentRegistry(copy).list_experiments()] == ["one", "two"]


def test_rows_without_a_summary_are_named(memory, root, track):
    track("one", rows=[{"loss": 1.0}])
    memory.put(root)
    memory.remove("digits/one/summary.json")
    far_root = FarRoot(memory.url)
    far_root.pull()
    assert far_root.problems == [(f"{memory.url}/digits/one", "has rows but no summary.json")]


def test_nothing_at_the_address_says_so_and_keeps_the_earlier_copy(store, root, track):
    with pytest.raises(RootNotFoundError, match=r"no folder of experiments at \w+://"):
        FarRoot(store.url).pull()
    track("one")
    store.put(root)
    copy = FarRoot(store.url).pull()
    store.remove("digits")
    with pytest.raises(RootNotFoundError):
        FarRoot(store.url).pull()
    assert RunRecord(f"{copy}/digits/one").status == "finished"


def test_a_service_that_is_away_is_an_oserror_with_the_address(monkeypatch):
    pytest.importorskip("s3fs", reason="pip install 'experiment_tracking[remote]'")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3_settings = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in s3_settings.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="s3://bucket/team cannot be reached"):
        FarRoot("s3://bucket/team").pull()
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_unknown_kind_of_address_is_refused():
    with pytest.raises(InvalidValueError, match="foo://x cannot be opened"):
        FarRoot("foo://x").pull()


def test_a_missing_package_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingPackageError, match=r"fsspec.*experiment_tracking\[remote\]"):
        FarRoot("memory://x").pull()


def test_a_registry_of_a_near_and_a_far_root_reads_both(store, root, track, tracker):
    track("far", rows=[{"loss": 0.5}, {"loss": 0.25}], params={"lr": 0.1})
    with tracker().start_run("model") as run:
        run.log_model({"w": [1.0, 2.0]})
    store.put(root)
    shutil.rmtree(root / "digits")
    track("near", rows=[{"loss": 1.0}])
    registry = ExperimentRegistry([root, store.url])
    runs = registry.list_experiments(order_by="name")
    assert (runs.names, runs.problems) == (["far", "model", "near"], [])
    assert registry.best("loss").name == "far"
    history = registry.history("loss")
    assert history.groupby("run")["value"].apply(list).to_dict() == {
        "digits/far": [0.5, 0.25], "digits/near": [1.0],
    }  # fmt: skip
    assert registry.get("model").load_model() == {"w": [1.0, 2.0]}


def test_a_live_far_run_shows_what_was_logged_since(memory, root, tracker):
    run = tracker().start_run("live")
    run.log_metrics({"loss": 1.0}, step=0)
    memory.put(root)
    registry = ExperimentRegistry(memory.url)
    assert registry.get("live").value("loss") == 1.0
    run.log_metrics({"loss": 0.5}, step=1)
    memory.put(root)
    assert registry.list_experiments()[0].value("loss") == 0.5
    run.end_run()


def test_ensuring_a_local_file_does_nothing(track, root, tmp_path):
    run = track("one", rows=[{"loss": 1.0}])
    ensure(str(run.path / "metrics_history.json"), str(tmp_path / "x.far" / "p" / "r" / "f.json"))


def test_a_strangers_folder_sends_us_nowhere(memory, root, track, tmp_path):
    track("one")
    memory.put(root)
    trap = tmp_path / "stranger.far"
    (trap / "digits" / "one").mkdir(parents=True)
    (trap / ".far.json").write_text(json.dumps({"url": memory.url}))
    ensure(str(trap / "digits" / "one" / "summary.json"))
    assert os.listdir(trap / "digits" / "one") == []
    assert memory.asked() == []


@pytest.mark.parametrize("word", ["off", "0", ""])
def test_without_a_cache_the_copy_is_the_process_own(memory, root, track, monkeypatch, word):
    monkeypatch.setenv("EXPERIMENT_TRACKING_CACHE", word)
    track("one")
    memory.put(root)
    copy = FarRoot(memory.url).pull()
    assert RunRecord(f"{copy}/digits/one").status == "finished"
    assert os.path.expanduser("~/.cache") not in copy
    assert FarRoot(memory.url).path == copy


def test_a_store_that_no_longer_answers_leaves_what_came_before_and_says_so(tmp_path, make, root):
    with make("digits").start_run("a") as run:
        run.log_metrics({"loss": 1.0})
    shutil.copytree(root, tmp_path / "store")
    registry = ExperimentRegistry(f"file://{tmp_path}/store")
    assert registry.list_experiments().names == ["a"]
    assert registry.problems == []
    os.rename(tmp_path / "store", tmp_path / "away")
    assert registry.list_experiments().column("loss") == [1.0]
    (problem,) = registry.problems
    assert problem.path == f"file://{tmp_path}/store"
    assert "not up to date" in problem.reason


def test_the_last_rows_of_a_far_run_are_brought_and_those_to_come(memory, root, tracker):
    run = tracker().start_run("live")
    run.log_metrics({"loss": 1.0}, step=0)
    memory.put(root)
    record = ExperimentRegistry(memory.url).get("live")
    assert [row["step"] for row in last_rows(record.folder, 5)] == [0]
    coming = follow(record, interval_s=0.001)
    assert [row["step"] for row in next(coming)] == [0]
    for step in (1, 2):
        run.log_metrics({"loss": 1.0}, step=step)
        memory.put(root)
        assert [row["step"] for row in next(coming)] == [step]
    run.log_metrics({"loss": 1.0}, step=3)
    run.end_run()
    memory.put(root)
    assert [[row["step"] for row in rows] for rows in coming] == [[3]]
    assert record.status == "finished"


def test_what_a_killed_process_left_half_brought_is_deleted_in_time(memory, root, track):
    track("one")
    memory.put(root)
    far_root = FarRoot(memory.url)
    with far.scratch(far_root.pull()) as new, far.scratch(far_root.path) as old:
        os.utime(old, (0, 0))
        far_root.pull()
        assert (os.path.isdir(new), os.path.isdir(old)) == (True, False)
