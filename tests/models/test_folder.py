import os

import pytest

from experiment_tracking.errors import DamagedError
from experiment_tracking.models.folder import ModelFolder


@pytest.fixture
def folder(tmp_path):
    folder = ModelFolder(str(tmp_path / "root"), "digits")
    folder.make()
    return folder


def make_version(folder, number):
    os.mkdir(folder.version(number))
    with open(os.path.join(folder.version(number), "model.json"), "w") as file:
        file.write("{}")


def test_the_highest_number_is_that_of_any_folder_hidden_ones_and_others_aside(folder):
    assert folder.highest() == 0
    make_version(folder, 9)
    make_version(folder, 12)
    for name in ("x", "13a", "-14", "٥", ".tmp-15"):
        os.mkdir(os.path.join(folder.versions, name))
    assert folder.highest() == 12


def test_what_is_dropped_is_gone_and_links_in_it_are_not_followed(folder, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "weights").write_text("x")
    make_version(folder, 1)
    make_version(folder, 2)
    os.symlink(tmp_path / "precious", os.path.join(folder.version(1), "link"))
    os.symlink(tmp_path / "precious", folder.version(3))
    folder.drop([1, 3, 7])
    assert os.listdir(folder.versions) == ["2"]
    assert (tmp_path / "precious" / "weights").read_text() == "x"


def test_what_killed_processes_left_is_swept_but_not_what_may_be_in_use(folder):
    for name, age_s in ((".tmp-old", 2 * 86400), (".tmp-new", 60), (".deleting-new", 60)):
        path = os.path.join(folder.versions, name)
        os.mkdir(path)
        then = os.stat(path).st_mtime - age_s
        os.utime(path, (then, then))
    made = os.path.basename(folder.make_hidden())
    assert sorted(os.listdir(folder.versions)) == sorted([".tmp-new", made])


@pytest.mark.parametrize("place", ["path", "events", "versions"])
def test_a_link_in_the_place_of_a_folder_of_the_registry_is_refused(folder, place, tmp_path):
    path = getattr(folder, place)
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(DamagedError, match="is a link"):
        folder.check_no_link()
