"""Reading many runs: 10,000 finished runs with 20 params and 20 metrics as one DataFrame.

The yardstick lists the same folders, reads each run's ``summary.json`` and ``params.json``,
parses them with orjson and drops what it got. Each side runs five times, in alternation, in a
fresh process, and the clock starts after ``import pandas``. *Cold* means that nothing was kept
from an earlier scan; the operating system's page cache is warm for both.
"""

import json
import os
import random
import shutil
from collections.abc import Iterator

from timing import ROUNDS, Options, Row, alternate, fresh_root, main, middle, output_of, ratio

from experiment_tracking import ExperimentTracker

_YARDSTICK = """
import os, sys, time
import orjson, pandas

def read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return orjson.loads(os.read(fd, os.fstat(fd).st_size))
    finally:
        os.close(fd)

started = time.perf_counter()
for project in os.scandir(sys.argv[1]):
    for run in os.scandir(project.path):
        read(f"{run.path}/summary.json")
        read(f"{run.path}/params.json")
print(time.perf_counter() - started)
"""

_OURS = """
import sys, time
import pandas
from experiment_tracking import ExperimentRegistry

started = time.perf_counter()
frame = ExperimentRegistry(sys.argv[1]).to_frame()
took_s = time.perf_counter() - started
assert len(frame) == int(sys.argv[2]), len(frame)
assert sum(name.startswith("metrics.") for name in frame) == 20, list(frame)
assert sum(name.startswith("params.") for name in frame) == 20, list(frame)
print(took_s)
"""


def measure(options: Options) -> Iterator[Row]:
    """Make the runs and measure the row of this script."""
    count = options.pick(1_000, 10_000)
    with fresh_root() as root:
        make_runs(root, count)
        rounds = alternate(
            ROUNDS,
            lambda: float(output_of("-c", _YARDSTICK, root)),
            lambda: float(output_of("-c", _OURS, root, str(count))),
        )
    against = ratio(rounds, 1)
    yield Row(
        f"{count:,} runs (20 params, 20 metrics) as a DataFrame, cold",
        "≤ 1.25 x reading, parsing and dropping each file",
        f"{against:.2f} x ({middle(rounds, 1):.2f} s to {middle(rounds, 0):.2f} s)",
        against <= 1.25,
    )


def make_runs(root: str, count: int) -> None:
    """Log one real run and copy it, each copy with an identity and numbers of its own."""
    model = log_one(root)
    with open(f"{model}/summary.json") as file:
        summary = json.load(file)
    with open(f"{model}/params.json") as file:
        params = json.load(file)
    values = random.Random(0)
    for number in range(1, count):
        folder = os.path.join(root, "bench", f"run-{number:05d}")
        shutil.copytree(model, folder, copy_function=shutil.copyfile)
        summary |= {"id": f"{number:016x}", "name": f"run-{number:05d}"}
        for metric in summary["metrics"].values():
            metric["last"] = metric["min"] = values.random()
        _write(f"{folder}/summary.json", summary)
        _write(f"{folder}/params.json", {name: values.random() for name in params})


def log_one(root: str) -> str:
    """Log a run of ten rows; return its folder."""
    with ExperimentTracker("bench", "run-00000", root=root, use_tensorboard=False) as tracker:
        tracker.log_params({f"param_{i}": i / 7 for i in range(20)})
        for step in range(10):
            tracker.log_metrics({f"metric_{i}": (step + i) / 7 for i in range(20)}, step=step)
    return os.path.join(root, "bench", "run-00000")


def _write(path: str, document: object) -> None:
    with open(path, "w") as file:
        json.dump(document, file, indent=2)


if __name__ == "__main__":
    main(measure, __doc__)
