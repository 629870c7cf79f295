"""The front door: one object that opens runs, logs to the current one and looks at the others."""

import contextlib
import os
import weakref

# threading.RLock itself, without the 2.5 ms that importing threading takes.
from _thread import RLock
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from experiment_tracking.errors import (
    DamagedError,
    ExperimentTrackingError,
    InvalidTypeError,
    InvalidValueError,
    RunEndedError,
    RunNotFoundError,
)
from experiment_tracking.folder import layout, values
from experiment_tracking.folder.documents import read_document
from experiment_tracking.folder.layout import (
    HANDOVER_VARIABLE,
    RUN_VARIABLE,
    SCRATCH_VARIABLE,
    RunFolder,
)
from experiment_tracking.logs import Logs, to_params, to_status, to_tags, to_text
from experiment_tracking.notices import notice
from experiment_tracking.settings import Identity, Settings

if TYPE_CHECKING:
    # What it takes to write a run is loaded when the first one opens.
    from pathlib import Path
    from types import TracebackType

    import pandas as pd

    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.registry import ExperimentRegistry
    from experiment_tracking.run import Run

_LONGEST_TIMEOUT_S = 1_000_000
_RESUME_WORDS = ("never", "allow", "must", "force")

# Weak: a run that only this remembers is over.
_opened_here: ContextVar[tuple["weakref.ref[Run]", ...]] = ContextVar("opened_here", default=())

_Latest = tuple[object, int, "Run | None"]


