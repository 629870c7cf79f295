import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_tracking.errors import InvalidNameError, RootNotFoundError
from experiment_tracking.folder import io, layout
from experiment_tracking.folder.layout import (
    README_MARK,
    ROOT_VARIABLE,
    RunFolder,
    allocate,
    check_name,
    existing_root,
    find_root,
    is_root,
    iter_projects,
    iter_runs,
    suggest_name,
)


def make_run(root, project="p", name="r"):
    path = Path(root, project, name)
    path.mkdir(parents=True)
    (path / "summary.json").write_text("{}")
    return path


# ---------------------------------------------------------------- names

GOOD = [
    "exp7", "a", "é" * 60, "x" * 120, "日本語", "β-run", "a b", "a.b", "20261120-121400-k3f9",
    "lr=0.1,bs=32", "run (2)", "run[1]", "conference", "com10", "nul-1", "~", "$HOME", "$(id)",
    "`id`", "%2e%2e%2f", "%252e", "%c0%ae", "#fragment", "a;b&c", "'quoted'", "Run", "run", " x",
    "🦉",
]  # fmt: skip

BAD = {
    "../x": "holds one of", "..": "starts with", ".": "starts with", "": "is empty",
    "/etc/passwd": "holds one of", "a/../../b": "holds one of", "a\\..\\b": "holds one of",
    "..;/": "holds one of", "a\0b": "cannot be printed", "C:\\x": "holds one of",
    "C:x": "holds one of", "\\\\host\\share": "holds one of", "/windows/win.ini": "holds one of",
    "CON": "device", "nul.txt": "device", "COM1": "device", "aux": "device", "prn .x": "device",
    "lpt9.a.b": "device", "com¹": "device", "CONIN$": "device", "x.": "ends with",
    "x ": "ends with", "a:b": "holds one of", "x" * 121: "121 bytes", "é" * 61: "122 bytes",
    "x" * 5000: "5000 bytes", "-rf": "starts with", "_models": "starts with",
    ".hidden": "starts with", "\u202egnp.exe": "cannot be printed", "e\u0301": "normal form",
    "half \udcff": "surrogate", "a\n<img src=x onerror=alert(1)>": "cannot be printed",
    "file:///etc/passwd": "holds one of", "a?b": "holds one of", "a*": "holds one of",
    "a|b": "holds one of", 'a"b': "holds one of", "<svg>": "holds one of", "a\tb": "printed",
    "a\x1b[31m": "cannot be printed", "a\u00a0b": "cannot be printed", "\x7f": "printed",
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_is_kept_as_given(name):
    assert check_name(name, "The run name") == name
    assert suggest_name(name).strip() == name.strip()


@pytest.mark.parametrize(("name", "reason"), BAD.items())
def test_a_bad_name_is_refused_with_the_reason_and_one_that_would_do(name, reason):
    with pytest.raises(InvalidNameError, match=reason) as raised:
        check_name(name, "The run name")
    message = str(raised.value)
    assert message.startswith("The run name ")
    assert message.endswith(f"Write {suggest_name(name)!r}.")
    assert message.isprintable()
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("name", [None, 7, b"run", 1.5, ["a"], Path("a/b")])
def test_what_is_no_text_is_refused_as_a_name(name):
    with pytest.raises(InvalidNameError, match=f"of type {type(name).__name__}"):
        check_name(name, "The run name")


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("", "run"), ("..", "run"), ("../x", "x"), ("a/b", "a-b"), ("a//b::c", "a-b-c"),
        ("_models", "models"), ("CON", "run-CON"), ("nul.txt", "run-nul.txt"),
        ("x" * 300, "x" * 120), ("e\u0301", "é"), ("a\nb", "a-b"), ("half \udcff", "half"),
        ("nul." + "x" * 116, None),
    ],
)  # fmt: skip
def test_a_suggestion_is_near_the_name(name, better):
    assert check_name(suggest_name(name), "it") == (better or suggest_name(name))


@settings(max_examples=500)
@given(
    st.text(max_size=150)
    | st.text(st.characters(), max_size=130)
    | st.text(st.sampled_from("a.-_ /:\0é\u0301\u0338<=>\ud800🦉"), max_size=150)
    | st.builds(str.__add__, st.sampled_from(["con", "nul.", "LPT9 ."]), st.text(max_size=130))
)
def test_every_suggestion_is_a_good_name(name):
    assert check_name(suggest_name(name), "it")
    try:
        assert check_name(name, "it") == name
    except InvalidNameError:
        assert suggest_name(name) != name


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs"]), min_size=1, max_size=60))
def test_every_good_name_can_be_a_folder_here(tmp_path_factory, name):
    name = unicodedata.normalize("NFC", name)
    try:
        check_name(name, "it")
    except InvalidNameError:
        return
    above = tmp_path_factory.getbasetemp() / "names"
    above.mkdir(exist_ok=True)
    (above / name).mkdir(exist_ok=True)
    assert name in os.listdir(above)


# ---------------------------------------------------------------- roots


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A working folder three levels below the user's home, in no repository."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    folder = tmp_path / "home" / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return Path(os.path.realpath(folder))


