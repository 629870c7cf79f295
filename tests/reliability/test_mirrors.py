"""Mirrors in trouble: training does not notice, the folder is the same, and no point is lost."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.backends.mlflow_service import import_mlflow
from experiment_tracking.backends.wandb_log import Exit, WandbLog, find_logs
from experiment_tracking.folder.check import check
from experiment_tracking.registry.record import RunRecord

needs_mlflow = pytest.mark.skipif(
    not is_installed("mlflow"), reason="pip install 'experiment_tracking[mlflow]'"
)
needs_wandb = pytest.mark.skipif(
    not is_installed("wandb"), reason="pip install 'experiment_tracking[wandb]'"
)

LARGEST = sys.float_info.max


class Script:
    """A training script in a process of its own, which the test tells when to go on."""

    def __init__(self, process):
        self.process = process

    def hear(self):
        """Return the next line that it prints."""
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return line.strip()

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        """Wait for its end; return what it said on stderr."""
        _, err = self.process.communicate(timeout=120)
        return err


@pytest.fixture
def script(tmp_path, root, service):
    """Start a script that finds ``tracker(**options)``, ``say`` and ``wait``."""
    started = []

    def script(text, *arguments, name="train.py", **variables):
        path = tmp_path / name
        path.write_text(START + textwrap.dedent(text))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "WANDB_"))}
        ours = {"EXPERIMENT_TRACKING_ROOT": str(root), "PYTHONPATH": service.import_path}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, str(path), *map(str, arguments)],
            env=kept | ours | variables, cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=pipe,
            text=True,
        )  # fmt: skip
        started.append(process)
        return Script(process)

    yield script
    for process in started:
        process.kill()
        process.communicate()


START = """
import multiprocessing, os, signal, sys, time
from experiment_tracking import ExperimentTracker

def say(*words):
    print(*words, flush=True)

def wait():
    sys.stdin.readline()

def tracker(**options):
    return ExperimentTracker("p", **{"auto_log": False, "use_tensorboard": False} | options)

def child():
    from experiment_tracking import mirroring
    while mirroring.child()._process is None:
        time.sleep(0.01)
    return mirroring.child()._process.pid
"""


def points_of(rows, metric):
    """Points of a metric as MLflow has to have them."""
    clamp = {"Infinity": LARGEST, "-Infinity": -LARGEST, "NaN": math.nan}
    return sorted(
        (row["step"], round(row["time"] * 1000), repr(float(clamp.get(row[metric], row[metric]))))
        for row in rows
        if metric in row
    )


class InMLflow:
    """What MLflow's own client says of a run of ours."""

    def __init__(self, address, run):
        self.client = import_mlflow().MlflowClient(tracking_uri=address)
        experiment = self.client.get_experiment_by_name(run.project)
        query = f"tags.`experiment_tracking.run_id` = '{run.id}'"
        (self.run,) = self.client.search_runs([experiment.experiment_id], query)

    def points(self, metric):
        history = self.client.get_metric_history(self.run.info.run_id, metric)
        return sorted((point.step, point.timestamp, repr(point.value)) for point in history)

    def files(self, below=None):
        for file in self.client.list_artifacts(self.run.info.run_id, below):
            yield from self.files(file.path) if file.is_dir else [file.path]

    def text(self, path, folder):
        return Path(self.client.download_artifacts(self.run.info.run_id, path, folder)).read_text()


def check_is_whole(address, run):
    """Compare a run with its copy in MLflow, point for point."""
    copy = InMLflow(address, run)
    rows = json.loads((run.path / "metrics_history.json").read_text())
    names = {name for row in rows for name in row} - {"step", "time", "attempt"}
    for name in names:
        assert copy.points(name) == points_of(rows, name)
    assert copy.run.data.metrics.keys() == names
    assert copy.run.info.status == {"finished": "FINISHED"}.get(run.status, "FAILED")
    return copy


def noted(folder, name="mlflow"):
    """What stands in a run's folder about a mirror."""
    path = folder / f"backends/{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def below(script):
    """Every process that a script has started, and these have."""
    assert script.process.poll() is None, script.end()
    return psutil.Process(script.process.pid).children(recursive=True)


def alive(processes):
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


# ---------------------------------------------------------------------- a real server


