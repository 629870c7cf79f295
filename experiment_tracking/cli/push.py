"""``experiments push``: copy runs to MLflow, Weights & Biases, TensorBoard or another backend."""

import argparse
import contextlib
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.command import (
    DONE,
    FAILED,
    RUN_HELP,
    add_project,
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
experiments push latest --to mlflow --again
experiments push --all --to mlflow-2 --forget
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
    add_project(parser, "with --all: those of one project", positional=False)
    parser.add_argument("--follow", action="store_true", help="go on until the run has ended")
    state = parser.add_mutually_exclusive_group()
    state.add_argument(
        "--again",
        action="store_true",
        help="give everything anew, as when the copy was deleted; with --all also complete ones",
    )
    state.add_argument(
        "--forget",
        action="store_true",
        help="copy nothing, and owe nothing there any more; what is there stays",
    )
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
    if args.all and args.forget and not args.to:
        raise InvalidValueError("--all --forget needs the name of what to forget: --to NAME.")
    if not args.all:
        return [find_run(args, key) for key in args.runs]
    registry = registry_of(args)
    check_project(registry, args.project)
    return list(registry.list_experiments(args.project))


def _copies(args: argparse.Namespace) -> "tuple[list[_Work], bool]":
    """Return what is to be copied, and whether anything hinders some of it."""
    records = _chosen(args)
    copies: list[_Work] = []
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


def _copies_of(args: argparse.Namespace, record: "RunRecord") -> "list[_Work]":
    if args.all and record.status == "running" and not args.follow:
        return []  # Its own process is at it.
    given = _given_options(args)
    if args.forget:
        return [_Forgetting(record, name) for name in _to_forget(args, given, record)]
    known = _known_targets(record)
    names = args.to or list(given) or list(known)
    if not names and not args.all:
        raise InvalidValueError(
            f"Run {record.key} has no copy in a service to be brought up to date. Say where to: "
            "--to mlflow, --to wandb, or the name of an entry point. (TensorBoard's files are none "
            "such, they are written anew: --to tensorboard.)"
        )
    _check_used(given, names, known)
    copies: list[_Work] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            copies.append(_Events(record, args.log_dir))
        else:
            target = _target(name, given, known)
            copies.append(_Copy(record, target, follow=args.follow, again=args.again))
    return [copy for copy in copies if not args.all or copy.is_owed]


def _to_forget(
    args: argparse.Namespace, given: Mapping[str, object], record: "RunRecord"
) -> list[str]:
    """Name the mirrors of a run that are meant; damaged ones can be forgotten, too."""
    known = record.mirrors
    names = ", ".join(sorted(known)) or "none"
    if given:
        raise InvalidValueError(
            f"--forget goes by name, not by options: --to NAME. Run {record.key} has: {names}."
        )
    if args.all:
        return [name for name in args.to if name in known and not known[name]["complete"]]
    if unknown := [name for name in args.to if name not in known]:
        raise InvalidValueError(
            f"Run {record.key} has no copy called {unknown[0]!r} to forget. It has: {names}."
        )
    if not args.to and len(known) != 1:
        raise InvalidValueError(f"Say what to forget: --to NAME. Run {record.key} has: {names}.")
    return list(dict.fromkeys(args.to or known))


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
    from experiment_tracking.backends.catalog import Target, is_switched_off, make

    before = known.get(name, Target(name, {}, name))
    target = before._replace(options={**before.options, **given.get(before.backend, {})})
    _check_whole(target)
    # Made once here: a mistake is told at once, and addresses come out in full.
    backend = make(target.backend, target.options)
    if is_switched_off(backend):
        raise InvalidValueError(
            f"{name} is switched off (mode 'disabled'), so nothing would be copied. Give another "
            "--mode, or unset $WANDB_MODE."
        )
    made = getattr(backend, "options", None)
    target = target._replace(options=target.options if made is None else made)
    if name not in known or _is_same(target, before):
        return target
    same = (other.name for other in known.values() if _is_same(target, other))
    return target._replace(name=next(same, None) or _free_name(before.backend, known))


def _is_same(target: "Target", kept: "Target") -> bool:
    names = {*target.options, *kept.options}
    if target.backend == "wandb":
        names.discard("mode")  # An offline copy is sent by going on with it online.
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

    def __init__(
        self, record: "RunRecord", target: "Target", *, follow: bool, again: bool = False
    ) -> None:
        from experiment_tracking.backends.mirror import Orders

        self.record = record
        self.name = target.name
        self._target = target
        self._follow, self._again = follow, again
        self._orders = Orders()
        self._mirror = _new_mirror(record.folder, target, self._orders)
        self._progress: Progress | None = None
        self._failure: Exception | None = None
        # Not the thread is waited for: Ctrl-C in a join makes it look as if it had ended.
        self._ended = threading.Event()
        self._is_started = False
        self._told_at, self._told = time.monotonic(), ""
        self._told_error: str | None = None

    def start(self) -> None:
        """Start the thread."""
        self._is_started = True
        threading.Thread(target=self._run, name=f"push {self.name}", daemon=True).start()

    def _run(self) -> None:
        try:
            if self._again:
                _forget(self.record.folder, self.name, self._target)
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
        failing = progress.failing and progress.error
        text = f"{progress.error} (trying again)" if failing else self._rows_text()
        if text != self._told and time.monotonic() - self._told_at > _TELL_EVERY_S:
            self._told_at, self._told = time.monotonic(), text
            self._told_error = progress.error if failing else self._told_error
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
        """Whether something is missing there, or all of it is to be given anew."""
        return self._again or not self.record.mirrors.get(self.name, {}).get("complete")

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
        # In full, while a line of the outcome ends where the terminal does; and once.
        if self._progress.failing and self._progress.error not in (None, self._told_error):
            say(f"{self.record.key} to {self.name}: {self._progress.error}")
        if screen is not None:
            outcome = self._outcome(self._progress)
            _print_outcome(screen, self.record, self.name, outcome, self._progress.url)

    def _outcome(self, progress: "Progress") -> Cell:
        if progress.complete:
            return Cell("complete", "green")
        if self.is_done:
            return Cell("all of what there is so far", "cyan")
        return Cell(_owed(progress), "red")

    def to_dict(self) -> dict[str, Any]:
        """Return how it ended, as JSON has it."""
        ended = {} if self._progress is None else self._progress._asdict()
        if self._failure is not None:
            ended["error"] = str(self._failure)
        return {"run": self.record.key, "backend": self.name, "done": self.is_done, **ended}


def _owed(progress: "Progress") -> str:
    from experiment_tracking.registry.wording import plural

    rows = f"{size(progress.owed_bytes)} of rows" if progress.owed_bytes else ""
    files = plural(progress.owed_files, "file") if progress.owed_files else ""
    owed = " and ".join(filter(None, (rows, files)))
    return f"not complete: {owed} owed" if owed else "not complete"


class _AtOnce(ABC):
    """What is done with one run in a moment, without a thread."""

    is_owed = True

    def __init__(self, record: "RunRecord", name: str, place: str | None) -> None:
        self.record = record
        self.name = name
        self._place = place
        self._done: dict[str, Any] | None = None
        self._failure: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has been done."""
        return self._done is not None

    def start(self) -> None:
        """Do it."""
        try:
            self._done = self._do()
        except (ExperimentTrackingError, OSError) as error:
            self._failure = error

    @abstractmethod
    def _do(self) -> dict[str, Any]:
        """Do it and return what JSON tells of it."""

    def look(self) -> bool:
        """Return that nothing goes on."""
        return False

    def let_go(self) -> None:  # noqa: B027
        """Do nothing: it holds nothing."""

    def tell_outcome(self, screen: Screen | None) -> None:
        """Print how it ended."""
        if self._done is None:
            say(f"{self.record.key} to {self.name}: {self._failure}")
        elif screen is not None:
            outcome = Cell(self._words(self._done), "green")
            _print_outcome(screen, self.record, self.name, outcome, self._place)

    @abstractmethod
    def _words(self, done: Mapping[str, Any]) -> str:
        """Say the same to people."""

    def to_dict(self) -> dict[str, Any]:
        """Return how it ended, as JSON has it."""
        error = None if self._failure is None else str(self._failure)
        plain = {"run": self.record.key, "backend": self.name, "done": self.is_done}
        return {**plain, **(self._done or {}), "error": error, "url": self._place}


class _Events(_AtOnce):
    """One run on its way to TensorBoard's event files, which are written anew."""

    def __init__(self, record: "RunRecord", log_dir: str | None) -> None:
        if record.status == "running" and log_dir is None:
            raise RunBusyError(
                f"Run {record.key} is being written, its TensorBoard files too. Wait for its end, "
                "or have others made elsewhere: --log-dir DIR."
            )
        super().__init__(record, "tensorboard", log_dir or record.folder.tensorboard)
        self._log_dir = log_dir

    def _do(self) -> dict[str, Any]:
        from experiment_tracking.backends.events import write_again

        return {"complete": True, "rows": write_again(self.record.folder, self._log_dir)}

    def _words(self, done: Mapping[str, Any]) -> str:
        return f"{done['rows']:,} rows written"


class _Forgetting(_AtOnce):
    """One run that is not to be copied to a service any more."""

    def __init__(self, record: "RunRecord", name: str) -> None:
        super().__init__(record, name, record.mirrors[name].get("url"))

    def _do(self) -> dict[str, Any]:
        _forget(self.record.folder, self.name)
        return {"forgotten": True}

    def _words(self, done: Mapping[str, Any]) -> str:
        return "forgotten"


_Work = _Copy | _AtOnce


def _forget(folder: "RunFolder", name: str, anew: "Target | None" = None) -> None:
    """Drop how far a mirror has come, and note that it is to be made ``anew``."""
    from experiment_tracking.backends.claim import Claim
    from experiment_tracking.backends.progress import begin, read_state
    from experiment_tracking.capture.redaction import redact_text
    from experiment_tracking.errors import DamagedError

    claim = Claim.take(folder, name)  # which a living process has that goes by what stands there
    try:
        kept = {}
        # By this alone W&B's rows can be told from its figures. MLflow's names a run that is gone.
        if anew is not None and anew.backend == "wandb":
            with contextlib.suppress(DamagedError):
                kept = read_state(folder.backend(name))["state"]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder.backend(name))
        if anew is not None:
            begin(folder, anew, redact_text, kept)
    finally:
        claim.release()


def _make(copies: "Sequence[_Work]", screen: Screen | None) -> None:
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
    from experiment_tracking.formats.models.saved import SavedModel

    return Mirror(folder, target, redact=redact_text, model_handle=SavedModel, orders=orders)
