import os
import stat

import pytest

from experiment_tracking.registry.index import index
from experiment_tracking.registry.index.index import VARIABLE, Index, cache_folder
from experiment_tracking.registry.index.segments import FACTS, Builder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def base(tmp_path):
    """A root with a folder for each run that the tests' segments speak of."""
    for number in range(100):
        (tmp_path / "root" / "p" / str(number)).mkdir(parents=True)
    return str(tmp_path / "root")


def segment(numbers, stamp=1, note=""):
    builder = Builder()
    for number in numbers:
        facts = {"#key": f"p/{number}", "#stamp": stamp and stamp + number, "#more": 0}
        facts["notes"] = note
        builder.add([facts.get(name) for name in FACTS], {"n": number}, {}, {})
    return builder.segment()


def kept(base):
    """What a reader finds: the lengths of the segments, and what they say of each run."""
    segments = Index.of(base).load()
    rows = {}
    for each in segments:
        rows |= dict(zip(each.values("#key"), each.values("params.n"), strict=True))
    return sorted(map(len, segments)), rows


def add(base, *numbers, found=(), stamp=1):
    """Scan the root as if those runs had to be read and no others were looked for."""
    at = Index.of(base)
    at.load()
    at.add([segment(numbers, stamp)], {f"p/{n}" for n in numbers}, set(found))


# ---------------------------------------------------------------------- where it is


@pytest.mark.parametrize("word", ["", "0", "off", "OFF"])
def test_a_word_disables_it(monkeypatch, base, word):
    monkeypatch.setenv(VARIABLE, word)
    assert cache_folder() is None
    assert Index.of(base) is None


def test_it_is_where_the_variables_say(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "here")
    assert cache_folder() == str(tmp_path / "here")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == str(tmp_path / "xdg")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification tells to ignore
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == str(tmp_path / ".cache")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == str(tmp_path / "Library" / "Caches")
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == str(tmp_path / "local")


def test_without_a_home_there_is_none(monkeypatch, base):
    for name in (VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where there is no user
    assert cache_folder() is None
    assert Index.of(base) is None


def test_the_tests_do_not_touch_the_users_own():
    home = os.path.realpath(os.path.expanduser("~"))
    assert not os.path.realpath(cache_folder()).startswith(os.path.join(home, ".cache"))


def test_roots_have_folders_of_their_own_and_links_lead_to_the_same(cache, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "c").symlink_to("a")
    a, b, c = (Index.of(str(tmp_path / name)).folder for name in "abc")
    assert a == c != b


def test_its_folder_is_for_its_user_alone(cache, base):
    folder = Index.of(base).folder
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_is_not_trusted(cache, base, mode):
    add(base, 1)
    os.chmod(Index.of(base).folder, mode)
    assert Index.of(base) is None


def test_a_link_in_its_folders_place_is_not_followed(cache, base, tmp_path):
    folder = Index.of(base).folder
    os.rename(folder, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder)
    assert Index.of(base) is None


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root to give away")
def test_a_folder_of_somebody_else_is_not_trusted(cache, base):
    os.chown(Index.of(base).folder, 12345, -1)
    assert Index.of(base) is None


# ---------------------------------------------------------------------- what is in it


def test_what_was_added_is_there_for_the_next_reader(cache, base):
    add(base, 1, 2)
    add(base, 3)
    assert kept(base) == ([1, 2], {"p/1": 1, "p/2": 2, "p/3": 3})


def test_what_is_not_to_be_kept_makes_no_segment(cache, base):
    add(base, 1, 2, stamp=0)
    assert kept(base) == ([], {})


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None, "cut"])
def test_what_is_no_segment_is_deleted(cache, base, content):
    add(base, 1)
    folder = Index.of(base).folder
    (name,) = os.listdir(folder)
    path = os.path.join(folder, name)
    with open(path, "rb") as file:
        data = file.read()
    content = {None: bytes(len(data)), "cut": data[:-8]}.get(content, content)
    with open(path, "wb") as file:
        file.write(content)
    assert kept(base) == ([], {})
    assert os.listdir(folder) == []


def test_another_versions_segments_lie_elsewhere(cache, base, monkeypatch):
    add(base, 1)
    monkeypatch.setattr(index, "VERSION", "next")
    assert kept(base) == ([], {})


def test_what_a_dead_writer_left_is_deleted_after_an_hour(cache, base):
    folder = Index.of(base).folder
    for name, age_s in ((".old.tmp", 7200), (".new.tmp", 60)):
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(b"x")
        then = os.stat(path).st_mtime - age_s
        os.utime(path, (then, then))
    assert kept(base) == ([], {})
    assert os.listdir(folder) == [".new.tmp"]


