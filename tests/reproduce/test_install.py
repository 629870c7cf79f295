import shutil
import subprocess
import sys
import zipfile

import pytest

from experiment_tracking.errors import ReproductionError
from experiment_tracking.reproduce.install import install, requirements

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def run_with(run_folder):
    """Write a run that had these packages."""

    def run_with(packages, sources=None, **environment):
        known = {"packages": packages, "package_sources": sources, "python_version": f"{VERSION}.0"}
        return run_folder(known | environment)

    return run_with


def test_packages_are_pinned_without_the_installers(run_with):
    record = run_with({"numpy": "2.1.0", "pip": "24.0", "wheel": "0.4", "setuptools": "80.0"})
    assert requirements(record) == ["numpy==2.1.0", "setuptools==80.0"]


def test_a_package_without_version_and_source_is_left_out(run_with):
    assert requirements(run_with({"lab": None, "numpy": "2"})) == ["numpy==2"]


def test_a_package_from_version_control_is_taken_at_its_commit(run_with):
    source = {
        "url": "https://***@github.com/lab/ops.git",
        "vcs_info": {"vcs": "git", "commit_id": "abc", "requested_revision": "main"},
        "subdirectory": "python",
    }
    assert requirements(run_with({"ops": "1"}, {"ops": source})) == [
        "ops @ git+https://github.com/lab/ops.git@abc#subdirectory=python"
    ]


def test_local_folders_are_taken_from_where_they_are(run_with, tmp_path):
    (tmp_path / "my ops").mkdir()
    url = (tmp_path / "my ops").as_uri()
    sources = {
        "a": {"url": url, "dir_info": {"editable": True}},
        "b": {"url": url, "dir_info": {}},
    }
    record = run_with({"a": "1", "b": "2"}, sources)
    assert requirements(record) == [f"-e {url}", f"b @ {url}"]


def test_what_is_gone_from_the_disk_is_pinned(run_with):
    sources = {
        "a": {"url": "file:///gone/a", "dir_info": {"editable": True}},
        "b": {"url": "file:///gone/b-2-py3-none-any.whl", "archive_info": {}},
    }
    assert requirements(run_with({"a": "1", "b": "2"}, sources)) == ["a==1", "b==2"]


def test_an_archive_on_the_network_is_taken_from_there(run_with):
    sources = {"a": {"url": "https://example.org/a-1.tar.gz", "archive_info": {}}}
    assert requirements(run_with({"a": "1"}, sources)) == ["a @ https://example.org/a-1.tar.gz"]


def test_a_package_of_the_project_itself_is_taken_from_the_new_tree(run_with, tmp_path):
    project, tree = tmp_path / "lab", tmp_path / "again"
    for folder in (project, tree):
        (folder / "ops").mkdir(parents=True)
    sources = {
        "lab": {"url": project.as_uri(), "dir_info": {"editable": True}},
        "ops": {"url": (project / "ops").as_uri(), "dir_info": {"editable": True}},
    }
    record = run_with({"lab": None, "ops": "1"}, sources, project=str(project))
    expected = [f"-e {tree.as_uri()}", f"-e {(tree / 'ops').as_uri()}"]
    assert requirements(record, str(tree)) == expected


def test_torch_comes_from_the_index_of_its_build(run_with):
    assert requirements(run_with({"torch": "2.7.1+cu126", "numpy": "2"})) == [
        "--extra-index-url https://download.pytorch.org/whl/cu126",
        "torch==2.7.1+cu126",
        "numpy==2",
    ]


def test_the_tracker_comes_from_its_running_source_where_the_recorded_one_is_gone(run_with):
    sources = {"experiment-tracking": {"url": "file:///gone", "dir_info": {}}}
    (line,) = requirements(run_with({"experiment-tracking": "0.1"}, sources))
    assert line.startswith("experiment-tracking @ file:///")


def test_a_run_without_a_list_of_packages_is_refused(run_with):
    with pytest.raises(ReproductionError, match="no list of packages"):
        requirements(run_with(None))


# ---------------------------------------------------------------------- installing


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder with the one wheel that an offline installer finds."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "tiny_ops-1.5.dist-info"
    with zipfile.ZipFile(folder / "tiny_ops-1.5-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_ops.py", "answer = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-ops\nVersion: 1.5\n"
                       "Requires-Dist: not-to-be-had\n")  # fmt: skip
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "tiny_ops.py,,\n")
    for tool, links in (("PIP", str(folder)), ("UV", str(folder))):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", links)
    return folder


@pytest.fixture
def only_venv(monkeypatch, tmp_path):
    """A PATH without uv."""
    monkeypatch.setenv("PATH", str(tmp_path))


def answer_of(python):
    code = "import sys, tiny_ops; print(tiny_ops.answer, sys.version_info[:2], sys.prefix)"
    done = subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split("\n")[0]


@pytest.mark.usefixtures("wheels", "only_venv")
def test_venv_and_pip_make_an_environment_with_the_packages_alone(run_with, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "tiny_ops.egg-info").mkdir()  # of no concern to the new environment
    said = []
    folder = tmp_path / "environment"
    python = install(run_with({"tiny-ops": "1.5", "pip": "1"}), str(folder), said.append)
    assert answer_of(python) == f"42 {sys.version_info[:2]} {folder}"
    assert said == [
        f"installing 1 package for a fresh Python {VERSION}, by venv and pip",
        f"installed into {folder}",
    ]
    assert (folder / "requirements.txt").read_text() == "tiny-ops==1.5\n"


@pytest.mark.usefixtures("wheels")
@pytest.mark.skipif(shutil.which("uv") is None, reason="pip install uv")
def test_uv_makes_the_environment_where_it_is_there(run_with, tmp_path):
    folder = tmp_path / "environment"
    python = install(run_with({"tiny-ops": "1.5"}), str(folder), lambda line: None)
    assert answer_of(python) == f"42 {sys.version_info[:2]} {folder}"
    assert not (folder / "bin" / "pip").exists()


def test_a_failing_installer_is_an_error_with_its_last_words(run_with, tmp_path, monkeypatch):
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text("#!/bin/sh\n" + "".join(f"echo line {i}\n" for i in range(1, 17)) + "exit 2\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent))
    said = []
    with pytest.raises(ReproductionError, match=r"exit code 2:\nline 2\n(.*\n)*line 16\n") as error:
        install(run_with({"numpy": "2"}), str(tmp_path / "environment"), said.append)
    assert said == [f"installing 1 package for a fresh Python {VERSION}, by uv"]
    assert "present environment" in str(error.value)


@pytest.mark.usefixtures("only_venv")
def test_a_python_that_is_not_there_is_named(run_with, tmp_path):
    record = run_with({"numpy": "2"}, python_version="3.99.1")
    with pytest.raises(ReproductionError, match=r"no python3\.99 on PATH.*pip install uv"):
        install(record, str(tmp_path / "environment"), print)
