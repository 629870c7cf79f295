"""What may be written down: everything captured passes here and loses its credentials.

Best effort: known are the forms of tokens that many services give out, users in URLs, private
keys, and values that a name gives away. All of it is linear in the length, and redacting twice
is the same as once.
"""

from __future__ import annotations

import functools
import itertools
import operator
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import re

HIDDEN = "***"

# How sure a name alone is of a secret: `password` is certain, `token` on a command line is likely
# one, and `key` possible: machine learning and tables have keys and tokens of their own.
_POSSIBLE, _LIKELY, _CERTAIN = 1, 2, 3

# Any name of a secret has one of these, any text with a secret one of these or of `_SHAPES`: most
# names and texts are done with after these tests, and a run starts without the patterns.
_NAME_HINTS = ("key", "token", "auth", "pass", "secret", "credential", "pwd", "bearer", "jwt")
_TEXT_HINTS = (*_NAME_HINTS, "sig=", "signature=", "basic ", "wandb", "hook", "curl ", "mysql")

_SECRET_STARTS = ("passw", "passphrase", "credential")
_SECRET_ENDS = (
    "password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "apikey",
    "apikeys", "accesskey", "secretkey", "privatekey", "accountkey", "authtoken", "accesstoken",
    "hftoken",
)  # fmt: skip
_SECRET_PAIRS = frozenset(
    (first, second + plural)
    for first, second in (
        *((word, "key") for word in ("api", "access", "secret", "private", "account", "security")),
        *((word, "token") for word in ("api", "access", "auth", "bearer", "refresh", "secret")),
    )
    for plural in ("", "s")
)
# A name that ends so is of something about the secret.
_ABOUT = frozenset((
    "path", "file", "filename", "dir", "folder", "name", "names", "length", "len", "stdin", "env",
    "var", "type", "types", "id", "ids", "field", "fields", "mode", "url", "uri", "provider",
    "prefix", "header", "hint", "label", "prompt", "required", "enabled", "policy", "format",
    "pattern", "regex", "class", "cls", "store", "manager", "version", "size", "count", "index",
    "fn", "func", "callback", "handler", "factory", "getter", "help", "description", "desc",
    "title", "message", "error", "errors", "passwordless",
))  # fmt: skip
# `openai_key` and `slack_token` are secrets; `sort_key` and `pad_token` are none.
_GIVES_OUT = frozenset((
    "wandb", "weights", "hf", "huggingface", "hub", "openai", "anthropic", "claude", "cohere",
    "mistral", "gemini", "google", "gcp", "aws", "s3", "azure", "github", "gh", "gitlab",
    "bitbucket", "slack", "discord", "telegram", "bot", "notion", "jira", "kaggle", "comet",
    "neptune", "clearml", "dagshub", "replicate", "groq", "together", "fireworks", "perplexity",
    "deepseek", "openrouter", "nvidia", "ngc", "vault", "npm", "pypi", "twine", "docker",
    "registry", "databricks", "zenodo", "dropbox", "minio", "stripe", "twilio", "sendgrid",
    "sentry", "datadog", "heroku", "cloudflare", "tailscale", "pinecone", "langchain",
    "langsmith", "serpapi", "tavily", "jupyter", "modal", "runpod", "session", "personal",
    "deploy", "oauth", "login", "admin", "storage", "signing", "encryption", "app", "service",
    "subscription", "master", "hmac", "basic", "proxy", "http", "webhook",
))  # fmt: skip
_PUBLIC = frozenset((
    "pad", "eos", "bos", "unk", "sep", "cls", "mask", "image", "video", "audio", "text", "label",
    "special", "start", "end", "stop", "begin", "first", "last", "next", "prev", "per", "max",
    "min", "num", "n", "d", "no", "sort", "primary", "foreign", "public", "partition", "group",
    "join", "index", "dict", "state", "data", "dataset", "input", "output", "target", "metric",
    "column", "row", "cache", "query", "rng", "prng", "random", "seed", "class", "use", "require",
))  # fmt: skip
_USERS_PASS = frozenset((
    "db", "user", "smtp", "mail", "email", "ftp", "root", "mysql", "pg", "redis", "admin", "proxy",
))  # fmt: skip

