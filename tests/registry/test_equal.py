"""Equal runs are found by params, code and inputs, and by what of that is there now."""

import os
import shutil

import pytest

from experiment_tracking.capture.code import EntryScript
from experiment_tracking.errors import InvalidValueError
from experiment_tracking.registry.edit import Edit
from experiment_tracking.registry.equal import (
    are_inputs_here,
    equal_runs,
    existing_run,
    is_code_here,
)
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.runset import RunSet


def groups(runs, **options):
    return [group.names for group in equal_runs(runs, **options)]


@pytest.fixture
def seeds(registry, track):
    for name, lr, seed in (("a", 0.1, 1), ("b", 0.2, 1), ("c", 0.1, 1), ("d", 0.2, 2)):
        track(name, params={"lr": lr, "model": {"depth": 2, "width": 8}, "seed": seed})
    return registry.list_experiments()


def test_runs_with_equal_params_are_a_group(seeds):
    assert groups(seeds) == [["a", "c"]]


def test_params_may_be_left_out(seeds):
    assert groups(seeds, exclude=["seed"]) == [["a", "c"], ["b", "d"]]
    assert groups(seeds, exclude=["seed", "lr"]) == [["a", "b", "c", "d"]]


def test_a_name_left_out_stands_for_all_params_below_it(registry, track):
    for depth in (1, 2):
        track(f"depth-{depth}", params={"lr": 0.1, "model": {"depth": depth}})
    runs = registry.list_experiments()
    assert (groups(runs), groups(runs, exclude=["model"])) == ([], [["depth-1", "depth-2"]])


def test_neither_the_order_nor_the_nesting_of_params_counts(registry, track):
    track("a", params={"lr": 0.1, "model": {"depth": 2, "sizes": [{"x": 1, "y": 2}]}})
    track("b", params={"model.sizes": [{"y": 2, "x": 1}], "model.depth": 2, "lr": 0.1})
    assert groups(registry.list_experiments()) == [["a", "b"]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 1.0}), ({"a": 1}, {"a": True}), ({"a": 1}, {"a": "1"}), ({"a": None}, {}),
        ({"a": []}, {"a": {}}), ({"a": [1, 2]}, {"a": [2, 1]}), ({"a": {}}, {}),
        ({"a": 2**70}, {"a": 2**70 + 1}), ({"a": 0.1}, {"a": 0.1 + 1e-17 * 2}),
    ],
)  # fmt: skip
def test_what_is_written_in_another_way_is_another_param(one, other, registry, track):
    track("a", params=one)
    track("b", params=other)
    track("c", params=one)
    assert groups(registry.list_experiments()) == [["a", "c"]]


def test_corrected_params_count(registry, track):
    track("a", params={"lr": 0.1})
    edit = Edit(RunRecord(track("b", params={"lr": 0.2}).path))
    edit.set_param("lr", 0.1)
    assert groups(registry.list_experiments()) == [["a", "b"]]


def test_a_run_whose_params_cannot_be_read_is_equal_to_none(track, damage):
    runs = [track(name) for name in ("a", "b", "c", "d")]
    damage(runs[0], "{", "params.json")
    damage(runs[1], "{", "params.json")
    found = RunSet([RunRecord(run.path) for run in runs])
    assert groups(found) == [["c", "d"]]
    assert {problem.path for problem in found.problems} == {str(run.path) for run in runs[:2]}


def test_another_word_for_what_is_to_be_equal_is_refused(seeds):
    with pytest.raises(InvalidValueError, match="'params', 'code', 'inputs'; found 'metrics'"):
        equal_runs(seeds, by=["metrics"])


def test_no_runs_are_no_groups(registry):
    assert equal_runs(registry.list_experiments()) == []


# ---------------------------------------------------------------------- code and inputs

SCRIPT = """
import sys
import part
from experiment_tracking import ExperimentTracker

options = {"use_tensorboard": False, "system_metrics_interval_s": None}
with ExperimentTracker("digits", sys.argv[1], **options) as tracker:
    tracker.log_params({"lr": 0.1})
    for name in sys.argv[2:]:
        tracker.log_input(name, name)
    tracker.log_metrics({"loss": 1.0})
"""


