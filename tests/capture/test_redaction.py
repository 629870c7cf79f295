import ast
import json
import subprocess
import sys
import tomllib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.capture.redaction import (
    HIDDEN,
    is_secret_name,
    redact_arguments,
    redact_params,
    redact_source,
    redact_text,
)

CANARY = "c4nary-9f2b7d61aa"

SECRETS = [
    ["--api-key", CANARY],
    [f"--api-key={CANARY}"],
    [f"--apikey={CANARY}"],
    ["--apiKey", CANARY],
    ["--wandb_api_key", CANARY],
    ["--api-keys", CANARY],
    ["--token", CANARY],
    ["--hf-token", f"-{CANARY}"],
    ["-authToken", CANARY],
    ["--password", f"two words {CANARY}"],
    [f"--db.passwd={CANARY}=="],
    [f"wandb.api_key={CANARY}"],
    [f"+credentials.value={CANARY}"],
    [f"AWS_SECRET_ACCESS_KEY={CANARY}"],
    ["--basic-auth", f"user:{CANARY}"],
    ["-H", f"Authorization: Bearer {CANARY}"],
    [f"--header=X-Api-Key: {CANARY}"],
    [f"--storage=postgresql://ann:{CANARY}@db.example.org/optuna"],
    [f"https://{CANARY}@github.com/lab/code.git"],
    [f"https://data.example.org/set.csv?version=2&access_token={CANARY}"],
    ["--config", f'{{"lr": 0.1, "client_secret": "{CANARY}"}}'],
]

ORDINARY = [
    ["train.py"],
    ["-m", "lab.train"],
    ["--lr", "0.001"],
    ["--tokenizer", "bpe"],
    ["--keyframe", "3"],
    ["--author", "x"],
    ["--max-tokens", "128"],
    ["--max_new_tokens=128"],
    ["--tokens-per-batch", "4096"],
    ["--pad-token", "<pad>"],
    ["--eos_token=</s>"],
    ["--num-key-value-heads", "8"],
    ["--key-dim", "64"],
    ["--sort-key", "loss"],
    ["--rng-key=0"],
    ["--use-auth-token", "true"],
    ["--no-auth", "train.py"],
    ["--token-file", "~/.token"],
    ["--credentials-path", "/etc/lab"],
    ["--token", "--verbose"],
    ["--monkey", "banana"],
    ["--hotkey", "ctrl"],
    ["--passes", "3"],
    ["--note", "the key: learning rate"],
    ["--tags", "attention,keyword"],
    ["optimizer.lr=0.1"],
    ["model.attention=flash"],
    ["https://example.org:8080/data/set.csv?version=2"],
    ["git@github.com:lab/code.git"],
    ["ssh://git@github.com/lab/code.git"],
    ["data/keys/token.txt"],
    ["task-mnist-classification-of-digits", "sk-learn-digits-experiment-1"],
    ["-c", "import torch; token = 3"],
]

TOKENS = [
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0aBcDeFgHiJkL_mNoPqRsTuVwXyZ",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "sk-proj-abc_DEF-0123456789abcdefXYZ",
    "sk-0123456789abcdefghijABCDEFGHIJ",
    "xoxb-123456789012-abcdefghijkl",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    "ASIAIOSFODNN7EXAMPLE",
    "gho_16C7e42F292c6912E7710c838347Ae178B4a",
    "glpat-aBcDeFgHiJkLmNoPqRsT",
    "sk-ant-api03-abc_DEF-0123456789abcdefXYZ",
    "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
    "xapp-1-A0123456789-1234567890123-abcdef",
    "AIzaSyA-0123456789abcdefghijklmnopqrstu",
    "ya29.a0AfH6SMBx0123456789abcdef_-XYZ",
    "GOCSPX-0123456789abcdefghijABCDEFGH",
    "npm_0123456789abcdefghijABCDEFGHIJ012345",
    "pypi-AgEIcHlwaS5vcmcCJGU0YjM5ZjY1LTQ2ZjQtNGE1NC05",
    "SG.aBcDeFgHiJkLmNoPqRsTuV.0123456789abcdefghijABCDEFGHIJ",
    "dop_v1_" + "0a1b2c3d" * 8,
    "dapi" + "0a1b2c3d" * 4,
    "hvs.CAESIJ0123456789abcdefghijABCDEF",
    "shpat_" + "0a1b2c3d" * 4,
    "r8_0123456789abcdefghijABCDEFGHIJ0123456",
    "gsk_" + "0a1B2c3D" * 6,
    "pplx-" + "0a1b2c3d" * 6,
    "xai-" + "0a1B2c3D" * 10,
    "nvapi-" + "0a1B2c-_" * 8,
    "wandb_v1_" + "0a1B2c3D" * 8,
    "ATATT3xFfGF0" + "0a1B2c3D" * 8,
    "AGE-SECRET-KEY-1" + "0A1B2C3D" * 7,
]