def test_a_file_too_large_to_be_a_segment_is_deleted_unread(cache, base):
    folder = Index.of(base).folder
    with open(os.path.join(folder, "large.segment"), "wb") as file:
        file.truncate(2**42)  # of which nothing is on the disk
    assert kept(base) == ([], {})
    assert os.listdir(folder) == []


def test_a_new_roots_index_takes_the_place_of_those_long_unused(cache, base, tmp_path):
    add(base, 1)
    at = Index.of(base).folder
    used, unused, foreign = (os.path.join(os.path.dirname(at), name) for name in "abc")
    for folder in (used, unused, foreign):
        os.mkdir(folder, 0o700)
        open(os.path.join(folder, "x.segment"), "wb").close()
    open(os.path.join(foreign, "x.txt"), "wb").close()
    then = os.stat(at).st_mtime - 100 * 24 * 3600
    for folder in (at, unused, foreign):
        os.utime(folder, (then, then))
    assert kept(base)[0] == [1]  # nothing is deleted where nothing is added
    Index.of(str(tmp_path / "new"))
    new = Index.of(str(tmp_path / "new")).folder
    left = sorted(map(os.path.basename, (used, foreign, new)))
    assert sorted(os.listdir(os.path.dirname(at))) == left
    assert os.listdir(foreign) == ["x.txt"]
    assert kept(base) == ([], {})


def test_rows_that_were_read_again_though_they_look_the_same_take_the_place_of_the_old(cache, base):
    add(base, *range(20))
    add(base, *range(20, 24))
    at = Index.of(base)
    keys = [key for each in at.load() for key in each.values("#key")]
    at.add([segment([3], note="again")], set(keys), set(range(24)) - {keys.index("p/3")})
    rows = []
    for each in Index.of(base).load():
        rows += zip(each.values("#key"), each.values("notes"), strict=True)
    assert len(rows) == 24
    assert [row for row in rows if row[0] == "p/3"] == [("p/3", "again")]


def test_many_small_segments_are_put_together_and_a_large_one_is_left_alone(cache, base):
    add(base, *range(50))
    large = set(os.listdir(Index.of(base).folder))
    for number in range(50, 50 + index._MOST):
        add(base, number)
    sizes, rows = kept(base)
    assert sizes == [index._MOST, 50]
    assert rows == {f"p/{n}": n for n in range(50 + index._MOST)}
    assert large < set(os.listdir(Index.of(base).folder))


def test_segments_of_one_size_are_put_together_too(cache, base):
    for number in range(index._MOST + 1):
        add(base, number)
    assert kept(base)[0] == [index._MOST + 1]


def test_rows_that_are_outdated_go_when_they_are_the_most(cache, base):
    add(base, *range(10))
    add(base, 0, stamp=100)
    assert kept(base)[0] == [1, 10]
    add(base, *range(10), stamp=200)
    assert kept(base)[0] == [10]


def test_rows_of_runs_that_were_not_looked_for_stay(cache, base):
    add(base, *range(5))
    add(base, 5, 6, 7, stamp=100)
    add(base, 5, 6, 7, stamp=200)
    add(base, 5, 6, 7, stamp=300)
    add(base, 5, 6, 7, stamp=400)
    assert kept(base) == ([8], {f"p/{n}": n for n in range(8)})


def test_rows_of_deleted_runs_go_when_segments_are_put_together(cache, base):
    for number in range(index._MOST):
        add(base, number)
    os.rmdir(os.path.join(base, "p", "3"))
    add(base, 50)
    assert kept(base)[1].keys() == {f"p/{n}" for n in (0, 1, 2, 4, 5, 6, 7, 50)}


def test_rows_that_are_still_good_stay(cache, base):
    add(base, 0, 1)
    at = Index.of(base)
    (known,) = at.load()
    at.add([segment([5, 6, 7], 9)], {"p/0", "p/1", "p/5", "p/6", "p/7"}, found={0})
    assert kept(base)[0] == [2, 3]
    at = Index.of(base)
    good = {row for row, key in enumerate(k for s in at.load() for k in s.values("#key"))}
    at.add([segment(range(20, 40), 0), segment([8])], {"p/8"}, good)
    assert kept(base)[1].keys() >= {"p/0", "p/5", "p/6", "p/7", "p/8"}
    assert len(known) == 2


def test_a_segment_that_another_reader_deleted_meanwhile_does_no_harm(cache, base):
    for number in range(index._MOST):
        add(base, number)
    at = Index.of(base)
    at.load()
    for name in os.listdir(at.folder):
        os.unlink(os.path.join(at.folder, name))
    at.add([segment([20])], {"p/20"}, set())
    assert kept(base)[1].keys() == {f"p/{n}" for n in (*range(index._MOST), 20)}


def test_a_folder_that_has_vanished_does_no_harm(cache, base):
    at = Index.of(base)
    os.rmdir(at.folder)
    assert at.load() == []
    at.add([segment([1])], {"p/1"}, set())
    assert kept(base) == ([], {})
