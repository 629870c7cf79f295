"""Secrets planted wherever people leave them; none may reach a run, a copy of it, or a notice.

What a script itself keeps by ``log_text``, ``log_dict``, ``log_table``, ``log_artifact`` or as
metrics is the user's own content: nothing is planted there, and nothing is hidden in it.
"""

import ast
import base64
import json
import os
import random
import re
import string
import subprocess
import sys
import tarfile
import tomllib
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest

import experiment_tracking
from experiment_tracking.folder.check import check

pytest.importorskip("IPython", reason="pip install 'experiment_tracking[test]'")

REPOSITORY = str(Path(experiment_tracking.__file__).parents[1])

SHAPES = {
    "aws": "AKIA{}", "github": "ghp_{}", "gitlab": "glpat-{}", "huggingface": "hf_{}",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJ{0}.{0}", "openai": "sk-proj-{}", "plain": "{}",
    "slack": "xoxb-{}", "pem": "{0}{0}",
}  # fmt: skip
_MARK = re.compile(r"@(\w+)\.(\w+)@")


class Canaries:
    """Secrets by name, each of its own; made when a text first mentions ``@shape.name@``."""

    def __init__(self):
        self.cores = {}

    def plant(self, text):
        """Put the secrets where the text names them."""
        return _MARK.sub(lambda mark: SHAPES[mark[1]].format(self._core(mark[1], mark[2])), text)

    def _core(self, shape, name):
        if name not in self.cores:
            letters = string.ascii_uppercase if shape == "aws" else string.ascii_letters
            letters, length = letters.replace("I", ""), 16 if shape == "aws" else 24
            chosen = random.Random(name)
            pairs = (chosen.choice(letters) + chosen.choice(string.digits) for _ in range(length))
            self.cores[name] = "".join(pairs)[:length]
        return self.cores[name]

    def found_in(self, data):
        """Name the secrets that stand in ``data``: plain, in any case of letters, or in base64.

        Each has a core of letters and digits alone, which quoting in URLs, JSON and shells
        leaves as it is.
        """
        lowered = data.lower()
        return {
            name
            for name, core in self.cores.items()
            if core.lower().encode() in lowered or any(form in data for form in in_base64(core))
        }


