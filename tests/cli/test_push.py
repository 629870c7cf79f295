import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.backends.wandb_log import WandbLog
from experiment_tracking.cli import main
from experiment_tracking.registry.record import RunRecord

TOKEN = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"

LOGGING = """
import sys, time
from experiment_tracking import ExperimentTracker
tracker = ExperimentTracker("digits", root=sys.argv[1], use_tensorboard=False, auto_log=False)
run = tracker.start_run("killed")
for step in range(50):
    run.log_metrics({"x": step}, step=step)
print("logged", flush=True)
time.sleep(600)
"""


def state(record):
    return json.loads((record.path / "backends/tofile.json").read_text())


@pytest.fixture
def run(root):
    """An open run of 10 rows."""
    options = {"root": root, "use_tensorboard": False, "auto_log": False}
    run = ExperimentTracker("digits", **options).start_run("open", {"lr": 0.1})
    for step in range(10):
        run.log_metrics({"x": step}, step=step)
    return run


@pytest.fixture
def pushing(command, service):
    """Start ``push`` in a process of its own."""
    with contextlib.ExitStack() as stack:

        def pushing(*words):
            env = os.environ | {"PYTHONPATH": service.import_path}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = subprocess.Popen([*command, "push", *map(str, words)], env=env, **pipes)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield pushing


# ---------------------------------------------------------------------- what is copied


def test_a_run_is_pushed_and_a_second_time_changes_nothing(experiments, run, service):
    run.end_run()
    code, out, _ = experiments("push", "digits/open", "--to", "tofile")
    assert code == 0
    url = state(RunRecord(run.path))["state"]["url"]
    assert out == f"digits/open  tofile  complete  {url}\n"
    calls = service.calls(run.id)
    assert service.steps(run.id) == list(range(10))
    assert calls[-1]["status"] == "finished"
    assert experiments("push", "digits/open", "--to", "tofile")[:2] == (0, out)
    # Where it goes need not be said again.
    assert experiments("push", run.path)[:2] == (0, out)
    assert service.calls(run.id) == calls


def test_json_tells_of_every_copy(experiments, run, service):
    run.end_run()
    code, out, _ = experiments("push", "digits/open", "--to", "tofile", "--json")
    (told,) = json.loads(out)
    assert code == 0
    assert told.items() >= {
        "run": "digits/open", "backend": "tofile", "done": True, "complete": True,
        "owed_bytes": 0, "owed_files": 0, "error": None,
    }.items()  # fmt: skip


