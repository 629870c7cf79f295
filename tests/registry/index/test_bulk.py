import json
import math
import os
import subprocess
import sys

import pytest

from experiment_tracking.registry.index.bulk import BulkReader, to_answer
from experiment_tracking.registry.index.sharing import Helper
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.table import RunTable

FAR_AHEAD = 2**62


def in_bulk(*runs, settled_before=FAR_AHEAD):
    """Read runs; return the table of those taken and which were left."""
    paths = [str(run.path) for run in runs]
    reader = BulkReader("", settled_before)
    left = reader.read(paths)
    taken = [path for place, path in enumerate(paths) if place not in left]
    return RunTable(taken, [reader.builder.segment()], range(len(taken)), []), left


def columns(table):
    more = [f"{name}:{number}" for name in table.names() if name.startswith("metrics.")
            for number in ("last_step", "min", "max", "mean", "count", "best", "goal")]  # fmt: skip
    return {name: repr(table.column(name)) for name in (*table.names(), *more)}


def test_finished_runs_are_taken_and_read_as_a_record_reads_them(track):
    rows = [{"loss": 1.0, "β": 2}, {"loss": -0.0, "time": 3, "acc": 0.25}]
    runs = [
        track("a", params={"lr": 0.1, "n": 3, "s": "{}", "none": None}, rows=rows, tags=["t"]),
        track("b", status="FAILED", goals={"x": "maximize"}, rows=[{"x": 1}]),
        track("c", params={"lr": 1, "m": {"d": {"e": [1]}}}, rows=rows[:1], tags={"u": "v"}),
        track("d", rows=[{"loss": math.nan}, {"acc": math.inf}, {"acc": 1}], status="KILLED"),
        track("e", params={f"p{i}": "x" * 900 for i in range(100)}),
    ]
    table, left = in_bulk(*runs)
    assert left == []
    assert columns(table) == columns(RunTable.of([RunRecord(run.path) for run in runs]))


def test_a_run_that_is_being_written_or_was_left_alone_is_passed_over(track, killed, edit):
    whole = track("whole", rows=[{"loss": 1.0}])
    writing = track("open", rows=[{"loss": 1.0}], status=None)
    short = track("undigested", rows=[{"loss": 1.0}])
    summary = json.loads((short.path / "summary.json").read_text())
    edit(short, history=summary["history"] | {"digested_bytes": 0})
    table, left = in_bulk(whole, writing, RunRecord(killed), short)
    assert table.column("name") == ["whole"]
    assert left == [1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tags": ["a"]}, {"tags": None}, {"metrics": "none"}, {"metrics": {"loss": 3}},
        {"metrics": {"loss": {"last": "a"}}}, {"metrics": {"loss": {"last": None}}},
        {"metrics": {"loss": {"goal": 3}}}, {"history": 3}, {"goals": 3}, {"attempts": {}},
        {"history": {"digested_bytes": "9", "bytes": 3}}, {"format": 2}, {"format": None},
        {"status": "running"}, {"status": ["finished"]}, {"created_at": 17}, {"id": None},
        {"notes": 3}, {"imported_from": "mlflow"},
    ],
)  # fmt: skip
def test_a_summary_of_wrong_kinds_is_passed_over(track, edit, wrong):
    run = track("a", params={"lr": 1}, rows=[{"loss": 1.0}])
    edit(run, **wrong)
    assert in_bulk(run)[1] == [0]


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "\0" * 99, ' {"a": 1}', '{"a": NaN}'])
@pytest.mark.parametrize("file", ["params.json", "summary.json"])
def test_a_document_that_is_no_plain_object_is_passed_over(track, damage, file, text):
    run = track("a", params={"lr": 1})
    damage(run, text, file)
    assert in_bulk(run)[1] == [0]


def test_files_that_are_none_are_passed_over_without_waiting(track, tmp_path):
    (tmp_path / "damaged").touch()
    link, pipe, folder, gone, corrected, large = (track(name) for name in "abcdef")
    (link.path / "params.json").rename(tmp_path / "params.json")
    (link.path / "params.json").symlink_to(tmp_path / "params.json")
    os.unlink(pipe.path / "summary.json")
    os.mkfifo(pipe.path / "summary.json")
    os.unlink(folder.path / "params.json")
    (folder.path / "params.json").mkdir()
    os.unlink(gone.path / "summary.json")
    (corrected.path / "amendments").mkdir()
    os.truncate(large.path / "params.json", 2**40)
    runs = (link, pipe, folder, gone, corrected, large)
    assert in_bulk(*runs)[1] == list(range(len(runs)))


def test_what_changed_only_just_now_is_not_to_be_kept(track):
    run = track("a")
    changed = max((run.path / f).stat().st_ctime_ns for f in ("params.json", "summary.json"))
    segments = [in_bulk(run, settled_before=changed + more)[0]._segments[0] for more in (0, 1)]
    assert [bool(segment.values("#stamp")[0]) for segment in segments] == [False, True]


def test_a_process_answers_with_what_it_has_read(track):
    runs = [track("a", params={"lr": 1}), track("b", status=None), track("é", params={"lr": 2})]
    base = f"{runs[0].path.parent}/"
    with Helper("bulk", base, str(FAR_AHEAD), "a", "b", "é") as helper:
        data = helper.answer()
    answer = to_answer(data, 3)
    assert answer.left == [1]
    assert list(answer.segment.values("#key")) == ["a", "é"]
    assert list(answer.segment.values("params.lr")) == [1, 2]
    assert to_answer(data, 4) is None  # as from another version of this package


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[]\n", b"[]\nnonsense", b"\n\n", b"3\n"])
def test_what_is_no_answer_is_none(data):
    assert to_answer(data, 0) is None


def test_a_reading_process_imports_little():
    code = (
        "import sys, experiment_tracking.registry.index.bulk\n"
        "heavy = {'numpy', 'pandas', 'subprocess', 'experiment_tracking.registry.record'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
