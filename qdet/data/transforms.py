"""An image and its boxes, taken along the way that its view describes.

Resizing is Pillow's bilinear filter, with which DETR and its successors were trained: shrinking averages over
all source pixels. Torch computes the same values from bytes (off by at most one) 2.7 times as fast; where
both sides grow nothing is averaged, and OpenCV, 7 times as fast, is off by at most one as well.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64, Shaped, UInt8

from qdet.data.views import HW, View

cv2.setNumThreads(1)  # reader threads are the parallelism; a pool under each would fight over the cores


def resize(image: UInt8[np.ndarray, "h w 3"], size_hw: HW) -> UInt8[np.ndarray, "H W 3"]:
    """Resize bilinearly, with antialiasing where a side shrinks."""
    if image.shape[:2] == size_hw:
        return image
    if image.shape[0] <= size_hw[0] and image.shape[1] <= size_hw[1]:
        return np.asarray(cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR))
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    small = F.interpolate(planes, size=size_hw, mode="bilinear", antialias=True)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def view_image(image: UInt8[np.ndarray, "h w 3"], view: View) -> UInt8[np.ndarray, "H W 3"]:
    """Resize, cut out, resize again and mirror."""
    image = resize(image, view.resized_hw)
    if view.window_tlhw is not None:
        top, left, height, width = view.window_tlhw
        image = resize(np.ascontiguousarray(image[top : top + height, left : left + width]), view.final_hw)
    return np.asarray(cv2.flip(image, 1)) if view.flip else image


def view_boxes(
    boxes_xyxy: Float64[np.ndarray, "n 4"], view: View, original_hw: HW
) -> tuple[Float64[np.ndarray, "m 4"], Bool[np.ndarray, " n"]]:
    """Boxes in pixels of the final image, and which of the given ones are left.

    Boxes are clipped to the image, then to the window; what has no area after that is gone.
    """
    boxes, kept = _clipped(boxes_xyxy, original_hw)
    boxes = boxes * _scale(original_hw, view.resized_hw)
    if view.window_tlhw is not None:
        top, left, height, width = view.window_tlhw
        boxes, inside = _clipped(boxes - (left, top, left, top), (height, width))
        kept[kept] = inside
        boxes = boxes * _scale((height, width), view.final_hw)
    if view.flip:
        boxes = np.stack(
            [view.final_hw[1] - boxes[:, 2], boxes[:, 1], view.final_hw[1] - boxes[:, 0], boxes[:, 3]], axis=1
        )
    return boxes, kept


def _clipped(
    boxes_xyxy: Float64[np.ndarray, "n 4"], size_hw: HW
) -> tuple[Float64[np.ndarray, "m 4"], Bool[np.ndarray, " n"]]:
    h, w = size_hw
    boxes = np.clip(boxes_xyxy, 0, (w, h, w, h))
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[kept], kept


def _scale(old_hw: HW, new_hw: HW) -> Shaped[np.ndarray, " 4"]:
    y, x = new_hw[0] / old_hw[0], new_hw[1] / old_hw[1]
    return np.array((x, y, x, y))
