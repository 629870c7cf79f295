"""The real TensorBoard, asked over HTTP what it shows, by each of its two loaders of data."""

import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from functools import partial

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.backends.events import write_again
from experiment_tracking.backends.tensorboard import TensorBoardBackend, flatten_params
from experiment_tracking.folder.digest import merge_attempts
from experiment_tracking.folder.documents import read_document
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.folder.layout import RunFolder, iter_runs
from experiment_tracking.folder.values import from_stored

pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")

NOW = 1763640000.5
ALL_STATUSES = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


class Server:
    """TensorBoard over a folder, asked over HTTP."""

    def __init__(self, folder, load_fast):
        self.errors = open(folder.parent / f"tensorboard-{load_fast}.txt", "w+")  # noqa: SIM115
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
        command += ["--host", "127.0.0.1", "--port", port, "--reload_interval", "1"]
        command += ["--load_fast", load_fast, "--samples_per_plugin", "scalars=100000"]
        self.process = subprocess.Popen(command, stdout=self.errors, stderr=self.errors)

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

    def scalars(self, run):
        """Return (time, step, value) of each metric of a run."""
        tags = self.ask("plugin/scalars/tags").get(run, {})
        return {tag: self.ask("plugin/scalars/scalars", run=run, tag=tag) for tag in tags}

    def steps_and_values(self, run, tag):
        return [(step, value) for _, step, value in self.scalars(run).get(tag, [])]

    def wait_for(self, question, expected):
        """Ask until the answer is as expected; return the last one."""
        answer, deadline = None, time.monotonic() + 30
        while answer != expected and time.monotonic() < deadline:
            assert self.process.poll() is None, self.told()
            try:
                answer = question()
            except (urllib.error.URLError, ConnectionError) as error:
                answer = error
            time.sleep(0.1)
        return answer

    def told(self):
        self.errors.seek(0)
        return self.errors.read()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.errors.close()


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


# ---------------------------------------------------------------- twenty runs