# Values that are none, and words that follow a name in a sentence or in a program.
_NO_SECRETS = frozenset(
    " true false none null nil undefined yes no on off default changeme todo fixme tbd redacted "
    "hidden password passwd pass token apikey secret key value string str text bytes int bool any "
    "optional secretstr basic bearer digest required missing empty is was are must not and or to "
    "for in the an has have cannot can should will with if as of from needs requires argument "
    "option expired invalid".split(" ")
)
_FILLERS = frozenset("*x.-_ ")
_BRACKETS = frozenset(("<>", "{}", "[]", "%%"))
_VERSION = frozenset("0123456789.,<>=!~^ ")
_CODE = ("os.", "self.", "args.", "cfg.", "config.", "settings.", "getpass.")

# What a service gives out, by how it begins. A 40-digit hex number is no shape: commits are.
_SHAPES = {
    "AKIA": r"[0-9A-Z]{16}",
    "ASIA": r"[0-9A-Z]{16}",
    "ghp_": r"\w{20,}",
    "gho_": r"\w{20,}",
    "ghu_": r"\w{20,}",
    "ghs_": r"\w{20,}",
    "ghr_": r"\w{20,}",
    "github_pat_": r"\w{20,}",
    "glpat-": r"[\w-]{20,}(?:\.\w+)*",
    "gldt-": r"[\w-]{20,}(?:\.\w+)*",
    "glrt-": r"[\w-]{20,}(?:\.\w+)*",
    "glptt-": r"[\w-]{20,}(?:\.\w+)*",
    "hf_": r"[A-Za-z0-9]{20,}",
    "api_org_": r"[A-Za-z0-9]{30,}",
    "sk-": r"(?:(?:proj|ant|svcacct|admin|or|lf)-[\w-]{20,}|(?=[A-Za-z]*\d)[A-Za-z0-9]{20,})",
    "sk_live_": r"[A-Za-z0-9]{16,}",
    "sk_test_": r"[A-Za-z0-9]{16,}",
    "rk_live_": r"[A-Za-z0-9]{16,}",
    "whsec_": r"[A-Za-z0-9+/=]{24,}",
    "xox": r"[abeprs]-[\w-]{10,}",
    "xapp-": r"[\w-]{20,}",
    "AIza": r"[\w-]{35}",
    "ya29.": r"[\w-]{20,}",
    "GOCSPX-": r"[\w-]{20,}",
    "npm_": r"[A-Za-z0-9]{36}",
    "pypi-AgE": r"[\w-]{30,}",
    "SG.": r"[\w-]{16,}\.[\w-]{16,}",
    "dop_v1_": r"[0-9a-f]{40,}",
    "dapi": r"[0-9a-f]{32}",
    "hvs.": r"[\w-]{24,}",
    "shpat_": r"[0-9a-fA-F]{32}",
    "r8_": r"[A-Za-z0-9]{36,}",
    "gsk_": r"[A-Za-z0-9]{40,}",
    "pplx-": r"[A-Za-z0-9]{40,}",
    "xai-": r"[A-Za-z0-9]{60,}",
    "nvapi-": r"[\w-]{40,}",
    "wandb_v1_": r"\w{30,}",
    "ATATT3": r"[\w=-]{40,}",
    "AGE-SECRET-KEY-1": r"[0-9A-Z]{50,}",
    "eyJ": r"[\w-]{8,}\.[\w-]{8,}\.[\w-]+",
}
_MIN_SHAPE = 20
# Many begin alike: in long texts one pattern for such is faster than a plain search for each.
_FAMILIES = ("gh", "gl", "sk", "A", "x")
_LONE_STARTS = tuple(start for start in _SHAPES if not start.startswith(_FAMILIES))

_LONG = 8192  # characters for which a pattern may be compiled just to look
_PIECE = 65_536  # characters that are redacted in one go

# Written like a command or a setting: unquoted values count. All else is program text.
_TEXT_SUFFIXES = frozenset((
    "", ".txt", ".json", ".json5", ".jsonc", ".sh", ".bash", ".zsh", ".ksh", ".csh", ".fish",
    ".slurm", ".sbatch", ".pbs", ".lsf", ".sge", ".ps1", ".bat", ".cmd", ".dockerfile", ".args",
    ".xml",
))  # fmt: skip
# One setting a line: the value goes to the line's end.
_LINE_SUFFIXES = frozenset((
    ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".config", ".env", ".properties", ".rc",
))  # fmt: skip

