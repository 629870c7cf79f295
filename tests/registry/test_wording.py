import pytest

from experiment_tracking.registry.wording import local_time, size_text, span_text, visible


@pytest.mark.parametrize("value", [None, "soon", [1]])
def test_what_is_no_number_has_no_span_and_no_size(value):
    assert span_text(value) == size_text(value) == ""


def test_a_time_is_shown_in_the_zone_of_who_looks(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert local_time("2026-11-21T19:46:18.116Z") == "2026-11-22 01:16"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("value", ["yesterday", "9999-12-31T23:59:59-23:00", 7])
def test_what_is_no_time_is_shown_as_it_is(value):
    assert local_time(value) == str(value)


def test_characters_that_turn_text_around_are_shown_as_escapes():
    assert visible("a\u202eb\x1bc\udcff é 你") == "a\\u202eb\\x1bc\\udcff é 你"
