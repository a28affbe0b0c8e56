"""Resizing, once for training, evaluation and exported models: the filter that a detector was trained with.

`pillow` is Pillow's bilinear filter, with which DETR and its successors were trained: shrinking averages over
all source pixels. Torch computes the same values from bytes several times as fast (off by one at most,
except for a value in 5,000); where no side shrinks nothing is averaged, and OpenCV, faster still, is
off by at most one as well, by 0.2 of 255 on average. `pillow-exact` leaves that shortcut out and takes Torch
for all sizes.

`opencv` is OpenCV's bilinear filter, the one of mmdetection, which looks at four source pixels even where an
image becomes much smaller. The difference is no detail: 3 of 255 on average at half the size.
"""

from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

HW = tuple[int, int]
Resize = Literal["pillow", "pillow-exact", "opencv"]

cv2.setNumThreads(1)  # readers are the parallelism; a pool of threads under each would fight over the cores


def resize(
    image: UInt8[np.ndarray, "h w 3"],
    size_hw: HW,
    filter: Resize = "pillow",
    *,
    out: UInt8[np.ndarray, "H W 3"] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Resize bilinearly, into `out` where that is given; else an image of that size may come back itself."""
    if image.shape[:2] == size_hw:
        return image if out is None else _copied(image, out)
    grows = image.shape[0] <= size_hw[0] and image.shape[1] <= size_hw[1]
    if filter == "opencv" or (grows and filter == "pillow"):
        return np.asarray(cv2.resize(image, size_hw[::-1], dst=out, interpolation=cv2.INTER_LINEAR))
    import torch  # not above: settings and plans know filters by name alone, and start in a third of the time
    import torch.nn.functional as F

    # A batch of one whose channels lie next to each other: torch has a vectorised kernel for just that.
    planes = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    small = F.interpolate(planes, size=size_hw, mode="bilinear", antialias=True)[0]
    if out is None:
        return np.ascontiguousarray(small.permute(1, 2, 0).numpy())
    torch.from_numpy(out).permute(2, 0, 1).copy_(small)
    return out


def _copied(image: UInt8[np.ndarray, "h w 3"], out: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    np.copyto(out, image)
    return out