# In a private key's block lines of 40 and more hold it; between two mere mentions there is none.
# Where the end was cut off, all such lines belong to it.
_PRIVATE_KEY = (
    r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)"
    r"((?:[^-]|-(?!----))*+(?=-{5,6}END )|(?:[\s\"'\\,+rn-]{0,20}[A-Za-z0-9+/=]{40,})*+)"
)
_USER_IN_URL = r"""://(?<!(?i:github)://)([^/?#\s"'<>`()\\|\[\]]*)@(?!sha256:)"""
# What gives away the long word that follows, with a part of it to be searched for first.
_AFTER = {
    "hooks.slack": r"(hooks\.slack\.com/services/)",
    "webhooks": r"(/api/webhooks/)",
    "wandb": r"(\bwandb[. ]login[ (]+[\"']?)",
    "sig=": r"([?&](?i:sig)=)",
    "signature=": r"([?&](?i:signature|x-[a-z]+-signature)=)",
}
_LONG_WORD = r"([\w/%+.=-]{20,})"
# Commands that take a password without its name, and a line of .netrc.
_COMMANDS = {
    "curl ": (
        r"(\bcurl [^\n|;]{0,300}?(?<=[ \t])(?:-u|--user)[ \t=]*[\"']?[^\s\"':=]{1,200}:)"
        r"([^\s\"'`,)]+)"
    ),
    "mysql": r"(\bmysql\w* [^\n|;]{0,300}?(?<=[ \t])-p[\"']?)([^\s\"'`,)-][^\s\"'`,)]*)",
    "machine ": (r"(\bmachine[ \t]+\S{1,300}[ \t]+login[ \t]+\S{1,300}[ \t]+password[ \t]+)(\S+)"),
}
_HEADERS = ("authorization", "bearer", "basic")
_HEADER = (
    r"(?i)(authorization\\*[\"']?[ \t]*[:=,][ \t]*[bfru]{0,2}\\*[\"']?"
    r"(?:bearer|basic|token|digest|apikey)[ \t]+|\b(?:bearer|basic)[ \t]+)([\w.~+/=-]+)"
)

