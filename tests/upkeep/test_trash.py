import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from experiment_tracking.errors import (
    DamagedError,
    InvalidNameError,
    InvalidValueError,
    RunBusyError,
    RunNotFoundError,
    WriteError,
)
from experiment_tracking.folder.check import check
from experiment_tracking.registry import moves
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.upkeep import trash
from experiment_tracking.upkeep.usage import usage

FORMAT = Path(__file__).parents[2] / "docs" / "FORMAT.md"


def content(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def age(entry, days):
    """Make a run in the trash look removed so many days ago."""
    path = Path(entry.path).parent / "where.json"
    said = json.loads(path.read_text())
    said["at"] = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    path.write_text(json.dumps(said))


def test_a_removed_run_is_out_of_sight_and_comes_back_as_it_was(track, root, registry):
    run, other = track("a", rows=[{"loss": 1.0}]), track("b")
    before = content(run.path)
    gone = trash.remove(RunRecord(run.path))
    assert (gone.key, gone.project, gone.name) == ("digits/a", "digits", "a")
    assert [record.id for record in registry.list_experiments()] == [other.id]
    assert check(root) == []
    assert trash.trashed(root) == [gone]
    assert trash.restore(root, "digits/a") == str(run.path)
    assert content(run.path) == before
    assert trash.trashed(root) == []
    assert list((root / "_trash").rglob("*")) == [root / "_trash" / "digits"]


def test_the_trash_says_where_a_run_was_when_it_went_and_by_whom(track, root, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ann")
    gone = trash.remove(track("a").path)
    said = json.loads((root / "_trash" / "digits" / "a" / "where.json").read_text())
    assert said == {"project": "digits", "name": "a", "at": gone.at, "by": "ann"}
    assert datetime.now(UTC) - datetime.fromisoformat(gone.at) < timedelta(minutes=5)


def test_the_page_of_the_format_names_what_the_trash_holds(track, root):
    trash.remove(track("a").path)
    (document,) = (root / "_trash").rglob("where.json")
    section = re.split(r"^### ", FORMAT.read_text().split("### where.json")[1], flags=re.M)[0]
    keys = re.findall(r"^\| `(\w+)` \|", section, re.M)
    assert keys == list(json.loads(document.read_text()))


def test_runs_of_one_name_lie_beside_each_other(track, root):
    ids = []
    for _ in range(3):
        run = track("a")
        ids.append(run.id)
        trash.remove(run.path)
    assert [each.key for each in trash.trashed(root)] == ["digits/a-3", "digits/a-2", "digits/a"]
    assert RunRecord(trash.restore(root, "digits/a-2")).id == ids[1]
    with pytest.raises(InvalidNameError, match=r"there is a folder of that name.*--name"):
        trash.restore(root, "digits/a-3")
    path = trash.restore(root, "digits/a-3", name="third")
    assert path == str(root / "digits" / "third")
    assert RunRecord(path).id == ids[2]
    assert [each.key for each in trash.trashed(root)] == ["digits/a"]


def test_a_run_in_the_trash_is_found_by_its_name_if_that_is_unique(track, root):
    for project in ("p", "q"):
        trash.remove(track("same", project=project).path)
    trash.remove(track("one", project="p").path)
    assert trash.find_trashed(root, "one").key == "p/one"
    assert trash.find_trashed(root, "q/same").key == "q/same"
    with pytest.raises(RunNotFoundError, match=r"Several runs in the trash.*p/same"):
        trash.find_trashed(root, "same")
    with pytest.raises(RunNotFoundError, match=r"There is no run 'p/onn'.*Near: p/one"):
        trash.find_trashed(root, "p/onn")


def test_a_running_run_is_refused_unless_forced(track, root):
    run = track("live", status=None)
    with pytest.raises(RunBusyError):
        trash.remove(run.path)
    assert run.path.is_dir()
    gone = trash.remove(run.path, force=True)
    assert trash.purge(root).problems[0].path == gone.path
    assert os.path.isdir(gone.path)
    run.end_run()


def test_a_damaged_run_can_be_removed_and_had_back(track, root, damage):
    run = track("broken", rows=[{"loss": 1.0}])
    damage(run, "{no json")
    (run.path / "heartbeat.json").unlink()  # this process lives
    before = content(run.path)
    trash.remove(run.path)
    assert content(Path(trash.restore(root, "broken"))) == before


def test_what_is_no_run_a_link_or_there_already_is_refused(track, root):
    with pytest.raises(RunNotFoundError):
        trash.remove(root / "digits" / "nothing")
    run = track("a")
    os.symlink(run.path, root / "digits" / "link")
    with pytest.raises(InvalidValueError, match="is a link"):
        trash.remove(root / "digits" / "link")
    os.unlink(root / "digits" / "link")
    gone = trash.remove(run.path)
    with pytest.raises(InvalidValueError, match="is in the trash"):
        trash.remove(gone.path)
    assert trash.trashed(root) == [gone]


def test_a_run_that_a_foreign_program_named_can_be_removed_too(track, root):
    run = track("a")
    os.rename(run.path, root / "digits" / "what? <now>.")
    gone = trash.remove(root / "digits" / "what? <now>.")
    assert gone.name == "what? <now>."
    assert trash.restore(root, gone.key) == str(root / "digits" / "what? <now>.")


# ---------------------------------------------------------------------- deleting


def test_a_purge_deletes_all_or_the_old_or_those_named(track, root):
    gone = {name: trash.remove(track(name).path) for name in "abcd"}
    age(gone["a"], 40)
    age(gone["b"], 20)
    size = usage([gone["a"].path])[0].size_bytes
    assert trash.purge(root, older_than_days=30) == (["digits/a"], size, [])
    assert trash.purge(root, older_than_days=10, keys=["b", "c"]).keys == ["digits/b"]
    assert trash.purge(root, keys=["digits/c"]).keys == ["digits/c"]
    assert trash.purge(root).keys == ["digits/d"]
    assert trash.trashed(root) == []
    assert not any(path.is_file() for path in (root / "_trash").rglob("*"))
    assert trash.purge(root) == ([], 0, [])


def test_a_version_outlives_its_run_and_purging_the_run_frees_only_what_was_its_own(models, root):
    run = root / "digits" / "one"
    [weights] = {file.stat().st_size for file in run.rglob("weights-*")}
    size = usage([run])[0].size_bytes
    trash.remove(run)
    assert models.get("net/Production").metrics["val/accuracy"] == 0.9
    assert trash.purge(root).size_bytes == size - 2 * weights
    assert [models.load(f"net/{number}")["w"][0] for number in (1, 2)] == [1.0, 2.0]
    models.transition("net", 2, "Production", reason="verified before")
    assert check(root) == []


def test_a_version_knows_its_run_that_was_renamed_or_moved_to_another_project(models, root):
    run_id = models.get("net").run_id
    moved = moves.move(moves.rename(root / "digits" / "one", "first"), "waves")
    assert RunRecord(moved).id == run_id
    assert models.load("net/1")["w"][0] == 1.0
    models.get("net/2").verify()
    assert check(root) == []


def test_a_purge_follows_no_link_out_of_the_trash(track, root, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("mine")
    run = track("a")
    (run.path / "artifacts").mkdir()
    os.symlink(precious, run.path / "artifacts" / "folder")
    os.symlink(precious / "data", run.path / "artifacts" / "file")
    trash.remove(run.path)
    os.symlink(precious, root / "_trash" / "linked-project")
    os.symlink(precious, root / "_trash" / "digits" / "linked-entry")
    os.symlink(precious, root / "_trash" / ".deleting-linked")
    assert trash.purge(root).keys == ["digits/a"]
    assert content(precious) == {Path("data"): b"mine"}


@pytest.mark.parametrize("action", [trash.trashed, trash.purge])
def test_a_trash_that_is_a_link_is_left_alone(track, root, tmp_path, action):
    gone = trash.remove(track("a").path)
    os.rename(root / "_trash", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", root / "_trash")
    with pytest.raises(DamagedError, match="is a link"):
        action(root)
    assert (tmp_path / "elsewhere" / "digits" / "a" / "a").is_dir()
    os.unlink(root / "_trash")
    os.rename(tmp_path / "elsewhere", root / "_trash")
    assert trash.trashed(root) == [gone]


@pytest.mark.parametrize(
    "said",
    [
        "no json",
        "{}",
        '{"project": "..", "name": "a", "at": "2026-01-01T00:00:00Z", "by": "me"}',
        '{"project": "a/../../b", "name": "a", "at": "2026-01-01T00:00:00Z", "by": "me"}',
        '{"project": "digits", "name": "../a", "at": "2026-01-01T00:00:00Z", "by": "me"}',
        '{"project": "digits", "name": "other", "at": "2026-01-01T00:00:00Z", "by": "me"}',
        '{"project": "digits", "name": "a", "at": "yesterday", "by": "me"}',
        '{"project": "digits", "name": "a", "at": 5, "by": "me"}',
    ],
)
def test_what_does_not_say_where_it_belongs_is_named_and_left_alone(track, root, said):
    entry = Path(trash.remove(track("a").path).path).parent
    (entry / "where.json").write_text(said)
    good = trash.remove(track("good").path)
    problems = []
    assert trash.trashed(root, problems) == [good]
    assert [problem.path for problem in problems] == [str(entry)]
    assert problems[0].reason.endswith("It is left alone.")
    assert trash.purge(root).keys == [good.key]
    assert (entry / "a" / "summary.json").is_file()


def test_a_folder_that_somebody_put_there_by_hand_is_left_alone(track, root):
    run = track("by-hand")
    (root / "_trash" / "digits").mkdir(parents=True)
    os.rename(run.path, root / "_trash" / "digits" / "by-hand")
    before = content(root / "_trash")
    problems = []
    assert trash.trashed(root, problems) == []
    assert len(problems) == 1
    trash.purge(root)
    assert content(root / "_trash") == before


def test_a_trash_on_another_file_system_is_refused_and_the_run_stays(track, root):
    import tempfile

    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(root).st_dev:
        pytest.skip("there is no second file system here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        run = track("a")
        # The project is a link to another disk, as where a large one was moved away.
        os.rmdir(elsewhere)
        subprocess.run(["cp", "-a", root / "digits", elsewhere], check=True)
        os.rename(root / "digits", root / "kept")
        os.symlink(elsewhere, root / "digits")
        before = content(Path(elsewhere))
        with pytest.raises(WriteError, match="different file systems"):
            trash.remove(run.path)
        assert content(Path(elsewhere)) == before
        assert trash.trashed(root) == []
        os.unlink(root / "digits")


# ---------------------------------------------------------------------- killed

_KILLED_AT = """
import os, signal, sys
from experiment_tracking.upkeep import trash

calls = int(sys.argv[3])

def watch(event, arguments):
    # Every change of a folder goes by here before it is made.
    global calls
    if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree") or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
    ):
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
action, root = sys.argv[1:3]
if action == "remove":
    trash.remove(os.path.join(root, "digits", "a"))
elif action == "restore":
    trash.restore(root, "digits/a")
else:
    trash.purge(root)
"""


def run_killed(action, root, calls):
    """Do something, killed before its change number ``calls``; tell whether it was."""
    words = [sys.executable, "-c", _KILLED_AT, action, str(root), str(calls)]
    code = subprocess.run(words, stderr=subprocess.PIPE).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


def abandon(root):
    """Make whatever lies in the trash look left there yesterday."""
    for entry in (root / "_trash").glob("*/*"):
        os.utime(entry, (0, 0))


@pytest.mark.parametrize("action", ["remove", "restore"])
def test_killed_at_any_instant_a_run_is_whole_in_one_place(track, root, action):
    run = track("a", rows=[{"loss": 1.0}])
    before = content(run.path)
    places = set()
    for calls in range(100):
        if action == "restore" and run.path.is_dir():
            trash.remove(run.path)
        was_killed = run_killed(action, root, calls)
        here = [each for each in trash.trashed(root) if each.name == "a"]
        is_at_home = (run.path / "summary.json").exists()
        assert len(here) + is_at_home == 1
        places.add(is_at_home)
        if here:
            assert content(Path(here[0].path)) == before
            if run.path.is_dir():
                run.path.rmdir()  # the empty folder of a killed restoring
            trash.restore(root, here[0].key)
        assert content(run.path) == before
        abandon(root)
        trash.purge(root)
        assert not any(path.is_file() for path in (root / "_trash").rglob("*"))
        if not was_killed:
            break
    assert calls >= 3
    assert places == {True, False}


def test_a_killed_purge_lists_no_half_run_and_the_next_one_deletes_the_rest(track, root):
    for calls in range(100):
        gone = trash.remove(track("a", rows=[{"loss": 1.0}]).path)
        size = usage([gone.path])[0]
        was_killed = run_killed("purge", root, calls)
        for each in trash.trashed(root):
            assert usage([each.path])[0] == size
        trash.purge(root)
        assert not any(path.is_file() for path in (root / "_trash").rglob("*"))
        if not was_killed:
            break
    assert calls >= 2


# ---------------------------------------------------------------------- hostile names and places


def test_a_run_called_like_a_temporary_file_is_seen_in_the_trash_and_comes_back(track, root):
    run = track("exp.tmp")
    gone = trash.remove(run.path)
    assert trash.trashed(root) == [gone]
    os.utime(Path(gone.path).parent, (0, 0))
    assert trash.purge(root, keys=[]) == ([], 0, [])
    assert trash.restore(root, "exp.tmp") == str(run.path)


def test_a_name_that_is_not_utf_8_comes_back_as_it_was(track, root):
    strange = root / "digits" / os.fsdecode(b"caf\xe9")
    os.rename(track("a").path, strange)
    gone = trash.remove(strange)
    assert trash.trashed(root) == [gone]
    assert trash.restore(root, gone.key) == str(strange)
    os.rename(strange, root / "digits" / "a")


@pytest.mark.parametrize("place", ["digits/where.json", "digits/_a", "_old/a", "digits/a\\b"])
def test_what_could_not_be_had_back_stays_where_it_is(track, root, place):
    path = root / place
    path.parent.mkdir(exist_ok=True)
    os.rename(track("a").path, path)
    with pytest.raises(InvalidNameError, match="Rename it first"):
        trash.remove(path)
    assert (path / "summary.json").exists()
    assert not (root / "_trash").exists()
    os.rename(path, root / "digits" / "a")


def test_nothing_goes_through_a_link_in_the_trash(track, root, tmp_path):
    run = track("a")
    (tmp_path / "elsewhere").mkdir()
    (root / "_trash").mkdir()
    (root / "_trash" / "digits").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="is a link"):
        trash.remove(run.path)
    assert run.path.is_dir()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_many_runs_are_found_with_one_look_at_the_trash(track, root, monkeypatch):
    keys = [trash.remove(track(name).path).key for name in "abcd"]
    looks = []
    trashed = trash.trashed
    monkeypatch.setattr(trash, "trashed", lambda root: looks.append(root) or trashed(root))
    assert [each.key for each in trash.find_all_trashed(root, [*keys, "a"])] == keys
    assert trash.purge(root, keys=keys).keys == keys
    assert len(looks) == 2
