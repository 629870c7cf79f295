import os
import stat
import subprocess
import sys

import orjson
import pytest

from experiment_tracking.capture.git import GitFacts, GitProbe

pytestmark = pytest.mark.usefixtures("plain_git")


def git(folder, *arguments):
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "lab"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "train.py").write_text("print(1)\n" * 20)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    return folder


def facts_of(folder):
    return GitProbe.start(folder).finish()


def only_a_note(facts):
    return facts == GitFacts(note=facts.note) and facts.note


def test_a_clean_repository_has_commit_and_branch_and_no_dirt(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert facts_of(repository) == GitFacts(
        commit=commit, branch="main", upstream=None, top=str(repository), remotes={},
        shallow=False, dirty=False, changed=0, untracked=0, submodules={},
    )  # fmt: skip


def test_a_folder_inside_the_repository_gives_the_same_facts(repository):
    inside = repository / "sub"
    inside.mkdir()
    assert facts_of(inside) == facts_of(repository)


def test_changed_staged_renamed_and_deleted_files_make_it_dirty(repository):
    for name in ("1 a", "b", "c"):
        (repository / name).write_text(name * 30)
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=second")
    git(repository, "mv", "1 a", "? moved")  # names that look like the records around them
    git(repository, "rm", "--quiet", "b")
    (repository / "c").write_text("changed")
    facts = facts_of(repository)
    assert (facts.dirty, facts.changed, facts.untracked) == (True, 3, 0)


def test_untracked_files_are_counted_but_are_not_dirt(repository):
    (repository / "new\n1 line.py").write_text("")
    (repository / "folder").mkdir()
    (repository / "folder" / "a").write_text("")
    (repository / "folder" / "b").write_text("")
    facts = facts_of(repository)
    assert (facts.dirty, facts.changed, facts.untracked) == (False, 0, 2)


def test_a_conflict_counts_as_a_change(repository):
    git(repository, "checkout", "--quiet", "-b", "side")
    (repository / "train.py").write_text("print(2)\n")
    git(repository, "commit", "--quiet", "--all", "--message=side")
    git(repository, "checkout", "--quiet", "main")
    (repository / "train.py").write_text("print(3)\n")
    git(repository, "commit", "--quiet", "--all", "--message=main")
    subprocess.run(["git", "merge", "side"], cwd=repository, capture_output=True, check=False)
    facts = facts_of(repository)
    assert (facts.dirty, facts.changed) == (True, 1)


def test_a_detached_head_has_a_commit_and_no_branch(repository):
    git(repository, "checkout", "--quiet", "--detach")
    facts = facts_of(repository)
    assert facts.branch is None
    assert facts.commit == git(repository, "rev-parse", "HEAD")


def test_a_repository_without_a_commit_has_a_branch_and_no_commit(tmp_path):
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    (tmp_path / "new.py").write_text("")
    assert facts_of(tmp_path) == GitFacts(
        branch="main", top=str(tmp_path), remotes={}, shallow=False, dirty=False, changed=0,
        untracked=1, submodules={},
    )  # fmt: skip


def test_a_clone_names_the_branch_it_follows(repository, tmp_path):
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", "copy")
    facts = facts_of(tmp_path / "copy")
    assert (facts.upstream, facts.shallow) == ("origin/main", True)
    assert facts.remotes == {"origin": f"file://{repository}"}
    assert facts.commit == git(repository, "rev-parse", "HEAD")


def test_a_worktree_shows_its_own_branch_and_changes(repository, tmp_path):
    git(repository, "worktree", "add", "--quiet", "-b", "try", str(tmp_path / "tree"))
    (tmp_path / "tree" / "train.py").write_text("print(2)\n")
    facts = facts_of(tmp_path / "tree")
    assert (facts.branch, facts.dirty, facts.top) == ("try", True, str(tmp_path / "tree"))
    assert facts_of(repository).branch == "main"


@pytest.fixture
def outer(repository, tmp_path):
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "--quiet", "--initial-branch=trunk")
    allowed = ("-c", "protocol.file.allow=always")
    git(outer, *allowed, "submodule", "--quiet", "add", str(repository), "inner")
    git(outer, "commit", "--quiet", "--message=outer")
    return outer


def test_a_submodule_is_a_repository_of_its_own(repository, outer):
    facts = facts_of(outer / "inner")
    assert facts.commit == git(repository, "rev-parse", "HEAD")
    assert (facts.top, facts.submodules) == (str(outer / "inner"), {})
    (outer / "inner" / "train.py").write_text("print(2)\n")
    assert (facts_of(outer / "inner").branch, facts_of(outer).branch) == ("main", "trunk")
    assert facts_of(outer).changed == 1


def test_submodules_are_told_with_the_commit_that_is_checked_out(outer):
    git(outer / "inner", "commit", "--quiet", "--allow-empty", "--message=further")
    further = git(outer / "inner", "rev-parse", "HEAD")
    assert facts_of(outer).submodules == {"inner": further}


