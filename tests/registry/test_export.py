import json
import math
import os
import stat
import sys

import pytest

from experiment_tracking.errors import InvalidValueError, MissingPackageError
from experiment_tracking.registry import export
from experiment_tracking.registry.export import (
    encode_runs,
    export_parquet,
    export_runs,
    format_of,
    runs_table,
)

pa = pytest.importorskip("pyarrow", reason="pip install 'experiment_tracking[sql]'")
pq = pytest.importorskip("pyarrow.parquet", reason="pip install 'experiment_tracking[sql]'")
duckdb = pytest.importorskip("duckdb", reason="pip install 'experiment_tracking[sql]'")

NAN = float("nan")


@pytest.fixture
def runs(track, registry):
    """Three runs of two projects whose params agree in some names and not in others."""
    track("one", params={"lr": 0.1, "depth": 2, "mixed": 1, "opt": "adam"},
          rows=[{"loss": 1.0, "acc": 0.5}, {"loss": 0.5}], tags={"sweep": "a"})  # fmt: skip
    track("two", params={"lr": 1, "depth": 3, "mixed": "x", "on": True, "shape": [1, 2]},
          rows=[{"loss": NAN}, {"loss": float("inf")}])  # fmt: skip
    track("β 1%", "wave s=1", params={"lr": NAN, "big": 2**70, "net": {"width": 8}}, rows=[])
    return registry.list_experiments(order_by="name")


def data_set(folder, kind):
    """The data set as DuckDB reads it, ordered."""
    files = os.path.join(folder, kind, "*", "*.parquet")
    return duckdb.sql(f"select * from read_parquet('{files}', hive_partitioning = true)")


def test_the_ending_of_a_name_tells_the_format():
    assert [format_of(f"runs.{end}") for end in ("csv", "JSON", "md", "htm", "parquet")] == [
        "csv", "json", "markdown", "html", "parquet",
    ]  # fmt: skip
    for name in ("runs", "runs.xlsx"):
        with pytest.raises(InvalidValueError, match=r"End it in \.csv"):
            format_of(name)


def test_a_table_is_written_in_each_format_and_read_back(runs, tmp_path):
    columns = ["name", "lr", "loss", "tags.sweep"]
    for end in ("csv", "json", "md", "parquet"):
        export_runs(runs, tmp_path / "new" / f"runs.{end}", columns=columns)
    assert (tmp_path / "new" / "runs.csv").read_text().splitlines() == [
        "name,lr,loss,tags.sweep", "one,0.1,0.5,a", "two,1,inf,", "β 1%,NaN,,",
    ]  # fmt: skip
    assert json.loads((tmp_path / "new" / "runs.json").read_text())[1] == {
        "name": "two", "lr": 1, "loss": "Infinity", "tags.sweep": None,
    }  # fmt: skip
    assert (tmp_path / "new" / "runs.md").read_text().count("\n") == 5
    table = pq.read_table(tmp_path / "new" / "runs.parquet").to_pydict()
    assert table["name"] == ["one", "two", "β 1%"]
    assert table["lr"][:2] == [0.1, 1.0]
    assert math.isnan(table["lr"][2])
    assert [entry for entry in os.listdir(tmp_path / "new") if entry.startswith(".")] == []


def test_by_default_there_are_the_columns_of_the_frame_and_what_else_is_known(runs):
    head = encode_runs(runs, "csv").decode().splitlines()[0].split(",")
    assert head[:6] == list(runs.to_frame().columns[:6])
    assert set(runs.to_frame().columns) <= set(head)
    assert "ended_at" in head
    assert "group" not in head  # no run has one


