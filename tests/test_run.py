import argparse
import dataclasses
import datetime
import enum
import hashlib
import json
import math
import os
import pathlib
import subprocess
import sys
import threading
import warnings

import pytest

from experiment_tracking import ExperimentConfig, ExperimentTracker, PINNMetrics
from experiment_tracking.errors import (
    ExperimentTrackingError,
    InvalidNameError,
    InvalidTypeError,
    InvalidValueError,
    RunEndedError,
    WriteError,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.history import HistoryReader, metric_values
from experiment_tracking.formats.models.saved import SavedModel


@pytest.fixture
def run(root):
    return tracker(root).start_run("r")


def tracker(root, **options):
    options = {"use_tensorboard": False, "auto_log": False} | options
    return ExperimentTracker("p", root=root, **options)


def rows(run):
    return HistoryReader(str(run.path / "metrics_history.json")).rows()


def metrics(run):
    return [metric_values(row) for row in rows(run)]


def document(run, name):
    return json.loads((run.path / f"{name}.json").read_text())


def artifacts(run):
    if not (run.path / "artifacts.json").exists():  # made with the first file
        return {}
    return {entry["path"]: entry for entry in document(run, "artifacts")["artifacts"]}


# ---------------------------------------------------------------------- metrics


def test_a_row_is_on_disk_when_the_call_returns(run):
    run.log_metrics({"loss": 0.5, "val/acc": 1}, step=3, timestamp=1763640000.5)
    expected = [{"step": 3, "time": 1763640000.5, "loss": 0.5, "val/acc": 1}]
    assert json.loads((run.path / "metrics_history.json").read_text()) == expected


def test_log_metric_logs_one_number(run):
    run.log_metric("loss", 0.25, 7)
    run.log_metric("loss", 0.125)
    assert [(r["step"], r["loss"]) for r in rows(run)] == [(7, 0.25), (8, 0.125)]


def test_steps_may_repeat_and_go_back_and_no_step_goes_on_behind_the_last_row(run):
    for step in (5, 5, 2, None, -4, None, 10.0, None):
        run.log_metrics({"x": 1.0}, step=step)
    assert [r["step"] for r in rows(run)] == [5, 5, 2, 3, -4, -3, 10, 11]


def test_a_step_in_the_mapping_serves_as_the_step(run):
    run.log_metrics({"loss": 1.0, "step": 4})
    run.log_metrics({"loss": 1.0, "step": 6}, step=6)
    assert [(r["step"], metric_values(r)) for r in rows(run)] == [
        (4, {"loss": 1}),
        (6, {"loss": 1}),
    ]


def test_a_step_in_the_mapping_that_differs_from_the_argument_is_refused(run):
    with pytest.raises(InvalidValueError, match=r"step=3 and an entry 'step' of 4"):
        run.log_metrics({"loss": 1.0, "step": 4}, step=3)
    assert rows(run) == []


@pytest.mark.parametrize("step", ["3", 2.5, math.nan, None.__class__, [1], 1j])
def test_what_is_no_whole_number_is_no_step(run, step):
    with pytest.raises(InvalidTypeError, match="step must be a whole number"):
        run.log_metrics({"loss": 1.0}, step=step)
    assert rows(run) == []


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, 1e300])
def test_a_step_beyond_64_bits_is_refused_on_the_first_and_on_later_calls(run, step):
    for _ in range(2):
        with pytest.raises(InvalidValueError, match="64 bits"):
            run.log_metrics({"loss": 1.0}, step=step)
        run.log_metrics({"loss": 1.0}, step=0)
    assert [r["step"] for r in rows(run)] == [0, 0]


def test_nan_and_infinities_come_back_exact(run):
    for _ in range(2):  # the checked way, then the quick one
        run.log_metrics({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.1})
    first, second = metrics(run)
    for row in (first, second):
        assert math.isnan(row["a"])
        assert (row["b"], row["c"], row["d"]) == (math.inf, -math.inf, 0.1)
    json.loads((run.path / "metrics_history.json").read_text(), parse_constant=pytest.fail)


def test_one_four_and_a_thousand_metrics_a_row_come_back(run):
    for count in (1, 4, 1000):
        run.log_metrics({f"m{i}": i / 7 for i in range(count)})
    assert metrics(run) == [{f"m{i}": i / 7 for i in range(count)} for count in (1, 4, 1000)]


@pytest.mark.parametrize(
    "name", ["train/loss", "β", "a b", 'say "hi"\n', ":null", "日本", "x" * 500]
)
def test_any_text_may_name_a_metric(run, name):
    for value in (1.5, math.nan, 2.5):
        run.log_metrics({name: value})
    assert [row[name] for row in metrics(run)][::2] == [1.5, 2.5]


