"""Real processes, real pipes and real terminals."""

import fcntl
import os
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil
import pytest

from experiment_tracking.capture.relay import ConsoleCapture

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 30


def read(path):
    return path.read_text(encoding="utf-8")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "console.log"


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
from experiment_tracking.capture.relay import ConsoleCapture
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
        "from experiment_tracking.capture.relay import ConsoleCapture\n"
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
    code = "import sys; sys.path.append(sys.argv[1]); import experiment_tracking.capture.relay\n"
    code += "print(*{name.split('.')[0] for name in sys.modules} - {*sys.stdlib_module_names})"
    command = [sys.executable, "-I", "-S", "-c", code, REPOSITORY]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == {"__main__", "experiment_tracking"}


def test_more_than_a_thousand_open_files_do_not_keep_the_console_from_being_read(path):
    code, out, err = run(
        "import os, resource\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4_096), hard))\n"
        "files = [os.open('/dev/null', os.O_RDONLY) for _ in range(1_100)]\n"
        + CAPTURE
        + "print('text', flush=True); os.write(2, b'error')\n"
        "assert capture.stop()\n",
        path,
    )
    assert (code, out, err) == (0, "text\n", "error")
    assert sorted(read(path)) == sorted(out + err)


def test_a_process_that_may_open_no_more_files_stays_as_it_was(path):
    code, out, err = run(
        "import fcntl, os, resource, subprocess, sys\n"
        "from experiment_tracking.capture.relay import ConsoleCapture\n"
        "before, refused, started = os.listdir('/dev/fd'), 0, False\n"
        "limits = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "for limit in range(3, 40):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))\n"
        "    try: capture = ConsoleCapture.start(sys.argv[1])\n"
        "    except OSError: refused += 1\n"
        "    else:\n"
        "        started = True\n"
        "        assert capture.stop()\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, limits)\n"
        "    assert os.listdir('/dev/fd') == before, limit\n"
        "    if started: break\n"
        "print(refused > 5, started)\n",
        path,
    )
    assert (code, err) == (0, "")
    assert out == "True True\n"


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="The processes are found in /proc.")
def test_what_a_scheduler_sends_to_all_processes_does_not_end_the_reading_one(path):
    process = start(
        CAPTURE + "import signal\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('saving', flush=True))\n"
        "print('ready', flush=True); signal.pause()\n"
        "sys.stdin.readline()\n"
        "print('going on'); assert capture.stop()\n",
        path,
        stdin=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        found = [int(name) for name in os.listdir("/proc") if is_about(name, path)]
        assert len(found) == 2
        for pid in found:
            os.kill(pid, signal.SIGUSR1)
        assert process.stdout.readline() == b"saving\n"
        out, _ = process.communicate(b"\n", timeout=PATIENCE_S)
    assert (process.returncode, out) == (0, b"going on\n")
    assert read(path) == "ready\nsaving\ngoing on\n"


def is_about(name, path):
    """Tell whether a process of that name in /proc has ``path`` in its command line."""
    try:
        return bytes(path) in Path("/proc", name, "cmdline").read_bytes()
    except OSError:
        return False


def test_python_without_an_interpreter_of_its_own_is_told_so(path):
    code, out, _ = run(
        CAPTURE.replace("capture =", "sys.executable = None\ntry: capture =")
        + "except OSError as error: print(error)\n",
        path,
    )
    assert code == 0
    assert "sys.executable" in out


# ---------------------------------------------------------------- around a command

RUN = """
import os, sys
from experiment_tracking.capture.console import ConsoleLog
from experiment_tracking.capture.relay import run_and_capture
console = ConsoleLog(sys.argv[1])
code = run_and_capture(sys.argv[2:], console, env=os.environ)
console.close()
sys.exit(code)
"""

RUN_WITHOUT_GRACE = "from experiment_tracking.capture import relay\nrelay._GRACE_S = 0.0" + RUN


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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_passed_on_to_the_command(path, name):
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


def test_a_key_that_quits_is_the_commands_to_deal_with(path, terminal):
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGQUIT, lambda *_: sys.exit(print('stacks') or 6))\n"
        "os.write(1, b'ready\\n'); signal.pause()"
    )
    process = terminal.start(RUN, path, sys.executable, "-c", script)
    terminal.read_until(b"ready")
    terminal.type(b"\x1c")
    terminal.read_until()
    assert process.wait(PATIENCE_S) == 6
    assert read(path) == "ready\nstacks\n"


def all_stopped(shell):
    jobs = psutil.Process(shell).children(recursive=True)
    return all(job.status() == psutil.STATUS_STOPPED for job in jobs)


