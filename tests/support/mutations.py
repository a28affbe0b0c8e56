"""Changed JSON, as damage or a stranger leaves it; the same changes for the same random numbers."""

import random
from collections.abc import Iterator
from typing import Any

VALUES = [None, True, -1, 0, 1, 2**70, 1.5, float("nan"), "", "x", "1", [], {}, [[]], {"a": 1}, "x" * 1000]


def mutate(value: Any, rng: random.Random) -> Any:
    """Replace, remove or add something anywhere in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        kind = rng.random()
        if kind < 0.2:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.3:
            return value | {f"{key}x": rng.choice(VALUES)}
        return value | {key: mutate(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        i = rng.randrange(len(value))
        return [*value[:i], mutate(value[i], rng), *value[i + 1 :]]
    if type(value) is int and rng.random() < 0.3:
        return value + rng.choice((-1, 1, 1000))
    return rng.choice(VALUES)


def mutations(value: Any, count: int, *, seed: str) -> Iterator[Any]:
    """Yield `count` changed copies of a JSON value."""
    rng = random.Random(seed)
    for _ in range(count):
        yield mutate(value, rng)
