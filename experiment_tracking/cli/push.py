"""``experiments push``: copy runs to MLflow, Weights & Biases, TensorBoard or another backend."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.command import (
    DONE,
    FAILED,
    RUN_HELP,
    check_project,
    find_run,
    new_command,
    registry_of,
)
from experiment_tracking.cli.screen import GAP, Cell, Screen, json_out, say
from experiment_tracking.cli.text import clean, size
from experiment_tracking.errors import (
    DamagedError,
    ExperimentTrackingError,
    InvalidValueError,
    RunBusyError,
)

if TYPE_CHECKING:
    from experiment_tracking.backends.catalog import Target
    from experiment_tracking.backends.mirror import Mirror, Orders
    from experiment_tracking.backends.progress import Progress
    from experiment_tracking.folder.layout import RunFolder
    from experiment_tracking.registry.record import RunRecord

_EXAMPLES = """
experiments push latest --to mlflow --tracking-uri http://localhost:5000
experiments push digits/a digits/b
experiments push --all
experiments push latest --to wandb --follow
experiments push latest --to tensorboard
"""
_OPTIONS = {
    "tracking_uri": ("mlflow", "tracking_uri"),
    "experiment": ("mlflow", "experiment_name"),
    "wandb_project": ("wandb", "project"),
    "entity": ("wandb", "entity"),
    "mode": ("wandb", "mode"),
    "log_dir": ("tensorboard", "log_dir"),
}
"""Arguments that are options of one backend: whose, and what it calls them."""

_CREDENTIALS = {
    "mlflow": "Give the whole address as --tracking-uri, or one without credentials and these as "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
    "wandb": "Set WANDB_API_KEY.",
}
_REDACTED = "***"
_LOOK_S = 0.1
_TELL_EVERY_S = 2.0
_LET_GO_S = 5.0
_MOST_REFUSED = 5


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands,
        "push",
        push,
        "copy runs to MLflow, W&B, TensorBoard or another backend",
        _EXAMPLES,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help=RUN_HELP)
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="NAME",
        help="mlflow, wandb, tensorboard or an entry point; may be repeated. Default: wherever "
        "the run was copied to before",
    )
    parser.add_argument("--all", action="store_true", help="all runs that owe something")
    parser.add_argument("--project", metavar="P", help="with --all: those of one project")
    parser.add_argument("--follow", action="store_true", help="go on until the run has ended")
    parser.add_argument("--tracking-uri", metavar="U", help="where MLflow is")
    parser.add_argument("--experiment", metavar="E", help="MLflow's experiment; default: project")
    parser.add_argument("--wandb-project", metavar="P", help="W&B's project; default: project")
    parser.add_argument("--entity", metavar="E", help="W&B's user or team")
    parser.add_argument("--mode", metavar="M", help="W&B's mode: online or offline")
    parser.add_argument("--log-dir", metavar="D", help="where TensorBoard's files go")
    # How a tracker starts the process that makes its mirrors: the pid of its parent.
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--linger", type=float, default=300.0, help=argparse.SUPPRESS)


def push(args: argparse.Namespace) -> int:
    """Copy every chosen run, one after the other; with ``--follow`` all at once."""
    if args.serve is not None:
        return _serve(args)
    copies, hindered = _copies(args)
    if not copies and not hindered:
        say("nothing is owed.")
    screen = None if args.json else Screen()
    try:
        for batch in [copies] if args.follow else [[copy] for copy in copies]:
            _make(batch, screen)
    finally:  # of Ctrl-C as well: who comes next finds the mirrors free
        for copy in copies:
            copy.let_go()
    if args.json:
        json_out([copy.to_dict() for copy in copies])
    return DONE if all(copy.is_done for copy in copies) and not hindered else FAILED


def _serve(args: argparse.Namespace) -> int:
    from experiment_tracking.backends.child import serve
    from experiment_tracking.backends.processes import kill_below_this

    # What is said up to here tells the process that started us why we could not begin.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    serve(sys.stdin.buffer, args.serve, _new_mirror, args.linger)
    # A service's own package may have threads, processes or exit hooks that wait for what is away.
    kill_below_this()
    os._exit(DONE)


# ---------------------------------------------------------------------- what is copied, and where


def _chosen(args: argparse.Namespace) -> "list[RunRecord]":
    if args.all == bool(args.runs):
        raise InvalidValueError("push takes runs, or --all for all that owe something.")
    if not args.all:
        return [find_run(args, key) for key in args.runs]
    registry = registry_of(args)
    check_project(registry, args.project)
    return list(registry.list_experiments(args.project))


def _copies(args: argparse.Namespace) -> "tuple[list[_Copy | _Events], bool]":
    """Return what is to be copied, and whether anything hinders some of it."""
    records = _chosen(args)
    copies: list[_Copy | _Events] = []
    hindered = False
    for record in records:
        try:
            copies += _copies_of(args, record)
        except (ExperimentTrackingError, OSError) as error:
            if len(records) == 1:
                raise
            say(f"{record.key}: {error}")  # and on to the others
            hindered = True
    return copies, hindered


def _copies_of(args: argparse.Namespace, record: "RunRecord") -> "list[_Copy | _Events]":
    if args.all and record.status == "running" and not args.follow:
        return []  # Its own process is at it.
    given = _given_options(args)
    known = _known_targets(record)
    names = args.to or list(given) or list(known)
    if not names and not args.all:
        raise InvalidValueError(
            f"Run {record.key} was not copied anywhere yet. Say where to: --to mlflow, wandb, "
            "tensorboard or the name of an entry point."
        )
    _check_used(given, names, known)
    copies: list[_Copy | _Events] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            copies.append(_Events(record, args.log_dir))
        else:
            copies.append(_Copy(record, _target(name, given, known), follow=args.follow))
    return [copy for copy in copies if not args.all or copy.is_owed]


def _given_options(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the options that were given, by backend."""
    given: dict[str, dict[str, Any]] = {}
    for argument, (backend, option) in _OPTIONS.items():
        value = getattr(args, argument)
        if value is not None:
            given.setdefault(backend, {})[option] = value
    return given


