"""``experiments tensorboard``: the real TensorBoard over chosen runs."""

import argparse
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from experiment_tracking.cli.command import DONE, RUN_HELP, find_run, new_command
from experiment_tracking.cli.screen import json_out, say
from experiment_tracking.errors import ExperimentTrackingError, MissingPackageError, NotFoundError
from experiment_tracking.folder import layout
from experiment_tracking.folder.layout import RunFolder

_LOOK_EVERY_S = 5.0
_EXAMPLES = """
experiments tensorboard
experiments tensorboard digits/lr-0.1 best:val/loss
experiments tensorboard latest --port 6007
"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands, "tensorboard", tensorboard, "open TensorBoard over the chosen runs", _EXAMPLES
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help=f"{RUN_HELP}; by default all, also those to come"
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="6006 or the next that is free; 0 for any free one"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")


def tensorboard(args: argparse.Namespace) -> int:
    """Serve the runs until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt), _signals_as_ctrl_c(), _Links() as links:
        # Resolved once: what "latest" meant when it was asked for stays on show.
        named = [find_run(args, key).folder for key in args.runs]
        roots = [] if named else [layout.existing_root(each) for each in args.roots or [None]]
        links.add(named, roots)
        if named and not links.names:
            raise NotFoundError(_nothing_to_show(args.runs))
        url = _launch(links.folder, args.host, args.port)
        if args.json:
            json_out({"url": url, "runs": sorted(links.names.values())})
        else:
            print(f"TensorBoard at {url}")
            say(f"{len(links.names)} runs. Ctrl-C ends it.")
        sys.stdout.flush()
        while True:
            time.sleep(_LOOK_EVERY_S)
            links.add(named, roots)
    return DONE


def _nothing_to_show(keys: Sequence[str]) -> str:
    return (
        f"There are no TensorBoard files in {', '.join(keys)}: the tracker was made with "
        "use_tensorboard=False."
    )


class _Links:
    """A temporary folder with a link per run, so that TensorBoard shows ``project/run`` alone."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        """Name in TensorBoard by the run's path."""

    def __enter__(self) -> "_Links":
        from tempfile import TemporaryDirectory

        self._temporary = TemporaryDirectory(prefix="experiments-tensorboard-")
        self.folder = self._temporary.name
        return self

    def __exit__(self, *error: object) -> None:
        self._temporary.cleanup()

    def add(self, named: Sequence[RunFolder], roots: Sequence[str]) -> None:
        """Link those named, and all of the roots, that have TensorBoard's files by now."""
        for run in itertools.chain(named, *map(layout.iter_runs, roots)):
            if run.path not in self.names and os.path.isdir(run.tensorboard):
                self._link(run)

    def _link(self, run: RunFolder) -> None:
        name = key = f"{run.project}/{run.name}".strip("/")
        taken = set(self.names.values())
        for number in range(2, len(taken) + 3):
            if name not in taken:
                break
            name = f"{key} ({number})"
        target = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(run.tensorboard, target)
        self.names[run.path] = name


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Let a killed command tidy up as an interrupted one does."""
    import signal

    numbers = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _launch(folder: str, host: str, port: int | None) -> str:
    program = _program()
    server = program.TensorBoard()
    wanted = ["--logdir", folder, "--host", host]
    server.configure(["tensorboard", *wanted, *(["--port", str(port)] if port is not None else [])])
    try:
        return str(server.launch())
    except program.TensorBoardServerException as error:
        raise ExperimentTrackingError(f"{error.msg}. Choose another with --port.") from error


def _program() -> Any:
    try:
        from tensorboard import program
    except ModuleNotFoundError as error:
        if error.name != "tensorboard":
            raise
        raise MissingPackageError(
            "'experiments tensorboard'", "tensorboard", "'experiment_tracking[tensorboard]'"
        ) from None
    return program
