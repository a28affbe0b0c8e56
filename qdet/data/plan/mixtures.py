"""Which images are mosaics or blended with another one, and with whom.

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
from qdet.data.plan.reading import Reading, SizesByRow

VICINITY = 2048
"""Images, with itself in the middle, among which an image's partners are drawn."""
NUMBERS = 12
"""Random numbers per image: mosaic or not, mixup or not, 2 for the centre, 4 for mixup, one per partner."""


@dataclass(frozen=True)
class Mixtures:
    """Mosaics and blends of n images, in columns."""

    sizes_hw: SizesByRow
    """Sizes of all image files of the dataset, by row."""
    files_hw: Int64[np.ndarray, "n 2"]
    """Sizes of the files of these images."""
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

    def mosaic_of(self, place: int, row: int) -> Canvas | None:
        """The mosaic of the image `row` in `place` and three others; None where it is alone."""
        if not self.mosaic[place]:
            return None
        side = self.augment.mosaic_size
        rows = (row, *self.partners[place, :3].tolist())
        meet = mosaic.centre(self.chance[place, :2], side)
        return mosaic.mosaic(rows, self.sizes_hw[np.array(rows)], side, meet, self.augment)

    def mixup_of(self, place: int, final_hw: HW) -> Canvas | None:
        """What the image in `place` is blended with, if with anything."""
        if not self.mixup[place]:
            return None
        other = self.partners[place, 3:]
        return mosaic.partner(
            int(other[0]), self.sizes_hw[other][0], final_hw, self.chance[place, 2:], self.augment
        )

    def needed(
        self, places: Int64[np.ndarray, " b"], rows: Int64[np.ndarray, " b"]
    ) -> Int64[np.ndarray, " m"]:
        """The `rows` in `places` and, after each, the samples that are part of its image."""
        everything = np.concatenate([rows[:, None], self.partners[places]], axis=1)
        mosaic, mixup = self.mosaic[places], self.mixup[places]
        used = np.stack([np.ones_like(mosaic), mosaic, mosaic, mosaic, mixup], axis=1)
        return everything[used]


def draw_mixtures(
    sizes_hw: SizesByRow,
    files_hw: Int64[np.ndarray, "n 2"],
    augment: AugmentConfig,
    chance: Float64[np.ndarray, "n numbers"],
    reading: Reading,
) -> Mixtures:
    """Draw which images are mixed and with whom.

    Args:
        sizes_hw: Sizes of all image files of the dataset, by row.
        files_hw: Sizes of the files of these images.
        augment: How often images are mixed.
        chance: Random numbers of these images.
        reading: When images are read.
    """
    reach = min(VICINITY, reading.samples)
    first = np.clip(reading.positions - reach // 2, 0, reading.samples - reach)
    partners = first[:, None] + (chance[:, 8:] * reach).astype(np.int64)
    return Mixtures(
        sizes_hw=sizes_hw,
        files_hw=files_hw,
        mosaic=chance[:, 0] < augment.mosaic,
        mixup=chance[:, 1] < augment.mixup,
        partners=reading.at(partners.ravel()).reshape(partners.shape),
        chance=chance[:, 2:8],
        augment=augment,
    )
