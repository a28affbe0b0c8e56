"""Keep secrets out of logs.

A value is masked if its key names a secret, if an environment variable with such a name holds it, or if it
looks like a known kind of token. Passwords and signatures inside URLs are masked in place.
"""

import os
import re

MASK = "***"

_SECRET_NAME = re.compile(
    r"(^|[._\-])(password|passwd|secret|token|api[_\-]?key|access[_\-]?key|private[_\-]?key|credentials?)"
    r"($|[._\-](id|key|value)$)|secret[_\-]access[_\-]key",
    re.IGNORECASE,
)
_IN_URL = (
    (
        re.compile(r"(?P<keep>\b[a-z][a-z0-9+.\-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE),
        rf"\g<keep>{MASK}",
    ),
    (
        re.compile(
            r"(?P<keep>[?&](?:[\w\-]*(?:token|signature|secret|password|credential|api_?key)|sig)=)[^&\s#]+",
            re.IGNORECASE,
        ),
        rf"\g<keep>{MASK}",
    ),
)
_TOKENS = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|hf_\w{20,}|sk-[\w\-]{20,}|xox[abpr]-[\w\-]{10,}|AKIA[0-9A-Z]{16}"
    r"|eyJ[\w\-]{8,}\.[\w\-]{8,}\.[\w\-]{8,})|(?<=Bearer )[\w\-.~+/=]{8,}"
)


def is_secret_name(key: str) -> bool:
    """Return whether a setting or environment variable of this name is a secret, such as `store.api_key`."""
    return _SECRET_NAME.search(key) is not None


def mask(text: str, *, key: str = "") -> str:
    """Return `text` with its secrets replaced by asterisks; all of it if `key` names a secret."""
    if key and is_secret_name(key) and text not in ("", "None"):
        return MASK
    for pattern, replacement in _IN_URL:
        text = pattern.sub(replacement, text)
    text = _TOKENS.sub(MASK, text)
    for value in _environment_secrets():
        text = text.replace(value, MASK)
    return text


def _environment_secrets() -> list[str]:
    # Short values would mask ordinary words.
    found = {value for name, value in os.environ.items() if len(value) >= 8 and is_secret_name(name)}
    return sorted((value for value in found if not value.startswith(("/", "~"))), key=len, reverse=True)