@needs_mlflow
def test_a_server_that_is_killed_in_the_middle_ends_with_every_point(
    script, root, mlflow_server, mlflow, until, tmp_path
):
    training = script(
        """
        import math
        mlflow = tracker(use_mlflow=True, tracking_uri=sys.argv[1], exit_timeout_s=100)
        run = mlflow.start_run("parent", config={"model": {"depth": 3}})
        nested = mlflow.start_run("nested", parent=run)
        def log(steps):
            for step in steps:
                run.log_metrics({"loss": math.nan if step % 500 == 7 else 1 / (step + 1)}, step)
                nested.log_metrics({"x": step / 3, "y": math.inf if step == 3 else -step}, step)
        log(range(1000))
        run.log_text("first", "before")
        say("half"); wait()
        log(range(1000, 2000))
        run.log_text("second", "after")
        run.log_model({"w": 1.0}, "weights")
        say("all"); wait()
        nested.end_run()
        run.end_run()
        """,
        mlflow_server.uri,
    )
    assert training.hear() == "half"
    until(lambda: noted(root / "p/parent").get("rows"))
    mlflow_server.kill()
    training.go_on()
    assert training.hear() == "all"
    until(lambda: noted(root / "p/parent")["error"])
    mlflow_server.start()
    training.go_on()
    err = training.end()
    assert training.process.returncode == 0, err
    parent, nested = RunRecord(root / "p/parent"), RunRecord(root / "p/nested")
    assert parent.summary["followers"] == {"mlflow": {"finished": True, "owed_bytes": 0}}, err
    copy = check_is_whole(mlflow_server.uri, parent)
    nested_copy = check_is_whole(mlflow_server.uri, nested)
    assert len(copy.points("loss")) == len(nested_copy.points("x")) == 2000
    assert nested_copy.run.data.tags["mlflow.parentRunId"] == copy.run.info.run_id
    assert copy.run.data.params == {"model.depth": "3"}
    texts = [copy.text(f"artifacts/{name}.txt", str(tmp_path)) for name in ("before", "after")]
    assert texts == ["first", "second"]
    assert "models/weights/model.json" in [*copy.files()]
    assert mlflow.MlflowClient(mlflow_server.uri).get_model_version("p-weights", "1")
    assert err.count("does not take it now") == err.count("works again") <= 2


# ---------------------------------------------------------------------- the folder stays the same

SAME = """
    mirrored = {"use_mlflow": True, "tracking_uri": sys.argv[1], "exit_timeout_s": 100}
    run = tracker(
        auto_log=True, use_tensorboard=True, system_metrics_interval_s=None, capture_console=True,
        **mirrored if sys.argv[1] else {},
    ).start_run("same", config={"lr": 0.1, "sizes": [1, 2]}, tags={"kind": "test"})
    for step in range(200):
        run.log_metrics({"loss": 1 / (step + 1), "acc": step / 3}, step, 1.7e9 + step)
        if (step + 1) % 20 == 0:
            say(step + 1)
            wait()
    run.log_text("hello", "note")
    run.log_model({"w": 1.0}, "weights")
    run.set_tags({"good": "yes"})
    run.end_run()
"""

_TIMES = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_VARY = {
    "id", "pid", "pid_start", "duration_s", "digested_bytes", "throughput", "followers", "argv",
    "command",
}  # fmt: skip


def without(value, keys):
    """Return a document without what differs from run to run."""
    if isinstance(value, dict):
        return {key: without(one, keys) for key, one in value.items() if key not in keys}
    return [without(one, keys) for one in value] if isinstance(value, list) else value


def events_of(path):
    """Records of a TensorBoard file without their times."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    data, start = path.read_bytes(), 0
    while start < len(data):
        length = int.from_bytes(data[start : start + 8], "little")
        event = Event.FromString(data[start + 12 : start + 12 + length])
        event.wall_time = 0
        for value in event.summary.value:
            if value.tag.startswith("_hparams_/"):
                plugin_data = value.metadata.plugin_data
                content = HParamsPluginData.FromString(plugin_data.content)
                # A session starts with its first record, be it a row or a text.
                content.session_start_info.ClearField("start_time_secs")
                content.session_end_info.ClearField("end_time_secs")
                plugin_data.content = content.SerializeToString(deterministic=True)
        start += length + 16
        yield event.SerializeToString(deterministic=True)


def content(folder):
    """Everything in a run's folder by its name, but for ``backends/`` and what differs always."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if name.startswith("backends/") or name == "heartbeat.json":
            continue
        if ".tfevents." in name:
            found[str(path.parent.relative_to(folder)) + "/events"] = sorted(events_of(path))
            continue
        data = _TIMES.sub(b"<time>", path.read_bytes()).replace(bytes(folder), b"<run>")
        data = data.replace(bytes(folder.parents[1]), b"<root>")
        if name in ("summary.json", "environment.json", "models/weights/model.json"):
            found[name] = without(json.loads(data), _VARY)
        elif name == "artifacts.json":
            listed = json.loads(data)["artifacts"]
            # The hash of a document that says when it was written.
            found[name] = [
                without(each, {"sha256"} if each["path"].endswith("/model.json") else set())
                for each in listed
            ]
        elif name == "console.log":  # which has our notices, too
            found[name] = re.sub(rb"(?m)^experiment_tracking: .*\n", b"", data)
        else:
            found[name] = data
    return found