def test_a_command_is_stopped_and_continued_by_the_shell_it_was_started_from(path, terminal):
    shell = "os.execvp('bash', ['bash', '--norc', '--noediting', '-i'])"
    process = terminal.start("import os\n" + shell)
    words = [sys.executable, "-c", RUN, path, "sh", "-c", "echo rea''dy; read line; echo got $line"]
    terminal.type(f"PS1=; {shlex.join(map(str, words))}; exit $?\n".encode())
    terminal.read_until(b"ready\r\n")
    terminal.type(b"\x1a")
    terminal.read_until(b"Stopped")
    # The shell says so when the first of them has stopped; the other may take a key until it has.
    wait_until(lambda: all_stopped(process.pid))
    terminal.type(b"fg\n")
    terminal.read_until(b"fg\r\n")
    terminal.type(b"a word\n")
    terminal.read_until(b"got a word")
    terminal.type(b"exit\n")
    terminal.read_until()
    assert process.wait(PATIENCE_S) == 0
    assert read(path) == "ready\ngot a word\n"


def test_questions_passwords_and_the_debugger_are_answered_at_the_terminal(path, terminal):
    script = (
        "import getpass\n"
        "print('hello', input('name? '))\n"
        "print(len(getpass.getpass('secret? ')))\n"
        "breakpoint()\n"
        "print('end')"
    )
    process = terminal.start(RUN, path, sys.executable, "-c", script)
    terminal.read_until(b"name? ")
    terminal.type(b"Ann\n")
    terminal.read_until(b"secret? ")
    wait_until(lambda: not termios.tcgetattr(terminal.ours)[3] & termios.ECHO)
    terminal.type(b"c4nary\n")
    terminal.read_until(b"(Pdb) ")
    terminal.type(b"p 6 * 7\n")
    terminal.read_until(b"42")
    terminal.type(b"c\n")
    shown = terminal.read_until()
    assert process.wait(PATIENCE_S) == 0
    assert "c4nary" not in shown + read(path)
    assert [word in read(path) for word in ("hello Ann", "6\n", "42", "end")] == [True] * 4


def test_the_terminal_is_left_in_the_mode_that_the_command_has_set(path, terminal):
    before = termios.tcgetattr(terminal.ours)
    process = terminal.start(RUN, path, "sh", "-c", "stty -echo; echo quiet")
    terminal.read_until()
    assert process.wait(PATIENCE_S) == 0
    after = termios.tcgetattr(terminal.ours)
    assert before[3] & ~after[3] == termios.ECHO
    assert [*before[:3], *before[4:]] == [*after[:3], *after[4:]]


def test_a_mode_that_is_set_through_stdout_is_the_terminals(path, terminal):
    before = termios.tcgetattr(terminal.ours)
    script = "exec 3<&1; saved=$(stty -g <&3); stty sane -echo <&3; read line; stty $saved <&3"
    process = terminal.start(RUN, path, "sh", "-c", script)
    wait_until(lambda: not termios.tcgetattr(terminal.ours)[3] & termios.ECHO)
    terminal.type(b"\n")
    terminal.read_until()
    assert process.wait(PATIENCE_S) == 0
    assert termios.tcgetattr(terminal.ours) == before


def test_a_program_that_draws_on_the_whole_screen_gets_its_keys(path, terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    before = termios.tcgetattr(terminal.ours)
    script = (
        "import curses\n"
        "def draw(screen):\n"
        "    screen.addstr('ready'); screen.refresh()\n"
        "    return chr(screen.getch())\n"
        "print('the key was', curses.wrapper(draw))"
    )
    process = terminal.start(RUN, path, sys.executable, "-c", script)
    terminal.read_until(b"ready")
    wait_until(lambda: not termios.tcgetattr(terminal.ours)[3] & (termios.ECHO | termios.ICANON))
    terminal.type(b"~")
    assert terminal.read_until().count("~") == 1
    assert process.wait(PATIENCE_S) == 0
    assert read(path).endswith("the key was ~\n")
    assert termios.tcgetattr(terminal.ours) == before


def test_the_exit_code_is_known_where_the_end_of_children_is_ignored(path):
    ignoring = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    code, *_ = run(ignoring + RUN, path, "sh", "-c", "exit 3")
    assert code == 3


def test_a_command_sees_a_terminal_and_its_new_size(path, terminal):
    script = (
        "import os, signal, sys\n"
        "def resized(*_): print(os.get_terminal_size(1).columns)\n"
        "signal.signal(signal.SIGWINCH, resized)\n"
        "print(sys.stdout.isatty(), os.get_terminal_size(1).columns)\n"
        "input(); resized()"
    )
    process = terminal.start(RUN, path, sys.executable, "-c", script)
    terminal.read_until(b"True 100\r\n")  # a signal may come before the end of the line
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
