import json
import os
import shutil
import threading
import uuid
from pathlib import Path

import pytest

from experiment_tracking.errors import (
    InvalidValueError,
    NotFoundError,
    RootNotFoundError,
    RunNotFoundError,
)
from experiment_tracking.folder.check import check
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.registry.far import scratch
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.registry import ExperimentRegistry
from experiment_tracking.tracker import ExperimentTracker
from experiment_tracking.upkeep.sides import Folder
from experiment_tracking.upkeep.sync import sync

fsspec = pytest.importorskip("fsspec", reason="pip install 'experiment_tracking[remote]'")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPERIMENT_TRACKING_CACHE", str(tmp_path / "cache"))


def files_in(root):
    """Every file of a root's runs with its content."""
    root = Path(root)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and len(path.relative_to(root).parts) > 2
    }


def outcomes(done):
    return {each.run: each.outcome for each in done}


def moved(done):
    return sum(each.files for each in done)


def test_a_copy_is_the_same_in_every_byte_and_the_second_time_moves_nothing(
    root, track, tracker, target
):
    track("one", rows=[{"loss": 0.5}], params={"lr": 0.1})
    with tracker("waves").start_run("two [b]") as run:
        run.log_text("hello", "notes/a")
    half = run.path / "artifacts" / ".a.1.tmp"
    half.write_text("half")
    seen = []
    done = sync(root, target, progress=lambda *numbers: seen.append(numbers))
    assert outcomes(done) == {"digits/one": "copied", "waves/two [b]": "copied"}
    assert seen == [(1, 2), (2, 2)]
    half.unlink()
    assert files_in(target) == files_in(root)
    again = sync(root, target)
    assert set(outcomes(again).values()) == {"unchanged"}
    assert moved(again) == 0
    assert sorted(entry.name for entry in target.iterdir()) == ["digits", "waves"]


def test_a_root_goes_to_a_far_one_and_comes_back_the_same(root, track, target, url):
    track("one", rows=[{"loss": 0.5}], params={"lr": 0.1}, tags={"a": "b"})
    track("two [b]", "waves", rows=[{"loss": 1.0}])
    there = sync(root, url)
    assert outcomes(there) == {"digits/one": "copied", "waves/two [b]": "copied"}
    assert moved(sync(root, url)) == 0
    back = sync(url, target)
    assert outcomes(back) == outcomes(there)
    assert files_in(target) == files_in(root)
    assert moved(sync(url, target)) == 0
    assert check(target) == []


def test_only_the_files_that_changed_go_again(root, track, target, url):
    for name in ("one", "two"):
        track(name, params={"lr": 0.1})
    for place in (target, url):
        sync(root, place)
    params = root / "digits" / "two" / "params.json"
    params.write_bytes(params.read_bytes().replace(b"0.1", b"0.2"))
    for place in (target, url):
        done = sync(root, place)
        assert outcomes(done) == {"digits/one": "unchanged", "digits/two": "updated"}
        # The summary goes along: it is what caches look at.
        assert moved(done) == 2
    assert files_in(target) == files_in(root)


def test_a_history_that_grew_is_written_on_in_place(root, tracker, target):
    run = tracker().start_run("live")
    for step in range(3000):
        run.log_metrics({"loss": float(step)}, step=step)
    sync(root, target)
    copied = target / "digits" / "live" / "metrics_history.json"
    before = copied.stat()
    run.log_metrics({"loss": 0.0}, step=3000)
    (done,) = sync(root, target)
    assert copied.read_bytes() == (run.path / "metrics_history.json").read_bytes()
    assert copied.stat().st_ino == before.st_ino
    assert done.size_bytes < before.st_size / 10
    run.end_run()
    sync(root, target)
    assert files_in(target) == files_in(root)
    assert check(target) == []


def test_a_far_history_that_grew_is_written_on_in_place(root, tracker, target, url):
    run = tracker().start_run("live")
    for step in range(3000):
        run.log_metrics({"loss": float(step)}, step=step)
    sync(root, url)
    sync(url, target)
    copied = target / "digits" / "live" / "metrics_history.json"
    inode = copied.stat().st_ino
    run.log_metrics({"loss": 0.0}, step=3000)
    run.end_run()
    sync(root, url)
    sync(url, target)
    assert copied.stat().st_ino == inode
    assert files_in(target) == files_in(root)


