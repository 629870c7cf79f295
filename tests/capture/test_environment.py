import importlib.metadata
import os
import re
import sys
import time
from datetime import datetime
from pathlib import Path

import orjson

from experiment_tracking.capture.environment import LAUNCHER_VARIABLES, capture_environment


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_facts_are_those_of_this_process(tmp_path):
    facts = capture_environment(tmp_path)
    assert facts.notes == ()
    assert facts.python_version == ".".join(map(str, sys.version_info[:3]))
    assert facts.python_implementation == sys.implementation.name
    assert facts.executable == sys.executable
    assert facts.pid == os.getpid()
    assert facts.hostname == os.uname().nodename
    assert facts.cpu_count == os.cpu_count()
    assert facts.memory_bytes > 100_000_000
    assert facts.user
    assert facts.platform.startswith(sys.platform.capitalize())


def test_the_process_began_before_now_and_after_the_machine():
    began = datetime.fromisoformat(capture_environment(".").process_started_at).timestamp()
    assert time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) <= began <= time.time()
    assert abs(began - (time.time() - time.process_time())) < 24 * 3600


def test_every_installed_package_is_named_with_its_version():
    expected = {normalised(d.name): d.version for d in importlib.metadata.distributions()}
    found = capture_environment(".").packages
    assert expected.keys() <= found.keys()
    assert {name: found[name] for name in expected if found[name]} == {
        name: version for name, version in expected.items() if found[name]
    }


def test_packages_are_read_off_folder_names_and_the_first_on_the_path_counts(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (
        first / "Ruamel.yaml_clib-0.2.dist-info",
        first / "torch-2.13.0+cpu.dist-info",
        first / "old_py_thing-1.0-py3.11.egg-info",
        first / "in_tree.egg-info",
        second / "torch-1.0.dist-info",
        second / "~orch-0.9.info",
    ):
        folder.mkdir(parents=True)
    path = [str(first), str(second), str(tmp_path / "missing"), str(tmp_path / "python.zip")]
    monkeypatch.setattr(sys, "path", path)
    assert capture_environment(tmp_path).packages == {
        "in-tree": None,
        "old-py-thing": "1.0",
        "ruamel-yaml-clib": "0.2",
        "torch": "2.13.0+cpu",
    }


def test_the_empty_entry_of_the_path_means_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here-1.dist-info").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", Path("elsewhere"), None])
    assert capture_environment(tmp_path).packages == {"here": "1"}


def test_inside_a_project_the_working_directory_is_relative(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert capture_environment(tmp_path / "a").cwd == "a/b"
    monkeypatch.chdir(tmp_path)
    assert capture_environment(tmp_path / "a").cwd == "."


def test_outside_a_project_the_working_directory_is_absolute(tmp_path, monkeypatch):
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project-2").mkdir()
    monkeypatch.chdir(tmp_path / "project-2")
    assert capture_environment(tmp_path / "project").cwd == os.getcwd()


def test_only_the_launchers_variables_are_kept(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JWT", "c4nary")
    facts = capture_environment(".")
    assert facts.launcher == {"SLURM_JOB_ID": "77", "RANK": "0"}
    assert "c4nary" not in str(facts)


def test_the_command_line_is_kept_without_its_secrets(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--api-key", "c4nary", "--lr=1"])
    monkeypatch.setattr(sys, "argv", ["train.py", "--api-key", "c4nary", "--lr=1"])
    facts = capture_environment(".")
    assert facts.command == ["python", "train.py", "--api-key", "***", "--lr=1"]
    assert facts.argv == ["train.py", "--api-key", "***", "--lr=1"]


def test_a_part_that_fails_is_noted_and_the_others_stay(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.delattr(sys, "argv")
    facts = capture_environment(".")
    assert (facts.cwd, facts.argv) == (None, None)
    assert [note.partition(":")[0] for note in facts.notes] == ["argv", "cwd"]
    assert facts.pid == os.getpid()
    monkeypatch.chdir(tmp_path)


def test_the_facts_go_into_json_whatever_their_encoding(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "caf\udce9.py"])
    monkeypatch.setenv("LOGNAME", "ren\udce9")
    facts = capture_environment(".")
    loaded = orjson.loads(orjson.dumps(facts.to_dict()))
    assert loaded["command"] == ["python", "caf\\udce9.py"]
    assert loaded["user"] == "ren\\udce9"
    assert loaded["notes"] == []
