"""Runs of real repositories, written by hand as the capture would write them."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from experiment_tracking.registry.record import RunRecord


@pytest.fixture(autouse=True)
def _plain_git(plain_git):
    """Every test here may run git."""


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    # The repository of the working folder is looked at too.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


@pytest.fixture
def git():
    def git(folder, *arguments, data=None):
        command = ["git", "-c", "protocol.file.allow=always", *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, input=data)
        return done.stdout

    return git


@pytest.fixture
def repository(tmp_path, git):
    """A repository with one commit: a script and a helper module in a package."""
    folder = tmp_path / "lab"
    (folder / "lab").mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "train.py").write_text("from lab import model\n")
    (folder / "lab" / "model.py").write_text("depth = 2\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    return folder


@pytest.fixture
def run_folder(tmp_path):
    """Write a run from its documents and the files in ``code/``."""

    def run_folder(environment, code=None, inputs=None, left_out=()):
        folder = tmp_path / "experiments" / "lab" / "exp"
        (folder / "code").mkdir(parents=True)
        files = []
        for name, text in (code or {}).items():
            data = text if isinstance(text, bytes) else text.encode()
            path = folder / "code" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            redacted = b"***" in data
            if name != "git.patch":
                files.append({"path": name, "origin": "module", "size_bytes": len(data),
                              "sha256": sha256, "redacted": redacted})  # fmt: skip
        kept = {"files": files, "left_out": list(left_out)}
        environment = {"code": kept} | environment
        (folder / "environment.json").write_text(json.dumps(environment))
        (folder / "summary.json").write_text(json.dumps({"format": 1, "status": "finished"}))
        if inputs is not None:
            (folder / "inputs.json").write_text(json.dumps({"inputs": inputs}))
        return RunRecord(folder)

    return run_folder


@pytest.fixture
def run_of(run_folder, git):
    """Write the run that a capture of the repository, as it is now, would give."""

    def run_of(repository, code=None, *, patch=None, inputs=None, left_out=(), **environment):
        facts = {
            "commit": git(repository, "rev-parse", "HEAD").decode().strip(),
            "top": str(repository),
            "remotes": {},
            "submodules": {},
        }
        facts |= environment.pop("git", {})
        patch = git(repository, "diff", "--binary", "HEAD") if patch is None else patch
        known = {"project": str(repository), "cwd": ".", "git": facts}
        kept = {"git.patch": patch} if patch else {}
        return run_folder(known | environment, kept | (code or {}), inputs, left_out)

    return run_of


@pytest.fixture
def files_of():
    """Give the contents of all files of a tree by their names, without git's own."""

    def files_of(folder):
        paths = [p for p in Path(folder).rglob("*") if ".git" not in p.parts and p.is_file()]
        return {str(path.relative_to(folder)): path.read_text() for path in paths}

    return files_of
