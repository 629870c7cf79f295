"""Corrections of a run: created one by one, read in order, folded into what the documents say."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import amendments
from experiment_tracking.folder.amendments import (
    fold_metrics,
    fold_notes,
    fold_params,
    fold_rows,
    fold_tags,
    take_in_rows,
)
from experiment_tracking.folder.digest import Digest, merge_attempts, merged_rows
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.values import RESERVED

REPOSITORY = str(Path(__file__).parents[2])
ENVIRONMENT = {**os.environ, "PYTHONPATH": REPOSITORY, "PYTHONDONTWRITEBYTECODE": "1"}
OTHER_USER = 65534


@pytest.fixture
def folder(tmp_path):
    """A folder with as much of a run as a correction looks at."""
    return make_folder(tmp_path / "p" / "r")


def make_folder(path):
    path.mkdir(parents=True)
    (path / "summary.json").write_text('{"format": 1, "status": "finished"}\n')
    return RunFolder(path)


def by_ann(kind="tag", name="a", **more):
    return {"by": "ann", "kind": kind, "name": name, **more}


def files(folder):
    return sorted(os.listdir(folder.amendments))


# ---------------------------------------------------------------------- files


def test_each_amendment_gets_the_number_behind_the_highest(folder):
    amendments.add(folder, by_ann(new="1"), by_ann(new="2"))
    (folder.path / Path("amendments/000007.json")).write_text("{}")
    kept = amendments.add(folder, by_ann(old="2"), durable=True)
    assert files(folder) == ["000001.json", "000002.json", "000007.json", "000008.json"]
    assert [json.loads((Path(folder.amendments) / "000008.json").read_text())] == kept
    assert kept[0].items() >= by_ann(old="2").items()
    assert kept[0]["at"].endswith("Z")


def test_sixteen_processes_that_come_at_once_lose_nothing(folder):
    code = (
        "import sys\nfrom experiment_tracking.folder import amendments\n"
        "from experiment_tracking.folder.layout import RunFolder\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "for i in range(10):\n"
        "    entry = {'by': sys.argv[2], 'kind': 'tag', 'name': str(i), 'new': ''}\n"
        "    amendments.add(RunFolder(sys.argv[1]), entry)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, folder.path, f"user{i}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )
        for i in range(16)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0] or process.returncode for process in processes] == [0] * 16
    found, problems = amendments.read(folder)
    assert problems == []
    written = {(f"user{i}", str(j)) for i in range(16) for j in range(10)}
    assert sorted((each["by"], each["name"]) for each in found) == sorted(written)
    assert len(files(folder)) == 160
    assert files(folder)[-1] == "000160.json"


def test_amendments_are_read_in_the_order_of_their_numbers(folder):
    os.mkdir(folder.amendments)
    for number in ("1000000", "999999", "000010", "9"):
        entry = {"at": "2026-11-20T15:30:40.200Z", **by_ann(new=number)}
        (Path(folder.amendments) / f"{number}.json").write_text(json.dumps(entry))
    found, problems = amendments.read(folder)
    assert [each["new"] for each in found] == ["9", "000010", "999999", "1000000"]
    assert problems == []


def test_a_run_without_amendments_has_none(folder):
    assert amendments.read(folder) == ([], [])


def test_what_is_no_amendments_file_is_passed_over(folder):
    amendments.add(folder, by_ann(new=""))
    for name in (".000002.json.1.a.tmp", "notes.json", "000003.txt", "٣.json"):
        (Path(folder.amendments) / name).write_text("{")
    found, problems = amendments.read(folder)
    assert ([each["name"] for each in found], problems) == (["a"], [])


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"by": 3}, "its by is 3"),
        ({"kind": None}, "its kind is None"),
        ({"new": 3}, "its new is 3"),
        ({"kind": "notes", "new": []}, r"its new is \[\]"),
        ({"kind": "metric", "new": "0.1", "step": 1, "time": 1.0}, "its new is '0.1'"),
        ({"kind": "metric", "new": 0.1, "time": 1.0}, "its step is nothing"),
        ({"kind": "metric", "new": 0.1, "step": 1.0, "time": 1.0}, "its step is 1.0"),
        ({"kind": "metric", "new": 0.1, "step": 1}, "its time is nothing"),
        ({"kind": "resumed", "new": "1"}, "its new is '1'"),
    ],
)
def test_one_with_a_wrong_part_is_passed_over_and_told(change, wrong, folder):
    amendments.add(folder, by_ann(new="1"), {**by_ann(new="x"), **change}, by_ann(new="3"))
    found, [problem] = amendments.read(folder)
    assert [each["new"] for each in found] == ["1", "3"]
    with pytest.raises(DamagedError, match=wrong):
        raise problem
    assert "000002.json" in str(problem)


@pytest.mark.parametrize("data", [b"", bytes(40), b"[]", b'{"by": "a'])
def test_one_that_is_no_object_hides_no_other(data, folder):
    amendments.add(folder, by_ann(new="1"), by_ann(new="2"))
    (Path(folder.amendments) / "000001.json").write_bytes(data)
    found, [problem] = amendments.read(folder)
    assert [each["new"] for each in found] == ["2"]
    assert "000001.json" in str(problem)


def test_a_file_in_the_place_of_the_folder_is_told(folder):
    Path(folder.amendments).write_text("")
    assert [type(error) for error in amendments.read(folder)[1]] == [NotADirectoryError]


def test_a_kind_of_a_later_version_is_read_and_changes_nothing(folder):
    amendments.add(folder, by_ann("colour", "a", new=["red"]))
    [found], problems = amendments.read(folder)
    assert (found["new"], problems) == (["red"], [])
    assert fold_tags({"a": "1"}, [found]) == fold_params({"a": "1"}, [found]) == {"a": "1"}


# ---------------------------------------------------------------------- caches


def stamp(path):
    found = os.stat(path)
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def make_old(folder):
    os.utime(folder.summary, (1e9, 1e9))
    return stamp(folder.summary)


def test_a_cache_sees_by_the_summarys_time_that_something_has_changed(folder):
    before = make_old(folder)
    amendments.tell_caches(folder)
    after = stamp(folder.summary)
    assert after[0] > before[0]
    assert after[2] == before[2]


def test_a_copy_of_the_summary_is_another_file_with_the_same_content(folder):
    before, content = make_old(folder), Path(folder.summary).read_bytes()
    amendments.copy_summary(folder)
    assert stamp(folder.summary)[0] > before[0]
    assert stamp(folder.summary)[2] != before[2]
    assert Path(folder.summary).read_bytes() == content
    assert os.listdir(folder.path) == ["summary.json"]


def test_the_summary_of_a_live_run_is_not_put_back_to_an_older_one(make):
    run = make("p").start_run("r")
    before = stamp(run.path / "summary.json")
    amendments.copy_summary(RunFolder(run.path))
    assert stamp(run.path / "summary.json") == before
    run.end_run()


@pytest.fixture
def as_other_user():
    """Run lines of code on a run's folder as a user who does not own it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    # The modules are there before: the other user may not be allowed to read them.
    code = (
        "import os, sys\nfrom experiment_tracking.folder import amendments\n"
        "from experiment_tracking.folder.layout import RunFolder\nfolder = RunFolder(sys.argv[1])\n"
        f"os.setgroups([])\nos.setgid({OTHER_USER})\nos.setuid({OTHER_USER})\n"
    )
    with tempfile.TemporaryDirectory() as place:  # pytest's own are closed to others
        os.chmod(place, 0o755)
        folder = make_folder(Path(place) / "p" / "r")

        def call(lines):
            words = [sys.executable, "-c", code + lines, folder.path]
            return subprocess.run(
                words, env=ENVIRONMENT, capture_output=True, text=True, check=False
            )

        yield folder, call


