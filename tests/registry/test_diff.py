"""What differs between two runs, and what is only not known."""

import json
import math
import re
import time
from datetime import UTC, datetime

import pytest

from experiment_tracking.registry.diff import (
    SECTIONS,
    Change,
    cut_apart,
    last_run_of_same_script,
    shown_apart,
    summary_lines,
)

NASTY = "<script>alert('&')</script>\x1b[31m\u202e"
FACTS = {
    "python_version": "3.11.7",
    "hostname": "one",
    "command": ["python", "train.py", "--lr", "0.1"],
    "variables": {"OMP_NUM_THREADS": "4"},
    "packages": {"numpy": "2.1", "torch": "2.12"},
    "cpu_count": 8,
    "gpus": None,
    "entry_script": {"relative_name": "train.py"},
}


@pytest.fixture
def known(track, registry):
    """Make a run with facts in environment.json, inputs and code; gives its record."""

    def known(name, facts=FACTS, inputs=None, code=None, **options):
        run = track(name, **options)
        (run.path / "environment.json").write_text(json.dumps(facts))
        if inputs is not None:
            (run.path / "inputs.json").write_text(json.dumps({"inputs": inputs}))
        for path, text in (code or {}).items():
            (run.path / "code").mkdir(exist_ok=True)
            (run.path / "code" / path).write_text(text)
        return registry.get(name)

    return known


def test_equal_runs_have_no_difference(known, registry):
    for name in ("a", "b"):
        known(name, params={"lr": 1, "n": math.nan}, rows=[{"loss": 1.0}], code={"x.py": ""})
    diff = registry.diff("a", "b")
    assert diff.is_empty
    assert not diff
    assert diff.unknown == {}
    assert all(not diff[section] for section in SECTIONS)
    assert repr(diff) == "<RunDiff digits/a digits/b: no difference>"


def test_params_differ_by_their_dotted_names(track, registry):
    track("a", params={"lr": 0.1, "model": {"depth": 2, "width": 3}, "old": None})
    track("b", params={"lr": 0.1, "model": {"depth": 4, "width": 3}, "new": "x"})
    diff = registry.diff("a", "b")
    assert diff.params == {"model.depth": (2, 4), "old": (None, None), "new": (None, "x")}
    assert diff.params["model.depth"].b == 4


def test_metrics_differ_by_last_values_and_by_best_ones_where_those_say_more(track, registry):
    track("a", rows=[{"val/loss": 0.5, "acc": 0.5}, {"val/loss": 0.8, "acc": 0.75}])
    track("b", rows=[{"val/loss": 0.4, "acc": 0.25}, {"val/loss": 0.4, "acc": 1.0}])
    metrics = registry.diff("a", "b").metrics
    assert metrics == {
        "val/loss": (0.8, 0.4), "acc": (0.75, 1.0), "val/loss:best": (0.5, 0.4),
    }  # fmt: skip
    assert metrics["val/loss"].difference == pytest.approx(-0.4)
    assert metrics["val/loss"].relative == pytest.approx(-0.5)


@pytest.mark.parametrize(
    "change",
    [Change(None, 1.0), Change(1.0, math.nan), Change("a", "b"), Change(10**400, 1.0)],
)
def test_what_is_no_finite_number_has_no_difference(change):
    assert change.difference is None
    assert change.relative is None


def test_nothing_is_no_measure_of_a_share():
    assert (Change(0.0, 1.0).difference, Change(0.0, 1.0).relative) == (1.0, None)


def test_packages_differ_by_version_and_by_source(known, registry):
    checkout = {"url": "https://example.org/x", "vcs_info": {"commit_id": "1234"}}
    packages = {"numpy": "2.2", "torch": "2.12", "new": None}
    known("a")
    known("b", {**FACTS, "packages": packages, "package_sources": {"torch": checkout}})
    assert registry.diff("a", "b").packages == {
        "numpy": ("2.1", "2.2"),
        "torch": ("2.12", "2.12 (https://example.org/x@1234)"),
        "new": (None, "?"),
    }