def _check_used(
    given: Mapping[str, object], names: Sequence[str], known: "Mapping[str, Target]"
) -> None:
    used = {known[name].backend if name in known else name for name in names}
    for backend in given.keys() - used:
        raise InvalidValueError(f"Options of {backend} were given. Add --to {backend}.")


def _known_targets(record: "RunRecord") -> "dict[str, Target]":
    """Return where the run was copied to before, by the names of its mirrors."""
    from experiment_tracking.backends.catalog import Target

    known = {}
    for name, kept in record.mirrors.items():
        if "backend" not in kept:
            raise DamagedError(str(kept.get("error")))
        known[name] = Target(kept["backend"], kept.get("options") or {}, name)
    return known


def _target(
    name: str, given: Mapping[str, Mapping[str, Any]], known: "Mapping[str, Target]"
) -> "Target":
    """Find the mirror that is meant; with other options than before it is another one."""
    from experiment_tracking.backends.catalog import Target, make

    before = known.get(name, Target(name, {}, name))
    target = before._replace(options={**before.options, **given.get(before.backend, {})})
    _check_whole(target)
    # Made once here: a mistake is told at once, and addresses come out in full.
    made = getattr(make(target.backend, target.options), "options", None)
    target = target._replace(options=target.options if made is None else made)
    if name not in known or _is_same(target, before):
        return target
    same = (other.name for other in known.values() if _is_same(target, other))
    return target._replace(name=next(same, None) or _free_name(before.backend, known))


def _is_same(target: "Target", kept: "Target") -> bool:
    names = {*target.options, *kept.options}
    return target.backend == kept.backend and all(
        _fits(target.options.get(name), kept.options.get(name)) for name in names
    )


