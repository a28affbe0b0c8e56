"""Keep secrets out of logs.

A value is masked if its name says that it is secret, beside it in a text or in the environment, or if it
looks like a known kind of token or key. Passwords and signatures inside URLs are masked in place.
"""

import os
import re

MASK = "***"

_SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|secret([._\-]|$|key|id|token)|connection[_.\-]?string"
    r"|(^|[._\-])(pwd|pass|pat|auth|jwt|credentials?|webhook(_url)?|sas)$"
    r"|(^|[._\-])(api|access|private|storage|account|signing|encryption|master|service)[_.\-]?key([_.\-]?id)?$"
    r"|(^|[._\-]|access|auth|api|refresh|bearer|session)token([._\-](id|key|value))?$"
    r"|(^|[._\-])(api|access|private)[_.\-]?key[._\-]value$",
    re.IGNORECASE,
)
_KEY_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*_KEY")
"""Environment variables such as OPENAI_KEY; `sort_key` is no secret."""
_IN_QUERY = frozenset({"key", "sig", "signature", "code"})
"""Names that are secret in a URL's query only, beside those that are everywhere."""
_USER = re.compile(
    r"""(?P<keep>\b[a-z][a-z0-9+.\-]*://[^\s/:@"']*:)(?!\d{1,5}(?:[/?#\s"']|$))[^\s"'<>]+(?=@[\w.\-\[])"""
    r"""|(?P<scheme>\bhttps?://)[^\s/:@"'?#]{8,}(?=@[\w.\-\[])""",
    re.IGNORECASE,
)
_QUERY = re.compile(r"""(?P<keep>[?&;](?P<name>[\w.\-]+)=)[^&;\s#"'<>]+""")
_ASSIGNED = re.compile(
    r"""(?P<keep>(?<!\w)(?P<name>[A-Za-z][\w.\-]*)["']?\s?[:=]\s?["']?)(?P<value>[^\s"',;}\])&]+)"""
)
_FLAG = re.compile(r"""(?P<keep>--(?P<name>[a-z][\w.\-]*)\s+["']?)(?P<value>[^\s"'\-][^\s"']*)""")
_WORDS = frozenset({"pass", "pat", "auth", "sas", "secret", "credential", "credentials", "token"})
"""Names of secrets that are words of a text too; `pass: ...` is prose, `DB_PASS: ...` is not."""
_PLAIN = re.compile(
    r"(None|True|False|null|true|false|str|int|bool|bytes|\*\*\*.*|[$({\[<].*|os\..*|self\..*|=.*)$"
)
"""What stands beside a secret's name in programs and settings, and is no secret."""
_PEM = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(-----END \1-----|\Z)", re.DOTALL)
_TOKENS = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w\-]{16,}|hf_\w{20,}|npm_\w{20,}|pypi-[\w\-]{30,}"
    r"|sk-[\w\-]{20,}|[rs]k_(?:live|test)_\w{16,}|xox[abeprs]-[\w\-]{10,}|xapp-[\w\-]{10,}"
    r"|(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}|AIza[\w\-]{35}|ya29\.[\w\-]{20,}|dop_v1_[0-9a-f]{20,}"
    r"|sq0(?:csp|atp)-[\w\-]{20,}|SG\.[\w\-]{16,}\.[\w\-]{16,}|(?:AC|SK)[0-9a-f]{32}|[0-9a-f]{32}-us\d{1,2}"
    r"|\d{8,10}:[\w\-]{35}|[MNO][\w\-]{23,25}\.[\w\-]{6}\.[\w\-]{27,}"
    r"|eyJ[\w\-]{8,}\.[\w\-]{8,}\.[\w\-]*)"
    r"|(?<=Bearer )[\w\-.~+/=]{8,}|(?<=Basic )[\w+/]{8,}=*|(?<=hooks\.slack\.com/services/)[\w/]+"
    r"|(?<=AccountKey=)[\w+/]{20,}=*|(?<=SharedAccessSignature=)[^\s;]+"
)


def is_secret_name(key: str) -> bool:
    """Return whether a setting or environment variable of this name is a secret, such as `store.api_key`."""
    return _SECRET_NAME.search(key) is not None or _KEY_VARIABLE.fullmatch(key) is not None


def mask(text: str, *, key: str = "") -> str:
    """Return `text` with its secrets replaced by asterisks; all of it if `key` names a secret."""
    if key and is_secret_name(key) and text not in ("", "None"):
        return MASK
    text = _PEM.sub(rf"-----BEGIN \1-----{MASK}", text)
    text = _USER.sub(lambda found: f"{found['keep'] or found['scheme']}{MASK}", text)
    text = _QUERY.sub(_mask_query, text)
    text = _TOKENS.sub(MASK, text)
    text = _FLAG.sub(_mask_named, text)
    text = _ASSIGNED.sub(_mask_named, text)
    for value in _environment_secrets():
        text = text.replace(value, MASK)
    return text


def _mask_query(found: re.Match[str]) -> str:
    name = found["name"]
    words = name.lower().replace("-", "_").split("_")
    secret = is_secret_name(name) or words[-1] in _IN_QUERY or words[-1] in ("token", "credential")
    return f"{found['keep']}{MASK}" if secret else found[0]


def _mask_named(found: re.Match[str]) -> str:
    """Mask `password=x`, `"password": "x"` and `--api-key x`."""
    name, prose = found["name"], found["keep"].rstrip().endswith(":") and found["name"] in _WORDS
    if not is_secret_name(name) or prose or _PLAIN.match(found["value"]):
        return found[0]
    return f"{found['keep']}{MASK}"


def _environment_secrets() -> list[str]:
    # Short values would mask ordinary words.
    found = {value for name, value in os.environ.items() if len(value) >= 8 and is_secret_name(name)}
    return sorted((value for value in found if not value.startswith(("/", "~"))), key=len, reverse=True)