_KILLED = """
import os, signal, sys
from experiment_tracking import ExperimentTracker
tracker = ExperimentTracker("p", root=sys.argv[1], auto_log=False)
run = tracker.start_run("killed", config={"lr": 0.5})
for step in range(500):
    run.log_metrics({"loss": 1 / (step + 1)}, step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""


class Saved:
    """A figure of a plotting package, as far as we look."""

    def savefig(self, file, **options):
        file.write(PICTURE)


PICTURE = b""


def track_twenty_runs(root):
    """Runs of different params, ends and contents, all but one by this process."""
    tracker = ExperimentTracker("p", root=root, auto_log=False)
    for n in range(12):
        params = {"lr": 0.1 / (n + 1), "model": {"depth": n, "act": "relu"}, "on": n % 2 == 0}
        with tracker.start_run(
            f"plain-{n}", config=params | ({"extra": "x"} if n > 8 else {})
        ) as run:
            for step in range(40):
                run.log_metrics({"train/loss": math.exp(-step / (n + 1)), "β": step}, step=step)
            run.log_metrics({"val/acc": n / 12}, step=39)
    for n in range(3):
        resume_behind_a_crash(tracker, root, f"resumed-{n}")
    track_odd_values(tracker)
    track_files(tracker)
    with tracker.start_run("no-params") as run:
        run.log_metrics({"train/loss": 2.0}, step=0)
    with tracker.start_run("long", config={"lr": 1}) as run:
        for step in range(3_000):
            run.log_metrics({"train/loss": step / 7}, step=step)
    done = subprocess.run([sys.executable, "-c", _KILLED, root], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    write_again(RunFolder(os.path.join(root, "p", "killed")))


def resume_behind_a_crash(tracker, root, name):
    run = tracker.start_run(name, config={"lr": 0.25, "seed": None})
    for step in range(30):
        run.log_metrics({"train/loss": 1.0 + step}, step=step)
        if step % 10 == 9:
            run.log_metrics({"val/acc": step / 100}, step=step)
    run.log_text("before", "notes", step=25)
    run.end_run("failed")
    again = ExperimentTracker("p", name, root=root, auto_log=False, resume="must")
    again.log_metrics({"setup_s": 0.5}, step=0)
    for step in range(20, 40):
        again.log_metrics({"train/loss": 100.0 + step}, step=step)
    again.finish()


def track_odd_values(tracker):
    with tracker.start_run("odd-values", config={"lr": math.inf, "widths": [1, 2]}) as run:
        values = (math.nan, 1.5, math.inf, -math.inf, 1e300, -0.1)
        for step, value in enumerate(values):
            run.log_metrics({"a b": value, "acc@5 (%)": step}, step=step)


def track_files(tracker):
    with tracker.start_run("files", config={"lr": 2, "warmup": None}) as run:
        for step in range(3):
            run.log_image([[step / 10] * 5] * 3, "samples", step=step)
            run.log_histogram([0.5, 1.5, 1.5, 2.5 + step], "weights", step=step, bins=3)
            run.log_text(f"some **bold** words, {step}", "notes.md", step=step)
            run.log_metrics({"train/loss": 1.0}, step=step)
        run.log_figure(plotly_figure(), "interactive", step=1)


def plotly_figure():
    plotly = pytest.importorskip("plotly.graph_objects", reason="pip install plotly")
    return plotly.Figure({"data": [{"y": [1, 2]}]})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tensorboard") / "root"
    track_twenty_runs(str(root))
    return root


@pytest.fixture(scope="module")
def servers(root):
    """Both loaders at work at once: each takes seconds to start."""
    pytest.importorskip("tensorboard_data_server", reason="pip install tensorboard-data-server")
    servers = {load_fast: Server(root, load_fast) for load_fast in ("true", "false")}
    yield servers
    for server in servers.values():
        server.stop()


@pytest.fixture(params=["true", "false"])
def server(servers, root, request):
    """TensorBoard that has read the twenty runs."""
    server = servers[request.param]
    expected = {
        shown_as(folder): len(expected_scalars(folder)) for folder in iter_runs(str(root), "p")
    }
    shown = server.wait_for(lambda: tags_of(server, expected), expected)
    assert shown == expected, server.told()
    return server


def tags_of(server, runs):
    tags = server.ask("plugin/scalars/tags")
    return {run: len(tags[run]) for run in runs if run in tags}


def shown_as(folder):
    return os.path.join(folder.project, folder.name, "tensorboard")


def expected_scalars(folder):
    """Return the points of each metric that no attempt supersedes, as float32 holds them."""
    points = merge_attempts(HistoryReader(folder.history()).rows())
    return {
        name: [[step, repr(float32(from_stored(value)))] for step, value in values]
        for name, values in points.items()
    }


def shown_scalars(server, run):
    return {
        tag: [[step, repr(float(value))] for _, step, value in points]
        for tag, points in server.scalars(run).items()
    }


def session_groups_of(server):
    question = {"allowedStatuses": ALL_STATUSES, "colParams": [], "startIndex": 0}
    answer = server.post("plugin/hparams/session_groups", **question, sliceSize=1000)
    return {group["name"]: group for group in answer["sessionGroups"]}


def test_every_run_is_listed_and_no_other(server, root):
    runs = {shown_as(folder) for folder in iter_runs(str(root), "p")}
    assert len(runs) == 20
    assert {run for run in server.ask("runs") if run.startswith("p")} == runs


def test_the_points_of_every_run_are_those_of_its_history(server, root):
    folders = list(iter_runs(str(root), "p"))
    expected = {folder.name: expected_scalars(folder) for folder in folders}
    assert expected["resumed-0"]["train/loss"][19:21] == [[19, "20.0"], [20, "120.0"]]
    assert len(expected["long"]["train/loss"]) == 3_000
    for folder in folders:
        run = shown_as(folder)
        shown = server.wait_for(partial(shown_scalars, server, run), expected[folder.name])
        assert shown == expected[folder.name], run


def test_the_params_and_metrics_of_all_runs_are_columns_together(server, root):
    experiment = server.post("plugin/hparams/experiment")
    kinds = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    number, text, boolean = (f"DATA_TYPE_{kind}" for kind in ("FLOAT64", "STRING", "BOOL"))
    assert kinds == {
        "lr": text,  # infinite in one run, which no other type can show
        "model.depth": number,
        "model.act": text,
        "on": boolean,
        "extra": text,
        "seed": text,
        "widths": text,
        "warmup": text,
    }
    metrics = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert metrics == {"train/loss", "β", "val/acc", "setup_s", "a b", "acc@5 (%)", "loss"}


def test_every_run_with_params_is_a_line_with_its_params_last_values_and_status(server, root):
    folders = [folder for folder in iter_runs(str(root), "p") if folder.name != "no-params"]
    lines = {name: line for name, line in session_groups_of(server).items() if name[0] == "p"}
    assert lines.keys() == {shown_as(folder) for folder in folders}
    for folder in folders:
        line = lines[shown_as(folder)]
        assert line["hparams"] == flatten_params(read_document(folder.params))
        shown = {m["name"]["tag"]: float(m["value"]) for m in line["metricValues"]}
        last = {name: float(points[-1][1]) for name, points in expected_scalars(folder).items()}
        assert shown == pytest.approx(last, rel=1e-6)
        ended = "STATUS_FAILURE" if folder.name == "killed" else "STATUS_SUCCESS"
        assert line["sessions"][0]["status"] == ended


def test_images_are_shown_with_their_steps_and_bytes(server, root):
    run = os.path.join("p", "files", "tensorboard")
    assert server.ask("plugin/images/tags")[run].keys() == {"samples"}
    images = server.ask("plugin/images/images", run=run, tag="samples", sample=0)
    assert [image["step"] for image in images] == [0, 1, 2]
    for step, image in enumerate(images):
        shown = server.get(f"plugin/images/individualImage?{image['query']}")
        (kept,) = (root / "p" / "files" / "figures").glob(f"samples*{step}.png")
        assert shown == kept.read_bytes()


def test_histograms_are_shown_with_their_counts_and_as_distributions(server):
    run = os.path.join("p", "files", "tensorboard")
    histograms = server.ask("plugin/histograms/histograms", run=run, tag="weights")
    assert [step for _, step, _ in histograms] == [0, 1, 2]
    for _, step, bins in histograms:
        assert sum(count for _, _, count in bins) == pytest.approx(4)
        assert (bins[0][0], bins[-1][1]) == (0.5, 2.5 + step)
    assert server.ask("plugin/distributions/tags")[run].keys() == {"weights"}
    distributions = server.ask("plugin/distributions/distributions", run=run, tag="weights")
    assert [step for _, step, _ in distributions] == [0, 1, 2]


def test_texts_are_shown_as_markdown(server):
    run = os.path.join("p", "files", "tensorboard")
    texts = server.ask("plugin/text/text", run=run, tag="notes")
    assert [(text["step"], text["text"]) for text in texts] == [
        (step, f"<p>some <strong>bold</strong> words, {step}</p>") for step in range(3)
    ]


# ---------------------------------------------------------------- while it watches


@pytest.fixture
def place(server, root, request):
    """A folder for one run under the server's eyes, and its name there."""
    name = "live-" + request.node.callspec.params["server"]
    return root / request.node.originalname / name, os.path.join(request.node.originalname, name)