def _fits(value: Any, kept: Any) -> bool:
    """Tell whether a value is what was kept, where credentials are taken off."""
    if not isinstance(value, str) or not isinstance(kept, str):
        return bool(value == kept)
    import re

    return re.fullmatch(".*".join(map(re.escape, kept.split(_REDACTED))), value) is not None


def _free_name(backend: str, known: Mapping[str, object]) -> str:
    number = 2
    while f"{backend}-{number}" in known:
        number += 1
    return f"{backend}-{number}"


def _check_whole(target: "Target") -> None:
    hidden = [name for name, value in target.options.items() if _REDACTED in str(value)]
    if hidden:
        advice = _CREDENTIALS.get(target.backend, "Have it read them from its own variables.")
        raise InvalidValueError(
            f"{target.name}: the run does not keep the credentials in {hidden[0]} "
            f"({target.options[hidden[0]]}). {advice}"
        )


# ---------------------------------------------------------------------- one copy


class _Copy:
    """One run on its way to one backend, in a thread."""

    def __init__(self, record: "RunRecord", target: "Target", *, follow: bool) -> None:
        from experiment_tracking.backends.mirror import Orders

        self.record = record
        self.name = target.name
        self._follow = follow
        self._orders = Orders()
        self._mirror = _new_mirror(record.folder, target, self._orders)
        self._progress: Progress | None = None
        self._failure: Exception | None = None
        # Not the thread is waited for: Ctrl-C in a join makes it look as if it had ended.
        self._ended = threading.Event()
        self._is_started = False
        self._told = (time.monotonic(), "")

    def start(self) -> None:
        """Start the thread."""
        self._is_started = True
        threading.Thread(target=self._run, name=f"push {self.name}", daemon=True).start()

    def _run(self) -> None:
        try:
            self._progress = self._mirror.run(self._follow)
        except Exception as error:  # told by the thread that started this one
            self._failure = error
        finally:
            self._ended.set()

    def look(self) -> bool:
        """Tell people how far it is; return whether it goes on."""
        if self._ended.wait(_LOOK_S):
            return False
        self._tell(self._mirror.progress)
        return True

    def _tell(self, progress: "Progress") -> None:
        since, told = self._told
        text = f"{progress.error}; trying on" if progress.failing else self._rows_text()
        if text != told and time.monotonic() - since > _TELL_EVERY_S:
            self._told = (time.monotonic(), text)
            say(f"{self.record.key} to {self.name}: {text}")

    def _rows_text(self) -> str:
        given = _state_of(self.record, self.name).get("rows", 0)
        known = (self.record.summary.get("history") or {}).get("rows")
        total = f" of {known:,}" if known and self.record.status != "running" else ""
        return f"{given:,}{total} rows"

    def let_go(self) -> None:
        """Have it stop, if it has not; the mirror is free then for whoever comes next."""
        self._orders.stop()
        if self._is_started:
            self._ended.wait(_LET_GO_S)

    @property
    def is_owed(self) -> bool:
        """Whether something is missing there."""
        return not self.record.mirrors.get(self.name, {}).get("complete")

    @property
    def is_done(self) -> bool:
        """Whether all that was there is copied."""
        progress = self._progress
        if progress is None:
            return False
        owed = progress.owed_bytes or progress.owed_files or progress.failing
        return progress.complete or (not self._follow and self._is_running() and not owed)

    def _is_running(self) -> bool:
        from experiment_tracking.folder.liveness import status_of

        return status_of(self.record.summary, self.record.folder.heartbeat)[0] == "running"

    def tell_outcome(self, screen: Screen | None) -> None:
        """Print how it ended; what went wrong on stderr."""
        if self._failure is not None:
            say(f"{self.record.key} to {self.name}: {self._failure}")
        if self._progress is None:
            return
        refused = _state_of(self.record, self.name).get("refused") or []
        for one in refused[:_MOST_REFUSED]:
            say(f"{self.record.key}: {self.name} refused {one.get('what')}: {one.get('reason')}")
        if len(refused) > _MOST_REFUSED:
            say(f"and {len(refused) - _MOST_REFUSED} more; backends/{self.name}.json has them all.")
        if screen is not None:
            _print_outcome(screen, self.record, self.name, self._outcome(), self._progress.url)

    def _outcome(self) -> Cell:
        progress = self._progress
        assert progress is not None
        if progress.complete:
            return Cell("complete", "green")
        owed = f"{size(progress.owed_bytes)} of rows and {progress.owed_files} files owed"
        if self.is_done:
            return Cell("all of what there is so far", "cyan")
        return Cell(clean(f"{owed} ({progress.error})" if progress.error else owed), "red")

    def to_dict(self) -> dict[str, Any]:
        """Return how it ended, as JSON has it."""
        ended = {} if self._progress is None else self._progress._asdict()
        if self._failure is not None:
            ended["error"] = str(self._failure)
        return {"run": self.record.key, "backend": self.name, "done": self.is_done, **ended}


