"""Every kind of damage is found once, named with its place, and mended only on request."""

import errno
import json
import os
from pathlib import Path

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.errors import RootNotFoundError
from experiment_tracking.folder import io
from experiment_tracking.folder.check import check
from experiment_tracking.folder.liveness import Heartbeat

HISTORY = "metrics_history.json"


def make_run(root, name="r"):
    tracker = ExperimentTracker("p", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run(name, {"lr": 0.1}) as run:
        for step in range(3):
            run.log_metrics({"loss": 1 / (step + 1)}, step=step)
        run.log_param("lr", 0.2)
        run.log_text("hello", "note")
        run.log_model({"w": [1.5, 2.5]}, "net")
        (run.path / "figures").mkdir()
    return run.path


@pytest.fixture
def root(tmp_path):
    return tmp_path / "experiments"


@pytest.fixture
def run(root):
    """Folder of one finished run."""
    return make_run(root)


def found(place):
    """Kinds and files of the problems, relative to the run ``p/r``."""
    problems = check(place)
    for problem in problems:
        assert problem.message
        assert problem.path not in problem.message
        assert problem.fixed is None
    return [(p.kind, p.path.partition("/p/r/")[2]) for p in problems]


def crash(run):
    """Make a finished run one whose writer died without a word."""
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"status": "running", "history": {"digested_bytes": 0, "rows": 0}, "metrics": {}}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "heartbeat.json").unlink()


def change_json(file, change):
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def state_of(root):
    return {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in root.rglob("*")
    }


# ---------------------------------------------------------------------- what is looked at


def test_a_sound_run_has_no_problems_however_it_is_named(root, run):
    assert check(root) == check(root / "p") == check(str(run)) == []


@pytest.mark.parametrize("place", ["", "p", "p/r"])
def test_root_project_and_run_are_all_looked_over(place, root, run):
    make_run(root, "other")
    (run / "params.json").unlink()
    assert found(root / place) == [("missing", "params.json")]


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(RootNotFoundError, match="nowhere"):
        check(tmp_path / "nowhere")


def test_one_damaged_run_does_not_hide_another(root, run):
    other = make_run(root, "another")
    (run / "summary.json").write_text("{")
    (other / "params.json").write_bytes(bytes(7))
    assert [Path(p.path).parent.name for p in check(root)] == ["another", "r"]


def test_looking_changes_nothing(root, run):
    (run / HISTORY).write_bytes((run / HISTORY).read_bytes()[:-20])
    (run / "summary.json").write_text("{")
    (run / "artifacts" / "note.txt").write_text("other")
    before = state_of(root)
    assert check(root)
    assert state_of(root) == before


def test_a_run_being_written_has_no_problems(root):
    tracker = ExperimentTracker("p", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("r") as run:
        run.log_metrics({"loss": 1.0}, step=0)
        with (run.path / HISTORY).open("r+b") as file:
            file.seek(-3, os.SEEK_END)
            file.write(b',\n{"step":1,"ti')
        (run.path / ".a.tmp").write_text("on its way")
        assert check(root) == check(root, fix=True) == []
        (run.path / ".a.tmp").unlink()
        run.log_metrics({"loss": 0.5}, step=1)
    assert check(root) == []


# ---------------------------------------------------------------------- histories


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda data: data[:-1].removesuffix(b"\n]"), "torn"),
        (lambda data: data[:-20], "torn"),
        (lambda data: data + bytes(100), "torn"),
        (lambda data: b"", "torn"),
        (lambda data: data.replace(b'"step":1', b'"st\0p":1'), "damaged"),
        (lambda data: data.replace(b",\n", b",\n\0\0\n", 1), "damaged"),
        (lambda data: data.replace(b"0.5", b"0.7"), "changed"),
        (lambda data: data.replace(b",\n", b", "), "changed"),
    ],
)
def test_a_spoilt_history_is_one_problem(spoil, kind, run):
    (run / HISTORY).write_bytes(spoil((run / HISTORY).read_bytes()))
    assert found(run) == [(kind, HISTORY)]