def test_a_run_is_shown_while_it_goes_on_and_anew_when_it_is_written_anew(server, place):
    folder, run = place
    backend = TensorBoardBackend(folder)
    backend.start_run("r", {"lr": 1})
    backend.restart()

    def shown():
        return server.steps_and_values(run, "loss")

    for step in range(3):
        backend.log_batch([row(step, loss=step)])
        expected = [(s, s) for s in range(step + 1)]
        assert server.wait_for(shown, expected) == expected
    backend.restart()
    backend.log_batch([row(step, loss=10 + step) for step in range(2)])
    assert server.wait_for(shown, [(0, 10), (1, 11)]) == [(0, 10), (1, 11)]
    backend.close()


def test_a_copy_that_went_on_shows_no_superseded_point(server, place):
    folder, run = place
    known = {"project": folder.name, "run_id": "1234"}
    run = os.path.join(run, folder.name, "r")
    first = TensorBoardBackend(folder)
    assert first.start_run("r", {"lr": 1}, **known) == 0
    first.log_batch([row(step, loss=step, acc=step) for step in range(10)])
    first.log_batch([row(10, **{"val/loss": 5.0})])
    expected = {"loss": 10, "acc": 10, "val/loss": 1}

    def lengths():
        return {tag: len(points) for tag, points in server.scalars(run).items()}

    assert server.wait_for(lengths, expected) == expected

    later = TensorBoardBackend(folder)
    assert later.start_run("r", {"lr": 1}, **known, rows=11) == 11
    later.log_batch([{**row(0, setup_s=2.0), "attempt": 2}])
    later.log_batch([{**row(step, loss=100 + step), "attempt": 2} for step in range(7, 12)])
    expected = [(step, step if step < 7 else 100 + step) for step in range(12)]
    assert server.wait_for(lambda: server.steps_and_values(run, "loss"), expected) == expected
    # What the attempt has not logged stands as it stood.
    assert server.steps_and_values(run, "acc") == [(step, step) for step in range(10)]
    assert server.steps_and_values(run, "val/loss") == [(10, 5.0)]
    later.log_batch([{**row(9, acc=-1.0), "attempt": 2}])
    expected = [*[(step, step) for step in range(9)], (9, -1.0)]
    assert server.wait_for(lambda: server.steps_and_values(run, "acc"), expected) == expected
    first.close()
    later.close()


