import os
import shutil
import stat
import subprocess

import pytest

from experiment_tracking.capture import git_changes
from experiment_tracking.capture.code import LeftOut
from experiment_tracking.capture.git import GitProbe, start_git
from experiment_tracking.capture.git_changes import GitChanges, read_changes
from experiment_tracking.folder.layout import README_MARK

SECRET = 'API_KEY = "sk-proj-0123456789abcdefghij"\n'
HIDDEN = 'API_KEY = "***"\n'


pytestmark = pytest.mark.usefixtures("plain_git")


def git(folder, *arguments, given=None):
    command = ["git", "-c", "protocol.file.allow=always", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, input=given)
    return done.stdout.decode().strip()


def commit_all(folder):
    git(folder, "add", "--all", "--force", ".")
    git(folder, "commit", "--quiet", "--message=all")


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "lab"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "train.py").write_text("".join(f"print({n})\n" for n in range(20)))
    commit_all(folder)
    return folder


@pytest.fixture
def outer(repository, tmp_path):
    """A repository that has ``lab`` as a submodule in a folder with a space in its name."""
    folder = tmp_path / "outer"
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "submodule", "--quiet", "add", str(repository), "my libs/lab")
    (folder / "main.py").write_text("import lab\n")
    commit_all(folder)
    return folder


def changes_of(folder, **options):
    return read_changes(GitProbe.start(folder), **options)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def tree_of(folder):
    """All there is but git's own: the text of files and links, and who may execute them."""
    tree = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if ".git" in path.parts or (path.is_dir() and not path.is_symlink()):
            continue
        is_program = bool(path.lstat().st_mode & stat.S_IXUSR)
        text = os.readlink(path) if path.is_symlink() else path.read_bytes()
        tree[name] = (text, is_program)
    return tree


def applied(changes, repository, into):
    """The tree that the patch gives on a clean checkout of the commit."""
    git(into.parent, "clone", "--quiet", "--no-checkout", str(repository), str(into))
    git(into, "checkout", "--quiet", "--detach", git(repository, "rev-parse", "HEAD"))
    git(into, "submodule", "--quiet", "update", "--init", "--recursive")
    git(into, "apply", "--binary", "--whitespace=nowarn", "-", given=changes.patch)
    return tree_of(into)


def put_in_place_of_git(monkeypatch, tmp_path, command):
    script = tmp_path / "bin" / "git"
    write(script, f"#!/bin/sh\n{command}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")


def change_everything(folder):
    """Make a commit and a change of every kind that git knows."""
    noise = bytes(range(256)) * 20
    names = ["a b.txt", "tab\t.txt", "new\nline.py", "é ∂.py", 'quote".py', "back\\slash.py"]
    for name in names:
        (folder / name).write_text("one\n")
    (folder / os.fsdecode(b"caf\xe9.py")).write_text("one\n")
    (folder / "crlf.txt").write_bytes(b"one\r\ntwo\r\n")
    (folder / "latin.py").write_bytes(b"# caf\xe9\nx = 1\n")
    (folder / "no-end").write_bytes(b"one\ntwo")
    (folder / "weights.bin").write_bytes(noise)
    (folder / "gone.bin").write_bytes(noise)
    (folder / "program.sh").write_text("ls\n")
    (folder / "gone.py").write_text("gone\n")
    (folder / "old name.py").write_text("renamed\n" * 20)
    (folder / "link").symlink_to("a b.txt")
    (folder / "becomes-link").write_text("file\n")
    (folder / "empty-later").write_text("full\n")
    commit_all(folder)
    for name in names:
        (folder / name).write_text("one\ntwo\n")
    (folder / os.fsdecode(b"caf\xe9.py")).write_text("two\n")
    (folder / "crlf.txt").write_bytes(b"one\r\nthree\r\nfour\n")
    (folder / "latin.py").write_bytes(b"# caf\xe9\nx = '\xe4\x85'\x0c\n")
    (folder / "no-end").write_bytes(b"one\nthree")
    (folder / "weights.bin").write_bytes(noise[::-1] + b"\0")
    (folder / "gone.bin").unlink()
    (folder / "program.sh").chmod(0o755)
    (folder / "gone.py").unlink()
    git(folder, "mv", "old name.py", "new name.py")
    (folder / "link").unlink()
    (folder / "link").symlink_to("crlf.txt")
    (folder / "becomes-link").unlink()
    (folder / "becomes-link").symlink_to("link")
    (folder / "empty-later").write_text("")
    write(folder / "sub" / "staged.py", "staged\n")
    git(folder, "add", "sub")
    write(folder / "sub" / "staged.py", "staged, then changed\n")


