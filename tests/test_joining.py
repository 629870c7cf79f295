import copy
import json
import os
import pickle
import subprocess
import sys

import pytest

import experiment_tracking
from experiment_tracking import endings
from experiment_tracking.errors import FormatError, RunEndedError, RunNotFoundError
from experiment_tracking.folder.history import HistoryReader

PACKAGE_PARENT = os.path.dirname(os.path.dirname(experiment_tracking.__file__))
VARIABLE = "EXPERIMENT_TRACKING_RUN"


@pytest.fixture
def child(root):
    """Run a few lines in a child process that has the environment of this one."""

    def child(code, **env):
        paths = [PACKAGE_PARENT, os.environ.get("PYTHONPATH", "")]
        start = (
            "from experiment_tracking import ExperimentTracker\n"
            "def make(*args, **options):\n"
            f"    defaults = dict(root={str(root)!r}, use_tensorboard=False, auto_log=False)\n"
            "    return ExperimentTracker(*args, **(defaults | options))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", start + code],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | env,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    return child


def rows(run, rank=None):
    name = f"metrics_history.{rank}.json" if rank else "metrics_history.json"
    return HistoryReader(str(run.path / name)).rows()


def ranks(run):
    return sorted(p.name.split(".")[1] for p in run.path.glob("metrics_history.*.json"))


def summary(run):
    return json.loads((run.path / "summary.json").read_text())


# ---------------------------------------------------------------------- join()


def test_a_second_process_adds_rows_in_a_file_of_its_own(make, child):
    run = make("p").start_run("r")
    run.log_metrics({"x": 1}, step=3)
    for key in (str(run.path), run.id):
        child(f"joined = make('p').join({key!r}); joined.log_metrics({{'x': 2}}, step=7)")
    assert len(ranks(run)) == 2
    for rank in ranks(run):
        (row,) = rows(run, rank)
        assert rank.startswith("p")
        assert (row["x"], row["step"], row["rank"]) == (2, 7, rank)
    run.end_run()
    assert summary(run)["metrics"]["x"]["count"] == 1
    assert len(rows(run)) == 1


def test_join_without_a_run_takes_the_one_in_the_environment(make, child):
    run = make("p").start_run("r")
    child("make('other').join().log_metrics({'x': 2})")
    assert len(ranks(run)) == 1


def test_join_without_a_run_and_without_the_variable_says_what_to_pass(make):
    with pytest.raises(RunNotFoundError, match=f"{VARIABLE} is not set"):
        make("p").join()
    with pytest.raises(RunNotFoundError, match="nowhere"):
        make("p").join("nowhere")


def test_the_rank_of_the_tracker_names_the_file(make, child):
    run = make("p").start_run("r")
    child(f"t = make('p', rank=3); t.join({str(run.path)!r}); t.log_metrics({{'x': 1}})")
    assert (ranks(run), rows(run, "3")[0]["rank"]) == (["3"], "3")


def test_a_second_process_of_the_same_rank_gets_a_further_file(make, child):
    run = make("p").start_run("r")
    for _ in range(2):
        child(f"make('p', rank=2).join({str(run.path)!r}).log_metrics({{'x': 1}})")
    assert ranks(run) == ["2", "2-2"]


def test_a_joined_process_keeps_rows_only_and_says_so_once(make, child):
    run = make("p", config={"lr": 1}, tags="mine").start_run("r")
    told = child(
        f"""
run = make("p").join({str(run.path)!r})
run.log_params({{"lr": 2}})
run.set_tags("theirs")
run.log_text("x", "note")
run.log_artifact({__file__!r})
run.log_model({{"w": 1}})
run.define_metric("x", "max")
run.notes = "theirs"
run.log_metrics({{"x": 1}})
run.end_run("failed")
"""
    ).stderr
    assert told.count("adds rows only") == 1
    assert (run.params, summary(run)["tags"], summary(run)["notes"]) == (
        {"lr": 1},
        {"mine": ""},
        "",
    )
    assert summary(run)["status"] == "running"
    assert not (run.path / "artifacts").exists()
    assert not (run.path / "models").exists()
    assert json.loads((run.path / "params.json").read_text()) == {"lr": 1}


