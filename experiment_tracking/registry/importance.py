"""Which params matter: how much of a metric each explains, and runs that differ in one alone."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import InvalidValueError, MissingPackageError
from experiment_tracking.registry.aggregate import (
    below,
    check_number,
    measure_of,
    param_columns,
    varies,
    with_params,
)
from experiment_tracking.registry.columns import identity
from experiment_tracking.registry.record import flat
from experiment_tracking.registry.wording import plural

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from experiment_tracking.registry.record import RunRecord
    from experiment_tracking.registry.runset import RunSet

    Array = NDArray[Any]

METHODS = ("forest", "correlation")

_FEWEST = 4
_TREES = 200
_MOST_DRAWN = 1000
"""Runs that one tree learns from, and is asked about: more take longer and tell little more."""


class ParamImportance(NamedTuple):
    """How much a param matters for a metric."""

    param: str
    importance: float
    correlation: float
    """Spearman's rank correlation with the metric, -1 to 1; NaN for params that are no numbers, or
    of which fewer than 4 runs, or one value, are known."""


class Importance(Sequence[ParamImportance]):
    """Params by how much they matter for a metric, the most important first.

    Parameters
    ----------
    params
        The params that vary.
    metric
        Which metric, as asked for.
    method
        ``"forest"`` or ``"correlation"``.
    runs
        How many runs counted.
    score
        Forest: the share of the metric's variance that it explains in runs it has not learnt
        from; near 0 or below, its importances mean nothing. NaN for the correlation.
    """

    def __init__(
        self,
        params: Sequence[ParamImportance],
        metric: str,
        method: str,
        runs: int,
        score: float = math.nan,
    ) -> None:
        self.params = sorted(params, key=lambda param: -param.importance)
        self.metric = metric
        self.method = method
        self.runs = runs
        self.score = score

    def __len__(self) -> int:
        return len(self.params)

    def __iter__(self) -> Iterator[ParamImportance]:
        return iter(self.params)

    def __getitem__(self, index: Any) -> Any:
        return self.params[index]

    def __repr__(self) -> str:
        shown = ", ".join(f"{param.param}={param.importance:.2g}" for param in self.params[:5])
        return f"<Importance for {self.metric} by {self.method} of {self.runs} runs: {shown}>"

    def _repr_html_(self) -> str:
        from experiment_tracking.registry.display import table_html

        return f"<p>{escape(self._title())}</p>" + table_html(self.to_columns())

    def _title(self) -> str:
        score = (
            ""
            if math.isnan(self.score)
            else f" (explains {max(0, self.score):.0%} of its variance)"
        )
        return f"importance for {self.metric} of {self.runs} runs, by {self.method}{score}"

    def to_columns(self) -> dict[str, list[Any]]:
        """Return the columns ``param``, ``importance`` and ``correlation``."""
        return {
            name: [getattr(param, name) for param in self.params]
            for name in ParamImportance._fields
        }

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per param and the columns of :meth:`to_columns`."""
        import pandas as pd

        return pd.DataFrame(self.to_columns())


def importance(
    runs: "RunSet", metric: str, on: str = "last", method: str | None = None
) -> Importance:
    """Estimate how much each param matters for a metric; those that never vary are left out.

    Parameters
    ----------
    metric
        A column as in :meth:`RunRecord.value`.
    on
        Which value of a run counts where the metric's bare name is given: ``"last"``,
        ``"best"``, ``"min"``, ``"max"`` or ``"mean"``.
    method
        ``"forest"``: how much worse 200 trees predict runs they have not learnt from when the
        param's values are shuffled among these, as a share of all params' sum (Breiman, Random
        Forests, 2001, section 10). Unlike the decrease of impurity it does not favour params of
        many values (Strobl et al., BMC Bioinformatics 8:25, 2007). Needs scikit-learn; the same
        runs give the same numbers.
        ``"correlation"``: the strength of Spearman's rank correlation, 0 to 1; for params that
        have none the root of the share of the ranks' variance between their values, adjusted for
        how many these are; not to have a param counts as a value.
        By default the forest where scikit-learn is installed.

    Raises
    ------
    InvalidValueError
        If fewer than 4 runs have a finite value of the metric.
    MetricNotFoundError
        If no run has the metric.
    MissingPackageError
        If the forest is asked for without scikit-learn.
    """
    check_number(on)
    method = _checked(method)
    params, values = _observed(runs, metric, on)
    correlations = {name: _correlation(column, values) for name, column in params.items()}
    if method == "forest" and params:
        strengths, score = _forest(params, values)
    else:
        score = math.nan
        strengths = {
            name: _eta(params[name], values) if math.isnan(rho) else abs(rho)
            for name, rho in correlations.items()
        }
    found = [ParamImportance(name, strengths[name], correlations[name]) for name in params]
    return Importance(found, metric, method, len(values), score)


