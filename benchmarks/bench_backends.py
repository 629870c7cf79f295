"""Backends: what a training loop pays for a service that is slow, or does not answer.

Loops of 10 ms steps in processes of their own, in alternation: one without a backend, the others
each with one that is in trouble. Compared are the tails of the logging call, where a neighbour
that holds the interpreter, or the machine, would show.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec

from timing import Options, Row, alternate, fresh_root, main, middle, output_of, percentile, ratio

_ROUNDS = 3
_BACKENDS = """
import threading, time

class Slow:
    '''Takes a hundred times as long as a step for each row.'''

    name, options = "bench-slow", {}

    def start_run(self, run_name, config): pass
    def log_metrics(self, metrics, step): time.sleep(1)
    def log_model(self, model, path): pass

class SlowHere(Slow):
    options = None

class Hanging(SlowHere):
    def log_metrics(self, metrics, step): threading.Event().wait()
"""
_ENTRY_POINT = "[experiment_tracking.backends]\nbench-slow = bench_backend:Slow\n"
_LOOP = """
import itertools, json, os, socket, sys, time
folder, steps, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.path.insert(0, folder)
os.environ["PYTHONPATH"] = folder  # for the child that follows
from timing import METRICS
from experiment_tracking import ExperimentTracker

silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and never answers
wanted = {
    "none": lambda: {},
    "sleeps": lambda: {"backend": __import__("bench_backend").SlowHere()},
    "hangs": lambda: {"backend": __import__("bench_backend").Hanging()},
    "child": lambda: {"backend": "bench-slow"},
    "mlflow": lambda: {"tracking_uri": "http://127.0.0.1:%d" % silent.getsockname()[1]},
    "wandb": lambda: {"use_wandb": True},
}[kind]()
tracker = ExperimentTracker("bench", root=folder, exit_timeout_s=0.5, **wanted)
clock, times = time.perf_counter_ns, []
for step, metrics in zip(range(steps), itertools.cycle(METRICS)):
    time.sleep(0.01)
    started = clock()
    tracker.log_metrics(metrics, step)
    times.append(clock() - started)
tracker.finish()
print(json.dumps(times[1:]))  # the first opens the run
"""
_KINDS = {
    "sleeps": "a custom backend that sleeps 1 s a row",
    "hangs": "a custom backend that waits for ever",
    "child": "a backend in the child process, 100 times slower than the loop",
    "mlflow": "an MLflow server that never answers",
    "wandb": "W&B, offline",
}


def measure(options: Options) -> Iterator[Row]:
    """Compare the logging calls' p99 with and without each backend."""
    steps = options.pick(100, 500)
    kinds = [
        "none",
        *(kind for kind in _KINDS if kind not in ("mlflow", "wandb") or find_spec(kind)),
    ]
    rounds = alternate(_ROUNDS, *(lambda kind=kind: p99(kind, steps) for kind in kinds))
    for of, kind in enumerate(kinds[1:], start=1):
        against = ratio(rounds, of)
        yield Row(
            f"in a loop of 10 ms steps with {_KINDS[kind]}: p99",
            "≤ 1.5 x without",
            f"{against:.2f} x ({middle(rounds, of) / 1e6:.3f} ms to "
            f"{middle(rounds, 0) / 1e6:.3f} ms)",
            against <= 1.5,
        )


def p99(kind: str, steps: int) -> float:
    """Return the p99 of the logging call in ns."""
    with fresh_root() as folder:
        os.mkdir(f"{folder}/bench_backend-1.dist-info")
        for name, text in (
            ("bench_backend.py", _BACKENDS),
            ("bench_backend-1.dist-info/METADATA", "Name: bench-backend\nVersion: 1\n"),
            ("bench_backend-1.dist-info/entry_points.txt", _ENTRY_POINT),
        ):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": folder, "HOME": folder}
        times = output_of("-c", _LOOP, folder, str(steps), kind, cwd=_HERE)
    return percentile(times, 0.99)


_HERE = os.path.dirname(os.path.abspath(__file__))

if __name__ == "__main__":
    main(measure, __doc__)
