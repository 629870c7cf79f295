import math
import os
import shutil
import socket
import struct
import subprocess
import sys
import zlib

import pytest

from experiment_tracking.backends.interface import check_backend
from experiment_tracking.backends.tensorboard import (
    RowBudget,
    TensorBoardBackend,
    flatten_params,
    remove_events,
    thin,
)
from experiment_tracking.errors import BackendError
from experiment_tracking.testing import BackendTests, Copy

pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")

NOW = 1763640000.5


def row(step, **metrics):
    return {"step": step, "time": NOW + step, **metrics}


def float32(value):
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def write_png(path, width, height):
    """A grey PNG, made by hand: its pixels do not matter."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x80" * width) * height)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def start_backend(folder, **options):
    backend = TensorBoardBackend(**options)
    backend.start_run(folder.name, {}, path=folder)
    return backend


@pytest.fixture
def backend_in():
    """Start backends that are closed when the test is over."""
    started = []

    def start(folder, **options):
        started.append(start_backend(folder, **options))
        return started[-1]

    yield start
    for backend in started:
        backend.close()


def events_in(folder):
    """Every event of a folder, checksums verified, by TensorBoard's own loader."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    paths = sorted(folder.glob("events.out.tfevents.*"))
    return [event for path in paths for event in LegacyEventFileLoader(str(path)).Load()]


def points_in(folder):
    """Mapping of tag to (step, wall time, value) as written."""
    points = {}
    for event in events_in(folder):
        for value in event.summary.value:
            point = (event.step, event.wall_time, value.simple_value)
            points.setdefault(value.tag, []).append(point)
    return points


# ---------------------------------------------------------------- files


