"""The logging call: what a training loop pays for ``log_metrics`` with four numbers.

The yardstick, in the same process and in alternation, is the least that keeps a row: build it
with its step and time, ``json.dumps`` it, and write the line to a buffered file. (It loses the
buffer when the process is killed; ``log_metrics`` loses nothing.) Unless it says otherwise,
everything is on: capture, digest, heartbeat, TensorBoard.
"""

import itertools
import json
import os
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

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
    percentile,
    ratio,
)

from experiment_tracking import ExperimentTracker

Log = Callable[[dict[str, float], int], object]


def measure(options: Options) -> Iterator[Row]:
    """Measure all rows of this script."""
    yield from measure_calls(options)
    yield from measure_flatness(options)
    yield from measure_steps(options)
    yield from measure_loops(options)
    yield from measure_memory(options)


# ---------------------------------------------------------------------- single calls


class Calls(NamedTuple):
    """Caller's times in ns."""

    p50: float
    p99: float


def measure_calls(options: Options) -> Iterator[Row]:
    """Compare the time of single calls, 50,000 in a row, with that of the yardstick's."""
    count = options.pick(5_000, 50_000)
    rounds = [
        (
            yardstick_calls(count),
            tracked_calls(count, lambda tracker: tracker.log_metrics),
            tracked_calls(count, lambda tracker: tracker.start_run().log_metrics),
        )
        for _ in range(ROUNDS)
    ]
    p50s = [tuple(calls.p50 for calls in results) for results in rounds]
    tails = [tuple(calls.p99 / calls.p50 for calls in results) for results in rounds]
    for of, name in ((1, "`tracker.log_metrics`"), (2, "`run.log_metrics`")):
        against, tail = ratio(p50s, of), middle(tails, of)
        yield Row(
            f"{name}, 4 numbers, everything on: p50",
            "≤ 0.7 x `json.dumps` + buffered write",
            f"{against:.2f} x ({middle(p50s, of) / 1e3:.1f} µs to {middle(p50s, 0) / 1e3:.1f} µs)",
            against <= 0.7,
        )
        yield Row(
            f"{name}: p99",
            "≤ 10 x its own p50",
            f"{tail:.1f} x (the yardstick's: {middle(tails, 0):.1f} x)",
            tail <= 10,
        )


def yardstick_calls(count: int) -> Calls:
    """Time each call of the yardstick."""
    with tempfile.TemporaryFile("w") as file:
        return to_calls(call_times(yardstick(file), count))


def tracked_calls(count: int, to_log: Callable[[ExperimentTracker], Log]) -> Calls:
    """Time each call into a new run."""
    with fresh_root() as root, ExperimentTracker("bench", root=root) as tracker:
        return to_calls(call_times(to_log(tracker), count))


def to_calls(times: "array[int]") -> Calls:
    """Sum up the times of single calls."""
    return Calls(percentile(times, 0.5), percentile(times, 0.99))


def yardstick(file: Any) -> Log:
    """Return the yardstick's way to log a row."""

    def log(metrics: dict[str, float], step: int) -> None:
        file.write(json.dumps({"step": step, "time": time.time(), **metrics}) + "\n")

    return log


def call_times(log: Log, count: int) -> "array[int]":
    """Log ``count`` rows; return each call's time in ns, that of the clock included."""
    clock = time.perf_counter_ns
    times = array("q", bytes(8 * count))
    for step, metrics in zip(range(count), itertools.cycle(METRICS)):
        started = clock()
        log(metrics, step)
        times[step] = clock() - started
    return times


def measure_flatness(options: Options) -> Iterator[Row]:
    """Compare the first 10,000 calls of a run with its last 10,000."""
    count = options.pick(100_000, 1_000_000)
    growth = median(first_to_last(count) for _ in range(ROUNDS))
    yield Row(
        f"`log_metrics`: p50 of the last 10,000 of {count:,} calls",
        "flat: ≤ 1.2 x the first 10,000's",
        f"{growth:.2f} x",
        growth <= 1.2,
    )


def first_to_last(count: int, part: int = 10_000) -> float:
    """Return by how much calls become slower in the course of one run."""
    with fresh_root() as root, ExperimentTracker("bench", root=root) as tracker:
        times = call_times(tracker.log_metrics, count)
    return percentile(times[-part:], 0.5) / percentile(times[:part], 0.5)


# ---------------------------------------------------------------------- a training loop


def measure_steps(options: Options) -> Iterator[Row]:
    """Log once per 10 ms while the followers have 100,000 rows to catch up with."""
    steps = options.pick(200, 1_000)
    rounds = [calls_among_steps(steps) for _ in range(ROUNDS)]
    for share, limit_ms in ((0.99, 0.5), (0.999, 1.0)):
        ours, plain = (
            median(percentile(results[of], share) / 1e6 for results in rounds) for of in (0, 1)
        )
        yield Row(
            f"in a loop of 10 ms steps, followers 100,000 rows behind: p{100 * share:g}",
            f"≤ {limit_ms:g} ms",
            f"{ours:.3f} ms (the yardstick's: {plain:.3f} ms)",
            ours <= limit_ms,
        )


