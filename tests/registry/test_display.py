import json
import math
from html.parser import HTMLParser

import pytest

from experiment_tracking.registry.display import table_html

NASTY = "<script>alert('&')</script>"


class Cells(HTMLParser):
    """Collects the text of each cell and the names of all elements."""

    def __init__(self, html):
        super().__init__()
        self.cells, self.elements, self.open = [], set(), []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert attrs == []
        self.elements.add(tag)
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_runs_show_as_a_table_in_a_notebook(track, registry):
    track("a", rows=[{"loss": 1 / 3}])
    track("b", "waves", status="FAILED")
    cells = Cells(registry.list_experiments()._repr_html_()).cells
    assert cells[:5] == ["run", "status", "created_at", "duration_s", "loss"]
    assert cells[5:7] == ["digits/a", "finished"]
    assert "0.333333" in cells
    assert "failed" in cells


def test_a_run_shows_its_params_and_metrics_in_a_notebook(track, registry):
    track("a", params={"lr": 0.1, "model": {"depth": 2}}, rows=[{"loss": math.nan}, {"loss": 2.0}])
    html = registry.get("a")._repr_html_()
    cells = Cells(html).cells
    assert cells[2:6] == ["lr", "0.1", "model.depth", "2"]
    assert cells[cells.index("loss") :][:5] == ["loss", "2", "2", "2", "2"]
    assert "<b>digits/a</b> finished" in html
    assert repr(registry.get("a")) == "<RunRecord digits/a finished>"


def test_a_run_shows_how_it_went_and_what_it_was_trained_on(track, registry, edit, tmp_path):
    run = track("a", rows=[{"loss": 1.0}])
    edit(run, exit_code=3, rerun_of="0123456789abcdef", throughput={"steps_per_s": 12.5})
    git = {"commit": "f" * 40, "branch": "main", "dirty": True}
    (run.path / "environment.json").write_text(json.dumps({"git": git}))
    inputs = [{"name": "train", "kind": "array", "shape": [5, 3], "sha256": "ab"}]
    (run.path / "inputs.json").write_text(json.dumps({"inputs": inputs}))
    html = registry.get("a")._repr_html_()
    told = "exit code 3 · 12.5 steps/s · rerun of 0123456789abcdef · ffffffffffff on main"
    assert f"<p>{told}, with changes</p>" in html
    cells = Cells(html).cells
    assert cells[cells.index("train") :] == ["train", "array", "", "", "[5, 3]", "ab"]


def test_a_comparison_shows_as_a_table_in_a_notebook(track, registry):
    for name, lr in (("a", 1), ("b", 2)):
        track(name, params={"lr": lr}, rows=[{"loss": 0.5}])
    cells = Cells(registry.compare_experiments(["a", "b"])._repr_html_()).cells
    assert cells == ["run", "params.lr", "loss", "a", "1", "0.5", "b", "2", "0.5"]


def test_nothing_that_was_logged_becomes_markup(track, registry):
    run = track("a", params={NASTY: NASTY}, rows=[{NASTY: 1.0}], tags={NASTY: NASTY})
    (run.path / "environment.json").write_text(json.dumps({"git": {"note": NASTY}}))
    (run.path / "inputs.json").write_text(json.dumps({"inputs": [{"name": NASTY}]}))
    track("b", params={NASTY: 1})
    runs = registry.list_experiments()
    for thing in (runs, runs[0], registry.compare_experiments(runs)):
        parsed = Cells(thing._repr_html_())
        assert parsed.elements <= {"p", "b", "table", "thead", "tbody", "tr", "th", "td"}
        assert any(NASTY in cell for cell in parsed.cells)


def test_a_run_with_damaged_params_still_shows(track, registry, damage):
    run = track("a", rows=[{"loss": 1.0}])
    record = registry.get("a")
    damage(run, "{", "params.json")
    assert "loss" in record._repr_html_()


@pytest.mark.parametrize("file", ["environment.json", "inputs.json"])
def test_a_damaged_file_of_a_run_is_told_in_its_place(track, registry, damage, file):
    damage(track("a", params={"lr": 0.1}), "{", file)
    html = registry.get("a")._repr_html_()
    assert file in html
    assert "lr" in Cells(html).cells


def test_long_tables_and_cells_are_cut():
    html = table_html({"x": ["y" * 1000] * 60})
    assert html.count("<tr>") == 51
    assert "10 more" in html
    assert "y" * 201 not in html


def test_nothing_is_an_empty_cell_and_numbers_are_short():
    assert Cells(table_html({"x": [None, 1 / 3, True, math.nan]})).cells[1:] == [
        "", "0.333333", "True", "nan",
    ]  # fmt: skip


def test_a_metric_called_run_has_a_column_of_its_own(track, registry):
    track("a", rows=[{"run": 7.0}])
    cells = Cells(registry.list_experiments()._repr_html_()).cells
    assert "metrics.run" in cells
    assert "digits/a" in cells