SECRET_NAMES = [
    "password", "passwd", "db_password", "DB_PASS", "smtp_pass", "userPassword", "passphrase",
    "secret", "client_secret", "clientSecret", "credential", "api_key", "apiKey", "api-key",
    "X-Api-Key", "openai_key", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AccountKey",
    "storage_key", "private_key", "hf_token", "HFToken", "HF_TOKEN", "auth_token", "accessToken",
    "refresh_token", "slack_token", "SLURM_JWT", "wandb.key", "basic_auth", "mysql_pwd",
]  # fmt: skip

KEY_LINES = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj" + "AgEAAoIBAQ" * 2, "K7gNU3sdo+OL0wNh=="]
PRIVATE_KEY = "\n".join(["-----BEGIN PRIVATE KEY-----", *KEY_LINES, "-----END PRIVATE KEY-----"])

ORDINARY_NAMES = """
    lr learning_rate weight_decay beta1 betas eps momentum batch_size epochs steps max_steps seed
    optimizer scheduler warmup_steps grad_clip dropout token_dropout attention_dropout hidden_size
    num_layers num_heads num_key_value_heads key_dim value_dim query_key_norm qk_norm head_dim
    keyframe keyframes key_points keyword keywords monkey turkey hotkey keyboard sort_key
    primary_key foreign_key partition_key rng_key prng_key cache_key group_key index_key
    public_key tokenizer tokenizer_name tokenizer.path token_type token_type_ids token_count
    tokens tokens_per_batch max_tokens max_new_tokens num_tokens n_tokens pad_token eos_token
    bos_token unk_token cls_token sep_token mask_token image_token pad_token_id eos_token_id
    use_token_embedding vocab_size author authors coauthor authored_at authentic author_email
    passes num_passes forward_pass first_pass bypass compass passenger_count encompass secretary
    secretome secretion_rate credentials_path credentials_file password_length secret_name
    token_file api_key_env auth_mode auth_type model model_name checkpoint data.path dataset
    dataset_url output_dir run_name group notes tags job_name slurm_partition SLURM_JOB_ID
    SLURM_JOB_NODELIST CUDA_VISIBLE_DEVICES formula smiles basis_set functional k_points
    lattice commit revision sha256 uuid image branch remote signature_size sigma sigmoid_scale
    augmentation target metric monitor precision device world_size dtype compile loss.weight
""".split()

