import orjson
import pytest

from experiment_tracking.capture.redaction import HIDDEN, redact_arguments, redact_text

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
]


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
    assert redact_arguments(["a=" * 5000 + "key=b"]) == ["a=" * 5000 + "key=***"]
