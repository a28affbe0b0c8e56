"""Literal readings of three data pipelines: an image file and annotations to a normalised, padded tensor.

Each follows its authors' code step by step, with their libraries: Pillow for DETR and detectron2, OpenCV for
mmdetection; box by box and in their order of steps, in which images are mirrored first. What the authors draw
at random is given as `Draw`. Nothing of qdet is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])


@dataclass(frozen=True)
class Draw:
    """One training image's random numbers, all in [0, 1)."""

    flip: float
    size: float
    branch: float
    crop_size: float
    window: tuple[float, float]
    """For the height and the width of the window."""
    corner: tuple[float, float]
    """For its top and its left in the image that is not mirrored."""


@dataclass(frozen=True)
class Seen:
    """What training gets of an image."""

    size_hw: tuple[int, int]
    pixels: np.ndarray
    """Normalised, [3, H, W], zero where it is padded."""
    boxes: np.ndarray
    categories: list[int]


def pick(options: Sequence[int], chance: float) -> int:
    return options[int(chance * len(options))]


def randint(low: int, high: int, chance: float) -> int:
    """An integer from `low` to `high`, both included."""
    return low + int(chance * (high - low + 1))


SIZES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)


def pad(image: np.ndarray, multiple: int) -> np.ndarray:
    h, w = image.shape[:2]
    normal = (image.astype(np.float64) - MEAN) / STD
    padded = np.zeros((3, -(-h // multiple) * multiple, -(-w // multiple) * multiple))
    padded[:, :h, :w] = normal.transpose(2, 0, 1)
    return padded


def window_of(h: int, w: int, draw: Draw, flip: bool) -> tuple[int, int, int, int]:
    """Top, left, height and width; `flip` says that the image has been mirrored already."""
    tall = randint(min(h, 384), min(h, 600), draw.window[0])
    wide = randint(min(w, 384), min(w, 600), draw.window[1])
    top, left = randint(0, h - tall, draw.corner[0]), randint(0, w - wide, draw.corner[1])
    return top, (w - wide - left if flip else left), tall, wide


class Mmdet:
    """mmdetection 2.12: `CocoDataset`, `Resize`, `RandomFlip`, `RandomCrop`, `Normalize`, `Pad`."""

    def keeps(self, info: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> bool:
        return len(annotations) > 0 and min(info["width"], info["height"]) >= 32

    def __call__(
        self, file: Path, info: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], draw: Draw | None
    ) -> Seen:
        boxes, categories = self._objects(info, annotations)
        image = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        if draw is None:
            image, boxes = self._resize(image, boxes, (1333, 800))
            return Seen(
                image.shape[:2], pad(image[..., ::-1], 32), np.array(boxes).reshape(-1, 4), categories
            )
        flip = draw.flip < 0.5
        if flip:
            image = np.flip(image, axis=1)
            boxes = [(image.shape[1] - x2, y1, image.shape[1] - x1, y2) for x1, y1, x2, y2 in boxes]
        if draw.branch < 0.5:
            image, boxes = self._resize(image, boxes, (pick((400, 500, 600), draw.crop_size), 1333))
            top, left, h, w = window_of(*image.shape[:2], draw, flip)
            image = image[top : top + h, left : left + w]
            moved = [
                self._clip((x1 - left, y1 - top, x2 - left, y2 - top), (h, w)) for x1, y1, x2, y2 in boxes
            ]
            valid = [i for i, (x1, y1, x2, y2) in enumerate(moved) if x2 > x1 and y2 > y1]
            boxes, categories = [moved[i] for i in valid], [categories[i] for i in valid]
        image, boxes = self._resize(image, boxes, (pick(SIZES, draw.size), 1333))
        return self._seen(image, boxes, categories)

    def _seen(self, image, boxes, categories):
        pixels = pad(image[..., ::-1], 32)  # from blue, green, red
        return Seen(image.shape[:2], pixels, np.array(boxes).reshape(-1, 4), categories)

    def _objects(self, info, annotations):
        boxes, categories = [], []
        for one in annotations:
            x, y, w, h = one["bbox"]
            across = max(0, min(x + w, info["width"]) - max(x, 0))
            down = max(0, min(y + h, info["height"]) - max(y, 0))
            if across * down == 0 or one["area"] <= 0 or w < 1 or h < 1 or one["iscrowd"]:
                continue
            boxes.append((x, y, x + w, y + h))
            categories.append(one["category_id"])
        return boxes, categories

    def _resize(self, image, boxes, scale):
        h, w = image.shape[:2]
        factor = min(max(scale) / max(h, w), min(scale) / min(h, w))
        new_w, new_h = int(w * float(factor) + 0.5), int(h * float(factor) + 0.5)
        image = cv2.resize(np.ascontiguousarray(image), (new_w, new_h), interpolation=cv2.INTER_LINEAR)
        x, y = new_w / w, new_h / h
        scaled = [(x1 * x, y1 * y, x2 * x, y2 * y) for x1, y1, x2, y2 in boxes]
        return image, [self._clip(box, (new_h, new_w)) for box in scaled]

    def _clip(self, box, size_hw):
        h, w = size_hw
        return tuple(min(max(side, 0), limit) for side, limit in zip(box, (w, h, w, h), strict=True))


class Detectron2:
    """Sparse R-CNN's mapper on detectron2: flip, `ResizeShortestEdge` and `RandomCrop`, then boxes."""

    def keeps(self, info: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> bool:
        return True

    def __call__(
        self, file: Path, info: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], draw: Draw | None
    ) -> Seen:
        image = np.asarray(Image.open(file).convert("RGB"))
        found = [(one["bbox"], one["category_id"]) for one in annotations if not one["iscrowd"]]
        corners = [np.array([[x, y], [x + w, y + h]], dtype=np.float64) for (x, y, w, h), _ in found]
        flip = draw is not None and draw.flip < 0.5
        if flip:
            width = image.shape[1]
            image = image[:, ::-1]
            corners = [np.array([[width - p[1, 0], p[0, 1]], [width - p[0, 0], p[1, 1]]]) for p in corners]
        if draw is not None and draw.branch < 0.5:
            image, corners = self._resize(image, corners, pick((400, 500, 600), draw.crop_size), None)
            top, left, h, w = window_of(*image.shape[:2], draw, flip)
            image = image[top : top + h, left : left + w]
            corners = [p - (left, top) for p in corners]
        size = 800 if draw is None else pick(SIZES, draw.size)
        image, corners = self._resize(image, corners, size, 1333)
        h, w = image.shape[:2]
        boxes = [np.minimum(p.reshape(4).clip(min=0), (w, h, w, h)) for p in corners]
        taken = [i for i, b in enumerate(boxes) if b[2] - b[0] > 1e-5 and b[3] - b[1] > 1e-5]
        kept = np.array([boxes[i] for i in taken]).reshape(-1, 4)
        return Seen((h, w), pad(image, 32), kept, [found[i][1] for i in taken])

    def _resize(self, image, corners, size, longest):
        h, w = image.shape[:2]
        scale = size * 1.0 / min(h, w)
        new_h, new_w = (size, scale * w) if h < w else (scale * h, size)
        if longest is not None and max(new_h, new_w) > longest:
            scale = longest * 1.0 / max(new_h, new_w)
            new_h, new_w = new_h * scale, new_w * scale
        new_h, new_w = int(new_h + 0.5), int(new_w + 0.5)
        image = np.asarray(Image.fromarray(image).resize((new_w, new_h), Image.Resampling.BILINEAR))
        return image, [p * (new_w / w, new_h / h) for p in corners]


class Detr:
    """DETR's `ConvertCocoPolysToMask` and `make_coco_transforms`."""

    def keeps(self, info: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> bool:
        return True

    def __call__(
        self, file: Path, info: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]], draw: Draw | None
    ) -> Seen:
        image = Image.open(file).convert("RGB")
        found = []
        for one in annotations:
            x, y, w, h = one["bbox"]
            box = np.array([x, y, x + w, y + h]).clip(0, [*image.size, *image.size])
            if not one["iscrowd"] and box[3] > box[1] and box[2] > box[0]:
                found.append((box, one["category_id"]))
        flip = draw is not None and draw.flip < 0.5
        if flip:
            width = image.width
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            found = [(np.array([width - b[2], b[1], width - b[0], b[3]]), c) for b, c in found]
        if draw is not None and draw.branch < 0.5:
            image, found = self._resize(image, found, pick((400, 500, 600), draw.crop_size), None)
            top, left, h, w = window_of(image.height, image.width, draw, flip)
            image = image.crop((left, top, left + w, top + h))
            moved = [((b - (left, top, left, top)).clip(0, (w, h, w, h)), c) for b, c in found]
            found = [(b, c) for b, c in moved if b[2] > b[0] and b[3] > b[1]]
        size = 800 if draw is None else pick(SIZES, draw.size)
        image, found = self._resize(image, found, size, 1333)
        boxes = np.array([b for b, _ in found]).reshape(-1, 4)
        return Seen((image.height, image.width), pad(np.asarray(image), 1), boxes, [c for _, c in found])

    def _resize(self, image, found, size, longest):
        w, h = image.size
        if longest is not None:
            least, most = float(min(w, h)), float(max(w, h))
            if most / least * size > longest:
                size = round(longest * least / most)
        if min(w, h) == size:
            new_w, new_h = w, h
        elif w < h:
            new_w, new_h = size, int(size * h / w)
        else:
            new_w, new_h = int(size * w / h), size
        x, y = new_w / w, new_h / h
        resized = image.resize((new_w, new_h), Image.Resampling.BILINEAR)
        return resized, [(box * (x, y, x, y), c) for box, c in found]


READINGS = {"detr": Detr(), "mmdet": Mmdet(), "detectron2": Detectron2()}
