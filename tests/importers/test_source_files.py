import errno
import os

import pytest

from experiment_tracking.importers.source_files import only_regular, stays_below

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def test_a_regular_file_is_opened(tmp_path):
    (tmp_path / "a").write_text("content")
    with open(tmp_path / "a", opener=only_regular) as file:
        assert file.read() == "content"


@pytest.mark.parametrize("kind", ["link", "pipe", "device", "folder", "missing"])
def test_nothing_else_is_and_the_error_says_why(kind, tmp_path):
    paths = {name: str(tmp_path / name) for name in ("link", "pipe", "folder", "missing")}
    paths["device"] = os.devnull
    os.symlink(os.devnull, paths["link"])
    os.mkfifo(paths["pipe"])
    os.mkdir(paths["folder"])
    with pytest.raises(OSError, match=r"link|no regular file|directory|No such file") as caught:
        open(paths[kind], "rb", opener=only_regular).close()
    codes = {"link": errno.ELOOP, "missing": errno.ENOENT}
    assert caught.value.errno == codes.get(kind, errno.EINVAL)


def test_a_path_stays_below_a_folder_only_where_it_really_leads(tmp_path):
    (tmp_path / "in").mkdir()
    os.symlink("..", tmp_path / "in" / "out")
    assert stays_below(str(tmp_path / "in" / "a"), str(tmp_path / "in"))
    assert not stays_below(str(tmp_path / "in" / "out" / "a"), str(tmp_path / "in"))
    assert not stays_below(str(tmp_path / "inside"), str(tmp_path / "in"))
