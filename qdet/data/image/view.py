"""How one image is seen: the sizes, the window, the other images and the colours that were drawn for it.

hw height and width   tlhw top, left, height and width of a window   tl top and left
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Shaped, UInt8

from qdet.data.image.photometric import Distortion
from qdet.data.image.pipelines import RULES, Pipeline
from qdet.data.image.resize import HW, Resize, resize


@dataclass(frozen=True)
class View:
    """One image's way: resize to `resized_hw`, cut `window_tlhw` out, resize that to `final_hw`, mirror."""

    resized_hw: HW
    window_tlhw: tuple[int, int, int, int] | None
    """In pixels of the resized image; None where nothing is cut."""
    final_hw: HW
    flip: bool
    resize: Resize = "pillow"
    pipeline: Pipeline = field(default="detr", repr=False)
    """Whose rules decide which boxes are left out."""
    mosaic: "Canvas | None" = None
    """What goes the way in place of the image alone."""
    mixup: "Canvas | None" = None
    """What the final image is blended with, half and half."""
    distortion: Distortion | None = None
    """What becomes of the colours in the end."""


@dataclass(frozen=True)
class Piece:
    """A sample of the dataset, seen in its own way, at a place of a larger image."""

    row: int
    view: View
    at_tl: tuple[int, int]


@dataclass(frozen=True)
class Canvas:
    """Several samples on grey."""

    size_hw: HW
    pieces: tuple[Piece, ...]


def view_image(
    image: UInt8[np.ndarray, "h w 3"], view: View, out: UInt8[np.ndarray, "H W 3"] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Resize, cut out, resize again and mirror, into `out` where that is given.

    The image is mirrored before it is resized the last time: the filter is symmetric, and it is smaller then.
    """
    if view.window_tlhw is not None:
        top, left, height, width = view.window_tlhw
        image = resize(image, view.resized_hw, view.resize)[top : top + height, left : left + width]
    if view.flip:
        image = np.asarray(cv2.flip(image, 1))
    return resize(image, view.final_hw, view.resize, out=out)


def view_boxes(
    boxes_xyxy: Float64[np.ndarray, "n 4"], view: View, original_hw: HW
) -> tuple[Float64[np.ndarray, "m 4"], Bool[np.ndarray, " n"]]:
    """Boxes in pixels of the final image, and which of the given ones are left.

    Boxes are clipped to the image, then to the window; what has no area after that is gone, and what is
    smaller than the view's pipeline asks for.
    """
    boxes, kept = clipped(boxes_xyxy, original_hw)
    boxes = boxes * _scale(original_hw, view.resized_hw)
    if view.window_tlhw is not None:
        top, left, height, width = view.window_tlhw
        boxes, inside = clipped(boxes - (left, top, left, top), (height, width))
        kept[kept] = inside
        boxes = boxes * _scale((height, width), view.final_hw)
    if least := RULES[view.pipeline].least_seen:
        large = (boxes[:, 2:] - boxes[:, :2] > least).all(axis=1)
        boxes, kept[kept] = boxes[large], large
    if view.flip:
        boxes = np.stack(
            [view.final_hw[1] - boxes[:, 2], boxes[:, 1], view.final_hw[1] - boxes[:, 0], boxes[:, 3]], axis=1
        )
    return boxes, kept


def clipped(
    boxes_xyxy: Float64[np.ndarray, "n 4"], size_hw: HW
) -> tuple[Float64[np.ndarray, "m 4"], Bool[np.ndarray, " n"]]:
    """Boxes within an image, and which of the given ones have any area in it."""
    h, w = size_hw
    boxes = np.clip(boxes_xyxy, 0, (w, h, w, h))
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[kept], kept


def _scale(old_hw: HW, new_hw: HW) -> Shaped[np.ndarray, " 4"]:
    y, x = new_hw[0] / old_hw[0], new_hw[1] / old_hw[1]
    return np.array((x, y, x, y))
