import json
import math

import pytest


def test_a_run_shows_its_params_and_metrics(track, registry, page):
    track("a", params={"lr": 0.1, "model": {"depth": 2}}, rows=[{"loss": math.nan}, {"loss": 2.0}])
    record = registry.get("a")
    found = page(record._repr_html_())
    assert found.cells[:6] == ["param", "value", "lr", "0.1", "model.depth", "2"]
    assert found.cells[found.cells.index("loss") :][:7] == ["loss", "", "2", "2", "2", "2", "2"]
    assert found.text.startswith("digits/a finished")
    assert repr(record) == "<RunRecord digits/a finished>"


def test_each_metric_has_its_curve(track, registry, page):
    track("a", rows=[{"loss": 1.0, "acc": 0.1}, {"loss": 0.5, "acc": 0.2}])
    assert page(registry.get("a")._repr_html_()).elements.count("svg") == 2


def test_a_run_shows_how_it_went_and_what_it_was_trained_on(track, registry, edit, page):
    run = track("a", rows=[{"loss": 1.0}])
    edit(run, exit_code=3, rerun_of="0123456789abcdef", throughput={"steps_per_s": 12.5})
    git = {"commit": "f" * 40, "branch": "main", "dirty": True}
    facts = {"git": git, "command": ["python", "a b.py"], "hostname": "node1"}
    (run.path / "environment.json").write_text(json.dumps(facts))
    inputs = [{"name": "train", "kind": "array", "shape": [5, 3], "sha256": "ab"}]
    (run.path / "inputs.json").write_text(json.dumps({"inputs": inputs}))
    found = page(registry.get("a")._repr_html_())
    assert "12.5 steps/s · exit code 3 · rerun of 0123456789abcdef" in found.text
    assert "python 'a b.py' · commit ffffffffffff on main, with changes · on node1" in found.text
    assert str(run.path) in found.text
    assert found.cells[found.cells.index("train") :][:6] == [
        "train",
        "array",
        "",
        "",
        "[5, 3]",
        "ab",
    ]


def test_a_run_shows_its_notes_line_by_line_its_tags_and_why_it_failed(track, registry, edit, page):
    run = track("a", tags={"sweep": "a", "paper": ""}, status="FAILED")
    error = {"type": "ValueError", "message": "bad shape"}
    edit(run, notes="first <b>\nsecond", error=error)
    html = registry.get("a")._repr_html_()
    assert "first &lt;b&gt;<br>second" in html
    text = page(html).text
    for told in ("sweep=a", "paper", "ValueError: bad shape"):
        assert told in text


def test_a_run_shows_its_files_and_what_was_corrected(track, registry, tmp_path, page):
    run = track("a", params={"lr": 0.1}, status=None)
    run.log_text("hello", "note.txt")
    run.end_run()
    registry.edit("a").set_param("lr", 0.2)
    found = page(registry.get("a")._repr_html_())
    assert "1 file" in found.text
    assert "artifacts/note.txt" in found.cells
    assert "1 correction" in found.text
    assert found.cells[-2:] == ["0.1", "0.2"]


def test_long_lists_are_cut_and_counted(track, registry, page):
    track("a", params={f"p{i}": i for i in range(60)}, rows=[{f"m{i}": 1.0 for i in range(70)}])
    text = page(registry.get("a")._repr_html_()).text
    assert "… 10 more params" in text
    assert "… 20 more metrics" in text


def test_a_run_with_nothing_in_it_shows(track, registry, page):
    track("a")
    assert "digits/a finished" in page(registry.get("a")._repr_html_()).text


@pytest.mark.parametrize(
    "file", ["params.json", "environment.json", "inputs.json", "artifacts.json"]
)
def test_a_damaged_file_of_a_run_is_told_in_its_place(track, registry, damage, page, file):
    run = track("a", params={"lr": 0.1}, rows=[{"loss": 1.0}])
    record = registry.get("a")
    damage(run, "{", file)
    found = page(record._repr_html_())
    assert file in found.text
    assert "loss" in found.cells
    assert ("lr" in found.cells) == (file != "params.json")


def test_nothing_that_was_logged_becomes_markup(hostile_run, registry, page):
    found = page(registry.get("hostile")._repr_html_())
    assert found.text.count("onerror=alert(1)") > 8
    assert not [link for link in found.links if "javascript" in link.split("/")[0]]
