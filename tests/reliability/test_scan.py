"""Scans while others create, log, finish, delete and rename: nothing raises, nothing is missed."""

import multiprocessing
import os
import random
import shutil
import time

import pandas as pd
import pytest

from experiment_tracking import ExperimentRegistry, ExperimentTracker

WRITERS = 16
KEPT = 60
SCANS = 6


def write_until(stop, done, root, number):
    """Make runs, leave some running, some finished, delete some; tell which stay finished."""
    pick = random.Random(number)
    tracker = ExperimentTracker(
        f"project-{number % 4}", root=root, use_tensorboard=False, auto_log=False
    )
    count = 0
    while not stop.is_set():
        count += 1
        value = number * 1000 + count
        run = tracker.start_run(f"w{number}-{count}", config={"value": value})
        for step in range(pick.randrange(5)):
            run.log_metrics({"loss": value + step}, step=step)
        run.log_metrics({"loss": float(value)}, step=9)
        run.end_run()
        fate = pick.random()
        if fate < 0.4:
            shutil.rmtree(run.path)
        elif fate < 0.5:
            os.rename(run.path, f"{run.path}-renamed")
        else:
            done.put((f"{run.project}/{run.name}", value))
        time.sleep(0.02)


@pytest.fixture(params=["with an index", "without an index"])
def root(request, tmp_path, monkeypatch):
    if request.param == "without an index":
        monkeypatch.setenv("EXPERIMENT_TRACKING_CACHE", "off")
    tracker = ExperimentTracker("old", root=tmp_path, use_tensorboard=False, auto_log=False)
    for number in range(KEPT):
        with tracker.start_run(f"old-{number}", config={"value": number}) as run:
            run.log_metrics({"loss": float(number)}, step=9)
    return tmp_path


def drained(done, known):
    while not done.empty():
        key, value = done.get()
        known[key] = value
    return dict(known)


def check(frame, expected):
    """Every run that had ended before the scan is there once, with exactly its values."""
    keys = frame["project"] + "/" + frame["name"]
    assert keys.is_unique
    found = frame.set_index(keys)
    there = found.loc[list(expected)]
    values = pd.Series(expected)
    assert (there["params.value"] == values).all()
    assert (there["metrics.loss"] == values).all()
    assert (there["status"] == "finished").all()


@pytest.mark.timeout(300)
def test_every_run_that_had_ended_is_there_and_exact_while_sixteen_others_write(root):
    context = multiprocessing.get_context("spawn")
    stop, done = context.Event(), context.Queue()
    writers = [
        context.Process(target=write_until, args=(stop, done, str(root), number), daemon=True)
        for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    known = {f"old/old-{number}": number for number in range(KEPT)}
    registry = ExperimentRegistry(root)
    try:
        known.update([done.get(timeout=120)])  # somebody is at work
        for scan in range(SCANS):
            expected = drained(done, known)
            if scan % 2:
                registry = ExperimentRegistry(root)
            check(registry.to_frame(), expected)
            runs = registry.list_experiments(where="loss >= 0", order_by="-value")
            check(runs.to_frame(), expected)
            assert runs.best("loss", mode="max", on="last").key in set(runs.keys)
    finally:
        stop.set()
        for writer in writers:
            writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    expected = drained(done, known)
    assert len(expected) > KEPT
    check(ExperimentRegistry(root).to_frame(), expected)
    assert ExperimentRegistry(root).to_frame()["name"].count() >= len(expected)
