"""The file is what a person would have read."""

import contextlib
import io
import os
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from experiment_tracking.capture import console
from experiment_tracking.capture.console import ConsoleLog
from experiment_tracking.capture.redaction import redact_text


def read(path):
    return path.read_text(encoding="utf-8")


def shown(path, *parts, **options):
    """Text of a log that was fed ``parts``."""
    log = ConsoleLog(path, **options)
    for part in parts:
        log.feed(part)
    log.close()
    return read(path)


class Stream(io.StringIO):
    """A text stream into a log."""

    def __init__(self, log):
        super().__init__()
        self._log = log

    def write(self, text):
        self._log.feed(text.encode())
        return len(text)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "console.log"


# ---------------------------------------------------------------- the text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"one\ntwo\n", "one\ntwo\n"),
        (b"one\r\ntwo\r\n", "one\ntwo\n"),
        (b"no end", "no end"),
        (b"\n\n", "\n\n"),
        (b"10%\r50%\r100%\n", "100%\n"),
        (b"100%\r9%\n", "9%0%\n"),
        (b"50%\r", "50%"),
        (b"abc\b\bX\n", "aXc\n"),
        (b"\b\b\x1b[9Dabc\n", "abc\n"),
        (b"tab\tbed  \n", "tab\tbed\n"),
        (b"bell\x07 nul\x00 del\x7f\n", "bell nul del\n"),
        (b"\x1b[1;31mred\x1b[0m \x1b[38;5;208morange\x1b[m\n", "red orange\n"),
        (b"\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", "textlink\n"),
        (b"\x1b(B\x1b=\x1b[?25l\x1b[?2004hplain\x1b[?25h\n", "plain\n"),
        (b"long line\r\x1b[Kshort\n", "short\n"),
        (b"long line\r\x1b[2Kshort\n", "short\n"),
        (b"abcdef\x1b[3D\x1b[1K\n", "   def\n"),
        (b"abcdef\x1b[3D\x1b[K\n", "abc\n"),
        (b"a\nb\nc\x1b[2A\r\x1b[Jnew\n", "new\n"),
        (b"kept\n\x1b[2J\x1b[Hafter\n", "kept\nafter\n"),
        (b"a\x1b[3Cb\x1b[2Gc\n", "ac  b\n"),
        (b"a\nb\x1b[Fc\x1b[Ed\n", "c\nd\n"),
        (b"\x1b[99999999Cx\n", " " * 500 + "x\n"),
        (b"caf\xc3\xa9 \xff\xfe ok\n", "café \\xff\\xfe ok\n"),
        (b"half \xe2\x82", "half \\xe2\\x82"),
        (b"lone \x1b\n\x1b[3\x1b[4mline\n", "lone \n[3line\n"),
        (b"cut \x1b[3", "cut"),
    ],
)
def test_a_terminal_stream_becomes_what_a_person_saw(path, raw, text):
    expected = "\n".join(line.rstrip(" ") for line in text.split("\n"))
    assert shown(path, raw) == expected


def test_nested_progress_bars_leave_their_last_state(path):
    log = ConsoleLog(path)
    log.feed(b"start\n")
    for epoch in range(3):
        log.feed(f"\repoch {epoch + 1}/3".encode())
        for batch in range(50):
            log.feed(f"\n\r  batch {batch + 1}/50\x1b[A".encode())
    log.feed(b"\n\ndone\n")
    log.close()
    assert read(path) == "start\nepoch 3/3\n  batch 50/50\ndone\n"


def test_bars_of_rich_are_folded_below_what_is_printed_meanwhile(path):
    log = ConsoleLog(path)
    screen = Console(file=Stream(log), force_terminal=True, width=60, legacy_windows=False)
    with Progress(console=screen, auto_refresh=False) as progress:
        epochs = progress.add_task("epochs", total=3)
        for epoch in range(3):
            batches = progress.add_task(f"batches {epoch}", total=20)
            for _ in range(20):
                progress.update(batches, advance=1, refresh=True)
            progress.update(epochs, advance=1, refresh=True)
            screen.print("epoch", epoch)
    log.close()
    lines = read(path).splitlines()
    assert lines[:3] == ["epoch 0", "epoch 1", "epoch 2"]
    assert [line.split(" ━")[0].rstrip() for line in lines[3:]] == [
        "epochs", "batches 0", "batches 1", "batches 2",
    ]  # fmt: skip
    assert all(" 100% " in line for line in lines[3:])


def test_a_bar_is_in_the_file_while_it_runs(path):
    log = ConsoleLog(path)
    log.feed(b"one\ntwo\n10% long\r")
    log.flush()
    assert read(path) == "one\ntwo\n10% long"
    log.feed(b"\r\x1b[2K20%")
    log.flush()
    assert read(path).rstrip(" ") == "one\ntwo\n20%"
    log.feed(b"\x1b[A\rTWO")
    log.close()
    assert read(path) == "one\nTWO\n20%"