def test_a_crashed_run_is_pushed_as_crashed(experiments, root, service):
    words = [sys.executable, "-c", LOGGING, str(root)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.kill()
    assert experiments("push", "digits/killed", "--to", "tofile")[0] == 0
    run_id = RunRecord(root / "digits/killed").id
    assert service.steps(run_id) == list(range(50))
    assert service.calls(run_id, "end")[0]["status"] == "crashed"


def test_a_running_run_is_pushed_as_far_as_it_is_and_stays_open(experiments, run, service):
    code, out, _ = experiments("push", "digits/open", "--to", "tofile")
    assert code == 0
    assert "all of what there is so far" in out
    assert service.steps(run.id) == list(range(10))
    assert service.calls(run.id, "end") == []
    run.log_metrics({"x": 10}, step=10)
    run.end_run("failed")
    assert experiments("push", "digits/open")[0] == 0
    assert service.steps(run.id) == list(range(11))
    assert service.calls(run.id, "end")[0]["status"] == "failed"


def test_follow_goes_on_until_the_run_has_ended(pushing, run, service, until):
    process = pushing("digits/open", "--to", "tofile", "--follow")
    until(lambda: service.steps(run.id) == list(range(10)))
    run.log_metrics({"x": 10}, step=10)
    until(lambda: len(service.steps(run.id)) == 11)
    assert process.poll() is None
    run.end_run()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "complete" in out
    assert service.calls(run.id, "end")[0]["status"] == "finished"


def test_ctrl_c_ends_a_follower_and_leaves_the_mirror_free(
    pushing, experiments, run, service, until
):
    process = pushing("digits/open", "--to", "tofile", "--follow")
    until(lambda: service.steps(run.id) == list(range(10)))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert state(RunRecord(run.path))["claim"] is None
    assert experiments("push", "digits/open")[0] == 0


def test_a_mirror_that_another_process_is_at_is_refused_with_who_it_is(
    pushing, experiments, run, service, until
):
    process = pushing("digits/open", "--to", "tofile", "--follow")
    until(lambda: service.steps(run.id) == list(range(10)))
    code, _, err = experiments("push", "digits/open", "--to", "tofile")
    assert code == 1
    assert f"process {process.pid} on " in err
    process.kill()
    process.wait()
    assert experiments("push", "digits/open")[0] == 0


def test_what_is_wrong_is_told_once_and_beside_it_what_is_owed(experiments, service):
    service.mood("away")
    code, out, err = experiments("push", "lr-0.01", "--to", "tofile")
    assert code == 1
    assert err.count("the service is away") == 1
    assert "away" not in out
    assert re.search(r"tofile  not complete: \d+B of rows and 1 file owed", out)


def test_where_nothing_is_owed_only_what_is_wrong_is_told(experiments, root, service):
    experiments("push", "lr-0.01", "--to", "tofile")
    path = root / "digits/lr-0.01/backends/tofile.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"complete": False}))
    service.mood("away")
    code, out, err = experiments("push", "lr-0.01")
    assert code == 1
    assert "tofile  not complete  file://" in out
    assert "the service is away" in err


# ---------------------------------------------------------------------- anew, or not at all


def test_again_gives_everything_anew(experiments, run, service):
    run.end_run()
    words = ("push", "open", "--to", "tofile")
    assert experiments(*words)[0] == 0
    (service.folder / f"{run.id}.log").unlink()
    assert experiments(*words)[0] == 0
    assert service.calls(run.id) == []
    assert experiments("push", "open", "--again")[0] == 0
    assert service.steps(run.id) == list(range(10))
    assert [call["call"] for call in service.calls(run.id)][:2] == ["start", "params"]
    assert service.calls(run.id)[-1]["call"] == "end"


def test_again_with_all_takes_complete_copies_too(experiments, run, service):
    run.end_run()
    assert experiments("push", "open", "--to", "tofile")[0] == 0
    code, out, _ = experiments("push", "--all", "--again", "--json")
    assert code == 0
    assert [told["run"] for told in json.loads(out)] == ["digits/open"]


def test_what_is_forgotten_is_owed_nothing(experiments, root, service):
    service.mood("away")
    for name in ("lr-0.1", "lr-0.01"):
        assert experiments("push", name, "--to", "tofile")[0] == 1
    path = root / "digits/lr-0.01/backends/tofile.json"
    url = json.loads(path.read_text())["state"]["url"]
    code, out, err = experiments("push", "lr-0.01", "--forget")
    assert (code, out, err) == (0, f"digits/lr-0.01  tofile  forgotten  {url}\n", "")
    assert not path.exists()
    code, out, _ = experiments("push", "--all", "--to", "tofile", "--forget", "--json")
    (told,) = json.loads(out)
    assert (code, told["run"], told["forgotten"]) == (0, "digits/lr-0.1", True)
    assert experiments("push", "--all") == (0, "", "experiments: nothing is owed.\n")
    assert experiments("check")[0] == 0


def test_of_several_copies_the_named_one_is_forgotten(experiments, root, service):
    assert experiments("push", "lr-0.1", "--to", "tofile")[0] == 0
    folder = root / "digits/lr-0.1/backends"
    (folder / "tofile-2.json").write_text("{ torn")
    code, _, err = experiments("push", "lr-0.1", "--forget")
    assert code == 2
    assert "has: tofile, tofile-2" in err
    assert experiments("push", "lr-0.1", "--to", "tofile-2", "--forget")[0] == 0
    assert (folder / "tofile.json").exists()
    assert not (folder / "tofile-2.json").exists()


@pytest.mark.parametrize("word", ["--again", "--forget"])
def test_what_a_living_process_is_at_is_neither_begun_anew_nor_forgotten(
    pushing, experiments, run, service, until, word
):
    process = pushing("digits/open", "--to", "tofile", "--follow")
    until(lambda: service.steps(run.id) == list(range(10)))
    code, _, err = experiments("push", "digits/open", word)
    assert code == 1
    assert f"process {process.pid} on " in err
    assert state(RunRecord(run.path))["rows"] == 10


# ---------------------------------------------------------------------- several runs


def test_all_pushes_those_that_owe_something(experiments, run, service, root):
    run.end_run()
    assert experiments("push", "open", "--to", "tofile")[0] == 0
    service.mood("away")
    assert experiments("push", "lr-0.01", "--to", "tofile")[0] == 1
    service.mood()
    code, out, _ = experiments("push", "--all", "--json")
    assert code == 0
    assert [told["run"] for told in json.loads(out)] == ["digits/lr-0.01"]
    assert experiments("push", "--all") == (0, "", "experiments: nothing is owed.\n")
    code, out, _ = experiments("push", "--all", "--project", "waves", "--to", "tofile", "--json")
    assert [told["run"] for told in json.loads(out)] == ["waves/波-β"]


def test_one_run_in_trouble_does_not_keep_the_others(experiments, root, service):
    (root / "digits/lr-0.1/backends").mkdir()
    (root / "digits/lr-0.1/backends/tofile.json").write_text("{ torn")
    code, out, err = experiments("push", "lr-0.1", "lr-0.01", "--to", "tofile")
    assert code == 1
    assert "digits/lr-0.1" in err
    assert "tofile.json is not JSON" in err
    assert "Delete it and the copy is begun anew" in err
    assert "digits/lr-0.01  tofile  complete" in out
    (root / "digits/lr-0.1/backends/tofile.json").unlink()
    assert experiments("push", "lr-0.1", "--to", "tofile")[0] == 0


# ---------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["push"], "takes runs, or --all"),
        (["push", "lr-0.1", "--all"], "takes runs, or --all"),
        (["push", "lr-0.1"], "Say where to: --to"),
        (["push", "lr-0.1", "--to", "tofile", "--entity", "me"], "Add --to wandb"),
        (["push", "lr-0.1", "--again", "--forget"], "not allowed with"),
        (["push", "lr-0.1", "--to", "tofile", "--forget"], "no copy called 'tofile' to forget"),
        (["push", "lr-0.1", "--forget", "--entity", "me"], "goes by name, not by options"),
        (["push", "--all", "--forget"], "needs the name of what to forget"),
    ],
)
def test_wrong_usage_is_told(experiments, service, words, told):
    code, out, err = experiments(*words)
    assert (code, out) == (2, "")
    assert told in err


