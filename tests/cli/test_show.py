import json
import re
import sys
from datetime import datetime

import numpy as np
import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.cli import text
from experiment_tracking.folder.history import HistoryWriter
from experiment_tracking.jobs.launch import Job, launch
from experiment_tracking.registry.record import RunRecord

SGR = re.compile(r"\x1b\[[0-9;]*m")


def squeezed(out):
    """What was printed, with two spaces wherever names and values were aligned by more."""
    return re.sub(" {2,}", "  ", out)


@pytest.fixture
def edit(root):
    """Change keys of a document of a run in ``digits``, as a foreign writer might."""

    def edit(name, file, **changes):
        path = root / "digits" / name / file
        kept = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(kept | changes))

    return edit


def test_a_person_sees_identity_params_metrics_and_artifacts(experiments, root):
    code, out, err = experiments("show", "lr-0.1")
    assert (code, err) == (0, "")
    assert out.startswith("digits/lr-0.1  finished\n")
    for line in (
        "tags        sweep=a, first",
        "notes       two\n            lines",
        f"path        {root / 'digits' / 'lr-0.1'}",
        "params\n  lr      0.1\n  model\n    depth      2\n    optimizer  adam\n  epochs  3",
        "artifacts/note.txt  text    5B",
    ):
        assert line in out
    header, row, _ = out.split("metrics\n")[1].splitlines()[:3]
    assert header.split() == "last step best step min step max step mean count".split()
    assert row.split() == ("val/loss 0.33333 2 0.33333 2 0.33333 2 1 0 0.61111 3".split())


def test_json_adds_artifacts_attempts_and_environment(experiments):
    run = json.loads(experiments("show", "lr-0.01", "--json")[1])
    assert run["metrics"]["val/loss"]["last"] == "NaN"
    assert run["artifacts"][0]["path"] == "artifacts/note.txt"
    assert len(run["attempts"]) == 1
    assert run["environment"] == {}
    assert run["notes"] == "two\nlines"


def test_what_a_run_was_made_with_comes_from_its_environment(experiments, root):
    environment = {
        "git": {"commit": "0123456789abcdef", "branch": "main", "dirty": True},
        "command": ["python", "train.py", "two words"],
        "code": {
            "files": [{"path": "train.py", "redacted": True}, {"path": "net.py"}],
            "left_out": [{"path": ".env", "reason": "files of that name hold credentials"}],
        },
        "seeds": {"seed": 7, "seeded": ["random", "torch"]},
        "gpus": {
            "driver": "550.54.14",
            "cuda_version": "12.4",
            "devices": [{"name": "NVIDIA H200", "memory_bytes": 150 * 2**30}] * 2,
            "note": None,
        },
        "notes": ["conda: too slow"],
    }
    folder = root / "digits" / "lr-0.1"
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "code").mkdir()
    (folder / "code" / "git.patch").write_text("diff")
    shown = experiments("show", "lr-0.1")[1].split("\nenvironment\n")[1].split("\n\n")[0]
    assert shown.splitlines() == [
        "  command   python train.py 'two words'",
        "  git       0123456789ab on main, with changes",
        "  code      2 files, 1 of them with *** for a secret, git.patch (4B)",
        "  left out  .env: files of that name hold credentials",
        "  seed      7 (random, torch)",
        "  GPUs      2 x NVIDIA H200 (150.0GB), driver 550.54.14, CUDA 12.4",
        "  noted     conda: too slow",
    ]


@pytest.mark.parametrize(
    ("notebook", "shown"), [("/p/study.ipynb", "notebook study.ipynb"), (None, "notebook")]
)
def test_of_a_notebook_its_name_is_shown_and_not_its_kernels_command(
    experiments, edit, notebook, shown
):
    command = ["python", "-m", "ipykernel_launcher", "-f", "/tmp/tmp1.json"]
    code = {"files": [{"path": "notebook.ipy"}]}
    edit("lr-0.1", "environment.json", command=command, notebook=notebook, code=code)
    lines = experiments("show", "lr-0.1")[1].splitlines()
    assert f"  command  {shown}" in lines
    assert "  code     1 file" in lines


