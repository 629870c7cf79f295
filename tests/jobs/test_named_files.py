"""Which words of a command line are data, and how they are kept as inputs."""

import pytest

from experiment_tracking.jobs import named_files
from experiment_tracking.jobs.command import take_apart
from experiment_tracking.jobs.named_files import log_named_files, written_since


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "work"
    (folder / "data").mkdir(parents=True)
    (folder / "empty").mkdir()
    for name in ("go.py", "helper.py", "x.csv", "data/y.csv"):
        (folder / name).write_text("12")
    return folder


@pytest.fixture
def log(make, folder):
    """Log what a command line names; return it, and the inputs of the run by their names."""
    runs = []

    def log(*words, recorded=()):
        runs.append(make("lab").start_run())
        command = take_apart(["python", "go.py", *map(str, words)], str(folder))
        logged = log_named_files(runs[-1], command, recorded, str(folder))
        inputs = runs[-1]._writer.inputs.value["inputs"]
        return logged, {entry["name"]: entry for entry in inputs}

    yield log
    for run in runs:
        run.end_run()


def test_files_and_folders_are_kept_by_the_words_that_name_them(log, folder):
    _, inputs = log("x.csv", "--data=data", "--far", folder / "data" / "y.csv")
    assert list(inputs) == ["x.csv", "data", str(folder / "data" / "y.csv")]
    assert [entry["kind"] for entry in inputs.values()] == ["file", "folder", "file"]
    assert all(entry["sha256"] for entry in inputs.values())


@pytest.mark.parametrize("word", ["helper.py", ".", "..", "/", "empty", "missing.csv", "", "--x="])
def test_code_and_folders_around_the_work_are_no_data(log, word):
    assert log(word) == ({}, {})


def test_the_folder_of_the_runs_is_no_data(log, root):
    assert log(root) == ({}, {})


def test_what_is_very_large_is_kept_without_a_hash(log, monkeypatch):
    monkeypatch.setattr(named_files, "_MOST_BYTES", 1)
    _, inputs = log("x.csv")
    assert (inputs["x.csv"]["size_bytes"], inputs["x.csv"]["sha256"]) == (2, None)


def test_recorded_words_name_what_links_lead_to(log, folder, tmp_path):
    (folder / "link.csv").symlink_to(folder / "x.csv")
    _, inputs = log("link.csv", recorded=["python", "go.py", "/old/x.csv"])
    assert inputs["/old/x.csv"]["path"] == str(folder / "x.csv")


@pytest.mark.parametrize("change", ["grow", "remove"])
def test_what_was_written_since_is_found(log, folder, change):
    logged, _ = log("x.csv", "data")
    assert written_since(logged) == []
    if change == "grow":
        (folder / "x.csv").write_text("123")
    else:
        (folder / "x.csv").unlink()
    assert written_since(logged) == ["x.csv"]