@needs_mlflow
def test_a_service_that_fails_in_every_way_gets_each_point_once_and_the_folder_is_the_same(
    script, root, mlflow_server, mlflow, until, unreliable
):
    plain = script(SAME, "", EXPERIMENT_TRACKING_ROOT=f"{root}-plain")
    for _ in range(10):
        plain.hear()
        plain.go_on()
    plain.end()
    with unreliable.Unreliable(mlflow_server.uri) as front:
        variables = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
        moods = [*unreliable.MOODS]
        front.fail(moods.pop(0))  # hinders the start
        training = script(SAME, front.address, **variables)
        mirrored = lambda: noted(root / "p/same").get("rows")  # noqa: E731
        for rows in range(20, 201, 20):
            assert training.hear() == str(rows)
            until(lambda rows=rows: mirrored() == rows)
            front.fail(*moods[:1])
            del moods[:1]
            if rows == 200:  # the end, and what comes right before it
                front.fail("half an answer", "wrong JSON")
            training.go_on()
        err = training.end()
    assert training.process.returncode == 0, err
    run = RunRecord(root / "p/same")
    assert front.had == [*unreliable.MOODS, "half an answer", "wrong JSON"]
    assert run.summary["followers"] == {"mlflow": {"finished": True, "owed_bytes": 0}}, err
    assert len(check_is_whole(mlflow_server.uri, run).points("loss")) == 200
    assert run.mirrors["mlflow"]["refused"] == []
    one, other = content(root / "p/same"), content(Path(f"{root}-plain/p/same"))
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == other[name], name


# ---------------------------------------------------------------------- services in trouble

STEPS = """
    from experiment_tracking import writing
    from tofile import ToFile
    writing._HEARTBEAT_EVERY_S = 0.1

    class Mine(ToFile):  # an object of this process
        def __init__(self):
            self.folder, self.token, self.options = os.environ["TOFILE_FOLDER"] + "-mine", "", None
        def mood(self):
            return sys.argv[1].replace("killed", "away")

    mine = Mine()
    run = tracker(backend=["tofile", mine], exit_timeout_s=0.5).start_run("r", {"lr": 0.1})
    beats = set()
    for step in range(100):
        run.log_metrics({"x": step}, step)
        beats.add((run.path / "heartbeat.json").read_text())
        time.sleep(0.01)
    started = time.monotonic()
    run.end_run()
    say(len(beats), time.monotonic() - started)
"""


@pytest.mark.parametrize("mood", ["hanging", "away", "slow", "raising", "killed"])
def test_a_backend_in_trouble_costs_training_nothing_and_is_paid_by_the_line_that_is_shown(
    script, root, service, terminal, mood
):
    service.mood(mood)
    training = script(STEPS, mood)
    beats, ended_s = training.hear().split()
    err = training.end()
    assert training.process.returncode == 0, err
    run = RunRecord(root / "p/r")
    assert run.status == "finished"
    assert [row["x"] for row in run.history().to_dict("records")] == [*range(100)]
    assert int(beats) >= 4  # of about ten
    assert float(ended_s) < 10
    assert set(run.summary["followers"]) == {"tofile", "tofile-2"}
    assert not run.summary["followers"]["tofile"]["finished"]
    assert len(re.findall("tofile has not got everything", err)) == 1
    command = re.search("To pay: (experiments push .*)", err)[1]
    service.mood()
    code, _, err = terminal.shell(command, variables={"PYTHONPATH": service.import_path})
    assert code == 0, err
    assert service.steps(run.id) == [*range(100)]
    assert service.calls(run.id)[-1]["call"] == "end"
    assert check(root) == []


# ---------------------------------------------------------------------- ends of the process