def test_reserved_names_are_stored_under_another_with_one_notice_each(run, capsys):
    for value in range(3):
        run.log_metrics({"time": 10 + value, "attempt": 20, "rank": 30, "loss": 1.0}, timestamp=9.0)
    assert rows(run)[2] == {
        "step": 2, "time": 9.0, "metric:time": 12, "metric:attempt": 20, "metric:rank": 30,
        "loss": 1.0,
    }  # fmt: skip
    noted = capsys.readouterr().err
    assert [noted.count(f"metric {name!r} is stored") for name in ("time", "attempt", "rank")] == [
        1, 1, 1,
    ]  # fmt: skip
    run.end_run()
    assert document(run, "summary")["metrics"]["metric:time"]["last"] == 12


@pytest.mark.parametrize("name", ["", "  ", 3, None, ("a",), "\ud800"])
def test_a_metric_without_a_proper_name_is_refused(run, name):
    with pytest.raises(InvalidNameError):
        run.log_metrics({"fine": 1.0, name: 1.0})
    assert rows(run) == []


@pytest.mark.parametrize("value", [None, "0.5", b"1", 1j, object(), [1.0], {"a": 1}])
def test_what_is_no_number_is_no_metric(run, value):
    run.log_metrics({"loss": 1.0})
    with pytest.raises(InvalidTypeError, match="Metric 'loss'"):
        run.log_metrics({"loss": value})
    assert len(rows(run)) == 1


@pytest.mark.parametrize("given", [[("a", 1)], 0.5, None, "loss"])
def test_log_metrics_takes_a_mapping_alone(run, given):
    with pytest.raises(InvalidTypeError, match="takes a mapping"):
        run.log_metrics(given)


def test_an_empty_row_is_refused(run):
    for empty in ({}, {"step": 3}):
        with pytest.raises(InvalidValueError, match="no metric"):
            run.log_metrics(empty)
    assert rows(run) == []


def test_booleans_fractions_and_huge_integers_become_numbers(run):
    from decimal import Decimal
    from fractions import Fraction

    given = {"b": True, "f": Fraction(1, 4), "d": Decimal("0.5"), "big": 2**70}
    for _ in range(2):
        run.log_metrics(given)
    assert metrics(run) == [{"b": 1, "f": 0.25, "d": 0.5, "big": float(2**70)}] * 2


@pytest.mark.parametrize("timestamp", [1763640000123, -1.0, math.nan, "now"])
def test_a_timestamp_that_cannot_be_seconds_is_refused(run, timestamp):
    with pytest.raises(ExperimentTrackingError, match=r"[Tt]imestamp"):
        run.log_metrics({"loss": 1.0}, timestamp=timestamp)
    assert rows(run) == []


def test_numpy_scalars_of_both_shapes_are_metrics(run):
    np = pytest.importorskip("numpy")
    for value in (np.float32(0.5), np.int64(2), np.bool_(True), np.array(1.5), np.array([2.5])):
        run.log_metrics({"x": value}, step=np.int32(4))
    assert [row["x"] for row in metrics(run)] == [0.5, 2, 1, 1.5, 2.5]
    assert {row["step"] for row in rows(run)} == {4}


def test_torch_scalars_are_metrics(run):
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    loss = (torch.ones(1, requires_grad=True) * 0.5).sum()
    run.log_metrics({"loss": loss, "one": torch.tensor([3])}, step=torch.tensor(9))
    assert (rows(run)[0]["step"], metrics(run)) == (9, [{"loss": 0.5, "one": 3}])


def test_jax_scalars_are_metrics(run):
    jnp = pytest.importorskip("jax.numpy", reason="pip install jax")
    run.log_metrics({"loss": jnp.float32(0.5), "one": jnp.ones((1,))}, step=jnp.int32(9))
    assert (rows(run)[0]["step"], metrics(run)) == (9, [{"loss": 0.5, "one": 1}])


@pytest.mark.parametrize("shape", [(3,), (1, 1), (0,), (2, 2)])
def test_a_vector_says_what_to_do_instead(run, shape):
    np = pytest.importorskip("numpy")
    with pytest.raises(InvalidTypeError, match=r"shape \(.*\.mean\(\).*log_histogram"):
        run.log_metrics({"grad": np.zeros(shape)})
    assert rows(run) == []