ORDINARY_VALUES = """
    adamw sgd 0.001 3e-4 true none cosine linear gelu swiglu bf16-mixed fp16 cuda:0 auto 128
    resnet50 resnet50d.ra4_e3600_r224_in1k efficientnet_b0 vit_base_patch16_224.augreg2_in21k
    convnextv2_tiny mobilenetv3_large_100 bert-base-uncased gpt2 EleutherAI/pythia-1.4b-deduped
    meta-llama/Llama-3.1-8B-Instruct mistralai/Mixtral-8x7B-Instruct-v0.1 Qwen/Qwen2.5-7B
    facebook/esm2_t33_650M_UR50D google/flan-t5-xxl sentence-transformers/all-MiniLM-L6-v2
    <pad> </s> [CLS] <|endoftext|> ▁the val/loss train/acc@5 layer1.block2.conv3.bn1
    model.layers.0.self_attn.q_proj imagenet-1k cifar10 MNIST wikitext-103-raw-v1 allenai/c4
    QM9 MD17 H2O C60 CaCO3 LiFePO4 La2-xSrxCuO4 CC(=O)Oc1ccccc1C(=O)O 6-311++G(d,p) B3LYP cc-pVTZ
    /scratch/ann/data/imagenet/train ./outputs/2024-05-01/12-30-00 ~/.cache/huggingface
    C:\\Users\\ann\\data s3://bucket/datasets/set-01.tar gs://bucket/key=1/part-0.parquet
    https://example.org:8080/set.csv?version=2&page=3 https://git@github.com/lab/code.git
    git@github.com:lab/code.git ssh://git@host:2222/code.git git+https://github.com/lab/code@v1.2
    file:///data/a.csv sqlite:///study.db postgresql://ann@db.example.org/optuna
    redis://localhost:6379/0 docker://pytorch/pytorch:2.4.0-cuda12.4
    docker://ubuntu:22.04@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    ann@example.org 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    4b825dc642cb6eb9a060e54bf8d69288fbee4904 e83c516 123e4567-e89b-12d3-a456-426614174000
    20240501-123000-resnet50-3f2a1b 2024-05-01T12:30:00Z gpu:a100:4 node[01-04] 12345678_9
    lr=0.1,wd=1e-4 loss=0.5 key=value {"lr":0.1} [1,2,3] (64,64) 1e-4:1e-2:log 3x224x224 *.py
    ${data.root}/train %(name)s $HOME/data attention,keyword tokens=512 author=me
    sk-learn-digits task-mnist-classification-of-digits-with-a-cnn hf_hub:timm/resnet50
    risk-sensitive
""".split()

# Names that may hold a secret, with what they hold in machine learning and in tables.
ORDINARY_PAIRS = [
    ("key", "val/loss"), ("key", "image"), ("keys", "image,label"), ("monitor_key", "val_acc1"),
    ("hash_key", "PositionalIndexer2D"), ("initializer_token", "toy"), ("new_token", "sks"),
    ("class_token", "[CLS]"), ("use_auth_token", "true"), ("token", "none"), ("auth", "None"),
    ("password", ""), ("api_key", "${oc.env:API_KEY}"), ("api_key", "$API_KEY"),
    ("api_key", "<your key>"), ("api_key", "OPENAI_API_KEY"), ("hf_token", "null"),
    ("secret", "***"), ("password", "changeme"),
]  # fmt: skip

ORDINARY_PARAMS = [
    *ORDINARY_PAIRS,
    *(
        (name, ORDINARY_VALUES[(at * 11 + turn * 17) % len(ORDINARY_VALUES)])
        for at, name in enumerate(ORDINARY_NAMES)
        for turn in range(8)
    ),
]

ORDINARY_LINES = [
    "loss=0.5", "key=value", "lr: 0.1", "step 3 token accuracy: 0.91", "tokens=512", "author=me",
    "Basic understanding of the key: learning rate", "Epoch 3: 100%|###| 10/10 [00:01<00:00]",
    "usage: train.py [--api-key KEY] [--password PASSWORD] [--token TOKEN]",
    "Namespace(lr=0.1, password=None, tokenizer='gpt2', token='')",
    "TypeError: login() missing 1 required argument: 'password'", "Enter passphrase for key 'a':",
    "KeyError: 'token_type_ids'", "https://example.org/a@b?page=2", "http://localhost:8888/lab",
    "def login(user: str, password: str | None = None, token: str = None):",
    "HEAD is now at 4b825dc642cb6eb9a060e54bf8d69288fbee4904", "-----BEGIN PUBLIC KEY-----",
    "curl -u $NAME:$password -o a:b x", "curl --user user:pass x", "mysql -u ann -p -h host:3306",
    "<key>Label</key>", "<password>${db.password}</password>", "a token>b", "machine learning",
]  # fmt: skip

