import json
import uuid

import pytest

from experiment_tracking.folder.check import check


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPERIMENT_TRACKING_CACHE", str(tmp_path / "cache"))


def test_runs_are_copied_and_the_second_time_nothing_is(experiments, root, tmp_path):
    code, out, err = experiments("sync", root, tmp_path / "copy")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["digits/lr-0.001", "copied"], ["digits/lr-0.01", "copied"],
        ["digits/lr-0.1", "copied"], ["waves/波-β", "copied"],
    ]  # fmt: skip
    assert "4 copied, " in err
    assert check(tmp_path / "copy") == []
    code, out, err = experiments("sync", root, tmp_path / "copy")
    assert (code, out) == (0, "")
    assert "4 unchanged, 0B." in err


def test_a_far_root_is_filled_and_told_in_json(experiments, root):
    pytest.importorskip("fsspec", reason="pip install 'experiment_tracking[remote]'")
    url = f"memory://{uuid.uuid4().hex}"
    code, out, _ = experiments("sync", root, url, "--project", "digits", "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["source"], told["target"], told["dry_run"]) == (str(root), url, False)
    assert told["counts"] == {"copied": 3}
    assert told["size_bytes"] == sum(run["size_bytes"] for run in told["runs"]) > 0


def test_a_dry_run_writes_nothing(experiments, root, tmp_path):
    code, out, err = experiments("sync", root, tmp_path / "copy", "lr-0.1", "--dry-run")
    assert code == 0
    assert "digits/lr-0.1" in out
    assert "would be: 1 copied" in err
    assert not (tmp_path / "copy").exists()


def test_what_is_refused_is_named_and_ends_with_1(experiments, root, tmp_path):
    experiments("sync", root, tmp_path / "copy")
    summary = tmp_path / "copy" / "digits" / "lr-0.1" / "summary.json"
    told = json.loads(summary.read_text())
    summary.write_text(json.dumps({**told, "id": "0" * 16}))
    code, _, err = experiments("sync", root, tmp_path / "copy")
    assert code == 1
    assert "digits/lr-0.1 refused" in err
    assert "0" * 16 in err


def test_a_run_or_root_that_is_nowhere_ends_with_3(experiments, root, tmp_path):
    code, _, err = experiments("sync", root, tmp_path / "copy", "lr-0.2")
    assert code == 3
    assert "digits/lr-0.1" in err
    assert experiments("sync", tmp_path / "nowhere", tmp_path / "copy")[0] == 3
