import json
import math
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from experiment_tracking.folder import layout
from experiment_tracking.registry.index import bulk, looks, scan, sharing
from experiment_tracking.registry.index.index import VARIABLE, Index
from experiment_tracking.registry.index.scan import read_runs
from experiment_tracking.registry.index.segments import Column, Segment, encode
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.table import RunTable


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, which takes files as settled that were just written."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(scan, "_GRAIN_S", 0)
    return tmp_path / "cache"


def paths_of(root):
    return [folder.path for folder in layout.iter_runs(str(root))]


def read(root, **options):
    return read_runs(paths_of(root), str(root), **options)


def segments(root):
    return Index.of(str(root)).load()


def mark(root):
    """Write into the index that all runs have the note ``kept``; so a reader tells on itself."""
    folder = Index.of(str(root)).folder
    for number, known in enumerate(segments(root)):
        columns = {name: known.column(name) for name in known.names()}
        columns["notes"] = Column(["kept"] * len(known), None)
        marked = b"".join(encode(Segment(len(known), known.shapes, columns)))
        with open(f"{folder}/marked-{number}.segment", "wb") as file:
            file.write(marked)
    for name in os.listdir(folder):
        if not name.startswith("marked-"):
            os.unlink(f"{folder}/{name}")


def kept(root, **options):
    """Names of the runs that a scan took from the index."""
    table = read(root, **options)
    notes = zip(table.column("name"), table.column("notes"), strict=True)
    return [name for name, note in notes if note == "kept"]


def everything(table):
    more = [f"{name}:{number}" for name in table.names() if name.startswith("metrics.")
            for number in ("last_step", "min", "max", "mean", "count", "best", "goal")]  # fmt: skip
    columns = {name: repr(table.column(name)) for name in (*table.names(), *more)}
    return table.paths, columns, sorted(table.problems)


def assert_index_changes_nothing(root):
    """Read with the index as it is, once more, and without one: all say the same."""
    plain = read_runs(paths_of(root))
    for table in (read(root), read(root), read(root, refresh=True)):
        assert everything(table) == everything(plain)
        pd.testing.assert_frame_equal(table.to_frame(), plain.to_frame())


@pytest.fixture
def mixed(track, killed, damage, edit, root):
    """A root with a run of every kind."""
    rows = [{"loss": 1.0, "β": 2}, {"loss": -0.0, "time": 3, "acc": 0.25}]
    track("finished", params={"lr": 0.1, "n": 3, "s": "{}"}, rows=rows, tags=["t"])
    track("failed", rows=rows[:1], status="FAILED", goals={"β": "maximize"})
    track("nested", params={"model": {"depth": 2, "list": [1, {"a": 2}]}}, tags={"u": "v"})
    track("nan", rows=[{"loss": math.nan, "acc": math.inf}, {"loss": -math.inf}], project="other")
    writing = track("open", rows=rows[:1], status=None)
    track("long", params={f"p{i}": "x" * 900 for i in range(100)})
    track("large", params={"word": "x" * 5_000_000})
    track("seed", params={"seed": 2**80})
    short = track("undigested", rows=rows)
    summary = json.loads((short.path / "summary.json").read_text())
    edit(short, metrics={}, history=summary["history"] | {"digested_bytes": 0})
    damage(track("old", rows=rows), '{"status": "finished"}')
    damage(track("torn"), '{"status"')
    damage(track("listed"), "[1]", "params.json")
    damage(track("deep"), '{"a":' * 1010 + "1" + "}" * 1010, "params.json")
    damage(track("nulled"), "\0" * 500)
    (track("linked").path / "params.json").unlink()
    (root / "digits" / "linked" / "params.json").symlink_to(
        root / "digits" / "long" / "params.json"
    )
    os.unlink(track("paramless").path / "params.json")
    os.unlink(track("summaryless", rows=rows).path / "summary.json")
    (root / "digits" / "empty").mkdir()
    os.unlink(track("piped").path / "summary.json")
    os.mkfifo(root / "digits" / "piped" / "summary.json")
    yield root
    writing.end_run()


# ---------------------------------------------------------------------- the same answers


