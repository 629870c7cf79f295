import os
import sys

import pytest

from experiment_tracking.errors import InvalidTypeError, InvalidValueError, MissingPackageError
from experiment_tracking.registry.sql import sql, sql_table

pytest.importorskip("duckdb", reason="pip install 'experiment_tracking[sql]'")
pytest.importorskip("pyarrow", reason="pip install 'experiment_tracking[sql]'")


@pytest.fixture
def runs(track, registry):
    for number in range(4):
        lr = 10.0**-number
        rows = [{"val/loss": lr + step} for step in range(3)]
        track(f"run-{number}", "digits" if number else "waves", params={"lr": lr}, rows=rows)
    return registry.list_experiments()


def test_a_question_about_runs_is_answered_as_a_frame(runs):
    found = sql(runs, 'select name, "metrics.val/loss" as loss from runs where "params.lr" < 0.5 '
                      "order by loss limit 2")  # fmt: skip
    assert found.to_dict("list") == {"name": ["run-3", "run-2"], "loss": [2.001, 2.01]}


def test_runs_have_the_columns_of_the_frame(runs):
    found = sql(runs, "select * from runs")
    frame = runs.to_frame()
    assert set(frame.columns) <= set(found.columns)
    assert found["name"].tolist() == frame["name"].tolist()
    assert found["created_at"].tolist() == frame["created_at"].tolist()


def test_rows_are_a_table_of_their_own(runs):
    found = sql(
        runs,
        "select project, max(value) as top from history join runs on history.run = "
        "runs.project || '/' || runs.name where metric = 'val/loss' group by 1 order by 1",
    )
    assert found.to_dict("list") == {"project": ["digits", "waves"], "top": [2.1, 3.0]}


def test_histories_are_read_only_when_they_are_asked_for(runs, root, tmp_path):
    (tmp_path / "damaged").touch()
    for path in root.rglob("metrics_history.json"):
        path.unlink()
        path.symlink_to(tmp_path / "damaged")
    assert sql(runs, "select count(*) as n from runs")["n"].tolist() == [4]
    assert runs.problems == []
    assert sql(runs, "select count(*) as n from History")["n"].tolist() == [0]
    assert len(runs.problems) == 4


def test_nan_is_told_from_what_is_missing(track, registry):
    track("a", rows=[{"loss": float("nan")}])
    track("b", rows=[{"other": 1.0}])
    found = sql_table(registry.list_experiments(), 'select "metrics.loss" from runs order by name')
    first, second = found.column(0).to_pylist()
    assert first != first
    assert second is None


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_csv('{secret}')",
        "select * from '{secret}'",
        "select * from read_text('{secret}')",
        "copy runs to '{folder}/out.csv'",
        "copy runs to '{folder}/out.parquet' (format parquet)",
        "attach '{folder}/out.db'",
        "export database '{folder}/out'",
        "set enable_external_access = true",
        "set python_enable_replacements = true",
        "reset lock_configuration",
        "install httpfs",
        "load httpfs",
        "select * from glob('{folder}/*')",
        "select * from read_parquet('http://127.0.0.1:9/x.parquet')",
        "select * from secret_of_python",
    ],
)
def test_a_query_reaches_no_file_no_network_and_no_variable(runs, tmp_path, query):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\nsecret\n")
    secret_of_python = runs.to_frame()
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InvalidValueError, match="DuckDB refuses the query"):
        sql(runs, query.format(secret=secret, folder=tmp_path))
    assert sorted(os.listdir(tmp_path)) == before
    assert len(secret_of_python) == 4


def test_no_query_changes_the_runs(runs):
    before = runs.to_frame()
    for query in ("delete from runs", "update runs set name = 'x'", "drop table runs"):
        with pytest.raises(InvalidValueError):
            sql(runs, query)
    assert sql(runs, "select count(*) as n from runs")["n"].tolist() == [len(before)]


def test_a_mistake_is_shown_where_it_is_and_how_names_are_quoted(runs):
    with pytest.raises(
        InvalidValueError, match=r'"params" not found!(?s:.*)double quotes: "params.lr"'
    ):
        sql(runs, "select params.lr from runs")
    with pytest.raises(InvalidValueError, match='syntax error at or near "selec"'):
        sql(runs, "selec 1")
    with pytest.raises(InvalidTypeError, match="A query is text"):
        sql(runs, 5)


def test_a_missing_package_is_named_with_its_install_line(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingPackageError, match=r"duckdb.*experiment_tracking\[sql\]"):
        sql(runs, "select 1")


def test_columns_that_differ_in_case_alone_are_not_taken_for_each_other(track, registry):
    track("a", params={"lr": 0.1, "LR": 0.2, "seed": 1})
    runs = registry.list_experiments()
    with pytest.raises(InvalidValueError, match=r'"params\.lr#'):
        sql(runs, 'select "params.LR" from runs')
    found = sql(runs, "select * from runs")
    values = {name.partition("#")[0]: found[name].tolist() for name in found}
    assert (values["params.lr"], values["params.LR"]) == ([0.1], [0.2])
    assert "params.seed" in found


def test_sums_and_decimals_are_plain_numbers(track, registry):
    for seed in (1, 2):
        track(f"run-{seed}", params={"seed": seed})
    query = 'select sum("params.seed") as n, 0.5 as half, sum(1::hugeint << 70) as big from runs'
    (row,) = sql_table(registry.list_experiments(), query).to_pylist()
    assert (row["n"], type(row["n"]), row["half"], type(row["half"])) == (3, int, 0.5, float)
    assert int(row["big"]) == 2**71
