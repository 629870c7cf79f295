import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.backends.events import write_again
from experiment_tracking.backends.tensorboard import TensorBoardBackend
from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.digest import merged_rows
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.folder.layout import RunFolder

pytest.importorskip("tensorboard", reason="pip install 'experiment_tracking[tensorboard]'")


def events_in(folder):
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    paths = sorted(Path(folder).glob("events*"))
    return [event for path in paths for event in LegacyEventFileLoader(str(path)).Load()]


def values_in(folder):
    """Mapping of tag to (step, wall time, what it is) in the order of the files."""
    found = {}
    for event in events_in(folder):
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            found.setdefault(value.tag, []).append((event.step, event.wall_time, kind))
    return found


def scalars_in(folder):
    return {
        tag: [step for step, _, kind in values]
        for tag, values in values_in(folder).items()
        if {kind for _, _, kind in values} == {"simple_value"}
    }


def steps_of(folder):
    """What the scalars should be, from the history."""
    steps = {}
    for row in merged_rows(HistoryReader(folder.history()).rows()):
        for name in row.keys() - {"step", "time", "attempt"}:
            steps.setdefault(name, []).append(row["step"])
    return steps


@pytest.fixture
def resumed(root):
    """A run with all that can be shown, which went back over steps in a further attempt."""
    run = ExperimentTracker("p", root=root, auto_log=False).start_run("r", config={"lr": 0.1})
    for step in range(20):
        run.log_metrics({"loss": step, "acc": step / 20}, step=step)
    for step in range(3):
        run.log_image([[0.5]], "picture", step=step)
    run.log_histogram([1, 2, 3], "weights", step=1)
    run.log_text("some words", "notes", step=2)
    run.end_run("failed")
    again = ExperimentTracker("p", "r", root=root, auto_log=False, resume="must")
    again.log_image([[0.1]], "picture", step=0)
    for step in range(15, 25):
        again.log_metrics({"loss": -step}, step=step)
    again.finish()
    return RunFolder(run.path)


def test_everything_of_a_run_is_written_again_without_what_was_superseded(resumed):
    for file in os.scandir(resumed.tensorboard):
        os.unlink(file)
    assert write_again(resumed) == len(merged_rows(HistoryReader(resumed.history()).rows()))
    assert scalars_in(resumed.tensorboard) == steps_of(resumed)
    assert steps_of(resumed)["loss"] == list(range(25))
    values = values_in(resumed.tensorboard)
    assert [step for step, _, _ in values["weights"]] == [1]
    assert [step for step, _, _ in values["notes"]] == [2]
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info"} < values.keys()


def test_a_picture_that_was_logged_again_hides_no_later_one(resumed):
    entries = json.loads(Path(resumed.artifact_list).read_text())["artifacts"]
    listed = [entry["step"] for entry in entries if entry["name"] == "picture"]
    assert listed == [1, 2, 0]
    write_again(resumed)
    shown = values_in(resumed.tensorboard)["picture"]
    assert [step for step, _, _ in shown] == [0, 1, 2]
    assert all(wall_time > 1e9 for _, wall_time, _ in shown)


def test_writing_twice_changes_nothing(resumed):
    write_again(resumed)
    once = values_in(resumed.tensorboard)
    write_again(resumed)
    assert values_in(resumed.tensorboard) == once


def test_a_folder_elsewhere_can_take_the_files(resumed, tmp_path):
    before = {file.name for file in os.scandir(resumed.tensorboard)}
    write_again(resumed, str(tmp_path / "copy"))
    assert scalars_in(tmp_path / "copy") == steps_of(resumed)
    assert {file.name for file in os.scandir(resumed.tensorboard)} == before


def test_every_row_is_written_where_the_run_itself_thinned_them(root):
    tracker = ExperimentTracker("p", root=root, auto_log=False)
    with tracker.start_run("fast") as run:
        for step in range(20_000):
            run.log_metrics({"loss": step}, step=step)
    folder = RunFolder(run.path)
    assert len(scalars_in(folder.tensorboard)["loss"]) < 20_000
    assert write_again(folder) == 20_000
    assert scalars_in(folder.tensorboard)["loss"] == list(range(20_000))