@pytest.fixture
def project(terminal):
    """A folder with a script, a module and data; runs it under a name and gives the record."""
    terminal.write("setup.cfg", "[metadata]\nname = x\n")
    terminal.write("train.py", SCRIPT)
    terminal.write("part.py", 'API_KEY = "hunter2hunter2"\n')
    terminal.write("data/train.csv", "1,2\n")

    def run(name, *inputs):
        code, _, err = terminal.run("python", "train.py", name, *inputs)
        assert code == 0, err
        return RunRecord(terminal.root / "digits" / name)

    terminal.train = run
    return terminal


def script_of(project, name="train.py"):
    return EntryScript(str(project.folder / name), None, name)


def test_code_is_here_until_a_file_of_it_changes(project):
    record = project.train("a")
    top = str(project.folder)
    kept = {file["path"]: file["redacted"] for file in record.environment["code"]["files"]}
    assert kept == {"train.py": False, "part.py": True, "setup.cfg": False}
    assert is_code_here(record, top)
    for name in kept:
        before = (project.folder / name).read_text()
        project.write(name, before + "# changed\n")
        assert not is_code_here(record, top)
        (project.folder / name).unlink()
        assert not is_code_here(record, top)
        project.write(name, before)
        assert is_code_here(record, top)


def test_inputs_are_here_until_a_byte_of_them_changes(project):
    record = project.train("a", "data/train.csv", "data")
    assert are_inputs_here(record)
    os.utime(project.folder / "data" / "train.csv", (1e9, 1e9))
    assert are_inputs_here(record)
    project.write("data/train.csv", "1,3\n")
    assert not are_inputs_here(record)
    project.write("data/train.csv", "1,2\n")
    project.write("data/more.csv", "")
    assert not are_inputs_here(record)
    (project.folder / "data" / "more.csv").unlink()
    assert are_inputs_here(record)
    (project.folder / "data" / "train.csv").unlink()
    assert not are_inputs_here(record)


def test_an_input_without_a_hash_is_known_by_size_and_time(track, tracker, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("1,2\n")
    run = tracker().start_run("r")
    run.log_input(data, "data", hash=False)
    run.log_input({"inner": data}, "group")
    run.log_input("s3://bucket/data", "far")
    run.end_run()
    assert are_inputs_here(RunRecord(run.path))
    os.utime(data, (1e9, 1e9))
    assert not are_inputs_here(RunRecord(run.path))


def test_the_newest_run_that_would_be_repeated_is_found(project, registry, track):
    first, second = project.train("a", "data/train.csv"), project.train("b", "data/train.csv")
    track("without-code", params={"lr": 0.1})

    def found(params, project_name="digits", name="train.py"):
        run = existing_run(registry, project_name, params, script_of(project, name))
        return run and run.name

    assert found({"lr": 0.1}) == "b"
    assert found({"lr": 0.2}) is found({}) is found({"lr": 0.1, "seed": 1}) is None
    assert found({"lr": 0.1}, "waves") is None
    assert found({"lr": 0.1}, name="other.py") is None
    Edit(second).set_param("lr", 0.3)
    assert found({"lr": 0.1}) == first.name
    assert found({"lr": 0.3}) == second.name
    project.write("data/train.csv", "1,3\n")
    assert found({"lr": 0.1}) is None


def test_a_run_that_failed_or_is_damaged_is_not_taken_for_done(project, registry, edit, damage):
    good, failed, damaged = (project.train(name) for name in ("good", "failed", "damaged"))
    edit(failed, status="failed")
    damage(damaged, "{", "environment.json")
    assert existing_run(registry, "digits", {"lr": 0.1}, script_of(project)).name == good.name
    edit(good, exit_code=3)
    assert existing_run(registry, "digits", {"lr": 0.1}, script_of(project)) is None


def test_runs_are_grouped_by_code_and_inputs_too(project, registry):
    project.train("a", "data/train.csv")
    project.train("b")
    project.write("part.py", "x = 1\n")
    project.train("c")
    runs = registry.list_experiments()
    assert groups(runs, by=["code"]) == [["a", "b"]]
    assert groups(runs, by=["inputs"]) == [["b", "c"]]
    assert groups(runs) == [["a", "b", "c"]]
    assert groups(runs, by=["params", "code", "inputs"]) == []


def test_a_run_of_which_no_code_is_known_is_equal_to_none(registry, track):
    track("a")
    track("b")
    assert groups(registry.list_experiments(), by=["code"]) == []


def test_only_runs_with_params_like_anothers_are_opened(seeds):
    for record in seeds[1:2] + seeds[3:]:
        shutil.rmtree(record.folder.path)
    assert groups(seeds) == [["a", "c"]]
    assert seeds.problems == []