def test_nothing_is_created_before_the_first_record(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    backend.log_batch([])
    backend.flush()
    backend.end_run("finished")
    assert list(tmp_path.iterdir()) == []


def test_nothing_heavy_is_imported_at_all(tmp_path):
    script = f"""
import sys
from experiment_tracking.backends.tensorboard import TensorBoardBackend
assert "tensorboardX" not in sys.modules
backend = TensorBoardBackend({str(tmp_path)!r})
backend.start_run("r", {{"lr": 0.1}})
assert "tensorboardX" not in sys.modules
backend.log_metrics({{"loss": 1.0}}, 0)
backend.end_run("finished")
print(*{{"numpy", "torch", "tensorboardX.writer"}} & sys.modules.keys())
from tensorboardX import SummaryWriter
import tensorboardX
assert SummaryWriter is tensorboardX.writer.SummaryWriter
assert not hasattr(tensorboardX, "no_such_thing")
"""
    # Warnings of tensorboardX's own imports are not ours, so no -W error.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_file_begins_with_its_version_and_bears_host_and_pid(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    backend.log_metrics({"loss": 1.0}, 0)
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert path.name.startswith("events.out.tfevents.")
    assert f".{socket.gethostname()}.{os.getpid()}." in path.name
    assert events_in(tmp_path / "tensorboard")[0].file_version == "brain.Event:2"


def test_two_runs_in_one_second_have_files_of_their_own(tmp_path, backend_in):
    for _ in range(3):
        backend_in(tmp_path).log_metrics({"loss": 1.0}, 0)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3


def test_a_folder_of_ones_own_takes_the_events(tmp_path, backend_in):
    backend_in(tmp_path / "run", log_dir=tmp_path / "mine").log_metrics({"loss": 1.0}, 0)
    assert points_in(tmp_path / "mine").keys() == {"loss"}


def test_events_can_be_removed_to_be_written_anew(tmp_path, backend_in):
    backend_in(tmp_path).log_metrics({"loss": 1.0}, 0)
    folder = tmp_path / "tensorboard"
    (folder / "notes.txt").touch()
    remove_events(folder)
    assert points_in(folder) == {}
    (emptied,) = folder.glob("events.*")
    remove_events(folder)  # TensorBoard may be at it still
    assert emptied.exists()
    os.utime(emptied, (NOW, NOW))
    remove_events(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_missing_folder_holds_no_events_and_is_made_anew(tmp_path, backend_in):
    remove_events(tmp_path / "none")
    backend = backend_in(tmp_path)
    backend.restart()
    backend.log_batch([row(0, loss=1.0)])
    shutil.rmtree(tmp_path / "tensorboard")
    backend.restart()
    backend.log_batch([row(0, loss=1.0), row(1, loss=2.0)])
    assert [step for step, _, _ in points_in(tmp_path / "tensorboard")["loss"]] == [0, 1]


def test_a_run_without_any_folder_is_refused():
    backend = TensorBoardBackend()
    with pytest.raises(BackendError, match="no folder for run 'exp7'"):
        backend.start_run("exp7", {})
    with pytest.raises(BackendError, match="start_run"):
        backend.log_metrics({"loss": 1.0}, 0)


def test_one_backend_serves_one_run_after_another(tmp_path):
    backend = TensorBoardBackend()
    for name in ("one", "two"):
        backend.start_run(name, {"name": name}, path=tmp_path / name)
        backend.log_metrics({"loss": 1.0}, 0)
        backend.end_run("finished")
    for name in ("one", "two"):
        tags = points_in(tmp_path / name / "tensorboard")
        assert sorted(tags) == [
            "_hparams_/session_end_info",
            "_hparams_/session_start_info",
            "loss",
        ]


def test_a_failed_write_leaves_no_part_of_itself_and_can_be_repeated(tmp_path, backend_in):
    resource = pytest.importorskip("resource", reason="no file size limits on this system")
    backend = backend_in(tmp_path)
    backend.log_batch([row(0, loss=1.0)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = [row(step, loss=2.0) for step in range(1, 100)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            backend.log_batch(rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    backend.log_batch(rows)
    assert [p[0] for p in points_in(tmp_path / "tensorboard")["loss"]] == list(range(100))


def test_a_restart_writes_params_and_rows_anew(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    backend.log_params({"a": 1})
    backend.log_batch([row(0, loss=1.0), row(1, loss=2.0)])
    backend.restart()
    backend.log_batch([row(0, loss=3.0)])
    points = points_in(tmp_path / "tensorboard")
    assert points["loss"] == [(0, NOW, 3.0)]
    assert "_hparams_/session_start_info" in points


# ---------------------------------------------------------------- rows


def test_a_row_is_one_record_with_its_step_and_time(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    backend.log_batch([row(7, a=1, b=0.1), row(-3, a=2, b=0.2)])
    first, second = events_in(tmp_path / "tensorboard")[1:]
    assert [(v.tag, v.simple_value) for v in first.summary.value] == [("a", 1), ("b", float32(0.1))]
    assert (first.step, first.wall_time) == (7, NOW + 7)
    assert (second.step, second.wall_time) == (-3, NOW - 3)


def test_rows_of_changing_keys_repeated_and_backward_steps_are_all_kept(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    backend.log_batch([row(5, a=1), row(5, a=2), row(1, b=3, a=4), row(2, b=5)])
    points = points_in(tmp_path / "tensorboard")
    assert [(p[0], p[2]) for p in points["a"]] == [(5, 1), (5, 2), (1, 4)]
    assert [(p[0], p[2]) for p in points["b"]] == [(1, 3), (2, 5)]


def test_non_finite_values_come_as_floats_or_as_the_texts_of_the_history(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    values = [math.nan, math.inf, -math.inf, "NaN", "Infinity", "-Infinity", 1e300, -1e300]
    backend.log_batch([row(step, loss=value) for step, value in enumerate(values)])
    read = [value for _, _, value in points_in(tmp_path / "tensorboard")["loss"]]
    expected = [math.nan, math.inf, -math.inf] * 2 + [math.inf, -math.inf]
    assert [repr(value) for value in read] == [repr(value) for value in expected]


def test_what_is_no_number_is_left_out_of_its_row(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    backend.log_batch([row(0, loss=1.0, note="by hand", gap=None)])
    assert list(points_in(tmp_path / "tensorboard")) == ["loss"]


def test_reserved_names_are_shown_as_given_and_keys_of_the_row_are_not_metrics(
    tmp_path, backend_in
):
    backend = backend_in(tmp_path)
    backend.log_batch([{**row(0, loss=1.0), "metric:time": 3, "attempt": 2, "rank": 1}])
    backend.log_metrics({"time": 4, "loss": 2.0}, 1, timestamp=NOW)
    points = points_in(tmp_path / "tensorboard")
    assert sorted(points) == ["loss", "time"]
    assert [value for _, _, value in points["time"]] == [3, 4]


def test_many_sets_of_keys_are_written_right(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    backend.log_batch([row(step, **{f"m{step % 100}": step, "a": 1}) for step in range(300)])
    points = points_in(tmp_path / "tensorboard")
    assert len(points["a"]) == 300
    assert [value for _, _, value in points["m42"]] == [42, 142, 242]


def test_twenty_thousand_values_read_back_exact_to_float32(tmp_path, backend_in):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backend = backend_in(tmp_path)
    rows = [row(step, a=math.sin(step), b=1 / (step + 1)) for step in range(10_000)]
    for start in range(0, len(rows), 100):
        backend.log_batch(rows[start : start + 100])
    backend.end_run("finished")
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    for name in ("a", "b"):
        read = [(e.step, e.wall_time, e.value) for e in accumulator.Scalars(name)]
        assert read == [(r["step"], r["time"], float32(r[name])) for r in rows]


def test_it_is_a_backend_like_any_other(tmp_path):
    bound = check_backend(TensorBoardBackend())
    bound.start_run("r", {"lr": 0.1}, path=tmp_path, project="p", run_id="x", tags={})
    bound.log_metrics({"loss": 1.0}, 0, timestamp=NOW, attempt=1)
    bound.log_batch([row(1, loss="NaN")])
    bound.log_model("handle", tmp_path)
    bound.log_figure(write_png(tmp_path / "f.png", 2, 2), "f", 0)
    bound.end_run("finished")
    assert bound.takes_batches
    assert {"loss", "f"} < points_in(tmp_path / "tensorboard").keys()


# ---------------------------------------------------------------- thinning


def test_thinning_keeps_newest_smallest_and_largest_of_each_metric():
    rows = [row(0, a=5, b=1), row(1, a=9, b=1), row(2, a=1, b=7), row(3, a=4), row(4, a=6)]
    assert thin(rows) == [row(0, b=1), row(1, a=9), row(2, a=1, b=7), row(4, a=6)]


def test_thinning_in_parts_changes_nothing():
    rows = [row(step, a=math.sin(step), b=(step * 7919) % 101) for step in range(200)]
    parts = []
    for start in range(0, 200, 7):
        parts = thin(parts + rows[start : start + 7])
    assert parts == thin(rows)


def test_thinning_lets_no_nan_win_but_keeps_the_newest():
    rows = [row(0, a="NaN"), row(1, a=2), row(2, a="Infinity"), row(3, a=1), row(4, a=math.nan)]
    assert [r["step"] for r in thin(rows)] == [2, 3, 4]
    assert [r["step"] for r in thin([row(0, a="NaN"), row(1, a="NaN")])] == [1]


def test_thinning_keeps_what_a_row_says_of_itself():
    assert thin([{**row(0, a=1), "attempt": 2}]) == [{**row(0, a=1), "attempt": 2}]


def test_the_budget_allows_a_burst_and_then_its_rate():
    now_s = 0.0
    budget = RowBudget(rows_per_s=1000, burst=5000, clock=lambda: now_s)
    assert budget.take(5000)
    assert not budget.take(1)
    now_s = 0.1
    assert budget.take(100)
    assert not budget.take(1)
    now_s = 60.0
    assert budget.take(10**6)
    assert not budget.take(1)


def test_live_rows_beyond_the_budget_are_thinned_and_none_is_due_after_a_flush(
    tmp_path, backend_in
):
    now_s = 0.0
    budget = RowBudget(rows_per_s=1000, burst=50, clock=lambda: now_s)
    backend = backend_in(tmp_path, log_dir=tmp_path, budget=budget)
    rows = [row(step, a=math.sin(step)) for step in range(10_000)]
    for start in range(0, 10_000, 10):  # 10 rows a ms: ten times the budget
        backend.log_live(rows[start : start + 10])
        now_s += 0.001
    backend.flush()
    read = points_in(tmp_path)["a"]
    assert 900 <= len(read) <= 1100
    assert [step for step, _, _ in read] == sorted({step for step, _, _ in read})
    assert read[-1][0] == 9999
    assert max(value for _, _, value in read) == float32(max(r["a"] for r in rows))
    assert min(value for _, _, value in read) == float32(min(r["a"] for r in rows))


def test_live_rows_within_the_budget_are_all_written(tmp_path, backend_in):
    backend = backend_in(tmp_path, log_dir=tmp_path, budget=RowBudget(clock=lambda: 0.0))
    for start in range(0, 5000, 50):
        backend.log_live([row(step, a=step) for step in range(start, start + 50)])
    assert len(points_in(tmp_path)["a"]) == 5000


# ---------------------------------------------------------------- other records


def test_params_are_flattened_to_what_hparams_can_show():
    params = {
        "lr": 0.1,
        "on": True,
        "model": {"depth": 3, "act": {"name": "relu"}},
        "widths": [8, 8],
        "seed": None,
        "none_of_these": {},
        "odd": math.inf,
        "huge": 10**400,
    }
    assert flatten_params(params) == {
        "lr": 0.1,
        "on": True,
        "model.depth": 3,
        "model.act.name": "relu",
        "widths": "[8, 8]",
        "seed": "None",
        "none_of_these": "{}",
        "odd": "inf",
        "huge": "1" + "0" * 400,
    }


def test_params_are_written_once_before_the_first_row_that_follows_them(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    backend.log_params({"a": 1})
    backend.log_params({"b": 2})
    backend.log_batch([row(0, loss=1.0)])
    backend.log_params({"c": 3})
    backend.log_batch([row(1, loss=1.0)])
    tags = [v.tag for event in events_in(tmp_path / "tensorboard") for v in event.summary.value]
    assert tags == ["_hparams_/session_start_info", "loss", "loss"]


def test_a_run_of_params_alone_is_written_when_it_ends(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    backend.log_params({"a": 1})
    backend.end_run("killed")
    tags = [v.tag for event in events_in(tmp_path / "tensorboard") for v in event.summary.value]
    assert tags == ["_hparams_/session_start_info", "_hparams_/session_end_info"]


def test_figures_that_are_no_png_are_left_out(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    (tmp_path / "f.html").write_text("<html></html>")
    backend.log_figure(tmp_path / "f.html", "f", 0)
    assert not (tmp_path / "tensorboard").exists()


def test_a_histogram_of_the_largest_numbers_is_written(tmp_path, backend_in):
    histogram = {"counts": [2], "edges": [1e300, 1e308], "count": 2}
    statistics = {"min": 1e300, "max": 1e308, "mean": 5e307, "std": 5e307}
    backend_in(tmp_path).log_histogram(histogram | statistics, "h", 0)
    assert "h" in points_in(tmp_path / "tensorboard")


def test_an_empty_histogram_is_left_out(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    empty = dict.fromkeys(("min", "max", "mean", "std"))
    backend.log_histogram({"counts": [], "edges": [], "count": 0, **empty}, "h", 0)
    assert not (tmp_path / "tensorboard").exists()


# ---------------------------------------------------------------- a copy in a folder of its own


class TestTensorBoard(BackendTests):
    keeps = frozenset({"params", "rows", "times", "figures", "status"})

    def make_backend(self, folder):
        return TensorBoardBackend(folder / "curves")

    def make_unreachable(self, folder):
        (folder / "file").touch()
        return TensorBoardBackend(folder / "file")

    def stored_value(self, value):
        return float32(value)

    def stored_status(self, status):
        return status if status == "finished" else "failed"

    def read(self, backend, folder):
        rows, figures = [], {}
        for event in events_in(folder / "curves" / self.run.project / self.run.name):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    rows.append((event.step, value.tag, value.simple_value, event.wall_time))
                elif value.HasField("image"):
                    figures[value.tag] = value.image.encoded_image_string
        params, status = session_in(folder / "curves" / self.run.project / self.run.name)
        return Copy(params, rows, figures, status=status)


def session_in(folder):
    """Params and status as HParams reads them, None where there are none."""
    from tensorboard.plugins.hparams import metadata

    contents = {
        value.tag: value.metadata.plugin_data.content
        for event in events_in(folder)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    start = contents.get(metadata.SESSION_START_INFO_TAG)
    end = contents.get(metadata.SESSION_END_INFO_TAG)
    params, status = {}, "running"
    if start is not None:
        kept = metadata.parse_session_start_info_plugin_data(start).hparams
        params = {name: getattr(value, value.WhichOneof("kind")) for name, value in kept.items()}
    if end is not None:
        ended = metadata.parse_session_end_info_plugin_data(end).status
        status = {1: "finished", 2: "failed"}[ended]
    return params, status


def begin(folder, run_id, **known):
    backend = TensorBoardBackend(folder)
    backend.start_run("r", {}, project="p", run_id=run_id, **known)
    return backend


def test_each_run_of_a_tracker_has_its_own_folder_in_the_shared_one(make, tmp_path):
    tracker = make("digits", backend=TensorBoardBackend(tmp_path / "curves"))
    for n, name in enumerate(("one", "two")):
        with tracker.start_run(name, config={"n": n}) as run:
            run.log_metrics({"loss": n}, step=n)
            run.log_text("some words", "notes", step=3)
            run.log_histogram([1, 2], "weights", step=4)
            run.log_dict({"a": 1}, "left out")
    for n, name in enumerate(("one", "two")):
        folder = tmp_path / "curves" / "digits" / name
        points = points_in(folder)
        assert [(step, value) for step, _, value in points["loss"]] == [(n, n)]
        assert [step for step, _, _ in points["notes"]] == [3]
        assert [step for step, _, _ in points["weights"]] == [4]
        assert "left out" not in points
        assert session_in(folder) == ({"n": n}, "finished")


def test_rows_that_come_once_more_from_the_start_are_written_once(tmp_path):
    rows = [row(step, loss=step) for step in range(10)]
    first = begin(tmp_path, "1111")
    first.log_batch(rows)
    first.log_figure(write_png(tmp_path / "f.png", 2, 2), "f", 0)
    first.end_run("failed")
    later = begin(tmp_path, "1111", rows=0)
    rows += [{**row(step, loss=100 + step), "attempt": 2} for step in range(8, 12)]
    for start in range(0, len(rows), 4):
        later.log_batch(rows[start : start + 4])
    later.end_run("finished")
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["r"]
    points = points_in(tmp_path / "p" / "r")
    assert [(step, value) for step, _, value in points["loss"]] == [
        (row["step"], row["loss"]) for row in rows
    ]
    assert len(points["f"]) == 1


def test_rows_before_a_start_are_refused(tmp_path):
    with pytest.raises(BackendError, match="call start_run"):
        TensorBoardBackend(tmp_path).log_batch([row(0, loss=1.0)])


def test_another_run_of_the_same_name_gets_a_folder_of_its_own(tmp_path):
    for run_id, value in (("1111", 1), ("2222", 2), ("3333", 3), ("2222", 4)):
        backend = begin(tmp_path, run_id)
        backend.log_batch([row(0, loss=0), row(value, loss=value)])
        backend.close()
    loss = {name: points_in(tmp_path / "p" / name)["loss"] for name in ("r", "r-2", "r-3")}
    assert {name: [step for step, _, _ in loss[name]] for name in loss} == {
        "r": [0, 1],
        "r-2": [0, 2],  # its two rows came again, whatever they held
        "r-3": [0, 3],
    }


def test_what_a_killed_process_left_half_written_is_sent_again(tmp_path):
    first = begin(tmp_path, "1111")
    rows = [row(step, loss=step) for step in range(20)]
    first.log_batch(rows[:10])
    first.log_figure(write_png(tmp_path / "f.png", 2, 2), "f", 0)
    first.log_batch(rows[10:15])
    first.close()
    (file,) = (tmp_path / "p" / "r").iterdir()
    os.truncate(file, file.stat().st_size - 3)
    later = TensorBoardBackend(tmp_path)
    arrived = later.start_run("r", {}, project="p", run_id="1111", rows=15)
    assert arrived == 14
    later.log_batch(rows[arrived:])
    later.close()
    steps = [step for step, _, _ in points_in(tmp_path / "p" / "r")["loss"]]
    assert steps == list(range(20))


def test_a_write_that_failed_is_marked_anew_as_going_back(tmp_path):
    resource = pytest.importorskip("resource", reason="no file size limits on this system")
    backend = begin(tmp_path, "1111")
    backend.log_batch([row(step, loss=step) for step in range(10)])
    later = [{**row(step, loss=-step), "attempt": 2} for step in range(5, 50)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            backend.log_batch(later)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    backend.log_batch(later)
    backend.close()
    assert steps_shown_by_python(tmp_path / "p" / "r") == list(range(50))


def steps_shown_by_python(folder):
    """Steps of ``loss`` that TensorBoard's reader in Python shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars("loss")]


def test_several_attempts_in_one_stream_show_each_step_once(tmp_path):
    backend = begin(tmp_path, "1111")
    rows = [row(step, loss=step) for step in range(10)]
    rows += [{**row(step, loss=step), "attempt": 2} for step in range(5, 12)]
    rows += [{**row(step, loss=step), "attempt": 3} for step in range(7, 9)]
    backend.log_batch(rows)
    backend.close()
    assert steps_shown_by_python(tmp_path / "p" / "r") == list(range(9))
    assert len(points_in(tmp_path / "p" / "r")["loss"]) == 19


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("histogram", b"\0 not JSON"),
        ("histogram", b'{"counts": []}'),
        ("text", None),
        ("csv", b"1"),
    ],
)
def test_files_that_are_not_what_their_type_says_are_left_out(tmp_path, backend_in, kind, content):
    path = tmp_path / "mine"
    path.mkdir() if content is None else path.write_bytes(content)
    backend_in(tmp_path).log_artifact(path, "mine", artifact_type=kind)
    assert not (tmp_path / "tensorboard").exists()


def test_files_written_anew_wait_until_they_are_whole(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    folder = tmp_path / "tensorboard"
    backend.log_batch([row(0, loss=1.0)])
    with backend.replacing():
        backend.log_batch([row(0, loss=2.0), row(1, loss=3.0)])
        assert [value for _, _, value in points_in(folder)["loss"]] == [1.0]
    assert [value for _, _, value in points_in(folder)["loss"]] == [2.0, 3.0]


def test_files_written_anew_that_fail_leave_the_old_ones(tmp_path, backend_in):
    backend = backend_in(tmp_path)
    folder = tmp_path / "tensorboard"
    backend.log_batch([row(0, loss=1.0)])
    before = sorted(folder.iterdir())
    with pytest.raises(OSError, match="full"), backend.replacing():
        backend.log_batch([row(0, loss=2.0)])
        raise OSError("full")
    assert sorted(folder.iterdir()) == before
    assert [value for _, _, value in points_in(folder)["loss"]] == [1.0]