def test_a_torn_or_foreign_tail_is_replaced_whole(root, tracker, target):
    run = tracker().start_run("live")
    for step in range(10):
        run.log_metrics({"loss": 1.0}, step=step)
    sync(root, target)
    copied = target / "digits" / "live" / "metrics_history.json"
    copied.write_bytes(copied.read_bytes()[:-20] + b"\0" * 12)
    run.end_run()
    sync(root, target)
    assert files_in(target) == files_in(root)


def test_what_is_copied_while_it_is_written_is_whole_each_time(root, tracker, target, url):
    run = tracker().start_run("live")
    stop = threading.Event()

    def write():
        step = 0
        while not stop.wait(0.0002):
            run.log_metrics({"loss": 1.0}, step=step)
            step += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(8):
            sync(root, target)
            sync(root, url)
            sync(url, Path(f"{target}-back"))
            for copy in (target / "digits" / "live", Path(f"{target}-back") / "digits" / "live"):
                history = json.loads((copy / "summary.json").read_text())["history"]
                rows = HistoryReader(str(copy / "metrics_history.json")).since()
                assert rows.damaged == 0
                assert len(rows.rows) >= history["rows"]
                assert [row["step"] for row in rows.rows] == list(range(len(rows.rows)))
    finally:
        stop.set()
        writer.join()
    run.end_run()
    sync(root, target)
    assert files_in(target) == files_in(root)
    assert check(target) == []


def test_a_sync_that_was_interrupted_is_completed_by_the_next(root, track, target, url):
    for number in range(5):
        track(f"run-{number}", rows=[{"loss": 1.0}], params={"lr": number})

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    for place in (target, url):
        with pytest.raises(KeyboardInterrupt):
            sync(root, place, progress=interrupt)
    near = ExperimentRegistry(target).list_experiments()
    assert near.problems == []
    assert 2 <= len(near) < 5
    (target / "digits" / "run-4").mkdir()
    shutil.copy(root / "digits" / "run-4" / "metrics_history.json", target / "digits" / "run-4")
    for place in (target, url):
        sync(root, place)
        assert moved(sync(root, place)) == 0
    assert files_in(target) == files_in(root)


def test_another_run_of_the_same_name_is_refused_and_named(root, track, target, url, tmp_path):
    track("one", rows=[{"loss": 1.0}])
    for place in (target, url):
        sync(root, place)
    other = tmp_path / "other"
    shutil.copytree(root, other)
    summary = other / "digits" / "one" / "summary.json"
    summary.write_text(summary.read_text().replace(RunRecord(summary.parent).id, "f" * 16))
    (other / "digits" / "two").mkdir()
    for file in ("summary.json", "metrics_history.json"):
        shutil.copy(root / "digits" / "one" / file, other / "digits" / "two" / file)
    before = files_in(root)
    for place in (target, url):
        one, two = sync(other, place)
        assert (one.outcome, one.files) == ("refused", 0)
        assert "another run of that name" in one.reason
        assert "f" * 16 in one.reason
        assert two.outcome == "copied"
    assert {name: data for name, data in files_in(target).items() if "two" not in name} == before


def test_a_run_that_has_gone_on_in_the_target_is_not_set_back(root, track, target):
    track("one", rows=[{"loss": 1.0}])
    sync(root, target)
    shutil.copytree(target, str(target) + "-earlier")
    from experiment_tracking import ExperimentTracker

    tracker = ExperimentTracker(
        "digits", root=target, use_tensorboard=False, auto_log=False, resume="must"
    )
    with tracker.start_run("one") as run:
        run.log_metrics({"loss": 0.5})
    before = files_in(target)
    (done,) = sync(root, target)
    assert done.outcome == "refused"
    assert "gone on" in done.reason
    assert files_in(target) == before
    (other_way,) = sync(target, root)
    assert other_way.outcome == "updated"
    assert files_in(root) == files_in(target)


