import math
from html.parser import HTMLParser

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


def test_a_comparison_shows_as_a_table_in_a_notebook(track, registry):
    for name, lr in (("a", 1), ("b", 2)):
        track(name, params={"lr": lr}, rows=[{"loss": 0.5}])
    cells = Cells(registry.compare_experiments(["a", "b"])._repr_html_()).cells
    assert cells == ["run", "params.lr", "loss", "a", "1", "0.5", "b", "2", "0.5"]


def test_nothing_that_was_logged_becomes_markup(track, registry):
    track("a", params={NASTY: NASTY}, rows=[{NASTY: 1.0}], tags={NASTY: NASTY})
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