def test_a_crashed_run_is_checked_as_well(run):
    crash(run)
    assert found(run) == []
    (run / HISTORY).write_bytes((run / HISTORY).read_bytes()[:-20])
    assert found(run) == [("torn", HISTORY)]


def test_a_history_that_is_gone_is_missing(run):
    (run / HISTORY).unlink()
    assert found(run) == [("missing", HISTORY)]


def test_the_history_of_a_rank_is_checked(run):
    (run / "metrics_history.1.json").write_text('[\n{"step":0,"time":1.0,"rank":"1","a":2')
    assert found(run) == [("torn", "metrics_history.1.json")]


def test_a_digest_that_does_not_fit_the_rows_is_found(run):
    change_json(run / "summary.json", lambda s: s["metrics"]["loss"].update(min=0.1))
    assert found(run) == [("digest", "summary.json")]
    assert "loss" in check(run)[0].message


# ---------------------------------------------------------------------- documents


@pytest.mark.parametrize("name", ["summary.json", "params.json"])
def test_a_needed_document_that_is_gone_is_missing(name, run):
    (run / name).unlink()
    assert found(run) == [("missing", name)]


@pytest.mark.parametrize("data", [b"", bytes(64), b"{", b"[]", b'{"a": "\xff"}'])
@pytest.mark.parametrize(
    "name", ["summary.json", "params.json", "environment.json", "amendments/000001.json"]
)
def test_a_document_that_is_no_object_is_damaged(name, data, run):
    (run / name).write_bytes(data)
    assert found(run) == [("damaged", name)]


@pytest.mark.parametrize("change", [{"by": None}, {"kind": "tag", "new": 3}, {"kind": "metric"}])
def test_an_amendment_with_a_wrong_part_is_damaged(change, run):
    change_json(run / "amendments" / "000001.json", lambda amendment: amendment.update(change))
    assert found(run) == [("damaged", "amendments/000001.json")]


def test_a_file_in_the_place_of_the_amendments_is_a_problem(run):
    (run / "amendments" / "000001.json").unlink()
    (run / "amendments").rmdir()
    assert found(run) == []
    (run / "amendments").write_text("")
    assert found(run) == [("unreadable", "amendments")]


def test_a_list_of_artifacts_that_cannot_be_read_is_one_problem(run):
    for text in ("", '{"artifacts": 3}', '{"artifacts": [3]}'):
        (run / "artifacts.json").write_text(text)
        assert found(run) == [("damaged", "artifacts.json")]


@pytest.mark.parametrize("key", ["metrics", "tags", "history", "goals", "attempts", "status"])
def test_a_summary_with_a_part_of_another_kind_is_damaged(key, run):
    change_json(run / "summary.json", lambda s: s.update({key: 7}))
    assert found(run) == [("damaged", "summary.json")]


@pytest.mark.parametrize("number", [2, -1, "1", True, 1.0])
def test_a_format_that_is_not_known_is_left_alone(number, run):
    change_json(run / "summary.json", lambda s: s.update(format=number))
    (run / HISTORY).write_text("as that format has it")
    assert found(run) == [("format", "summary.json")]
    assert check(run, fix=True) == check(run)


def test_a_summary_without_format_is_format_0_and_sound(run):
    change_json(run / "summary.json", lambda s: s.pop("format"))
    assert check(run) == []


# ---------------------------------------------------------------------- kept files


def test_a_kept_file_that_is_gone_is_missing(run):
    (run / "artifacts" / "note.txt").unlink()
    assert found(run) == [("missing", "artifacts/note.txt")]


def test_a_kept_file_with_other_bytes_is_changed(run):
    (run / "artifacts" / "note.txt").write_text("hallo")
    assert found(run) == [("changed", "artifacts/note.txt")]


@pytest.mark.parametrize("path", ["../../x", "/etc/passwd", "artifacts/../..", "", 3, "a\0b"])
def test_a_path_that_leads_out_of_the_run_is_damage(path, run):
    change_json(run / "artifacts.json", lambda a: a["artifacts"].append({"path": path}))
    expected = ("missing", "3") if path == 3 else ("damaged", "artifacts.json")
    assert found(run) == [expected]