def test_a_launched_run_shows_its_exit_code_its_console_and_the_run_it_repeats(experiments, root):
    original = RunRecord(root / "digits" / "lr-0.1")
    words = [sys.executable, "-c", "print('hello'); raise SystemExit(3)"]
    launch(Job(words, str(root), project="digits", name="again", facts={"rerun_of": original.id}))
    out = squeezed(experiments("show", "again")[1])
    assert "digits/again  failed" in out
    assert "exit code  3\n" in out
    assert f"rerun of  digits/lr-0.1 ({original.id})\n" in out
    assert "console  console.log (6B)\n" in out
    assert f"command  {sys.executable} -c 'print" in out
    assert "  launched  " not in out
    assert "reruns  digits/again\n" in squeezed(experiments("show", "lr-0.1")[1])
    run = json.loads(experiments("show", "again", "--json")[1])
    assert (run["exit_code"], run["rerun_of"], run["console_bytes"]) == (3, original.id, 6)
    assert run["launched"]["command"] == words


def test_the_launched_command_is_shown_where_the_script_has_another(experiments, root, edit):
    edit("lr-0.1", "summary.json", launched={"command": ["torchrun", "train.py"]})
    edit("lr-0.1", "environment.json", command=["python", "-u", "train.py"])
    out = experiments("show", "lr-0.1")[1]
    assert "command   python -u train.py\n" in out
    assert "launched  torchrun train.py\n" in out


def test_a_run_that_a_copy_repeats_is_named_by_its_id(experiments, edit):
    edit("lr-0.1", "summary.json", rerun_of="0123456789abcdef")
    assert "rerun of  0123456789abcdef\n" in squeezed(experiments("show", "lr-0.1")[1])


def test_of_an_imported_run_its_source_and_what_was_not_carried_are_shown(experiments, edit):
    assert "\nimported" not in experiments("show", "lr-0.1")[1]
    origin = {"kind": "mlflow", "source": "/old/mlruns", "id": "1", "not_carried": []}
    edit("lr-0.1", "summary.json", imported_from=origin)
    assert "imported  mlflow /old/mlruns\n" in squeezed(experiments("show", "lr-0.1")[1])
    origin["not_carried"] = ["traces", "infinities"]
    edit("lr-0.1", "summary.json", imported_from=origin)
    shown = squeezed(experiments("show", "lr-0.1")[1])
    assert "mlflow /old/mlruns (summary.json names 2 things not carried over)\n" in shown
    assert json.loads(experiments("show", "lr-0.1", "--json")[1])["imported_from"] == origin


