"""How each image is seen in an epoch: its size after resizing, the window cut out of it, its final size.

Everything random about an image is drawn here, for many images at once, from generators keyed by
(seed, epoch) whose row is the sample. So an image looks the same on every worker, and its final size is
known before it is read: batches of like sizes can be planned.

    n images   hw height and width   tlhw top, left, height and width of a window
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from qdet.data.augment import AugmentConfig
from qdet.data.image import photometric
from qdet.data.image.pipelines import Pipeline
from qdet.data.image.resize import HW, Resize
from qdet.data.image.view import View
from qdet.data.plan.mixtures import NUMBERS, Mixtures, draw_mixtures
from qdet.data.plan.random_rows import RandomRows, philox
from qdet.data.plan.reading import Reading, SizesByRow


@dataclass(frozen=True)
class Views:
    """The views of n images, in columns."""

    resized_hw: Integer[np.ndarray, "n 2"]
    window_tlhw: Integer[np.ndarray, "n 4"]
    cropped: Bool[np.ndarray, " n"]
    final_hw: Integer[np.ndarray, "n 2"]
    flip: Bool[np.ndarray, " n"]
    resize: Resize = "pillow"
    pipeline: Pipeline = "detr"
    mixtures: Mixtures | None = None
    """Which other images are in an image; None where none ever is."""
    distortion: Float64[np.ndarray, "n chances"] | None = None
    """What distortions of colours are made of; None without."""
    rows: Int64[np.ndarray, " n"] | None = None
    """Rows of the images, in order; None where these are all of a dataset."""

    def of(self, row: int) -> View:
        """The view of one image."""
        at = int(self._places(np.array([row]))[0])
        window = tuple(int(v) for v in self.window_tlhw[at]) if self.cropped[at] else None
        final_hw = _pair(self.final_hw[at])
        mixtures = self.mixtures
        return View(
            resized_hw=_pair(self.resized_hw[at]),
            window_tlhw=window,  # type: ignore[arg-type]
            final_hw=final_hw,
            flip=bool(self.flip[at]),
            resize=self.resize,
            pipeline=self.pipeline,
            mosaic=mixtures.mosaic_of(at, row) if mixtures else None,
            mixup=mixtures.mixup_of(at, final_hw) if mixtures else None,
            distortion=photometric.drawn(self.distortion[at]) if self.distortion is not None else None,
        )

    def rows_in(self, places: Int64[np.ndarray, "*any"]) -> Int64[np.ndarray, "*any"]:
        """Rows of the images in some places."""
        return places if self.rows is None else self.rows[places]

    def compact(self) -> "Views":
        """The same in half the memory."""
        columns = {name: getattr(self, name) for name in ("resized_hw", "window_tlhw", "final_hw")}
        return replace(self, **{name: column.astype(np.int32) for name, column in columns.items()})

    def needed(self, rows: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " m"]:
        """`rows` and, after each, the samples that are part of its image."""
        return rows if self.mixtures is None else self.mixtures.needed(self._places(rows), rows)

    def _places(self, rows: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        """Places of some rows in the columns."""
        return rows if self.rows is None else np.searchsorted(self.rows, rows)


def draw_views(
    sizes_hw: SizesByRow,
    augment: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    rows: Int64[np.ndarray, " m"] | None = None,
    reading: Reading | None = None,
) -> Views:
    """Draw the training views of one epoch (see `qdet.data.augment` for the distribution).

    Args:
        sizes_hw: Heights and widths of all image files.
        augment: The distribution.
        seed: Of the run.
        epoch: From 0.
        rows: Those to draw, in order; by default all.
        reading: When images are read; by default in the order of their rows.
    """
    drawn = np.arange(len(sizes_hw)) if rows is None else rows
    files_hw, mixtures = sizes_hw[drawn], None
    if augment.mosaic or augment.mixup:
        reading = reading or Reading(drawn, lambda positions: positions, len(sizes_hw))
        chance = _chance(drawn, seed, epoch, stream=2, each=NUMBERS)
        mixtures = draw_mixtures(sizes_hw, files_hw, augment, chance, reading)
        files_hw = mixtures.sources_hw
    chance = _chance(drawn, seed, epoch, stream=0, each=8).T
    distortion = None
    if augment.photometric:
        distortion = _chance(drawn, seed, epoch, stream=3, each=photometric.CHANCES)
    draw = _draw_multi_scale if augment.scale_jitter is None else _draw_jittered
    geometry = _styled(draw(files_hw, augment, chance), augment)
    return replace(geometry, mixtures=mixtures, distortion=distortion, rows=rows)


def _chance(
    rows: Int64[np.ndarray, " m"], seed: int, epoch: int, *, stream: int, each: int
) -> Float64[np.ndarray, "m each"]:
    return RandomRows(philox(seed, epoch, stream=stream).state, each).at(rows)


def _draw_multi_scale(
    sizes_hw: Int64[np.ndarray, "n 2"], augment: AugmentConfig, chance: Float64[np.ndarray, "8 n"]
) -> Views:
    """DETR's sizes and windows, by the rules of a pipeline."""
    resized = augment.rules.sizes
    flip = chance[0] < augment.flip
    size = np.array(augment.sizes)[_draw(chance[1], 0, len(augment.sizes) - 1)]
    if not augment.crop:
        return _uncropped(resized(sizes_hw, size, augment.max_size), flip)
    cropped = chance[2] < 0.5
    first = np.array(augment.crop_sizes)[_draw(chance[3], 0, len(augment.crop_sizes) - 1)]
    first_hw = resized(sizes_hw, first, augment.max_size if augment.rules.crop_within_longest else None)
    low, high = augment.crop_range
    sides = np.minimum(first_hw, high)
    window_hw = np.stack([_draw(chance[4 + i], np.minimum(low, sides[:, i]), sides[:, i]) for i in (0, 1)], 1)
    corner = np.stack([_draw(chance[6 + i], 0, first_hw[:, i] - window_hw[:, i]) for i in (0, 1)], 1)
    uncropped_hw = resized(sizes_hw, size, augment.max_size)
    both = cropped[:, None]
    return Views(
        resized_hw=np.where(both, first_hw, uncropped_hw),
        window_tlhw=np.concatenate([corner, window_hw], axis=1),
        cropped=cropped,
        final_hw=np.where(both, resized(window_hw, size, augment.max_size), uncropped_hw),
        flip=flip,
    )


