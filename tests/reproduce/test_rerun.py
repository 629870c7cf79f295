"""Real runs of real scripts, run again from another folder after everything has changed."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from experiment_tracking.errors import ReproductionError
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.reproduce.rerun import describe, plan

EXAMPLES = Path(__file__).parents[2] / "examples"
START = """
import os, random, sys, time
from experiment_tracking import ExperimentTracker
tracker = ExperimentTracker("digits", "base", use_tensorboard=False)
"""


@pytest.fixture
def lab(terminal, git):
    """A committed project, in the folder of the terminal."""
    terminal.write(".gitignore", "data/\n")
    terminal.write("helper.py", "FACTOR = 2\n")
    terminal.write("train.py", START + "import helper\ntracker.log_metrics({'a': helper.FACTOR})\n")
    git(terminal.folder, "init", "--quiet", "--initial-branch=main")
    git(terminal.folder, "add", ".")
    git(terminal.folder, "commit", "--quiet", "--message=first")
    return terminal.folder


@pytest.fixture
def python(terminal):
    """Start a Python script as a person would, to its end."""

    def python(*words, **options):
        code, _, err = terminal.run(sys.executable, *words, **options)
        assert code == 0, err

    return python


@pytest.fixture
def rerun(terminal, tmp_path):
    """Call ``experiments rerun`` elsewhere; whatever comes of it, no tree may be left."""
    places = tmp_path / "places"
    places.mkdir()

    def rerun(run, *options, variables=None, **others):
        variables = {"TMPDIR": str(places), **(variables or {})}
        words = ("rerun", run, *options)
        code, out, err = terminal.experiments(
            *words, cwd=tmp_path / "elsewhere", variables=variables, **others
        )
        assert list(places.glob("experiments-rerun-*")) == []
        return code, out, err

    return rerun


def bytes_below(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# ---------------------------------------------------------------------- code


@pytest.mark.usefixtures("lab")
def test_the_pytorch_example_repeats_though_its_tree_has_changed(terminal, python, rerun, git):
    pytest.importorskip("torch", reason="pip install torch")
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    committed = (EXAMPLES / "pytorch_training.py").read_text()
    terminal.write("train.py", committed)
    git(terminal.folder, "commit", "--quiet", "--all", "--message=second")
    ours = committed.replace("nn.Dropout(0.25)", "nn.Dropout(rates.DROPOUT)")
    script = terminal.write(
        "train.py", ours.replace("import torch\n", "import rates\nimport torch\n", 1)
    )
    module = terminal.write("rates.py", "DROPOUT = 0.1 + hash('rate') % 50 / 100\n")
    numbers = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": None}
    python("train.py", "--epochs", "2", variables=numbers)

    script.write_text("raise SystemExit('changed')\n")
    module.write_text("DROPOUT = 0.9\n")
    (terminal.folder / "helper.py").unlink()
    changed = {"PYTHONHASHSEED": None, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    code, out, err = rerun("digits/pytorch-cnn", "--verify", variables=changed)
    assert code == 0, out + err
    assert "digits/pytorch-cnn-rerun repeats digits/pytorch-cnn" in out
    assert "8 values" in out
    first, again = terminal.records("digits")
    assert again.summary["rerun_of"] == first.id
    assert again.environment["variables"]["OMP_NUM_THREADS"] == "1"
    assert again.environment["variables"]["PYTHONHASHSEED"] == "7"
    assert "MKL_NUM_THREADS" not in again.environment["variables"]
    assert script.read_text() == "raise SystemExit('changed')\n"


def test_outside_git_the_code_that_the_run_kept_is_run(terminal, python, rerun):
    terminal.write("parts/model.py", "depth = 3\n")
    script = terminal.write(
        "train.py", START + "from parts import model\ntracker.log_metrics({'a': model.depth})\n"
    )
    python("train.py")
    script.unlink()
    terminal.write("parts/model.py", "depth = 4\n")
    code, out, err = rerun("digits/base", "--verify")
    assert code == 0, out + err


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "pkg.fit", "--lr", "1"),
        ("-c", "import pkg.fit"),
        ("{folder}/pkg/fit.py", "--config={folder}/pkg/config.txt"),
    ],
)
@pytest.mark.usefixtures("lab")
def test_the_recorded_command_runs_the_recorded_code(terminal, rerun, git, words):
    terminal.write("pkg/__init__.py", "")
    terminal.write("pkg/config.txt", "first")
    fit = "import sys\nprint('fit 1', *[open(a[9:]).read() for a in sys.argv if 'config' in a])\n"
    script = terminal.write("pkg/fit.py", fit)
    git(terminal.folder, "add", ".")
    words = [word.format(folder=terminal.folder) for word in words]
    code, _, err = terminal.experiments(
        "run", "--project", "p", "--name", "a", "--", sys.executable, *words
    )
    assert code == 0, err
    script.write_text("print('fit 2')\n")
    terminal.write("pkg/config.txt", "second")
    code, out, err = rerun("p/a", "--verify")
    assert code == 0, out + err
    assert "fit 1" in out


def test_a_project_that_was_called_through_a_link_is_run_from_the_tree(terminal, python, rerun):
    terminal.write("train.py", START + "tracker.log_metrics({'a': 1})\n")
    link = terminal.folder.parent / "link"
    link.symlink_to(terminal.folder)
    python(str(link / "train.py"))
    terminal.write("train.py", START + "tracker.log_metrics({'a': 2})\n")
    code, out, err = rerun("digits/base", "--verify")
    assert code == 0, out + err


def test_packages_on_the_search_path_come_from_the_tree(terminal, lab, python, rerun):
    ops = terminal.write("src/ops.py", "ONE = 1\n")
    terminal.write("train.py", START + "import ops\ntracker.log_metrics({'a': ops.ONE})\n")
    path = f"{lab / 'src'}:{terminal.environment()['PYTHONPATH']}"
    python("train.py", variables={"PYTHONPATH": path})
    ops.write_text("ONE = 2\n")
    code, out, err = rerun("digits/base", "--verify", variables={"PYTHONPATH": path})
    assert code == 0, out + err


def test_a_program_that_was_kept_can_be_executed(terminal, rerun):
    terminal.write("go.sh", "#!/bin/sh\necho answer $1\n").chmod(0o755)
    terminal.experiments("run", "--name", "a", "--", "./go.sh", "42")
    (terminal.folder / "go.sh").unlink()
    code, out, err = rerun("go/a", "--verify")
    assert code == 0, out + err
    assert "answer 42" in out


def test_the_cells_of_a_notebook_are_run_again(terminal, rerun):
    pytest.importorskip("IPython", reason="pip install ipython")
    # As `%matplotlib inline` does.
    inline = "get_ipython().enable_gui(None)\n"
    loop = "for n in range(3):\n    tracker.log_metrics({'a': n ** 2})\n\n"
    cells = START + inline + loop + "tracker.finish()\n"
    cells = terminal.write("cells.txt", cells)
    (terminal.folder / "notebooks").mkdir()
    words = (sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner")
    variables = {"IPYTHONDIR": str(terminal.folder / "ipython")}
    with cells.open() as stdin:
        code, _, err = terminal.run(
            *words, stdin=stdin, variables=variables, cwd=terminal.folder / "notebooks"
        )
    assert code == 0, err
    code, out, err = rerun("digits/base", "--verify", variables=variables)
    assert code == 0, out + err
    assert "3 values" in out
    assert "\x1b" not in out
    assert "event loop" not in out


@pytest.mark.usefixtures("lab")
def test_a_commit_that_is_gone_is_an_error_that_names_it(terminal, python, rerun):
    python("train.py")
    shutil.rmtree(terminal.folder / ".git")
    commit = terminal.record("digits").environment["git"]["commit"]
    code, _, err = rerun("digits/base")
    assert code == 1
    assert f"{commit}, which no repository here holds:\n  " in err
    assert len(terminal.records("digits")) == 1


def test_a_run_without_capture_cannot_be_run_again(terminal, python, rerun):
    terminal.write(
        "train.py",
        START.replace("use_t", "auto_log=False, use_t") + "tracker.log_metrics({'a': 1})\n",
    )
    python("train.py")
    code, _, err = rerun("digits/base")
    assert code == 1
    assert "auto_log=False" in err


# ---------------------------------------------------------------------- which run


def test_of_several_runs_of_a_script_the_same_one_is_made_again(terminal, python, rerun):
    terminal.write(
        "train.py",
        "from experiment_tracking import ExperimentTracker\n"
        "tracker = ExperimentTracker('digits', use_tensorboard=False)\n"
        "for n in range(4):\n"
        "    with tracker.start_run(f'run-{n}') as run:\n"
        "        run.log_metrics({'a': n})\n",
    )
    python("train.py")
    code, out, err = rerun("digits/run-2", "--verify")
    assert code == 0, out + err
    names = [record.name for record in terminal.records("digits")]
    assert names == ["run-0", "run-1", "run-2", "run-3", "run-2-rerun"]


@pytest.mark.usefixtures("lab")
def test_a_rerun_of_a_rerun_runs_the_first_ones_code_under_the_same_name(terminal, python, rerun):
    python("train.py")
    for run in ("digits/base", "digits/base-rerun", "digits/base-rerun-2"):
        code, out, err = rerun(run, "--verify")
        assert code == 0, out + err
    assert "rerun of digits/base, whose code is run again" in err
    names = [record.name for record in terminal.records("digits")]
    assert names == ["base", "base-rerun", "base-rerun-2", "base-rerun-3"]
    ids = [record.id for record in terminal.records("digits")]
    assert terminal.records("digits")[3].summary["rerun_of"] == ids[2]


def test_a_script_that_resumes_leaves_the_original_alone(terminal, python, rerun):
    resuming = START.replace('"base"', '"base", resume="allow"')
    terminal.write("train.py", resuming + "tracker.log_metrics({'a': 1})\n")
    python("train.py")
    before = bytes_below(terminal.root / "digits" / "base")
    code, out, err = rerun("digits/base", "--verify")
    assert code == 0, out + err
    assert bytes_below(terminal.root / "digits" / "base") == before


# ---------------------------------------------------------------------- what differs


@pytest.mark.parametrize(
    ("body", "options", "expected"),
    [
        ("tracker.log_metrics({'a': random.random()})", (), "metrics: a at step 0"),
        (
            "tracker.log_params({'at': time.time_ns()}); tracker.log_metrics({'a': 1})",
            (), "params: at",
        ),
        (
            "print(time.time_ns(), file=open('out.txt', 'w')); tracker.log_artifact('out.txt')",
            (), "files: artifacts/out.txt",
        ),
        (
            "tracker.log_metrics({'a': 1 + time.time_ns() % 1000 * 1e-9})",
            ("--tolerance", "1e-3"), None,
        ),
        (
            "tracker.log_metrics({'a': 1, 'b': random.random()})", ("--ignore", "b"), None,
        ),
    ],
)  # fmt: skip
def test_what_does_not_repeat_is_named(terminal, python, rerun, body, options, expected):
    terminal.write("train.py", START + body)
    python("train.py")
    code, out, err = rerun("digits/base", "--verify", *options)
    assert code == (0 if expected is None else 4), out + err
    assert expected is None or expected in out


def test_a_changed_data_file_is_named(terminal, lab, python, rerun):
    data = terminal.write("data/x.csv", "1\n")
    body = "tracker.log_input('data/x.csv', 'x'); tracker.log_metrics({'a': 1})\n"
    terminal.write("train.py", START + body)
    python("train.py")
    code, out, err = rerun("digits/base", "--verify")
    assert code == 0, out + err
    assert "data/x.csv is linked from" in err
    data.write_text("2\n")
    code, out, _ = rerun("digits/base", "--verify")
    assert code == 4
    assert "inputs: x: 'sha256" in out


def test_another_exit_code_is_named(terminal, rerun):
    flag = terminal.write("flag", "")
    script = f"test ! -e {flag}"
    assert terminal.experiments("run", "--name", "a", "--", "sh", "-c", script)[0] == 1
    flag.unlink()
    code, out, err = rerun("sh/a", "--verify")
    assert (code, "ending: exit_code: 1, now 0" in out) == (4, True), out + err


@pytest.mark.parametrize(
    ("line", "options", "expected"),
    [
        ("print('took', time.perf_counter(), 's in', os.getcwd(), 'loss 0.5')", (), 0),
        ("print('loss', 0.5 + time.time_ns() % 1000 * 1e-9)", (), 4),
        ("print('loss', 0.5 + time.time_ns() % 1000 * 1e-9)", ("--tolerance", "1e-3"), 0),
    ],
)
def test_the_console_of_a_script_that_does_not_log_is_compared(
    terminal, rerun, line, options, expected
):
    terminal.write("train.py", f"import os, time\n{line}\n")
    terminal.experiments("run", "--name", "a", "--", sys.executable, "train.py")
    code, out, err = rerun("train/a", "--verify", *options)
    assert code == expected, out + err
    assert "console: line 1: 'loss" in out or expected == 0


def test_a_seed_that_was_drawn_is_given_again(terminal, python, rerun):
    body = "tracker.seed_everything(); tracker.log_metrics({'a': random.random()})\n"
    terminal.write("train.py", START + body)
    python("train.py")
    code, out, err = rerun("digits/base", "--verify")
    assert code == 0, out + err


# ---------------------------------------------------------------------- secrets


SECRET = "canary-4f7Hq2Zx9Lm3"


@pytest.fixture
def run_with_secret(terminal, python):
    terminal.write("train.py", START + "tracker.log_metrics({'a': len(sys.argv[2])})\n")
    python("train.py", "--api-key", SECRET, variables={"HUB_TOKEN": SECRET})


@pytest.mark.usefixtures("run_with_secret")
def test_a_hidden_argument_is_asked_for(terminal, rerun):
    code, _, err = rerun("digits/base", variables={"HUB_TOKEN": "x"})
    assert code == 2
    assert "--secret api-key=VALUE" in err
    assert "API_KEY" in err
    assert len(terminal.records("digits")) == 1


@pytest.mark.usefixtures("run_with_secret")
@pytest.mark.parametrize("by_variable", [True, False])
def test_a_hidden_argument_that_is_given_is_kept_nowhere(terminal, rerun, by_variable):
    options = () if by_variable else ("--secret", f"api-key={SECRET}")
    variables = {"API_KEY": SECRET} if by_variable else {}
    code, out, err = rerun("digits/base", "--verify", *options, variables=variables)
    assert code == 0, out + err
    assert "variables with secrets that are not set now: HUB_TOKEN" in err
    assert SECRET not in out + err
    assert SECRET.encode() not in bytes_below(terminal.root)


def test_a_hidden_word_without_an_option_is_asked_for_by_its_place(run_folder):
    record = run_folder({"command": ["python", "fit.py", "***", "--db=x://***@host", "--u", "***"]})
    planned = plan(record, {"argument-2": "one", "db": "me:two"})
    assert planned.command[2:4] == ["one", "--db=x://me:two@host"]
    assert [wish.split(" by ")[0] for wish in planned.wanted] == ["Give the value of u"]


def test_secrets_are_not_shown_by_a_plan(run_folder):
    record = run_folder({"command": ["python", "fit.py", "--api-key", "***"]})
    assert SECRET not in "\n".join(describe(record, plan(record, {"api-key": SECRET})))


# ---------------------------------------------------------------------- environment


def test_variables_that_change_numbers_are_set_and_unset_and_those_of_places_are_not(
    run_folder, monkeypatch
):
    for name in ("OMP_NUM_THREADS", "TORCH_HOME", "PYTHONHASHSEED", "CUDA_VISIBLE_DEVICES", "LANG"):
        monkeypatch.setenv(name, "now")
    recorded = {"OMP_NUM_THREADS": "1", "TORCH_HOME": "/then", "CUDA_VISIBLE_DEVICES": "3"}
    planned = plan(run_folder({"command": ["true"], "variables": recorded}))
    assert planned.variables == {"OMP_NUM_THREADS": "1"}
    assert {"PYTHONHASHSEED", "LANG"} <= set(planned.unset)
    assert not {"OMP_NUM_THREADS", "TORCH_HOME", "CUDA_VISIBLE_DEVICES"} & set(planned.unset)


def test_without_recorded_variables_the_present_ones_stay(run_folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert plan(run_folder({"command": ["true"]})).unset == []


def test_one_process_of_several_says_that_it_is_run_alone(run_folder):
    facts = {"command": ["true"], "launcher": {"RANK": "0", "WORLD_SIZE": "4"}}
    (warning,) = plan(run_folder(facts)).warnings
    assert "one of 4 processes" in warning


def test_a_run_without_a_command_says_why(run_folder):
    with pytest.raises(ReproductionError, match="auto_log=False"):
        plan(run_folder({}))


def test_the_same_environment_has_the_recorded_packages_alone(run_folder, rerun, tmp_path):
    info = "tiny_ops-1.5.dist-info"
    with zipfile.ZipFile(tmp_path / "tiny_ops-1.5-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_ops.py", "answer = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-ops\nVersion: 1.5\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "tiny_ops.py,,\n")
    offline = {
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(tmp_path),
    }  # fmt: skip
    script = (
        "import shutil, sys, tiny_ops\n"
        "print(tiny_ops.answer, shutil.which('python') == sys.executable)\n"
    )
    record = run_folder(
        {
            "command": ["python", "fit.py"],
            "packages": {"tiny-ops": "1.5"},
            "python_version": f"{sys.version_info.major}.{sys.version_info.minor}.0",
        },
        {"fit.py": script},
    )
    code, out, err = rerun(record.path, "--env", "same", variables=offline)
    assert (code, out) == (0, "42 True\n"), err


# ---------------------------------------------------------------------- data


READING = "import sys\nprint('sum', sum(map(int, open(sys.argv[1]))))\n"


@pytest.mark.usefixtures("lab")
def test_data_on_the_command_line_is_linked_and_recorded_by_the_names_it_had(terminal, rerun):
    data = terminal.write("data/x.csv", "1\n2\n")
    terminal.write("plain.py", READING)
    words = ("python", "plain.py", "data/x.csv")
    assert terminal.experiments("run", "--name", "a", "--", *words)[0] == 0
    code, out, err = rerun("plain/a", "--verify")
    assert code == 0, out + err
    assert "data/x.csv is linked from" in err
    again = terminal.records("plain")[1]
    assert again.environment["command"] == list(words)
    assert again.summary["launched"]["command"] == list(words)
    (entry,) = again.inputs
    assert (entry["name"], entry["path"]) == ("data/x.csv", str(data))


@pytest.mark.usefixtures("lab")
def test_data_that_is_missing_in_a_failed_rerun_is_named(terminal, rerun):
    terminal.write("data/x.csv", "1\n2\n")
    terminal.write("plain.py", READING.replace("sys.argv[1]", "'data/x.csv'"))
    assert terminal.experiments("run", "--name", "a", "--", "python", "plain.py")[0] == 0
    code, out, err = rerun("plain/a", "--verify")
    assert code == 4
    told = f"data/x.csv is in {terminal.folder} but not in the rerun's folder: --link data/x.csv"
    assert told in err
    assert "set aside: the command failed; console not compared" in out
    assert "Traceback" not in out


def test_a_rerun_of_a_script_that_logs_records_its_command_and_data_where_they_stay(
    terminal, lab, python, rerun
):
    data = terminal.write("data/x.csv", "1\n")
    body = "tracker.log_input(sys.argv[1], 'x'); tracker.log_metrics({'a': 1})\n"
    terminal.write("train.py", START + body)
    python(str(lab / "train.py"), str(data))
    code, out, err = rerun("digits/base", "--verify")
    assert code == 0, out + err
    first, again = terminal.records("digits")
    assert again.environment["command"] == first.environment["command"]
    assert [entry["path"] for entry in again.inputs] == [str(data)]


def test_a_script_from_standard_input_cannot_be_run_again(terminal, rerun):
    script = terminal.write("script", START + "tracker.log_metrics({'a': 1})\n")
    with script.open() as stdin:
        assert terminal.run(sys.executable, "-", stdin=stdin)[0] == 0
    for options in ((), ("--dry-run",)):
        code, _, err = rerun("digits/base", *options)
        assert (code, "came from standard input and was not kept" in err) == (1, True), err


def test_the_command_of_a_rerun_has_nothing_to_read(terminal, rerun):
    terminal.write("echo.py", "import sys\nprint([sys.stdin.read()])\n")
    terminal.experiments("run", "--name", "a", "--", "python", "echo.py", stdin=subprocess.DEVNULL)
    text = terminal.write("text", "not for the script")
    with text.open() as stdin:
        code, out, err = rerun("echo/a", stdin=stdin)
    assert (code, out) == (0, "['']\n"), err


def test_data_that_git_does_not_keep_is_linked_when_asked_for(terminal, lab, python, rerun):
    terminal.write("data/x.csv", "7")
    body = "tracker.log_metrics({'a': int(open('data/x.csv').read())})\n"
    terminal.write("train.py", START + body)
    python("train.py")
    assert rerun("digits/base", "--verify")[0] == 4
    code, out, err = rerun("digits/base", "--verify", "--link", "data")
    assert code == 0, out + err
    assert (lab / "data" / "x.csv").read_text() == "7"
    code, _, err = rerun("digits/base", "--link", "date")
    assert (code, "'date'" in err) == (2, True)


def test_a_run_that_crashed_is_run_again_and_its_end_is_what_differs(terminal, rerun):
    dying = (
        "run = tracker.start_run('base')\n"
        "run.log_metrics({'a': 1})\n"
        "environment = run.path / 'environment.json'\n"
        "while not environment.exists() or '\"sha256\"' not in environment.read_text():\n"
        "    time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    terminal.write("train.py", START + dying)
    terminal.run(sys.executable, "train.py")
    assert RunRecord(terminal.root / "digits" / "base").status == "crashed"
    code, out, err = rerun("digits/base", "--verify")
    assert code == 4, out + err
    assert "ending: status: 'crashed', now 'killed'" in out