def test_the_environment_differs_by_what_both_have_recorded(known, registry):
    known("a", {**FACTS, "launcher": {"RANK": "0"}, "pid": 1, "git": {"branch": "main"}})
    known("b", {
        **FACTS, "hostname": "two", "variables": {"OMP_NUM_THREADS": "8", "X": "1"}, "pid": 2,
        "command": ["python", "train.py", "--name", "two words"], "seeds": {"seed": 3},
    })  # fmt: skip
    assert registry.diff("a", "b").environment == {
        "hostname": ("one", "two"),
        "variables.OMP_NUM_THREADS": ("4", "8"),
        "variables.X": (None, "1"),
        "command": ("python train.py --lr 0.1", "python train.py --name 'two words'"),
        "seeds.seed": (None, 3),
    }


def test_hardware_counts_gpus_by_name(known, registry):
    gpu = {"name": "H200", "memory_bytes": 139 * 2**30}
    gpus = {"driver": "550.1", "devices": [gpu, gpu, {"name": "T4"}]}
    known("a")
    known("b", {**FACTS, "cpu_count": 16, "gpus": gpus})
    assert registry.diff("a", "b").hardware == {
        "cpu_count": (8, 16), "gpus": ("none", "2 x H200 139 GiB, 1 x T4"),
    }  # fmt: skip


def test_inputs_differ_by_their_content_and_not_by_their_path(known, registry):
    def table(name, sha256, **facts):
        return {"name": name, "kind": "file", "sha256": sha256, "size_bytes": 5, **facts}

    known("a", inputs=[table("same", "1", path="/x"), table("new", "2"), table("gone", "4")])
    known("b", inputs=[table("same", "1", path="/y"), table("new", "3")])
    assert registry.diff("a", "b").inputs == {
        "new": ({"sha256": "2"}, {"sha256": "3"}),
        "gone": ({"kind": "file", "sha256": "4", "size_bytes": 5}, None),
    }


def test_of_a_run_that_has_recorded_nothing_nothing_is_said(track, known, registry):
    known("a", code={"x.py": "1\n"})
    track("b")
    diff = registry.diff("a", "b")
    assert diff.is_empty
    assert diff.unknown == {
        section: ["digits/b"] for section in ("packages", "environment", "hardware", "code")
    }


def test_documents_of_unexpected_content_are_no_differences(known, registry, root):
    known("a", code={"x.py": ""})
    facts = {name: [1] for name in (*FACTS, "conda", "git", "package_sources", "seeds")}
    path = known("b", facts, code={"x.py": ""}).path
    (path / "inputs.json").write_text('{"inputs": [5, null]}')
    diff = registry.diff("a", "b")
    assert diff.packages == {}
    assert diff.inputs == {}
    diff._repr_html_()
    (path / "inputs.json").write_text('{"inputs": 5}')
    assert registry.diff("a", "b").inputs == {}


def test_a_damaged_document_is_told_and_hides_no_other_section(known, registry, damage):
    known("a", params={"lr": 1})
    run = known("b", params={"lr": 2}, facts={**FACTS, "hostname": "two"})
    damage(run, "{", "params.json")
    diff = registry.diff("a", "b")
    assert diff.params == {}
    assert diff.unknown["params"] == ["digits/b"]
    assert "params.json" in diff.problems[0].reason
    assert diff.environment == {"hostname": ("one", "two")}
    assert "params.json" in diff._repr_html_()


def test_as_a_mapping_it_holds_the_sections_that_differ(track, registry):
    track("a", params={"lr": 1})
    track("b", params={"lr": 2})
    diff = registry.diff("a", "b")
    assert list(diff) == ["params"]
    assert "tags" not in diff
    assert diff["tags"] == {}
    with pytest.raises(KeyError):
        diff["colour"]


def test_a_comparison_writes_nothing_into_the_runs(known, registry, root):
    a, b = known("a", code={"x.py": "1"}), known("b", code={"x.py": "2"})
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    registry.diff(a, b).to_dict()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_the_whole_is_plain_json(known, registry):
    a = known("a", code={"x.py": "1\n"}, rows=[{"loss": 1.0}])
    b = known("b", code={"x.py": "2\n"}, rows=[{"loss": 3.0}])
    plain = json.loads(json.dumps(registry.diff(a, b).to_dict()))
    assert list(plain) == ["a", "b", "paths", *SECTIONS, "unknown", "problems"]
    assert plain["metrics"] == {"loss": {"a": 1.0, "b": 3.0, "difference": 2.0, "relative": 2.0}}
    assert plain["code"]["files"][0]["added"] == 1
    assert list(registry.diff(a, b).to_dict(["params"]))[3:] == ["params", "unknown", "problems"]


