"""Capture: what finding out how a run is made costs beside the training.

*Large repository*: 50,000 committed files, one of them changed, 50 untracked ones, and 300
installed packages. What is measured is CPU time of the process and of the git processes it
starts, with capture on less that of the same script with ``auto_log=False``, once each in turn.
A sample of system metrics is timed in the thread that takes it, with four child processes.
"""

import os
import subprocess
import sys
from collections.abc import Iterator

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
)

_RUN = """
import json, os, resource, sys, time

sys.path += [os.path.abspath("packages")]
from experiment_tracking import ExperimentTracker

tracker = ExperimentTracker(
    "bench", root=sys.argv[1], use_tensorboard=False, auto_log=sys.argv[2] == "on"
)
tracker.log_metrics({"loss": 1.5}, step=0)
time.sleep(float(sys.argv[3]))
tracker.finish()
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps(sum(one.ru_utime + one.ru_stime for one in used)))
"""

_SAMPLES = """
import json, multiprocessing, statistics, threading, time
from experiment_tracking.capture.system import SystemSampler

if __name__ == "__main__":
    children = [multiprocessing.Process(target=time.sleep, args=(30,)) for _ in range(4)]
    for child in children:
        child.start()
    sampler, times = SystemSampler("."), []
    for _ in range(50):
        started = time.perf_counter()
        sampler.sample()
        times.append(time.perf_counter() - started)
        time.sleep(0.01)
    for child in children:
        child.kill()
    print(json.dumps(statistics.median(times[1:])))
"""


def measure(options: Options) -> Iterator[Row]:
    """Measure all rows of this script."""
    with fresh_root() as folder:
        project = os.path.join(folder, "project")
        make_repository(project, options.pick(5_000, 50_000))
        runs = os.path.join(folder, "runs")

        def cpu_s(capture: str) -> float:
            return float(output_of("train.py", runs, capture, "0.5", cwd=project))

        rounds = alternate(ROUNDS, lambda: cpu_s("off"), lambda: cpu_s("on"))
    extra_s = middle(rounds, 1) - middle(rounds, 0)
    yield Row(
        f"capture in a repository of {options.pick(5_000, 50_000):,} files, 300 packages: CPU",
        "≤ 2 s",
        f"{extra_s:.2f} s",
        extra_s <= 2,
    )
    yield from measure_samples()


def measure_samples() -> Iterator[Row]:
    """Time one sample of system metrics."""
    sample_ms = 1e3 * float(output_of("-c", _SAMPLES))
    yield Row("one sample of system metrics", "≤ 1 ms", f"{sample_ms:.2f} ms", sample_ms <= 1)


def make_repository(project: str, files: int) -> None:
    """Make the project that the script belongs to."""
    for number in range(files):
        folder = os.path.join(project, f"part{number // 500}", f"sub{number // 50 % 10}")
        if number % 50 == 0:
            os.makedirs(folder)
        with open(os.path.join(folder, f"module{number}.py"), "w") as file:
            file.write(f"X = {number}\n" * 20)
    with open(os.path.join(project, "train.py"), "w") as file:
        file.write(_RUN)
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "start"]):
        subprocess.run([*git, *arguments], cwd=project, check=True, env=environment())
    with open(os.path.join(project, "train.py"), "a") as file:
        file.write("# changed\n")
    for number in range(50):
        with open(os.path.join(project, f"untracked{number}.py"), "w") as file:
            file.write("X = 1\n" * 20)
    for number in range(300):
        os.makedirs(os.path.join(project, "packages", f"package{number}-1.{number}.dist-info"))


if __name__ == "__main__":
    if sys.platform == "win32":
        sys.exit("This script counts CPU time as only Unix tells it.")
    main(measure, __doc__)
