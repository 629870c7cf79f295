"""The code of two runs, in real repositories; whatever a run folder says, nothing is run."""

import json
import os
import subprocess

import pytest

from experiment_tracking.registry.code_diff import CodeDiff, code_diff

TRAIN = "import helper\n\n\ndef main():\n    lr = 0.1\n    helper.step(lr)\n"


@pytest.fixture
def git(tmp_path, monkeypatch):
    """A repository with one commit; the function runs git in it and gives what it says."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A. Body")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@example.org")
    top = tmp_path / "repository"
    top.mkdir()

    def git(*words, cwd=top):
        done = subprocess.run(["git", *words], cwd=cwd, check=True, capture_output=True, text=True)
        return done.stdout

    git("init", "-b", "main")
    (top / "train.py").write_text(TRAIN)
    (top / "conf.yaml").write_text("width: 1\ndepth: 2\n")
    git("add", ".")
    git("commit", "-m", "Begin")
    git.top = top
    return git


@pytest.fixture
def kept(track, registry):
    """A run with files in ``code/`` and facts about git; gives its record."""

    def kept(name, files=(), **facts):
        run = track(name)
        (run.path / "environment.json").write_text(json.dumps({"git": facts}))
        for path, content in dict(files).items():
            file = run.path / "code" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return registry.get(name)

    return kept


def head(git):
    return git("rev-parse", "HEAD").strip()


def by_path(code):
    assert len({file.path for file in code.files}) == len(code.files)
    return {file.path: file for file in code.files}


def changed_lines(file):
    return [x for x in file.text.split("\n")[2:] if x[:1] in ("+", "-")]


def test_equal_files_do_not_differ(kept):
    code = code_diff(kept("a", {"train.py": TRAIN}), kept("b", {"train.py": TRAIN}))
    assert code == CodeDiff()
    assert not code


def test_a_changed_file_shows_its_changed_lines(kept):
    after = TRAIN.replace("0.1", "0.01")
    code = code_diff(kept("a", {"m/train.py": TRAIN}), kept("b", {"m/train.py": after}))
    file = by_path(code)["m/train.py"]
    assert changed_lines(file) == ["-    lr = 0.1", "+    lr = 0.01"]
    assert file.lines_changed == "+1 -1"
    assert file.text.startswith("--- a/m/train.py\n+++ b/m/train.py\n@@ ")


def test_files_of_one_run_alone_come_after_the_changed_ones(kept):
    a = kept("a", {"a.py": "x\n", "z.py": "1\n"})
    b = kept("b", {"b.py": "x\ny\n", "z.py": "2\n"})
    code = code_diff(a, b)
    assert [(f.path, f.added, f.removed, f.note) for f in code.files] == [
        ("z.py", 1, 1, None), ("a.py", 0, 1, "in a alone"), ("b.py", 2, 0, "in b alone"),
    ]  # fmt: skip


def test_a_missing_last_newline_and_another_line_end_are_differences(kept):
    a = kept("a", {"n.py": "x = 1\n", "r.py": "x = 1\n", "f.py": "a\x0cb\n"})
    b = kept("b", {"n.py": "x = 1", "r.py": "x = 1\r\n", "f.py": "a\x0cc\n"})
    files = by_path(code_diff(a, b))
    assert "\\ No newline at end of file" in files["n.py"].text
    assert changed_lines(files["r.py"]) == ["-x = 1", "+x = 1\r"]
    assert changed_lines(files["f.py"]) == ["-a\x0cb", "+a\x0cc"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"a\0b", "binary"), (b"a\n" * 6000, "too long"), (b"a" * 2_000_000, "too long")],
)
def test_what_cannot_be_compared_by_lines_is_said_to_differ(kept, content, reason):
    files = by_path(code_diff(kept("a", {"x.py": "a\n"}), kept("b", {"x.py": content})))
    assert files["x.py"].text == ""
    assert reason in files["x.py"].lines_changed


def test_commits_tell_what_lies_between_and_which_other_files_changed(kept, git):
    first = head(git)
    (git.top / "conf.yaml").write_text("width: 1\ndepth: 3\n")
    git("commit", "-am", "Go deeper")
    a = kept("a", {"train.py": TRAIN}, commit=first, top=str(git.top))
    b = kept("b", {"train.py": TRAIN}, commit=head(git), top="/nowhere")
    code = code_diff(a, b)
    assert code.commits == (first, head(git))
    assert [line.partition(" ")[0] for line in code.log] == ["+"]
    assert code.log[0].endswith(" Go deeper")
    file = by_path(code)["conf.yaml"]
    assert (file.origin, changed_lines(file)) == ("commit", ["-depth: 2", "+depth: 3"])
    assert [line[0] for line in code_diff(b, a).log] == ["-"]


def test_a_file_that_both_kept_is_shown_as_it_ran_and_not_as_it_was_committed(kept, git):
    first = head(git)
    (git.top / "train.py").write_text(TRAIN.replace("0.1", "0.2"))
    git("commit", "-am", "Double")
    a = kept("a", {"train.py": TRAIN}, commit=first, top=str(git.top))
    b = kept("b", {"train.py": TRAIN.replace("0.1", "0.3")}, commit=head(git), top=str(git.top))
    files = by_path(code_diff(a, b))
    assert changed_lines(files["train.py"]) == ["-    lr = 0.1", "+    lr = 0.3"]


def test_a_commit_that_brought_a_kept_file_shows_it_once(kept, git):
    first = head(git)
    (git.top / "new.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-m", "Add")
    a = kept("a", commit=first, top=str(git.top))
    b = kept("b", {"new.py": "x = 1\n"}, commit=head(git), top=str(git.top))
    assert by_path(code_diff(a, b))["new.py"].note == "in b alone"


def both_commits(git, kept, before, after):
    """Two runs, one of a commit before a change of conf.yaml and one of the commit after it."""
    first = head(git)
    (git.top / "conf.yaml").write_text(after)
    git("commit", "-am", "Change")
    git("checkout", first)
    patch = patch_of(git, before)
    git("checkout", "main")
    a = kept("a", {"git.patch": patch}, commit=first, top=str(git.top))
    return a, kept("b", commit=head(git), top=str(git.top))


def test_a_change_that_was_committed_between_the_runs_is_none(kept, git):
    text = "width: 1\ndepth: 5\n"
    a, b = both_commits(git, kept, text, text)
    for code in (code_diff(a, b), code_diff(b, a)):
        assert code.commits
        assert code.files == ()


def test_an_uncommitted_change_and_a_commit_of_one_file_show_as_one_true_diff(kept, git):
    a, b = both_commits(git, kept, "width: 7\ndepth: 2", "width: 1\ndepth: 5\nheight: 3\n")
    file = by_path(code_diff(a, b))["conf.yaml"]
    assert changed_lines(file) == [
        "-width: 7", "-depth: 2", "+width: 1", "+depth: 5", "+height: 3",
    ]  # fmt: skip
    assert "\\ No newline at end of file" in file.text


def test_without_the_repository_equal_blobs_are_still_no_difference(kept, git):
    patch = patch_of(git, "width: 1\ndepth: 5\n")
    a = kept("a", {"git.patch": patch}, commit="a" * 40)
    b = kept("b", {"conf.yaml": "width: 1\ndepth: 5\n"}, commit="b" * 40)
    assert code_diff(a, b).files == ()
    c = kept("c", {"conf.yaml": "width: 1\ndepth: 6\n"}, commit="b" * 40)
    assert by_path(code_diff(a, c)).keys() == {"conf.yaml"}


def test_a_file_that_was_untracked_and_is_committed_now_is_no_difference(kept, git):
    first = head(git)
    (git.top / "new.yaml").write_text("api_key: sk-proj-q8ZrT1vN3xW5yB7cD9fG2hJ4\nwidth: 1\n")
    git("add", ".")
    git("commit", "-m", "Add")
    hidden = {"new.yaml": "api_key: ***\nwidth: 1\n"}
    a = kept("a", hidden, commit=first, top=str(git.top))
    assert code_diff(a, kept("b", commit=head(git), top=str(git.top))).files == ()


def test_a_tracked_module_that_one_run_alone_has_imported_is_no_difference(kept, git):
    a = kept("a", {"train.py": TRAIN}, commit=head(git), top=str(git.top))
    assert code_diff(a, kept("b", commit=head(git), top=str(git.top))).files == ()


def test_a_changed_file_that_a_run_has_left_out_is_not_taken_for_the_committed_one(kept, git):
    a = kept("a", {"train.py": TRAIN}, commit=head(git), top=str(git.top))
    b = kept("b", commit=head(git), top=str(git.top))
    facts = json.loads((b.path / "environment.json").read_text())
    facts["code"] = {"left_out": [{"path": "train.py", "reason": "over 1 MB"}]}
    (b.path / "environment.json").write_text(json.dumps(facts))
    assert by_path(code_diff(a, b.refresh()))["train.py"].note == "in a alone"


def test_a_file_of_a_submodule_is_not_looked_for_in_the_repository_around_it(kept, git):
    facts = {"commit": head(git), "top": str(git.top), "submodules": {"sub": "a" * 40}}
    a, b = kept("a", {"sub/x.py": "1\n"}, **facts), kept("b", **facts)
    patch = patch_of(git, "width: 1\ndepth: 5\n").replace("conf.yaml", "sub/x.py")
    c = kept("c", {"git.patch": patch}, **facts)
    assert by_path(code_diff(a, b))["sub/x.py"].note == "in a alone"
    assert by_path(code_diff(b, c))["sub/x.py"].note == "uncommitted in b"


def test_files_added_and_removed_on_top_of_a_commit_are_told_apart(kept, git):
    (git.top / "new.txt").write_text("x\n")
    git("add", "new.txt")
    git("rm", "conf.yaml")
    patch = git("diff", "--binary", "--full-index", "HEAD")
    git("reset", "--hard")
    first = head(git)
    git("commit", "--allow-empty", "-m", "Empty")
    (git.top / "conf.yaml").write_text("width: 2\n")
    git("commit", "-am", "Change")
    a = kept("a", {"git.patch": patch}, commit=first, top=str(git.top))
    files = by_path(code_diff(a, kept("b", commit=head(git), top=str(git.top))))
    assert (files["conf.yaml"].note, changed_lines(files["conf.yaml"])) == (
        "in b alone", ["+width: 2"],
    )  # fmt: skip
    assert files["new.txt"].note == "uncommitted in a"


@pytest.mark.parametrize("place", ["x", "9" * 5000, "7,1"])
def test_a_patch_that_does_not_fit_its_commit_is_shown_as_it_is(kept, git, place):
    patch = patch_of(git, "width: 1\ndepth: 5\n").replace("@@ -1,2", f"@@ -{place}")
    other = patch_of(git, "width: 1\ndepth: 6\n")
    a = kept("a", {"git.patch": patch}, commit=head(git), top=str(git.top))
    b = kept("b", {"git.patch": other}, commit=head(git), top=str(git.top))
    assert "++depth: 6" in changed_lines(by_path(code_diff(a, b))["conf.yaml"])


def test_two_uncommitted_changes_show_as_the_files_where_the_repository_is_there(kept, git):
    first, second = (patch_of(git, f"width: 1\ndepth: {n}\n") for n in (3, 4))
    a = kept("a", {"git.patch": first}, commit=head(git), top=str(git.top))
    b = kept("b", {"git.patch": second}, commit=head(git), top=str(git.top))
    file = by_path(code_diff(a, b))["conf.yaml"]
    assert changed_lines(file) == ["-depth: 3", "+depth: 4"]


@pytest.mark.parametrize(
    ("name", "rows", "long"), [("x.csv", 60, 1), ("x.csv", 9, 0), ("x.py", 60, 0)]
)
def test_many_lines_of_data_are_known_as_such(kept, name, rows, long):
    a, b = kept("a", {name: "1\n"}), kept("b", {name: "2\n" * rows})
    assert by_path(code_diff(a, b))[name].is_long_data == bool(long)


def test_commits_that_no_repository_here_holds_are_noted(kept, git):
    a = kept("a", commit="a" * 40, top=str(git.top))
    b = kept("b", commit=head(git), top=str(git.top))
    code = code_diff(a, b)
    assert code.commits == ("a" * 40, head(git))
    assert (code.log, code.files) == ((), ())
    assert "No repository on this machine" in code.notes[0]


def patch_of(git, text):
    (git.top / "conf.yaml").write_text(text)
    patch = git("diff", "--binary", "--full-index", "HEAD")
    git("checkout", "conf.yaml")
    return patch


def test_a_change_that_b_alone_had_not_committed_shows_as_it_is(kept, git):
    patch = patch_of(git, "width: 1\ndepth: 3\n")
    code = code_diff(kept("a", {"x.py": ""}), kept("b", {"x.py": "", "git.patch": patch}))
    file = by_path(code)["conf.yaml"]
    assert changed_lines(file) == ["-depth: 2", "+depth: 3"]
    assert (file.origin, file.note) == ("uncommitted", "uncommitted in b")


def test_a_change_that_a_alone_had_not_committed_is_undone(kept, git, tmp_path):
    text = "width: 1\ndepth: 3\nheight: 4\n"
    code = code_diff(
        kept("a", {"x.py": "", "git.patch": patch_of(git, text)}), kept("b", {"x.py": ""})
    )
    file = by_path(code)["conf.yaml"]
    assert changed_lines(file) == ["-depth: 3", "-height: 4", "+depth: 2"]
    # What is shown is a true diff: it takes a's file to b's.
    (git.top / "conf.yaml").write_text(text)
    (tmp_path / "shown.patch").write_text(file.text + "\n")
    git("apply", "../shown.patch")
    assert (git.top / "conf.yaml").read_text() == "width: 1\ndepth: 2\n"


def test_two_uncommitted_changes_of_one_file_show_how_they_differ(kept, git):
    first, second = (patch_of(git, f"width: 1\ndepth: {n}\n") for n in (3, 4))
    code = code_diff(kept("a", {"git.patch": first}), kept("b", {"git.patch": second}))
    lines = changed_lines(by_path(code)["conf.yaml"])
    assert "-+depth: 3" in lines
    assert "++depth: 4" in lines


def test_an_uncommitted_change_of_a_file_that_both_kept_is_not_told_twice(kept, git):
    (git.top / "train.py").write_text("pass\n")
    patch = git("diff", "--binary", "HEAD")
    b = kept("b", {"train.py": "pass\n", "git.patch": patch})
    code = code_diff(kept("a", {"train.py": TRAIN}), b)
    assert [(file.path, file.origin) for file in code.files] == [("train.py", "kept")]


def test_names_in_a_patch_are_read_in_every_form_git_writes(kept, git):
    for name in ("with blank.txt", "binary.bin", "empty.txt", "ü.txt", "gone.txt"):
        (git.top / name).write_text("x\n")
    git("add", ".")
    git("commit", "-m", "More")
    (git.top / "with blank.txt").write_text("y\n")
    (git.top / "binary.bin").write_bytes(b"\0\1")
    (git.top / "empty.txt").chmod(0o755)
    (git.top / "ü.txt").write_text("y\n")
    (git.top / "gone.txt").unlink()
    patch = git("-c", "core.quotePath=false", "diff", "--binary", "HEAD")
    files = by_path(code_diff(kept("a", {"x": ""}), kept("b", {"x": "", "git.patch": patch})))
    assert files.keys() == {"with blank.txt", "binary.bin", "empty.txt", "ü.txt", "gone.txt"}
    assert files["binary.bin"].text == ""


# ---------------------------------------------------------------------- folders from somebody else


def test_links_in_code_are_not_followed(kept, tmp_path):
    (tmp_path / "damaged").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("swordfish\n")
    a, b = kept("a", {"x.py": "1\n"}), kept("b", {"x.py": "1\n"})
    (b.path / "code" / "folder").symlink_to(tmp_path / "outside")
    (b.path / "code" / "file.txt").symlink_to(tmp_path / "outside" / "secret.txt")
    os.mkfifo(b.path / "code" / "pipe")
    code = code_diff(a, b)
    assert "swordfish" not in str(code)
    assert "is a link" in by_path(code)["file.txt"].note
    assert "not a regular file" in by_path(code)["pipe"].note


def test_a_code_folder_that_is_a_link_is_not_read(kept, tmp_path):
    (tmp_path / "damaged").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("swordfish\n")
    a, b = kept("a", {"x.py": "1\n"}), kept("b")
    (b.path / "code").symlink_to(tmp_path / "outside")
    assert [file.path for file in code_diff(a, b).files] == ["x.py"]


@pytest.mark.parametrize("commit", ["--output=stolen", "HEAD", "", 5, None, ["x"], "A" * 40])
def test_only_object_names_are_given_to_git(kept, git, commit):
    a = kept("a", commit=commit, top=str(git.top))
    b = kept("b", commit=head(git), top=str(git.top))
    assert code_diff(a, b).commits is None
    assert not (git.top / "stolen").exists()


@pytest.mark.parametrize("top", [None, 5, "", ".", "../repository", "/nowhere", "a\0b"])
def test_git_is_run_in_absolute_folders_alone(kept, git, top, monkeypatch):
    first = head(git)
    git("commit", "--allow-empty", "-m", "Empty")
    monkeypatch.chdir(git.top)
    a, b = kept("a", commit=first, top=top), kept("b", commit=head(git), top=top)
    assert "No repository" in code_diff(a, b).notes[0]


def test_git_is_not_run_in_a_folder_of_somebody_else(kept, git, monkeypatch):
    first = head(git)
    git("commit", "--allow-empty", "-m", "Empty")
    top = str(git.top)
    a, b = kept("a", commit=first, top=top), kept("b", commit=head(git), top=top)
    monkeypatch.setattr(os, "getuid", lambda: git.top.stat().st_uid + 1)
    assert "No repository" in code_diff(a, b).notes[0]


def test_the_repository_around_a_folder_is_not_asked(kept, git):
    first = head(git)
    git("commit", "--allow-empty", "-m", "Empty")
    (git.top / "inner").mkdir()
    top = str(git.top / "inner")
    code = code_diff(kept("a", commit=first, top=top), kept("b", commit=head(git), top=top))
    assert code.log == ()


def test_no_program_that_a_repository_names_is_run(kept, git, tmp_path):
    canary = tmp_path / "canary"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch '{canary}'\ncat\n")
    program.chmod(0o755)
    (git.top / ".gitattributes").write_text("* diff=evil filter=evil\n")
    git("add", ".")
    git("commit", "-m", "Attributes")
    first = head(git)
    (git.top / "conf.yaml").write_text("width: 1\ndepth: 3\n")
    git("commit", "-am", "Go deeper")
    for setting in (
        "core.fsmonitor", "core.pager", "diff.external", "diff.evil.textconv",
        "diff.evil.command", "filter.evil.clean", "filter.evil.smudge", "gpg.program",
    ):  # fmt: skip
        git("config", setting, str(program))
    git("config", "log.showSignature", "true")
    top = str(git.top)
    code = code_diff(kept("a", commit=first, top=top), kept("b", commit=head(git), top=top))
    assert changed_lines(by_path(code)["conf.yaml"]) == ["-depth: 2", "+depth: 3"]
    assert not canary.exists()
    git("diff", first)  # The trap works.
    assert canary.exists()


def test_a_partial_clone_fetches_nothing(kept, git, tmp_path):
    first = head(git)
    (git.top / "conf.yaml").write_text("width: 1\ndepth: 3\n")
    git("commit", "-am", "Go deeper")
    git("config", "uploadpack.allowFilter", "true")
    git("clone", "--bare", "--filter=blob:none", f"file://{git.top}", str(tmp_path / "clone"))
    canary = tmp_path / "canary"
    trap = f"touch '{canary}'; git-upload-pack"
    git("config", "remote.origin.uploadpack", trap, cwd=tmp_path / "clone")
    top = str(tmp_path / "clone")
    code = code_diff(kept("a", commit=first, top=top), kept("b", commit=head(git), top=top))
    assert "No repository" in code.notes[0]
    assert not canary.exists()
    git("diff", first, head(git), cwd=tmp_path / "clone")  # The trap works.
    assert canary.exists()


def test_variables_of_git_do_not_lead_to_another_repository(kept, git, monkeypatch):
    first = head(git)
    git("commit", "--allow-empty", "-m", "Empty")
    top, second = str(git.top), head(git)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert len(code_diff(kept("a", commit=first, top=top), kept("b", commit=second, top=top)).log)