# A name's end behind a hint, and what follows where it may be a secret's. The patterns below are
# tried at the names with a hint only, so that others do not swallow what stands after them.
_HINTED = r"(?P<name>[\w.-]++)(?P<sign>\\*[\"']?\]?[ \t]*+(?:[=:]|<-)|[\"'][ \t]*,|[ \t>])?"
_LEAD = (
    r"(?:\b(?:ENV|ARG|setenv|define|env|set -[a-z]+)[ \t]+"
    r"|(?:getenv|setenv|putenv|setdefault|get|pop|set|argument|option)\([ \t]*[\"'])\Z"
)
_LEAD_ENDS = ("ENV", "ARG", "setenv", "define", "env", "(")
_MAX_LEAD = 60
_MAX_BETWEEN = 400  # characters from a name's end until well into its value
_NAME = r"(?P<name>[\w.-]++)"
_RANDOM = r"[\w+/=.~%:-]{16}"  # any value that looks random has so many of these
_QUOTED = (
    r"(?P<prefix>[bfruBFRU]{1,2}(?=[\"']))?(?P<quote>\"\"\"|'''|[\"'])"
    r"(?! ?[,)\]}%]| \+)(?P<quoted>(?:\\.|(?!(?P=quote))[^\\\r\n])++)"
)
_ESCAPED = r"\\+[\"'](?P<escaped>[^\"'\\\r\n]++)"
_BARE = r"(?![{\[(<|>]|![a-z])(?P<bare>(?:[^\s\"',;&\\]|\\(?![nrt\"'\\]))*(?:[^\s\"',;&()\]}>\\]))"
_VALUE = f"(?:{_QUOTED}|{_ESCAPED}|{_BARE})"
# `name = value`, `"name": value`, `["name"] = value`, in Python also `name: str = value`.
_SIGN = r"\\*[\"']?\]?[ \t]*+(?:=>|<-|:=|={1,3}|:(?![:/]))[ \t]*+"
_TYPED = r"[ \t]*+:[ \t]*+[A-Za-z_][\w.\[\]| ]{0,80}=[ \t]*+(?=[bfruBFRU]{0,2}[\"'])"
_ASSIGNED = rf"(?<![\w.-])(?<!/etc/){_NAME}{_SIGN}{_VALUE}"
_ASSIGNED_TYPED = rf"(?<![\w.-]){_NAME}{_TYPED}{_QUOTED}"
# `--name value`, and the commands that set a variable without a sign.
_SPACED = (
    r"(?:(?<![\w.-])(?=-)|\b(?:ENV|ARG|setenv|define|env|set -[a-z]+)[ \t]+)"
    rf"{_NAME}[ \t]++(?!-){_VALUE}"
)
# The same as items of a list, as in a printed `sys.argv`. In programs it may declare an option.
_LISTED = rf"(?<![\w.-])(?=-){_NAME}[\"'],[ \t]*+(?![\"']-){_QUOTED}"
_ELEMENT = r"(?<=<)(?P<name>[\w.-]++)>(?P<bare>[^<>\s][^<>\r\n]*+)(?=</(?P=name)>)"
_IN_CALL = (
    r"(?:getenv|setenv|putenv|setdefault|get|pop|set|argument|option)\("
    rf"[ \t]*[\"']{_NAME}[\"'][ \t]*,(?:[^\n]{{0,200}}?\bdefault[ \t]*=)??[ \t]*(?![\"']-){_QUOTED}"
)
_SETTING = (
    r"(?:[-+ \t]*(?:export[ \t]+)?[\"']?)(?P<name>[\w.-]++)[\"']?[ \t]*[:=][ \t]*"
    r"(?P<value>(?!\*\*\*)[^\s\"'\[{|>&!#=:][^\r\n]*)"
)
_ARGUMENT = r"([-+~]*[\w./@-]+)(=|:\s+)(.*)"


def redact_arguments(arguments: Iterable[str]) -> list[str]:
    """Copy a command line with ``***`` for the values of secret options and in URLs.

    ``--api-key X``, ``--api-key=X``, ``db.password=X`` and ``Authorization: X`` are known by
    the name, and only the value goes, so that a reader sees what to give again.
    """
    redacted = []
    option = ""
    for argument in arguments:
        if option and not _pattern(r"-\w?$|--").match(argument):
            redacted.append(_hide(argument, option, _LIKELY) or _redact_argument(argument))
            option = ""
        else:
            redacted.append(_redact_argument(argument))
            is_option = argument.startswith("-") and "=" not in argument
            option = argument if is_option and is_secret_name(argument) else ""
    return redacted


def redact_params(params: dict[str, Any]) -> dict[str, Any]:
    """Copy params with ``***`` for values under a secret's name and for tokens in any text.

    Under ``password`` and such names everything goes but booleans and None, in lists and
    dictionaries too. Where nothing is hidden ``params`` itself comes back, not a copy. Twenty
    ordinary params cost some 10 µs.
    """
    return _redact_mapping(params, "")


def redact_text(text: str) -> str:
    """Copy free text with ``***`` for users in URLs, named secrets and well-known tokens."""
    return _redact_pieces(to_utf8(text), _redact_assignments)


def redact_source(text: str, suffix: str) -> str:
    """Copy the text of a code or configuration file with ``***`` for its secrets.

    Lines, their ends and their indentation stay, quotes too, so that it parses as before. In
    program text a name hides quoted literals only; ``api_key: abc`` counts where ``suffix`` (as in
    ``.yaml``, with the dot; empty for ``Dockerfile`` and the like) is of a shell script or a
    configuration. A diff of such a file can be given as well.
    """
    redact = _redaction_of(suffix.lower())
    return _redact_pieces(to_utf8(text), functools.partial(_redact_lines, redact=redact))


def is_secret_name(name: str) -> bool:
    """Tell whether an option, variable or key of that name holds a secret."""
    return _sureness(name) > 0


