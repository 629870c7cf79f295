import argparse
import asyncio
import dataclasses
import gc
import json
import math
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiment_tracking import ExperimentConfig, ExperimentTracker, Run
from experiment_tracking.backends import BackendInterface, TensorBoardBackend
from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.errors import (
    BackendError,
    ExperimentTrackingError,
    InvalidNameError,
    InvalidTypeError,
    InvalidValueError,
    MetricNotFoundError,
    MissingPackageError,
    RootNotFoundError,
    RunEndedError,
    RunNotFoundError,
    WriteError,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.history import HistoryReader

REPOSITORY = str(Path(__file__).parents[1])


def rows(run):
    return HistoryReader(str(run.path / "metrics_history.json")).rows()


def summary(run):
    return json.loads((run.path / "summary.json").read_text())


def runs_in(root):
    return sorted(str(p.parent.relative_to(root)) for p in root.glob("*/*/summary.json"))


# ---------------------------------------------------------------------- making one


def test_making_a_tracker_touches_no_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ExperimentTracker("p", "e", config={"a": 1}, tags=["t"], backend="files")
    assert list(tmp_path.iterdir()) == []


def test_the_root_is_made_absolute_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = ExperimentTracker("p", root="here", use_tensorboard=False, auto_log=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert tracker.start_run("r").path == tmp_path / "here/p/r"


def test_the_root_may_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERIMENT_TRACKING_ROOT", str(tmp_path / "env"))
    assert ExperimentTracker().root == tmp_path / "env"
    assert ExperimentTracker(root=tmp_path / "arg").root == tmp_path / "arg"


def test_the_opening_notice_names_the_run_and_its_folder(make, root, capsys):
    make("p").start_run("r")
    assert capsys.readouterr().err == f"experiment_tracking: run p/r in {root}/p/r\n"


BAD_NAMES = ["", "..", "../up", "a/b", "a\0b", "CON", "nul.txt", "x" * 300, "_x", " ", "\ud800", 3]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_and_nothing_is_made(make, root, name):
    for call in (
        lambda: make(name),
        lambda: make("p", name),
        lambda: make("p").start_run(name),
    ):
        with pytest.raises(InvalidNameError, match="Write '"):
            call()
    assert not root.exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"on_error": "ignore"}, InvalidValueError),
        ({"rank": -1}, InvalidValueError),
        ({"rank": "first"}, InvalidTypeError),
        ({"resume": None}, InvalidTypeError),
        ({"config": 3}, InvalidTypeError),
        ({"config": "lr=0.1"}, InvalidTypeError),
        ({"tags": 3}, InvalidTypeError),
        ({"notes": None}, InvalidTypeError),
        ({"tracking_uri": "ftp://localhost"}, BackendError),
        ({"use_mlflow": "http://localhost:5000"}, InvalidTypeError),
        ({"backend": "sqlite"}, BackendError),
        ({"backend": ["files", "sqlite"]}, BackendError),
        ({"backend": object()}, BackendError),
        ({"backend": BackendInterface}, BackendError),
        ({"exit_timeout_s": -1}, InvalidValueError),
        ({"exit_timeout_s": math.inf}, InvalidValueError),
        ({"exit_timeout_s": None}, InvalidTypeError),
    ],
)
def test_a_wrong_argument_is_refused_when_the_tracker_is_made(make, root, options, error):
    with pytest.raises(error) as caught:
        make("p", **options)
    assert isinstance(caught.value, ExperimentTrackingError)
    assert not root.exists()


FLAGS = [
    {"use_mlflow": True},
    {"use_mlflow": True, "tracking_uri": "http://localhost:5000"},
    {"backend": ["files", "mlflow"]},
    {"use_wandb": True},
    {"backend": "wandb", "use_wandb": True},
]


