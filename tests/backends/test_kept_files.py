"""What is listed file by file is given as what was logged: a file, a folder, a model."""

import json
import threading

import pytest

from experiment_tracking.backends.kept_files import kept_files, known_of_model, newest_save
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
    published = entry("models/net/model.json", "net", sha256="b")
    [kept], _ = kept_files([weights, published])
    assert kept.last["path"] == "models/net/model.json"
    # By what it publishes: files of earlier saves come and go.
    assert kept.mark == kept_files([published])[0][0].mark


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


# Models -------------------------------------------------------------------------------------------


def save(folder, number):
    """Save a model as a run does; of earlier saves the last one stays."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"weights-{number:06d}.bin"
    (folder / name).write_text("x" * (number + 1))
    document = {"step": number, "files": {"weights": {"file": name, "size_bytes": number + 1}}}
    earlier = json.loads((folder / "model.json").read_text()) if number else {}
    earlier.pop("earlier", None)
    (folder / "new").write_text(json.dumps(document | {"earlier": [earlier]}))
    (folder / "new").replace(folder / "model.json")
    (folder / f"weights-{number - 2:06d}.bin").unlink(missing_ok=True)


def published(folder, **changed):
    """Change what model.json says of the weights."""
    document = json.loads((folder / "model.json").read_text())
    document["files"]["weights"] |= changed
    (folder / "model.json").write_text(json.dumps(document))


def content(folder):
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_the_newest_save_of_a_model_is_given_alone(tmp_path):
    for number in range(3):
        save(tmp_path / "net", number)
    with newest_save(str(tmp_path / "net"), str(tmp_path / "above")) as (path, document):
        assert path == tmp_path / "above" / "net"
        files = content(path)
        assert document["step"] == 2
    assert files.keys() == {"model.json", "weights-000002.bin"}
    assert json.loads(files["model.json"]) == document
    assert "earlier" not in document
    assert not (tmp_path / "above").exists()


def test_what_is_given_stays_while_the_model_is_saved_again(tmp_path):
    save(tmp_path / "net", 0)
    with newest_save(str(tmp_path / "net"), str(tmp_path / "above")) as (path, _):
        before = content(path)
        for number in range(1, 5):
            save(tmp_path / "net", number)
        assert content(path) == before


def test_a_model_that_is_saved_meanwhile_is_one_save_or_the_other(tmp_path):
    save(tmp_path / "net", 0)
    over = threading.Event()

    def save_on():
        number = 1
        while not over.is_set():
            save(tmp_path / "net", number)
            number += 1

    thread = threading.Thread(target=save_on)
    thread.start()
    try:
        for _ in range(300):
            with newest_save(str(tmp_path / "net"), str(tmp_path / "above")) as (path, document):
                step = document["step"]
                files = content(path)
                assert files.keys() == {"model.json", f"weights-{step:06d}.bin"}
                assert len(files[f"weights-{step:06d}.bin"]) == step + 1
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("../secret", "expected a file beside it"), ("a/b", "expected a file beside it"),
     ("", "expected a file beside it"), (7, "expected a file beside it"),
     ("weights-000009.bin", "is gone, which model.json names")],
)  # fmt: skip
def test_a_model_that_names_what_is_not_there_is_refused(name, reason, tmp_path):
    (tmp_path / "secret").write_text("x")
    save(tmp_path / "net", 0)
    published(tmp_path / "net", file=name)
    with (
        pytest.raises(DamagedError, match=reason),
        newest_save(str(tmp_path / "net"), str(tmp_path / "above")),
    ):
        pass
    assert not (tmp_path / "above").exists()


@pytest.mark.parametrize("document", ["{", "[]", "{}", '{"files": [1]}', '{"files": {"a": 1}}'])
def test_a_model_json_that_is_none_is_refused(document, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.json").write_text(document)
    with (
        pytest.raises(DamagedError),
        newest_save(str(tmp_path / "net"), str(tmp_path / "above")),
    ):
        pass


def test_weights_of_another_size_or_behind_a_link_are_refused(tmp_path):
    save(tmp_path / "net", 0)
    weights = tmp_path / "net" / "weights-000000.bin"
    for change, reason in ((lambda: weights.write_text("more"), "4 bytes that are not the 1"),
                           (lambda: weights.unlink() or weights.symlink_to("/etc/passwd"),
                            "is a link")):  # fmt: skip
        change()
        with (
            pytest.raises(DamagedError, match=reason),
            newest_save(str(tmp_path / "net"), str(tmp_path / "above")),
        ):
            pass


def test_the_name_a_model_is_registered_by_is_told_with_its_metadata():
    document = {"metadata": {"epoch": 2}, "step": 5, "registered_model_name": "digits"}
    told = known_of_model(document)
    assert told == {"metadata": {"epoch": 2, "registered_model_name": "digits"}, "step": 5}
    document["metadata"] = {"registered_model_name": "by hand"}
    assert known_of_model(document)["metadata"] == {"registered_model_name": "by hand"}
    assert known_of_model({}) == {"metadata": {}, "step": None}


def test_a_models_folder_that_is_a_link_is_refused(tmp_path):
    save(tmp_path / "outside", 0)
    (tmp_path / "run" / "models").mkdir(parents=True)
    (tmp_path / "run" / "models" / "net").symlink_to(tmp_path / "outside")
    [kept], _ = kept_files([entry("models/net/model.json", "net")])
    with pytest.raises(DamagedError, match="behind a link"):
        kept.newest_save(RunFolder(tmp_path / "run"), str(tmp_path / "above"))