def test_with_and_without_the_index_the_answers_are_equal(mixed):
    assert_index_changes_nothing(mixed)
    table = read(mixed)
    assert len(table) == 15
    status = dict(zip(table.column("name"), table.column("status"), strict=True))
    assert status["killed"] == "crashed"
    assert status["open"] == "running"
    assert {os.path.basename(problem.path) for problem in table.problems} == {
        "torn", "deep", "listed", "nulled", "linked", "summaryless", "piped"
    }  # fmt: skip


def test_what_is_read_in_bulk_is_what_a_record_says(mixed):
    table = read_runs(paths_of(mixed))
    records = RunTable.of([RunRecord(path) for path in table.paths])
    assert everything(records)[:2] == everything(table)[:2]


def test_only_what_may_not_change_by_itself_is_kept(mixed):
    read(mixed)
    mark(mixed)
    names = {os.path.basename(path) for path in paths_of(mixed)}
    unkept = {"open", "torn", "deep", "listed", "nulled", "linked", "summaryless", "piped"}
    assert set(kept(mixed)) == names - unkept
    assert kept(mixed, refresh=True) == []


def test_after_changes_the_answers_are_equal_too(mixed, track, edit):
    read(mixed)
    track("new", params={"lr": 7}, rows=[{"loss": 5.0}])
    shutil.rmtree(mixed / "digits" / "failed")
    (mixed / "digits" / "nested").rename(mixed / "digits" / "renamed")
    shutil.copytree(mixed / "digits" / "finished", mixed / "other" / "finished")
    (mixed / "digits" / "torn" / "summary.json").unlink()
    (mixed / "digits" / "long" / "summary.json").unlink()
    assert_index_changes_nothing(mixed)


def test_a_run_that_goes_on_and_ends_is_seen_as_it_is(track, root):
    for name in "abc":
        track(name, rows=[{"loss": 1.0}])
    run = track("running", rows=[{"loss": 1.0}], status=None)
    read(root)
    mark(root)
    for value in (0.5, 0.25):
        run.log_metrics({"loss": value})
        table = read(root)
        assert table.column("metrics.loss")[3] == value
        assert table.column("notes") == ["kept", "kept", "kept", ""]
    run.end_run()
    assert read(root).column("status")[3] == "finished"
    mark(root)
    assert kept(root) == ["a", "b", "c", "running"]


def test_a_crashed_run_that_is_resumed_is_read_again(killed, tracker, root):
    assert read(root).column("status") == ["crashed"]
    mark(root)
    assert kept(root) == ["killed"]
    run = tracker(resume="must").start_run("killed")
    run.log_metrics({"loss": 77.0}, step=500)
    table = read(root)
    assert table.column("status") == ["running"]
    assert table.column("metrics.loss") == [77.0]
    run.end_run()
    assert_index_changes_nothing(root)


@pytest.mark.parametrize("file", ["metrics_history.json", "heartbeat.json"])
def test_a_crashed_run_is_read_again_when_its_rows_or_heartbeat_change(
    killed, root, file, tmp_path
):
    (tmp_path / "damaged").touch()
    read(root)
    mark(root)
    text = (killed / file).read_text()
    (killed / file).write_text(text.replace("7", "8"))
    assert kept(root) == []
    assert_index_changes_nothing(root)


# ---------------------------------------------------------------------- what changed


@pytest.fixture
def three(track, root):
    """Three runs whose documents are of equal size."""
    for number in range(3):
        track(
            f"run-{number}", params={"lr": float(f"0.{number + 1}")}, rows=[{"loss": float(number)}]
        )
    read(root)
    mark(root)
    assert kept(root) == ["run-0", "run-1", "run-2"]
    return root


def test_one_new_run_costs_that_run_alone(three, track):
    track("run-3", params={"lr": 0.4}, rows=[{"loss": 3.0}])
    assert kept(three) == ["run-0", "run-1", "run-2"]
    assert [list(s.values("#key")) for s in segments(three) if len(s) < 3] == [["digits/run-3"]]
    assert sorted(map(len, segments(three))) == [1, 3]
    read(three)
    assert sorted(map(len, segments(three))) == [1, 3]