def to_utf8(text: str) -> str:
    r"""Copy ``text`` as UTF-8 can hold it: bytes of no encoding become ``\udcff``, spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# Names and values


@functools.lru_cache(maxsize=4096)
def _sureness(name: str) -> int:
    """Say how sure the name alone is of a secret, from 0."""
    lowered = name.lower()
    for hint in _NAME_HINTS:
        if hint in lowered:
            return _sureness_of(_words(name[-200:]))
    return 0


def _sureness_of(words: list[str]) -> int:
    *_, owner, before, last = ("", "", "", *words)
    if last in _ABOUT:
        return 0
    if any(word.startswith(_SECRET_STARTS) or word.endswith(_SECRET_ENDS) for word in words):
        return _CERTAIN
    if any(pair in _SECRET_PAIRS for pair in itertools.pairwise(words)):
        return _CERTAIN
    if last == "jwt" or (last in ("pass", "pwd") and before in _USERS_PASS):
        return _CERTAIN
    if last not in ("key", "token", "auth", "authorization") or before in _PUBLIC:
        return 0
    # In `hub.token` the word before is the object's, which may be called anything.
    if (owner if before == "." else before) in _GIVES_OUT:
        return _CERTAIN
    return _LIKELY if last != "key" and before in ("", ".") else _POSSIBLE


def _words(name: str) -> list[str]:
    """Split ``HFToken``, ``hf-token`` and ``hf.token`` into small words; a dot is one as well."""
    spaced = []
    for at, char in enumerate(name):
        if char.isupper() and (not name[at - 1].isupper() or name[at + 1 : at + 2].islower()):
            spaced.append(" ")
        spaced.append(" . " if char == "." else char if char.isalpha() else " ")
    return "".join(spaced).lower().split()


def _hide(value: str, name: str, enough: int) -> str | None:
    """Give what to write for a value of that name, or None where it may stay as it is."""
    sureness = _sureness(name)
    if not sureness or _is_placeholder(value, name):
        return None
    return HIDDEN if sureness >= enough or _looks_random(value) else None


def _is_placeholder(value: str, name: str = "") -> bool:
    plain = value.strip().lower()
    letters = "".join(filter(str.isalnum, plain))
    return bool(
        plain in _NO_SECRETS
        or (letters and letters in _NO_SECRETS)
        or letters == "".join(filter(str.isalnum, name.lower()))
        or _FILLERS.issuperset(plain)
        or ("." in plain and _VERSION.issuperset(plain))
        or plain[:1] + plain[-1:] in _BRACKETS
        or plain.startswith(("${", "$(", "your_", "your-", "your ", *_CODE))
        # The name of a variable, to be looked up: OPENAI_API_KEY, $HF_TOKEN, $1
        or (value.strip("$ ").isupper() and "_" in value and is_secret_name(value))
        or (plain[:1] == "$" and (value[1:].isupper() or value[1:].isdigit()))
    )


def _looks_random(value: str) -> bool:
    """Tell whether letters and digits change so often as nobody would name a thing."""
    if len(value) < 16:
        return False
    start = value[:200]
    if not _pattern(r"(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[\w+/=.~%:-]+", "ASCII").fullmatch(
        start
    ):
        return False
    if len(_pattern(r"(?=[a-z][A-Z0-9]|[0-9][A-Za-z]|[A-Z][0-9])").findall(start)) * 4 >= len(
        start
    ):
        return True
    long_words = _pattern(r"[A-Za-z0-9]{12,}").findall(start)
    return any(len(_pattern(r"\d(?=\D)|\D(?=\d)").findall(word)) >= 3 for word in long_words)


# Params


def _redact_mapping(params: dict[str, Any], above: str) -> dict[str, Any]:
    redacted = params
    for name, value in params.items():
        shown = _redact_value(value, f"{above}.{name}" if above else name)
        if shown is not value:
            redacted = redacted if redacted is not params else dict(params)
            redacted[name] = shown
    return redacted


def _redact_value(value: Any, name: str) -> Any:
    sureness = _sureness(name)
    if isinstance(value, str):
        return (sureness and _hide(value, name, _LIKELY)) or _redact_plain(value)
    if isinstance(value, dict):
        return _redact_mapping(value, name if sureness == _CERTAIN else "")
    if isinstance(value, list):
        shown = [_redact_value(item, name) for item in value]
        return shown if any(map(operator.is_not, shown, value)) else value
    is_number = sureness == _CERTAIN and type(value) in (int, float)
    return HIDDEN if is_number else value


def _redact_plain(text: str) -> str:
    """Redact a text and give the very same one back where nothing is hidden."""
    redacted = _redact_pieces(text, _redact_assignments)
    return text if redacted == text else redacted


# Text


def _may_hold_secret(text: str) -> bool:
    """Tell by plain searches, without a pattern, whether it is worth looking closer."""
    if ":" in text or "=" in text or " " in text or "<" in text:
        lowered = text.lower()
        for hint in _TEXT_HINTS:
            if hint in lowered:
                return True
        if "@" in text and "://" in text:
            return True
    return len(text) >= _MIN_SHAPE and any(map(text.__contains__, _SHAPES))


def _redact_pieces(text: str, redact: Callable[[str], str]) -> str:
    """Redact piece by piece; only a private key goes over more than one line."""
    if len(text) < _LONG and not _may_hold_secret(text):
        return text
    if "-----BEGIN " in text:
        text = _pattern(_PRIVATE_KEY).sub(_hide_block, text)
    if len(text) <= _PIECE:
        return redact(_redact_shapes(text))
    redacted = []
    for piece in _pieces(text):
        redacted.append(redact(_redact_shapes(piece)))
        time.sleep(0)  # lets a training loop beside have the interpreter
    return "".join(redacted)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        yield text[start:end]
        start = end


def _redact_shapes(text: str) -> str:
    """Hide what is known by its own form or by a fixed phrase before it."""
    lowered = _lower(text)
    if "://" in text and "@" in text:
        text = _pattern(_USER_IN_URL).sub(_hide_user, text)
    for part, before in _AFTER.items():
        if part in lowered:
            text = _pattern(before + _LONG_WORD).sub(rf"\1{HIDDEN}", text)
    for part, command in _COMMANDS.items():
        if part in text:
            text = _pattern(command).sub(_hide_in_command, text)
    if any(header in lowered for header in _HEADERS):
        starts = [(at, at) for at in _places(_lower(text), _HEADERS)]
        text = _substitute(_HEADER, _hide_header, text, starts)
    if _may_hold_shape(text):
        for start, rest in _SHAPES.items():
            if start in text:
                # The start stands first, so that the pattern looks for it by a plain search.
                plain = start.replace(".", r"\.")
                shape = f"{plain}(?<![A-Za-z0-9]{plain}){rest}"
                text = _pattern(shape).sub(HIDDEN, text)
    return text


def _may_hold_shape(text: str) -> bool:
    if len(text) < _LONG:
        return any(map(text.__contains__, _SHAPES))
    families = map(_family, _FAMILIES)
    return any(map(text.__contains__, _LONE_STARTS)) or any(f.search(text) for f in families)


@functools.cache
def _family(first: str) -> re.Pattern[str]:
    rests = [start[len(first) :] for start in _SHAPES if start.startswith(first)]
    return _pattern(f"{first}(?:{'|'.join(rests)})")


def _places(text: str, words: Iterable[str]) -> list[int]:
    """Find the words by plain searches, which are faster than a pattern for all."""
    places = []
    for word in words:
        at = text.find(word)
        while at >= 0:
            places.append(at)
            at = text.find(word, at + 1)
    return sorted(places)


def _redact_lines(text: str, redact: Callable[[str], str]) -> str:
    """Redact the lines that hold a secret's name before a value."""
    parts: list[str] = []
    done = 0
    for _, start in _hinted(text):
        if start >= done:
            first = text.rfind("\n", done, start) + 1 or done
            line_end = text.find("\n", start) + 1 or len(text)
            parts += (text[done:first], redact(text[first:line_end]))
            done = line_end
    return "".join([*parts, text[done:]]) if parts else text


