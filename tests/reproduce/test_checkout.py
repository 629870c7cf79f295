import json
import os
import shutil
from pathlib import Path

import pytest

from experiment_tracking.errors import DamagedError, InvalidValueError, ReproductionError
from experiment_tracking.reproduce.checkout import checkout


@pytest.fixture
def into(tmp_path):
    return tmp_path / "again"


def test_the_tree_has_the_commit_the_changes_and_the_files_nobody_committed(
    repository, run_of, into, files_of
):
    (repository / "lab" / "model.py").write_text("depth = 3\n")
    (repository / "new.py").write_text("width = 8\n")
    record = run_of(repository, {"new.py": "width = 8\n"})
    expected = files_of(repository)
    (repository / "lab" / "model.py").write_text("depth = 99\n")
    (repository / "new.py").unlink()
    (repository / "train.py").write_text("broken")
    found = checkout(record, str(into))
    assert (found.folder, found.cwd, found.warnings, found.linked) == (str(into),) * 2 + ([], [])
    assert files_of(into) == expected


def test_the_users_repository_is_left_as_it_is(repository, run_of, into):
    (repository / "train.py").write_text("changed")
    record = run_of(repository)
    before = {p: p.stat().st_mtime_ns for p in sorted(repository.rglob("*"))}
    checkout(record, str(into))
    assert {p: p.stat().st_mtime_ns for p in sorted(repository.rglob("*"))} == before


def test_the_tree_is_a_repository_at_the_same_commit_with_the_same_changes(
    repository, run_of, into, git
):
    (repository / "train.py").write_text("changed")
    record = run_of(repository)
    checkout(record, str(into))
    assert git(into, "rev-parse", "HEAD") == git(repository, "rev-parse", "HEAD")
    assert git(into, "diff", "HEAD") == git(repository, "diff", "HEAD")


def test_binary_files_modes_links_deletions_and_odd_names_come_back(repository, run_of, into, git):
    (repository / "old.py").write_text("x = 1\n" * 9)
    (repository / "run.sh").write_text("echo 1\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=second")
    git(repository, "mv", "old.py", "über 1.py")
    (repository / "run.sh").chmod(0o755)
    (repository / "weights.bin").write_bytes(bytes(range(256)))
    (repository / "dos.txt").write_bytes(b"a\r\nb")
    os.symlink("train.py", repository / "link.py")
    (repository / "lab" / "model.py").unlink()
    git(repository, "add", ".")
    checkout(run_of(repository), str(into))
    assert (into / "über 1.py").read_text() == "x = 1\n" * 9
    assert not (into / "old.py").exists()
    assert not (into / "lab" / "model.py").exists()
    assert os.access(into / "run.sh", os.X_OK)
    assert (into / "weights.bin").read_bytes() == bytes(range(256))
    assert (into / "dos.txt").read_bytes() == b"a\r\nb"
    assert os.readlink(into / "link.py") == "train.py"


def test_a_commit_that_no_branch_leads_to_is_found(repository, run_of, into, git, files_of):
    (repository / "train.py").write_text("amended away\n")
    git(repository, "commit", "--quiet", "--all", "--message=second")
    record = run_of(repository)
    git(repository, "reset", "--quiet", "--hard", "HEAD~")
    checkout(record, str(into))
    assert files_of(into)["train.py"] == "amended away\n"


def test_a_run_from_a_worktree_comes_back(repository, run_of, into, git, files_of, tmp_path):
    worktree = tmp_path / "worktree"
    git(repository, "worktree", "add", "--quiet", "--detach", worktree)
    (worktree / "train.py").write_text("changed\n")
    record = run_of(worktree)
    checkout(record, str(into))
    assert files_of(into) == files_of(worktree)


def test_a_run_from_a_shallow_clone_comes_back(repository, run_of, into, git, files_of, tmp_path):
    git(repository, "commit", "--quiet", "--allow-empty", "--message=second")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", clone)
    git(clone, "commit", "--quiet", "--allow-empty", "--message=here")
    record = run_of(clone)
    git(clone, "reset", "--quiet", "--hard", "HEAD~")
    checkout(record, str(into))
    assert files_of(into) == files_of(repository)
    assert git(into, "fsck", "--connectivity-only") == b""


def test_a_repository_of_sha256_objects_is_read(run_of, into, git, tmp_path, files_of):
    folder = tmp_path / "sha256"
    git(tmp_path, "init", "--quiet", "--object-format=sha256", folder)
    (folder / "train.py").write_text("x")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    checkout(run_of(folder), str(into))
    assert files_of(into) == {"train.py": "x"}


