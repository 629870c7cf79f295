import importlib.metadata
import os
import re
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import orjson
import pytest

from experiment_tracking.capture.environment import (
    Interpreter,
    ask_interpreter,
    capture_environment,
    memory_limit,
    this_interpreter,
)
from experiment_tracking.errors import InvalidValueError


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def install(folder, name, **files):
    """Make the folder that an installed package leaves, with these JSON files."""
    path = folder / f"{name}.dist-info"
    path.mkdir(parents=True)
    for file, content in files.items():
        (path / f"{file}.json").write_bytes(orjson.dumps(content))
    return path


def set_only(monkeypatch, **variables):
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_the_facts_are_those_of_this_process(tmp_path):
    facts = capture_environment(tmp_path)
    assert facts.notes == ()
    assert facts.python_version == ".".join(map(str, sys.version_info[:3]))
    assert facts.python_implementation == sys.implementation.name
    assert facts.executable == sys.executable
    assert facts.pid == os.getpid()
    assert facts.hostname == os.uname().nodename
    assert facts.cpu_count == os.cpu_count()
    assert facts.cpus_allowed == len(os.sched_getaffinity(0))
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


def test_an_editable_install_is_known_by_its_record_not_by_its_source_tree(tmp_path, monkeypatch):
    (tmp_path / "tree" / "mine.egg-info").mkdir(parents=True)
    source = {"url": f"file://{tmp_path}/tree", "dir_info": {"editable": True}}
    install(tmp_path / "site", "mine-0.3", direct_url=source)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "tree"), str(tmp_path / "site")])
    facts = capture_environment(tmp_path)
    assert facts.packages == {"mine": "0.3"}
    assert facts.package_sources == {"mine": source}


def test_sources_of_packages_are_kept_without_credentials(tmp_path, monkeypatch):
    vcs = {"vcs": "git", "requested_revision": "main", "commit_id": "4a" * 20}
    install(
        tmp_path,
        "From_Git-1.0",
        direct_url={"url": "https://me:c4nary@host/x.git", "vcs_info": vcs},
    )
    archive = {"hashes": {"sha256": "0f" * 32}}
    install(
        tmp_path, "wheel-2.0", direct_url={"url": "https://host/w.whl", "archive_info": archive}
    )
    install(tmp_path, "from_index-3.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    facts = capture_environment(tmp_path)
    assert facts.package_sources == {
        "from-git": {"url": "https://***@host/x.git", "vcs_info": vcs},
        "wheel": {"url": "https://host/w.whl", "archive_info": archive},
    }
    assert "c4nary" not in str(facts)


def test_a_damaged_source_is_noted_and_the_other_packages_keep_theirs(tmp_path, monkeypatch):
    install(tmp_path, "good-1", direct_url={"url": "file:///good"})
    install(tmp_path, "list-1", direct_url=[1])
    (install(tmp_path, "torn-1") / "direct_url.json").write_text('{"url": "htt')
    (install(tmp_path, "huge-1") / "direct_url.json").write_text(" " * 100_000)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    facts = capture_environment(tmp_path)
    assert facts.package_sources == {"good": {"url": "file:///good"}}
    assert [note.split(": ")[:2] for note in facts.notes] == [
        ["package_sources", name] for name in ("huge", "list", "torn")
    ]
    assert len(facts.packages) == 4


def test_the_project_is_the_folder_around_it_and_outside_one_none(tmp_path):
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "inner").mkdir()
    assert capture_environment(tmp_path / "project" / "inner").project == str(tmp_path / "project")
    assert capture_environment("/").project is None


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


def test_the_launchers_variables_are_kept_but_for_its_credentials(monkeypatch):
    set_only(
        monkeypatch,
        RANK="0", LOCAL_WORLD_SIZE="4", MASTER_ADDR="node1", SLURM_JOB_ID="77",
        SLURM_STEP_NODELIST="node[1-2]", TORCHELASTIC_RUN_ID="r", OMPI_COMM_WORLD_RANK="1",
        PMI_RANK="1", SLURM_JWT="c4nary", SLURM_SECRET="c4nary", PMIX_SECURITY_KEY="c4nary",
    )  # fmt: skip
    facts = capture_environment(".")
    assert facts.launcher == {
        "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node1", "OMPI_COMM_WORLD_RANK": "1",
        "PMI_RANK": "1", "RANK": "0", "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "node[1-2]",
        "TORCHELASTIC_RUN_ID": "r",
    }  # fmt: skip
    assert facts.hidden_variables == ["PMIX_SECURITY_KEY", "SLURM_JWT", "SLURM_SECRET"]
    assert "c4nary" not in str(facts)


