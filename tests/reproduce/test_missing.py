"""Data that a console names, as a failed script left it."""

import pytest

from experiment_tracking.reproduce.checkout import Checkout
from experiment_tracking.reproduce.missing import missing_data


@pytest.fixture
def tree(tmp_path):
    """A tree that lacks the data of its project."""
    project, tree = tmp_path / "lab", tmp_path / "tree"
    for folder in (project, tree):
        (folder / "work").mkdir(parents=True)
        (folder / "train.py").write_text("")
    for name in ("data/x.csv", "work/y.csv", "my data.csv"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("1")
    return Checkout(str(tree), str(project), str(tree / "work"), None, [], [])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("No such file or directory: '../data/x.csv'", ["data/x.csv"]),
        ("cannot open y.csv.", ["work/y.csv"]),
        ("{tree}/data/x.csv: not found", ["data/x.csv"]),
        ("{project}/data/x.csv: not found", ["data/x.csv"]),
        ('missing "../my data.csv"', ["my data.csv"]),
        ("y.csv, y.csv and ../data/x.csv", ["work/y.csv", "data/x.csv"]),
        ('File "../train.py", line 1, in nothing.csv', []),
        ("../../lab.. / /etc/passwd . .. ''", []),
    ],
)
def test_paths_that_only_the_project_has_are_named(tmp_path, tree, line, expected):
    text = "x\n" * 50_000 + line.format(tree=tree.folder, project=tree.project)
    (tmp_path / "console.log").write_text(text)
    assert missing_data(str(tmp_path), tree) == expected


def test_without_a_console_nothing_is_named(tmp_path, tree):
    assert missing_data(str(tmp_path), tree) == []
