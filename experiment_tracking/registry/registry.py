"""Many runs: found by key, listed, ranked and compared."""

import contextlib
import gc
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import DamagedError, InvalidTypeError, RunNotFoundError
from experiment_tracking.folder import layout
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.registry.columns import near

if TYPE_CHECKING:
    # Records, tables and comparisons are loaded when first asked for.
    import pandas as pd

    from experiment_tracking.registry.compare import Comparison
    from experiment_tracking.registry.diff import RunDiff
    from experiment_tracking.registry.record import RunRecord, Unreadable
    from experiment_tracking.registry.runset import RunSet, Tags, Where

Path = str | os.PathLike[str]
Key = Any
"""A path, name, project/name, id or prefix of one, ``latest``, ``best:val/loss``, or a record."""

_LATEST = re.compile(r"latest(?:~(\d+))?")
_SHORTEST_ID = 4
_EMPTY_BYTES = 4  # of a history without rows


class ExperimentRegistry:
    """Read the runs of one or more roots; nothing is ever written to them.

    Parameters
    ----------
    root
        Folder of projects, or a list of these. By default ``$EXPERIMENT_TRACKING_ROOT``, else
        the nearest ``experiments`` in this folder or one above.
    more_roots
        Further ones.

    Raises
    ------
    RootNotFoundError
        If a root does not exist; it says where was looked.

    Examples
    --------
    >>> registry = ExperimentRegistry("./experiments")  # doctest: +SKIP
    >>> registry.best("val/loss").params["lr"]  # doctest: +SKIP
    0.1
    """

    def __init__(
        self,
        root: Path | Sequence[Path] | None = None,
        *more_roots: Path,
    ) -> None:
        first: Any = [root] if _is_one(root) else root
        roots = [layout.existing_root(_checked(each)) for each in (*first, *more_roots)]
        self.roots = list(dict.fromkeys(roots))
        self.problems: list[Unreadable] = []
        """Runs that could not be read when the runs were last listed, with the reason."""

    def __repr__(self) -> str:
        return f"<ExperimentRegistry of {', '.join(self.roots)}>"

    def list_projects(self) -> list[str]:
        """Return the names of the projects that hold a run, sorted."""
        return sorted(
            {
                project
                for root in self.roots
                for project in layout.iter_projects(root)
                if next(layout.iter_runs(root, project), None)
            }
        )

    def list_experiments(
        self,
        project: str | None = None,
        where: "Where | None" = None,
        status: str | Iterable[str] | None = None,
        tags: "Tags | None" = None,
        order_by: str | None = None,
        limit: int | None = None,
    ) -> "RunSet":
        """List the runs that meet all conditions.

        Reads one ``summary.json`` per run. A run that cannot be read goes to :attr:`problems`.

        Parameters
        ----------
        project
            Runs of this project alone.
        where
            A function of a :class:`RunRecord` that says whether to keep it.
        status
            One of running, finished, failed, killed, crashed, or several.
        tags
            A tag or list of tags that must be there, or a mapping of tags to their values.
        order_by
            ``"created_at"`` by default; any run column, metric or param; ``-`` before it for the
            highest first. Runs without it come last.
        limit
            At most so many.
        """
        found = self._scan(project).filter(where, status, tags)
        return found.order_by(order_by or "created_at").limit(limit)

    def to_frame(self, columns: Sequence[str] | None = None, **filters: Any) -> "pd.DataFrame":
        """Return the runs as a table; see :meth:`RunSet.to_frame` and :meth:`list_experiments`."""
        if columns is not None or not filters.keys() <= {"project", "where", "status", "tags"}:
            return self.list_experiments(**filters).to_frame(columns)
        return self._stream(**filters)

    def _stream(
        self,
        project: str | None = None,
        where: "Where | None" = None,
        status: str | Iterable[str] | None = None,
        tags: "Tags | None" = None,
    ) -> "pd.DataFrame":
        # Run by run: to keep what was read of ten thousand costs as much as to read it.
        from experiment_tracking.registry.runset import to_conditions

        conditions = to_conditions(where, status, tags)
        self.problems = []
        from experiment_tracking.registry.table import RunTable

        table = RunTable(self.problems)
        with _gc_paused():
            for path in self._paths(project):
                if not conditions and table.add_path(path):
                    continue
                record = self._read(path)
                if record and all(holds(record) for holds in conditions):
                    table.add(record)
            frame = table.to_frame()
        return frame.sort_values("created_at", kind="stable", ignore_index=True)

    def get(self, key: Key) -> "RunRecord":
        """Return one run.

        Parameters
        ----------
        key
            A path, name, ``project/name``, id or its first characters (4 or more), ``"latest"``,
            ``"latest~1"`` (the one before), ``"best:val/loss"``, or a record or run.

        Raises
        ------
        RunNotFoundError
            If no run or several answer to it; near names or the candidates are shown.
        DamagedError, OSError
            If that run cannot be read.
        """
        from experiment_tracking.registry.record import RunRecord

        if isinstance(key, RunRecord):
            return key
        path = getattr(key, "path", key)  # a Run of this process, or a path
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidTypeError(
                f"A run is named by text, a path or a record, found {key!r:.60} of type "
                f"{type(key).__name__}."
            )
        return self._get(os.fspath(path))

    def compare_experiments(
        self, experiment_paths: Any, metrics: str | Iterable[str] | None = None
    ) -> "Comparison":
        """Put runs side by side.

        Parameters
        ----------
        experiment_paths
            Paths, names, ids or records; anything :meth:`get` takes.
        metrics
            Columns such as ``"loss"``, ``"best_accuracy"`` or ``"val/loss:min"``; by default
            the last value of every metric that any of the runs has.

        Raises
        ------
        RunNotFoundError, MetricNotFoundError
            For a run or metric that is not there.
        """
        from experiment_tracking.registry.compare import Comparison

        return Comparison(self._all(experiment_paths), metrics)

    def best(
        self,
        metric: str,
        mode: str | None = None,
        on: str = "best",
        status: str | Iterable[str] | None = None,
        **filters: Any,
    ) -> "RunRecord":
        """Return the run with the best value of a metric; NaN never wins, the older run does.

        Parameters
        ----------
        metric
            Its name, or the last part of it.
        mode
            ``"min"`` or ``"max"``; by default the metric's goal.
        on
            ``"best"``: each run counts with its own best value. ``"last"``: with its last.
        status
            Runs of every status count unless it is given.
        **filters
            ``project``, ``tags``, ``where`` as in :meth:`list_experiments`.

        Raises
        ------
        MetricNotFoundError
            If no run meets the conditions, or none that does has a value of that metric; near
            names are shown.
        InvalidValueError
            If the metric has no goal and no mode is given.
        """
        return self.list_experiments(status=status, **filters).best(metric, mode, on)

    def history(
        self, metrics: str | Iterable[str] | None = None, runs: Any = None
    ) -> "pd.DataFrame":
        """Read the rows of many runs as one long table.

        Parameters
        ----------
        metrics
            All by default.
        runs
            Anything that :meth:`get` takes, or several; all runs by default.

        Returns
        -------
        pandas.DataFrame
            ``run`` (``project/name``), ``step``, ``time`` (Unix seconds), ``metric``, ``value``:
            a row per number logged.
        """
        from experiment_tracking.registry.frames import long_frame

        return long_frame(self.list_experiments() if runs is None else self._all(runs), metrics)

    def diff(self, a: Key, b: Key) -> "RunDiff":
        """Return what two runs differ in: params, metrics, code, packages, machine, inputs.

        Parameters
        ----------
        a, b
            Two runs, as :meth:`get` takes them; differences are told as going from a to b.

        Returns
        -------
        RunDiff
            A section per kind of difference, empty where there is none. Where the commits
            differ, a repository on this machine is asked for what lies between them.

        Raises
        ------
        RunNotFoundError, DamagedError, OSError
            As :meth:`get` does; other damaged files are told in its ``problems``.
        """
        from experiment_tracking.registry.diff import RunDiff

        return RunDiff(self.get(a), self.get(b))

    # ------------------------------------------------------------------ finding

    def _scan(self, project: str | None = None) -> "RunSet":
        self.problems = []
        with _gc_paused():
            records = [record for path in self._paths(project) if (record := self._read(path))]
        from experiment_tracking.registry.runset import RunSet

        return RunSet(records, self.problems)

    def _paths(self, project: str | None) -> Iterator[str]:
        for root in self.roots:
            for name in layout.iter_projects(root):
                if project in (None, name):
                    above = os.path.join(root, name)
                    # The same rule of names holds for runs as for projects.
                    for run in layout.iter_projects(above):
                        yield f"{above}/{run}"

    def _read(self, path: str) -> "RunRecord | None":
        from experiment_tracking.registry.record import RunRecord, Unreadable

        try:
            return RunRecord(path)
        except FileNotFoundError:
            # A run that is just being opened, or was killed then, has no summary and no rows.
            if _has_rows(path):
                self.problems.append(Unreadable(path, "has rows but no summary.json"))
        except (DamagedError, OSError) as error:
            self.problems.append(Unreadable(path, str(error)))
        return None

    def _get(self, key: str) -> "RunRecord":
        from experiment_tracking.registry.record import RunRecord

        if latest := _LATEST.fullmatch(key):
            return self._latest(int(latest[1] or 0))
        if key.startswith("best:"):
            return self.best(key.removeprefix("best:"))
        paths = self._named(key)
        if not paths and len(key) >= _SHORTEST_ID:
            paths = [r.folder.path for r in self._scan() if r.id.startswith(key)]
        if len(paths) != 1:
            raise RunNotFoundError(self._not_one(key, paths))
        return RunRecord(paths[0])

    def _latest(self, number: int) -> "RunRecord":
        runs = self.list_experiments()
        if number >= len(runs):
            raise RunNotFoundError(
                f"There is no run latest~{number}: {', '.join(self.roots)} has {len(runs)} runs."
            )
        return runs[-1 - number]

    def _named(self, key: str) -> list[str]:
        """Paths of the runs that bear the name, or lie at the path."""
        path = RunFolder(os.path.expanduser(key))
        if os.path.isdir(path.path) and path.exists():
            return [path.path]
        project, _, name = key.rpartition("/")
        found = [
            RunFolder(os.path.join(root, each, name))
            for root in self.roots
            for each in layout.iter_projects(root)
            if project in ("", each)
        ]
        return [folder.path for folder in found if name and name[0] not in "._" and folder.exists()]

    def _not_one(self, key: str, paths: Sequence[str]) -> str:
        if paths:
            return f"Several runs answer to {key!r}: {', '.join(sorted(paths))}. Give one's path."
        folders = [folder for root in self.roots for folder in layout.iter_runs(root)]
        known = [f"{f.project}/{f.name}" if "/" in key else f.name for f in folders]
        return f"There is no run {key!r} in {', '.join(self.roots)}. {near(key, known)}"

    def _all(self, keys: Any) -> "RunSet":
        from experiment_tracking.registry.runset import RunSet

        return RunSet([self.get(key) for key in ([keys] if _is_one(keys) else keys)], self.problems)


def _is_one(keys: Any) -> bool:
    return isinstance(keys, (str, os.PathLike)) or not isinstance(keys, Iterable)


def _checked(root: Path | None) -> Path | None:
    if root is None or isinstance(root, (str, os.PathLike)):
        return root
    raise InvalidTypeError(
        f"A root must be the path of a folder of projects, or a list of these; found {root!r:.60} "
        f"of type {type(root).__name__}. Write ExperimentRegistry('experiments')."
    )


def _has_rows(path: str) -> bool:
    try:
        return os.path.getsize(RunFolder(path).history()) > _EMPTY_BYTES
    except OSError:
        return False


@contextlib.contextmanager
def _gc_paused() -> Iterator[None]:
    """Keep the collector from walking through all that a scan has read, again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