def test_what_was_edited_in_both_is_not_overwritten(root, track, target, tmp_path):
    track("one")
    sync(root, target)
    for place, word in ((root, "a"), (target, "b")):
        folder = place / "digits" / "one" / "amendments"
        folder.mkdir()
        (folder / "000001.json").write_text(json.dumps({"kind": "tag", "new": word}))
    before = files_in(target)
    (done,) = sync(root, target)
    assert done.outcome == "refused"
    assert "amendments/000001.json" in done.reason
    assert files_in(target) == before
    (tmp_path / "damaged").touch()  # those are no whole amendments


def test_nothing_is_ever_deleted(root, track, target):
    track("one")
    sync(root, target)
    (target / "digits" / "one" / "mine.txt").write_text("mine")
    shutil.copytree(target / "digits" / "one", target / "digits" / "kept")
    track("two")
    sync(root, target)
    assert (target / "digits" / "one" / "mine.txt").exists()
    assert (target / "digits" / "kept" / "summary.json").exists()


def test_a_dry_run_tells_the_same_and_writes_nothing(root, track, target, url):
    track("one", rows=[{"loss": 1.0}])
    for place in (target, url):
        told = sync(root, place, dry_run=True)
        assert not target.exists() or place == url
        assert told == sync(root, place)


def test_runs_and_projects_can_be_chosen(root, track, target):
    for name, project in (("one", "digits"), ("two", "digits"), ("one", "waves")):
        track(name, project)
    assert list(outcomes(sync(root, target, ["digits/one"]))) == ["digits/one"]
    assert list(outcomes(sync(root, target, ["one"]))) == ["digits/one", "waves/one"]
    assert list(outcomes(sync(root, target, project="digits"))) == ["digits/one", "digits/two"]
    with pytest.raises(RunNotFoundError, match="Near: digits/two"):
        sync(root, target, ["digits/twoo"])
    with pytest.raises(NotFoundError, match="no project 'digit'"):
        sync(root, target, project="digit")


def test_a_damaged_run_is_named_and_hides_no_other(root, track, target, damage):
    track("one")
    track("two")
    sync(root, target)
    damage(RunRecord(root / "digits" / "one"), "{ no summary")
    track("three")
    done = sync(root, target)
    assert outcomes(done) == {
        "digits/one": "failed", "digits/two": "unchanged", "digits/three": "copied",
    }  # fmt: skip
    assert "not JSON" in next(each.reason for each in done if each.reason)


def test_what_a_link_leads_to_is_not_taken_along(root, track, target, tmp_path):
    run = track("one")
    (tmp_path / "secret").write_text("secret")
    (run.path / "artifacts").mkdir()
    (run.path / "artifacts" / "link").symlink_to(tmp_path / "secret")
    sync(root, target)
    (tmp_path / "damaged").touch()  # by the link
    assert not os.path.lexists(target / "digits" / "one" / "artifacts" / "link")


def test_roots_that_cannot_be_copied_are_refused(root, track, target, url):
    track("one")
    with pytest.raises(RootNotFoundError):
        sync(target, root)
    with pytest.raises(RootNotFoundError):
        sync(url, target)
    with pytest.raises(InvalidValueError, match="both far"):
        sync(url, url)
    with pytest.raises(InvalidValueError, match="one lies in the other"):
        sync(root, root / "copy")


def test_a_run_that_was_resumed_on_both_sides_is_refused_and_loses_nothing(
    root, tracker, target, url, tmp_path
):
    run = tracker().start_run("one")
    run.log_metrics({"loss": 1.0}, step=0)
    run.end_run()
    other = tmp_path / "other"
    shutil.copytree(root, other)
    for place, rows in ((root, 5), (other, 2)):
        tracker = ExperimentTracker(
            "digits", root=place, use_tensorboard=False, auto_log=False, resume="must"
        )
        resumed = tracker.start_run("one")
        for step in range(rows):
            resumed.log_metrics({str(place): 1.0}, step=step + 1)
        resumed.end_run()
    before = files_in(other)
    sync(other, url)
    for place in (other, url):
        (done,) = sync(root, place)
        assert done.outcome == "refused"
        assert "each by itself" in done.reason
    assert files_in(other) == before
    sync(url, target)
    assert files_in(target) == before


