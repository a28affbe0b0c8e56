"""Keep secrets out of what is logged.

A value is masked when its key names a secret, when it is the value of an environment variable whose name
does, or where it has the form of a known token. Passwords and signatures inside URLs are masked in place.
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
    """Whether a setting or environment variable of that name holds a secret, such as `store.api_key`."""
    return _SECRET_NAME.search(key) is not None


def mask(text: str, *, key: str = "") -> str:
    """Replace the secrets in `text` by asterisks; all of it when `key` names a secret."""
    if key and is_secret_name(key) and text not in ("", "None"):
        return MASK
    for pattern, replacement in _IN_URL:
        text = pattern.sub(replacement, text)
    text = _TOKENS.sub(MASK, text)
    for value in _secrets_of_the_environment():
        text = text.replace(value, MASK)
    return text


def _secrets_of_the_environment() -> list[str]:
    # Short values would mask ordinary words.
    found = {value for name, value in os.environ.items() if len(value) >= 8 and is_secret_name(name)}
    return sorted((value for value in found if not value.startswith(("/", "~"))), key=len, reverse=True)