def test_runs_of_one_name_are_told_apart(track, registry):
    for project in ("digits", "waves"):
        track("a", project)
    assert registry.diff("digits/a", "waves/a").names == ("digits/a", "waves/a")


def test_where_a_project_and_its_interpreter_lie_is_no_difference(known, registry):
    def facts(project, python, data):
        command = [python, f"{project}/train.py", f"--data={project}/{data}", "--out=/data"]
        path = f"{project}/src:/site"
        return {**FACTS, "project": project, "command": command, "variables": {"PYTHONPATH": path}}

    known("a", facts("/home/x/p", "python", "d"), code={"x.py": ""})
    known("b", facts("/tmp/tree", "/opt/venv/bin/python3.11", "d"), code={"x.py": ""})
    known("c", facts("/home/x/p2", "python", "e"), code={"x.py": ""})
    assert registry.diff("a", "b").is_empty
    assert registry.diff("a", "c").environment == {
        "command": (
            "python train.py --data=d --out=/data", "python train.py --data=e --out=/data",
        ),
    }  # fmt: skip


def test_a_path_beside_the_project_stays_whole(known, registry):
    facts = [{**FACTS, "project": "/p", "cwd": cwd} for cwd in ("/p", "/p2", "/p/p")]
    for name, each in zip("abc", facts, strict=True):
        known(name, each)
    assert registry.diff("a", "b").environment == {"cwd": (".", "/p2")}
    assert registry.diff("a", "c").environment == {"cwd": (".", "p")}


def test_a_rerun_outside_of_a_project_is_in_another_folder_by_nature(known, registry, edit):
    record = known("a", {**FACTS, "project": None, "cwd": "/home/x"})
    rerun = known("b", {**FACTS, "project": None, "cwd": "/tmp/tree"})
    assert registry.diff("a", "b").environment == {"cwd": ("/home/x", "/tmp/tree")}
    edit(rerun, rerun_of=record.id)
    assert registry.diff("a", "b").environment == {}


def test_a_notebook_is_called_by_its_name_and_not_by_its_kernels_command(known, registry):
    kernel = ["python", "-m", "ipykernel_launcher", "-f", "/tmp/tmp1.json"]
    known("a", {**FACTS, "command": kernel, "notebook": "/p/study.ipynb"})
    known("b", {**FACTS, "command": ["python", "-m", "IPython", "/tmp/tree/notebook.ipy"]})
    known("c")
    assert registry.diff("a", "b").environment == {}
    assert registry.diff("a", "c").environment["command"].a == "notebook study.ipynb"
    assert registry.diff("b", "c").environment["command"].a == "notebook"


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (1795271437.2, 1795271437.4, ("1795271437.2", "1795271437.4")),
        (0.1, 0.25, ("0.1", "0.25")),
        (0.1, 0.1 + 2**-56, ("0.10000000000000001", "0.10000000000000002")),
        (1, "1", ("1", "'1'")),
        (None, "", ("", "''")),
    ],
)
def test_values_are_written_so_that_they_differ(a, b, told):
    assert shown_apart(Change(a, b)) == told


# ---------------------------------------------------------------------- in a notebook


def unstyled(html):
    return re.sub(' (style|title)="[^"]*"', "", html)


def test_a_notebook_shows_tables_and_coloured_lines(known, registry):
    known("a", params={"lr": 1}, rows=[{"loss": 1.0}], code={"x.py": "old\n"})
    known("b", params={"lr": 2}, rows=[{"loss": 0.5}], code={"x.py": "new\n"})
    html = registry.diff("a", "b")._repr_html_()
    assert "<td>lr</td><td>1</td><td>2</td>" in unstyled(html)
    assert "<td>loss</td><td>1</td><td>0.5</td><td>-0.5 (-50.0%)</td>" in unstyled(html)
    assert "<summary>x.py +1 -1</summary>" in html
    assert html.count('rgba(46, 160, 67, 0.25)">+new</span>') == 1
    assert html.count('rgba(248, 81, 73, 0.25)">-old</span>') == 1
    assert "No difference in tags, inputs, packages, environment, hardware." in html