ORDINARY_PROGRAM = """
tokenizer = "gpt2"; author = "x"; keyboard = "us"; monkey = "a"; max_tokens = 512
add_tokens(pad_token="<pad>", sort_key='name', primary_key="id", key="val/loss")
key = jax.random.key(0); batch["token_type_ids"] = "ids"; token = tokens[0]
password = os.environ["PASSWORD"]; api_key = api_key or get_key(); key: PositionalIndexer2D = None
def login(password: str, token: str = "", api_key=None): ...
headers["Authorization"] = f"Bearer {token}"; url = f"https://{user}:{password}@host"
password = getpass("Password: ", stream=None); print("password: " + hint)
parser.add_argument("--api-key", "-k", help="as in OPENAI_API_KEY"); field_names = ("password", "b")
if "-----BEGIN PRIVATE KEY-----" in text: load(text)
"""


@pytest.mark.parametrize("arguments", SECRETS, ids=" ".join)
def test_a_secret_on_the_command_line_is_hidden(arguments):
    redacted = redact_arguments(["train.py", *arguments, "--lr", "0.1"])
    assert CANARY not in " ".join(redacted)
    assert HIDDEN in " ".join(redacted)
    assert len(redacted) == len(arguments) + 3
    assert redacted[0] == "train.py"
    assert redacted[-2:] == ["--lr", "0.1"]


@pytest.mark.parametrize("arguments", ORDINARY, ids=" ".join)
def test_an_ordinary_argument_stays_as_it_was(arguments):
    assert redact_arguments(arguments) == arguments


def test_only_the_value_is_hidden_so_that_a_reader_sees_what_to_give_again():
    assert redact_arguments(["--api-key=a", "--token", "b", "u=https://me:pw@host/x"]) == [
        "--api-key=***",
        "--token",
        "***",
        "u=https://***@host/x",
    ]


@pytest.mark.parametrize("token", TOKENS)
def test_a_well_known_token_is_hidden_wherever_it_stands(token):
    assert redact_text(f"pushed with {token}.") == "pushed with ***."
    assert redact_arguments([token]) == [HIDDEN]


def test_bytes_of_no_encoding_come_out_as_text_that_json_can_hold():
    redacted = redact_arguments(["caf\udce9.csv", "--data=caf\udce9"])
    assert orjson.loads(orjson.dumps(redacted)) == ["caf\\udce9.csv", "--data=caf\\udce9"]


def test_an_argument_of_many_assignments_is_read_to_its_end():
    assert redact_arguments(["a=" * 5000 + "token=b"]) == ["a=" * 5000 + "token=***"]


