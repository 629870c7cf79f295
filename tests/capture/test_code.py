import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import experiment_tracking.errors
from experiment_tracking.capture.code import (
    MAX_SCRIPT_BYTES,
    EntryScript,
    entry_script,
    find_project_root,
    read_entry_script,
)
from experiment_tracking.errors import DamagedError

PACKAGE_PARENT = str(Path(experiment_tracking.errors.__file__).parent.parent)
ASK = """
from experiment_tracking.capture.code import entry_script
script = entry_script()
print(None if script is None else script.to_dict())
"""


def started(*arguments, cwd, stdin=""):
    """Start Python so and return what ASK printed: the entry script as that process sees it."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        input=stdin,
        env={**os.environ, "PYTHONPATH": PACKAGE_PARENT},
        capture_output=True,
        text=True,
        check=True,
    )
    return ast.literal_eval(done.stdout)


@pytest.fixture
def project(tmp_path):
    folder = tmp_path.resolve() / "project"
    (folder / "lab").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("train.py", "lab/train.py", "lab/__main__.py"):
        (folder / name).write_text(ASK)
    return folder


def facts(path, relative_name, module=None, note=None):
    return EntryScript(str(path), module, relative_name, note).to_dict()


def test_a_script_is_found_by_its_path_and_named_as_in_its_project(project):
    assert started("train.py", cwd=project) == facts(project / "train.py", "train.py")
    inner = facts(project / "lab" / "train.py", "lab/train.py")
    assert started("train.py", cwd=project / "lab") == inner


def test_a_script_outside_any_project_has_its_bare_name(tmp_path):
    script = tmp_path.resolve() / "alone.py"
    script.write_text(ASK)
    assert started(str(script), cwd="/") == facts(script, "alone.py")


def test_a_module_is_found_with_its_name(project):
    module = facts(project / "lab" / "train.py", "lab/train.py", module="lab.train")
    assert started("-m", "lab.train", cwd=project) == module
    package = facts(project / "lab" / "__main__.py", "lab/__main__.py", module="lab")
    assert started("-m", "lab", cwd=project) == package


def test_a_folder_started_by_its_path_has_a_script_and_no_module(project):
    folder = facts(project / "lab" / "__main__.py", "lab/__main__.py")
    assert started("lab", cwd=project) == folder


def test_code_without_a_file_has_no_entry_script(project):
    assert started("-c", ASK, cwd=project) is None
    assert started(cwd=project, stdin=ASK) is None


def test_pytest_and_installed_commands_are_not_the_users_script(tmp_path):
    assert entry_script() is None  # pytest itself
    installed = tmp_path / "site-packages" / "tool.py"
    installed.parent.mkdir()
    installed.write_text(ASK)
    assert started(str(installed), cwd=tmp_path) is None
    command = tmp_path / "tool"
    command.symlink_to(installed)
    assert started(str(command), cwd=tmp_path) is None


def test_a_module_of_the_standard_library_is_not_the_users_script(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", ast.__file__)
    assert entry_script() is None


@pytest.mark.parametrize("file", [None, "<stdin>", "", "no\0name.py", 3, "/", "/dev/null"])
def test_what_is_no_regular_file_is_no_script(file, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", file)
    assert entry_script() is None


def test_a_file_of_credentials_is_left_out_also_behind_a_link(project):
    (project / ".env.py").write_text(ASK)
    (project / "link.py").symlink_to(project / ".env.py")
    for name in (".env.py", "link.py"):
        assert "credentials" in started(name, cwd=project)["note"]


def test_a_script_over_the_bound_is_left_out_with_its_size(project):
    script = project / "large.py"
    script.write_text(ASK + "#" * MAX_SCRIPT_BYTES)
    assert "more than the 1,000,000 allowed" in started("large.py", cwd=project)["note"]
    with pytest.raises(DamagedError):
        read_entry_script(EntryScript(str(script), None, "large.py"))


def test_the_text_is_read_through_a_link_and_from_regular_files_only(project):
    (project / "link.py").symlink_to("train.py")
    assert read_entry_script(EntryScript(str(project / "link.py"), None, "link.py")) == ASK.encode()
    os.mkfifo(project / "pipe.py")
    with pytest.raises(DamagedError):
        read_entry_script(EntryScript(str(project / "pipe.py"), None, "pipe.py"))
    with pytest.raises(FileNotFoundError):
        read_entry_script(EntryScript(str(project / "gone.py"), None, "gone.py"))


def test_the_project_is_the_repository_else_the_nearest_folder_with_its_metadata(tmp_path):
    inner = tmp_path / "outer" / "inner" / "src"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "setup.py").touch()
    (tmp_path / "outer" / "inner" / "pyproject.toml").touch()
    assert find_project_root(str(inner)) == str(tmp_path / "outer" / "inner")
    (tmp_path / "outer" / ".git").write_text("gitdir: elsewhere\n")
    assert find_project_root(str(inner)) == str(tmp_path / "outer")
