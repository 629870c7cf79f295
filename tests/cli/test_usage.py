import json

import pytest

from experiment_tracking.upkeep.trash import trashed


def size_of(path):
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def test_du_shows_each_run_the_largest_first_and_the_sum(experiments, root):
    (root / "digits" / "lr-0.01" / "console.log").write_bytes(b"x" * 50_000)
    code, out, err = experiments("du")
    assert (code, err) == (0, "")
    header, first, *others, total = [line.split() for line in out.splitlines()]
    assert header == ["run", "size", "files", "mostly"]
    assert first[0] == "digits/lr-0.01"
    assert first[3:5] == ["console", "48.8kB,"]
    assert len(others) == 3
    assert total[0] == "total"
    known = json.loads(experiments("du", "--json")[1])
    assert known["size_bytes"] == size_of(root)
    assert {run["path"]: run["size_bytes"] for run in known["runs"]} == {
        str(path): size_of(path) for path in root.glob("*/*")
    }
    assert sum(known["kinds"].values()) == known["size_bytes"]


def test_du_sorts_by_any_kind(experiments, root):
    (root / "waves" / "波-β" / "code").mkdir()
    (root / "waves" / "波-β" / "code" / "a.py").write_bytes(b"x")

    def order(*words):
        return [run["run"] for run in json.loads(experiments("du", "--json", *words)[1])["runs"]]

    assert order("--sort", "code")[0] == "waves/波-β"
    assert order("--sort", "run") == sorted(order())
    assert order("--sort=-run") == sorted(order(), reverse=True)
    assert order("--sort=-size") == order()[::-1]
    assert set(order("waves")) == {"waves/波-β"}
    code, _, err = experiments("du", "--sort", "colour")
    assert code == 2
    assert "Allowed: size, files, run, history" in err
    assert experiments("du", "wave")[0] == 3


def test_du_tells_what_the_trash_holds(experiments, root):
    size = size_of(root / "digits" / "lr-0.1")
    experiments("rm", "lr-0.1")
    assert json.loads(experiments("du", "--json")[1])["trash_bytes"] == size
    assert "in the trash; experiments purge frees them." in experiments("du")[1]


def test_gc_shows_and_moves_what_may_go(experiments, root):
    words = ("gc", "--status", "failed", "--status", "finished", "--keep-best", "digits:2")
    assert experiments(*words)[0] == 3  # no such metric
    words = ("gc", "digits", "--status", "failed", "--status", "finished")
    words = (*words, "--keep-best", "val/loss:1", "--keep-tag", "sweep")
    code, out, err = experiments(*words, "--dry-run")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "run", "digits/lr-0.01", "digits/lr-0.001",
    ]  # fmt: skip
    assert "2 of 3 runs (" in err
    assert "would go to the trash." in err
    assert trashed(root) == []
    code, _, err = experiments(*words)
    assert (code, err.count("2 of 3 runs went to the trash.")) == (0, 1)
    assert {each.key for each in trashed(root)} == {"digits/lr-0.01", "digits/lr-0.001"}
    assert (root / "waves" / "波-β").is_dir()


def test_gc_in_json_says_of_each_run_why(experiments, root):
    code, out, _ = experiments("gc", "--older-than", "0s", "--json")
    known = json.loads(out)
    assert code == 0
    assert {run["run"]: (run["goes"], run["reason"]) for run in known["runs"]} == {
        "digits/lr-0.1": (False, "finished"),
        "digits/lr-0.01": (False, "finished"),
        "digits/lr-0.001": (True, known["runs"][2]["reason"]),
        "waves/波-β": (False, "finished"),
    }
    assert known["runs"][2]["reason"].startswith("failed, 20")
    assert [each["key"] for each in known["moved"]] == ["digits/lr-0.001"]


@pytest.mark.parametrize(
    "words",
    [(), ("--older-than", "30"), ("--status", "running"), ("--keep-best", "pde_residual:max:0")],
)
def test_gc_without_a_clear_order_moves_nothing(experiments, root, words):
    assert experiments("gc", *words)[0] == 2
    assert trashed(root) == []


def test_gc_judges_the_runs_alone_that_meet_the_filters(experiments):
    def going(*words):
        found = json.loads(experiments("gc", *words, "--dry-run", "--json")[1])["runs"]
        return sorted(run["run"] for run in found if run["goes"])

    ended = ("--status", "failed,finished")
    assert going("digits", *ended) == ["digits/lr-0.001", "digits/lr-0.01", "digits/lr-0.1"]
    assert going(*ended, "--where", "lr < 0.05") == ["digits/lr-0.001", "digits/lr-0.01"]
    assert going(*ended, "--tag", "first") == ["digits/lr-0.1"]