def test_a_killed_run_is_written_with_all_its_rows_as_one_that_failed(root):
    script = """
import os, signal, sys
from experiment_tracking import ExperimentTracker
run = ExperimentTracker("p", root=sys.argv[1], auto_log=False).start_run("r", config={"lr": 1})
for step in range(300):
    run.log_metrics({"loss": step}, step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = RunFolder(root / "p" / "r")
    assert write_again(folder) == 300
    assert scalars_in(folder.tensorboard) == {"loss": list(range(300))}
    assert status_in(folder.tensorboard) == 2


def status_in(folder):
    from tensorboard.plugins.hparams import metadata

    (end,) = (
        value.metadata.plugin_data.content
        for event in events_in(folder)
        for value in event.summary.value
        if value.tag == metadata.SESSION_END_INFO_TAG
    )
    return metadata.parse_session_end_info_plugin_data(end).status


def test_a_disk_that_refuses_leaves_the_old_files_as_they_are(resumed):
    resource = pytest.importorskip("resource", reason="no file size limits on this system")
    before = values_in(resumed.tensorboard)
    names = {file.name for file in os.scandir(resumed.tensorboard)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_again(resumed)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert values_in(resumed.tensorboard) == before
    assert {file.name for file in os.scandir(resumed.tensorboard)} == names


def test_what_a_killed_writer_left_unfinished_goes_with_the_old_files(resumed):
    left = os.path.join(resumed.tensorboard, ".unfinished.1.host.2.3")
    with open(left, "wb"):
        os.utime(left, (1, 1))
    write_again(resumed)
    assert not os.path.exists(left)


def test_a_run_without_rows_params_or_files_has_no_event_file(tmp_path):
    folder = RunFolder(tmp_path / "p" / "r")
    assert write_again(folder) == 0
    assert os.listdir(folder.tensorboard) == []


def test_files_that_are_gone_or_damaged_are_left_out(resumed):
    (histogram,) = (file for file in os.scandir(resumed.artifacts) if "weights" in file.name)
    with open(histogram, "w") as file:
        file.write("no histogram")
    (text,) = (file for file in os.scandir(resumed.artifacts) if "notes" in file.name)
    os.unlink(text)
    kept = text.path
    write_again(resumed)
    values = values_in(resumed.tensorboard)
    assert values.keys() & {"weights", "notes", "picture"} == {"picture"}
    mend(histogram.path, kept, resumed)


def mend(histogram, text, folder):
    """Take the two files off the list, so that everything is in order again."""
    document = json.loads(Path(folder.artifact_list).read_text())
    gone = {os.path.basename(histogram), os.path.basename(text)}
    document["artifacts"] = [
        entry for entry in document["artifacts"] if os.path.basename(entry["path"]) not in gone
    ]
    os.unlink(histogram)
    with open(folder.artifact_list, "w") as file:
        json.dump(document, file)


def test_a_damaged_summary_is_told(tmp_path):
    folder = RunFolder(tmp_path / "p" / "r")
    os.makedirs(folder.path)
    with open(folder.summary, "w") as file:
        file.write("{")
    with pytest.raises(DamagedError, match=r"summary\.json"):
        write_again(folder)


def write_history(folder, rows):
    os.makedirs(folder.path)
    with open(folder.history(), "w") as file:
        lines = (
            f'{{"step":{step},"time":{step}.5,"loss":{step / 7},"accuracy":0.5}}'
            for step in range(rows)
        )
        file.write("[\n" + ",\n".join(lines) + "\n]\n")


def test_a_history_of_many_pieces_is_read_in_bounded_memory(tmp_path):
    folder = RunFolder(tmp_path / "p" / "long")
    write_history(folder, 40_000)
    assert os.path.getsize(folder.history()) > 2e6
    tracemalloc.start()
    try:
        assert write_again(folder) == 40_000
        assert tracemalloc.get_traced_memory()[1] < 7e6
    finally:
        tracemalloc.stop()
    assert scalars_in(folder.tensorboard)["loss"] == list(range(40_000))


@pytest.mark.parametrize("indent", [None, 2])
def test_a_history_that_somebody_laid_out_anew_is_read(tmp_path, indent):
    folder = RunFolder(tmp_path / "p" / "r")
    write_history(folder, 100)
    rows = json.loads(Path(folder.history()).read_text())
    with open(folder.history(), "w") as file:
        json.dump(rows, file, indent=indent)
    assert write_again(folder) == 100


def test_the_event_files_of_a_run_say_that_they_hold_all_of_it(root):
    with ExperimentTracker("p", root=root, auto_log=False).start_run("r") as run:
        run.log_metrics({"loss": 1.0}, step=0)
    version, restart, *_ = events_in(run.path / "tensorboard")
    assert version.file_version == "brain.Event:2"
    assert (restart.session_log.status, restart.step) == (1, -(2**63))


def test_a_backend_in_the_same_folder_is_replaced_too(tmp_path):
    folder = RunFolder(tmp_path / "p" / "r")
    write_history(folder, 3)
    backend = TensorBoardBackend(folder.tensorboard)
    backend.start_run("r")
    backend.log_metrics({"loss": 5.0}, 9)
    backend.close()
    write_again(folder)
    assert scalars_in(folder.tensorboard)["loss"] == [0, 1, 2]
