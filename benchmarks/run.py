"""Measure what README.md promises, from a wheel in a fresh virtual environment.

    python benchmarks/run.py            # about 11 minutes; prints the table
    python benchmarks/run.py --write    # and puts it into benchmarks/README.md
    python benchmarks/run.py --quick    # a first look in about a minute
    python benchmarks/run.py --full     # ten million rows, one minute of TensorBoard

Nothing is left behind: wheel, environment and runs live in the temporary folder (``$TMPDIR``),
whose file system is the one that is measured.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from timing import HEADER, Row, environment, to_line

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
_BACKENDS = "bench_backends.py"
SCRIPTS = (
    "bench_logging.py",
    "bench_start.py",
    "bench_capture.py",
    "bench_tensorboard.py",
    "bench_scan.py",
    "bench_history.py",
    "bench_models.py",
    "bench_cli.py",
    _BACKENDS,
)
_TABLE_STARTS = "<!-- table: written by run.py --write -->\n"


def main() -> int:
    """Run all scripts; return 1 if a mark does not hold."""
    args = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        print(f"Installing into a fresh environment in {folder} …", file=sys.stderr)
        python = install(Path(folder))
        lines = [f"{today()}, {machine(folder)}, {packages(python)}.", "", *HEADER]
        print(*lines, sep="\n")
        rows = []
        for row in measured(python, Path(folder), args):
            rows.append(row)
            print(to_line(row), flush=True)
    if args.write:
        write_table([*lines, *map(to_line, rows)])
    return int(any(row.holds is False for row in rows))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="a first look: fewer repetitions")
    how.add_argument("--full", action="store_true", help="ten million rows (minutes more)")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    return parser.parse_args()


def install(folder: Path) -> str:
    """Build the wheel and install it with its dependencies; return the new interpreter."""
    venv.create(folder / "venv", with_pip=True)
    scripts = "Scripts" if os.name == "nt" else "bin"
    python = str(folder / "venv" / scripts / "python")
    # A copy is built: setuptools leaves build/ and *.egg-info where it works.
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "experiment_tracking", source / "experiment_tracking")
    pip(python, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    pip(python, "install", *map(str, folder.glob("*.whl")))
    return python


def pip(python: str, *arguments: str) -> None:
    """Run pip in the new environment, silent unless it fails."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pip {arguments[0]} failed:\n{done.stdout}{done.stderr}")


def measured(python: str, folder: Path, args: argparse.Namespace) -> Iterator[Row]:
    """Run each script with the new interpreter and yield its rows as they come."""
    options = [name for name in ("--quick", "--full") if getattr(args, name.strip("-"))]
    for script in SCRIPTS:
        if script == _BACKENDS:  # last: what it needs would count in the others' start
            pip(python, "install", *(f"{wheel}[mlflow,wandb]" for wheel in folder.glob("*.whl")))
        command = [python, str(HERE / script), "--json", *options]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment()
        ) as process:
            assert process.stdout is not None
            yield from (Row(**json.loads(line)) for line in process.stdout)
        if process.returncode:
            raise SystemExit(f"{script} failed with exit code {process.returncode}.")


# ---------------------------------------------------------------------- what it ran on


def today() -> str:
    """Return the date, UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def machine(folder: str) -> str:
    """Describe the machine without naming it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    release = ".".join(platform.release().split(".")[:2])
    facts = [f"{cores} cores", memory(), f"{platform.system()} {release}", file_system(folder)]
    return ", ".join(fact for fact in facts if fact)


def memory() -> str:
    """Return the machine's memory in words, nothing where it cannot be asked."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return f"{size / 2**30:.0f} GB of memory"
    return ""


def file_system(folder: str) -> str:
    """Return the kind of file system ``folder`` lies on (Linux; elsewhere nothing)."""
    best, kind = "", ""
    with contextlib.suppress(OSError), open("/proc/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, point, this_kind, *_ = line.split(" ")
            inside = os.path.realpath(folder).startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, this_kind
    return kind


def packages(python: str) -> str:
    """Return the versions that matter for the figures."""
    script = (
        "import platform, importlib.metadata as m; print('Python', platform.python_version(), "
        "*(f', {name} {m.version(name)}' for name in ('orjson', 'pandas', 'tensorboardX')))"
    )
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip().replace(" ,", ",")


def write_table(lines: list[str]) -> None:
    """Put the table in the place of the last one in README.md."""
    page = HERE / "README.md"
    above, found, _ = page.read_text(encoding="utf-8").partition(_TABLE_STARTS)
    if not found:
        raise SystemExit(f"{page} has no line {_TABLE_STARTS.strip()!r}; put it back.")
    page.write_text(above + _TABLE_STARTS + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