def test_the_file_never_becomes_shorter_while_it_is_followed(path):
    log = ConsoleLog(path)
    sizes = []
    for text in (b"a long first state", b"\r\x1b[Ka", b"\r\x1b[K", b"b\n", b"c\n"):
        log.feed(text)
        log.flush()
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes)
    log.close()
    assert read(path) == "b\nc\n"


def test_endless_lines_are_broken(path):
    lines = shown(path, b"x" * 150_000 + b"\n").splitlines()
    assert [len(line) for line in lines] == [65_536, 65_536, 18_928]


def test_what_looks_like_an_endless_title_is_text(path):
    text = shown(path, b"\x1b]" + b"x" * 10_000, b"\nnext\n")
    assert text == "]" + "x" * 10_000 + "\nnext\n"


def test_each_line_loses_its_credentials(path):
    canary = "c4nary9f2b7d61aa"
    log = ConsoleLog(path)
    for _ in range(50):
        log.feed(f"cloning https://ann:{canary}@example.org/x.git\n".encode())
    log.feed(f"then https://ann:{canary}@example.org/x.git".encode())
    log.flush()
    assert canary not in read(path)
    log.close()
    assert read(path).count("https://***@example.org/x.git") == 51
    assert canary not in read(path)


_KEY_BODY = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"] * 3 + ["c4nary=="]


@pytest.mark.parametrize("headers", [[], ["Proc-Type: 4,ENCRYPTED", ""]])
@pytest.mark.parametrize("cut", [1, 100, 10_000])
def test_a_private_key_is_hidden_over_all_its_lines(path, headers, cut):
    begin, end = (f"-----{word} RSA PRIVATE KEY-----" for word in ("BEGIN", "END"))
    lines = ["reading", begin, *headers, *_KEY_BODY, end, "read", "accuracy"]
    stream = "".join(f"{line}\n" for line in lines).encode()
    log = ConsoleLog(path)
    for start in range(0, len(stream), cut):
        log.feed(stream[start : start + cut])
        log.flush()
        assert "MIIEv" not in read(path)
    log.close()
    hidden = ["***"] * len(_KEY_BODY)
    assert read(path).splitlines() == lines[:2] + headers + hidden + lines[-3:]


def test_a_private_key_that_is_longer_than_the_screen_is_hidden(path):
    body = b"MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n" * 100
    parts = [b"-----BEGIN PRIVATE KEY-----\n", body[:3_000], body[3_000:], b"-----END PRIVATE"]
    assert shown(path, *parts).count("***\n") == 100
    assert "MIIE" not in read(path)


def test_a_private_key_that_is_only_mentioned_hides_nothing(path):
    text = "the file begins with -----BEGIN PRIVATE KEY-----\nand so on\nepoch 1\n"
    assert shown(path, text.encode()) == text


_WORDS = [
    "loss=",
    "step ",
    "token=",
    "password: ",
    "--api-key ",
    "hf_",
    "ghp_",
    "https://ann:",
    "@x/",
]
_WORDS += ["hunter", "ABCDEFGHIJ", "kLmNoPqRsT", " ", "0", "1", "22", "3.14", "e-05", "sk-proj-"]


@settings(max_examples=150, deadline=None)
@given(lines=st.lists(st.lists(st.sampled_from(_WORDS), max_size=6).map("".join), max_size=60))
def test_lines_that_resemble_earlier_ones_are_redacted_as_if_they_came_alone(
    tmp_path_factory, lines
):
    text = shown(
        tmp_path_factory.mktemp("lines") / "log", *(f"{x}\n".encode() for x in lines), b"."
    )
    assert text.split("\n") == [*(redact_text(line.rstrip(" ")) for line in lines), "."]


def test_two_streams_may_be_cut_within_a_character(path):
    log = ConsoleLog(path)
    euro = "€".encode()
    log.feed(euro[:1], source=1)
    log.feed(b"stderr\n", source=2)
    log.feed(euro[1:] + b"\n", source=1)
    log.close()
    assert read(path) == "stderr\n€\n"


_BITS = [b"a", b"word ", b"\n", b"\r", b"\r\n", b"\b", b"\t", b"\x00", b"\x1b", b"\x1b[", b"\x1b[A"]
_BITS += [b"\x1b[2A", b"\x1b[1B", b"\x1b[5C", b"\x1b[2D", b"\x1b[K", b"\x1b[1K", b"\x1b[J", b"31m"]
_BITS += [b"line %d\n" * 5 % (1, 22, 333, 4, 5), b"a\nb \n" * 20, b"c\n" * 40]
_BITS += [b"\x1b]0;t", b"\x07", b"\x1b\\", b"\x1b(", b"B", "é€😀".encode(), b"\xff", b"\xe2", b";"]
streams = st.lists(st.sampled_from(_BITS) | st.binary(max_size=4), max_size=80).map(b"".join)