def test_logging_imports_no_array_package(tmp_path):
    """Scalars are known by their shape and ``item()``."""
    code = f"""
import sys
from experiment_tracking import ExperimentTracker

class Scalar:
    shape, dtype = (1,), "float32"
    def item(self):
        return 0.5

with ExperimentTracker("p", root={str(tmp_path / "r")!r}) as tracker:
    tracker.log_params({{"lr": Scalar(), "a": [1, {{"b": None}}]}})
    tracker.log_metrics({{"loss": Scalar(), "x": 1}}, step=0)
    tracker.set_tags("baseline")
    tracker.log_text("hello", "note")
    tracker.log_dict({{"a": 1}}, "facts")
loaded = {{"numpy", "torch", "jax", "pandas", "matplotlib", "PIL"}} & set(sys.modules)
sys.exit(f"imported {{loaded}}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_physics_metrics_bear_their_prefix_or_the_one_that_is_given(run):
    measured = PINNMetrics(pde_residual=0.1, bc_violation=0.2, ic_violation=0.3, total_loss=0.6)
    run.log_physics_metrics(measured, step=1)
    run.log_physics_metrics(measured, 2, "val")
    plain = {"pde_residual": 0.1, "bc_violation": 0.2, "ic_violation": 0.3, "total_loss": 0.6}
    assert metrics(run) == [
        {f"{prefix}/{n}": v for n, v in plain.items()} for prefix in ("pinn", "val")
    ]


def test_log_physics_metrics_names_what_it_takes(run):
    with pytest.raises(InvalidTypeError, match="PINNMetrics"):
        run.log_physics_metrics({"pde_residual": 0.1})


def test_define_metric_gives_a_goal_and_takes_one_away(run):
    run.define_metric("speed", goal="Maximise")
    run.define_metric("loss", None)
    for value in (1.0, 3.0, 2.0):
        run.log_metrics({"speed": value, "loss": value, "val/loss": value})
    run.end_run()
    found = document(run, "summary")["metrics"]
    assert (found["speed"]["goal"], found["speed"]["best"], found["speed"]["best_step"]) == (
        "maximize", 3.0, 1,
    )  # fmt: skip
    assert "best" not in found["loss"]
    assert (found["val/loss"]["goal"], found["val/loss"]["best"]) == ("minimize", 1.0)


@pytest.mark.parametrize("goal", ["up", 1, True])
def test_an_unknown_goal_is_refused(run, goal):
    with pytest.raises(InvalidValueError, match="'minimize', 'maximize' or None"):
        run.define_metric("loss", goal)


def test_sixteen_threads_lose_no_row_of_one_run(run):
    def log(number):
        for step in range(200):
            run.log_metrics({f"m{number}": step}, step=step)

    threads = [threading.Thread(target=log, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.end_run()
    found = document(run, "summary")["metrics"]
    assert {name: m["count"] for name, m in found.items()} == {f"m{n}": 200 for n in range(16)}


# ---------------------------------------------------------------------- params, tags, notes


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Options:
    lr: float = 0.1
    inner: dict = dataclasses.field(default_factory=lambda: {"depth": 3})


def test_params_are_kept_nested_as_given(run):
    given = {"lr": 0.1, "net": {"widths": [8, 16], "act": None, "deep": {"on": True}}, "n": 2**80}
    run.log_params(given)
    run.log_param("name", "β")
    assert document(run, "params") == given | {"name": "β"} == run.params


def test_the_params_that_a_run_shows_are_a_copy(run):
    run.log_params({"net": {"depth": 3}})
    run.params["net"]["depth"] = 4
    assert run.params == {"net": {"depth": 3}}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (Options(), {"lr": 0.1, "inner": {"depth": 3}}),
        (argparse.Namespace(lr=0.5, path=pathlib.Path("a/b")), {"lr": 0.5, "path": "a/b"}),
        ({1: "one", None: 2, Colour.RED: 3}, {"1": "one", "None": 2, "red": 3}),
        ({"day": datetime.date(2026, 1, 2), "c": Colour.RED}, {"day": "2026-01-02", "c": "red"}),
        (
            {"fn": len, "set": {2, 1}, "t": (1, 2)},
            {"fn": "builtins.len", "set": [1, 2], "t": [1, 2]},
        ),
        ({"nan": math.nan, "inf": -math.inf}, {"nan": "NaN", "inf": "-Infinity"}),
        (None, {}),
    ],
)
def test_params_take_a_plain_form(run, given, kept):
    run.log_params(given)
    assert document(run, "params") == kept


def test_an_experiment_config_is_kept_by_its_fields(run):
    config = ExperimentConfig(
        framework="pytorch", domain="pinn", model_type="mlp", learning_rate=0.1, batch_size=8,
        num_epochs=2,
    )  # fmt: skip
    run.log_params(config)
    kept = document(run, "params")
    assert (kept["framework"], kept["domain"], kept["learning_rate"]) == ("pytorch", "pinn", 0.1)


def test_arrays_in_params_become_shape_and_dtype(run):
    np = pytest.importorskip("numpy")
    run.log_params({"w": np.zeros((2, 3), "float32"), "lr": np.float64(0.1), "d": np.dtype("int8")})
    assert document(run, "params") == {
        "w": {"shape": [2, 3], "dtype": "float32"}, "lr": 0.1, "d": "int8",
    }  # fmt: skip


def test_a_long_repr_is_cut_with_one_notice(run, capsys):
    class Long:
        def __repr__(self):
            return "x" * 5000

    run.log_params({"net": Long()})
    assert len(document(run, "params")["net"]) == 1000
    assert capsys.readouterr().err.count("it was cut") == 1


def test_a_replaced_param_leaves_its_old_value_in_an_amendment(run):
    run.log_params({"lr": 0.1, "seed": 1})
    run.log_params({"lr": 0.1})
    run.log_params({"lr": 0.2})
    run.log_param("lr", {"start": 0.3})
    assert document(run, "params") == {"lr": {"start": 0.3}, "seed": 1}
    kept = [json.loads(p.read_text()) for p in sorted((run.path / "amendments").iterdir())]
    assert [(a["kind"], a["name"], a["old"], a["new"]) for a in kept] == [
        ("param", "lr", 0.1, 0.2), ("param", "lr", 0.2, {"start": 0.3}),
    ]  # fmt: skip
    assert all(a["at"].endswith("Z") and a["by"] for a in kept)


def cyclic_list():
    a = []
    a.append(a)
    return a


def deep(levels):
    return {"a": deep(levels - 1)} if levels else 0


@pytest.mark.parametrize("bad", [cyclic_list(), deep(60), {"\ud800": 1}])
def test_bad_params_raise_and_keep_nothing_of_the_call(run, bad):
    run.log_params({"lr": 0.1})
    with pytest.raises(ExperimentTrackingError):
        run.log_params({"lr": 0.2, "bad": bad})
    assert document(run, "params") == {"lr": 0.1}
    assert not (run.path / "amendments").exists()


@pytest.mark.parametrize("bad", [3, "lr=1", [1, 2], Options])
def test_params_must_be_a_mapping_or_like_one(run, bad):
    with pytest.raises(InvalidTypeError, match="Params must be"):
        run.log_params(bad)


def test_tags_are_a_mapping_of_text_to_text(run):
    run.set_tags({"model": "resnet", "depth": 3, "pretrained": True, "note": None, "big": 2**70})
    run.set_tags("baseline")
    run.set_tags(["a", "b"])
    run.set_tags({"model": "vit"})
    run.remove_tags("a", "never-there")
    expected = {
        "model": "vit", "depth": "3", "pretrained": "true", "note": "", "big": str(2**70),
        "baseline": "", "b": "",
    }  # fmt: skip
    assert run.tags == document(run, "summary")["tags"] == expected


@pytest.mark.parametrize("bad", [3, [["a"]], 0.5])
def test_what_cannot_be_tags_is_refused(run, bad):
    with pytest.raises(InvalidTypeError, match="Tags must be"):
        run.set_tags(bad)


def test_notes_are_replaced_by_assignment(root):
    run = tracker(root, notes="first").start_run("r")
    assert run.notes == "first"
    run.notes = "second\nline β"
    assert document(run, "summary")["notes"] == "second\nline β"
    with pytest.raises(InvalidTypeError, match="notes must be text"):
        run.notes = 3


def test_half_surrogates_in_texts_never_keep_a_run_from_ending(root):
    with pytest.raises(ValueError), tracker(root).start_run("r") as run:
        run.notes = "a\udcffb"
        run.set_tags({"t": "\udcff"})
        run.log_text("\udcff", "text")
        raise ValueError("file \udcff is missing")
    summary = document(run, "summary")
    assert (summary["status"], summary["error"]["type"]) == ("failed", "ValueError")
    assert summary["notes"] == r"a\udcffb"


# ---------------------------------------------------------------------- files


def test_text_dict_table_and_histogram_lie_in_artifacts_with_hash_and_step(run):
    run.log_text("héllo", "notes")
    run.log_text("# Title", "report.md", step=3)
    run.log_dict({"a": {"b": math.inf}, "p": pathlib.Path("x")}, "facts")
    run.log_table([{"x": 1, "y": "a"}, {"x": 2}], "rows")
    run.log_table({"x": [1, 2], "y": [3.5, None]}, "columns.json", step=7)
    run.log_histogram([1.0, 2.0, 2.0, math.nan], "deep/weights", step=2, bins=4)
    kept = artifacts(run)
    assert list(kept) == [
        "artifacts/notes.txt", "artifacts/report-000003.md", "artifacts/facts.json",
        "artifacts/rows.csv", "artifacts/columns-000007.json",
        "artifacts/deep/weights-000002.json",
    ]  # fmt: skip
    assert [(e["kind"], e["step"]) for e in kept.values()] == [
        ("text", None), ("text", 3), ("dict", None), ("table", None), ("table", 7),
        ("histogram", 2),
    ]  # fmt: skip
    for path, entry in kept.items():
        data = (run.path / path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (
            entry["size_bytes"],
            entry["sha256"],
        )
    assert (run.path / "artifacts/notes.txt").read_text() == "héllo"
    assert json.loads((run.path / "artifacts/facts.json").read_text()) == {
        "a": {"b": "Infinity"}, "p": "x",
    }  # fmt: skip
    assert (run.path / "artifacts/rows.csv").read_text().split() == ["x,y", "1,a", "2,"]
    assert (
        sum(json.loads((run.path / "artifacts/deep/weights-000002.json").read_text())["counts"])
        == 3
    )


def test_a_data_frame_becomes_csv(run):
    pd = pytest.importorskip("pandas")
    path = run.log_table(pd.DataFrame({"x": [1, 2], "y": [0.5, None]}), "frame.csv")
    assert path == run.path / "artifacts/frame.csv"
    assert pd.read_csv(path)["x"].tolist() == [1, 2]


def test_a_matplotlib_figure_becomes_png(run):
    matplotlib = pytest.importorskip("matplotlib", reason="pip install matplotlib")
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([1, 2])
    path = run.log_figure(figure, "val/curve", step=12)
    assert path == run.path / "figures/val/curve-000012.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert artifacts(run)["figures/val/curve-000012.png"]["kind"] == "figure"


def test_anything_with_savefig_is_a_figure(run):
    class Plot:
        def savefig(self, target, **options):
            target.write(b"\x89PNG\r\n\x1a\n fake")

    assert run.log_figure(Plot(), "plot").read_bytes() == b"\x89PNG\r\n\x1a\n fake"


def test_a_plotly_figure_becomes_html(run):
    go = pytest.importorskip("plotly.graph_objects", reason="pip install plotly")
    path = run.log_figure(go.Figure(go.Scatter(y=[1, 2])), "curve")
    assert path.name == "curve.html"
    assert b"plotly" in path.read_bytes()


def test_an_array_becomes_an_image(run):
    np = pytest.importorskip("numpy")
    image = pytest.importorskip("PIL.Image", reason="pip install Pillow")
    path = run.log_image(np.full((4, 5, 3), 200, "uint8"), "sample", step=1.0)
    with image.open(path) as picture:
        assert picture.size == (5, 4)
    assert artifacts(run)["figures/sample-000001.png"]["kind"] == "image"


def test_a_figure_of_no_known_kind_is_refused(run):
    with pytest.raises(InvalidTypeError):
        run.log_figure({"not": "a figure"}, "x")
    assert artifacts(run) == {}


def test_a_file_is_copied_and_replaced_by_a_later_one_of_the_same_name(run, tmp_path):
    source = tmp_path / "data.csv"
    source.write_text("1")
    run.log_artifact(source, "dataset", "the first", step=1)
    source.write_text("22")
    kept = run.log_artifact(str(source), description="the second")
    assert kept == run.path / "artifacts/data.csv"
    assert kept.read_text() == "22"
    (entry,) = artifacts(run).values()
    assert (entry["kind"], entry["description"], entry["size_bytes"]) == (
        "artifact",
        "the second",
        2,
    )


def test_a_folder_is_copied_whole_under_relative_paths(run, tmp_path):
    folder = tmp_path / "checkpoint"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deep/er/__init__.py").write_text("")
    (folder / "latest.txt").symlink_to("a.txt")
    (folder / "loop").symlink_to("deep")
    run.log_artifact(folder, name="best/ckpt")
    assert list(artifacts(run)) == [
        "artifacts/best/ckpt/a.txt", "artifacts/best/ckpt/deep/er/__init__.py",
        "artifacts/best/ckpt/latest.txt",
    ]  # fmt: skip
    copied = run.path / "artifacts/best/ckpt/latest.txt"
    assert copied.read_text() == "a"
    assert not copied.is_symlink()


@pytest.mark.parametrize("target", ["secret.txt", "outside"])
def test_a_link_out_of_a_folder_is_refused_and_nothing_is_copied(run, tmp_path, target):
    (tmp_path / "outside").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "link").symlink_to(tmp_path / target)
    with pytest.raises(InvalidValueError, match="link out of"):
        run.log_artifact(folder)
    assert artifacts(run) == {}


def test_a_file_name_that_is_not_utf8_does_not_spoil_the_list_of_artifacts(run, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / os.fsdecode(b"bad\xff.txt")).write_text("x")
    with pytest.raises(InvalidNameError, match="UTF-8"):
        run.log_artifact(folder)
    run.log_text("still works", "note")
    assert list(artifacts(run)) == ["artifacts/note.txt"]


def test_what_is_neither_file_nor_folder_is_refused(run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path / "pipe", "a\0b"):
        with pytest.raises(InvalidValueError, match="no file or folder"):
            run.log_artifact(path)
    with pytest.raises(InvalidTypeError, match="takes a path"):
        run.log_artifact(None)


BAD_NAMES = ["", "../up", "a/../b", "/etc/x", "a\0b", "CON", "x" * 300, "a//b", ".hidden", 3, None]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_file_name_is_refused_and_nothing_is_written(run, tmp_path, name):
    (tmp_path / "f").write_text("x")
    before = sorted(run.path.rglob("*"))
    for call in (
        lambda: run.log_text("x", name),
        lambda: run.log_dict({}, name),
        lambda: run.log_table([{"a": 1}], name),
        lambda: run.log_histogram([1.0], name),
        lambda: run.log_model({"w": 1}, name),
    ):
        with pytest.raises(InvalidNameError):
            call()
    if name:
        with pytest.raises(InvalidNameError):
            run.log_artifact(tmp_path / "f", name=name)
    assert sorted(run.path.rglob("*")) == before


def test_a_name_that_would_be_a_file_and_a_folder_at_once_is_refused(run, tmp_path):
    run.log_text("x", "note.txt")
    run.log_text("y", "deep/note.txt")
    for name in ("note.txt/inner.txt", "deep"):
        with pytest.raises(InvalidNameError, match="a file and a folder at once"):
            run.log_artifact(__file__, name=name)
    run.end_run()
    assert "lost" not in document(run, "summary")


def test_a_tree_of_arrays_comes_back_and_the_save_before_the_last_one_stays(run):
    np = pytest.importorskip("numpy")
    for number in range(4):
        tree = {"w": np.full((2, 2), number, "float32"), "b": [np.zeros(1), number], "n": None}
        folder = run.log_model(tree, metadata={"epoch": number}, step=number)
    assert folder == run.path / "models/model"
    names = ["model.json", "weights-000003.safetensors", "weights-000004.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert sorted(artifacts(run)) == [f"models/model/{name}" for name in names]
    loaded = SavedModel(folder).load()
    assert loaded["w"].tolist() == [[3, 3], [3, 3]]
    assert (loaded["b"][1], loaded["n"]) == (3, None)
    described = document(run, "models/model/model")
    assert (described["metadata"], described["step"]) == ({"epoch": 3}, 3)
    assert SavedModel(folder, step=2).load()["b"][1] == 2


def test_a_model_takes_the_step_of_the_last_row_and_none_before_the_first(run):
    run.log_model({"w": [1.0]}, "first")
    run.log_metrics({"loss": 1.0}, step=7)
    run.log_model({"w": [1.0]}, "second")
    steps = [
        SavedModel(run.path / "models" / name).document["step"] for name in ("first", "second")
    ]
    assert steps == [None, 7]


def test_a_model_may_stand_in_the_folder_of_another(run):
    np = pytest.importorskip("numpy")
    inner = run.log_model({"w": np.ones(2)}, "net/encoder")
    for _ in range(3):
        run.log_model({"w": np.zeros(3)}, "net")
    assert SavedModel(inner).load()["w"].tolist() == [1, 1]
    assert SavedModel(run.path / "models/net").load()["w"].tolist() == [0, 0, 0]


def test_a_model_whose_document_would_be_a_folder_is_refused_and_leaves_nothing(run):
    run.log_model({"w": [1.0]}, "net/model.json")
    with pytest.raises(InvalidNameError, match="a file and a folder at once"):
        run.log_model({"w": [1.0]}, "net")
    assert os.listdir(run.path / "models/net") == ["model.json"]
    assert len(artifacts(run)) == 2
    run.end_run()
    assert "lost" not in document(run, "summary")


def test_what_no_format_takes_is_refused_with_what_to_do(run):
    with pytest.raises(InvalidTypeError, match="allow_unsafe=True"):
        run.log_model(object())
    with pytest.raises(InvalidValueError, match="save_optimizer_state"):
        run.log_model({}, save_optimizer_state=True)
    assert not (run.path / "models").exists()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"keep": 0}, "keep="), ({"keep": True}, "keep="), ({"keep": "2"}, "keep="),
        ({"keep_best": "loss"}, "keep_best="), ({"keep_best": ("loss", 0)}, "keep_best="),
        ({"keep_best": ("loss", True)}, "keep_best="), ({"keep_best": (3, 3)}, "keep_best="),
        ({"keep_best": ("never", 1)}, "'never' has not been logged yet, logged are loss"),
        ({"keep_best": ("strange", 1)}, "define_metric"), ({"aliases": [3]}, "aliases"),
        ({"step": 1.5}, "step"), ({"signature": {"input": []}}, "signature"),
    ],
)  # fmt: skip
def test_a_wish_that_cannot_be_met_is_refused_before_anything_is_written(run, wrong, named):
    run.log_metrics({"loss": 1.0, "strange": 2.0})
    with pytest.raises((InvalidValueError, InvalidTypeError), match=named):
        run.log_model({"w": [1.0]}, **wrong)
    assert not (run.path / "models").exists()


# ---------------------------------------------------------------------- the disk refuses


@pytest.fixture
def full_disk(monkeypatch):
    """Make every replacement of a file fail while the switch is on."""
    switch = {"on": False}
    real = io.replace

    def replace(source, target):
        if switch["on"]:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(io, "replace", replace)
    return switch


def test_a_full_disk_is_one_warning_and_everything_but_the_files_arrives(run, full_disk, capsys):
    np = pytest.importorskip("numpy")
    run.log_model({"w": np.ones(1)})
    capsys.readouterr()
    full_disk["on"] = True
    run.log_params({"lr": 0.1})
    run.set_tags("tag")
    run.log_text("lost", "text")
    run.log_artifact(__file__)
    run.log_model({"w": np.zeros(1)})
    run.log_metrics({"loss": 1.0})
    full_disk["on"] = False
    run.end_run()
    assert capsys.readouterr().err.count("cannot write") == 1
    summary = document(run, "summary")
    assert summary["lost"] == {"files": 3}
    assert (document(run, "params"), summary["tags"]) == ({"lr": 0.1}, {"tag": ""})
    assert SavedModel(run.path / "models/model").load()["w"].tolist() == [1]


def test_on_error_raise_turns_a_refusing_disk_into_an_error(root, full_disk):
    run = tracker(root, on_error="raise").start_run("r")
    full_disk["on"] = True
    with pytest.raises(WriteError, match="No space left"):
        run.log_params({"lr": 0.1})
    with pytest.raises(WriteError, match="No space left"):
        run.log_text("x", "text")
    full_disk["on"] = False
    run.log_params({"lr": 0.2})
    run.end_run()
    assert document(run, "params") == {"lr": 0.2}


def test_on_error_raise_keeps_no_row_that_raised(root, monkeypatch):
    run = tracker(root, on_error="raise").start_run("r")
    run.log_metrics({"x": 1})

    def full(fd, data, offset):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(io, "pwrite", full)
        with pytest.raises(WriteError, match="cannot write rows"):
            run.log_metrics({"x": 2})
    run.log_metrics({"x": 3})
    run.end_run()
    assert [row["x"] for row in rows(run)] == [1, 3]
    assert "lost" not in document(run, "summary")


def test_a_model_is_published_only_once_its_weights_are_there(run, monkeypatch):
    np = pytest.importorskip("numpy")
    run.log_model({"w": np.ones(1)})
    real = io.replace

    def replace(source, target):
        if target.endswith("model.json"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(io, "replace", replace)
    folder = run.log_model({"w": np.zeros(1)})
    assert SavedModel(folder).load()["w"].tolist() == [1]


def test_a_folder_deleted_before_the_end_gets_its_rows_back(run, capsys):
    import shutil

    run.log_params({"lr": 0.1})
    run.log_metrics({"loss": 1.0})
    shutil.rmtree(run.path)
    run.log_metrics({"loss": 2.0})
    run.end_run()
    assert [row["loss"] for row in rows(run)] == [1.0, 2.0]
    assert (document(run, "summary")["status"], document(run, "params")) == (
        "finished",
        {"lr": 0.1},
    )
    assert capsys.readouterr().err.count("was deleted while it runs") == 1


# ---------------------------------------------------------------------- its end


def test_a_run_can_be_finished_by_the_trackers_word(make):
    run = make("p").start_run("r")
    run.finish("failed")
    assert run.status == "failed"
    with pytest.raises(RunEndedError):
        run.finish()


def test_a_finished_run_is_complete(root):
    run = ExperimentTracker("p", "r", root=root, config={"lr": 0.1}, tags="t").start_run("r")
    run.log_metrics({"loss": 1.0}, step=0)
    run.end_run()
    assert {p.name for p in run.path.iterdir()} - {"code"} == {
        "environment.json", "heartbeat.json", "metrics_history.json",
        "params.json", "summary.json", "tensorboard",
    }  # fmt: skip
    history = (run.path / "metrics_history.json").read_bytes()
    summary = document(run, "summary")
    assert summary["format"] == 1
    assert summary["history"] == {
        "digested_bytes": len(history) - 3, "rows": 1, "bytes": len(history),
        "sha256": hashlib.sha256(history).hexdigest(),
    }  # fmt: skip
    assert summary["created_at"] <= summary["ended_at"]
    assert summary["attempts"][0]["pid"] == os.getpid()
    assert {"packages", "git", "entry_script"} <= document(run, "environment").keys()


def test_a_run_without_rows_ends_well(run):
    run.end_run()
    history = (run.path / "metrics_history.json").read_bytes()
    assert history == b"[\n]\n"
    assert document(run, "summary")["history"]["sha256"] == hashlib.sha256(history).hexdigest()


def test_auto_log_off_keeps_params_metrics_and_status_alone(root):
    run = tracker(root, config={"a": 1}).start_run("r")
    run.end_run()
    assert {p.name for p in run.path.iterdir()} == {
        "heartbeat.json", "metrics_history.json", "params.json", "summary.json",
    }  # fmt: skip


def test_every_way_of_logging_after_the_end_is_refused(run, tmp_path):
    run.log_metrics({"loss": 1.0})
    run.end_run()
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    for call in (
        lambda: run.log_metrics({"loss": 1.0}),
        lambda: run.log_metrics({"new": 1}),
        lambda: run.log_param("a", 1),
        lambda: run.set_tags("a"),
        lambda: run.remove_tags("a"),
        lambda: run.define_metric("loss", "min"),
        lambda: run.log_text("a", "b"),
        lambda: run.log_dict({}, "b"),
        lambda: run.log_table([{"a": 1}], "b"),
        lambda: run.log_histogram([1.0], "b"),
        lambda: run.log_artifact(__file__),
        lambda: run.log_model({"w": 1}),
        lambda: setattr(run, "notes", "late"),
        run.end_run,
    ):
        with pytest.raises(RunEndedError, match="ended"):
            call()
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_a_run_says_who_it_is(run):
    assert (run.name, run.project, run.status) == ("r", "p", "running")
    assert len(run.id) == 16
    assert run.path.is_absolute()
    assert repr(run) == "<Run p/r running>"
    run.end_run("failed")
    assert run.status == "failed"


def test_logging_warns_nobody_through_the_warnings_module(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.log_metrics({"time": 1.0})
        run.end_run("nonsense")


@pytest.mark.parametrize("error", [ValueError, TypeError, OverflowError, TimeoutError, OSError])
def test_what_a_signal_handler_raises_comes_out_and_doubles_no_row(run, monkeypatch, error):
    run.log_metrics({"x": 0})
    real = io.pwrite

    def interrupted(*args):
        real(*args)
        raise error("the step took too long")

    with monkeypatch.context() as patched:
        patched.setattr(io, "pwrite", interrupted)
        with pytest.raises(error, match="too long"):
            run.log_metrics({"x": 1})
    run.log_metrics({"x": 2})
    assert [row["x"] for row in rows(run)] in ([0, 2], [0, 1, 2])


def test_a_value_of_another_type_is_a_change_of_a_param(run):
    run.log_params({"a": 1, "b": 1})
    run.log_params({"a": True, "b": 1})
    amendments = sorted((run.path / "amendments").iterdir())
    assert [json.loads(file.read_text())["old"] for file in amendments] == [1]


def test_two_names_that_read_the_same_are_refused(run):
    with pytest.raises(InvalidNameError, match="two names that read '1'"):
        run.log_params({1: "a", "1": "b"})
    assert run.params == {}


@pytest.mark.parametrize("value", [[1, 2], (1,), {"a": 1}])
def test_a_container_as_a_metric_says_what_to_do_instead(run, value):
    with pytest.raises(InvalidTypeError, match=r"one number\. Log one name per element"):
        run.log_metrics({"x": value})


def test_a_files_name_may_carry_the_ending_it_gets(run):
    import numpy as np

    assert run.log_image(np.zeros((4, 4)), "curve.png").name == "curve.png"
    assert run.log_image(np.zeros((4, 4)), "curve.png", step=3).name == "curve-000003.png"


def test_name_and_value_in_the_wrong_order_are_told_apart(run):
    with pytest.raises(InvalidNameError, match="comes first, then its name"):
        run.log_table("table", [{"a": 1}])


def test_the_last_step_says_where_to_go_on(root, run):
    assert run.last_step is None
    run.log_metrics({"x": 1}, step=41)
    assert run.last_step == 41
    run.end_run()
    resumed = tracker(root, resume="must").start_run("r")
    assert resumed.last_step == 41


def test_a_deleted_folder_without_params_comes_back_whole_with_one_notice(run, capfd):
    import shutil

    run.log_metrics({"x": 1})
    shutil.rmtree(run.path)
    run._writer._beat()
    run._writer._keep_durable()
    run.end_run()
    assert capfd.readouterr().err.count("experiment_tracking: ") == 1
    assert json.loads((run.path / "params.json").read_text()) == {}


def test_a_moved_folder_takes_its_event_files_and_its_children_along(root):
    run = tracker(root, use_tensorboard=True).start_run("r")
    run.log_metrics({"x": 1})
    old = run.path
    os.rename(old, root / "p" / "moved")
    run._writer._beat()
    assert os.environ["EXPERIMENT_TRACKING_RUN"] == str(root / "p" / "moved")
    run._writer.tensorboard.start_over(run._writer.digest)  # all events are written anew
    run.log_metrics({"x": 2})
    run.end_run()
    assert not old.exists()
    assert len(list((root / "p" / "moved" / "tensorboard").iterdir())) == 1