def test_no_file_is_made_before_the_first_row(make, child):
    run = make("p").start_run("r")
    child(f"make('p').join({str(run.path)!r})")
    assert ranks(run) == []


def test_a_process_that_left_a_run_cannot_log_through_it(make, child):
    run = make("p").start_run("r")
    told = child(
        f"""
run = make("p").join({str(run.path)!r})
run.end_run()
for call in (lambda: run.log_metrics({{"x": 1}}), lambda: run.set_tags("a"), run.end_run):
    try:
        call()
    except RuntimeError as error:
        print(type(error).__name__)
"""
    )
    assert told.stdout.split() == [RunEndedError.__name__] * 3
    assert ranks(run) == []


def test_joining_the_run_of_this_very_process_gives_that_run(make):
    tracker = make("p")
    run = tracker.start_run("r")
    assert tracker.join(run.path) is run
    assert make("other").join(run.id) is run
    run.log_metrics({"x": 1})
    assert (len(rows(run)), ranks(run)) == (1, [])


def test_a_copy_of_a_run_is_the_run_and_dropping_it_does_not_end_it(make):
    run = make("p").start_run("r")
    assert copy.deepcopy({"tracker": run})["tracker"] is run
    assert pickle.loads(pickle.dumps(run)) is run
    run.log_metrics({"x": 1})
    assert run.status == "running"


def test_a_run_of_a_later_format_is_not_written(make, tmp_path):
    run = make("p", root=tmp_path / "later").start_run("r")
    run.end_run()
    path = run.path / "summary.json"
    path.write_text(json.dumps(summary(run) | {"format": 9}))
    before = {p: p.read_bytes() for p in run.path.iterdir()}
    for call in (
        lambda: make("p").join(run.path),
        lambda: make("p", resume=run.path).start_run("r"),
    ):
        with pytest.raises(FormatError, match="format 9"):
            call()
    assert {p: p.read_bytes() for p in run.path.iterdir()} == before


# ---------------------------------------------------------------------- spawn, fork, pickle


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_that_are_given_a_run_join_it(child, root, method):
    """In a process of its own: other packages of this one do not bear a fork."""
    told = child(
        f"""
import multiprocessing
run = make("p").start_run("r")
run.log_metrics({{"x": 0}})
context = multiprocessing.get_context({method!r})
workers = [context.Process(target=run.log_metrics, args=({{"x": n}}, n)) for n in (1, 2)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
run.log_metrics({{"x": 3}})
print(*[w.exitcode for w in workers], *[w.pid for w in workers])
"""
    )
    first, second, *pids = told.stdout.split()
    folder = root / "p/r"
    files = [folder / f"metrics_history.p{pid}.json" for pid in pids]
    assert (first, second) == ("0", "0")
    assert sorted(folder.glob("metrics_history.*.json")) == sorted(files)
    assert [json.loads(f.read_text())[0]["x"] for f in files] == [1, 2]
    assert [r["x"] for r in json.loads((folder / "metrics_history.json").read_text())] == [0, 3]


# ---------------------------------------------------------------------- the exported variable


def test_an_open_run_is_exported_and_an_ended_one_is_not(make):
    tracker = make("p")
    outer = tracker.start_run("outer")
    assert os.environ[VARIABLE] == str(outer.path)
    inner = tracker.start_run("inner")
    assert os.environ[VARIABLE] == str(inner.path)
    inner.end_run()
    assert os.environ[VARIABLE] == str(outer.path)
    outer.end_run()
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("name", ["exp", "exp-2"])
def test_a_child_with_the_same_tracker_adds_rows_to_the_run_of_its_parent(make, child, root, name):
    if name != "exp":
        make("p", "exp").start_run("exp").end_run()
    tracker = make("p", "exp")
    tracker.log_metrics({"x": 1})
    told = child("make('p', 'exp').log_metrics({'x': 2}, step=5)").stderr
    assert f"joined run p/{name} of the parent process" in told
    assert f"experiment_tracking: run p/{name} in" not in told
    (run,) = endings.open_runs()
    (rank,) = ranks(run)
    assert [(r["x"], r["step"]) for r in rows(run, rank)] == [(2, 5)]
    assert sorted(p.name for p in (root / "p").iterdir()) == sorted({"exp", name})


