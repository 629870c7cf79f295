import json
import math
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.backends.interface import check_backend
from experiment_tracking.backends.tensorboard import (
    RowBudget,
    TensorBoardBackend,
    flatten_params,
    remove_events,
    thin,
)
from experiment_tracking.errors import BackendError

pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")

NOW = 1763640000.5
ALL_STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


def row(step, **metrics):
    return {"step": step, "time": NOW + step, **metrics}


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


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


# ---------------------------------------------------------------- the real TensorBoard


def write_runs(root):
    """Three runs of different params and metrics, as their backends would write them."""
    for name, lr, status in (("one", 0.1, "finished"), ("two", 0.01, "failed")):
        backend = start_backend(root / "p" / name)
        backend.log_params({"lr": lr, "model": {"depth": 3}, "on": True})
        backend.log_batch(
            [row(s, **{"train/loss": lr / (s + 1), "β": s, "a b": "NaN"}) for s in range(5)]
        )
        backend.end_run(status)
    backend = start_backend(root / "p" / "three")
    backend.log_params({"lr": 1, "optimizer": "adam", "warmup": None, "limit": math.inf})
    backend.log_batch([row(s, **{"val/acc": 0.5 + s}) for s in range(3)])
    backend.log_figure(write_png(root / "f.png", 31, 17), "confusion", 2)
    backend.log_text("some **bold** words", "notes", 1)
    histogram = {"counts": [1, 2, 1], "edges": [0, 1, 2, 3], "count": 4}
    statistics = {"min": 0.5, "max": 2.5, "mean": 1.5, "std": math.sqrt(0.5)}
    backend.log_histogram(histogram | statistics, "weights", 2)
    backend.close()


