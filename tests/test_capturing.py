"""What a run records about how it is made, by real scripts in real repositories."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import pytest

import experiment_tracking
from experiment_tracking import capturing
from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.folder.check import check

PACKAGE_PARENT = os.path.dirname(os.path.dirname(experiment_tracking.__file__))

START = """
import json, os, signal, subprocess, sys, time
from experiment_tracking import ExperimentTracker
def make(**options):
    return ExperimentTracker("p", "r", **{"use_tensorboard": False} | options)
"""
TRACK = "tracker = make()\ntracker.log_metrics({'x': 1})\n"


class Kept:
    """A run's folder, and what is recorded in it."""

    def __init__(self, path):
        self.path = path

    def document(self, name):
        return json.loads((self.path / f"{name}.json").read_text())

    @property
    def environment(self):
        return self.document("environment")

    @property
    def code(self):
        """Origin of each kept file by its name, in the order in which they came."""
        return {file["path"]: file["origin"] for file in self.environment["code"]["files"]}

    @property
    def left_out(self):
        """Reasons by path; the tests themselves, imported from elsewhere, set aside."""
        tests = str(Path(__file__).parent)
        return {
            one["path"]: one["reason"]
            for one in self.environment["code"]["left_out"]
            if not one["path"].startswith(tests)
        }

    @property
    def console(self):
        return (self.path / "console.log").read_text()

    def on_disk(self):
        files = (path for path in (self.path / "code").rglob("*") if path.is_file())
        return {path.relative_to(self.path / "code").as_posix() for path in files}


class Lab:
    """A folder with a project, in which scripts are started as a person would."""

    def __init__(self, folder, root):
        self.folder, self.root = folder, root
        folder.mkdir()

    def write(self, name, text=""):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def git(self, *arguments, cwd=None):
        done = subprocess.run(
            ["git", *arguments], cwd=cwd or self.folder, check=True, capture_output=True
        )
        return done.stdout.decode().strip()

    def commit(self):
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message=first")
        return self.git("rev-parse", "HEAD")

    def start(self, *words, **variables):
        env = {
            "EXPERIMENT_TRACKING_ROOT": str(self.root),
            "PYTHONPATH": PACKAGE_PARENT,
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, *words], cwd=self.folder, env=os.environ | env | variables, text=True,
            **pipes,
        )  # fmt: skip

    def run(self, *words, stdin=None, **variables):
        """Run Python with these arguments; return its exit code, stdout and stderr."""
        process = self.start(*words, **variables)
        out, err = process.communicate(stdin, timeout=120)
        return process.returncode, out, err

    def train(self, script, **variables):
        """Run these lines as ``train.py``."""
        self.write("train.py", START + textwrap.dedent(script))
        return self.run("train.py", **variables)

    def kept(self, name="r"):
        return Kept(self.root / "p" / name)


@pytest.fixture
def lab(tmp_path, root, plain_git):
    return Lab(tmp_path / "lab", root)


@pytest.fixture
def here(lab, monkeypatch):
    """The lab, as the working directory of this process."""
    monkeypatch.chdir(lab.folder)
    return lab


def drop_unfinished(lab):
    """Delete what a killed writer was about to put in place, which a check would name."""
    for path in lab.root.rglob(".*.tmp"):
        path.unlink()


def opening_line(lab, err, name="r"):
    return err == f"experiment_tracking: run p/{name} in {lab.root}/p/{name}\n"


# ---------------------------------------------------------------------- complete at the end


