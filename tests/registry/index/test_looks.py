import os
import subprocess
import sys

import pytest

from experiment_tracking.registry.index.looks import stamps, to_stamps
from experiment_tracking.registry.index.sharing import Helper

ENDS = ("/s", "/p")


@pytest.fixture
def runs(tmp_path):
    """Two folders with two files each."""
    for name in "ab":
        (tmp_path / name).mkdir()
        for end in ENDS:
            (tmp_path / f"{name}{end}").write_text("one")
    return [str(tmp_path / name) for name in "ab"]


def test_files_that_stay_as_they_are_look_the_same(runs):
    seen = stamps(runs, *ENDS)
    assert stamps(runs, *ENDS) == seen
    assert len({*seen, 0}) == 3


@pytest.mark.parametrize("end", ENDS)
def test_any_change_of_either_is_seen(runs, end):
    path = runs[0] + end
    before, seen = os.stat(path), [stamps(runs, *ENDS)]

    def changed():
        seen.append(stamps(runs, *ENDS))
        return seen[-1][0] not in [stamp for stamp, _ in seen[:-1]] and seen[-1][1] == seen[0][1]

    with open(path, "r+") as file:
        file.write("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changed()
    os.replace(path, f"{path}-")
    os.link(f"{path}-", path)  # another change of its entry, though it is the same file
    assert changed()
    os.chmod(path, 0o600)
    assert changed()


def test_what_cannot_be_looked_at_is_0(runs):
    os.unlink(runs[0] + ENDS[1])
    assert stamps(runs, *ENDS)[0] == 0
    assert stamps(["/none"], *ENDS) == [0]


def test_a_process_sees_what_this_one_sees(runs, tmp_path):
    with Helper("looks", f"{tmp_path}/", *ENDS, "a", "b", "c") as helper:
        assert to_stamps(helper.answer(), 3) == [*stamps(runs, *ENDS), 0]


@pytest.mark.parametrize("data", [b"", b"1", b"1 2 3", b"1 x"])
def test_what_is_no_answer_is_none(data):
    assert to_stamps(data, 2) is None


def test_a_looking_process_imports_nothing_else_of_ours():
    code = (
        "import sys, experiment_tracking.registry.index.looks\n"
        "print(*sorted(m for m in sys.modules if m.startswith('experiment_tracking')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "experiment_tracking",
        "experiment_tracking.registry",
        "experiment_tracking.registry.index",
        "experiment_tracking.registry.index.looks",
    ]
