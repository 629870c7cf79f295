import os
import shutil

from experiment_tracking.folder import layout
from experiment_tracking.registry.registry import ExperimentRegistry
from experiment_tracking.upkeep.usage import KINDS, usage


def sizes(folder):
    """Bytes of all files, by the first part of their path inside the run."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            top = path.relative_to(folder).parts[0]
            found[top] = found.get(top, 0) + path.stat().st_size
    return found


def test_the_bytes_of_a_run_are_counted_by_what_they_are_for(root, tracker):
    tracker = tracker()
    run = tracker.start_run("full")
    run.log_metrics({"loss": 1.0}, step=0)
    run.log_text("x" * 5000, "remarks")
    run.end_run()
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard" / "events.out.tfevents.1").write_bytes(b"x" * 7000)
    (run.path / "console.log").write_bytes(b"x" * 300)
    (row,) = usage(ExperimentRegistry(root).list_experiments())
    real = sizes(run.path)
    assert row.kinds == {
        "tensorboard": 7000,
        "artifacts": 5000,
        "other": sum(real[name] for name in real if name.endswith(".json"))
        - real["metrics_history.json"],
        "console": 300,
        "history": real["metrics_history.json"],
    }
    assert row.key == "digits/full"
    assert row.size_bytes == sum(real.values())
    assert row.files == sum(1 for path in run.path.rglob("*") if path.is_file())
    assert list(row.kinds.values()) == sorted(row.kinds.values(), reverse=True)
    assert row.kinds.keys() <= set(KINDS)


def test_links_are_not_followed(track, tmp_path):
    run = track("linked")
    (tmp_path / "damaged").touch()
    (tmp_path / "huge").write_bytes(b"x" * 10**6)
    before = usage([run.path])[0]
    (run.path / "artifacts").mkdir()
    os.symlink(tmp_path, run.path / "artifacts" / "folder")
    os.symlink(tmp_path / "huge", run.path / "artifacts" / "file")
    after = usage([run.path])[0]
    assert after.files == before.files + 2
    assert after.size_bytes - before.size_bytes < 1000


def test_a_file_with_several_names_counts_once(track, root):
    runs = [track(name) for name in ("a", "b")]
    alone = [row.size_bytes for row in usage(run.path for run in runs)]
    for run in runs:
        (run.path / "code").mkdir()
    (runs[0].path / "code" / "one").write_bytes(b"x" * 4000)
    os.link(runs[0].path / "code" / "one", runs[0].path / "code" / "two")
    os.link(runs[0].path / "code" / "one", runs[1].path / "code" / "three")
    first, second = usage(run.path for run in runs)
    assert (first.size_bytes, second.size_bytes) == (alone[0] + 4000, alone[1])


def test_weights_that_a_registered_version_has_too_count_once_and_are_not_freed(models, root):
    run, net = root / "digits" / "one", root / "_models" / "net"
    [weights] = {file.stat().st_size for file in net.rglob("weights-*")}
    (alone,) = usage([run])
    assert alone.shared_bytes == 2 * weights  # of the last save and of the one before it
    assert alone.freed_bytes == alone.size_bytes - 2 * weights
    with_run, model = usage([run, *layout.iter_models(str(root))])
    assert (with_run.size_bytes, with_run.shared_bytes) == (alone.size_bytes, 0)
    assert model.key == "_models/net"
    assert model.size_bytes == sum(f.stat().st_size for f in net.rglob("*.json"))
    (measured,) = usage(layout.iter_models(str(root)))
    documents = sum(file.stat().st_size for file in (net / "versions").rglob("*.json"))
    assert measured.kinds["models"] == 2 * weights + documents


def test_a_damaged_run_is_measured_and_a_missing_one_takes_nothing(track, damage, root):
    run = track("broken", rows=[{"loss": 1.0}])
    damage(run, "{no json")
    broken, missing = usage([run.path, root / "digits" / "gone"])
    assert broken.size_bytes == sum(sizes(run.path).values())
    assert (missing.size_bytes, missing.files, missing.kinds) == (0, 0, {})


def test_a_folder_that_cannot_be_listed_is_named(track, tmp_path):
    run = track("odd")
    (tmp_path / "damaged").touch()
    # A folder that loops is refused by every user's system; one without rights not by root's.
    os.symlink("loop", run.path / "loop")
    problems = []
    (row,) = usage([run.path / "loop"], problems)
    assert row.files == 0
    assert [problem.path for problem in problems] == [str(run.path / "loop")]


def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_counts(track):
    run = track("deep")
    here = os.open(run.path, os.O_RDONLY)
    try:
        for _ in range(20):  # further than a path may lead
            os.mkdir("d" * 250, dir_fd=here)
            deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
    finally:
        os.close(here)
    problems = []
    (measured,) = usage([run.path], problems)
    assert measured.size_bytes == sum(f.stat().st_size for f in run.path.iterdir() if f.is_file())
    assert len(problems) == 1
    shutil.rmtree(run.path)
