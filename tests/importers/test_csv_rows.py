import gzip
import os

import pytest

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.importers import csv_rows
from experiment_tracking.importers.found import Options
from experiment_tracking.importers.imported import Importer
from experiment_tracking.registry.record import RunRecord


@pytest.fixture
def bring(root, tmp_path):
    """Import a CSV of that text; gives the records."""

    def bring(text, name="results.csv", **options):
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        os.utime(path, (1.6e9, 1.6e9))
        importer = Importer(root)
        found = csv_rows.runs(str(path), Options(**options))
        return [RunRecord(importer.take(run).path) for run in found]

    return bring


def points(record):
    return [{name: value for name, value in row.items() if name != "time"} for row in record.rows()]


def test_numbers_are_metrics_and_other_text_is_said_to_be_left_out(bring, not_carried):
    (record,) = bring("step,loss,note,acc\n0,0.5,hello,\n2,nan,bye,0.25\n\n5,1e-3,,50%\n")
    assert record.key == "data/results"
    assert points(record) == [
        {"step": 0, "loss": 0.5},
        {"step": 2, "loss": "NaN", "acc": 0.25},
        {"step": 5, "loss": 1e-3},
    ]
    assert record.created_at == "2020-09-13T12:26:40.000Z"
    assert {"column 'note': 'hello' is no number", "column 'acc': '50%' is no number"} <= {
        *not_carried(record)
    }


def test_a_text_that_stays_the_same_is_a_param_and_so_are_columns_that_are_named(
    bring, not_carried
):
    table = "Name,opt,lr,seed,loss\na,adam,0.1,7,1\na,adam,0.1,8,2\nb,sgd,0.2,9,3\n"
    first, second = bring(table, run_column="Name", params=("lr", "seed"))
    assert first.params == {"opt": "adam", "lr": 0.1}
    assert second.params == {"opt": "sgd", "lr": 0.2, "seed": 9}
    assert first.metric_names == ["loss"]
    assert "column 'seed': a param has one value, this has more" in not_carried(first)
    with pytest.raises(InvalidValueError, match="--params: there is no column 'nix'"):
        bring(table, params=("nix",))


@pytest.mark.parametrize("name", ["Step", "_step", "global_step", "Iteration", "epoch"])
def test_the_column_of_steps_is_known_by_its_name(name, bring):
    (record,) = bring(f"loss,{name}\n1,10\n2,20.0\n")
    assert [row["step"] for row in record.rows()] == [10, 20]
    assert record.metric_names == ["loss"]


def test_any_column_can_be_named_as_that_of_steps_or_times(bring):
    (record,) = bring("at,n,loss\n1.7e9,3,1\n1.7e9,4,1\n", step="n", time="at")
    assert points(record) == [{"step": 3, "loss": 1.0}, {"step": 4, "loss": 1.0}]
    assert record.created_at == "2023-11-14T22:13:20.000Z"
    with pytest.raises(InvalidValueError, match="columns are a"):
        bring("a\n1\n", name="other.csv", step="nix")


@pytest.mark.parametrize(
    "written",
    [
        "1700000000",
        "1700000000000",
        "1.7e18",
        "2023-11-14T22:13:20Z",
        "2023-11-14 23:13:20+01:00",
        "14.11.2023 22:13:20",
    ],
)
def test_times_are_read_however_they_are_written(written, bring):
    (record,) = bring(f"Wall time,Step,Value\n{written},0,1\n")
    assert record.rows()[0]["time"] == 1.7e9
    assert record.metric_names == ["Value"]


def test_seconds_since_the_start_stay_a_metric(bring):
    (record,) = bring("time,loss\n0.5,1\n1.5,2\n")
    assert record.metric_names == ["time", "loss"]
    assert record.metrics["time"]["last"] == 1.5


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffstep;a b\n0;1\n", "step\ta b\n0\t1\n", 'step,"a b"\r\n0,"1"\r\n',
        "step,a b,\n0,1,9\n",
        "step,a b\n0,1\0\n",
    ],
)  # fmt: skip
def test_separators_quotes_and_marks_are_taken_as_they_come(text, bring):
    (record,) = bring(text)
    assert points(record) == [{"step": 0, "a b": 1.0}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_table_of_a_spreadsheet_is_read_with_its_commas_in_numbers(encoding, bring):
    (record,) = bring('step;Größe;n\n0;0,775;1,5e-3\n1;"-2,0";3.5\n'.encode(encoding))
    assert points(record) == [
        {"step": 0, "Größe": 0.775, "n": 1.5e-3}, {"step": 1, "Größe": -2.0, "n": 3.5},
    ]  # fmt: skip


def test_a_comma_in_a_number_is_no_point_where_commas_part_the_columns(bring, not_carried):
    (record,) = bring('step,a,b\n0,"1,000",1\n1,"2,000",2\n')
    assert record.metric_names == ["b"]
    assert "column 'a': '1,000' is no number" in not_carried(record)


def test_a_compressed_file_is_read(bring):
    (record,) = bring(gzip.compress(b"step,a\n1,2\n"), name="results.csv.gz")
    assert record.name == "results"
    assert points(record) == [{"step": 1, "a": 2.0}]


def test_a_column_of_runs_makes_many_runs_of_one_file(bring, root):
    records = bring("run,step,a\nx,0,1\ny,0,5\nx,1,2\n", run_column="run")
    assert [(record.key, points(record)) for record in records] == [
        ("results/x", [{"step": 0, "a": 1.0}, {"step": 1, "a": 2.0}]),
        ("results/y", [{"step": 0, "a": 5.0}]),
    ]


def test_a_file_without_a_header_is_refused(bring):
    with pytest.raises(InvalidValueError, match="no header"):
        bring("")


@pytest.mark.parametrize("text", ["step,a\n", "step,a\n0,x\n1,y\n"])
def test_a_file_without_a_number_is_refused(text, bring):
    with pytest.raises(InvalidValueError, match="no number below its header"):
        bring(text)