def test_a_notebook_heads_its_tables_by_names_and_points_to_the_paths(track, registry, tmp_path):
    track("a", params={"lr": 1})
    track("a", "waves", params={"lr": 2.5})
    html = registry.diff("digits/a", "waves/a")._repr_html_()
    path = registry.get("waves/a").folder.path
    assert f'<span title="{path}">waves/a</span></th>' in html
    assert 'text-align: right; font-variant-numeric: tabular-nums">2.5</td>' in html
    same = registry.diff("waves/a", "waves/a")._repr_html_()
    assert unstyled(same).startswith("<p><b><span>waves/a (a)</span> → <span>waves/a (b)</span>")


def test_a_notebook_shows_long_changes_closed_and_of_data_their_number(known, registry):
    def files(value, lines):
        return {"short.py": value, "long.py": value * lines, "data.csv": value * lines}

    known("a", code=files("1\n", 60))
    known("b", code=files("2\n", 60))
    html = registry.diff("a", "b")._repr_html_()
    assert "<details open><summary>short.py +1 -1</summary>" in html
    assert "<details><summary>long.py +60 -60</summary>" in html
    assert "<p>data.csv +60 -60</p>" in html


def test_one_further_line_is_one(known, registry):
    known("a", code={"x.py": ""})
    known("b", code={"x.py": "1\n" * 300})
    assert "… 1 more line<" in registry.diff("a", "b")._repr_html_()


def test_nothing_in_a_difference_becomes_markup_or_turns_text_around(known, registry):
    facts = {**FACTS, "hostname": NASTY, "packages": {NASTY: NASTY}, "gpus": {
        "devices": [{"name": NASTY}]}, "variables": {NASTY: NASTY}}  # fmt: skip
    inputs = [{"name": NASTY, "sha256": NASTY, "dtype": NASTY}]
    known("a", code={"x.py": "1\n"})
    known("b", facts, inputs, {"x.py": NASTY, "<b>.py": NASTY}, params={NASTY: NASTY})
    html = registry.diff("a", "b")._repr_html_()
    assert html.count("&lt;script&gt;") >= 8
    assert "<script" not in html
    assert "<b>.py" not in html
    assert not {"\x1b", "\u202e"} & set(html)


def test_a_notebook_shows_the_first_lines_of_long_changes(known, registry):
    known("a", code={"x.py": "".join(f"{i}\n" for i in range(1000))})
    known("b", code={"x.py": "x\n"})
    html = registry.diff("a", "b")._repr_html_()
    assert html.count('<span style="display: block') == 301
    assert "… 702 more lines" in html


# ---------------------------------------------------------------------- since the last run


def later(record):
    """Wait until the clock that dates runs has passed a run."""
    while datetime.fromisoformat(record.created_at) >= datetime.now(UTC):
        time.sleep(0.001)
    return record


def test_the_last_run_of_the_same_script_is_found(known, registry):
    other = {**FACTS, "entry_script": {"relative_name": "other.py"}}
    runs = []
    for name, facts in (("one", FACTS), ("two", FACTS), ("other", other)):
        runs.append(later(known(name, facts)))
    newest = known("newest")
    found = last_run_of_same_script(registry, newest)
    assert found is not None
    assert found.name == "two"
    assert last_run_of_same_script(registry, runs[0]) is None
    assert last_run_of_same_script(registry, runs[2]) is None


def test_a_users_run_is_compared_with_the_newest_of_theirs_that_finished(known, registry, edit):
    names = ("good", "exit", "again", "failed", "running")
    ends = ("FINISHED", "FINISHED", "FINISHED", "FAILED", None)
    good, ended, again, *_ = (
        later(known(name, status=status)) for name, status in zip(names, ends, strict=True)
    )
    edit(again, rerun_of=good.id)
    edit(ended, exit_code=1)
    assert last_run_of_same_script(registry, known("newest")).name == "good"


def test_where_no_run_has_finished_the_newest_is_compared_with(known, registry, edit):
    for name in ("one", "two"):
        later(known(name, status="FAILED"))
    edit(later(known("again", status="FAILED")), rerun_of="f" * 16)
    assert last_run_of_same_script(registry, known("newest")).name == "two"