def test_parent_and_children_are_named(experiments, root):
    tracker = ExperimentTracker("folds", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("all") as run:
        for number in range(7):
            with tracker.start_run(f"fold-{number}", parent=run):
                pass
    assert f"parent  folds/all ({run.id})\n" in squeezed(experiments("show", "fold-3")[1])
    named = ", ".join(f"folds/fold-{number}" for number in range(5))
    assert f"children  {named}, 2 more\n" in squeezed(experiments("show", "all")[1])
    children = json.loads(experiments("show", "all", "--json")[1])["children"]
    assert children == [f"folds/fold-{number}" for number in range(7)]


def test_inputs_are_listed_with_kind_size_and_shape(experiments, root, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("a,b\n1,2\n")
    with ExperimentTracker("data", root=root, auto_log=False).start_run("run") as run:
        file = run.log_input(path, "train")
        array = run.log_input(np.zeros((5, 3), "float32"), "images")
    header, train, images = experiments("show", "data/run")[1].split("\ninputs\n")[1].splitlines()
    assert header.split() == ["kind", "size", "shape", "path"]
    assert train.split() == ["train", "file", "8B", "-", str(path)]
    assert images.split() == ["images", "array", "60B", "5x3", "float32", "-"]
    kept = json.loads(experiments("show", "data/run", "--json")[1])["inputs"]
    assert [entry["sha256"] for entry in kept] == [file["sha256"], array["sha256"]]


def test_throughput_and_the_last_sample_of_the_machine_are_shown(experiments, root):
    tracker = ExperimentTracker("speed", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("run") as run:
        for step in range(5):
            run.log_metrics({"loss": 1.0}, step=step, timestamp=1e9 + step / 2)
    samples = HistoryWriter.create(str(run.path / "system_metrics.json"))
    for number in range(1000):  # more than is read of it
        samples.append({
            "cpu/percent": number / 10, "process/cpu_percent": 180.0, "memory/used_bytes": 2**32,
            "memory/percent": 12.5, "process/memory_bytes": 2**30, "disk/used_percent": 7.0,
            "gpu/0/utilization_percent": 98, "gpu/0/memory_bytes": 2**34, "gpu/0/power_w": 612.5,
            "gpu/0/temperature_c": 61,
        })  # fmt: skip
    samples.close()
    out = experiments("show", "speed/run")[1]
    assert "throughput  2.0 steps/s\n" in out
    assert out.split("\nsystem metrics, last sample\n")[1].splitlines() == [
        "  CPU     99.9 %, process 180 %",
        "  memory  4.0GB, 12.5 %, process 1.0GB",
        "  gpu/0   98 %, 16.0GB, 612.5 W, 61 °C",
    ]
    shown = json.loads(experiments("show", "speed/run", "--json")[1])
    assert shown["system_metrics"]["step"] == 999
    assert shown["throughput"]["steps_per_s"] == 2.0


def test_sections_without_anything_in_them_are_not_shown(experiments):
    out = experiments("show", "lr-0.1")[1]
    for word in ("environment", "inputs", "system metrics", "children", "exit code", "console"):
        assert word not in out


def test_a_failure_is_shown_with_what_was_raised(experiments, root):
    def explode():
        with ExperimentTracker("real", root=root).start_run("broken"):
            raise ValueError("loss is NaN")

    with pytest.raises(ValueError):
        explode()
    out = experiments("show", "broken")[1]
    assert "real/broken  failed" in out
    assert "error     ValueError: loss is NaN" in out


@pytest.mark.parametrize(
    "file", ["params.json", "artifacts.json", "environment.json", "inputs.json"]
)
def test_one_damaged_file_does_not_hide_the_rest(experiments, root, file):
    (root / "digits" / "lr-0.1" / file).write_text("{")
    code, out, err = experiments("show", "lr-0.1")
    assert code == 1
    assert file in err
    assert "val/loss" in out


def test_a_damaged_run_beside_it_does_not_hide_a_run(experiments, root):
    (root / "digits" / "lr-0.01" / "summary.json").write_text("{")
    assert experiments("show", "lr-0.1")[::2] == (0, "")


def test_what_a_foreign_writer_left_there_is_passed_over(experiments, edit):
    wrong = [None, 7, "text", [1], {"x": {"y": 1}}]
    for value in wrong:
        names = "git command code seeds gpus notes python_version".split()
        edit("lr-0.1", "environment.json", **dict.fromkeys(names, value))
        edit("lr-0.1", "environment.json", gpus={"devices": value}, code={"files": value})
        edit("lr-0.1", "inputs.json", inputs=value)
        edit("lr-0.1", "summary.json", launched=value, throughput=value, rerun_of=value)
        code, out, err = experiments("show", "lr-0.1")
        assert (code, err) == (0, "")
        assert "val/loss" in out


def test_a_run_whose_summary_is_damaged_fails_in_one_line(experiments, root):
    (root / "digits" / "lr-0.1" / "summary.json").write_text("{")
    code, out, err = experiments("show", "lr-0.1")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1


def test_nothing_a_run_holds_reaches_the_terminal_as_a_control(in_terminal, root):
    evil = "\x1b]0;title\x07\x9b31m\u202e"
    tracker = ExperimentTracker("evil", root=root, notes=f"{evil}\n{evil}")
    with tracker.start_run("run", {evil: {evil: evil}, "x": [evil]}, tags={evil: evil}) as run:
        run.log_metric(evil, 1.0)
        run.log_artifact(__file__, description=evil)
    folder = root / "evil" / "run"
    places = {**dict.fromkeys(("path", "reason", "name", "kind", "dtype"), evil), "shape": [evil]}
    environment = {
        "git": {"note": evil}, "command": [evil], "python_version": evil, "hostname": evil,
        "code": {"files": [places], "left_out": [places]}, "notes": [evil],
        "seeds": {"seed": evil, "seeded": [evil]},
        "gpus": {"driver": evil, "note": evil, "devices": [places]},
    }  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "inputs.json").write_text(json.dumps({"inputs": [places]}))
    sample = {"step": 0, "time": 1, f"gpu/{evil}/power_w": 1}
    (folder / "system_metrics.json").write_text(json.dumps([sample]))
    for words in (["show", "evil/run"], ["show", "evil/run", "--json"], ["ls", "evil"],
                  ["compare", "evil/run", "lr-0.1"], ["best", evil, "--min"]):  # fmt: skip
        _, shown = in_terminal(*words, columns=200)
        assert SGR.sub("", shown).replace("\n", "").isprintable()
        assert "x1b]0" in shown or "u001b]0" in shown


def test_a_long_value_goes_on_below_itself(in_terminal, root):
    with ExperimentTracker("long", root=root).start_run("run", {"prompt": "word " * 40}):
        pass
    lines = SGR.sub("", in_terminal("show", "long/run", columns=60)[1]).splitlines()
    assert sum(line.count("word") for line in lines) == 40
    assert max(map(len, lines)) <= 60


def test_since_when_a_metric_is_not_finite_is_shown_where_one_is(experiments):
    header, loss, accuracy = (
        experiments("show", "lr-0.01")[1].split("metrics\n")[1].splitlines()[:3]
    )
    assert "not finite" in header
    assert "since 3 (1x)" in loss
    assert "since" not in accuracy
    assert "not finite" not in experiments("show", "lr-0.1")[1]


def test_further_processes_are_counted(experiments, root):
    assert "(history(" not in experiments("show", "lr-0.1")[1]
    for rank in (1, 2):
        (root / "digits" / "lr-0.1" / f"metrics_history.{rank}.json").write_text("[\n\n]\n")
    out = squeezed(experiments("show", "lr-0.1")[1])
    assert 'processes  2 further (history(ranks="all") in Python)' in out


@pytest.mark.parametrize("key", ["digits", "digits/"])
def test_a_project_is_not_a_run_and_it_says_how_to_list_it(experiments, key):
    code, out, err = experiments("show", key)
    assert (code, out) == (3, "")
    assert "'digits' is a project" in err
    assert "experiments ls digits" in err


def test_mirrors_are_shown_with_what_they_are_owed(experiments, service):
    assert "\nmirrors\n" not in experiments("show", "lr-0.1")[1]
    assert experiments("push", "lr-0.1", "--to", "tofile")[0] == 0
    code, out, _ = experiments("show", "lr-0.1")
    assert code == 0
    shown = squeezed(out).split("\nmirrors\n")[1]
    assert re.match(r"\s+state  where\n  tofile  complete  file://\S+\.log\n", shown)
    service.mood("away")
    assert experiments("push", "lr-0.01", "--to", "tofile")[0] == 1
    shown = squeezed(experiments("show", "lr-0.01")[1]).split("\nmirrors\n")[1]
    assert re.match(r"\s+state  where\n  tofile  \d+B of rows owed", shown)
    assert "ConnectionError: the service is away" in shown
    kept = json.loads(experiments("show", "lr-0.01", "--json")[1])["mirrors"]["tofile"]
    assert (kept["backend"], kept["complete"]) == ("tofile", False)
    assert kept["owed_bytes"] > 0


def test_a_mirror_without_a_page_is_shown_with_what_it_was_told(experiments, service, root):
    assert experiments("push", "lr-0.1", "--to", "tofile")[0] == 0
    path = root / "digits/lr-0.1/backends/tofile.json"
    state = json.loads(path.read_text())
    del state["state"]["url"]
    path.write_text(json.dumps(state))
    shown = squeezed(experiments("show", "lr-0.1")[1]).split("\nmirrors\n")[1]
    assert re.search(r"\n  tofile  complete  folder=/\S+\n", shown)


def test_a_mirror_whose_note_is_damaged_says_what_to_do(experiments, service, root):
    assert experiments("push", "lr-0.1", "--to", "tofile")[0] == 0
    (root / "digits/lr-0.1/backends/tofile.json").write_text("")
    code, out, _ = experiments("show", "lr-0.1")
    shown = squeezed(out).split("\nmirrors\n")[1]
    assert code == 0
    assert "tofile.json is not JSON: empty. Delete it and the copy is begun anew" in shown
    assert "complete" not in shown


def test_corrections_are_told_with_who_when_and_what(experiments, monkeypatch):
    assert "\ncorrections\n" not in experiments("show", "lr-0.1")[1]
    monkeypatch.setenv("LOGNAME", "ann")
    experiments("set", "lr-0.1", "lr=0.5")
    experiments("tag", "lr-0.1", "-t", "paper")
    told = experiments("show", "lr-0.1")[1].partition("\ncorrections\n")[2].splitlines()
    header, *rows = (line.split(maxsplit=3) for line in told)
    assert header == ["when", "by", "what"]
    assert [row[2:] for row in rows] == [
        ["ann", "param lr: 0.1 → 0.5"], ["ann", "tag paper: - → yes"],
    ]  # fmt: skip
    kept = json.loads(experiments("show", "lr-0.1", "--json")[1])["amendments"]
    assert [(e["by"], e["name"], e.get("old"), e["new"]) for e in kept] == [
        ("ann", "lr", 0.1, 0.5), ("ann", "paper", None, ""),
    ]  # fmt: skip
    moment = datetime.fromisoformat(kept[0]["at"]).astimezone()
    assert rows[0][:2] == f"{moment:%Y-%m-%d %H:%M:%S}".split()


def test_what_a_run_logged_again_itself_is_no_correction(experiments, root):
    tracker = ExperimentTracker("digits", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("again", {"lr": 1}) as run:
        run.log_params({"lr": 2})
    assert "\ncorrections\n" not in experiments("show", "again")[1]
    assert json.loads(experiments("show", "again", "--json")[1])["amendments"] == []


# ---------------------------------------------------------------------- models


@pytest.fixture
def models(root):
    """A run ``nets/run`` with the model ``best``, of which two saves are kept, and ``last``."""
    tracker = ExperimentTracker("nets", root=root, auto_log=False, use_tensorboard=False)
    with tracker.start_run("run") as run:
        for step in range(3):
            run.log_metrics({"val/loss": 1 / (step + 1)}, step=step)
            run.log_model({"w": np.ones((2, 5), np.float32)}, "best", keep=2, step=step)
        run.log_model([np.zeros(3)], "last")
    return run.path / "models"


def test_models_are_shown_with_their_size_and_how_to_load_them(experiments, models):
    code, out, err = experiments("show", "nets/run")
    assert (code, err) == (0, "")
    header, best, last, load = out.split("\nmodels\n")[1].splitlines()[:4]
    assert header.split() == "framework class parameters size step saves with".split()
    assert best.split()[:4] == ["best", "arrays", "-", "10"]
    assert best.split()[5:] == ["2", "2", "-"]
    assert last.split()[0] == "last"
    loaded = eval(load.split(maxsplit=1)[1], {"RunRecord": RunRecord})
    assert loaded["w"].tolist() == np.ones((2, 5)).tolist()


def test_the_files_of_a_model_are_one_line_of_the_artifacts(experiments, models):
    lines = experiments("show", "nets/run")[1].split("\nartifacts\n")[1].splitlines()
    sizes = {
        name: sum(path.stat().st_size for path in (models / name).iterdir())
        for name in ("best", "last")
    }
    listed = json.loads(experiments("show", "nets/run", "--json")[1])["artifacts"]
    assert len(listed) > len(lines) == 3
    assert [line.split() for line in lines[1:]] == [
        [f"models/{name}/", "model", text.size(size), "2"] for name, size in sizes.items()
    ]


def test_that_an_optimizer_and_a_program_are_kept_is_shown(experiments, root):
    torch = pytest.importorskip("torch", reason="pip install torch")
    tracker = ExperimentTracker("nets", root=root, auto_log=False, use_tensorboard=False)
    net = torch.nn.Linear(2, 1)
    with tracker.start_run("with") as run:
        optimizer = torch.optim.SGD(net.parameters(), momentum=0.5)
        run.log_model(net, "net", optimizer=optimizer, input_example=torch.ones(3, 2))
    line = experiments("show", "nets/with")[1].split("\nmodels\n")[1].splitlines()[1]
    assert {"optimizer,", "program,"} < set(line.split())


def test_models_as_json_say_what_is_kept_of_them(experiments, models):
    best, last = json.loads(experiments("show", "nets/run", "--json")[1])["models"]
    assert (best["name"], best["framework"], best["parameter_count"]) == ("best", "arrays", 10)
    assert (best["step"], best["saves"]) == (2, [2, 1])
    assert best["metrics"]["val/loss"] == pytest.approx(1 / 3)
    assert best["path"] == str(models / "best")
    assert last["name"] == "last"
    assert json.loads(experiments("show", "lr-0.1", "--json")[1])["models"] == []


def test_a_damaged_model_does_not_hide_the_others(experiments, models):
    (models / "best" / "model.json").write_text("{")
    code, out, err = experiments("show", "nets/run")
    assert code == 1
    assert str(models / "best" / "model.json") in err
    assert "load_model('last')" in out
    assert "artifacts\n" in out
    best, last = json.loads(experiments("show", "nets/run", "--json")[1])["models"]
    assert "model.json" in best["error"]
    assert "error" not in last


def test_a_foreign_list_of_models_does_not_lead_out_of_the_run(experiments, models, root):
    listed = models.parent / "artifacts.json"
    listed.write_text(listed.read_text().replace("models/best/", "models/../models/best/"))
    listed.write_text(listed.read_text().replace('"best"', '"../models/best"'))
    (last,) = json.loads(experiments("show", "nets/run", "--json")[1])["models"]
    assert last["name"] == "last"


def test_nothing_a_model_says_reaches_the_terminal_as_a_control(in_terminal, models):
    evil = "\x1b]0;title\x07\x9b31m\u202e"
    path = models / "last" / "model.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"framework": evil, "class": evil}))
    for words in (["show", "nets/run"], ["show", "nets/run", "--json"]):
        _, shown = in_terminal(*words, columns=200)
        assert SGR.sub("", shown).replace("\n", "").isprintable()
        assert "x1b]0" in shown or "u001b]0" in shown
