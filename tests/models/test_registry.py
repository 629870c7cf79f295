import errno
import os
import threading

import numpy as np
import pytest

from experiment_tracking import ExperimentRegistry
from experiment_tracking import ModelRegistry as Public
from experiment_tracking.errors import (
    DamagedError,
    InvalidNameError,
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
    RootNotFoundError,
    RunNotFoundError,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.amendments import user_name
from experiment_tracking.models import publication
from experiment_tracking.models.registry import ModelRegistry
from experiment_tracking.registry.record import RunRecord


def numbers(versions):
    return [version.version for version in versions]


def events(registry):
    return [(event.kind, event.version) for event in registry.history("digits")]


# ---------------------------------------------------------------------- registering


def test_registering_makes_version_after_version(registry, train, weight):
    first, second = train("a", [0.5]), train("b", [0.9])
    version = registry.register(first, name="digits", by="ann")
    assert (version.name, version.version, version.stage) == ("digits", 1, "None")
    assert (version.run, version.run_id, version.by) == ("digits/a", first.id, "ann")
    assert registry.register(second, name="digits").version == 2
    assert registry.register(second, name="digits").version == 3
    assert [weight(f"digits/{number}") for number in (1, 2, 3)] == [0.5, 0.9, 0.9]
    assert registry.get("digits/2").by == user_name()


def test_the_front_door_has_it():
    assert Public is ModelRegistry


def test_a_run_is_given_as_itself_a_record_a_path_or_a_key(registry, train, root):
    run = train("a")
    for given in (run, RunRecord(run.path), run.path, str(run.path), "digits/a", "a", run.id):
        version = registry.register(given)
        assert (version.name, version.run_id) == ("model", run.id)
    with pytest.raises(RunNotFoundError):
        registry.register("digits/b")
    with pytest.raises(InvalidTypeError, match="found 3 of type int"):
        registry.register(3)


def test_a_run_may_still_be_running(registry, make, weight):
    with make("digits").start_run("r") as run:
        run.log_metrics({"loss": 0.5})
        run.log_model({"w": np.full(3, 0.5)}, "digits")
        version = registry.register(run, "digits")
        assert version.metrics == {"loss": 0.5}
        assert version.lineage["run"]["status"] == "running"
    assert weight("digits") == 0.5


def test_a_model_may_come_from_a_run_of_another_root(registry, train, tmp_path):
    run = train("a", [0.5])
    other = ModelRegistry(tmp_path / "other")
    version = other.register(RunRecord(run.path), name="digits")
    assert version.path == tmp_path / "other" / "_models" / "digits" / "versions" / "1"
    assert version.lineage["run"]["path"] == str(run.path)
    assert registry.list() == []


def test_the_best_save_is_taken_by_its_metric(registry, train, weight):
    run = train(accuracies=(0.5, 0.9, 0.7))
    version = registry.register(run, name="digits", best="val/accuracy")
    assert (weight("digits/1"), version.metrics["val/accuracy"]) == (0.9, 0.9)
    with pytest.raises(InvalidValueError, match="not both"):
        registry.register(run, name="digits", best="val/accuracy", step=1)


def test_a_model_is_registered_as_it_is_logged(registry, train, weight):
    train(registered_model_name="digits", aliases=("champion",))
    assert numbers(registry.versions("digits")) == [2, 1]
    assert weight("digits@champion") == 0.9


@pytest.mark.parametrize("wrong", [{"registered_model_name": "no/good"}, {"aliases": ["latest"]}])
def test_a_wrong_name_is_told_before_a_model_is_saved(make, wrong):
    with make("p").start_run("a") as run:
        with pytest.raises((InvalidNameError, InvalidValueError)):
            run.log_model({"w": np.ones(2)}, **{"registered_model_name": "digits", **wrong})
        assert not (run.path / "models").exists()


def test_a_full_disk_at_registering_does_not_stop_the_training(registry, make, monkeypatch, capsys):
    def refuse(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with make("p").start_run("a") as run:
        with monkeypatch.context() as patched:
            patched.setattr(publication, "publish", refuse)
            patched.setattr("experiment_tracking.models.registration.publish", refuse)
            run.log_model({"w": np.ones(2)}, registered_model_name="digits")
        run.log_metrics({"loss": 1.0})
    assert "No space left" in capsys.readouterr().err
    assert RunRecord(run.path).summary["lost"]["files"] == 1
    assert RunRecord(run.path).load_model()["w"].tolist() == [1, 1]
    assert registry.list() == []


def test_an_earlier_save_is_taken_by_its_step(registry, train, weight):
    run = train("a", [0.5, 0.9, 0.7])
    version = registry.register(run, name="digits", step=1)
    assert (weight(version.key), version.metrics) == (0.9, {"val/accuracy": 0.9})
    assert weight(registry.register(run, name="digits").key) == 0.7
    with pytest.raises(NotFoundError, match="no save of step 7 is kept"):
        registry.register(run, name="digits", step=7)


def test_what_is_said_with_the_registration_is_in_the_same_event(registry, train):
    run = train()
    registry.register(run, name="digits", aliases="champion")
    version = registry.register(
        run, name="digits", aliases=["champion", "best"], description="wide", tags={"n": 3}
    )
    assert (version.aliases, version.description, version.tags) == (
        ["best", "champion"], "wide", {"n": "3"},
    )  # fmt: skip
    assert registry.get("digits/1").aliases == []
    assert events(registry) == [("registered", 1), ("registered", 2)]


def test_a_run_without_that_model_shows_those_it_has(registry, train, root):
    with pytest.raises(NotFoundError, match=r"no model 'modle'\. Near: model"):
        registry.register(train(), "modle")
    assert not (root / "_models").exists()


@pytest.mark.parametrize(
    "options",
    [{"name": "../x"}, {"name": "a@b"}, {"name": "a/b"}, {"aliases": "3"}, {"tags": "a b"},
     {"description": 3}, {"by": ""}],
)  # fmt: skip
def test_a_name_or_word_that_may_not_be_is_refused_before_anything_is_written(
    registry, train, root, options
):
    with pytest.raises((InvalidNameError, InvalidTypeError)):
        registry.register(train(), **options)
    assert not (root / "_models").exists()


# ---------------------------------------------------------------------- getting


def test_versions_are_found_by_number_stage_alias_or_as_the_newest(registry, registered):
    registered(0.1, 0.2, 0.3, 0.4)
    registry.transition("digits", 1, "Production")
    registry.transition("digits", 2, "Staging")
    registry.set_alias("digits", "champion", 3)
    for reference, number in {
        "digits/3": 3, "digits/Production": 1, "digits/staging": 2, "digits@champion": 3,
        "digits": 4, "digits/latest": 4, "digits/none": 4, "models:/digits/1": 1,
        "models:/digits@champion": 3, "models:/digits/Production": 1,
    }.items():  # fmt: skip
        assert registry.get(reference).version == number, reference
        assert ModelRegistry(registry.root).get(reference).version == number
    assert registry.get(registry.get("digits/2")).version == 2


def test_what_is_not_there_shows_what_is(registry, registered, root):
    root.mkdir()
    with pytest.raises(NotFoundError, match=r"_models\. There are none yet\. Register one"):
        registry.get("digits")
    registered(0.1, 0.2)
    registry.set_alias("digits", "champion", 1)
    registry.transition("digits", 1, "Staging")
    for reference, said in {
        "digts": "Near: digits", "digits/7": "It has 1, 2", "digits@champ": "Near: champion",
        "digits/Production": "It has 2 in None, 1 in Staging",
    }.items():  # fmt: skip
        with pytest.raises(NotFoundError, match=said):
            registry.get(reference)
    with pytest.raises(InvalidNameError):
        registry.get("..")


def test_a_root_that_does_not_exist_is_told_and_not_made_by_reading(tmp_path):
    registry = ModelRegistry(tmp_path / "none")
    for call in (
        registry.list,
        lambda: registry.get("digits"),
        lambda: registry.versions("digits", deleted=True),
        lambda: registry.history("digits"),
        lambda: registry.policy("digits"),
        lambda: registry.transition("digits", 1, "Production"),
        lambda: registry.approve("digits", 1, "Production"),
        lambda: registry.restore("digits"),
        lambda: registry.register("p/r"),
    ):
        with pytest.raises(RootNotFoundError, match=f"no folder of experiments at {tmp_path}"):
            call()
    assert not (tmp_path / "none").exists()


def test_a_root_without_models_has_none_and_reading_writes_nothing(tmp_path):
    registry = ModelRegistry(tmp_path)
    assert registry.list() == []
    with pytest.raises(NotFoundError, match="no registered model 'digits'"):
        registry.versions("digits")
    assert list(tmp_path.iterdir()) == []


def test_a_registry_may_be_opened_before_a_run_makes_its_root(registry, train, root):
    assert not root.exists()
    assert registry.register(train(), name="digits").key == "digits/1"
    assert [model.name for model in registry.list()] == ["digits"]


def test_readers_change_nothing(registry, registered, root):
    registered(0.1)
    registry.transition("digits", 1, "Production")

    def all_files():
        paths = (root / "_models").rglob("*")
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}

    before = all_files()
    fresh = ModelRegistry(registry.root)
    fresh.list()
    fresh.load("digits/Production")
    fresh.compare("digits/1")
    fresh.history("digits")
    fresh.policy("digits")
    assert all_files() == before


def test_models_are_listed_by_name_and_what_is_none_is_passed_over(registry, train, root, damaged):
    run = train()
    for name in ("b", "a"):
        registry.register(run, name=name)
    above = root / "_models"
    (above / "notes.txt").write_text("x")
    (above / ".hidden").mkdir()
    (above / "bare" / "events").mkdir(parents=True)
    os.symlink(above / "a", above / "link")
    assert [model.name for model in registry.list()] == ["a", "b"]
    assert registry.problems == []
    with pytest.raises(DamagedError, match="is a link"):
        registry.get("link")


def test_one_model_that_cannot_be_read_hides_no_other(registry, train, root, damaged):
    run = train()
    for name in ("a", "b"):
        registry.register(run, name=name)
        registry.transition(name, 1, "Staging")
    (root / "_models" / "a" / "events" / "000001.json").write_text("{")
    fresh = ModelRegistry(root)
    assert [model.name for model in fresh.list()] == ["b"]
    (problem,) = fresh.problems
    assert problem.path == str(root / "_models" / "a")
    assert "000001.json is not JSON" in problem.reason
    with pytest.raises(DamagedError):
        fresh.get("a/1")
    (root / "_models" / "a" / "events" / "000001.json").unlink()
    assert ModelRegistry(root).list()[0].name == "b"


def test_a_listed_model_has_its_versions_and_aliases(registry, registered):
    registered(0.1, 0.2)
    registry.set_alias("digits", "champion", 1)
    registry.describe("digits", "handwriting")
    registry.set_tags("digits", {"task": "vision"})
    (model,) = registry.list()
    assert (model.description, model.tags) == ("handwriting", {"task": "vision"})
    assert (model.aliases, numbers(model.versions)) == ({"champion": 1}, [2, 1])
    assert model.latest.version == 2
    assert model.to_dict()["versions"][1]["run"] == "digits/run1"
    assert repr(model) == "<RegisteredModel digits of 2 versions>"


def test_two_registries_of_one_root_see_what_the_other_does(registry, registered):
    other = ModelRegistry(registry.root)
    registered(0.1)
    assert numbers(other.versions("digits")) == [1]
    registry.transition("digits", 1, "Staging")
    assert other.get("digits").stage == "Staging"
    other.transition("digits", 1, "Archived")
    assert registry.get("digits").stage == "Archived"


# ---------------------------------------------------------------------- stages


def test_a_move_archives_what_was_there_unless_told_otherwise(registry, registered):
    registered(0.1, 0.2, 0.3)
    registry.transition("digits", 1, "Production", by="ann", reason="first")
    moved = registry.transition("digits", "2", "production")
    assert (moved.version, moved.stage) == (2, "Production")
    assert registry.get("digits/1").stage == "Archived"
    registry.transition("digits", 3, "Production", archive_existing=False)
    assert numbers(registry.versions("digits", "Production")) == [3, 2]
    assert registry.get("digits/Production").version == 3
    said = [event for event in registry.history("digits") if event.kind == "transitioned"]
    assert [(e.by, e.known) for e in said] == [
        ("ann", {"stage": "Production", "from": "None", "reason": "first"}),
        (user_name(), {"stage": "Production", "from": "None", "archived": [1]}),
        (user_name(), {"stage": "Production", "from": "None"}),
    ]


def test_stages_that_serve_nobody_may_hold_many(registry, registered):
    registered(0.1, 0.2)
    for number in (1, 2):
        registry.transition("digits", number, "Archived")
    assert numbers(registry.versions("digits", "archived")) == [2, 1]
    registry.transition("digits", 1, None)
    assert registry.get("digits/None").version == 1


def test_a_move_to_where_it_is_leaves_no_event(registry, registered):
    registered(0.1)
    registry.transition("digits", 1, "Production")
    assert registry.transition("digits", 1, "PRODUCTION").stage == "Production"
    assert events(registry) == [("registered", 1), ("transitioned", 1)]


@pytest.mark.parametrize(
    ("version", "stage", "error"),
    [
        (7, "Production", NotFoundError),
        (1, "Prod", InvalidValueError),
        ("x", "Staging", InvalidValueError),
    ],
)
def test_a_move_that_makes_no_sense_is_refused(registry, registered, version, stage, error):
    registered(0.1)
    with pytest.raises(error):
        registry.transition("digits", version, stage)
    assert events(registry) == [("registered", 1)]


def test_the_bytes_are_looked_at_once_however_often_somebody_is_quicker(
    registry, registered, monkeypatch
):
    registered(0.1, 0.2)
    looked, others = [], iter("abc")
    real = type(registry.get("digits")).verify

    def verify(version):
        looked.append(version.key)
        real(version)

    other = ModelRegistry(registry.root)
    add = registry._store._log("digits").add

    def late(last, wish):
        for word in others:
            other.set_tags("digits", word)
            break
        return add(last, wish)

    monkeypatch.setattr(type(registry.get("digits")), "verify", verify)
    monkeypatch.setattr(registry._store._log("digits"), "add", late)
    assert registry.transition("digits", 1, "Production").stage == "Production"
    assert looked == ["digits/1"]
    assert registry.list()[0].tags == {"a": "", "b": "", "c": ""}


def test_a_wish_is_checked_again_behind_what_somebody_else_did(registry, registered, monkeypatch):
    registered(0.1)
    other = ModelRegistry(registry.root)
    log = registry._store._log("digits")
    add = log.add

    def late(last, wish):
        monkeypatch.undo()
        other.delete("digits", 1)
        return add(last, wish)

    monkeypatch.setattr(log, "add", late)
    with pytest.raises(NotFoundError, match="is deleted"):
        registry.transition("digits", 1, "Production")
    assert events(registry) == [("registered", 1), ("deleted", 1)]


# ---------------------------------------------------------------------- rolling back


def test_a_roll_back_gives_the_stage_to_the_one_before_and_a_second_one_goes_on(
    registry, registered
):
    registered(0.1, 0.2, 0.3)
    for number in (1, 2, 3):
        registry.transition("digits", number, "Production")
    registry.set_alias("digits", "champion", 3)
    assert registry.rollback("digits", by="ann", reason="drift").version == 2
    assert registry.get("digits/Production").version == 2
    assert registry.get("digits/3").stage == "Archived"
    assert registry.get("digits@champion").version == 3
    event = registry.history("digits")[-1]
    assert (event.kind, event.version, event.by) == ("rolled back", 2, "ann")
    assert event.known == {"stage": "Production", "from": 3, "reason": "drift"}
    assert registry.rollback("digits").version == 1
    with pytest.raises(InvalidValueError, match="no version was there before"):
        registry.rollback("digits")
    assert registry.get("digits/Production").version == 1


def test_nothing_in_the_stage_cannot_be_rolled_back(registry, registered):
    registered(0.1, 0.2)
    for number in (1, 2):
        registry.transition("digits", number, "Staging")
    with pytest.raises(InvalidValueError, match=r"no version is there now.*registry\.transition"):
        registry.rollback("digits")
    assert registry.rollback("digits", "staging").version == 1
    with pytest.raises(InvalidValueError, match="Staging or Production"):
        registry.rollback("digits", "Archived")


def test_a_roll_back_asks_no_gate_and_verifies(registry, registered, damaged):
    registered(0.1, 0.2)
    for number in (1, 2):
        registry.transition("digits", number, "Production")
    registry.set_policy("digits", "Production", "val/accuracy > 0.9")
    path = registry.get("digits/1").path / "weights-000001.safetensors"
    kept = path.read_bytes()
    path.unlink()
    path.write_bytes(kept[:-1] + b"\xff")
    with pytest.raises(DamagedError, match="SHA-256"):
        registry.rollback("digits")
    assert registry.get("digits/Production").version == 2
    path.write_bytes(kept)
    assert registry.rollback("digits").version == 1


# ---------------------------------------------------------------------- names and words


def test_an_alias_means_one_version_until_it_is_moved_or_deleted(registry, registered):
    registered(0.1, 0.2)
    assert registry.set_alias("digits", "champion", 1).aliases == ["champion"]
    registry.set_alias("digits", "champion", 1)
    assert registry.set_alias("digits", "champion", 2, by="ann").aliases == ["champion"]
    assert registry.get("digits/1").aliases == []
    registry.delete_alias("digits", "champion")
    with pytest.raises(NotFoundError, match="no alias"):
        registry.get("digits@champion")
    with pytest.raises(NotFoundError, match="no alias"):
        registry.delete_alias("digits", "champion")
    with pytest.raises(NotFoundError, match="no version 3"):
        registry.set_alias("digits", "champion", 3)
    with pytest.raises(InvalidNameError):
        registry.set_alias("digits", "Production", 1)
    kinds = [kind for kind, _ in events(registry)[2:]]
    assert kinds == ["alias set", "alias set", "alias deleted"]


def test_descriptions_and_tags_are_of_the_model_or_of_one_version(registry, registered):
    registered(0.1)
    registry.describe("digits", "all")
    registry.describe("digits", "one", 1)
    registry.describe("digits", "one", 1)
    registry.set_tags("digits", {"task": "vision", "n": 3})
    registry.set_tags("digits", ["fast"], 1)
    registry.set_tags("digits", "fast", 1)
    registry.remove_tags("digits", ["n", "never"])
    registry.remove_tags("digits", "never", 1)
    (model,) = registry.list()
    assert (model.description, model.tags) == ("all", {"task": "vision"})
    assert (model.versions[0].description, model.versions[0].tags) == ("one", {"fast": ""})
    assert len(events(registry)) == 6
    with pytest.raises(InvalidTypeError, match="found 3"):
        registry.describe("digits", 3)
    with pytest.raises(InvalidTypeError, match="found 3"):
        registry.set_tags("digits", 3)
    with pytest.raises(InvalidValueError, match="surrogate"):
        registry.describe("digits", "\ud800")
    with pytest.raises(InvalidValueError, match="bytes, allowed are"):
        registry.describe("digits", "x" * (64 * 2**20))
    with pytest.raises(NotFoundError):
        registry.describe("digits", "x", 9)


def test_the_names_of_mlflows_client_do_the_same(registry, registered):
    registered(0.1, 0.2)
    registry.transition_model_version_stage(name="digits", version=1, stage="Production")
    version = registry.transition_model_version_stage(
        name="digits", version="2", stage="Production"
    )
    assert (version.version, version.stage) == (2, "Production")
    assert registry.get("digits/1").stage == "Production"
    registry.transition_model_version_stage("digits", 1, "Staging", archive_existing_versions=True)
    model = registry.update_registered_model(name="digits", description="handwriting")
    assert model.description == "handwriting"


# ---------------------------------------------------------------------- loading


def test_load_fills_a_template_of_what_a_reference_names(registry, registered):
    registered(0.25, 0.5)
    registry.transition("digits", 1, "Production")
    loaded = registry.load("models:/digits/Production", as_numpy=True)
    np.testing.assert_array_equal(loaded["w"], np.full(3, 0.25))


def test_the_trail_says_everything_that_was_done_in_order(registry, registered):
    registered(0.1)
    registry.transition("digits", 1, "Staging", by="ann")
    registry.set_alias("digits", "champion", 1, by="bob")
    history = registry.history("digits")
    assert [(e.number, e.kind, e.by) for e in history[1:]] == [
        (2, "transitioned", "ann"), (3, "alias set", "bob"),
    ]  # fmt: skip
    assert history[2].to_dict() == {
        "number": 3, "at": history[2].at, "by": "bob", "kind": "alias set", "version": 1,
        "alias": "champion",
    }  # fmt: skip


def test_runs_are_not_disturbed_by_the_folder_of_models(registry, train, root):
    registry.register(train("a"))
    assert ExperimentRegistry(root).list_projects() == ["digits"]
    assert len(ExperimentRegistry(root).list_experiments()) == 1


# ---------------------------------------------------------------------- other places, other people


def test_a_tracker_stands_for_its_open_run(registry, make):
    tracker = make("digits")
    with tracker.start_run("r") as run:
        run.log_model({"w": np.ones(3)}, "digits")
        assert registry.register(tracker, "digits").run_id == run.id
    with pytest.raises(InvalidTypeError, match="no open run"):
        registry.register(tracker, "digits")


def test_a_run_is_named_by_words_such_as_latest_and_best(registry, train):
    best, latest = train("a", [0.9]), train("b", [0.5])
    assert registry.register("best:val/accuracy").run_id == best.id
    assert registry.register("latest").run_id == latest.id


def test_a_run_given_by_its_path_needs_no_root_here(train, tmp_path):
    run = train("a")
    registry = ModelRegistry(tmp_path / "other")
    assert registry.register(str(run.path)).run_id == run.id
    assert [model.name for model in registry.list()] == ["model"]


def test_a_root_may_be_relative_or_below_home(registered, root, monkeypatch):
    registered(0.1)
    monkeypatch.chdir(root.parent)
    registry = ModelRegistry("root")
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(root.parent))
    assert registry.get("digits") == ModelRegistry("~/root").get("digits")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_who_may_only_read_is_told_what_to_do(registry, registered, train, monkeypatch, code):
    registered(0.1)
    run = train("late")

    def refused(path, *args, **options):
        raise OSError(code, os.strerror(code), path)

    for call in ("mkdir", "create_with"):
        monkeypatch.setattr(io, call, refused)
    reader = ModelRegistry(registry.root)
    assert reader.load("digits/1")["w"][0] == 0.1
    for change in (
        lambda: reader.register(run, name="digits"),
        lambda: reader.register(run, name="new"),
        lambda: reader.transition("digits", 1, "Production"),
        lambda: reader.set_policy("digits", "Staging", "val/accuracy > 0"),
    ):
        with pytest.raises(OSError, match=r"Ask for the right to write there, or .*--root") as told:
            change()
        assert told.value.errno == code