def _redact_assignments(text: str) -> str:
    """Hide values by their names wherever a text has ``name=value`` or the like."""
    return _redact_named(text, (_ASSIGNED, _SPACED, _LISTED, _IN_CALL, _ELEMENT), _hide_assigned)


def _redact_program(line: str) -> str:
    # `!export TOKEN=...` and `%env TOKEN=...` in a notebook are a shell's.
    if line.lstrip("+- \t")[:1] in ("!", "%"):
        return _redact_assignments(line)
    return _redact_named(line, (_ASSIGNED_TYPED, _ASSIGNED, _SPACED, _IN_CALL), _hide_literal)


def _redact_named(text: str, patterns: Iterable[str], hide: Callable[[re.Match[str]], str]) -> str:
    starts = _hinted(text)
    for pattern in patterns:
        redacted = _substitute(pattern, hide, text, starts)
        if redacted is not text:
            text, starts = redacted, _hinted(redacted)
    return text


def _hinted(text: str) -> list[tuple[int, int]]:
    """Find the names that may have a secret for a value: where each starts, and its lead."""
    names = []
    done = 0
    for at in _places(_lower(text), _NAME_HINTS):
        if at < done:
            continue
        name = _pattern(_HINTED).match(text, at)
        if name and (sign := name["sign"]):
            start = _start_of_name(text, at, done)
            lead = _lead(text, start)
            is_led = sign not in (" ", "\t") or lead < start or text[start] == "-"
            if is_led and _may_be_hidden(text, start, name):
                names.append((lead, start))
        done = name.end("name") if name else done
    return names