@settings(max_examples=150, deadline=None)
@given(data=streams, cuts=st.lists(st.integers(0, 300), max_size=12))
def test_how_reads_cut_a_stream_makes_no_difference(tmp_path_factory, data, cuts):
    folder = tmp_path_factory.mktemp("cuts")
    ends = [*sorted(cuts), len(data)]
    parts = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert shown(folder / "whole", data or b" ") == shown(
        folder / "cut", *parts or [b" "], b" "[: not data]
    )


# ---------------------------------------------------------------- the file


def test_a_file_that_is_there_is_continued_on_a_line_of_its_own(path):
    shown(path, b"first attempt, killed in mid-li")
    text = shown(path, b"[attempt 2]\n", b"second\n")
    assert text == "first attempt, killed in mid-li\n[attempt 2]\nsecond\n"


def test_a_log_that_is_fed_nothing_touches_no_file(path):
    ConsoleLog(path).close()
    assert not path.exists()


def test_of_a_long_log_the_beginning_and_the_newest_stay(path):
    log = ConsoleLog(path, max_bytes=100_000)
    for start in range(0, 200_000, 1_000):
        log.feed(b"".join(b"line %d\n" % n for n in range(start, start + 1_000)))
        assert not path.exists() or path.stat().st_size < 130_000
    log.close()
    lines = read(path).splitlines()
    (gap,) = [n for n, line in enumerate(lines) if line.endswith(" bytes left out …]")]
    first, newest = lines[:gap], lines[gap + 1 :]
    assert first == [f"line {n}" for n in range(len(first))]
    assert newest == [f"line {n}" for n in range(200_000 - len(newest), 200_000)]
    size = sum(len(f"line {n}\n") for n in range(len(first), 200_000 - len(newest)))
    assert lines[gap] == f"[… {size:,} bytes left out …]"
    assert 15_000 < len("\n".join(first)) <= 20_000
    assert len("\n".join(newest)) >= 40_000 * 0.9
    assert os.listdir(path.parent) == ["console.log"]


def test_what_was_left_out_before_a_resume_stays_said(path):
    lines = b"".join(b"line %d\n" % n for n in range(3_000))
    shown(path, lines, max_bytes=10_000)
    assert shown(path, lines, max_bytes=10_000).count("left out") in (1, 2)
    assert read(path).startswith("line 0\n")
    assert read(path).endswith("line 2999\n")


@contextlib.contextmanager
def files_no_longer_than(size_bytes):
    """A disk that is full: no file may grow beyond ``size_bytes``."""
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_the_log_until_there_is_space(path, capsys):
    log = ConsoleLog(path)
    log.feed(b"before\n" * 100)
    with files_no_longer_than(1_000):
        for _ in range(20):
            log.feed(b"during\n" * 100)
            log.flush()
        assert path.stat().st_size == 1_000
    log.feed(b"after\n")
    log.close()
    assert read(path) == "before\n" * 100 + "during\n" * 2_000 + "after\n"
    said = capsys.readouterr().err
    assert said.count("cannot be written") == 1
    assert said.count("written again") == 1


def test_a_part_that_a_full_disk_took_is_written_over(path, monkeypatch):
    monkeypatch.setattr(console, "_RETRY_INTERVAL_S", 0.0)
    log = ConsoleLog(path)
    with files_no_longer_than(1_000):
        log.feed(b"a" * 2_000)
        assert path.stat().st_size == 1_000
    log.feed(b"\r\x1b[Kshort")
    log.flush()
    assert read(path).rstrip(" ") == "short"
    log.close()
    assert read(path) == "short"


def test_lines_go_over_those_that_are_there_already(path):
    lines = [f"line {n}" for n in range(100)]
    stream = b"one\nother bar\x1b[A\r" + "\n".join(lines).encode()
    assert shown(path, stream).splitlines() == ["line 0", "line 1bar", *lines[2:]]


def test_what_memory_does_not_hold_while_the_disk_is_full_is_counted(path):
    log = ConsoleLog(path, max_bytes=50_000)
    with files_no_longer_than(0):
        for _ in range(10):
            log.feed(b"0123456789abcde\n" * 1_000)
    log.feed(b"after\n")
    log.close()
    lines = read(path).splitlines(keepends=True)
    lost = 10_000 - lines.count("0123456789abcde\n")
    assert lines[0] == f"[… {lost * 16:,} bytes left out …]\n"
    assert lines[-1] == "after\n"
    assert len(lines) < 1_000


def test_a_folder_that_is_not_there_is_said_and_not_raised(tmp_path, capsys):
    log = ConsoleLog(tmp_path / "gone" / "console.log")
    log.feed(b"text\n")
    log.close()
    assert "gone" in capsys.readouterr().err
