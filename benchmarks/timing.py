"""What the benchmarks share: a row of the table, and measuring in alternation.

Two things are compared by running them in turn, five times each, and taking the median of the
five ratios. So a slow minute of a busy machine falls on both.
"""

import argparse
import contextlib
import io
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

ROUNDS = 5

METRICS = [
    {
        "train/loss": 2.3 / (1 + i / 100),
        "train/accuracy": 1 - 0.9 / (1 + i / 100),
        "gradient_norm": 0.1 + (i * 0.618034) % 1,
        "learning_rate": 1e-3 * (1 - i / 1000) + 1e-9,
    }
    for i in range(1000)
]
"""Rows of four numbers, with as many digits as training gives."""


class Row(NamedTuple):
    """One line of the table."""

    what: str
    mark: str
    measured: str
    holds: bool | None
    """None where there is nothing to hold: a figure for comparison."""


class Options(NamedTuple):
    """How thoroughly to measure."""

    quick: bool
    full: bool

    def pick(self, quick: int, usual: int, full: int | None = None) -> int:
        """Choose a number of repetitions."""
        return quick if self.quick else full if self.full and full else usual


def main(measure: Callable[[Options], Iterable[Row]], description: str | None) -> None:
    """Measure and print the rows, as a table or (``--json``, for run.py) one object a line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a first look: fewer repetitions")
    parser.add_argument("--full", action="store_true", help="ten million rows (minutes more)")
    parser.add_argument("--json", action="store_true", help="one JSON object per row")
    args = parser.parse_args()
    print_row = _print_json if args.json else _print_row
    if not args.json:
        print(*HEADER, sep="\n")
    # The runs' own notices, hundreds of them, would bury the table.
    with contextlib.redirect_stderr(io.StringIO()):
        for row in measure(Options(args.quick, args.full)):
            print_row(row)


HEADER = ("| what | mark | measured | holds |", "|---|---|---|---|")


def to_line(row: Row) -> str:
    """Write a row as a line of a Markdown table."""
    holds = {True: "yes", False: "**no**", None: ""}[row.holds]
    return f"| {row.what} | {row.mark} | {row.measured} | {holds} |"


def _print_row(row: Row) -> None:
    print(to_line(row), flush=True)


def _print_json(row: Row) -> None:
    print(json.dumps(row._asdict()), flush=True)


def alternate(
    rounds: int, *actions: Callable[[], float], repeat: int = 1
) -> list[tuple[float, ...]]:
    """Call the actions in turn and return each round's results.

    With ``repeat`` a round calls each that often, in turn too, and keeps its median: one start
    of a process by itself says little.
    """
    return [_round(actions, repeat) for _ in range(rounds)]


def _round(actions: Sequence[Callable[[], float]], repeat: int) -> tuple[float, ...]:
    results: list[list[float]] = [[] for _ in actions]
    turn = list(zip(actions, results, strict=True))
    for _ in range(repeat):
        for action, times in turn:
            times.append(action())
        # To and fro: whoever always comes behind the same neighbour inherits its disturbance.
        turn.reverse()
    return tuple(median(times) for times in results)


def ratio(rounds: Sequence[tuple[float, ...]], of: int, to: int = 0) -> float:
    """Return the median over rounds of one result in units of another of the same round."""
    return median(results[of] / results[to] for results in rounds)


def middle(rounds: Sequence[tuple[float, ...]], of: int) -> float:
    """Return the median over rounds of one result."""
    return median(results[of] for results in rounds)


def percentile(times: Iterable[float], share: float) -> float:
    """Return the time that ``share`` of all times do not exceed."""
    ordered = sorted(times)
    return ordered[math.ceil(share * len(ordered)) - 1]


def python(*arguments: str, cwd: str | None = None) -> Callable[[], float]:
    """Make an action that runs this interpreter and returns the process's seconds."""
    return process(sys.executable, *arguments, cwd=cwd)


def process(*command: str, cwd: str | None = None) -> Callable[[], float]:
    """Make an action that runs a command and returns its wall time in seconds."""
    return lambda: _process_s(command, cwd)


def _process_s(command: Sequence[str], cwd: str | None) -> float:
    started = time.perf_counter()
    _run(command, cwd)
    return time.perf_counter() - started


def output_of(*arguments: str, cwd: str | None = None) -> Any:
    """Run this interpreter and return the JSON value that it prints."""
    return json.loads(_run([sys.executable, *arguments], cwd).stdout)


def _run(command: Sequence[str], cwd: str | None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr}")
    return done


def environment() -> dict[str, str]:
    """Return the environment without what would bend a measurement or lead to other runs."""
    # A run exports its path to child processes, which would then join it.
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "EXPERIMENT_TRACKING"))
    }


@contextlib.contextmanager
def fresh_root() -> Iterator[str]:
    """Give an empty root for runs in the temporary folder, and remove it again."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        yield folder