def test_an_unknown_backend_is_told_with_those_there_are(experiments, service):
    code, _, err = experiments("push", "lr-0.1", "--to", "nowhere")
    assert code == 1
    assert "'mlflow'" in err
    assert "'tofile'" in err


def test_a_backend_that_is_switched_off_is_refused(experiments, service, monkeypatch):
    from tofile import ToFile

    monkeypatch.setattr(ToFile, "mode", "disabled", raising=False)
    code, _, err = experiments("push", "lr-0.1", "--to", "tofile")
    assert code == 2
    assert "tofile is switched off" in err


def test_a_run_that_is_not_there_ends_with_3(experiments):
    assert experiments("push", "nothing", "--to", "mlflow")[0] == 3


def test_credentials_that_the_run_does_not_keep_are_asked_for(experiments, root, service, until):
    service.mood("away")
    options = {"root": root, "use_tensorboard": False, "auto_log": False}
    tracker = ExperimentTracker("digits", backend=service.backend(TOKEN), **options)
    with tracker.start_run("secret") as run:
        run.log_metrics({"x": 1})
    until(lambda: "secret" in experiments("ls")[1])
    code, _, err = experiments("push", "secret")
    assert code == 2
    assert "does not keep the credentials in token" in err
    assert TOKEN not in err