class ExperimentTracker(Logs):
    """Open runs in a project, log to the current one, compare with the earlier ones.

    Making a tracker touches no disk. The first ``log_`` call without a started run opens the
    default run. As a context manager it ends all its runs on the way out.

    Parameters
    ----------
    project
        The project's name.
    experiment_name
        Without ``project`` it is the project, and the default run bears the same name. With
        one, the default run is ``project/experiment_name`` and runs from :meth:`start_run` get
        ``group=experiment_name``. Neither: the project ``default``.
    root
        Folder of projects. By default ``$EXPERIMENT_TRACKING_ROOT``, else the nearest
        ``experiments`` in this folder or one above, else ``./experiments``.
    config, tags, notes, group
        Defaults of every run.
    use_tensorboard
        Write TensorBoard's files as well.
    use_wandb, use_mlflow
        Copy every run to Weights & Biases or MLflow, into the project or experiment that bears
        the project's name; to MLflow at ``$MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db`` in
        this folder, unless ``tracking_uri`` says where. A process beside this one does it, out of
        the run's folder: what goes wrong there costs training nothing, and ``experiments push``
        sends what was not sent.
    backend
        ``"files"``, ``"wandb"``, ``"mlflow"``, ``"tensorboard"``, the name of an entry point of
        ``experiment_tracking.backends``, an instance with the methods of
        :class:`~experiment_tracking.backends.BackendInterface`, or a list of these. Files are
        always written.
    tracking_uri
        Where MLflow is: ``http://…``, ``sqlite:///…`` or a folder; implies ``use_mlflow``.
    auto_log
        Record git, packages, command line, code and system metrics. False: params, metrics and
        status alone.
    resume
        ``"never"``; ``"allow"`` goes on with the newest run of that name, if there is one;
        ``"must"`` insists on it; ``"force"`` does so although its writer seems alive; or the id
        or path of the run. Under ``experiments run`` the run that it has opened goes first.
    rank
        Number of this process among several. Those above 0 write nothing. By default ``$RANK``
        where ``$WORLD_SIZE`` is above 1.
    on_error
        ``"warn"``: a disk that refuses never stops training. ``"raise"``: it does.
    capture_console
        Copy stdout and stderr of this process, C code and child processes included, to
        ``console.log``. ``experiments run`` does so by itself.
    system_metrics_interval_s
        Seconds between two samples of CPU, memory, disk, network and GPUs; None: no samples.
    print_changes
        Print at a run's end what has changed since the last run of the same script.
    verify_backends
        Ask every backend now whether its service answers: MLflow and W&B for at most 10 s, and
        without importing their packages here.
    exit_timeout_s
        Seconds that the end of a run waits for its backends, all together. What they are owed
        then is said, and kept in the summary.

    Raises
    ------
    InvalidNameError, InvalidValueError, InvalidTypeError, BackendError
        For arguments that cannot be; BackendError too for a service that does not answer, with
        ``verify_backends``.
    MissingPackageError
        If a backend's package is not installed.

    Examples
    --------
    >>> with ExperimentTracker("digits") as tracker:  # doctest: +SKIP
    ...     tracker.log_params({"lr": 0.1})
    ...     for step in range(100):
    ...         tracker.log_metrics({"loss": 1 / (step + 1)}, step=step)
    """

    def __init__(
        self,
        project: str | None = None,
        experiment_name: str | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        config: Any = None,
        tags: Mapping[str, Any] | Iterable[str] | str | None = None,
        notes: str = "",
        group: str | None = None,
        use_tensorboard: bool = True,
        use_wandb: bool = False,
        use_mlflow: bool = False,
        backend: Any = None,
        tracking_uri: str | None = None,
        auto_log: bool = True,
        resume: str | os.PathLike[str] = "never",
        rank: int | None = None,
        on_error: str = "warn",
        capture_console: bool = False,
        system_metrics_interval_s: float | None = 10.0,
        print_changes: bool = False,
        verify_backends: bool = False,
        exit_timeout_s: float = 10.0,
    ) -> None:
        for name, what in ((project, "The project name"), (experiment_name, "The experiment name")):
            if name is not None:
                layout.check_name(name, what)
        if on_error not in ("warn", "raise"):
            raise InvalidValueError(f"on_error must be 'warn' or 'raise', found {on_error!r}.")
        self._root = self._registry_root = layout.find_root(root)
        self.project = project or experiment_name or "default"
        self._default_group = None if group is None else to_text(group, "group")
        self.group = experiment_name if group is None and project else self._default_group
        self._default_name = experiment_name
        self._config = config
        self._identity = Identity(to_params(config), to_tags(tags), to_text(notes, "notes"))
        settings = Settings(
            use_tensorboard,
            auto_log=auto_log,
            on_error=on_error,
            system_interval_s=_to_interval(system_metrics_interval_s),
            capture_console=capture_console,
            on_end=_print_changes if print_changes else None,
            exit_timeout_s=_to_timeout(exit_timeout_s),
        )
        self._resume = _to_resume(resume)
        self._rank = _this_rank(rank)
        asked = {"use_wandb": use_wandb, "use_mlflow": use_mlflow, "tracking_uri": tracking_uri}
        verify = verify_backends and self._rank == 0
        self._settings = _with_backends(settings, backend, asked, verify=verify)
        # By id(): several threads open runs at once, and one dict operation needs no lock.
        self._open_runs: dict[int, Run] = {}
        self._opened = 0
        self._opening: dict[int, RLock] = {}
        self._latest: _Latest = (None, 0, None)
        self._has_run = False
        self._finished = False
        self._seeds: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<ExperimentTracker {self.project} in {self._root}>"

    @property
    def root(self) -> "Path":
        """Folder of projects, absolute."""
        from pathlib import Path

        return Path(self._root)

    # ------------------------------------------------------------------ runs

    @property
    def run(self) -> "Run | None":
        """The open run that calls log to: this thread's innermost, else the newest; None without.

        Asking opens none, where the first ``log_`` call would.
        """
        return self._current()

    @overload
    def start_run(
        self,
        run_name: str | None = None,
        config: Any = None,
        tags: Mapping[str, Any] | Iterable[str] | str | None = None,
        parent: Any = None,
        *,
        skip_existing: Literal[False] = False,
    ) -> "Run": ...
    @overload
    def start_run(
        self,
        run_name: str | None = None,
        config: Any = None,
        tags: Mapping[str, Any] | Iterable[str] | str | None = None,
        parent: Any = None,
        *,
        skip_existing: bool,
    ) -> "Run | RunRecord": ...
    def start_run(
        self,
        run_name: str | None = None,
        config: Any = None,
        tags: Mapping[str, Any] | Iterable[str] | str | None = None,
        parent: Any = None,
        *,
        skip_existing: bool = False,
    ) -> "Run | RunRecord":
        """Open a run and make it the current one.

        Parameters
        ----------
        run_name
            Becomes the folder's name; a taken one gets ``-2``, ``-3``, … By default the time
            and four characters.
        config
            Params, over those of the tracker.
        tags
            Tags, over those of the tracker.
        parent
            A :class:`Run`, a record, or an id; kept as id.
        skip_existing
            Open none where this project has a finished run of this script that had the same
            params, code and inputs; return that one as read, with a notice. All params that the
            run logs count, so give all as ``config``. Inputs are compared that are files or
            folders: arrays are not there yet. A notebook's code cannot be compared.

        Returns
        -------
        Run
            A context manager. With ``skip_existing`` perhaps a :class:`RunRecord`.

        Notes
        -----
        Makes ``<root>/<project>/<run>/`` with its first documents, without waiting for the disk.

        Examples
        --------
        >>> for config in configs:  # doctest: +SKIP
        ...     run = tracker.start_run(config=config, skip_existing=True)
        ...     if run.status == "finished":
        ...         continue
        """
        if skip_existing:
            config = to_params(config)
            if found := self._existing({**self._identity.params, **config}):
                return found
        return self._start(run_name, config, tags, parent, self.group)

    def _existing(self, params: Mapping[str, Any]) -> "RunRecord | None":
        # A rerun was asked for, and a run that a launcher offers is open already.
        offered = os.environ.get(HANDOVER_VARIABLE)
        is_open = offered and os.path.lexists(RunFolder(offered).handover)
        if is_open or SCRATCH_VARIABLE in os.environ or not os.path.isdir(self._registry_root):
            return None
        from experiment_tracking.capture.code import entry_script
        from experiment_tracking.registry.equal import existing_run

        script = entry_script()
        if script is None:
            notice("skip_existing: no script to compare (a notebook's cells are not); run starts.")
            return None
        found = existing_run(self.registry, self.project, params, script)
        if found:
            notice(
                f"run {found.key} had the same params, code and inputs; no new one is started "
                "(skip_existing)."
            )
        return found

    def _start(
        self, name: str | None, config: Any, tags: Any, parent: Any, group: str | None
    ) -> "Run":
        self._finished = False
        if name is not None:
            layout.check_name(name, "The run name")
        identity = Identity(
            params={**self._identity.params, **to_params(config)},
            tags={**self._identity.tags, **to_tags(tags)},
            notes=self._identity.notes,
            group=group,
            parent=_to_id(parent),
        )
        if self._rank > 0:
            return self._adopt(self._silent(name))
        run = self._offered(identity) or self._resumed(name, identity) or self._new(name, identity)
        if self._seeds is not None:
            run._keep_seeds(self._seeds)
        return self._adopt(run)

    def _offered(self, identity: Identity) -> "Run | None":
        """Take the run that a launcher has opened for us, if one has."""
        from experiment_tracking.run import adopt_run

        adopted = adopt_run(identity, self._settings)
        if adopted is not None:
            self._registry_root = adopted._writer.folder.root
        return adopted

    def _new(self, name: str | None, identity: Identity) -> "Run":
        from experiment_tracking.run import open_run

        root = os.environ.get(SCRATCH_VARIABLE) or self._root
        return open_run(root, self.project, name, identity, self._settings)

    def _adopt(self, run: "Run") -> "Run":
        self._has_run = True
        for key, known in list(self._open_runs.items()):
            if known._writer.ended:
                self._open_runs.pop(key, None)
        self._open_runs[id(run)] = run
        self._opened += 1
        kept = [ref for ref in _opened_here.get() if (here := ref()) and not here._writer.ended]
        _opened_here.set((*kept, weakref.ref(run)))
        return run

    def _silent(self, name: str | None) -> "Run":
        from experiment_tracking.run import silent_run

        if not self._has_run:
            notice(f"rank {self._rank} writes nothing; rank 0 keeps the run.")
        return silent_run(self._root, self.project, name)

    def _resumed(self, name: str | None, identity: Identity) -> "Run | None":
        # A rerun must leave the run alone that it runs again.
        if self._resume == "never" or SCRATCH_VARIABLE in os.environ:
            return None
        folder = self._find_resumable(name)
        if folder is None:
            return None
        from experiment_tracking.run import resume_run

        force = self._resume == "force"
        return resume_run(folder, identity, self._settings, force=force)

    def _find_resumable(self, name: str | None) -> RunFolder | None:
        if self._resume not in _RESUME_WORDS:
            words = ", ".join(map(repr, _RESUME_WORDS))
            return _folder_of(self._root, self._resume, f"resume takes {words}, or a run. ")
        if name is None:
            raise InvalidValueError(
                f"resume={self._resume!r} needs the name of a run: give experiment_name, or "
                "start_run(run_name), or the run's id or path as resume."
            )
        found = _newest_of_name(self._root, self.project, name)
        if found is None and self._resume != "allow":
            raise RunNotFoundError(
                f"resume={self._resume!r}: there is no run {name!r} in "
                f"{self._root}/{self.project}. Use resume='allow' to start a new one."
            )
        return found

    def seed_everything(self, seed: int | None = None) -> int:
        """Seed ``random`` and, where imported, numpy and torch; see :meth:`Logs.seed_everything`.

        Before a run is open the seed is recorded in each that this tracker opens.
        """
        from experiment_tracking.capture.seeds import seed_everything

        seeds = seed_everything(seed)
        self._seeds = seeds.to_dict()
        run = self._current()
        if run is not None:
            run._keep_seeds(self._seeds)
        return seeds.seed

    def join(self, run: str | os.PathLike[str] | None = None) -> "Run":
        """Add rows to a run of another process, as a second writer.

        Parameters
        ----------
        run
            Path or id; by default ``$EXPERIMENT_TRACKING_RUN``, which an open run exports to
            its children.

        Notes
        -----
        Writes ``metrics_history.<rank>.json`` with a ``rank`` in every row. Views show rank 0
        unless asked for ``ranks="all"``.
        """
        from experiment_tracking import run as runs

        key = _to_path(run, "join") if run is not None else os.environ.get(RUN_VARIABLE)
        if not key:
            raise RunNotFoundError(
                f"join() was given no run and {RUN_VARIABLE} is not set. Pass the run's path or id."
            )
        rank = str(self._rank) if self._rank > 0 else None
        return self._adopt(runs.join(_folder_of(self._root, key).path, rank))

    def end_run(self, status: str = "FINISHED") -> None:
        """End the current run; see :meth:`Run.end_run`."""
        run = self._current()
        if run is None:
            raise RunEndedError("There is no open run to end. Start one with start_run().")
        run.end_run(status)

    def finish(self, status: str = "FINISHED") -> None:
        """End all open runs of this tracker, the newest first.

        Raises
        ------
        RunEndedError
            If it has been finished already and no run was started since.
        """
        if self._finished:
            raise RunEndedError(f"The tracker of {self.project!r} has been finished already.")
        word = to_status(status)
        for run in self._newest_first():
            run._writer.close(word)
        self._open_runs.clear()
        self._finished = self._has_run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: "TracebackType | None",
    ) -> None:
        if error is not None and not self._has_run and self._rank <= 0:
            # It failed before it logged anything. That it was tried, and with what, is kept.
            with contextlib.suppress(ExperimentTrackingError):
                self._first_run()
        for run in self._newest_first():
            run.__exit__(kind, error, traceback)
        self._open_runs.clear()
        self._finished = self._has_run

    def __getstate__(self) -> dict[str, Any]:
        # In another process its runs are joined; locks and backends stay here.
        settings = self._settings._replace(backends=())
        kept_here = {"_opening": {}, "_latest": (None, 0, None), "_settings": settings}
        return self.__dict__ | kept_here | {"_open_runs": self._newest_first()[::-1]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        runs_of_parent = state.pop("_open_runs")
        self.__dict__.update(state)
        self._open_runs = {id(run): run for run in runs_of_parent}

    def _run(self) -> "Run":
        # Most calls follow one that went to the same run. One tuple, replaced whole: other
        # threads, with other runs, come this way at the same time.
        opened, number = _opened_here.get(), self._opened
        known_opened, known_number, run = self._latest
        if opened is known_opened and number == known_number and run and not run._writer.ended:
            return run
        run = self._current() or self._first_run()
        self._latest = (opened, number, run)
        return run

    def _first_run(self) -> "Run":
        # Threads that log their first row at the same time get one run. A lock for each
        # process: a forked child would inherit a locked one.
        with self._opening.setdefault(os.getpid(), RLock()):
            run = self._current()
            if run is None and self._has_run:
                raise RunEndedError(
                    f"The runs of this tracker in {self.project!r} have ended. Start a new one "
                    "with start_run() before logging."
                )
            return run or self._open_default()

    def _current(self) -> "Run | None":
        """Return the innermost open run of this thread, else the newest one."""
        for ref in reversed(_opened_here.get()):
            run = ref()
            if run is not None and not run._writer.ended and id(run) in self._open_runs:
                return run
        return next((run for run in self._newest_first() if not run._writer.ended), None)

    def _newest_first(self) -> "list[Run]":
        return list(self._open_runs.values())[::-1]

    def _open_default(self) -> "Run":
        exported = os.environ.get(RUN_VARIABLE)
        if exported and self._rank <= 0 and self._is_our_running(exported):
            run = self.join(exported)
            notice(
                f"joined run {run.project}/{run.name} of the parent process ({RUN_VARIABLE}); "
                "start_run() opens a run of its own."
            )
            return run
        return self._start(self._default_name, None, None, None, self._default_group)

    def _is_our_running(self, path: str) -> bool:
        """Tell whether a parent process writes the default run of this very tracker there."""
        from experiment_tracking import endings
        from experiment_tracking.folder.liveness import status_of

        folder = RunFolder(path)
        wanted = (self._root, self.project)
        if (folder.root, folder.project) != wanted:
            return False
        if self._default_name is not None and not _number_of(folder.name, self._default_name):
            return False
        if any(path == writer.folder.path for writer in endings.open_writers()):
            return False
        try:
            summary = read_document(folder.summary)
        except (OSError, DamagedError):
            return False
        return status_of(summary, folder.heartbeat)[0] == "running"

    # ------------------------------------------------------------------ looking at runs

    @property
    def registry(self) -> "ExperimentRegistry":
        """A registry over this tracker's root; where a launcher opened the run, over its."""
        from experiment_tracking.registry.registry import ExperimentRegistry

        return ExperimentRegistry(self._registry_root)

    def get_best_run(self, metric: str, minimize: bool | None = None) -> "RunRecord":
        """Return the project's run with the best value of a metric.

        Each run counts with its own best value; NaN never wins.

        Parameters
        ----------
        metric
            Its name, or the last part of it.
        minimize
            Whether less is better. By default the metric's goal says so, which its name tells
            where none was defined; without any goal, less is better, with a notice.

        Raises
        ------
        MetricNotFoundError
            If no run has that metric; near names are shown.
        """
        from experiment_tracking.registry.columns import find_metric

        runs = self.registry.list_experiments(self.project)
        goals = runs.goals(find_metric(metric, runs.metric_names())) if runs else set()
        if minimize is None and len(goals) != 1:
            notice(f"whether more of {metric!r} is better is not known: the lowest value is taken.")
        less = goals != {"maximize"} if minimize is None else minimize
        if minimize is not None and goals == {"maximize" if minimize else "minimize"}:
            side = "more" if minimize else "less"
            notice(f"{side} of {metric!r} is better, but the best was asked for with {minimize=}.")
        return runs.best(metric, "min" if less else "max")

    def compare_runs(
        self,
        tags: Mapping[str, str] | Iterable[str] | None = None,
        metrics: Iterable[str] | None = None,
    ) -> "pd.DataFrame":
        """Return the project's runs as a table with a column per metric, by its name."""
        found = self.registry.list_experiments(self.project, tags=tags)
        comparison = self.registry.compare_experiments(found, metrics=metrics)
        return comparison.to_frame()


def _this_rank(rank: int | None) -> int:
    """Rank of this process; SLURM's variables alone say nothing (a job of one task has them)."""
    if rank is not None:
        number = values.to_step(rank, "rank")
        if number < 0:
            raise InvalidValueError(f"rank must be 0 or above, found {rank!r}.")
        return number
    given, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return int(given) if given.isdigit() and size.isdigit() and int(size) > 1 else 0


def _to_interval(interval_s: Any) -> float | None:
    if interval_s is None:
        return None
    if isinstance(interval_s, bool) or not isinstance(interval_s, (int, float)):
        raise InvalidTypeError(
            f"system_metrics_interval_s takes seconds or None, found {interval_s!r:.60}."
        )
    if not interval_s >= 1:
        raise InvalidValueError(
            f"system_metrics_interval_s must be 1 or more, found {interval_s!r}. Use None for no "
            "samples."
        )
    return float(interval_s)


def _to_timeout(timeout_s: Any) -> float:
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)):
        raise InvalidTypeError(f"exit_timeout_s takes seconds, found {timeout_s!r:.60}.")
    if not 0 <= timeout_s <= _LONGEST_TIMEOUT_S:
        raise InvalidValueError(
            f"exit_timeout_s must be from 0 to {_LONGEST_TIMEOUT_S:,}, found {timeout_s!r}."
        )
    return float(timeout_s)