def test_submodules_come_back_at_their_commits_with_their_changes(
    repository, run_of, into, git, files_of, tmp_path
):
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "--quiet")
    (library / "layer.py").write_text("a = 1\n")
    git(library, "add", ".")
    git(library, "commit", "--quiet", "--message=first")
    git(repository, "submodule", "--quiet", "add", library, "vendor/library")
    git(repository, "commit", "--quiet", "--message=submodule")
    inner = repository / "vendor" / "library"
    (inner / "layer.py").write_text("a = 2\n")
    patch = git(inner, "diff", "--src-prefix=a/vendor/library/", "--dst-prefix=b/vendor/library/")
    commit = git(inner, "rev-parse", "HEAD").decode().strip()
    facts = {"submodules": {"vendor/library": commit}}
    record = run_of(repository, {"vendor/library/new.py": "n"}, git=facts, patch=patch)
    checkout(record, str(into))
    (inner / "new.py").write_text("n")
    assert files_of(into) == files_of(repository)
    assert git(into, "submodule", "status").decode().split()[0] == commit


def test_before_the_first_commit_everything_is_in_the_patch(
    run_of, into, git, files_of, tmp_path, run_folder
):
    folder = tmp_path / "young"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "train.py").write_text("x = 1\n")
    git(folder, "add", ".")
    empty = git(folder, "hash-object", "-t", "tree", "-w", "--stdin", data=b"").decode().strip()
    patch = git(folder, "diff", "--binary", empty)
    (folder / "new.py").write_text("y")
    environment = {"project": str(folder), "cwd": ".", "git": {"commit": None, "top": str(folder)}}
    checkout(run_folder(environment, {"git.patch": patch, "new.py": "y"}), str(into))
    assert files_of(into) == files_of(folder)


def test_outside_git_the_tree_is_what_the_run_kept(run_folder, into, files_of):
    code = {"train.py": "import helper", "lab/helper.py": "x", "requirements.txt": "numpy"}
    script = {"path": "/lab/train.py", "module": None, "relative_name": "train.py", "note": None}
    environment = {
        "project": None,
        "cwd": "/lab",
        "entry_script": script,
        "git": {"note": "no git"},
    }
    found = checkout(run_folder(environment, code), str(into))
    assert files_of(into) == code
    assert (found.project, found.cwd, found.script) == ("/lab", str(into), str(into / "train.py"))
    assert found.warnings == ["When the run was made, git said: no git"]


def test_a_run_outside_git_is_told_to_have_only_what_it_kept(run_folder, into):
    record = run_folder({"git": {"note": "not in a git repository"}}, {"train.py": ""})
    assert checkout(record, str(into)).warnings == [
        "The run was made outside git: only the files that it kept are run."
    ]


def test_the_repository_around_the_working_folder_serves_where_the_first_is_gone(
    repository, run_of, into, git, files_of, tmp_path, monkeypatch
):
    record = run_of(repository)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", repository, clone)
    shutil.rmtree(repository)
    monkeypatch.chdir(clone)
    checkout(record, str(into))
    assert files_of(into) == files_of(clone)


def test_without_a_repository_the_error_names_what_to_clone(repository, run_of, into):
    url = "https://***@example.org/lab.git"
    record = run_of(repository, git={"remotes": {"origin": url}})
    shutil.rmtree(repository)
    with pytest.raises(
        ReproductionError, match=r"'git clone https://example.org/lab.git'"
    ) as error:
        checkout(record, str(into))
    assert f"{repository} is not there" in str(error.value)


def test_without_git_the_error_says_so(repository, run_of, into, monkeypatch, tmp_path):
    record = run_of(repository)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReproductionError, match="git is not installed"):
        checkout(record, str(into))


def test_a_patch_that_does_not_apply_is_an_error_with_the_reason(repository, run_of, into, git):
    (repository / "train.py").write_text("changed\n")
    patch = git(repository, "diff").replace(b"-from lab", b"-from somewhere")
    with pytest.raises(ReproductionError, match=r"git apply failed .*train\.py"):
        checkout(run_of(repository, patch=patch), str(into))


def test_hooks_and_the_git_dir_of_a_hook_around_us_have_no_say(
    repository, run_of, into, tmp_path, monkeypatch, files_of
):
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    (hooks / "post-checkout").chmod(0o755)
    settings = tmp_path / "gitconfig"
    settings.write_text(f"[core]\n\thooksPath = {hooks}\n")
    record = run_of(repository)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    checkout(record, str(into))
    assert files_of(into) == files_of(repository)
    assert not (tmp_path / "hooked").exists()