@pytest.mark.parametrize(
    ("last", "code"),
    [("", 0), ("tracker.finish()", 0), ("sys.exit(3)", 3), ("1 / 0", 1)],
)
def test_the_capture_is_complete_however_soon_and_however_a_script_ends(lab, last, code):
    lab.write("helper.py", "FACTOR = 2\n")
    lab.write("train.py", f"{START}import helper\n{TRACK}{last}\n")
    commit = lab.commit()
    lab.write("notes.py", "# not committed\n")
    processes = [lab.start("train.py") for _ in range(5)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == code, err
    for name in ("r", "r-2", "r-3", "r-4", "r-5"):
        kept = lab.kept(name)
        assert kept.environment["git"]["commit"] == kept.document("summary")["commit"] == commit
        assert kept.environment["packages"]["orjson"]
        assert kept.environment["entry_script"]["relative_name"] == "train.py"
        assert kept.environment["notes"] == []
        assert kept.code == {"train.py": "script", "helper.py": "module", "notes.py": "untracked"}
        assert kept.on_disk() == set(kept.code)


def test_each_kept_file_is_listed_with_its_size_and_hash(lab):
    lab.train(TRACK)
    (entry,) = lab.kept().environment["code"]["files"]
    data = (lab.folder / "train.py").read_bytes()
    assert (lab.kept().path / "code/train.py").read_bytes() == data
    assert entry == {
        "path": "train.py", "origin": "script", "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(), "redacted": False,
    }  # fmt: skip


def test_a_run_that_is_opened_by_an_import_is_captured(lab):
    lab.write("opened.py", START + "tracker = make()\ntracker.start_run('r')\n")
    lab.write("train.py", "import opened\n")
    assert lab.run("train.py")[0] == 0
    assert lab.kept().code == {"train.py": "script", "opened.py": "module"}


def test_the_script_is_kept_as_it_was_at_the_start(lab):
    lab.train("""
        run = make().start_run("r")
        run._writer.follower.settle()
        open("train.py", "a").write("# edited while it runs\\n")
    """)
    assert "edited" in (lab.folder / "train.py").read_text()
    assert "# edited while it runs\n" not in (lab.kept().path / "code/train.py").read_text()


# ---------------------------------------------------------------------- git


def test_the_patch_makes_the_commit_what_was_run_and_untracked_code_is_kept(lab, tmp_path):
    lab.write("train.py", "print('old')\n")
    (lab.folder / "table.bin").write_bytes(bytes(range(256)))
    commit = lab.commit()
    lab.write("sub/helper.py", "FACTOR = 3\n")
    (lab.folder / "table.bin").write_bytes(bytes(range(255, -1, -1)))
    lab.train(TRACK)
    kept = lab.kept()
    assert (kept.environment["git"]["dirty"], kept.environment["git"]["changed"]) == (True, 2)
    assert kept.code == {"train.py": "script", "sub/helper.py": "untracked"}
    clone = tmp_path / "clone"
    lab.git("clone", "--quiet", str(lab.folder), str(clone))
    lab.git("checkout", "--quiet", commit, cwd=clone)
    lab.git("apply", "--binary", str(kept.path / "code/git.patch"), cwd=clone)
    for name in ("train.py", "table.bin"):
        assert (clone / name).read_bytes() == (lab.folder / name).read_bytes()


def test_the_runs_inside_a_repository_are_never_kept_as_its_code(lab):
    lab.write("train.py", START + TRACK)
    lab.commit()
    lab.root = lab.folder / "experiments"
    for _ in range(2):
        lab.run("train.py")
    second = lab.kept("r-2")
    assert second.code == {"train.py": "script"}
    assert (second.left_out, second.on_disk()) == ({}, {"train.py"})
    assert check(lab.root) == []


def test_untracked_code_inside_a_submodule_is_kept(lab, tmp_path):
    lab.write("model.py")
    lab.commit()
    outer = Lab(tmp_path / "outer", lab.root)
    outer.write("train.py", START + TRACK)
    outer.commit()
    local = ("-c", "protocol.file.allow=always")
    outer.git(*local, "submodule", "--quiet", "add", str(lab.folder), "inner")
    outer.git("commit", "--quiet", "--message=second")
    outer.write("inner/untracked.py")
    assert outer.run("train.py")[0] == 0
    assert outer.kept().code == {"train.py": "script", "inner/untracked.py": "untracked"}


def no_git(lab):
    (lab.folder / "nothing").mkdir()
    return {"PATH": str(lab.folder / "nothing")}


def no_head(lab):
    (lab.folder / ".git/HEAD").write_text("garbage")


def broken_index(lab):
    (lab.folder / ".git/index").write_bytes(b"garbage")


def lost_worktree(lab):
    shutil.rmtree(lab.folder / ".git")
    (lab.folder / ".git").write_text("gitdir: /nowhere/at/all\n")


def unreadable(lab):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (lab.folder / ".git/index").chmod(0)


@pytest.mark.parametrize("spoil", [no_git, no_head, broken_index, lost_worktree, unreadable])
def test_where_git_cannot_be_asked_that_is_noted_and_training_goes_on(lab, spoil):
    lab.write("train.py", START + TRACK)
    lab.commit()
    code, out, err = lab.run("train.py", **(spoil(lab) or {}))
    assert (code, out, opening_line(lab, err)) == (0, "", True), err
    kept = lab.kept()
    git = kept.environment["git"]
    assert git["dirty"] is None
    assert "git" in git["note"]
    assert (kept.code, kept.environment["packages"] != {}) == ({"train.py": "script"}, True)
    assert kept.document("summary")["history"]["rows"] == 1


def test_before_the_first_commit_the_code_is_kept_all_the_same(lab):
    lab.git("init", "--quiet", "--initial-branch=main")
    lab.write("helper.py")
    code, _, err = lab.train(TRACK)
    assert (code, opening_line(lab, err)) == (0, True), err
    git = lab.kept().environment["git"]
    assert (git["commit"], git["branch"], git["note"]) == (None, "main", None)
    assert lab.kept().code == {"train.py": "script", "helper.py": "untracked"}


# ---------------------------------------------------------------------- modules


def test_modules_are_kept_whenever_they_are_imported(lab):
    lab.write("pkg/__init__.py")
    lab.write("pkg/layers.py", "from . import blocks\n")
    lab.write("pkg/blocks.py")
    lab.write("space/part.py", "# of a namespace package\n")
    lab.write("late.py")
    lab.write("latest.py")
    code, out, err = lab.train("""
        import pkg.layers, space.part
        def kept():
            listed = json.load(open(run._writer.folder.environment))["code"]["files"]
            return sorted(file["path"] for file in listed)
        run = make().start_run("r")
        run._writer.follower.settle()
        print(json.dumps(kept()))
        import late
        run._writer.capture.look_again()
        print(json.dumps(kept()))
        import latest
    """)
    assert (code, opening_line(lab, err)) == (0, True), err
    first, second = map(json.loads, out.splitlines())
    started = ["pkg/__init__.py", "pkg/blocks.py", "pkg/layers.py", "space/part.py", "train.py"]
    assert first == started
    assert second == sorted([*started, "late.py"])
    assert sorted(lab.kept().code) == sorted([*started, "late.py", "latest.py"])


def test_a_script_outside_any_project_is_kept_with_the_modules_beside_it(lab):
    lab.write("helper.py")
    lab.train("import helper\n" + TRACK)
    assert lab.kept().environment["project"] is None
    assert lab.kept().code == {"train.py": "script", "helper.py": "module"}


def test_a_module_run_by_its_name_is_the_entry_script(lab):
    lab.write("pyproject.toml", "[project]\n")
    lab.write("pkg/__init__.py")
    lab.write("pkg/train.py", START + TRACK)
    assert lab.run("-m", "pkg.train")[0] == 0
    script = lab.kept().environment["entry_script"]
    assert (script["module"], script["relative_name"]) == ("pkg.train", "pkg/train.py")
    assert lab.kept().code == {
        "pkg/train.py": "script", "pkg/__init__.py": "module", "pyproject.toml": "lock_file",
    }  # fmt: skip


@pytest.mark.parametrize("how", ["an argument", "standard input"])
def test_without_a_script_the_modules_beside_the_working_folder_are_kept(lab, how):
    lab.write("helper.py")
    code = START + "import helper\n" + TRACK
    done = lab.run("-c", code) if how == "an argument" else lab.run("-", stdin=code)
    assert done[0] == 0
    assert lab.kept().environment["entry_script"] is None
    assert lab.kept().code == {"helper.py": "module"}
    assert lab.kept().environment["notes"] == []


# ---------------------------------------------------------------------- what is left out


def test_secrets_and_large_files_are_left_out_and_listed_with_the_reason(lab):
    lab.git("init", "--quiet")
    secret = "hunter2-" + "q7" * 20
    for name in (".env", ".env.local", "secrets.yaml", "credentials.json"):
        lab.write(name, secret)
    lab.write("id_rsa", secret)
    lab.write("server.pem", secret)
    lab.write("table.json", "[" + "1," * 600_000 + "1]")
    lab.train(TRACK)
    kept = lab.kept()
    assert kept.on_disk() == {"train.py"}
    assert set(kept.left_out) == {
        ".env", ".env.local", "credentials.json", "secrets.yaml", "table.json",
    }  # fmt: skip
    assert "credentials" in kept.left_out[".env"]
    assert "1,000,000" in kept.left_out["table.json"]
    files = [path for path in kept.path.rglob("*") if path.is_file()]
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


def captured(make, **options):
    """Open a run in this process, and have it captured at once."""
    run = make("p", auto_log=True, **options).start_run("r")
    run._writer.follower.settle()
    return run


@pytest.mark.parametrize(
    ("bound", "value", "reason"),
    [("MAX_CODE_FILES", 3, "more than 3 files"), ("MAX_CODE_BYTES", 350, "more than 350 bytes")],
)
def test_files_beyond_the_bounds_are_listed_as_left_out(
    here, make, monkeypatch, bound, value, reason
):
    monkeypatch.setattr(capturing, bound, value)
    here.git("init", "--quiet")
    for number in range(5):
        here.write(f"{number}.py", "#" * 100)
    kept = Kept(captured(make).path)
    assert set(kept.code) == kept.on_disk() == {"0.py", "1.py", "2.py"}
    assert set(kept.left_out) == {"3.py", "4.py"}
    assert all(why.startswith(reason) for why in kept.left_out.values())


def test_a_module_that_comes_late_and_may_not_be_kept_is_listed(lab):
    lab.write("table.py", "#" * 1_000_001)
    lab.train("tracker = make()\ntracker.start_run('r')._writer.follower.settle()\nimport table\n")
    assert set(lab.kept().left_out) == {"table.py"}


def test_what_fails_in_the_capture_is_noted_and_does_not_end_anything(here, make, monkeypatch):
    monkeypatch.setattr("experiment_tracking.capture.code.lock_files", lambda root, folder: 1 / 0)
    run = captured(make)
    run.end_run()
    kept = Kept(run.path)
    assert kept.environment["notes"] == ["lock files: ZeroDivisionError: division by zero"]
    assert kept.document("summary")["status"] == "finished"


def test_a_record_that_cannot_be_written_does_not_keep_the_run_from_ending(
    here, make, monkeypatch, capfd
):
    late = types.ModuleType("late")
    late.__file__ = str(here.write("late.py"))
    run = make("p", auto_log=True, on_error="raise").start_run("r")
    with run._writer.follower.lock:
        environment = run.path / "environment.json"
        environment.unlink(missing_ok=True)
        environment.mkdir()
        run._writer.follower.settle()
    monkeypatch.setitem(sys.modules, "late", late)
    run.end_run()
    assert (run.path / "code/late.py").exists()
    environment.rmdir()
    assert Kept(run.path).document("summary")["status"] == "finished"
    assert "failed" not in capfd.readouterr().err


# ---------------------------------------------------------------------- auto_log=False


@pytest.mark.parametrize("auto_log", [True, False])
def test_without_auto_log_nothing_is_recorded_and_no_git_started(lab, auto_log):
    git = lab.write("bin/git", "#!/bin/sh\ntouch asked\nexit 1\n")
    git.chmod(0o755)
    path = f"{git.parent}{os.pathsep}{os.environ['PATH']}"
    code, _, err = lab.train(TRACK.replace("()", f"(auto_log={auto_log})", 1), PATH=path)
    assert (code, opening_line(lab, err)) == (0, True), err
    names = {entry.name for entry in lab.kept().path.iterdir()}
    assert (lab.folder / "asked").exists() is auto_log
    assert ("environment.json" in names, "code" in names) == (auto_log, auto_log)
    assert "system_metrics.json" not in names


# ---------------------------------------------------------------------- system metrics


def samples_of(run):
    return json.loads((run.path / "system_metrics.json").read_text())


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_samples_come_while_the_run_is_open_and_the_file_is_whole_all_the_time(here, make):
    run = make("p", auto_log=True, system_metrics_interval_s=1).start_run("r")
    path = run.path / "system_metrics.json"
    wait_until(path.exists)
    wait_until(lambda: samples_of(run))
    (first, *_) = samples_of(run)
    assert first["memory/used_bytes"] > 0
    assert "attempt" not in first
    run.end_run()
    assert samples_of(run)[0] == first


def test_the_samples_of_a_further_attempt_say_so(here, make):
    for _ in range(2):
        run = captured(make, resume="allow")
        run._writer.samples.take()
        run.end_run()
    assert [row.get("attempt") for row in samples_of(run)] == [None, 2]


def test_without_an_interval_there_are_no_samples(here, make):
    run = captured(make, system_metrics_interval_s=None)
    run.end_run()
    assert run._writer.samples is None
    assert not (run.path / "system_metrics.json").exists()
    assert (run.path / "environment.json").exists()


@pytest.mark.parametrize("seconds", [0, 0.5, -1, float("nan")])
def test_an_interval_below_a_second_is_refused(make, seconds):
    with pytest.raises(InvalidValueError, match="must be 1 or more"):
        make("p", system_metrics_interval_s=seconds)


@pytest.mark.parametrize("seconds", [True, "10", [10]])
def test_an_interval_that_is_no_number_is_refused(make, seconds):
    with pytest.raises(InvalidTypeError, match="takes seconds or None"):
        make("p", system_metrics_interval_s=seconds)


def test_samples_follow_a_run_whose_folder_was_moved(here, make, root, capfd):
    run = captured(make)
    run._writer.samples.take()
    shutil.move(run.path, root / "p" / "moved")
    run._writer.samples.take()
    run._writer.samples.take()
    run.end_run()
    assert (run.name, len(samples_of(run))) == ("moved", 3)
    assert not (root / "p" / "r").exists()
    assert "stopped" not in capfd.readouterr().err


def test_samples_go_on_in_a_folder_that_was_deleted_while_the_run_is_open(here, make, capfd):
    run = captured(make)
    run._writer.samples.take()
    shutil.rmtree(run.path)
    run._writer.samples.take()
    run.end_run()
    assert len(samples_of(run)) == 1
    assert "stopped" not in capfd.readouterr().err


def test_samples_that_cannot_be_written_stop_with_one_notice(here, make, capfd):
    run = make("p", auto_log=True, system_metrics_interval_s=600).start_run("r")
    with run._writer.follower.lock:
        run._writer.samples.close()
        run._writer.samples = samples = capturing.SystemSamples(run._writer, 1)
        path = run.path / "system_metrics.json"
        path.unlink(missing_ok=True)
        path.mkdir()
        for _ in range(3):
            samples.take()
    path.rmdir()
    run.end_run()
    assert capfd.readouterr().err.count("system metrics stopped") == 1


def open_files_of(run):
    held = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    return sorted(path for path in held if path.startswith(str(run.path)))


def test_a_forked_child_takes_no_samples_into_its_parents_file(here, make):
    run = captured(make)
    samples = run._writer.samples
    samples.take()
    pid = os.fork()
    if pid == 0:
        samples.take()
        os._exit(len(open_files_of(run)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    samples.take()
    run.end_run()
    assert len(samples_of(run)) == 2


def test_no_file_of_the_run_stays_open_behind_its_end(here, make):
    run = captured(make)
    run._writer.samples.take()
    assert str(run.path / "system_metrics.json") in open_files_of(run)
    run.end_run()
    assert open_files_of(run) == []


# ---------------------------------------------------------------------- the console


PRINTING = """
import ctypes
tracker = make(capture_console=True)
tracker.log_metrics({"x": 1})
print("by Python", flush=True)
os.write(1, b"by the system\\n")
ctypes.CDLL(None).puts(b"by C")
ctypes.CDLL(None).fflush(None)
subprocess.run(["echo", "by a subprocess"])
print("an error", file=sys.stderr)
"""
PRINTED = "by Python\nby the system\nby C\nby a subprocess\n"


def test_all_that_is_printed_until_the_run_ends_is_kept_and_still_shown(lab):
    code, out, err = lab.train(PRINTING + "tracker.finish()\nprint('later')\n")
    assert (code, out) == (0, PRINTED + "later\n")
    assert err.endswith("an error\n")
    lines = lab.kept().console.splitlines()
    assert [line for line in lines if line.startswith("by ")] == PRINTED.splitlines()
    assert "an error" in lines
    assert "later" not in lines


def test_without_being_asked_for_the_console_is_not_kept(lab):
    lab.train(TRACK + "print('hello')\n")
    assert not (lab.kept().path / "console.log").exists()


def test_the_console_of_a_run_under_experiments_run_is_kept_once(lab):
    lab.write("train.py", START + PRINTING)
    words = ("-m", "experiment_tracking", "run", "--", sys.executable, "train.py")
    code, out, err = lab.run(*words)
    assert (code, out) == (0, PRINTED), err
    (path,) = lab.root.glob("*/*/console.log")
    lines = path.read_text().splitlines()
    assert [line for line in lines if line.startswith("by ")] == PRINTED.splitlines()


def test_a_second_run_at_the_same_time_says_once_that_the_console_goes_to_the_first(lab):
    code, out, err = lab.train("""
        tracker = make(capture_console=True)
        first, second = tracker.start_run("first"), tracker.start_run("second")
        print("both")
        first.end_run()
        with tracker.start_run("third"):
            print("third")
    """)
    assert (code, out) == (0, "both\nthird\n")
    assert err.count("the console goes to another open run") == 1
    assert err.count("run 'second': the console goes") == 1
    assert "both\n" in lab.kept("first").console
    assert not (lab.kept("second").path / "console.log").exists()
    assert "third\n" in lab.kept("third").console


def test_the_traceback_of_a_failing_script_is_in_the_log(lab):
    code, _, err = lab.train(PRINTING + "raise ValueError('loss is NaN')\n")
    assert code == 1
    for text in (err, lab.kept().console):
        assert text.count("Traceback") == 1
        assert "ValueError: loss is NaN\n" in text


def test_a_further_attempt_goes_on_behind_a_line_of_its_own(lab):
    script = """
        tracker = make(capture_console=True, resume="allow")
        tracker.log_metrics({"x": 1})
        print("trained")
    """
    for _ in range(3):
        assert lab.train(script)[0] == 0
    lines = lab.kept().console.splitlines()
    # What goes to stderr, the opening line, has no place among what goes to stdout.
    assert [line for line in lines if not line.startswith("experiment_tracking:")] == [
        "trained", "[attempt 2]", "trained", "[attempt 3]", "trained",
    ]  # fmt: skip


def test_a_killed_process_has_lost_nothing_that_it_printed(lab):
    code, out, _ = lab.train(PRINTING + "os.kill(os.getpid(), signal.SIGKILL)\n")
    assert (code, out) == (-signal.SIGKILL, PRINTED)
    log = lab.kept().path / "console.log"
    # The reading process outlives the script by a moment.
    everything = {*PRINTED.splitlines(), "an error"}
    wait_until(lambda: log.exists() and everything <= set(log.read_text().splitlines()))
    drop_unfinished(lab)


def test_what_a_forked_child_prints_is_kept_and_its_own_run_has_a_console_of_its_own(lab):
    code, out, err = lab.train("""
        tracker = make(capture_console=True)
        run = tracker.start_run("parent")
        if (pid := os.fork()) == 0:
            print("of the child", flush=True)
            with make(capture_console=True).start_run("child"):
                print("of its run", flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print("of the parent")
    """)
    assert (code, out) == (0, "of the child\nof its run\nof the parent\n"), err
    parent, child = lab.kept("parent").console, lab.kept("child").console
    assert [line in parent for line in out.splitlines()] == [True, True, True]
    assert [line in child for line in out.splitlines()] == [False, True, False]
    assert "goes to another" not in err


def test_code_that_was_edited_after_the_start_is_kept_with_a_word_of_doubt(lab):
    lab.write("helper.py", "X = 1\n")
    code, _, err = lab.train("""
        import helper, time
        os.utime("helper.py", (time.time() + 5, time.time() + 5))
        make().log_param("lr", 1)
    """)
    assert code == 0, err
    notes = lab.kept().environment["notes"]
    assert notes == ["changed since the process started, and kept as it is now: helper.py"]


def test_code_from_outside_of_the_project_is_listed_and_not_kept(lab, tmp_path):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "shared.py").write_text("X = 1\n")
    lab.write("pyproject.toml")
    code, _, err = lab.train(f"""
        import sys
        sys.path.append({str(tmp_path / "common")!r})
        import shared
        make().log_param("lr", 1)
    """)
    assert code == 0, err
    assert lab.kept().left_out == {str(tmp_path / "common/shared.py"): "outside of the project"}
    assert "shared.py" not in lab.kept().code


# ---------------------------------------------------------------------- seeds


@pytest.mark.parametrize("auto_log", [True, False])
def test_a_seed_is_recorded_with_what_it_has_seeded(lab, auto_log):
    code, out, err = lab.train(f"""
        import numpy
        tracker = make(auto_log={auto_log})
        print(tracker.seed_everything(7))
        tracker.log_param("lr", 0.1)
    """)
    assert (code, out) == (0, "7\n"), err
    environment = lab.kept().environment
    assert environment["seeds"] == {"seed": 7, "seeded": ["random", "numpy"]}
    assert ("packages" in environment) is auto_log


def test_a_seed_that_is_set_before_a_run_opens_is_that_runs(make, root):
    tracker = make("p")
    tracker.seed_everything(5)
    assert not root.exists()
    run = tracker.start_run("named")
    run.end_run()
    assert Kept(run.path).environment["seeds"]["seed"] == 5
    assert [path.name for path in (root / "p").iterdir()] == ["named"]


def test_each_run_of_a_process_has_its_own_seed(make):
    seeds = {}
    for seed in (1, 2):
        with make("p").start_run() as run:
            run.seed_everything(seed)
        seeds[seed] = Kept(run.path).environment["seeds"]["seed"]
    assert seeds == {1: 1, 2: 2}


# ---------------------------------------------------------------------- inputs


def inputs_of(run):
    return {entry["name"]: entry for entry in Kept(run.path).document("inputs")["inputs"]}


def test_files_folders_arrays_and_frames_are_recorded_by_their_content(make, tmp_path):
    import numpy as np
    import pandas as pd

    file = tmp_path / "data" / "train.csv"
    file.parent.mkdir()
    file.write_text("x,y\n1,2\n")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    with make("p").start_run("r") as run:
        run.log_input(file, "file")
        run.log_input(file.parent, "folder")
        run.log_input(np.zeros((3, 4), "float32"), "array")
        run.log_input(pd.DataFrame({"x": [1], "y": ["a"]}), "frame")
        inputs = inputs_of(run)
    assert list(inputs) == ["file", "folder", "array", "frame"]
    assert [inputs["file"][key] for key in ("path", "size_bytes", "sha256")] == [
        str(file), 8, sha256,
    ]  # fmt: skip
    assert (inputs["folder"]["files"], inputs["folder"]["size_bytes"]) == (1, 8)
    assert (inputs["array"]["shape"], inputs["array"]["dtype"]) == ([3, 4], "float32")
    assert set(inputs["frame"]["columns"]) == {"x", "y"}
    assert all(entry["sha256"] and entry["logged_at"] for entry in inputs.values())
    assert not (run.path / "artifacts").exists()


def test_an_input_that_is_recorded_again_is_replaced(make, tmp_path):
    file = tmp_path / "train.csv"
    with make("p").start_run("r") as run:
        for text in ("old", "newer"):
            file.write_text(text)
            run.log_input(file, "train")
            run.log_input(file, "other", hash=False)
    inputs = inputs_of(run)
    assert (len(inputs), inputs["train"]["size_bytes"]) == (2, 5)
    assert inputs["train"]["sha256"] == hashlib.sha256(b"newer").hexdigest()
    assert inputs["other"]["sha256"] is None


def test_an_input_that_is_not_there_opens_no_run(make, root, tmp_path):
    with pytest.raises(InvalidValueError, match="looked for a file or folder"):
        make("p").log_input(tmp_path / "nothing.csv", "train")
    assert not root.exists()


def test_an_input_of_a_joined_process_is_not_kept_and_told_once(make, lab):
    with make("p").start_run("r") as run:
        lines = (
            f"joined = make().join({str(run.path)!r})",
            "joined.log_input('train.py', 'a')",
            "joined.log_input('train.py', 'b')",
        )
        code, _, err = lab.train("\n".join(lines))
    assert code == 0, err
    assert err.count("kept by the run's own process") == 1
    assert not (run.path / "inputs.json").exists()


# ---------------------------------------------------------------------- what has changed since


def test_a_run_tells_in_one_line_what_has_changed_since_the_last_of_its_script(lab):
    told = []
    for lr in (0.1, 0.2, 0.2):
        script = "make(print_changes=True).log_params({'lr': float(os.environ['LR'])})\n"
        code, out, err = lab.train(script, LR=str(lr))
        assert (code, out) == (0, ""), err
        opened, *rest = err.splitlines()
        assert opened.startswith("experiment_tracking: run p/r")
        told.append("\n".join(rest))
    assert told[0] == "experiment_tracking: run p/r is the first of its script."
    assert told[1] == "experiment_tracking: since p/r: lr 0.1 → 0.2"
    assert told[2] == "experiment_tracking: since p/r-2: nothing has changed"


# ---------------------------------------------------------------------- throughput


def test_the_summary_tells_how_fast_the_loop_of_the_last_attempt_went(make):
    for start, seconds in ((0, 1.0), (10, 2.0)):
        with make("p", resume="allow").start_run("r") as run:
            for step in range(5):
                run.log_metrics({"x": 1}, step=start + step, timestamp=1e9 + start + seconds * step)
    throughput = Kept(run.path).document("summary")["throughput"]
    assert throughput == {
        "training_s": 8.0, "rows": 5, "steps": 4, "rows_per_s": 0.5, "steps_per_s": 0.5,
    }  # fmt: skip


# ---------------------------------------------------------------------- resumed


def test_a_further_attempt_replaces_what_the_earlier_one_recorded(lab):
    lab.write("train.py", "")
    lab.commit()
    lab.write("old.py")
    code, _, err = lab.train(
        "import old\ntracker = make(resume='allow')\ntracker.seed_everything(1)\n"
        "tracker.log_param('lr', 0.1)\n"
    )
    assert code == 0, err
    first = lab.kept()
    assert first.on_disk() == {"git.patch", "train.py", "old.py"}
    assert first.environment["seeds"]["seed"] == 1
    (lab.folder / "old.py").unlink()
    lab.write("new.py")
    lab.write("train.py", START + "import new\nmake(resume='allow').log_metrics({'x': 1})\n")
    lab.git("add", ".")
    lab.git("commit", "--quiet", "--message=second")
    assert lab.run("train.py")[0] == 0
    second = lab.kept()
    assert len(second.document("summary")["attempts"]) == 2
    assert second.environment["git"]["commit"] == lab.git("rev-parse", "HEAD")
    assert second.code == {"train.py": "script", "new.py": "module"}
    assert second.on_disk() == {"train.py", "new.py"}
    assert "seeds" not in second.environment
    assert "import new" in (second.path / "code/train.py").read_text()


def test_a_process_whose_run_was_taken_over_records_nothing_more_in_it(here, make, monkeypatch):
    late = types.ModuleType("late")
    late.__file__ = str(here.write("late.py"))
    run = captured(make)
    code, _, err = here.train("make(resume='force').start_run('r').end_run()\n")
    assert code == 0, err
    taken = Kept(run.path)
    environment = taken.environment
    assert environment["pid"] != os.getpid()
    monkeypatch.setitem(sys.modules, "late", late)
    run.end_run()
    assert taken.environment == environment
    assert taken.on_disk() == {"train.py"}


def test_a_further_attempt_that_records_nothing_keeps_what_is_recorded(here, make):
    run = captured(make)
    run.end_run()
    environment = Kept(run.path).environment
    make("p", resume="must").start_run("r").end_run()
    assert Kept(run.path).environment == environment


# ---------------------------------------------------------------------- notebooks


@pytest.fixture
def kernel(lab):
    """Give a real Jupyter kernel, and a way to execute cells in it."""
    jupyter = pytest.importorskip(
        "jupyter_client", reason="pip install 'experiment_tracking[test]'"
    )
    pytest.importorskip("ipykernel", reason="pip install 'experiment_tracking[test]'")
    manager = jupyter.KernelManager(kernel_name="python3")
    env = {
        "EXPERIMENT_TRACKING_ROOT": str(lab.root), "PYTHONPATH": PACKAGE_PARENT,
        "IPYTHONDIR": str(lab.folder / "ipython"),
    }  # fmt: skip
    manager.start_kernel(env=os.environ | env, cwd=str(lab.folder))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)

    def execute(cell):
        reply = client.execute_interactive(cell, output_hook=lambda message: None, timeout=60)
        assert reply["content"]["status"] == "ok", reply["content"]

    yield execute, manager
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_the_cells_of_a_notebook_are_kept_as_executed_also_where_it_is_killed(lab, kernel):
    execute, manager = kernel
    lab.write("helper.py")
    execute(START + "import helper\n")
    execute("run = make().start_run('r')")
    execute("%env FLAVOUR=sweet\nprint('of the ' + 'output')")
    execute("run.end_run()")
    finished = lab.kept()
    assert finished.code == {"helper.py": "module", "notebook.ipy": "notebook"}
    cells = (finished.path / "code/notebook.ipy").read_text()
    assert "# %% [3]\n%env FLAVOUR=sweet\n" in cells
    assert cells.rstrip().endswith("# %% [4]\nrun.end_run()")
    assert "of the output" not in cells

    execute("run = make().start_run('killed')")
    execute("seen = 1")
    execute("run._writer.follower.settle(); run._writer.capture.look_again()")
    execute("unseen = 1")
    manager.shutdown_kernel(now=True)
    killed = lab.kept("killed")
    assert killed.code["notebook.ipy"] == "notebook"
    cells = (killed.path / "code/notebook.ipy").read_text()
    assert ("seen = 1\n" in cells, "unseen" in cells) == (True, False)
    assert finished.environment["entry_script"] is None