def _print_changes(path: str) -> None:
    """Print what a run was given that the last one of its script, or the repeated, was not."""
    from experiment_tracking.registry.diff import last_run_of_same_script, summary_lines
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.registry import ExperimentRegistry

    record = RunRecord(path)
    registry = ExperimentRegistry(record.folder.root)
    last = last_run_of_same_script(registry, record)
    repeats = bool(record.summary.get("rerun_of"))
    if last is None:
        gone = (
            "repeats a run that is not there any more" if repeats else "is the first of its script"
        )
        notice(f"run {record.key} {gone}.")
        return
    changes = "; ".join(summary_lines(registry.diff(last, record))) or "nothing has changed"
    notice(f"since {last.key}{', which it repeats' if repeats else ''}: {changes}")


def _to_resume(resume: Any) -> str:
    try:
        return str(os.fspath(resume))
    except TypeError:
        raise InvalidTypeError(
            f"resume must be {', '.join(map(repr, _RESUME_WORDS))}, or the id or path of a run; "
            f"found {resume!r}."
        ) from None


def _to_path(run: Any, what: str) -> str:
    try:
        return str(os.fspath(getattr(run, "path", run)))
    except TypeError:
        raise InvalidTypeError(
            f"{what} takes the path or id of a run, found {run!r:.60} of type {type(run).__name__}."
        ) from None


