import math
import os
import shutil

import numpy as np

from experiment_tracking.models.registry import ModelRegistry
from experiment_tracking.registry.edit import Edit
from experiment_tracking.registry.record import RunRecord


def test_a_version_stands_on_its_own_when_its_run_is_gone(registry, make, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("1,2\n")
    with make("digits").start_run("r", {"lr": 0.1, "net": {"depth": 3}}, ["fast"]) as run:
        run.log_input(data, "digits")
        run.log_metrics({"loss": 1.0, "time": 2.0}, step=0)
        run.log_metrics({"loss": 0.5}, step=1)
        run.log_model({"w": np.ones(2)}, "net")
        run.log_metrics({"loss": 0.25, "late": math.inf}, step=2)
    version = registry.register(run, "net")
    shutil.rmtree(run.path)
    version = registry.get("net")
    known = version.lineage
    assert (version.run, version.run_id) == ("digits/r", run.id)
    assert version.params == {"lr": 0.1, "net": {"depth": 3}}
    assert version.metrics == {"loss": 0.5, "time": 2.0, "late": math.inf}
    assert known["run_metrics"]["loss"]["best"] == 0.25
    assert known["run"]["status"] == "finished"
    assert known["run"]["path"] == "digits/r"
    assert known["run"]["tags"] == {"fast": ""}
    assert known["inputs"][0]["sha256"]
    assert known["model"]["framework"] == "arrays"
    assert known["model"]["step"] == 1
    np.testing.assert_array_equal(version.load()["w"], np.ones(2))


def test_corrections_of_the_run_count_and_those_after_the_registration_do_not(registry, train):
    run = train()
    Edit(RunRecord(run.path)).set_param("lr", 0.2)
    version = registry.register(run)
    Edit(RunRecord(run.path)).set_param("lr", 0.3)
    assert registry.get(version.key).params == {"lr": 0.2}


def test_a_record_read_long_before_is_read_again(registry, train):
    run = train()
    record = RunRecord(run.path)
    assert record.params == {"lr": 0.1}
    Edit(RunRecord(run.path)).set_param("lr", 0.2)
    assert registry.register(record).params == {"lr": 0.2}


def test_the_code_is_named_where_the_run_kept_it(registry, make, root):
    with make("digits").start_run("r") as run:
        run.log_model({"w": np.ones(2)})
    (run.path / "code").mkdir()
    assert registry.register(run).lineage["code"]["path"] == "digits/r/code"
    assert registry.register(run).lineage["code"]["commit"] is None


def test_paths_are_relative_also_where_the_root_is_given_through_a_link(train, root, tmp_path):
    run = train("a")
    os.symlink(root, tmp_path / "link")
    for given, path in ((tmp_path / "link", run.path), (root, tmp_path / "link" / "digits" / "a")):
        version = ModelRegistry(given).register(path, name="digits")
        assert version.lineage["run"]["path"] == "digits/a"