@pytest.mark.parametrize("options", FLAGS)
def test_asking_for_a_service_neither_imports_its_package_nor_touches_the_disk(options, tmp_path):
    for package in ("mlflow", "wandb"):
        if not is_installed(package):
            pytest.skip(f"needs pip install {package}")
    code = (
        "import sys\nfrom experiment_tracking import ExperimentTracker\n"
        f"tracker = ExperimentTracker('p', root='here', **{options!r})\n"
        "print([target.name for target in tracker._settings.mirrors])\n"
        "print([name for name in ('mlflow', 'wandb') if name in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": REPOSITORY, "MLFLOW_TRACKING_URI": "http://localhost:5000"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(
        words, env=env, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True
    )
    name = "wandb" if "wandb" in str(options) else "mlflow"
    assert done.stdout == f"['{name}']\n[]\n"
    assert list(tmp_path.iterdir()) == []


def test_a_service_whose_package_is_missing_is_refused_with_the_line_that_installs_it(
    make, root, monkeypatch
):
    from importlib import util

    found = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda name: None if name in ("mlflow", "wandb") else found(name)
    )
    for options in ({"use_mlflow": True, "tracking_uri": "http://localhost"}, {"use_wandb": True}):
        with pytest.raises(MissingPackageError, match=r"pip install 'experiment_tracking\["):
            make("p", **options)
    assert not root.exists()


def test_tensorboard_named_as_a_backend_is_written_once(make):
    for backend in ("tensorboard", ["files", TensorBoardBackend()]):
        tracker = make("p", use_tensorboard=False, backend=backend)
        run = tracker.start_run()
        run.log_metrics({"x": 1})
        run.end_run()
        assert len(list((run.path / "tensorboard").iterdir())) == 1
        assert "followers" not in summary(run)


def test_bad_params_or_tags_leave_no_folder_behind(make, root):
    cyclic = {}
    cyclic["self"] = cyclic
    tracker = make("p")
    for options in ({"config": cyclic}, {"config": 3}, {"tags": 3}):
        with pytest.raises(ExperimentTrackingError):
            tracker.start_run("r", **options)
    assert not root.exists()


# ---------------------------------------------------------------------- names and defaults


@pytest.mark.parametrize(
    ("args", "place", "group"),
    [
        (("proj",), r"proj/\d{8}-\d{6}-[a-z0-9]{4}", None),
        (("proj", "exp"), "proj/exp", None),
        ((None, "exp"), "exp/exp", None),
        ((), r"default/\d{8}-\d{6}-[a-z0-9]{4}", None),
    ],
)
def test_the_first_logging_call_opens_the_default_run(make, root, args, place, group):
    tracker = make(*args)
    tracker.log_metrics({"loss": 1.0})
    tracker.log_param("lr", 0.1)
    tracker.finish()
    (found,) = runs_in(root)
    assert re.fullmatch(place, found)
    assert json.loads((root / found / "summary.json").read_text())["group"] == group
    assert json.loads((root / found / "params.json").read_text()) == {"lr": 0.1}


def test_started_runs_are_in_the_group_of_the_experiment(make):
    assert summary(make("p", "exp").start_run("r"))["group"] == "exp"
    assert summary(make("p", "exp", group="mine").start_run("r"))["group"] == "mine"
    assert summary(make(None, "exp").start_run("r"))["group"] is None
    assert summary(make("p").start_run("r"))["group"] is None


def test_a_taken_name_gets_a_number(make, root):
    tracker = make("p")
    assert [tracker.start_run("r").name for _ in range(3)] == ["r", "r-2", "r-3"]


def test_config_tags_and_notes_of_the_tracker_are_defaults_of_every_run(make):
    tracker = make("p", config={"lr": 1, "seed": 2}, tags={"a": "1", "b": "2"}, notes="n")
    run = tracker.start_run("r", config={"lr": 3}, tags="c")
    assert run.params == {"lr": 3, "seed": 2}
    assert run.tags == {"a": "1", "b": "2", "c": ""}
    assert run.notes == "n"
    assert tracker.start_run("s").params == {"lr": 1, "seed": 2}


@dataclasses.dataclass
class Options:
    lr: float = 0.1


class WithToDict:
    def to_dict(self):
        return {"lr": 0.1}


