from experiment_tracking.cli import text


def test_control_characters_are_shown_as_escapes():
    assert text.clean("a\x1b[31mb\n\x9b\u202e\udc80") == "a\\x1b[31mb\\n\\x9b\\u202e\\udc80"


def test_wide_characters_take_two_cells_and_accents_none():
    assert text.width_of("日本") == 4
    assert text.width_of("e\u0301") == 1
    assert text.pad("日", 4) == "日  "


def test_cut_text_has_room_for_its_ellipsis():
    assert text.cut("abcdef", 6) == "abcdef"
    assert text.cut("abcdef", 4) == "abc…"
    assert text.cut("日本語", 4) == "日…"


def test_numbers_have_five_digits_and_whole_ones_all():
    written = [text.number(value) for value in (0.1, 1e-7, 1 / 3, 123456.7, 2e12, 10**12, None)]
    assert written == ["0.1", "1e-07", "0.33333", "123457", "2e+12", "1000000000000", "-"]
    assert [text.number(float(word)) for word in ("nan", "inf")] == ["nan", "inf"]


def test_spans_are_one_word():
    spans = [text.duration(value) for value in (0, 0.25, 59.9, 60, 3599, 3600, 200000)]
    assert spans == ["0s", "0.25s", "59.9s", "1m00s", "59m59s", "1h00m", "2d07h"]


def test_a_moment_that_is_none_has_no_age():
    assert text.age(None) == text.age("yesterday") == "-"
    assert text.age("2000-01-01T00:00:00Z").endswith("d")
    assert text.age("2000-01-01T00:00:00").endswith("d")


def test_sizes_are_one_word():
    assert [text.size(value) for value in (0, 999, 1024, 5 * 2**30)] == [
        "0B", "999B", "1.0kB", "5.0GB",
    ]  # fmt: skip
