"""Real processes, real pipes and real terminals; the file is what a person would have read."""

import contextlib
import fcntl
import io
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from experiment_tracking.capture.console import ConsoleCapture, ConsoleLog

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 30


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
    console = Console(file=Stream(log), force_terminal=True, width=60, legacy_windows=False)
    with Progress(console=console, auto_refresh=False) as progress:
        epochs = progress.add_task("epochs", total=3)
        for epoch in range(3):
            batches = progress.add_task(f"batches {epoch}", total=20)
            for _ in range(20):
                progress.update(batches, advance=1, refresh=True)
            progress.update(epochs, advance=1, refresh=True)
            console.print("epoch", epoch)
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


# ---------------------------------------------------------------- processes and terminals


def environment():
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def start(script, *arguments, **options):
    """Start a Python script in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()} | options
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, **options)


def run(script, *arguments, **options):
    """Run a Python script; return its exit code, stdout and stderr."""
    with start(script, *arguments, **options) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out.decode(), (err or b"").decode()


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class Terminal:
    """A terminal of ours: what a process shows on it, and its keyboard."""

    def __init__(self):
        self.ours, self.theirs = os.openpty()
        self.resize(30, 100)
        self.text = b""

    def resize(self, rows, columns):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def start(self, script, *arguments):
        """Start a script whose controlling terminal this is."""
        script = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n" + script
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self.theirs)
        process = start(script, *arguments, start_new_session=True, **ends)
        os.close(self.theirs)
        return process

    def type(self, keys):
        os.write(self.ours, keys)

    def read_until(self, text=None):
        """Read until ``text`` has been shown, or until everyone has closed the terminal."""
        while text is None or text not in self.text:
            assert select.select([self.ours], [], [], PATIENCE_S)[0], self.text
            try:
                data = os.read(self.ours, 65_536)
            except OSError:  # EIO: nobody has it open any more.
                data = b""
            self.text += data
            if not data:
                assert text is None, self.text
                break
        return self.text.decode()


@pytest.fixture
def terminal():
    terminal = Terminal()
    yield terminal
    os.close(terminal.ours)


# ---------------------------------------------------------------- inside a script

CAPTURE = """
import os, sys, subprocess
from experiment_tracking.capture.console import ConsoleCapture
capture = ConsoleCapture.start(sys.argv[1])
"""


def test_what_python_c_and_subprocesses_print_reaches_terminal_and_log(path):
    code, out, err = run(
        CAPTURE + "import ctypes\n"
        "print('from python', flush=True); ctypes.CDLL(None).puts(b'from C')\n"
        "assert capture.stop()\n"
        "capture = ConsoleCapture.start(sys.argv[1])\n"
        "subprocess.run(['sh', '-c', 'echo from a shell; echo its error >&2'])\n"
        "print('warning', file=sys.stderr)\n"
        "assert capture.stop()\n"
        "print('not captured')\n",
        path,
    )
    assert (code, err) == (0, "its error\nwarning\n")
    assert out == "from python\nfrom C\nfrom a shell\nnot captured\n"
    lines = read(path).splitlines()
    assert lines[:2] == ["from python", "from C"]
    assert sorted(lines[2:]) == ["from a shell", "its error", "warning"]


def test_c_code_that_prints_a_megabyte_with_the_gil_held_is_not_blocked(path):
    code, out, err = run(
        CAPTURE + "import ctypes\n"
        "held = ctypes.PyDLL(None)\n"  # PyDLL keeps the GIL during a call.
        "text = (b'x' * 99 + b'\\n') * 10_000\n"
        "assert held.write(1, text, len(text)) == len(text)\n"
        "held.printf(text); held.fflush(None)\n"
        "assert capture.stop(timeout_s=30)\n",
        path,
    )
    assert (code, err) == (0, "")
    assert out == ("x" * 99 + "\n") * 20_000
    assert read(path) == out


def test_a_forked_child_that_outlives_its_parent_reaches_terminal_and_log(path, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = start(
        CAPTURE + "if os.fork() == 0:\n"
        "    open(sys.argv[2]).read()\n"
        "    assert not capture.stop()\n"
        "    print('child', flush=True); os._exit(0)\n"
        "print('parent', flush=True)\n"
        "assert capture.stop()\n"
        "assert open(sys.argv[1]).read() == 'parent\\n'\n",
        path,
        gate,
    )
    with process:
        assert process.wait(PATIENCE_S) == 0
        assert read(path) == "parent\n"
        gate.write_text("go")
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (out, err) == (b"parent\nchild\n", b"")
    wait_until(lambda: read(path) == "parent\nchild\n")


def test_children_of_multiprocessing_are_captured(path):
    code, out, err = run(
        CAPTURE + "import multiprocessing\n"
        "processes = multiprocessing.get_context('fork')\n"
        "for n in range(3):\n"
        "    child = processes.Process(target=print, args=('worker', n), kwargs={'flush': True})\n"
        "    child.start(); child.join()\n"
        "assert capture.stop()\n",
        path,
    )
    assert (code, out, err) == (0, "worker 0\nworker 1\nworker 2\n", "")
    assert read(path) == out


def test_a_killed_process_has_lost_nothing_that_it_had_written(path):
    script = "os.write(1, b'step\\n' * 10_000); os.write(2, b'the last'); os.kill(os.getpid(), 9)"
    code, out, err = run(CAPTURE + script, path)
    assert code == -signal.SIGKILL
    assert (out, err) == ("step\n" * 10_000, "the last")
    wait_until(lambda: len(read(path)) == len(out + err))
    assert read(path).replace("the last", "") == out


def test_a_script_that_never_stops_the_capture_is_in_the_log(path):
    code, out, err = run(CAPTURE + "print('text')", path)
    assert (code, out, err) == (0, "text\n", "")
    wait_until(lambda: path.exists() and read(path) == "text\n")


def test_the_script_still_prints_to_a_terminal(path, terminal):
    process = terminal.start(
        CAPTURE + "assert os.isatty(1) and os.isatty(2) and sys.stdout.isatty()\n"
        "print(os.get_terminal_size(), flush=True)\n"
        "print('error', file=sys.stderr)\n"
        "os.write(1, b'\\x1b[1mbold\\x1b[0m 10%\\r20%\\n')\n"
        "assert capture.stop()\n"
        "print('after')\n",
        path,
    )
    shown = terminal.read_until()
    assert process.wait(PATIENCE_S) == 0
    size = "os.terminal_size(columns=100, lines=30)"
    assert shown == f"{size}\r\nerror\r\n\x1b[1mbold\x1b[0m 10%\r20%\r\nafter\r\n"
    assert read(path) == f"{size}\nerror\n20%d 10%\n"


def test_a_resized_terminal_is_resized_for_the_script(path, terminal):
    process = terminal.start(
        CAPTURE + "print('small', flush=True); sys.stdin.readline(); print('next', flush=True)\n"
        "while os.get_terminal_size(1).columns != 222: os.write(1, b'.')\n"
        "assert capture.stop()\n",
        path,
    )
    terminal.read_until(b"small")
    terminal.resize(30, 222)
    terminal.type(b"\n")
    terminal.read_until()
    assert process.wait(PATIENCE_S) == 0


def test_ctrl_c_reaches_the_script_and_not_the_reading_process(path, terminal):
    process = terminal.start(
        CAPTURE + "import time\n"
        "try:\n"
        "    print('ready', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
        "assert capture.stop()\n",
        path,
    )
    terminal.read_until(b"ready")
    terminal.type(b"\x03")
    assert "interrupted" in terminal.read_until()
    assert process.wait(PATIENCE_S) == 0
    assert read(path) == "ready\ninterrupted\n"


def test_stdout_and_stderr_in_one_pipe_keep_their_order(path):
    lines = "for n in range(500): os.write(1 + n % 2, b'%d\\n' % n)\nassert capture.stop()"
    code, out, _ = run(CAPTURE + lines, path, stderr=subprocess.STDOUT)
    assert code == 0
    assert out == read(path) == "".join(f"{n}\n" for n in range(500))


def test_stdout_goes_to_its_file_and_stays_complete(path, tmp_path):
    with open(tmp_path / "out.txt", "wb") as file:
        script = CAPTURE + "print('x' * 100_000)\nassert capture.stop()\nprint('end')"
        assert start(script, path, stdout=file, stderr=None).wait(PATIENCE_S) == 0
    assert read(tmp_path / "out.txt") == "x" * 100_000 + "\nend\n"
    assert read(path) == "x" * 65_536 + "\n" + "x" * (100_000 - 65_536) + "\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 2)])
def test_closed_descriptors_stay_closed(path, closed):
    code, *printed = run(
        f"import os, sys\nfor fd in {closed}: os.close(fd)\n" + CAPTURE + "def is_open(fd):\n"
        "    try: os.fstat(fd)\n"
        "    except OSError: return False\n"
        "    return True\n"
        "during = [fd for fd in (0, 1, 2) if not is_open(fd)]\n"
        "os.write(2 if 1 in during else 1, b'text\\n')\n"
        "assert capture.stop()\n"
        "after = [fd for fd in (0, 1, 2) if not is_open(fd)]\n"
        f"sys.exit(7 if during == after == list({closed}) else 1)\n",
        path,
    )
    assert code == 7
    assert "".join(printed) == read(path) == "text\n"


def test_without_any_output_the_capture_says_so(path):
    code, *_ = run(
        "import os, sys\nfor fd in (0, 1, 2): os.close(fd)\n"
        "from experiment_tracking.capture.console import ConsoleCapture\n"
        "try: ConsoleCapture.start(sys.argv[1])\n"
        "except OSError as error: sys.exit(7 if 'closed' in str(error) else 1)\n",
        path,
    )
    assert code == 7


def test_a_second_capture_is_refused_and_the_first_goes_on(path):
    code, out, err = run(
        CAPTURE + "try: ConsoleCapture.start('other')\n"
        "except OSError as error: print(error)\n"
        "assert capture.stop() and not capture.stop()\n",
        path,
    )
    assert (code, err) == (0, "")
    assert "captured already" in out
    assert read(path) == out


def test_an_interpreter_that_does_not_start_leaves_everything_as_it_was(path):
    code, out, err = run(
        CAPTURE.replace("capture =", "sys.executable = '/bin/false'\ntry: capture =")
        + "except OSError as error: print(error)\n"
        "sys.executable = '/no/such/python'\n"
        "try: ConsoleCapture.start(sys.argv[1])\n"
        "except OSError as error: print(error)\n"
        "print(sorted(os.listdir('/dev/fd'))[:4])",
        path,
    )
    assert (code, err) == (0, "")
    assert "did not start" in out
    assert "/no/such/python" in out
    assert out.splitlines()[-1] == "['0', '1', '2', '3']"  # 3 is the listing's own.
    assert not path.exists()


def test_a_reader_that_goes_away_is_met_as_a_broken_pipe(path):
    process = start(CAPTURE + "while True: print('y' * 1_000)", path)
    with process:
        process.stdout.read(10)
        process.stdout.close()
        error = process.stderr.read().decode()
        assert process.wait(PATIENCE_S) == 1
    assert "BrokenPipeError" in error
    wait_until(lambda: "BrokenPipeError" in read(path))


def test_a_descriptor_that_was_pointed_elsewhere_is_left_alone(path, tmp_path):
    code, out, _ = run(
        CAPTURE + "os.dup2(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), 1)\n"
        "assert capture.stop()\n"
        "print('elsewhere')\n",
        path,
        tmp_path / "elsewhere",
    )
    assert (code, out) == (0, "")
    assert read(tmp_path / "elsewhere") == "elsewhere\n"


def test_a_script_that_waits_for_all_its_children_does_not_meet_the_reading_process(path):
    code, out, _ = run(
        CAPTURE + "try: os.wait()\n"
        "except ChildProcessError: print('no children')\n"
        "assert capture.stop()\n",
        path,
    )
    assert (code, out) == (0, "no children\n")


def test_a_full_disk_does_not_stop_the_terminal(path):
    code, out, err = run(
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))\n"
        + CAPTURE
        + "print('x\\n' * 10_000, end='')\n"
        "assert capture.stop()\n",
        path,
    )
    assert (code, out) == (0, "x\n" * 10_000)
    assert err.count("cannot be written") == err.count("\n") == 1
    assert read(path) == "x\n" * 500


def test_a_capture_within_another_capture_gives_back_what_it_found(path, capfd):
    capture = ConsoleCapture.start(path)
    os.write(1, b"out\n")
    os.write(2, b"err\n")
    assert capture.stop()
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("out\nafter\n", "err\n")
    assert sorted(read(path).splitlines()) == ["err", "out"]


def test_no_descriptor_stays_open(path):
    before = os.listdir("/dev/fd")
    for _ in range(2):
        assert ConsoleCapture.start(path).stop()
    assert os.listdir("/dev/fd") == before


def test_the_reading_process_needs_the_standard_library_only():
    code = "import sys; sys.path.append(sys.argv[1]); import experiment_tracking.capture.console\n"
    code += "print(*{name.split('.')[0] for name in sys.modules} - {*sys.stdlib_module_names})"
    command = [sys.executable, "-I", "-S", "-c", code, REPOSITORY]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == {"__main__", "experiment_tracking"}


# ---------------------------------------------------------------- around a command

RUN = """
import os, sys
from experiment_tracking.capture.console import ConsoleLog, run_and_capture
console = ConsoleLog(sys.argv[1])
code = run_and_capture(sys.argv[2:], console, env=os.environ)
console.close()
sys.exit(code)
"""

RUN_WITHOUT_GRACE = "from experiment_tracking.capture import console\nconsole._GRACE_S = 0.0" + RUN


def test_a_command_is_shown_and_logged(path):
    code, out, err = run(RUN, path, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (code, out, err) == (3, "out\n", "err\n")
    assert sorted(read(path).splitlines()) == ["err", "out"]


@pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV"])
def test_a_signal_is_an_exit_code_as_in_a_shell(path, name):
    code, *_ = run(RUN, path, "sh", "-c", f"kill -{name} $$")
    assert code == 128 + signal.Signals[f"SIG{name}"]


def test_stdin_goes_through(path):
    process = start(RUN, path, "cat", stdin=subprocess.PIPE)
    with process:
        out, err = process.communicate(b"typed", timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (0, b"typed", b"")
    assert read(path) == "typed"


def test_a_command_that_does_not_exist_is_named(path):
    code, _, err = run(RUN, path, "no-such-command")
    assert code == 1
    assert "FileNotFoundError: Cannot run 'no-such-command'" in err


def test_python_does_not_hold_back_what_it_prints_into_a_pipe(path, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = "import sys; print('printed'); open(sys.argv[1]).read()"
    process = start(RUN, path, sys.executable, "-c", script, gate)
    with process:
        assert process.stdout.readline() == b"printed\n"
        wait_until(lambda: path.exists() and read(path) == "printed\n")
        gate.write_text("go")
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_is_passed_on_to_the_command(path, name):
    script = f"trap 'echo got {name}; exit 5' {name[3:]}; echo ready; while :; do sleep 0.05; done"
    process = start(RUN, path, "sh", "-c", script)
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.Signals[name])
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (5, f"got {name}\n".encode())
    assert read(path) == f"ready\ngot {name}\n"


def test_ctrl_c_ends_the_command_and_its_last_words_are_logged(path, terminal):
    script = "trap 'echo interrupted; exit 6' INT; echo ready; while :; do sleep 0.05; done"
    process = terminal.start(RUN, path, "sh", "-c", script)
    terminal.read_until(b"ready")
    terminal.type(b"\x03")
    terminal.read_until()
    assert process.wait(PATIENCE_S) == 6
    assert read(path) == "ready\ninterrupted\n"


def test_a_command_sees_a_terminal_and_its_new_size(path, terminal):
    script = (
        "import os, signal, sys\n"
        "def resized(*_): print(os.get_terminal_size(1).columns)\n"
        "signal.signal(signal.SIGWINCH, resized)\n"
        "print(sys.stdout.isatty(), os.get_terminal_size(1).columns)\n"
        "input(); resized()"
    )
    process = terminal.start(RUN, path, sys.executable, "-c", script)
    terminal.read_until(b"True 100")
    terminal.resize(30, 222)
    terminal.read_until(b"222")
    terminal.type(b"\n")
    terminal.read_until()
    assert process.wait(PATIENCE_S) == 0
    assert read(path).splitlines()[0] == "True 100"


def test_a_grandchild_that_keeps_stdout_does_not_keep_us(path, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = "(read line < $0; echo late) & echo early"
    process = start(RUN_WITHOUT_GRACE, path, "sh", "-c", script, gate, stderr=subprocess.DEVNULL)
    with process:
        assert process.wait(PATIENCE_S) == 0
        assert read(path) == "early\n"
        gate.write_text("go\n")


def test_a_command_whose_reader_goes_away_ends_as_it_would_have(path):
    process = start(RUN, path, "sh", "-c", "trap '' PIPE; while echo y; do :; done; exit 9")
    with process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 9
    assert read(path).startswith("y\ny\n")


def test_a_slow_reader_gets_all_after_the_command_has_ended(path, tmp_path):
    ended = tmp_path / "ended"
    script = "yes 0123456789abcde | head -n 8000; : > $0"
    process = start(RUN_WITHOUT_GRACE, path, "sh", "-c", script, ended)
    with process:
        wait_until(ended.exists)
        assert process.stdout.read() == b"0123456789abcde\n" * 8_000
        assert process.wait(PATIENCE_S) == 0
    assert read(path) == "0123456789abcde\n" * 8_000


def test_two_hundred_thousand_lines_pass_whole_and_the_log_is_bounded(path):
    script = RUN.replace("(sys.argv[1])", "(sys.argv[1], max_bytes=500_000)")
    code, out, _ = run(script, path, "seq", "1", "200000")
    assert code == 0
    assert out == "".join(f"{n}\n" for n in range(1, 200_001))
    assert path.stat().st_size < 600_000
    text = read(path)
    assert text.startswith("1\n2\n")
    assert text.endswith("\n200000\n")
    assert text.count(" bytes left out …]\n") == 1
