"""What of the runs goes on an axis: metrics as numbers, params as numbers or as words."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.errors import MetricNotFoundError
from experiment_tracking.registry.aggregate import check_number, measure_of
from experiment_tracking.registry.plots.look import plain, spans_decades

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiment_tracking.registry.runset import RunSet


_MAX_WORDS = 30
"""More words than this do not all have room beside an axis."""
_WIDE = 60
"""Characters that have room side by side under an axis."""


class MetricValues(NamedTuple):
    """One number of a metric, per run."""

    label: str
    """As ``val/loss (min)``."""
    values: list[float]
    """NaN where a run has none."""
    goal: str | None


def metric_values(runs: "RunSet", metric: str, on: str) -> MetricValues:
    """Return each run's best or last value of a metric.

    Parameters
    ----------
    runs
        The runs.
    metric
        Its name; ``"val/loss:mean"`` and the like choose the number whatever ``on`` says.
    on
        ``"best"``, ``"last"``, ``"min"``, ``"max"`` or ``"mean"``.

    Raises
    ------
    MetricNotFoundError
        If none of the runs has it, or none a finite value.
    InvalidValueError
        For the best of a metric without a goal.
    """
    check_number(on)
    if not runs:
        raise MetricNotFoundError(f"There are no runs to plot, so there is no {metric!r}.")
    name, word = measure_of(runs, metric, on, runs.metric_names())
    goals = runs.goals(name)
    values = [math.nan if value is None else value for value in runs.numbers(name, word)]
    if not any(map(math.isfinite, values)):
        raise MetricNotFoundError(f"The metric {name!r} has no finite value in these runs.")
    return MetricValues(f"{name} ({word})", values, goals.pop() if len(goals) == 1 else None)


class Scale(NamedTuple):
    """One value per run, laid out on an axis."""

    label: str
    places: list[float]
    """Where each run stands: the number itself, or the position of its word; NaN for none."""
    words: list[str] | None
    """What stands at positions 0, 1, 2, …; None for an axis of numbers."""
    is_log: bool


def param_scale(runs: "RunSet", param: str, log: bool | None = None) -> Scale:
    """Lay a param, or any other column of the runs, out on an axis.

    Numbers stand where they are, on a log axis where they span two decades unless ``log`` says
    otherwise; with a word among them all of them are words, side by side in order.
    """
    return scale(param.removeprefix("params."), param_values(runs, param), log)


def param_values(runs: "RunSet", param: str) -> list[Any]:
    """Return the values of a param; of another column where no param bears the name."""
    return runs.column(f"params.{param}" if param in runs.param_names() else param)


def scale(label: str, values: Sequence[Any], log: bool | None = None) -> Scale:
    """Lay values out on an axis; see :func:`param_scale`."""
    if all(type(value) in (int, float) for value in values if not _is_missing(value)):
        places = [math.nan if _is_missing(value) else float(value) for value in values]
        return Scale(label, places, None, spans_decades(places) if log is None else log)
    return cells(label, values)


def cells(label: str, values: Sequence[Any]) -> Scale:
    """Lay values out side by side, numbers too, as the rows and columns of a table have them."""
    known = {_key(value): value for value in values if not _is_missing(value)}
    keys = sorted(known, key=lambda key: (isinstance(key, str), key))
    place = {key: float(i) for i, key in enumerate(keys)}
    places = [math.nan if _is_missing(value) else place[_key(value)] for value in values]
    return Scale(label, places, [_word(known[key]) for key in keys], False)


def _key(value: Any) -> float | str:
    return float(value) if type(value) in (int, float) else str(value)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _word(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def put_on(axes: "Axes", which: str, scale: Scale) -> None:
    """Give the axis ``"x"`` or ``"y"`` the label, ticks and kind of a scale."""
    settings: dict[str, Any] = {f"{which}label": plain(scale.label)}
    if scale.words is not None:
        every = math.ceil(len(scale.words) / _MAX_WORDS)
        settings[f"{which}ticks"] = range(0, len(scale.words), every)
        settings[f"{which}ticklabels"] = [plain(word, 24) for word in scale.words[::every]]
        settings[f"{which}lim"] = (-0.5, max(1, len(scale.words)) - 0.5)
    elif scale.is_log:
        settings[f"{which}scale"] = "log"
    axes.set(**settings)
    if which == "x" and sum(map(len, scale.words or ())) > _WIDE:
        axes.tick_params("x", rotation=45)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