def _may_be_hidden(text: str, start: int, hinted: re.Match[str]) -> bool:
    """Tell whether a name is sure enough of a secret for the value that follows it."""
    end = hinted.end("name")
    sureness = _sureness(text[start:end])
    is_option = text[start] == "-" or text[max(start - 1, 0) : start] in ("?", "&")
    if sureness == 0 or sureness == _CERTAIN or (sureness == _LIKELY and is_option):
        return sureness > 0
    # Between `name: ` or `"name", ` and the value a type or other arguments may stand.
    is_far = hinted["sign"].endswith(",") or hinted["sign"].lstrip(" \t") == ":"
    last = end + (_MAX_BETWEEN if is_far else _MAX_LEAD)
    line_end = text.find("\n", end, last)
    return bool(_pattern(_RANDOM).search(text, end, line_end if line_end >= 0 else last))


def _start_of_name(text: str, at: int, least: int) -> int:
    while at > least and (text[at - 1].isalnum() or text[at - 1] in "_.-"):
        at -= 1
    return at


def _lead(text: str, start: int) -> int:
    """Find the command or the call before a name, as `env ` or `getenv("`."""
    before = text[max(start - _MAX_LEAD, 0) : start]
    if before.rstrip(" \t\"'").endswith(_LEAD_ENDS) or "set -" in before:
        lead = _pattern(_LEAD).search(text, start - len(before), start)
        start = lead.start() if lead else start
    return start


def _substitute(
    pattern: str, hide: Callable[[re.Match[str]], str], text: str, starts: list[tuple[int, int]]
) -> str:
    """Do what ``re.sub`` does, but look only at the places given."""
    parts: list[str] = []
    done = 0
    for lead, start in starts:
        match = _pattern(pattern).match(text, lead) if lead >= done else None
        if not match and start >= done and start > lead:
            match = _pattern(pattern).match(text, start)
        if match:
            parts += (text[done : match.start()], hide(match))
            done = match.end()
    return "".join([*parts, text[done:]]) if parts else text


def _lower(text: str) -> str:
    """Give the text in small letters, each at its place: only this letter would become two."""
    return text.replace("\u0130", "i").lower()


def _redact_setting(line: str, hidden: str) -> str:
    setting = _pattern(_SETTING).match(line)
    if setting:
        value = setting["value"].partition(" #")[0].rstrip()
        if _hide(value, setting["name"], _CERTAIN):
            start = setting.start("value")
            line = line[:start] + hidden + line[start + len(value) :]
    return _redact_assignments(line)


def _redaction_of(suffix: str) -> Callable[[str], str]:
    """Choose how a line is read in files of that suffix."""
    if suffix in _LINE_SUFFIXES:
        # A bare *** would be an alias in YAML and a mistake in TOML.
        quotes = '"' if suffix in (".yaml", ".yml", ".toml") else ""
        return functools.partial(_redact_setting, hidden=f"{quotes}{HIDDEN}{quotes}")
    return _redact_assignments if suffix in _TEXT_SUFFIXES else _redact_program