def test_a_report_is_one_page_with_every_run(runs, tmp_path):
    export_runs(runs, tmp_path / "runs.html")
    page = (tmp_path / "runs.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert all(name in page for name in runs.names)


def test_an_unknown_format_is_refused(runs):
    with pytest.raises(InvalidValueError, match="allowed are csv, json, markdown, html, parquet"):
        encode_runs(runs, "xlsx")


def test_a_param_has_the_type_of_its_values_or_is_json(runs):
    table = runs_table(runs)
    types = {field.name.removeprefix("params."): str(field.type) for field in table.schema}
    assert types["lr"] == types["metrics.loss"] == types["duration_s"] == "double"
    assert (types["depth"], types["net.width"], types["on"]) == ("int64", "int64", "bool")
    assert types["opt"] == types["tags.sweep"] == types["group"] == "string"
    assert types["created_at"] == types["ended_at"] == "timestamp[us, tz=UTC]"
    columns = table.to_pydict()
    assert columns["params.mixed"] == ["1", '"x"', None]
    assert columns["params.shape"] == [None, "[1,2]", None]
    assert columns["params.big"] == [None, None, str(2**70)]
    assert table.schema.field("params.mixed").metadata == {b"encoding": b"json"}
    assert table.schema.field("params.depth").metadata is None


def test_nan_and_infinity_are_told_from_what_is_missing(track, registry):
    track("a", rows=[{"loss": NAN, "other": float("-inf")}])
    track("b", rows=[{"other": 1.0}])
    table = runs_table(registry.list_experiments(order_by="name"))
    loss = table.column("metrics.loss")
    assert loss.null_count == 1
    assert math.isnan(loss[0].as_py())
    assert table.column("metrics.other").to_pylist() == [float("-inf"), 1.0]


def test_a_data_set_holds_every_run_and_every_number(runs, tmp_path):
    seen = []
    done = export_parquet(runs, tmp_path / "set", progress=lambda *numbers: seen.append(numbers))
    assert (done.runs, done.rows) == (3, 5)
    files = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    assert done.files == len(files)
    assert done.size_bytes == sum(path.stat().st_size for path in files)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    names = 'select name, project, "params.lr" from t order by name'
    t = data_set(tmp_path / "set", "runs")
    rows = t.query("t", names).fetchall()
    assert [row[:2] for row in rows] == [
        ("one", "digits"), ("two", "digits"), ("β 1%", "wave s=1"),
    ]  # fmt: skip
    h = data_set(tmp_path / "set", "histories")
    cells = h.query("h", "select run, metric, step, value from h order by all").fetchall()
    assert str(cells) == str([
        ("digits/one", "acc", 0, 0.5), ("digits/one", "loss", 0, 1.0),
        ("digits/one", "loss", 1, 0.5), ("digits/two", "loss", 0, NAN),
        ("digits/two", "loss", 1, float("inf")),
    ])  # fmt: skip


def test_pandas_reads_the_data_set_as_one_frame(runs, tmp_path):
    import pandas as pd

    export_parquet(runs, tmp_path / "set")
    frame = pd.read_parquet(tmp_path / "set" / "runs").set_index("name")
    assert frame.loc["one", "params.lr"] == 0.1
    assert frame.loc["β 1%", "project"] == "wave s=1"


def test_every_partition_has_the_same_columns_and_types(runs, tmp_path):
    export_parquet(runs, tmp_path / "set", histories=False)
    one, two = (pq.read_schema(path) for path in (tmp_path / "set").rglob("*.parquet"))
    assert one.equals(two, check_metadata=True)
    assert not (tmp_path / "set" / "histories").exists()


def test_an_export_replaces_its_projects_and_leaves_others(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_RUNS_PER_FILE", 1)
    monkeypatch.setattr(export, "_ROWS_PER_FILE", 1)
    monkeypatch.setattr(export, "_ROWS_AT_ONCE", 1)
    export_parquet(runs, tmp_path / "set")
    digits = tmp_path / "set" / "runs" / "project=digits"
    assert sorted(os.listdir(digits)) == ["part-00000.parquet", "part-00001.parquet"]
    (digits / "mine.parquet").touch()
    export_parquet(runs.filter(name="two"), tmp_path / "set")
    assert sorted(os.listdir(digits)) == ["mine.parquet", "part-00000.parquet"]
    (digits / "mine.parquet").unlink()
    assert data_set(tmp_path / "set", "runs").aggregate("count(*)").fetchall() == [(2,)]
    rows = data_set(tmp_path / "set", "histories")
    assert rows.aggregate("run, count(*)").fetchall() == [("digits/two", 2)]


def test_an_export_that_fails_leaves_the_earlier_one_whole(runs, tmp_path, monkeypatch):
    export_parquet(runs, tmp_path / "set")
    before = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.parquet")}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        export_parquet(runs, tmp_path / "set")
    after = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()}
    assert after == before


def test_a_history_that_cannot_be_read_is_named_and_hides_no_other(runs, tmp_path, root):
    (tmp_path / "damaged").touch()
    history = root / "digits" / "two" / "metrics_history.json"
    history.unlink()
    history.symlink_to(tmp_path / "damaged")
    done = export_parquet(runs, tmp_path / "set")
    assert done.rows == 3
    assert [os.path.basename(problem.path) for problem in runs.problems] == ["two"]


def test_no_runs_are_a_table_without_rows(registry, tmp_path):
    runs = registry.list_experiments()
    assert export_parquet(runs, tmp_path / "set").files == 0
    assert runs_table(runs).num_rows == 0
    assert json.loads(encode_runs(runs, "json")) == []


def test_a_missing_package_is_named_with_its_install_line(runs, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"pyarrow.*experiment_tracking\[sql\]"):
        export_parquet(runs, tmp_path / "set")
    assert encode_runs(runs, "csv")


def test_a_pipe_is_written_to_and_not_replaced(track, registry, tmp_path):
    track("a")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    export_runs(registry.list_experiments(), pipe, "csv")
    assert os.read(reader, 65536).startswith(b"name,project")
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_tag_without_a_value_is_kept_and_says_yes_where_people_read(track, registry):
    track("a", tags=["good", "old"], params={"suffix": ""})
    track("b", tags={"good": "very"})
    runs = registry.list_experiments(order_by="name")
    rows = json.loads(encode_runs(runs, "json"))
    assert [(row["tags.good"], row["tags.old"]) for row in rows] == [("", ""), ("very", None)]
    assert [row["params.suffix"] for row in rows] == ["", None]
    head, first, second = encode_runs(runs, "csv").decode().splitlines()
    cells = [dict(zip(head.split(","), row.split(","), strict=True)) for row in (first, second)]
    assert [(row["tags.good"], row["tags.old"]) for row in cells] == [("yes", "yes"), ("very", "")]
    assert [row["params.suffix"] for row in cells] == ["", ""]
    assert encode_runs(runs, "markdown", ["tags.old"]).decode().splitlines()[2] == "| yes      |"