def _draw_jittered(
    sizes_hw: Int64[np.ndarray, "n 2"], augment: AugmentConfig, chance: Float64[np.ndarray, "8 n"]
) -> Views:
    """Large-scale jitter (Ghiasi et al., CVPR 2021, section 3): scale, and cut to a square what exceeds it.

    The authors pad what is smaller to the square. Padding is masked in every detector here, so that batches
    are padded to their largest image instead: same numbers, less work.
    """
    low, high = augment.scale_jitter or (1.0, 1.0)
    longest = augment.jitter_size * (low + (high - low) * chance[1])
    scale = longest / sizes_hw.max(axis=1)
    scaled_hw = np.maximum(np.rint(sizes_hw * scale[:, None]), 1).astype(np.int64)
    window_hw = np.minimum(scaled_hw, augment.jitter_size)
    corner = np.stack([_draw(chance[6 + i], 0, scaled_hw[:, i] - window_hw[:, i]) for i in (0, 1)], 1)
    return Views(
        resized_hw=scaled_hw,
        window_tlhw=np.concatenate([corner, window_hw], axis=1),
        cropped=(window_hw < scaled_hw).any(axis=1),
        final_hw=window_hw,
        flip=chance[0] < augment.flip,
    )


def evaluation_views(sizes_hw: Int64[np.ndarray, "n 2"], augment: AugmentConfig) -> Views:
    """Views without chance: every image at the evaluation size."""
    size = np.full(len(sizes_hw), augment.short_side_of_evaluation)
    final_hw = augment.rules.sizes(sizes_hw, size, augment.max_size)
    return _styled(_uncropped(final_hw, np.zeros(len(sizes_hw), dtype=bool)), augment)


def _styled(views: Views, augment: AugmentConfig) -> Views:
    return replace(views, resize=augment.filter, pipeline=augment.pipeline)


def _uncropped(sizes: Int64[np.ndarray, "n 2"], flip: Bool[np.ndarray, " n"]) -> Views:
    n = len(sizes)
    whole = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
    return Views(resized_hw=sizes, window_tlhw=whole, cropped=np.zeros(n, bool), final_hw=sizes, flip=flip)


def _draw(
    chance: Float64[np.ndarray, " n"], low: int | np.ndarray, high: int | np.ndarray
) -> Int64[np.ndarray, " n"]:
    """Integers from `low` to `high`, both included."""
    return (low + np.floor(chance * (np.asarray(high) - low + 1))).astype(np.int64)


def _pair(hw: Integer[np.ndarray, " 2"]) -> HW:
    return int(hw[0]), int(hw[1])
