import json
import re

import pytest

from experiment_tracking import ExperimentTracker

pytest.importorskip("matplotlib", reason="pip install 'experiment_tracking[plots]'")


def texts(path):
    """Return what is written in an SVG of matplotlib's, which notes it beside the outlines."""
    return re.findall("<!-- (.*?) -->", path.read_text())


def test_curves_of_a_project_are_drawn_and_the_path_is_printed(experiments, tmp_path):
    path = tmp_path / "loss.svg"
    code, out, err = experiments("plot", "val/loss", "--project", "digits", "-o", path)
    assert (code, out, err) == (0, f"{path}\n", "")
    assert {"lr-0.1", "lr-0.01", "lr-0.001", "val/loss", "step"} <= set(texts(path))


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_name_of_the_file_says_its_format(experiments, tmp_path, suffix, start):
    path = tmp_path / f"loss.{suffix}"
    assert experiments("plot", "val/loss", "lr-0.1", "-o", path)[0] == 0
    assert path.read_bytes().startswith(start)


def test_html_is_interactive_and_needs_no_network(experiments, tmp_path):
    pytest.importorskip("plotly", reason="pip install plotly")
    path = tmp_path / "loss.html"
    assert experiments("plot", "val/loss", "lr-0.1", "lr-0.01", "-o", path)[0] == 0
    page = path.read_text()
    assert '"name":"lr-0.01"' in page
    assert not re.search(r'<script[^>]*src="http', page)


def test_named_runs_are_drawn_and_json_tells_which(experiments, tmp_path):
    path = tmp_path / "two.svg"
    words = (
        "plot",
        "val/loss,val/acc",
        "lr-0.1",
        "lr-0.01",
        "-o",
        path,
        "--log",
        "--smooth",
        "0.5",
    )
    code, out, _ = experiments(*words, "--json")
    assert code == 0
    assert json.loads(out) == {
        "path": str(path),
        "kind": "curves",
        "metric": "val/loss,val/acc",
        "runs": ["digits/lr-0.1", "digits/lr-0.01"],
    }
    assert {"val/loss", "val/acc", "lr-0.1", "lr-0.01"} <= set(texts(path))
    assert "lr-0.001" not in texts(path)


def test_conditions_choose_the_runs(experiments, tmp_path):
    path = tmp_path / "bars.svg"
    words = ("plot", "val/loss", "--kind", "bars", "-o", path, "--where", "val/loss < 1.4")
    assert experiments(*words, "--on", "best")[0] == 0
    assert {"lr-0.1", "val/loss (min)"} <= set(texts(path))
    assert "lr-0.001" not in texts(path)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--kind", "scatter", "--param", "model.optimizer"), {"adam", "sgd", "model.optimizer"}),
        (("--kind", "parallel"), {"lr", "model.optimizer", "val/acc (max)"}),
        (("--kind", "heatmap", "--param", "lr", "--param", "model.depth"), {"lr", "model.depth"}),
        (("--kind", "bars", "--by", "model.optimizer"), {"optimizer=adam, n=2"}),
        (
            ("--x", "val/loss", "--by", "model.depth"),
            {"nowhere more than one run of a group, so no band"},
        ),
    ],
)
def test_every_kind_of_picture_can_be_drawn(experiments, tmp_path, words, shown):
    path = tmp_path / "picture.svg"
    code, _, err = experiments("plot", "val/acc", "--project", "digits", "-o", path, *words)
    assert (code, err) == (0, "")
    assert shown <= set(texts(path))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-o", "a.gif"), ".png, .svg, .pdf, .html"),
        (("-o", "a.html", "--kind", "bars"), "cannot be drawn as .html"),
        (("-o", "a.png", "--kind", "bars", "--smooth", "0.5"), "only for curves"),
        (("-o", "a.png", "--kind", "heatmap", "--param", "lr"), "--param 2 times"),
        (("-o", "a.png", "--kind", "scatter"), "--param lr"),
        (("lr-0.1", "-o", "a.png", "--project", "digits"), "not both"),
        (("-o", "a.png", "--smooth", "1.5"), "smooth"),
        (("-o", "a.png", "--band", "std"), "--by"),
    ],
)
def test_what_does_not_go_together_ends_with_2(experiments, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, out, err = experiments("plot", "val/loss", *words)
    assert (code, out) == (2, "")
    assert told in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_metric_or_runs_that_are_nowhere_end_with_3(experiments, tmp_path):
    code, _, err = experiments("plot", "val/lss", "-o", tmp_path / "a.png")
    assert code == 3
    assert "val/loss" in err
    code, _, err = experiments("plot", "val/loss", "--status", "killed", "-o", tmp_path / "a.png")
    assert code == 3
    assert "meets these conditions" in err


def test_a_character_that_the_font_lacks_is_told_in_a_line(experiments, tmp_path):
    code, out, err = experiments(
        "plot", "pinn/pde_residual", "waves/波-β", "-o", tmp_path / "a.png"
    )
    assert (code, out) == (0, f"{tmp_path / 'a.png'}\n")
    assert all(line.startswith("experiments: ") for line in err.splitlines())


def test_blanks_behind_the_commas_are_no_part_of_a_name(experiments, tmp_path):
    path = tmp_path / "bars.svg"
    words = ("plot", "val/loss", "--kind", "bars", "--by", "lr, model.depth", "-o", path)
    assert experiments(*words)[0] == 0
    assert "lr=0.01" in texts(path)


def test_a_metric_without_a_goal_is_drawn_by_the_value_that_is_said(experiments, root, tmp_path):
    with ExperimentTracker("sizes", root=root, auto_log=False).start_run() as run:
        run.log_metric("size", 3.0)
    words = ("plot", "size", "--kind", "bars", "-o", tmp_path / "a.svg", "--on")
    code, _, err = experiments(*words, "best")
    assert code == 2
    assert "on='min'" in err
    assert experiments(*words, "min")[0] == 0
    assert "size (min)" in texts(tmp_path / "a.svg")


def test_a_missing_folder_is_told_before_anything_is_read(experiments, tmp_path):
    code, out, err = experiments("plot", "nothing", "-o", tmp_path / "none" / "q.png")
    assert (code, out) == (1, "")
    assert f"there is no folder {tmp_path / 'none'}" in err


@pytest.mark.parametrize(
    ("band", "said"),
    [("std", "mean ± standard deviation of 3 runs"), ("none", "mean of 3 runs")],
)
def test_the_band_around_means_can_be_chosen_and_is_said(experiments, tmp_path, band, said):
    path = tmp_path / "loss.svg"
    words = ("--project", "digits", "--by", "model.depth", "--band", band)
    assert experiments("plot", "val/acc", "-o", path, *words)[0] == 0
    assert said in texts(path)
