"""How large resized images are: the rules of the training code that detectors were published with.

All keep the aspect: the short side becomes `short`, but the long one no more than about `longest`. They round
differently, so that many images of COCO differ by a pixel from rule to rule.

    n images
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

SizesHW = Int64[np.ndarray, "n 2"]
SizeRule = Callable[[SizesHW, Int64[np.ndarray, " n"], int | None], SizesHW]


def detr_sizes(
    sizes_hw: Int64[np.ndarray, "n 2"], short: Int64[np.ndarray, " n"], longest: int | None
) -> Int64[np.ndarray, "n 2"]:
    """Sizes by `get_size_with_aspect_ratio` of DETR's `datasets/transforms.py`.

    The short side is rounded to even where `longest` decides; the long side is cut off.

    Args:
        sizes_hw: Heights and widths in pixels.
        short: Wanted short sides.
        longest: Limit of the long side; None for none.
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


def mmdet_sizes(
    sizes_hw: Int64[np.ndarray, "n 2"], short: Int64[np.ndarray, " n"], longest: int | None
) -> Int64[np.ndarray, "n 2"]:
    """Sizes by `rescale_size` of mmcv 1.3, in which mmdetection's `Resize` keeps the aspect.

    Both sides are multiplied by the largest factor that either limit allows, and rounded half up. As there,
    the larger of the two numbers limits the long side.

    Args:
        sizes_hw: Heights and widths in pixels.
        short: Wanted short sides.
        longest: Limit of the long side; None for none.
    """
    least, most = sizes_hw.min(axis=1), sizes_hw.max(axis=1)
    if longest is None:
        scale = short / least
    else:
        scale = np.minimum(np.maximum(short, longest) / most, np.minimum(short, longest) / least)
    return _round_half_up(sizes_hw * scale[:, None])


def detectron2_sizes(
    sizes_hw: Int64[np.ndarray, "n 2"], short: Int64[np.ndarray, " n"], longest: int | None
) -> Int64[np.ndarray, "n 2"]:
    """Sizes by `ResizeShortestEdge` of detectron2.

    Two factors follow each other: the one that makes the short side `short` and, where the long side is too
    long by then, one that shrinks both; they are rounded half up after both.

    Args:
        sizes_hw: Heights and widths in pixels.
        short: Wanted short sides.
        longest: Limit of the long side; None for none.
    """
    h, w = sizes_hw.T
    scale = short / sizes_hw.min(axis=1)
    new = np.stack([np.where(h < w, short, scale * h), np.where(h < w, scale * w, short)], axis=1)
    if longest is not None:
        most = new.max(axis=1)
        new = np.where((most > longest)[:, None], new * (longest / most)[:, None], new)
    return _round_half_up(new)


def _round_half_up(sides: Float64[np.ndarray, "n 2"]) -> Int64[np.ndarray, "n 2"]:
    """Round as `int(x + 0.5)` does, to a pixel at least."""
    return np.maximum((sides + 0.5).astype(np.int64), 1)