BOTH = """
    run = tracker(
        use_mlflow=True, tracking_uri=sys.argv[1], use_wandb=True, notes=sys.argv[2],
        config={"lr": 0.1}, exit_timeout_s=100,
    ).start_run("both")
    for step in range(500):
        run.log_metrics({"loss": 1 / (step + 1)}, step)
    run.log_text("hello", "note")
"""


@needs_mlflow
@needs_wandb
@pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")  # MLflow's own
def test_the_child_of_a_killed_process_brings_mlflow_and_wandb_all_that_was_logged_and_ends(
    script, root, mlflow, until, tmp_path
):
    address = f"sqlite:///{tmp_path}/m.db"
    text = BOTH + "\n    say(child()); wait()"
    training = script(text, address, "", WANDB_MODE="offline")
    pid = int(training.hear())
    mirrors = psutil.Process(pid)
    folder = root / "p/both"
    until(lambda: noted(folder).get("claim") and noted(folder, "wandb").get("rows"))
    started = [mirrors, *mirrors.children(recursive=True)]
    assert any(process.name().startswith("wandb-core") for process in started)
    training.process.kill()
    training.process.wait()
    until(lambda: not alive(started))
    run = RunRecord(folder)
    assert run.status == "crashed"
    copy = check_is_whole(address, run)
    assert copy.run.data.tags["experiment_tracking.status"] == "crashed"
    (log,) = find_logs(folder / "backends/wandb")
    assert [row.values["loss"] for row in WandbLog(log).rows()] == [1 / s for s in range(1, 501)]
    assert [one.code for one in WandbLog(log).records() if isinstance(one, Exit)] == [137]
    assert {name: kept["complete"] for name, kept in run.mirrors.items()} == {
        "mlflow": True, "wandb": True,
    }  # fmt: skip


def test_the_child_of_a_killed_process_does_not_wait_for_a_service_for_ever(script, service, until):
    service.mood("hanging with a process")
    training = script(
        """
        from experiment_tracking import mirroring
        mirroring._LINGER_S = 0.2
        run = tracker(backend="tofile").start_run("r")
        run.log_metrics({"x": 1})
        say(child()); wait()
        """
    )
    mirrors = psutil.Process(int(training.hear()))
    until(lambda: mirrors.children())
    started = [mirrors, *mirrors.children()]
    training.process.kill()
    training.process.wait()
    until(lambda: not alive(started))


OPEN = """
run = tracker(backend="tofile", exit_timeout_s=0.5).start_run("r")
run.log_metrics({"x": 1})
child()
wait()
"""
ENDINGS = {
    "the end": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise ValueError('no')", 1),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(600)", 143),
    "Ctrl-C": ("signal.raise_signal(signal.SIGINT); time.sleep(600)", -signal.SIGINT),
    "Ctrl-C twice": ("""
import threading
def again():
    time.sleep(0.2); os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=again, daemon=True).start()
signal.raise_signal(signal.SIGINT)
time.sleep(600)
""", -signal.SIGINT),
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("mood", ["hanging with a process", "with a process"])
def test_no_process_is_left_however_training_ends(script, service, until, root, ending, mood):
    service.mood(mood)
    code, expected = ENDINGS[ending]
    training = script(OPEN + code)
    until(lambda: len(below(training)) == 2)
    started = below(training)
    training.go_on()
    err = training.end()
    assert training.process.returncode == expected, err
    assert not alive(started)
    assert RunRecord(root / "p/r").status != "running"


# ---------------------------------------------------------------------- odd processes and folders