def test_a_submodule_in_a_submodule_is_told_by_its_whole_path(repository, outer, tmp_path):
    outermost = tmp_path / "outermost"
    outermost.mkdir()
    git(outermost, "init", "--quiet")
    allowed = ("-c", "protocol.file.allow=always")
    git(outermost, *allowed, "submodule", "--quiet", "add", str(outer), "libs/é")
    git(outermost, *allowed, "submodule", "--quiet", "update", "--init", "--recursive")
    assert facts_of(outermost).submodules == {
        "libs/é": git(outer, "rev-parse", "HEAD"),
        "libs/é/inner": git(repository, "rev-parse", "HEAD"),
    }


def test_a_submodule_that_is_not_checked_out_is_not_told(outer, tmp_path):
    git(tmp_path, "clone", "--quiet", str(outer), "copy")
    assert (tmp_path / "copy" / "inner").is_dir()
    assert facts_of(tmp_path / "copy").submodules == {}


def test_a_broken_submodule_is_noted_and_the_rest_is_told(outer):
    (outer / ".git" / "modules" / "inner" / "HEAD").write_text("ref: refs/heads/none\n")
    facts = facts_of(outer)
    assert (facts.branch, facts.submodules) == ("trunk", {})
    assert "submodule inner: git ended with 128" in facts.note


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_submodule_without_its_repository_is_noted_and_the_rest_is_told(outer, kind):
    (outer / "inner" / ".git").unlink()
    if kind == "folder":  # Then git would find the repository around it.
        (outer / "inner" / ".git").mkdir()
    else:
        (outer / "inner" / ".git").write_text("gitdir: ../.git/modules/gone\n")
    facts = facts_of(outer)
    assert (facts.branch, facts.top, facts.submodules) == ("trunk", str(outer), {})
    assert "submodule inner: git ended with 128: fatal: not a git repository" in facts.note


@pytest.mark.parametrize("url", ["../plain", "../with # sign", '../a "quoted" name', "../a\\\\b"])
def test_a_remote_is_told_as_git_tells_it_however_it_is_written_down(repository, url):
    git(repository, "remote", "add", "origin", url)
    git(repository, "config", "branch.main.description", "url = none")
    told = subprocess.run(
        ["git", "config", "remote.origin.url"], cwd=repository, capture_output=True, text=True
    ).stdout.rstrip("\n")
    assert facts_of(repository).remotes == {"origin": told}


def test_remotes_lose_their_credentials_and_can_still_be_cloned(repository):
    for name, url in {
        "token": "https://gho_0123456789abcdefghijABCD@github.com/lab/code.git",
        "both": "https://ann:hunter2@example.org:8443/lab/code.git?access_token=hunter2",
        "ssh": "ssh://git:hunter2@example.org/lab/code.git",
        "scp": "git@example.org:lab/code.git",
        "a.b.url": "../code",
    }.items():
        git(repository, "remote", "add", name, url)
    git(repository, "remote", "set-url", "--add", "scp", "git@example.org:lab/second.git")
    assert facts_of(repository).remotes == {
        "token": "https://github.com/lab/code.git",
        "both": "https://example.org:8443/lab/code.git",
        "ssh": "ssh://git@example.org/lab/code.git",
        "scp": "git@example.org:lab/code.git",
        "a.b.url": "../code",
    }


def test_the_repository_of_a_hook_is_not_taken_for_the_folders_own(repository, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet", "--initial-branch=hooked")
    hook = other / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    code = "from experiment_tracking.capture.git import GitProbe; import sys; "
    code += "print([GitProbe.start(folder).finish().branch for folder in sys.argv[1:]])"
    hook.write_text(f"#!/bin/sh\n'{sys.executable}' -c '{code}' '{other}' '{repository}' >&2\n")
    hook.chmod(0o755)
    command = ["git", "commit", "--quiet", "--allow-empty", "--message=first"]
    done = subprocess.run(command, cwd=other, capture_output=True, text=True, check=True)
    assert done.stderr == "['hooked', 'main']\n"


def test_settings_that_come_by_the_environment_are_followed(repository, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "remote.given.url")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "../given")
    assert facts_of(repository).remotes == {"given": "../given"}


def test_a_repository_of_somebody_else_gives_the_same_facts(repository, monkeypatch):
    facts = facts_of(repository)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert facts_of(repository) == facts


def test_a_monitor_of_the_file_system_is_not_started(repository, tmp_path):
    hook = tmp_path / "monitor"
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    hook.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(hook))
    assert facts_of(repository).note is None
    assert not (tmp_path / "started").exists()


