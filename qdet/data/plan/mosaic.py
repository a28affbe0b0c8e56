"""Images of several samples: the four of a mosaic, and the partner of a mixup, as planned pieces.

Mosaic (YOLOv4, Bochkovskiy et al. 2020, section 3.3), with YOLOX's layout (Ge et al. 2021, section 2.1): four
images, each fitted into a square of side s, meet at a point drawn from the middle half of a canvas of side
2s; what reaches over the edge is cut off. The canvas then goes the way of any image; with `scale_jitter` that
is RTMDet's augmentation (Lyu et al. 2022).

Mixup (Zhang et al., ICLR 2018), for detection as in YOLOX: a second image, fitted into the first, scaled by a
factor between 0.5 and 1.5 and cut off at the edge, is blended with it half and half. Objects of both count in
full. YOLOX pastes a mirrored partner with its filling at the left; here it always lies at the top left.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from qdet.data.augment import AugmentConfig
from qdet.data.image.resize import HW
from qdet.data.image.view import Canvas, Piece, View


def centre(chance: Float64[np.ndarray, " 2"], side: int) -> tuple[int, int]:
    """Row and column of the canvas at which the four images meet."""
    y, x = (side / 2 + chance * side).astype(int)
    return int(y), int(x)


def mosaic(
    rows: tuple[int, ...],
    sizes_hw: Int64[np.ndarray, "4 2"],
    side: int,
    meet: tuple[int, int],
    augment: AugmentConfig,
) -> Canvas:
    """Fit four images around `meet`: at its top left, top right, bottom left and bottom right."""
    pieces = []
    for quadrant, (row, size) in enumerate(zip(rows, sizes_hw.tolist(), strict=True)):
        h, w = fitted(size, (side, side))
        below, right = divmod(quadrant, 2)
        top, height, y = _along(h, meet[0], 2 * side, after=bool(below))
        left, width, x = _along(w, meet[1], 2 * side, after=bool(right))
        view = View((h, w), (top, left, height, width), (height, width), flip=False, **_style(augment))
        pieces.append(Piece(row, view, (y, x)))
    return Canvas((2 * side, 2 * side), tuple(pieces))


def partner(
    row: int,
    size_hw: Int64[np.ndarray, " 2"],
    final_hw: HW,
    chance: Float64[np.ndarray, " 4"],
    augment: AugmentConfig,
) -> Canvas:
    """Fit an image into `final_hw`, scale it, cut off what is too much, mirror it."""
    factor = 0.5 + chance[0]
    h, w = (max(1, int(side * factor)) for side in fitted(size_hw.tolist(), final_hw))
    height, width = min(h, final_hw[0]), min(w, final_hw[1])
    top, left = int(chance[1] * (h - height + 1)), int(chance[2] * (w - width + 1))
    view = View((h, w), (top, left, height, width), (height, width), bool(chance[3] < 0.5), **_style(augment))
    return Canvas(final_hw, (Piece(row, view, (0, 0)),))


def fitted(size_hw: list[int], into_hw: HW) -> HW:
    """Size of an image made as large as it can be within `into_hw`."""
    scale = min(into_hw[0] / size_hw[0], into_hw[1] / size_hw[1])
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def _style(augment: AugmentConfig) -> dict[str, Any]:
    return {"resize": augment.filter, "pipeline": augment.pipeline}


def _along(length: int, centre: int, end: int, *, after: bool) -> tuple[int, int, int]:
    """First pixel kept, pixels kept and place, along one axis, of an image before or after the centre."""
    if after:
        return 0, min(length, end - centre), centre
    kept = min(length, centre)
    return length - kept, kept, centre - kept