def _checked(method: str | None) -> str:
    from importlib.util import find_spec

    if method not in (None, *METHODS):
        raise InvalidValueError(f"method must be one of {', '.join(METHODS)}, found {method!r}.")
    is_installed = find_spec("sklearn") is not None
    if method == "forest" and not is_installed:
        raise MissingPackageError(
            "Importance by a random forest", "scikit-learn", "'experiment_tracking[examples]'"
        )
    return method or ("forest" if is_installed else "correlation")


def _observed(runs: "RunSet", metric: str, on: str) -> tuple[dict[str, list[Any]], Sequence[float]]:
    """Return the varying params and the metric's values of the runs that have one."""
    runs = with_params(runs)
    numbers = runs.numbers(*measure_of(runs, metric, on, runs.metric_names()))
    finite = {row: n for row, n in enumerate(numbers) if n is not None and math.isfinite(n)}
    if len(finite) < _FEWEST:
        raise InvalidValueError(
            f"Importance needs at least {_FEWEST} runs with a finite value of {metric!r}, found "
            f"{len(finite)}."
        )
    every = param_columns(runs).items()
    columns = {name: [column[row] for row in finite] for name, column in every}
    varying = {name: column for name, column in columns.items() if varies(column)}
    return varying, list(finite.values())


# ---------------------------------------------------------------------- encoding


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value


def _is_numeric(column: Sequence[Any]) -> bool:
    return all(value is None or _is_number(value) for value in column)


def _codes(column: Sequence[Any]) -> list[int]:
    """Give the values numbers from 0, numbers by size, others in the order met; -1 where missing.

    Trees only ask for an order, so nothing is lost, and no number is too large for them.
    """
    is_numeric = _is_numeric(column)
    keys = [value if is_numeric else identity(value) for value in column]
    values = dict.fromkeys(key for key in keys if key is not None)
    places = {key: place for place, key in enumerate(sorted(values) if is_numeric else values)}
    return [places.get(key, -1) for key in keys]


# ---------------------------------------------------------------------- strength


def _correlation(column: Sequence[Any], values: Sequence[float]) -> float:
    """Return Spearman's rank correlation over the runs that have the param, NaN for too few."""
    import numpy as np

    if not _is_numeric(column):
        return math.nan
    has = [row for row, value in enumerate(column) if value is not None]
    x = _ranks([column[row] for row in has])
    y = _ranks([values[row] for row in has])
    if len(has) < _FEWEST or not x.std():
        return math.nan
    return float(np.corrcoef(x, y)[0, 1]) if y.std() else 0.0


def _eta(column: Sequence[Any], values: Sequence[float]) -> float:
    """Return the adjusted correlation ratio of the metric's ranks between a param's values."""
    import numpy as np

    ranks, codes = _ranks(values), np.array(_codes(column))
    n, kinds = len(ranks), np.unique(codes)
    total = ((ranks - ranks.mean()) ** 2).sum()
    if not total or len(kinds) == n:  # a value of its own for each run explains nothing
        return 0.0
    inner = sum(((ranks[codes == k] - ranks[codes == k].mean()) ** 2).sum() for k in kinds)
    return math.sqrt(max(0.0, 1 - (inner / total) * (n - 1) / (n - len(kinds))))


def _ranks(values: Sequence[Any]) -> "Array":
    """Return the rank of each value, equal ones their mean rank."""
    import numpy as np

    ordered = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(ordered)))}
    last = {value: place for place, value in enumerate(ordered)}
    return np.array([(first[value] + last[value]) / 2 for value in values])


def _forest(
    params: Mapping[str, Sequence[Any]], values: Sequence[float]
) -> tuple[dict[str, float], float]:
    """Return each param's share, and the share of the variance that the forest explains."""
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor

    # Ranks: one run that diverged to 1e30 is not to decide what matters.
    y = _ranks(values)
    x = np.array([_codes(column) for column in params.values()], dtype=np.float32).T
    drawn = min(len(y), _MOST_DRAWN)
    forest = RandomForestRegressor(_TREES, max_samples=drawn, random_state=0).fit(x, y)
    losses, score = _losses(forest, x, y)
    losses = np.clip(losses, 0, None)
    shares = losses / losses.sum() if losses.any() else losses
    return dict(zip(params, shares.tolist(), strict=True)), score


