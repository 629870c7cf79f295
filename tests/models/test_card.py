"""A model card says what is known, nothing else, and nothing in it is markup of a stranger's."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiment_tracking.models.card import escaped, figures_of, front_matter, model_card
from experiment_tracking.models.push import push

REPOSITORY = str(Path(__file__).parents[2])
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6368000000820081"
    "77cd72b60000000049454e44ae426082"
)


class Picture:
    def savefig(self, target, **options):
        target.write(PNG)


@pytest.fixture
def full(registry, make, tmp_path):
    """A version of which all is known that can be."""
    data = tmp_path / "train.csv"
    data.write_text("a,b\n1,2\n")
    with make("digits").start_run("first", {"lr": 0.1, "net": {"depth": 3}}) as run:
        run.define_metric("val/accuracy", goal="maximize")
        run.log_input(data, "train")
        run.log_metrics({"val/accuracy": 0.95}, step=1)
        run.log_metrics({"val/accuracy": 0.9, "points": 3}, step=2)
        run.log_figure(Picture(), "curves/loss", step=2)
        run.log_model(
            {"w": np.zeros((4, 3), np.float32)}, "net", {"note": "by hand"},
            signature={"inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}]},
        )  # fmt: skip
    version = registry.register(
        run, "net", name="digits", aliases=["champion"], description="What it is.\nAnd more.",
        tags={"team": "vision"}, by="ann",
    )  # fmt: skip
    registry.transition("digits", 1, "Staging", by="ann")
    return registry.get(version.key)


def sections(card):
    parts = re.split(r"^## (.*)\n\n", card, flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


def cells(table):
    """The rows of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n")[2:]
            if line.startswith("|")]  # fmt: skip


def test_a_card_says_all_that_is_known(full):
    found = sections(model_card(full))
    assert list(found) == [
        "", "How to load it", "Inputs and outputs", "Metrics", "Params", "Training data",
        "Where it came from", "Figures", "Metadata", "Tags",
    ]  # fmt: skip
    assert found[""].startswith("# digits, version 1\n\nWhat it is.  \nAnd more.\n\n- Stage: Stag")
    assert "- Aliases: champion\n- Registered: 20" in found[""]
    assert " by ann\n- Framework: arrays (python 3" in found[""]
    assert cells(found["Inputs and outputs"]) == [["input", "x", "float32", r"\[-1, 4\]"]]
    assert cells(found["Metrics"]) == [["val/accuracy", "0.9", "0.95"], ["points", "3", ""]]
    assert cells(found["Params"]) == [["lr", "0.1"], ["net.depth", "3"]]
    [[name, where, *_, digest]] = cells(found["Training data"])
    assert (name, where.endswith("train.csv"), len(digest)) == ("train", True, 12)
    weights = full.model.document["files"]["weights"]["sha256"]
    assert f"- Run: digits/first (id {full.run_id})" in found["Where it came from"]
    assert f"- SHA-256 of the weights: {weights}" in found["Where it came from"]
    assert cells(found["Metadata"]) == [["note", "by hand"]]
    assert cells(found["Tags"]) == [["team", "vision"]]


def test_of_what_is_not_known_a_card_says_nothing(registry, make):
    with make("p").start_run("bare") as run:
        run.log_model({"w": np.zeros(3)})
    card = model_card(registry.register(run))
    assert list(sections(card)) == ["", "How to load it", "Where it came from"]
    assert "None" not in card
    assert "Stage" not in card


def test_its_lines_load_the_model(full, tmp_path):
    lines = sections(model_card(full))["How to load it"].split("```python\n")[1].split("```")[0]
    program = tmp_path / "load.py"
    program.write_text(f"{lines}print(state['w'].shape)")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=True,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": REPOSITORY},
    )  # fmt: skip
    assert done.stdout == "(4, 3)\n"


