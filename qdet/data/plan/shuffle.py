"""The order in which an epoch reads its samples: a shuffle of which any stretch can be had alone.

n samples   m positions in the order
"""

import numpy as np
from jaxtyping import Int64

from qdet.data.plan.random_rows import RandomRows, places_by_number

BLOCK = 2048
"""Neighbouring samples of the index, hence of few shards, that are shuffled as one."""
BLOCKS = 8
"""Blocks whose samples are mixed with each other; so much of a dataset is read from at a time."""


class Shuffle:
    """All rows, shuffled within groups of shuffled blocks.

    It holds the order of the blocks; the rows of a group are put in order when they are asked for.
    """

    def __init__(self, samples: int, bits: np.random.Philox) -> None:
        """Shuffle rows 0 to `samples` - 1, taking random numbers from `bits` on."""
        self.samples, blocks = samples, -(-samples // BLOCK)
        self._blocks = np.argsort(np.random.Generator(bits).permutation(blocks))
        lengths = np.where(self._blocks == blocks - 1, samples - (blocks - 1) * BLOCK, BLOCK)
        self._starts = np.concatenate([[0], np.cumsum(lengths)])[:-1:BLOCKS]
        self._keys = RandomRows(bits.state, 1)

    def at(self, positions: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Return the rows at some positions of the order, each from 0 to `samples` - 1."""
        rows = np.empty(len(positions), dtype=np.int64)
        for group, places in places_by_number(np.searchsorted(self._starts, positions, side="right") - 1):
            rows[places] = self._group(group)[positions[places] - self._starts[group]]
        return rows

    def after(self) -> np.random.Generator:
        """Return the generator as it is when the whole order has been drawn."""
        return self._keys.generator_at(self.samples)

    def _group(self, number: int) -> Int64[np.ndarray, " k"]:
        blocks = np.sort(self._blocks[number * BLOCKS : (number + 1) * BLOCKS])
        rows = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        rows = rows[rows < self.samples]
        return rows[np.argsort(self._keys.at(rows)[:, 0], kind="stable")]