@pytest.mark.parametrize(
    "name", [HISTORY, "summary.json", "params.json", "artifacts.json", "artifacts/note.txt"]
)
def test_a_link_in_a_files_place_is_damage(name, run, tmp_path):
    os.replace(run / name, tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    assert found(run) == [("damaged", name)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("name", [HISTORY, "params.json", "artifacts/note.txt"])
def test_a_pipe_in_a_files_place_is_damage(name, run):
    (run / name).unlink()
    os.mkfifo(run / name)
    assert found(run) == [("damaged", name)]


def test_a_linked_folder_is_damage(run, tmp_path):
    os.replace(run / "artifacts", tmp_path / "elsewhere")
    (run / "artifacts").symlink_to(tmp_path / "elsewhere")
    assert found(run) == [("damaged", "artifacts")]


@pytest.mark.parametrize("name", [HISTORY, "summary.json", "artifacts/note.txt"])
def test_a_file_that_the_disk_does_not_give_is_unreadable(name, run, monkeypatch):
    bad = os.stat(run / name)

    def pread(fd, length, offset):
        if os.path.samestat(os.fstat(fd), bad):
            raise OSError(errno.EIO, "Input/output error")
        return os.pread(fd, length, offset)

    monkeypatch.setattr(io, "pread", pread)
    assert found(run) == [("unreadable", name)]
    assert check(run)[0].message == "cannot be read now: Input/output error"


@pytest.mark.parametrize("name", ["p", "p/r", "p/r/summary.json"])
def test_what_may_not_be_read_is_unreadable(name, root, run):
    (root / name).chmod(0)
    if os.access(root / name, os.R_OK):
        pytest.skip("this user may read everything")
    try:
        assert [(p.kind, p.path) for p in check(root)] == [("unreadable", str(root / name))]
    finally:
        (root / name).chmod(0o700)


# ---------------------------------------------------------------------- leftovers


def test_a_folder_whose_opening_was_interrupted_is_left_over(root, run):
    for place, where in [("p/opened", root), ("p/opened", root / "p"), ("q/opened", root)]:
        (root / place).mkdir(parents=True)
        assert [(p.kind, p.path) for p in check(where)] == [("leftover", str(root / place))]
        (root / place).rmdir()


def test_a_run_that_is_being_opened_is_not_left_over(root, run):
    (root / "p" / "opening").mkdir()
    (root / "p" / "opening" / HISTORY).write_text("[\n]\n")
    assert [p.kind for p in check(root)] == ["leftover"]
    Heartbeat(str(root / "p" / "opening" / "heartbeat.json")).beat()
    assert check(root) == []


@pytest.mark.parametrize("place", ["", "artifacts", "models/net", "figures", "amendments", "code"])
def test_a_write_that_never_ended_is_left_over(place, run):
    (run / place).mkdir(exist_ok=True)
    (run / place / ".params.json.4711.0a1b.tmp").write_text("{")
    assert found(run) == [("leftover", f"{place}/.params.json.4711.0a1b.tmp".lstrip("/"))]


@pytest.mark.parametrize("place", ["artifacts/x.csv", "figures/x.png", "models/net/x.safetensors"])
def test_a_file_that_nobody_listed_is_left_over(place, run):
    (run / place).write_text("x")
    assert found(run) == [("leftover", place)]


def test_a_listed_file_may_have_the_name_of_an_unfinished_one(root, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".odd.tmp").write_text("mine")
    with ExperimentTracker("p", "r", root=root, auto_log=False) as tracker:
        tracker.log_artifact(tmp_path / "folder")
    assert check(root) == []


# ---------------------------------------------------------------------- mending


def spoil(run):
    data = (run / HISTORY).read_bytes()
    (run / HISTORY).write_bytes(data.replace(b'"step":1', b'"st\0p":1')[:-2] + bytes(9))
    return (run / HISTORY).read_bytes()


def test_mending_keeps_every_whole_row_and_the_old_file(run):
    crash(run)
    spoilt, before = spoil(run), state_of(run)
    [problem] = check(run, fix=True)
    assert (problem.kind, problem.path) == ("damaged", str(run / HISTORY))
    assert f"{HISTORY}.damaged-1" in problem.fixed
    with (run / HISTORY).open() as file:
        assert [row["step"] for row in json.load(file)] == [0, 2]
    assert (run / f"{HISTORY}.damaged-1").read_bytes() == spoilt
    after = state_of(run)
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed == {HISTORY, f"{HISTORY}.damaged-1"}
    assert check(run) == []


def test_mended_again_the_older_file_stays(run):
    crash(run)
    first = spoil(run)
    check(run, fix=True)
    (run / HISTORY).write_bytes(b"")
    check(run, fix=True)
    assert (run / f"{HISTORY}.damaged-1").read_bytes() == first
    assert (run / f"{HISTORY}.damaged-2").read_bytes() == b""
    assert json.loads((run / HISTORY).read_text()) == []


def test_a_torn_end_behind_all_rows_is_mended_without_loss(run):
    whole = (run / HISTORY).read_bytes()
    (run / HISTORY).write_bytes(whole[:-2] + bytes(512))
    assert [p.kind for p in check(run, fix=True)] == ["torn"]
    assert (run / HISTORY).read_bytes() == whole
    assert check(run) == []


def test_a_row_that_an_ended_run_has_lost_is_named_after_mending_too(run):
    spoil(run)
    check(run, fix=True)
    assert found(run) == [("changed", HISTORY)]


def test_a_sound_run_is_not_touched_by_mending(root, run):
    before = state_of(root)
    assert check(root, fix=True) == []
    assert state_of(root) == before


def test_a_ranks_history_is_mended_once_it_has_been_silent_for_long(run):
    file = run / "metrics_history.1.json"
    file.write_text('[\n{"step":0,"time":1.0,"rank":"1","a":2}')
    assert check(run, fix=True)[0].fixed is None
    os.utime(file, (1e9, 1e9))
    assert check(run, fix=True)[0].fixed
    assert check(run) == []


def test_a_disk_that_refuses_leaves_the_history_as_it_is(run, monkeypatch):
    spoilt = spoil(run)

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(io, "write_all", full)
    [problem] = check(run, fix=True)
    assert problem.fixed is None
    assert "No space left" in problem.message
    assert (run / HISTORY).read_bytes() == spoilt
    assert not list(run.glob("*.damaged-*"))


# ---------------------------------------------------------------------- copies elsewhere


@pytest.fixture
def mirror(run):
    """State document of a mirror, beside its claims and the files of its backend."""
    inner = run / "backends" / "wandb" / "offline-run-1"
    inner.mkdir(parents=True)
    (inner / "run-1.wandb").write_text("log")
    (inner.parent / "latest-run").symlink_to(inner)
    (inner / ".upload.tmp").write_text("its own")
    for name in ("wandb.claim-000001", "wandb.claim-000002"):
        (run / "backends" / name).write_text("{}\n")
    file = run / "backends" / "wandb.json"
    file.write_text('{"offset": 1, "rows": 0, "complete": false, "files": {}, "later": 1}')
    return file


def test_mirrors_their_claims_and_what_backends_keep_are_no_problems(run, mirror):
    assert check(run) == []
    crash(run)
    assert check(run) == []


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"offset": "1"}', '{"files": []}', '{"complete": 1}', '{"rows": true}']
)
def test_a_damaged_state_of_a_mirror_is_found_in_a_running_run_too(content, run, mirror):
    mirror.write_text(content)
    assert found(run) == [("damaged", "backends/wandb.json")]
    summary = json.loads((run / "summary.json").read_text()) | {"status": "running"}
    (run / "summary.json").write_text(json.dumps(summary))
    assert found(run) == [("damaged", "backends/wandb.json")]


def test_a_write_of_a_mirror_that_never_ended_is_left_over(run, mirror):
    (run / "backends" / ".wandb.json.4711.0a1b.tmp").write_text("{")
    assert found(run) == [("leftover", "backends/.wandb.json.4711.0a1b.tmp")]