@pytest.mark.parametrize(
    ("file", "old", "new", "column"),
    [
        ("params.json", "0.2", "0.7", "params.lr"),
        ("summary.json", '"last": 1.0', '"last": 7.0', "metrics.loss"),
    ],
)
def test_an_edit_in_place_that_keeps_size_and_time_is_seen(three, tmp_path, file, old, new, column):
    (tmp_path / "damaged").touch()
    path = three / "digits" / "run-1" / file
    before = path.stat()
    with open(path, "r+") as document:
        text = document.read()
        document.seek(0)
        document.write(text.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert kept(three) == ["run-0", "run-2"]
    assert read(three).column(column)[1] == float(new.split()[-1])


def test_a_copy_that_puts_the_time_back_is_seen(three, tmp_path):
    """As ``cp -p`` and rsync do: new contents of the same size, with the old time."""
    (tmp_path / "damaged").touch()
    for file, old, new in (("params.json", "0.2", "0.7"), ("summary.json", '": 1.0', '": 7.0')):
        path = three / "digits" / "run-1" / file
        before = path.stat()
        (tmp_path / file).write_text(path.read_text().replace(old, new))
        os.utime(tmp_path / file, ns=(before.st_atime_ns, before.st_mtime_ns))
        subprocess.run(["cp", "-p", tmp_path / file, path], check=True)
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        assert path.stat().st_size == before.st_size
    assert kept(three) == ["run-0", "run-2"]
    assert read(three).column("params.lr") == [0.1, 0.7, 0.3]
    assert read(three).column("metrics.loss") == [0.0, 7.0, 2.0]


def test_a_folder_renamed_onto_anothers_name_is_seen(three, tmp_path):
    (tmp_path / "damaged").touch()  # a summary says by which name its run was begun
    (three / "digits" / "run-1").rename(tmp_path / "away")
    (three / "digits" / "run-2").rename(three / "digits" / "run-1")
    table = read(three)
    assert table.column("name") == ["run-0", "run-1"]
    assert table.column("params.lr") == [0.1, 0.3]
    (tmp_path / "away").rename(three / "digits" / "run-2")
    assert read(three).column("metrics.loss") == [0.0, 2.0, 1.0]


def test_a_summary_that_is_gone_is_not_made_up(three, tmp_path):
    (tmp_path / "damaged").touch()
    os.unlink(three / "digits" / "run-1" / "summary.json")
    table = read(three)
    assert table.column("name") == ["run-0", "run-2"]
    assert [problem.reason for problem in table.problems] == ["has rows but no summary.json"]


def test_what_has_only_just_been_written_is_not_kept(track, root, monkeypatch):
    monkeypatch.setattr(scan, "_GRAIN_S", 3600)
    track("a", rows=[{"loss": 1.0}])
    assert len(read(root)) == 1
    assert segments(root) == []


def test_a_correction_by_hand_is_seen(three):
    amendments = three / "digits" / "run-1" / "amendments"
    amendments.mkdir()
    correction = {"at": "2026-11-21T10:00:00.000Z", "by": "ann", "kind": "tag", "name": "good",
                  "new": "yes"}  # fmt: skip
    (amendments / "000001.json").write_text(json.dumps(correction))
    os.utime(three / "digits" / "run-1" / "summary.json")
    assert kept(three) == ["run-0", "run-2"]
    assert read(three).column("tags.good") == [None, "yes", None]
    mark(three)
    assert kept(three) == ["run-0", "run-1", "run-2"]


def test_what_is_read_again_takes_the_place_of_what_was_known(three):
    for _ in range(8):  # by chance its segment comes before the older one or behind it
        mark(three)
        read(three, refresh=True)
        assert kept(three) == []


def test_a_project_by_itself_leaves_the_rows_of_others_alone(three, track):
    track("x", project="other")
    for _ in range(3):
        read_runs([str(three / "other" / "x")], str(three), refresh=True)
    assert kept(three) == ["run-0", "run-1", "run-2"]


def test_a_copy_by_hard_links_has_corrections_of_its_own(three, tmp_path):
    (tmp_path / "damaged").touch()
    shutil.copytree(three / "digits", three / "linked", copy_function=os.link)
    correction = {"at": "2026-11-21T10:00:00.000Z", "by": "ann", "kind": "tag", "name": "good",
                  "new": "yes"}  # fmt: skip
    amendments = three / "linked" / "run-0" / "amendments"
    amendments.mkdir()
    (amendments / "000001.json").write_text(json.dumps(correction))
    os.utime(three / "linked" / "run-0" / "summary.json")
    assert_index_changes_nothing(three)
    assert read(three).column("tags.good") == [None, None, None, "yes", None, None]
    mark(three)
    assert len(kept(three)) == 6


def test_a_run_without_params_is_known_to_other_processes_too(three, tmp_path):
    (tmp_path / "damaged").touch()
    os.unlink(three / "digits" / "run-1" / "params.json")
    command = [sys.executable, "-c", _READER, str(three)]
    subprocess.run(command, input="go\n", text=True, check=True)
    mark(three)
    assert kept(three) == ["run-0", "run-1", "run-2"]


# ---------------------------------------------------------------------- a bad cache


def test_a_cache_that_cannot_be_written_changes_nothing(mixed, cache, monkeypatch):
    shutil.rmtree(cache, ignore_errors=True)
    cache.write_text("in the way")
    assert_index_changes_nothing(mixed)
    monkeypatch.setenv(VARIABLE, "off")
    assert_index_changes_nothing(mixed)


_LIMITED = """
import resource, sys
from experiment_tracking.registry.index import scan
scan._GRAIN_S = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
table = scan.read_runs(sys.argv[2:], sys.argv[1])
print(len(table), table.column("metrics.loss"))
"""


def test_a_full_disk_changes_nothing(track, root):
    paths = [str(track(name, rows=[{"loss": 1.0}]).path) for name in "abc"]
    command = [sys.executable, "-c", _LIMITED, str(root), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("3 [1.0, 1.0, 1.0]\n", "")
    assert os.listdir(Index.of(str(root)).folder) == []


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(4000)])
def test_a_harmed_segment_is_read_anew(three, content):
    folder = Index.of(str(three)).folder
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "r+b") as file:
            file.write(content)
            file.truncate(max(len(content), 100))
    assert kept(three) == []
    assert_index_changes_nothing(three)
    mark(three)
    assert kept(three) == ["run-0", "run-1", "run-2"]