@pytest.mark.parametrize(
    "config", [{"lr": 0.1}, Options(), argparse.Namespace(lr=0.1), WithToDict()]
)
def test_config_may_be_what_people_keep_it_in(make, config):
    assert make("p", config=config).start_run("r").params == {"lr": 0.1}
    assert make("p").start_run("r", config).params == {"lr": 0.1}


def test_an_experiment_config_comes_back_from_the_record(make):
    config = ExperimentConfig("jax", "pinn", "mlp", 0.1, 8, 2)
    tracker = make("p", config=config)
    tracker.start_run("r").end_run()
    record = tracker.registry.get("r")
    assert record.config == config


def test_a_parent_is_kept_as_id(make):
    tracker = make("p")
    with tracker.start_run("parent") as parent:
        child = tracker.start_run("child", parent=parent)
        by_id = tracker.start_run("by-id", parent=parent.id)
        plain = tracker.start_run("plain")
    assert [summary(r)["parent"] for r in (child, by_id, plain)] == [parent.id, parent.id, None]


# ---------------------------------------------------------------------- the current run


def test_the_innermost_open_run_is_the_current_one(make):
    tracker = make("p")
    with tracker.start_run("outer") as outer:
        tracker.log_metrics({"x": 1})
        with tracker.start_run("inner") as inner:
            tracker.log_metrics({"x": 2})
            outer.log_metrics({"x": 10})
        tracker.log_metrics({"x": 3})
    assert [r["x"] for r in rows(outer)] == [1, 10, 3]
    assert [r["x"] for r in rows(inner)] == [2]


def test_a_tracker_has_the_run_that_calls_log_to_and_asking_opens_none(make):
    tracker = make("p")
    assert tracker.run is None
    with tracker.start_run("outer") as outer:
        with tracker.start_run("inner") as inner:
            assert tracker.run is inner
        assert tracker.run is outer
    assert tracker.run is None


def test_each_thread_logs_to_the_run_it_opened_and_others_to_the_newest(make):
    tracker = make("p")
    main = tracker.start_run("main")
    found = {}
    barrier = threading.Barrier(8)

    def work(number):
        with tracker.start_run(f"t{number}") as run:
            barrier.wait()
            for step in range(300):
                tracker.log_metrics({"me": number}, step=step)
        found[number] = run

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        tracker.log_metrics({"me": -1})
    for thread in threads:
        thread.join()
    assert [r["me"] for r in rows(main)] == [-1] * 300
    for number, run in found.items():
        assert [r["me"] for r in rows(run)] == [number] * 300

    stranger = threading.Thread(target=tracker.log_metrics, args=({"me": -2},))
    stranger.start()
    stranger.join()
    assert rows(main)[-1]["me"] == -2


def test_each_asyncio_task_logs_to_the_run_it_opened(make):
    tracker = make("p")

    async def work(number):
        with tracker.start_run(f"t{number}") as run:
            for _ in range(5):
                await asyncio.sleep(0)
                tracker.log_metrics({"me": number})
        return run

    async def everything():
        return await asyncio.gather(*(work(n) for n in range(4)))

    for number, run in enumerate(asyncio.run(everything())):
        assert [r["me"] for r in rows(run)] == [number] * 5


def test_a_newer_run_of_another_thread_becomes_current_for_threads_without_their_own(make):
    tracker = make("p")
    tracker.start_run("first")
    held = {}

    def in_thread(action):
        thread = threading.Thread(target=action)
        thread.start()
        thread.join()

    in_thread(lambda: tracker.log_metrics({"x": 1}))
    in_thread(lambda: held.update(run=tracker.start_run("second")))
    in_thread(lambda: tracker.log_metrics({"x": 2}))
    assert [r["x"] for r in rows(held["run"])] == [2]


def test_threads_that_log_first_at_the_same_time_get_one_default_run(make, root):
    tracker = make("p", "exp")
    barrier = threading.Barrier(16)

    def work(number):
        barrier.wait()
        tracker.log_metrics({f"m{number}": 1})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracker.finish()
    assert runs_in(root) == ["p/exp"]
    assert len(json.loads((root / "p/exp/metrics_history.json").read_text())) == 16