@pytest.mark.parametrize("token", TOKENS)
def test_a_well_known_token_is_hidden_in_params_and_in_sources_too(token):
    assert redact_params({"model": {"note": f"of {token}"}}) == {"model": {"note": "of ***"}}
    assert redact_source(f'x = f("{token}")\n', ".py") == 'x = f("***")\n'
    assert redact_source(f"note: {token}\n", ".yaml") == "note: ***\n"


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_what_a_name_gives_away_is_hidden_everywhere(name):
    assert is_secret_name(name)
    assert redact_arguments([f"--{name}", "hunter2", f"{name}=hunter2"]) == [
        f"--{name}",
        HIDDEN,
        f"{name}=***",
    ]
    assert redact_params({name: "hunter2"}) == {name: HIDDEN}
    for line in (f"{name}=hunter2", f"{name}: 'hunter2'", f'a {{"{name}": "hunter2"}}'):
        assert redact_text(f"failed, {line}\n") == f"failed, {line}\n".replace("hunter2", HIDDEN)
    for line in (f'{name} = "hunter2"', f"f({name}='hunter2')", f'd["{name}"] = "hunter2"'):
        assert redact_source(line, ".py") == line.replace("hunter2", HIDDEN)
    assert redact_source(f"  {name}: two words  # why\n", ".yaml") == f'  {name}: "***"  # why\n'
    assert redact_source(f"export {name}=hunter2\n", ".sh") == f"export {name}=***\n"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}",
        f"{{'Authorization': 'Basic {CANARY}'}}",
        f"curl -H 'authorization: token {CANARY}'",
        f"sent Bearer {CANARY}",
        f"postgres://ann:{CANARY}@db.example.org/x",
        f"https://{CANARY}@github.com/lab/code.git",
        f"https://oauth2:{CANARY}@gitlab.com/a and https://ok.org",
        f"Server=db;Password={CANARY};Database=x",
        f"AccountName=a;AccountKey={CANARY}==;EndpointSuffix=core",
        f"https://a.blob.core.windows.net/c?sv=1&sig={CANARY}abcd%3D&se=2",
        f"https://b.s3.amazonaws.com/k?X-Amz-Signature={CANARY}abcd",
        f"https://hooks.slack.com/services/T0000/B0000/{CANARY}",
        f"https://discord.com/api/webhooks/123456/{CANARY}",
        "wandb login c4nary-9f2b7d61aa" + "0" * 23,
        f"train.py --api-key {CANARY} --token {CANARY}",
        f'args: {{\\"password\\": \\"{CANARY}\\"}}',
        f"https://host/x?token={CANARY}",
        f"token={CANARY}",
        f"curl -s -u ann:{CANARY} https://db.example.org/x",
        f"curl --user 'ann:{CANARY}' https://db.example.org/x",
        f"mysql -u ann -p{CANARY} runs",
        f"mysqldump --password {CANARY} runs",
        f"machine api.wandb.ai login user password {CANARY}",
        f"<server><password>{CANARY}</password></server>",
    ],
)
def test_a_secret_in_free_text_is_hidden(text):
    for redacted in (
        redact_text(f"ValueError: {text}\nnext"),
        redact_params({"note": text})["note"],
        redact_source(f"# {text}\n", ".sh"),
    ):
        assert CANARY not in redacted
        assert HIDDEN in redacted


@pytest.mark.parametrize("line", ORDINARY_LINES)
def test_an_ordinary_line_of_text_stays_as_it_was(line):
    assert redact_text(line) == line


def test_a_thousand_ordinary_params_stay_as_they_were():
    assert len(set(ORDINARY_PARAMS)) >= 1000
    touched = [
        (name, value)
        for name, value in ORDINARY_PARAMS
        if redact_params(params := {name: value}) is not params
        or redact_arguments([f"--{name}", value]) != [f"--{name}", value]
        or redact_arguments([f"--{name}={value}"]) != [f"--{name}={value}"]
        or redact_text(f"{name}={value}") != f"{name}={value}"
        or redact_text(f"{name}: '{value}'") != f"{name}: '{value}'"
        or redact_source(f"{name}: {value}\n", ".yaml") != f"{name}: {value}\n"
    ]
    assert touched == []


def test_an_ordinary_program_stays_as_it_was():
    assert redact_source(ORDINARY_PROGRAM, ".py") == ORDINARY_PROGRAM


def test_all_that_a_secrets_name_holds_is_hidden_but_switches():
    params = {"lr": 1, "password": 1234, "secrets": {"a": ["b", 2, None, True], "path": "p"}}
    hidden = {"lr": 1, "password": "***", "secrets": {"a": ["***", "***", None, True], "path": "p"}}
    assert redact_params(params) == hidden
    assert redact_params({"api_keys": ["a", "b"], "hub": {"token": "c"}}) == {
        "api_keys": ["***", "***"],
        "hub": {"token": "***"},
    }


@pytest.mark.parametrize("value", ["a", "!@#&", "abc(", "1", "hunter2", "no-one knows"])
def test_a_password_of_any_kind_is_hidden(value):
    assert redact_params({"password": value}) == {"password": HIDDEN}
    assert redact_source(f'password = "{value}"', ".py") == 'password = "***"'


def test_the_params_given_are_not_changed():
    params = {"db": {"password": "hunter2"}, "layers": [1, 2]}
    redacted = redact_params(params)
    assert params["db"] == {"password": "hunter2"}
    assert redacted["layers"] is params["layers"]


