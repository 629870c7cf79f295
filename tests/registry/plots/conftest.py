"""Small sweeps of real runs, and ways to look at what is in a picture."""

import pytest

pytest.importorskip("matplotlib", reason="pip install 'experiment_tracking[plots]'")

from matplotlib.colors import to_rgb

LRS = (0.001, 0.01, 0.1)


@pytest.fixture
def seeds(registry, track):
    """Three learning rates with two seeds each; ``loss`` is ``10 * lr + seed + 1 / (step + 1)``."""
    for lr in LRS:
        for seed in (0, 1):
            rows = [{"loss": 10 * lr + seed + 1 / (step + 1), "acc": step} for step in range(5)]
            track(f"lr-{lr}-seed-{seed}", rows=rows, params={"lr": lr, "seed": seed})
    return registry.list_experiments()


@pytest.fixture
def runs_of(registry, track):
    """Make one run per list of losses, with params where they are given."""

    def runs_of(*losses, params=(), names=()):
        for i, values in enumerate(losses):
            track(
                names[i] if names else f"run-{i:02d}",
                rows=[{"loss": value} for value in values],
                params=params[i] if params else {"i": i},
            )
        return registry.list_experiments()

    return runs_of


@pytest.fixture
def lines():
    """Return the curves on axes by their labels, without the faint ones behind them."""

    def lines(axes):
        return {
            line.get_label(): line
            for line in axes.get_lines()
            if not line.get_label().startswith("_")
        }

    return lines


@pytest.fixture
def grey():
    """Return how light a colour is where there is no colour, from 0 to 1."""

    def grey(colour):
        red, green, blue = to_rgb(colour)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    return grey
