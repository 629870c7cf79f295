"""Start and end: what a script pays once, against the start of Python itself.

*Bare Python* is ``python -c pass`` in the same environment, run in alternation. Whole processes
are timed from outside, from their start to their exit. The scripts run in a git repository with
one commit, so that there is something to capture.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from statistics import median

from timing import (
    ROUNDS,
    Options,
    Row,
    alternate,
    environment,
    fresh_root,
    main,
    middle,
    output_of,
    python,
    ratio,
)

_IMPORTS = {
    "import experiment_tracking": 1.2,
    "from experiment_tracking import ExperimentTracker, ExperimentRegistry": 4.0,
}

# os.fsync is counted from before the import, so that every call of it is seen.
_COUNTING = """
import json, os, time
fsyncs = []

def counted(flush):
    def call(fd):
        started = time.perf_counter()
        try:
            return flush(fd)
        finally:
            fsyncs.append(time.perf_counter() - started)
    return call

os.fsync = counted(os.fsync)
if hasattr(os, "fdatasync"):
    os.fdatasync = counted(os.fdatasync)
from experiment_tracking import ExperimentTracker
"""

_OPENING = (
    _COUNTING
    + """
started = time.perf_counter()
tracker = ExperimentTracker("bench", root="runs")
tracker.log_metrics({"loss": 1.5, "accuracy": 0.5, "norm": 0.25, "rate": 0.001}, step=0)
print(json.dumps([time.perf_counter() - started, len(fsyncs)]))
"""
)

_FINISHING = (
    _COUNTING
    + """
import sys
tracker = ExperimentTracker("bench", root="runs")
tracker.log_params({f"param_{i}": i / 7 for i in range(10)})
tracker.log_metrics({"loss": 1.5, "accuracy": 0.5, "norm": 0.25, "rate": 0.001}, step=0)
time.sleep(float(sys.argv[1]))
fsyncs.clear()
started = time.perf_counter()
tracker.finish()
took_s = time.perf_counter() - started
print(json.dumps([len(fsyncs), took_s - sum(fsyncs)]))
"""
)

_WHOLE = """
from experiment_tracking import ExperimentTracker

tracker = ExperimentTracker("bench", root="runs", use_tensorboard=False)
tracker.log_params({f"param_{i}": i / 7 for i in range(10)})
tracker.log_metrics({"loss": 1.5, "accuracy": 0.5, "norm": 0.25, "rate": 0.001}, step=0)
tracker.finish()
"""


def measure(options: Options) -> Iterator[Row]:
    """Measure all rows of this script."""
    repeat = options.pick(1, 15)
    with fresh_root() as folder:
        make_repository(folder)
        yield from measure_processes(folder, repeat)
        yield from measure_opening(folder, repeat)
        yield from measure_finish(folder)


def make_repository(folder: str) -> None:
    """Commit the script, where there is git; capture then has what it has in practice."""
    with open(os.path.join(folder, "train.py"), "w") as file:
        file.write(_WHOLE)
    if shutil.which("git"):
        git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@example.org"]
        for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "start"]):
            subprocess.run([*git, *arguments], cwd=folder, check=True, env=environment())


def measure_processes(folder: str, repeat: int) -> Iterator[Row]:
    """Time imports and one whole small script."""
    rounds = alternate(
        ROUNDS,
        python("-c", "pass", cwd=folder),
        *(python("-c", code, cwd=folder) for code in _IMPORTS),
        python("train.py", cwd=folder),
        repeat=repeat,
    )
    marks = {**{f"`{code}`": limit for code, limit in _IMPORTS.items()}, _WHOLE_NAME: 6.0}
    for of, (name, limit) in enumerate(marks.items(), start=1):
        against = ratio(rounds, of)
        yield Row(
            name,
            f"≤ {limit:g} x bare Python",
            f"{against:.2f} x ({middle(rounds, of) * 1e3:.0f} ms to "
            f"{middle(rounds, 0) * 1e3:.0f} ms)",
            against <= limit,
        )


_WHOLE_NAME = (
    "whole process: import, open, 10 params, 1 row, finish, everything captured, TensorBoard off"
)


def measure_opening(folder: str, repeat: int) -> Iterator[Row]:
    """Time the way from making a tracker to the return of its first call, imports done."""
    counts: list[int] = []

    def opening_s() -> float:
        seconds, fsyncs = output_of("-c", _OPENING, cwd=folder)
        counts.append(fsyncs)
        return float(seconds)

    rounds = alternate(ROUNDS, python("-c", "pass", cwd=folder), opening_s, repeat=repeat)
    against = ratio(rounds, 1)
    yield Row(
        "open a run until the first row, everything on",
        "≤ 1 x bare Python",
        f"{against:.2f} x ({middle(rounds, 1) * 1e3:.1f} ms)",
        against <= 1,
    )
    yield Row("fsyncs until the first row", "0", str(max(counts)), max(counts) == 0)


def measure_finish(folder: str) -> Iterator[Row]:
    """Count the flushes of ``finish()`` and time the rest of it.

    A run that is finished at once still owes what its thread does in the first second: capture,
    and the start of TensorBoard's file.
    """
    yield _finish_row(folder, 2.5, "open for 2.5 s", 20)
    yield _finish_row(folder, 0.0, "finished at once", None)


def _finish_row(folder: str, after_s: float, name: str, limit_ms: float | None) -> Row:
    results = [output_of("-c", _FINISHING, str(after_s), cwd=folder) for _ in range(ROUNDS)]
    fsyncs = median(count for count, _ in results)
    rest_ms = median(seconds for _, seconds in results) * 1e3
    return Row(
        f"`finish()` of a run {name}, everything on",
        "≤ 4 fsyncs + " + (f"{limit_ms:g} ms" if limit_ms else "what followers owe"),
        f"{fsyncs:.0f} fsyncs + {rest_ms:.1f} ms",
        fsyncs <= 4 and (limit_ms is None or rest_ms <= limit_ms),
    )


if __name__ == "__main__":
    main(measure, __doc__)