def test_ordinary_params_need_no_patterns():
    code = """if True:
        from experiment_tracking.capture import redaction
        params = {"tokenizer": "gpt2", "max_tokens": 1, "data": "s3://bucket/some/long/path/set"}
        assert redaction.redact_params(params) is params
        assert redaction._pattern.cache_info().currsize == 0
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_redacted_program_parses_as_before():
    source = (
        "API_KEY = 'a' 'b'\n"
        "password: str | None = r\"a\\b\"; x = f(token='q1w2e3r4t5y6u7i8', n=1)\n"
        "os.environ['HF_TOKEN'] = '''abc'''\n"
        "os.environ.get('API_KEY', 'abc'); d = {'client_secret': b'abc', 'lr': .1}\n"
        "parser.add_argument('--api-key', '-k', type=str, default='abc')\n"
        f"pem = '''{PRIVATE_KEY}'''\n"
    )
    redacted = redact_source(source, ".py")
    values = [n.value for n in ast.walk(ast.parse(redacted)) if isinstance(n, ast.Constant)]
    assert {"abc", b"abc", "q1w2e3r4t5y6u7i8", r"a\b"}.isdisjoint(values)
    assert {"-k", "API_KEY", "HF_TOKEN", "--api-key"} <= set(values)
    assert values.count(HIDDEN) == 5


@pytest.mark.parametrize(
    ("suffix", "line", "redacted"),
    [
        (".ini", "password = two words ; one\r\n", "password = ***\r\n"),
        (".env", "export API_KEY=ab'c\n", "export API_KEY=***\n"),
        (".yaml", "- {lr: 0.1, password: abc}\n", '- {lr: 0.1, password: "***"}\n'),
        (".txt", "api_key: abc\n", "api_key: ***\n"),
        (".sh", 'PASSWORD="$1" TOKEN=$TOKEN run -e HF_TOKEN=abc\n', None),
        ("", "ENV HF_TOKEN abc\n", "ENV HF_TOKEN ***\n"),
        (".py", "%env WANDB_API_KEY=abc\n", "%env WANDB_API_KEY=***\n"),
        (".py", "!wandb sync --api-key abc x\n", "!wandb sync --api-key *** x\n"),
        (".c", '#define API_KEY "abc"\n', '#define API_KEY "***"\n'),
        (".js", 'const cfg = { apiKey: "abc", n: 1 };', 'const cfg = { apiKey: "***", n: 1 };'),
        (
            ".ipynb",
            r'"source": ["api_key = \\"abc\\"\\n"]',
            r'"source": ["api_key = \\"***\\"\\n"]',
        ),
        (".yaml", "+  api_key: abc\n", '+  api_key: "***"\n'),
    ],
)
def test_a_line_is_read_as_its_kind_of_file_is(suffix, line, redacted):
    assert redact_source(line, suffix) == (redacted or line.replace("abc", HIDDEN))


def test_a_redacted_configuration_can_be_read():
    text = '{"password": 1234, "api_key": "a\\"b", "lr": 0.1, "token": null}'
    assert json.loads(redact_source(text, ".json")) == {
        "password": HIDDEN,
        "api_key": HIDDEN,
        "lr": 0.1,
        "token": None,
    }
    assert tomllib.loads(redact_source("password = 1234\nlr = 1\n", ".toml")) == {
        "password": HIDDEN,
        "lr": 1,
    }


@pytest.mark.parametrize("mark", ["", "+", "-", "    "])
def test_each_line_of_a_private_key_is_hidden_and_its_frame_stays(mark):
    text = "".join(f"{mark}{line}\n" for line in ["a: 1", *PRIVATE_KEY.split("\n"), "b: abc"])
    for redacted in (redact_source(text, ".yaml"), redact_text(text)):
        assert not any(line in redacted for line in KEY_LINES)
        assert [line for line in redacted.split("\n") if HIDDEN not in line] == [
            line for line in text.split("\n") if not any(part in line for part in KEY_LINES)
        ]


def test_a_private_key_whose_end_is_cut_off_is_hidden_too():
    begin = "\n".join(PRIVATE_KEY.split("\n")[:2])
    assert redact_text(f"{begin}\nlr: 0.1") == "-----BEGIN PRIVATE KEY-----\n***\nlr: 0.1"


# Pieces that mean something to the patterns, put together in every way.
_PIECES = st.sampled_from([
    "password", "token", "key", "api_key", "a", " ", "=", ": ", ":", '"', "'", "\\", "\n", "\r\n",
    "://", "https://", "@", "/", "?", "&", ",", ";", "(", ")", "{", "}", "[", "]", "-", "--", "+",
    "***", "f", "%", "!", "#", "$", "<", ">", "Bearer ", "Authorization",
    "sk-a1" + "b2c3d4e5f6" * 3,
    "q1w2e3r4t5y6u7i8", "-----BEGIN PRIVATE KEY-----", "A" * 44, "-----END PRIVATE KEY-----", "é",
    "get(", "argument(", "default=", "export ", "ENV ", "\udce9", "sig=",
    "hooks.slack.com/services/", "<password>", "</password>", "\x0c", "\u2028", "curl -u a:",
    "mysql -p", "machine a login b password ",
])  # fmt: skip


@given(st.lists(_PIECES, max_size=25).map("".join) | st.text())
def test_redacting_twice_is_the_same_as_once_and_lines_stay(text):
    once = redact_text(text)
    assert redact_text(once) == once
    assert redact_params(redact_params({"a": text})) == redact_params({"a": text})
    for suffix in (".py", ".sh", ".yaml", ".ini"):
        source = redact_source(text, suffix)
        assert redact_source(source, suffix) == source
        assert [ending(line) for line in lines(source)] == [ending(line) for line in lines(text)]


def lines(text):
    return text.encode("utf-8", "backslashreplace").split(b"\n")


def ending(line):
    return line[-1:] == b"\r"


@pytest.mark.parametrize(
    "piece",
    ["a", '"', "=", "://", ".-", "key:", "key=)", 'key="', "http://p@", "--password ", "eyJa.",
     "-----BEGIN PRIVATE KEY-----", 'option("key", ', "password: [", "key: a |", "key  ", "?sig=",
     "curl -u a", "mysql -p", "machine a login ", "<key>"],
)  # fmt: skip
def test_long_texts_of_anything_are_redacted_in_linear_time(piece):
    """The suite's timeout is the bound: what is quadratic would take many minutes."""
    text = "key: " + piece * (200_000 // len(piece))
    assert redact_text(text).startswith("key: ")
    for suffix in (".py", ".yaml"):
        assert redact_source(text, suffix).startswith("key: ")


def test_a_long_text_is_redacted_as_its_parts_are():
    part = "".join(f"{name}: hunter2\n{name} = 'x'\n" for name in SECRET_NAMES)
    part += "".join(f"note: {token}\n" for token in TOKENS) + ORDINARY_PROGRAM
    count = 200_000 // len(part) + 1
    for redact in (redact_text, lambda text: redact_source(text, ".py")):
        assert redact(part * count) == redact(part) * count
    line = part.replace("\n", "  ")
    assert redact_text(line * count) == redact_text(line) * count


@pytest.mark.parametrize("token", TOKENS)
def test_one_token_in_a_long_text_is_found(token):
    ordinary = "loss: 0.5 of step\n" * 2000
    assert redact_text(f"{ordinary}a {token}\n") == f"{ordinary}a ***\n"


def test_a_secret_behind_letters_that_change_their_length_is_found():
    assert redact_text("\u0130\u0130 PASSWORD=hunter2") == "\u0130\u0130 PASSWORD=***"


def test_a_megabyte_of_names_is_no_trouble_for_params_and_arguments():
    name = "api_key_" * 100_000
    assert redact_params({name: "abc"}) == {name: HIDDEN}
    assert redact_arguments([f"{name}=abc"]) == [f"{name}=***"]