def test_of_the_other_variables_only_those_that_change_the_run_are_kept(monkeypatch):
    kept = {
        "CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "8", "PYTHONHASHSEED": "0",
        "TZ": "UTC", "XLA_FLAGS": "--xla_gpu_deterministic_ops=true",
    }  # fmt: skip
    set_only(monkeypatch, HOME="/home/me", EDITOR="vi", PYTHONHASHSEEDS="1", MY_RANK="0", **kept)
    facts = capture_environment(".")
    assert facts.variables == kept
    assert (facts.launcher, facts.hidden_variables) == ({}, [])


def test_of_secret_variables_only_the_names_are_told(monkeypatch):
    set_only(
        monkeypatch,
        WANDB_API_KEY="c4nary", TORCH_HUB_TOKEN="c4nary", AWS_SECRET_ACCESS_KEY="c4nary",
        MLFLOW_TRACKING_URI="https://me:c4nary@host", HF_HOME="https://me:c4nary@host/cache",
        MY_LOGIN="ghp_" + "c4nary" * 6, EMPTY_TOKEN="", LANG="C",
    )  # fmt: skip
    facts = capture_environment(".")
    assert facts.hidden_variables == [
        "AWS_SECRET_ACCESS_KEY", "HF_HOME", "MLFLOW_TRACKING_URI", "MY_LOGIN", "TORCH_HUB_TOKEN",
        "WANDB_API_KEY",
    ]  # fmt: skip
    assert facts.variables == {"HF_HOME": "https://***@host/cache", "LANG": "C"}
    assert "c4nary" not in str(facts)


def test_variables_that_another_thread_changes_meanwhile_do_no_harm():
    names = [f"OMP_TEST_{number}" for number in range(2000)]
    done = threading.Event()

    def change():
        while not done.is_set():
            for name in names:
                os.environ[name] = "1"
            for name in names:
                del os.environ[name]

    thread = threading.Thread(target=change)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        notes = [note for _ in range(10) for note in capture_environment(".").notes]
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval_s)
    assert notes == []


def test_conda_packages_are_read_off_the_names_of_its_records(tmp_path, monkeypatch):
    records = tmp_path / "conda-meta"
    records.mkdir()
    for name in ("pytorch-cuda-12.4-hc786d27_7.json", "numpy-2.0.1-py311h1_0.json", "history"):
        (records / name).touch()
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path))
    assert capture_environment(".").conda == {
        "environment": str(tmp_path),
        "packages": {"numpy": "2.0.1 py311h1_0", "pytorch-cuda": "12.4 hc786d27_7"},
    }
    own = tmp_path / "own"
    (own / "conda-meta").mkdir(parents=True)
    facts = capture_environment(".", interpreter=this_interpreter()._replace(prefix=str(own)))
    assert facts.conda == {"environment": str(own), "packages": {}}
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "missing"))
    assert capture_environment(".").conda is None


def group(mount, path, name, limit):
    folder = mount / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{limit}\n")


def test_the_memory_limit_is_the_least_of_the_group_and_those_above(tmp_path):
    group(tmp_path, "slurm/job_7", "memory.max", 8 * 2**30)
    group(tmp_path, "slurm/job_7/step:0", "memory.max", "max")
    group(tmp_path, "slurm", "memory.max", 64 * 2**30)
    assert memory_limit("0::/slurm/job_7/step:0\n", str(tmp_path)) == 8 * 2**30
    assert memory_limit("0::/slurm\n", str(tmp_path)) == 64 * 2**30


def test_version_1_of_control_groups_has_a_limit_of_its_own_form(tmp_path):
    lines = "12:cpuset:/\n4:cpu,memory:/docker/0a1b\n0::/\n"
    group(tmp_path, "memory/docker/0a1b", "memory.limit_in_bytes", 9223372036854771712)
    assert memory_limit(lines, str(tmp_path)) is None
    # In a container its own group is the top, and the path that it reads is not there.
    group(tmp_path, "memory", "memory.limit_in_bytes", 2**30)
    assert memory_limit(lines, str(tmp_path)) == 2**30


