"""JSON from files and servers, which may hold anything: whatever is wrong with it is a ValueError."""

import json
from typing import Any

DEEPEST = 64
"""Levels of lists and objects inside each other. Nothing that is read here has more than ten."""


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: It is none, or nested so deeply that whatever walks through it would fail.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if _count_openings(text) > DEEPEST:
        _check_depth(found)
    return found


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Return what JSON says, values by name.

    Raises:
        ValueError: It says something else.
    """
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError(f"it holds {type(found).__name__}, no values by name")
    return found


_TOO_DEEP = "it is nested too deeply"


def _count_openings(text: str | bytes) -> int:
    return text.count("{") + text.count("[") if isinstance(text, str) else text.count(b"{") + text.count(b"[")


def _check_depth(found: Any) -> None:
    level = [found]
    for _ in range(DEEPEST + 1):
        inside = [value for value in level if isinstance(value, dict | list)]
        if not inside:
            return
        level = [v for value in inside for v in (value.values() if isinstance(value, dict) else value)]
    raise ValueError(_TOO_DEEP)