def test_a_committed_file_is_better_than_its_copy_with_hidden_secrets(
    repository, run_of, into, git
):
    secret = "API_KEY = 'abcdef0123456789'\n"
    (repository / "settings.py").write_text(secret)
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=settings")
    found = checkout(run_of(repository, {"settings.py": "API_KEY = '***'\n"}), str(into))
    assert (into / "settings.py").read_text() == secret
    assert found.warnings == []


def test_a_changed_file_that_only_the_run_kept_takes_the_place_of_the_committed_one(
    repository, run_of, into
):
    kept = "API_KEY = '***'\ndepth = 5\n"
    found = checkout(run_of(repository, {"lab/model.py": kept}), str(into))
    assert (into / "lab" / "model.py").read_text() == kept
    assert found.warnings == [
        "1 file holds *** where the run hid what looked like a secret: lab/model.py."
    ]


def test_the_working_folder_and_the_script_are_those_inside_the_tree(repository, run_of, into):
    script = {"path": str(repository / "train.py"), "relative_name": "train.py", "note": None}
    found = checkout(run_of(repository, cwd="work/here", entry_script=script), str(into))
    assert found.cwd == str(into / "work" / "here")
    assert os.path.isdir(found.cwd)
    assert found.script == str(into / "train.py")


def test_a_working_folder_outside_the_project_stays_and_is_told(repository, run_of, into, tmp_path):
    found = checkout(run_of(repository, cwd=str(tmp_path)), str(into))
    assert found.cwd == str(tmp_path)
    assert "outside its project" in found.warnings[0]


def test_a_script_that_is_missing_is_told_with_its_reason(repository, run_of, into):
    script = {"path": "x", "relative_name": "big.py", "note": "left out: 2,000,000 bytes"}
    found = checkout(run_of(repository, entry_script=script), str(into))
    assert found.script is None
    assert found.warnings == [
        "The script big.py is neither committed nor kept (left out: 2,000,000 bytes)."
    ]


def test_what_the_capture_left_out_is_told(repository, run_of, into):
    left_out = [{"path": f"{i}.env", "reason": "credentials"} for i in range(12)]
    record = run_of(repository, git={"dirty": True}, left_out=left_out)
    warnings = checkout(record, str(into)).warnings
    assert "12 files were not kept by the run: 0.env (credentials), " in warnings[0]
    assert warnings[0].endswith("9.env (credentials) and 2 more.")
    assert "no git.patch" in warnings[1]


# ---------------------------------------------------------------------- data


def an_input(path, kind="file", **facts):
    return {"name": path.name, "kind": kind, "path": str(path), "sha256": None, **facts}


def test_data_inside_the_project_is_linked_and_committed_data_is_not(repository, run_of, into):
    (repository / "data").mkdir()
    (repository / "data" / "x.csv").write_text("1,2")
    inputs = [an_input(repository / "data" / "x.csv"), an_input(repository / "train.py")]
    found = checkout(run_of(repository, inputs=inputs), str(into))
    assert found.linked == ["data/x.csv"]
    assert os.readlink(into / "data" / "x.csv") == str(repository / "data" / "x.csv")
    assert not (into / "train.py").is_symlink()


def test_a_folder_of_data_of_which_a_part_is_committed_is_made_whole(repository, run_of, into, git):
    (repository / "data" / "raw").mkdir(parents=True)
    (repository / "data" / "README").write_text("ours")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=readme")
    (repository / "data" / "raw" / "x.csv").write_text("1,2")
    inputs = [an_input(repository / "data", "folder")]
    assert checkout(run_of(repository, inputs=inputs), str(into)).linked == ["data"]
    assert (into / "data" / "raw" / "x.csv").read_text() == "1,2"
    assert not (into / "data" / "README").is_symlink()


def test_a_committed_link_that_leads_out_of_the_project_leads_there_again(
    repository, run_of, into, git, tmp_path
):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "x.csv").write_text("1,2")
    os.symlink("../shared", repository / "data")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=link")
    record = run_of(repository, inputs=[an_input(repository / "data" / "x.csv")])
    deeper = into / "deeper"
    checkout(record, str(deeper))
    assert (deeper / "data" / "x.csv").read_text() == "1,2"


