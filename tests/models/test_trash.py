import os
import re

import pytest

from experiment_tracking.errors import InvalidValueError, NotFoundError
from experiment_tracking.models.registry import ModelRegistry


@pytest.fixture(autouse=True)
def three(registered):
    registered(0.1, 0.2, 0.3)


def numbers(versions):
    return [version.version for version in versions]


def folders(registry):
    return sorted(os.listdir(os.path.join(registry.root, "_models", "digits", "versions")))


def test_a_deleted_version_is_out_of_sight_and_comes_back_as_it_was(registry, weight):
    registry.transition("digits", 2, "Staging")
    registry.delete("digits", 2, by="ann", reason="bad data")
    assert numbers(registry.versions("digits")) == [3, 1]
    assert numbers(registry.versions("digits", deleted=True)) == [2]
    assert registry.versions("digits", "Staging") == []
    assert numbers(registry.versions("digits", "staging", deleted=True)) == [2]
    with pytest.raises(
        NotFoundError, match=r"deleted, by ann at .*registry\.restore\('digits', 2\)"
    ):
        registry.get("digits/2")
    for change in (
        lambda: registry.transition("digits", 2, "Archived"),
        lambda: registry.set_alias("digits", "champion", 2),
        lambda: registry.approve("digits", 2, "Staging"),
        lambda: registry.delete("digits", 2),
    ):
        with pytest.raises(NotFoundError, match="is deleted"):
            change()
    registry.restore("digits", 2)
    assert registry.get("digits/Staging").version == 2
    assert weight("digits/2") == 0.2
    registry.restore("digits", 2)
    assert [e.kind for e in registry.history("digits")[4:]] == ["deleted", "restored"]


def test_the_newest_is_the_newest_that_is_left(registry):
    registry.delete("digits", 3)
    assert registry.get("digits").version == 2
    for number in (1, 2):
        registry.delete("digits", number)
    with pytest.raises(NotFoundError, match="no version that is not deleted"):
        registry.get("digits")
    assert registry.list()[0].latest is None


def test_what_is_in_use_is_not_deleted(registry):
    registry.transition("digits", 1, "Production")
    registry.set_alias("digits", "champion", 2)
    for number, said in (
        (1, "is in Production"),
        (2, "has the alias 'champion'"),
        (None, "digits/2"),
    ):
        with pytest.raises(InvalidValueError, match=said):
            registry.delete("digits", number)
    assert numbers(registry.versions("digits")) == [3, 2, 1]
    registry.delete_alias("digits", "champion")
    registry.transition("digits", 1, "Archived")
    registry.delete("digits")
    assert registry.list() == []


def test_a_deleted_model_comes_back_with_what_was_not_deleted_before(registry):
    registry.delete("digits", 1)
    registry.delete("digits", by="ann")
    assert registry.list() == []
    assert [model.name for model in registry.list(deleted=True)] == ["digits"]
    assert numbers(registry.versions("digits", deleted=True)) == [3, 2, 1]
    with pytest.raises(NotFoundError, match=r"digits is deleted, by ann.*restore\('digits'\)"):
        registry.get("digits")
    with pytest.raises(NotFoundError, match="digits is deleted"):
        registry.restore("digits", 1)
    registry.restore("digits")
    assert numbers(registry.versions("digits")) == [3, 2]
    registry.restore("digits", 1)
    assert numbers(registry.versions("digits")) == [3, 2, 1]


def test_a_deleted_model_takes_no_new_version(registry, train):
    run = train("late")
    registry.delete("digits")
    with pytest.raises(InvalidValueError, match=r"is deleted.*another name"):
        registry.register(run, name="digits")
    assert folders(registry) == ["1", "2", "3"]


def test_a_model_deleted_while_a_version_was_coming_takes_it_not(registry, train, monkeypatch):
    run, other = train("late"), ModelRegistry(registry.root)
    real = os.rename

    def late(source, target):
        real(source, target)
        monkeypatch.undo()
        other.delete("digits")

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(InvalidValueError, match="is deleted"):
        registry.register(run, name="digits")
    assert folders(registry) == ["1", "2", "3"]


