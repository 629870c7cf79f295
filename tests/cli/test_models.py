"""``experiments models``: versions, stages, gates and the trash from the command line."""

import importlib
import itertools
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.cli import main
from experiment_tracking.cli.models.wording import in_words
from experiment_tracking.models.events import Event
from experiment_tracking.models.registry import ModelRegistry

SGR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(autouse=True)
def _ann(monkeypatch):
    monkeypatch.setenv("LOGNAME", "ann")


@pytest.fixture
def root(tmp_path):
    """Three runs of ``nets``, each with a model ``best``; nothing is registered."""
    path = tmp_path / "experiments"
    tracker = ExperimentTracker("nets", root=path, auto_log=False, use_tensorboard=False)
    for i in range(3):
        with tracker.start_run(f"net-{i}", {"lr": 0.1 * (i + 1), "epochs": 3}) as run:
            run.log_metrics({"val/acc": 0.7 + i / 10, "val/loss": 0.5}, step=i)
            run.log_model({"w": np.full((2, 3), i, np.float32)}, "best", step=i)
    return path


@pytest.fixture
def registry(root):
    """The registry, with the model ``digits`` of three versions."""
    registry = ModelRegistry(root)
    for i in range(3):
        registry.register(f"nets/net-{i}", "best", name="digits")
    return registry


@pytest.fixture
def models(experiments):
    """Call ``experiments models``; gives exit code, stdout and stderr."""
    return lambda *words: experiments("models", *words)


# ---------------------------------------------------------------------- register and look


def test_without_a_model_it_says_how_to_register_one(models):
    code, out, err = models()
    assert (code, out) == (0, "")
    assert "no model is registered in " in err
    assert "experiments models register RUN --name MODEL" in err
    assert models("verify")[::2] == (0, err)
    assert models("--json") == (0, "[]\n", "")


def test_a_runs_model_becomes_the_next_version(models, root):
    code, out, err = models("register", "net-1", "--name", "digits")
    assert (code, err) == (0, "")
    folder = root / "_models" / "digits" / "versions" / "1"
    assert out == (
        "digits/1: registered from nets/net-1, best at step 1 (val/acc 0.8, val/loss 0.5), "
        f"{folder}\n"
    )
    words = ("best", "--name", "digits", "--alias", "champion", "-t", "data=v2", "--json")
    version = json.loads(models("register", "net-2", *words, "--description", "better")[1])
    assert (version["name"], version["version"], version["stage"]) == ("digits", 2, "None")
    assert (version["aliases"], version["tags"]) == (["champion"], {"data": "v2"})
    assert (version["description"], version["by"]) == ("better", "ann")
    assert ModelRegistry(root).load("digits@champion")["w"].tolist() == [[2, 2, 2], [2, 2, 2]]


