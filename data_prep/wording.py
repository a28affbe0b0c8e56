"""Words of messages: counts with their nouns, names that may be long or hostile, short lists."""

from collections.abc import Sequence

LONGEST = 120
"""Characters of a name that a message shows."""


def plural(count: int, noun: str) -> str:
    """Return a number with its noun: "1 shard", "2,000 boxes"."""
    ending = "" if count == 1 else "es" if noun.endswith(("x", "ss", "ch")) else "s"
    return f"{count:,} {noun}{ending}"


def quote(name: object) -> str:
    """Return a name or value from a file as a message may show it: no control characters, not too long."""
    if isinstance(name, str | bytes):
        name = name[: LONGEST + 1]  # before repr, which may be ten times as long
    elif not isinstance(name, int | float | None):
        return f"a {type(name).__name__}"
    said = repr(name)
    return said if len(said) <= LONGEST else said[:LONGEST] + "..."


def printable(name: str) -> str:
    """Return a name as a terminal may show it: without quotes, control characters escaped."""
    shown = name[:LONGEST]
    return shown if shown.isprintable() else repr(shown)[1:-1]


def shorten(items: Sequence[str], most: int = 5) -> str:
    """Join up to `most` items with commas and say how many more there are."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
