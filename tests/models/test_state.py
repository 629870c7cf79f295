import pytest

from experiment_tracking.errors import DamagedError
from experiment_tracking.models.events import Event
from experiment_tracking.models.state import ModelState


def fold(*done):
    """Fold events given as ``(kind, version, known)``."""
    events = [
        Event(number, f"t{number}", "ann", kind, version, dict(*known))
        for number, (kind, version, *known) in enumerate(done, 1)
    ]
    return ModelState(events, lambda event: f"{event.number:06d}.json")


def registered(count):
    return [("registered", number) for number in range(1, count + 1)]


def moved(number, stage="Production", *archived):
    return ("transitioned", number, {"stage": stage, "archived": list(archived)})


def stages(state):
    return [state.versions[number].stage for number in sorted(state.versions)]


def test_versions_begin_without_a_stage_and_the_newest_comes_first():
    state = fold(*registered(3))
    assert stages(state) == ["None"] * 3
    assert [version.number for version in state.living] == [3, 2, 1]
    assert (state.created_at, state.updated_at, state.last.number) == ("t1", "t3", 3)


def test_a_move_archives_what_it_names_in_the_same_event():
    state = fold(*registered(2), moved(1), moved(2, "Production", 1))
    assert stages(state) == ["Archived", "Production"]
    assert state.versions[1].updated_at == "t4"


def test_of_several_in_a_stage_the_one_moved_there_last_comes_first():
    state = fold(*registered(3), moved(3), moved(1), moved(2, "Staging"))
    assert [version.number for version in state.in_stage("Production")] == [1, 3]


def test_before_the_present_version_was_the_one_that_had_the_stage_then():
    def before(*done):
        return [each.number for each in fold(*registered(4), *done).before("Production")]

    assert before() == []
    assert before(moved(1)) == []
    assert before(moved(1), moved(2, "Production", 1)) == [1]
    assert before(moved(1), moved(2, "Production", 1), moved(2, "Archived")) == []
    assert before(moved(1), moved(2), ("deleted", 1), moved(3, "Production", 2)) == [2, 1]
    assert before(moved(1), moved(2, "Production", 1), moved(1, "Production", 2)) == [2]


def test_each_roll_back_goes_one_further_back():
    to = [moved(1), moved(2, "Production", 1), moved(1, "Production", 2), moved(3, "Production", 1)]
    first = ("rolled back", 1, {"stage": "Production", "from": 3})
    second = ("rolled back", 2, {"stage": "Production", "from": 1})
    state = fold(*registered(3), *to, first)
    assert stages(state) == ["Production", "Archived", "Archived"]
    assert [each.number for each in state.before("Production")] == [2]
    state = fold(*registered(3), *to, first, second)
    assert stages(state) == ["Archived", "Production", "Archived"]
    assert [each.number for each in state.before("Production")] == [1]


def test_aliases_descriptions_tags_and_approvals_are_the_last_ones_said():
    state = fold(
        ("registered", 1, {"aliases": ["a", "b"], "tags": {"x": "1"}, "description": "old"}),
        ("registered", 2, {"aliases": ["a"]}),
        ("alias deleted", None, {"alias": "b"}),
        ("described", 1, {"description": "new"}),
        ("described", None, {"description": "all"}),
        ("tagged", 1, {"tags": {"x": "2", "y": ""}}),
        ("untagged", 1, {"tags": ["y", "z"]}),
        ("approved", 1, {"stage": "Staging"}),
        ("approved", 1, {"stage": "Staging"}),
    )
    assert state.aliases == {"a": 2}
    assert (state.description, state.versions[1].description) == ("all", "new")
    assert (state.tags, state.versions[1].tags) == ({}, {"x": "2"})
    assert state.versions[1].approvals == {"Staging": ["ann"]}


def test_what_is_deleted_comes_back_and_what_is_purged_does_not():
    state = fold(*registered(3), ("deleted", 1), ("deleted", 2), ("restored", 2))
    assert [version.number for version in state.living] == [3, 2]
    assert [version.number for version in state.trashed] == [1]
    state = fold(*registered(2), ("deleted", 1), ("purged", 1))
    assert (state.trashed, state.purged, state.versions[1].purged) == ([], False, True)
    state = fold(*registered(2), ("deleted", None))
    assert (state.living, [version.number for version in state.trashed]) == ([], [2, 1])


def test_a_model_that_was_purged_lives_again_with_its_next_version_alone():
    gone = [
        *registered(2),
        ("tagged", None, {"tags": {"x": ""}}),
        ("deleted", None),
        ("purged", None),
    ]
    state = fold(*gone, ("registered", 3))
    assert [version.number for version in state.living] == [3]
    assert (state.trashed, state.tags, state.created_at) == ([], {}, "t6")


def test_kinds_of_later_versions_change_nothing():
    state = fold(*registered(1), ("signed", 1, {"stage": 7}), ("signed", None))
    assert (stages(state), state.last.number) == (["None"], 3)


@pytest.mark.parametrize(
    "wrong",
    [
        ("registered", 1),
        ("registered", None),
        ("registered", 2, {"run": 3}),
        ("registered", 2, {"tags": ["x"]}),
        ("registered", 2, {"aliases": "champion"}),
        ("registered", 2, {"sha256": 7}),
        ("transitioned", 2, {"stage": "Staging"}),
        ("transitioned", 1, {"stage": "production"}),
        ("transitioned", 1),
        ("transitioned", 1, {"stage": "Staging", "archived": [7]}),
        ("transitioned", 1, {"stage": "Staging", "archived": 1}),
        ("rolled back", 1, {"stage": "Staging"}),
        ("approved", 1, {"stage": ["Staging"]}),
        ("alias set", None, {"alias": "a"}),
        ("alias set", 1, {"alias": 3}),
        ("described", 1, {"description": None}),
        ("tagged", 1, {"tags": {"x": 1}}),
        ("untagged", 1, {"tags": [1]}),
        ("deleted", 9),
    ],
)
def test_an_event_that_says_what_cannot_be_is_refused_by_its_file(wrong):
    with pytest.raises(DamagedError, match=r"000002\.json .*expected.*from a copy"):
        fold(*registered(1), wrong)


def test_who_was_archived_last_comes_first_among_the_archived():
    state = fold(*registered(3), moved(2), moved(1, "Production", 2), moved(3, "Production", 1))
    assert [version.number for version in state.in_stage("Archived")] == [1, 2]
    state = fold(
        *registered(3), moved(1), moved(3, "Production", 1), moved(2, "Archived"),
        ("rolled back", 1, {"stage": "Production", "from": 3}),
    )  # fmt: skip
    assert [version.number for version in state.in_stage("Archived")] == [3, 2]