def test_a_rerun_is_compared_with_the_run_it_repeats(known, registry, edit):
    first = later(known("first", {"notebook": "study.ipynb"}))
    later(known("second", {"notebook": "study.ipynb"}))
    edit(known("again", {"command": ["ipython", "notebook.ipy"]}), rerun_of=first.id)
    assert last_run_of_same_script(registry, registry.get("again")).name == "first"
    edit(registry.get("again"), rerun_of="0" * 16)
    assert last_run_of_same_script(registry, registry.get("again")) is None


def test_without_a_script_the_command_tells_which_runs_are_alike(known, registry):
    def facts(*command):
        return {"command": list(command), "entry_script": None}

    for name, words in (("a", ("python", "-c", "1")), ("b", ("node", "x.js")), ("c", ())):
        later(known(name, facts(*words)))
    record = known("newest", facts("python", "-c", "2"))
    assert last_run_of_same_script(registry, record).name == "a"
    assert last_run_of_same_script(registry, registry.get("c")) is None


def test_a_few_short_lines_say_what_changed(known, registry):
    known("a", params={"lr": 0.1}, code={"train.py": "a\nb\n"}, rows=[{"loss": 1.0}],
          inputs=[{"name": "x", "sha256": "1"}])  # fmt: skip
    known("b", {**FACTS, "packages": {"numpy": "2.1", "torch": "2.13"}},
          [{"name": "x", "sha256": "2"}], {"train.py": "a\nc\nd\n"}, params={"lr": 0.01},
          rows=[{"loss": 2.0}])  # fmt: skip
    assert summary_lines(registry.diff("a", "b")) == [
        "lr 0.1 → 0.01",
        "code: train.py +2 -1",
        "input x changed: sha256",
        "torch 2.12 → 2.13",
    ]


def test_many_changes_are_counted_and_long_values_cut(track, registry):
    track("a", params={f"p{i}": 1 for i in range(9)})
    track("b", params={"p0": "x" * 100} | {f"p{i}": 2 for i in range(1, 9)})
    lines = summary_lines(registry.diff("a", "b"))
    assert lines[0] == f"p0 1 → {'x' * 39}…"
    assert lines[4:] == ["5 more params"]


def test_of_a_failed_run_nothing_is_said_to_be_gone(known, registry):
    inputs = [{"name": "x", "sha256": "1"}]
    known("a", inputs=inputs, params={"lr": 1, "n": 1}, code={"x.py": ""})
    known("b", params={"n": 2}, code={"x.py": ""}, status="FAILED")
    known("c", params={"n": 2}, code={"x.py": ""})
    assert summary_lines(registry.diff("a", "b")) == ["n 1 → 2"]
    assert "input x is gone" in summary_lines(registry.diff("a", "c"))


def test_the_script_and_what_it_imports_are_named_and_other_files_counted(known, registry):
    origins = {"train.py": "script", "z/net.py": "module", "a.py": "untracked"}
    files = [{"path": path, "origin": origin} for path, origin in origins.items()]
    names = ("a.py", "b.txt", "conf.yaml", "net.py", "train.py")
    for name in ("a", "b"):
        facts = {**FACTS, "code": {"files": files}}
        known(name, facts, code=dict.fromkeys(names, f"{name}\n"))
    line = summary_lines(registry.diff("a", "b"))[0]
    assert line == "code: train.py +1 -1, conf.yaml +1 -1, 3 other files"


def test_one_other_file_is_one_and_files_of_which_nothing_is_known_are_named(known, registry):
    for name in ("a", "b"):
        known(name, code=dict.fromkeys(("a.md", "b.md"), f"{name}\n"))
    known("c", code={"a.md": "a\n", "b.md": "c\n", "train.py": "c\n"})
    assert summary_lines(registry.diff("a", "b")) == ["code: a.md +1 -1, b.md +1 -1"]
    line = summary_lines(registry.diff("a", "c"))[0]
    assert line == "code: train.py +1 -0, 1 other file"


def test_long_values_are_shown_from_where_they_part():
    a, b = cut_apart(Change("x" * 100 + "1", "x" * 100 + "2"), 40)
    assert (a, b) == ("…xxxxxxxx1", "…xxxxxxxx2")