def test_whoever_may_write_the_folder_alone_puts_a_copy_in_the_place_of_the_summary(as_other_user):
    folder, call = as_other_user
    os.chmod(folder.path, 0o777)
    before, content = make_old(folder), Path(folder.summary).read_bytes()
    done = call("amendments.add(folder, {'by': 'b', 'kind': 'tag', 'name': 'a', 'new': ''})\n"
                "amendments.tell_caches(folder)")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert stamp(folder.summary)[0] > before[0]
    assert os.stat(folder.summary).st_uid == OTHER_USER
    assert Path(folder.summary).read_bytes() == content
    assert [each["by"] for each in amendments.read(folder)[0]] == ["b"]


def test_whoever_may_write_nothing_is_told_so(as_other_user):
    folder, call = as_other_user
    done = call("amendments.add(folder, {'by': 'b', 'kind': 'tag', 'name': 'a', 'new': ''})")
    assert done.returncode == 1
    assert "PermissionError" in done.stderr
    assert amendments.read(folder) == ([], [])


def test_a_process_killed_before_it_told_caches_has_kept_the_amendment(folder):
    code = (
        "import os, signal, sys\nfrom experiment_tracking.folder import amendments\n"
        "from experiment_tracking.folder.layout import RunFolder\n"
        "entry = {'by': 'ann', 'kind': 'tag', 'name': 'a', 'new': '1'}\n"
        "amendments.add(RunFolder(sys.argv[1]), entry, durable=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = make_old(folder)
    done = subprocess.run([sys.executable, "-c", code, folder.path], env=ENVIRONMENT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert stamp(folder.summary) == before
    assert fold_tags({}, amendments.read(folder)[0]) == {"a": "1"}
    amendments.add(folder, by_ann(name="b", new="2"))
    amendments.tell_caches(folder)
    assert stamp(folder.summary)[0] > before[0]
    assert fold_tags({}, amendments.read(folder)[0]) == {"a": "1", "b": "2"}


# ---------------------------------------------------------------------- tags, notes, params


def test_the_last_of_several_corrections_counts():
    changes = [by_ann(new="1"), by_ann(old="1"), by_ann(name="b", new="2"), by_ann(new="3")]
    assert fold_tags({"b": "0", "c": ""}, changes) == {"b": "2", "c": "", "a": "3"}
    notes = [by_ann("notes", "notes", new="one"), by_ann("notes", "notes", old="one", new="two")]
    assert fold_notes("zero", notes) == "two"
    assert fold_notes("zero", changes) == "zero"


def test_params_are_corrected_where_they_stand():
    params = {"lr": 0.1, "model": {"depth": 2, "head": {"bias": True}}, "a.b": 1}
    changes = [
        by_ann("param", "lr", old=0.1, new=None),
        by_ann("param", "model.depth", old=2, new=3),
        by_ann("param", "model.width", new=8),
        by_ann("param", "model.head.bias", old=True),
        by_ann("param", "a.b", new=2),
        by_ann("param", "optimizer.beta", new=0.9),
    ]
    assert fold_params(params, changes) == {
        "lr": None, "model": {"depth": 3, "head": {}, "width": 8}, "a.b": 2, "optimizer.beta": 0.9,
    }  # fmt: skip
    assert params["model"] == {"depth": 2, "head": {"bias": True}}


def test_a_whole_object_may_be_corrected_and_then_a_part_of_it():
    changes = [by_ann("param", "model", new={"depth": 5}), by_ann("param", "model.depth", new=6)]
    assert fold_params({"model": 1}, changes) == {"model": {"depth": 6}}
    assert fold_params({"model": 1}, changes[::-1]) == {"model": {"depth": 5}}
    assert changes[0]["new"] == {"depth": 5}


def test_what_the_run_itself_logged_later_counts():
    by_run = {"by": "run", "kind": "param", "name": "model", "old": {}, "new": {"depth": 4}}
    params = {"lr": 0.3, "model": {"depth": 4}}
    corrected = [by_ann("param", "model.depth", new=9), by_ann("param", "models", new=1)]
    assert fold_params(params, [*corrected, by_run]) == {**params, "models": 1}
    assert fold_params(params, [by_run, *corrected])["model"] == {"depth": 9}


# ---------------------------------------------------------------------- late metrics


def late(name, step, new):
    return by_ann("metric", name, new=new, step=step, time=9.0)


def row(step, **metrics):
    return {"step": step, "time": 1.0, **metrics}


def test_a_late_value_stands_behind_all_rows():
    rows = [row(0, a=1), row(1, a=2)]
    assert fold_rows(rows, [late("b", 0, 3)]) == [*rows, {"step": 0, "time": 9.0, "b": 3}]


def test_a_late_value_takes_the_place_of_those_at_its_step():
    rows = [row(0, a=1, b=1), row(1, a=2), row(0, a=3)]
    added = {"step": 0, "time": 9.0, "a": 7}
    changes = [late("a", 0, 5), late("a", 0, 7)]
    assert fold_rows(rows, changes) == [row(0, b=1), row(1, a=2), added]
    assert fold_rows(rows, changes, superseding=False) == [*rows, added]
    assert rows[0] == row(0, a=1, b=1)


def test_a_late_value_is_of_the_last_attempt():
    rows = [row(0, a=1), {**row(1, a=2), "attempt": 2}]
    assert fold_rows(rows, [late("a", 5, 1)])[-1]["attempt"] == 2


def test_the_history_is_not_read_for_a_metric_that_had_no_such_step():
    digest = Digest(list)
    digest.update([row(0, a=1), row(1, a=2)])

    def no_rows():
        raise AssertionError("the history was read")

    changes = [late("b", 0, 3), late("a", 2, 3)]
    folded = fold_metrics(digest.to_dict(), changes, no_rows, {})
    assert (folded["a"]["last"], folded["a"]["mean"], folded["b"]["last"]) == (3, 2.0, 3)


VALUES = st.one_of(st.floats(-10, 10), st.integers(-5, 5), st.sampled_from(["NaN", "Infinity"]))
NAMES = st.sampled_from(["loss", "val/acc", "x"])
ROWS = st.lists(st.tuples(st.integers(0, 4), st.dictionaries(NAMES, VALUES, min_size=1)))
LATE = st.lists(st.tuples(NAMES, st.integers(0, 6), VALUES), min_size=1)


@given(ROWS, ROWS, LATE)
def test_the_digest_with_late_metrics_is_that_of_all_rows_together(first, second, changes):
    rows = [row(step, **metrics) for step, metrics in first]
    rows += [{**row(step, **metrics), "attempt": 2} for step, metrics in second]
    entries = [late(*change) for change in changes]
    digest = Digest(lambda: rows, goals={"x": "minimize"})
    digest.update(rows)

    def folded_rows():
        return fold_rows(merged_rows(rows), entries)

    found = fold_metrics(digest.to_dict(), entries, folded_rows, {"x": "minimize"})
    expected = Digest(folded_rows, goals={"x": "minimize"})
    # Attempts have been merged; the order of rows is what counts.
    expected.update([{k: v for k, v in each.items() if k != "attempt"} for each in folded_rows()])
    without_attempts = {
        name: {k: v for k, v in kept.items() if k != "attempt"} for name, kept in found.items()
    }
    assert without_attempts == expected.to_dict()
    assert not any(math.isnan(kept["total"]) for kept in without_attempts.values())


# ---------------------------------------------------------------------- what is taken in


def mark(up_to):
    return {"by": "run", "kind": "resumed", "name": "", "new": up_to}


def test_what_a_mark_says_is_taken_in_is_not_folded_again_and_stays_listed(folder):
    kinds = [by_ann(new="1"), by_ann("notes", "notes", new="x"), by_ann("param", "lr", new=1)]
    amendments.add(folder, *kinds, late("loss", 3, 1.0), mark(4))
    found, problems = amendments.read(folder)
    assert ([each["kind"] for each in found], problems) == (
        ["tag", "notes", "param", "metric", "resumed"], [],
    )  # fmt: skip
    assert (fold_tags({}, found), fold_notes("", found), fold_params({}, found)) == ({}, "", {})
    assert fold_rows([], found) == []
    assert fold_metrics({}, found, list, {}) == {}


def test_one_that_was_added_before_the_mark_but_not_read_for_it_is_folded(folder):
    amendments.add(folder, by_ann(new="1"), by_ann(name="b", new="2"), mark(1), by_ann(new="3"))
    found, _ = amendments.read(folder)
    assert [each["new"] for each in found] == ["1", 1, "2", "3"]
    assert fold_tags({}, found) == {"b": "2", "a": "3"}


def test_of_several_marks_the_one_that_takes_in_most_holds(folder):
    amendments.add(folder, by_ann(new="1"), mark(1), by_ann(new="2"), mark(3), mark(1))
    assert fold_tags({}, amendments.read(folder)[0]) == {}


def test_only_the_run_itself_marks(folder):
    amendments.add(folder, by_ann(new="1"), {**mark(1), "by": "ann"})
    assert fold_tags({}, amendments.read(folder)[0]) == {"a": "1"}


PARAM = st.sampled_from(["a", "a.b", "a.b.c", "a.d", "e"])
OBJECTS = st.sampled_from(["1", "{}", '{"b": 1}', '{"b": {"c": 1}, "d": 2}']).map(json.loads)
PARAM_CHANGES = st.lists(st.tuples(PARAM, st.none() | OBJECTS))


@given(st.dictionaries(st.sampled_from(["a", "e"]), OBJECTS), PARAM_CHANGES)
def test_to_fold_the_same_params_once_more_changes_nothing(params, changes):
    entries = [
        by_ann("param", name, **({} if value is None else {"new": value}))
        for name, value in changes
    ]
    folded = fold_params(params, entries)
    assert fold_params(folded, entries) == folded


def write_rows(path, rows):
    path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n" if rows else "[\n]\n")


def taken_in(path, rows, changes):
    """Return the rows of a history after late metrics have gone into it."""
    write_rows(path, rows)
    # As by step and name, which is how they come: the newest of several.
    take_in_rows(str(path), list({(c["name"], c["step"]): c for c in changes}.values()))
    assert json.loads(path.read_text()) == HistoryReader(str(path)).rows()
    return HistoryReader(str(path)).rows()


def test_a_late_row_bears_the_latest_attempt_of_its_metric(tmp_path):
    rows = [row(0, a=1), row(1, a=2), {**row(1, b=3), "attempt": 2}]
    new = taken_in(tmp_path / "h.json", rows, [late("a", 0, 7), late("b", 5, 8), late("c", 0, 9)])
    assert new == [
        *rows[1:], {"step": 0, "time": 9.0, "a": 7}, {"step": 5, "time": 9.0, "attempt": 2, "b": 8},
        {"step": 0, "time": 9.0, "attempt": 2, "c": 9},
    ]  # fmt: skip


def test_the_first_value_of_a_further_attempt_is_changed_where_it_stands(tmp_path):
    """Without it, the earlier attempt's steps 3 and 4 would count again."""
    rows = [row(step, a=step) for step in range(5)]
    rows += [{**row(step, a=10 + step), "attempt": 2} for step in (2, 9)]
    new = taken_in(tmp_path / "h.json", rows, [late("a", 2, 7)])
    assert merge_attempts(new) == {"a": [(0, 0), (1, 1), (2, 7), (9, 19)]}


def test_a_late_value_where_all_are_superseded_stands_behind_them(tmp_path):
    rows = [row(5, a=1), {**row(3, a=2), "attempt": 2}]
    new = taken_in(tmp_path / "h.json", rows, [late("a", 5, 7)])
    assert new[:2] == rows
    assert merge_attempts(new) == {"a": [(3, 2), (5, 7)]}


def test_a_run_without_rows_gets_its_late_ones(tmp_path):
    new = taken_in(tmp_path / "h.json", [], [late("a", 2, "NaN")])
    assert new == [{"step": 2, "time": 9.0, "a": "NaN"}]


def points(rows):
    """Each metric's steps and values, in the order of the rows."""
    found = {}
    for each in rows:
        for name in each.keys() - RESERVED:
            found.setdefault(name, []).append((each["step"], each[name]))
    return found


def in_any_order(points):
    return {name: sorted(map(repr, each)) for name, each in points.items() if each}


@given(ROWS, ROWS, ROWS, LATE, ROWS)
def test_late_rows_in_the_history_count_as_folded_and_a_new_attempt_supersedes_them(
    first, second, third, changes, new_attempt
):
    attempts = enumerate((first, second, third, new_attempt), 1)
    *earlier, fourth = (
        [{**row(step, **metrics), "attempt": number} for step, metrics in rows]
        for number, rows in attempts
    )
    rows = [each for attempt in earlier for each in attempt]
    entries = [late(*change) for change in changes]
    wanted = points(fold_rows(merged_rows(rows), entries))
    with tempfile.TemporaryDirectory() as place:
        new = taken_in(Path(place) / "h.json", rows, entries)
        assert taken_in(Path(place) / "h.json", new, entries) == new
    assert in_any_order(points(merged_rows(new))) == in_any_order(wanted)
    # Killed before the mark: they are folded once more.
    assert points(fold_rows(merged_rows(new), entries)) == wanted
    # From the new attempt's first step of a metric on, nothing older is left.
    logged = points(fourth)
    for name, own in logged.items():
        wanted[name] = [point for point in wanted.get(name, []) if point[0] < own[0][0]] + own
    found = points(merged_rows(new + fourth))
    assert in_any_order(found) == in_any_order(wanted)
    assert all(found[name][-len(own) :] == own for name, own in logged.items())
