"""A real Jupyter kernel: cells run twice, interrupted, failing; kernels restarted and shut down."""

import json
import os

import pytest

import experiment_tracking
from experiment_tracking.folder.check import check
from experiment_tracking.folder.liveness import status_of

jupyter = pytest.importorskip("jupyter_client", reason="pip install 'experiment_tracking[test]'")
pytest.importorskip("ipykernel", reason="pip install 'experiment_tracking[test]'")

PACKAGE_PARENT = os.path.dirname(os.path.dirname(experiment_tracking.__file__))

IMPORTS = """
import gc, time
from experiment_tracking import ExperimentTracker
def make(project, name=None, **options):
    return ExperimentTracker(project, name, use_tensorboard=False, auto_log=False, **options)
"""


class Kernel:
    """A kernel, and a look at the runs that it writes."""

    def __init__(self, folder):
        self.root = folder / "root"
        paths = [PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")]
        env = {
            "EXPERIMENT_TRACKING_ROOT": str(self.root),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "IPYTHONDIR": str(folder / "ipython"),
        }
        self.manager = jupyter.KernelManager(kernel_name="python3")
        self.manager.start_kernel(env=os.environ | env, cwd=str(folder))
        self._connect()

    def _connect(self):
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.run(IMPORTS)

    def run(self, code, *, interrupt=False):
        """Execute a cell; return what it printed to stderr and how it ended.

        With ``interrupt`` it is interrupted as by the notebook's button, once it prints.
        """
        told = []

        def hear(message):
            if message["msg_type"] == "stream":
                told.append(message["content"])
                if interrupt and message["content"]["text"].startswith("ready"):
                    self.manager.interrupt_kernel()

        reply = self.client.execute_interactive(code, output_hook=hear, timeout=60)
        errors = "".join(t["text"] for t in told if t["name"] == "stderr")
        return errors, reply["content"].get("ename", reply["content"]["status"])

    def restart(self):
        self.client.stop_channels()
        self.manager.restart_kernel()
        self._connect()

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel()

    def status(self, place):
        folder = self.root / place
        summary = json.loads((folder / "summary.json").read_text())
        return status_of(summary, str(folder / "heartbeat.json"))[0]

    def rows(self, place):
        return json.loads((self.root / place / "metrics_history.json").read_text())


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    kernel = Kernel(tmp_path_factory.mktemp("notebook"))
    yield kernel
    kernel.close()
    assert check(str(kernel.root)) == []


@pytest.fixture
def kernel(shared):
    assert shared.run("%reset -f") == ("", "ok")
    shared.run(IMPORTS)
    return shared


TRAIN = """
tracker = make("{project}", "exp")
tracker.log_metrics({{"x": 1}})
"""


def test_the_same_cell_run_twice_finishes_the_earlier_run_with_one_notice(kernel):
    first, _ = kernel.run(TRAIN.format(project="twice") + "old = tracker")
    assert "finished" not in first
    second, _ = kernel.run(TRAIN.format(project="twice"))
    assert second.count("run twice/exp was still open; it has been finished") == 1
    assert (kernel.status("twice/exp"), kernel.status("twice/exp-2")) == ("finished", "running")
    third, _ = kernel.run(TRAIN.format(project="twice"))
    assert third.count("run twice/exp-2 was still open") == 1
    kernel.run("tracker.finish()")
    assert kernel.status("twice/exp-3") == "finished"


def test_a_cell_that_starts_runs_by_name_may_be_run_twice(kernel):
    cell = 'tracker = make("named"); run = tracker.start_run("r"); run.log_metrics({"x": 1})'
    kernel.run(cell)
    assert kernel.run(cell)[0].count("was still open") == 1
    assert (kernel.status("named/r"), kernel.status("named/r-2")) == ("finished", "running")


def test_a_run_of_another_root_is_left_open(kernel, tmp_path):
    kernel.run('a = make("roots", "exp"); a.log_metrics({"x": 1})')
    told, _ = kernel.run(
        f'b = make("roots", "exp", root={str(tmp_path / "b")!r}); b.log_metrics({{"x": 1}})'
    )
    assert "was still open" not in told
    assert kernel.status("roots/exp") == "running"
    kernel.run("a.finish(); b.finish()")


def test_a_resuming_cell_may_be_run_twice(kernel):
    cell = 'tracker = make("resumed", "exp", resume="allow"); tracker.log_metrics({"x": 1})'
    for _ in range(3):
        assert kernel.run(cell)[1] == "ok"
    kernel.run("tracker.finish()")
    rows = kernel.rows("resumed/exp")
    assert [row.get("attempt", 1) for row in rows] == [1, 2, 3]
    assert kernel.status("resumed/exp") == "finished"


def test_a_run_whose_tracker_was_replaced_is_finished(kernel):
    cell = 'tracker = make("dropped"); tracker.log_metrics({"x": 1})'
    kernel.run(cell)
    (place,) = [f"dropped/{p.name}" for p in (kernel.root / "dropped").iterdir()]
    kernel.run(cell + "; gc.collect()")
    kernel.run("import time; time.sleep(0.5)")
    assert kernel.status(place) == "finished"


def test_an_interrupted_cell_can_go_on(kernel):
    kernel.run('run = make("interrupted").start_run("r")')
    loop = """
print("ready", flush=True)
while True:
    run.log_metrics({"x": 1})
    time.sleep(0.001)
"""
    assert kernel.run(loop, interrupt=True)[1] == "KeyboardInterrupt"
    assert kernel.status("interrupted/r") == "running"
    before = len(kernel.rows("interrupted/r"))
    kernel.run('run.log_metrics({"y": 2}); run.end_run()')
    rows = kernel.rows("interrupted/r")
    assert (len(rows), rows[-1]["y"]) == (before + 1, 2)
    assert kernel.status("interrupted/r") == "finished"


def test_an_interrupted_with_block_reads_killed(kernel):
    cell = """
with make("block").start_run("r") as run:
    print("ready", flush=True)
    while True:
        time.sleep(0.001)
"""
    assert kernel.run(cell, interrupt=True)[1] == "KeyboardInterrupt"
    assert kernel.status("block/r") == "killed"


def test_a_failing_with_block_reads_failed_and_the_kernel_goes_on(kernel):
    cell = 'with make("fails").start_run("r") as run:\n    1 / 0'
    assert kernel.run(cell)[1] == "ZeroDivisionError"
    assert kernel.status("fails/r") == "failed"
    assert kernel.run("1 + 1")[1] == "ok"


@pytest.mark.parametrize(
    ("cells", "status"),
    [
        ([], "finished"),
        (["1 / 0"], "failed"),
        (["1 / 0", "1 + 1"], "finished"),
        (["raise KeyboardInterrupt"], "killed"),
        (["1 +"], "failed"),
        (["1 / 0", "tracker.log_metrics({'x': 2})"], "finished"),
    ],
)
def test_a_restarted_kernel_leaves_the_status_of_the_last_cell(shared, cells, status):
    project = f"restart-{len(list(shared.root.glob('restart-*')))}"
    shared.run(TRAIN.format(project=project))
    for cell in cells:
        shared.run(cell)
    assert shared.status(f"{project}/exp") == "running"
    shared.restart()
    assert shared.status(f"{project}/exp") == status


def test_a_kernel_that_is_shut_down_finishes_its_run(tmp_path):
    kernel = Kernel(tmp_path)
    kernel.run(TRAIN.format(project="p"))
    kernel.close()
    assert kernel.status("p/exp") == "finished"
    assert check(str(kernel.root)) == []


def test_a_kernel_that_is_killed_reads_crashed_with_every_row(tmp_path):
    kernel = Kernel(tmp_path)
    kernel.run(TRAIN.format(project="p"))
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)
    assert (kernel.status("p/exp"), len(kernel.rows("p/exp"))) == ("crashed", 1)