_READER = """
import sys
from experiment_tracking.folder import layout
from experiment_tracking.registry.index import scan
scan._GRAIN_S = 0
root = sys.argv[1]
sys.stdin.readline()
for _ in range(40):
    paths = [folder.path for folder in layout.iter_runs(root)]
    table = scan.read_runs(paths, root, refresh=len(sys.argv) > 2)
    assert not table.problems, table.problems
    for name, status, loss in zip(*map(table.column, ("name", "status", "metrics.loss"))):
        assert status == "running" or name == f"run-{loss:.0f}", (name, status, loss)
"""


def test_readers_and_a_writer_that_race_all_get_it_right(track, root):
    for number in range(5):
        track(f"run-{number}", rows=[{"loss": number}])
    commands = [["first"], [], [], []]
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", _READER, str(root), *words], stdin=subprocess.PIPE, text=True
        )
        for words in commands
    ]
    for reader in readers:
        reader.stdin.write("go\n")
        reader.stdin.flush()
    for number in range(5, 25):
        track(f"run-{number}", rows=[{"loss": number}])
    for reader in readers:
        reader.communicate()
        assert reader.returncode == 0
    assert_index_changes_nothing(root)


# ---------------------------------------------------------------------- many runs


@pytest.fixture
def helped(monkeypatch):
    """Have even a few runs looked at and read in three processes."""
    for module in (bulk, looks):
        monkeypatch.setattr(module, "START_RUNS", 1)
    monkeypatch.setattr(sharing, "processors", lambda: 3)


def test_what_several_processes_read_is_what_one_reads(mixed, monkeypatch, helped):
    table = read(mixed)
    assert len(segments(mixed)) > 1
    assert everything(read(mixed)) == everything(table)
    monkeypatch.undo()
    assert everything(read_runs(paths_of(mixed))) == everything(table)


@pytest.mark.parametrize("script", ["exit 1", "echo '[] '; echo nonsense", "exec cat"])
def test_without_an_answer_the_runs_are_read_here(mixed, monkeypatch, helped, tmp_path, script):
    plain = everything(read(mixed))
    broken = tmp_path / "python-broken"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    assert everything(read(mixed, refresh=True)) == plain
    assert everything(read(mixed)) == plain
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python-none"))
    assert everything(read(mixed, refresh=True)) == plain
    assert everything(read(mixed)) == plain


def test_progress_is_told_up_to_the_last_run(three):
    told = []
    read(three, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3, 3)
    assert all(total == 3 and done <= 3 for done, total in told)
    told.clear()
    read(three, refresh=True, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 3)
    assert told[-1] == (3, 3)
