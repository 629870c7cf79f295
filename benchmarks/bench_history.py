"""Reading histories: a million rows of four metrics, and one metric of 50 runs of 10,000 rows.

The yardstick is ``orjson.loads`` of the same bytes, already read. Each side runs five times, in
alternation, in a fresh process, and the clock starts after ``import pandas``. The operating
system's page cache is warm.
"""

from collections.abc import Iterator

from timing import (
    METRICS,
    ROUNDS,
    Options,
    Row,
    alternate,
    fresh_root,
    main,
    middle,
    output_of,
    ratio,
)

from experiment_tracking import ExperimentTracker

_YARDSTICK = """
import glob, sys, time
import orjson, pandas

histories = []
for path in glob.glob(sys.argv[1] + "/*/*/metrics_history.json"):
    with open(path, "rb") as file:
        histories.append(file.read())
started = time.perf_counter()
for data in histories:
    orjson.loads(data)
print(time.perf_counter() - started)
"""

_ONE_RUN = """
import json, resource, sys, time
import pandas
from experiment_tracking import ExperimentRegistry

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
record = ExperimentRegistry(sys.argv[1]).get("latest")
started = time.perf_counter()
frame = record.history()
took_s = time.perf_counter() - started
assert frame.shape == (int(sys.argv[2]), 6), frame.shape
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([took_s, (after - before) * 1024]))
"""

_ONE_METRIC = """
import sys, time
import pandas
from experiment_tracking import ExperimentRegistry

registry = ExperimentRegistry(sys.argv[1])
runs = list(registry.list_experiments())
started = time.perf_counter()
frame = registry.history("train/loss", runs)
took_s = time.perf_counter() - started
assert frame.shape == (int(sys.argv[2]), 5), frame.shape
print(took_s)
"""


def measure(options: Options) -> Iterator[Row]:
    """Log the runs and measure the rows of this script."""
    yield from _measure_one_run(options.pick(100_000, 1_000_000))
    yield _measure_one_metric(options.pick(5, 50), 10_000)


def _measure_one_run(count: int) -> Iterator[Row]:
    sizes = []

    def ours() -> float:
        took_s, size_bytes = output_of("-c", _ONE_RUN, root, str(count))
        sizes.append(size_bytes)
        return float(took_s)

    with fresh_root() as root:
        log_runs(root, 1, count)
        rounds = alternate(ROUNDS, lambda: float(output_of("-c", _YARDSTICK, root)), ours)
    against = ratio(rounds, 1)
    yield Row(
        f"a history of {count:,} rows x 4 metrics as a DataFrame",
        "≤ 1.6 x orjson.loads of its bytes",
        f"{against:.2f} x ({middle(rounds, 1):.2f} s to {middle(rounds, 0):.2f} s)",
        against <= 1.6,
    )
    yield Row("memory for it", "≤ 1 GB", f"{max(sizes) / 1e9:.2f} GB", max(sizes) <= 1e9)


def _measure_one_metric(runs: int, count: int) -> Row:
    with fresh_root() as root:
        log_runs(root, runs, count)
        rounds = alternate(
            ROUNDS,
            lambda: float(output_of("-c", _YARDSTICK, root)),
            lambda: float(output_of("-c", _ONE_METRIC, root, str(runs * count))),
        )
    against = ratio(rounds, 1)
    return Row(
        f"one metric of {runs} runs x {count:,} rows as a DataFrame",
        "≤ 1.6 x orjson.loads of their bytes",
        f"{against:.2f} x ({middle(rounds, 1):.2f} s to {middle(rounds, 0):.2f} s)",
        against <= 1.6,
    )


def log_runs(root: str, runs: int, count: int) -> None:
    """Log runs of ``count`` rows of four metrics."""
    for number in range(runs):
        with ExperimentTracker(
            "bench", f"run-{number:02d}", root=root, use_tensorboard=False, auto_log=False
        ) as tracker:
            for step in range(count):
                tracker.log_metrics(METRICS[step % len(METRICS)], step=step)


if __name__ == "__main__":
    main(measure, __doc__)