def test_an_ended_run_is_not_set_back_to_one_that_runs(root, track, target):
    run = track("one", rows=[{"loss": 1.0}])
    sync(root, target)
    stale = target / "digits" / "one" / "summary.json"
    stale.write_text(stale.read_text().replace('"finished"', '"running"'))
    (done,) = sync(target, root)
    assert done.outcome == "refused"
    assert RunRecord(run.path).status == "finished"
    assert outcomes(sync(root, target)) == {"digits/one": "updated"}


def test_nothing_is_written_through_a_link_in_the_target(root, track, tracker, target, tmp_path):
    track("one")
    with tracker().start_run("two") as run:
        run.log_text("hello", "note")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (target / "digits" / "two").mkdir(parents=True)
    (target / "digits" / "one").symlink_to(elsewhere)
    (target / "digits" / "two" / "artifacts").symlink_to(elsewhere)
    done = sync(root, target)
    assert outcomes(done) == {"digits/one": "failed", "digits/two": "failed"}
    assert all("in a link" in each.reason for each in done)
    assert list(elsewhere.iterdir()) == []


def test_a_run_that_cannot_be_listed_keeps_no_other_from_being_copied(root, track, target):
    track("one")
    deep = track("two").path
    here = os.open(deep, os.O_RDONLY)
    for _ in range(20):  # further than a path may lead
        os.mkdir("d" * 250, dir_fd=here)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    assert outcomes(sync(root, target)) == {"digits/one": "copied", "digits/two": "failed"}
    shutil.rmtree(deep)


def test_what_the_summary_says_is_in_the_history_beside_it(root, tracker, target, monkeypatch):
    run = tracker().start_run("live")
    for step in range(3000):
        run.log_metrics({"loss": 1.0}, step=step)
    sync(root, target)
    run.log_metrics({"loss": 1.0}, step=3000)
    document = Folder.document

    def once_it_has_ended(side, key, name):
        if run.status == "running":
            for step in range(3001, 3100):
                run.log_metrics({"loss": 1.0}, step=step)
            run.end_run()
        return document(side, key, name)

    monkeypatch.setattr(Folder, "document", once_it_has_ended)
    sync(root, target)
    copied = RunRecord(target / "digits" / "live")
    assert copied.status == "finished"
    assert len(copied.rows()) == copied.summary["history"]["rows"] == 3100
    assert moved(sync(root, target)) == 0


def test_what_a_killed_sync_left_is_deleted_in_time(root, track, target):
    track("one")
    target.mkdir()
    with scratch(str(target)) as new, scratch(str(target)) as old:
        os.utime(old, (0, 0))
        sync(root, target)
        assert (os.path.isdir(new), os.path.isdir(old)) == (True, False)


def test_a_name_that_no_file_may_bear_is_told(root, track, target):
    track("one")
    url = f"memory://{uuid.uuid4().hex}"
    sync(root, url)
    fs, base = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{base}/digits/one/" + "n" * 300, b"")
    one, refused = sync(url, target)
    assert (one.outcome, refused.outcome) == ("copied", "refused")
    assert "too long" in refused.reason


def test_a_folder_is_no_copy_of_itself_by_its_address_either(root, track):
    track("one")
    with pytest.raises(InvalidValueError, match="one lies in the other"):
        sync(root, f"file://{root}")


def test_a_run_that_another_sync_brings_further_meanwhile_is_not_refused(
    root, tracker, target, monkeypatch
):
    run = tracker().start_run("live")
    run.log_metrics({"loss": 1.0}, step=0)
    sync(root, target)
    run.log_metrics({"loss": 1.0}, step=1)
    listed = []
    look = Folder.run

    def between_two_looks(side, key):
        listed.append(side.name)
        if len(listed) == 4:  # both twice: the second look at the second side
            run.log_metrics({"loss": 1.0}, step=2)
            sync(root, target)
        return look(side, key)

    monkeypatch.setattr(Folder, "run", between_two_looks)
    (done,) = sync(root, target)
    assert done.outcome == "updated"
    assert len(RunRecord(target / "digits" / "live").rows()) == 3