def test_a_run_that_is_moved_away_meanwhile_leaves_no_version_without_lineage(
    registry, train, root, monkeypatch
):
    run, real = train("a"), publication._take_files

    def late(*args):
        taken = real(*args)
        os.rename(run.path, root / "digits" / "moved")
        return taken

    monkeypatch.setattr(publication, "_take_files", late)
    with pytest.raises(RunNotFoundError, match="moved or deleted while it was registered"):
        registry.register(run)
    assert registry.list() == []
    monkeypatch.undo()
    assert registry.register("digits/moved").params == {"lr": 0.1}


def test_to_move_there_what_shares_the_stage_gives_it_the_stage(registry, registered):
    registered(0.1, 0.2, 0.3)
    for number in (1, 2, 3):
        registry.transition("digits", number, "Production", archive_existing=False)
    registry.transition("digits", 2, "Production", archive_existing=False)
    assert numbers(registry.versions("digits", "Production")) == [2, 3, 1]
    registry.transition("digits", 1, "Production")
    assert numbers(registry.versions("digits", "Production")) == [1]
    assert numbers(registry.versions("digits", "Archived")) == [3, 2]
    assert registry.history("digits")[-1].known["archived"] == [2, 3]
    count = len(registry.history("digits"))
    registry.transition("digits", 1, "Production")
    assert len(registry.history("digits")) == count
    assert registry.rollback("digits").version == 2


def test_threads_may_share_a_registry(registry, registered):
    registered(0.1)

    def tag(number):
        for turn in range(5):
            registry.set_tags("digits", {f"t{number}": turn})

    threads = [threading.Thread(target=tag, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (model,) = ModelRegistry(registry.root).list()
    assert model.tags == {f"t{number}": "4" for number in range(6)}
