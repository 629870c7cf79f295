import numpy as np
import pytest

from experiment_tracking.errors import InvalidNameError, InvalidTypeError, InvalidValueError
from experiment_tracking.models.references import (
    Reference,
    check_alias,
    check_model_name,
    check_tag,
    parse_reference,
    to_version,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits/3", Reference("digits", version=3)),
        ("digits/PRODUCTION", Reference("digits", stage="Production")),
        ("digits/none", Reference("digits", stage="None")),
        ("digits@champion", Reference("digits", alias="champion")),
        ("digits", Reference("digits")),
        ("digits/latest", Reference("digits")),
        ("my digits β", Reference("my digits β")),
    ],
)
@pytest.mark.parametrize("scheme", ["", "models:/"])
def test_a_version_is_named_by_number_stage_alias_or_nothing(text, expected, scheme):
    assert parse_reference(scheme + text) == expected


@pytest.mark.parametrize("text", ["", "models:/", "a/", "a/1/2", "@b", "a@", "a/1@b", "a@b/1"])
def test_what_names_no_version_is_refused_with_the_forms_there_are(text):
    with pytest.raises(InvalidValueError, match="name@champion"):
        parse_reference(text)


def test_a_misspelt_stage_shows_the_near_one_and_another_word_may_be_an_alias():
    with pytest.raises(InvalidValueError, match="Near: digits/Production"):
        parse_reference("digits/Prodution")
    with pytest.raises(InvalidValueError, match="digits@champion"):
        parse_reference("digits/champion")
    with pytest.raises(InvalidTypeError, match="found 3 of type int"):
        parse_reference(3)


def test_a_version_is_a_number_or_its_text():
    assert [to_version(each) for each in (3, "3", np.int64(3))] == [3, 3, 3]


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "x", "", "1.0", None, "９", "1" * 5000])
def test_anything_else_is_no_version(version):
    with pytest.raises(InvalidValueError, match="a number such as 3"):
        to_version(version)


@pytest.mark.parametrize("name", ["../x", "..", "", "a/b", "_x", "a@b", ".x", 3, "x" * 200])
def test_a_model_that_could_not_be_a_folder_or_a_reference_is_refused(name):
    with pytest.raises(InvalidNameError):
        check_model_name(name)


@pytest.mark.parametrize("alias", ["3", "production", "None", "Latest", "a b", "a/b", "", 3, "ä"])
def test_an_alias_that_could_be_taken_for_something_else_is_refused(alias):
    with pytest.raises(InvalidNameError, match="champion"):
        check_alias(alias)


def test_aliases_and_tags_are_words():
    assert check_alias("v1.2-beta_3") == "v1.2-beta_3"
    assert check_tag("2026") == "2026"
    with pytest.raises(InvalidNameError, match="dataset"):
        check_tag("a b")
