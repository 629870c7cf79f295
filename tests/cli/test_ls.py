import json
import re
import time
from datetime import datetime, timedelta, timezone

import pytest

from experiment_tracking import ExperimentTracker
from experiment_tracking.cli import main

SGR = re.compile(r"\x1b\[[0-9;]*m")


def table(out):
    return [line.split() for line in out.splitlines()]


def test_the_newest_run_comes_first(experiments):
    code, out, err = experiments("ls")
    assert (code, err) == (0, "")
    rows = table(out)
    assert [row[0] for row in rows[1:]] == [
        "waves/波-β", "digits/lr-0.001", "digits/lr-0.01", "digits/lr-0.1",
    ]  # fmt: skip


def test_the_default_columns_show_what_differs_and_best_values(experiments):
    header, *rows = table(experiments("ls", "digits")[1])
    assert header == [
        "run", "status", "age", "duration", "val/loss:min", "val/acc:max", "lr", "model.optimizer",
    ]  # fmt: skip
    assert rows[-1][:2] == ["lr-0.1", "finished"]
    assert rows[-1][4:] == ["0.33333", "0.5", "0.1", "adam"]


def test_piped_columns_are_aligned_plain_text(experiments):
    lines = experiments("ls", "digits")[1].splitlines()
    place = lines[0].index("status")
    assert {line[place - 1 : place + 1].strip() for line in lines} == {"s", "f"}
    assert "\x1b" not in "".join(lines)
    assert all("│" not in line and "─" not in line for line in lines)


def test_filters_order_and_limit_work_together(experiments):
    def names(*words):
        return [row["name"] for row in json.loads(experiments("ls", *words, "--json")[1])]

    assert names("--status", "failed") == ["lr-0.001"]
    assert names("digits", "--status", "failed", "--status", "finished", "--limit", "1") == [
        "lr-0.001"
    ]
    assert names("--tag", "sweep") == names("--tag", "sweep=a") == ["lr-0.1"]
    assert names("--tag", "sweep=a", "--tag", "first") == ["lr-0.1"]
    assert names("--tag", "sweep=b") == []
    assert names("digits", "--sort", "lr") == ["lr-0.001", "lr-0.01", "lr-0.1"]
    assert names("digits", "--sort=-lr") == ["lr-0.1", "lr-0.01", "lr-0.001"]
    assert names("digits", "--sort", "val/loss:min") == ["lr-0.1", "lr-0.01", "lr-0.001"]
    assert names("digits", "--sort", "val/acc", "--reverse")[0] == "lr-0.1"
    assert names("--sort", "age") == names() == names("--sort=-age")[::-1]
    assert names("--reverse") == names()[::-1]


def test_chosen_columns_stand_in_their_order_under_their_names(experiments):
    columns = "run,lr,metrics.val/loss,val/acc:max,tags.sweep,params.epochs,status,tags"
    header, *rows = table(experiments("ls", "digits", "--columns", columns)[1])
    assert ",".join(header) == columns
    assert rows[-1][:7] == ["digits/lr-0.1", "0.1", "0.33333", "0.5", "a", "3", "finished"]
    assert rows[1][2] == "nan"


def test_chosen_columns_in_json_are_plain_values(experiments):
    out = experiments("ls", "digits", "--columns", "name,lr,val/loss,duration,tags", "--json")[1]
    rows = json.loads(out)
    assert rows[2] | {"duration": 0} == {
        "name": "lr-0.1", "lr": 0.1, "val/loss": 1 / 3, "duration": 0,
        "tags": {"sweep": "a", "first": ""},
    }  # fmt: skip
    assert rows[1]["val/loss"] == "NaN"


def test_json_holds_everything_about_each_run(experiments):
    newest, *_, oldest = json.loads(experiments("ls", "--json")[1])
    assert newest["run"] == "waves/波-β"
    assert oldest["params"]["model"] == {"depth": 2, "optimizer": "adam"}
    assert oldest["metrics"]["val/loss"]["min"] == 1 / 3
    assert oldest["tags"] == {"sweep": "a", "first": ""}
    assert oldest["status"] == "finished"


def test_a_column_that_is_nowhere_is_refused_with_near_names(experiments):
    code, out, err = experiments("ls", "--columns", "run,val/los")
    assert (code, out) == (2, "")
    assert "val/loss" in err


def test_an_unknown_project_ends_with_3_and_names_near_ones(experiments):
    code, out, err = experiments("ls", "digit")
    assert (code, out) == (3, "")
    assert "digits" in err