def test_files_written_again_take_the_place_of_what_was_shown(server, place, root):
    folder, run = place
    tracker = ExperimentTracker(folder.parent.name, root=root, auto_log=False)
    with tracker.start_run(folder.name, config={"lr": 1}) as opened:
        for step in range(5):
            opened.log_metrics({"loss": 1.0 + step}, step=step)
    run = os.path.join(run, "tensorboard")
    expected = [(step, 1.0 + step) for step in range(5)]
    assert server.wait_for(lambda: server.steps_and_values(run, "loss"), expected) == expected
    assert write_again(RunFolder(folder)) == 5
    opened.path.joinpath("metrics_history.json").write_text(
        '[\n{"step":-3,"time":1.0,"loss":7.0},\n{"step":2,"time":2.0,"loss":8.0}\n]\n'
    )
    assert write_again(RunFolder(folder)) == 2
    expected = [(-3, 7.0), (2, 8.0)]
    assert server.wait_for(lambda: server.steps_and_values(run, "loss"), expected) == expected


def test_a_training_loop_is_shown_while_it_runs(server, place, root):
    folder, run = place
    tracker = ExperimentTracker(folder.parent.name, root=root, auto_log=False)
    opened = tracker.start_run(folder.name, config={"lr": 0.1})
    run = os.path.join(run, "tensorboard")
    for start in range(0, 300, 100):
        for step in range(start, start + 100):
            opened.log_metrics({"loss": 1.0 / (step + 1)}, step=step)
        expected = [(step, float32(1.0 / (step + 1))) for step in range(start + 100)]
        assert server.wait_for(lambda: server.steps_and_values(run, "loss"), expected) == expected
    assert opened.status == "running"
    opened.log_metrics({"loss": 0.0}, step=300)
    tracker.finish()
    expected.append((300, 0.0))
    assert server.wait_for(lambda: server.steps_and_values(run, "loss"), expected) == expected