def test_two_trackers_do_not_share_their_runs(make):
    one, two = make("one", "a"), make("two", "b")
    run = one.start_run("r")
    two.log_metrics({"x": 2})
    one.log_metrics({"x": 1})
    assert [r["x"] for r in rows(run)] == [1]


def test_dropping_the_run_of_a_living_tracker_does_not_end_it(make):
    tracker = make("p")
    path = tracker.start_run("r").path
    gc.collect()
    tracker.log_metrics({"x": 1})
    assert json.loads((path / "summary.json").read_text())["status"] == "running"


# ---------------------------------------------------------------------- its end


def test_finish_ends_all_runs_and_a_second_one_is_refused(make):
    tracker = make("p")
    runs = [tracker.start_run(name) for name in "ab"]
    tracker.finish("FAILED")
    assert [run.status for run in runs] == ["failed", "failed"]
    with pytest.raises(RunEndedError, match="finished already"):
        tracker.finish()
    tracker.start_run("c")
    tracker.finish()


def test_logging_after_finish_is_refused_and_opens_nothing(make, root):
    tracker = make("p", "exp")
    tracker.log_metrics({"x": 1})
    tracker.finish()
    for call in (lambda: tracker.log_metrics({"x": 2}), lambda: tracker.log_param("a", 1)):
        with pytest.raises(RunEndedError, match="start_run"):
            call()
    assert runs_in(root) == ["p/exp"]


def test_end_run_ends_the_current_run_alone(make):
    tracker = make("p")
    outer, inner = tracker.start_run("outer"), tracker.start_run("inner")
    tracker.end_run("failed")
    assert (outer.status, inner.status) == ("running", "failed")
    tracker.end_run()
    with pytest.raises(RunEndedError, match="no open run"):
        tracker.end_run()


def test_as_a_context_manager_it_ends_its_runs_as_the_block_was_left(make):
    with make("p") as tracker:
        fine = tracker.start_run("fine")
    with pytest.raises(ZeroDivisionError), make("p") as tracker:
        bad = tracker.start_run("bad")
        ended = tracker.start_run("ended")
        ended.end_run()
        1 / 0  # noqa: B018
    assert [run.status for run in (fine, bad, ended)] == ["finished", "failed", "finished"]
    assert summary(bad)["error"] == {"type": "ZeroDivisionError", "message": "division by zero"}


# ---------------------------------------------------------------------- other processes


def test_a_tracker_that_is_pickled_adds_rows_to_its_run(make, root):
    tracker = make("p")
    run = tracker.start_run("r")
    tracker.log_metrics({"x": 1})
    code = "import pickle, sys; t = pickle.load(sys.stdin.buffer); t.log_metrics({'x': 2}, step=5)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(tracker), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    (name,) = [p.name for p in run.path.glob("metrics_history.p*.json")]
    (row,) = HistoryReader(str(run.path / name)).rows()
    assert (row["x"], row["step"], name) == (2, 5, f"metrics_history.{row['rank']}.json")
    assert [r["x"] for r in rows(run)] == [1]


# ---------------------------------------------------------------------- looking back


def test_the_best_run_and_the_comparison_are_of_this_project(make):
    tracker = make("p")
    for name, losses in {"a": [3.0, 1.0, 2.0], "b": [2.0, math.nan], "c": []}.items():
        with tracker.start_run(name, config={"net": name}, tags={"kind": name}) as run:
            for loss in losses:
                run.log_metrics({"loss": loss})
    with make("other").start_run("a") as other:
        other.log_metrics({"loss": 0.0})
    best = tracker.get_best_run("loss")
    assert (best.name, best.project, best.params) == ("a", "p", {"net": "a"})
    assert tracker.get_best_run("loss", minimize=False).name == "a"
    table = tracker.compare_runs(metrics=["loss"])
    assert table["loss"].tolist()[0] == 2.0
    assert len(table) == 3
    assert len(tracker.compare_runs(tags={"kind": "b"})) == 1
    with pytest.raises(MetricNotFoundError):
        tracker.get_best_run("never-logged")


