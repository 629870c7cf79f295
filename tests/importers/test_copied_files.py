import os

import pytest

from experiment_tracking.importers.found import FoundFile


def test_files_are_copied_with_size_and_hash_into_the_folders_of_their_kinds(take, tmp_path):
    model = tmp_path / "model"
    (model / ".hidden").mkdir(parents=True)
    (model / "__init__.py").write_text("x")
    (model / ".hidden" / "a.txt").write_text("y")
    (tmp_path / "pic.png").write_bytes(b"png")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "b.png").write_bytes(b"png")
    files = [
        FoundFile(str(model), "net", "model", description="best"),
        FoundFile(str(tmp_path / "pic.png"), "curve/loss-000003.png", step=3),
        FoundFile(str(tmp_path / "plots"), "plots"),
        FoundFile(str(tmp_path / "pic.png"), "_odd?.png", "artifact"),
        FoundFile(str(tmp_path / "pic.png"), "_odd?.png", "artifact"),
        FoundFile(str(tmp_path / "gone.txt"), "gone.txt"),
    ]
    record = take(files=files)
    places = {entry["path"]: (entry["kind"], entry["name"]) for entry in record.artifacts}
    assert places == {
        "models/net/__init__.py": ("model", "net"),
        "models/net/.hidden/a.txt": ("model", "net"),
        "figures/curve/loss-000003.png": ("image", "curve/loss"),
        "artifacts/plots/b.png": ("image", "plots/b.png"),
        "artifacts/odd-.png": ("artifact", "_odd?.png"),
        "artifacts/odd--2.png": ("artifact", "_odd?.png"),
    }
    assert record.artifacts[0]["description"] == "best"
    (said,) = record.summary["imported_from"]["not_carried"]
    assert said.startswith("file 'gone.txt'")


def test_of_links_only_those_beside_what_they_lead_to_are_followed(take, tmp_path, not_carried):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("SECRET")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "1.ckpt").write_text("weights")
    (run / "checkpoints" / "last.ckpt").symlink_to("1.ckpt")
    (run / "checkpoints" / "key").symlink_to("../../secret/key")
    (run / "checkpoints" / "all").symlink_to("../../secret")
    (run / "key").symlink_to(tmp_path / "secret" / "key")
    (run / "folder").symlink_to(tmp_path / "secret")
    record = take(files=[FoundFile(str(run / n), n) for n in ("checkpoints", "key", "folder")])
    assert [entry["path"] for entry in record.artifacts] == [
        "artifacts/checkpoints/1.ckpt", "artifacts/checkpoints/last.ckpt",
    ]  # fmt: skip
    assert len(not_carried(record)) == 4
    assert all("link" in text for text in not_carried(record))
    assert "SECRET" not in "".join(f.read_text() for f in (record.path / "artifacts").rglob("*t"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_only_looks_like_a_file_is_said_and_not_waited_for(take, tmp_path, not_carried):
    os.mkfifo(tmp_path / "pipe")
    record = take(files=[FoundFile(str(tmp_path / "pipe"), "pipe")])
    assert record.artifacts == []
    assert not_carried(record) == ["file 'pipe': no regular file"]
