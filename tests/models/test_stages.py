import pytest

from experiment_tracking.errors import InvalidValueError
from experiment_tracking.models.stages import find_stage, to_stage


def test_a_stage_is_taken_in_any_case_and_given_back_in_its_own():
    words = ["production", "STAGING", "archived", "none", None]
    assert [to_stage(word) for word in words] == [
        "Production", "Staging", "Archived", "None", "None",
    ]  # fmt: skip


def test_any_other_word_is_no_stage_and_the_error_shows_those_there_are():
    assert find_stage("prod") is None
    with pytest.raises(InvalidValueError, match="None, Staging, Production, Archived"):
        to_stage("prod")
