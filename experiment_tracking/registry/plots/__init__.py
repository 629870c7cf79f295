"""Pictures of runs; extra ``plots``. matplotlib draws them, Plotly those that answer to the mouse.

Figures are made without ``pyplot``: none stays open, threads do not disturb each other, no display
is needed, and a notebook shows the returned figure once.
"""

from types import MethodType
from typing import TYPE_CHECKING

from experiment_tracking.registry.plots.bars import plot_bars, plot_comparison
from experiment_tracking.registry.plots.curves import plot_curves
from experiment_tracking.registry.plots.heatmap import plot_heatmap
from experiment_tracking.registry.plots.parallel import plot_parallel
from experiment_tracking.registry.plots.scatter import plot_scatter

if TYPE_CHECKING:
    from experiment_tracking.registry.runset import RunSet

__all__ = [
    "Plots",
    "plot_bars",
    "plot_comparison",
    "plot_curves",
    "plot_heatmap",
    "plot_parallel",
    "plot_scatter",
]


class Plots:
    """Pictures of some runs: ``runs.plot.curves("loss")``.

    Each is one of this module's functions with the runs as its first argument, so that a notebook
    shows that function's own arguments and text.

    Parameters
    ----------
    runs
        The runs.
    """

    def __init__(self, runs: "RunSet") -> None:
        self.curves = MethodType(plot_curves, runs)
        self.scatter = MethodType(plot_scatter, runs)
        self.parallel = MethodType(plot_parallel, runs)
        self.bars = MethodType(plot_bars, runs)
        self.heatmap = MethodType(plot_heatmap, runs)