def _redact_argument(argument: str) -> str:
    shown, rest = "", argument
    if "=" not in argument and ":" not in argument:  # spares a short script the patterns
        return redact_text(argument)
    while assignment := _pattern(_ARGUMENT, "DOTALL").fullmatch(rest):  # --header=Authorization: X
        name, sign, rest = assignment.groups()
        shown += name + sign
        if hidden := _hide(rest, name, _LIKELY):
            return to_utf8(shown) + hidden
    return redact_text(argument)


@functools.cache
def _pattern(pattern: str, flag: str = "NOFLAG") -> re.Pattern[str]:
    """Compile when first needed: most runs hold no secret, and none should start slower."""
    import re

    return re.compile(pattern, re.RegexFlag[flag])


# What stands in a match's place


def _hide_block(match: re.Match[str]) -> str:
    begin, body = match.groups()
    if _pattern(r"[A-Za-z0-9+/=]{40}").search(body):
        # Not the n of a line end that is written as \n
        body = _pattern(r"(?<!\\)[A-Za-z0-9/][A-Za-z0-9+/=]*+").sub(HIDDEN, body)
    return begin + body


def _hide_user(match: re.Match[str]) -> str:
    # In https a user alone is a token as well; elsewhere (ssh://git@host) it is only a name.
    credentials = match[1]
    scheme = match.string[max(match.start() - 5, 0) : match.start()].lower()
    user, _, password = credentials.partition(":")
    if password:
        is_secret = not _is_placeholder(password) or _looks_random(user)
    else:
        is_secret = (
            scheme.endswith(("http", "https")) and user != "git" and not _is_placeholder(user)
        )
    return f"://{HIDDEN}@" if is_secret else match[0]


def _hide_in_command(match: re.Match[str]) -> str:
    before, value = match.groups()
    is_variable = value.startswith(("$", "{", "<", "%"))
    return match[0] if is_variable or _is_placeholder(value) else before + HIDDEN


def _hide_header(match: re.Match[str]) -> str:
    before, value = match.groups()
    named = before.lower().startswith("authorization") and not _is_placeholder(value)
    return before + HIDDEN if named or _looks_random(value) else match[0]


def _hide_assigned(match: re.Match[str]) -> str:
    is_likely = _is_in_query(match) or match["name"].startswith("-")
    return _hide_last(match, _LIKELY if is_likely else _CERTAIN)


def _hide_literal(match: re.Match[str]) -> str:
    """Hide a literal of a program; what is bare there is a name, unless it looks random."""
    if _is_in_query(match):
        return _hide_last(match, _LIKELY)
    if match.lastgroup == "bare":
        is_secret = _looks_random(match["bare"]) and _sureness(match["name"]) >= _LIKELY
        return _hide_last(match, _CERTAIN) if is_secret else match[0]
    # In `getpass("Password: ", stream)` the quote ends a literal.
    quote = match["quote"] or ""
    is_open = len(quote) == 1 and not match.string.startswith(quote, match.end())
    return match[0] if is_open or _is_template(match) else _hide_last(match, _CERTAIN)


def _is_in_query(match: re.Match[str]) -> bool:
    return match.string[max(match.start() - 1, 0) : match.start()] in ("?", "&")


def _is_template(match: re.Match[str]) -> bool:
    value = match["quoted"] or ""
    is_formatted = "f" in (match["prefix"] or "").lower() and "{" in value
    return is_formatted or "%s" in value or "{}" in value


def _hide_last(match: re.Match[str], enough: int) -> str:
    """Hide the value, which is the match's last part."""
    part = match.lastgroup or ""
    value, name = match[part], match["name"]
    hidden = _hide(value, name, enough)
    if hidden is None:
        return match[0]
    if part == "bare" and _needs_quotes(match):
        hidden = f'"{HIDDEN}"'
    return match[0][: match.start(part) - match.start()] + hidden


def _needs_quotes(match: re.Match[str]) -> bool:
    """Tell whether a bare *** would be a mistake: in JSON, and in a map within a line of YAML."""
    text, start, end = match.string, match.start(), match.end("name")
    in_map = text[max(start - 2, 0) : start].endswith(("{", ", ")) and text[end] == ":"
    return in_map or text[end] in "\"'"