def test_settings_that_hide_changes_from_the_user_do_not_hide_them_here(outer):
    (outer / "new.py").write_text("")
    (outer / "inner" / "train.py").write_text("print(2)\n")
    git(outer, "config", "status.showUntrackedFiles", "no")
    git(outer, "config", "submodule.inner.ignore", "all")
    facts = facts_of(outer)
    assert (facts.dirty, facts.changed, facts.untracked) == (True, 1, 1)


def only_the_head(facts, repository):
    """The note of facts that tell commit and branch, and nothing of the files."""
    assert facts == GitFacts(
        commit=git(repository, "rev-parse", "HEAD"), branch="main", top=str(repository),
        remotes={"origin": "../code"}, shallow=False, submodules={}, note=facts.note,
    )  # fmt: skip
    return facts.note


def test_with_a_filter_that_hangs_commit_branch_and_remotes_are_told(repository):
    git(repository, "remote", "add", "origin", "../code")
    git(repository, "config", "filter.slow.clean", "sleep 3; cat")
    (repository / ".git" / "info" / "attributes").write_text("*.py filter=slow\n")
    (repository / "train.py").write_text("print(2)\n" * 20)  # as long as before
    note = only_the_head(GitProbe.start(repository).finish(timeout_s=1.0), repository)
    assert note.startswith("git did not answer within 0.7")
    assert note.endswith("so it is not known whether files had changed")


def test_with_a_corrupt_index_commit_branch_and_remotes_are_told(repository):
    git(repository, "remote", "add", "origin", "../code")
    (repository / ".git" / "index").write_bytes(b"\0garbage\xff")
    assert "index" in only_the_head(facts_of(repository), repository)


def test_with_a_corrupt_index_and_a_detached_head_there_is_no_branch(repository):
    git(repository, "checkout", "--quiet", "--detach")
    (repository / ".git" / "index").write_bytes(b"\0garbage\xff")
    facts = facts_of(repository)
    assert (facts.branch, facts.commit) == (None, git(repository, "rev-parse", "HEAD"))


def test_a_folder_that_may_not_be_entered_gives_a_note(repository):
    repository.chmod(0)
    if is_root := os.geteuid() == 0:
        os.seteuid(65534)  # Root may do everything; nobody may not.
    try:
        facts = facts_of(repository)
    finally:
        if is_root:
            os.seteuid(0)
        repository.chmod(0o755)
    assert "Permission denied" in only_a_note(facts)


def test_the_top_of_any_encoding_comes_out_as_text_for_json(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9\n")
    folder.mkdir()
    git(folder, "init", "--quiet")
    probe = GitProbe.start(folder)
    assert orjson.loads(orjson.dumps(probe.finish().to_dict()))["top"].endswith("/caf\\udce9\n")
    assert probe.top == str(folder)


def test_a_branch_of_any_encoding_comes_out_as_text_for_json(repository):
    git(repository, "checkout", "--quiet", "-b", os.fsdecode("β-caf".encode() + b"\xe9"))
    assert orjson.loads(orjson.dumps(facts_of(repository).to_dict()))["branch"] == "β-caf\\xe9"


def test_a_list_longer_than_the_pipe_holds_up_nobody(repository):
    for number in range(3000):
        (repository / f"untracked-file-with-a-long-name-{number:06}.txt").touch()
    probe = GitProbe.start(repository)
    assert probe.finish().untracked == 3000


def test_the_facts_are_the_same_when_asked_again(repository):
    probe = GitProbe.start(repository)
    assert probe.finish() is probe.finish()


def test_the_index_is_not_touched(repository):
    os.utime(repository / "train.py", (1, 1))  # git would now like to refresh its index
    before = (repository / ".git" / "index").stat()
    facts_of(repository)
    after = (repository / ".git" / "index").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_outside_a_repository_a_note_says_so(tmp_path):
    assert only_a_note(facts_of(tmp_path)) == "not in a git repository"


def test_without_git_a_note_says_so(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No such file or directory: 'git'" in only_a_note(facts_of(repository))


def test_in_a_missing_folder_a_note_names_it(tmp_path):
    assert "gone" in only_a_note(facts_of(tmp_path / "gone"))


@pytest.mark.parametrize("name", ["HEAD", "config"])
def test_a_corrupt_repository_gives_a_note(repository, name):
    (repository / ".git" / name).write_bytes(b"\0garbage\xff")
    assert only_a_note(facts_of(repository))


def test_a_lost_object_is_noted_and_its_name_told(repository):
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "remote", "add", "origin", "../code")
    (repository / ".git" / "objects" / commit[:2] / commit[2:]).unlink()
    assert "git ended with 128" in only_the_head(facts_of(repository), repository)


def test_a_git_that_hangs_is_ended_and_noted(repository, monkeypatch, tmp_path):
    script = tmp_path / "bin" / "git"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    probe = GitProbe.start(repository)
    processes = list(probe._processes)
    assert "git did not answer within 0.0" in only_a_note(probe.finish(timeout_s=0.05))
    assert None not in [process.poll() for process in processes]
