"""Samples of shards to one padded batch."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8

from qdet.data.images import decode
from qdet.data.shards import ShardSet
from qdet.data.transforms import view_boxes, view_image
from qdet.data.views import HW, View
from qdet.errors import DataError
from qdet.types import Batch, Targets


def load_batch(
    shards: ShardSet, rows: Sequence[int], views: Sequence[View], padded_hw: HW, valid: Sequence[bool]
) -> Batch:
    """Read, decode and transform samples straight into a batch of `padded_hw`; padding is zero."""
    images = torch.empty((len(rows), 3, *padded_hw), dtype=torch.uint8)
    planes = images.numpy()
    boxes, labels, original = [], [], []
    for i, (row, view) in enumerate(zip(rows, views, strict=True)):
        image = load_image(shards, row)
        original.append(image.shape[:2])
        _place(view_image(image, view), planes[i])
        found, kinds = _objects(shards, row, view, original[-1])
        boxes.append(found)
        labels.append(kinds)
    return Batch(
        images=images,
        sizes_hw=torch.tensor([view.final_hw for view in views]),
        original_hw=torch.tensor(original),
        image_ids=torch.from_numpy(shards.index.image_id[list(rows)]),
        valid=torch.tensor(valid),
        targets=Targets(
            boxes_xyxy=torch.from_numpy(np.concatenate(boxes).astype(np.float32)),
            labels=torch.from_numpy(np.concatenate(labels)),
            counts=tuple(len(found) for found in boxes),
        ),
    )


def load_image(shards: ShardSet, row: int) -> UInt8[np.ndarray, "h w 3"]:
    """Decode one image; DataError if it is not of the size that the index says."""
    image = decode(shards.read_image(row), name=shards.name_of(row))
    expected = int(shards.index.height[row]), int(shards.index.width[row])
    if image.shape[:2] != expected:
        raise DataError(
            f"{shards.name_of(row)} is {image.shape[1]}x{image.shape[0]} pixels, its index says "
            f"{expected[1]}x{expected[0]}; convert the dataset again"
        )
    return image


def _objects(
    shards: ShardSet, row: int, view: View, original_hw: HW
) -> tuple[Float64[np.ndarray, "m 4"], Int64[np.ndarray, " m"]]:
    """Boxes and labels to train on: no crowds, nothing outside of the view."""
    sample = shards.read_annotation(row)
    boxes = np.array(sample["boxes_xywh"], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    single = np.array(sample["iscrowd"], dtype=np.int64) == 0
    labels = shards.categories.contiguous(sample["category_ids"])[single]
    boxes, kept = view_boxes(boxes[single], view, original_hw)
    return boxes, labels[kept]


def _place(image: UInt8[np.ndarray, "h w 3"], planes: UInt8[np.ndarray, "3 H W"]) -> None:
    """Write the image into the top left corner of three planes and zeros around it."""
    h, w = image.shape[:2]
    if h > planes.shape[1] or w > planes.shape[2]:
        raise ValueError(
            f"an image of {h}x{w} does not fit into a batch of {planes.shape[1]}x{planes.shape[2]}"
        )
    for channel in range(3):
        cv2.extractChannel(image, channel, planes[channel, :h, :w])
    planes[:, h:] = 0
    planes[:, :h, w:] = 0