def calls_among_steps(steps: int, backlog: int = 100_000) -> "tuple[array[int], array[int]]":
    """Return the times of calls and of the yardstick's calls, both made in every step."""
    clock = time.perf_counter_ns
    ours, plain = array("q"), array("q")
    with fresh_root() as root, tempfile.TemporaryFile("w") as file:
        tracker = ExperimentTracker("bench", root=root)
        call_times(tracker.log_metrics, backlog)
        turns = [(tracker.log_metrics, ours), (yardstick(file), plain)]
        for step, metrics in zip(range(steps), itertools.cycle(METRICS)):
            time.sleep(0.01)
            turns.reverse()
            for log, times in turns:
                started = clock()
                log(metrics, backlog + step)
                times.append(clock() - started)
        tracker.finish()
    return ours, plain


# ---------------------------------------------------------------------- a whole loop


def measure_loops(options: Options) -> Iterator[Row]:
    """Time whole loops to the end of ``finish()``, when every follower has everything."""
    count = options.pick(50_000, 100_000)
    rounds = alternate(
        ROUNDS,
        lambda: yardstick_loop(count),
        lambda: tracked_loop(count, use_tensorboard=False),
        lambda: tracked_loop(count, use_tensorboard=True),
        lambda: tensorboardx_loop(count // 50),
    )
    for of, name, limit in ((1, "without TensorBoard", 1.0), (2, "with TensorBoard", 3.5)):
        against = ratio(rounds, of)
        yield Row(
            f"whole loop of {count:,} rows and `finish()`, per call, {name}",
            f"≤ {limit:g} x the yardstick's loop and `close()`",
            f"{against:.2f} x ({middle(rounds, of) * 1e6:.1f} µs)",
            against <= limit,
        )
    yield Row(
        "for comparison: tensorboardX's own `add_scalar`, 4 per row, and `close()`",
        "",
        f"{ratio(rounds, 3):.0f} x ({middle(rounds, 3) * 1e6:.0f} µs)",
        None,
    )


def loop_s(log: Log, count: int) -> None:
    """Log ``count`` rows."""
    for step, metrics in zip(range(count), itertools.cycle(METRICS)):
        log(metrics, step)


def yardstick_loop(count: int) -> float:
    """Return the yardstick's seconds per row."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w") as file:
        loop_s(yardstick(file), count)
    return (time.perf_counter() - started) / count


def tracked_loop(count: int, *, use_tensorboard: bool) -> float:
    """Return our seconds per row, from the first call on, which opens the run."""
    with fresh_root() as root:
        tracker = ExperimentTracker("bench", root=root, use_tensorboard=use_tensorboard)
        started = time.perf_counter()
        loop_s(tracker.log_metrics, count)
        tracker.finish()
        return (time.perf_counter() - started) / count


def tensorboardx_loop(count: int) -> float:
    """Return tensorboardX's seconds per row of four scalars."""
    from tensorboardX import SummaryWriter

    with fresh_root() as root:
        writer = SummaryWriter(root)

        def log(metrics: dict[str, float], step: int) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

        started = time.perf_counter()
        loop_s(log, count)
        writer.close()
        return (time.perf_counter() - started) / count


# ---------------------------------------------------------------------- memory

_MEMORY_SCRIPT = """
import itertools, json, sys, time
import psutil
from experiment_tracking import ExperimentTracker
from timing import METRICS

def resident_mb():
    return psutil.Process().memory_info().rss / 2**20

def peak_mb():
    # Not getrusage: its maximum is that of the process we were started from as well.
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**10
    except OSError:
        return resident_mb()

root, count = sys.argv[1], int(sys.argv[2])
tracker = ExperimentTracker("bench", root=root)
tracker.log_metrics(METRICS[0], step=0)
first = resident_mb()
time.sleep(2)  # what the run's thread imports, it has imported now
settled = resident_mb()
for step, metrics in zip(range(1, count), itertools.cycle(METRICS)):
    tracker.log_metrics(metrics, step=step)
last = resident_mb()
tracker.finish()
print(json.dumps([first, settled, last, peak_mb()]))
"""


def measure_memory(options: Options) -> Iterator[Row]:
    """Log a million rows (ten with ``--full``) in a process that does nothing else."""
    count = options.pick(100_000, 1_000_000, 10_000_000)
    with fresh_root() as root:
        first, settled, last, peak = output_of("-c", _MEMORY_SCRIPT, root, str(count), cwd=_HERE)
    yield Row(
        f"memory: growth from the first to the {count:,}th row",
        "≤ 10 MB",
        f"{last - first:.1f} MB (of it late imports: {settled - first:.1f} MB)",
        last - first <= 10,
    )
    yield Row(
        "memory of the whole process at its highest, without pandas",
        "≤ 60 MB",
        f"{peak:.0f} MB ({first:.0f} MB at the first row)",
        peak <= 60,
    )


_HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":
    main(measure, __doc__)
