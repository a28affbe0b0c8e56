"""Names and ids as annotations give them: cleaned or refused once, where a dataset comes in.

Behind this, every name can be printed, drawn, logged and opened, and every id fits 64 bits.
"""

import unicodedata

from qdet.errors import DataError

LARGEST_ID = 2**63 - 1
LONGEST_NAME = 1000
"""Characters of the longest name of a class."""
_SHOWN = 60
_UNPRINTABLE = frozenset(("Cc", "Cs"))
"""Unicode's categories of control characters and of halves of a surrogate pair, which no encoding holds."""


def clean_name(name: object, *, where: str) -> str:
    """Return the name of a class on one line, in characters that can be shown and stored.

    Line breaks and other white space become single blanks. Control characters, which terminals obey, and
    halves of surrogate pairs, which no encoding holds, are escaped: as ESC by a backslash and x1b.

    Raises:
        DataError: It is no text, empty, or too long; the message begins with `where`.
    """
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        raise DataError(f"{where} has a class without a name: {shown(name)}; give it one")
    cleaned = "".join(map(_escape, " ".join(str(name).split())))
    if not cleaned:
        raise DataError(f"{where} has a class with the empty name {shown(name)}; give it one")
    if len(cleaned) > LONGEST_NAME:
        raise DataError(
            f"{where} has a class whose name has {len(cleaned):,} characters, more than {LONGEST_NAME:,}: "
            f"{shown(cleaned)}; shorten it"
        )
    return cleaned


def check_file_name(name: str, *, where: str) -> str:
    """Return the name of a file.

    Raises:
        DataError: No file can have it, or no shard hold it; the message begins with `where`.
    """
    for at, character in enumerate(name):
        if character == "\0" or unicodedata.category(character) == "Cs":
            raise DataError(
                f"{where}: its file_name has the character U+{ord(character):04X} at position {at}, which no "
                f"file's name may have here: {shown(name)}; rename it"
            )
    return name


def check_id(given: int, *, what: str) -> int:
    """Return an id.

    Raises:
        DataError: It has more than 64 bits; the message begins with `what`.
    """
    if not -LARGEST_ID <= given <= LARGEST_ID:
        raise DataError(
            f"{what} {shown(given)} is beyond 2^63 - 1, the largest that fits 64 bits; give it a smaller one"
        )
    return given


def shown(value: object) -> str:
    """Return a value of a file as a message may show it: escaped, and not too long."""
    if isinstance(value, str | bytes):
        value = value[: _SHOWN + 1]  # before repr, which may be ten times as long
    said = ascii(value) if isinstance(value, str) and not value.isprintable() else _repr(value)
    return said if len(said) <= _SHOWN else said[:_SHOWN] + "..."


def _repr(value: object) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits, or nesting
        return f"a very large {type(value).__name__}"


def _escape(character: str) -> str:
    return character if unicodedata.category(character) not in _UNPRINTABLE else ascii(character)[1:-1]
