import csv
import json
import subprocess

import pytest


def test_a_file_is_written_by_its_ending(experiments, tmp_path):
    path = tmp_path / "runs.csv"
    code, out, err = experiments("export", "digits", "-o", path, "--columns", "name,lr,val/loss")
    assert (code, out) == (0, "")
    assert f"3 runs in {path}" in err
    with open(path, encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows["lr-0.1"] == {"name": "lr-0.1", "lr": "0.1", "val/loss": str(1 / 3)}


def test_standard_output_takes_text_and_bytes(experiments, command):
    _, out, _ = experiments("export", "-o", "-", "--format", "json", "--sort=-lr")
    assert [run["name"] for run in json.loads(out)][:3] == ["lr-0.1", "lr-0.01", "lr-0.001"]
    _, out, _ = experiments("export", "-o", "-", "--format", "markdown", "--columns", "name")
    assert out.startswith("| name")
    pytest.importorskip("pyarrow", reason="pip install 'experiment_tracking[sql]'")
    words = ["export", "-o", "-", "--format", "parquet"]
    done = subprocess.run([*command, *words], capture_output=True, check=True)
    assert done.stdout[:4] == done.stdout[-4:] == b"PAR1"


def test_filters_choose_what_is_written(experiments):
    words = ("export", "-o", "-", "--format", "json", "--where", "params.lr < 0.05")
    assert {run["name"] for run in json.loads(experiments(*words)[1])} == {"lr-0.01", "lr-0.001"}


def test_a_data_set_is_written_and_told_in_json(experiments, tmp_path):
    pytest.importorskip("pyarrow", reason="pip install 'experiment_tracking[sql]'")
    code, out, _ = experiments("export", "--parquet", tmp_path / "set", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["runs"], told["rows"]) == (4, 20)
    assert len(list((tmp_path / "set").rglob("*.parquet"))) == told["files"] == 4
    experiments("export", "--parquet", tmp_path / "bare", "--no-rows")
    assert not (tmp_path / "bare" / "histories").exists()


def test_words_that_do_not_go_together_are_refused(experiments, tmp_path):
    assert experiments("export")[0] == 2
    assert experiments("export", "-o", "-")[0] == 2
    assert experiments("export", "-o", tmp_path / "runs.xlsx")[0] == 2
    assert experiments("export", "--parquet", tmp_path / "set", "--format", "csv")[0] == 2
    assert experiments("export", "nowhere", "-o", tmp_path / "runs.csv")[0] == 3
