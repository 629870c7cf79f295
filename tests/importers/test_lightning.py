import sys

import pytest

from experiment_tracking.backends.tensorboard import TensorBoardBackend
from experiment_tracking.importers import lightning
from experiment_tracking.importers.found import Options
from experiment_tracking.importers.imported import Importer
from experiment_tracking.registry.record import RunRecord

# As Lightning 2 wrote them for a model with those arguments.
METRICS = """\
epoch,step,train/loss,val_loss
0,1,0.556678295135498,
0,3,0.18147316575050354,
0,4,,0.0315055325627327
1,5,0.015606009401381016,
"""
HPARAMS = """\
f: !!python/name:torch.relu ''
lr: 0.1
opt:
  betas: !!python/tuple
  - 0.9
  - 0.99
  name: adam
path: !!python/object/apply:pathlib.PosixPath
- /
- x
"""


@pytest.fixture
def version(tmp_path):
    folder = tmp_path / "digits" / "lightning_logs" / "version_3"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "epoch=2-step=15.ckpt").write_bytes(b"weights")
    (folder / "hparams.yaml").write_text(HPARAMS)
    return folder


@pytest.fixture
def bring(root, version):
    def bring():
        (found,) = lightning.runs(str(version), Options())
        return RunRecord(Importer(root).take(found).path)

    return bring


def test_a_version_is_a_run_with_metrics_params_and_checkpoints(version, bring):
    pytest.importorskip("yaml", reason="pip install pyyaml")
    (version / "metrics.csv").write_text(METRICS)
    assert lightning.recognizes(str(version))
    record = bring()
    assert record.key == "digits/version_3"
    assert [(row["step"], row.get("train/loss"), row.get("val_loss")) for row in record.rows()] == [
        (1, 0.556678295135498, None),
        (3, 0.18147316575050354, None),
        (4, None, 0.0315055325627327),
        (5, 0.015606009401381016, None),
    ]
    assert record.metrics["epoch"]["last"] == 1.0
    assert record.params == {
        "f": "torch.relu", "lr": 0.1, "opt": {"betas": [0.9, 0.99], "name": "adam"},
        "path": ["/", "x"],
    }  # fmt: skip
    assert [entry["path"] for entry in record.artifacts] == [
        "artifacts/checkpoints/epoch=2-step=15.ckpt"
    ]


def test_hparams_that_cannot_be_read_are_said_to_be_missing(version, bring, monkeypatch):
    (version / "metrics.csv").write_text(METRICS)
    monkeypatch.setitem(sys.modules, "yaml", None)
    record = bring()
    assert record.params == {}
    assert "PyYAML" in "".join(record.summary["imported_from"]["not_carried"])
    assert len(record.rows()) == 4


def test_damaged_hparams_cost_the_params_alone(version, bring):
    pytest.importorskip("yaml", reason="pip install pyyaml")
    (version / "metrics.csv").write_text(METRICS)
    (version / "hparams.yaml").write_text("a: [1\nb")
    record = bring()
    assert "cannot be read" in "".join(record.summary["imported_from"]["not_carried"])
    assert len(record.rows()) == 4


def test_a_version_of_tensorboards_logger_gives_its_scalars(version, bring):
    pytest.importorskip("yaml", reason="pip install pyyaml")
    writer = TensorBoardBackend(str(version))
    writer.start_run("x")
    writer.log_batch([{"step": step, "time": 1.7e9 + step, "loss": 0.5} for step in range(3)])
    writer.end_run("finished")
    writer.close()
    assert lightning.recognizes(str(version))
    record = bring()
    assert record.key == "digits/version_3"
    assert [(row["step"], row["loss"]) for row in record.rows()] == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert record.params["lr"] == 0.1
    assert [entry["path"] for entry in record.artifacts] == [
        "artifacts/checkpoints/epoch=2-step=15.ckpt"
    ]


def test_other_folders_are_not_recognized(version, tmp_path):
    assert not lightning.recognizes(str(version))
    assert not lightning.recognizes(str(version.parent))
    (tmp_path / "metrics.csv").write_text(METRICS)
    assert not lightning.recognizes(str(tmp_path))


BOMB = "".join(f"v{i}: &v{i} [{', '.join([f'*v{i - 1}' if i else 'x'] * 9)}]\n" for i in range(9))


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]", "[" * 5000, "a: 2001-99-99"])
def test_hparams_that_are_made_to_hurt_cost_only_themselves(text, version, bring, not_carried):
    pytest.importorskip("yaml", reason="pip install pyyaml")
    (version / "metrics.csv").write_text(METRICS)
    (version / "hparams.yaml").write_text(text)
    record = bring()
    assert len(record.rows()) == 4
    assert record.params == {}
    assert any(said.startswith("hparams.yaml: it cannot be read") for said in not_carried(record))


def test_a_table_that_is_a_link_is_not_read(version, tmp_path):
    (tmp_path / "private.csv").write_text(METRICS)
    (version / "metrics.csv").symlink_to(tmp_path / "private.csv")
    assert not lightning.recognizes(str(version))