def test_a_given_root_is_taken_and_made_absolute(nowhere, monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, "elsewhere")
    assert find_root("mine") == str(nowhere / "mine")
    assert find_root(Path("../mine")) == str(nowhere.parent / "mine")
    assert find_root("~/mine") == os.path.expanduser("~/mine")
    root = find_root("mine")
    monkeypatch.chdir("/")
    assert root == str(nowhere / "mine")


def test_the_environment_names_the_root_where_none_is_given(nowhere, monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, "~/from env")
    make_run(nowhere / "experiments")
    assert find_root() == os.path.expanduser("~/from env")
    monkeypatch.setenv(ROOT_VARIABLE, "")
    assert find_root() == str(nowhere / "experiments")


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("mark", ["run", "readme"])
def test_the_nearest_experiments_with_a_run_or_our_readme_is_the_root(nowhere, level, mark):
    root = [nowhere, *nowhere.parents][level] / "experiments"
    if mark == "run":
        make_run(root)
    else:
        root.mkdir()
        (root / "README.md").write_text(f"{README_MARK}\n# Experiments\n")
    assert find_root() == str(root)


def test_an_experiments_folder_of_somebody_elses_is_passed_over(nowhere):
    other = nowhere / "experiments"
    (other / "notes" / "monday").mkdir(parents=True)
    (other / "README.md").write_text("# My notes")
    (other / "_trash" / "gone").mkdir(parents=True)
    (other / "_trash" / "gone" / "summary.json").write_text("{}")
    make_run(nowhere.parent / "experiments")
    assert find_root() == str(nowhere.parent / "experiments")


def test_without_any_the_root_is_experiments_here(nowhere):
    assert find_root() == str(nowhere / "experiments")
    assert not os.path.exists(nowhere / "experiments")


@pytest.mark.parametrize("git", ["folder", "file"])
def test_the_search_ends_at_the_top_of_the_repository(nowhere, git):
    make_run(nowhere.parents[1] / "experiments")
    top = nowhere.parent
    (top / ".git").mkdir() if git == "folder" else (top / ".git").write_text("gitdir: x")
    assert find_root() == str(nowhere / "experiments")
    make_run(top / "experiments")
    assert find_root() == str(top / "experiments")


def test_the_search_ends_at_home_even_through_a_link(nowhere, tmp_path, monkeypatch):
    make_run(tmp_path / "experiments")
    assert find_root() == str(nowhere / "experiments")
    os.symlink(tmp_path / "home", tmp_path / "link")
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    assert find_root() == str(nowhere / "experiments")


def test_a_missing_root_says_where_was_looked(nowhere):
    with pytest.raises(RootNotFoundError, match=str(nowhere / "experiments")) as raised:
        existing_root()
    assert ROOT_VARIABLE in str(raised.value)
    make_run(nowhere / "experiments")
    assert existing_root() == str(nowhere / "experiments")


def test_only_folders_with_runs_or_our_readme_are_roots(tmp_path):
    assert not is_root(str(tmp_path / "none"))
    assert not is_root(str(tmp_path))
    (tmp_path / "README.md").mkdir()
    assert not is_root(str(tmp_path))
    run = make_run(tmp_path)
    (run / "summary.json").unlink()
    (run / "metrics_history.json").write_text('[\n{"step":0,"time":1.0,"x":1}\n]\n')
    assert is_root(str(tmp_path))


def test_projects_and_runs_are_listed_by_name_without_what_is_ours_to_skip(tmp_path):
    for project, name in [("b", "2"), ("b", "1"), ("a", "x"), ("_models", "m"), (".git", "x")]:
        make_run(tmp_path, project, name)
    make_run(tmp_path, "b", ".tmp")
    (tmp_path / "b" / "empty").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "file").write_text("")
    assert list(iter_projects(str(tmp_path))) == ["a", "b", "c"]
    assert [(run.project, run.name) for run in iter_runs(str(tmp_path))] == [
        ("a", "x"), ("b", "1"), ("b", "2"),
    ]  # fmt: skip
    assert [run.name for run in iter_runs(str(tmp_path), "b")] == ["1", "2"]
    assert list(iter_runs(str(tmp_path), "none")) == []


def test_what_cannot_be_looked_into_hides_nothing_else(tmp_path):
    make_run(tmp_path)
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    os.symlink(tmp_path / "loop", tmp_path / "p" / "loop")
    os.symlink(tmp_path / "gone", tmp_path / "dangling")
    os.mkfifo(tmp_path / "pipe")
    os.mkdir(os.fsencode(str(tmp_path)) + b"/run_\xff")
    assert [run.name for run in iter_runs(str(tmp_path))] == ["r"]


# ---------------------------------------------------------------- one run


