"""Settings, tags and names as MLflow accepts them: strings of bounded length, the same in every run."""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from qdet.masking import mask

LONGEST_PARAM, LONGEST_TAG, LONGEST_KEY = 6000, 8000, 250  # MLflow's limits


def params(values: Mapping[str, Any]) -> dict[str, str]:
    """Flat settings as strings, without secrets and without memory addresses."""
    return {_key(k): _cut(mask(stable(v), key=k), LONGEST_PARAM) for k, v in values.items()}


def tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Tags as strings, without secrets."""
    return {_key(k): _cut(mask(stable(v), key=k), LONGEST_TAG) for k, v in values.items()}


def metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """Metrics by names that MLflow allows."""
    return {_key(k): float(v) for k, v in values.items()}


def stable(value: Any) -> str:
    """Return a string of a value that is the same in every process."""
    if isinstance(value, str):
        return value
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(stable, value))) + "}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _key(name: str) -> str:
    """Restrict a name to MLflow's letters, digits and `_-.: /`, without paths that leave its folder."""
    safe = re.sub(r"[^\w\-.: /]", "_", name)
    return "/".join(part for part in safe.split("/") if part not in ("", ".", ".."))[:LONGEST_KEY]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."
