"""Commands to run: small scripts, started as a person would."""

import os
import subprocess
import sys

import pytest

from experiment_tracking.registry.record import RunRecord

REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


class Terminal:
    """A folder to work in, with the command line at hand."""

    def __init__(self, folder, root):
        self.folder, self.root = folder, root

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def environment(self, **variables):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("EXPERIMENT_TRACKING_")}
        kept["EXPERIMENT_TRACKING_ROOT"] = str(self.root)
        kept["PYTHONPATH"] = REPOSITORY
        return {**kept, **variables}

    def start(self, *words, **options):
        variables = options.pop("variables", {})
        options = {
            "cwd": self.folder, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
            "text": True, **options,
        }  # fmt: skip
        return subprocess.Popen(words, env=self.environment(**variables), **options)

    def run(self, *words, **options):
        """Run a command; return its exit code, stdout and stderr."""
        process = self.start(*words, **options)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def experiments(self, *words, **options):
        return self.run(sys.executable, "-m", "experiment_tracking", *words, **options)

    def shell(self, script, **options):
        """Run lines of sh in which ``experiments`` is ours."""
        ours = f'experiments() {{ "{sys.executable}" -m experiment_tracking "$@"; }}\n'
        return self.run("sh", "-c", ours + script, **options)

    def records(self, project):
        folders = sorted(
            (self.root / project).iterdir(), key=lambda path: (path / "summary.json").stat().st_ino
        )
        return [RunRecord(path) for path in folders]

    def record(self, project):
        """Return the only run of a project."""
        (record,) = self.records(project)
        return record


@pytest.fixture
def terminal(tmp_path, root):
    folder = tmp_path / "work"
    folder.mkdir()
    return Terminal(folder, root)
