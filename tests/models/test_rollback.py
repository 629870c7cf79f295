import pytest

from experiment_tracking.errors import DamagedError, InvalidValueError


@pytest.fixture
def in_turn(registry, registered):
    """Register that many versions of ``digits``, each moved to Production after the other."""

    def in_turn(count):
        registered(*(number / 10 for number in range(1, count + 1)))
        for number in range(1, count + 1):
            registry.transition("digits", number, "Production")

    return in_turn


def test_what_is_deleted_is_passed_over(registry, in_turn):
    in_turn(3)
    registry.delete("digits", 2)
    assert registry.rollback("digits").version == 1


def test_where_all_is_deleted_that_was_there_it_is_named_and_how_it_comes_back(registry, in_turn):
    in_turn(3)
    for number in (2, 1):
        registry.delete("digits", number)
    registry.purge("digits", 1)
    with pytest.raises(
        InvalidValueError,
        match=r"before is deleted: digits/2, digits/1 \(for good\)\. Restore one: experiments "
        r"models restore digits/2, or registry\.restore\('digits', 2\)",
    ):
        registry.rollback("digits")
    registry.restore("digits", 2)
    assert registry.rollback("digits").version == 2


def test_where_all_of_it_is_gone_for_good_another_can_be_moved_there(registry, in_turn):
    in_turn(2)
    registry.delete("digits", 1)
    registry.purge("digits")
    with pytest.raises(
        InvalidValueError,
        match=r"deleted: digits/1 \(for good\)\. Move one there: experiments models stage",
    ):
        registry.rollback("digits")


def test_a_damaged_version_is_not_passed_over_unasked_and_the_way_past_it_is_told(
    registry, in_turn, damaged
):
    in_turn(3)
    (registry.get("digits/2").path / "weights-000001.safetensors").unlink()
    with pytest.raises(
        DamagedError,
        match=r"digits/2, which was there before, is damaged\. .*is gone.*pass over it to "
        r"digits/1: experiments models rm digits/2, or registry\.delete\('digits', 2\)",
    ):
        registry.rollback("digits")
    assert registry.get("digits/Production").version == 3
    registry.delete("digits", 2)
    assert registry.rollback("digits").version == 1


def test_a_damaged_version_with_none_before_it_leaves_moving_another_one(
    registry, in_turn, damaged
):
    in_turn(2)
    (registry.get("digits/1").path / "weights-000001.safetensors").unlink()
    with pytest.raises(
        DamagedError,
        match=r"another one there: experiments models stage digits/VERSION Production, or registry",
    ):
        registry.rollback("digits")
