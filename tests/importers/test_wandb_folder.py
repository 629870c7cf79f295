"""Everything here was written by wandb itself, offline; its own protobufs are the second reader."""

import gc
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from importlib import metadata
from pathlib import Path

import pytest

from experiment_tracking.importers import wandb_folder
from experiment_tracking.importers.found import FoundRun, Options, Unreadable
from experiment_tracking.importers.imported import Importer
from experiment_tracking.importers.wandb_files import WandbFiles
from experiment_tracking.registry.record import RunRecord

pytest.importorskip("wandb", reason="pip install 'experiment_tracking[wandb]'")

ROWS = 1000

WRITE = """
import os
import sys
import time

import numpy as np
import wandb

what, home = sys.argv[1:]
settings = wandb.Settings(silent=True, x_stats_sampling_interval=0.1)


def start(name, **options):
    return wandb.init(project="digits", name=name, settings=settings, **options)


def wait_until(run, is_there):
    # The log is written behind; the machine's load comes when it was measured.
    folder = os.path.dirname(run.dir)
    (name,) = [name for name in os.listdir(folder) if name.endswith(".wandb")]
    for _ in range(1000):
        with open(os.path.join(folder, name), "rb") as file:
            if is_there(file.read()):
                return
        time.sleep(0.02)
    sys.exit("the log does not grow")


def full():
    config = {"lr": 0.1, "model": {"depth": 3, "widths": [8, 16]}, "none": None, "flag": True}
    options = {"group": "first", "job_type": "train", "tags": ["a", "b c"], "notes": "some notes"}
    run = start("full", config=config, **options)
    run.define_metric("val/*", step_metric="epoch")
    run.define_metric("loss", summary="min")
    for i in range(200):
        run.log({"loss": 1 / (i + 1), "train/acc": i / 7, "deep": {"a": i, "b": {"c": i / 3}}})
    run.log({"x": float("nan"), "y": float("inf"), "z": -float("inf"), "w": 2**53 + 1})
    run.log({"sparse": 1.5}, step=1000)
    picture = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    run.log({"picture": wandb.Image(picture, caption="c")}, step=1001)
    run.log({"several": [wandb.Image(picture), wandb.Image(picture[::-1])]}, step=1002)
    run.log({"table": wandb.Table(columns=["p", "q"], data=[[1, "u"], [2.5, None]])}, step=1003)
    run.log({"values": wandb.Histogram(np.arange(100.0), num_bins=10)}, step=1004)
    run.log({"page": wandb.Html("<b>x</b>"), "word": "text", "list": [1, 2]}, step=1005)
    run.summary["best"] = 0.9
    run.summary["checkpoint"] = "step-7.pt"
    run.config.update({"late": 7})
    data = wandb.Artifact("data", "dataset", description="all of it", metadata={"rows": 3})
    with data.new_file("sub/train.csv") as file:
        file.write("1,2,3")
    run.log_artifact(data)
    again = wandb.Artifact("data", "dataset")
    with again.new_file("sub/train.csv") as file:
        file.write("4,5,6")
    again.add_reference("http://127.0.0.1:9/far", checksum=False)
    run.log_artifact(again)
    with open(os.path.join(run.dir, "saved.txt"), "w") as file:
        file.write("kept")
    run.alert("title", "text")
    print("a printed line")
    print("the rest", end="")
    # W&B copies what is printed when it comes to it; a run that ends before has none of it.
    wait_until(run, lambda log: b"memory_percent" in log and b"a printed line" in log)
    run.finish()


def ends():
    for name, code in (("fails", 3), ("stopped", 255)):
        run = start(name)
        run.log({"loss": 1.0})
        run.finish(exit_code=code)


def resumed():
    # As this package mirrors a run: the axis is ours, and a second process goes on.
    for first in (0, 50):
        run = start("resumed", id="resumed1", resume="allow", config={f"from{first}": first})
        run.define_metric("*", step_metric="step")
        for step in range(first, first + 50):
            run.log({"loss": step / 3, "step": step * 10, "_timestamp": 1763640000.5 + step})
        run.summary["min/loss"] = 0.0
        run.finish()


def killed():
    run = start("killed", config={"lr": 1})
    for i in range(int(os.environ["ROWS"])):
        run.log({"loss": i / 7})
    wait_until(run, lambda log: len(log) > 150_000)
    os.kill(os.getpid(), 9)


{"full": lambda: (full(), ends()), "resumed": resumed, "killed": killed}[what]()
"""