def test_data_that_has_gone_or_changed_its_size_is_told(repository, run_of, into, tmp_path):
    (tmp_path / "x.csv").write_text("1,2,3")
    inputs = [an_input(tmp_path / "x.csv", size_bytes=3), an_input(repository / "gone.csv")]
    warnings = checkout(run_of(repository, inputs=inputs), str(into)).warnings
    assert warnings == [
        f"Input 'x.csv' has changed: {tmp_path}/x.csv has 5 bytes, it had 3.",
        f"Input 'gone.csv' is not at {repository}/gone.csv any more.",
    ]


def test_committed_data_counts_as_it_is_in_the_tree(repository, run_of, into, git):
    data = repository / "x.csv"
    data.write_text("1,2")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=data")
    record = run_of(repository, inputs=[an_input(data, size_bytes=3)])
    data.write_text("1,2,3")
    assert checkout(record, str(into / "changed")).warnings == []
    data.unlink()
    assert checkout(record, str(into / "gone")).warnings == []


def test_hidden_secrets_in_files_that_were_not_imported_are_not_told(repository, run_folder, into):
    record = run_folder({"git": {}}, {"train.py": "", "other.py": "KEY = '***'\n"})
    for entry in record.environment["code"]["files"]:
        entry["origin"] = "untracked"
    assert checkout(record, str(into)).warnings == []


def test_arrays_and_addresses_are_no_files_to_link(repository, run_of, into):
    inputs = [{"name": "x", "kind": "array"}, {"name": "y", "kind": "uri", "path": "s3://bucket/y"}]
    found = checkout(run_of(repository, inputs=inputs), str(into))
    assert (found.linked, found.warnings) == ([], [])


def test_further_names_can_be_linked(repository, run_of, into):
    (repository / "cache").mkdir()
    assert checkout(run_of(repository), str(into), link=["cache"]).linked == ["cache"]
    assert (into / "cache").is_symlink()


@pytest.mark.parametrize("name", ["missing", "..", "../lab", "/etc/passwd", "."])
def test_a_name_that_is_not_in_the_project_cannot_be_linked(repository, run_of, into, name):
    with pytest.raises(InvalidValueError, match="inside the project"):
        checkout(run_of(repository), str(into), link=[name])


# ---------------------------------------------------------------------- what is refused


def test_a_folder_that_is_not_empty_is_refused(repository, run_of, into):
    into.mkdir()
    (into / "mine.txt").write_text("")
    with pytest.raises(InvalidValueError, match=r"found 1 file .*mine\.txt"):
        checkout(run_of(repository), str(into))


def test_a_run_that_kept_no_code_cannot_be_run_again(run_folder, into):
    with pytest.raises(ReproductionError, match=r"kept no code \(no permission\).*auto_log=True"):
        checkout(run_folder({"notes": ["no permission"]}), str(into))


@pytest.mark.parametrize(
    "name", ["../x.py", "/etc/x.py", "a/../../x.py", ".git/hooks/x", "", ".", "a//b", None, 3]
)
def test_a_kept_file_with_a_name_that_leads_out_is_refused(run_folder, into, name, tmp_path):
    files = [{"path": name, "sha256": "", "origin": "module"}]
    record = run_folder({"code": {"files": files}})
    with pytest.raises(DamagedError, match="does not name a file below"):
        checkout(record, str(into))


def test_a_link_in_the_tree_does_not_lead_a_kept_file_out_of_it(repository, run_of, into, git):
    outside = into.parent / "outside"
    outside.mkdir()
    os.symlink(outside, repository / "lab" / "out")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=link")
    with pytest.raises(DamagedError, match="does not name a file below"):
        checkout(run_of(repository, {"lab/out/x.py": "x"}), str(into))
    assert list(outside.iterdir()) == []


def test_a_kept_file_that_was_changed_since_is_refused(run_folder, into):
    record = run_folder({}, {"train.py": "x"})
    Path(record.folder.code, "train.py").write_text("y")
    with pytest.raises(DamagedError, match=r"code/train\.py does not have the SHA-256"):
        checkout(record, str(into))


@pytest.mark.parametrize("commit", ["--upload-pack=x", "main", "a" * 39, "A" * 40, 7])
def test_what_is_no_commit_never_reaches_git(run_folder, into, commit, repository):
    record = run_folder(json.loads(json.dumps({"git": {"commit": commit, "top": str(repository)}})))
    with pytest.raises(DamagedError, match="as a commit"):
        checkout(record, str(into))
