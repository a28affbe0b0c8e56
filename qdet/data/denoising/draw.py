"""The noise of one sample in one epoch: a pure function of seed, epoch and sample.

Numbers come from a counter-based generator in a stream of their own, so that neither rank, position in the
batch nor number of readers changes them.

    r repetitions   n noised objects
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64

from qdet.data.denoising.config import DenoisingConfig
from qdet.types import Noise

NUMBERS = 10
"""Numbers of a row, all of which are drawn whatever becomes of them."""
_STREAM = 5
"""Of the streams of an epoch that `qdet.data.plan.random_rows.philox` lists, the next free one."""
_CHOICE, _NUMBERS = 0, 1


@dataclass(frozen=True)
class SampleNoise:
    """The noise of one image."""

    numbers: Float32[np.ndarray, "r n 10"]
    objects: Int64[np.ndarray, " n"]
    """Places of the noised objects among all of the image, in rising order."""


@dataclass(frozen=True, kw_only=True)
class NoiseSource:
    """Draws the noise of samples in one epoch."""

    config: DenoisingConfig
    seed: int
    epoch: int

    def draw(self, sample: int, objects: int) -> SampleNoise:
        """Draw the noise of a sample with that many objects.

        Args:
            sample: Its row in the dataset, or another number of its own from 0 to 2^64 - 1.
            objects: How many there are in the view of it.
        """
        kept = self.config.kept(objects)
        chosen = np.arange(objects)
        if kept < objects:
            chosen = np.sort(self._generator(sample, _CHOICE).permutation(objects)[:kept])
        rows = self.config.groups_of(kept) * self.config.copies
        numbers = self._generator(sample, _NUMBERS).random((rows, kept, NUMBERS), dtype=np.float32)
        return SampleNoise(numbers, chosen.astype(np.int64))

    def _generator(self, sample: int, use: int) -> np.random.Generator:
        key = np.array([self.seed % 2**64, self.epoch], dtype=np.uint64)
        counter = np.array([0, sample, use, _STREAM], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))


def pack(drawn: Sequence[SampleNoise]) -> Noise:
    """Pack the noise of a batch's images."""
    rows = [noise.numbers.reshape(-1, NUMBERS) for noise in drawn]
    numbers = np.concatenate(rows) if rows else np.empty((0, NUMBERS), dtype=np.float32)
    return Noise(
        torch.from_numpy(numbers),
        tuple(tuple(noise.objects.tolist()) for noise in drawn),
        tuple(len(noise.numbers) for noise in drawn),
    )
