"""Reading many runs: 10,000 and 100,000 finished runs with 20 params and 20 metrics.

The yardstick lists the same folders, reads each run's ``summary.json`` and ``params.json``,
parses them with orjson and drops what it got. Each side runs five times, in alternation, in a
fresh process, and the clock starts after ``import pandas``. *Cold* means that nothing was kept
from an earlier scan, and what is read is kept; *warm* that all of it was. The operating system's
page cache is warm for both.
"""

import itertools
import os
import random
import shutil
import time
from collections.abc import Iterator
from typing import Any

import orjson
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
import os, resource, sys, time
import pandas
os.environ["EXPERIMENT_TRACKING_CACHE"] = sys.argv[3]
from experiment_tracking import ExperimentRegistry

started = time.perf_counter()
frame = ExperimentRegistry(sys.argv[1]).to_frame()
took_s = time.perf_counter() - started
assert len(frame) == int(sys.argv[2]), len(frame)
assert sum(name.startswith("metrics.") for name in frame) == 20, list(frame)
assert sum(name.startswith("params.") for name in frame) == 20, list(frame)
print([took_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000])
"""

_FILTER = """
import os, sys, time
os.environ["EXPERIMENT_TRACKING_CACHE"] = sys.argv[2]
from experiment_tracking import ExperimentRegistry

registry = ExperimentRegistry(sys.argv[1])
registry.list_experiments().filter("metrics.metric_9 < 1").order_by("metrics.metric_9").limit(1)
runs = registry.list_experiments()
started = time.perf_counter()
chosen = runs.filter("metrics.metric_3 < 0.5 and params.param_2 > 0.2")
names = chosen.order_by("metrics.metric_0").limit(10).names
took_s = time.perf_counter() - started
assert len(names) == 10, names
print(took_s)
"""

_SETTLE_S = 2.5
"""Files younger than two seconds are read again each time."""


def measure(options: Options) -> Iterator[Row]:
    """Make the runs and measure the rows of this script."""
    count = options.pick(1_000, 10_000)
    with fresh_root() as folder:
        root, cache = f"{folder}/root", f"{folder}/cache"
        make_runs(root, count)
        time.sleep(_SETTLE_S)
        yield from _rows_of_one_root(root, cache, count)
        if not options.quick:
            warm_s = _scan(root, _count(root), cache)[0]
            shutil.rmtree(root)
            yield from _rows_of_a_large_root(folder, 10 * count, warm_s)


def _rows_of_one_root(root: str, cache: str, count: int) -> Iterator[Row]:
    _scan(root, count, cache)
    fresh = (f"{cache}-{number}" for number in itertools.count())
    rounds = alternate(
        ROUNDS,
        lambda: float(output_of("-c", _YARDSTICK, root)),
        lambda: _scan(root, count, next(fresh))[0],
        lambda: _scan(root, count, cache)[0],
    )
    what = f"{count:,} runs (20 params, 20 metrics) as a DataFrame"
    for name, of, mark in (("cold, kept for the next time", 1, 1.25), ("warm", 2, 0.30)):
        against = ratio(rounds, of)
        yield Row(
            f"{what}, {name}",
            f"≤ {mark:.2f} x reading, parsing and dropping each file",
            f"{against:.2f} x ({middle(rounds, of):.3f} s to {middle(rounds, 0):.3f} s)",
            against <= mark,
        )
    yield _row_of_one_more(root, cache, count)
    filter_s = middle(alternate(ROUNDS, lambda: float(output_of("-c", _FILTER, root, cache))), 0)
    yield Row(
        f"filter on a metric and a param, top 10 of {count:,} runs that are loaded",
        "≤ 50 ms",
        f"{1000 * filter_s:.1f} ms",
        filter_s <= 0.05,
    )


def _row_of_one_more(root: str, cache: str, count: int) -> Row:
    counts = itertools.count(count)

    def with_one_more() -> float:
        number = next(counts)
        _copy(root, number)
        return _scan(root, number + 1, cache)[0]

    rounds = alternate(ROUNDS, lambda: _scan(root, _count(root), cache)[0], with_one_more)
    against = ratio(rounds, 1)
    return Row(
        f"one new run among {count:,}, the others warm",
        "≤ 1.10 x none",
        f"{against:.2f} x ({middle(rounds, 1):.3f} s to {middle(rounds, 0):.3f} s)",
        against <= 1.10,
    )


def _count(root: str) -> int:
    """Return how many runs there are."""
    return len(os.listdir(f"{root}/bench"))


def _rows_of_a_large_root(folder: str, count: int, tenth_s: float) -> Iterator[Row]:
    root, cache = f"{folder}/large", f"{folder}/cache-large"
    make_runs(root, count)
    time.sleep(_SETTLE_S)
    cold_s, cold_mb = _scan(root, count, cache)
    rounds = alternate(ROUNDS, lambda: _scan(root, count, cache)[0])
    warm_s, warm_mb = middle(rounds, 0), _scan(root, count, cache)[1]
    what = f"{count:,} runs (20 params, 20 metrics) as a DataFrame"
    yield Row(f"{what}, warm", "≤ 3 s", f"{warm_s:.2f} s (cold: {cold_s:.2f} s)", warm_s <= 3)
    most_mb = max(cold_mb, warm_mb)
    yield Row(
        f"{what}: memory of the whole process at its highest",
        "≤ 1 GB",
        f"{most_mb:.0f} MB (warm: {warm_mb:.0f} MB)",
        most_mb <= 1000,
    )
    growth = warm_s / tenth_s
    yield Row(
        f"{count:,} runs against a tenth of them, warm",
        "linear: ≤ 12 x",
        f"{growth:.1f} x",
        growth <= 12,
    )


def _scan(root: str, count: int, cache: str) -> tuple[float, float]:
    """Return the seconds that a DataFrame takes, and the megabytes of the process."""
    took_s, most_mb = output_of("-c", _OURS, root, str(count), cache)
    return took_s, most_mb


def make_runs(root: str, count: int) -> None:
    """Log one real run and copy its documents, with an identity and numbers of their own."""
    log_one(root)
    for number in range(1, count):
        _copy(root, number)


def _copy(root: str, number: int) -> None:
    model, folder = f"{root}/bench/run-00000", f"{root}/bench/run-{number:05d}"
    summary, params = _read(f"{model}/summary.json"), _read(f"{model}/params.json")
    values = random.Random(number)
    summary |= {"id": f"{number:016x}", "name": f"run-{number:05d}"}
    for metric in summary["metrics"].values():
        metric["last"] = metric["min"] = values.random()
    os.mkdir(folder)
    _write(f"{folder}/summary.json", summary)
    _write(f"{folder}/params.json", {name: values.random() for name in params})


def log_one(root: str) -> str:
    """Log a run of ten rows; return its folder."""
    with ExperimentTracker("bench", "run-00000", root=root, use_tensorboard=False) as tracker:
        tracker.log_params({f"param_{i}": i / 7 for i in range(20)})
        for step in range(10):
            tracker.log_metrics({f"metric_{i}": (step + i) / 7 for i in range(20)}, step=step)
    return os.path.join(root, "bench", "run-00000")


def _read(path: str) -> Any:
    with open(path, "rb") as file:
        return orjson.loads(file.read())


def _write(path: str, document: object) -> None:
    with open(path, "wb") as file:
        file.write(orjson.dumps(document, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main(measure, __doc__)