def test_an_earlier_save_is_registered_by_its_step(models, root):
    tracker = ExperimentTracker("nets", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("long") as run:
        for step in (10, 20):
            run.log_model([np.full(2, step)], "best", step=step, keep=2)
    assert models("register", "long", "--step", "10", "--name", "digits")[0] == 0
    assert ModelRegistry(root).load("digits/1")[0].tolist() == [10, 10]
    code, _, err = models("register", "long", "--step", "11", "--name", "digits")
    assert code == 3
    assert "no save of step 11 is kept" in err


def test_the_best_of_the_saves_is_registered_and_named(models, root):
    tracker = ExperimentTracker("nets", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("long") as run:
        for step, accuracy in enumerate((0.7, 0.9, 0.6, 0.8)):
            run.log_metrics({"val/acc": accuracy}, step=step)
            run.log_model([np.full(2, step)], "best", step=step, keep_best=("val/acc", 1))
    words = ("register", "best:val/acc", "--name", "digits")
    newest = models(*words, "--best", "val/acc")[1]
    assert newest.startswith("digits/1: registered from nets/long, best at step 1 (val/acc 0.9), ")
    assert ModelRegistry(root).load("digits/1")[0].tolist() == [1, 1]
    assert "best at step 3 (val/acc 0.8)" in models(*words)[1]
    code, _, err = models(*words, "--best", "val/acc", "--step", "1")
    assert code == 2
    assert "not allowed with" in err


def test_of_a_run_with_several_models_one_has_to_be_named(models, root):
    tracker = ExperimentTracker("nets", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("two") as run:
        run.log_model([np.zeros(2)], "best")
        run.log_model([np.ones(2)], "last")
    code, _, err = models("register", "two", "--name", "digits")
    assert code == 2
    assert "Run nets/two has several models: best, last. Say which: " in err
    assert "experiments models register two best --name digits\n" in err
    assert models("register", "two", "last", "--name", "digits")[0] == 0
    code, _, err = models("register", "two", "lst", "--name", "digits")
    assert code == 3
    assert "has no model 'lst'. Near: last" in err


def test_models_are_listed_with_who_is_in_which_stage(models, registry):
    registry.transition("digits", 1, "Production")
    registry.transition("digits", 2, "Staging")
    registry.set_alias("digits", "champion", 1)
    registry.register("nets/net-0", "best", name="other")
    header, digits, other = models()[1].splitlines()
    assert header.split() == "model latest production staging aliases age description".split()
    assert digits.split()[:5] == ["digits", "3", "1", "2", "champion=1"]
    assert other.split()[:5] == ["other", "1", "-", "-", "-"]
    assert models("ls") == models()
    listed = json.loads(models("ls", "--json")[1])
    assert [model["name"] for model in listed] == ["digits", "other"]
    assert listed[0]["aliases"] == {"champion": 1}
    assert listed[0]["versions"]["1"]["stage"] == "Production"


def test_a_name_lists_versions_and_a_reference_shows_one(models, registry):
    registry.transition("digits", 2, "Production")
    header, *rows = models("digits")[1].splitlines()
    assert header.split() == (
        "version stage model step val/acc val/loss framework size age by run".split()
    )
    assert [row.split()[:2] for row in rows] == [
        ["digits/3", "None"], ["digits/2", "Production"], ["digits/1", "None"],
    ]  # fmt: skip
    assert rows[1].split()[2:8] == ["best", "1", "0.8", "0.5", "arrays", "96B"]
    assert rows[1].split()[-1] == "nets/net-1"
    assert models("ls", "digits")[1].splitlines()[0] == header
    assert models("digits/2") == models("show", "digits/2")
    chosen = models("digits", "--metrics", "loss")[1].splitlines()[0].split()
    assert "val/loss" in chosen
    assert "val/acc" not in chosen
    versions = json.loads(models("digits", "--json")[1])
    assert [version["version"] for version in versions] == [3, 2, 1]
    assert versions[1]["metrics"] == {"val/acc": pytest.approx(0.8), "val/loss": 0.5}


def test_a_version_is_shown_with_where_it_came_from(models, registry, root):
    registry.set_alias("digits", "champion", 2)
    code, out, err = models("show", "digits@champion")
    assert (code, err) == (0, "")
    folder = root / "_models" / "digits" / "versions" / "2"
    assert out.startswith("digits/2  None\n")
    for line in (
        "aliases      champion",
        "model in it  best",
        "step         1",
        "parameters   6",
        f"path         {folder}",
        f"load         ModelRegistry({str(root)!r}).load('digits/2')",
        "params\n  lr      0.2\n  epochs  3",
        "metrics\n  val/acc ",
    ):
        assert line in out
    assert "nets/net-1 (" in out
    assert "weights-000001.safetensors" in out
    assert models("show", "digits@champion", "--path")[1] == f"{folder}\n"
    version = json.loads(models("show", "models:/digits/2", "--json")[1])
    assert version["uri"] == "models:/digits/2"
    assert version["of_run"]["key"] == "nets/net-1"
    assert set(version["files"]) == {"model.json", "weights-000001.safetensors"}


def test_what_differs_between_versions_comes_first(models, registry):
    header, *lines = models("compare", "digits/1", "digits/3")[1].splitlines()
    assert header.split() == ["digits/1", "digits/3"]
    cut = lines.index("is the same")
    differs = {line.split()[0]: line.split()[1:] for line in lines[1:cut]}
    same = {line.split()[0]: line.split()[1:] for line in lines[cut + 1 :]}
    assert differs["metrics.val/acc"] == ["0.7", "0.9"]
    assert differs["run"] == ["nets/net-0", "nets/net-2"]
    assert same["params.epochs"] == ["3", "3"]
    found = json.loads(models("compare", "digits/1", "digits/3", "--json")[1])
    assert found["versions"] == ["digits/1", "digits/3"]
    assert "params.lr" in found["differing"]
    assert found["rows"]["metrics.val/loss"] == [0.5, 0.5]
    assert models("compare", "digits/1")[0] == 2


# ---------------------------------------------------------------------- stages


def test_a_version_moves_and_who_was_there_is_archived(models, registry):
    assert models("promote", "digits/1") == (0, "digits/1: stage None → Production\n", "")
    code, out, _ = models("stage", "digits/2", "PRODUCTION", "--reason", "better")
    assert code == 0
    assert out == "digits/2: stage None → Production, version 1 archived: better\n"
    assert registry.get("digits/production").version == 2
    assert registry.get("digits/1").stage == "Archived"
    code, out, err = models("promote", "digits/2")
    assert (code, out) == (0, "")
    assert err == "experiments: digits/2 is in Production already; nothing was changed.\n"
    models("promote", "digits/3", "--keep-existing")
    assert [v.version for v in registry.versions("digits", "Production")] == [3, 2]


def test_the_version_before_comes_back(models, registry):
    models("promote", "digits/1")
    models("promote", "digits/3")
    code, out, _ = models("rollback", "digits", "--reason", "wrong on rotated images")
    assert code == 0
    assert out == (
        "digits/1: rolled back to Production, version 3 archived: wrong on rotated images\n"
    )
    assert registry.get("digits/production").version == 1
    code, _, err = models("rollback", "digits")
    assert code == 2
    assert "cannot be rolled back" in err


def test_a_gate_that_is_not_passed_ends_with_4(models, registry, monkeypatch):
    words = ("policy", "digits", "production", "--require", "val/acc >= 0.85", "--approver")
    code, out, _ = models(*words, "ann,bob")
    assert code == 0
    assert out.splitlines()[1].split() == "Production val/acc >= 0.85 ann, bob 1".split()
    assert models("policy", "digits", "production") == (0, out, "")
    code, out, err = models("promote", "digits/1")
    assert (code, out) == (4, "")
    assert "needs val/acc >= 0.85, found val/acc 0.7" in err
    assert "experiments models approve digits/1 Production" in err
    assert models("promote", "digits/1", "--json")[:2] == (4, "[]\n")
    assert registry.get("digits/1").stage == "None"
    code, out, _ = models("approve", "digits/3", "production", "--reason", "looked at it")
    assert (code, out) == (0, "digits/3: approved for Production: looked at it\n")
    assert models("promote", "digits/3")[0] == 0
    monkeypatch.setenv("LOGNAME", "eve")
    code, _, err = models("approve", "digits/1", "production")
    assert code == 2
    assert "'eve' is no approver of digits" in err
    assert models("policy", "digits", "production", "--clear")[2].startswith(
        "experiments: digits has no gate there"
    )
    assert models("promote", "digits/1")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--clear",), "Name the stage whose gate it is"),
        (("production", "--clear", "--require", "lr > 0"), "--clear removes the gate"),
        (("production", "--approvals", "2"), "name them"),
        (("archived", "--require", "lr > 0"), "Staging or Production"),
        (("production", "--approver", "ann", "--approvals", "2"), "ann"),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(models, registry, words, message):
    code, out, err = models("policy", "digits", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert registry.policy("digits") == {}


# ---------------------------------------------------------------------- words


def test_aliases_are_set_moved_and_removed(models, registry):
    assert models("alias", "digits/1", "champion")[1] == "digits/1: alias @champion\n"
    models("alias", "digits/2", "champion")
    assert registry.get("digits@champion").version == 2
    assert models("alias", "digits", "champion", "--delete")[0] == 0
    code, _, err = models("show", "digits@champion")
    assert code == 3
    assert "digits has no alias 'champion'" in err


def test_a_name_alone_means_the_model_and_a_reference_the_version(models, registry):
    models("describe", "digits", "of one hand")
    models("describe", "digits/2", "with dropout")
    models("tag", "digits", "-t", "team=vision", "-t", "draft")
    models("tag", "digits/2", "-t", "data=v2")
    code, out, _ = models("tag", "digits", "-r", "draft", "-t", "reviewed")
    assert (code, out) == (0, "digits: tags reviewed\ndigits: tags draft removed\n")
    (model,) = registry.list()
    assert (model.description, model.tags) == ("of one hand", {"team": "vision", "reviewed": ""})
    version = registry.get("digits/2")
    assert (version.description, version.tags) == ("with dropout", {"data": "v2"})
    assert models("tag", "digits")[0] == models("tag", "digits", "-t", "=x")[0] == 2


def test_the_audit_trail_says_when_who_what_and_why(models, registry):
    models("promote", "digits/2", "--reason", "best so far")
    models("describe", "digits", "of one hand")
    lines = models("log", "digits")[1].splitlines()
    assert [line.split(None, 2)[2] for line in lines] == [
        "ann  digits/1  registered from nets/net-0, best at step 0",
        "ann  digits/2  registered from nets/net-1, best at step 1",
        "ann  digits/3  registered from nets/net-2, best at step 2",
        "ann  digits/2  stage None → Production: best so far",
        "ann  digits    description: of one hand",
    ]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ann", lines[0])
    events = json.loads(models("log", "digits", "--json")[1])
    assert [event["number"] for event in events] == [1, 2, 3, 4, 5]
    assert events[3].items() >= {"kind": "transitioned", "version": 2, "by": "ann"}.items()


def test_what_was_done_is_given_as_json(models, registry):
    (event,) = json.loads(models("promote", "digits/2", "--reason", "r", "--json")[1])
    known = {"model": "digits", "version": 2, "by": "ann", "stage": "Production", "reason": "r"}
    assert event.items() >= known.items()
    assert json.loads(models("promote", "digits/2", "--json")[1]) == []


# ---------------------------------------------------------------------- damage


def tamper(registry, version):
    path = registry.get(f"digits/{version}").path / "weights-000001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()  # the run's own file is another name of it
    path.write_bytes(data)


def test_verify_names_what_differs_and_ends_with_1(models, registry):
    assert models("verify") == (0, "digits/3: whole\ndigits/2: whole\ndigits/1: whole\n", "")
    tamper(registry, 2)
    code, out, err = models("verify")
    assert (code, out) == (1, "digits/3: whole\ndigits/1: whole\n")
    assert err.startswith("experiments: digits/2: ")
    assert "SHA-256" in err
    assert models("verify", "digits/3", "digits/1")[0] == 0
    assert models("verify", "digits")[0] == 1
    found = json.loads(models("verify", "--json")[1])
    assert [bool(each["error"]) for each in found] == [False, True, False]


def test_a_tampered_version_is_not_promoted(models, registry):
    tamper(registry, 2)
    assert models("promote", "digits/2")[0] == 1
    assert registry.get("digits/2").stage == "None"


def test_one_damaged_version_or_model_does_not_hide_the_others(models, registry):
    registry.register("nets/net-0", "best", name="other")
    (registry.get("digits/2").path / "version.json").write_text("{")
    code, out, err = models("digits")
    assert code == 1
    assert len(out.splitlines()) == 4
    assert "version.json" in err
    assert [v["version"] for v in json.loads(models("digits", "--json")[1])] == [3, 1]
    for event in os.scandir(os.path.join(registry.root, "_models", "digits", "events")):
        os.truncate(event.path, 3)
    code, out, err = models()
    assert code == 1
    assert out.splitlines()[1].split()[0] == "other"
    assert "events" in err
    assert models("verify")[:2] == (1, "other/1: whole\n")
    assert models("restore")[0] == models("purge", "--all", "--yes")[0] == 1


# ---------------------------------------------------------------------- the trash


def test_versions_go_to_the_trash_and_come_back(models, registry):
    assert models("rm", "digits/1", "digits/9")[0] == 3
    assert models("restore") == (0, "", "experiments: the trash is empty.\n")
    code, out, _ = models("rm", "digits/1", "digits/2", "--reason", "old")
    assert code == 0
    assert out == "digits/1: moved to the trash: old\ndigits/2: moved to the trash: old\n"
    assert [v.version for v in registry.versions("digits")] == [3]
    header, *rows = models("restore")[1].splitlines()
    assert header.split() == "version removed by size run with".split()
    assert [row.split()[0] for row in rows] == ["digits/2", "digits/1"]
    listed = json.loads(models("restore", "--json")[1])
    assert [(each["key"], each["reason"]) for each in listed] == [
        ("digits/2", "old"), ("digits/1", "old"),
    ]  # fmt: skip
    assert models("restore", "digits/1")[1] == "digits/1: back from the trash\n"
    assert [v.version for v in registry.versions("digits")] == [3, 1]
    assert models("restore", "digits/production")[0] == 2


def test_a_whole_model_goes_and_comes_back(models, registry):
    assert models("rm", "digits")[0] == 0
    code, _, err = models("digits")
    assert code == 3
    assert "deleted, by ann" in err
    assert len(models("restore")[1].splitlines()) == 4
    assert "ann  digits    moved to the trash" in models("log", "digits")[1]
    assert models("restore", "digits") == (0, "digits: back from the trash\n", "")
    assert len(registry.versions("digits")) == 3


def test_what_is_in_use_does_not_go(models, registry):
    models("promote", "digits/1")
    code, _, err = models("rm", "digits/1")
    assert code == 2
    assert "digits/1 is in Production" in err
    registry.set_alias("digits", "champion", 2)
    code, out, err = models("rm", "digits/3", "digits/1", "digits/2")
    assert (code, out) == (2, "")
    assert "experiments models stage digits/1 archived\n" in err
    assert "experiments models alias digits champion --delete\n" in err
    assert models("restore")[2] == "experiments: the trash is empty.\n"


def test_a_purge_asks_and_deletes_for_good(models, registry, monkeypatch):
    folder = registry.get("digits/1").path
    models("rm", "digits/1", "digits/2")
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        code, out, err = models("purge", "--all")
    assert (code, out) == (2, "")
    assert "This deletes 2 versions, " in err
    assert folder.exists()
    code, out, _ = models("purge", "digits/1", "--yes")
    assert code == 0
    assert out.startswith("1 version deleted, ")
    assert not folder.exists()
    code, _, err = models("purge", "digits/3", "--yes")
    assert code == 3
    assert "digits/3 is not in the trash. It has digits/2." in err
    code, _, err = models("purge", "--yes")
    assert code == 2
    assert "Say which versions of the trash: REF, or --all." in err
    assert json.loads(models("purge", "--all", "--yes", "--json")[1])["deleted"] == ["digits/2"]
    assert models("purge", "--all", "--yes")[1].startswith("0 versions deleted")
    assert "The trash is empty." in models("purge", "digits/2", "--yes")[2]
    assert "deleted for good" in models("log", "digits")[1]


def test_what_a_purge_frees_is_without_what_the_run_has_too(models, registry, root):
    model = registry.get("digits/1").path
    shared = (model / "weights-000001.safetensors").stat().st_size
    own = sum(path.stat().st_size for path in model.iterdir()) - shared
    models("rm", "digits/1", "digits/2")
    listed = json.loads(models("restore", "--json")[1])
    assert [each["size_bytes"] for each in listed] == [shared, shared]
    purged = json.loads(models("purge", "digits/1", "--yes", "--json")[1])
    assert (purged["freed_bytes"], purged["shared_bytes"]) == (own, shared)
    shutil.rmtree(root / "nets" / "net-1")
    purged = json.loads(models("purge", "digits/2", "--yes", "--json")[1])
    assert purged["shared_bytes"] == 0


def test_that_a_versions_run_is_away_is_told(models, registry, experiments, root):
    assert models("digits")[2] == ""
    experiments("mv", "nets/net-0", "net-renamed")
    experiments("rm", "nets/net-1")
    shutil.rmtree(root / "nets" / "net-2")
    code, out, err = models("digits")
    assert (code, len(out.splitlines())) == (0, 4)
    assert err == (
        "experiments: the run of digits/3, nets/net-2, is gone; the version stays whole.\n"
        "experiments: the run of digits/2, nets/net-1, is in the trash; the version stays whole.\n"
    )
    assert "is in the trash" in models("show", "digits/2")[2]


# ---------------------------------------------------------------------- to others


def test_a_card_is_printed_or_written(models, registry, tmp_path):
    code, out, err = models("card", "digits/2")
    assert (code, err) == (0, "")
    assert out.startswith("# digits, version 2\n")
    path = tmp_path / "card.md"
    code, out, err = models("card", "digits/2", "-o", path)
    assert (code, out) == (0, "")
    assert err == f"experiments: the card of digits/2 is in {path}.\n"
    assert path.read_text().startswith("# digits, version 2\n")
    found = json.loads(models("card", "digits/2", "--json")[1])
    assert found["card"] == path.read_text()


def test_a_version_is_pushed_to_a_folder(models, registry, tmp_path):
    folder = tmp_path / "hub"
    words = ("push", "digits/2", "--to", "hf-folder")
    assert models(*words, "-o", folder) == (0, f"digits/2 is in {folder}\n", "")
    assert (folder / "model.safetensors").exists()
    assert json.loads(models(*words, "-o", folder, "--json")[1])["place"] == str(folder)
    assert models(*words)[0] == 2
    code, _, err = models("push", "digits/2", "--to", "wandb", "-o", folder)
    assert code == 2
    assert "--output is no option of --to wandb" in err


def test_a_version_is_exported_as_one_file(models, root, tmp_path):
    onnx = pytest.importorskip("onnx", reason="pip install onnx")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")
    ]
    node = onnx.helper.make_node("Abs", ["x"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "abs", ends[:1], ends[1:]))
    tracker = ExperimentTracker("nets", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("abs") as run:
        run.log_model(model, "abs")
    models("register", "nets/abs", "--name", "abs")
    path = tmp_path / "abs.onnx"
    code, out, err = models("export", "abs", "--to", "onnx", "-o", path)
    assert (code, out) == (0, "")
    assert err.startswith(f"experiments: abs/1 is in {path}, ")
    assert onnx.load(path).graph.node[0].op_type == "Abs"
    found = json.loads(models("export", "abs", "--to", "onnx", "-o", path, "--json")[1])
    assert found == {"version": "abs/1", "path": str(path), "size_bytes": path.stat().st_size}


def test_what_cannot_be_exported_says_so(models, registry, tmp_path):
    code, out, err = models("export", "digits/1", "--to", "program", "-o", tmp_path / "program")
    assert (code, out) == (2, "")
    assert "digits/1 of arrays has no program" in err
    assert not (tmp_path / "program").exists()
    for words in (("export", "digits/1", "--to", "onnx"), ("card", "digits/1")):
        code, out, err = models(*words, "-o", tmp_path / "nowhere" / "file")
        assert (code, out) == (3, "")
        assert f"There is no folder {tmp_path / 'nowhere'} to write 'file' in." in err


def test_types_to_trust_are_named_with_the_option_that_lets_them_in(
    models, root, tmp_path, monkeypatch
):
    pytest.importorskip("skops", reason="pip install skops")
    preprocessing = pytest.importorskip("sklearn.preprocessing", reason="pip install scikit-learn")
    (tmp_path / "own_steps_here.py").write_text("def halve(x):\n    return x / 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    halve = importlib.import_module("own_steps_here").halve
    # Gone with the test: runs of later ones would keep it as code of their own.
    monkeypatch.setitem(sys.modules, "own_steps_here", sys.modules.pop("own_steps_here"))
    tracker = ExperimentTracker("nets", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("own") as run:
        run.log_model(preprocessing.FunctionTransformer(halve), "own")
    assert models("register", "nets/own")[0] == 0
    option = "trusted=['own_steps_here.halve']"
    assert option in models("show", "own")[1]
    assert option in models("card", "own")[1]
    code, out, err = models("export", "own", "--to", "onnx", "-o", tmp_path / "own.onnx")
    assert (code, out) == (2, "")
    assert "--trusted own_steps_here.halve. " in err
    assert "PYTHONPATH=." in err


def test_the_audit_trail_names_the_save_that_was_registered():
    known = {"run": "nets/net-1", "artifact_path": "best", "step": 7, "aliases": ["champion"]}
    event = Event(1, "", "ann", "registered", 1, known)
    assert in_words(event) == "registered from nets/net-1, best at step 7, @champion"


# ---------------------------------------------------------------------- what is typed


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("promot", "digits/1"), 2, "There is no verb 'promot'. Near: promote"),
        (("dgits",), 3, "There is no registered model 'dgits'"),
        (("log", "dgits"), 3, "Near: digits"),
        (("show", "digits/9"), 3, "digits has no version 9"),
        (("show", "digits/staging"), 3, "no version in Staging"),
        (("show", "digits/prodution"), 2, "Near: digits/Production"),
        (("show", "digits:2"), 2, "'digits:2' names no version. Near: digits/2."),
        (("rm", "models:/digits:v2"), 2, "Near: digits/2."),
        (("stage", "digits/1", "live"), 2, "'live' is no stage"),
        (("promote", "digits/1", "--reson", "x"), 2, "Near: --reason"),
        (("digits", "--metrics", "val/ac"), 3, "Near: val/acc"),
        (("register", "net-9", "--name", "digits"), 3, "There is no run 'net-9'"),
    ],
)
def test_a_mistake_is_answered_by_what_was_meant(models, registry, words, code, message):
    found, out, err = models(*words)
    assert (found, out) == (code, "")
    assert message in err


def test_a_root_that_is_not_there_is_no_empty_one(registry, tmp_path, capsys):
    for words in ([], ["digits"], ["verify"], ["restore"]):
        assert main(["--root", str(tmp_path / "nope"), "models", *words]) == 3
        out, err = capsys.readouterr()
        assert out == ""
        assert f"There is no folder of experiments at {tmp_path / 'nope'}" in err


def test_the_root_may_stand_anywhere(registry, root, capsys):
    for words in (
        ["--root", str(root), "models", "digits"],
        ["models", "--root", str(root), "digits"],
        ["models", "digits", "--root", str(root)],
    ):
        assert main(words) == 0
        assert "digits/3" in capsys.readouterr().out
    assert main(["--root", "a", "models", "--root", "b"]) == 2
    assert "models takes one --root" in capsys.readouterr().err


def test_every_verb_has_a_help_with_examples(models):
    listed = models("--help")[1]
    verbs = re.findall(r"^    ([a-z]+)  ", listed, re.M)
    assert {"ls", "show", "register", "promote", "rollback", "policy", "card"} <= set(verbs)
    for verb in verbs:
        code, out, _ = models(verb, "--help")
        assert code == 0
        assert "\nexamples:\n  experiments models" in out


def test_a_terminal_obeys_nothing_that_people_wrote(models, in_terminal, root):
    evil = "\x1b]0;title\x07\x9b31m\u202e"
    tracker = ExperimentTracker("evil", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("run", {evil: evil}, tags={evil: evil}) as run:
        run.log_metric(evil, 1.0)
        run.log_model({evil: np.zeros(2)}, "best", metadata={evil: evil})
    registry = ModelRegistry(root)
    for _ in range(2):
        registry.register(run.path, "best", name="net", description=evil, by=evil)
    registry.transition("net", 1, "Staging", by=evil, reason=evil)
    registry.describe("net", evil, by=evil)
    for words in (
        [], ["net"], ["net", "--json"], ["show", "net"], ["show", "net", "--json"], ["log", "net"],
        ["log", "net", "--json"], ["compare", "net/1", "net/2"], ["card", "net"],
    ):  # fmt: skip
        code, out, err = models(*words)
        assert (code, err) == (0, "")
        assert out.replace("\n", "").isprintable()
        assert "title" in out
    shown = SGR.sub("", in_terminal("models", "log", "net", columns=200)[1])
    assert shown.replace("\n", "").isprintable()
    assert "x1b]0" in shown


def test_in_a_narrow_terminal_compare_shows_every_version_whole(in_terminal, root, registry):
    long = "a-text-that-is-much-longer-than-its-column-" * 2
    tracker = ExperimentTracker("nets", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("net-of-a-name-that-takes-half-of-the-line-alone", {"text": long}) as r:
        r.log_model([np.zeros(2)], "best")
    registry.register(r, "best", name="digits")
    words = ("models", "compare", "digits/1", "digits/2", "digits/4")
    code, shown = in_terminal(*words, columns=80)
    lines = SGR.sub("", shown).splitlines()
    assert code == 0
    assert lines[0].split() == ["digits/1", "digits/2", "digits/4"]
    assert max(map(len, lines)) <= 80
    place = next(i for i, line in enumerate(lines) if "params.text" in line)
    below = itertools.takewhile(lambda line: line.startswith(" " * 30), lines[place + 1 :])
    assert "".join(line.split()[-1] for line in [lines[place], *below]) == long


def test_in_a_narrow_terminal_the_long_name_of_a_run_makes_room(in_terminal, root):
    registry = ModelRegistry(root)
    tracker = ExperimentTracker("nets", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("net-of-a-name-that-takes-half-of-the-line-alone") as run:
        run.log_metrics({"val/acc": 0.9, "val/loss": 0.1}, step=7)
        run.log_model([np.zeros(2)], "best", step=7)
    registry.register(run, "best", name="digits")
    header = SGR.sub("", in_terminal("models", "digits", columns=80)[1]).splitlines()[0].split()
    assert header == "version stage model step val/acc val/loss framework size age by".split()


def test_tables_fit_a_terminal_and_a_long_reason_goes_on_below_itself(in_terminal, registry):
    registry.transition("digits", 1, "Production", reason="word " * 30)
    for words in ([], ["digits"], ["show", "digits/1"], ["compare", "digits/1", "digits/2"]):
        code, shown = in_terminal("models", *words, columns=80)
        lines = SGR.sub("", shown).splitlines()
        assert code == 0
        assert max(map(len, lines)) <= 80
    lines = SGR.sub("", in_terminal("models", "log", "digits", columns=80)[1]).splitlines()
    assert sum(line.count("word") for line in lines) == 30
    assert max(map(len, lines)) <= 80