def test_a_clean_tree_has_no_changes(repository):
    assert changes_of(repository) == GitChanges()


def test_the_patch_gives_byte_for_byte_what_the_working_tree_holds(repository, tmp_path):
    change_everything(repository)
    changes = changes_of(repository)
    assert changes == GitChanges(patch=changes.patch)
    assert applied(changes, repository, tmp_path / "copy") == tree_of(repository)


def test_settings_of_the_user_do_not_change_the_patch(repository):
    change_everything(repository)
    expected = changes_of(repository).patch
    (repository / ".git" / "order").write_text("*\n")
    (repository / ".git" / "info" / "attributes").write_text("*.py diff=mine\n")
    for setting in (
        "diff.noprefix=true", "diff.mnemonicPrefix=true", "diff.external=false",
        "diff.mine.textconv=false", "diff.mine.command=false", "diff.context=0",
        "diff.interHunkContext=9", "diff.renames=copies", "diff.relative=true",
        "diff.submodule=log", "diff.wsErrorHighlight=all", "diff.colorMoved=zebra",
        "diff.orderFile=.git/order", "color.ui=always", "core.quotePath=false",
        "core.pager=false",
    ):  # fmt: skip
        git(repository, "config", *setting.split("=", 1))
    write(repository / "sub" / "here", "")
    assert changes_of(repository / "sub").patch == expected


