"""The packages that a run was made with, installed into an environment of their own."""

import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from experiment_tracking.capture.code import name_inside
from experiment_tracking.errors import ReproductionError
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.reproduce.checkout import counted

_INSTALLERS = ("pip", "wheel")
_ITSELF = "experiment-tracking"
_TORCH = ("torch", "torchvision", "torchaudio")
_TORCH_INDEX = "https://download.pytorch.org/whl/"
"""Where the builds are whose versions end as in ``2.7.1+cpu``; the common index lacks them."""
_LAST_LINES = 15


def requirements(record: RunRecord, tree: str | None = None) -> list[str]:
    """List what to install as lines of a requirements file, complete: to be used without deps.

    Parameters
    ----------
    record
        The run. Its packages are pinned, those from version control at their commit; a local
        folder or archive is taken from where it was, or pinned where it is gone. Left out are
        pip, wheel, and what knows neither version nor source, such as a source tree on the path.
    tree
        Folder that stands for the run's project: a package that was installed from inside the
        project is taken from there.

    Raises
    ------
    ReproductionError
        If the run has no list of packages.
    """
    environment = record.environment
    packages, sources = environment.get("packages"), environment.get("package_sources") or {}
    if not packages:
        raise ReproductionError(
            f"Run {record.key} has no list of packages in environment.json. Run it again in the "
            "present environment."
        )
    builds = {str(v).partition("+")[2] for name, v in packages.items() if name in _TORCH}
    lines = [f"--extra-index-url {_TORCH_INDEX}{build}" for build in sorted(builds - {""})]
    for name, version in packages.items():
        source = _moved(sources.get(name) or {}, environment.get("project"), tree)
        line = _from_source(name, source) or (f"{name}=={version}" if version else None)
        if name == _ITSELF and not _from_source(name, source):
            line = _running_one() or line
        lines += [line] if line and name not in _INSTALLERS else []
    return lines


def _from_source(name: str, source: Mapping[str, Any]) -> str | None:
    """Give the line for a ``direct_url.json`` (PEP 610), None where it leads nowhere any more."""
    # The user's own name and token were hidden; git and pip find them where they are kept.
    url = str(source.get("url") or "").replace("***@", "")
    part = f"#subdirectory={source['subdirectory']}" if source.get("subdirectory") else ""
    if not url or (url.startswith("file:") and not os.path.exists(_path(url))):
        return None
    if version_control := source.get("vcs_info"):
        kind, commit = version_control.get("vcs"), version_control.get("commit_id")
        return f"{name} @ {kind}+{url}@{commit}{part}"
    if (source.get("dir_info") or {}).get("editable"):
        return f"-e {url}{part}"
    return f"{name} @ {url}{part}"


def _moved(source: Mapping[str, Any], project: str | None, tree: str | None) -> Mapping[str, Any]:
    url = source.get("url")
    if not url or not project or tree is None or not url.startswith("file:"):
        return source
    inside = name_inside(os.path.realpath(_path(url)), os.path.realpath(project))
    return source if inside is None else {**source, "url": Path(tree, inside).resolve().as_uri()}


def _path(url: str) -> str:
    return unquote(urlsplit(url).path)


def _running_one() -> str | None:
    """Give the line for the package that runs now, where it runs from its source tree."""
    above = Path(__file__).parents[2]
    return f"{_ITSELF} @ {above.as_uri()}" if (above / "setup.cfg").is_file() else None


def install(
    record: RunRecord, folder: str, say: Callable[[str], object], tree: str | None = None
) -> str:
    """Make an environment in ``folder`` and install the run's packages; return its interpreter.

    By uv where it is installed, which fetches the interpreter too, else by venv and pip. Both go
    by the settings and variables that they know (``PIP_INDEX_URL``, ``UV_OFFLINE``, …).

    Parameters
    ----------
    record, tree
        As in :func:`requirements`.
    folder
        A folder that does not exist yet. ``requirements.txt`` in it says what was asked for.
    say
        Is called when the installation begins and when it is done.

    Raises
    ------
    ReproductionError
        If the interpreter's version is not to be had, or the installer fails; with its last lines.
    """
    lines = requirements(record, tree)
    version = ".".join(str(record.environment.get("python_version") or "").split(".")[:2])
    uv = shutil.which("uv")
    make = (uv, "venv", "--python", version) if uv else (_interpreter(version), "-m", "venv")
    say(f"installing {describe_environment(record, tree)}")
    _run((*make, folder))
    inside = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    python = os.path.join(folder, *inside)
    listed = Path(folder, "requirements.txt")
    listed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    # Without dependencies: the list is complete, and what lived together there need not agree.
    _run((*_installer(uv, python), "--no-deps", "-r", str(listed)))
    say(f"installed into {folder}")
    return python


def describe_environment(record: RunRecord, tree: str | None = None) -> str:
    """Say what :func:`install` will make; raises as that does where it cannot be begun."""
    version = ".".join(str(record.environment.get("python_version") or "").split(".")[:2])
    packages = [line for line in requirements(record, tree) if not line.startswith("--")]
    uv = shutil.which("uv")
    if not uv:
        _interpreter(version)
    what = counted(len(packages), "package")
    return f"{what} for a fresh Python {version}, by {'uv' if uv else 'venv and pip'}"


def _installer(uv: str | None, python: str) -> tuple[str, ...]:
    if uv is None:
        return (python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
    # By default uv takes a package from the first index that has any version of it.
    return (uv, "pip", "install", "--python", python, "--index-strategy", "unsafe-best-match")


def _interpreter(version: str) -> str:
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None:
        raise ReproductionError(
            f"The run was made with Python {version or '(version not recorded)'}, and there is no "
            f"python{version} on PATH. Install it, or uv, which fetches it: pip install uv."
        )
    return found


def _run(command: tuple[str, ...]) -> None:
    """Run an installer; what it prints is told where it fails."""
    # A package on PYTHONPATH would count as installed already.
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(
        command, env=environment, text=True, encoding="utf-8", errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
    if process.returncode:
        raise ReproductionError(
            f"'{' '.join(command)}' failed with exit code {process.returncode}:\n"
            + "\n".join(last)
            + "\nMend what it names, or run in the present environment instead."
        )
