"""Which extra query holds which noised object: bookkeeping on the host, from counts alone.

B images   P extra queries   m queries that should find an object
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from jaxtyping import Int64

from qdet.data.denoising.config import DenoisingConfig
from qdet.types import Noise


@dataclass(frozen=True)
class Slots:
    """The places of noised objects among the extra queries of a batch."""

    grid: Int64[np.ndarray, "6 B P"]
    """Row of the noise, row of the objects, group, whether filled, negative, counted in classification."""
    pairs: Int64[np.ndarray, "2 m"]
    """Queries of the batch that should find an object, and rows of these objects."""
    groups: tuple[int, ...]
    """Groups of each image."""
    dropped: int
    """Objects without a query."""


def lay_out_slots(config: DenoisingConfig, counts: Sequence[int], noise: Noise) -> Slots:
    """Give every copy of a noised object its slot: repetition by repetition, objects in order.

    With groups by image, every image fills its first slots and hides the others. By batch, all have the
    groups of the fullest image, and slots of missing objects stay empty but visible, as in the authors' code.
    """
    kept = [len(objects) for objects in noise.objects]
    shared = config.grouping == "batch"
    groups = [config.shared_groups(kept)] * len(kept) if shared else [config.groups_of(n) for n in kept]
    widths = [max(kept, default=0)] * len(kept) if shared else kept
    length = max((config.copies * g * w for g, w in zip(groups, widths, strict=True)), default=0)
    grid = np.zeros((6, len(kept), length), dtype=np.int64)
    if not shared:
        grid[2] = -1
    first_row = accumulate((r * n for r, n in zip(noise.repetitions, kept, strict=True)), initial=0)
    first_object = accumulate(counts, initial=0)
    for image, (row, thing) in enumerate(zip(first_row, first_object, strict=True)):
        if image < len(kept):
            _fill(grid[:, image], config, noise.objects[image], groups[image], widths[image], row, thing)
    if shared:
        grid[5] = 1 if config.kind == "contrastive" else grid[3]
    found = np.flatnonzero(grid[3] & ~grid[4])
    pairs = np.stack([found, grid[1].reshape(-1)[found]])
    return Slots(grid, pairs, tuple(groups), sum(counts) - sum(kept))


def _fill(
    grid: Int64[np.ndarray, "6 P"],
    config: DenoisingConfig,
    objects: Sequence[int],
    groups: int,
    width: int,
    first_row: int,
    first_object: int,
) -> None:
    """Write one image's slots."""
    repetition, place = np.divmod(np.arange(config.copies * groups * width), max(width, 1))
    present = place < len(objects)
    slots, repetition_of, place_of = np.flatnonzero(present), repetition[present], place[present]
    grid[2, : len(repetition)] = repetition // config.copies
    grid[0, slots] = first_row + repetition_of * len(objects) + place_of
    grid[1, slots] = first_object + np.asarray(objects, dtype=np.int64)[place_of]
    grid[3, slots] = 1
    grid[4, slots] = repetition_of % config.copies
    grid[5, slots] = 1
