import io
import itertools
import subprocess
import sys
import threading

import pytest

from experiment_tracking.errors import MissingPackageError
from experiment_tracking.registry.plots import Plots, look, plot_bars


def test_neighbouring_styles_differ_without_colour_in_lightness_line_marker_and_hatch(grey):
    styles = [look.style(i) for i in range(2 * 28)]
    for a, b in itertools.pairwise(styles):
        assert abs(grey(a.colour) - grey(b.colour)) >= 0.16
        assert a.line != b.line
        assert a.marker != b.marker
        assert a.hatch != b.hatch


def test_no_two_of_a_legend_look_alike():
    styles = [look.style(i) for i in range(look.MAX_LEGEND)]
    assert len({(style.colour, style.line, style.marker) for style in styles}) == look.MAX_LEGEND


@pytest.mark.parametrize("goal", ["minimize", "maximize", None])
def test_colours_of_values_change_their_lightness_one_way_only_and_stay_off_white(goal, grey):
    colours = look.dark_is_better(goal)
    lightness = [grey(colours(i)[:3]) for i in range(colours.N)]
    steps = [b - a for a, b in itertools.pairwise(lightness)]
    assert all(step > 0 for step in steps) or all(step < 0 for step in steps)
    assert (lightness[0] < lightness[-1]) == (goal == "minimize")
    assert max(lightness) < 0.9


def test_a_formula_sign_in_a_name_starts_no_formula(runs_of):
    figure = plot_bars(runs_of([1.0], names=["cost $x_1$ in $"]), "loss")
    figure.draw_without_rendering()
    (label,) = figure.axes[0].get_yticklabels()
    assert label.get_text() == r"cost \$x_1\$ in \$"
    plain = figure.text(0, 0, "cost $x_1$ in $".replace("$", "S"), fontsize=label.get_fontsize())
    # As wide as it would be letter by letter: nothing of it was set as a formula.
    width, other = (text.get_window_extent().width for text in (label, plain))
    assert width == pytest.approx(other, rel=0.05)


def test_names_are_cut_in_the_middle_and_control_characters_are_shown():
    assert look.cut("x" * 50 + "seed-1", 20) == "x" * 9 + "…" + "xxxxseed-1"
    assert look.cut("a\nb\x1b") == "a�b�"
    assert look.plain("_hidden") == " _hidden"


def test_equal_names_of_two_projects_are_told_apart(registry, track):
    track("same", "a", rows=[{"loss": 1}])
    track("same", "b", rows=[{"loss": 2}])
    assert look.run_labels(registry.list_experiments()) == ["a/same", "b/same"]
    assert look.run_labels(registry.list_experiments("a")) == ["same"]


def test_no_figure_stays_open_and_threads_draw_at_once(runs_of):
    from matplotlib._pylab_helpers import Gcf

    runs = runs_of([3.0, 1.0], [2.0, 1.5])
    drawn = []

    def draw():
        figure = Plots(runs).curves("loss")
        file = io.BytesIO()
        figure.savefig(file, format="svg")
        drawn.append(file.getvalue())

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [svg.count(b"run-01") for svg in drawn] == [1] * 4
    assert Gcf.get_all_fig_managers() == []


def test_drawing_needs_no_pyplot(runs_of, root):
    runs_of([1.0, 2.0])
    code = (
        "import sys\n"
        "from experiment_tracking import ExperimentRegistry\n"
        "from experiment_tracking.registry.plots import Plots\n"
        f"plots = Plots(ExperimentRegistry({str(root)!r}).list_experiments())\n"
        "assert 'matplotlib' not in sys.modules\n"
        "print(len(plots.curves('loss').axes), 'matplotlib.pyplot' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 False\n"


def test_without_matplotlib_the_error_names_the_extra(monkeypatch, runs_of):
    runs = runs_of([1.0])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (
        lambda plot: plot.curves("loss"),
        lambda plot: plot.bars("loss"),
        lambda plot: plot.scatter("i", "loss"),
        lambda plot: plot.parallel("loss", ["i"]),
        lambda plot: plot.heatmap("i", "i", "loss"),
    ):
        with pytest.raises(MissingPackageError, match=r"experiment_tracking\[plots\]"):
            draw(Plots(runs))