def test_purging_deletes_for_good_what_was_deleted(registry, train):
    for number in (1, 3):
        registry.delete("digits", number)
    registry.purge("digits", 1)
    assert folders(registry) == ["2", "3"]
    registry.purge("digits")
    registry.purge("digits")
    assert folders(registry) == ["2"]
    assert registry.versions("digits", deleted=True) == []
    for number in (1, 3):
        with pytest.raises(NotFoundError, match="deleted for good"):
            registry.restore("digits", number)
        with pytest.raises(NotFoundError, match="deleted for good"):
            registry.get(f"digits/{number}")
    assert [(e.kind, e.version) for e in registry.history("digits")[-2:]] == [
        ("purged", 1), ("purged", 3),
    ]  # fmt: skip
    assert registry.register(train("late"), name="digits").version == 4


def test_only_what_is_in_the_trash_is_purged(registry):
    for number in (2, 9):
        with pytest.raises(InvalidValueError, match="is not in the trash"):
            registry.purge("digits", number)
    registry.purge("digits")
    assert numbers(registry.versions("digits")) == [3, 2, 1]
    with pytest.raises(NotFoundError, match="never there"):
        registry.restore("digits", 9)


def test_a_purged_model_leaves_its_trail_and_begins_anew_with_the_next_number(registry, train):
    registry.describe("digits", "old")
    registry.delete("digits")
    registry.purge("digits")
    assert folders(registry) == []
    assert (registry.list(), registry.list(deleted=True)) == ([], [])
    assert registry.history("digits")[-1].kind == "purged"
    with pytest.raises(NotFoundError, match="deleted for good"):
        registry.get("digits")
    with pytest.raises(NotFoundError, match="deleted for good"):
        registry.restore("digits")
    version = registry.register(train("late"), name="digits")
    assert (version.version, numbers(registry.versions("digits"))) == (4, [4])
    assert registry.list()[0].description == ""


def test_one_version_of_a_deleted_model_is_purged_by_itself(registry):
    registry.delete("digits")
    registry.purge("digits", 2)
    assert folders(registry) == ["1", "3"]
    registry.restore("digits")
    assert numbers(registry.versions("digits")) == [3, 1]


def test_a_purge_that_was_killed_behind_its_event_is_finished_by_the_next(registry, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    registry.delete("digits", 1)
    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        registry.purge("digits", 1)
    monkeypatch.undo()
    assert folders(registry) == ["1", "2", "3"]
    registry.purge("digits")
    assert folders(registry) == ["2", "3"]


def test_a_purge_may_be_repeated_and_finishes_what_was_killed(registry, monkeypatch):
    registry.delete("digits", 1)
    with monkeypatch.context() as killed:
        killed.setattr(os, "rename", lambda *paths: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            registry.purge("digits", 1)
    assert folders(registry) == ["1", "2", "3"]
    for _ in range(2):
        registry.purge("digits", 1)
    assert folders(registry) == ["2", "3"]
    assert [event.kind for event in registry.history("digits")].count("purged") == 1


def test_nothing_is_said_of_a_model_that_begins_anew_however_it_was_purged(registry, train):
    registry.describe("digits", "old")
    registry.set_tags("digits", "old")
    registry.delete("digits")
    for number in (1, 2, 3):
        registry.purge("digits", number)
    registry.register(train("late"), name="digits")
    (model,) = registry.list()
    assert (model.description, model.tags) == ("", {})


def test_what_to_do_is_told_for_the_command_line_and_for_python(registry):
    registry.transition("digits", 1, "Production")
    registry.set_alias("digits", "champion", 2)
    for act, said in {
        lambda: registry.delete("digits", 1): "models stage digits/1 archived, or registry.tran",
        lambda: registry.delete("digits", 2): "models alias digits champion --delete, or registry.",
        lambda: registry.purge("digits", 3): "models rm digits/3, or registry.delete('digits', 3)",
    }.items():
        with pytest.raises(InvalidValueError, match=re.escape(said)):
            act()
