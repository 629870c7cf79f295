"""What may be written down: everything captured passes here and loses its credentials.

Best effort for free text; arguments, URLs and the well-known forms of tokens are covered.
"""

import re
from collections.abc import Iterable

HIDDEN = "***"

# Anywhere in a name these mean a secret, unless the name is of something about the secret.
_SECRET = ("passw", "passphrase", "secret", "credential")
_ABOUT = frozenset(("path", "file", "dir", "folder", "name", "length", "len", "stdin", "env"))
# At the end of a name these do ("api-key", "hftoken"), unless the word before says otherwise:
# machine learning and tables have keys and tokens of their own.
_SECRET_LAST = frozenset(("key", "authorization"))
_SECRET_ENDINGS = ("apikey", "accesskey", "secretkey", "privatekey", "token", "auth")
_SECRET_PLURALS = frozenset((("api", "keys"), ("access", "keys"), ("access", "tokens")))
_PUBLIC = frozenset((
    "pad", "eos", "bos", "unk", "sep", "cls", "mask", "image", "video", "audio", "text", "label",
    "special", "start", "end", "stop", "begin", "first", "last", "next", "prev", "per", "max",
    "min", "num", "n", "d", "no", "sort", "primary", "foreign", "public", "partition", "group",
    "join", "index", "dict", "state", "data", "dataset", "input", "output", "target", "metric",
    "column", "row", "cache", "query", "rng", "prng", "random", "seed",
))  # fmt: skip
# `--use-auth-token true` is a switch.
_NO_SECRETS = frozenset(("", "true", "false", "none", "null"))

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ASSIGNMENT = re.compile(r"([-+~]*[\w./@-]+)(=|:\s+)(.*)", re.DOTALL)
_OPTION = re.compile(r"-\w?$|--")
# In https a user alone is a token as well; elsewhere (ssh://git@host) it is only a name.
_USER_IN_URL = re.compile(r"(?<=http://|ttps://)[^/?#\s]+@|(?<=://)[^/?#\s:@]*:[^/?#\s]+@")
_IN_QUERY = re.compile(r"""([?&])([\w.-]+)(=)([^&\s"']+)""")
_IN_JSON = re.compile(r"""(["'])([\w.-]+)(["']\s*:\s*["'])([^"']+)""")
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:A[KS]IA[0-9A-Z]{16}|gh[pousr]_\w{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{20,}|sk-(?:proj|ant|svcacct|or)-[\w-]{20,}"
    r"|sk-[A-Za-z0-9]{20,}|xox[abeprs]-[\w-]{10,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
)


def redact_arguments(arguments: Iterable[str]) -> list[str]:
    """Copy a command line with ``***`` for the values of secret options and in URLs.

    ``--api-key X``, ``--api-key=X``, ``db.password=X`` and ``Authorization: X`` are known by
    the name, and only the value goes, so that a reader sees what to give again.
    """
    redacted = []
    secret_next = False
    for argument in arguments:
        if secret_next and not _OPTION.match(argument):
            redacted.append(_hide(argument))
            secret_next = False
        else:
            redacted.append(_redact_argument(argument))
            is_option = argument.startswith("-") and "=" not in argument
            secret_next = is_option and is_secret_name(argument)
    return redacted


def redact_text(text: str) -> str:
    """Copy free text with ``***`` for users in URLs, named secrets and well-known tokens."""
    text = _USER_IN_URL.sub(f"{HIDDEN}@", text)
    text = _IN_JSON.sub(_hide_named, _IN_QUERY.sub(_hide_named, text))
    return to_utf8(_TOKEN.sub(HIDDEN, text))


def is_secret_name(name: str) -> bool:
    """Tell whether an option, variable or key of that name holds a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    before, last = ["", "", *words][-2:]
    if any(part in word for word in words for part in _SECRET):
        return last not in _ABOUT
    if (before, last) in _SECRET_PLURALS:
        return True
    return (last in _SECRET_LAST or last.endswith(_SECRET_ENDINGS)) and before not in _PUBLIC


def to_utf8(text: str) -> str:
    r"""Copy ``text`` as UTF-8 can hold it: bytes of no encoding become ``\udcff``, spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _redact_argument(argument: str) -> str:
    shown, rest = "", argument
    while assignment := _ASSIGNMENT.fullmatch(rest):  # --header=Authorization: Bearer X
        name, sign, rest = assignment.groups()
        shown += name + sign
        if is_secret_name(name):
            return shown + _hide(rest)
    return redact_text(argument)


def _hide(value: str) -> str:
    return value if value.lower() in _NO_SECRETS else HIDDEN


def _hide_named(match: re.Match[str]) -> str:
    opening, name, sign, value = match.groups()
    return opening + name + sign + (_hide(value) if is_secret_name(name) else value)