def in_base64(core):
    """How a text looks in base64, wherever in the encoded bytes it begins."""
    for before, cut in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(b"-" * before + core.encode())
        yield encoded[cut : (before + len(core)) // 3 * 4]


def bytes_of(*folders):
    """Every file below, by name; of patches of binary files, what is packed in them too."""
    for folder in folders:
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            data = path.read_bytes()
            yield str(path), str(path).encode() + data
            for packed in re.findall(rb"(?:literal|delta) \d+\n((?:[A-Za-z].+\n)+)", data):
                yield f"{path}, unpacked", unpacked(packed)


def unpacked(lines):
    """Decode a block of ``git diff --binary``: lines of a length and base85, of zlib's bytes."""
    data = b""
    for line in lines.splitlines():
        length = line[0] - (64 if line[:1].isupper() else 70)
        data += base64.b85decode(line[1:])[:length]
    return zlib.decompress(data)


# ---------------------------------------------------------------------- the project

COMMITTED = {
    "lab/__init__.py": "",
    "lab/settings.py": """\
DEPTH = 2
API_KEY = "@plain.removed_line@"
WIDTH = 64
DB_PASSWORD = "@plain.context_line@"
HEADS = 4
""",
    "config.yaml": "lr: 0.1\nname: baseline\n",
    "requirements.txt": """\
--extra-index-url https://ann:@plain.extra_index@@pypi.example.org/simple
numpy>=1
""",
    "wide.json": '{"user": "ann", "depth": 2}\n',
    "third_party_note.md": "see the wiki\n",
    ".gitmodules": '[submodule "tool"]\n\tpath = tool\n\turl = ../tool.git\n',
}

CHANGED = {
    "lab/settings.py": """\
DEPTH = 3
WIDTH = 64
DB_PASSWORD = "@plain.context_line@"
HEADS = 4
""",
    "config.yaml": "lr: 0.2\nname: baseline\npassword: @plain.config_yaml@\n",
    "third_party_note.md": "see the wiki, https://@github.markdown@@wiki.example.org/lab\n",
    "config.json": '{"depth": 3, "db": {"password": "@plain.config_json@"}}\n',
    ".env": "HF_TOKEN=@huggingface.dotenv@\n",
    "credentials.json": '{"private": "@plain.credentials_file@"}\n',
    "deploy.pem": "-----BEGIN PRIVATE KEY-----\n@pem.key_file@\n-----END PRIVATE KEY-----\n",
    "lab/connect.py": """\
KEY = '''-----BEGIN RSA PRIVATE KEY-----
@pem.key_in_source@
-----END RSA PRIVATE KEY-----'''
URL = "postgresql://ann:@plain.imported_module@@db.example.org/lab"


def connect(password="@plain.default_argument@"):
    return URL
""",
    "lab/unused.py": """\
SLACK = "@slack.untracked_module@"
headers = {"X-Api-Key": "@plain.header@"}
""",
    "uv.lock": """\
version = 1
[[package]]
name = "lab-tools"
source = { git = "https://ann:@plain.lock_file@@git.example.org/tools.git" }
""",
    "submit.sh": "#!/bin/sh\nexport WANDB_API_KEY=@plain.shell_script@\nsbatch train.sh\n",
    "explore.ipynb": json.dumps({
        "cells": [
            {
                "cell_type": "code", "execution_count": 1, "id": "a", "metadata": {},
                "source": ["%env HF_TOKEN=@plain.notebook_magic@\n",
                           "os.environ['API_KEY'] = '@plain.notebook_cell@'\n"],
                "outputs": [{"name": "stdout", "output_type": "stream",
                             "text": ["connected as @plain.notebook_output@\n"]}],
            },
        ],
        "metadata": {}, "nbformat": 4, "nbformat_minor": 5,
    }),
    "train.py": """\
import os
import subprocess
import sys

from experiment_tracking import ExperimentTracker

from lab.connect import connect
from lab.mirror import Mirror
from lab.settings import DEPTH

API_KEY = "@openai.entry_script@"

tracker = ExperimentTracker(
    "lab",
    config={"lr": float(os.environ["LR"]), "model": {"depth": DEPTH, "hub_token": "@plain.param@"}},
    tags={"owner": "ann", "token": "@plain.tag@", "seen": "@github.tag_value@"},
    notes="after the talk; key is @aws.notes@, see https://x:@plain.notes_url@@example.org",
    group="sweep of @gitlab.group@",
    backend=Mirror(),
    capture_console=True,
    print_changes=True,
)
with tracker.start_run("canaries") as run:
    tracker.log_params({
        "db": {"url": "postgresql://ann:@plain.param_url@@db.example.org/lab", "pool": 4},
        "header": "Authorization: Bearer @plain.param_header@",
        "note": "made with @jwt.param_value@",
        "tokens": ["a", "@slack.param_list@"],
        "max_tokens": 128,
    })
    tracker.log_params({"api_key": "@plain.param_first@"})
    tracker.log_params({"api_key": "@plain.param_second@"})
    run.notes = run.notes + " and @huggingface.notes_later@"
    run.set_tags(["@github.tag_word@"])
    tracker.log_artifact(
        "data.csv", "set from https://@plain.artifact_type@@example.org",
        "fetched with token=@plain.description@",
    )
    tracker.log_model({"w": 1.0}, metadata={"secret": "@plain.metadata@"})
    signed = "https://ann:@plain.input_user@@data.example.org/set.csv?X-Amz-Signature=@plain.query@"
    run.log_input(signed, "signed")
    hook = "https://hooks.slack.com/services/@plain.input_path@"
    run.log_input({"a": signed, "b": {"c": hook}}, "group")
    for step in range(3):
        tracker.log_metrics({"loss": 1 / (step + 1)}, step=step)
    print("using @github.printed@ and password=@plain.printed_password@")
    print("progress, no end: token=@plain.printed_half@", end="", flush=True)
    print()
    print(sys.argv)
    sys.stdout.flush()
    subprocess.run(["echo", "a child with https://ann:@plain.printed_url@@example.org"], check=True)
    raise ConnectionError("refused: password=@plain.exception@ for https://@plain.exception_url@@x.org")
""",
    "lab/mirror.py": """\
import os
import pathlib


class Mirror:
    def __init__(self):
        self.file = open(os.environ["LAB_MIRROR"], "a")
        self.failed = False

    def start_run(self, run_name, config, project, run_id, path, tags, group, notes):
        self.write("start_run", locals())

    def log_metrics(self, metrics, step, timestamp):
        self.write("log_metrics", locals())
        if not self.failed:
            self.failed = True
            url = "https://ann:@plain.backend@@mirror.example.org?token=@plain.backend_query@"
            raise OSError(f"POST {url}: 403")

    def log_model(self, model, path, name, metadata):
        self.write("log_model", locals())
        self.write("model.json", pathlib.Path(path, "model.json").read_text())

    def log_params(self, params):
        self.write("log_params", params)

    def log_artifact(self, path, name, artifact_type, description):
        self.write("log_artifact", locals())

    def set_tags(self, tags):
        self.write("set_tags", tags)

    def end_run(self, status):
        self.write("end_run", status)

    def write(self, *what):
        print(*what, file=self.file, flush=True)
""",
    "simulate.py": """\
import sys

PASSWORD = "@plain.simulate_script@"
print("listening with", sys.argv[1:])
print("loss 0.25")
""",
    "cells.py": """\
import os
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in (
    "from experiment_tracking import ExperimentTracker\\n"
    "run = ExperimentTracker('cells', use_tensorboard=False).start_run('cells')",
    "%env HF_TOKEN=@plain.cell_magic@",
    "%env API_KEY @plain.cell_magic_spaced@",
    "os.environ['WANDB_API_KEY'] = '@plain.cell_assigned@'",
    "!echo --password @plain.cell_command@",
    "%%bash\\nexport DB_PASSWORD=@plain.cell_bash@",
    "print('ordinary')",
    "run.end_run()",
):
    shell.run_cell(cell, store_history=True)
""",
    "data.csv": "x,y\n1,2\n",
}  # fmt: skip

ARGUMENTS = [
    "--lr", "0.1", "--api-key", "@plain.argument@", "--password=@plain.argument_equals@",
    "db.password=@plain.argument_dotted@", "-H", "Authorization: Bearer @plain.argument_header@",
    "--storage", "postgresql://ann:@plain.argument_url@@db.example.org/lab",
    "--remote=https://@plain.argument_user@@git.example.org/lab.git", "@github.argument_shape@",
]  # fmt: skip

VARIABLES = {
    "OPENAI_API_KEY": "@openai.variable@",
    "AWS_SECRET_ACCESS_KEY": "@plain.variable_aws@",
    "DB_PASSWORD": "@plain.variable_password@",
    "HTTPS_PROXY": "http://ann:@plain.variable_proxy@@proxy.example.org:3128",
    "DSN": "https://@plain.variable_user@@sentry.example.org/1",
    "UNNAMED": "@github.variable_shape@",
    "SLURM_JWT": "@plain.slurm_jwt@",
    "SLURM_JOB_TOKEN": "@plain.slurm_token@",
    "SLURM_JOB_COMMENT": "with token=@plain.slurm_comment@ for ann",
    "TORCHELASTIC_AUTH_TOKEN": "@plain.torchelastic@",
    "NCCL_DEBUG_FILE": "https://ann:@plain.kept_variable@@log.example.org/nccl",
    "XLA_FLAGS": "--xla_token=@plain.xla_flags@",
}
"""Three are of those that a run keeps; of the others it keeps the names alone."""


class Lab:
    """A dirty repository full of secrets, and what it takes to run it as a person would."""

    def __init__(self, folder):
        self.canaries = Canaries()
        self.folder, self.root = folder / "lab", folder / "root"
        self.mirror, self.home = folder / "mirror", folder / "home"
        for path in (self.folder, self.mirror, self.home, folder / "site"):
            path.mkdir()
        self.variables = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8",
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{folder / 'site'}",
            "EXPERIMENT_TRACKING_ROOT": str(self.root), "LR": "0.1",
            "LAB_MIRROR": str(self.mirror / "calls.txt"), "PYTHONDONTWRITEBYTECODE": "1",
            **{f"GIT_{who}_{what}": "ann@example.org"
               for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }  # fmt: skip
        for name, value in VARIABLES.items():
            self.variables[name] = self.canaries.plant(value)
        self._commit()
        self.write(folder / "site", {"lab_tools-1.0.dist-info/direct_url.json":
            '{"url": "https://ann:@plain.direct_url@@git.example.org/tools.git", "vcs_info": {}}',
        })  # fmt: skip
        self.write(self.folder, CHANGED)

    def write(self, folder, files):
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.canaries.plant(text))

    def _commit(self):
        self.write(self.folder, COMMITTED)
        (self.folder / "session.db").write_bytes(b"\0\1 empty")
        self.git("init", "--quiet", "--initial-branch=main")
        self.git(
            "remote", "add", "origin", "https://ann:@plain.git_remote@@git.example.org/lab.git"
        )
        self.git("add", ".")
        self.git("commit", "--quiet", "--message=first")
        tool = self.folder / "tool"
        self.write(tool, {"tool.py": "DEPTH = 1\n"})
        self.git("-C", tool, "init", "--quiet")
        self.git("-C", tool, "add", ".")
        self.git("-C", tool, "commit", "--quiet", "--message=first")
        self.git("add", "tool")
        self.git("commit", "--quiet", "--message=tool")
        self.write(tool, {"tool.py": 'DEPTH = 2\nAPI_KEY = "@plain.submodule@"\n'})
        stored = self.canaries.plant("\0\2 password=@plain.binary_file@ in a database")
        (self.folder / "session.db").write_bytes(stored.encode())

    def git(self, *words):
        words = [self.canaries.plant(str(word)) for word in words]
        subprocess.run(["git", "-c", "advice.addEmbeddedRepo=false", *words], cwd=self.folder,
                       env=self.variables, check=True)  # fmt: skip

    def python(self, *words, **variables):
        """Run Python in the project; give its exit code, stdout and stderr."""
        done = subprocess.run(
            [sys.executable, *map(self.canaries.plant, words)], cwd=self.folder,
            env=self.variables | variables, capture_output=True, check=False, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def experiments(self, *words, **variables):
        return self.python("-m", "experiment_tracking", *words, **variables)

    def run(self, name):
        return self.root / name

    def document(self, run, name):
        return json.loads((self.run(run) / name).read_text())


def ours(stderr):
    """What the package says; the rest are the script's own words and Python's traceback."""
    starts = (b"experiment_tracking: ", b"experiments: ")
    return b"\n".join(line for line in stderr.splitlines() if line.startswith(starts))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The project after two runs that fail, a notebook, a command as a run, and its rerun."""
    lab = Lab(tmp_path_factory.mktemp("secrets"))
    lab.said = {}
    for name, lr in (("first", "0.1"), ("second", "0.2")):
        code, _, stderr = lab.python("train.py", *ARGUMENTS, LR=lr)
        assert code == 1, stderr
        lab.said[name] = ours(stderr)
        if name == "first":
            lab.git("add", "config.yaml", "lab/settings.py", "credentials.json")
            lab.git("commit", "--quiet", "--message=password=@plain.commit_message@")
            lab.write(lab.folder, {"config.yaml": "lr: 0.3\npassword: @plain.config_rotated@\n"})
    code, _, stderr = lab.python("cells.py")
    assert code == 0, stderr
    lab.said["cells"] = ours(stderr)
    identity = ["--project", "jobs", "--name", "job", "--group", "by @github.job_group@"]
    identity += ["--notes", "token=@plain.job_notes@", "--tag", "token=@plain.job_tag@"]
    identity += ["--param", "secret=@plain.job_param@"]
    command = [sys.executable, "simulate.py", "--steps", "3", "--api-key", "@plain.job_argument@"]
    code, _, stderr = lab.experiments("run", *identity, "--", *command)
    assert code == 0, stderr
    lab.said["job"] = ours(stderr)
    code, _, stderr = lab.experiments("rerun", "jobs/job", "--secret=api-key=@plain.job_argument@")
    assert code == 0, stderr
    lab.said["rerun"] = ours(stderr)
    return lab


FAILED, AGAIN, CELLS, JOB, RERUN = RUNS = (
    "lab/canaries", "lab/canaries-2", "cells/cells", "jobs/job", "jobs/job-rerun",
)  # fmt: skip


# ---------------------------------------------------------------------- what is not found


def test_no_byte_of_a_run_or_of_a_backends_copy_holds_a_secret(lab):
    assert len(lab.canaries.cores) >= 30
    names = {name for name, _ in bytes_of(*map(lab.run, RUNS), lab.mirror)}
    for written in ("environment.json", "console.log", "git.patch", ".tfevents.", "calls.txt"):
        assert any(written in name for name in names)
    found = {name: lab.canaries.found_in(data) for name, data in bytes_of(lab.root, lab.mirror)}
    assert {name: secrets for name, secrets in found.items() if secrets} == {}


def test_no_notice_holds_a_secret(lab):
    assert b"backend 'Mirror' failed" in lab.said["first"]
    assert b"since lab/canaries: " in lab.said["second"]
    assert b"running " in lab.said["rerun"]
    assert {name: lab.canaries.found_in(said) for name, said in lab.said.items()} == {
        name: set() for name in lab.said
    }


def test_what_is_shown_of_runs_holds_no_secret(lab):
    secret = "--secret=api-key=@plain.job_argument@"
    shown = [
        lab.experiments("diff", FAILED, AGAIN),
        lab.experiments("diff", FAILED, AGAIN, "--json"),
        lab.experiments("show", FAILED),
        lab.experiments("show", FAILED, "--json"),
        lab.experiments("rerun", JOB, "--dry-run", secret),
    ]
    assert [code for code, _, _ in shown] == [0] * len(shown)
    assert b'password: "***"' in shown[0][1]
    assert b"credentials.json is not shown: " in shown[0][2]
    assert [lab.canaries.found_in(out + err) for _, out, err in shown] == [set()] * len(shown)


def test_hidden_variables_are_listed_by_their_names_alone(lab):
    hidden = [*VARIABLES]
    for run in RUNS:
        environment = lab.document(run, "environment.json")
        assert {*hidden} <= {*environment["hidden_variables"]}
        kept = environment["variables"] | environment["launcher"]
        assert {name: kept[name] for name in kept.keys() & VARIABLES.keys()} == {
            "SLURM_JOB_COMMENT": "with token=*** for ann",
            "NCCL_DEBUG_FILE": "https://***@log.example.org/nccl",
            "XLA_FLAGS": "--xla_token=***",
        }


def test_files_of_credentials_are_left_out_and_listed(lab):
    left_out = {out["path"] for out in lab.document(FAILED, "environment.json")["code"]["left_out"]}
    assert left_out == {".env", "credentials.json", "session.db"}


# ---------------------------------------------------------------------- what stays as it was


def test_of_the_rest_everything_is_kept(lab):
    assert lab.document(FAILED, "params.json") == {
        "lr": 0.1, "model": {"depth": 3, "hub_token": "***"},
        "db": {"url": "postgresql://***@db.example.org/lab", "pool": 4},
        "header": "Authorization: Bearer ***", "note": "made with ***", "tokens": ["a", "***"],
        "max_tokens": 128, "api_key": "***",
    }  # fmt: skip
    summary = lab.document(FAILED, "summary.json")
    assert summary["tags"] == {"owner": "ann", "token": "***", "seen": "***", "***": ""}
    assert summary["notes"] == ("after the talk; key is ***, see https://***@example.org and ***")
    assert summary["group"] == "sweep of ***"
    assert summary["error"]["message"] == "refused: password=*** for https://***@x.org"
    assert summary["followers"]["Mirror"]["error"] == (
        "OSError: POST https://***@mirror.example.org?token=*** 403"
    )
    (artifact,) = (
        each
        for each in lab.document(FAILED, "artifacts.json")["artifacts"]
        if each["name"] == "data.csv"
    )
    assert artifact["description"] == "fetched with token=***"
    assert lab.document(JOB, "params.json") == {"steps": 3, "api_key": "***", "secret": "***"}


def test_a_command_line_keeps_all_but_its_secrets(lab):
    environment = lab.document(FAILED, "environment.json")
    assert environment["argv"] == [
        "train.py", "--lr", "0.1", "--api-key", "***", "--password=***", "db.password=***", "-H",
        "Authorization: ***", "--storage", "postgresql://***@db.example.org/lab",
        "--remote=https://***@git.example.org/lab.git", "***",
    ]  # fmt: skip
    assert environment["git"]["remotes"] == {"origin": "https://git.example.org/lab.git"}
    assert (
        environment["package_sources"]["lab-tools"]["url"]
        == "https://***@git.example.org/tools.git"
    )


def test_what_a_run_prints_is_kept_but_for_its_secrets(lab):
    console = (lab.run(FAILED) / "console.log").read_text()
    assert "using *** and password=***\nprogress, no end: token=***\n" in console
    assert "'--lr', '0.1', '--api-key', '***', '--password=***'" in console
    assert "a child with https://***@example.org\n" in console


@pytest.mark.parametrize("run", RUNS)
def test_kept_code_parses_as_the_language_that_it_is_in(lab, run):
    code = lab.run(run) / "code"
    programs = [*code.rglob("*.py")]
    for path in programs:
        ast.parse(path.read_text(), path.name)
    assert (code / "lab" / "unused.py") in programs
    for path in (*code.rglob("*.json"), *code.rglob("*.ipynb")):
        json.loads(path.read_text())
    assert tomllib.loads((code / "uv.lock").read_text())["package"][0]["name"] == "lab-tools"


@pytest.mark.parametrize("run", RUNS[:-1])  # The rerun had nothing left to hide.
def test_files_with_stars_in_them_are_listed_as_redacted(lab, run):
    listed = lab.document(run, "environment.json")["code"]["files"]
    code = lab.run(run) / "code"
    assert {entry["path"] for entry in listed if entry["redacted"]} == {
        str(path.relative_to(code))
        for path in code.rglob("*")
        if path.is_file() and path.name != "git.patch" and "***" in path.read_text()
    }


def test_the_patch_applies_with_stars_in_it(lab, tmp_path):
    commit = lab.document(FAILED, "environment.json")["git"]["commit"]
    for folder, name, at in (("tool", "tool", "HEAD"), (".", "lab", commit)):
        lab.git("-C", folder, "archive", f"--output={tmp_path / name}.tar", at)
        with tarfile.open(tmp_path / f"{name}.tar") as archive:
            archive.extractall(
                tmp_path / ("clean/tool" if name == "tool" else "clean"), filter="data"
            )
    clean = tmp_path / "clean"
    patch = lab.run(FAILED) / "code" / "git.patch"
    environment = lab.variables | {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    subprocess.run(["git", "apply", "--binary", patch], cwd=clean, env=environment, check=True)
    assert (clean / "config.yaml").read_text() == 'lr: 0.2\nname: baseline\npassword: "***"\n'
    assert (clean / "tool" / "tool.py").read_text() == 'DEPTH = 2\nAPI_KEY = "***"\n'


def test_cells_are_kept_as_they_were_executed_but_for_their_secrets(lab):
    cells = (lab.run(CELLS) / "code" / "notebook.ipy").read_text()
    assert "%env HF_TOKEN=***\n" in cells
    assert "%env API_KEY ***\n" in cells
    assert "os.environ['WANDB_API_KEY'] = '***'\n" in cells
    assert "!echo --password ***\n" in cells
    assert "print('ordinary')\n" in cells
    explored = json.loads((lab.run(CELLS) / "code" / "explore.ipynb").read_text())
    assert [cell["outputs"] for cell in explored["cells"]] == [[]]


def test_the_runs_are_in_order(lab):
    assert check(lab.root) == []


NAMES = (
    "lr", "batch_size", "weight_decay", "max_tokens", "pad_token", "tokenizer", "sort_key",
    "num_key_value_heads", "key_dim", "keyword", "passes", "bypass", "author", "attention",
    "checkpoint", "url", "path", "host", "optimizer", "seed", "commit", "note", "auth_mode",
    "token_file", "loss",
)  # fmt: skip
VALUES = (
    0.1, 1e-8, 0, 3, -1, 2**40, True, False, None, "", "adam", "cosine", "<pad>", "</s>", "[CLS]",
    "gpt2", "bert-base-uncased", "meta-llama/Llama-3.1-8B", "resnet50.a1_in1k", "O2", "cuda:0",
    "bfloat16", "data/train.csv", "/home/ann/data/set_2024-11-20.parquet", "s3://bucket/key/part-0",
    "https://example.org:8080/set.csv?version=2", "git@github.com:lab/code.git",
    "ssh://git@github.com/lab/code.git", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4",
    "550e8400-e29b-41d4-a716-446655440000", "2026-11-20T12:14:00Z", "20261120-121400-k3f9",
    "lr=0.1,wd=0.01", "the key: learning rate", "sk-learn-digits-1", "a" * 300, "Größe",
    [64, 64, 32], ["a", "b"], [],
)  # fmt: skip


def test_a_thousand_ordinary_params_come_back_as_they_were_given(make):
    params = {
        f"part{i}": dict(zip(NAMES, VALUES[i:] + VALUES[:i], strict=False))
        for i in range(len(VALUES))
    }
    assert sum(map(len, params.values())) >= 1000
    run = make("ordinary").start_run()
    run.log_params(params)
    assert run.params == params
    assert json.loads((run.path / "params.json").read_text()) == params


# ---------------------------------------------------------------------- the search itself


@pytest.mark.parametrize(
    "written",
    [
        str, str.upper, quote, json.dumps,
        *(lambda text, before=before: base64.b64encode(f"{'.' * before}{text}".encode()).decode()
          for before in range(3)),
    ],
)  # fmt: skip
def test_the_search_finds_every_secret_however_it_is_written(lab, written):
    for name, core in lab.canaries.cores.items():
        assert lab.canaries.found_in(f"x={written(f'p/{core}&=')};".encode()) == {name}


def test_the_search_finds_what_stands_in_the_project(lab):
    sources = "".join([*COMMITTED.values(), *CHANGED.values()])
    planted = {name for _, name in _MARK.findall(sources)}
    planted |= {"binary_file", "commit_message", "config_rotated", "git_remote", "submodule"}
    found = set().union(*(lab.canaries.found_in(data) for _, data in bytes_of(lab.folder)))
    # Those stand in commits alone, which git compresses.
    assert found == planted - {"removed_line", "config_yaml"}


def test_the_search_looks_into_the_patch_of_a_binary_file(lab, tmp_path):
    with open(tmp_path / "git.patch", "wb") as file:
        subprocess.run(["git", "diff", "--binary", "session.db"], cwd=lab.folder, stdout=file,
                       env=lab.variables, check=True)  # fmt: skip
    (_, data), *unpacked = bytes_of(tmp_path)
    assert lab.canaries.found_in(data) == set()
    assert "binary_file" in set().union(*(lab.canaries.found_in(data) for _, data in unpacked))
