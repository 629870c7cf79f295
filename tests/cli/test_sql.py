import io
import json
import sys

import pytest

pytest.importorskip("duckdb", reason="pip install 'experiment_tracking[sql]'")
pytest.importorskip("pyarrow", reason="pip install 'experiment_tracking[sql]'")


def test_an_answer_is_a_table(experiments):
    query = "select name, \"params.lr\" as lr, created_at > '2000-01-01' as new from runs "
    code, out, err = experiments("sql", query + 'where "params.lr" < 0.05 order by lr')
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["name", "lr", "new"], ["lr-0.001", "0.001", "True"], ["lr-0.01", "0.01", "True"],
    ]  # fmt: skip


def test_json_tells_nan_from_what_is_missing(experiments):
    query = 'select name, "metrics.val/loss" as loss, created_at from runs order by name'
    rows = json.loads(experiments("sql", query, "--json")[1])
    losses = {row["name"]: row["loss"] for row in rows}
    assert losses["lr-0.01"] == "NaN"
    assert losses["波-β"] is None
    assert rows[0]["created_at"].startswith("20")


def test_a_query_may_come_from_standard_input_and_about_some_runs(experiments, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("select count(*) as n from history"))
    words = ("sql", "-", "--project", "digits", "--status", "failed", "--json")
    assert json.loads(experiments(*words)[1]) == [{"n": 6}]


def test_a_query_that_is_refused_ends_with_2(experiments):
    code, out, err = experiments("sql", "select params.lr from runs")
    assert (code, out) == (2, "")
    assert "double quotes" in err


def test_lists_of_times_are_text_too(experiments):
    query = "select list(created_at) as each, {'at': min(created_at)} as first from runs"
    code, out, err = experiments("sql", query, "--json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)
    assert all(each.startswith("20") for each in [*row["each"], row["first"]["at"]])
    assert "datetime" not in experiments("sql", query)[1]