@pytest.mark.parametrize("lines", ["", "0::/\n", "0::/../../elsewhere\n", "3:cpu:/a\n"])
def test_without_a_limit_there_is_none(tmp_path, lines):
    assert memory_limit(lines, str(tmp_path)) is None


def test_the_facts_of_a_command_are_those_of_another_process(tmp_path):
    install(tmp_path, "theirs-1.0")
    theirs = Interpreter("/opt/python", "3.13.1", "pypy", (str(tmp_path),), "/opt")
    command = ["python", "train.py", "--api-key", "c4nary"]
    facts = capture_environment(tmp_path, command=command, interpreter=theirs)
    assert facts.notes == ()
    assert (facts.pid, facts.process_started_at) == (None, None)
    assert facts.command == ["python", "train.py", "--api-key", "***"]
    assert facts.argv == ["train.py", "--api-key", "***"]
    assert facts.executable == "/opt/python"
    assert (facts.python_version, facts.python_implementation) == ("3.13.1", "pypy")
    assert facts.packages == {"theirs": "1.0"}


def test_an_interpreter_tells_what_a_script_of_its_would_see(tmp_path):
    (tmp_path / "extra").mkdir()
    script = tmp_path / "show.py"
    script.write_text("import sys; print(*sys.path[1:], sep='\\n')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "extra")}
    shown = subprocess.run(
        [sys.executable, script], env=environment, check=True, capture_output=True, text=True
    )
    found = ask_interpreter(sys.executable, environment)
    assert list(found.search_path) == shown.stdout.split("\n")[:-1]
    assert str(tmp_path / "extra") in found.search_path
    assert found._replace(search_path=()) == this_interpreter()._replace(search_path=())


def test_an_interpreter_whose_site_talks_is_understood(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('[welcome', end='')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert ask_interpreter(sys.executable, environment).version == this_interpreter().version


def test_what_is_no_python_is_refused_with_its_last_words(tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(InvalidValueError, match=r"python' did not describe.*code 3.*'broken'"):
        ask_interpreter(str(program))
    with pytest.raises(InvalidValueError, match="did not describe itself"):
        ask_interpreter("true")
    with pytest.raises(FileNotFoundError, match="missing"):
        ask_interpreter(str(tmp_path / "missing"))


def test_an_interpreter_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("experiment_tracking.capture.environment._ASK_TIMEOUT_S", 0.2)
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    program.chmod(0o755)
    with pytest.raises(TimeoutError, match="did not answer"):
        ask_interpreter(str(program))


def test_nothing_heavy_is_loaded_for_it():
    code = (
        "import sys, orjson\n"
        "from experiment_tracking.capture.environment import capture_environment\n"
        "before = set(sys.modules)\n"
        "capture_environment('.')\n"
        "print(*set(sys.modules) - before)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    heavy = {"subprocess", "importlib.metadata", "tempfile", "psutil", "pynvml"}
    has_gpu = os.path.exists("/dev/nvidiactl")
    assert has_gpu or loaded & heavy == set()


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
    assert [note.partition(":")[0] for note in facts.notes] == ["project", "cwd", "argv"]
    assert facts.pid == os.getpid()
    monkeypatch.chdir(tmp_path)


def test_the_facts_go_into_json_whatever_their_encoding(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "caf\udce9.py"])
    monkeypatch.setenv("LOGNAME", "ren\udce9")
    monkeypatch.setenv("OMP_\udce9", "\udce9")
    project = tmp_path / "caf\udce9"
    (project / ".git").mkdir(parents=True)
    facts = capture_environment(project)
    loaded = orjson.loads(orjson.dumps(facts.to_dict()))
    assert loaded["project"] == f"{tmp_path}/caf\\udce9"
    assert loaded["variables"]["OMP_\\udce9"] == "\\udce9"
    assert loaded["command"] == ["python", "caf\\udce9.py"]
    assert loaded["user"] == "ren\\udce9"
    assert loaded["notes"] == []


def test_the_working_folder_is_the_one_that_the_command_was_typed_in(tmp_path):
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "outputs").mkdir()
    (tmp_path / "scripts" / "train.py").write_text(
        "import os\nos.chdir('outputs')\n"
        "from experiment_tracking.capture.environment import capture_environment\n"
        f"print(capture_environment({str(tmp_path)!r}).cwd)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "scripts/train.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == ".\n", done.stderr