class Server:
    """TensorBoard over a folder, asked over HTTP."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
        command += ["--host", "127.0.0.1", "--port", port, "--reload_interval", "1"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def get(self, path):
        with urllib.request.urlopen(f"{self.address}/data/{path}", timeout=30) as answer:
            return answer.read()

    def ask(self, path, **query):
        return json.loads(self.get(f"{path}?{urllib.parse.urlencode(query)}"))

    def post(self, path, **body):
        request = urllib.request.Request(
            f"{self.address}/data/{path}",
            json.dumps({"experimentName": "", **body}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def wait_for(self, question, holds, wait_s=60):
        """Ask again until the answer holds; return the last answer."""
        answer, end = None, time.monotonic() + wait_s
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if holds(answer := question()):
                    break
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        return answer

    def stop(self):
        self.process.kill()
        self.process.wait()


def session_groups_of(server):
    question = {"allowedStatuses": ALL_STATUSES, "colParams": [], "startIndex": 0}
    answer = server.post("plugin/hparams/session_groups", **question, sliceSize=1000)
    return {group["name"]: group for group in answer["sessionGroups"]}


def statuses_of(server):
    groups = session_groups_of(server).items()
    return {name: group["sessions"][0]["status"] for name, group in groups}


@pytest.fixture(scope="module")
def tensorboard(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    write_runs(root)
    server = Server(root)
    server.root = root
    try:
        server.wait_for(lambda: server.ask("plugin/histograms/tags"), bool)
        ended = {"STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_UNKNOWN"}
        server.wait_for(lambda: set(statuses_of(server).values()), lambda seen: seen == ended)
        yield server
    finally:
        server.stop()


def run_named(name):
    return os.path.join("p", name, "tensorboard")


def test_tensorboard_lists_the_runs_and_their_metrics(tensorboard):
    assert set(tensorboard.ask("runs")) == {run_named(n) for n in ("one", "two", "three")}
    tags = tensorboard.ask("plugin/scalars/tags")
    assert set(tags[run_named("one")]) == {"train/loss", "β", "a b"}
    assert set(tags[run_named("three")]) == {"val/acc"}


def test_tensorboard_shows_every_point_under_odd_names_too(tensorboard):
    def shown(tag):
        return tensorboard.ask("plugin/scalars/scalars", run=run_named("two"), tag=tag)

    expected = [[NOW + s, s, float32(0.01 / (s + 1))] for s in range(5)]
    assert shown("train/loss") == expected
    assert shown("β") == [[NOW + s, s, s] for s in range(5)]
    assert [str(value) for _, _, value in shown("a b")] == ["NaN"] * 5


def test_tensorboard_shows_the_params_and_metrics_of_all_runs_together(tensorboard):
    experiment = tensorboard.post("plugin/hparams/experiment")
    kinds = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    assert kinds == {
        "lr": "DATA_TYPE_FLOAT64",
        "model.depth": "DATA_TYPE_FLOAT64",
        "on": "DATA_TYPE_BOOL",
        "optimizer": "DATA_TYPE_STRING",
        "warmup": "DATA_TYPE_STRING",
        "limit": "DATA_TYPE_STRING",
    }
    metrics = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert metrics == {"train/loss", "β", "a b", "val/acc"}


def test_tensorboard_shows_each_run_with_params_last_values_and_status(tensorboard):
    groups = session_groups_of(tensorboard)
    assert set(groups) == {run_named(n) for n in ("one", "two", "three")}
    one, three = groups[run_named("one")], groups[run_named("three")]
    assert one["hparams"] == {"lr": 0.1, "model.depth": 3, "on": True}
    assert three["hparams"] == {"lr": 1, "optimizer": "adam", "warmup": "None", "limit": "inf"}

    def values(group):
        return {m["name"]["tag"]: m["value"] for m in group["metricValues"]}

    assert values(one) == {"train/loss": pytest.approx(0.02), "β": 4, "a b": "NaN"}
    assert values(three) == {"val/acc": 2.5}
    assert statuses_of(tensorboard) == {
        run_named("one"): "STATUS_SUCCESS",
        run_named("two"): "STATUS_FAILURE",
        run_named("three"): "STATUS_UNKNOWN",  # has not ended
    }


def test_tensorboard_shows_figures_in_their_size(tensorboard):
    (image,) = tensorboard.ask(
        "plugin/images/images", run=run_named("three"), tag="confusion", sample=0
    )
    shown = tensorboard.get(f"plugin/images/individualImage?{image['query']}")
    assert shown == (tensorboard.root / "f.png").read_bytes()
    assert image["step"] == 2
    (written,) = [
        value.image
        for event in events_in(tensorboard.root / run_named("three"))
        for value in event.summary.value
        if value.tag == "confusion"
    ]
    assert (written.width, written.height) == (31, 17)


def test_tensorboard_shows_histograms_with_their_counts(tensorboard):
    ((_, step, bins),) = tensorboard.ask(
        "plugin/histograms/histograms", run=run_named("three"), tag="weights"
    )
    assert step == 2
    assert sum(count for _, _, count in bins) == pytest.approx(4)
    assert (bins[0][0], bins[-1][1]) == (0.5, 2.5)


def test_tensorboard_shows_texts_as_markdown(tensorboard):
    (text,) = tensorboard.ask("plugin/text/text", run=run_named("three"), tag="notes")
    assert text["text"] == "<p>some <strong>bold</strong> words</p>"


def test_tensorboard_shows_a_run_while_it_goes_on(tensorboard, backend_in):
    backend = backend_in(tensorboard.root / "p" / "live")
    run = run_named("live")

    def shown():
        tags = tensorboard.ask("plugin/scalars/tags")
        if "loss" not in tags.get(run, {}):
            return []
        return tensorboard.ask("plugin/scalars/scalars", run=run, tag="loss")

    for step in range(3):
        backend.log_batch([row(step, loss=step)])
        points = tensorboard.wait_for(shown, lambda points, n=step + 1: len(points) == n)
        assert [value for _, _, value in points] == list(range(step + 1))
    backend.restart()
    backend.log_batch([row(step, loss=10 + step) for step in range(2)])
    points = tensorboard.wait_for(shown, lambda points: len(points) == 2)
    assert [value for _, _, value in points] == [10, 11]


def test_tensorboard_shows_a_training_loop_while_it_runs(tensorboard):
    tracker = ExperimentTracker("live", root=tensorboard.root, auto_log=False)
    run = tracker.start_run("loop", config={"lr": 0.1})
    name = os.path.join("live", "loop", "tensorboard")

    def shown():
        if "loss" not in tensorboard.ask("plugin/scalars/tags").get(name, {}):
            return []
        return tensorboard.ask("plugin/scalars/scalars", run=name, tag="loss")

    seen = []
    for step in range(0, 300, 100):
        for further in range(100):
            run.log_metrics({"loss": 1.0 / (step + further + 1)}, step=step + further)
        points = tensorboard.wait_for(shown, lambda points, n=step + 100: len(points) >= n)
        seen.append([point[1] for point in points])
    assert run.status == "running"
    assert seen == [list(range(100)), list(range(200)), list(range(300))]
    run.log_metrics({"loss": 0.0}, step=300)
    tracker.finish()
    points = tensorboard.wait_for(shown, lambda points: len(points) > 300)
    assert [(step, value) for _, step, value in points] == [
        (step, float32(1.0 / (step + 1)) if step < 300 else 0.0) for step in range(301)
    ]