def test_looking_where_nothing_is_says_so(make):
    with pytest.raises(RootNotFoundError):
        make("p").get_best_run("loss")


def test_resuming_what_is_not_there_says_so(make, root):
    with pytest.raises(RunNotFoundError, match="resume='allow'"):
        make("p", "exp", resume="must").log_metrics({"x": 1})
    with pytest.raises(RunNotFoundError, match="0123456789abcdef"):
        make("p", "exp", resume="0123456789abcdef").log_metrics({"x": 1})
    with pytest.raises(InvalidValueError, match="needs the name of a run"):
        make("p", resume="must").log_metrics({"x": 1})
    assert not root.exists()


def test_a_tracker_shows_where_it_writes(make, root):
    assert repr(make("p")) == f"<ExperimentTracker p in {root}>"


def test_start_run_returns_a_run(make):
    assert isinstance(make("p").start_run(), Run)


def test_a_read_only_root_is_an_error_at_the_opening(tmp_path, make):
    if os.geteuid() == 0:
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError):
            make("p", root=tmp_path / "file").start_run("r")
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(PermissionError):
            make("p", root=tmp_path / "closed").start_run("r")


def test_a_tracker_that_fails_before_it_logs_leaves_a_failed_run(make, root):
    with pytest.raises(MemoryError), make("p", "early", config={"lr": 0.1}):
        raise MemoryError("the model does not fit")
    summary = json.loads((root / "p" / "early" / "summary.json").read_text())
    assert (summary["status"], summary["error"]["type"]) == ("failed", "MemoryError")
    assert json.loads((root / "p" / "early" / "params.json").read_text()) == {"lr": 0.1}


def test_a_tracker_that_does_nothing_leaves_nothing(make, root):
    with make("p", "nothing"):
        pass
    assert not root.exists()


def test_a_root_that_cannot_be_written_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="A run cannot be opened"):
        ExperimentTracker("p", root=tmp_path / "file").start_run("r")


def test_an_opening_that_fails_leaves_no_folder(make, root, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io, "pwrite", full)
    with pytest.raises(WriteError):
        make("p").start_run("r")
    assert os.listdir(root / "p") == []


def test_the_best_run_is_by_the_goal_and_asking_for_the_other_side_is_remarked_on(make, capfd):
    tracker = make("p")
    for value in (0.5, 0.9):
        with tracker.start_run() as run:
            run.log_metrics({"val/acc": value, "norm": value})
    assert tracker.get_best_run("acc").metrics["val/acc"]["last"] == 0.9
    assert tracker.get_best_run("val/acc", minimize=False).metrics["val/acc"]["last"] == 0.9
    assert "is better, but" not in capfd.readouterr().err
    assert tracker.get_best_run("val/acc", minimize=True).metrics["val/acc"]["last"] == 0.5
    assert "more of 'val/acc' is better, but" in capfd.readouterr().err
    assert tracker.get_best_run("norm").metrics["norm"]["last"] == 0.5
    assert "the lowest value is taken" in capfd.readouterr().err


def test_an_equal_finished_run_cannot_be_entered_and_says_what_to_write(make):
    tracker = make("p")
    with tracker.start_run("a") as run:
        run.log_metrics({"loss": 1.0})
    with (
        pytest.raises(InvalidTypeError, match=r"p/a is there already.*run.status"),
        tracker.registry.get("a"),
    ):
        pass


def test_a_taken_name_is_said(make, capfd):
    make("p").start_run("same").end_run()
    make("p").start_run("same").end_run()
    assert "('same' was taken)" in capfd.readouterr().err


@pytest.mark.parametrize("options", [{"root": 5}, {"group": 5}, {"rank": "x"}])
def test_an_argument_of_the_wrong_kind_is_named(make, options):
    with pytest.raises(InvalidTypeError, match=next(iter(options))):
        make("p", **options)


