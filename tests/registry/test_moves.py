import os
import subprocess
import sys

import pytest

from experiment_tracking.errors import (
    InvalidNameError,
    InvalidValueError,
    RunBusyError,
    RunNotFoundError,
    WriteError,
)
from experiment_tracking.folder.check import check
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.registry.moves import move, put, rename
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.registry import ExperimentRegistry


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_renamed_run_is_the_same_under_another_name(track, root, registry):
    run = track("first", params={"lr": 0.1}, rows=[{"loss": 1.0}])
    before = content(run.path)
    path = rename(RunRecord(run.path), "second")
    assert path == str(root / "digits" / "second")
    assert content(root / "digits" / "second") == before
    record = registry.get("second")
    assert (record.id, record.key, record.params) == (run.id, "digits/second", {"lr": 0.1})
    assert not run.path.exists()
    assert check(root) == []


def test_the_summary_goes_on_saying_what_a_run_was_called_first(track):
    run = track("first")
    assert RunRecord(rename(run.path, "second")).summary["name"] == "first"


def test_a_child_finds_its_parent_under_another_name(track, registry, tracker):
    parent = track("parent")
    child = tracker().start_run("child", parent=parent.id)
    child.end_run()
    rename(parent.path, "elsewhere")
    assert registry.get(registry.get("child").parent).name == "elsewhere"


def test_a_run_moves_to_a_project_that_is_made_for_it(track, root, registry):
    run = track("first", rows=[{"loss": 1.0}])
    assert move(run.path, "archive") == str(root / "archive" / "first")
    assert registry.get("archive/first").id == run.id
    assert registry.list_projects() == ["archive"]


@pytest.mark.parametrize("name", ["a/b", "..", "_hidden", "", "con"])
def test_a_name_that_may_not_be_one_is_refused(track, name):
    run = track("first")
    with pytest.raises(InvalidNameError):
        rename(run.path, name)
    with pytest.raises(InvalidNameError):
        move(run.path, name)
    assert run.path.is_dir()


def test_a_taken_name_is_refused_and_both_runs_stay(track, root):
    a, b = track("a", rows=[{"loss": 1.0}]), track("b", rows=[{"loss": 2.0}])
    other = track("a", project="other")
    before = content(root)
    for act in (lambda: rename(a.path, "b"), lambda: move(a.path, "other")):
        with pytest.raises(InvalidNameError, match="there is a folder of that name"):
            act()
    assert content(root) == before
    assert RunRecord(b.path).id == b.id
    assert RunRecord(other.path).id == other.id


def test_an_empty_folder_that_a_starting_run_has_just_made_is_not_taken(track, root):
    run = track("a")
    (root / "digits" / "starting").mkdir()
    with pytest.raises(InvalidNameError, match="there is a folder of that name"):
        rename(run.path, "starting")
    assert list((root / "digits" / "starting").iterdir()) == []
    (root / "digits" / "starting").rmdir()


def test_of_many_that_want_one_name_at_once_one_gets_it(track, root):
    runs = [track(f"run-{i}", rows=[{"loss": float(i)}]) for i in range(4)]
    program = (
        "import sys\n"
        "from experiment_tracking.registry.moves import rename\n"
        "sys.stdin.readline()\n"
        "print(rename(sys.argv[1], 'winner'))"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, run.path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for run in runs
    ]  # fmt: skip
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    outcomes = [(racer.communicate(timeout=60)[1], racer.returncode) for racer in racers]
    assert sorted(code for _, code in outcomes) == [0, 1, 1, 1]
    assert all("InvalidNameError" in err for err, code in outcomes if code)
    ids = {RunRecord(path).id for path in (root / "digits").iterdir()}
    assert ids == {run.id for run in runs}


def test_a_running_run_is_refused_unless_forced_and_then_goes_on_at_its_new_place(track, root):
    run = track("live", status=None)
    run.log_metrics({"loss": 1.0}, step=0)
    for act in (lambda: rename(run.path, "moved"), lambda: move(run.path, "other")):
        with pytest.raises(RunBusyError, match="is being written"):
            act()
    assert run.path.is_dir()
    path = rename(run.path, "moved", force=True)
    run.log_metrics({"loss": 2.0}, step=1)
    run.end_run()
    if sys.platform == "linux":
        assert [row["step"] for row in RunRecord(path).rows()] == [0, 1]
        assert RunRecord(path).status == "finished"
        assert os.listdir(root / "digits") == ["moved"]


def test_a_damaged_run_can_be_moved_out_of_the_way(track, damage, root):
    run = track("broken", rows=[{"loss": 1.0}])
    damage(run, "{no json")
    with pytest.raises(RunBusyError):  # by its heartbeat: this process lives
        move(run.path, "aside")
    (run.path / "heartbeat.json").unlink()
    before = content(run.path)
    move(run.path, "aside")
    assert content(root / "aside" / "broken") == before


def test_what_is_no_run_a_link_or_in_the_trash_is_refused(track, root, tmp_path):
    with pytest.raises(RunNotFoundError, match="There is no run at"):
        rename(root / "digits" / "nothing", "x")
    run = track("real")
    os.symlink(run.path, root / "digits" / "link")
    with pytest.raises(InvalidValueError, match="is a link to"):
        rename(root / "digits" / "link", "x")
    os.unlink(root / "digits" / "link")
    inside = root / "_trash" / "digits" / "real"
    inside.mkdir(parents=True)
    os.rename(run.path, inside / "real")
    with pytest.raises(InvalidValueError, match="is in the trash"):
        rename(inside / "real", "x")


def test_a_project_on_another_file_system_is_refused_and_nothing_is_left_there(track, root):
    elsewhere = _folder_on_another_file_system(root)
    run = track("first", rows=[{"loss": 1.0}])
    before = content(run.path)
    try:
        os.symlink(elsewhere, root / "far")
        with pytest.raises(WriteError, match=r"different file systems.*cp -a"):
            move(run.path, "far")
        assert content(run.path) == before
        assert os.listdir(elsewhere) == []
    finally:
        (root / "far").unlink(missing_ok=True)
        os.rmdir(elsewhere)


def _folder_on_another_file_system(path):
    import tempfile

    other = "/dev/shm"
    if not os.path.isdir(other) or os.stat(other).st_dev == os.stat(path).st_dev:
        pytest.skip("there is no second file system here")
    return tempfile.mkdtemp(dir=other)


def test_a_rename_that_fails_leaves_no_empty_folder_behind(tmp_path):
    with pytest.raises(FileNotFoundError):
        put(str(tmp_path / "nothing"), str(tmp_path / "target"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_stand_for_its_run(track):
    run = track("first")
    assert RunRecord(rename(RunFolder(run.path), "second")).id == run.id


def test_a_run_of_a_far_root_is_not_moved(root, track, tmp_path, monkeypatch):
    pytest.importorskip("fsspec", reason="pip install 'experiment_tracking[remote]'")
    monkeypatch.setenv("EXPERIMENT_TRACKING_CACHE", str(tmp_path / "cache"))
    track("a")
    url = f"file://{root}"
    record = ExperimentRegistry(url).get("a")
    with pytest.raises(InvalidValueError, match=f"Run digits/a lies in {url}"):
        rename(record, "b")
    assert record.refresh().name == "a"