def test_a_model_of_functions_of_ones_own_is_loaded_with_their_names(
    registry, make, tmp_path, monkeypatch
):
    pytest.importorskip("skops", reason="pip install skops")
    preprocessing = pytest.importorskip("sklearn.preprocessing", reason="pip install scikit-learn")
    (tmp_path / "steps_of_ours.py").write_text("def halve(x):\n    return x / 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    halve = importlib.import_module("steps_of_ours").halve
    # Gone with the test: runs of later ones would keep it as code of their own.
    monkeypatch.setitem(sys.modules, "steps_of_ours", sys.modules.pop("steps_of_ours"))
    with make("digits").start_run("own") as run:
        run.log_model(preprocessing.FunctionTransformer(halve))
    version = registry.register(run, name="own")
    program = sections(model_card(version))["How to load it"].split("```python\n")[1]
    names = {}
    exec(program.split("```")[0], names)
    assert names["model"].transform(np.full((1, 1), 4.0)) == 2.0
    hub = push(version, "hf-folder", path=tmp_path / "hub")
    readme = (Path(hub) / "README.md").read_text()
    assert "SavedModel(\".\").load(trusted=['steps_of_ours.halve'])" in readme


def test_figures_are_linked_from_where_the_card_will_stand(full, tmp_path):
    (tmp_path / "docs").mkdir()
    shown = sections(model_card(full, tmp_path / "docs"))["Figures"]
    caption, target = re.fullmatch(r"!\[(.*)\]\((.*)\)  \n\1\n\n", shown).groups()
    assert caption == "curves/loss, step 2"
    assert (tmp_path / "docs" / target).read_bytes() == PNG


def test_the_card_of_a_version_whose_run_is_gone_has_no_figures(full, root):
    shutil.rmtree(root / "digits")
    assert figures_of(full) == []
    assert "Figures" not in sections(model_card(full))
    assert cells(sections(model_card(full))["Params"]) == [["lr", "0.1"], ["net.depth", "3"]]


def test_a_figure_that_leads_out_of_the_run_is_none(full, root, damaged):
    (root / "secret.png").write_bytes(PNG)
    listed = root / "digits" / "first" / "artifacts.json"
    listed.write_text(listed.read_text().replace("figures/curves/loss", "../../secret"))
    [entry] = re.findall(r'"path": "(.*secret.*)"', listed.read_text())
    listed.write_text(listed.read_text().replace(entry, "../../secret.png"))
    assert figures_of(full) == []


HOSTILE = [
    "<script>alert(1)</script>", "![x](http://evil.example/x.png)", "[x](javascript:alert(1))",
    "a | b", "`code`", "**bold**", "~~gone~~", "&lt;b&gt;", "# heading", "- item", "1. item",
    "> quote", "---", "===", "    code", "<!-- hidden", "```\n<b>", "\x1b[31m", "\u202eabc", "_x_",
    "\\*x*", "<http://evil.example>", "$x$",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(text):
    markdown = pytest.importorskip("markdown_it", reason="pip install markdown-it-py")
    tokens = markdown.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(
        escaped(text)
    )  # fmt: skip
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}
    shown = "".join(child.content for child in tokens[1].children)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == " ".join(text.split())


def test_a_card_of_hostile_texts_shows_them_and_obeys_none(registry, make, tmp_path):
    markdown = pytest.importorskip("markdown_it", reason="pip install markdown-it-py")
    texts = {f"k{number}{text}": text for number, text in enumerate(HOSTILE)}
    with make("p").start_run("evil", {"params": texts}) as run:
        run.log_model({"w": np.zeros(3)}, metadata={"metadata": texts})
    version = registry.register(run, description="\n".join(HOSTILE))
    parsed = markdown.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    card = model_card(version, tmp_path)
    tokens = parsed.parse(card)
    inline = {child.type for token in tokens for child in token.children or []}
    assert inline <= {"text", "text_special", "softbreak", "hardbreak"}
    headings = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert headings == [
        "model, version 1", "How to load it", "Params", "Where it came from", "Metadata",
    ]  # fmt: skip
    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(rows) == 2 * (len(HOSTILE) + 1)
    page = parsed.render(card)
    assert set(re.findall(r"<(\w+)", page)) == {
        "h1", "h2", "p", "br", "ul", "li", "pre", "code", "table", "thead", "tbody", "tr", "th",
        "td",
    }  # fmt: skip


def test_very_many_params_are_cut_with_their_number(registry, make):
    with make("p").start_run("wide", {f"p{n}": n for n in range(450)}) as run:
        run.log_model({"w": np.zeros(3)})
    params = sections(model_card(registry.register(run)))["Params"]
    assert len(cells(params)) == 200
    assert "and 250 more rows" in params


@pytest.mark.parametrize("name", ["digits", "a, b", "x # y", "ünï", "no"])
def test_what_the_hub_reads_is_yaml(registry, train, name):
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    head = front_matter(registry.register(train(), name=name))
    _, content, rest = head.split("---\n")
    assert rest == "\n"
    assert yaml.safe_load(content) == {
        "library_name": "numpy", "model_name": name, "tags": ["experiment_tracking", "arrays"],
    }  # fmt: skip
