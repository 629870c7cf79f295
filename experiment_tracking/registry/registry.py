"""Many runs: found by key, listed, ranked and compared."""

import operator
import os
import re
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidTypeError, RunNotFoundError
from experiment_tracking.folder import layout
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.notices import notice
from experiment_tracking.registry.columns import near

if TYPE_CHECKING:
    # Records, tables and comparisons are loaded when first asked for.
    import pandas as pd

    from experiment_tracking.registry.aggregate import Aggregate, By
    from experiment_tracking.registry.compare import Comparison
    from experiment_tracking.registry.diff import RunDiff
    from experiment_tracking.registry.edit import Edit
    from experiment_tracking.registry.far import FarRoot
    from experiment_tracking.registry.importance import Importance, Neighbour
    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.runset import RunSet, Tags, Where
    from experiment_tracking.registry.summary import Unreadable

Path = str | os.PathLike[str]
Key = Any
"""A path, name, project/name, id or prefix of one, ``latest``, ``best:val/loss``, or a record."""

_LATEST = re.compile(r"latest(?:~(\d+))?")
_SHORTEST_ID = 4


class ExperimentRegistry:
    """Read the runs of one or more roots; nothing is ever written to them.

    Parameters
    ----------
    root
        Folder of projects, or a URL such as ``s3://bucket/team`` (extra ``remote``; read through
        a partial copy in the cache folder), or a list of these. By default
        ``$EXPERIMENT_TRACKING_ROOT``, else the nearest ``experiments`` in this folder or one
        above.
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
        self._far: list[FarRoot] = []
        self._copies = 0
        self._has_pulled = True  # when it was made: the first scan need not do it again
        roots = [self._to_root(_checked(each)) for each in (*first, *more_roots)]
        first_of: dict[str, str] = {}
        for each in roots:  # a link to a root is no second one
            first_of.setdefault(os.path.realpath(each), each)
        self.roots = list(first_of.values())
        self.problems: list[Unreadable] = []
        """Runs that could not be read when the runs were last listed, with the reason."""

    def __repr__(self) -> str:
        return f"<ExperimentRegistry of {', '.join(self.roots)}>"

    def _repr_html_(self) -> str:
        from experiment_tracking.registry.display import registry_html

        return registry_html(self)

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
        order_by: "str | Sequence[str] | None" = None,
        limit: int | None = None,
        refresh: bool = False,
        **equal: Any,
    ) -> "RunSet":
        """List the runs that meet all conditions.

        Reads ``summary.json`` and ``params.json`` of runs that are new or have changed; of all
        others it takes what an earlier scan has kept in the user's cache folder. A run that
        cannot be read goes to :attr:`problems`.

        Parameters
        ----------
        project
            Runs of this project alone.
        where
            A filter such as ``"metrics.val/loss < 0.1 and params.optimizer = 'adam'"``, see
            docs/FILTERS.md; or a function of a :class:`RunRecord` that says whether to keep it.
        status
            One of running, finished, failed, killed, crashed, or several.
        tags
            A tag or list of tags that must be there, or a mapping of tags to their values.
        order_by
            ``"created_at"`` by default; any run column, metric or param; ``-`` before it for the
            highest first. Runs without it come last. Several: the first counts most.
        limit
            At most so many.
        refresh
            Read every run anew.
        **equal
            Columns and the values that they must have: ``lr=0.1``.

        Raises
        ------
        InvalidValueError
            If a filter cannot be read, or names a column that no run has.
        """
        order = [order_by] if isinstance(order_by, str) else order_by or []
        found = self._scan(project, refresh).filter(where, status, tags, **equal)
        return found.order_by(*order).limit(limit)

    def to_frame(self, columns: Sequence[str] | None = None, **filters: Any) -> "pd.DataFrame":
        """Return the runs as a table; see :meth:`RunSet.to_frame` and :meth:`list_experiments`."""
        return self.list_experiments(**filters).to_frame(columns)

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
        self,
        metrics: str | Iterable[str] | None = None,
        runs: Any = None,
        wide: bool = False,
        axis: str | None = None,
        points: int | None = None,
    ) -> "pd.DataFrame":
        """Read the rows of many runs as one table.

        Parameters
        ----------
        metrics
            All by default.
        runs
            Anything that :meth:`get` takes, or several; all runs by default.
        wide
            A column per run, and per metric where there are several, in rows that have the same
            place on the axis.
        axis
            What rows are ordered by: ``"step"``, ``"time"`` (Unix seconds), ``"relative"``
            (seconds since a run's first row), or a metric. By default they are as logged; in the
            wide form the axis is the index, by default the steps.
        points
            At most about so many rows of each curve, those that show its shape; in the wide form
            the length of an even axis, on which values are interpolated.

        Returns
        -------
        pandas.DataFrame
            ``run`` (``project/name``), ``step``, ``time`` (Unix seconds), ``metric``, ``value``:
            a row per number logged; or the wide form.

        Raises
        ------
        MetricNotFoundError
            If no run has a metric that was asked for.
        """
        chosen = self.list_experiments() if runs is None else self._all(runs)
        return chosen.history(metrics, wide, axis, points)

    def aggregate(
        self,
        by: "By | None" = None,
        metrics: str | Iterable[str] | None = None,
        on: str = "last",
        **filters: Any,
    ) -> "Aggregate":
        """Average over runs that are equal in all params but their seed.

        Parameters
        ----------
        by
            What the runs of a group have in common: by default all params but ``seed``;
            ``"*-seed-fold"`` all but two;
            ``["lr", "model.depth", "tags.sweep"]`` these alone; ``["*", "-seed", "-fold"]``.
        metrics
            Columns such as ``"val/loss"`` or ``"val/loss:min"``; all by default.
        on
            Which value of a run counts where a bare name is given: ``"last"``, ``"best"``,
            ``"min"``, ``"max"`` or ``"mean"``.
        **filters
            As in :meth:`list_experiments`.

        Returns
        -------
        Aggregate
            Per group and metric n, mean, std, standard error, 95 % interval, median, min and
            max; mean curves; tables for pandas, Markdown, LaTeX and CSV.

        Raises
        ------
        InvalidValueError, MetricNotFoundError
            For a param or metric that no run has.
        """
        return self.list_experiments(**filters).aggregate(by, metrics, on)

    def importance(
        self, metric: str, on: str = "last", method: str | None = None, **filters: Any
    ) -> "Importance":
        """Estimate how much each param matters for a metric; see ``importance.importance``."""
        return self.list_experiments(**filters).importance(metric, on, method)

    def neighbours(
        self, run: Key, metric: str | None = None, on: str = "last", **filters: Any
    ) -> "list[Neighbour]":
        """Return the runs that differ from one in exactly one param, the nearest first.

        A ``seed`` does not count as a difference.

        Parameters
        ----------
        run
            Anything that :meth:`get` takes.
        metric
            For the change of its value, ``on`` as in :meth:`aggregate`.
        **filters
            As in :meth:`list_experiments`; by default the run's own project.
        """
        from experiment_tracking.registry.importance import neighbours

        record = self.get(run)
        runs = self.list_experiments(**{"project": record.project, **filters})
        return neighbours(runs, record, metric, on)

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

    def edit(self, run: Key, force: bool = False) -> "Edit":
        """Correct a run that has ended: tags, notes, a param, a late metric.

        Parameters
        ----------
        run
            Anything that :meth:`get` takes.
        force
            Also a run that reads running.

        Returns
        -------
        Edit
            Its methods write one small file each into ``amendments/``: who, when, old and new.

        Raises
        ------
        RunBusyError
            If the run reads running.
        """
        from experiment_tracking.registry.edit import Edit

        return Edit(self.get(run), force)

    def sql(self, query: str, **filters: Any) -> "pd.DataFrame":
        """Ask DuckDB about the runs: ``registry.sql("select project, avg(loss) from …")``.

        Parameters
        ----------
        query
            SQL over the views ``runs`` (columns as in :meth:`to_frame`) and ``history`` (as in
            :meth:`history`).
        **filters
            As in :meth:`list_experiments`.

        Raises
        ------
        MissingPackageError
            Without DuckDB: ``pip install 'experiment_tracking[sql]'``.
        """
        from experiment_tracking.registry.sql import sql

        return sql(self.list_experiments(**filters), query)

    # ------------------------------------------------------------------ finding

    def _to_root(self, root: Path | None) -> str:
        root = os.environ.get(layout.ROOT_VARIABLE) if root is None else root
        if root is None or not layout.is_url(root):
            return layout.existing_root(root)
        from experiment_tracking.registry.far import FarRoot
        from experiment_tracking.registry.progress import Progress

        far = FarRoot(os.fspath(root))
        self._far.append(far)
        with Progress(f"Reading {far.url}", unit="files") as progress:
            return far.pull(progress)

    def _pull(self) -> "list[Unreadable]":
        """Bring the copies of far roots up to date; one that does not answer is a problem."""
        from experiment_tracking.registry.summary import Unreadable

        problems = []
        for far in self._far:
            try:
                if not self._has_pulled:
                    far.pull()
                problems += far.problems
            except OSError as error:
                problems.append(Unreadable(far.url, f"not up to date: {error}"))
        self._has_pulled = False
        return problems

    def _scan(self, project: str | None = None, refresh: bool = False) -> "RunSet":
        from experiment_tracking.registry.index.scan import read_runs
        from experiment_tracking.registry.progress import Progress
        from experiment_tracking.registry.runset import RunSet, once_each

        with Progress("Reading runs") as progress:
            problems = self._pull()
            tables = [
                read_runs(_paths(root, project), root, refresh, progress) for root in self.roots
            ]
        runs, copies = once_each(RunSet(reduce(operator.add, tables).oldest_first()))
        if copies > self._copies:  # told once, not at every listing
            notice(f"{copies} runs are in several roots, by their ids; the first root's count.")
        self._copies = copies
        self.problems = runs.problems
        self.problems += problems
        return runs

    def _get(self, key: str) -> "RunRecord":
        from experiment_tracking.registry.record import RunRecord

        if latest := _LATEST.fullmatch(key):
            return self._latest(int(latest[1] or 0))
        if key.startswith("best:"):
            return self.best(key.removeprefix("best:"))
        paths = self._named(key)
        if not paths and len(key) >= _SHORTEST_ID:
            runs = self._scan()
            ids = zip(runs.column("id"), runs.table.paths, strict=True)
            paths = [path for each, path in ids if each and each.startswith(key)]
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
        project, _, name = key.rpartition("/")
        found = [
            RunFolder(os.path.join(root, each, name))
            for root in self.roots
            for each in layout.iter_projects(root)
            if project in ("", each)
        ]
        paths = [f.path for f in found if name and name[0] not in "._" and f.exists()]
        path = RunFolder(os.path.expanduser(key))
        # A name first: what lies below the working folder is not what a given root was asked for.
        return paths or ([path.path] if os.path.isdir(path.path) and path.exists() else [])

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


def _paths(root: str, project: str | None) -> list[str]:
    """Return where runs may be; the same rule of names holds for runs as for projects."""
    return [
        f"{root}/{name}/{run}"
        for name in layout.iter_projects(root)
        if project in (None, name)
        for run in layout.iter_projects(os.path.join(root, name))
    ]
