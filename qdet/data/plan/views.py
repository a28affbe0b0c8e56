"""How each image is seen in an epoch: its size after resizing, the window cut out of it, its final size.

Everything random about an image is drawn here, in one call for the whole dataset, from generators keyed by
(seed, epoch) whose row is the sample. So an image looks the same on every worker, and its final size is
known before it is read: batches of like sizes can be planned.

    n images   hw height and width   tlhw top, left, height and width of a window
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.data.augment import AugmentConfig
from qdet.data.image import photometric
from qdet.data.image.resize import HW, Resize
from qdet.data.image.view import View
from qdet.data.plan.mixtures import Mixtures, draw_mixtures


@dataclass(frozen=True)
class Views:
    """The views of n images, in columns."""

    resized_hw: Int64[np.ndarray, "n 2"]
    window_tlhw: Int64[np.ndarray, "n 4"]
    cropped: Bool[np.ndarray, " n"]
    final_hw: Int64[np.ndarray, "n 2"]
    flip: Bool[np.ndarray, " n"]
    resize: Resize = "pillow"
    mixtures: Mixtures | None = None
    """Which other images are in an image; None where none ever is."""
    distortion: Float64[np.ndarray, "n chances"] | None = None
    """What distortions of colours are made of; None without."""

    def of(self, row: int) -> View:
        """The view of one image."""
        window = tuple(int(v) for v in self.window_tlhw[row]) if self.cropped[row] else None
        final_hw = _pair(self.final_hw[row])
        mixtures = self.mixtures
        return View(
            resized_hw=_pair(self.resized_hw[row]),
            window_tlhw=window,  # type: ignore[arg-type]
            final_hw=final_hw,
            flip=bool(self.flip[row]),
            resize=self.resize,
            mosaic=mixtures.mosaic_of(row) if mixtures else None,
            mixup=mixtures.mixup_of(row, final_hw) if mixtures else None,
            distortion=photometric.drawn(self.distortion[row]) if self.distortion is not None else None,
        )

    def needed(self, rows: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " m"]:
        """`rows` and, after each, the samples that are part of its image."""
        return rows if self.mixtures is None else self.mixtures.needed(rows)


def draw_views(
    sizes_hw: Int64[np.ndarray, "n 2"],
    augment: AugmentConfig,
    *,
    seed: int,
    epoch: int,
    order: Int64[np.ndarray, " n"] | None = None,
) -> Views:
    """Draw the training views of one epoch (see `qdet.data.augment` for the distribution).

    `order` is about the order in which images are read: what is mixed into an image comes from its vicinity.
    By default that is the order of the rows.
    """
    mixtures = None
    if augment.mosaic or augment.mixup:
        order = np.arange(len(sizes_hw)) if order is None else order
        chance = _generator(seed, epoch, stream=2)
        mixtures = draw_mixtures(sizes_hw, augment, chance, order=order)
        sizes_hw = mixtures.sources_hw
    chance = _generator(seed, epoch, stream=0).random((len(sizes_hw), 8)).T
    distortion = None
    if augment.photometric:
        distortion = _generator(seed, epoch, stream=3).random((len(sizes_hw), photometric.CHANCES))
    draw = _draw_multi_scale if augment.scale_jitter is None else _draw_jittered
    geometry = draw(sizes_hw, augment, chance)
    return replace(geometry, resize=augment.resize, mixtures=mixtures, distortion=distortion)


def _generator(seed: int, epoch: int, *, stream: int) -> np.random.Generator:
    """One of the independent streams of an epoch: the same key, another counter. The plan has stream 1."""
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def _draw_multi_scale(
    sizes_hw: Int64[np.ndarray, "n 2"], augment: AugmentConfig, chance: Float64[np.ndarray, "8 n"]
) -> Views:
    """DETR's sizes and windows."""
    flip = chance[0] < augment.flip
    size = np.array(augment.sizes)[_draw(chance[1], 0, len(augment.sizes) - 1)]
    if not augment.crop:
        return _uncropped(resized(sizes_hw, size, augment.max_size), flip)
    cropped = chance[2] < 0.5
    first = np.array(augment.crop_sizes)[_draw(chance[3], 0, len(augment.crop_sizes) - 1)]
    first_hw = resized(sizes_hw, first, None)  # the authors set no longest side here
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
    views = _uncropped(resized(sizes_hw, size, augment.max_size), np.zeros(len(sizes_hw), dtype=bool))
    return replace(views, resize=augment.resize)


def resized(
    sizes_hw: Int64[np.ndarray, "n 2"], short: Int64[np.ndarray, " n"], longest: int | None
) -> Int64[np.ndarray, "n 2"]:
    """Sizes once the short side is `short` and the long one at most about `longest`.

    The authors' rounding, `get_size_with_aspect_ratio` in DETR's `datasets/transforms.py`: the short side is
    rounded to even where `longest` decides, the long side is cut off.
    """
    least = sizes_hw.min(axis=1).astype(np.float64)
    most = sizes_hw.max(axis=1).astype(np.float64)
    if longest is not None:
        capped = np.rint(longest * least / most).astype(np.int64)
        short = np.where(most / least * short > longest, capped, short)
    h, w = sizes_hw.T
    tall, wide = (short * h / w).astype(np.int64), (short * w / h).astype(np.int64)
    new = np.stack([np.where(w < h, tall, short), np.where(h < w, wide, short)], axis=1)
    return np.maximum(new, 1)


def _uncropped(sizes: Int64[np.ndarray, "n 2"], flip: Bool[np.ndarray, " n"]) -> Views:
    n = len(sizes)
    whole = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
    return Views(resized_hw=sizes, window_tlhw=whole, cropped=np.zeros(n, bool), final_hw=sizes, flip=flip)


def _draw(
    chance: Float64[np.ndarray, " n"], low: int | np.ndarray, high: int | np.ndarray
) -> Int64[np.ndarray, " n"]:
    """Integers from `low` to `high`, both included."""
    return (low + np.floor(chance * (np.asarray(high) - low + 1))).astype(np.int64)


def _pair(hw: Int64[np.ndarray, " 2"]) -> HW:
    return int(hw[0]), int(hw[1])