# ---------------------------------------------------------------------- runs that are there already

SWEEP = """
import sys
import part
from experiment_tracking import ExperimentTracker

tracker = ExperimentTracker(
    "sweep", config={"depth": 2}, use_tensorboard=False, system_metrics_interval_s=None
)
for lr in map(float, sys.argv[1:]):
    run = tracker.start_run(config={"lr": lr}, skip_existing=True)
    if run.status == "finished":
        print("skipped", run.name, run.params)
        continue
    run.log_input("data.csv", "data")
    run.log_metrics({"loss": lr})
    if lr < 1:
        run.end_run("FINISHED" if lr else "FAILED")
    print("ran", lr)
"""


@pytest.fixture
def sweep(terminal):
    terminal.write("setup.cfg", "")
    terminal.write("part.py", "x = 1\n")
    terminal.write("data.csv", "1\n")
    terminal.write("sweep.py", SWEEP)

    def sweep(*rates, launcher=(), **variables):
        code, out, err = terminal.run(
            *launcher, sys.executable, "sweep.py", *rates, variables=variables
        )
        assert code == 0, err
        return [line.split()[0] for line in out.splitlines()], err

    return sweep


def test_a_run_that_would_repeat_a_finished_one_is_not_started(sweep, terminal):
    assert sweep("0.1", "0.2")[0] == ["ran", "ran"]
    words, err = sweep("0.1", "0.3", "0.2")
    assert words == ["skipped", "ran", "skipped"]
    assert err.count("had the same params, code and inputs; no new one is started") == 2
    assert sorted(record.params["lr"] for record in terminal.records("sweep")) == [0.1, 0.2, 0.3]
    terminal.write("part.py", "x = 2\n")
    assert sweep("0.1")[0] == ["ran"]
    assert sweep("0.1")[0] == ["skipped"]
    terminal.write("data.csv", "2\n")
    assert sweep("0.1")[0] == ["ran"]


def test_a_run_that_did_not_finish_is_started_again(sweep):
    assert sweep("0")[0] == ["ran"]
    assert sweep("0", "0")[0] == ["ran", "ran"]


def test_a_run_that_is_still_open_is_not_done(sweep):
    assert sweep("1", "1")[0] == ["ran", "ran"]
    assert sweep("1")[0] == ["skipped"]


def test_every_rank_skips_the_same_run(sweep):
    assert sweep("0.1")[0] == ["ran"]
    assert sweep("0.1", RANK="1", WORLD_SIZE="2")[0] == ["skipped"]


def test_a_run_that_a_launcher_has_opened_is_not_skipped(sweep, terminal):
    launcher = (sys.executable, "-m", "experiment_tracking", "run", "--project", "sweep", "--")
    assert sweep("0.1", launcher=launcher)[0] == ["ran"]
    assert sweep("0.1", "0.1", launcher=launcher)[0] == ["ran", "skipped"]
    assert len(terminal.records("sweep")) == 2


def test_without_a_script_there_is_nothing_to_compare(make, capfd):
    tracker = make("p")
    with tracker.start_run("a", {"lr": 1}, skip_existing=True) as first:
        pass
    with tracker.start_run("a", {"lr": 1}, skip_existing=True) as second:
        assert (first.name, second.name) == ("a", "a-2")
    assert capfd.readouterr().err.count("no script to compare") == 1


def test_looking_for_equal_runs_costs_nothing_where_nobody_asks(terminal):
    terminal.write(
        "train.py",
        "import sys\nfrom experiment_tracking import ExperimentTracker\n"
        "tracker = ExperimentTracker('p', use_tensorboard=False)\n"
        "tracker.start_run(config={'lr': 0.1}).log_metrics({'loss': 1})\n"
        "print([m for m in sys.modules if m.startswith('experiment_tracking.registry')])\n",
    )
    assert terminal.run(sys.executable, "train.py")[:2] == (0, "[]\n")
