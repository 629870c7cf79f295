import ast
import json
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

import experiment_tracking.errors
from experiment_tracking.capture.code import (
    MAX_SCRIPT_BYTES,
    EntryScript,
    configuration_beside,
    entry_script,
    find_project_root,
    foreign_modules,
    imported_files,
    is_code,
    is_program,
    local_modules,
    lock_files,
    read_code,
    why_forbidden,
    why_left_out,
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


def test_outside_of_git_the_configuration_beside_a_script_is_found(tmp_path, monkeypatch):
    for name in ("config.yaml", "conf/model.toml", "data/labels.json", "notes.txt", "big.json"):
        path = tmp_path / "lab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * (200_000 if name == "big.json" else 10))
    found = configuration_beside(str(tmp_path / "lab"))
    assert found == [str(tmp_path / "lab" / name) for name in ("config.yaml", "conf/model.toml")]
    monkeypatch.setenv("HOME", str(tmp_path / "lab"))
    assert configuration_beside(str(tmp_path / "lab")) == []


def test_a_lock_file_may_be_larger_than_a_script(tmp_path):
    for name in ("uv.lock", "train.py"):
        (tmp_path / name).write_text("#" * (MAX_SCRIPT_BYTES + 1))
    assert why_left_out(str(tmp_path / "uv.lock")) is None
    assert "more than the 1,000,000 allowed" in why_left_out(str(tmp_path / "train.py"))
    assert read_code(str(tmp_path / "uv.lock"))[1] is False


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


def test_a_script_under_a_profiler_is_the_users_and_not_the_profiler(project):
    profiled = started("-m", "cProfile", "-o", os.devnull, "train.py", cwd=project)
    assert profiled == facts(project / "train.py", "train.py")


def test_a_spawned_child_has_the_script_of_its_parent(project):
    (project / "spawns.py").write_text(
        "import multiprocessing\n"
        "from experiment_tracking.capture.code import entry_script\n"
        "def ask(): print(entry_script().to_dict())\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=ask)\n"
        "    child.start(); child.join()\n"
    )
    assert started("spawns.py", cwd=project) == facts(project / "spawns.py", "spawns.py")


def test_an_archive_has_no_entry_script(project):
    with zipfile.ZipFile(project / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", ASK)
    assert started("app.pyz", cwd=project) is None


def test_a_file_of_credentials_is_left_out_also_behind_a_link(project):
    (project / ".env.py").write_text(ASK)
    (project / "link.py").symlink_to(project / ".env.py")
    for name in (".env.py", "link.py"):
        assert "credentials" in started(name, cwd=project)["note"]


def test_a_link_into_another_project_is_the_script_it_leads_to(project, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tr.py").symlink_to(project / "lab" / "train.py")
    target = facts(project / "lab" / "train.py", "lab/train.py")
    assert started("bin/tr.py", cwd=tmp_path) == target
    (tmp_path / "bin" / ".git").mkdir()
    assert started("bin/tr.py", cwd=tmp_path) == target


def test_a_link_inside_its_project_keeps_its_name(project, tmp_path):
    (project / "link.py").symlink_to("lab/train.py")
    assert started("link.py", cwd=project) == facts(project / "link.py", "link.py")
    (tmp_path / "there").symlink_to(project)
    named = tmp_path.resolve() / "there" / "link.py"
    assert started(str(named), cwd=tmp_path) == facts(named, "link.py")


@pytest.mark.parametrize("gone", ["the script", "its folder"])
def test_a_script_that_was_deleted_is_told_with_the_reason(project, gone):
    script = project / "lab" / "train.py"
    deletes = "shutil.rmtree(os.path.dirname(__file__))\n"
    deletes = "os.unlink(__file__)\n" if gone == "the script" else deletes
    script.write_text("import os, shutil\n" + deletes + ASK)
    expected = facts(script, "lab/train.py", note="deleted since it was started")
    assert started("lab/train.py", cwd=project) == expected


def test_a_script_over_the_bound_is_left_out_with_its_size(project):
    script = project / "large.py"
    script.write_text(ASK + "#" * MAX_SCRIPT_BYTES)
    assert "more than the 1,000,000 allowed" in started("large.py", cwd=project)["note"]
    with pytest.raises(DamagedError):
        read_code(str(script))


def test_the_text_is_read_through_a_link_and_from_regular_files_only(project):
    (project / "link.py").symlink_to("train.py")
    assert read_code(str(project / "link.py")) == (ASK.encode(), False)
    os.mkfifo(project / "pipe.py")
    with pytest.raises(DamagedError):
        read_code(str(project / "pipe.py"))
    with pytest.raises(FileNotFoundError):
        read_code(str(project / "gone.py"))


def test_the_project_is_the_repository_else_the_nearest_folder_with_its_metadata(tmp_path):
    inner = tmp_path / "outer" / "inner" / "src"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "setup.py").touch()
    (tmp_path / "outer" / "inner" / "pyproject.toml").touch()
    assert find_project_root(str(inner)) == str(tmp_path / "outer" / "inner")
    (tmp_path / "outer" / ".git").write_text("gitdir: elsewhere\n")
    assert find_project_root(str(inner)) == str(tmp_path / "outer")


@pytest.mark.parametrize(
    "name",
    [
        "train.py", "Makefile", "src/net.CU", "run.sbatch", "conf/base.yaml", "uv.lock", "a.R",
        "Dockerfile.gpu", ".python-version", "requirements.txt", "x.ipynb", ".env", ".env.local",
    ],
)  # fmt: skip
def test_source_and_configuration_are_code(name):
    assert is_code(name)


@pytest.mark.parametrize(
    "name", ["data.csv", "model.pt", "weights.safetensors", "plot.png", "x.npy", "a.parquet", "log"]
)
def test_data_weights_and_results_are_not_code(name):
    assert not is_code(name)


FORBIDDEN = [
    ".env", ".env.local", "prod.env", "server.pem", "tls.key", "a.p12", "a.pfx", "a.jks",
    "pass.kdbx", "id_rsa", "id_rsa.bak", "id_ed25519", "id_ecdsa", "id_dsa", ".netrc", "_netrc",
    ".npmrc", ".pypirc", ".git-credentials", "credentials", "Credentials.JSON", "secrets.yaml",
    "my.secret", "service_account.json", "service-account-prod.json", "kubeconfig", ".htpasswd",
    "hf_token.txt", "wandb_api_key.json", "auth.json", ".ssh/config", ".aws/config",
    ".gnupg/x.txt", ".git/config",
]  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_file_whose_name_tells_of_credentials_is_left_out(name, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("x")
    assert "credentials" in why_left_out(str(file))
    # The name alone decides, also for a file that is gone.
    assert "credentials" in why_forbidden(name)


@pytest.mark.parametrize(
    "name",
    [
        "train.py", "tokens.txt", "tokenizer.json", "special_tokens_map.json", "environment.yml",
        "keys.txt", "keyboard.yaml", "secret_santa.py", "get_token.py", "idea.txt", "gitlab.yml",
        "env.py", "pipeline.key.py", "authors.md",
    ],
)  # fmt: skip
def test_an_ordinary_file_is_kept(name, tmp_path):
    (tmp_path / name).write_text("x = 1")
    assert why_left_out(str(tmp_path / name)) is None


def test_a_link_counts_by_its_target(project, tmp_path):
    (tmp_path / "shared.py").write_text("")
    (project / "inside.py").symlink_to("train.py")
    (project / "outside.py").symlink_to(tmp_path / "shared.py")
    (project / "broken.py").symlink_to("nowhere")
    assert why_left_out(str(project / "inside.py")) is None
    assert why_left_out(str(project / "outside.py")) == "a link that leads out of the project"
    assert "cannot be read" in why_left_out(str(project / "broken.py"))
    (tmp_path / "alone.py").symlink_to(project / "train.py")
    assert why_left_out(str(tmp_path / "alone.py")) is None


def test_what_cannot_be_read_is_left_out_with_the_reason(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    assert why_left_out(str(tmp_path / "pipe.py")) == "not a regular file"
    assert why_left_out(str(tmp_path)) == "not a regular file"
    assert why_left_out(str(tmp_path / "gone.py")) == "cannot be read: No such file or directory"
    assert "null" in why_left_out("a\0b.py")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_left_out(tmp_path):
    (tmp_path / "closed.py").touch(mode=0)
    assert why_left_out(str(tmp_path / "closed.py")) == "no permission to read it"


def test_a_notebook_may_be_large_with_its_outputs(tmp_path):
    for name in ("large.ipynb", "large.json"):
        (tmp_path / name).write_text(" " * (MAX_SCRIPT_BYTES + 1))
    assert why_left_out(str(tmp_path / "large.ipynb")) is None
    assert "1,000,001 bytes" in why_left_out(str(tmp_path / "large.json"))


def test_programs_are_told_from_configuration_and_texts():
    names = ["a/train.PY", "x.ipynb", "net.cu", "conf.yaml", "a.json", "notes.txt", "Makefile"]
    assert list(map(is_program, names)) == [True] * 3 + [False] * 4


LIST = """
import sys
from experiment_tracking.capture.code import local_modules
print(local_modules(sys.argv[1]))
"""


def modules_of(script, root, *arguments):
    """Names inside ``root`` of the local modules that a process sees which runs ``script``."""
    listed = started(*(arguments or (str(script),)), str(root), cwd=root)
    return [os.path.relpath(path, root) for path in listed]


@pytest.fixture
def large(tmp_path):
    """A project with packages, an environment inside it, and a script that imports from all."""
    root = tmp_path.resolve() / "large"
    for name in (
        "lab/__init__.py", "lab/nets.py", "lab/late.py", "bare/inner.py", "src/deep.py",
        "env/pyvenv.cfg", "env/src/cloned.py", "env/lib/site-packages/installed.py", "unused.py",
        "conda/conda-meta/history", "conda/tools.py",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "lab" / "data.txt").touch()
    (root / "lab" / "__init__.py").write_text("from . import nets\n")
    (root / "pyproject.toml").touch()
    (root / "train.py").write_text(
        "import sys\n"
        "sys.path += [p + '/' + q for p in sys.path[:1] for q in "
        "('env/src', 'env/lib/site-packages', 'conda', 'lab/../src')]\n"
        "import bare.inner, cloned, deep, installed, json, lab, tools\n" + LIST
    )
    return root


def test_the_projects_own_modules_are_listed_and_no_installed_ones(large):
    expected = ["bare/inner.py", "lab/__init__.py", "lab/nets.py", "src/deep.py", "train.py"]
    assert modules_of(large / "train.py", large) == expected


def test_modules_are_found_from_a_project_named_through_a_link(large, tmp_path):
    (tmp_path / "link").symlink_to(large)
    listed = started("train.py", str(tmp_path / "link"), cwd=tmp_path / "link")
    assert str(large / "lab" / "nets.py") in listed


def test_a_module_started_by_its_name_is_listed_with_its_package(large):
    (large / "lab" / "main.py").write_text(LIST)
    listed = modules_of(None, large, "-m", "lab.main")
    assert listed == ["lab/__init__.py", "lab/main.py", "lab/nets.py"]


def test_known_modules_are_not_listed_again(large):
    known = [str(large / "lab" / "nets.py")]
    script = large / "later.py"
    script.write_text(
        "from experiment_tracking.capture.code import local_modules\n"
        "import lab\n"
        f"first = local_modules({str(large)!r})\n"
        "import lab.late\n"
        f"print(local_modules({str(large)!r}, first))\n"
    )
    assert started("later.py", cwd=large) == [str(large / "lab" / "late.py")]
    assert known[0] not in local_modules(str(large), known)


def test_imported_code_outside_of_the_project_is_named_by_module_and_package(large, tmp_path):
    common = tmp_path.resolve() / "common"
    for name in (
        "solo.py", "deep/__init__.py", "deep/er/__init__.py", "deep/er/est.py", "bare/one.py",
        "env/pyvenv.cfg", "env/lib/cloned.py", "env/lib/site-packages/installed.py",
    ):  # fmt: skip
        (common / name).parent.mkdir(parents=True, exist_ok=True)
        (common / name).touch()
    (large / "train.py").write_text(
        "import sys\n"
        f"sys.path += [{str(common)!r} + end for end in "
        "('', '/env/lib', '/env/lib/site-packages')]\n"
        "import solo, deep.er.est, bare.one, cloned, installed, json, lab\n"
        "from experiment_tracking.capture.code import foreign_modules\n"
        "print(foreign_modules(sys.argv[1]))\n"
    )
    expected = [str(common / name) for name in ("bare/one.py", "deep", "solo.py")]
    assert started("train.py", str(large), cwd=large) == expected


class Lazy(types.ModuleType):
    """A module that is imported when it is first asked for anything."""

    def __getattribute__(self, name):
        raise AssertionError(f"{name} was asked for")


def test_strange_modules_do_not_disturb(large, monkeypatch):
    files = {
        "relative": "train.py", "gone": str(large / "gone.py"), "text": 3, "nul": "/a\0b/c.py",
        "built": str(large / "lab" / "fast.so"), "good": str(large / "unused.py"),
    }  # fmt: skip
    (large / "lab" / "fast.so").touch()
    for name, file in files.items():
        module = types.ModuleType(name)
        module.__file__ = file
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "none", None)
    monkeypatch.setitem(sys.modules, "number", 3)
    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    monkeypatch.chdir(large)
    assert local_modules(str(large)) == [str(large / "unused.py")]
    assert str(large / "unused.py") in foreign_modules(str(large / "lab"))


def test_this_package_is_not_a_module_of_the_project():
    listed = local_modules(str(Path(PACKAGE_PARENT)))
    assert not any(path.startswith(PACKAGE_PARENT + "/experiment_tracking/") for path in listed)


def names_imported(script, root):
    return [os.path.relpath(path, root) for path in imported_files(str(script), str(root))]


def test_a_scripts_imports_are_followed_without_running_it(tmp_path):
    root = tmp_path.resolve()
    sources = {
        "jobs/train.py": "import beside, json\nfrom lab.nets import layers, missing\n1 / 0\n",
        "jobs/beside.py": "def late():\n    import outer\n",
        "lab/__init__.py": "",
        "lab/nets/__init__.py": "from .. import common\nfrom .losses import mse\n",
        "lab/nets/layers.py": "import lab.nets.layers\n",
        "lab/nets/losses.py": "from . import layers\n",
        "lab/common.py": "import from nowhere\n",
        "lab/unused.py": "",
        "src/outer/__init__.py": "from .inner import x\nfrom space import thing\n",
        "src/outer/inner.py": "x = '\\d'\n",
        "space/thing.py": "from ....too.high import x\n",
        "jobs/train.sh": "",
    }
    for name, text in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert names_imported(root / "jobs" / "train.py", root) == [
        "jobs/beside.py", "lab/__init__.py", "lab/common.py", "lab/nets/__init__.py",
        "lab/nets/layers.py", "lab/nets/losses.py", "space/thing.py", "src/outer/__init__.py",
        "src/outer/inner.py",
    ]  # fmt: skip
    assert imported_files(str(root / "jobs" / "train.sh"), str(root)) == []
    assert imported_files(str(root / "gone.py"), str(root)) == []


def test_a_module_started_by_its_name_imports_from_its_package(project):
    (project / "lab" / "__init__.py").touch()
    (project / "lab" / "train.py").write_text("from .nets import x\nimport top\n")
    (project / "lab" / "nets.py").touch()
    (project / "top.py").touch()
    expected = ["lab/__init__.py", "lab/nets.py", "top.py"]
    assert names_imported(project / "lab" / "train.py", project) == expected


def test_imports_from_an_environment_or_from_outside_are_not_followed(large, tmp_path):
    (tmp_path / "foreign.py").touch()
    (large / "env" / "src" / "run.py").write_text("import cloned\n")
    assert names_imported(large / "env" / "src" / "run.py", large) == []
    (tmp_path / "script.py").write_text("import foreign, lab\n")
    assert names_imported(tmp_path / "script.py", large) == ["lab/__init__.py", "lab/nets.py"]


def test_code_without_a_secret_is_kept_byte_for_byte(tmp_path):
    for data in (b"", b"x = 1\r\ny = 2", b"\xef\xbb\xbfx = '\xc3\xa4'\n", b"# \xe9\x85\x00\n"):
        (tmp_path / "train.py").write_bytes(data)
        assert read_code(str(tmp_path / "train.py")) == (data, False)


SECRET = "ghp_" + "a1B2" * 9


@pytest.mark.parametrize("before", [b"", b"# \xe9\x85\r\n", "# ä\n".encode()])
def test_a_secret_in_code_is_hidden_and_the_rest_stays(before, tmp_path):
    (tmp_path / "train.py").write_bytes(before + b'key = "' + SECRET.encode() + b'"\n')
    assert read_code(str(tmp_path / "train.py")) == (before + b'key = "***"\n', True)


def notebook(*cells):
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_a_notebook_is_kept_without_its_outputs(tmp_path):
    output = {"output_type": "stream", "name": "stdout", "text": ["canary"]}
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 3}
    (tmp_path / "x.ipynb").write_text(notebook(cell | {"outputs": [output], "source": "x = 1"}))
    data, hidden = read_code(str(tmp_path / "x.ipynb"))
    assert (b"canary" in data, b"x = 1" in data, hidden) == (False, True, False)


def test_a_broken_notebook_is_a_text_like_others(tmp_path):
    (tmp_path / "x.ipynb").write_text('{"cells": [\n' + SECRET)
    assert read_code(str(tmp_path / "x.ipynb")) == (b'{"cells": [\n***', True)
    (tmp_path / "x.ipynb").write_text("{" + " " * MAX_SCRIPT_BYTES)
    with pytest.raises(DamagedError, match="even without outputs"):
        read_code(str(tmp_path / "x.ipynb"))


def test_what_is_needed_to_install_the_project_is_listed(tmp_path):
    kept = [
        "Pipfile.lock", "environment.yml", "poetry.lock", "pylock.gpu.toml", "pylock.toml",
        "pyproject.toml", "requirements-dev.txt", "requirements.txt", "requirements/base.txt",
        "setup.cfg", "uv.lock", ".python-version", "environment-gpu.yaml",
    ]  # fmt: skip
    others = ["requirements.md", "requirements/readme.md", "other.txt", "lab/uv.lock", "train.py"]
    for name in kept + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "pdm.lock").mkdir()
    assert lock_files(str(tmp_path)) == sorted(str(tmp_path / name) for name in kept)
    assert lock_files(str(tmp_path / "gone")) == []


def test_what_a_project_in_a_repository_needs_is_listed_from_its_folder_to_the_top(tmp_path):
    for name in (
        "uv.lock", "apps/setup.cfg", "apps/one/pyproject.toml", "apps/one/requirements/gpu.txt",
        "apps/two/pyproject.toml", "apps/one/src/train.py",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "apps" / "one")
    expected = [
        "apps/one/pyproject.toml", "apps/one/requirements/gpu.txt", "apps/setup.cfg", "uv.lock",
    ]  # fmt: skip
    for folder in ("apps/one/src", "link/src"):
        found = lock_files(str(tmp_path), str(tmp_path / folder))
        assert found == [str(tmp_path / name) for name in expected]
    top = [str(tmp_path / "uv.lock")]
    assert lock_files(str(tmp_path), str(tmp_path)) == lock_files(str(tmp_path), "/") == top
