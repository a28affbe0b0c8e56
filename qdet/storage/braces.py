"""Brace patterns as bash expands them: shards-{000..146}.tar, {train,val}/{a..c}.tar, {x,y{1..3}}.

Three departures: braces that do not pair up are an error, as they are a slip in a shard's name; a letter
range that mixes cases skips what ASCII has between Z and a; no range is put together from what inner braces
stand for. A backslash takes the next letter as it is.
"""

import re
import string

LIMIT = 1_000_000
"""Names that a pattern may stand for; more are a slip too, and would fill the memory."""
_DEPTH = 50
_LETTERS = string.ascii_uppercase + string.ascii_lowercase
_NUMBERS = re.compile(r"(-?[0-9]{1,18})\.\.(-?[0-9]{1,18})(?:\.\.-?([0-9]{1,18}))?")
_SPAN = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?([0-9]{1,18}))?")


def expand_braces(pattern: str) -> list[str]:
    """List the names that a pattern stands for, in bash's order.

    Raises:
        ValueError: Its braces do not pair up, or it stands for too many names; the message says which.
    """
    if "{" not in pattern and "}" not in pattern:
        return [_unescape(pattern)]
    return _expand(pattern, depth=0)


def _expand(pattern: str, *, depth: int) -> list[str]:
    """Expand groups side by side, the last one fastest."""
    if depth > _DEPTH:
        raise ValueError(f"its braces are more than {_DEPTH} deep")
    names = [""]
    while pattern:
        literal, inside, pattern = _split_group(pattern)
        choices = [""] if inside is None else _choices(inside, depth=depth)
        _check_count(len(names) * len(choices))
        plain = _unescape(literal)
        names = [name + plain + choice for name in names for choice in choices]
    return names


def _split_group(pattern: str) -> tuple[str, str | None, str]:
    """Split at the first group of braces: what is before it, in it (None: there is none) and after it."""
    depth, start = 0, 0
    for at, letter in _unescaped(pattern):
        if letter == "{":
            start = start if depth else at
            depth += 1
        elif letter == "}":
            depth -= 1
            if depth == 0:
                return pattern[:start], pattern[start + 1 : at], pattern[at + 1 :]
            if depth < 0:
                break
    if depth:
        raise ValueError("its braces do not pair up")
    return pattern, None, ""


def _choices(inside: str, *, depth: int) -> list[str]:
    """List what one group of braces stands for; a group that is no choice keeps its braces."""
    if match := _NUMBERS.fullmatch(inside):
        return _number_range(*match.groups())
    if match := _SPAN.fullmatch(inside):
        return _letter_range(*match.groups())
    parts = _split_commas(inside)
    names = [name for part in parts for name in _expand(part, depth=depth + 1)]
    _check_count(len(names))
    return names if len(parts) > 1 else ["{" + name + "}" for name in names]


def _number_range(first: str, last: str, step: str | None) -> list[str]:
    """Count up or down to `last`; a leading zero in either bound pads all to one width."""
    padded = any(re.match("-?0[0-9]", bound) for bound in (first, last))
    width = max(len(first), len(last)) if padded else 0
    numbers = _between(int(first), int(last), step)
    _check_count(len(numbers))
    return [f"{number:0{width}d}" for number in numbers]


def _letter_range(first: str, last: str, step: str | None) -> list[str]:
    return [_LETTERS[i] for i in _between(_LETTERS.index(first), _LETTERS.index(last), step)]


def _between(first: int, last: int, step: str | None) -> range:
    """Return first, first ± step, ... up to and with `last`."""
    towards = 1 if first <= last else -1
    return range(first, last + towards, towards * (int(step or 1) or 1))


def _split_commas(inside: str) -> list[str]:
    """Split at the commas outside of inner braces."""
    cuts, depth = [-1], 0
    for at, letter in _unescaped(inside):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            cuts.append(at)
    return [inside[a + 1 : b] for a, b in zip(cuts, [*cuts[1:], len(inside)], strict=True)]


def _unescaped(text: str) -> list[tuple[int, str]]:
    """List the braces and commas that no backslash stands before, with their places."""
    found = re.finditer(r"\\.|[{},]", text, flags=re.DOTALL)
    return [(match.start(), match[0]) for match in found if match[0][0] != "\\"]


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _check_count(names: int) -> None:
    if names > LIMIT:
        raise ValueError(f"it stands for more than {LIMIT:,} names")
