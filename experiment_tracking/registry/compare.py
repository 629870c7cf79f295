"""Runs side by side, as lists for plain code and as a table."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.registry.columns import find_column
from experiment_tracking.registry.runset import RunSet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Comparison(Mapping[str, Any]):
    """Runs side by side: lists in the order of the runs.

    ``["experiments"]`` unique names (``project/name`` where two would be equal), ``["paths"]``,
    ``["metrics"][name]`` numbers, NaN where missing, ``["params"][name]`` of those params alone
    in which the runs differ, None where missing.

    Parameters
    ----------
    runs
        The runs; one that is given twice counts once.
    metrics
        Columns as in :meth:`RunRecord.value`, kept under the names asked for. By default the
        last values of all metrics that any run has.

    Raises
    ------
    MetricNotFoundError
        If runs have metrics, but none that was asked for.
    """

    def __init__(self, runs: RunSet, metrics: str | Iterable[str] | None = None) -> None:
        runs = RunSet({record.folder.path: record for record in runs}.values(), runs.problems)
        self.runs = runs
        self._columns: dict[str, Any] = {
            "experiments": _unique_names(runs),
            "metrics": _metric_columns(runs, [metrics] if isinstance(metrics, str) else metrics),
            "params": _differing_params(runs),
            "paths": [record.folder.path for record in runs],
        }

    def __getitem__(self, key: str) -> Any:
        return self._columns[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(self['experiments']) or 'no runs'}>"

    def __str__(self) -> str:
        from experiment_tracking.registry.text_tables import to_markdown

        return to_markdown(self.to_columns()).rstrip("\n")

    def _repr_html_(self) -> str:
        from experiment_tracking.registry.display import comparison_html

        return comparison_html(self)

    def plot(self, metric: str | None = None) -> "Figure":
        """Return bars of the metrics; see ``plots.plot_comparison``. Needs matplotlib."""
        from experiment_tracking.registry.plots import plot_comparison

        return plot_comparison(self, metric)

    def to_columns(self) -> dict[str, list[Any]]:
        """Return one list per column: ``run``, differing ``params.x``, then the metrics.

        A metric that is called as one of the others stands under ``metrics.``.
        """
        params = {f"params.{name}": values for name, values in self["params"].items()}
        return beside({"run": self["experiments"], **params}, self["metrics"])

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per run and the columns of :meth:`to_columns`."""
        import pandas as pd

        return pd.DataFrame(self.to_columns())


def beside(columns: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns and metrics as one, a metric whose name is taken under ``metrics.``."""
    named = {f"metrics.{name}" if name in columns else name: metrics[name] for name in metrics}
    return {**columns, **named}


def _unique_names(runs: RunSet) -> list[str]:
    return _where_equal(
        _where_equal(runs.names, [record.key for record in runs]),
        [record.folder.path for record in runs],
    )


def _where_equal(names: Sequence[str], longer: Sequence[str]) -> list[str]:
    return [
        long if names.count(name) > 1 else name for name, long in zip(names, longer, strict=True)
    ]


def _metric_columns(runs: RunSet, wanted: Iterable[str] | None) -> dict[str, list[Any]]:
    names = runs.metric_names()
    asked = names if wanted is None else wanted
    return {column: _metric_values(runs, column, names) for column in asked}


def _metric_values(runs: RunSet, asked: str, names: list[str]) -> list[float]:
    if not names:  # All have only just begun: there is nothing to be misspelt against.
        return [math.nan] * len(runs)
    values = runs.numbers(*find_column(asked, names))
    return [math.nan if value is None else value for value in values]


def _differing_params(runs: RunSet) -> dict[str, list[Any]]:
    each = runs.flat_params()
    names = dict.fromkeys(name for params in each for name in params)
    return {name: [params.get(name) for params in each] for name in names if _differs(name, each)}


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or (a != a and b != b)


def _differs(name: str, each: Sequence[Mapping[str, Any]]) -> bool:
    first = each[0].get(name)
    return any(name not in params or not _same(params[name], first) for params in each)