TRAIN = """
def train():
    run = tracker(backend="tofile", exit_timeout_s=30).start_run("r")
    for step in range(10):
        run.log_metrics({"x": step}, step)
    run.end_run()
"""
ODD = {
    "stdin closed": ("exec {python} {script} <&-", TRAIN + "train()"),
    "all three closed": ("exec {python} {script} <&- >&- 2>&-", TRAIN + "train()"),
    "few descriptors": ("ulimit -n 20; exec {python} {script}", TRAIN + "train()"),
    "isolated": (
        "exec {python} -I -c 'import sys; sys.path[:0] = sys.argv[2].split(\":\"); "
        "exec(open(sys.argv[1]).read())' {script} $PYTHONPATH",
        TRAIN + "train()",
    ),
    "safe path": ("PYTHONSAFEPATH=1 exec {python} {script}", TRAIN + "train()"),
    "a command": ('exec {python} -c "$(cat {script})"', TRAIN + "train()"),
    "spawned": (
        "exec {python} {script}",
        TRAIN
        + "if __name__ == '__main__':\n"
        "    process = multiprocessing.get_context('spawn').Process(target=train)\n"
        "    process.start(); process.join(); sys.exit(process.exitcode)",
    ),
    "forked": (
        "exec {python} {script}",
        TRAIN
        + "process = multiprocessing.get_context('fork').Process(target=train)\n"
        "process.start(); process.join(); sys.exit(process.exitcode)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_a_mirror_is_made_from_an_odd_process(root, service, tmp_path, odd):
    line, code = ODD[odd]
    path = tmp_path / "train.py"
    path.write_text(START + code)
    line = line.format(python=sys.executable, script=path)
    ours = {"EXPERIMENT_TRACKING_ROOT": str(root), "PYTHONPATH": service.import_path}
    done = subprocess.run(
        ["sh", "-c", line], env=os.environ | ours, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = RunRecord(root / "p/r")
    assert run.summary["followers"] == {"tofile": {"finished": True, "owed_bytes": 0}}
    assert service.steps(run.id) == [*range(10)]


def test_a_child_that_dies_under_a_process_with_the_default_sigpipe_does_not_end_it(
    script, root, service, until
):
    training = script(
        """
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        run = tracker(backend="tofile", exit_timeout_s=30).start_run("r")
        run.log_metrics({"x": 0}, 0)
        say(child())
        from experiment_tracking import mirroring
        for _ in range(20):
            os.kill(child(), signal.SIGKILL)
            mirroring.child().tell("nowhere", {"run": "nowhere", "targets": []})
        mirroring.child().forget("nowhere")
        run.log_metrics({"x": 1}, 1)
        run.end_run()
        """
    )
    training.hear()
    err = training.end()
    assert training.process.returncode == 0, err
    assert service.steps(RunRecord(root / "p/r").id) == [0, 1]


def test_a_child_that_is_stopped_holds_the_end_no_longer_than_the_bound_and_is_not_left(
    script, root, service
):
    training = script(
        """
        run = tracker(backend="tofile", exit_timeout_s=0.5).start_run("r")
        run.log_metrics({"x": 0}, 0)
        say(child())
        os.kill(child(), signal.SIGSTOP)
        """
    )
    mirrors = psutil.Process(int(training.hear()))
    err = training.end()
    assert training.process.returncode == 0, err
    assert not alive([mirrors])
    assert "To pay: experiments push" in err
    assert RunRecord(root / "p/r").status == "finished"


def test_a_run_whose_mirrors_cannot_be_noted_is_like_one_without(script, root, service):
    """As on a full disk, or where the run's folder takes no more files."""
    training = script(
        """
        run = tracker(exit_timeout_s=0.5, backend="tofile").start_run("r")
        (run.path / "backends").write_text("in the way")
        for step in range(100):
            run.log_metrics({"x": step}, step)
        run.end_run()
        os.unlink(run.path / "backends")
        """
    )
    err = training.end()
    assert training.process.returncode == 0, err
    run = RunRecord(root / "p/r")
    assert run.status == "finished"
    assert not run.summary["followers"]["tofile"]["finished"]
    assert f"experiments push {run.path} --to tofile" in err


def test_a_run_whose_folder_is_deleted_is_mirrored_from_the_one_that_is_made_again(
    script, root, service, until
):
    training = script(
        """
        run = tracker(backend="tofile", exit_timeout_s=30).start_run("r")
        for step in range(10):
            run.log_metrics({"x": step}, step)
        say(run.id); wait()
        run._writer.has_successor()
        for step in range(10, 20):
            run.log_metrics({"x": step}, step)
        run.end_run()
        """
    )
    run_id = training.hear()
    until(lambda: service.steps(run_id) == [*range(10)])
    until(lambda: shutil.rmtree(root / "p/r", ignore_errors=True) or not (root / "p/r").exists())
    training.go_on()
    err = training.end()
    assert training.process.returncode == 0, err
    assert service.steps(run_id) == [*range(20)]
    assert RunRecord(root / "p/r").mirrors["tofile"]["complete"]


def test_a_resumed_run_is_mirrored_while_the_child_of_the_attempt_before_lingers(
    script, root, service, until
):
    service.mood("away")
    first = script(
        """
        run = tracker(backend="tofile").start_run("r")
        run.log_metrics({"x": 0}, 0)
        say(child()); wait()
        """
    )
    mirrors = psutil.Process(int(first.hear()))
    until(lambda: noted(root / "p/r", "tofile").get("failed_at"))
    first.process.kill()
    first.process.wait()
    second = script(
        """
        run = tracker(backend="tofile", resume="must", exit_timeout_s=60).start_run("r")
        run.log_metrics({"x": 1}, 1)
        say(run.id); wait()
        """,
        name="again.py",
    )
    run_id = second.hear()
    service.mood()
    until(lambda: not alive([mirrors]))
    second.go_on()
    err = second.end()
    assert second.process.returncode == 0, err
    assert service.steps(run_id) == [0, 1]
    assert RunRecord(root / "p/r").summary["followers"]["tofile"]["finished"], err


def test_what_an_earlier_attempt_completed_is_not_called_complete(script, root, service):
    for resume in ("never", "must"):
        training = script(
            f"""
            run = tracker(backend="tofile", exit_timeout_s=0, resume={resume!r}).start_run("r")
            run.log_metrics({{"x": 1}})
            if {resume!r} == "never":
                run._writer.settings = run._writer.settings._replace(exit_timeout_s=60)
            """
        )
        err = training.end()
        assert training.process.returncode == 0, err
        assert RunRecord(root / "p/r").mirrors["tofile"]["complete"] == (resume == "never")
        service.mood("hanging")


def test_a_child_that_cannot_begin_says_why(script, service):
    training = script(
        """
        run = tracker(backend="tofile", exit_timeout_s=5).start_run("r")
        sys.path[:0] = [os.getcwd()]
        open("orjson.py", "w").write("raise ImportError('an orjson of another Python')")
        run.log_metrics({"x": 1})
        run.end_run()
        """
    )
    err = training.end()
    assert training.process.returncode == 0, err
    assert "has ended (ImportError: an orjson of another Python)" in err
    assert err.count("has ended") == 1


# ---------------------------------------------------------------------- secrets

SECRETS = [f"canary{name}{'qwertyuiop'[i]}Z9x8W7v6U5t4" for i, name in enumerate(
    ("login", "param", "tag", "note", "env", "option", "artifact")
)]  # fmt: skip


@needs_mlflow
@needs_wandb
def test_secrets_reach_no_byte_of_a_run_or_of_its_mirrors_but_the_service_they_are_for(
    script, root, mlflow_server, unreliable, tmp_path, service
):
    login, param, tag, note, env, option, kind = SECRETS
    (tmp_path / "data.csv").write_text("x,y\n1,2\n")
    with unreliable.Unreliable(mlflow_server.uri) as front:
        address = front.address.replace("//", f"//ann:{login}@")
        training = script(
            f"""
            from tofile import ToFile
            run = tracker(
                backend=[ToFile(token={option!r})], use_mlflow=True, use_wandb=True,
                tracking_uri={address!r}, exit_timeout_s=100, auto_log=True,
                config={{"api_key": {param!r}, "db": "postgresql://ann:{param}@db.example.org/x"}},
                tags={{"token": {tag!r}}}, notes="see https://ann:{note}@example.org",
            ).start_run("secret")
            run.log_metrics({{"loss": 1.0}}, 0)
            run.log_text("a file", "file")
            run.log_artifact(sys.argv[1], "data", description="password={kind}")
            wait()
            raise ConnectionError("no password={kind}")
            """,
            tmp_path / "data.csv",
            WANDB_MODE="offline", HF_TOKEN=env, OPENAI_API_KEY=env, WANDB_API_KEY=env * 2,
        )  # fmt: skip
        training.go_on()
        err = training.end()
        sent = b"".join(front.asked_with)
    run = RunRecord(root / "p/secret")
    followers = run.summary["followers"]
    assert {name: kept["finished"] for name, kept in followers.items()} == dict.fromkeys(
        ("tofile", "mlflow", "wandb"), True
    ), err
    ours = [line for line in err.splitlines() if line.startswith("experiment_tracking: ")]
    written = {"stderr": "\n".join(ours).encode(), "sent": sent}
    for folder in (root, mlflow_server.folder, service.folder):
        files = [path for path in folder.rglob("*") if path.is_file()]
        written |= {str(path): path.read_bytes() for path in files}
    assert any(name.endswith(".wandb") for name in written)
    found = {
        name: [secret for secret in SECRETS if secret.encode() in data]
        for name, data in written.items()
    }
    assert {name: secrets for name, secrets in found.items() if secrets} == {}
