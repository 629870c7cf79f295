"""TensorBoard's lag: how far the event file is behind a loop that logs 1,000 rows a second.

One process logs rows of four numbers at that rate. This one reads the event file as TensorBoard
does, ten times a second, and compares the newest record in it, which carries the time at which
its row was logged, with the clock. The lag is the longest that was seen, from the first row on. At
the end it counts how many of the logged rows the file has.
"""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from timing import ROUNDS, Options, Row, environment, fresh_root, main

RATE = 1_000

_WRITER = """
import itertools, sys, time
from experiment_tracking import ExperimentTracker
from timing import METRICS

root, rate, duration_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
tracker = ExperimentTracker("bench", root=root)
rows = enumerate(itertools.cycle(METRICS))
started = time.perf_counter()
while (elapsed_s := time.perf_counter() - started) < duration_s:
    for step, metrics in rows:
        tracker.log_metrics(metrics, step=step)
        if step >= elapsed_s * rate:
            break
    time.sleep(0.001)
tracker.finish()
"""


def measure(options: Options) -> Iterator[Row]:
    """Measure the longest lag, five times over."""
    duration_s = options.pick(5, 20, 60)
    looks = [watch_writer(duration_s) for _ in range(options.pick(1, ROUNDS))]
    lag_s = median(look.longest_lag_s for look in looks)
    yield Row(
        f"TensorBoard's lag behind a loop of {RATE:,} rows/s, over {duration_s} s",
        "≤ 5 s",
        f"{lag_s:.1f} s ({median(look.share_written for look in looks):.1%} of the rows written)",
        lag_s <= 5,
    )


class Look(NamedTuple):
    """What was seen of one loop."""

    longest_lag_s: float
    share_written: float


def watch_writer(duration_s: float) -> Look:
    """Run the writer and watch its event file."""
    with fresh_root() as root:
        command = [sys.executable, "-c", _WRITER, root, str(RATE), str(duration_s)]
        folder = os.path.dirname(os.path.abspath(__file__))
        writer = subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.DEVNULL)
        try:
            history = _wait_for(root, "metrics_history.json")
            events = EventFile(_wait_for(root, "tfevents"))
            longest = _longest_lag_s(events, _first_row_time(history), duration_s)
        finally:
            failed = writer.wait(timeout=60)
        if failed:
            raise RuntimeError("the logging process failed")
        events.newest_time()
        with open(history, "rb") as file:
            return Look(longest, events.rows / len(json.load(file)))


def _longest_lag_s(events: "EventFile", first_row: float, duration_s: float) -> float:
    longest = time.time() - first_row  # until now there was no file to read
    while time.time() < first_row + duration_s - 0.5:
        newest = events.newest_time()
        longest = max(longest, time.time() - max(first_row, newest))
        time.sleep(0.1)
    return longest


def _first_row_time(history: str) -> float:
    while True:
        with open(history, "rb") as file:
            lines = file.read(4096).split(b"\n")
        if len(lines) > 3:
            return float(json.loads(lines[1].rstrip(b","))["time"])
        time.sleep(0.01)


def _wait_for(root: str, part: str) -> str:
    """Return the path of the first file with ``part`` in its name, once there is one."""
    deadline = time.time() + 30
    while time.time() < deadline:
        for folder, _, names in os.walk(root):
            for name in names:
                if part in name and not name.startswith("."):
                    return os.path.join(folder, name)
        time.sleep(0.01)
    raise RuntimeError(f"no {part} file appeared")


class EventFile:
    """A growing event file: records of length, its checksum, data, its checksum."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._offset = 0
        self._newest = 0.0
        self.rows = 0
        """Records of rows so far."""

    def newest_time(self) -> float:
        """Return the newest time that stands in a scalar's record, 0 before the first."""
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        start = 0
        while len(data) >= start + 12:
            (length,) = struct.unpack_from("<Q", data, start)
            if len(data) < start + 16 + length:
                break
            self._note(data[start + 12 : start + 12 + length])
            start += 16 + length
        self._offset += start
        return self._newest

    def _note(self, record: bytes) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event.FromString(record)
        if event.HasField("summary") and not event.summary.value[0].tag.startswith("_hparams_"):
            self.rows += 1
            self._newest = max(self._newest, event.wall_time)


if __name__ == "__main__":
    main(measure, __doc__)