def _to_id(parent: Any) -> str | None:
    return None if parent is None else str(getattr(parent, "id", parent))


def _folder_of(root: str, key: str, allowed: str = "") -> RunFolder:
    """Find a run by path or id, without the registry's machinery."""
    if os.path.isdir(key) and RunFolder(key).exists():
        return RunFolder(key)
    for folder in layout.iter_runs(root):
        try:
            if read_document(folder.summary).get("id") == key:
                return folder
        except (OSError, ValueError):
            continue  # A damaged neighbour; the registry's business to report.
    raise RunNotFoundError(f"{allowed}There is no run with path or id {key!r} in {root}.")


def _newest_of_name(root: str, project: str, name: str) -> RunFolder | None:
    """Return the run of that name with the highest suffix; no suffix without the bare name."""
    if not RunFolder(os.path.join(root, project, name)).exists():
        return None
    numbered = [(_number_of(f.name, name), f) for f in layout.iter_runs(root, project)]
    number, folder = max(numbered, key=lambda one: one[0], default=(0, None))
    return folder if number else None


def _number_of(folder_name: str, name: str) -> int:
    """Tell which run of ``name`` a folder is: 1, the number of its suffix, or 0 for none."""
    rest = folder_name.removeprefix(name + "-")
    if folder_name == name:
        return 1
    return int(rest) if rest != folder_name and rest.isascii() and rest.isdigit() else 0


def _with_backends(
    settings: Settings, backend: Any, asked: Mapping[str, Any], *, verify: bool
) -> Settings:
    if backend in (None, "files") and not any(asked.values()):
        return settings  # as most are; what follows takes a while to import
    from experiment_tracking.backends import catalog

    joined = catalog.join(backend, **asked)
    if verify:
        catalog.check_connections(joined)
    return settings._replace(
        use_tensorboard=settings.use_tensorboard or joined.event_files,
        backends=joined.bound,
        mirrors=joined.targets,
    )