def test_the_environment_of_the_user_does_not_change_the_patch(repository, monkeypatch):
    write(repository / "conf" / ".env", "")
    commit_all(repository)
    write(repository / "conf" / ".env", "PLAIN=second\n")
    write(repository / "new" / "helper.py", "")
    (repository / "train.py").write_text("print(2)\n")
    expected = changes_of(repository)
    assert (expected.untracked, len(expected.left_out)) == (("new/helper.py",), 1)
    for name, value in {
        "GIT_EXTERNAL_DIFF": "false", "GIT_DIFF_OPTS": "--unified=0", "GIT_PAGER": "false",
        "GIT_DIR": "/nowhere", "GIT_INDEX_FILE": "/nowhere", "GIT_LITERAL_PATHSPECS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert changes_of(repository) == expected


def test_a_folder_inside_gives_the_changes_of_the_whole_repository(repository):
    write(repository / "sub" / "helper.py", "")
    (repository / "train.py").write_text("print(2)\n")
    changes = changes_of(repository / "sub")
    assert changes == changes_of(repository)
    assert changes.untracked == ("sub/helper.py",)


def test_before_the_first_commit_the_patch_is_for_an_empty_tree(tmp_path):
    lab, copy = tmp_path / "lab", tmp_path / "copy"
    for folder in (lab, copy):
        folder.mkdir()
        git(folder, "init", "--quiet")
    (lab / "train.py").write_text("print(1)\n")
    git(lab, "add", ".")
    (lab / "train.py").write_text("print(2)\n")
    changes = changes_of(lab)
    git(copy, "apply", "--binary", "-", given=changes.patch)
    assert tree_of(copy) == tree_of(lab)


@pytest.mark.parametrize("place", ["worktree", "shallow", "detached"])
def test_the_patch_holds_in_every_kind_of_checkout(repository, tmp_path, place):
    change_everything(repository)
    commit_all(repository)
    folder = tmp_path / place
    if place == "worktree":
        git(repository, "worktree", "add", "--quiet", str(folder))
    elif place == "shallow":
        git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", str(folder))
    else:
        git(repository, "checkout", "--quiet", "--detach")
        folder = repository
    (folder / "train.py").write_text("print(2)\n")
    (folder / "weights.bin").write_bytes(b"\0new")
    (folder / "helper.py").write_text("")
    changes = changes_of(folder)
    assert changes == GitChanges(patch=changes.patch, untracked=("helper.py",))
    (folder / "helper.py").unlink()
    assert applied(changes, repository, tmp_path / "copy") == tree_of(folder)


def test_a_conflict_is_kept_as_it_stands_in_the_file(repository, tmp_path):
    git(repository, "checkout", "--quiet", "-b", "side")
    (repository / "train.py").write_text("print(2)\n")
    commit_all(repository)
    git(repository, "checkout", "--quiet", "main")
    (repository / "train.py").write_text("print(3)\n")
    commit_all(repository)
    subprocess.run(["git", "merge", "side"], cwd=repository, capture_output=True, check=False)
    changes = changes_of(repository)
    assert b"+<<<<<<< HEAD" in changes.patch
    assert applied(changes, repository, tmp_path / "copy") == tree_of(repository)


def test_changes_in_submodules_are_part_of_the_patch(outer, tmp_path):
    inner = outer / "my libs" / "lab"
    (outer / "main.py").write_text("import lab.train\n")
    change_everything(inner)
    # A commit that nobody else has: it is not the patch that tells it, but the facts.
    git(inner, "push", "--quiet", "origin", "HEAD:side")
    (inner / "helper.py").write_text("")
    git(inner, "reset", "--quiet", "--soft", "HEAD~1")
    changes = changes_of(outer)
    assert changes == GitChanges(patch=changes.patch, untracked=("my libs/lab/helper.py",))
    (inner / "helper.py").unlink()
    assert applied(changes, outer, tmp_path / "copy") == tree_of(outer)


def test_inside_a_submodule_its_own_changes_are_told(outer):
    (outer / "main.py").write_text("import lab.train\n")
    (outer / "my libs" / "lab" / "helper.py").write_text("")
    changes = changes_of(outer / "my libs" / "lab")
    assert changes == GitChanges(untracked=("helper.py",))


def test_a_moved_submodule_is_left_to_the_facts(outer):
    git(outer / "my libs" / "lab", "commit", "--quiet", "--allow-empty", "--message=further")
    assert changes_of(outer) == GitChanges()


def test_a_submodule_that_cannot_be_read_is_noted_and_the_rest_is_told(outer):
    inner = outer / "my libs" / "lab"
    (outer / "main.py").write_text("import lab.train\n")
    (inner / "train.py").write_text("print(2)\n")
    probe = GitProbe.start(outer)
    probe.finish()
    (inner / ".git").write_text("garbage")
    changes = read_changes(probe)
    assert b"+import lab.train" in changes.patch
    assert len(changes.notes) == 1
    assert "submodule my libs/lab/: git ended with 128" in changes.notes[0]


def test_a_submodule_that_is_no_repository_any_more_is_not_taken_for_the_one_around_it(outer):
    inner = outer / "my libs" / "lab"
    (outer / "main.py").write_text("import lab.train\n")
    (inner / "train.py").write_text("print(2)\n")
    probe = GitProbe.start(outer)
    probe.finish()
    (inner / ".git").unlink()
    (inner / ".git").mkdir()
    changes = read_changes(probe)
    assert changes.patch.count(b"diff --git") == 1
    assert changes.notes == ("submodule my libs/lab/: not a repository of its own",)


def test_a_submodule_that_was_taken_out_has_no_changes(outer, tmp_path):
    git(outer, "rm", "--quiet", "my libs/lab")
    changes = changes_of(outer)
    assert changes == GitChanges(patch=changes.patch)
    assert b"a/.gitmodules" in changes.patch


def test_untracked_code_is_told_and_data_is_not(repository):
    for name in ("helper.py", "conf/a b.yaml", "conf/deep/é\n.toml", "data/x.npy", "data/y.bin"):
        write(repository / name, "x")
    assert changes_of(repository) == GitChanges(
        untracked=("helper.py", "conf/a b.yaml", "conf/deep/é\n.toml")
    )


def test_ignored_files_are_not_told(repository):
    write(repository / ".git" / "info" / "exclude", "build/\nlocal.py\n")
    for name in ("build/made.py", "pkg/local.py", "pkg/build/made.py", "pkg/kept.py"):
        write(repository / name, "x")
    assert changes_of(repository).untracked == ("pkg/kept.py",)


def test_untracked_code_that_may_not_be_kept_is_told_with_the_reason(repository):
    write(repository / "conf" / ".env", "TOKEN=x")
    write(repository / "huge.py", "#" * 1_000_001)
    changes = changes_of(repository)
    assert changes.untracked == ()
    assert [name for name, _ in changes.left_out] == ["huge.py", "conf/.env"]
    assert all(reason for _, reason in changes.left_out)


def test_folders_to_exclude_are_not_walked_through(repository, monkeypatch):
    monkeypatch.setattr(git_changes, "MAX_UNTRACKED", 1)
    for number in range(5):
        write(repository / "out" / "*[a]\\" / f"{number}.json", "{}")
    write(repository / "out" / "plot.py", "x")
    changes = changes_of(repository, exclude=[str(repository / "out" / "*[a]\\")])
    assert changes == GitChanges(untracked=("out/plot.py",))


def test_files_of_runs_never_belong_to_the_code(repository):
    write(repository / "out" / "runs" / "one" / "params.json", "{}")
    write(repository / "out" / "[a]*" / "one" / "params.json", "{}")
    write(repository / "marked" / "README.md", f"{README_MARK}\n# Experiments\n")
    write(repository / "marked" / "project" / "run" / "params.json", "{}")
    write(repository / "out" / "plot.py", "x")
    exclude = [str(repository / "out" / "runs"), str(repository / "out" / "[a]*"), "/elsewhere"]
    assert changes_of(repository, exclude=exclude) == GitChanges(untracked=("out/plot.py",))


def test_runs_that_are_tracked_never_belong_to_the_patch(repository):
    names = ("runs/a.json", "marked/p/b.json")
    write(repository / "marked" / "README.md", f"{README_MARK}\n# Experiments\n")
    for name in names:
        write(repository / name, "{}\n")
    commit_all(repository)
    for name in names:
        write(repository / name, "[]\n")
    assert changes_of(repository, exclude=[str(repository / "runs")]) == GitChanges()


def test_a_virtual_environment_is_not_code(repository):
    write(repository / "env" / "pyvenv.cfg", "home = /usr/bin\n")
    write(repository / "env" / "lib" / "site-packages" / "torch.py", "x")
    write(repository / "sub" / "conda" / "conda-meta" / "history", "")
    write(repository / "sub" / "conda" / "bin" / "tool.py", "x")
    assert changes_of(repository) == GitChanges()


def test_a_repository_in_the_working_tree_is_said_to_be_left_out(repository):
    nested = repository / "nested"
    nested.mkdir()
    git(nested, "init", "--quiet")
    write(nested / "code.py", "x")
    assert changes_of(repository).left_out == (LeftOut("nested/", "a repository of its own"),)


def test_pictures_and_labels_without_end_do_not_hide_code(repository):
    images, labels = repository / "a" / "images", repository / "a" / "yolo"
    images.mkdir(parents=True)
    labels.mkdir()
    for number in range(3_000):
        (images / f"a-picture-with-a-name-of-some-length-{number:06}.jpg").touch()
        (labels / f"{number:06}.txt").touch()
    for name in ("models/new_net.py", "zz_config.yaml", "a/zz.yaml"):
        write(repository / name, "x")
    assert changes_of(repository) == GitChanges(
        untracked=("models/new_net.py", "zz_config.yaml", "a/zz.yaml"),
        left_out=(LeftOut("a/yolo/", "files that look like data: 3,000"),),
    )


def test_what_tools_write_is_told_by_folder_and_never_kept(repository):
    write(repository / "outputs" / ".gitkeep", "")
    write(repository / "dist" / "tracked.py", "x")
    commit_all(repository)
    for name in (
        "outputs/2026-01-01/.hydra/config.yaml", "outputs/plot.yaml", "wandb/run/code/train.py",
        "lab/mlruns/meta.yaml", "lab/net.py", "dist/new.py", "dist/new.yaml", "runs/plot.png",
    ):  # fmt: skip
        write(repository / name, "x")
    reason = "a folder that tools write into"
    changes = changes_of(repository)
    assert changes.untracked == ("dist/new.py", "lab/net.py")
    assert sorted(changes.left_out) == [
        LeftOut(f"{name}/", reason) for name in ("dist", "outputs", "runs", "wandb")
    ]


def test_with_more_untracked_folders_than_git_is_asked_for_all_are_looked_into(
    repository, monkeypatch
):
    monkeypatch.setattr(git_changes, "_MAX_FOLDERS", 3)
    for number in range(5):
        write(repository / f"pkg{number}" / "a.py", "x")
    write(repository / "alone.py", "x")
    expected = ("alone.py", *(f"pkg{number}/a.py" for number in range(5)))
    assert changes_of(repository) == GitChanges(untracked=expected)


def test_beyond_the_bound_on_their_number_untracked_files_are_told_by_folder(
    repository, monkeypatch
):
    monkeypatch.setattr(git_changes, "MAX_UNTRACKED", 3)
    monkeypatch.setattr(git_changes, "MAX_LEFT_OUT", 1)
    for name in ("deep/er/a.py", "deep/a.py", "deep/b.py", "deep/c.py", "deep/d.py", "a.yaml"):
        write(repository / name, "x")
    changes = changes_of(repository)
    assert changes.untracked == ("deep/a.py", "deep/b.py", "deep/c.py")
    assert changes.left_out == (LeftOut("deep/d.py", "more than 3 untracked files"),)
    assert changes.notes == ("2 more places were left out",)
    (repository / "deep" / "e.py").touch()
    reason = "2 files: more than 3 untracked files"
    assert changes_of(repository).left_out == (LeftOut("deep/", reason),)


def test_beyond_the_bound_on_their_bytes_smaller_untracked_files_are_kept(repository, monkeypatch):
    monkeypatch.setattr(git_changes, "MAX_UNTRACKED_BYTES", 100)
    for name, size in (("a.py", 60), ("b.py", 50), ("c.py", 40)):
        write(repository / name, "#" * size)
    changes = changes_of(repository)
    assert changes.untracked == ("a.py", "c.py")
    assert changes.left_out == (LeftOut("b.py", "more than 100 bytes of untracked files"),)


def test_a_list_of_untracked_files_that_does_not_end_is_noted_and_what_came_is_kept(
    repository, monkeypatch, tmp_path
):
    write(repository / "lab" / "a.py", "x")
    probe = GitProbe.start(repository)
    probe.finish()
    put_in_place_of_git(monkeypatch, tmp_path, "printf 'lab/a.py\\0lab/b'; exec sleep 60")
    changes = read_changes(probe, timeout_s=1.0)
    assert changes.untracked == ("lab/a.py",)
    assert changes.notes == (
        "git did not answer in time when it was asked what has changed",
        "the list of untracked files was not read to its end",
    )


def test_files_to_exclude_beyond_the_bound_on_pathspecs_never_show_in_the_patch(
    repository, monkeypatch, tmp_path
):
    monkeypatch.setattr(git_changes, "_MAX_PATHSPECS", 2)
    for text in ("first\n", "second\n"):
        for number in range(5):
            write(repository / f"{number}.env", f"PLAIN={text}")
            write(repository / "runs" / "p" / f"{number}.json", text)
        (repository / "train.py").write_text(text)
        if text == "first\n":
            commit_all(repository)
    changes = changes_of(repository, exclude=[str(repository / "runs")])
    assert (changes.patch.count(b"diff --git"), b"PLAIN" in changes.patch) == (1, False)
    assert [name for name, _ in changes.left_out] == [f"{number}.env" for number in range(5)]


def test_settings_that_hide_changes_from_the_user_do_not_hide_them_here(outer, tmp_path):
    (outer / "new.py").write_text("")
    (outer / "my libs" / "lab" / "train.py").write_text("print(2)\n")
    git(outer, "config", "status.showUntrackedFiles", "no")
    git(outer, "config", "submodule.my libs/lab.ignore", "all")
    git(outer, "config", "diff.ignoreSubmodules", "all")
    changes = changes_of(outer)
    assert changes == GitChanges(patch=changes.patch, untracked=("new.py",))
    (outer / "new.py").unlink()
    assert applied(changes, outer, tmp_path / "copy") == tree_of(outer)


def test_the_changes_in_a_repository_of_somebody_else_are_told(repository, monkeypatch):
    (repository / "train.py").write_text("print(2)\n")
    write(repository / "lab" / "new.py", "")
    expected = changes_of(repository)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert changes_of(repository) == expected
    assert expected.untracked == ("lab/new.py",)


def test_forbidden_files_never_show_in_the_patch(repository, tmp_path):
    write(repository / ".env", "PLAIN=first\n")
    write(repository / "deploy" / "server.pem", "first\n")
    commit_all(repository)
    write(repository / ".env", "PLAIN=second\n")
    (repository / "deploy" / "server.pem").unlink()
    (repository / "train.py").write_text("print('new')\n")
    changes = changes_of(repository)
    assert sorted(name for name, _ in changes.left_out) == [".env", "deploy/server.pem"]
    assert b"first" not in changes.patch
    assert b"second" not in changes.patch
    assert b"+print('new')" in changes.patch


def test_a_secret_in_an_added_line_is_hidden_and_the_patch_applies(repository, tmp_path):
    script = repository / "train.py"
    script.write_text(script.read_text() + SECRET + "é = 1\n")
    changes = changes_of(repository)
    assert (changes.redacted, changes.changed) == (("train.py",), ())
    expected = script.read_text().replace(SECRET, HIDDEN).encode()
    assert applied(changes, repository, tmp_path / "copy")["train.py"] == (expected, False)


def test_a_renamed_file_is_told_by_its_new_name(repository, tmp_path):
    git(repository, "mv", "train.py", "new.py")
    (repository / "new.py").write_text((repository / "new.py").read_text() + SECRET)
    changes = changes_of(repository)
    assert changes.redacted == ("new.py",)
    assert list(applied(changes, repository, tmp_path / "copy")) == ["new.py"]


@pytest.mark.parametrize("where", ["context", "removed"])
def test_a_file_with_a_secret_in_another_line_is_kept_whole(repository, tmp_path, where):
    script = repository / "train.py"
    script.write_text(SECRET + "print(1)\n")
    write(repository / "other.py", "x = 1\n")
    commit_all(repository)
    script.write_text("print(1)\n" if where == "removed" else SECRET + "print(2)\n")
    write(repository / "other.py", "x = 2\n")
    changes = changes_of(repository)
    assert (changes.changed, changes.redacted, changes.left_out) == (("train.py",), (), ())
    assert b"sk-proj" not in changes.patch
    copy = applied(changes, repository, tmp_path / "copy")
    assert copy["other.py"] == (b"x = 2\n", False)


def test_the_heading_of_a_hunk_shows_no_secret(repository):
    script = repository / "train.py"
    script.write_text(SECRET + "    x = 1\n" * 20 + "    y = 1\n")
    commit_all(repository)
    assert (
        b"sk-proj"
        in subprocess.run(
            ["git", "show", "HEAD"], cwd=repository, capture_output=True, check=True
        ).stdout
    )
    script.write_text(SECRET + "    x = 1\n" * 20 + "    y = 2\n")
    changes = changes_of(repository)
    assert b"+    y = 2" in changes.patch
    assert b"sk-proj" not in changes.patch
    assert (changes.changed, changes.redacted) == ((), ())


def test_a_deleted_file_whose_diff_would_show_a_secret_is_said_to_be_left_out(repository):
    (repository / "train.py").write_text(SECRET)
    commit_all(repository)
    (repository / "train.py").unlink()
    changes = changes_of(repository)
    assert changes.patch == b""
    assert changes.left_out == (
        LeftOut("train.py", "deleted, and the diff would show what must stay hidden"),
    )


def test_a_changed_notebook_is_kept_whole_for_its_outputs_may_show_anything(repository):
    write(repository / "a.ipynb", "{}\n")
    commit_all(repository)
    write(repository / "a.ipynb", '{"cells": []}\n')
    assert changes_of(repository) == GitChanges(changed=("a.ipynb",))


def test_a_file_whose_diff_is_too_long_is_left_out_and_the_rest_applies(
    repository, tmp_path, monkeypatch
):
    monkeypatch.setattr(git_changes, "MAX_SECTION_BYTES", 2_000)
    for name in ("long.py", "noise.bin"):
        (repository / name).write_bytes(
            os.urandom(5_000) if name == "noise.bin" else b"1\n" * 2_000
        )
    git(repository, "add", ".")
    (repository / "train.py").write_text("print(2)\n")
    changes = changes_of(repository)
    assert [name for name, _ in changes.left_out] == ["long.py", "noise.bin"]
    assert "more than the 2,000 allowed" in changes.left_out[0].reason
    assert sorted(applied(changes, repository, tmp_path / "copy")) == ["train.py"]


def test_a_patch_that_grows_too_long_ends_at_a_whole_file(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(git_changes, "MAX_PATCH_BYTES", 3_000)
    for number in range(5):
        write(repository / f"new{number}.py", "x = 1\n" * 150)
    git(repository, "add", ".")
    changes = changes_of(repository)
    assert 0 < len(changes.patch) <= 3_000
    assert [name for name, _ in changes.left_out] == ["new2.py", "new3.py", "new4.py"]
    assert sorted(applied(changes, repository, tmp_path / "copy"))[:2] == ["new0.py", "new1.py"]


def test_a_diff_without_end_is_not_read_to_its_end(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(git_changes, "_MAX_READ_BYTES", 100_000)
    for number in range(5):
        write(repository / f"new{number}.py", f"{number}\n" * 20_000)
    git(repository, "add", ".")
    changes = changes_of(repository)
    kept = set(applied(changes, repository, tmp_path / "copy")) - {"train.py"}
    assert kept | {name for name, _ in changes.left_out} == {f"new{n}.py" for n in range(5)}
    assert "new0.py" in kept
    assert "new4.py" not in kept


def test_a_huge_file_is_not_given_to_git(repository, monkeypatch):
    monkeypatch.setattr(git_changes, "_MAX_FILE_BYTES", 1_000)
    (repository / "train.py").write_text("print(2)\n" * 200)
    changes = changes_of(repository)
    assert changes == GitChanges(
        left_out=(LeftOut("train.py", "1,800 bytes, more than the 1,000 that are compared"),)
    )


def test_outside_a_repository_there_are_no_changes(tmp_path):
    assert changes_of(tmp_path) == GitChanges()


def test_without_git_there_are_no_changes(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert changes_of(repository) == GitChanges()


def test_a_git_that_goes_away_later_is_noted(repository, monkeypatch, tmp_path):
    (repository / "train.py").write_text("print(2)\n")
    probe = GitProbe.start(repository)
    probe.finish()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git could not be started" in read_changes(probe).notes[0]


def test_a_lost_object_is_noted_and_untracked_code_is_told(repository):
    blob = git(repository, "rev-parse", "HEAD:train.py")
    (repository / "train.py").write_text("print(2)\n")
    (repository / "helper.py").write_text("")
    (repository / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    changes = changes_of(repository)
    assert (changes.patch, changes.untracked) == (b"", ("helper.py",))
    assert "git ended with 128" in changes.notes[0]


def test_a_lost_repository_is_noted(repository):
    (repository / "train.py").write_text("print(2)\n")
    probe = GitProbe.start(repository)
    probe.finish()
    shutil.rmtree(repository / ".git")
    assert "Not a git repository" in read_changes(probe).notes[0]


def test_a_git_that_hangs_is_ended_and_noted(repository, monkeypatch, tmp_path):
    (repository / "train.py").write_text("print(2)\n")
    probe = GitProbe.start(repository)
    probe.finish()
    put_in_place_of_git(monkeypatch, tmp_path, "exec sleep 60")
    started = []

    def start(*arguments):
        started.append(start_git(*arguments))
        return started[-1]

    monkeypatch.setattr(git_changes, "start_git", start)
    changes = read_changes(probe, timeout_s=0.05)
    assert "did not answer in time" in changes.notes[0]
    assert [process.returncode for process in started] == [-9]


def test_many_complaints_do_not_hold_up_git(repository, tmp_path, monkeypatch):
    (repository / "train.py").write_text("print(2)\n")
    probe = GitProbe.start(repository)
    probe.finish()
    put_in_place_of_git(monkeypatch, tmp_path, "head -c 1000000 /dev/zero | tr '\\0' x >&2")
    changes = read_changes(probe)
    assert changes.patch == b""
    assert len(changes.notes[0]) == 500


def test_the_index_is_not_touched(repository):
    (repository / "train.py").write_text("print(2)\n")
    os.utime(repository / "train.py", (1, 1))  # git would now like to refresh its index
    before = (repository / ".git" / "index").stat()
    changes_of(repository)
    after = (repository / ".git" / "index").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
