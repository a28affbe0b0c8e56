"""Which images are mosaics or blended with another one, and with whom: drawn for a whole epoch at once.

Partners come from the vicinity of an image in the order of the epoch, because those are read about then
anyway: hardly a shard is fetched for a partner alone.

    n images   p partners of an image: three for a mosaic, one for mixup
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.data.augment import AugmentConfig
from qdet.data.image.resize import HW
from qdet.data.image.view import Canvas
from qdet.data.plan import mosaic

VICINITY = 2048
"""Images, with itself in the middle, among which an image's partners are drawn."""
_NUMBERS = 12
"""Random numbers per image: mosaic or not, mixup or not, 2 for the centre, 4 for mixup, one per partner."""


@dataclass(frozen=True)
class Mixtures:
    """Mosaics and blends of n images, in columns."""

    files_hw: Int64[np.ndarray, "n 2"]
    """Sizes of the image files."""
    mosaic: Bool[np.ndarray, " n"]
    mixup: Bool[np.ndarray, " n"]
    partners: Int64[np.ndarray, "n 4"]
    """Rows of the other samples."""
    chance: Float64[np.ndarray, "n 6"]
    """Where the images of a mosaic meet (2); how a partner is blended in (4)."""
    augment: AugmentConfig

    @property
    def sources_hw(self) -> Int64[np.ndarray, "n 2"]:
        """Sizes of what goes an image's way: of its file, or of the mosaic in its place."""
        return np.where(self.mosaic[:, None], 2 * self.augment.mosaic_size, self.files_hw)

    def mosaic_of(self, row: int) -> Canvas | None:
        """The mosaic of an image and three others; None where it is alone."""
        if not self.mosaic[row]:
            return None
        side = self.augment.mosaic_size
        rows = (row, *self.partners[row, :3].tolist())
        meet = mosaic.centre(self.chance[row, :2], side)
        return mosaic.mosaic(rows, self.files_hw[list(rows)], side, meet, self.augment.resize)

    def mixup_of(self, row: int, final_hw: HW) -> Canvas | None:
        """What an image is blended with, if with anything."""
        if not self.mixup[row]:
            return None
        other = int(self.partners[row, 3])
        return mosaic.partner(
            other, self.files_hw[other], final_hw, self.chance[row, 2:], self.augment.resize
        )

    def needed(self, rows: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " m"]:
        """`rows` and, after each, the samples that are part of its image."""
        everything = np.concatenate([rows[:, None], self.partners[rows]], axis=1)
        mosaic, mixup = self.mosaic[rows], self.mixup[rows]
        used = np.stack([np.ones_like(mosaic), mosaic, mosaic, mosaic, mixup], axis=1)
        return everything[used]


def draw_mixtures(
    sizes_hw: Int64[np.ndarray, "n 2"],
    augment: AugmentConfig,
    generator: np.random.Generator,
    *,
    order: Int64[np.ndarray, " n"],
) -> Mixtures:
    """Draw which images are mixed and with whom; `order` is about the order in which images are read."""
    n = len(sizes_hw)
    chance = generator.random((n, _NUMBERS))
    position = np.empty(n, dtype=np.int64)
    position[order] = np.arange(n)
    reach = min(VICINITY, n)
    first = np.clip(position - reach // 2, 0, n - reach)
    return Mixtures(
        files_hw=sizes_hw,
        mosaic=chance[:, 0] < augment.mosaic,
        mixup=chance[:, 1] < augment.mixup,
        partners=order[first[:, None] + (chance[:, 8:] * reach).astype(np.int64)],
        chance=chance[:, 2:8],
        augment=augment,
    )