def _losses(forest: Any, x: "Array", y: "Array") -> tuple["Array", float]:
    """Return how much each shuffled column adds to the squared error of the trees, and the score.

    Each tree is asked about the runs that it has not learnt from.
    """
    import numpy as np

    random = np.random.default_rng(0)
    losses, predicted, asked = np.zeros(x.shape[1]), np.zeros(len(y)), np.zeros(len(y))
    for tree, drawn in zip(forest.estimators_, forest.estimators_samples_, strict=True):
        rows = random.permutation(np.setdiff1d(np.arange(len(y)), drawn))[:_MOST_DRAWN]
        if not len(rows):  # of four runs, a tree may well have drawn them all
            continue
        tables = np.repeat(x[None, rows], 1 + x.shape[1], axis=0)  # as it is, then each shuffled
        for column in range(x.shape[1]):
            random.shuffle(tables[1 + column, :, column])
        found = tree.predict(tables.reshape(-1, x.shape[1])).reshape(len(tables), len(rows))
        errors = ((found - y[rows]) ** 2).sum(axis=1)
        losses += errors[1:] - errors[0]
        predicted[rows] += found[0]
        asked[rows] += 1
    known = asked > 0
    error = ((predicted[known] / asked[known] - y[known]) ** 2).mean()
    return losses, float(1 - error / y[known].var()) if y[known].var() else 0.0


# ---------------------------------------------------------------------- neighbours


class Neighbour(NamedTuple):
    """A run that differs from another in one param."""

    record: "RunRecord"
    param: str
    theirs: Any
    """Its value, None where it lacks the param."""
    ours: Any
    change: float | None
    """Its metric less ours; None without a metric, or where one of the two has none."""


class Neighbours(list[Neighbour]):
    """Runs that differ from one in a single param, the nearest first.

    Parameters
    ----------
    found
        The runs.
    ignored
        Params that did not count as a difference.
    """

    def __init__(self, found: Iterable[Neighbour] = (), ignored: Sequence[str] = ()) -> None:
        super().__init__(found)
        self.ignored = list(ignored)

    def _repr_html_(self) -> str:
        from experiment_tracking.registry.display import table_html

        ignored = ", ".join(self.ignored)
        said = f"; may differ in {ignored} too" * bool(ignored)
        title = f"{plural(len(self), 'run')} that differ in one param{said}"
        return f"<p>{escape(title)}</p>{table_html(self.to_columns())}"

    def to_columns(self) -> dict[str, list[Any]]:
        """Return the columns ``run`` (``project/name``) and those of :class:`Neighbour`."""
        names = Neighbour._fields[1:]
        columns = {name: [getattr(each, name) for each in self] for name in names}
        return {"run": [each.record.key for each in self], **columns}

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per run and the columns of :meth:`to_columns`."""
        import pandas as pd

        return pd.DataFrame(self.to_columns())


def neighbours(
    runs: "RunSet",
    record: "RunRecord",
    metric: str | None = None,
    on: str = "last",
    ignore: Sequence[str] = ("seed",),
) -> Neighbours:
    """Return the runs that differ from ``record`` in exactly one param, the nearest first.

    A param called ``seed`` does not count: another seed beside the one param is no further
    difference, and a run of another seed alone no neighbour. ``ignore=()`` counts it.

    Nearness counts the values of that param, among all these runs, from one to the other; text,
    and what is missing in one of the two, comes behind numbers.

    Parameters
    ----------
    record
        The run to start from; it need not be among ``runs``.
    metric
        A column as in :meth:`RunRecord.value`, for the change.
    on
        Which value of a run counts; see :func:`importance`.
    ignore
        Params, or the names above nested ones, that do not count as a difference; ``seed`` by
        default.

    Raises
    ------
    DamagedError, OSError
        If the params of ``record`` cannot be read.
    MetricNotFoundError
        If no run has the metric.
    """
    check_number(on)
    ours = flat(record.params)
    runs = with_params(runs)
    numbers = _changes(runs, record, metric, on)
    columns = dict.fromkeys(ours, [None] * len(runs)) | param_columns(runs)
    left_out = {name for word in ignore for name in below(word, columns)}
    differing: list[list[str]] = [[] for _ in range(len(runs))]
    for name in columns.keys() - left_out:
        known = identity(ours.get(name))
        for names, value in zip(differing, columns[name], strict=True):
            if identity(value) != known:
                names.append(name)
    found = [
        Neighbour(runs[row], names[0], columns[names[0]][row], ours.get(names[0]), numbers[row])
        for row, names in enumerate(differing)
        if len(names) == 1
    ]
    scales = {name: _scale([ours.get(name), *columns[name]]) for name in {n.param for n in found}}
    found.sort(key=lambda one: _steps(scales[one.param], one.theirs, one.ours))
    return Neighbours(found, sorted(left_out))


def _scale(values: Sequence[Any]) -> list[Any]:
    return sorted({value for value in values if _is_number(value)})


def _steps(scale: Sequence[Any], a: Any, b: Any) -> float:
    """Count the values from ``a`` to ``b``."""
    if not (_is_number(a) and _is_number(b)):
        return math.inf
    return abs(bisect_left(scale, a) - bisect_left(scale, b))


def _changes(
    runs: "RunSet", record: "RunRecord", metric: str | None, on: str
) -> list[float | None]:
    if metric is None:
        return [None] * len(runs)
    measure = measure_of(runs, metric, on, runs.metric_names())
    ours = record.number(*measure)
    values = runs.numbers(*measure)
    return [None if ours is None or value is None else value - ours for value in values]
