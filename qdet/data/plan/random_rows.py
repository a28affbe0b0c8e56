"""Random numbers of any rows, without those of the rows before them.

Philox is a counter: its generator reaches any place of its stream in one step. So the numbers that one long
`Generator.random((n, each))` would draw can be had for some rows alone, bit for bit.

    m rows asked for
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

TOGETHER = 2048
"""Neighbouring rows that are drawn at once."""
_WORDS = 4
"""Numbers that Philox makes at every count."""


def philox(seed: int, epoch: int, *, stream: int) -> np.random.Philox:
    """Return one of the independent streams of an epoch: the same key, another counter.

    0 has the views, 1 the plan, 2 the mixtures, 3 the distortions of colours, 4 the shards read in sequence,
    5 the noise of objects (`qdet.data.denoising`).
    """
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)
    return np.random.Philox(key=key, counter=[0, 0, 0, stream])


@dataclass(frozen=True)
class RandomRows:
    """What `Generator.random((n, each))` would draw from a state of Philox on, row by row."""

    state: Any
    """Where row 0 begins."""
    each: int
    """Numbers of a row."""

    def at(self, rows: Int64[np.ndarray, " m"]) -> Float64[np.ndarray, "m each"]:
        """Return the numbers of some rows, in [0, 1)."""
        drawn = np.empty((len(rows), self.each))
        for _, places in places_by_number(rows // TOGETHER):
            here = rows[places]
            first, last = int(here.min()), int(here.max())
            numbers = self.generator_at(first).random((last + 1 - first, self.each))
            drawn[places] = numbers[here - first]
        return drawn

    def generator_at(self, row: int) -> np.random.Generator:
        """Return the generator as it is when the numbers of all rows before `row` have been drawn."""
        bits = np.random.Philox(key=0)
        bits.state = self.state
        skipped, buffered = row * self.each, _WORDS - self.state["buffer_pos"]
        if skipped > buffered:
            skipped -= buffered
            bits.advance(skipped // _WORDS)  # it drops what is buffered
            skipped %= _WORDS
            state: Any = dict(bits.state)
            for half in ("has_uint32", "uinteger"):  # of which doubles make no use
                state[half] = self.state[half]
            bits.state = state
        generator = np.random.Generator(bits)
        generator.random(skipped)
        return generator


def places_by_number(numbers: Int64[np.ndarray, " m"]) -> Iterator[tuple[int, Int64[np.ndarray, " k"]]]:
    """Yield every distinct number with the places where it stands."""
    if not len(numbers):
        return
    order = np.argsort(numbers, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
        yield int(numbers[places[0]]), places