@pytest.fixture(scope="module")
def wandb_dir(tmp_path_factory):
    """A ``wandb`` folder with five runs."""
    home = tmp_path_factory.mktemp("offline")
    environment = {
        # What somebody has set for W&B on this machine is not for these runs.
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB_")},
        "HOME": str(home), "WANDB_DIR": str(home), "WANDB_MODE": "offline",
        "WANDB_DATA_DIR": str(home / "data"), "WANDB_CACHE_DIR": str(home / "cache"),
        "WANDB_CONFIG_DIR": str(home / "config"), "TMPDIR": str(home), "ROWS": str(ROWS),
    }  # fmt: skip
    started = {
        what: subprocess.Popen(
            [sys.executable, "-c", WRITE, what, home],
            cwd=home,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for what in ("full", "resumed", "killed")
    }
    for what, process in started.items():
        _, errors = process.communicate(timeout=120)
        assert process.returncode == (-9 if what == "killed" else 0), errors
    return home / "wandb"


@pytest.fixture
def imported(root):
    """Import a source; give its runs by name, with what was not carried."""

    def imported(source):
        importer = Importer(str(root))
        found = wandb_folder.runs(str(source), Options())
        done = [importer.take(run) for run in found if isinstance(run, FoundRun)]
        return {one.key.rpartition("/")[2]: (RunRecord(one.path), one.not_carried) for one in done}

    return imported


@pytest.fixture
def full(wandb_dir, imported):
    return imported(folder_of(wandb_dir, "full"))["full"][0]


def folder_of(wandb_dir, name):
    """The only folder of a run."""
    (folder,) = {
        folder
        for folder in wandb_dir.glob("offline-run-*")
        for record in records(folder)
        if record.run.display_name == name
    }
    return folder


def records(folder):
    """Records of a log by wandb's own protobufs; all pieces of these logs lie in whole blocks."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run-*.wandb")
    data, position, parts = path.read_bytes(), 7, b""
    while len(data) - position >= 7:
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if position + 7 + length > len(data):
            return
        piece = data[position + 7 : position + 7 + length]
        position += 7 + length
        parts = piece if kind in (1, 2) else parts + piece
        if kind in (1, 4):
            yield Record.FromString(parts)


def rows_of(record, name="metrics_history.json"):
    with open(os.path.join(record.path, name), encoding="utf-8") as file:
        return json.load(file)


def points(record, name):
    return [(row["step"], row[name]) for row in rows_of(record) if name in row]


def files(record):
    with open(os.path.join(record.path, "artifacts.json"), encoding="utf-8") as file:
        return {entry["path"]: entry for entry in json.load(file)["artifacts"]}


def read(record, path):
    with open(os.path.join(record.path, path), "rb") as file:
        return file.read()


# ---------------------------------------------------------------------- runs


def test_every_run_of_the_folder_is_imported(wandb_dir, imported):
    found = imported(wandb_dir)
    assert set(found) == {"full", "fails", "stopped", "resumed", "killed"}
    assert {record.project for record, _ in found.values()} == {"digits"}


def test_a_run_folder_and_a_single_log_can_be_given(wandb_dir, imported, root):
    folder = folder_of(wandb_dir, "full")
    assert set(imported(folder)) == {"full"}
    shutil.rmtree(root)
    (log,) = folder.glob("run-*.wandb")
    assert len(points(imported(log)["full"][0], "loss")) == 200


def test_a_second_import_knows_the_runs(wandb_dir, imported, root):
    imported(wandb_dir)
    again = wandb_folder.runs(str(wandb_dir), Options())
    assert {Importer(str(root)).take(run).outcome for run in again} == {"known"}


def test_what_a_folder_is_can_be_told_from_outside(wandb_dir, tmp_path):
    folder = folder_of(wandb_dir, "full")
    (log,) = folder.glob("run-*.wandb")
    assert all(wandb_folder.recognizes(str(path)) for path in (wandb_dir, folder, log))
    unknown = [wandb_dir.parent, folder / "files", tmp_path, tmp_path / "gone"]
    assert not any(wandb_folder.recognizes(str(path)) for path in unknown)


def test_the_exit_code_is_the_status_and_its_absence_a_crash(wandb_dir, imported):
    found = imported(wandb_dir)
    assert {name: record.status for name, (record, _) in found.items()} == {
        "full": "finished", "fails": "failed", "stopped": "killed", "resumed": "finished",
        "killed": "crashed",
    }  # fmt: skip


def test_who_and_what_the_run_is_comes_along(full):
    assert full.tags == {"a": "", "b c": "", "job_type": "train"}
    assert (full.notes, full.group) == ("some notes", "first")
    assert full.params == {
        "lr": 0.1, "model": {"depth": 3, "widths": [8, 16]}, "none": None, "flag": True, "late": 7,
    }  # fmt: skip


def test_where_and_when_it_ran_comes_along(wandb_dir, full):
    environment = json.loads(read(full, "environment.json"))
    (run,) = [r.run for r in records(folder_of(wandb_dir, "full")) if r.HasField("run")]
    assert environment["executable"] == sys.executable
    assert environment["python_version"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["hostname"] == run.host
    assert environment["packages"]["wandb"] == metadata.version("wandb")
    created_at = run.start_time.ToDatetime().isoformat(timespec="milliseconds") + "Z"
    assert full.created_at == created_at
    assert full.duration_s >= 0


# ---------------------------------------------------------------------- rows


def test_every_point_comes_back_under_the_name_that_wandb_shows(full):
    assert points(full, "loss") == [(i, 1 / (i + 1)) for i in range(200)]
    assert points(full, "train/acc") == [(i, i / 7) for i in range(200)]
    assert points(full, "deep.a") == [(i, i) for i in range(200)]
    assert points(full, "deep.b.c") == [(i, i / 3) for i in range(200)]
    assert points(full, "sparse") == [(1000, 1.5)]
    assert points(full, "w") == [(200, 2**53 + 1)]


def test_times_are_those_of_the_log(wandb_dir, full):
    stamps = [
        json.loads(item.value_json)
        for record in records(folder_of(wandb_dir, "full"))
        for item in record.history.item
        if list(item.nested_key) == ["_timestamp"]
    ]
    assert [row["time"] for row in rows_of(full)[:200]] == stamps[:200]


def test_what_is_not_finite_stays_so(full):
    assert [points(full, name) for name in "xyz"] == [
        [(200, "NaN")], [(200, "Infinity")], [(200, "-Infinity")]
    ]  # fmt: skip


def test_numbers_that_only_the_summary_has_are_a_last_row(full):
    assert points(full, "best") == [(1005, 0.9)]
    assert rows_of(full)[-1].keys() == {"step", "time", "best"}


def test_other_values_that_only_the_summary_has_are_a_file(full):
    assert json.loads(read(full, "artifacts/summary.json")) == {"checkpoint": "step-7.pt"}


def test_values_of_the_history_that_are_no_numbers_are_a_table(full):
    (row,) = json.loads(read(full, "artifacts/values that are no numbers.json"))
    assert (row["step"], row["word"], row["list"]) == (1005, "text", [1, 2])


def test_several_processes_of_one_run_are_one_run_on_its_own_axis(wandb_dir, imported):
    record, _ = imported(wandb_dir)["resumed"]
    assert points(record, "loss") == [(step * 10, step / 3) for step in range(100)]
    assert rows_of(record)[0].keys() == {"step", "time", "loss"}
    assert record.params == {"from0": 0, "from50": 50}


def test_rows_that_were_copied_to_wandb_keep_their_times(wandb_dir, imported):
    record, _ = imported(wandb_dir)["resumed"]
    assert [row["time"] for row in rows_of(record)] == [1763640000.5 + n for n in range(100)]
    assert (record.created_at, record.duration_s) == ("2025-11-20T12:00:00.500Z", 99.0)


def test_a_killed_run_gives_every_row_that_reached_its_log(wandb_dir, imported):
    record, not_carried = imported(wandb_dir)["killed"]
    whole = sum(r.HasField("history") for r in records(folder_of(wandb_dir, "killed")))
    assert 0 < whole <= ROWS
    assert points(record, "loss") == [(i, i / 7) for i in range(whole)]
    assert set(not_carried) <= {"torn ends of the log: 1"}
    assert record.params == {"lr": 1}


def test_samples_of_the_machines_load_are_system_metrics(wandb_dir, full):
    samples = [r.stats for r in records(folder_of(wandb_dir, "full")) if r.HasField("stats")]
    rows = rows_of(full, "system_metrics.json")
    assert len(rows) == len(samples) > 0
    for number, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        values = {item.key: json.loads(item.value_json) for item in sample.item}
        assert row == {"step": number, "time": row["time"], **values}
        assert row["time"] == sample.timestamp.seconds + sample.timestamp.nanos / 1e9


def test_the_console_comes_along_to_the_last_character(full):
    assert read(full, "console.log").decode().endswith("a printed line\nthe rest")


# ---------------------------------------------------------------------- files


def test_images_keep_their_pixels_and_steps(full):
    import numpy as np
    from PIL import Image

    picture = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    expected = {
        "figures/picture-001001.png": picture,
        "figures/several/0-001002.png": picture,
        "figures/several/1-001002.png": picture[::-1],
    }
    for path, pixels in expected.items():
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(read(full, path)))), pixels)
    entry = files(full)["figures/picture-001001.png"]
    assert (entry["kind"], entry["name"], entry["step"]) == ("image", "picture", 1001)


def test_tables_and_histograms_have_the_form_of_ours(full):
    import numpy as np

    assert json.loads(read(full, "artifacts/table-001003.json")) == [
        {"p": 1, "q": "u"}, {"p": 2.5, "q": None}
    ]  # fmt: skip
    assert files(full)["artifacts/table-001003.json"]["kind"] == "table"
    histogram = json.loads(read(full, "artifacts/values-001004.json"))
    counts, edges = np.histogram(np.arange(100.0), 10)
    assert (histogram["counts"], histogram["edges"]) == (counts.tolist(), edges.tolist())
    assert histogram["count"] == 100


def test_artifacts_come_with_every_version_and_what_is_said_of_them(full):
    kept = files(full)
    assert read(full, "artifacts/data/sub/train.csv") == b"1,2,3"
    assert read(full, "artifacts/data-v1/sub/train.csv") == b"4,5,6"
    entry = kept["artifacts/data/sub/train.csv"]
    assert (entry["kind"], entry["description"]) == ("dataset", "all of it")
    assert json.loads(read(full, "artifacts/data.metadata.json")) == {"rows": 3}


def test_saved_files_and_other_media_come_along(full):
    assert read(full, "artifacts/saved.txt") == b"kept"
    assert b"<b>x</b>" in read(full, "artifacts/page-001005.html")
    assert not [path for path in files(full) if "requirements" in path or "media/" in path]


def test_what_has_no_place_or_no_bytes_is_counted(wandb_dir, imported):
    _, not_carried = imported(wandb_dir)["full"]
    assert set(not_carried) >= {
        "alerts: 1", "axes of single metrics: 1", "files of artifact 'data' that are references: 1",
    }  # fmt: skip


def test_missing_files_are_counted_and_stop_nothing(wandb_dir, tmp_path, imported):
    folder = tmp_path / "offline-run-20261121_120000-copy"
    folder.mkdir()
    (log,) = folder_of(wandb_dir, "full").glob("run-*.wandb")
    shutil.copy(log, folder)
    record, not_carried = imported(tmp_path)["full"]
    assert len(points(record, "loss")) == 200
    assert "media whose files are not there: 5" in not_carried


def test_a_log_cannot_fetch_files_that_its_run_did_not_log(wandb_dir, tmp_path, imported):
    source = folder_of(wandb_dir, "full")
    first = [record for record in records(source) if record.HasField("run")]
    (artifact,) = [r for r in records(source) if r.artifact.metadata == '{"rows":3}']
    secret = tmp_path / "secret.txt"
    secret.write_text("1,2,4")
    artifact.artifact.manifest.contents[0].local_path = str(secret)
    write_log(tmp_path / source.name, [*first, artifact])
    record, not_carried = imported(tmp_path / source.name)["full"]
    assert files(record).keys() == {"artifacts/data.metadata.json"}
    assert not_carried == ["files of artifact 'data' that are not on this machine: 1"]


def test_a_medium_is_looked_for_below_the_runs_files_only(wandb_dir, tmp_path, imported):
    source = folder_of(wandb_dir, "full")
    kept = [r for r in records(source) if r.HasField("run") or _has_picture(r)]
    (tmp_path / "secret.png").write_bytes(b"hidden")
    for item in kept[-1].history.item:
        if item.nested_key[-1] == "path":
            item.value_json = '"../../secret.png"'
    write_log(tmp_path / source.name, kept)
    record, not_carried = imported(tmp_path / source.name)["full"]
    assert (files(record), not_carried) == ({}, ["media whose files are not there: 1"])


def _has_picture(record):
    return any(list(item.nested_key) == ["picture", "path"] for item in record.history.item)


def write_log(folder, kept):
    """Write records as a log, all in one block."""
    (folder / "files").mkdir(parents=True)
    data = b":W&B\xe1\xbe\x00"
    for record in kept:
        content = record.SerializeToString()
        checksum = zlib.crc32(content, zlib.crc32(b"\1"))
        data += struct.pack("<IHB", checksum, len(content), 1) + content
        assert len(data) < 32768
    (folder / f"run-{folder.name[-8:]}.wandb").write_bytes(data)


def test_nothing_is_left_in_the_temporary_folder(wandb_dir, imported, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert imported(wandb_dir)
    gc.collect()
    assert list((tmp_path / "tmp").iterdir()) == []


# ---------------------------------------------------------------------- damage


def test_a_damaged_log_gives_what_is_whole_and_stops_no_other(wandb_dir, tmp_path, imported):
    copy = tmp_path / "wandb"
    shutil.copytree(wandb_dir, copy, symlinks=True)
    (log,) = folder_of(copy, "killed").glob("run-*.wandb")
    content = bytearray(log.read_bytes())
    content[100_000] ^= 0xFF
    log.write_bytes(content)
    found = imported(copy)
    assert set(found) == {"full", "fails", "stopped", "resumed", "killed"}
    record, not_carried = found["killed"]
    assert set(points(record, "loss")) <= {(i, i / 7) for i in range(ROWS)}
    assert 0 < len(points(record, "loss")) < ROWS
    assert any(text.startswith("damaged places in the log: ") for text in not_carried)


@pytest.mark.parametrize("content", [b"", b"not a log of W&B", b":W&B\xe1\xbe\x00"])
def test_a_log_without_a_run_is_named_and_stops_no_other(wandb_dir, tmp_path, content):
    copy = tmp_path / "wandb"
    shutil.copytree(folder_of(wandb_dir, "fails"), copy / folder_of(wandb_dir, "fails").name)
    bad = copy / "offline-run-20261121_120000-bad1" / "run-bad1.wandb"
    bad.parent.mkdir()
    bad.write_bytes(content)
    found = list(wandb_folder.runs(str(copy), Options()))
    (unreadable,) = [run for run in found if isinstance(run, Unreadable)]
    assert unreadable.place == str(bad)
    assert [run.name for run in found if isinstance(run, FoundRun)] == ["fails"]


def test_the_value_that_a_metric_is_summed_up_by_says_its_goal(full):
    assert full.summary["goals"] == {"loss": "minimize"}


def test_texts_of_the_log_are_kept_without_secrets_and_columns_of_tables_as_they_are(tmp_path):
    files, token = WandbFiles(), "ghp_" + "a1B2" * 9
    files.keep_json({"note": f"key {token}", "password": "hunter22"}, "summary.json", "dict")
    files.keep_json([{"token": "the", "count": 3}], "words-000001.json", "table", 1)
    summary, table = [json.loads(Path(file.path).read_bytes()) for file in files.found]
    assert summary == {"note": "key ***", "password": "***"}
    assert table == [{"token": "the", "count": 3}]


def test_a_medium_behind_a_link_is_not_taken(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key.png").write_text("SECRET")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "media").symlink_to(tmp_path / "private")
    (tmp_path / "files" / "a.png").symlink_to(tmp_path / "private" / "key.png")
    files = WandbFiles()
    for path in ("media/key.png", "a.png", "../private/key.png"):
        assert files.take_media(
            {"_type": "image-file", "path": path}, "p", 0, str(tmp_path / "files")
        )
    assert files.found == []
    assert files.left_out["media whose files are not there"] == 3
