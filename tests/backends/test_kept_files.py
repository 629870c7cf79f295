"""What is listed file by file is given as what was logged: a file, a folder, a model."""

import pytest

from experiment_tracking.backends.kept_files import kept_files
from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.layout import RunFolder


def entry(path, name, sha256="a", at="2026-11-20T15:30:40.200Z"):
    return {"path": path, "name": name, "sha256": sha256, "size_bytes": 1, "logged_at": at}


def found(*entries):
    return {kept.path: kept.method for kept in kept_files(list(entries))[0]}


def test_files_folders_figures_and_models_go_to_their_methods():
    assert found(
        entry("artifacts/data/a.csv", "data"),
        entry("artifacts/data.json", "data"),
        entry("artifacts/data/deep/b.csv", "data"),
        entry("figures/net/model-000001.png", "net/model"),
        entry("models/net/best/weights-000001.safetensors", "net/best"),
        entry("models/net/best/model.json", "net/best"),
    ) == {
        "artifacts/data": "log_artifact",
        "artifacts/data.json": "log_artifact",
        "figures/net/model-000001.png": "log_figure",
        "models/net/best": "log_model",
    }


def test_a_model_is_there_once_it_is_published():
    weights = entry("models/net/weights-000001.safetensors", "net")
    assert found(weights) == {}
    # Published before in the list, where the weights were saved anew since.
    [kept], _ = kept_files([entry("models/net/model.json", "net"), weights])
    assert kept.last["path"] == "models/net/model.json"


@pytest.mark.parametrize("change", [{"sha256": "b"}, {"at": "2026-11-20T15:30:41.000Z"}])
@pytest.mark.parametrize("path", ["artifacts/data", "artifacts/data/a.csv"])
def test_what_is_logged_again_has_another_mark(path, change):
    first = entry("artifacts/data/b.csv", "data")
    marks = {
        kept_files([first, entry(path, "data", **options)])[0][-1].mark
        for options in ({}, {}, change)
    }
    assert len(marks) == 2


@pytest.mark.parametrize(
    "listed", [None, "x", {"path": "a"}, [3], [{}], [{"path": "../x", "name": "x"}]]
)
def test_a_list_that_is_none_of_ours_gives_nothing(listed):
    assert kept_files(listed)[0] == []


def test_a_file_that_was_changed_or_lost_since_is_told(tmp_path):
    [kept], _ = kept_files([entry("artifacts/x", "x")])
    with pytest.raises(DamagedError, match="artifacts/x is gone"):
        kept.check(RunFolder(tmp_path))
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "x").write_text("1")
    assert kept.check(RunFolder(tmp_path)) == tmp_path / "artifacts" / "x"
    (tmp_path / "artifacts" / "x").write_text("12")
    with pytest.raises(DamagedError, match="has 2 bytes that are not the 1 logged"):
        kept.check(RunFolder(tmp_path))


def test_a_folder_of_the_run_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "artifacts").symlink_to(tmp_path / "outside")
    [kept], _ = kept_files([entry("artifacts/x", "x")])
    with pytest.raises(DamagedError, match="behind a link"):
        kept.check(RunFolder(tmp_path / "run"))
