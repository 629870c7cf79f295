import re
import shutil
import subprocess

import numpy as np
import pytest

import experiment_tracking.registry.report as report_module
from experiment_tracking.registry.report import report

NASTY = "</title><script>document.title = 'taken'</script>"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


@pytest.fixture
def two(track, registry):
    for name, lr, losses in (("a", 0.1, (1.0, 0.5)), ("b", 0.2, (1.0, 0.25))):
        track(name, params={"lr": lr, "seed": 0}, rows=[{"val/loss": loss} for loss in losses])
    return registry.list_experiments()


def test_a_report_has_the_runs_the_best_the_curves_and_a_section_each(two, whole_page):
    html = report(two, "My study")
    found = whole_page(html)
    assert "<title>My study</title>" in html
    assert "My study2 runs 2 finished" in found.text
    assert "val/loss 0.25 (min): digits/b lr=0.2" in found.text
    assert found.cells[:5] == ["run", "status", "val/loss min", "", "lr"]
    assert found.links == ["#run-2", "#run-1", "#run-2"]
    assert found.elements.count("details") == 2
    assert 'id="run-1"' in html
    assert 'id="run-2"' in html
    # A chart, its legend, a curve in each row and one in each section.
    assert found.elements.count("svg") == 1 + 2 + 2 + 2


def test_a_report_names_all_equal_best_runs(track, registry, whole_page):
    for name, acc in zip("abcdef", (0.9, 0.5, 0.9, 0.9, 0.9, 0.9), strict=True):
        track(name, params={"lr": name}, rows=[{"acc": acc}])
    text = whole_page(report(registry.list_experiments())).text
    best = "acc 0.9 (max): digits/a lr=a; digits/c lr=c; digits/d lr=d; 2 more equal"
    assert best in text


def test_a_report_needs_no_other_file_and_no_script(two):
    html = report(two)
    assert "<script" not in html
    assert "default-src 'none'" in html
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|url\(|@import', html) == []
    assert html.startswith("<!DOCTYPE html>")
    assert html.endswith("</html>\n")


def test_by_default_a_report_is_called_by_its_projects(two, track, registry, whole_page):
    track("c", "waves")
    assert whole_page(report(registry.list_experiments())).text.startswith("Runs of digits, waves")


def test_a_report_of_no_runs_says_so(registry, whole_page):
    assert whole_page(report(registry.list_experiments())).text.startswith("No runs0 runs")


def test_a_report_of_runs_without_metrics_has_a_table(track, registry, whole_page):
    track("a")
    found = whole_page(report(registry.list_experiments()))
    assert found.cells[:2] == ["run", "status"]
    assert "Curves" not in found.text


def test_a_run_that_cannot_be_read_is_told_and_hides_no_other(two, track, registry, damage):
    damage(track("bad"), "{")
    damage(track("worse", rows=[{"val/loss": 0.1}]), "[", "environment.json")
    text = report(registry.list_experiments())
    assert "⚠ 1 problem" in text
    assert "digits/bad" in text
    assert "environment.json" in text
    assert text.count('class="run"') == 3


def test_a_run_that_goes_away_meanwhile_is_told(two):
    assert len(two) == 2
    shutil.rmtree(two[1].path)
    two = two.take([0, 1])
    two._records = [None, None]
    html = report(two)
    assert "digits/b could not be read." in html
    assert html.count('class="run"') == 2


def test_what_does_not_fit_is_counted(two, track, registry, monkeypatch):
    track("c", rows=[{"val/loss": 2.0}])
    monkeypatch.setattr(report_module, "_MAX_ROWS", 2)
    monkeypatch.setattr(report_module, "_MAX_LINES", 1)
    html = report(registry.list_experiments())
    assert html.count("… 1 more run<") == 2
    assert "The best 1 of 3 by val/loss." in html
    monkeypatch.setattr(report_module, "_MAX_SECTIONS_CHARACTERS", 0)
    html = report(registry.list_experiments())
    assert "… 3 more runs" in html
    assert 'href="#run' not in html


def test_a_history_too_long_to_be_drawn_is_counted(two, monkeypatch):
    monkeypatch.setattr(report_module, "_MAX_HISTORY_BYTES", 1)
    assert "2 runs not drawn" in report(two)


def test_all_pictures_of_a_report_share_a_budget(tracker, registry, monkeypatch):
    for name in "ab":
        run = tracker().start_run(name)
        run.log_image(np.full((4, 4), 128, dtype=np.uint8), "x")
        run.end_run()
    runs = registry.list_experiments()
    assert report(runs).count("<img") == 2
    size = next((runs[0].path / "figures").iterdir()).stat().st_size
    monkeypatch.setattr(report_module, "_PICTURES_BYTES", size)
    assert report(runs).count("<img") == 1


def test_cells_share_their_styles(two):
    html = report(two)
    assert html.count("tabular-nums") == 2  # plain and best numbers, in the style sheet
    assert 'class="n"' in html


def test_nothing_that_was_logged_becomes_markup(hostile_run, two, registry, whole_page):
    found = whole_page(report(registry.list_experiments(), NASTY))
    assert found.text.startswith(NASTY)
    assert all(link.startswith(("#run-", "data:image/png")) for link in found.links)


@pytest.mark.skipif(not BROWSER, reason="needs a browser: apt install chromium")
def test_a_browser_finds_only_our_own_elements_in_it(
    hostile_run, two, registry, tmp_path, whole_page
):
    path = tmp_path / "report.html"
    path.write_text(report(registry.list_experiments(), NASTY))
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", f"--user-data-dir={tmp_path / 'browser'}",
            "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = whole_page(done.stdout)
    assert found.text.startswith(NASTY)
    assert found.elements.count("details") == 3 + 2  # three runs; inputs and files of one