def test_an_empty_root_says_where_it_looked_and_how_to_begin(tmp_path, capsys):
    assert main(["ls", "--root", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert str(tmp_path) in err
    assert "ExperimentTracker" in err
    assert main(["ls", "--root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_the_first_run_it_proposes_is_one(tmp_path, capsys, monkeypatch):
    main(["ls", "--root", str(tmp_path)])
    script = re.search(r'python -c "(.*)"', capsys.readouterr().err)[1]
    monkeypatch.setenv("EXPERIMENT_TRACKING_ROOT", str(tmp_path))
    exec(script, {})
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_no_match_says_so(experiments):
    code, out, err = experiments("ls", "--status", "killed")
    assert (code, out) == (0, "")
    assert "conditions" in err


@pytest.mark.parametrize("file", ["summary.json", "params.json"])
def test_a_damaged_run_is_named_and_hides_no_other(experiments, root, file):
    (root / "digits" / "lr-0.01" / file).write_text("{")
    for words in (["ls"], ["ls", "--json"]):
        code, out, err = experiments(*words)
        assert code == 0
        assert "lr-0.1" in out
        assert "lr-0.001" in out
        assert f"lr-0.01/{file}" in err


def test_a_running_run_shows_how_long_it_has_been_running(experiments, root):
    with ExperimentTracker("live", root=root).start_run("now") as run:
        run.log_metric("loss", 1.0)
        header, row = table(experiments("ls", "live")[1])
        shown = dict(zip(header, row, strict=True))
        assert shown["status"] == "running"
        assert re.fullmatch(r"[0-9.e-]+s", shown["duration"])


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_a_terminal_line_is_never_wider_than_the_terminal(in_terminal, columns):
    code, shown = in_terminal("ls", columns=columns)
    assert code == 0
    lines = [line for line in SGR.sub("", shown).splitlines() if "experiments: " not in line]
    assert len(lines) == 5
    assert all(len(line) + line.count("波") <= columns for line in lines)
    assert lines[0].split()[0] == "run"
    assert all("lr-0" in line or "波-β" in line for line in lines[1:])


def test_a_narrow_terminal_is_told_what_it_does_not_see(in_terminal):
    notice = in_terminal("ls", columns=60)[1].splitlines()[-1]
    assert notice.startswith("experiments: no room for")
    assert "duration" in notice
    assert "no room" not in in_terminal("ls", columns=200)[1]


def test_wide_names_keep_the_columns_straight(in_terminal):
    shown = SGR.sub("", in_terminal("ls", columns=200)[1])
    # One character more stands for the second cell.
    lines = [line.replace("波", "波.") for line in shown.splitlines()]
    assert len({line.index(word) for line in lines for word in ("finished", "failed", "status")
                if word in line}) == 1  # fmt: skip


def test_colour_is_for_terminals_that_want_it(in_terminal):
    assert SGR.search(in_terminal("ls")[1])
    assert "\x1b[32m" not in in_terminal("ls", NO_COLOR="1")[1]
    assert not SGR.search(in_terminal("ls", TERM="dumb")[1])


def test_a_last_value_that_is_no_number_stands_beside_the_best(experiments):
    row = experiments("ls", "digits")[1].splitlines()[2]
    assert "1.3333 (last nan)" in row
    chosen = experiments("ls", "digits", "--columns", "val/loss:min", "--json")[1]
    assert json.loads(chosen)[1] == {"val/loss:min": 4 / 3}


@pytest.fixture
def many(root):
    """Two runs of more params and metrics than have a column by default."""
    tracker = ExperimentTracker("many", root=root, auto_log=False)
    for i in range(2):
        params = {"fixed": 7, "prompt": "word" * 20 + str(i), **{f"p{n}": n + i for n in range(8)}}
        with tracker.start_run(f"run-{i}", params) as run:
            run.log_metrics({f"m{n}": n for n in range(14)}, step=0)


def test_the_columns_left_out_by_default_are_named(experiments, many):
    code, _, err = experiments("ls", "many")
    assert code == 0
    assert err.count("\n") == 1
    assert "not shown: m4, m5" in err
    assert "and 5 more" in err
    assert "--columns" in err
    assert experiments("ls", "many", "--columns", "run,m4")[2] == ""


def test_the_sorted_column_is_shown_though_it_is_the_same_for_all(experiments, many):
    header, row, _ = table(experiments("ls", "many", "--sort=-fixed")[1])
    assert (header[1], row[1]) == ("fixed", "7")
    for shown in ("p0", "params.p0", "name", "run", "age", "duration", "metrics.m0"):
        header = table(experiments("ls", "many", "--sort", shown)[1])[0]
        assert header == table(experiments("ls", "many")[1])[0]


def test_a_metric_that_bears_the_name_of_a_column_or_param_has_its_own(experiments, root):
    for lr in (1, 2):
        with ExperimentTracker("both", root=root).start_run(f"run-{lr}", {"lr": lr}) as run:
            run.log_metrics({"lr": lr / 8, "run": 5})
    code, out, _ = experiments("ls", "both")
    header, row, _ = table(out)
    assert code == 0
    shown = dict(zip(header, row, strict=True))
    assert {"run": "run-2", "metrics.run": "5", "metrics.lr": "0.25", "lr": "2"}.items() <= (
        shown.items()
    )


def test_a_filter_chooses_the_runs_and_a_mistake_in_it_is_pointed_at(experiments):
    chosen = "params.lr <= 0.01 and status = failed"
    code, out, _ = experiments("ls", "--where", chosen, "--columns", "name,params.lr")
    assert (code, table(out)[1:]) == (0, [["lr-0.001", "0.001"]])
    code, _, err = experiments("ls", "--where", "params.lr < and")
    assert code == 2
    assert "\n    params.lr < and\n                ^" in err
    code, _, err = experiments("ls", "--where", "colour = 'red'")
    assert code == 2
    assert "No column is called 'colour'" in err
    code, out, err = experiments("ls", "--where", "params.lr > 7")
    assert (code, out) == (0, "")
    assert "meets these conditions: params.lr > 7: 0 of 4 runs." in err


def test_a_tag_without_a_value_reads_yes_and_none_a_dash(experiments):
    out = experiments("ls", "digits", "--columns", "name,tags.first,tags.sweep")[1]
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["lr-0.1"] == ["yes", "a"]
    assert rows["lr-0.01"] == ["-", "-"]


def test_times_are_shown_in_local_time_and_kept_whole_in_json(experiments, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        columns = ("ls", "digits", "-n", "1", "--columns", "created_at,ended_at")
        shown = experiments(*columns)[1].splitlines()[1]
        (kept,) = json.loads(experiments(*columns, "--json")[1])
    finally:
        monkeypatch.undo()
        time.tzset()
    tokyo = timezone(timedelta(hours=9))
    moments = [datetime.fromisoformat(kept[name]) for name in ("created_at", "ended_at")]
    assert shown.split("  ") == [f"{each.astimezone(tokyo):%Y-%m-%d %H:%M:%S}" for each in moments]
