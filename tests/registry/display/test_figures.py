import base64
import json
import re

import numpy as np
import pytest

from experiment_tracking.registry.display.figures import Budget, figures_html, link

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture
def drawn(tracker, registry):
    """Make a run of which some figures are kept, by name."""

    def drawn(*names, side=4, steps=(None,)):
        run = tracker().start_run("a")
        for step in steps:
            for name in names:
                run.log_image(np.full((side, side), 128, dtype=np.uint8), name, step)
        run.end_run()
        return registry.get("a")

    return drawn


@pytest.fixture
def listed(drawn, tmp_path):
    """Make a run whose list of artifacts names a file of that content."""

    def listed(path, content=b"", at=None):
        (tmp_path / "damaged").touch()
        record = drawn("x")
        place = record.path / "figures" / "file" if at is None else at
        place.write_bytes(content)
        entry = {"path": path, "kind": "figure", "name": "x", "step": None}
        (record.path / "artifacts.json").write_text(json.dumps({"artifacts": [entry]}))
        return record.refresh()

    return listed


def test_a_small_figure_is_in_the_page_itself(page, drawn):
    record = drawn("confusion", steps=(3,))
    html = figures_html(record, Budget())
    data = re.search('src="data:image/png;base64,([^"]*)"', html)[1]
    (file,) = (record.path / "figures").iterdir()
    assert base64.b64decode(data) == file.read_bytes()
    assert page(html).text == "confusion, step 3"


def test_of_a_figure_at_many_steps_the_last_is_shown(page, drawn):
    found = page(figures_html(drawn("x", steps=range(5)), Budget()))
    assert found.elements.count("img") == 1
    assert "step 4" in found.text


def test_at_most_twelve_figures_are_shown_and_the_rest_counted(page, drawn):
    found = page(figures_html(drawn(*map(str, range(15))), Budget()))
    assert found.elements.count("img") == 12
    assert "… 3 more figures" in found.text


def test_a_figure_too_large_for_the_page_is_named(page, drawn):
    record = drawn("x")
    found = page(figures_html(record, Budget(10)))
    assert "img" not in found.elements
    assert "figures/x.png" in found.text


def test_the_budget_is_shared_by_all_figures(drawn):
    record = drawn("a", "b", "c")
    size = next((record.path / "figures").iterdir()).stat().st_size
    assert figures_html(record, Budget(2 * size)).count("<img") == 2


def test_the_script_of_an_svg_is_never_part_of_the_page(page, listed, drawn):
    record = listed("figures/x.svg", SVG, at=None)
    (record.path / "figures/x.svg").write_bytes(SVG)
    html = figures_html(record, Budget())
    assert "image/svg+xml;base64," in html
    assert "script" not in html
    assert page(html).elements.count("img") == 1


def test_html_is_linked_and_not_shown(page, listed):
    record = listed("figures/x.html")
    (record.path / "figures/x.html").write_text("<script>alert(1)</script>")
    found = page(figures_html(record, Budget()))
    assert "img" not in found.elements
    assert "figures/x.html" in found.text


@pytest.mark.parametrize(
    "path", ["../../secret.png", "/etc/passwd", "figures/../../../x.png", "a\0b.png"]
)
def test_a_path_that_leads_out_of_the_run_is_refused(page, listed, tmp_path, path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    found = page(figures_html(listed(path), Budget()))
    assert found.links == []
    assert "leads out of the run" in found.text or "is no path" in found.text


def test_a_link_that_leads_out_of_the_run_is_refused(page, listed, tmp_path):
    record = listed("figures/x.png")
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (record.path / "figures/x.png").unlink()
    (record.path / "figures/x.png").symlink_to(secret)
    found = page(figures_html(record, Budget()))
    assert found.links == []
    assert "leads out of the run" in found.text


def test_a_figure_whose_file_is_gone_is_told(page, listed):
    record = listed("figures/gone.png")
    assert "gone.png" in page(figures_html(record, Budget())).text


def test_a_file_is_linked_relative_to_the_notebook(page, drawn, tmp_path, monkeypatch):
    record = drawn("50% #1")
    monkeypatch.chdir(tmp_path)
    (target,) = page(link(record, "figures/50% #1.png")).links
    assert target == "./experiments/digits/a/figures/50%25%20%231.png"


def test_a_file_that_no_notebook_could_open_is_named_alone(drawn, tmp_path, monkeypatch):
    record = drawn("x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert link(record, "figures/x.png") == "figures/x.png"
