"""Everything here was written by TensorBoard's own writers: torch's, tensorboardX and its own."""

import gc
import io
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.backends.tensorboard import TensorBoardBackend
from experiment_tracking.importers import tensorboard_events
from experiment_tracking.importers.extracted import ExtractedFiles
from experiment_tracking.importers.found import FoundRun, Options, Unreadable
from experiment_tracking.importers.imported import Importer
from experiment_tracking.importers.tensorboard_log import shortest
from experiment_tracking.registry.record import RunRecord

pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")
pytest.importorskip("torch", reason="pip install 'experiment_tracking[torch]'")

START = 1763640000.5

WRITE = """
import sys
import numpy as np
import torch
import tensorboardX
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image import metadata as images
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard import SummaryWriter

START = 1763640000.5
runs = sys.argv[1]

writer = SummaryWriter(f"{runs}/resnet")
for step in range(200):
    writer.add_scalar("train/loss", (step + 1) / 7, step, walltime=START + step)
    writer.add_scalar("train/acc", step / 200, step, walltime=START + step)
writer.add_scalar("odd", float("nan"), 0)
writer.add_scalar("odd", float("inf"), 1)
writer.add_scalar("odd", -float("inf"), 2)
writer.add_scalar("as tensor", 0.1, 5, new_style=True)
writer.add_scalar("as double", 0.1, 5, new_style=True, double_precision=True)
writer.add_scalars("both", {"train": 0.25, "val": 0.5}, 3)
writer.add_scalars("both", {"train": 0.125, "val": 0.75}, 4)
picture = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
writer.add_image("pictures/first", picture, 7, dataformats="HWC", walltime=START)
writer.add_histogram("weights", np.arange(100.0), 7)
writer.add_text("remarks", "It *works*.", 7)
writer.add_hparams({"lr": 0.1, "batch": 32, "optimizer": "adam"}, {"final/acc": 0.9})
writer.add_audio("tone", torch.zeros(1, 100), 3)
writer.add_graph(torch.nn.Linear(2, 2), torch.zeros(1, 2))
writer.add_pr_curve("curve", np.array([0, 1, 1]), np.array([0.1, 0.9, 0.8]), 0)
writer.add_pr_curve("curve", np.array([0, 1, 1]), np.array([0.1, 0.9, 0.8]), 1)
writer.add_custom_scalars({"t": {"a": ["Multiline", ["train/loss"]]}})
writer.close()

writer = SummaryWriter(f"{runs}/restarted", filename_suffix=".9")
for step in range(100):
    writer.add_scalar("loss", step / 3, step)
writer.close()
writer = SummaryWriter(f"{runs}/restarted", purge_step=60, filename_suffix=".10")
for step in range(60, 120):
    writer.add_scalar("loss", step / 5, step)
writer.close()

writer = SummaryWriter(f"{runs}/search")
for lr in (0.1, 0.2, 0.3):
    writer.add_hparams({"lr": lr}, {"score": lr * 10}, run_name=f"1763640{int(lr * 10):03d}.25")
writer.close()

writer = tensorboardX.SummaryWriter(f"{runs}/group/x", write_to_disk=True)
for step in range(50):
    writer.add_scalar("loss", 1 / (step + 1), step)
writer.add_histogram("weights", np.arange(100.0), 1)
writer.add_text("remarks", "x", 2)
writer.add_hparams({"lr": 0.5}, {"score": 1.5})
writer.close()

writer = EventFileWriter(f"{runs}/tf2/train")
png = torch.utils.tensorboard.summary.image("i", picture, dataformats="HWC").value[0].image
image = make_tensor_proto([b"8", b"8", png.encoded_image_string, png.encoded_image_string])
about = images.create_summary_metadata("", "", converted_to_tensor=False)
summaries = [
    hparams_pb({"units": 16, "dropout": 0.1}),
    histogram_pb("kernel", np.arange(100.0), buckets=10),
    text_pb("note", "from *TF2*"),
    Summary(value=[Summary.Value(tag="shown", metadata=about, tensor=image)]),
]
for step in range(20):
    summaries.append(scalar_pb("epoch_loss", 0.1 * (step + 1)))
    writer.add_event(Event(wall_time=START + step, step=step, summary=summaries[-1]))
for summary in summaries[:4]:
    writer.add_event(Event(wall_time=START, step=2, summary=summary))
bare = Summary(value=[Summary.Value(tag="epoch_loss", tensor=make_tensor_proto(np.float32(3.5)))])
writer.add_event(Event(wall_time=START, step=20, summary=bare))
writer.close()
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Event files of all writers."""
    folder = tmp_path_factory.mktemp("logs") / "runs"
    done = subprocess.run([sys.executable, "-c", WRITE, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def imported(root):
    """Import a source; give its runs by name, with what was not carried."""

    def imported(source):
        importer = Importer(str(root))
        found = tensorboard_events.runs(str(source), Options())
        done = [importer.take(run) for run in found if isinstance(run, FoundRun)]
        return {one.key.rpartition("/")[2]: (RunRecord(one.path), one.not_carried) for one in done}

    return imported


def rows_of(record):
    """Rows as they stand in the file: step, time and metrics."""
    with open(os.path.join(record.path, "metrics_history.json"), encoding="utf-8") as file:
        return json.load(file)


def points(record, name):
    return [(row["step"], row[name]) for row in rows_of(record) if name in row]


def files(record):
    """Entries of the kept files, by path."""
    with open(os.path.join(record.path, "artifacts.json"), encoding="utf-8") as file:
        return {entry["path"]: entry for entry in json.load(file)["artifacts"]}


def read(record, path):
    with open(os.path.join(record.path, path), "rb") as file:
        return file.read()


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def write_run(folder, rows):
    backend = TensorBoardBackend(folder)
    backend.start_run("r")
    backend.log_batch(rows)
    backend.close()


def row(step, **metrics):
    return {"step": step, "time": START + step, **metrics}


# ---------------------------------------------------------------------- runs


def test_each_folder_with_event_files_is_a_run_called_by_its_path(written, imported):
    assert set(imported(written)) == {
        "resnet", "restarted", "search", "search-1763640001.25", "search-1763640002.25",
        "search-1763640003.25", "group-x", "tf2-train",
    }  # fmt: skip


def test_a_folder_of_one_run_and_a_single_file_can_be_given(written, imported, root):
    record, _ = imported(written / "group" / "x")["x"]
    assert (record.project, len(points(record, "loss"))) == ("group", 50)
    first = min((written / "restarted").iterdir())
    record, _ = imported(first)["restarted"]
    assert len(points(record, "loss")) == 100


def test_a_second_import_knows_the_runs(written, imported, root):
    imported(written / "restarted")
    again = tensorboard_events.runs(str(written / "restarted"), Options())
    assert [Importer(str(root)).take(run).outcome for run in again] == ["known"]


def test_what_a_folder_is_can_be_told_from_outside(written, tmp_path):
    event_file = next((written / "restarted").iterdir())
    (tmp_path / "results.csv").touch()
    known = [written, written / "resnet", written / "tf2", event_file]
    assert all(tensorboard_events.recognizes(str(path)) for path in known)
    unknown = [written.parent, tmp_path, tmp_path / "results.csv", tmp_path / "gone"]
    assert not any(tensorboard_events.recognizes(str(path)) for path in unknown)


def test_the_event_files_of_run_folders_are_passed_over(tmp_path, make, imported, root):
    with make("digits", "ours", use_tensorboard=True) as tracker:
        tracker.log_metrics({"loss": 1.0}, 0)
    write_run(root / "digits" / "theirs", [row(0, loss=2.0)])
    found = tensorboard_events.runs(str(root / "digits"), Options())
    assert [run.name for run in found] == ["theirs"]
    shutil.rmtree(root / "digits" / "theirs")


# ---------------------------------------------------------------------- scalars


def test_every_point_comes_back_as_the_number_that_was_logged(written, imported):
    record, _ = imported(written)["resnet"]
    losses = [(step, shortest(float32((step + 1) / 7))) for step in range(200)]
    assert points(record, "train/loss") == losses
    assert [float32(value) for _, value in points(record, "train/loss")] == [
        float32((step + 1) / 7) for step in range(200)
    ]
    assert points(record, "train/acc") == [(step, step / 200) for step in range(200)]
    assert points(record, "as tensor") == points(record, "as double") == [(5, 0.1)]


def test_points_of_one_step_and_time_are_one_row(written, imported):
    record, _ = imported(written)["resnet"]
    first = rows_of(record)[0]
    assert first == {"step": 0, "time": START, "train/loss": 0.14285715, "train/acc": 0.0}
    assert [r["time"] for r in rows_of(record)[:200]] == [START + step for step in range(200)]


def test_a_metric_twice_in_one_step_and_time_is_two_rows(tmp_path, imported):
    write_run(tmp_path / "r", [row(1, a=1.0), row(1, a=2.0, b=3.0), row(1, b=4.0)])
    record, _ = imported(tmp_path / "r")["r"]
    assert (points(record, "a"), points(record, "b")) == (
        [(1, 1.0), (1, 2.0)],
        [(1, 3.0), (1, 4.0)],
    )


def test_what_is_not_finite_stays_so(written, imported):
    record, _ = imported(written)["resnet"]
    assert points(record, "odd") == [(0, "NaN"), (1, "Infinity"), (2, "-Infinity")]


def test_scalars_of_tensorflow_2_come_with_or_without_their_plugins_name(written, imported):
    record, _ = imported(written)["tf2-train"]
    expected = [(step, shortest(float32(0.1 * (step + 1)))) for step in range(20)]
    assert points(record, "epoch_loss") == [*expected, (20, 3.5)]


def test_tensorboardx_is_read_point_for_point(written, imported):
    record, _ = imported(written)["group-x"]
    expected = [(step, shortest(float32(1 / (step + 1)))) for step in range(50)]
    assert points(record, "loss") == expected


def test_a_restart_that_goes_back_is_kept_as_it_is(written, imported):
    record, not_carried = imported(written)["restarted"]
    first = [(step, shortest(float32(step / 3))) for step in range(100)]
    second = [(step, shortest(float32(step / 5))) for step in range(60, 120)]
    assert points(record, "loss") == first + second
    assert "restarts, since which TensorBoard hides rows that are kept here: 1" in not_carried


def test_the_tenth_file_of_a_process_comes_behind_its_ninth(tmp_path, imported):
    for number in (9, 10):
        write_run(tmp_path / "one", [row(number, loss=1.0)])
        (path,) = (tmp_path / "one").iterdir()
        (tmp_path / "r").mkdir(exist_ok=True)
        path.rename(tmp_path / "r" / f"events.out.tfevents.1763640000.host.77.{number}")
    record, _ = imported(tmp_path / "r")["r"]
    assert points(record, "loss") == [(9, 1.0), (10, 1.0)]


def test_the_curves_of_add_scalars_are_metrics_of_their_run(written, imported):
    record, _ = imported(written)["resnet"]
    assert points(record, "both/train") == [(3, 0.25), (4, 0.125)]
    assert points(record, "both/val") == [(3, 0.5), (4, 0.75)]


def test_a_folder_that_is_only_called_like_a_curve_stays_a_run(tmp_path, imported):
    write_run(tmp_path / "logs" / "a", [row(0, loss=1.0)])
    write_run(tmp_path / "logs" / "a" / "loss_2", [row(0, loss=2.0, acc=3.0)])
    found = imported(tmp_path / "logs")
    assert set(found) == {"a", "a-loss_2"}
    assert points(found["a-loss_2"][0], "loss") == [(0, 2.0)]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_shortest_decimal_is_the_same_float32(value):
    assert float32(shortest(value)) == value
    digits = len(Decimal(repr(shortest(value))).normalize().as_tuple().digits)
    if digits > 1:
        assert float32(float(f"{value:.{digits - 2}e}")) != value


def test_decimals_of_up_to_six_digits_come_back_as_they_were_typed():
    typed = [0.1, 0.3, 1e-4, 3e-05, 123.456, -0.7, 99999.5, 1.0, 0.0]
    assert [shortest(float32(value)) for value in typed] == typed
    assert math.isnan(shortest(math.nan))


# ---------------------------------------------------------------------- params and status


def test_the_folder_of_add_hparams_belongs_to_its_run(written, imported):
    record, _ = imported(written)["resnet"]
    assert record.params == {"batch": 32, "lr": 0.1, "optimizer": "adam"}
    assert type(record.params["batch"]) is int
    assert points(record, "final/acc") == [(0, 0.9)]
    assert record.status == "finished"


def test_the_trials_of_a_search_stay_runs_of_their_own(written, imported):
    found = imported(written)
    trials = [found[f"search-176364000{n}.25"][0] for n in (1, 2, 3)]
    assert [trial.params for trial in trials] == [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}]
    assert [points(trial, "score") for trial in trials] == [[(0, 1.0)], [(0, 2.0)], [(0, 3.0)]]


def test_hparams_of_tensorflow_2_are_params(written, imported):
    record, _ = imported(written)["tf2-train"]
    assert record.params == {"dropout": 0.1, "units": 16}


@pytest.mark.parametrize(("ended", "status"), [("finished", "finished"), ("failed", "failed")])
def test_the_status_of_the_session_is_that_of_the_run(tmp_path, imported, ended, status):
    backend = TensorBoardBackend(tmp_path / "r")
    backend.start_run("r", {"lr": 0.1})
    backend.log_batch([row(0, loss=1.0)])
    backend.end_run(ended)
    record, _ = imported(tmp_path / "r")["r"]
    assert (record.status, record.params) == (status, {"lr": 0.1})


def test_a_run_lasts_from_its_first_to_its_last_record(written, tmp_path, imported):
    write_run(tmp_path / "r", [row(0, loss=1.0), row(60, loss=0.5)])
    record, _ = imported(tmp_path / "r")["r"]
    assert (record.created_at, record.duration_s) == ("2025-11-20T12:00:00.500Z", 60.0)
    # Its file is younger than the times that its points were given.
    assert imported(written)["resnet"][0].created_at == "2025-11-20T12:00:00.500Z"


# ---------------------------------------------------------------------- files


def test_images_keep_their_bytes_step_and_time(written, imported):
    from PIL import Image

    record, _ = imported(written)["resnet"]
    entry = files(record)["figures/pictures/first-000007.png"]
    assert (entry["kind"], entry["name"], entry["step"]) == ("image", "pictures/first", 7)
    assert entry["logged_at"] == "2025-11-20T12:00:00.500Z"
    pixels = np.asarray(Image.open(io.BytesIO(read(record, entry["path"]))))
    assert np.array_equal(pixels, np.arange(192, dtype=np.uint8).reshape(8, 8, 3))


def test_several_images_of_a_tensor_are_several_files(written, imported):
    record, _ = imported(written)["tf2-train"]
    paths = ["figures/shown/0-000002.png", "figures/shown/1-000002.png"]
    assert [path for path in files(record) if path.startswith("figures/")] == paths
    assert read(record, paths[0]).startswith(b"\x89PNG")


def test_texts_come_back_without_the_writers_suffix(written, imported):
    found = imported(written)
    assert read(found["resnet"][0], "artifacts/remarks-000007.txt") == b"It *works*."
    assert read(found["tf2-train"][0], "artifacts/note-000002.txt") == b"from *TF2*"
    assert files(found["group-x"][0])["artifacts/remarks-000002.txt"]["kind"] == "text"


@pytest.mark.parametrize(("run", "step"), [("resnet", 7), ("group-x", 1)])
def test_histograms_have_the_counts_and_the_statistics_of_the_values(written, imported, run, step):
    record, _ = imported(written)[run]
    histogram = json.loads(read(record, f"artifacts/weights-{step:06d}.json"))
    values, edges = np.arange(100.0), histogram["edges"]
    assert (histogram["count"], histogram["min"], histogram["max"]) == (100, 0.0, 99.0)
    assert histogram["mean"] == pytest.approx(values.mean())
    assert histogram["std"] == pytest.approx(values.std())
    assert histogram["counts"] == np.histogram(values, edges)[0].tolist()
    assert files(record)[f"artifacts/weights-{step:06d}.json"]["kind"] == "histogram"


def test_a_histogram_of_a_tensor_has_its_bins_and_says_what_is_estimated(written, imported):
    record, not_carried = imported(written)["tf2-train"]
    histogram = json.loads(read(record, "artifacts/kernel-000002.json"))
    assert histogram["counts"] == [10] * 10
    assert histogram["edges"] == pytest.approx(np.linspace(0, 99, 11))
    assert histogram["mean"] == pytest.approx(49.5)
    assert "mean and std of histograms: here those of the bins' middles: 1" in not_carried


def test_audio_is_kept_as_a_file(written, imported):
    record, _ = imported(written)["resnet"]
    assert read(record, "artifacts/tone-000003.wav").startswith(b"RIFF")


def test_what_has_no_place_is_counted(written, imported):
    _, not_carried = imported(written)["resnet"]
    assert {
        "graphs: 1", "precision-recall curves: 2", "layouts of custom scalars: 1",
    } <= set(not_carried)  # fmt: skip


def test_other_files_in_the_folder_of_a_run_are_counted(tmp_path, imported):
    write_run(tmp_path / "r", [row(0, loss=1.0)])
    (tmp_path / "r" / "checkpoints").mkdir()
    (tmp_path / "r" / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "r" / "hparams.yaml").touch()
    assert imported(tmp_path / "r")["r"][1] == ["files beside the event files: 2"]


def test_nothing_is_left_in_the_temporary_folder(written, imported, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert imported(written)
    gc.collect()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_files_of_a_part_stay_as_long_as_those_of_the_whole(tmp_path):
    whole, part = ExtractedFiles(), ExtractedFiles()
    part.keep(b"content", "a.txt", "text")
    whole.take_over(part)
    del part
    gc.collect()
    with open(whole[0].path, "rb") as file:
        assert file.read() == b"content"


# ---------------------------------------------------------------------- damage


def test_a_torn_or_damaged_file_gives_what_is_whole_and_says_so(tmp_path, imported):
    for name in ("torn", "damaged"):
        write_run(tmp_path / "logs" / name, [row(n, loss=n / 2) for n in range(100)])
    (torn,) = (tmp_path / "logs" / "torn").iterdir()
    torn.write_bytes(torn.read_bytes()[:-3])
    (damaged,) = (tmp_path / "logs" / "damaged").iterdir()
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    found = imported(tmp_path / "logs")
    assert points(found["torn"][0], "loss") == [(n, n / 2) for n in range(99)]
    assert found["torn"][1] == ["torn ends of event files: 1"]
    assert len(points(found["damaged"][0], "loss")) == 99
    assert found["damaged"][1] == ["damaged places in event files: 1"]


def test_a_run_that_cannot_be_read_stops_no_other(tmp_path):
    for name in ("a", "b", "c"):
        write_run(tmp_path / "logs" / name, [row(0, loss=1.0)])
    os.symlink("gone", tmp_path / "logs" / "b" / "events.out.tfevents.1")
    found = list(tensorboard_events.runs(str(tmp_path / "logs"), Options()))
    assert [type(run) for run in found] == [FoundRun, Unreadable, FoundRun]
    assert found[1].place == str(tmp_path / "logs" / "b")


def test_a_value_that_is_not_what_its_kind_says_is_counted(tmp_path, imported):
    from experiment_tracking.backends.tensorboard import _event, _framer, _version

    scalars = {"plugin_data": {"plugin_name": "scalars"}}
    two = {"tag": "two", "metadata": scalars, "tensor": {"dtype": 1, "float_val": [1.0, 2.0]}}
    text = {"tag": "text", "metadata": scalars, "tensor": {"dtype": 7, "string_val": [b"x"]}}
    good = {"tag": "good", "metadata": scalars, "tensor": {"dtype": 9, "int64_val": [7]}}
    events = [_version(START), *(_event(START, 0, value) for value in (two, text, good))]
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "events.out.tfevents.1").write_bytes(b"".join(map(_framer(), events)))
    record, not_carried = imported(tmp_path / "r")["r"]
    assert points(record, "good") == [(0, 7.0)]
    assert not_carried == ["damaged values of the kind 'scalars': 2"]