def test_a_run_folder_knows_the_name_of_every_file():
    run = RunFolder("root/project/run")
    assert os.path.isabs(run.path)
    assert (run.name, run.project, run.root) == ("run", "project", os.path.abspath("root"))
    found = {
        name: os.path.relpath(getattr(run, name), run.path)
        for name in dir(RunFolder)
        if isinstance(getattr(RunFolder, name), property)
        and name not in ("name", "project", "root")
    }
    assert found == {
        "summary": "summary.json", "params": "params.json", "artifact_list": "artifacts.json",
        "environment": "environment.json", "heartbeat": "heartbeat.json",
        "amendments": "amendments", "artifacts": "artifacts", "figures": "figures",
        "models": "models", "code": "code", "tensorboard": "tensorboard",
        "inputs": "inputs.json", "system_metrics": "system_metrics.json",
        "console": "console.log", "handover": "handover.json", "patch": "code/git.patch",
        "backends": "backends",
    }  # fmt: skip
    assert run.history() == run.file("metrics_history.json")
    assert run.history("3") == run.file("metrics_history.3.json")
    assert run.backend("mlflow-2") == run.file("backends", "mlflow-2.json")


def test_ranks_are_read_off_the_names_of_their_histories(tmp_path):
    run = RunFolder(tmp_path)
    for name in ("", ".1", ".p77", ".10", ".2-3"):
        (tmp_path / f"metrics_history{name}.json").write_text("")
    (tmp_path / "metrics_history.json.damaged-1").write_text("")
    (tmp_path / ".metrics_history.9.json.17.abc.tmp").write_text("")
    assert run.ranks() == ["1", "10", "2-3", "p77"]


def test_a_folder_is_a_run_by_its_summary_or_its_rows(tmp_path):
    run = RunFolder(tmp_path)
    assert not run.exists()
    (tmp_path / "metrics_history.json").write_text("[\n]\n")  # died while opening
    assert not run.exists()
    (tmp_path / "metrics_history.json").write_text('[\n{"step":0,"time":1.0,"x":1}\n]\n')
    assert run.exists()


# ---------------------------------------------------------------- allocation


def test_a_taken_name_gets_the_next_number(tmp_path):
    names = [allocate(str(tmp_path), "p", "exp").name for _ in range(4)]
    assert names == ["exp", "exp-2", "exp-3", "exp-4"]


def test_the_search_starts_behind_the_highest_number(tmp_path):
    for name in ("exp", "exp-7", "exp-9-x", "exp-x", "exp-٣", "exp-", "exp-0012", "exponent-99"):
        (tmp_path / "p" / name).mkdir(parents=True)
    assert allocate(str(tmp_path), "p", "exp").name == "exp-13"


def test_a_number_taken_meanwhile_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "p" / "exp").mkdir(parents=True)
    monkeypatch.setattr(os, "listdir", lambda path: [])
    (tmp_path / "p" / "exp-2").mkdir()
    assert allocate(str(tmp_path), "p", "exp").name == "exp-3"


def test_the_cost_of_a_run_does_not_grow_with_the_runs_of_its_name(tmp_path, monkeypatch):
    calls = []
    real = os.mkdir
    monkeypatch.setattr(io, "mkdir", lambda path: (calls.append(path), real(path))[1])
    for number in range(1000):
        calls.clear()
        allocate(str(tmp_path), "p", "exp")
        assert len(calls) <= 2, number
    assert len(os.listdir(tmp_path / "p")) == 1000


def test_runs_without_a_name_bear_the_time_and_four_characters(tmp_path):
    names = {allocate(str(tmp_path), "p").name for _ in range(50)}
    assert len(names) == 50
    for name in names:
        assert check_name(name, "it")
        day, hour, letters = name.split("-")
        assert (len(day), len(hour), len(letters)) == (8, 6, 4)


@pytest.mark.parametrize(("project", "name"), [("../x", "r"), ("p", "../r"), ("", "r"), ("p", "")])
def test_bad_names_make_no_folder(tmp_path, project, name):
    with pytest.raises(InvalidNameError):
        allocate(str(tmp_path / "root"), project, name)
    assert not list(tmp_path.glob("root/*/*"))
    assert not (tmp_path / "x").exists()


def test_a_root_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "root").write_text("a file")
    with pytest.raises(OSError, match="root"):
        allocate(str(tmp_path / "root"), "p", "r")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", ["exp", None])
def test_thirty_two_processes_at_once_get_thirty_two_folders(tmp_path, name):
    gate, start = os.pipe()
    answers, answer = os.pipe()
    children = []
    for _ in range(32):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(start)
                os.read(gate, 1)
                run = allocate(str(tmp_path / "root"), "p", name)
                os.write(answer, f"{run.name}\n".encode())
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    for fd in (gate, start, answer):
        os.close(fd)  # closing the last writer of the gate lets all of them go
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 32
    with open(answers) as file:
        names = file.read().split()
    assert len(set(names)) == 32
    assert sorted(names) == sorted(os.listdir(tmp_path / "root" / "p"))
    if name:
        assert set(names) == {"exp", *(f"exp-{number}" for number in range(2, 34))} & set(names)


def test_importing_the_layout_reads_and_makes_nothing(tmp_path):
    code = "import experiment_tracking.folder.layout as l; l.find_root('x')"
    environment = os.environ | {"PYTHONPATH": str(Path(layout.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert os.listdir(tmp_path) == []
