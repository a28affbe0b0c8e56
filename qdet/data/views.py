"""How each image is seen in an epoch: its size after resizing, the window cut out of it, its final size.

Everything random about an image is drawn here, in one call for the whole dataset, from a generator keyed by
(seed, epoch) whose row is the sample. So an image looks the same whoever reads it, and its final size is
known before it is read: batches of like sizes can be planned.

    n images   hw height and width   tlhw top, left, height and width of a window
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from qdet.data.augment import AugmentConfig

HW = tuple[int, int]


@dataclass(frozen=True)
class View:
    """One image's way: resize to `resized_hw`, cut `window_tlhw` out, resize that to `final_hw`, mirror."""

    resized_hw: HW
    window_tlhw: tuple[int, int, int, int] | None
    """In pixels of the resized image; None where nothing is cut."""
    final_hw: HW
    flip: bool


@dataclass(frozen=True)
class Views:
    """The views of n images, in columns."""

    resized_hw: Int64[np.ndarray, "n 2"]
    window_tlhw: Int64[np.ndarray, "n 4"]
    cropped: Bool[np.ndarray, " n"]
    final_hw: Int64[np.ndarray, "n 2"]
    flip: Bool[np.ndarray, " n"]

    def of(self, row: int) -> View:
        """The view of one image."""
        window = tuple(int(v) for v in self.window_tlhw[row]) if self.cropped[row] else None
        return View(
            resized_hw=_pair(self.resized_hw[row]),
            window_tlhw=window,  # type: ignore[arg-type]
            final_hw=_pair(self.final_hw[row]),
            flip=bool(self.flip[row]),
        )


def draw_views(sizes_hw: Int64[np.ndarray, "n 2"], augment: AugmentConfig, *, seed: int, epoch: int) -> Views:
    """Draw the training views of one epoch (see `qdet.data.augment` for the distribution)."""
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)
    chance = np.random.Generator(np.random.Philox(key=key)).random((len(sizes_hw), 8)).T
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


def evaluation_views(sizes_hw: Int64[np.ndarray, "n 2"], augment: AugmentConfig) -> Views:
    """Views without chance: every image at the evaluation size."""
    size = np.full(len(sizes_hw), augment.short_side_of_evaluation)
    return _uncropped(resized(sizes_hw, size, augment.max_size), np.zeros(len(sizes_hw), dtype=bool))


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
