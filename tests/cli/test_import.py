import json

import pytest

from experiment_tracking.registry.record import RunRecord


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "old" / "curves.csv"
    path.parent.mkdir()
    path.write_text("seed,step,loss,note\na,0,0.5,x\na,1,0.25,\nb,0,0.75,y\n")
    return path


@pytest.fixture
def mlruns(tmp_path):
    """A file store of two runs, of which one cannot be read."""
    folder = tmp_path / "mlruns"
    experiment = folder / "1"
    for name in ("good", "bad"):
        (experiment / name / "metrics").mkdir(parents=True)
        (experiment / name / "metrics" / "loss").write_text("1700000000000 0.5 3\n")
    (experiment / "meta.yaml").write_text("artifact_location: x\nexperiment_id: 1\nname: old\n")
    (experiment / "good" / "meta.yaml").write_text(
        "experiment_id: 1\nrun_id: good\nrun_name: good\nstart_time: 1700000000000\nstatus: 3\n"
        "end_time: 1700000001000\nlifecycle_stage: active\n"
    )
    (experiment / "bad" / "meta.yaml").write_text("torn")
    return folder


def test_runs_are_imported_listed_and_left_alone_the_next_time(experiments, root, table):
    code, out, err = experiments("import", table, "--run-column", "seed")
    assert (code, out) == (
        0, "curves/a  2 rows, 1 metric, 0 files\ncurves/b  1 row, 1 metric, 0 files\n",
    )  # fmt: skip
    assert f"2 runs imported to {root}." in err
    assert "2 runs: times of rows" in err
    assert experiments("ls", "curves", "--columns", "run,loss:min")[1].split()[2:] == [
        "curves/a", "0.25", "curves/b", "0.75",
    ]  # fmt: skip
    code, out, err = experiments("import", table, "--run-column", "seed")
    assert (code, out.count("imported before")) == (0, 2)
    assert "0 runs imported" in err
    assert "--again copies them" in err
    assert experiments("import", table, "--run-column", "seed", "--again")[1].startswith(
        "curves/a-2"
    )
    assert experiments("check")[0] == 0


def test_project_and_name_can_be_given(experiments, root, table):
    code, out, _ = experiments("import", table, "--project", "new", "--name", "first", "--json")
    (entry,) = json.loads(out)
    assert code == 0
    assert (entry["run"], entry["outcome"], entry["rows"]) == ("new/first", "imported", 3)
    assert RunRecord(entry["path"]).summary["imported_from"]["source"] == str(table)
    assert (root / "new" / "first" / "tensorboard").is_dir()
    experiments("import", table, "--project", "new", "--again", "--no-tensorboard")
    assert not (root / "new" / "curves" / "tensorboard").exists()


def test_a_dry_run_reads_all_and_writes_nothing(experiments, root, table):
    before = sorted(root.rglob("*"))
    code, out, err = experiments("import", table, "--dry-run")
    assert (code, out) == (0, "old/curves  3 rows, 1 metric, 0 files\n")
    assert "1 run would be imported" in err
    assert "column 'note'" in err
    assert sorted(root.rglob("*")) == before


def test_a_run_that_cannot_be_read_is_named_and_stops_no_other(experiments, root, mlruns):
    code, out, err = experiments("import", mlruns)
    assert (code, out) == (1, "old/good  1 row, 1 metric, 0 files\n")
    assert str(mlruns / "1" / "bad") in err
    assert "1 run could not be imported" in err
    code, out, _ = experiments("import", mlruns, "--json")
    assert [entry["outcome"] for entry in json.loads(out)] == ["failed", "known"]


def test_several_kinds_are_said_and_all_imported(experiments, mlruns, table):
    version = mlruns.parent / "lightning_logs" / "version_0"
    version.mkdir(parents=True)
    (version / "metrics.csv").write_text("step,loss\n0,1\n")
    (mlruns / "1" / "bad" / "meta.yaml").unlink()
    code, out, err = experiments("import", mlruns.parent)
    assert "found 1 of lightning, 1 of mlflow" in err
    assert "old/good" in out
    assert "version_0" in out
    code, out, _ = experiments("import", mlruns.parent, "--kind", "csv", "--dry-run")
    assert code == 0
    assert "curves" in out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nowhere"], 3), (["{folder}"], 3), (["http://127.0.0.1:5000"], 2),
        (["{table}", "--step", "nix"], 2), (["{table}", "--kind", "fly"], 2), ([], 2),
        (["{table}", "--kind", "mlflow"], 3),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_ends_with_its_code_and_a_line(words, code, experiments, table):
    places = {"folder": table.parent, "table": table}
    given = [word.format(**places) for word in words]
    found, out, err = experiments("import", *given)
    assert (found, out) == (code, "")
    assert err


def test_a_root_that_refuses_is_told_for_each_run(experiments, root, table):
    (root / "old").write_text("a file in the place of the project")
    code, out, err = experiments("import", table)
    assert (code, out) == (1, "")
    assert f"{table}: " in err
    assert "1 run could not be imported" in err
    (root / "old").unlink()


def test_losses_that_differ_in_what_they_quote_are_one_line_and_counts_are_summed(experiments):
    from experiment_tracking.cli.importing import Losses

    losses = Losses()
    losses.add(["run name 'a/0': it is 'a-0' here", "alerts: 2", *["traces: they are red"] * 2])
    losses.add(["run name 'a/1': it is 'a-1' here", "alerts: 3", "column 'x': it is text"])
    for number in range(2, 100):
        losses.add([f"run name 'a/{number}': it is 'a-{number}' here", "column 'x': it is text"])
    assert list(losses.lines()) == [
        "99 runs: column 'x': it is text",
        "2 runs: alerts: 5",
        "1 run: run name 'a/0': it is 'a-0' here",
        "1 run: run name 'a/1': it is 'a-1' here",
        "1 run: run name 'a/2': it is 'a-2' here (and 97 others like it)",
        "1 run: traces: they are red",
    ]


def test_columns_of_params_can_be_named(experiments, root, table):
    code, _, err = experiments("import", table, "--run-column", "seed", "--params", "loss, step")
    assert code == 0
    assert "column 'loss': a param has one value" in err
    assert RunRecord(root / "curves" / "b").params == {"step": 0, "loss": 0.75, "note": "y"}


def test_a_reader_that_fails_in_an_unknown_way_stops_no_other_run(experiments, mlruns, monkeypatch):
    from experiment_tracking.importers import mlflow_store
    from experiment_tracking.importers.found import FoundRun

    def broken():
        raise RecursionError("too deep")
        yield

    def runs(path, options):
        yield FoundRun("mlflow", path, "1", "first", "p", broken())
        yield FoundRun("mlflow", path, "2", "second", "p", [(0, 1.7e9, {"loss": 1.0})])

    monkeypatch.setattr(mlflow_store, "runs", runs)
    code, out, err = experiments("import", mlruns)
    assert (code, out) == (1, "p/second  1 row, 1 metric, 0 files\n")
    assert f"{mlruns}: run 'first': RecursionError: too deep" in err