# ---------------------------------------------------------------------- TensorBoard


def test_event_files_are_written_anew(experiments, root, tmp_path):
    code, out, _ = experiments("push", "lr-0.1", "--to", "tensorboard")
    assert code == 0
    assert out == f"digits/lr-0.1  tensorboard  3 rows written  {root}/digits/lr-0.1/tensorboard\n"
    elsewhere = tmp_path / "events"
    code, out, _ = experiments("push", "lr-0.1", "--log-dir", elsewhere, "--json")
    (told,) = json.loads(out)
    assert (code, told["rows"], told["done"]) == (0, 3, True)
    assert any(elsewhere.rglob("*tfevents*"))


def test_event_files_are_no_copy_to_go_on_with(experiments, root):
    assert experiments("push", "lr-0.1", "--to", "tensorboard")[0] == 0
    code, _, err = experiments("push", "lr-0.1")
    assert code == 2
    assert "no copy in a service to be brought up to date" in err
    assert "written anew: --to tensorboard" in err


def test_event_files_of_a_run_that_is_being_written_only_go_elsewhere(experiments, run, tmp_path):
    code, _, err = experiments("push", "open", "--to", "tensorboard")
    assert code == 1
    assert "--log-dir" in err
    assert experiments("push", "open", "--log-dir", tmp_path / "events")[0] == 0


# ---------------------------------------------------------------------- which mirror is meant


def test_other_options_are_another_mirror_and_a_credential_makes_none(service):
    from experiment_tracking.backends.catalog import Target
    from experiment_tracking.cli.push import _target

    folder = str(service.folder)
    known = {"tofile": Target("tofile", {"folder": folder, "token": "a-***-z"}, "tofile")}
    again = _target("tofile", {"tofile": {"token": "a-secret-z"}}, known)
    assert again == Target("tofile", {"folder": folder, "token": "a-secret-z"}, "tofile")
    other = _target("tofile", {"tofile": {"folder": "/other", "token": "a-secret-z"}}, known)
    assert other.name == "tofile-2"
    known["tofile-2"] = Target("tofile", {"folder": "/other", "token": "a-***-z"}, "tofile-2")
    same = _target("tofile", {"tofile": {"folder": "/other", "token": "a-new-z"}}, known)
    assert same.name == "tofile-2"


def test_serving_is_not_shown_to_people(capsys):
    assert main(["push", "--help"]) == 0
    assert "--serve" not in capsys.readouterr().out


def test_what_wandb_wrote_offline_is_the_same_copy_online_and_keeps_its_count(
    experiments, run, monkeypatch
):
    pytest.importorskip("wandb", reason="pip install 'experiment_tracking[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run.log_image([[0, 1], [1, 0]], "figure")
    run.end_run()
    path = run.path / "backends/wandb.json"
    assert experiments("push", "open", "--to", "wandb", "--mode", "offline")[0] == 0
    first = json.loads(path.read_text())
    assert experiments("push", "open", "--again")[0] == 0
    again = json.loads(path.read_text())
    assert (again["rows"], again["complete"]) == (first["rows"], True)
    logs = sorted(run.path.glob("backends/wandb/offline-run-*/*.wandb"))
    rows = [row.values for log in logs for row in WandbLog(log).rows()]
    assert [row["x"] for row in rows if "x" in row] == list(range(10))
    # Online there is nobody here to take it; but it is this copy that is to go there.
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_MODE", "")
    assert experiments("push", "open", "--to", "wandb", "--mode", "online")[0] == 1
    assert sorted(os.listdir(run.path / "backends"))[-1] == "wandb.json"
    assert json.loads(path.read_text())["options"]["mode"] == "online"
