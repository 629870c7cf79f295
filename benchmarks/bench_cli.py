"""The command line: whole processes of ``experiments``, from start to exit.

For comparison, the start of Python itself in the same environment and in alternation.
"""

import os
import sys
from collections.abc import Iterator

from timing import ROUNDS, Options, Row, alternate, fresh_root, main, middle, process, python

from experiment_tracking import ExperimentTracker

_COMMAND = os.path.join(os.path.dirname(sys.executable), "experiments")


def measure(options: Options) -> Iterator[Row]:
    """Measure all rows of this script."""
    with fresh_root() as root:
        for number in range(10):
            log_run(root, number)
        rounds = alternate(
            ROUNDS,
            python("-c", "pass", cwd=root),
            process(_COMMAND, "--help", cwd=root),
            process(_COMMAND, "--root", root, "ls", cwd=root),
            repeat=options.pick(1, 5),
        )
    bare_s = middle(rounds, 0)
    for of, name in ((1, "`experiments --help`"), (2, "`experiments ls` of ten runs")):
        took_s = middle(rounds, of)
        yield Row(
            f"{name}, whole process",
            "≤ 0.2 s",
            f"{took_s:.3f} s (bare Python: {bare_s:.3f} s)",
            took_s <= 0.2,
        )


def log_run(root: str, number: int) -> None:
    """Log a small run."""
    with ExperimentTracker("bench", root=root, use_tensorboard=False) as tracker:
        tracker.log_params({"lr": 0.1 / (number + 1), "layers": 3})
        for step in range(10):
            tracker.log_metrics({"loss": 1 / (step + 1), "accuracy": step / 10}, step=step)


if __name__ == "__main__":
    main(measure, __doc__)