class _Events:
    """One run on its way to TensorBoard's event files."""

    name = "tensorboard"

    def __init__(self, record: "RunRecord", log_dir: str | None) -> None:
        if record.status == "running" and log_dir is None:
            raise RunBusyError(
                f"Run {record.key} is being written, its TensorBoard files too. Wait for its end, "
                "or have others made elsewhere: --log-dir DIR."
            )
        self.record = record
        self._log_dir = log_dir
        self._rows: int | None = None
        self._failure: Exception | None = None

    is_owed = True

    @property
    def is_done(self) -> bool:
        """Whether all is written."""
        return self._rows is not None

    def start(self) -> None:
        """Write them all anew."""
        from experiment_tracking.backends.events import write_again

        try:
            self._rows = write_again(self.record.folder, self._log_dir)
        except (ExperimentTrackingError, OSError) as error:
            self._failure = error

    def look(self) -> bool:
        """Return that nothing goes on."""
        return False

    def let_go(self) -> None:
        """Do nothing: it holds nothing."""

    def tell_outcome(self, screen: Screen | None) -> None:
        """Print how it ended."""
        if self._failure is not None:
            say(f"{self.record.key} to tensorboard: {self._failure}")
        elif screen is not None:
            outcome = Cell(f"{self._rows:,} rows written", "green")
            _print_outcome(screen, self.record, self.name, outcome, self._place())

    def _place(self) -> str:
        return self._log_dir or self.record.folder.tensorboard

    def to_dict(self) -> dict[str, Any]:
        """Return how it ended, as JSON has it."""
        error = None if self._failure is None else str(self._failure)
        known = {"complete": self.is_done, "rows": self._rows, "error": error}
        plain = {"run": self.record.key, "backend": self.name, "done": self.is_done}
        return {**plain, **known, "url": self._place()}


def _make(copies: "Sequence[_Copy | _Events]", screen: Screen | None) -> None:
    """Make copies side by side, until all have ended."""
    for copy in copies:
        copy.start()
    going = list(copies)
    while going:
        still = [copy for copy in going if copy.look()]
        for copy in going:
            if copy not in still:
                copy.tell_outcome(screen)
        going = still


def _print_outcome(
    screen: Screen, record: "RunRecord", name: str, outcome: Cell, url: str | None
) -> None:
    cells = [Cell(clean(record.key), "bold"), Cell(GAP + clean(name) + GAP), outcome]
    screen.line(*cells, Cell(GAP + clean(url) if url else ""))


def _state_of(record: "RunRecord", name: str) -> Mapping[str, Any]:
    """Read what the mirror has noted last; nothing while there is none."""
    from experiment_tracking.folder.documents import read_document

    try:
        return read_document(record.folder.backend(name))
    except (OSError, DamagedError):
        return {}


def _new_mirror(folder: "RunFolder", target: "Target", orders: "Orders") -> "Mirror":
    from experiment_tracking.backends.mirror import Mirror
    from experiment_tracking.capture.redaction import redact_text
    from experiment_tracking.run import SavedModel

    return Mirror(folder, target, redact=redact_text, model_handle=SavedModel, orders=orders)