def test_a_child_without_a_name_joins_the_run_of_its_project(make, child, root):
    tracker = make("p")
    tracker.log_metrics({"x": 1})
    child("make('p').log_metrics({'x': 2})")
    assert len(list((root / "p").iterdir())) == 1


@pytest.mark.parametrize(
    "code",
    [
        "make('q', 'exp')",
        "make('p', 'other')",
        "make('p', 'ex')",
        "make('p', 'exp', root=str(__import__('pathlib').Path(r'{root}').parent / 'b'))",
    ],
)
def test_a_child_with_another_tracker_opens_a_run_of_its_own(make, child, root, code):
    make("p", "exp").log_metrics({"x": 1})
    child(code.format(root=root) + ".log_metrics({'x': 2})")
    (run,) = endings.open_runs() or [None]
    assert run is None or ranks(run) == []
    assert len(list(root.parent.glob("*/*/*/summary.json"))) == 2


def test_start_run_in_a_child_opens_a_run_of_its_own(make, child, root):
    tracker = make("p", "exp")
    tracker.log_metrics({"x": 1})
    child("make('p', 'exp').start_run('exp').log_metrics({'x': 2})")
    assert sorted(p.name for p in (root / "p").iterdir()) == ["exp", "exp-2"]


def test_an_ended_run_in_the_environment_is_not_joined(make, child, root):
    tracker = make("p", "exp")
    tracker.log_metrics({"x": 1})
    path = str(root / "p/exp")
    tracker.finish()
    for place in (path, str(root / "p/never"), str(root / "p/exp/summary.json")):
        child("make('p', 'exp').log_metrics({'x': 2})", **{VARIABLE: place})
    assert sorted(p.name for p in (root / "p").iterdir()) == ["exp", "exp-2", "exp-3", "exp-4"]


# ---------------------------------------------------------------------- ranks

EVERYTHING = """
with make("p", "exp", config={"a": 1}) as tracker:
    tracker.log_params({"lr": 1})
    tracker.log_metrics({"x": 1}, step=0)
    tracker.set_tags("t")
    tracker.remove_tags("t")
    tracker.define_metric("x", "max")
    tracker.log_text("x", "note")
    tracker.log_dict({}, "dict")
    tracker.log_table([{"a": 1}], "table")
    tracker.log_histogram([1.0], "hist")
    tracker.log_model({"w": 1})
    tracker.log_artifact(__import__("os").__file__)
    with tracker.start_run("r") as run:
        run.log_metrics({"x": 1})
        run.notes = "n"
        assert (run.name, run.project, run.status) == ("r", "p", "running")
        run.path, run.id, run.tags, run.params, repr(run)
        import pickle
        pickle.loads(pickle.dumps(run)).log_metrics({"x": 1})
    assert run.status == "finished"
"""


def test_a_secondary_rank_has_the_whole_interface_and_writes_nothing(child, root):
    told = child(EVERYTHING, RANK="1", WORLD_SIZE="2")
    assert told.stderr.count("rank 1 writes nothing") == 1
    assert told.stderr.count("experiment_tracking:") == 1
    assert not root.exists()


def test_ranks_of_one_launch_are_one_run_rank_zeros(child, root):
    for rank in range(3):
        child(
            "make('p', 'exp').log_metrics({'x': 1})", RANK=str(rank), WORLD_SIZE="3",
            LOCAL_RANK=str(rank),
        )  # fmt: skip
    assert [p.name for p in (root / "p").iterdir()] == ["exp"]


@pytest.mark.parametrize(
    "env",
    [
        {"RANK": "1"},
        {"RANK": "1", "WORLD_SIZE": "1"},
        {"RANK": "", "WORLD_SIZE": "2"},
        {"LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7"},
    ],
)
def test_these_variables_do_not_make_a_secondary_rank(make, root, monkeypatch, env):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    make("p", "exp").log_metrics({"x": 1})
    assert (root / "p/exp/summary.json").exists()


def test_the_argument_rank_goes_before_the_environment(make, root, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    make("p", "exp", rank=0).log_metrics({"x": 1})
    assert (root / "p/exp").exists()
    monkeypatch.setenv("RANK", "0")
    make("p", "other", rank=1).log_metrics({"x": 1})
    assert not (root / "p/other").exists()
