"""A process of its own for what kills, interrupts, forks or fills the disk."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import experiment_tracking

_PACKAGE_PARENT = Path(experiment_tracking.__file__).parents[1]

# An alarm, and not dump_traceback_later: its thread is not there in forked children, which
# would wait for it at their end.
_START = """
import faulthandler, importlib, json, signal, sys
folder, module, function, arguments, answer, limit_s = sys.argv[1:]
faulthandler.enable()
faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(int(limit_s))
sys.path.insert(0, folder)
result = getattr(importlib.import_module(module), function)(*json.loads(arguments))
with open(answer, "w") as file:
    json.dump(result, file)
"""


class Ended(NamedTuple):
    """How such a process ended."""

    result: Any
    """What the function returned, as JSON holds it; None if it did not come to return."""
    returncode: int
    stderr: str

    @property
    def notices(self) -> list[str]:
        """What the package said, but for the line with which a run opens."""
        lines = [line for line in self.stderr.splitlines() if "experiment_tracking: " in line]
        return [line for line in lines if not re.search(r": run \S+/\S+ in /", line)]


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., Ended]:
    """Call a function of the test's module in a fresh interpreter; it must end by itself.

    One that hangs prints where each of its threads stands, and fails.
    """

    def call(function: Callable[..., Any], *args: Any, limit_s: int = 100, **env: str) -> Ended:
        source = Path(function.__code__.co_filename)
        answer = tmp_path / "answer.json"
        command = [sys.executable, "-c", _START, str(source.parent), source.stem]
        command += [function.__name__, json.dumps(args), str(answer), str(limit_s)]
        paths = [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | env
        # A file, and not a pipe, which a child that was left behind would hold open.
        with open(tmp_path / "stderr", "w+b") as file:
            ended = subprocess.run(command, env=environment, stderr=file, check=False)
            file.seek(0)
            stderr = file.read().decode("utf-8", "replace")
        assert ended.returncode != -signal.SIGALRM, stderr
        result = json.loads(answer.read_text()) if answer.exists() else None
        answer.unlink(missing_ok=True)
        return Ended(result, ended.returncode, stderr)

    return call


@pytest.fixture(scope="session")
def unreliable() -> Any:
    """The module beside this one, which is no package."""
    path = Path(__file__).with_name("unreliable.py")
    spec = importlib.util.spec_from_file_location("unreliable", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
